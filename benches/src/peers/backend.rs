//! The upstream of every proxy under test: fixed answers, one thread, nothing else.
//!
//! It reads no more of a request than framing needs, and answers with one write, so that the core that it shares with the
//! load generator is not spent here.

use std::{collections::HashMap, net::SocketAddr, rc::Rc};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::load::{Answer, POST_BYTES};

/// Bytes that a request head may have: proxies add fields, not kilobytes.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Serves until the process ends.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let answers: Rc<HashMap<&'static str, Vec<u8>>> =
        Rc::new(Answer::ALL.iter().map(|kind| (kind.path(), answer(kind.bytes()))).collect());
    tokio::task::LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let answers = Rc::clone(&answers);
                tokio::task::spawn_local(async move {
                    // The proxy sees a closed connection, and the client an error that it counts.
                    let _ = connection(stream, &answers).await;
                });
            }
        })
        .await
}

fn answer(bytes: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nDate: Sun, 01 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n\
         Cache-Control: no-store\r\nX-Request-Id: 0123456789abcdef\r\nContent-Length: {bytes}\r\n\r\n"
    )
    .into_bytes();
    let body_start = answer.len();
    answer.extend_from_slice(b"{\"data\":\"");
    answer.resize(body_start + bytes - 2, b'x');
    answer.extend_from_slice(b"\"}");
    answer
}

async fn connection(mut stream: TcpStream, answers: &HashMap<&'static str, Vec<u8>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_BYTES_MAX + POST_BYTES];
    let mut filled = 0;
    loop {
        let Some(head_bytes) = read_head(&mut stream, &mut buffer, &mut filled).await? else { return Ok(()) };
        let head = Head::parse(&buffer[..head_bytes])?;
        let answer = answers.get(head.path).context("unknown path")?;
        let (request_bytes, close) = (head_bytes + head.body_bytes, head.close);
        while filled < request_bytes {
            match stream.read(&mut buffer[filled..]).await? {
                0 => bail!("closed within a body"),
                read => filled += read,
            }
        }
        buffer.copy_within(request_bytes..filled, 0);
        filled -= request_bytes;
        stream.write_all(answer).await?;
        if close {
            return Ok(stream.shutdown().await?);
        }
    }
}

/// Reads up to the end of a head; `None` if the client closed instead of sending one.
async fn read_head(stream: &mut TcpStream, buffer: &mut [u8], filled: &mut usize) -> anyhow::Result<Option<usize>> {
    loop {
        if let Some(end) = buffer[..*filled].windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if *filled >= HEAD_BYTES_MAX {
            bail!("head too large");
        }
        match stream.read(&mut buffer[*filled..]).await? {
            0 if *filled == 0 => return Ok(None),
            0 => bail!("closed within a head"),
            read => *filled += read,
        }
    }
}

/// What framing needs of a request head.
#[derive(Debug, PartialEq, Eq)]
struct Head<'a> {
    path: &'a str,
    body_bytes: usize,
    close: bool,
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).context("head is not text")?;
        let mut lines = text.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("no request line")?;
        let mut head = Self { path, body_bytes: 0, close: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.body_bytes = value.parse().context("bad Content-Length")?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                // No load sends one and no proxy needs to; an error here shows up as an error of that proxy.
                bail!("chunked requests are not expected");
            }
        }
        if head.body_bytes > POST_BYTES {
            bail!("body too large");
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_is_read_without_case() {
        let head = Head::parse(b"POST /small HTTP/1.1\r\nhost: a\r\ncontent-length: 16\r\nCONNECTION: Close\r\n\r\n");
        assert_eq!(head.expect("a head"), Head { path: "/small", body_bytes: 16, close: true });
    }

    #[test]
    fn a_body_that_no_load_sends_is_refused() {
        assert!(Head::parse(b"POST /small HTTP/1.1\r\nContent-Length: 999999\r\n\r\n").is_err());
        assert!(Head::parse(b"POST /small HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn an_answer_has_the_body_that_it_announces() {
        let answer = answer(200);
        let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(answer.len() - head_end, 200);
    }
}
