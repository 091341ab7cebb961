use proptest::prelude::*;

use super::*;
use crate::http2::hpack::is_sound;

const BOUNDS: Bounds = Bounds { bytes: 200, fields: 8 };

type Read = Result<Result<(), HeadError>, Malformed>;

fn read(head: &mut RequestHead, fields: &[(&str, &str)], bodyless: bool) -> Read {
    let mut section = RequestSection::new(head, BOUNDS);
    for (name, value) in fields {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        section.field(Field { name, value, sound: is_sound(name, value) });
    }
    section.end(bodyless)
}

/// GET with more.
fn get(more: &[(&str, &str)]) -> (RequestHead, Read) {
    let mut head = RequestHead::default();
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/b?c#d")];
    let read = read(&mut head, &[&pseudo, more].concat(), true);
    (head, read)
}

fn fields(head: &RequestHead) -> Vec<(String, String)> {
    let text = |(name, value): (&str, &[u8])| (name.to_owned(), String::from_utf8_lossy(value).into_owned());
    head.fields.iter().map(text).collect()
}

#[test]
fn a_request_becomes_what_http1_would_have_said() {
    let more = [("cookie", "a=b"), ("x", "y"), ("te", "trailers"), ("cookie", "c=d"), ("expect", "100-continue")];
    let (head, read) = get(&more);
    assert_eq!(read, Ok(Ok(())));
    assert_eq!((head.method.as_str(), head.target.as_slice()), ("GET", &b"/b?c"[..]));
    assert!(head.wants_trailers && head.expects_continue);
    let expected = [("host", "a"), ("x", "y"), ("cookie", "a=b; c=d")];
    assert_eq!(fields(&head), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn nothing_is_left_of_the_request_before() {
    let mut head = get(&[("te", "trailers"), ("x", "y")]).0;
    let pseudo = [(":method", "PUT"), (":scheme", "http"), (":path", "/"), ("host", "b")];
    assert_eq!(read(&mut head, &pseudo, false), Ok(Ok(())));
    assert_eq!((head.method.as_str(), head.target.as_slice(), head.framing), ("PUT", &b"/"[..], Framing::Chunked));
    assert_eq!((fields(&head), head.wants_trailers), (vec![("host".to_owned(), "b".to_owned())], false));
}

#[test]
fn what_is_no_request_is_told_from_what_is_a_bad_one() {
    let long = "x".repeat(BOUNDS.bytes);
    let many = [("x", "y"); BOUNDS.fields];
    for (what, more, expected) in [
        ("upper case", &[("X", "y")][..], Err(Malformed)),
        ("no name", &[("", "y")], Err(Malformed)),
        ("a name with a blank", &[("x y", "z")], Err(Malformed)),
        ("a pseudo-field behind others", &[("x", "y"), (":path", "/")], Err(Malformed)),
        ("a pseudo-field twice", &[(":path", "/")], Err(Malformed)),
        ("a pseudo-field that nobody knows", &[(":x", "y")], Err(Malformed)),
        ("a status", &[(":status", "200")], Err(Malformed)),
        ("a protocol without CONNECT", &[(":protocol", "websocket")], Err(Malformed)),
        ("connection", &[("connection", "close")], Err(Malformed)),
        ("transfer-encoding", &[("transfer-encoding", "chunked")], Err(Malformed)),
        ("keep-alive", &[("keep-alive", "1")], Err(Malformed)),
        ("proxy-connection", &[("proxy-connection", "close")], Err(Malformed)),
        ("upgrade", &[("upgrade", "websocket")], Err(Malformed)),
        ("te", &[("te", "gzip")], Err(Malformed)),
        ("te of both", &[("te", "trailers, gzip")], Err(Malformed)),
        ("a length without a body", &[("content-length", "1")], Err(Malformed)),
        ("no length without a body", &[("content-length", "0")], Ok(Ok(()))),
        ("a length that is none", &[("content-length", "+1")], Ok(Err(HeadError::ContentLength))),
        ("two lengths", &[("content-length", "0"), ("content-length", "0")], Ok(Err(HeadError::ContentLength))),
        ("the same host", &[("host", "A")], Ok(Ok(()))),
        ("another host", &[("host", "b")], Ok(Err(HeadError::Host))),
        ("CR in a value", &[("x", "y\rz")], Ok(Err(HeadError::Malformed))),
        ("LF in a value", &[("x", "y\nz")], Ok(Err(HeadError::Malformed))),
        ("NUL in a value", &[("x", "y\0z")], Ok(Err(HeadError::Malformed))),
        ("an expectation", &[("expect", "cake")], Ok(Err(HeadError::Expectation))),
        ("more than may be", &[("x", &long)], Ok(Err(HeadError::TooLarge))),
        ("more fields than may be", &many, Ok(Err(HeadError::TooManyFields))),
        ("more crumbs than may be", &[("cookie", ""); BOUNDS.fields], Ok(Err(HeadError::TooManyFields))),
    ] {
        assert_eq!(get(more).1, expected, "{what}");
    }
}

#[test]
fn pseudo_fields_have_their_forms() {
    let all = |method, scheme, authority, path| {
        let fields = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)];
        fields.into_iter().filter(|(_, value)| *value != "-").collect::<Vec<_>>()
    };
    let connect =
        |protocol, authority| [all("CONNECT", "http", authority, "/"), vec![(":protocol", protocol)]].concat();
    for (fields, expected) in [
        (all("GET", "http", "a", "/"), true),
        (all("GET", "http", "-", "/"), true),
        (all("OPTIONS", "http", "a", "*"), true),
        (all("GET", "http", "a", "*"), false),
        (all("GET", "http", "a", ""), false),
        (all("GET", "http", "a", "b"), false),
        (all("GET", "http", "a", "http://a/"), false),
        (all("GET", "http", "", "/"), false),
        (all("GET", "", "a", "/"), false),
        (all("GET", "http:", "a", "/"), false),
        (all("G T", "http", "a", "/"), false),
        (all("", "http", "a", "/"), false),
        (all("-", "http", "a", "/"), false),
        (all("GET", "-", "a", "/"), false),
        (all("GET", "http", "a", "-"), false),
        (all("CONNECT", "-", "a", "-"), true),
        (all("CONNECT", "http", "a", "/"), false),
        (all("CONNECT", "-", "-", "-"), false),
        (connect("websocket", "a"), true),
        (connect("smtp", "a"), true),
        (connect("websocket", "-"), false),
    ] {
        let mut head = RequestHead::default();
        assert_eq!(read(&mut head, &fields, false).is_ok(), expected, "{fields:?}");
    }
    // By RFC 8441 it is what an upgrade is in HTTP/1.1; any other protocol is none that is served.
    let mut head = RequestHead::default();
    assert_eq!(read(&mut head, &connect("websocket", "a"), false), Ok(Ok(())));
    assert_eq!((head.method.as_str(), head.connection.upgrade), ("GET", true));
    assert_eq!(read(&mut head, &connect("smtp", "a"), false), Ok(Ok(())));
    assert_eq!((head.method.as_str(), head.connection.upgrade), ("CONNECT", false));
}

