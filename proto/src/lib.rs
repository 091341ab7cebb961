//! The wire between RustyGate's planes, and nothing else: the generated messages and services of
//! package `rustygate.v1`, the [`checksum`] that proves a proxy holds a revision, and the [`frames`]
//! in which changes travel. Both planes use this one code, so they cannot disagree.

pub mod checksum;
mod debug;
pub mod frames;

/// The generated messages and services.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("rustygate.v1");

    /// The encoded `FileDescriptorSet` of the package, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

impl v1::Resource {
    /// Kind and name, or `None` if the resource has no kind (a sender newer than this reader).
    #[must_use]
    pub fn key(&self) -> Option<(v1::Kind, &str)> {
        use v1::{Kind, resource};
        Some(match self.kind.as_ref()? {
            resource::Kind::Listener(listener) => (Kind::Listener, &listener.name),
            resource::Kind::Backend(backend) => (Kind::Backend, &backend.name),
            resource::Kind::Plugin(plugin) => (Kind::Plugin, &plugin.name),
            resource::Kind::Route(route) => (Kind::Route, &route.name),
            resource::Kind::Certificate(certificate) => (Kind::Certificate, &certificate.name),
            resource::Kind::Consumer(consumer) => (Kind::Consumer, &consumer.name),
            resource::Kind::Defaults(defaults) => (Kind::Defaults, &defaults.name),
        })
    }
}

impl v1::Kind {
    /// As users write it: "route".
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            v1::Kind::Unspecified => "resource",
            v1::Kind::Listener => "listener",
            v1::Kind::Backend => "backend",
            v1::Kind::Plugin => "plugin",
            v1::Kind::Route => "route",
            v1::Kind::Certificate => "certificate",
            v1::Kind::Consumer => "consumer",
            v1::Kind::Defaults => "defaults",
        }
    }
}
