//! Header sections that clients send, field by field into what the request path knows: no more of one is ever kept than may
//! be in it, whatever it unfolds to.

use super::hpack::{FIELD_OVERHEAD, Field};
use crate::{
    fields::{Fields, is_token},
    http1::{
        Framing, Version,
        head::{FIELDS_MAX, HeadError, RequestHead, TARGET_BYTES_MAX, plain_number},
    },
};

/// The most bytes of a trailer section.
const TRAILERS_BYTES_MAX: usize = 16 << 10;

/// The bounds of a request's head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most bytes of names and values.
    pub bytes: usize,
    /// The most field lines, each piece of a cookie among them.
    pub fields: usize,
}

/// Reads the section that a request begins with.
#[derive(Debug)]
pub struct RequestSection<'a> {
    head: &'a mut RequestHead,
    bounds: Bounds,
    /// Of names and values.
    bytes: usize,
    fields: usize,
    seen: Pseudo,
    /// Other fields have begun.
    begun: bool,
    length: Option<u64>,
    /// The pieces of it, together.
    cookie: Vec<u8>,
    protocol: Protocol,
    malformed: bool,
    error: Option<HeadError>,
}

/// Which pseudo-fields there were.
#[derive(Debug, Default)]
struct Pseudo {
    method: bool,
    scheme: bool,
    path: bool,
    authority: bool,
}

/// What is spoken on a stream after CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    None,
    WebSocket,
    Unknown,
}

/// It is no request (RFC 9113 section 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> RequestSection<'a> {
    /// Reads into `head`.
    pub fn new(head: &'a mut RequestHead, bounds: Bounds) -> Self {
        head.clear();
        head.version = Version::Http2;
        Self {
            head,
            bounds,
            bytes: 0,
            fields: 0,
            seen: Pseudo::default(),
            begun: false,
            length: None,
            cookie: Vec::new(),
            protocol: Protocol::None,
            malformed: false,
            error: None,
        }
    }

    /// The next field.
    pub fn field(&mut self, field: Field<'_>) {
        self.bytes = self.bytes.saturating_add(field.name.len() + field.value.len());
        if self.malformed || self.error.is_some() {
            return;
        }
        if self.bytes > self.bounds.bytes {
            self.error = Some(HeadError::TooLarge);
            return;
        }
        let pseudo = field.name.first() == Some(&b':');
        let read = if pseudo { self.pseudo(field) } else { self.plain(field) };
        match read {
            Ok(()) => {}
            Err(Refused::Malformed) => self.malformed = true,
            Err(Refused::Head(error)) => self.error = Some(error),
        }
    }

    fn pseudo(&mut self, field: Field<'_>) -> Result<(), Refused> {
        let seen = match field.name {
            _ if self.begun => return Err(Refused::Malformed),
            b":method" => &mut self.seen.method,
            b":scheme" => &mut self.seen.scheme,
            b":path" => &mut self.seen.path,
            b":authority" => &mut self.seen.authority,
            b":protocol" if self.protocol == Protocol::None => {
                let is_websocket = field.value == b"websocket";
                self.protocol = if is_websocket { Protocol::WebSocket } else { Protocol::Unknown };
                return Ok(());
            }
            _ => return Err(Refused::Malformed),
        };
        if std::mem::replace(seen, true) || !field.sound {
            return Err(Refused::Malformed);
        }
        match field.name {
            b":method" if is_token(field.value) => self.head.method.push_str(&String::from_utf8_lossy(field.value)),
            b":scheme" if is_scheme(field.value) => {}
            b":path" => {
                // A fragment stays with the client; who sends one means what is before it.
                let end = memchr::memchr(b'#', field.value).unwrap_or(field.value.len());
                if end > TARGET_BYTES_MAX {
                    return Err(Refused::Head(HeadError::TargetTooLong));
                }
                self.head.target.extend_from_slice(&field.value[..end]);
            }
            b":authority" if !field.value.is_empty() => {
                self.fields += 1;
                self.head.fields.append("host", field.value);
            }
            _ => return Err(Refused::Malformed),
        }
        Ok(())
    }

    fn plain(&mut self, field: Field<'_>) -> Result<(), Refused> {
        self.begun = true;
        self.fields += 1;
        if self.fields > self.bounds.fields {
            return Err(Refused::Head(HeadError::TooManyFields));
        }
        let name = name(field)?;
        let value = field.value;
        match name {
            // The authority is what is asked for (RFC 9113 section 8.3.1); a field that says otherwise is a trap.
            "host" => match self.head.fields.get("host") {
                Some(host) if self.seen.authority && value.eq_ignore_ascii_case(host) => {}
                Some(_) => return Err(Refused::Head(HeadError::Host)),
                None => self.head.fields.append(name, value),
            },
            "content-length" => {
                let length = plain_number(value).filter(|_| self.length.is_none());
                self.length = Some(length.ok_or(Refused::Head(HeadError::ContentLength))?);
            }
            "te" if value == b"trailers" => self.head.wants_trailers = true,
            "te" | "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => {
                return Err(Refused::Malformed);
            }
            "expect" if value.eq_ignore_ascii_case(b"100-continue") => self.head.expects_continue = true,
            "expect" => return Err(Refused::Head(HeadError::Expectation)),
            // One line again, as those who do not speak HTTP/2 know it (RFC 9113 section 8.2.3).
            "cookie" => {
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
            }
            _ => self.head.fields.append(name, value),
        }
        Ok(())
    }

    /// The section is over, and with it the request if it is `bodyless`. What came of reading it; a head that is too large or
    /// says what none may say can be answered.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn end(self, bodyless: bool) -> Result<Result<(), HeadError>, Malformed> {
        let Self { head, seen, length, cookie, protocol, malformed, error, .. } = self;
        if malformed {
            return Err(Malformed);
        }
        if let Some(error) = error {
            return Ok(Err(error));
        }
        let connects = head.method == "CONNECT";
        let form = match (connects, protocol) {
            (true, Protocol::None) => seen.authority && !seen.scheme && !seen.path,
            (true, _) => seen.authority && seen.scheme && seen.path,
            (false, Protocol::None) => seen.method && seen.scheme && seen.path,
            (false, _) => false,
        };
        let path = head.target.first() == Some(&b'/') || (head.target == b"*" && head.method == "OPTIONS");
        if !form || (seen.path && !path) {
            return Err(Malformed);
        }
        if !cookie.is_empty() {
            head.fields.append("cookie", &cookie);
        }
        // RFC 8441: what would be an upgrade in HTTP/1.1, and is treated as one from here on.
        if connects && protocol == Protocol::WebSocket {
            head.method.replace_range(.., "GET");
            head.connection.upgrade = true;
            head.fields.remove("sec-websocket-key");
            head.fields.append("upgrade", b"websocket");
            return Ok(Ok(()));
        }
        head.framing = match length {
            Some(1..) if bodyless => return Err(Malformed),
            _ if bodyless => Framing::Empty,
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        Ok(Ok(()))
    }
}

