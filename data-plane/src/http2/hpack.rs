//! The compression of header sections (RFC 7541).
//!
//! What comes is read with a table of 4 KiB, which nobody is asked to make larger. What goes is written without one: names
//! that the standard knows by their numbers, and all else as it is. So an answer costs no look-up of what was said before,
//! and a connection remembers nothing of its answers.

use std::collections::VecDeque;

use super::huffman;
use crate::fields::is_field_value;

/// The most bytes of the table of what came, each field counted with 32 more (RFC 7541 section 4.1).
const TABLE_BYTES_MAX: usize = 4096;

/// What each field counts more than its text.
pub const FIELD_OVERHEAD: usize = 32;

/// Room for a decoded string that is kept from one section to the next.
const SCRATCH_KEPT_BYTES: usize = 1 << 10;

/// Names up to this size are looked up and written without a loop; none that the standard knows is longer.
const SHORT_NAME_BYTES: usize = 32;

/// The fields that both sides know from the beginning (RFC 7541 appendix A), from number 1 on.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A field that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// As it came.
    pub name: &'a [u8],
    /// As it came.
    pub value: &'a [u8],
    /// Name and value are known to be what they may be: [`is_sound`].
    pub sound: bool,
}

/// A section cannot be read, and so none that follows (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Why a section is not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// See there.
    Invalid,
    /// It unfolds to more than it may.
    TooLarge,
}

impl From<Invalid> for Unread {
    fn from(_: Invalid) -> Self {
        Self::Invalid
    }
}

impl From<huffman::Invalid> for Invalid {
    fn from(_: huffman::Invalid) -> Self {
        Self
    }
}

/// Reads the header sections of a connection, one after another.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    /// As they are counted.
    bytes: usize,
    /// What the other side has bound it to.
    bytes_max: usize,
    /// Strings that had to be decoded: a name, a value.
    scratch: [Vec<u8>; 2],
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name: usize,
    sound: bool,
}

impl Entry {
    fn field(&self) -> Field<'_> {
        let (name, value) = self.text.split_at(self.name);
        Field { name, value, sound: self.sound }
    }

    fn bytes(&self) -> usize {
        self.text.len() + FIELD_OVERHEAD
    }
}

/// Whether name and value may stand in HTTP/2 (RFC 9113 section 8.2.1), which is what may stand in HTTP/1.1, and in lower
/// case. A name that begins with a colon may be a pseudo-field's.
#[must_use]
pub fn is_sound(name: &[u8], value: &[u8]) -> bool {
    let token = name.strip_prefix(b":").unwrap_or(name);
    !token.is_empty()
        && token.iter().all(|&byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"-_.!#$%&'*+^`|~".contains(&byte))
        && is_field_value(value)
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX, scratch: [Vec::new(), Vec::new()] }
    }
}

impl Decoder {
    /// Reads a whole section, field by field, if it unfolds to no more than so many bytes, each field counted with 32 more.
    ///
    /// # Errors
    /// [`Unread`]; no other section can be read then.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        bytes_max: usize,
        mut each: impl FnMut(Field<'_>),
    ) -> Result<(), Unread> {
        let mut left = bytes_max;
        let mut pass = |field: Field<'_>| {
            let bytes = field.name.len() + field.value.len() + FIELD_OVERHEAD;
            left = left.checked_sub(bytes).ok_or(Unread::TooLarge)?;
            each(field);
            Ok::<_, Unread>(())
        };
        let [mut name_room, mut value_room] = std::mem::take(&mut self.scratch);
        let mut begun = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                pass(self.get(integer(&mut block, 7)?)?)?;
            } else if first & 0xe0 == 0x20 {
                // Only before the first field (RFC 7541 section 4.2).
                let bytes = integer(&mut block, 5)?;
                if begun || bytes > TABLE_BYTES_MAX {
                    return Err(Unread::Invalid);
                }
                self.bytes_max = bytes;
                self.evict(0);
                continue;
            } else {
                let learns = first & 0x40 != 0;
                let index = integer(&mut block, if learns { 6 } else { 4 })?;
                if index == 0 {
                    let name = string(&mut block, &mut name_room)?;
                    let value = string(&mut block, &mut value_room)?;
                    let field = Field { name, value, sound: is_sound(name, value) };
                    pass(field)?;
                    if learns {
                        self.learn(field);
                    }
                } else if learns {
                    name_room.clear();
                    name_room.extend_from_slice(self.get(index)?.name);
                    let value = string(&mut block, &mut value_room)?;
                    let field = Field { name: &name_room, value, sound: is_sound(&name_room, value) };
                    pass(field)?;
                    self.learn(field);
                } else {
                    let value = string(&mut block, &mut value_room)?;
                    let name = self.get(index)?.name;
                    pass(Field { name, value, sound: is_sound(name, value) })?;
                }
            }
            begun = true;
        }
        for room in [&mut name_room, &mut value_room] {
            if room.capacity() > SCRATCH_KEPT_BYTES {
                *room = Vec::new();
            }
        }
        self.scratch = [name_room, value_room];
        Ok(())
    }

    fn get(&self, index: usize) -> Result<Field<'_>, Invalid> {
        let index = index.checked_sub(1).ok_or(Invalid)?;
        match STATIC.get(index) {
            Some((name, value)) => Ok(Field { name: name.as_bytes(), value: value.as_bytes(), sound: true }),
            None => self.table.get(index - STATIC.len()).map(Entry::field).ok_or(Invalid),
        }
    }

    fn learn(&mut self, field: Field<'_>) {
        let bytes = field.name.len() + field.value.len() + FIELD_OVERHEAD;
        // What is larger than the table empties it (RFC 7541 section 4.4).
        self.evict(bytes);
        if bytes <= self.bytes_max {
            let text = [field.name, field.value].concat().into_boxed_slice();
            self.table.push_front(Entry { text, name: field.name.len(), sound: field.sound });
            self.bytes += bytes;
        }
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, bytes: usize) {
        while self.bytes + bytes > self.bytes_max
            && let Some(oldest) = self.table.pop_back()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

/// Reads a number whose first bits, so many, are the last ones of the next byte (RFC 7541 section 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Invalid> {
    let (&first, mut rest) = block.split_first().ok_or(Invalid)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(Invalid)?;
            rest = after;
            // Nothing that fits a section needs more.
            if shift > 21 {
                return Err(Invalid);
            }
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
    }
    *block = rest;
    Ok(value)
}

