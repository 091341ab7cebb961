//! What the two directions of a try know of each other. They run in one task, so plain cells do.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use crate::{snapshot::Timeouts, stream::Pressure, worker::Policy};

/// How far the request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// Waiting for the client to send more.
    AwaitingClient,
    /// Waiting for the upstream to take more.
    AwaitingUpstream,
    /// All of the request was sent.
    Done,
    /// The upstream takes no more; its answer may still come.
    Broken,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Flow {
    timeouts: Timeouts,
    /// How long the client may send nothing of its request's body.
    body_timeout: Duration,
    /// How long the client may take nothing of its answer.
    write_timeout: Duration,
    /// When this try must have come further.
    deadline: Cell<Instant>,
    /// How far the request's body has come.
    pub upload: Cell<UploadState>,
    /// The connection was upgraded: bytes are carried as they come.
    pub tunnel: Cell<bool>,
    /// In a tunnel: the client will send no more.
    pub client_closed: Cell<bool>,
    /// In a tunnel: the upstream will send no more.
    pub upstream_closed: Cell<bool>,
    /// The request's head is on its way: what the upstream says now, it says to it.
    pub head_sent: Cell<bool>,
    /// Whether the request can still be sent again from its beginning.
    pub replayable: Cell<bool>,
    /// How long a response may make no progress, once its head is there.
    stall: Cell<Option<Duration>>,
    /// The deadline is the second one since anything moved.
    extended: Cell<bool>,
    /// The deadline that holds unless the endpoint is found to hang; the present one is when that is asked.
    patient: Cell<Option<Instant>>,
}

impl Flow {
    /// Of a try that begins now, for a request that began at `started`.
    pub fn begin(timeouts: Timeouts, started: Instant, try_started: Instant, has_body: bool) -> Self {
        let flow = Self {
            timeouts,
            body_timeout: timeouts.idle,
            write_timeout: timeouts.idle,
            deadline: Cell::new(started + timeouts.total),
            upload: Cell::new(UploadState::AwaitingUpstream),
            tunnel: Cell::new(false),
            client_closed: Cell::new(false),
            upstream_closed: Cell::new(false),
            head_sent: Cell::new(false),
            replayable: Cell::new(true),
            stall: Cell::new(None),
            extended: Cell::new(false),
            patient: Cell::new(None),
        };
        match timeouts.per_try {
            _ if has_body => flow.deadline.set(try_started + timeouts.idle),
            Some(per_try) => flow.deadline.set(flow.deadline.get().min(try_started + per_try)),
            None => {}
        }
        flow
    }

    /// The same with the process's own bounds on what a client may make it wait for.
    pub fn with_client(mut self, policy: &Policy) -> Self {
        self.body_timeout = policy.body_timeout.min(self.timeouts.idle);
        self.write_timeout = policy.write_timeout.min(self.timeouts.idle);
        self
    }

    /// At that time is asked whether the endpoint hangs; as long as it does not, the deadline stays what it is now.
    pub fn watch_for_hang(&self, at: Instant) {
        let deadline = self.deadline.get();
        if at < deadline {
            self.patient.set(Some(deadline));
            self.deadline.set(at);
        }
    }

    /// When this try must have come further.
    pub fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// The body of the request is on its way, and was for the first time at `first`: the upstream's time runs.
    pub fn body_sent(&self, first: Instant) {
        self.upload.set(UploadState::Done);
        if self.stall.get().is_none() {
            let due = first + self.timeouts.total;
            self.deadline.set(self.timeouts.per_try.map_or(due, |per_try| due.min(Instant::now() + per_try)));
        }
    }

    /// The head of the response is there. A stream may be silent for long; another body may not.
    pub fn response_begun(&self, stream: bool, now: Instant) {
        let stall = if stream { self.timeouts.idle } else { self.timeouts.total.min(self.timeouts.idle) };
        self.patient.set(None);
        self.stall.set(Some(stall));
        self.await_both(now, stall);
    }

    /// From now on the upstream has `stall` to send more, and the client its time to take what there is. Which of them
    /// is waited for shows when the shorter time is up.
    fn await_both(&self, now: Instant, stall: Duration) {
        self.extended.set(false);
        self.deadline.set(now + stall.min(self.write_timeout));
    }

    /// The deadline has passed. It moves on if one side took something meanwhile, or if whoever is waited for has more
    /// time than the other. False if the time is up.
    pub fn extend(&self, client: &Pressure, upstream: &Pressure, ask_again: impl Fn() -> Option<Instant>) -> bool {
        if let Some(deadline) = self.patient.take()
            && let Some(later) = ask_again()
        {
            self.deadline.set(deadline);
            self.watch_for_hang(later);
            return true;
        }
        let (client_moved, upstream_moved) = (client.take_moved(), upstream.take_moved());
        let stall = self.stall.get();
        if (client_moved && stall.is_some()) || (upstream_moved && self.upload.get() != UploadState::Done) {
            self.progress();
            return true;
        }
        let Some(stall) = stall else { return false };
        let (whole, other) =
            if client.is_blocked() { (self.write_timeout, stall) } else { (stall, self.write_timeout) };
        let rest = whole.saturating_sub(other);
        if rest.is_zero() || self.extended.replace(true) {
            return false;
        }
        self.deadline.set(self.deadline.get() + rest);
        true
    }

    /// Whether there is time for another try.
    pub fn has_time(&self, span: Duration) -> bool {
        Instant::now() + span < self.patient.get().unwrap_or_else(|| self.deadline.get())
    }

    /// A byte went one way or the other.
    pub fn progress(&self) {
        match (self.stall.get(), self.upload.get()) {
            (Some(stall), _) => self.await_both(Instant::now(), stall),
            (None, UploadState::Done) => {}
            (None, UploadState::AwaitingClient) => self.deadline.set(Instant::now() + self.body_timeout),
            (None, _) => self.deadline.set(Instant::now() + self.timeouts.idle),
        }
    }
}
