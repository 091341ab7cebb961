//! From a place in a document to what a report shows of it.

use rustygate_proto::v1 as wire;

use super::node::Span;
use super::text_of;
use crate::report::visible;

/// Characters of a source line that are shown.
const SOURCE_LINE_MAX: usize = 200;

/// Where the lines of one document begin.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    file: &'t str,
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(document: &'t wire::Document) -> Self {
        let text = text_of(document);
        let bytes = text.as_bytes();
        let ends_line =
            |&(at, &byte): &(usize, &u8)| byte == b'\n' || byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
        let starts = bytes.iter().enumerate().filter(ends_line).map(|(at, _)| at + 1);
        Self { file: &document.file, text, starts: std::iter::once(0).chain(starts).collect() }
    }

    pub(super) fn location(&self, span: Span) -> wire::Location {
        let index = (span.line as usize).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or(self.text.len());
        let end = self.starts.get(index + 1).copied().unwrap_or(self.text.len());
        let line = self.text[start..end].trim_end_matches(['\n', '\r']);
        // A line of megabytes is counted only as far as the underline could reach.
        let rest = line.chars().skip(span.column as usize - 1).take(SOURCE_LINE_MAX.min(span.length as usize)).count();
        wire::Location {
            file: self.file.into(),
            line: span.line,
            column: span.column,
            length: u32::try_from(rest.max(1)).unwrap_or(1),
            source_line: line.chars().take(SOURCE_LINE_MAX).map(visible).collect(),
        }
    }

    /// The place of a byte.
    pub(super) fn span_at(&self, byte: usize) -> Span {
        let index = self.starts.partition_point(|start| *start <= byte).max(1) - 1;
        let column = self.text[self.starts[index]..byte].chars().count() + 1;
        Span {
            line: u32::try_from(index + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            length: 1,
        }
    }
}
