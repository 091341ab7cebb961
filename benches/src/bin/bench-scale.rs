//! `just bench-scale`: one route changes among a hundred thousand, under load.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand};
use rustygate_benches::{
    peers::backend,
    report::Machine,
    scale::{self, Plan},
    until_signal,
};

/// Changes one route among very many while requests flow: time to the proxy's acknowledgement, and what requests feel of it
///
/// Needs Linux, taskset (util-linux) and two cores with nothing else to do.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
struct Run {
    /// How many routes there are
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    routes: u32,

    /// How many of them are changed, one after another
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    changes: u16,

    /// From one change to the next, in milliseconds
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    interval_ms: u64,

    /// Requests per second through the proxy; a quarter as many go past it
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Over how many connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Core of the proxy
    #[arg(long, default_value = "0", value_name = "CORE")]
    proxy_core: String,

    /// Cores of everything else, as taskset takes them
    #[arg(long, default_value = "1", value_name = "CORES")]
    load_cores: String,

    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

/// The part that runs as a process of its own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Serves the fixed answers
    #[command(hide = true)]
    Backend {
        #[arg(long)]
        listen: SocketAddr,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.part {
        Some(Part::Backend { listen }) => backend::serve(listen).await,
        None => run(cli.run).await,
    }
}

async fn run(options: Run) -> anyhow::Result<()> {
    let plan = Plan {
        routes: usize::try_from(options.routes)?,
        changes: options.changes.into(),
        interval: Duration::from_millis(options.interval_ms),
        rate: options.rate,
        connections: options.connections,
        proxy_core: options.proxy_core,
        load_cores: options.load_cores,
    };
    // Before this process is pinned to some of its cores.
    let machine = Machine::here();
    let results = until_signal(scale::run(plan)).await?;
    print!("{}", results.render(&machine, options.markdown));
    Ok(())
}
