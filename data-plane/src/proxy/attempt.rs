//! One try at one endpoint.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use tokio::time::Instant;

use super::{
    After, Exchange, Record,
    downlink::{Down, Downlink},
    flow::{Flow, UploadState},
    reply::is_call,
    turn::{admit_connection, begun, due},
    uplink::{Stop, Upload, uplink},
};
use crate::{
    body::{Sink, Source},
    error::ProxyError,
    forward::{self, Forwarded, Identity},
    grpc,
    http1::{Framing, write},
    http2::{self, Receiver, Sender},
    limit::Limit,
    plugin::{Chain, Rewrite},
    resolve::ConnectError,
    snapshot::{Endpoint, Protocol, Rule, Timeouts, WeightedBackend},
    spare,
    stream::Pressure,
    target::Target,
    timer::Timer,
    upstream::{Connection, EndpointState, Link, Need, Retrying, Turn},
    worker::Peer,
};

/// What was decided for a request before the first try.
#[derive(Debug)]
pub struct Plan<'p> {
    /// The rule that matched.
    pub rule: &'p Rule,
    /// The backend that was chosen.
    pub chosen: &'p WeightedBackend,
    /// The plugins that it passes.
    pub chain: &'p Chain,
    /// How many bytes of the path are removed from its beginning.
    pub strip: usize,
    /// What a plugin asks for instead.
    pub rewrite: Option<Box<Rewrite>>,
    /// The client asks for a WebSocket.
    pub upgrade: bool,
    /// Its `Sec-WebSocket-Key` for an endpoint that speaks HTTP/1.1, if the client has none since it does not.
    pub key: Option<String>,
    /// The rule's; the total time does not bound a call of gRPC.
    pub timeouts: Timeouts,
    /// When the caller no longer waits, if it said so.
    pub ends: Option<Instant>,
}

impl Plan<'_> {
    /// Whether the caller no longer waits.
    pub fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }
}

/// Why a try gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A pooled connection turned out to be closed before a byte of an answer came.
    Stale {
        /// What the client is told if there is no other try.
        error: ProxyError,
        /// Whether the upstream is known not to have looked at the request.
        unseen: bool,
    },
    /// The upstream answered with a status that is worth a retry.
    Status,
    /// Anything else.
    Error(ProxyError),
}

impl Failure {
    /// What the client is told if there is no other try.
    pub fn error(self) -> ProxyError {
        match self {
            Self::Stale { error, .. } | Self::Error(error) => error,
            Self::Status => ProxyError::UpstreamClosed,
        }
    }
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self::Error(error)
    }
}

