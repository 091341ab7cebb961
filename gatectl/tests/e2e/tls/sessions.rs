//! Sessions that are taken up again.

use rustls::{HandshakeKind, version};

use super::{Gate, over_http2};
use crate::harness::{Client, Gateway, Tls, Witness};

/// A whole visit: handshake, one request, and what kind of handshake it was.
async fn visit(gate: &Gate, tls: &Tls, protocol: &str) -> HandshakeKind {
    let stream = gate.connect(tls, protocol).await.expect("a handshake");
    let kind = stream.get_ref().1.handshake_kind().expect("it is over");
    // With TLS 1.3 the tickets come after the handshake, before the answer.
    let status = match protocol {
        "h2" => over_http2(stream).await.get("/").await.status,
        _ => Client::over(stream).host(super::HOST).get("/").await.status,
    };
    assert_eq!(status, 200);
    kind
}

#[tokio::test]
async fn they_last_over_pushes_and_workers_with_both_versions_and_not_over_a_restart() {
    let upstream = Witness::saying("here").await;
    for version in [&version::TLS12, &version::TLS13] {
        for protocol in ["http/1.1", "h2"] {
            eprintln!("{version:?} {protocol}");
            let gate = Gate::before(&upstream.url());
            let manifest = gate.manifest(&gate.authority.sign(&[super::HOST]).manifest("web"), "");
            let mut gateway = Gateway::builder().manifest(&manifest).start().await;
            let tls = Tls::with(&gate.authority, None, &[version]);
            assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Full);
            for _ in 0..10 {
                // Whichever worker has it.
                assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Resumed);
            }
            for push in 0..3 {
                let other = format!("routes: [{{name: other, path: /other-{push}, backend: \"{}\"}}]", upstream.url());
                gateway.apply(&other).await;
                assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Resumed, "after push {push}");
            }
            // Nor does another certificate end one: who was there knows whom it speaks to.
            gateway.apply(&gate.manifest(&gate.authority.sign(&[super::HOST]).manifest("web"), "")).await;
            assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Resumed);
            assert_eq!(visit(&gate, &tls.clone().forgetful(), protocol).await, HandshakeKind::Full);
            // The keys of tickets are the process's: a session that it does not know begins anew, in the same handshake.
            gateway.restart_proxy(0).await;
            assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Full);
            assert_eq!(visit(&gate, &tls, protocol).await, HandshakeKind::Resumed);
            gateway.shutdown().await;
        }
    }
}
