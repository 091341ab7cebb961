//! Which endpoint of a backend gets a request.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{Upstreams, budget::RetryBudget, pool::EndpointState};
use crate::snapshot::{Backend, Endpoint, Policy};

/// A backend's position and budget, kept over pushes.
#[derive(Debug)]
pub struct BackendState {
    /// The next slot of the round-robin schedule.
    position: Cell<usize>,
    /// What retries may cost.
    pub budget: RetryBudget,
    used: Cell<Instant>,
}

impl Default for BackendState {
    fn default() -> Self {
        // Workers begin at different slots, so that the first requests of all do not hit one endpoint.
        Self {
            position: Cell::new(fastrand::usize(..1 << 16)),
            budget: RetryBudget::default(),
            used: Cell::new(Instant::now()),
        }
    }
}

impl BackendState {
    /// Whether no request used it for that long.
    pub fn unused_since(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.used.get()) > age
    }

    /// A request uses it.
    pub fn touch(&self, now: Instant) {
        self.used.set(now);
    }
}

/// Chooses an endpoint that may be used, other than `avoid` (the one that just failed) if there is another; `None`
/// if the backend has none.
pub fn choose<'b>(
    backend: &'b Backend,
    state: &BackendState,
    upstreams: &Upstreams,
    usable: impl Fn(&Endpoint) -> bool,
    avoid: Option<&Endpoint>,
) -> Option<(&'b Endpoint, Rc<EndpointState>)> {
    let mut fallback = None;
    let tries = backend.schedule.len();
    for _ in 0..tries {
        let endpoint = &backend.endpoints[usize::from(next(backend, state, upstreams))];
        if avoid.is_some_and(|avoid| avoid.id == endpoint.id) {
            fallback.get_or_insert(endpoint);
        } else if usable(endpoint) {
            return Some((endpoint, upstreams.endpoint(endpoint)));
        }
    }
    // Every check says that every endpoint is down: the checks are as likely to be wrong, so requests go on.
    let endpoint = match fallback {
        Some(endpoint) => endpoint,
        None if tries > 0 => &backend.endpoints[usize::from(next(backend, state, upstreams))],
        None => return None,
    };
    Some((endpoint, upstreams.endpoint(endpoint)))
}

fn next(backend: &Backend, state: &BackendState, upstreams: &Upstreams) -> u16 {
    let schedule = &backend.schedule;
    match backend.policy {
        Policy::RoundRobin => {
            let position = state.position.get();
            state.position.set(position.wrapping_add(1));
            schedule[position % schedule.len()]
        }
        Policy::LeastRequest => {
            // The schedule holds each endpoint in proportion to its weight.
            let (one, other) =
                (schedule[fastrand::usize(..schedule.len())], schedule[fastrand::usize(..schedule.len())]);
            let load = |index: u16| upstreams.endpoint(&backend.endpoints[usize::from(index)]).in_flight();
            if load(other) < load(one) { other } else { one }
        }
    }
}
