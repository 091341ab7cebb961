//! The one gate before every service: which method needs which role, and the tower layer that asks.
//!
//! A method that is not in the table is refused, so a new one is closed until someone decides who may call it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use rustygate_proto::v1::Role;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderValue, Request, Response, header::AUTHORIZATION},
    transport::server::TlsConnectInfo,
};
use tower::{Layer, Service};

use super::{Caller, Holder, Tokens};
use crate::{app::Peer, telemetry::Metrics};

/// How many calls with big messages run at once; the others wait without being read.
const LARGE_CALLS_MAX: usize = 4;

/// How long one of them may take, the reading of its message included.
const LARGE_CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Who may call a method, and what it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The roles that may call it.
    pub roles: &'static [Role],
    /// Its answer is a stream, which ends when the token is revoked or the process stops.
    pub streams: bool,
    /// Its messages may be big.
    pub large: bool,
}

const ANYONE: &[Role] = &[Role::Proxy, Role::Viewer, Role::Editor, Role::Admin];
const VIEWERS: &[Role] = &[Role::Viewer, Role::Editor, Role::Admin];
const EDITORS: &[Role] = &[Role::Editor, Role::Admin];
const ADMINS: &[Role] = &[Role::Admin];
const PROXIES: &[Role] = &[Role::Proxy, Role::Admin];

/// The table, by path of the method.
#[must_use]
pub fn access(path: &str) -> Option<Access> {
    let (roles, streams, large) = match path {
        "/rustygate.v1.ConfigService/Apply" => (EDITORS, false, true),
        "/rustygate.v1.ConfigService/Delete" => (EDITORS, false, true),
        "/rustygate.v1.ConfigService/Rollback" => (EDITORS, false, true),
        "/rustygate.v1.ConfigService/Get" => (VIEWERS, false, true),
        "/rustygate.v1.ConfigService/History" => (VIEWERS, false, false),
        "/rustygate.v1.ConfigService/Watch" => (VIEWERS, true, false),
        "/rustygate.v1.ConfigService/Explain" => (VIEWERS, false, false),
        "/rustygate.v1.SnapshotService/Stream" => (PROXIES, true, false),
        "/rustygate.v1.FleetService/List" => (VIEWERS, false, false),
        "/rustygate.v1.FleetService/Wait" => (VIEWERS, false, false),
        "/rustygate.v1.TokenService/Create" => (ADMINS, false, false),
        "/rustygate.v1.TokenService/List" => (ADMINS, false, false),
        "/rustygate.v1.TokenService/Revoke" => (ADMINS, false, false),
        "/grpc.health.v1.Health/Check" => (ANYONE, false, false),
        "/grpc.health.v1.Health/Watch" => (ANYONE, true, false),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => (VIEWERS, true, false),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => (VIEWERS, true, false),
        _ => return None,
    };
    Some(Access { roles, streams, large })
}

/// The layer; asks for tokens only if there are any to ask for.
#[derive(Clone, Debug)]
pub struct Gate {
    /// `None`: everyone may do everything.
    pub tokens: Option<Arc<Tokens>>,
    /// Ends every stream.
    pub stop: CancellationToken,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
    large_calls: Arc<Semaphore>,
}

impl Gate {
    /// A gate that asks for tokens, or not.
    #[must_use]
    pub fn new(tokens: Option<Arc<Tokens>>, stop: CancellationToken, metrics: Arc<Metrics>) -> Self {
        Self { tokens, stop, metrics, large_calls: Arc::new(Semaphore::new(LARGE_CALLS_MAX)) }
    }

    async fn admit(&self, path: &str, authorization: Option<&HeaderValue>) -> Result<Option<Arc<Holder>>, Status> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let missing = || Status::unauthenticated("give a token: `authorization: Bearer rgt_...`");
        let header = authorization.and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
        let (scheme, secret) = header.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        let found = tokens.find(secret.trim()).await.map_err(|error| {
            tracing::error!(%error, "a token could not be looked up");
            Status::unavailable("the token could not be looked up; see the control plane's log")
        })?;
        let holder = found.ok_or_else(|| Status::unauthenticated("the token is not valid, or was revoked"))?;
        match access(path) {
            Some(access) if access.roles.contains(&holder.role) => Ok(Some(holder)),
            Some(access) => {
                let roles: Vec<_> = access.roles.iter().map(|role| role_noun(*role)).collect();
                Err(Status::permission_denied(format!(
                    "token {:?} has role {}; this needs {}",
                    holder.name,
                    role_noun(holder.role),
                    roles.join(" or ")
                )))
            }
            None => Err(Status::permission_denied("there is no such method, or it is not open to tokens")),
        }
    }
}

/// As users write it: "viewer".
fn role_noun(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "none",
        Role::Proxy => "proxy",
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::Admin => "admin",
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

/// The services behind the gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The clone takes the next call, the one that is ready takes this.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let gate = self.gate.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let authorization = request.headers_mut().remove(AUTHORIZATION);
            let holder = match gate.admit(&path, authorization.as_ref()).await {
                Ok(holder) => holder,
                Err(status) => {
                    gate.metrics.denied.inc();
                    tracing::warn!(
                        path,
                        peer = peer(&request).map(|peer| tracing::field::display(peer.address)),
                        reason = status.message(),
                        "call refused"
                    );
                    return Ok(status.into_http());
                }
            };
            let access = access(&path);
            let ended = holder.as_ref().map_or(&gate.stop, |holder| &holder.revoked).clone();
            let (address, cut) = peer(&request).map(|peer| (Some(peer.address), peer.cut.clone())).unwrap_or_default();
            request.extensions_mut().insert(Caller { peer: address, cut, holder });
            if access.is_some_and(|access| access.large) {
                let Ok(_permit) = gate.large_calls.acquire().await else {
                    return Ok(Status::unavailable("the control plane is stopping").into_http());
                };
                return match tokio::time::timeout(LARGE_CALL_TIMEOUT, inner.call(request)).await {
                    Ok(response) => response,
                    Err(_) => Ok(Status::deadline_exceeded("the call took too long").into_http()),
                };
            }
            let response = inner.call(request).await?;
            if access.is_none_or(|access| !access.streams) {
                return Ok(response);
            }
            let stop = gate.stop;
            Ok(response.map(|body| Body::new(UntilCancelled::new(body, ended, stop))))
        })
    }
}

fn peer(request: &Request<Body>) -> Option<&Peer> {
    let extensions = request.extensions();
    extensions.get::<Peer>().or_else(|| Some(extensions.get::<TlsConnectInfo<Peer>>()?.get_ref()))
}

/// A body that ends with a status when its token is revoked or the process stops.
struct UntilCancelled {
    inner: Body,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    stop: CancellationToken,
    ended: bool,
}

impl UntilCancelled {
    fn new(inner: Body, cancelled: CancellationToken, stop: CancellationToken) -> Self {
        Self { inner, cancelled: Box::pin(cancelled.cancelled_owned()), stop, ended: false }
    }
}

impl HttpBody for UntilCancelled {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.cancelled.as_mut().poll(context).is_pending() {
            return Pin::new(&mut self.inner).poll_frame(context);
        }
        self.ended = true;
        self.inner = Body::default();
        let status = if self.stop.is_cancelled() {
            Status::unavailable("the control plane is stopping")
        } else {
            Status::unauthenticated("the token was revoked")
        };
        let mut trailers = tonic::codegen::http::HeaderMap::new();
        status.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
