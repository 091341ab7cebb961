//! Compressed answers as clients get them: which, in which coding, and when.

use std::io::Read as _;

use http::HeaderMap;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    harness::{
        Client, End, Gateway, Http2, Peer, Reply, Seen, Upstream, Wire, Witness, header, pour, with_gateway, within,
    },
    streams::{STUCK, under_way_max},
};

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// Reads what is in that coding; `most` bytes of it, if the rest has not come.
fn decode(coding: &str, bytes: &[u8], most: Option<usize>) -> std::io::Result<Vec<u8>> {
    let mut reader: Box<dyn std::io::Read + '_> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("{other:?} is no coding"),
    };
    let mut body = vec![0; most.unwrap_or_default()];
    match most {
        Some(_) => reader.read_exact(&mut body)?,
        None => drop(reader.read_to_end(&mut body)?),
    }
    Ok(body)
}

fn whole(coding: &str, bytes: &[u8]) -> Vec<u8> {
    decode(coding, bytes, None).expect("a whole body in that coding")
}

/// Everything to one backend, compressed.
fn manifest(protocol: &str, url: &str) -> String {
    format!(
        "plugins: [{{name: small, type: compress}}]\n\
         backends: [{{name: service, protocol: {protocol}, endpoints: [\"{url}\"]}}]\n\
         routes: [{{name: all, path: /, backend: service, plugins: [small]}}]\n"
    )
}

/// A list in JSON of about so many bytes.
fn json(bytes: usize) -> String {
    let mut text = "[0".to_owned();
    for number in 1.. {
        if text.len() >= bytes {
            break;
        }
        text += &format!(",{{\"id\":{number},\"name\":\"n{}\"}}", number * 7919 % 1000);
    }
    text + "]"
}

/// Answers by what the path says, with a long list.
fn script(seen: &Seen) -> Reply {
    let body = json(20_000);
    let length = body.len();
    let fields = match seen.line().split(' ').nth(1).unwrap_or_default() {
        "/events" => "content-type: text/event-stream\r\n",
        "/image" => "content-type: image/png\r\n",
        "/kept" => "content-type: application/json\r\ncache-control: no-transform\r\n",
        "/encoded" => "content-type: application/json\r\ncontent-encoding: x-own\r\n",
        "/part" => {
            let head = "HTTP/1.1 206 Partial Content\r\ncontent-type: application/json\r\ncontent-range: bytes 0-1/9\r\n\
                        content-length: 2\r\n\r\n[0";
            return Reply::Send(head.into());
        }
        "/short" => {
            return Reply::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi".into());
        }
        "/same" => return Reply::Send(b"HTTP/1.1 304 Not Modified\r\netag: \"v1\"\r\n\r\n".into()),
        "/until-close" => {
            return Reply::SendAndClose(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n{body}").into());
        }
        _ => "content-type: application/json\r\netag: \"v1\"\r\naccept-ranges: bytes\r\n",
    };
    let sent = if seen.line().starts_with("HEAD ") { "" } else { &body };
    Reply::Send(format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n{sent}").into())
}

#[tokio::test]
async fn a_client_gets_the_coding_it_takes_and_the_body_in_it() {
    let upstream = Witness::start(script).await;
    with_gateway(&manifest("http1", &upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let mut http2 = Http2::connect(gateway.proxy_addr()).await;
        let body = json(20_000).into_bytes();
        for coding in CODINGS {
            for path in ["/list", "/until-close"] {
                let accepts = [("accept-encoding", coding)];
                let answer = client.get_with(path, &accepts).await;
                assert_eq!(answer.header("content-encoding"), Some(coding));
                assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
                assert_eq!((answer.header("content-length"), answer.header("accept-ranges")), (None, None));
                assert!(answer.body.len() < body.len() / 4, "{coding}: {} bytes", answer.body.len());
                assert_eq!(whole(coding, &answer.body), body);
                let answer = http2.request("GET", path, &accepts, b"").await;
                assert_eq!((answer.header("content-encoding"), answer.header("content-length")), (Some(coding), None));
                assert_eq!(whole(coding, &answer.body), body);
            }
        }
        let answer = client.get_with("/list", &[("accept-encoding", "gzip, deflate, br, zstd")]).await;
        assert_eq!((answer.header("content-encoding"), answer.header("etag")), (Some("zstd"), Some("W/\"v1\"")));
        // Who takes none gets it as it is, and a cache learns that others would not.
        let answer = client.get("/list").await;
        assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, Some("Accept-Encoding")));
        assert_eq!((answer.header("etag"), &answer.body), (Some("\"v1\""), &body));
    })
    .await;
}

#[tokio::test]
async fn what_must_not_or_need_not_be_compressed_stays_as_it_is() {
    let upstream = Witness::start(script).await;
    with_gateway(&manifest("http1", &upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for path in ["/events", "/image", "/kept", "/encoded", "/part", "/short"] {
            let answer = client.get_with(path, &[("accept-encoding", "gzip")]).await;
            assert_eq!(answer.header("vary"), None, "{path}");
            assert!(answer.header("content-encoding").is_none_or(|coding| coding == "x-own"), "{path}");
            assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{path}");
        }
        let same = client.get_with("/same", &[("accept-encoding", "gzip"), ("if-none-match", "W/\"v1\"")]).await;
        assert_eq!((same.status, same.header("etag")), (304, Some("W/\"v1\"")), "the tag that the client has");
        let head = client.request("HEAD", "/list", &[("accept-encoding", "gzip")], b"").await;
        assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
        // The connection has nothing behind that head.
        assert_eq!(client.get("/short").await.text(), "hi");
        // A client of HTTP/1.0 is told the length, or would have to guess whether the answer is whole.
        let mut old = Client::connect(gateway.proxy_addr()).await;
        old.send(b"GET /list HTTP/1.0\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n").await;
        let answer = old.response(false).await;
        assert_eq!((answer.header("content-encoding"), answer.body.len()), (None, json(20_000).len()));
    })
    .await;
}

