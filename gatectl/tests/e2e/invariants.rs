//! Invariants of the design that a user can see from outside; the others have their tests beside the code.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
};

use rustygate_proto::v1::{self as wire, wait_response::Outcome};
use tokio::net::TcpStream;

use crate::harness::{Child, Client, Gateway, Reply, Witness, answer, free_port, with_gateway, within};

/// What the fleet says of the only proxy, and of the revision.
async fn waited(gateway: &Gateway, revision: u64) -> (Outcome, wire::Proxy) {
    let wait = wire::WaitRequest { revision, timeout_ms: 10_000 };
    let response = within("wait", async { gateway.fleet().await.wait(wait).await }).await;
    let mut response = response.expect("the control plane answers").into_inner();
    (response.outcome(), response.proxies.pop().expect("a proxy"))
}

#[tokio::test]
async fn a_revision_that_a_proxy_cannot_serve_is_refused_whole_with_every_fault() {
    let (old, new) = (Witness::saying("old").await, Witness::saying("new").await);
    let route = |upstream: &Witness| format!("routes: [{{name: all, path: /, backend: \"{}\"}}]\n", upstream.url());
    with_gateway(&route(&old), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let before = gateway.listeners(0).await;
        // Valid in itself, but these ports are taken where the proxy runs.
        let taken: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("binds")).collect();
        let free = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut yaml = format!("{}listeners:\n- {{name: free, address: \"{free}\"}}\n", route(&new));
        for (name, listener) in ["first", "second"].iter().zip(&taken) {
            let address = listener.local_addr().expect("an address");
            yaml.push_str(&format!("- {{name: {name}, address: \"{address}\"}}\n"));
        }
        let refused = gateway.try_apply(&yaml).await.expect("the control plane takes it");
        let (outcome, proxy) = waited(gateway, refused).await;
        assert_eq!(outcome, Outcome::Refused);
        let named: BTreeSet<_> = proxy.faults.iter().map(|fault| (fault.name.as_str(), fault.field.as_str())).collect();
        assert_eq!(named, BTreeSet::from([("first", "address"), ("second", "address")]), "{:?}", proxy.faults);
        assert_eq!(proxy.revision, refused - 1);

        assert_eq!(client.get("/").await.text(), "old", "nothing of it is served");
        assert_eq!(gateway.listeners(0).await, before);
        assert!(TcpStream::connect(free).await.is_err(), "not even the listener that could be");

        // The next revision is built on the old one, and is served.
        drop(taken);
        let mended = gateway.try_apply(&format!("{}plugins: []\n", route(&new).replace("/,", "/new,"))).await;
        gateway.served(mended.expect("valid")).await;
        let mut client = Client::connect(free).await;
        assert_eq!(client.get("/new").await.text(), "new");
    })
    .await;
}

/// A gateway whose round robin shows: each answer names the server and the connection that it came from.
async fn named(name: &'static str) -> Witness {
    Witness::start(move |seen| Reply::Send(answer(format!("{name} over {}", seen.connection)))).await
}

#[tokio::test]
async fn a_push_leaves_the_turns_and_the_connections_of_what_it_does_not_change() {
    let (one, two) = (named("one").await, named("two").await);
    let yaml = |others: &str| {
        format!(
            "backends:\n- name: pair\n  endpoints: [{{url: \"{}\"}}, {{url: \"{}\"}}]\n  \
             load_balancing: {{policy: round_robin}}\n\
             routes:\n- {{name: pair, path: /, backend: pair}}\n{others}",
            one.url(),
            two.url()
        )
    };
    with_gateway(&yaml(""), async |gateway| {
        // One connection, so one worker, whose turns and pools these are.
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let first = [client.get("/").await.text(), client.get("/").await.text()];
        assert_ne!(first[0], first[1], "they take turns");
        for push in 0..10 {
            let other = format!("- {{name: other, path: /other/{push}, backend: \"http://127.0.0.1:1\"}}\n");
            gateway.apply(&yaml(&other)).await;
            assert_eq!(client.get("/").await.text(), first[push % 2], "after push {push}");
        }
        assert_eq!((one.connections().len(), two.connections().len()), (1, 1), "the connections are used on");
    })
    .await;
}

#[tokio::test]
async fn a_push_leaves_the_retry_budget_of_what_it_does_not_change() {
    let failing =
        Witness::start(|_| Reply::Send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec()))
            .await;
    let yaml = |other: usize| {
        format!(
            "backends: [{{name: b, endpoints: [\"{}\"], retry_budget: {{percent: 20, min_per_second: 0}}}}]\n\
             routes:\n- {{name: all, path: /, backend: b, retry: {{attempts: 1, on: [503]}}}}\n\
             - {{name: other, path: /other/{other}, backend: \"http://127.0.0.1:1\"}}\n",
            failing.url()
        )
    };
    with_gateway(&yaml(0), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for push in 1..=10 {
            for _ in 0..3 {
                assert_eq!(client.get("/").await.status, 503);
            }
            gateway.apply(&yaml(push)).await;
        }
        // One for every five requests; a reset after every three would give none.
        assert_eq!(failing.requests().len(), 36, "tries for 30 requests");
    })
    .await;
}

