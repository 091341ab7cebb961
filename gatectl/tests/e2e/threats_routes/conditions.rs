//! Conditions that hold for one value of several, or for one spelling of it.
//!
//! A route asks for something of a request, and a request that does not have it is for whoever is left. So what is
//! forbidden is what no route asks for, and a request must never have by one value what it loses by another.

use super::Site;

/// Envoy CVE-2026-26308: a condition holds if every value holds, and there is one. A request that says two things has
/// neither the rights of the one nor of the other.
#[tokio::test]
async fn every_value_of_a_header_counts() {
    let mut site = Site::start(&["nobody", "user", "admin", "staff"]).await;
    let routes = "
routes:
- {name: nobody, path: /, backend: nobody}
- {name: user, path: /, headers: {x-role: user}, backend: user}
- {name: admin, path: /, headers: {x-role: admin}, backend: admin}
- {name: staff, path: /staff, headers: {x-role: {regex: 'user|admin'}}, backend: staff, strip_prefix: false}
";
    let gateway = site.gateway(routes).await;
    for (path, lines, expected) in [
        ("/", "x-role: user", "user /"),
        ("/", "X-ROLE: user", "user /"),
        ("/", "x-role:\t user \t", "user /"),
        ("/", "x-role: user\r\nx-role: user", "user /"),
        ("/", "x-role: admin", "admin /"),
        ("/", "x-role: user\r\nx-role: admin", "nobody /"),
        ("/", "x-role: admin\r\nX-Role: user", "nobody /"),
        ("/", "x-role: user\r\nx-role:", "nobody /"),
        ("/", "x-role:\r\nx-role: user", "nobody /"),
        ("/", "x-role: user, admin", "nobody /"),
        ("/", "x-role: user,user", "nobody /"),
        ("/", "x-role: admin;user", "nobody /"),
        ("/", "x-role: \"user\"", "nobody /"),
        ("/", "x-role: User", "nobody /"),
        ("/", "x-role: us%65r", "nobody /"),
        ("/", "x-role:", "nobody /"),
        ("/", "x-role: user\u{a0}", "nobody /"),
        ("/", "x-roles: user", "nobody /"),
        ("/", "cookie: x-role=user", "nobody /"),
        ("/staff", "x-role: user\r\nx-role: admin", "staff /staff"),
        ("/staff", "x-role: user\r\nx-role: root", "nobody /staff"),
        ("/staff", "x-role: user, root", "nobody /staff"),
        ("/staff", "x-role: user, admin", "nobody /staff"),
        ("/staff", "x-role: users", "nobody /staff"),
        ("/staff", "x-role: a user", "nobody /staff"),
        ("/staff", "x-role: user\u{85}", "nobody /staff"),
        ("/", "x-role: us\u{0}er", "400 bad_request"),
        ("/", "x-role: user\r\n admin", "400 bad_request"),
        ("/", "x-role : user", "400 bad_request"),
        ("/", " x-role: user", "400 bad_request"),
        ("/", "x-role: user\nx-role: admin", "400 bad_request"),
        ("/", "x-role: user\rx-role: admin", "400 bad_request"),
    ] {
        let outcome = site.outcome(gateway.proxy_addr(), format!("GET {path} HTTP/1.1\r\nhost: a\r\n{lines}")).await;
        assert_eq!(outcome, expected, "{path} {lines:?}");
    }
    gateway.shutdown().await;
}

/// All conditions of a match hold together, or it does not.
#[tokio::test]
async fn one_condition_that_holds_does_not_stand_for_the_others() {
    let mut site = Site::start(&["nobody", "both"]).await;
    let routes = "
routes:
- {name: nobody, path: /, backend: nobody}
- {name: both, path: /, method: GET, headers: {x-a: '1', x-b: '1'}, query: {c: '1', d: '1'}, backend: both}
";
    let gateway = site.gateway(routes).await;
    for (line, expected) in [
        ("GET /?c=1&d=1 HTTP/1.1\r\nx-a: 1\r\nx-b: 1", "both /?c=1&d=1"),
        ("GET /?d=1&x&c=1 HTTP/1.1\r\nx-b: 1\r\nx-a: 1", "both /?d=1&x&c=1"),
        ("POST /?c=1&d=1 HTTP/1.1\r\nx-a: 1\r\nx-b: 1", "nobody /?c=1&d=1"),
        ("GET /?c=1 HTTP/1.1\r\nx-a: 1\r\nx-b: 1", "nobody /?c=1"),
        ("GET /?c=1&d=2 HTTP/1.1\r\nx-a: 1\r\nx-b: 1", "nobody /?c=1&d=2"),
        ("GET /?c=1&d=1 HTTP/1.1\r\nx-a: 1", "nobody /?c=1&d=1"),
        ("GET /?c=1&d=1 HTTP/1.1\r\nx-a: 1\r\nx-b: 1\r\nx-b: 2", "nobody /?c=1&d=1"),
    ] {
        assert_eq!(site.outcome(gateway.proxy_addr(), format!("{line}\r\nhost: a")).await, expected, "{line}");
    }
    gateway.shutdown().await;
}

