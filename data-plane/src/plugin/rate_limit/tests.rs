use std::{net::IpAddr, time::Duration};

use tokio::time::{Instant, advance};

use super::{table::Table, *};
use crate::plugin::{
    Consumer, Flow,
    rig::Rig,
    tests::{fields_at_fault, lines},
};

/// How many of so many requests go on.
async fn passing(rig: &mut Rig, requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        rig.facts.answer.clear();
        passed += usize::from(rig.refusal().await.is_empty());
    }
    passed
}

fn answer_lines(rig: &Rig) -> Vec<String> {
    lines(&rig.facts.answer)
}

#[tokio::test(start_paused = true)]
async fn a_burst_has_the_limit_exactly_and_what_was_used_comes_back_evenly() {
    let mut rig = Rig::new("rate_limit", r#"{"requests": 100, "per": "1m"}"#);
    assert_eq!(passing(&mut rig, 1000).await, 100);
    advance(Duration::from_millis(599)).await;
    assert_eq!(passing(&mut rig, 10).await, 0);
    advance(Duration::from_millis(1)).await;
    assert_eq!(passing(&mut rig, 10).await, 1);
    advance(Duration::from_secs(6)).await;
    assert_eq!(passing(&mut rig, 100).await, 10);
    advance(Duration::from_secs(3600)).await;
    assert_eq!(passing(&mut rig, 1000).await, 100, "what is not used is not saved");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_its_own_bounds_what_comes_at_once() {
    let mut rig = Rig::new("rate_limit", r#"{"requests": 10, "per": "1s", "burst": 1}"#);
    assert_eq!(passing(&mut rig, 10).await, 1);
    let mut passed = 0;
    for _ in 0..100 {
        advance(Duration::from_millis(10)).await;
        passed += passing(&mut rig, 1).await;
    }
    assert_eq!(passed, 10);
}

#[tokio::test(start_paused = true)]
async fn every_window_must_have_room_and_a_refusal_takes_from_none() {
    let config = r#"{"windows": [{"requests": 6, "per": "1h"}, {"requests": 2, "per": "1s"}]}"#;
    let mut rig = Rig::new("rate_limit", config);
    assert_eq!(passing(&mut rig, 50).await, 2);
    assert_eq!(answer_lines(&rig)[1], "RateLimit: \"p-1s\";r=0;t=1, \"p-1h\";r=4;t=600");
    advance(Duration::from_secs(1)).await;
    assert_eq!(passing(&mut rig, 50).await, 2);
    advance(Duration::from_secs(1)).await;
    assert_eq!(passing(&mut rig, 50).await, 2, "forty-eight refused ones twice took nothing of the hour");
    advance(Duration::from_secs(1)).await;
    assert_eq!(passing(&mut rig, 50).await, 0);
    assert_eq!(answer_lines(&rig)[1], "RateLimit: \"p-1s\";r=2, \"p-1h\";r=0;t=597");
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_how_much_there_is_and_when_there_will_be_more() {
    let mut rig = Rig::new("rate_limit", r#"{"requests": 2, "per": "1m", "legacy_headers": true}"#);
    assert!(rig.ask().await.is_none());
    let said = [
        "RateLimit-Policy: \"p\";q=2;w=60",
        "RateLimit: \"p\";r=1;t=30",
        "X-RateLimit-Limit: 2",
        "X-RateLimit-Remaining: 1",
        "X-RateLimit-Reset: 30",
    ];
    assert_eq!(answer_lines(&rig), said);
    let answer = rig.answer(200, &[("ratelimit", "\"theirs\";r=9"), ("x-ratelimit-limit", "7"), ("x-other", "1")]);
    assert_eq!(answer[0], "x-other: 1");
    assert_eq!(answer[1..], said, "in the place of what the backend said");
    rig.facts.answer.clear();
    assert!(rig.ask().await.is_none());
    advance(Duration::from_millis(10_500)).await;
    rig.facts.answer.clear();
    let Some(Flow::Refuse(refusal)) = rig.ask().await else { panic!("it went on") };
    assert_eq!((refusal.reason.name, refusal.status), ("rate_limited", 429));
    assert_eq!(lines(&refusal.fields), ["Retry-After: 20"]);
    assert_eq!(
        answer_lines(&rig)[1..],
        ["RateLimit: \"p\";r=0;t=20", "X-RateLimit-Limit: 2", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 50"]
    );
    let mut silent = Rig::new("rate_limit", r#"{"requests": 2, "per": "1m", "headers": false}"#);
    assert!(silent.ask().await.is_none() && silent.facts.answer.is_empty());
}

/// Who of these goes on, each asked once, with a limit of one request.
async fn first_of(key: &str, change: &[&dyn Fn(&mut Rig)]) -> Vec<bool> {
    let mut rig = Rig::new("rate_limit", &format!(r#"{{"requests": 1, "per": "1h", "key": {key}}}"#));
    let mut passed = Vec::new();
    for change in change {
        rig.facts.consumer = None;
        rig.fields.clear();
        rig.client = IpAddr::from([192, 0, 2, 1]);
        change(&mut rig);
        passed.push(passing(&mut rig, 1).await == 1);
    }
    passed
}

fn from(address: &'static str) -> impl Fn(&mut Rig) {
    move |rig| rig.client = address.parse().expect("an address")
}

fn consumer(name: &'static str, claims: serde_json::Value) -> impl Fn(&mut Rig) {
    move |rig| {
        let claims = crate::plugin::Claims::new(claims.to_string());
        rig.facts.consumer = Some(Consumer { name: name.into(), claims: Some(claims.into()), ..Consumer::default() });
    }
}

#[tokio::test(start_paused = true)]
async fn keys_tell_clients_apart_as_they_say() {
    let addresses: [&dyn Fn(&mut Rig); 6] = [
        &from("192.0.2.1"),
        &from("192.0.2.2"),
        &from("::ffff:192.0.2.1"),
        &from("2001:db8::1"),
        &from("2001:db8::ffff:1"),
        &from("2001:db8:0:1::1"),
    ];
    assert_eq!(first_of("\"client_ip\"", &addresses).await, [true, true, false, true, false, true]);
    assert_eq!(first_of("\"plugin\"", &addresses[..2]).await, [true, false]);
    assert_eq!(first_of("[\"route\"]", &addresses[..2]).await, [true, false]);
    let field = |value: &'static str| {
        move |rig: &mut Rig| {
            rig.field("X-Tenant", value);
        }
    };
    let nothing = |_: &mut Rig| {};
    let other = from("192.0.2.9");
    let fields: [&dyn Fn(&mut Rig); 6] = [&field("a"), &field("b"), &field("a"), &nothing, &nothing, &other];
    assert_eq!(first_of(r#"{"header": "x-tenant"}"#, &fields).await, [true, true, false, true, false, true]);
    let none = serde_json::Value::Null;
    let consumers: [&dyn Fn(&mut Rig); 4] =
        [&consumer("ann", none.clone()), &consumer("bob", none.clone()), &consumer("ann", none), &nothing];
    assert_eq!(first_of("\"consumer\"", &consumers).await, [true, true, false, true]);
    let claim = |value: serde_json::Value| consumer("x", serde_json::json!({"org": value}));
    let claims: [&dyn Fn(&mut Rig); 5] =
        [&claim("1".into()), &claim(1.into()), &claim("2".into()), &claim(serde_json::Value::Null), &nothing];
    assert_eq!(first_of(r#"{"claim": "org"}"#, &claims).await, [true, false, true, true, false]);
    let two = |a: &'static str, b: &'static str| {
        move |rig: &mut Rig| {
            rig.field("x-a", a).field("x-b", b);
        }
    };
    let pairs: [&dyn Fn(&mut Rig); 4] = [&two("ab", "c"), &two("a", "bc"), &two("ab", "c"), &two("ab", "d")];
    assert_eq!(first_of(r#"[{"header": "x-a"}, {"header": "x-b"}]"#, &pairs).await, [true, true, false, true]);
}

/// A snapshot that is compiled from nothing, and other limits: the counts go on.
#[tokio::test(start_paused = true)]
async fn the_counts_are_the_plugins_whatever_snapshot_has_it() {
    let mut first = Rig::new("rate_limit", r#"{"requests": 10, "per": "1h"}"#);
    assert_eq!(passing(&mut first, 5).await, 5);
    let again = async |config: &str, requests| {
        let mut rig = Rig::new("rate_limit", config);
        rig.worker = std::rc::Rc::clone(&first.worker);
        passing(&mut rig, requests).await
    };
    assert_eq!(again(r#"{"requests": 10, "per": "1h"}"#, 1).await, 1);
    assert_eq!(again(r#"{"requests": 10, "per": "1h", "headers": false}"#, 20).await, 4);
    assert_eq!(again(r#"{"requests": 100, "per": "1h"}"#, 20).await, 0, "all of it is used");
    advance(Duration::from_secs(1800)).await;
    assert_eq!(again(r#"{"requests": 100, "per": "1h"}"#, 200).await, 50, "half of the hour came back");
    assert_eq!(again(r#"{"requests": 10, "per": "1m"}"#, 20).await, 10, "a window of its own");
    assert_eq!(again(r#"{"requests": 100, "per": "1h", "key": "route"}"#, 200).await, 100, "a key of its own");
}

fn window(requests: u64) -> Window {
    let interval = 3600 * NS / requests;
    Window { name: String::new(), burst: requests, interval, span: interval * requests }
}

#[tokio::test(start_paused = true)]
async fn workers_share_a_table_and_none_of_them_takes_what_another_took() {
    let table = Arc::new(Table::default());
    let now = Instant::now();
    let threads = [1, 2, 3, 4].map(|_| {
        let table = Arc::clone(&table);
        std::thread::spawn(move || {
            let windows = [window(2500), window(100_000)];
            let key = table.key(|write| write(b"key"));
            (0..1000).filter(|_| table.take(key, &windows, now, 1000).0.allowed).count()
        })
    });
    let allowed: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    assert_eq!(allowed, 2500);
    let used = table.take(table.key(|write| write(b"key")), &[window(2500), window(100_000)], now, 1000).0.used;
    assert_eq!(used[1], 2500 * window(100_000).interval);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_who_is_at_the_limit_is_not_forgotten_for_newcomers() {
    const KEYS_MAX: usize = 10_000;
    let table = Table::default();
    let windows = [window(10)];
    let gone = std::cell::Cell::new(0);
    let take = |name: u32| {
        let key = table.key(|write| write(&name.to_le_bytes()));
        let (verdict, evicted) = table.take(key, &windows, Instant::now(), KEYS_MAX);
        gone.set(gone.get() + evicted);
        verdict.allowed
    };
    let hot: Vec<u32> = (0..100).collect();
    for name in &hot {
        assert!((0..10).all(|_| take(*name)) && !take(*name));
    }
    for stranger in 1000..101_000 {
        assert!(take(stranger));
    }
    assert!(table.len() <= KEYS_MAX + 256, "{}", table.len());
    assert!(table.len() > KEYS_MAX / 2, "{}", table.len());
    assert!(hot.iter().all(|name| !take(*name)));
    assert_eq!(gone.replace(0), 100_100 - table.len() as u64, "each that had to go is counted");
    // Those that have nothing to wait for make room for all that come.
    advance(Duration::from_secs(3601)).await;
    for stranger in 200_000..201_000 {
        assert!(take(stranger));
    }
    for stranger in 200_000..201_000 {
        assert!((0..9).all(|_| take(stranger)) && !take(stranger));
    }
    assert_eq!(gone.get(), 0, "nobody had to go");
}

#[tokio::test(start_paused = true)]
async fn keys_that_have_to_go_before_their_time_are_counted() {
    let mut rig = Rig::new("rate_limit", r#"{"requests": 2, "per": "1h", "max_keys": 1000}"#);
    for client in 0..20_000_u32 {
        rig.client = IpAddr::from(client.to_be_bytes());
        assert_eq!(passing(&mut rig, 1).await, 1);
    }
    let evictions = rig.worker.shared.metrics.gauges.rate_limit_evictions.load(Relaxed);
    assert!((18_500..20_000).contains(&evictions), "{evictions}");
}

#[test]
fn mistakes_are_told() {
    for (config, expected) in [
        ("{}", &["config"][..]),
        (r#"{"requests": 1}"#, &["config"]),
        (r#"{"requests": 1, "per": "1s", "windows": [{"requests": 1, "per": "1m"}]}"#, &["config.requests"]),
        (r#"{"requests": 0, "per": "1s"}"#, &["config.requests"]),
        (r#"{"requests": 1, "per": "1ms"}"#, &["config.per"]),
        (r#"{"windows": [{"requests": 1, "per": "1m"}, {"per": "60s"}]}"#, &["config.windows[1]"]),
        (r#"{"windows": [{"requests": 1, "per": "1m"}, {"requests": 5, "per": "60s"}]}"#, &["config.windows[1].per"]),
        (r#"{"requests": 1, "per": "24h", "burst": 1000}"#, &["config.burst"]),
        (r#"{"requests": 1, "per": "1s", "key": "clientip"}"#, &["config.key", "config.key"]),
        (r#"{"requests": 1, "per": "1s", "key": []}"#, &["config.key"]),
        (r#"{"requests": 1, "per": "1s", "key": [{}]}"#, &["config.key"]),
        (r#"{"requests": 1, "per": "1s", "key": {"header": "a", "claim": "b"}}"#, &["config.key"]),
        (r#"{"requests": 1, "per": "1s", "key": [["client_ip"]]}"#, &["config.key[0]", "config.key"]),
    ] {
        assert_eq!(fields_at_fault("rate_limit", config), expected, "{config}");
    }
}
