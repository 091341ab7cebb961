//! What users write, what comes of it, and what they are told.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod located;
mod round_trip;

use rustygate_proto::v1 as wire;
use rustygate_proto::v1::resource::Kind;

use super::*;
use crate::report::render;

/// The example of the design, whole.
pub(super) const EXAMPLE: &str = r#"listeners:                       # optional; default is one plain listener on :8080
  - {name: web, address: "0.0.0.0:8080"}
backends:
  - name: users
    endpoints: [{url: "http://10.0.0.1:8002"}, {url: "http://10.0.0.2:8002", weight: 2}]
    load_balancing: {policy: least_request}
    health_check: {path: /healthz, interval: 5s}
routes:
  - name: users-api
    hosts: [api.example.com]
    path: /api/users             # a prefix, by whole segments; {exact: ...} and {regex: ...} also
    backend: users               # a name, a URL, or a weighted list
    timeout: 5s
    plugins: [login, limit]
  - name: canary
    listeners: [web]             # optional; all listeners without it
    matches:                     # any one of these; inside one, every condition
      - path: {exact: /v2}
        method: GET
        headers: {x-version: two, x-team: {regex: "^(red|blue)$"}}
        query: {debug: "1"}
    backend: [{name: users, weight: 90}, {name: users-v2, weight: 10, plugins: [tag]}]
    timeouts: {connect: 1s, per_try: 2s, total: 5s, idle: 60s}
    retry: {attempts: 2, on: [connect, 502, 503]}
plugins:
  - {name: login, type: jwt, config: {jwks_url: "https://id.example.com/jwks.json", audience: users}}
  - {name: limit, type: rate_limit, config: {requests: 100, per: 1m, key: client_ip}}
"#;

const SHORTEST: &str = r#"routes:
  - path: "/api/test"
    backend: "http://localhost:8001"
  - path: "/api/users"
    backend: "http://localhost:8002"
"#;

pub(super) fn documents(texts: &[&str]) -> Vec<wire::Document> {
    let document = |(index, text): (usize, &&str)| wire::Document {
        file: if index == 0 { "routes.yaml".into() } else { format!("more-{index}.yaml") },
        yaml: (*text).into(),
    };
    texts.iter().enumerate().map(document).collect()
}

pub(super) fn parsed(text: &str) -> Parsed {
    let parsed = parse(documents(&[text]));
    assert!(parsed.faults.is_empty(), "{}", render(&parsed.faults, false));
    parsed
}

pub(super) fn faults(text: &str) -> Vec<wire::Fault> {
    let faults = parse(documents(&[text])).faults;
    assert!(!faults.is_empty(), "should have faults");
    faults
}

/// The report of a file with faults.
fn report(text: &str) -> String {
    render(&faults(text), false)
}

fn route_of(text: &str) -> wire::Route {
    let resources = parsed(text).resources;
    let [wire::Resource { kind: Some(Kind::Route(route)) }] = resources.as_slice() else { panic!("{resources:?}") };
    route.clone()
}

