//! Which endpoints are down, by active checks. Kept by endpoint id over pushes; written by the checkers on the
//! background runtime, read by every worker without a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{live::IdMap, snapshot::Id};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Health {
    down: ArcSwap<IdMap<()>>,
}

impl Health {
    /// Whether an endpoint may get requests; one that nobody checks may.
    #[must_use]
    pub fn usable(&self, endpoint: Id) -> bool {
        !self.down.load().contains_key(&endpoint)
    }

    /// A checker's verdict.
    pub fn set(&self, endpoint: Id, up: bool) {
        self.down.rcu(|down| {
            let mut down = IdMap::clone(down);
            if up {
                down.remove(&endpoint);
            } else {
                down.insert(endpoint, ());
            }
            Arc::new(down)
        });
    }
}
