//! The gateway of a test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser};
use rustygate_control_plane as control_plane;
use rustygate_data_plane as data_plane;
use rustygate_proto::v1::{
    self as wire, config_service_client::ConfigServiceClient, fleet_service_client::FleetServiceClient,
    wait_response::Outcome,
};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig},
};

use super::{
    Child, Client, Output, free_port,
    plane::{ControlPlane, Proxy},
    process, within,
};

const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Few, so that many gateways fit a machine; more than one, so that workers meet.
const WORKERS: u16 = 2;

const WAIT_MS: u64 = 10_000;

const CERTIFICATE: &str = "cert.pem";

/// Puts a token on calls.
#[derive(Clone)]
pub struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = format!("Bearer {token}").parse().expect("a token");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// What a plane runs with when nobody says anything.
fn defaults<S: Args>() -> S {
    #[derive(Parser)]
    struct Flags<S: Args> {
        #[command(flatten)]
        settings: S,
    }
    Flags::parse_from(["test"]).settings
}

type Adjust = Box<dyn Fn(&mut data_plane::settings::Settings)>;

/// How a gateway is to be.
pub struct Builder {
    manifest: Option<String>,
    proxies: usize,
    secure: bool,
    adjust: Adjust,
}

impl Builder {
    /// What it serves from the start.
    pub fn manifest(mut self, yaml: &str) -> Self {
        self.manifest = Some(yaml.to_owned());
        self
    }

    /// How many proxies; one by default.
    pub fn proxies(mut self, proxies: usize) -> Self {
        self.proxies = proxies;
        self
    }

    /// The control plane has TLS and wants tokens; harness and proxies have theirs, in "admin.token" and "proxy.token"
    /// of the folder, beside "cert.pem". `Gateway::gatectl` has none.
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// Changes the settings that each proxy starts with.
    pub fn proxy_settings(mut self, adjust: impl Fn(&mut data_plane::settings::Settings) + 'static) -> Self {
        self.adjust = Box::new(adjust);
        self
    }

    /// Starts it; returns when every proxy serves the manifest.
    pub async fn start(self) -> Gateway {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let control_plane_settings = control_plane::settings::Settings {
            database: folder.path().join("rustygate.db"),
            grpc_listen: FREE_PORT,
            http_listen: FREE_PORT,
            ..defaults()
        };
        let mut gateway = Gateway {
            folder,
            control_plane_settings,
            admin_token: None,
            control_plane: None,
            proxies: Vec::new(),
            adjust: self.adjust,
        };
        if self.secure {
            gateway.secure().await;
        }
        gateway.start_control_plane().await;
        if let Some(manifest) = &self.manifest {
            gateway.apply(manifest).await;
        }
        for index in 0..self.proxies {
            gateway.add_proxy(index).await;
        }
        gateway
    }
}

/// A running gateway.
pub struct Gateway {
    folder: TempDir,
    control_plane_settings: control_plane::settings::Settings,
    admin_token: Option<String>,
    control_plane: Option<ControlPlane>,
    proxies: Vec<Member>,
    adjust: Adjust,
}

struct Member {
    settings: data_plane::settings::Settings,
    proxy: Option<Proxy>,
    listeners: Vec<(String, SocketAddr)>,
}

impl Gateway {
    /// One proxy, no manifest.
    pub fn builder() -> Builder {
        Builder { manifest: None, proxies: 1, secure: false, adjust: Box::new(|_| {}) }
    }

    /// A folder for files of the test; gatectl runs in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    }

