use rustygate_proto::v1 as wire;
use tokio::net::TcpListener;

use super::*;
use crate::plugin::{Plugin, rig::message, tests::fields_at_fault};

const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn source(config: &str) -> Arc<Source> {
    let plugin = Plugin::compile(&message("jwt", config)).expect(config);
    Arc::clone(plugin.key_source().expect("a source"))
}

/// What comes of a fetch from a server that reads a request, says this, and closes; or says this and nothing more.
async fn fetched(answer: Vec<u8>, closes: bool) -> (Result<usize, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        let bytes = stream.read(&mut request).await.expect("a request");
        // Who has heard enough closes.
        let _ = stream.write_all(&answer).await;
        if !closes {
            let _ = stream.read(&mut [0; 1]).await;
        }
        request.truncate(bytes);
        String::from_utf8(request).expect("text")
    };
    let source = source(&format!(r#"{{"jwks_url": "http://{address}/keys?tenant=1", "jwks_timeout": "300ms"}}"#));
    let names = Names::default();
    let (result, request) = tokio::join!(source.fetch(&names), serve);
    (result.map(|published| published.keys.len()).map_err(|error| error.to_string()), request)
}

fn sized(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn keys(list: &str) -> String {
    format!(r#"{{"keys":[{list}]}}"#)
}

#[tokio::test]
async fn a_set_is_read_however_it_is_framed() {
    let body = keys(KEY);
    let (result, request) = fetched(sized(&body), true).await;
    assert_eq!(result, Ok(1));
    let host = "GET /keys?tenant=1 HTTP/1.1\r\nHost: 127.0.0.1:";
    assert!(request.starts_with(host) && request.ends_with("\r\n\r\n"), "{request}");
    for answer in [
        format!(
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 203 X\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
        format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
    ] {
        assert_eq!(fetched(answer.clone().into_bytes(), true).await.0, Ok(1), "{answer}");
    }
}

#[tokio::test]
async fn whatever_else_a_server_says_is_an_error_and_nothing_worse() {
    let many = |count| keys(&vec![KEY; count].join(","));
    let megabytes = " ".repeat(10 << 20);
    let others = format!(r#"{{"kty":"oct","k":"{}"}},{{"kty":"EC","crv":"P-521"}}"#, "a".repeat(43));
    for (answer, closes, error) in [
        (Vec::new(), false, "no whole answer within 300ms"),
        (Vec::new(), true, "unexpected end of file"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(), false, "no whole answer within 300ms"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(), true, "the body is cut short"),
        (sized(&megabytes), true, "the answer has more than 1048576 bytes"),
        (format!("HTTP/1.0 200 OK\r\n\r\n{megabytes}").into_bytes(), true, "the answer has more than 1048576 bytes"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            true,
            "status 302",
        ),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec(), true, "status 500"),
        (b"\x16\x03\x01garbage\r\n\r\n".to_vec(), true, ""),
        (sized("garbage"), true, "this is no set of keys in JSON: expected value at line 1 column 1"),
        (sized(&"[".repeat(100_000)), true, ""),
        (sized(&keys("")), true, "there is no key"),
        (sized(&keys(&others)), true, "none of the keys can be used; the first because keys of this kind"),
        (sized(&many(1000)), true, "there are 1000 keys; at most 100 are taken"),
    ] {
        let (result, _) = fetched(answer, closes).await;
        assert!(result.as_ref().is_err_and(|said| said.starts_with(error)), "{error}: {result:?}");
    }
    assert_eq!(fetched(sized(&many(100)), true).await.0, Ok(100));
    assert_eq!(
        fetched(sized(&keys(&format!("{KEY},{others},7,null"))), true).await.0,
        Ok(1),
        "the others are left out"
    );
}

#[test]
fn a_url_leads_to_one_place_and_bad_ones_are_told_of() {
    let url = |url: &str| source(&format!(r#"{{"jwks_url": "{url}"}}"#));
    let plain = url("https://Login.Example.com");
    assert_eq!(
        (&*plain.target, &*plain.url, plain.host_name()),
        ("/", "https://login.example.com/", Some("login.example.com"))
    );
    let other = url("http://10.0.0.1:8080/a/?b=c/d");
    assert_eq!((&*other.target, &*other.url, other.host_name()), ("/a/?b=c/d", "http://10.0.0.1:8080/a/", None));
    assert_eq!(plain.id, url("https://login.example.com:443/").id);
    let slow = source(r#"{"jwks_url": "https://login.example.com", "jwks_refresh": "1h", "audience": "a"}"#);
    assert!(plain.id == slow.id && plain.terms != slow.terms, "what is known of a place does not hang on the terms");
    assert!(plain.id != url("https://login.example.com/?").id && plain.id != url("http://login.example.com").id);
    for bad in [
        "",
        "login.example.com",
        "ftp://a/",
        "https://",
        "https:///keys",
        "https://u@a/",
        "https://u:p@a/",
        "https://a/#b",
        "https://a b/",
        "https://a/b c",
        "https://a/\u{e9}",
        "https://a:0/",
        "https://1.2/",
        "http://[::1/",
        "https://a?b#c",
    ] {
        let config = serde_json::json!({"jwks_url": bad}).to_string();
        assert_eq!(fields_at_fault("jwt", &config), ["config.jwks_url"], "{bad}");
    }
}

#[test]
fn what_belongs_to_no_url_is_told_of() {
    for (config, field) in [
        ("{}", "config"),
        (r#"{"jwks_refresh": "1h"}"#, "config.jwks_refresh"),
        (r#"{"jwks_url": "https://a", "jwks_refresh": "1s"}"#, "config.jwks_refresh"),
        (r#"{"jwks_url": "https://a", "jwks_ca": "x"}"#, "config.jwks_ca"),
        (r#"{"jwks_url": "https://a", "jwks_timeout": "1ms"}"#, "config.jwks_timeout"),
        (r#"{"jwks": "{}"}"#, "config.jwks"),
        (r#"{"jwks": "{\"keys\": []}"}"#, "config.jwks"),
    ] {
        assert!(fields_at_fault("jwt", config).contains(&field.to_owned()), "{config}");
    }
    let secret = serde_json::json!({"jwks": keys(r#"{"kty":"oct","k":"AAAA"}"#)}).to_string();
    assert_eq!(fields_at_fault("jwt", &secret), ["config.jwks"]);
    let set = serde_json::json!({"jwks": keys(KEY)}).to_string();
    assert!(Plugin::compile(&message("jwt", &set)).is_ok_and(|plugin| plugin.key_source().is_none()));
    let off = wire::Plugin { enabled: Some(false), ..message("jwt", r#"{"jwks_url": "https://a"}"#) };
    assert!(Plugin::compile(&off).is_ok_and(|plugin| plugin.key_source().is_none()), "nobody asks");
}
