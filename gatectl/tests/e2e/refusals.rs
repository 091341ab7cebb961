//! What plugins say to those whose requests they do not let through: by HTTP, by gRPC, in the log and in the metrics.

use rustygate_data_plane::settings::{AccessLogTarget, Settings};
use serde_json::Value;

use crate::harness::{Client, Gateway, Http2, Reply, Response, Witness, free_port, with_gateway, within};

const KEY: &str = "partner-0123456789abcdef";

/// A request, and how it is refused: route, method, target, headers, status, reason, status of gRPC.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    u16,
    &'static str,
    &'static str,
);

const UNAUTHENTICATED: &str = "16";
const PERMISSION_DENIED: &str = "7";
const RESOURCE_EXHAUSTED: &str = "8";
const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";

const BASIC: (&str, &str) = ("authorization", "Basic YTpi");
/// By key "x", which nobody has seen.
const TOKEN: (&str, &str) = ("authorization", "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.e30.AAAA");

/// All that need nothing but a request; the others have tests of their own beside their plugins.
const CASES: [Case; 18] = [
    ("ip", "POST", "/", &[], 403, "ip_denied", PERMISSION_DENIED),
    (
        "cors",
        "OPTIONS",
        "/",
        &[("origin", "https://evil.example"), ("access-control-request-method", "PUT")],
        403,
        "cors_denied",
        PERMISSION_DENIED,
    ),
    ("fault", "POST", "/", &[], 503, "fault_injected", UNAVAILABLE),
    ("token", "POST", "/", &[], 401, "token_missing", UNAUTHENTICATED),
    ("token", "POST", "/", &[("authorization", "Bearer a.b.c")], 401, "token_invalid", UNAUTHENTICATED),
    ("published", "POST", "/", &[TOKEN], 503, "jwks_unavailable", UNAVAILABLE),
    ("key", "POST", "/", &[], 401, "key_missing", UNAUTHENTICATED),
    ("key", "POST", "/", &[("x-api-key", "wrong")], 401, "key_invalid", UNAUTHENTICATED),
    ("key", "POST", "/", &[("x-api-key", KEY), ("x-api-key", KEY)], 400, "credentials_repeated", INTERNAL),
    ("password", "POST", "/", &[], 401, "password_missing", UNAUTHENTICATED),
    ("password", "POST", "/", &[BASIC], 401, "password_invalid", UNAUTHENTICATED),
    ("password", "POST", "/", &[BASIC, BASIC], 400, "credentials_repeated", INTERNAL),
    ("service", "POST", "/", &[], 503, "auth_unavailable", UNAVAILABLE),
    ("staff", "POST", "/", &[("x-api-key", KEY)], 403, "acl_denied", PERMISSION_DENIED),
    ("limit", "POST", "/", &[], 429, "rate_limited", RESOURCE_EXHAUSTED),
    ("shared", "POST", "/", &[], 503, "rate_limit_unavailable", UNAVAILABLE),
    ("busy", "POST", "/", &[], 429, "concurrency_limited", RESOURCE_EXHAUSTED),
    ("rewrite", "POST", "/.x./admin", &[], 400, "rewrite_failed", INTERNAL),
];

