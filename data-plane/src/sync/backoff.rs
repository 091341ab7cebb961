//! When to try the control plane again.

use std::time::Duration;

/// The longest first pause.
pub const BASE: Duration = Duration::from_millis(50);

/// No pause is longer.
pub const CAP: Duration = Duration::from_secs(10);

/// A connection that lasted this long was a good one: the pauses start over.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Exponential back-off with full jitter: each pause is drawn evenly from nothing to a ceiling, and the ceiling
/// doubles from [`BASE`] to [`CAP`]. So a fleet that lost its control plane at one moment comes back spread out,
/// and a single proxy that lost it for a moment is back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        Self { ceiling: BASE, random }
    }

    /// The pause after a connection that lasted so long (nothing, if none was made).
    pub(crate) fn pause_after(&mut self, lasted: Duration) -> Duration {
        if lasted >= HEALTHY_AFTER {
            self.ceiling = BASE;
        }
        let pause = self.ceiling.mul_f64(self.random.f64());
        self.ceiling = (self.ceiling * 2).min(CAP);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_spread_from_nothing_to_a_ceiling_that_doubles_up_to_the_cap() {
        let mut longest = [Duration::ZERO; 12];
        let mut shortest = [CAP; 12];
        for seed in 0..2_000 {
            let mut backoff = Backoff::new(fastrand::Rng::with_seed(seed));
            for attempt in 0..12 {
                let pause = backoff.pause_after(Duration::ZERO);
                longest[attempt] = longest[attempt].max(pause);
                shortest[attempt] = shortest[attempt].min(pause);
            }
        }
        for attempt in 0..12 {
            let ceiling = (BASE * (1 << attempt)).min(CAP);
            assert!(longest[attempt] <= ceiling && longest[attempt] > ceiling.mul_f64(0.98), "attempt {attempt}");
            assert!(shortest[attempt] < ceiling.mul_f64(0.02), "attempt {attempt}");
        }
    }

    #[test]
    fn only_a_good_connection_starts_over() {
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for _ in 0..20 {
            backoff.pause_after(HEALTHY_AFTER - Duration::from_millis(1));
        }
        assert_eq!(backoff.ceiling, CAP);
        assert!(backoff.pause_after(HEALTHY_AFTER) <= BASE);
    }
}
