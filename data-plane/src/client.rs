//! A client's connection: one request after another, until either side has enough; or all of it HTTP/2's, if the client
//! begins so.

use std::{
    future::{Future, poll_fn},
    io,
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    body::{Sink, Source},
    error::ProxyError,
    http1::head::{HeadError, RequestHead},
    http2,
    limit::Limit,
    listener::ListenerState,
    proxy::{self, After},
    stream::{Pressure, Stream},
    timer::Timer,
    tls,
    worker::{Peer, Policy, Registered, Scratch, Worker},
};

/// After a last answer, how long a connection is read from before it is closed: closing at once would reset it, and
/// the client might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// How long a new connection may take to send its first request while the worker drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// How long after a request a connection keeps what it takes to serve the next.
const BUSY_TIME: Duration = Duration::from_millis(20);

/// The most that is read meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Both directions of a client's connection, and what is known of it.
#[derive(Debug)]
pub struct Client<'a> {
    /// What it sends.
    pub input: Source<'a>,
    /// What it gets.
    pub output: Sink<'a>,
    /// Who it is.
    pub peer: &'a Peer,
    /// The connection's one timer.
    pub timer: &'a mut Timer,
    /// Whether it takes what it gets.
    pub pressure: &'a Pressure,
    /// The stream of the request, if it came by HTTP/2.
    pub stream: Option<&'a http2::Stream>,
}

impl Client<'_> {
    /// Waits for something on the client's behalf, until the deadline at most, and only while the client is there.
    ///
    /// # Errors
    /// That the time is up, or the client gone.
    pub async fn wait<T>(&mut self, deadline: Instant, future: impl Future<Output = T>) -> Result<T, Unmet> {
        let (mut future, mut ended) = (pin!(future), pin!(self.input.ended()));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let given_up = self.stream.is_some_and(|stream| stream.poll_given_up(cx).is_ready());
            if given_up || ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Unmet::Gone));
            }
            self.timer.poll_expired(deadline, cx).map(|()| Err(Unmet::Expired))
        })
        .await
    }
}

/// Why a client does not get what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The time is up.
    Expired,
    /// The client has hung up, or given the request up.
    Gone,
}

/// What follows what the client has sent so far.
enum Next {
    After(After),
    /// It speaks HTTP/2, from the first byte on.
    Http2,
}

/// What came of waiting for a request.
enum Awaited {
    /// Its first byte is there, or the connection's end.
    Request,
    /// The time is up.
    Nothing,
    /// There will be none.
    End,
}

/// How much longer a connection may go on.
#[derive(Debug)]
pub struct Life {
    /// It has sent nothing yet.
    fresh: bool,
    requests_left: Option<u64>,
    ends: Option<Instant>,
}

impl Life {
    fn begin(policy: &Policy) -> Self {
        // Connections that came together must not all come again together.
        let shorter = |age: Duration| age.mul_f64(1.0 - fastrand::f64() / 10.0);
        Self {
            fresh: true,
            requests_left: policy.requests_per_connection_max,
            ends: policy.connection_age_max.map(|age| Instant::now() + shorter(age)),
        }
    }

    /// When it ends by its age.
    pub fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// One more request. The bound that makes it the last, if one does.
    pub fn spend(&mut self) -> Option<Limit> {
        if let Some(left) = &mut self.requests_left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Some(Limit::Requests);
            }
        }
        self.ends.is_some_and(|ends| Instant::now() >= ends).then_some(Limit::Age)
    }
}

