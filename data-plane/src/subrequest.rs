//! Requests that the gateway makes by itself while it serves others: what forward_auth asks, and
//! what mirror sends.
//!
//! A subrequest goes where a route's request to the same backend would: its balancing and health choose the endpoint, its
//! limits and its budget of retries hold, and the connection is one of this worker's pool. Head and body are small and
//! in memory, and so is what is kept of the answer.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    body::{Sink, Source},
    error::ProxyError,
    fields::Fields,
    forward::sanitise_response,
    grpc,
    health::Group,
    http1::{
        Framing,
        body::Piece,
        head::{INTERIM_MAX, ResponseHead, defines_body},
        write,
    },
    http2::{self, Receiver, Sender},
    proxy::is_idempotent,
    resolve::ConnectError,
    snapshot::{Backend, Endpoint, Retry},
    stream::Pressure,
    upstream::{
        self, Affinity, Asker, Call, Claim, Connection, EndpointState, Entry, Gate, Link, Need, Permit, Retrying,
        Tried, Turn,
    },
    worker::Worker,
};

/// What is asked.
#[derive(Debug)]
pub struct Subrequest<'a> {
    /// A token.
    pub method: &'a str,
    /// Canonical; behind the endpoint's own; may be empty.
    pub path: &'a str,
    /// Without its question mark.
    pub query: Option<&'a str>,
    /// For the Host field; the endpoint's authority without it.
    pub host: Option<&'a str>,
    /// End-to-end fields, and who asks.
    pub fields: &'a Fields,
    /// All of it; may be empty.
    pub body: &'a [u8],
}

/// How long an answer is waited for, and how much of it is read.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For all tries together.
    pub time: Duration,
    /// Tries beyond the first, but for those that a pooled connection costs which was closed.
    pub retries: u32,
    /// The most bytes of the answer's body.
    pub body_bytes_max: usize,
    /// Whether somebody wants to have the answer's body.
    pub keeps_body: bool,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// 200 or more.
    pub status: u16,
    /// The end-to-end fields.
    pub fields: Fields,
    /// Empty if nobody wants it; `None` if it has more bytes than are read, or if it is that of a 3xx or 4xx and broke off.
    pub body: Option<Bytes>,
}

/// Why a try gave no answer.
struct Failure {
    error: ProxyError,
    /// A pooled connection turned out to be closed before a byte of an answer came.
    stale: bool,
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self { error, stale: false }
    }
}

/// Asks a backend, on behalf of who asks. Dropped, it is given up.
///
/// # Errors
/// Why there is no answer that is whole and follows the protocol.
pub async fn ask(
    worker: &Worker,
    backend: &Arc<Backend>,
    asker: Asker<'_>,
    request: &Subrequest<'_>,
    terms: Terms,
) -> Result<Answer, ProxyError> {
    let begun = Instant::now();
    let due = begun + terms.time;
    let upstreams = &worker.upstreams;
    let state = upstreams.backend(backend);
    let view = state.view(backend, upstreams);
    state.touch(begun);
    state.budget.deposit(backend.retry_budget, begun);
    let _permit = admit(backend, &view.group, due).await?;
    let affinity = Affinity::read(backend, asker);
    let retry = Retry { attempts: terms.retries, ..Retry::default() };
    let idempotent = is_idempotent(request.method);
    let (mut tried, mut retries, mut fresh) = (Tried::default(), 0, false);
    loop {
        let now = Instant::now();
        let call = upstream::choose(backend, &state, &view, affinity, &tried, upstreams, now);
        let call = call.ok_or(ProxyError::NoEndpoint)?;
        let current = call.index();
        let _in_flight = call.pool().begin(now);
        let attempt =
            Attempt { worker, backend, endpoint: &backend.endpoints[current], group: &view.group, call: &call, due };
        let failure = match attempt.run(request, terms, fresh).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        if failure.error.is_upstream_failure() && !failure.stale {
            call.failed(upstreams);
        }
        if failure.stale && idempotent && !fresh {
            fresh = true;
            continue;
        }
        let retrying = Retrying {
            retry: &retry,
            backend,
            state: &state,
            view: &view,
            current,
            tried: &tried,
            upstreams,
            idempotent,
            retries,
            asked: std::cell::Cell::default(),
        };
        let wake = Instant::now() + retrying.pause();
        if wake >= due || !retrying.after_failure(failure.error) {
            return Err(failure.error);
        }
        retries += 1;
        tried.add(current);
        fresh = false;
        drop(call);
        sleep_until(wake).await;
    }
}

/// Waits for the turn under the backend's limits, if it has any.
async fn admit(backend: &Backend, group: &Arc<Group>, due: Instant) -> Result<Option<Permit>, ProxyError> {
    let Some((limits, most)) = backend.limits.and_then(|limits| limits.requests.map(|most| (limits, most))) else {
        return Ok(None);
    };
    match Gate::enter(&group.requests, most, limits.pending) {
        Entry::Now(permit) => Ok(Some(permit)),
        Entry::Full => Err(group.refuse_full()),
        Entry::Later(waiting) => {
            let due = due.min(Instant::now() + limits.pending_timeout);
            timeout_at(due, waiting).await.map(Some).map_err(|_| group.refuse_waited())
        }
    }
}

