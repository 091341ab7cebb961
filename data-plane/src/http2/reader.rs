//! What a client sends, frame by frame: read, checked and paid for.
//!
//! Most frames that are not a request or a piece of one cost their sender a few bytes and the gateway work. So they are paid
//! for: by time, by requests, and by pieces of answers, to which most of them are replies. A client that sends more of them
//! than anything explains is one that attacks. The same holds for requests that it gives up, or makes fail. A piece of a
//! body that is not empty is paid for by the window.

use std::rc::Rc;

use bytes::{Buf as _, BytesMut};
use tokio::time::{Duration, Instant};

use super::{
    PREFACE,
    connection::Connection,
    frames::{ACK, Code, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, Settings, kind, number},
    hpack::{Decoder, Unread},
    section::{Bounds, Malformed, RequestSection, TrailerSection},
    stream::Stream,
};
use crate::{
    http1::{
        Framing,
        head::{HEAD_BYTES_MAX, HeadError, RequestHead},
    },
    limit::Limit,
};

/// The most frames in a second that nothing pays for.
pub const FREE_FRAMES: u32 = 10_000;

/// How often they are free again.
const FREE_EVERY: Duration = Duration::from_secs(1);

/// Frames that a request pays for.
pub const FRAMES_PER_REQUEST: u32 = 4;

/// The most bytes of trailer sections that wait in a connection until their requests' bodies are read: as they came, or as
/// they unfolded with 32 bytes for each field, whichever is more.
pub const TRAILER_BYTES_MAX: usize = 8 << 10;

/// The most bytes of a header section, as it comes, and as it unfolds with 32 bytes for each field. A head that is too large
/// is answered; one that is larger than that ends the connection: it is not even read to its end.
const SECTION_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// How many frames are read before other connections have their turn.
const FRAMES_PER_TURN: u32 = 64;

/// A piece of a body that is smaller is copied; a larger one is kept where it lies, and what it came with too.
const KEPT_BYTES_MIN: usize = 8 << 10;

/// How far the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preface,
    /// Its first frame must be its settings.
    Settings,
    Greeted,
}

/// A header section that is not all there.
#[derive(Debug)]
struct Section {
    head: Head,
    depends_on: Option<u32>,
    bytes: Vec<u8>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Reader {
    connection: Rc<Connection>,
    stage: Stage,
    decoder: Decoder,
    bounds: Bounds,
    section: Option<Section>,
    /// Since when a header section has been coming, if one is.
    head_since: Option<Instant>,
    /// The last request that began.
    last: u32,
    /// The last one that is served, if that was said.
    last_served: Option<u32>,
    free: u32,
    free_since: Instant,
    /// Frames since others last had their turn.
    turn: u32,
}

/// What came.
#[derive(Debug)]
pub enum Event {
    /// A request, whose head was read, or could not be.
    Request(Rc<Stream>, Result<(), HeadError>),
    /// The rest is not all there.
    More,
    /// Others have their turn.
    TurnOver,
}

/// Why the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What came cannot be.
    Invalid(Code),
    /// A bound that the client does not keep.
    Exceeded(Limit),
}

impl From<Code> for Fault {
    fn from(code: Code) -> Self {
        Self::Invalid(code)
    }
}

impl From<Unread> for Fault {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Invalid => Self::Invalid(Code::CompressionError),
            Unread::TooLarge => Self::Exceeded(Limit::HeadBytes),
        }
    }
}

impl Reader {
    /// Before the first byte.
    pub fn new(connection: Rc<Connection>, bounds: Bounds) -> Self {
        Self {
            connection,
            stage: Stage::Preface,
            decoder: Decoder::default(),
            bounds,
            section: None,
            head_since: None,
            last: 0,
            last_served: None,
            free: FREE_FRAMES,
            free_since: Instant::now(),
            turn: 0,
        }
    }

    /// Whether the client has said what it must say first.
    pub fn is_greeted(&self) -> bool {
        self.stage == Stage::Greeted
    }

