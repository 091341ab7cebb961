//! The one error that reaches a client: what it is called, which status it has, and what the client is told.
//!
//! The message to the client names what the client can do something about, and nothing of what is behind the
//! gateway.

use h2::Reason;

use crate::{
    canonical,
    http1::{body::BodyError, head::HeadError, write::reason_phrase},
    limit::Limit,
    plugin,
};

/// Why a request was not answered by its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The head does not follow the protocol, or is over a bound.
    BadHead(HeadError),
    /// The target or the Host field has no canonical form.
    BadTarget(canonical::Refused),
    /// The target is in a form that the gateway does not serve, or contradicts the Host field.
    BadForm,
    /// The host is another's than the TLS connection that the request came on (RFC 9110 section 15.5.20).
    Misdirected,
    /// CONNECT.
    MethodNotAllowed,
    /// A WebSocket is asked for without what its handshake must say.
    BadWebSocket,
    /// The request's body does not follow the protocol.
    BadBody(BodyError),
    /// The request's body is over its bound.
    BodyTooLarge,
    /// The client did not send its head in time.
    RequestTimeout,
    /// The client sent nothing more of its request's body in time.
    RequestBodyTimeout,
    /// The client sent its request's body too slowly.
    RequestBodySlow,
    /// The client hung up.
    ClientGone,
    /// The client did not take its answer in time.
    ClientStalled,
    /// The client took its answer too slowly.
    ClientSlow,
    /// The proxy has no configuration yet.
    NotReady,
    /// No route matches.
    NoRoute,
    /// The route's backends have no endpoint to send to.
    NoEndpoint,
    /// No address of the endpoint is known.
    NoAddress,
    /// No connection to the upstream could be made.
    UpstreamConnect,
    /// No connection to the upstream was made in time.
    UpstreamConnectTimeout,
    /// The upstream closed before it answered.
    UpstreamClosed,
    /// The upstream gave up the request's stream, with this code of HTTP/2.
    UpstreamReset(Reason),
    /// The upstream's answer does not follow the protocol.
    UpstreamProtocol,
    /// A WebSocket is asked for, and the upstream speaks HTTP/2 without them (RFC 8441 section 3).
    UpstreamWithoutWebSocket,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The time that the caller gave is up (`grpc-timeout`).
    DeadlineExceeded,
    /// As many requests to the backend are under way, and as many wait, as its limits have it.
    CircuitOpen,
    /// As many requests to the backend are under way as its limits have it, and the request's turn did not come in time.
    UpstreamOverloaded,
    /// The gateway has as many connections as it may.
    Overloaded,
    /// The gateway has as many connections from the client's address as it may.
    TooManyConnections,
    /// The request's plugins took longer than the request may.
    PluginTimeout,
    /// A plugin refused the request.
    Refused {
        /// Why.
        reason: &'static plugin::Reason,
        /// Of the answer.
        status: u16,
    },
}

