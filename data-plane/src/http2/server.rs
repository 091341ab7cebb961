//! A client's HTTP/2 connection: its streams are requests, each served by a task of its own on this worker.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use tokio::time::Instant;

use super::{Outgoing, Receiver, Sender, head};
use crate::{
    body::{Sink, Source},
    client::Client,
    crew::HTTP2_LOAD,
    error::ProxyError,
    http1::Framing,
    proxy::{self, After},
    stream::{Pressure, Stream},
    timer::Timer,
    worker::{Peer, Worker},
};

/// The most requests of a connection at a time.
const STREAMS_MAX: u32 = 100;

/// The most bytes of a request's header section, each field counted with 32 more (RFC 9113 section 6.5.2).
const HEADERS_BYTES_MAX: u32 = 32 << 10;

/// How much of a request's body may come before it is passed on.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;

/// The same for all requests of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// The most bytes of answers that wait in a connection to be sent, for each stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The most streams reset by the client that were not looked at yet.
const PENDING_RESETS_MAX: usize = 20;

/// The most streams that the client's mistakes may make us reset, over a connection's life.
const LOCAL_RESETS_MAX: usize = 100;

/// How many more requests than it lets finish a client may give up: beyond that it only makes work (CVE-2023-44487).
const RESETS_MAX: u32 = 100;

/// What a connection and its streams know of each other.
#[derive(Debug, Default)]
struct Shared {
    open: Cell<usize>,
    /// Requests that the client gave up, less those that it let finish.
    resets: Cell<u32>,
}

/// Serves a connection to its end.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, peer: Rc<Peer>, listener: &Rc<str>, timer: &mut Timer) {
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
    let Ok(Ok(mut connection)) = timer.within(policy.head_timeout, builder.handshake::<_, Bytes>(stream)).await else {
        return;
    };
    let shared = Rc::new(Shared::default());
    let mut closing = false;
    let mut idle_since = Some(Instant::now());
    let mut request = |cx: &mut Context<'_>, connection: &mut Connection<Stream, Bytes>| loop {
        if shared.resets.get() > RESETS_MAX {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(accepted))) => {
                idle_since = None;
                return Poll::Ready(Some(accepted));
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "HTTP/2 connection failed");
                return Poll::Ready(None);
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending if closing => return Poll::Pending,
            Poll::Pending => {}
        }
        let due =
            (shared.open.get() == 0).then(|| *idle_since.get_or_insert_with(Instant::now) + policy.keep_alive_timeout);
        let idle = due.is_some_and(|due| timer.poll_expired(due, cx).is_ready());
        if !worker.draining() && !idle {
            return Poll::Pending;
        }
        // In two steps: the client learns that no more is welcome, and what it sent before it knew is served.
        connection.graceful_shutdown();
        closing = true;
    };
    while let Some((request, respond)) = poll_fn(|cx| request(cx, &mut connection)).await {
        let served = serve_stream(
            Rc::clone(worker),
            Rc::clone(&peer),
            Rc::clone(listener),
            Open::begin(&shared),
            request,
            respond,
        );
        tokio::task::spawn_local(served);
    }
}

/// Counts a stream for as long as it lives.
struct Open(Rc<Shared>);

impl Open {
    fn begin(shared: &Rc<Shared>) -> Self {
        shared.open.set(shared.open.get() + 1);
        Self(Rc::clone(shared))
    }

    fn end(&self, after: After) {
        let resets = &self.0.resets;
        resets.set(match after {
            After::Abort => resets.get() + 1,
            After::KeepAlive | After::Close => resets.get().saturating_sub(1),
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Serves one request.
async fn serve_stream(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    listener: Rc<str>,
    open: Open,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let mut scratch = worker.lend();
    let (parts, body) = request.into_parts();
    let parsed = head::read_request(&mut scratch.request, &parts, body.is_end_stream());
    drop(parts);
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
        listener: &listener,
        timer: &mut scratch.timer,
        pressure: &pressure,
        stream: Some(&outgoing),
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
    let after = match parsed {
        Ok(()) => proxy::serve(exchange).await,
        Err(error) => proxy::refuse(exchange, ProxyError::BadHead(error)).await,
    };
    drop(client);
    if after == After::Abort {
        outgoing.borrow_mut().reset(Reason::INTERNAL_ERROR);
    }
    open.end(after);
    worker.give_back(scratch);
}