    /// Where the first proxy listens.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy_addr_of(0)
    }

    /// Where a proxy's first listener is.
    pub fn proxy_addr_of(&self, index: usize) -> SocketAddr {
        self.proxies[index].listeners.first().expect("a listener").1
    }

    /// What a proxy is bound to now, by name.
    pub async fn listeners(&self, index: usize) -> Vec<(String, SocketAddr)> {
        self.proxy(index).listeners().await
    }

    /// Where a proxy's /metrics, /healthz and /readyz are.
    pub fn admin_addr(&self, index: usize) -> SocketAddr {
        self.proxy(index).admin
    }

    /// Where the control plane's HTTP is.
    pub fn control_plane_http_addr(&self) -> SocketAddr {
        self.control_plane.as_ref().expect("the control plane runs").http
    }

    /// Where the control plane's gRPC is, whether it runs or not.
    pub fn control_plane_url(&self) -> String {
        let scheme = if self.is_secure() { "https" } else { "http" };
        format!("{scheme}://{}", self.control_plane_settings.grpc_listen)
    }

    /// A connection to the control plane.
    pub async fn channel(&self) -> Channel {
        let mut endpoint = Channel::from_shared(self.control_plane_url()).expect("a URL");
        if self.is_secure() {
            let pem = std::fs::read(self.folder().join(CERTIFICATE)).expect("reads");
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint = endpoint.tls_config(tls).expect("a certificate");
        }
        within("a connection to the control plane", endpoint.connect()).await.expect("the control plane accepts")
    }

    /// A client of the configuration.
    pub async fn config(&self) -> ConfigServiceClient<InterceptedService<Channel, Bearer>> {
        let channel = self.channel().await;
        ConfigServiceClient::with_interceptor(channel, self.bearer()).max_decoding_message_size(64 << 20)
    }

    /// A client of the fleet.
    pub async fn fleet(&self) -> FleetServiceClient<InterceptedService<Channel, Bearer>> {
        FleetServiceClient::with_interceptor(self.channel().await, self.bearer())
    }

    /// Puts the harness's token on calls, if it has one.
    pub fn bearer(&self) -> Bearer {
        Bearer(self.admin_token.clone())
    }

    fn is_secure(&self) -> bool {
        self.control_plane_settings.tls_cert.is_some()
    }

    async fn secure(&mut self) {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        self.control_plane_settings.tls_cert = Some(self.write(CERTIFICATE, &made.cert.pem()));
        self.control_plane_settings.tls_key = Some(self.write("key.pem", &made.signing_key.serialize_pem()));
        self.control_plane_settings.require_tokens = true;
        for (role, name) in [(wire::Role::Admin, "admin"), (wire::Role::Proxy, "proxy")] {
            let database = &self.control_plane_settings.database;
            let token = control_plane::auth::create_offline(database, name, role).await.expect("a token");
            self.write(&format!("{name}.token"), &token);
            if role == wire::Role::Admin {
                self.admin_token = Some(token);
            }
        }
    }

    /// Applies; returns the revision when every connected proxy serves it.
    pub async fn apply(&mut self, yaml: &str) -> u64 {
        match self.try_apply(yaml).await {
            Ok(revision) => {
                self.served(revision).await;
                revision
            }
            Err(faults) => panic!("faults: {faults:#?}"),
        }
    }

    /// Applies with prune: afterwards there is what the YAML says, and nothing else that was applied by this harness.
    pub async fn replace(&mut self, yaml: &str) -> u64 {
        let response = self.send(yaml, true).await;
        assert!(response.faults.is_empty(), "faults: {:#?}", response.faults);
        self.served(response.revision).await;
        response.revision
    }

    /// Applies and does not wait.
    pub async fn try_apply(&self, yaml: &str) -> Result<u64, Vec<wire::Fault>> {
        let response = self.send(yaml, false).await;
        if response.faults.is_empty() { Ok(response.revision) } else { Err(response.faults) }
    }

    async fn send(&self, yaml: &str, prune: bool) -> wire::ApplyResponse {
        let document = wire::Document { file: "test.yaml".to_owned(), yaml: yaml.to_owned() };
        let options = wire::ChangeOptions { author: "harness".to_owned(), ..wire::ChangeOptions::default() };
        let request = wire::ApplyRequest {
            documents: vec![document],
            options: Some(options),
            owner: String::new(),
            prune,
            contents: Vec::new(),
        };
        let response = within("apply", async { self.config().await.apply(request).await }).await;
        response.expect("the control plane answers").into_inner()
    }

    /// Returns when every connected proxy serves the revision.
    pub async fn served(&mut self, revision: u64) {
        let request = wire::WaitRequest { revision, timeout_ms: WAIT_MS };
        let response = within("wait", async { self.fleet().await.wait(request).await }).await;
        let response = response.expect("the control plane answers").into_inner();
        assert_eq!(response.outcome(), Outcome::Serving, "{:#?}", response.proxies);
        for member in &mut self.proxies {
            if let Some(proxy) = &member.proxy {
                member.listeners = proxy.listeners().await;
            }
        }
    }

    /// Starts one more proxy, and returns when it serves.
    pub async fn add_proxy(&mut self, index: usize) {
        let mut settings = data_plane::settings::Settings {
            control_plane: self.control_plane_url(),
            token_file: self.is_secure().then(|| self.folder().join("proxy.token")),
            control_plane_ca: self.is_secure().then(|| self.folder().join(CERTIFICATE)),
            data_dir: Some(self.folder().join(format!("proxy-{index}"))),
            node_id: Some(format!("proxy-{index}")),
            listen: FREE_PORT,
            admin_listen: FREE_PORT,
            workers: Some(WORKERS),
            access_log: data_plane::settings::AccessLogTarget::Off,
            ..defaults()
        };
        (self.adjust)(&mut settings);
        self.proxies.push(Member { settings, proxy: None, listeners: Vec::new() });
        self.start_proxy(self.proxies.len() - 1).await;
    }

    /// Starts a proxy that was stopped, on the same ports, and returns when it serves.
    pub async fn start_proxy(&mut self, index: usize) {
        let member = &mut self.proxies[index];
        let proxy = Proxy::start(member.settings.clone()).await;
        proxy.ready().await;
        member.listeners = proxy.listeners().await;
        if let Some((_, address)) = member.listeners.iter().find(|(name, _)| name == "default") {
            member.settings.listen = *address;
        }
        member.proxy = Some(proxy);
    }

    /// Ends a proxy without a chance to say goodbye.
    pub async fn kill_proxy(&mut self, index: usize) {
        self.proxies[index].proxy.take().expect("the proxy runs").kill().await;
    }

    /// Ends a proxy in order.
    pub async fn drain_proxy(&mut self, index: usize) {
        self.proxies[index].proxy.take().expect("the proxy runs").drain().await;
    }

    /// Kills a proxy and starts it again.
    pub async fn restart_proxy(&mut self, index: usize) {
        self.kill_proxy(index).await;
        self.start_proxy(index).await;
    }

    /// Starts the control plane, on the ports that it had before.
    pub async fn start_control_plane(&mut self) {
        let control_plane = ControlPlane::start(self.control_plane_settings.clone()).await;
        self.control_plane_settings.grpc_listen = control_plane.grpc;
        self.control_plane_settings.http_listen = control_plane.http;
        self.control_plane = Some(control_plane);
    }

    /// Ends the control plane without a chance to say goodbye.
    pub async fn kill_control_plane(&mut self) {
        self.control_plane.take().expect("the control plane runs").kill().await;
    }

    /// Ends the control plane and starts it again.
    pub async fn restart_control_plane(&mut self) {
        self.control_plane.take().expect("the control plane runs").drain().await;
        self.start_control_plane().await;
    }

    /// The text of a proxy's /metrics.
    pub async fn metrics(&self, index: usize) -> String {
        let response = Client::connect(self.admin_addr(index)).await.get("/metrics").await;
        assert_eq!(response.status, 200);
        response.text()
    }

    /// Runs the real `gatectl` against this control plane.
    pub async fn gatectl(&self, args: &[&str]) -> Output {
        self.gatectl_with(args, "").await
    }

    /// The same, with something on stdin.
    pub async fn gatectl_with(&self, args: &[&str], stdin: &str) -> Output {
        process::gatectl(self.folder(), &[&["-c", &self.control_plane_url()], args].concat(), stdin).await
    }

    /// A further proxy, as a process of its own with so many workers, that serves what was applied: it, and where it is
    /// unless the configuration says so.
    pub async fn child(&self, workers: usize) -> (Child, SocketAddr) {
        let (listen, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let (control_plane, workers) = (self.control_plane_url(), workers.to_string());
        let flags = [
            ["--control-plane", &control_plane],
            ["--listen", &listen],
            ["--admin-listen", &admin],
            ["--workers", &workers],
            ["--access-log", "off"],
        ];
        let proxy = Child::data_plane(self.folder(), "child", &flags.concat());
        within("a snapshot", async {
            while !proxy.log().contains("serving a new snapshot") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        (proxy, listen.parse().expect("an address"))
    }

    /// Ends everything in order.
    pub async fn shutdown(mut self) {
        for member in &mut self.proxies {
            if let Some(proxy) = member.proxy.take() {
                proxy.drain().await;
            }
        }
        if let Some(control_plane) = self.control_plane.take() {
            control_plane.drain().await;
        }
    }

    fn proxy(&self, index: usize) -> &Proxy {
        self.proxies[index].proxy.as_ref().expect("the proxy runs")
    }
}

/// How often clients ran into a bound.
pub async fn hits(gateway: &Gateway, limit: &str) -> u64 {
    let begin = format!("rustygate_limit_hits_total{{limit=\"{limit}\"}} ");
    let metrics = gateway.metrics(0).await;
    metrics.lines().find_map(|line| line.strip_prefix(&begin)).expect("a counter").parse().expect("a number")
}