/// A route for each type, and one request that fills what has to be full.
fn manifest(url: &str, dead: u16) -> String {
    let plugins = [
        ("ip", "ip_filter", "{deny: [127.0.0.0/8]}".to_owned()),
        ("cors", "cors", "{allow_origins: [\"https://app.example\"]}".to_owned()),
        ("fault", "fault", "{abort: {percent: 100}}".to_owned()),
        ("token", "jwt", "{keys: [{secret: 0123456789abcdef0123456789abcdef}]}".to_owned()),
        ("published", "jwt", format!("{{jwks_url: \"http://127.0.0.1:{dead}/\"}}")),
        ("key", "api_key", "{}".to_owned()),
        ("password", "basic_auth", "{}".to_owned()),
        ("service", "forward_auth", "{backend: dead}".to_owned()),
        ("staff", "acl", "{allow: [staff]}".to_owned()),
        ("limit", "rate_limit", "{requests: 1, per: 1h}".to_owned()),
        (
            "shared",
            "rate_limit",
            format!("{{requests: 1, per: 1h, redis: {{url: \"redis://127.0.0.1:{dead}\", on_error: closed}}}}"),
        ),
        ("busy", "concurrency_limit", "{requests: 1}".to_owned()),
        ("rewrite", "rewrite", "{regex: {match: x, replace: \"\"}}".to_owned()),
    ];
    let routes = plugins.each_ref().map(|(name, ..)| {
        let before = if *name == "staff" { "key, " } else { "" };
        format!("- {{name: {name}, path: /{name}, plugins: [{before}{name}], backend: \"{url}\"}}\n")
    });
    let plugins = plugins.map(|(name, kind, config)| format!("- {{name: {name}, type: {kind}, config: {config}}}\n"));
    format!(
        "backends: [{{name: dead, endpoints: [\"http://127.0.0.1:{dead}\"]}}]\n\
         consumers: [{{name: partner, groups: [partners], api_keys: [{KEY}]}}]\nplugins:\n{}routes:\n{}",
        plugins.concat(),
        routes.concat()
    )
}

fn problem(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    serde_json::from_slice(&response.body).expect("JSON")
}

fn log_to_file(settings: &mut Settings) {
    let folder = settings.data_dir.clone().expect("a folder");
    settings.access_log = AccessLogTarget::File(folder.with_extension("log"));
}

