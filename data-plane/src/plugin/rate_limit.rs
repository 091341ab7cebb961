//! `rate_limit`: bounds how many requests come in a time, by GCRA.
//!
//! A key has for each window one number, the time at which its whole burst would be there again (TAT in the literature). A
//! request moves it on by the time that one request is worth, unless that brings it further than a whole burst from
//! now. So a key that is not in use needs no memory, and nothing has to be filled up by a timer.

mod redis;
mod table;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use self::{
    redis::{Store, Target},
    table::Table,
};
use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    count_key::{self, CountKey},
    request::Identity,
    server,
    spec::{Key, Kind},
};
use crate::{
    duration,
    fields::Fields,
    snapshot::{Id, fault::Faults},
};

/// The most windows of a plugin.
const WINDOWS_MAX: usize = 4;

/// The most requests of a window, and of a burst.
const REQUESTS_MAX: u64 = 1_000_000;

/// The longest window.
const PER_MAX_MS: u64 = 30 * 24 * 3_600_000;

/// The longest time in which a burst may fill up: a year.
const SPAN_MAX_NS: u64 = 366 * 24 * 3_600 * NS;

/// Nanoseconds of a second.
const NS: u64 = 1_000_000_000;

const REQUESTS: Kind = Kind::Integer { min: 1, max: REQUESTS_MAX };
const PER: Kind = Kind::Duration { min: 1000, max: PER_MAX_MS };
const BURST: Key =
    Key::new("burst", REQUESTS, "as `requests`", "How many may come at once; then one each `per` ÷ `requests`");

static WINDOW: [Key; 3] =
    [Key::required("requests", REQUESTS, "How many requests"), Key::required("per", PER, "In which time"), BURST];

static REDIS: [Key; 7] = [
    Key::required(
        "url",
        Kind::Text { max: 1024 },
        "`redis://HOST:PORT/DATABASE`, or `rediss://` with TLS; 6379 and 0 by default",
    ),
    Key::new("ca", Kind::Outside, "the public authorities", "Who vouches for Redis with TLS: certificates in PEM"),
    Key::new("username", Kind::Text { max: 256 }, "", "The user of its ACL"),
    Key::new("password", Kind::Secret, "", "The user's, or the one for all"),
    Key::new(
        "timeout",
        Kind::Duration { min: 1, max: 10_000 },
        "25ms",
        "How long a request waits for an answer; no other waits after one that got none",
    ),
    Key::new(
        "on_error",
        Kind::Word(&["local", "open", "closed"]),
        "local",
        "Without an answer: each proxy counts for itself, requests go on, or they are refused",
    ),
    Key::new("prefix", Kind::Text { max: 256 }, "rustygate", "What the keys in Redis begin with"),
];

pub(super) static LIMITED: Reason = Reason {
    name: "rate_limited",
    status: 429,
    detail: "too many requests in too short a time",
    when: "The key has used up one of its windows; `Retry-After` says when there is room again",
};

pub(super) static UNAVAILABLE: Reason = Reason {
    name: "rate_limit_unavailable",
    status: 503,
    detail: "the gateway cannot count requests now",
    when: "Redis does not answer, and `on_error` is `closed`",
};

