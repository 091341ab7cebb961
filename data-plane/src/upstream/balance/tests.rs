use std::{sync::Arc, time::Duration};

use rustygate_proto::v1::{self as wire, hash_on::Kind, load_balancing::Policy as WirePolicy};
use tokio::time::advance;

use super::*;
use crate::{fields::Fields, health::Health, snapshot::Snapshot};

/// A backend as a push has it.
fn compiled(policy: WirePolicy, endpoints: &[(u16, u32)], adjust: impl FnOnce(&mut wire::Backend)) -> Arc<Backend> {
    let endpoint =
        |&(port, weight): &(u16, u32)| wire::Endpoint { url: format!("http://10.0.0.1:{port}"), weight: Some(weight) };
    let on_header = wire::HashOn { kind: Some(Kind::Header("x-user".into())) };
    let balancing = wire::LoadBalancing {
        policy: policy.into(),
        hash_on: (policy == WirePolicy::ConsistentHash).then_some(on_header),
        ..wire::LoadBalancing::default()
    };
    let mut message = wire::Backend {
        name: "b".into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        load_balancing: Some(balancing),
        ..wire::Backend::default()
    };
    adjust(&mut message);
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Backend(message)) };
    let change = wire::Change {
        kind: wire::Kind::Backend.into(),
        name: "b".into(),
        resource: Some(prost::Message::encode_to_vec(&resource).into()),
    };
    let snapshot = Snapshot::default().compile(1, &[change]).expect("valid");
    Arc::clone(snapshot.backends().next().expect("the backend"))
}

fn weights(weights: &[u32]) -> Vec<(u16, u32)> {
    weights.iter().enumerate().map(|(index, &weight)| (u16::try_from(index + 1).expect("few"), weight)).collect()
}

/// A worker that sends requests.
struct Sender {
    backend: Arc<Backend>,
    upstreams: Upstreams,
    state: Rc<BackendState>,
    view: Rc<View>,
}

impl Sender {
    fn new(backend: Arc<Backend>) -> Self {
        Self::with(backend, Arc::default())
    }

    fn with(backend: Arc<Backend>, health: Arc<Health>) -> Self {
        let upstreams = Upstreams::new(health, Arc::default());
        let state = upstreams.backend(&backend);
        let view = state.view(&backend, &upstreams);
        Self { backend, upstreams, state, view }
    }

    fn send(&self, affinity: Affinity, tried: &Tried) -> Call {
        let now = Instant::now();
        choose(&self.backend, &self.state, &self.view, affinity, tried, &self.upstreams, now).expect("an endpoint")
    }

    fn next(&self) -> Call {
        self.send(Affinity::default(), &Tried::default())
    }

    /// Requests one after another: how many each endpoint gets.
    fn counts(&self, requests: usize) -> Vec<usize> {
        let mut counts = vec![0; self.backend.endpoints.len()];
        for _ in 0..requests {
            counts[self.next().index()] += 1;
        }
        counts
    }

    fn member(&self, index: usize) -> &crate::health::Member {
        &self.view.seats[index].member
    }

    /// Makes an endpoint fail until it is ejected.
    fn eject(&self, index: usize) {
        for _ in 0..1000 {
            if self.member(index).ejected(self.upstreams.moment(Instant::now())) {
                return;
            }
            let mut others = Tried::default();
            (0..self.backend.endpoints.len()).filter(|&other| other != index).for_each(|other| others.add(other));
            let call = self.send(Affinity::default(), &others);
            assert_eq!(call.index(), index);
            call.failed(&self.upstreams);
        }
        panic!("{index} is not ejected");
    }

    fn of_user(&self, user: &str) -> Affinity {
        let mut fields = Fields::new();
        fields.append("x-user", user.as_bytes());
        self.affinity(&fields)
    }

    fn affinity(&self, fields: &Fields) -> Affinity {
        let asker = Asker { fields, path: "/", client: "10.1.1.1".parse().expect("an address") };
        Affinity::read(&self.backend, asker)
    }
}

