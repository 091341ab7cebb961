//! The addresses of one endpoint as one worker uses them: in turn, those that failed last.

use std::{
    cell::{Cell, Ref, RefCell},
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Acquire},
    task::Poll,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{ADDRESSES_MAX, Name, Names};

/// How long an address has to itself before the next one is tried beside it (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long an address that failed comes after the others; doubles with each failure in a row.
const PENALTY: Duration = Duration::from_secs(10);

/// How often it doubles.
const DOUBLINGS_MAX: u32 = 5;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address, or none is known.
    #[error("no address of the host is known")]
    NoAddress,
    /// No address took a connection; the last one's failure.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Addresses {
    source: Source,
    name: RefCell<Option<Arc<Name>>>,
    /// Counts the requests, so that each goes to the next address.
    turn: Cell<usize>,
    failed: RefCell<Vec<Failed>>,
}

#[derive(Debug)]
enum Source {
    Literal(SocketAddr),
    Name { host: Box<str>, port: u16, names: Arc<Names> },
}

/// An address that could not be connected to.
#[derive(Debug)]
struct Failed {
    address: SocketAddr,
    times: u32,
    until: Instant,
}

impl Addresses {
    /// Those of an endpoint.
    #[must_use]
    pub fn new(host: &str, port: u16, names: &Arc<Names>) -> Self {
        let source = match host.parse::<IpAddr>() {
            Ok(address) => Source::Literal(SocketAddr::new(address, port)),
            Err(_) => Source::Name { host: host.into(), port, names: Arc::clone(names) },
        };
        // Workers begin at different places, so that the first requests of all do not hit one address.
        let turn = Cell::new(fastrand::usize(..1 << 16));
        Self { source, name: RefCell::default(), turn, failed: RefCell::default() }
    }

    /// Where the next request goes; `None` if no address is known.
    pub fn next(&self, now: Instant) -> Option<SocketAddr> {
        let port = match &self.source {
            Source::Literal(address) => return Some(*address),
            Source::Name { port, .. } => *port,
        };
        let name = self.name();
        let known = name.as_ref()?.known.load();
        let turn = self.turn.get();
        let failed = self.failed.borrow();
        if failed.is_empty() {
            return Some(SocketAddr::new(*known.list.get(turn.checked_rem(known.list.len())?)?, port));
        }
        let good = |address: &SocketAddr| !failed.iter().any(|failed| failed.is(*address, now));
        let all = || known.list.iter().map(|&ip| SocketAddr::new(ip, port));
        match all().filter(good).count() {
            0 => all().nth(turn.checked_rem(known.list.len())?),
            count => all().filter(good).nth(turn % count),
        }
    }

    /// A request went to the address that was next.
    pub fn advance(&self) {
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// Whether a connection to this address is one to the endpoint, as far as is known now.
    pub fn is_current(&self, address: SocketAddr) -> bool {
        match &self.source {
            Source::Literal(_) => true,
            Source::Name { .. } => {
                self.name().as_ref().is_none_or(|name| name.known.load().list.contains(&address.ip()))
            }
        }
    }

    /// Makes a connection to the address that is next, or to another if that one fails or takes long. Nothing here
    /// asks a server for addresses, but if there was no answer yet at all, it waits a moment for the first one. The
    /// caller bounds the time.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self) -> Result<(TcpStream, SocketAddr), ConnectError> {
        if let Source::Literal(address) = self.source {
            return Ok((TcpStream::connect(address).await?, address));
        }
        let unknown = self.name().clone().filter(|name| name.known.load().list.is_empty());
        if let Some(name) = unknown {
            name.first_answer().await;
        }
        let order = self.order(Instant::now());
        self.advance();
        let (stream, address) = race(order, |address| self.penalise(address, Instant::now())).await?;
        self.failed.borrow_mut().retain(|failed| failed.address != address);
        Ok((stream, address))
    }

