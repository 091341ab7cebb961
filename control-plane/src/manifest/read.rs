//! YAML text -> items, one at a time.
//!
//! The parser gives events; one tree is built for one item of one section, handed over and dropped. So memory is
//! that of the largest item, whatever the size of the file, and every bound is checked before anything grows:
//! depth and number of values as they come, aliases as they are expanded. Nothing here recurses on input.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use rustygate_proto::v1 as wire;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput, Tag};

use super::faults::{DUPLICATE_KEY, Faults, SYNTAX, TOO_LARGE, UNSUPPORTED, WRONG_TYPE};
use super::node::{Entry, Node, Scalar, Span, Value, resolve};
use super::place::Lines;
use super::{DEPTH_MAX, DOCUMENTS_MAX, EXPANSION_MAX, ITEM_VALUES_MAX, SKIPPED_MAX, text_of};
use crate::report::shown;

/// The sections of a document, and what their items are.
pub(super) const SECTIONS: [&str; 7] =
    ["defaults", "certificates", "listeners", "backends", "consumers", "plugins", "routes"];

fn section_kind(key: &str) -> Option<wire::Kind> {
    Some(match key {
        "defaults" => wire::Kind::Defaults,
        "certificates" => wire::Kind::Certificate,
        "listeners" => wire::Kind::Listener,
        "backends" => wire::Kind::Backend,
        "consumers" => wire::Kind::Consumer,
        "plugins" => wire::Kind::Plugin,
        "routes" => wire::Kind::Route,
        _ => return None,
    })
}

/// A fault has been reported after which the rest of the document cannot be read.
struct Stop;

type Spanned<'t> = (Event<'t>, Span);

struct Reader<'t, 'f> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    faults: &'f mut Faults,
    anchors: HashMap<usize, Anchored<'t>>,
    /// Values that were copied because of anchors and aliases.
    expanded: usize,
}

struct Anchored<'t> {
    node: Node<'t>,
    values: usize,
    depth: usize,
}

/// Hands each item of a file to `take`, with how many faults there were before it. Answers whether the file has any section.
pub(super) fn items<'t>(
    document: &'t wire::Document,
    faults: &mut Faults,
    mut take: impl FnMut(&mut Faults, wire::Kind, &Node<'t>, usize),
) -> bool {
    let text = text_of(document);
    // A NUL would end the text for the parser, silently.
    let control = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r') || *byte == 0x7f;
    if let Some(at) = text.as_bytes().iter().position(control) {
        let message = format!("control character {:?} in the text", char::from(text.as_bytes()[at]));
        faults.add(SYNTAX, Lines::span_at(document, at), message, "remove it, or write it as an escape in \"...\"");
        return true;
    }
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { text, parser, faults, anchors: HashMap::new(), expanded: 0 };
    let mut any = false;
    let mut documents = 0;
    while let Ok((event, span)) = reader.next() {
        match event {
            Event::StreamEnd => return any,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            content => {
                any |= !is_empty(&content);
                documents += 1;
                if documents > DOCUMENTS_MAX {
                    let message = format!("the file holds more than {DOCUMENTS_MAX} documents");
                    reader.faults.add(TOO_LARGE, span, message, "one document can hold many resources");
                    return true;
                }
                if reader.document((content, span), &mut take).is_err() {
                    return true;
                }
            }
        }
    }
    true
}

/// Whether this is what a document without content holds.
fn is_empty(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(text, ScalarStyle::Plain, _, None) if resolve(text) == Scalar::Null)
}

