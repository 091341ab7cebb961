//! The YAML that users write: parsed into wire resources, and written back.
//!
//! Text goes through one parser in one pass, an item at a time (`read`), and each item becomes its wire resource
//! or faults with their places (`decode`). A resource comes out in normal form: what may be written in two ways is
//! one thing on the wire, and [`to_yaml`] writes it in the shortest.
//!
//! YAML 1.2, with these rules on top: a key may be there once; tags other than `!!str` and merge keys (`<<`) are
//! refused; anchors and aliases work within and between the items of a file, as far as [`EXPANSION_MAX`] values.

mod decode;
mod duration;
mod emit;
mod faults;
mod locate;
mod name;
mod node;
mod place;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rustygate_proto::v1 as wire;

use self::faults::{DUPLICATE_NAME, Faults, MISSING_FIELD, TOO_LARGE};
use self::node::Span;
use crate::report::shown;

/// Bytes of all documents of one input.
pub const INPUT_BYTES_MAX: usize = 32 << 20;

/// YAML documents (`---`) of one file.
pub const DOCUMENTS_MAX: usize = 100_000;

/// Lists and mappings inside each other, the document itself included.
pub const DEPTH_MAX: usize = 64;

/// Scalars, lists and mappings of one listener, backend, plugin or route.
pub const ITEM_VALUES_MAX: usize = 200_000;

/// Values of an unknown section that are passed over to reach what follows it.
pub const SKIPPED_MAX: usize = 1_000_000;

/// Values of one file that anchors remember and aliases repeat.
pub const EXPANSION_MAX: usize = 200_000;

/// Faults of one report.
pub const FAULTS_MAX: usize = 100;

/// What some documents hold, and where in them.
#[derive(Debug)]
pub struct Parsed {
    /// In order of appearance; names are unique by kind.
    pub resources: Vec<wire::Resource>,
    /// Of each resource.
    origins: Vec<Origin>,
    /// Places in `resources`.
    by_name: [HashMap<String, usize>; 4],
    documents: Vec<wire::Document>,
}

/// Which item of the input a resource was.
#[derive(Clone, Copy, Debug)]
struct Origin {
    document: usize,
    /// Among all items of its document.
    item: usize,
    span: Span,
    named: bool,
}

/// Parses documents, together one input.
///
/// # Errors
/// Every fault of shape and of single values, each with its place; at most [`FAULTS_MAX`].
pub fn parse(documents: &[wire::Document]) -> Result<Parsed, Vec<wire::Fault>> {
    let mut faults = Faults::default();
    let mut parsed =
        Parsed { resources: Vec::new(), origins: Vec::new(), by_name: Default::default(), documents: Vec::new() };
    let bytes = documents.iter().map(|document| document.yaml.len()).fold(0, usize::saturating_add);
    if bytes > INPUT_BYTES_MAX {
        let message = format!("the input has {bytes} bytes, more than {INPUT_BYTES_MAX}");
        faults.add(TOO_LARGE, Span::START, message, "apply it in parts");
        // Its lines are not worth looking at.
        return Err(faults.finish(&[]));
    }
    if documents.is_empty() {
        faults.add(MISSING_FIELD, Span::START, "the input holds nothing", "give at least one file");
        return Err(faults.finish(&[]));
    }
    for (index, document) in documents.iter().enumerate() {
        faults.document = index;
        let mut item = 0;
        let any = read::items(document, &mut faults, |faults, kind, node, before| {
            let decoded = decode::item(faults, kind, node);
            let origin = Origin { document: index, item, span: node.span, named: false };
            item += 1;
            let whole = faults.len() == before;
            let resource = match decoded {
                Some(decode::Item { resource, named }) => {
                    parsed.add(faults, resource, Origin { named, ..origin }, whole, documents)
                }
                None => wire::Resource::default(),
            };
            if faults.len() > before {
                let name = resource.key().map_or("", |(_, name)| name);
                faults.attribute(before, kind, name, node);
            }
        });
        if !any {
            let hint = format!("a document has: {}; write \"routes: []\" for none", read::SECTIONS.join(", "));
            faults.add(MISSING_FIELD, Span::START, "the file holds nothing", hint);
        }
        if faults.is_full() {
            break;
        }
    }
    if faults.len() > 0 {
        return Err(faults.finish(documents));
    }
    parsed.documents = documents.to_vec();
    Ok(parsed)
}

/// Canonical YAML of resources; applying it again changes nothing.
#[must_use]
pub fn to_yaml(resources: &[wire::Resource]) -> String {
    write::document(resources)
}

impl Parsed {
    /// Fills in where in the documents a fault lies, from its kind, name and field.
    pub fn locate(&self, fault: &mut wire::Fault) {
        self.locate_all(std::slice::from_mut(fault));
    }

    /// Fills in where in the documents faults lie. Reads each document that has one once more, so this is the
    /// better choice for many faults.
    pub fn locate_all(&self, faults: &mut [wire::Fault]) {
        locate::fill(self, faults);
    }

    /// Takes a resource up unless its name is taken; that is a fault. Hands it back if it has one.
    fn add(
        &mut self,
        faults: &mut Faults,
        resource: wire::Resource,
        origin: Origin,
        whole: bool,
        documents: &[wire::Document],
    ) -> wire::Resource {
        // A name that was made from a broken match would be compared for nothing.
        if !whole && !origin.named {
            return wire::Resource::default();
        }
        let Some((kind, name)) = resource.key() else { return resource };
        let names = &mut self.by_name[slot(kind)];
        match names.get(name) {
            _ if name.is_empty() => return resource,
            None => names.insert(name.to_owned(), self.origins.len()),
            Some(first) => {
                let first = self.origins[*first];
                let file = &documents[first.document].file;
                let place = if first.document == origin.document {
                    format!("on line {}", first.span.line)
                } else {
                    format!("in {}, line {}", shown(file), first.span.line)
                };
                let noun = kind.noun();
                let (message, hint) = if origin.named && first.named {
                    (format!("two {noun}s have the name {}: the first is {place}", shown(name)), "rename one of them")
                } else {
                    let hint = "a route without a name gets one from its match: give it a name, or change the match";
                    (format!("this route and the one {place} both get the name {}", shown(name)), hint)
                };
                faults.add(DUPLICATE_NAME, origin.span, message, hint);
                return resource;
            }
        };
        self.origins.push(origin);
        if whole {
            self.resources.push(resource);
            return wire::Resource::default();
        }
        resource
    }
}

/// Where the names of a kind are.
fn slot(kind: wire::Kind) -> usize {
    match kind {
        wire::Kind::Listener => 0,
        wire::Kind::Backend => 1,
        wire::Kind::Plugin => 2,
        wire::Kind::Route | wire::Kind::Unspecified => 3,
    }
}

/// The text without the byte order mark that some editors put in front.
fn text_of(document: &wire::Document) -> &str {
    document.yaml.strip_prefix('\u{feff}').unwrap_or(&document.yaml)
}