#[tokio::test]
async fn every_reason_is_a_problem_a_status_of_grpc_a_line_of_the_log_and_a_count() {
    let upstream = Witness::start(|_| Reply::Hold).await;
    let gateway =
        Gateway::builder().manifest(&manifest(&upstream.url(), free_port())).proxy_settings(log_to_file).start().await;
    let addr = gateway.proxy_addr();
    // They hold what the limits have.
    let (mut first, mut busy) = (Client::connect(addr).await, Client::connect(addr).await);
    first.send(b"GET /limit HTTP/1.1\r\nhost: a\r\n\r\n").await;
    busy.send(b"GET /busy HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let held = async {
        while upstream.requests().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    within("the two that may", held).await;
    let (mut client, mut http2) = (Client::connect(addr).await, Http2::connect(addr).await);
    for (route, method, target, headers, status, reason, code) in CASES {
        let path = format!("/{route}{target}");
        let refused = client.request(method, &path, headers, b"").await;
        let said = problem(&refused);
        assert_eq!((refused.status, said["status"].as_u64()), (status, Some(status.into())), "{reason}: {said}");
        assert_eq!((&said["reason"], &said["type"]), (&reason.into(), &"about:blank".into()));
        let detail = said["detail"].as_str().expect("a sentence").to_owned();
        assert!(!detail.contains("127.0.0.1") && !detail.contains("backend"), "{detail}");
        assert_eq!(refused.header("www-authenticate").is_some(), status == 401, "{reason}");
        let call = [headers, &[("content-type", "application/grpc"), ("te", "trailers")][..]].concat();
        let told = http2.request(method, &path, &call, b"").await;
        assert_eq!((told.status, told.header("grpc-status")), (200, Some(code)), "{reason}");
        assert_eq!(
            (told.header("grpc-message"), told.header("content-type")),
            (Some(&*detail), Some("application/grpc"))
        );
        assert!(told.body.is_empty(), "{reason}");
        // There is no gRPC over HTTP/1.1: whoever says so there reads the status of HTTP.
        let odd = client.request(method, &path, &call, b"").await;
        assert_eq!((odd.status, &problem(&odd)["reason"], odd.header("grpc-status")), (status, &reason.into(), None));
        if method == "POST" {
            let head = client.request("HEAD", &path, headers, b"").await;
            assert_eq!((head.status, head.body.len()), (status, 0), "{reason}");
        }
    }
    assert_eq!(upstream.requests().len(), 2, "nothing of what was refused");
    let metrics = gateway.metrics(0).await;
    let log = gateway.folder().join("proxy-0.log");
    for (route, _, _, _, status, reason, _) in CASES {
        let times = if reason == "cors_denied" { 3 } else { 4 };
        let is_own = |line: &str| {
            line.starts_with(&format!("rustygate_plugin_answers_total{{plugin=\"{route}\","))
                && line.ends_with(&format!("reason=\"{reason}\"}} {times}"))
        };
        assert!(metrics.lines().any(is_own), "{route} {reason}: {metrics}");
        let logged = async {
            loop {
                let text = std::fs::read_to_string(&log).expect("UTF-8");
                let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let mut own = lines.filter(|line| {
                    let fields = &line["fields"];
                    fields["reason"] == reason && fields["plugin"] == route && fields["status"] == status
                });
                if own.next().is_some() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within("the log", logged).await;
    }
    gateway.shutdown().await;
}

/// Traefik GHSA-6384-m2mw-rf54 and its like, seen from what decides by addresses.
#[tokio::test]
async fn a_filter_a_limit_and_a_header_see_the_address_that_trusted_proxies_tell() {
    let upstream = Witness::echo().await;
    let manifest = format!(
        "plugins:\n- {{name: office, type: ip_filter, config: {{allow: [198.51.100.0/24], deny: [198.51.100.66]}}}}\n\
         - {{name: once, type: rate_limit, config: {{requests: 1, per: 1h}}}}\n\
         - {{name: who, type: headers, config: {{request: {{set: {{x-who: \"${{client_ip}}\"}}}}}}}}\n\
         routes:\n- {{name: filter, path: /filter, plugins: [office, who], backend: \"{0}\"}}\n\
         - {{name: limit, path: /limit, plugins: [once], backend: \"{0}\"}}\n",
        upstream.url()
    );
    let trusting = |settings: &mut Settings| {
        settings.trusted_proxies = vec![([127, 0, 0, 0].into(), 8), ([10, 0, 0, 0].into(), 8)];
    };
    let gateway = Gateway::builder().manifest(&manifest).proxy_settings(trusting).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for (chain, passes) in [
        (&["198.51.100.7"][..], true),
        (&["198.51.100.7, 10.0.0.1"], true),
        (&["6.6.6.6, 198.51.100.7, 10.0.0.1"], true),
        (&["6.6.6.6", "198.51.100.7"], true),
        (&["::ffff:198.51.100.7"], true),
        (&["198.51.100.7:4711"], true),
        (&["198.51.100.66"], false),
        (&["198.51.100.7, 6.6.6.6"], false),
        (&["198.51.100.7", "6.6.6.6"], false),
        (&["198.51.100.7, unknown"], false),
        (&["198.51.100.7,"], false),
        (&[], false),
    ] {
        let headers: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let response = client.get_with("/filter", &headers).await;
        assert_eq!(response.status, if passes { 200 } else { 403 }, "{chain:?}");
        assert!(!passes || response.text().contains("x-who: 198.51.100.7\r\n"), "{}", response.text());
    }
    for forged in ["X_Forwarded_For", "X-Real-IP", "True-Client-IP", "X-Client-IP", "Forwarded-For"] {
        let headers = [(forged, "198.51.100.7"), ("x-forwarded-for", "6.6.6.6")];
        assert_eq!(client.get_with("/filter", &headers).await.status, 403, "{forged}");
    }
    for (chain, status) in
        [("6.6.6.1, 198.51.100.1", 200), ("6.6.6.2, 198.51.100.2", 200), ("6.6.6.3, 198.51.100.1", 429)]
    {
        assert_eq!(client.get_with("/limit", &[("x-forwarded-for", chain)]).await.status, status, "{chain}");
    }
    gateway.shutdown().await;
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for address in ["198.51.100.7", "127.0.0.1, 198.51.100.7"] {
            let headers = [("x-forwarded-for", address), ("forwarded", "for=198.51.100.7"), ("x-real-ip", address)];
            assert_eq!(client.get_with("/filter", &headers).await.status, 403, "a stranger's word");
        }
        assert_eq!(client.get_with("/limit", &[("x-forwarded-for", "198.51.100.1")]).await.status, 200);
        assert_eq!(client.get_with("/limit", &[("x-forwarded-for", "198.51.100.2")]).await.status, 429);
    })
    .await;
}