/// Reads a string, into `room` if it must be decoded.
fn string<'r, 'b: 'r>(block: &mut &'b [u8], room: &'r mut Vec<u8>) -> Result<&'r [u8], Invalid> {
    let coded = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Invalid)?;
    *block = rest;
    if !coded {
        return Ok(bytes);
    }
    room.clear();
    huffman::decode(bytes, room)?;
    Ok(room)
}

/// Appends the status of an answer.
pub fn put_status(out: &mut Vec<u8>, status: u16) {
    let index: u8 = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            out.extend_from_slice(&[8, 3]);
            let digits = status.min(999);
            #[allow(clippy::cast_possible_truncation, reason = "a digit")]
            out.extend([digits / 100, digits / 10 % 10, digits % 10].map(|digit| b'0' + digit as u8));
            return;
        }
    };
    out.push(0x80 | index);
}

/// Appends a field: its name in lower case.
pub fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let mut room = [0; SHORT_NAME_BYTES];
    match room.get_mut(..name.len()) {
        Some(short) => {
            short.copy_from_slice(name.as_bytes());
            // All of it: that takes no loop.
            room.make_ascii_lowercase();
            let lower = &room[..name.len()];
            match static_name(lower) {
                Some(index) => put_integer(out, 0, 4, index),
                None => {
                    out.push(0);
                    put_string(out, lower);
                }
            }
        }
        None => {
            out.push(0);
            put_string(out, name.to_ascii_lowercase().as_bytes());
        }
    }
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Appends that no table is used: who asks for a smaller one than usual is to be told (RFC 7541 section 4.2).
pub fn put_no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "each is less than 256 there")]
fn put_integer(out: &mut Vec<u8>, first: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The number of a field's name, in lower case, if an answer may have it and the standard knows it.
fn static_name(name: &[u8]) -> Option<usize> {
    let candidates: &[usize] = match name.len() {
        3 => &[21, 60],
        4 => &[33, 34, 45, 59],
        5 => &[22],
        6 => &[54],
        7 => &[36, 52],
        8 => &[46],
        10 => &[55],
        11 => &[53],
        12 => &[31],
        13 => &[18, 24, 30, 44],
        14 => &[28],
        16 => &[26, 27, 29, 61],
        18 => &[48],
        19 => &[25],
        25 => &[56],
        27 => &[20],
        _ => &[],
    };
    candidates.iter().copied().find(|index| STATIC[index - 1].0.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, String);

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, Unread> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, 64 << 10, |field| fields.push((text(field.name), text(field.value))))?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit =
            |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).expect("a digit");
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn fields(fields: &[(&str, &str)]) -> Vec<Owned> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 7541 section C.4: three requests, the table between them.
        let mut decoder = Decoder::default();
        let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        assert_eq!(read(&mut decoder, &hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")), Ok(fields(&first)));
        let second = [&first[..], &[("cache-control", "no-cache")]].concat();
        assert_eq!(read(&mut decoder, &hex("8286 84be 5886 a8eb 1064 9cbf")), Ok(fields(&second)));
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        let block = hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        assert_eq!(read(&mut decoder, &block), Ok(fields(&third)));
        assert_eq!(decoder.bytes, 164);
    }

    #[test]
    fn a_section_that_unfolds_to_too_much_is_not_read_to_its_end() {
        // A field of one byte, which counts 33, and references to it.
        let bomb = [&[0x40, 1, b'a', 0][..], &[0x80 | 62; 9]].concat();
        let (mut count, mut decoder) = (0, Decoder::default());
        assert_eq!(decoder.decode(&bomb, 330, |_| count += 1), Ok(()));
        assert_eq!(decoder.decode(&bomb, 329, |_| count += 1), Err(Unread::TooLarge));
        assert_eq!(count, 10 + 9);
    }

    #[test]
    fn the_table_keeps_its_bound_and_the_newest() {
        let mut decoder = Decoder::default();
        let learnt = |name: &str, bytes: usize| {
            let mut out = vec![0x40];
            put_integer(&mut out, 0, 7, name.len());
            out.extend_from_slice(name.as_bytes());
            put_integer(&mut out, 0, 7, bytes);
            out.resize(out.len() + bytes, b'x');
            out
        };
        for _ in 0..5 {
            read(&mut decoder, &learnt("a", 1000)).expect("reads");
        }
        assert_eq!((decoder.table.len(), decoder.bytes), (3, 3 * 1033));
        read(&mut decoder, &learnt("b", 1000)).expect("reads");
        assert_eq!(read(&mut decoder, &[0x80 | 62]).expect("reads")[0].0, "b");
        assert_eq!(read(&mut decoder, &[0x80 | 65]), Err(Unread::Invalid));
        // Larger than the table: it is read, and nothing is kept.
        let mut decoder = Decoder::default();
        read(&mut decoder, &learnt("a", 10)).expect("reads");
        assert_eq!(read(&mut decoder, &learnt("c", 5000)).expect("reads")[0].1.len(), 5000);
        assert_eq!((decoder.table.len(), decoder.bytes), (0, 0));
        // A name of what is driven out by it.
        read(&mut decoder, &learnt("long-name", 4000)).expect("reads");
        let again = [&[0x40 | 62, 1][..], b"y"].concat();
        assert_eq!(read(&mut decoder, &again), Ok(fields(&[("long-name", "y")])));
    }

    #[test]
    fn the_table_is_bound_before_the_first_field_and_never_above_what_is_offered() {
        let mut decoder = Decoder::default();
        read(&mut decoder, &[0x40, 1, b'a', 1, b'b']).expect("reads");
        assert_eq!(read(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f, 0x82]), Ok(fields(&[(":method", "GET")])));
        assert_eq!(decoder.table.len(), 0);
        assert_eq!(read(&mut decoder, &[0x3f, 0xe2, 0x1f]), Err(Unread::Invalid));
        assert_eq!(read(&mut Decoder::default(), &[0x82, 0x20]), Err(Unread::Invalid));
    }

    #[test]
    fn what_is_cut_or_too_long_or_nowhere_is_refused() {
        for block in
            ["80", "be", "ff", "ff ff ff ff ff 7f", "40", "40 01", "40 01 61", "40 01 61 05 62", "00 7f ff ff ff ff 01"]
        {
            assert_eq!(read(&mut Decoder::default(), &hex(block)), Err(Unread::Invalid), "{block}");
        }
    }

    #[test]
    fn every_name_that_is_written_by_number_is_its_own() {
        for (index, (name, _)) in STATIC.iter().enumerate() {
            if let Some(number) = static_name(name.as_bytes()) {
                assert_eq!(number, index + 1, "{name}");
            }
        }
        for name in ["date", "content-type", "content-length", "server", "etag", "set-cookie", "last-modified", "vary"]
        {
            assert!(static_name(name.as_bytes()).is_some(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            status in 100_u16..1000,
            list in prop::collection::vec(("[a-zA-Z][a-z-]{0,20}", "[ -~]{0,300}"), 0..10),
        ) {
            let mut out = Vec::new();
            put_status(&mut out, status);
            for (name, value) in &list {
                put_field(&mut out, name, value.as_bytes());
            }
            let read = read(&mut Decoder::default(), &out).expect("reads");
            prop_assert_eq!(&read[0], &(":status".to_owned(), status.to_string()));
            let written: Vec<Owned> = list.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
            prop_assert_eq!(&read[1..], &written[..]);
        }

        #[test]
        fn no_bytes_panic_and_the_table_keeps_its_bound(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = read(&mut decoder, &block);
                prop_assert!(decoder.bytes <= TABLE_BYTES_MAX);
                prop_assert_eq!(decoder.bytes, decoder.table.iter().map(Entry::bytes).sum::<usize>());
            }
        }
    }
}
