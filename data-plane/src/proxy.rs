//! A request, top to bottom.
//!
//! [`serve`] is handed a request whose head is parsed. It fixes the canonical view ([`Target`]), loads the snapshot
//! once and matches, runs the plugins, and tries an upstream, perhaps several times. A try ([`attempt`]) is two
//! straight lines side by side: [`uplink`] sends the request and carries what the client sends, [`downlink`] carries
//! what the upstream answers. They run in one task, so an early answer, an abort on either side or a
//! deadline ends both at once.

mod attempt;
mod downlink;
mod flow;
mod patience;
mod reply;
mod uplink;

use std::{
    cell::Cell,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::BytesMut;
use tokio::time::Instant;

use self::{attempt::Failure, flow::Flow, uplink::Upload};
use crate::{
    body::{Sink, Source},
    canonical,
    client::{Client, Unmet},
    error::ProxyError,
    forward::{self, Forwarded},
    grpc,
    health::Group,
    http1::{
        Framing, Version,
        body::Piece,
        head::{RequestHead, ResponseHead},
    },
    plugin::{self, Plugin},
    route::RequestView,
    snapshot::{Limits, Protocol, Rule, WeightedBackend},
    target::Target,
    telemetry::{access_log, metrics::Active},
    upstream::{self, Affinity, Asker, Call, Claim, EndpointState, Entry, Gate, Need, Permit, Retrying, Tried, Turn},
    websocket,
    worker::Worker,
};

/// What one direction may carry before others have their turn.
const BYTES_PER_TURN: usize = 1 << 20;

/// What no listener is called: an empty name would be any.
const NO_LISTENER: &str = "(gone)";

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It may send the next request.
    KeepAlive,
    /// It is closed when the client has the answer.
    Close,
    /// It is reset: the answer is cut, or the client is gone.
    Abort,
}

/// Everything that serving one request takes.
#[derive(Debug)]
pub struct Exchange<'a, 'c> {
    /// Who serves.
    pub worker: &'a Worker,
    /// Who asks.
    pub client: &'a mut Client<'c>,
    /// The request's head.
    pub request: &'a mut RequestHead,
    /// Room for the response's head.
    pub response: &'a mut ResponseHead,
    /// Room for the canonical view.
    pub target: &'a mut Target,
    /// Room for what trusted proxies say.
    pub forwarded: &'a mut Forwarded,
    /// Buffer for what comes from the upstream.
    pub upstream_in: &'a mut BytesMut,
    /// Buffer for what goes to the upstream.
    pub upstream_out: &'a mut Vec<u8>,
}

/// What is known of a request when it is over, for log and metrics.
#[derive(Debug)]
struct Record {
    started: Instant,
    /// When the answer was over, if that is known already.
    ended: Option<Instant>,
    snapshot: u64,
    /// Index into the rule's backends.
    backend: Option<usize>,
    series: Option<Active>,
    tries: u32,
    /// The try that is under way.
    call: Option<Call>,
    /// As sent to the client; 0 until its head is.
    status: u16,
    reason: &'static str,
}

/// Serves one request.
pub async fn serve(mut x: Exchange<'_, '_>) -> After {
    let mut record = Record::begin();
    let mut upload = Upload::new(x.request.framing, x.worker.shared.policy.body_bytes_max);
    let mut rule = None;
    x.client.input.begin(x.request.framing);
    let result = handle(&mut x, &mut upload, &mut record, &mut rule).await;
    let after = match result {
        Ok(after) => after,
        Err(error) => {
            record.reason = error.reason();
            x.worker.count_limit(error.limit());
            // What is in the buffer now is half of an interim answer, of which some may be with the client already.
            let half_sent = record.status != 0 || x.client.output.holds_some();
            if error == ProxyError::ClientGone {
                After::Abort
            } else if half_sent {
                reply::cut(&mut x, &record, error)
            } else {
                reply::error(&mut x, &mut record, rule.as_deref(), error).await
            }
        }
    };
    record.end(&x, rule.as_deref());
    after
}

/// Answers a request whose head could not be read; there is no knowing where the next one would begin.
pub async fn refuse(mut x: Exchange<'_, '_>, error: ProxyError) -> After {
    let mut record = Record::begin();
    record.reason = error.reason();
    x.worker.count_limit(error.limit());
    x.request.connection.close = true;
    x.request.framing = Framing::Empty;
    x.request.method.clear();
    *x.target = Target::default();
    x.forwarded.client = Some(x.client.peer.address);
    x.client.input.begin(Framing::Empty);
    let after = reply::error(&mut x, &mut record, None, error).await;
    record.end(&x, None);
    if after == After::KeepAlive { After::Close } else { after }
}

