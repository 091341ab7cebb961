//! Targets that one reader takes for another path than the next.

use super::Site;

/// Three areas that keep their prefix, so that the upstream sees what the route saw.
const AREAS: &str = "
routes:
- {name: root, path: /, backend: root}
- {name: public, path: /public, backend: public, strip_prefix: false}
- {name: private, path: /private, backend: private, strip_prefix: false}
";

async fn expect(cases: &[(&str, &str)]) {
    let mut site = Site::start(&["root", "public", "private"]).await;
    let gateway = site.gateway(AREAS).await;
    site.expect(gateway.proxy_addr(), cases).await;
    gateway.shutdown().await;
}

/// Envoy CVE-2019-9901.
#[tokio::test]
async fn dot_segments_are_gone_before_a_route_is_chosen() {
    expect(&[
        ("/public/../private", "private /private"),
        ("/public/../private/x", "private /private/x"),
        ("/public/./x", "public /public/x"),
        ("/public/%2e%2e/private", "private /private"),
        ("/public/%2E%2E/private", "private /private"),
        ("/public/.%2e/private", "private /private"),
        ("/public/%2e./private", "private /private"),
        ("/public/%2e/x", "public /public/x"),
        ("/public/a/../../private", "private /private"),
        ("/public/./.././private/.", "private /private/"),
        ("/./private", "private /private"),
        ("/private/../public/x", "public /public/x"),
        ("/private/..", "root /"),
        ("/private/x/..", "private /private/"),
        ("/private%2e", "root /private."),
        ("/public/...", "public /public/..."),
        ("/public/.../private", "public /public/.../private"),
        ("/pr%69vate/%78", "private /private/x"),
        ("/%70%72%69%76%61%74%65", "private /private"),
        ("/..", "400 bad_target"),
        ("/../private", "400 bad_target"),
        ("/%2e%2e/private", "400 bad_target"),
        ("/public/../../private", "400 bad_target"),
    ])
    .await;
}

/// Envoy CVE-2021-29492.
#[tokio::test]
async fn encoded_slashes_and_backslashes_are_refused() {
    expect(&[
        ("/public%2f..%2fprivate", "400 bad_target"),
        ("/public%2F..%2Fprivate", "400 bad_target"),
        ("/public/..%2fprivate", "400 bad_target"),
        ("/public/%2e%2e%2fprivate", "400 bad_target"),
        ("/public%2fx", "400 bad_target"),
        ("/%2fprivate", "400 bad_target"),
        ("/private%2f", "400 bad_target"),
        ("/public%5c..%5cprivate", "400 bad_target"),
        ("/public/..%5Cprivate", "400 bad_target"),
        ("/public/..\\private", "400 bad_target"),
        ("/public\\..\\private", "400 bad_target"),
    ])
    .await;
}

/// What is encoded twice is decoded by nobody here: route and upstream see the same escapes.
#[tokio::test]
async fn double_encoding_is_never_decoded() {
    expect(&[
        ("/public%252f..%252fprivate", "root /public%252f..%252fprivate"),
        ("/public/..%252fprivate", "public /public/..%252fprivate"),
        ("/public/%252e%252e/private", "public /public/%252e%252e/private"),
        ("/public/%25%32%65%25%32%65/private", "public /public/%252e%252e/private"),
        ("/public/%255c..%255cprivate", "public /public/%255c..%255cprivate"),
        ("/%2570rivate", "root /%2570rivate"),
        ("/public/%2%65", "400 bad_target"),
        ("/public/%%32%65", "400 bad_target"),
        ("/public/%%2e", "400 bad_target"),
    ])
    .await;
}

/// Escapes that only some decoders know, and sequences that only broken ones decode to a dot or a slash.
#[tokio::test]
async fn escapes_of_other_schemes_are_no_escapes() {
    expect(&[
        ("/public/%u002e%u002e/private", "400 bad_target"),
        ("/public/%u2215private", "400 bad_target"),
        ("/public/%", "400 bad_target"),
        ("/public/%2", "400 bad_target"),
        ("/public/%zz", "400 bad_target"),
        ("/public/%c0%ae%c0%ae/private", "public /public/%C0%AE%C0%AE/private"),
        ("/public/..%c0%afprivate", "public /public/..%C0%AFprivate"),
        ("/public/%ef%bc%8e%ef%bc%8e/private", "public /public/%EF%BC%8E%EF%BC%8E/private"),
        ("/public/&#46;&#46;/private", "400 bad_target"),
    ])
    .await;
}

/// Traefik CVE-2025-66490: prefixes that overlap, and a character between them that some reader takes for an end.
#[tokio::test]
async fn encoded_reserved_characters_stay_in_their_segment() {
    expect(&[
        ("/public%3Fprivate", "root /public%3Fprivate"),
        ("/public/%3f/../../private", "private /private"),
        ("/public/%3f..", "public /public/%3F.."),
        ("/private%23", "root /private%23"),
        ("/private/%23/../x", "private /private/x"),
        ("/private%3bx", "root /private%3Bx"),
        ("/private%3B", "root /private%3B"),
        ("/private%25", "root /private%25"),
        ("/private%20", "root /private%20"),
        ("/private%2e%2e", "root /private.."),
        (
            "/private%2B%3d%26%40%3A%24%2c%21%2A%27%28%29%5B%5d",
            "root /private%2B%3D%26%40%3A%24%2C%21%2A%27%28%29%5B%5D",
        ),
        ("/private%7E%2d%5f", "root /private~-_"),
        ("/public%2Fprivate", "400 bad_target"),
        ("/private%00", "400 bad_target"),
        ("/private%00/x", "400 bad_target"),
        ("/public/%00/../../private", "400 bad_target"),
        ("/private%0a", "400 bad_target"),
        ("/private%0d%0aX:y", "400 bad_target"),
        ("/private%09", "400 bad_target"),
        ("/private%7f", "400 bad_target"),
        ("/private#x", "400 bad_target"),
        ("/public#/../../private", "400 bad_target"),
    ])
    .await;
}

