//! Every bound of a request, and what its client is told: a status and a stable reason.

use std::time::Duration;

use crate::harness::{
    AGREES, Client, Gateway, HANDSHAKE, Http2, Peer, Reply, Response, Upstream, Wire, Witness, answer, answered,
    body_of, free_port, hits, raw, with_gateway, within,
};

fn all_to(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

/// The reason that the gateway gives for an answer of its own.
fn reason(response: &Response) -> String {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
    body["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn heads_have_bounds() {
    let upstream = Witness::saying("x").await;
    let many = |count: usize| "x-a: 1\r\n".repeat(count);
    let long = |bytes: usize| "x".repeat(bytes);
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        for (what, request, status, reason) in [
            ("99 and a host", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", many(99)), 200, ""),
            ("too many", format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", many(100)), 431, "headers_too_large"),
            ("large", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", long(60_000)), 200, ""),
            (
                "too large",
                format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", long(66_000)),
                431,
                "headers_too_large",
            ),
            (
                "too large and endless",
                format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", long(66_000)),
                431,
                "headers_too_large",
            ),
            ("long", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", long(8191)), 200, ""),
            ("too long", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", long(8192)), 414, "uri_too_long"),
            ("too long and endless", format!("GET /{}", long(9000)), 414, "uri_too_long"),
            ("version", "GET / HTTP/2.0\r\nhost: a\r\n\r\n".to_owned(), 505, "version_not_supported"),
            ("expectation", "GET / HTTP/1.1\r\nhost: a\r\nexpect: cake\r\n\r\n".to_owned(), 417, "expectation_failed"),
            ("garbage", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400, "bad_request"),
        ] {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(request.as_bytes()).await;
            let response = client.response(false).await;
            assert_eq!(response.status, status, "{what}");
            if status != 200 {
                assert_eq!(self::reason(&response), reason, "{what}");
                assert_eq!(response.header("connection"), Some("close"), "{what}");
                assert!(client.closes().await, "{what}");
            }
        }
        assert_eq!(upstream.requests().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn bodies_have_a_bound_however_they_are_framed() {
    let upstream = Witness::saying("taken").await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.max_body_bytes = 1000);
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let chunks = |count: usize| format!("{}0\r\n\r\n", format!("64\r\n{}\r\n", "x".repeat(100)).repeat(count));
    for (what, length, body, status) in [
        ("measured", "content-length: 1000", "x".repeat(1000), 200),
        ("measured, over", "content-length: 1001", "x".repeat(1001), 413),
        ("chunked", "transfer-encoding: chunked", chunks(10), 200),
        ("chunked, over", "transfer-encoding: chunked", chunks(11), 413),
    ] {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n{body}").as_bytes()).await;
        let response = client.response(false).await;
        assert_eq!(response.status, status, "{what}");
        if status != 200 {
            assert_eq!(reason(&response), "body_too_large", "{what}");
        }
    }
    assert_eq!(upstream.requests().len(), 2, "no upstream takes a part for the whole");
    gateway.shutdown().await;
}

#[tokio::test]
async fn connections_have_a_bound_and_their_end_makes_room() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.max_connections = 2);
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    let mut third = Client::connect(gateway.proxy_addr()).await;
    let response = third.response(false).await;
    assert_eq!((response.status, reason(&response).as_str()), (503, "overloaded"));
    assert!(third.closes().await);
    assert_eq!(clients[0].get("/").await.status, 200, "those who are in stay in");
    let metrics = gateway.metrics(0).await;
    assert!(metrics.contains("\nrustygate_client_connections_refused_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nrustygate_client_connections 2\n"), "{metrics}");
    clients.pop();
    let admitted = async {
        loop {
            let answer = raw(gateway.proxy_addr(), b"GET / HTTP/1.0\r\n\r\n").await;
            if answer.starts_with(b"HTTP/1.1 200 ") {
                return;
            }
        }
    };
    within("room for another", admitted).await;
    gateway.shutdown().await;
}

/// A connection from this loopback address.
async fn connect_from(last: u8, addr: std::net::SocketAddr) -> Client {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, last], 0))).expect("binds");
    Client::over(within("a connection", socket.connect(addr)).await.expect("connects"))
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_other_address_feels_it() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.max_connections_per_ip = 5;
        settings.trusted_proxies = vec![("127.0.0.9".parse().expect("an address"), 32)];
    });
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let addr = gateway.proxy_addr();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = connect_from(2, addr).await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    for _ in 0..3 {
        let mut over = connect_from(2, addr).await;
        let response = over.response(false).await;
        assert_eq!((response.status, reason(&response).as_str()), (429, "too_many_connections"));
        assert!(over.closes().await);
    }
    assert_eq!(hits(&gateway, "connections_per_ip").await, 3);
    assert_eq!(connect_from(3, addr).await.get("/").await.status, 200, "another address");
    let mut trusted = Vec::new();
    for _ in 0..10 {
        let mut client = connect_from(9, addr).await;
        assert_eq!(client.get("/").await.status, 200, "a trusted proxy has many clients");
        trusted.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200, "those who are in stay in");
    }
    clients.pop();
    let admitted = async {
        loop {
            let mut client = connect_from(2, addr).await;
            // The refusal may come before the request is sent.
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            if client.try_response(false).await.is_some_and(|response| response.status == 200) {
                return;
            }
        }
    };
    within("room for another", admitted).await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn heads_may_have_narrower_bounds() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.max_head_bytes = 1000;
        settings.max_head_fields = 10;
    });
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let get = |rest: String| format!("GET / HTTP/1.1\r\nhost: a\r\n{rest}");
    for (what, request, status) in [
        ("ten fields", get("x-a: 1\r\n".repeat(9) + "\r\n"), 200),
        ("eleven fields", get("x-a: 1\r\n".repeat(10) + "\r\n"), 431),
        ("1000 bytes", get(format!("x: {}\r\n\r\n", "x".repeat(968))), 200),
        ("1001 bytes", get(format!("x: {}\r\n\r\n", "x".repeat(969))), 431),
        ("endless", get(format!("x: {}", "x".repeat(1000))), 431),
    ] {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        client.send(request.as_bytes()).await;
        let response = client.response(false).await;
        assert_eq!(response.status, status, "{what}");
        if status != 200 {
            assert_eq!(reason(&response), "headers_too_large", "{what}");
            assert!(client.closes().await, "{what}");
        }
    }
    assert_eq!((hits(&gateway, "head_bytes").await, hits(&gateway, "head_fields").await), (2, 1));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_slow_body_and_a_slow_reader_are_cut_and_a_bystander_is_served() {
    const LARGE: usize = 64 << 20;
    let upstream = Witness::start(|seen| match seen.line().split(' ').nth(1) {
        Some("/large") => Reply::Send(answer(vec![b'x'; LARGE])),
        _ => Reply::Send(answer("x")),
    })
    .await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.body_timeout = 1;
        settings.write_timeout = 1;
    });
    let url = upstream.url();
    // However long the route lets its upstream be silent.
    let manifest = format!("routes: [{{name: all, path: /, backend: \"{url}\", timeouts: {{total: 1h, idle: 1h}}}}]");
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let slow_body = async {
        let mut client = Wire::connect(addr).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx").await;
        assert!(client.until("\r\n").await.contains(" 408 "));
        client.until("request_body_timeout").await;
    };
    let slow_reader = async {
        let mut client = Wire::connect(addr).await;
        client.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        let cut = async { while hits(&gateway, "write_timeout").await == 0 {} };
        within("the end of patience", cut).await;
        client.end().await;
    };
    let bystander = async {
        let mut client = Client::connect(addr).await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.status, 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(slow_body, slow_reader, bystander);
    assert_eq!((hits(&gateway, "request_body_timeout").await, hits(&gateway, "write_timeout").await), (1, 1));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_and_messages_that_trickle_are_not() {
    let upstream = Witness::echo().await;
    let mut peer = Peer::start().await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.body_timeout = 1;
        settings.min_body_rate = 1_000;
    });
    let manifest = format!(
        "backends: [{{name: calls, protocol: h2c, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: calls, path: /calls, backend: calls}}, {{name: all, path: /, backend: \"{}\"}}]",
        peer.url(),
        upstream.url()
    );
    let gateway = builder.manifest(&manifest).start().await;
    let addr = gateway.proxy_addr();
    let trickle = |kind: &'static str, told: &'static str| async move {
        let mut client = Wire::connect(addr).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: 900\r\n\r\n")).await;
        while client.is_quiet().await {
            client.send("x").await;
            tokio::time::sleep(TRICKLE).await;
        }
        client.until(told).await;
    };
    let http1 = trickle("text/plain", "request_body_slow");
    // A call is never one of HTTP/1.1.
    let no_call = trickle("application/grpc", "request_body_slow");
    let http2 = async {
        let mut client = Http2::connect(addr).await;
        let (response, mut stream) = client.open(client.head("POST", "/", &[]), false).await;
        let trickle = async {
            while stream.send_data("x".into(), false).is_ok() {
                tokio::time::sleep(TRICKLE).await;
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = answered(response) => answer.expect("an answer"),
            () = trickle => unreachable!("it goes on for ever"),
        };
        assert_eq!(answer.status, 408);
        assert!(answer.text().contains("request_body_slow"));
    };
    // As slow as those, but it comes in time.
    let bystander = async {
        let mut client = Wire::connect(addr).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2400\r\n\r\n").await;
        for _ in 0..6 {
            client.send("x".repeat(400)).await;
            tokio::time::sleep(TRICKLE).await;
        }
        assert!(client.until("\r\n").await.contains(" 200 "));
    };
    let call = async {
        let mut client = Http2::connect(addr).await;
        let head = client.head("POST", "/calls", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let (response, mut stream) = client.open(head, false).await;
        let mut asked = peer.next().await;
        for _ in 0..8 {
            stream.send_data("m".into(), false).expect("the call goes on");
            tokio::time::sleep(TRICKLE).await;
        }
        stream.send_data("m".into(), true).expect("the call goes on");
        let (body, _) = body_of(asked.request.body_mut()).await.expect("a body");
        assert_eq!(body, b"mmmmmmmmm");
        asked.say(200, "all heard");
        assert_eq!(within("an answer", answered(response)).await.expect("an answer").text(), "all heard");
    };
    tokio::join!(http1, no_call, http2, bystander, call);
    assert_eq!((hits(&gateway, "request_body_rate").await, hits(&gateway, "request_body_timeout").await), (3, 0));
    gateway.shutdown().await;
}

/// How often those send or take a byte who want to live for ever: often enough for the time between two pieces.
const TRICKLE: Duration = Duration::from_millis(300);

/// A client of HTTP/2 that has no room for bodies yet, where a thousand bytes earn a second and there is one.
async fn reader_without_room() -> (Witness, Gateway, Wire) {
    let upstream = Witness::start(|_| Reply::Send(answer("x".repeat(100_000)))).await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.write_timeout = 1;
        settings.min_write_rate = 1_000;
    });
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut client = Wire::connect(gateway.proxy_addr()).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]).await;
    (upstream, gateway, client)
}

