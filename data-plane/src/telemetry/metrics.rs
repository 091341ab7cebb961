//! What `/metrics` says of requests. Each worker counts for itself in atomics that only it writes; a scrape adds the
//! workers up. So counting costs plain loads and stores, and no worker waits for another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    limit::{Hits, Limit},
    plugin::{Reason, Spec},
};

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// The same in microseconds, for comparing.
const BUCKETS_US: [u64; 13] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000];

/// The most series in all: one for each pair of route and backend that a worker has served.
const SERIES_MAX: usize = 20_000;

/// The label of what is beyond that.
pub const OVERFLOW: &str = "overflow";

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Owned(AtomicU64);

impl Owned {
    /// Adds; only the owning thread may.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Subtracts; only the owning thread may.
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One worker's counts for one pair of route and backend.
#[derive(Debug)]
pub struct Series {
    route: Arc<str>,
    backend: Arc<str>,
    /// By the status's first digit; 0 for none (the client left, or the answer was cut).
    requests: [Owned; 6],
    buckets: [Owned; 14],
    duration_us: Owned,
    active: Owned,
    retries: Owned,
}

impl Series {
    /// The route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// A request begins; it is active until the result is dropped.
    pub fn begin(self: Arc<Self>) -> Active {
        self.active.add(1);
        Active(self)
    }

    /// A request ends.
    pub fn end(&self, status: u16, duration: Duration) {
        self.requests[usize::from(status / 100).min(5)].add(1);
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|&bound| us <= bound).unwrap_or(BUCKETS_US.len());
        self.buckets[bucket].add(1);
        self.duration_us.add(us);
    }

    /// A request is tried again.
    pub fn retry(&self) {
        self.retries.add(1);
    }
}

/// One worker's counts of the requests that one plugin answered.
#[derive(Debug)]
pub struct Answers {
    plugin: Box<str>,
    spec: &'static Spec,
    /// One for each reason of the type, and one for answers that are no refusals.
    counts: Box<[Owned]>,
}

impl Answers {
    /// One more, for one of the type's reasons or for none.
    pub fn count(&self, reason: Option<&'static Reason>) {
        let reasons = self.spec.reasons.iter();
        let index = reason.and_then(|reason| reasons.clone().position(|known| known.name == reason.name));
        if let Some(count) = self.counts.get(index.unwrap_or(self.spec.reasons.len())) {
            count.add(1);
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Active(Arc<Series>);

impl std::ops::Deref for Active {
    type Target = Series;

    fn deref(&self) -> &Series {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.subtract(1);
    }
}

/// Why a copy of a request was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorDrop {
    /// Its body is over the bound.
    TooLarge,
    /// There are as many as may be.
    Busy,
    /// The request ended before all of its body had gone upstream.
    Unfinished,
    /// The mirror gave no whole answer.
    Failed,
}

impl MirrorDrop {
    const ALL: [Self; 4] = [Self::TooLarge, Self::Busy, Self::Unfinished, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Unfinished => "unfinished",
            Self::Failed => "failed",
        }
    }
}

/// How many copies were dropped, by reason.
#[derive(Debug, Default)]
pub struct MirrorDrops([AtomicU64; MirrorDrop::ALL.len()]);

impl MirrorDrops {
    /// One more.
    pub fn count(&self, reason: MirrorDrop) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    /// So many so far.
    #[must_use]
    pub fn get(&self, reason: MirrorDrop) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }
}

/// Counts of the process as a whole, written by any thread but rarely.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Client connections open now.
    pub connections: AtomicU64,
    /// Client connections accepted.
    pub accepted: AtomicU64,
    /// Client connections refused because there were too many, in all or from one address.
    pub refused: AtomicU64,
    /// TLS handshakes of clients that failed.
    pub handshakes_failed: AtomicU64,
    /// Requests that Redis did not count for a rate limit.
    pub rate_limit_errors: AtomicU64,
    /// Keys of rate limits that were in use and forgotten for others.
    pub rate_limit_evictions: AtomicU64,
    /// Requests that forward_auth got no answer about.
    pub forward_auth_errors: AtomicU64,
    /// Copies of requests that mirrors answered.
    pub mirrored: AtomicU64,
    /// Those that were dropped.
    pub mirror_drops: MirrorDrops,
    /// How often clients ran into each bound.
    pub limits: Hits,
    /// Access log lines dropped because the log could not be written fast enough.
    pub log_dropped: AtomicU64,
    /// Upgraded connections open now.
    pub tunnels: AtomicU64,
}

