//! What a client's connection and its streams know of each other. They run in tasks of one worker, so plain cells do; none
//! is borrowed while something is waited for.
//!
//! A stream that has something to send puts it into the connection's output, if the windows and the output have room, and
//! else waits for its turn: those that wait are let in one after another, a frame each, as the client takes what is there.
//! So a connection holds a bounded piece of all its answers together, however many they are.
//!
//! What is little waits until the connection's task has its turn, to go with what others have to say; what is much is sent
//! by the stream's own: a moment later it would have left the processor's cache.

use std::{
    cell::{Cell, RefCell, RefMut},
    collections::VecDeque,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    frames::{ACK, Code, END_STREAM, PAYLOAD_BYTES_MAX, STREAM_MAX, Settings, WINDOW_BYTES_MAX, kind},
    hpack,
    output::{Output, Rooms},
    stream::Stream,
};
use crate::{fields::Fields, stream::Stream as Socket};

/// As much as is sent without waiting for what others have to say.
const PUSH_BYTES: usize = 32 << 10;

/// The most requests of a connection at a time.
pub const STREAMS_MAX: usize = 100;

/// The most tasks for them: one that was given up may not know it yet.
const TASKS_MAX: usize = 2 * STREAMS_MAX;

/// How much of a request's body may come before it is passed on.
pub const STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// The same for all requests of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// The window of either side that has said nothing else.
const WINDOW_BYTES: u32 = 65_535;

/// The most bytes of answers that wait in a connection to be sent; heads and replies come on top.
pub const OUTPUT_BYTES_MAX: usize = 128 << 10;

/// Streams that ended last, of which frames may still be on their way: all of those that there may be at a time.
const CLOSED_KEPT: usize = STREAMS_MAX;

/// The most frames of the client that can be paid for beforehand.
pub const PAID_FRAMES_MAX: u32 = 10_000;

/// Frames that a piece of an answer pays for, whatever its size: of a stream of small messages each may be acknowledged by
/// itself, for the stream and for the connection.
const FRAMES_PER_PIECE: u32 = 2;

/// Bytes of a piece that pay for one more.
const BYTES_PER_FRAME: usize = 128;

/// What the ping says that the last word waits for.
const FAREWELL: [u8; 8] = *b"farewell";

/// See the module documentation.
#[derive(Debug)]
pub struct Connection {
    /// None in tests of what is said.
    socket: RefCell<Option<Socket>>,
    output: RefCell<Output>,
    rooms: Rc<Rooms>,
    /// By number.
    streams: RefCell<Vec<Rc<Stream>>>,
    /// Those that have something to send, when there is room for it.
    waiting: RefCell<VecDeque<Rc<Stream>>>,
    /// How many have been let in and have sent nothing yet.
    let_in: Cell<usize>,
    /// How many bytes of bodies the client takes.
    window: Cell<i64>,
    /// The same of each new stream.
    stream_window: Cell<i64>,
    /// The most bytes of a payload that it takes.
    payload_max: Cell<usize>,
    /// It is to be told that header sections use no table.
    tell_no_table: Cell<bool>,
    /// How many bytes of bodies may come.
    receive_window: Cell<i64>,
    /// Bytes that came and are used, and of which it does not know yet.
    used: Cell<u32>,
    /// The task that reads and sends.
    waker: RefCell<Option<Waker>>,
    /// Nothing more is sent by streams.
    ended: Cell<bool>,
    /// Requests that neither side has ended.
    active: Cell<usize>,
    closed: RefCell<Closed>,
    /// Tasks of streams.
    pub open: Cell<usize>,
    /// Bytes of large heads.
    pub heads: Cell<usize>,
    /// Requests that the client gave up, or that were none, less those that it let finish.
    pub resets: Cell<u32>,
    /// Bytes of trailer sections that wait.
    pub trailer_bytes: Cell<usize>,
    /// Frames of the client that are paid for: see [`super::reader`].
    paid: Cell<u32>,
}

/// Streams that have ended, and whether it was us who gave them up, so that the client may not know yet.
#[derive(Debug, Default)]
struct Closed {
    last: VecDeque<(u32, bool)>,
}

