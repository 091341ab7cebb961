use std::io::Write as _;

use tokio::net::TcpListener;

use super::*;

fn connection(url: &str) -> Connection {
    Connection { url: url.to_owned(), token: None, ca: None }
}

fn parts(failure: Failure) -> (String, String) {
    match failure {
        Failure::Error { message, hint } => (message, hint),
        Failure::Told | Failure::PipeClosed => panic!("an error"),
    }
}

/// An address where nothing listens.
fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("address")
}

#[tokio::test]
async fn nobody_there_hints_at_how_to_start() {
    let url = format!("http://{}", free_address());
    let (message, hint) = parts(Client::connect(&connection(&url)).await.expect_err("nobody there"));
    assert!(message.starts_with(&format!("cannot reach the control plane at {url}: ")), "{message}");
    assert!(message.contains("refused"), "{message}");
    assert!(hint.contains("gatectl dev"), "{hint}");
}

#[tokio::test]
async fn what_is_no_url_is_told() {
    for bad in ["", "127.0.0.1:8082", "ftp://a", "http://", "a b", "http://\u{7}"] {
        let (message, hint) = parts(Client::connect(&connection(bad)).await.expect_err("no URL"));
        assert!(message.ends_with("is not the URL of a control plane"), "{bad}: {message}");
        assert!(!message.contains('\u{7}'));
        assert!(hint.contains(DEFAULT_URL), "{hint}");
    }
}

#[tokio::test]
async fn https_to_a_plain_server_hints_at_the_ca_and_the_scheme() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("address"));
    let server = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut socket = socket.into_std().expect("socket");
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (_, hint) = parts(Client::connect(&connection(&url)).await.expect_err("no TLS there"));
    server.abort();
    assert!(hint.contains("--ca FILE"), "{hint}");
}

#[test]
fn a_token_that_cannot_be_sent_is_refused_and_not_shown() {
    let (message, _) = parts(Bearer::new(Some("geheim\n")).expect_err("a line end"));
    assert!(!message.contains("geheim"), "{message}");
    assert!(!format!("{:?}", Bearer::new(Some("geheim")).expect("a token")).contains("geheim"));
}

#[test]
fn each_kind_of_refusal_says_what_to_do() {
    let told = |code, message: &str| parts(call_failed("http://a:1", &Status::new(code, message)));
    let (message, hint) = told(Code::Unauthenticated, "no token");
    assert_eq!(message, "the control plane wants a token: no token");
    assert!(hint.contains("--token-file"), "{hint}");
    let (message, hint) = told(Code::PermissionDenied, "viewer may not apply");
    assert_eq!(message, "not allowed: viewer may not apply");
    assert!(hint.contains("role"), "{hint}");
    let (message, hint) = told(Code::Aborted, "the head revision is 7, not 6");
    assert_eq!(message, "the head revision is 7, not 6");
    assert!(hint.contains("gatectl history"), "{hint}");
    let (message, hint) = told(Code::NotFound, "no revision \x1b[2J");
    assert_eq!(message, r"no revision \u{1b}[2J");
    assert_eq!(hint, "");
    assert!(!told(Code::Internal, "").0.is_empty());
}