/// Whether a head, whole or not yet, keeps the bounds that were set.
fn within_bounds(
    parsed: Option<usize>,
    buffered: usize,
    head: &RequestHead,
    policy: &Policy,
) -> Result<Option<usize>, HeadError> {
    match parsed {
        Some(bytes) if bytes > policy.head_bytes_max => Err(HeadError::TooLarge),
        Some(_) if head.fields.len() > policy.head_fields_max => Err(HeadError::TooManyFields),
        None if buffered > policy.head_bytes_max => Err(HeadError::TooLarge),
        parsed => Ok(parsed),
    }
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, address: IpAddr, listener: Rc<ListenerState>) {
    let _registered: Registered = poll_fn(|cx| Poll::Ready(worker.register(cx.waker()))).await;
    let mut timer = Timer::default();
    let (mut stream, tls) = match listener.tls() {
        None => (Stream::from(tcp), None),
        Some(server) => match Box::pin(shake_hands(&worker, tcp, &server, &mut timer)).await {
            None => return,
            Some((stream, accepted)) => (stream, Some(accepted)),
        },
    };
    let peer = Rc::new(Peer::new(address, listener, tls));
    let mut life = Life::begin(&worker.shared.policy);
    if stream.agreed_on(b"h2") {
        return serve_http2(&worker, stream, peer, &mut timer, life).await;
    }
    let policy = &worker.shared.policy;
    let mut awaited = await_request(&worker, &stream, &peer, &mut timer, true, policy.head_timeout).await;
    while let Awaited::Request = awaited {
        // In a box, as long as there is something to do: what serving requests takes is large.
        let busy = Box::pin(serve_while_busy(&worker, &mut stream, &peer, &mut timer, &mut life));
        match busy.await {
            Next::After(After::KeepAlive) => stream.shrink(),
            Next::After(After::Close) => return,
            Next::After(After::Abort) => return stream.reset_on_close(),
            Next::Http2 => return serve_http2(&worker, stream, peer, &mut timer, life).await,
        }
        let rest = policy.keep_alive_timeout.saturating_sub(BUSY_TIME);
        awaited = await_request(&worker, &stream, &peer, &mut timer, false, rest).await;
    }
    if let Awaited::Nothing = awaited {
        worker.count_limit(Some(if life.fresh { Limit::HeadTime } else { Limit::IdleTime }));
    }
}

/// Serves requests until none has come for a moment ([`After::KeepAlive`]), or none will.
async fn serve_while_busy(
    worker: &Worker,
    stream: &mut Stream,
    peer: &Peer,
    timer: &mut Timer,
    life: &mut Life,
) -> Next {
    let patience = BUSY_TIME.min(worker.shared.policy.keep_alive_timeout);
    loop {
        let mut scratch = worker.lend();
        let next = serve_requests(worker, stream, &mut scratch, peer, timer, life).await;
        life.fresh = false;
        match next {
            Next::After(After::Close) => linger(stream, &mut scratch, timer).await,
            Next::After(_) => {}
            Next::Http2 => stream.unread(scratch.client_in.split()),
        }
        worker.give_back(scratch);
        match next {
            Next::After(After::KeepAlive) => {}
            next => return next,
        }
        match await_request(worker, stream, peer, timer, false, patience).await {
            Awaited::Request => {}
            Awaited::Nothing => return Next::After(After::KeepAlive),
            Awaited::End => return Next::After(After::Close),
        }
    }
}

/// Gives the connection to HTTP/2, to its end.
async fn serve_http2(worker: &Rc<Worker>, stream: Stream, peer: Rc<Peer>, timer: &mut Timer, life: Life) {
    // In a box: who speaks HTTP/1.1 does not pay for its size.
    Box::pin(http2::server::serve(worker, stream, peer, timer, life)).await;
}

/// Begins TLS; `None` if that failed, which the client was told.
async fn shake_hands(
    worker: &Worker,
    mut tcp: TcpStream,
    server: &Arc<tls::Server>,
    timer: &mut Timer,
) -> Option<(Stream, tls::Accepted)> {
    let gauges = &worker.shared.metrics.gauges;
    match timer.within(worker.shared.policy.tls_handshake_timeout, server.accept(&mut tcp)).await {
        Ok(Ok((session, accepted))) => return Some((Stream::with_tls(tcp, session), accepted)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            gauges.handshakes_failed.fetch_add(1, Relaxed);
        }
        Err(_) => worker.count_limit(Some(Limit::TlsHandshakeTime)),
    }
    None
}

/// Waits for the first byte of a request, for so long, holding nothing but the connection. Who is `fresh` has sent nothing
/// yet, and gets the time to speak when the worker drains.
async fn await_request(
    worker: &Worker,
    stream: &Stream,
    peer: &Peer,
    timer: &mut Timer,
    fresh: bool,
    patience: Duration,
) -> Awaited {
    let mut deadline = None;
    poll_fn(|cx| match stream.poll_readable(cx, fresh) {
        Poll::Ready(Ok(())) => Poll::Ready(Awaited::Request),
        Poll::Ready(Err(_)) => Poll::Ready(Awaited::End),
        Poll::Pending if worker.draining() && !fresh => {
            Poll::Ready(if stream.has_bytes() { Awaited::Request } else { Awaited::End })
        }
        Poll::Pending if peer.is_outdated() => Poll::Ready(Awaited::End),
        Poll::Pending => {
            let due = deadline.get_or_insert_with(|| Instant::now() + patience);
            if worker.draining() {
                *due = (*due).min(Instant::now() + DRAIN_GRACE);
            }
            timer.poll_expired(*due, cx).map(|()| Awaited::Nothing)
        }
    })
    .await
}

