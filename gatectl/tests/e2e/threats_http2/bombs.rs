//! Little on the wire that is much in memory: fields that a table of the compression unfolds, on as many streams as there
//! may be, kept for as long as an answer can be put off.

use std::time::Duration;

use super::{
    arena::{Arena, LARGE},
    frames::{
        Attacker, DATA, END_STREAM, ENHANCE_YOUR_CALM, Fate, HEADERS, frame, headers, last_learnt, learnt, literal,
        request,
    },
};
use crate::harness::within;

const CONNECTIONS: usize = 50;
const STREAMS: usize = 100;

/// As many references to a field of 33 bytes as the gateway's bound on a header section lets through, roughly.
const REFERENCES: usize = 900;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_unfolded_from_a_byte_each_are_refused() {
    let mut arena = Arena::start(&[]).await;
    for (what, name, references) in [
        ("far too many", "a", 16_000),
        ("within the size of a section", "a", REFERENCES),
        ("crumbs of a cookie", "cookie", 790),
    ] {
        println!("{what}");
        let arena = &mut arena;
        let addr = arena.addr;
        let attack = async || {
            let mut all = Vec::new();
            for _ in 0..CONNECTIONS / 5 {
                let mut attacker = Attacker::with_window(addr, 0).await;
                attacker
                    .flood(STREAMS * 2, |stream| {
                        let block = [request("GET", "/"), learnt(name, ""), last_learnt(references)].concat();
                        headers(stream, true, block)
                    })
                    .await;
                let fate = attacker.fate(1).await;
                assert!(matches!(fate, Fate::Answered(431) | Fate::Closed(_)), "{what}: {fate:?}");
                all.push(attacker);
            }
        };
        arena.survives(attack).await;
    }
    // The bound does not hit who has many, but not too many.
    let mut client = Attacker::connect(arena.addr).await;
    let block = [request("GET", "/"), learnt("cookie", "a=b"), last_learnt(80)].concat();
    client.send(headers(1, true, block)).await;
    assert_eq!(client.fate(1).await, Fate::Answered(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_heads_unfolded_from_a_few_bytes_are_kept_of_some_only() {
    let mut arena = Arena::start(&[]).await;
    let held = arena.upstream.held.clone();
    let addr = arena.addr;
    let attack = async || {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut attacker = Attacker::with_window(addr, 0).await;
            let first = attacker.open();
            // A field of 3.9 KiB, once; then seven of it in each head for seven bytes.
            let seed = [request("GET", "/hold"), learnt("a", [b'a'; 3_900])].concat();
            attacker.send(headers(first, true, seed)).await;
            let block = [request("GET", "/hold"), last_learnt(7)].concat();
            attacker.flood(STREAMS - 1, |stream| headers(stream, true, &block)).await;
            all.push(attacker);
        }
        let refused = within("every request", async {
            loop {
                for attacker in &mut all {
                    attacker.is_told();
                }
                let refused = all.iter().map(|attacker| attacker.refused).sum::<usize>();
                // Some may wait in vain for a connection to an upstream that has so many.
                let answers = all.iter().map(|attacker| attacker.answers).sum::<usize>();
                if refused + answers + held.now() == CONNECTIONS * STREAMS {
                    return refused;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let refused = refused.await;
        assert!(refused > CONNECTIONS * STREAMS / 2, "{refused} were refused");
        // Whoever has no large heads yet has room for some.
        let mut other = Attacker::connect(addr).await;
        other.send(headers(1, true, [request("GET", "/"), literal("a", [b'a'; 16_000])].concat())).await;
        assert_eq!(other.fate(1).await, Fate::Answered(200));
        drop(all);
        held.open(0).await;
    };
    arena.survives(attack).await;
    assert!(arena.hits("http2_heads_bytes").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_that_wait_behind_a_body_are_bounded() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        for _ in 0..CONNECTIONS {
            let mut attacker = Attacker::with_window(addr, 0).await;
            // The body is more than the upstream takes, so the trailers stay behind it.
            attacker
                .flood(STREAMS, |stream| {
                    let body = frame(DATA, 0, stream, [b'x'; 5_000]);
                    let trailers = [learnt("a", ""), last_learnt(REFERENCES)].concat();
                    let trailers = frame(HEADERS, END_STREAM | 4, stream, trailers);
                    [headers(stream, false, request("POST", "/deaf")), body, trailers].concat()
                })
                .await;
            assert_eq!(attacker.ended().await, ENHANCE_YOUR_CALM);
        }
        held.open(0).await;
    };
    let rounds = arena.survives(attack).await;
    assert_eq!(arena.hits("http2_trailer_bytes").await, (rounds * CONNECTIONS) as u64);
    // One after another they may be as many as there are requests.
    let mut client = Attacker::connect(addr).await;
    for _ in 0..100 {
        let stream = client.open();
        client.send(headers(stream, false, request("POST", "/after"))).await;
        client.send(frame(DATA, 0, stream, b"x")).await;
        client.send(headers(stream, true, literal("x-checksum", [b'0'; 200]))).await;
        assert_eq!(client.fate(stream).await, Fate::Answered(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_no_upstream_takes_are_bounded() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut attacker = Attacker::connect(addr).await;
            // With it the gateway's windows are known to be as large as they get.
            assert_eq!(attacker.get("/").await, Fate::Answered(200));
            // As much as the windows let through: of each stream, and of the connection.
            let mut sent = 0;
            for _ in 0..8 {
                let stream = attacker.open();
                attacker.send(headers(stream, false, request("POST", "/deaf"))).await;
                for _ in 0..255 {
                    attacker.send(frame(DATA, 0, stream, [b'x'; 256])).await;
                    sent += 256;
                }
            }
            assert!(sent < 512 << 10);
            attacker.seen().await;
            all.push(attacker);
        }
        drop(all);
        held.open(0).await;
    };
    arena.survives(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_that_wait_cost_little() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        let mut all = Vec::new();
        for count in 1..=CONNECTIONS {
            let mut attacker = Attacker::with_window(addr, 0).await;
            attacker.flood(STREAMS, |stream| headers(stream, true, request("GET", "/hold"))).await;
            all.push(attacker);
            held.open(count * STREAMS).await;
        }
        drop(all);
        held.open(0).await;
    };
    arena.survives(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_no_client_takes_are_bounded() {
    let mut arena = Arena::start(&[]).await;
    let addr = arena.addr;
    let attack = async || {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS / 5 {
            let mut attacker = Attacker::with_window(addr, 0).await;
            attacker.flood(STREAMS, |stream| headers(stream, true, request("GET", "/large"))).await;
            attacker.done(STREAMS).await;
            assert_eq!(attacker.answers, STREAMS);
            all.push(attacker);
        }
    };
    arena.survives(attack).await;
    const { assert!(LARGE > 64 << 10) };
}
