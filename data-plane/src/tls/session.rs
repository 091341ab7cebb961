//! A TLS session, driven over a socket that does not block.
//!
//! rustls keeps no buffers here: what came is decrypted where it lies and what goes is encrypted straight into
//! what is sent next, so an idle session costs little more than its keys.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use rustls::{
    Error,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{AppDataRecord, ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use crate::spare;

/// Room for a read: a whole record, with what frames it.
const READ_BYTES: usize = 18 << 10;

/// Room for a read in the middle of a large body.
const BULK_BYTES: usize = 64 << 10;

/// The most plain bytes that one write takes.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The most that encrypting adds to one record.
const RECORD_OVERHEAD: usize = 64;

/// The most bytes of one record before it is encrypted (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 16 << 10;

/// The most bytes of a handshake that are kept.
const HANDSHAKE_BYTES_MAX: usize = 128 << 10;

/// See the module documentation.
pub struct Session {
    side: Side,
    /// What came and is not decrypted yet.
    incoming: BytesMut,
    /// What was decrypted while nobody asked for it.
    plain: BytesMut,
    /// What is to be sent.
    outgoing: BytesMut,
    /// Both sides may send.
    established: bool,
    /// The other side said that it sends no more.
    peer_closed: bool,
    /// Something was wrong, and the other side told: rustls is not asked again.
    failed: bool,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is to be encrypted.
#[derive(Clone, Copy)]
enum Write<'a> {
    Data(&'a [u8]),
    /// We send no more.
    CloseNotify,
}

/// How far one step through what came has led.
enum Step {
    /// There may be more to do.
    Again,
    /// The other side said that it sends no more.
    PeerClosed,
    /// More bytes are needed before we may send.
    Handshaking,
    /// All that came is used and we may send; what was to be encrypted is.
    Idle,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("established", &self.established).finish_non_exhaustive()
    }
}

impl Session {
    /// The server's side, before the first byte.
    #[must_use]
    pub fn server(connection: UnbufferedServerConnection) -> Self {
        Self::new(Side::Server(connection))
    }

    /// The client's side, before the first byte.
    #[must_use]
    pub fn client(connection: UnbufferedClientConnection) -> Self {
        Self::new(Side::Client(connection))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            incoming: BytesMut::new(),
            plain: BytesMut::new(),
            outgoing: BytesMut::new(),
            established: false,
            peer_closed: false,
            failed: false,
        }
    }

    /// The protocol that both sides agreed on, if they did (RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Server(connection) => connection.alpn_protocol(),
            Side::Client(connection) => connection.alpn_protocol(),
        }
    }

    /// The other side's certificates, its own first, if it sent any.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[rustls::pki_types::CertificateDer<'static>]> {
        match &self.side {
            Side::Server(connection) => connection.peer_certificates(),
            Side::Client(connection) => connection.peer_certificates(),
        }
    }

    /// Shakes hands: afterwards both sides may send. The caller bounds the time.
    ///
    /// # Errors
    /// The connection's, and what is wrong with the other side's messages or certificate; that was told to it.
    pub async fn handshake(&mut self, io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_handshake(cx, io)).await
    }

    fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            let advanced = self.advance(None, None);
            ready!(self.poll_flush(cx, io))?;
            advanced?;
            if self.established {
                return Poll::Ready(Ok(()));
            }
            if self.peer_closed {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.incoming.len() >= HANDSHAKE_BYTES_MAX {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the handshake is too large")));
            }
            self.incoming.reserve(READ_BYTES);
            if ready!(poll_read_buf(Pin::new(io), cx, &mut self.incoming))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads what the other side sent into `buffer`; 0 when it said that it sends no more. What it makes necessary to
    /// send is sent at the next write.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
        buffer: &mut BytesMut,
        bulk: bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.plain.is_empty() {
                let bytes = self.plain.len();
                buffer.extend_from_slice(&self.plain);
                self.plain.clear();
                return Poll::Ready(Ok(bytes));
            }
            if self.peer_closed {
                return Poll::Ready(Ok(0));
            }
            self.incoming.reserve(if bulk { BULK_BYTES } else { READ_BYTES });
            if ready!(poll_read_buf(Pin::new(&mut *io), cx, &mut self.incoming))? == 0 {
                // Somebody else may have cut the connection: what was sent so far is not all.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if bulk {
                spare::take(buffer);
            }
            let before = buffer.len();
            self.advance(Some(buffer), None)?;
            if buffer.len() > before {
                return Poll::Ready(Ok(buffer.len() - before));
            }
            spare::park(buffer);
        }
    }

    /// The same, for whoever has room of its own.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.plain.is_empty() {
            let mut plain = std::mem::take(&mut self.plain);
            let polled = self.poll_read(cx, io, &mut plain, true);
            self.plain = plain;
            ready!(polled)?;
        }
        let bytes = buffer.remaining().min(self.plain.len());
        buffer.put_slice(&self.plain[..bytes]);
        self.plain.advance(bytes);
        if self.plain.is_empty() {
            spare::give_back(&mut self.plain);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes some of `parts`, encrypted, to be sent: at once as far as the socket takes it, the rest with the next write
    /// or flush. Waits for what is still to be sent of earlier writes.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx, io))?;
        let taken = self.encrypt(parts)?;
        match self.poll_flush(cx, io) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    /// Takes some of `parts`, encrypted, to be sent with the next write or flush; returns how much.
    ///
    /// # Errors
    /// The session's.
    pub fn encrypt(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        for part in parts {
            let part = &part[..part.len().min(WRITE_BYTES_MAX - taken)];
            if !part.is_empty() {
                self.advance(None, Some(Write::Data(part)))?;
                taken += part.len();
            }
        }
        Ok(taken)
    }

    /// How many bytes are to be sent.
    #[must_use]
    pub fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends what is to be sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let bytes = ready!(Pin::new(&mut *io).poll_write(cx, &self.outgoing))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(bytes);
        }
        self.outgoing.clear();
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be sent; goes with the next flush.
    pub fn close(&mut self) {
        if self.established {
            // The only failure is that the session has failed before.
            let _ = self.advance(None, Some(Write::CloseNotify));
        }
    }

    /// Whether nothing came that is not part of keeping the session: no data, no end, no error.
    pub fn is_quiet(&mut self, socket: &TcpStream) -> bool {
        self.incoming.reserve(READ_BYTES);
        loop {
            match socket.try_read_buf(&mut self.incoming) {
                Ok(0) => return false,
                Ok(_) if self.incoming.len() > HANDSHAKE_BYTES_MAX => return false,
                Ok(_) => self.incoming.reserve(READ_BYTES),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.advance(None, None).is_ok() && self.plain.is_empty() && !self.peer_closed
    }

    /// Whether there is something to read already.
    #[must_use]
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Gives back the memory of buffers that hold nothing.
    pub fn shrink(&mut self) {
        for buffer in [&mut self.incoming, &mut self.plain, &mut self.outgoing] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
    }

    /// Uses what came, decrypting into `plain` (or what is kept for later), and encrypts what is to be written.
    fn advance(&mut self, plain: Option<&mut BytesMut>, mut write: Option<Write<'_>>) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let plain = plain.unwrap_or(&mut self.plain);
        loop {
            let (discard, step) = match &mut self.side {
                Side::Server(connection) => {
                    step(connection.process_tls_records(&mut self.incoming), plain, &mut self.outgoing, write)
                }
                Side::Client(connection) => {
                    step(connection.process_tls_records(&mut self.incoming), plain, &mut self.outgoing, write)
                }
            };
            self.incoming.advance(discard);
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Handshaking) if write.is_none() => return Ok(()),
                Ok(Step::Handshaking) => return Err(io::ErrorKind::NotConnected.into()),
                Ok(Step::Idle) => {
                    self.established = true;
                    // Encrypting may make a change of keys due, which then goes out behind it.
                    if write.take().is_none() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.failed = true;
                    self.tell();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// After an error, gets the alert that tells the other side.
    ///
    /// It is asked for once, since it is one and lies ready: in a session that has failed rustls does not expect to read on
    /// (it may panic). And with what came, although none of it is wanted any more: rustls remembers places in it.
    fn tell(&mut self) {
        let waits = match &self.side {
            Side::Server(connection) => connection.wants_write(),
            Side::Client(connection) => connection.wants_write(),
        };
        if !waits {
            return;
        }
        let mut nowhere = BytesMut::new();
        let (discard, _) = match &mut self.side {
            Side::Server(connection) => {
                step(connection.process_tls_records(&mut self.incoming), &mut nowhere, &mut self.outgoing, None)
            }
            Side::Client(connection) => {
                step(connection.process_tls_records(&mut self.incoming), &mut nowhere, &mut self.outgoing, None)
            }
        };
        self.incoming.advance(discard);
    }
}

/// Does what one status asks for. Returns how many of the incoming bytes are used up.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut BytesMut,
    outgoing: &mut BytesMut,
    write: Option<Write<'_>>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(AppDataRecord { discard: more, payload })) => {
                    discard += more;
                    plain.extend_from_slice(payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let room = |outgoing: &mut [u8]| match data.encode(outgoing) {
                Ok(bytes) => Ok(bytes),
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            };
            append(outgoing, RECORD_OVERHEAD, room).map(|()| Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in `outgoing`, and nothing overtakes it there.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(mut writer)) => {
            let size = |error| match error {
                EncryptError::InsufficientSize(size) => Some(size.required_size),
                EncryptError::EncryptExhausted => None,
            };
            match write {
                Some(Write::Data(data)) => {
                    let records = data.len().div_ceil(RECORD_BYTES_MAX);
                    let room = data.len() + records * RECORD_OVERHEAD;
                    append(outgoing, room, |outgoing| writer.encrypt(data, outgoing).map_err(size))
                }
                Some(Write::CloseNotify) => {
                    append(outgoing, RECORD_OVERHEAD, |outgoing| writer.queue_close_notify(outgoing).map_err(size))
                }
                None => Ok(()),
            }
            .map(|()| Step::Idle)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Idle),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Handshaking),
        // Early data is never offered nor accepted: whoever records it can send it again.
        Ok(_) => Err(Error::General("unexpected state".into())),
        Err(error) => Err(error),
    };
    (discard, step)
}

/// Lets `write` append to `outgoing`, with room for `room` bytes or for as many as it says that it needs.
fn append(
    outgoing: &mut BytesMut,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let begin = outgoing.len();
    outgoing.resize(begin + room, 0);
    let written = match write(&mut outgoing[begin..]) {
        Err(Some(needed)) => {
            outgoing.resize(begin + needed, 0);
            write(&mut outgoing[begin..])
        }
        written => written,
    };
    outgoing.truncate(begin + written.unwrap_or(0));
    written.map(|_| ()).map_err(|_| Error::EncryptError)
}
