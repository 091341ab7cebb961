//! The processes: a control plane, a proxy that keeps its snapshot on disk, a backend.

use std::{fmt::Write as _, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use rustygate_proto::v1::{
    self as wire, config_service_client::ConfigServiceClient, fleet_service_client::FleetServiceClient,
    wait_response::Outcome,
};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::Instant};
use tonic::transport::{Channel, Endpoint};

use super::{Plan, load, place};
use crate::peers::{
    process::{Process, free_addresses},
    rustygate::{CONTROL_PLANE, DATA_PLANE, folder_of_binaries},
};

/// Every route leads to the first until it is changed; both are the same server.
pub const BACKENDS: [&str; 2] = ["before", "after"];

/// Of one message, either way: the first apply holds everything.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long the proxy may take to serve a revision.
const WAIT_MS: u64 = 60_000;

/// Everything that runs beside this process; stopped when it is dropped.
#[derive(Debug)]
pub struct Planes {
    /// Where the proxy accepts clients.
    pub proxy: SocketAddr,
    /// Where the backend does.
    pub backend: SocketAddr,
    config: ConfigServiceClient<Channel>,
    fleet: FleetServiceClient<Channel>,
    data_plane: Process,
    control_plane: Process,
    _backend: Process,
    _folder: TempDir,
}

/// Resident memory at the end, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Of the proxy.
    pub proxy: u64,
    /// Of the control plane.
    pub control_plane: u64,
}

impl Planes {
    /// Starts them; there is no configuration yet.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let Some(binaries) = folder_of_binaries()? else {
            bail!("no {DATA_PLANE} and {CONTROL_PLANE} beside this program: run `cargo build --release --workspace`");
        };
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let [backend, grpc, http, proxy, admin] = free_addresses()?;

        let mut command = Command::new(std::env::current_exe()?);
        command.args(["backend", "--listen", &backend.to_string()]);
        let mut serving = Process::start("backend", &command, &plan.load_cores, &at("backend.output"))?;
        serving.wait_until_open(backend).await?;

        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(binaries.join(CONTROL_PLANE)).arg("--database").arg(at("config.db"));
        command.args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string()]);
        let mut control_plane = Process::start(CONTROL_PLANE, &command, &plan.load_cores, &at("control-plane.output"))?;
        control_plane.wait_until_open(grpc).await?;

        let mut command = Command::new(binaries.join(DATA_PLANE));
        command.args(["--control-plane", &format!("http://{grpc}"), "--node-id", "bench"]);
        command.args(["--listen", &proxy.to_string(), "--admin-listen", &admin.to_string()]);
        command.args(["--workers", "1", "--access-log", "off"]).arg("--data-dir").arg(at("data"));
        let mut data_plane = Process::start(DATA_PLANE, &command, &plan.proxy_core, &at("data-plane.output"))?;
        data_plane.wait_until_open(admin).await?;

        let channel = Endpoint::from_shared(format!("http://{grpc}"))?.tcp_nodelay(true).connect().await?;
        let config = ConfigServiceClient::new(channel.clone())
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let fleet = FleetServiceClient::new(channel);
        wait_until_connected(&mut fleet.clone()).await?;
        Ok(Self { proxy, backend, config, fleet, data_plane, control_plane, _backend: serving, _folder: folder })
    }

    /// Applies a manifest that changes so many routes; returns when the proxy has acknowledged it.
    ///
    /// # Errors
    /// If it does not.
    pub async fn apply(&mut self, yaml: &str, routes: usize) -> anyhow::Result<Duration> {
        let documents = vec![wire::Document { file: "bench.yaml".to_owned(), yaml: yaml.to_owned() }];
        let request = wire::ApplyRequest { documents, ..Default::default() };
        let begun = Instant::now();
        let applied = self.config.apply(request).await?.into_inner();
        ensure!(applied.faults.is_empty(), "refused: {:?}", applied.faults.first());
        let wait = wire::WaitRequest { revision: applied.revision, timeout_ms: WAIT_MS };
        let waited = self.fleet.wait(wait).await?.into_inner();
        let took = begun.elapsed();
        ensure!(waited.outcome() == Outcome::Serving && waited.proxies.len() == 1, "not served: {waited:?}");
        let changed = applied.diff.iter().filter(|diff| diff.kind() == wire::Kind::Route).count();
        ensure!(changed == routes, "{changed} routes changed instead of {routes}");
        Ok(took)
    }

    /// Leads one route to a backend; returns when the proxy has acknowledged it.
    ///
    /// # Errors
    /// If it does not.
    pub async fn change(&mut self, route: usize, backend: &str) -> anyhow::Result<Duration> {
        self.apply(&format!("routes:\n{}", route_yaml(route, backend)), 1).await
    }

    /// Asks the proxy where it leads a route to.
    ///
    /// # Errors
    /// If that is another backend.
    pub async fn assert_served(&self, route: usize, backend: &str) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.proxy).await?;
        let head = load::exchange(&mut stream, &load::request(route), &mut [0; 4 << 10]).await?;
        let expected = format!("x-rustygate-backend: {backend}\r\n");
        ensure!(head.to_lowercase().contains(&expected), "acknowledged, but not served: {head}");
        Ok(())
    }

    /// What they have resident now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory { proxy: self.data_plane.memory(), control_plane: self.control_plane.memory() }
    }
}

/// Moves this process, and so the load, away from the proxy.
///
/// # Errors
/// If taskset fails.
pub fn pin_this_process(cores: &str) -> anyhow::Result<()> {
    let pid = std::process::id().to_string();
    let output = Command::new("taskset").args(["-a", "-p", "-c", cores, &pid]).output();
    let output = output.context("cannot run taskset (is util-linux installed?)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// So many routes over a hundred hosts, all to the first backend.
#[must_use]
pub fn manifest(routes: usize, backend: SocketAddr) -> String {
    let mut yaml = String::from("backends:\n");
    for name in BACKENDS {
        let _ = writeln!(yaml, "  - {{name: {name}, endpoints: [{{url: \"http://{backend}\"}}]}}");
    }
    yaml += "routes:\n";
    for route in 0..routes {
        yaml += &route_yaml(route, BACKENDS[0]);
    }
    yaml
}

fn route_yaml(route: usize, backend: &str) -> String {
    let (host, path) = place(route);
    format!("  - {{name: route-{route}, hosts: [{host}], path: {path}, backend: {backend}}}\n")
}

async fn wait_until_connected(fleet: &mut FleetServiceClient<Channel>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(WAIT_MS);
    while fleet.list(wire::ListProxiesRequest::default()).await?.into_inner().proxies.is_empty() {
        ensure!(Instant::now() < deadline, "the proxy does not connect to the control plane");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
