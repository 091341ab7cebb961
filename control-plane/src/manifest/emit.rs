//! YAML text that reads as if written by hand: short lists and mappings on one line, quotes only where needed.

use std::fmt::Write as _;

use super::node::{Scalar, resolve};

/// The longest list or mapping that is put on one line, in bytes.
const FLOW_MAX: usize = 80;

#[derive(Debug)]
pub(super) enum Yaml {
    /// Already YAML: a number, a boolean, a string in the quotes it needs.
    Scalar(String),
    /// A string of several lines, as it is.
    Lines(String),
    List(Vec<Yaml>),
    /// Keys are already YAML, too.
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(super) fn text(text: &str) -> Self {
        Yaml::Scalar(quoted(text))
    }

    /// A string that may be long: over several lines if it has them and nothing in it needs an escape.
    pub(super) fn long_text(text: &str) -> Self {
        let plain = |line: &str| {
            line.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !line.starts_with(' ') && !line.ends_with(' ')
        };
        let lines = text.strip_suffix('\n').unwrap_or(text);
        let literal =
            lines.contains('\n') && !lines.ends_with('\n') && !lines.starts_with('\n') && lines.split('\n').all(plain);
        if literal { Yaml::Lines(text.to_owned()) } else { Yaml::text(text) }
    }

    /// The items of a section, each over several lines.
    pub(super) fn section(out: &mut String, name: &str, items: &[Yaml]) {
        let _ = writeln!(out, "{name}:");
        for item in items {
            out.push_str("  - ");
            item.block(out, 4, true);
        }
    }

    /// A section that is a mapping.
    pub(super) fn mapping(&self, out: &mut String, name: &str) {
        let _ = writeln!(out, "{name}:");
        self.block(out, 2, false);
    }

    /// On lines of their own at an indentation; the first line's is already written if `inline`.
    fn block(&self, out: &mut String, indent: usize, inline: bool) {
        let pad = |out: &mut String, first: bool| {
            if !first || !inline {
                let _ = write!(out, "{:indent$}", "");
            }
        };
        match self {
            Yaml::Map(entries) if !entries.is_empty() => {
                for (index, (key, value)) in entries.iter().enumerate() {
                    pad(out, index == 0);
                    let _ = write!(out, "{key}:");
                    value.after_key(out, indent);
                }
            }
            Yaml::List(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    pad(out, index == 0);
                    out.push_str("- ");
                    item.block(out, indent + 2, true);
                }
            }
            other => {
                other.flow(out);
                out.push('\n');
            }
        }
    }

    fn after_key(&self, out: &mut String, indent: usize) {
        if let Yaml::Lines(text) = self {
            out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in text.lines() {
                let pad = if line.is_empty() { 0 } else { indent + 2 };
                let _ = writeln!(out, "{:pad$}{line}", "");
            }
            return;
        }
        if let Some(flow) = self.short() {
            let _ = writeln!(out, " {flow}");
            return;
        }
        out.push('\n');
        self.block(out, indent + 2, false);
    }

    /// The one-line form, if it is the better one.
    fn short(&self) -> Option<String> {
        let mut flow = String::new();
        self.flow(&mut flow);
        (matches!(self, Yaml::Scalar(_)) || flow.len() <= FLOW_MAX).then_some(flow)
    }

    fn flow(&self, out: &mut String) {
        match self {
            Yaml::Scalar(scalar) => out.push_str(scalar),
            Yaml::Lines(text) => out.push_str(&quoted(text)),
            Yaml::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { ", " } else { "" });
                    item.flow(out);
                }
                out.push(']');
            }
            Yaml::Map(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    let _ = write!(out, "{}{key}: ", if index > 0 { ", " } else { "" });
                    value.flow(out);
                }
                out.push('}');
            }
        }
    }
}

/// A string as a scalar, in quotes unless every reader takes it for a string as it is.
pub(super) fn quoted(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            _ if is_printable(character) => out.push(character),
            _ if u32::from(character) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => {
                let _ = write!(out, "\\U{:08x}", u32::from(character));
            }
        }
    }
    out.push('"');
    out
}

/// Neither hidden from a reader nor special to some parser.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(u32::from(character), 0xad | 0x61c | 0x200b..=0x200f | 0x2028..=0x202f | 0x2060..=0x206f | 0xfeff)
        && u32::from(character) & 0xfffe != 0xfffe
        && !matches!(u32::from(character), 0xe000..=0xf8ff | 0xfdd0..=0xfdef | 0xfff0..=0xffff | 0xe0000..)
}

fn is_plain(text: &str) -> bool {
    let mut bytes = text.bytes();
    let starts = |byte: u8| byte.is_ascii_alphanumeric() || b"/_".contains(&byte);
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || b" /_-.@+~=%;()".contains(&byte);
    bytes.next().is_some_and(starts)
        && bytes.all(goes_on)
        && !text.ends_with(' ')
        && resolve(text) == Scalar::Text(text)
        && !is_number_elsewhere(text)
}

/// What some reader of an older YAML takes for something else than a string.
fn is_number_elsewhere(text: &str) -> bool {
    let digits = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"_+.xob".contains(&byte));
    digits || matches!(text.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off")
}
