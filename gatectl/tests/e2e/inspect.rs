//! The commands that only look: get, status, explain, validate, watch, version, completions, and their errors.

use std::path::Path;

use crate::harness::{Client, Gateway, Process, Witness, gatectl, masked, within};

const CANARY: &str = "\
backends:
- name: users
  endpoints: [{url: \"http://10.0.0.1:8002\"}]
- name: users-v2
  endpoints: [{url: \"http://10.0.0.2:8002\"}]
routes:
- name: canary
  matches:
  - path: /api/users
    headers: {x-version: two}
  backend: users-v2
- name: users
  path: /api/users
  backend: users
- name: other-host
  hosts: [other.example.com]
  path: /api/users
  backend: users
";

const HERE: &str = env!("CARGO_MANIFEST_DIR");

#[tokio::test]
async fn get_shows_a_table_for_each_kind_and_only_what_is_asked_for() {
    let gateway = Gateway::builder().proxies(0).start().await;
    gateway.gatectl_with(&["apply", "-f", "-"], CANARY).await.expect(0);
    insta::assert_snapshot!(gateway.gatectl(&["get"]).await.expect(0), @r"
    BACKEND   ENDPOINTS             HEALTH  POLICY         OWNER    REVISION
    users     http://10.0.0.1:8002  -       least_request  default  1
    users-v2  http://10.0.0.2:8002  -       least_request  default  1

    ROUTE       HOSTS              MATCHES                     BACKENDS  PLUGINS  OWNER    REVISION
    canary      -                  /api/users/* x-version=two  users-v2  -        default  1
    other-host  other.example.com  /api/users/*                users     -        default  1
    users       -                  /api/users/*                users     -        default  1
    ");
    let stdout = gateway.gatectl(&["get", "routes", "users"]).await.expect(0);
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    let json = gateway.gatectl(&["get", "backends", "-o", "json"]).await.expect(0);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["backends"][1]["name"], "users-v2");
    let stderr = gateway.gatectl(&["get", "routes", "none"]).await.expect_stderr(1);
    assert_eq!(stderr, "error: nothing is called \"none\" at revision 1\n");
    gateway.shutdown().await;
}

#[tokio::test]
async fn explain_says_who_wins_and_why_the_others_do_not() {
    let gateway = Gateway::builder().proxies(0).start().await;
    gateway.write("gate.yaml", CANARY);
    gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0);
    let question = ["explain", "GET", "http://API.example.com:8080/api/./users/7?x=1"];
    let asked = gateway.gatectl(&question).await.expect(0);
    assert!(asked.starts_with("GET  host api.example.com  path /api/users/7\n"), "{asked}");
    assert!(asked.contains("\n-> users: ") && asked.contains("x-version"), "{asked}");
    let offline = gateway.gatectl(&[&question[..], &["-f", "gate.yaml"]].concat()).await.expect(0);
    assert_eq!(offline, asked);
    let canary = gateway.gatectl(&[&question[..], &["-H", "X-Version: two"]].concat()).await.expect(0);
    assert!(canary.contains("\n-> canary: ") && canary.contains("another goes before it"), "{canary}");
    let nobody = gateway.gatectl(&["explain", "GET", "/else"]).await.expect(1);
    assert!(nobody.ends_with("no route gets it (404)\n"), "{nobody}");
    let refused = gateway.gatectl(&["explain", "GET", "http://a/%00"]).await.expect(1);
    assert!(refused.starts_with("refused (400): "), "{refused}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn explain_says_how_many_candidates_it_does_not_list() {
    let gateway = Gateway::builder().proxies(0).start().await;
    let routes = (0..130).map(|n| format!("- {{name: r{n}, path: /{n}, backend: \"http://10.0.0.1\"}}\n"));
    gateway.write("many.yaml", &format!("routes:\n{}", routes.collect::<String>()));
    gateway.gatectl(&["apply", "-f", "many.yaml"]).await.expect(0);
    let asked = gateway.gatectl(&["explain", "GET", "/7"]).await.expect(0);
    assert!(asked.contains("\n   (30 more, which are no nearer, are not listed)\n"), "{asked}");
    assert_eq!(gateway.gatectl(&["explain", "GET", "/7", "-f", "many.yaml"]).await.expect(0), asked);
    let json = gateway.gatectl(&["explain", "GET", "/7", "-o", "json"]).await.expect(0);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((json["candidates"].as_array().map(Vec::len), &json["omitted"]), (Some(100), &30.into()));
    gateway.shutdown().await;
}

#[tokio::test]
async fn validate_needs_no_control_plane_and_reports_every_fault_of_every_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = |args: &'static [&'static str]| gatectl(folder.path(), args, "");
    std::fs::write(
        folder.path().join("a.yaml"),
        "backends:\n- name: users\n  endpoints: [{url: \"http://10.0.0.1\"}]\n",
    )
    .expect("writes");
    std::fs::write(folder.path().join("b.yml"), "routes:\n- path: /a\n  backend: users\n").expect("writes");
    assert_eq!(run(&["validate", "-f", "."]).await.expect(0), "valid: 1 backend, 1 route\n");
    // A route may refer to a backend of another file, but not of none.
    let alone = run(&["validate", "-f", "b.yml"]).await.expect_stderr(1);
    assert!(alone.contains("RG0201") && alone.contains("b.yml:3:"), "{alone}");
    let c = "routes:\n- path: /c\n  backnd: users\n- path: /d\n  backend: [{name: users, weight: many}]\n";
    std::fs::write(folder.path().join("c.yaml"), c).expect("writes");
    insta::assert_snapshot!(run(&["validate", "-f", "."]).await.expect_stderr(1), @r#"
    error[RG0102]: unknown field "backnd"
     --> c.yaml:3:3
      |
    3 |   backnd: users
      |   ^^^^^^
      = help: did you mean "backend"? a route has: name, listeners, host, hosts, rules, path, method, headers, query, matches, backend, strip_prefix, timeout, timeouts, retry, plugins, sticky_split

    error[RG0103]: expected an integer, found a string
     --> c.yaml:5:35
      |
    5 |   backend: [{name: users, weight: many}]
      |                                   ^^^^

    2 faults
    "#);
}

#[tokio::test]
async fn status_shows_each_proxy_and_check_wants_all_of_them_well() {
    let service = Witness::saying("x").await;
    let manifest = format!("routes:\n- name: a\n  path: /a\n  backend: \"{}\"\n", service.url());
    let mut gateway = Gateway::builder().proxies(2).manifest(&manifest).start().await;
    gateway.served(1).await;
    let status = gateway.gatectl(&["status", "--check"]).await;
    assert_eq!(status.stderr, "the present revision is 1\n");
    let stdout = masked(&status.expect(0), gateway.folder());
    for line in ["PROXY  STATE  REVISION  LAG", "proxy-0  serving  1", "proxy-1  serving  1"] {
        assert!(stdout.contains(line), "no {line:?} in:\n{stdout}");
    }
    gateway.drain_proxy(1).await;
    let connected = async || {
        let json = gateway.gatectl(&["status", "-o", "json"]).await.expect(0);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let proxies = json["proxies"].as_array().expect("proxies");
        proxies.iter().filter(|proxy| proxy["connected"] == true).count()
    };
    // The control plane sees the end of a stream a moment after the proxy that ended it.
    within("the control plane to notice", async { while connected().await != 1 {} }).await;
    gateway.shutdown().await;
    let none = Gateway::builder().proxies(0).start().await;
    assert!(none.gatectl(&["status", "--check"]).await.expect_stderr(1).starts_with("no proxy has connected"));
    none.shutdown().await;
}

#[tokio::test]
async fn watch_prints_the_present_revision_and_each_new_one() {
    let gateway = Gateway::builder().proxies(0).start().await;
    gateway.gatectl_with(&["apply", "-f", "-", "-m", "first"], CANARY).await.expect(0);
    let mut watch = Process::start(gateway.folder(), &["-c", &gateway.control_plane_url(), "watch"]);
    assert_eq!(watch.line().await, "revision 1  +5 ~0 -0  by tester  first");
    gateway.gatectl(&["delete", "route", "canary", "-m", "no\nmore"]).await.expect(0);
    assert_eq!(watch.line().await, r"revision 2  +0 ~0 -1  by tester  no\nmore");
    gateway.shutdown().await;
    let messages = watch.message("error: ").await;
    assert!(!messages.contains("panicked"), "{messages}");
}

#[tokio::test]
async fn version_tells_the_revision_if_it_can() {
    let gateway = Gateway::builder().proxies(0).start().await;
    gateway.gatectl_with(&["apply", "-f", "-"], CANARY).await.expect(0);
    let stdout = gateway.gatectl(&["version"]).await.expect(0);
    assert_eq!(
        masked(&stdout, gateway.folder()),
        format!("gatectl {}\ncontrol plane http://127.0.0.1:PORT: revision 1\n", env!("CARGO_PKG_VERSION"))
    );
    gateway.shutdown().await;
}

#[tokio::test]
async fn nobody_there_is_told_with_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let url = format!("http://{free}");
    let output = gatectl(Path::new(HERE), &["-c", &url, "get"], "").await;
    assert_eq!(output.stdout, "");
    let stderr = output.expect_stderr(1);
    assert!(stderr.starts_with(&format!("error: cannot reach the control plane at {url}: ")), "{stderr}");
    assert!(stderr.contains("\nhint: is the control plane running? start it with `gatectl dev`"), "{stderr}");
    let version = gatectl(Path::new(HERE), &["-c", &url, "version"], "").await;
    assert!(version.stderr.contains("cannot reach the control plane"), "{}", version.stderr);
    assert_eq!(version.expect(0), format!("gatectl {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_secure_gateway_serves_who_has_a_token_and_tells_the_others_what_to_do() {
    let service = Witness::saying("here").await;
    let manifest = format!("routes:\n- name: a\n  path: /a\n  backend: \"{}\"\n", service.url());
    let gateway = Gateway::builder().proxies(1).secure().manifest(&manifest).start().await;
    assert_eq!(Client::connect(gateway.proxy_addr()).await.get("/a").await.text(), "here");
    let url = gateway.control_plane_url();
    let run = async |args: &[&str]| gatectl(gateway.folder(), &[&["-c", &url], args].concat(), "").await;

    let stderr = run(&["get"]).await.expect_stderr(1);
    assert!(stderr.contains("--ca FILE"), "{stderr}");
    let plain = url.replace("https:", "http:");
    let stderr = gatectl(gateway.folder(), &["-c", &plain, "get"], "").await.expect_stderr(1);
    assert!(stderr.contains("https:"), "{stderr}");
    let stderr = run(&["get", "--ca", "cert.pem"]).await.expect_stderr(1);
    assert!(stderr.starts_with("error: the control plane wants a token: "), "{stderr}");
    assert!(stderr.contains("--token-file"), "{stderr}");
    gateway.write("empty", "\n");
    let stderr = run(&["get", "--token-file", "empty"]).await.expect_stderr(1);
    assert_eq!(stderr, "error: the token file empty is empty\n");

    let admin = ["--ca", "cert.pem", "--token-file", "admin.token"];
    let secret = run(&[&["token", "create", "--role", "viewer", "ann"], &admin[..]].concat()).await.expect(0);
    gateway.write("viewer.token", &secret);
    let viewer = ["--ca", "cert.pem", "--token-file", "viewer.token"];
    assert!(run(&[&["get", "routes"], &viewer[..]].concat()).await.expect(0).contains("/a/*"));
    let stderr = run(&[&["delete", "route", "a"], &viewer[..]].concat()).await.expect_stderr(1);
    assert!(stderr.starts_with("error: not allowed: ") && stderr.contains("a higher role"), "{stderr}");
    let tokens = run(&[&["token", "list"], &admin[..]].concat()).await.expect(0);
    assert!(tokens.contains("ann") && tokens.contains("viewer") && !tokens.contains(secret.trim()), "{tokens}");
    run(&[&["token", "revoke", "ann"], &admin[..]].concat()).await.expect(0);
    let stderr = run(&[&["get"], &viewer[..]].concat()).await.expect_stderr(1);
    assert!(stderr.contains("wants a token"), "{stderr}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn help_and_usage_errors_have_their_exit_codes() {
    let help = gatectl(Path::new(HERE), &["--help"], "").await.expect(0);
    for part in ["apply", "explain", "Exit codes:", "RUSTYGATE_TOKEN"] {
        assert!(help.contains(part), "no {part:?} in:\n{help}");
    }
    let stderr = gatectl(Path::new(HERE), &["aply"], "").await.expect_stderr(2);
    assert!(stderr.contains("'apply'"), "{stderr}");
    gatectl(Path::new(HERE), &["apply"], "").await.expect(2);
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = gatectl(Path::new(HERE), &["completions", shell], "").await.expect(0);
        assert!(script.contains("rollback") && script.contains("gatectl"), "{shell}");
    }
}

#[tokio::test]
async fn explain_says_that_there_is_no_such_listener() {
    let gateway = Gateway::builder().proxies(0).start().await;
    gateway.gatectl_with(&["apply", "-f", "-"], CANARY).await.expect(0);
    let told = gateway.gatectl(&["explain", "GET", "/api/users", "--listener", "nope"]).await.expect_stderr(1);
    assert!(told.contains("there is no listener \"nope\""), "{told}");
    gateway.gatectl(&["explain", "GET", "/api/users", "--listener", "default"]).await.expect(0);
    gateway.shutdown().await;
}
