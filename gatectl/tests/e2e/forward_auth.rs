//! A service that says which requests pass: what it is told, what its answers do, and what becomes of requests when it
//! gives none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Client, Gateway, HANDSHAKE, Http2, Peer, Reply, Response, Upstream, Witness, answer, free_port, reply, within,
};

/// A route for every request with one plugin of that further configuration.
fn guarded(auth: &str, more: &str, url: &str) -> String {
    format!(
        "backends: [{{name: auth, endpoints: [\"{auth}\"]}}]\n\
         plugins: [{{name: gate, type: forward_auth, config: {{backend: auth{more}}}}}]\n\
         routes: [{{name: all, path: /app, plugins: [gate], backend: \"{url}\"}}]\n"
    )
}

fn reason(response: &Response) -> String {
    let body = serde_json::from_slice::<Value>(&response.body).ok();
    body.and_then(|body| Some(body["reason"].as_str()?.to_owned())).unwrap_or_default()
}

/// The first value of a line in what an echo says it got.
fn line<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let own = |line: &&'t str| line.split_once(": ").is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
    text.lines().find(own).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
}

/// Says who asks, by the cookie.
async fn service() -> Witness {
    Witness::start(|seen| match seen.header("cookie").as_deref() {
        Some("user=alice") => {
            Reply::Send(b"HTTP/1.1 200 OK\r\nRemote-User: alice\r\nRemote-Groups: users, admins\r\ncontent-length: 2\r\n\r\nok".into())
        }
        // Knows, and does not say who it is.
        Some(_) => Reply::Send(answer("ok")),
        None => Reply::Send(
            b"HTTP/1.1 302 Found\r\nLocation: https://login.example/?rd=1\r\nSet-Cookie: state=1\r\nSet-Cookie: nonce=2\r\n\
              content-type: text/html\r\ncontent-length: 5\r\n\r\nlogin"
                .into(),
        ),
    })
    .await
}

const TERMS: &str = ", path: /verify, response_headers: [Remote-User, Remote-Groups]";

