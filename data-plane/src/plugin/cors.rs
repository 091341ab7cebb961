//! `cors`: tells browsers which pages of other origins may read answers (the Fetch standard's CORS protocol).

use super::{
    Flow, LocalResponse, PluginRequest, PluginResponse, Reason, Refusal, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    fields::{Fields, is_token},
    snapshot::fault::Faults,
};

/// The most bytes of an origin, in the configuration and in a request.
const ORIGIN_BYTES_MAX: usize = 512;

/// The most bytes that a client's list of headers has, to be repeated.
const LIST_BYTES_MAX: usize = 4096;

const ORIGIN: Kind = Kind::Text { max: ORIGIN_BYTES_MAX };
const NAME: Kind = Kind::Text { max: 256 };

pub(super) static DENIED: Reason = Reason {
    name: "cors_denied",
    status: 403,
    detail: "pages of this origin may not ask for this",
    when: "A preflight of an origin that is not in `allow_origins`",
};

pub(super) static SPEC: Spec = Spec {
    name: "cors",
    summary: "Tells browsers which pages of other origins may read answers.",
    details: "A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is answered here, before any \
authentication, which it cannot pass; no backend sees it. Every other request goes on, whatever its origin: CORS keeps pages \
from reading answers, it keeps nobody from sending requests. Whatever a backend says in `Access-Control-*` is replaced. With \
credentials the answer never has `*`: it names the origin, and `Vary` says so to caches.\n\n\
An origin is `https://app.example.com`, with a port unless it is the scheme's own; `https://*.example.com` stands for every \
host below example.com; `*` for all; `null` for pages without one.",
    keys: &[
        Key::required("allow_origins", Kind::List(&ORIGIN, 1000), "Origins whose pages may read answers"),
        Key::new(
            "allow_methods",
            Kind::List(&NAME, 100),
            "GET, HEAD, POST",
            "Methods that they may use; `*` for whichever they ask for",
        ),
        Key::new(
            "allow_headers",
            Kind::List(&NAME, 100),
            "none",
            "Headers that they may send beyond the harmless ones; `*` for whichever they ask for",
        ),
        Key::new(
            "expose_headers",
            Kind::List(&Kind::AnyFieldName, 100),
            "none",
            "Headers of answers that they may read beyond the harmless ones",
        ),
        Key::new(
            "allow_credentials",
            Kind::Bool,
            "false",
            "Whether they may send cookies and the like; not with the origin `*`",
        ),
        Key::new(
            "max_age",
            Kind::Duration { min: 0, max: 86_400_000 },
            "5s",
            "How long a browser may remember the answer to a preflight",
        ),
    ],
    example: "allow_origins: [\"https://app.example.com\", \"https://*.example.org\"]\nallow_methods: [GET, POST, DELETE]\n\
allow_headers: [content-type, authorization]\nallow_credentials: true\nmax_age: 10m",
    reasons: &[&DENIED],
};

#[derive(Debug)]
pub(super) struct Cors {
    any_origin: bool,
    origins: Vec<Origin>,
    methods: List,
    headers: List,
    expose: String,
    credentials: bool,
    max_age: String,
}

#[derive(Debug)]
enum Origin {
    /// Lower case.
    Exact(Box<str>),
    /// What is before the host, and what is behind its first label, with the dot: "https://", ".example.com:8443".
    Below(Box<str>, Box<str>),
}

#[derive(Debug)]
enum List {
    /// Whatever is asked for.
    Any,
    /// As it is said.
    These(String),
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Cors {
    let mut origins = Vec::new();
    let mut any_origin = false;
    for (index, text) in config.texts("allow_origins").into_iter().enumerate() {
        match text {
            "*" => any_origin = true,
            _ => match origin(text) {
                Some(origin) => origins.push(origin),
                None => {
                    let message = format_args!("{text:?} is no origin");
                    let hint = "write it like https://app.example.com or https://*.example.com, without a path";
                    config.fault(&format!("allow_origins[{index}]"), message, hint, faults);
                }
            },
        }
    }
    let credentials = config.bool("allow_credentials");
    if any_origin && credentials {
        let message = "every page of the world could act as the user: credentials are not for the origin \"*\"";
        config.fault("allow_credentials", message, "name the origins", faults);
    }
    Cors {
        any_origin,
        origins,
        methods: list(config, "allow_methods", &["GET", "HEAD", "POST"], faults),
        headers: list(config, "allow_headers", &[], faults),
        expose: config.texts("expose_headers").join(", "),
        credentials,
        max_age: config.duration("max_age").unwrap_or_default().as_secs().to_string(),
    }
}

fn list(config: &Config<'_>, key: &str, default: &[&str], faults: &mut Faults) -> List {
    let words = if config.has(key) { config.texts(key) } else { default.to_vec() };
    if words.contains(&"*") {
        return List::Any;
    }
    for (index, word) in words.iter().enumerate().filter(|(_, word)| !is_token(word.as_bytes())) {
        config.fault(&format!("{key}[{index}]"), format_args!("{word:?} is no name"), "", faults);
    }
    List::These(words.join(", "))
}

/// `None` if the text is none.
fn origin(text: &str) -> Option<Origin> {
    if text == "null" {
        return Some(Origin::Exact(text.into()));
    }
    let text = text.to_ascii_lowercase();
    let (scheme, host) = text.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        return None;
    }
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let canonical = |host: &str| {
        let host = crate::canonical::host(host.as_bytes()).ok()?;
        let port = host.port.filter(|port| Some(*port) != default_port);
        Some(format!("{}{}", host.name, port.map(|port| format!(":{port}")).unwrap_or_default()))
    };
    match host.strip_prefix("*.") {
        Some(rest) => Some(Origin::Below(format!("{scheme}://").into(), format!(".{}", canonical(rest)?).into())),
        None => Some(Origin::Exact(format!("{scheme}://{}", canonical(host)?).into())),
    }
}

