//! The order of things: every proxy, every load, every round, taking turns.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::Instant;

use super::{
    client::Outcome,
    load::Load,
    process::{self, Process},
    proxy::{Field, Kind, Missing, Proxy, Setting},
};

/// After which a run of one load is given up.
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which proxies.
    pub kinds: Vec<Kind>,
    /// Which loads.
    pub loads: Vec<Load>,
    /// How often all of it.
    pub rounds: usize,
    /// Requests of the small load; see [`Load::requests`].
    pub requests: u64,
    /// Connections at once.
    pub connections: usize,
    /// Of the proxy under test.
    pub proxy_core: String,
    /// Of the load generator and the upstream.
    pub load_cores: String,
}

/// One proxy under one load in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// CPU time of the proxy by request.
    pub cpu_us: f64,
    /// Right answers by second.
    pub requests_per_second: f64,
    /// Half of the answers took no longer.
    pub p50_us: f64,
    /// 99 of 100 answers took no longer.
    pub p99_us: f64,
    /// Peak of resident memory.
    pub memory_bytes: u64,
    /// Share of its core that the proxy used.
    pub proxy_busy: f64,
    /// Share of a core that the load generator and the upstream used.
    pub load_busy: f64,
    /// Share of a core that everything else on the machine used.
    pub others_busy: f64,
    /// Requests without a right answer.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Results {
    /// What was run; only the proxies that are installed.
    pub plan: Plan,
    /// Their versions.
    pub versions: BTreeMap<Kind, String>,
    /// What is not installed.
    pub missing: Vec<Missing>,
    /// By proxy and load, one a round.
    pub samples: BTreeMap<(Kind, Load), Vec<Sample>>,
}

/// Starts everything, measures, stops everything.
///
/// # Errors
/// If something that is installed does not start, or a measurement cannot be made.
pub async fn run(mut plan: Plan) -> anyhow::Result<Results> {
    let folder = tempfile::tempdir()?;
    let backend = process::free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["backend", "--listen", &backend.to_string()]);
    let mut upstream = Process::start("backend", &command, &plan.load_cores, &folder.path().join("backend.output"))?;
    upstream.wait_until_open(backend).await?;
    let setting = Setting {
        backend,
        folder: folder.path().to_owned(),
        proxy_core: plan.proxy_core.clone(),
        load_cores: plan.load_cores.clone(),
    };
    let field = Field::start(&plan.kinds, &setting).await?;
    for missing in &field.missing {
        eprintln!("skipped: {}: {}", missing.kind.title(), missing.why);
    }
    if field.proxies.is_empty() {
        bail!("none of the proxies is installed");
    }
    plan.kinds = field.proxies.iter().map(|proxy| proxy.kind).collect();

    let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for round in 0..plan.rounds {
        for (turn, &load) in plan.loads.iter().enumerate() {
            for index in 0..field.proxies.len() {
                let proxy = &field.proxies[(index + round + turn) % field.proxies.len()];
                let sample = measure(proxy, load, &plan, &upstream)
                    .await
                    .with_context(|| format!("{} under {}", proxy.kind.title(), load.name()))?;
                eprintln!(
                    "round {}/{}  {:<8} {:<25} {:>8.1} us/request{}",
                    round + 1,
                    plan.rounds,
                    load.name(),
                    proxy.kind.title(),
                    sample.cpu_us,
                    sample
                        .first_error
                        .as_ref()
                        .map(|error| format!("  {} errors: {error}", sample.errors))
                        .unwrap_or_default(),
                );
                samples.entry((proxy.kind, load)).or_default().push(sample);
            }
        }
    }
    let versions = field.proxies.iter().map(|proxy| (proxy.kind, proxy.version.clone())).collect();
    let Field { missing, .. } = field;
    Ok(Results { plan, versions, missing, samples })
}

async fn measure(proxy: &Proxy, load: Load, plan: &Plan, upstream: &Process) -> anyhow::Result<Sample> {
    let requests = load.requests(plan.requests);
    let warm_up = (requests / 10).max(plan.connections as u64);
    generate(proxy, load, warm_up, plan).await?;
    proxy.process.reset_peak_memory();
    let (started, machine_before) = (Instant::now(), process::machine_cpu()?);
    let (proxy_before, upstream_before) = (proxy.process.cpu()?, upstream.cpu()?);
    let outcome = generate(proxy, load, requests, plan).await?;
    let proxy_cpu = proxy.process.cpu()?.since(&proxy_before).as_secs_f64();
    let upstream_cpu = upstream.cpu()?.since(&upstream_before).as_secs_f64();
    let machine_cpu = process::machine_cpu()?.saturating_sub(machine_before).as_secs_f64();
    let others_cpu = (machine_cpu - proxy_cpu - upstream_cpu - outcome.cpu_seconds).max(0.0);
    let others_busy = others_cpu / started.elapsed().as_secs_f64();
    let memory_bytes = proxy.process.peak_memory();
    proxy.process.discard_output();
    Ok(Sample {
        cpu_us: proxy_cpu * 1e6 / requests as f64,
        requests_per_second: outcome.completed as f64 / outcome.seconds,
        p50_us: outcome.p50_us,
        p99_us: outcome.p99_us,
        memory_bytes,
        proxy_busy: proxy_cpu / outcome.seconds,
        load_busy: (upstream_cpu + outcome.cpu_seconds) / outcome.seconds,
        others_busy,
        errors: outcome.errors,
        first_error: outcome.first_error,
    })
}

/// Runs the load generator as a process of its own.
async fn generate(proxy: &Proxy, load: Load, requests: u64, plan: &Plan) -> anyhow::Result<Outcome> {
    let output = tokio::process::Command::new("taskset")
        .args(["-c", &plan.load_cores])
        .arg(std::env::current_exe()?)
        .args(["load", "--target", &proxy.address.to_string(), "--load", load.name()])
        .args(["--requests", &requests.to_string(), "--connections", &plan.connections.to_string()])
        .args(["--seconds-max", &LOAD_TIME_MAX.as_secs().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start the load generator")?;
    if !output.status.success() {
        bail!("the load generator ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the load generator's report is unreadable")
}
