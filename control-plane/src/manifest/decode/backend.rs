//! `backends:`

use rustygate_data_plane::snapshot::compile::{
    BALANCE_FACTOR_MAX, CONSECUTIVE_MAX, FREE_RETRIES_MAX, LIMIT_MAX, THRESHOLD_MAX,
};
use rustygate_proto::v1 as wire;

use super::{hash_on, milliseconds, name, names, outside_text, text, weight, word};
use crate::manifest::faults::{BAD_VALUE, DUPLICATE_KEY, Faults};
use crate::manifest::node::{Node, Scalar, Value};
use crate::report::shown;

const PROTOCOLS: [(&str, wire::Protocol); 4] = [
    ("auto", wire::Protocol::Auto),
    ("http1", wire::Protocol::Http1),
    ("h2", wire::Protocol::H2),
    ("h2c", wire::Protocol::H2c),
];

pub(super) fn backend(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Backend> {
    let known = [
        "name",
        "endpoints",
        "protocol",
        "tls",
        "load_balancing",
        "health_check",
        "outlier_detection",
        "panic_threshold",
        "limits",
        "retry_budget",
        "plugins",
    ];
    let fields = faults.fields(node, "a backend", known)?;
    let [_, _, protocol, tls, load_balancing, health_check, outliers, panic, limits, budget, plugins] = fields.found;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let endpoints = faults.required(&fields, "endpoints");
    let endpoints = endpoints.and_then(|node| faults.filled_list(node, "a backend needs at least one endpoint"));
    let endpoints = endpoints.unwrap_or_default().iter().filter_map(|node| endpoint(faults, node)).collect();
    let protocol =
        protocol.and_then(|entry| word(faults, &entry.value, "protocol", "protocols", &PROTOCOLS)).map(i32::from);
    let tls = tls.and_then(|entry| backend_tls(faults, &entry.value));
    Some(wire::Backend {
        name,
        endpoints,
        load_balancing: load_balancing.and_then(|entry| balancing(faults, &entry.value)),
        health_check: health_check.and_then(|entry| health(faults, &entry.value)),
        outlier_detection: outliers.and_then(|entry| outlier_detection(faults, &entry.value)),
        panic_threshold: panic.and_then(|entry| faults.integer(&entry.value, 0, 100)),
        limits: limits.and_then(|entry| all_limits(faults, &entry.value)),
        retry_budget: budget.and_then(|entry| retry_budget(faults, &entry.value)),
        tls,
        protocol,
        plugins: plugins.map(|entry| names(faults, &entry.value)).unwrap_or_default(),
    })
}

fn backend_tls(faults: &mut Faults, node: &Node<'_>) -> Option<wire::BackendTls> {
    let known = ["ca", "server_name", "client_certificate", "insecure_skip_verify"];
    let fields = faults.fields(node, "a backend's tls", known)?;
    let [ca, server_name, client_certificate, skip_verify] = fields.found;
    let skip_verify = skip_verify.and_then(|entry| faults.boolean(&entry.value));
    Some(wire::BackendTls {
        ca: ca.and_then(|entry| outside_text(faults, &entry.value)),
        server_name: server_name.and_then(|entry| text(faults, &entry.value)),
        client_certificate: client_certificate.and_then(|entry| name(faults, &entry.value)),
        insecure_skip_verify: skip_verify.unwrap_or_default(),
    })
}

/// A URL, or a mapping where there is more to say.
fn endpoint(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Endpoint> {
    if let Some(Scalar::Text(url)) = node.scalar() {
        return Some(wire::Endpoint { url: url.to_owned(), weight: None });
    }
    if node.scalar().is_some() {
        faults.mismatch(node, "a URL string or a mapping");
        return None;
    }
    let fields = faults.fields(node, "an endpoint", ["url", "weight"])?;
    let [_, weighed] = fields.found;
    let url = faults.required(&fields, "url").and_then(|node| text(faults, node)).unwrap_or_default();
    Some(wire::Endpoint { url, weight: weighed.and_then(|entry| weight(faults, &entry.value)) })
}

fn balancing(faults: &mut Faults, node: &Node<'_>) -> Option<wire::LoadBalancing> {
    use wire::load_balancing::Policy;
    let known = ["policy", "hash_on", "balance_factor", "sticky", "slow_start"];
    let fields = faults.fields(node, "load_balancing", known)?;
    let [policy, on, factor, cookie, slow_start] = fields.found;
    let policies = [
        ("round_robin", Policy::RoundRobin),
        ("least_request", Policy::LeastRequest),
        ("peak_ewma", Policy::PeakEwma),
        ("consistent_hash", Policy::ConsistentHash),
    ];
    let policy = policy.and_then(|entry| word(faults, &entry.value, "policy", "policies", &policies));
    let balancing = wire::LoadBalancing {
        policy: policy.unwrap_or(Policy::Unspecified).into(),
        hash_on: on.and_then(|entry| hash_on(faults, &entry.value)),
        balance_factor: factor.and_then(|entry| faults.integer(&entry.value, 0, BALANCE_FACTOR_MAX)),
        sticky: cookie.and_then(|entry| sticky(faults, &entry.value)),
        slow_start_ms: slow_start.and_then(|entry| milliseconds(faults, &entry.value)),
    };
    (balancing != wire::LoadBalancing::default()).then_some(balancing)
}

fn sticky(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Sticky> {
    use wire::sticky::SameSite;
    let known = ["cookie", "ttl", "path", "secure", "http_only", "same_site"];
    let fields = faults.fields(node, "sticky", known)?;
    let [_, ttl, path, secure, http_only, same_site] = fields.found;
    let sites = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
    Some(wire::Sticky {
        cookie: faults.required(&fields, "cookie").and_then(|node| text(faults, node)).unwrap_or_default(),
        ttl_ms: ttl.and_then(|entry| milliseconds(faults, &entry.value)),
        path: path.and_then(|entry| text(faults, &entry.value)),
        secure: secure.and_then(|entry| faults.boolean(&entry.value)),
        http_only: http_only.and_then(|entry| faults.boolean(&entry.value)),
        same_site: same_site
            .and_then(|entry| word(faults, &entry.value, "same_site", "values", &sites))
            .unwrap_or_default()
            .into(),
    })
}

fn health(faults: &mut Faults, node: &Node<'_>) -> Option<wire::HealthCheck> {
    use wire::health_check::Type;
    let known = [
        "type",
        "path",
        "host",
        "statuses",
        "headers",
        "service",
        "interval",
        "timeout",
        "healthy_threshold",
        "unhealthy_threshold",
    ];
    let fields = faults.fields(node, "a health_check", known)?;
    let [kind, path, host, statuses, headers, service, interval, timeout, healthy, unhealthy] = fields.found;
    let kinds = [("http", Type::Http), ("tcp", Type::Tcp), ("grpc", Type::Grpc)];
    let kind = kind.and_then(|entry| word(faults, &entry.value, "type of a health check", "types", &kinds));
    let path = match kind {
        Some(Type::Tcp | Type::Grpc) => path.map(|entry| &entry.value),
        _ => faults.required(&fields, "path"),
    };
    Some(wire::HealthCheck {
        path: path.and_then(|node| text(faults, node)).unwrap_or_default(),
        interval_ms: interval.and_then(|entry| milliseconds(faults, &entry.value)),
        timeout_ms: timeout.and_then(|entry| milliseconds(faults, &entry.value)),
        healthy_threshold: healthy.and_then(|entry| faults.integer(&entry.value, 1, THRESHOLD_MAX)),
        unhealthy_threshold: unhealthy.and_then(|entry| faults.integer(&entry.value, 1, THRESHOLD_MAX)),
        r#type: kind.unwrap_or_default().into(),
        host: host.and_then(|entry| text(faults, &entry.value)),
        statuses: statuses.map(|entry| good_statuses(faults, &entry.value)).unwrap_or_default(),
        headers: headers.map(|entry| check_headers(faults, &entry.value)).unwrap_or_default(),
        service: service.and_then(|entry| text(faults, &entry.value)),
    })
}

fn good_statuses(faults: &mut Faults, node: &Node<'_>) -> Vec<u32> {
    let nodes = faults.filled_list(node, "leave it out for 2xx and 3xx").unwrap_or_default();
    let mut statuses: Vec<u32> = nodes.iter().filter_map(|node| faults.integer(node, 200, 599)).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn check_headers(faults: &mut Faults, node: &Node<'_>) -> Vec<wire::HeaderValue> {
    let Value::Map(entries) = &node.value else {
        faults.mismatch(node, "a mapping from names to values");
        return Vec::new();
    };
    let mut headers: Vec<wire::HeaderValue> = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.key.to_ascii_lowercase();
        if headers.iter().any(|header| header.name == name) {
            let message = format!("{} differs from another header in case only", shown(&entry.key));
            faults.add(DUPLICATE_KEY, entry.key_span, message, "keep one of them");
        }
        headers.extend(text(faults, &entry.value).map(|value| wire::HeaderValue { name, value }));
    }
    headers.sort_by(|one, other| one.name.cmp(&other.name));
    headers
}

fn outlier_detection(faults: &mut Faults, node: &Node<'_>) -> Option<wire::OutlierDetection> {
    let known = [
        "consecutive_5xx",
        "consecutive_gateway_errors",
        "base_ejection_time",
        "max_ejection_time",
        "max_ejected_percent",
    ];
    let fields = faults.fields(node, "outlier_detection", known)?;
    let [any, gateway, base, longest, percent] = fields.found;
    let detection = wire::OutlierDetection {
        consecutive_5xx: any.and_then(|entry| faults.integer(&entry.value, 0, CONSECUTIVE_MAX)),
        consecutive_gateway_errors: gateway.and_then(|entry| faults.integer(&entry.value, 0, CONSECUTIVE_MAX)),
        base_ejection_time_ms: base.and_then(|entry| milliseconds(faults, &entry.value)),
        max_ejection_time_ms: longest.and_then(|entry| milliseconds(faults, &entry.value)),
        max_ejected_percent: percent.and_then(|entry| faults.integer(&entry.value, 1, 100)),
    };
    (detection != wire::OutlierDetection::default()).then_some(detection)
}

fn all_limits(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Limits> {
    let fields = faults.fields(node, "limits", ["connections", "pending", "requests", "pending_timeout"])?;
    let [connections, pending, requests, timeout] = fields.found;
    if connections.is_none() && requests.is_none() && fields.is_whole() {
        faults.add(BAD_VALUE, node.span, "limits need one of: connections, requests", "");
        return None;
    }
    Some(wire::Limits {
        connections: connections.and_then(|entry| faults.integer(&entry.value, 1, LIMIT_MAX)),
        pending: pending.and_then(|entry| faults.integer(&entry.value, 0, LIMIT_MAX)),
        requests: requests.and_then(|entry| faults.integer(&entry.value, 1, LIMIT_MAX)),
        pending_timeout_ms: timeout.and_then(|entry| milliseconds(faults, &entry.value)),
    })
}

fn retry_budget(faults: &mut Faults, node: &Node<'_>) -> Option<wire::RetryBudget> {
    let fields = faults.fields(node, "a retry_budget", ["percent", "min_per_second"])?;
    let [percent, free] = fields.found;
    let budget = wire::RetryBudget {
        percent: percent.and_then(|entry| faults.integer(&entry.value, 0, 100)),
        min_per_second: free.and_then(|entry| faults.integer(&entry.value, 0, FREE_RETRIES_MAX)),
    };
    (budget != wire::RetryBudget::default()).then_some(budget)
}
