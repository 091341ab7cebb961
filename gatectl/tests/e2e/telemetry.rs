//! What can be seen of the gateway at work: its log, its headers, its metrics, its readiness.

use std::{collections::BTreeMap, fs::File, process::Command, time::Duration};

use rustygate_data_plane::settings::{AccessLogTarget, Settings};
use serde_json::Value;

use crate::harness::{Client, Gateway, Reply, Upstream, Wire, Witness, answer, free_port, raw, with_gateway, within};

fn all_to(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

/// The log of a proxy is beside its folder.
fn log_to_file(settings: &mut Settings) {
    let folder = settings.data_dir.clone().expect("a folder");
    settings.access_log = AccessLogTarget::File(folder.with_extension("log"));
}

/// The lines of the log once there are so many; each is one JSON object.
async fn lines(gateway: &Gateway, count: usize) -> Vec<Value> {
    let path = gateway.folder().join("proxy-0.log");
    let text = within("lines of the log", async {
        loop {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            if text.matches('\n').count() >= count {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let lines: Vec<Value> = text.lines().map(parse).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

#[tokio::test]
async fn each_request_is_a_line_of_the_access_log_with_what_became_of_it() {
    let upstream = Witness::saying("x").await;
    let manifest = format!(
        "backends: [{{name: users, endpoints: [\"{}\"]}}]\nroutes:\n- {{name: users-api, path: /api, backend: users}}\n\
         - {{name: dead, path: /dead, backend: \"http://127.0.0.1:{}\"}}\n",
        upstream.url(),
        free_port()
    );
    let gateway = Gateway::builder().proxy_settings(log_to_file).manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("Shop.example.com:81");
    client.get("/api/users?token=secret").await;
    client.post("/nowhere", b"").await;
    client.get("/dead").await;
    raw(gateway.proxy_addr(), b"NONSENSE\r\n\r\n").await;
    let lines = lines(&gateway, 4).await;
    // Workers write for themselves: order is kept within one only.
    let by_status: BTreeMap<u64, &Value> =
        lines.iter().map(|line| (line["fields"]["status"].as_u64().expect("a status"), line)).collect();
    for (status, method, path, route, reason) in [
        (200, "GET", "/api/users", "users-api", None),
        (404, "POST", "/nowhere", "", Some("no_route")),
        (502, "GET", "/dead", "dead", Some("upstream_connect")),
        (400, "", "", "", Some("bad_request")),
    ] {
        let line = by_status[&status];
        let fields = &line["fields"];
        assert_eq!((&line["level"], &fields["message"]), (&"INFO".into(), &"request".into()));
        let timestamp = line["timestamp"].as_str().expect("a time");
        assert!(timestamp.ends_with('Z') && timestamp.contains('T'), "{timestamp}");
        assert_eq!((&fields["method"], &fields["path"]), (&method.into(), &path.into()), "{line}");
        assert_eq!((&fields["route"], fields["reason"].as_str()), (&route.into(), reason), "{line}");
        assert!(fields["duration_ms"].as_f64().is_some_and(|span| span >= 0.0), "{line}");
        assert_eq!(fields["client"], "127.0.0.1");
        assert!(!line.to_string().contains("secret"), "{line}");
    }
    let served = &by_status[&200]["fields"];
    assert_eq!((&served["backend"], &served["host"]), (&"users".into(), &"shop.example.com".into()));
    assert_eq!((&served["snapshot"], &served["tries"]), (&1.into(), &1.into()));
    assert_eq!(by_status[&404]["fields"]["tries"], 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn whatever_a_client_sends_is_no_more_than_one_line() {
    let upstream = Witness::saying("x").await;
    let gateway = Gateway::builder().proxy_settings(log_to_file).manifest(&all_to(&upstream.url())).start().await;
    let requests: [&[u8]; 9] = [
        b"GET /\" HTTP/1.1\r\nhost: a\r\n",
        b"GET /%22,%22status%22:200}%0d%0a{%22a%22:%22 HTTP/1.1\r\nhost: a\r\n",
        b"GET /\\u0022\\n HTTP/1.1\r\nhost: a\r\n",
        b"GET /\xe9\xff HTTP/1.1\r\nhost: a\r\n",
        "GET /\u{1f980}\u{2028} HTTP/1.1\r\nhost: a\r\n".as_bytes(),
        b"GET /\x1b[31m HTTP/1.1\r\nhost: a\r\n",
        b"G\"T / HTTP/1.1\r\nhost: a\r\n",
        b"GET / HTTP/1.1\r\nhost: a\"b\r\n",
        b"GET /agent HTTP/1.1\r\nhost: a\r\nuser-agent: \"}\x1b[0m\\\xff \xe2\x80\xa8\",\"status\":1}\r\n",
    ];
    for request in requests {
        let answer = raw(gateway.proxy_addr(), &[request, b"connection: close\r\n\r\n"].concat()).await;
        assert!(answer.starts_with(b"HTTP/1.1 "), "{}", String::from_utf8_lossy(request));
    }
    for line in lines(&gateway, requests.len()).await {
        let fields = line["fields"].as_object().expect("fields");
        assert!(fields["status"].as_u64().is_some_and(|status| status >= 200), "{line}");
        assert!(!line.to_string().contains('\u{1b}'), "{line}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_request() {
    const ONE_ROUTE: &str = "routes: [{path: /else, backend: \"http://127.0.0.1:1\"}]";
    const REQUESTS: usize = 1500;
    let mut gateway = Gateway::builder().proxies(0).proxy_settings(log_to_file).manifest(ONE_ROUTE).start().await;
    let pipe = gateway.folder().join("proxy-0.log");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let reader = File::options().read(true).write(true).open(&pipe).expect("opens");
    gateway.add_proxy(0).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let path = format!("/{}", "x".repeat(8000));
    for _ in 0..REQUESTS {
        assert_eq!(client.get(&path).await.status, 404);
    }
    let metrics = gateway.metrics(0).await;
    let dropped: usize = sample(&metrics, "rustygate_access_log_dropped_total").expect("a count");
    assert!((1..REQUESTS).contains(&dropped), "{dropped} of {REQUESTS}");
    drop(reader);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_debug_headers_can_be_turned_off_and_never_come_from_outside() {
    let upstream = Witness::start(|seen| {
        let forged = "HTTP/1.1 200 OK\r\nX-RustyGate-Duration-ms: 99999\r\nx-rustygate-other: 1\r\n";
        let length = seen.headers().len();
        Reply::Send(format!("{forged}content-length: 1\r\nx-fields: {length}\r\n\r\nx").into_bytes())
    })
    .await;
    for on in [true, false] {
        let builder = Gateway::builder().proxy_settings(move |all| all.debug_headers = on);
        let gateway = builder.manifest(&all_to(&upstream.url())).start().await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let claims = [("X-RustyGate-Backend", "b"), ("x-rustygate-user", "root"), ("X_RustyGate_User", "root")];
        let response = client.get_with("/", &claims).await;
        let names: Vec<_> = response.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        let debug: Vec<_> = names.iter().filter(|name| name.starts_with("x-rustygate-")).collect();
        assert_eq!(debug.len(), if on { 2 } else { 0 }, "{names:?}");
        assert_ne!(response.header("x-rustygate-duration-ms"), Some("99999"));
        let seen = upstream.requests().pop().expect("a request");
        assert!(!String::from_utf8_lossy(&seen.bytes).to_lowercase().contains("rustygate"), "{seen:?}");
        gateway.shutdown().await;
    }
}

/// The value of a sample, named with its labels.
fn sample<T: std::str::FromStr>(metrics: &str, name: &str) -> Option<T> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[tokio::test]
async fn metrics_count_requests_their_time_and_those_under_way_by_route_and_backend() {
    let upstream = Upstream::start().await;
    let manifest = format!(
        "backends: [{{name: users, endpoints: [\"{}\"]}}]\nroutes: [{{name: \"a\", path: /a, backend: users}}]\n",
        upstream.url()
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        let labels = r#"route="a",backend="users""#;
        let metrics = gateway.metrics(0).await;
        assert_eq!(sample(&metrics, &format!("rustygate_active_connections{{{labels}}}")), Some(1));
        wire.send(answer("x")).await;
        client.until("\r\n\r\nx").await;
        client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
        wire.head().await;
        wire.send("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        client.send("GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n").await;
        client.until("no_route").await;

        // The last one's record is made just after its answer was sent.
        let metrics = within("the count of all", async {
            loop {
                let metrics = gateway.metrics(0).await;
                let unrouted = r#"rustygate_requests_total{route="none",backend="none",status="4xx"}"#;
                if sample(&metrics, unrouted) == Some(1) {
                    return metrics;
                }
            }
        })
        .await;
        for (name, value) in [
            (format!("rustygate_requests_total{{{labels},status=\"2xx\"}}"), 1),
            (format!("rustygate_requests_total{{{labels},status=\"5xx\"}}"), 1),
            (format!("rustygate_active_connections{{{labels}}}"), 0),
            (format!("rustygate_request_duration_seconds_count{{{labels}}}"), 2),
            (format!("rustygate_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}}"), 2),
            ("rustygate_client_connections".to_owned(), 1),
            ("rustygate_client_connections_accepted_total".to_owned(), 1),
            ("rustygate_client_connections_refused_total".to_owned(), 0),
            ("rustygate_access_log_dropped_total".to_owned(), 0),
            ("rustygate_tunnels".to_owned(), 0),
        ] {
            assert_eq!(sample(&metrics, &name), Some(value), "{name} in\n{metrics}");
        }
        let sum: Option<f64> = sample(&metrics, &format!("rustygate_request_duration_seconds_sum{{{labels}}}"));
        assert!(sum.is_some_and(|sum| sum > 0.0), "{metrics}");
        // Buckets are cumulative.
        let prefix = "rustygate_request_duration_seconds_bucket{";
        let buckets: Vec<u64> = metrics
            .lines()
            .filter(|line| line.starts_with(prefix) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(buckets.len() == 14 && buckets.is_sorted() && buckets.last() == Some(&2), "{buckets:?}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn readiness_is_about_serving_and_tells_of_the_control_plane() {
    let upstream = Witness::saying("x").await;
    let mut gateway = Gateway::builder().manifest(&all_to(&upstream.url())).start().await;
    let admin = gateway.admin_addr(0);
    let health = Client::connect(admin).await.get("/healthz").await;
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    assert_eq!(Client::connect(admin).await.get("/else").await.status, 404);
    let ready = async || {
        let response = Client::connect(admin).await.get("/readyz").await;
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        serde_json::from_slice::<Value>(&response.body).expect("JSON")
    };
    let connected = ready().await;
    assert_eq!((&connected["ready"], &connected["revision"]), (&true.into(), &1.into()));
    assert_eq!(connected["control_plane"]["connected"], true);
    gateway.kill_control_plane().await;
    let alone = async { while ready().await["control_plane"]["connected"] != false {} };
    within("word of the lost control plane", alone).await;
    assert_eq!(Client::connect(gateway.proxy_addr()).await.get("/").await.status, 200);
    gateway.shutdown().await;
}
