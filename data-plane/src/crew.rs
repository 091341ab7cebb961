//! The workers as they see each other: how much each has to do, and a way to hand one a connection.
//!
//! The kernel spreads new connections over the workers without looking at them, which is fair to many short ones. A few
//! long ones that carry everything may all come to one worker; so whoever accepts a connection while another worker has
//! clearly less to do gives it away, once, before the first byte of it is read.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::mpsc;

use crate::{listener::Place, threads::Terms};

/// What a connection of HTTP/2 counts, which may carry many requests at a time; one of HTTP/1.1 counts 1.
pub const HTTP2_LOAD: usize = 16;

/// All workers of a process.
#[derive(Debug)]
pub struct Crew {
    members: Box<[Member]>,
}

/// One worker. Each has a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Member {
    load: AtomicUsize,
    /// Weak: it does not keep the worker alive.
    inbox: OnceLock<mpsc::WeakUnboundedSender<Handed>>,
}

/// A connection on its way from one worker to another.
#[derive(Debug)]
pub struct Handed {
    /// The connection.
    pub stream: TcpStream,
    /// Of the client.
    pub address: SocketAddr,
    /// Its place among the connections.
    pub place: Place,
    /// What it adds to its new worker's load.
    pub load: Load,
    /// Which listener it came in by: all workers have it under the same key.
    pub key: u64,
    /// What the listener is, for a worker that has let go of it already.
    pub listener: Terms,
}

/// Counts something in a worker's load for as long as it lives.
#[derive(Debug)]
pub struct Load {
    crew: Arc<Crew>,
    member: usize,
    amount: usize,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.crew.members[self.member].load.fetch_sub(self.amount, Relaxed);
    }
}

impl Crew {
    /// So many workers, which cannot be handed anything yet.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self { members: (0..members).map(|_| Member::default()).collect() }
    }

    /// How many workers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// From now on that worker can be handed connections; they come out of the result.
    pub fn enlist(&self, member: usize) -> (mpsc::UnboundedSender<Handed>, mpsc::UnboundedReceiver<Handed>) {
        let (inbox, handed) = mpsc::unbounded_channel();
        let _ = self.members[member].inbox.set(inbox.downgrade());
        (inbox, handed)
    }

    /// Adds to a worker's load.
    #[must_use]
    pub fn load(self: &Arc<Self>, member: usize, amount: usize) -> Load {
        self.members[member].load.fetch_add(amount, Relaxed);
        Load { crew: Arc::clone(self), member, amount }
    }

    /// Who should have a connection that this worker accepted: another, if that one has less to do by more than one
    /// connection and an eighth.
    #[must_use]
    pub fn should_have(&self, member: usize) -> usize {
        if self.members.len() == 1 {
            return member;
        }
        let load = |index: usize| self.members[index].load.load(Relaxed);
        let least = (0..self.members.len()).min_by_key(|&index| load(index)).unwrap_or(member);
        let own = load(member);
        if own > load(least) + 1 + own / 8 { least } else { member }
    }

    /// Hands a connection to a worker.
    ///
    /// # Errors
    /// The connection, if the worker takes none any more.
    pub fn hand(&self, member: usize, handed: Handed) -> Result<(), Box<Handed>> {
        match self.members[member].inbox.get().and_then(mpsc::WeakUnboundedSender::upgrade) {
            Some(inbox) => inbox.send(handed).map_err(|mpsc::error::SendError(handed)| Box::new(handed)),
            None => Err(Box::new(handed)),
        }
    }
}

/// Lets a registry scrape what the workers have to do.
#[derive(Debug)]
pub struct CrewCollector(pub Arc<Crew>);

impl Collector for CrewCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Client connections of a worker; one of HTTP/2 counts 16";
        let mut family = encoder.encode_descriptor("rustygate_worker_load", help, None, MetricType::Gauge)?;
        for (index, member) in self.0.members.iter().enumerate() {
            let load = ConstGauge::new(i64::try_from(member.load.load(Relaxed)).unwrap_or(0));
            load.encode(family.encode_family(&[("worker", index.to_string())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_heavy_connections_are_spread_whoever_accepts_them() {
        let crew = Arc::new(Crew::new(4));
        let mut loads = Vec::new();
        for _ in 0..8 {
            loads.push(crew.load(crew.should_have(0), HTTP2_LOAD));
        }
        let counts: Vec<_> = crew.members.iter().map(|member| member.load.load(Relaxed) / HTTP2_LOAD).collect();
        assert_eq!(counts, [2, 2, 2, 2]);
        drop(loads);
        assert!(crew.members.iter().all(|member| member.load.load(Relaxed) == 0));
    }

    #[test]
    fn many_light_connections_stay_where_they_are_unless_one_has_clearly_more() {
        let crew = Arc::new(Crew::new(2));
        let _even = [crew.load(0, 50), crew.load(1, 46)];
        assert_eq!((crew.should_have(0), crew.should_have(1)), (0, 1));
        let _more = crew.load(0, 10);
        assert_eq!(crew.should_have(0), 1);
        assert_eq!(Crew::new(1).should_have(0), 0);
    }
}
