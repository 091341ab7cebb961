//! Faults as people read them: what is wrong, where, the line itself, and what to do about it.
//!
//! Everything shown may come from a hostile file or server, so control characters and the invisible characters
//! that reorder text never reach the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

use rustygate_proto::v1 as wire;

/// Characters of one value that a message repeats.
const SHOWN_MAX: usize = 60;

/// Faults, one paragraph each, and how many there are. `colour` adds ANSI colours; the text is the same without.
#[must_use]
pub fn render(faults: &[wire::Fault], colour: bool) -> String {
    let paint = Paint { colour };
    let mut out = String::new();
    for fault in faults {
        paragraph(&mut out, fault, &paint);
        out.push('\n');
    }
    let count = match faults.len() {
        0 => "no faults".to_owned(),
        1 => "1 fault".to_owned(),
        many => format!("{many} faults"),
    };
    let _ = writeln!(out, "{}", paint.bold(&count));
    out
}

fn paragraph(out: &mut String, fault: &wire::Fault, paint: &Paint) {
    let title = if fault.code.is_empty() { "error".to_owned() } else { format!("error[{}]", clean(&fault.code)) };
    let _ = writeln!(out, "{}: {}", paint.red(&title), paint.bold(&clean(&fault.message)));
    let margin = match &fault.location {
        Some(location) => place(out, location, paint),
        None => {
            let subject = subject(fault);
            if !subject.is_empty() {
                let _ = writeln!(out, " {} {subject}", paint.blue("-->"));
            }
            0
        }
    };
    if !fault.hint.is_empty() {
        let _ = writeln!(out, "{:margin$} {} help: {}", "", paint.blue("="), clean(&fault.hint));
    }
}

/// The place with the line and what to look at underlined; answers how wide the line number is.
fn place(out: &mut String, location: &wire::Location, paint: &Paint) -> usize {
    let number = location.line.to_string();
    let margin = number.len();
    let file = if location.file.is_empty() { Cow::Borrowed("input") } else { clean(&location.file) };
    let _ = writeln!(out, "{:margin$}{} {file}:{number}:{}", "", paint.blue("-->"), location.column);
    let line: String = location.source_line.chars().map(visible).collect();
    let indent = (location.column as usize).saturating_sub(1);
    let width = line.chars().count();
    // Beyond the end of a line that was cut there is nothing to underline.
    if line.trim().is_empty() || indent > width {
        return margin;
    }
    let bar = paint.blue("|");
    let length = (location.length as usize).clamp(1, (width - indent).max(1));
    let _ = writeln!(out, "{:margin$} {bar}", "");
    let _ = writeln!(out, "{} {bar} {}", paint.blue(&number), line.trim_end());
    let _ = writeln!(out, "{:margin$} {bar} {:indent$}{}", "", "", paint.red(&"^".repeat(length)));
    margin
}

/// `route "users-api", field rules[0].path`
fn subject(fault: &wire::Fault) -> String {
    let mut subject = String::new();
    if fault.kind() != wire::Kind::Unspecified || !fault.name.is_empty() {
        let _ = write!(subject, "{} {}", fault.kind().noun(), shown(&fault.name));
    }
    if !fault.field.is_empty() {
        let separator = if subject.is_empty() { "" } else { ", " };
        let _ = write!(subject, "{separator}field {}", clean(&fault.field));
    }
    subject
}

/// A value in quotes, escaped and cut.
pub(crate) fn shown(value: &str) -> String {
    let mut out = String::from("\"");
    let mut rest = value.chars();
    for character in rest.by_ref().take(SHOWN_MAX) {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            _ if is_hidden(character) => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
    out.push_str(if rest.next().is_some() { "\"..." } else { "\"" });
    out
}

/// Text of ours or of a peer on one line, nothing hidden in it.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let escape = |character: char| {
        let hidden = is_hidden(character);
        let plain = (!hidden).then_some(character);
        plain.into_iter().chain(hidden.then(|| character.escape_default()).into_iter().flatten())
    };
    text.chars().flat_map(escape).collect()
}

/// One character for one character, so that columns still count; a tab is a space.
pub(crate) fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        _ if is_hidden(character) => char::REPLACEMENT_CHARACTER,
        _ => character,
    }
}

/// Control characters, and those that are invisible or change the direction of text.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn blue(&self, text: &str) -> String {
        self.paint("1;34", text)
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> wire::Fault {
        wire::Fault {
            code: "RG0203".into(),
            kind: wire::Kind::Route.into(),
            name: "evil\x1b[2J".into(),
            field: "rules[0].matches[0].path.regex".into(),
            message: "bad regex".into(),
            hint: "close the bracket\u{202e}".into(),
            location: None,
        }
    }

    #[test]
    fn fault_without_a_place_names_its_resource() {
        insta::assert_snapshot!(render(&[fault()], false), @r#"
        error[RG0203]: bad regex
         --> route "evil\u{1b}[2J", field rules[0].matches[0].path.regex
         = help: close the bracket\u{202e}

        1 fault
        "#);
    }

    #[test]
    fn colours_change_nothing_but_colour() {
        let mut located = fault();
        located.location = Some(wire::Location {
            file: "a\nb.yaml".into(),
            line: 14,
            column: 5,
            length: 400,
            source_line: "\tab\u{7}: [é".into(),
        });
        let faults = [fault(), located];
        let mut coloured = render(&faults, true);
        for code in ["1;31", "1;34", "1", "0"] {
            coloured = coloured.replace(&format!("\x1b[{code}m"), "");
        }
        let plain = render(&faults, false);
        assert_eq!(coloured, plain);
        assert!(plain.chars().all(|character| character == '\n' || !character.is_control()), "{plain:?}");
    }
}
