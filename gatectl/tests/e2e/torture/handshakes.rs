//! Clients that begin TLS anew all the time, and see whose certificate they get; and one that stays.

use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::{net::TcpStream, task::JoinSet, time::sleep};
use tokio_rustls::client::TlsStream;

use super::{
    clients::{self, PAUSE},
    course::Course,
    secure::{HOSTS, Secure},
};
use crate::harness::{Client, Http2, Response, Tls, within};

pub fn spawn(work: &mut JoinSet<()>, secure: &Arc<Secure>, course: &Arc<Course>) {
    for (host, protocol) in [(0, "http/1.1"), (1, "h2")] {
        let tls = secure.client(protocol);
        work.spawn(newcomers(Arc::clone(secure), Arc::clone(course), host, protocol, tls.clone().forgetful()));
        work.spawn(newcomers(Arc::clone(secure), Arc::clone(course), host, protocol, tls));
    }
    for seed in 0..2 {
        work.spawn(stay(Arc::clone(secure), Arc::clone(course), seed));
    }
}

/// A new connection for each request.
async fn newcomers(secure: Arc<Secure>, course: Arc<Course>, host: usize, protocol: &'static str, tls: Tls) {
    while !course.is_over() {
        let floor = course.served();
        match tls.connect(secure.tls, HOSTS[host]).await {
            Ok(stream) => {
                look(&stream, &secure, &course, host, floor);
                let answer = match protocol {
                    "h2" => by_http2(stream, HOSTS[host]).await,
                    _ => by_http1(stream, HOSTS[host]).await,
                };
                let told = |number| format!("said by {number}");
                let _ = course.judge("requests of new sessions", answer.as_ref(), floor, told);
            }
            Err(error) => course.fault(format!("a handshake: {error}")),
        }
        sleep(PAUSE).await;
    }
}

/// A certificate is that of a configuration which may be served; a session that is taken up shows none.
fn look(stream: &TlsStream<TcpStream>, secure: &Secure, course: &Course, host: usize, floor: u64) {
    let session = stream.get_ref().1;
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        course.count("sessions taken up again");
        return;
    }
    course.count("handshakes");
    let shown = &session.peer_certificates().expect("a certificate")[0];
    let numbers = floor..=course.sent();
    if !secure.is_of(host, shown, numbers.clone()) {
        course.fault(format!("a handshake: the certificate of {} is of none of {numbers:?}", HOSTS[host]));
    }
}

async fn by_http1(stream: TlsStream<TcpStream>, host: &str) -> Option<Response> {
    let mut client = Client::over(stream);
    client.send(format!("GET /local HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
    within("an answer", client.try_response(false)).await
}

async fn by_http2(stream: TlsStream<TcpStream>, host: &str) -> Option<Response> {
    let mut client = Http2::over(stream, &format!("https://{host}"), &h2::client::Builder::new()).await;
    client.try_request("GET", "/local", &[], b"").await.ok().map(Response::from)
}

/// A connection that lasts from the first configuration to the last.
async fn stay(secure: Arc<Secure>, course: Arc<Course>, seed: u64) {
    let stream = secure.client("http/1.1").connect(secure.tls, HOSTS[0]).await.expect("a handshake");
    let mut client = Client::over(stream);
    clients::requests(&mut client, HOSTS[0], &course, seed).await;
    course.count("connections that outlive their certificate");
}
