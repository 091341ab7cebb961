//! A client's HTTP/2 connection: its streams are requests, each served by a task of its own on this worker.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Duration, Instant},
};

use super::{
    connection::Connection,
    frames::Code,
    hpack::FIELD_OVERHEAD,
    reader::{Event, Fault, Reader},
    section::Bounds,
    stream::{Answer, Incoming},
};
use crate::{
    body::{Sink, Source},
    client::{Client, Life},
    crew::HTTP2_LOAD,
    error::ProxyError,
    http1::head::{FIELDS_MAX, HeadError},
    http2,
    limit::Limit,
    proxy::{self, After},
    stream::{Pressure, Stream},
    timer::Timer,
    worker::{Peer, Scratch, Worker},
};

/// Bytes to be sent beyond which nothing is read: what comes would only be replied to.
const UNSENT_BYTES_MAX: usize = 256 << 10;

/// The most bytes that are read when the gateway's side has ended.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// How many more requests than it lets finish a client may give up, or send with heads that are refused: beyond that it only makes work (CVE-2023-44487).
pub const RESETS_MAX: u32 = 100;

/// Bytes of a head that count for nothing: most heads have fewer.
const HEAD_BYTES_FREE: usize = 2 << 10;

/// The most bytes of large heads that a worker keeps for clients that have more than their own share of them.
pub const HEADS_BYTES_MAX: usize = 8 << 20;

/// The share of a connection.
pub const HEADS_BYTES_OWN: usize = 64 << 10;

/// How much longer a connection without requests stays when it was told to end.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// The most tasks for streams that a worker keeps when they have none.
const SERVERS_IDLE_MAX: usize = 256;

/// How a connection ends.
#[derive(Debug)]
enum End {
    /// The client is gone, or says nothing that could be understood.
    Lost,
    /// Nothing is under way, and no more is wanted.
    InOrder,
    /// By the client's doing.
    Fault(Fault),
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, peer: Rc<Peer>, timer: &mut Timer, life: Life) {
    let _load = worker.crew.load(worker.index, HTTP2_LOAD - 1);
    let policy = &worker.shared.policy;
    let bounds = Bounds { bytes: policy.head_bytes_max, fields: policy.head_fields_max.min(FIELDS_MAX) };
    let told = bounds.bytes + bounds.fields * FIELD_OVERHEAD;
    let told = u32::try_from(told).unwrap_or(u32::MAX);
    let connection = Rc::new(Connection::new(Some(stream), Rc::clone(&worker.rooms), told));
    let reader = Reader::new(Rc::clone(&connection), bounds);
    let begun = Instant::now();
    let mut driver = Driver {
        worker,
        peer,
        input: BytesMut::new(),
        connection,
        reader,
        life,
        begun,
        closing: false,
        idle_since: None,
    };
    let end = poll_fn(|cx| driver.poll(cx, timer)).await;
    let Driver { connection, reader, .. } = driver;
    // Whoever still serves a stream keeps the connection, but not the socket.
    let socket = connection.socket().take();
    match end {
        End::Lost => return connection.end(),
        End::InOrder => {}
        End::Fault(Fault::Invalid(code)) => connection.goaway(reader.last(), code),
        End::Fault(Fault::Exceeded(limit)) => {
            worker.count_limit(Some(limit));
            connection.goaway(reader.last(), Code::EnhanceYourCalm);
        }
    }
    connection.end();
    if let Some(mut socket) = socket {
        let _ = timer.within(CLOSE_TIME, finish(&connection, &mut socket)).await;
    }
}

/// Sends what is left to be said, and reads for a while what the client still sends: closing would reset the connection of
/// one who still sends, and the last of it might be lost on the way.
async fn finish(connection: &Connection, socket: &mut Stream) -> io::Result<()> {
    poll_fn(|cx| connection.output().borrow_mut().poll_send(cx, socket, connection.rooms())).await?;
    socket.shutdown().await?;
    let (mut drained, mut room) = (0, BytesMut::new());
    while drained < LINGER_BYTES_MAX {
        room.clear();
        match poll_fn(|cx| socket.poll_fill(cx, &mut room)).await? {
            0 => break,
            bytes => drained += bytes,
        }
    }
    Ok(())
}

