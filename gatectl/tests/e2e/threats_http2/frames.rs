//! Frames (RFC 9113 section 4) and header blocks (RFC 7541), as an attacker writes them, and a connection of one.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::harness::within;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// The setting of a stream's window.
const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No write of a test waits longer for the other side to read.
const STUCK: Duration = Duration::from_secs(2);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// The status of a HEADERS frame of an answer.
    pub fn status(&self) -> u16 {
        // Indexes 8 to 14 of the static table, or a literal with the name of one of them.
        match self.payload[0] {
            first @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
            _ => {
                let value = &self.payload[2..];
                let huffman = self.payload[1] & 0x80 != 0;
                let value = &value[..usize::from(self.payload[1] & 0x7f)];
                let text = if huffman { digits(value) } else { String::from_utf8_lossy(value).into_owned() };
                text.parse().expect("a status")
            }
        }
    }
}

/// Digits in Huffman's code (RFC 7541 appendix B), which is all that a status has.
fn digits(bytes: &[u8]) -> String {
    let mut text = String::new();
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut at = 0;
    let number = |at: usize, length: usize| {
        bits.get(at..at + length).map(|bits| bits.iter().fold(0, |number, bit| number << 1 | bit))
    };
    while let Some(five) = number(at, 5) {
        if five <= 2 {
            text.push(char::from(b'0' + five));
            at += 5;
            continue;
        }
        match number(at, 6) {
            Some(six @ 0x19..=0x1f) => text.push(char::from(b'3' + six - 0x19)),
            _ => break,
        }
        at += 6;
    }
    text
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole header section in one frame.
pub fn headers(stream: u32, end: bool, block: impl AsRef<[u8]>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, block)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

/// SETTINGS with a window of that size for each stream.
pub fn window(bytes: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &bytes.to_be_bytes()].concat())
}

fn integer(out: &mut Vec<u8>, first: u8, prefix: u8, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(first | u8::try_from(value).expect("small"));
        return;
    }
    out.push(first | u8::try_from(most).expect("small"));
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).expect("small") | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).expect("small"));
}

fn field(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    integer(&mut out, 0, 7, name.len());
    out.extend_from_slice(name);
    integer(&mut out, 0, 7, value.len());
    out.extend_from_slice(value);
    out
}

/// A field that no table learns, byte for byte as it stands here.
pub fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    field(0, name.as_ref(), value.as_ref())
}

/// A field that the dynamic table learns.
pub fn learnt(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    field(0x40, name.as_ref(), value.as_ref())
}

/// The field that the dynamic table learnt last, so many times.
pub fn last_learnt(times: usize) -> Vec<u8> {
    vec![0x80 | 62; times]
}

/// The pseudo-fields of a request.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)]
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

/// A connection to the gateway.
pub struct Attacker {
    write: Box<dyn AsyncWrite + Send + Unpin>,
    frames: mpsc::UnboundedReceiver<Frame>,
    reader: Option<JoinHandle<()>>,
    goaway: u32,
    /// Requests that were answered, as far as that was read and not looked at one by one.
    pub answers: usize,
    /// The same of those that were refused without a look.
    pub refused: usize,
    /// For the next request.
    pub stream: u32,
}

