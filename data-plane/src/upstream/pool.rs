//! Connections to one endpoint: made, lent, kept.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    resolve::{Addresses, ConnectError, Names},
    snapshot::Endpoint,
};

/// The most idle connections a worker keeps to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// How long a connection may lie idle, unless the upstream says less. Below the usual 60 s and 75 s of servers, so that
/// they do not close it under a request.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Where it leads: one of the endpoint's addresses.
    pub address: SocketAddr,
    /// Whether it has served a request before, and so may have been closed meanwhile.
    pub reused: bool,
}

/// What a worker knows of an endpoint.
#[derive(Debug)]
pub struct EndpointState {
    addresses: Addresses,
    /// Oldest first.
    idle: RefCell<VecDeque<Idle>>,
    in_flight: Cell<usize>,
    used: Cell<Instant>,
}

/// A connection between two requests.
#[derive(Debug)]
struct Idle {
    /// When it is closed.
    until: Instant,
    address: SocketAddr,
    stream: TcpStream,
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
    pub fn new(endpoint: &Endpoint, names: &Arc<Names>) -> Self {
        Self {
            addresses: Addresses::new(&endpoint.host, endpoint.port, names),
            idle: RefCell::default(),
            in_flight: Cell::new(0),
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

    /// A connection from the pool that is not known to be closed, the one used last: to the address whose turn it is,
    /// so that a name with several addresses has its requests spread over them.
    pub fn reuse(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let address = self.addresses.next(now)?;
        while let Some(at) = idle.iter().rposition(|idle| idle.address == address) {
            let Idle { until, stream, .. } = idle.remove(at)?;
            if now < until && is_quiet(&stream) {
                self.addresses.advance();
                return Some(Connection { stream, address, reused: true });
            }
        }
        None
    }

    /// Keeps a connection on which nothing is under way and nothing is left to read; for less than `upstream_max` if the
    /// upstream said how long it keeps it. Not if its address is no longer one of the endpoint's.
    pub fn keep(&self, connection: Connection, now: Instant, upstream_max: Option<Duration>) {
        let Connection { stream, address, .. } = connection;
        if !self.addresses.is_current(address) {
            return;
        }
        let span = upstream_max.map_or(IDLE_MAX, |max| IDLE_MAX.min(max.saturating_sub(Duration::from_secs(1))));
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { until: now + span, address, stream });
    }

    /// Closes what lay too long, was closed by the other side, or leads where the endpoint no longer is.
    pub fn sweep(&self, now: Instant) {
        let good = |idle: &Idle| now < idle.until && is_quiet(&idle.stream) && self.addresses.is_current(idle.address);
        self.idle.borrow_mut().retain(good);
    }

    /// Makes a new connection. The caller bounds the time.
    ///
    /// # Errors
    /// That there is no address, or the last address's failure.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let (stream, address) = self.addresses.connect().await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, address, reused: false })
    }
}

/// Whether an idle connection is still one: no end, no error, and no byte that nobody asked for. Costs no system call
/// unless something has come.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
