//! Clients of a listener with TLS.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, ClientConnection, Stream, pki_types::ServerName},
};

use super::pki::{Authority, Certificate};
use crate::harness::{End, Gateway, Head, Wire, Witness, free_port, within};

pub const PUBLIC: &str = "public.example";
pub const SECRET: &str = "secret.example";

/// What is written at a time of a first flight.
pub type Split = fn(&[u8]) -> Vec<Vec<u8>>;

/// A gateway with TLS for two hosts.
struct House {
    gateway: Gateway,
    witness: Witness,
    authority: Authority,
    addr: SocketAddr,
    manifest: String,
}

impl House {
    /// `client_auth` is YAML.
    async fn start(client_auth: impl Fn(&Authority) -> String) -> Self {
        let (witness, authority) = (Witness::echo().await, Authority::new());
        let certificates = authority.sign(&[PUBLIC]).yaml("public") + &authority.sign(&[SECRET]).yaml("secret");
        let port = free_port();
        let manifest = format!(
            "certificates:\n{certificates}listeners:\n- {{name: web, address: \"127.0.0.1:{port}\", \
             tls: {{certificates: [public, secret]{}}}}}\nroutes:\n- {{name: all, path: /, backend: \"{}\"}}\n",
            client_auth(&authority),
            witness.url()
        );
        let builder = Gateway::builder().proxy_settings(|settings| settings.tls_handshake_timeout = 1);
        let gateway = builder.manifest(&manifest).start().await;
        Self { gateway, witness, authority, manifest, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    async fn client(&self, name: &str) -> Tls {
        let config = self.authority.client(None, "http/1.1");
        Tls::connect(self.addr, config, name).await.expect("a handshake")
    }

    /// Whoever does nothing odd is served.
    async fn serves(&self) {
        let (status, _) = self.client(PUBLIC).await.get(PUBLIC, "").await;
        assert_eq!(status, 200);
    }
}

/// A client that speaks HTTP/1.1 inside.
pub struct Tls(TlsStream<TcpStream>);

impl Tls {
    pub async fn connect(addr: SocketAddr, config: Arc<ClientConfig>, name: &str) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        within("a handshake", TlsConnector::from(config).connect(name, tcp)).await.map(Self)
    }

    /// Status and body of an answer; the body is what the upstream saw.
    pub async fn get(&mut self, host: &str, fields: &str) -> (u16, String) {
        self.try_get(host, fields).await.expect("an answer")
    }

    pub async fn try_get(&mut self, host: &str, fields: &str) -> Option<(u16, String)> {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n");
        within("an answer", async {
            self.0.write_all(request.as_bytes()).await.ok()?;
            let mut bytes = Vec::new();
            let head = loop {
                if let Some(head) = Head::parse(&bytes) {
                    break head;
                }
                self.0.read_buf(&mut bytes).await.ok().filter(|&read| read > 0)?;
            };
            let length = crate::harness::header(&head.headers, "content-length").expect("a length");
            let whole = head.bytes + length.parse::<usize>().expect("a length");
            while bytes.len() < whole {
                self.0.read_buf(&mut bytes).await.ok().filter(|&read| read > 0)?;
            }
            let status = head.first_line.split(' ').nth(1)?.parse().ok()?;
            Some((status, String::from_utf8_lossy(&bytes[head.bytes..]).into_owned()))
        })
        .await
    }
}

/// The first flight of a client, sent as `split` has it; the status of a request after that, or `None`.
pub async fn shake_hands_in_pieces(addr: SocketAddr, config: Arc<ClientConfig>, split: Split) -> Option<String> {
    let work = move || {
        let mut tls = ClientConnection::new(config, ServerName::try_from(PUBLIC).expect("a name")).expect("a client");
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).expect("writes");
        let mut tcp = std::net::TcpStream::connect(addr).expect("connects");
        tcp.set_nodelay(true).expect("a socket option");
        tcp.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
        for piece in split(&hello) {
            tcp.write_all(&piece).ok()?;
        }
        let mut stream = Stream::new(&mut tls, &mut tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: public.example\r\nconnection: close\r\n\r\n").ok()?;
        let mut line = [0; 12];
        stream.read_exact(&mut line).ok()?;
        Some(String::from_utf8_lossy(&line).into_owned())
    };
    within("a handshake in pieces", tokio::task::spawn_blocking(work)).await.expect("no panic")
}

/// A first flight in records of so many bytes.
fn records(hello: &[u8], bytes: usize) -> Vec<Vec<u8>> {
    let length = |piece: &[u8]| u16::try_from(piece.len()).expect("a length").to_be_bytes();
    let record = |piece: &[u8]| [&[22, 3, 1][..], &length(piece), piece].concat();
    hello[5..].chunks(bytes).map(record).collect()
}

/// The ways to cut a first flight.
pub fn pieces() -> [(&'static str, Split); 4] {
    [
        ("segments of a byte", |hello| hello.chunks(1).map(<[u8]>::to_vec).collect()),
        ("records of a byte", |hello| records(hello, 1)),
        ("records of a byte in one segment", |hello| vec![records(hello, 1).concat()]),
        ("records of 7 bytes, in segments of 3", |hello| {
            records(hello, 7).concat().chunks(3).map(<[u8]>::to_vec).collect()
        }),
    ]
}

#[tokio::test]
async fn a_hello_in_any_pieces_is_read_or_refused() {
    let house = House::start(|_| String::new()).await;
    for (what, split) in pieces() {
        let config = house.authority.client(None, "http/1.1");
        let answer = shake_hands_in_pieces(house.addr, config, split).await;
        println!("{what}: {answer:?}");
        assert!(matches!(answer.as_deref(), None | Some("HTTP/1.1 200")), "{what}: {answer:?}");
        if what == "segments of a byte" {
            assert!(answer.is_some(), "that is how the network may do it");
        }
        house.serves().await;
    }
    house.gateway.shutdown().await;
}

/// First flights that are too large, or none, and what is odd with them.
pub fn hellos() -> [(&'static str, Vec<u8>); 8] {
    // Says how long it is, and is so.
    let hello = |length: usize| {
        let body = vec![0; length];
        let length = u32::try_from(length).expect("a length").to_be_bytes();
        [&[0; 5][..], &[1], &length[1..], &body].concat()
    };
    [
        ("17 KiB", records(&hello(17 << 10), 16_000).concat()),
        ("60 KiB in small records", records(&hello(60 << 10), 100).concat()),
        ("200 KiB", records(&hello(200 << 10), 16_000).concat()),
        ("records of nothing", [22, 3, 1, 0, 0].repeat(10_000)),
        ("a record too large", [&[22, 3, 1, 0xff, 0xff][..], &[0; 1000]].concat()),
        ("alerts", [21, 3, 1, 0, 2, 1, 0].repeat(10_000)),
        ("plain text", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        ("HTTP/2 in the clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ]
}

#[tokio::test]
async fn a_hello_that_is_large_or_none_is_refused() {
    let house = House::start(|_| String::new()).await;
    for (what, bytes) in hellos() {
        let answer = crate::harness::raw(house.addr, &bytes).await;
        assert!(answer.len() < 100 && !answer.starts_with(b"HTTP"), "{what}: {answer:?}");
        // Who is not told was not refused: something broke.
        let told = answer.first() == Some(&21);
        println!("{what}: {told}");
        assert!(told || matches!(what, "200 KiB" | "alerts"), "{what}: no alert");
        house.serves().await;
    }
    assert_eq!(house.witness.requests().len(), 8, "no attack reached the upstream");
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn garbage_in_a_session_ends_it_with_an_alert() {
    let house = House::start(|_| String::new()).await;
    for protocol in ["http/1.1", "h2"] {
        let config = house.authority.client(None, protocol);
        let client = Tls::connect(house.addr, config, PUBLIC).await.expect("a handshake");
        let (mut tcp, _session) = client.0.into_inner();
        tcp.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).await.expect("sends");
        let mut answer = Vec::new();
        // What comes after the tickets is the alert, as a record of data is.
        let _ = within("an end", tcp.read_to_end(&mut answer)).await;
        assert!(!answer.is_empty(), "{protocol}");
        house.serves().await;
    }
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn versions_before_1_2_are_refused_with_an_alert() {
    let house = House::start(|_| String::new()).await;
    for version in [0, 1, 2] {
        // A session of no id, two suites, no compression.
        let tail = [&[0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0][..]].concat();
        let body = [&[3, version][..], &[7; 32], &tail].concat();
        let hello = [&[0; 5][..], &[1, 0, 0, u8::try_from(body.len()).expect("short")], &body].concat();
        let answer = crate::harness::raw(house.addr, &records(&hello, 1000).concat()).await;
        // Fatal, and about the version or what goes with it.
        assert!(matches!(answer[..], [21, 3, _, 0, 2, 2, 40 | 70, ..]), "3.{version}: {answer:?}");
    }
    house.serves().await;
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let house = House::start(|_| String::new()).await;
    let addr = house.addr;
    let silent = async {
        assert_eq!(Wire::connect(addr).await.end().await, End::Closed);
    };
    let half = async {
        let mut wire = Wire::connect(addr).await;
        wire.send([22, 3, 1, 1, 0, 1, 0, 0]).await;
        assert_ne!(wire.end().await, End::Reset);
    };
    let slow = async {
        let mut tcp = TcpStream::connect(addr).await.expect("connects");
        within("an end", async {
            while tcp.write_all(&[22, 3, 1, 0, 1, 1][..1]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    };
    tokio::join!(silent, half, slow, house.serves());
    let metrics = house.gateway.metrics(0).await;
    let timed_out = metrics.contains("rustygate_limit_hits_total{limit=\"tls_handshake_timeout\"} 2\n")
        || metrics.contains("rustygate_limit_hits_total{limit=\"tls_handshake_timeout\"} 3\n");
    assert!(timed_out, "{metrics}");
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn a_request_for_another_host_than_the_handshake_is_misdirected() {
    let house = House::start(|_| String::new()).await;
    let mut client = house.client(PUBLIC).await;
    // Each request is looked at, not the first alone.
    for (host, status) in
        [(PUBLIC, 200), (SECRET, 421), (PUBLIC, 200), ("SECRET.example.", 421), ("secret.example:443", 421)]
    {
        assert_eq!(client.get(host, "").await.0, status, "{host}");
    }
    assert_eq!(house.witness.requests().len(), 2);

    // The same by HTTP/2, where clients share a connection between hosts if they think they may.
    use crate::threats_http2::frames::{Attacker, Fate, frame, headers, literal};
    let tls = Tls::connect(house.addr, house.authority.client(None, "h2"), PUBLIC).await.expect("a handshake");
    let mut client = Attacker::over(tls.0, &frame(4, 0, 0, [])).await;
    for (host, status) in [(PUBLIC, 200), (SECRET, 421), (PUBLIC, 200)] {
        let stream = client.open();
        let fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", "/")];
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        client.send(headers(stream, true, block)).await;
        assert_eq!(client.fate(stream).await, Fate::Answered(status), "{host}");
    }
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn who_has_no_certificate_of_the_right_authority_stays_outside() {
    let house = House::start(|authority| format!(", client_auth: {{mode: required, ca: {}}}", authority.yaml())).await;
    let other = Authority::new();
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let cases: [(&str, Option<Certificate>, bool); 4] = [
        ("none", None, false),
        ("of another authority", Some(other.sign(&["client.example"])), false),
        ("expired", Some(house.authority.sign_with(&["client.example"], expired)), false),
        ("good", Some(house.authority.sign(&["client.example"])), true),
    ];
    for (what, shown, good) in cases {
        let config = house.authority.client(shown.as_ref(), "http/1.1");
        // With TLS 1.3 a client learns that it is refused when it reads.
        let answer = match Tls::connect(house.addr, config, PUBLIC).await {
            Ok(mut client) => client.try_get(PUBLIC, "").await,
            Err(_) => None,
        };
        assert_eq!(answer.map(|(status, _)| status), good.then_some(200), "{what}");
    }
    assert_eq!(house.witness.requests().len(), 1);
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn who_is_revoked_stays_outside_with_a_session_from_before_too() {
    let auth = |authority: &Authority, crl: &str| {
        format!(", client_auth: {{mode: required, ca: {}, crl: {crl}}}", authority.yaml())
    };
    let mut house = House::start(|authority| auth(authority, &authority.crl(&[2], 30))).await;
    let serial = |serial: u64| {
        move |params: &mut rcgen::CertificateParams| params.serial_number = Some(rcgen::SerialNumber::from(serial))
    };
    let config = |house: &House, number: u64| {
        let shown = house.authority.sign_with(&["client.example"], serial(number));
        house.authority.client(Some(&shown), "http/1.1")
    };
    let [good, revoked, later] = [1, 2, 3].map(|number| config(&house, number));
    let asks =
        async |house: &House, config: &Arc<ClientConfig>| match Tls::connect(house.addr, Arc::clone(config), PUBLIC)
            .await
        {
            Ok(mut client) => client.try_get(PUBLIC, "").await.map(|(status, _)| status),
            Err(_) => None,
        };
    assert_eq!(asks(&house, &good).await, Some(200));
    assert_eq!(asks(&house, &revoked).await, None);
    assert_eq!(asks(&house, &later).await, Some(200));
    // It has a ticket by now.
    let old = auth(&house.authority, "").replace("crl: }", "");
    let (before, after) = house.manifest.split_once(&old).expect("what is asked of clients");
    let rest = after.split_once('}').expect("its end").1;
    let with = |crl: &str| format!("{before}{}{rest}", auth(&house.authority, crl));
    let (newer, outdated) = (with(&house.authority.crl(&[2, 3], 30)), with(&house.authority.crl(&[2, 3], -1)));
    house.gateway.apply(&newer).await;
    assert_eq!(asks(&house, &good).await, Some(200));
    assert_eq!(asks(&house, &later).await, None);
    // Nobody knows who was revoked since.
    house.gateway.apply(&outdated).await;
    assert_eq!(asks(&house, &good).await, None);
    house.gateway.shutdown().await;
}

#[tokio::test]
async fn an_upstream_is_told_of_a_certificate_by_the_gateway_alone() {
    let house = House::start(|authority| format!(", client_auth: {{mode: optional, ca: {}}}", authority.yaml())).await;
    let forged = "X-Forwarded-Client-Cert: Subject=\"CN=admin\"\r\nx_forwarded_client_cert: DNS=admin.x\r\n\
                  X-Forwarded_Client-Cert: DNS=admin.x\r\nX.FORWARDED.CLIENT.CERT: DNS=admin.x\r\n";
    let (status, seen) = house.client(PUBLIC).await.get(PUBLIC, forged).await;
    assert_eq!(status, 200);
    let seen = seen.to_ascii_lowercase();
    assert!(!seen.contains("client") && !seen.contains("admin"), "{seen}");

    let names = ["admin.x\0.evil.y", "evil.y\0,DNS=admin.x", "a\"b", "good.y"];
    let shown = house.authority.sign(&names);
    let config = house.authority.client(Some(&shown), "http/1.1");
    let mut client = Tls::connect(house.addr, config, PUBLIC).await.expect("a handshake");
    let (status, seen) = client.get(PUBLIC, forged).await;
    assert_eq!(status, 200);
    let told: Vec<&str> = seen.lines().filter(|line| line.to_ascii_lowercase().contains("client")).collect();
    assert_eq!(told.len(), 1, "{seen}");
    assert!(told[0].starts_with("X-Forwarded-Client-Cert: Hash=") && told[0].contains("DNS=good.y"), "{told:?}");
    assert!(!seen.contains("admin") && !seen.contains("evil"), "{seen}");
    house.gateway.shutdown().await;
}