/// All the series of all the workers.
#[derive(Debug, Default)]
pub struct RequestMetrics {
    series: Mutex<Vec<Weak<Series>>>,
    answers: Mutex<Vec<Arc<Answers>>>,
    /// See there.
    pub gauges: Gauges,
}

impl RequestMetrics {
    /// New series of one worker. Called once per worker, route and backend. `None` if there are too many already: then
    /// the worker counts under [`OVERFLOW`]. A scrape makes room where routes are gone.
    pub fn series(&self, route: &Arc<str>, backend: &Arc<str>) -> Option<Arc<Series>> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERIES_MAX {
            return None;
        }
        let (route, backend) = (Arc::clone(route), Arc::clone(backend));
        let series = Arc::new(Series {
            route,
            backend,
            requests: Default::default(),
            buckets: Default::default(),
            duration_us: Owned::default(),
            active: Owned::default(),
            retries: Owned::default(),
        });
        all.push(Arc::downgrade(&series));
        Some(series)
    }

    /// New counts of one worker for a plugin; `None` if there are too many already.
    pub fn answers(&self, plugin: &str, spec: &'static Spec) -> Option<Arc<Answers>> {
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERIES_MAX {
            return None;
        }
        let counts = (0..=spec.reasons.len()).map(|_| Owned::default()).collect();
        let answers = Arc::new(Answers { plugin: plugin.into(), spec, counts });
        all.push(Arc::clone(&answers));
        Some(answers)
    }

    /// By plugin, type and reason; "" for answers that are no refusals.
    fn sum_answers(&self) -> BTreeMap<(Box<str>, &'static str, &'static str), u64> {
        let all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = BTreeMap::new();
        for answers in all.iter() {
            let reasons = answers.spec.reasons.iter().map(|reason| reason.name).chain([""]);
            for (reason, count) in reasons.zip(&answers.counts).filter(|(_, count)| count.get() > 0) {
                *sums.entry((answers.plugin.clone(), answers.spec.name, reason)).or_default() += count.get();
            }
        }
        sums
    }

    fn sum(&self) -> BTreeMap<(Arc<str>, Arc<str>), Sum> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = BTreeMap::<_, Sum>::new();
        all.retain(|series| {
            let Some(series) = series.upgrade() else { return false };
            let sum = sums.entry((Arc::clone(&series.route), Arc::clone(&series.backend))).or_default();
            for (total, part) in sum.requests.iter_mut().zip(&series.requests) {
                *total += part.get();
            }
            for (total, part) in sum.buckets.iter_mut().zip(&series.buckets) {
                *total += part.get();
            }
            sum.duration_us += series.duration_us.get();
            sum.active += series.active.get();
            sum.retries += series.retries.get();
            true
        });
        sums
    }
}

#[derive(Default)]
struct Sum {
    requests: [u64; 6],
    buckets: [u64; 14],
    duration_us: u64,
    active: u64,
    retries: u64,
}

