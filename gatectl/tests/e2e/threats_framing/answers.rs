//! An upstream that is hostile or broken: what two readers would take for answers of different lengths is nobody's
//! answer, and its connection serves nobody else.

use super::arena::Arena;
use crate::harness::{Client, Reply, Upstream, Witness, answer, with_gateway};

type Cases = &'static [(&'static str, &'static str)];

/// Answers "/hostile-3" with the fourth of these.
async fn arena(cases: Cases) -> Arena {
    let witness = Witness::start(move |seen| {
        let line = seen.line();
        let number = line.split(' ').nth(1).and_then(|path| path.strip_prefix("/hostile-"));
        match number.and_then(|number| number.parse::<usize>().ok()) {
            Some(number) => Reply::Send(cases[number].1.into()),
            None => Reply::Send(answer(&seen.bytes)),
        }
    });
    Arena::before(witness.await, "").await
}

/// Each is answered with 502, is asked for once, and leaves its connection to nobody.
async fn refuses_each(cases: Cases) {
    let mut arena = arena(cases).await;
    let mut client = Client::connect(arena.addr()).await;
    for (number, (name, _)) in cases.iter().enumerate() {
        // Now there is a connection in the pool.
        arena.nothing_was_seen(name).await;
        let response = client.get(&format!("/hostile-{number}")).await;
        assert_eq!(response.status, 502, "{name}: {response:?}");
        assert!(response.text().contains("upstream_protocol"), "{name}: {response:?}");
        assert_left_to_nobody(&mut arena, name).await;
        assert!(client.get("/mine").await.text().starts_with("GET /mine "), "{name}");
        assert_eq!(arena.seen(name).await.len(), 1, "{name}");
    }
    arena.end().await;
}

async fn assert_left_to_nobody(arena: &mut Arena, name: &str) {
    let (seen, canary) = arena.seen_and_canary(name).await;
    let [hostile, _] = &seen[..] else { panic!("{name}: {seen:?}") };
    assert_ne!(hostile.connection, canary, "{name}: the connection went on");
}

