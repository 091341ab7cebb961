//! One request of a client's HTTP/2 connection: its body as it comes, its answer as it goes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};

use super::{
    connection::{Connection, STREAM_WINDOW_BYTES},
    frames::{Code, END_STREAM, Head, WINDOW_BYTES_MAX, kind},
    output::COPY_BYTES_MAX,
};
use crate::{
    body::Source,
    fields::Fields,
    http1::{body::Piece, write::may_be_trailer},
    stream::Pressure,
};

/// Pieces of a body up to this size are put together: each by itself would hold all that came with it.
const TOGETHER_BYTES_MAX: usize = 64 << 10;

/// A stream that a client opened, shared by the task that serves it and the one that reads the connection.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    connection: Rc<Connection>,
    /// The task that serves it, which waits for one thing or another.
    waker: RefCell<Option<Waker>>,
    /// One side has given it up, or the connection is gone.
    given_up: Cell<bool>,
    /// The gateway's direction has ended.
    sent_all: Cell<bool>,
    /// The client takes so many bytes.
    window: Cell<i64>,
    turn: Cell<Turn>,
    /// The client's direction has ended.
    received_all: Cell<bool>,
    receive_window: Cell<i64>,
    /// Bytes that came and are used, and of which the client does not know yet.
    used: Cell<u32>,
    /// What came and nobody has used yet.
    unused: Cell<usize>,
    body: RefCell<Body>,
    /// What the content length leaves to come.
    rest: Cell<Option<u64>>,
    /// Bytes of its trailer section, as they are counted.
    trailer_bytes: Cell<usize>,
}

/// Whether a stream may put something into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has not asked.
    None,
    Waits,
    LetIn,
}

/// What came of a body.
#[derive(Debug, Default)]
struct Body {
    pieces: VecDeque<Bytes>,
    /// The last ones, together.
    last: BytesMut,
    trailers: Option<Trailers>,
}

/// What came behind a body.
#[derive(Debug)]
enum Trailers {
    Read(Fields),
    /// They cannot be passed on.
    Refused,
}

