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
    sleep(first_pause(check.interval)).await;
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
        let next = begun + span(check.interval);
        tokio::time::sleep_until(next.max(Instant::now() + check.interval / 10)).await;
    }
}

/// The first check comes at a random moment of half an interval, so that checkers do not march in step.
fn first_pause(interval: Duration) -> Duration {
    (interval / 2).mul_f64(fastrand::f64())
}

/// From the start of a check to that of the next: the interval, give or take a tenth, so that they do not fall into step.
fn span(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thousand pauses none is outside, and each tenth of the span between has about a tenth of them: 6 standard deviations.
    fn are_spread(pauses: impl Fn() -> Duration, from: Duration, to: Duration) {
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let pause = pauses();
            assert!((from..=to).contains(&pause), "{pause:?}");
            let tenth = 10.0 * (pause - from).as_secs_f64() / (to - from).as_secs_f64();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10")]
            let tenth = (tenth as usize).min(9);
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (40..=160).contains(count)), "{tenths:?}");
    }

    #[test]
    fn checks_do_not_march_in_step() {
        let millis = Duration::from_millis;
        are_spread(|| first_pause(millis(1000)), Duration::ZERO, millis(500));
        are_spread(|| span(millis(1000)), millis(900), millis(1100));
    }
}
