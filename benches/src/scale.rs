//! One route changes among very many, under load: how long until the proxy has acknowledged it, and whether any request
//! had to wait because of it.
//!
//! Everything goes the way of users: planes as processes of their own, the configuration and its changes through the
//! API, the end of a change told by the fleet. The proxy has one core with all its threads, the worker and those beside
//! it, which is the hard case; everything else shares the other cores, the control plane at a lower priority, since
//! what it computes is not to delay the clients that measure.
//!
//! A machine that does other things delays requests too. So requests *around* changes are held against those *between*
//! changes, and against requests that go *past* the proxy, straight from the same clients to the backend: what these
//! suffer as well is not the proxy's doing.

pub mod load;
pub mod planes;
pub mod report;

use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep_until};

use self::{
    load::{Load, Sample},
    planes::Planes,
    report::{Change, Results},
};

/// Hosts that the routes are spread over.
const HOSTS: usize = 100;

/// Before the first change, so that connections and caches are as they will be.
const WARM_UP: Duration = Duration::from_secs(2);

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many routes there are.
    pub routes: usize,
    /// How many changes are made.
    pub changes: usize,
    /// From one change to the next.
    pub interval: Duration,
    /// Requests per second through the proxy.
    pub rate: u32,
    /// Over how many connections.
    pub connections: u16,
    /// The proxy's, as taskset takes them.
    pub proxy_core: String,
    /// Everything else's.
    pub load_cores: String,
}

impl Plan {
    /// Which part of the time after a change counts as around it: acknowledged or not, its old snapshot is freed and the
    /// new one written to disk by then.
    #[must_use]
    pub fn around(&self) -> Duration {
        self.interval / 2
    }
}

/// Starts everything, measures, stops everything.
///
/// # Errors
/// If something does not start, a change is not served, or a request has no right answer.
pub async fn run(plan: Plan) -> anyhow::Result<Results> {
    planes::pin_this_process(&plan.load_cores)?;
    let mut planes = Planes::start(&plan).await?;
    eprintln!("applying {} routes", plan.routes);
    let first_apply = planes.apply(&planes::manifest(plan.routes, planes.backend), plan.routes).await?;
    let load = Load::start(&plan, planes.proxy, planes.backend)?;
    let epoch = load.epoch;
    let mut next = Instant::now() + WARM_UP;
    sleep_until(next).await;
    let measured_from = epoch.elapsed();
    let mut changes = Vec::new();
    for number in 0..plan.changes {
        // A stride that visits routes of every host and kind in no order.
        let route = (number * 7_919 + plan.routes / 2) % plan.routes;
        let backend = planes::BACKENDS[1];
        let sent = epoch.elapsed();
        planes.change(route, backend).await.with_context(|| format!("change {}", number + 1))?;
        changes.push(Change { sent, acknowledged: epoch.elapsed() });
        planes.assert_served(route, backend).await?;
        next += plan.interval;
        sleep_until(next).await;
    }
    let mut samples: Vec<Sample> = load.finish().await?;
    samples.retain(|sample| sample.sent >= measured_from);
    let memory = planes.memory();
    Ok(Results { plan, first_apply, changes, samples, memory })
}

/// Host and path of a request to a route.
fn place(route: usize) -> (String, String) {
    (format!("host-{}.example.com", route % HOSTS), format!("/team-{route}/api"))
}
