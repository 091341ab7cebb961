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
    time::Instant,
};

use crate::snapshot::Endpoint;

/// The most idle connections a worker keeps to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 1024;

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
    /// Oldest first.
    idle: RefCell<VecDeque<(Instant, TcpStream)>>,
    in_flight: Cell<usize>,
    addresses: RefCell<Option<Addresses>>,
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
            used: Cell::new(Instant::now()),
        }
    }

    /// Requests in flight from this worker.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
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
    pub fn reuse(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some((_, stream)) = idle.pop_back() {
            if is_quiet(&stream) {
                return Some(Connection { stream, reused: true });
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way and nothing is left to read.
    pub fn keep(&self, stream: TcpStream, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back((now, stream));
    }

    /// Closes what lay too long or was closed by the other side.
    pub fn sweep(&self, now: Instant, idle_max: Duration) {
        self.idle
            .borrow_mut()
            .retain(|(since, stream)| now.saturating_duration_since(*since) < idle_max && is_quiet(stream));
    }

    /// Makes a new connection, trying the addresses of the host in order. The caller bounds the time.
    ///
    /// # Errors
    /// The last address's.
    pub async fn connect(&self) -> io::Result<Connection> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for (index, &address) in self.resolve().await?.iter().enumerate() {
            match TcpStream::connect(address).await {
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

    /// The addresses of the host; those known last while it can't be resolved.
    async fn resolve(&self) -> io::Result<Rc<[SocketAddr]>> {
        let known = self.addresses.borrow().as_ref().map(|known| (Rc::clone(&known.list), known.resolved));
        match known {
            Some((list, None)) => return Ok(list),
            Some((list, Some(resolved))) if resolved.elapsed() < ADDRESSES_FRESH => return Ok(list),
            _ => {}
        }
        let found = lookup_host((&*self.host, self.port)).await.map(|found| found.take(ADDRESSES_MAX).collect());
        let list: Rc<[SocketAddr]> = match (found, known) {
            (Ok(found), Some((known, _))) => {
                // The one that worked last stays first.
                let mut found: Vec<SocketAddr> = found;
                if let Some(at) = found.iter().position(|address| known.first() == Some(address)) {
                    found.swap(0, at);
                }
                found.into()
            }
            (Ok(found), None) => found.into(),
            (Err(_), Some((known, _))) => known,
            (Err(error), None) => return Err(error),
        };
        *self.addresses.borrow_mut() = Some(Addresses { list: Rc::clone(&list), resolved: Some(Instant::now()) });
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
