//! `concurrency_limit`: bounds how many requests are under way at a time.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::{
    Flow, PluginRequest, Reason, Refusal, Spec,
    config::Config,
    spec::{Key, Kind},
};
use crate::{limit::PerIp, snapshot::fault::Faults};

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
themselves. Requests beyond are refused at once. All places that name the plugin share its count, and a push leaves it alone, even one that changes the limit.",
    keys: &[
        Key::required("requests", Kind::Integer { min: 1, max: 1_000_000 }, "The most requests that are under way"),
        Key::new(
            "per",
            Kind::Word(&["plugin", "client_ip"]),
            "plugin",
            "Counted for all clients together, or for each address (/64 of IPv6), as trusted proxies tell it",
        ),
    ],
    example: "requests: 100\nper: client_ip",
    reasons: &[&LIMITED],
};

#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    requests: u32,
    per_ip: bool,
}

/// How many are under way, over all workers.
#[derive(Debug, Default)]
struct Counts {
    all: AtomicU32,
    per_ip: PerIp,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Permit {
    counts: Arc<Counts>,
    address: Option<IpAddr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.address {
            Some(address) => self.counts.per_ip.leave(address),
            None => drop(self.counts.all.fetch_sub(1, Relaxed)),
        }
    }
}

pub(super) fn compile(config: &Config<'_>, _: &mut Faults) -> ConcurrencyLimit {
    let requests = config.integer("requests").and_then(|requests| u32::try_from(requests).ok());
    ConcurrencyLimit { requests: requests.unwrap_or(u32::MAX), per_ip: config.word("per") == "client_ip" }
}

impl ConcurrencyLimit {
    pub fn on_request(&self, id: crate::snapshot::Id, request: &mut PluginRequest<'_>) -> Flow {
        let make = |shared: &crate::live::States| shared.get_or(id, Counts::default);
        let counts = request.worker.states.own(id, request.now, make);
        let address = self.per_ip.then_some(request.client);
        let admitted = match address {
            Some(address) => counts.per_ip.enter(address, self.requests),
            None => {
                let more = |count| (count < self.requests).then_some(count + 1);
                counts.all.fetch_update(Relaxed, Relaxed, more).is_ok()
            }
        };
        if !admitted {
            return Refusal::new(&LIMITED).into();
        }
        request.facts.held.push(Box::new(Permit { counts: Arc::clone(&counts), address }));
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
        let mut rig = Rig::new("concurrency_limit", r#"{"requests": 1, "per": "client_ip"}"#);
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
