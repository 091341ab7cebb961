//! A control plane in this process, clients for it, and a proxy that does what it is told.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use clap::Parser;
use rustygate_control_plane::{
    app::{self, Running, StartError},
    apply::Options,
    discovery::Timing,
    settings::Settings,
};
use rustygate_proto::{
    checksum::{Checksum, ContentHash},
    frames,
    v1::{
        self as wire, config_service_client::ConfigServiceClient, fleet_service_client::FleetServiceClient,
        snapshot_service_client::SnapshotServiceClient, stream_request, stream_response,
    },
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// No test waits longer for anything: what has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

/// Settings from flags, on ports that are free.
pub fn settings(folder: &TempDir, flags: &[&str]) -> Settings {
    let database = folder.path().join("rustygate.db");
    let database = database.to_str().unwrap();
    let fixed = ["x", "--database", database, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    Cli::parse_from([&fixed, flags].concat()).settings
}

pub struct Plane {
    pub running: Running,
    pub folder: TempDir,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(&[], Timing::default()).await
    }

    pub async fn start_with(flags: &[&str], timing: Timing) -> Self {
        let folder = TempDir::new().unwrap();
        Self::start_in(folder, flags, timing).await.unwrap()
    }

    pub async fn start_in(folder: TempDir, flags: &[&str], timing: Timing) -> Result<Self, StartError> {
        let running = app::start_with(settings(&folder, flags), timing).await?;
        Ok(Self { running, folder })
    }

    pub async fn stop(self) -> TempDir {
        timeout(PATIENCE, self.running.shutdown()).await.expect("stops");
        self.folder
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.running.grpc)).unwrap();
        // A small window, so that a proxy that does not read is noticed soon.
        endpoint.initial_stream_window_size(65_535).connect().await.unwrap()
    }

    pub async fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel().await)
    }

    pub async fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel().await)
    }

    pub async fn proxies(&self) -> Vec<wire::Proxy> {
        self.fleet().await.list(wire::ListProxiesRequest {}).await.unwrap().into_inner().proxies
    }

    /// Waits until the one proxy is as it should be.
    pub async fn proxy_until(&self, wanted: impl Fn(&wire::Proxy) -> bool) -> wire::Proxy {
        let look = async {
            loop {
                if let Some(proxy) = self.proxies().await.into_iter().find(&wanted) {
                    return proxy;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, look).await.expect("the proxy gets there")
    }

    /// Applies routes; returns the new head.
    pub async fn apply(&self, routes: &[(&str, u64)]) -> u64 {
        let resources = routes.iter().map(|(name, timeout_ms)| route(name, *timeout_ms)).collect();
        self.apply_resources(resources).await
    }

    pub async fn apply_resources(&self, resources: Vec<wire::Resource>) -> u64 {
        let applier = self.running.applier();
        let response = applier.apply_resources(resources, String::new(), false, Options::default()).await.unwrap();
        assert!(response.faults.is_empty(), "{:?}", response.faults);
        response.revision
    }
}

/// A valid route whose content is its timeout.
pub fn route(name: &str, timeout_ms: u64) -> wire::Resource {
    let rule = wire::Rule {
        matches: vec![wire::Match {
            path: Some(wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix(format!("/{name}"))) }),
            ..Default::default()
        }],
        backends: vec![wire::BackendRef {
            target: Some(wire::backend_ref::Target::Url("http://127.0.0.1:9".into())),
            ..Default::default()
        }],
        timeouts: Some(wire::Timeouts { total_ms: Some(timeout_ms), ..Default::default() }),
        ..Default::default()
    };
    let route = wire::Route { name: name.into(), rules: vec![rule], ..Default::default() };
    wire::Resource { kind: Some(wire::resource::Kind::Route(route)) }
}

/// What was pushed.
#[derive(Debug)]
pub struct Push {
    pub from: u64,
    pub to: u64,
    pub changes: Vec<wire::Change>,
}

impl Push {
    pub fn names(&self) -> Vec<&str> {
        self.changes.iter().map(|change| change.name.as_str()).collect()
    }
}

/// What a proxy keeps from one stream to the next.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub store_id: String,
    pub revision: u64,
    pub resources: BTreeMap<(i32, String), Bytes>,
}

impl Held {
    pub fn checksum(&self) -> Checksum {
        let mut checksum = Checksum::default();
        for ((kind, name), body) in &self.resources {
            checksum.add(&ContentHash::of(wire::Kind::try_from(*kind).unwrap(), name, body));
        }
        checksum
    }

    pub fn hello(&self, node_id: &str) -> wire::Hello {
        wire::Hello {
            node_id: node_id.into(),
            store_id: self.store_id.clone(),
            revision: self.revision,
            checksum: self.checksum().to_bytes().to_vec(),
            version: "test".into(),
            ..Default::default()
        }
    }
}

