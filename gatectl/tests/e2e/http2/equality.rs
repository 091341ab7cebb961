//! Whatever each side speaks, the upstream sees the same request and the client the same answer.

use bytes::Bytes;
use h2::client::Builder;

use crate::harness::{
    Answer, Asked, Authority, Client, Gateway, Http2, Pair, Peer, Reply, Seen, Tls, Witness, body_of, free_port, reply,
};

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Http1,
    Http1Tls,
    Http2,
    Http2Tls,
}

const CLIENTS: [Speaks; 4] = [Speaks::Http1, Speaks::Http1Tls, Speaks::Http2, Speaks::Http2Tls];

/// What belongs to one connection or one moment, or tells TLS from none.
const OWN: [&str; 12] = [
    "connection",
    "transfer-encoding",
    "te",
    "host",
    "date",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-for",
    "forwarded",
    "x-rustygate-duration-ms",
    "x-rustygate-backend",
    "keep-alive",
];

fn told<'h>(headers: impl Iterator<Item = (&'h str, &'h str)>) -> Vec<String> {
    let kept = headers.filter(|(name, _)| !OWN.contains(&name.to_ascii_lowercase().as_str()));
    let mut lines: Vec<String> = kept.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    lines.sort();
    lines
}

/// "/STATUS" says what is answered.
fn status(path: &str) -> u16 {
    path[1..4].parse().unwrap_or(200)
}

fn seen_text(method: &str, path: &str, headers: &[String], body: &[u8]) -> String {
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    format!("{method} {path} {headers:?} {} bytes, {sum}", body.len())
}

fn http1_answer(seen: &Seen) -> Reply {
    let line = seen.line();
    let mut words = line.split(' ');
    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
    let headers = seen.headers();
    let headers = told(headers.iter().map(|(name, value)| (&**name, &**value)));
    let text = seen_text(method, path, &headers, &seen.body());
    let status = status(path);
    let mut head = format!("HTTP/1.1 {status} It\r\nx-answer: yes\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n");
    head += "connection: x-hop\r\nx-hop: 1\r\n";
    match (method, status) {
        ("HEAD", _) => head += "content-length: 1234\r\n\r\n",
        (_, 204 | 304) => head += "\r\n",
        _ => head += &format!("content-length: {}\r\n\r\n{text}", text.len()),
    }
    Reply::Send(head.into_bytes())
}

async fn http2_answer(mut asked: Asked) {
    let (method, path) =
        (asked.request.method().to_string(), asked.request.uri().path_and_query().map(ToString::to_string));
    let path = path.expect("a path");
    let headers = asked.request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
    let headers = told(headers);
    let (body, _) = body_of(asked.request.body_mut()).await.expect("a body");
    let text = seen_text(&method, &path, &headers, &body);
    let status = status(&path);
    let length = text.len().to_string();
    let mut fields = vec![("x-answer", "yes"), ("set-cookie", "a=1"), ("set-cookie", "b=2")];
    let empty = match (&*method, status) {
        ("HEAD", _) => {
            fields.push(("content-length", "1234"));
            true
        }
        (_, 204 | 304) => true,
        _ => {
            fields.push(("content-length", &length));
            false
        }
    };
    let mut stream = asked.respond.send_response(reply(status, &fields), empty).expect("sends");
    if !empty {
        stream.send_data(Bytes::from(text), true).expect("sends");
    }
}

struct House {
    gateway: Gateway,
    tls: Tls,
    plain: std::net::SocketAddr,
    secure: std::net::SocketAddr,
}

impl House {
    /// One listener in the clear and one with TLS, and routes by the first segment of the path.
    async fn start(authority: &Authority, backends: &[(&str, &str, String)]) -> Self {
        let pair: Pair = authority.sign(&["gate.example"]);
        let (plain, secure) = (free_port(), free_port());
        let ca = serde_json::to_string(&authority.pem).expect("a string");
        let mut yaml = format!(
            "certificates:\n{}listeners:\n- {{name: plain, address: \"127.0.0.1:{plain}\"}}\n\
             - {{name: secure, address: \"127.0.0.1:{secure}\", tls: {{certificates: [web]}}}}\nbackends:\n",
            pair.manifest("web")
        );
        for (name, protocol, url) in backends {
            let tls = if url.starts_with("https") { format!(", tls: {{ca: {ca}}}") } else { String::new() };
            yaml += &format!("- {{name: {name}, protocol: {protocol}, endpoints: [\"{url}\"]{tls}}}\n");
        }
        yaml += "routes:\n";
        for (name, ..) in backends {
            yaml += &format!("- {{name: {name}, path: /{name}, backend: {name}}}\n");
        }
        let gateway = Gateway::builder().manifest(&yaml).start().await;
        let addr = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        Self { gateway, tls: Tls::of(authority), plain: addr(plain), secure: addr(secure) }
    }

