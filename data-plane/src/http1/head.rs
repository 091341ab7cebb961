//! Heads of messages: request line or status line, and the header section.

use std::{mem::MaybeUninit, time::Duration};

use memchr::{memchr, memchr_iter};

use super::{Framing, Version};
use crate::fields::Fields;

/// The most bytes that a head may have. Default bound of the gateway; more is answered with 431.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// The most field lines that a section may have.
pub const FIELDS_MAX: usize = 100;

/// The most bytes that a request target may have; more is answered with 414.
pub const TARGET_BYTES_MAX: usize = 8 << 10;

/// Why a head is refused. Every one of them ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Over [`HEAD_BYTES_MAX`].
    #[error("the header section is too large")]
    TooLarge,
    /// Over [`FIELDS_MAX`].
    #[error("the header section has too many fields")]
    TooManyFields,
    /// Over [`TARGET_BYTES_MAX`].
    #[error("the request target is too long")]
    TargetTooLong,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("the HTTP version is not supported")]
    Version,
    /// Does not follow the grammar, or ends a line with a bare LF.
    #[error("the head is malformed")]
    Malformed,
    /// A Transfer-Encoding that is not exactly `chunked`, or one in HTTP/1.0.
    #[error("the transfer coding is not exactly one \"chunked\"")]
    TransferEncoding,
    /// Repeated, or not a plain decimal number below 2^63.
    #[error("the content length is not one plain number")]
    ContentLength,
    /// None in an HTTP/1.0 request whose method defines a body: it would end with the connection.
    #[error("an HTTP/1.0 request with this method must have a content length")]
    LengthMissing,
    /// Both a Content-Length and a Transfer-Encoding.
    #[error("both a content length and a transfer coding are given")]
    LengthAndCoding,
    /// None in HTTP/1.1, or several.
    #[error("there must be exactly one Host field")]
    Host,
    /// An expectation other than `100-continue`.
    #[error("the expectation is not supported")]
    Expectation,
}

/// What the Connection, Keep-Alive and Upgrade fields of a head say.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The sender will close.
    pub close: bool,
    /// The sender asks a 1.0 connection to stay.
    pub keep_alive: bool,
    /// The sender nominates Upgrade.
    pub upgrade: bool,
    /// How long the sender keeps an idle connection, if it says so (`Keep-Alive: timeout=5`).
    pub keep_alive_time: Option<Duration>,
    /// Other field names it nominates, which end at this hop: all of them, separated by commas. Empty is usual.
    pub nominated: Vec<u8>,
}

impl Connection {
    fn clear(&mut self) {
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
        self.keep_alive_time = None;
        self.nominated.clear();
    }

    fn read(&mut self, value: &[u8]) {
        for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !token.is_empty() {
                self.nominated.extend_from_slice(token);
                self.nominated.push(b',');
            }
        }
    }

    fn read_keep_alive(&mut self, value: &[u8]) {
        for parameter in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if let Some(seconds) = parameter.strip_prefix(b"timeout=").and_then(plain_number) {
                self.keep_alive_time = Some(Duration::from_secs(seconds));
            }
        }
    }

    /// Whether a field is nominated, and so must not be forwarded.
    #[must_use]
    pub fn nominates(&self, name: &str) -> bool {
        !self.nominated.is_empty()
            && self.nominated.split(|&byte| byte == b',').any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The head of a request, reused from one request of a connection to the next.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// A token.
    pub method: String,
    /// As sent: any of the four forms of RFC 9112 section 3.2.
    pub target: Vec<u8>,
    /// As sent.
    pub version: Version,
    /// The header section whole, hop-by-hop fields included.
    pub fields: Fields,
    /// Where the body ends.
    pub framing: Framing,
    /// See there.
    pub connection: Connection,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// The client understands trailers (`TE: trailers`).
    pub wants_trailers: bool,
}

/// The most interim (1xx) responses before the real one.
pub const INTERIM_MAX: u32 = 32;

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// As sent.
    pub version: Version,
    /// The header section whole, hop-by-hop fields included.
    pub fields: Fields,
    /// Where the body ends.
    pub framing: Framing,
    /// See there.
    pub connection: Connection,
}

/// Which body length the framing fields give.
#[derive(Default)]
struct Lengths {
    content_length: Option<u64>,
    chunked: bool,
}

