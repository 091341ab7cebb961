//! How an endpoint is chosen: the policy, the hash ring, the sticky cookie.

use std::{fmt, sync::Arc, time::Duration};

use rustygate_proto::v1 as wire;

use super::backend::duration;
use crate::{
    fields::is_token,
    snapshot::{
        Endpoint, HashOn, Policy, Ring, Sticky, fault,
        fault::{Faults, shown},
    },
};

/// The most bytes of the name of a header or cookie.
const NAME_BYTES_MAX: usize = 256;

/// The most bytes of a cookie's path.
const PATH_BYTES_MAX: usize = 1024;

/// Points on the ring of the heaviest endpoint. So many keep the share of each within about a tenth of what it should be.
const POINTS_PER_ENDPOINT: u32 = 160;

/// The same of backends with many endpoints, so that a ring stays below a megabyte.
const POINTS_PER_ENDPOINT_OF_MANY: u32 = 64;

/// From here on there are many.
const MANY_ENDPOINTS: usize = 400;

/// The largest balance factor, in percent; beyond it a bound bounds nothing.
pub const BALANCE_FACTOR_MAX: u32 = 1000;

/// The same as HAProxy's documentation suggests and close to what Mirrokni, Thorup and Zadimoghaddam recommend.
const BALANCE_FACTOR: u32 = 125;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 366 * 24 * HOUR_MS;

/// What `load_balancing` says; defaults without it.
#[derive(Default)]
pub(super) struct Balancing {
    pub policy: Policy,
    pub sticky: Option<Sticky>,
    pub slow_start: Option<Duration>,
}

pub(super) fn compile(
    message: &wire::LoadBalancing,
    backend: &str,
    endpoints: &[Arc<Endpoint>],
    faults: &mut Faults,
) -> Balancing {
    Balancing {
        policy: policy(message, endpoints, faults),
        sticky: message.sticky.as_ref().map(|cookie| sticky(cookie, backend, endpoints, faults)),
        slow_start: message
            .slow_start_ms
            .map(|span| duration(Some(span), 0, 0..=HOUR_MS, "load_balancing.slow_start_ms", faults))
            .filter(|span| !span.is_zero()),
    }
}

fn policy(message: &wire::LoadBalancing, endpoints: &[Arc<Endpoint>], faults: &mut Faults) -> Policy {
    use wire::load_balancing::Policy as WirePolicy;
    let policy = WirePolicy::try_from(message.policy);
    if policy != Ok(WirePolicy::ConsistentHash) {
        let stray = [("hash_on", message.hash_on.is_some()), ("balance_factor", message.balance_factor.is_some())];
        for (field, _) in stray.into_iter().filter(|(_, present)| *present) {
            let text = format_args!("{field} is for the policy consistent_hash alone");
            faults.add(fault::BAD_VALUE, format_args!("load_balancing.{field}"), text);
        }
    }
    match policy {
        Ok(WirePolicy::RoundRobin) => Policy::RoundRobin,
        Ok(WirePolicy::LeastRequest | WirePolicy::Unspecified) => Policy::LeastRequest,
        Ok(WirePolicy::PeakEwma) => Policy::PeakEwma,
        Ok(WirePolicy::ConsistentHash) => {
            let balance_factor = message.balance_factor.unwrap_or(BALANCE_FACTOR);
            if balance_factor != 0 && !(100..=BALANCE_FACTOR_MAX).contains(&balance_factor) {
                let text = format_args!("{balance_factor} is neither 0 nor within 100 to {BALANCE_FACTOR_MAX}");
                faults.add(fault::OUT_OF_BOUNDS, "load_balancing.balance_factor", text);
            }
            let Some(on) = &message.hash_on else {
                let hint = "say what is hashed: header, cookie, client_ip or path";
                faults.add_with_hint(fault::MISSING, "load_balancing.hash_on", "consistent_hash needs hash_on", hint);
                return Policy::default();
            };
            match hash_on(on, format_args!("load_balancing.hash_on"), faults) {
                Some(on) => Policy::ConsistentHash(Ring { on, balance_factor, points: points(endpoints) }),
                None => Policy::default(),
            }
        }
        Err(_) => {
            let message = format_args!("this version knows no policy {}", message.policy);
            let hint = "policies are round_robin, least_request, peak_ewma and consistent_hash";
            faults.add_with_hint(fault::UNREADABLE, "load_balancing.policy", message, hint);
            Policy::default()
        }
    }
}

