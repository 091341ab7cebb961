//! `--wait`: every proxy serves it, one refuses it, one never says a word.

use std::net::TcpListener;

use rustygate_proto::v1::{self as wire, snapshot_service_client::SnapshotServiceClient, stream_request::Message};
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{Client, Gateway, Witness, within};

fn manifest(service: &Witness, path: &str) -> String {
    format!("routes:\n- name: a\n  path: {path}\n  backend: \"{}\"\n", service.url())
}

#[tokio::test]
async fn every_proxy_serves_it_when_apply_returns() {
    let service = Witness::saying("here").await;
    let gateway = Gateway::builder().proxies(2).manifest(&manifest(&service, "/a")).start().await;
    let stdout = gateway.gatectl_with(&["apply", "--wait", "-f", "-"], &manifest(&service, "/b")).await.expect(0);
    assert!(stdout.contains("\nserving on 2 proxies after ") && stdout.ends_with(" ms\n"), "{stdout}");
    for index in 0..2 {
        let mut client = Client::connect(gateway.proxy_addr_of(index)).await;
        assert_eq!((client.get("/a").await.status, client.get("/b").await.status), (404, 200));
    }
    let json = gateway.gatectl_with(&["apply", "--wait=5s", "-o", "json", "-f", "-"], &manifest(&service, "/c")).await;
    let json: serde_json::Value = serde_json::from_str(&json.expect(0)).expect("JSON");
    assert_eq!((&json["wait"]["outcome"], &json["revision"]), (&"serving".into(), &3.into()));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_listener_on_a_taken_port_is_refused_and_what_was_served_still_is() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address");
    let service = Witness::saying("here").await;
    let gateway = Gateway::builder().proxies(2).manifest(&manifest(&service, "/a")).start().await;
    let yaml = format!("listeners:\n- name: web\n  address: \"{address}\"\n");
    let refused = gateway.gatectl_with(&["apply", "--wait", "-f", "-"], &yaml).await.expect_stderr(3);
    assert!(refused.contains(" refused revision 2:\n"), "{refused}");
    assert!(refused.contains("RG0301") && refused.contains("web"), "{refused}");
    assert!(refused.contains("gatectl rollback"), "{refused}");
    for index in 0..2 {
        let mut client = Client::connect(gateway.proxy_addr_of(index)).await;
        assert_eq!(client.get("/a").await.text(), "here");
    }
    let status = gateway.gatectl(&["status", "--check"]).await;
    assert!(status.stdout.contains("refuses 2"), "{}", status.stdout);
    status.expect(1);
    gateway.gatectl(&["rollback", "1", "--wait"]).await.expect(0);
    gateway.gatectl(&["status", "--check"]).await.expect(0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_proxy_that_never_answers_is_named_when_the_time_is_up() {
    let gateway = Gateway::builder().proxies(0).start().await;
    let service = Witness::saying("here").await;
    let (requests, inbox) = tokio::sync::mpsc::channel(1);
    let hello = wire::Hello { node_id: "mute".to_owned(), version: "0".to_owned(), ..wire::Hello::default() };
    requests.send(wire::StreamRequest { message: Some(Message::Hello(hello)) }).await.expect("a channel");
    let mut client = SnapshotServiceClient::new(gateway.channel().await);
    let stream = within("a snapshot stream", client.stream(ReceiverStream::new(inbox))).await.expect("a stream");
    let late = gateway.gatectl_with(&["apply", "--wait=300ms", "-f", "-"], &manifest(&service, "/a")).await;
    assert!(late.stdout.contains("revision 1: 1 created"), "{}", late.stdout);
    let stderr = late.expect_stderr(4);
    assert!(stderr.contains("error: proxy mute still serves revision 0 after "), "{stderr}");
    assert!(stderr.contains("gatectl status"), "{stderr}");
    drop((stream, requests));
    gateway.shutdown().await;
}

#[tokio::test]
async fn without_a_proxy_there_is_nothing_to_wait_for() {
    let gateway = Gateway::builder().proxies(0).start().await;
    let service = Witness::saying("here").await;
    let output = gateway.gatectl_with(&["apply", "--wait", "-f", "-"], &manifest(&service, "/a")).await;
    assert!(output.stderr.contains("no proxy is connected"), "{}", output.stderr);
    output.expect(0);
    gateway.shutdown().await;
}
