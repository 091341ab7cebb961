//! Keys that somebody publishes, as a process knows them: fetched beside the requests, which take what is known.
//!
//! One task fetches them ([`Remote::keep`]): at first, each time the refresh interval is over, and when a request has a
//! token of a key that is not among them. So there is one fetch at a time, whoever asks; requests that wait for it wait
//! for the same one; and after it nobody can cause another for a while ([`ASK_PAUSE`]), whatever tokens say. While the
//! fetches fail, the last good keys stay, for [`KEPT_MAX`].

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use arc_swap::{ArcSwapOption, Guard};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    keys::{KeySet, Published},
    source::FetchError,
};

/// How long keys are good that could not be fetched again.
pub const KEPT_MAX: Duration = Duration::from_secs(24 * 3600);

/// From the end of a fetch until tokens may cause another.
pub const ASK_PAUSE: Duration = Duration::from_secs(10);

/// The pause after the first fetch in a row that fails; the next are twice as long each, up to the refresh interval.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug)]
pub struct Remote {
    begun: Instant,
    known: ArcSwapOption<Known>,
    /// A fetch is under way, or about to be.
    flying: AtomicBool,
    /// From when tokens may cause a fetch, in milliseconds from `begun`.
    ask_from: AtomicU64,
    /// A request asks for a fetch.
    asked: Notify,
    /// Told at the end of each fetch.
    ended: watch::Sender<()>,
    /// Fetches that brought keys, and that did not.
    fetches: [AtomicU64; 2],
}

/// What the last good fetch brought.
#[derive(Debug)]
pub struct Known {
    /// One at least.
    pub keys: KeySet,
    /// When.
    pub since: Instant,
}

impl Known {
    /// Whether they are not too old.
    #[must_use]
    pub fn is_good(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < KEPT_MAX
    }
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            known: ArcSwapOption::empty(),
            // Whoever comes before the first fetch waits for it.
            flying: AtomicBool::new(true),
            ask_from: AtomicU64::new(0),
            asked: Notify::new(),
            ended: watch::Sender::new(()),
            fetches: Default::default(),
        }
    }
}

/// A fetch under way: it ends with this, however.
struct Flight<'r>(&'r Remote);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let from = self.0.millis(Instant::now() + ASK_PAUSE);
        self.0.ask_from.store(from, Release);
        self.0.land();
    }
}

impl Remote {
    /// What is known; let go of it before the first `await`.
    #[must_use]
    pub fn known(&self) -> Guard<Option<std::sync::Arc<Known>>> {
        self.known.load()
    }

    /// Fetches that brought keys, and that did not.
    #[must_use]
    pub fn fetches(&self) -> [u64; 2] {
        [self.fetches[0].load(Relaxed), self.fetches[1].load(Relaxed)]
    }

    /// The end of the fetch that may bring other keys: one that is under way, or that begins because of this. `None` if
    /// there is none and none may be.
    #[must_use]
    pub fn flight(&self, now: Instant) -> Option<watch::Receiver<()>> {
        if !self.flying.load(Acquire) && !self.may_ask(now) {
            return None;
        }
        let ended = self.ended.subscribe();
        if !self.flying.swap(true, AcqRel) {
            self.asked.notify_one();
        }
        Some(ended)
    }

    /// Fetches for as long as this is polled.
    pub async fn keep<F>(&self, url: &str, refresh: Duration, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<Published, FetchError>>,
    {
        // Keys that are left from before need not be fetched at once.
        let mut due = self.known.load().as_ref().map_or_else(Instant::now, |known| known.since + refresh);
        let mut failures = 0;
        if due > Instant::now() {
            self.land();
        }
        loop {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.is_asked() => {}
            }
            self.flying.store(true, Release);
            let flight = Flight(self);
            let result = fetch().await;
            self.fetches[usize::from(result.is_err())].fetch_add(1, Relaxed);
            let pause = match result {
                Ok(published) => {
                    self.learn(url, published, failures > 0);
                    failures = 0;
                    // So that proxies do not march in step.
                    refresh.mul_f64(0.9 + fastrand::f64() / 10.0)
                }
                Err(error) => {
                    tell(url, &error, failures == 0, self.known.load().is_some());
                    failures += 1;
                    pause_after(failures, refresh)
                }
            };
            drop(flight);
            due = Instant::now() + pause;
        }
    }

    /// Takes over what a fetch brought.
    pub(super) fn learn(&self, url: &str, published: Published, failed_before: bool) {
        let Published { keys, unusable, reason } = published;
        let is_other = self.known.load().as_ref().is_none_or(|known| known.keys.generation != keys.generation);
        if is_other || failed_before {
            let reason = reason.map(tracing::field::display);
            tracing::info!(url, keys = keys.len(), unusable, reason, "fetched keys for tokens");
        }
        self.known.store(Some(Known { keys, since: Instant::now() }.into()));
    }

    /// Returns when a request asks, and may.
    async fn is_asked(&self) {
        loop {
            self.asked.notified().await;
            // Who asked may have been told already by a fetch that nobody asked for.
            if self.flying.load(Acquire) {
                if self.may_ask(Instant::now()) {
                    return;
                }
                self.land();
            }
        }
    }

    fn land(&self) {
        self.flying.store(false, Release);
        self.ended.send_replace(());
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.millis(now) >= self.ask_from.load(Acquire)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }
}

fn tell(url: &str, error: &FetchError, is_first: bool, has_keys: bool) {
    if !is_first {
        tracing::debug!(url, %error, "still cannot fetch keys for tokens");
    } else if has_keys {
        tracing::warn!(url, %error, "cannot fetch keys for tokens; those known last are used, for a day at most");
    } else {
        tracing::warn!(url, %error, "cannot fetch keys for tokens; tokens are refused until it succeeds");
    }
}

fn pause_after(failures: u32, refresh: Duration) -> Duration {
    let span = PAUSE_MIN.saturating_mul(1 << (failures - 1).min(20)).min(refresh);
    span.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests;
