//! A client's HTTP/2 connection: its streams are requests, each served by a task of its own on this worker.

use std::{
    cell::{Cell, RefCell},
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use tokio::time::{Duration, Instant};

use super::{
    Outgoing, Receiver, Sender,
    gather::Gather,
    head,
    meter::{Meter, Metered},
};
use crate::{
    body::{Sink, Source},
    client::{Client, ClientStream, Life},
    crew::HTTP2_LOAD,
    error::ProxyError,
    http1::{
        Framing,
        head::{HeadError, RequestHead},
    },
    limit::Limit,
    proxy::{self, After},
    stream::{Pressure, Stream},
    timer::Timer,
    worker::{Peer, Policy, Scratch, Worker},
};

/// The most requests of a connection at a time.
const STREAMS_MAX: u32 = 100;

/// The most bytes of a request's header section, each field counted with 32 more (RFC 9113 section 6.5.2).
const HEADERS_BYTES_MAX: u32 = 32 << 10;

/// How much of a request's body may come before it is passed on.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// The same for all requests of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// The most bytes of answers that wait in a connection to be sent, for each stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The most streams reset by the client that were not looked at yet.
const PENDING_RESETS_MAX: usize = 20;

/// The most streams that the client's mistakes may make us reset, over a connection's life.
const LOCAL_RESETS_MAX: usize = 100;

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

/// What a connection and its streams know of each other.
#[derive(Debug)]
struct Shared {
    open: Cell<usize>,
    meter: Rc<Meter>,
    /// Bytes of large heads.
    heads: Cell<usize>,
    /// Requests that the client gave up, or that were none, less those that it let finish.
    resets: Cell<u32>,
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, peer: Rc<Peer>, timer: &mut Timer, mut life: Life) {
    let policy = &worker.shared.policy;
    let _load = worker.crew.load(worker.index, HTTP2_LOAD - 1);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .enable_connect_protocol();
    let gather = Gather::new(stream);
    let (metered, meter) = Metered::new(gather.clone());
    let mut handshake = builder.handshake::<_, Bytes>(metered);
    let greeted = poll_fn(|cx| {
        let greeted = Pin::new(&mut handshake).poll(cx);
        // What fails here fails there.
        let _ = gather.poll_send(cx);
        greeted
    });
    let Ok(Ok(mut connection)) = timer.within(policy.head_timeout, greeted).await else { return };
    let shared = Rc::new(Shared { open: Cell::new(0), meter, heads: Cell::new(0), resets: Cell::new(0) });
    let mut calmed = false;
    let mut closing = false;
    let mut idle_since = None;
    let mut request = |cx: &mut Context<'_>, connection: &mut Connection<Metered, Bytes>| loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => {
                idle_since = None;
                if !closing && let Some(limit) = life.spend() {
                    worker.count_limit(Some(limit));
                    shared.meter.hurry();
                    connection.graceful_shutdown();
                    closing = true;
                }
                return Poll::Ready(Some(accepted));
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "HTTP/2 connection failed");
                return Poll::Ready(None);
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if let Poll::Ready(Err(error)) = gather.poll_send(cx) {
            tracing::debug!(%error, "HTTP/2 connection failed");
            return Poll::Ready(None);
        }
        if shared.open.get() == 0 {
            gather.shrink();
        }
        let slow_head = shared.meter.head_since().map(|since| since + policy.head_timeout);
        let slow_head = slow_head.is_some_and(|due| timer.poll_expired(due, cx).is_ready());
        // Until a head is all there nothing else can come, for any request.
        let limit = shared.exceeded().or(slow_head.then_some(Limit::HeadTime));
        if let Some(limit) = limit.filter(|_| !calmed) {
            worker.count_limit(Some(limit));
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            (calmed, closing, idle_since) = (true, true, None);
            continue;
        }
        if !closing && shared.meter.has_ended() {
            // By the library's own word: from now on the client has its time to end it.
            (closing, idle_since) = (true, None);
        }
        let span = if closing { CLOSE_TIME } else { policy.keep_alive_timeout };
        let idle = shared.open.get() == 0
            && timer.poll_expired(*idle_since.get_or_insert_with(Instant::now) + span, cx).is_ready();
        let aged = !closing && life.ends().is_some_and(|ends| timer.poll_expired(ends, cx).is_ready());
        match (closing, idle) {
            // It was told, and takes no notice.
            (true, true) => return Poll::Ready(None),
            (false, _) if aged => worker.count_limit(Some(Limit::Age)),
            (false, true) => worker.count_limit(Some(Limit::IdleTime)),
            (false, false) if worker.draining() || peer.is_outdated() => {}
            _ => return Poll::Pending,
        }
        // In two steps: the client learns that no more is welcome, and what it sent before it knew is served.
        shared.meter.hurry();
        connection.graceful_shutdown();
        (closing, idle_since) = (true, None);
    };
    while let Some((request, mut respond)) = poll_fn(|cx| request(cx, &mut connection)).await {
        let mut open = Open::begin(worker, &shared, respond.stream_id().into());
        // Here, not in the task: in the form that it came in a head may be much larger, and many wait for their turn.
        let (parts, body) = request.into_parts();
        let mut scratch = worker.lend();
        let read = head::read_request(&mut scratch.request, &parts, body.is_end_stream());
        let read = read.and_then(|()| within_bounds(&scratch.request, policy));
        drop(parts);
        if read.is_ok() && !open.has_room(scratch.request.fields.bytes()) {
            worker.count_limit(Some(Limit::HeadsBytes));
            // Says that nothing was done: it can be sent again.
            respond.send_reset(Reason::REFUSED_STREAM);
            worker.give_back(scratch);
            continue;
        }
        let peer = Rc::clone(&peer);
        serve_soon(worker, Accepted { open, peer, scratch, read, body, respond });
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
    body: RecvStream,
    respond: SendResponse<Bytes>,
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

impl Shared {
    /// The bound that the client does not keep.
    fn exceeded(&self) -> Option<Limit> {
        self.meter.exceeded().or((self.resets.get() > RESETS_MAX).then_some(Limit::Resets))
    }
}

/// A stream, counted for as long as it lives.
#[derive(Debug)]
struct Open {
    worker: Rc<Worker>,
    shared: Rc<Shared>,
    id: u32,
    /// How much of its head counts.
    head: usize,
}

impl Open {
    fn begin(worker: &Rc<Worker>, shared: &Rc<Shared>, id: u32) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self { worker: Rc::clone(worker), shared: Rc::clone(shared), id, head: 0 }
    }

    /// Whether there is room for a head of that size. A few bytes on the wire may be a large one, and heads are kept until
    /// there is an answer.
    fn has_room(&mut self, bytes: usize) -> bool {
        let head = bytes.saturating_sub(HEAD_BYTES_FREE);
        let (all, own) = (self.worker.large_heads.get() + head, self.shared.heads.get() + head);
        if head > 0 && all > HEADS_BYTES_MAX && own > HEADS_BYTES_OWN {
            return false;
        }
        self.worker.large_heads.set(all);
        self.shared.heads.set(own);
        self.head = head;
        true
    }

    /// It is over; `in_vain` by the client's doing.
    fn end(&self, in_vain: bool) {
        let resets = &self.shared.resets;
        resets.set(if in_vain { resets.get() + 1 } else { resets.get().saturating_sub(1) });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.large_heads.set(self.worker.large_heads.get() - self.head);
        self.shared.heads.set(self.shared.heads.get() - self.head);
        self.shared.open.set(self.shared.open.get() - 1);
        self.shared.meter.forget(self.id);
    }
}

