//! Starting, reading, changing, watching and stopping, as clients see it.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use rustygate_control_plane::{app::StartError, discovery::Timing, store::StoreError};
use rustygate_proto::v1::{self as wire, Kind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::harness::{Plane, route, settings};

fn key(name: &str) -> wire::ResourceKey {
    wire::ResourceKey { kind: Kind::Route.into(), name: name.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_control_plane_on_the_same_file_does_not_start() {
    let plane = Plane::start().await;
    let second = rustygate_control_plane::app::start(settings(&plane.folder, &[])).await;
    let error = second.expect_err("does not start");
    assert!(matches!(&error, StartError::Store(StoreError::Locked(_))), "{error}");
    assert!(error.to_string().contains("--database"), "{error}");
    let folder = plane.stop().await;
    Plane::start_in(folder, &[], Timing::default()).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_and_what_was_can_be_read() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    plane.apply(&[("b", 2), ("c", 1)]).await;
    let mut config = plane.config().await;
    let mut get = async |kinds: Vec<i32>, names: Vec<&str>, revision| {
        let names = names.into_iter().map(str::to_owned).collect();
        let response = config.get(wire::GetRequest { kinds, names, revision }).await?.into_inner();
        let shown = response.resources.into_iter().map(|stored| (stored.resource.unwrap(), stored.revision));
        Ok::<_, Status>((response.revision, shown.collect::<Vec<_>>()))
    };
    let head = vec![(route("a", 1), 1), (route("b", 2), 2), (route("c", 1), 2)];
    assert_eq!(get(vec![], vec![], 0).await.unwrap(), (2, head));
    assert_eq!(get(vec![], vec![], 1).await.unwrap(), (1, vec![(route("a", 1), 1), (route("b", 1), 1)]));
    assert_eq!(get(vec![Kind::Route.into()], vec!["b"], 0).await.unwrap().1, [(route("b", 2), 2)]);
    assert!(get(vec![Kind::Backend.into()], vec![], 0).await.unwrap().1.is_empty());
    let status = get(vec![], vec![], 3).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("gatectl history"), "{status}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_and_rollbacks_are_revisions_with_author_and_reason() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    let mut config = plane.config().await;
    let options = Some(wire::ChangeOptions { author: "ann".into(), message: "why".into(), ..Default::default() });
    let delete = wire::DeleteRequest { keys: vec![key("a"), key("b")], options: options.clone() };
    let deleted = config.delete(delete).await.unwrap().into_inner();
    assert_eq!((deleted.revision, deleted.changed, deleted.diff.len()), (2, true, 2));
    let again = wire::DeleteRequest { keys: vec![key("a")], options: options.clone() };
    let refused = config.delete(again).await.unwrap().into_inner();
    assert_eq!((refused.changed, refused.faults[0].code.as_str()), (false, "RG0402"));
    let back = config.rollback(wire::RollbackRequest { revision: 1, options }).await.unwrap().into_inner();
    assert_eq!((back.revision, back.diff[0].after.clone()), (3, Some(route("a", 1))));
    let page = config.history(wire::HistoryRequest { limit: 2, before: 0 }).await.unwrap().into_inner().revisions;
    let told: Vec<_> =
        page.iter().map(|r| (r.revision, r.created, r.deleted, r.rollback_of, r.author.as_str())).collect();
    assert_eq!(told, [(3, 2, 0, 1, "ann"), (2, 0, 2, 0, "ann")]);
    assert!(page[0].message == "why" && page[0].created_unix_ms > 1_700_000_000_000);
    let rest = config.history(wire::HistoryRequest { limit: 0, before: 2 }).await.unwrap().into_inner().revisions;
    assert_eq!(rest.len(), 1);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_update_is_aborted_and_names_both_revisions() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    plane.apply(&[("a", 2)]).await;
    let options = Some(wire::ChangeOptions { if_revision: Some(1), ..Default::default() });
    let rollback = wire::RollbackRequest { revision: 1, options };
    let status = plane.config().await.rollback(rollback).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("revision 2") && status.message().contains("not 1"), "{status}");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_the_head_then_each_new_one_and_is_told_when_it_ends() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    let mut watch = plane.config().await.watch(wire::WatchRequest {}).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().revision, 1);
    plane.apply(&[("a", 2)]).await;
    assert_eq!(watch.message().await.unwrap().unwrap().revision, 2);
    let stopping = tokio::spawn(plane.stop());
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_what_a_proxy_would_see() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    plane.apply(&[("a", 2)]).await;
    let mut config = plane.config().await;
    for (revision, shown) in [(0, 2), (1, 1), (2, 2)] {
        let request = wire::ExplainRequest { url: "http://example.com/a/b?q=1".into(), revision, ..Default::default() };
        let explained = config.explain(request).await.unwrap().into_inner();
        assert_eq!((explained.revision, explained.canonical_path.as_str()), (shown, "/a/b"));
        assert_eq!((explained.canonical_host.as_str(), explained.refused.as_str()), ("example.com", ""));
    }
    let bad = wire::ExplainRequest { url: "nonsense".into(), ..Default::default() };
    assert_eq!(config.explain(bad).await.unwrap_err().code(), Code::InvalidArgument);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_revision_that_is_not_is_an_error() {
    let plane = Plane::start().await;
    let wait = wire::WaitRequest { revision: 1, timeout_ms: 1 };
    assert_eq!(plane.fleet().await.wait(wait).await.unwrap_err().code(), Code::InvalidArgument);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_served_over_http() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(plane.running.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/healthz").await.ends_with("ok, at revision 1\n"));
    let metrics = get("/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    for line in [
        "rustygate_control_plane_head_revision 1",
        "rustygate_control_plane_applies_total{outcome=\"changed\"} 1",
        "rustygate_control_plane_proxies_connected 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(metrics.contains("# EOF"));
    assert!(get("/other").await.starts_with("HTTP/1.1 404"));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_no_change_half_made() {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1)]).await;
    plane.apply(&[("a", 2)]).await;
    for turn in 0..60_u64 {
        let mut config = plane.config().await;
        let rollback = wire::RollbackRequest { revision: 1 + turn % 2, options: None };
        let _ = tokio::time::timeout(Duration::from_micros(turn * 97 % 3_000), config.rollback(rollback)).await;
    }
    // What is published is what is stored, and the next change goes on from there.
    plane.running.applier().idle().await;
    let mut config = plane.config().await;
    let newest = config.history(wire::HistoryRequest { limit: 1, before: 0 }).await.unwrap().into_inner().revisions;
    let head = config.get(wire::GetRequest::default()).await.unwrap().into_inner().revision;
    assert_eq!(newest[0].revision, head);
    assert_eq!(plane.apply(&[("b", 1)]).await, head + 1);
    plane.stop().await;
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_errors_and_nothing_more() {
    let plane = Plane::start().await;
    let channel = plane.channel().await;
    let send = async |path: &'static str, bytes: Vec<u8>| {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let called = client.unary(tonic::Request::new(bytes), path.parse().unwrap(), Raw).await;
        called.expect_err("an error").code()
    };
    let apply = "/rustygate.v1.ConfigService/Apply";
    // Groups in groups in groups, a length beyond the end, a string that is no text, and simply too much.
    assert_eq!(send(apply, vec![0x53; 100_000]).await, Code::Internal);
    assert_eq!(send(apply, vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]).await, Code::Internal);
    assert_eq!(send(apply, vec![0x1a, 0x02, 0xff, 0xfe]).await, Code::Internal);
    assert_eq!(send("/rustygate.v1.FleetService/Wait", vec![0; (1 << 20) + 1]).await, Code::OutOfRange);
    plane.apply(&[("a", 1)]).await;
    plane.stop().await;
}
