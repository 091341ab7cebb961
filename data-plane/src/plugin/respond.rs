//! `respond`: answers by itself; no upstream sees the request.

use super::{
    LocalResponse, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{fields::Fields, snapshot::fault::Faults};

/// The most bytes that a body has.
const BODY_BYTES_MAX: usize = 64 << 10;

const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

pub(super) static SPEC: Spec = Spec {
    name: "respond",
    summary: "Answers by itself; no backend sees the request.",
    details: "The answer is the configuration's own and has no reason in the access log.",
    keys: &[
        Key::new("status", Kind::Integer { min: 200, max: 599 }, "200", "Status of the answer"),
        Key::new("body", Kind::Text { max: BODY_BYTES_MAX }, "", "Its body"),
        Key::new("content_type", Kind::FieldValue, CONTENT_TYPE, "Its `Content-Type`, if it has a body"),
        Key::new("headers", Kind::Fields, "", "Further fields of the answer; up to 100"),
    ],
    example: "status: 503\nbody: back soon\nheaders: {retry-after: \"60\"}",
    reasons: &[],
};

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> LocalResponse {
    let status = config.integer("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
    let body = config.text("body").unwrap_or_default();
    if !body.is_empty() && matches!(status, 204 | 304) {
        config.fault("body", format_args!("an answer with status {status} has no body"), "leave it out", faults);
    }
    let mut fields = Fields::new();
    for (name, value) in config.fields("headers") {
        fields.append(&name, &value);
    }
    let has_type = fields.get("content-type").is_some();
    if has_type && config.has("content_type") {
        config.fault("content_type", "the content type is in the headers too", "leave out one of them", faults);
    } else if config.has("content_type") || (!body.is_empty() && !has_type) {
        fields.append("content-type", config.value("content_type").as_bytes());
    }
    LocalResponse { status, fields, body: body.to_owned().into() }
}