/// Methods have a case, and the upstream is told the very method that the route saw.
#[tokio::test]
async fn a_method_is_what_it_says_in_its_own_case() {
    let mut site = Site::start(&["get", "post"]).await;
    let routes = "
routes:
- {name: get, path: /, method: GET, backend: get}
- {name: post, path: /, method: [POST, PURGE], backend: post}
";
    let gateway = site.gateway(routes).await;
    for (method, expected) in [
        ("GET", "get /"),
        ("POST", "post /"),
        ("PURGE", "post /"),
        ("get", "404 no_route"),
        ("Get", "404 no_route"),
        ("post", "404 no_route"),
        ("purge", "404 no_route"),
        ("HEAD", "404 no_route"),
        ("GETS", "404 no_route"),
        ("GET\u{0}", "400 bad_request"),
        ("G%45T", "404 no_route"),
        (" GET", "400 bad_request"),
        ("GET ", "400 bad_request"),
        ("GET\t", "400 bad_request"),
        ("GET,POST", "400 bad_request"),
        ("\u{ff27}ET", "400 bad_request"),
        ("CONNECT", "405 method_not_allowed"),
        ("connect", "404 no_route"),
        ("GET\r\nx-http-method-override: POST\r\nx-method-override: POST\r\nx-y:", "400 bad_request"),
    ] {
        let outcome = site.outcome(gateway.proxy_addr(), format!("{method} / HTTP/1.1\r\nhost: a")).await;
        // The answer to HEAD says no reason.
        let expected = if method == "HEAD" { "404 without a reason" } else { expected };
        assert_eq!(outcome, expected, "{method:?}");
    }
    let hinted = "GET / HTTP/1.1\r\nhost: a\r\nx-http-method-override: POST\r\nx-http-method: POST";
    assert_eq!(site.outcome(gateway.proxy_addr(), hinted).await, "get /", "a header is no method");
    assert_eq!(
        site.outcome(gateway.proxy_addr(), "GET /?_method=POST HTTP/1.1\r\nhost: a").await,
        "get /?_method=POST"
    );
    gateway.shutdown().await;
}

/// A parameter is its decoded name and value, wherever and however often it is there; the upstream gets the query as
/// it came.
#[tokio::test]
async fn a_parameter_counts_in_every_spelling_and_every_time() {
    let mut site = Site::start(&["nobody", "user", "word", "empty"]).await;
    let routes = "
routes:
- {name: nobody, path: /, backend: nobody}
- {name: user, path: /, query: {role: user}, backend: user}
- {name: word, path: /word, query: {role: {regex: '[a-z]+'}}, backend: word, strip_prefix: false}
- {name: empty, path: /, query: {flag: ''}, backend: empty}
";
    let gateway = site.gateway(routes).await;
    for (target, expected) in [
        ("/?role=user", "user"),
        ("/?role=user&role=user", "user"),
        ("/?%72ole=user", "user"),
        ("/?role=%75%73%65%72", "user"),
        ("/?x=%&role=user", "user"),
        ("/?&&role=user&", "user"),
        ("/?role=user&role=admin", "nobody"),
        ("/?role=admin&role=user", "nobody"),
        ("/?role=user&%72ole=admin", "nobody"),
        ("/?%72%6f%6C%65=admin&role=user", "nobody"),
        ("/?role=user&role", "nobody"),
        ("/?role=user&role=", "nobody"),
        ("/?role=user,admin", "nobody"),
        ("/?role=user;role=admin", "nobody"),
        ("/?role=user%26role=admin", "nobody"),
        ("/?role=user%00", "nobody"),
        ("/?role=user+", "nobody"),
        ("/?role=user%20", "nobody"),
        ("/?role=%2575ser", "nobody"),
        ("/?role==user", "nobody"),
        ("/?role[]=user", "nobody"),
        ("/?Role=user", "nobody"),
        ("/?role=User", "nobody"),
        ("/?x=role=user", "nobody"),
        ("/??role=user", "nobody"),
        ("/?%3frole=user", "nobody"),
        ("/?role%3duser", "nobody"),
        ("/?r%6fle%00=user", "nobody"),
        ("/?role =user", "505 version_not_supported"),
        ("/?role=us er", "505 version_not_supported"),
        ("/word?role=abc", "word"),
        ("/word?role=%61bc", "word"),
        ("/word?role=abc&role=x", "word"),
        ("/word?role=abc&role=1", "nobody"),
        ("/word?role=abc&role=%31", "nobody"),
        ("/word?role=a%0a", "nobody"),
        ("/word?role=a+b", "nobody"),
        ("/word?role=%zz", "nobody"),
        ("/?flag", "empty"),
        ("/?flag=", "empty"),
        ("/?fl%61g", "empty"),
        ("/?flag=1", "nobody"),
        ("/?flag&flag=1", "nobody"),
        ("/?flagged", "nobody"),
        ("/?", "nobody"),
        ("/?=", "nobody"),
    ] {
        let outcome = site.outcome(gateway.proxy_addr(), format!("GET {target} HTTP/1.1\r\nhost: a")).await;
        let expected = if expected.starts_with("505") { expected.to_owned() } else { format!("{expected} {target}") };
        assert_eq!(outcome, expected, "{target}");
    }
    gateway.shutdown().await;
}