impl<'t> Reader<'t, '_> {
    fn next(&mut self) -> Result<Spanned<'t>, Stop> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::START)),
            Some(Ok((event, span))) => Ok((event, here(span))),
            Some(Err(error)) => Err(self.syntax(&error)),
        }
    }

    fn syntax(&mut self, error: &ScanError) -> Stop {
        let mark = saphyr_parser::Span::empty(*error.marker());
        let info = error.info();
        if info.contains("recursion limit") {
            return self.too_deep(here(mark));
        }
        let hint = if info.contains("unknown anchor") {
            "a value that begins with a star needs quotes: \"*.example.com\""
        } else if info.contains("tab") {
            "indent with spaces"
        } else if info.contains("end of stream") || error.marker().index() >= self.text.trim_end().chars().count() {
            "is a bracket or a quote never closed?"
        } else {
            "compare the indentation, colons and quotes with the lines before"
        };
        self.faults.add(SYNTAX, here(mark), info, hint);
        Stop
    }

    fn too_deep(&mut self, span: Span) -> Stop {
        let message = format!("nested more than {DEPTH_MAX} levels deep");
        self.faults.add(TOO_LARGE, span, message, "no configuration needs this; is a bracket never closed?");
        Stop
    }

    fn document(
        &mut self,
        first: Spanned<'t>,
        take: &mut impl FnMut(&mut Faults, wire::Kind, &Node<'t>, usize),
    ) -> Result<(), Stop> {
        if is_empty(&first.0) {
            return Ok(());
        }
        if !matches!(first.0, Event::MappingStart(..)) {
            let message = format!("expected a mapping, found {}", noun(&first.0));
            self.faults.add(WRONG_TYPE, first.1, message, format!("a document has: {}", SECTIONS.join(", ")));
            return self.skip(first, 0);
        }
        let mut seen: HashMap<Cow<'t, str>, u32> = HashMap::new();
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(()),
                Event::Scalar(text, ..) => text,
                other => {
                    self.bad_key(key_span);
                    self.skip((other, key_span), 1)?;
                    Cow::Borrowed("")
                }
            };
            if self.faults.is_full() {
                return Err(Stop);
            }
            let value = self.next()?;
            if let Some(line) = seen.get(&key) {
                self.faults.add(DUPLICATE_KEY, key_span, duplicate(&key, *line), "merge the two into one");
                self.skip(value, 1)?;
            } else if let Some(kind) = section_kind(&key) {
                self.section(kind, key_span, value, take)?;
            } else {
                if !key.is_empty() {
                    self.faults.unknown(&key, key_span, "a document", &SECTIONS);
                }
                self.skip(value, 1)?;
            }
            seen.insert(key, key_span.line);
        }
    }

    fn section(
        &mut self,
        kind: wire::Kind,
        key_span: Span,
        (event, span): Spanned<'t>,
        take: &mut impl FnMut(&mut Faults, wire::Kind, &Node<'t>, usize),
    ) -> Result<(), Stop> {
        if kind == wire::Kind::Defaults {
            // There is one set of them, so it is no list.
            let before = self.faults.len();
            let node = self.node((event, span))?;
            take(self.faults, kind, &node, before);
            return if self.faults.is_full() { Err(Stop) } else { Ok(()) };
        }
        if !matches!(event, Event::SequenceStart(..)) {
            let null = is_empty(&event);
            let hint = if null { "write [] for none, or leave the section out" } else { "begin each item with \"- \"" };
            let message = format!("expected a list of {}s, found {}", kind.noun(), noun(&event));
            self.faults.add(WRONG_TYPE, if null { key_span } else { span }, message, hint);
            return self.skip((event, span), 1);
        }
        loop {
            let first = self.next()?;
            if matches!(first.0, Event::SequenceEnd) {
                return Ok(());
            }
            let before = self.faults.len();
            let node = self.node(first)?;
            take(self.faults, kind, &node, before);
            if self.faults.is_full() {
                return Err(Stop);
            }
        }
    }

    /// Passes over a value that nothing will read, for a reason that has been reported. One that is too large even
    /// for that ends the document.
    fn skip(&mut self, first: Spanned<'t>, outer: usize) -> Result<(), Stop> {
        let (mut event, mut span) = first;
        let mut depth = outer;
        for _ in 0..SKIPPED_MAX {
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(self.too_deep(span));
            }
            if depth <= outer {
                return Ok(());
            }
            (event, span) = self.next()?;
        }
        Err(Stop)
    }

    /// The tree of one item.
    fn node(&mut self, first: Spanned<'t>) -> Result<Node<'t>, Stop> {
        let mut open: Vec<Open<'t>> = Vec::new();
        let mut values = 0;
        let (mut event, mut span) = first;
        loop {
            // A list or mapping counts as two, its end included.
            values += 1;
            if values > ITEM_VALUES_MAX {
                let message = format!("one item holds more than {ITEM_VALUES_MAX} values");
                self.faults.add(TOO_LARGE, span, message, "split it");
                return Err(Stop);
            }
            let done = match event {
                Event::Scalar(text, style, anchor, tag) => {
                    let value = self.scalar(text, style, tag.as_deref(), span);
                    Some((Node { span, value }, anchor))
                }
                Event::Alias(anchor) => Some((self.alias(anchor, span, open.len())?, 0)),
                Event::SequenceStart(anchor, tag) => {
                    let broken = self.refuse_tag(tag.as_deref(), "seq", span);
                    open.push(Open { anchor, span, broken, content: Content::List(Vec::new()) });
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    let broken = self.refuse_tag(tag.as_deref(), "map", span);
                    let content = Content::Map { entries: Vec::new(), key: None };
                    open.push(Open { anchor, span, broken, content });
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => open.pop().map(|closed| {
                    let span = closed.start();
                    (Node { span, value: self.close(closed.content, closed.broken, span) }, closed.anchor)
                }),
                _ => None,
            };
            // The item itself is the third level of its document.
            if open.len() + 2 > DEPTH_MAX {
                return Err(self.too_deep(span));
            }
            if let Some((node, anchor)) = done {
                if anchor > 0 {
                    self.keep(anchor, &node)?;
                }
                match open.last_mut() {
                    None => return Ok(node),
                    Some(parent) => self.put(&mut parent.content, node),
                }
            }
            (event, span) = self.next()?;
        }
    }

    fn put(&mut self, parent: &mut Content<'t>, mut node: Node<'t>) {
        match parent {
            Content::List(items) => items.push(node),
            Content::Map { entries, key } => match key.take() {
                None => {
                    let text = match node.value {
                        Value::Plain(text) | Value::Text(text) => Some(text),
                        _ => {
                            self.bad_key(node.span);
                            None
                        }
                    };
                    *key = Some((text, node.span));
                }
                Some((text, key_span)) => {
                    // Nothing after a colon has no place of its own.
                    if matches!(&node.value, Value::Plain(text) if text.is_empty()) {
                        node.span = key_span;
                    }
                    if let Some(key) = text {
                        entries.push(Entry { key, key_span, value: node });
                    }
                }
            },
        }
    }

    fn close(&mut self, content: Content<'t>, broken: bool, span: Span) -> Value<'t> {
        match content {
            _ if broken => Value::Broken,
            Content::List(items) => Value::List(items),
            Content::Map { mut entries, .. } => {
                for merge in entries.extract_if(.., |entry| entry.key == "<<") {
                    let hint = "write the fields out, or put the alias under a key of its own";
                    self.faults.add(UNSUPPORTED, merge.key_span, "merge keys (<<) are not supported", hint);
                    self.faults.merges(span);
                }
                self.refuse_duplicates(&mut entries);
                Value::Map(entries)
            }
        }
    }

    fn refuse_duplicates(&mut self, entries: &mut Vec<Entry<'t>>) {
        let repeated = |(at, entry): (usize, &Entry<'t>)| entries[..at].iter().any(|before| before.key == entry.key);
        let clean = if entries.len() <= 16 {
            !entries.iter().enumerate().any(repeated)
        } else {
            let keys: HashSet<&str> = entries.iter().map(|entry| &*entry.key).collect();
            keys.len() == entries.len()
        };
        if clean {
            return;
        }
        let mut first: HashMap<Cow<'t, str>, u32> = HashMap::new();
        entries.retain(|entry| match first.get(&entry.key) {
            None => {
                first.insert(entry.key.clone(), entry.key_span.line);
                true
            }
            Some(line) => {
                if !self.faults.is_full() {
                    self.faults.add(DUPLICATE_KEY, entry.key_span, duplicate(&entry.key, *line), "keep one of them");
                }
                false
            }
        });
    }

    fn scalar(&mut self, text: Cow<'t, str>, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Value<'t> {
        let string = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        if !string && self.refuse_tag(tag, "str", span) {
            return Value::Broken;
        }
        if style == ScalarStyle::Plain && !string { Value::Plain(text) } else { Value::Text(text) }
    }

    /// Whether a value has a tag that changes its meaning; that is a fault.
    fn refuse_tag(&mut self, tag: Option<&Tag>, plain: &str, span: Span) -> bool {
        let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == plain)) else { return false };
        let short = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
        self.faults.add(UNSUPPORTED, span, format!("the tag {} is not supported", shown(&short)), "remove it");
        true
    }

    fn bad_key(&mut self, span: Span) {
        self.faults.add(WRONG_TYPE, span, "a key must be a string", "");
    }

    fn keep(&mut self, anchor: usize, node: &Node<'t>) -> Result<(), Stop> {
        let (values, depth) = node.size();
        self.expand(values, node.span)?;
        self.anchors.insert(anchor, Anchored { node: node.clone(), values, depth });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node<'t>, Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            let hint = "an alias may only follow its anchor, within a section";
            self.faults.add(UNSUPPORTED, span, "nothing that this alias could stand for", hint);
            return Ok(Node { span, value: Value::Broken });
        };
        if depth + anchored.depth + 2 > DEPTH_MAX {
            return Err(self.too_deep(span));
        }
        let (node, values) = (anchored.node.clone(), anchored.values);
        self.expand(values, span)?;
        Ok(node)
    }

    fn expand(&mut self, values: usize, span: Span) -> Result<(), Stop> {
        self.expanded += values;
        if self.expanded <= EXPANSION_MAX {
            return Ok(());
        }
        let message = format!("anchors and aliases stand for more than {EXPANSION_MAX} values");
        self.faults.add(TOO_LARGE, span, message, "write plugins and backends once and refer to them by name");
        Err(Stop)
    }
}

/// A list or mapping whose end has not come yet.
struct Open<'t> {
    anchor: usize,
    span: Span,
    broken: bool,
    content: Content<'t>,
}

