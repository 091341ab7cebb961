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
mod turn;
mod uplink;

use std::{cell::Cell, io, rc::Rc, sync::Arc};

use bytes::BytesMut;
use tokio::time::Instant;

use self::{attempt::Failure, uplink::Upload};
use crate::{
    body::{Sink, Source},
    canonical,
    client::{Client, Unmet},
    error::ProxyError,
    forward::{self, Forwarded},
    grpc,
    http1::{
        Framing, Version,
        body::Piece,
        head::{RequestHead, ResponseHead},
    },
    plugin::{Chain, Facts, Flow, Named, Plugin, PluginRequest, mirror::copies::Copying},
    route::RequestView,
    snapshot::{Protocol, Rule, WeightedBackend},
    target::Target,
    telemetry::{access_log, metrics::Active},
    upstream::{self, Affinity, Asker, Call, Retrying, Tried},
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
    backend: Option<Chosen>,
    /// What plugins have found out. What they hold is given back before the request counts as over.
    facts: Facts,
    series: Option<Active>,
    tries: u32,
    /// The try that is under way.
    call: Option<Call>,
    /// As sent to the client; 0 until its head is.
    status: u16,
    reason: &'static str,
    /// The name of the plugin that answered.
    plugin: Option<Box<str>>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    /// Index into the rule's backends.
    index: usize,
    /// Index into that one's chains of listeners; `None` for the general one.
    listener: Option<usize>,
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
    let (rule, behind, chosen, named) = {
        let snapshot = x.worker.shared.snapshot.load();
        record.snapshot = snapshot.revision;
        if snapshot.revision == 0 {
            return Err(ProxyError::NotReady);
        }
        let path = canonical::without_parameters(&x.target.path);
        // As this snapshot calls it; or, if it has it no longer, as it was called last, unless another has that name now.
        let known = snapshot.listener_at(peer.listener.address());
        let last = known.is_none().then(|| peer.listener.name());
        let namesake = last.as_ref().and_then(|name| snapshot.listener(name));
        if known.is_none() && (peer.listener.is_guarded() || namesake.is_some_and(|it| !it.plugins.is_empty())) {
            // Its plugins are not to be passed by, and nobody knows what they would be by now.
            x.request.connection.close = true;
            return Err(ProxyError::Misdirected);
        }
        let last = last.filter(|_| namesake.is_none());
        let listener = known.or(last.as_deref()).unwrap_or(NO_LISTENER);
        let view = RequestView {
            listener,
            method: &x.request.method,
            host: &x.target.host,
            path: &path,
            query: x.target.query(),
            fields: &x.request.fields,
        };
        let matched = snapshot.router.find(&view).ok_or(ProxyError::NoRoute)?;
        let behind = canonical::behind(&x.target.path, &path[..matched.prefix_len]);
        let rule: &Rule = rule.insert(Arc::clone(matched.rule));
        let index = choose_backend(rule, asker(x)).ok_or(ProxyError::NoEndpoint)?;
        let chosen = &rule.backends[index];
        record.backend = Some(Chosen { index, listener: chosen.listener_index(listener) });
        let named = Named::of(record.chain(rule), &snapshot);
        (rule, x.target.path.len() - behind.len(), chosen, named)
    };
    record.series = Some(x.worker.series(rule, &chosen.backend, record.started).begin());

    let upgrade = wants_websocket(x.request);
    let by_http2 = x.request.version == Version::Http2;
    if upgrade && !websocket::is_sound(&x.request.fields, !by_http2) {
        return Err(ProxyError::BadWebSocket);
    }
    let key = (upgrade && by_http2).then(websocket::key);
    forward::sanitise_request(&mut x.request.fields);

    let mut timeouts = rule.timeouts;
    let mut ends = None;
    if reply::is_call(x.request) {
        // A call may take long before its first answer; its caller says how long, or the idle time bounds it.
        timeouts.total = timeouts.total.max(timeouts.idle);
        ends = grpc::timeout(&x.request.fields).map(|timeout| record.started + timeout);
    }
    let strip = if rule.strip_prefix { behind } else { 0 };
    let chain = record.chain(rule);
    let mut plan = attempt::Plan { rule, chosen, chain, strip, rewrite: None, upgrade, key, timeouts, ends };
    if !chain.is_empty() {
        // Plugins see end-to-end fields only; the first to answer ends the request here.
        if let Some((plugin, flow)) = ask_plugins(x, upload, record, &plan, (behind, trusted, &named)).await? {
            return Ok(reply::plugin(x, record, rule, plugin, flow).await);
        }
        plan.rewrite = record.facts.rewrite.take();
        upload.bound(record.facts.body_bytes_max)?;
        let copies = std::mem::take(&mut record.facts.copies);
        if !upgrade {
            upload.copy(Copying::begin(copies, x.worker));
        }
    }
    send(x, upload, record, &plan).await
}

/// Runs the request phase of the plugins, within the time that the request has. The one that ends the request, if one
/// does, with what it says.
async fn ask_plugins<'p>(
    x: &mut Exchange<'_, '_>,
    upload: &Upload,
    record: &mut Record,
    plan: &attempt::Plan<'p>,
    (prefix, trusted, named): (usize, bool, &Named),
) -> Result<Option<(&'p Plugin, Flow)>, ProxyError> {
    let due = turn::due(Some(record.started), plan, plan.timeouts.total);
    let peer = x.client.peer;
    let is_call = reply::is_call(x.request);
    let mut request = PluginRequest {
        fields: &mut x.request.fields,
        method: &x.request.method,
        target: x.target,
        prefix,
        scheme: x.forwarded.proto.unwrap_or(if peer.tls.is_some() { "https" } else { "http" }),
        client: x.forwarded.client.unwrap_or(peer.address),
        trusted,
        peer,
        is_call,
        rule: plan.rule,
        backend: &plan.chosen.backend,
        body_length: upload.length(),
        forwarded: x.forwarded,
        named,
        worker: x.worker,
        now: record.started,
        facts: &mut record.facts,
    };
    let asked = x.client.wait(due, plan.chain.on_request(&mut request)).await;
    asked.map_err(|unmet| match unmet {
        Unmet::Gone => ProxyError::ClientGone,
        Unmet::Expired if plan.has_ended() => ProxyError::DeadlineExceeded,
        Unmet::Expired => ProxyError::PluginTimeout,
    })
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
        Some((limits, most)) => Some(turn::admit(x, upload, record, plan, &view.group, limits, most).await?),
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
pub fn is_idempotent(method: &str) -> bool {
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
async fn carry(from: &mut Source<'_>, to: &mut Sink<'_>, flow: &flow::Flow) -> io::Result<()> {
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
            facts: Facts::default(),
            plugin: None,
        }
    }

    /// The plugins of the request, once a backend is chosen.
    fn chain<'r>(&self, rule: &'r Rule) -> &'r Chain {
        static NONE: Chain = Chain::EMPTY;
        self.backend.map_or(&NONE, |chosen| rule.backends[chosen.index].chain(chosen.listener))
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
        let backend = rule.zip(self.backend).map(|(rule, chosen)| &*rule.backends[chosen.index].backend.name);
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
            plugin: self.plugin.as_deref().unwrap_or_default(),
            consumer: self.facts.consumer.as_ref().map_or("", |consumer| &consumer.name),
            request_id: self.facts.request_id.as_deref().unwrap_or_default(),
        });
    }
}
