//! Sync against a control plane that the test plays by hand, over real sockets.

mod doors;
mod plane;

use std::path::Path;

use clap::Parser;
use prometheus_client::encoding::text;
use rustygate_proto::v1::{Change, Kind, Nack, stream_request::Message};
use tokio::{task::JoinHandle, time::timeout};

use self::plane::{Plane, STORE, push};
use super::*;
use crate::{
    held::tests::{checksum, removal, route},
    snapshot::SnapshotCell,
};

/// Only for what hangs: far beyond what anything takes.
const LONG: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn config(url: &str, more: &[&str]) -> Config {
    let arguments = ["proxy", "--control-plane", url, "--node-id", "n1", "--label", "zone=a"];
    Config::new(&Cli::parse_from(arguments.iter().chain(more)).settings).expect("is consistent")
}

struct Proxy {
    cell: Arc<SnapshotCell>,
    status: Arc<SyncStatus>,
    registry: Registry,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    fn start(config: Config) -> Self {
        let mut registry = Registry::default();
        let sync = Sync::open(config, &mut registry).expect("opens");
        let status = sync.status();
        let cell = Arc::new(SnapshotCell::default());
        let (stop, shutdown) = watch::channel(false);
        let task = tokio::spawn(sync.run(Arc::new(Publisher::for_cell(Arc::clone(&cell))), shutdown));
        Self { cell, status, registry, stop, task }
    }

    fn in_folder(url: &str, folder: &Path) -> Self {
        Self::start(config(url, &["--data-dir", folder.to_str().expect("UTF-8")]))
    }

    async fn until(&self, what: impl FnMut(&State) -> bool) -> State {
        let mut states = self.status.subscribe();
        timeout(LONG, states.wait_for(what)).await.expect("in time").expect("runs").clone()
    }

    fn served(&self) -> u64 {
        self.cell.load().revision
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        timeout(LONG, self.task).await.expect("in time").expect("no panic");
    }
}

fn refused(answer: Message) -> Nack {
    match answer {
        Message::Nack(nack) => nack,
        other => panic!("{other:?} is no Nack"),
    }
}