enum Content<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<Entry<'t>>,
        /// Read, its value not yet; without text if it was no string.
        key: Option<(Option<Cow<'t, str>>, Span)>,
    },
}

impl Open<'_> {
    /// A mapping in block form is shown by its first key.
    fn start(&self) -> Span {
        match &self.content {
            Content::Map { entries, .. } => entries
                .first()
                .map(|entry| entry.key_span)
                .filter(|key| (key.line, key.column) == (self.span.line, self.span.column))
                .unwrap_or(self.span),
            Content::List(_) => self.span,
        }
    }
}

fn here(span: saphyr_parser::Span) -> Span {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let length = if span.start.line() == span.end.line() { number(span.len()).max(1) } else { u32::MAX };
    Span { line: number(span.start.line()).max(1), column: number(span.start.col()).saturating_add(1), length }
}

fn noun(event: &Event<'_>) -> &'static str {
    match event {
        Event::SequenceStart(..) => "a list",
        Event::MappingStart(..) => "a mapping",
        Event::Scalar(text, ScalarStyle::Plain, ..) if resolve(text) == Scalar::Null => "nothing",
        Event::Alias(_) => "an alias",
        _ => "a scalar",
    }
}

fn duplicate(key: &str, line: u32) -> String {
    format!("duplicate key {}: line {line} has it already", shown(key))
}
