//! What a process holds: memory, open files, threads.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::rig::Proxy;
use crate::harness::{Child, Client, DEADLINE, within};

/// From this on a run is long enough for a heap to have found its size.
const LONG: Duration = Duration::from_secs(60);

/// In a short run the warm-up is seconds, and the heap still settles after it, by a megabyte or so, and some more with the
/// buffers of TLS. That finds what leaks with every request; what leaks with every apply takes a long run, or the test of
/// ten thousand pushes.
const SHORT_SLACK_KIB: u64 = 3 << 10;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

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

/// Returns when a proxy counts no connections and holds no more than before anybody came.
pub async fn return_to(idle: &Vitals, proxy: &Proxy) {
    let counts_none = async {
        let gauges = ["rustygate_client_connections 0\n", "rustygate_tunnels 0\n"];
        loop {
            let metrics = Client::connect(proxy.admin).await.get("/metrics").await.text();
            if gauges.iter().all(|line| metrics.contains(line)) {
                return;
            }
            sleep(PAUSE).await;
        }
    };
    within("the end of every connection", counts_none).await;
    // From here on it is left alone: a request for metrics would keep its threads.
    let mut now = Vitals::of(&proxy.child);
    let at_rest = async {
        while !is_at_rest(now, *idle) {
            sleep(PAUSE).await;
            now = Vitals::of(&proxy.child);
        }
    };
    if timeout(DEADLINE, at_rest).await.is_err() {
        panic!("a proxy does not come to rest: it holds {now:?}, and held {idle:?} before");
    }
}

fn is_at_rest(now: Vitals, idle: Vitals) -> bool {
    now.files <= idle.files && now.threads <= idle.threads + BLOCKING_THREADS
}