impl ProxyError {
    /// The status code of the answer. 499 is never sent: it stands in logs and metrics for a client that left.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadHead(HeadError::TooLarge | HeadError::TooManyFields) => 431,
            Self::BadHead(HeadError::TargetTooLong) => 414,
            Self::BadHead(HeadError::Version) => 505,
            Self::BadHead(HeadError::Expectation) => 417,
            Self::BadHead(_) | Self::BadTarget(_) | Self::BadForm | Self::BadBody(_) | Self::BadWebSocket => 400,
            Self::Misdirected => 421,
            Self::MethodNotAllowed => 405,
            Self::BodyTooLarge => 413,
            Self::RequestTimeout | Self::RequestBodyTimeout | Self::RequestBodySlow => 408,
            Self::TooManyConnections => 429,
            Self::Refused { status, .. } => status,
            Self::ClientGone | Self::ClientStalled | Self::ClientSlow => 499,
            Self::NoRoute => 404,
            Self::NotReady
            | Self::NoEndpoint
            | Self::NoAddress
            | Self::CircuitOpen
            | Self::UpstreamOverloaded
            | Self::PluginTimeout
            | Self::Overloaded => 503,
            Self::UpstreamConnect
            | Self::UpstreamClosed
            | Self::UpstreamReset(_)
            | Self::UpstreamProtocol
            | Self::UpstreamWithoutWebSocket => 502,
            Self::UpstreamConnectTimeout | Self::UpstreamTimeout | Self::DeadlineExceeded => 504,
        }
    }

    /// A stable label for clients, logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadHead(HeadError::TooLarge | HeadError::TooManyFields) => "headers_too_large",
            Self::BadHead(HeadError::TargetTooLong) => "uri_too_long",
            Self::BadHead(HeadError::Version) => "version_not_supported",
            Self::BadHead(HeadError::Expectation) => "expectation_failed",
            Self::BadHead(HeadError::Host) => "bad_host",
            Self::BadHead(
                HeadError::TransferEncoding
                | HeadError::ContentLength
                | HeadError::LengthMissing
                | HeadError::LengthAndCoding,
            ) => "bad_framing",
            Self::BadHead(HeadError::Malformed) => "bad_request",
            Self::BadTarget(_) | Self::BadForm => "bad_target",
            Self::Misdirected => "misdirected",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadWebSocket => "bad_websocket",
            Self::BadBody(_) => "bad_body",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::RequestBodyTimeout => "request_body_timeout",
            Self::RequestBodySlow => "request_body_slow",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::ClientSlow => "client_slow",
            Self::NotReady => "not_ready",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::NoAddress => "no_address",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamConnectTimeout => "upstream_connect_timeout",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamReset(_) => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::UpstreamWithoutWebSocket => "upstream_without_websocket",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::CircuitOpen => "circuit_open",
            Self::UpstreamOverloaded => "upstream_overloaded",
            Self::Overloaded => "overloaded",
            Self::TooManyConnections => "too_many_connections",
            Self::PluginTimeout => "plugin_timeout",
            Self::Refused { reason, .. } => reason.name,
        }
    }

    /// The bound that the client ran into, if that is what is wrong.
    #[must_use]
    pub fn limit(self) -> Option<Limit> {
        Some(match self {
            Self::BadHead(HeadError::TooLarge) => Limit::HeadBytes,
            Self::BadHead(HeadError::TooManyFields) => Limit::HeadFields,
            Self::BadHead(HeadError::TargetTooLong) => Limit::TargetBytes,
            Self::BodyTooLarge => Limit::BodyBytes,
            Self::RequestTimeout => Limit::HeadTime,
            Self::RequestBodyTimeout => Limit::BodyTime,
            Self::RequestBodySlow => Limit::BodyRate,
            Self::ClientStalled => Limit::WriteTime,
            Self::ClientSlow => Limit::WriteRate,
            Self::Overloaded => Limit::Connections,
            Self::TooManyConnections => Limit::ConnectionsPerIp,
            _ => return None,
        })
    }

    /// Whether it says something about the endpoint that was tried.
    #[must_use]
    pub fn is_upstream_failure(self) -> bool {
        matches!(
            self,
            Self::UpstreamConnect
                | Self::UpstreamConnectTimeout
                | Self::NoAddress
                | Self::UpstreamClosed
                | Self::UpstreamReset(_)
                | Self::UpstreamProtocol
                | Self::UpstreamTimeout
        )
    }

    /// One sentence for the client.
    #[must_use]
    pub fn message(self) -> String {
        match self {
            Self::BadHead(error) => error.to_string(),
            Self::BadTarget(refused) => refused.to_string(),
            Self::BadForm => "the request target has the wrong form or contradicts the Host field".into(),
            Self::Misdirected => "the host is not served on this connection; make another for it".into(),
            Self::MethodNotAllowed => "the method is not served here".into(),
            Self::BadWebSocket => "a WebSocket's handshake has one Sec-WebSocket-Version, 13, and in HTTP/1.1 one \
                                   Sec-WebSocket-Key"
                .into(),
            Self::BadBody(error) => error.to_string(),
            Self::BodyTooLarge => "the request body is too large".into(),
            Self::RequestTimeout => "the request was not sent in time".into(),
            Self::RequestBodyTimeout => "the request body was not sent in time".into(),
            Self::RequestBodySlow => "the request body was sent too slowly".into(),
            Self::ClientGone => "the client closed the connection".into(),
            Self::ClientStalled => "the client did not take the answer in time".into(),
            Self::ClientSlow => "the client took the answer too slowly".into(),
            Self::NotReady => "the gateway has no configuration yet".into(),
            Self::NoRoute => "no route matches the request".into(),
            Self::NoEndpoint => "the service has no endpoint to serve the request".into(),
            Self::NoAddress | Self::UpstreamConnect | Self::UpstreamConnectTimeout => {
                "the service cannot be reached".into()
            }
            Self::UpstreamClosed => "the service closed the connection before it answered".into(),
            Self::UpstreamReset(_) => "the service gave the request up".into(),
            Self::UpstreamProtocol => "the service sent an invalid answer".into(),
            Self::UpstreamWithoutWebSocket => "the service takes no WebSockets over HTTP/2".into(),
            Self::UpstreamTimeout => "the service did not answer in time".into(),
            Self::DeadlineExceeded => "the call took longer than its caller waits".into(),
            Self::CircuitOpen | Self::UpstreamOverloaded => "the service has as many requests as it may".into(),
            Self::Overloaded => "the gateway has too many connections".into(),
            Self::TooManyConnections => "the gateway has too many connections from this address".into(),
            Self::PluginTimeout => "the gateway could not decide about the request in time".into(),
            Self::Refused { reason, .. } => reason.detail.into(),
        }
    }

    /// The body of the answer: the problem details of RFC 9457, with the reason as a member of its own.
    #[must_use]
    pub fn body(self, detail: &str) -> Vec<u8> {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": phrase(self.status()),
            "status": self.status(),
            "detail": detail,
            "reason": self.reason(),
        });
        let mut body = problem.to_string().into_bytes();
        body.push(b'\n');
        body
    }
}

/// The content type of problem details.
pub const PROBLEM_JSON: &[u8] = b"application/problem+json";

/// What a status is called: with "about:blank" as its type, a problem is the status's own.
fn phrase(status: u16) -> &'static str {
    match reason_phrase(status) {
        "" => "Error",
        phrase => phrase,
    }
}

impl From<&h2::Error> for ProxyError {
    /// What it is to the client that a stream to an upstream failed so.
    fn from(error: &h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::UpstreamReset(reason),
            _ => Self::UpstreamClosed,
        }
    }
}

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        Self::BadHead(error)
    }
}

impl From<canonical::Refused> for ProxyError {
    fn from(refused: canonical::Refused) -> Self {
        Self::BadTarget(refused)
    }
}
