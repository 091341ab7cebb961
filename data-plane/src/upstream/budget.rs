//! The retry budget: retries may add a fifth to a backend's load, and a few more when there is little of it, so that
//! retries cannot turn a slow backend into a dead one.

use std::cell::Cell;

/// Tokens a request earns, and what a retry costs: one retry for every five requests.
const RETRY_COST: u32 = 5;

/// Most tokens saved up: ten retries at once.
const SAVED_MAX: u32 = 10 * RETRY_COST;

/// See the module documentation.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: Cell<u32>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tokens: Cell::new(SAVED_MAX) }
    }
}

impl RetryBudget {
    /// A first try earns.
    pub fn deposit(&self) {
        self.tokens.set((self.tokens.get() + 1).min(SAVED_MAX));
    }

    /// A retry costs; false if it can't be afforded.
    pub fn withdraw(&self) -> bool {
        let rest = self.tokens.get().checked_sub(RETRY_COST);
        self.tokens.set(rest.unwrap_or(self.tokens.get()));
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_beyond_the_first_ten() {
        let budget = RetryBudget::default();
        let retries = (0..1000)
            .filter(|_| {
                budget.deposit();
                budget.withdraw()
            })
            .count();
        assert!((200..=212).contains(&retries), "{retries}");
    }
}
