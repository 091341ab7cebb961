//! The two directions of a connection, each with its buffer, so that a request can go up while its response
//! comes down.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use crate::{
    fields::Fields,
    http1::{Framing, write},
};

/// Room for a read of a head or a small body.
const READ_BYTES: usize = 16 << 10;

/// Room for a read in the middle of a large body.
const BULK_BYTES: usize = 128 << 10;

/// Body pieces up to this size are copied behind what is already to be written, so that one call writes both.
const COPY_BYTES_MAX: usize = 8 << 10;

/// What comes in.
#[derive(Debug)]
pub struct Input<'a> {
    half: ReadHalf<'a>,
    /// What has come and was not used yet.
    pub buffer: &'a mut BytesMut,
}

/// What goes out.
#[derive(Debug)]
pub struct Output<'a> {
    half: WriteHalf<'a>,
    /// What is to go at the next [`Output::flush`].
    pub buffer: &'a mut Vec<u8>,
    pressure: &'a Pressure,
}

/// Whether the other side takes what is written to it: seen from outside while a write is under way.
#[derive(Debug, Default)]
pub struct Pressure {
    /// A write waits for the other side.
    blocked: Cell<bool>,
    /// After a wait something was taken, since the last look. A write that did not wait took no time: it says nothing
    /// new to whoever set a deadline when it began.
    moved: Cell<bool>,
}

impl Pressure {
    /// Whether a write waits for the other side now.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether something was taken, after a wait, since the last time this was asked.
    pub fn take_moved(&self) -> bool {
        self.moved.take()
    }
}

/// Both directions of a connection.
pub fn split<'a>(
    stream: &'a mut TcpStream,
    input: &'a mut BytesMut,
    output: &'a mut Vec<u8>,
    pressure: &'a Pressure,
) -> (Input<'a>, Output<'a>) {
    let (read, write) = stream.split();
    (Input { half: read, buffer: input }, Output { half: write, buffer: output, pressure })
}

impl Input<'_> {
    /// Reads what has come; 0 when the other side has closed.
    ///
    /// # Errors
    /// The connection's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.half.read_buf(self.buffer).await
    }

    /// The same with room for much.
    ///
    /// # Errors
    /// The connection's.
    pub async fn fill_bulk(&mut self) -> io::Result<usize> {
        self.buffer.reserve(BULK_BYTES);
        self.half.read_buf(self.buffer).await
    }
}

impl Output<'_> {
    /// Writes what is to go.
    ///
    /// # Errors
    /// The connection's.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_all_of([&[], &[]]).await
    }

    /// Writes a piece of a body behind what is to go; a small one may stay in the buffer.
    ///
    /// # Errors
    /// The connection's.
    pub async fn piece(&mut self, framing: Framing, piece: &[u8]) -> io::Result<()> {
        let chunked = framing == Framing::Chunked;
        if chunked {
            write::chunk_size(self.buffer, piece.len());
        }
        if self.buffer.len() + piece.len() <= COPY_BYTES_MAX {
            self.buffer.extend_from_slice(piece);
            if chunked {
                self.buffer.extend_from_slice(b"\r\n");
            }
            return Ok(());
        }
        let end: &[u8] = if chunked { b"\r\n" } else { b"" };
        self.write_all_of([piece, end]).await
    }

    /// Ends a body; what ends it may stay in the buffer.
    pub fn end(&mut self, framing: Framing, trailers: &Fields) {
        if framing == Framing::Chunked {
            write::last_chunk(self.buffer, trailers);
        }
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// The connection's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }

    async fn write_all_of(&mut self, parts: [&[u8]; 2]) -> io::Result<()> {
        let parts = [self.buffer.as_slice(), parts[0], parts[1]];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut written = 0;
        while written < total {
            let mut skip = written;
            let slices = parts.map(|part| {
                let begin = skip.min(part.len());
                skip -= begin;
                IoSlice::new(&part[begin..])
            });
            let (half, pressure) = (&mut self.half, self.pressure);
            let bytes = poll_fn(|cx| {
                let half = Pin::new(&mut *half);
                let polled = match slices {
                    [only, second, third] if second.is_empty() && third.is_empty() => half.poll_write(cx, &only),
                    _ => half.poll_write_vectored(cx, &slices),
                };
                if pressure.blocked.replace(polled.is_pending()) && polled.is_ready() {
                    pressure.moved.set(true);
                }
                polled
            })
            .await?;
            if bytes == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            written += bytes;
        }
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn only_a_write_that_waited_says_that_the_other_side_moved() {
        // More than the system takes for a side that does not read.
        const LARGE: usize = 128 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let mut stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut other, _) = listener.accept().await.expect("accepts");
        let (mut input, mut output, pressure) = (BytesMut::new(), Vec::new(), Pressure::default());
        let (_, mut output) = split(&mut stream, &mut input, &mut output, &pressure);
        output.buffer.extend_from_slice(b"small");
        output.flush().await.expect("writes");
        assert!(!pressure.take_moved(), "whoever wrote knows when that was");
        let large = vec![0; LARGE];
        let read = async { other.read_exact(&mut vec![0; LARGE]).await.map(|_| ()) };
        let (written, read) = tokio::join!(output.piece(Framing::UntilClose, &large), read);
        written.and(read).expect("carries it");
        assert!(pressure.take_moved());
    }
}
