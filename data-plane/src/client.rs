//! A client's connection: one request after another, until either side has enough.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::ReadBuf, net::TcpStream, time::Instant};

use crate::{
    error::ProxyError,
    http1::head::{HeadError, RequestHead},
    limit::Limit,
    listener::ListenerName,
    proxy::{self, After},
    stream::{self, Input, Output, Pressure},
    timer::Timer,
    worker::{Peer, Policy, Registered, Scratch, Worker},
};

/// After a last answer, how long a connection is read from before it is closed: closing at once would reset it, and
/// the client might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// How long a new connection may take to send its first request while the worker drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The most that is read meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// Both directions of a client's connection, and what is known of it.
#[derive(Debug)]
pub struct Client<'a> {
    /// What it sends.
    pub input: Input<'a>,
    /// What it gets.
    pub output: Output<'a>,
    /// Who it is.
    pub peer: &'a Peer,
    /// The name of the listener it came in by.
    pub listener: &'a str,
    /// The connection's one timer.
    pub timer: &'a mut Timer,
    /// Whether it takes what it gets.
    pub pressure: &'a Pressure,
}

/// How much longer a connection may go on.
#[derive(Debug)]
struct Life {
    requests_left: Option<u64>,
    ends: Option<Instant>,
}

impl Life {
    fn begin(policy: &Policy) -> Self {
        // Connections that came together must not all come again together.
        let shorter = |age: Duration| age.mul_f64(1.0 - fastrand::f64() / 10.0);
        Self {
            requests_left: policy.requests_per_connection_max,
            ends: policy.connection_age_max.map(|age| Instant::now() + shorter(age)),
        }
    }

    /// One more request. The bound that makes it the last, if one does.
    fn spend(&mut self) -> Option<Limit> {
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
pub async fn serve(worker: Rc<Worker>, mut stream: TcpStream, peer: Peer, listener: Rc<ListenerName>) {
    let _registered: Registered = poll_fn(|cx| Poll::Ready(worker.register(cx.waker()))).await;
    let mut timer = Timer::default();
    let mut life = Life::begin(&worker.shared.policy);
    let mut fresh = true;
    while await_request(&worker, &stream, &mut timer, fresh).await {
        fresh = false;
        let mut scratch = worker.lend();
        let after = serve_requests(&worker, &mut stream, &mut scratch, &peer, &listener, &mut timer, &mut life).await;
        if after == After::Close {
            linger(&mut stream, &mut scratch, &mut timer).await;
        }
        worker.give_back(scratch);
        match after {
            After::KeepAlive => {}
            After::Close => break,
            After::Abort => {
                // A reset, so that the client cannot take a cut answer for a whole one.
                let _ = stream.set_zero_linger();
                break;
            }
        }
    }
}

/// Waits for the first byte of a request, holding nothing but the connection. False when there will be none. Who is
/// `fresh` has sent nothing yet: it has less time, but also a moment to speak when the worker drains.
async fn await_request(worker: &Worker, stream: &TcpStream, timer: &mut Timer, fresh: bool) -> bool {
    let policy = &worker.shared.policy;
    let readable = poll_fn(|cx| match poll_readable(stream, fresh, cx) {
        Poll::Ready(ready) => Poll::Ready(ready),
        Poll::Pending if worker.draining() && !fresh => Poll::Ready(has_bytes(stream)),
        Poll::Pending => Poll::Pending,
    });
    let span = match fresh {
        true if worker.draining() => DRAIN_GRACE,
        true => policy.head_timeout,
        false => policy.keep_alive_timeout,
    };
    match timer.within(span, readable).await {
        Ok(readable) => readable,
        Err(_) => {
            worker.count_limit(Some(if fresh { Limit::HeadTime } else { Limit::IdleTime }));
            false
        }
    }
}

/// The runtime takes a fresh socket for readable until the system says that it is not.
fn poll_readable(stream: &TcpStream, fresh: bool, cx: &mut Context<'_>) -> Poll<bool> {
    if fresh {
        return stream.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map(|peeked| peeked.is_ok());
    }
    stream.poll_read_ready(cx).map(|ready| ready.is_ok())
}

/// Asks the system, not the runtime, which may not know yet: a request that has arrived is served.
fn has_bytes(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    socket2::SockRef::from(stream).peek(&mut byte).is_ok_and(|bytes| bytes > 0)
}

/// Serves what the client has sent, one request after another.
async fn serve_requests(
    worker: &Worker,
    stream: &mut TcpStream,
    scratch: &mut Scratch,
    peer: &Peer,
    listener: &ListenerName,
    timer: &mut Timer,
    life: &mut Life,
) -> After {
    let Scratch { client_in, client_out, upstream_in, upstream_out, request, response, target, forwarded } = scratch;
    let pressure = Pressure::default();
    let listener: &str = &listener.get();
    let (input, output) = stream::split(stream, client_in, client_out, &pressure);
    let mut client = Client { input, output, peer, listener, timer, pressure: &pressure };
    let policy = &worker.shared.policy;
    let head_timeout = policy.head_timeout;
    loop {
        let mut deadline = None;
        let parsed = loop {
            let buffered = client.input.buffer.len();
            let parsed = request.parse(client.input.buffer);
            match parsed.and_then(|parsed| within_bounds(parsed, buffered, request, policy)) {
                Ok(Some(bytes)) => break Ok(bytes),
                Ok(None) => {}
                Err(error) => break Err(ProxyError::BadHead(error)),
            }
            let filled = match deadline {
                // What has come is read without asking the clock; usually it is a whole head.
                None if client.input.buffer.is_empty() => client.timer.within(head_timeout, client.input.fill()).await,
                _ => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + head_timeout);
                    client.timer.until(deadline, client.input.fill()).await
                }
            };
            match filled {
                Ok(Ok(0)) if client.input.buffer.is_empty() => return After::Close,
                Ok(Ok(0) | Err(_)) => return After::Abort,
                Ok(Ok(_)) => {}
                Err(_) if client.input.buffer.is_empty() => return After::KeepAlive,
                Err(_) => break Err(ProxyError::RequestTimeout),
            }
        };
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
            Ok(bytes) => {
                bytes::Buf::advance(exchange.client.input.buffer, bytes);
                if let Some(limit) = life.spend() {
                    exchange.request.connection.close = true;
                    worker.count_limit(Some(limit));
                }
                proxy::serve(exchange).await
            }
            Err(error) => proxy::refuse(exchange, error).await,
        };
        if after != After::KeepAlive {
            return after;
        }
        // Some clients end a body with an empty line that does not belong to it.
        while client.input.buffer.starts_with(b"\r\n") {
            bytes::Buf::advance(client.input.buffer, 2);
        }
        if client.input.buffer.is_empty() {
            return After::KeepAlive;
        }
    }
}

/// Says that no more will come, and reads what the client still sends until it has read the answer.
async fn linger(stream: &mut TcpStream, scratch: &mut Scratch, timer: &mut Timer) {
    let pressure = Pressure::default();
    let Scratch { client_in, client_out, .. } = scratch;
    let (mut input, mut output) = stream::split(stream, client_in, client_out, &pressure);
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
