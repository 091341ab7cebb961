//! Clients that take their time: downloads, uploads and WebSockets, short ones and some that last from the first
//! configuration to the last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use super::{
    course::Course,
    upstream::{Digest, PIECE_BYTES, PIECE_PAUSE, piece, told},
};
use crate::harness::{Client, Head, header, within};

/// Of the short ones.
pub const PIECES: u64 = 25;

/// Streams of one proxy.
pub fn spawn(work: &mut JoinSet<()>, addr: SocketAddr, course: &Arc<Course>, total: Duration) {
    // As many as last for the whole time, or a little longer, the pauses alone counted.
    let many = u64::try_from(total.as_millis() / PIECE_PAUSE.as_millis()).expect("fits");
    for pieces in [many, PIECES, PIECES] {
        let course = Arc::clone(course);
        work.spawn(again_and_again(Arc::clone(&course), async move || download(addr, &course, pieces).await));
    }
    for (pieces, chunked) in [(many, false), (PIECES, false), (PIECES, true)] {
        let course = Arc::clone(course);
        work.spawn(again_and_again(Arc::clone(&course), async move || upload(addr, &course, pieces, chunked).await));
    }
    for messages in [u64::MAX, u64::MAX, PIECES] {
        let course = Arc::clone(course);
        work.spawn(again_and_again(Arc::clone(&course), async move || socket(addr, &course, messages).await));
    }
}

pub async fn again_and_again(course: Arc<Course>, stream: impl AsyncFn() -> Result<(), String>) {
    while !course.is_over() {
        if let Err(fault) = stream().await {
            course.fault(fault);
        }
    }
}

/// Reads a long answer piece by piece.
async fn download(addr: SocketAddr, course: &Course, pieces: u64) -> Result<(), String> {
    let floor = course.served();
    let request = format!("GET /service/download/{pieces} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut stream = open(addr, &request).await?;
    let (head, mut buffer) = read_head(&mut stream, "a download").await?;
    let number = header(&head.headers, "x-answered-by").and_then(|number| number.parse().ok());
    let number = number.filter(|_| head.first_line.contains(" 200 ")).ok_or_else(|| format!("a download: {head:?}"))?;
    course.saw("a download", number, floor);
    // Decoded as it comes, so that nothing grows with the length.
    let (mut index, mut body) = (0, Vec::new());
    loop {
        while let Some((chunk, bytes)) = first_chunk(&buffer) {
            buffer.drain(..bytes);
            if chunk.is_empty() {
                let whole = index == pieces && body.is_empty();
                course.count("downloads");
                return if whole { Ok(()) } else { Err(format!("a download ended after {index} of {pieces} pieces")) };
            }
            body.extend_from_slice(&chunk);
            while body.len() >= PIECE_BYTES {
                if body[..PIECE_BYTES] != piece(pieces, index) {
                    return Err(format!("a download: piece {index} is not what was sent"));
                }
                body.drain(..PIECE_BYTES);
                index += 1;
            }
        }
        read(&mut stream, &mut buffer, &format!("a download, in piece {index} of {pieces}")).await?;
    }
}

/// The first chunk of a body and how long it was with its frame; the last one is empty.
fn first_chunk(buffer: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = buffer.windows(2).position(|window| window == b"\r\n")?;
    let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).ok()?, 16).expect("the size of a chunk");
    let whole = line + 2 + size + 2;
    (buffer.len() >= whole).then(|| (buffer[line + 2..line + 2 + size].to_vec(), whole))
}

/// Sends a long body piece by piece; the answer tells what arrived.
async fn upload(addr: SocketAddr, course: &Course, pieces: u64, chunked: bool) -> Result<(), String> {
    let floor = course.served();
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {}", pieces * PIECE_BYTES as u64),
    };
    let mut stream = open(addr, &format!("POST /service/upload HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).await?;
    let cut = |index| move |error| format!("an upload, at piece {index} of {pieces}: {error}");
    let mut digest = Digest::default();
    for index in 0..pieces {
        let piece = piece(pieces, index);
        digest.add(&piece);
        let bytes = match chunked {
            true => [format!("{PIECE_BYTES:x}\r\n").as_bytes(), &piece, b"\r\n"].concat(),
            false => piece,
        };
        within("an upload", stream.write_all(&bytes)).await.map_err(cut(index))?;
        sleep(PIECE_PAUSE).await;
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").await.map_err(cut(pieces))?;
    }
    let answer = within("an answer", Client::over(stream).try_response(false)).await;
    let _ = course.judge("uploads", answer.as_ref(), floor, |number| told("POST", "/upload", number, digest));
    Ok(())
}

/// Exchanges messages until there were so many, or until the end.
async fn socket(addr: SocketAddr, course: &Course, messages: u64) -> Result<(), String> {
    let floor = course.served();
    let request = "GET /service/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let mut stream = open(addr, request).await?;
    let (head, mut buffer) = read_head(&mut stream, "a WebSocket").await?;
    let seen = header(&head.headers, "x-seen").unwrap_or_default();
    let number = seen.rsplit(' ').next().and_then(|number| number.parse().ok());
    let number =
        number.filter(|_| head.first_line.contains(" 101 ")).ok_or_else(|| format!("a WebSocket: {head:?}"))?;
    if seen != format!("/by-{number}/socket asked by {number}") {
        return Err(format!("a WebSocket mixes two revisions: {seen:?}"));
    }
    course.saw("a WebSocket", number, floor);
    for message in 0..messages {
        if course.is_over() {
            break;
        }
        let sent = format!("message {message} of a socket that was opened by {number}");
        let failed = |error| format!("a WebSocket, at message {message}: {error}");
        stream.write_all(sent.as_bytes()).await.map_err(failed)?;
        while buffer.len() < sent.len() {
            read(&mut stream, &mut buffer, &format!("a WebSocket, at message {message}")).await?;
        }
        if buffer != sent.as_bytes() {
            return Err(format!("a WebSocket: {:?} instead of {sent:?}", String::from_utf8_lossy(&buffer)));
        }
        buffer.clear();
        course.count("messages on WebSockets");
        sleep(PIECE_PAUSE / 2).await;
    }
    course.count("WebSockets");
    Ok(())
}

async fn open(addr: SocketAddr, request: &str) -> Result<TcpStream, String> {
    let failed = |error| format!("a stream cannot be opened: {error}");
    let mut stream = TcpStream::connect(addr).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    Ok(stream)
}

async fn read_head(stream: &mut TcpStream, what: &str) -> Result<(Head, Vec<u8>), String> {
    let mut buffer = Vec::new();
    loop {
        if let Some(head) = Head::parse(&buffer) {
            buffer.drain(..head.bytes);
            return Ok((head, buffer));
        }
        read(stream, &mut buffer, what).await?;
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>, what: &str) -> Result<(), String> {
    match within(what, stream.read_buf(buffer)).await {
        Ok(0) => Err(format!("{what}: it was closed")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{what}: {error}")),
    }
}