#[tokio::test]
async fn a_transfer_coding_that_is_not_one_chunked() {
    refuses_each(&[
        ("a list", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("another last", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("alike", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("a tab after it", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n"),
        ("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
        ("empty", "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n"),
        ("twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("before a length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        ("after a length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_length_that_is_not_one_plain_number() {
    refuses_each(&[
        ("twice the same", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        ("twice", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nokok"),
        ("a list of the same", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
        ("plus", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("minus", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        ("hexadecimal", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok"),
        ("empty", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok"),
        ("20 digits", "HTTP/1.1 200 OK\r\nContent-Length: 10000000000000000002\r\n\r\nok"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_that_readers_disagree_on() {
    refuses_each(&[
        ("an empty field name", "HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok"),
        ("a folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        ("a folded first line", "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok"),
        ("space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        ("a line without a colon", "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok"),
        ("LF", "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok"),
        ("CR", "HTTP/1.1 200 OK\r\nX: a\rContent-Length: 2\r\n\r\nok"),
        ("LF for the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok\r\n\r\n"),
        ("NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok"),
        ("NUL in a name", "HTTP/1.1 200 OK\r\nX\0: a\r\nContent-Length: 2\r\n\r\nok"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("no status line", "ok\r\n\r\n"),
        ("a status of 99", "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok"),
    ])
    .await;
}

#[tokio::test]
async fn another_protocol_that_nobody_asked_for() {
    refuses_each(&[
        ("WebSocket", "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nok"),
        ("another", "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nok"),
        ("none", "HTTP/1.1 101 Switching\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (
            "after an interim answer",
            "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nok",
        ),
    ])
    .await;
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// The answer is good; what follows it is meant for whoever asks next.
#[tokio::test]
async fn bytes_behind_an_answer() {
    const CASES: Cases = &[
        (
            "behind a length",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "behind a length of 0",
            "HTTP/1.1 201 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "behind chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        ("a body of a 204", "HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\npoison"),
        ("a chunked body of a 204", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n"),
        ("a body of a 304", "HTTP/1.1 304 No\r\nContent-Length: 6\r\n\r\npoison"),
        ("one byte", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\n"),
        ("an empty line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n"),
        ("an interim answer too late", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n"),
        // Announced, so it may still come.
        ("a 204 with a length", "HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\n"),
        (
            "an interim answer with a length",
            "HTTP/1.1 103 Hints\r\nContent-Length: 6\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "a chunked interim answer",
            "HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "an interim answer that closes",
            "HTTP/1.1 103 Hints\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        ("an answer that closes", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let mut arena = arena(CASES).await;
    let mut client = Client::connect(arena.addr()).await;
    for (number, (name, _)) in CASES.iter().enumerate() {
        arena.nothing_was_seen(name).await;
        let response = client.get(&format!("/hostile-{number}")).await;
        let body = if response.status == 200 { "ok" } else { "" };
        assert!(response.status < 400 && response.text() == body, "{name}: {response:?}");
        assert_left_to_nobody(&mut arena, name).await;
        assert!(client.get("/mine").await.text().starts_with("GET /mine "), "{name}");
        assert_eq!(arena.seen(name).await.len(), 1, "{name}");
    }
    arena.end().await;
}

#[tokio::test]
async fn a_body_for_a_head() {
    let mut arena = arena(&[("poison", POISON)]).await;
    arena.nothing_was_seen("before").await;
    let mut client = Client::connect(arena.addr()).await;
    let response = client.request("HEAD", "/hostile-0", &[], b"").await;
    assert_eq!((response.status, response.header("content-length")), (200, Some("6")));
    assert_left_to_nobody(&mut arena, "HEAD").await;
    assert!(client.get("/mine").await.text().starts_with("GET /mine "));
    assert_eq!(arena.seen("HEAD").await.len(), 1);
    arena.end().await;
}

/// The client cannot take what it got for a whole answer.
#[tokio::test]
async fn a_body_that_is_malformed() {
    const CASES: Cases = &[
        ("LF after the size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\npoison\r\n0\r\n\r\n"),
        ("0x", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x6\r\npoison\r\n0\r\n\r\n"),
        ("plus", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+6\r\npoison\r\n0\r\n\r\n"),
        ("17 digits", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000006\r\npoison\r\n0\r\n\r\n"),
        ("too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npoison\r\n0\r\n\r\n"),
        ("too short", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npoison\r\n0\r\n\r\n"),
        ("a folded trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n"),
        (
            "an answer for a trailer",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
    ];
    let mut arena = arena(CASES).await;
    for (number, (name, _)) in CASES.iter().enumerate() {
        arena.nothing_was_seen(name).await;
        let mut client = Client::connect(arena.addr()).await;
        client.send(format!("GET /hostile-{number} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        let response = client.try_response(false).await;
        assert_eq!(response, None, "{name}");
        assert_left_to_nobody(&mut arena, name).await;
    }
    arena.end().await;
}

/// Nobody asked on that connection, so nobody is answered by it.
#[tokio::test]
async fn an_answer_while_the_connection_lies_idle() {
    let upstream = Upstream::start().await;
    let manifest = format!("routes:\n- {{path: /, backend: \"{}\"}}\n", upstream.url());
    with_gateway(&manifest, async |gateway| {
        for unasked in [POISON, "\r\n", "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"] {
            let mut first = Client::connect(gateway.proxy_addr()).await;
            let mut wire = ask(&mut first, &upstream).await;
            wire.send(answer("first")).await;
            assert_eq!(first.response(false).await.text(), "first");
            wire.send(unasked).await;
            // The same worker, so the same pool.
            let mut fresh = ask(&mut first, &upstream).await;
            fresh.send(answer("second")).await;
            assert_eq!(first.response(false).await.text(), "second", "{unasked:?}");
            wire.end().await;
            assert!(wire.buffer.is_empty(), "{unasked:?}: the connection was asked again");
            drop(fresh);
        }
    })
    .await;
}

/// Sends a request; returns the connection by which it reaches the upstream, which is a new one.
async fn ask(client: &mut Client, upstream: &Upstream) -> crate::harness::Wire {
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire
}
