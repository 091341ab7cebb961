//! A backend's circuit breaker: so many of its requests at once, over all workers, and a bounded queue for the others.
//!
//! To pass costs one atomic exchange while there is room. Only when there is none does a request take the lock of the
//! queue, and so does whoever leaves while someone waits. The count is exact, and who waits longest goes first.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Gate {
    /// As the backend's limits had it last.
    most: AtomicU32,
    inside: AtomicU32,
    /// The queue's length.
    waiting: AtomicU32,
    queue: Mutex<VecDeque<Arc<Ticket>>>,
}

/// A place in the queue.
#[derive(Debug, Default)]
struct Ticket {
    /// It was let in.
    called: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The right to be inside; its holder leaves when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Whether a request may go on.
#[derive(Debug)]
pub enum Entry {
    /// It may.
    Now(Permit),
    /// It may when this is ready; dropped before, it gives up its place.
    Later(Waiting),
    /// It may not: too many wait already.
    Full,
}

/// A request in the queue.
#[derive(Debug)]
pub struct Waiting {
    gate: Arc<Gate>,
    ticket: Arc<Ticket>,
    /// The permit was handed out.
    done: bool,
}

impl Gate {
    /// Lets a request in if fewer than `most` are, or into the queue if fewer than `pending` wait.
    #[must_use]
    pub fn enter(gate: &Arc<Self>, most: u32, pending: u32) -> Entry {
        if gate.most.load(Relaxed) != most {
            gate.most.store(most, SeqCst);
            gate.call(&mut gate.queue());
        }
        // Nobody overtakes those who wait.
        if gate.waiting.load(SeqCst) == 0 && gate.take() {
            return Entry::Now(Permit(Arc::clone(gate)));
        }
        let mut queue = gate.queue();
        if queue.len() >= pending as usize {
            // Someone may have left meanwhile.
            let free = queue.is_empty() && gate.take();
            return if free { Entry::Now(Permit(Arc::clone(gate))) } else { Entry::Full };
        }
        let ticket = Arc::new(Ticket::default());
        queue.push_back(Arc::clone(&ticket));
        // First the count of those who wait, then a look at the room: who leaves does it the other way round, so that one of
        // the two sees the other.
        gate.call(&mut queue);
        Entry::Later(Waiting { gate: Arc::clone(gate), ticket, done: false })
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// How many are under way.
    #[must_use]
    pub fn inside(&self) -> u32 {
        self.inside.load(Relaxed)
    }

    /// Whether it ever had a limit.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.most.load(Relaxed) > 0
    }

    fn take(&self) -> bool {
        let most = self.most.load(SeqCst);
        self.inside.fetch_update(SeqCst, SeqCst, |inside| (inside < most).then_some(inside + 1)).is_ok()
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.call(&mut self.queue());
        }
    }

