//! Answers that come little by little: server-sent events, and what is polled for long. Each piece reaches the client
//! before the next is written, whatever each side speaks; only silence is bounded.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::Instant;

use crate::harness::{End, Http2, Peer, Upstream, Wire, backend_for_all, header, reply, with_gateway, within};

/// How an upstream writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Chunks,
    UntilClose,
    Frames,
}

/// Every way that a piece can take: whether the client speaks HTTP/2, and how the upstream writes.
const WAYS: [(bool, Writes); 6] = [
    (false, Writes::Chunks),
    (false, Writes::UntilClose),
    (false, Writes::Frames),
    (true, Writes::Chunks),
    (true, Writes::UntilClose),
    (true, Writes::Frames),
];

enum Service {
    Http1(Upstream),
    Http2(Peer),
}

impl Service {
    async fn start(writes: Writes) -> Self {
        match writes {
            Writes::Chunks | Writes::UntilClose => Self::Http1(Upstream::start().await),
            Writes::Frames => Self::Http2(Peer::start().await),
        }
    }

    fn manifest(&self, timeouts: &str) -> String {
        let (protocol, url) = match self {
            Self::Http1(upstream) => ("http1", upstream.url()),
            Self::Http2(peer) => ("h2c", peer.url()),
        };
        backend_for_all(protocol, &url, timeouts)
    }

    async fn asked(&mut self) -> Asked {
        match self {
            Self::Http1(upstream) => {
                let mut wire = upstream.accept().await;
                wire.head().await;
                Asked::Http1(wire)
            }
            Self::Http2(peer) => Asked::Http2(Box::new(peer.next().await)),
        }
    }
}

/// A request that has no answer yet.
enum Asked {
    Http1(Wire),
    Http2(Box<crate::harness::Asked>),
}

impl Asked {
    /// Sends an answer's head, and nothing more.
    async fn begin(self, writes: Writes, content_type: &str) -> Writer {
        match self {
            Self::Http1(mut wire) => {
                let framing = if writes == Writes::Chunks { "transfer-encoding: chunked\r\n" } else { "" };
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n")).await;
                Writer::Http1(wire, writes)
            }
            Self::Http2(mut asked) => {
                let head = reply(200, &[("content-type", content_type)]);
                Writer::Http2(asked.respond.send_response(head, false).expect("sends"))
            }
        }
    }
}

/// An answer that is under way.
enum Writer {
    Http1(Wire, Writes),
    Http2(SendStream<Bytes>),
}

impl Writer {
    async fn piece(&mut self, text: &str) {
        match self {
            Self::Http1(wire, Writes::Chunks) => wire.send(format!("{:x}\r\n{text}\r\n", text.len())).await,
            Self::Http1(wire, _) => wire.send(text).await,
            Self::Http2(stream) => stream.send_data(Bytes::copy_from_slice(text.as_bytes()), false).expect("sends"),
        }
    }

    async fn finish(mut self) {
        match &mut self {
            Self::Http1(wire, Writes::Chunks) => wire.send("0\r\n\r\n").await,
            Self::Http1(wire, _) => wire.finish().await,
            Self::Http2(stream) => stream.send_data(Bytes::new(), true).expect("sends"),
        }
    }

    /// Returns when the gateway has given the answer up.
    async fn given_up(&mut self) {
        match self {
            Self::Http1(wire, _) => drop(wire.end().await),
            Self::Http2(stream) => {
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
                assert_eq!(within("a reset", reset).await.expect("a reason"), h2::Reason::CANCEL);
            }
        }
    }
}

/// A client that has asked, and has no answer yet.
enum Asking {
    Http1(Wire),
    Http2(Http2, h2::client::ResponseFuture),
}

