//! What an open WebSocket carries, and how it ends.

use std::time::Duration;

use tokio::time::Instant;

use super::socket::{Asking, Service, Socket, Speaks, WAYS, all_closed, open};
use crate::harness::{End, with_gateway};

const MIB: usize = 1 << 20;

const TIMEOUTS: &str = "{total: 5s, idle: 60s}";

#[tokio::test]
async fn bytes_go_both_ways_and_either_side_may_end_first() {
    for (client_speaks, upstream_speaks) in WAYS {
        eprintln!("{client_speaks:?} to {upstream_speaks:?}");
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
            for client_first in [true, false] {
                let asking = Asking::ask(gateway, client_speaks, b"early").await;
                let offer = service.offer().await;
                assert_eq!(offer.header("sec-websocket-version").as_deref(), Some("13"));
                assert_eq!(offer.header("sec-websocket-protocol").as_deref(), Some("chat, superchat"));
                assert_eq!(offer.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
                let mut upstream = offer.agree("superchat").await;
                // The upstream may speak at once.
                upstream.send("first").await;
                let mut client = asking.agreed("superchat").await;
                assert_eq!(client.exactly(5).await, b"first");
                assert_eq!(upstream.exactly(5).await, b"early");
                // Like a conversation: each waits for the other's bytes, whatever they are.
                for byte in 0..=255_u8 {
                    client.send([0x81, byte, 0xff]).await;
                    assert_eq!(upstream.exactly(3).await, [0x81, byte, 0xff]);
                    upstream.send([byte, 0]).await;
                    assert_eq!(client.exactly(2).await, [byte, 0]);
                }
                let (mut first, mut second) = if client_first { (client, upstream) } else { (upstream, client) };
                first.finish().await;
                assert_eq!(second.end().await, End::Closed);
                second.send("last words").await;
                assert_eq!(first.exactly(10).await, b"last words");
                second.finish().await;
                assert_eq!(first.end().await, End::Closed);
                all_closed(gateway).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn who_breaks_off_or_dies_ends_the_other_side_too() {
    for (client_speaks, upstream_speaks) in WAYS {
        eprintln!("{client_speaks:?} to {upstream_speaks:?}");
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
            for finished in [false, true] {
                // The client, in the hard way and by its process's death.
                for dies in [false, true] {
                    let (mut client, mut upstream) = open(gateway, client_speaks, &mut service).await;
                    if finished {
                        upstream.finish().await;
                        assert_eq!(client.end().await, End::Closed);
                    }
                    match dies {
                        true => client.die(),
                        false => client.reset(),
                    }
                    let end = upstream.end().await;
                    // By HTTP/1.1 a death looks like an end in order.
                    let expected = if dies && client_speaks == Speaks::Http1 { End::Closed } else { End::Reset };
                    assert!(end == expected || upstream_speaks == Speaks::Http1, "{end:?}");
                    drop(upstream);
                    all_closed(gateway).await;
                }
                let (mut client, mut upstream) = open(gateway, client_speaks, &mut service).await;
                if finished {
                    client.finish().await;
                    assert_eq!(upstream.end().await, End::Closed);
                }
                upstream.reset();
                assert_eq!(client.end().await, End::Reset);
                all_closed(gateway).await;
            }
        })
        .await;
    }
}

/// So many bytes that nobody takes for others.
fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 31 + at / 251 + seed) % 256).expect("a byte")).collect()
}

/// Sends all of one while the other end sends all of the other, and neither waits for its turn.
async fn exchange(mut client: Socket, mut upstream: Socket, bytes: usize) {
    let (up, down) = (pattern(1, bytes), pattern(2, bytes));
    let (at_client, at_upstream) = tokio::join!(client.exchange(&up, bytes), upstream.exchange(&down, bytes));
    assert!(at_client == down && at_upstream == up, "other bytes than were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mebibytes_go_both_ways_at_once() {
    for (client_speaks, upstream_speaks) in WAYS {
        eprintln!("{client_speaks:?} to {upstream_speaks:?}");
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
            let (client, upstream) = open(gateway, client_speaks, &mut service).await;
            exchange(client, upstream, 8 * MIB).await;
        })
        .await;
    }
}

#[tokio::test]
async fn silence_ends_it_and_the_total_time_does_not() {
    const PAUSE: Duration = Duration::from_millis(300);
    for (client_speaks, upstream_speaks) in WAYS {
        eprintln!("{client_speaks:?} to {upstream_speaks:?}");
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest("{total: 500ms, idle: 1500ms}"), async |gateway| {
            let (mut client, mut upstream) = open(gateway, client_speaks, &mut service).await;
            let opened = Instant::now();
            // Either direction keeps it open.
            for _ in 0..4 {
                tokio::time::sleep(PAUSE).await;
                client.send("up").await;
                assert_eq!(upstream.exactly(2).await, b"up");
            }
            for _ in 0..4 {
                tokio::time::sleep(PAUSE).await;
                upstream.send("down").await;
                assert_eq!(client.exactly(4).await, b"down");
            }
            assert!(opened.elapsed() > 8 * PAUSE);
            let silent = Instant::now();
            assert_eq!(client.end().await, End::Reset);
            assert!(silent.elapsed() >= Duration::from_millis(1300), "{:?}", silent.elapsed());
            upstream.end().await;
            all_closed(gateway).await;
        })
        .await;
    }
}
