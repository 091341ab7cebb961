//! Who gives up, who is refused, who goes away in order.

use bytes::Bytes;
use h2::Reason;

use super::bodies::routes;
use crate::{
    harness::{Client, Gateway, Http2, Peer, Upstream, Wire, answered, body_of, reply, with_gateway, within},
    threats_http2::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame},
};

#[tokio::test]
async fn a_stream_that_the_client_gives_up_is_given_up_at_the_upstream_too() {
    let upstream = Upstream::start().await;
    let mut peer = Peer::start().await;
    with_gateway(&routes(&upstream.url(), &peer.url()), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for begun in [false, true] {
            for upload in [false, true] {
                let method = if upload { "PUT" } else { "GET" };
                let head = client.head(method, "/h1", &[]);
                let (response, mut up) = client.open(head, !upload).await;
                let mut wire = upstream.accept().await;
                wire.head().await;
                let mut response = Some(response);
                let mut down = None;
                if begun {
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").await;
                    down = Some(within("a head", response.take().expect("one")).await.expect("an answer"));
                }
                up.send_reset(Reason::CANCEL);
                wire.end().await;
                drop((down, response));

                let head = client.head(method, "/h2", &[]);
                let (response, mut up) = client.open(head, !upload).await;
                let mut asked = peer.next().await;
                let mut response = Some(response);
                let mut down = None;
                let mut answer = None;
                if begun {
                    let mut stream = asked.respond.send_response(reply(200, &[]), false).expect("sends");
                    stream.send_data(Bytes::from_static(b"some"), false).expect("sends");
                    down = Some(within("a head", response.take().expect("one")).await.expect("an answer"));
                    answer = Some(stream);
                }
                up.send_reset(Reason::CANCEL);
                let reason = match &mut answer {
                    Some(stream) => {
                        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
                        within("a reset of the stream", reset).await.expect("a reason")
                    }
                    None => asked.given_up().await,
                };
                assert_eq!(reason, Reason::CANCEL, "begun: {begun}, upload: {upload}");
                drop((down, response));
            }
        }
        // An HTTP/1.1 client that leaves ends its stream, not the connection.
        let mut wire = Wire::connect(gateway.proxy_addr()).await;
        wire.send("GET /h2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut asked = peer.next().await;
        drop(wire);
        assert_eq!(asked.given_up().await, Reason::CANCEL);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_the_upstream_did_not_look_at_is_sent_again_whatever_it_is() {
    let mut peer = Peer::start().await;
    with_gateway(&routes("http://127.0.0.1:9", &peer.url()), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for method in ["GET", "POST"] {
            let body = if method == "POST" { &b"order one"[..] } else { b"" };
            let head = client.head(method, "/h2", &[]);
            let (response, mut up) = client.open(head, body.is_empty()).await;
            if !body.is_empty() {
                up.send_data(Bytes::from_static(body), true).expect("sends");
            }
            let mut asked = peer.next().await;
            // Even when it has come as a whole.
            let (seen, _) = body_of(asked.request.body_mut()).await.expect("a body");
            assert_eq!(seen, body);
            asked.respond.send_reset(Reason::REFUSED_STREAM);
            let mut again = peer.next().await;
            let (seen, _) = body_of(again.request.body_mut()).await.expect("a body");
            assert_eq!(seen, body);
            again.say(200, "at last");
            let answer = within("an answer", answered(response)).await.expect("an answer");
            assert_eq!((answer.status, answer.text()), (200, "at last".to_owned()));
        }
        // Any other reset says nothing of what was done: a POST is not sent twice.
        let head = client.head("POST", "/h2", &[]);
        let (response, mut up) = client.open(head, false).await;
        up.send_data(Bytes::from_static(b"order two"), true).expect("sends");
        let mut asked = peer.next().await;
        body_of(asked.request.body_mut()).await.expect("a body");
        asked.respond.send_reset(Reason::INTERNAL_ERROR);
        assert_eq!(within("an answer", answered(response)).await.expect("an answer").status, 502);
        assert!(peer.is_quiet());
    })
    .await;
}

#[tokio::test]
async fn a_farewell_that_leaves_a_request_out_sends_it_elsewhere() {
    let upstream = Upstream::start().await;
    with_gateway(&routes("http://127.0.0.1:9", &upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let answer = tokio::spawn(async move { client.post("/h2", b"order").await });
        let mut wire = upstream.accept().await;
        assert_eq!(wire.exactly(24).await, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        wire.send(frame(4, 0, 0, [])).await;
        // Its body shows that the request is under way.
        wire.until("order").await;
        // The last stream that was looked at is none.
        wire.send(frame(7, 0, 0, [0; 8])).await;
        let mut other = upstream.accept().await;
        other.exactly(24).await;
        other.send(frame(4, 0, 0, [])).await;
        other.until("order").await;
        // ":status: 200", and the end of the stream.
        other.send(frame(1, 5, 1, [0x88])).await;
        assert_eq!(within("an answer", answer).await.expect("no panic").status, 200);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_goes_away_in_order_loses_nothing() {
    let mut peer = Peer::start().await;
    with_gateway(&routes("http://127.0.0.1:9", &peer.url()), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        let head = client.head("GET", "/h2", &[]);
        let (first, _) = client.open(head, true).await;
        let asked = peer.next().await;
        assert_eq!(asked.connection, 0);
        peer.farewell();
        // New requests go by a new connection as soon as the farewell is there, and none fails meanwhile.
        let moved = async {
            loop {
                let head = client.head("POST", "/h2", &[]);
                let (response, mut up) = client.open(head, false).await;
                up.send_data(Bytes::from_static(b"more"), true).expect("sends");
                let asked = peer.next().await;
                let connection = asked.connection;
                asked.say(200, "fine");
                assert_eq!(answered(response).await.expect("an answer").status, 200);
                if connection > 0 {
                    return;
                }
            }
        };
        within("a new connection", moved).await;
        asked.say(200, "late");
        assert_eq!(within("an answer", answered(first)).await.expect("an answer").text(), "late");
    })
    .await;
}

const ACK: u8 = 1;

/// A client's connection, frame by frame.
struct Frames {
    wire: Wire,
    /// PINGs that were not answered.
    pings: Vec<Vec<u8>>,
}

/// What a frame says, as far as it matters here.
#[derive(Debug, PartialEq)]
enum Said {
    /// GOAWAY, with the last stream that is looked at, and why.
    Farewell(u32, u32),
    /// An answer is over.
    Answered(u32),
}

impl Frames {
    async fn connect(addr: std::net::SocketAddr) -> Self {
        let mut wire = Wire::connect(addr).await;
        wire.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, [])].concat()).await;
        Self { wire, pings: Vec::new() }
    }

    /// GET /h2, by the static table of HPACK.
    async fn ask(&mut self, stream: u32) {
        self.wire.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, b"\x82\x86\x04\x03/h2\x01\x01a")).await;
    }

    /// The next that says something.
    async fn next(&mut self) -> Said {
        loop {
            let head = self.wire.exactly(9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0] & 0x7f, bytes[1], bytes[2], bytes[3]]);
            let (kind, flags, stream) = (head[3], head[4], number(&head[5..]));
            let payload = self.wire.exactly(length as usize).await;
            match kind {
                SETTINGS if flags & ACK == 0 => self.wire.send(frame(SETTINGS, ACK, 0, [])).await,
                PING if flags & ACK == 0 => self.pings.push(payload),
                GOAWAY => return Said::Farewell(number(&payload), number(&payload[4..])),
                DATA | HEADERS if flags & END_STREAM != 0 => return Said::Answered(stream),
                RST_STREAM => panic!("stream {stream} was reset"),
                _ => {}
            }
        }
    }

    /// Answers the PINGs: whatever was sent before has arrived.
    async fn pong(&mut self) {
        for ping in std::mem::take(&mut self.pings) {
            self.wire.send(frame(PING, ACK, 0, &ping)).await;
        }
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_twice_and_serves_what_was_asked_in_between() {
    let mut peer = Peer::start().await;
    let mut gateway = Gateway::builder().manifest(&routes("http://127.0.0.1:9", &peer.url())).start().await;
    let mut client = Frames::connect(gateway.proxy_addr()).await;
    client.ask(1).await;
    let first = peer.next().await;
    let client_side = async {
        assert_eq!(client.next().await, Said::Farewell(0x7fff_ffff, 0), "no stream is left out yet");
        // It was on its way when that was said.
        client.ask(3).await;
        peer.next().await.say(200, "in between");
        assert_eq!(client.next().await, Said::Answered(3));
        client.pong().await;
        assert_eq!(client.next().await, Said::Farewell(3, 0), "now it is known which was the last");
        client.ask(5).await;
        first.say(200, "late");
        assert_eq!(client.next().await, Said::Answered(1));
        client.pong().await;
        client.wire.end().await;
        assert!(peer.is_quiet(), "nobody looked at what came behind the last one");
    };
    tokio::join!(gateway.drain_proxy(0), client_side);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_takes_what_was_on_its_way() {
    let mut peer = Peer::start().await;
    let mut gateway = Gateway::builder().manifest(&routes("http://127.0.0.1:9", &peer.url())).start().await;
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    let head = client.head("GET", "/h2", &[]);
    let (response, _) = client.open(head, true).await;
    let mut asked = peer.next().await;
    let mut answer = asked.respond.send_response(reply(200, &[]), false).expect("sends");
    answer.send_data(Bytes::from_static(b"begun, "), false).expect("sends");
    let mut down = within("a head", response).await.expect("an answer").into_body();
    let client_side = async {
        // Requests are taken until the second GOAWAY; from then on the connection says that it is over.
        let mut taken = 0;
        loop {
            let head = client.head("GET", "/h2", &[]);
            let Ok((response, _)) = client.try_open(head, true).await else { break };
            let (answer, ()) = tokio::join!(answered(response), async {
                if let Ok(asked) = tokio::time::timeout(std::time::Duration::from_millis(200), peer.next()).await {
                    asked.say(200, "taken");
                }
            });
            match answer {
                Ok(answer) => {
                    assert_eq!(answer.status, 200);
                    taken += 1;
                }
                Err(error) => {
                    let reason = error.reason();
                    let unseen = error.is_go_away() || reason == Some(Reason::REFUSED_STREAM);
                    assert!(unseen && matches!(reason, Some(Reason::NO_ERROR | Reason::REFUSED_STREAM)), "{error}");
                    break;
                }
            }
        }
        eprintln!("{taken} requests were taken meanwhile");
        answer.send_data(Bytes::from_static(b"done"), true).expect("sends");
        let (body, _) = within("the rest", body_of(&mut down)).await.expect("all of it");
        assert_eq!(body, b"begun, done");
        drop(down);
        let ended = within("the end of the connection", &mut client.driver).await.expect("no panic");
        assert!(ended.is_ok(), "{ended:?}");
    };
    tokio::join!(gateway.drain_proxy(0), client_side);
    gateway.shutdown().await;
}
