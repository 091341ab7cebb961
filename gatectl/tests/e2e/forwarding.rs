//! What an upstream is told and which upstream that is.

use std::path::Path;

use crate::harness::{Client, Gateway, Reply, Seen, Witness, header, with_gateway};

fn all_to(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

/// What a proxy in front, or a liar, says of the client.
const CLAIMS: [(&str, &str); 6] = [
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop.example.com"),
    ("x-forwarded-port", "443"),
    ("forwarded", "for=203.0.113.7;proto=https"),
    ("x-real-ip", "203.0.113.7"),
];

/// The claims as the upstream got them.
fn claims(seen: &Seen) -> Vec<(&'static str, String)> {
    CLAIMS.iter().filter_map(|(name, _)| Some((*name, seen.header(name)?))).collect()
}

fn owned(claims: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    claims.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[tokio::test]
async fn nobody_is_believed_by_default() {
    let upstream = Witness::saying("x").await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await.host("a:81");
        for headers in [&[][..], &CLAIMS, &[("X_Forwarded_For", "203.0.113.7"), ("X-FORWARDED-HOST", "b")]] {
            client.get_with("/", headers).await;
            let seen = upstream.requests().pop().expect("a request");
            let truth = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a:81")];
            assert_eq!(claims(&seen), owned(&truth), "{headers:?}");
            assert!(!String::from_utf8_lossy(&seen.bytes).contains("203.0.113.7"), "{headers:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_added_to_the_chain() {
    let upstream = Witness::saying("x").await;
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.trusted_proxies = vec![([127, 0, 0, 0].into(), 8)];
    });
    let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    client.get_with("/", &CLAIMS).await;
    let told = [
        ("x-forwarded-for", "203.0.113.7, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
        ("forwarded", "for=203.0.113.7;proto=https, for=127.0.0.1;proto=https"),
    ];
    assert_eq!(claims(&upstream.requests()[0]), owned(&told));
    client.get("/").await;
    let truth = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a")];
    assert_eq!(claims(&upstream.requests()[1]), owned(&truth), "there is nothing to believe");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_prefix_is_removed_unless_the_route_says_otherwise() {
    let upstream = Witness::saying("x").await;
    let url = upstream.url();
    let manifest = format!(
        r#"
routes:
- {{path: /api, backend: "{url}"}}
- {{path: /based, backend: "{url}/base/v1"}}
- {{path: /kept, backend: "{url}", strip_prefix: false}}
- {{path: /kept-based, backend: "{url}/base", strip_prefix: false}}
- {{path: {{exact: /exact}}, backend: "{url}"}}
- {{path: {{regex: "/re/[0-9]+"}}, backend: "{url}"}}
"#
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for (asked, sent) in [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api/users", "/users"),
            ("/api/users/?a=b&a=%20", "/users/?a=b&a=%20"),
            ("/api?", "/?"),
            ("/based", "/base/v1"),
            ("/based/users?x", "/base/v1/users?x"),
            ("/kept/users", "/kept/users"),
            ("/kept-based/users", "/base/kept-based/users"),
            ("/exact", "/exact"),
            ("/re/17", "/re/17"),
            ("/api/caf%c3%a9/%41", "/caf%C3%A9/A"),
        ] {
            assert_eq!(client.get(asked).await.status, 200, "{asked}");
            assert_eq!(upstream.requests().pop().expect("a request").line(), format!("GET {sent} HTTP/1.1"), "{asked}");
        }
    })
    .await;
}

/// How many requests for a path it has had.
fn served(witness: &Witness, path: &str) -> usize {
    witness.requests().iter().filter(|seen| seen.line().contains(path)).count()
}

#[tokio::test]
async fn the_canary_example_gets_its_share_and_those_who_ask_for_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("examples");
    let mut manifest = std::fs::read_to_string(folder.join("canary.yaml")).expect("the example");
    let mut witnesses = Vec::new();
    for port in ["9001", "9002", "9003"] {
        let witness = Witness::saying(port).await;
        manifest = manifest.replace(&format!("127.0.0.1:{port}"), &witness.addr().to_string());
        witnesses.push(witness);
    }
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..10 {
            let response = client.get_with("/cart", &[("x-canary", "yes")]).await;
            assert_eq!(response.header("x-rustygate-backend"), Some("cart-next"));
        }
        for _ in 0..400 {
            assert_eq!(client.get("/cart").await.status, 200);
        }
        let [one, two, next] = [0, 1, 2].map(|index| served(&witnesses[index], "/cart"));
        assert_eq!(one + two + next, 410);
        // 40 of 400 are expected, and 6 are the standard deviation.
        let split = next - 10;
        assert!((10..=80).contains(&split), "{split} of 400 went to the new version");
        assert!(one.abs_diff(two) <= 1, "{one} and {two}: the others take turns");
    })
    .await;
}