enum Refused {
    Malformed,
    Head(HeadError),
}

/// The name of a field that may stand in a message.
fn name(field: Field<'_>) -> Result<&str, Refused> {
    if field.sound {
        return std::str::from_utf8(field.name).map_err(|_| Refused::Malformed);
    }
    // What is wrong with it: a name that is none, or a value that is none, which can be told.
    let sound = super::hpack::is_sound(field.name, b"") && field.name.first() != Some(&b':');
    Err(if sound { Refused::Head(HeadError::Malformed) } else { Refused::Malformed })
}

/// RFC 3986 section 3.1.
fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Reads the section behind a body.
#[derive(Debug, Default)]
pub struct TrailerSection {
    fields: Fields,
    bytes: usize,
    count: usize,
    refused: bool,
    malformed: bool,
}

impl TrailerSection {
    /// The next field.
    pub fn field(&mut self, field: Field<'_>) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(field.name.len() + field.value.len() + FIELD_OVERHEAD);
        self.refused |= self.count > FIELDS_MAX || self.bytes > TRAILERS_BYTES_MAX;
        if field.name.first() == Some(&b':') {
            self.malformed = true;
        }
        if self.refused || self.malformed {
            return;
        }
        match name(field) {
            Ok("connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection") => {
                self.malformed = true;
            }
            Ok(name) => self.fields.append(name, field.value),
            Err(Refused::Head(_)) => self.refused = true,
            Err(Refused::Malformed) => self.malformed = true,
        }
    }

    /// The section is over: its fields, or nothing if they cannot be passed on; and how much it unfolded to.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn end(self) -> Result<(Option<Fields>, usize), Malformed> {
        let Self { fields, bytes, refused, malformed, .. } = self;
        if malformed { Err(Malformed) } else { Ok(((!refused).then_some(fields), bytes)) }
    }
}

#[cfg(test)]
mod tests;
