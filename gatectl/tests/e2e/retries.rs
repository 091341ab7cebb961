//! When a request is sent again, and when it must not be.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::harness::{Client, Reply, Upstream, Wire, Witness, answer, free_port, with_gateway};

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// One route to a backend of several endpoints.
fn manifest(urls: &[&str], rest: &str) -> String {
    let urls: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    format!(
        "backends: [{{name: b, endpoints: [{}]}}]\nroutes: [{{name: all, path: /, backend: b, {rest}}}]\n",
        urls.join(", ")
    )
}

async fn unavailable() -> Witness {
    Witness::start(|_| Reply::Send(UNAVAILABLE.to_vec())).await
}

/// The retries of the one route.
fn retries(metrics: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with("rustygate_retries_total{"));
    line.map_or(0, |line| line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number"))
}

#[tokio::test]
async fn a_request_that_was_never_sent_goes_to_another_endpoint_whatever_it_is() {
    let live = Witness::saying("live").await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    with_gateway(&manifest(&[&dead, &live.url()], "retry: {attempts: 1, on: [connect]}"), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for number in 0..4 {
            assert_eq!(client.get("/").await.text(), "live");
            let body = format!("body {number}");
            assert_eq!(client.post("/", body.as_bytes()).await.text(), "live");
            assert_eq!(live.requests().pop().expect("a request").body(), body.as_bytes());
        }
        assert!(retries(&gateway.metrics(0).await) > 0, "some went to the dead one first");
    })
    .await;
}

#[tokio::test]
async fn without_a_retry_policy_there_is_no_retry() {
    let live = Witness::saying("live").await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    with_gateway(&manifest(&[&dead, &live.url()], "timeout: 5s"), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(client.get("/").await.status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 502, 502]);
    })
    .await;
}

#[tokio::test]
async fn a_listed_status_is_tried_elsewhere_unless_a_second_time_could_do_harm() {
    let (busy, live) = (unavailable().await, Witness::saying("live").await);
    let yaml = manifest(&[&busy.url(), &live.url()], "retry: {attempts: 1, on: [503]}");
    with_gateway(&yaml, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "GET"] {
            let (length, body) = if method == "PUT" { ("3", "abc") } else { ("0", "") };
            let response = client.request(method, "/", &[("content-length", length)], body.as_bytes()).await;
            assert_eq!(response.status, 200, "{method}");
        }
        assert!(!busy.requests().is_empty());
        let put = live.requests().into_iter().find(|seen| seen.line().starts_with("PUT")).expect("the PUT");
        assert_eq!(put.body(), b"abc", "sent again whole");
        let mut statuses = Vec::new();
        let before = busy.requests().len() + live.requests().len();
        for method in ["POST", "PATCH", "POST", "PATCH"] {
            statuses.push(client.request(method, "/", &[("content-length", "0")], b"").await.status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503, 503]);
        assert_eq!(busy.requests().len() + live.requests().len(), before + 4);
    })
    .await;
}

#[tokio::test]
async fn tries_end_after_so_many_or_when_there_is_no_time_for_another() {
    for (policy, tries) in [
        ("retry: {attempts: 2, on: [503]}", 3),
        ("retry: {attempts: 2, on: [502]}", 1),
        // Less than the longest pause before a retry.
        ("retry: {attempts: 2, on: [503]}, timeout: 200ms", 1),
    ] {
        let busy = unavailable().await;
        with_gateway(&manifest(&[&busy.url()], policy), async |gateway| {
            let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
            assert_eq!((response.status, response.text().as_str()), (503, "busy"), "the last answer, whole: {policy}");
            assert_eq!(busy.requests().len(), tries, "{policy}");
        })
        .await;
    }
}

#[tokio::test]
async fn retries_are_a_bounded_share_of_the_load() {
    const REQUESTS: usize = 60;
    let busy = unavailable().await;
    with_gateway(&manifest(&[&busy.url()], "retry: {attempts: 3, on: [503]}"), async |gateway| {
        // One connection is served by one worker, which has its own budget.
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/").await.status, 503);
        }
        let again = busy.requests().len() - REQUESTS;
        // Ten at once, and one for every five requests.
        assert!((10..=10 + REQUESTS / 5).contains(&again), "{again} retries");
        assert_eq!(retries(&gateway.metrics(0).await), again as u64);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_met_a_closing_connection_is_sent_again_if_that_does_no_harm() {
    // Each connection serves one request and is closed when the second is there: as if it had been closed before.
    let upstream = Witness::start({
        let last = AtomicUsize::new(usize::MAX);
        move |seen| match last.swap(seen.connection, SeqCst) == seen.connection {
            true => Reply::Close,
            false => Reply::Send(answer("served")),
        }
    })
    .await;
    let large = vec![b'x'; 100 << 10];
    with_gateway(&manifest(&[&upstream.url()], "timeout: 5s"), async |gateway| {
        for (method, body, status) in [
            ("GET", b"".as_slice(), 200),
            ("PUT", b"small", 200),
            // It may have been served before the connection was closed.
            ("POST", b"small", 502),
            // It was not kept.
            ("PUT", &large, 502),
        ] {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            // Whatever lay in the pool is used up, and a new connection lies there.
            while upstream.requests().last().is_none_or(|seen| seen.line() != "GET /first HTTP/1.1") {
                client.get("/first").await;
            }
            let length = body.len().to_string();
            let response = client.request(method, "/second", &[("content-length", &length)], body).await;
            assert_eq!(response.status, status, "{method} of {} bytes", body.len());
            let seen = upstream.requests();
            let tries: Vec<_> = seen.iter().rev().take_while(|seen| seen.line().contains("/second")).collect();
            assert_eq!(tries.len(), if status == 200 { 2 } else { 1 }, "{method}");
            for seen in tries {
                assert_eq!(seen.body(), body, "{method}: whole each time");
            }
            if status != 200 {
                assert!(response.text().contains("upstream_closed"), "{response:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_fresh_connection_that_closes_is_a_failure_and_no_reason_to_send_again() {
    let upstream = Witness::start(|_| Reply::Close).await;
    let yaml = manifest(&[&upstream.url()], "retry: {attempts: 3, on: [connect, 502]}");
    with_gateway(&yaml, async |gateway| {
        let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
        assert_eq!(response.status, 502);
        assert_eq!(upstream.requests().len(), 1, "it may have been served");
    })
    .await;
}

#[tokio::test]
async fn what_the_client_has_not_sent_yet_is_asked_for_once() {
    // The first endpoint answers before it has the body; what was not read from the client goes to the second one.
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let yaml = manifest(&[&first.url(), &second.url()], "retry: {attempts: 1, on: [503]}");
    with_gateway(&yaml, async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf").await;
        let mut refusing =
            tokio::select! { wire = first.accept() => (wire, &second), wire = second.accept() => (wire, &first) };
        refusing.0.until("half").await;
        refusing.0.send(UNAVAILABLE).await;
        let mut wire = refusing.1.accept().await;
        wire.until("half").await;
        client.send("rest").await;
        wire.until("rest").await;
        wire.send(answer("whole")).await;
        client.until("whole").await;
    })
    .await;
}
