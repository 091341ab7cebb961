//! What a handshake settles: the version, the certificate, the protocol, and whom the gateway believes.

use rustls::pki_types::CertificateDer;

use super::{Gate, HOST};
use crate::harness::{Authority, Client, Gateway, Peer, Tls, Witness, with_gateway};

#[tokio::test]
async fn who_speaks_only_older_versions_than_the_least_is_refused() {
    let upstream = Witness::saying("here").await;
    let gate = Gate::before(&upstream.url());
    let certificate = gate.authority.sign(&[HOST]).manifest("web");
    let speaking = |version| Tls::with(&gate.authority, None, &[version]).alpn(&["http/1.1"]).forgetful();
    let (old, new) = (speaking(&rustls::version::TLS12), speaking(&rustls::version::TLS13));
    let mut gateway = Gateway::builder().manifest(&gate.manifest(&certificate, "")).start().await;
    // None is said at first: 1.2.
    for (terms, old_is_good) in [("", true), (", min_version: \"1.3\"", false), (", min_version: \"1.2\"", true)] {
        gateway.apply(&gate.manifest(&certificate, terms)).await;
        for (tls, good) in [(&old, old_is_good), (&new, true)] {
            let stream = tls.connect(gate.addr(), HOST).await;
            assert_eq!(stream.is_ok(), good, "{terms:?}: {:?}", stream.err());
            if let Ok(stream) = stream {
                assert_eq!(Client::over(stream).host(HOST).get("/").await.text(), "here", "{terms:?}");
            }
        }
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name_then_by_wildcard_and_else_it_is_the_first() {
    let upstream = Witness::saying("here").await;
    let gate = Gate::before(&upstream.url());
    let pairs =
        [&["first.example"][..], &["*.b.example"], &["exact.b.example"]].map(|names| gate.authority.sign(names));
    let certificates: String =
        pairs.iter().zip(["one", "two", "three"]).map(|(pair, name)| pair.manifest(name)).collect();
    let manifest = gate.manifest(&certificates, "").replace("certificates: [web]", "certificates: [one, two, three]");
    with_gateway(&manifest, async |_| {
        let tls = Tls::of(&gate.authority).unwary().forgetful();
        for (name, index) in [
            ("first.example", 0),
            ("x.b.example", 1),
            ("X.B.Example", 1),
            ("exact.b.example", 2),
            // A wildcard stands for one label.
            ("b.example", 0),
            ("x.y.b.example", 0),
            ("xb.example", 0),
            ("unknown.test", 0),
            // Nobody asks for an address by name.
            ("127.0.0.1", 0),
        ] {
            for protocol in ["h2", "http/1.1"] {
                let stream = tls.clone().alpn(&[protocol]).connect(gate.addr(), name).await.expect("a handshake");
                let shown: CertificateDer<'_> = stream.get_ref().1.peer_certificates().expect("one")[0].clone();
                assert_eq!(shown, pairs[index].der(), "{name}, {protocol}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_protocol_that_is_not_offered_is_never_agreed_on() {
    let upstream = Witness::saying("here").await;
    let gate = Gate::before(&upstream.url());
    let certificate = gate.authority.sign(&[HOST]).manifest("web");
    let tls = Tls::of(&gate.authority).forgetful();
    for (terms, both, only_h2, only_http1) in [
        ("", Some("h2"), Some("h2"), Some("http/1.1")),
        (", alpn: [http/1.1]", Some("http/1.1"), None, Some("http/1.1")),
        (", alpn: [http/1.1, h2]", Some("http/1.1"), Some("h2"), Some("http/1.1")),
        (", alpn: [h2]", Some("h2"), Some("h2"), None),
    ] {
        with_gateway(&gate.manifest(&certificate, terms), async |_| {
            for (offered, agreed) in [(&["h2", "http/1.1"][..], both), (&["h2"], only_h2), (&["http/1.1"], only_http1)]
            {
                let stream = tls.clone().alpn(offered).connect(gate.addr(), HOST).await.ok();
                let alpn = stream.as_ref().and_then(|stream| stream.get_ref().1.alpn_protocol());
                assert_eq!(alpn, agreed.map(str::as_bytes), "{terms:?}, {offered:?}");
                if let (Some(stream), Some("http/1.1")) = (stream, agreed) {
                    assert_eq!(Client::over(stream).host(HOST).get("/").await.text(), "here", "{terms:?}");
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_upstream_that_nobody_vouches_for_is_believed_only_if_that_is_said() {
    let stranger = Authority::new();
    let config = stranger.server(&stranger.sign(&["elsewhere.example"]), &["h2"], false);
    let (url, peer) = Peer::serving(Some(config), async |asked| asked.say(200, "whoever")).await;
    let manifest = |tls: &str| {
        format!(
            "backends: [{{name: b, endpoints: [\"{url}\"]{tls}}}]\n\
             routes: [{{name: all, path: /, backend: b, retry: {{attempts: 0}}}}]\n"
        )
    };
    let mut gateway = Gateway::builder().manifest(&manifest("")).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for (tls, status) in [
        ("", 502),
        (", tls: {insecure_skip_verify: false}", 502),
        (", tls: {insecure_skip_verify: true}", 200),
        // The connections that were made so are of no use to whoever wants to know.
        ("", 502),
    ] {
        gateway.apply(&manifest(tls)).await;
        for _ in 0..2 {
            let response = client.get("/").await;
            assert_eq!(response.status, status, "{tls:?}: {}", response.text());
        }
    }
    gateway.shutdown().await;
    drop(peer);
}