impl RequestHead {
    /// Whether the client lets the connection stay open after this exchange.
    #[must_use]
    pub fn persistent(&self) -> bool {
        match self.version {
            Version::Http2 => true,
            Version::Http11 => !self.connection.close,
            Version::Http10 => self.connection.keep_alive && !self.connection.close,
        }
    }

    /// Forgets the request before.
    pub fn clear(&mut self) {
        self.method.clear();
        self.target.clear();
        self.version = Version::Http11;
        self.fields.clear();
        self.framing = Framing::Empty;
        self.connection.clear();
        self.expects_continue = false;
        self.wants_trailers = false;
    }

    /// Reads a head from the beginning of `bytes`. Returns how many bytes it took, or `None` if it is not whole yet.
    ///
    /// # Errors
    /// [`HeadError`]; the rest of the connection can't be trusted then.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        let Some(end) = head_end(bytes)? else {
            // A target that is already too long is told before the rest of the head comes.
            return match memchr(b'\n', bytes) {
                None if bytes.len() > TARGET_BYTES_MAX + 64 => Err(HeadError::TargetTooLong),
                _ => Ok(None),
            };
        };
        let head = &bytes[..end];
        let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut lines) {
            Ok(httparse::Status::Complete(parsed)) if parsed == end => {}
            Ok(_) => return Err(HeadError::Malformed),
            Err(error) => return Err(error.into()),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
            return Err(HeadError::Malformed);
        };
        if target.len() > TARGET_BYTES_MAX {
            return Err(HeadError::TargetTooLong);
        }
        self.method.clear();
        self.method.push_str(method);
        self.target.clear();
        self.target.extend_from_slice(target.as_bytes());
        self.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        self.fields.clear();
        self.connection.clear();
        self.expects_continue = false;
        self.wants_trailers = false;

        let mut lengths = Lengths::default();
        let mut hosts = 0;
        for line in request.headers.iter() {
            match line.name.len() {
                2 if line.name.eq_ignore_ascii_case("te") => self.wants_trailers |= has_token(line.value, b"trailers"),
                4 if line.name.eq_ignore_ascii_case("host") => hosts += 1,
                6 if line.name.eq_ignore_ascii_case("expect") => {
                    if !line.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HeadError::Expectation);
                    }
                    self.expects_continue = self.version == Version::Http11;
                }
                10 if line.name.eq_ignore_ascii_case("connection") => self.connection.read(line.value),
                _ => lengths.read(line, head)?,
            }
            self.fields.append(line.name, line.value);
        }
        if hosts > 1 || (hosts == 0 && self.version == Version::Http11) {
            return Err(HeadError::Host);
        }
        if lengths.chunked && self.version == Version::Http10 {
            return Err(HeadError::TransferEncoding);
        }
        // Whatever such a client sends next, it may mean as the body (RFC 1945 section 8.3).
        let unlimited = self.version == Version::Http10 && lengths.content_length.is_none();
        if unlimited && defines_body(&self.method) {
            return Err(HeadError::LengthMissing);
        }
        self.framing = match lengths {
            Lengths { chunked: true, content_length: Some(_) } => return Err(HeadError::LengthAndCoding),
            Lengths { chunked: true, content_length: None } => Framing::Chunked,
            Lengths { content_length: None | Some(0), .. } => Framing::Empty,
            Lengths { content_length: Some(length), .. } => Framing::Length(length),
        };
        Ok(Some(end))
    }
}

