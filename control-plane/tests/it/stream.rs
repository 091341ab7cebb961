//! What proxies are sent.

use std::time::Duration;

use rustygate_control_plane::discovery::Timing;
use rustygate_proto::v1::{self as wire, stream_request, wait_response::Outcome};
use tonic::Code;

use crate::harness::{Held, Plane, Proxy, route};

fn quick() -> Timing {
    Timing { heartbeat: Duration::from_millis(50), hello: Duration::from_millis(150), ..Timing::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_proxy_gets_everything_then_only_what_changes() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (0, 1, vec!["a", "b", "c"]));
    plane.apply(&[("b", 2)]).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (1, 2, vec!["b"]));
    let shown = plane.proxy_until(|proxy| proxy.revision == 2).await;
    assert!(shown.connected && shown.lag_ms.is_some());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_with_the_head_is_sent_nothing() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.serve().await;
    plane.proxy_until(|proxy| proxy.revision == 1).await;
    let held = proxy.held.clone();
    drop(proxy);
    let mut proxy = Proxy::connect_with(&plane, "p", held).await;
    assert_eq!(plane.proxy_until(|proxy| proxy.connected && proxy.revision == 1).await.lag_ms, None);
    plane.apply(&[("b", 2)]).await;
    // Had anything been sent before, it would come first.
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (1, 2, vec!["b"]));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_away_gets_the_sum_of_what_it_missed_even_over_a_restart() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.serve().await;
    let held = proxy.held.clone();
    drop(proxy);
    for timeout_ms in 2..=6 {
        plane.apply(&[("b", timeout_ms)]).await;
    }
    plane.apply(&[("c", 1)]).await;
    let folder = plane.stop().await;
    let plane = Plane::start_in(folder, &[], Timing::default()).await.unwrap();
    let mut proxy = Proxy::connect_with(&plane, "p", held).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (1, 7, vec!["b", "c"]));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_prove_what_it_has_gets_everything() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    plane.apply(&[("b", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "good").await;
    proxy.serve().await;
    let good = proxy.held.clone();
    let other_store = Held { store_id: "another".into(), ..good.clone() };
    let from_the_future = Held { revision: 99, ..good.clone() };
    let mut damaged = good.clone();
    damaged.resources.values_mut().for_each(|body| *body = bytes::Bytes::from_static(b"x"));
    for (node_id, held) in [("a", other_store), ("b", from_the_future), ("c", damaged)] {
        let mut proxy = Proxy::connect_with(&plane, node_id, held).await;
        let push = proxy.serve().await;
        assert_eq!((push.from, push.to, push.names()), (0, 2, vec!["a", "b"]), "{node_id}");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_whose_revision_was_forgotten_gets_everything() {
    let plane = Plane::start_with(&["--history-revisions", "2"], Timing::default()).await;
    plane.apply(&[("a", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.serve().await;
    let held = proxy.held.clone();
    drop(proxy);
    for timeout_ms in 2..=5 {
        plane.apply(&[("a", timeout_ms)]).await;
    }
    let mut config = plane.config().await;
    let forgotten = async {
        while config.history(wire::HistoryRequest::default()).await.unwrap().into_inner().revisions.len() > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), forgotten).await.expect("the history is shortened");
    let mut proxy = Proxy::connect_with(&plane, "p", held).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to), (0, 5));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_and_the_next_push_starts_from_what_is_still_served() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.serve().await;
    plane.apply(&[("b", 1)]).await;
    proxy.refuse(false).await;
    let shown = plane.proxy_until(|proxy| proxy.refused_revision == 2).await;
    assert_eq!((shown.revision, shown.faults[0].code.as_str()), (1, "RG0301"));
    let wait = wire::WaitRequest { revision: 2, timeout_ms: 20_000 };
    let waited = plane.fleet().await.wait(wait).await.unwrap().into_inner();
    assert_eq!(waited.outcome(), Outcome::Refused);
    plane.apply(&[("c", 1)]).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (1, 3, vec!["b", "c"]));
    let waited = plane.fleet().await.wait(wait).await.unwrap().into_inner();
    assert_eq!(waited.outcome(), Outcome::Serving);
    assert!(waited.proxies[0].faults.is_empty());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_revision_is_tried_again_after_a_while_and_not_before() {
    let retry = Duration::from_millis(100);
    let plane = Plane::start_with(&[], Timing { retry, ..Timing::default() }).await;
    plane.apply(&[("a", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.refuse(false).await;
    let refused = tokio::time::Instant::now();
    proxy.refuse(false).await;
    assert!(refused.elapsed() >= retry - Duration::from_millis(20));
    let refused = tokio::time::Instant::now();
    assert_eq!(proxy.serve().await.to, 1);
    assert!(refused.elapsed() >= 2 * retry - Duration::from_millis(20), "the pause doubles");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_lost_its_way_gets_everything_once_and_then_waits_for_something_new() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "p").await;
    proxy.serve().await;
    plane.apply(&[("b", 1)]).await;
    proxy.refuse(true).await;
    let push = proxy.refuse(true).await;
    assert_eq!((push.from, push.to, push.names()), (0, 2, vec!["a", "b"]));
    plane.proxy_until(|proxy| proxy.refused_revision == 2).await;
    // Sending it all again at once would come before this.
    plane.apply(&[("c", 1)]).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (0, 3, vec!["a", "b", "c"]));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_proxy_gets_the_latest_in_one_step() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    let mut proxy = Proxy::connect(&plane, "slow").await;
    let first = proxy.receive().await;
    for timeout_ms in 2..=50 {
        plane.apply(&[("a", timeout_ms)]).await;
    }
    proxy.ack(first.to).await;
    let push = proxy.serve().await;
    assert_eq!((push.from, push.to, push.names()), (1, 50, vec!["a"]));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_hear_heartbeats_and_a_silent_proxy_is_cut() {
    let plane = Plane::start_with(&[], quick()).await;
    plane.apply(&[("a", 1)]).await;
    let mut lively = Proxy::connect(&plane, "lively").await;
    let mut silent = Proxy::connect(&plane, "silent").await;
    lively.serve().await;
    silent.serve().await;
    let started = tokio::time::Instant::now();
    let keep_alive = async {
        while plane.proxies().await.iter().any(|proxy| proxy.node_id == "silent" && proxy.connected) {
            lively.heartbeat().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), keep_alive).await.expect("the silent one is cut");
    assert!(started.elapsed() >= Duration::from_millis(100));
    plane.apply(&[("a", 2)]).await;
    assert_eq!(lively.serve().await.to, 2);
    assert!(lively.heartbeats > 0);
    // Status or broken connection, as it came first.
    silent.end().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_never_reads_is_cut_and_the_others_do_not_notice() {
    let timing = Timing { write: Duration::from_millis(300), ..Timing::default() };
    let plane = Plane::start_with(&[], timing).await;
    // Some megabytes that do not compress well.
    let name =
        |i: u32| (0..3_u32).map(|part| blake3::hash(&(i * 3 + part).to_le_bytes()).to_string()).collect::<String>();
    plane.apply_resources((0..27_000).map(|i| route(&name(i), 1)).collect()).await;
    let stuck = Proxy::connect(&plane, "stuck").await;
    let mut fine = Proxy::connect(&plane, "fine").await;
    assert_eq!(fine.serve().await.changes.len(), 27_000);
    plane.proxy_until(|proxy| proxy.node_id == "stuck" && !proxy.connected).await;
    plane.apply(&[("a", 1)]).await;
    assert_eq!(fine.serve().await.names(), ["a"]);
    drop(stuck);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_of_the_same_proxy_replaces_the_older() {
    let plane = Plane::start().await;
    let mut older = Proxy::connect(&plane, "p").await;
    plane.proxy_until(|proxy| proxy.connected).await;
    let mut newer = Proxy::connect(&plane, "p").await;
    let status = older.end().await;
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("--node-id"), "{status}");
    plane.apply(&[("a", 1)]).await;
    assert_eq!(newer.serve().await.to, 1);
    assert_eq!(plane.proxies().await.len(), 1);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_ends_the_stream() {
    let plane = Plane::start_with(&[], quick()).await;
    plane.apply(&[("a", 1)]).await;
    let mut mute = Proxy::open(&plane).await.unwrap();
    assert_eq!(mute.end().await.code(), Code::DeadlineExceeded);
    let mut rude = Proxy::open(&plane).await.unwrap();
    rude.heartbeat().await;
    assert_eq!(rude.end().await.code(), Code::InvalidArgument);
    let mut nameless = Proxy::connect(&plane, "").await;
    assert_eq!(nameless.end().await.code(), Code::InvalidArgument);
    let mut liar = Proxy::connect(&plane, "liar").await;
    liar.receive().await;
    liar.ack(77).await;
    assert_eq!(liar.end().await.code(), Code::InvalidArgument);
    let mut twice = Proxy::connect(&plane, "twice").await;
    twice.serve().await;
    twice.say(stream_request::Message::Hello(Held::default().hello("twice"))).await;
    assert_eq!(twice.end().await.code(), Code::InvalidArgument);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_proxies_than_allowed_are_let_in() {
    let plane = Plane::start_with(&["--proxies-max", "1"], Timing::default()).await;
    let _first = Proxy::connect(&plane, "first").await;
    plane.proxy_until(|proxy| proxy.connected).await;
    let mut second = Proxy::connect(&plane, "second").await;
    let status = second.end().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("--proxies-max"), "{status}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_proxies_are_brought_to_the_head_together() {
    let plane = Plane::start().await;
    let mut proxies = Vec::new();
    for i in 0..50 {
        proxies.push(Proxy::connect(&plane, &format!("p{i}")).await);
    }
    for timeout_ms in 1..=3 {
        plane.apply(&[("a", timeout_ms)]).await;
        for proxy in &mut proxies {
            while proxy.serve().await.to < timeout_ms {}
        }
        let wait = wire::WaitRequest { revision: timeout_ms, timeout_ms: 20_000 };
        let waited = plane.fleet().await.wait(wait).await.unwrap().into_inner();
        assert_eq!((waited.outcome(), waited.proxies.len()), (Outcome::Serving, 50));
    }
    plane.stop().await;
}
