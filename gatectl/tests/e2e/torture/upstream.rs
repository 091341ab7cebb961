//! An upstream that tells what it was asked for: an answer of it is exact to the byte, given the request and the
//! number of the configuration that it came by.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::harness::{Head, dechunk, header};

/// How long the pieces of a stream are.
pub const PIECE_BYTES: usize = 4 << 10;

/// Between the pieces of a stream.
pub const PIECE_PAUSE: Duration = Duration::from_millis(20);

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    pub addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// One that speaks HTTP/1.1.
    pub async fn start() -> Self {
        Self::serving(serve).await
    }

    /// One whose connections are served so.
    pub async fn serving<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(async move {
            // Aborted with the set.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, accepting }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What tells bodies apart.
#[derive(Clone, Copy, Debug)]
pub struct Digest {
    bytes: u64,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { bytes: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Digest {
    pub fn add(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        for byte in part {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What is said of a request that was `seen` so, with this body.
    pub fn told(self, method: &str, seen: &str) -> String {
        format!("{method} {seen}, {} bytes, {:x}", self.bytes, self.hash)
    }
}

/// What an upstream says that it has seen.
pub fn told(method: &str, path: &str, number: u64, body: Digest) -> String {
    body.told(method, &format!("/by-{number}{path} asked by {number}"))
}

/// A piece of a stream, different from every other.
pub fn piece(seed: u64, index: u64) -> Vec<u8> {
    let line = format!("{seed}/{index};");
    line.bytes().cycle().take(PIECE_BYTES).collect()
}

/// With TLS or without.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Serves a connection that speaks HTTP/1.1.
pub async fn serve(mut stream: impl Connection) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            match Head::parse(&buffer) {
                Some(head) => break head,
                None if more(&mut stream, &mut buffer).await == 0 => return,
                None => {}
            }
        };
        buffer.drain(..head.bytes);
        let mut words = head.first_line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let asked_by = header(&head.headers, "x-asked-by").unwrap_or("nobody");
        // "/by-N/download/200": what the path has beyond the number says what to do.
        let action: Vec<&str> = target.split('/').skip(2).collect();
        if header(&head.headers, "upgrade").is_some() {
            let proof = proof(header(&head.headers, "sec-websocket-key").unwrap_or_default());
            return give_back(stream, buffer, &format!("{target} asked by {asked_by}"), &proof).await;
        }
        let Some(body) = read_body(&mut stream, &mut buffer, &head).await else { return };
        let sent = match action[..] {
            ["download", pieces] => download(&mut stream, pieces.parse().expect("a number")).await,
            _ => {
                let text = body.told(method, &format!("{target} asked by {asked_by}"));
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn download(stream: &mut impl Connection, pieces: u64) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for index in 0..pieces {
        let chunk = [format!("{PIECE_BYTES:x}\r\n").as_bytes(), &piece(pieces, index), b"\r\n"].concat();
        stream.write_all(&chunk).await?;
        sleep(PIECE_PAUSE).await;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// What shows that a WebSocket's key was read (RFC 6455 section 4.2.2).
fn proof(key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    STANDARD.encode(hash)
}

async fn give_back(mut stream: impl Connection, mut buffer: Vec<u8>, seen: &str, proof: &str) {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {proof}\r\nX-Seen: {seen}\r\n\r\n"
    );
    if stream.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    loop {
        if stream.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
        if more(&mut stream, &mut buffer).await == 0 {
            // With TLS whoever only closes the connection has cut it.
            return drop(stream.shutdown().await);
        }
    }
}

async fn read_body(stream: &mut impl Connection, buffer: &mut Vec<u8>, head: &Head) -> Option<Digest> {
    let mut digest = Digest::default();
    if header(&head.headers, "transfer-encoding").is_some() {
        let (body, bytes) = loop {
            match dechunk(buffer) {
                Some(whole) => break whole,
                None if more(stream, buffer).await == 0 => return None,
                None => {}
            }
        };
        digest.add(&body);
        buffer.drain(..bytes);
        return Some(digest);
    }
    let mut rest: usize = header(&head.headers, "content-length").map_or(0, |length| length.parse().expect("a length"));
    while rest > 0 {
        if buffer.is_empty() && more(stream, buffer).await == 0 {
            return None;
        }
        let part = rest.min(buffer.len());
        digest.add(&buffer[..part]);
        buffer.drain(..part);
        rest -= part;
    }
    Some(digest)
}

async fn more(stream: &mut impl Connection, buffer: &mut Vec<u8>) -> usize {
    let mut part = [0; 16 << 10];
    let length = stream.read(&mut part).await.unwrap_or_default();
    buffer.extend_from_slice(&part[..length]);
    length
}
