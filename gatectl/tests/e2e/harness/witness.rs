//! An upstream that remembers every byte it was sent and answers by a script.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::http::{Head, dechunk, header};

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came by, from 0.
    pub connection: usize,
    /// Head and body, byte for byte.
    pub bytes: Vec<u8>,
}

impl Seen {
    /// "GET /path HTTP/1.1".
    pub fn line(&self) -> String {
        self.head().first_line
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head().headers, name).map(str::to_owned)
    }

    /// Every header, names as they came.
    pub fn headers(&self) -> Vec<(String, String)> {
        self.head().headers
    }

    /// The body, without its chunks.
    pub fn body(&self) -> Vec<u8> {
        let head = self.head();
        let body = &self.bytes[head.bytes..];
        match header(&head.headers, "transfer-encoding") {
            Some(_) => dechunk(body).expect("a whole body").0,
            None => body.to_vec(),
        }
    }

    fn head(&self) -> Head {
        Head::parse(&self.bytes).expect("a whole head")
    }
}

/// What a witness does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Sends this and waits for the next request.
    Send(Vec<u8>),
    /// Sends this after so long.
    SendAfter(Duration, Vec<u8>),
    /// Sends this and closes.
    SendAndClose(Vec<u8>),
    /// Sends this, then every byte that comes back where it came from.
    Upgrade(Vec<u8>),
    /// Closes without a byte.
    Close,
    /// Never answers.
    Hold,
}

/// A 200 with this body.
pub fn answer(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A running upstream; it ends with this.
pub struct Witness {
    addr: SocketAddr,
    log: Arc<Mutex<Log>>,
    accept: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    requests: Vec<Seen>,
    connections: Vec<Vec<u8>>,
}

impl Witness {
    /// Answers each request by the script.
    pub async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// The same at this address.
    pub async fn start_at(addr: SocketAddr, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(addr).await.expect("binds");
        let addr = listener.local_addr().expect("an address");
        let log = Arc::new(Mutex::new(Log::default()));
        let accept = tokio::spawn(accept(listener, log.clone(), Arc::new(script)));
        Self { addr, log, accept }
    }

    /// Answers every request with this text.
    pub async fn saying(text: &str) -> Self {
        let bytes = answer(text);
        Self::start(move |_| Reply::Send(bytes.clone())).await
    }

    /// The same at this address.
    pub async fn saying_at(addr: SocketAddr, text: &str) -> Self {
        let bytes = answer(text);
        Self::start_at(addr, move |_| Reply::Send(bytes.clone())).await
    }

    /// Answers every request with the request.
    pub async fn echo() -> Self {
        Self::start(|seen| Reply::Send(answer(&seen.bytes))).await
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request that was whole, in the order in which they were.
    pub fn requests(&self) -> Vec<Seen> {
        locked(&self.log).requests.clone()
    }

    /// Every byte of every connection, in the order in which they were opened.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        locked(&self.log).connections.clone()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    // A script that panicked fails its own test; the log is still true.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, log: Arc<Mutex<Log>>, script: Script) {
    // Aborted with the set when the witness goes.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let connection = {
            let mut log = locked(&log);
            log.connections.push(Vec::new());
            log.connections.len() - 1
        };
        connections.spawn(serve(stream, connection, log.clone(), script.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, connection: usize, log: Arc<Mutex<Log>>, script: Script) {
    let mut buffer = Vec::new();
    loop {
        while let Some(length) = request_length(&buffer) {
            let seen = Seen { connection, bytes: buffer.drain(..length).collect() };
            locked(&log).requests.push(seen.clone());
            let (bytes, go_on) = match script(&seen) {
                Reply::Send(bytes) => (bytes, true),
                Reply::SendAfter(span, bytes) => {
                    tokio::time::sleep(span).await;
                    (bytes, true)
                }
                Reply::SendAndClose(bytes) => (bytes, false),
                Reply::Upgrade(bytes) => {
                    if stream.write_all(&bytes).await.is_ok() && stream.write_all(&buffer).await.is_ok() {
                        give_back(&mut stream, connection, &log).await;
                    }
                    return;
                }
                Reply::Close => return,
                Reply::Hold => std::future::pending().await,
            };
            if stream.write_all(&bytes).await.is_err() || !go_on {
                return;
            }
        }
        if read(&mut stream, connection, &log, &mut buffer).await == 0 {
            return;
        }
    }
}

async fn give_back(stream: &mut TcpStream, connection: usize, log: &Mutex<Log>) {
    let mut bytes = Vec::new();
    while read(stream, connection, log, &mut bytes).await > 0 {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
    }
}

async fn read(stream: &mut TcpStream, connection: usize, log: &Mutex<Log>, buffer: &mut Vec<u8>) -> usize {
    let mut part = [0; 16 << 10];
    let length = stream.read(&mut part).await.unwrap_or_default();
    buffer.extend_from_slice(&part[..length]);
    locked(log).connections[connection].extend_from_slice(&part[..length]);
    length
}

/// Of the first request in the buffer, head and body, or `None` if it is not all there.
fn request_length(buffer: &[u8]) -> Option<usize> {
    let head = Head::parse(buffer)?;
    let body = if header(&head.headers, "transfer-encoding").is_some() {
        dechunk(&buffer[head.bytes..])?.1
    } else {
        header(&head.headers, "content-length").map_or(0, |length| length.parse().expect("a length"))
    };
    (buffer.len() >= head.bytes + body).then_some(head.bytes + body)
}
