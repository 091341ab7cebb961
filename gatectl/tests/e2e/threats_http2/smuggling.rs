//! Requests that an upstream of HTTP/1.1 would read otherwise than they came: nothing of them may reach it.

use super::{
    arena::Arena,
    frames::{
        Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, HEADERS, frame, headers, learnt, literal, request,
    },
};
use crate::harness::{Client, Gateway, Witness, with_gateway};

/// What an attacker wants to be taken for a request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

fn manifest(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    [request("GET", "/"), block(more)].concat()
}

/// Four pseudo-fields with these values.
fn pseudo(method: &str, scheme: &str, authority: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)])
}

/// Header sections of requests that no upstream may see, and what is wrong with them.
pub fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let cut = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    vec![
        ("CR LF in a value", with(&[("x", "a\r\nx-b: c")])),
        ("CR LF CR LF in a value", with(&[("x", cut)])),
        ("LF in a value", with(&[("x", "a\nx-b: c")])),
        ("CR in a value", with(&[("x", "a\rx-b: c")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a control character in a value", with(&[("x", "a\u{1}b")])),
        ("a blank before a value", with(&[("x", "\na")])),
        ("a colon in a name", with(&[("x: y\r\nz", "a")])),
        ("a name with a blank", with(&[("x y", "a")])),
        ("a name with CR LF", with(&[("x\r\ny", "a")])),
        ("a name with NUL", with(&[("x\0", "a")])),
        ("no name", with(&[("", "a")])),
        ("a name in upper case", with(&[("X-A", "a")])),
        ("TRANSFER-ENCODING", with(&[("Transfer-Encoding", "chunked")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "close, x-forwarded-for")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "keep-alive")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te of more than trailers", with(&[("te", "gzip")])),
        ("two lengths", with(&[("content-length", "1"), ("content-length", "1")])),
        ("two lengths that differ", with(&[("content-length", "1"), ("content-length", "2")])),
        ("two lengths in one", with(&[("content-length", "1, 1")])),
        ("a length with a sign", with(&[("content-length", "+1")])),
        ("a length in hex", with(&[("content-length", "0x1")])),
        ("no length", with(&[("content-length", "")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("host differs", with(&[("host", "b")])),
        ("host differs by a port", with(&[("host", "a:80")])),
        (
            "two hosts without authority",
            block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a"), ("host", "b")]),
        ),
        ("no authority and no host", block(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])),
        (
            "a pseudo-field behind a field",
            block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a"), ("x", "y"), (":path", "/")]),
        ),
        ("two paths", [request("GET", "/"), block(&[(":path", "/smuggled")])].concat()),
        ("two methods", [block(&[(":method", "GET")]), request("POST", "/")].concat()),
        ("two authorities", [request("GET", "/"), block(&[(":authority", "b")])].concat()),
        ("two schemes", [block(&[(":scheme", "http")]), request("GET", "/")].concat()),
        ("a pseudo-field that nobody knows", [request("GET", "/"), block(&[(":x", "b")])].concat()),
        ("a status", [request("GET", "/"), block(&[(":status", "200")])].concat()),
        ("no method", block(&[(":scheme", "http"), (":authority", "a"), (":path", "/")])),
        ("no path", block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a")])),
        ("no scheme", block(&[(":method", "GET"), (":authority", "a"), (":path", "/")])),
        ("an empty path", request("GET", "")),
        ("a path with a blank", request("GET", "/ HTTP/1.1")),
        ("a path with CR LF", request("GET", "/ HTTP/1.1\r\nx: y")),
        ("a path with a tab", request("GET", "/a\tb")),
        ("a path with NUL", request("GET", "/a\0b")),
        ("a query with a blank", request("GET", "/a?b c")),
        ("a path without a slash", request("GET", "a")),
        ("a whole URL as path", request("GET", "http://b/")),
        ("a star for GET", request("GET", "*")),
        ("a method with a blank", request("GET /smuggled HTTP/1.1", "/")),
        ("a method with CR LF", request("GET\r\nx: y", "/")),
        ("no method at all", request("", "/")),
        ("CONNECT", block(&[(":method", "CONNECT"), (":authority", "a:1")])),
        ("CONNECT with a path", request("CONNECT", "/")),
        ("a protocol without CONNECT", [request("GET", "/"), block(&[(":protocol", "websocket")])].concat()),
        ("a protocol that nobody knows", [request("CONNECT", "/"), block(&[(":protocol", "smtp")])].concat()),
        ("a scheme that is none", pseudo("GET", "http\r\nx", "a", "/")),
        ("a scheme with a path", pseudo("GET", "http://b/smuggled?", "a", "/")),
        ("an authority with a user", pseudo("GET", "http", "u@a", "/")),
        ("an authority with a path", pseudo("GET", "http", "a/smuggled", "/")),
        ("an authority with CR LF", pseudo("GET", "http", "a\r\nx: y", "/")),
        ("an authority with a blank", pseudo("GET", "http", "a b", "/")),
        ("an empty authority", pseudo("GET", "http", "", "/")),
        ("an expectation that nobody knows", with(&[("expect", "cake")])),
    ]
}

/// Whether that is how such a request may end.
pub fn is_refused(fate: Fate) -> bool {
    match fate {
        Fate::Answered(status) => matches!(status, 400 | 405 | 417 | 501),
        Fate::Reset(_) | Fate::Closed(_) => true,
    }
}

#[tokio::test]
async fn what_http1_would_read_otherwise_is_refused() {
    let witness = Witness::echo().await;
    with_gateway(&manifest(&witness.url()), async |gateway: &mut Gateway| {
        for (what, block) in attacks() {
            let mut attacker = Attacker::connect(gateway.proxy_addr()).await;
            attacker.send(headers(1, true, block)).await;
            let fate = attacker.fate(1).await;
            assert!(is_refused(fate), "{what}: {fate:?}");
            let asked: Vec<String> = witness.requests().iter().map(|seen| seen.line()).collect();
            assert!(asked.is_empty(), "{what}: {fate:?}, and the upstream was asked for {asked:?}");
        }
        let bytes: usize = witness.connections().iter().map(Vec::len).sum();
        assert_eq!(bytes, 0, "something reached the upstream");
    })
    .await;
}

#[tokio::test]
async fn a_fragment_is_cut_before_anything_is_decided() {
    let witness = Witness::echo().await;
    with_gateway(&manifest(&witness.url()), async |gateway: &mut Gateway| {
        for (path, asked) in [("/a#/../b", "/a"), ("/a?b#c", "/a?b"), ("/a#b?c", "/a")] {
            let mut client = Attacker::connect(gateway.proxy_addr()).await;
            assert_eq!(client.get(path).await, Fate::Answered(200), "{path}");
            let seen = witness.requests().pop().expect("a request");
            assert_eq!(seen.line(), format!("GET {asked} HTTP/1.1"), "{path}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_is_as_long_as_its_frames_and_no_byte_of_it_is_a_request() {
    let witness = Witness::echo().await;
    with_gateway(&manifest(&witness.url()), async |gateway: &mut Gateway| {
        let mut canary = Client::connect(gateway.proxy_addr()).await;
        let length = |length: &str| [request("POST", "/"), block(&[("content-length", length)])].concat();
        for (what, head, body) in [
            ("longer than its length", length("5"), SMUGGLED),
            ("of no length", length("0"), SMUGGLED),
            ("shorter than its length", length("500"), SMUGGLED),
        ] {
            let mut attacker = Attacker::connect(gateway.proxy_addr()).await;
            attacker.send([headers(1, false, head), frame(DATA, END_STREAM, 1, body)].concat()).await;
            let fate = attacker.fate(1).await;
            assert!(!matches!(fate, Fate::Answered(200)), "{what}: {fate:?}");
            let answer = canary.get("/canary").await;
            assert!(answer.status == 200 && answer.text().starts_with("GET /canary "), "{what}: {answer:?}");
        }
        // In any case it is a body and stays one.
        let mut client = Attacker::connect(gateway.proxy_addr()).await;
        let body = [b"0\r\n\r\n", SMUGGLED].concat();
        client.send([headers(1, false, request("POST", "/whole")), frame(DATA, END_STREAM, 1, &body)].concat()).await;
        assert_eq!(client.fate(1).await, Fate::Answered(200));
        let asked = witness.requests();
        let whole = asked.iter().find(|seen| seen.line().starts_with("POST /whole ")).expect("it came");
        assert_eq!(whole.body(), body);
        assert!(asked.iter().all(|seen| !seen.line().contains("smuggled")));
    })
    .await;
}

#[tokio::test]
async fn trailers_name_nothing_that_frames_or_routes_a_request() {
    let witness = Witness::echo().await;
    with_gateway(&manifest(&witness.url()), async |gateway: &mut Gateway| {
        for (name, value) in [
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "b"),
            ("connection", "close"),
            (":path", "/smuggled"),
            ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("authorization", "x"),
        ] {
            let mut attacker = Attacker::connect(gateway.proxy_addr()).await;
            let trailers = headers(1, true, literal(name, value));
            let attack = [headers(1, false, request("POST", "/")), frame(DATA, 0, 1, b"x"), trailers].concat();
            attacker.send(attack).await;
            attacker.fate(1).await;
            for seen in witness.requests() {
                let text = String::from_utf8_lossy(&seen.bytes).to_ascii_lowercase();
                let (head, body) = text.split_once("\r\n\r\n").expect("a head");
                assert!(head.starts_with("post / "), "{name}: {head}");
                assert!(!body.contains(&format!("{name}:")), "{name}: {body}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_names_than_a_map_may_have_are_refused() {
    const NAMES: usize = 25_000;
    let mut arena = Arena::start(&[]).await;
    let addr = arena.addr;
    let mut fields = request("GET", "/");
    fields.extend((0..NAMES).flat_map(|number| learnt(format!("{number:x}"), "")));
    let attack = async || {
        let mut attacker = Attacker::connect(addr).await;
        let mut pieces = fields.chunks(16_000).peekable();
        let mut bytes = frame(HEADERS, END_STREAM, 1, pieces.next().expect("a piece"));
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, end, 1, piece));
        }
        attacker.send(bytes).await;
        let fate = attacker.fate(1).await;
        assert!(matches!(fate, Fate::Answered(431) | Fate::Closed(_)), "{fate:?}");
    };
    arena.survives(attack).await;
}

#[tokio::test]
async fn a_nomination_that_is_no_text_reaches_no_upstream_by_http2() {
    // An upstream that speaks HTTP/2 by prior knowledge: another gateway.
    let witness = Witness::echo().await;
    let behind = Gateway::builder().manifest(&manifest(&witness.url())).start().await;
    let url = format!("http://{}", behind.proxy_addr());
    let front = format!(
        "backends: [{{name: b, endpoints: [{{url: \"{url}\"}}], protocol: h2c}}]\nroutes: [{{name: all, path: /, backend: b}}]"
    );
    with_gateway(&front, async |gateway: &mut Gateway| {
        let mut canary = Client::connect(gateway.proxy_addr()).await;
        for line in
            [&b"Connection: \xff\xfe"[..], b"Connection: close, \xff\xfe", b"X-A: \xff\xfe", b"Keep-Alive: \xff"]
        {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(&[b"GET /odd HTTP/1.1\r\nHost: a\r\n", line, b"\r\n\r\n"].concat()).await;
            let response = client.response(false).await;
            assert!(matches!(response.status, 200 | 400), "{response:?}");
            assert!(!String::from_utf8_lossy(&response.body).to_ascii_lowercase().contains("connection:"));
            let answer = canary.get("/canary").await;
            assert!(answer.status == 200 && answer.text().starts_with("GET /canary "), "{answer:?}");
        }
    })
    .await;
    behind.shutdown().await;
}
