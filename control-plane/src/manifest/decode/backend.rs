//! `backends:`

use rustygate_data_plane::snapshot::compile::THRESHOLD_MAX;
use rustygate_proto::v1 as wire;

use super::{milliseconds, name, outside_text, text, weight, word};
use crate::manifest::faults::{BAD_VALUE, Faults, closest};
use crate::manifest::node::{Node, Scalar};
use crate::report::shown;

const PROTOCOLS: [(&str, wire::Protocol); 4] = [
    ("auto", wire::Protocol::Auto),
    ("http1", wire::Protocol::Http1),
    ("h2", wire::Protocol::H2),
    ("h2c", wire::Protocol::H2c),
];

pub(super) fn backend(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Backend> {
    let fields =
        faults.fields(node, "a backend", ["name", "endpoints", "protocol", "tls", "load_balancing", "health_check"])?;
    let [_, _, protocol, tls, load_balancing, health_check] = fields.found;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let endpoints = faults.required(&fields, "endpoints");
    let endpoints = endpoints.and_then(|node| faults.filled_list(node, "a backend needs at least one endpoint"));
    let endpoints = endpoints.unwrap_or_default().iter().filter_map(|node| endpoint(faults, node)).collect();
    let load_balancing = load_balancing.and_then(|entry| balancing(faults, &entry.value));
    let health_check = health_check.and_then(|entry| health(faults, &entry.value));
    let protocol = protocol.and_then(|entry| word(faults, &entry.value, "protocol", &PROTOCOLS)).map(i32::from);
    let tls = tls.and_then(|entry| backend_tls(faults, &entry.value));
    Some(wire::Backend { name, endpoints, load_balancing, health_check, tls, protocol })
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
    const POLICIES: [&str; 2] = ["round_robin", "least_request"];
    let fields = faults.fields(node, "load_balancing", ["policy"])?;
    let node = faults.required(&fields, "policy")?;
    let policy = match faults.text(node)? {
        "round_robin" => wire::load_balancing::Policy::RoundRobin,
        "least_request" => wire::load_balancing::Policy::LeastRequest,
        other => {
            let guess = closest(other, &POLICIES).map(|guess| format!("did you mean {guess:?}? "));
            let hint = format!("{}policies are: {}", guess.unwrap_or_default(), POLICIES.join(", "));
            faults.add(BAD_VALUE, node.span, format!("unknown policy {}", shown(other)), hint);
            return None;
        }
    };
    Some(wire::LoadBalancing { policy: policy.into() })
}

fn health(faults: &mut Faults, node: &Node<'_>) -> Option<wire::HealthCheck> {
    let known = ["path", "interval", "timeout", "healthy_threshold", "unhealthy_threshold"];
    let fields = faults.fields(node, "a health_check", known)?;
    let [_, interval, timeout, healthy, unhealthy] = fields.found;
    let path = faults.required(&fields, "path").and_then(|node| text(faults, node)).unwrap_or_default();
    Some(wire::HealthCheck {
        path,
        interval_ms: interval.and_then(|entry| milliseconds(faults, &entry.value)),
        timeout_ms: timeout.and_then(|entry| milliseconds(faults, &entry.value)),
        healthy_threshold: healthy.and_then(|entry| faults.integer(&entry.value, 1, THRESHOLD_MAX)),
        unhealthy_threshold: unhealthy.and_then(|entry| faults.integer(&entry.value, 1, THRESHOLD_MAX)),
    })
}
