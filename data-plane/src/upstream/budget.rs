//! The retry budget: retries may add so many percent to a backend's load, and a few more when there is little of it, so
//! that retries cannot turn a slow backend into a dead one.
//!
//! What requests earn is kept by the worker that serves them and lasts for 10 to 20 s, so that a burst of failures is paid
//! for by the load before it. The free retries are the process's ([`Group::take_free_retry`]) and touched only when those
//! that were earned are used up.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::{
    health::{Group, Moment},
    snapshot::RetryBudget as Terms,
};

/// For how long what was earned lasts, at least.
const GENERATION: Duration = Duration::from_secs(10);

/// What a retry costs; a request earns as many as its percentage.
const RETRY_COST: u64 = 100;

/// One worker's. See the module documentation.
#[derive(Debug)]
pub struct RetryBudget {
    begun: Cell<Instant>,
    /// Earned in the generation before this, and not yet spent.
    old: Cell<u64>,
    /// Earned in this one.
    new: Cell<u64>,
}

impl RetryBudget {
    /// Nothing was earned yet.
    pub fn new(now: Instant) -> Self {
        Self { begun: Cell::new(now), old: Cell::new(0), new: Cell::new(0) }
    }

    /// A first try earns.
    pub fn deposit(&self, terms: Terms, now: Instant) {
        self.turn(now);
        self.new.set(self.new.get() + u64::from(terms.percent));
    }

    /// A retry costs; false if it can't be afforded.
    pub fn withdraw(&self, terms: Terms, group: &Group, now: Instant, moment: Moment) -> bool {
        self.turn(now);
        let (old, new) = (self.old.get(), self.new.get());
        if old + new >= RETRY_COST {
            let from_old = old.min(RETRY_COST);
            self.old.set(old - from_old);
            self.new.set(new - (RETRY_COST - from_old));
            return true;
        }
        group.take_free_retry(terms.min_per_second, moment)
    }

    fn turn(&self, now: Instant) {
        let age = now.saturating_duration_since(self.begun.get());
        if age < GENERATION {
            return;
        }
        self.old.set(if age < 2 * GENERATION { self.new.get() } else { 0 });
        self.new.set(0);
        self.begun.set(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { percent: 20, min_per_second: 10 };

    #[test]
    fn retries_are_a_fifth_of_the_requests_beyond_the_free_ones() {
        let (group, now) = (Group::new("b".into()), Instant::now());
        let budget = RetryBudget::new(now);
        let retries = (0..1000)
            .filter(|_| {
                budget.deposit(TERMS, now);
                budget.withdraw(TERMS, &group, now, Moment(1))
            })
            .count();
        assert_eq!(retries, 200 + 10);
    }

    #[test]
    fn what_was_earned_is_forgotten_and_free_retries_come_back() {
        let (group, begun) = (Group::new("b".into()), Instant::now());
        let budget = RetryBudget::new(begun);
        let none = Terms { percent: 20, min_per_second: 0 };
        for _ in 0..100 {
            budget.deposit(none, begun);
        }
        let after = |seconds: u64| (begun + Duration::from_secs(seconds), Moment(seconds * 1000 + 1));
        let (now, moment) = after(15);
        assert!(budget.withdraw(none, &group, now, moment), "earned 15 s ago");
        let (now, moment) = after(40);
        assert!(!budget.withdraw(none, &group, now, moment), "long ago");
        let free = |seconds| {
            let (now, moment) = after(seconds);
            (0..100).filter(|_| budget.withdraw(TERMS, &group, now, moment)).count()
        };
        assert_eq!([free(41), free(41), free(42), free(60)], [10, 0, 10, 10]);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let (group, now) = (Group::new("b".into()), Instant::now());
        let budget = RetryBudget::new(now);
        let terms = Terms { percent: 0, min_per_second: 0 };
        budget.deposit(terms, now);
        assert!(!budget.withdraw(terms, &group, now, Moment(1)));
    }
}
