//! Bodies, read piece by piece out of a buffer that the connection fills.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{
    Framing,
    head::{FIELDS_MAX, HeadError},
};
use crate::fields::Fields;

/// The most bytes of chunk extensions in one body.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// The most bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// Why a body is refused. It ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk's size or line end is malformed.
    #[error("the chunked body is malformed")]
    Chunk,
    /// Over a bound on extensions.
    #[error("the chunk extensions are too large")]
    Extensions,
    /// Malformed or too large.
    #[error("the trailer section is malformed")]
    Trailers,
    /// The connection closed before the body's end.
    #[error("the body is cut short")]
    CutShort,
}

impl From<HeadError> for BodyError {
    fn from(_: HeadError) -> Self {
        Self::Trailers
    }
}

/// What [`BodyReader::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The buffer begins with so many bytes of body, more than 0; say [`BodyReader::took`] when they are used.
    Data(usize),
    /// The buffer must be filled first.
    More,
    /// The body is over; what is left in the buffer is the next message's.
    End,
}

/// Reads one body.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    extension_bytes: usize,
    /// What came after the last chunk; empty until [`Piece::End`].
    pub trailers: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes left of a known length.
    Length(u64),
    UntilClose,
    ChunkSize,
    /// Bytes left of a chunk.
    ChunkData(u64),
    /// The CRLF after a chunk's data.
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    /// A reader for a body framed so.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, trailers: Fields::new() }
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are still to come, if the message told.
    #[must_use]
    pub fn known_rest(&self) -> Option<u64> {
        match self.state {
            State::Length(rest) => Some(rest),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Finds the next piece in `buffer`, eating the framing before it.
    ///
    /// # Errors
    /// [`BodyError`] on malformed framing.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End),
                State::Length(rest) | State::ChunkData(rest) => {
                    let available = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
                    return Ok(if available == 0 { Piece::More } else { Piece::Data(available) });
                }
                State::UntilClose => {
                    return Ok(if buffer.is_empty() { Piece::More } else { Piece::Data(buffer.len()) });
                }
                State::ChunkSize => {
                    let Some(size) = self.chunk_size(buffer)? else { return Ok(Piece::More) };
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::ChunkEnd => {
                    if buffer.len() < 2 {
                        let bad = buffer.first().is_some_and(|&byte| byte != b'\r');
                        return if bad { Err(BodyError::Chunk) } else { Ok(Piece::More) };
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(BodyError::Chunk);
                    }
                    buffer.advance(2);
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    if !self.read_trailers(buffer)? {
                        return Ok(Piece::More);
                    }
                    self.state = State::Done;
                }
            }
        }
    }

    /// The user has used the first `bytes` bytes of the buffer; they are dropped from it.
    pub fn took(&mut self, buffer: &mut BytesMut, bytes: usize) {
        buffer.advance(bytes);
        self.count(bytes);
    }

    fn count(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.state = match self.state {
            State::Length(rest) if rest == bytes => State::Done,
            State::Length(rest) => State::Length(rest - bytes),
            State::ChunkData(rest) if rest == bytes => State::ChunkEnd,
            State::ChunkData(rest) => State::ChunkData(rest - bytes),
            state => state,
        };
    }

    /// Takes the first `bytes` bytes of the buffer to keep, without copying them.
    pub fn take(&mut self, buffer: &mut BytesMut, bytes: usize) -> Bytes {
        let taken = buffer.split_to(bytes).freeze();
        self.count(bytes);
        taken
    }

    /// The connection closed: the end of a body that ends so, an error in any other.
    ///
    /// # Errors
    /// [`BodyError::CutShort`].
    pub fn closed(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::CutShort),
        }
    }

    /// Eats a chunk's first line: 1 to 16 hex digits, extensions, CRLF.
    fn chunk_size(&mut self, buffer: &mut BytesMut) -> Result<Option<u64>, BodyError> {
        let mut size: u64 = 0;
        let mut digits = 0;
        for &byte in buffer.iter().take(17) {
            let Some(digit) = (byte as char).to_digit(16) else { break };
            size = size.wrapping_shl(4) | u64::from(digit);
            digits += 1;
        }
        if digits > 16 || i64::try_from(size).is_err() {
            return Err(BodyError::Chunk);
        }
        let rest = &buffer[digits..];
        match rest.first() {
            None => return Ok(None),
            Some(b'\r' | b';' | b' ' | b'\t') if digits > 0 => {}
            Some(_) => return Err(BodyError::Chunk),
        }
        let Some(line_end) = memchr::memchr2(b'\r', b'\n', rest) else {
            return if self.extension_bytes + rest.len() > EXTENSION_BYTES_MAX {
                Err(BodyError::Extensions)
            } else {
                Ok(None)
            };
        };
        let extension = &rest[..line_end];
        self.extension_bytes += line_end;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(BodyError::Extensions);
        }
        // White space may stand before an extension (BWS), not alone; no control bytes inside.
        let blank = !extension.is_empty() && extension.trim_ascii_start().first() != Some(&b';');
        if blank || extension.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err(BodyError::Chunk);
        }
        match rest.get(line_end..line_end + 2) {
            Some(b"\r\n") => {
                let taken = digits + line_end + 2;
                buffer.advance(taken);
                Ok(Some(size))
            }
            None if rest[line_end] == b'\r' => {
                // The line is read again when its LF is there.
                self.extension_bytes -= line_end;
                Ok(None)
            }
            _ => Err(BodyError::Chunk),
        }
    }

    /// Eats the trailer section with its empty line; false if it is not whole yet.
    fn read_trailers(&mut self, buffer: &mut BytesMut) -> Result<bool, BodyError> {
        if buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            return Ok(true);
        }
        let window = &buffer[..buffer.len().min(TRAILER_BYTES_MAX)];
        let Some(end) = memchr::memmem::find(window, b"\r\n\r\n").map(|at| at + 4) else {
            let bad = window.first() == Some(&b'\n') || memchr::memmem::find(window, b"\n\n").is_some();
            return if bad || buffer.len() >= TRAILER_BYTES_MAX { Err(BodyError::Trailers) } else { Ok(false) };
        };
        let bare = memchr::memchr_iter(b'\n', &window[..end]).any(|at| at == 0 || window[at - 1] != b'\r');
        let mut lines = [httparse::EMPTY_HEADER; FIELDS_MAX];
        match httparse::parse_headers(&window[..end], &mut lines) {
            Ok(httparse::Status::Complete((parsed, lines))) if parsed == end && !bare => {
                for line in lines {
                    self.trailers.append(line.name, line.value);
                }
            }
            _ => return Err(BodyError::Trailers),
        }
        buffer.advance(end);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