#[test]
fn sections_behind_bodies_have_fields_that_can_be_passed_on_or_none() {
    let read = |fields: &[(&[u8], &[u8])]| {
        let mut section = TrailerSection::default();
        for &(name, value) in fields {
            section.field(Field { name, value, sound: is_sound(name, value) });
        }
        section.end().map(|(fields, bytes)| (fields.map(|fields| fields.len()), bytes))
    };
    assert_eq!(read(&[(b"x", b"y"), (b"z", b"")]), Ok((Some(2), 67)));
    assert_eq!(read(&[(b"x", b"y\r\nz")]), Ok((None, 37)));
    assert_eq!(read(&[(b"x", &[b'y'; 17 << 10])]).map(|(fields, _)| fields), Ok(None));
    assert_eq!(read(&vec![(&b"x"[..], &b""[..]); FIELDS_MAX + 1]).map(|(fields, _)| fields), Ok(None));
    for name in [&b":path"[..], b"X", b"", b"connection", b"transfer-encoding"] {
        assert_eq!(read(&[(name, b"y")]), Err(Malformed));
    }
}

proptest! {
    #[test]
    fn no_more_is_kept_than_may_be(
        all in prop::collection::vec((prop::sample::select(vec![
            ":method", ":scheme", ":authority", ":path", ":protocol", "host", "cookie", "content-length", "te", "expect", "x", "Y", "",
        ]), "[ -~\r\n]{0,80}"), 0..30),
        bodyless: bool,
    ) {
        let mut head = RequestHead::default();
        let all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let _ = read(&mut head, &all, bodyless);
        prop_assert!(head.fields.len() <= BOUNDS.fields + 1);
        // A cookie gets what joins its crumbs.
        prop_assert!(head.fields.bytes() + head.target.len() <= BOUNDS.bytes + 2 * BOUNDS.fields + "host".len());
    }
}
