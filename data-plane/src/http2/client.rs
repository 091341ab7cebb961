//! An HTTP/2 connection to an upstream, shared by requests of this worker.

use std::{
    cell::{Cell, RefCell},
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use tokio::{sync::Notify, time::Instant};

use super::{Outgoing, gather::Gather};
use crate::{stream::Stream, upstream::Slot};

/// The most requests of a connection at a time, if the upstream allows as many.
const STREAMS_MAX: usize = 256;

/// How much of an answer may come before the client takes it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// The same for all answers of a connection: as much as all of them may have, so that clients that take nothing never hold
/// up the answers of others.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX as u32 * STREAM_WINDOW_BYTES;

/// The most bytes of requests that wait in a connection to be sent, for each stream.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The most bytes of an answer's header section, each field counted with 32 more.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// How long an upstream may take to say how many requests it takes at a time; all are sent to it then.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub struct Channel {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    streams: Cell<usize>,
    /// It takes no more requests: it has ended, or does not answer.
    retired: Cell<bool>,
    /// The upstream has said how many requests it takes at a time, or had the time to.
    settled: Cell<bool>,
    /// Tells of `settled` and `retired`.
    changed: Notify,
    used: Cell<Instant>,
    /// Its place among its backend's connections, if those have a limit, until it has ended.
    slot: RefCell<Option<Slot>>,
}

/// The right to one stream of a connection.
#[derive(Debug)]
pub struct Lease {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

impl State {
    fn retire(&self) {
        self.retired.set(true);
        if let Some(slot) = &*self.slot.borrow() {
            slot.retire();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.streams.set(self.state.streams.get() - 1);
        self.state.used.set(Instant::now());
        if let Some(slot) = &*self.state.slot.borrow() {
            slot.room().returned();
        }
    }
}

impl Channel {
    /// Begins HTTP/2 on a connection; a task of its own keeps it going for as long as there is a handle to it.
    ///
    /// One request may begin at once; `settling` is dropped when others may, since the upstream has said how many it takes
    /// at a time. `slot` is given up when the connection has ended.
    ///
    /// # Errors
    /// The connection's.
    pub async fn open<T: 'static>(stream: Stream, settling: T, slot: Option<Slot>) -> io::Result<Self> {
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX);
        let gather = Gather::new(stream);
        let (send, mut connection) = builder.handshake(gather.clone()).await.map_err(io::Error::other)?;
        let state = Rc::new(State {
            streams: Cell::new(0),
            retired: Cell::new(false),
            settled: Cell::new(false),
            changed: Notify::new(),
            used: Cell::new(Instant::now()),
            slot: RefCell::new(slot),
        });
        let driven = Rc::clone(&state);
        let ping = connection.ping_pong();
        tokio::task::spawn_local(async move {
            let driving = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
                Poll::Ready(ended) => Poll::Ready(ended.map_err(io::Error::other)),
                Poll::Pending => match gather.poll_send(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    _ => Poll::Pending,
                },
            });
            // Its settings come before it answers anything.
            let settled = async {
                if let Some(mut ping) = ping {
                    let _ = tokio::time::timeout(SETTLE_TIME_MAX, ping.ping(h2::Ping::opaque())).await;
                }
                driven.settled.set(true);
                driven.changed.notify_waiters();
                drop(settling);
                if let Some(slot) = &*driven.slot.borrow() {
                    slot.room().returned_to_all();
                }
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = driving => ended,
                () = settled => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "HTTP/2 connection to an upstream failed");
            }
            driven.retired.set(true);
            driven.changed.notify_waiters();
            // First the connection, then its place.
            drop((connection, gather));
            driven.slot.take();
        });
        Ok(Self { send, state })
    }

    /// Streams open now.
    pub fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// Whether another request may begin.
    pub fn has_room(&self) -> bool {
        let state = &self.state;
        !state.retired.get()
            && state.settled.get()
            && self.streams() < STREAMS_MAX.min(self.send.current_max_send_streams())
    }

    /// Whether it is worth keeping.
    pub fn is_wanted(&self, now: Instant, idle_max: Duration) -> bool {
        !self.state.retired.get()
            && (self.streams() > 0 || now.saturating_duration_since(self.state.used.get()) < idle_max)
    }

    /// The connection gets no more requests.
    pub fn retire(&self) {
        self.state.retire();
    }

    /// One more stream.
    pub fn lease(&self) -> Lease {
        self.state.streams.set(self.streams() + 1);
        Lease { send: self.send.clone(), state: Rc::clone(&self.state) }
    }
}

impl Lease {
    /// Sends a request's head; `end` if no body follows.
    ///
    /// # Errors
    /// The connection's: nothing was sent.
    pub async fn send(
        &mut self,
        head: http::Request<()>,
        end: bool,
    ) -> io::Result<(ResponseFuture, RefCell<Outgoing>)> {
        let sent = match poll_fn(|cx| self.send.poll_ready(cx)).await {
            Ok(()) => self.send.send_request(head, end),
            Err(error) => Err(error),
        };
        match sent {
            Ok((response, body)) => Ok((response, RefCell::new(Outgoing::request(body, end)))),
            Err(error) => {
                self.retire();
                Err(io::Error::other(error))
            }
        }
    }

    /// Whether WebSockets may be asked for, which the upstream says in its settings (RFC 8441 section 3): waits for them.
    pub async fn takes_websockets(&self) -> bool {
        loop {
            let changed = self.state.changed.notified();
            if self.state.settled.get() || self.state.retired.get() {
                // On a connection that has ended the request finds that out, and is sent elsewhere.
                return self.state.retired.get() || self.send.is_extended_connect_protocol_enabled();
            }
            changed.await;
        }
    }

    /// The connection gets no more requests.
    pub fn retire(&self) {
        self.state.retire();
    }
}
