//! Copies of requests for a backend that nobody hears: what it gets, and that nothing it does is felt by anyone.

use std::time::Duration;

use crate::harness::{
    Client, Gateway, HANDSHAKE, Http2, Peer, Reply, Seen, Upstream, Witness, answer, free_port, reply, within,
};

fn mirrored(shadow: &str, more: &str, url: &str) -> String {
    format!(
        "backends: [{{name: shadow, endpoints: [\"{shadow}\"]}}]\n\
         plugins:\n\
         - {{name: copies, type: mirror, config: {{backend: shadow{more}}}}}\n\
         - {{name: tag, type: headers, config: {{request: {{set: {{x-tag: set}}, remove: [x-secret]}}}}}}\n\
         routes: [{{name: all, path: /api, plugins: [copies, tag], backend: \"{url}\"}}]\n"
    )
}

async fn seen(witness: &Witness, count: usize) -> Vec<Seen> {
    within("copies", async {
        while witness.requests().len() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let seen = witness.requests();
    assert_eq!(seen.len(), count, "{seen:?}");
    seen
}

/// Waits until the metric of that name and labels has this value.
async fn counted(gateway: &Gateway, metric: &str, value: u64) {
    let line = format!("{metric} {value}");
    within(&line, async { while !gateway.metrics(0).await.lines().any(|found| found == line) {} }).await;
}

fn drops(reason: &str) -> String {
    format!("rustygate_mirror_drops_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn a_mirror_gets_what_upstreams_get_whatever_clients_speak() {
    let (shadow, upstream) = (Witness::saying("unheard").await, Witness::saying("heard").await);
    let gateway = Gateway::builder().manifest(&mirrored(&shadow.url(), "", &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("shop.example");
    let headers = [
        ("x-secret", "s"),
        ("x-forwarded-for", "10.0.0.1"),
        ("te", "trailers"),
        ("connection", "te, x-hop"),
        ("x-hop", "1"),
    ];
    assert_eq!(client.get_with("/api/a?b=c", &headers).await.text(), "heard");
    assert_eq!(client.post("/api/b", b"0123456789").await.text(), "heard");
    client
        .send(b"PUT /api/c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n")
        .await;
    assert_eq!(client.response(false).await.text(), "heard");
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    assert_eq!(http2.request("POST", "/api/d", &[("x-secret", "s")], b"by frames").await.text(), "heard");
    assert_eq!(http2.get("/api/e").await.text(), "heard");
    let mut copies = seen(&shadow, 5).await;
    copies.sort_by_key(Seen::line);
    let mut real = upstream.requests();
    real.sort_by_key(Seen::line);
    for (copy, real) in copies.iter().zip(&real) {
        assert_eq!((copy.line(), copy.body()), (real.line(), real.body()));
        for name in ["host", "x-tag", "x-secret", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-hop"] {
            assert_eq!(copy.header(name), real.header(name), "{name} of {}", copy.line());
        }
        assert_eq!((copy.header("x-secret"), copy.header("x-tag").as_deref()), (None, Some("set")));
        assert_eq!((copy.header("x-hop"), copy.header("x-forwarded-for").as_deref()), (None, Some("127.0.0.1")));
    }
    counted(&gateway, "rustygate_mirrored_requests_total", 5).await;
    assert!(shadow.connections().len() < 5, "connections are kept");
    gateway.shutdown().await;
}

#[tokio::test]
async fn nobody_waits_for_a_mirror_that_is_not_there_hangs_or_talks_nonsense() {
    let upstream = Witness::saying("heard").await;
    let silent = Witness::start(|_| Reply::Hold).await;
    let reset = Witness::start(|_| Reply::Close).await;
    let garbage = Witness::start(|_| Reply::SendAndClose(b"nonsense\r\n\r\n".to_vec())).await;
    let endless = Witness::start(|_| Reply::Send([answer(""), vec![b'x'; 2 << 20]].concat().to_vec())).await;
    let large = Witness::start(|_| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 << 20);
        Reply::Send([head.into_bytes(), vec![b'x'; 2 << 20]].concat())
    })
    .await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let mut gateway = Gateway::builder().manifest(&mirrored(&dead, "", &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for (failed, url) in (1..).zip([dead, reset.url(), garbage.url(), large.url()]) {
        gateway.apply(&mirrored(&url, "", &upstream.url())).await;
        assert_eq!(client.post("/api", b"x").await.text(), "heard", "{url}");
        counted(&gateway, &drops("failed"), failed).await;
    }
    // What follows an answer costs its connection only.
    gateway.apply(&mirrored(&endless.url(), "", &upstream.url())).await;
    assert_eq!(client.get("/api").await.text(), "heard");
    counted(&gateway, "rustygate_mirrored_requests_total", 1).await;
    gateway.apply(&mirrored(&silent.url(), ", in_flight_max: 3, timeout: 1m", &upstream.url())).await;
    for _ in 0..20 {
        assert_eq!(client.get("/api").await.text(), "heard");
    }
    // One worker has the connection.
    counted(&gateway, &drops("busy"), 17).await;
    assert_eq!(seen(&silent, 3).await.len(), 3);
    // An unrelated push resets no count, and the gateway ends with what is under way.
    gateway.apply(&format!("routes: [{{name: other, path: /other, backend: \"{}\"}}]\n", upstream.url())).await;
    assert_eq!(client.get("/api").await.text(), "heard");
    counted(&gateway, &drops("busy"), 18).await;
    within("the end", gateway.shutdown()).await;
}

#[tokio::test]
async fn bodies_beyond_the_bound_and_requests_that_end_early_are_not_sent() {
    let (shadow, upstream) = (Witness::saying("unheard").await, Witness::saying("heard").await);
    let gateway =
        Gateway::builder().manifest(&mirrored(&shadow.url(), ", body_bytes_max: 1000", &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.post("/api/known", &[b'x'; 1001]).await.text(), "heard");
    counted(&gateway, &drops("too_large"), 1).await;
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    client
        .send(format!("POST /api/unknown HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}").as_bytes())
        .await;
    assert_eq!(client.response(false).await.text(), "heard");
    counted(&gateway, &drops("too_large"), 2).await;
    let mut leaving = Client::connect(gateway.proxy_addr()).await;
    leaving.send(b"POST /api/half HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await;
    within("half of it", async {
        while !upstream.connections().concat().ends_with(b"half") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(leaving);
    counted(&gateway, &drops("unfinished"), 1).await;
    assert_eq!(client.post("/api/small", &[b'x'; 1000]).await.text(), "heard");
    let copies = seen(&shadow, 1).await;
    assert_eq!((copies[0].line().as_str(), copies[0].body().len()), ("POST /small HTTP/1.1", 1000));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_request_that_is_tried_again_is_mirrored_once_and_what_no_upstream_sees_never() {
    let shadow = Witness::saying("unheard").await;
    let upstream = Upstream::start().await;
    let url = upstream.url();
    let more = format!(
        "plugins: [{{name: no, type: respond}}, {{name: out, type: ip_filter, config: {{deny: [127.0.0.1]}}}}]\n\
         routes:\n\
         - {{name: closed, path: /closed, plugins: [copies, no], backend: \"{url}\"}}\n\
         - {{name: out, path: /out, plugins: [copies, out], backend: \"{url}\"}}\n"
    );
    let mut gateway = Gateway::builder().manifest(&mirrored(&shadow.url(), "", &url)).start().await;
    gateway.apply(&more).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!((client.get("/closed").await.status, client.get("/out").await.status), (200, 403));
    client.send(b"PUT /api HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
    for last in [false, false, true] {
        let mut wire = upstream.accept().await;
        wire.until("body").await;
        let status = if last { "200 OK" } else { "503 Busy" };
        wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")).await;
    }
    assert_eq!(client.response(false).await.status, 200);
    // A WebSocket.
    client.send(format!("GET /api/socket HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n").as_bytes()).await;
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    assert_eq!(client.response(false).await.status, 403);
    let mut last = Client::connect(gateway.proxy_addr()).await;
    last.send(b"GET /api/last HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let lines = seen(&shadow, 2).await.iter().map(Seen::line).collect::<Vec<_>>();
    assert_eq!(lines, ["PUT / HTTP/1.1", "GET /last HTTP/1.1"]);
    gateway.shutdown().await;
}

/// A call of gRPC, whose length nobody says, to a mirror that speaks HTTP/2.
#[tokio::test]
async fn calls_of_grpc_are_mirrored_as_calls() {
    let mut shadow = Peer::start().await;
    let (url, _peer) = Peer::serving(None, |mut asked| async move {
        // Who answers before all is there has nothing mirrored.
        crate::harness::body_of(asked.request.body_mut()).await.expect("a body");
        asked.say(200, "heard");
    })
    .await;
    let manifest = format!(
        "backends:\n\
         - {{name: shadow, protocol: h2c, endpoints: [\"{}\"]}}\n\
         - {{name: calls, protocol: h2c, endpoints: [\"{url}\"]}}\n\
         plugins: [{{name: copies, type: mirror, config: {{backend: shadow}}}}]\n\
         routes: [{{name: all, path: /, plugins: [copies], backend: calls}}]\n",
        shadow.url()
    );
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let heard = http2.request("POST", "/s.S/M", &headers, b"\0\0\0\0\x02hi").await;
    assert_eq!(heard.text(), "heard");
    let mut copy = shadow.next().await;
    assert_eq!(copy.request.uri().path(), "/s.S/M");
    assert_eq!((copy.header("te"), copy.header("content-type")), (Some("trailers"), Some("application/grpc")));
    let (body, _) = crate::harness::body_of(copy.request.body_mut()).await.expect("a body");
    assert_eq!(body, b"\0\0\0\0\x02hi");
    copy.respond.send_response(reply(200, &[("grpc-status", "0")]), true).expect("sends");
    counted(&gateway, "rustygate_mirrored_requests_total", 1).await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_slow_mirror_delays_nobody_and_a_name_that_is_none_is_told() {
    let shadow = Witness::start(|_| Reply::SendAfter(Duration::from_secs(30), answer("late"))).await;
    let upstream = Witness::saying("heard").await;
    let gateway =
        Gateway::builder().manifest(&mirrored(&shadow.url(), ", timeout: 50ms", &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for _ in 0..10 {
        assert_eq!(client.post("/api", b"body").await.text(), "heard");
    }
    counted(&gateway, &drops("failed"), 10).await;
    let refused = gateway.gatectl(&["delete", "backend", "shadow"]).await.expect_stderr(1);
    assert!(refused.contains("backend \"shadow\" is still used by plugin \"copies\""), "{refused}");
    gateway.write(
        "wrong.yaml",
        &mirrored("http://a", ", percent: 120", "http://b").replace("backend: shadow", "backend: shdow"),
    );
    let refused = gateway.gatectl(&["validate", "-f", "wrong.yaml"]).await.expect_stderr(1);
    assert!(refused.contains("120 is not within 0 to 100") && refused.contains("wrong.yaml:3:"), "{refused}");
    gateway.shutdown().await;
}
