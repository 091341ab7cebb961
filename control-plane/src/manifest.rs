//! The YAML that users write: parsed into wire resources, and written back.

use rustygate_proto::v1 as wire;

/// What some documents hold, and where in them.
#[derive(Debug)]
pub struct Parsed {
    /// In order of appearance; names are unique by kind.
    pub resources: Vec<wire::Resource>,
}

impl Parsed {
    /// Fills in where in the documents a fault lies, from its kind, name and field.
    pub fn locate(&self, fault: &mut wire::Fault) {
        let _ = fault;
    }
}

/// Parses documents, together one input.
///
/// # Errors
/// Every fault of shape and of single values, each with its place.
pub fn parse(documents: &[wire::Document]) -> Result<Parsed, Vec<wire::Fault>> {
    let _ = documents;
    Ok(Parsed { resources: Vec::new() })
}

/// Canonical YAML of resources; applying it again changes nothing.
#[must_use]
pub fn to_yaml(resources: &[wire::Resource]) -> String {
    let _ = resources;
    String::new()
}