impl Connection {
    /// Of which the client knows nothing yet: the first frames are waiting. It is told that header sections may have so many
    /// bytes.
    #[must_use]
    pub fn new(socket: Option<Socket>, rooms: Rc<Rooms>, section_bytes: u32) -> Self {
        let connection = Self {
            socket: RefCell::new(socket),
            output: RefCell::default(),
            rooms,
            streams: RefCell::default(),
            waiting: RefCell::default(),
            let_in: Cell::new(0),
            window: Cell::new(WINDOW_BYTES.into()),
            stream_window: Cell::new(WINDOW_BYTES.into()),
            payload_max: Cell::new(PAYLOAD_BYTES_MAX),
            tell_no_table: Cell::new(false),
            receive_window: Cell::new(CONNECTION_WINDOW_BYTES.into()),
            used: Cell::new(0),
            waker: RefCell::default(),
            ended: Cell::new(false),
            active: Cell::new(0),
            closed: RefCell::default(),
            open: Cell::new(0),
            heads: Cell::new(0),
            resets: Cell::new(0),
            trailer_bytes: Cell::new(0),
            paid: Cell::new(0),
        };
        let streams = u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX);
        // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE, ENABLE_CONNECT_PROTOCOL.
        let settings = [(3, streams), (4, STREAM_WINDOW_BYTES), (6, section_bytes), (8, 1)];
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&u16::to_be_bytes(id));
            payload.extend_from_slice(&value.to_be_bytes());
        }
        connection.frame(kind::SETTINGS, 0, 0, &payload);
        connection.frame(kind::WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW_BYTES - WINDOW_BYTES).to_be_bytes());
        connection
    }

    /// This task reads and sends from now on.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// There is something to do for it.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The client's bytes.
    pub fn socket(&self) -> RefMut<'_, Option<Socket>> {
        self.socket.borrow_mut()
    }

    /// Sends what waits, as far as the client takes it; the task is woken when it takes more.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.socket() {
            Some(socket) => self.output.borrow_mut().poll_send(cx, socket, &self.rooms),
            None => Poll::Pending,
        }
    }

    /// A stream has put something into the output: sends it, or has it sent.
    pub fn push(&self) {
        if self.waits() < PUSH_BYTES {
            return self.wake();
        }
        let Some(waker) = &*self.waker.borrow() else { return };
        match self.poll_send(&mut Context::from_waker(waker)) {
            Poll::Ready(Ok(())) => self.let_in(),
            // That task finds the same.
            Poll::Ready(Err(_)) => waker.wake_by_ref(),
            Poll::Pending => {}
        }
    }

    /// What is to be sent.
    pub fn output(&self) -> &RefCell<Output> {
        &self.output
    }

    /// Room for it.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// How many bytes wait to be sent.
    pub fn waits(&self) -> usize {
        self.output.borrow().len()
    }

    /// Whether streams have nothing more to send.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Sends a frame of a few bytes.
    fn frame(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.output.borrow_mut().frame(&self.rooms, kind, flags, stream, payload);
        self.wake();
    }

    /// Answers a PING.
    pub fn pong(&self, payload: &[u8]) {
        self.frame(kind::PING, ACK, 0, payload);
    }

    /// Says how far the client has been served and, unless that is in order, why it is no longer.
    pub fn goaway(&self, last: u32, code: Code) {
        let payload = [last.to_be_bytes(), (code as u32).to_be_bytes()].concat();
        self.frame(kind::GOAWAY, 0, 0, &payload);
    }

    /// The first word of an end in order: no more is welcome, and what is on its way is served. The client's answer to the
    /// ping behind it says that it has heard ([`Connection::is_farewell`]).
    pub fn farewell(&self) {
        self.goaway(STREAM_MAX, Code::NoError);
        self.frame(kind::PING, 0, 0, &FAREWELL);
    }

    /// Whether that is the answer.
    pub fn is_farewell(payload: &[u8]) -> bool {
        payload == FAREWELL
    }

    /// Whether another request may begin.
    pub fn has_room(&self) -> bool {
        self.active.get() < STREAMS_MAX && self.open.get() < TASKS_MAX
    }

    /// A request has begun, with a higher number than all before.
    pub fn begin(self: &Rc<Self>, id: u32, rest: Option<u64>, bodyless: bool) -> Rc<Stream> {
        let stream = Rc::new(Stream::new(id, Rc::clone(self), self.stream_window.get(), rest, bodyless));
        self.streams.borrow_mut().push(Rc::clone(&stream));
        self.active.set(self.active.get() + 1);
        stream
    }

    /// The request with that number, if it is not over.
    pub fn find(&self, id: u32) -> Option<Rc<Stream>> {
        let streams = self.streams.borrow();
        let index = streams.binary_search_by_key(&id, |stream| stream.id()).ok()?;
        Some(Rc::clone(&streams[index]))
    }

    /// A request is over as far as the protocol goes. `given_up` if by our doing: the client may not know yet.
    pub fn close(&self, id: u32, given_up: bool) {
        let mut streams = self.streams.borrow_mut();
        if let Ok(index) = streams.binary_search_by_key(&id, |stream| stream.id()) {
            streams.remove(index);
            self.active.set(self.active.get() - 1);
            self.remember(id, given_up);
        }
    }

    fn remember(&self, id: u32, given_up: bool) {
        let last = &mut self.closed.borrow_mut().last;
        if last.len() >= CLOSED_KEPT {
            last.pop_front();
        }
        last.push_back((id, given_up));
    }

    /// What is known of a request that is over: whether it was us who gave it up. `None` if it is too long ago, or never was.
    pub fn closed(&self, id: u32) -> Option<bool> {
        self.closed.borrow().last.iter().rev().find(|(closed, _)| *closed == id).map(|&(_, given_up)| given_up)
    }

    /// Gives a stream up that has no task.
    pub fn refuse(&self, id: u32, code: Code) {
        self.frame(kind::RST_STREAM, 0, id, &(code as u32).to_be_bytes());
        self.remember(id, true);
    }

    /// Says that a stream is given up.
    pub fn reset(&self, id: u32, code: Code) {
        self.frame(kind::RST_STREAM, 0, id, &(code as u32).to_be_bytes());
    }

    /// A request failed by the client's doing, and before anybody served it.
    pub fn count_reset(&self) {
        self.resets.set(self.resets.get().saturating_add(1));
    }

    /// So many frames of the client are paid for.
    pub fn pay(&self, frames: u32) {
        self.paid.set(self.paid.get().saturating_add(frames).min(PAID_FRAMES_MAX));
    }

    /// A piece of an answer went, of so many bytes.
    pub fn pay_by_piece(&self, bytes: usize) {
        let by_size = u32::try_from(bytes / BYTES_PER_FRAME).unwrap_or(PAID_FRAMES_MAX);
        self.pay(FRAMES_PER_PIECE.saturating_add(by_size));
    }

    /// How many frames are paid for, which are used then.
    pub fn take_paid(&self) -> u32 {
        self.paid.take()
    }

    /// Nobody is at the other end any more: all requests end.
    pub fn end(&self) {
        self.ended.set(true);
        self.waiting.take();
        for stream in self.streams.take() {
            stream.lose();
        }
    }

    /// The client changes its mind on what it takes.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn apply(&self, settings: Settings) -> Result<(), Code> {
        if settings.table_bytes.is_some_and(|bytes| bytes < 4096) {
            self.tell_no_table.set(true);
        }
        if let Some(bytes) = settings.payload_bytes {
            // No more than is put there together anyway.
            self.payload_max.set(bytes.min(PAYLOAD_BYTES_MAX));
        }
        if let Some(window) = settings.window {
            // Of streams that have begun too, and their windows may be less than nothing then (RFC 9113 section 6.9.2).
            let by = window - self.stream_window.replace(window);
            for stream in &*self.streams.borrow() {
                stream.widen(by).map_err(|()| Code::FlowControlError)?;
            }
        }
        self.frame(kind::SETTINGS, ACK, 0, &[]);
        Ok(())
    }

    /// The client takes so many bytes more.
    ///
    /// # Errors
    /// That they are too many.
    pub fn widen(&self, by: u32) -> Result<(), Code> {
        let window = self.window.get() + i64::from(by);
        if window > WINDOW_BYTES_MAX {
            return Err(Code::FlowControlError);
        }
        self.window.set(window);
        self.let_in();
        Ok(())
    }

    /// So many bytes of a body came.
    ///
    /// # Errors
    /// That there was no room for them.
    pub fn receive(&self, bytes: usize) -> Result<(), Code> {
        let window = self.receive_window.get() - bytes as i64;
        self.receive_window.set(window);
        if window < 0 { Err(Code::FlowControlError) } else { Ok(()) }
    }

    /// So many bytes of a body are used: as many more may come.
    pub fn release(&self, bytes: usize) {
        let used = self.used.get() + u32::try_from(bytes).unwrap_or(0);
        self.used.set(used);
        if used >= CONNECTION_WINDOW_BYTES / 2 && !self.ended.get() {
            self.used.set(0);
            self.receive_window.set(self.receive_window.get() + i64::from(used));
            self.frame(kind::WINDOW_UPDATE, 0, 0, &used.to_be_bytes());
        }
    }

    /// How many bytes of bodies may come when the client has heard of all that are used.
    #[cfg(test)]
    pub fn unheard(&self) -> i64 {
        self.receive_window.get() + i64::from(self.used.get())
    }

    /// A stream may get so many bytes more.
    pub fn window_update(&self, stream: u32, by: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    }

    /// How much of a body may be put into the output, for a stream of this window that `was_let_in` or is new; `None` if it
    /// has to wait for its turn. Those that are let in share what room there is.
    pub fn room(&self, window: i64, was_let_in: bool) -> Option<usize> {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.waits());
        let window = usize::try_from(self.window.get().min(window)).unwrap_or(0);
        let others = self.let_in.get();
        let is_alone = others == 0 && self.waiting.borrow().is_empty();
        if window == 0 || room == 0 || !(was_let_in || is_alone) {
            return None;
        }
        Some(window.min((room / (others + 1)).max(room.min(PAYLOAD_BYTES_MAX))))
    }

    /// Lets a stream wait for its turn.
    pub fn wait(&self, stream: Rc<Stream>) {
        self.waiting.borrow_mut().push_back(stream);
        self.let_in();
    }

    /// A stream waits no longer.
    pub fn forget(&self, id: u32) {
        self.waiting.borrow_mut().retain(|stream| stream.id() != id);
    }

    /// Whoever was let in has sent something, or has nothing to send.
    pub fn was_let_in(&self) {
        self.let_in.set(self.let_in.get() - 1);
    }

    /// Lets those in that wait, as far as there is room; not before all that were let in have had their turn.
    pub fn let_in(&self) {
        if self.let_in.get() > 0 {
            return;
        }
        while self.window.get() > 0 && self.waits() + self.let_in.get() * PAYLOAD_BYTES_MAX < OUTPUT_BYTES_MAX {
            let Some(stream) = self.waiting.borrow_mut().pop_front() else { return };
            self.let_in.set(self.let_in.get() + 1);
            stream.let_in();
        }
    }

    /// Sends a head, interim or final, or a trailer section if there is no status.
    pub fn headers(
        &self,
        stream: u32,
        end: bool,
        status: Option<u16>,
        length: Option<u64>,
        fields: &Fields,
        keep: fn(&str) -> bool,
    ) {
        let flags = if end { END_STREAM } else { 0 };
        let mut output = self.output.borrow_mut();
        output.headers(&self.rooms, stream, flags, self.payload_max.get(), |out| {
            if self.tell_no_table.take() {
                hpack::put_no_table(out);
            }
            if let Some(status) = status {
                hpack::put_status(out, status);
            }
            for (name, value) in fields.iter().filter(|(name, _)| keep(name)) {
                if length.is_none() || !name.eq_ignore_ascii_case("content-length") {
                    hpack::put_field(out, name, value);
                }
            }
            if let Some(length) = length {
                hpack::put_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
        });
        drop(output);
        self.wake();
    }

    /// Counts what a stream puts into the output.
    pub fn spend(&self, bytes: usize) {
        self.window.set(self.window.get() - bytes as i64);
    }

    /// The most bytes of a frame's payload.
    pub fn payload_max(&self) -> usize {
        self.payload_max.get()
    }
}
