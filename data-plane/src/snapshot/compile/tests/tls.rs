use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::snapshot::Protocol;

/// Chain and key, new ones at every call.
fn pem(host: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    (params.self_signed(&key).expect("signs").pem(), key.serialize_pem())
}

fn certificate_message(name: &str, (chain, key): (String, String)) -> wire::Certificate {
    let form = Some(wire::secret::Form::Clear(key.into_bytes()));
    wire::Certificate { name: name.to_owned(), chain, key: Some(wire::Secret { form, salt: Vec::new() }) }
}

fn certificate(name: &str) -> wire::Change {
    change(Resource::Certificate(certificate_message(name, pem("a.example"))))
}

fn tls_listener(name: &str, port: u16, tls: wire::ListenerTls) -> wire::Change {
    let address = format!("127.0.0.1:{port}");
    change(Resource::Listener(wire::Listener { name: name.to_owned(), address, tls: Some(tls), plugins: Vec::new() }))
}

fn with(certificates: &[&str]) -> wire::ListenerTls {
    let certificates = certificates.iter().map(|name| (*name).to_owned()).collect();
    wire::ListenerTls { certificates, ..wire::ListenerTls::default() }
}

fn tls_backend(name: &str, url: &str, tls: wire::BackendTls) -> wire::Change {
    change(Resource::Backend(wire::Backend { tls: Some(tls), ..backend_message(name, &[url]) }))
}

fn showing(certificate: &str) -> wire::BackendTls {
    wire::BackendTls { client_certificate: Some(certificate.to_owned()), ..wire::BackendTls::default() }
}

fn listener_faults(edit: impl FnOnce(&mut wire::ListenerTls)) -> Vec<wire::Fault> {
    let mut tls = with(&["a"]);
    edit(&mut tls);
    faults(&Snapshot::default(), &[certificate("a"), tls_listener("l", 1, tls)])
}

fn one_listener_fault(code: &str, field: &str, edit: impl FnOnce(&mut wire::ListenerTls)) {
    let found = listener_faults(edit);
    assert_eq!(told(&found), [(code, "l", field)], "{found:?}");
}

#[test]
fn a_rotated_certificate_gets_into_all_that_uses_it_and_nothing_else_changes() {
    let snapshot = start(&[
        certificate("a"),
        certificate("b"),
        tls_listener("one", 1, with(&["a", "b"])),
        tls_listener("two", 2, with(&["b"])),
        listener("plain", "127.0.0.1:3"),
        tls_backend("shows-a", "https://x", showing("a")),
        tls_backend("shows-b", "https://x", showing("b")),
        backend("public", &["https://x", "http://x"]),
        route("r", "/a", to("shows-a")),
        route("s", "/b", to("shows-b")),
    ]);
    let next = snapshot.compile(2, &[certificate("a")]).expect("valid");
    let server = |snapshot: &Snapshot, index: usize| snapshot.listeners[index].tls.clone().expect("TLS");
    assert_ne!(server(&snapshot, 0).id, server(&next, 0).id);
    assert_eq!(server(&next, 0).certificate_for("a.example"), Some(crate::snapshot::Id::of("certificate", "a")));
    for index in [1, 2] {
        assert!(Arc::ptr_eq(&snapshot.listeners[index], &next.listeners[index]));
    }
    let backend = |snapshot: &Snapshot, path| Arc::clone(&rule(snapshot, path).expect("a match").backends[0].backend);
    assert_eq!(backend(&snapshot, "/a").id, backend(&next, "/a").id);
    assert_ne!(backend(&snapshot, "/a").endpoints[0].id, backend(&next, "/a").endpoints[0].id);
    assert!(Arc::ptr_eq(&backend(&snapshot, "/b"), &backend(&next, "/b")));
    let kept = |snapshot: &Snapshot| Arc::clone(snapshot.compiled.certificates.get("b").expect("it is there"));
    assert!(Arc::ptr_eq(&kept(&snapshot), &kept(&next)));
    assert_eq!(next.certificates().count(), 2);
}