    async fn ask(&self, speaks: Speaks, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let offers: &[&str] = if matches!(speaks, Speaks::Http2Tls) { &["h2"] } else { &["http/1.1"] };
        let tls = self.tls.clone().alpn(offers);
        let secure = async || tls.connect(self.secure, "gate.example").await.expect("a handshake");
        let mut http1 = match speaks {
            Speaks::Http2 => return Http2::connect(self.plain).await.request(method, path, headers, body).await,
            Speaks::Http2Tls => {
                let mut http2 = Http2::over(secure().await, "https://gate.example", &Builder::new()).await;
                return http2.request(method, path, headers, body).await;
            }
            Speaks::Http1 => Client::connect(self.plain).await,
            Speaks::Http1Tls => Client::over(secure().await).host("gate.example"),
        };
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-length") {
            headers.push(("content-length", &length));
        }
        let response = http1.request(method, path, &headers, body).await;
        let mut map = http::HeaderMap::new();
        for (name, value) in &response.headers {
            let name = http::HeaderName::try_from(name.as_str()).expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        Answer {
            status: response.status,
            headers: map,
            body: response.body,
            trailers: http::HeaderMap::new(),
            interim: response.interim,
        }
    }
}

#[tokio::test]
async fn whatever_each_side_speaks_requests_and_answers_are_the_same() {
    let authority = Authority::new();
    let witness = Witness::start(http1_answer).await;
    let server = authority.server(&authority.sign(&["up.example"]), &["h2"], false);
    let (clear, _one) = Peer::serving(None, http2_answer).await;
    let (secure, _two) = Peer::serving(Some(server), http2_answer).await;
    let backends =
        [("h1", "http1", witness.url()), ("h2c", "h2c", clear), ("h2", "h2", secure.clone()), ("auto", "auto", secure)];
    let house = House::start(&authority, &backends).await;
    let big = vec![b'q'; 300_000];
    let length = big.len().to_string();
    let agent: &[(&str, &str)] = &[("user-agent", "test"), ("x-one", "1"), ("x-one", "2"), ("cookie", "a=1; b=2")];
    let with_length = [agent, &[("content-length", &*length)]].concat();
    let with_zero = [agent, &[("content-length", "0")]].concat();
    for (method, path, headers, body) in [
        ("GET", "/200?x=1&y=%20", agent, &b""[..]),
        ("HEAD", "/200", agent, b""),
        ("POST", "/201/with/more", &with_length, &big),
        ("PUT", "/200", &with_length, &big),
        ("POST", "/200", &with_zero, b""),
        ("DELETE", "/204", agent, b""),
        ("GET", "/304", agent, b""),
        ("PATCH", "/404", &with_length, &big),
        ("OPTIONS", "/500", agent, b""),
    ] {
        let mut expected: Option<(u16, Vec<String>, String)> = None;
        for (name, ..) in &backends {
            for client in CLIENTS {
                let answer = house.ask(client, method, &format!("/{name}{path}"), headers, body).await;
                let fields = answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
                let got = (answer.status, told(fields), answer.text());
                assert_eq!(
                    got,
                    *expected.get_or_insert_with(|| got.clone()),
                    "{method} {path} of {client:?} by {name}"
                );
            }
        }
        let (status, headers, text) = expected.expect("an answer");
        assert_eq!(status, super::equality::status(path));
        assert!(headers.contains(&"x-answer: yes".to_owned()), "{headers:?}");
        if method != "HEAD" && !matches!(status, 204 | 304) {
            assert!(text.starts_with(&format!("{method} {path} ")) && text.contains("cookie: a=1; b=2"), "{text}");
            assert!(text.contains("x-one: 1") && text.contains("x-one: 2"), "{text}");
        }
    }
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn the_crumbs_of_a_cookie_are_one_line_for_the_upstream() {
    let witness = Witness::saying("ok").await;
    let mut peer = Peer::start().await;
    let authority = Authority::new();
    let house = House::start(&authority, &[("h1", "http1", witness.url()), ("h2c", "h2c", peer.url())]).await;
    let mut client = Http2::connect(house.plain).await;
    let crumbs = [("cookie", "a=1"), ("x-between", "1"), ("cookie", "b=2"), ("cookie", "c=3")];
    assert_eq!(client.request("GET", "/h1", &crumbs, b"").await.status, 200);
    let lines: Vec<_> =
        witness.requests()[0].headers().into_iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie")).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].1, "a=1; b=2; c=3");
    let head = client.head("GET", "/h2c", &crumbs);
    let _stream = client.open(head, true).await;
    let asked = peer.next().await;
    assert_eq!(asked.request.headers().get_all("cookie").iter().count(), 1);
    assert_eq!(asked.header("cookie"), Some("a=1; b=2; c=3"));
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn interim_answers_and_expectations_cross_from_either_protocol_to_the_other() {
    let upstream = crate::harness::Upstream::start().await;
    let mut peer = Peer::start().await;
    let authority = Authority::new();
    let house = House::start(&authority, &[("h1", "http1", upstream.url()), ("h2c", "h2c", peer.url())]).await;
    let plain = house.plain;
    let expects = [("expect", "100-continue"), ("content-length", "4")];
    for to in ["h1", "h2c"] {
        for speaks_http2 in [true, false] {
            let client = tokio::spawn(async move {
                if speaks_http2 {
                    let mut client = Http2::connect(plain).await;
                    let head = client.head("POST", &format!("/{to}"), &expects);
                    let (mut response, mut stream) = client.open(head, false).await;
                    let mut interim = Vec::new();
                    while interim.len() < 2 {
                        let next = std::future::poll_fn(|cx| response.poll_informational(cx)).await;
                        interim.push(next.expect("an interim answer").expect("an interim answer").status().as_u16());
                    }
                    // Only now, as it was told.
                    stream.send_data(Bytes::from_static(b"body"), true).expect("sends");
                    let answer = crate::harness::answered(response).await.expect("an answer");
                    assert_eq!(answer.text(), "body");
                    interim
                } else {
                    let mut wire = crate::harness::Wire::connect(plain).await;
                    let head = "expect: 100-continue\r\ncontent-length: 4\r\n\r\n";
                    wire.send(format!("POST /{to} HTTP/1.1\r\nhost: a\r\n{head}")).await;
                    let mut interim = Vec::new();
                    for _ in 0..2 {
                        let line = wire.head().await.first_line;
                        interim.push(line.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status"));
                    }
                    wire.send("body").await;
                    wire.head().await;
                    wire.until("body").await;
                    interim
                }
            });
            if to == "h1" {
                let mut wire = upstream.accept().await;
                assert!(wire.head().await.headers.iter().any(|(_, value)| value == "100-continue"));
                assert!(wire.is_quiet().await, "the body waits to be asked for");
                let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
                wire.send(format!("{hint}HTTP/1.1 100 Continue\r\n\r\n")).await;
                let body = match speaks_http2 {
                    // The length is known in either.
                    true | false => wire.exactly(4).await,
                };
                assert_eq!(body, b"body");
                wire.send(crate::harness::answer("body")).await;
            } else {
                let mut asked = peer.next().await;
                assert_eq!(asked.header("expect"), Some("100-continue"));
                let hint = reply(103, &[("link", "</a>; rel=preload")]);
                asked.respond.send_informational(hint).expect("sends");
                asked.respond.send_informational(reply(100, &[])).expect("sends");
                let (body, _) = body_of(asked.request.body_mut()).await.expect("a body");
                assert_eq!(body, b"body");
                asked.say(200, "body");
            }
            let interim = crate::harness::within("the client", client).await.expect("no panic");
            assert_eq!(interim, [103, 100], "to {to}, http2: {speaks_http2}");
        }
    }
    house.gateway.shutdown().await;
}
