//! Chunked bodies that two readers would end at different places. The gateway reads them as they come, so the head may be
//! with the upstream already; the end of the request must not follow.

use super::arena::{Arena, SMUGGLED};

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}")
}

async fn cuts_each(cases: &[(&str, &str)]) {
    let mut arena = Arena::start().await;
    for (name, body) in cases {
        arena.cuts(name, chunked(body).as_bytes()).await;
    }
    arena.end().await;
}

/// hyper, CVE-2021-32714.
#[tokio::test]
async fn a_chunk_size_beyond_64_bits() {
    cuts_each(&[
        ("17 digits", "f0000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("17 digits with leading zeros", "00000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("64 digits with leading zeros", &format!("{:064}\r\nabc\r\n0\r\n\r\n", 3)),
        ("a last chunk of 17 zeros", "00000000000000000\r\n\r\n"),
        ("17 digits after a good chunk", "3\r\nabc\r\nf0000000000000003\r\nabc\r\n0\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn a_chunk_line_without_its_crlf() {
    cuts_each(&[
        ("LF after the size", "3\nabc\r\n0\r\n\r\n"),
        ("CR after the size", "3\rabc\r\n0\r\n\r\n"),
        ("LF after the data", "3\r\nabc\n0\r\n\r\n"),
        ("CR after the data", "3\r\nabc\r0\r\n\r\n"),
        ("LF after the last chunk", "0\n\r\n"),
        ("CR after the last chunk", "0\r\r\n"),
        ("LF for the empty line", "0\r\n\n"),
        ("LF within an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("CR within an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
        ("data longer than its chunk", "3\r\nabcd\r\n0\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn chunk_extensions_without_end() {
    let one = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(17));
    let last = format!("0;{}\r\n\r\n", "x".repeat(17 << 10));
    cuts_each(&[("1 MiB on one chunk", &one), ("17 KiB on all chunks", &many), ("17 KiB on the last chunk", &last)])
        .await;
}

/// Integer parsers of many languages take these.
#[tokio::test]
async fn a_chunk_size_that_is_not_plain_hexadecimal() {
    cuts_each(&[
        ("0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("plus", "+3\r\nabc\r\n0\r\n\r\n"),
        ("minus", "-3\r\nabc\r\n0\r\n\r\n"),
        ("underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("space before", " 3\r\nabc\r\n0\r\n\r\n"),
        ("space after", "3 \r\nabc\r\n0\r\n\r\n"),
        ("space within", "0 3\r\nabc\r\n0\r\n\r\n"),
        ("tab before", "\t3\r\nabc\r\n0\r\n\r\n"),
        ("comma", "3,3\r\nabc\r\n0\r\n\r\n"),
        ("h", "3h\r\nabc\r\n0\r\n\r\n"),
        ("nothing", "\r\nabc\r\n0\r\n\r\n"),
        ("nothing but an extension", ";a=b\r\nabc\r\n0\r\n\r\n"),
        ("NUL", "3\0\r\nabc\r\n0\r\n\r\n"),
    ])
    .await;
}

/// A request line where the trailers should be is no trailer; neither is a folded line.
#[tokio::test]
async fn trailers_that_are_none() {
    cuts_each(&[
        ("a request at once", "0\r\n"),
        ("a folded line", "0\r\nA: b\r\n c\r\n\r\n"),
        ("space before the colon", "0\r\nA : b\r\n\r\n"),
        ("an empty name", "0\r\n: b\r\n\r\n"),
        ("LF", "0\r\nA: b\n\r\n"),
        ("NUL", "0\r\nA: \0\r\n\r\n"),
    ])
    .await;
}

/// An upstream that takes trailers for fields of the head must not be told another length, host or client by them.
#[tokio::test]
async fn trailers_that_would_change_the_head() {
    let forged = [
        "Content-Length: 3",
        "Content_Length: 3",
        "Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Host: b",
        "Connection: X-Kept",
        "Authorization: Basic cm9vdDo=",
        "Cookie: a=b",
        "X-Forwarded-For: 6.6.6.6",
        "x_forwarded_proto: https",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X-RustyGate-Backend: b",
        "TE: trailers",
        "Upgrade: websocket",
        "Expect: 100-continue",
    ];
    let mut arena = Arena::start().await;
    let body = format!("3\r\nabc\r\n0\r\n{}\r\nX-Kept: yes\r\n\r\n", forged.join("\r\n"));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answers = arena.answers("trailers", format!("{head}{body}{SMUGGLED}").as_bytes()).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    let seen = arena.seen("trailers").await;
    let [request] = &seen[..] else { panic!("{seen:?}") };
    let text = String::from_utf8_lossy(&request.bytes).into_owned();
    let (_, trailers) = text.split_once("\r\n0\r\n").expect("a last chunk");
    assert_eq!(trailers, "X-Kept: yes\r\n\r\n");
    arena.end().await;
}
