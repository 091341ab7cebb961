//! What a process holds: memory, open files, threads.

use std::time::Duration;

use tokio::time::sleep;

use super::rig::Proxy;
use crate::harness::{Child, Client, DEADLINE};

/// From this on a run is long enough for a heap to have found its size.
const LONG: Duration = Duration::from_secs(60);

/// In a short run the warm-up is seconds, and the heap still settles after it, by a megabyte or so. Snapshots that are
/// kept cost several in that time.
const SHORT_SLACK_KIB: u64 = 1 << 10;

/// The pool for blocking work keeps threads for a while: about as many as there was such work at a time.
const BLOCKING_THREADS: usize = 4;

/// Of a process at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    files: usize,
    threads: usize,
}

impl Vitals {
    pub fn of(child: &Child) -> Self {
        Self { files: child.count("fd"), threads: child.count("task") }
    }
}

/// Panics if a process has grown by more than a tenth from the warm-up to the end.
pub fn check_memory(total: Duration, warm: &[u64], late: &[u64]) {
    let slack = if total >= LONG { 0 } else { SHORT_SLACK_KIB };
    for (index, (warm, late)) in warm.iter().zip(late).enumerate() {
        let most = warm + warm / 10 + slack;
        assert!(*late <= most, "process {index}: {late} KiB at the end, {warm} KiB after the warm-up, {most} allowed");
    }
}

/// Returns when a proxy holds no more than before anybody came, and counts no connections.
pub async fn return_to(idle: &Vitals, proxy: &mut Proxy) {
    let mut last = String::new();
    let settled = async {
        loop {
            let metrics = Client::connect(proxy.admin).await.get("/metrics").await.text();
            let gauges = ["rustygate_client_connections 0\n", "rustygate_tunnels 0\n"];
            let vitals = Vitals::of(&proxy.child);
            if gauges.iter().all(|line| metrics.contains(line)) && is_at_rest(vitals, *idle) {
                return;
            }
            last = format!("{vitals:?} instead of {idle:?}, or connections are open");
            sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, settled).await.is_err() {
        panic!("a proxy does not come to rest: {last}");
    }
}

fn is_at_rest(now: Vitals, idle: Vitals) -> bool {
    now.files <= idle.files && now.threads <= idle.threads + BLOCKING_THREADS
}
