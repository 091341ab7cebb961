//! RustyGate as its users run it: a control plane, a data plane that it feeds, the configuration applied with gatectl.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::{
    config,
    process::{self, Process},
    proxy::{Addresses, Kind, Setting},
};

pub(crate) const CONTROL_PLANE: &str = "rustygate-control-plane";
pub(crate) const DATA_PLANE: &str = "rustygate-data-plane";
const GATECTL: &str = "gatectl";

/// Both planes.
#[derive(Debug)]
pub struct Planes {
    /// What is measured.
    pub data_plane: Process,
    /// What is not.
    pub control_plane: Process,
}

/// The folder of the binaries.
///
/// # Errors
/// If this program does not know where it is. Inside: what to do where they are not built.
pub fn find() -> anyhow::Result<Result<PathBuf, String>> {
    let why = || {
        format!(
            "no {DATA_PLANE}, {CONTROL_PLANE} and {GATECTL} beside this program or in CARGO_TARGET_DIR/release: \
             run `cargo build --release --workspace`"
        )
    };
    Ok(folder_of_binaries()?.ok_or_else(why))
}

/// The folder of this program, or the release folder of cargo's target directory.
pub(crate) fn folder_of_binaries() -> anyhow::Result<Option<PathBuf>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_owned);
    let built = std::env::var_os("CARGO_TARGET_DIR").map(|target| Path::new(&target).join("release"));
    let complete =
        |folder: &PathBuf| [CONTROL_PLANE, DATA_PLANE, GATECTL].iter().all(|name| folder.join(name).is_file());
    Ok(beside.into_iter().chain(built).find(complete))
}

/// Starts both planes and applies the configuration.
///
/// # Errors
/// If that fails.
pub async fn start(
    kind: Kind,
    binaries: &Path,
    setting: &Setting,
    listen: &Addresses,
    folder: &Path,
) -> anyhow::Result<Planes> {
    let [grpc, http, admin] = process::free_addresses()?;
    let mut command = Command::new(binaries.join(CONTROL_PLANE));
    command.arg("--database").arg(folder.join("config.db"));
    command.args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string()]);
    let output = folder.join("control-plane.output");
    let mut control_plane = Process::start(CONTROL_PLANE, &command, &setting.load_cores, &output)?;
    control_plane.wait_until_open(grpc).await?;

    let access_log = if kind == Kind::RustyGateLog { "stdout" } else { "off" };
    let mut command = Command::new(binaries.join(DATA_PLANE));
    command.args(["--control-plane", &format!("http://{grpc}"), "--node-id", "bench"]);
    command.args(["--admin-listen", &admin.to_string(), "--workers", "1", "--access-log", access_log]);
    command.args(["--keep-alive-timeout", "600"]);
    let output = folder.join("data-plane.output");
    let mut data_plane = Process::start(DATA_PLANE, &command, &setting.proxy_core, &output)?;
    data_plane.wait_until_open(admin).await?;

    apply(&binaries.join(GATECTL), grpc, &config::rustygate(setting, listen), folder)?;
    Ok(Planes { data_plane, control_plane })
}

fn apply(gatectl: &Path, grpc: SocketAddr, yaml: &str, folder: &Path) -> anyhow::Result<()> {
    let manifest = folder.join("bench.yaml");
    fs::write(&manifest, yaml)?;
    let output = Command::new(gatectl)
        .args(["-c", &format!("http://{grpc}"), "apply", "--wait", "-f"])
        .arg(&manifest)
        .stdin(Stdio::null())
        .output()
        .context("cannot run gatectl")?;
    if !output.status.success() {
        bail!("gatectl apply failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
