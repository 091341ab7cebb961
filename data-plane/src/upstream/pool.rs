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

use super::room::{Connections, Room, Slot, Waiting};
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
    /// Its place among its backend's, if those have a limit and it is not shared.
    pub slot: Option<Slot>,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Any connection.
    Any,
    /// One that was not used before, or just now: the others may be closed.
    Fresh,
    /// A new one, for itself alone and for good.
    Upgrade,
}

/// Whether a request gets a connection.
#[derive(Debug)]
pub enum Claim {
    /// It does.
    Now(Turn),
    /// It does in a while: see [`EndpointState::turn`].
    Later(Waiting),
    /// Too many wait already.
    Full,
}

/// What a request gets.
#[derive(Debug)]
pub enum Turn {
    /// A connection that lay idle, or one that is shared and has room.
    Pooled(Connection),
    /// The right to make one; without a slot if there is no limit.
    New(Option<Slot>),
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
    connecting: Rc<Connecting>,
    /// Asked, it chose HTTP/1.1 last.
    chose_http1: Cell<bool>,
    in_flight: Cell<usize>,
    used: Cell<Instant>,
    /// If the backend has a limit of connections.
    room: Option<Rc<Room>>,
}

/// A connection between two requests.
#[derive(Debug)]
struct Idle {
    /// When it is closed.
    until: Instant,
    address: SocketAddr,
    stream: Stream,
    slot: Option<Slot>,
}

/// Whether somebody makes a connection that others may share.
#[derive(Debug, Default)]
struct Connecting {
    busy: Cell<bool>,
    ended: Notify,
}

/// The making of a connection that others wait for, until it is known how many of them may use it.
struct Making(Rc<Connecting>);

impl Drop for Making {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.ended.notify_waiters();
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
    /// Of an endpoint that was not used yet; `connections` counts those to its backend if there is a limit of them.
    pub fn new(endpoint: &Endpoint, names: &Arc<Names>, connections: Option<&Arc<Connections>>) -> Self {
        Self {
            addresses: Addresses::new(&endpoint.host, endpoint.port, names),
            protocol: endpoint.protocol,
            tls: endpoint.tls.clone(),
            idle: RefCell::default(),
            channels: RefCell::default(),
            connecting: Rc::default(),
            chose_http1: Cell::new(false),
            in_flight: Cell::new(0),
            used: Cell::new(Instant::now()),
            room: connections.map(Room::new),
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
        // Nobody overtakes those who wait.
        if self.room.as_ref().is_some_and(|room| room.is_waited_for(false)) {
            return None;
        }
        if let Some(connection) = self.lease() {
            return Some(connection);
        }
        if self.idle.borrow().is_empty() {
            return None;
        }
        let next = self.addresses.next(now)?;
        let connection = self.idle(now, |address| address == next)?;
        self.addresses.advance();
        Some(connection)
    }

    /// The same, to whichever address; those that are of no use any more are closed.
    fn reuse_any(&self) -> Option<Connection> {
        self.lease().or_else(|| self.idle(Instant::now(), |_| true))
    }

    fn idle(&self, now: Instant, leads_there: impl Fn(SocketAddr) -> bool) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(at) = idle.iter().rposition(|idle| leads_there(idle.address)) {
            let Idle { slot, until, stream, address } = idle.remove(at)?;
            if now < until && stream.is_quiet() && self.addresses.is_current(address) {
                return Some(Connection { link: Link::Http1(stream), address, reused: true, slot });
            }
        }
        None
    }

    /// A stream on a connection that has room for one, the one with the fewest.
    fn lease(&self) -> Option<Connection> {
        let channels = self.channels.borrow();
        let (address, channel) =
            channels.iter().filter(|(_, channel)| channel.has_room()).min_by_key(|(_, channel)| channel.streams())?;
        Some(Connection { link: Link::Http2(channel.lease()), address: *address, reused: true, slot: None })
    }

