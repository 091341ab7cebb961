//! Heads that some readers repair, each in its own way, and some take at their word.

use super::arena::{Arena, SMUGGLED};
use crate::harness::header;

async fn refuses_each(cases: &[(&str, &str)]) {
    refuses_each_with(400, cases).await;
}

async fn refuses_each_with(status: u16, cases: &[(&str, &str)]) {
    let mut arena = Arena::start().await;
    for (name, head) in cases {
        arena.refuses(name, format!("{head}\r\n\r\n{SMUGGLED}").as_bytes(), status).await;
    }
    arena.end().await;
}

#[tokio::test]
async fn a_request_line_with_other_spaces_than_two() {
    refuses_each(&[
        ("tab for the first", "GET\t/ HTTP/1.1\r\nHost: a"),
        ("tab for the second", "GET /\tHTTP/1.1\r\nHost: a"),
        ("tab behind", "GET / HTTP/1.1\t\r\nHost: a"),
        ("tab before", "\tGET / HTTP/1.1\r\nHost: a"),
        ("space before", " GET / HTTP/1.1\r\nHost: a"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: a"),
        ("vertical tab", "GET\x0b/ HTTP/1.1\r\nHost: a"),
        ("form feed", "GET /\x0cHTTP/1.1\r\nHost: a"),
        ("carriage return", "GET /\rHTTP/1.1\r\nHost: a"),
        ("tab within the target", "GET /a\tb HTTP/1.1\r\nHost: a"),
        ("two versions", "GET / HTTP/1.0 HTTP/1.1\r\nHost: a"),
        ("no version", "GET /\r\nHost: a"),
        ("a method that is no token", "GE(T / HTTP/1.1\r\nHost: a"),
    ])
    .await;
}

/// What follows the second space is the version, whatever it is.
#[tokio::test]
async fn a_version_that_is_none() {
    refuses_each_with(
        505,
        &[
            ("a space within the target", "GET /a b HTTP/1.1\r\nHost: a"),
            ("lower case", "GET / http/1.1\r\nHost: a"),
            ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a"),
            ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a"),
        ],
    )
    .await;
}

#[tokio::test]
async fn framing_fields_in_disguise() {
    refuses_each(&[
        ("space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked"),
        ("tab before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 30"),
        ("space before the name", "POST / HTTP/1.1\r\n Content-Length: 30\r\nHost: a"),
        ("folded", "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 30"),
        ("a folded value", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked"),
        ("behind CR", "POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 30"),
        ("behind LF", "POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 30"),
        ("behind CR CR", "POST / HTTP/1.1\r\nHost: a\r\r\nContent-Length: 30"),
        ("NUL in the name", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\0: 30"),
        ("NUL in the value", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\0"),
        ("vertical tab before the value", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked"),
        ("a byte outside ASCII in the name", "POST / HTTP/1.1\r\nHost: a\r\nContent-L\u{e9}ngth: 30"),
        ("quoted", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\""),
        ("with a parameter", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1"),
    ])
    .await;
}

#[tokio::test]
async fn a_host_that_is_more_than_a_host() {
    refuses_each(&[
        ("user", "GET http://root@a/ HTTP/1.1\r\nHost: a"),
        ("user and password", "GET http://root:x@a/ HTTP/1.1\r\nHost: a"),
        ("empty user", "GET http://@a/ HTTP/1.1\r\nHost: a"),
        ("user that looks like the host", "GET http://a:80@b/ HTTP/1.1\r\nHost: a:80"),
        ("user in the field", "GET / HTTP/1.1\r\nHost: root@a"),
        ("path in the field", "GET / HTTP/1.1\r\nHost: a/smuggled"),
        ("query in the field", "GET / HTTP/1.1\r\nHost: a?b"),
        ("fragment in the field", "GET / HTTP/1.1\r\nHost: a#b"),
        ("backslash in the field", "GET / HTTP/1.1\r\nHost: a\\b"),
        ("scheme in the field", "GET / HTTP/1.1\r\nHost: http://a"),
        ("comma", "GET / HTTP/1.1\r\nHost: a,b"),
        ("a list of the same", "GET / HTTP/1.1\r\nHost: a, a"),
        ("tab", "GET / HTTP/1.1\r\nHost: a\tb"),
        ("two that differ", "GET / HTTP/1.1\r\nHost: a\r\nHost: b"),
        ("two of which one is empty", "GET / HTTP/1.1\r\nHost: a\r\nHost:"),
        ("two beside an absolute target", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a"),
        ("port that is none", "GET / HTTP/1.1\r\nHost: a:x"),
        ("two ports", "GET / HTTP/1.1\r\nHost: a:80:81"),
        ("brackets around a name", "GET / HTTP/1.1\r\nHost: [a]"),
        ("percent", "GET / HTTP/1.1\r\nHost: a%2eb"),
    ])
    .await;
}

/// Servers behind a CGI interface read `_` as `-`.
#[tokio::test]
async fn framing_fields_with_underscores_end_here() {
    let mut arena = Arena::start().await;
    let body = "0\r\n\r\n";
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for alias in [
        "Transfer_Encoding: chunked",
        "TRANSFER_ENCODING: chunked",
        "Content_Length: 30",
        "content_length: 0",
        "Content_Length: 30\r\nTransfer_Encoding: chunked",
    ] {
        let answers = arena.answers(alias, format!("{head}{alias}\r\n\r\n{body}{SMUGGLED}").as_bytes()).await;
        assert_eq!(answers.len(), 1, "{alias}: {answers:?}");
        let seen = arena.seen(alias).await;
        let [request] = &seen[..] else { panic!("{alias}: {seen:?}") };
        assert_eq!(request.body(), body.as_bytes(), "{alias}");
        assert!(!request.headers().iter().any(|(name, _)| name.contains('_')), "{alias}: {request:?}");
    }
    arena.end().await;
}

/// HAProxy, CVE-2021-40346: the length of a name wrapped around, and what was left of it was a second length.
#[tokio::test]
async fn a_long_name_is_itself() {
    let mut arena = Arena::start().await;
    for (bytes, begin) in [(270, "content-length0"), (300, "content-length0"), (65_000, "transfer-encoding0")] {
        let name = format!("{begin}{}", "a".repeat(bytes - begin.len()));
        let fields = format!("{name}:\r\nContent-Length: {}\r\nConnection: close", SMUGGLED.len());
        let attack = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{SMUGGLED}{SMUGGLED}");
        let answers = arena.answers(&name[..20], attack.as_bytes()).await;
        assert_eq!(answers.len(), 1, "{bytes}: {answers:?}");
        let seen = arena.seen(&name[..20]).await;
        let [request] = &seen[..] else { panic!("{bytes}: {seen:?}") };
        assert_eq!(request.body(), SMUGGLED.as_bytes(), "{bytes}");
        assert_eq!(header(&request.headers(), &name), Some(""), "{bytes}");
    }
    arena.end().await;
}