/// OPA-Envoy CVE-2026-26205.
#[tokio::test]
async fn repeated_slashes_are_one_and_never_an_authority() {
    expect(&[
        ("//private/x", "private /private/x"),
        ("///private", "private /private"),
        ("/public//x", "public /public/x"),
        ("/public//../private", "private /private"),
        ("/public///..//private//", "private /private/"),
        ("//public/..//private", "private /private"),
        ("//h/private", "root /h/private"),
        ("//evil.example/private", "root /evil.example/private"),
        ("//user@h:80/private", "root /user@h:80/private"),
        ("/http://h/private", "root /http:/h/private"),
        ("/.//private", "private /private"),
        ("//", "root /"),
        ("//..", "400 bad_target"),
        ("/\\private", "400 bad_target"),
        ("\\\\private", "400 bad_target"),
        ("/%5cprivate", "400 bad_target"),
        ("http://h//private", "private /private"),
        ("http://h///private/x?y", "private /private/x?y"),
        ("http://h/public/../private", "private /private"),
        ("http://h/public/%2e%2e//private", "private /private"),
        ("HTTP://H/private", "private /private"),
        ("http://h/..", "400 bad_target"),
        ("http://h/../private", "400 bad_target"),
        ("http://h/public%2f..%2fprivate", "400 bad_target"),
        ("http://h\\private", "400 bad_target"),
        ("http:/private", "400 bad_target"),
        ("http:private", "400 bad_target"),
        ("http:///private", "400 bad_target"),
        ("http:////private", "400 bad_target"),
        ("http://h?/private", "400 bad_target"),
        ("http://h#/private", "400 bad_target"),
        ("http://u@h/private", "400 bad_target"),
        ("http://h@private/", "400 bad_target"),
        ("http://private/", "400 bad_target"),
        ("https://h/private", "400 bad_target"),
        ("ws://h/private", "400 bad_target"),
        ("file:///private", "400 bad_target"),
        ("h/private", "400 bad_target"),
        ("private", "400 bad_target"),
        ("*", "400 bad_target"),
        ("?/private", "400 bad_target"),
    ])
    .await;
}

/// What looks like a path behind the question mark stays there.
#[tokio::test]
async fn the_query_goes_on_as_it_came_and_has_no_say() {
    expect(&[
        ("/public?/../private", "public /public?/../private"),
        ("/public?x=/%2e%2e/private", "public /public?x=/%2e%2e/private"),
        ("/public/?//private??", "public /public/?//private??"),
        ("/public?%2f%5c%00%0d%0a%25", "public /public?%2f%5c%00%0d%0a%25"),
        ("/public?\\..\\private", "public /public?\\..\\private"),
        ("/public?;/private", "public /public?;/private"),
        ("/?/private", "root /?/private"),
        ("/public?a#b", "400 bad_target"),
        ("/public/..?/private", "root /?/private"),
    ])
    .await;
}

/// Envoy CVE-2026-73511, CVE-2026-73551 and CVE-2026-73553: servers of the Java kind route without the parameters of a
/// path, so no rule is got round by adding one. They go on as they came.
#[tokio::test]
async fn parameters_have_no_say_and_none_is_on_a_dot_segment() {
    expect(&[
        ("/private;x", "private /private;x"),
        ("/private;", "private /private;"),
        ("/private;x=1;y=2/z;w", "private /private;x=1;y=2/z;w"),
        ("/private;/../private;x/y", "private /private;x/y"),
        ("/private;%2e%2e", "private /private;.."),
        ("/private;a=../x", "private /private;a=../x"),
        ("/privat%65;%78/z", "private /private;x/z"),
        ("//private;x//y", "private /private;x/y"),
        ("/public;a=b/../private", "private /private"),
        ("/public;a=b/%2e%2e/private;x", "private /private;x"),
        ("/public;/private", "public /public;/private"),
        ("/public/;x", "public /public/;x"),
        ("/;jsessionid=1", "root /;jsessionid=1"),
        ("/public;x?/private", "public /public;x?/private"),
        ("http://h/private;x", "private /private;x"),
        ("http://h;x/private", "400 bad_target"),
        ("/..;/private", "400 bad_target"),
        ("/.;/private", "400 bad_target"),
        ("/%2e%2e;/private", "400 bad_target"),
        ("/%2e;/private", "400 bad_target"),
        ("/public/..;/private", "400 bad_target"),
        ("/public/..;a=b/private", "400 bad_target"),
        ("/public/.%2e;a=b/private", "400 bad_target"),
        ("/public/..%3b/private", "400 bad_target"),
        ("/public/..%3B", "400 bad_target"),
        ("/public/..;", "400 bad_target"),
        ("/;/private", "400 bad_target"),
        ("/;x/private", "400 bad_target"),
        ("/public/;/../private", "400 bad_target"),
        ("/public/;%2f../private", "400 bad_target"),
        ("/;%2f..%2fprivate", "400 bad_target"),
        ("/public/x;\\..\\private", "400 bad_target"),
    ])
    .await;
}