/// Within a tenth, and a little for chance.
fn assert_shares(counts: &[usize], weights: &[u32]) {
    let (requests, total): (usize, u32) = (counts.iter().sum(), weights.iter().sum());
    for (count, weight) in counts.iter().zip(weights) {
        let expected = requests as f64 * f64::from(*weight) / f64::from(total);
        assert!(
            (*count as f64 - expected).abs() <= expected * 0.1 + 30.0 * f64::from(u32::from(*weight > 0)),
            "{counts:?}"
        );
    }
}

const POLICIES: [WirePolicy; 4] =
    [WirePolicy::RoundRobin, WirePolicy::LeastRequest, WirePolicy::PeakEwma, WirePolicy::ConsistentHash];

#[tokio::test]
async fn round_robin_follows_the_weights_to_the_request() {
    let sender = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[1, 2, 0, 1]), |_| {}));
    assert_eq!(sender.counts(400), [100, 200, 0, 100]);
}

#[tokio::test]
async fn every_policy_gives_idle_endpoints_their_share_by_weight_and_nothing_to_those_without() {
    for policy in POLICIES {
        for shares in [&[1, 1, 1][..], &[1, 2, 0, 5], &[10, 1]] {
            let sender = Sender::new(compiled(policy, &weights(shares), |_| {}));
            assert_shares(&sender.counts(10_000), shares);
        }
    }
}

#[tokio::test]
async fn the_turns_of_one_that_is_out_are_shared_by_all_others() {
    for policy in POLICIES {
        let sender = Sender::new(compiled(policy, &weights(&[1, 1, 1, 1]), |_| {}));
        sender.eject(1);
        let counts = sender.counts(9_000);
        assert_eq!(counts[1], 0, "{policy:?}");
        assert_shares(&[counts[0], counts[2], counts[3]], &[1, 1, 1]);
    }
}

#[tokio::test]
async fn least_request_and_peak_ewma_heed_what_other_workers_have_under_way() {
    for policy in [WirePolicy::LeastRequest, WirePolicy::PeakEwma] {
        let (health, backend) = (Arc::<Health>::default(), compiled(policy, &weights(&[1, 1]), |_| {}));
        let (one, other) = (Sender::with(backend.clone(), health.clone()), Sender::with(backend, health));
        for index in 0..2 {
            let mut tried = Tried::default();
            tried.add(1 - index);
            one.send(Affinity::default(), &tried).answered(200, &one.upstreams);
        }
        let mut first = Tried::default();
        first.add(0);
        let _busy: Vec<Call> = (0..5).map(|_| one.send(Affinity::default(), &first)).collect();
        assert_eq!(other.counts(1000), [1000, 0], "{policy:?}");
    }
}