#[test]
fn a_certificate_in_use_cannot_go_and_one_that_nobody_uses_can() {
    let snapshot = start(&[
        certificate("a"),
        certificate("b"),
        tls_listener("l", 1, with(&["a", "b"])),
        tls_backend("c", "https://x", showing("b")),
    ]);
    let gone = [removal(wire::Kind::Certificate, "a"), removal(wire::Kind::Certificate, "b")];
    let found = faults(&snapshot, &gone);
    assert_eq!(told(&found), [(fault::STILL_USED, "a", ""), (fault::STILL_USED, "b", "")]);
    assert!(found[1].message.ends_with("by backend \"c\", listener \"l\""), "{}", found[1].message);
    let both = [&gone[..1], &[tls_listener("l", 1, with(&["b"]))]].concat();
    let next = snapshot.compile(2, &both).expect("nobody uses it any more");
    assert_eq!(next.certificates().count(), 1);
}

#[test]
fn a_faulty_certificate_is_one_fault_however_many_use_it() {
    let (chain, _) = pem("a.example");
    let mismatch = change(Resource::Certificate(certificate_message("a", (chain, pem("a.example").1))));
    let users = [
        tls_listener("l", 1, with(&["a"])),
        tls_backend("b", "https://x", showing("a")),
        change(Resource::Route(wire::Route {
            listeners: vec!["l".to_owned()],
            ..route_message("r", prefix("/"), to("b"))
        })),
    ];
    let all = [&users[..], std::slice::from_ref(&mismatch)].concat();
    assert_eq!(told(&faults(&Snapshot::default(), &all)), [(fault::BAD_KEY, "a", "key")]);
    let snapshot = start(&[&users[..], &[certificate("a")]].concat());
    assert_eq!(told(&faults(&snapshot, &[mismatch])), [(fault::BAD_KEY, "a", "key")]);
}

#[test]
fn what_a_certificate_lacks_is_told() {
    let of = |edit: fn(&mut wire::Certificate)| {
        let mut message = certificate_message("a", pem("a.example"));
        edit(&mut message);
        faults(&Snapshot::default(), &[change(Resource::Certificate(message))]).remove(0)
    };
    let told = |fault: wire::Fault| (fault.code, fault.field);
    let expected = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    assert_eq!(told(of(|message| message.key = None)), expected(fault::MISSING, "key"));
    assert_eq!(told(of(|message| message.chain.clear())), expected(fault::BAD_CERTIFICATE, "chain"));
    let fingerprint = of(|message| {
        let form = Some(wire::secret::Form::Fingerprint("sha256:0".to_owned()));
        message.key = Some(wire::Secret { form, salt: Vec::new() });
    });
    assert_eq!(told(fingerprint), expected(fault::BAD_KEY, "key"));
}

#[test]
fn the_tls_of_a_listener_is_checked_whole() {
    one_listener_fault(fault::MISSING, "tls.certificates", |tls| tls.certificates.clear());
    one_listener_fault(fault::DANGLING, "tls.certificates[1]", |tls| tls.certificates.push("b".to_owned()));
    one_listener_fault(fault::UNREADABLE, "tls.min_version", |tls| tls.min_version = Some(9));
    one_listener_fault(fault::BAD_TLS, "tls.alpn[0]", |tls| tls.alpn = vec!["h3".to_owned()]);
    one_listener_fault(fault::BAD_TLS, "tls.alpn[1]", |tls| tls.alpn = vec!["h2".to_owned(); 2]);
    let auth = |mode, ca: &str| Some(wire::ClientAuth { mode, ca: ca.to_owned(), crl: None });
    one_listener_fault(fault::UNREADABLE, "tls.client_auth.mode", |tls| tls.client_auth = auth(0, ""));
    one_listener_fault(fault::BAD_CERTIFICATE, "tls.client_auth.ca", |tls| tls.client_auth = auth(1, "x"));
    for crl in ["", "x", "-----BEGIN X509 CRL-----\neA==\n-----END X509 CRL-----\n"] {
        one_listener_fault(fault::BAD_CERTIFICATE, "tls.client_auth.crl", |tls| {
            tls.client_auth = auth(1, &pem("ca").0).map(|auth| wire::ClientAuth { crl: Some(crl.to_owned()), ..auth });
        });
    }
    let mut tls = with(&["a"]);
    tls.client_auth = auth(1, &pem("ca").0);
    tls.alpn = vec!["http/1.1".to_owned()];
    let snapshot = start(&[certificate("a"), tls_listener("l", 1, tls)]);
    let server = snapshot.listeners[0].tls.clone().expect("TLS");
    assert!(server.asks_for_certificates && server.config.alpn_protocols == [b"http/1.1"]);
}