/// The frame that asks for `http://a/`.
fn get_without_body(stream: u8) -> [u8; 15] {
    [0, 0, 6, 1, 5, 0, 0, 0, stream, 0x82, 0x86, 0x84, 0x41, 1, b'a']
}

#[tokio::test]
async fn a_reader_who_takes_a_byte_now_and_then_is_cut() {
    const WINDOW_UPDATE: u8 = 8;
    const RST_STREAM: u8 = 3;
    let (_upstream, gateway, mut client) = reader_without_room().await;
    client.send(get_without_body(1)).await;
    let begun = tokio::time::Instant::now();
    let mut taken = 0;
    loop {
        client.send([0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 1, 0, 0, 0, 1]).await;
        tokio::time::sleep(TRICKLE).await;
        let head = client.exactly(9).await;
        let payload = client.exactly(usize::from(head[1]) << 8 | usize::from(head[2])).await;
        match head[3] {
            0 => taken += payload.len(),
            RST_STREAM => break,
            _ => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{taken} bytes taken");
    }
    assert_eq!((hits(&gateway, "write_rate").await, hits(&gateway, "write_timeout").await), (1, 0));
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_answers_of_a_connection_share_what_it_must_take() {
    const STREAMS: u8 = 10;
    let (_upstream, gateway, mut client) = reader_without_room().await;
    let ids = || (0..STREAMS).map(|index| 2 * index + 1);
    for id in ids() {
        client.send(get_without_body(id)).await;
    }
    // All together take twice as much as they must, each a fifth.
    for _ in 0..10 {
        for id in ids() {
            client.send([0, 0, 4, 8, 0, 0, 0, 0, id, 0, 0, 0, 60]).await;
        }
        tokio::time::sleep(TRICKLE).await;
    }
    assert_eq!((hits(&gateway, "write_rate").await, hits(&gateway, "write_timeout").await), (0, 0));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_reader_who_is_slow_but_reads_is_not_cut() {
    const LARGE: usize = 16 << 20;
    let upstream = Witness::start(|_| Reply::Send(answer(vec![b'x'; LARGE]))).await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.write_timeout = 2);
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut client = Wire::connect(gateway.proxy_addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.exactly(LARGE / 8).await;
    }
    assert_eq!(hits(&gateway, "write_timeout").await, 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_connection_has_so_many_requests_and_so_long_a_life() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.max_requests_per_connection = 3);
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for last in [false, false, true] {
        let response = client.get("/").await;
        assert_eq!((response.status, response.header("connection") == Some("close")), (200, last));
    }
    assert!(client.closes().await);
    assert_eq!(hits(&gateway, "requests_per_connection").await, 1);
    gateway.shutdown().await;

    let builder = Gateway::builder().proxy_settings(|settings| settings.max_connection_age = 1);
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.get("/").await.header("connection"), None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.get("/").await.header("connection"), Some("close"));
    assert!(client.closes().await);
    assert_eq!(hits(&gateway, "connection_age").await, 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_has_so_long_for_a_head_and_between_requests() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.head_timeout = 1;
        settings.keep_alive_timeout = 1;
    });
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let addr = gateway.proxy_addr();
    let slow = async {
        let mut client = Wire::connect(addr).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n").await;
        // A byte now and then does not help: the time is for the whole head.
        for _ in 0.. {
            client.send("x").await;
            if !client.is_quiet().await {
                break;
            }
        }
        assert!(client.until("\r\n").await.contains(" 408 "));
        client.until("request_timeout").await;
    };
    let silent = async {
        let mut client = Client::connect(addr).await;
        assert!(client.closes().await, "without a word");
    };
    let idle = async {
        let mut client = Client::connect(addr).await;
        assert_eq!(client.get("/").await.status, 200);
        assert!(client.closes().await, "without a word");
    };
    tokio::join!(slow, silent, idle);
    assert_eq!((hits(&gateway, "head_timeout").await, hits(&gateway, "keep_alive_timeout").await), (2, 1));
    gateway.shutdown().await;
}

