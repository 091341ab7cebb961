//! What HTTP/1.1 asks of a proxy, seen from both of its sides.

use crate::harness::{Client, Reply, Upstream, Wire, Witness, answer, header, raw, with_gateway};

/// One route for every path, which it leaves as it is.
fn all_to(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_one_after_the_other() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        let requests: String = (1..=3).map(|number| format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
        client.send(requests).await;
        // The one connection serves them all: another would never be accepted.
        let mut wire = upstream.accept().await;
        for number in 1..=3 {
            assert_eq!(wire.head().await.first_line, format!("GET /{number} HTTP/1.1"));
            assert!(number > 1 || wire.is_quiet().await, "the next request waits for this one's answer");
            wire.send(answer(format!("answer {number}"))).await;
            client.until(&format!("answer {number}")).await;
        }
        assert!(client.is_quiet().await, "nothing more was asked for");
    })
    .await;
}

#[tokio::test]
async fn every_method_goes_through_with_its_body() {
    let upstream = Witness::saying("done").await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"] {
            let body = if method == "HEAD" { "" } else { "abc" };
            let length = body.len().to_string();
            let response = client.request(method, "/x?y", &[("content-length", &length)], body.as_bytes()).await;
            let expected = if method == "HEAD" { "" } else { "done" };
            assert_eq!((response.status, response.text().as_str()), (200, expected), "{method}");
            let seen = upstream.requests().pop().expect("a request");
            assert_eq!(seen.line(), format!("{method} /x?y HTTP/1.1"));
            assert_eq!(text(&seen.body()), body, "{method}");
        }
        let refused = client.request("CONNECT", "a:80", &[], b"").await;
        assert_eq!(refused.status, 405);
        assert!(refused.text().contains("method_not_allowed"), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_where_the_next_one_begins() {
    let upstream = Witness::start(|seen| {
        Reply::Send(match seen.line().split(' ').nth(1) {
            Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            Some("/304") => b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 5\r\n\r\n".to_vec(),
            Some("/head") => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(),
            _ => answer("whole"),
        })
    })
    .await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for (method, path, status, length) in
            [("GET", "/204", 204, None), ("GET", "/304", 304, Some("5")), ("HEAD", "/head", 200, Some("5"))]
        {
            let response = client.request(method, path, &[], b"").await;
            assert_eq!((response.status, response.header("content-length")), (status, length), "{path}");
            assert_eq!(response.header("transfer-encoding"), None, "{path}");
            assert_eq!(client.get("/").await.text(), "whole", "after {path}");
        }
        let used = upstream.requests().iter().map(|seen| seen.connection).max();
        assert_eq!(used, Some(0), "the upstream's connection goes on as well");
    })
    .await;
}

#[tokio::test]
async fn chunks_and_trailers_go_both_ways() {
    let upstream = Witness::start(|_| {
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-down\r\n\r\n";
        Reply::Send([head.as_slice(), b"4\r\ndown\r\n0\r\nx-down: 2\r\n\r\n"].concat())
    })
    .await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let request = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\ntrailer: x-up\r\n\
                       transfer-encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nx-up: 1\r\n\r\n";
        let response = text(&raw(gateway.proxy_addr(), request.as_bytes()).await);
        let seen = upstream.requests().remove(0);
        assert_eq!(text(&seen.body()), "up");
        assert!(text(&seen.bytes).ends_with("0\r\nx-up: 1\r\n\r\n"), "{}", text(&seen.bytes));
        assert_eq!(seen.header("te").as_deref(), Some("trailers"));
        assert_eq!(seen.header("trailer").as_deref(), Some("x-up"));
        assert!(response.ends_with("4\r\ndown\r\n0\r\nx-down: 2\r\n\r\n"), "{response}");
        assert!(response.contains("trailer: x-down\r\n"), "{response}");
    })
    .await;
}

