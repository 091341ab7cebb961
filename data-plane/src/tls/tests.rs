use std::io::{Read as _, Write as _};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    string::Ia5String,
};
use rustls::{
    ClientConnection, ServerConnection,
    pki_types::{CertificateDer, ServerName},
};

use super::{
    certificate::{CertificateError, ChainError, Description, KeyError, authorities, describe},
    server::{ClientAuth, Terms},
    *,
};
use crate::snapshot::Protocol;

/// An authority, and what it has signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Chain and key.
    fn sign(&self, edit: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("signs").pem(), key.serialize_pem())
    }

    fn certificate(&self, name: &str, hosts: &[&str]) -> Arc<Certificate> {
        let (chain, key) = self.sign(|params| params.subject_alt_names = dns(hosts));
        Arc::new(Certificate::new(name, &chain, key.as_bytes()).expect("a certificate"))
    }

    fn auth(&self, required: bool) -> Option<ClientAuth> {
        let (authorities, authorities_id) = authorities(&self.pem).expect("authorities");
        Some(ClientAuth { required, authorities, authorities_id, revoked: None })
    }

    fn client(&self, certificate: Option<&Certificate>) -> Client {
        let authorities = Some(authorities(&self.pem).expect("authorities"));
        let terms = client::Terms { authorities, protocol: Protocol::Negotiated, ..client::Terms::default() };
        Client::new(terms, certificate).expect("terms")
    }
}

fn dns(hosts: &[&str]) -> Vec<SanType> {
    hosts.iter().map(|host| SanType::DnsName(Ia5String::try_from(*host).expect("ASCII"))).collect()
}

fn terms(client_auth: Option<ClientAuth>) -> Terms {
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Terms { certificates: ["a".into()].into(), min_version: MinVersion::Tls12, alpn, client_auth }
}

fn server(certificates: &[Arc<Certificate>], client_auth: Option<ClientAuth>, tickets: &Tickets) -> Server {
    Server::new(terms(client_auth), certificates, tickets).expect("terms")
}

/// What came of a handshake, and of reading once after it.
fn handshake(client: &Client, server: &Server, name: &str) -> Result<(ClientConnection, ServerConnection), String> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(&client.config), name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(&server.config)).expect("a server");
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("writes");
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("reads");
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("writes");
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("reads");
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() && !server.wants_write() {
            return Ok((client, server));
        }
    }
    Err("no end".to_owned())
}

