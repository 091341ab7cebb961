//! Certificates of clients, and what an upstream is told of them.

use super::{Gate, HOST};
use crate::harness::{Authority, Client, Gateway, Pair, Tls, Upstream, Witness, answer, answered, within};

/// What a client gets: a status, or nothing at all.
async fn ask(gate: &Gate, tls: &Tls, protocol: &str) -> Option<u16> {
    let stream = gate.connect(tls, protocol).await.ok()?;
    // With TLS 1.3 a client learns that it is refused when it reads.
    match protocol {
        "h2" => {
            let builder = h2::client::Builder::new();
            let (mut send, driver) = within("HTTP/2", builder.handshake::<_, bytes::Bytes>(stream)).await.ok()?;
            tokio::spawn(driver);
            let request = http::Request::get(format!("https://{HOST}/")).body(()).expect("a request");
            let (response, _) = send.send_request(request, true).ok()?;
            within("an answer", response).await.ok().map(|response| response.status().as_u16())
        }
        _ => {
            let mut client = Client::over(stream).host(HOST);
            client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await;
            within("an answer", client.try_response(false)).await.map(|response| response.status)
        }
    }
}

fn with(gate: &Gate, shown: Option<&Pair>) -> Tls {
    Tls::with(&gate.authority, shown, rustls::ALL_VERSIONS)
}

fn client_auth(mode: &str, authority: &Authority) -> String {
    format!(", client_auth: {{mode: {mode}, ca: {}}}", serde_json::to_string(&authority.pem).expect("a string"))
}

/// What a client may try to pass for somebody else.
const FORGED: [(&str, &str); 3] = [
    ("x-forwarded-client-cert", "Subject=\"CN=admin\";DNS=admin.example"),
    ("x_forwarded_client_cert", "DNS=admin.example"),
    ("x-forwarded-for", "10.0.0.1"),
];