#[tokio::test]
async fn least_request_keeps_loads_even_by_weight() {
    let sender = Sender::new(compiled(WirePolicy::LeastRequest, &weights(&[1, 2, 1]), |_| {}));
    let calls: Vec<Call> = (0..400).map(|_| sender.next()).collect();
    let loads: Vec<_> = (0..3).map(|index| sender.member(index).in_flight()).collect();
    assert!((90..=110).contains(&loads[0]) && (185..=215).contains(&loads[1]), "{loads:?}");
    drop(calls);
    assert_eq!((sender.view.group.load(), sender.member(1).in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn peak_ewma_prefers_the_faster_one_and_tries_the_slow_one_again_when_that_is_long_ago() {
    let sender = Sender::new(compiled(WirePolicy::PeakEwma, &weights(&[1, 1]), |_| {}));
    // Both are idle and unknown: chance decides, until both have answered.
    let latency = [Duration::from_millis(10), Duration::from_millis(500)];
    let serve = async |counts: &mut [usize; 2]| {
        let call = sender.next();
        counts[call.index()] += 1;
        advance(latency[call.index()]).await;
        call.answered(200, &sender.upstreams);
    };
    let mut counts = [0; 2];
    for _ in 0..1000 {
        serve(&mut counts).await;
    }
    assert!(counts[0] > 900 && counts[1] >= 1, "{counts:?}");
    // One peak makes the fast one the slower one at once.
    let (fast, slow) = (sender.member(0), sender.member(1));
    let now = sender.upstreams.moment(Instant::now());
    fast.answered(200, Duration::from_secs(3), now);
    assert!(fast.cost(now) > slow.cost(now), "{} {}", fast.cost(now), slow.cost(now));
}

#[tokio::test(start_paused = true)]
async fn the_average_rises_at_once_and_falls_with_its_time_constant() {
    let sender = Sender::new(compiled(WirePolicy::PeakEwma, &weights(&[1, 1]), |_| {}));
    let member = sender.member(0);
    let moment = || sender.upstreams.moment(Instant::now());
    member.answered(200, Duration::from_millis(100), moment());
    assert!((member.cost(moment()) - 100_000.0).abs() < 100.0);
    advance(Duration::from_secs(10)).await;
    let decayed = member.cost(moment());
    assert!((decayed / 100_000.0 - (-1.0_f32).exp()).abs() < 0.01, "{decayed}");
    // A failure counts as a second, however fast it was.
    member.failed(Duration::from_millis(1), moment());
    assert!(member.cost(moment()) > 999_000.0);
}

fn homes(sender: &Sender, users: usize) -> Vec<u16> {
    let home = |user| {
        sender.backend.endpoints[sender.send(sender.of_user(&format!("user-{user}")), &Tried::default()).index()].port
    };
    (0..users).map(home).collect()
}

#[tokio::test]
async fn a_hash_leads_to_the_same_endpoint_in_every_process_and_order_and_few_move_when_one_leaves() {
    let (all, fewer) = ([(1, 1), (2, 1), (3, 1), (4, 1)], [(4, 1), (1, 1), (2, 1)]);
    let homes_of =
        |endpoints: &[(u16, u32)]| homes(&Sender::new(compiled(WirePolicy::ConsistentHash, endpoints, |_| {})), 4_000);
    let before = homes_of(&all);
    assert_eq!(before, homes_of(&all));
    assert_eq!(before, homes_of(&[(3, 1), (1, 1), (4, 1), (2, 1)]));
    let after = homes_of(&fewer);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || *before == 3, "only those of the one that left move");
    }
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!((700..1300).contains(&moved), "{moved}");
}

#[tokio::test]
async fn an_endpoint_without_a_weight_has_no_place_on_the_ring_and_a_heavy_one_many() {
    let sender = Sender::new(compiled(WirePolicy::ConsistentHash, &[(1, 1), (2, 0), (3, 4)], |_| {}));
    let homes = homes(&sender, 5_000);
    let of = |port| homes.iter().filter(|&&home| home == port).count();
    assert_eq!(of(2), 0);
    assert!((700..1300).contains(&of(1)), "{}", of(1));
}

#[tokio::test]
async fn the_bound_on_loads_is_never_exceeded_and_what_is_over_it_goes_to_the_next_on_the_ring() {
    let sender = Sender::new(compiled(WirePolicy::ConsistentHash, &weights(&[1, 1, 2, 1]), |_| {}));
    let popular = sender.of_user("popular");
    let mut calls = Vec::new();
    for request in 1..=500_u32 {
        calls.push(sender.send(popular, &Tried::default()));
        for (index, weight) in [1, 1, 2, 1].into_iter().enumerate() {
            let bound = (f64::from(request) * 1.25 * f64::from(weight) / 5.0).ceil();
            assert!(f64::from(sender.member(index).in_flight()) <= bound, "{index} of {request}");
        }
    }
    assert_eq!(calls.len() as u32, sender.view.group.load());
    // Without a bound all go to one.
    let unbounded = compiled(WirePolicy::ConsistentHash, &weights(&[1, 1, 2, 1]), |backend| {
        backend.load_balancing.as_mut().expect("it has one").balance_factor = Some(0);
    });
    let sender = Sender::new(unbounded);
    let calls: Vec<Call> = (0..100).map(|_| sender.send(popular, &Tried::default())).collect();
    assert!(calls.iter().all(|call| call.index() == calls[0].index()));
}

fn sticky(backend: &mut wire::Backend) {
    let sticky = wire::Sticky { cookie: "node".into(), ..wire::Sticky::default() };
    backend.load_balancing.as_mut().expect("it has one").sticky = Some(sticky);
}

#[tokio::test]
async fn a_sticky_cookie_leads_to_its_endpoint_and_elsewhere_when_that_is_out() {
    let sender = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[1, 1, 1, 1]), sticky));
    let first = sender.next();
    let value = first.cookie.expect("a new client gets a cookie");
    let mut fields = Fields::new();
    fields.append("cookie", format!("a=b; node={value:08x}").as_bytes());
    let affinity = sender.affinity(&fields);
    for _ in 0..20 {
        let call = sender.send(affinity, &Tried::default());
        assert_eq!((call.index(), call.cookie), (first.index(), None));
    }
    sender.eject(first.index());
    let other = sender.send(affinity, &Tried::default());
    assert_ne!(other.index(), first.index());
    assert!(other.cookie.is_some_and(|cookie| cookie != value));
    for forged in ["node=zzz", "node=", "node", "node=12345678", "node=\u{e9}"] {
        let mut fields = Fields::new();
        fields.append("cookie", forged.as_bytes());
        assert!(sender.send(sender.affinity(&fields), &Tried::default()).cookie.is_some(), "{forged}");
    }
}

