//! Requests that are given up, or made to fail, as soon as they have made work.

use std::cell::RefCell;

use super::{
    arena::Arena,
    frames::{
        Attacker, CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, Fate, PRIORITY, frame, headers, literal, request, reset,
        window, window_update,
    },
};

/// What is sent with a stream, in one way to make trouble.
type Way<'a> = &'a dyn Fn(u32) -> Vec<u8>;

const MANY: usize = 20_000;

/// The most requests of such a connection that may reach an upstream: those at a time, and those that may fail.
const STARTED_MAX: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_at_once_end_their_connection() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        let mut attacker = Attacker::connect(addr).await;
        let pair = |stream| [headers(stream, true, request("GET", "/hold")), reset(stream, CANCEL)].concat();
        attacker.flood(MANY, pair).await;
        assert_eq!(attacker.ended().await, ENHANCE_YOUR_CALM);
    };
    let rounds = arena.survives(attack).await;
    held.open(0).await;
    assert!(held.begun() <= STARTED_MAX * rounds, "{} reached the upstream", held.begun());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_reset_when_they_wait_at_the_upstream_end_their_connection() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        const WAVE: usize = 25;
        let mut attacker = Attacker::connect(addr).await;
        for _ in 0..5 {
            let first = attacker.stream;
            attacker.flood(WAVE, |stream| headers(stream, true, request("GET", "/hold"))).await;
            held.open(WAVE).await;
            let resets: Vec<u8> =
                (first..attacker.stream).step_by(2).flat_map(|stream| reset(stream, CANCEL)).collect();
            assert!(attacker.send(resets).await);
            held.open(0).await;
        }
        attacker.send(headers(attacker.stream, true, request("GET", "/"))).await;
        assert_eq!(attacker.ended().await, ENHANCE_YOUR_CALM);
    };
    let rounds = arena.survives(attack).await;
    held.open(0).await;
    assert!(held.begun() <= STARTED_MAX * rounds, "{} reached the upstream", held.begun());
    assert_eq!(arena.hits("http2_resets").await, rounds as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_makes_the_gateway_reset_its_requests_loses_its_connection() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let get = |stream| headers(stream, true, request("GET", "/hold"));
    let post = |stream, length: &str| {
        headers(stream, false, [request("POST", "/hold"), literal("content-length", length)].concat())
    };
    let ways: [(&str, Way<'_>); 8] = [
        ("WINDOW_UPDATE by nothing", &|stream| [get(stream), window_update(stream, 0)].concat()),
        ("a window too large", &|stream| [get(stream), window_update(stream, 0x7fff_ffff)].concat()),
        ("DATA behind the end", &|stream| [get(stream), frame(DATA, 0, stream, b"x")].concat()),
        ("HEADERS behind the end", &|stream| [get(stream), get(stream)].concat()),
        ("PRIORITY of four bytes", &|stream| [get(stream), frame(PRIORITY, 0, stream, [0; 4])].concat()),
        ("PRIORITY over itself", &|stream| {
            let payload = [&stream.to_be_bytes()[..], &[1]].concat();
            [get(stream), frame(PRIORITY, 0, stream, payload)].concat()
        }),
        ("more than the length", &|stream| [post(stream, "1"), frame(DATA, 0, stream, b"xx")].concat()),
        ("less than the length", &|stream| [post(stream, "2"), frame(DATA, END_STREAM, stream, b"x")].concat()),
    ];
    for (what, way) in ways {
        let before = held.begun();
        let attack = async || {
            let mut attacker = Attacker::connect(addr).await;
            attacker.flood(MANY, way).await;
            let code = attacker.ended().await;
            println!("{what}: {code}");
            assert_ne!(code, 0, "{what}");
        };
        let rounds = arena.survives(attack).await;
        held.open(0).await;
        let begun = held.begun() - before;
        assert!(begun <= STARTED_MAX * rounds, "{what}: {begun} reached the upstream");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_frames_of_a_client_that_takes_nothing_are_not_answered_for_ever() {
    let mut arena = Arena::start(&["--keep-alive-timeout", "1"]).await;
    let addr = arena.addr;
    let ways: [(&str, Way<'_>); 2] = [
        ("WINDOW_UPDATE by nothing", &|stream| {
            [headers(stream, true, request("GET", "/large")), window_update(stream, 0)].concat()
        }),
        ("DATA on a closed stream", &|stream| {
            let head = headers(stream, true, request("GET", "/large"));
            [head, reset(stream, CANCEL), frame(DATA, 0, stream, b"x")].concat()
        }),
    ];
    for (what, way) in ways {
        println!("{what}");
        let deaf = RefCell::new(Vec::new());
        let attack = async || {
            let mut attacker = Attacker::deaf(addr, &window(0)).await;
            attacker.flood(MANY, way).await;
            deaf.borrow_mut().push(attacker);
        };
        arena.survives(attack).await;
        arena.connections(0).await;
    }
}

#[tokio::test]
async fn a_client_that_gives_up_a_request_now_and_then_keeps_its_connection() {
    let arena = Arena::start(&[]).await;
    let mut client = Attacker::connect(arena.addr).await;
    for round in 0..150 {
        let stream = client.open();
        client.send(headers(stream, true, request("GET", "/hold"))).await;
        arena.upstream.held.open(1).await;
        client.send(reset(stream, CANCEL)).await;
        arena.upstream.held.open(0).await;
        assert_eq!(client.get("/").await, Fate::Answered(200), "round {round}");
    }
}
