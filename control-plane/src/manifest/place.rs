//! From a place in a document to what a report shows of it.

use rustygate_proto::v1 as wire;

use super::node::Span;
use super::text_of;
use crate::report::visible;

/// Characters of a source line that are shown.
const SOURCE_LINE_MAX: usize = 200;

/// A cursor over the lines of one document. It goes forward only, and starts again when asked for an earlier
/// place: places in order cost one pass over the text and no memory, however many or long its lines are.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    file: &'t str,
    text: &'t str,
    /// From 1.
    line: u32,
    /// The bytes of the line, without its break.
    start: usize,
    end: usize,
    /// From 1, and the byte it is at.
    column: u32,
    at: usize,
}

impl<'t> Lines<'t> {
    pub(super) fn new(document: &'t wire::Document) -> Self {
        let text = text_of(document);
        Self { file: &document.file, text, line: 1, start: 0, end: line_end(text, 0), column: 1, at: 0 }
    }

    /// A place on a line that is not shown, since it holds a secret.
    pub(super) fn hidden(&mut self, span: Span) -> wire::Location {
        wire::Location { source_line: String::new(), length: 1, ..self.location(span) }
    }

    pub(super) fn location(&mut self, span: Span) -> wire::Location {
        if (span.line, span.column) < (self.line, self.column) {
            let (start, end) = (0, line_end(self.text, 0));
            *self = Self { line: 1, start, end, column: 1, at: 0, ..*self };
        }
        while self.line < span.line && self.end < self.text.len() {
            self.next_line();
        }
        self.next_column(span.column);
        // What lies behind the end has no text of its own.
        let here = if self.line == span.line { &self.text[self.at..self.end] } else { "" };
        let shown = self.line == span.line && !is_in_private_key(self.text, self.start, self.end);
        let line = if shown { &self.text[self.start..self.end] } else { "" };
        let length = here.chars().take(SOURCE_LINE_MAX.min(span.length as usize)).count();
        wire::Location {
            file: self.file.into(),
            line: span.line,
            column: span.column,
            length: u32::try_from(length.max(1)).unwrap_or(1),
            source_line: line.chars().take(SOURCE_LINE_MAX).map(visible).collect(),
        }
    }

    /// The place of a byte.
    pub(super) fn span_at(document: &'t wire::Document, byte: usize) -> Span {
        let mut lines = Self::new(document);
        while lines.end < byte {
            lines.next_line();
        }
        let column = lines.text[lines.start..byte].chars().count() + 1;
        Span { line: lines.line, column: u32::try_from(column).unwrap_or(u32::MAX), length: 1 }
    }

    fn next_line(&mut self) {
        let breaks = if self.text[self.end..].starts_with("\r\n") { 2 } else { 1 };
        self.line += 1;
        self.start = self.end + breaks;
        self.end = line_end(self.text, self.start);
        self.column = 1;
        self.at = self.start;
    }

    fn next_column(&mut self, column: u32) {
        let more = column.saturating_sub(self.column) as usize;
        match self.text[self.at..self.end].char_indices().nth(more) {
            Some((offset, _)) => {
                self.at += offset;
                self.column = column;
            }
            // The end of the line is a place, too; asked for once, it is not worth remembering.
            None => self.at = self.end,
        }
    }
}

/// Whether a line has a part of a private key in PEM, even if the YAML around it is broken.
fn is_in_private_key(text: &str, start: usize, end: usize) -> bool {
    // A key is no larger; what is further away is not looked at.
    let mut from = end.saturating_sub(super::CONTENT_BYTES_MAX);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let Some(marker) = text[from..end].rfind("PRIVATE KEY") else { return false };
    // The marker's own line counts, be it the first or the last of the key, and so does all up to the last.
    let after = &text[from + marker..end];
    from + marker >= start || !after.contains("-----END ") && !is_end(&text[..from + marker])
}

/// Whether the marker that follows is that of the end of a key.
fn is_end(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default();
    line.rfind("-----END ").is_some_and(|end| !line[end..].contains("-----BEGIN "))
}

fn line_end(text: &str, start: usize) -> usize {
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    text.as_bytes()[start..].iter().position(breaks).map_or(text.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_private_key_is_shown() {
        let yaml = "a: 1\nkey: |\n  -----BEGIN EC PRIVATE KEY-----\n  abc\n def\n  -----END EC PRIVATE KEY-----\nb: 2\n\
                    c: \"-----BEGIN PRIVATE KEY-----\\nabc\\n-----END PRIVATE KEY-----\"\nd: 3\n\
                    e: -----BEGIN PRIVATE KEY-----\nabc";
        let document = wire::Document { file: "f".into(), yaml: yaml.into() };
        let mut lines = Lines::new(&document);
        let mut shown = |line| lines.location(Span { line, column: 1, length: 2 }).source_line;
        let all: Vec<String> = (1..=11).map(&mut shown).collect();
        assert_eq!(all, ["a: 1", "key: |", "", "", "", "", "b: 2", "", "d: 3", "", ""]);
    }

    #[test]
    fn places_are_found_in_any_order() {
        let document = wire::Document { file: "f".into(), yaml: "\u{feff}aé: b\r\n\rc\nlast".into() };
        let mut lines = Lines::new(&document);
        let mut shown = |line, column| {
            let location = lines.location(Span { line, column, length: 2 });
            (location.source_line, location.length)
        };
        for _ in 0..2 {
            assert_eq!(shown(1, 2), ("aé: b".into(), 2));
            assert_eq!(shown(1, 5), ("aé: b".into(), 1));
            assert_eq!(shown(1, 99), ("aé: b".into(), 1));
            assert_eq!(shown(2, 1), (String::new(), 1));
            assert_eq!(shown(4, 1), ("last".into(), 2));
            assert_eq!(shown(3, 1), ("c".into(), 1));
            assert_eq!(shown(9, 1), (String::new(), 1));
        }
        assert_eq!(Lines::span_at(&document, 9), Span { line: 3, column: 1, length: 1 });
    }
}
