//! A client nominates as hop-by-hop what the gateway or the upstream relies on. Traefik, CVE-2024-45410.

use super::arena::Arena;
use crate::harness::{Client, HANDSHAKE, Reply, Seen, Witness, answer, header};

const PLUGIN: &str = "plugins:
- {name: user, type: headers, config: {request: {set: {x-user: gateway}}}}
";

const NOMINATED: &str = "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Real-Ip, X-User, Authorization, Cookie, \
                         Content-Length, Transfer-Encoding, Content-Type, Host";

const FORGED: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Real-Ip: 6.6.6.6\r\n\
                      X-User: root\r\nAuthorization: Basic YTpi\r\nCookie: a=b\r\nContent-Type: text/plain\r\n";

/// The fields that the gateway vouches for, and those that the client may not take from the upstream.
fn assert_whole(name: &str, seen: &Seen) {
    let headers = seen.headers();
    for (field, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a"),
        ("x-user", "gateway"),
        ("host", "a"),
        ("authorization", "Basic YTpi"),
        ("cookie", "a=b"),
        ("content-type", "text/plain"),
    ] {
        let values: Vec<_> = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(field)).collect();
        assert!(values.len() == 1 && values[0].1 == value, "{name}: {field} is {values:?}");
    }
    assert_eq!(header(&headers, "x-real-ip"), None, "{name}");
}

#[tokio::test]
async fn what_the_gateway_says_and_what_the_upstream_needs_arrive_all_the_same() {
    let witness = Witness::start(|seen| match seen.header("upgrade") {
        Some(_) => Reply::Upgrade(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        ),
        None => Reply::Send(answer(&seen.bytes)),
    })
    .await;
    let guarded = format!("- {{name: user, path: /user, plugins: [user], backend: \"{}\"}}\n{PLUGIN}", witness.url());
    let mut arena = Arena::before(witness, &guarded).await;
    let upgrade = HANDSHAKE.replace("Connection: Upgrade\r\n", "");
    for (name, line, connection, fields, body, status) in [
        ("plain", "GET /user HTTP/1.1", "close", "", "", 200),
        ("with a length", "POST /user HTTP/1.1", "keep-alive", "Content-Length: 3\r\n", "abc", 200),
        ("chunked", "POST /user HTTP/1.1", "close", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", 200),
        ("upgrade", "GET /user HTTP/1.1", "Upgrade", &upgrade, "", 101),
    ] {
        let mut client = Client::connect(arena.addr()).await;
        let head = format!("{line}\r\nHost: a\r\nConnection: {connection}, {NOMINATED}\r\n{FORGED}{fields}\r\n{body}");
        client.send(head.as_bytes()).await;
        assert_eq!(client.response(false).await.status, status, "{name}");
        let seen = arena.seen(name).await;
        let [request] = &seen[..] else { panic!("{name}: {seen:?}") };
        assert_whole(name, request);
        assert_eq!(request.body(), if body.is_empty() { b"" } else { &b"abc"[..] }, "{name}");
    }
    arena.end().await;
}