/// What is hashed, or `None` after a fault.
pub(super) fn hash_on(message: &wire::HashOn, at: fmt::Arguments<'_>, faults: &mut Faults) -> Option<HashOn> {
    use wire::hash_on::Kind;
    match &message.kind {
        Some(Kind::Header(name)) => {
            check_name(name, format_args!("{at}.header"), faults).map(|name| HashOn::Header(name.into()))
        }
        Some(Kind::Cookie(name)) => {
            check_name(name, format_args!("{at}.cookie"), faults).map(|name| HashOn::Cookie(name.into()))
        }
        Some(Kind::ClientIp(_)) => Some(HashOn::ClientIp),
        Some(Kind::Path(_)) => Some(HashOn::Path),
        None => {
            faults.add(fault::UNREADABLE, at, "this version does not know what is to be hashed");
            None
        }
    }
}

fn check_name<'n>(name: &'n str, field: fmt::Arguments<'_>, faults: &mut Faults) -> Option<&'n str> {
    if is_token(name.as_bytes()) && name.len() <= NAME_BYTES_MAX {
        return Some(name);
    }
    let text = format_args!("{} is not a name that HTTP allows", shown(name));
    let hint = format_args!("1 to {NAME_BYTES_MAX} letters, digits and !#$%&'*+-.^_`|~");
    faults.add_with_hint(fault::BAD_VALUE, field, text, hint);
    None
}

/// Each endpoint's points depend on itself, and its share of the heaviest weight, alone: so when one leaves, only what
/// was its own moves.
#[allow(clippy::cast_possible_truncation, reason = "there are at most 1,000 endpoints")]
fn points(endpoints: &[Arc<Endpoint>]) -> Box<[(u64, u16)]> {
    let most = if endpoints.len() < MANY_ENDPOINTS { POINTS_PER_ENDPOINT } else { POINTS_PER_ENDPOINT_OF_MANY };
    let heaviest = endpoints.iter().map(|endpoint| endpoint.weight).max().unwrap_or(0).max(1);
    let mut points = Vec::with_capacity(endpoints.len() * most as usize);
    for (index, endpoint) in endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.weight > 0) {
        let count = (most * endpoint.weight / heaviest).max(1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"ring\0").update(&endpoint.id.0.to_le_bytes()).update(endpoint.base_path.as_bytes());
        let mut stream = hasher.finalize_xof();
        points.extend((0..count).map(|_| {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            (u64::from_le_bytes(bytes), index as u16)
        }));
    }
    points.sort_unstable();
    points.into()
}

fn sticky(message: &wire::Sticky, backend: &str, endpoints: &[Arc<Endpoint>], faults: &mut Faults) -> Sticky {
    use wire::sticky::SameSite;
    check_name(&message.cookie, format_args!("load_balancing.sticky.cookie"), faults);
    let mut attributes = String::new();
    let path = message.path.as_deref().unwrap_or("/");
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b';';
    if !path.starts_with('/') || path.len() > PATH_BYTES_MAX || !path.bytes().all(plain) {
        let text = format_args!("{} is not a path that a cookie can have", shown(path));
        faults.add(fault::BAD_PATH, "load_balancing.sticky.path", text);
    }
    attributes.push_str("; Path=");
    attributes.push_str(path);
    if let Some(ttl) = message.ttl_ms {
        let ttl = duration(Some(ttl), 1_000, 1_000..=YEAR_MS, "load_balancing.sticky.ttl_ms", faults);
        attributes.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    let secure = message.secure.unwrap_or(false);
    if secure {
        attributes.push_str("; Secure");
    }
    if message.http_only.unwrap_or(true) {
        attributes.push_str("; HttpOnly");
    }
    match SameSite::try_from(message.same_site) {
        Ok(SameSite::Unspecified | SameSite::Lax) => attributes.push_str("; SameSite=Lax"),
        Ok(SameSite::Strict) => attributes.push_str("; SameSite=Strict"),
        Ok(SameSite::None) => {
            if !secure {
                let hint = "browsers refuse SameSite=None without Secure";
                let field = "load_balancing.sticky.same_site";
                faults.add_with_hint(fault::BAD_VALUE, field, "same_site: none needs secure: true", hint);
            }
            attributes.push_str("; SameSite=None");
        }
        Err(_) => {
            let text = format_args!("this version knows no same_site {}", message.same_site);
            faults.add(fault::UNREADABLE, "load_balancing.sticky.same_site", text);
        }
    }
    Sticky {
        cookie: message.cookie.as_str().into(),
        attributes: attributes.into(),
        values: endpoints.iter().map(|endpoint| cookie_value(backend, endpoint)).collect(),
    }
}

/// 32 bits of a hash: enough to tell a thousand endpoints apart, and too few to find out an address by trying all.
fn cookie_value(backend: &str, endpoint: &Endpoint) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"sticky\0").update(backend.as_bytes()).update(&[0]);
    hasher.update(&endpoint.id.0.to_le_bytes()).update(endpoint.base_path.as_bytes());
    let mut bytes = [0; 4];
    hasher.finalize_xof().fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
