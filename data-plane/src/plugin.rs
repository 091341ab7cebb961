//! The plugins, a closed set: one file each in `plugin/`, one variant here.

use rustygate_proto::v1 as wire;

use crate::fields::Fields;

/// One configured plugin.
#[derive(Debug)]
pub struct Plugin {
    /// As the manifest names it.
    pub name: Box<str>,
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
        Ok(Self { name: plugin.name.as_str().into() })
    }

    /// The request phase: may change the fields that go upstream, or answer.
    pub fn on_request(&self, fields: &mut Fields) -> Flow {
        let _ = fields;
        Flow::Continue
    }

    /// The response phase: may change the fields that go to the client.
    pub fn on_response(&self, fields: &mut Fields) {
        let _ = fields;
    }
}
