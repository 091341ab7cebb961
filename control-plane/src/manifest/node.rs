//! A YAML value with its place in the text, which is what makes a fault point at what the user wrote.
//!
//! Plain scalars get their type by the YAML 1.2 core schema when a field asks for it, so `on`, `yes` and `1:30`
//! are strings. One rule is stricter than the schema: a number with a leading zero (`007`) is a string, because
//! some readers take it for octal.

use std::borrow::Cow;

/// A place on one line of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// In characters; `u32::MAX` reaches to the end of the line.
    pub length: u32,
}

impl Span {
    pub(super) const START: Self = Self { line: 1, column: 1, length: 1 };
}

#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub span: Span,
    pub value: Value<'t>,
}

#[derive(Clone, Debug)]
pub(super) enum Value<'t> {
    /// A scalar without quotes: its type depends on its text.
    Plain(Cow<'t, str>),
    /// A quoted or block scalar: always a string.
    Text(Cow<'t, str>),
    List(Vec<Node<'t>>),
    /// Keys are unique.
    Map(Vec<Entry<'t>>),
    /// Something that a fault has already been reported for; nothing more is said about it.
    Broken,
}

#[derive(Clone, Debug)]
pub(super) struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_span: Span,
    pub value: Node<'t>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'n> {
    Null,
    Bool(bool),
    /// Saturated if it has more digits than fit.
    Integer(i128),
    Float(f64),
    Text(&'n str),
}

impl<'t> Node<'t> {
    /// `None` for lists, mappings and what is broken.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Plain(text) => Some(resolve(text)),
            Value::Text(text) => Some(Scalar::Text(text)),
            Value::List(_) | Value::Map(_) | Value::Broken => None,
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry<'t>> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// What a user would call it: "an integer".
    pub(super) fn noun(&self) -> &'static str {
        match (&self.value, self.scalar()) {
            (Value::List(_), _) => "a list",
            (Value::Map(_), _) => "a mapping",
            (_, None) => "something else",
            (_, Some(Scalar::Null)) => "nothing",
            (_, Some(Scalar::Bool(_))) => "a boolean",
            (_, Some(Scalar::Integer(_))) => "an integer",
            (_, Some(Scalar::Float(_))) => "a number",
            (_, Some(Scalar::Text(_))) => "a string",
        }
    }

    /// How many values it holds, itself included, and how deep they nest.
    pub(super) fn size(&self) -> (usize, usize) {
        let sum = |(count, depth): (usize, usize), node: &Node<'_>| {
            let (more, deeper) = node.size();
            (count + more, depth.max(deeper + 1))
        };
        match &self.value {
            Value::List(items) => items.iter().fold((1, 1), sum),
            Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 1), sum),
            _ => (1, 1),
        }
    }

    /// Where under this node the value or key at `span` is: `matches[0].headers.x-team`.
    pub(super) fn path_to(&self, span: Span) -> Option<String> {
        let mut steps = Vec::new();
        if !self.find(span, &mut steps) {
            return None;
        }
        let path = steps.into_iter().rev().collect::<String>();
        Some(path.strip_prefix('.').unwrap_or(&path).to_owned())
    }

    /// Notes the steps only on the way back from what it found, so that looking costs nothing but looking.
    fn find(&self, span: Span, steps: &mut Vec<String>) -> bool {
        let found = match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|entry| entry.key_span == span || entry.value.find(span, steps))
                .map(|entry| format!(".{}", entry.key)),
            Value::List(items) => {
                items.iter().position(|item| item.find(span, steps)).map(|index| format!("[{index}]"))
            }
            Value::Plain(_) | Value::Text(_) | Value::Broken => None,
        };
        let inside = found.is_some();
        steps.extend(found);
        inside || self.span == span
    }
}

/// The type and value of a plain scalar.
pub(super) fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        _ => {}
    }
    // Nearly every scalar is a word: its first byte settles it.
    if !matches!(text.as_bytes()[0], b'0'..=b'9' | b'+' | b'-' | b'.') {
        return Scalar::Text(text);
    }
    number(text).unwrap_or(Scalar::Text(text))
}

fn number(text: &str) -> Option<Scalar<'_>> {
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let valid = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
            return valid.then(|| Scalar::Integer(i128::from_str_radix(digits, radix).unwrap_or(i128::MAX)));
        }
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    if whole > 1 && unsigned.starts_with('0') {
        return None;
    }
    if whole == unsigned.len() && whole > 0 {
        let saturated = if text.starts_with('-') { i128::MIN } else { i128::MAX };
        return Some(Scalar::Integer(text.parse().unwrap_or(saturated)));
    }
    // The rest must be `.digits`, `e±digits` or both, with a digit before the exponent.
    let mut rest = &unsigned[whole..];
    let mut digits = whole;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        digits += length;
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if exponent.is_empty() || !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        rest = "";
    }
    (digits > 0 && rest.is_empty()).then(|| text.parse().ok().map(Scalar::Float)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for text in
            ["on", "yes", "no", "off", "y", "007", "1_000", "1:30", "0b1", "0o8", "0x", "-", ".", "1e", "1.e+", "e3"]
        {
            assert_eq!(resolve(text), Scalar::Text(text), "{text}");
        }
        assert_eq!(resolve("0o17"), Scalar::Integer(15));
        assert_eq!(resolve("0x1F"), Scalar::Integer(31));
        assert_eq!(resolve("-12"), Scalar::Integer(-12));
        assert_eq!(resolve(&"9".repeat(99)), Scalar::Integer(i128::MAX));
        assert_eq!(resolve("1e3"), Scalar::Float(1000.0));
        assert_eq!(resolve("-.5"), Scalar::Float(-0.5));
        assert_eq!(resolve("1."), Scalar::Float(1.0));
        assert_eq!(resolve("~"), Scalar::Null);
        assert_eq!(resolve("False"), Scalar::Bool(false));
    }
}
