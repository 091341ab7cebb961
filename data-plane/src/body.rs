//! Bodies on their way through, whatever protocol each side speaks: a [`Source`] gives a body piece by piece, a [`Sink`]
//! takes it. The pieces lie in the source's buffer until they are taken, so one that could not be sent is still there.

use std::io;

use bytes::Bytes;

use crate::{
    fields::Fields,
    forward::Reply,
    http1::{
        Framing, Version,
        body::{BodyError, BodyReader, Piece},
        write,
    },
    http2,
    stream::{Input, Output},
};

/// The most that is read of what the other side sends before it is its turn.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// Where a message's body comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A connection's bytes, and what tells the body from them.
    Http1 {
        /// The connection.
        input: Input<'a>,
        /// The present body's framing.
        reader: BodyReader,
    },
    /// A stream that a client opened, by HTTP/2.
    ClientStream(http2::stream::Incoming),
    /// A stream to an upstream.
    UpstreamStream(http2::Receiver),
}

/// Where a message goes.
#[derive(Debug)]
pub enum Sink<'a> {
    /// A connection's bytes.
    Http1(Output<'a>),
    /// A stream that a client opened, by HTTP/2.
    ClientStream(http2::stream::Answer<'a>),
    /// A stream to an upstream.
    UpstreamStream(http2::Sender<'a>),
}

impl<'a> Source<'a> {
    /// A connection's input, before its first message.
    pub fn http1(input: Input<'a>) -> Self {
        Self::Http1 { input, reader: BodyReader::new(Framing::Empty) }
    }
}

impl Source<'_> {
    /// A body framed so comes next.
    pub fn begin(&mut self, framing: Framing) {
        match self {
            Self::Http1 { reader, .. } => *reader = BodyReader::new(framing),
            Self::ClientStream(_) | Self::UpstreamStream(_) => {}
        }
    }

    /// The next piece of what has come.
    ///
    /// # Errors
    /// [`BodyError`] on malformed framing.
    pub fn next(&mut self) -> Result<Piece, BodyError> {
        match self {
            Self::Http1 { input, reader } => reader.next(input.buffer),
            Self::ClientStream(receiver) => Ok(receiver.next()),
            Self::UpstreamStream(receiver) => Ok(receiver.next()),
        }
    }

    /// The bytes of a piece of that length.
    pub fn bytes(&self, length: usize) -> &[u8] {
        match self {
            Self::Http1 { input, .. } => &input.buffer[..length],
            Self::ClientStream(receiver) => receiver.bytes(length),
            Self::UpstreamStream(receiver) => receiver.bytes(length),
        }
    }

    /// So many bytes of the piece are used.
    pub fn took(&mut self, length: usize) {
        match self {
            Self::Http1 { input, reader } => reader.took(input.buffer, length),
            Self::ClientStream(receiver) => drop(receiver.take(length)),
            Self::UpstreamStream(receiver) => drop(receiver.take(length)),
        }
    }

    /// Takes so many bytes of the piece to keep, without copying them.
    pub fn take(&mut self, length: usize) -> Bytes {
        match self {
            Self::Http1 { input, reader } => reader.take(input.buffer, length),
            Self::ClientStream(receiver) => receiver.take(length),
            Self::UpstreamStream(receiver) => receiver.take(length),
        }
    }

    /// Waits for more, with room for much; 0 when the connection has closed.
    ///
    /// # Errors
    /// The connection's, or the stream's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        match self {
            Self::Http1 { input, .. } => input.fill_bulk().await,
            Self::ClientStream(receiver) => receiver.fill().await,
            Self::UpstreamStream(receiver) => receiver.fill().await,
        }
    }

    /// The same with room for little: for what cannot go on yet.
    ///
    /// # Errors
    /// The connection's, or the stream's.
    pub async fn fill_little(&mut self) -> io::Result<usize> {
        match self {
            Self::Http1 { input, .. } => input.fill().await,
            Self::ClientStream(receiver) => receiver.fill().await,
            Self::UpstreamStream(receiver) => receiver.fill().await,
        }
    }

    /// Returns when the other side has closed the connection, or it has failed. What comes meanwhile stays in the buffer; once
    /// that is full nothing is noticed any more. That a stream is given up is seen elsewhere.
    pub async fn ended(&mut self) {
        if let Self::Http1 { input, .. } = self {
            while input.buffer.len() < AHEAD_BYTES_MAX && input.fill().await.is_ok_and(|bytes| bytes > 0) {}
            if input.buffer.len() < AHEAD_BYTES_MAX {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// The connection closed: the end of a body that ends so, an error in any other.
    ///
    /// # Errors
    /// [`BodyError::CutShort`].
    pub fn closed(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Http1 { reader, .. } => reader.closed(),
            Self::ClientStream(_) | Self::UpstreamStream(_) => Err(BodyError::CutShort),
        }
    }

    /// The same, to take some away.
    pub fn trailers_mut(&mut self) -> &mut Fields {
        match self {
            Self::Http1 { reader, .. } => &mut reader.trailers,
            Self::ClientStream(receiver) => receiver.trailers_mut(),
            Self::UpstreamStream(receiver) => receiver.trailers_mut(),
        }
    }

    /// What came behind the body; empty until its end.
    pub fn trailers(&self) -> &Fields {
        match self {
            Self::Http1 { reader, .. } => &reader.trailers,
            Self::ClientStream(receiver) => receiver.trailers(),
            Self::UpstreamStream(receiver) => receiver.trailers(),
        }
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Http1 { reader, .. } => reader.is_done(),
            Self::ClientStream(receiver) => receiver.is_done(),
            Self::UpstreamStream(receiver) => receiver.is_done(),
        }
    }

    /// How many bytes are still to come, if the message told.
    pub fn known_rest(&self) -> Option<u64> {
        match self {
            Self::Http1 { reader, .. } => reader.known_rest(),
            Self::ClientStream(receiver) => receiver.known_rest(),
            Self::UpstreamStream(receiver) => receiver.known_rest(),
        }
    }
}

