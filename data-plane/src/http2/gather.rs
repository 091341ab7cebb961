//! The connection under HTTP/2. `h2` writes each frame by itself; here frames are gathered until it has no more to say for
//! now, and go out in one call to the system.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// How many bytes are gathered before the connection must take some.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// A connection, for `h2` and for whoever drives it, who says when what was gathered goes out.
#[derive(Clone, Debug)]
pub struct Gather(Rc<RefCell<Gathering>>);

#[derive(Debug)]
struct Gathering {
    stream: Stream,
    /// What is to go; over TLS the session gathers it itself, encrypted.
    out: BytesMut,
}

impl Gather {
    /// Nothing gathered yet.
    pub fn new(stream: Stream) -> Self {
        Self(Rc::new(RefCell::new(Gathering { stream, out: BytesMut::new() })))
    }

    /// Sends what was gathered, as far as the connection takes it; the task is woken when it takes more.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl Gathering {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
        }
        self.out.clear();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Gather {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Gather {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gathering = &mut *self.0.borrow_mut();
        let gathered = gathering.out.len() + gathering.stream.gathered();
        if gathered >= GATHERED_BYTES_MAX {
            ready!(gathering.poll_send(cx))?;
        }
        if let Some(taken) = gathering.stream.gather(parts)? {
            return Poll::Ready(Ok(taken));
        }
        let mut taken = 0;
        for part in parts {
            let part = &part[..part.len().min(GATHERED_BYTES_MAX - taken)];
            gathering.out.extend_from_slice(part);
            taken += part.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// `h2` flushes after each frame; what was gathered goes when it is done with all ([`Gather::poll_send`]).
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathering = &mut *self.0.borrow_mut();
        ready!(gathering.poll_send(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }
}
