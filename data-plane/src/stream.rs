//! A connection's bytes, with TLS or without, and its two directions, each with its buffer, so that a request can go up
//! while its response comes down.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};
use tokio_util::io::poll_read_buf;

use crate::{
    fields::Fields,
    http1::{Framing, write},
    spare,
    tls::session::Session,
};

/// Room for a read of a head or a small body.
const READ_BYTES: usize = 16 << 10;

/// Body pieces up to this size are copied behind what is already to be written, so that one call writes both.
const COPY_BYTES_MAX: usize = 8 << 10;

/// A connection.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    /// Read already, by who then found that it is not for him.
    unread: BytesMut,
    tls: Option<Box<RefCell<Session>>>,
}

/// What comes in.
#[derive(Debug)]
pub struct Input<'a> {
    half: ReadHalf<'a>,
    tls: Option<&'a RefCell<Session>>,
    /// What has come and was not used yet.
    pub buffer: &'a mut BytesMut,
}

/// What goes out.
#[derive(Debug)]
pub struct Output<'a> {
    half: WriteHalf<'a>,
    tls: Option<&'a RefCell<Session>>,
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
    /// Bytes taken since the last look.
    bytes: Cell<u64>,
}

impl Pressure {
    /// Whether a write waits for the other side now.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// A write was tried: whether it waits now.
    pub fn note(&self, waits: bool) {
        if self.blocked.replace(waits) && !waits {
            self.moved.set(true);
        }
    }

    /// So many bytes were taken.
    pub fn took(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().wrapping_add(bytes as u64));
    }

    /// How many bytes were taken since the last time this was asked.
    pub fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }

    /// Whether something was taken, after a wait, since the last time this was asked.
    pub fn take_moved(&self) -> bool {
        self.moved.take()
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, unread: BytesMut::new(), tls: None }
    }
}

impl Stream {
    /// With a session whose handshake is done.
    #[must_use]
    pub fn with_tls(tcp: TcpStream, session: Session) -> Self {
        Self { tcp, unread: BytesMut::new(), tls: Some(Box::new(RefCell::new(session))) }
    }

    /// Whether both sides agreed on that protocol in their handshake (RFC 7301).
    #[must_use]
    pub fn agreed_on(&self, protocol: &[u8]) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().alpn() == Some(protocol))
    }

    /// Gives bytes back, for whoever takes the connection whole.
    pub fn unread(&mut self, bytes: BytesMut) {
        self.unread = bytes;
    }

    /// Whether there is TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what has come behind what is in `buffer`; 0 when the other side has closed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        if !self.unread.is_empty() {
            buffer.unsplit(std::mem::take(&mut self.unread));
            return Poll::Ready(Ok(buffer.len()));
        }
        match &mut self.tls {
            None => {
                buffer.reserve(READ_BYTES);
                poll_read_buf(Pin::new(&mut self.tcp), cx, buffer)
            }
            Some(tls) => tls.get_mut().poll_read(cx, &mut self.tcp, buffer, false),
        }
    }

    /// Both directions.
    pub fn split<'a>(
        &'a mut self,
        input: &'a mut BytesMut,
        output: &'a mut Vec<u8>,
        pressure: &'a Pressure,
    ) -> (Input<'a>, Output<'a>) {
        let (read, write) = self.tcp.split();
        let tls = self.tls.as_deref();
        (Input { half: read, tls, buffer: input }, Output { half: write, tls, buffer: output, pressure })
    }

    /// Waits until there is something to read, holding no buffer meanwhile. The runtime takes a socket that is `fresh` for
    /// readable until the system says that it is not, so that is asked.
    pub fn poll_readable(&self, cx: &mut Context<'_>, fresh: bool) -> Poll<io::Result<()>> {
        match &self.tls {
            _ if !self.unread.is_empty() => Poll::Ready(Ok(())),
            Some(tls) if tls.borrow().has_plain() => Poll::Ready(Ok(())),
            None if fresh => self.tcp.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map_ok(|_| ()),
            _ => self.tcp.poll_read_ready(cx),
        }
    }

    /// Whether bytes have come. Asks the system, not the runtime, which may not know yet.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        self.tls.as_ref().is_some_and(|tls| tls.borrow().has_plain())
            || socket2::SockRef::from(&self.tcp).peek(&mut byte).is_ok_and(|bytes| bytes > 0)
    }

    /// Whether an idle connection is still one: no end, no error, and no byte that nobody asked for. Costs no system call
    /// unless something has come.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        match &self.tls {
            None => {
                matches!(self.tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Some(tls) => tls.borrow_mut().is_quiet(&self.tcp),
        }
    }

    /// Takes some of `parts`, encrypted, to be sent with the next flush; `None` if there is no TLS to encrypt by.
    ///
    /// # Errors
    /// The session's.
    pub fn gather(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        self.tls.as_mut().map(|tls| tls.get_mut().encrypt(parts)).transpose()
    }

    /// How many bytes that takes together.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.borrow().outgoing())
    }

    /// Gives back the memory that only a busy connection needs.
    pub fn shrink(&self) {
        if let Some(tls) = &self.tls {
            tls.borrow_mut().shrink();
        }
    }

    /// Makes the close of the connection a reset, so that the other side cannot take a cut answer for a whole one.
    pub fn reset_on_close(&self) {
        let _ = self.tcp.set_zero_linger();
    }
}

