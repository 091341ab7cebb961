//! A client's connection: one request after another, until either side has enough.

use std::{future::poll_fn, io, rc::Rc, sync::Arc, task::Poll, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    error::ProxyError,
    proxy::{self, After},
    stream::{self, Input, Output},
    timer::Timer,
    worker::{Peer, Registered, Scratch, Worker},
};

/// After a last answer, how long a connection is read from before it is closed: closing at once would reset it, and
/// the client might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

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
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, mut stream: TcpStream, peer: Peer, listener: Arc<str>) {
    let _registered: Registered = poll_fn(|cx| Poll::Ready(worker.register(cx.waker()))).await;
    let mut timer = Timer::default();
    loop {
        if !await_request(&worker, &stream, &mut timer).await {
            break;
        }
        let mut scratch = worker.lend();
        let after = serve_requests(&worker, &mut stream, &mut scratch, &peer, &listener, &mut timer).await;
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

/// Waits for the first byte of a request, holding nothing but the connection. False when there will be none.
async fn await_request(worker: &Worker, stream: &TcpStream, timer: &mut Timer) -> bool {
    let readable = poll_fn(|cx| {
        if worker.draining() {
            return Poll::Ready(false);
        }
        stream.poll_read_ready(cx).map(|ready| ready.is_ok())
    });
    matches!(timer.within(worker.shared.policy.keep_alive_timeout, readable).await, Ok(true))
}

/// Serves what the client has sent, one request after another.
async fn serve_requests(
    worker: &Worker,
    stream: &mut TcpStream,
    scratch: &mut Scratch,
    peer: &Peer,
    listener: &Arc<str>,
    timer: &mut Timer,
) -> After {
    let Scratch { client_in, client_out, upstream_in, upstream_out, request, response, target, forwarded } = scratch;
    let (input, output) = stream::split(stream, client_in, client_out);
    let mut client = Client { input, output, peer, listener, timer };
    let head_timeout = worker.shared.policy.head_timeout;
    loop {
        let mut deadline = None;
        let parsed = loop {
            match request.parse(client.input.buffer) {
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
                proxy::serve(exchange).await
            }
            Err(error) => proxy::refuse(exchange, error).await,
        };
        if after != After::KeepAlive {
            return after;
        }
        if client.input.buffer.is_empty() {
            return After::KeepAlive;
        }
    }
}

/// Says that no more will come, and reads what the client still sends until it has read the answer.
async fn linger(stream: &mut TcpStream, scratch: &mut Scratch, timer: &mut Timer) {
    let (mut input, mut output) = stream::split(stream, &mut scratch.client_in, &mut scratch.client_out);
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
