//! `redirect`: sends clients elsewhere.

use super::{
    Flow, LocalResponse, PluginRequest, Spec,
    config::Config,
    rewrite::{PathChange, REGEX},
    spec::{Key, Kind},
};
use crate::{canonical, fields::Fields, snapshot::fault::Faults};

pub(super) static SPEC: Spec = Spec {
    name: "redirect",
    summary: "Sends clients elsewhere; no backend sees the request.",
    details: "What is not given stays as the client asked for it, but for the port: with another scheme it is that scheme's \
own. A request that asks already for what it would be sent to goes on: so one route can redirect `http` to `https` and serve \
both. The query goes along.",
    keys: &[
        Key::new("status", Kind::Integer { min: 301, max: 308 }, "302", "301, 302, 303, 307 or 308"),
        Key::new("scheme", Kind::Word(&["http", "https"]), "", "The scheme of the address"),
        Key::new("host", Kind::Text { max: 253 }, "", "Its host, without a port"),
        Key::new("port", Kind::Integer { min: 1, max: 65_535 }, "", "Its port"),
        Key::new("path", Kind::Text { max: 4096 }, "", "Its whole path"),
        Key::new(
            "prefix",
            Kind::Text { max: 4096 },
            "",
            "What stands in the place of the route's prefix; not with `path`",
        ),
        Key::new(
            "regex",
            Kind::Object(&REGEX),
            "",
            "Replaces every match of a regex in the canonical path; not with `path`",
        ),
        Key::new("strip_query", Kind::Bool, "false", "Whether the query stays behind"),
    ],
    example: "scheme: https\nstatus: 308",
    reasons: &[&super::rewrite::FAILED],
};

#[derive(Debug)]
pub(super) struct Redirect {
    status: u16,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathChange>,
    strip_query: bool,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Redirect {
    let status = config.integer("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        config.fault(
            "status",
            format_args!("{status} is no redirect to an address"),
            "use 301, 302, 303, 307 or 308",
            faults,
        );
    }
    let host = config.text("host").and_then(|text| match canonical::host(text.as_bytes()) {
        Ok(host) if host.port.is_none() => Some(host.name.as_ref().into()),
        Ok(_) => {
            config.fault("host", "the host has a port", "give it as `port`", faults);
            None
        }
        Err(problem) => {
            config.fault("host", problem, "", faults);
            None
        }
    });
    if !["scheme", "host", "port", "path", "prefix", "regex"].into_iter().any(|key| config.has(key)) {
        config.fault_here("nothing says where to", "give one of: scheme, host, port, path, prefix, regex", faults);
    }
    Redirect {
        status,
        scheme: config.text("scheme").map(Into::into),
        host,
        port: config.integer("port").and_then(|port| u16::try_from(port).ok()),
        path: PathChange::compile(config, faults),
        strip_query: config.bool("strip_query"),
    }
}

