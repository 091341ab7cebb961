//! Connections to one endpoint: made, lent, kept.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    http2::client::{Channel, Lease},
    resolve::{Addresses, ConnectError, Names},
    snapshot::{Endpoint, Protocol},
    stream::Stream,
    tls::client::EndpointTls,
};

/// The most idle connections a worker keeps to one endpoint.
const IDLE_CONNECTIONS_MAX: usize = 1024;

/// How long a connection may lie idle, unless the upstream says less. Below the usual 60 s and 75 s of servers, so that
/// they do not close it under a request.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// The most HTTP/2 connections a worker has to one endpoint.
const CHANNELS_MAX: usize = 64;

/// What a request travels over.
#[derive(Debug)]
pub enum Link {
    /// A connection of its own.
    Http1(Stream),
    /// A stream among others.
    Http2(Lease),
}

/// A connection to an upstream.
#[derive(Debug)]
pub struct Connection {
    /// The connection, or the right to a stream on it.
    pub link: Link,
    /// Where it leads: one of the endpoint's addresses.
    pub address: SocketAddr,
    /// Whether it has served a request before, and so may have been closed meanwhile.
    pub reused: bool,
}

/// What a worker knows of an endpoint.
#[derive(Debug)]
pub struct EndpointState {
    addresses: Addresses,
    protocol: Protocol,
    tls: Option<EndpointTls>,
    /// Oldest first.
    idle: RefCell<VecDeque<Idle>>,
    /// HTTP/2 connections.
    channels: RefCell<Vec<(SocketAddr, Channel)>>,
    /// Somebody makes a connection that others may share.
    connecting: Cell<bool>,
    connected: Notify,
    /// Asked, it chose HTTP/1.1 last.
    chose_http1: Cell<bool>,
    in_flight: Cell<usize>,
    used: Cell<Instant>,
}

/// A connection between two requests.
#[derive(Debug)]
struct Idle {
    /// When it is closed.
    until: Instant,
    address: SocketAddr,
    stream: Stream,
}

/// The making of a connection that others wait for.
struct Turn<'a>(&'a EndpointState);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
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
            protocol: endpoint.protocol,
            tls: endpoint.tls.clone(),
            idle: RefCell::default(),
            channels: RefCell::default(),
            connecting: Cell::new(false),
            connected: Notify::new(),
            chose_http1: Cell::new(false),
            in_flight: Cell::new(0),
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

    /// A connection from the pool that is not known to be closed, the one used last: to the address whose turn it is,
    /// so that a name with several addresses has its requests spread over them. Or a stream on one that is shared.
    pub fn reuse(&self, now: Instant) -> Option<Connection> {
        if let Some(connection) = self.lease() {
            return Some(connection);
        }
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let address = self.addresses.next(now)?;
        while let Some(at) = idle.iter().rposition(|idle| idle.address == address) {
            let Idle { until, stream, .. } = idle.remove(at)?;
            if now < until && stream.is_quiet() {
                self.addresses.advance();
                return Some(Connection { link: Link::Http1(stream), address, reused: true });
            }
        }
        None
    }

    /// A stream on a connection that has room for one, the one with the fewest.
    fn lease(&self) -> Option<Connection> {
        let channels = self.channels.borrow();
        let (address, channel) =
            channels.iter().filter(|(_, channel)| channel.has_room()).min_by_key(|(_, channel)| channel.streams())?;
        Some(Connection { link: Link::Http2(channel.lease()), address: *address, reused: true })
    }

    /// Keeps a connection on which nothing is under way and nothing is left to read; for less than `upstream_max` if the
    /// upstream said how long it keeps it. Not if its address is no longer one of the endpoint's.
    pub fn keep(&self, stream: Stream, address: SocketAddr, now: Instant, upstream_max: Option<Duration>) {
        if !self.addresses.is_current(address) {
            return;
        }
        stream.shrink();
        let span = upstream_max.map_or(IDLE_MAX, |max| IDLE_MAX.min(max.saturating_sub(Duration::from_secs(1))));
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { until: now + span, address, stream });
    }

    /// Closes what lay too long, was closed by the other side, or leads where the endpoint no longer is.
    pub fn sweep(&self, now: Instant) {
        let good = |idle: &Idle| now < idle.until && idle.stream.is_quiet() && self.addresses.is_current(idle.address);
        self.idle.borrow_mut().retain(good);
        // The last handle to a connection closes it when its streams have ended.
        self.channels
            .borrow_mut()
            .retain(|(address, channel)| channel.is_wanted(now, IDLE_MAX) && self.addresses.is_current(*address));
    }

    /// Makes a new connection, or gets a stream on one that another request is just making. The caller bounds the time.
    ///
    /// # Errors
    /// That there is no address, or the last address's failure.
    pub async fn connect(&self, for_websocket: bool) -> Result<Connection, ConnectError> {
        let shared = match self.protocol {
            Protocol::Http1 => false,
            Protocol::H2 => true,
            Protocol::Negotiated => !for_websocket && !self.chose_http1.get(),
        };
        if !shared {
            return self.connect_one(for_websocket).await;
        }
        loop {
            let others = self.connected.notified();
            if !self.connecting.replace(true) {
                let _turn = Turn(self);
                return self.connect_one(for_websocket).await;
            }
            others.await;
            if let Some(connection) = self.lease() {
                return Ok(connection);
            }
            if self.chose_http1.get() {
                return self.connect_one(for_websocket).await;
            }
        }
    }

    async fn connect_one(&self, for_websocket: bool) -> Result<Connection, ConnectError> {
        let (tcp, address) = self.addresses.connect().await?;
        tcp.set_nodelay(true)?;
        let stream = match &self.tls {
            None => tcp.into(),
            // A WebSocket is begun as HTTP/1.1 has it where there is a choice: every server knows that.
            Some(tls) => tls.connect(tcp, for_websocket && self.protocol == Protocol::Negotiated).await?,
        };
        let http2 = match self.protocol {
            Protocol::Http1 => false,
            Protocol::H2 => true,
            Protocol::Negotiated => stream.agreed_on(b"h2"),
        };
        if !for_websocket {
            self.chose_http1.set(!http2);
        }
        if !http2 {
            return Ok(Connection { link: Link::Http1(stream), address, reused: false });
        }
        let channel = Channel::open(stream).await?;
        let lease = channel.lease();
        let mut channels = self.channels.borrow_mut();
        if channels.len() < CHANNELS_MAX {
            channels.push((address, channel));
        }
        Ok(Connection { link: Link::Http2(lease), address, reused: false })
    }
}