#[tokio::test]
async fn a_drained_endpoint_keeps_its_clients_and_gets_no_others() {
    let before = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[1, 1]), sticky));
    let value = before.backend.sticky.as_ref().expect("sticky").values[0];
    let mut fields = Fields::new();
    fields.append("cookie", format!("node={value:08x}").as_bytes());
    let drained = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[0, 1]), sticky));
    assert_eq!(drained.send(drained.affinity(&fields), &Tried::default()).index(), 0);
    assert_eq!(drained.counts(100), [0, 100]);
}

#[tokio::test]
async fn a_retry_never_takes_the_same_endpoint_while_another_is_well() {
    for policy in POLICIES {
        let sender = Sender::new(compiled(policy, &weights(&[1, 1, 1]), |_| {}));
        for _ in 0..100 {
            let mut tried = Tried::default();
            for _ in 0..3 {
                let call = sender.send(sender.of_user("a"), &tried);
                assert!(!tried.has(call.index()), "{policy:?}");
                tried.add(call.index());
            }
            // All were tried: again one of them.
            drop(sender.send(sender.of_user("a"), &tried));
        }
        sender.eject(0);
        let mut tried = Tried::default();
        tried.add(1);
        assert_eq!(sender.send(Affinity::default(), &tried).index(), 2);
        tried.add(2);
        assert_ne!(sender.send(Affinity::default(), &tried).index(), 0, "{policy:?}: one that is well, if tried");
    }
}

#[tokio::test]
async fn below_the_panic_threshold_all_are_used() {
    let threshold = |percent| {
        move |backend: &mut wire::Backend| {
            backend.panic_threshold = Some(percent);
            backend.outlier_detection =
                Some(wire::OutlierDetection { max_ejected_percent: Some(100), ..wire::OutlierDetection::default() });
        }
    };
    for policy in POLICIES {
        let sender = Sender::new(compiled(policy, &weights(&[1, 1, 1, 1]), threshold(50)));
        sender.eject(0);
        sender.eject(1);
        let counts = sender.counts(1000);
        assert_eq!((counts[0], counts[1]), (0, 0), "{policy:?}: half are well");
        sender.eject(2);
        // Those that failed count as slow as well, where that counts.
        if policy != WirePolicy::PeakEwma {
            assert_shares(&sender.counts(8_000), &[1, 1, 1, 1]);
        }
        let sender = Sender::new(compiled(policy, &weights(&[1, 1, 1, 1]), threshold(0)));
        (0..3).for_each(|index| sender.eject(index));
        assert_eq!(sender.counts(100), [0, 0, 0, 100], "{policy:?}: there is no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn ejections_last_longer_each_time_and_never_take_all() {
    let sender = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[1, 1, 1]), |_| {}));
    let ejected = |index: usize| sender.member(index).ejected(sender.upstreams.moment(Instant::now()));
    sender.eject(0);
    // Half of three is one: the second stays.
    for _ in 0..20 {
        let mut tried = Tried::default();
        tried.add(0);
        tried.add(2);
        sender.send(Affinity::default(), &tried).failed(&sender.upstreams);
    }
    assert!(ejected(0) && !ejected(1));
    advance(Duration::from_millis(9_990)).await;
    assert!(ejected(0));
    advance(Duration::from_millis(20)).await;
    assert!(!ejected(0));
    sender.eject(0);
    advance(Duration::from_secs(19)).await;
    assert!(ejected(0), "twice as long");
    advance(Duration::from_secs(2)).await;
    assert!(!ejected(0));
    // Good service for long makes up for both.
    advance(Duration::from_secs(60)).await;
    sender.eject(0);
    advance(Duration::from_millis(10_010)).await;
    assert!(!ejected(0));
}

