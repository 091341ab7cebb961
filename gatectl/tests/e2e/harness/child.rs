//! A plane in a process of its own, for what a thread cannot show: its memory, `kill -9`, signals and exit codes.
//!
//! The process is this very test binary, told by an environment variable to be a plane: so it is always as new as the
//! test, whichever package was built.

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use clap::{Args, Parser};
use rustygate_control_plane as control_plane;
use rustygate_data_plane as data_plane;

use super::within;

/// Says which plane to be, and with which flags, one a line.
const PLANE: &str = "E2E_PLANE";

/// A running plane; killed when it is dropped.
pub struct Child {
    process: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts a data plane; its log is "NAME.log" in the folder.
    pub fn data_plane(folder: &Path, name: &str, flags: &[&str]) -> Self {
        Self::start("data", folder, name, flags, &[])
    }

    /// Starts a control plane.
    pub fn control_plane(folder: &Path, name: &str, flags: &[&str]) -> Self {
        Self::start("control", folder, name, flags, &[])
    }

    /// The same with variables in its environment.
    pub fn control_plane_with_env(folder: &Path, name: &str, flags: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start("control", folder, name, flags, env)
    }

    fn start(kind: &str, folder: &Path, name: &str, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("RUSTYGATE_") {
                command.env_remove(variable);
            }
        }
        command
            .args(["harness::child::is_the_plane_that_another_test_started", "--exact", "--nocapture"])
            .envs(env.iter().copied())
            .env(PLANE, [&[kind], flags].concat().join("\n"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file);
        Self { process: command.spawn().expect("a process"), log }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How long its threads of that name were on a CPU so far, by name.
    pub fn cpu_times(&self, name: &str) -> BTreeMap<String, Duration> {
        let folder = format!("/proc/{}/task", self.process.id());
        let threads = std::fs::read_dir(folder).expect("a running process").filter_map(|thread| {
            let thread = thread.ok()?.path();
            let called = std::fs::read_to_string(thread.join("comm")).ok()?.trim().to_owned();
            let times = std::fs::read_to_string(thread.join("schedstat")).ok()?;
            let nanos = times.split(' ').next()?.parse().expect("nanoseconds");
            called.starts_with(name).then(|| (called, Duration::from_nanos(nanos)))
        });
        threads.collect()
    }

    /// How many entries one of its folders in /proc has: "fd" for open files, "task" for threads.
    pub fn count(&self, what: &str) -> usize {
        let folder = format!("/proc/{}/{what}", self.process.id());
        std::fs::read_dir(folder).expect("a running process").count()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill(&mut self) {
        self.process.kill().expect("a signal");
        self.process.wait().expect("an end");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().expect("a status").is_none()
    }

    /// Returns when it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the end of a plane", async {
            loop {
                if let Some(status) = self.process.try_wait().expect("a status") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of {}:\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
        }
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: nothing takes it by
/// chance before, or between two lives of, the one that it is for.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Relaxed)) % 12_000;
        let port = u16::try_from(20_000 + offset).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn parse<S: Args>(flags: &[&str]) -> S {
    #[derive(Parser)]
    struct Flags<S: Args> {
        #[command(flatten)]
        settings: S,
    }
    Flags::parse_from([&["plane"], flags].concat()).settings
}

async fn run_control_plane(settings: control_plane::settings::Settings) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals");
    let running = control_plane::app::start(settings).await.expect("the control plane starts");
    terminate.recv().await;
    running.shutdown().await;
}

/// Not a test of its own: see [`Child`].
#[test]
fn is_the_plane_that_another_test_started() {
    let Ok(lines) = std::env::var(PLANE) else { return };
    let lines: Vec<&str> = lines.lines().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match lines[0] {
        "data" => {
            let log = data_plane::telemetry::log::Log::init("info").expect("a log");
            let ended = runtime.block_on(data_plane::app::run(parse(&lines[1..]), Some(&log)));
            if let Err(error) = ended {
                panic!("{error}");
            }
        }
        _ => runtime.block_on(run_control_plane(parse(&lines[1..]))),
    }
}
