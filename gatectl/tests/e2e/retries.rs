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

/// The same, with endpoints in turn, whatever they answer: what a test can count on.
fn in_turn(manifest: &str) -> String {
    let all_in_turn = "load_balancing: {policy: round_robin}, outlier_detection: {consecutive_gateway_errors: 0}";
    manifest.replace("{name: b,", &format!("{{name: b, {all_in_turn},"))
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
    let yaml = in_turn(&manifest(&[&dead, &live.url()], "retry: {attempts: 1, on: [connect]}"));
    with_gateway(&yaml, async |gateway| {
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
async fn without_attempts_there_is_no_retry() {
    let live = Witness::saying("live").await;
    let dead = format!("http://127.0.0.1:{}", free_port());
    let yaml = in_turn(&manifest(&[&dead, &live.url()], "retry: {attempts: 0}"));
    with_gateway(&yaml, async |gateway| {
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
    let yaml = in_turn(&manifest(&[&busy.url(), &live.url()], "retry: {attempts: 1, on: [503]}"));
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
        let begun = tokio::time::Instant::now();
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..REQUESTS {
            assert_eq!(client.get("/").await.status, 503);
        }
        let again = busy.requests().len() - REQUESTS;
        // Ten at once and in each second, and one for every five requests.
        let seconds = usize::try_from(begun.elapsed().as_secs()).expect("few") + 1;
        assert!((10..=10 + 10 * seconds + REQUESTS / 5).contains(&again), "{again} retries");
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
    with_gateway(&manifest(&[&upstream.url()], "retry: {attempts: 0}"), async |gateway| {
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

#[tokio::test]
async fn what_an_endpoint_asks_for_is_waited_for_only_if_there_is_no_other_and_only_so_long() {
    let asking = |seconds: &'static str| {
        let first = AtomicUsize::new(0);
        Witness::start(move |_| match first.fetch_add(1, SeqCst) {
            0 => Reply::Send(
                format!("HTTP/1.1 503 Busy\r\nretry-after: {seconds}\r\ncontent-length: 4\r\n\r\nbusy").into_bytes(),
            ),
            _ => Reply::Send(answer("served")),
        })
    };
    for (seconds, status, waits) in [("1", 200, true), ("2", 503, false), ("0", 200, false)] {
        let busy = asking(seconds).await;
        with_gateway(&manifest(&[&busy.url()], "timeout: 5s"), async |gateway| {
            let begun = tokio::time::Instant::now();
            let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
            assert_eq!(response.status, status, "{seconds}");
            assert_eq!(begun.elapsed().as_millis() >= 1_000, waits, "{seconds}");
        })
        .await;
    }
    let (busy, live) = (asking("1").await, Witness::saying("live").await);
    with_gateway(&in_turn(&manifest(&[&busy.url(), &live.url()], "timeout: 5s")), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let begun = tokio::time::Instant::now();
        for _ in 0..2 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(busy.requests().len() + live.requests().len(), 3);
        assert!(begun.elapsed().as_millis() < 1_000);
    })
    .await;
}