    /// Keeps a connection on which nothing is under way and nothing is left to read; for less than `upstream_max` if the
    /// upstream said how long it keeps it. Not if its address is no longer one of the endpoint's.
    pub fn keep(
        &self,
        // Dropped from last to first: a connection is closed before another may take its place.
        slot: Option<Slot>,
        stream: Stream,
        address: SocketAddr,
        now: Instant,
        upstream_max: Option<Duration>,
    ) {
        let room = self.room.as_ref();
        // What no request waits for makes way for an upgrade.
        let gives_way = room.is_some_and(|room| room.is_waited_for(true) && !room.is_waited_for(false));
        if !self.addresses.is_current(address) || gives_way {
            return;
        }
        stream.shrink();
        let span = upstream_max.map_or(IDLE_MAX, |max| IDLE_MAX.min(max.saturating_sub(Duration::from_secs(1))));
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { until: now + span, address, stream, slot });
        if let Some(room) = room {
            room.returned();
        }
    }

    /// A connection, or the right to make one, at once or later, if `most` may be open and `pending` requests may wait.
    pub fn claim(&self, most: u32, pending: u32, need: Need) -> Claim {
        let Some(room) = &self.room else { return Claim::Now(Turn::New(None)) };
        let upgrade = need == Need::Upgrade;
        if !room.is_waited_for(upgrade) {
            if let Some(slot) = room.enter(most, upgrade) {
                return Claim::Now(Turn::New(Some(slot)));
            }
            if need != Need::Any {
                // One that lies idle is of no use to it, but its place is.
                self.idle.borrow_mut().pop_front();
            } else if let Some(connection) = self.reuse_any() {
                return Claim::Now(Turn::Pooled(connection));
            }
            if let Some(slot) = room.enter(most, upgrade) {
                return Claim::Now(Turn::New(Some(slot)));
            }
        }
        room.wait(pending, upgrade).map_or(Claim::Full, Claim::Later)
    }

    /// Waits for a connection to come back, or for the right to make one. The caller bounds the time.
    pub async fn turn(&self, waiting: Waiting, most: u32) -> Turn {
        let Some(room) = &self.room else { return Turn::New(None) };
        loop {
            waiting.turn().await;
            let upgrade = waiting.is_upgrade();
            if !upgrade && let Some(connection) = self.reuse_any() {
                return Turn::Pooled(connection);
            }
            if let Some(slot) = room.enter(most, upgrade) {
                return Turn::New(Some(slot));
            }
        }
    }

    /// Waits while a connection is made that this request may share, if one is; then there may be a stream for it.
    pub async fn shared(&self) -> Option<Connection> {
        while self.shares() && self.connecting.busy.get() {
            let ended = self.connecting.ended.notified();
            ended.await;
            if let Some(connection) = self.lease() {
                return Some(connection);
            }
        }
        None
    }

    /// Whether a connection serves several requests at a time, as far as is known.
    fn shares(&self) -> bool {
        self.protocol.is_http2(!self.chose_http1.get())
    }

    /// Closes what lay too long, was closed by the other side, or leads where the endpoint no longer is.
    pub fn sweep(&self, now: Instant) {
        let good = |idle: &Idle| now < idle.until && idle.stream.is_quiet() && self.addresses.is_current(idle.address);
        self.idle.borrow_mut().retain(good);
        // The last handle to a connection closes it when its streams have ended.
        self.channels.borrow_mut().retain(|(address, channel)| {
            let good = channel.is_wanted(now, IDLE_MAX) && self.addresses.is_current(*address);
            if !good {
                channel.retire();
            }
            good
        });
    }

    /// Makes a new connection, or gets a stream on one that another request is just making. The caller bounds the time.
    ///
    /// # Errors
    /// That there is no address, or the last address's failure.
    pub async fn connect(&self, for_websocket: bool, mut slot: Option<Slot>) -> Result<Connection, ConnectError> {
        let shared = self.shares() && !(for_websocket && self.protocol == Protocol::Negotiated);
        if !shared {
            return self.connect_one(for_websocket, None, slot).await;
        }
        loop {
            let others = self.connecting.ended.notified();
            if !self.connecting.busy.replace(true) {
                let making = Making(Rc::clone(&self.connecting));
                return self.connect_one(for_websocket, Some(making), slot.take()).await;
            }
            others.await;
            if let Some(connection) = self.lease() {
                return Ok(connection);
            }
            if self.chose_http1.get() {
                return self.connect_one(for_websocket, None, slot.take()).await;
            }
        }
    }

    async fn connect_one(
        &self,
        for_websocket: bool,
        making: Option<Making>,
        slot: Option<Slot>,
    ) -> Result<Connection, ConnectError> {
        let (tcp, address) = self.addresses.connect().await?;
        tcp.set_nodelay(true)?;
        // A WebSocket is begun as HTTP/1.1 has it where there is a choice: every server knows that.
        const HTTP1: &[&[u8]] = &[b"http/1.1"];
        let offer = (for_websocket && self.protocol == Protocol::Negotiated).then_some(HTTP1);
        let stream = match &self.tls {
            None => tcp.into(),
            Some(tls) => tls.connect(tcp, offer).await?,
        };
        let http2 = self.protocol.is_http2(stream.agreed_on(b"h2"));
        if !for_websocket {
            self.chose_http1.set(!http2);
        }
        if !http2 {
            return Ok(Connection { link: Link::Http1(stream), address, reused: false, slot });
        }
        let channel = Channel::open(stream, making, slot).await?;
        let lease = channel.lease();
        let mut channels = self.channels.borrow_mut();
        if channels.len() < CHANNELS_MAX {
            channels.push((address, channel));
        }
        Ok(Connection { link: Link::Http2(lease), address, reused: false, slot: None })
    }
}