    /// All addresses, in the order in which they are to be tried.
    fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let name = self.name();
        let (Some(first), Some(name)) = (self.next(now), name.as_ref()) else { return Vec::new() };
        let known = name.known.load();
        let begin = known.list.iter().position(|&ip| ip == first.ip()).unwrap_or(0);
        let turned = known.list[begin..].iter().chain(&known.list[..begin]);
        let mut order: Vec<_> = turned.map(|&ip| SocketAddr::new(ip, first.port())).collect();
        let failed = self.failed.borrow();
        // Stable: those that failed stay in their order, behind the others.
        order.sort_by_key(|&address| address != first && failed.iter().any(|failed| failed.is(address, now)));
        order
    }

    /// The name's present entry: another one if the name was gone for a while. Not counted as one more user of it,
    /// which the other workers would feel.
    fn name(&self) -> Ref<'_, Option<Arc<Name>>> {
        if let Some(successor) = self.successor() {
            self.name.replace(Some(successor));
        }
        self.name.borrow()
    }

    fn successor(&self) -> Option<Arc<Name>> {
        let Source::Name { host, names, .. } = &self.source else { return None };
        let outdated = self.name.borrow().as_ref().is_none_or(|name| name.retired.load(Acquire));
        if outdated { names.find(host) } else { None }
    }

    fn penalise(&self, address: SocketAddr, now: Instant) {
        let mut failed = self.failed.borrow_mut();
        let times = failed.iter().find(|failed| failed.address == address).map_or(0, |failed| failed.times + 1);
        let until = now + PENALTY.saturating_mul(1 << times.min(DOUBLINGS_MAX));
        failed.retain(|failed| failed.address != address);
        if failed.len() == ADDRESSES_MAX {
            failed.remove(0);
        }
        failed.push(Failed { address, times, until });
    }
}

impl Failed {
    fn is(&self, address: SocketAddr, now: Instant) -> bool {
        self.address == address && now < self.until
    }
}

/// The first connection that there is: each address has a head start, and a failure ends it. `failed` is told of those that
/// fail, or are given up though they had their head start. The caller bounds the time.
pub(super) async fn race(
    order: Vec<SocketAddr>,
    failed: impl FnMut(SocketAddr),
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut failure = ConnectError::NoAddress;
    let mut order = order.into_iter();
    let mut tries = Tries { failed, list: Vec::new() };
    loop {
        match order.next() {
            Some(address) => tries.begin(address),
            None if tries.list.is_empty() => return Err(failure),
            None => {}
        }
        // The last one has all the time that the caller gives; so have those before it.
        let patience = if order.len() > 0 { HEAD_START } else { Duration::MAX };
        match timeout(patience, poll_fn(|cx| tries.poll(cx))).await {
            Ok((address, Ok(stream))) => return Ok((stream, address)),
            Ok((address, Err(error))) => {
                (tries.failed)(address);
                failure = error.into();
            }
            Err(_) => {}
        }
    }
}

/// Connections that are being made.
struct Tries<F: FnMut(SocketAddr)> {
    failed: F,
    list: Vec<Try>,
}

struct Try {
    address: SocketAddr,
    begun: Instant,
    connecting: Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>,
}

impl<F: FnMut(SocketAddr)> Tries<F> {
    fn begin(&mut self, address: SocketAddr) {
        self.list.push(Try { address, begun: Instant::now(), connecting: Box::pin(TcpStream::connect(address)) });
    }

    /// The next that is made or has failed; pending for ever if there is none.
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<(SocketAddr, io::Result<TcpStream>)> {
        for index in 0..self.list.len() {
            if let Poll::Ready(result) = self.list[index].connecting.as_mut().poll(cx) {
                return Poll::Ready((self.list.remove(index).address, result));
            }
        }
        Poll::Pending
    }
}

impl<F: FnMut(SocketAddr)> Drop for Tries<F> {
    fn drop(&mut self) {
        let now = Instant::now();
        for given_up in self.list.iter().filter(|one| now.duration_since(one.begun) >= HEAD_START) {
            (self.failed)(given_up.address);
        }
    }
}

#[cfg(test)]
mod tests;
