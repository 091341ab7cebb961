use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

struct Harness {
    address: std::net::SocketAddr,
    status: Arc<SyncStatus>,
    draining: watch::Sender<bool>,
}

async fn start() -> Harness {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let status = Arc::new(SyncStatus::default());
    let (draining, drain) = watch::channel(false);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sync::StatusCollector(Arc::clone(&status))));
    let admin = Admin { status: Arc::clone(&status), draining: drain, registry: Arc::new(Mutex::new(registry)) };
    tokio::spawn(admin.serve(listener));
    Harness { address, status, draining }
}

impl Harness {
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("has a body");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    async fn ready(&self) -> (u16, serde_json::Value) {
        let (status, body) = self.get("/readyz").await;
        (status, serde_json::from_str(&body).expect("JSON"))
    }
}

#[tokio::test]
async fn the_proxy_is_ready_from_its_first_snapshot_until_it_drains() {
    let harness = start().await;
    let (status, body) = harness.ready().await;
    assert_eq!((status, &body["reason"]), (503, &json!("no_snapshot")));
    assert_eq!(harness.get("/healthz").await.0, 200, "alive all the same");

    harness.status.serving(sync::Source::Disk, "store", 7);
    let (status, body) = harness.ready().await;
    assert_eq!((status, &body["revision"], &body["source"]), (200, &json!(7), &json!("disk")));
    assert_eq!(body["control_plane"], json!({"connected": false, "last_contact_age_ms": null}));

    harness.status.connected(true);
    let (status, body) = harness.ready().await;
    assert_eq!((status, &body["control_plane"]["connected"]), (200, &json!(true)));

    harness.draining.send_replace(true);
    let (status, body) = harness.ready().await;
    assert_eq!((status, &body["reason"]), (503, &json!("draining")));
}

#[tokio::test]
async fn a_refused_revision_is_shown_and_does_not_make_the_proxy_unready() {
    let harness = start().await;
    harness.status.serving(sync::Source::ControlPlane, "store", 7);
    let fault = rustygate_proto::v1::Fault { code: "RG0201".into(), name: "a".into(), ..Default::default() };
    harness.status.refused(8, vec![fault; 50]);
    let (status, body) = harness.ready().await;
    assert_eq!((status, &body["revision"], &body["refused"]["revision"]), (200, &json!(7), &json!(8)));
    assert_eq!(body["refused"]["fault_count"], 50);
    assert_eq!(body["refused"]["faults"].as_array().map(Vec::len), Some(FAULTS_SHOWN_MAX));
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let harness = start().await;
    harness.status.serving(sync::Source::ControlPlane, "store", 7);
    let (status, body) = harness.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("rustygate_config_revision 7"), "{body}");
    assert!(body.contains("rustygate_config_connected 0"), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let harness = start().await;
    assert_eq!(harness.get("/").await.0, 404);
    assert!(harness.send("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await.contains(" 405 "));
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_not_answered_with_success() {
    let harness = start().await;
    let mut stream = TcpStream::connect(harness.address).await.expect("connects");
    let head = format!("GET /healthz?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(BUFFER_BYTES_MAX));
    // Both may fail: the server hangs up on what it does not want to read.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(harness.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn the_port_is_slow_client_proof() {
    let harness = start().await;
    // As many silent clients as there are places.
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(harness.address).await.expect("connects"));
    }
    let begun = tokio::time::Instant::now();
    assert_eq!(harness.get("/healthz").await.0, 200);
    let waited = begun.elapsed();
    assert!(waited < HEADER_TIMEOUT * 2, "{waited:?}");
}
