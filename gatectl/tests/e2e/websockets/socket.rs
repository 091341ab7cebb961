//! Both ends of a WebSocket, with the same hands whatever carries it.

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server};

use crate::harness::{
    AGREES, Asked, End, Gateway, HANDSHAKE, Http2, Peer, Upstream, Wire, backend_for_all, header, pour, reply, within,
};

/// What one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
}

/// Every pair of client and upstream.
pub const WAYS: [(Speaks, Speaks); 4] = [
    (Speaks::Http1, Speaks::Http1),
    (Speaks::Http2, Speaks::Http1),
    (Speaks::Http1, Speaks::Http2),
    (Speaks::Http2, Speaks::Http2),
];

/// One end of an open WebSocket.
pub enum Socket {
    Http1(Wire),
    Http2(Box<Frames>),
}

/// An end that is a stream of HTTP/2.
pub struct Frames {
    up: SendStream<Bytes>,
    down: RecvStream,
    buffer: Vec<u8>,
    /// Of a client: its connection.
    client: Option<Http2>,
}

impl Socket {
    pub fn frames(up: SendStream<Bytes>, down: RecvStream, client: Option<Http2>) -> Self {
        Self::Http2(Box::new(Frames { up, down, buffer: Vec::new(), client }))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self {
            Self::Http1(wire) => wire.send(bytes).await,
            Self::Http2(frames) => {
                let bytes = Bytes::copy_from_slice(bytes.as_ref());
                within("sending", pour(&mut frames.up, bytes, false)).await.expect("sends");
            }
        }
    }

    pub async fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        match self {
            Self::Http1(wire) => wire.exactly(bytes).await,
            Self::Http2(frames) => {
                while frames.buffer.len() < bytes {
                    assert_eq!(frames.more().await, Ok(()), "after {} of {bytes} bytes", frames.buffer.len());
                }
                frames.buffer.drain(..bytes).collect()
            }
        }
    }

    /// Sends these bytes while it reads so many others.
    pub async fn exchange(&mut self, sent: &[u8], bytes: usize) -> Vec<u8> {
        match self {
            Self::Http1(wire) => wire.exchange(sent, bytes).await,
            Self::Http2(frames) => {
                let Frames { up, down, .. } = &mut **frames;
                let read = async {
                    let mut got = Vec::new();
                    while got.len() < bytes {
                        let piece = down.data().await.expect("more").expect("more");
                        down.flow_control().release_capacity(piece.len()).expect("gives room");
                        got.extend_from_slice(&piece);
                    }
                    got
                };
                let both = async { tokio::join!(pour(up, Bytes::copy_from_slice(sent), false), read) };
                let (sent, got) = within("both directions", both).await;
                sent.expect("sends");
                got
            }
        }
    }

    /// Says that nothing more comes from here.
    pub async fn finish(&mut self) {
        match self {
            Self::Http1(wire) => wire.finish().await,
            Self::Http2(frames) => frames.up.send_data(Bytes::new(), true).expect("sends"),
        }
    }

    /// Ends it in the hard way.
    pub fn reset(self) {
        match self {
            Self::Http1(wire) => wire.reset(),
            Self::Http2(mut frames) => frames.up.send_reset(Reason::CANCEL),
        }
    }

    /// Ends it as the end of its process does: without a word but TCP's.
    pub fn die(self) {
        match self {
            Self::Http1(wire) => drop(wire),
            Self::Http2(frames) => frames.client.as_ref().expect("a client").driver.abort(),
        }
    }

    /// Reads to the end; nothing may come before it.
    pub async fn end(&mut self) -> End {
        match self {
            Self::Http1(wire) => {
                let end = wire.end().await;
                assert_eq!(wire.buffer, b"");
                end
            }
            Self::Http2(frames) => match frames.more().await {
                Ok(()) => panic!("{:?} instead of the end", frames.buffer),
                Err(end) => end,
            },
        }
    }
}