/// Sends the request to an endpoint and its answer to the client. `None` if all is well but for what is left of the request.
#[allow(clippy::too_many_arguments, reason = "each is a different thing, and there is one caller")]
pub async fn attempt(
    x: &mut Exchange<'_, '_>,
    upload: &mut Upload,
    record: &mut Record,
    plan: &Plan<'_>,
    endpoint: &Endpoint,
    pool: &Rc<EndpointState>,
    fresh: bool,
    retrying: &Retrying<'_>,
) -> Result<Option<After>, Failure> {
    let timeouts = plan.timeouts;
    // A WebSocket is a stream like others on a connection that can only be HTTP/2's.
    let need = match (plan.upgrade && endpoint.protocol != Protocol::H2, fresh) {
        (true, _) => Need::Upgrade,
        (false, true) => Need::Fresh,
        (false, false) => Need::Any,
    };
    let begun = begun(x, upload, record);
    let pooled = if need == Need::Any { pool.reuse(record.started) } else { None };
    let turn = match (pooled, retrying.backend.limits) {
        (Some(connection), _) => Turn::Pooled(connection),
        (None, None) => Turn::New(None),
        (None, Some(limits)) => {
            let due = due(begun, plan, limits.pending_timeout);
            // In a box: who has no limits does not pay for its size.
            Box::pin(admit_connection(x, due, plan, limits, &retrying.view.group, pool, need)).await?
        }
    };
    // Dropped from last to first: a connection is closed before another may take its place.
    let Connection { slot, mut link, address, reused } = match turn {
        Turn::Pooled(connection) => connection,
        Turn::New(slot) => {
            let due = due(begun, plan, timeouts.connect);
            match x.client.timer.until(due, pool.connect(plan.upgrade, slot)).await {
                Ok(connected) => connected.map_err(|error| {
                    tracing::debug!(endpoint = %endpoint.authority, %error, "cannot connect");
                    match error {
                        ConnectError::NoAddress => ProxyError::NoAddress,
                        ConnectError::Io(_) => ProxyError::UpstreamConnect,
                    }
                })?,
                Err(_) if plan.has_ended() => return Err(ProxyError::DeadlineExceeded.into()),
                Err(_) => return Err(ProxyError::UpstreamConnectTimeout.into()),
            }
        }
    };
    spare::give_back(x.upstream_in);
    x.upstream_out.clear();
    let bodyless = x.request.framing == Framing::Empty;
    let try_started = if record.tries == 1 && reused { record.started } else { Instant::now() };
    // A call says that it is one in every way that it must.
    let messages = !bodyless && x.request.wants_trailers && is_call(x.request);
    let flow = Flow::begin(timeouts, record.started, try_started, !bodyless)
        .with_client(&x.worker.shared.policy, messages)
        .ending(plan.ends);
    if let Some(ends) = plan.ends {
        let left = ends.saturating_duration_since(Instant::now());
        x.request.fields.set("grpc-timeout", grpc::timeout_text(left).as_bytes());
    }
    flow.replayable.set(upload.can_replay());
    let silence = timeouts.total / 2;
    if timeouts.per_try.is_none()
        && x.request.framing == Framing::Empty
        && !plan.upgrade
        && retrying.watches_for_hangs()
    {
        flow.watch_for_hang(try_started + silence);
    }
    let outcome = {
        let pressure = Pressure::default();
        let outgoing;
        let (from, to) = match &mut link {
            Link::Http1(stream) => {
                write_head(x, plan, endpoint);
                let (input, output) = stream.split(x.upstream_in, x.upstream_out, &pressure);
                (Source::http1(input), Sink::Http1(output))
            }
            Link::Http2(lease) => {
                let head = http2_head(x, plan, endpoint).map_err(|_| ProxyError::BadForm)?;
                let sending = async {
                    if plan.upgrade && !lease.takes_websockets().await {
                        return Ok(None);
                    }
                    lease.send(head, bodyless && !plan.upgrade).await.map(Some)
                };
                let response = match x.client.timer.until(flow.deadline(), sending).await {
                    Ok(Ok(Some((response, sent)))) => {
                        outgoing = sent;
                        response
                    }
                    Ok(Ok(None)) => return Err(ProxyError::UpstreamWithoutWebSocket.into()),
                    Ok(Err(_)) => return Err(Failure::Stale { error: ProxyError::UpstreamClosed, unseen: true }),
                    Err(_) if flow.has_ended() => return Err(ProxyError::DeadlineExceeded.into()),
                    Err(_) => return Err(ProxyError::UpstreamTimeout.into()),
                };
                (
                    Source::UpstreamStream(Receiver::answer(response)),
                    Sink::UpstreamStream(Sender::new(&outgoing, &pressure)),
                )
            }
        };
        let mut downlink = Downlink {
            from,
            to: &mut x.client.output,
            request: x.request,
            response: x.response,
            flow: &flow,
            reused,
            plan,
            record,
            worker: x.worker,
            retrying,
        };
        // Pinned here: what is moved into a future has its place twice.
        let (down, up) = (pin!(downlink.run()), pin!(uplink(&mut x.client.input, to, upload, &flow, plan)));
        let pressures = [x.client.pressure, &pressure];
        let ask_again = || retrying.ask_again(try_started, silence);
        race(down, up, x.client.timer, &flow, pressures, x.client.stream, ask_again).await
    };
    let down = match outcome {
        Outcome::Down(down) => down,
        Outcome::Stop(Stop::ClientGone) => return Err(ProxyError::ClientGone.into()),
        Outcome::Stop(Stop::TunnelDone) => return Ok(Some(After::Close)),
        Outcome::Stop(Stop::TunnelBroken) => return Ok(Some(After::Abort)),
        Outcome::Stop(Stop::Refused(error)) => return Err(error.into()),
        Outcome::Expired if flow.tunnel.get() => {
            x.worker.count_limit(flow.takes_slowly().then_some(Limit::WriteRate));
            return Ok(Some(After::Abort));
        }
        // These say nothing of the upstream.
        Outcome::Expired if flow.sends_slowly() => return Err(ProxyError::RequestBodySlow.into()),
        Outcome::Expired if flow.takes_slowly() => return Err(ProxyError::ClientSlow.into()),
        Outcome::Expired if flow.has_ended() => return Err(ProxyError::DeadlineExceeded.into()),
        Outcome::Expired if record.status != 0 && x.client.pressure.is_blocked() => {
            return Err(ProxyError::ClientStalled.into());
        }
        Outcome::Expired if flow.upload.get() == UploadState::AwaitingClient => {
            return Err(ProxyError::RequestBodyTimeout.into());
        }
        Outcome::Expired => {
            if let (Link::Http2(lease), 0) = (&link, record.status) {
                // The connection may be dead, and the others on it do not know yet.
                lease.retire();
            }
            return Err(ProxyError::UpstreamTimeout.into());
        }
    };
    match down {
        Down::Answered { reusable, keep_alive } => {
            let clean =
                reusable && !flow.unasked.get() && flow.upload.get() == UploadState::Done && x.upstream_in.is_empty();
            if let (Link::Http1(stream), true, false) = (link, clean, plan.upgrade) {
                let now = record.ended.unwrap_or_else(Instant::now);
                pool.keep(slot, stream, address, now, x.response.connection.keep_alive_time);
            }
            match flow.upload.get() {
                UploadState::Done if keep_alive => Ok(Some(After::KeepAlive)),
                // The answer came before the whole request: what is left of it must not be read as the next one.
                UploadState::AwaitingClient | UploadState::AwaitingUpstream | UploadState::Broken if keep_alive => {
                    Ok(None)
                }
                _ => Ok(Some(After::Close)),
            }
        }
        Down::TunnelDone => Ok(Some(After::Close)),
        Down::TunnelBroken => Ok(Some(After::Abort)),
        Down::RetryStatus => Err(Failure::Status),
        // A stream that is given up by itself does not lie in a connection that was closed.
        Down::Closed { answered: false, unseen, error }
            if unseen || (reused && error == ProxyError::UpstreamClosed) =>
        {
            Err(Failure::Stale { error, unseen })
        }
        Down::Closed { error, .. } => Err(error.into()),
        Down::Failed(error) => Err(error.into()),
    }
}

