use super::{
    rig::{Rig, message},
    *,
};

fn compile(kind: &str, config: &str) -> Result<Plugin, Vec<wire::Fault>> {
    Plugin::compile(&message(kind, config))
}

pub fn fields_at_fault(kind: &str, config: &str) -> Vec<String> {
    let faults = compile(kind, config).expect_err(config);
    assert!(faults.iter().all(|fault| fault.code == faults_of::BAD_PLUGIN_CONFIG && fault.name == "p"), "{faults:?}");
    faults.into_iter().map(|fault| fault.field).collect()
}

pub fn lines(fields: &Fields) -> Vec<String> {
    fields.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
}

#[tokio::test]
async fn headers_are_removed_set_and_added_on_their_side_only() {
    let config = r#"{"request": {"set": {"x-a": "1"}, "add": {"x-b": "2"}, "remove": ["X-C"]},
        "response": {"set": {"cache-control": "no-store"}}}"#;
    let mut rig = Rig::new("headers", config);
    for (name, value) in [("X-A", "old"), ("x-b", "1"), ("x-c", "gone"), ("x-a", "older")] {
        rig.field(name, value);
    }
    assert!(rig.ask().await.is_none());
    assert_eq!(lines(&rig.fields), ["x-b: 1", "x-a: 1", "x-b: 2"]);
    assert_eq!(rig.answer(200, &[]), ["cache-control: no-store"]);
}

#[test]
fn headers_of_the_gateway_are_refused() {
    for name in [
        "Host",
        "connection",
        "Transfer-Encoding",
        "content_length",
        "X-RustyGate-Backend",
        "x_rustygate-x",
        "X-Forwarded-Client_Cert",
    ] {
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
            "config.request.add.a b",
            "config.request.add.x",
            "config.request.add.y",
            "config.request.remove"
        ]
    );
    let faults = compile("headers", r#"{"requst": {}}"#).expect_err("unknown key");
    assert_eq!(faults[0].hint, "did you mean \"request\"?");
    for config in ["[]", "1", "null", "{", &"[".repeat(100_000)] {
        assert_eq!(fields_at_fault("headers", config), ["config"]);
    }
}

#[tokio::test]
async fn respond_answers_by_itself() {
    let config = r#"{"status": 503, "body": "back soon", "headers": {"retry-after": "60"}}"#;
    let response = Rig::new("respond", config).local().await;
    assert_eq!((response.status, &response.body[..]), (503, &b"back soon"[..]));
    assert_eq!(lines(&response.fields), ["retry-after: 60", "content-type: text/plain; charset=utf-8"]);
    let response = Rig::new("respond", "").local().await;
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
    let faults = compile("quantum", "{}").expect_err("unknown type");
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].code.as_str(), faults[0].field.as_str()), (faults_of::UNKNOWN_PLUGIN_TYPE, "type"));
    assert_eq!(faults[0].message, "plugin type \"quantum\" is not available in this version");
    assert!(faults[0].hint.starts_with("available types: ") && faults[0].hint.contains("respond"), "{faults:?}");
    assert_eq!(compile("header", "{}").expect_err("unknown type")[0].hint, "did you mean \"headers\"?");
}

#[tokio::test]
async fn types_run_in_their_order_and_a_plugin_that_is_off_does_nothing() {
    let named = |name: &str, plugin| wire::Plugin { name: name.to_owned(), ..plugin };
    let set = |value: &str| message("headers", &format!(r#"{{"request": {{"add": {{"x": "{value}"}}}}}}"#));
    let off = wire::Plugin { enabled: Some(false), ..message("respond", "") };
    let plugins = vec![named("off", off), named("one", set("1")), named("two", set("2"))];
    let mut rig = Rig::with(plugins.clone());
    assert!(rig.ask().await.is_none(), "what would answer is off");
    assert_eq!(lines(&rig.fields), ["x: 1", "x: 2"]);
    let chain: Vec<&str> = rig.rule.backends[0].chain.iter().map(|plugin| &*plugin.name).collect();
    assert_eq!(chain, ["one", "two"]);
    let faulty = wire::Plugin { enabled: Some(false), ..message("respond", r#"{"status": 1}"#) };
    assert_eq!(Plugin::compile(&faulty).expect_err("off, but faulty")[0].field, "config.status");
}

/// Clients and their alarms know them by these names.
#[test]
fn reasons_keep_their_names_and_each_has_its_problem_and_its_status_of_grpc() {
    use crate::{error::ProxyError, grpc};
    let all: Vec<_> = TYPES.iter().flat_map(|spec| spec.reasons).collect();
    for name in [
        "ip_denied",
        "cors_denied",
        "fault_injected",
        "body_too_large",
        "token_missing",
        "token_invalid",
        "token_expired",
        "insufficient_scope",
        "credentials_repeated",
        "key_missing",
        "key_invalid",
        "password_missing",
        "password_invalid",
        "passwords_busy",
        "auth_denied",
        "auth_unavailable",
        "acl_denied",
        "rate_limited",
        "rate_limit_unavailable",
        "concurrency_limited",
        "rewrite_failed",
    ] {
        assert!(all.iter().any(|reason| reason.name == name), "{name} has another name");
    }
    for reason in all {
        let error = ProxyError::Refused { reason, status: reason.status };
        let problem: serde_json::Value = serde_json::from_slice(&error.body(&error.message())).expect("JSON");
        assert_eq!((&problem["reason"], &problem["status"]), (&reason.name.into(), &reason.status.into()));
        assert_eq!((&problem["type"], &problem["detail"]), (&"about:blank".into(), &reason.detail.into()));
        let expected = match reason.status {
            400 => grpc::Status::Internal,
            401 => grpc::Status::Unauthenticated,
            403 => grpc::Status::PermissionDenied,
            413 | 429 => grpc::Status::ResourceExhausted,
            503 => grpc::Status::Unavailable,
            other => panic!("{}: say here what {other} is to a caller of gRPC", reason.name),
        };
        assert_eq!(grpc::status(error), expected, "{}", reason.name);
    }
}

/// Each page of the reference shows an example: it must be valid, as must be the rest of the table.
#[test]
fn the_tables_of_the_types_are_whole() {
    let mut reasons = std::collections::BTreeMap::new();
    for spec in TYPES {
        assert!(spec.summary.ends_with('.') && !spec.example.is_empty(), "{}", spec.name);
        for reason in spec.reasons {
            // What finds out who asks shares one.
            let known = reasons.insert(reason.name, reason);
            assert!(known.is_none_or(|known| std::ptr::eq(*known, *reason)), "two reasons are called {}", reason.name);
            assert!((400..600).contains(&reason.status), "{}", reason.name);
            let said = crate::error::ProxyError::Refused { reason, status: reason.status };
            assert_eq!((said.reason(), said.status()), (reason.name, reason.status));
        }
    }
}

#[test]
fn identities_follow_name_and_type_and_those_of_configurations_the_whole() {
    let of = |plugin: &wire::Plugin| Plugin::compile(plugin).expect("valid").identity;
    let one = message("respond", r#"{"status":200}"#);
    let other = wire::Plugin { config_json: r#"{"status":201}"#.to_owned(), ..one.clone() };
    let renamed = wire::Plugin { name: "q".to_owned(), ..one.clone() };
    assert_eq!(of(&one), of(&one));
    assert!(of(&one).id == of(&other).id && of(&one).config != of(&other).config);
    assert!(of(&one).id != of(&renamed).id && of(&one).config != of(&renamed).config);
}
