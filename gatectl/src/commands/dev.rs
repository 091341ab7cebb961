//! `dev`: a control plane and a proxy in this process, over the same gRPC as in two.
//!
//! Files are applied by the API as owner "dev" with pruning, so what a save takes out goes away, and what was applied
//! by `gatectl apply` beside it stays.

mod demo;
mod planes;
mod source;
mod summary;
mod watch;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use rustygate_data_plane as data_plane;
use rustygate_proto::v1 as wire;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::{demo::Demo, source::Source, summary::Places};
use super::change;
use crate::{
    client::{Client, Connection},
    diff,
    failure::{Exit, Failure},
    input,
    output::{Screen, unix_ms_now},
};

/// Whose the resources are that `dev` applies.
const OWNER: &str = "dev";

/// Where the configuration is kept, in the folder that `dev` is started in.
const DATABASE: &str = ".rustygate/dev.db";

/// Until the proxy serves what was applied.
const READY_TIME_MAX: Duration = Duration::from_secs(10);

/// What was read of the files: what they refer to, and they.
type Read = (Vec<wire::Content>, Vec<wire::Document>);

/// `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// What to apply: a file, or a folder (its *.yaml and *.yml); repeatable [default: config/default.yaml]
    #[arg(long = "file", short = 'f', value_name = "PATH", conflicts_with = "demo")]
    pub paths: Vec<PathBuf>,

    /// Run three demo services too, with routes to them, and forget everything at the end
    #[arg(long)]
    pub demo: bool,

    /// Apply the files again when they are saved; faults are shown and what was served stays
    #[arg(long)]
    pub watch: bool,

    /// Where the configuration is kept [default: .rustygate/dev.db; with --demo a temporary file]
    #[arg(long, value_name = "FILE")]
    pub database: Option<PathBuf>,

    /// Where the proxy accepts clients when the configuration has no listeners
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// Where the proxy serves /metrics, /healthz and /readyz
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    pub admin_listen: SocketAddr,

    /// Where the control plane serves gRPC
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    pub grpc_listen: SocketAddr,

    /// Where the control plane serves /metrics and /healthz
    #[arg(long, default_value = "127.0.0.1:8083", value_name = "ADDRESS")]
    pub http_listen: SocketAddr,

    /// Worker threads of the proxy [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Where the proxy's access log goes: "off", "stdout" or a file
    #[arg(long, default_value = "off", value_name = "WHERE")]
    pub access_log: data_plane::settings::AccessLogTarget,

    /// Log more: -v for info, -vv for debug
    #[arg(long, short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Runs everything until it is interrupted.
pub(crate) async fn run(screen: Screen, args: DevArgs) -> Result<Exit, Failure> {
    log(args.verbose, screen);
    planes::ports_are_free(&args)?;
    // Before anything runs, so that an early Ctrl-C ends it in order too.
    let stop = Stop::new()?;

    let demo = if args.demo { Some(Demo::start().await?) } else { None };
    let source = Source::choose(&args, demo.as_ref());
    let database = database(&args, demo.as_ref())?;
    let control_plane = planes::start_control_plane(&args, &database).await?;
    let url = format!("http://{}", control_plane.grpc);
    let client = Client::connect(&Connection { url: url.clone(), token: None, ca: None }).await?;

    let applied = first_apply(screen, &client, &source, args.watch).await?;
    let proxy = planes::start_proxy(&args, url).await?;
    let places = Places {
        listeners: proxy.listeners(),
        admin: proxy.admin,
        grpc: control_plane.grpc,
        http: control_plane.http,
        database,
        manifest: source.title(),
        demo: demo.is_some(),
    };

    let interrupted = tokio::select! {
        failure = serve(screen, &client, &proxy, &args, &source, applied, places) => Err(failure),
        () = stop.asked() => Ok(Exit::Success),
    };
    screen.note("\nfinishing the requests in flight; Ctrl-C again ends at once");
    let again = Stop::new()?;
    tokio::select! {
        () = async { proxy.shutdown().await; control_plane.shutdown().await; } => interrupted,
        () = again.asked() => Err(Failure::new("ended before every request was finished")),
    }
}

