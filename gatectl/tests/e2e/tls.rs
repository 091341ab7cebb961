//! TLS as its owner changes it: sessions, certificates and authorities over pushes.

mod bodies;
mod clients;
mod rotation;
mod selection;
mod sessions;

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::harness::{Authority, Client, Http2, Tls, free_port};

const HOST: &str = "gate.example";

/// A listener with TLS before one upstream.
struct Gate {
    port: u16,
    url: String,
    authority: Authority,
}

impl Gate {
    fn before(url: &str) -> Self {
        Self { port: free_port(), url: url.to_owned(), authority: Authority::new() }
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// With this certificate, as an entry of `certificates`, and these further terms.
    fn manifest(&self, certificate: &str, terms: &str) -> String {
        let Self { port, url, .. } = self;
        format!(
            "certificates:\n{certificate}\
             listeners: [{{name: web, address: \"127.0.0.1:{port}\", tls: {{certificates: [web]{terms}}}}}]\n\
             routes: [{{name: all, path: /, backend: \"{url}\"}}]\n"
        )
    }

    /// Shakes hands as somebody who speaks this protocol.
    async fn connect(&self, tls: &Tls, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = tls.clone().alpn(&[protocol]).connect(self.addr(), HOST).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        Ok(stream)
    }

    async fn http1(&self, tls: &Tls) -> Client {
        Client::over(self.connect(tls, "http/1.1").await.expect("a handshake")).host(HOST)
    }

    async fn http2(&self, tls: &Tls) -> Http2 {
        over_http2(self.connect(tls, "h2").await.expect("a handshake")).await
    }
}

async fn over_http2(stream: TlsStream<TcpStream>) -> Http2 {
    Http2::over(stream, &format!("https://{HOST}"), &h2::client::Builder::new()).await
}