impl Frames {
    async fn more(&mut self) -> Result<(), End> {
        let more = async {
            loop {
                match self.down.data().await {
                    // What only ends a stream may come as a frame without a byte.
                    Some(Ok(piece)) if piece.is_empty() => {}
                    more => return more,
                }
            }
        };
        match within("a byte or an end", more).await {
            Some(Ok(piece)) => {
                self.down.flow_control().release_capacity(piece.len()).expect("gives room");
                self.buffer.extend_from_slice(&piece);
                Ok(())
            }
            Some(Err(error)) => {
                assert_eq!(error.reason(), Some(Reason::CANCEL), "as RFC 8441 section 5 has it: {error}");
                Err(End::Reset)
            }
            None => Err(End::Closed),
        }
    }
}

/// An upstream that a test answers for.
pub enum Service {
    Http1(Upstream),
    Http2(Peer),
}

/// A handshake that came to it.
pub enum Offer {
    Http1(Wire, Vec<(String, String)>),
    Http2(Box<Asked>),
}

impl Service {
    pub async fn start(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Http1 => Self::Http1(Upstream::start().await),
            Speaks::Http2 => {
                let mut builder = server::Builder::new();
                builder.enable_connect_protocol();
                Self::Http2(Peer::start_with(builder, None).await)
            }
        }
    }

    /// A manifest with this backend for everything.
    pub fn manifest(&self, timeouts: &str) -> String {
        let (protocol, url) = match self {
            Self::Http1(upstream) => ("http1", upstream.url()),
            Self::Http2(peer) => ("h2c", peer.url()),
        };
        backend_for_all(protocol, &url, timeouts)
    }

    /// The next handshake, which must be a good one.
    pub async fn offer(&mut self) -> Offer {
        match self {
            Self::Http1(upstream) => {
                let mut wire = upstream.accept().await;
                let head = wire.head().await;
                assert_eq!(head.first_line, "GET /chat?room=1 HTTP/1.1");
                let field = |name| header(&head.headers, name);
                assert_eq!((field("connection"), field("upgrade")), (Some("Upgrade"), Some("websocket")));
                let keys = head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
                assert_eq!(keys.count(), 1, "{:?}", head.headers);
                Offer::Http1(wire, head.headers)
            }
            Self::Http2(peer) => {
                let asked = peer.next().await;
                let protocol = asked.request.extensions().get::<h2::ext::Protocol>();
                assert_eq!(
                    (asked.request.method().as_str(), protocol.map(|it| it.as_str())),
                    ("CONNECT", Some("websocket"))
                );
                let uri = asked.request.uri();
                assert_eq!(uri.path_and_query().expect("a path").as_str(), "/chat?room=1");
                assert_eq!(uri.scheme_str(), Some("http"));
                for name in ["sec-websocket-key", "connection", "upgrade", "content-length"] {
                    assert_eq!(asked.header(name), None, "{name}");
                }
                Offer::Http2(Box::new(asked))
            }
        }
    }
}

impl Offer {
    pub fn header(&self, name: &str) -> Option<String> {
        match self {
            Self::Http1(_, headers) => header(headers, name).map(str::to_owned),
            Self::Http2(asked) => asked.header(name).map(str::to_owned),
        }
    }

    /// Agrees, with this subprotocol.
    pub async fn agree(self, protocol: &str) -> Socket {
        match self {
            Self::Http1(mut wire, headers) => {
                let key = header(&headers, "sec-websocket-key").expect("a key");
                let proof = format!("Sec-WebSocket-Accept: {}\r\n", accept(key));
                let head = AGREES.split("Sec-WebSocket-Accept").next().expect("a head");
                wire.send(format!("{head}{proof}Sec-WebSocket-Protocol: {protocol}\r\n\r\n")).await;
                Socket::Http1(wire)
            }
            Self::Http2(asked) => {
                let mut asked = *asked;
                let head = reply(200, &[("sec-websocket-protocol", protocol)]);
                let up = asked.respond.send_response(head, false).expect("sends");
                Socket::frames(up, asked.request.into_body(), None)
            }
        }
    }
}

