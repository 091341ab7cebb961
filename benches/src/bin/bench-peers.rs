//! `just bench-peers`: RustyGate beside nginx, HAProxy, Envoy and Caddy, whichever is installed.

use std::{io::Read, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use rustygate_benches::{
    peers::{
        backend,
        client::{self, Plan},
        load::Load,
        proxy::Kind,
        relay, run,
    },
    report::Machine,
    until_signal,
};

/// Compares RustyGate with other proxies on this machine, in turns: CPU per request, req/s, latency, memory
///
/// Other proxies are found in PATH, or where NGINX, HAPROXY, ENVOY and CADDY say; h2load, which HTTP/2 needs, in PATH or
/// where H2LOAD says. What is not installed is skipped.
/// Needs Linux, taskset (util-linux) and two cores with nothing else to do.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Debug, Args)]
struct Compare {
    /// How often every proxy runs every load
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Requests of the small load; the others make a fixed share of it
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,

    /// Connections at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Idle connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..=16_000))]
    idle_connections: u16,

    /// Only these loads
    #[arg(long, value_delimiter = ',', value_name = "LOAD,...")]
    only: Vec<Load>,

    /// Only these proxies
    #[arg(long, value_delimiter = ',', value_name = "PROXY,...")]
    proxies: Vec<Kind>,

    /// Core of the proxy under test
    #[arg(long, default_value = "0", value_name = "CORE")]
    proxy_core: String,

    /// Cores of the load generator and the upstream, as taskset takes them
    #[arg(long, default_value = "1", value_name = "CORES")]
    load_cores: String,

    /// Print tables in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,

    /// Print every number in JSON
    #[arg(long)]
    json: bool,
}

/// The parts that run as processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Serves the fixed answers
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Relays bytes
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        upstream: SocketAddr,
    },
    /// Generates load and prints what came of it
    #[command(hide = true)]
    Load {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        certificate: PathBuf,
        #[arg(long)]
        load: Load,
        #[arg(long)]
        requests: u64,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds_max: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.part {
        Some(Part::Backend { listen }) => backend::serve(listen).await,
        Some(Part::Relay { listen, upstream }) => relay::serve(listen, upstream).await,
        Some(Part::Load { target, certificate, load, requests, connections, seconds_max }) => {
            let time_max = Duration::from_secs(seconds_max);
            let plan = Plan { target, certificate, load, requests, connections, time_max };
            let outcome =
                if load.is_idle() { client::hold(&plan, end_of_input()).await } else { client::run(&plan).await };
            let outcome = outcome?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
        None => compare(cli.compare).await,
    }
}

async fn compare(options: Compare) -> anyhow::Result<()> {
    let plan = run::Plan {
        kinds: or_all(options.proxies, &Kind::ALL),
        loads: or_all(options.only, &Load::ALL),
        rounds: options.rounds.into(),
        requests: options.requests,
        connections: options.connections.into(),
        idle_connections: options.idle_connections.into(),
        proxy_core: options.proxy_core,
        load_cores: options.load_cores,
    };
    let results = until_signal(run::run(plan)).await?;
    let machine = Machine::here();
    if options.json {
        println!("{:#}", results.json(&machine));
    } else if options.markdown {
        print!("{}", results.markdown(&machine));
    } else {
        print!("{}", results.text(&machine));
    }
    if results.errors() > 0 {
        bail!("{} requests had no right answer: numbers of those proxies mean nothing", results.errors());
    }
    Ok(())
}

async fn end_of_input() {
    // Whatever ends it, there is nothing more to wait for.
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
}

/// What was asked for, in the order of the report, or everything.
fn or_all<T: Copy + Ord>(mut asked: Vec<T>, all: &[T]) -> Vec<T> {
    if asked.is_empty() {
        return all.to_vec();
    }
    asked.sort_unstable();
    asked.dedup();
    asked
}
