//! The proxies: where each is found, and the configuration that makes the comparison fair.
//!
//! One worker; kept-alive HTTP/1.1 connections to the upstream, in a pool that never runs short; no access log; no compression;
//! each tells the upstream the client's address and scheme. Whatever a proxy does by default beyond that, it does.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use tokio::time::Instant;

use super::{
    client,
    load::Load,
    process::{self, Process},
    rustygate,
};

/// How long a proxy that listens may take to give its first right answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// RustyGate, metrics on, access log off.
    #[value(name = "rustygate")]
    RustyGate,
    /// RustyGate, metrics and JSON access log on.
    #[value(name = "rustygate-log")]
    RustyGateLog,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Caddy.
    Caddy,
    /// The [`relay`](super::relay).
    Relay,
}

impl Kind {
    /// All, in the order of the report.
    pub const ALL: [Self; 7] =
        [Self::RustyGate, Self::RustyGateLog, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Caddy, Self::Relay];

    /// For people and for JSON.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::RustyGate => "RustyGate",
            Self::RustyGateLog => "RustyGate, access log on",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Caddy => "Caddy",
            Self::Relay => "TCP relay (no HTTP)",
        }
    }
}

/// What the proxies share.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of the upstream.
    pub backend: SocketAddr,
    /// Where configurations and output go.
    pub folder: PathBuf,
    /// Of the proxy under test.
    pub proxy_core: String,
    /// Of everything else.
    pub load_cores: String,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    /// Which.
    pub kind: Kind,
    /// What it says its version is.
    pub version: String,
    /// Where it accepts clients.
    pub address: SocketAddr,
    /// What is measured.
    pub process: Process,
}

