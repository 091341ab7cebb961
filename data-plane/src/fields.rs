//! The header or trailer section of one message: an ordered list of (name, value).
//!
//! A flat list over one text buffer, because that is what a proxy does with fields: read some, drop
//! some, append some, write the rest out in order. Ten fields are scanned faster than one is hashed, and
//! a connection reuses the list for every message, so nothing is allocated per request. Names keep the case
//! that they came in and compare without case (RFC 9110 section 5.1).

use std::ops::Range;

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    names: String,
    values: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Range<u32>,
    value: Range<u32>,
}

impl Fields {
    /// An empty section.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets every field, keeps the memory.
    pub fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.entries.clear();
    }

    /// How many field lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes of text there are, those of removed lines included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.len() + self.values.len()
    }

    /// How many bytes there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.names.capacity() + self.values.capacity()
    }

    /// Whether there is no field line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a line at the end. The caller has checked both: a name is a token, a value has no CR, LF or NUL
    /// ([`is_token`], [`is_field_value`]).
    #[allow(clippy::cast_possible_truncation, reason = "a head is bounded far below 4 GiB")]
    pub fn append(&mut self, name: &str, value: &[u8]) {
        debug_assert!(is_token(name.as_bytes()) && is_field_value(value), "unchecked field {name:?}");
        let (name_start, value_start) = (self.names.len() as u32, self.values.len() as u32);
        self.names.push_str(name);
        self.values.extend_from_slice(value);
        let name = name_start..self.names.len() as u32;
        self.entries.push(Entry { name, value: value_start..self.values.len() as u32 });
    }

    /// Adds a line at the end whose value `write` appends; what it appends is a valid value.
    #[allow(clippy::cast_possible_truncation, reason = "a head is bounded far below 4 GiB")]
    pub fn append_with(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let (name_start, value_start) = (self.names.len() as u32, self.values.len() as u32);
        self.names.push_str(name);
        write(&mut self.values);
        let name = name_start..self.names.len() as u32;
        self.entries.push(Entry { name, value: value_start..self.values.len() as u32 });
    }

    /// Replaces every line of that name by one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes every line of that name; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        self.retain(|candidate, _| !candidate.eq_ignore_ascii_case(name));
        self.entries.len() != before
    }

    /// Keeps the lines for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        let (names, values) = (&self.names, &self.values);
        self.entries.retain(|entry| keep(name_of(names, entry), value_of(values, entry)));
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// Every value of that name, in order.
    pub fn get_all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter().filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Every line as (name, place of its value in [`Fields::values`]), in order.
    pub fn places(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let place = |entry: &Entry| entry.value.start as usize..entry.value.end as usize;
        self.entries.iter().map(move |entry| (name_of(&self.names, entry), place(entry)))
    }

    /// Every value, one after the other, with those of removed lines between.
    #[must_use]
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// Every line as (name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().map(|entry| (name_of(&self.names, entry), value_of(&self.values, entry)))
    }
}

fn name_of<'a>(names: &'a str, entry: &Entry) -> &'a str {
    &names[entry.name.start as usize..entry.name.end as usize]
}

fn value_of<'a>(values: &'a [u8], entry: &Entry) -> &'a [u8] {
    &values[entry.value.start as usize..entry.value.end as usize]
}

/// Whether this is a token (RFC 9110 section 5.6.2): a valid method or field name.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether this may stand as a field value: no control byte but tab, no white space at either end.
#[must_use]
pub fn is_field_value(bytes: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !blank(bytes.first())
        && !blank(bytes.last())
        && bytes.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case_and_keep_theirs() {
        let mut fields = Fields::new();
        fields.append("X-Team", b"red");
        fields.append("accept", b"*/*");
        fields.append("x-team", b"blue");
        assert_eq!(fields.get("X-TEAM"), Some(&b"red"[..]));
        assert_eq!(fields.get_all("x-Team").collect::<Vec<_>>(), [b"red".as_slice(), b"blue"]);
        assert_eq!(fields.iter().next(), Some(("X-Team", b"red".as_slice())));
    }

    #[test]
    fn set_replaces_every_line_and_remove_tells() {
        let mut fields = Fields::new();
        fields.append("a", b"1");
        fields.append("A", b"2");
        fields.set("a", b"3");
        assert_eq!(fields.get_all("a").collect::<Vec<_>>(), [b"3"]);
        assert!(fields.remove("a"));
        assert!(!fields.remove("a"));
        assert!(fields.is_empty());
    }

    #[test]
    fn values_that_would_break_the_framing_are_told() {
        assert!(is_field_value(b"text/html; q=0.5"));
        assert!(is_field_value("caf\u{e9}".as_bytes()));
        for bad in [&b"a\r\nb: c"[..], b"a\0", b"a\n", b" a", b"a\t", b"\x7f"] {
            assert!(!is_field_value(bad), "{bad:?}");
        }
        for bad in [&b""[..], b"a b", b"a:", b"\xff"] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