impl Attacker {
    /// Connects and reads whatever comes.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::over(tcp(addr).await, &frame(SETTINGS, 0, 0, [])).await
    }

    /// The same with a window of that size for each answer.
    pub async fn with_window(addr: SocketAddr, bytes: u32) -> Self {
        Self::over(tcp(addr).await, &window(bytes)).await
    }

    /// HTTP/2 on a connection, with these settings.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static, settings: &[u8]) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (sender, frames) = mpsc::unbounded_channel();
        let reader = Some(tokio::spawn(read_frames(read, sender)));
        let mut attacker =
            Self { write: Box::new(write), frames, reader, goaway: 0, answers: 0, refused: 0, stream: 1 };
        assert!(attacker.send([PREFACE, settings].concat()).await);
        attacker
    }

    /// Connects and never reads a byte.
    pub async fn deaf(addr: SocketAddr, settings: &[u8]) -> Self {
        let mut attacker = Self::over(tcp(addr).await, settings).await;
        attacker.reader.take().expect("it reads").abort();
        attacker
    }

    /// Sends bytes; false if the other side has ended the connection, or takes nothing any more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        matches!(timeout(STUCK, self.write.write_all(bytes.as_ref())).await, Ok(Ok(())))
    }

    /// The number of a new stream.
    pub fn open(&mut self) -> u32 {
        self.stream += 2;
        self.stream - 2
    }

    /// Sends the same thing with stream after stream, so many times or until the other side has had enough.
    pub async fn flood(&mut self, times: usize, mut bytes: impl FnMut(u32) -> Vec<u8>) {
        const TOGETHER: usize = 50;
        for done in (0..times).step_by(TOGETHER) {
            let mut batch = Vec::new();
            for _ in done..times.min(done + TOGETHER) {
                batch.extend(bytes(self.open()));
            }
            if self.is_told() || !self.send(batch).await {
                return;
            }
        }
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a frame", self.frames.recv()).await
    }

    /// What the gateway said when it ended the connection; 0 if nothing.
    pub async fn ended(&mut self) -> u32 {
        while let Some(frame) = self.next().await {
            self.note(&frame);
        }
        self.goaway
    }

    /// Whether the gateway has said that it ends the connection, as far as it was read.
    pub fn is_told(&mut self) -> bool {
        while let Ok(frame) = self.frames.try_recv() {
            self.note(&frame);
        }
        self.goaway != 0
    }

    fn note(&mut self, frame: &Frame) {
        match frame.kind {
            GOAWAY => self.goaway = frame.code(),
            RST_STREAM if frame.code() == REFUSED_STREAM => self.refused += 1,
            HEADERS => self.answers += 1,
            _ => {}
        }
    }

    /// Sends the same bytes until the gateway has had enough; says what it said.
    pub async fn pour(&mut self, times: usize, bytes: &[u8]) -> u32 {
        const TOGETHER: usize = 500;
        let batch = bytes.repeat(TOGETHER);
        for _ in 0..times / TOGETHER {
            if self.is_told() || !self.send(&batch).await {
                break;
            }
        }
        self.ended().await
    }

    /// Returns when the gateway has read what was sent so far.
    pub async fn seen(&mut self) {
        assert!(self.send(frame(PING, 0, 0, [1; 8])).await);
        while let Some(frame) = self.next().await {
            let is_answer = frame.kind == PING;
            self.note(&frame);
            if is_answer {
                return;
            }
        }
    }

    /// Returns when so many requests have been answered, or reset.
    pub async fn done(&mut self, requests: usize) {
        while self.answers + self.refused < requests {
            let frame = self.next().await.expect("the connection stays");
            self.note(&frame);
        }
    }

    /// How a request ends, or what becomes of the connection instead.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY if frame.code() != 0 => return Fate::Closed(frame.code()),
                RST_STREAM if frame.stream == stream => return Fate::Reset(frame.code()),
                HEADERS if frame.stream == stream => return Fate::Answered(frame.status()),
                _ => {}
            }
        }
        Fate::Closed(0)
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> Fate {
        let stream = self.open();
        self.send(headers(stream, true, request("GET", path))).await;
        self.fate(stream).await
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.reader.iter().for_each(JoinHandle::abort);
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered(u16),
    Reset(u32),
    /// The connection ends.
    Closed(u32),
}

async fn tcp(addr: SocketAddr) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(addr)).await.expect("connects");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

async fn read_frames(mut read: impl AsyncRead + Unpin, sender: mpsc::UnboundedSender<Frame>) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        if read.read_exact(&mut payload).await.is_err() {
            return;
        }
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if sender.send(Frame { kind: head[3], flags: head[4], stream, payload }).is_err() {
            return;
        }
    }
}

#[test]
fn statuses_are_read_as_they_are_written() {
    let frame = |payload: Vec<u8>| Frame { kind: HEADERS, flags: 0, stream: 1, payload };
    assert_eq!(frame(vec![0x88]).status(), 200);
    assert_eq!(frame([&[0x48, 3][..], b"431"].concat()).status(), 431);
    // As RFC 7541 section C.6.1 has it.
    assert_eq!(frame(vec![0x48, 0x82, 0x64, 0x02]).status(), 302);
}
