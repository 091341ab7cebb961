//! Bytes that a client sends right behind a head, in the hope that they go up before anybody has looked at them. Pingora
//! CVE-2026-2833, Envoy CVE-2026-73548 and CVE-2025-64763, nghttpx CVE-2026-58055.

use super::arena::{Arena, SMUGGLED};
use crate::harness::{Client, HANDSHAKE, Reply, Witness, answer};

const POLICY: &str = "- {name: admin, path: /admin, plugins: [closed], backend: \"http://127.0.0.1:1\"}
plugins:
- {name: closed, type: respond, config: {status: 403, body: closed}}
";

const ADMIN: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

/// "/says-403" is answered so; everything else with what was asked.
async fn arena() -> Arena {
    let witness = Witness::start(|seen| match seen.line().split(['-', ' ']).nth(2) {
        Some(status) if seen.line().contains("says") => {
            Reply::Send(format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno").into_bytes())
        }
        _ => Reply::Send(answer(&seen.bytes)),
    })
    .await;
    Arena::before(witness, POLICY).await
}

#[tokio::test]
async fn behind_an_upgrade_that_is_not_granted_are_new_requests_under_the_same_policy() {
    let mut arena = arena().await;
    for (status, upgrade) in
        [200, 403, 426, 500].into_iter().flat_map(|status| [(status, "websocket"), (status, "foo"), (status, "h2c")])
    {
        let name = format!("{upgrade} answered with {status}");
        let mut client = Client::connect(arena.addr()).await;
        let asked =
            format!("GET /says-{status} HTTP/1.1\r\nHost: a\r\n{}\r\n", HANDSHAKE.replace("websocket", upgrade));
        client.send(format!("{asked}{ADMIN}{SMUGGLED}").as_bytes()).await;
        assert_eq!(client.response(false).await.status, status, "{name}");
        assert_eq!(client.response(false).await.status, 403, "{name}: the policy of /admin");
        let last = client.response(false).await;
        assert!(last.text().starts_with("GET /smuggled HTTP/1.1\r\n"), "{name}: {last:?}");
        let (seen, canary) = arena.seen_and_canary(&name).await;
        let [first, second, _] = &seen[..] else { panic!("{name}: {seen:?}") };
        assert_eq!(first.line(), format!("GET /says-{status} HTTP/1.1"), "{name}");
        assert_eq!(second.line(), "GET /smuggled HTTP/1.1", "{name}");
        assert_eq!(second.header("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{name}: a request of its own");
        if upgrade == "websocket" {
            assert_eq!(arena.witness.connections()[first.connection], first.bytes, "{name}: its connection is used up");
            assert_ne!(first.connection, canary, "{name}");
        } else {
            assert_eq!(first.header("upgrade"), None, "{name}: only a WebSocket is asked for");
        }
    }
    arena.end().await;
}

#[tokio::test]
async fn that_are_the_body_of_an_upgrade_stay_its_body() {
    let mut arena = arena().await;
    for upgrade in ["websocket", "foo"] {
        let mut client = Client::connect(arena.addr()).await;
        let fields = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: {}", ADMIN.len());
        let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{ADMIN}{next}").as_bytes()).await;
        assert!(client.response(false).await.text().ends_with(ADMIN), "{upgrade}");
        assert!(client.response(false).await.text().starts_with("GET /next "), "{upgrade}");
        let seen = arena.seen(upgrade).await;
        assert_eq!(seen.len(), 2, "{upgrade}: {seen:?}");
        assert_eq!(seen[0].body(), ADMIN.as_bytes(), "{upgrade}");
        assert_eq!(seen[0].header("upgrade"), None, "{upgrade}");
    }
    arena.end().await;
}

#[tokio::test]
async fn behind_a_connect_are_nobodys() {
    let mut arena = arena().await;
    for (name, target, fields) in [
        ("authority", "a:1", ""),
        ("path", "/", ""),
        ("absolute", "http://a:1/", ""),
        ("with a length", "a:1", "Content-Length: 5\r\n"),
        ("with an upgrade", "a:1", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ] {
        let attack = format!("CONNECT {target} HTTP/1.1\r\nHost: a:1\r\n{fields}\r\n{SMUGGLED}");
        arena.refuses(name, attack.as_bytes(), 405).await;
    }
    arena.end().await;
}

/// Who said that it closes after this answer gives none to what follows.
#[tokio::test]
async fn behind_the_last_request_of_a_connection_are_nobodys() {
    let mut arena = arena().await;
    for (name, request) in [
        ("close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ("close among others", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-y , Close\r\n\r\n"),
        ("HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
    ] {
        let answers = arena.answers(name, format!("{request}{SMUGGLED}").as_bytes()).await;
        assert_eq!(answers.len(), 1, "{name}: {answers:?}");
        assert!(answers[0].text().starts_with("GET / HTTP/1.1\r\n"), "{name}: {answers:?}");
        assert_eq!(arena.seen(name).await.len(), 1, "{name}");
    }
    arena.end().await;
}