/// The straight line. What matched is kept in `rule`, for the record at the end.
async fn handle(
    x: &mut Exchange<'_, '_>,
    upload: &mut Upload,
    record: &mut Record,
    rule: &mut Option<Arc<Rule>>,
) -> Result<After, ProxyError> {
    // One canonical view, fixed before anything is decided by it.
    let policy = &x.worker.shared.policy;
    let trusted = x.forwarded.read(&x.request.fields, x.client.peer.address, &policy.trusted_proxies);
    forward::admit_request(&mut x.request.fields, &x.request.connection, trusted);
    x.target.read(x.request)?;
    let peer = x.client.peer;
    if peer.tls.as_ref().is_some_and(|tls| !tls.is_for(&x.target.host)) || peer.is_outdated() {
        return Err(ProxyError::Misdirected);
    }
    upload.check_length()?;

    // One snapshot, loaded once; only the rule is kept.
    let (matched, behind) = {
        let snapshot = x.worker.shared.snapshot.load();
        record.snapshot = snapshot.revision;
        if snapshot.revision == 0 {
            return Err(ProxyError::NotReady);
        }
        let path = canonical::without_parameters(&x.target.path);
        // As this snapshot calls it; or, if it has it no longer, as it was called last, unless another has that name now.
        let known = snapshot.listener_at(x.client.peer.listener.address());
        let last = known.is_none().then(|| x.client.peer.listener.name());
        let last = last.filter(|name| !snapshot.has_listener(name));
        let view = RequestView {
            listener: known.or(last.as_deref()).unwrap_or(NO_LISTENER),
            method: &x.request.method,
            host: &x.target.host,
            path: &path,
            query: x.target.query(),
            fields: &x.request.fields,
        };
        let matched = snapshot.router.find(&view).ok_or(ProxyError::NoRoute)?;
        let behind = canonical::behind(&x.target.path, &path[..matched.prefix_len]);
        (Arc::clone(matched.rule), x.target.path.len() - behind.len())
    };
    let rule: &Rule = rule.insert(matched);
    let index = choose_backend(rule, asker(x)).ok_or(ProxyError::NoEndpoint)?;
    let chosen = &rule.backends[index];
    record.backend = Some(index);
    record.series = Some(x.worker.series(rule, &chosen.backend, record.started).begin());

    let upgrade = wants_websocket(x.request);
    let by_http2 = x.request.version == Version::Http2;
    if upgrade && !websocket::is_sound(&x.request.fields, !by_http2) {
        return Err(ProxyError::BadWebSocket);
    }
    let key = (upgrade && by_http2).then(websocket::key);
    forward::sanitise_request(&mut x.request.fields);

    // Plugins see end-to-end fields only; the first to answer ends the request here.
    for plugin in rule.plugins.iter().chain(&chosen.plugins) {
        if let plugin::Flow::Respond(answer) = plugin.on_request(&mut x.request.fields) {
            return Ok(reply::local(x, record, Some(rule), answer).await);
        }
    }

    let mut timeouts = rule.timeouts;
    let mut ends = None;
    if by_http2 && grpc::is_call(&x.request.fields) {
        // A call may take long before its first answer; its caller says how long, or the idle time bounds it.
        timeouts.total = timeouts.total.max(timeouts.idle);
        ends = grpc::timeout(&x.request.fields).map(|timeout| record.started + timeout);
    }
    let strip = if rule.strip_prefix { behind } else { 0 };
    let plan = attempt::Plan { rule, chosen, strip, upgrade, key, timeouts, ends };
    send(x, upload, record, &plan).await
}

