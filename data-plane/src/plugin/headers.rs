//! `headers`: sets, adds and removes header fields of requests and responses.

use super::{
    Facts, Flow, PluginRequest, PluginResponse, Spec,
    config::{Config, FIELDS_MAX},
    spec::{Key, Kind},
};
use crate::{
    fields::Fields,
    forward::alias_is,
    snapshot::{Backend, Rule, fault::Faults},
};

static EDIT: [Key; 3] = [
    Key::new("set", Kind::Fields, "none", "Fields that are set, whatever was there; up to 100"),
    Key::new("add", Kind::Fields, "none", "Fields that are added to what is there; up to 100"),
    Key::new("remove", Kind::List(&Kind::FieldName, FIELDS_MAX), "none", "Names of fields that are removed"),
];

pub(super) static SPEC: Spec = Spec {
    name: "headers",
    summary: "Sets, adds and removes header fields of requests and responses.",
    details: "First fields are removed, then set, then added. What is removed from a request or set in it is so in every \
spelling that an upstream may read as the same name: `X_Team` too, where `x-team` is set. Fields that frame messages, \
belong to one connection, or are the gateway's own (`Host`, `Forwarded`, `X-Forwarded-For`, `-Host`, `-Proto` and `-Client-Cert`, \
`X-RustyGate-*`) cannot be changed.\n\n\
A value may have variables in it: `${client_ip}` (as trusted proxies tell it), `${host}`, `${method}`, `${path}` (canonical), \
`${scheme}`, `${request_id}`, `${consumer}`, `${route}`, `${backend}`; in an answer the last four. One that is not known is \
empty; `$$` is a dollar. A value in a file or a variable of the environment is a secret: it is sealed at rest, never shown, and \
has no variables.",
    keys: &[
        Key::new("request", Kind::Object(&EDIT), "", "What is done to requests"),
        Key::new(
            "response",
            Kind::Object(&EDIT),
            "",
            "What is done to answers, be they a backend's or the gateway's own",
        ),
    ],
    example: "request: {set: {x-client: \"${client_ip}\"}, add: {x-tag: a}, remove: [x-internal]}\nresponse: {set: {cache-control: no-store}}",
    reasons: &[],
};

#[derive(Debug)]
pub(super) struct Headers {
    pub request: Edit,
    pub response: Edit,
}

/// What is done to one header section: first fields are removed, then set, then added.
#[derive(Debug, Default)]
pub(super) struct Edit {
    remove: Vec<Box<str>>,
    set: Vec<(Box<str>, Value)>,
    add: Vec<(Box<str>, Value)>,
}

/// A value as it is made for each message.
#[derive(Debug)]
enum Value {
    Plain(Box<[u8]>),
    Parts(Vec<Part>),
}

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// What a value can have in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    ClientIp,
    Host,
    Method,
    Path,
    Scheme,
    RequestId,
    Consumer,
    Route,
    Backend,
}

const VARIABLES: [(&str, Variable); 9] = [
    ("client_ip", Variable::ClientIp),
    ("host", Variable::Host),
    ("method", Variable::Method),
    ("path", Variable::Path),
    ("scheme", Variable::Scheme),
    ("request_id", Variable::RequestId),
    ("consumer", Variable::Consumer),
    ("route", Variable::Route),
    ("backend", Variable::Backend),
];

/// Those that an answer can have: what is known of the request when it is there.
const OF_ANSWERS: [Variable; 4] = [Variable::RequestId, Variable::Consumer, Variable::Route, Variable::Backend];

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Headers {
    let all: Vec<Variable> = VARIABLES.iter().map(|(_, variable)| *variable).collect();
    Headers { request: edit(config, "request", &all, faults), response: edit(config, "response", &OF_ANSWERS, faults) }
}

fn edit(config: &Config<'_>, key: &str, known: &[Variable], faults: &mut Faults) -> Edit {
    let Some(config) = config.child(key) else { return Edit::default() };
    let mut values = |key: &str| {
        let fields = config.fields(key).into_iter();
        fields
            .map(|(name, bytes)| {
                let value = match std::str::from_utf8(&bytes) {
                    // Whatever a secret has in it stands for itself.
                    Ok(text) if text.contains('$') && !config.is_secret(key, &name) => match parts(text, known) {
                        Ok(parts) => Value::Parts(parts),
                        Err((message, hint)) => {
                            config.fault(&format!("{key}.{name}"), message, &hint, faults);
                            Value::Plain(bytes)
                        }
                    },
                    _ => Value::Plain(bytes),
                };
                (name, value)
            })
            .collect()
    };
    Edit { set: values("set"), add: values("add"), remove: config.names("remove") }
}

/// `a ${name} b`; `$$` is a dollar, and so is one that no brace follows.
fn parts(text: &str, known: &[Variable]) -> Result<Vec<Part>, (String, String)> {
    let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            plain.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let names = || {
                let names = VARIABLES.iter().filter(|(_, variable)| known.contains(variable)).map(|(name, _)| *name);
                format!("there are: {}; write $$ for a dollar", names.collect::<Vec<_>>().join(", "))
            };
            let Some((name, after)) = inside.split_once('}') else {
                return Err(("a variable is not closed with }".to_owned(), names()));
            };
            let found = VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable);
            let Some(variable) = found.filter(|variable| known.contains(variable)) else {
                return Err((format!("there is no variable {name:?} here"), names()));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(Part::Variable(variable));
            rest = after;
        } else {
            plain.push('$');
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain.into()));
    }
    Ok(parts)
}

