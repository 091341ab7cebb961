//! What a client's connection costs, seen frame by frame before `h2` reads them.
//!
//! Most frames that are not a request or a piece of one cost their sender a few bytes and the gateway work, or memory that
//! `h2` does not count. So they are paid for: by time, by requests, and by what the gateway has sent, to which most of
//! them are replies. A client that sends more of them than anything explains is one that attacks. The same place tells how
//! long a header section has been coming, which nothing else can: to `h2` it is there or it is not.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Duration, Instant},
};

use super::{PREFACE, gather::Gather};
use crate::limit::Limit;

/// The most frames in a second that nothing pays for; also the most that can be saved up.
pub const FREE_FRAMES: u32 = 10_000;

/// How often they are free again.
const FREE_EVERY: Duration = Duration::from_secs(1);

/// Frames that a request pays for.
pub const FRAMES_PER_REQUEST: u32 = 4;

/// Bytes to the client that pay for a frame: of a stream of small messages each may be acknowledged by itself.
const BYTES_PER_FRAME: usize = 128;

/// The most bytes of trailer sections, as they came, that wait in a connection until their requests' bodies are read. A
/// byte may be a whole field, which takes a hundred in memory.
pub const TRAILER_BYTES_MAX: usize = 8 << 10;

/// The most requests with bodies that a connection may have, those included that were refused before anybody looked.
const BODIES_MAX: usize = 1_000;

/// How many frames are read before other connections have their turn.
const FRAMES_PER_TURN: u32 = 64;

/// The most bytes that are read when the gateway's side has ended.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// As many at a time.
const DRAIN_BYTES_AT_ONCE: usize = 4 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEAD_BYTES: usize = 9;

/// What the server of a connection knows of it.
#[derive(Debug)]
pub struct Meter {
    frames: RefCell<Frames>,
    free: Cell<u32>,
    free_since: Cell<Instant>,
    /// Bytes sent that have paid for no frame yet.
    sent: Cell<usize>,
    /// A header section that has begun and is not all there.
    head_since: Cell<Option<Instant>>,
    exceeded: Cell<Option<Limit>>,
    /// Frames since others last had their turn.
    turn: Cell<u32>,
    lingers: Cell<bool>,
    ended: Cell<bool>,
}

/// How far the bytes are that came.
#[derive(Debug)]
struct Frames {
    /// Of a frame's head, as far as it is there.
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// What is still to come of the frame's payload, or of the preface.
    payload: usize,
    kind: u8,
    /// A header section goes on in the next frame.
    section_open: bool,
    /// It comes behind a body.
    section_trails: bool,
    /// The last stream that the client opened.
    last: u32,
    /// Streams whose header section was not all of them, with the bytes of the trailer sections that came since.
    bodies: Vec<(u32, usize)>,
}

/// A connection whose frames are counted.
#[derive(Debug)]
pub struct Metered {
    stream: Gather,
    meter: Rc<Meter>,
    /// Bytes thrown away since the gateway's side ended, if it has.
    drained: Option<usize>,
}

impl Metered {
    /// Counts the frames of a connection from the preface on.
    pub fn new(stream: Gather) -> (Self, Rc<Meter>) {
        let frames = Frames {
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            payload: PREFACE.len(),
            kind: DATA,
            section_open: false,
            section_trails: false,
            last: 0,
            bodies: Vec::new(),
        };
        let meter = Rc::new(Meter::new(frames));
        (Self { stream, meter: Rc::clone(&meter), drained: None }, meter)
    }
}

impl Meter {
    fn new(frames: Frames) -> Self {
        Self {
            frames: RefCell::new(frames),
            free: Cell::new(FREE_FRAMES),
            free_since: Cell::new(Instant::now()),
            sent: Cell::new(0),
            head_since: Cell::new(None),
            exceeded: Cell::new(None),
            turn: Cell::new(0),
            lingers: Cell::new(true),
            ended: Cell::new(false),
        }
    }

    /// The bound that the client does not keep; nothing more is read then.
    pub fn exceeded(&self) -> Option<Limit> {
        self.exceeded.get()
    }

