//! One check of one endpoint, as requests reach it: at the addresses that the resolver knows, over the backend's TLS, in
//! the protocol that is spoken there. The caller bounds the time.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    task::Poll,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Request, header::HeaderName, uri::PathAndQuery};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use crate::{
    http1::head::ResponseHead,
    resolve::{ConnectError, Names},
    snapshot::{Endpoint, Probe, Protocol},
    stream::Stream,
};

/// The most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: u32 = 16 << 10;

const USER_AGENT: &str = "RustyGate-HealthCheck";

/// Whether the endpoint is well; the error says what is wrong.
pub(super) async fn probe(endpoint: &Endpoint, names: &Names, probe: &Probe) -> io::Result<()> {
    let stream = connect(endpoint, names).await?;
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Grpc { service } => grpc(endpoint, stream, service).await,
        Probe::Http { path, host, statuses, headers } => {
            let host = host.as_deref().unwrap_or(&endpoint.authority);
            let status = if endpoint.protocol.is_http2(stream.agreed_on(b"h2")) {
                http2(stream, get(endpoint, host, path, headers)?, Bytes::new()).await?.status
            } else {
                http1(stream, &get_as_text(endpoint, host, path, headers)).await?
            };
            let good = if statuses.is_empty() { (200..400).contains(&status) } else { statuses.contains(&status) };
            if good { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) }
        }
    }
}

/// A connection to an endpoint, beside the requests. The caller bounds the time.
pub(crate) async fn connect(endpoint: &Endpoint, names: &Names) -> io::Result<Stream> {
    let tcp = names.connect(&endpoint.host, endpoint.port).await.map_err(|error| match error {
        ConnectError::Io(error) => error,
        ConnectError::NoAddress => io::Error::other(error),
    })?;
    tcp.set_nodelay(true)?;
    match &endpoint.tls {
        None => Ok(tcp.into()),
        Some(tls) => tls.connect(tcp, None).await,
    }
}

fn get_as_text(endpoint: &Endpoint, host: &str, path: &str, headers: &[(Box<str>, Box<str>)]) -> String {
    let mut request = format!(
        "GET {}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n",
        endpoint.base_path
    );
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    request
}

/// The status that a request is answered with.
async fn http1(mut stream: Stream, request: &str) -> io::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = BytesMut::new();
    let mut head = ResponseHead::default();
    while answer.len() < ANSWER_BYTES_MAX as usize && stream.read_buf(&mut answer).await? > 0 {
        loop {
            match head.parse(&answer, "GET") {
                Ok(Some(bytes)) if head.status < 200 => drop(answer.split_to(bytes)),
                Ok(Some(_)) => return Ok(head.status),
                Ok(None) => break,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn get(endpoint: &Endpoint, host: &str, path: &str, headers: &[(Box<str>, Box<str>)]) -> io::Result<Request<()>> {
    let mut request = head("GET", endpoint, host, &format!("{}{path}", endpoint.base_path))?;
    // Those are of HTTP/1.1 alone.
    const OF_THE_CONNECTION: [&str; 3] = ["keep-alive", "proxy-connection", "upgrade"];
    for (name, value) in headers {
        if OF_THE_CONNECTION.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        request.headers_mut().append(name, value.parse().map_err(io::Error::other)?);
    }
    Ok(request)
}

fn head(method: &str, endpoint: &Endpoint, host: &str, path: &str) -> io::Result<Request<()>> {
    let path: PathAndQuery = path.parse().map_err(io::Error::other)?;
    let uri = http::Uri::builder().scheme(endpoint.scheme()).authority(host).path_and_query(path);
    let uri = uri.build().map_err(io::Error::other)?;
    Request::builder().method(method).uri(uri).header("user-agent", USER_AGENT).body(()).map_err(io::Error::other)
}

/// What a request by HTTP/2 is answered with.
struct Answer {
    status: u16,
    /// The status of gRPC, if there is one.
    grpc_status: Option<String>,
    body: BytesMut,
}

/// One request on a connection of its own.
async fn http2(stream: Stream, request: Request<()>, body: Bytes) -> io::Result<Answer> {
    let mut builder = h2::client::Builder::new();
    // A body is looked at for as long as it fits, and nothing of it is given back.
    builder.enable_push(false).initial_window_size(ANSWER_BYTES_MAX).max_header_list_size(ANSWER_BYTES_MAX);
    let (send, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    let mut exchange = pin!(exchange(send, request, body));
    let mut connection = pin!(connection);
    let mut ended = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(answer) = exchange.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(io::Error::other));
            }
            // When the connection has ended, the exchange is told at once whether all of it came before.
            if ended || connection.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            ended = true;
        }
    })
    .await
}

async fn exchange(
    send: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> Result<Answer, h2::Error> {
    let (response, mut stream) = send.ready().await?.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (parts, mut stream) = response.await?.into_parts();
    let grpc_status = |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    let mut answer =
        Answer { status: parts.status.as_u16(), grpc_status: grpc_status(&parts.headers), body: BytesMut::new() };
    if parts.headers.get("content-type").is_none_or(|kind| !kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(answer);
    }
    while let Some(piece) = stream.data().await {
        answer.body.extend_from_slice(&piece?);
    }
    if let Some(trailers) = stream.trailers().await? {
        answer.grpc_status = grpc_status(&trailers);
    }
    Ok(answer)
}

/// `grpc.health.v1.Health/Check`.
async fn grpc(endpoint: &Endpoint, stream: Stream, service: &str) -> io::Result<()> {
    if endpoint.protocol == Protocol::Negotiated && !stream.agreed_on(b"h2") {
        return Err(io::Error::other("the endpoint does not speak HTTP/2, which gRPC needs"));
    }
    let mut request = head("POST", endpoint, &endpoint.authority, "/grpc.health.v1.Health/Check")?;
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(io::Error::other)?);
    body.extend_from_slice(&message);
    let mut answer = http2(stream, request, body.freeze()).await?;
    match answer.grpc_status.as_deref() {
        Some("0") => {}
        Some(status) => return Err(io::Error::other(format!("status {status} of gRPC"))),
        None => return Err(io::Error::other(format!("status {} and none of gRPC", answer.status))),
    }
    // Neither compressed nor cut.
    if answer.body.len() < 5 || answer.body.get_u8() != 0 || answer.body.get_u32() as usize != answer.body.len() {
        return Err(io::Error::other("no message of gRPC"));
    }
    match HealthCheckResponse::decode(answer.body).map_err(io::Error::other)?.status() {
        ServingStatus::Serving => Ok(()),
        other => Err(io::Error::other(other.as_str_name())),
    }
}