#[test]
fn the_tls_of_a_backend_is_checked_whole() {
    let of = |url: &str, protocol: Option<wire::Protocol>, tls: Option<wire::BackendTls>| {
        let protocol = protocol.map(i32::from);
        let message = wire::Backend { tls, protocol, ..backend_message("b", &[url]) };
        let found = faults(&Snapshot::default(), &[change(Resource::Backend(message))]);
        assert_eq!((found.len(), found[0].name.as_str()), (1, "b"), "{found:?}");
        (found[0].code.clone(), found[0].field.clone())
    };
    let expected = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    let tls = wire::BackendTls::default;
    let ca = |ca: String| wire::BackendTls { ca: Some(ca), ..tls() };
    let named = |name: &str| wire::BackendTls { server_name: Some(name.to_owned()), ..tls() };
    let url = expected(fault::BAD_TLS, "endpoints[0].url");
    assert_eq!(of("http://a", Some(wire::Protocol::H2), None), url);
    assert_eq!(of("https://a", Some(wire::Protocol::H2c), None), url);
    assert_eq!(of("https://a", Some(wire::Protocol::Unspecified), None), expected(fault::UNREADABLE, "protocol"));
    assert_eq!(of("http://a", None, Some(tls())), expected(fault::BAD_TLS, "tls"));
    assert_eq!(of("https://a", None, Some(ca("x".to_owned()))), expected(fault::BAD_CERTIFICATE, "tls.ca"));
    assert_eq!(of("https://a", None, Some(named("a b"))), expected(fault::BAD_TLS, "tls.server_name"));
    assert_eq!(of("https://a", None, Some(showing("x"))), expected(fault::DANGLING, "tls.client_certificate"));
    let loose = wire::BackendTls { insecure_skip_verify: true, ..ca(pem("ca").0) };
    assert_eq!(of("https://a", None, Some(loose)), expected(fault::BAD_TLS, "tls.insecure_skip_verify"));
}

#[test]
fn endpoints_speak_what_their_backend_says() {
    let of = |urls: &[&str], protocol: Option<wire::Protocol>| {
        let message = wire::Backend { protocol: protocol.map(i32::from), ..backend_message("b", urls) };
        let snapshot = start(&[change(Resource::Backend(message))]);
        let backend = Arc::clone(snapshot.backends().next().expect("one"));
        let each = |endpoint: &Arc<crate::snapshot::Endpoint>| (endpoint.scheme(), endpoint.protocol);
        backend.endpoints.iter().map(each).collect::<Vec<_>>()
    };
    let both = ["http://a", "https://a"];
    assert_eq!(of(&both, None), [("http", Protocol::Http1), ("https", Protocol::Negotiated)]);
    assert_eq!(of(&both, Some(wire::Protocol::Http1)), [("http", Protocol::Http1), ("https", Protocol::Http1)]);
    assert_eq!(of(&["https://a"], Some(wire::Protocol::H2)), [("https", Protocol::H2)]);
    assert_eq!(of(&["http://a"], Some(wire::Protocol::H2c)), [("http", Protocol::H2)]);
}

#[test]
fn connections_on_other_terms_are_other_endpoints() {
    let named = wire::BackendTls { server_name: Some("x".to_owned()), ..wire::BackendTls::default() };
    let loose = wire::BackendTls { insecure_skip_verify: true, ..wire::BackendTls::default() };
    let snapshot = start(&[
        backend("public", &["https://a"]),
        backend("clear", &["http://a:443"]),
        tls_backend("same", "https://a:443", wire::BackendTls::default()),
        tls_backend("named", "https://a", named),
        tls_backend("loose", "https://a", loose),
        route("inline", "/", to_url("https://A/base")),
        route("again", "/again", to_url("https://b")),
    ]);
    let of = |name: &str| {
        let found = snapshot.backends().find(|backend| &*backend.name == name).expect(name);
        Arc::clone(&found.endpoints[0])
    };
    let public = of("public");
    assert_eq!((public.port, &*public.authority), (443, "a"));
    assert_eq!(of("same").id, public.id);
    assert_eq!(of("a:443").id, public.id, "an inline URL shares the connections");
    let client = |name: &str| of(name).tls.clone().expect("TLS").client;
    assert!(Arc::ptr_eq(&client("a:443"), &client("b:443")), "one for all of which nothing more is said");
    let mut ids = ["public", "clear", "named", "loose"].map(|name| of(name).id);
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
}
