//! The way to the control plane. Every error is turned into what is wrong and what to do next.

use std::{error::Error, fs, io, path::PathBuf, time::Duration};

use rustygate_proto::v1::{
    self as wire, config_service_client::ConfigServiceClient, fleet_service_client::FleetServiceClient,
    token_service_client::TokenServiceClient,
};
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{failure::Failure, output::escape};

/// Where a control plane is by default.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8082";

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// For a call that does not wait for something: a first apply of 100,000 routes takes a few seconds.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// What a wait may take beyond the time that it was given.
const WAIT_TIME_EXTRA: Duration = Duration::from_secs(5);

/// Of one message, either way.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// On a stream that is silent, so that a dead peer is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

const START_HINT: &str = "is the control plane running? start it with `gatectl dev` or `rustygate-control-plane`, or name another with \
     --control-plane URL";

/// Where the control plane is, and how to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// http or https.
    pub(crate) url: String,
    /// The bearer token.
    pub(crate) token: Option<String>,
    /// File with the CA certificates to trust.
    pub(crate) ca: Option<PathBuf>,
}

/// A connected client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    url: String,
    service: InterceptedService<Channel, Bearer>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, Failure> {
        let url = connection.url.clone();
        let endpoint = endpoint(connection)?;
        let bearer = Bearer::new(connection.token.as_deref())?;
        let channel = endpoint.connect().await.map_err(|error| cannot_connect(&url, &error))?;
        Ok(Self { service: InterceptedService::new(channel, bearer), url })
    }

    /// Where it is connected to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Upserts documents.
    pub(crate) async fn apply(&self, request: wire::ApplyRequest) -> Result<wire::ApplyResponse, Failure> {
        self.answer(self.config().apply(timed(request, CALL_TIME_MAX)).await)
    }

    /// Removes resources.
    pub(crate) async fn delete(&self, request: wire::DeleteRequest) -> Result<wire::ApplyResponse, Failure> {
        self.answer(self.config().delete(timed(request, CALL_TIME_MAX)).await)
    }

    /// Brings back an old revision.
    pub(crate) async fn rollback(&self, request: wire::RollbackRequest) -> Result<wire::ApplyResponse, Failure> {
        self.answer(self.config().rollback(timed(request, CALL_TIME_MAX)).await)
    }

    /// Reads resources.
    pub(crate) async fn get(&self, request: wire::GetRequest) -> Result<wire::GetResponse, Failure> {
        self.answer(self.config().get(timed(request, CALL_TIME_MAX)).await)
    }

    /// Reads the revisions.
    pub(crate) async fn history(&self, request: wire::HistoryRequest) -> Result<wire::HistoryResponse, Failure> {
        self.answer(self.config().history(timed(request, CALL_TIME_MAX)).await)
    }

    /// Asks what the router would do.
    pub(crate) async fn explain(&self, request: wire::ExplainRequest) -> Result<wire::ExplainResponse, Failure> {
        self.answer(self.config().explain(timed(request, CALL_TIME_MAX)).await)
    }

    /// Follows the revisions.
    pub(crate) async fn watch(&self) -> Result<Streaming<wire::Revision>, Failure> {
        self.answer(self.config().watch(wire::WatchRequest {}).await)
    }

    /// Every proxy.
    pub(crate) async fn proxies(&self) -> Result<wire::ListProxiesResponse, Failure> {
        self.answer(self.fleet().list(timed(wire::ListProxiesRequest {}, CALL_TIME_MAX)).await)
    }

    /// Waits until every connected proxy serves a revision.
    pub(crate) async fn wait(&self, revision: u64, time: Duration) -> Result<wire::WaitResponse, Failure> {
        let timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let request = wire::WaitRequest { revision, timeout_ms };
        self.answer(self.fleet().wait(timed(request, time + WAIT_TIME_EXTRA)).await)
    }

    /// Makes a token.
    pub(crate) async fn create_token(
        &self,
        request: wire::CreateTokenRequest,
    ) -> Result<wire::CreateTokenResponse, Failure> {
        self.answer(self.tokens().create(timed(request, CALL_TIME_MAX)).await)
    }

    /// Every token, without its secret.
    pub(crate) async fn list_tokens(&self) -> Result<wire::ListTokensResponse, Failure> {
        self.answer(self.tokens().list(timed(wire::ListTokensRequest {}, CALL_TIME_MAX)).await)
    }

    /// Takes a token out of force.
    pub(crate) async fn revoke_token(&self, name: String) -> Result<wire::RevokeTokenResponse, Failure> {
        self.answer(self.tokens().revoke(timed(wire::RevokeTokenRequest { name }, CALL_TIME_MAX)).await)
    }

    /// What an error of a call or of a stream means.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        call_failed(&self.url, status)
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Failure> {
        answer.map(tonic::Response::into_inner).map_err(|status| self.failure(&status))
    }

    fn config(&self) -> ConfigServiceClient<InterceptedService<Channel, Bearer>> {
        ConfigServiceClient::new(self.service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn fleet(&self) -> FleetServiceClient<InterceptedService<Channel, Bearer>> {
        FleetServiceClient::new(self.service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn tokens(&self) -> TokenServiceClient<InterceptedService<Channel, Bearer>> {
        TokenServiceClient::new(self.service.clone())
    }
}

/// Puts the token on every call.
#[derive(Clone, Debug)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&str>) -> Result<Self, Failure> {
        let Some(token) = token else { return Ok(Self(None)) };
        // The token itself is never part of an error.
        let mut value = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Failure::new("the token has characters that no token has").with_hint(TOKEN_HINT))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

const TOKEN_HINT: &str = "give a token with --token-file FILE or the variable RUSTYGATE_TOKEN; an admin makes one with \
                          `gatectl token create`, and the first comes from `rustygate-control-plane token create`";

fn timed<T>(message: T, time: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(time);
    request
}

fn endpoint(connection: &Connection) -> Result<Endpoint, Failure> {
    let url = &connection.url;
    let bad = || {
        Failure::new(format!("{:?} is not the URL of a control plane", escape(url)))
            .with_hint(format!("it looks like {DEFAULT_URL}"))
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|_| bad())?;
    let endpoint =
        endpoint.connect_timeout(CONNECT_TIME_MAX).http2_keep_alive_interval(KEEP_ALIVE_INTERVAL).tcp_nodelay(true);
    match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
        (Some("http"), Some(_)) => Ok(endpoint),
        (Some("https"), Some(_)) => {
            let mut tls = ClientTlsConfig::new();
            if let Some(path) = &connection.ca {
                let pem =
                    fs::read(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint.tls_config(tls).map_err(|error| {
                Failure::new(format!("cannot use TLS: {}", innermost(&error)))
                    .with_hint("--ca takes a file of PEM certificates")
            })
        }
        _ => Err(bad()),
    }
}

fn cannot_connect(url: &str, error: &tonic::transport::Error) -> Failure {
    let failure = Failure::new(format!("cannot reach the control plane at {}: {}", escape(url), innermost(error)));
    if url.starts_with("https:") && io_kind(error).is_none_or(|kind| kind == io::ErrorKind::InvalidData) {
        return failure.with_hint(
            "give the CA of its certificate with --ca FILE; if it serves without TLS, begin the URL with http:",
        );
    }
    failure.with_hint(START_HINT)
}

fn call_failed(url: &str, status: &Status) -> Failure {
    let broken = status.source().is_some();
    let detail = if broken { innermost(status) } else { escape(status.message()).into_owned() };
    let detail = if detail.is_empty() { status.code().description().to_lowercase() } else { detail };
    match status.code() {
        Code::Unauthenticated => Failure::new(format!("the control plane wants a token: {detail}")).with_hint(TOKEN_HINT),
        Code::PermissionDenied => Failure::new(format!("not allowed: {detail}"))
            .with_hint("this needs a token of a higher role; `gatectl token list` shows the roles"),
        Code::Aborted => Failure::new(detail).with_hint(
            "somebody changed the configuration since; see `gatectl history` and `gatectl diff -f FILE`, then try again",
        ),
        Code::Unimplemented => Failure::new(format!("the control plane at {} does not know this call", escape(url)))
            .with_hint("it may be of another version, or no RustyGate at all; see `gatectl version`"),
        // A connection that closes under a call is Cancelled too, when it closes early enough.
        Code::Cancelled | Code::Unavailable | Code::Unknown | Code::Internal if broken && url.starts_with("http:") => {
            Failure::new(format!("the connection to {} broke: {detail}", escape(url)))
                .with_hint("if the control plane serves with TLS, begin the URL with https: and give --ca FILE")
        }
        Code::Cancelled | Code::DeadlineExceeded => {
            Failure::new(format!("the control plane at {} did not answer in time: {detail}", escape(url)))
        }
        Code::Unavailable => {
            Failure::new(format!("the control plane at {} is not available: {detail}", escape(url))).with_hint(START_HINT)
        }
        Code::ResourceExhausted | Code::OutOfRange => Failure::new(format!("too much: {detail}")),
        _ => Failure::new(detail),
    }
}

/// The cause that says most.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    escape(&cause.to_string()).into_owned()
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
