//! `respond`: answers by itself; no upstream sees the request.
//!
//! ```yaml
//! config: {status: 503, body: "back soon", content_type: text/plain, headers: {retry-after: "60"}}
//! ```

use super::{LocalResponse, config, config::Config};
use crate::{
    fields::Fields,
    snapshot::{fault, fault::Faults},
};

/// The most bytes that a body has.
const BODY_BYTES_MAX: usize = 64 << 10;

const STATUS: u16 = 200;

const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> LocalResponse {
    config.only(&["status", "body", "headers", "content_type"], faults);
    let status = status(config, faults);
    let body = config.text("body", faults).unwrap_or_default();
    if body.len() > BODY_BYTES_MAX {
        let message = format_args!("the body is {} bytes long; at most {BODY_BYTES_MAX} are allowed", body.len());
        faults.add(fault::BAD_PLUGIN_CONFIG, config.path("body"), message);
    }
    if !body.is_empty() && matches!(status, 204 | 304) {
        let message = format_args!("an answer with status {status} has no body");
        faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, config.path("body"), message, "leave it out");
    }
    let mut fields = Fields::new();
    for (name, value) in config.fields("headers", faults) {
        fields.append(&name, &value);
    }
    match config.text("content_type", faults) {
        Some(_) if fields.get("content-type").is_some() => {
            let message = "the content type is in the headers too";
            faults.add_with_hint(
                fault::BAD_PLUGIN_CONFIG,
                config.path("content_type"),
                message,
                "leave out one of them",
            );
        }
        Some(content_type) if config::check_value(content_type, &config.path("content_type"), faults) => {
            fields.append("content-type", content_type.as_bytes());
        }
        None if !body.is_empty() && fields.get("content-type").is_none() => {
            fields.append("content-type", CONTENT_TYPE.as_bytes());
        }
        Some(_) | None => {}
    }
    LocalResponse { status, fields, body: body.to_owned().into() }
}

fn status(config: &Config<'_>, faults: &mut Faults) -> u16 {
    let Some(value) = config.get("status") else { return STATUS };
    match value.as_u64().and_then(|status| u16::try_from(status).ok()).filter(|status| (200..=599).contains(status)) {
        Some(status) => status,
        None => {
            let message = format_args!("{value} is no status that an answer can have");
            faults.add_with_hint(fault::BAD_PLUGIN_CONFIG, config.path("status"), message, "write 200 to 599");
            STATUS
        }
    }
}
