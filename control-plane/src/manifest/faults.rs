//! Collects faults while an item is decoded. Decoding never stops at one: a broken value is reported and left out,
//! and reading goes on, so that one report holds everything there is to mend.

use std::collections::HashSet;

use rustygate_proto::v1 as wire;

use super::FAULTS_MAX;
use super::decode::secrets_in_place;
use super::node::{Entry, Node, Scalar, Span, Value};
use super::place::Lines;
use super::references::References;
pub(super) use crate::codes::{
    BAD_VALUE, CONFLICT, DUPLICATE_KEY, DUPLICATE_NAME, MISSING_FIELD, SYNTAX, TOO_LARGE, UNKNOWN_FIELD, UNREADABLE,
    UNSUPPORTED, WRONG_TYPE,
};
use crate::report::shown;

/// A fault, before its file and source line are looked up.
#[derive(Debug)]
struct Placed {
    document: usize,
    span: Span,
    fault: wire::Fault,
    /// Its line holds a secret.
    hidden: bool,
}

/// Every fault so far, and the document that is being read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    placed: Vec<Placed>,
    /// What the documents refer to: decoding asks for it.
    pub(super) references: References,
    pub(super) document: usize,
    /// The mappings of the document that would have more by a merge key: what is missing there may be in what is merged.
    merging: Vec<(usize, Span)>,
    /// Document and line of secrets that are written in place: see [`Faults::hide`].
    pub(super) hidden: HashSet<(usize, u32)>,
}

/// The keys of one mapping.
pub(super) struct Fields<'n, 't, const N: usize> {
    /// In the order in which they were asked for.
    pub found: [Option<&'n Entry<'t>>; N],
    known: [&'static str; N],
    what: &'static str,
    span: Span,
    /// How many keys are unknown.
    unknown: usize,
    /// What they were probably meant to be, whose absence needs no fault of its own.
    guesses: Vec<&'static str>,
}

impl<const N: usize> Fields<'_, '_, N> {
    /// Every key is known, so that what is missing is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.unknown == 0
    }
}

impl Faults {
    pub(super) fn new(contents: Vec<wire::Content>) -> Self {
        Self { references: References::new(contents), ..Self::default() }
    }

    /// One more than the bound is kept, to know that there are more.
    pub(super) fn add(&mut self, code: &str, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let fault =
            wire::Fault { code: code.into(), message: message.into(), hint: hint.into(), ..wire::Fault::default() };
        self.placed.push(Placed { document: self.document, span, fault, hidden: false });
    }

    /// The mapping there has a merge key, which is a fault already.
    pub(super) fn merges(&mut self, mapping: Span) {
        if !self.is_full() {
            self.merging.push((self.document, mapping));
        }
    }

    /// No report shows the line that begins this value, since it holds a secret.
    pub(super) fn hide(&mut self, value: Span) {
        self.hidden.insert((self.document, value.line));
    }

    pub(super) fn len(&self) -> usize {
        self.placed.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.placed.len() > FAULTS_MAX
    }

    /// Says of every fault since `from` which resource it is of, and which field.
    pub(super) fn attribute(&mut self, from: usize, kind: wire::Kind, name: &str, item: &Node<'_>) {
        for placed in &mut self.placed[from..] {
            placed.fault.kind = kind.into();
            placed.fault.name = name.into();
            placed.fault.field = item.path_to(placed.span).unwrap_or_default();
            placed.hidden = is_secret(kind, item, &placed.fault.field, placed.span);
        }
    }

