//! The test service, frame by frame over `h2`, so that a test decides about every header and trailer.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::task::JoinHandle;

use crate::harness::{Asked, Peer, pour, reply};

/// Question and answer of every method.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Note {
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
    /// One answer for each, of that many bytes.
    #[prost(uint32, repeated, tag = "2")]
    pub sizes: Vec<u32>,
    /// Ends the call with this status, if it is not 0.
    #[prost(int32, tag = "3")]
    pub code: i32,
    #[prost(string, tag = "4")]
    pub message: String,
    /// Before each answer.
    #[prost(uint32, tag = "5")]
    pub pause_ms: u32,
    /// Bytes of all payloads of a stream.
    #[prost(uint64, tag = "6")]
    pub total: u64,
}

/// What became of calls, two lines each: method and "begun", then method and status, or "given up".
pub type Log = Arc<Mutex<Vec<String>>>;

pub const NAME: &str = "/grpc.testing.TestService/";

/// A running service.
pub struct Service {
    pub url: String,
    pub log: Log,
    task: JoinHandle<()>,
}

impl Service {
    pub async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let log = Log::default();
        let noted = Arc::clone(&log);
        let (url, task) = Peer::serving(tls, move |asked| serve(asked, Arc::clone(&noted))).await;
        Self { url, log, task }
    }

    /// Returns when that line is in the log.
    pub async fn logged(&self, line: &str) {
        let found = tokio::time::timeout(crate::harness::DEADLINE, async {
            loop {
                if self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|found| found == line) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
        .await;
        assert!(found.is_ok(), "{line:?} is not in {:?}", self.log);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A message with its length before it.
pub fn frame(note: &Note) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(note.encoded_len()).expect("small").to_be_bytes());
    bytes.extend_from_slice(&note.encode_to_vec());
    bytes.into()
}

/// Takes messages from a stream.
pub struct Reader<'s> {
    pub stream: &'s mut RecvStream,
    pub buffer: Vec<u8>,
}

impl Reader<'_> {
    pub async fn next(&mut self) -> Result<Option<Note>, h2::Error> {
        loop {
            if self.buffer.len() >= 5 {
                let length = (&self.buffer[1..5]).get_u32() as usize;
                if self.buffer.len() >= 5 + length {
                    let note = Note::decode(&self.buffer[5..5 + length]).expect("a message");
                    self.buffer.drain(..5 + length);
                    return Ok(Some(note));
                }
            }
            let Some(piece) = self.stream.data().await else { return Ok(None) };
            let piece = piece?;
            self.stream.flow_control().release_capacity(piece.len())?;
            self.buffer.extend_from_slice(&piece);
        }
    }
}

async fn serve(mut asked: Asked, log: Log) {
    let path = asked.request.uri().path().to_owned();
    let method = path.strip_prefix(NAME).unwrap_or("?").to_owned();
    let note = |what: String| log.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    let known = ["EmptyCall", "UnaryCall", "StreamingInputCall", "StreamingOutputCall", "FullDuplexCall"];
    if !known.contains(&&*method) || asked.header("te") != Some("trailers") {
        let fields = [("content-type", "application/grpc"), ("grpc-status", "12"), ("grpc-message", "no such method")];
        asked.respond.send_response(reply(200, &fields), true).expect("sends");
        return;
    }
    let mut fields = vec![("content-type", "application/grpc")];
    let headers = asked.request.headers().clone();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().expect("text"));
    if let Some(value) = text("x-grpc-test-echo-initial") {
        fields.push(("x-grpc-test-echo-initial", value));
    }
    if let Some(value) = text("grpc-timeout") {
        fields.push(("x-seen-timeout", value));
    }
    let mut down = asked.respond.send_response(reply(200, &fields), false).expect("sends");
    note(format!("{method}: begun"));
    let ended = answer(&method, asked.request.body_mut(), &mut down).await;
    match ended {
        Err(error) => note(format!("{method}: given up, {:?}", error.reason().expect("a reason"))),
        Ok((code, message)) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.into());
            if !message.is_empty() {
                trailers.insert("grpc-message", HeaderValue::try_from(percent(&message)).expect("ASCII"));
            }
            if let Some(value) = headers.get("x-grpc-test-echo-trailing-bin") {
                trailers.insert("x-grpc-test-echo-trailing-bin", value.clone());
            }
            let _ = down.send_trailers(trailers);
            note(format!("{method}: {code}"));
        }
    }
}

async fn answer(method: &str, up: &mut RecvStream, down: &mut SendStream<Bytes>) -> Result<(i32, String), h2::Error> {
    let mut reader = Reader { stream: up, buffer: Vec::new() };
    let mut total = 0;
    while let Some(note) = reader.next().await? {
        total += note.payload.len() as u64;
        if note.code != 0 {
            return Ok((note.code, note.message));
        }
        for size in note.sizes {
            let pause = tokio::time::sleep(std::time::Duration::from_millis(note.pause_ms.into()));
            tokio::select! {
                () = pause => {}
                reset = std::future::poll_fn(|cx| down.poll_reset(cx)) => return Err(reset?.into()),
            }
            let payload = Bytes::from(vec![b'0'; size as usize]);
            pour(down, frame(&Note { payload, ..Note::default() }), false).await?;
        }
        if method == "EmptyCall" {
            pour(down, frame(&Note::default()), false).await?;
        }
    }
    if method == "StreamingInputCall" {
        pour(down, frame(&Note { total, ..Note::default() }), false).await?;
    }
    Ok((0, String::new()))
}

/// Bytes that are not plain are percent-encoded in a message.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
