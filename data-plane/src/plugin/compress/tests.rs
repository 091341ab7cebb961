use crate::{
    encoding::ENCODERS_MAX,
    http1::Framing,
    plugin::{
        Content,
        rig::Rig,
        tests::{fields_at_fault, lines},
    },
};

const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

/// What a client that asks so gets: the head, and whether the body is encoded.
async fn pass(rig: &mut Rig, status: u16, lines: &[(&str, &str)], mut content: Content) -> (Vec<String>, bool) {
    assert!(rig.ask().await.is_none());
    let head = rig.pass(status, lines, Some(&mut content));
    (head, content.encoder.is_some())
}

fn rig(config: &str, accepts: &str) -> Rig {
    let mut rig = Rig::new("compress", config);
    rig.field("accept-encoding", accepts);
    rig
}

fn long() -> Content {
    Content { framing: Framing::Length(5000), described: false, any_length: true, encoder: None }
}

#[tokio::test]
async fn the_head_says_what_the_body_becomes() {
    let upstream = [
        JSON,
        ("ETag", "\"v1\""),
        ("Accept-Ranges", "bytes"),
        ("Content-Digest", "sha-256=:AAAA:"),
        ("Repr-Digest", "sha-256=:AAAA:"),
        ("Digest", "md5=AAAA"),
        ("Content-MD5", "AAAA"),
        ("Vary", "Origin"),
        ("X-Other", "kept"),
    ];
    let mut rig = rig("{}", "gzip, br;q=0.9");
    let (head, encoded) = pass(&mut rig, 200, &upstream, long()).await;
    assert!(encoded);
    assert_eq!(
        head,
        [
            "content-type: application/json; charset=utf-8",
            "Vary: Origin",
            "X-Other: kept",
            "Vary: Accept-Encoding",
            "ETag: W/\"v1\"",
            "Content-Encoding: gzip",
        ]
    );
    // The backend is asked what the client asks.
    assert_eq!(lines(&rig.fields), ["accept-encoding: gzip, br;q=0.9"]);
}

