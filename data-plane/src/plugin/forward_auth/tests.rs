use std::{cell::RefCell, rc::Rc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::plugin::{
    Consumer, Flow,
    rig::Rig,
    tests::{fields_at_fault, lines},
};

/// A rig whose plugin asks a service that gives these answers, one for each connection; and what it was asked.
async fn rig(config: &str, answers: Vec<&'static str>) -> (Rig, impl Future<Output = ()>, Rc<RefCell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let rig = Rig::with_backend("auth", &url, "forward_auth", &format!(r#"{{"backend": "auth"{config}}}"#));
    let asked = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&asked);
    let service = async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut text).await.expect("reads") == 0 {
                    break;
                }
            }
            log.borrow_mut().push(String::from_utf8(text).expect("text"));
            stream.write_all(answer.as_bytes()).await.expect("writes");
        }
        std::future::pending::<()>().await;
    };
    (rig, service, asked)
}

async fn ask(rig: &mut Rig, service: impl Future<Output = ()>) -> Option<Flow> {
    tokio::select! {
        flow = rig.ask() => flow,
        () = service => None,
    }
}

/// Caddy CVE-2026-30851 and its kind: the service answers without the header that the client brings along.
#[tokio::test]
async fn what_only_the_service_may_say_is_taken_from_clients_whatever_it_answers() {
    let forged = [
        ("Remote-User", "root"),
        ("Remote_User", "root"),
        ("REMOTE-USER", "root"),
        ("remote.user", "root"),
        ("X-Consumer-Name", "root"),
        ("x_consumer_groups", "root"),
        ("Accept", "*/*"),
    ];
    let config = r#", "response_headers": ["Remote-User"], "consumer_header": "remote-user", "groups_header": "g", "on_error": "open""#;
    for (answer, told) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", &["Accept: */*"][..]),
        ("HTTP/1.1 500 Oops\r\nRemote-User: root\r\ncontent-length: 0\r\n\r\n", &["Accept: */*"]),
        ("garbage", &["Accept: */*"]),
        ("HTTP/1.1 200 OK\r\nRemote-User: a\r\nRemote-User: b\r\ncontent-length: 0\r\n\r\n", &["Accept: */*"]),
        (
            "HTTP/1.1 200 OK\r\nremote-user: alice\r\nRemote_User: eve\r\nG: users, admins\r\ncontent-length: 0\r\n\r\n",
            &["Accept: */*", "Remote-User: alice", "X-Consumer-Name: alice", "X-Consumer-Groups: users,admins"],
        ),
    ] {
        let (mut rig, service, asked) = rig(config, vec![answer]).await;
        for (name, value) in forged {
            rig.field(name, value);
        }
        assert!(ask(&mut rig, service).await.is_none(), "{answer}");
        assert_eq!(lines(&rig.fields), told, "{answer}");
        assert!(!asked.borrow()[0].contains("root"), "the service is not told either: {asked:?}");
        let consumer = rig.facts.consumer.as_ref().map(|consumer| (&*consumer.name, consumer.by));
        assert_eq!(consumer, (told.len() > 1).then_some(("alice", "forward_auth")), "{answer}");
    }
}

