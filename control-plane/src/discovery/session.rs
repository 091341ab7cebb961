//! What is said on a stream after Hello.

use std::{fmt, sync::Arc, time::Duration};

use rustygate_proto::v1::{self as wire, stream_request, stream_response};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::{Discovery, Timing};
use crate::{
    apply::now_ms,
    fleet::Session,
    publish::{Announcement, Publisher},
    telemetry::Metrics,
};

/// Nothing heard for so many heartbeats: hang up.
const SILENT_HEARTBEATS: u32 = 3;

/// Why a stream ended.
#[derive(Debug)]
pub enum End {
    /// The proxy hung up, or the gate closed the stream.
    Closed,
    /// A newer stream has its node id.
    Replaced,
    /// Nothing was heard for too long.
    Silent,
    /// Frames were not read for too long.
    NotReading,
    /// A transaction was not answered for too long.
    NotAnswering,
    /// It broke the protocol.
    Protocol(String),
    /// We could not make what it needs.
    Failed(String),
}

impl End {
    /// Whether the proxy may be unable to notice anything but a broken connection.
    pub fn is_stall(&self) -> bool {
        matches!(self, Self::Silent | Self::NotReading | Self::NotAnswering)
    }

    /// What the proxy is told, if it can be.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Closed => None,
            Self::Replaced => Some(Status::aborted(self.to_string())),
            Self::Protocol(_) => Some(Status::invalid_argument(self.to_string())),
            Self::Silent | Self::NotReading | Self::NotAnswering => Some(Status::deadline_exceeded(self.to_string())),
            Self::Failed(_) => Some(Status::unavailable("the control plane could not pack the configuration")),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the stream was closed"),
            Self::Replaced => f.write_str("a newer stream has this node id: each proxy needs its own --node-id"),
            Self::Silent => f.write_str("nothing was heard from the proxy"),
            Self::NotReading => f.write_str("the proxy does not read"),
            Self::NotAnswering => f.write_str("the proxy did not answer a transaction"),
            Self::Protocol(what) => write!(f, "protocol error: {what}"),
            Self::Failed(why) => write!(f, "the configuration could not be packed: {why}"),
        }
    }
}

type Frames = mpsc::Sender<Result<wire::StreamResponse, Status>>;

/// A transaction that was sent and not yet answered.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    from: u64,
    to: u64,
    created_unix_ms: u64,
    sent: Instant,
}

/// A revision that the proxy refused.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    revision: u64,
    again_at: Instant,
}

/// One proxy's stream.
pub struct Stream {
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    timing: Timing,
    session: Session,
    frames: Frames,
    heads: watch::Receiver<Arc<Announcement>>,
    /// What the proxy holds; 0 if that is nothing, or nothing sure.
    holds: u64,
    in_flight: Option<InFlight>,
    refusal: Option<Refusal>,
    retry: Duration,
    last_heard: Instant,
}

impl Stream {
    /// For a proxy that holds a revision.
    pub fn new(discovery: &Discovery, session: Session, frames: Frames, holds: u64) -> Self {
        Self {
            publisher: discovery.publisher.clone(),
            metrics: discovery.metrics.clone(),
            timing: discovery.timing,
            session,
            frames,
            heads: discovery.publisher.subscribe(),
            holds,
            in_flight: None,
            refusal: None,
            retry: discovery.timing.retry,
            last_heard: Instant::now(),
        }
    }

