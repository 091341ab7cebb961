use super::*;
use crate::report::render;

fn documents(texts: &[(&str, &str)]) -> Vec<wire::Document> {
    texts.iter().map(|(file, yaml)| wire::Document { file: (*file).into(), yaml: (*yaml).into() }).collect()
}

fn codes(text: &str) -> Vec<String> {
    match check(documents(&[("a.yaml", text)]), Vec::new()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|fault| fault.code).collect(),
    }
}

#[test]
fn one_report_holds_every_fault_of_every_file_in_their_order() {
    let first = r#"
backends:
  - name: users
    endpoints: [{url: "http://10.0.0.1:8002", wieght: 2}]
  - name: orders
    endpoints: [{url: "ftp://10.0.0.1"}]
routes:
  - name: users
    path: /users
    backend: users
    timeout: soon
  - name: orders
    path: /orders
    backend: [{name: orders, weight: 1}, {name: order, weight: 1}]
  - name: regex
    path: {regex: "/a("}
    backend: orders
    plugins: [limit]
"#;
    let second = r#"
routes:
  - {name: again, path: /orders, backend: orders}
  - {name: regex, path: /x, backend: orders}
"#;
    let faults = check(documents(&[("b.yaml", first), ("a.yaml", second)]), Vec::new()).expect_err("is faulty");
    insta::assert_snapshot!(render(&faults, false));
}

#[test]
fn nothing_is_blamed_for_using_what_is_at_fault() {
    let broken = r#"
listeners: [{name: web, address: 80}]
backends: [{name: b, endpoints: [{url: "http://a", weight: -1}]}]
plugins: [{name: p, type: respond, config: 7}]
routes: [{name: r, listeners: [web], path: /, backend: b, plugins: [p]}]
"#;
    assert!(!codes(broken).iter().any(|code| code == fault::DANGLING), "{:?}", codes(broken));
}

#[test]
fn what_could_not_be_read_may_define_anything() {
    let route = "routes: [{name: r, path: {regex: \"/a(\"}, backend: b}]\n";
    for (what, text) in [
        ("an unknown section", format!("backend: [{{name: b}}]\n{route}")),
        ("a name that cannot be read", format!("backends: [{{name: [b], endpoints: []}}]\n{route}")),
        ("a name that is not there", format!("backends: [{{nmae: b, endpoints: []}}]\n{route}")),
        ("text that ends in the middle", format!("{route}backends: [{{name: b")),
    ] {
        let codes = codes(&text);
        assert!(!codes.iter().any(|code| code == fault::DANGLING), "{what}: {codes:?}");
        assert!(codes.iter().any(|code| code == fault::BAD_REGEX), "{what}: {codes:?}");
    }
    assert_eq!(codes("routes: [{name: r, path: /, backend: b}]"), [fault::DANGLING]);
}

#[test]
fn two_that_are_broken_and_two_of_one_name_are_told_once() {
    let text = r#"
routes:
  - {name: a, path: /a, backend: "http://h", timeout: x}
  - {name: a, path: /b, backend: "http://h"}
  - {name: c, path: /c, backend: "http://h"}
  - {name: c, path: /c, backend: "http://h"}
"#;
    assert_eq!(codes(text), ["RG0107", "RG0106", "RG0106"]);
}

/// What a report names as allowed is allowed, and nothing beyond it.
#[test]
fn the_bound_that_a_fault_names_is_the_one_that_holds() {
    let backend = |weight: &str, threshold: &str| {
        format!(
            "backends:\n- name: b\n  endpoints: [{{url: \"http://a\", weight: {weight}}}]\n  health_check: {{path: /, \
             healthy_threshold: {threshold}}}\n"
        )
    };
    let route = |attempts: &str, timeout: &str| {
        format!("routes:\n- {{backend: \"http://a\", retry: {{attempts: {attempts}}}, timeout: {timeout}}}\n")
    };
    let message = |yaml: String| {
        let document = wire::Document { file: "f".to_owned(), yaml };
        let faults = check(vec![document], Vec::new()).expect_err("a fault");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].location.is_some(), "{faults:?}");
        faults[0].message.clone()
    };
    for yaml in [backend("1000", "10"), backend("0", "1"), route("10", "1h"), route("0", "1ms")] {
        assert!(check(vec![wire::Document { file: "f".to_owned(), yaml: yaml.clone() }], Vec::new()).is_ok(), "{yaml}");
    }
    for weight in ["-1", "1001", "1000001", "99999999999999999999"] {
        assert_eq!(message(backend(weight, "1")), "expected an integer from 0 to 1000");
    }
    for threshold in ["0", "11", "1001"] {
        assert_eq!(message(backend("1", threshold)), "expected an integer from 1 to 10");
    }
    for attempts in ["-1", "11", "101"] {
        assert_eq!(message(route(attempts, "1s")), "expected an integer from 0 to 10");
    }
    for timeout in ["0s", "2h", "90m", "10000h"] {
        let shown = if timeout == "0s" { "0ms" } else { timeout };
        assert_eq!(message(route("1", timeout)), format!("{shown} is not within 1ms to 1h"));
    }
}

#[test]
fn regexes_that_take_long_to_refuse_are_not_tried_without_end() {
    let regexes =
        (0..2_000).map(|n| format!("- {{path: {{regex: '/{n}/(\\w{{100}}){{100}}'}}, backend: \"http://a\"}}\n"));
    let yaml = format!("routes:\n{}", regexes.collect::<String>());
    let faults = check(vec![wire::Document { file: "f".to_owned(), yaml }], Vec::new()).expect_err("faults");
    assert_eq!(faults.len(), 20);
    let told = faults.iter().filter(|fault| fault.hint == "regexes after this one were not looked at");
    assert_eq!(told.count(), 1);
    assert!(faults.iter().all(|fault| fault.message.len() < 200), "{}", faults[0].message);
}

#[test]
fn plugins_of_every_place_are_checked_with_line_column_and_a_suggestion() {
    let text = r#"
defaults: {plugins: [tga]}
listeners:
  - {name: web, address: ":8080", plugins: [tag, tag2]}
backends:
  - {name: b, endpoints: ["http://a"], plugins: [taag]}
plugins:
  - {name: tag, type: headers, enabled: "no"}
  - {name: tag2, type: haeders}
  - name: tag3
    type: headers
    config:
      request:
        st: {x: y}
        set:
          connection: close
routes:
  - {name: r, path: /, backend: b, plugins: [tag3, tag4]}
"#;
    let faults = check(documents(&[("a.yaml", text)]), Vec::new()).expect_err("is faulty");
    insta::assert_snapshot!(render(&faults, false));
}

#[test]
fn defaults_are_one_mapping() {
    assert!(codes("defaults: {}\nroutes: []\n").is_empty());
    assert_eq!(codes("defaults: []\n"), [crate::codes::WRONG_TYPE]);
    assert_eq!(codes("defaults: {plugin: []}\n"), [crate::codes::UNKNOWN_FIELD]);
    let twice = documents(&[("a.yaml", "defaults: {plugins: []}\n"), ("b.yaml", "defaults: {plugins: []}\n")]);
    let faults = check(twice, Vec::new()).expect_err("is faulty");
    assert_eq!(faults[0].message, "there are defaults already: the first are in \"a.yaml\", line 1");
    assert_eq!((faults.len(), faults[0].location.as_ref().map(|at| at.file.as_str())), (1, Some("b.yaml")));
}
