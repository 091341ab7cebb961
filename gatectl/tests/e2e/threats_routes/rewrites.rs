//! What is left of a path when its prefix is removed stays within what the route is for.

use super::Site;

const API: &str = "
routes:
- {name: root, path: /, backend: root, strip_prefix: false}
- {name: api, path: /api, backend: api}
- {name: deep, path: /api/v1/users, backend: deep}
- {name: admin, path: /admin, backend: admin, strip_prefix: false}
";

/// Traefik CVE-2026-48020.
#[tokio::test]
async fn a_removed_prefix_cannot_be_left_by_what_follows_it() {
    let mut site = Site::start(&["root", "api", "deep", "admin"]).await;
    let gateway = site.gateway(API).await;
    let cases = [
        ("/api/admin", "api /admin"),
        ("/api", "api /"),
        ("/api/", "api /"),
        ("/api//", "api /"),
        ("/api//admin", "api /admin"),
        ("//api///admin//x", "api /admin/x"),
        ("/api//evil.example/x", "api /evil.example/x"),
        ("/api../admin", "root /api../admin"),
        ("/api%2e%2e/admin", "root /api../admin"),
        ("/api.", "root /api."),
        ("/apiadmin", "root /apiadmin"),
        ("/api%2Dadmin", "root /api-admin"),
        ("/api%3Fadmin", "root /api%3Fadmin"),
        ("/api/../admin", "admin /admin"),
        ("/api/%2e%2e/admin", "admin /admin"),
        ("/api/..//admin", "admin /admin"),
        ("/api/.../admin", "api /.../admin"),
        ("/api/./admin", "api /admin"),
        ("/api/x/../../admin", "admin /admin"),
        ("/api/v1/users/../../admin", "api /admin"),
        ("/api/v1/users", "deep /"),
        ("/api/v1/users/", "deep /"),
        ("/api;x/v1;y/users;z/7;w", "deep /7;w"),
        ("/api;x/v1/users;z", "deep /"),
        ("/api;x/v1", "api /v1"),
        ("/api;x", "api /"),
        ("/api/;x", "api /;x"),
        ("/api;x/", "api /"),
        ("/api;x=/../admin", "admin /admin"),
        ("/api;/admin;y", "api /admin;y"),
        ("/api/v1/users/7", "deep /7"),
        ("/api/v1/%75sers/7", "deep /7"),
        ("/%61p%69/v1/users/%2e/7", "deep /7"),
        ("/api/v1/users../admin", "api /v1/users../admin"),
        ("/api/..%2fadmin", "400 bad_target"),
        ("/api%2f..%2fadmin", "400 bad_target"),
        ("/api%2fadmin", "400 bad_target"),
        ("/api/..\\admin", "400 bad_target"),
        ("/api\\..\\admin", "400 bad_target"),
        ("/api/..;/admin", "400 bad_target"),
        ("/api/../../admin", "400 bad_target"),
        ("/../api/admin", "400 bad_target"),
        ("http://h/api/admin", "api /admin"),
        ("http://h//api/../admin", "admin /admin"),
    ];
    site.expect(gateway.proxy_addr(), &cases).await;
    gateway.shutdown().await;
}

/// Nothing that a client sends gets above the path of the endpoint.
#[tokio::test]
async fn a_path_stays_below_the_base_of_its_endpoint() {
    let mut site = Site::start(&["base"]).await;
    let url = site.witnesses[0].1.url();
    let routes = format!(
        "routes:\n- {{name: strip, path: /api, backend: \"{url}/base/v1\"}}\n\
         - {{name: keep, path: /keep, backend: \"{url}/base\", strip_prefix: false}}\n"
    );
    let gateway = site.gateway(&routes).await;
    let cases = [
        ("/api", "base /base/v1"),
        ("/api/", "base /base/v1/"),
        ("/api/x", "base /base/v1/x"),
        ("/api//x", "base /base/v1/x"),
        ("/api/x/..", "base /base/v1/"),
        ("/api/%2e", "base /base/v1/"),
        ("/api?/../..", "base /base/v1?/../.."),
        ("/api../x", "404 no_route"),
        ("/api/..", "404 no_route"),
        ("/api/../v2", "404 no_route"),
        ("/api/%2e%2e/%2e%2e/v2", "400 bad_target"),
        ("/api/..%2f..%2fv2", "400 bad_target"),
        ("/keep/../api/x", "base /base/v1/x"),
        ("/keep/./%2e/x", "base /base/keep/x"),
        ("/keep/../../x", "400 bad_target"),
    ];
    site.expect(gateway.proxy_addr(), &cases).await;
    gateway.shutdown().await;
}

