//! HTTP/2 (RFC 9113), with the same bounds and the same strictness as HTTP/1.1.
//!
//! Clients are served by a codec of our own: [`reader`] takes frames apart, [`section`] and [`hpack`] make heads of them,
//! [`connection`] and [`stream`] keep the windows, [`output`] gathers what goes. To upstreams the `h2` crate speaks; here its
//! streams become what the request path knows.

pub mod client;
pub mod connection;
pub mod frames;
mod gather;
pub mod head;
pub mod hpack;
mod huffman;
pub mod output;
pub mod reader;
#[cfg(test)]
mod rig;
pub mod section;
pub mod server;
pub mod stream;

use std::{
    cell::RefCell,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};

use crate::{
    body::Source,
    error::ProxyError,
    fields::Fields,
    http1::{body::Piece, head::ResponseHead, write::may_be_trailer},
    stream::Pressure,
};

pub use self::stream::Stream;

/// What a client that speaks HTTP/2 begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that began with these bytes, or with none yet, may be one of HTTP/2.
pub fn begins(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREFACE.len());
    bytes[..known] == PREFACE[..known]
}

/// What comes on a stream from an upstream.
#[derive(Debug)]
pub struct Receiver {
    incoming: Incoming,
    /// Taken from the stream and not used yet.
    chunk: Bytes,
    trailers: Fields,
    /// What the content length leaves, if there is one.
    rest: Option<u64>,
    done: bool,
}

/// What is awaited on a stream.
#[derive(Debug)]
enum Incoming {
    /// The answer's head.
    Head(ResponseFuture),
    /// What follows a head.
    Body(RecvStream),
}

/// What is known of the direction to the upstream.
#[derive(Debug)]
pub struct Outgoing {
    body: SendStream<Bytes>,
    /// The last of it is sent.
    ended: bool,
}

/// What goes out on a stream to an upstream.
#[derive(Debug)]
pub struct Sender<'a> {
    outgoing: &'a RefCell<Outgoing>,
    pressure: &'a Pressure,
}

/// How an answer's head came.
#[derive(Debug)]
pub enum Head {
    /// The status and more are in the response's head.
    Read,
    /// The stream, or its connection, ended; the upstream has not looked at the request if `unseen`.
    Closed {
        /// What that is to the client.
        error: ProxyError,
        /// Whether it is safe to send any request again.
        unseen: bool,
    },
    /// What it says cannot be passed on.
    Invalid,
}

impl Receiver {
    /// Of an answer, from its head on.
    pub fn answer(response: ResponseFuture) -> Self {
        let incoming = Incoming::Head(response);
        Self { incoming, chunk: Bytes::new(), trailers: Fields::new(), rest: None, done: false }
    }