#[tokio::test]
async fn a_full_snapshot_and_then_deltas_are_served_and_acknowledged() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let hello = stream.hello().await;
    assert_eq!((hello.node_id.as_str(), hello.revision, hello.store_id.as_str()), ("n1", 0, ""));
    assert_eq!(hello.labels["zone"], "a");
    assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(hello.checksum, checksum(&[]));

    let first = [route("a", 1), route("b", 2)];
    stream.send(push(0, 1, &first, &first)).await;
    assert_eq!(stream.acknowledged().await, 1);
    assert_eq!(proxy.served(), 1, "an Ack means that it is served");

    let second = [route("a", 9)];
    stream.send(push(1, 2, &[route("a", 9), removal("b")], &second)).await;
    assert_eq!(stream.acknowledged().await, 2);
    let state = proxy.until(|state| state.revision == 2).await;
    assert_eq!((state.source, state.store_id.as_str(), state.connected), (Some(Source::ControlPlane), STORE, true));
    assert_eq!(proxy.served(), 2);

    let mut metrics = String::new();
    text::encode(&mut metrics, &proxy.registry).expect("encodes");
    for line in [
        "rustygate_config_revision 2",
        "rustygate_config_connected 1",
        "rustygate_config_applied_total 2",
        "rustygate_config_refusals_total 0",
        "rustygate_config_apply_duration_seconds_count 2",
        "rustygate_config_contact_age_seconds",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.lines().all(|line| line.starts_with('#') || line.starts_with("rustygate_")), "{metrics}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_reconnect_with_nothing_new_tells_what_is_held_and_changes_nothing() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let set = [route("a", 1)];
    stream.send(push(0, 5, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 5);
    let before = Arc::clone(&proxy.cell.load());
    drop(stream);

    let mut stream = plane.accept().await;
    let hello = stream.hello().await;
    assert_eq!((hello.revision, hello.store_id.as_str()), (5, STORE));
    assert_eq!(hello.checksum, checksum(&set));
    proxy.until(|state| state.connected).await;
    assert!(Arc::ptr_eq(&before, &proxy.cell.load()));

    let next = [route("a", 1), route("b", 1)];
    stream.send(push(5, 6, &[route("b", 1)], &next)).await;
    assert_eq!(stream.acknowledged().await, 6);
    proxy.stop().await;
}

#[tokio::test]
async fn a_wrong_checksum_or_base_asks_for_everything_anew_and_then_recovers() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let set = [route("a", 1)];
    stream.send(push(0, 1, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 1);

    // The sender believes that "b" is there as well.
    let theirs = [route("a", 1), route("b", 1), route("c", 1)];
    for from in [1, 7] {
        stream.send(push(from, 8, &[route("c", 1)], &theirs)).await;
        let nack = refused(stream.answer().await);
        assert!(nack.resync && nack.revision == 8 && nack.faults.len() == 1, "{nack:?}");
        assert_eq!(proxy.served(), 1);

        stream.send(push(0, 1, &set, &set)).await;
        assert_eq!(stream.acknowledged().await, 1);
    }
    stream.send(push(0, 8, &theirs, &theirs)).await;
    assert_eq!(stream.acknowledged().await, 8);
    assert_eq!(proxy.until(|state| state.revision == 8).await.refused, None);
    proxy.stop().await;
}

#[tokio::test]
async fn when_even_everything_anew_is_wrong_the_stream_is_given_up() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    for _ in 0..2 {
        stream.send(push(0, 1, &[route("a", 1)], &[])).await;
        assert!(refused(stream.answer().await).resync);
    }
    stream.ended().await;
    let mut stream = plane.accept().await;
    assert_eq!(stream.hello().await.revision, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_refused_revision_names_every_fault_and_leaves_the_one_before() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let set = [route("a", 1)];
    stream.send(push(0, 1, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 1);
    let before = Arc::clone(&proxy.cell.load());

    let broken = |name: &str| Change {
        kind: Kind::Route.into(),
        name: name.to_owned(),
        resource: Some(bytes::Bytes::from_static(b"\xff\xff")),
    };
    let changes = [route("good", 1), broken("bad-1"), broken("bad-2")];
    let meant = [&set[..], &changes].concat();
    stream.send(push(1, 2, &changes, &meant)).await;
    let nack = refused(stream.answer().await);
    let names: Vec<_> = nack.faults.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!((nack.revision, nack.resync, names), (2, false, vec!["bad-1", "bad-2"]));
    assert!(Arc::ptr_eq(&before, &proxy.cell.load()), "the old one keeps serving");
    let state = proxy.until(|state| state.refused.is_some()).await;
    assert_eq!((state.revision, state.refused.map(|refused| refused.revision)), (1, Some(2)));

    // Nothing of the refused revision is left: the next one starts from the one before it.
    let next = [route("a", 2)];
    stream.send(push(1, 3, &next, &next)).await;
    assert_eq!(stream.acknowledged().await, 3);
    assert_eq!(proxy.until(|state| state.revision == 3).await.refused, None);
    proxy.stop().await;
}

#[tokio::test]
async fn another_store_replaces_everything() {
    let mut plane = Plane::start().await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let set = [route("a", 1)];
    stream.send(push(0, 9, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 9);
    let other = [route("b", 1)];
    stream.send(plane::push_of("another", 0, 2, &other, &other)).await;
    assert_eq!(stream.acknowledged().await, 2);
    let state = proxy.until(|state| state.revision == 2).await;
    assert_eq!(state.store_id, "another");
    proxy.stop().await;
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up_for_another() {
    let mut plane = Plane::start().await;
    let mut config = config(&plane.url, &[]);
    config.heartbeat = Duration::from_millis(100);
    let proxy = Proxy::start(config);
    let _silent_but_open = plane.accept().await;
    let _another = plane.accept().await;
    proxy.stop().await;
}

#[tokio::test]
async fn heartbeats_keep_a_stream_that_has_nothing_to_say() {
    let mut plane = Plane::start().await;
    let mut config = config(&plane.url, &[]);
    config.heartbeat = Duration::from_millis(500);
    let silence = config.silence();
    let proxy = Proxy::start(config);
    let mut stream = plane.accept().await;
    stream.hello().await;
    let begun = Instant::now();
    let mut received = 0;
    // Each of the proxy's heartbeats is answered with one, for longer than silence would be borne.
    while begun.elapsed() < silence.mul_f64(1.5) {
        assert!(matches!(stream.next().await, Some(Message::Heartbeat(_))));
        received += 1;
        stream.send(vec![plane::heartbeat()]).await;
    }
    assert!(received >= 3, "{received} heartbeats");
    assert!(proxy.status.get().connected);
    proxy.stop().await;
}

#[tokio::test]
async fn the_proxy_comes_back_after_its_control_plane_died_and_returned() {
    let mut plane = Plane::start().await;
    let address = plane.address;
    let proxy = Proxy::start(config(&plane.url, &[]));
    let mut stream = plane.accept().await;
    let set = [route("a", 1)];
    stream.send(push(0, 1, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 1);
    drop(stream);
    plane.kill();
    proxy.until(|state| !state.connected).await;
    assert_eq!(proxy.served(), 1, "nothing is needed of it to serve");

    let mut plane = Plane::start_at(address).await;
    let mut stream = plane.accept().await;
    assert_eq!(stream.hello().await.revision, 1);
    proxy.until(|state| state.connected).await;
    proxy.stop().await;
}

/// Runs a proxy that is sent two revisions at once and stops; the second is written at the end at the latest.
async fn fill(folder: &Path) {
    let mut plane = Plane::start().await;
    let proxy = Proxy::in_folder(&plane.url, folder);
    let mut stream = plane.accept().await;
    for revision in [1, 2] {
        let set = [route("a", u16::try_from(revision).expect("small"))];
        stream.send(push(revision - 1, revision, &set, &set)).await;
        assert_eq!(stream.acknowledged().await, revision);
    }
    proxy.stop().await;
}

/// Nothing listens there, and nothing else will.
fn nobody() -> (String, std::net::TcpListener) {
    // Bound and full: a listener without accept answers nobody's gRPC.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    (format!("http://{}", listener.local_addr().expect("bound")), listener)
}

#[tokio::test]
async fn without_a_control_plane_the_snapshot_on_disk_is_served() {
    let folder = tempfile::tempdir().expect("folder");
    fill(folder.path()).await;
    let (url, _listener) = nobody();
    let proxy = Proxy::in_folder(&url, folder.path());
    let state = proxy.until(|state| state.source.is_some()).await;
    assert_eq!((state.source, state.revision, state.connected), (Some(Source::Disk), 2, false));
    assert_eq!(proxy.served(), 2);
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_on_disk_is_told_to_the_control_plane_and_built_upon() {
    let folder = tempfile::tempdir().expect("folder");
    fill(folder.path()).await;
    let mut plane = Plane::start().await;
    let proxy = Proxy::in_folder(&plane.url, folder.path());
    let mut stream = plane.accept().await;
    let hello = stream.hello().await;
    assert_eq!((hello.revision, hello.store_id.as_str(), hello.checksum), (2, STORE, checksum(&[route("a", 2)])));
    let set = [route("a", 2), route("b", 1)];
    stream.send(push(2, 3, &[route("b", 1)], &set)).await;
    assert_eq!(stream.acknowledged().await, 3);
    proxy.stop().await;
}

#[tokio::test]
async fn a_damaged_snapshot_gives_way_to_the_previous_and_two_of_them_to_the_control_plane() {
    let folder = tempfile::tempdir().expect("folder");
    fill(folder.path()).await;
    // Both generations, in two runs: the first run may have written both revisions or the second only.
    fill(folder.path()).await;
    fs::write(folder.path().join("snapshot"), b"damaged").expect("writes");
    let (url, _listener) = nobody();
    let proxy = Proxy::in_folder(&url, folder.path());
    assert_eq!(proxy.until(|state| state.source.is_some()).await.source, Some(Source::Disk));
    proxy.stop().await;

    fs::write(folder.path().join("snapshot.previous"), b"damaged").expect("writes");
    let mut plane = Plane::start().await;
    let proxy = Proxy::in_folder(&plane.url, folder.path());
    let mut stream = plane.accept().await;
    assert_eq!(stream.hello().await.revision, 0);
    assert_eq!(proxy.status.get().source, None, "not ready");
    let set = [route("a", 3)];
    stream.send(push(0, 3, &set, &set)).await;
    assert_eq!(stream.acknowledged().await, 3);
    proxy.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_the_control_plane() {
    // Accepts (by its backlog), and never answers.
    let (url, _listener) = nobody();
    let proxy = Proxy::start(config(&url, &[]));
    let begun = Instant::now();
    proxy.stop().await;
    assert!(begun.elapsed() < link::CONNECT_TIMEOUT);
}
