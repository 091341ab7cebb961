//! The shared state itself: atomics, each of which any worker may read and write at any time.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use crate::{
    error::ProxyError,
    snapshot::{Endpoint, OutlierDetection},
    upstream::{Connections, Gate},
};

/// The least share of its weight that a starting endpoint has, so that it is tried at all.
const RAMP_LEAST: f32 = 0.1;

/// The time constant of the moving average of latencies: what happened so long ago counts a third. The same as in
/// Finagle's and linkerd's Peak EWMA balancers, where this one is from.
const LATENCY_DECAY_MS: f32 = 10_000.0;

/// The latency that a failed try counts as, at least: an endpoint that fails fast is no fast endpoint.
const FAILURE_LATENCY: Duration = Duration::from_secs(1);

/// What an endpoint costs that has something to do but never answered: more than any that did.
const UNKNOWN_COST: f32 = 1e12;

/// Milliseconds since a little before the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Before everything.
    pub const NEVER: Self = Self(0);

    fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What active checks found of an endpoint.
#[derive(Debug)]
pub struct Checks {
    /// "host:port".
    pub authority: Box<str>,
    /// Whether there is a checker.
    pub(super) checked: AtomicBool,
    up: AtomicBool,
    /// When that changed last.
    changed: AtomicU64,
    /// Set when it goes down, for whoever reports.
    stirred: Arc<AtomicBool>,
    /// Checks that were answered well, and others.
    pub(super) good: AtomicU64,
    pub(super) bad: AtomicU64,
}

impl Checks {
    pub(super) fn new(endpoint: &Endpoint, stirred: Arc<AtomicBool>) -> Self {
        let host = &endpoint.host;
        let authority = if host.contains(':') {
            format!("[{host}]:{}", endpoint.port)
        } else {
            format!("{host}:{}", endpoint.port)
        };
        Self {
            authority: authority.into(),
            checked: AtomicBool::new(false),
            up: AtomicBool::new(true),
            changed: AtomicU64::new(0),
            stirred,
            good: AtomicU64::new(0),
            bad: AtomicU64::new(0),
        }
    }

    /// Whether it may get requests.
    #[must_use]
    pub fn up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(super) fn set(&self, up: bool, now: Moment) {
        if self.up.swap(up, Relaxed) != up {
            self.changed.store(now.0, Relaxed);
            self.stirred.store(true, Release);
        }
    }

    pub(super) fn changed(&self) -> Moment {
        Moment(self.changed.load(Relaxed))
    }
}

/// What all workers share of a backend.
#[derive(Debug)]
pub struct Group {
    /// The backend's name.
    pub name: Arc<str>,
    /// Lets so many requests through at once as the backend's limits have it.
    pub requests: Arc<Gate>,
    /// Counts connections, if the backend has a limit of them.
    pub connections: Arc<Connections>,
    /// Requests under way.
    load: AtomicU32,
    /// A worker decides about an ejection; the others leave it to that one.
    ejecting: AtomicBool,
    /// When the free retries that were made are earned back.
    free_retries_until: AtomicU64,
    /// Requests that were refused because the queue was full.
    pub refused_circuit_open: AtomicU64,
    /// Requests that were refused because their turn did not come in time.
    pub refused_overloaded: AtomicU64,
    /// Retries that the budget did not allow.
    pub retries_denied: AtomicU64,
}

impl Group {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            requests: Arc::default(),
            connections: Arc::default(),
            load: AtomicU32::new(0),
            ejecting: AtomicBool::new(false),
            free_retries_until: AtomicU64::new(0),
            refused_circuit_open: AtomicU64::new(0),
            refused_overloaded: AtomicU64::new(0),
            retries_denied: AtomicU64::new(0),
        }
    }

    /// Counts a request that is refused since as many wait as may.
    pub(crate) fn refuse_full(&self) -> ProxyError {
        self.refused_circuit_open.fetch_add(1, Relaxed);
        ProxyError::CircuitOpen
    }

    /// Counts a request that is refused since it has waited long enough.
    pub(crate) fn refuse_waited(&self) -> ProxyError {
        self.refused_overloaded.fetch_add(1, Relaxed);
        ProxyError::UpstreamOverloaded
    }

    /// Requests under way to endpoints of which there is a choice.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.load.load(Relaxed)
    }

    /// Takes one of so many retries that are free in each second; false if they are used up.
    pub fn take_free_retry(&self, per_second: u32, now: Moment) -> bool {
        if per_second == 0 {
            return false;
        }
        // In microseconds, and a second's worth at once: a leaky bucket that is one number.
        let now = now.0 * 1_000;
        let cost = 1_000_000 / u64::from(per_second);
        let taken = self.free_retries_until.fetch_update(Relaxed, Relaxed, |until| {
            let next = until.max(now) + cost;
            (next <= now + 1_000_000).then_some(next)
        });
        taken.is_ok()
    }
}

