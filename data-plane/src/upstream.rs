//! The upstream side of a worker: which endpoint gets a request, and a connection to it.
//!
//! All of this state belongs to one worker and outlives snapshots: it is keyed by the ids of backends and
//! endpoints, so a push that does not change them does not touch it. What the workers must know of each other is in
//! [`Health`], which a worker asks once for each backend that a push changed.

mod balance;
mod budget;
mod call;
mod gate;
mod key;
mod pool;
mod retry;
mod room;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

pub use self::{
    balance::{Affinity, Tried, choose},
    budget::RetryBudget,
    call::Call,
    gate::{Entry, Gate, Permit},
    key::{Asker, cookies, hash, remove_cookie},
    pool::{Claim, Connection, EndpointState, Link, Need, Turn},
    retry::Retrying,
    room::{Connections, Slot},
};
use crate::{
    health::{Group, Health, Member, Moment},
    live::IdMap,
    resolve::Names,
    snapshot::{Backend, Endpoint, Id, OutlierDetection},
};

/// State of a backend or endpoint that nobody used for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// One worker's upstream state.
#[derive(Debug)]
pub struct Upstreams {
    health: Arc<Health>,
    names: Arc<Names>,
    backends: RefCell<IdMap<Rc<BackendState>>>,
    endpoints: RefCell<IdMap<Rc<EndpointState>>>,
}

/// A backend's position and budget, kept over pushes.
#[derive(Debug)]
pub struct BackendState {
    /// The next slot of the round-robin schedule.
    position: Cell<usize>,
    /// What retries may cost.
    pub budget: RetryBudget,
    used: Cell<Instant>,
    view: RefCell<Option<Rc<View>>>,
}

/// What a worker has at hand of a backend as one snapshot has it, so that choosing looks nothing up.
#[derive(Debug)]
pub struct View {
    /// Of which it is. Weak, so that it keeps no configuration alive, but no other can have its place in memory either.
    of: Weak<Backend>,
    /// What all workers share of it.
    pub group: Arc<Group>,
    /// In the order of its endpoints.
    seats: Box<[Seat]>,
    outlier_detection: Option<OutlierDetection>,
}

#[derive(Debug)]
struct Seat {
    pool: Rc<EndpointState>,
    member: Arc<Member>,
}

impl Upstreams {
    /// That of a worker that has served nothing yet. `names` has the addresses of endpoints that have none themselves.
    pub fn new(health: Arc<Health>, names: Arc<Names>) -> Self {
        Self { health, names, backends: RefCell::default(), endpoints: RefCell::default() }
    }

    /// The state of a backend.
    pub fn backend(&self, backend: &Backend) -> Rc<BackendState> {
        let mut backends = self.backends.borrow_mut();
        Rc::clone(backends.entry(backend.id).or_insert_with(|| Rc::new(BackendState::new(Instant::now()))))
    }

    /// A point in time as endpoints keep it.
    pub fn moment(&self, now: Instant) -> Moment {
        self.health.moment(now)
    }

    /// The same as a point in time of the process.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.health.instant(moment)
    }

    /// Whether an endpoint may get requests, by all that is known of it.
    fn usable(&self, endpoint: &Endpoint, seat: &Seat, now: Moment) -> bool {
        seat.member.usable(now) && self.names.usable(&endpoint.host)
    }

    /// The pool of an endpoint: that of all backends that have it, unless this one has a limit of connections.
    fn endpoint(&self, endpoint: &Endpoint, backend: &Backend, group: &Group) -> Rc<EndpointState> {
        let limited = backend.limits.is_some_and(|limits| limits.connections.is_some());
        let id = if limited { Id(endpoint.id.0 ^ backend.id.0.rotate_left(17)) } else { endpoint.id };
        let connections = limited.then_some(&group.connections);
        let mut endpoints = self.endpoints.borrow_mut();
        let new = || Rc::new(EndpointState::new(endpoint, &self.names, connections));
        Rc::clone(endpoints.entry(id).or_insert_with(new))
    }

    /// Closes connections that lie too long or that the other side closed; forgets what is not used any more.
    pub fn sweep(&self, now: Instant) {
        self.backends
            .borrow_mut()
            .retain(|_, backend| !backend.unused_since(now, FORGET_AFTER) || Rc::strong_count(backend) > 1);
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.sweep(now);
            !endpoint.unused_since(now, FORGET_AFTER) || Rc::strong_count(endpoint) > 1
        });
    }
}

impl BackendState {
    fn new(now: Instant) -> Self {
        // Workers begin at different slots, so that the first requests of all do not hit one endpoint.
        Self {
            position: Cell::new(fastrand::usize(..1 << 16)),
            budget: RetryBudget::new(now),
            used: Cell::new(now),
            view: RefCell::default(),
        }
    }

    /// The backend as this snapshot has it.
    pub fn view(&self, backend: &Arc<Backend>, upstreams: &Upstreams) -> Rc<View> {
        let mut view = self.view.borrow_mut();
        match &*view {
            Some(view) if std::ptr::eq(view.of.as_ptr(), Arc::as_ptr(backend)) => Rc::clone(view),
            // What the old one has of the same endpoints lives on in the new one, which is made before it goes.
            _ => Rc::clone(view.insert(Rc::new(View::new(backend, upstreams)))),
        }
    }

    /// Whether no request used it for that long.
    pub fn unused_since(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.used.get()) > age
    }

    /// A request uses it.
    pub fn touch(&self, now: Instant) {
        self.used.set(now);
    }
}

impl View {
    fn new(backend: &Arc<Backend>, upstreams: &Upstreams) -> Self {
        let (group, members) = upstreams.health.group(backend);
        let seats = backend.endpoints.iter().zip(members);
        let pool = |endpoint| upstreams.endpoint(endpoint, backend, &group);
        let seats = seats.map(|(endpoint, member)| Seat { pool: pool(endpoint), member }).collect();
        Self { of: Arc::downgrade(backend), group, seats, outlier_detection: backend.outlier_detection.clone() }
    }
}