    /// Since when a header section has been coming, if one is.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// The last request that is, or was, served.
    pub fn last(&self) -> u32 {
        self.last_served.unwrap_or(self.last)
    }

    /// Reads what has come, up to the next request; its head goes into `head`.
    ///
    /// # Errors
    /// [`Fault`]; nothing more is read then.
    pub fn next(&mut self, input: &mut BytesMut, head: &mut RequestHead) -> Result<Event, Fault> {
        if self.stage == Stage::Preface {
            let known = input.len().min(PREFACE.len());
            if input[..known] != PREFACE[..known] {
                return Err(Code::ProtocolError.into());
            }
            if known < PREFACE.len() {
                return Ok(Event::More);
            }
            input.advance(PREFACE.len());
            self.stage = Stage::Settings;
        }
        loop {
            let Some(frame) = Head::parse(input) else {
                self.note_head(false);
                return Ok(Event::More);
            };
            if frame.length > PAYLOAD_BYTES_MAX {
                return Err(Code::FrameSizeError.into());
            }
            let end = HEAD_BYTES + frame.length;
            if input.len() < end {
                self.note_head(matches!(frame.kind, kind::HEADERS | kind::CONTINUATION) && frame.length > 0);
                return Ok(Event::More);
            }
            if self.turn >= FRAMES_PER_TURN {
                self.turn = 0;
                return Ok(Event::TurnOver);
            }
            self.turn += 1;
            if frame.kind == kind::DATA {
                self.check_order(frame)?;
                self.data(frame, input)?;
                continue;
            }
            let event = self.frame(frame, &input[HEAD_BYTES..end], head);
            input.advance(end);
            if let Some(event) = event? {
                return Ok(event);
            }
        }
    }

    /// Whether the next piece of a header section has begun, when all else is read.
    fn note_head(&mut self, begun: bool) {
        if !begun && self.section.is_none() {
            self.head_since = None;
        } else if self.head_since.is_none() {
            self.head_since = Some(Instant::now());
        }
    }

    /// A frame that has to be paid for.
    fn spend(&mut self) -> Result<(), Fault> {
        if self.free == 0 {
            self.free = self.connection.take_paid();
        }
        if self.free == 0 {
            let now = Instant::now();
            if now.saturating_duration_since(self.free_since) < FREE_EVERY {
                return Err(Fault::Exceeded(Limit::Frames));
            }
            self.free_since = now;
            self.free = FREE_FRAMES;
        }
        self.free -= 1;
        Ok(())
    }

    /// Nothing may come between the pieces of a header section, and settings come first.
    fn check_order(&mut self, frame: Head) -> Result<(), Fault> {
        let in_order = match &self.section {
            Some(section) => frame.kind == kind::CONTINUATION && frame.stream == section.head.stream,
            None => frame.kind != kind::CONTINUATION,
        };
        if self.stage == Stage::Settings && in_order && frame.kind == kind::SETTINGS && frame.flags & ACK == 0 {
            self.stage = Stage::Greeted;
        }
        if in_order && self.stage == Stage::Greeted { Ok(()) } else { Err(Code::ProtocolError.into()) }
    }