/// What all workers share of an endpoint as one of a backend's. On cache lines of its own: workers write to it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Member {
    /// What active checks found.
    pub checks: Arc<Checks>,
    joined: Moment,
    in_flight: AtomicU32,
    /// When it last began an answer, so that silence can be told.
    last_answer: AtomicU64,
    /// Microseconds as an `f32`, and the low half of the moment of the last sample.
    latency: AtomicU64,
    consecutive_5xx: AtomicU32,
    consecutive_gateway_errors: AtomicU32,
    ejected_at: AtomicU64,
    ejected_until: AtomicU64,
    /// How often it was ejected, less what it made up for.
    ejections: AtomicU32,
    /// How often it was ejected.
    pub(super) ejections_total: AtomicU64,
}

impl Member {
    pub(super) fn new(checks: Arc<Checks>, joined: Moment) -> Self {
        Self {
            checks,
            joined,
            in_flight: AtomicU32::new(0),
            last_answer: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway_errors: AtomicU32::new(0),
            ejected_at: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            ejections_total: AtomicU64::new(0),
        }
    }

    /// Whether it may get requests.
    #[must_use]
    pub fn usable(&self, now: Moment) -> bool {
        self.checks.up() && !self.ejected(now)
    }

    /// Whether it is ejected.
    #[must_use]
    pub fn ejected(&self, now: Moment) -> bool {
        now.0 < self.ejected_until.load(Relaxed)
    }

    pub(super) fn ejected_at(&self) -> Moment {
        Moment(self.ejected_at.load(Relaxed))
    }

    /// Requests under way, from all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A request begins.
    pub fn begin(&self, group: &Group) {
        self.in_flight.fetch_add(1, Relaxed);
        group.load.fetch_add(1, Relaxed);
    }

    /// A request is over.
    pub fn end(&self, group: &Group) {
        self.in_flight.fetch_sub(1, Relaxed);
        group.load.fetch_sub(1, Relaxed);
    }

    /// When it last began an answer, to any worker.
    #[must_use]
    pub fn last_answer(&self) -> Moment {
        Moment(self.last_answer.load(Relaxed))
    }

    /// Which share of its weight it has: less than 1 for so long after it joined or recovered.
    #[must_use]
    pub fn ramp(&self, slow_start: Duration, now: Moment) -> f32 {
        let begun = self.joined.max(self.checks.changed()).max(Moment(self.ejected_until.load(Relaxed)));
        if begun == Moment::NEVER {
            return 1.0;
        }
        let elapsed = Duration::from_millis(now.0.saturating_sub(begun.0));
        (elapsed.as_secs_f32() / slow_start.as_secs_f32()).clamp(RAMP_LEAST, 1.0)
    }

    /// What sending it one more request costs: the peak-sensitive average of its latency, times the requests under way.
    /// The average decays while there is no answer, so that one that was slow is tried again.
    #[must_use]
    pub fn cost(&self, now: Moment) -> f32 {
        let (micros, at) = unpack(self.latency.load(Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "so many requests are never under way")]
        let in_flight = self.in_flight() as f32;
        if micros == 0.0 {
            // Nobody knows: one that is idle is tried, one that is not yet done is not tried again.
            return if in_flight == 0.0 { 0.0 } else { UNKNOWN_COST + in_flight };
        }
        micros * decay(at, now) * (in_flight + 1.0)
    }

    /// It began an answer with this status.
    pub fn answered(&self, status: u16, latency: Duration, now: Moment) -> Outcome {
        self.last_answer.store(now.0, Relaxed);
        let gateway_error = matches!(status, 502..=504);
        self.sample(if gateway_error { latency.max(FAILURE_LATENCY) } else { latency }, now);
        if !(500..=599).contains(&status) {
            reset(&self.consecutive_5xx);
            reset(&self.consecutive_gateway_errors);
            return Outcome::Good;
        }
        if !gateway_error {
            reset(&self.consecutive_gateway_errors);
            return Outcome::Bad { gateway_error: false };
        }
        Outcome::Bad { gateway_error: true }
    }

