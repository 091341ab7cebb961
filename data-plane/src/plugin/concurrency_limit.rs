//! `concurrency_limit`: bounds how many requests are under way at a time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    count_key::{self, CountKey, Digest, Hashers},
    spec::{Key, Kind},
};
use crate::{
    limit::PerKey,
    snapshot::{Id, fault::Faults},
};

pub(super) static LIMITED: Reason = Reason {
    name: "concurrency_limited",
    status: 429,
    detail: "too many requests are under way",
    when: "As many requests as may be are under way",
};

pub(super) static SPEC: Spec = Spec {
    name: "concurrency_limit",
    summary: "Bounds how many requests are under way at a time.",
    details: "A request counts from here to the end of its answer, over all workers of a proxy; several proxies count each for \
themselves. Requests beyond are refused at once. All places that name the plugin share its count, and a push leaves it alone, even one that changes the limit; with another key it begins anew.",
    keys: &[
        Key::required("requests", Kind::Integer { min: 1, max: 1_000_000 }, "The most requests that are under way"),
        count_key::spec("plugin"),
    ],
    example: "requests: 100\nkey: client_ip",
    reasons: &[&LIMITED],
};

#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    requests: u32,
    key: CountKey,
    /// Of the key: counts by another are other counts.
    form: Id,
}

/// How many are under way, over all workers.
#[derive(Debug, Default)]
struct Counts {
    all: AtomicU32,
    per_key: PerKey<Digest>,
    hashers: Hashers,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Permit {
    counts: Arc<Counts>,
    key: Option<Digest>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.key {
            Some(key) => self.counts.per_key.leave(key),
            None => drop(self.counts.all.fetch_sub(1, Relaxed)),
        }
    }
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> ConcurrencyLimit {
    let requests = config.integer("requests").and_then(|requests| u32::try_from(requests).ok());
    let key = count_key::compile(config, "plugin", faults);
    let form = Id::of("concurrency limit", &key.form());
    ConcurrencyLimit { requests: requests.unwrap_or(u32::MAX), key, form }
}

impl ConcurrencyLimit {
    pub fn on_request(&self, id: Id, request: &mut PluginRequest<'_>) -> Flow {
        let make = |shared: &crate::live::States| shared.get_or(id, Counts::default);
        let counts = request.worker.states.own(id, request.now, make);
        let key = (!self.key.is_of_all()).then(|| {
            counts.hashers.digest(|write| {
                write(&self.form.0.to_le_bytes());
                self.key.feed(request, write);
            })
        });
        let admitted = match key {
            Some(key) => counts.per_key.enter(key, self.requests),
            None => {
                let more = |count| (count < self.requests).then_some(count + 1);
                counts.all.fetch_update(Relaxed, Relaxed, more).is_ok()
            }
        };
        if !admitted {
            return Refusal::new(&LIMITED).into();
        }
        request.facts.held.push(Box::new(Permit { counts: Arc::clone(&counts), key }));
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use crate::plugin::{Facts, rig::Rig};

    /// Keeps the requests that go on, and says whether one did.
    async fn more(rig: &mut Rig, kept: &mut Vec<Facts>) -> bool {
        let goes_on = rig.refusal().await.is_empty();
        let facts = std::mem::take(&mut rig.facts);
        if goes_on {
            kept.push(facts);
        }
        goes_on
    }

    #[tokio::test]
    async fn as_many_as_may_are_under_way_and_each_that_ends_makes_room() {
        let mut rig = Rig::new("concurrency_limit", r#"{"requests": 2}"#);
        let mut kept = Vec::new();
        for expected in [true, true, false, false] {
            assert_eq!(more(&mut rig, &mut kept).await, expected);
        }
        kept.pop();
        assert!(more(&mut rig, &mut kept).await && !more(&mut rig, &mut kept).await);
    }

    #[tokio::test]
    async fn each_client_has_its_own_count() {
        let mut rig = Rig::new("concurrency_limit", r#"{"requests": 1, "key": "client_ip"}"#);
        let mut kept = Vec::new();
        for (client, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            rig.client = client.parse().expect("an address");
            assert_eq!(more(&mut rig, &mut kept).await, expected, "{client}");
        }
    }

    #[tokio::test]
    async fn what_is_counted_can_be_a_header_and_without_it_the_address() {
        let mut rig = Rig::new("concurrency_limit", r#"{"requests": 1, "key": {"header": "x-tenant"}}"#);
        let mut kept = Vec::new();
        for (tenant, expected) in
            [(Some("a"), true), (Some("b"), true), (Some("a"), false), (None, true), (None, false)]
        {
            rig.fields.remove("x-tenant");
            if let Some(tenant) = tenant {
                rig.fields.append("x-tenant", tenant.as_bytes());
            }
            assert_eq!(more(&mut rig, &mut kept).await, expected, "{tenant:?}");
        }
        kept.clear();
        assert!(more(&mut rig, &mut kept).await);
    }

    /// A snapshot that is compiled from nothing, as after a full resync, or with another limit: the count goes on.
    #[tokio::test]
    async fn the_count_is_the_plugins_whatever_snapshot_has_it() {
        let mut first = Rig::new("concurrency_limit", r#"{"requests": 2}"#);
        let mut kept = Vec::new();
        assert!(more(&mut first, &mut kept).await && more(&mut first, &mut kept).await);
        let mut again = Rig::new("concurrency_limit", r#"{"requests": 2}"#);
        again.worker = std::rc::Rc::clone(&first.worker);
        assert!(!more(&mut again, &mut kept).await);
        let mut raised = Rig::new("concurrency_limit", r#"{"requests": 3}"#);
        raised.worker = std::rc::Rc::clone(&first.worker);
        assert!(more(&mut raised, &mut kept).await && !more(&mut raised, &mut kept).await);
        kept.clear();
        assert!(more(&mut again, &mut kept).await);
    }
}
