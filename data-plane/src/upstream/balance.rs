//! Which endpoint of a backend gets a request.
//!
//! The rules, in this order:
//!
//! 1. An endpoint that is down or ejected gets nothing while another is well, unless less than the panic threshold of the
//!    weights is well: then health is ignored, since the few that are left would go down under the load of all.
//! 2. A retry goes where the request was not tried yet, if there is such an endpoint that is well.
//! 3. The sticky cookie's endpoint, if it may be used by the above.
//! 4. What the policy says. The counts of requests under way are those of all workers: with many workers and little
//!    traffic each, a worker's own would nearly always be 0, and least request nothing but chance.

use std::{cell::OnceCell, rc::Rc};

use tokio::time::Instant;

use super::{
    BackendState, Call, Seat, Upstreams, View,
    key::{Asker, cookie, hash},
};
use crate::{
    health::Moment,
    snapshot::{Backend, Policy, Ring, compile::ATTEMPTS_MAX},
};

/// How often is drawn anew before all slots are looked at in turn. Drawing keeps the shares right.
const DRAWS: u32 = 8;

/// What keeps a client with an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affinity {
    /// By the sticky cookie.
    sticky: Option<usize>,
    /// Of the part of the request that is hashed.
    hash: Option<u64>,
}

impl Affinity {
    /// Of a request to a backend.
    pub fn read(backend: &Backend, asker: Asker<'_>) -> Self {
        let sticky = backend.sticky.as_ref().and_then(|sticky| {
            let value = std::str::from_utf8(cookie(asker.fields, &sticky.cookie)?).ok()?;
            let value = u32::from_str_radix(value, 16).ok()?;
            sticky.values.iter().position(|candidate| *candidate == value)
        });
        let hash = match &backend.policy {
            Policy::ConsistentHash(ring) => hash("ring", &ring.on, asker),
            Policy::RoundRobin | Policy::LeastRequest | Policy::PeakEwma => None,
        };
        Self { sticky, hash }
    }
}

/// The endpoints that a request was tried at, as far as they matter for the next try.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    indices: [u16; ATTEMPTS_MAX as usize + 1],
    count: usize,
}

impl Tried {
    /// One more.
    #[allow(clippy::cast_possible_truncation, reason = "there are at most 1,000 endpoints")]
    pub fn add(&mut self, index: usize) {
        if let Some(place) = self.indices.get_mut(self.count) {
            *place = index as u16;
            self.count += 1;
        }
    }

    fn has(&self, index: usize) -> bool {
        self.indices[..self.count].iter().any(|&tried| usize::from(tried) == index)
    }
}

/// Chooses an endpoint, which from now on has one more request under way; `None` if the backend has none with a weight.
pub fn choose(
    backend: &Backend,
    state: &BackendState,
    view: &Rc<View>,
    affinity: Affinity,
    tried: &Tried,
    upstreams: &Upstreams,
    now: Instant,
) -> Option<Call> {
    let index = match (&*view.seats, backend.schedule.is_empty()) {
        ([], _) => return None,
        // A client that sticks to an endpoint that is drained stays with it; others have nowhere to go.
        (_, true) => affinity.sticky?,
        ([_], false) => 0,
        (seats, false) => {
            let (now, panic) = (upstreams.moment(now), OnceCell::new());
            Choice { backend, state, seats, affinity, tried, upstreams, now, panic }.choose(view.group.load())
        }
    };
    let cookie = match &backend.sticky {
        Some(sticky) if affinity.sticky != Some(index) => Some(sticky.values[index]),
        _ => None,
    };
    Some(Call::begin(view, index, cookie, now))
}

/// Whether there is an endpoint besides this one that is well and was not tried.
pub(super) fn has_another(
    backend: &Backend,
    view: &View,
    current: usize,
    tried: &Tried,
    upstreams: &Upstreams,
    now: Moment,
) -> bool {
    let mut seats = view.seats.iter().zip(&backend.endpoints).enumerate();
    seats.any(|(index, (seat, endpoint))| {
        index != current && endpoint.weight > 0 && !tried.has(index) && upstreams.usable(endpoint, seat, now)
    })
}

/// One choice of several.
struct Choice<'c> {
    backend: &'c Backend,
    state: &'c BackendState,
    seats: &'c [Seat],
    affinity: Affinity,
    tried: &'c Tried,
    upstreams: &'c Upstreams,
    now: Moment,
    /// Whether so few are well that all are used.
    panic: OnceCell<bool>,
}

