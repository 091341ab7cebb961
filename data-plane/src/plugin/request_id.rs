//! `request_id`: gives every request an id that client, backend and log know it by.

use super::{
    Flow, PluginRequest, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{fields::Fields, forward::alias_is, snapshot::fault::Faults};

/// The most bytes of an id that is taken over.
const ID_BYTES_MAX: usize = 128;

const HEADER: &str = "x-request-id";

pub(super) static SPEC: Spec = Spec {
    name: "request_id",
    summary: "Gives every request an id that client, backend and log know it by.",
    details: "A new id is a random UUID. One that comes with the request is taken over from whom `trust` says, if it has up to \
128 letters, digits or any of `-._~+/=:`; else it is replaced, in every spelling that a backend may read as the same name. The \
access log has it as `request_id`.",
    keys: &[
        Key::new("header", Kind::FieldName, HEADER, "The header that has it"),
        Key::new(
            "trust",
            Kind::Word(&["never", "trusted_proxies", "always"]),
            "trusted_proxies",
            "Whose ids are taken over",
        ),
        Key::new("respond", Kind::Bool, "true", "Whether the answer has it too"),
    ],
    example: "header: x-correlation-id\ntrust: never",
    reasons: &[],
};

#[derive(Debug)]
pub(super) struct RequestId {
    header: Box<str>,
    trust: Trust,
    respond: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Never,
    TrustedProxies,
    Always,
}

pub(super) fn compile(config: &Config<'_>, _: &mut Faults) -> RequestId {
    let trust = match config.word("trust") {
        "never" => Trust::Never,
        "always" => Trust::Always,
        _ => Trust::TrustedProxies,
    };
    let header = config.names("header").pop().unwrap_or_else(|| HEADER.into());
    RequestId { header, trust, respond: config.bool("respond") }
}

impl RequestId {
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        let trusted = self.trust == Trust::Always || (self.trust == Trust::TrustedProxies && request.trusted);
        let own = request.fields.get(&self.header).and_then(|id| std::str::from_utf8(id).ok());
        let own = own.filter(|id| trusted && is_sound(id)).map(Into::into);
        let id: Box<str> = own.unwrap_or_else(|| new(fastrand::u128(..)).into());
        request.fields.retain(|name, _| !alias_is(name, &self.header));
        request.fields.append(&self.header, id.as_bytes());
        if self.respond {
            request.facts.answer.set(&self.header, id.as_bytes());
        }
        request.facts.request_id = Some(id);
        Flow::Continue
    }
}

impl RequestId {
    /// What is said in the head is not said behind the body again.
    pub fn on_trailers(&self, trailers: &mut Fields) {
        trailers.retain(|name, _| !alias_is(name, &self.header));
    }
}

fn is_sound(id: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=:".contains(&byte);
    !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(sound)
}

/// A UUID of version 4 of these random bits (RFC 9562 section 5.4).
fn new(random: u128) -> String {
    let bits = random & !(0xf000_u128 << 64) & !(0b11_u128 << 62) | (0x4000 << 64) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{rig::Rig, tests::lines};

    #[tokio::test]
    async fn ids_are_taken_over_from_whom_they_may_and_made_otherwise() {
        for (trust, by_proxy, kept) in [
            ("never", true, false),
            ("trusted_proxies", true, true),
            ("trusted_proxies", false, false),
            ("always", false, true),
        ] {
            let mut rig = Rig::new("request_id", &format!(r#"{{"trust": "{trust}"}}"#));
            rig.trusted = by_proxy;
            assert!(rig.field("X-Request-Id", "abc-1").field("X_Request_ID", "forged").ask().await.is_none());
            let id = rig.facts.request_id.clone().expect("an id");
            assert_eq!((&*id == "abc-1", id.len()), (kept, if kept { 5 } else { 36 }), "{trust}");
            assert_eq!(lines(&rig.fields), [format!("x-request-id: {id}")]);
            assert_eq!(rig.answer(200, &[("X-Request-ID", "of the backend")]), [format!("x-request-id: {id}")]);
        }
    }

    #[tokio::test]
    async fn what_is_no_id_is_replaced_and_each_request_gets_its_own() {
        let mut seen = std::collections::HashSet::new();
        for id in ["", "a b", "a\u{e9}", &"x".repeat(129), "a,b", "\"q\""] {
            let mut rig = Rig::new("request_id", r#"{"trust": "always", "header": "x-id", "respond": false}"#);
            rig.fields.append("x-id", id.as_bytes());
            assert!(rig.ask().await.is_none());
            assert!(seen.insert(rig.facts.request_id.clone().expect("an id")), "twice");
            assert!(rig.answer(200, &[]).is_empty());
        }
    }

    #[test]
    fn ids_are_uuids() {
        assert_eq!(new(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(new(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
