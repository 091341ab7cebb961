//! Active checks reach endpoints as requests do: over the backend's TLS, by HTTP/2, at the addresses of their names.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Asked, Authority, Dns, Gateway, Peer, Say, free_port, reply, within};

/// A service of HTTP/1.1 over TLS that is well; the other name that clients may ask it for is in its certificate.
async fn service(config: Arc<ServerConfig>) -> (u16, JoinHandle<()>) {
    let port = free_port();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 7), port)).await.expect("binds");
    let task = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut tls) = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && tls.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = tls.shutdown().await;
        }
    });
    (port, task)
}

/// A service of HTTP/2: /well is, and so is the service of gRPC named "shop".
async fn speak_http2(mut asked: Asked) {
    let (body, _) = crate::harness::body_of(asked.request.body_mut()).await.expect("a body");
    match asked.request.uri().path() {
        "/grpc.health.v1.Health/Check" => {
            let well = body == b"\0\0\0\0\x06\x0a\x04shop";
            let head = reply(200, &[("content-type", "application/grpc")]);
            let mut stream = asked.respond.send_response(head, false).expect("sends");
            stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, if well { 1 } else { 2 }]), false).expect("sends");
            let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("text"))]);
            stream.send_trailers(trailers).expect("sends");
        }
        "/well" => asked.say(200, "well"),
        _ => asked.say(503, "not well"),
    }
}

#[tokio::test]
async fn checks_use_the_backends_tls_its_protocol_and_the_resolvers_addresses() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.sign(&["inner.example"]);
    let shown = authority.sign(&["gateway"]);
    // Both ask for a certificate of the gateway.
    let (http1, service) = service(authority.server(&certificate, &[], true)).await;
    let (url, peer) = Peer::serving(Some(authority.server(&certificate, &["h2"], true)), speak_http2).await;
    let http2 = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let dns = Dns::start().await;
    let tls = |authority: &Authority, name: &str| {
        let ca = serde_json::to_string(&authority.pem).expect("a string");
        format!("ca: {ca}, server_name: {name}, client_certificate: own")
    };
    let right = tls(&authority, "inner.example");
    let nothing_shown = right.replace(", client_certificate: own", "");
    let backends = [
        ("right", http1, "http1", right.clone(), "path: /", true),
        ("raw", http1, "auto", right.clone(), "type: tcp", true),
        ("chosen", http2, "auto", right.clone(), "path: /well", true),
        ("fixed", http2, "h2", right.clone(), "path: /well, headers: {X-Check: a}", true),
        ("call", http2, "auto", right.clone(), "type: grpc, service: shop", true),
        ("other-authority", http1, "http1", tls(&other, "inner.example"), "path: /", false),
        ("other-name", http1, "http1", tls(&authority, "outer.example"), "path: /", false),
        ("nothing-shown", http1, "http1", nothing_shown, "path: /", false),
        ("ill", http2, "auto", right.clone(), "path: /ill", false),
        ("other-call", http2, "auto", right.clone(), "type: grpc, service: cart", false),
        ("no-http2", http1, "auto", right, "type: grpc, service: shop", false),
    ];
    let mut yaml = format!("certificates:\n{}backends:\n", shown.manifest("own"));
    // Each has a name of its own, and so a checker.
    for (name, port, protocol, tls, check, _) in &backends {
        dns.say(&format!("{name}.test"), Say::local(&[if *port == http1 { 7 } else { 1 }], 60));
        yaml += &format!(
            "- {{name: {name}, protocol: {protocol}, endpoints: [\"https://{name}.test:{port}\"], tls: {{{tls}}}, \
             health_check: {{{check}, interval: 100ms, unhealthy_threshold: 1}}}}\n"
        );
    }
    let server = dns.addr();
    let builder = Gateway::builder().proxy_settings(move |settings| settings.dns_servers = vec![server]);
    let gateway = builder.manifest(&yaml).start().await;
    for (name, port, _, _, _, well) in &backends {
        let counted = async |result: &str| {
            let line = format!("rustygate_health_checks_total{{endpoint=\"{name}.test:{port}\",result=\"{result}\"}} ");
            let metrics = gateway.metrics(0).await;
            metrics.lines().find_map(|metric| metric.strip_prefix(&line)?.parse::<u64>().ok()).unwrap_or_default()
        };
        let checked = async {
            loop {
                match (counted("good").await, counted("bad").await) {
                    (0, 0) => {}
                    checks => return checks,
                }
            }
        };
        let (good, bad) = within("a check", checked).await;
        assert_eq!((good > 0, bad > 0), (*well, !well), "{name}");
    }
    gateway.shutdown().await;
    drop((service, peer));
}