fn shown(connection: &ClientConnection) -> &CertificateDer<'static> {
    &connection.peer_certificates().expect("certificates")[0]
}

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let authority = Authority::new();
    let first = authority.certificate("first", &["first.example", "*.wide.example"]);
    let second = authority.certificate("second", &["second.example", "*.deep.example", "FIRST.example"]);
    let all = [Arc::clone(&first), Arc::clone(&second)];
    let server = server(&all, None, &Tickets::new());
    for (name, expected) in [
        ("first.example", &first),
        ("second.example", &second),
        ("other.wide.example", &first),
        ("a.deep.example", &second),
        // A star stands for one label.
        ("a.b.deep.example", &first),
        ("deep.example", &first),
        ("elsewhere.test", &first),
        ("", &first),
        ("10.0.0.1", &first),
    ] {
        assert_eq!(server.certificate_for(name), Some(expected.id), "{name}");
    }
    let client = authority.client(None);
    for (name, expected) in [("second.example", &second), ("SECOND.example", &second), ("x.wide.example", &first)] {
        let (connection, _) = handshake(&client, &server, name).expect("a handshake");
        assert_eq!(shown(&connection), &expected.key.cert[0], "{name}");
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[test]
fn a_session_outlives_the_rotation_of_a_certificate() {
    let authority = Authority::new();
    let tickets = Tickets::new();
    let client = authority.client(None);
    let mut resumed = Vec::new();
    for _ in 0..3 {
        // As after a push that changed the certificate: all anew but for the keys of the tickets.
        let server = server(&[authority.certificate("a", &["a.example"])], None, &tickets);
        let (mut connection, mut peer) = handshake(&client, &server, "a.example").expect("a handshake");
        peer.writer().write_all(b"x").expect("writes");
        let mut wire = Vec::new();
        peer.write_tls(&mut wire).expect("writes");
        connection.read_tls(&mut &wire[..]).expect("reads");
        connection.process_new_packets().expect("valid");
        let mut byte = [0];
        connection.reader().read_exact(&mut byte).expect("a byte");
        resumed.push(connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
    }
    assert_eq!(resumed, [false, true, true]);
}

#[test]
fn a_session_without_a_client_certificate_opens_nothing_where_one_is_asked_for() {
    let authority = Authority::new();
    let tickets = Tickets::new();
    let certificate = authority.certificate("a", &["a.example"]);
    let open = server(&[Arc::clone(&certificate)], None, &tickets);
    let closed = server(&[Arc::clone(&certificate)], authority.auth(true), &tickets);
    let client = authority.client(None);
    handshake(&client, &open, "a.example").expect("a handshake");
    let error = handshake(&client, &closed, "a.example").expect_err("no certificate");
    assert!(error.contains("peer sent no certificates"), "{error}");

    // The same the other way round: an identity of others is not believed.
    let others = Authority::new();
    let strange = server(&[Arc::clone(&certificate)], others.auth(true), &tickets);
    let known = authority.client(Some(&authority.certificate("client", &["client.example"])));
    let (_, peer) = handshake(&known, &closed, "a.example").expect("a handshake");
    assert_eq!(peer.peer_certificates().map(<[_]>::len), Some(1));
    assert!(handshake(&known, &strange, "a.example").is_err());
    let (_, again) = handshake(&known, &closed, "a.example").expect("a handshake");
    assert_eq!(again.peer_certificates().map(<[_]>::len), Some(1), "a resumed session brings the identity along");
}

#[test]
fn a_client_certificate_may_be_optional_but_not_wrong() {
    let (authority, others) = (Authority::new(), Authority::new());
    let server = server(&[authority.certificate("a", &["a.example"])], authority.auth(false), &Tickets::new());
    assert!(server.asks_for_certificates);
    let (_, peer) = handshake(&authority.client(None), &server, "a.example").expect("a handshake");
    assert!(peer.peer_certificates().is_none());
    let stranger = others.certificate("x", &["x.example"]);
    assert!(handshake(&authority.client(Some(&stranger)), &server, "a.example").is_err());
}

#[test]
fn an_old_client_is_refused_where_1_3_is_the_least() {
    let authority = Authority::new();
    let mut terms = terms(None);
    terms.min_version = MinVersion::Tls13;
    let server = Server::new(terms, &[authority.certificate("a", &["a.example"])], &Tickets::new()).expect("terms");
    let mut old = authority.client(None);
    let (roots, _) = authorities(&authority.pem).expect("authorities");
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    old.config = Arc::new(config);
    assert!(handshake(&old, &server, "a.example").is_err());
    handshake(&authority.client(None), &server, "a.example").expect("a handshake");
}

#[test]
fn an_endpoint_is_believed_only_with_the_right_name_and_authority() {
    let (authority, others) = (Authority::new(), Authority::new());
    let server = server(&[authority.certificate("a", &["a.example"])], None, &Tickets::new());
    handshake(&authority.client(None), &server, "a.example").expect("a handshake");
    assert!(handshake(&authority.client(None), &server, "b.example").is_err(), "the wrong name");
    assert!(handshake(&others.client(None), &server, "a.example").is_err(), "an unknown authority");
    let public = Client::new(client::Terms::default(), None).expect("terms");
    assert!(handshake(&public, &server, "a.example").is_err(), "none of the public ones");
    let loose = client::Terms { insecure_skip_verify: true, ..client::Terms::default() };
    let loose = Client::new(loose, None).expect("terms");
    handshake(&loose, &server, "b.example").expect("it was told to believe anything");
}

#[test]
fn terms_that_differ_have_other_ids() {
    let authority = Authority::new();
    let certificate = authority.certificate("a", &["a.example"]);
    let of =
        |terms: client::Terms, certificate: Option<&Certificate>| Client::new(terms, certificate).expect("terms").id;
    let base = client::Terms::default;
    let named = client::Terms { server_name: Some(ServerName::try_from("x").expect("a name")), ..base() };
    let ca = client::Terms { authorities: Some(authorities(&authority.pem).expect("authorities")), ..base() };
    let loose = client::Terms { insecure_skip_verify: true, ..base() };
    let h2 = client::Terms { protocol: Protocol::H2, ..base() };
    let mut ids = vec![of(base(), None), of(base(), Some(&certificate))];
    ids.extend([named, ca, loose, h2].map(|terms| of(terms, None)));
    assert_eq!(of(base(), None), ids[0]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[test]
fn what_is_wrong_with_a_certificate_is_told() {
    let authority = Authority::new();
    let (chain, key) = authority.sign(|params| params.subject_alt_names = dns(&["a.example", "*.A.example"]));
    let (other_chain, other_key) = authority.sign(|_| {});
    let new = |chain: &str, key: &str| Certificate::new("a", chain, key.as_bytes()).map(|_| ()).expect_err("a fault");
    assert_eq!(new(&chain, &other_key), CertificateError::Key(KeyError::Mismatch));
    assert_eq!(new(&chain, &chain), CertificateError::Key(KeyError::Missing));
    assert_eq!(new(&chain, &key.replace("PRIVATE", "ENCRYPTED PRIVATE")), CertificateError::Key(KeyError::Encrypted));
    assert_eq!(new("", &key), CertificateError::Chain(ChainError::Empty));
    assert_eq!(new(&format!("{chain}{key}"), &key), CertificateError::Chain(ChainError::HasKey));
    assert_eq!(new(&chain[..chain.len() / 2], &key), CertificateError::Chain(ChainError::Pem));
    assert_eq!(new(&chain.repeat(11), &key), CertificateError::Chain(ChainError::TooMany(10)));
    let large = " ".repeat(certificate::PEM_BYTES_MAX + 1);
    assert_eq!(new(&large, &key), CertificateError::Chain(ChainError::TooLarge(large.len())));
    assert_eq!(new(&chain, &large), CertificateError::Key(KeyError::TooLarge(large.len())));
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(new(rubbish, &key), CertificateError::Chain(ChainError::Unreadable(1)));
    assert_eq!(new(&format!("{chain}{rubbish}"), &key), CertificateError::Chain(ChainError::Unreadable(2)));
    assert_eq!(authorities(rubbish).map(|_| ()).expect_err("a fault"), ChainError::Authority(1));
    let bad_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert_eq!(new(&chain, bad_key), CertificateError::Key(KeyError::Unsupported));

    let certificate = Certificate::new("a", &chain, key.as_bytes()).expect("it is whole");
    assert_eq!(certificate.names.iter().map(|name| &**name).collect::<Vec<_>>(), ["a.example", "*.a.example"]);
    assert_ne!(certificate.content, Certificate::new("a", &other_chain, other_key.as_bytes()).expect("whole").content);
    let shown = format!("{certificate:?}");
    assert!(key.lines().all(|line| !shown.contains(line)), "{shown}");
}

#[test]
fn a_chain_is_valid_as_long_as_all_of_it() {
    let authority = Authority::new();
    let day = |year, month, day| rcgen::date_time_ymd(year, month, day);
    let signed = |from, to| {
        let edit = |params: &mut CertificateParams| (params.not_before, params.not_after) = (from, to);
        authority.sign(edit).0
    };
    let leaf = signed(day(2020, 1, 1), day(2040, 1, 1));
    let middle = signed(day(2021, 1, 1), day(2030, 1, 1));
    let Description { validity, .. } = describe(&format!("{leaf}{middle}")).expect("a chain");
    assert_eq!(validity.not_before, day(2021, 1, 1).unix_timestamp());
    assert_eq!(validity.not_after, day(2030, 1, 1).unix_timestamp());
}

fn identity_of(edit: impl FnOnce(&mut CertificateParams)) -> String {
    let (chain, key) = Authority::new().sign(edit);
    let certificate = Certificate::new("a", &chain, key.as_bytes()).expect("a certificate");
    identity(&certificate.key.cert).expect("a certificate")
}

#[test]
fn an_identity_has_hash_subject_and_names() {
    let value = identity_of(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "client one");
        params.subject_alt_names = dns(&["client.example"]);
        let uri = Ia5String::try_from("spiffe://example/client").expect("ASCII");
        params.subject_alt_names.push(SanType::URI(uri));
    });
    let (hash, rest) = value.split_once(';').expect("parts");
    assert_eq!(hash.len(), "Hash=".len() + 64);
    assert_eq!(rest, "Subject=\"CN=client one,O=Example\";DNS=client.example;URI=spiffe://example/client");
    assert_eq!(identity(&[]), None);
}

#[test]
fn nothing_in_a_certificate_ends_a_value_or_begins_another() {
    let value = identity_of(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a\";URI=evil,CN=b\\\r\nX: y\0é+");
        let names = ["admin.x\0.evil.y", "a,URI=evil", "a\"b", "a b", "ok.example", "\r\n", ""];
        params.subject_alt_names = dns(&names);
        for uri in ["spiffe://x/\0", "spiffe://x/a;b=c,d", "x\"y", "x\\y", "x y", "x\r\nz"] {
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from(uri).expect("ASCII")));
        }
    });
    let (_, rest) = value.split_once(';').expect("parts");
    assert_eq!(
        rest,
        "Subject=\"CN=a\\22\\3BURI\\3Devil\\2CCN\\3Db\\5C\\0D\\0AX: y\\00\\C3\\A9\\2B\";DNS=ok.example;\
         URI=\"spiffe://x/a;b=c,d\""
    );
    assert!(crate::fields::is_field_value(value.as_bytes()));
}

