//! A backend's limit of connections.
//!
//! All workers share one count of those that are open. A worker makes another one to an endpoint if the count is below the
//! limit, or if it has none to that endpoint that takes requests: so every worker always gets on, whatever the others have,
//! and the limit is exceeded by one for each worker and endpoint at most. Else the request waits for what its own worker
//! has there: for a connection to come back, or to end.
//!
//! An upgrade gets a connection for itself, which never comes back. It makes one over the limit only if its worker has none
//! to the endpoint at all, or upgrades would have no limit.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use tokio::sync::Notify;

/// What all workers know of a backend's connections.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU32,
    /// Requests that wait for one.
    waiting: AtomicU32,
    limited: AtomicBool,
}

impl Connections {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// How many requests wait for one.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Whether there ever was a limit of them.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.limited.load(Relaxed)
    }

    fn below(count: &AtomicU32, most: u32) -> bool {
        count.fetch_update(SeqCst, SeqCst, |count| (count < most).then_some(count + 1)).is_ok()
    }
}

/// What one worker knows of its connections to one endpoint of such a backend.
#[derive(Debug)]
pub struct Room {
    connections: Arc<Connections>,
    open: Cell<usize>,
    /// Of those, the ones that take requests, now or when they are made or come back.
    serving: Cell<usize>,
    requests: Queue,
    upgrades: Queue,
}

#[derive(Debug, Default)]
struct Queue {
    length: Cell<usize>,
    /// Tells the first that it may be its turn.
    turn: Notify,
}

/// A connection that is open or being made.
#[derive(Debug)]
pub struct Slot {
    room: Rc<Room>,
    serving: Cell<bool>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Waiting {
    room: Rc<Room>,
    upgrade: bool,
}

impl Room {
    /// Without connections.
    pub fn new(connections: &Arc<Connections>) -> Rc<Self> {
        connections.limited.store(true, Relaxed);
        Rc::new(Self {
            connections: Arc::clone(connections),
            open: Cell::new(0),
            serving: Cell::new(0),
            requests: Queue::default(),
            upgrades: Queue::default(),
        })
    }

    /// The right to make a connection, if `most` are not open or this worker needs one.
    pub fn enter(self: &Rc<Self>, most: u32, upgrade: bool) -> Option<Slot> {
        let needed = if upgrade { self.open.get() == 0 } else { self.serving.get() == 0 };
        if !Connections::below(&self.connections.open, most) {
            if !needed {
                return None;
            }
            self.connections.open.fetch_add(1, SeqCst);
        }
        self.open.set(self.open.get() + 1);
        self.serving.set(self.serving.get() + usize::from(!upgrade));
        Some(Slot { room: Rc::clone(self), serving: Cell::new(!upgrade) })
    }

    /// A place in the queue, if fewer than `pending` wait.
    pub fn wait(self: &Rc<Self>, pending: u32, upgrade: bool) -> Option<Waiting> {
        if !Connections::below(&self.connections.waiting, pending) {
            return None;
        }
        let length = &self.queue(upgrade).length;
        length.set(length.get() + 1);
        Some(Waiting { room: Rc::clone(self), upgrade })
    }

    /// Whether somebody waits: nobody overtakes.
    pub fn is_waited_for(&self, upgrade: bool) -> bool {
        self.queue(upgrade).length.get() > 0
    }

    /// A connection came back, or has room for one more request.
    pub fn returned(&self) {
        self.requests.turn.notify_one();
    }

    /// A connection has room for several more requests.
    pub fn returned_to_all(&self) {
        self.requests.turn.notify_waiters();
    }

    /// There is one less, for some or for all.
    fn freed(&self) {
        self.requests.turn.notify_one();
        self.upgrades.turn.notify_one();
    }

