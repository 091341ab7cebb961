use super::*;

fn compile(kind: &str, config: &str) -> Result<Plugin, Vec<wire::Fault>> {
    Plugin::compile(&wire::Plugin { name: "p".to_owned(), r#type: kind.to_owned(), config_json: config.to_owned() })
}

fn fields_at_fault(kind: &str, config: &str) -> Vec<String> {
    let faults = compile(kind, config).expect_err(config);
    assert!(faults.iter().all(|fault| fault.code == fault::BAD_PLUGIN_CONFIG && fault.name == "p"), "{faults:?}");
    faults.into_iter().map(|fault| fault.field).collect()
}

fn lines(fields: &Fields) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
}

#[test]
fn headers_are_removed_set_and_added_on_their_side_only() {
    let config = r#"{"request": {"set": {"x-a": "1"}, "add": {"x-b": "2"}, "remove": ["X-C"]},
        "response": {"set": {"cache-control": "no-store"}}}"#;
    let plugin = compile("headers", config).expect("valid");
    let mut fields = Fields::new();
    for (name, value) in [("X-A", "old"), ("x-b", "1"), ("x-c", "gone"), ("x-a", "older")] {
        fields.append(name, value.as_bytes());
    }
    assert!(matches!(plugin.on_request(&mut fields), Flow::Continue));
    assert_eq!(lines(&fields), ["x-b: 1", "x-a: 1", "x-b: 2"]);
    let mut fields = Fields::new();
    plugin.on_response(&mut fields);
    assert_eq!(lines(&fields), ["cache-control: no-store"]);
}

#[test]
fn headers_of_the_gateway_are_refused() {
    for name in ["Host", "connection", "Transfer-Encoding", "content_length", "X-RustyGate-Backend", "x_rustygate-x"] {
        let set = format!(r#"{{"request": {{"set": {{"{name}": "1"}}}}}}"#);
        assert_eq!(fields_at_fault("headers", &set), [format!("config.request.set.{name}")]);
        let remove = format!(r#"{{"response": {{"remove": ["ok", "{name}"]}}}}"#);
        assert_eq!(fields_at_fault("headers", &remove), ["config.response.remove[1]"]);
    }
}

#[test]
fn every_mistake_of_a_configuration_is_told_with_its_place() {
    let config = r#"{"request": {"sett": {}, "add": {"a b": "1", "x": 1, "y": "a\r\nb: c"}, "remove": {}}, "z": 1}"#;
    assert_eq!(
        fields_at_fault("headers", config),
        [
            "config.z",
            "config.request.sett",
            "config.request.remove",
            "config.request.add.a b",
            "config.request.add.x",
            "config.request.add.y"
        ]
    );
    let faults = compile("headers", r#"{"requst": {}}"#).expect_err("unknown key");
    assert_eq!(faults[0].hint, "did you mean \"request\"?");
    for config in ["[]", "1", "null", "{", &"[".repeat(100_000)] {
        assert_eq!(fields_at_fault("headers", config), ["config"]);
    }
}

#[test]
fn respond_answers_by_itself() {
    let config = r#"{"status": 503, "body": "back soon", "headers": {"retry-after": "60"}}"#;
    let plugin = compile("respond", config).expect("valid");
    let Flow::Respond(response) = plugin.on_request(&mut Fields::new()) else { panic!("it went on") };
    assert_eq!((response.status, &response.body[..]), (503, &b"back soon"[..]));
    assert_eq!(lines(&response.fields), ["retry-after: 60", "content-type: text/plain; charset=utf-8"]);
    let empty = compile("respond", "").expect("valid");
    let Flow::Respond(response) = empty.on_request(&mut Fields::new()) else { panic!("it went on") };
    assert!(response.status == 200 && response.body.is_empty() && response.fields.is_empty());
}

#[test]
fn answers_that_cannot_be_are_refused() {
    for status in ["100", "199", "600", "65736", "\"200\"", "-1", "200.5"] {
        assert_eq!(fields_at_fault("respond", &format!(r#"{{"status": {status}}}"#)), ["config.status"], "{status}");
    }
    assert_eq!(fields_at_fault("respond", r#"{"status": 204, "body": "x"}"#), ["config.body"]);
    let large = format!(r#"{{"body": "{}"}}"#, "x".repeat(BODY_BYTES));
    assert_eq!(fields_at_fault("respond", &large), ["config.body"]);
    let twice = r#"{"content_type": "a/b", "headers": {"Content-Type": "a/b"}}"#;
    assert_eq!(fields_at_fault("respond", twice), ["config.content_type"]);
    assert_eq!(fields_at_fault("respond", r#"{"headers": {"Transfer-Encoding": "chunked"}}"#).len(), 1);
}

const BODY_BYTES: usize = (64 << 10) + 1;

#[test]
fn a_type_that_is_not_there_is_told_with_those_that_are() {
    let faults = compile("jwt", "{}").expect_err("unknown type");
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].code.as_str(), faults[0].field.as_str()), (fault::UNKNOWN_PLUGIN_TYPE, "type"));
    assert_eq!(faults[0].message, "plugin type \"jwt\" is not available in this version");
    assert_eq!(faults[0].hint, "available types: headers, respond");
    assert_eq!(compile("header", "{}").expect_err("unknown type")[0].hint, "did you mean \"headers\"?");
}
