//! The proxies: where each is found, how it is started.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    client, config,
    load::{Listener, Load},
    process::{self, Process},
    rustygate,
    tls::Identity,
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
    /// What they all show to clients over TLS.
    pub identity: Identity,
    /// Where configurations and output go.
    pub folder: PathBuf,
    /// Of the proxy under test.
    pub proxy_core: String,
    /// Of everything else.
    pub load_cores: String,
    /// The most that there will be.
    pub idle_connections: usize,
}

/// Where a proxy accepts clients.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "`Listener` says it")]
pub struct Addresses {
    pub http1: SocketAddr,
    pub h2c: SocketAddr,
    pub tls: SocketAddr,
    pub tls_tickets: SocketAddr,
    pub limit: SocketAddr,
    pub jwt: SocketAddr,
    pub plugins: SocketAddr,
}

impl Addresses {
    fn free() -> anyhow::Result<Self> {
        let [http1, h2c, tls, tls_tickets, limit, jwt, plugins] = process::free_addresses()?;
        Ok(Self { http1, h2c, tls, tls_tickets, limit, jwt, plugins })
    }

    /// That one.
    #[must_use]
    pub const fn of(&self, listener: Listener) -> SocketAddr {
        match listener {
            Listener::Http1 => self.http1,
            Listener::H2c => self.h2c,
            Listener::Tls => self.tls,
            Listener::TlsTickets => self.tls_tickets,
            Listener::Limit => self.limit,
            Listener::Jwt => self.jwt,
            Listener::Plugins => self.plugins,
        }
    }
}

/// A proxy that is installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Which.
    pub kind: Kind,
    /// What it says its version is.
    pub version: String,
    /// The program; the folder of them, of RustyGate.
    pub program: PathBuf,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Proxy {
    /// Which.
    pub kind: Kind,
    /// Where it accepts clients.
    pub listen: Addresses,
    /// What is measured.
    pub process: Process,
    /// Needed by it, not measured. Dropped, and so stopped, after it.
    pub beside: Option<Process>,
    /// Where its files are.
    folder: TempDir,
}

/// Finds a proxy.
///
/// # Errors
/// If it is there and cannot be run. Inside: why it is not there, and what to do.
pub fn find(kind: Kind) -> anyhow::Result<Result<Installed, String>> {
    let program = match kind {
        Kind::RustyGate | Kind::RustyGateLog => rustygate::find()?,
        Kind::Nginx => in_path("NGINX", "nginx"),
        Kind::Haproxy => in_path("HAPROXY", "haproxy"),
        Kind::Envoy => in_path("ENVOY", "envoy"),
        Kind::Caddy => in_path("CADDY", "caddy"),
        Kind::Relay => Ok(std::env::current_exe()?),
    };
    let program = match program {
        Ok(program) => program,
        Err(why) => return Ok(Err(why)),
    };
    let version = version_of(&program, kind).with_context(|| format!("cannot run {}", program.display()))?;
    Ok(Ok(Installed { kind, version, program }))
}

fn in_path(variable: &str, name: &str) -> Result<PathBuf, String> {
    process::find_program(variable, name).ok_or_else(|| format!("no {name} in PATH, and {variable} is not set"))
}

impl Proxy {
    /// Starts it; returns when it gives right answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn start(installed: &Installed, setting: &Setting) -> anyhow::Result<Self> {
        let Installed { kind, ref program, .. } = *installed;
        let folder = tempfile::tempdir_in(&setting.folder)?;
        let listen = Addresses::free()?;
        let command = match kind {
            Kind::RustyGate | Kind::RustyGateLog => {
                let planes = rustygate::start(kind, program, setting, &listen, folder.path()).await?;
                let beside = Some(planes.control_plane);
                let proxy = Self { kind, listen, process: planes.data_plane, beside, folder };
                return proxy.when_it_answers(setting).await;
            }
            Kind::Nginx => config::nginx(program, setting, &listen, folder.path())?,
            Kind::Haproxy => config::haproxy(program, setting, &listen, folder.path())?,
            Kind::Envoy => config::envoy(program, setting, &listen, folder.path())?,
            Kind::Caddy => config::caddy(program, setting, &listen, folder.path())?,
            Kind::Relay => {
                let mut command = Command::new(program);
                let (listen, backend) = (listen.http1.to_string(), setting.backend.to_string());
                command.args(["relay", "--listen", &listen, "--upstream", &backend]);
                command
            }
        };
        let output = folder.path().join("output");
        let mut process = Process::start(kind.title(), &command, &setting.proxy_core, &output)?;
        process.wait_until_open(listen.http1).await?;
        Self { kind, listen, process, beside: None, folder }.when_it_answers(setting).await
    }

    /// A proxy that listens need not have its configuration yet.
    async fn when_it_answers(self, setting: &Setting) -> anyhow::Result<Self> {
        let deadline = Instant::now() + ANSWER_MAX;
        for load in [Load::Small, Load::Tls, Load::TlsResume].into_iter().filter(|load| load.is_for(self.kind)) {
            let plan = client::Plan {
                target: self.listen.of(load.spec().listener),
                certificate: setting.identity.certificate.clone(),
                load,
                requests: 2,
                connections: 1,
                time_max: Duration::from_secs(5),
            };
            while let Some(error) = client::run(&plan).await?.first_error {
                if Instant::now() >= deadline {
                    let (name, printed) = (load.spec().name, self.process.last_output());
                    bail!("{} gives no right answer to {name}: {error}: {printed}", self.kind.title());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(self)
    }

    /// Its folder, for whoever has something to write.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The number in the first line that the program says about its version.
fn version_of(program: &Path, kind: Kind) -> anyhow::Result<String> {
    let argument = match kind {
        Kind::Nginx | Kind::Haproxy => "-v",
        Kind::Caddy => "version",
        Kind::Envoy => "--version",
        Kind::RustyGate | Kind::RustyGateLog => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
        Kind::Relay => return Ok(String::new()),
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