impl Origin {
    fn is(&self, asked: &str) -> bool {
        match self {
            Self::Exact(origin) => asked.eq_ignore_ascii_case(origin),
            Self::Below(scheme, rest) => {
                let asked = asked.to_ascii_lowercase();
                let host = asked.strip_prefix(&**scheme).and_then(|host| host.strip_suffix(&**rest));
                // Hosts only: a slash or an @ would make another's of it.
                let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                host.is_some_and(|host| !host.is_empty() && host.bytes().all(label))
            }
        }
    }
}

impl Cors {
    /// Whether the answer is the same for every origin.
    fn is_same_for_all(&self) -> bool {
        self.any_origin && !self.credentials
    }

    fn allows(&self, origin: &str) -> bool {
        self.any_origin || self.origins.iter().any(|known| known.is(origin))
    }

    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        let Some(origin) = request.fields.get("origin") else { return Flow::Continue };
        let text = std::str::from_utf8(origin).ok().filter(|text| text.len() <= ORIGIN_BYTES_MAX);
        let allowed = text.filter(|text| self.allows(text));
        let asked = request.fields.get("access-control-request-method");
        let preflight = asked.filter(|_| request.method == "OPTIONS");
        let answer = &mut request.facts.answer;
        if let Some(origin) = allowed {
            let said = if self.is_same_for_all() { "*" } else { origin };
            answer.set("Access-Control-Allow-Origin", said.as_bytes());
            if self.credentials {
                answer.set("Access-Control-Allow-Credentials", b"true");
            }
            if preflight.is_none() && !self.expose.is_empty() {
                answer.set("Access-Control-Expose-Headers", self.expose.as_bytes());
            }
        }
        let Some(method) = preflight else { return Flow::Continue };
        let vary = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        if allowed.is_none() {
            return Refusal::new(&DENIED).field("Vary", vary).into();
        }
        match &self.methods {
            List::Any if is_token(method) => answer.set("Access-Control-Allow-Methods", method),
            List::Any => {}
            List::These(methods) if methods.is_empty() => {}
            List::These(methods) => answer.set("Access-Control-Allow-Methods", methods.as_bytes()),
        }
        match &self.headers {
            List::Any => {
                let asked = request.fields.get("access-control-request-headers");
                if let Some(asked) = asked.filter(|asked| is_list(asked)) {
                    answer.set("Access-Control-Allow-Headers", asked);
                }
            }
            List::These(headers) if headers.is_empty() => {}
            List::These(headers) => answer.set("Access-Control-Allow-Headers", headers.as_bytes()),
        }
        answer.set("Access-Control-Max-Age", self.max_age.as_bytes());
        let mut fields = Fields::new();
        fields.append("Vary", vary);
        Flow::Respond(Box::new(LocalResponse { status: 204, fields, body: bytes::Bytes::new() }))
    }

    pub fn on_response(&self, response: &mut PluginResponse<'_>) {
        let answer = &response.facts.answer;
        response.fields.retain(|name, _| !is_own(name) || answer.get(name).is_some());
        if !self.is_same_for_all() {
            response.varies_by("Origin");
        }
    }
}

/// Whether a field is one that only this says.
pub(super) fn is_own(name: &str) -> bool {
    const BEGIN: &[u8] = b"access-control-";
    name.as_bytes().get(..BEGIN.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(BEGIN))
}