pub(super) static SPEC: Spec = Spec {
    name: "rate_limit",
    summary: "Bounds how many requests come in a time.",
    details: "Each key may send `burst` requests at once; what it has used comes back one by one, evenly, `requests` in each `per` (GCRA, \
a token bucket). So of 100 requests per minute, exactly 100 of a burst pass, then one more each 600 ms. With several \
windows a request passes if every one of them has room, and one that is refused takes from none.\n\n\
Requests are counted exactly over all workers of a proxy; several proxies count each for themselves, or together with \
`redis`. All places \
that name the plugin share its counts, unless `route` is in the key. A push leaves them alone, one that changes the plugin \
too: who had used half of the old limit has used half of the new one. Other windows or another key begin anew.\n\n\
A key that has nothing to wait for is forgotten. If more than `max_keys` are in use, those go first that would have had their \
whole burst again soonest, so that who is at the limit stays there; `rustygate_rate_limit_evictions` counts them.\n\n\
Answers have `RateLimit-Policy` (`q`: the burst, `w`: the seconds in which it fills up) and `RateLimit` (`r`: requests that \
may come now, `t`: seconds until there is one more), as draft-ietf-httpapi-ratelimit-headers-11 has them; refusals \
`Retry-After`. What a backend says in these headers is replaced.\n\n\
With `redis` all proxies that share a Redis (5 or newer) or Valkey share the counts of the plugins that have the same name, limits and `prefix` \
there. Each worker has one connection, on which one script for each request decides in one step, by the clock of Redis. The \
first failure takes the connection out of use: from then on no request waits, and `on_error` holds until a new one is there, which is \
tried for in the background within a second each. Keys are hashes with an expiry; what the counts are worth is as \
lasting as the Redis is.",
    keys: &[
        Key::new("requests", REQUESTS, "", "How many requests; with `per`, if there are no `windows`"),
        Key::new("per", PER, "", "In which time"),
        BURST,
        Key::new("windows", Kind::List(&Kind::Object(&WINDOW), WINDOWS_MAX), "", "Several of these at once"),
        count_key::spec("client_ip"),
        Key::new("max_keys", Kind::Integer { min: 1000, max: 1_000_000 }, "100,000", "Keys that are counted at a time"),
        Key::new("headers", Kind::Bool, "true", "Whether answers have `RateLimit` and `RateLimit-Policy`"),
        Key::new(
            "legacy_headers",
            Kind::Bool,
            "false",
            "Whether answers have `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds until the whole burst is there), of the \
window with the least left",
        ),
        Key::new("redis", Kind::Object(&REDIS), "", "Counts together with other proxies"),
    ],
    example: "windows: [{requests: 10, per: 1s}, {requests: 1000, per: 1h}]\nkey: [client_ip, {header: x-tenant}]",
    reasons: &[&LIMITED, &UNAVAILABLE],
};

#[derive(Debug)]
pub(super) struct RateLimit {
    windows: Windows,
    key: CountKey,
    /// Of the key and the times of the windows: counts of other forms are other counts.
    form: Id,
    keys_max: usize,
    /// `RateLimit-Policy`, if it is said.
    policy: Option<String>,
    legacy: bool,
    shared: Option<SharedCounts>,
}

/// Counts in Redis.
#[derive(Debug)]
struct SharedCounts {
    target: Target,
    /// Of the target, with its password.
    id: Id,
    timeout: Duration,
    on_error: OnError,
    /// What keys begin with: the prefix and the plugin's name.
    prefix: String,
    /// What the script wants to know of the windows.
    terms: Vec<(u64, u64)>,
}

/// What becomes of requests that Redis does not decide about.
#[derive(Clone, Copy, Debug)]
enum OnError {
    Local,
    Open,
    Closed,
}

/// Sorted by their time.
type Windows = Vec<Window>;

#[derive(Debug)]
struct Window {
    /// As `RateLimit` calls it.
    name: String,
    /// The most requests at once.
    burst: u64,
    /// What a request is worth, in nanoseconds.
    interval: u64,
    /// What a burst is worth, in nanoseconds.
    span: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    allowed: bool,
    /// For each window, how long it takes until the key's whole burst is there again, in nanoseconds.
    used: [u64; WINDOWS_MAX],
}

pub(super) fn compile(config: &Config<'_>, name: &str, faults: &mut Faults) -> RateLimit {
    let windows = windows(config, name, faults);
    let key = count_key::compile(config, "client_ip", faults);
    let spans: Vec<u64> = windows.iter().map(|(per, _)| *per).collect();
    let form = Id::of("rate limit", &format!("{}{spans:?}", key.form()));
    let windows: Windows = windows.into_iter().map(|(_, window)| window).collect();
    let policy =
        |window: &Window| format!("{};q={};w={}", quoted(&window.name), window.burst, window.span.div_ceil(NS));
    RateLimit {
        shared: config.child("redis").and_then(|redis| shared(&redis, name, &windows, faults)),
        policy: config.bool("headers").then(|| windows.iter().map(policy).collect::<Vec<_>>().join(", ")),
        windows,
        key,
        form,
        keys_max: config.integer("max_keys").and_then(|keys| usize::try_from(keys).ok()).unwrap_or(usize::MAX),
        legacy: config.bool("legacy_headers"),
    }
}