#[test]
fn example_of_the_design_is_all_read() {
    let resources = parsed(EXAMPLE).resources;
    let names: Vec<_> =
        resources.iter().filter_map(wire::Resource::key).map(|(kind, name)| (kind.noun(), name)).collect();
    assert_eq!(
        names,
        [
            ("listener", "web"),
            ("backend", "users"),
            ("route", "users-api"),
            ("route", "canary"),
            ("plugin", "login"),
            ("plugin", "limit")
        ]
    );
    let Some(Kind::Route(canary)) = &resources[3].kind else { panic!() };
    let rule = &canary.rules[0];
    assert_eq!(rule.matches[0].headers[0].name, "x-team");
    assert_eq!(rule.backends[1].plugins, ["tag"]);
    assert_eq!(rule.timeouts.as_ref().and_then(|timeouts| timeouts.idle_ms), Some(60_000));
    assert_eq!(rule.retry.as_ref().map(|retry| retry.on_statuses.clone()), Some(vec![502, 503]));
    let Some(Kind::Plugin(limit)) = &resources[5].kind else { panic!() };
    assert_eq!(limit.config_json, r#"{"key":"client_ip","per":"1m","requests":100}"#);
    insta::assert_snapshot!(to_yaml(&resources));
}

#[test]
fn another_yaml_library_reads_the_example_and_what_is_written_alike() {
    let canonical: serde_yaml::Value = serde_yaml::from_str(&to_yaml(&parsed(EXAMPLE).resources)).unwrap();
    let again = serde_yaml::to_string(&canonical).unwrap();
    assert_eq!(parsed(&again).resources.len(), 6);
    assert_eq!(to_yaml(&parsed(&again).resources), to_yaml(&parsed(EXAMPLE).resources));
}

#[test]
fn shortest_file_names_its_routes_by_their_paths() {
    insta::assert_snapshot!(to_yaml(&parsed(SHORTEST).resources), @r#"
    routes:
      - name: /api/test
        path: /api/test
        backend: "http://localhost:8001"
      - name: /api/users
        path: /api/users
        backend: "http://localhost:8002"
    "#);
}

#[test]
fn order_of_a_file_changes_no_name() {
    let swapped = SHORTEST.replace("test", "x").replace("users", "test").replace("/api/x", "/api/users");
    let mut names: Vec<_> = parsed(&swapped).resources.iter().map(|one| one.key().unwrap().1.to_owned()).collect();
    names.sort();
    assert_eq!(names, ["/api/test", "/api/users"]);
}

#[test]
fn two_ways_to_say_one_thing_are_one_thing() {
    for (one, other) in [
        ("host: a.com, backend: b", "hosts: [a.com], backend: [b]"),
        ("path: /a, backend: b", "path: {prefix: /a}, backend: {name: b}"),
        ("path: /a, method: GET, backend: b", "matches: [{path: /a, method: [GET]}], backend: b"),
        ("path: /a, backend: b, timeout: 60s", "rules: [{matches: [{path: /a}], backend: b, timeouts: {total: 1m}}]"),
        ("backend: b, headers: {X-A: \"1\", b: x}", "backend: b, headers: {b: {exact: x}, x-a: \"1\"}"),
        ("backend: b, query: {b: x, a: y}", "backend: b, query: {a: y, b: x}"),
        ("backend: b, timeouts: {}", "backend: b"),
        ("backend: b, retry: {}", "backend: b"),
        ("backend: b, sticky_split: {header: X-User}", "backend: b, sticky_split: {header: x-user}"),
        ("backend: b, retry: {attempts: 1, on: [503, 502, 503]}", "backend: b, retry: {attempts: 1, on: [502, 503]}"),
        ("backend: \"http://b\"", "backend: {url: \"http://b\"}"),
    ] {
        let name = |fields: &str| route_of(&format!("routes: [{{name: r, {fields}}}]"));
        let unnamed = |fields: &str| route_of(&format!("routes: [{{{fields}}}]"));
        assert_eq!(name(one), name(other), "{one}");
        assert_eq!(unnamed(one), unnamed(other), "{one}");
    }
}

#[test]
fn a_whole_http_route_can_be_said() {
    let route = route_of(
        r#"
routes:
  - name: store
    hosts: [store.example.com, "*.store.example.com"]
    rules:
      - matches:
          - {path: /cart, method: [GET, POST]}
          - {path: {regex: "/c[a-z]+"}, query: {beta: {regex: "1|true"}}}
        backend: [{name: cart, weight: 1}, {name: cart-next, weight: 0, plugins: [tag]}]
        plugins: [login]
      - backend: {url: "http://10.0.0.9", weight: 1}
        strip_prefix: false
"#,
    );
    assert_eq!(route.rules.len(), 2);
    assert_eq!(route.rules[0].matches.len(), 2);
    assert_eq!(route.rules[0].backends[1].weight, Some(0));
    assert_eq!(route.rules[1].strip_prefix, Some(false));
    assert!(route.rules[1].matches.is_empty());
}

#[test]
fn documents_and_files_are_one_input() {
    let files = documents(&[
        "\u{feff}routes:\n- {path: /a, backend: b}\n---\nroutes:\n- {path: /b, backend: b}\n---\n",
        "backends: []",
    ]);
    assert_eq!(parse(files.clone()).resources.len(), 2);
    assert!(parse(documents(&["routes: []"])).resources.is_empty());
}

#[test]
fn anchors_work_within_and_between_items() {
    let resources = parsed(
        "routes:\n- {name: a, backend: b, timeouts: &slow {total: 1m}}\n- {name: c, backend: b, timeouts: *slow}\n",
    );
    let totals: Vec<_> = resources
        .resources
        .iter()
        .map(|one| match &one.kind {
            Some(Kind::Route(route)) => route.rules[0].timeouts.as_ref().and_then(|timeouts| timeouts.total_ms),
            _ => None,
        })
        .collect();
    assert_eq!(totals, [Some(60_000), Some(60_000)]);
}

#[test]
fn words_that_older_yaml_takes_for_booleans_are_strings() {
    let route = route_of("routes:\n- {name: on, backend: yes, query: {a: off, b: 007, c: 1:30, no: no}}\n");
    assert_eq!(route.name, "on");
    let values: Vec<_> = route.rules[0].matches[0].query.iter().map(|one| one.kind.clone().unwrap()).collect();
    assert_eq!(values, ["off", "007", "1:30", "no"].map(|text| wire::value_match::Kind::Exact(text.into())));
}

#[test]
fn every_fault_is_in_one_report() {
    insta::assert_snapshot!(report(
        r#"listeners:
  - {name: web, adress: "0.0.0.0:80"}
backends:
  - name: users
    endpoints: []
    load_balancing: {policy: least_requests}
    health_check: {path: /healthz, interval: 5}
  - name: users
    endpoints: [{url: "http://10.0.0.2", weight: -1}]
    endpoints: []
routes:
  - name: api
    path: /api
    path: /v2
    backnd: users
    timeout: 5 seconds
  - host: a.com
    hosts: [b.com]
    method: get
    query: {debug: 1}
    backend: [{weight: 3}, ""]
    retry: {attempts: 11, on: [conect, 302]}
    timeouts: {total: 5s}
    timeout: 5s
  - path: /x
    matches: [{path: {exact: /y, regex: /z}}]
    backend: b
    strip_prefix: yes
    headers: {"a b": c}
  - 17
  - {path: /same, backend: b}
  - {path: /same, backend: c}
plugin: []
plugins:
  - {name: p, type: jwt, config: {a: {b: !!binary aGk=}, c: .nan}}
  - {name: "p q", config: [], <<: {}}
"#
    ));
}

#[test]
fn a_merge_key_is_one_fault() {
    for yaml in [
        "routes:\n- &a {name: a, path: /a, backend: \"http://a\"}\n- {<<: *a, name: b, path: /b}\n",
        "plugins:\n- {name: a, <<: {type: respond}, <<: {config: {}}}\n",
    ] {
        let document = wire::Document { file: "f".into(), yaml: yaml.into() };
        let faults = parse(vec![document]).faults;
        let codes: Vec<_> = faults.iter().map(|fault| fault.code.as_str()).collect();
        assert!(!codes.is_empty() && codes.iter().all(|code| *code == "RG0109"), "{yaml}: {faults:?}");
    }
}

#[test]
fn faults_say_whose_and_where_they_are() {
    let all = faults("routes:\n- name: a\n  matches:\n  - headers: {x: {regexp: b}}\n  backend: b\n");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].kind(), all[0].name.as_str()), (wire::Kind::Route, "a"));
    assert_eq!(all[0].field, "matches[0].headers.x.regexp");
    let location = all[0].location.clone().unwrap();
    assert_eq!((location.line, location.column, location.length), (4, 19, 6));
}

