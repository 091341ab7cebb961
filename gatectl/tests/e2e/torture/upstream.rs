//! An upstream that tells what it was asked for: an answer of it is exact to the byte, given the request and the
//! number of the configuration that it came by.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
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
    pub async fn start() -> Self {
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
}

/// What an upstream says that it has seen.
pub fn told(method: &str, path: &str, number: u64, body: Digest) -> String {
    format!("{method} /by-{number}{path} asked by {number}, {} bytes, {:x}", body.bytes, body.hash)
}

/// A piece of a stream, different from every other.
pub fn piece(seed: u64, index: u64) -> Vec<u8> {
    let line = format!("{seed}/{index};");
    line.bytes().cycle().take(PIECE_BYTES).collect()
}

async fn serve(mut stream: TcpStream) {
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
            return give_back(stream, buffer, format!("{target} asked by {asked_by}")).await;
        }
        let Some(body) = read_body(&mut stream, &mut buffer, &head).await else { return };
        let sent = match action[..] {
            ["download", pieces] => download(&mut stream, pieces.parse().expect("a number")).await,
            _ => {
                let text = format!("{method} {target} asked by {asked_by}, {} bytes, {:x}", body.bytes, body.hash);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn download(stream: &mut TcpStream, pieces: u64) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for index in 0..pieces {
        let chunk = [format!("{PIECE_BYTES:x}\r\n").as_bytes(), &piece(pieces, index), b"\r\n"].concat();
        stream.write_all(&chunk).await?;
        sleep(PIECE_PAUSE).await;
    }
    stream.write_all(b"0\r\n\r\n").await
}

async fn give_back(mut stream: TcpStream, mut buffer: Vec<u8>, seen: String) {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Seen: {seen}\r\n\r\n"
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
            return;
        }
    }
}

async fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, head: &Head) -> Option<Digest> {
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

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> usize {
    let mut part = [0; 16 << 10];
    let length = stream.read(&mut part).await.unwrap_or_default();
    buffer.extend_from_slice(&part[..length]);
    length
}
