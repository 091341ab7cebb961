//! The planes, each in a process of its own, and who changes their configuration.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustygate_proto::v1::{
    self as wire, config_service_client::ConfigServiceClient, fleet_service_client::FleetServiceClient,
    wait_response::Outcome,
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tonic::transport::Channel;

use super::{course::Course, yaml::Shape};
use crate::harness::{Child, Client, free_port, within};

/// How often a configuration is applied.
const APPLY_INTERVAL: Duration = Duration::from_millis(50);

pub struct Rig {
    folder: TempDir,
    control_plane: Child,
    pub url: String,
    pub proxies: Vec<Proxy>,
}

pub struct Proxy {
    pub child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

impl Rig {
    /// Returns when every proxy serves configuration 1.
    pub async fn start(proxies: usize, shape: &Shape) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let grpc = local().to_string();
        let flags = ["--grpc-listen", &grpc, "--http-listen", "127.0.0.1:0"];
        let control_plane = Child::control_plane(folder.path(), "control-plane", &flags);
        let url = format!("http://{grpc}");
        let mut rig = Self { folder, control_plane, url, proxies: Vec::new() };
        let mut config = ConfigServiceClient::new(connect(&rig.url).await);
        apply(&mut config, shape.manifest(1)).await.expect("configuration 1 is valid");
        for index in 0..proxies {
            rig.start_proxy(index, shape).await;
        }
        rig
    }

    async fn start_proxy(&mut self, index: usize, shape: &Shape) {
        let (admin, own) = (local(), local());
        let listen = match (shape.listeners, &shape.secure) {
            (Some(listeners), _) => listeners.steady,
            (None, Some(secure)) => secure.plain,
            (None, None) => own,
        };
        let (name, data) = (format!("proxy-{index}"), format!("data-{index}"));
        let flags = [
            ["--control-plane", &self.url],
            ["--listen", &own.to_string()],
            ["--admin-listen", &admin.to_string()],
            ["--workers", "3"],
            ["--node-id", &name],
            ["--data-dir", &data],
            ["--access-log", "off"],
        ];
        let child = Child::data_plane(self.folder.path(), &name, &flags.concat());
        let proxy = Proxy { child, listen, admin };
        within("an admin port", async { while TcpStream::connect(admin).await.is_err() {} }).await;
        within("readiness", async { while Client::connect(admin).await.get("/readyz").await.status != 200 {} }).await;
        self.proxies.push(proxy);
    }

    /// What the processes are called, the control plane first.
    pub fn names(&self) -> Vec<String> {
        let proxies = (0..self.proxies.len()).map(|index| format!("proxy {index}"));
        ["control plane".to_owned()].into_iter().chain(proxies).collect()
    }

    /// The mean of the resident memory of each over that time, in KiB.
    pub async fn resident(&self, time: Duration) -> Vec<u64> {
        let end = Instant::now() + time;
        let mut sums = vec![0; self.proxies.len() + 1];
        let mut samples = 0;
        while Instant::now() < end || samples == 0 {
            let children = [&self.control_plane].into_iter().chain(self.proxies.iter().map(|proxy| &proxy.child));
            for (sum, child) in sums.iter_mut().zip(children) {
                *sum += child.resident_kib();
            }
            samples += 1;
            sleep(APPLY_INTERVAL).await;
        }
        sums.iter().map(|sum| sum / samples).collect()
    }

    /// Every proxy ends up with the last configuration, whatever it skipped, and none was ever cut off.
    pub async fn settled(&self, course: &Course) {
        for proxy in &self.proxies {
            let mut client = Client::connect(proxy.listen).await;
            client.send(b"GET /local HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(super::number(&mut client).await, course.sent(), "the last configuration is served");
            let metrics = Client::connect(proxy.admin).await.get("/metrics").await.text();
            for line in ["rustygate_config_connects_total 1\n", "rustygate_config_resyncs_total 0\n"] {
                assert!(metrics.contains(line), "{line} is not in {metrics}");
            }
        }
    }

    /// Ends every process in order.
    pub async fn end(mut self) {
        for proxy in &mut self.proxies {
            proxy.child.terminate();
            assert!(proxy.child.ended().await.success());
        }
        self.control_plane.terminate();
        assert!(self.control_plane.ended().await.success());
    }
}

/// Applies one configuration after another, and waits for nobody.
pub async fn apply_on_and_on(url: String, shape: Shape, course: Arc<Course>) {
    let mut config = ConfigServiceClient::new(connect(&url).await);
    let mut ticks = interval(APPLY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 2.. {
        ticks.tick().await;
        if course.is_over() {
            break;
        }
        course.sending(number);
        match apply(&mut config, shape.manifest(number)).await {
            Ok(revision) => drop(course.applied.send_replace((number, revision))),
            Err(why) => course.fault(format!("apply of configuration {number}: {why}")),
        }
    }
}

/// Learns what every proxy serves, until the last configuration is served.
pub async fn follow(url: String, course: Arc<Course>) {
    let mut fleet = FleetServiceClient::new(connect(&url).await);
    let mut applied = course.applied.subscribe();
    loop {
        let over = course.is_over();
        let (number, revision) = *applied.borrow_and_update();
        let wait = wire::WaitRequest { revision, timeout_ms: 10_000 };
        let response = fleet.wait(wait).await.expect("the control plane answers").into_inner();
        if response.outcome() == Outcome::Serving {
            course.serving(number);
        } else {
            course.fault(format!("configuration {number} is not served: {response:?}"));
        }
        if over && number == course.sent() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn apply(config: &mut ConfigServiceClient<Channel>, yaml: String) -> Result<u64, String> {
    let document = wire::Document { file: "torture.yaml".to_owned(), yaml };
    let request = wire::ApplyRequest {
        documents: vec![document],
        options: Some(wire::ChangeOptions { author: "torture".to_owned(), ..wire::ChangeOptions::default() }),
        owner: "torture".to_owned(),
        prune: true,
        ..wire::ApplyRequest::default()
    };
    match config.apply(request).await.map(tonic::Response::into_inner) {
        Ok(response) if response.faults.is_empty() => Ok(response.revision),
        Ok(response) => Err(format!("{:#?}", response.faults)),
        Err(status) => Err(status.to_string()),
    }
}

async fn connect(url: &str) -> Channel {
    let endpoint = Channel::from_shared(url.to_owned()).expect("a URL");
    within("the control plane", async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
