//! A small HTTP/1.1 client that hides nothing: raw bytes out, every byte of the answer in.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::within;

/// The fields of a WebSocket's handshake.
pub const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// What agrees to it.
pub const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Sends bytes as they are and returns all that comes back until the other end closes.
pub async fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    // Whoever refuses a request may close before it was all sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let end = within("the end of a raw connection", async {
        let mut part = [0; 16 << 10];
        loop {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(length) => answer.extend_from_slice(&part[..length]),
            }
        }
    });
    end.await;
    answer
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names as they came.
    pub headers: Vec<(String, String)>,
    /// Without its chunks.
    pub body: Vec<u8>,
    /// The statuses of the 1xx answers before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection, with TLS or without.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// One keep-alive connection.
pub struct Client {
    stream: Box<dyn Connection>,
    host: String,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects; requests name `addr` as their host.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(addr)).await.expect("connects");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream: Box::new(stream), host: addr.to_string(), buffer: Vec::new() }
    }

    /// A client on a connection that is open.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), host: "localhost".to_owned(), buffer: Vec::new() }
    }

    /// Requests name this host from now on.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"").await
    }

    /// GET with headers.
    pub async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", path, headers, b"").await
    }

    /// POST.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Response {
        self.request("POST", path, &[("content-length", &body.len().to_string())], body).await
    }

    /// Any request; the host is added, nothing else.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.host).into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.send(&bytes).await;
        self.response(method == "HEAD").await
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.expect("sends");
    }

    /// Reads one answer. A panic if the other end closes before its end.
    pub async fn response(&mut self, to_head: bool) -> Response {
        within("an answer", self.try_response(to_head)).await.expect("a whole answer")
    }

    /// Reads one answer, or `None` if the other end closes before its end.
    pub async fn try_response(&mut self, to_head: bool) -> Option<Response> {
        let mut interim = Vec::new();
        loop {
            let head = loop {
                match Head::parse(&self.buffer) {
                    Some(head) => break head,
                    None => self.more().await?,
                }
            };
            self.buffer.drain(..head.bytes);
            let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let empty = to_head || status == 101 || status == 204 || status == 304;
            let body = if empty { Vec::new() } else { self.body(&head.headers).await? };
            return Some(Response { status, headers: head.headers, body, interim });
        }
    }

    /// Whether the other end closes without another byte.
    pub async fn closes(&mut self) -> bool {
        self.buffer.is_empty() && within("a close", self.more()).await.is_none()
    }

    async fn body(&mut self, headers: &[(String, String)]) -> Option<Vec<u8>> {
        loop {
            if header(headers, "transfer-encoding").is_some() {
                if let Some((body, bytes)) = dechunk(&self.buffer) {
                    self.buffer.drain(..bytes);
                    return Some(body);
                }
            } else if let Some(length) = header(headers, "content-length") {
                let length: usize = length.parse().expect("a length");
                if self.buffer.len() >= length {
                    return Some(self.buffer.drain(..length).collect());
                }
            } else {
                while self.more().await.is_some() {}
                return Some(std::mem::take(&mut self.buffer));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let mut part = [0; 16 << 10];
        match self.stream.read(&mut part).await {
            Ok(0) | Err(_) => None,
            Ok(length) => {
                self.buffer.extend_from_slice(&part[..length]);
                Some(())
            }
        }
    }
}

/// The head of a request or an answer.
#[derive(Debug)]
pub struct Head {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
    /// How long it was, the empty line included.
    pub bytes: usize,
}

impl Head {
    /// `None` if it is not all there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let split = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        };
        Some(Self { first_line, headers: lines.map(split).collect(), bytes: end + 4 })
    }
}

/// The first value of a header.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A chunked body at the front of some bytes and how long it was, or `None` if it is not all there.
pub fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    let line_end = |from: usize| Some(from + bytes.get(from..)?.windows(2).position(|window| window == b"\r\n")?);
    loop {
        let end = line_end(at)?;
        let size = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{size:?} is no chunk size"));
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
    }
    // Trailers, up to an empty line.
    loop {
        let end = line_end(at)?;
        let empty = end == at;
        at = end + 2;
        if empty {
            return Some((body, at));
        }
    }
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    assert_eq!(
        dechunk(b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\nGET"),
        Some((b"abc0123456789".to_vec(), 38))
    );
    assert_eq!(dechunk(b"3\r\nabc\r\n0\r\n"), None);
    assert_eq!(dechunk(b"3\r\nab"), None);
}
