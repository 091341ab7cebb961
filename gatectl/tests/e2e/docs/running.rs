//! What only a running gateway tells: its metrics and its log.

use std::collections::{BTreeMap, BTreeSet};

use super::{found, names, read, rows};
use crate::harness::{Child, Client, Gateway, Witness, free_port, within};

/// Of each metric in the text of a scrape: its type and the labels of its samples, if it has any.
fn scraped(text: &str) -> BTreeMap<String, (String, Option<BTreeSet<String>>)> {
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let suffixes = ["", "_total", "_bucket", "_count", "_sum"];
        let of_it = |sample: &&str| {
            let end = sample.find(['{', ' ']).unwrap_or(sample.len());
            suffixes.iter().any(|suffix| sample[..end].strip_prefix(name) == Some(suffix))
        };
        let samples: Vec<&str> = text.lines().filter(of_it).collect();
        let mut labels = found(r#"[{,](\w+)=""#, &samples.join("\n"));
        labels.remove("le");
        metrics.insert(name.to_owned(), (kind.to_owned(), (!samples.is_empty()).then_some(labels)));
    }
    metrics
}

fn check_metrics(heading: &str, text: &str) {
    let scraped = scraped(text);
    let document = read("metrics.md");
    assert_eq!(names(&document, heading), scraped.keys().cloned().collect(), "{heading}");
    for row in rows(&document, heading) {
        let (kind, labels) = &scraped[&row[0]];
        assert_eq!(&row[1], kind, "{}", row[0]);
        if let Some(labels) = labels {
            let documented = row[2].split("`, `").filter(|label| !label.is_empty()).map(str::to_owned).collect();
            assert_eq!(labels, &documented, "{}", row[0]);
        }
    }
}

#[tokio::test]
async fn every_metric_and_every_field_of_the_access_log_is_documented() {
    const KEY: &str = "0123456789abcdef-key";
    let service = Witness::saying("here").await;
    let manifest = format!(
        "consumers: [{{name: c, api_keys: [{KEY}]}}]\n\
         plugins: [{{name: ids, type: request_id}}, {{name: keys, type: api_key}}, {{name: closed, type: respond}}]\n\
         routes: [{{name: a, path: /a, backend: \"{0}\"}}, \
         {{name: closed, path: /closed, backend: \"{0}\", plugins: [ids, keys, closed]}}]",
        service.url()
    );
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let listen = format!("127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let control_plane = gateway.control_plane_url();
    let flags = ["--control-plane", &control_plane, "--listen", &listen, "--admin-listen", &admin];
    let proxy = Child::data_plane(gateway.folder(), "documented", &flags);
    let (listen, admin) = (listen.parse().expect("an address"), admin.parse().expect("an address"));
    within("an open port", async { while tokio::net::TcpStream::connect(admin).await.is_err() {} }).await;
    within("readiness", async { while Client::connect(admin).await.get("/readyz").await.status != 200 {} }).await;

    let mut client = Client::connect(listen).await;
    assert_eq!((client.get("/a").await.status, client.get("/none").await.status), (200, 404));
    assert_eq!(client.get_with("/closed", &[("x-api-key", KEY)]).await.status, 200);
    check_metrics("Data plane", &Client::connect(admin).await.get("/metrics").await.text());
    let http = gateway.control_plane_http_addr();
    check_metrics("Control plane", &Client::connect(http).await.get("/metrics").await.text());

    let lines = within("the access log", async {
        loop {
            let log = proxy.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let requests: Vec<_> = lines.filter(|line| line["fields"]["message"] == "request").collect();
            match requests.len() {
                3 => break requests,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    let lines = lines.await;
    let fields = lines.iter().flat_map(|line| line["fields"].as_object().expect("fields").keys().cloned());
    assert_eq!(names(&read("logs.md"), "Access log"), fields.collect());
    gateway.shutdown().await;
}