/// Reads and sends.
#[derive(Debug)]
struct Driver<'w> {
    worker: &'w Rc<Worker>,
    peer: Rc<Peer>,
    /// What has come and is not read.
    input: BytesMut,
    connection: Rc<Connection>,
    reader: Reader,
    life: Life,
    begun: Instant,
    /// The client was told that no more is welcome.
    closing: bool,
    idle_since: Option<Instant>,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<End> {
        self.connection.register(cx);
        let stopped = match self.read(cx) {
            Ok(stopped) => stopped,
            Err(end) => return Poll::Ready(end),
        };
        let connection = &self.connection;
        if let Poll::Ready(Err(error)) = connection.poll_send(cx) {
            tracing::debug!(%error, "HTTP/2 connection failed");
            return Poll::Ready(End::Lost);
        }
        connection.let_in();
        if stopped && connection.waits() < UNSENT_BYTES_MAX {
            cx.waker().wake_by_ref();
        }
        self.poll_timers(cx, timer)
    }

    /// Reads what has come. Whether it stopped since the client takes nothing.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut spare = None;
        let read = loop {
            if self.connection.waits() >= UNSENT_BYTES_MAX {
                break Ok(true);
            }
            let scratch = spare.get_or_insert_with(|| self.worker.lend());
            match self.reader.next(&mut self.input, &mut scratch.request) {
                Ok(Event::Request(stream, read)) => {
                    if let Some(scratch) = spare.take() {
                        self.accept(stream, scratch, read);
                    }
                }
                Ok(Event::TurnOver) => {
                    cx.waker().wake_by_ref();
                    break Ok(false);
                }
                Ok(Event::More) => match self.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => break Err(End::Lost),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "HTTP/2 connection failed");
                        break Err(End::Lost);
                    }
                    Poll::Pending => break Ok(false),
                },
                Err(fault) => break Err(End::Fault(fault)),
            }
            if self.connection.resets.get() > RESETS_MAX {
                break Err(End::Fault(Fault::Exceeded(Limit::Resets)));
            }
        };
        if let Some(scratch) = spare {
            self.worker.give_back(scratch);
        }
        if self.input.is_empty() {
            self.worker.rooms.give_back_input(std::mem::take(&mut self.input));
        }
        read
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = self.connection.socket();
        let Some(socket) = &mut *socket else { return Poll::Ready(Ok(0)) };
        if self.input.capacity() == 0 {
            ready!(socket.poll_readable(cx, true))?;
            self.input = self.worker.rooms.lend_input();
        }
        socket.poll_fill(cx, &mut self.input)
    }

    /// Ends what has lasted long enough.
    fn poll_timers(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<End> {
        let policy = &self.worker.shared.policy;
        if !self.reader.is_greeted() {
            return timer.poll_expired(self.begun + policy.head_timeout, cx).map(|()| End::Lost);
        }
        // Until a head is all there nothing else can come, for any request.
        let head = self.reader.head_since().map(|since| since + policy.head_timeout);
        if head.is_some_and(|due| timer.poll_expired(due, cx).is_ready()) {
            return Poll::Ready(End::Fault(Fault::Exceeded(Limit::HeadTime)));
        }
        if self.connection.resets.get() > RESETS_MAX {
            return Poll::Ready(End::Fault(Fault::Exceeded(Limit::Resets)));
        }
        if self.connection.open.get() > 0 {
            self.idle_since = None;
        } else if self.closing && self.reader.is_told() && self.connection.waits() == 0 {
            return Poll::Ready(End::InOrder);
        } else if let Some(socket) = &*self.connection.socket() {
            socket.shrink();
        }
        let span = if self.closing { CLOSE_TIME } else { policy.keep_alive_timeout };
        let idle = self.connection.open.get() == 0
            && timer.poll_expired(*self.idle_since.get_or_insert_with(Instant::now) + span, cx).is_ready();
        let aged = !self.closing && self.life.ends().is_some_and(|ends| timer.poll_expired(ends, cx).is_ready());
        match (self.closing, idle) {
            // It was told, and takes no notice.
            (true, true) => return Poll::Ready(End::Lost),
            (false, _) if aged => self.worker.count_limit(Some(Limit::Age)),
            (false, true) => self.worker.count_limit(Some(Limit::IdleTime)),
            (false, false) if self.worker.draining() || self.peer.is_outdated() => {}
            _ => return Poll::Pending,
        }
        self.farewell();
        // To be sent, and to wait for its answer.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// In two steps: the client learns that no more is welcome, and what it sent before it knew is served.
    fn farewell(&mut self) {
        self.reader.farewell();
        (self.closing, self.idle_since) = (true, None);
    }

    /// Serves a request.
    fn accept(&mut self, stream: Rc<http2::Stream>, scratch: Box<Scratch>, read: Result<(), HeadError>) {
        self.idle_since = None;
        let mut open = Open::begin(self.worker, &self.connection, stream);
        if !self.closing
            && let Some(limit) = self.life.spend()
        {
            self.worker.count_limit(Some(limit));
            self.farewell();
        }
        if read.is_ok() && !open.has_room(scratch.request.fields.bytes()) {
            self.worker.count_limit(Some(Limit::HeadsBytes));
            // Says that nothing was done: it can be sent again.
            open.stream.reset(Code::RefusedStream);
            self.worker.give_back(scratch);
            return;
        }
        serve_soon(self.worker, Accepted { open, peer: Rc::clone(&self.peer), scratch, read });
    }
}

/// A stream whose request is to be served.
#[derive(Debug)]
struct Accepted {
    open: Open,
    peer: Rc<Peer>,
    scratch: Box<Scratch>,
    /// What came of reading the head.
    read: Result<(), HeadError>,
}

/// A task that serves streams, of any connection of its worker, one after another. What serving a request takes is large:
/// a task for each would be allocated, copied and freed for each.
#[derive(Debug, Default)]
pub struct Server {
    next: RefCell<Option<Accepted>>,
    /// It is one too many.
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Server {
    /// Ends the task, which has no stream.
    pub fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Accepted>> {
        let next = self.next.borrow_mut().take();
        if next.is_some() || self.ended.get() {
            return Poll::Ready(next);
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    async fn serve(self: Rc<Self>) {
        while let Some(accepted) = poll_fn(|cx| self.poll_next(cx)).await {
            let worker = Rc::clone(&accepted.open.worker);
            serve_stream(accepted).await;
            let mut idle = worker.idle_servers.borrow_mut();
            if idle.len() >= SERVERS_IDLE_MAX {
                return;
            }
            idle.push(Rc::clone(&self));
        }
    }
}

/// Gives a stream to a task that has none, or else to a new one.
fn serve_soon(worker: &Worker, accepted: Accepted) {
    let idle = worker.idle_servers.borrow_mut().pop();
    let is_new = idle.is_none();
    let server = idle.unwrap_or_default();
    *server.next.borrow_mut() = Some(accepted);
    if is_new {
        tokio::task::spawn_local(server.serve());
    } else {
        server.wake();
    }
}

/// A stream, counted for as long as it is served.
#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    stream: Rc<http2::Stream>,
    /// How much of its head counts.
    head: usize,
}

impl Open {
    fn begin(worker: &Rc<Worker>, connection: &Rc<Connection>, stream: Rc<http2::Stream>) -> Self {
        connection.open.set(connection.open.get() + 1);
        Self { worker: Rc::clone(worker), connection: Rc::clone(connection), stream, head: 0 }
    }

    /// Whether there is room for a head of that size. A few bytes on the wire may be a large one, and heads are kept until
    /// there is an answer.
    fn has_room(&mut self, bytes: usize) -> bool {
        let head = bytes.saturating_sub(HEAD_BYTES_FREE);
        let (all, own) = (self.worker.large_heads.get() + head, self.connection.heads.get() + head);
        if head > 0 && all > HEADS_BYTES_MAX && own > HEADS_BYTES_OWN {
            return false;
        }
        self.worker.large_heads.set(all);
        self.connection.heads.set(own);
        self.head = head;
        true
    }

    /// It is over; `in_vain` by the client's doing.
    fn end(&self, in_vain: bool) {
        let resets = &self.connection.resets;
        resets.set(if in_vain { resets.get() + 1 } else { resets.get().saturating_sub(1) });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let connection = &self.connection;
        self.stream.end();
        self.worker.large_heads.set(self.worker.large_heads.get() - self.head);
        connection.heads.set(connection.heads.get() - self.head);
        connection.open.set(connection.open.get() - 1);
        if connection.open.get() == 0 || connection.resets.get() > RESETS_MAX {
            connection.wake();
        }
    }
}

/// Serves one request, whose head was read.
async fn serve_stream(accepted: Accepted) {
    let Accepted { open, peer, mut scratch, read } = accepted;
    let worker = Rc::clone(&open.worker);
    let stream = &open.stream;
    if stream.is_given_up() {
        // Before anybody looked at it.
        open.end(true);
        worker.give_back(scratch);
        return;
    }
    let pressure = Pressure::default();
    let mut client = Client {
        input: Source::ClientStream(Incoming::new(Rc::clone(stream))),
        output: Sink::ClientStream(Answer::new(stream, &pressure)),
        peer: &peer,
        timer: &mut scratch.timer,
        pressure: &pressure,
        stream: Some(stream),
    };
    let exchange = proxy::Exchange {
        worker: &worker,
        client: &mut client,
        request: &mut scratch.request,
        response: &mut scratch.response,
        target: &mut scratch.target,
        forwarded: &mut scratch.forwarded,
        upstream_in: &mut scratch.upstream_in,
        upstream_out: &mut scratch.upstream_out,
    };
    let after = match read {
        Ok(()) => proxy::serve(exchange).await,
        Err(error) => proxy::refuse(exchange, ProxyError::BadHead(error)).await,
    };
    drop(client);
    // A head that is none is work for nothing too.
    open.end(read.is_err() || (after == After::Abort && stream.is_given_up()));
    if after == After::Abort {
        // A tunnel that broke is no fault of the gateway's (RFC 8441 section 5).
        let tunnel = scratch.request.connection.upgrade;
        stream.reset(if tunnel { Code::Cancel } else { Code::InternalError });
    }
    worker.give_back(scratch);
}
