//! Who is connected, which revision each serves, and what it refused.
//!
//! A node id belongs to one stream at a time: a newer one replaces the older, since the older may be a connection that
//! died unseen. If that happens again and again, two proxies share an id, and both are told so where users look.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustygate_proto::v1::{self as wire, wait_response::Outcome};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{apply::now_ms, codes, telemetry::Metrics};

const NODE_ID_BYTES_MAX: usize = 255;
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;
const FAULTS_MAX: usize = 100;
const FAULT_TEXT_BYTES_MAX: usize = 2_048;
const UNHEALTHY_MAX: usize = 1_000;
const ENDPOINT_BYTES_MAX: usize = 512;

/// How many proxies that are gone are still listed.
const GONE_MAX: usize = 1_000;

/// So many replacements in so much time are no accident.
const REPLACEMENTS_MAX: usize = 3;
const REPLACEMENTS_WINDOW: Duration = Duration::from_secs(60);

/// A waiter looks again no sooner than this, however fast proxies answer.
const WAIT_PAUSE: Duration = Duration::from_millis(2);

/// Why a proxy is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not fit to be a key.
    #[error("a node id has 1 to {NODE_ID_BYTES_MAX} bytes and no control characters")]
    BadNodeId,
    /// Too many or too long.
    #[error("at most {LABELS_MAX} labels, {LABEL_BYTES_MAX} bytes each")]
    BadLabels,
    /// The limit.
    #[error("{0} proxies are connected, the most that --proxies-max allows")]
    Full(usize),
}

/// Everyone who is or was connected.
#[derive(Debug)]
pub struct Fleet {
    members: Mutex<Members>,
    changed: watch::Sender<()>,
    proxies_max: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Members {
    by_node_id: BTreeMap<String, Member>,
    connected: usize,
    last_session: u64,
}

#[derive(Debug)]
struct Member {
    proxy: wire::Proxy,
    session: u64,
    replaced: CancellationToken,
    replacements: VecDeque<Instant>,
}

/// One open stream; it leaves the fleet when dropped.
#[derive(Debug)]
pub struct Session {
    fleet: Arc<Fleet>,
    node_id: String,
    id: u64,
    /// Cancelled when a newer stream has taken the node id.
    pub replaced: CancellationToken,
}

impl Fleet {
    /// With nobody in it.
    #[must_use]
    pub fn new(proxies_max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { members: Mutex::default(), changed: watch::Sender::new(()), proxies_max, metrics })
    }