#[tokio::test]
async fn an_identity_is_told_by_the_gateway_alone_in_either_protocol() {
    let upstream = Witness::saying("here").await;
    let gate = Gate::before(&upstream.url());
    let certificate = gate.authority.sign(&[HOST]).manifest("web");
    let clients = Authority::new();
    let known = clients.sign(&["alice.example"]);
    let manifest = |mode: &str| gate.manifest(&certificate, &client_auth(mode, &clients));
    let mut gateway = Gateway::builder().manifest(&manifest("required")).start().await;
    for mode in ["required", "optional"] {
        gateway.apply(&manifest(mode)).await;
        for shown in [Some(&known), None] {
            for protocol in ["http/1.1", "h2"] {
                let what = format!("{mode}, certificate: {}, {protocol}", shown.is_some());
                let tls = with(&gate, shown);
                let expected = (mode == "optional" || shown.is_some()).then_some(200);
                // The second is a session that is taken up again, which shows no certificate anew.
                for _ in 0..2 {
                    assert_eq!(ask(&gate, &tls, protocol).await, expected, "{what}");
                }
                if expected.is_none() {
                    continue;
                }
                let before = upstream.requests().len();
                match protocol {
                    "h2" => assert_eq!(gate.http2(&tls).await.request("GET", "/", &FORGED, b"").await.status, 200),
                    _ => assert_eq!(gate.http1(&tls).await.get_with("/", &FORGED).await.status, 200),
                }
                let seen = upstream.requests().split_off(before);
                assert_eq!(seen.len(), 1, "{what}");
                let told: Vec<_> =
                    seen[0].headers().into_iter().filter(|(_, value)| value.contains("example")).collect();
                let told: Vec<_> = told.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("cert")).collect();
                assert_eq!(told.len(), usize::from(shown.is_some()), "{what}: {told:?}");
                for (_, value) in told {
                    assert!(value.starts_with("Hash=") && value.ends_with("DNS=alice.example"), "{what}: {value}");
                }
                assert_eq!(seen[0].header("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{what}");
            }
        }
        for protocol in ["http/1.1", "h2"] {
            let stranger = Authority::new().sign(&["alice.example"]);
            assert_eq!(ask(&gate, &with(&gate, Some(&stranger)), protocol).await, None, "{mode}, {protocol}");
        }
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_authority_that_is_taken_back_opens_nothing_any_more() {
    let upstream = Witness::saying("here").await;
    for mode in ["required", "optional"] {
        let gate = Gate::before(&upstream.url());
        let certificate = gate.authority.sign(&[HOST]).manifest("web");
        let (old, new) = (Authority::new(), Authority::new());
        let manifest = |authority| gate.manifest(&certificate, &client_auth(mode, authority));
        let mut gateway = Gateway::builder().manifest(&manifest(&old)).start().await;
        let (before, after) =
            (with(&gate, Some(&old.sign(&["a.example"]))), with(&gate, Some(&new.sign(&["b.example"]))));
        for protocol in ["http/1.1", "h2"] {
            assert_eq!(ask(&gate, &before, protocol).await, Some(200));
            assert_eq!(ask(&gate, &after, protocol).await, None);
        }
        let (mut open1, mut open2) = (gate.http1(&before).await, gate.http2(&before).await);
        assert_eq!((open1.get("/").await.status, open2.get("/").await.status), (200, 200));
        gateway.apply(&manifest(&new)).await;
        let served = upstream.requests().len();
        for protocol in ["http/1.1", "h2"] {
            // Neither by a handshake, nor by a session from before.
            assert_eq!(ask(&gate, &before, protocol).await, None, "{mode}, {protocol}");
            assert_eq!(ask(&gate, &before.clone().forgetful(), protocol).await, None, "{mode}, {protocol}");
        }
        // Nor by a connection that is open: it ends.
        assert!(open1.closes().await, "{mode}");
        let ended = within("the end of the connection", &mut open2.driver).await.expect("no panic");
        // Its own farewell may come too late for anybody to read.
        assert!(ended.as_ref().map_or_else(h2::Error::is_io, |()| true), "{mode}: in order: {ended:?}");
        assert_eq!(upstream.requests().len(), served, "{mode}");
        for protocol in ["http/1.1", "h2"] {
            assert_eq!(ask(&gate, &after, protocol).await, Some(200), "{mode}, {protocol}");
        }
        gateway.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_under_way_when_an_authority_is_taken_back_is_finished_and_nothing_behind_it() {
    let upstream = Upstream::start().await;
    let gate = Gate::before(&upstream.url());
    let certificate = gate.authority.sign(&[HOST]).manifest("web");
    let (old, new) = (Authority::new(), Authority::new());
    let manifest = |authority| gate.manifest(&certificate, &client_auth("required", authority));
    let mut gateway = Gateway::builder().manifest(&manifest(&old)).start().await;
    let tls = with(&gate, Some(&old.sign(&["a.example"])));
    let mut client = gate.http1(&tls).await;
    // Two at once: the second waits until the first has its answer.
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.send(request.repeat(2).as_bytes()).await;
    let mut wire1 = upstream.accept().await;
    wire1.head().await;
    let mut streams = gate.http2(&tls).await;
    let (response, _) = streams.open(streams.head("GET", "/", &[]), true).await;
    let mut wire2 = upstream.accept().await;
    wire2.head().await;
    gateway.apply(&manifest(&new)).await;
    wire1.send(answer("one")).await;
    wire2.send(answer("two")).await;
    assert_eq!(client.response(false).await.text(), "one");
    assert_eq!(within("an answer", answered(response)).await.expect("an answer").text(), "two");
    let refused = client.response(false).await;
    assert!(refused.status == 421 && refused.text().contains("misdirected"), "{refused:?}");
    assert!(client.closes().await);
    within("the end of the connection", &mut streams.driver).await.expect("no panic").ok();
    assert!(wire1.is_quiet().await && wire2.is_quiet().await, "the upstream heard of no other request");
    drop((wire1, wire2));
    // A change of other things costs no connection.
    let mut client = gate.http1(&with(&gate, Some(&new.sign(&["b.example"])))).await;
    for alpn in ["[h2, http/1.1]", "[http/1.1]"] {
        let terms = client_auth("required", &new) + &format!(", alpn: {alpn}");
        gateway.apply(&gate.manifest(&gate.authority.sign(&[HOST]).manifest("web"), &terms)).await;
        client.send(request.as_bytes()).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(client.response(false).await.text(), "ok", "{alpn}");
    }
    gateway.shutdown().await;
}
