//! Whoever fetches published keys: one task for each place that plugins of the present snapshot name, on the background
//! runtime. It ends, in the middle of a fetch too, when no plugin names the place any more.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, sleep},
};

use super::{remote::Remote, source::Source};
use crate::{
    live::{IdMap, States},
    resolve::Names,
    snapshot::{Snapshot, SnapshotCell},
    sync::State,
    telemetry::metrics::OVERFLOW,
};

/// The most fetches under way, since each may hold as many bytes as a set has.
const FETCHES_MAX: usize = 64;

/// How often a new snapshot is looked for that nobody told of.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often is forgotten what no task and no worker has any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The most URLs that have series of their own, the first in order; the others are added up under [`OVERFLOW`].
const URLS_MAX: usize = 1000;

const OUTCOMES: [&str; 2] = ["good", "failed"];

/// See the module documentation.
#[derive(Debug)]
pub struct Keeper {
    states: Arc<States>,
    names: Arc<Names>,
    fetches: Arc<Semaphore>,
    /// Locked by the keeper and by scrapes, never by a request.
    running: Mutex<IdMap<Running>>,
}

/// A task at work.
#[derive(Debug)]
struct Running {
    source: Arc<Source>,
    remote: Arc<Remote>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Keeps keys in `states`, for hosts in `names`.
    #[must_use]
    pub fn new(states: Arc<States>, names: Arc<Names>) -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES_MAX));
        Self { states, names, fetches, running: Mutex::default() }
    }

    /// Follows the snapshots, for as long as any may come.
    pub async fn run(self: Arc<Self>, cell: Arc<SnapshotCell>, mut changes: watch::Receiver<State>) {
        let mut revision = 0;
        let mut forgot = Instant::now();
        loop {
            {
                let snapshot = cell.load();
                if snapshot.revision != revision {
                    revision = snapshot.revision;
                    self.adjust(wanted(&snapshot));
                }
                if forgot.elapsed() >= FORGET_INTERVAL {
                    forgot = Instant::now();
                    self.states.forget(&snapshot);
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// A task whose place and terms are the same goes on.
    fn adjust(&self, wanted: IdMap<Arc<Source>>) {
        let mut running = self.running();
        running.retain(|id, task| wanted.get(id).is_some_and(|source| source.terms == task.source.terms));
        for (id, source) in wanted {
            running.entry(id).or_insert_with(|| {
                let remote = self.states.get_or(id, Remote::default);
                let task = self.keep(Arc::clone(&source), Arc::clone(&remote));
                Running { source, task: tokio::spawn(task).abort_handle(), remote }
            });
        }
    }

    fn keep(&self, source: Arc<Source>, remote: Arc<Remote>) -> impl Future<Output = ()> + use<> {
        let (names, fetches) = (Arc::clone(&self.names), Arc::clone(&self.fetches));
        async move {
            let fetch = || async {
                // It is never closed.
                let _permit = fetches.acquire().await;
                source.fetch(&names).await
            };
            remote.keep(&source.url, source.terms.refresh, fetch).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, IdMap<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each place that a plugin names. If several do, the terms are those of the first by name.
fn wanted(snapshot: &Snapshot) -> IdMap<Arc<Source>> {
    let sources = snapshot.plugins().filter_map(|plugin| Some((&plugin.name, plugin.key_source()?)));
    let mut sources: Vec<_> = sources.collect();
    sources.sort_unstable_by_key(|(name, _)| *name);
    let mut wanted = IdMap::default();
    for (_, source) in sources {
        wanted.entry(source.id).or_insert_with(|| Arc::clone(source));
    }
    wanted
}

/// Lets a registry scrape what is known of published keys.
#[derive(Debug)]
pub struct KeyCollector(pub Arc<Keeper>);

#[derive(Default)]
struct Sum {
    fetches: [u64; 2],
    keys: usize,
    /// Of the oldest, if there are any.
    age: Option<Duration>,
}

impl KeyCollector {
    fn sums(&self) -> BTreeMap<Box<str>, Sum> {
        let now = Instant::now();
        let running = self.0.running();
        let mut all: Vec<_> = running.values().collect();
        all.sort_unstable_by(|left, right| left.source.url.cmp(&right.source.url));
        let mut sums = BTreeMap::<Box<str>, Sum>::new();
        for (index, task) in all.into_iter().enumerate() {
            let label = if index < URLS_MAX { &*task.source.url } else { OVERFLOW };
            let sum = sums.entry(label.into()).or_default();
            for (total, count) in sum.fetches.iter_mut().zip(task.remote.fetches()) {
                *total += count;
            }
            if let Some(known) = task.remote.known().as_ref() {
                sum.keys += known.keys.len();
                sum.age = sum.age.max(Some(now.saturating_duration_since(known.since)));
            }
        }
        sums
    }
}

impl Collector for KeyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sums = self.sums();
        let help = "Fetches of published keys, by what came of them";
        let mut family = encoder.encode_descriptor("rustygate_jwks_fetches", help, None, MetricType::Counter)?;
        for (url, sum) in &sums {
            for (outcome, count) in OUTCOMES.iter().zip(sum.fetches) {
                let labels = [("url", &**url), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Published keys that can be used";
        let mut family = encoder.encode_descriptor("rustygate_jwks_keys", help, None, MetricType::Gauge)?;
        for (url, sum) in &sums {
            let gauge = ConstGauge::new(i64::try_from(sum.keys).unwrap_or(0));
            gauge.encode(family.encode_family(&[("url", &**url)])?)?;
        }
        let help = "Since published keys were fetched last";
        let mut family = encoder.encode_descriptor("rustygate_jwks_age_seconds", help, None, MetricType::Gauge)?;
        for (url, age) in sums.iter().filter_map(|(url, sum)| Some((url, sum.age?))) {
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&[("url", &**url)])?)?;
        }
        Ok(())
    }
}
