//! The checkers: one for each endpoint that a backend wants checked, on the background runtime.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Checks, Health, probe::probe};
use crate::{
    resolve::Names,
    snapshot::{Endpoint, HealthCheck, Id, Snapshot, SnapshotCell},
    sync::State,
};

/// How often changes are looked for that the control plane is to know.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How often is forgotten what nobody uses any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// A checker at work, and its terms.
struct Checker {
    check: HealthCheck,
    checks: Arc<Checks>,
    task: JoinHandle<()>,
}

/// Keeps one checker per endpoint that the present snapshot wants checked, for as long as snapshots may come, and the
/// report of what is unhealthy up to date.
pub async fn check_all(
    health: Arc<Health>,
    cell: Arc<SnapshotCell>,
    names: Arc<Names>,
    mut changes: watch::Receiver<State>,
) {
    let mut checkers = HashMap::<Id, Checker>::new();
    let mut revision = 0;
    let mut forgot = Instant::now();
    loop {
        {
            let snapshot = cell.load();
            if snapshot.revision != revision {
                revision = snapshot.revision;
                // Those that are checked are shown from the start, not from their first request on.
                for backend in snapshot.backends().filter(|backend| backend.health_check.is_some()) {
                    let _ = health.group(backend);
                }
                adjust(&health, &names, &mut checkers, wanted(&snapshot));
            }
            if forgot.elapsed() >= FORGET_INTERVAL {
                forgot = Instant::now();
                health.forget(&snapshot);
            }
        }
        health.update_report();
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => {}
                Err(_) => return,
            },
            () = sleep(REPORT_INTERVAL) => {}
        }
    }
}

/// Each endpoint that is to be checked. If several backends want it, the terms are those of the first by name.
fn wanted(snapshot: &Snapshot) -> HashMap<Id, (Arc<Endpoint>, HealthCheck)> {
    let mut backends: Vec<_> = snapshot.backends().filter(|backend| backend.health_check.is_some()).collect();
    backends.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let mut wanted = HashMap::new();
    for backend in backends {
        let Some(check) = &backend.health_check else { continue };
        for endpoint in &backend.endpoints {
            wanted.entry(endpoint.id).or_insert_with(|| (Arc::clone(endpoint), check.clone()));
        }
    }
    wanted
}

fn adjust(
    health: &Arc<Health>,
    names: &Arc<Names>,
    checkers: &mut HashMap<Id, Checker>,
    wanted: HashMap<Id, (Arc<Endpoint>, HealthCheck)>,
) {
    // A checker whose target and terms are the same goes on, with all that it knows.
    checkers.retain(|id, checker| {
        let terms = wanted.get(id).map(|(_, check)| check);
        let same = terms == Some(&checker.check);
        if !same {
            checker.task.abort();
        }
        if terms.is_none() {
            checker.checks.checked.store(false, Relaxed);
            checker.checks.set(true, health.moment(Instant::now()));
        }
        same
    });
    for (id, (endpoint, check)) in wanted {
        checkers.entry(id).or_insert_with(|| {
            let checks = health.checks(&endpoint);
            checks.checked.store(true, Relaxed);
            let task =
                tokio::spawn(run(Arc::clone(health), Arc::clone(names), Arc::clone(&checks), endpoint, check.clone()));
            Checker { check, checks, task }
        });
    }
}

/// Checks one endpoint for ever.
async fn run(health: Arc<Health>, names: Arc<Names>, checks: Arc<Checks>, endpoint: Arc<Endpoint>, check: HealthCheck) {
    let mut against = 0;
    // The first check comes at a random moment of the interval, so that checkers do not march in step.
    sleep(check.interval.mul_f64(fastrand::f64()).min(check.interval / 2)).await;
    loop {
        let begun = Instant::now();
        let result = timeout(check.timeout, probe(&endpoint, &names, &check.probe)).await;
        let good = matches!(result, Ok(Ok(())));
        let counter = if good { &checks.good } else { &checks.bad };
        counter.fetch_add(1, Relaxed);
        if good == checks.up() {
            against = 0;
        } else {
            against += 1;
            let threshold = if good { check.healthy_threshold } else { check.unhealthy_threshold };
            if against >= threshold {
                against = 0;
                checks.set(good, health.moment(Instant::now()));
                let reason = match result {
                    Ok(Ok(())) => String::new(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {:?}", check.timeout),
                };
                tracing::warn!(endpoint = &*checks.authority, up = good, reason, "health changed");
            }
        }
        let next = begun + check.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::time::sleep_until(next.max(Instant::now() + check.interval / 10)).await;
    }
}
