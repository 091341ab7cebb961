//! The two-route file, byte for byte but for the ports.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::harness::{Client, Gateway, Witness, with_gateway};

fn two_routes(test: u16, users: u16) -> String {
    let yaml = r#"routes:
  - path: "/api/test"
    backend: "http://localhost:8001"
  - path: "/api/users"
    backend: "http://localhost:8002"
"#;
    yaml.replace("8001", &test.to_string()).replace("8002", &users.to_string())
}

#[tokio::test]
async fn each_route_goes_to_its_backend_without_the_prefix() {
    let test = Witness::saying("the test service").await;
    let users = Witness::saying("the users").await;
    let users_port = users.addr().port();
    with_gateway(&two_routes(test.addr().port(), users_port), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let response = client.get("/api/test").await;
        assert_eq!((response.status, response.text().as_str()), (200, "the test service"));
        let response = client.get("/api/users/7?full=1").await;
        assert_eq!((response.status, response.text().as_str()), (200, "the users"));
        assert_eq!(response.header("x-rustygate-backend"), Some(format!("localhost:{users_port}").as_str()));
        let duration = response.header("x-rustygate-duration-ms").expect("a duration");
        assert!(duration.parse::<f64>().is_ok(), "{duration}");
        assert_eq!(test.requests()[0].line(), "GET / HTTP/1.1");
        assert_eq!(users.requests()[0].line(), "GET /7?full=1 HTTP/1.1");
    })
    .await;
}

#[tokio::test]
async fn what_no_route_wants_is_a_404_with_a_reason() {
    let service = Witness::saying("x").await;
    let port = service.addr().port();
    with_gateway(&two_routes(port, port), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for path in ["/", "/api", "/api/testing", "/API/TEST"] {
            let response = client.get(path).await;
            assert_eq!(response.status, 404, "{path}");
            let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
            assert!(body.to_string().contains("no_route"), "{path}: {body}");
        }
        assert!(service.requests().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_page_of_a_python_server_comes_through() {
    let page = "<h1>the front page</h1>\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("index.html"), page).expect("writes");
    let Some(server) = Python::start(folder.path()) else {
        // The test above has the same path with a server of our own.
        eprintln!("no python3 here");
        return;
    };
    with_gateway(&two_routes(server.addr.port(), server.addr.port()), async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for _ in 0..2 {
            let response = client.get("/api/test").await;
            assert_eq!((response.status, response.text().as_str()), (200, page));
        }
        assert_eq!(client.get("/api/test/none.html").await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn a_change_is_served_by_two_proxies_once_it_is_acknowledged() {
    let old = Witness::saying("old").await;
    let new = Witness::saying("new").await;
    let manifest = |backend: &Witness| format!("routes:\n- name: a\n  path: /a\n  backend: \"{}\"\n", backend.url());
    let mut gateway = Gateway::builder().proxies(2).manifest(&manifest(&old)).start().await;
    let mut clients = Vec::new();
    for index in 0..2 {
        let mut client = Client::connect(gateway.proxy_addr_of(index)).await;
        assert_eq!(client.get("/a").await.text(), "old");
        clients.push(client);
    }
    gateway.apply(&manifest(&new)).await;
    for client in &mut clients {
        assert_eq!(client.get("/a").await.text(), "new");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_restarted_control_plane_still_has_everything_and_a_restarted_proxy_needs_none() {
    let service = Witness::saying("here").await;
    let manifest = format!("routes:\n- name: a\n  path: /a\n  backend: \"{}\"\n", service.url());
    let mut gateway = Gateway::builder().manifest(&manifest).start().await;
    gateway.restart_control_plane().await;
    assert!(gateway.gatectl(&["get", "routes", "-o", "yaml"]).await.expect(0).contains("name: a"));
    gateway.kill_control_plane().await;
    gateway.restart_proxy(0).await;
    assert_eq!(Client::connect(gateway.proxy_addr()).await.get("/a").await.text(), "here");
    gateway.shutdown().await;
}

struct Python {
    child: Child,
    addr: SocketAddr,
}

impl Python {
    fn start(folder: &Path) -> Option<Self> {
        let mut child = Command::new("python3")
            .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        // "Serving HTTP on 127.0.0.1 port 43211 (http://127.0.0.1:43211/) ..."
        let port = line.split("port ").nth(1)?.split(' ').next()?.parse().ok()?;
        Some(Self { child, addr: ([127, 0, 0, 1], port).into() })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
