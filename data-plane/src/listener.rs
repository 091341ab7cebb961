//! Sockets that accept clients. Each worker has its own for every listener (`SO_REUSEPORT`), so the kernel spreads
//! connections over the workers and no worker waits for another to accept.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    client,
    crew::{Handed, Load},
    error::{PROBLEM_JSON, ProxyError},
    http1::write,
    limit::network,
    threads::Terms,
    tls,
    worker::{Shared, Worker},
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// After a failure to accept for want of resources, how long to wait before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Binds one socket per worker to an address. With port 0 all get the same port. `ours` says that this process listens
/// there already (under another name).
///
/// # Errors
/// The system's, of the first that cannot be bound.
pub fn bind(address: SocketAddr, workers: usize, ours: bool) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    if !ours {
        // With SO_REUSEPORT two processes could share a port without knowing; without it the system tells.
        drop(bind_one(address, false)?);
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bind_one(bound, true)?;
        bound = socket.local_addr()?;
        sockets.push(socket);
    }
    // Only when all are bound: a socket that listens already would take connections that nobody accepts.
    for socket in &sockets {
        Socket::from(socket.try_clone()?).listen(BACKLOG)?;
    }
    Ok((bound, sockets))
}

fn bind_one(address: SocketAddr, reuse_port: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What one worker knows of a listener. It can change while connections that came in by it are open: they take the new
/// name, and keep the TLS that they came in with, unless clients are asked for other certificates now.
#[derive(Debug)]
pub struct ListenerState {
    /// The same in every worker.
    key: u64,
    terms: RefCell<Terms>,
}

impl ListenerState {
    /// A listener of that name, with its address as configured.
    pub fn new(key: u64, terms: Terms) -> Self {
        Self { key, terms: RefCell::new(terms) }
    }

    /// Its address as configured: that makes it the listener that it is, whatever it is called.
    pub fn address(&self) -> SocketAddr {
        self.terms.borrow().address
    }

    /// The name that it had last.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.terms.borrow().name)
    }

    /// Whether it had plugins of its own.
    pub fn is_guarded(&self) -> bool {
        self.terms.borrow().guarded
    }

    /// TLS for a connection that comes in now; `None` for one in the clear.
    pub fn tls(&self) -> Option<Arc<tls::Server>> {
        self.terms.borrow().tls.clone()
    }

    /// Whether who shook hands so may stay: clients are asked for no certificate now, or for the same as then.
    pub fn still_admits(&self, accepted: &tls::Accepted) -> bool {
        self.terms.borrow().tls.as_ref().is_none_or(|now| !now.asks_for_certificates || now.trust == accepted.trust())
    }

    /// Another name and other TLS for the same listener, from the next connection on. Whether clients are asked for other
    /// certificates than before, so that some connections may have to end.
    pub fn set(&self, terms: Terms) -> bool {
        let trust = |terms: &Terms| terms.tls.as_ref().map(|tls| tls.trust);
        let before = self.terms.replace(terms);
        trust(&before) != trust(&self.terms.borrow())
    }
}

/// Accepts clients until told to stop; then those that the kernel has already accepted are served too.
pub async fn accept(worker: Rc<Worker>, listener: TcpListener, state: Rc<ListenerState>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => admit(&worker, stream, address, &state),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, listener = %state.name(), "cannot accept; is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The system is asked, not the runtime, which may not know yet of those that came just now.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, address)) = listener.accept() {
        let adopted = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = adopted {
            admit(&worker, stream, address, &state);
        }
    }
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr, state: &Rc<ListenerState>) {
    let gauges = &worker.shared.metrics.gauges;
    gauges.accepted.fetch_add(1, Relaxed);
    let place = match Place::take(&worker.shared, address.ip()) {
        Ok(place) => place,
        Err(error) => {
            gauges.refused.fetch_add(1, Relaxed);
            worker.count_limit(error.limit());
            // In the clear: who wants TLS takes a close for what it is.
            if state.tls().is_none() {
                refuse(&stream, error);
            }
            return;
        }
    };
    let crew = &worker.crew;
    let member = crew.should_have(worker.index);
    let load = crew.load(member, 1);
    if member == worker.index {
        return begin(worker, stream, address, (place, load), Rc::clone(state));
    }
    let Ok(stream) = stream.into_std() else { return };
    let listener = state.terms.borrow().clone();
    let handed = Handed { stream, address, place, load, key: state.key, listener };
    if let Err(handed) = crew.hand(member, handed) {
        adopt(worker, *handed, Some(state));
    }
}

/// Serves a connection that another worker accepted. `state` is this worker's of the same listener.
pub fn adopt(worker: &Rc<Worker>, handed: Handed, state: Option<&Rc<ListenerState>>) {
    let Handed { stream, address, place, load, key, listener } = handed;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let state = state.map_or_else(|| Rc::new(ListenerState::new(key, listener)), Rc::clone);
    begin(worker, stream, address, (place, load), state);
}

fn begin(
    worker: &Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    counted: (Place, Load),
    state: Rc<ListenerState>,
) {
    // Without it a small answer may wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let worker = Rc::clone(worker);
    let address = address.ip();
    // What is moved, into the task or within it, has its place twice, in every idle connection too.
    tokio::task::spawn_local(async move {
        client::serve(worker, stream, address, state).await;
        drop(counted);
    });
}

/// A client's place among the connections, for as long as it lives.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Shared>,
    /// What it counts as one connection of.
    counted: Option<IpAddr>,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Result<Self, ProxyError> {
        let (policy, connections) = (&shared.policy, &shared.metrics.gauges.connections);
        if connections.fetch_add(1, Relaxed) >= policy.connections_max {
            connections.fetch_sub(1, Relaxed);
            return Err(ProxyError::Overloaded);
        }
        // From here on its end takes it off again.
        let mut place = Self { shared: Arc::clone(shared), counted: None };
        if policy.connections_per_ip_max > 0 && !policy.trusted_proxies.contains(address) {
            let client = network(address);
            if !shared.clients.enter(client, policy.connections_per_ip_max) {
                return Err(ProxyError::TooManyConnections);
            }
            place.counted = Some(client);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.counted {
            self.shared.clients.leave(client);
        }
        self.shared.metrics.gauges.connections.fetch_sub(1, Relaxed);
    }
}

/// Tells a client that there are too many, if that can be done at once.
fn refuse(stream: &TcpStream, error: ProxyError) {
    let body = error.body(&error.message());
    let mut answer = Vec::new();
    write::status_line(&mut answer, error.status());
    write::field(&mut answer, "Content-Type", PROBLEM_JSON);
    write::field(&mut answer, "Content-Length", itoa::Buffer::new().format(body.len()).as_bytes());
    answer.extend_from_slice(b"Connection: close\r\n\r\n");
    answer.extend_from_slice(&body);
    // Straight to the system: the runtime does not know yet that the socket can be written to.
    let socket = socket2::SockRef::from(stream);
    let _ = socket.send(&answer).and_then(|_| socket.shutdown(std::net::Shutdown::Write));
}

/// Whether an accept failed because of the one connection it was for.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
