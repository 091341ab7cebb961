//! Backends: endpoints and the schedule of their turns.

use std::{fmt, sync::Arc, time::Duration};

use rustygate_proto::v1 as wire;

use super::{
    balancing::{self, Balancing},
    guards, target,
    tls::{self, Keys},
};
use crate::{
    plugin::Plugin,
    snapshot::{
        Backend, Endpoint, Id, Policy, RetryBudget, fault,
        fault::{Faults, shown},
    },
    tls::Client,
};

/// The most endpoints of a backend.
const ENDPOINTS_MAX: usize = 1000;

/// The most that one thing may weigh against its siblings.
pub const WEIGHT_MAX: u32 = 1000;

/// The most turns in one period.
const SCHEDULE_MAX: u32 = 1 << 16;

/// The backend of a message, or `None` after a fault.
pub(super) fn compile(
    message: &wire::Backend,
    keys: &Keys<'_, '_>,
    public_client: &mut Option<Arc<Client>>,
    plugins: Box<[Arc<Plugin>]>,
    faults: &mut Faults,
) -> Option<Backend> {
    let before = faults.count();
    if message.endpoints.len() > ENDPOINTS_MAX {
        let count = message.endpoints.len();
        let text = format_args!("there are {count} endpoints; at most {ENDPOINTS_MAX} are allowed");
        faults.add(fault::OUT_OF_BOUNDS, "endpoints", text);
    }
    let mut places = Vec::new();
    for (index, endpoint) in (0..).zip(message.endpoints.iter().take(ENDPOINTS_MAX)) {
        let weight = weight(endpoint.weight, format_args!("endpoints[{index}].weight"), faults);
        match target::parse(&endpoint.url) {
            Ok(place) => places.push((index, place, weight)),
            Err(error) => add_bad_url(&error, &endpoint.url, format_args!("endpoints[{index}].url"), faults),
        }
    }
    let (clear, over_tls) = tls::protocols(message.protocol, &places, faults);
    let any_https = places.iter().any(|(_, place, _)| place.https);
    let client = match &message.tls {
        Some(terms) => tls::client(terms, over_tls, keys, faults),
        None if any_https => tls::public_client(public_client, over_tls, faults),
        None => None,
    };
    if message.tls.is_some() && !any_https && faults.count() == before {
        let hint = "begin the URLs with https://, or leave `tls` out";
        faults.add_with_hint(fault::BAD_TLS, "tls", "no endpoint has https, so there is no TLS to set up", hint);
    }
    let mut endpoints = Vec::new();
    for (index, place, weight) in places {
        let (protocol, tls) = match &client {
            Some(client) if place.https => {
                let field = format_args!("endpoints[{index}].url");
                (over_tls, tls::endpoint(client, &place.host, field, faults))
            }
            _ => (clear, None),
        };
        endpoints.push(Arc::new(place.endpoint(weight, protocol, tls)));
    }
    let balancing = message.load_balancing.as_ref();
    let Balancing { policy, sticky, slow_start } = balancing
        .map_or_else(Balancing::default, |balancing| balancing::compile(balancing, &message.name, &endpoints, faults));
    let health_check = message.health_check.as_ref().map(|check| guards::health_check(check, faults));
    let outlier_detection = guards::outlier_detection(message.outlier_detection.as_ref(), endpoints.len(), faults);
    let limits = message.limits.as_ref().and_then(|limits| guards::limits(limits, faults));
    let retry_budget = message.retry_budget.as_ref();
    let retry_budget = retry_budget.map_or_else(RetryBudget::default, |budget| guards::retry_budget(budget, faults));
    let panic_threshold = guards::panic_threshold(message.panic_threshold, faults);
    let schedule = schedule(&endpoints, faults);
    // The certificate that it shows may be at fault, and not the backend.
    let whole = client.is_some() || !any_https;
    (whole && faults.count() == before).then(|| Backend {
        id: Id::of("backend", &message.name),
        name: message.name.as_str().into(),
        endpoints: endpoints.into(),
        policy,
        schedule,
        sticky,
        slow_start,
        panic_threshold,
        health_check,
        tls: client,
        outlier_detection,
        limits,
        retry_budget,
        plugins,
    })
}

/// The backend of one endpoint that a route has in place.
pub(super) fn inline(endpoint: Endpoint) -> Backend {
    let name = if endpoint.host.contains(':') {
        format!("[{}]:{}", endpoint.host, endpoint.port)
    } else {
        format!("{}:{}", endpoint.host, endpoint.port)
    };
    // As it always was where there is no TLS.
    let identity = if endpoint.tls.is_some() { format!("https://{name}") } else { name.clone() };
    Backend {
        id: Id::of("inline backend", &identity),
        name: name.into(),
        tls: endpoint.tls.as_ref().map(|tls| Arc::clone(&tls.client)),
        endpoints: [Arc::new(endpoint)].into(),
        policy: Policy::default(),
        schedule: [0].into(),
        sticky: None,
        slow_start: None,
        panic_threshold: guards::PANIC_THRESHOLD,
        health_check: None,
        outlier_detection: None,
        limits: None,
        retry_budget: RetryBudget::default(),
        plugins: Box::default(),
    }
}

