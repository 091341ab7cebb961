//! What `/metrics` says of names.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::Names;
use crate::telemetry::metrics::OVERFLOW;

/// The most names that have series of their own, the first in order; the others are added up under [`OVERFLOW`].
const HOSTS_MAX: usize = 1000;

const OUTCOMES: [&str; 3] = ["found", "nothing", "failed"];

/// Lets a registry scrape what is known of names.
#[derive(Debug)]
pub struct NameCollector(pub Arc<Names>);

#[derive(Default)]
struct Sum {
    lookups: [u64; 3],
    addresses: usize,
    stale: usize,
}

impl NameCollector {
    fn sums(&self) -> BTreeMap<Box<str>, Sum> {
        let table = self.0.table.load();
        let mut hosts: Vec<_> = table.values().collect();
        hosts.sort_unstable_by(|left, right| left.host.cmp(&right.host));
        let mut sums = BTreeMap::<Box<str>, Sum>::new();
        for (index, name) in hosts.into_iter().enumerate() {
            let label = if index < HOSTS_MAX { &*name.host } else { OVERFLOW };
            let sum = sums.entry(label.into()).or_default();
            for (total, count) in sum.lookups.iter_mut().zip(&name.lookups) {
                *total += count.load(Relaxed);
            }
            sum.addresses += name.known.load().list.len();
            sum.stale += usize::from(name.stale.load(Relaxed));
        }
        sums
    }
}

impl Collector for NameCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sums = self.sums();
        let help = "Questions for a host's addresses, by what came of them";
        let mut family = encoder.encode_descriptor("rustygate_dns_lookups", help, None, MetricType::Counter)?;
        for (host, sum) in &sums {
            for (outcome, count) in OUTCOMES.iter().zip(sum.lookups) {
                let labels = [("host", &**host), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            (
                "rustygate_dns_addresses",
                "Addresses of a host that are in use",
                (|sum| sum.addresses) as fn(&Sum) -> usize,
            ),
            ("rustygate_dns_stale", "1 while the newest question for a host brought no addresses", |sum| sum.stale),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (host, sum) in &sums {
                let gauge = ConstGauge::new(i64::try_from(value(sum)).unwrap_or(0));
                gauge.encode(family.encode_family(&[("host", &**host)])?)?;
            }
        }
        Ok(())
    }
}
