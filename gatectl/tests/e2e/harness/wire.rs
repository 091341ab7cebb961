//! One end of a connection, byte by byte, for tests about when something is sent and when a side closes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::{Head, within};

/// Small socket buffers, so that what is under way on a stalled connection is little and known.
const SMALL_BUFFER: u32 = 64 << 10;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side said that nothing more comes.
    Closed,
    /// The other side reset it.
    Reset,
}

/// An open connection.
pub struct Wire {
    stream: TcpStream,
    /// What came and was not taken yet.
    pub buffer: Vec<u8>,
}

impl Wire {
    pub async fn connect(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(SMALL_BUFFER).expect("a socket option");
        socket.set_send_buffer_size(SMALL_BUFFER).expect("a socket option");
        Self::over(within("a connection", socket.connect(addr)).await.expect("connects"))
    }

    /// On a connection that is open.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.stream.write_all(bytes.as_ref())).await.expect("sends");
    }

    /// The same; false if the other side has ended the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("sending", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Sends as much as the other side takes at once, at most `most`, and says how much that was: it takes no more for
    /// `quiet`.
    pub async fn send_until_stuck(&mut self, most: usize, quiet: std::time::Duration) -> usize {
        let block = vec![b'x'; 16 << 10];
        let mut sent = 0;
        while sent < most {
            match tokio::time::timeout(quiet, self.stream.write(&block)).await {
                Ok(Ok(bytes)) if bytes > 0 => sent += bytes,
                _ => break,
            }
        }
        sent
    }

    /// Reads until these bytes have come, and takes everything up to their end.
    pub async fn until(&mut self, text: &str) -> String {
        let mark = text.as_bytes();
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                let taken: Vec<u8> = self.buffer.drain(..at + mark.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            if let Err(end) = self.more().await {
                panic!("{end:?} before {text:?}, after {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    /// Reads and takes a head.
    pub async fn head(&mut self) -> Head {
        let text = self.until("\r\n\r\n").await;
        Head::parse(text.as_bytes()).expect("a head")
    }

    /// Reads and takes so many bytes.
    pub async fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() < bytes {
            if let Err(end) = self.more().await {
                panic!("{end:?} after {} of {bytes} bytes", self.buffer.len());
            }
        }
        self.buffer.drain(..bytes).collect()
    }

    /// Sends these bytes while it reads so many others.
    pub async fn exchange(&mut self, sent: &[u8], bytes: usize) -> Vec<u8> {
        assert!(self.buffer.is_empty(), "nothing came before");
        let mut got = vec![0; bytes];
        let (mut reader, mut writer) = self.stream.split();
        let both = async { tokio::join!(writer.write_all(sent), reader.read_exact(&mut got)) };
        let (written, read) = within("both directions", both).await;
        written.expect("sends");
        read.expect("reads");
        got
    }

    /// Reads so many bytes and throws them away.
    pub async fn skip(&mut self, bytes: usize) {
        let mut rest = bytes - self.buffer.len().min(bytes);
        self.buffer.clear();
        while rest > 0 {
            self.more().await.expect("bytes");
            rest = rest.saturating_sub(self.buffer.len());
            self.buffer.clear();
        }
    }

    /// Reads to the end; what came stays in the buffer.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.more().await {
                return end;
            }
        }
    }

    /// Whether nothing came, and nothing comes for a while.
    pub async fn is_quiet(&mut self) -> bool {
        self.buffer.is_empty()
            && tokio::time::timeout(std::time::Duration::from_millis(100), self.more()).await.is_err()
    }

    /// Says that nothing more comes from here.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("shuts down");
    }

    /// Ends the connection in the hard way.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a socket option");
    }

    async fn more(&mut self) -> Result<(), End> {
        // Not in the future, which is copied into those that wait for it.
        let mut part = vec![0; 16 << 10];
        match within("a byte or an end", self.stream.read(&mut part)).await {
            Ok(0) => Err(End::Closed),
            Ok(length) => {
                self.buffer.extend_from_slice(&part[..length]);
                Ok(())
            }
            Err(_) => Err(End::Reset),
        }
    }
}

/// An upstream whose every byte the test says itself.
pub struct Upstream {
    listener: TcpListener,
}

impl Upstream {
    pub async fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(SMALL_BUFFER).expect("a socket option");
        socket.set_send_buffer_size(SMALL_BUFFER).expect("a socket option");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
        Self { listener: socket.listen(64).expect("listens") }
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("an address"))
    }

    /// The next connection.
    pub async fn accept(&self) -> Wire {
        Wire::over(within("a connection from the gateway", self.listener.accept()).await.expect("accepts").0)
    }
}