const EXPECTING: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn whether_a_body_is_wanted_is_for_the_upstream_to_say() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(EXPECTING).await;
        let mut wire = upstream.accept().await;
        assert_eq!(header(&wire.head().await.headers, "expect"), Some("100-continue"));
        assert!(client.is_quiet().await, "nobody asked for the body yet");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(client.head().await.first_line, "HTTP/1.1 100 Continue");
        client.send("body").await;
        assert_eq!(wire.exactly(4).await, b"body");
        wire.send(answer("thanks")).await;
        client.until("thanks").await;

        client.send(EXPECTING).await;
        wire.head().await;
        wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        let head = client.head().await;
        assert_eq!(head.first_line, "HTTP/1.1 403 Forbidden");
        assert_eq!(header(&head.headers, "connection"), Some("close"), "the body may come or not");
        client.end().await;
        assert_eq!(client.buffer, b"no");
        wire.end().await;
        assert!(wire.buffer.is_empty(), "no body was sent");
    })
    .await;
}

#[tokio::test]
async fn interim_answers_reach_those_who_understand_them() {
    let upstream = Witness::start(|_| {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        Reply::Send([interim.as_slice(), &answer("page")].concat())
    })
    .await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let addr = gateway.proxy_addr();
        let response = Client::connect(addr).await.get("/").await;
        assert_eq!(response.interim, [103], "the 100 was not asked for");
        assert_eq!(response.text(), "page");
        let modern = text(&raw(addr, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await);
        assert!(modern.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"), "{modern}");
        let old = text(&raw(addr, b"GET / HTTP/1.0\r\n\r\n").await);
        assert!(old.starts_with("HTTP/1.1 200 OK\r\n"), "{old}");
        assert!(!old.contains("Hints"), "{old}");
    })
    .await;
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_answers_that_it_understands() {
    let upstream = Witness::start(|seen| match seen.line().contains("/chunked") {
        true => {
            let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
            Reply::Send(chunked.to_vec())
        }
        false => Reply::Send(answer("plain")),
    })
    .await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let addr = gateway.proxy_addr();
        let once = text(&raw(addr, b"GET / HTTP/1.0\r\n\r\n").await);
        assert!(once.to_lowercase().contains("\r\nconnection: close\r\n") && once.ends_with("plain"), "{once}");
        let seen = upstream.requests().remove(0);
        assert_eq!(seen.line(), "GET / HTTP/1.1", "the upstream need not know");
        assert!(upstream.url().ends_with(&seen.header("host").expect("a host")), "{seen:?}");

        let mut client = Client::connect(addr).await;
        for _ in 0..2 {
            client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
            let response = client.response(false).await;
            assert_eq!((response.text().as_str(), response.header("connection")), ("plain", Some("keep-alive")));
        }
        client.send(b"GET /chunked HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        let response = client.response(false).await;
        assert_eq!((response.header("transfer-encoding"), response.header("connection")), (None, Some("close")));
        assert_eq!(response.text(), "onetwo");
    })
    .await;
}

#[tokio::test]
async fn the_host_that_is_asked_for_is_one_and_the_upstream_hears_it_in_one_form() {
    let upstream = Witness::saying("x").await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let addr = gateway.proxy_addr();
        for (request, line, host) in [
            ("GET /a HTTP/1.1\r\nhost: Shop.Example.COM", "GET /a HTTP/1.1", "shop.example.com"),
            ("GET /a HTTP/1.1\r\nhost: a:8080", "GET /a HTTP/1.1", "a:8080"),
            ("GET http://A/b?c HTTP/1.1\r\nhost: a", "GET /b?c HTTP/1.1", "a"),
            ("GET http://a HTTP/1.1\r\nhost: a", "GET / HTTP/1.1", "a"),
            ("GET http://a:81/ HTTP/1.0", "GET / HTTP/1.1", "a:81"),
        ] {
            let answer = text(&raw(addr, format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer}");
            let seen = upstream.requests().pop().expect("a request");
            assert_eq!((seen.line().as_str(), seen.header("host").as_deref()), (line, Some(host)), "{request}");
        }
        let served = upstream.requests().len();
        for (request, reason) in [
            ("GET / HTTP/1.1", "bad_host"),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: a", "bad_host"),
            ("GET http://a/ HTTP/1.1\r\nhost: b", "bad_target"),
            ("GET https://a/ HTTP/1.1\r\nhost: a", "bad_target"),
            ("GET / HTTP/1.1\r\nhost: a b", "bad_target"),
        ] {
            let answer = text(&raw(addr, format!("{request}\r\n\r\n").as_bytes()).await);
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(reason), "{request}: {answer}");
        }
        assert_eq!(upstream.requests().len(), served);
    })
    .await;
}