impl Headers {
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        let PluginRequest { fields, facts, rule, backend, .. } = request;
        let (client, target, method, scheme) = (request.client, request.target, request.method, request.scheme);
        self.request.apply_to_request(fields, |variable, out| match variable {
            Variable::ClientIp => out.extend_from_slice(client.to_string().as_bytes()),
            Variable::Host => out.extend_from_slice(target.host.as_bytes()),
            Variable::Method => out.extend_from_slice(method.as_bytes()),
            Variable::Path => out.extend_from_slice(target.path.as_bytes()),
            Variable::Scheme => out.extend_from_slice(scheme.as_bytes()),
            other => other.of_facts(facts, rule, backend, out),
        });
        Flow::Continue
    }

    pub fn on_response(&self, response: &mut PluginResponse<'_>) {
        let (facts, rule, backend) = (response.facts, response.rule, response.backend);
        self.response.apply_to_response(response.fields, |variable, out| variable.of_facts(facts, rule, backend, out));
    }
}

impl Variable {
    fn of_facts(self, facts: &Facts, rule: &Rule, backend: &Backend, out: &mut Vec<u8>) {
        let text = match self {
            Self::RequestId => facts.request_id.as_deref().unwrap_or_default(),
            Self::Consumer => facts.consumer.as_ref().map_or("", |consumer| &consumer.name),
            Self::Route => &rule.route,
            Self::Backend => &backend.name,
            Self::ClientIp | Self::Host | Self::Method | Self::Path | Self::Scheme => "",
        };
        out.extend_from_slice(text.as_bytes());
    }
}

impl Edit {
    /// What is removed or set is so in every spelling that an upstream may read as the same name: a client cannot keep
    /// what it sent as `X_Team`.
    fn apply_to_request(&self, fields: &mut Fields, say: impl Fn(Variable, &mut Vec<u8>)) {
        let own = |name: &str| self.set.iter().any(|(set, _)| alias_is(name, set));
        fields.retain(|name, _| !self.remove.iter().any(|remove| alias_is(name, remove)) && !own(name));
        self.write(fields, say);
    }

    fn apply_to_response(&self, fields: &mut Fields, say: impl Fn(Variable, &mut Vec<u8>)) {
        for name in &self.remove {
            fields.remove(name);
        }
        self.write(fields, say);
    }

    /// What is set or removed comes in no spelling behind the body: many a reader merges trailers into the head.
    pub fn apply_to_trailers(&self, trailers: &mut Fields) {
        let set = self.set.iter().map(|(name, _)| name);
        let decided: Vec<&str> = set.chain(&self.remove).map(|name| &**name).collect();
        trailers.retain(|name, _| !decided.iter().any(|decided| alias_is(name, decided)));
    }

    fn write(&self, fields: &mut Fields, say: impl Fn(Variable, &mut Vec<u8>)) {
        for (name, _) in &self.set {
            fields.remove(name);
        }
        for (name, value) in self.set.iter().chain(&self.add) {
            match value {
                Value::Plain(bytes) => fields.append(name, bytes),
                Value::Parts(parts) => {
                    let mut out = Vec::new();
                    for part in parts {
                        match part {
                            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                            Part::Variable(variable) => say(*variable, &mut out),
                        }
                    }
                    // The name of a consumer comes from elsewhere, and white space at an end from what is empty.
                    out.retain(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
                    fields.append(name, out.trim_ascii());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{
        Consumer, Plugin,
        rig::{Rig, message},
        tests::{fields_at_fault, lines},
    };

    #[tokio::test]
    async fn values_have_what_is_known_in_them() {
        let config = r#"{"request": {"set": {"x-a": "${method} ${scheme}://${host}${path} for ${client_ip}",
            "x-b": "[${request_id}] $$ $5 ${consumer}", "x-c": "${route} ${backend}"}},
            "response": {"add": {"x-d": "${consumer}@${route}", "x-e": "${request_id}"}}}"#;
        let mut rig = Rig::new("headers", config);
        rig.facts.consumer = Some(Consumer { name: "a\r\nx: y".into(), ..Consumer::default() });
        assert!(rig.field("X_A", "forged").ask().await.is_none());
        let expected =
            ["x-a: GET http://a.example/api/users for 192.0.2.1", "x-b: [] $ $5 ax: y", "x-c: r 127.0.0.1:1"];
        assert_eq!(lines(&rig.fields), expected);
        rig.facts.request_id = Some("7".into());
        assert_eq!(rig.answer(200, &[]), ["x-d: ax: y@r", "x-e: 7"]);
    }

    #[test]
    fn variables_that_are_not_there_are_told_with_those_that_are() {
        let config = r#"{"request": {"set": {"x": "${cleint_ip}", "y": "${"}}, "response": {"add": {"z": "${path}"}}}"#;
        let faults = Plugin::compile(&message("headers", config)).expect_err("faulty");
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["config.request.set.x", "config.request.set.y", "config.response.add.z"]);
        assert!(faults[0].hint.contains("client_ip, host"), "{faults:?}");
        assert_eq!(faults[2].hint, "there are: request_id, consumer, route, backend; write $$ for a dollar");
        assert_eq!(fields_at_fault("headers", r#"{"request": {"set": {"x": 1}}}"#), ["config.request.set.x"]);
    }
}