    /// Lets a proxy in. `revision` is what it serves of this store.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn connect(
        self: &Arc<Self>,
        hello: &wire::Hello,
        revision: u64,
        peer: Option<SocketAddr>,
    ) -> Result<Session, Refused> {
        check(hello)?;
        let peer_address = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let mut members = self.members();
        let before = members.by_node_id.remove(&hello.node_id);
        let was_connected = before.as_ref().is_some_and(|member| member.proxy.connected);
        if !was_connected && members.connected >= self.proxies_max {
            members.by_node_id.extend(before.map(|member| (hello.node_id.clone(), member)));
            return Err(Refused::Full(self.proxies_max));
        }
        let mut replacements = VecDeque::new();
        if let Some(member) = before {
            replacements = member.replacements;
            if member.proxy.connected {
                tracing::warn!(
                    node_id = hello.node_id,
                    old_peer = member.proxy.peer_address,
                    new_peer = peer_address,
                    "a newer connection has this node id: the older one is closed"
                );
                replacements.push_back(Instant::now());
                if replacements.len() > REPLACEMENTS_MAX {
                    replacements.pop_front();
                }
                member.replaced.cancel();
            }
        }
        members.connected += usize::from(!was_connected);
        members.last_session += 1;
        let id = members.last_session;
        let replaced = CancellationToken::new();
        let proxy = wire::Proxy {
            node_id: hello.node_id.clone(),
            labels: hello.labels.clone(),
            version: hello.version.chars().take(64).collect(),
            peer_address,
            revision,
            connected: true,
            connected_unix_ms: now_ms(),
            last_seen_unix_ms: now_ms(),
            ..Default::default()
        };
        let member = Member { proxy, session: id, replaced: replaced.clone(), replacements };
        members.by_node_id.insert(hello.node_id.clone(), member);
        self.metrics.proxies_connected.set(i64::try_from(members.connected).unwrap_or(i64::MAX));
        drop(members);
        self.changed.send_replace(());
        Ok(Session { fleet: self.clone(), node_id: hello.node_id.clone(), id, replaced })
    }

    /// Everyone, by node id.
    #[must_use]
    pub fn list(&self) -> Vec<wire::Proxy> {
        self.members().by_node_id.values().map(Member::show).collect()
    }

    /// Returns when everyone who is connected serves `revision`, when someone has refused it, or when time is up.
    pub async fn wait(&self, revision: u64, time: Duration) -> wire::WaitResponse {
        let mut changed = self.changed.subscribe();
        let settled = async {
            loop {
                changed.mark_unchanged();
                match self.outcome(revision) {
                    Outcome::TimedOut => {}
                    outcome => return outcome,
                }
                // The sender lives as long as the fleet.
                let _ = changed.changed().await;
                sleep(WAIT_PAUSE).await;
            }
        };
        let outcome = timeout(time, settled).await.unwrap_or(Outcome::TimedOut);
        let proxies = self.list().into_iter().filter(|proxy| proxy.connected).collect();
        wire::WaitResponse { outcome: outcome.into(), proxies }
    }

    fn outcome(&self, revision: u64) -> Outcome {
        let members = self.members();
        let mut connected = members.by_node_id.values().map(|member| &member.proxy).filter(|proxy| proxy.connected);
        let mut outcome = Outcome::Serving;
        for proxy in &mut connected {
            if proxy.revision >= revision {
                continue;
            }
            if proxy.refused_revision >= revision {
                return Outcome::Refused;
            }
            outcome = Outcome::TimedOut;
        }
        outcome
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The proxy was heard of.
    pub fn seen(&self) {
        self.update(|_| ());
    }

    /// It serves a revision. `lag` is since its commit, if it was pushed here.
    pub fn acknowledged(&self, revision: u64, lag: Duration) {
        self.update(|proxy| {
            proxy.revision = revision;
            proxy.lag_ms = Some(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
            proxy.refused_revision = 0;
            proxy.faults.clear();
        });
        self.fleet.changed.send_replace(());
    }

    /// It refused a revision.
    pub fn refused(&self, revision: u64, faults: Vec<wire::Fault>) {
        self.update(|proxy| {
            proxy.refused_revision = revision;
            proxy.faults = faults.into_iter().take(FAULTS_MAX).map(shortened).collect();
        });
        self.fleet.changed.send_replace(());
    }

    /// It said which endpoints are unhealthy.
    pub fn reported(&self, mut report: wire::HealthReport) {
        let omitted = report.unhealthy.len().saturating_sub(UNHEALTHY_MAX);
        report.unhealthy.truncate(UNHEALTHY_MAX);
        report.omitted = report.omitted.saturating_add(u32::try_from(omitted).unwrap_or(u32::MAX));
        for health in &mut report.unhealthy {
            for text in [&mut health.backend, &mut health.endpoint] {
                text.truncate(text.floor_char_boundary(ENDPOINT_BYTES_MAX));
            }
        }
        self.update(|proxy| proxy.health = Some(report));
    }

    fn update(&self, change: impl FnOnce(&mut wire::Proxy)) {
        let mut members = self.fleet.members();
        if let Some(member) = members.by_node_id.get_mut(&self.node_id).filter(|member| member.session == self.id) {
            member.proxy.last_seen_unix_ms = now_ms();
            change(&mut member.proxy);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut members = self.fleet.members();
        let mine = |member: &&mut Member| member.session == self.id;
        let Some(member) = members.by_node_id.get_mut(&self.node_id).filter(mine) else { return };
        member.proxy.connected = false;
        member.proxy.health = None;
        members.connected -= 1;
        if members.by_node_id.len() - members.connected > GONE_MAX {
            let gone = members.by_node_id.values().filter(|member| !member.proxy.connected);
            let oldest = gone.min_by_key(|member| member.proxy.last_seen_unix_ms);
            if let Some(node_id) = oldest.map(|member| member.proxy.node_id.clone()) {
                members.by_node_id.remove(&node_id);
            }
        }
        self.fleet.metrics.proxies_connected.set(i64::try_from(members.connected).unwrap_or(i64::MAX));
        drop(members);
        self.fleet.changed.send_replace(());
    }
}

impl Member {
    fn show(&self) -> wire::Proxy {
        let mut proxy = self.proxy.clone();
        let recent = self.replacements.iter().filter(|at| at.elapsed() < REPLACEMENTS_WINDOW).count();
        if recent >= REPLACEMENTS_MAX {
            proxy.faults.push(wire::Fault {
                code: codes::SHARED_NODE_ID.into(),
                message: format!(
                    "more than one proxy uses the node id {:?}: each closes the other's stream ({recent} times in the \
                     last minute)",
                    proxy.node_id
                ),
                hint: "give each proxy its own --node-id".into(),
                ..Default::default()
            });
        }
        proxy
    }
}

fn check(hello: &wire::Hello) -> Result<(), Refused> {
    let node_id = &hello.node_id;
    if node_id.is_empty() || node_id.len() > NODE_ID_BYTES_MAX || node_id.chars().any(char::is_control) {
        return Err(Refused::BadNodeId);
    }
    let long = |text: &String| text.len() > LABEL_BYTES_MAX;
    if hello.labels.len() > LABELS_MAX || hello.labels.iter().any(|(key, value)| long(key) || long(value)) {
        return Err(Refused::BadLabels);
    }
    Ok(())
}

/// A proxy's words are kept for as long as it is, so they are kept short.
fn shortened(mut fault: wire::Fault) -> wire::Fault {
    for text in [&mut fault.code, &mut fault.name, &mut fault.field, &mut fault.message, &mut fault.hint] {
        text.truncate(text.floor_char_boundary(FAULT_TEXT_BYTES_MAX));
    }
    fault.location = None;
    fault
}

#[cfg(test)]
mod tests;
