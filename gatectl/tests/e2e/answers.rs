//! What every answer has in common, whoever made it: an upstream, a plugin, or the gateway itself.

use crate::harness::{Client, Reply, Witness, free_port, with_gateway};

#[tokio::test]
async fn response_plugins_see_the_answers_that_no_upstream_gave() {
    let manifest = format!(
        r#"
plugins:
- {{name: secure, type: headers, config: {{response: {{set: {{x-frame-options: DENY}}}}}}}}
- {{name: closed, type: respond, config: {{status: 503, body: "back soon"}}}}
routes:
- {{name: maintenance, path: /shop, plugins: [secure, closed], backend: "http://127.0.0.1:1"}}
- {{name: dead, path: /dead, plugins: [secure], backend: "http://127.0.0.1:{}"}}
"#,
        free_port()
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for (path, status) in [("/shop", 503), ("/dead", 502)] {
            let response = client.get(path).await;
            assert_eq!(response.status, status, "{path}");
            assert_eq!(response.header("x-frame-options"), Some("DENY"), "{path}");
        }
        assert_eq!(client.get("/elsewhere").await.header("x-frame-options"), None);
    })
    .await;
}

#[tokio::test]
async fn every_answer_has_one_date() {
    let dated = Witness::start(|_| {
        Reply::Send(b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n".to_vec())
    })
    .await;
    let dateless = Witness::start(|_| Reply::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())).await;
    let manifest = format!(
        "routes:\n- {{path: /dated, backend: \"{}\"}}\n- {{path: /dateless, backend: \"{}\"}}\n",
        dated.url(),
        dateless.url()
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        for path in ["/dated", "/dateless", "/nowhere"] {
            let response = client.get(path).await;
            let dates: Vec<_> = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("date")).collect();
            let [(_, date)] = dates[..] else { panic!("{path}: {dates:?}") };
            assert!(date.ends_with(" GMT") && date.len() == 29, "{path}: {date}");
            assert_eq!(date.contains("1994"), path == "/dated", "{path}: {date}");
        }
    })
    .await;
}
