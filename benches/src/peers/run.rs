//! The order of things: every proxy, every load, every round, taking turns.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, sleep, timeout},
};

use super::{
    client::Outcome,
    h2load,
    load::{Client, Load},
    process::{self, Process},
    proxy::{self, Installed, Kind, Proxy, Setting},
    tls::Identity,
};

/// After which a run of one load is given up.
const LOAD_TIME_MAX: Duration = Duration::from_secs(120);

/// What a proxy gets to put its memory in order when all connections have become idle.
const IDLE_SETTLES: Duration = Duration::from_secs(1);

/// Files that a proxy has open besides those of idle connections, at the most.
const FILES_BESIDE: u64 = 1024;

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
    /// Connections that lie idle.
    pub idle_connections: usize,
    /// Of the proxy under test.
    pub proxy_core: String,
    /// Of the load generator and the upstream.
    pub load_cores: String,
}

/// One proxy under one load in one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What is compared: µs of CPU time of the proxy by request, or KiB of its memory by idle connection.
    pub cost: f64,
    /// Peak of resident memory in bytes; with idle connections what there is of it while they lie.
    pub memory_bytes: u64,
    /// Requests without a right answer.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
    /// Not of idle connections.
    pub traffic: Option<Traffic>,
}

/// How a load went.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Right answers by second.
    pub requests_per_second: f64,
    /// Half of the answers took no longer.
    pub p50_us: f64,
    /// 99 of 100 answers took no longer.
    pub p99_us: f64,
    /// Share of its core that the proxy used.
    pub proxy_busy: f64,
    /// Share of a core that the load generator and the upstream used.
    pub load_busy: f64,
    /// Share of a core that everything else on the machine used.
    pub others_busy: f64,
}

/// What is not among what is compared.
#[derive(Debug)]
pub struct Missing {
    /// A proxy or a load.
    pub what: &'static str,
    /// What is not there.
    pub why: String,
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Results {
    /// What was run; only what can be.
    pub plan: Plan,
    /// Versions of the proxies.
    pub versions: BTreeMap<Kind, String>,
    /// What cannot be run.
    pub missing: Vec<Missing>,
    /// By proxy and load, one a round; of idle connections, one.
    pub samples: BTreeMap<(Kind, Load), Vec<Sample>>,
}

/// Starts everything, measures, stops everything.
///
/// # Errors
/// If something that is installed does not start, or a measurement cannot be made.
pub async fn run(mut plan: Plan) -> anyhow::Result<Results> {
    let mut missing = Vec::new();
    let installed = find_proxies(&plan.kinds, &mut missing)?;
    plan.kinds = installed.iter().map(|installed| installed.kind).collect();
    let h2load = leave_out_loads(&mut plan, process::raise_open_files()?, &mut missing);
    for Missing { what, why } in &missing {
        eprintln!("skipped: {what}: {why}");
    }
    if plan.kinds.is_empty() || plan.loads.is_empty() {
        bail!("nothing is left to compare");
    }
    let folder = tempfile::tempdir()?;
    let [backend] = process::free_addresses()?;
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    command.args(["backend", "--listen", &backend.to_string()]);
    let mut upstream = Process::start("backend", &command, &plan.load_cores, &folder.path().join("backend.output"))?;
    upstream.wait_until_open(backend).await?;
    let setting = Setting {
        backend,
        identity: Identity::make(folder.path())?,
        folder: folder.path().to_owned(),
        proxy_core: plan.proxy_core.clone(),
        load_cores: plan.load_cores.clone(),
        idle_connections: plan.idle_connections,
    };
    let bench = Bench { plan, setting, upstream, h2load, program };
    let mut samples = bench.idle(&installed).await?;
    samples.append(&mut bench.traffic(&installed).await?);
    let versions = installed.into_iter().map(|installed| (installed.kind, installed.version)).collect();
    Ok(Results { plan: bench.plan, versions, missing, samples })
}

fn find_proxies(kinds: &[Kind], missing: &mut Vec<Missing>) -> anyhow::Result<Vec<Installed>> {
    let mut found = Vec::new();
    for &kind in kinds {
        match proxy::find(kind)? {
            Ok(installed) => found.push(installed),
            Err(why) => missing.push(Missing { what: kind.title(), why }),
        }
    }
    Ok(found)
}

/// Takes out what cannot be run here, with so many open files; gives back where h2load is.
fn leave_out_loads(plan: &mut Plan, files: u64, missing: &mut Vec<Missing>) -> Option<PathBuf> {
    let h2load = h2load::find();
    let needed = plan.idle_connections as u64 + FILES_BESIDE;
    plan.loads.retain(|load| {
        let why = match load.spec().client {
            Client::H2 { .. } => h2load.as_ref().err().cloned(),
            Client::Idle if files < needed => Some(format!(
                "needs {needed} open files, and the hard limit is {files}: raise it, or ask for fewer --idle-connections"
            )),
            Client::Idle | Client::KeepAlive | Client::Post | Client::Connect | Client::Resume => None,
        };
        missing.extend(why.iter().map(|why| Missing { what: load.spec().name, why: why.clone() }));
        why.is_none()
    });
    h2load.ok()
}

type Samples = BTreeMap<(Kind, Load), Vec<Sample>>;

/// What all measurements need.
struct Bench {
    plan: Plan,
    setting: Setting,
    upstream: Process,
    h2load: Option<PathBuf>,
    /// This one, which generates load too.
    program: PathBuf,
}

impl Bench {
    /// Memory does not differ between rounds, but does between a fresh proxy and one that has had more before.
    async fn idle(&self, installed: &[Installed]) -> anyhow::Result<Samples> {
        let mut samples = Samples::new();
        for &load in self.plan.loads.iter().filter(|load| load.is_idle()) {
            for installed in installed.iter().filter(|installed| load.is_for(installed.kind)) {
                let kind = installed.kind;
                // Some have a table for as many connections as they are told of, which is a part of what those cost.
                let bare = Setting { idle_connections: 0, ..self.setting.clone() };
                let proxy = Proxy::start(installed, &bare).await?;
                sleep(IDLE_SETTLES).await;
                let without = proxy.process.proportional_memory()?;
                drop(proxy);
                let proxy = Proxy::start(installed, &self.setting).await?;
                let sample = self.measure_idle(&proxy, load, without).await.with_context(|| whose(kind, load))?;
                eprintln!("{:<10}  {}", "once", told(kind, load, &sample));
                samples.entry((kind, load)).or_default().push(sample);
            }
        }
        Ok(samples)
    }

