//! The YAML that users write: parsed into wire resources, and written back.
//!
//! Text goes through one parser in one pass, an item at a time (`read`), and each item becomes its wire resource
//! or faults with their places (`decode`). A resource comes out in normal form: what may be written in two ways is
//! one thing on the wire, and [`to_yaml`] writes it in the shortest.
//!
//! YAML 1.2, with these rules on top: a key may be there once; tags other than `!!str` and merge keys (`<<`) are
//! refused; anchors and aliases work within and between the items of a file, as far as [`EXPANSION_MAX`] values.

mod decode;
mod emit;
mod faults;
mod locate;
mod name;
mod node;
mod place;
mod read;
mod references;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use rustygate_proto::v1 as wire;

use self::faults::{DUPLICATE_NAME, Faults, MISSING_FIELD, TOO_LARGE};
use self::node::Span;
pub use self::references::{CONTENT_BYTES_MAX, REFERENCES_MAX, Reference, too_large};
use crate::report::shown;

/// Bytes of all documents of one input.
pub const INPUT_BYTES_MAX: usize = 32 << 20;

/// YAML documents (`---`) of one file.
pub const DOCUMENTS_MAX: usize = 100_000;

/// Lists and mappings inside each other, the document itself included.
pub const DEPTH_MAX: usize = 64;

/// Scalars, lists and mappings of one resource.
pub const ITEM_VALUES_MAX: usize = 200_000;

/// Values of an unknown section that are passed over to reach what follows it.
pub const SKIPPED_MAX: usize = 1_000_000;

/// Values of one file that anchors remember and aliases repeat.
pub const EXPANSION_MAX: usize = 200_000;

/// Faults of one report.
pub const FAULTS_MAX: usize = 100;

/// What some documents hold, and where in them.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Those without a fault, in order of appearance; names are unique by kind.
    pub resources: Vec<wire::Resource>,
    /// Every fault of shape and of single values, each with its place; at most [`FAULTS_MAX`].
    pub faults: Vec<wire::Fault>,
    /// What has such a fault, as far as it has a name.
    pub broken: Vec<wire::ResourceKey>,
    /// Every name that the documents define is known: what is not among them is not there.
    pub complete: bool,
    /// Of each name.
    origins: Vec<Origin>,
    /// Places in `origins`.
    by_name: [HashMap<String, usize>; 7],
    /// Document and line of secrets that are written in place.
    hidden: HashSet<(usize, u32)>,
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
    /// Its place in `resources`, if it has no fault.
    resource: Option<usize>,
}

/// Parses documents that refer to nothing outside.
#[must_use]
pub fn parse(documents: Vec<wire::Document>) -> Parsed {
    parse_with(documents, Vec::new())
}

/// The references of documents to files and variables, each once, in order; one more than [`REFERENCES_MAX`] at most.
/// Whoever has the documents reads them, where they are, and sends what they stand for along.
#[must_use]
pub fn references(documents: &[wire::Document]) -> Vec<Reference> {
    // Most documents have none, and need not be read twice.
    if !documents.iter().any(|document| document.yaml.contains("file") || document.yaml.contains("env")) {
        return Vec::new();
    }
    let mut faults = Faults::default();
    read_all(documents, &mut faults);
    faults.references.into_asked()
}

/// Parses documents, together one input. What has a fault is left out, and reading goes on.
#[must_use]
pub fn parse_with(documents: Vec<wire::Document>, contents: Vec<wire::Content>) -> Parsed {
    let mut faults = Faults::new(contents);
    let mut parsed = read_all(&documents, &mut faults);
    // The lines of an input that is too large are not worth looking at.
    let is_shown = input_bytes(&documents) <= INPUT_BYTES_MAX;
    parsed.hidden.clone_from(&faults.hidden);
    let faults = faults.finish(if is_shown { &documents } else { &[] });
    if is_shown {
        parsed.documents = documents;
    }
    parsed.refused(faults)
}

fn input_bytes(documents: &[wire::Document]) -> usize {
    documents.iter().map(|document| document.yaml.len()).fold(0, usize::saturating_add)
}

fn read_all(documents: &[wire::Document], faults: &mut Faults) -> Parsed {
    let mut parsed = Parsed { complete: true, ..Parsed::default() };
    let bytes = input_bytes(documents);
    if bytes > INPUT_BYTES_MAX {
        let message = format!("the input has {bytes} bytes, more than {INPUT_BYTES_MAX}");
        faults.add(TOO_LARGE, Span::START, message, "apply it in parts");
        // Its lines are not worth looking at.
        return parsed;
    }
    if documents.is_empty() {
        faults.add(MISSING_FIELD, Span::START, "the input holds nothing", "give at least one file");
        return parsed;
    }
    for (index, document) in documents.iter().enumerate() {
        faults.document = index;
        let mut item = 0;
        let any = read::items(document, faults, |faults, kind, node, before| {
            let decoded = decode::item(faults, kind, node);
            let origin = Origin { document: index, item, span: node.span, named: false, resource: None };
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
                // Nothing refers to a route.
                parsed.complete &= kind == wire::Kind::Route || !name.is_empty();
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
    parsed.complete &= !faults.is_full();
    parsed
}

/// Canonical YAML of resources; applying it again changes nothing.
#[must_use]
pub fn to_yaml(resources: &[wire::Resource]) -> String {
    write::document(resources)
}

impl Parsed {
    /// Fills in where in the documents faults lie, from their kinds, names and fields. Reads each document that has
    /// one once more.
    pub fn locate(&self, faults: &mut [wire::Fault]) {
        locate::fill(self, faults);
    }

    /// Which of the documents it is, if it is one of them.
    #[must_use]
    pub fn position(&self, file: &str) -> Option<usize> {
        self.documents.iter().position(|document| document.file == file)
    }

    fn refused(self, faults: Vec<wire::Fault>) -> Self {
        // A fault of no resource is one of the text: some of it was not understood.
        let complete = self.complete && faults.iter().all(|fault| fault.kind() != wire::Kind::Unspecified);
        Self { faults, complete, ..self }
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
                let (message, hint) = if kind == wire::Kind::Defaults {
                    (
                        format!("there are defaults already: the first are {place}"),
                        "there is one set of defaults: merge the two",
                    )
                } else if origin.named && first.named {
                    (format!("two {noun}s have the name {}: the first is {place}", shown(name)), "rename one of them")
                } else {
                    let hint = "a route without a name gets one from its match: give it a name, or change the match";
                    (format!("this route and the one {place} both get the name {}", shown(name)), hint)
                };
                faults.add(DUPLICATE_NAME, origin.span, message, hint);
                return resource;
            }
        };
        if whole {
            self.origins.push(Origin { resource: Some(self.resources.len()), ..origin });
            self.resources.push(resource);
            return wire::Resource::default();
        }
        self.origins.push(origin);
        self.broken.push(wire::ResourceKey { kind: kind.into(), name: name.to_owned() });
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
        wire::Kind::Certificate => 4,
        wire::Kind::Defaults => 5,
        wire::Kind::Consumer => 6,
    }
}

/// The text without the byte order mark that some editors put in front.
fn text_of(document: &wire::Document) -> &str {
    document.yaml.strip_prefix('\u{feff}').unwrap_or(&document.yaml)
}