/// Tries the upstream until an answer is on its way to the client, or there is no sense in trying again.
async fn send(
    x: &mut Exchange<'_, '_>,
    upload: &mut Upload,
    record: &mut Record,
    plan: &attempt::Plan<'_>,
) -> Result<After, ProxyError> {
    let upstreams = &x.worker.upstreams;
    let backend = &plan.chosen.backend;
    let state = upstreams.backend(backend);
    let view = state.view(backend, upstreams);
    state.touch(record.started);
    state.budget.deposit(backend.retry_budget, record.started);
    let permit = match backend.limits.and_then(|limits| limits.requests.map(|most| (limits, most))) {
        Some((limits, most)) => Some(admit(x, upload, record, plan, &view.group, limits, most).await?),
        None => None,
    };
    let idempotent = is_idempotent(&x.request.method);
    let affinity = Affinity::read(backend, asker(x));
    let mut tried = Tried::default();
    let mut retries = 0;
    let mut fresh = false;
    loop {
        let now = if record.tries == 0 { record.started } else { Instant::now() };
        let call = upstream::choose(backend, &state, &view, affinity, &tried, upstreams, now);
        let call = call.ok_or(ProxyError::NoEndpoint)?;
        let (current, pool) = (call.index(), Rc::clone(call.pool()));
        let endpoint = &backend.endpoints[current];
        record.tries += 1;
        if record.tries == 1 {
            // Who speaks HTTP/2 may say that it has not looked at a request; then any may be sent again.
            upload.keep_for_replay(idempotent || endpoint.protocol != Protocol::Http1);
        }
        // What was under way there before is over.
        record.call = Some(call);
        let in_flight = pool.begin(record.started);
        let retrying = Retrying {
            retry: &plan.rule.retry,
            backend,
            state: &state,
            view: &view,
            current,
            tried: &tried,
            upstreams,
            idempotent,
            retries,
            asked: Cell::default(),
        };
        let failure = match attempt::attempt(x, upload, record, plan, endpoint, &pool, fresh, &retrying).await {
            Ok(Some(after)) => return Ok(after),
            Ok(None) => {
                // The upstream is done, and so are its limits.
                drop((permit, in_flight));
                return Ok(reply::drain(x.client).await);
            }
            Err(failure) => failure,
        };
        if let (Failure::Error(error), Some(call), 0) = (failure, &record.call, record.status)
            && error.is_upstream_failure()
        {
            call.failed(upstreams);
        }
        if !upload.can_replay() || record.status != 0 {
            return Err(failure.error());
        }
        let wake = Instant::now() + retrying.pause();
        let in_time = wake < upload.sent_at.unwrap_or(record.started) + plan.timeouts.total
            && plan.ends.is_none_or(|ends| wake < ends);
        match failure {
            // The server had closed the connection while it lay in the pool: the request was never looked at.
            Failure::Stale { unseen, .. } if (idempotent || unseen) && !fresh => {
                fresh = true;
                continue;
            }
            Failure::Error(error) if in_time && retrying.after_failure(error) => {}
            // It is paid for already.
            Failure::Status if in_time => {}
            failure => return Err(failure.error()),
        }
        if let Some(series) = &record.series {
            series.retry();
        }
        retries += 1;
        tried.add(current);
        fresh = false;
        record.call = None;
        if x.client.wait(wake, std::future::pending::<()>()).await == Err(Unmet::Gone) {
            return Err(ProxyError::ClientGone);
        }
    }
}

/// Waits for the request's turn under the backend's limits.
async fn admit(
    x: &mut Exchange<'_, '_>,
    upload: &Upload,
    record: &Record,
    plan: &attempt::Plan<'_>,
    group: &Arc<Group>,
    limits: Limits,
    most: u32,
) -> Result<Permit, ProxyError> {
    let waiting = match Gate::enter(&group.requests, most, limits.pending) {
        Entry::Now(permit) => return Ok(permit),
        Entry::Full => {
            group.refused_circuit_open.fetch_add(1, Relaxed);
            return Err(ProxyError::CircuitOpen);
        }
        Entry::Later(waiting) => waiting,
    };
    let due = due(begun(x, upload, record), plan, limits.pending_timeout);
    x.client.wait(due, waiting).await.map_err(|unmet| turn_missed(unmet, plan, group))
}

/// Since when the total time runs: not until a body is sent.
fn begun(x: &Exchange<'_, '_>, upload: &Upload, record: &Record) -> Option<Instant> {
    if x.request.framing == Framing::Empty { Some(record.started) } else { upload.sent_at }
}

/// When a request that begins to wait now, for so long at most, has waited long enough.
fn due(begun: Option<Instant>, plan: &attempt::Plan<'_>, span: Duration) -> Instant {
    let bounds = [begun.map(|begun| begun + plan.timeouts.total), plan.ends];
    bounds.into_iter().flatten().fold(Instant::now() + span, Instant::min)
}

fn turn_missed(unmet: Unmet, plan: &attempt::Plan<'_>, group: &Group) -> ProxyError {
    match unmet {
        Unmet::Gone => ProxyError::ClientGone,
        Unmet::Expired if plan.has_ended() => ProxyError::DeadlineExceeded,
        Unmet::Expired => {
            group.refused_overloaded.fetch_add(1, Relaxed);
            ProxyError::UpstreamOverloaded
        }
    }
}

/// Waits for a connection, or for the right to make one, if the backend has a limit of them.
async fn admit_connection(
    x: &mut Exchange<'_, '_>,
    due: Instant,
    plan: &attempt::Plan<'_>,
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
        Claim::Full => {
            group.refused_circuit_open.fetch_add(1, Relaxed);
            Err(ProxyError::CircuitOpen)
        }
    }
}

