//! One check of one endpoint. The caller bounds the time.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    http1::head::ResponseHead,
    snapshot::{Endpoint, Probe},
};

/// The most bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Whether the endpoint is well; the error says what is wrong.
pub(super) async fn probe(endpoint: &Endpoint, probe: &Probe) -> io::Result<()> {
    match probe {
        Probe::Tcp => connect(endpoint).await.map(drop),
        Probe::Grpc { service } => grpc(endpoint, service).await,
        Probe::Http { path, host, statuses, headers } => {
            let host = host.as_deref().unwrap_or(&endpoint.authority);
            let mut request = format!(
                "GET {}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: RustyGate-HealthCheck\r\nConnection: close\r\n",
                endpoint.base_path
            );
            for (name, value) in headers {
                request.extend([name, ": ", value, "\r\n"]);
            }
            request.push_str("\r\n");
            let status = http(endpoint, &request).await?;
            let good = if statuses.is_empty() { (200..400).contains(&status) } else { statuses.contains(&status) };
            if good { Ok(()) } else { Err(io::Error::other(format!("status {status}"))) }
        }
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    TcpStream::connect((&*endpoint.host, endpoint.port)).await
}

/// The status that a request is answered with.
async fn http(endpoint: &Endpoint, request: &str) -> io::Result<u16> {
    let mut stream = connect(endpoint).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = BytesMut::new();
    let mut head = ResponseHead::default();
    while answer.len() < ANSWER_BYTES_MAX && stream.read_buf(&mut answer).await? > 0 {
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

async fn grpc(endpoint: &Endpoint, service: &str) -> io::Result<()> {
    let url = format!("http://{}", endpoint.authority);
    let target = tonic::transport::Endpoint::from_shared(url).map_err(io::Error::other)?;
    let channel = target.connect().await.map_err(io::Error::other)?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = client.check(request).await.map_err(|status| io::Error::other(status.message().to_owned()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(io::Error::other(other.as_str_name())),
    }
}
