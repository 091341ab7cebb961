//! Handshakes that come to nothing, and those that share a connection.

use h2::Reason;

use super::socket::{Asking, Offer, Service, Speaks, WAYS, open};
use crate::harness::{AGREES, Client, HANDSHAKE, Http2, Peer, Witness, answered, reply, with_gateway, within};

const TIMEOUTS: &str = "{total: 5s, idle: 60s}";

#[tokio::test]
async fn a_refusal_reaches_the_client_with_its_status_fields_and_body() {
    for (client_speaks, upstream_speaks) in WAYS {
        eprintln!("{client_speaks:?} to {upstream_speaks:?}");
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
            for status in [403, 404] {
                let asking = Asking::ask(gateway, client_speaks, b"").await;
                match service.offer().await {
                    Offer::Http1(mut wire, _) => {
                        wire.send(format!("HTTP/1.1 {status} No\r\nx-why: full\r\ncontent-length: 7\r\n\r\nno room"))
                            .await;
                    }
                    Offer::Http2(mut asked) => {
                        let head = reply(status, &[("x-why", "full")]);
                        let mut body = asked.respond.send_response(head, false).expect("sends");
                        body.send_data("no room".into(), true).expect("sends");
                    }
                }
                if client_speaks == Speaks::Http1 && upstream_speaks == Speaks::Http2 {
                    // Of unknown length: in chunks.
                    let Asking::Http1(mut wire) = asking else { unreachable!("it speaks HTTP/1.1") };
                    let head = wire.until("\r\n\r\n").await;
                    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains("x-why: full"), "{head}");
                    assert!(wire.until("0\r\n\r\n").await.contains("no room"));
                    continue;
                }
                assert_eq!(asking.refused("x-why").await, (status, Some("full".to_owned()), "no room".to_owned()));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_handshake_without_version_or_key_is_refused_here() {
    let upstream = Witness::saying("served").await;
    let manifest = format!("routes: [{{name: all, path: /, backend: \"{}\"}}]", upstream.url());
    with_gateway(&manifest, async |gateway| {
        let good = format!("GET / HTTP/1.1\r\nhost: a\r\n{HANDSHAKE}\r\n");
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let version = "Sec-WebSocket-Version: 13\r\n";
        for (what, request) in [
            ("no key", good.replace(key, "")),
            ("a short key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=")),
            ("two keys", good.replace(key, &key.repeat(2))),
            ("a nominated key", good.replace("Connection: Upgrade", "Connection: Upgrade, Sec-WebSocket-Key")),
            ("no version", good.replace(version, "")),
            ("an old version", good.replace("13", "8")),
            ("two versions", good.replace(version, &version.repeat(2))),
        ] {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(request.as_bytes()).await;
            let response = client.response(false).await;
            assert_eq!(response.status, 400, "{what}");
            assert!(response.text().contains("bad_websocket"), "{what}: {response:?}");
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(response.header("connection"), Some("close"), "{what}: nobody knows what follows");
            assert!(client.closes().await, "{what}");
        }
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for versions in [&[][..], &["8"], &["13", "13"]] {
            let fields: Vec<_> = versions.iter().map(|version| ("sec-websocket-version", *version)).collect();
            let (response, _up) = client.open(client.websocket("/", &fields), false).await;
            let answer = within("an answer", answered(response)).await.expect("an answer");
            assert_eq!((answer.status, answer.header("sec-websocket-version")), (400, Some("13")), "{versions:?}");
            assert!(answer.text().contains("bad_websocket"), "{versions:?}: {answer:?}");
        }
        assert_eq!(client.get("/").await.text(), "served", "the connection goes on");
        assert_eq!(upstream.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_prove_that_it_read_the_key_is_not_believed() {
    let mut service = Service::start(Speaks::Http1).await;
    with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
        let wrong = AGREES.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let none = AGREES.replace("Sec-WebSocket-Accept", "X-Accept");
        for agrees in [wrong, none] {
            // A client that speaks HTTP/2 has no key, so nobody but the gateway can look.
            let asking = Asking::ask(gateway, Speaks::Http2, b"").await;
            let Offer::Http1(mut wire, _) = service.offer().await else { unreachable!("it speaks HTTP/1.1") };
            wire.send(agrees).await;
            let (status, _, body) = asking.refused("x").await;
            assert!(status == 502 && body.contains("upstream_protocol"), "{status} {body}");
            wire.end().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_takes_none_over_http_2_is_not_asked() {
    let mut peer = Peer::start().await;
    let manifest = format!(
        "backends: [{{name: service, protocol: h2c, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: all, path: /, backend: service}}]\n",
        peer.url()
    );
    with_gateway(&manifest, async |gateway| {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let (status, _, body) = Asking::ask(gateway, speaks, b"").await.refused("x").await;
            assert!(status == 502 && body.contains("upstream_without_websocket"), "{status} {body}");
        }
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        let (response, _) = client.open(client.head("GET", "/plain", &[]), true).await;
        let asked = peer.next().await;
        assert_eq!(asked.request.uri().path(), "/plain", "the first that the upstream sees");
        asked.say(200, "fine");
        assert_eq!(within("an answer", answered(response)).await.expect("an answer").status, 200);
    })
    .await;
}

#[tokio::test]
async fn over_http_2_they_share_a_connection_with_each_other_and_with_requests() {
    let mut service = Service::start(Speaks::Http2).await;
    let manifest = service.manifest(TIMEOUTS);
    // One worker: connections are shared within one.
    let builder = crate::harness::Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&manifest).start().await;
    let (mut first, mut at_first) = open(&gateway, Speaks::Http2, &mut service).await;
    let (mut second, mut at_second) = open(&gateway, Speaks::Http1, &mut service).await;
    let Service::Http2(peer) = &mut service else { unreachable!("it speaks HTTP/2") };
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    let (response, _) = client.open(client.head("GET", "/", &[]), true).await;
    peer.next().await.say(200, "between them");
    assert_eq!(within("an answer", answered(response)).await.expect("an answer").text(), "between them");
    assert_eq!(peer.connections(), 1);
    // The end of one is not the others'.
    first.send("one").await;
    assert_eq!(at_first.exactly(3).await, b"one");
    first.reset();
    at_first.end().await;
    second.send("two").await;
    assert_eq!(at_second.exactly(3).await, b"two");
    drop((second, at_second));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_missed_by_the_upstream() {
    for (client_speaks, upstream_speaks) in WAYS {
        let mut service = Service::start(upstream_speaks).await;
        with_gateway(&service.manifest(TIMEOUTS), async |gateway| {
            let asking = Asking::ask(gateway, client_speaks, b"").await;
            let offer = service.offer().await;
            match asking {
                Asking::Http1(wire) => drop(wire),
                Asking::Http2(_client, _response, mut up) => up.send_reset(Reason::CANCEL),
            }
            match offer {
                Offer::Http1(mut wire, _) => drop(wire.end().await),
                Offer::Http2(mut asked) => assert_eq!(asked.given_up().await, Reason::CANCEL),
            }
        })
        .await;
    }
}