/// Shows what is where once it serves, then applies what is saved; returns only if it cannot go on.
async fn serve(
    screen: Screen,
    client: &Client,
    proxy: &data_plane::app::Running,
    args: &DevArgs,
    source: &Source,
    applied: Read,
    mut places: Places,
) -> Failure {
    // The watch begins before the table is shown: who reads it may save at once.
    let saves = match (args.watch, source.paths()) {
        (true, Some(_)) => match watch::Saves::of(&watched(source, &applied.1)) {
            Ok(saves) => Some(saves),
            Err(failure) => return failure,
        },
        (true, None) => {
            screen.warn("--watch has no file to watch: config/default.yaml is not here, the one built in is served");
            None
        }
        (false, _) => None,
    };
    if tokio::time::timeout(READY_TIME_MAX, proxy.ready()).await.is_err() {
        match refusal(client, screen).await {
            Ok(failure) if !args.watch => return failure,
            Ok(failure) => screen.failure(&failure),
            Err(failure) => return failure,
        }
    }
    places.listeners = proxy.listeners();
    let shown = match client.get(wire::GetRequest::default()).await {
        Ok(stored) => screen.data(&summary::render(&places, &stored.resources, screen.paint)),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = shown {
        return failure;
    }
    match saves {
        Some(saves) => apply_saves(screen, client, source, applied, saves).await,
        None => std::future::pending().await,
    }
}

async fn apply_saves(
    screen: Screen,
    client: &Client,
    source: &Source,
    applied: Read,
    mut saves: watch::Saves,
) -> Failure {
    // What was applied, not what the files have by now: that may be a save already.
    let mut last = Some(applied);
    loop {
        saves.next().await;
        // A save that changes no byte, and the many events of one save, are not worth a word.
        let documents = match source.read() {
            // An editor that empties a file before it writes it, caught between the two.
            Ok(documents) if input::is_blank(&documents) => {
                screen.note("saved: the file is empty; what was served before still is");
                last = None;
                continue;
            }
            Ok(documents) => documents,
            Err(failure) => {
                screen.failure(&failure);
                last = None;
                continue;
            }
        };
        let contents = input::contents(&documents);
        let read = (contents, documents);
        if last.as_ref() == Some(&read) {
            continue;
        }
        if let Err(failure) = saves.watch(&watched(source, &read.1)) {
            return failure;
        }
        let (contents, documents) = read.clone();
        last = Some(read);
        match apply_save(client, documents, contents).await {
            Ok(Saved::Serving(line, diff)) => {
                screen.note(&line);
                change::warn_of_ends(screen, &diff);
            }
            Ok(Saved::Faulty(faults)) => {
                screen.faults(&faults);
                screen.failure(&Failure::new("what was served before still is"));
            }
            Ok(Saved::NotServed) => match refusal(client, screen).await {
                Ok(failure) | Err(failure) => screen.failure(&failure),
            },
            Err(failure) => screen.failure(&failure),
        }
    }
}

/// What became of a save.
enum Saved {
    Serving(String, Vec<wire::ResourceDiff>),
    Faulty(Vec<wire::Fault>),
    NotServed,
}

/// The files that are read: those that were named, and those that they refer to.
fn watched(source: &Source, documents: &[wire::Document]) -> Vec<PathBuf> {
    let named = source.paths().unwrap_or_default().iter().cloned();
    named.chain(input::referenced_files(documents)).collect()
}

async fn apply_save(
    client: &Client,
    documents: Vec<wire::Document>,
    contents: Vec<wire::Content>,
) -> Result<Saved, Failure> {
    let response = client.apply(request(documents, contents, "saved")).await?;
    if !response.faults.is_empty() {
        return Ok(Saved::Faulty(response.faults));
    }
    let waited = change::wait(client, response.revision, READY_TIME_MAX).await?;
    if waited.response.outcome() != wire::wait_response::Outcome::Serving {
        return Ok(Saved::NotServed);
    }
    let revision = response.revision;
    let line = match response.diff.is_empty() {
        true => format!("saved: nothing differs from revision {revision}"),
        false => format!("saved: revision {revision} is served ({})", diff::tally(&response.diff)),
    };
    Ok(Saved::Serving(line, response.diff))
}

async fn first_apply(screen: Screen, client: &Client, source: &Source, go_on: bool) -> Result<Read, Failure> {
    let documents = source.read()?;
    let read = (input::contents(&documents), documents);
    let (contents, documents) = read.clone();
    let response = client.apply(request(documents, contents, "gatectl dev")).await?;
    change::warn_of_ends(screen, &response.diff);
    if response.faults.is_empty() {
        return Ok(read);
    }
    screen.faults(&response.faults);
    let failure = Failure::new(format!("{} cannot be served", source.title()));
    if !go_on {
        return Err(failure.with_hint("with --watch, `gatectl dev` waits for a save that mends it"));
    }
    screen.failure(&failure);
    Ok(read)
}

fn request(documents: Vec<wire::Document>, contents: Vec<wire::Content>, message: &str) -> wire::ApplyRequest {
    let options = wire::ChangeOptions {
        author: "gatectl dev".to_owned(),
        message: message.to_owned(),
        ..wire::ChangeOptions::default()
    };
    wire::ApplyRequest { documents, contents, options: Some(options), owner: OWNER.to_owned(), prune: true }
}

/// Why the proxy does not serve.
async fn refusal(client: &Client, screen: Screen) -> Result<Failure, Failure> {
    let fleet = client.proxies().await?;
    let refusals = change::refusals(&fleet.proxies, 1, screen.note_paint);
    if refusals.is_empty() {
        let time = READY_TIME_MAX.as_secs();
        return Ok(Failure::new(format!("the proxy does not serve after {time} s")).with_hint("-v shows its log"));
    }
    screen.note(&refusals);
    Ok(Failure::new("the proxy cannot serve the configuration").with_hint("change the file, or free the address"))
}

fn database(args: &DevArgs, demo: Option<&Demo>) -> Result<PathBuf, Failure> {
    let database = match (&args.database, demo) {
        (Some(database), _) => database.clone(),
        (None, Some(demo)) => return Ok(demo.folder().join("demo.db")),
        (None, None) => PathBuf::from(DATABASE),
    };
    if let Some(folder) = database.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::new(format!("cannot make the folder {}: {error}", folder.display())))?;
    }
    Ok(database)
}

fn log(verbose: u8, screen: Screen) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("RUSTYGATE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Fails only if something logs already; then that goes on.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(screen.note_paint.on)
        .with_target(false)
        .try_init();
}

/// Ctrl-C, or the signal that service managers send.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let cannot = |error| Failure::new(format!("cannot wait for signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
        })
    }

    async fn asked(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A name for something temporary that no other process of this machine uses now.
fn unique(prefix: &str) -> String {
    format!("{prefix}-{}-{}", std::process::id(), unix_ms_now())
}
