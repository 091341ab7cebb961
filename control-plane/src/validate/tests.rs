use super::*;
use crate::report::render;

fn documents(texts: &[(&str, &str)]) -> Vec<wire::Document> {
    texts.iter().map(|(file, yaml)| wire::Document { file: (*file).into(), yaml: (*yaml).into() }).collect()
}

fn codes(text: &str) -> Vec<String> {
    match check(&documents(&[("a.yaml", text)])) {
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
    let faults = check(&documents(&[("b.yaml", first), ("a.yaml", second)])).expect_err("is faulty");
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
