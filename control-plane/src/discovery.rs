//! One stream per proxy: greet it, bring it to the head, keep it there.
//!
//! At most one transaction is unacknowledged; meanwhile newer heads only replace each other, so a slow proxy costs no
//! memory, and gets the sum of what it missed. The rules are in the comments of `snapshot.proto`.

mod session;

use std::{sync::Arc, time::Duration};

use rustygate_proto::v1::{self as wire, snapshot_service_server::SnapshotService, stream_request::Message};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::session::Stream as ProxyStream;
use crate::{auth::Caller, fleet::Fleet, publish::Publisher, store::Store, telemetry::Metrics};

/// How long a stream waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For Hello.
    pub hello: Duration,
    /// Between two of our heartbeats; nothing heard for three of them closes the stream.
    pub heartbeat: Duration,
    /// For the proxy to read one frame.
    pub write: Duration,
    /// For the answer to a transaction, once it is sent.
    pub answer: Duration,
    /// Before a refused revision is tried again; doubles each time, up to [`Timing::retry_max`].
    pub retry: Duration,
    /// See [`Timing::retry`].
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            write: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            retry: Duration::from_secs(30),
            retry_max: Duration::from_secs(600),
        }
    }
}

/// Frames that wait in a stream's queue; what is in it is shared with all other streams.
const QUEUE_FRAMES: usize = 2;

/// Serves proxies.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The past, to know what a proxy brings.
    pub store: Arc<Store>,
    /// The present.
    pub publisher: Arc<Publisher>,
    /// Where proxies are listed.
    pub fleet: Arc<Fleet>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long to wait.
    pub timing: Timing,
}

#[tonic::async_trait]
impl SnapshotService for Discovery {
    type StreamStream = ReceiverStream<Result<wire::StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<wire::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = Caller::of(&request);
        let (frames, queue) = mpsc::channel(QUEUE_FRAMES);
        // Ends with the stream: both of its directions are watched, and everything it waits for has a bound.
        tokio::spawn(self.clone().serve(request.into_inner(), frames, caller));
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl Discovery {
    async fn serve(
        self,
        mut requests: Streaming<wire::StreamRequest>,
        frames: mpsc::Sender<Result<wire::StreamResponse, Status>>,
        caller: Caller,
    ) {
        let status = match self.greet(&mut requests, &caller).await {
            Ok((hello, session, serving)) => {
                tracing::info!(
                    node_id = hello.node_id,
                    peer = caller.peer.map(tracing::field::display),
                    revision = serving,
                    "proxy connected"
                );
                let stream = ProxyStream::new(&self, session, frames.clone(), serving);
                let end = stream.run(&mut requests).await;
                tracing::info!(node_id = hello.node_id, peer = caller.peer.map(tracing::field::display), reason = %end, "proxy disconnected");
                if end.is_stall() {
                    self.metrics.streams_cut.inc();
                    // Nothing that is sent would arrive; only breaking the connection frees what it holds.
                    caller.cut.cancel();
                }
                end.status()
            }
            Err(status) => {
                tracing::warn!(
                    peer = caller.peer.map(tracing::field::display),
                    reason = status.message(),
                    "proxy not let in"
                );
                Some(status)
            }
        };
        if let Some(status) = status {
            // If it does not fit, the end of the stream says enough.
            let _ = timeout(self.timing.heartbeat, frames.send(Err(status))).await;
        }
    }

    async fn greet(
        &self,
        requests: &mut Streaming<wire::StreamRequest>,
        caller: &Caller,
    ) -> Result<(wire::Hello, crate::fleet::Session, u64), Status> {
        let first = timeout(self.timing.hello, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(Message::Hello(hello)) = first.and_then(|request| request.message) else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let serving = self.serving(&hello).await?;
        let session = self.fleet.connect(&hello, serving, caller.peer).map_err(|refused| match refused {
            crate::fleet::Refused::Full(_) => Status::resource_exhausted(refused.to_string()),
            other => Status::invalid_argument(other.to_string()),
        })?;
        Ok((hello, session, serving))
    }

    /// The revision that a proxy provably holds; 0 if it must have everything.
    async fn serving(&self, hello: &wire::Hello) -> Result<u64, Status> {
        if hello.revision == 0 || *hello.store_id != **self.publisher.store_id() {
            return Ok(0);
        }
        let known = self.store.revision(hello.revision).await.map_err(|error| {
            tracing::error!(%error, "a proxy's revision could not be looked up");
            Status::unavailable("the store could not be read")
        })?;
        Ok(match known {
            Some((_, checksum)) if checksum == hello.checksum => hello.revision,
            _ => 0,
        })
    }
}
