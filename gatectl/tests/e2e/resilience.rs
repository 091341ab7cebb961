//! Backends that fail, and that nobody notices.

mod load;
mod node;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{
    load::Load,
    node::{Mode, Node, Speaks},
};
use crate::harness::{Client, Gateway, Http2, Reply, Upstream, Wire, Witness, answer, free_port, with_gateway, within};

async fn all_healthy(gateway: &Gateway) {
    loop {
        let metrics = gateway.metrics(0).await;
        let mut endpoints = metrics.lines().filter(|line| line.starts_with("rustygate_endpoint_healthy{"));
        if endpoints.all(|line| line.ends_with(" 1")) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn manifest(nodes: &[Node], speaks: Speaks, rest: &str) -> String {
    let urls: Vec<String> = nodes.iter().map(|node| format!("\"http://{}\"", node.addr)).collect();
    let protocol = match speaks {
        Speaks::Http1 => "http1",
        Speaks::Http2 => "h2c",
    };
    format!(
        "backends: [{{name: b, protocol: {protocol}, endpoints: [{}]{rest}}}]\n\
         routes: [{{name: all, path: /, backend: b}}]\n",
        urls.join(", ")
    )
}

/// Clients of HTTP/1.1 and of HTTP/2 at once.
async fn one_of_three_fails(speaks: Speaks, rest: &str) {
    let mut nodes = [Node::start(speaks).await, Node::start(speaks).await, Node::start(speaks).await];
    let yaml = manifest(&nodes, speaks, rest);
    with_gateway(&yaml, async |gateway| {
        let begun = Instant::now();
        let load = Load::start(gateway.proxy_addr()).await;
        sleep(Duration::from_secs(1)).await;
        for (index, mode) in [Mode::Hung, Mode::Slow, Mode::Unavailable].into_iter().enumerate() {
            nodes[index].is_now(mode);
            sleep(Duration::from_secs(if mode == Mode::Hung { 4 } else { 2 })).await;
            nodes[index].is_now(Mode::Serving);
            all_healthy(gateway).await;
        }
        // Killed for a while, then a rolling restart of all.
        for (index, away) in [(1, 1500), (0, 300), (1, 300), (2, 300)] {
            nodes[index].kill().await;
            sleep(Duration::from_millis(away)).await;
            nodes[index].revive().await;
            sleep(Duration::from_millis(500)).await;
        }
        let (sent, failures) = load.end().await;
        assert!(failures.is_empty(), "{} of {sent}: {:?}", failures.len(), &failures[..failures.len().min(5)]);
        let tries: usize = nodes.iter().map(Node::requests).sum();
        let free = 10 * (begun.elapsed().as_secs_f64().ceil() as usize + 1);
        assert!(tries <= sent + sent / 5 + free, "{tries} tries of {sent} requests");
        let metrics = gateway.metrics(0).await;
        let ejections = metrics.lines().filter(|line| line.starts_with("rustygate_endpoint_ejections_total{"));
        assert!(ejections.clone().any(|line| !line.ends_with(" 0")), "{:?}", ejections.collect::<Vec<_>>());
    })
    .await;
}

const QUICK: &str = ", outlier_detection: {base_ejection_time: 500ms}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_hangs_is_slow_is_unavailable_and_is_killed_and_no_request_fails() {
    one_of_three_fails(Speaks::Http1, QUICK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_that_speak_http2_fails_in_every_way_and_no_request_does() {
    one_of_three_fails(Speaks::Http2, QUICK).await;
}

/// The same with nothing configured. Each ejection lasts 10 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 60 s"]
async fn with_all_defaults_no_request_fails_either() {
    one_of_three_fails(Speaks::Http1, "").await;
    one_of_three_fails(Speaks::Http2, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_fail_they_see_no_more_than_the_budget_allows() {
    tokio::join!(all_fail(Speaks::Http1), all_fail(Speaks::Http2));
}

async fn all_fail(speaks: Speaks) {
    let nodes = [Node::start(speaks).await, Node::start(speaks).await];
    for node in &nodes {
        node.is_now(Mode::Unavailable);
    }
    let yaml = manifest(&nodes, speaks, ", retry_budget: {min_per_second: 5}");
    with_gateway(&yaml, async |gateway| {
        let begun = Instant::now();
        let load = Load::start(gateway.proxy_addr()).await;
        sleep(Duration::from_secs(2)).await;
        let (sent, failures) = load.end().await;
        assert_eq!(failures.len(), sent);
        let tries: usize = nodes.iter().map(Node::requests).sum();
        let free = 5 * (begun.elapsed().as_secs_f64().ceil() as usize + 1);
        assert!(tries > sent && tries <= sent + sent / 5 + free, "{tries} tries of {sent} requests");
        let metrics = gateway.metrics(0).await;
        assert!(metrics.contains("rustygate_retries_denied_total{backend=\"b\"}"), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn an_ejection_is_the_whole_proxys_is_told_and_outlasts_pushes() {
    let good = Witness::saying("good").await;
    let bad = Witness::start(|_| Reply::Send(b"HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n".to_vec())).await;
    let yaml = |push: usize| {
        format!(
            "backends:\n- name: b\n  endpoints: [{{url: \"{}\", weight: {}}}, \"{}\"]\n  \
             outlier_detection: {{base_ejection_time: 1h}}\n\
             routes:\n- {{name: all, path: /, backend: b, retry: {{attempts: 0}}}}\n\
             - {{name: other, path: /other/{push}, backend: \"http://127.0.0.1:1\"}}\n",
            good.url(),
            push + 1,
            bad.url(),
        )
    };
    with_gateway(&yaml(0), async |gateway| {
        let proxy = gateway.proxy_addr();
        let ejected = async {
            while bad.requests().len() < 5 {
                Client::connect(proxy).await.get("/").await;
            }
        };
        within("five failures", ejected).await;
        told(gateway, &[&format!("proxy-0: 1/2 ({} ejected)", bad.addr())]).await;
        for push in 1..=5 {
            gateway.apply(&yaml(push)).await;
            // Over many connections, and so over all workers.
            for _ in 0..8 {
                assert_eq!(Client::connect(proxy).await.get("/").await.text(), "good", "after push {push}");
            }
        }
        assert_eq!(bad.requests().len(), 5);
        let metrics = gateway.metrics(0).await;
        let line = format!("rustygate_endpoint_ejections_total{{backend=\"b\",endpoint=\"{}\"}} 1\n", bad.addr());
        assert!(metrics.contains(&line), "{metrics}");
    })
    .await;
}

/// Answers when it is told to.
async fn held(release: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut release = release.clone();
            tokio::spawn(async move {
                let mut part = [0; 4096];
                while stream.read(&mut part).await.is_ok_and(|bytes| bytes > 0) {
                    release.wait_for(|released| *released).await.expect("the test goes on");
                    if stream.write_all(&answer("late")).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_full_backend_lets_some_wait_and_refuses_the_others() {
    let (release, released) = watch::channel(false);
    let addr = held(released).await;
    let yaml = format!(
        "backends: [{{name: b, endpoints: [\"http://{addr}\"], limits: {{requests: 2, pending: 1, pending_timeout: 30s}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 20s}}]\n"
    );
    with_gateway(&yaml, async |gateway| {
        let proxy = gateway.proxy_addr();
        let mut clients = JoinSet::new();
        for _ in 0..3 {
            clients.spawn(async move { Client::connect(proxy).await.get("/").await });
        }
        let waiting =
            async { while !gateway.metrics(0).await.contains("rustygate_upstream_pending{backend=\"b\"} 1") {} };
        within("a request that waits", waiting).await;
        let refused = Client::connect(proxy).await.get("/").await;
        assert_eq!((refused.status, refused.text().contains("circuit_open")), (503, true), "{refused:?}");
        release.send_replace(true);
        while let Some(response) = clients.join_next().await {
            assert_eq!(response.expect("a client").text(), "late");
        }
        assert_eq!(Client::connect(proxy).await.get("/").await.text(), "late", "there is room again");
        let metrics = gateway.metrics(0).await;
        let refused = "rustygate_upstream_refused_total{backend=\"b\",reason=\"circuit_open\"} 1\n";
        assert!(metrics.contains(refused), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn who_leaves_while_waiting_for_a_full_backend_leaves_the_queue_at_once() {
    let upstream = Upstream::start().await;
    let yaml = format!(
        "backends: [{{name: b, endpoints: [\"{}\"], limits: {{requests: 1, pending: 1, pending_timeout: 60s}}}}]\n\
         routes: [{{name: all, path: /, backend: b, timeout: 60s}}]\n",
        upstream.url()
    );
    with_gateway(&yaml, async |gateway| {
        let proxy = gateway.proxy_addr();
        let mut first = Wire::connect(proxy).await;
        first.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut full = upstream.accept().await;
        full.head().await;
        for (what, request) in [
            ("all of it sent", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("and some of the next", "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /"),
            ("half a body", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf"),
        ] {
            println!("{what}");
            let mut wire = Wire::connect(proxy).await;
            wire.send(request).await;
            pending(gateway, 1).await;
            drop(wire);
            pending(gateway, 0).await;
        }
        // A stream that is given up, and a connection that ends with its stream.
        let mut client = Http2::connect(proxy).await;
        let (response, mut stream) = client.open(client.head("POST", "/", &[]), false).await;
        pending(gateway, 1).await;
        stream.send_reset(h2::Reason::CANCEL);
        pending(gateway, 0).await;
        drop((response, stream));
        let (response, _stream) = client.open(client.head("GET", "/", &[]), true).await;
        pending(gateway, 1).await;
        client.driver.abort();
        pending(gateway, 0).await;
        drop(response);
        // What a client sends ahead is not lost by looking.
        let mut wire = Wire::connect(proxy).await;
        wire.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n").await;
        pending(gateway, 1).await;
        wire.send("complete").await;
        full.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nfirst").await;
        first.until("first").await;
        let mut next = upstream.accept().await;
        next.head().await;
        assert_eq!(next.exactly(8).await, b"complete");
        next.send(answer("last")).await;
        wire.until("last").await;
    })
    .await;
}

/// Returns when so many requests wait for their turn.
async fn pending(gateway: &Gateway, number: u32) {
    let line = format!("rustygate_upstream_pending{{backend=\"b\"}} {number}\n");
    let what = format!("{number} requests that wait");
    // In a box: it is a part of a test that has many of them.
    Box::pin(within(&what, async { while !gateway.metrics(0).await.contains(&line) {} })).await;
}

#[tokio::test]
async fn who_waits_too_long_for_a_full_backend_is_refused() {
    let (release, released) = watch::channel(false);
    let addr = held(released).await;
    let yaml = format!(
        "backends: [{{name: b, endpoints: [\"http://{addr}\"], limits: {{connections: 1, pending_timeout: 50ms}}}}]\n\
         routes: [{{name: all, path: /, backend: b}}]\n"
    );
    // Another worker might make a connection of its own.
    let builder = Gateway::builder().proxy_settings(|settings| settings.workers = Some(1));
    let gateway = builder.manifest(&yaml).start().await;
    let proxy = gateway.proxy_addr();
    let (one, other) = tokio::join!(
        async {
            let response = Client::connect(proxy).await.get("/").await;
            release.send_replace(true);
            response
        },
        async {
            let response = Client::connect(proxy).await.get("/").await;
            release.send_replace(true);
            response
        },
    );
    let mut outcomes = [one, other].map(|response| (response.status, response.text().contains("upstream_overloaded")));
    outcomes.sort_unstable();
    assert_eq!(outcomes, [(200, false), (503, true)]);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_cookie_of_the_gateway_keeps_a_client_with_an_endpoint_over_workers_and_pushes() {
    let nodes = [Witness::saying("0").await, Witness::saying("1").await, Witness::saying("2").await];
    let urls = nodes.each_ref().map(|node| format!("\"{}\"", node.url())).join(", ");
    let yaml = format!(
        "backends:\n- name: b\n  endpoints: [{urls}]\n  load_balancing: {{sticky: {{cookie: node, ttl: 1h, secure: true}}}}\n\
         routes: [{{name: all, path: /, backend: b}}]\n"
    );
    with_gateway(&yaml, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let first = client.get("/").await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        let (pair, attributes) = cookie.split_once("; ").expect("attributes");
        assert_eq!(attributes, "Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax");
        assert!(pair.starts_with("node=") && pair.len() == "node=".len() + 8, "{pair}");
        for round in 0..20 {
            if round == 10 {
                gateway.apply("routes: [{name: other, path: /other, backend: \"http://127.0.0.1:9\"}]\n").await;
            }
            let mut other_worker = Client::connect(gateway.proxy_addr()).await;
            let again = other_worker.request("GET", "/", &[("cookie", pair)], b"").await;
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
        }
    })
    .await;
}

#[tokio::test]
async fn a_hash_and_a_sticky_split_lead_a_client_to_the_same_place_over_every_proxy() {
    let nodes = [Witness::saying("0").await, Witness::saying("1").await, Witness::saying("2").await];
    let canary = Witness::saying("canary").await;
    let urls = nodes.each_ref().map(|node| format!("\"{}\"", node.url())).join(", ");
    let yaml = format!(
        "backends:\n- name: b\n  endpoints: [{urls}]\n  \
         load_balancing: {{policy: consistent_hash, hash_on: {{cookie: user}}}}\n\
         - {{name: canary, endpoints: [\"{}\"]}}\n\
         routes:\n- name: all\n  path: /\n  sticky_split: {{header: x-user}}\n  \
         backend: [{{name: b, weight: 70}}, {{name: canary, weight: 30}}]\n",
        canary.url()
    );
    let gateway = Gateway::builder().proxies(2).manifest(&yaml).start().await;
    let mut clients =
        [Client::connect(gateway.proxy_addr_of(0)).await, Client::connect(gateway.proxy_addr_of(1)).await];
    let mut canaries = 0;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..200 {
        let (header, cookie) = (format!("u{user}"), format!("user=c{user}"));
        let mut answers = Vec::new();
        for client in &mut clients {
            for _ in 0..2 {
                answers.push(client.request("GET", "/", &[("x-user", &header), ("cookie", &cookie)], b"").await.text());
            }
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        canaries += usize::from(answers[0] == "canary");
        seen.extend(answers);
    }
    assert!((40..=80).contains(&canaries), "{canaries} of 200");
    assert_eq!(seen.len(), 4, "{seen:?}");
    gateway.shutdown().await;
}

/// Returns when `get backends` shows all of this.
async fn told(gateway: &Gateway, wanted: &[&str]) {
    let shown = async {
        loop {
            let output = gateway.gatectl(&["get", "backends"]).await;
            assert_eq!(output.code, 0, "{}", output.stderr);
            if wanted.iter().all(|wanted| output.stdout.contains(wanted)) {
                return;
            }
        }
    };
    within("what is wrong", shown).await;
}

#[tokio::test]
async fn checks_of_each_type_tell_who_is_well_and_everyone_is_told() {
    let good = Witness::saying("good").await;
    let bad = Witness::start(|seen| match seen.line().starts_with("GET /base/health?x=1 ") {
        true => {
            assert_eq!(seen.header("host").as_deref(), Some("checks.example"));
            assert_eq!(seen.header("x-check").as_deref(), Some("yes"));
            Reply::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())
        }
        false => Reply::Send(answer("bad")),
    })
    .await;
    let dead = free_port();
    let (reporter, service) = tonic_health::server::health_reporter();
    let grpc = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let grpc_addr = grpc.local_addr().expect("an address");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(grpc);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    reporter.set_service_status("shop", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("cart", tonic_health::ServingStatus::NotServing).await;
    let times = "interval: 100ms, healthy_threshold: 1, unhealthy_threshold: 1";
    let yaml = format!(
        "backends:\n\
         - name: web\n  endpoints: [\"{}\", \"{}/base\"]\n  \
           health_check: {{path: \"/health?x=1\", host: checks.example, statuses: [200], headers: {{X-Check: \"yes\"}}, {times}}}\n\
         - name: raw\n  endpoints: [\"http://127.0.0.1:{dead}\"]\n  health_check: {{type: tcp, {times}}}\n\
         - name: shop\n  endpoints: [\"http://{grpc_addr}\"]\n  health_check: {{type: grpc, service: SERVICE, {times}}}\n\
         routes:\n- {{name: web, path: /, backend: web}}\n",
        good.url(),
        bad.url()
    );
    with_gateway(&yaml.replace("SERVICE", "cart"), async |gateway| {
        let bad_addr = bad.addr();
        told(
            gateway,
            &[
                &format!("proxy-0: 1/2 ({bad_addr} down)"),
                &format!("proxy-0: 0/1 (127.0.0.1:{dead} down)"),
                &format!("proxy-0: 0/1 ({grpc_addr} down)"),
            ],
        )
        .await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.text(), "good");
        }
        let metrics = gateway.metrics(0).await;
        let line = format!("rustygate_endpoint_healthy{{backend=\"web\",endpoint=\"{bad_addr}\"}} 0\n");
        assert!(metrics.contains(&line), "{metrics}");
        let status = gateway.gatectl(&["status", "-o", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
        let unhealthy = status["proxies"][0]["unhealthy"].as_array().expect("a list");
        assert_eq!(unhealthy.len(), 3, "{unhealthy:?}");
        assert!(unhealthy.iter().all(|one| one["state"] == "down" && one["backend"].is_null()), "{unhealthy:?}");
        gateway.apply(&yaml.replace("SERVICE", "shop")).await;
        told(gateway, &["proxy-0: 1/1"]).await;
        // Another proxy that joins, and a control plane that comes back, are told the whole.
        gateway.restart_control_plane().await;
        told(gateway, &[&format!("proxy-0: 1/2 ({bad_addr} down)")]).await;
    })
    .await;
}