impl Redirect {
    pub fn on_request(&self, request: &PluginRequest<'_>) -> Flow {
        let target = request.target;
        let path = match self.path.as_ref().map(|change| change.apply(request)) {
            None => target.path.clone(),
            Some(Some(path)) => path,
            // It has no canonical form.
            Some(None) => return super::Refusal::new(&super::rewrite::FAILED).into(),
        };
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = self.host.as_deref().unwrap_or(&target.host);
        let own_port = target.host_field.get(target.host.len() + 1..).and_then(|port| port.parse().ok());
        let default_port = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let asked_port = own_port.unwrap_or(default_port(request.scheme));
        let port = match self.port {
            Some(port) => port,
            None if scheme == request.scheme && self.host.is_none() => asked_port,
            None => default_port(scheme),
        };
        if (scheme, host, port, &*path) == (request.scheme, &*target.host, asked_port, &*target.path) {
            return Flow::Continue;
        }
        let query = target.query().filter(|_| !self.strip_query);
        let mut fields = Fields::new();
        fields.append_with("Location", |out| {
            if !host.is_empty() {
                out.extend_from_slice(scheme.as_bytes());
                out.extend_from_slice(b"://");
                out.extend_from_slice(host.as_bytes());
                if port != default_port(scheme) {
                    out.extend_from_slice(format!(":{port}").as_bytes());
                }
            }
            out.extend_from_slice(path.as_bytes());
            if let Some(query) = query {
                out.push(b'?');
                out.extend_from_slice(query.as_bytes());
            }
        });
        Flow::Respond(Box::new(LocalResponse { status: self.status, fields, body: bytes::Bytes::new() }))
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{
        rig::Rig,
        tests::{fields_at_fault, lines},
    };

    async fn location(config: &str, host: &str, target: &str) -> String {
        let mut rig = Rig::new("redirect", config);
        rig.at(host, target);
        lines(&rig.local().await.fields).concat()
    }

    #[tokio::test]
    async fn what_is_not_said_stays_as_it_was_asked_for() {
        for (config, expected) in [
            (r#"{"scheme": "https"}"#, "Location: https://a.example/api/users?q=1"),
            (r#"{"scheme": "https", "port": 8443}"#, "Location: https://a.example:8443/api/users?q=1"),
            (r#"{"host": "B.example"}"#, "Location: http://b.example/api/users?q=1"),
            (r#"{"port": 80}"#, "Location: http://a.example/api/users?q=1"),
            (r#"{"path": "/new", "strip_query": true}"#, "Location: http://a.example:8080/new"),
            (r#"{"prefix": "/v2/"}"#, "Location: http://a.example:8080/v2/users?q=1"),
            (r#"{"prefix": "/"}"#, "Location: http://a.example:8080/users?q=1"),
            (
                r#"{"regex": {"match": "^/api/(.+)$", "replace": "/v2/$1.html"}, "host": "b.example"}"#,
                "Location: http://b.example/v2/users.html?q=1",
            ),
        ] {
            assert_eq!(location(config, "a.example:8080", "/api/users?q=1").await, expected, "{config}");
        }
        let mut rig = Rig::new("redirect", r#"{"scheme": "https", "status": 308}"#);
        assert_eq!(rig.local().await.status, 308);
    }

    #[tokio::test]
    async fn nobody_is_sent_to_where_they_are() {
        for (config, scheme) in
            [(r#"{"scheme": "https"}"#, "https"), (r#"{"host": "a.example", "port": 8080}"#, "http")]
        {
            let mut rig = Rig::new("redirect", config);
            rig.scheme = scheme;
            assert!(rig.ask().await.is_none(), "{config}");
        }
    }

    #[tokio::test]
    async fn a_path_leads_to_no_other_host() {
        let said = location(r#"{"prefix": "/"}"#, "a.example", "/api//evil.example/x").await;
        assert_eq!(said, "Location: http://a.example/evil.example/x");
        for (replace, expected) in [("//evil.example/$1", Some("/evil.example/users")), ("@evil.example/$1", None)] {
            let config = format!(r#"{{"regex": {{"match": "^/api/(.+)$", "replace": "{replace}"}}, "port": 81}}"#);
            let mut rig = Rig::new("redirect", &config);
            rig.at("", "/api/users");
            match expected {
                Some(path) => assert_eq!(lines(&rig.local().await.fields), [format!("Location: {path}")]),
                None => assert_eq!(rig.refusal().await, "rewrite_failed"),
            }
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (config, field) in [
            ("{}", "config"),
            (r#"{"scheme": "https", "status": 304}"#, "config.status"),
            (r#"{"scheme": "ftp"}"#, "config.scheme"),
            (r#"{"host": "a:1"}"#, "config.host"),
            (r#"{"host": "a/b"}"#, "config.host"),
            (r#"{"path": "x"}"#, "config.path"),
            (r#"{"path": "/a/../b"}"#, "config.path"),
            (r#"{"path": "/a", "prefix": "/b"}"#, "config.prefix"),
            (r#"{"path": "/a", "regex": {"match": "b", "replace": "c"}}"#, "config.regex"),
            (r#"{"regex": {"match": "b", "replace": "c?d"}}"#, "config.regex.replace"),
            (r#"{"port": 0}"#, "config.port"),
        ] {
            assert_eq!(fields_at_fault("redirect", config), [field], "{config}");
        }
    }
}
