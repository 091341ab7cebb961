//! What others are told of upstreams: the control plane, and whoever scrapes the metrics.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rustygate_proto::v1::{self as wire, endpoint_health::State};
use tokio::time::Instant;

use super::{Group, Health, Known, Member};

/// The most endpoints that a report names.
const REPORTED_MAX: usize = 1_000;

/// The most samples of one metric.
const SAMPLES_MAX: usize = 10_000;

impl Health {
    /// Puts a new report up if anything changed.
    pub(super) fn update_report(&self) {
        // As long as all are well there is nothing to look at, however many there are.
        let quiet = !self.stirred.swap(false, Acquire) && self.report.borrow().unhealthy.is_empty();
        if quiet {
            return;
        }
        let report = self.unhealthy();
        self.report.send_if_modified(|present| {
            let changed = **present != report;
            if changed {
                *present = Arc::new(report);
            }
            changed
        });
    }

    fn unhealthy(&self) -> wire::HealthReport {
        let now = self.moment(Instant::now());
        let known = self.known();
        let down = known.checks.values().filter(|checks| !checks.up()).map(|checks| wire::EndpointHealth {
            backend: String::new(),
            endpoint: checks.authority.to_string(),
            state: State::Down.into(),
            since_unix_ms: self.epoch_unix_ms.saturating_add(checks.changed().0),
        });
        let ejected = known.groups.values().flat_map(|entry| {
            let ejected = entry.members.values().filter(|member| member.ejected(now));
            ejected.map(|member| wire::EndpointHealth {
                backend: entry.group.name.to_string(),
                endpoint: member.checks.authority.to_string(),
                state: State::Ejected.into(),
                since_unix_ms: self.epoch_unix_ms.saturating_add(member.ejected_at().0),
            })
        });
        let mut unhealthy: Vec<_> = down.chain(ejected).collect();
        unhealthy.sort_unstable_by(|one, other| {
            (&one.backend, &one.endpoint, one.state).cmp(&(&other.backend, &other.endpoint, other.state))
        });
        let omitted = unhealthy.len().saturating_sub(REPORTED_MAX);
        unhealthy.truncate(REPORTED_MAX);
        wire::HealthReport { unhealthy, omitted: u32::try_from(omitted).unwrap_or(u32::MAX) }
    }
}

/// Lets a registry scrape what is known of upstreams.
#[derive(Debug)]
pub struct HealthCollector(pub Arc<Health>);

impl Collector for HealthCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.0.moment(Instant::now());
        let known = self.0.known();
        let mut members: Vec<_> = members(&known).collect();
        members.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        members.truncate(SAMPLES_MAX);
        let mut family = encoder.encode_descriptor(
            "rustygate_endpoint_healthy",
            "1 if the endpoint may get requests, 0 if checks or its answers say otherwise",
            None,
            MetricType::Gauge,
        )?;
        for (labels, member) in &members {
            let labels = [("backend", labels[0]), ("endpoint", labels[1])];
            ConstGauge::new(i64::from(member.usable(now))).encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_endpoint_ejections",
            "Ejections for failures in a row",
            None,
            MetricType::Counter,
        )?;
        for (labels, member) in &members {
            let labels = [("backend", labels[0]), ("endpoint", labels[1])];
            ConstCounter::new(member.ejections_total.load(Relaxed)).encode(family.encode_family(&labels)?)?;
        }
        let mut checked: Vec<_> = known.checks.values().filter(|checks| checks.checked.load(Relaxed)).collect();
        checked.sort_unstable_by(|one, other| one.authority.cmp(&other.authority));
        let mut family =
            encoder.encode_descriptor("rustygate_health_checks", "Active checks", None, MetricType::Counter)?;
        for checks in checked.into_iter().take(SAMPLES_MAX) {
            for (result, count) in [("good", &checks.good), ("bad", &checks.bad)] {
                let labels = [("endpoint", &*checks.authority), ("result", result)];
                ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut groups: Vec<&Group> = known.groups.values().map(|entry| &*entry.group).collect();
        groups.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut family = encoder.encode_descriptor(
            "rustygate_upstream_refused",
            "Requests that a backend's limits refused",
            None,
            MetricType::Counter,
        )?;
        for group in groups.iter().take(SAMPLES_MAX) {
            let reasons =
                [("circuit_open", &group.refused_circuit_open), ("upstream_overloaded", &group.refused_overloaded)];
            for (reason, count) in reasons {
                let count = count.load(Relaxed);
                if count > 0 {
                    let labels = [("backend", &*group.name), ("reason", reason)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_retries_denied",
            "Retries that the budget did not allow",
            None,
            MetricType::Counter,
        )?;
        for group in groups.iter().take(SAMPLES_MAX) {
            let count = group.retries_denied.load(Relaxed);
            if count > 0 {
                ConstCounter::new(count).encode(family.encode_family(&[("backend", &*group.name)])?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_upstream_pending",
            "Requests that wait for their turn under a backend's limits",
            None,
            MetricType::Gauge,
        )?;
        let limited = |group: &&&Group| group.requests.is_used() || group.connections.is_used();
        for group in groups.iter().filter(limited).take(SAMPLES_MAX) {
            let waiting = i64::from(group.requests.waiting()) + i64::from(group.connections.waiting());
            ConstGauge::new(waiting).encode(family.encode_family(&[("backend", &*group.name)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "rustygate_upstream_connections",
            "Connections to a backend that has a limit of them",
            None,
            MetricType::Gauge,
        )?;
        for group in groups.iter().filter(|group| group.connections.is_used()).take(SAMPLES_MAX) {
            let open = i64::from(group.connections.open());
            ConstGauge::new(open).encode(family.encode_family(&[("backend", &*group.name)])?)?;
        }
        Ok(())
    }
}

/// Endpoints of which there is a choice, or that are checked, with their labels.
fn members(known: &Known) -> impl Iterator<Item = ([&str; 2], &Member)> {
    known.groups.values().flat_map(|entry| {
        let choice = entry.members.len() > 1;
        let members = entry.members.values().filter(move |member| choice || member.checks.checked.load(Relaxed));
        members.map(|member| ([&*entry.group.name, &*member.checks.authority], &**member))
    })
}
