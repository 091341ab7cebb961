//! The plugins, a closed set: one file each in `plugin/`, one variant here.

mod config;
mod headers;
mod respond;

use rustygate_proto::v1 as wire;

use self::config::Config;
use crate::{
    fields::Fields,
    snapshot::{fault, fault::Faults},
};

/// The types that this version has.
const TYPES: [&str; 2] = ["headers", "respond"];

/// One configured plugin.
#[derive(Debug)]
pub struct Plugin {
    /// As the manifest names it.
    pub name: Box<str>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Headers(headers::Headers),
    Respond(LocalResponse),
}

/// What happens after a plugin saw a request.
#[derive(Debug)]
pub enum Flow {
    /// On to the next plugin, or to the upstream.
    Continue,
    /// This is the answer; no upstream sees the request.
    Respond(LocalResponse),
}

/// An answer that the gateway makes by itself.
#[derive(Clone, Debug)]
pub struct LocalResponse {
    /// Status code.
    pub status: u16,
    /// Without framing fields.
    pub fields: Fields,
    /// The whole body.
    pub body: bytes::Bytes,
}

impl Plugin {
    /// Compiles a plugin from the wire.
    ///
    /// # Errors
    /// Every fault of its configuration.
    pub fn compile(plugin: &wire::Plugin) -> Result<Self, Vec<wire::Fault>> {
        let mut faults = Faults::default();
        faults.enter(wire::Kind::Plugin, &plugin.name);
        let kind = match plugin.r#type.as_str() {
            "headers" => read(plugin, &mut faults, headers::compile).map(Kind::Headers),
            "respond" => read(plugin, &mut faults, respond::compile).map(Kind::Respond),
            other => {
                let message = format_args!("plugin type {other:?} is not available in this version");
                let hint = match fault::closest(other, TYPES.into_iter()) {
                    Some(close) => format!("did you mean {close:?}?"),
                    None => format!("available types: {}", TYPES.join(", ")),
                };
                faults.add_with_hint(fault::UNKNOWN_PLUGIN_TYPE, "type", message, hint);
                None
            }
        };
        match kind {
            Some(kind) if faults.is_empty() => Ok(Self { name: plugin.name.as_str().into(), kind }),
            _ => Err(faults.into_vec()),
        }
    }

    /// The request phase: may change the fields that go upstream, or answer.
    pub fn on_request(&self, fields: &mut Fields) -> Flow {
        match &self.kind {
            Kind::Headers(headers) => headers.request.apply_to_request(fields),
            Kind::Respond(response) => return Flow::Respond(response.clone()),
        }
        Flow::Continue
    }

    /// The trailers of a request: whatever this plugin decides about in the head is not said behind the body again.
    pub fn on_request_trailers(&self, trailers: &mut Fields) {
        match &self.kind {
            Kind::Headers(headers) => headers.request.apply_to_trailers(trailers),
            Kind::Respond(_) => {}
        }
    }

    /// The same of a response.
    pub fn on_response_trailers(&self, trailers: &mut Fields) {
        match &self.kind {
            Kind::Headers(headers) => headers.response.apply_to_trailers(trailers),
            Kind::Respond(_) => {}
        }
    }

    /// The response phase: may change the fields that go to the client.
    pub fn on_response(&self, fields: &mut Fields) {
        match &self.kind {
            Kind::Headers(headers) => headers.response.apply_to_response(fields),
            Kind::Respond(_) => {}
        }
    }
}

/// Compiles a configuration; "" stands for an empty one.
fn read<T>(plugin: &wire::Plugin, faults: &mut Faults, compile: fn(&Config<'_>, &mut Faults) -> T) -> Option<T> {
    let text = if plugin.config_json.is_empty() { "{}" } else { &plugin.config_json };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => Config::object(&value, "config".to_owned(), faults).map(|config| compile(&config, faults)),
        Err(error) => {
            faults.add(fault::BAD_PLUGIN_CONFIG, "config", format_args!("the configuration is no JSON: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
