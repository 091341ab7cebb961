//! The upstream side of a worker: which endpoint gets a request, and a connection to it.
//!
//! All of this state belongs to one worker and outlives snapshots: it is keyed by the ids of backends and
//! endpoints, so a push that does not change them does not touch it.

mod balance;
mod budget;
mod pool;

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::{
    balance::{BackendState, choose},
    budget::RetryBudget,
    pool::{Connection, EndpointState, Link},
};
use crate::{
    live::IdMap,
    resolve::Names,
    snapshot::{Backend, Endpoint},
};

/// State of a backend or endpoint that nobody used for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// One worker's upstream state.
#[derive(Debug, Default)]
pub struct Upstreams {
    names: Arc<Names>,
    backends: RefCell<IdMap<Rc<BackendState>>>,
    endpoints: RefCell<IdMap<Rc<EndpointState>>>,
}

impl Upstreams {
    /// That of a worker that has served nothing yet. `names` has the addresses of endpoints that have none themselves.
    pub fn new(names: Arc<Names>) -> Self {
        Self { names, ..Self::default() }
    }

    /// The state of a backend.
    pub fn backend(&self, backend: &Backend) -> Rc<BackendState> {
        Rc::clone(self.backends.borrow_mut().entry(backend.id).or_default())
    }

    /// The state of an endpoint.
    pub fn endpoint(&self, endpoint: &Endpoint) -> Rc<EndpointState> {
        let mut endpoints = self.endpoints.borrow_mut();
        Rc::clone(endpoints.entry(endpoint.id).or_insert_with(|| Rc::new(EndpointState::new(endpoint, &self.names))))
    }

    /// Closes connections that lie too long or that the other side closed; forgets what is not used any more.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.sweep(now);
            !endpoint.unused_since(now, FORGET_AFTER) || Rc::strong_count(endpoint) > 1
        });
        self.backends
            .borrow_mut()
            .retain(|_, backend| !backend.unused_since(now, FORGET_AFTER) || Rc::strong_count(backend) > 1);
    }
}