    async fn traffic(&self, installed: &[Installed]) -> anyhow::Result<Samples> {
        let mut samples = Samples::new();
        let loads: Vec<_> = self.plan.loads.iter().copied().filter(|load| !load.is_idle()).collect();
        let mut proxies = Vec::new();
        for installed in installed.iter().filter(|installed| loads.iter().any(|load| load.is_for(installed.kind))) {
            proxies.push(Proxy::start(installed, &self.setting).await?);
        }
        for round in 0..self.plan.rounds {
            for (turn, &load) in loads.iter().enumerate() {
                for index in 0..proxies.len() {
                    let proxy = &proxies[(index + round + turn) % proxies.len()];
                    let kind = proxy.kind;
                    if load.is_for(kind) {
                        let sample = self.measure(proxy, load).await.with_context(|| whose(kind, load))?;
                        let round = format!("round {}/{}", round + 1, self.plan.rounds);
                        eprintln!("{round:<10}  {}", told(kind, load, &sample));
                        samples.entry((kind, load)).or_default().push(sample);
                    }
                }
            }
        }
        Ok(samples)
    }

    async fn measure(&self, proxy: &Proxy, load: Load) -> anyhow::Result<Sample> {
        let requests = load.requests(self.plan.requests);
        let warm_up = (requests / 10).max(self.plan.connections as u64);
        self.generate(proxy, load, warm_up).await?;
        proxy.process.reset_peak_memory();
        let (started, machine_before) = (Instant::now(), process::machine_cpu()?);
        let (proxy_before, upstream_before) = (proxy.process.cpu()?, self.upstream.cpu()?);
        let outcome = self.generate(proxy, load, requests).await?;
        let proxy_cpu = proxy.process.cpu()?.since(&proxy_before).as_secs_f64();
        let upstream_cpu = self.upstream.cpu()?.since(&upstream_before).as_secs_f64();
        let machine_cpu = process::machine_cpu()?.saturating_sub(machine_before).as_secs_f64();
        let others_cpu = (machine_cpu - proxy_cpu - upstream_cpu - outcome.cpu_seconds).max(0.0);
        let memory_bytes = proxy.process.peak_memory();
        proxy.process.discard_output();
        Ok(Sample {
            cost: proxy_cpu * 1e6 / requests as f64,
            memory_bytes,
            errors: outcome.errors,
            first_error: outcome.first_error,
            traffic: Some(Traffic {
                requests_per_second: outcome.completed as f64 / outcome.seconds,
                p50_us: outcome.p50_us,
                p99_us: outcome.p99_us,
                proxy_busy: proxy_cpu / outcome.seconds,
                load_busy: (upstream_cpu + outcome.cpu_seconds) / outcome.seconds,
                others_busy: others_cpu / started.elapsed().as_secs_f64(),
            }),
        })
    }