fn shared(config: &Config<'_>, name: &str, windows: &[Window], faults: &mut Faults) -> Option<SharedCounts> {
    let (mut target, is_secure) = match Target::parse(config.text("url")?) {
        Ok(parts) => parts,
        Err((problem, hint)) => {
            config.fault("url", problem, hint, faults);
            return None;
        }
    };
    let keys = server::Keys { url: "url", ca: "ca", scheme: "rediss" };
    target.tls = server::tls(config, keys, &target.host, is_secure, faults)?;
    target.username = config.text("username").map(str::to_owned);
    // Files end with a new line.
    let password = config.secret("password").map(|bytes| std::str::from_utf8(bytes).map(str::trim_end));
    target.password = match password.transpose() {
        Ok(password) => password.map(str::to_owned),
        Err(_) => {
            config.fault("password", "the password is no UTF-8", "", faults);
            return None;
        }
    };
    if target.username.is_some() && target.password.is_none() {
        config.fault("username", "there is a user, but no password", "give \"password\" too", faults);
    }
    let secret = blake3::hash(format!("{:?}{:?}", target.username, target.password).as_bytes());
    let trust = target.tls.as_ref().map_or(0, |tls| tls.client.id.0);
    Some(SharedCounts {
        id: Id::of("redis", &format!("{target:?} {trust:016x} {}", secret.to_hex())),
        target,
        timeout: config.duration("timeout").unwrap_or_default(),
        on_error: match config.word("on_error") {
            "open" => OnError::Open,
            "closed" => OnError::Closed,
            _ => OnError::Local,
        },
        prefix: format!("{}:{name}:", config.word("prefix")),
        terms: windows.iter().map(|window| (window.interval / 1000, window.span / 1000)).collect(),
    })
}

/// By their time in milliseconds, sorted.
fn windows(config: &Config<'_>, name: &str, faults: &mut Faults) -> Vec<(u64, Window)> {
    let list = config.children("windows");
    let single = ["requests", "per", "burst"].into_iter().find(|key| config.has(key));
    if let Some(key) = single.filter(|_| config.has("windows")) {
        config.fault(key, "there are \"windows\" too", "put it into one of them", faults);
        return Vec::new();
    }
    let configs = match single {
        Some(_) if !(config.has("requests") && config.has("per")) => {
            config.fault_here("a limit has \"requests\" and \"per\"", "as in {requests: 100, per: 1m}", faults);
            return Vec::new();
        }
        Some(_) => vec![config.clone()],
        None if list.is_empty() => {
            let hint = "as in {requests: 100, per: 1m}";
            config.fault_here("there are neither \"requests\" and \"per\" nor \"windows\"", hint, faults);
            return Vec::new();
        }
        None => list.into_iter().map(|(_, config)| config).collect(),
    };
    let several = configs.len() > 1;
    let mut windows: Vec<(u64, Window)> = Vec::new();
    for config in configs {
        // What has no right shape was told of.
        let (Some(requests), Some(per)) = (config.integer("requests"), config.duration("per")) else { continue };
        let per = u64::try_from(per.as_millis()).unwrap_or(PER_MAX_MS).min(PER_MAX_MS);
        let requests = requests.clamp(1, REQUESTS_MAX);
        let burst = config.integer("burst").unwrap_or(requests).clamp(1, REQUESTS_MAX);
        // Whole microseconds, as Redis has them.
        let interval = (per * 1000).div_ceil(requests) * 1000;
        let span = interval.saturating_mul(burst);
        if span > SPAN_MAX_NS {
            config.fault("burst", "such a burst takes more than a year to fill up", "make it smaller", faults);
        }
        if windows.iter().any(|(other, _)| *other == per) {
            let message = format_args!("there is another window of {}", duration::write(per));
            config.fault("per", message, "one of them never has an effect: leave it out", faults);
        }
        let name = if several { format!("{name}-{}", duration::write(per)) } else { name.to_owned() };
        windows.push((per, Window { name, burst, interval, span: span.min(SPAN_MAX_NS) }));
    }
    windows.sort_by_key(|(per, _)| *per);
    windows.truncate(WINDOWS_MAX);
    windows
}

