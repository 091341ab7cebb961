//! `body_limit`: bounds the bodies of requests.

use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::snapshot::fault::Faults;

/// The same as where the process's own bound is hit, or a body shows only on its way that it is too large.
pub(super) static TOO_LARGE: Reason = Reason {
    name: "body_too_large",
    status: 413,
    detail: "the request body is too large",
    when: "The body has more bytes, be it by its `Content-Length` or on its way",
};

pub(super) static SPEC: Spec = Spec {
    name: "body_limit",
    summary: "Bounds the bodies of requests.",
    details: "A request whose head tells that its body is too large is refused before any backend sees it. A body that does \
not tell is cut off where it is too large: the client gets the same answer, unless the backend has begun to answer. The \
process's own bound (`--max-body-bytes`) holds besides.",
    keys: &[Key::required("bytes", Kind::Integer { min: 0, max: 1 << 40 }, "The most bytes of a body")],
    example: "bytes: 1048576",
    reasons: &[&TOO_LARGE],
};

#[derive(Debug)]
pub(super) struct BodyLimit {
    bytes: u64,
}

pub(super) fn compile(config: &Config<'_>, _: &mut Faults) -> BodyLimit {
    BodyLimit { bytes: config.integer("bytes").unwrap_or(u64::MAX) }
}

impl BodyLimit {
    pub fn on_request(&self, request: &mut PluginRequest<'_>) -> Flow {
        if request.body_length.is_some_and(|bytes| bytes > self.bytes) {
            return Refusal::new(&TOO_LARGE).into();
        }
        let most = &mut request.facts.body_bytes_max;
        *most = Some(most.map_or(self.bytes, |most| most.min(self.bytes)));
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{rig::Rig, tests::fields_at_fault};

    #[tokio::test]
    async fn a_body_is_refused_by_its_length_and_else_bounded_on_its_way() {
        for (length, reason, bound) in [
            (Some(10), "", Some(10)),
            (Some(11), "body_too_large", None),
            (None, "", Some(10)),
            (Some(0), "", Some(10)),
        ] {
            let mut rig = Rig::new("body_limit", r#"{"bytes": 10}"#);
            rig.body_length = length;
            assert_eq!((rig.refusal().await, rig.facts.body_bytes_max), (reason, bound), "{length:?}");
        }
        assert_eq!(fields_at_fault("body_limit", "{}"), ["config"]);
        assert_eq!(fields_at_fault("body_limit", r#"{"bytes": "1MB"}"#), ["config.bytes"]);
    }
}
