//! A control plane without a will of its own: the test accepts streams and says what is sent on them.

use std::{net::SocketAddr, pin::Pin};

use rustygate_proto::{
    frames,
    v1::{
        Begin, Commit, Heartbeat, StreamRequest, StreamResponse,
        snapshot_service_server::{SnapshotService, SnapshotServiceServer},
        stream_response,
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    Stream as TokioStream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Response, Status, Streaming,
    transport::{Server, ServerTlsConfig},
};

use super::*;

pub(super) const STORE: &str = "store";

pub(super) struct Plane {
    pub(super) url: String,
    pub(super) address: SocketAddr,
    /// How many streams were turned away.
    pub(super) refused: watch::Receiver<usize>,
    streams: mpsc::UnboundedReceiver<Stream>,
    task: JoinHandle<()>,
}

/// One proxy's stream.
pub(super) struct Stream {
    /// The authorization that it came with.
    pub(super) authorization: Option<String>,
    requests: Streaming<StreamRequest>,
    responses: mpsc::Sender<Result<StreamResponse, Status>>,
}

impl Plane {
    pub(super) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        Self::start_with(address, None, None).await
    }

    /// With TLS, or for proxies with this authorization only.
    pub(super) async fn start_with(
        address: SocketAddr,
        tls: Option<ServerTlsConfig>,
        authorization: Option<&'static str>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (refusals, refused) = watch::channel(0);
        let (accepted, streams) = mpsc::unbounded_channel();
        let service = SnapshotServiceServer::new(Service { accepted, authorization, refusals });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("is good");
        }
        let serving = server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { serving.await.expect("serves") });
        // By name, as the certificates have it; it resolves to the loopback address.
        let url = format!("{scheme}://localhost:{}", address.port());
        Self { url, address, refused, streams, task }
    }

    pub(super) async fn accept(&mut self) -> Stream {
        timeout(LONG, self.streams.recv()).await.expect("in time").expect("runs")
    }

    pub(super) fn kill(self) {
        self.task.abort();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    pub(super) async fn send(&self, messages: Vec<stream_response::Message>) {
        for message in messages {
            let response = StreamResponse { message: Some(message) };
            timeout(LONG, self.responses.send(Ok(response))).await.expect("in time").expect("is open");
        }
    }

    /// The next message of the proxy; `None` when it has hung up.
    pub(super) async fn next(&mut self) -> Option<Message> {
        let received = timeout(LONG, self.requests.message()).await.expect("in time");
        received.ok().flatten().and_then(|request| request.message)
    }

    pub(super) async fn hello(&mut self) -> Hello {
        match self.next().await {
            Some(Message::Hello(hello)) => hello,
            other => panic!("{other:?} is no Hello"),
        }
    }

    /// The next Ack or Nack.
    pub(super) async fn answer(&mut self) -> Message {
        loop {
            match self.next().await.expect("the stream is open") {
                Message::Hello(_) | Message::Heartbeat(_) => {}
                answer => return answer,
            }
        }
    }

    pub(super) async fn acknowledged(&mut self) -> u64 {
        match self.answer().await {
            Message::Ack(ack) => ack.revision,
            other => panic!("{other:?} is no Ack"),
        }
    }

    /// Returns when the proxy has hung up.
    pub(super) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// The frames of a transaction: what changes, and the set that it leads to.
pub(super) fn push(from: u64, to: u64, changes: &[Change], set: &[Change]) -> Vec<stream_response::Message> {
    push_of(STORE, from, to, changes, set)
}

pub(super) fn push_of(
    store: &str,
    from: u64,
    to: u64,
    changes: &[Change],
    set: &[Change],
) -> Vec<stream_response::Message> {
    use stream_response::Message;
    let begin =
        Begin { store_id: store.to_owned(), from_revision: from, to_revision: to, changes: changes.len() as u64 };
    let chunks = frames::pack(changes).expect("packs").into_iter().map(Message::Chunk);
    let commit = Commit { revision: to, checksum: checksum(set) };
    [Message::Begin(begin)].into_iter().chain(chunks).chain([Message::Commit(commit)]).collect()
}

pub(super) fn heartbeat() -> stream_response::Message {
    stream_response::Message::Heartbeat(Heartbeat {})
}

struct Service {
    accepted: mpsc::UnboundedSender<Stream>,
    authorization: Option<&'static str>,
    refusals: watch::Sender<usize>,
}

#[tonic::async_trait]
impl SnapshotService for Service {
    type StreamStream = Pin<Box<dyn TokioStream<Item = Result<StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if self.authorization.is_some() && authorization != self.authorization {
            self.refusals.send_modify(|count| *count += 1);
            return Err(Status::unauthenticated("no good token"));
        }
        let authorization = authorization.map(str::to_owned);
        let (responses, sent) = mpsc::channel(4);
        let stream = Stream { authorization, requests: request.into_inner(), responses };
        self.accepted.send(stream).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(sent))))
    }
}
