//! RustyGate as its users run it: a control plane, data planes that it feeds, the configuration applied with gatectl.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::{
    process::{self, Process},
    proxy::{Field, Kind, Missing, Proxy, Setting},
};

pub(crate) const CONTROL_PLANE: &str = "rustygate-control-plane";
pub(crate) const DATA_PLANE: &str = "rustygate-data-plane";
const GATECTL: &str = "gatectl";

/// Starts one control plane and a data plane of each kind, and adds them to the field.
///
/// # Errors
/// If the binaries are there and do not serve.
pub async fn start(kinds: &[Kind], setting: &Setting, field: &mut Field) -> anyhow::Result<()> {
    let Some(binaries) = folder_of_binaries()? else {
        let why = format!(
            "no {DATA_PLANE}, {CONTROL_PLANE} and {GATECTL} beside this program or in CARGO_TARGET_DIR/release: \
             run `cargo build --release --workspace`"
        );
        field.missing.extend(kinds.iter().map(|&kind| Missing { kind, why: why.clone() }));
        return Ok(());
    };
    let folder = setting.folder.join("rustygate");
    fs::create_dir_all(&folder)?;
    let grpc = start_control_plane(&binaries, setting, &folder, field).await?;
    let mut proxies = Vec::new();
    for &kind in kinds {
        proxies.push(start_data_plane(kind, &binaries, grpc, setting, &folder).await?);
    }
    apply(&binaries, grpc, setting, &folder)?;
    field.proxies.append(&mut proxies);
    Ok(())
}

/// The folder of this program, or the release folder of cargo's target directory.
pub(crate) fn folder_of_binaries() -> anyhow::Result<Option<PathBuf>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_owned);
    let built = std::env::var_os("CARGO_TARGET_DIR").map(|target| Path::new(&target).join("release"));
    let complete =
        |folder: &PathBuf| [CONTROL_PLANE, DATA_PLANE, GATECTL].iter().all(|name| folder.join(name).is_file());
    Ok(beside.into_iter().chain(built).find(complete))
}

async fn start_control_plane(
    binaries: &Path,
    setting: &Setting,
    folder: &Path,
    field: &mut Field,
) -> anyhow::Result<SocketAddr> {
    let grpc = process::free_address()?;
    let http = process::free_address()?;
    let mut command = Command::new(binaries.join(CONTROL_PLANE));
    command.arg("--database").arg(folder.join("config.db"));
    command.args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string()]);
    let output = folder.join("control-plane.output");
    let mut process = Process::start(CONTROL_PLANE, &command, &setting.load_cores, &output)?;
    process.wait_until_open(grpc).await?;
    field.beside.push(process);
    Ok(grpc)
}

async fn start_data_plane(
    kind: Kind,
    binaries: &Path,
    grpc: SocketAddr,
    setting: &Setting,
    folder: &Path,
) -> anyhow::Result<Proxy> {
    let (name, access_log) = if kind == Kind::RustyGateLog { ("logging", "stdout") } else { ("silent", "off") };
    let address = process::free_address()?;
    let admin = process::free_address()?;
    let mut command = Command::new(binaries.join(DATA_PLANE));
    command.args(["--control-plane", &format!("http://{grpc}"), "--node-id", name]);
    command.args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()]);
    command.args(["--workers", "1", "--access-log", access_log]);
    let output = folder.join(format!("{name}.output"));
    let mut process = Process::start(DATA_PLANE, &command, &setting.proxy_core, &output)?;
    process.wait_until_open(admin).await?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Proxy { kind, version, address, process })
}

fn apply(binaries: &Path, grpc: SocketAddr, setting: &Setting, folder: &Path) -> anyhow::Result<()> {
    let backend = setting.backend;
    let manifest = folder.join("bench.yaml");
    fs::write(&manifest, format!("routes:\n  - {{name: bench, path: /, backend: \"http://{backend}\"}}\n"))?;
    let output = Command::new(binaries.join(GATECTL))
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
