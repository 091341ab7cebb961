//! Plugins as users meet them: where they are named, when they run, what they say, and what they keep.

use serde_json::Value;

use crate::harness::{Client, Gateway, Http2, Reply, Response, Upstream, Witness, free_port, with_gateway, within};

fn problem(response: &Response) -> Value {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    serde_json::from_slice(&response.body).expect("JSON")
}

fn reason(response: &Response) -> String {
    problem(response)["reason"].as_str().expect("a reason").to_owned()
}

/// A route for every request with one plugin of this type and configuration.
fn one(kind: &str, config: &str, url: &str) -> String {
    format!(
        "plugins: [{{name: p, type: {kind}, config: {config}}}]\n\
         routes: [{{name: all, path: /api, plugins: [p], backend: \"{url}\"}}]\n"
    )
}

fn set(name: &str, value: &str) -> String {
    format!("{{name: {name}, type: headers, config: {{request: {{set: {{x-by: {value}}}}}}}}}")
}

#[tokio::test]
async fn the_most_specific_place_has_its_plugins_run() {
    let upstream = Witness::echo().await;
    let (web, plain) = (free_port(), free_port());
    let plugins = ["all", "web", "users", "route", "own"].map(|name| set(name, name)).join(", ");
    let url = upstream.url();
    let manifest = format!(
        r#"
defaults: {{plugins: [all, ids]}}
listeners:
- {{name: web, address: "127.0.0.1:{web}", plugins: [web]}}
- {{name: plain, address: "127.0.0.1:{plain}"}}
backends:
- {{name: users, endpoints: ["{url}"], plugins: [users]}}
- {{name: bare, endpoints: ["{url}"]}}
plugins: [{plugins}, {{name: off, type: headers, enabled: false}}, {{name: ids, type: request_id}}]
routes:
- {{name: own, path: /own, plugins: [route], backend: [{{name: users, plugins: [own]}}]}}
- {{name: route, path: /route, plugins: [route], backend: users}}
- {{name: backend, path: /backend, backend: users}}
- {{name: listener, path: /listener, backend: bare}}
- {{name: off, path: /off, plugins: [off], backend: users}}
"#
    );
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let by = async |port: u16, path: &str| {
        let seen = Client::connect(([127, 0, 0, 1], port).into()).await.get(path).await.text();
        assert!(seen.contains("x-request-id: "), "the defaults have another type: {seen}");
        let line = seen.lines().find_map(|line| line.strip_prefix("x-by: "));
        line.unwrap_or_default().to_owned()
    };
    for (path, on_web, on_plain) in [
        ("/own", "own", "own"),
        ("/route", "route", "route"),
        ("/backend", "users", "users"),
        ("/listener", "web", "all"),
        ("/off", "", ""),
    ] {
        assert_eq!((by(web, path).await, by(plain, path).await), (on_web.into(), on_plain.into()), "{path}");
    }
    for (path, listener, chain) in [
        ("/own", "web", "plugins ids (request_id), own (headers)"),
        ("/listener", "web", "plugins ids (request_id), web (headers)"),
        ("/listener", "plain", "plugins ids (request_id), all (headers)"),
        ("/off", "web", "plugins ids (request_id)"),
    ] {
        let url = format!("http://a{path}");
        let said = gateway.gatectl(&["explain", "GET", &url, "--listener", listener]).await.expect(0);
        assert!(said.trim_end().ends_with(chain), "{said}");
    }
    let said = gateway.gatectl(&["explain", "GET", "http://a/listener"]).await.expect(0);
    let both = "plugins ids (request_id), all (headers); by listener web, plugins ids (request_id), web (headers)";
    assert!(said.trim_end().ends_with(both), "{said}");
    let table = gateway.gatectl(&["get", "plugins"]).await.expect(0);
    let off = table.lines().find(|line| line.starts_with("off ")).expect("a row");
    assert!(off.contains("headers") && off.split_whitespace().nth(2) == Some("off"), "{table}");
    assert!(gateway.gatectl(&["get", "defaults"]).await.expect(0).contains("all, ids"));
    // What is shown is what was applied.
    let yaml = gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0);
    gateway.write("again.yaml", &yaml);
    let again = gateway.gatectl(&["apply", "-f", "again.yaml"]).await;
    assert!(again.stdout.contains("nothing") || again.stderr.contains("nothing"), "{again:?}");
    // Nothing is removed while it is named; then it is.
    let refused = gateway.gatectl(&["delete", "plugin", "users"]).await.expect_stderr(1);
    assert!(refused.contains("still used by backend \"users\""), "{refused}");
    gateway.gatectl(&["delete", "defaults", "default"]).await.expect(0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn refusals_are_problems_with_a_reason_in_answer_log_metric_and_grpc_status() {
    let upstream = Witness::saying("x").await;
    let manifest = one("ip_filter", "{deny: [127.0.0.0/8]}", &upstream.url());
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let refused = client.get("/api").await;
        assert_eq!(refused.status, 403);
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Forbidden", "status": 403,
            "detail": "requests from this address are not served", "reason": "ip_denied",
        });
        assert_eq!(problem(&refused), expected);
        let mut http2 = Http2::connect(gateway.proxy_addr()).await;
        let call =
            http2.request("POST", "/api", &[("content-type", "application/grpc"), ("te", "trailers")], b"").await;
        assert_eq!((call.status, call.header("grpc-status")), (200, Some("7")));
        assert_eq!(call.header("grpc-message"), Some("requests from this address are not served"));
        // What is forged counts for nothing.
        let forged = client.get_with("/api", &[("x-forwarded-for", "10.0.0.1")]).await;
        assert_eq!(reason(&forged), "ip_denied");
        let metrics = gateway.metrics(0).await;
        let line = "rustygate_plugin_answers_total{plugin=\"p\",type=\"ip_filter\",reason=\"ip_denied\"} 3";
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
        assert!(upstream.requests().is_empty());
    })
    .await;
}

