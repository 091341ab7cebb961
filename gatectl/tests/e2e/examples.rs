//! The files that newcomers copy are valid, and do what their comments say.

use std::path::{Path, PathBuf};

use crate::harness::gatectl;

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
