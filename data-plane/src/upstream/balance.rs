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
/// if the backend has none with a weight.
pub fn choose<'b>(
    backend: &'b Backend,
    state: &BackendState,
    upstreams: &Upstreams,
    usable: impl Fn(&Endpoint) -> bool,
    avoid: Option<&Endpoint>,
) -> Option<(&'b Endpoint, Rc<EndpointState>)> {
    let slots = backend.schedule.len();
    if slots == 0 {
        return None;
    }
    let endpoint = |slot: usize| &*backend.endpoints[usize::from(backend.schedule[slot])];
    // From a slot on, the first that is good; all are looked at before none is.
    let first = |begin: usize, good: &dyn Fn(&Endpoint) -> bool| {
        (begin..slots).chain(0..begin).find(|&slot| good(endpoint(slot)))
    };
    let good = |endpoint: &Endpoint| usable(endpoint) && avoid.is_none_or(|avoid| avoid.id != endpoint.id);
    let begin = match backend.policy {
        Policy::RoundRobin => state.position.replace(state.position.get().wrapping_add(1)) % slots,
        // The schedule holds each endpoint in proportion to its weight.
        Policy::LeastRequest => fastrand::usize(..slots),
    };
    let slot = match (first(begin, &good), backend.policy) {
        (Some(one), Policy::RoundRobin) => one,
        (Some(one), Policy::LeastRequest) => {
            let load = |slot: usize| upstreams.endpoint(endpoint(slot)).in_flight();
            let other = first(fastrand::usize(..slots), &good).unwrap_or(one);
            if load(other) < load(one) { other } else { one }
        }
        // Only the one to avoid is up. Or every check says that everything is down: then the checks are as likely to be
        // wrong, and requests go on.
        (None, _) => first(begin, &usable).unwrap_or(begin),
    };
    let chosen = endpoint(slot);
    Some((chosen, upstreams.endpoint(chosen)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::Id;

    fn backend(policy: Policy, weights: &[u32]) -> Backend {
        let endpoints = weights.iter().enumerate().map(|(index, &weight)| {
            Arc::new(Endpoint {
                id: Id(index as u64),
                host: "127.0.0.1".into(),
                port: 1,
                authority: "127.0.0.1:1".into(),
                base_path: "".into(),
                weight,
                protocol: crate::snapshot::Protocol::Http1,
                tls: None,
            })
        });
        // In blocks, which is as good as smooth for counting.
        let schedule = weights
            .iter()
            .enumerate()
            .flat_map(|(index, &weight)| std::iter::repeat_n(u16::try_from(index).expect("few"), weight as usize));
        Backend {
            id: Id(100),
            name: "b".into(),
            endpoints: endpoints.collect(),
            policy,
            schedule: schedule.collect(),
            health_check: None,
            tls: None,
        }
    }

    fn counts(backend: &Backend, down: &[u64], avoid: Option<usize>, requests: usize) -> Vec<usize> {
        let (state, upstreams) = (BackendState::default(), Upstreams::default());
        let mut counts = vec![0; backend.endpoints.len()];
        for _ in 0..requests {
            let avoid = avoid.map(|index| &*backend.endpoints[index]);
            let usable = |endpoint: &Endpoint| !down.contains(&endpoint.id.0);
            let (chosen, _) = choose(backend, &state, &upstreams, usable, avoid).expect("there is one");
            counts[usize::try_from(chosen.id.0).expect("small")] += 1;
        }
        counts
    }

    #[tokio::test]
    async fn round_robin_follows_the_weights_to_the_request() {
        assert_eq!(counts(&backend(Policy::RoundRobin, &[1, 2, 0, 1]), &[], None, 400), [100, 200, 0, 100]);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_gets_nothing_while_another_is_up() {
        for policy in [Policy::RoundRobin, Policy::LeastRequest] {
            let backend = backend(policy, &[1, 1, 1]);
            assert_eq!(counts(&backend, &[1], None, 1000)[1], 0);
            assert_eq!(counts(&backend, &[0, 1], None, 100), [0, 0, 100]);
            assert_eq!(counts(&backend, &[0, 1, 2], None, 100).iter().sum::<usize>(), 100);
        }
    }

    #[tokio::test]
    async fn the_one_to_avoid_is_taken_only_if_no_other_is_up() {
        let backend = backend(Policy::RoundRobin, &[1, 1]);
        assert_eq!(counts(&backend, &[], Some(0), 100), [0, 100]);
        assert_eq!(counts(&backend, &[1], Some(0), 100), [100, 0]);
    }

    #[tokio::test]
    async fn the_less_loaded_of_two_is_preferred() {
        let backend = backend(Policy::LeastRequest, &[1, 1]);
        let (state, upstreams) = (BackendState::default(), Upstreams::default());
        let busy: Vec<_> = (0..5).map(|_| upstreams.endpoint(&backend.endpoints[0]).begin(Instant::now())).collect();
        let hits = (0..1000)
            .filter(|_| choose(&backend, &state, &upstreams, |_| true, None).expect("there is one").0.id == Id(0))
            .count();
        // Only when both draws are the busy one: a quarter.
        assert!((150..350).contains(&hits), "{hits}");
        drop(busy);
    }
}