    fn queue(&self, upgrade: bool) -> &Queue {
        if upgrade { &self.upgrades } else { &self.requests }
    }
}

impl Slot {
    /// Whose it is.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// It is open, but takes no more requests.
    pub fn retire(&self) {
        if self.serving.replace(false) {
            self.room.serving.set(self.room.serving.get() - 1);
            self.room.freed();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.room.open.set(self.room.open.get() - 1);
        self.room.serving.set(self.room.serving.get() - usize::from(self.serving.get()));
        self.room.connections.open.fetch_sub(1, SeqCst);
        self.room.freed();
    }
}

impl Waiting {
    /// Whether it waits for a connection of its own.
    pub fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Until it may be its turn.
    pub async fn turn(&self) {
        self.room.queue(self.upgrade).turn.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let length = &self.room.queue(self.upgrade).length;
        length.set(length.get() - 1);
        self.room.connections.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    fn rooms<const N: usize>() -> (Arc<Connections>, [Rc<Room>; N]) {
        let connections = Arc::default();
        let rooms = std::array::from_fn(|_| Room::new(&connections));
        (connections, rooms)
    }

    #[test]
    fn a_worker_with_a_connection_keeps_the_limit_and_one_without_gets_one() {
        let (connections, [here, there]) = rooms();
        let slots: Vec<_> = (0..2).map(|_| here.enter(2, false).expect("below the limit")).collect();
        assert!(here.enter(2, false).is_none());
        let own = there.enter(2, false).expect("it has none");
        assert!(there.enter(2, false).is_none(), "one that is being made is one");
        assert_eq!(connections.open(), 3);
        drop(own);
        drop(slots);
        assert_eq!((connections.open(), here.serving.get(), there.open.get()), (0, 0, 0));
    }

    #[test]
    fn a_connection_that_takes_no_more_requests_is_open_and_of_no_use() {
        let (connections, [room]) = rooms();
        let old = room.enter(1, false).expect("the first");
        old.retire();
        let new = room.enter(1, false).expect("no other takes requests");
        assert!(room.enter(1, false).is_none());
        assert_eq!(connections.open(), 2);
        drop(old);
        assert_eq!((connections.open(), room.serving.get()), (1, 1));
        drop(new);
    }

    #[test]
    fn upgrades_get_no_more_than_one_over_the_limit_whatever_requests_get() {
        let (connections, [busy, room]) = rooms();
        let _other = busy.enter(1, false).expect("the first");
        let _tunnel = room.enter(1, true).expect("this worker has none at all");
        assert!(room.enter(1, true).is_none());
        let request = room.enter(1, false).expect("a tunnel takes none");
        assert!(room.enter(1, true).is_none());
        drop(request);
        assert!(room.enter(1, true).is_none());
        assert_eq!(connections.open(), 2);
    }

    #[test]
    fn so_many_wait_over_all_workers() {
        let (connections, [here, there]) = rooms();
        let one = here.wait(2, false).expect("room");
        let _two = there.wait(2, true).expect("room");
        assert!(here.wait(2, false).is_none() && there.wait(2, true).is_none());
        assert!(here.is_waited_for(false) && !here.is_waited_for(true));
        drop(one);
        assert_eq!(connections.waiting(), 1);
        assert!(!here.is_waited_for(false));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_what_comes_back_or_ends_and_who_is_gone_passes_it_on() {
        let (_connections, [room]) = rooms();
        let slot = room.enter(1, false).expect("the first");
        let (one, two) = (room.wait(9, false).expect("room"), room.wait(9, false).expect("room"));
        let upgrade = room.wait(9, true).expect("room");
        let moment = Duration::from_secs(1);
        {
            let (mut first, mut second) = (Box::pin(one.turn()), Box::pin(two.turn()));
            assert!(timeout(moment, &mut first).await.is_err() && timeout(moment, &mut second).await.is_err());
            room.returned();
            drop(first);
            timeout(moment, second).await.expect("it was passed on");
        }
        assert!(timeout(moment, upgrade.turn()).await.is_err(), "that was nothing for it");
        drop(slot);
        timeout(moment, one.turn()).await.expect("there is a place");
        timeout(moment, upgrade.turn()).await.expect("there is a place");
    }
}
