//! One try at one endpoint.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use tokio::time::Instant;

use super::{
    After, Exchange, Record,
    downlink::{Down, Downlink},
    flow::{Flow, UploadState},
    reply,
    uplink::{Stop, Upload, uplink},
};
use crate::{
    error::ProxyError,
    forward::{self, Identity},
    http1::{Framing, write},
    resolve::ConnectError,
    snapshot::{Endpoint, Rule, WeightedBackend},
    stream::{self, Pressure},
    timer::Timer,
    upstream::{EndpointState, RetryBudget},
};

/// What was decided for a request before the first try.
#[derive(Debug)]
pub struct Plan<'p> {
    /// The rule that matched.
    pub rule: &'p Rule,
    /// The backend that was chosen.
    pub chosen: &'p WeightedBackend,
    /// How many bytes of the path are removed from its beginning.
    pub strip: usize,
    /// The client asks for a WebSocket.
    pub upgrade: bool,
}

/// Why a try gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A pooled connection turned out to be closed before a byte of an answer came.
    Stale(ProxyError),
    /// The upstream answered with a status that is worth a retry.
    Status,
    /// Anything else.
    Error(ProxyError),
}

impl Failure {
    /// What the client is told if there is no other try.
    pub fn error(self) -> ProxyError {
        match self {
            Self::Stale(error) | Self::Error(error) => error,
            Self::Status => ProxyError::UpstreamClosed,
        }
    }
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self::Error(error)
    }
}

/// Sends the request to an endpoint and its answer to the client.
#[allow(clippy::too_many_arguments, reason = "each is a different thing, and there is one caller")]
pub async fn attempt(
    x: &mut Exchange<'_, '_>,
    upload: &mut Upload,
    record: &mut Record,
    plan: &Plan<'_>,
    endpoint: &Endpoint,
    pool: &Rc<EndpointState>,
    fresh: bool,
    retry_budget: Option<&RetryBudget>,
) -> Result<After, Failure> {
    let timeouts = plan.rule.timeouts;
    let mut connection = match if fresh || plan.upgrade { None } else { pool.reuse(record.started) } {
        Some(connection) => connection,
        None => {
            // Until a body is sent the total time does not run.
            let begun = if x.request.framing == Framing::Empty { Some(record.started) } else { upload.sent_at };
            let due = Instant::now() + timeouts.connect;
            let due = begun.map_or(due, |begun| due.min(begun + timeouts.total));
            match x.client.timer.until(due, pool.connect()).await {
                Ok(connected) => connected.map_err(|error| {
                    tracing::debug!(endpoint = %endpoint.authority, %error, "cannot connect");
                    match error {
                        ConnectError::NoAddress => ProxyError::NoAddress,
                        ConnectError::Io(_) => ProxyError::UpstreamConnect,
                    }
                })?,
                Err(_) => return Err(ProxyError::UpstreamConnectTimeout.into()),
            }
        }
    };
    let reused = connection.reused;
    x.upstream_in.clear();
    x.upstream_out.clear();
    write_head(x, plan, endpoint);

    let try_started = if record.tries == 1 && reused { record.started } else { Instant::now() };
    let flow = Flow::begin(timeouts, record.started, try_started, x.request.framing != Framing::Empty)
        .with_client(&x.worker.shared.policy);
    flow.replayable.set(upload.can_replay());
    let outcome = {
        let pressure = Pressure::default();
        let (from_upstream, to_upstream) =
            stream::split(&mut connection.stream, x.upstream_in, x.upstream_out, &pressure);
        let downlink = Downlink {
            from: from_upstream,
            to: &mut x.client.output,
            request: x.request,
            response: x.response,
            flow: &flow,
            plan,
            record,
            worker: x.worker,
            retry_budget,
        };
        let uplink = uplink(&mut x.client.input, to_upstream, upload, &flow, plan);
        race(downlink.run(), uplink, x.client.timer, &flow, [x.client.pressure, &pressure]).await
    };
    let down = match outcome {
        Outcome::Down(down) => down,
        Outcome::Stop(Stop::ClientGone) => return Err(ProxyError::ClientGone.into()),
        Outcome::Stop(Stop::TunnelDone) => return Ok(After::Close),
        Outcome::Stop(Stop::TunnelBroken) => return Ok(After::Abort),
        Outcome::Stop(Stop::Refused(error)) => return Err(error.into()),
        Outcome::Expired if flow.tunnel.get() => return Ok(After::Abort),
        Outcome::Expired if record.status != 0 && x.client.pressure.is_blocked() => {
            return Err(ProxyError::ClientStalled.into());
        }
        Outcome::Expired if flow.upload.get() == UploadState::AwaitingClient => {
            return Err(ProxyError::RequestBodyTimeout.into());
        }
        Outcome::Expired => return Err(ProxyError::UpstreamTimeout.into()),
    };
    match down {
        Down::Answered { reusable, keep_alive } => {
            if reusable && !plan.upgrade && flow.upload.get() == UploadState::Done && x.upstream_in.is_empty() {
                let now = record.ended.unwrap_or_else(Instant::now);
                pool.keep(connection, now, x.response.connection.keep_alive_time);
            }
            match flow.upload.get() {
                UploadState::Done if keep_alive => Ok(After::KeepAlive),
                UploadState::Done => Ok(After::Close),
                // The answer came before the whole request: what is left of it must not be read as the next one.
                _ if keep_alive => Ok(reply::drain(x.client, upload).await),
                _ => Ok(After::Close),
            }
        }
        Down::TunnelDone => Ok(After::Close),
        Down::TunnelBroken => Ok(After::Abort),
        Down::RetryStatus => Err(Failure::Status),
        Down::Closed { answered: false } if reused => Err(Failure::Stale(ProxyError::UpstreamClosed)),
        Down::Closed { .. } => Err(ProxyError::UpstreamClosed.into()),
        Down::Failed(error) => Err(error.into()),
    }
}

fn write_head(x: &mut Exchange<'_, '_>, plan: &Plan<'_>, endpoint: &Endpoint) {
    let path = match (&*endpoint.base_path, x.target.path.get(plan.strip..).unwrap_or_default()) {
        ("", "") => ["/", ""],
        (base, path) => [base, path],
    };
    write::request_line(x.upstream_out, &x.request.method, path, x.target.query());
    let identity = Identity {
        host: if x.target.host_field.is_empty() { &endpoint.authority } else { &x.target.host_field },
        peer: &x.client.peer.text,
        forwarded: x.forwarded,
        upgrade: plan.upgrade,
    };
    forward::write_request_fields(x.upstream_out, x.request, &identity);
}

enum Outcome {
    Down(Down),
    Stop(Stop),
    Expired,
}

/// Runs both directions until the answer is over, one of them fails, or the time is up.
async fn race(
    downlink: impl Future<Output = Down>,
    uplink: impl Future<Output = Stop>,
    timer: &mut Timer,
    flow: &Flow,
    [client, upstream]: [&Pressure; 2],
) -> Outcome {
    let mut downlink = pin!(downlink);
    let mut uplink = pin!(uplink);
    poll_fn(|cx| {
        if let Poll::Ready(down) = downlink.as_mut().poll(cx) {
            return Poll::Ready(Outcome::Down(down));
        }
        if let Poll::Ready(stop) = uplink.as_mut().poll(cx) {
            return Poll::Ready(Outcome::Stop(stop));
        }
        while timer.poll_expired(flow.deadline(), cx).is_ready() {
            if !flow.extend(client, upstream) {
                return Poll::Ready(Outcome::Expired);
            }
        }
        Poll::Pending
    })
    .await
}