// Whole, for the protocol that owns the connection.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls, unread } = self.get_mut();
        if !unread.is_empty() {
            let bytes = buffer.remaining().min(unread.len());
            buffer.put_slice(&unread.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        match tls {
            None => Pin::new(tcp).poll_read(cx, buffer),
            Some(tls) => tls.get_mut().poll_read_into(cx, tcp, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { tcp, tls, .. } = self.get_mut();
        match tls {
            None => Pin::new(tcp).poll_write(cx, bytes),
            Some(tls) => tls.get_mut().poll_write(cx, tcp, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { tcp, tls, .. } = self.get_mut();
        match tls {
            None => Pin::new(tcp).poll_write_vectored(cx, parts),
            Some(tls) => tls.get_mut().poll_write(cx, tcp, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls, .. } = self.get_mut();
        match tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.get_mut().poll_flush(cx, tcp),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, tls, .. } = self.get_mut();
        if let Some(tls) = tls {
            let tls = tls.get_mut();
            tls.close();
            ready!(tls.poll_flush(cx, tcp))?;
        }
        Pin::new(tcp).poll_shutdown(cx)
    }
}

impl Input<'_> {
    /// Reads what has come; 0 when the other side has closed.
    ///
    /// # Errors
    /// The connection's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.read(false).await
    }

    /// The same with room for much.
    ///
    /// # Errors
    /// The connection's.
    pub async fn fill_bulk(&mut self) -> io::Result<usize> {
        self.read(true).await
    }

    async fn read(&mut self, bulk: bool) -> io::Result<usize> {
        spare::park(self.buffer);
        poll_fn(|cx| match self.tls {
            None => {
                // Room only when there is something to put there: thousands of requests may wait for answers at once.
                ready!(self.half.as_ref().poll_read_ready(cx))?;
                if bulk {
                    spare::take(self.buffer);
                } else {
                    self.buffer.reserve(READ_BYTES);
                }
                let polled = poll_read_buf(Pin::new(&mut self.half), cx, self.buffer);
                if polled.is_pending() {
                    spare::park(self.buffer);
                }
                polled
            }
            Some(tls) => tls.borrow_mut().poll_read(cx, &mut self.half, self.buffer, bulk),
        })
        .await
    }
}

impl Output<'_> {
    /// Writes what is to go.
    ///
    /// # Errors
    /// The connection's.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.write_all_of([&[], &[]]).await?;
        }
        let Some(tls) = self.tls else { return Ok(()) };
        poll_fn(|cx| {
            let polled = tls.borrow_mut().poll_flush(cx, &mut self.half);
            self.pressure.note(polled.is_pending());
            polled
        })
        .await
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
        if let Some(tls) = self.tls {
            tls.borrow_mut().close();
            self.flush().await?;
        }
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
            let (half, tls, pressure) = (&mut self.half, self.tls, self.pressure);
            let bytes = poll_fn(|cx| {
                let polled = match (tls, slices) {
                    (Some(tls), _) => tls.borrow_mut().poll_write(cx, half, &slices),
                    (None, [only, second, third]) if second.is_empty() && third.is_empty() => {
                        Pin::new(&mut *half).poll_write(cx, &only)
                    }
                    (None, _) => Pin::new(&mut *half).poll_write_vectored(cx, &slices),
                };
                pressure.note(polled.is_pending());
                polled
            })
            .await?;
            if bytes == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            pressure.took(bytes);
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
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let mut stream = Stream::from(stream);
        let (mut other, _) = listener.accept().await.expect("accepts");
        let (mut input, mut output, pressure) = (BytesMut::new(), Vec::new(), Pressure::default());
        let (_, mut output) = stream.split(&mut input, &mut output, &pressure);
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
