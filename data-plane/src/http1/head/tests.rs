use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Option<RequestHead>, HeadError> {
    let mut head = RequestHead::default();
    Ok(head.parse(text.as_bytes())?.map(|_| head))
}

fn refused(text: &str) -> HeadError {
    parse(text).expect_err(text)
}

fn respond(text: &str, method: &str) -> Result<ResponseHead, HeadError> {
    let mut head = ResponseHead::default();
    head.parse(text.as_bytes(), method).map(|end| {
        assert!(end.is_some(), "{text:?} is not whole");
        head
    })
}

#[test]
fn a_request_is_read_up_to_its_body() {
    let text = "POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: X-Hop, close\r\n\r\nabc";
    let mut head = RequestHead::default();
    assert_eq!(head.parse(text.as_bytes()), Ok(Some(text.len() - 3)));
    assert_eq!((head.method.as_str(), head.target.as_slice()), ("POST", b"/a?b=c".as_slice()));
    assert_eq!(head.framing, Framing::Length(3));
    assert!(!head.persistent());
    assert!(head.connection.nominates("x-hop"));
    assert_eq!(head.fields.len(), 3);
}

#[test]
fn every_prefix_of_a_head_asks_for_more() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for end in 0..text.len() {
        assert!(parse(&text[..end]).expect("no error").is_none(), "{:?}", &text[..end]);
    }
    assert!(parse(text).expect("no error").is_some());
}

#[test]
fn transfer_codings_other_than_one_chunked_are_refused() {
    for coding in [
        "chunked\r\nTransfer-Encoding: identity",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked, identity",
        "xchunked",
        "chunked\t",
        "chunked ",
        "Chunked , chunked",
        "",
        "\x0bchunked",
        "gzip, chunked",
    ] {
        let error = refused(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n"));
        assert!(matches!(error, HeadError::TransferEncoding | HeadError::Malformed), "{coding:?}: {error:?}");
    }
    assert_eq!(
        refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        HeadError::TransferEncoding
    );
}

#[test]
fn lengths_that_are_not_one_plain_number_are_refused() {
    for length in [
        "+3",
        "-0",
        "0x3",
        "3, 4",
        "3,3",
        "3 3",
        "3\r\nContent-Length: 3",
        "3\r\nContent-Length: 4",
        "\r\nContent-Length: 30",
        ",",
        "",
        "99999999999999999999",
        "9223372036854775808",
        "3 ",
    ] {
        let error = refused(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        assert_eq!(error, HeadError::ContentLength, "{length:?}");
    }
}

#[test]
fn a_length_beside_a_coding_is_refused_in_either_order() {
    for fields in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
    ] {
        assert_eq!(refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")), HeadError::LengthAndCoding);
    }
}

#[test]
fn a_body_in_http_1_0_has_a_length() {
    assert_eq!(refused("POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), HeadError::LengthMissing);
    assert!(parse("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n").expect("no error").is_some());
}

#[test]
fn grammar_that_readers_disagree_on_is_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: value\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "\u{16}\u{3}\u{1}\r\n\r\n",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), HeadError::Version);
}

#[test]
fn http_1_1_has_exactly_one_host() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), HeadError::Host);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), HeadError::Host);
    assert!(parse("GET / HTTP/1.0\r\n\r\n").expect("no error").is_some());
}

#[test]
fn bounds_are_told_before_the_head_is_whole() {
    assert_eq!(refused(&format!("GET /{}", "a".repeat(9000))), HeadError::TargetTooLong);
    assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8192))), HeadError::TargetTooLong);
    let fields = "X: y\r\n".repeat(100);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")), HeadError::TooManyFields);
    let long = "x".repeat(HEAD_BYTES_MAX);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}")), HeadError::TooLarge);
}

#[test]
fn persistence_follows_the_version() {
    let persistent = |text: &str| parse(text).expect("no error").expect("whole").persistent();
    assert!(persistent("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!persistent("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: Close\r\n\r\n"));
    assert!(!persistent("GET / HTTP/1.0\r\n\r\n"));
    assert!(persistent("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
}

#[test]
fn responses_end_where_the_request_and_the_status_say() {
    let framing = |text: &str, method: &str| respond(text, method).expect("parses").framing;
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(framing(length, "GET"), Framing::Length(5));
    assert_eq!(framing(length, "HEAD"), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 204 No Content\r\n\r\n", "GET"), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 103 Early Hints\r\n\r\n", "GET"), Framing::Empty);
    assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET"), Framing::Chunked);
    assert_eq!(framing("HTTP/1.1 200\r\n\r\n", "GET"), Framing::UntilClose);
    assert_eq!(framing("HTTP/1.0 200 OK\r\n\r\n", "GET"), Framing::UntilClose);
}

#[test]
fn responses_are_read_as_strictly_as_requests() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 99 Odd\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let mut head = ResponseHead::default();
        assert!(head.parse(text.as_bytes(), "GET").is_err(), "{text:?}");
    }
}

/// Heads that are nearly right: what decides between two readings, in any order, with bytes between them.
fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: [&str; 28] = [
        "GET / HTTP/1.1",
        "POST /a?b HTTP/1.0",
        "GET * HTTP/1.1",
        "HTTP/1.1 200 OK",
        "HTTP/1.0 304 x",
        "Host: a",
        "Host : a",
        "Content-Length: 5",
        "content-length:5 ",
        "Content-Length: +5",
        "Transfer-Encoding: chunked",
        "TRANSFER-ENCODING:chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked ",
        "Connection: close",
        "Connection: keep-alive, Content-Length",
        "Expect: 100-continue",
        "TE: trailers",
        "X: \u{fc}",
        " folded",
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        "\n\n",
        ":",
        "\0",
        "x",
    ];
    let part = prop_oneof![
        4 => prop::sample::select(&PARTS[..]).prop_map(|text| text.as_bytes().to_vec()),
        3 => Just(b"\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

/// What a request's or a response's head is read as, if it is whole and right.
fn read(bytes: &[u8], response: bool) -> Result<Option<(usize, Framing, Fields)>, HeadError> {
    if response {
        let mut head = ResponseHead::default();
        let end = head.parse(bytes, "GET")?;
        return Ok(end.map(|end| (end, head.framing, head.fields)));
    }
    let mut head = RequestHead::default();
    let end = head.parse(bytes)?;
    Ok(end.map(|end| (end, head.framing, head.fields)))
}

proptest! {
    #[test]
    fn any_head_is_read_or_refused_alike_however_it_arrives(
        bytes in prop_oneof![nearly_a_head(), prop::collection::vec(any::<u8>(), 0..200)],
        response: bool,
    ) {
        let whole = read(&bytes, response);
        let pieces = (0..=bytes.len()).map(|end| read(&bytes[..end], response)).find(|read| !matches!(read, Ok(None)));
        match (&whole, pieces.unwrap_or(Ok(None))) {
            (Ok(Some((end, framing, fields))), Ok(Some((other_end, other_framing, other_fields)))) => {
                prop_assert_eq!((end, framing), (&other_end, &other_framing));
                prop_assert!(fields.iter().eq(other_fields.iter()));
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{:?} and {:?}", whole, pieces),
        }
    }

    #[test]
    fn no_head_that_is_accepted_has_two_lengths(bytes in nearly_a_head(), response: bool) {
        if let Ok(Some((_, framing, fields))) = read(&bytes, response) {
            let count = |name: &str| fields.get_all(name).count();
            let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
            prop_assert!(lengths + codings <= 1, "{} lengths, {} codings", lengths, codings);
            prop_assert!(framing != Framing::Chunked || codings == 1);
        }
    }
}