    fn frame(&mut self, frame: Head, payload: &[u8], head: &mut RequestHead) -> Result<Option<Event>, Fault> {
        self.check_order(frame)?;
        match frame.kind {
            kind::HEADERS => return self.headers(frame, payload, head),
            kind::CONTINUATION => {
                self.spend()?;
                return self.continuation(frame, payload, head);
            }
            _ => self.spend()?,
        }
        match (frame.kind, frame.stream) {
            (kind::PRIORITY, 0) => return Err(Code::ProtocolError.into()),
            (kind::PRIORITY, id) if payload.len() != 5 => self.fail(id, Code::FrameSizeError),
            (kind::PRIORITY, id) if number(payload) == Some(id) => self.fail(id, Code::ProtocolError),
            (kind::PRIORITY, _) => {}
            (kind::RST_STREAM, id) => {
                if payload.len() != 4 {
                    return Err(Code::FrameSizeError.into());
                }
                self.check_begun(id)?;
                if let Some(stream) = self.connection.find(id) {
                    stream.lose();
                }
            }
            (kind::SETTINGS | kind::PING | kind::GOAWAY, 1..) | (kind::PUSH_PROMISE, _) => {
                return Err(Code::ProtocolError.into());
            }
            (kind::SETTINGS, 0) if frame.flags & ACK != 0 && !payload.is_empty() => {
                return Err(Code::FrameSizeError.into());
            }
            (kind::SETTINGS, 0) if frame.flags & ACK != 0 => {}
            (kind::SETTINGS, 0) => self.connection.apply(Settings::parse(payload)?)?,
            (kind::PING, 0) => {
                if payload.len() != 8 {
                    return Err(Code::FrameSizeError.into());
                }
                if frame.flags & ACK == 0 {
                    self.connection.pong(payload);
                } else if Connection::is_farewell(payload) && self.last_served == Some(u32::MAX) {
                    // It has heard that no more is welcome: what it sent before is all there is.
                    self.last_served = Some(self.last);
                    self.connection.goaway(self.last, Code::NoError);
                }
            }
            (kind::GOAWAY, 0) if payload.len() < 8 => return Err(Code::FrameSizeError.into()),
            (kind::WINDOW_UPDATE, id) => self.window_update(id, payload)?,
            _ => {}
        }
        Ok(None)
    }

    /// Whether the client knows which request is the last.
    pub fn is_told(&self) -> bool {
        self.last_served.is_some_and(|last| last != u32::MAX)
    }

    /// Says that no more requests are welcome.
    pub fn farewell(&mut self) {
        self.last_served = Some(u32::MAX);
        self.connection.farewell();
    }

    /// Nobody may speak of a stream that has not begun.
    fn check_begun(&self, id: u32) -> Result<(), Fault> {
        if id == 0 || id.is_multiple_of(2) || id > self.last { Err(Code::ProtocolError.into()) } else { Ok(()) }
    }

    /// Whether a frame of a stream that is over may have been sent before the client knew: it crossed our giving up, or our
    /// last word.
    fn may_be_late(&self, id: u32) -> bool {
        self.connection.closed(id) == Some(true) || self.last_served.is_some_and(|last| id > last)
    }

    /// A stream fails by the client's doing.
    fn fail(&self, id: u32, code: Code) {
        match self.connection.find(id) {
            // It counts when it is over.
            Some(stream) => stream.fail(code),
            None => {
                self.connection.refuse(id, code);
                self.connection.count_reset();
            }
        }
    }

