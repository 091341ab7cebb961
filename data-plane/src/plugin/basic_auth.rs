//! `basic_auth`: lets consumers through by user name and password (RFC 7617).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Consumer, Flow, PluginRequest, Reason, Refusal, Spec, caller,
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    consumer::{PASSWORD_BYTES_MAX, PasswordHash, USERNAME_BYTES_MAX, Verdict},
    fields::Fields,
    snapshot::fault::Faults,
};

pub(super) static MISSING: Reason = Reason {
    name: "password_missing",
    status: 401,
    detail: "a user name and a password are required",
    when: "There is no `Authorization: Basic`",
};

pub(super) static INVALID: Reason = Reason {
    name: "password_invalid",
    status: 401,
    detail: "the user name or the password is not valid",
    when: "Nobody has this user name, or the password is another, or the header is malformed",
};

pub(super) static BUSY: Reason = Reason {
    name: "passwords_busy",
    status: 503,
    detail: "too many passwords are being checked; try again soon",
    when: "More passwords that are not known yet wait to be checked than may, or one waited for 2 seconds",
};

pub(super) static SPEC: Spec = Spec {
    name: "basic_auth",
    summary: "Lets consumers through by user name and password (RFC 7617).",
    details: "User names and passwords are those of the [consumers](../manifest.md#consumer); at rest there are only hashes \
(Argon2id, or bcrypt made elsewhere), which take some milliseconds to check. So passwords are checked beside the requests, at most on \
half of the cores at a time, and what was found out is remembered for as long as the hash is the same: the next request \
with that password waits for nothing. An unknown user name takes as long as a wrong password. Upstreams are told who asks in \
`X-Consumer-Name` and `X-Consumer-Groups`, in which clients can say nothing themselves. Once it is known by another plugin who \
asks, passwords are not looked at any more, and do not go on all the same.\n\n\
Use it over TLS only: the password is in every request.",
    keys: &[
        Key::new("realm", Kind::Text { max: 128 }, "api", "What browsers show when they ask for a password"),
        Key::new("optional", Kind::Bool, "false", "Whether requests without a password go on, as nobody's"),
        Key::new("hide", Kind::Bool, "true", "Whether user name and password are removed from the request"),
    ],
    example: "realm: partners",
    reasons: &[&MISSING, &INVALID, &BUSY, &caller::REPEATED],
};

#[derive(Debug)]
pub(super) struct BasicAuth {
    challenge: Box<[u8]>,
    optional: bool,
    hide: bool,
}

/// What a request has to show.
struct Credential {
    username: String,
    password: Vec<u8>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> BasicAuth {
    let realm = config.word("realm");
    if !caller::is_quotable(realm) {
        config.fault("realm", "a realm is plain ASCII text without quotes and backslashes", "shorten it", faults);
    }
    let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"").into_bytes().into();
    BasicAuth { challenge, optional: config.bool("optional"), hide: config.bool("hide") }
}

impl BasicAuth {
    pub async fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        if request.facts.consumer.is_some() {
            self.hide(request.fields);
            return Flow::Continue;
        }
        caller::forget(request.fields);
        let credential = match caller::field(request.fields, "authorization").map(|value| value.and_then(encoded)) {
            Err(repeated) => return repeated.into(),
            Ok(None) if self.optional => return Flow::Continue,
            Ok(None) => return self.refused(&MISSING),
            Ok(Some(encoded)) => Credential::decode(encoded),
        };
        let Some(Credential { username, password }) = credential else { return self.refused(&INVALID) };
        let known = request.named.consumers.as_deref().and_then(|all| all.by_username(&username));
        let verifier = &request.worker.shared.verifier;
        let verdict = match known.map(|(_, hash)| verifier.recall(hash, &username, &password)) {
            Some(Some(right)) if right => Verdict::Right,
            Some(Some(_)) => Verdict::Wrong,
            _ => {
                let hash = known.map_or_else(|| Arc::new(PasswordHash::of_nobody()), |(_, hash)| Arc::clone(hash));
                verifier.check(hash, &username, &password).await
            }
        };
        match (verdict, known) {
            (Verdict::Right, Some((known, _))) => {
                self.hide(request.fields);
                caller::is_known(Consumer::from_known(known, SPEC.name), request.fields, request.facts);
                Flow::Continue
            }
            (Verdict::Busy, _) => Refusal::new(&BUSY).field("Retry-After", b"1").into(),
            _ => self.refused(&INVALID),
        }
    }

    /// No upstream gets to see a password, be it one that was looked at or not.
    fn hide(&self, fields: &mut Fields) {
        if self.hide {
            fields.retain(|name, value| !name.eq_ignore_ascii_case("authorization") || encoded(value).is_none());
        }
    }

    fn refused(&self, reason: &'static Reason) -> Flow {
        Refusal::new(reason).field("WWW-Authenticate", &self.challenge).into()
    }
}

