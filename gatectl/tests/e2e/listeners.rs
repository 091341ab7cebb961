//! A push opens, closes, moves and renames listeners; connections that are open go on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Client, Gateway, Http2, Upstream, Wire, Witness, free_port};

/// These listeners, and a route for every request that each of these routes' listeners brings.
fn manifest(listeners: &[(&str, SocketAddr)], routes: &[(&str, &str)], url: &str) -> String {
    let mut yaml = String::from("listeners:\n");
    for (name, address) in listeners {
        yaml.push_str(&format!("- {{name: {name}, address: \"{address}\"}}\n"));
    }
    yaml.push_str("routes:\n");
    for (path, listener) in routes {
        yaml.push_str(&format!("- {{path: {path}, listeners: [{listener}], backend: \"{url}\"}}\n"));
    }
    yaml
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

async fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

#[tokio::test]
async fn a_route_serves_its_listeners_only() {
    let service = Witness::saying("x").await;
    let (public, private) = (address(), address());
    let yaml =
        manifest(&[("public", public), ("private", private)], &[("/a", "public"), ("/b", "private")], &service.url());
    let gateway = Gateway::builder().manifest(&yaml).start().await;
    for (address, a, b) in [(public, 200, 404), (private, 404, 200)] {
        let mut client = Client::connect(address).await;
        assert_eq!((client.get("/a").await.status, client.get("/b").await.status), (a, b));
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn listeners_come_move_change_their_name_and_go_while_their_connections_stay() {
    let service = Witness::saying("x").await;
    let url = service.url();
    let (first, second, third) = (address(), address(), address());
    let mut gateway = Gateway::builder().manifest(&manifest(&[("web", first)], &[("/a", "web")], &url)).start().await;
    let mut client = Client::connect(first).await;
    assert_eq!(client.get("/a").await.status, 200);
    let mut http2 = Http2::connect(first).await;
    assert_eq!(http2.get("/a").await.status, 200);

    // One more.
    gateway.replace(&manifest(&[("web", first), ("more", second)], &[("/a", "web"), ("/b", "more")], &url)).await;
    let mut other = Client::connect(second).await;
    assert_eq!((other.get("/b").await.status, other.get("/a").await.status), (200, 404));
    assert_eq!(client.get("/a").await.status, 200);

    // The same sockets under each other's names.
    gateway.replace(&manifest(&[("more", first), ("web", second)], &[("/a", "web"), ("/b", "more")], &url)).await;
    assert_eq!((Client::connect(first).await.get("/b").await.status), 200);
    assert_eq!((Client::connect(second).await.get("/a").await.status), 200);
    assert_eq!((client.get("/a").await.status, client.get("/b").await.status), (404, 200));
    assert_eq!((other.get("/a").await.status, other.get("/b").await.status), (200, 404));
    assert_eq!((http2.get("/a").await.status, http2.get("/b").await.status), (404, 200));

    // One moves, the other goes.
    gateway.replace(&manifest(&[("web", third)], &[("/a", "web")], &url)).await;
    assert_eq!(gateway.listeners(0).await, [("web".to_owned(), third)]);
    assert_eq!(Client::connect(third).await.get("/a").await.status, 200);
    assert!(!is_open(first).await && !is_open(second).await);
    // Though nobody new comes that way they go on, but not with the routes of another that has the name now.
    assert_eq!((client.get("/a").await.status, other.get("/a").await.status), (404, 404));
    assert_eq!(http2.get("/a").await.status, 404);

    // Nor do they when the name moves to the socket of another.
    gateway.replace(&manifest(&[("new", third), ("web", first)], &[("/c", "new"), ("/d", "web")], &url)).await;
    assert_eq!((other.get("/d").await.status, other.get("/c").await.status), (404, 404));
    assert_eq!((client.get("/d").await.status, client.get("/c").await.status), (200, 404));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_connection_whose_listener_is_gone_never_passes_without_its_plugins() {
    let service = Witness::saying("x").await;
    let (guarded, open) = (address(), address());
    let manifest = |listeners: &str, plugins: &str| {
        format!(
            "listeners: [{listeners}]\nroutes: [{{name: all, path: /, backend: \"{}\"}}]\nplugins: [{plugins}]\n",
            service.url()
        )
    };
    let closed = "{name: closed, type: respond, config: {status: 403}}";
    let (guarded_listener, open_listener) = (
        format!("{{name: guarded, address: \"{guarded}\", plugins: [closed]}}"),
        format!("{{name: open, address: \"{open}\"}}"),
    );
    let both = manifest(&format!("{guarded_listener}, {open_listener}"), closed);
    let mut gateway = Gateway::builder().manifest(&both).start().await;
    let (mut client, mut other) = (Client::connect(guarded).await, Client::connect(open).await);
    let (mut http2, mut third) = (Http2::connect(guarded).await, Client::connect(guarded).await);
    assert_eq!((client.get("/").await.status, other.get("/").await.status), (403, 200));
    assert_eq!((http2.get("/").await.status, third.get("/").await.status), (403, 403));
    gateway.replace(&manifest(&open_listener, "")).await;
    let refused = client.get("/").await;
    assert_eq!((refused.status, refused.header("connection")), (421, Some("close")));
    assert!(refused.text().contains("\"reason\":\"misdirected\""), "{refused:?}");
    assert_eq!((http2.get("/").await.status, other.get("/").await.status), (421, 200));
    // Nor where the process's own listener is all that there is then.
    gateway.replace("routes: []").await;
    assert_eq!((third.get("/").await.status, http2.get("/").await.status), (421, 421));
    // One without plugins serves its connections on, unless another of its name has plugins by now.
    gateway.replace(&manifest(&format!("{{name: more, address: \"{}\"}}", address()), "")).await;
    assert_eq!(other.get("/").await.status, 200);
    let moved = format!("{{name: open, address: \"{}\", plugins: [closed]}}", address());
    gateway.replace(&manifest(&moved, closed)).await;
    assert_eq!(other.get("/").await.status, 421);
    gateway.shutdown().await;
    assert_eq!(service.requests().len(), 3);
}

#[tokio::test]
async fn an_exchange_that_is_under_way_does_not_notice_that_its_listener_goes() {
    let upstream = Upstream::start().await;
    let (old, new) = (address(), address());
    let yaml = |address| manifest(&[("web", address)], &[("/", "web")], &upstream.url());
    let mut gateway = Gateway::builder().manifest(&yaml(old)).start().await;
    let mut client = Wire::connect(old).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf").await;
    let mut wire = upstream.accept().await;
    wire.until("half").await;
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await;
    client.until("half").await;
    gateway.replace(&yaml(new)).await;
    assert!(!is_open(old).await);
    client.send("rest").await;
    wire.until("rest").await;
    wire.send("rest").await;
    client.until("rest").await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_push_with_a_taken_address_changes_nothing_at_all() {
    let service = Witness::saying("x").await;
    let url = service.url();
    let (web, free) = (address(), address());
    let mut gateway = Gateway::builder().manifest(&manifest(&[("web", web)], &[("/a", "web")], &url)).start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let taken_address = taken.local_addr().expect("an address");
    let push = manifest(&[("web", web), ("free", free), ("taken", taken_address)], &[("/b", "web")], &url);
    gateway.write("push.yaml", &push);
    let refused = gateway.gatectl(&["apply", "--wait", "-f", "push.yaml"]).await.expect_stderr(3);
    assert!(refused.contains("RG0301") && refused.contains("taken"), "{refused}");
    assert!(refused.contains(&taken_address.to_string()), "{refused}");
    assert!(!is_open(free).await, "not even the part that could be");
    let mut client = Client::connect(web).await;
    assert_eq!((client.get("/a").await.status, client.get("/b").await.status), (200, 404));
    let ready = Client::connect(gateway.admin_addr(0)).await.get("/readyz").await;
    assert_eq!(ready.status, 200, "it serves what it had");
    let ready: serde_json::Value = serde_json::from_slice(&ready.body).expect("JSON");
    assert_eq!((&ready["revision"], &ready["refused"]["revision"]), (&1.into(), &2.into()));
    assert_eq!(ready["refused"]["faults"][0]["name"], "taken");

    drop(taken);
    let revision = gateway.apply(&push.replace("/b", "/c")).await;
    assert_eq!(revision, 3);
    assert_eq!(client.get("/c").await.status, 200);
    assert!(is_open(free).await && is_open(taken_address).await);
    gateway.shutdown().await;
}