#[tokio::test]
async fn weighted_endpoints_take_turns_and_no_weight_is_no_traffic() {
    let witnesses = [Witness::saying("a").await, Witness::saying("b").await, Witness::saying("c").await];
    let [a, b, c] = [0, 1, 2].map(|index: usize| witnesses[index].url());
    let manifest = format!(
        r#"
backends:
- name: uneven
  endpoints: [{{url: "{a}"}}, {{url: "{b}", weight: 2}}, {{url: "{c}", weight: 0}}]
routes:
- {{path: /turns, backend: uneven}}
- {{path: /refs, backend: [{{url: "{a}", weight: 0}}, {{url: "{c}", weight: 1}}]}}
"#
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let mut order = String::new();
        for _ in 0..30 {
            order.push_str(&client.get("/turns/x").await.text());
        }
        assert_eq!(["a", "b", "c"].map(|name| order.matches(name).count()), [10, 20, 0], "{order}");
        assert!(!order.contains("aa") && !order.contains("bbb"), "in turns, not in runs: {order}");
        for _ in 0..10 {
            assert_eq!(client.get("/refs/x").await.text(), "c");
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_upstream_says_arrives_as_it_was_said() {
    let odd = b"HTTP/1.1 299 Fine By Me\r\nX-Mixed-Case: \xe9t\xe9\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                server: odd/1\r\nx-rustygate-backend: forged\r\ncontent-length: 1\r\n\r\n!";
    let upstream = Witness::start(|_| Reply::Send(odd.to_vec())).await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
        assert_eq!((response.status, response.text().as_str()), (299, "!"));
        let cookies: Vec<_> = response.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
        assert_eq!(cookies.len(), 2, "{response:?}");
        assert_eq!(header(&response.headers, "server"), Some("odd/1"));
        assert!(response.headers.iter().any(|(name, _)| name == "X-Mixed-Case"), "{response:?}");
        let backends: Vec<_> =
            response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-rustygate-backend")).collect();
        assert!(backends.len() == 1 && backends[0].1 != "forged", "{backends:?}");
    })
    .await;
}

#[tokio::test]
async fn framing_fields_in_another_spelling_end_at_the_gateway() {
    let answer =
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Kept: 1\r\n\r\nx";
    let upstream = Witness::start(move |_| Reply::Send(answer.as_bytes().to_vec())).await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let response = Client::connect(gateway.proxy_addr()).await.get("/").await;
        assert_eq!(response.text(), "x");
        assert_eq!(response.header("x_kept"), Some("1"));
        for name in ["content_length", "transfer_encoding"] {
            assert_eq!(response.header(name), None, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_plugin_decides_in_the_head_is_not_said_behind_the_body() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nCache-Control: public\r\nX-Down: 1\r\nx_gone: 1\r\n\r\n";
    let upstream = Witness::start(move |_| Reply::Send(answer.as_bytes().to_vec())).await;
    let manifest = format!(
        "plugins: [{{name: p, type: headers, config: {{request: {{set: {{x-team: red}}, remove: [x-internal]}}, \
         response: {{set: {{cache-control: no-store}}, remove: [x-gone]}}}}}}]\n\
         routes: [{{name: all, path: /, backend: \"{}\", plugins: [p]}}]",
        upstream.url()
    );
    with_gateway(&manifest, async |gateway| {
        let mut wire = crate::harness::Wire::connect(gateway.proxy_addr()).await;
        wire.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        wire.send("1\r\nx\r\n0\r\nX-Team: blue\r\nx_team: blue\r\nX-Internal: 1\r\nX-Up: 1\r\n\r\n").await;
        wire.head().await;
        assert_eq!(wire.until("\r\n\r\n").await, "1\r\nx\r\n0\r\nX-Down: 1\r\n\r\n");
        let sent = String::from_utf8(upstream.requests().remove(0).bytes).expect("text");
        assert!(sent.ends_with("\r\n0\r\nX-Up: 1\r\n\r\n"), "{sent}");
    })
    .await;
}