/// What comes after "Basic"; `None` of another scheme.
fn encoded(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| rest.trim_ascii())
}

impl Credential {
    fn decode(encoded: &[u8]) -> Option<Self> {
        const BYTES_MAX: usize = USERNAME_BYTES_MAX + 1 + PASSWORD_BYTES_MAX;
        if encoded.len() > BYTES_MAX.div_ceil(3) * 4 {
            return None;
        }
        let decoded = STANDARD.decode(encoded).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let username = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
        let password = decoded[colon + 1..].to_vec();
        (username.len() <= USERNAME_BYTES_MAX && password.len() <= PASSWORD_BYTES_MAX)
            .then_some(Self { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{rig::Rig, tests::lines};

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    fn rig(config: &str) -> Rig {
        let mut rig = Rig::new("basic_auth", config);
        rig.user("carol", "carol@example.com", "correct: horse").user("dave", "dave", "päss wörd");
        rig
    }

    #[tokio::test]
    async fn no_password_goes_on_where_another_plugin_knew_who_asks() {
        for (config, goes_on) in [("{}", false), (r#"{"hide": false}"#, true)] {
            let mut rig = rig(config);
            rig.facts.consumer = Some(Consumer { name: "alice".into(), ..Consumer::default() });
            let wrong = basic("dave:wrong");
            rig.field("Authorization", &wrong).field("authorization", "Bearer abc").field("X-Consumer-Name", "alice");
            assert_eq!(rig.refusal().await, "");
            let mut told = vec!["authorization: Bearer abc".to_owned(), "X-Consumer-Name: alice".to_owned()];
            if goes_on {
                told.insert(0, format!("Authorization: {wrong}"));
            }
            assert_eq!(lines(&rig.fields), told);
        }
    }

    #[tokio::test]
    async fn a_password_says_who_asks_and_goes_no_further() {
        for (user, who) in [("carol@example.com:correct: horse", "carol"), ("dave:päss wörd", "dave")] {
            let mut rig = rig("{}");
            // The first is checked, the second known.
            for _ in 0..2 {
                rig.fields.clear();
                rig.facts = crate::plugin::Facts::default();
                rig.field("Authorization", &basic(user)).field("X-Consumer-Name", "root");
                assert_eq!(rig.refusal().await, "");
                assert_eq!(lines(&rig.fields), [format!("X-Consumer-Name: {who}")]);
            }
        }
    }

    #[tokio::test]
    async fn whatever_else_is_sent_is_refused() {
        let long = basic(&"x".repeat(1000));
        for (value, refusal) in [
            (String::new(), "password_missing"),
            ("Bearer abc".to_owned(), "password_missing"),
            ("Basic".to_owned(), "password_missing"),
            ("Basic !!!".to_owned(), "password_invalid"),
            (basic("dave"), "password_invalid"),
            (basic("dave:"), "password_invalid"),
            (basic("dave:wrong"), "password_invalid"),
            (basic("Dave:päss wörd"), "password_invalid"),
            (basic("nobody:päss wörd"), "password_invalid"),
            (basic(":"), "password_invalid"),
            (format!("Basic {}", STANDARD.encode(b"\xff\xfe:x")), "password_invalid"),
            (long, "password_invalid"),
            (basic("dave:päss wörd").replace("Basic", "bASIC"), ""),
        ] {
            let mut rig = rig("{}");
            if !value.is_empty() {
                rig.field("Authorization", &value);
            }
            assert_eq!(rig.refusal().await, refusal, "{value:.100}");
        }
        let mut twice = rig("{}");
        twice.field("Authorization", &basic("dave:a")).field("Authorization", "Bearer x");
        assert_eq!(twice.refusal().await, "credentials_repeated");
    }

    #[tokio::test]
    async fn without_a_password_requests_go_on_if_they_may_and_are_asked_for_one_if_not() {
        let mut optional = rig(r#"{"optional": true}"#);
        assert_eq!(optional.refusal().await, "");
        assert!(optional.facts.consumer.is_none());
        assert_eq!(optional.field("Authorization", &basic("dave:no")).refusal().await, "password_invalid");
        let mut asked = rig(r#"{"realm": "a b"}"#);
        let Some(Flow::Refuse(refusal)) = asked.ask().await else { panic!("it is refused") };
        assert_eq!(lines(&refusal.fields), ["WWW-Authenticate: Basic realm=\"a b\", charset=\"UTF-8\""]);
    }

    #[test]
    fn a_realm_that_would_break_the_header_is_told() {
        assert_eq!(crate::plugin::tests::fields_at_fault("basic_auth", r#"{"realm": "a\"b"}"#), ["config.realm"]);
    }
}
