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

use super::gate::{Entry, Gate, Permit, Waiting};
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

/// How long a connection lies idle before it makes way for another of the same backend, if there is a limit of them. If it
/// did so at once, connections would go from worker to worker with each request.
const SPARE_AFTER: Duration = Duration::from_millis(20);

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
    /// Its place among those that the backend may have, if there is a limit and it is not shared.
    pub slot: Option<Slot>,
}

/// The right to have one connection open, where a backend has a limit of them.
#[derive(Debug)]
pub struct Slot {
    _permit: Permit,
    open: Rc<Cell<usize>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// Whether another connection may be made.
#[derive(Debug)]
pub enum Claim {
    /// It may; without a slot if there is no limit.
    Now(Option<Slot>),
    /// It may, or one comes back, in a while: see [`EndpointState::turn`].
    Later(Waiting),
    /// Too many wait already.
    Full,
}

/// What was waited for.
#[derive(Debug)]
pub enum Turn {
    /// A connection came back, or one that is shared has room.
    Pooled(Connection),
    /// A connection may be made.
    New(Option<Slot>),
}

/// What a pool knows of its backend's limit of connections.
#[derive(Debug)]
struct Room {
    /// Over all workers.
    gate: Arc<Gate>,
    /// Tells the other workers that somebody waits.
    spare: Arc<Notify>,
    /// Connections of this pool.
    open: Rc<Cell<usize>>,
    /// Requests of this worker that wait for one of them to come back.
    waiting: Cell<usize>,
    /// Of those, whoever waits for the pool's first.
    starving: Cell<usize>,
    /// Tells one of those.
    returned: Rc<Notify>,
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
    room: Option<Room>,
}

/// A connection between two requests.
#[derive(Debug)]
struct Idle {
    since: Instant,
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

/// Counts one for as long as it lives.
#[derive(Debug)]
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn of(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Room {
    fn slot(&self, permit: Permit) -> Slot {
        self.open.set(self.open.get() + 1);
        Slot { _permit: permit, open: Rc::clone(&self.open) }
    }
}

impl EndpointState {
    /// Of an endpoint that was not used yet; `room` has what counts connections if there is a limit of them, and whom to
    /// tell when somebody waits for one.
    pub fn new(endpoint: &Endpoint, names: &Arc<Names>, room: Option<(&Arc<Gate>, &Arc<Notify>)>) -> Self {
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
            room: room.map(|(gate, spare)| Room {
                gate: Arc::clone(gate),
                spare: Arc::clone(spare),
                open: Rc::default(),
                waiting: Cell::new(0),
                starving: Cell::new(0),
                returned: Rc::default(),
            }),
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
        if self.room.as_ref().is_some_and(|room| room.waiting.get() > 0) {
            return None;
        }
        self.pooled(now)
    }

    fn pooled(&self, now: Instant) -> Option<Connection> {
        if let Some(connection) = self.lease() {
            return Some(connection);
        }
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let address = self.addresses.next(now)?;
        while let Some(at) = idle.iter().rposition(|idle| idle.address == address) {
            let Idle { slot, until, stream, .. } = idle.remove(at)?;
            if now < until && stream.is_quiet() {
                self.addresses.advance();
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
        if !self.addresses.is_current(address) || self.starves_others() {
            return;
        }
        stream.shrink();
        let span = upstream_max.map_or(IDLE_MAX, |max| IDLE_MAX.min(max.saturating_sub(Duration::from_secs(1))));
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_CONNECTIONS_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { since: now, until: now + span, address, stream, slot });
        if let Some(room) = &self.room {
            room.returned.notify_one();
        }
    }

    /// Whether somebody waits whom no connection that comes back can help, only the room that it leaves.
    fn starves_others(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.gate.starving() > 0)
    }

    /// Closes idle connections for as long as somebody waits for the room that they take: if it is for want of any, those
    /// that came back just now too, else those alone that nobody here has needed for a while.
    pub fn give_up_spare(&self, now: Instant) {
        let Some(room) = &self.room else { return };
        while room.gate.waiting() > 0 {
            let spare = |idle: &mut Idle| self.starves_others() || idle.since + SPARE_AFTER <= now;
            // Its slot goes to one who waits.
            let Some(idle) = self.idle.borrow_mut().pop_front_if(spare) else { break };
            drop(idle);
        }
        if room.gate.waiting() > 0 {
            self.channels.borrow_mut().retain(|(_, channel)| channel.streams() > 0);
        }
    }

    /// The right to make a connection, at once or later. A connection of HTTP/2 is shared by the requests of its worker
    /// alone, so each worker may have one, whatever others have. One that comes back does only if `reusable`.
    pub fn claim(&self, most: u32, pending: u32, reusable: bool) -> Claim {
        let Some(room) = &self.room else { return Claim::Now(None) };
        if self.shares() && room.open.get() == 0 {
            return Claim::Now(Some(room.slot(Gate::force(&room.gate))));
        }
        let first = room.open.get() == 0 && room.starving.get() == 0;
        match Gate::enter(&room.gate, most, pending, first || !reusable) {
            Entry::Now(permit) => Claim::Now(Some(room.slot(permit))),
            Entry::Later(waiting) => {
                room.spare.notify_waiters();
                Claim::Later(waiting)
            }
            Entry::Full => Claim::Full,
        }
    }

    /// Waits for a connection to come back, if that can be used, or for the right to make one. The caller bounds the time.
    pub async fn turn(&self, mut waiting: Waiting, reusable: bool) -> Turn {
        let Some(room) = &self.room else { return Turn::New(None) };
        let _counted = reusable.then(|| Counted::of(&room.waiting));
        let _first = waiting.is_starving().then(|| Counted::of(&room.starving));
        loop {
            let returned = room.returned.notified();
            if reusable && let Some(connection) = self.pooled(Instant::now()) {
                return Turn::Pooled(connection);
            }
            tokio::select! {
                permit = &mut waiting => return Turn::New(Some(room.slot(permit))),
                () = returned, if reusable => {}
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
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::H2 => true,
            Protocol::Negotiated => !self.chose_http1.get(),
        }
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
            return Ok(Connection { link: Link::Http1(stream), address, reused: false, slot });
        }
        let freed = self.room.as_ref().map(|room| Rc::clone(&room.returned));
        let channel = Channel::open(stream, making, slot, freed).await?;
        let lease = channel.lease();
        let mut channels = self.channels.borrow_mut();
        if channels.len() < CHANNELS_MAX {
            channels.push((address, channel));
        }
        Ok(Connection { link: Link::Http2(lease), address, reused: false, slot: None })
    }
}