    async fn measure_idle(&self, proxy: &Proxy, load: Load, without: u64) -> anyhow::Result<Sample> {
        let mut generator = self
            .generator(proxy, load, self.plan.idle_connections as u64)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the load generator")?;
        let mut lines = BufReader::new(generator.stdout.take().context("it has an output")?).lines();
        let mut line =
            async || timeout(LOAD_TIME_MAX * 2, lines.next_line()).await.context("it hangs")?.context("it fell silent");
        let opened = line().await?;
        ensure!(opened.as_deref() == Some("open"), "the load generator says {opened:?}");
        sleep(IDLE_SETTLES).await;
        let with = proxy.process.proportional_memory()?;
        // The end of its input tells it to look at the connections and go.
        drop(generator.stdin.take());
        let outcome: Outcome = serde_json::from_str(&line().await?.context("the load generator has no report")?)
            .context("the load generator's report is unreadable")?;
        generator.wait().await?;
        Ok(Sample {
            cost: with.saturating_sub(without) as f64 / 1024.0 / self.plan.idle_connections as f64,
            memory_bytes: with,
            errors: outcome.errors,
            first_error: outcome.first_error,
            traffic: None,
        })
    }

    /// Runs the load generator, as a process of its own.
    async fn generate(&self, proxy: &Proxy, load: Load, requests: u64) -> anyhow::Result<Outcome> {
        let spec = load.spec();
        if let Client::H2 { streams } = spec.client {
            let plan = h2load::Plan {
                program: self.h2load.as_deref().context("a load that needs h2load was left in")?,
                cores: &self.plan.load_cores,
                target: proxy.listen.of(spec.listener),
                spec,
                streams,
                requests,
                connections: (self.plan.connections as u64 / 4).max(1),
                time_max: LOAD_TIME_MAX,
                folder: &self.setting.folder,
            };
            return h2load::run(&plan).await;
        }
        let output = self
            .generator(proxy, load, requests)
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot start the load generator")?;
        ensure!(output.status.success(), "the load generator ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("the load generator's report is unreadable")
    }

    /// Our own one.
    fn generator(&self, proxy: &Proxy, load: Load, requests: u64) -> tokio::process::Command {
        let spec = load.spec();
        let mut command = tokio::process::Command::new("taskset");
        command.args(["-c", &self.plan.load_cores]).arg(&self.program);
        command.args(["load", "--target", &proxy.listen.of(spec.listener).to_string(), "--load", spec.name]);
        command.arg("--certificate").arg(&self.setting.identity.certificate);
        command.args(["--requests", &requests.to_string(), "--connections", &self.plan.connections.to_string()]);
        command.args(["--seconds-max", &LOAD_TIME_MAX.as_secs().to_string()]);
        command.stderr(Stdio::inherit()).kill_on_drop(true);
        command
    }
}

fn whose(kind: Kind, load: Load) -> String {
    format!("{} under {}", kind.title(), load.spec().name)
}

fn told(kind: Kind, load: Load, sample: &Sample) -> String {
    let errors = sample.first_error.as_ref().map(|error| format!("  {} errors: {error}", sample.errors));
    let unit = if load.is_idle() { "KiB/connection" } else { "us/request" };
    format!("{:<11} {:<25} {:>8.1} {unit}{}", load.spec().name, kind.title(), sample.cost, errors.unwrap_or_default())
}