    /// In the order of the input, each with its source line; at most [`FAULTS_MAX`] and one that says so.
    pub(super) fn finish(mut self, documents: &[wire::Document]) -> Vec<wire::Fault> {
        self.placed.sort_by_key(|placed| (placed.document, placed.span.line, placed.span.column));
        let full = self.is_full();
        self.placed.truncate(FAULTS_MAX);
        let mut lines: Option<(usize, Lines<'_>)> = None;
        let mut faults = Vec::with_capacity(self.placed.len() + 1);
        for Placed { document, span, mut fault, hidden } in self.placed {
            let hidden = hidden || self.hidden.contains(&(document, span.line));
            if let Some(source) = documents.get(document) {
                let known = lines.take().filter(|(of, _)| *of == document).map(|(_, lines)| lines);
                let mut table = known.unwrap_or_else(|| Lines::new(source));
                fault.location = Some(if hidden { table.hidden(span) } else { table.location(span) });
                lines = Some((document, table));
            }
            faults.push(fault);
        }
        if full {
            faults.push(wire::Fault {
                code: TOO_LARGE.into(),
                message: format!("more than {FAULTS_MAX} faults: the rest was not read"),
                hint: "mend these and try again".into(),
                ..wire::Fault::default()
            });
        }
        faults
    }

    /// The keys of a mapping, each at most once; unknown ones are faults.
    pub(super) fn fields<'n, 't, const N: usize>(
        &mut self,
        node: &'n Node<'t>,
        what: &'static str,
        known: [&'static str; N],
    ) -> Option<Fields<'n, 't, N>> {
        let Value::Map(entries) = &node.value else {
            self.mismatch(node, &format!("{what} (a mapping)"));
            return None;
        };
        let mut fields = Fields { found: [None; N], known, what, span: node.span, unknown: 0, guesses: Vec::new() };
        for entry in entries {
            match known.iter().position(|name| *name == entry.key) {
                Some(index) => fields.found[index] = Some(entry),
                None => {
                    fields.unknown += 1;
                    fields.guesses.extend(self.unknown(&entry.key, entry.key_span, what, &known));
                }
            }
        }
        Some(fields)
    }

    /// Reports a key that nothing reads and answers what it was probably meant to be.
    pub(super) fn unknown(
        &mut self,
        key: &str,
        span: Span,
        what: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        if self.is_full() {
            return None;
        }
        let guess = closest(key, known);
        let mut hint = guess.map(|guess| format!("did you mean {guess:?}? ")).unwrap_or_default();
        hint += &format!("{what} has: {}", known.join(", "));
        self.add(UNKNOWN_FIELD, span, format!("unknown field {}", shown(key)), hint);
        guess
    }

    /// The value of a key that must be there.
    pub(super) fn required<'n, 't, const N: usize>(
        &mut self,
        fields: &Fields<'n, 't, N>,
        key: &'static str,
    ) -> Option<&'n Node<'t>> {
        let index = fields.known.iter().position(|known| *known == key)?;
        let merged = || self.merging.contains(&(self.document, fields.span));
        if fields.found[index].is_none() && !fields.guesses.contains(&key) && !merged() {
            let hint = format!("{} has: {}", fields.what, fields.known.join(", "));
            self.add(MISSING_FIELD, fields.span, format!("{} needs {key:?}", fields.what), hint);
        }
        fields.found[index].map(|entry| &entry.value)
    }

    /// Reports the second of two keys that exclude each other.
    pub(super) fn conflict(&mut self, one: &Entry<'_>, other: &Entry<'_>, hint: &str) {
        let (first, second) = if (one.key_span.line, one.key_span.column) < (other.key_span.line, other.key_span.column)
        {
            (one, other)
        } else {
            (other, one)
        };
        let message = format!("{:?} and {:?} (line {}) exclude each other", second.key, first.key, first.key_span.line);
        self.add(CONFLICT, second.key_span, message, hint);
    }

    /// Reports a value of the wrong type.
    pub(super) fn mismatch(&mut self, node: &Node<'_>, expected: &str) {
        if matches!(node.value, Value::Broken) {
            return;
        }
        let wants_text = expected.contains("string");
        let hint = match (&node.value, node.scalar()) {
            (_, Some(Scalar::Null)) if expected.contains("list") => {
                "write [] for an empty list, or leave the field out".into()
            }
            (_, Some(Scalar::Null)) => "give it a value, or leave the field out".into(),
            (Value::Plain(text), Some(Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Float(_))) if wants_text => {
                format!("write it in quotes: \"{text}\"")
            }
            (_, Some(Scalar::Text(_))) if expected.contains("boolean") => "write true or false".into(),
            (_, Some(_)) if expected.contains("list") => "write it in brackets: [...]".into(),
            _ => String::new(),
        };
        self.add(WRONG_TYPE, node.span, format!("expected {expected}, found {}", node.noun()), hint);
    }

    pub(super) fn text<'n>(&mut self, node: &'n Node<'_>) -> Option<&'n str> {
        match node.scalar() {
            Some(Scalar::Text(text)) => Some(text),
            _ => {
                self.mismatch(node, "a string");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, node: &Node<'_>) -> Option<bool> {
        match node.scalar() {
            Some(Scalar::Bool(value)) => Some(value),
            _ => {
                self.mismatch(node, "a boolean");
                None
            }
        }
    }

    /// A whole number from 0 or 1 up to a bound.
    pub(super) fn integer(&mut self, node: &Node<'_>, least: u32, most: u32) -> Option<u32> {
        let Some(Scalar::Integer(value)) = node.scalar() else {
            self.mismatch(node, "an integer");
            return None;
        };
        let fitting = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
        if fitting.is_none() {
            self.add(BAD_VALUE, node.span, format!("expected an integer from {least} to {most}"), "");
        }
        fitting
    }

    pub(super) fn list<'n, 't>(&mut self, node: &'n Node<'t>) -> Option<&'n [Node<'t>]> {
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.mismatch(node, "a list");
                None
            }
        }
    }

    /// A list that says something: where it may be left out, leaving it out is the way to say nothing.
    pub(super) fn filled_list<'n, 't>(&mut self, node: &'n Node<'t>, hint: &str) -> Option<&'n [Node<'t>]> {
        let items = self.list(node)?;
        if items.is_empty() {
            self.add(BAD_VALUE, node.span, "the list is empty", hint);
        }
        Some(items)
    }

    /// Different strings, in the order written; `one` reads each.
    pub(super) fn distinct(
        &mut self,
        nodes: &[Node<'_>],
        mut one: impl FnMut(&mut Self, &Node<'_>) -> Option<String>,
    ) -> Vec<String> {
        let mut values: Vec<String> = Vec::with_capacity(nodes.len());
        // Few are long; a set is not worth its cost for the others.
        let mut set = (nodes.len() > 32).then(HashSet::new);
        for node in nodes {
            let Some(value) = one(self, node) else { continue };
            let new = match &mut set {
                Some(set) => set.insert(value.clone()),
                None => !values.contains(&value),
            };
            if new {
                values.push(value);
            } else {
                self.add(BAD_VALUE, node.span, format!("{} is in the list twice", shown(&value)), "remove one");
            }
        }
        values
    }
}

/// Whether a place in an item is a secret that is written in place, or on the line where one begins.
pub(super) fn is_secret(kind: wire::Kind, item: &Node<'_>, field: &str, span: Span) -> bool {
    let secrets = match kind {
        wire::Kind::Certificate => {
            item.entry("key").map(|key| &key.value).filter(|key| key.scalar().is_some()).into_iter().collect()
        }
        wire::Kind::Plugin => secrets_in_place(item),
        _ => Vec::new(),
    };
    let is = |secret: &Node<'_>| secret.span.line == span.line || item.path_to(secret.span).as_deref() == Some(field);
    secrets.into_iter().any(is)
}

/// The known name that a mistyped one is nearest to, if it is near.
pub(super) fn closest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer words are never a slip of a name of ours, and comparing them costs their length.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&word, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
