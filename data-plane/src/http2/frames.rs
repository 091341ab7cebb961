//! Frames of HTTP/2 (RFC 9113 sections 4 and 6), as bytes.

/// Bytes before each payload.
pub const HEAD_BYTES: usize = 9;

/// The most bytes of a payload that either side may send unasked, which is the least that a peer may allow.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// The most bytes of a window.
pub const WINDOW_BYTES_MAX: i64 = 0x7fff_ffff;

/// The highest number of a stream.
pub const STREAM_MAX: u32 = 0x7fff_ffff;

/// Kinds of frames.
pub mod kind {
    #![allow(missing_docs, reason = "their names are those of RFC 9113 section 6")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// The last frame of its stream's direction.
pub const END_STREAM: u8 = 1;

/// The answer to a SETTINGS or a PING.
pub const ACK: u8 = 1;

/// The last frame of a header section.
pub const END_HEADERS: u8 = 4;

const PADDED: u8 = 8;
const PRIORITY_FIELDS: u8 = 0x20;

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// In order.
    NoError = 0,
    /// Whatever is not said more exactly.
    ProtocolError = 1,
    /// The gateway's fault, or its upstream's.
    InternalError = 2,
    /// More bytes than there was room for.
    FlowControlError = 3,
    /// A frame of a stream whose sender has ended it.
    StreamClosed = 5,
    /// A payload of a size that it cannot have.
    FrameSizeError = 6,
    /// Nobody has looked at it.
    RefusedStream = 7,
    /// It is wanted no more.
    Cancel = 8,
    /// A header section that cannot be read.
    CompressionError = 9,
    /// The client makes more work than anything explains.
    EnhanceYourCalm = 11,
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the payload.
    pub length: usize,
    /// One of [`kind`], or one that nobody knows.
    pub kind: u8,
    /// What they mean depends on the kind.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// Reads it from the beginning of what came, if that is enough.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[high, middle, low, kind, flags, a, b, c, d] = bytes.first_chunk::<HEAD_BYTES>()?;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([a, b, c, d]) & STREAM_MAX })
    }

    /// Its bytes.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "no payload has 2^24 bytes")]
    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, high, middle, low] = (self.length as u32).to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [high, middle, low, self.kind, self.flags, a, b, c, d]
    }

    /// Whether the stream's direction ends with it.
    #[must_use]
    pub fn ends_stream(self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// Whether the header section ends with it.
    #[must_use]
    pub fn ends_headers(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    /// The payload without its padding.
    ///
    /// # Errors
    /// How the connection ends: there is more padding than payload, or not even its length.
    pub fn unpadded(self, payload: &[u8]) -> Result<&[u8], Code> {
        if self.flags & PADDED == 0 {
            return Ok(payload);
        }
        let (&padding, rest) = payload.split_first().ok_or(Code::FrameSizeError)?;
        let length = rest.len().checked_sub(usize::from(padding)).ok_or(Code::ProtocolError)?;
        Ok(&rest[..length])
    }

    /// What a HEADERS frame has of its section, and the stream that it says it depends on, if it does.
    ///
    /// # Errors
    /// How the connection ends, as above.
    pub fn fragment(self, payload: &[u8]) -> Result<(&[u8], Option<u32>), Code> {
        let rest = self.unpadded(payload)?;
        if self.flags & PRIORITY_FIELDS == 0 {
            return Ok((rest, None));
        }
        let (priority, fragment) = rest.split_at_checked(5).ok_or(Code::FrameSizeError)?;
        Ok((fragment, number(priority)))
    }
}

/// The number that a payload begins with, without its highest bit.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff)
}

/// What a SETTINGS frame changes, of what concerns who sends answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The most bytes of the table that header sections to it may use.
    pub table_bytes: Option<u32>,
    /// The window that streams begin with.
    pub window: Option<i64>,
    /// The most bytes of a payload to it.
    pub payload_bytes: Option<usize>,
}

impl Settings {
    /// Reads the payload.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn parse(payload: &[u8]) -> Result<Self, Code> {
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Code::FrameSizeError);
        }
        let mut changes = Self::default();
        for &[high, low, a, b, c, d] in settings {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([high, low]) {
                1 => changes.table_bytes = Some(value.min(changes.table_bytes.unwrap_or(u32::MAX))),
                2 if value > 1 => return Err(Code::ProtocolError),
                4 if i64::from(value) > WINDOW_BYTES_MAX => return Err(Code::FlowControlError),
                4 => changes.window = Some(i64::from(value)),
                5 if !(1 << 14..1 << 24).contains(&value) => return Err(Code::ProtocolError),
                5 => changes.payload_bytes = Some(value as usize),
                _ => {}
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(flags: u8) -> Head {
        Head { length: 0, kind: kind::HEADERS, flags, stream: 1 }
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        assert_eq!(head(0).fragment(b"ab"), Ok((&b"ab"[..], None)));
        assert_eq!(head(PADDED).fragment(b"\x02ab\0\0"), Ok((&b"ab"[..], None)));
        assert_eq!(head(PADDED).fragment(b"\x02\0\0"), Ok((&b""[..], None)));
        assert_eq!(head(PADDED).fragment(b"\x03\0\0"), Err(Code::ProtocolError));
        assert_eq!(head(PADDED).fragment(b""), Err(Code::FrameSizeError));
        let both = PADDED | PRIORITY_FIELDS;
        assert_eq!(head(both).fragment(b"\x01\x80\0\0\x07\x10ab\0"), Ok((&b"ab"[..], Some(7))));
        assert_eq!(head(both).fragment(b"\x01\0\0\0\x07\0"), Err(Code::FrameSizeError));
    }

    #[test]
    fn settings_have_their_bounds() {
        let one = |id: u16, value: u32| Settings::parse(&[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        assert_eq!(one(4, 0x7fff_ffff).map(|settings| settings.window), Ok(Some(WINDOW_BYTES_MAX)));
        assert_eq!(one(4, 0x8000_0000), Err(Code::FlowControlError));
        assert_eq!(one(5, 16_383), Err(Code::ProtocolError));
        assert_eq!(one(5, 1 << 24), Err(Code::ProtocolError));
        assert_eq!(one(5, (1 << 24) - 1).map(|settings| settings.payload_bytes), Ok(Some((1 << 24) - 1)));
        assert_eq!(one(2, 2), Err(Code::ProtocolError));
        assert_eq!(one(0x99, 7), Ok(Settings::default()));
        assert_eq!(Settings::parse(&[0; 5]), Err(Code::FrameSizeError));
    }

    proptest! {
        #[test]
        fn a_head_is_read_as_it_is_written(length in 0_usize..1 << 24, kind: u8, flags: u8, stream in 0..=STREAM_MAX) {
            let head = Head { length, kind, flags, stream };
            prop_assert_eq!(Head::parse(&head.bytes()), Some(head));
            prop_assert_eq!(Head::parse(&head.bytes()[..8]), None);
        }

        #[test]
        fn no_bytes_panic(payload in prop::collection::vec(any::<u8>(), 0..64), flags: u8) {
            let _ = (head(flags).fragment(&payload), Settings::parse(&payload), number(&payload));
        }
    }
}
