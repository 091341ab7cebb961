//! Clients that take their time: each stage of a connection has its timer.

use std::time::Duration;

use super::{
    arena::Arena,
    frames::{
        Attacker, CONTINUATION, DATA, ENHANCE_YOUR_CALM, Fate, HEADERS, PING, SETTINGS, frame, headers, literal,
        request, window,
    },
};
use crate::harness::{Wire, within};

const TIMERS: [&str; 8] =
    ["--head-timeout", "1", "--body-timeout", "1", "--write-timeout", "1", "--keep-alive-timeout", "1"];

/// Sends a piece now and then until the connection ends; says how.
async fn drip(attacker: &mut Attacker, piece: &[u8]) -> u32 {
    within("an end", async {
        while !attacker.is_told() && attacker.send(piece).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        attacker.ended().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_forever_is_cut_off() {
    let mut arena = Arena::start(&TIMERS).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    let attack = async || {
        let preface = async {
            let mut wire = Wire::connect(addr).await;
            wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n").await;
            wire.end().await;
        };
        let settings = async {
            let mut wire = Wire::connect(addr).await;
            wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04").await;
            wire.end().await;
        };
        let head = async {
            let mut attacker = Attacker::connect(addr).await;
            // Another request that waits is no excuse.
            let hold = attacker.open();
            attacker.send(headers(hold, true, request("GET", "/hold"))).await;
            let stream = attacker.open();
            attacker.send(frame(HEADERS, 1, stream, request("GET", "/"))).await;
            assert_eq!(
                drip(&mut attacker, &frame(CONTINUATION, 0, stream, literal("a", "b"))).await,
                ENHANCE_YOUR_CALM
            );
        };
        let body = async {
            let mut attacker = Attacker::connect(addr).await;
            attacker.send(headers(1, false, request("POST", "/after"))).await;
            attacker.send(frame(DATA, 0, 1, b"x")).await;
            assert_eq!(attacker.fate(1).await, Fate::Answered(408));
        };
        let reader = async {
            let mut attacker = Attacker::with_window(addr, 0).await;
            attacker.send(headers(1, true, request("GET", "/large"))).await;
            assert_eq!(attacker.fate(1).await, Fate::Answered(200));
            assert!(matches!(attacker.fate(1).await, Fate::Reset(_)));
        };
        let idle = async {
            let mut attacker = Attacker::connect(addr).await;
            assert_eq!(attacker.get("/").await, Fate::Answered(200));
            // It takes no notice of being told to go, and says so again and again.
            assert_eq!(drip(&mut attacker, &frame(PING, 0, 0, [1; 8])).await, 0);
        };
        tokio::join!(preface, settings, head, body, reader, idle);
        held.open(0).await;
    };
    arena.survives(attack).await;
    arena.connections(0).await;
    for limit in ["head_timeout", "request_body_timeout", "write_timeout", "keep_alive_timeout"] {
        assert!(arena.hits(limit).await > 0, "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_cut_off() {
    let mut arena = Arena::start(&TIMERS).await;
    let addr = arena.addr;
    let deaf = std::cell::RefCell::new(Vec::new());
    let attack = async || {
        // The window is as large as can be; it is the connection that takes nothing.
        let mut attacker = Attacker::deaf(addr, &window(0x7fff_ffff)).await;
        attacker.flood(100, |stream| headers(stream, true, request("GET", "/large"))).await;
        deaf.borrow_mut().push(attacker);
        // As long as the attack goes on: another would only be more of the same.
        tokio::time::sleep(Duration::from_millis(600)).await;
    };
    arena.survives(attack).await;
    arena.connections(0).await;
    let mut idle = Attacker::deaf(addr, &frame(SETTINGS, 0, 0, [])).await;
    idle.send(frame(PING, 0, 0, [1; 8])).await;
    arena.connections(0).await;
}
