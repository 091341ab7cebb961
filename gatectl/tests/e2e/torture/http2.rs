//! Clients of HTTP/2: many requests at a time on few connections, each of which lasts from the first configuration to the
//! last.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use super::{
    calls,
    clients::{PAUSE, told_of_echo},
    course::Course,
    peer::next,
    secure::{HOSTS, Secure},
    streams::{PIECES, again_and_again},
    upstream::{Connection, Digest, PIECE_BYTES, PIECE_PAUSE, piece, told},
};
use crate::harness::{Answer, Response, answered, pour, within};

/// Of the clients with short requests on a connection.
const REQUESTERS: u64 = 6;

/// Asks on one connection, as do its clones.
#[derive(Clone)]
pub struct Caller {
    send: SendRequest<Bytes>,
    origin: String,
    pub course: Arc<Course>,
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { status: answer.status, headers, body: answer.body, interim: answer.interim }
    }
}

/// Clients with TLS and without.
pub fn spawn(work: &mut JoinSet<()>, secure: &Arc<Secure>, course: &Arc<Course>, total: Duration) {
    for host in [None, Some(HOSTS[0]), Some(HOSTS[1])] {
        work.spawn(connection(Arc::clone(secure), host, Arc::clone(course), total));
    }
}

/// One connection, with TLS if there is a host to ask for.
async fn connection(secure: Arc<Secure>, host: Option<&'static str>, course: Arc<Course>, total: Duration) {
    match host {
        None => {
            let stream = TcpStream::connect(secure.plain).await.expect("connects");
            stream.set_nodelay(true).expect("a socket option");
            streams(stream, "http://a".to_owned(), course, total).await;
        }
        Some(host) => {
            let stream = secure.client("h2").connect(secure.tls, host).await.expect("a handshake");
            streams(stream, format!("https://{host}"), course, total).await;
        }
    }
}

async fn streams(stream: impl Connection + 'static, origin: String, course: Arc<Course>, total: Duration) {
    let handshake = client::handshake(stream);
    let (send, connection) = within("an HTTP/2 handshake", handshake).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let caller = Caller { send, origin, course };
    let course = &caller.course;
    // The settings come before the first answer; with them the leave to begin WebSockets.
    let first = caller.request("GET", "/local", &[], Bytes::new()).await;
    assert!(first.is_ok(), "{first:?}");

    let mut work = JoinSet::new();
    for seed in 0..REQUESTERS {
        let caller = caller.clone();
        work.spawn(async move { caller.requests(seed).await });
    }
    let unary = caller.clone();
    work.spawn(async move { calls::unary(&unary).await });
    // As many as last for the whole time, or a little longer, the pauses alone counted.
    let many = u64::try_from(total.as_millis() / PIECE_PAUSE.as_millis()).expect("fits");
    for pieces in [many, PIECES] {
        let (down, up) = (caller.clone(), caller.clone());
        work.spawn(again_and_again(Arc::clone(course), async move || down.download(pieces).await));
        work.spawn(again_and_again(Arc::clone(course), async move || up.upload(pieces).await));
    }
    for messages in [u64::MAX, PIECES] {
        let (socket, talk) = (caller.clone(), caller.clone());
        work.spawn(again_and_again(Arc::clone(course), async move || socket.socket(messages).await));
        work.spawn(again_and_again(Arc::clone(course), async move || calls::conversation(&talk, messages).await));
    }
    while let Some(ended) = work.join_next().await {
        if let Err(error) = ended {
            course.fault(format!("a stream panicked: {error}"));
        }
    }
    if driver.is_finished() {
        course.fault(format!("a connection of HTTP/2 did not last: {:?}", driver.await));
    }
    course.count("connections of HTTP/2");
}