impl Sink<'_> {
    /// Whether the other side would take more, as far as it is known.
    pub fn has_room(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::ClientStream(sender) => sender.has_room(),
            Self::UpstreamStream(sender) => sender.has_room(),
        }
    }

    /// Says the head of an answer; `end` if no body follows. May wait for [`Sink::flush`].
    ///
    /// # Errors
    /// The stream's.
    pub fn head(
        &mut self,
        status: u16,
        fields: &Fields,
        reply: Reply,
        version: Version,
        bodyless: bool,
        end: bool,
    ) -> io::Result<()> {
        match self {
            Self::Http1(output) => {
                let out = &mut *output.buffer;
                write::status_line(out, status);
                for (name, value) in fields.iter() {
                    write::field(out, name, value);
                }
                if status == 101 {
                    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
                } else {
                    reply.write(out, version, bodyless);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
            Self::ClientStream(answer) => {
                let length = match reply.framing {
                    Framing::Length(length) => Some(length),
                    _ => None,
                };
                answer.head(status, fields, length, end)
            }
            // Nobody answers an upstream.
            Self::UpstreamStream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends a piece of the source's; a small one may wait for more or for [`Sink::flush`]. What is on its way is taken
    /// from the source, and shown to `taken`: what is not, whoever tries again finds where it was.
    ///
    /// # Errors
    /// The connection's, or the stream's.
    pub async fn piece(
        &mut self,
        framing: Framing,
        source: &mut Source<'_>,
        length: usize,
        mut taken: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        match self {
            Self::Http1(output) => {
                let piece = source.bytes(length);
                output.piece(framing, piece).await?;
                taken(piece);
                source.took(length);
                Ok(())
            }
            Self::ClientStream(sender) => sender.piece(source, length, taken).await,
            Self::UpstreamStream(sender) => sender.piece(source, length, taken).await,
        }
    }

    /// Sends bytes that are kept elsewhere.
    ///
    /// # Errors
    /// The connection's, or the stream's.
    pub async fn copy(&mut self, framing: Framing, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Http1(output) => output.piece(framing, bytes).await,
            Self::ClientStream(answer) => answer.data(bytes).await,
            Self::UpstreamStream(sender) => sender.data(Bytes::copy_from_slice(bytes)).await,
        }
    }

    /// Ends a body; what ends it may wait for [`Sink::flush`].
    ///
    /// # Errors
    /// The stream's.
    pub fn end(&mut self, framing: Framing, trailers: &Fields) -> io::Result<()> {
        match self {
            Self::Http1(output) => {
                output.end(framing, trailers);
                Ok(())
            }
            Self::ClientStream(sender) => sender.end(trailers),
            Self::UpstreamStream(sender) => sender.end(trailers),
        }
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// The connection's.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(output) => output.flush().await,
            Self::ClientStream(_) | Self::UpstreamStream(_) => Ok(()),
        }
    }

    /// Forgets what waits.
    pub fn discard(&mut self) {
        if let Self::Http1(output) = self {
            output.buffer.clear();
        }
    }

    /// Whether some of a message waits to be sent.
    pub fn holds_some(&self) -> bool {
        match self {
            Self::Http1(output) => !output.buffer.is_empty(),
            Self::ClientStream(_) | Self::UpstreamStream(_) => false,
        }
    }

    /// Says that nothing more will come.
    ///
    /// # Errors
    /// The connection's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Http1(output) => output.shutdown().await,
            Self::ClientStream(sender) => sender.end(&Fields::new()),
            Self::UpstreamStream(sender) => sender.end(&Fields::new()),
        }
    }
}

/// Whether a body of this type is one that may be silent for long.
pub fn is_stream(content_type: &[u8]) -> bool {
    let begins = |prefix: &[u8]| content_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    begins(b"text/event-stream") || begins(b"application/grpc")
}
