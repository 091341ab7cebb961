//! A proxy that starts without its control plane: it serves what is on its disk, or says that it has nothing.

use std::{fs, net::SocketAddr, path::Path};

use crate::harness::{Child, Client, Gateway, Response, Witness, free_port, within};

/// A data plane in a process, and where it is.
struct Proxy {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    /// Returns when its ports are open.
    async fn start(folder: &Path, control_plane: &str, listen: SocketAddr) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let flags = [
            ["--control-plane", control_plane],
            ["--listen", &listen.to_string()],
            ["--admin-listen", &admin.to_string()],
            ["--workers", "2"],
            ["--data-dir", "proxy-0"],
        ];
        let child = Child::data_plane(folder, "data-plane", &flags.concat());
        for address in [admin, listen] {
            let open = async { while tokio::net::TcpStream::connect(address).await.is_err() {} };
            within("an open port", open).await;
        }
        Self { child, listen, admin }
    }

    async fn get(&self, path: &str) -> Response {
        Client::connect(self.listen).await.get(path).await
    }

    async fn ready(&self) -> Response {
        Client::connect(self.admin).await.get("/readyz").await
    }

    /// Returns when it serves a snapshot.
    async fn serves(&self) {
        within("readiness", async { while self.ready().await.status != 200 {} }).await;
    }
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn manifest(upstream: &Witness) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{}\"}}]", upstream.url())
}

#[tokio::test]
async fn without_any_snapshot_requests_are_told_so_until_there_is_one() {
    let upstream = Witness::saying("served").await;
    let mut gateway = Gateway::builder().proxies(0).manifest(&manifest(&upstream)).start().await;
    gateway.kill_control_plane().await;
    let proxy = Proxy::start(gateway.folder(), &gateway.control_plane_url(), local()).await;

    let mut client = Client::connect(proxy.listen).await;
    let answer = client.get("/anything").await;
    assert_eq!(answer.status, 503, "it cannot know that there is no such route: {answer:?}");
    assert!(answer.text().contains("not_ready"), "{answer:?}");
    let ready = proxy.ready().await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no_snapshot"), "{ready:?}");
    assert_eq!(Client::connect(proxy.admin).await.get("/healthz").await.status, 200, "a restart would not help it");

    gateway.start_control_plane().await;
    proxy.serves().await;
    let answer = client.get("/anything").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "served"), "the same connection goes on");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_restart_without_the_control_plane_serves_from_disk_and_a_damaged_file_gives_way_to_the_one_before() {
    let (older, newer) = (Witness::saying("older").await, Witness::saying("newer").await);
    let mut gateway = Gateway::builder().manifest(&manifest(&older)).start().await;
    // In order, so that everything is on disk.
    gateway.drain_proxy(0).await;
    gateway.start_proxy(0).await;
    gateway.apply(&manifest(&newer)).await;
    gateway.drain_proxy(0).await;
    gateway.kill_control_plane().await;
    let (folder, url) = (gateway.folder(), gateway.control_plane_url());
    let damage = |file: &str| {
        let path = folder.join("proxy-0").join(file);
        let mut bytes = fs::read(&path).expect("a generation");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("writes");
    };

    let mut proxy = Proxy::start(folder, &url, local()).await;
    proxy.serves().await;
    assert_eq!(proxy.get("/").await.text(), "newer");
    proxy.child.kill();

    damage("snapshot");
    let mut proxy = Proxy::start(folder, &url, local()).await;
    proxy.serves().await;
    assert_eq!(proxy.get("/").await.text(), "older");
    proxy.child.kill();

    damage("snapshot.previous");
    let proxy = Proxy::start(folder, &url, local()).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("not_ready"), "{answer:?}");
    assert_eq!(proxy.ready().await.status, 503);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_proxy_that_is_killed_while_it_writes_starts_with_what_it_had_or_with_what_it_wrote() {
    // Large enough that a write takes a while.
    let manifest = |number: u64| {
        let mut yaml = format!("plugins: [{{name: say, type: respond, config: {{body: \"{number}\"}}}}]\nroutes:\n");
        yaml.push_str("- {name: say, path: /, backend: \"http://127.0.0.1:1\", plugins: [say]}\n");
        for other in 0..500 {
            yaml.push_str(&format!("- {{name: r{other}, path: /{other}/{number}, backend: \"http://127.0.0.1:1\"}}\n"));
        }
        yaml
    };
    let mut gateway = Gateway::builder().proxies(0).manifest(&manifest(0)).start().await;
    let nobody = format!("http://{}", local());
    let mut kept = 0;
    for number in 1..=6 {
        let mut proxy = Proxy::start(gateway.folder(), &gateway.control_plane_url(), local()).await;
        let caught_up = async { while proxy.get("/").await.text() != (number - 1).to_string() {} };
        within("what was applied last", caught_up).await;
        gateway.apply(&manifest(number)).await;
        // At another moment each time: some milliseconds are the time that a write takes.
        tokio::time::sleep(std::time::Duration::from_micros(number * 1_700 % 9_000)).await;
        proxy.child.kill();

        let mut proxy = Proxy::start(gateway.folder(), &nobody, local()).await;
        proxy.serves().await;
        let found: u64 = proxy.get("/").await.text().parse().expect("a whole configuration");
        assert!((kept..=number).contains(&found), "{found} is not one of {kept} to {number}");
        assert_eq!(proxy.get(&format!("/499/{found}")).await.status, 502, "all of it is there");
        kept = found;
        proxy.child.kill();
    }
    assert!(kept > 0, "nothing was ever kept");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_at_the_start_that_names_the_flag() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--listen", &address, "--admin-listen", "127.0.0.1:0"];
    let mut child = Child::data_plane(folder.path(), "data-plane", &flags);
    assert!(!child.ended().await.success());
    let log = child.log();
    assert!(log.contains(&format!("--listen: cannot listen on {address}: ")), "{log}");
}
