//! From the client to the upstream: the request's head (already in the buffer), its body, and then whatever an upgraded
//! connection carries.

use std::{
    future::{Future as _, pending, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::time::Instant;

use super::{
    attempt::Plan,
    carry,
    flow::{Flow, UploadState},
    yield_now_and_then,
};
use crate::{
    body::{Sink, Source},
    error::ProxyError,
    http1::{Framing, body::Piece},
    plugin::mirror::copies::Copying,
};

/// Bodies up to this size are kept while they are sent, so that they can be sent again.
const REPLAY_BYTES_MAX: usize = 64 << 10;

/// The request's body: read once, whatever the number of tries.
#[derive(Debug)]
pub struct Upload {
    framing: Framing,
    taken: u64,
    bytes_max: u64,
    /// All that was taken, while it can be sent again.
    replay: Option<Vec<u8>>,
    /// What mirrors get of it.
    copies: Copying,
    /// When all of it was sent for the first time; the upstream's time runs from then on.
    pub sent_at: Option<Instant>,
}

/// Why the upward direction ends the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The client hung up, or its connection failed.
    ClientGone,
    /// Both sides of a tunnel are done.
    TunnelDone,
    /// One side of a tunnel failed.
    TunnelBroken,
    /// The body is refused.
    Refused(ProxyError),
}

impl Upload {
    /// Of a request framed so, whose body may have so many bytes.
    pub fn new(framing: Framing, bytes_max: u64) -> Self {
        Self { framing, taken: 0, bytes_max, replay: None, copies: Copying::default(), sent_at: None }
    }

    /// Whether the body, as far as the head tells, is within its bound.
    pub fn check_length(&self) -> Result<(), ProxyError> {
        match self.framing {
            Framing::Length(length) if length > self.bytes_max => Err(ProxyError::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// The bytes of the body, if the head says how many.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Bounds the body by this too.
    pub fn bound(&mut self, bytes_max: Option<u64>) -> Result<(), ProxyError> {
        self.bytes_max = self.bytes_max.min(bytes_max.unwrap_or(u64::MAX));
        self.check_length()
    }

    /// Copies what is taken from now on to mirrors, too.
    pub fn copy(&mut self, copies: Copying) {
        self.copies = copies;
        if self.framing == Framing::Empty {
            self.copies.finish();
        }
    }

    /// Keeps what is taken from now on, for another try.
    pub fn keep_for_replay(&mut self, keep: bool) {
        self.replay = (keep && self.framing != Framing::Empty).then(Vec::new);
    }

    /// Whether the request can be sent again from its beginning.
    pub fn can_replay(&self) -> bool {
        self.taken == 0 || self.replay.is_some()
    }

    fn check_room(&self, bytes: usize) -> Result<(), ProxyError> {
        if self.taken + bytes as u64 > self.bytes_max { Err(ProxyError::BodyTooLarge) } else { Ok(()) }
    }

    /// This piece is on its way.
    fn keep(&mut self, piece: &[u8]) {
        self.taken += piece.len() as u64;
        self.copies.keep(piece);
        if let Some(replay) = &mut self.replay {
            if replay.len() + piece.len() > REPLAY_BYTES_MAX {
                self.replay = None;
            } else {
                replay.extend_from_slice(piece);
            }
        }
    }
}

/// Carries what goes up until there is a reason to stop; once all is sent, that is only the client's leaving.
pub async fn uplink(
    from: &mut Source<'_>,
    mut to: Sink<'_>,
    upload: &mut Upload,
    flow: &Flow,
    plan: &Plan<'_>,
) -> Stop {
    match send_body(from, &mut to, upload, flow, plan).await {
        Ok(()) => {}
        Err(Halt::Stop(stop)) => return stop,
        Err(Halt::Upstream) => {
            flow.upload.set(UploadState::Broken);
            return pending().await;
        }
    }
    match await_tunnel(from, flow).await {
        Ok(()) => tunnel(from, &mut to, flow).await,
        Err(stop) => stop,
    }
}

enum Halt {
    Stop(Stop),
    /// The upstream takes no more.
    Upstream,
}

async fn send_body(
    from: &mut Source<'_>,
    to: &mut Sink<'_>,
    upload: &mut Upload,
    flow: &Flow,
    plan: &Plan<'_>,
) -> Result<(), Halt> {
    if upload.framing == Framing::Empty {
        flow.head_sent.set(true);
        to.flush().await.map_err(|_| Halt::Upstream)?;
        flow.upload.set(UploadState::Done);
        return Ok(());
    }
    flow.head_sent.set(true);
    if let Some(replay) = upload.replay.as_ref().filter(|replay| !replay.is_empty()) {
        to.copy(upload.framing, replay).await.map_err(|_| Halt::Upstream)?;
    }
    let mut carried = 0;
    loop {
        flow.upload.set(UploadState::AwaitingUpstream);
        let piece = from.next().map_err(|error| refused(ProxyError::BadBody(error)))?;
        match piece {
            Piece::Data(bytes) => {
                upload.check_room(bytes).map_err(refused)?;
                let framing = upload.framing;
                let taken = |piece: &[u8]| upload.keep(piece);
                to.piece(framing, from, bytes, taken).await.map_err(|_| Halt::Upstream)?;
                yield_now_and_then(&mut carried, bytes).await;
                flow.replayable.set(upload.can_replay());
            }
            Piece::More => {
                to.flush().await.map_err(|_| Halt::Upstream)?;
                flow.upload.set(UploadState::AwaitingClient);
                flow.progress();
                match flow.more(from.fill()).await {
                    Ok(0) | Err(_) => return Err(Halt::Stop(Stop::ClientGone)),
                    Ok(_) => {}
                }
            }
            Piece::End => {
                let trailers = from.trailers_mut();
                if !trailers.is_empty() {
                    plan.chain.on_request_trailers(trailers);
                }
                to.end(upload.framing, from.trailers()).map_err(|_| Halt::Upstream)?;
                to.flush().await.map_err(|_| Halt::Upstream)?;
                upload.copies.finish();
                flow.body_sent(*upload.sent_at.get_or_insert_with(Instant::now));
                return Ok(());
            }
        }
    }
}

fn refused(error: ProxyError) -> Halt {
    Halt::Stop(Stop::Refused(error))
}

/// Watches for the client's leaving while its answer is made. What it sends meanwhile stays in the buffer: the next
/// request, or the first bytes of a tunnel, and nobody's until the answer has said which.
async fn await_tunnel(from: &mut Source<'_>, flow: &Flow) -> Result<(), Stop> {
    let mut ended = pin!(from.ended());
    poll_fn(|cx| match flow.tunnel.get() {
        true => Poll::Ready(Ok(())),
        false => ended.as_mut().poll(cx).map(|()| Err(Stop::ClientGone)),
    })
    .await
}

async fn tunnel(from: &mut Source<'_>, to: &mut Sink<'_>, flow: &Flow) -> Stop {
    match carry(from, to, flow).await {
        Ok(()) if flow.upstream_closed.get() => Stop::TunnelDone,
        Ok(()) => {
            flow.client_closed.set(true);
            pending().await
        }
        Err(_) => Stop::TunnelBroken,
    }
}