/// The value of `Sec-WebSocket-Accept` that belongs to a key.
pub fn accept(key: &str) -> String {
    use base64::Engine as _;
    let guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{guid}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// A client that has asked, and has no answer yet.
pub enum Asking {
    Http1(Wire),
    Http2(Http2, h2::client::ResponseFuture, SendStream<Bytes>),
}

impl Asking {
    /// Asks for a WebSocket, with these bytes behind the handshake.
    pub async fn ask(gateway: &Gateway, speaks: Speaks, ahead: &[u8]) -> Self {
        match speaks {
            Speaks::Http1 => {
                let mut wire = Wire::connect(gateway.proxy_addr()).await;
                let fields = format!("{HANDSHAKE}Sec-WebSocket-Protocol: chat, superchat\r\n");
                wire.send(format!("GET /chat?room=1 HTTP/1.1\r\nhost: a\r\n{fields}\r\n")).await;
                wire.send(ahead).await;
                Self::Http1(wire)
            }
            Speaks::Http2 => {
                let mut client = Http2::connect(gateway.proxy_addr()).await;
                let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat, superchat")];
                let (response, mut up) = client.open(client.websocket("/chat?room=1", &fields), false).await;
                up.send_data(Bytes::copy_from_slice(ahead), false).expect("sends");
                Self::Http2(client, response, up)
            }
        }
    }

    /// The open WebSocket, which must have been agreed to as it should, with that subprotocol.
    pub async fn agreed(self, protocol: &str) -> Socket {
        match self {
            Self::Http1(mut wire) => {
                let head = wire.head().await;
                assert_eq!(head.first_line, "HTTP/1.1 101 Switching Protocols");
                let field = |name| header(&head.headers, name);
                assert_eq!((field("connection"), field("upgrade")), (Some("Upgrade"), Some("websocket")));
                assert_eq!(field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
                assert_eq!(field("sec-websocket-protocol"), Some(protocol));
                Socket::Http1(wire)
            }
            Self::Http2(client, response, up) => {
                let response = within("an answer", response).await.expect("an answer");
                assert!(client.takes_websockets(), "it said so in its settings");
                assert_eq!(response.status(), 200);
                let field = |name| response.headers().get(name).map(|value| value.to_str().expect("text"));
                assert_eq!(field("sec-websocket-protocol"), Some(protocol));
                for name in ["sec-websocket-accept", "connection", "upgrade", "content-length"] {
                    assert_eq!(field(name), None, "{name}");
                }
                Socket::frames(up, response.into_body(), Some(client))
            }
        }
    }

    /// Status, that field's value, and body of an answer that is no agreement.
    pub async fn refused(self, name: &str) -> (u16, Option<String>, String) {
        match self {
            Self::Http1(mut wire) => {
                let head = wire.head().await;
                let status =
                    head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                let length = header(&head.headers, "content-length").expect("a length").parse().expect("a number");
                let body = wire.exactly(length).await;
                let field = header(&head.headers, name).map(str::to_owned);
                (status, field, String::from_utf8(body).expect("text"))
            }
            Self::Http2(_client, response, _up) => {
                let answer = within("an answer", crate::harness::answered(response)).await.expect("an answer");
                (answer.status, answer.header(name).map(str::to_owned), answer.text())
            }
        }
    }
}

/// Both ends of a WebSocket through the gateway.
pub async fn open(gateway: &Gateway, speaks: Speaks, service: &mut Service) -> (Socket, Socket) {
    let asking = Asking::ask(gateway, speaks, b"").await;
    let upstream = service.offer().await.agree("chat").await;
    (asking.agreed("chat").await, upstream)
}

/// Returns when the gateway counts no open tunnel.
pub async fn all_closed(gateway: &Gateway) {
    let closed = async { while !gateway.metrics(0).await.contains("rustygate_tunnels 0\n") {} };
    within("no open tunnel", closed).await;
}
