//! Waiting for a turn at a backend that has limits, and how long anything on the way to an upstream is waited for.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Exchange, Record, attempt::Plan, uplink::Upload};
use crate::{
    client::Unmet,
    error::ProxyError,
    health::Group,
    http1::Framing,
    snapshot::Limits,
    upstream::{Claim, EndpointState, Entry, Gate, Need, Permit, Turn},
};

/// Waits for the request's turn under the backend's limits.
pub async fn admit(
    x: &mut Exchange<'_, '_>,
    upload: &Upload,
    record: &Record,
    plan: &Plan<'_>,
    group: &Arc<Group>,
    limits: Limits,
    most: u32,
) -> Result<Permit, ProxyError> {
    let waiting = match Gate::enter(&group.requests, most, limits.pending) {
        Entry::Now(permit) => return Ok(permit),
        Entry::Full => return Err(group.refuse_full()),
        Entry::Later(waiting) => waiting,
    };
    let due = due(begun(x, upload, record), plan, limits.pending_timeout);
    x.client.wait(due, waiting).await.map_err(|unmet| turn_missed(unmet, plan, group))
}

/// Since when the total time runs: not until a body is sent.
pub fn begun(x: &Exchange<'_, '_>, upload: &Upload, record: &Record) -> Option<Instant> {
    if x.request.framing == Framing::Empty { Some(record.started) } else { upload.sent_at }
}

/// When a request that begins to wait now, for so long at most, has waited long enough.
pub fn due(begun: Option<Instant>, plan: &Plan<'_>, span: Duration) -> Instant {
    let bounds = [begun.map(|begun| begun + plan.timeouts.total), plan.ends];
    bounds.into_iter().flatten().fold(Instant::now() + span, Instant::min)
}

fn turn_missed(unmet: Unmet, plan: &Plan<'_>, group: &Group) -> ProxyError {
    match unmet {
        Unmet::Gone => ProxyError::ClientGone,
        Unmet::Expired if plan.has_ended() => ProxyError::DeadlineExceeded,
        Unmet::Expired => group.refuse_waited(),
    }
}

/// Waits for a connection, or for the right to make one, if the backend has a limit of them.
pub async fn admit_connection(
    x: &mut Exchange<'_, '_>,
    due: Instant,
    plan: &Plan<'_>,
    limits: Limits,
    group: &Group,
    pool: &EndpointState,
    need: Need,
) -> Result<Turn, ProxyError> {
    let Some(most) = limits.connections else { return Ok(Turn::New(None)) };
    if need != Need::Upgrade {
        match x.client.wait(due, pool.shared()).await {
            Ok(Some(connection)) => return Ok(Turn::Pooled(connection)),
            Ok(None) => {}
            Err(unmet) => return Err(turn_missed(unmet, plan, group)),
        }
    }
    match pool.claim(most, limits.pending, need) {
        Claim::Now(turn) => Ok(turn),
        Claim::Later(waiting) => {
            let turn = pool.turn(waiting, most);
            x.client.wait(due, turn).await.map_err(|unmet| turn_missed(unmet, plan, group))
        }
        Claim::Full => Err(group.refuse_full()),
    }
}
