//! How things look: colours, tables, times, and names that cannot play tricks on a terminal.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use rustygate_control_plane::report;
use rustygate_proto::v1 as wire;

use crate::failure::Failure;

/// Where output goes: data to stdout, messages to stderr, each with colour only if a person sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// For what goes to stdout.
    pub(crate) paint: Paint,
    /// For what goes to stderr.
    pub(crate) note_paint: Paint,
}

impl Screen {
    /// Colour where a terminal is, unless the user does not want it (`--no-color`, or `NO_COLOR` that is not empty).
    pub(crate) fn new(no_color: bool) -> Self {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            paint: Paint { on: wanted && io::stdout().is_terminal() },
            note_paint: Paint { on: wanted && io::stderr().is_terminal() },
        }
    }

    /// Writes data, as it is.
    pub(crate) fn data(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| Failure::of_stdout(&error))
    }

    /// Writes JSON, indented, with a line end.
    pub(crate) fn json(self, value: &serde_json::Value) -> Result<(), Failure> {
        self.data(&format!("{value:#}\n"))
    }

    /// Writes a message of one or more lines. That stderr is closed is no reason to stop.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Writes a warning.
    pub(crate) fn warn(self, text: &str) {
        self.note(&format!("{} {text}", self.note_paint.yellow("warning:")));
    }

    /// Writes an error and its hint.
    pub(crate) fn failure(self, failure: &Failure) {
        let Failure::Error { message, hint } = failure else { return };
        self.note(&format!("{} {message}", self.note_paint.red("error:")));
        if !hint.is_empty() {
            self.note(&format!("{} {hint}", self.note_paint.bold("hint:")));
        }
    }

    /// Writes faults, rustc-style, as messages.
    pub(crate) fn faults(self, faults: &[wire::Fault]) {
        self.note(&report::render(faults, self.note_paint.on));
    }
}

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    /// Whether it colours.
    pub(crate) on: bool,
}

impl Paint {
    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text with every character that could move the cursor, hide or turn around other text written out.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(plays_tricks) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if plays_tricks(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

fn plays_tricks(character: char) -> bool {
    // Control characters, then zero-width and direction marks.
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Rows in aligned columns; the last column is never padded.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first row is this.
    pub(crate) fn new(head: &[&str]) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(head.iter().copied());
        table
    }

    /// Adds a row; its cells are escaped, and an empty one is shown as "-".
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let show = |cell: &str| if cell.is_empty() { "-".to_owned() } else { escape(cell).into_owned() };
        self.rows.push(cells.into_iter().map(|cell| show(cell.as_ref())).collect());
    }

    /// The lines.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            let line = line.trim_end();
            text.push_str(&if index == 0 { paint.bold(line) } else { line.to_owned() });
            text.push('\n');
        }
        text
    }
}

/// Milliseconds since 1970 on this machine's clock.
pub(crate) fn unix_ms_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// How long ago that was: "3s ago". Clocks of two machines differ, so a time to come is "just now".
pub(crate) fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0 => "just now".to_owned(),
        1..60 => format!("{seconds}s ago"),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..86_400 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// "1 route", "2 routes".
pub(crate) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {noun}s"),
    }
}

/// Faults as JSON.
pub(crate) fn faults_json(faults: &[wire::Fault]) -> serde_json::Value {
    faults.iter().map(fault_json).collect()
}

fn fault_json(fault: &wire::Fault) -> serde_json::Value {
    let location = fault
        .location
        .as_ref()
        .map(|location| serde_json::json!({"file": location.file, "line": location.line, "column": location.column}));
    serde_json::json!({
        "code": fault.code,
        "kind": fault.kind().noun(),
        "name": fault.name,
        "field": fault.field,
        "message": fault.message,
        "hint": fault.hint,
        "location": location,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_names_cannot_drive_the_terminal() {
        let mut table = Table::new(&["NAME", "OWNER", "WHAT"]);
        table.row(["users", "default", "x"]);
        table.row(["a\x1b[2Jb\u{202e}", "", "y"]);
        insta::assert_snapshot!(table.render(Paint { on: false }), @r"
        NAME                 OWNER    WHAT
        users                default  x
        a\u{1b}[2Jb\u{202e}  -        y
        ");
    }

    #[test]
    fn times_are_relative_and_survive_a_clock_that_is_ahead() {
        assert_eq!(ago(10_000, 9_500), "just now");
        assert_eq!(ago(10_000, 99_000), "just now");
        assert_eq!(ago(70_000, 10_000), "1m ago");
        assert_eq!(ago(100_000, 41_000), "59s ago");
        assert_eq!(ago(7_200_000, 0), "2h ago");
        assert_eq!(ago(172_800_000, 0), "2d ago");
    }

    #[test]
    fn colour_is_an_extra() {
        assert_eq!(Paint { on: false }.red("x"), "x");
        assert_eq!(Paint { on: true }.red("x"), "\x1b[31mx\x1b[0m");
    }

    #[test]
    fn counts_have_their_plural() {
        assert_eq!(count(1, "route"), "1 route");
        assert_eq!(count(0, "route"), "0 routes");
        assert_eq!(count(2, "proxy"), "2 proxies");
    }
}