/// Adds the names of a backend's endpoints, which have to be resolved; addresses are none.
pub(super) fn add_names(backend: &Backend, names: &mut Vec<Box<str>>) {
    let hosts = backend.endpoints.iter().map(|endpoint| &endpoint.host);
    names.extend(hosts.filter(|host| host.parse::<std::net::IpAddr>().is_err()).cloned());
}

pub(super) fn add_bad_url(error: &target::BadUrl, url: &str, field: fmt::Arguments<'_>, faults: &mut Faults) {
    faults.add_with_hint(fault::BAD_URL, field, format_args!("{}: {error}", shown(url)), error.hint());
}

/// A weight, 1 if absent; 1 also after a fault.
pub(super) fn weight(weight: Option<u32>, field: fmt::Arguments<'_>, faults: &mut Faults) -> u32 {
    match weight {
        Some(weight) if weight > WEIGHT_MAX => {
            faults.add(fault::OUT_OF_BOUNDS, field, format_args!("the weight {weight} is over {WEIGHT_MAX}"));
            1
        }
        weight => weight.unwrap_or(1),
    }
}

/// A time in milliseconds within bounds; the default if absent or after a fault.
pub(super) fn duration(
    millis: Option<u64>,
    default: u64,
    bounds: std::ops::RangeInclusive<u64>,
    field: impl fmt::Display,
    faults: &mut Faults,
) -> Duration {
    match millis {
        Some(millis) if !bounds.contains(&millis) => {
            let (least, most) = (Written(*bounds.start()), Written(*bounds.end()));
            let message = format_args!("{} is not within {least} to {most}", Written(millis));
            faults.add(fault::OUT_OF_BOUNDS, field, message);
            Duration::from_millis(default)
        }
        millis => Duration::from_millis(millis.unwrap_or(default)),
    }
}

/// Milliseconds as a user writes them, in the largest unit that is exact.
pub(super) struct Written(pub u64);

impl fmt::Display for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let fits = |(size, _): &(u64, &str)| self.0.is_multiple_of(*size) && self.0 > 0;
        let (size, unit) = units.into_iter().find(fits).unwrap_or((1, "ms"));
        write!(formatter, "{}{unit}", self.0 / size)
    }
}

/// One period of smooth weighted turns: at each turn everyone gains its weight, and who has most goes and pays the sum.
#[allow(clippy::cast_possible_truncation, reason = "there are at most 1,000 endpoints")]
fn schedule(endpoints: &[Arc<Endpoint>], faults: &mut Faults) -> Box<[u16]> {
    let divisor = endpoints.iter().fold(0, |divisor, endpoint| gcd(divisor, endpoint.weight));
    if divisor == 0 {
        return Box::default();
    }
    let weights: Vec<i64> = endpoints.iter().map(|endpoint| i64::from(endpoint.weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    if total > i64::from(SCHEDULE_MAX) {
        let message = format_args!("the weights make a period of {total} turns; at most {SCHEDULE_MAX} are allowed");
        faults.add_with_hint(fault::OUT_OF_BOUNDS, "endpoints", message, "use smaller weights");
        return Box::default();
    }
    let mut credits = vec![0; weights.len()];
    let turns = (0..total).map(|_| {
        let mut richest = 0;
        for index in 0..weights.len() {
            credits[index] += weights[index];
            if credits[index] > credits[richest] {
                richest = index;
            }
        }
        credits[richest] -= total;
        richest as u16
    });
    turns.collect()
}

fn gcd(left: u32, right: u32) -> u32 {
    if right == 0 { left } else { gcd(right, left % right) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(weight: u32) -> Endpoint {
        target::parse("http://a").expect("valid").endpoint(weight, crate::snapshot::Protocol::Http1, None)
    }

    fn turns(weights: &[u32]) -> Vec<u16> {
        let endpoints: Vec<_> = weights.iter().map(|&weight| Arc::new(endpoint(weight))).collect();
        let mut faults = Faults::default();
        let schedule = schedule(&endpoints, &mut faults);
        assert!(faults.is_empty());
        schedule.into_vec()
    }

    #[test]
    fn turns_are_smooth_and_reduced() {
        assert_eq!(turns(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[10, 20]), [1, 0, 1]);
        assert_eq!(turns(&[7, 7, 7]), [0, 1, 2]);
        assert_eq!(turns(&[0, 3]), [1]);
        assert_eq!(turns(&[0, 0]), [0_u16; 0]);
        assert_eq!(turns(&[]), [0_u16; 0]);
    }

    #[test]
    fn a_period_has_as_many_turns_for_each_as_it_weighs() {
        let turns = turns(&[3, 0, 17, 101]);
        let count = |index: u16| turns.iter().filter(|&&turn| turn == index).count();
        assert_eq!([count(0), count(1), count(2), count(3)], [3, 0, 17, 101]);
    }
}