    /// Reads the next head of an answer, interim or final.
    pub async fn head(&mut self, head: &mut ResponseHead, method: &str) -> Head {
        poll_fn(|cx| self.poll_head(cx, head, method)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, head: &mut ResponseHead, method: &str) -> Poll<Head> {
        let Incoming::Head(response) = &mut self.incoming else { return Poll::Ready(Head::Invalid) };
        let closed = |error: &h2::Error| {
            // RFC 9113 section 8.7: these say that the request was not processed.
            let unseen = error.reason() == Some(Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
            Poll::Ready(Head::Closed { error: error.into(), unseen })
        };
        match response.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => {
                let read = head::read_response(head, interim.status(), interim.headers(), true, method);
                return Poll::Ready(read.map_or(Head::Invalid, |_| Head::Read));
            }
            Poll::Ready(Some(Err(error))) => return closed(&error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                self.done = body.is_end_stream();
                self.incoming = Incoming::Body(body);
                match head::read_response(head, parts.status, &parts.headers, self.done, method) {
                    Ok(length) => {
                        self.rest = length;
                        Poll::Ready(Head::Read)
                    }
                    Err(_) => Poll::Ready(Head::Invalid),
                }
            }
            Err(error) => closed(&error),
        }
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
        let taken = self.chunk.split_to(length);
        if let Incoming::Body(body) = &mut self.incoming {
            // It fails for a stream that is gone, of which nothing more comes anyway.
            let _ = body.flow_control().release_capacity(length);
            self.done |= self.chunk.is_empty() && body.is_end_stream();
        }
        taken
    }

    /// See [`Source::fill`].
    pub async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Incoming::Body(body) = &mut self.incoming else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            match ready!(body.poll_data(cx)) {
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
        if let Some(trailers) = ready!(body.poll_trailers(cx)).map_err(io::Error::other)? {
            head::read_trailers(&mut self.trailers, &trailers)?;
        }
        self.done = true;
        Poll::Ready(Ok(1))
    }

    /// See [`Source::trailers`].
    pub fn trailers(&self) -> &Fields {
        &self.trailers
    }

    /// See [`Source::trailers_mut`].
    pub fn trailers_mut(&mut self) -> &mut Fields {
        &mut self.trailers
    }

    /// See [`Source::is_done`].
    pub fn is_done(&self) -> bool {
        self.done && self.chunk.is_empty()
    }

    /// See [`Source::known_rest`].
    pub fn known_rest(&self) -> Option<u64> {
        if self.done { Some(self.chunk.len() as u64) } else { self.rest.map(|rest| rest + self.chunk.len() as u64) }
    }
}

impl Outgoing {
    /// Of a request whose head is sent; `ended` if that was all of it.
    pub fn request(body: SendStream<Bytes>, ended: bool) -> Self {
        Self { body, ended }
    }

    fn send(&mut self, bytes: Bytes, end: bool) -> io::Result<()> {
        self.ended |= end;
        self.body.send_data(bytes, end).map_err(io::Error::other)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let body = &mut self.body;
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

impl<'a> Sender<'a> {
    /// Sends into that stream.
    pub fn new(outgoing: &'a RefCell<Outgoing>, pressure: &'a Pressure) -> Self {
        Self { outgoing, pressure }
    }

    /// See [`crate::body::Sink::piece`].
    ///
    /// # Errors
    /// The stream's.
    pub async fn piece(
        &self,
        source: &mut Source<'_>,
        mut length: usize,
        mut taken: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        while length > 0 {
            let room = self.room(length).await?;
            let piece = source.take(room.min(length));
            taken(&piece);
            length -= piece.len();
            self.pressure.took(piece.len());
            let end = length == 0 && source.is_done() && source.trailers().is_empty();
            self.outgoing.borrow_mut().send(piece, end)?;
        }
        Ok(())
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The stream's.
    pub async fn data(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len()).await?;
            let piece = bytes.split_to(room.min(bytes.len()));
            self.pressure.took(piece.len());
            self.outgoing.borrow_mut().send(piece, false)?;
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The stream's.
    pub fn end(&self, trailers: &Fields) -> io::Result<()> {
        let mut outgoing = self.outgoing.borrow_mut();
        if std::mem::replace(&mut outgoing.ended, true) {
            return Ok(());
        }
        let body = &mut outgoing.body;
        let mut map = http::HeaderMap::new();
        for (name, value) in trailers.iter().filter(|(name, _)| may_be_trailer(name)) {
            head::append(&mut map, name, value)?;
        }
        if map.is_empty() { body.send_data(Bytes::new(), true) } else { body.send_trailers(map) }
            .map_err(io::Error::other)
    }

    /// Whether the other side has room for a byte.
    pub fn has_room(&self) -> bool {
        let body = &mut self.outgoing.borrow_mut().body;
        // No more: what a stream has reserved and does not use, the others of its connection miss.
        body.reserve_capacity(1);
        body.capacity() > 0
    }

    /// Waits until some of so many bytes may be sent; says how many.
    async fn room(&self, wanted: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            let polled = self.outgoing.borrow_mut().poll_room(cx, wanted);
            self.pressure.note(polled.is_pending());
            polled
        })
        .await
    }
}
