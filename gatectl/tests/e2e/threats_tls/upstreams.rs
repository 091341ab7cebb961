//! Upstreams that the gateway speaks TLS to.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use super::pki::Authority;
use crate::harness::{Client, Gateway, Upstream, with_gateway};

/// An upstream that speaks TLS and answers each connection's request so, then ends it: in order, or by TCP alone.
struct Server {
    url: String,
    accept: JoinHandle<()>,
}

impl Server {
    async fn start(config: Arc<ServerConfig>, answer: &'static str, in_order: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let accept = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, config.clone(), answer, in_order));
            }
        });
        Self { url, accept }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn serve(tcp: TcpStream, config: Arc<ServerConfig>, answer: &str, in_order: bool) -> Option<()> {
    let mut tls: TlsStream<TcpStream> = TlsAcceptor::from(config).accept(tcp).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        tls.read_buf(&mut head).await.ok().filter(|&read| read > 0)?;
    }
    tls.write_all(answer.as_bytes()).await.ok()?;
    tls.flush().await.ok()?;
    if in_order {
        tls.shutdown().await.ok()?;
    } else {
        tls.into_inner().0.shutdown().await.ok()?;
    }
    Some(())
}

fn manifest(url: &str, authority: &Authority, more: &str) -> String {
    format!(
        "backends: [{{name: b, endpoints: [{{url: \"{url}\"}}], tls: {{ca: {}{more}}}}}]\n\
         routes: [{{name: all, path: /, backend: b, retry: {{attempts: 0}}}}]\n",
        authority.yaml()
    )
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn an_upstream_that_is_not_who_it_should_be_gets_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    for (what, certificate, more, status) in [
        ("right", authority.sign(&["127.0.0.1"]), "", 200),
        ("right by the name that is set", authority.sign(&["b.example"]), ", server_name: b.example", 200),
        ("of another host", authority.sign(&["127.0.0.2"]), "", 502),
        ("of another name", authority.sign(&["c.example"]), ", server_name: b.example", 502),
        ("of a name with NUL", authority.sign(&["b.example\0.evil.y"]), ", server_name: b.example", 502),
        ("of another authority", other.sign(&["127.0.0.1"]), "", 502),
        ("expired", authority.sign_with(&["127.0.0.1"], expired), "", 502),
        ("not valid yet", authority.sign_with(&["127.0.0.1"], future), "", 502),
    ] {
        let server = Server::start(certificate.server(), ANSWER, true).await;
        with_gateway(&manifest(&server.url, &authority, more), async |gateway: &mut Gateway| {
            let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
            assert_eq!(response.status, status, "{what}: {}", response.text());
        })
        .await;
    }
}

#[tokio::test]
async fn what_comes_before_the_handshake_is_no_answer() {
    let authority = Authority::new();
    let upstream = Upstream::start().await;
    let url = upstream.url().replace("http:", "https:");
    with_gateway(&manifest(&url, &authority, ""), async |gateway: &mut Gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        // As often as the gateway tries.
        let say = async {
            loop {
                let mut wire = upstream.accept().await;
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await;
                wire.end().await;
                // A ClientHello at most, and no request in the clear.
                assert!(!String::from_utf8_lossy(&wire.buffer).contains("GET /"));
            }
        };
        let response = tokio::select! {
            response = client.get("/") => response,
            () = say => unreachable!("it never ends"),
        };
        assert_eq!(response.status, 502, "{}", response.text());
        assert!(!response.text().contains("forged"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_was_cut_is_not_taken_for_a_whole_one() {
    let authority = Authority::new();
    let certificate = authority.sign(&["127.0.0.1"]);
    for (what, answer, in_order, whole) in [
        ("until close, in order", "HTTP/1.1 200 OK\r\n\r\nsome of it", true, true),
        ("until close, cut", "HTTP/1.1 200 OK\r\n\r\nsome of it", false, false),
        ("of a length, cut", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome of it", false, false),
        ("in chunks, cut", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nA\r\nsome of it\r\n", false, false),
        (
            "in chunks, whole",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nA\r\nsome of it\r\n0\r\n\r\n",
            false,
            true,
        ),
    ] {
        let server = Server::start(certificate.server(), answer, in_order).await;
        with_gateway(&manifest(&server.url, &authority, ""), async |gateway: &mut Gateway| {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let response = client.try_response(false).await;
            let good = response.as_ref().is_some_and(|response| response.status == 200);
            assert_eq!(good, whole, "{what}: {response:?}");
        })
        .await;
    }
}
