//! WebSockets inside TLS, where what is spoken is agreed on first.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::socket::{Socket, accept};
use crate::harness::{AGREES, Authority, Gateway, Head, Http2, Tls, free_port, header, within};

/// What was agreed on with an upstream, one line for each connection.
type Log = Arc<Mutex<Vec<String>>>;

/// Answers requests by HTTP/2, and by HTTP/1.1 takes a WebSocket and gives back what it gets.
async fn serve(mut stream: TlsStream<TcpStream>, log: Log) -> Option<()> {
    let agreed = String::from_utf8(stream.get_ref().1.alpn_protocol()?.to_vec()).ok()?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(agreed.clone());
    if agreed == "h2" {
        let mut connection = h2::server::handshake(stream).await.ok()?;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(crate::harness::reply(200, &[]), false).ok()?;
            body.send_data(Bytes::from_static(b"by h2"), true).ok()?;
        }
        return None;
    }
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(head) = Head::parse(&bytes) {
            break head;
        }
        stream.read_buf(&mut bytes).await.ok().filter(|&read| read > 0)?;
    };
    let proof = accept(header(&head.headers, "sec-websocket-key")?);
    let agrees = AGREES.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &proof);
    stream.write_all(agrees.as_bytes()).await.ok()?;
    let mut part = [0; 4096];
    loop {
        let read = stream.read(&mut part).await.ok().filter(|&read| read > 0)?;
        stream.write_all(&part[..read]).await.ok()?;
    }
}

#[tokio::test]
async fn an_upstream_that_speaks_both_is_asked_as_every_server_knows() {
    let authority = Authority::new();
    let config = authority.server(&authority.sign(&["up.example"]), &["h2", "http/1.1"], false);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let log = Log::default();
    let noted = Arc::clone(&log);
    let upstream = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, log) = (acceptor.clone(), Arc::clone(&noted));
            tokio::spawn(async move { serve(acceptor.accept(tcp).await.ok()?, log).await });
        }
    });
    let port = free_port();
    let ca = serde_json::to_string(&authority.pem).expect("a string");
    let manifest = format!(
        "certificates:\n{}listeners: [{{name: web, address: \"127.0.0.1:{port}\", tls: {{certificates: [web]}}}}]\n\
         backends: [{{name: service, tls: {{ca: {ca}}}, endpoints: [\"{url}\"]}}]\n\
         routes: [{{name: all, path: /, backend: service}}]\n",
        authority.sign(&["gate.example"]).manifest("web"),
    );
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let tls = Tls::of(&authority).alpn(&["h2"]);
    let stream = tls.connect(([127, 0, 0, 1], port).into(), "gate.example").await.expect("a handshake");
    let mut client = Http2::over(stream, "https://gate.example", &h2::client::Builder::new()).await;
    assert_eq!(client.get("/").await.text(), "by h2");
    let (response, up) = client.open(client.websocket("/chat", &[("sec-websocket-version", "13")]), false).await;
    let response = within("an answer", response).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut socket = Socket::frames(up, response.into_body(), None);
    for message in ["one", "two"] {
        socket.send(message).await;
        assert_eq!(socket.exactly(3).await, message.as_bytes());
    }
    assert_eq!(client.get("/").await.text(), "by h2", "on the same connection, meanwhile");
    assert_eq!(*log.lock().expect("a log"), ["h2", "http/1.1"]);
    drop((socket, client));
    gateway.shutdown().await;
    upstream.abort();
}
