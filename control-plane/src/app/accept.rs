//! The gRPC port's accept loop: it goes on whatever happens to single connections, and bounds them all.
//!
//! A failed accept (a reset connection, no file descriptor left) is logged and waited out, never reported upward.
//! Over the limit, connections are closed at once. One that does not send what every HTTP/2 or TLS connection begins
//! with is closed after some seconds.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::telemetry::Metrics;

/// Long enough for a descriptor to come free, short enough not to be noticed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// The HTTP/2 preface has as many bytes; no TLS client hello is shorter.
const FIRST_BYTES: usize = 24;
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// What services see of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Other end.
    pub address: SocketAddr,
    /// Breaks the connection, whatever state it is in.
    pub cut: CancellationToken,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    missing_bytes: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts for ever; `kill` breaks every connection.
pub fn incoming(
    listener: TcpListener,
    connections_max: usize,
    kill: CancellationToken,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = io::Result<Connection>> {
    let permits = Arc::new(Semaphore::new(connections_max));
    futures_util::stream::unfold((listener, permits, kill, metrics), async |(listener, permits, kill, metrics)| {
        let connection = loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let Ok(permit) = permits.clone().try_acquire_owned() else {
                        metrics.connections_refused.inc();
                        continue;
                    };
                    break Connection::new(stream, address, permit, &kill, metrics.clone());
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        };
        Some((Ok(connection), (listener, permits, kill, metrics)))
    })
}

impl Connection {
    fn new(
        stream: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        kill: &CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        // Only latency is lost if this fails.
        let _ = stream.set_nodelay(true);
        metrics.connections.inc();
        let cut = kill.child_token();
        Self {
            stream,
            cut: Box::pin(cut.clone().cancelled_owned()),
            peer: Peer { address, cut },
            missing_bytes: FIRST_BYTES,
            deadline: Some(Box::pin(sleep(FIRST_BYTES_TIMEOUT))),
            metrics,
            _permit: permit,
        }
    }

    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(deadline) = &mut self.deadline {
            if polled.is_pending() && deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.missing_bytes = self.missing_bytes.saturating_sub(buffer.filled().len() - before);
            if self.missing_bytes == 0 {
                self.deadline = None;
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
