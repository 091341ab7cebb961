//! Calls of gRPC: short ones, and conversations that last from the first configuration to the last. Both ends.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::sleep;

use super::{
    clients::PAUSE,
    http2::Caller,
    peer::{next, well},
    upstream::PIECE_PAUSE,
};
use crate::harness::{pour, within};

const HEADERS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// A message with its length before it.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("small");
    [&[0][..], &length.to_be_bytes(), text.as_bytes()].concat().into()
}

/// Takes messages from a stream.
struct Messages<'s> {
    stream: &'s mut RecvStream,
    buffer: Vec<u8>,
}

impl<'s> Messages<'s> {
    fn of(stream: &'s mut RecvStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    async fn next(&mut self) -> Result<Option<String>, h2::Error> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() >= length {
                    let text = String::from_utf8_lossy(&rest[..length]).into_owned();
                    self.buffer.drain(..5 + length);
                    return Ok(Some(text));
                }
            }
            match next(self.stream).await? {
                None => return Ok(None),
                Some(part) => self.buffer.extend_from_slice(&part),
            }
        }
    }
}

/// The upstream's end: says by what it was asked, then gives every message back.
pub async fn answer(mut body: RecvStream, mut down: SendStream<Bytes>, seen: &str) -> Result<(), h2::Error> {
    pour(&mut down, message(seen), false).await?;
    let mut messages = Messages::of(&mut body);
    while let Some(text) = messages.next().await? {
        pour(&mut down, message(&text), false).await?;
    }
    down.send_trailers(well())
}

fn seen(method: &str, number: u64) -> String {
    format!("/by-{number}/torture.Echo/{method} asked by {number}")
}

/// Short calls until the end.
pub async fn unary(caller: &Caller) {
    let course = &caller.course;
    for turn in 0.. {
        if course.is_over() {
            return;
        }
        let floor = course.served();
        let question = format!("question {turn}");
        match caller.request("POST", "/torture.Echo/Unary", &HEADERS, message(&question)).await {
            Ok(answer) => {
                if answer.trailers != well() {
                    course.fault(format!("a call: {answer:?}"));
                }
                let told = |number| {
                    let bytes = [message(&seen("Unary", number)), message(&question)].concat();
                    String::from_utf8_lossy(&bytes).into_owned()
                };
                let _ = course.judge("calls of gRPC", Some(&answer.into()), floor, told);
            }
            Err(error) => course.fault(format!("a call: {error}")),
        }
        sleep(PAUSE).await;
    }
}

/// One message after another until there were so many, or until the end.
pub async fn conversation(caller: &Caller, messages: u64) -> Result<(), String> {
    let course = &caller.course;
    let floor = course.served();
    let failed = |error| format!("a conversation: {error}");
    let (response, mut up) =
        caller.open("POST", "/torture.Echo/Conversation", &HEADERS, false).await.map_err(failed)?;
    let answer = within("a conversation", response).await.map_err(failed)?;
    let number = answer.headers().get("x-answered-by").and_then(|value| value.to_str().ok()?.parse().ok());
    let number = number.filter(|_| answer.status() == 200).ok_or_else(|| format!("a conversation: {answer:?}"))?;
    course.saw("a conversation", number, floor);
    let mut body = answer.into_body();
    let mut said = Messages::of(&mut body);
    let mut expected = seen("Conversation", number);
    for index in 0..messages {
        let text = within("a message", said.next()).await.map_err(|error| format!("message {index}: {error}"))?;
        if text.as_ref() != Some(&expected) {
            return Err(format!("a conversation, at message {index}: {text:?} instead of {expected:?}"));
        }
        if course.is_over() {
            break;
        }
        expected = format!("message {index} of a conversation that was begun by {number}");
        pour(&mut up, message(&expected), false).await.map_err(failed)?;
        course.count("messages of conversations");
        sleep(PIECE_PAUSE / 2).await;
    }
    up.send_data(Bytes::new(), true).map_err(failed)?;
    while within("the end of a conversation", said.next()).await.map_err(failed)?.is_some() {}
    let trailers = body.trailers().await.map_err(failed)?;
    course.count("conversations");
    if trailers == Some(well()) { Ok(()) } else { Err(format!("a conversation ends with {trailers:?}")) }
}