    /// Since when a header section has been coming, if one is.
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }

    /// Whether nothing more is sent to the client: what it still sends is read for a while.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// When the connection ends, it ends at once: who ends it in order has nothing more to send.
    pub fn hurry(&self) {
        self.lingers.set(false);
    }

    /// A request is over: what came of its body waits no longer.
    pub fn forget(&self, stream: u32) {
        self.frames.borrow_mut().bodies.retain(|&(id, _)| id != stream);
    }

    /// These bytes came.
    fn read(&self, mut bytes: &[u8]) {
        let mut frames = self.frames.borrow_mut();
        while !bytes.is_empty() {
            if frames.payload > 0 {
                let skipped = frames.payload.min(bytes.len());
                frames.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let known = frames.head_bytes;
            let taken = bytes.len().min(FRAME_HEAD_BYTES - known);
            frames.head[known..known + taken].copy_from_slice(&bytes[..taken]);
            frames.head_bytes += taken;
            bytes = &bytes[taken..];
            if frames.head_bytes == FRAME_HEAD_BYTES {
                frames.head_bytes = 0;
                self.frame(&mut frames);
            }
        }
        if !frames.in_section() {
            self.head_since.set(None);
        } else if self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// A frame begins.
    fn frame(&self, frames: &mut Frames) {
        let [high, middle, low, kind, flags, id @ ..] = frames.head;
        frames.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        frames.kind = kind;
        self.turn.set(self.turn.get() + 1);
        let id = u32::from_be_bytes(id) & 0x7fff_ffff;
        match kind {
            DATA if frames.payload > 0 || flags & END_STREAM != 0 => {}
            HEADERS => {
                frames.section_open = flags & END_HEADERS == 0;
                frames.section_trails = id <= frames.last;
                if frames.section_trails {
                    self.trailers(frames, id);
                    return;
                }
                frames.last = id;
                self.free.set(self.free.get().saturating_add(FRAMES_PER_REQUEST).min(FREE_FRAMES));
                if flags & END_STREAM == 0 {
                    self.body(frames, id);
                }
            }
            CONTINUATION => {
                frames.section_open &= flags & END_HEADERS == 0;
                self.spend();
                if frames.section_trails {
                    self.trailers(frames, id);
                }
            }
            RST_STREAM => {
                frames.bodies.retain(|&(stream, _)| stream != id);
                self.spend();
            }
            _ => self.spend(),
        }
    }

    /// A request begins whose header section is not all of it.
    fn body(&self, frames: &mut Frames, id: u32) {
        // Those that `h2` refuses by itself stay here.
        if frames.bodies.len() >= BODIES_MAX {
            self.exceeded.set(Some(Limit::Frames));
            return;
        }
        frames.bodies.push((id, 0));
    }

    /// A piece of a trailer section begins.
    fn trailers(&self, frames: &mut Frames, id: u32) {
        let piece = frames.payload;
        if let Some((_, bytes)) = frames.bodies.iter_mut().find(|(stream, _)| *stream == id) {
            *bytes += piece;
        }
        if frames.bodies.iter().map(|(_, bytes)| bytes).sum::<usize>() > TRAILER_BYTES_MAX {
            self.exceeded.set(Some(Limit::TrailerBytes));
        }
    }

    /// A frame that has to be paid for.
    fn spend(&self) {
        if self.free.get() == 0 {
            let now = Instant::now();
            if now.saturating_duration_since(self.free_since.get()) < FREE_EVERY {
                self.exceeded.set(Some(Limit::Frames));
                return;
            }
            self.free_since.set(now);
            self.free.set(FREE_FRAMES);
        }
        self.free.set(self.free.get() - 1);
    }

    /// So many bytes went to the client.
    fn wrote(&self, bytes: usize) {
        let sent = self.sent.get() + bytes;
        self.sent.set(sent % BYTES_PER_FRAME);
        let paid = u32::try_from(sent / BYTES_PER_FRAME).unwrap_or(FREE_FRAMES);
        self.free.set(self.free.get().saturating_add(paid).min(FREE_FRAMES));
    }
}

impl Frames {
    /// Whether what comes next is a part of a header section.
    fn in_section(&self) -> bool {
        self.section_open || (self.payload > 0 && matches!(self.kind, HEADERS | CONTINUATION))
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, meter, .. } = self.get_mut();
        if meter.exceeded().is_some() {
            // Whoever serves the connection sees it now, and ends it.
            return Poll::Pending;
        }
        if meter.turn.get() >= FRAMES_PER_TURN {
            meter.turn.set(0);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        meter.read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, meter, .. } = self.get_mut();
        let written = ready!(Pin::new(stream).poll_write(cx, bytes))?;
        meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, meter, .. } = self.get_mut();
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, parts))?;
        meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, meter, drained } = self.get_mut();
        if drained.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        meter.ended.set(true);
        // Closing would reset the connection of one who still sends, and the reason might be lost on the way.
        let drained = drained.get_or_insert(0);
        let mut room = [0; DRAIN_BYTES_AT_ONCE];
        while meter.lingers.get() && *drained < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                bytes => *drained += bytes,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        let frames = Frames {
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            payload: 0,
            kind: DATA,
            section_open: false,
            section_trails: false,
            last: 0,
            bodies: Vec::new(),
        };
        Meter::new(frames)
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("a length").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0; payload]].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_paid_for_by_time_by_requests_and_by_what_was_sent() {
        const PING: u8 = 6;
        let (meter, ping) = (meter(), frame(PING, 0, 0, 8));
        let pings = |times: u32| (0..times).for_each(|_| meter.read(&ping));
        pings(FREE_FRAMES);
        meter.wrote(BYTES_PER_FRAME);
        pings(1);
        meter.read(&frame(HEADERS, END_HEADERS | END_STREAM, 1, 5));
        pings(FRAMES_PER_REQUEST);
        assert_eq!(meter.exceeded(), None);
        tokio::time::advance(FREE_EVERY).await;
        pings(FREE_FRAMES);
        assert_eq!(meter.exceeded(), None);
        pings(1);
        assert_eq!(meter.exceeded(), Some(Limit::Frames));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_under_way_from_its_first_byte_to_its_last_in_any_pieces() {
        let bytes = [frame(HEADERS, END_STREAM, 1, 5), frame(CONTINUATION, END_HEADERS, 1, 5)].concat();
        for size in 1..bytes.len() {
            let meter = meter();
            let (last, rest) = bytes.split_last().expect("bytes");
            rest.chunks(size).for_each(|piece| meter.read(piece));
            assert!(meter.head_since().is_some());
            meter.read(&[*last]);
            assert!(meter.head_since().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_count_until_their_request_is_over() {
        let meter = meter();
        let trailers = |stream| {
            meter.read(&frame(HEADERS, END_HEADERS, stream, 5));
            meter.read(&frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILER_BYTES_MAX));
        };
        trailers(1);
        meter.forget(1);
        trailers(3);
        assert_eq!(meter.exceeded(), None);
        trailers(5);
        assert_eq!(meter.exceeded(), Some(Limit::TrailerBytes));
    }
}