#[test]
fn faults_of_the_yaml_itself_say_whose_they_are() {
    let all = faults(
        "routes:\n- {name: a, backend: b, query: {x: y, x: z}}\n- {path: /a, backend: !b c}\n- {path: /a, backend: b}\n",
    );
    let whose: Vec<_> =
        all.iter().map(|fault| (fault.code.as_str(), fault.name.as_str(), fault.field.as_str())).collect();
    assert_eq!(whose, [("RG0105", "a", ""), ("RG0109", "", "backend")]);
}

#[test]
fn syntax_and_shape_faults_point_at_the_text() {
    let mut all = String::new();
    for text in [
        "",
        "# nothing\n",
        "- a\n",
        "routes:\n",
        "routes: {}\n",
        "routes: x\n",
        "routes: [\n",
        "routes:\n\t- path: /a\n",
        "routes:\n  - path: \"/a\n",
        "routes: []\nroutes: []\n",
        "apiVersion: v1\nkind: Route\n",
        "routes: [*a]\n",
        "routes: [{? [a] : b, backend: c}]\n",
        "routes:\n- name:\n  backend: b\n",
        "routes:\n- backend: b\u{0}\n",
        "%YAML 9.9\n---\nroutes: []\n",
    ] {
        all += &match parse(documents(&[text])).faults {
            faults if faults.is_empty() => format!("{text:?} is fine\n\n"),
            faults => render(&faults, false).replace("1 fault\n", ""),
        };
    }
    insta::assert_snapshot!(all);
}

#[test]
fn faults_of_several_files_name_the_file() {
    let files = documents(&["routes:\n- {name: a, backend: b}\n", "", "routes:\n- {name: a, backend: c}\n"]);
    insta::assert_snapshot!(render(&parse(files.clone()).faults, false));
}

#[test]
fn faults_are_bounded() {
    let text = format!("routes:\n{}", "- {bakend: b}\n".repeat(500));
    let all = faults(&text);
    assert_eq!(all.len(), FAULTS_MAX + 1);
    assert!(all[FAULTS_MAX].message.contains("more than 100 faults"));
    let text = format!("routes:\n- {{{}}}\n", "a: 1, ".repeat(10_000));
    assert_eq!(faults(&text).len(), FAULTS_MAX + 1);
    let text = format!("routes:\n{}", "- {bakend: b}\n".repeat(FAULTS_MAX));
    assert_eq!(faults(&text).len(), FAULTS_MAX);
}
