//! Frames without end.

use std::cell::RefCell;

use super::{
    arena::Arena,
    frames::{
        Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Fate, GOAWAY, HEADERS, PING,
        PRIORITY, RST_STREAM, SETTINGS, frame, headers, literal, request, window_update,
    },
};

/// More than any bound lets through, and not so much that the reason for the end is lost on the way.
const MANY: usize = 40_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_nothing_explains_end_their_connection() {
    let mut arena = Arena::start(&[]).await;
    let addr = arena.addr;
    let mut ended = 0;
    for (what, bytes) in [
        ("PING", frame(PING, 0, 0, [7; 8])),
        ("PING that answers none", frame(PING, 1, 0, [7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, [0, 4, 0, 1, 0, 0])),
        ("empty SETTINGS", frame(SETTINGS, 0, 0, [])),
        ("PRIORITY", frame(PRIORITY, 0, 1, [0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE by a byte", window_update(0, 1)),
        ("a kind that nobody knows", frame(0xbb, 0, 0, [])),
    ] {
        println!("{what}");
        let attack = async || {
            let mut attacker = Attacker::connect(addr).await;
            assert_eq!(attacker.get("/").await, Fate::Answered(200));
            assert_eq!(attacker.pour(MANY, &bytes).await, ENHANCE_YOUR_CALM, "{what}");
        };
        ended += arena.survives(attack).await as u64;
    }
    assert_eq!(arena.hits("http2_frames").await, ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_client_that_floods_is_cut_off_too() {
    let mut arena = Arena::start(&["--keep-alive-timeout", "1"]).await;
    let addr = arena.addr;
    let deaf = RefCell::new(Vec::new());
    let attack = async || {
        for bytes in [frame(PING, 0, 0, [7; 8]), frame(SETTINGS, 0, 0, [0, 4, 0, 1, 0, 0])] {
            let mut attacker = Attacker::deaf(addr, &frame(SETTINGS, 0, 0, [])).await;
            attacker.send(bytes.repeat(MANY)).await;
            deaf.borrow_mut().push(attacker);
        }
    };
    arena.survives(attack).await;
    arena.connections(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_section_that_never_ends_ends_its_connection() {
    let mut arena = Arena::start(&[]).await;
    let addr = arena.addr;
    for (what, piece) in [
        ("empty", Vec::new()),
        ("a field", literal("a", "b")),
        ("a large field", literal("a", [b'b'; 16_000])),
        ("an endless field", vec![b'b'; 16_000]),
    ] {
        println!("{what}");
        let attack = async || {
            let mut attacker = Attacker::connect(addr).await;
            attacker.send(frame(HEADERS, END_STREAM, 1, request("GET", "/"))).await;
            if what == "an endless field" {
                // Its value is of 2^28 bytes.
                attacker.send(frame(CONTINUATION, 0, 1, [0, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 0x7f])).await;
            }
            let code = attacker.pour(MANY, &frame(CONTINUATION, 0, 1, &piece)).await;
            assert_ne!(code, 0, "{what}");
        };
        arena.survives(attack).await;
    }
    // A head may come in many pieces.
    let mut client = Attacker::connect(addr).await;
    let block = request("GET", "/");
    client.send(frame(HEADERS, END_STREAM, 1, [])).await;
    for byte in &block[..4] {
        client.send(frame(CONTINUATION, 0, 1, [*byte])).await;
    }
    client.send(frame(CONTINUATION, END_HEADERS, 1, &block[4..])).await;
    assert_eq!(client.fate(1).await, Fate::Answered(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_pieces_of_nothing_ends_its_connection() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    for path in ["/deaf", "/hold"] {
        println!("{path}");
        let attack = async || {
            let mut attacker = Attacker::connect(addr).await;
            // The upstream's buffers are full: what comes now waits.
            attacker.send(headers(1, false, request("POST", path))).await;
            held.open(1).await;
            assert_eq!(attacker.pour(MANY, &frame(DATA, 0, 1, [])).await, ENHANCE_YOUR_CALM, "{path}");
        };
        arena.survives(attack).await;
        held.open(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_pieces_of_a_byte_costs_little() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        let mut attacker = Attacker::connect(addr).await;
        attacker.send(headers(1, false, request("POST", "/deaf"))).await;
        held.open(1).await;
        attacker.send(frame(DATA, 0, 1, b"x").repeat(MANY)).await;
        attacker.seen().await;
        drop(attacker);
        held.open(0).await;
    };
    arena.survives(attack).await;
}

/// As gRPC sends them.
#[tokio::test]
async fn messages_of_nothing_are_passed_on_however_many_there_are() {
    const MESSAGES: usize = 12_000;
    let arena = Arena::start(&[]).await;
    let mut client = Attacker::connect(arena.addr).await;
    let messages = frame(DATA, 0, 0, [0; 5]);
    for _ in 0..4 {
        let stream = client.open();
        let mut body = messages.repeat(MESSAGES);
        for frame in body.chunks_mut(messages.len()) {
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
        }
        client.send(headers(stream, false, request("POST", "/after"))).await;
        client.send(body).await;
        client.send(frame(DATA, END_STREAM, stream, [])).await;
    }
    for _ in 0..4 {
        let status = loop {
            let frame = client.next().await.expect("the connection stays");
            assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
            if frame.kind == HEADERS {
                break frame.status();
            }
        };
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn a_body_that_ends_with_an_empty_frame_is_whole() {
    let arena = Arena::start(&[]).await;
    let mut client = Attacker::connect(arena.addr).await;
    // More such requests than there may be empty frames that say nothing.
    for _ in 0..300 {
        let stream = client.open();
        let grpc = [literal("content-type", "application/grpc"), literal("te", "trailers")].concat();
        client.send(headers(stream, false, [request("POST", "/after"), grpc].concat())).await;
        client.send(frame(DATA, 0, stream, [0, 0, 0, 0, 1, 7])).await;
        client.send(frame(DATA, END_STREAM, stream, [])).await;
        assert_eq!(client.fate(stream).await, Fate::Answered(200));
    }
}