#[test]
fn an_identity_is_bounded_and_survives_rubbish() {
    let value = identity_of(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "x".repeat(5000));
        let names: Vec<_> = (0..500).map(|n| format!("host-{n}.example")).collect();
        params.subject_alt_names = dns(&names.iter().map(String::as_str).collect::<Vec<_>>());
    });
    assert!(value.len() <= identity::BYTES_MAX && value.contains("DNS=host-9.example"), "{}", value.len());
    assert!(!value.contains("Subject"));
    let rubbish = CertificateDer::from(b"rubbish".to_vec());
    assert_eq!(identity(&[rubbish]).expect("a hash").len(), "Hash=".len() + 64);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, ..Default::default() })]

    #[test]
    fn no_bytes_of_a_certificate_make_it_panic(
        damage in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..8),
        cut in proptest::option::of(0..600_usize),
    ) {
        let mut bytes = WHOLE.with(Vec::clone);
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let value = identity(&[CertificateDer::from(bytes.clone())]).expect("a certificate");
        proptest::prop_assert!(crate::fields::is_field_value(value.as_bytes()) && value.len() <= identity::BYTES_MAX);
        let encoded = base64_lines(&bytes);
        let _ = describe(&format!("-----BEGIN CERTIFICATE-----\n{encoded}-----END CERTIFICATE-----\n"));
    }
}

thread_local! {
    /// A certificate with some of everything.
    static WHOLE: Vec<u8> = {
        let (chain, key) = Authority::new().sign(|params| {
            params.subject_alt_names = dns(&["a.example", "*.b.example"]);
            params.subject_alt_names.push(SanType::IpAddress(std::net::IpAddr::from([10, 0, 0, 1])));
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from("spiffe://a/b").expect("ASCII")));
        });
        Certificate::new("a", &chain, key.as_bytes()).expect("whole").key.cert[0].to_vec()
    };
}

fn base64_lines(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            text.push(if is_there { char::from(DIGITS[word >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text + "\n"
}
