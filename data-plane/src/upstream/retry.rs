//! Whether a request is tried again, and when.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{BackendState, Tried, Upstreams, View, balance::has_another};
use crate::{
    error::ProxyError,
    fields::Fields,
    snapshot::{Backend, Retry},
};

/// What is known when a try ends.
#[derive(Debug)]
pub struct Retrying<'r> {
    /// The route's terms.
    pub retry: &'r Retry,
    /// What is tried.
    pub backend: &'r Backend,
    /// Its state in this worker.
    pub state: &'r BackendState,
    /// The endpoints.
    pub view: &'r Rc<View>,
    /// The one that is tried now.
    pub current: usize,
    /// Those that were tried before.
    pub tried: &'r Tried,
    /// Who serves.
    pub upstreams: &'r Upstreams,
    /// Sending the request twice does no harm.
    pub idempotent: bool,
    /// Tries beyond the first so far.
    pub retries: u32,
    /// How long the endpoint asked to be left alone, where that is to be heeded.
    pub asked: Cell<Duration>,
}

impl Retrying<'_> {
    /// Whether a try may be followed by another, as far as the route's terms go.
    #[must_use]
    pub fn has_attempts(&self) -> bool {
        self.retries < self.retry.attempts
    }

    /// Whether there is an endpoint that may do better: well, and not tried yet.
    #[must_use]
    pub fn has_another(&self) -> bool {
        let now = self.upstreams.moment(Instant::now());
        has_another(self.backend, self.view, self.current, self.tried, self.upstreams, now)
    }

    /// Whether a hanging endpoint is to be told from a request that takes long, for want of a limit on each try.
    #[must_use]
    pub fn watches_for_hangs(&self) -> bool {
        self.idempotent && self.retry.on_timeout && self.has_attempts() && self.view.seats.len() > 1
    }

    /// `None` if the endpoint hangs: it began no answer to anyone for so long, not since this try began, while others wait
    /// for one as well, and there is another one to go to. Otherwise, when to ask again. One that answers others does not
    /// hang: then it is the request that takes long.
    #[must_use]
    pub fn ask_again(&self, begun: Instant, silence: Duration) -> Option<Instant> {
        let member = &self.view.seats[self.current].member;
        let silent_since = self.upstreams.instant(member.last_answer()).max(begun);
        let now = Instant::now();
        if now < silent_since + silence {
            return Some(silent_since + silence);
        }
        let hangs = member.in_flight() > 1 && self.has_another();
        (!hangs).then(|| now + silence)
    }

    /// Whether an answer is held back for that of another try, within so much time; pays for it.
    ///
    /// An answer that asks for patience (`Retry-After`) binds only those who would ask the same endpoint again; it is
    /// waited for if that is short, and passed on if not.
    #[must_use]
    pub fn after_status(&self, status: u16, fields: &Fields, has_time: impl Fn(Duration) -> bool) -> bool {
        if !self.idempotent || !self.has_attempts() || !self.retry.on_statuses.contains(&status) {
            return false;
        }
        let asked = match status {
            429 | 503 if !self.has_another() => retry_after(fields, SystemTime::now()),
            _ => Duration::ZERO,
        };
        if asked > self.retry.retry_after_max || !has_time(asked.max(self.retry.backoff_max)) {
            return false;
        }
        self.asked.set(asked);
        self.pay()
    }

    /// Whether there is another try after a failure; pays for it.
    #[must_use]
    pub fn after_failure(&self, error: ProxyError) -> bool {
        let listed = match error {
            ProxyError::UpstreamConnect | ProxyError::UpstreamConnectTimeout => self.retry.on_connect,
            ProxyError::UpstreamClosed | ProxyError::UpstreamReset(_) => self.retry.on_reset && self.idempotent,
            ProxyError::UpstreamTimeout => self.retry.on_timeout && self.idempotent,
            _ => false,
        };
        listed && self.has_attempts() && self.pay()
    }

    fn pay(&self) -> bool {
        let now = Instant::now();
        let group = &self.view.group;
        let paid = self.state.budget.withdraw(self.backend.retry_budget, group, now, self.upstreams.moment(now));
        if !paid {
            group.retries_denied.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        paid
    }

    /// The pause before the next try: full jitter over a span that doubles, but no less than was asked for.
    #[must_use]
    pub fn pause(&self) -> Duration {
        backoff(self.retry.backoff_base, self.retry.backoff_max, self.retries).max(self.asked.get())
    }
}

/// Any time from none to `base`, doubled for each retry there was, but at most `max`.
fn backoff(base: Duration, max: Duration, retries: u32) -> Duration {
    base.saturating_mul(1 << retries.min(16)).min(max).mul_f64(fastrand::f64())
}

/// What `Retry-After` asks for (RFC 9110 section 10.2.3): seconds, or a date. Nothing if it is absent or neither.
fn retry_after(fields: &Fields, now: SystemTime) -> Duration {
    let Some(text) = fields.get("retry-after").and_then(|value| std::str::from_utf8(value).ok()) else {
        return Duration::ZERO;
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Duration::from_secs(text.parse().unwrap_or(u64::MAX));
    }
    let date = httpdate::parse_http_date(text).ok();
    date.and_then(|date| date.duration_since(now).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_anywhere_in_a_span_that_doubles_to_its_bound() {
        let (base, max) = (Duration::from_millis(100), Duration::from_millis(700));
        // Of 1000 pauses none falls into a tenth of the span once in 10^45 runs.
        for (retries, span_ms) in [(0, 100), (1, 200), (2, 400), (3, 700), (4, 700), (u32::MAX, 700)] {
            let span = Duration::from_millis(span_ms);
            let pauses: Vec<_> = (0..1000).map(|_| backoff(base, max, retries)).collect();
            assert!(pauses.iter().all(|pause| *pause <= span), "{retries}");
            for tenth in 0..10 {
                let (from, to) = (span / 10 * tenth, span / 10 * (tenth + 1));
                assert!(pauses.iter().any(|pause| (from..to).contains(pause)), "{retries}: none in tenth {tenth}");
            }
        }
        assert!(backoff(Duration::MAX, Duration::from_secs(1), u32::MAX) <= Duration::from_secs(1));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        let asked = |value: &str| {
            let mut fields = Fields::new();
            fields.append("Retry-After", value.as_bytes());
            retry_after(&fields, now).as_secs()
        };
        assert_eq!(asked("120"), 120);
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:07 GMT"), 30);
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT"), 0);
        assert_eq!([asked(""), asked("-1"), asked("soon"), asked("1.5")], [0; 4]);
        assert_eq!(asked("99999999999999999999999"), u64::MAX);
        assert_eq!(retry_after(&Fields::new(), now), Duration::ZERO);
    }
}
