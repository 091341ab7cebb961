//! The process dies, or is starved; nothing that was acknowledged is lost.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustygate_proto::v1::{self as wire, config_service_client::ConfigServiceClient};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::harness::{Plane, Proxy, route};

pub const BINARY: &str = env!("CARGO_BIN_EXE_rustygate-control-plane");

/// The real program; killed when dropped.
struct Process {
    child: Child,
    grpc: SocketAddr,
}

impl Process {
    fn start(folder: &Path, program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env("RUSTYGATE_DATABASE", folder.join("rustygate.db"))
            .env("RUSTYGATE_GRPC_LISTEN", "127.0.0.1:0")
            .env("RUSTYGATE_HTTP_LISTEN", "127.0.0.1:0")
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let grpc = lines
            .by_ref()
            .map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).expect("a line of JSON"))
            .find_map(|line| line["fields"]["grpc"].as_str().map(|address| address.parse().unwrap()))
            .expect("says where it listens");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, grpc }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two revisions with different content, so that rolling back and forth makes new ones.
async fn two_revisions() -> TempDir {
    let plane = Plane::start().await;
    plane.apply(&[("a", 1), ("b", 1)]).await;
    plane.apply_resources((0..50).map(|i| route(&format!("r{i}"), 2)).chain([route("a", 2)]).collect()).await;
    plane.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let folder = two_revisions().await;
    let acknowledged = Arc::new(AtomicU64::new(2));
    for round in 0..8_u64 {
        let mut process = Process::start(folder.path(), BINARY, &[]);
        let mut config = ConfigServiceClient::new(process.channel().await);
        let before = acknowledged.load(Ordering::SeqCst);
        check(&process, &mut config, before).await;
        let applying = tokio::spawn({
            let acknowledged = acknowledged.clone();
            async move {
                for turn in 0_u64.. {
                    let rollback = wire::RollbackRequest { revision: 1 + turn % 2, options: None };
                    let Ok(response) = config.rollback(rollback).await else { return };
                    acknowledged.fetch_max(response.into_inner().revision, Ordering::SeqCst);
                }
            }
        });
        // At least one acknowledged, then an odd moment.
        while acknowledged.load(Ordering::SeqCst) < before + 1 + round % 3 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        tokio::time::sleep(Duration::from_micros(round * 1_370 % 5_000)).await;
        process.kill();
        applying.await.unwrap();
    }
    let process = Process::start(folder.path(), BINARY, &[]);
    let mut config = ConfigServiceClient::new(process.channel().await);
    check(&process, &mut config, acknowledged.load(Ordering::SeqCst)).await;
}

/// The head is no older than what was acknowledged, and its content, as read and as sent, is that of its revision.
async fn check(process: &Process, config: &mut ConfigServiceClient<Channel>, acknowledged: u64) {
    let history = config.history(wire::HistoryRequest { limit: 1, before: 0 }).await.unwrap().into_inner();
    let head = &history.revisions[0];
    assert!(head.revision >= acknowledged, "{} was lost, {} is there", acknowledged, head.revision);
    let get = wire::GetRequest { names: vec!["a".into()], ..Default::default() };
    let got = config.get(get).await.unwrap().into_inner();
    let content = if head.rollback_of == 0 { head.revision } else { head.rollback_of };
    assert_eq!(got.resources[0].resource, Some(route("a", content)), "{head:?}");
    // Receiving checks the checksum against what was received.
    let mut proxy = Proxy::connect_to(process.channel().await, "p").await.unwrap();
    let push = proxy.serve().await;
    assert_eq!(push.to, head.revision);
    assert_eq!(push.changes.len(), if content == 1 { 2 } else { 52 });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_accepts_again_after_every_file_descriptor_was_taken() {
    let folder = two_revisions().await;
    let process = Process::start(folder.path(), "sh", &["-c", &format!("ulimit -n 48; exec '{BINARY}'")]);
    let hoard: Vec<_> = (0..100).map(|_| TcpStream::connect(process.grpc).unwrap()).collect();
    // Enough time to meet the limit, and to stop at it if it did.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(hoard);
    let mut config = ConfigServiceClient::new(process.channel().await);
    assert_eq!(config.history(wire::HistoryRequest::default()).await.unwrap().into_inner().revisions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_cleanly_and_the_file_is_free() {
    let folder = two_revisions().await;
    let mut process = Process::start(folder.path(), BINARY, &[]);
    let mut watch =
        ConfigServiceClient::new(process.channel().await).watch(wire::WatchRequest {}).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().revision, 2);
    let pid = process.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(watch.message().await.unwrap_err().code(), tonic::Code::Unavailable);
    let status = tokio::task::spawn_blocking(move || process.child.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(!folder.path().join("rustygate.db-wal").exists(), "the journal was written into the file");
}

#[test]
fn a_start_that_fails_says_why_in_a_line_and_prints_no_backtrace() {
    let mut command = Command::new(BINARY);
    command.args([
        "--database",
        "/nowhere/rustygate.db",
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ]);
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.lines().last().unwrap().starts_with("error: ") && told.contains("/nowhere/rustygate.db"), "{told}");
    assert!(!told.to_lowercase().contains("backtrace"), "{told}");
}
