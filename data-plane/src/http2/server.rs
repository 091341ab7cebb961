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
use tokio::time::Instant;

use super::{Outgoing, Receiver, Sender, gather::Gather, head};
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

/// The most tasks of a worker that wait for requests.
const IDLE_SERVERS_MAX: usize = 64;

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
    let gather = Gather::new(stream);
    let mut handshake = builder.handshake::<_, Bytes>(gather.clone());
    let greeted = poll_fn(|cx| {
        let greeted = Pin::new(&mut handshake).poll(cx);
        // What fails here fails there.
        let _ = gather.poll_send(cx);
        greeted
    });
    let Ok(Ok(mut connection)) = timer.within(policy.head_timeout, greeted).await else { return };
    let shared = Rc::new(Shared::default());
    let mut closing = false;
    let mut idle_since = Some(Instant::now());
    let mut request = |cx: &mut Context<'_>, connection: &mut Connection<Gather, Bytes>| loop {
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
            Poll::Pending => {}
        }
        if let Poll::Ready(Err(error)) = gather.poll_send(cx) {
            tracing::debug!(%error, "HTTP/2 connection failed");
            return Poll::Ready(None);
        }
        if shared.open.get() == 0 {
            gather.shrink();
        }
        if closing {
            return Poll::Pending;
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
        let (peer, listener) = (Rc::clone(&peer), Rc::clone(listener));
        Servers::serve(worker, Job { peer, listener, open: Open::begin(&shared), request, respond });
    }
}

/// A request on its way to the task that serves it.
#[derive(Debug)]
struct Job {
    peer: Rc<Peer>,
    listener: Rc<str>,
    open: Open,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

/// A worker's tasks that have served a request and wait for the next. A task is large, so making and freeing one for each
/// request would cost as much as reading its head.
#[derive(Debug, Default)]
pub struct Servers(RefCell<Vec<Rc<Desk>>>);

/// Where a task gets its requests.
#[derive(Debug, Default)]
struct Desk {
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

impl Servers {
    fn serve(worker: &Rc<Worker>, job: Job) {
        let Some(desk) = worker.http2_servers.0.borrow_mut().pop() else {
            tokio::task::spawn_local(serve_streams(Rc::clone(worker), job));
            return;
        };
        desk.job.replace(Some(job));
        if let Some(waker) = desk.waker.take() {
            waker.wake();
        }
    }
}

/// Serves one request after another, of any connection.
async fn serve_streams(worker: Rc<Worker>, first: Job) {
    let desk = Rc::new(Desk::default());
    desk.job.replace(Some(first));
    loop {
        let job = poll_fn(|cx| match desk.job.take() {
            Some(job) => Poll::Ready(job),
            None => {
                desk.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        serve_stream(&worker, job.await).await;
        let mut idle = worker.http2_servers.0.borrow_mut();
        if idle.len() >= IDLE_SERVERS_MAX {
            return;
        }
        idle.push(Rc::clone(&desk));
    }
}

/// Counts a stream for as long as it lives.
#[derive(Debug)]
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
async fn serve_stream(worker: &Rc<Worker>, job: Job) {
    let Job { peer, listener, open, request, respond } = job;
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
        worker,
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
