//! `gatectl dev` as its own process, with a pipe where a terminal would be.

use std::{fs, net::TcpListener, time::Duration};

use crate::harness::{Client, Dev, Witness, gatectl, within};

#[tokio::test]
async fn the_demo_answers_the_request_that_it_says_to_try() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dev = Dev::start(folder.path(), &["--demo"]).await;
    let proxy = dev.addr("proxy");
    let request = dev.request_to_try();
    let path =
        request.split(&proxy.to_string()).nth(1).unwrap_or_else(|| panic!("{request}: not at {proxy}")).to_owned();
    let mut client = Client::connect(proxy).await;
    let response = client.get(&path).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let answer: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((&answer["method"], &answer["body_bytes"]), (&"GET".into(), &0.into()));
    assert!(answer["service"].is_string(), "{answer}");

    let response = client.post("/api/orders/1", b"three").await;
    let answer: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((&answer["service"], &answer["path"]), (&"orders-1".into(), &"/api/orders/1".into()));
    assert_eq!((&answer["method"], &answer["body_bytes"]), (&"POST".into(), &5.into()));

    let response = client.get_with("/api/users", &[("x-version", "two")]).await;
    assert_eq!(response.header("x-rustygate-backend"), Some("users-v2"));

    let metrics = Client::connect(dev.addr("proxy's metrics")).await.get("/metrics").await;
    assert!(metrics.text().contains("rustygate_"), "{}", metrics.text());

    // The file that it names can be changed and applied by hand.
    let manifest = dev.place("manifest");
    let url = format!("http://{}", dev.addr("control plane gRPC"));
    let changed = fs::read_to_string(&manifest).expect("the demo's file").replace("/api/orders", "/shop");
    fs::write(&manifest, changed).expect("writes");
    let args = ["-c", &url, "apply", "--owner", "dev", "--wait", "-f", &manifest];
    gatectl(folder.path(), &args, "").await.expect(0);
    assert_eq!(client.get("/shop").await.status, 200);

    assert_eq!(dev.interrupt().await, Some(0));
    assert!(!fs::exists(&manifest).expect("a look"), "the demo cleans up");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_save_is_served_and_a_bad_save_is_reported_and_survived() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let service = Witness::saying("here").await;
    let yaml = |path: &str| format!("routes:\n- name: a\n  path: {path}\n  backend: \"{}\"\n", service.url());
    let file = folder.path().join("gate.yaml");
    fs::write(&file, yaml("/a")).expect("writes");
    let mut dev = Dev::start(folder.path(), &["--watch", "-f", "gate.yaml"]).await;
    let mut client = Client::connect(dev.addr("proxy")).await;
    assert_eq!(client.get("/a").await.status, 200);

    fs::write(&file, yaml("/b")).expect("writes");
    dev.message("revision 2 is served").await;
    assert_eq!((client.get("/a").await.status, client.get("/b").await.status), (404, 200));

    fs::write(&file, yaml("/c").replace("backend", "backnd")).expect("writes");
    let report = dev.message("what was served before still is").await;
    assert!(report.contains("error[RG0102]") && report.contains("gate.yaml:4:3"), "{report}");
    assert_eq!(client.get("/b").await.status, 200);

    // As editors save: a new file, renamed over the old one.
    let new = folder.path().join("gate.yaml~");
    fs::write(&new, yaml("/d")).expect("writes");
    fs::rename(&new, &file).expect("renames");
    dev.message("revision 3 is served").await;
    assert_eq!((client.get("/b").await.status, client.get("/d").await.status), (404, 200));
    assert_eq!(dev.interrupt().await, Some(0));
    assert!(folder.path().join(".rustygate/dev.db").is_file(), "the configuration is kept");
}

#[tokio::test]
async fn a_file_with_faults_ends_dev_with_a_report() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("gate.yaml"), "routes: 5\n").expect("writes");
    let ports = ["--listen", "--admin-listen", "--grpc-listen", "--http-listen"].map(|flag| [flag, "127.0.0.1:0"]);
    let args = [&["dev", "-f", "gate.yaml"], ports.concat().as_slice()].concat();
    let stderr = gatectl(folder.path(), &args, "").await.expect_stderr(1);
    assert!(stderr.contains("error[RG0103]") && stderr.contains("gate.yaml:1:"), "{stderr}");
    assert!(stderr.contains("--watch"), "{stderr}");
}

#[tokio::test]
async fn a_taken_port_is_told_with_the_flag_that_moves_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    let args = ["dev", "--demo", "--listen", "127.0.0.1:0", "--admin-listen", &address];
    let stderr = gatectl(folder.path(), &args, "").await.expect_stderr(1);
    assert!(stderr.starts_with(&format!("error: cannot listen on {address} for the proxy's metrics: ")), "{stderr}");
    assert!(stderr.contains("hint: ") && stderr.contains("--admin-listen HOST:PORT"), "{stderr}");
}

#[tokio::test]
async fn a_save_at_any_time_while_dev_starts_is_served_in_the_end() {
    let service = Witness::saying("here").await;
    let yaml = |path: &str| format!("routes: [{{name: a, path: {path}, backend: \"{}\"}}]\n", service.url());
    // From its first instruction to some time after its table, whatever it is doing then.
    for delay_ms in (0..300).step_by(25) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("gate.yaml");
        fs::write(&file, yaml("/before")).expect("writes");
        let saving = file.clone();
        let saved = yaml("/saved");
        let save = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            // In one step: what is read is one or the other.
            let new = saving.with_extension("new");
            fs::write(&new, saved).expect("writes");
            fs::rename(&new, &saving).expect("renames");
        });
        let dev = Dev::start(folder.path(), &["--watch", "-f", "gate.yaml"]).await;
        save.await.expect("saves");
        let mut client = Client::connect(dev.addr("proxy")).await;
        let served = async { while client.get("/saved").await.status != 200 {} };
        within(&format!("a save after {delay_ms} ms"), served).await;
    }
}