impl Asking {
    async fn ask(addr: std::net::SocketAddr, http2: bool) -> Self {
        if http2 {
            let mut client = Http2::connect(addr).await;
            let (response, _) = client.open(client.head("GET", "/events", &[]), true).await;
            return Self::Http2(client, response);
        }
        let mut wire = Wire::connect(addr).await;
        wire.send("GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await;
        Self::Http1(wire)
    }

    /// Reads the head, which must be there before anything follows it.
    async fn begun(self, content_type: &str) -> Reader {
        match self {
            Self::Http1(mut wire) => {
                let head = wire.head().await;
                assert_eq!(head.first_line, "HTTP/1.1 200 OK");
                assert_eq!(header(&head.headers, "content-type"), Some(content_type));
                assert_eq!(header(&head.headers, "content-length"), None);
                Reader::Http1(wire)
            }
            Self::Http2(client, response) => {
                let response = within("a head", response).await.expect("an answer");
                assert_eq!(response.status(), 200);
                assert_eq!(response.headers()["content-type"], content_type);
                Reader::Http2(Box::new((client, response.into_body(), Vec::new())))
            }
        }
    }
}

/// A client that gets an answer.
enum Reader {
    Http1(Wire),
    Http2(Box<(Http2, RecvStream, Vec<u8>)>),
}

impl Reader {
    /// Reads the next piece: this one and nothing else.
    async fn piece(&mut self, text: &str) {
        match self {
            Self::Http1(wire) => {
                let expected = format!("{:x}\r\n{text}\r\n", text.len());
                let got = wire.exactly(expected.len()).await;
                assert_eq!(String::from_utf8_lossy(&got).to_ascii_lowercase(), expected.to_ascii_lowercase());
            }
            Self::Http2(reader) => {
                let (_, body, buffer) = &mut **reader;
                while buffer.len() < text.len() {
                    let piece = within("a piece", body.data()).await.expect("more").expect("more");
                    body.flow_control().release_capacity(piece.len()).expect("gives room");
                    buffer.extend_from_slice(&piece);
                }
                assert_eq!(String::from_utf8(std::mem::take(buffer)).expect("text"), text);
            }
        }
    }

    /// Whether nothing but an end in order follows.
    async fn ends_in_order(self) -> bool {
        match self {
            Self::Http1(mut wire) => {
                // The connection goes on after a whole answer.
                let end = tokio::time::timeout(Duration::from_millis(300), wire.end()).await;
                if let Ok(end) = end {
                    assert_eq!(end, End::Reset, "a cut answer is no end in order");
                }
                wire.buffer == b"0\r\n\r\n"
            }
            Self::Http2(mut reader) => loop {
                match within("an end", reader.1.data()).await {
                    None => return true,
                    Some(Ok(piece)) => assert_eq!(piece.len(), 0),
                    Some(Err(error)) => {
                        assert!(error.is_reset(), "{error}");
                        return false;
                    }
                }
            },
        }
    }
}

/// All at once: they mostly wait.
async fn in_every_way(test: impl AsyncFn(bool, Writes)) {
    futures_util::future::join_all(WAYS.map(|(http2, writes)| test(http2, writes))).await;
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_written_however_long_they_go_on() {
    const EVENTS: &str = "text/event-stream; charset=utf-8";
    in_every_way(async |http2, writes| {
        let mut service = Service::start(writes).await;
        with_gateway(&service.manifest("{total: 300ms, idle: 10s}"), async |gateway| {
            let asking = Asking::ask(gateway.proxy_addr(), http2).await;
            let mut writer = service.asked().await.begin(writes, EVENTS).await;
            let mut reader = asking.begun(EVENTS).await;
            // Longer than the total time without a byte, then many within it.
            tokio::time::sleep(Duration::from_millis(500)).await;
            for id in 0..20 {
                let event = format!("id: {id}\ndata: something\n\n");
                writer.piece(&event).await;
                reader.piece(&event).await;
            }
            writer.finish().await;
            assert!(reader.ends_in_order().await);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn silent_events_are_cut_after_the_idle_time() {
    const EVENTS: &str = "text/event-stream";
    in_every_way(async |http2, writes| {
        let mut service = Service::start(writes).await;
        with_gateway(&service.manifest("{total: 300ms, idle: 1500ms}"), async |gateway| {
            let asking = Asking::ask(gateway.proxy_addr(), http2).await;
            let mut writer = service.asked().await.begin(writes, EVENTS).await;
            let mut reader = asking.begun(EVENTS).await;
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                writer.piece("data: x\n\n").await;
                reader.piece("data: x\n\n").await;
            }
            let silent = Instant::now();
            writer.given_up().await;
            assert!(silent.elapsed() >= Duration::from_millis(1400), "{:?}", silent.elapsed());
            assert!(!reader.ends_in_order().await, "who is cut off learns of it");
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn what_is_polled_for_comes_when_it_is_there_and_piece_by_piece() {
    const JSON: &str = "application/json";
    in_every_way(async |http2, writes| {
        let mut service = Service::start(writes).await;
        with_gateway(&service.manifest("{total: 1500ms, idle: 10s}"), async |gateway| {
            let asking = Asking::ask(gateway.proxy_addr(), http2).await;
            let begun = Instant::now();
            let asked = service.asked().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut writer = asked.begin(writes, JSON).await;
            let mut reader = asking.begun(JSON).await;
            // In all it takes longer than the total time, which bounds its beginning and its silence.
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(600)).await;
                writer.piece("{\"event\": 1}\n").await;
                reader.piece("{\"event\": 1}\n").await;
            }
            assert!(begun.elapsed() > Duration::from_millis(1500));
            writer.given_up().await;
            assert!(!reader.ends_in_order().await, "it was silent for the total time");
        })
        .await;
    })
    .await;
}