/// Returns when no request is under way: a client has its answer a moment before.
async fn all_over(gateway: &Gateway) {
    let active = "rustygate_active_connections{route=\"all\"";
    let is_over = |metrics: String| metrics.lines().any(|line| line.starts_with(active) && line.ends_with(" 0"));
    within("the end of all", async { while !is_over(gateway.metrics(0).await) {} }).await;
}

#[tokio::test]
async fn what_a_plugin_keeps_survives_pushes_and_its_own_change() {
    let upstream = Upstream::start().await;
    let manifest = |requests: u32, more: &str| {
        let config = format!("{{requests: {requests}}}");
        one("concurrency_limit", &config, &upstream.url()) + more
    };
    let mut gateway = Gateway::builder().manifest(&manifest(2, "")).start().await;
    let addr = gateway.proxy_addr();
    let (mut first, mut second) = (Client::connect(addr).await, Client::connect(addr).await);
    let ask = b"GET /api HTTP/1.1\r\nhost: a\r\n\r\n";
    first.send(ask).await;
    let mut wire = upstream.accept().await;
    wire.until("\r\n\r\n").await;
    second.send(ask).await;
    let mut other = upstream.accept().await;
    other.until("\r\n\r\n").await;
    let mut third = Client::connect(addr).await;
    assert_eq!(reason(&third.get("/api").await), "concurrency_limited");
    let more = format!("- {{name: other, path: /other, backend: \"http://127.0.0.1:{}\"}}\n", free_port());
    gateway.apply(&format!("routes:\n{more}")).await;
    assert_eq!(third.get("/api").await.status, 429, "after the push of another route");
    gateway.apply(&manifest(1, "")).await;
    assert_eq!(third.get("/api").await.status, 429, "after a push of the plugin itself");
    // One ends, one is still under way: as many as may be now.
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    assert_eq!(first.response(true).await.status, 200);
    assert_eq!(third.get("/api").await.status, 429);
    other.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    assert_eq!(second.response(true).await.status, 200);
    all_over(&gateway).await;
    third.send(ask).await;
    let mut last = upstream.accept().await;
    last.until("\r\n\r\n").await;
    last.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(third.response(true).await.status, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn so_many_requests_are_under_way_over_all_workers_and_no_more() {
    let upstream = Witness::start(|_| Reply::Hold).await;
    let manifest = one("concurrency_limit", "{requests: 5}", &upstream.url());
    with_gateway(&manifest, async |gateway| {
        let mut clients = Vec::new();
        for _ in 0..40 {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            client.send(b"GET /api HTTP/1.1\r\nhost: a\r\n\r\n").await;
            clients.push(client);
        }
        let refused =
            "rustygate_plugin_answers_total{plugin=\"p\",type=\"concurrency_limit\",reason=\"concurrency_limited\"} 35";
        within("the others' refusal", async { while !gateway.metrics(0).await.contains(refused) {} }).await;
        within("those that may", async {
            while upstream.requests().len() < 5 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(upstream.requests().len(), 5);
        drop(clients);
        // When they have left there is room again.
        all_over(gateway).await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        client.send(b"GET /api HTTP/1.1\r\nhost: a\r\n\r\n").await;
        within("one more", async {
            while upstream.requests().len() < 6 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_is_asked_who_they_are_and_the_answer_is_for_its_origin() {
    let upstream = Witness::saying("x").await;
    let config = "{allow_origins: [\"https://app.example\"], allow_credentials: true, allow_methods: [PUT]}";
    let guarded = format!(
        "consumers: [{{name: app, api_keys: [app-0123456789abcdef]}}]\n\
         plugins: [{{name: keys, type: api_key}}, {{name: pages, type: cors, config: {config}}}]\n\
         routes: [{{name: all, path: /api, plugins: [keys, pages], backend: \"{}\"}}]\n",
        upstream.url()
    );
    with_gateway(&guarded, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let origin = ("origin", "https://app.example");
        let asks = ("access-control-request-method", "PUT");
        let preflight = client.request("OPTIONS", "/api", &[origin, asks], b"").await;
        assert_eq!(preflight.status, 204);
        assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
        assert_eq!(preflight.header("access-control-allow-methods"), Some("PUT"));
        let other = client.request("OPTIONS", "/api", &[("origin", "https://evil.example"), asks], b"").await;
        assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None));
        assert_eq!(reason(&other), "cors_denied");
        assert!(upstream.requests().is_empty());
        // The page can read why it is refused, and what it gets.
        for (key, status) in [("wrong", 401), ("app-0123456789abcdef", 200)] {
            let answer = client.get_with("/api", &[origin, ("x-api-key", key)]).await;
            assert_eq!((answer.status, answer.header("vary")), (status, Some("Origin")));
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        }
        assert_eq!(client.request("OPTIONS", "/api", &[origin], b"").await.status, 401, "that is no preflight");
    })
    .await;
}

#[tokio::test]
async fn redirects_and_rewrites_change_where_a_request_goes() {
    let upstream = Witness::echo().await;
    let url = upstream.url();
    let manifest = format!(
        r#"
plugins:
- {{name: moved, type: redirect, config: {{prefix: /new, status: 308}}}}
- {{name: rewritten, type: rewrite, config: {{regex: {{match: "^/users/([0-9]+)", replace: "/v2/$1"}}, host: users.internal}}}}
- {{name: escape, type: rewrite, config: {{regex: {{match: x, replace: ""}}}}}}
routes:
- {{name: old, path: /old, plugins: [moved], backend: "{url}"}}
- {{name: users, path: /users, plugins: [rewritten], backend: "{url}/base"}}
- {{name: escape, path: /escape, plugins: [escape], backend: "{url}"}}
"#
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await.host("shop.example");
        let moved = client.get("/old/a?b=c").await;
        assert_eq!((moved.status, moved.header("location")), (308, Some("http://shop.example/new/a?b=c")));
        let seen = client.get("/users/7/x?q=1").await.text();
        assert!(seen.starts_with("GET /base/v2/7/x?q=1 HTTP/1.1\r\n"), "{seen}");
        let lower = seen.to_lowercase();
        assert!(lower.contains("\r\nhost: users.internal\r\n"), "{seen}");
        assert!(lower.contains("\r\nx-forwarded-host: shop.example\r\n"), "{seen}");
        assert_eq!(reason(&client.get("/escape/.x./admin").await), "rewrite_failed");
        let mut http2 = Http2::connect(gateway.proxy_addr()).await;
        let seen = http2.get("/users/8").await.text();
        assert!(seen.starts_with("GET /base/v2/8 HTTP/1.1\r\n"), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn bodies_are_bounded_however_they_come() {
    let upstream = Witness::saying("x").await;
    with_gateway(&one("body_limit", "{bytes: 10}", &upstream.url()), async |gateway| {
        let addr = gateway.proxy_addr();
        assert_eq!(Client::connect(addr).await.post("/api", &[b'x'; 10]).await.status, 200);
        let refused = Client::connect(addr).await.post("/api", &[b'x'; 11]).await;
        assert_eq!((refused.status, reason(&refused).as_str()), (413, "body_too_large"));
        assert_eq!(upstream.requests().len(), 1);
        let mut chunked = Client::connect(addr).await;
        chunked
            .send(b"POST /api HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n")
            .await;
        let refused = chunked.response(false).await;
        assert_eq!((refused.status, reason(&refused).as_str()), (413, "body_too_large"));
    })
    .await;
}

#[tokio::test]
async fn a_request_has_one_id_for_client_backend_and_headers() {
    let upstream = Witness::echo().await;
    let manifest = format!(
        r#"
plugins:
- {{name: ids, type: request_id}}
- {{name: tag, type: headers, config: {{request: {{set: {{x-tag: "${{request_id}}/${{route}}"}}}}}}}}
routes: [{{name: all, path: /, plugins: [tag, ids], backend: "{}"}}]
"#,
        upstream.url()
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let answer = client.get_with("/", &[("x-request-id", "forged")]).await;
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert_eq!(id.len(), 36);
        let seen = answer.text();
        assert!(seen.contains(&format!("x-request-id: {id}\r\n")), "{seen}");
        assert!(seen.contains(&format!("x-tag: {id}/all\r\n")), "whatever the order in which they are named: {seen}");
        assert!(!seen.contains("forged"), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn faults_are_injected_and_what_takes_too_long_is_ended() {
    let upstream = Witness::saying("x").await;
    let url = upstream.url();
    let manifest = format!(
        r#"
plugins:
- {{name: fails, type: fault, config: {{abort: {{status: 502}}}}}}
- {{name: slow, type: fault, config: {{delay: {{time: 50ms}}}}}}
- {{name: stuck, type: fault, config: {{delay: {{time: 1m}}}}}}
routes:
- {{name: fails, path: /fails, plugins: [fails], backend: "{url}"}}
- {{name: slow, path: /slow, plugins: [slow], backend: "{url}"}}
- {{name: stuck, path: /stuck, plugins: [stuck], backend: "{url}", timeout: 200ms}}
"#
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let fails = client.get("/fails").await;
        assert_eq!((fails.status, reason(&fails).as_str()), (502, "fault_injected"));
        let begun = tokio::time::Instant::now();
        assert_eq!(client.get("/slow").await.status, 200);
        assert!(begun.elapsed().as_millis() >= 50);
        let stuck = client.get("/stuck").await;
        assert_eq!((stuck.status, reason(&stuck).as_str()), (503, "plugin_timeout"));
        assert_eq!(upstream.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_header_can_be_a_secret_that_nobody_is_shown() {
    const TOKEN: &str = "token-that-nobody-may-see";
    let upstream = Witness::echo().await;
    let mut gateway = Gateway::builder().manifest(&one("request_id", "{}", &upstream.url())).start().await;
    gateway.write("token.txt", &format!("{TOKEN}\n"));
    let config = "{request: {set: {authorization: {file: token.txt}}}}";
    gateway.write("gate.yaml", &one("headers", config, &upstream.url()));
    let applied = gateway.gatectl(&["apply", "--wait", "-f", "gate.yaml"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    let seen = Client::connect(gateway.proxy_addr()).await.get("/api").await.text();
    assert!(seen.contains(&format!("authorization: {TOKEN}\r\n")), "{seen}");
    let yaml = gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0);
    assert!(yaml.contains("authorization: {sealed: \"sha256:") && !yaml.contains(TOKEN), "{yaml}");
    gateway.write("again.yaml", &yaml);
    let again = gateway.gatectl(&["apply", "-f", "again.yaml"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    // It is there after the control plane opens its database again.
    gateway.restart_control_plane().await;
    gateway.restart_proxy(0).await;
    within("the secret again", async {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        // At first it may be what the disk has.
        while !client.get("/api").await.text().contains(TOKEN) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.shutdown().await;
}