#[tokio::test]
async fn a_push_leaves_what_checks_know_of_what_it_does_not_change() {
    let up = Witness::saying("up").await;
    // Checks fail, requests would not.
    let down = Witness::start(|seen| match seen.line().contains("/health") {
        true => Reply::Send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_vec()),
        false => Reply::Send(answer("down")),
    })
    .await;
    let yaml = |other: usize| {
        format!(
            "backends:\n- name: pair\n  endpoints: [{{url: \"{}\"}}, {{url: \"{}\"}}]\n  \
             load_balancing: {{policy: round_robin}}\n  \
             health_check: {{path: /health, interval: 100ms, unhealthy_threshold: 1}}\n\
             routes:\n- {{name: pair, path: /, backend: pair}}\n\
             - {{name: other, path: /other/{other}, backend: \"http://127.0.0.1:1\"}}\n",
            up.url(),
            down.url()
        )
    };
    with_gateway(&yaml(0), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let noticed = async {
            let mut in_a_row = 0;
            while in_a_row < 4 {
                in_a_row = if client.get("/").await.text() == "up" { in_a_row + 1 } else { 0 };
            }
        };
        within("a check that fails", noticed).await;
        for push in 1..=20 {
            gateway.apply(&yaml(push)).await;
            for _ in 0..4 {
                assert_eq!(client.get("/").await.text(), "up", "after push {push}");
            }
        }
    })
    .await;
}

/// A data plane with these flags, and where its clients and its admin port are.
async fn proxy(gateway: &Gateway, flags: &[&str]) -> (Child, SocketAddr, SocketAddr) {
    let local = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (listen, admin, url) = (local(), local(), gateway.control_plane_url());
    let (listen_text, admin_text) = (listen.to_string(), admin.to_string());
    let ports = ["--control-plane", &url, "--listen", &listen_text, "--admin-listen", &admin_text, "--workers", "2"];
    let child = Child::data_plane(gateway.folder(), "data-plane", &[&ports[..], flags].concat());
    within("an admin port", async { while TcpStream::connect(admin).await.is_err() {} }).await;
    within("readiness", async { while Client::connect(admin).await.get("/readyz").await.status != 200 {} }).await;
    (child, listen, admin)
}

#[tokio::test]
async fn what_goes_beyond_a_bound_is_refused_and_counted() {
    let upstream = Witness::saying("here").await;
    let yaml = format!("routes: [{{name: all, path: /, backend: \"{}\"}}]\n", upstream.url());
    let gateway = Gateway::builder().proxies(0).manifest(&yaml).start().await;
    let (_child, listen, admin) = proxy(&gateway, &["--max-connections", "2", "--max-body-bytes", "10"]).await;
    let mut clients = [Client::connect(listen).await, Client::connect(listen).await];
    for client in &mut clients {
        assert_eq!(client.post("/", b"0123456789").await.text(), "here");
    }
    let mut third = Client::connect(listen).await;
    assert_eq!(third.response(false).await.status, 503, "one connection too many");
    assert_eq!(clients[0].post("/", b"0123456789+").await.status, 413, "one byte too many");
    assert_eq!(clients[1].get("/").await.text(), "here", "the others do not notice");
    let metrics = Client::connect(admin).await.get("/metrics").await.text();
    assert!(metrics.contains("rustygate_client_connections_refused_total 1\n"), "{metrics}");
    assert!(metrics.contains("rustygate_client_connections_accepted_total 3\n"), "{metrics}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn route_upstream_and_log_see_one_view_of_a_request() {
    let upstream = Witness::saying("here").await;
    let url = upstream.url();
    let yaml = format!(
        "routes:\n- {{name: public, path: /public, backend: \"{url}\"}}\n\
         - {{name: admin, hosts: [example.com], path: /admin, strip_prefix: false, backend: \"{url}\"}}\n"
    );
    let gateway = Gateway::builder().proxies(0).manifest(&yaml).start().await;
    let (mut child, listen, _) = proxy(&gateway, &["--access-log", "access.log"]).await;
    let mut client = Client::connect(listen).await.host("EXAMPLE.com");
    assert_eq!(client.get("/public/%2e%2e//admin/./%7Euser").await.status, 200);
    assert_eq!(upstream.requests()[0].line(), "GET /admin/~user HTTP/1.1");
    child.terminate();
    assert!(child.ended().await.success());
    let log = std::fs::read_to_string(gateway.folder().join("access.log")).expect("a log");
    let line: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    let fields = ["route", "path", "host"].map(|field| line["fields"][field].as_str().unwrap_or_default());
    assert_eq!(fields, ["admin", "/admin/~user", "example.com"], "{log}");
    gateway.shutdown().await;
}