#[tokio::test]
async fn the_service_is_told_of_the_request_by_the_gateway_alone() {
    let (mut rig, service, asked) = rig(r#", "path": "/verify?a=b""#, vec!["HTTP/1.1 204 No\r\n\r\n"]).await;
    rig.method = "POST";
    rig.at("shop.example:8080", "/api/./x%41/../y?q=%2e&r");
    for (name, value) in [
        ("Authorization", "Bearer t"),
        ("Cookie", "s=1"),
        ("Content-Type", "text/plain"),
        ("content_md5", "x"),
        ("If-None-Match", "*"),
        ("Range", "bytes=0-1"),
        ("X-Original-URL", "http://evil/"),
        ("x_original_method", "GET"),
        ("Sec-WebSocket-Key", "x"),
    ] {
        rig.field(name, value);
    }
    assert!(ask(&mut rig, service).await.is_none());
    let text = asked.borrow()[0].clone();
    let port = text.lines().find_map(|line| line.strip_prefix("Host: 127.0.0.1:")).expect("the service's host");
    assert_eq!(
        text,
        format!(
            "GET /verify?a=b HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer t\r\nCookie: s=1\r\n\
             X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example:8080\r\n\
             X-Forwarded-Method: POST\r\nX-Forwarded-Uri: /api/y?q=%2e&r\r\nX-Original-Method: POST\r\n\
             X-Original-URL: http://shop.example:8080/api/y?q=%2e&r\r\n\r\n"
        )
    );
    assert_eq!(rig.fields.len(), 9, "the request itself keeps what it has");
}

#[tokio::test]
async fn of_the_request_it_is_told_what_is_listed() {
    let (mut rig, service, asked) = rig(r#", "request_headers": ["cookie"]"#, vec!["HTTP/1.1 204 No\r\n\r\n"]).await;
    rig.field("Authorization", "Bearer t").field("Cookie", "s=1");
    assert!(ask(&mut rig, service).await.is_none());
    let text = asked.borrow()[0].clone();
    assert!(text.contains("Cookie: s=1\r\nX-Forwarded-For: ") && !text.contains("Bearer"), "{text}");
}

#[tokio::test]
async fn a_refusal_is_the_services_own_and_nothing_of_the_connection_is_in_it() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Connection: close, X-Hop\r\nX-Hop: 1\r\nX-RustyGate-Backend: x\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n\
                  2\r\nhi\r\n0\r\n\r\n";
    let (mut rig, service, _) = rig("", vec![answer]).await;
    let Some(Flow::Refuse(refusal)) = ask(&mut rig, service).await else { panic!("it went on") };
    assert_eq!((refusal.status, refusal.reason.name), (302, "auth_denied"));
    assert_eq!(lines(&refusal.fields), ["Location: /login", "Set-Cookie: a=1", "Set-Cookie: b=2"]);
    assert_eq!(refusal.body.expect("a body")[..], *b"hi");
}

/// The service may answer a credential with another one, so it has to see the client's; upstreams see the service's or none.
#[tokio::test]
async fn a_credential_that_the_service_replaces_is_shown_to_it_and_to_nobody_else() {
    for (answer, told) in [
        (
            "HTTP/1.1 200 OK\r\nAuthorization: Bearer inner\r\ncontent-length: 0\r\n\r\n",
            &["Authorization: Bearer inner"][..],
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", &[]),
        ("garbage", &[]),
    ] {
        let config = r#", "response_headers": ["Authorization", "Cookie", "X-Key"], "on_error": "open""#;
        let (mut rig, service, asked) = rig(config, vec![answer]).await;
        rig.field("Authorization", "Bearer outer").field("cookie", "a=outer").field("X-Key", "hidden");
        assert!(ask(&mut rig, service).await.is_none());
        assert_eq!(lines(&rig.fields), told);
        let asked = asked.borrow()[0].clone();
        assert!(asked.contains("Bearer outer") && asked.contains("a=outer") && !asked.contains("hidden"), "{asked}");
    }
    let config = r#", "response_headers": ["X-Key"], "request_headers": ["x-key"]"#;
    let (mut rig, service, asked) = rig(config, vec!["HTTP/1.1 204 No Content\r\n\r\n"]).await;
    rig.field("X-Key", "shown");
    assert!(ask(&mut rig, service).await.is_none());
    assert!(lines(&rig.fields).is_empty() && asked.borrow()[0].contains("shown"), "what is listed is shown");
}

#[tokio::test]
async fn headers_that_tell_the_consumer_are_the_services_even_if_they_are_not_copied() {
    let config = r#", "consumer_header": "Remote-User", "groups_header": "Remote-Groups""#;
    let (mut rig, service, _) =
        rig(config, vec!["HTTP/1.1 200 OK\r\nRemote-User: alice\r\ncontent-length: 0\r\n\r\n"]).await;
    rig.field("REMOTE_USER", "root").field("remote-groups", "root").field("Accept", "*/*");
    assert!(ask(&mut rig, service).await.is_none());
    assert_eq!(lines(&rig.fields), ["Accept: */*", "X-Consumer-Name: alice"]);
    // Who is known already stays known.
    let config = r#", "consumer_header": "X-Consumer-Name", "groups_header": "X-Groups""#;
    let (mut rig, service, _) =
        self::rig(config, vec!["HTTP/1.1 200 OK\r\nX-Consumer-Name: eve\r\ncontent-length: 0\r\n\r\n"]).await;
    rig.facts.consumer = Some(Consumer { name: "bob".into(), ..Consumer::default() });
    rig.field("X-Consumer-Name", "bob").field("x_groups", "root");
    assert!(ask(&mut rig, service).await.is_none());
    assert_eq!(lines(&rig.fields), ["X-Consumer-Name: bob"]);
}

#[tokio::test]
async fn a_refusal_whose_body_is_not_whole_is_one_all_the_same() {
    let large = &*format!("content-length: 65537\r\n\r\n{}", "x".repeat(65537)).leak();
    let endless = &*format!("transfer-encoding: chunked\r\n\r\n10001\r\n{}", "x".repeat(65537)).leak();
    let broken = "transfer-encoding: chunked\r\n\r\nzz\r\n";
    let slow = "content-length: 10\r\n\r\nhalf";
    for on_error in ["open", "closed"] {
        for body in [large, endless, broken, slow] {
            let answer = &*format!("HTTP/1.1 403 No\r\nX-Why: 1\r\nContent-Type: text/html\r\n{body}").leak();
            let config = format!(r#", "on_error": "{on_error}", "timeout": "200ms""#);
            let (mut rig, service, _) = rig(&config, vec![answer]).await;
            let flow = ask(&mut rig, service).await;
            let Some(Flow::Refuse(refusal)) = flow else { panic!("it went on: {answer:.100}") };
            assert_eq!((refusal.status, refusal.reason.name), (403, "auth_denied"), "{answer:.100}");
            assert!(refusal.body.is_none() && lines(&refusal.fields) == ["X-Why: 1"], "{refusal:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_none_closes_the_way_unless_told_otherwise() {
    let head = &*format!("HTTP/1.1 403 No\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(1 << 20)).leak();
    for answer in [
        "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "SSH-2.0-x\r\n",
        head,
    ] {
        let (mut closed, service, _) = rig("", vec![answer]).await;
        let Some(Flow::Refuse(refusal)) = ask(&mut closed, service).await else { panic!("it went on: {answer:.60}") };
        assert_eq!((refusal.status, refusal.reason.name), (503, "auth_unavailable"), "{answer:.60}");
        let (mut open, service, _) = rig(r#", "on_error": "open""#, vec![answer]).await;
        assert!(ask(&mut open, service).await.is_none(), "{answer:.60}");
        let errors = &open.worker.shared.metrics.gauges.forward_auth_errors;
        assert_eq!(errors.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
    // How much a yes says does not matter.
    let yes = &*format!("HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\n{}", "x".repeat(65537)).leak();
    let (mut rig, service, _) = rig("", vec![yes]).await;
    assert!(ask(&mut rig, service).await.is_none());
}

#[test]
fn mistakes_are_told() {
    assert_eq!(fields_at_fault("forward_auth", "{}"), ["config"]);
    assert_eq!(fields_at_fault("forward_auth", r#"{"backend": 7}"#), ["config.backend"]);
    let of = |more: &str| fields_at_fault("forward_auth", &format!(r#"{{"backend": "auth", {more}}}"#));
    for path in ["verify", "/a/../b", "/a?b#c", "/a b", ""] {
        assert_eq!(of(&format!(r#""path": "{path}""#)), ["config.path"], "{path}");
    }
    assert_eq!(of(r#""host": "a b""#), ["config.host"]);
    assert_eq!(of(r#""timeout": "0s""#), ["config.timeout"]);
    assert_eq!(of(r#""on_error": "ajar""#), ["config.on_error"]);
    assert_eq!(of(r#""response_headers": ["Host", "x-forwarded-for", "a b", "ok"]"#).len(), 3);
    assert_eq!(of(r#""groups_header": "x-groups""#), ["config.groups_header"]);
}