/// Whether these are names of headers, and nothing else.
fn is_list(value: &[u8]) -> bool {
    value.len() <= LIST_BYTES_MAX && value.split(|&byte| byte == b',').all(|name| is_token(name.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use crate::plugin::{
        Flow,
        rig::Rig,
        tests::{fields_at_fault, lines},
    };

    const CONFIG: &str = r#"{"allow_origins": ["https://app.example.com", "https://*.example.org:8443", "null"],
        "allow_methods": ["GET", "DELETE"], "allow_headers": ["content-type"], "expose_headers": ["x-total"],
        "allow_credentials": true, "max_age": "10m"}"#;

    fn preflight(config: &str, origin: &str) -> Rig {
        let mut rig = Rig::new("cors", config);
        rig.method = "OPTIONS";
        rig.field("origin", origin).field("access-control-request-method", "DELETE");
        rig.field("access-control-request-headers", "x-a, x-b");
        rig
    }

    #[tokio::test]
    async fn a_preflight_is_answered_with_the_origin_itself_where_there_are_credentials() {
        let mut rig = preflight(CONFIG, "https://app.example.com");
        let answer = rig.local().await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        let mut said = lines(&rig.facts.answer);
        said.extend(lines(&answer.fields));
        assert_eq!(
            said,
            [
                "Access-Control-Allow-Origin: https://app.example.com",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Allow-Methods: GET, DELETE",
                "Access-Control-Allow-Headers: content-type",
                "Access-Control-Max-Age: 600",
                "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            ]
        );
    }

    #[tokio::test]
    async fn origins_are_compared_whole() {
        for (origin, allowed) in [
            ("https://app.example.com", true),
            ("HTTPS://APP.example.com", true),
            ("https://app.example.com:443", false),
            ("https://app.example.com.evil.example", false),
            ("http://app.example.com", false),
            ("https://a.b.example.org:8443", true),
            ("https://.example.org:8443", false),
            ("https://example.org:8443", false),
            ("https://a.example.org", false),
            ("https://evil.example/.example.org:8443", false),
            ("https://user@a.example.org:8443", false),
            ("null", true),
            ("", false),
        ] {
            let denied = match preflight(CONFIG, origin).ask().await {
                Some(Flow::Respond(_)) => false,
                Some(Flow::Refuse(refusal)) => refusal.reason.name == "cors_denied",
                other => panic!("{other:?}"),
            };
            assert_eq!(denied, !allowed, "{origin}");
        }
    }

    #[tokio::test]
    async fn other_requests_go_on_and_their_answers_say_what_a_page_may_read() {
        let upstream = [("access-control-allow-origin", "*"), ("Vary", "Accept"), ("x-total", "7")];
        let mut rig = Rig::new("cors", CONFIG);
        assert!(rig.field("origin", "https://app.example.com").ask().await.is_none());
        assert_eq!(
            rig.answer(200, &upstream),
            [
                "Vary: Accept",
                "x-total: 7",
                "Access-Control-Allow-Origin: https://app.example.com",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Expose-Headers: x-total",
                "Vary: Origin",
            ]
        );
        let mut rig = Rig::new("cors", CONFIG);
        assert!(rig.field("origin", "https://evil.example").ask().await.is_none());
        assert_eq!(rig.answer(200, &upstream), ["Vary: Accept", "x-total: 7", "Vary: Origin"]);
        // A cache may keep the answer to who has no origin, and give it to who has one.
        let mut rig = Rig::new("cors", CONFIG);
        assert!(rig.ask().await.is_none());
        assert_eq!(rig.answer(200, &[("vary", "x, ORIGIN")]), ["vary: x, ORIGIN"]);
    }

    #[tokio::test]
    async fn every_origin_is_a_star_without_vary() {
        let config = r#"{"allow_origins": ["*"], "allow_headers": ["*"], "allow_methods": ["*"]}"#;
        let mut rig = Rig::new("cors", config);
        assert!(rig.field("origin", "https://any.example").ask().await.is_none());
        assert_eq!(rig.answer(200, &[]), ["Access-Control-Allow-Origin: *"]);
        let mut rig = preflight(config, "https://any.example");
        rig.local().await;
        assert_eq!(
            lines(&rig.facts.answer),
            [
                "Access-Control-Allow-Origin: *",
                "Access-Control-Allow-Methods: DELETE",
                "Access-Control-Allow-Headers: x-a, x-b",
                "Access-Control-Max-Age: 5",
            ]
        );
    }

    #[test]
    fn a_star_with_credentials_and_what_is_no_origin_are_refused() {
        let star = r#"{"allow_origins": ["*"], "allow_credentials": true}"#;
        assert_eq!(fields_at_fault("cors", star), ["config.allow_credentials"]);
        let config = r#"{"allow_origins": ["app.example.com", "https://a/b", "https://*"], "allow_methods": ["G T"]}"#;
        assert_eq!(
            fields_at_fault("cors", config),
            [
                "config.allow_origins[0]",
                "config.allow_origins[1]",
                "config.allow_origins[2]",
                "config.allow_methods[0]"
            ]
        );
        assert_eq!(fields_at_fault("cors", "{}"), ["config"]);
    }
}