#[tokio::test]
async fn each_failure_of_an_upstream_has_its_status_and_reason() {
    let upstream = Witness::start(|seen| match seen.line().split(' ').nth(1) {
        Some("/hold") => Reply::Hold,
        Some("/close") => Reply::Close,
        Some("/garbage") => Reply::Send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()),
        Some("/head") => Reply::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        Some("/large") => Reply::Send(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(66_000)).into_bytes()),
        _ => Reply::Send(answer("x")),
    })
    .await;
    let (deaf, _queue) = deaf().await;
    let dead = free_port();
    let url = upstream.url();
    let manifest = format!(
        r#"
routes:
- {{name: whole, path: /, backend: "{url}", timeout: 300ms}}
- {{name: one-try, path: /one-try, backend: "{url}/hold", timeouts: {{per_try: 200ms, total: 1h}}}}
- {{name: dead, path: /dead, backend: "http://127.0.0.1:{dead}"}}
- {{name: deaf, path: /deaf, backend: "{deaf}", timeouts: {{connect: 200ms}}}}
- {{name: none, path: /none, backend: [{{url: "{url}", weight: 0}}]}}
"#
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for (path, status, expected) in [
            ("/hold", 504, "upstream_timeout"),
            ("/one-try", 504, "upstream_timeout"),
            ("/deaf", 504, "upstream_connect_timeout"),
            ("/dead", 502, "upstream_connect"),
            ("/close", 502, "upstream_closed"),
            ("/head", 502, "upstream_closed"),
            ("/garbage", 502, "upstream_protocol"),
            ("/large", 502, "upstream_protocol"),
            ("/none", 503, "no_endpoint"),
        ] {
            let response = client.get(path).await;
            assert_eq!((response.status, reason(&response).as_str()), (status, expected), "{path}");
        }
        assert_eq!(client.get("/").await.text(), "x", "the connection goes on after all of them");
    })
    .await;
}