pub struct Proxy {
    say: mpsc::Sender<wire::StreamRequest>,
    pub frames: Streaming<wire::StreamResponse>,
    pub held: Held,
    pub heartbeats: u32,
}

impl Proxy {
    /// A proxy that has nothing.
    pub async fn connect(plane: &Plane, node_id: &str) -> Self {
        Self::connect_with(plane, node_id, Held::default()).await
    }

    /// A proxy that has something.
    pub async fn connect_with(plane: &Plane, node_id: &str, held: Held) -> Self {
        let hello = held.hello(node_id);
        let mut proxy = Self::open(plane).await.unwrap();
        proxy.held = held;
        proxy.say(stream_request::Message::Hello(hello)).await;
        proxy
    }

    /// A proxy that has nothing, of a control plane elsewhere.
    pub async fn connect_to(channel: Channel, node_id: &str) -> Result<Self, Status> {
        let proxy = Self::open_on(SnapshotServiceClient::new(channel)).await?;
        proxy.say(stream_request::Message::Hello(Held::default().hello(node_id))).await;
        Ok(proxy)
    }

    /// A stream on which nothing was said.
    pub async fn open(plane: &Plane) -> Result<Self, Status> {
        Self::open_on(SnapshotServiceClient::new(plane.channel().await)).await
    }

    async fn open_on(mut client: SnapshotServiceClient<Channel>) -> Result<Self, Status> {
        let (say, requests) = mpsc::channel(8);
        let frames = client.stream(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { say, frames, held: Held::default(), heartbeats: 0 })
    }

    pub async fn say(&self, message: stream_request::Message) {
        let _ = self.say.send(wire::StreamRequest { message: Some(message) }).await;
    }

    pub async fn heartbeat(&self) {
        self.say(stream_request::Message::Heartbeat(wire::Heartbeat {})).await;
    }

    pub async fn ack(&self, revision: u64) {
        self.say(stream_request::Message::Ack(wire::Ack { revision })).await;
    }

    pub async fn nack(&self, revision: u64, resync: bool) {
        let fault = wire::Fault { code: "RG0301".into(), message: "no".into(), ..Default::default() };
        self.say(stream_request::Message::Nack(wire::Nack { revision, resync, faults: vec![fault] })).await;
    }

    /// The next message but heartbeats, which are counted.
    pub async fn message(&mut self) -> Result<Option<stream_response::Message>, Status> {
        loop {
            let frame = timeout(PATIENCE, self.frames.message()).await.expect("the control plane says something")?;
            match frame.map(|frame| frame.message.expect("a message")) {
                Some(stream_response::Message::Heartbeat(_)) => self.heartbeats += 1,
                other => return Ok(other),
            }
        }
    }

    /// The next transaction, put into `held` and checked; not answered.
    pub async fn receive(&mut self) -> Push {
        let Some(stream_response::Message::Begin(begin)) = self.message().await.unwrap() else { panic!("no Begin") };
        let mut changes = Vec::new();
        let commit = loop {
            match self.message().await.unwrap() {
                Some(stream_response::Message::Chunk(chunk)) => changes.extend(frames::unpack(&chunk).unwrap()),
                Some(stream_response::Message::Commit(commit)) => break commit,
                other => panic!("{other:?} inside a transaction"),
            }
        };
        assert_eq!((changes.len() as u64, begin.to_revision), (begin.changes, commit.revision));
        if begin.from_revision == 0 {
            self.held.resources.clear();
        } else {
            assert_eq!(begin.from_revision, self.held.revision, "a delta from what is not held");
        }
        for change in &changes {
            let key = (change.kind, change.name.clone());
            match &change.resource {
                Some(body) => self.held.resources.insert(key, body.clone()),
                None => self.held.resources.remove(&key),
            };
        }
        self.held.store_id = begin.store_id;
        self.held.revision = begin.to_revision;
        assert_eq!(self.held.checksum().to_bytes().as_slice(), commit.checksum, "the set is what was committed");
        Push { from: begin.from_revision, to: begin.to_revision, changes }
    }

    /// The next transaction, served.
    pub async fn serve(&mut self) -> Push {
        let push = self.receive().await;
        self.ack(push.to).await;
        push
    }

    /// The next transaction, refused: what is held stays.
    pub async fn refuse(&mut self, resync: bool) -> Push {
        let before = self.held.clone();
        let push = self.receive().await;
        self.held = before;
        self.nack(push.to, resync).await;
        push
    }

    /// Why the stream ended.
    pub async fn end(&mut self) -> Status {
        loop {
            match self.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    }
}
