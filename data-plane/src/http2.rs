//! HTTP/2 (RFC 9113). The `h2` crate speaks the frames and keeps the flow control; here its streams become what
//! the request path knows: heads and bodies, with the same bounds and the same strictness as those of HTTP/1.1.

pub mod head;
pub mod server;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};

use crate::{
    body::Source,
    fields::Fields,
    http1::{body::Piece, write::may_be_trailer},
    stream::Pressure,
};

/// What a client that speaks HTTP/2 begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that began with these bytes, or with none yet, may be one of HTTP/2.
pub fn begins(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREFACE.len());
    bytes[..known] == PREFACE[..known]
}

/// What comes on a stream.
#[derive(Debug)]
pub struct Receiver<'a> {
    body: RecvStream,
    /// Taken from the stream and not used yet.
    chunk: Bytes,
    trailers: Fields,
    /// What the content length leaves, if there is one.
    rest: Option<u64>,
    done: bool,
    /// Tells that the other side has reset the stream after all of it came.
    reply: Option<&'a RefCell<Reply>>,
}

/// The answer's side of a stream that a client opened.
#[derive(Debug)]
pub struct Reply {
    respond: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
}

/// What goes out on a stream.
#[derive(Debug)]
pub struct Sender<'a> {
    reply: &'a RefCell<Reply>,
    pressure: &'a Pressure,
    /// The last of it is sent.
    ended: bool,
}

impl<'a> Receiver<'a> {
    /// Of a body that has so many bytes, if that is known.
    pub fn new(body: RecvStream, length: Option<u64>, reply: Option<&'a RefCell<Reply>>) -> Self {
        let done = body.is_end_stream();
        Self { body, chunk: Bytes::new(), trailers: Fields::new(), rest: length, done, reply }
    }

    /// See [`Source::next`].
    pub fn next(&self) -> Piece {
        match self.chunk.len() {
            0 if self.done => Piece::End,
            0 => Piece::More,
            bytes => Piece::Data(bytes),
        }
    }

    /// See [`Source::bytes`].
    pub fn bytes(&self, length: usize) -> &[u8] {
        &self.chunk[..length]
    }

    /// See [`Source::take`]; the sender may send as much again.
    pub fn take(&mut self, length: usize) -> Bytes {
        // It fails for a stream that is gone, of which nothing more comes anyway.
        let _ = self.body.flow_control().release_capacity(length);
        let taken = self.chunk.split_to(length);
        if self.chunk.is_empty() && self.body.is_end_stream() {
            self.done = true;
        }
        taken
    }

    /// See [`Source::fill`].
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    let bytes = chunk.len();
                    self.rest = self.rest.map(|rest| rest.saturating_sub(bytes as u64));
                    self.chunk = chunk;
                    return Poll::Ready(Ok(bytes));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => break,
            }
        }
        if let Some(trailers) = ready!(self.body.poll_trailers(cx)).map_err(io::Error::other)? {
            head::read_trailers(&mut self.trailers, &trailers)?;
        }
        self.done = true;
        Poll::Ready(Ok(1))
    }

    /// See [`Source::trailers`].
    pub fn trailers(&self) -> &Fields {
        &self.trailers
    }

    /// See [`Source::is_done`].
    pub fn is_done(&self) -> bool {
        self.done && self.chunk.is_empty()
    }

    /// See [`Source::known_rest`].
    pub fn known_rest(&self) -> Option<u64> {
        if self.done { Some(self.chunk.len() as u64) } else { self.rest.map(|rest| rest + self.chunk.len() as u64) }
    }

    /// Ready when the other side has given the stream up.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.reply {
            Some(reply) => reply.borrow_mut().poll_reset(cx),
            None => Poll::Pending,
        }
    }
}

impl Reply {
    /// Of a stream that has no answer yet.
    pub fn new(respond: SendResponse<Bytes>) -> Self {
        Self { respond, body: None }
    }

    /// Ready when the other side has given the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.body {
            Some(body) => body.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    /// Gives the stream up.
    pub fn reset(&mut self, reason: Reason) {
        match &mut self.body {
            Some(body) => body.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

impl<'a> Sender<'a> {
    /// Sends into that stream.
    pub fn new(reply: &'a RefCell<Reply>, pressure: &'a Pressure) -> Self {
        Self { reply, pressure, ended: false }
    }

    /// Sends an interim answer.
    ///
    /// # Errors
    /// The stream's.
    pub fn interim(&mut self, status: u16, fields: &Fields) -> io::Result<()> {
        let response = head::response(status, fields)?;
        self.reply.borrow_mut().respond.send_informational(response).map_err(io::Error::other)
    }

    /// Sends the answer's head, with the length of its body if that is known; `end` if nothing follows.
    ///
    /// # Errors
    /// The stream's.
    pub fn head(&mut self, status: u16, fields: &Fields, length: Option<u64>, end: bool) -> io::Result<()> {
        let mut response = head::response(status, fields)?;
        if let Some(length) = length {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
        }
        let mut reply = self.reply.borrow_mut();
        let body = reply.respond.send_response(response, end).map_err(io::Error::other)?;
        reply.body = Some(body);
        self.ended = end;
        Ok(())
    }

    /// See [`crate::body::Sink::piece`].
    ///
    /// # Errors
    /// The stream's.
    pub async fn piece(
        &mut self,
        source: &mut Source<'_>,
        mut length: usize,
        mut taken: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        while length > 0 {
            let room = self.room(length).await?;
            let piece = source.take(room.min(length));
            taken(&piece);
            length -= piece.len();
            self.ended = length == 0 && source.is_done() && source.trailers().is_empty();
            self.send(piece, self.ended)?;
        }
        Ok(())
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The stream's.
    pub async fn data(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len()).await?;
            let piece = bytes.split_to(room.min(bytes.len()));
            self.send(piece, false)?;
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The stream's.
    pub fn end(&mut self, trailers: &Fields) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let mut reply = self.reply.borrow_mut();
        let Some(body) = &mut reply.body else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut map = http::HeaderMap::new();
        for (name, value) in trailers.iter().filter(|(name, _)| may_be_trailer(name)) {
            head::append(&mut map, name, value)?;
        }
        if map.is_empty() { body.send_data(Bytes::new(), true) } else { body.send_trailers(map) }
            .map_err(io::Error::other)
    }

    fn send(&self, bytes: Bytes, end: bool) -> io::Result<()> {
        match &mut self.reply.borrow_mut().body {
            Some(body) => body.send_data(bytes, end).map_err(io::Error::other),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until some of so many bytes may be sent; says how many.
    async fn room(&self, wanted: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            let polled = self.poll_room(cx, wanted);
            self.pressure.note(polled.is_pending());
            polled
        })
        .await
    }

    fn poll_room(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut reply = self.reply.borrow_mut();
        let Some(body) = &mut reply.body else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        body.reserve_capacity(wanted);
        loop {
            if body.capacity() > 0 {
                return Poll::Ready(Ok(body.capacity()));
            }
            match ready!(body.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }
}