    fn window_update(&self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Code::FrameSizeError.into());
        }
        let by = number(payload).unwrap_or(0);
        if id == 0 {
            return match by {
                0 => Err(Code::ProtocolError.into()),
                by => Ok(self.connection.widen(by)?),
            };
        }
        self.check_begun(id)?;
        if let Some(stream) = self.connection.find(id) {
            if by == 0 {
                stream.fail(Code::ProtocolError);
            } else if stream.widen(by.into()).is_err() {
                stream.fail(Code::FlowControlError);
            }
        }
        Ok(())
    }

    fn data(&mut self, frame: Head, input: &mut BytesMut) -> Result<(), Fault> {
        self.check_begun(frame.stream)?;
        let end = HEAD_BYTES + frame.length;
        let data = frame.unpadded(&input[HEAD_BYTES..end])?;
        let (length, is_last) = (data.len(), frame.ends_stream());
        self.connection.receive(frame.length)?;
        let Some(stream) = self.connection.find(frame.stream) else {
            input.advance(end);
            self.connection.release(frame.length);
            self.spend()?;
            if !self.may_be_late(frame.stream) {
                self.fail(frame.stream, Code::StreamClosed);
            }
            return Ok(());
        };
        // Padding is at the end, and its length at the beginning.
        let begin = HEAD_BYTES + usize::from(frame.length > 0 && length < frame.length);
        let received = if length >= KEPT_BYTES_MIN {
            let mut whole = input.split_to(end).freeze();
            whole.advance(begin);
            whole.truncate(length);
            stream.receive(frame.length, &whole.clone(), Some(whole), is_last)
        } else {
            let received = stream.receive(frame.length, &input[begin..begin + length], None, is_last);
            input.advance(end);
            received
        };
        if let Err(code) = received {
            self.connection.release(frame.length);
            stream.fail(code);
        }
        if length == 0 && !is_last {
            self.spend()?;
        }
        Ok(())
    }

    fn headers(&mut self, frame: Head, payload: &[u8], head: &mut RequestHead) -> Result<Option<Event>, Fault> {
        if frame.stream.is_multiple_of(2) {
            return Err(Code::ProtocolError.into());
        }
        let (fragment, depends_on) = frame.fragment(payload)?;
        if frame.ends_headers() {
            return self.section(frame, depends_on, fragment, head);
        }
        self.section = Some(Section { head: frame, depends_on, bytes: fragment.to_vec() });
        Ok(None)
    }

    fn continuation(&mut self, frame: Head, payload: &[u8], head: &mut RequestHead) -> Result<Option<Event>, Fault> {
        let Some(section) = &mut self.section else { return Err(Code::ProtocolError.into()) };
        if section.bytes.len() + payload.len() > SECTION_BYTES_MAX {
            return Err(Fault::Exceeded(Limit::HeadBytes));
        }
        section.bytes.extend_from_slice(payload);
        if !frame.ends_headers() {
            return Ok(None);
        }
        let Some(Section { head: first, depends_on, bytes }) = self.section.take() else { return Ok(None) };
        self.section(first, depends_on, &bytes, head)
    }

    /// A header section is all there.
    fn section(
        &mut self,
        frame: Head,
        depends_on: Option<u32>,
        block: &[u8],
        head: &mut RequestHead,
    ) -> Result<Option<Event>, Fault> {
        self.head_since = None;
        let id = frame.stream;
        if id <= self.last {
            self.trailers(frame, block)?;
            return Ok(None);
        }
        self.last = id;
        self.connection.pay(FRAMES_PER_REQUEST);
        let mut section = RequestSection::new(head, self.bounds);
        self.decoder.decode(block, SECTION_BYTES_MAX, |field| section.field(field))?;
        let read = section.end(frame.ends_stream());
        if self.last_served.is_some_and(|last| id > last) {
            // It crossed our last word, which says that nobody has looked at it.
            return Ok(None);
        }
        let connection = &self.connection;
        match read {
            Ok(_) if !connection.has_room() => connection.refuse(id, Code::RefusedStream),
            Ok(read) if depends_on != Some(id) => {
                let length = match head.framing {
                    Framing::Length(length) => Some(length),
                    Framing::Empty if read.is_ok() && !head.connection.upgrade => Some(0),
                    _ => None,
                };
                let stream = connection.begin(id, length, frame.ends_stream());
                return Ok(Some(Event::Request(stream, read)));
            }
            Ok(_) | Err(Malformed) => {
                connection.refuse(id, Code::ProtocolError);
                connection.count_reset();
            }
        }
        Ok(None)
    }

    /// A section of a request that has begun.
    fn trailers(&mut self, frame: Head, block: &[u8]) -> Result<(), Fault> {
        let mut section = TrailerSection::default();
        self.decoder.decode(block, SECTION_BYTES_MAX, |field| section.field(field))?;
        let Some(stream) = self.connection.find(frame.stream) else {
            self.spend()?;
            return match self.connection.closed(frame.stream) {
                _ if self.may_be_late(frame.stream) => Ok(()),
                Some(_) => Err(Code::StreamClosed.into()),
                None => Err(Code::ProtocolError.into()),
            };
        };
        let received = match section.end() {
            _ if stream.has_received_all() => Err(Code::StreamClosed),
            Ok((fields, bytes)) if frame.ends_stream() => stream.receive_trailers(fields, bytes.max(block.len())),
            _ => Err(Code::ProtocolError),
        };
        if let Err(code) = received {
            stream.fail(code);
        }
        if self.connection.trailer_bytes.get() > TRAILER_BYTES_MAX {
            return Err(Fault::Exceeded(Limit::TrailerBytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