/// What a request can be told apart by.
fn asker<'x>(x: &'x Exchange<'_, '_>) -> Asker<'x> {
    let client = x.forwarded.client.unwrap_or(x.client.peer.address);
    Asker { fields: &x.request.fields, path: &x.target.path, client }
}

/// By weight: of the client's hash if that is asked for and it has what is hashed, or else at random. `None` if all
/// weights are 0.
fn choose_backend(rule: &Rule, asker: Asker<'_>) -> Option<usize> {
    if let [only] = &*rule.backends {
        return (only.weight > 0).then_some(0);
    }
    if rule.weight_total == 0 {
        return None;
    }
    let hash = rule.sticky_split.as_ref().and_then(|on| upstream::hash("split", on, asker));
    let mut point = match hash {
        // The hash as a part of the whole: when weights change, no more clients move than must.
        #[allow(clippy::cast_possible_truncation, reason = "it is below the total")]
        Some(hash) => ((u128::from(hash) * u128::from(rule.weight_total)) >> 64) as u32,
        None => fastrand::u32(..rule.weight_total),
    };
    rule.backends.iter().position(|WeightedBackend { weight, .. }| {
        let hit = point < *weight;
        point = point.saturating_sub(*weight);
        hit
    })
}

/// Whether sending a request twice does what sending it once does (RFC 9110 section 9.2.2).
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Whether a request asks for a WebSocket as RFC 6455 has it, or RFC 8441, which was made into the same. Every other
/// upgrade is dropped: an upstream that agreed to one would speak a protocol that the gateway does not see through.
fn wants_websocket(request: &RequestHead) -> bool {
    let mut protocols = request.fields.get_all("upgrade");
    request.connection.upgrade
        && request.method == "GET"
        && request.version != Version::Http10
        && request.framing == Framing::Empty
        && protocols.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none()
}

/// Lets other connections of the worker have their turn after each megabyte: a fast upstream and a fast client would
/// never wait for each other.
async fn yield_now_and_then(carried: &mut usize, bytes: usize) {
    *carried += bytes;
    if *carried >= BYTES_PER_TURN {
        *carried = 0;
        tokio::task::yield_now().await;
    }
}

/// Carries what one side of a tunnel sends to the other, as it comes, and says there when it has ended.
async fn carry(from: &mut Source<'_>, to: &mut Sink<'_>, flow: &Flow) -> io::Result<()> {
    from.begin(Framing::UntilClose);
    loop {
        match from.next().map_err(io::Error::other)? {
            Piece::Data(bytes) => {
                to.piece(Framing::UntilClose, from, bytes, |_| {}).await?;
                to.flush().await?;
                flow.progress();
            }
            Piece::More => {
                if from.fill().await? == 0 {
                    from.closed().map_err(io::Error::other)?;
                }
            }
            Piece::End => return to.shutdown().await,
        }
    }
}

/// The plugins of an answer: those of the request in reverse.
fn response_plugins<'p>(rule: &'p Rule, chosen: &'p WeightedBackend) -> impl Iterator<Item = &'p Arc<Plugin>> {
    chosen.plugins.iter().rev().chain(rule.plugins.iter().rev())
}

impl Record {
    fn begin() -> Self {
        Self {
            started: Instant::now(),
            ended: None,
            snapshot: 0,
            backend: None,
            series: None,
            tries: 0,
            call: None,
            status: 0,
            reason: "",
        }
    }

    fn end(&self, x: &Exchange<'_, '_>, rule: Option<&Rule>) {
        let duration = self.ended.unwrap_or_else(Instant::now).saturating_duration_since(self.started);
        let left = self.status == 0 && self.reason == ProxyError::ClientGone.reason();
        let status = if left { ProxyError::ClientGone.status() } else { self.status };
        match &self.series {
            Some(series) => series.end(status, duration),
            None => x.worker.count_unrouted(status, duration),
        }
        let Some(log) = &x.worker.log else { return };
        let backend = rule.zip(self.backend).map(|(rule, index)| &*rule.backends[index].backend.name);
        log.log(&access_log::Line {
            method: &x.request.method,
            host: &x.target.host,
            path: &x.target.path,
            route: rule.map_or("", |rule| &rule.route),
            backend: backend.unwrap_or_default(),
            status,
            reason: self.reason,
            duration,
            snapshot: self.snapshot,
            client: x.forwarded.client.unwrap_or(x.client.peer.address),
            tries: self.tries,
        });
    }
}