#[tokio::test]
async fn headers_of_the_service_are_its_own_by_http1_and_http2_and_behind_bodies() {
    let (auth, upstream) = (service().await, Witness::echo().await);
    let gateway = Gateway::builder().manifest(&guarded(&auth.url(), TERMS, &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("shop.example");
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    let forged =
        [("remote-user", "root"), ("remote_user", "root"), ("remote-groups", "root"), ("x-forwarded-uri", "/public")];
    for (cookie, user) in [("user=alice", Some("alice")), ("user=nobody", None)] {
        let headers = [&[("cookie", cookie), ("REMOTE-USER", "root"), ("Remote.Groups", "root")], &forged[..]].concat();
        let seen = client.get_with("/app/%61/../b?q=1", &headers).await;
        let text = seen.text();
        assert_eq!((seen.status, line(&text, "remote-user")), (200, user), "{text}");
        assert!(!text.contains("root") && text.starts_with("GET /b?q=1 "), "{text}");
        let headers = [&[("cookie", cookie)], &forged[..]].concat();
        let seen = http2.request("POST", "/app/b", &headers, b"body").await;
        let text = seen.text();
        assert_eq!((seen.status, line(&text, "remote-user")), (200, user), "{text}");
        assert!(!text.contains("root") && text.contains("\r\nbody\r\n"), "{text}");
        client
            .send(
                format!(
                    "POST /app/c HTTP/1.1\r\nhost: a\r\ncookie: {cookie}\r\ntransfer-encoding: chunked\r\n\r\n\
                     1\r\nx\r\n0\r\nRemote-User: root\r\nremote_groups: root\r\nx-sum: 1\r\n\r\n"
                )
                .as_bytes(),
            )
            .await;
        assert_eq!(client.response(false).await.status, 200);
        let seen = String::from_utf8_lossy(&upstream.requests().last().expect("a request").bytes).into_owned();
        assert!(!seen.contains("root"), "{seen}");
    }
    // The service got a request for each, without a body, on connections that it keeps.
    let asked = auth.requests();
    assert_eq!(asked.len(), 6);
    assert!(auth.connections().len() <= 3, "{}", auth.connections().len());
    for seen in &asked {
        let text = String::from_utf8_lossy(&seen.bytes).into_owned();
        assert_eq!(seen.line(), "GET /verify HTTP/1.1");
        assert!(!text.contains("root") && !text.contains("public") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(seen.header("content-length").is_none() && seen.header("transfer-encoding").is_none(), "{text}");
    }
    assert_eq!(asked[0].header("x-forwarded-uri").as_deref(), Some("/app/b?q=1"), "the canonical path");
    assert_eq!(asked[0].header("x-original-url").as_deref(), Some("http://shop.example/app/b?q=1"));
    assert_eq!(asked[0].header("x-forwarded-host").as_deref(), Some("shop.example"));
    assert_eq!(asked[0].header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    let posted = asked.iter().filter(|seen| seen.header("x-forwarded-method").as_deref() == Some("POST"));
    assert_eq!(posted.count(), 4);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_the_clients_answer_as_the_service_gave_it_and_a_status_of_grpc_for_callers() {
    let (auth, upstream) = (service().await, Witness::echo().await);
    let gateway = Gateway::builder().manifest(&guarded(&auth.url(), TERMS, &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for _ in 0..2 {
        let refused = client.get("/app").await;
        assert_eq!((refused.status, refused.text().as_str()), (302, "login"));
        assert_eq!(refused.header("location"), Some("https://login.example/?rd=1"));
        let cookies = refused.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["state=1", "nonce=2"]);
    }
    let head = client.request("HEAD", "/app", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (302, 0));
    // A small body that nobody asked for does not cost the connection.
    assert_eq!(client.post("/app", b"small").await.status, 302);
    assert_eq!(client.get("/app").await.status, 302);
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    let refused = http2.get("/app").await;
    assert_eq!((refused.status, refused.header("location")), (302, Some("https://login.example/?rd=1")));
    let call = http2.request("POST", "/app", &[("content-type", "application/grpc"), ("te", "trailers")], b"").await;
    assert_eq!((call.status, call.header("grpc-status"), call.header("location")), (200, Some("16"), None));
    assert_eq!(call.header("content-type"), Some("application/grpc"));
    client.send(format!("GET /app HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}\r\n").as_bytes()).await;
    assert_eq!(client.response(false).await.status, 302, "a WebSocket is a request");
    assert!(upstream.requests().is_empty());
    let metrics = gateway.metrics(0).await;
    let counted = "rustygate_plugin_answers_total{plugin=\"gate\",type=\"forward_auth\",reason=\"auth_denied\"} 8";
    assert!(metrics.lines().any(|found| found == counted), "{metrics}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn who_asks_is_known_to_what_comes_after() {
    let (auth, upstream) = (service().await, Witness::echo().await);
    let manifest = format!(
        "backends: [{{name: auth, endpoints: [\"{}\"]}}]\n\
         plugins:\n\
         - {{name: gate, type: forward_auth, config: {{backend: auth, consumer_header: Remote-User, groups_header: remote-groups}}}}\n\
         - {{name: admins, type: acl, config: {{allow: [admins]}}}}\n\
         routes: [{{name: all, path: /, plugins: [admins, gate], backend: \"{}\"}}]\n",
        auth.url(),
        upstream.url()
    );
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let headers = [("cookie", "user=alice"), ("x-consumer-name", "root"), ("x_consumer_groups", "root")];
    let text = client.get_with("/", &headers).await.text();
    assert_eq!(line(&text, "x-consumer-name"), Some("alice"));
    assert_eq!(line(&text, "x-consumer-groups"), Some("users,admins"));
    assert!(!text.contains("root"), "{text}");
    let headers = [("cookie", "user=bob"), ("x-consumer-groups", "admins")];
    let refused = client.get_with("/", &headers).await;
    assert_eq!((refused.status, reason(&refused)), (403, "acl_denied".to_owned()));
    gateway.shutdown().await;
}

/// Each way in which a service gives no answer; each route does what it says.
#[tokio::test]
async fn a_service_that_hangs_resets_or_talks_nonsense_is_no_yes() {
    let upstream = Witness::echo().await;
    let ways: [(&str, Reply); 6] = [
        ("hangs", Reply::Hold),
        ("closes", Reply::Close),
        ("garbage", Reply::SendAndClose(b"\x16\x03\x01 nonsense\r\n\r\n".to_vec())),
        ("cut", Reply::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx".to_vec())),
        ("half a head", Reply::SendAndClose(b"HTTP/1.1 200 OK\r\nRemote-Us".to_vec())),
        ("error", Reply::Send(b"HTTP/1.1 503 Busy\r\nRemote-User: root\r\ncontent-length: 0\r\n\r\n".to_vec())),
    ];
    let plugin = |name: &str, backend: &str, more: &str| {
        format!(
            "- {{name: {name}, type: forward_auth, config: {{backend: {backend}, timeout: 100ms, response_headers: [Remote-User]{more}}}}}\n"
        )
    };
    let (mut services, mut backends, mut plugins, mut routes) =
        (Vec::new(), String::new(), String::new(), String::new());
    for (index, (_, reply)) in ways.iter().enumerate() {
        let reply = reply.clone();
        let service = Witness::start(move |_| reply.clone()).await;
        backends += &format!("- {{name: s{index}, endpoints: [\"{}\"]}}\n", service.url());
        services.push(service);
    }
    // Nobody is there at all.
    backends += &format!("- {{name: s{}, endpoints: [\"http://127.0.0.1:{}\"]}}\n", ways.len(), free_port());
    backends += &format!("- {{name: s{}, endpoints: [{{url: \"http://127.0.0.1:1\", weight: 0}}]}}\n", ways.len() + 1);
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).chain(["refused", "no endpoint"]).collect();
    for index in 0..names.len() {
        plugins += &plugin(&format!("c{index}"), &format!("s{index}"), "");
        plugins += &plugin(&format!("o{index}"), &format!("s{index}"), ", on_error: open");
        for way in ["c", "o"] {
            routes += &format!(
                "- {{name: {way}{index}, path: /{way}{index}, plugins: [{way}{index}], backend: \"{}\"}}\n",
                upstream.url()
            );
        }
    }
    let manifest = format!("backends:\n{backends}plugins:\n{plugins}routes:\n{routes}");
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    for (index, name) in names.iter().enumerate() {
        let refused = client.get_with(&format!("/c{index}"), &[("remote-user", "root")]).await;
        assert_eq!((refused.status, reason(&refused)), (503, "auth_unavailable".to_owned()), "{name}");
        let call = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = http2.request("POST", &format!("/c{index}"), &call, b"").await;
        assert_eq!((call.status, call.header("grpc-status")), (200, Some("14")), "{name}");
        let before = upstream.requests().len();
        let passed = client.get_with(&format!("/o{index}"), &[("remote_user", "root"), ("accept", "*/*")]).await;
        assert!(passed.status == 200 && !passed.text().contains("root"), "{name}: {passed:?}");
        assert_eq!(upstream.requests().len(), before + 1, "{name}");
    }
    let metrics = gateway.metrics(0).await;
    let errors = format!("rustygate_forward_auth_errors_total {}", names.len() * 3);
    assert!(metrics.lines().any(|found| found == errors), "{metrics}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_no_is_a_no_even_where_errors_open_the_way_and_its_body_never_ends() {
    let upstream = Witness::echo().await;
    let large =
        [b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-length: 100000\r\n\r\n".to_vec(), vec![b'x'; 100_000]];
    let cut = b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-length: 10\r\n\r\nx".to_vec();
    for reply in [Reply::Send(large.concat()), Reply::SendAndClose(cut.clone()), Reply::Send(cut)] {
        let auth = Witness::start(move |_| reply.clone()).await;
        let manifest = guarded(&auth.url(), ", timeout: 500ms, on_error: open", &upstream.url());
        let gateway = Gateway::builder().manifest(&manifest).start().await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..2 {
            let refused = client.get("/app").await;
            assert_eq!((refused.status, reason(&refused)), (401, "auth_denied".to_owned()));
            assert_eq!(refused.header("www-authenticate"), Some("Basic"));
        }
        gateway.shutdown().await;
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_connection_that_the_service_closed_meanwhile_is_made_anew() {
    let upstream = Witness::saying("x").await;
    let auth = Upstream::start().await;
    // One worker's pool.
    let manifest = guarded(&auth.url(), ", timeout: 10s", &upstream.url());
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    const ASK: &[u8] = b"GET /app HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(ASK).await;
    let mut wire = auth.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.response(false).await.status, 200);
    // It takes the next request, and closes without a word of an answer.
    client.send(ASK).await;
    wire.head().await;
    drop(wire);
    let mut wire = auth.accept().await;
    wire.head().await;
    wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.response(false).await.status, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_question_along() {
    let upstream = Witness::saying("x").await;
    let auth = Upstream::start().await;
    let manifest = guarded(&auth.url(), ", timeout: 60s", &upstream.url());
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    client.send(b"GET /app HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut wire = auth.accept().await;
    wire.head().await;
    drop(client);
    wire.end().await;
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    let head = http2.head("GET", "/app", &[]);
    let (response, mut stream) = http2.open(head, true).await;
    let mut wire = auth.accept().await;
    wire.head().await;
    stream.send_reset(h2::Reason::CANCEL);
    wire.end().await;
    drop(response);
    assert!(upstream.requests().is_empty());
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_service_may_speak_http2_and_refuse_a_stream() {
    let upstream = Witness::echo().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (url, _peer) = Peer::serving(None, move |mut asked| {
        let turn = counted.fetch_add(1, SeqCst);
        async move {
            assert!(asked.request.uri().path() == "/verify" && asked.header("x-forwarded-uri") == Some("/app/x"));
            if turn == 0 {
                return asked.respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let known = asked.header("cookie") == Some("user=alice");
            let head = if known {
                reply(200, &[("remote-user", "alice")])
            } else {
                reply(401, &[("www-authenticate", "Basic")])
            };
            asked.respond.send_response(head, true).expect("sends");
        }
    })
    .await;
    let manifest = guarded(&url, TERMS, &upstream.url()).replace("{name: auth,", "{name: auth, protocol: h2c,");
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let headers = [("cookie", "user=alice"), ("Remote-User", "root")];
    let seen = client.get_with("/app/x", &headers).await;
    assert_eq!((seen.status, line(&seen.text(), "remote-user")), (200, Some("alice")));
    let refused = client.get("/app/x").await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic")));
    assert_eq!(asked.load(SeqCst), 3);
    gateway.shutdown().await;
}

#[tokio::test]
async fn pushes_reach_the_service_when_they_change_it_and_nothing_else() {
    let upstream = Witness::echo().await;
    let (first, second) = (service().await, Witness::start(|_| Reply::Send(answer("any"))).await);
    let mut gateway = Gateway::builder().manifest(&guarded(&first.url(), TERMS, &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.get("/app").await.status, 302);
    gateway.apply(&format!("routes: [{{name: other, path: /other, backend: \"{}\"}}]\n", upstream.url())).await;
    for _ in 0..3 {
        assert_eq!(client.get("/app").await.status, 302);
    }
    assert_eq!(first.connections().len(), 1, "an unrelated push closes nothing");
    gateway.apply(&format!("backends: [{{name: auth, endpoints: [\"{}\"]}}]\n", second.url())).await;
    assert_eq!(client.get("/app").await.status, 200);
    assert_eq!((first.requests().len(), second.requests().len()), (4, 1));
    // It cannot go while it is named, and a name that is none is told where it stands.
    let refused = gateway.gatectl(&["delete", "backend", "auth"]).await.expect_stderr(1);
    assert!(refused.contains("backend \"auth\" is still used by plugin \"gate\""), "{refused}");
    let wrong = guarded(&first.url(), TERMS, &upstream.url()).replace("backend: auth,", "backend: atuh,");
    gateway.write("wrong.yaml", &wrong);
    for command in ["validate", "apply"] {
        let refused = gateway.gatectl(&[command, "-f", "wrong.yaml"]).await.expect_stderr(1);
        assert!(refused.contains("there is no backend \"atuh\"") && refused.contains("wrong.yaml:2:"), "{refused}");
        assert!(refused.contains("did you mean \"auth\"?"), "{refused}");
    }
    assert_eq!(client.get("/app").await.status, 200);
    gateway.shutdown().await;
}

/// A backend's own guards hold for the service too: an endpoint that is down is left alone.
#[tokio::test]
async fn another_endpoint_is_asked_where_one_is_not_there() {
    let (auth, upstream) = (service().await, Witness::echo().await);
    let manifest = guarded(&auth.url(), ", timeout: 5s", &upstream.url())
        .replace("endpoints: [", &format!("endpoints: [\"http://127.0.0.1:{}\", ", free_port()));
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for _ in 0..10 {
        assert_eq!(client.get_with("/app", &[("cookie", "user=alice")]).await.status, 200);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_takes_longer_than_its_time_is_given_up() {
    let upstream = Witness::echo().await;
    let auth = Witness::start(|_| Reply::SendAfter(Duration::from_secs(30), answer("late"))).await;
    let gateway = Gateway::builder().manifest(&guarded(&auth.url(), ", timeout: 50ms", &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let refused = within("a refusal", client.get("/app")).await;
    assert_eq!((refused.status, reason(&refused)), (503, "auth_unavailable".to_owned()));
    assert_eq!(auth.requests().len(), 1, "who hangs is not asked again");
    gateway.shutdown().await;
}
