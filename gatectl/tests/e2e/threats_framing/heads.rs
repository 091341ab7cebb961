//! Heads that two readers would take for messages of different lengths. None of them may reach an upstream.

use super::arena::{Arena, SMUGGLED};

/// A request with these fields; for whoever believes in an empty chunked body another one follows it.
fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}")
}

async fn refuses_each(cases: &[(&str, &str)]) {
    let mut arena = Arena::start().await;
    for (name, fields) in cases {
        arena.refuses(name, post(fields).as_bytes(), 400).await;
    }
    arena.end().await;
}

/// hyper, CVE-2021-21299.
#[tokio::test]
async fn a_transfer_coding_that_is_not_one_chunked() {
    refuses_each(&[
        ("chunked, then identity on a line of its own", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("identity, then chunked on a line of its own", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("chunked twice on lines of their own", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked, identity", "Transfer-Encoding: chunked, identity"),
        ("xchunked", "Transfer-Encoding: xchunked"),
        ("chunked with a tab after it", "Transfer-Encoding: chunked\t"),
        ("chunked listed twice", "Transfer-Encoding: Chunked , chunked"),
    ])
    .await;
}

/// hyper, CVE-2021-32715.
#[tokio::test]
async fn a_length_that_is_not_one_plain_number() {
    refuses_each(&[
        ("plus", "Content-Length: +3"),
        ("minus", "Content-Length: -0"),
        ("hexadecimal", "Content-Length: 0x3"),
        ("a list of two", "Content-Length: 3, 4"),
        ("a list of the same", "Content-Length: 3,3"),
        ("two numbers", "Content-Length: 3 3"),
        ("two different lines", "Content-Length: 3\r\nContent-Length: 4"),
        ("the same line twice", "Content-Length: 3\r\nContent-Length: 3"),
        ("20 digits", "Content-Length: 10000000000000000003"),
    ])
    .await;
}

/// HAProxy, CVE-2023-40225.
#[tokio::test]
async fn an_empty_length() {
    refuses_each(&[
        ("empty, then 30", "Content-Length:\r\nContent-Length: 30"),
        ("30, then empty", "Content-Length: 30\r\nContent-Length:"),
        ("a comma", "Content-Length: ,"),
        ("empty", "Content-Length:"),
    ])
    .await;
}

/// hyper before 1.11.0.
#[tokio::test]
async fn a_length_beside_a_transfer_coding() {
    refuses_each(&[
        ("length first", "Content-Length: 6\r\nTransfer-Encoding: chunked"),
        ("coding first", "Transfer-Encoding: chunked\r\nContent-Length: 6"),
        ("a length of 0", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
    ])
    .await;
}

/// HAProxy, CVE-2023-25725.
#[tokio::test]
async fn an_empty_field_name() {
    refuses_each(&[
        ("before a length", ": value\r\nContent-Length: 30"),
        ("after a length", "Content-Length: 30\r\n: value"),
        ("without a value", ":\r\nContent-Length: 30"),
        ("spaces for a name", " : value\r\nContent-Length: 30"),
    ])
    .await;
}

/// Pingora, CVE-2026-2835: a request's body never ends with the connection.
#[tokio::test]
async fn a_body_in_http_1_0_that_has_no_length() {
    let mut arena = Arena::start().await;
    let chunked = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
    for (name, connection) in [("chunked", ""), ("chunked, kept alive", "Connection: keep-alive\r\n")] {
        let attack = format!("{chunked}{connection}\r\n0\r\n\r\n{SMUGGLED}");
        arena.refuses(name, attack.as_bytes(), 400).await;
    }
    for method in ["POST", "PUT", "PATCH"] {
        for connection in ["", "Connection: keep-alive\r\n"] {
            let attack = format!("{method} / HTTP/1.0\r\nHost: a\r\n{connection}\r\n{SMUGGLED}");
            let name = format!("{method} without a length, {connection:?}");
            arena.refuses(&name, attack.as_bytes(), 400).await;
            arena.refuses_half_closed(&name, attack.as_bytes(), 400).await;
        }
    }
    arena.end().await;
}