impl Choice<'_> {
    fn choose(&self, load: u32) -> usize {
        let first_try = self.tried.count == 0;
        let well = |index: usize| self.usable(index) && !self.tried.has(index);
        let good = |index: usize| well(index) || (first_try && self.panics());
        if let Some(index) = self.affinity.sticky.filter(|&index| good(index)) {
            return index;
        }
        let by_policy = |good: &dyn Fn(usize) -> bool| self.by_policy(load, good);
        by_policy(&good)
            // A retry while nothing better is well: the same again, or in a panic one that was not tried.
            .or_else(|| self.panics().then(|| by_policy(&|index| !self.tried.has(index))).flatten())
            .or_else(|| by_policy(&|index| self.usable(index)))
            .or_else(|| by_policy(&|index| !self.tried.has(index)))
            .or_else(|| by_policy(&|_| true))
            // The schedule is not empty, so that the last one found something.
            .unwrap_or_default()
    }

    fn by_policy(&self, load: u32, good: &dyn Fn(usize) -> bool) -> Option<usize> {
        match (&self.backend.policy, self.affinity.hash) {
            (Policy::RoundRobin, _) => self.in_turn(good),
            (Policy::ConsistentHash(ring), Some(hash)) => self.on_ring(ring, hash, load, good),
            // A request without what is hashed goes where there is least to do.
            (Policy::LeastRequest | Policy::ConsistentHash(_), _) => self.better_of_two(good, &|index| {
                #[allow(clippy::cast_precision_loss, reason = "so many requests are never under way")]
                let in_flight = self.seats[index].member.in_flight() as f32;
                in_flight / self.weight(index)
            }),
            (Policy::PeakEwma, _) => {
                self.better_of_two(good, &|index| self.seats[index].member.cost(self.now) / self.weight(index))
            }
        }
    }

    /// The next slot whose endpoint is good. The turn goes on behind it, so that nobody gets the turns of one that is down
    /// for being next to it.
    fn in_turn(&self, good: &dyn Fn(usize) -> bool) -> Option<usize> {
        let schedule = &self.backend.schedule;
        let begin = self.state.position.get() % schedule.len();
        let slots = || (begin..schedule.len()).chain(0..begin);
        let endpoint = |slot: usize| usize::from(schedule[slot]);
        let ripe = |&slot: &usize| good(endpoint(slot)) && self.ramped(endpoint(slot));
        let slot = slots().find(ripe).or_else(|| slots().find(|&slot| good(endpoint(slot))))?;
        self.state.position.set(slot + 1);
        Some(endpoint(slot))
    }

    /// Of two different good ones, the next in turn and another at random, the one with the lower load; the one in turn if
    /// that is the same. So idle endpoints take turns, and busy ones are compared as by two choices at random.
    fn better_of_two(&self, good: &dyn Fn(usize) -> bool, load: &dyn Fn(usize) -> f32) -> Option<usize> {
        let one = self.in_turn(good)?;
        let Some(other) = self.draw(&|index| index != one && good(index)) else { return Some(one) };
        Some(if load(other) < load(one) { other } else { one })
    }

    /// One that is good, at random by weight.
    fn draw(&self, good: &dyn Fn(usize) -> bool) -> Option<usize> {
        // The schedule holds each endpoint in proportion to its weight.
        let schedule = &self.backend.schedule;
        let mut slot = fastrand::usize(..schedule.len());
        for _ in 0..DRAWS {
            let index = usize::from(schedule[slot]);
            if good(index) && self.ramped(index) {
                return Some(index);
            }
            slot = fastrand::usize(..schedule.len());
        }
        let slots = (slot..schedule.len()).chain(0..slot);
        slots.map(|slot| usize::from(schedule[slot])).find(|&index| good(index))
    }

    /// The first good one from the hash on whose load is within its bound: consistent hashing with bounded loads
    /// (Mirrokni, Thorup, Zadimoghaddam, 2016), the capacities by weight. If none is, the first good one.
    fn on_ring(&self, ring: &Ring, hash: u64, load: u32, good: &dyn Fn(usize) -> bool) -> Option<usize> {
        let begin = ring.points.partition_point(|(point, _)| *point < hash);
        let walk = || ring.points[begin..].iter().chain(&ring.points[..begin]).map(|(_, index)| usize::from(*index));
        let first = walk().find(|&index| good(index))?;
        if ring.balance_factor == 0 {
            return Some(first);
        }
        let weights: u64 =
            (0..self.seats.len()).filter(|&index| good(index)).map(|index| self.whole_weight(index)).sum();
        let within = |index: usize| {
            // Its share of the load with this request, times the factor, rounded up.
            let share = (u64::from(load) + 1) * u64::from(ring.balance_factor) * self.whole_weight(index);
            u64::from(self.seats[index].member.in_flight()) < share.div_ceil(100 * weights.max(1))
        };
        walk().find(|&index| good(index) && within(index)).or(Some(first))
    }

    fn usable(&self, index: usize) -> bool {
        self.upstreams.usable(&self.backend.endpoints[index], &self.seats[index], self.now)
    }

    /// Looked at only when one that is not well was about to be chosen.
    fn panics(&self) -> bool {
        *self.panic.get_or_init(|| {
            let weights = |well: bool| -> u64 {
                let indices = (0..self.seats.len()).filter(|&index| !well || self.usable(index));
                indices.map(|index| self.whole_weight(index)).sum()
            };
            weights(true) * 100 < weights(false) * u64::from(self.backend.panic_threshold)
        })
    }

    fn whole_weight(&self, index: usize) -> u64 {
        self.backend.endpoints[index].weight.into()
    }

    /// As it counts against the load: smaller while it starts.
    #[allow(clippy::cast_precision_loss, reason = "weights are at most 1,000")]
    fn weight(&self, index: usize) -> f32 {
        // One without a weight is here only if nobody has one.
        let weight = self.backend.endpoints[index].weight.max(1) as f32;
        match self.backend.slow_start {
            None => weight,
            Some(span) => weight * self.seats[index].member.ramp(span, self.now),
        }
    }

    /// Whether it takes this turn: always, unless it is starting and leaves some to the others.
    fn ramped(&self, index: usize) -> bool {
        let Some(span) = self.backend.slow_start else { return true };
        let share = self.seats[index].member.ramp(span, self.now);
        share >= 1.0 || fastrand::f32() < share
    }
}

#[cfg(test)]
mod tests;