/// Whether a head keeps the bounds that were set.
fn within_bounds(head: &RequestHead, policy: &Policy) -> Result<(), HeadError> {
    if head.method.len() + head.target.len() + head.fields.bytes() > policy.head_bytes_max {
        return Err(HeadError::TooLarge);
    }
    if head.fields.len() > policy.head_fields_max {
        return Err(HeadError::TooManyFields);
    }
    Ok(())
}

/// Serves one request, whose head was read.
async fn serve_stream(accepted: Accepted) {
    let Accepted { open, peer, mut scratch, read, body, respond } = accepted;
    let worker = Rc::clone(&open.worker);
    let length = match scratch.request.framing {
        Framing::Length(length) => Some(length),
        _ => None,
    };
    let outgoing = RefCell::new(Outgoing::answer(respond));
    let pressure = Pressure::default();
    let mut client = Client {
        input: Source::Http2(Receiver::request(body, length)),
        output: Sink::Http2(Sender::new(&outgoing, &pressure)),
        peer: &peer,
        timer: &mut scratch.timer,
        pressure: &pressure,
        stream: Some(ClientStream { outgoing: &outgoing, open: &open.shared.open }),
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
    let mut outgoing = outgoing.borrow_mut();
    // A head that is none is work for nothing too.
    open.end(read.is_err() || (after == After::Abort && outgoing.is_given_up()));
    if after == After::Abort {
        // A tunnel that broke is no fault of the gateway's (RFC 8441 section 5).
        let tunnel = scratch.request.connection.upgrade;
        outgoing.reset(if tunnel { Reason::CANCEL } else { Reason::INTERNAL_ERROR });
    }
    worker.give_back(scratch);
}