#[tokio::test]
async fn each_piece_can_be_read_when_the_backend_pauses_and_trailers_follow() {
    let upstream = Upstream::start().await;
    with_gateway(&manifest("http1", &upstream.url()), async |gateway| {
        for coding in CODINGS {
            let mut client = Wire::connect(gateway.proxy_addr()).await;
            client
                .send(format!("GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\naccept-encoding: {coding}\r\n\r\n"))
                .await;
            let mut wire = upstream.accept().await;
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n").await;
            // The head does not wait for the body.
            let head = client.head().await;
            assert_eq!(header(&head.headers, "content-encoding"), Some(coding));
            let (mut encoded, mut said) = (Vec::new(), String::new());
            for piece in ["one ", "two ", "two ", "three"] {
                wire.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
                said += piece;
                while decode(coding, &encoded, Some(said.len())).is_err() {
                    encoded.extend(chunk(&mut client).await);
                }
                assert_eq!(decode(coding, &encoded, Some(said.len())).expect("read"), said.as_bytes());
            }
            wire.send("0\r\nx-sum: 7\r\ncontent-digest: sha-256=:AAAA:\r\n\r\n").await;
            loop {
                match chunk(&mut client).await {
                    piece if piece.is_empty() => break,
                    piece => encoded.extend(piece),
                }
            }
            assert_eq!(client.until("\r\n\r\n").await, "x-sum: 7\r\n\r\n", "a digest would be that of other bytes");
            assert_eq!(whole(coding, &encoded), said.as_bytes());
        }
    })
    .await;
}

/// The next chunk; empty for the last, whose trailers are left.
async fn chunk(client: &mut Wire) -> Vec<u8> {
    let line = client.until("\r\n").await;
    let length = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
    if length == 0 {
        return Vec::new();
    }
    let mut bytes = client.exactly(length + 2).await;
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn large_bodies_arrive_whole_by_http2_from_http2_with_their_trailers() {
    const BYTES: usize = 6 << 20;
    let (url, peer) = Peer::serving(None, async |mut asked| {
        let head = crate::harness::reply(200, &[("content-type", "application/json")]);
        let mut stream = asked.respond.send_response(head, false).expect("sends");
        pour(&mut stream, json(BYTES).into(), false).await.expect("sends");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().expect("a value"));
        stream.send_trailers(trailers).expect("sends");
    })
    .await;
    with_gateway(&manifest("h2c", &url), async |gateway| {
        let mut http2 = Http2::connect(gateway.proxy_addr()).await;
        let expected = json(BYTES).into_bytes();
        for coding in CODINGS {
            let answer = http2.request("GET", "/", &[("accept-encoding", coding)], b"").await;
            assert_eq!(answer.header("content-encoding"), Some(coding));
            assert!(whole(coding, &answer.body) == expected, "{coding}: another body");
            assert_eq!(answer.trailers.get("x-sum").map(|sum| sum.as_bytes()), Some(&b"7"[..]));
        }
    })
    .await;
    peer.abort();
}

/// A client that takes the coding and has the answer's head, and the wire to the upstream, which goes on from there.
async fn begin(gateway: &Gateway, upstream: &Upstream, coding: &str, rest: &str) -> (Wire, Wire) {
    let mut client = Wire::connect(gateway.proxy_addr()).await;
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: {coding}\r\n\r\n")).await;
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{rest}")).await;
    client.head().await;
    (client, wire)
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_taken_for_a_whole_one_and_a_client_that_leaves_ends_the_backends_side() {
    let upstream = Upstream::start().await;
    with_gateway(&manifest("http1", &upstream.url()), async |gateway| {
        for coding in CODINGS {
            let (mut client, wire) = begin(gateway, &upstream, coding, "content-length: 10000\r\n\r\nsome of it").await;
            let encoded = chunk(&mut client).await;
            drop(wire);
            let end = client.end().await;
            assert!(!client.buffer.ends_with(b"0\r\n\r\n"), "{coding} {end:?}");
            assert!(decode(coding, &encoded, None).is_err(), "{coding}");
        }
        let (client, mut wire) = begin(gateway, &upstream, "gzip", "transfer-encoding: chunked\r\n\r\n").await;
        drop(client);
        assert!(matches!(within("the end", wire.end()).await, End::Closed | End::Reset));
    })
    .await;
}

#[tokio::test]
async fn who_takes_nothing_stops_the_backend() {
    let upstream = Upstream::start().await;
    // What comes again is further apart than any coding looks back.
    let mut noise = vec![0; 1 << 20];
    SystemRandom::new().fill(&mut noise).expect("noise");
    with_gateway(&manifest("http1", &upstream.url()), async |gateway| {
        for coding in CODINGS {
            let (_client, mut wire) = begin(gateway, &upstream, coding, "content-length: 1000000000\r\n\r\n").await;
            let (bound, mut sent) = (under_way_max(), 0);
            for piece in noise.chunks(64 << 10).cycle() {
                let taken = tokio::time::timeout(STUCK, wire.send(piece)).await;
                sent += piece.len();
                assert!(sent < bound, "{coding}: {sent} bytes went down to nobody");
                if taken.is_err() {
                    break;
                }
            }
        }
    })
    .await;
}
