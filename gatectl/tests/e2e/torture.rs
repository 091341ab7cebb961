//! The torture test: configurations are applied every 50 ms while clients of every kind are at work, and not one of
//! them may notice.
//!
//! Each configuration writes its number into four independent places: a header that a plugin puts on the request, a
//! header that another puts on the answer, the base path of the backend's endpoints, and the endpoints themselves. The
//! upstream tells what it was asked for and by whom, so an answer in which two revisions meet does not match itself.
//! Planes are processes of their own, so that memory, files and threads are theirs alone.
//!
//! In a third form all that speaks HTTP/2, with TLS and without, on both sides; certificates change with every number too.
//!
//! `RUSTYGATE_TORTURE_SECONDS` makes it longer; with `--nocapture` it tells what it did.

mod calls;
mod clients;
mod course;
mod handshakes;
mod http2;
mod peer;
mod rig;
mod secure;
mod streams;
mod upstream;
mod vitals;
mod yaml;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{course::Course, rig::Rig, secure::Secure, upstream::Upstream, vitals::Vitals, yaml::Shape};
use crate::harness::{Authority, Client, within};

const SECONDS: u64 = 6;

/// Caches, pools, buffers and the heap itself grow to their size at first.
const WARM_UP: f64 = 0.4;

/// What is done beyond the rest with HTTP/2, gRPC and TLS.
const SECURE: [&str; 15] = [
    "GETs by HTTP/2",
    "POSTs by HTTP/2",
    "answers by a plugin, by HTTP/2",
    "downloads by HTTP/2",
    "uploads by HTTP/2",
    "WebSockets by HTTP/2",
    "messages on WebSockets by HTTP/2",
    "connections of HTTP/2",
    "calls of gRPC",
    "conversations",
    "messages of conversations",
    "handshakes",
    "sessions taken up again",
    "requests of new sessions",
    "connections that outlive their certificate",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_lose_and_mix_nothing_while_the_configuration_changes() {
    torture(2, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_and_change_their_names_without_a_loss() {
    torture(1, Some(yaml::Listeners::free())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_endpoints_change_and_no_stream_of_http2_no_call_and_no_handshake_is_lost() {
    let clear = peer::clear().await;
    let secure = Arc::new(Secure::new(Authority::new(), clear.addr));
    let [one, two] = [(); 2].map(|()| secure.upstream());
    let upstreams = [peer::secure(one).await, peer::secure(two).await];
    let addresses = upstreams.each_ref().map(|upstream| upstream.addr);
    let shape = Shape { upstreams: addresses, listeners: None, secure: Some(secure) };
    run(1, shape, Vec::from(upstreams).into_iter().chain([clear]).collect()).await;
}

async fn torture(proxies: usize, listeners: Option<yaml::Listeners>) {
    let upstreams = vec![Upstream::start().await, Upstream::start().await];
    let shape = Shape { upstreams: [upstreams[0].addr, upstreams[1].addr], listeners, secure: None };
    run(proxies, shape, upstreams).await;
}

async fn run(proxies: usize, shape: Shape, upstreams: Vec<Upstream>) {
    let seconds = std::env::var("RUSTYGATE_TORTURE_SECONDS").map_or(SECONDS, |text| text.parse().expect("seconds"));
    let total = Duration::from_secs(seconds);
    let rig = Rig::start(proxies, &shape).await;
    let idle: Vec<Vitals> = rig.proxies.iter().map(|proxy| Vitals::of(&proxy.child)).collect();

    let begun = Instant::now();
    let course = Arc::new(Course::new(begun + total));
    let mut work = JoinSet::new();
    work.spawn(rig::apply_on_and_on(rig.url.clone(), shape.clone(), Arc::clone(&course)));
    work.spawn(rig::follow(rig.url.clone(), Arc::clone(&course)));
    for proxy in &rig.proxies {
        clients::spawn(&mut work, proxy.listen, &course);
        streams::spawn(&mut work, proxy.listen, &course, total);
    }
    if let Some(listeners) = shape.listeners {
        clients::spawn_visitors(&mut work, listeners, &course);
    }
    if let Some(secure) = &shape.secure {
        http2::spawn(&mut work, secure, &course, total);
        handshakes::spawn(&mut work, secure, &course);
    }

    sleep_until(begun + total.mul_f64(WARM_UP)).await;
    let warm = rig.resident(total.mul_f64(0.1)).await;
    sleep_until(begun + total.mul_f64(0.85)).await;
    let late = rig.resident(total.mul_f64(0.1)).await;
    while let Some(ended) = work.join_next().await {
        if let Err(error) = ended {
            course.fault(format!("a client panicked: {error}"));
        }
    }
    rig.settled(&course).await;
    course.report(&rig, &warm, &late);

    course.check(if shape.secure.is_some() { &SECURE } else { &[] });
    vitals::check_memory(total, &warm, &late);
    // Pooled connections go with their upstreams.
    drop(upstreams);
    for (proxy, idle) in rig.proxies.iter().zip(&idle) {
        vitals::return_to(idle, proxy).await;
    }
    rig.end().await;
}

/// The number of the configuration that an answer was made by.
async fn number(client: &mut Client) -> u64 {
    let answer = within("an answer", client.try_response(false)).await.expect("a whole answer");
    answer.header("x-answered-by").expect("a number").parse().expect("a number")
}