    /// Runs to the end of the stream.
    pub async fn run(mut self, requests: &mut Streaming<wire::StreamRequest>) -> End {
        match self.talk(requests).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn talk(&mut self, requests: &mut Streaming<wire::StreamRequest>) -> Result<std::convert::Infallible, End> {
        let mut heartbeat = interval_at(Instant::now() + self.timing.heartbeat, self.timing.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silence = self.timing.heartbeat * SILENT_HEARTBEATS;
        let replaced = self.session.replaced.clone();
        let frames = self.frames.clone();
        loop {
            if self.push_is_due() {
                self.push().await?;
            }
            let answer_by = self.in_flight.map(|in_flight| in_flight.sent + self.timing.answer);
            let retry_at = self.refusal.filter(|_| self.in_flight.is_none()).map(|refusal| refusal.again_at);
            tokio::select! {
                biased;
                () = replaced.cancelled() => return Err(End::Replaced),
                () = frames.closed() => return Err(End::Closed),
                request = requests.message() => self.hear(request)?,
                changed = self.heads.changed(), if self.in_flight.is_none() => {
                    changed.map_err(|_| End::Closed)?;
                }
                _ = heartbeat.tick() => {
                    self.send(stream_response::Message::Heartbeat(wire::Heartbeat {})).await?;
                }
                () = until(answer_by) => return Err(End::NotAnswering),
                () = until(retry_at) => {}
                () = sleep_until(self.last_heard + silence) => return Err(End::Silent),
            }
        }
    }

    fn push_is_due(&self) -> bool {
        let head = self.heads.borrow().revision.revision;
        let refused = self.refusal.is_some_and(|refusal| refusal.revision >= head && Instant::now() < refusal.again_at);
        self.in_flight.is_none() && self.holds != head && !refused
    }

    async fn push(&mut self) -> Result<(), End> {
        // What is announced from here on is newer than what is packed now, or the same.
        let created_unix_ms = self.heads.borrow_and_update().revision.created_unix_ms;
        let encoded = self.publisher.transaction(self.holds).await.map_err(|error| End::Failed(error.to_string()))?;
        for frame in &encoded.frames {
            self.send_frame(frame.clone()).await?;
        }
        self.metrics.pushes.inc();
        self.metrics.push_bytes.inc_by(encoded.bytes as u64);
        if encoded.from == 0 {
            self.metrics.full_pushes.inc();
        }
        self.in_flight = Some(InFlight { from: encoded.from, to: encoded.to, created_unix_ms, sent: Instant::now() });
        Ok(())
    }

    async fn send(&self, message: stream_response::Message) -> Result<(), End> {
        self.send_frame(wire::StreamResponse { message: Some(message) }).await
    }

    async fn send_frame(&self, frame: wire::StreamResponse) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.session.replaced.cancelled() => Err(End::Replaced),
            sent = timeout(self.timing.write, self.frames.send(Ok(frame))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Closed),
                Err(_) => Err(End::NotReading),
            },
        }
    }

    fn hear(&mut self, request: Result<Option<wire::StreamRequest>, Status>) -> Result<(), End> {
        let Ok(Some(request)) = request else { return Err(End::Closed) };
        self.last_heard = Instant::now();
        match request.message {
            Some(stream_request::Message::Ack(ack)) => self.acknowledged(ack.revision),
            Some(stream_request::Message::Nack(nack)) => self.refused(nack),
            Some(stream_request::Message::Heartbeat(_)) => {
                self.session.seen();
                Ok(())
            }
            Some(stream_request::Message::Health(report)) => {
                self.session.reported(report);
                Ok(())
            }
            Some(stream_request::Message::Hello(_)) => Err(End::Protocol("a second Hello".into())),
            // A newer proxy may say what we do not know.
            None => Ok(()),
        }
    }

    fn acknowledged(&mut self, revision: u64) -> Result<(), End> {
        let in_flight = self.answered(revision)?;
        let lag = Duration::from_millis(now_ms().saturating_sub(in_flight.created_unix_ms));
        self.metrics.ack_seconds.observe(lag.as_secs_f64());
        self.session.acknowledged(revision, lag);
        self.holds = revision;
        self.refusal = None;
        self.retry = self.timing.retry;
        Ok(())
    }

    fn refused(&mut self, nack: wire::Nack) -> Result<(), End> {
        let in_flight = self.answered(nack.revision)?;
        self.metrics.nacks.inc();
        tracing::warn!(
            revision = nack.revision,
            resync = nack.resync,
            faults = ?nack.faults.iter().map(|fault| &fault.message).take(10).collect::<Vec<_>>(),
            "a proxy refused a revision"
        );
        self.session.refused(nack.revision, nack.faults);
        let now = Instant::now();
        if nack.resync {
            self.holds = 0;
        }
        // Everything anew may be had at once, but if that was what failed, it may fail for ever.
        let again_at = if nack.resync && in_flight.from != 0 {
            now
        } else {
            let again_at = now + self.retry;
            self.retry = (self.retry * 2).min(self.timing.retry_max);
            again_at
        };
        self.refusal = Some(Refusal { revision: nack.revision, again_at });
        Ok(())
    }

    fn answered(&mut self, revision: u64) -> Result<InFlight, End> {
        match self.in_flight.take() {
            Some(in_flight) if in_flight.to == revision => Ok(in_flight),
            Some(in_flight) => {
                Err(End::Protocol(format!("an answer to revision {revision}; {} was sent", in_flight.to)))
            }
            None => Err(End::Protocol(format!("an answer to revision {revision}; none was sent"))),
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
