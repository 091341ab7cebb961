//! Many requests on few connections.

use tokio::task::JoinSet;

use super::bodies::routes;
use crate::harness::{Answer, Client, Gateway, Http2, Peer, with_gateway, within};

async fn many(gateway: &Gateway, requests: usize) -> JoinSet<Answer> {
    let mut work = JoinSet::new();
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    for _ in 0..requests {
        let head = client.head("GET", "/h2", &[]);
        let (response, _) = client.open(head, true).await;
        work.spawn(async move { within("an answer", crate::harness::answered(response)).await.expect("an answer") });
    }
    // The connection lives as long as its handles.
    work.spawn(async move {
        let _ = client.driver.await;
        panic!("the connection ended");
    });
    work
}

#[tokio::test]
async fn many_streams_share_one_connection_that_is_made_once() {
    let mut peer = Peer::start().await;
    with_gateway(&routes("http://127.0.0.1:9", &peer.url()), async |gateway| {
        let mut work = many(gateway, 80).await;
        let mut asked = Vec::new();
        for _ in 0..80 {
            asked.push(peer.next().await);
        }
        assert_eq!(peer.connections(), 1, "all of them wait at once, on the worker's one connection");
        for asked in asked {
            asked.say(200, "ok");
        }
        for _ in 0..80 {
            let answer = work.join_next().await.expect("an answer").expect("no panic");
            assert_eq!(answer.text(), "ok");
        }
        work.abort_all();
    })
    .await;
}

#[tokio::test]
async fn the_upstreams_limit_of_streams_is_kept_and_costs_no_request() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(4);
    let mut peer = Peer::start_with(builder, None).await;
    with_gateway(&routes("http://127.0.0.1:9", &peer.url()), async |gateway| {
        // One request first, so that the limit is known.
        let warm = many(gateway, 1).await;
        peer.next().await.say(200, "ok");
        let mut work = many(gateway, 20).await;
        let mut open = std::collections::HashMap::new();
        let mut asked = Vec::new();
        for _ in 0..20 {
            let next = peer.next().await;
            *open.entry(next.connection).or_insert(0) += 1;
            asked.push(next);
        }
        assert!(open.values().all(|streams| *streams <= 4), "{open:?}");
        assert!(open.len() >= 5, "{open:?}");
        for asked in asked {
            asked.say(200, "ok");
        }
        for _ in 0..20 {
            assert_eq!(work.join_next().await.expect("an answer").expect("no panic").status, 200);
        }
        drop(warm);
    })
    .await;
}

#[tokio::test]
async fn clients_of_either_protocol_share_the_upstreams_connection_and_a_push_keeps_it() {
    let mut peer = Peer::start().await;
    let manifest = routes("http://127.0.0.1:9", &peer.url());
    let mut gateway =
        Gateway::builder().manifest(&manifest).proxy_settings(|settings| settings.workers = Some(1)).start().await;
    let addr = gateway.proxy_addr();
    let http1 = tokio::spawn(async move { Client::connect(addr).await.get("/h2").await.status });
    peer.next().await.say(200, "ok");
    assert_eq!(http1.await.expect("no panic"), 200);
    gateway.apply(&format!("{manifest}- {{name: other, path: /other, backend: h2}}\n")).await;
    let mut client = Http2::connect(addr).await;
    let head = client.head("GET", "/other", &[]);
    let (response, _) = client.open(head, true).await;
    let asked = peer.next().await;
    assert_eq!(asked.connection, 0);
    asked.say(200, "ok");
    assert_eq!(within("an answer", crate::harness::answered(response)).await.expect("an answer").status, 200);
    gateway.shutdown().await;
}
