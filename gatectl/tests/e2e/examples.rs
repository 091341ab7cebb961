//! The files that newcomers copy are valid, and do what their comments say.

mod requests;

use std::path::{Path, PathBuf};

use crate::harness::{Client, Reply, Witness, gatectl};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

async fn run(args: &[&str]) -> String {
    gatectl(&root(), args, "").await.expect(0)
}

#[tokio::test]
async fn every_example_is_valid() {
    let mut examples: Vec<PathBuf> = std::fs::read_dir(root().join("examples"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    examples.push(root().join("config/default.yaml"));
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let path = example.to_str().expect("UTF-8");
        assert!(run(&["validate", "-f", path]).await.starts_with("valid: "), "{path}");
    }
}

#[tokio::test]
async fn the_canary_takes_who_asks_for_it_and_a_share_of_the_rest() {
    let explain = ["explain", "GET", "http://shop.example.com/cart", "-f", "examples/canary.yaml"];
    assert!(run(&explain).await.contains("\n-> cart: "));
    assert!(run(&[&explain[..], &["-H", "x-canary: yes"]].concat()).await.contains("\n-> cart-canary: "));
}

#[tokio::test]
async fn the_canary_gets_one_request_in_ten() {
    let (old, new) = (Witness::saying("old").await, Witness::saying("new").await);
    let gateway = requests::gateway("canary.yaml", &[(9001, &old), (9002, &old), (9003, &new)]).await;
    let asks = requests::of("canary.yaml");
    let canary = asks.iter().find(|ask| ask.has("x-canary", "yes")).expect("one that asks for it");
    for _ in 0..20 {
        assert_eq!(canary.check(&gateway).await.text(), "new");
    }
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let mut count = 0;
    for _ in 0..500 {
        count += usize::from(client.get("/cart").await.text() == "new");
    }
    // 50 on the average; beyond these once in a thousand million times.
    assert!((12..=100).contains(&count), "{count} of 500");
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_api_is_for_callers_with_a_token_and_as_much_as_the_limit_lets_pass() {
    let service = Witness::echo().await;
    let gateway = requests::gateway("api.yaml", &[(9001, &service)]).await;
    let asks = requests::of("api.yaml");
    for ask in &asks {
        let answer = ask.check(&gateway).await;
        let told = answer.text().contains("X-Consumer-Name: alice") && !answer.text().contains("Bearer");
        assert_eq!(told, answer.status == 200);
    }
    let good = asks.iter().find(|ask| ask.is_answered(200)).expect("one that passes");
    let mut limited = None;
    for _ in 0..60 {
        limited = Some(good.send(&gateway).await).filter(|answer| answer.status == 429);
        if limited.is_some() {
            break;
        }
    }
    let limited = limited.expect("a limit");
    assert!(limited.text().contains("rate_limited") && limited.header("retry-after").is_some());
    let passed = service.requests().len();
    assert!(passed >= 20, "{passed} passed");
    // Nor may bodies be larger than the file says, whoever sends them.
    let mut client = Client::connect(gateway.proxy_addr()).await;
    client.send(b"POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 1048577\r\n\r\n").await;
    assert_eq!(client.response(false).await.status, 413);
    // The limit is the caller's: who has no token is still told so.
    assert_eq!(asks[0].send(&gateway).await.status, 401);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_site_is_compressed_and_its_data_is_for_one_other_origin() {
    let page = |_: &_| {
        let body = "<p>A page of text.</p>\n".repeat(200);
        let head = "HTTP/1.1 200 OK\r\nserver: own\r\ncontent-type: text/html";
        Reply::Send(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into())
    };
    let (pages, data) = (Witness::start(page).await, Witness::start(page).await);
    let gateway = requests::gateway("site.yaml", &[(9001, &pages), (9002, &data)]).await;
    for ask in requests::of("site.yaml") {
        let answer = ask.check(&gateway).await;
        assert_eq!(answer.header("server"), None);
        let compressed = answer.header("content-encoding").is_some();
        assert_eq!(compressed, ask.has("accept-encoding", "gzip"));
        assert!(answer.status != 200 || (answer.body.len() < 1000) == compressed);
    }
    assert_eq!((pages.requests().len(), data.requests().len()), (2, 1), "a preflight is answered here");
    gateway.shutdown().await;
}

#[tokio::test]
async fn partners_are_known_by_their_keys_and_each_has_its_limit() {
    let service = Witness::echo().await;
    let gateway = requests::gateway("partners.yaml", &[(9001, &service)]).await;
    let asks = requests::of("partners.yaml");
    for ask in &asks {
        let answer = ask.check(&gateway).await;
        let text = answer.text();
        let told = text.contains("X-Consumer-Name: ") && !text.to_lowercase().contains("x-api-key");
        assert_eq!(told, answer.status == 200, "{text}");
    }
    let of = |name: &str| asks.iter().find(|ask| ask.has("x-api-key", name)).expect("a partner");
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(of("acme").send(&gateway).await.status);
    }
    assert!(statuses[..9].iter().all(|status| *status == 200) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(of("bolt").send(&gateway).await.status, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn each_host_has_its_service() {
    for (host, route) in [
        ("shop.example.com", "shop"),
        ("api.example.com", "api"),
        ("ann.pages.example.com", "pages"),
        ("else.example.com", "fallback"),
    ] {
        let url = format!("http://{host}/");
        let stdout = run(&["explain", "GET", &url, "-f", "examples/hosts.yaml"]).await;
        assert!(stdout.contains(&format!("\n-> {route}: ")), "{host}: {stdout}");
    }
}

#[tokio::test]
async fn files_of_a_folder_refer_to_each_other() {
    let stdout = run(&["explain", "GET", "http://localhost/api/users", "-f", "examples/split"]).await;
    assert!(stdout.contains("\n-> users: "), "{stdout}");
}
