//! How long a client is waited for, so that one who moves a byte now and then does not live for ever: it has so much time,
//! spends it only while it is waited for, and earns a second of it with so many bytes.
//!
//! Silence from the beginning to the end of that time is not judged here: [`Flow`](super::flow::Flow) has a deadline for it.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

/// See the module documentation.
#[derive(Debug)]
pub struct Patience {
    whole: Duration,
    /// Bytes that earn a second; 0 means that any byte earns all.
    rate: Cell<u32>,
    left: Cell<Duration>,
    /// Since when the client is waited for.
    since: Cell<Option<Instant>>,
}

impl Patience {
    /// All of it is there.
    pub fn new(whole: Duration, rate: u32) -> Self {
        Self { whole, rate: Cell::new(rate), left: Cell::new(whole), since: Cell::new(None) }
    }

    /// Whether the client is waited for.
    pub fn is_waiting(&self) -> bool {
        self.since.get().is_some()
    }

    /// The client is waited for from now on.
    pub fn begin(&self, now: Instant) {
        self.since.set(Some(now));
    }

    /// It moved so many bytes, and is waited for no longer.
    pub fn end(&self, now: Instant, bytes: u64) {
        let Some(since) = self.since.take() else { return };
        self.left.set(self.left.get().saturating_sub(now.saturating_duration_since(since)));
        self.earn(bytes);
    }

    /// It moved so many bytes, and nobody had to wait for them.
    pub fn earn(&self, bytes: u64) {
        let left = self.left.get();
        if left == self.whole {
            return;
        }
        let earned = match self.rate.get() {
            0 => self.whole,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / u64::from(rate)),
        };
        self.left.set(left.saturating_add(earned).min(self.whole));
    }

    /// It may be as slow as it likes.
    pub fn waive(&self) {
        self.rate.set(0);
        self.left.set(self.whole);
    }

    /// When it is over with a client that is waited for and was slow before.
    pub fn due(&self) -> Option<Instant> {
        let left = self.left.get();
        self.since.get().filter(|_| left < self.whole).map(|since| since + left)
    }

    /// Whether it is.
    pub fn is_over(&self) -> bool {
        self.due().is_some_and(|due| Instant::now() >= due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(60);

    /// How long a client lives that moves so many bytes every so often; `None` if it still does after an hour.
    fn life(bytes: u64, every: Duration, rate: u32) -> Option<Duration> {
        let patience = Patience::new(WHOLE, rate);
        let start = Instant::now();
        let mut now = start;
        while now < start + Duration::from_secs(3600) {
            patience.begin(now);
            if let Some(due) = patience.due().filter(|due| *due <= now + every) {
                return Some(due - start);
            }
            now += every;
            patience.end(now, bytes);
        }
        None
    }

    #[test]
    fn who_is_slow_is_waited_for_no_longer_than_who_is_silent() {
        let seconds = Duration::from_secs;
        // The last byte came a moment before the end, and earned a hundredth.
        let slow = life(1, seconds(59), 100).expect("an end");
        assert!(slow >= WHOLE && slow < seconds(61), "{slow:?}");
        assert!(life(1, seconds(1), 100).expect("an end") < seconds(62));
        assert!(life(50, seconds(1), 100).expect("an end") < seconds(122), "half of the rate is twice the time");
        assert_eq!(life(100, seconds(1), 100), None);
        assert_eq!(life(6_000, seconds(59), 100), None, "in any pieces");
        assert_eq!(life(1, seconds(59), 0), None, "if nothing is asked for");
    }

    #[test]
    fn only_time_spent_waiting_counts() {
        let patience = Patience::new(WHOLE, 100);
        let mut now = Instant::now();
        for _ in 0..1_000 {
            patience.begin(now);
            now += Duration::from_millis(10);
            patience.end(now, 1);
            // Others are waited for.
            now += Duration::from_secs(1);
        }
        assert_eq!(patience.due(), None);
        assert_eq!(patience.left.get(), WHOLE);
    }

    #[test]
    fn what_comes_without_waiting_counts_too() {
        let patience = Patience::new(WHOLE, 100);
        let start = Instant::now();
        for second in 0..3_600 {
            let now = start + Duration::from_secs(second);
            patience.begin(now);
            assert_eq!(patience.due().filter(|due| *due <= now + Duration::from_secs(1)), None, "after {second} s");
            patience.end(now + Duration::from_secs(1), 50);
            // The rest of the burst.
            patience.earn(50);
        }
        assert_eq!(patience.left.get(), WHOLE);
    }

    #[test]
    fn what_was_earned_before_is_no_more_than_the_whole() {
        let patience = Patience::new(WHOLE, 100);
        let start = Instant::now();
        patience.begin(start);
        patience.end(start, 1 << 40);
        patience.begin(start);
        patience.end(start + WHOLE, 0);
        patience.begin(start + WHOLE);
        assert_eq!(patience.due(), Some(start + WHOLE));
        patience.waive();
        assert_eq!(patience.due(), None);
    }
}