fn write_head(x: &mut Exchange<'_, '_>, plan: &Plan<'_>, endpoint: &Endpoint) {
    write::request_line(x.upstream_out, &x.request.method, path(x.target, plan, endpoint), query(x.target, plan));
    if let Some(key) = &plan.key {
        write::field(x.upstream_out, "Sec-WebSocket-Key", key.as_bytes());
    }
    forward::write_request_fields(
        x.upstream_out,
        x.request,
        &identity(x.target, x.client.peer, x.forwarded, plan, endpoint),
    );
}

fn http2_head(x: &mut Exchange<'_, '_>, plan: &Plan<'_>, endpoint: &Endpoint) -> io::Result<http::Request<()>> {
    let method = if plan.upgrade { "CONNECT" } else { &x.request.method };
    let identity = identity(x.target, x.client.peer, x.forwarded, plan, endpoint);
    let path = path(x.target, plan, endpoint);
    let mut head = http2::head::request(method, endpoint.scheme(), identity.host, path, query(x.target, plan))?;
    forward::add_request_fields(head.headers_mut(), x.request, &identity)?;
    if plan.upgrade {
        head.headers_mut().remove("sec-websocket-key");
        head.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    }
    Ok(head)
}

/// The path that the endpoint is asked for, in two parts.
fn path<'x>(target: &'x Target, plan: &'x Plan<'_>, endpoint: &'x Endpoint) -> [&'x str; 2] {
    let rewritten = plan.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_deref());
    let path = rewritten.unwrap_or_else(|| target.path.get(plan.strip..).unwrap_or_default());
    match (&*endpoint.base_path, path) {
        ("", "") => ["/", ""],
        (base, path) => [base, path],
    }
}

fn query<'x>(target: &'x Target, plan: &'x Plan<'_>) -> Option<&'x str> {
    Rewrite::query_of(plan.rewrite.as_deref(), target)
}

fn identity<'x>(
    target: &'x Target,
    peer: &'x Peer,
    forwarded: &'x Forwarded,
    plan: &'x Plan<'_>,
    endpoint: &'x Endpoint,
) -> Identity<'x> {
    let own = if target.host_field.is_empty() { &endpoint.authority } else { &*target.host_field };
    Identity {
        host: plan.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_deref()).unwrap_or(own),
        asked_host: own,
        peer: &peer.text,
        forwarded,
        tls: peer.tls.as_ref().map(|tls| tls.identity.as_deref()),
        upgrade: plan.upgrade,
    }
}

enum Outcome {
    Down(Down),
    Stop(Stop),
    Expired,
}

/// Runs both directions until the answer is over, one of them fails, or the time is up.
async fn race(
    mut downlink: Pin<&mut impl Future<Output = Down>>,
    mut uplink: Pin<&mut impl Future<Output = Stop>>,
    timer: &mut Timer,
    flow: &Flow,
    [client, upstream]: [&Pressure; 2],
    stream: Option<&http2::Stream>,
    ask_again: impl Fn() -> Option<Instant>,
) -> Outcome {
    poll_fn(|cx| {
        if let Poll::Ready(down) = downlink.as_mut().poll(cx) {
            return Poll::Ready(Outcome::Down(down));
        }
        if let Poll::Ready(stop) = uplink.as_mut().poll(cx) {
            return Poll::Ready(Outcome::Stop(stop));
        }
        if stream.is_some_and(|stream| stream.poll_given_up(cx).is_ready()) {
            return Poll::Ready(Outcome::Stop(Stop::ClientGone));
        }
        flow.watch_client(client, stream.map_or(1, http2::Stream::open));
        while timer.poll_expired(flow.deadline(), cx).is_ready() {
            if !flow.extend(client, upstream, &ask_again) {
                return Poll::Ready(Outcome::Expired);
            }
        }
        Poll::Pending
    })
    .await
}
