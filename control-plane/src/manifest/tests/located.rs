//! Where faults that were found in the wire form are shown.

use super::*;

const TEXT: &str = r#"backends:
  - name: users
    endpoints: ["http://a", {url: "http://b", weight: 2}]
    health_check: {path: /healthz, interval: 5s, headers: {b: "2", A: "1"}}
    load_balancing: {policy: consistent_hash, hash_on: {header: x}, sticky: {cookie: c, ttl: 1s}}
plugins:
  - name: limit
    type: rate_limit
    config: {some: {key: [1, 2]}}
routes:
  - host: a_b.com
    name: flat
    path: {regex: "("}
    method: GET
    headers: {x-b: one, X-A: {regex: "["}}
    backend: nobody
    timeout: 5s
    plugins: [one, two]
  - name: full
    hosts: [a.com, b.com]
    rules:
      - backend: x
      - matches:
          - path: /a
          - {path: /b, query: {q: {regex: "("}}}
        backend: [{name: y}, {url: "http://"}]
        retry: {attempts: 2, on: [502], backoff: {base: 1ms}}
  - path: /unnamed
    backend: z
"#;

#[test]
fn wire_paths_lead_to_what_the_user_wrote() {
    let parsed = parsed(TEXT);
    let line = |number: u32| TEXT.lines().nth(number as usize - 1).unwrap();
    for (kind, name, field, underlined) in [
        (wire::Kind::Backend, "users", "endpoints[0].url", "\"http://a\""),
        (wire::Kind::Backend, "users", "endpoints[1].url", "\"http://b\""),
        (wire::Kind::Backend, "users", "endpoints[1].weight", "2"),
        (wire::Kind::Backend, "users", "endpoints", "endpoints"),
        (wire::Kind::Backend, "users", "health_check.interval_ms", "5s"),
        (wire::Kind::Backend, "users", "health_check.timeout_ms", "health_check"),
        (wire::Kind::Backend, "users", "health_check.headers[0]", "\"1\""),
        (wire::Kind::Backend, "users", "load_balancing.hash_on.header", "x"),
        (wire::Kind::Backend, "users", "load_balancing.sticky.ttl_ms", "1s"),
        (wire::Kind::Plugin, "limit", "type", "rate_limit"),
        (wire::Kind::Plugin, "limit", "config.some.key[1]", "2"),
        (wire::Kind::Plugin, "limit", "config.some.other", "some"),
        (wire::Kind::Plugin, "limit", "config_json", "config"),
        (wire::Kind::Route, "flat", "hosts[0]", "a_b.com"),
        (wire::Kind::Route, "flat", "rules[0].matches[0].path.regex", "\"(\""),
        (wire::Kind::Route, "flat", "rules[0].matches[0].path", "path"),
        (wire::Kind::Route, "flat", "rules[0].matches[0].methods[0]", "GET"),
        (wire::Kind::Route, "flat", "rules[0].matches[0].headers[0].regex", "\"[\""),
        (wire::Kind::Route, "flat", "rules[0].matches[0].headers[0]", "X-A"),
        (wire::Kind::Route, "flat", "rules[0].matches[0].headers[1].exact", "one"),
        (wire::Kind::Route, "flat", "rules[0].backends[0].name", "nobody"),
        (wire::Kind::Route, "flat", "rules[0].timeouts.total_ms", "5s"),
        (wire::Kind::Route, "flat", "rules[0].plugins[1]", "two"),
        (wire::Kind::Route, "flat", "rules[0].matches[0]", "flat"),
        (wire::Kind::Route, "flat", "", "flat"),
        (wire::Kind::Route, "full", "hosts[1]", "b.com"),
        (wire::Kind::Route, "full", "rules[0].backends[0].name", "x"),
        (wire::Kind::Route, "full", "rules[1].matches[0].path.prefix", "/a"),
        (wire::Kind::Route, "full", "rules[1].matches[1].query[0].regex", "\"(\""),
        (wire::Kind::Route, "full", "rules[1].backends[1].url", "\"http://\""),
        (wire::Kind::Route, "full", "rules[1].backends[0]", "{"),
        (wire::Kind::Route, "full", "rules[1].retry.on_statuses[0]", "502"),
        (wire::Kind::Route, "full", "rules[1].retry.backoff_base_ms", "backoff"),
        (wire::Kind::Route, "full", "rules[9].nonsense", "rules"),
        (wire::Kind::Route, "/unnamed", "rules[0].backends[0].name", "z"),
        (wire::Kind::Route, "/unnamed", "name", "path"),
    ] {
        let mut fault =
            wire::Fault { kind: kind.into(), name: name.into(), field: field.into(), ..wire::Fault::default() };
        parsed.locate(std::slice::from_mut(&mut fault));
        let location = fault.location.expect(field);
        let shown: String =
            line(location.line).chars().skip(location.column as usize - 1).take(location.length as usize).collect();
        assert_eq!(shown, underlined, "{name} {field}");
        assert_eq!(location.source_line, line(location.line));
        assert_eq!(location.file, "routes.yaml");
    }
}

#[test]
fn many_faults_over_several_files_are_each_placed() {
    let files: Vec<String> =
        (0..3).map(|file| (0..50).map(|n| format!("- {{name: r{file}-{n}, backend: b}}\n")).collect()).collect();
    let texts: Vec<String> = files.iter().map(|items| format!("routes:\n{items}")).collect();
    let parsed = parse(documents(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
    let fault = |file: usize, n: usize| wire::Fault {
        kind: wire::Kind::Route.into(),
        name: format!("r{file}-{n}"),
        field: "rules[0].backends[0].name".into(),
        ..wire::Fault::default()
    };
    let mut faults: Vec<_> = (0..50).rev().flat_map(|n| [fault(2, n), fault(0, n), fault(1, n)]).collect();
    faults.push(wire::Fault { name: "unknown".into(), ..wire::Fault::default() });
    parsed.locate(&mut faults);
    assert!(faults.pop().unwrap().location.is_none());
    for fault in faults {
        let (file, n) = fault.name[1..].split_once('-').unwrap();
        let location = fault.location.unwrap();
        assert_eq!(location.line, n.parse::<u32>().unwrap() + 2);
        assert_eq!(location.file, if file == "0" { "routes.yaml".into() } else { format!("more-{file}.yaml") });
        assert_eq!(location.source_line.chars().nth(location.column as usize - 1), Some('b'));
    }
}

#[test]
fn long_and_odd_source_lines_are_cut_and_cleaned() {
    let text =
        format!("routes:\n- {{name: a, backend: b, query: {{\"\u{202e}\": '\t{}'}}, x: y}}\n", "é".repeat(10_000));
    let all = faults(&text);
    let location = all[0].location.clone().unwrap();
    assert_eq!(location.source_line.chars().count(), 200);
    assert!(location.source_line.contains('\u{fffd}') && !location.source_line.contains(['\u{202e}', '\t']));
    assert!(location.column > 10_000);
    assert!(!render(&all, false).contains('^'));
}