#[tokio::test]
async fn what_is_for_one_hop_ends_there_in_both_directions() {
    let hop = "connection: x-private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n\
               proxy-connection: keep-alive\r\n";
    let reply = format!("HTTP/1.1 200 OK\r\n{hop}proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-public: 1\r\n");
    let upstream = Witness::start(move |_| Reply::Send(format!("{reply}content-length: 0\r\n\r\n").into_bytes())).await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let own = "te: gzip\r\nupgrade: h2c\r\nproxy-authorization: x\r\nhttp2-settings: y\r\nx-public: 1\r\n";
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{hop}{own}\r\n").as_bytes()).await;
        let response = client.response(false).await;
        let request = upstream.requests().remove(0);
        let gone = [
            "connection",
            "x-private",
            "keep-alive",
            "proxy-connection",
            "te",
            "upgrade",
            "proxy-authorization",
            "proxy-authenticate",
            "http2-settings",
        ];
        for (headers, what) in [(&request.headers(), "request"), (&response.headers, "response")] {
            for name in gone {
                assert_eq!(header(headers, name), None, "{name} of the {what}");
            }
            assert_eq!(header(headers, "x-public"), Some("1"), "{what}");
        }
        assert_eq!(client.get("/").await.status, 200, "the connection goes on");
    })
    .await;
}

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_once_the_upstream_agreed() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(format!("{WEBSOCKET}early")).await;
        let mut wire = upstream.accept().await;
        let head = wire.head().await;
        assert_eq!(head.first_line, "GET /chat HTTP/1.1");
        assert_eq!(header(&head.headers, "upgrade"), Some("websocket"));
        assert_eq!(header(&head.headers, "connection"), Some("Upgrade"));
        assert_eq!(header(&head.headers, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(wire.is_quiet().await, "what the client sends ahead waits for the 101");
        // The upstream may speak at once.
        wire.send(format!("{SWITCHED}first")).await;
        let head = client.head().await;
        assert_eq!(head.first_line, "HTTP/1.1 101 Switching Protocols");
        assert_eq!(header(&head.headers, "upgrade"), Some("websocket"));
        assert_eq!(header(&head.headers, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(client.exactly(5).await, b"first");
        assert_eq!(wire.exactly(5).await, b"early");
        client.send(b"\x81\x00ping\xff").await;
        assert_eq!(wire.exactly(7).await, b"\x81\x00ping\xff");
        wire.send("pong").await;
        assert_eq!(client.exactly(4).await, b"pong");
        assert!(gateway.metrics(0).await.contains("rustygate_tunnels 1\n"));
        // One side may end before the other.
        client.finish().await;
        wire.end().await;
        wire.send("last words").await;
        assert_eq!(client.exactly(10).await, b"last words");
        drop(wire);
        client.end().await;
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_never_reach_the_upstream() {
    let upstream = Witness::saying("no chat here").await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let smuggled = format!("{WEBSOCKET}\u{1}binary that is no request\r\n\r\n");
        let answer = text(&raw(gateway.proxy_addr(), smuggled.as_bytes()).await);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("no chat here"), "{answer}");
        assert!(answer.contains("HTTP/1.1 400 "), "they are read as the next request: {answer}");
        assert_eq!(upstream.requests().len(), 1);
        assert!(!upstream.connections().iter().any(|bytes| text(bytes).contains("binary")));
    })
    .await;
}

#[tokio::test]
async fn only_a_websocket_that_was_asked_for_is_switched_to() {
    let upstream = Witness::start(|_| Reply::Send(SWITCHED.into())).await;
    let h2c = "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\r\n";
    let post = WEBSOCKET.replace("GET", "POST");
    let not_nominated = WEBSOCKET.replace("connection: Upgrade\r\n", "");
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        for request in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", h2c, &post, &not_nominated] {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(request.as_bytes()).await;
            let response = client.response(false).await;
            assert_eq!(response.status, 502, "{request}");
            assert!(response.text().contains("upstream_protocol"), "{response:?}");
            let seen = upstream.requests().pop().expect("a request");
            assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{request}");
        }
    })
    .await;
}
