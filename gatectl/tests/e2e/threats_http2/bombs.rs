//! Little on the wire that is much in memory.

use super::{
    arena::Arena,
    frames::{Attacker, headers, literal, request, window},
};

const CONNECTIONS: usize = 50;
const STREAMS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_base() {
    let mut arena = Arena::start(&[]).await;
    let (addr, held) = (arena.addr, arena.upstream.held.clone());
    arena
        .survives(async move {
            let mut all = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut attacker = Attacker::with_window(addr, 0).await;
                attacker.flood(STREAMS, |stream| headers(stream, true, request("GET", "/hold"))).await;
                all.push(attacker);
            }
            held.open(CONNECTIONS * STREAMS).await;
        })
        .await;
    arena.upstream.held.open(0).await;
}