/// An address that takes no more connections, and what fills its queue.
async fn deaf() -> (String, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
    let listener = socket.listen(0).expect("listens");
    let addr = listener.local_addr().expect("an address");
    // Never accepted from; it lives as long as the process.
    std::mem::forget(listener);
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(addr)).await
    {
        queue.push(stream);
    }
    (format!("http://{addr}"), queue)
}

/// Longer than the total time of [`exchange`], shorter than its idle time.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs a test with a client and an upstream that has the head of its request.
async fn exchange(request: &str, test: impl AsyncFnOnce(Wire, Wire)) {
    let upstream = Upstream::start().await;
    let timeouts = "{total: 400ms, idle: 1200ms}";
    let manifest = format!("routes: [{{name: all, path: /, backend: \"{}\", timeouts: {timeouts}}}]", upstream.url());
    with_gateway(&manifest, async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(request).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        test(client, wire).await;
    })
    .await;
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

const PIECE: &str = "1\r\nx\r\n";

fn begun(content_type: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n")
}

#[tokio::test]
async fn a_stream_of_events_may_be_silent_for_the_idle_time_and_no_longer() {
    exchange(GET, async |mut client, mut wire| {
        wire.send(begun("text/event-stream")).await;
        for _ in 0..2 {
            tokio::time::sleep(PAUSE).await;
            wire.send(PIECE).await;
            client.until(PIECE).await;
        }
        client.end().await;
        wire.end().await;
    })
    .await;
}

