//! What the two directions of a try know of each other. They run in one task, so plain cells do.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::patience::Patience;
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
    /// With the client that sends its request's body.
    sending: Patience,
    /// With the client that takes its answer.
    taking: Patience,
    /// When all is over, whatever moves.
    ends: Option<Instant>,
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
    /// The upstream said something before it was asked. It may say more of that kind: its connection carries no further request.
    pub unasked: Cell<bool>,
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
            sending: Patience::new(timeouts.idle, 0),
            taking: Patience::new(timeouts.idle, 0),
            ends: None,
            deadline: Cell::new(started + timeouts.total),
            upload: Cell::new(UploadState::AwaitingUpstream),
            tunnel: Cell::new(false),
            client_closed: Cell::new(false),
            upstream_closed: Cell::new(false),
            head_sent: Cell::new(false),
            unasked: Cell::new(false),
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

    /// The same with the process's own bounds on what a client may make it wait for. What it sends may be `messages`, which
    /// come when they come.
    pub fn with_client(mut self, policy: &Policy, messages: bool) -> Self {
        self.body_timeout = policy.body_timeout.min(self.timeouts.idle);
        self.write_timeout = policy.write_timeout.min(self.timeouts.idle);
        self.sending = Patience::new(policy.body_timeout, if messages { 0 } else { policy.body_rate_min });
        self.taking = Patience::new(policy.write_timeout, policy.write_rate_min);
        self
    }

    /// The same with an end, if the client set one.
    pub fn ending(mut self, ends: Option<Instant>) -> Self {
        self.ends = ends;
        self
    }

    /// Whether it is the client's own end that has come.
    pub fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
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
        let bounds = [self.ends, self.sending.due(), self.taking.due()];
        bounds.into_iter().flatten().fold(self.deadline.get(), Instant::min)
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
        if stream {
            // Both may talk for as long as they like.
            self.sending.waive();
        }
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
        if self.has_ended() || self.is_client_slow() {
            return false;
        }
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

    /// Waits for more of the request's body, on the client's time.
    pub async fn more(&self, fill: impl Future<Output = io::Result<usize>>) -> io::Result<usize> {
        let mut fill = pin!(fill);
        poll_fn(|cx| {
            let polled = fill.as_mut().poll(cx);
            match &polled {
                Poll::Pending if self.sending.is_waiting() => {}
                Poll::Pending => self.sending.begin(Instant::now()),
                Poll::Ready(filled) => {
                    let bytes = filled.as_ref().map_or(0, |bytes| *bytes as u64);
                    match self.sending.is_waiting() {
                        true => self.sending.end(Instant::now(), bytes),
                        false => self.sending.earn(bytes),
                    }
                }
            }
            polled
        })
        .await
    }

    /// Looks at whether the client takes its answer. Asks for the time only when it makes others wait. So many `streams` share
    /// what it can take: each may do with its share.
    pub fn watch_client(&self, client: &Pressure, streams: usize) {
        let blocked = client.is_blocked();
        if !self.taking.is_waiting() {
            if blocked {
                client.take_bytes();
                self.taking.begin(Instant::now());
            }
            return;
        }
        let bytes = client.take_bytes();
        if bytes > 0 || !blocked {
            let now = Instant::now();
            self.taking.end(now, bytes.saturating_mul(streams as u64));
            if blocked {
                self.taking.begin(now);
            }
        }
    }

    /// Whether the client sends too slowly.
    pub fn sends_slowly(&self) -> bool {
        self.sending.is_over()
    }

    /// Whether the client takes too slowly.
    pub fn takes_slowly(&self) -> bool {
        self.taking.is_over()
    }

    fn is_client_slow(&self) -> bool {
        self.sends_slowly() || self.takes_slowly()
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
