//! Bodies that nobody reads, because the answer was there before them: they must not be read as the next request.
//! Pingora, CVE-2025-4366.

use super::arena::{Arena, SMUGGLED};
use crate::harness::{Client, End, Upstream, Witness, free_port};

const LOCAL: [u16; 6] = [204, 302, 401, 403, 429, 503];

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// "/local-403" is answered so without an upstream, and nobody is behind "/dead".
async fn arena(early: &str) -> Arena {
    let route = |status: &u16| {
        format!("- {{name: r{status}, path: /local-{status}, plugins: [p{status}], backend: \"http://127.0.0.1:1\"}}\n")
    };
    let plugin = |status: &u16| format!("- {{name: p{status}, type: respond, config: {{status: {status}}}}}\n");
    let routes: String = LOCAL.iter().map(route).collect();
    let plugins: String = LOCAL.iter().map(plugin).collect();
    let dead = format!("- {{name: dead, path: /dead, backend: \"http://127.0.0.1:{}\"}}\n", free_port());
    let early = format!("- {{name: early, path: /early, backend: \"{early}\"}}\n");
    Arena::before(Witness::echo().await, &format!("{routes}{dead}{early}plugins:\n{plugins}")).await
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_small_body_is_thrown_away() {
    let mut arena = arena("http://127.0.0.1:1").await;
    let mut cases: Vec<_> = LOCAL.iter().map(|status| (format!("/local-{status}"), *status)).collect();
    cases.push(("/dead".to_owned(), 502));
    for (path, status) in cases {
        let answers = arena.answers(&path, format!("{}{NEXT}", post(&path, SMUGGLED)).as_bytes()).await;
        let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [status, 200], "{path}");
        assert!(answers[1].text().starts_with("GET /next HTTP/1.1\r\n"), "{path}: {answers:?}");
        let seen = arena.seen(&path).await;
        assert!(seen.len() == 1 && seen[0].line() == "GET /next HTTP/1.1", "{path}: {seen:?}");
    }
    arena.end().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_thrown_away_costs_the_connection() {
    let mut arena = arena("http://127.0.0.1:1").await;
    let head = "POST /local-403 HTTP/1.1\r\nHost: a\r\n";
    let large = SMUGGLED.repeat(3000);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let unread = format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    let too_large = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n{SMUGGLED}");
    for (name, attack, status) in [
        ("large", post("/local-403", &large), 403),
        ("chunked", chunked, 403),
        ("waiting to be asked for", unread, 403),
        ("over the bound", too_large, 413),
    ] {
        arena.refuses(name, format!("{attack}{SMUGGLED}").as_bytes(), status).await;
    }
    arena.end().await;
}

#[tokio::test]
async fn an_upstream_that_answers_before_the_body_gets_no_other_request() {
    let upstream = Upstream::start().await;
    let mut arena = arena(&upstream.url()).await;
    let head = format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", SMUGGLED.len());
    for (status, goes_on) in [(200, true), (401, false), (500, false)] {
        let name = format!("{status} before the body");
        let mut client = Client::connect(arena.addr()).await;
        client.send(head.as_bytes()).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send(format!("HTTP/1.1 {status} Early\r\nContent-Length: 0\r\n\r\n")).await;
        let response = client.response(false).await;
        assert_eq!(response.status, status, "{name}");
        assert_eq!(response.header("connection").is_none(), goes_on, "{name}");
        client.send(format!("{SMUGGLED}{NEXT}").as_bytes()).await;
        let expected = if goes_on {
            assert!(client.response(false).await.text().starts_with("GET /next HTTP/1.1\r\n"), "{name}");
            vec!["GET /next HTTP/1.1".to_owned()]
        } else {
            Vec::new()
        };
        assert!(client.closes().await, "{name}");
        let seen: Vec<_> = arena.seen(&name).await.iter().map(|seen| seen.line()).collect();
        assert_eq!(seen, expected, "{name}");
        assert!(matches!(wire.end().await, End::Closed | End::Reset), "{name}: the connection is not kept");
        assert!(!String::from_utf8_lossy(&wire.buffer).contains("/next"), "{name}");
    }
    arena.end().await;
}