    /// Lets in who waits, as far as there is room.
    #[allow(clippy::cast_possible_truncation, reason = "limits are below a million")]
    fn call(&self, queue: &mut VecDeque<Arc<Ticket>>) {
        self.waiting.store(queue.len() as u32, SeqCst);
        while !queue.is_empty() && self.take() {
            let Some(ticket) = queue.pop_front() else { return };
            self.waiting.store(queue.len() as u32, SeqCst);
            ticket.call();
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Ticket>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    fn call(&self) {
        self.called.store(true, SeqCst);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if !self.ticket.called.load(SeqCst) {
            let mut waker = self.ticket.waker.lock().unwrap_or_else(PoisonError::into_inner);
            *waker = Some(cx.waker().clone());
            drop(waker);
            if !self.ticket.called.load(SeqCst) {
                return Poll::Pending;
            }
        }
        self.done = true;
        Poll::Ready(Permit(Arc::clone(&self.gate)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let gate = &self.gate;
        let mut queue = gate.queue();
        match queue.iter().position(|ticket| Arc::ptr_eq(ticket, &self.ticket)) {
            Some(at) => {
                queue.remove(at);
                gate.call(&mut queue);
            }
            // It was called and did not come.
            None => {
                drop(queue);
                gate.leave();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    fn enter(gate: &Arc<Gate>, (most, pending): (u32, u32)) -> Entry {
        Gate::enter(gate, most, pending)
    }

    fn now(entry: Entry) -> Permit {
        match entry {
            Entry::Now(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn later(entry: Entry) -> Waiting {
        match entry {
            Entry::Later(waiting) => waiting,
            other => panic!("{other:?}"),
        }
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    fn poll(waiting: &mut Waiting, woken: &Arc<Woken>) -> Poll<Permit> {
        Pin::new(waiting).poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
    }

    #[test]
    fn so_many_pass_so_many_wait_and_the_others_are_refused() {
        let gate = Arc::new(Gate::default());
        let limits = (2, 1);
        let first = now(enter(&gate, limits));
        let _second = now(enter(&gate, limits));
        let mut third = later(enter(&gate, limits));
        assert!(matches!(enter(&gate, limits), Entry::Full));
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut third, &woken).is_pending());
        drop(first);
        assert!(woken.0.load(SeqCst));
        assert!(poll(&mut third, &woken).is_ready());
        assert_eq!((gate.inside(), gate.waiting()), (1, 0), "the permit was dropped at once");
    }

    #[test]
    fn who_waits_longest_goes_first_and_nobody_overtakes() {
        let gate = Arc::new(Gate::default());
        let limits = (1, 10);
        let inside = now(enter(&gate, limits));
        let mut waiting: Vec<_> = (0..3).map(|_| later(enter(&gate, limits))).collect();
        drop(inside);
        let mut late = later(enter(&gate, limits));
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut late, &woken).is_pending());
        assert!(poll(&mut waiting[1], &woken).is_pending());
        let Poll::Ready(permit) = poll(&mut waiting[0], &woken) else { panic!("the first was called") };
        drop(permit);
        assert!(poll(&mut waiting[1], &woken).is_ready());
    }

    #[test]
    fn who_gives_up_frees_the_place_and_a_call_that_was_not_heard_goes_to_the_next() {
        let gate = Arc::new(Gate::default());
        let limits = (1, 2);
        let inside = now(enter(&gate, limits));
        let first = later(enter(&gate, limits));
        let second = later(enter(&gate, limits));
        drop(second);
        let mut third = later(enter(&gate, limits));
        // The first is called, and goes without having heard it.
        drop(inside);
        drop(first);
        let woken = Arc::new(Woken::default());
        assert!(poll(&mut third, &woken).is_ready());
        assert_eq!((gate.inside(), gate.waiting()), (0, 0));
    }

    #[test]
    fn a_raised_limit_calls_those_who_wait() {
        let gate = Arc::new(Gate::default());
        let _inside = now(enter(&gate, (1, 5)));
        let mut waiting = later(enter(&gate, (1, 5)));
        let _third = now(enter(&gate, (3, 5)));
        assert!(poll(&mut waiting, &Arc::default()).is_ready());
    }

    #[test]
    fn over_many_threads_never_more_than_so_many_are_inside_and_all_come_in_at_last() {
        const THREADS: usize = 8;
        const ROUNDS: usize = 2_000;
        let gate = Arc::new(Gate::default());
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    for round in 0..ROUNDS {
                        let permit = match enter(&gate, (3, 100)) {
                            Entry::Now(permit) => permit,
                            // Some change their mind.
                            Entry::Later(_) if round % 7 == 0 => continue,
                            Entry::Later(waiting) => runtime.block_on(waiting),
                            Entry::Full => panic!("there is room for all"),
                        };
                        assert!(gate.inside() <= 3);
                        passed.fetch_add(1, SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(passed.load(SeqCst) as usize > THREADS * ROUNDS / 2);
        assert_eq!((gate.inside(), gate.waiting()), (0, 0));
    }
}