/// As a String of structured fields (RFC 9651 section 3.3.3).
fn quoted(text: &str) -> String {
    let plain: String = text.chars().map(|char| if (' '..='~').contains(&char) { char } else { '?' }).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

impl RateLimit {
    pub fn on_request(&self, identity: Identity, request: &mut PluginRequest<'_>) -> Flow {
        let verdict = self.count(identity, request);
        self.conclude(verdict, request)
    }

    /// Whether a request has to wait for others to count it.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Has Redis count the request.
    pub async fn ask(&self, identity: Identity, request: &mut PluginRequest<'_>) -> Flow {
        let Some(shared) = &self.shared else { return self.on_request(identity, request) };
        let make = |_: &crate::live::States| Store::start(shared.target.clone());
        let store = request.worker.states.own(shared.id, request.now, make);
        let mut hasher = blake3::Hasher::new();
        self.feed(request, &mut |bytes| {
            hasher.update(bytes);
        });
        let key = format!("{}{}", shared.prefix, &hasher.finalize().to_hex()[..32]);
        if let Ok(verdict) = store.take(&key, &shared.terms, shared.timeout).await {
            return self.conclude(verdict, request);
        }
        request.worker.shared.metrics.gauges.rate_limit_errors.fetch_add(1, Relaxed);
        match shared.on_error {
            OnError::Local => self.on_request(identity, request),
            OnError::Open => Flow::Continue,
            OnError::Closed => Refusal::new(&UNAVAILABLE).into(),
        }
    }

    /// Counts the request in this proxy's own table.
    fn count(&self, identity: Identity, request: &PluginRequest<'_>) -> Verdict {
        let make = |shared: &crate::live::States| shared.get_or(identity.id, Table::default);
        let table: &Arc<Table> = &request.worker.states.own(identity.id, request.now, make);
        let key = table.key(|write| self.feed(request, write));
        let (verdict, evicted) = table.take(key, &self.windows, request.now, self.keys_max);
        if evicted > 0 {
            request.worker.shared.metrics.gauges.rate_limit_evictions.fetch_add(evicted, Relaxed);
        }
        verdict
    }

    /// Writes what tells the request's key from all others of the plugin.
    fn feed(&self, request: &PluginRequest<'_>, write: &mut dyn FnMut(&[u8])) {
        write(&self.form.0.to_le_bytes());
        self.key.feed(request, write);
    }

    fn conclude(&self, verdict: Verdict, request: &mut PluginRequest<'_>) -> Flow {
        let answer = &mut request.facts.answer;
        if let Some(policy) = &self.policy {
            // Behind those of other plugins.
            answer.append("RateLimit-Policy", policy.as_bytes());
            answer.append("RateLimit", self.state(&verdict).as_bytes());
        }
        if self.legacy {
            self.tell_legacy(&verdict, answer);
        }
        if verdict.allowed {
            return Flow::Continue;
        }
        let waits = self.windows.iter().zip(verdict.used).map(|(window, used)| window.wait(used, 1));
        let wait = waits.max().unwrap_or_default();
        Refusal::new(&LIMITED).field("Retry-After", itoa::Buffer::new().format(seconds(wait)).as_bytes()).into()
    }

    /// The value of `RateLimit`.
    fn state(&self, verdict: &Verdict) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(48);
        for (window, used) in self.windows.iter().zip(verdict.used) {
            let separator = if text.is_empty() { "" } else { ", " };
            let left = window.left(used);
            let _ = write!(text, "{separator}{};r={left}", quoted(&window.name));
            if left < window.burst {
                let _ = write!(text, ";t={}", seconds(window.wait(used, left + 1)));
            }
        }
        text
    }

    fn tell_legacy(&self, verdict: &Verdict, answer: &mut Fields) {
        let windows = self.windows.iter().zip(verdict.used);
        let Some((window, used)) = windows.min_by_key(|(window, used)| window.left(*used)) else { return };
        for (name, number) in [
            ("X-RateLimit-Limit", window.burst),
            ("X-RateLimit-Remaining", window.left(used)),
            ("X-RateLimit-Reset", used.div_ceil(NS)),
        ] {
            answer.set(name, itoa::Buffer::new().format(number).as_bytes());
        }
    }
}

impl Window {
    /// Requests that may come at once when so much of the span is used.
    fn left(&self, used: u64) -> u64 {
        self.span.saturating_sub(used) / self.interval
    }

    /// How long until so many may, in nanoseconds.
    fn wait(&self, used: u64, requests: u64) -> u64 {
        (used + self.interval * requests).saturating_sub(self.span)
    }
}

/// Whole seconds after which a wait is over for certain; at least one.
fn seconds(wait: u64) -> u64 {
    wait.div_ceil(NS).max(1)
}