#[tokio::test]
async fn a_good_answer_ends_a_row_of_failures_and_500_is_not_a_gateway_error() {
    let sender = Sender::new(compiled(WirePolicy::RoundRobin, &weights(&[1, 1]), |_| {}));
    let statuses = |status: &[u16]| {
        for &status in status {
            let mut tried = Tried::default();
            tried.add(1);
            sender.send(Affinity::default(), &tried).answered(status, &sender.upstreams);
        }
        sender.member(0).ejected(sender.upstreams.moment(Instant::now()))
    };
    assert!(!statuses(&[503, 502, 504, 503, 200, 503, 503, 503, 503, 404]));
    assert!(!statuses(&[500; 20]));
    assert!(!statuses(&[503, 503, 503, 503]));
    assert!(statuses(&[503]));
    let counting = compiled(WirePolicy::RoundRobin, &weights(&[1, 1]), |backend| {
        backend.outlier_detection =
            Some(wire::OutlierDetection { consecutive_5xx: Some(3), ..wire::OutlierDetection::default() });
    });
    let sender = Sender::new(counting);
    for status in [500, 503, 500] {
        let mut tried = Tried::default();
        tried.add(1);
        sender.send(Affinity::default(), &tried).answered(status, &sender.upstreams);
    }
    assert!(sender.member(0).ejected(sender.upstreams.moment(Instant::now())));
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_and_a_recovered_one_start_slowly() {
    let slow = |backend: &mut wire::Backend| {
        backend.load_balancing.as_mut().expect("it has one").slow_start_ms = Some(30_000);
    };
    for policy in [WirePolicy::RoundRobin, WirePolicy::LeastRequest, WirePolicy::PeakEwma] {
        let health = Arc::<Health>::default();
        advance(Duration::from_secs(100)).await;
        let first = Sender::with(compiled(policy, &weights(&[1, 1]), slow), health.clone());
        assert_shares(&first.counts(4_000), &[1, 1]);
        // A push adds a third.
        let sender = Sender::with(compiled(policy, &weights(&[1, 1, 1]), slow), health.clone());
        let mut shares = Vec::new();
        for seconds in [0, 15, 15] {
            advance(Duration::from_secs(seconds)).await;
            shares.push(sender.counts(6_000)[2]);
        }
        // A tenth of its weight, then half, then all of it.
        assert!((150..450).contains(&shares[0]), "{policy:?} {shares:?}");
        assert!((950..1450).contains(&shares[1]), "{policy:?} {shares:?}");
        assert!((1800..2200).contains(&shares[2]), "{policy:?} {shares:?}");
        sender.eject(2);
        advance(Duration::from_millis(10_001)).await;
        let back = sender.counts(6_000)[2];
        // Its failures keep it from more where they count as slowness.
        let least = if policy == WirePolicy::PeakEwma { 0 } else { 100 };
        assert!((least..500).contains(&back), "{policy:?} {back}");
    }
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_survives_a_push_that_changes_its_backend() {
    let health = Arc::<Health>::default();
    let before = Sender::with(compiled(WirePolicy::RoundRobin, &weights(&[1, 1]), |_| {}), health);
    before.eject(0);
    let changed = compiled(WirePolicy::LeastRequest, &weights(&[1, 1, 1]), |_| {});
    let view = before.state.view(&changed, &before.upstreams);
    assert!(view.seats[0].member.ejected(before.upstreams.moment(Instant::now())));
    assert!(Arc::ptr_eq(&view.seats[1].member, &before.view.seats[1].member));
    assert!(Rc::ptr_eq(&view.seats[1].pool, &before.view.seats[1].pool));
}