/// Serves what the client has sent, one request after another.
async fn serve_requests(
    worker: &Worker,
    stream: &mut Stream,
    scratch: &mut Scratch,
    peer: &Peer,
    timer: &mut Timer,
    life: &mut Life,
) -> Next {
    let Scratch { client_in, client_out, upstream_in, upstream_out, request, response, target, forwarded, .. } =
        scratch;
    let pressure = Pressure::default();
    let (input, output) = stream.split(client_in, client_out, &pressure);
    let (input, output) = (Source::http1(input), Sink::Http1(output));
    let mut client = Client { input, output, peer, timer, pressure: &pressure, stream: None };
    let policy = &worker.shared.policy;
    let head_timeout = policy.head_timeout;
    loop {
        let mut deadline = None;
        let Source::Http1 { input, .. } = &mut client.input else { return Next::Http2 };
        let parsed = loop {
            if !std::mem::take(&mut life.fresh) || !http2::begins(input.buffer) {
                let buffered = input.buffer.len();
                let parsed = request.parse(input.buffer);
                match parsed.and_then(|parsed| within_bounds(parsed, buffered, request, policy)) {
                    Ok(Some(bytes)) => break Ok(bytes),
                    Ok(None) => {}
                    Err(error) => break Err(ProxyError::BadHead(error)),
                }
            } else if input.buffer.len() >= http2::PREFACE.len() {
                return Next::Http2;
            } else {
                // Nothing, or the beginning of either.
                life.fresh = true;
            }
            let filled = match deadline {
                // What has come is read without asking the clock; usually it is a whole head.
                None if input.buffer.is_empty() => client.timer.within(head_timeout, input.fill()).await,
                _ => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + head_timeout);
                    client.timer.until(deadline, input.fill()).await
                }
            };
            match filled {
                Ok(Ok(0) | Err(_)) if input.buffer.is_empty() => return Next::After(After::Close),
                Ok(Ok(0) | Err(_)) => return Next::After(After::Abort),
                Ok(Ok(_)) => {}
                Err(_) if input.buffer.is_empty() => return Next::After(After::KeepAlive),
                Err(_) => break Err(ProxyError::RequestTimeout),
            }
        };
        if let Ok(bytes) = parsed {
            bytes::Buf::advance(input.buffer, bytes);
        }
        let exchange = proxy::Exchange {
            worker,
            client: &mut client,
            request,
            response,
            target,
            forwarded,
            upstream_in,
            upstream_out,
        };
        let after = match parsed {
            Ok(_) => {
                if let Some(limit) = life.spend() {
                    exchange.request.connection.close = true;
                    worker.count_limit(Some(limit));
                }
                proxy::serve(exchange).await
            }
            Err(error) => proxy::refuse(exchange, error).await,
        };
        if after != After::KeepAlive {
            return Next::After(after);
        }
        let Source::Http1 { input, .. } = &mut client.input else { return Next::Http2 };
        // Some clients end a body with an empty line that does not belong to it.
        while input.buffer.starts_with(b"\r\n") {
            bytes::Buf::advance(input.buffer, 2);
        }
        if input.buffer.is_empty() {
            return Next::After(After::KeepAlive);
        }
    }
}

/// Says that no more will come, and reads what the client still sends until it has read the answer.
async fn linger(stream: &mut Stream, scratch: &mut Scratch, timer: &mut Timer) {
    let pressure = Pressure::default();
    let Scratch { client_in, client_out, .. } = scratch;
    let (mut input, mut output) = stream.split(client_in, client_out, &pressure);
    let deadline = Instant::now() + LINGER;
    let drain = async {
        output.shutdown().await?;
        let mut rest = LINGER_BYTES_MAX;
        while rest > 0 {
            input.buffer.clear();
            match input.fill().await? {
                0 => break,
                bytes => rest = rest.saturating_sub(bytes),
            }
        }
        io::Result::Ok(())
    };
    let _ = timer.until(deadline, drain).await;
}
