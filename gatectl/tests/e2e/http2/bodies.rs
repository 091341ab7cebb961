//! Bodies and trailers, in pieces, both ways, and no more of them in memory than is on its way.

use std::future::poll_fn;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::timeout;

use crate::{
    harness::{Gateway, Http2, Peer, Upstream, answered, body_of, header, reply, with_gateway, within},
    streams::{STUCK, under_way_max},
};

pub fn routes(http1: &str, http2: &str) -> String {
    format!(
        "backends: [{{name: h2, protocol: h2c, endpoints: [\"{http2}\"]}}]\n\
         routes:\n- {{name: h1, path: /h1, backend: \"{http1}\"}}\n- {{name: h2, path: /h2, backend: h2}}\n"
    )
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))])
}

#[tokio::test]
async fn pieces_are_passed_on_at_once_and_trailers_go_both_ways() {
    let upstream = Upstream::start().await;
    let mut peer = Peer::start().await;
    with_gateway(&routes(&upstream.url(), &peer.url()), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;

        let head = client.head("POST", "/h1", &[("te", "trailers")]);
        let (response, mut up) = client.open(head, false).await;
        let mut wire = upstream.accept().await;
        let seen = wire.head().await;
        assert_eq!(header(&seen.headers, "transfer-encoding"), Some("chunked"));
        assert_eq!(header(&seen.headers, "te"), Some("trailers"));
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut down = within("a head", response).await.expect("an answer").into_body();
        for _ in 0..3 {
            up.send_data(Bytes::from_static(b"ping"), false).expect("sends");
            assert_eq!(wire.exactly(9).await, b"4\r\nping\r\n");
            wire.send("4\r\npong\r\n").await;
            let piece = within("a piece", down.data()).await.expect("a piece").expect("a piece");
            assert_eq!(piece, "pong");
        }
        up.send_trailers(trailers("x-up", "1")).expect("sends");
        assert_eq!(wire.until("\r\n\r\n").await, "0\r\nx-up: 1\r\n\r\n");
        wire.send("0\r\nx-down: 2\r\n\r\n").await;
        let (rest, got) = within("the end", body_of(&mut down)).await.expect("an end");
        assert!(rest.is_empty());
        assert_eq!(got, trailers("x-down", "2"));

        let head = client.head("POST", "/h2", &[("te", "trailers")]);
        let (response, mut up) = client.open(head, false).await;
        let mut asked = peer.next().await;
        let mut answer = asked.respond.send_response(reply(200, &[]), false).expect("sends");
        let mut down = within("a head", response).await.expect("an answer").into_body();
        for _ in 0..3 {
            up.send_data(Bytes::from_static(b"ping"), false).expect("sends");
            let piece = within("a piece", asked.request.body_mut().data()).await.expect("a piece").expect("a piece");
            assert_eq!(piece, "ping");
            answer.send_data(Bytes::from_static(b"pong"), false).expect("sends");
            let piece = within("a piece", down.data()).await.expect("a piece").expect("a piece");
            assert_eq!(piece, "pong");
        }
        up.send_trailers(trailers("x-up", "1")).expect("sends");
        let (_, got) = within("the end", body_of(asked.request.body_mut())).await.expect("an end");
        assert_eq!(got, trailers("x-up", "1"));
        answer.send_trailers(trailers("x-down", "2")).expect("sends");
        let (_, got) = within("the end", body_of(&mut down)).await.expect("an end");
        assert_eq!(got, trailers("x-down", "2"));
    })
    .await;
}

/// How much of a stream is taken before it is stuck.
async fn fill(stream: &mut h2::SendStream<Bytes>, most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        stream.reserve_capacity(64 << 10);
        let Ok(Some(Ok(room))) = timeout(STUCK, poll_fn(|cx| stream.poll_capacity(cx))).await else { break };
        stream.send_data(Bytes::from(vec![b'x'; room]), false).expect("sends");
        sent += room;
    }
    sent
}