impl ResponseHead {
    /// Whether the upstream lets the connection stay open after this exchange.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.framing != Framing::UntilClose
            && match self.version {
                Version::Http2 => true,
                Version::Http11 => !self.connection.close,
                Version::Http10 => self.connection.keep_alive && !self.connection.close,
            }
    }

    /// Forgets the response before.
    pub fn clear(&mut self) {
        self.status = 0;
        self.version = Version::Http11;
        self.fields.clear();
        self.framing = Framing::Empty;
        self.connection.clear();
    }

    /// Reads the head of the response to a request of that method. Returns how many bytes it took, or `None` if it
    /// is not whole yet.
    ///
    /// # Errors
    /// [`HeadError`]; the rest of the connection can't be trusted then.
    pub fn parse(&mut self, bytes: &[u8], request_method: &str) -> Result<Option<usize>, HeadError> {
        let Some(end) = head_end(bytes)? else { return Ok(None) };
        let head = &bytes[..end];
        let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        match parser.parse_response_with_uninit_headers(&mut response, head, &mut lines) {
            Ok(httparse::Status::Complete(parsed)) if parsed == end => {}
            Ok(_) => return Err(HeadError::Malformed),
            Err(error) => return Err(error.into()),
        }
        let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(HeadError::Malformed) };
        if !(100..=999).contains(&status) {
            return Err(HeadError::Malformed);
        }
        self.status = status;
        self.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        self.fields.clear();
        self.connection.clear();
        let mut lengths = Lengths::default();
        for line in response.headers.iter() {
            match line.name.len() {
                10 if line.name.eq_ignore_ascii_case("connection") => self.connection.read(line.value),
                10 if line.name.eq_ignore_ascii_case("keep-alive") => self.connection.read_keep_alive(line.value),
                _ => lengths.read(line, head)?,
            }
            self.fields.append(line.name, line.value);
        }
        if lengths.chunked && self.version == Version::Http10 {
            return Err(HeadError::TransferEncoding);
        }
        if lengths.chunked && lengths.content_length.is_some() {
            return Err(HeadError::LengthAndCoding);
        }
        // A body that must not be there may come all the same: the connection cannot be trusted afterwards.
        let announces = lengths.chunked || lengths.content_length.is_some_and(|length| length > 0);
        if announces && (status < 200 || status == 204) {
            self.connection.close = true;
        }
        let bodyless = status < 200 || status == 204 || status == 304 || request_method == "HEAD";
        self.framing = match lengths {
            _ if bodyless => Framing::Empty,
            Lengths { chunked: true, .. } => Framing::Chunked,
            Lengths { content_length: Some(0), .. } => Framing::Empty,
            Lengths { content_length: Some(length), .. } => Framing::Length(length),
            Lengths { content_length: None, .. } => Framing::UntilClose,
        };
        Ok(Some(end))
    }
}

impl Lengths {
    fn read(&mut self, line: &httparse::Header<'_>, head: &[u8]) -> Result<(), HeadError> {
        match line.name.len() {
            14 if line.name.eq_ignore_ascii_case("content-length") => {
                let length = plain_number(line.value).filter(|_| ends_its_line(line.value, head));
                if self.content_length.is_some() || length.is_none() {
                    return Err(HeadError::ContentLength);
                }
                self.content_length = length;
            }
            17 if line.name.eq_ignore_ascii_case("transfer-encoding") => {
                let exact = line.value.eq_ignore_ascii_case(b"chunked") && ends_its_line(line.value, head);
                if self.chunked || !exact {
                    return Err(HeadError::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The length of the head that `bytes` begin with, its empty line included; empty lines before it are not
/// skipped here (httparse does).
fn head_end(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut line = 0;
    // Empty lines may come before a request line (RFC 9112 section 2.2); they must not look like the end of a head.
    let mut begun = false;
    for feed in memchr_iter(b'\n', window) {
        // A bare LF ends a line for some readers and not for others.
        if feed == 0 || window[feed - 1] != b'\r' {
            return Err(HeadError::Malformed);
        }
        let empty = feed == line + 1;
        if empty && begun {
            return Ok(Some(feed + 1));
        }
        begun |= !empty;
        line = feed + 1;
    }
    if bytes.len() >= HEAD_BYTES_MAX { Err(HeadError::TooLarge) } else { Ok(None) }
}

/// Whether requests of this method usually have a body, so that one without must say so.
#[must_use]
pub fn defines_body(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

/// Whether a list of tokens has one.
fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|entry| entry.trim_ascii().eq_ignore_ascii_case(token))
}

/// A non-empty run of digits below 2^63 without sign, space or comma.
pub fn plain_number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value
        .iter()
        .try_fold(0_u64, |number, byte| {
            byte.is_ascii_digit().then(|| number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')))
        })
        .filter(|&number| i64::try_from(number).is_ok())
}

/// Whether a value that lies in `head` goes right up to its CRLF: httparse trims the space after it.
fn ends_its_line(value: &[u8], head: &[u8]) -> bool {
    let end = (value.as_ptr() as usize + value.len()).wrapping_sub(head.as_ptr() as usize);
    head.get(end) == Some(&b'\r')
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Version => Self::Version,
            _ => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests;
