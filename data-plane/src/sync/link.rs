//! The way to the control plane: connect, with TLS and token where they are set, and say Hello.

use std::{error::Error, io, path::PathBuf, time::Duration};

use rustygate_proto::{
    frames::CHUNK_BYTES_MAX,
    v1::{
        Hello, StreamRequest, StreamResponse, snapshot_service_client::SnapshotServiceClient, stream_request::Message,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use super::Config;

/// For everything from the name look-up to the first answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a token or CA file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Messages to the control plane that wait for it to read them.
const OUTGOING_MAX: usize = 8;

/// An open stream.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) outgoing: mpsc::Sender<StreamRequest>,
    pub(crate) incoming: Streaming<StreamResponse>,
}

/// Why there is no stream, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} holds no token: one line of printable ASCII is wanted", .0.display())]
    Token(PathBuf),
    #[error("cannot connect: {}", chain(.0))]
    Connect(#[source] tonic::transport::Error),
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    TimedOut,
    #[error("the control plane ended the stream: {}", status(.0))]
    Status(Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("nothing heard from the control plane for {0:?}")]
    Silent(Duration),
    #[error("the control plane does not read what this proxy sends")]
    Stuck,
    #[error("the control plane sent everything anew, and again it did not lead to the set it claims")]
    ResyncFailed,
}

impl Link {
    pub(crate) async fn open(config: &Config, hello: Hello) -> Result<Self, LinkError> {
        timeout(CONNECT_TIMEOUT, Self::open_unbounded(config, hello)).await.unwrap_or(Err(LinkError::TimedOut))
    }

    async fn open_unbounded(config: &Config, hello: Hello) -> Result<Self, LinkError> {
        let channel = endpoint(config).await?.connect().await.map_err(LinkError::Connect)?;
        let (outgoing, requests) = mpsc::channel(OUTGOING_MAX);
        outgoing.try_send(message(Message::Hello(hello))).map_err(|_| LinkError::Closed)?;
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(authorization) = authorization(config).await? {
            request.metadata_mut().insert("authorization", authorization);
        }
        // One frame: a chunk and what wraps it.
        let mut client = SnapshotServiceClient::new(channel).max_decoding_message_size(CHUNK_BYTES_MAX + (64 << 10));
        let incoming = client.stream(request).await?.into_inner();
        Ok(Self { outgoing, incoming })
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl LinkError {
    /// What to do about it; may be empty.
    pub(crate) fn hint(&self, config: &Config) -> &'static str {
        let text = self.to_string();
        let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
        match self {
            Self::Status(status) => match status.code() {
                Code::Unauthenticated if config.token_file.is_none() => {
                    "the control plane asks for a token: make one with `gatectl token create --role proxy` and pass --token-file"
                }
                Code::Unauthenticated => "the token in --token-file is not known there, or was revoked",
                Code::PermissionDenied => "the token must have the role `proxy`",
                Code::Unimplemented => "is --control-plane the control plane's gRPC address?",
                _ if !config.tls && has(&["frame", "h2 protocol error", "http2 error", "transport error"]) => {
                    "if the control plane uses TLS, --control-plane must begin with https://"
                }
                _ => "",
            },
            Self::Connect(_) if has(&["certificate", "UnknownIssuer"]) => {
                "does --control-plane-ca hold the CA that signed the control plane's certificate, and is the name in --control-plane in it?"
            }
            Self::Connect(_) if config.tls && has(&["corrupt message", "InvalidContentType", "handshake", "eof"]) => {
                "if the control plane does not use TLS, --control-plane must begin with http://"
            }
            Self::Connect(_) if has(&["refused"]) => {
                "is the control plane running, and is --control-plane its gRPC address?"
            }
            Self::Connect(_) if has(&["dns", "lookup"]) => "the host name in --control-plane does not resolve",
            Self::Token(_) => "make a token with `gatectl token create --role proxy`",
            _ => "",
        }
    }
}

/// Wraps a message for the stream.
pub(crate) fn message(message: Message) -> StreamRequest {
    StreamRequest { message: Some(message) }
}

async fn endpoint(config: &Config) -> Result<Endpoint, LinkError> {
    let endpoint = config
        .endpoint
        .clone()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.heartbeat)
        .keep_alive_timeout(config.silence())
        .keep_alive_while_idle(true);
    if !config.tls {
        return Ok(endpoint);
    }
    // Read each time: certificates and tokens are renewed while proxies run.
    let mut tls = ClientTlsConfig::new();
    if let Some(path) = &config.control_plane_ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(path).await?));
    }
    endpoint.tls_config(tls).map_err(LinkError::Connect)
}

pub(super) async fn authorization(config: &Config) -> Result<Option<MetadataValue<Ascii>>, LinkError> {
    let Some(path) = &config.token_file else { return Ok(None) };
    let bytes = read(path).await?;
    let token = std::str::from_utf8(&bytes).map_or("", str::trim);
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(LinkError::Token(path.clone()));
    }
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| LinkError::Token(path.clone()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, LinkError> {
    use tokio::io::AsyncReadExt as _;
    let failed = |source| LinkError::File { path: path.clone(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

fn status(status: &tonic::Status) -> String {
    let text = format!("{:?}: {}", status.code(), status.message());
    match status.source() {
        Some(source) => format!("{text}: {}", chain(source)),
        None => text,
    }
}

/// An error and its causes; the outer ones often say little.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
