//! A server that can be made to fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::harness::{free_port, reply};

/// Longer than an answer ever takes, and not so long that it is no answer.
const SLOW: Duration = Duration::from_millis(700);

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Serving,
    /// Accepts, reads, and says nothing until it does something else.
    Hung,
    Slow,
    Unavailable,
}

/// The protocol of a node.
#[derive(Clone, Copy, Debug)]
pub enum Speaks {
    Http1,
    /// In the clear.
    Http2,
}

/// See the module documentation.
pub struct Node {
    pub addr: SocketAddr,
    speaks: Speaks,
    state: State,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct State {
    mode: watch::Sender<Mode>,
    requests: Arc<AtomicUsize>,
}

impl Node {
    pub async fn start(speaks: Speaks) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let state = State { mode: watch::Sender::new(Mode::Serving), requests: Arc::default() };
        let mut node = Self { addr, speaks, state, accepting: None };
        node.revive().await;
        node
    }

    /// Behaves so from now on.
    pub fn is_now(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// How many it got.
    pub fn requests(&self) -> usize {
        self.state.requests.load(SeqCst)
    }

    /// Its connections are cut, and it accepts no more.
    pub async fn kill(&mut self) {
        let accepting = self.accepting.take().expect("it lives");
        accepting.abort();
        let _ = accepting.await;
    }

    pub async fn revive(&mut self) {
        let listener = TcpListener::bind(self.addr).await.expect("its port is free");
        let (state, speaks) = (self.state.clone(), self.speaks);
        self.accepting = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let state = state.clone();
                match speaks {
                    Speaks::Http1 => connections.spawn(state.serve_http1(stream)),
                    Speaks::Http2 => connections.spawn(state.serve_http2(stream)),
                };
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

impl State {
    /// Counts a request and takes the time that it takes. The status of the answer.
    async fn answer(&self) -> u16 {
        self.requests.fetch_add(1, SeqCst);
        // As if it had been stopped and goes on.
        let mode = *self.mode.subscribe().wait_for(|mode| *mode != Mode::Hung).await.expect("the node is there");
        if mode == Mode::Slow {
            sleep(SLOW).await;
        }
        if mode == Mode::Unavailable { 503 } else { 200 }
    }

    async fn serve_http1(self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            head.clear();
            let answer: &[u8] = match self.answer().await {
                200 => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                _ => b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            };
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }

    async fn serve_http2(self, stream: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        // Aborted with the set.
        let mut streams = JoinSet::new();
        while let Some(Ok((_, respond))) = connection.accept().await {
            streams.spawn(self.clone().respond(respond));
            while streams.try_join_next().is_some() {}
        }
    }

    async fn respond(self, mut respond: SendResponse<Bytes>) {
        let status = self.answer().await;
        // Whoever asked may have gone to another.
        if let Ok(mut body) = respond.send_response(reply(status, &[]), status != 200)
            && status == 200
        {
            let _ = body.send_data(Bytes::from_static(b"ok"), true);
        }
    }
}