/// One try at one endpoint.
struct Attempt<'a> {
    worker: &'a Worker,
    backend: &'a Backend,
    endpoint: &'a Endpoint,
    group: &'a Group,
    call: &'a Call,
    due: Instant,
}

impl Attempt<'_> {
    async fn run(&self, request: &Subrequest<'_>, terms: Terms, fresh: bool) -> Result<Answer, Failure> {
        let pool = self.call.pool();
        // Dropped from last to first: a connection is closed before another may take its place.
        let Connection { slot, mut link, address, reused } = self.connection(pool, fresh).await?;
        let (mut input, mut output) = (BytesMut::new(), Vec::new());
        let mut head = ResponseHead::default();
        let exchanged = {
            let exchange = self.exchange(&mut link, &mut input, &mut output, &mut head, request, terms);
            timeout_at(self.due, exchange).await
        };
        let body = match exchanged {
            Ok(Ok(body)) => body,
            Ok(Err(closed @ ProxyError::UpstreamClosed)) => {
                return Err(Failure { error: closed, stale: reused && head.status == 0 && input.is_empty() });
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                if let (Link::Http2(lease), 0) = (&link, head.status) {
                    // The connection may be dead, and the others on it do not know yet.
                    lease.retire();
                }
                return Err(ProxyError::UpstreamTimeout.into());
            }
        };
        let clean = body.is_some() && head.persistent() && input.is_empty();
        if let (Link::Http1(stream), true) = (link, clean) {
            pool.keep(slot, stream, address, Instant::now(), head.connection.keep_alive_time);
        }
        sanitise_response(&mut head.fields, &head.connection, false);
        Ok(Answer { status: head.status, fields: head.fields, body })
    }

    /// One of the pool, or a new one.
    async fn connection(&self, pool: &Rc<EndpointState>, fresh: bool) -> Result<Connection, ProxyError> {
        let need = if fresh { Need::Fresh } else { Need::Any };
        if !fresh && let Some(connection) = pool.reuse(Instant::now()) {
            return Ok(connection);
        }
        let slot = match self.turn(pool, need).await? {
            Turn::Pooled(connection) => return Ok(connection),
            Turn::New(slot) => slot,
        };
        // An endpoint that is not there leaves time to ask another.
        let now = Instant::now();
        let due = now + self.due.saturating_duration_since(now) / 2;
        match timeout_at(due, pool.connect(false, slot)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(ConnectError::NoAddress)) => Err(ProxyError::NoAddress),
            Ok(Err(ConnectError::Io(_))) => Err(ProxyError::UpstreamConnect),
            Err(_) => Err(ProxyError::UpstreamConnectTimeout),
        }
    }

    /// A connection that came back, or the right to make one, if the backend has a limit of them.
    async fn turn(&self, pool: &EndpointState, need: Need) -> Result<Turn, ProxyError> {
        let limits = self.backend.limits.and_then(|limits| limits.connections.map(|most| (limits, most)));
        let Some((limits, most)) = limits else { return Ok(Turn::New(None)) };
        let due = self.due.min(Instant::now() + limits.pending_timeout);
        let waited = timeout_at(due, async {
            if let Some(connection) = pool.shared().await {
                return Ok(Turn::Pooled(connection));
            }
            match pool.claim(most, limits.pending, need) {
                Claim::Now(turn) => Ok(turn),
                Claim::Later(waiting) => Ok(pool.turn(waiting, most).await),
                Claim::Full => Err(self.group.refuse_full()),
            }
        });
        waited.await.unwrap_or_else(|_| Err(self.group.refuse_waited()))
    }

    /// Sends the request and reads the answer: its body, or `None` if that is too large.
    async fn exchange(
        &self,
        link: &mut Link,
        input: &mut BytesMut,
        output: &mut Vec<u8>,
        head: &mut ResponseHead,
        request: &Subrequest<'_>,
        terms: Terms,
    ) -> Result<Option<Bytes>, ProxyError> {
        let pressure = Pressure::default();
        let outgoing;
        let (mut from, mut to) = match link {
            // What it says before it is asked is no answer to this.
            Link::Http1(stream) if !stream.is_quiet() => return Err(ProxyError::UpstreamClosed),
            Link::Http1(stream) => {
                self.write_head(output, request);
                let (input, output) = stream.split(input, output, &pressure);
                (Source::http1(input), Sink::Http1(output))
            }
            Link::Http2(lease) => {
                let head = self.http2_head(request).map_err(|_| ProxyError::BadForm)?;
                let (response, sent) =
                    lease.send(head, request.body.is_empty()).await.map_err(|_| ProxyError::UpstreamClosed)?;
                outgoing = sent;
                let sink = Sink::UpstreamStream(Sender::new(&outgoing, &pressure));
                (Source::UpstreamStream(Receiver::answer(response)), sink)
            }
        };
        // Who closes before all is sent may have answered.
        let sent = send_body(&mut to, request.body).await.is_ok();
        final_head(&mut from, head, request.method).await?;
        self.call.answered(head.status, &self.worker.upstreams);
        head.connection.close |= !sent;
        let body = timeout_at(self.due, read_body(&mut from, head.framing, terms)).await;
        match body.unwrap_or(Err(ProxyError::UpstreamTimeout)) {
            // Who has said no has said it, even if the rest does not come.
            Err(_) if (300..500).contains(&head.status) => Ok(None),
            body => body,
        }
    }

    fn path<'r>(&'r self, request: &Subrequest<'r>) -> [&'r str; 2] {
        match (&*self.endpoint.base_path, request.path) {
            ("", "") => ["/", ""],
            (base, path) => [base, path],
        }
    }

    fn host<'r>(&'r self, request: &Subrequest<'r>) -> &'r str {
        request.host.unwrap_or(&self.endpoint.authority)
    }

    fn write_head(&self, out: &mut Vec<u8>, request: &Subrequest<'_>) {
        write::request_line(out, request.method, self.path(request), request.query);
        write::field(out, "Host", self.host(request).as_bytes());
        request.fields.iter().for_each(|(name, value)| write::field(out, name, value));
        if let Some(length) = content_length(request) {
            write::field(out, "Content-Length", length.to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn http2_head(&self, request: &Subrequest<'_>) -> io::Result<http::Request<()>> {
        let (scheme, host) = (self.endpoint.scheme(), self.host(request));
        let mut head = http2::head::request(request.method, scheme, host, self.path(request), request.query)?;
        http2::head::append_all(head.headers_mut(), request.fields)?;
        if let Some(length) = content_length(request) {
            head.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
        }
        if grpc::is_call(request.fields) {
            http2::head::append(head.headers_mut(), "te", b"trailers")?;
        }
        Ok(head)
    }
}

/// A method that defines a body says that it has none.
fn content_length(request: &Subrequest<'_>) -> Option<usize> {
    let length = request.body.len();
    (length > 0 || defines_body(request.method)).then_some(length)
}

async fn send_body(to: &mut Sink<'_>, body: &[u8]) -> io::Result<()> {
    if !body.is_empty() {
        let framing = Framing::Length(body.len() as u64);
        to.copy(framing, body).await?;
        to.end(framing, &Fields::new())?;
    }
    to.flush().await
}

/// Reads the head of the answer; interim ones before it say nothing to anyone.
async fn final_head(from: &mut Source<'_>, head: &mut ResponseHead, method: &str) -> Result<(), ProxyError> {
    // An interim answer that announces a body, or an end, says so of the connection, not of itself only.
    let mut closes = false;
    for _ in 0..INTERIM_MAX {
        read_head(from, head, method).await?;
        closes |= head.connection.close;
        head.connection.close = closes;
        match head.status {
            // Nobody asked for that.
            101 => return Err(ProxyError::UpstreamProtocol),
            100..200 => {}
            _ => return Ok(()),
        }
    }
    Err(ProxyError::UpstreamProtocol)
}

async fn read_head(from: &mut Source<'_>, head: &mut ResponseHead, method: &str) -> Result<(), ProxyError> {
    let input = match from {
        Source::Http1 { input, .. } => input,
        // No client answers.
        Source::ClientStream(_) => return Err(ProxyError::UpstreamProtocol),
        Source::UpstreamStream(receiver) => {
            return match receiver.head(head, method).await {
                http2::Head::Read => Ok(()),
                http2::Head::Closed { error, .. } => Err(error),
                http2::Head::Invalid => Err(ProxyError::UpstreamProtocol),
            };
        }
    };
    loop {
        match head.parse(input.buffer, method) {
            Ok(Some(bytes)) => {
                input.buffer.advance(bytes);
                return Ok(());
            }
            Ok(None) => {}
            Err(_) => return Err(ProxyError::UpstreamProtocol),
        }
        match input.fill().await {
            Ok(0) | Err(_) => return Err(ProxyError::UpstreamClosed),
            Ok(_) => {}
        }
    }
}

/// Reads the answer's body; `None` if it has more bytes than are read.
async fn read_body(from: &mut Source<'_>, framing: Framing, terms: Terms) -> Result<Option<Bytes>, ProxyError> {
    let most = terms.body_bytes_max;
    from.begin(framing);
    if from.known_rest().is_some_and(|rest| rest > most as u64) {
        return Ok(None);
    }
    let (mut body, mut read) = (BytesMut::new(), 0);
    loop {
        match from.next().map_err(|_| ProxyError::UpstreamProtocol)? {
            Piece::Data(bytes) if read + bytes > most => return Ok(None),
            Piece::Data(bytes) => {
                read += bytes;
                if terms.keeps_body {
                    body.extend_from_slice(from.bytes(bytes));
                }
                from.took(bytes);
            }
            Piece::More => match from.fill_little().await {
                Ok(0) => from.closed().map_err(|_| ProxyError::UpstreamClosed)?,
                Ok(_) => {}
                Err(_) => return Err(ProxyError::UpstreamClosed),
            },
            Piece::End => return Ok(Some(body.freeze())),
        }
    }
}
