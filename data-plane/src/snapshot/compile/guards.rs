//! What keeps requests from endpoints that fail and from backends that are full: checks, ejection, limits, budgets.

use rustygate_proto::v1 as wire;

use super::backend::duration;
use crate::{
    canonical,
    fields::{is_field_value, is_token},
    snapshot::{
        HealthCheck, Limits, OutlierDetection, Probe, RetryBudget, fault,
        fault::{Faults, shown},
    },
};

/// The most health checks in a row that a change of state can take.
pub const THRESHOLD_MAX: u32 = 10;

/// The most failures in a row that an ejection can take.
pub const CONSECUTIVE_MAX: u32 = 1000;

/// The largest limit of a backend.
pub const LIMIT_MAX: u32 = 1_000_000;

/// The most free retries in a second.
pub const FREE_RETRIES_MAX: u32 = 10_000;

const STATUSES_MAX: usize = 64;
const HEADERS_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 1024;
const HOUR_MS: u64 = 3_600_000;

/// Of named backends whose `panic_threshold` is absent.
pub(super) const PANIC_THRESHOLD: u32 = 25;

pub(super) fn health_check(check: &wire::HealthCheck, faults: &mut Faults) -> HealthCheck {
    HealthCheck {
        probe: probe(check, faults),
        interval: duration(check.interval_ms, 5_000, 100..=HOUR_MS, "health_check.interval_ms", faults),
        timeout: duration(check.timeout_ms, 2_000, 10..=60_000, "health_check.timeout_ms", faults),
        healthy_threshold: threshold(check.healthy_threshold, 2, "health_check.healthy_threshold", faults),
        unhealthy_threshold: threshold(check.unhealthy_threshold, 3, "health_check.unhealthy_threshold", faults),
    }
}

