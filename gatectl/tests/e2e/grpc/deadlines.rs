//! `grpc-timeout` ends a call wherever it is; without it, only silence does.

use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream, client::ResponseFuture};
use tokio::time::Instant;

use super::service::{Note, Reader, Service, frame};
use crate::harness::{Gateway, Http2, Peer, answered, body_of, reply, with_gateway, within};

fn manifest(url: &str, timeouts: &str) -> String {
    format!(
        "backends: [{{name: service, protocol: h2c, endpoints: [\"{url}\"]}}]\n\
         routes: [{{name: all, path: /, backend: service, timeouts: {timeouts}}}]\n"
    )
}

/// Begins a call and sends one message.
async fn call(
    client: &mut Http2,
    method: &str,
    timeout: Option<&str>,
    note: &Note,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
    headers.extend(timeout.map(|timeout| ("grpc-timeout", timeout)));
    let head = client.head("POST", &format!("{}{method}", super::service::NAME), &headers);
    let (response, mut up) = client.open(head, false).await;
    up.send_data(frame(note), false).expect("sends");
    (response, up)
}

#[tokio::test]
async fn the_callers_deadline_ends_a_call_that_has_no_answer_yet() {
    let mut peer = Peer::start().await;
    with_gateway(&manifest(&peer.url(), "{total: 5s}"), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for half_closed in [false, true] {
            let begun = Instant::now();
            let (response, mut up) = call(&mut client, "UnaryCall", Some("300m"), &Note::default()).await;
            if half_closed {
                up.send_data(Bytes::new(), true).expect("sends");
            }
            let mut asked = peer.next().await;
            let seen = asked.header("grpc-timeout").expect("passed on").to_owned();
            let micros: u64 = seen.trim_end_matches('u').parse().expect("microseconds");
            assert!((100_000..300_000).contains(&micros), "{seen}");
            let answer = within("an answer", answered(response)).await.expect("an answer");
            assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")), "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/grpc"));
            assert!(begun.elapsed() >= Duration::from_millis(300));
            assert_eq!(asked.given_up().await, Reason::CANCEL);
        }
        assert_eq!(peer.connections(), 1, "a caller's impatience says nothing of the connection");
        let metrics = gateway.metrics(0).await;
        assert!(!metrics.contains("rustygate_requests_total{status=\"502\""), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn the_callers_deadline_ends_a_stream_that_goes_on() {
    let service = Service::start(None).await;
    with_gateway(&manifest(&service.url, "{total: 5s}"), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        let note = Note { sizes: vec![10; 1000], pause_ms: 20, ..Note::default() };
        let begun = Instant::now();
        let (response, _up) = call(&mut client, "StreamingOutputCall", Some("400m"), &note).await;
        let mut down = within("a head", response).await.expect("a head").into_body();
        let (body, trailers) = within("the end", body_of(&mut down)).await.expect("an end with a status");
        assert_eq!(trailers.get("grpc-status").expect("a status"), "4");
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert!(!body.is_empty());
        service.logged("StreamingOutputCall: given up, CANCEL").await;
    })
    .await;
}

#[tokio::test]
async fn the_total_time_does_not_bound_calls_but_silence_does() {
    let service = Service::start(None).await;
    with_gateway(&manifest(&service.url, "{total: 100ms, idle: 600ms}"), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        // Messages in both directions, each within the idle time.
        let (response, mut up) = call(&mut client, "FullDuplexCall", None, &Note::default()).await;
        let mut down = within("a head", response).await.expect("a head").into_body();
        let mut reader = Reader { stream: &mut down, buffer: Vec::new() };
        for _ in 0..3 {
            let note = Note { sizes: vec![1], pause_ms: 250, ..Note::default() };
            up.send_data(frame(&note), false).expect("sends");
            within("a message", reader.next()).await.expect("a message").expect("a message");
        }
        // Then nothing: the gateway tells why it ends the call.
        let begun = Instant::now();
        let (_, trailers) = within("the end", body_of(&mut down)).await.expect("an end with a status");
        assert_eq!(trailers.get("grpc-status").expect("a status"), "4");
        assert!(begun.elapsed() >= Duration::from_millis(500));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_the_total_time_comes() {
    let mut peer = Peer::start().await;
    let manifest = manifest(&peer.url(), "{total: 100ms, idle: 5s}");
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    let (response, mut up) = call(&mut client, "UnaryCall", None, &Note::default()).await;
    up.send_data(Bytes::new(), true).expect("sends");
    let mut asked = peer.next().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let fields = [("content-type", "application/grpc"), ("grpc-status", "0")];
    asked.respond.send_response(reply(200, &fields), true).expect("sends");
    let answer = within("an answer", answered(response)).await.expect("an answer");
    assert_eq!(answer.header("grpc-status"), Some("0"));
    // What is no call has the total time.
    let head = client.head("GET", "/", &[]);
    let (response, _) = client.open(head, true).await;
    assert_eq!(within("an answer", answered(response)).await.expect("an answer").status, 504);
    gateway.shutdown().await;
}