impl Stream {
    /// The client takes so many bytes of the answer, and sends as many as `rest` says, if that is known.
    pub fn new(id: u32, connection: Rc<Connection>, window: i64, rest: Option<u64>, bodyless: bool) -> Self {
        Self {
            id,
            connection,
            waker: RefCell::default(),
            given_up: Cell::new(false),
            sent_all: Cell::new(false),
            window: Cell::new(window),
            turn: Cell::new(Turn::None),
            received_all: Cell::new(bodyless),
            receive_window: Cell::new(STREAM_WINDOW_BYTES.into()),
            used: Cell::new(0),
            unused: Cell::new(0),
            body: RefCell::default(),
            rest: Cell::new(rest),
            trailer_bytes: Cell::new(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many requests the connection has; at least one.
    pub fn open(&self) -> usize {
        self.connection.open.get()
    }

    // What the connection's reader tells it.

    /// The client takes more, or less.
    pub fn widen(&self, by: i64) -> Result<(), ()> {
        let window = self.window.get() + by;
        if window > WINDOW_BYTES_MAX {
            return Err(());
        }
        if self.window.replace(window) <= 0 && window > 0 {
            self.wake();
        }
        Ok(())
    }

    /// Its turn has come.
    pub fn let_in(&self) {
        self.turn.set(Turn::LetIn);
        self.wake();
    }

    /// A piece of the body came, in a frame of so many bytes; as a `whole` if it can be kept where it lies.
    ///
    /// # Errors
    /// How the stream ends.
    pub fn receive(&self, frame_bytes: usize, data: &[u8], whole: Option<Bytes>, end: bool) -> Result<(), Code> {
        if self.received_all.get() {
            return Err(Code::StreamClosed);
        }
        let window = self.receive_window.get() - frame_bytes as i64;
        self.receive_window.set(window);
        if window < 0 {
            return Err(Code::FlowControlError);
        }
        if let Some(rest) = self.rest.get() {
            match rest.checked_sub(data.len() as u64) {
                Some(rest) if rest == 0 || !end => self.rest.set(Some(rest)),
                _ => return Err(Code::ProtocolError),
            }
        }
        self.unused.set(self.unused.get() + data.len());
        let mut body = self.body.borrow_mut();
        match whole {
            Some(piece) => {
                body.set_last_aside();
                body.pieces.push_back(piece);
            }
            None => {
                if body.last.len() >= TOGETHER_BYTES_MAX {
                    body.set_last_aside();
                }
                body.last.extend_from_slice(data);
            }
        }
        drop(body);
        // Padding is used as soon as it is there.
        self.release(frame_bytes - data.len());
        if end {
            self.ends();
        }
        self.wake();
        Ok(())
    }

    /// The section behind the body came; `None` if it cannot be passed on. It counts for so many bytes.
    ///
    /// # Errors
    /// How the stream ends.
    pub fn receive_trailers(&self, fields: Option<Fields>, bytes: usize) -> Result<(), Code> {
        if self.received_all.get() {
            return Err(Code::StreamClosed);
        }
        if self.rest.get().is_some_and(|rest| rest > 0) {
            return Err(Code::ProtocolError);
        }
        self.trailer_bytes.set(bytes);
        self.connection.trailer_bytes.set(self.connection.trailer_bytes.get() + bytes);
        self.body.borrow_mut().trailers = Some(fields.map_or(Trailers::Refused, Trailers::Read));
        self.ends();
        self.wake();
        Ok(())
    }

    /// Whether the client's direction has ended.
    pub fn has_received_all(&self) -> bool {
        self.received_all.get()
    }

    fn ends(&self) {
        self.received_all.set(true);
        self.settle();
    }

    /// Gives it up for the client's mistakes.
    pub fn fail(&self, code: Code) {
        self.reset(code);
        self.wake();
    }

    /// The client has given it up, or is gone.
    pub fn lose(&self) {
        self.given_up.set(true);
        self.connection.close(self.id, false);
        self.leave();
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    // What the task that serves it asks.

    fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Whether one side has given it up, or the connection is gone.
    pub fn is_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// Ready when that is so.
    pub fn poll_given_up(&self, cx: &Context<'_>) -> Poll<()> {
        if self.given_up.get() {
            return Poll::Ready(());
        }
        self.register(cx);
        Poll::Pending
    }

    /// Gives it up.
    pub fn reset(&self, code: Code) {
        if !self.given_up.replace(true) {
            self.connection.reset(self.id, code);
            self.connection.close(self.id, true);
            self.leave();
        }
    }

    /// Nobody serves it any more. What is left of the request is not wanted (RFC 9113 section 8.1).
    pub fn end(&self) {
        if !(self.sent_all.get() && self.received_all.get()) {
            self.reset(if self.sent_all.get() { Code::NoError } else { Code::Cancel });
        }
        self.leave();
        let trailer_bytes = &self.connection.trailer_bytes;
        trailer_bytes.set(trailer_bytes.get() - self.trailer_bytes.take());
        self.connection.release(self.unused.take());
        *self.body.borrow_mut() = Body::default();
        self.waker.take();
    }

    /// Waits for nothing any more.
    fn leave(&self) {
        match self.turn.replace(Turn::None) {
            Turn::None => {}
            Turn::Waits => self.connection.forget(self.id),
            Turn::LetIn => {
                self.connection.was_let_in();
                self.connection.let_in();
            }
        }
    }

    /// Both directions may have ended.
    fn settle(&self) {
        if self.sent_all.get() && self.received_all.get() && !self.given_up.get() {
            self.connection.close(self.id, false);
        }
    }

    /// So many bytes of the body are used.
    fn release(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.connection.release(bytes);
        if self.received_all.get() || self.given_up.get() {
            return;
        }
        let used = self.used.get() + u32::try_from(bytes).unwrap_or(0);
        self.used.set(used);
        if used >= STREAM_WINDOW_BYTES / 2 {
            self.used.set(0);
            self.receive_window.set(self.receive_window.get() + i64::from(used));
            self.connection.window_update(self.id, used);
        }
    }

    fn poll_room(self: &Rc<Self>, cx: &Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.check()?;
        let was_let_in = self.turn.get() == Turn::LetIn;
        if self.turn.get() != Turn::Waits {
            self.turn.set(Turn::None);
            if was_let_in {
                self.connection.was_let_in();
            }
            if let Some(room) = self.connection.room(self.window.get(), was_let_in) {
                return Poll::Ready(Ok(room.min(wanted)));
            }
        }
        self.register(cx);
        if self.window.get() <= 0 {
            // It is told when that changes; meanwhile others have their turn.
            self.leave();
            if was_let_in {
                self.connection.let_in();
            }
        } else if self.turn.get() == Turn::None {
            self.turn.set(Turn::Waits);
            self.connection.wait(Rc::clone(self));
        }
        Poll::Pending
    }

    fn check(&self) -> io::Result<()> {
        if self.given_up.get() || self.connection.has_ended() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// Puts bytes into the output for which there is room.
    fn send(&self, bytes: Bytes, end: bool) {
        let connection = &self.connection;
        self.window.set(self.window.get() - bytes.len() as i64);
        connection.spend(bytes.len());
        let mut output = connection.output().borrow_mut();
        let mut rest = bytes;
        loop {
            let payload = rest.split_to(rest.len().min(connection.payload_max()));
            let flags = if end && rest.is_empty() { END_STREAM } else { 0 };
            let head = Head { length: payload.len(), kind: kind::DATA, flags, stream: self.id };
            output.piece(connection.rooms(), head, payload);
            if rest.is_empty() {
                break;
            }
        }
        drop(output);
        self.sent(end);
    }

    /// The same with a copy of a few.
    fn send_copy(&self, bytes: &[u8], end: bool) {
        let connection = &self.connection;
        self.window.set(self.window.get() - bytes.len() as i64);
        connection.spend(bytes.len());
        let flags = if end { END_STREAM } else { 0 };
        connection.output().borrow_mut().frame(connection.rooms(), kind::DATA, flags, self.id, bytes);
        self.sent(end);
    }

    /// The same, when it is not known yet whether it is the last: says where that goes.
    fn begin_copy(&self, bytes: &[u8]) -> usize {
        let at = self.connection.output().borrow_mut().text(self.connection.rooms()).len();
        self.send_copy(bytes, false);
        at
    }

    fn end_copy(&self, at: usize, end: bool) {
        if end {
            self.connection.output().borrow_mut().mark_end(at);
            self.sent(true);
        }
    }

    fn sent(&self, end: bool) {
        if end {
            self.sent_all.set(true);
            self.settle();
        }
        self.connection.push();
    }
}

impl Body {
    fn set_last_aside(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push_back(self.last.split().freeze());
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.set_last_aside();
        }
        self.pieces.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }
}

/// The body of a request, for who passes it on.
#[derive(Debug)]
pub struct Incoming {
    stream: Rc<Stream>,
    /// Taken from the stream and not used yet.
    chunk: Bytes,
    trailers: Fields,
    /// What the content length leaves, if there is one.
    rest: Option<u64>,
    done: bool,
}

impl Incoming {
    /// Of a stream that nobody has read from.
    pub fn new(stream: Rc<Stream>) -> Self {
        let (rest, done) = (stream.rest.get(), stream.received_all.get() && stream.body.borrow().is_empty());
        let done = done && stream.body.borrow().trailers.is_none();
        // What of it has come already is the stream's.
        let rest = rest.map(|rest| rest + stream.unused.get() as u64);
        Self { stream, chunk: Bytes::new(), trailers: Fields::new(), rest, done }
    }

    /// See [`Source::next`].
    pub fn next(&self) -> Piece {
        match self.chunk.len() {
            0 if self.done => Piece::End,
            0 => Piece::More,
            bytes => Piece::Data(bytes),
        }
    }

    /// See [`Source::bytes`].
    pub fn bytes(&self, length: usize) -> &[u8] {
        &self.chunk[..length]
    }

    /// See [`Source::take`]; the client may send as much again.
    pub fn take(&mut self, length: usize) -> Bytes {
        let taken = self.chunk.split_to(length);
        self.stream.unused.set(self.stream.unused.get() - length);
        self.stream.release(length);
        if self.chunk.is_empty() {
            let body = self.stream.body.borrow();
            self.done |= self.stream.received_all.get() && body.is_empty() && body.trailers.is_none();
        }
        taken
    }

    /// See [`Source::fill`].
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        let mut body = stream.body.borrow_mut();
        if let Some(chunk) = body.next() {
            let bytes = chunk.len();
            self.rest = self.rest.map(|rest| rest.saturating_sub(bytes as u64));
            self.chunk = chunk;
            return Poll::Ready(Ok(bytes));
        }
        if stream.given_up.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if stream.received_all.get() {
            match body.trailers.take() {
                Some(Trailers::Read(fields)) => self.trailers = fields,
                Some(Trailers::Refused) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                None => {}
            }
            self.done = true;
            return Poll::Ready(Ok(1));
        }
        stream.register(cx);
        Poll::Pending
    }

    /// See [`Source::trailers`].
    pub fn trailers(&self) -> &Fields {
        &self.trailers
    }

    /// See [`Source::trailers_mut`].
    pub fn trailers_mut(&mut self) -> &mut Fields {
        &mut self.trailers
    }

    /// See [`Source::is_done`].
    pub fn is_done(&self) -> bool {
        self.done && self.chunk.is_empty()
    }

    /// See [`Source::known_rest`].
    pub fn known_rest(&self) -> Option<u64> {
        if self.done { Some(self.chunk.len() as u64) } else { self.rest.map(|rest| rest + self.chunk.len() as u64) }
    }
}

/// The answer, for who makes it.
#[derive(Debug)]
pub struct Answer<'a> {
    stream: &'a Rc<Stream>,
    pressure: &'a Pressure,
}

impl<'a> Answer<'a> {
    /// To that stream's request.
    pub fn new(stream: &'a Rc<Stream>, pressure: &'a Pressure) -> Self {
        Self { stream, pressure }
    }

    /// Sends an interim answer.
    ///
    /// # Errors
    /// That the stream is gone.
    pub fn interim(&self, status: u16, fields: &Fields) -> io::Result<()> {
        self.head(status, fields, None, false)
    }

    /// Sends the answer's head, with the length of its body if that is known; `end` if nothing follows.
    ///
    /// # Errors
    /// That the stream is gone.
    pub fn head(&self, status: u16, fields: &Fields, length: Option<u64>, end: bool) -> io::Result<()> {
        self.stream.check()?;
        self.stream.connection.headers(self.stream.id, end, Some(status), length, fields, |_| true);
        self.stream.sent(end);
        Ok(())
    }

    /// See [`crate::body::Sink::piece`].
    ///
    /// # Errors
    /// That the stream is gone.
    pub async fn piece(
        &self,
        source: &mut Source<'_>,
        mut length: usize,
        mut taken: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.stream.connection.pay_by_piece(length);
        while length > 0 {
            let bytes = self.room(length).await?;
            length -= bytes;
            self.pressure.took(bytes);
            if bytes <= COPY_BYTES_MAX {
                let copy = source.bytes(bytes);
                taken(copy);
                // Whether that is all shows when it is taken.
                let at = self.stream.begin_copy(copy);
                source.took(bytes);
                self.stream.end_copy(at, length == 0 && source.is_done() && source.trailers().is_empty());
            } else {
                let piece = source.take(bytes);
                taken(&piece);
                self.stream.send(piece, length == 0 && source.is_done() && source.trailers().is_empty());
            }
        }
        Ok(())
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// That the stream is gone.
    pub async fn data(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len().min(COPY_BYTES_MAX)).await?;
            let (piece, rest) = bytes.split_at(room);
            self.pressure.took(room);
            self.stream.send_copy(piece, false);
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// That the stream is gone.
    pub fn end(&self, trailers: &Fields) -> io::Result<()> {
        if self.stream.sent_all.get() {
            return Ok(());
        }
        self.stream.check()?;
        if trailers.iter().any(|(name, _)| may_be_trailer(name)) {
            self.stream.connection.headers(self.stream.id, true, None, None, trailers, may_be_trailer);
            self.stream.sent(true);
        } else {
            self.stream.send_copy(&[], true);
        }
        Ok(())
    }

    /// Whether the client has room for a byte.
    pub fn has_room(&self) -> bool {
        let stream = self.stream;
        stream.connection.room(stream.window.get(), true).is_some()
    }

    /// Waits until some of so many bytes may be sent; says how many.
    async fn room(&self, wanted: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            let polled = self.stream.poll_room(cx, wanted);
            self.pressure.note(polled.is_pending());
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests;
