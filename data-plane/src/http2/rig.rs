//! For tests: a connection without a socket, and frames written by hand.

use std::rc::Rc;

use bytes::BytesMut;

use super::{
    PREFACE,
    connection::Connection,
    frames::{END_HEADERS, END_STREAM, HEAD_BYTES, Head, kind},
    output::Rooms,
    reader::{Event, Fault, Reader},
    section::Bounds,
    stream::{Answer, Stream},
};
use crate::{
    fields::Fields,
    http1::head::{FIELDS_MAX, HEAD_BYTES_MAX, HeadError, RequestHead},
    stream::Pressure,
};

pub const PADDED: u8 = 8;
pub const PRIORITY_FIELDS: u8 = 0x20;

/// What a client has on its side of a connection, and the gateway on its own.
pub struct Rig {
    pub connection: Rc<Connection>,
    pub reader: Reader,
    pub head: RequestHead,
    input: BytesMut,
    /// Those that began, in order.
    pub requests: Vec<(Rc<Stream>, Result<(), HeadError>)>,
}

impl Rig {
    /// Before the first byte of the client's.
    pub fn new() -> Self {
        let connection = Rc::new(Connection::new(None, Rc::new(Rooms::default()), 16 << 10));
        let bounds = Bounds { bytes: HEAD_BYTES_MAX, fields: FIELDS_MAX };
        let reader = Reader::new(Rc::clone(&connection), bounds);
        Self { connection, reader, head: RequestHead::default(), input: BytesMut::new(), requests: Vec::new() }
    }

    /// Both sides have said what they must say first.
    pub fn greeted() -> Self {
        let mut rig = Self::new();
        rig.send(&[&PREFACE[..], &frame(kind::SETTINGS, 0, 0, [])].concat()).expect("a greeting");
        rig.told();
        rig
    }

    /// The client sends this.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.input.extend_from_slice(bytes);
        loop {
            match self.reader.next(&mut self.input, &mut self.head)? {
                Event::Request(stream, read) => self.requests.push((stream, read)),
                Event::TurnOver => {}
                Event::More => return Ok(()),
            }
        }
    }

    /// What the client is told.
    pub fn told(&mut self) -> Vec<(Head, Vec<u8>)> {
        let bytes = self.connection.output().borrow_mut().take();
        self.connection.let_in();
        let (mut rest, mut told) = (bytes.as_slice(), Vec::new());
        while let Some(head) = Head::parse(rest) {
            let (payload, after) = rest[HEAD_BYTES..].split_at(head.length);
            told.push((head, payload.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty(), "half a frame");
        told
    }

    /// A request that has begun.
    pub fn stream(&self, id: u32) -> Rc<Stream> {
        let (stream, _) = self.requests.iter().find(|(stream, _)| stream.id() == id).expect("it began");
        Rc::clone(stream)
    }

    /// Answers a request with nothing but a head.
    pub fn answer(&self, id: u32) {
        let (stream, pressure) = (self.stream(id), Pressure::default());
        Answer::new(&stream, &pressure).head(200, &Fields::new(), None, true).expect("answers");
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [&Head { length: payload.len(), kind, flags, stream }.bytes(), payload].concat()
}

/// A piece of a body.
pub fn data(stream: u32, end: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::DATA, if end { END_STREAM } else { 0 }, stream, payload)
}

/// A whole header section.
pub fn headers(stream: u32, end: bool, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block)
}

/// A field of fewer than 127 bytes each, as it is.
pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (name, value) = (name.as_ref(), value.as_ref());
    let length = |text: &[u8]| [u8::try_from(text.len()).expect("short")];
    [&[0], &length(name), name, &length(value), value].concat()
}

/// The pseudo-fields of a request.
pub fn request(method: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// So many bytes more may come.
pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}