fn probe(check: &wire::HealthCheck, faults: &mut Faults) -> Probe {
    use wire::health_check::Type;
    let kind = Type::try_from(check.r#type);
    let http = matches!(kind, Ok(Type::Http | Type::Unspecified));
    let stray = [
        ("path", !http && !check.path.is_empty()),
        ("host", !http && check.host.is_some()),
        ("statuses", !http && !check.statuses.is_empty()),
        ("headers", !http && !check.headers.is_empty()),
        ("service", kind != Ok(Type::Grpc) && check.service.is_some()),
    ];
    for (field, _) in stray.into_iter().filter(|(_, stray)| *stray) {
        let of = if field == "service" { "grpc" } else { "http" };
        let text = format_args!("{field} is for checks of type {of} alone");
        faults.add(fault::BAD_VALUE, format_args!("health_check.{field}"), text);
    }
    match kind {
        Ok(Type::Http | Type::Unspecified) => {
            check_path(&check.path, faults);
            if let Some(host) = &check.host {
                check_host(host, faults);
            }
            Probe::Http {
                path: check.path.as_str().into(),
                host: check.host.as_deref().map(Into::into),
                statuses: statuses(&check.statuses, faults),
                headers: headers(&check.headers, faults),
            }
        }
        Ok(Type::Tcp) => Probe::Tcp,
        Ok(Type::Grpc) => {
            let service = check.service.as_deref().unwrap_or_default();
            if service.len() > TEXT_BYTES_MAX {
                let text = format_args!("the name has more than {TEXT_BYTES_MAX} bytes");
                faults.add(fault::OUT_OF_BOUNDS, "health_check.service", text);
            }
            Probe::Grpc { service: service.into() }
        }
        Err(_) => {
            let text = format_args!("this version knows no check of type {}", check.r#type);
            faults.add_with_hint(fault::UNREADABLE, "health_check.type", text, "types are http, tcp and grpc");
            Probe::Tcp
        }
    }
}

fn check_path(path_and_query: &str, faults: &mut Faults) {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let field = "health_check.path";
    match canonical::path(path.as_bytes()) {
        Ok(canonical) if canonical == path => {}
        Ok(canonical) => {
            let message = format_args!("{} is not in its canonical form", shown(path));
            faults.add_with_hint(fault::BAD_PATH, field, message, format_args!("write {}", shown(&canonical)));
        }
        Err(refused) => faults.add(fault::BAD_PATH, field, format_args!("{}: {refused}", shown(path))),
    }
    if !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        faults.add(fault::BAD_PATH, field, format_args!("{} is no query", shown(query)));
    }
}

fn check_host(host: &str, faults: &mut Faults) {
    if let Err(refused) = canonical::host(host.as_bytes()) {
        faults.add(fault::BAD_HOST, "health_check.host", format_args!("{}: {refused}", shown(host)));
    }
}

fn statuses(wanted: &[u32], faults: &mut Faults) -> Box<[u16]> {
    if wanted.len() > STATUSES_MAX {
        let text = format_args!("there are {} of these; at most {STATUSES_MAX} are allowed", wanted.len());
        faults.add(fault::OUT_OF_BOUNDS, "health_check.statuses", text);
    }
    let mut statuses = Vec::new();
    for (index, &status) in wanted.iter().take(STATUSES_MAX).enumerate() {
        match u16::try_from(status) {
            Ok(status) if (200..=599).contains(&status) => statuses.push(status),
            _ => {
                let field = format_args!("health_check.statuses[{index}]");
                faults.add(fault::OUT_OF_BOUNDS, field, format_args!("{status} is not within 200 to 599"));
            }
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses.into()
}

fn headers(wanted: &[wire::HeaderValue], faults: &mut Faults) -> Box<[(Box<str>, Box<str>)]> {
    /// What the check itself writes.
    const OWN: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];
    if wanted.len() > HEADERS_MAX {
        let text = format_args!("there are {} of these; at most {HEADERS_MAX} are allowed", wanted.len());
        faults.add(fault::OUT_OF_BOUNDS, "health_check.headers", text);
    }
    for (index, header) in wanted.iter().take(HEADERS_MAX).enumerate() {
        let (name, value) = (header.name.as_str(), header.value.as_str());
        let good = is_token(name.as_bytes()) && is_field_value(value.as_bytes());
        let field = format_args!("health_check.headers[{index}]");
        if !good || name.len() + value.len() > TEXT_BYTES_MAX {
            let text = format_args!("{}: {} is not a header that HTTP allows", shown(name), shown(value));
            faults.add(fault::BAD_VALUE, field, text);
        } else if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            let hint = if name.eq_ignore_ascii_case("host") { "use the field \"host\"" } else { "" };
            faults.add_with_hint(fault::BAD_VALUE, field, format_args!("{name} is the check's own"), hint);
        }
    }
    wanted.iter().map(|header| (header.name.as_str().into(), header.value.as_str().into())).collect()
}

fn threshold(count: Option<u32>, default: u32, field: &str, faults: &mut Faults) -> u32 {
    number(count, default, 1..=THRESHOLD_MAX, field, faults)
}

fn number(
    number: Option<u32>,
    default: u32,
    bounds: std::ops::RangeInclusive<u32>,
    field: &str,
    faults: &mut Faults,
) -> u32 {
    match number {
        Some(number) if !bounds.contains(&number) => {
            let text = format_args!("{number} is not within {} to {}", bounds.start(), bounds.end());
            faults.add(fault::OUT_OF_BOUNDS, field, text);
            default
        }
        number => number.unwrap_or(default),
    }
}

/// Somebody must be left to get the requests: with one endpoint nobody is ejected.
pub(super) fn outlier_detection(
    message: Option<&wire::OutlierDetection>,
    endpoints: usize,
    faults: &mut Faults,
) -> Option<OutlierDetection> {
    let default = OutlierDetection::default();
    let message = message.copied().unwrap_or_default();
    let mut errors = |count, unless, field| number(count, unless, 0..=CONSECUTIVE_MAX, field, faults);
    let consecutive_5xx = errors(message.consecutive_5xx, default.consecutive_5xx, "outlier_detection.consecutive_5xx");
    let consecutive_gateway_errors = errors(
        message.consecutive_gateway_errors,
        default.consecutive_gateway_errors,
        "outlier_detection.consecutive_gateway_errors",
    );
    let base_ejection_time = duration(
        message.base_ejection_time_ms,
        10_000,
        100..=HOUR_MS,
        "outlier_detection.base_ejection_time_ms",
        faults,
    );
    let max_ejection_time = duration(
        message.max_ejection_time_ms,
        300_000,
        100..=24 * HOUR_MS,
        "outlier_detection.max_ejection_time_ms",
        faults,
    );
    let field = "outlier_detection.max_ejected_percent";
    let max_ejected_percent = number(message.max_ejected_percent, default.max_ejected_percent, 1..=100, field, faults);
    let detection = OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        base_ejection_time,
        max_ejection_time: max_ejection_time.max(base_ejection_time),
        max_ejected_percent,
    };
    let never = consecutive_5xx == 0 && consecutive_gateway_errors == 0;
    (endpoints > 1 && !never).then_some(detection)
}

/// Without a limit there is none.
pub(super) fn limits(message: &wire::Limits, faults: &mut Faults) -> Option<Limits> {
    let mut limit = |count: Option<u32>, least, field| {
        count.map(|count| number(Some(count), LIMIT_MAX, least..=LIMIT_MAX, field, faults))
    };
    let connections = limit(message.connections, 1, "limits.connections");
    let requests = limit(message.requests, 1, "limits.requests");
    let pending = limit(message.pending, 0, "limits.pending");
    let pending_timeout = duration(message.pending_timeout_ms, 1_000, 1..=60_000, "limits.pending_timeout_ms", faults);
    let Some(least) = connections.into_iter().chain(requests).min() else {
        let hint = "say how many: connections or requests";
        faults.add_with_hint(fault::MISSING, "limits", "limits need connections or requests", hint);
        return None;
    };
    Some(Limits { connections, requests, pending: pending.unwrap_or(least), pending_timeout })
}

pub(super) fn retry_budget(message: &wire::RetryBudget, faults: &mut Faults) -> RetryBudget {
    let default = RetryBudget::default();
    RetryBudget {
        percent: number(message.percent, default.percent, 0..=100, "retry_budget.percent", faults),
        min_per_second: number(
            message.min_per_second,
            default.min_per_second,
            0..=FREE_RETRIES_MAX,
            "retry_budget.min_per_second",
            faults,
        ),
    }
}

pub(super) fn panic_threshold(percent: Option<u32>, faults: &mut Faults) -> u32 {
    number(percent, PANIC_THRESHOLD, 0..=100, "panic_threshold", faults)
}
