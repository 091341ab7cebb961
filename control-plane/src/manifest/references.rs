//! What documents refer to outside of themselves: `{file: ...}` and `{env: ...}`.
//!
//! The control plane reads no files and no variables for anyone. Whoever has the documents finds the references in them
//! ([`super::references()`]), reads them where the documents are, and sends what they stand for, or why it could not be
//! read, beside the documents.

use std::collections::HashMap;

use rustygate_proto::v1::{self as wire, content::Outcome};

/// The most references of one input.
pub const REFERENCES_MAX: usize = 1_000;

/// The most bytes that one of them may stand for.
pub const CONTENT_BYTES_MAX: usize = 64 << 10;

/// A reference in a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Which document, from 0.
    pub document: usize,
    /// Whether it is a variable's name; else the path of a file.
    pub is_variable: bool,
    /// As written.
    pub name: String,
}

/// What references stand for, and which were asked for.
#[derive(Default)]
pub(super) struct References {
    known: HashMap<Reference, Outcome>,
    asked: HashMap<Reference, usize>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("References").field("known", &self.known.len()).field("asked", &self.asked).finish()
    }
}

/// What a reference stands for.
pub(super) enum Found<'a> {
    Bytes(&'a [u8]),
    /// Why it stands for nothing.
    Error(String),
    /// There are more than [`REFERENCES_MAX`].
    TooMany,
}

impl References {
    pub(super) fn new(contents: Vec<wire::Content>) -> Self {
        use wire::content::Source;
        let known = contents.into_iter().filter_map(|content| {
            let is_variable = match content.source() {
                Source::File => false,
                Source::Env => true,
                Source::Unspecified => return None,
            };
            let document = usize::try_from(content.document).ok()?;
            Some((Reference { document, is_variable, name: content.reference }, content.outcome?))
        });
        Self { known: known.collect(), asked: HashMap::new() }
    }

    pub(super) fn find(&mut self, reference: &Reference) -> Found<'_> {
        let place = self.asked.len();
        let place = *self.asked.entry(reference.clone()).or_insert(place);
        if place >= REFERENCES_MAX {
            return Found::TooMany;
        }
        match self.known.get(reference) {
            Some(Outcome::Bytes(bytes)) if bytes.len() > CONTENT_BYTES_MAX => Found::Error(too_large()),
            Some(Outcome::Bytes(bytes)) => Found::Bytes(bytes),
            Some(Outcome::Error(error)) => Found::Error(error.clone()),
            None => Found::Error(
                "what it stands for was not sent along; is this gatectl as new as the control plane?".into(),
            ),
        }
    }

    /// In the order in which they were asked for.
    pub(super) fn into_asked(self) -> Vec<Reference> {
        let mut asked: Vec<_> = self.asked.into_iter().collect();
        asked.sort_unstable_by_key(|(_, place)| *place);
        asked.into_iter().map(|(reference, _)| reference).collect()
    }
}

/// Says so, here and where files are read.
#[must_use]
pub fn too_large() -> String {
    format!("it has more than {} KiB", CONTENT_BYTES_MAX >> 10)
}