#[tokio::test]
async fn another_body_may_take_long_but_not_be_silent_for_the_total_time() {
    exchange(GET, async |mut client, mut wire| {
        wire.send(begun("text/plain")).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            wire.send(PIECE).await;
            client.until(PIECE).await;
        }
        client.end().await;
        wire.end().await;
    })
    .await;
}

#[tokio::test]
async fn an_upload_may_take_long_but_its_client_not_be_silent_for_the_idle_time() {
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n";
    exchange(post, async |mut client, mut wire| {
        for _ in 0..2 {
            tokio::time::sleep(PAUSE).await;
            client.send("x").await;
            wire.until("x").await;
        }
        assert!(client.until("\r\n").await.contains(" 408 "));
        client.until("request_body_timeout").await;
        wire.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_may_be_silent_for_the_idle_time_and_no_longer() {
    let upgrade = format!("GET / HTTP/1.1\r\nhost: a\r\n{HANDSHAKE}\r\n");
    exchange(&upgrade, async |mut client, mut wire| {
        wire.send(AGREES).await;
        client.head().await;
        for _ in 0..2 {
            tokio::time::sleep(PAUSE).await;
            client.send("x").await;
            wire.until("x").await;
        }
        client.end().await;
        wire.end().await;
    })
    .await;
}

/// A connection that speaks HTTP/2 from its first byte on, and has nothing to say.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn a_few_long_connections_are_spread_over_the_workers_however_they_come_in() {
    with_gateway(&all_to("http://127.0.0.1:1"), async |gateway| {
        let mut clients = Vec::new();
        for count in 1..=8_usize {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(HTTP2).await;
            clients.push(client);
            let heavy = count * 16;
            let loads = within("every connection counts", async {
                loop {
                    let metrics = gateway.metrics(0).await;
                    let lines = metrics.lines().filter_map(|line| line.strip_prefix("rustygate_worker_load{"));
                    let loads: Vec<usize> = lines.filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
                    if loads.iter().sum::<usize>() == heavy {
                        break loads;
                    }
                }
            })
            .await;
            let most = loads.iter().max().expect("workers") / 16;
            assert_eq!(most, count.div_ceil(loads.len()), "{loads:?}");
        }
    })
    .await;
}