    /// It gave no answer.
    pub fn failed(&self, latency: Duration, now: Moment) -> Outcome {
        self.sample(latency.max(FAILURE_LATENCY), now);
        Outcome::Bad { gateway_error: true }
    }

    /// A sample above the average replaces it; one below moves it, the more the older the last one is.
    fn sample(&self, latency: Duration, now: Moment) {
        // Two workers at once: one sample is lost, and the next ones make up for it.
        let (average, at) = unpack(self.latency.load(Relaxed));
        let sample = (latency.as_secs_f32() * 1e6).max(1.0);
        let kept = decay(at, now);
        let next = if average == 0.0 { sample } else { sample.max(average * kept + sample * (1.0 - kept)) };
        self.latency.store(pack(next, now), Relaxed);
    }

    /// Counts a bad answer, and ejects the endpoint if there were too many in a row and not too many others are ejected
    /// already. `members` are all of the backend's.
    pub fn judge<'m>(
        &self,
        outcome: Outcome,
        terms: &OutlierDetection,
        group: &Group,
        members: impl ExactSizeIterator<Item = &'m Member>,
        now: Moment,
    ) {
        let Outcome::Bad { gateway_error } = outcome else { return };
        let any = self.consecutive_5xx.fetch_add(1, Relaxed) + 1;
        let gateway = if gateway_error { self.consecutive_gateway_errors.fetch_add(1, Relaxed) + 1 } else { 0 };
        let over = |count: u32, bound: u32| bound > 0 && count >= bound;
        let too_many = over(any, terms.consecutive_5xx) || over(gateway, terms.consecutive_gateway_errors);
        // Answers to what was sent before the ejection say nothing new.
        if !too_many || self.ejected(now) || group.ejecting.swap(true, Acquire) {
            return;
        }
        let all = members.len();
        let ejected = members.filter(|member| member.ejected(now)).count();
        let most = (all * terms.max_ejected_percent as usize / 100).max(1).min(all.saturating_sub(1));
        if ejected < most && !self.ejected(now) {
            self.eject(terms, group, now);
        }
        group.ejecting.store(false, Release);
    }

    fn eject(&self, terms: &OutlierDetection, group: &Group, now: Moment) {
        let base = u64::try_from(terms.base_ejection_time.as_millis()).unwrap_or(u64::MAX).max(1);
        // Each span of good service as long as the shortest ejection makes up for one.
        let good = now.0.saturating_sub(self.ejected_until.load(Relaxed)) / base;
        let before = self.ejections.load(Relaxed).saturating_sub(u32::try_from(good).unwrap_or(u32::MAX));
        let times = before.saturating_add(1);
        let span = terms.base_ejection_time.saturating_mul(times).min(terms.max_ejection_time);
        self.ejections.store(times, Relaxed);
        self.ejections_total.fetch_add(1, Relaxed);
        self.ejected_at.store(now.0, Relaxed);
        self.ejected_until.store(now.plus(span).0, Relaxed);
        self.consecutive_5xx.store(0, Relaxed);
        self.consecutive_gateway_errors.store(0, Relaxed);
        self.checks.stirred.store(true, Release);
        tracing::warn!(
            backend = &*group.name,
            endpoint = &*self.checks.authority,
            seconds = span.as_secs_f64(),
            "ejected: too many failures in a row"
        );
    }
}

/// How a try went, as far as the endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It served.
    Good,
    /// It did not.
    Bad {
        /// It is the server or the way to it that fails, not the application.
        gateway_error: bool,
    },
}

/// Writes only if there is something to change: the line then stays in the caches of all workers.
fn reset(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

fn pack(micros: f32, now: Moment) -> u64 {
    (u64::from(micros.to_bits()) << 32) | (now.0 & 0xffff_ffff)
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a span of 49 days at most")]
fn decay(at: u32, now: Moment) -> f32 {
    let elapsed = (now.0 as u32).wrapping_sub(at);
    // A sample from another worker may be a little younger than now.
    if elapsed > u32::MAX / 2 { 1.0 } else { (-(elapsed as f32) / LATENCY_DECAY_MS).exp() }
}