#[tokio::test]
async fn the_order_of_the_configuration_decides_between_what_is_liked_alike() {
    for (config, accepts, coding) in [
        ("{}", "gzip, deflate, br, zstd", "zstd"),
        (r#"{"algorithms": ["br", "gzip"]}"#, "gzip, deflate, br, zstd", "br"),
        (r#"{"algorithms": ["gzip"]}"#, "br;q=1, gzip;q=0.1", "gzip"),
        (r#"{"algorithms": ["gzip"]}"#, "br", ""),
        ("{}", "identity", ""),
        ("{}", "gzip;q=0", ""),
    ] {
        let (head, encoded) = pass(&mut rig(config, accepts), 200, &[JSON], long()).await;
        let said = head.iter().find_map(|line| line.strip_prefix("Content-Encoding: "));
        assert_eq!((said.unwrap_or_default(), encoded), (coding, !coding.is_empty()), "{config} {accepts}");
        // Whoever keeps the answer must know, whichever it is.
        assert!(head.contains(&"Vary: Accept-Encoding".to_owned()), "{head:?}");
    }
    let mut silent = Rig::new("compress", "{}");
    let (head, encoded) = pass(&mut silent, 200, &[JSON], long()).await;
    assert_eq!((head.len(), encoded), (2, false), "who says nothing gets no coding");
}

#[tokio::test]
async fn what_must_stay_as_it_is_does() {
    let all = r#"{"min_bytes": 0, "types": ["text/*", "application/*+json", "application/grpc", "application/json"]}"#;
    for (status, upstream) in [
        (200, vec![JSON, ("content-encoding", "gzip")]),
        (200, vec![JSON, ("content-range", "bytes 0-4999/10000")]),
        (200, vec![JSON, ("cache-control", "private, No-Transform")]),
        (200, vec![("content-type", "text/event-stream")]),
        (200, vec![("content-type", "application/grpc")]),
        (200, vec![("content-type", "application/grpc+json")]),
        (200, vec![("content-type", "image/png")]),
        (200, vec![("content-type", "texts/plain")]),
        (200, vec![("content-type", "application/jsonl")]),
        (200, vec![]),
        (204, vec![JSON]),
        (205, vec![JSON]),
        (206, vec![JSON]),
        (206, vec![("content-type", "multipart/byteranges")]),
    ] {
        let before: Vec<String> = upstream.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let (head, encoded) = pass(&mut rig(all, "gzip"), status, &upstream, long()).await;
        assert_eq!((head, encoded), (before, false), "{status}");
    }
    // An error is an answer like others, unless it is the gateway's own.
    let mut rig = rig("{}", "gzip");
    assert!(pass(&mut rig, 404, &[JSON], long()).await.1);
    assert_eq!(rig.answer(404, &[JSON]).len(), 1);
}

#[tokio::test]
async fn short_bodies_stay_and_those_that_do_not_tell_are_compressed() {
    let of = |framing| Content { framing, ..long() };
    for (min, framing, encoded) in [
        (1024, Framing::Length(1023), false),
        (1024, Framing::Length(1024), true),
        (1024, Framing::Chunked, true),
        (1024, Framing::UntilClose, true),
        (0, Framing::Length(1), true),
        (0, Framing::Length(0), false),
        (0, Framing::Empty, false),
    ] {
        let config = format!(r#"{{"min_bytes": {min}}}"#);
        let (head, found) = pass(&mut rig(&config, "gzip"), 200, &[JSON], of(framing)).await;
        assert_eq!((found, head.len() > 1), (encoded, encoded), "{min} {framing:?}");
    }
    // By default it is a kibibyte.
    assert!(!pass(&mut rig("{}", "gzip"), 200, &[JSON], of(Framing::Length(1023))).await.1);
}

#[tokio::test]
async fn an_answer_to_head_says_what_that_to_get_would() {
    let described = || Content { framing: Framing::Empty, described: true, ..long() };
    let upstream = [JSON, ("Content-Length", "5000"), ("ETag", "\"v1\"")];
    let (head, encoded) = pass(&mut rig("{}", "gzip"), 200, &upstream, described()).await;
    let expected = [
        "content-type: application/json; charset=utf-8",
        "Vary: Accept-Encoding",
        "ETag: W/\"v1\"",
        "Content-Encoding: gzip",
    ];
    assert_eq!((head, encoded), (expected.map(str::to_owned).to_vec(), false));
    let short = [JSON, ("Content-Length", "50")];
    let (head, _) = pass(&mut rig("{}", "gzip"), 200, &short, described()).await;
    assert_eq!(head[1..], ["Content-Length: 50"]);
}

#[tokio::test]
async fn that_nothing_has_changed_is_said_of_the_tag_that_the_client_has() {
    let described = || Content { framing: Framing::Empty, described: true, ..long() };
    let (head, encoded) = pass(&mut rig("{}", "gzip"), 304, &[("ETag", "\"v1\"")], described()).await;
    assert_eq!((head, encoded), (vec!["Vary: Accept-Encoding".to_owned(), "ETag: W/\"v1\"".to_owned()], false));
    let (head, _) = pass(&mut rig("{}", "identity"), 304, &[("ETag", "\"v1\"")], described()).await;
    assert_eq!(head, ["ETag: \"v1\"", "Vary: Accept-Encoding"]);
    let image = [("ETag", "\"v1\""), ("content-type", "image/png")];
    let (head, _) = pass(&mut rig("{}", "gzip"), 304, &image, described()).await;
    assert_eq!(head, ["ETag: \"v1\"", "content-type: image/png"]);
}

#[tokio::test]
async fn what_vary_and_tags_say_already_is_not_said_again() {
    for vary in ["*", "accept-encoding", "Origin, ACCEPT-ENCODING"] {
        let (head, _) = pass(&mut rig("{}", "gzip"), 200, &[JSON, ("Vary", vary), ("ETag", "W/\"v\"")], long()).await;
        assert_eq!(head[1..], [format!("Vary: {vary}"), "ETag: W/\"v\"".into(), "Content-Encoding: gzip".into()]);
    }
}

#[tokio::test]
async fn a_client_that_must_know_the_length_and_one_more_than_there_may_be_get_the_body_as_it_is() {
    let old = Content { any_length: false, ..long() };
    let (head, encoded) = pass(&mut rig("{}", "gzip"), 200, &[JSON], old).await;
    assert_eq!((&head[1..], encoded), (&["Vary: Accept-Encoding".to_owned()][..], false));

    let mut rig = rig(r#"{"levels": {"gzip": 1}}"#, "gzip");
    assert!(rig.ask().await.is_none());
    let mut bodies: Vec<Content> = std::iter::repeat_with(long).take(ENCODERS_MAX + 1).collect();
    for body in &mut bodies {
        rig.pass(200, &[JSON], Some(body));
    }
    assert_eq!(bodies.iter().filter(|body| body.encoder.is_none()).count(), 1);
    drop(bodies);
    assert!(pass(&mut rig, 200, &[JSON], long()).await.1, "there is room again");
}

#[tokio::test]
async fn what_other_plugins_make_of_an_answer_is_what_counts() {
    use crate::plugin::{rig::message, wire};
    let headers = r#"{"request": {"remove": ["accept-encoding"]}, "response": {"set": {"content-type": "image/png"}}}"#;
    let named = |name: &str, plugin| wire::Plugin { name: name.to_owned(), ..plugin };
    let plugins = vec![named("h", message("headers", headers)), named("c", message("compress", "{}"))];
    let mut rig = Rig::with(plugins);
    rig.field("accept-encoding", "gzip");
    let (head, encoded) = pass(&mut rig, 200, &[JSON], long()).await;
    assert_eq!((head, encoded), (vec!["content-type: image/png".to_owned()], false));
    let headers = r#"{"request": {"remove": ["accept-encoding"]}, "response": {"set": {"content-type": "text/css"}}}"#;
    let mut rig = Rig::with(vec![named("h", message("headers", headers)), named("c", message("compress", "{}"))]);
    rig.field("accept-encoding", "gzip");
    assert!(pass(&mut rig, 200, &[("content-type", "image/png")], long()).await.1);
    assert!(rig.fields.is_empty(), "the backend need not compress");
}

#[tokio::test]
async fn two_of_them_compress_once() {
    use crate::plugin::{rig::message, wire};
    let named = |name: &str, config| wire::Plugin { name: name.to_owned(), ..message("compress", config) };
    let types = r#"{"types": ["image/x-raw"], "algorithms": ["br"]}"#;
    for (kind, coding) in [("image/x-raw", "br"), ("text/plain", "zstd")] {
        let mut rig = Rig::with(vec![named("a", types), named("b", "{}")]);
        rig.field("accept-encoding", "gzip, br, zstd");
        let (head, encoded) = pass(&mut rig, 200, &[("content-type", kind)], long()).await;
        let codings = head.iter().filter_map(|line| line.strip_prefix("Content-Encoding: "));
        assert_eq!((codings.collect::<Vec<_>>(), encoded), (vec![coding], true));
    }
}

#[tokio::test]
async fn types_are_compared_whole_and_without_case() {
    let config = r#"{"types": ["Application/Json", "font/*", "application/*+xml"], "min_bytes": 0}"#;
    for (kind, encoded) in [
        ("application/json", true),
        ("APPLICATION/JSON ; charset=utf-8", true),
        ("application/json5", false),
        ("application/jso", false),
        ("font/woff", true),
        ("font", false),
        ("fonts/ttf", false),
        ("application/atom+XML", true),
        ("application/+xml", true),
        ("application/xml", false),
        ("image/svg+xml", false),
        ("", false),
    ] {
        assert_eq!(pass(&mut rig(config, "gzip"), 200, &[("content-type", kind)], long()).await.1, encoded, "{kind}");
    }
}

#[test]
fn mistakes_are_told_with_their_places() {
    for (config, fields) in [
        (r#"{"algorithms": []}"#, vec!["config.algorithms"]),
        (r#"{"algorithms": ["deflate"]}"#, vec!["config.algorithms[0]"]),
        (r#"{"types": []}"#, vec!["config.types"]),
        (
            r#"{"types": ["text/*", "text", "*/*", "text/html; charset=utf-8"]}"#,
            vec!["config.types[1]", "config.types[2]", "config.types[3]"],
        ),
        (
            r#"{"types": ["a/*b", "/b", "a/", "a/b/c"]}"#,
            vec!["config.types[0]", "config.types[1]", "config.types[2]", "config.types[3]"],
        ),
        (
            r#"{"levels": {"zstd": 7, "br": 0, "lz4": 1}}"#,
            vec!["config.levels.lz4", "config.levels.zstd", "config.levels.br"],
        ),
        (r#"{"min_bytes": -1}"#, vec!["config.min_bytes"]),
    ] {
        assert_eq!(fields_at_fault("compress", config), fields, "{config}");
    }
}

#[test]
fn the_reference_has_the_types_of_the_code() {
    for kind in super::TYPES {
        assert!(super::SPEC.details.contains(&format!("`{kind}`")), "{kind}");
    }
}
