//! Large bodies, enciphered on both sides.

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Gate;
use crate::harness::{Asked, Authority, Gateway, Peer, Tls, pour, reply, within};

const BODY: usize = 128 << 20;
const BLOCK: usize = 256 << 10;
const RESIDENT_KIB_MAX: u64 = 40 << 10;

/// The end of a head.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

/// Writes a body.
async fn send(stream: &mut (impl AsyncWrite + Unpin)) {
    for _ in 0..BODY / BLOCK {
        stream.write_all(&[b'x'; BLOCK]).await.expect("sends");
    }
    stream.flush().await.expect("sends");
}

/// Reads a body.
async fn take(stream: &mut (impl AsyncRead + Unpin)) {
    let mut block = vec![0; BLOCK];
    let mut left = BODY;
    while left > 0 {
        let length = left.min(BLOCK);
        left -= within("a piece", stream.read(&mut block[..length])).await.expect("reads");
    }
}

/// A service that takes a body of HTTP/1.1 and gives one back.
async fn over_http1(config: std::sync::Arc<rustls::ServerConfig>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = TlsAcceptor::from(config.clone()).accept(tcp).await.expect("a handshake");
            head(&mut tls).await;
            take(&mut tls).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
            tls.write_all(head.as_bytes()).await.expect("sends");
            send(&mut tls).await;
            // Kept, until the gateway closes it.
            let _ = tls.read(&mut [0]).await;
        }
    });
    url
}

/// The same by HTTP/2.
async fn over_http2(mut asked: Asked) {
    while let Some(piece) = asked.request.body_mut().data().await {
        let bytes = piece.expect("a piece").len();
        asked.request.body_mut().flow_control().release_capacity(bytes).expect("room");
    }
    let head = reply(200, &[("content-length", &BODY.to_string())]);
    let mut down = asked.respond.send_response(head, false).expect("sends");
    for block in 1..=BODY / BLOCK {
        pour(&mut down, Bytes::from_static(&[b'x'; BLOCK]), block == BODY / BLOCK).await.expect("sends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_over_tls_leave_the_gateway_small() {
    let authority = Authority::new();
    let pair = authority.sign(&["127.0.0.1"]);
    let http1 = over_http1(authority.server(&pair, &["http/1.1"], false)).await;
    let (http2, peer) = Peer::serving(Some(authority.server(&pair, &["h2"], false)), over_http2).await;
    for (client, upstream) in [("h2", &http1), ("http/1.1", &http2)] {
        let gate = Gate::before(upstream);
        let certificate = gate.authority.sign(&[super::HOST]).manifest("web");
        let ca = serde_json::to_string(&authority.pem).expect("a string");
        let backends = format!("backends: [{{name: b, endpoints: [\"{upstream}\"], tls: {{ca: {ca}}}}}]\n");
        let manifest = gate.manifest(&certificate, "").replace(&format!("\"{upstream}\""), "b");
        let gateway = Gateway::builder().proxies(0).manifest(&(backends + &manifest)).start().await;
        let (proxy, _) = gateway.child(2).await;
        let tls = Tls::of(&gate.authority);
        let asking = match client {
            "h2" => {
                let mut client = gate.http2(&tls).await;
                tokio::spawn(async move {
                    let head = client.head("PUT", "/", &[("content-length", &BODY.to_string())]);
                    let (response, mut up) = client.open(head, false).await;
                    for block in 1..=BODY / BLOCK {
                        let last = block == BODY / BLOCK;
                        pour(&mut up, Bytes::from_static(&[b'x'; BLOCK]), last).await.expect("sends");
                    }
                    let mut down = response.await.expect("an answer").into_body();
                    let mut left = BODY;
                    while let Some(piece) = within("a piece", down.data()).await {
                        let bytes = piece.expect("a piece").len();
                        down.flow_control().release_capacity(bytes).expect("room");
                        left -= bytes;
                    }
                    assert_eq!(left, 0);
                })
            }
            _ => {
                let mut stream = gate.connect(&tls, client).await.expect("a handshake");
                tokio::spawn(async move {
                    let request = format!("PUT / HTTP/1.1\r\nhost: {}\r\ncontent-length: {BODY}\r\n\r\n", super::HOST);
                    stream.write_all(request.as_bytes()).await.expect("sends");
                    send(&mut stream).await;
                    let head = head(&mut stream).await;
                    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                    take(&mut stream).await;
                })
            }
        };
        let mut most = 0;
        while !asking.is_finished() {
            most = most.max(proxy.resident_kib());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        asking.await.expect("all of it, up and down");
        eprintln!("{client}: {most} KiB resident at most");
        assert!(most < RESIDENT_KIB_MAX, "{client}: {most} KiB resident");
        gateway.shutdown().await;
    }
    drop(peer);
}
