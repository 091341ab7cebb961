//! The commands that change something: apply, diff, delete, rollback.

use crate::harness::{Gateway, masked};

const USERS: &str = "\
backends:
- name: users
  endpoints: [{url: \"http://10.0.0.1:8002\"}]
routes:
- name: users
  path: /api/users
  backend: users
";

async fn control_plane() -> Gateway {
    Gateway::builder().proxies(0).start().await
}

#[tokio::test]
async fn apply_shows_what_it_changes_and_the_revision() {
    let gateway = control_plane().await;
    gateway.write("gate.yaml", USERS);
    let stdout = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0);
    insta::assert_snapshot!(stdout, @r#"
    + backend users
      + backends:
      +   - name: users
      +     endpoints: [{url: "http://10.0.0.1:8002"}]
    + route users
      + routes:
      +   - name: users
      +     path: /api/users
      +     backend: users
    revision 1: 2 created, 0 updated, 0 deleted
    "#);
    let stdout = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0);
    assert_eq!(stdout, "revision 1: nothing differs\n");
    gateway.write("gate.yaml", &USERS.replace("  backend: users\n", "  backend: users\n  timeout: 7s\n"));
    let stdout = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0);
    insta::assert_snapshot!(stdout, @r"
    ~ route users
          - name: users
            path: /api/users
            backend: users
      +     timeout: 7s
    revision 2: 0 created, 1 updated, 0 deleted
    ");
    gateway.shutdown().await;
}

#[tokio::test]
async fn diff_says_by_its_exit_code_whether_something_differs_and_changes_nothing() {
    let gateway = control_plane().await;
    gateway.gatectl_with(&["apply", "-f", "-"], USERS).await.expect(0);
    let same = gateway.gatectl_with(&["diff", "-f", "-"], USERS).await;
    assert_eq!((same.code, same.stdout.as_str()), (0, ""));
    assert_eq!(same.stderr, "against revision 1: nothing differs\n");
    let other = USERS.replace("/api/users", "/v2/users");
    let differs = gateway.gatectl_with(&["diff", "-f", "-"], &other).await;
    assert_eq!(differs.stderr, "against revision 1: 0 created, 1 updated, 0 deleted\n");
    insta::assert_snapshot!(differs.clone().expect(2), @r"
    ~ route users
        routes:
          - name: users
      -     path: /api/users
      +     path: /v2/users
            backend: users
    ");
    assert_eq!(gateway.gatectl_with(&["diff", "-f", "-"], &other).await, differs, "nothing was changed");
    let faulty = gateway.gatectl_with(&["diff", "-f", "-"], "routes: 5\n").await.expect_stderr(1);
    assert!(faulty.contains("error[RG0103]") && faulty.contains("<stdin>:1:"), "{faulty}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let gateway = control_plane().await;
    let stdout = gateway.gatectl_with(&["apply", "--dry-run", "-f", "-"], USERS).await.expect(0);
    assert!(stdout.ends_with("dry run against revision 0: 2 created, 0 updated, 0 deleted\n"), "{stdout}");
    let nothing = gateway.gatectl(&["get"]).await;
    assert_eq!((nothing.code, nothing.stdout.as_str(), nothing.stderr.as_str()), (0, "", "nothing at revision 0\n"));
    gateway.shutdown().await;
}

#[tokio::test]
async fn every_fault_is_shown_with_its_place_and_nothing_is_changed() {
    let gateway = control_plane().await;
    gateway.write("gate.yaml", "routes:\n- name: a\n  path: /a\n  backnd: x\n- name: b\n  path: b\n  backend: none\n");
    let output = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await;
    assert_eq!(output.stdout, "");
    let stderr = output.expect_stderr(1);
    for part in ["error[RG0102]", "gate.yaml:4:3", "backnd", "backend", "error: nothing was changed"] {
        assert!(stderr.contains(part), "no {part:?} in:\n{stderr}");
    }
    let json = gateway.gatectl(&["apply", "-f", "gate.yaml", "-o", "json"]).await.expect(1);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["changed"], false);
    assert_eq!(json["faults"][0]["location"]["line"], 4);
    assert_eq!(gateway.gatectl(&["history"]).await.expect_stderr(0), "no revision yet\n");
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_get_shows_as_yaml_or_json_can_be_applied_again_and_changes_nothing() {
    let gateway = control_plane().await;
    let rich = r#"
listeners:
- {name: web, address: "127.0.0.1:18080"}
backends:
- name: users
  endpoints: [{url: "http://10.0.0.1:8002"}, {url: "http://10.0.0.2:8002", weight: 2}]
  load_balancing: {policy: least_request}
  health_check: {path: /healthz, interval: 5s}
- name: users-v2
  endpoints: [{url: "http://10.0.0.3:8002/v2"}]
routes:
- path: "/api/test"
  backend: "http://localhost:8001"
- name: users-api
  hosts: [api.example.com, "*.example.org"]
  path: /api/users
  backend: users
  timeout: 5s
- name: canary
  listeners: [web]
  matches:
  - path: {exact: /v2}
    method: GET
    headers: {x-version: two, x-team: {regex: "^(red|blue)$"}}
    query: {debug: "1"}
  backend: [{name: users, weight: 90}, {name: users-v2, weight: 10}]
  timeouts: {connect: 1s, per_try: 2s, total: 5s, idle: 60s}
  retry: {attempts: 2, on: [connect, 502, 503]}
"#;
    gateway.gatectl_with(&["apply", "-f", "-"], rich).await.expect(0);
    for format in ["yaml", "json"] {
        let shown = gateway.gatectl(&["get", "-o", format]).await.expect(0);
        let again = gateway.gatectl_with(&["apply", "--prune", "-f", "-"], &shown).await.expect(0);
        assert_eq!(again, "revision 1: nothing differs\n", "{shown}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_apply_against_another_revision_than_the_head_is_refused() {
    let gateway = control_plane().await;
    gateway.gatectl_with(&["apply", "-f", "-", "--if-revision", "0"], USERS).await.expect(0);
    let other = USERS.replace("/api/users", "/v2/users");
    let stderr = gateway.gatectl_with(&["apply", "-f", "-", "--if-revision", "0"], &other).await.expect_stderr(1);
    assert!(stderr.starts_with("error: ") && stderr.contains("hint: somebody changed the configuration"), "{stderr}");
    gateway.gatectl_with(&["apply", "-f", "-", "--if-revision", "1"], &other).await.expect(0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn prune_removes_what_the_same_owner_no_longer_has_and_nothing_else() {
    let gateway = control_plane().await;
    let route = |name: &str| format!("routes:\n- name: {name}\n  path: /{name}\n  backend: \"http://10.0.0.1:80\"\n");
    let two = format!("{}- name: old\n  path: /old\n  backend: \"http://10.0.0.1:80\"\n", route("mine"));
    gateway.gatectl_with(&["apply", "-f", "-"], &two).await.expect(0);
    gateway.gatectl_with(&["apply", "-f", "-", "--owner", "other"], &route("theirs")).await.expect(0);
    let stdout = gateway.gatectl_with(&["apply", "-f", "-", "--prune"], &route("mine")).await.expect(0);
    assert!(stdout.starts_with("- route old\n"), "{stdout}");
    assert!(stdout.ends_with("revision 3: 0 created, 0 updated, 1 deleted\n"), "{stdout}");
    let left = gateway.gatectl(&["get", "routes"]).await.expect(0);
    insta::assert_snapshot!(left, @r"
    ROUTE   HOSTS  MATCHES    BACKENDS            PLUGINS  OWNER    REVISION
    mine    -      /mine/*    http://10.0.0.1:80  -        default  1
    theirs  -      /theirs/*  http://10.0.0.1:80  -        other    2
    ");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_pipe_that_brings_nothing_does_not_prune_everything() {
    let gateway = control_plane().await;
    gateway.gatectl_with(&["apply", "-f", "-"], USERS).await.expect(0);
    let stderr = gateway.gatectl_with(&["apply", "-f", "-", "--prune"], "\n").await.expect_stderr(1);
    assert!(stderr.starts_with("error: the input is empty"), "{stderr}");
    let stdout = gateway.gatectl_with(&["apply", "-f", "-", "--prune"], "routes: []\n").await.expect(0);
    assert!(stdout.ends_with("revision 2: 0 created, 0 updated, 2 deleted\n"), "{stdout}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_backend_that_a_route_needs_cannot_be_deleted_before_it() {
    let gateway = control_plane().await;
    gateway.gatectl_with(&["apply", "-f", "-"], USERS).await.expect(0);
    let stderr = gateway.gatectl(&["delete", "backend", "users"]).await.expect_stderr(1);
    assert!(stderr.contains("RG0205") && stderr.contains("nothing was changed"), "{stderr}");
    let stdout = gateway.gatectl(&["delete", "route", "users"]).await.expect(0);
    assert!(stdout.ends_with("revision 2: 0 created, 0 updated, 1 deleted\n"), "{stdout}");
    gateway.gatectl(&["delete", "backends", "users", "-m", "not needed"]).await.expect(0);
    let stderr = gateway.gatectl(&["delete", "backend", "users"]).await.expect_stderr(1);
    assert!(stderr.contains("users"), "{stderr}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_old_content() {
    let gateway = control_plane().await;
    gateway.gatectl_with(&["apply", "-f", "-", "-m", "first"], USERS).await.expect(0);
    let other = USERS.replace("/api/users", "/v2/users");
    gateway.gatectl_with(&["apply", "-f", "-", "-m", "second"], &other).await.expect(0);
    let before = gateway.gatectl(&["get", "-o", "yaml", "--revision", "1"]).await.expect(0);
    let stdout = gateway.gatectl(&["rollback", "1"]).await.expect(0);
    assert!(stdout.ends_with("revision 3: 0 created, 1 updated, 0 deleted\n"), "{stdout}");
    assert_eq!(gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0), before);
    let history = gateway.gatectl(&["history"]).await.expect(0);
    insta::assert_snapshot!(masked(&history, gateway.folder()), @r"
    REVISION  WHEN  AUTHOR  OWNER  CHANGES  MESSAGE
    3  WHEN  tester  -  +0 ~1 -0  rollback to 1
    2  WHEN  tester  default  +0 ~1 -0  second
    1  WHEN  tester  default  +2 ~0 -0  first
    ");
    let newest = gateway.gatectl(&["history", "-n", "1", "-o", "json"]).await.expect(0);
    let newest: serde_json::Value = serde_json::from_str(&newest).expect("JSON");
    assert_eq!(newest[0]["rollback_of"], 1);
    let stderr = gateway.gatectl(&["rollback", "99"]).await.expect_stderr(1);
    assert!(stderr.contains("99"), "{stderr}");
    gateway.shutdown().await;
}