impl Caller {
    /// Sends a head; `end` if that is all.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == "CONNECT" {
            request = request.extension(h2::ext::Protocol::from_static("websocket"));
        }
        let request = request.body(()).expect("a request");
        within("a stream", self.send.clone().ready()).await?.send_request(request, end)
    }

    /// A request, whole.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, h2::Error> {
        let (response, mut up) = self.open(method, path, headers, body.is_empty()).await?;
        within("an answer", async {
            if !body.is_empty() {
                pour(&mut up, body, true).await?;
            }
            answered(response).await
        })
        .await
    }

    /// GET, POST and an answer of the gateway's own in turn.
    async fn requests(&self, seed: u64) {
        let course = &self.course;
        let mut floor = 0;
        for turn in seed.. {
            if course.is_over() {
                return;
            }
            floor = course.served().max(floor);
            let echo = format!("/service/echo/{turn}");
            let (what, method, path, body) = match turn % 3 {
                0 => ("GETs by HTTP/2", "GET", &*echo, Vec::new()),
                1 => {
                    let length = usize::try_from(turn * 997 % 40_000).expect("small");
                    ("POSTs by HTTP/2", "POST", &*echo, format!("{turn},").bytes().cycle().take(length).collect())
                }
                _ => ("answers by a plugin, by HTTP/2", "GET", "/local", Vec::new()),
            };
            let mut digest = Digest::default();
            digest.add(&body);
            let told = |number| match path {
                "/local" => format!("said by {number}"),
                _ => told_of_echo(method, turn, number, digest),
            };
            match self.request(method, path, &[], body.into()).await {
                Ok(answer) => floor = course.judge(what, Some(&answer.into()), floor, told).unwrap_or(floor),
                Err(error) => course.fault(format!("{what}: {error}")),
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads a long answer piece by piece.
    async fn download(&self, pieces: u64) -> Result<(), String> {
        let (course, what) = (&self.course, "a download by HTTP/2");
        let floor = course.served();
        let failed = |error| format!("{what}: {error}");
        let (response, _) =
            self.open("GET", &format!("/service/download/{pieces}"), &[], true).await.map_err(failed)?;
        let answer = within(what, response).await.map_err(failed)?;
        let number = answer.headers().get("x-answered-by").and_then(|value| value.to_str().ok()?.parse().ok());
        let number = number.filter(|_| answer.status() == 200).ok_or_else(|| format!("{what}: {answer:?}"))?;
        course.saw(what, number, floor);
        let mut stream = answer.into_body();
        let (mut index, mut body) = (0, Vec::new());
        while let Some(part) = within(what, next(&mut stream)).await.map_err(failed)? {
            body.extend_from_slice(&part);
            while body.len() >= PIECE_BYTES {
                if body[..PIECE_BYTES] != piece(pieces, index) {
                    return Err(format!("{what}: piece {index} is not what was sent"));
                }
                body.drain(..PIECE_BYTES);
                index += 1;
            }
        }
        course.count("downloads by HTTP/2");
        let whole = index == pieces && body.is_empty();
        if whole { Ok(()) } else { Err(format!("{what} ended after {index} of {pieces} pieces")) }
    }

    /// Sends a long body piece by piece; the answer tells what arrived.
    async fn upload(&self, pieces: u64) -> Result<(), String> {
        let floor = self.course.served();
        let failed = |error| format!("an upload by HTTP/2: {error}");
        let (response, mut up) = self.open("POST", "/service/upload", &[], false).await.map_err(failed)?;
        let mut digest = Digest::default();
        for index in 0..pieces {
            let piece = piece(pieces, index);
            digest.add(&piece);
            within("an upload by HTTP/2", pour(&mut up, piece.into(), false)).await.map_err(failed)?;
            sleep(PIECE_PAUSE).await;
        }
        up.send_data(Bytes::new(), true).map_err(failed)?;
        let answer = within("an answer", answered(response)).await.map_err(failed)?;
        let told = |number| told("POST", "/upload", number, digest);
        let _ = self.course.judge("uploads by HTTP/2", Some(&answer.into()), floor, told);
        Ok(())
    }

    /// Exchanges messages on a WebSocket until there were so many, or until the end.
    async fn socket(&self, messages: u64) -> Result<(), String> {
        let (course, what) = (&self.course, "a WebSocket by HTTP/2");
        let floor = course.served();
        let failed = |error| format!("{what}: {error}");
        let headers = [("sec-websocket-version", "13")];
        let (response, mut up) = self.open("CONNECT", "/service/socket", &headers, false).await.map_err(failed)?;
        let answer = within(what, response).await.map_err(failed)?;
        let seen = answer.headers().get("x-seen").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let number = seen.rsplit(' ').next().and_then(|number| number.parse().ok());
        let number: u64 = number.filter(|_| answer.status() == 200).ok_or_else(|| format!("{what}: {answer:?}"))?;
        if seen != format!("/by-{number}/socket asked by {number}") {
            return Err(format!("{what} mixes two revisions: {seen:?}"));
        }
        course.saw(what, number, floor);
        let mut body = answer.into_body();
        let mut buffer = Vec::new();
        for message in 0..messages {
            if course.is_over() {
                break;
            }
            let sent = format!("message {message} of a socket that was opened by {number}");
            pour(&mut up, sent.clone().into(), false).await.map_err(failed)?;
            while buffer.len() < sent.len() {
                match within(what, next(&mut body)).await.map_err(failed)? {
                    Some(part) => buffer.extend_from_slice(&part),
                    None => return Err(format!("{what}: it was closed at message {message}")),
                }
            }
            if buffer != sent.as_bytes() {
                return Err(format!("{what}: {:?} instead of {sent:?}", String::from_utf8_lossy(&buffer)));
            }
            buffer.clear();
            course.count("messages on WebSockets by HTTP/2");
            sleep(PIECE_PAUSE / 2).await;
        }
        up.send_data(Bytes::new(), true).map_err(failed)?;
        while within("the end of a WebSocket by HTTP/2", next(&mut body)).await.map_err(failed)?.is_some() {}
        course.count("WebSockets by HTTP/2");
        Ok(())
    }
}