#[tokio::test]
async fn who_does_not_read_stops_the_writer_and_gets_everything_later() {
    let upstream = Upstream::start().await;
    let mut peer = Peer::start().await;
    with_gateway(&routes(&upstream.url(), &peer.url()), async |gateway| {
        let bound = under_way_max();
        let mut client = Http2::connect(gateway.proxy_addr()).await;

        // Down from HTTP/1.1.
        let head = client.head("GET", "/h1", &[]);
        let (response, _) = client.open(head, true).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
        let mut down = within("a head", response).await.expect("an answer").into_body();
        let sent = wire.send_until_stuck(2 * bound, STUCK).await;
        assert!(sent < bound, "{sent} bytes went down to nobody");
        let mut got = 0;
        while got < sent {
            let piece = within("the rest", down.data()).await.expect("a piece").expect("a piece");
            down.flow_control().release_capacity(piece.len()).expect("room");
            got += piece.len();
        }
        drop((down, wire));

        // Up to HTTP/1.1.
        let head = client.head("PUT", "/h1", &[]);
        let (_response, mut up) = client.open(head, false).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        let sent = fill(&mut up, 2 * bound).await;
        assert!(sent < bound, "{sent} bytes went up to nobody");
        within("the rest", wire.skip(sent)).await;
        drop((up, wire));

        // Both ways by HTTP/2: windows are all that is on its way.
        let head = client.head("PUT", "/h2", &[]);
        let (response, mut up) = client.open(head, false).await;
        let mut asked = peer.next().await;
        let mut answer = asked.respond.send_response(reply(200, &[]), false).expect("sends");
        let mut down = within("a head", response).await.expect("an answer").into_body();
        let (sent_up, sent_down) = (fill(&mut up, 8 << 20).await, fill(&mut answer, 8 << 20).await);
        assert!(sent_up <= 512 << 10 && sent_down <= 1 << 20, "{sent_up} up, {sent_down} down");
        for (stream, sent) in [(asked.request.body_mut(), sent_up), (&mut down, sent_down)] {
            let mut got = 0;
            while got < sent {
                let piece = within("the rest", stream.data()).await.expect("a piece").expect("a piece");
                stream.flow_control().release_capacity(piece.len()).expect("room");
                got += piece.len();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_both_ways_at_once_leaves_the_gateway_small() {
    const BODY: usize = 256 << 20;
    const RESIDENT_KIB_MAX: u64 = 40 << 10;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(4 << 20);
    let mut peer = Peer::start_with(builder, None).await;
    let manifest = routes("http://127.0.0.1:9", &peer.url());
    let gateway = Gateway::builder().proxies(0).manifest(&manifest).start().await;
    let (proxy, listen) = gateway.child(2).await;
    let echo = tokio::spawn(async move {
        let mut asked = peer.next().await;
        let mut down = asked.respond.send_response(reply(200, &[]), false).expect("sends");
        while let Some(piece) = asked.request.body_mut().data().await {
            let piece = piece.expect("a piece");
            let bytes = piece.len();
            crate::harness::pour(&mut down, piece, false).await.expect("sends");
            asked.request.body_mut().flow_control().release_capacity(bytes).expect("room");
        }
        down.send_data(Bytes::new(), true).expect("sends");
        peer
    });
    let mut client = Http2::connect(listen).await;
    let head = client.head("PUT", "/h2", &[("content-length", &BODY.to_string())]);
    let (response, mut up) = client.open(head, false).await;
    let writer = tokio::spawn(async move {
        let block = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..BODY >> 20 {
            crate::harness::pour(&mut up, block.clone(), false).await.expect("sends");
        }
        up.send_data(Bytes::new(), true).expect("sends");
    });
    let mut down = within("a head", response).await.expect("an answer").into_body();
    let (mut got, mut most) = (0, 0);
    while let Some(piece) = within("a piece", down.data()).await {
        let bytes = piece.expect("a piece").len();
        down.flow_control().release_capacity(bytes).expect("room");
        if got >> 22 != (got + bytes) >> 22 {
            most = most.max(proxy.resident_kib());
        }
        got += bytes;
    }
    assert_eq!(got, BODY);
    writer.await.expect("all of it");
    drop(echo.await.expect("all of it"));
    eprintln!("resident: {most} KiB at most");
    assert!(most < RESIDENT_KIB_MAX, "{most} KiB resident");
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_answer_of_unknown_length_is_whole_only_with_its_end() {
    let upstream = Upstream::start().await;
    let mut peer = Peer::start().await;
    with_gateway(&routes(&upstream.url(), &peer.url()), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for cut in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let head = client.head("GET", "/h1", &[]);
            let (response, _) = client.open(head, true).await;
            let mut wire = upstream.accept().await;
            wire.head().await;
            wire.send(cut).await;
            let mut down = within("a head", response).await.expect("an answer").into_body();
            drop(wire);
            let error = within("an end", body_of(&mut down)).await.expect_err("it is cut");
            assert!(error.is_reset() && error.is_remote(), "{error}");
        }
        let head = client.head("GET", "/h2", &[]);
        let (response, _) = client.open(head, true).await;
        let mut asked = peer.next().await;
        let mut answer = asked.respond.send_response(reply(200, &[]), false).expect("sends");
        answer.send_data(Bytes::from_static(b"half"), false).expect("sends");
        let mut down = within("a head", response).await.expect("an answer").into_body();
        answer.send_reset(h2::Reason::INTERNAL_ERROR);
        assert!(within("an end", body_of(&mut down)).await.is_err());
        // The connection goes on.
        let head = client.head("GET", "/h2", &[]);
        let (response, _) = client.open(head, true).await;
        peer.next().await.say(200, "next");
        assert_eq!(answered(response).await.expect("an answer").text(), "next");
        // And the same to a client of HTTP/1.1.
        let mut wire = crate::harness::Wire::connect(gateway.proxy_addr()).await;
        wire.send("GET /h2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut asked = peer.next().await;
        let mut answer = asked.respond.send_response(reply(200, &[]), false).expect("sends");
        answer.send_data(Bytes::from_static(b"half"), false).expect("sends");
        wire.until("half").await;
        answer.send_reset(h2::Reason::INTERNAL_ERROR);
        assert_eq!(wire.end().await, crate::harness::End::Reset);
    })
    .await;
}