/// Traefik CVE-2026-40912: the pattern is tried on the bytes that the upstream gets.
#[tokio::test]
async fn a_pattern_sees_what_the_upstream_sees() {
    let mut site = Site::start(&["file", "secret", "api"]).await;
    let routes = r#"
routes:
- {name: api, path: {regex: "/api[^/]/.*"}, backend: api}
- {name: file, path: {regex: "/files/[a-z0-9.]+"}, backend: file}
- {name: secret, path: {regex: "/files/secret(\\.[a-z]+)?|/(vault|safe)/.+"}, backend: secret}
"#;
    let cases = [
        ("/api%2e/admin/secret", "api /api./admin/secret"),
        ("/api./admin/secret", "api /api./admin/secret"),
        ("/api%2e%2e/admin/secret", "404 no_route"),
        ("/api%25/admin", "404 no_route"),
        ("/api%2f/admin", "400 bad_target"),
        ("/api./../vault/x", "secret /vault/x"),
        ("/files/a%2etxt", "file /files/a.txt"),
        ("/files/%61.txt", "file /files/a.txt"),
        ("/files/../vault/x", "secret /vault/x"),
        ("/files/%2e%2e/v%61ult/x", "secret /vault/x"),
        ("//vault//x", "secret /vault/x"),
        ("/vault/%2e%2e/safe/x", "secret /safe/x"),
        ("/vault/..", "404 no_route"),
        ("/vault;x/y", "secret /vault;x/y"),
        ("/files/secret;x=/a", "404 no_route"),
        ("/files/a.txt;x", "file /files/a.txt;x"),
        ("/vault/", "404 no_route"),
        ("/xvault/x", "404 no_route"),
        ("/VAULT/x", "404 no_route"),
        ("/files/a.txt/b", "404 no_route"),
        ("/files/a%0avault", "400 bad_target"),
        ("/files/x%0a/vault/x", "400 bad_target"),
        ("/x/files/a.txt", "404 no_route"),
        ("/files/a%3Fb", "404 no_route"),
        ("/files/a.txt?b/c", "file /files/a.txt?b/c"),
        ("http://h/files/a%2Etxt", "file /files/a.txt"),
    ];
    let gateway = site.gateway(routes).await;
    site.expect(gateway.proxy_addr(), &cases).await;
    gateway.shutdown().await;
}

/// A rule that no request can have is a fault of the manifest, not a rule that silently guards nothing.
#[tokio::test]
async fn a_route_for_a_path_that_no_request_has_is_refused() {
    let site = Site::start(&["api"]).await;
    let gateway = site.gateway("routes: [{name: root, path: /, backend: api}]").await;
    for path in [
        "/a/../b",
        "/a/./b",
        "//a",
        "/a//b",
        "/%61",
        "/a%2eb",
        "/a%3b",
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/a%00",
        "/a%",
        "/..",
        "/..;/a",
        "/a;x",
        "/a;x=1/b",
        "/;x",
        "/a b",
        "/a?b",
        "/a#b",
        "a",
        "http://h/a",
    ] {
        for kind in ["exact", "prefix"] {
            let routes = format!("routes: [{{name: r, path: {{{kind}: '{path}'}}, backend: api}}]");
            assert!(gateway.try_apply(&routes).await.is_err(), "{kind} {path}");
        }
    }
    gateway.shutdown().await;
}
