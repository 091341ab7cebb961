//! Connections to one endpoint: made, lent, kept.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};

use crate::snapshot::Endpoint;

/// The most idle connections a worker keeps to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// How long a connection may lie idle, unless the upstream says less. Below the usual 60 s and 75 s of servers, so that
/// they do not close it under a request.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// One address may not use up the time of the others.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(300);

/// How long resolved addresses of a name are used before it is asked for again.
const ADDRESSES_FRESH: Duration = Duration::from_secs(10);

/// The most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Whether it has served a request before, and so may have been closed meanwhile.
    pub reused: bool,
}

/// What a worker knows of an endpoint.
#[derive(Debug)]
pub struct EndpointState {
    host: Box<str>,
    port: u16,
    /// Oldest first, each with the moment until which it may be used.
    idle: RefCell<VecDeque<(Instant, TcpStream)>>,
    in_flight: Cell<usize>,
    addresses: RefCell<Option<Addresses>>,
    /// The addresses are being asked for again.
    resolving: Cell<bool>,
    used: Cell<Instant>,
}

#[derive(Debug)]
struct Addresses {
    list: Rc<[SocketAddr]>,
    /// `None` for a literal address: always fresh.
    resolved: Option<Instant>,
}

/// Counts one request in flight for as long as it lives.
#[derive(Debug)]
pub struct InFlight(Rc<EndpointState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl EndpointState {
    /// Of an endpoint that was not used yet.
    pub fn new(endpoint: &Endpoint) -> Self {
        let literal = endpoint
            .host
            .parse::<IpAddr>()
            .ok()
            .map(|address| Addresses { list: Rc::new([SocketAddr::new(address, endpoint.port)]), resolved: None });
        Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            idle: RefCell::default(),
            in_flight: Cell::new(0),
            addresses: RefCell::new(literal),
            resolving: Cell::new(false),
            used: Cell::new(Instant::now()),
        }
    }

    /// Counts a request.
    pub fn begin(self: &Rc<Self>, now: Instant) -> InFlight {
        self.used.set(now);
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// Whether no request used it for that long.
    pub fn unused_since(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.used.get()) > age
    }

    /// A connection from the pool that is not known to be closed, the one used last.
    pub fn reuse(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some((until, stream)) = idle.pop_back() {
            if now < until && is_quiet(&stream) {
                return Some(Connection { stream, reused: true });
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way and nothing is left to read; for less than `upstream_max` if the
    /// upstream said how long it keeps it.
    pub fn keep(&self, stream: TcpStream, now: Instant, upstream_max: Option<Duration>) {
        let span = upstream_max.map_or(IDLE_MAX, |max| IDLE_MAX.min(max.saturating_sub(Duration::from_secs(1))));
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back((now + span, stream));
    }

    /// Closes what lay too long or was closed by the other side.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|(until, stream)| now < *until && is_quiet(stream));
    }

    /// Makes a new connection, trying the addresses of the host in order. The caller bounds the time.
    ///
    /// # Errors
    /// The last address's.
    pub async fn connect(self: &Rc<Self>) -> io::Result<Connection> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        let addresses = self.addresses().await?;
        for (index, &address) in addresses.iter().enumerate() {
            let connecting = TcpStream::connect(address);
            let connected = if index + 1 < addresses.len() {
                timeout(ADDRESS_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            } else {
                connecting.await
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    if index > 0 {
                        self.prefer(address);
                    }
                    return Ok(Connection { stream, reused: false });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The addresses of the host. Those known are used at once; when they are no longer fresh, they are asked for again
    /// beside the request, and kept if there is no answer.
    async fn addresses(self: &Rc<Self>) -> io::Result<Rc<[SocketAddr]>> {
        let known = self.addresses.borrow().as_ref().map(|known| (Rc::clone(&known.list), known.resolved));
        let Some((list, resolved)) = known else { return self.resolve().await };
        if resolved.is_some_and(|resolved| resolved.elapsed() > ADDRESSES_FRESH) && !self.resolving.replace(true) {
            let state = Rc::clone(self);
            tokio::task::spawn_local(async move {
                if let Err(error) = state.resolve().await {
                    tracing::warn!(host = %state.host, %error, "cannot resolve; going on with the addresses known last");
                }
                state.resolving.set(false);
            });
        }
        Ok(list)
    }

    async fn resolve(&self) -> io::Result<Rc<[SocketAddr]>> {
        let found = lookup_host((&*self.host, self.port)).await?;
        let mut found: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        }
        let mut known = self.addresses.borrow_mut();
        // The one that worked last stays first.
        let preferred = known.as_ref().and_then(|known| known.list.first().copied());
        if let Some(at) = found.iter().position(|address| Some(*address) == preferred) {
            found.swap(0, at);
        }
        let list: Rc<[SocketAddr]> = found.into();
        *known = Some(Addresses { list: Rc::clone(&list), resolved: Some(Instant::now()) });
        Ok(list)
    }

    fn prefer(&self, address: SocketAddr) {
        if let Some(known) = self.addresses.borrow_mut().as_mut() {
            let mut list = known.list.to_vec();
            if let Some(at) = list.iter().position(|known| *known == address) {
                list.swap(0, at);
            }
            known.list = list.into();
        }
    }
}

/// Whether an idle connection is still one: no end, no error, and no byte that nobody asked for. Costs no system call
/// unless something has come.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