impl Proxy {
    /// A proxy that listens need not have its configuration yet.
    async fn wait_until_it_answers(&self) -> anyhow::Result<()> {
        let plan = client::Plan {
            target: self.address,
            load: Load::Small,
            requests: 1,
            connections: 1,
            time_max: Duration::from_secs(5),
        };
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let outcome = client::run(&plan).await?;
            let Some(error) = outcome.first_error else { return Ok(()) };
            if Instant::now() >= deadline {
                bail!("{} gives no right answer: {error}: {}", self.kind.title(), self.process.last_output());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Why a proxy is not among those compared.
#[derive(Debug)]
pub struct Missing {
    /// Which.
    pub kind: Kind,
    /// What is not there.
    pub why: String,
}

/// Every proxy that could be started, and every one that is not installed.
#[derive(Debug, Default)]
pub struct Field {
    /// In the order asked for.
    pub proxies: Vec<Proxy>,
    /// In the order asked for.
    pub missing: Vec<Missing>,
    /// Needed by some proxy, not measured. Dropped, and so stopped, after the proxies.
    pub beside: Vec<Process>,
}

impl Field {
    /// Starts the proxies.
    ///
    /// # Errors
    /// If one is installed and does not serve.
    pub async fn start(kinds: &[Kind], setting: &Setting) -> anyhow::Result<Self> {
        let mut field = Self::default();
        for &kind in kinds {
            match kind {
                Kind::RustyGate | Kind::RustyGateLog => {}
                Kind::Nginx => field.start_peer(kind, "NGINX", "nginx", nginx, setting).await?,
                Kind::Haproxy => field.start_peer(kind, "HAPROXY", "haproxy", haproxy, setting).await?,
                Kind::Envoy => field.start_peer(kind, "ENVOY", "envoy", envoy, setting).await?,
                Kind::Caddy => field.start_peer(kind, "CADDY", "caddy", caddy, setting).await?,
                Kind::Relay => field.start_relay(setting).await?,
            }
        }
        let ours: Vec<_> =
            kinds.iter().copied().filter(|kind| matches!(kind, Kind::RustyGate | Kind::RustyGateLog)).collect();
        if !ours.is_empty() {
            rustygate::start(&ours, setting, &mut field).await?;
        }
        field.proxies.sort_by_key(|proxy| proxy.kind);
        for proxy in &field.proxies {
            proxy.wait_until_it_answers().await?;
        }
        Ok(field)
    }

    async fn start_peer(
        &mut self,
        kind: Kind,
        variable: &str,
        name: &str,
        prepare: fn(&Path, SocketAddr, &Setting, &Path) -> anyhow::Result<Command>,
        setting: &Setting,
    ) -> anyhow::Result<()> {
        let Some(program) = process::find_program(variable, name) else {
            self.missing.push(Missing { kind, why: format!("no {name} in PATH, and {variable} is not set") });
            return Ok(());
        };
        let address = process::free_address()?;
        let folder = setting.folder.join(name);
        fs::create_dir_all(&folder)?;
        let command = prepare(&program, address, setting, &folder)?;
        let version = version_of(&program, kind).with_context(|| format!("cannot run {}", program.display()))?;
        let mut process = Process::start(name, &command, &setting.proxy_core, &folder.join("output"))?;
        process.wait_until_open(address).await?;
        self.proxies.push(Proxy { kind, version, address, process });
        Ok(())
    }

    async fn start_relay(&mut self, setting: &Setting) -> anyhow::Result<()> {
        let address = process::free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["relay", "--listen", &address.to_string(), "--upstream", &setting.backend.to_string()]);
        let mut process = Process::start("relay", &command, &setting.proxy_core, &setting.folder.join("relay.output"))?;
        process.wait_until_open(address).await?;
        self.proxies.push(Proxy { kind: Kind::Relay, version: String::new(), address, process });
        Ok(())
    }
}

/// The number in the first line that the program says about its version.
fn version_of(program: &Path, kind: Kind) -> anyhow::Result<String> {
    let argument = match kind {
        Kind::Nginx | Kind::Haproxy => "-v",
        Kind::Caddy => "version",
        Kind::RustyGate | Kind::RustyGateLog | Kind::Envoy | Kind::Relay => "--version",
    };
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    version_in(&String::from_utf8_lossy(&text)).ok_or_else(|| anyhow!("it does not tell its version"))
}

fn version_in(text: &str) -> Option<String> {
    // "nginx version: nginx/1.22.1", "HAProxy version 2.6.12-1 2026/10/17", "v2.11.7 h1:...=", "HASH/1.40.0/Clean/..."
    let is_version = |part: &&str| part.contains('.') && part.split('.').all(|number| number.parse::<u32>().is_ok());
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .map(|part| part.trim_start_matches('v'))
        .find(is_version)
        .map(ToOwned::to_owned)
}

fn nginx(program: &Path, address: SocketAddr, setting: &Setting, folder: &Path) -> anyhow::Result<Command> {
    let (folder_name, backend) = (folder.display(), setting.backend);
    // Bodies stay in memory: by default a body of 16 KiB and a long answer to a slow client go through files.
    let text = format!(
        "\
worker_processes 1;
daemon off;
pid {folder_name}/pid;
error_log stderr crit;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder_name}/body;
    proxy_temp_path {folder_name}/proxy;
    fastcgi_temp_path {folder_name}/fastcgi;
    uwsgi_temp_path {folder_name}/uwsgi;
    scgi_temp_path {folder_name}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_buffer_size 64k;
    proxy_max_temp_file_size 0;
    upstream bench {{
        server {backend};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"
    );
    let file = write(folder, "nginx.conf", &text)?;
    let mut command = Command::new(program);
    command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c").arg(file);
    Ok(command)
}

fn haproxy(program: &Path, address: SocketAddr, setting: &Setting, folder: &Path) -> anyhow::Result<Command> {
    let backend = setting.backend;
    let text = format!(
        "\
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    http-reuse always
    option forwardfor
frontend bench
    bind {address}
    http-request set-header X-Forwarded-Proto http
    default_backend bench
backend bench
    server one {backend}
"
    );
    let file = write(folder, "haproxy.cfg", &text)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn envoy(program: &Path, address: SocketAddr, setting: &Setting, folder: &Path) -> anyhow::Result<Command> {
    let socket = |address: SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!("{{socket_address: {{address: \"{ip}\", port_value: {port}}}}}")
    };
    let (listen, backend) = (socket(address), socket(setting.backend));
    // Request ids are off because no other proxy here makes any; statistics are on as by default.
    let text = format!(
        "\
static_resources:
  listeners:
  - name: bench
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          codec_type: HTTP1
          use_remote_address: true
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: bench
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: bench}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: bench
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}
    load_assignment:
      cluster_name: bench
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {backend}}}
"
    );
    let file = write(folder, "envoy.yaml", &text)?;
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
    Ok(command)
}

fn caddy(program: &Path, address: SocketAddr, setting: &Setting, folder: &Path) -> anyhow::Result<Command> {
    let (ip, port, backend) = (address.ip(), address.port(), setting.backend);
    let text = format!(
        "\
{{
    admin off
    auto_https off
    persist_config off
    log {{
        level ERROR
    }}
}}
http://:{port} {{
    bind {ip}
    reverse_proxy {backend} {{
        transport http {{
            compression off
            keepalive 600s
            keepalive_idle_conns 1024
            keepalive_idle_conns_per_host 1024
        }}
    }}
}}
"
    );
    let file = write(folder, "Caddyfile", &text)?;
    let mut command = Command::new(program);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("GOMAXPROCS", "1").env("HOME", folder).env("XDG_CONFIG_HOME", folder).env("XDG_DATA_HOME", folder);
    Ok(command)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_tell_a_version_is_understood() {
        for (text, version) in [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12"),
            ("v2.11.7 h1:yj0Y4fYZGPkSvibBJ1sTWE33xC0fxztVyXEW5iIdUT4=", "2.11.7"),
            ("\nenvoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("rustygate-data-plane 0.1.0", "0.1.0"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("no version here"), None);
    }
}