/// Lets a registry scrape the request metrics.
#[derive(Debug)]
pub struct RequestCollector(pub Arc<RequestMetrics>);

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sums = self.0.sum();
        let labels =
            |(route, backend): &(Arc<str>, Arc<str>)| [("route", route.to_string()), ("backend", backend.to_string())];
        let mut family = encoder.encode_descriptor(
            "rustygate_requests",
            "Requests that are over, by the first digit of the status; 0xx if none was sent",
            None,
            MetricType::Counter,
        )?;
        for (key, sum) in &sums {
            for (digit, &requests) in sum.requests.iter().enumerate().filter(|(_, requests)| **requests > 0) {
                let [route, backend] = labels(key);
                let labels = [route, backend, ("status", format!("{digit}xx"))];
                ConstCounter::new(requests).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_request_duration_seconds",
            "From a request's head to its answer's last byte",
            None,
            MetricType::Histogram,
        )?;
        for (key, sum) in &sums {
            let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
            #[allow(clippy::cast_precision_loss, reason = "a sum of durations needs no more than 52 bits")]
            let seconds = sum.duration_us as f64 / 1e6;
            let labels = labels(key);
            let mut histogram = family.encode_family(&labels)?;
            histogram.encode_histogram::<[(String, String); 0]>(seconds, sum.buckets.iter().sum(), &buckets, None)?;
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_active_connections",
            "Exchanges under way, upgraded connections among them",
            None,
            MetricType::Gauge,
        )?;
        for (key, sum) in &sums {
            ConstGauge::new(i64::try_from(sum.active).unwrap_or(0)).encode(family.encode_family(&labels(key))?)?;
        }
        let mut family =
            encoder.encode_descriptor("rustygate_retries", "Requests tried again", None, MetricType::Counter)?;
        for (key, sum) in sums.iter().filter(|(_, sum)| sum.retries > 0) {
            ConstCounter::new(sum.retries).encode(family.encode_family(&labels(key))?)?;
        }
        let help = "Requests that a plugin answered, by its reason; none if it was no refusal";
        let mut family = encoder.encode_descriptor("rustygate_plugin_answers", help, None, MetricType::Counter)?;
        for ((plugin, kind, reason), count) in self.0.sum_answers() {
            let reason = if reason.is_empty() { "none" } else { reason };
            let labels = [("plugin", &*plugin), ("type", kind), ("reason", reason)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let gauges = &self.0.gauges;
        for (name, help, value) in [
            ("rustygate_client_connections", "Client connections open", &gauges.connections),
            ("rustygate_tunnels", "Upgraded connections open", &gauges.tunnels),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value.load(Relaxed)).unwrap_or(0));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        for (name, help, value) in [
            ("rustygate_client_connections_accepted", "Client connections accepted", &gauges.accepted),
            ("rustygate_client_connections_refused", "Client connections over a bound", &gauges.refused),
            ("rustygate_tls_handshakes_failed", "TLS handshakes of clients that failed", &gauges.handshakes_failed),
            (
                "rustygate_rate_limit_errors",
                "Requests that Redis did not count in time, for which on_error decided",
                &gauges.rate_limit_errors,
            ),
            (
                "rustygate_rate_limit_evictions",
                "Keys in use that rate limits forgot because there were more than max_keys",
                &gauges.rate_limit_evictions,
            ),
            (
                "rustygate_forward_auth_errors",
                "Requests about which forward_auth got no answer, for which on_error decided",
                &gauges.forward_auth_errors,
            ),
            ("rustygate_mirrored_requests", "Copies of requests that mirrors answered", &gauges.mirrored),
            ("rustygate_access_log_dropped", "Access log lines that were not written", &gauges.log_dropped),
        ] {
            let counter = ConstCounter::new(value.load(Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Copies of requests that were dropped";
        let mut family = encoder.encode_descriptor("rustygate_mirror_drops", help, None, MetricType::Counter)?;
        for (reason, count) in MirrorDrop::ALL.iter().zip(&gauges.mirror_drops.0) {
            let counter = ConstCounter::new(count.load(Relaxed));
            counter.encode(family.encode_family(&[("reason", reason.name())])?)?;
        }
        let help = "How often a client ran into a bound";
        let mut family = encoder.encode_descriptor("rustygate_limit_hits", help, None, MetricType::Counter)?;
        for limit in Limit::ALL {
            let counter = ConstCounter::new(gauges.limits.get(limit));
            counter.encode(family.encode_family(&[("limit", limit.name())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_have_a_bound_and_those_that_are_gone_make_room() {
        let metrics = RequestMetrics::default();
        let name: Arc<str> = "r".into();
        let mut series: Vec<_> = (0..SERIES_MAX).filter_map(|_| metrics.series(&name, &name)).collect();
        assert_eq!(series.len(), SERIES_MAX);
        assert!(metrics.series(&name, &name).is_none());
        series.truncate(SERIES_MAX / 2);
        metrics.sum();
        assert!(metrics.series(&name, &name).is_some());
    }
}
