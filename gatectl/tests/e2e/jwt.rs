//! Tokens, really signed, as callers send them: the good ones, and the attacks that made others famous.

mod issuer;
mod published;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use self::issuer::{Issuer, SECRET, now, signed_with};
use crate::harness::{Client, Gateway, Http2, Response, Witness, files_with, gatectl_with_env, within};

/// A route for every request with one plugin of that configuration.
fn guarded(config: &str, url: &str) -> String {
    format!(
        "plugins: [{{name: tokens, type: jwt, config: {config}}}]\n\
         routes: [{{name: all, path: /, plugins: [tokens], backend: \"{url}\"}}]\n"
    )
}

fn reason(response: &Response) -> String {
    let body = serde_json::from_slice::<Value>(&response.body).ok();
    body.and_then(|body| Some(body["reason"].as_str()?.to_owned())).unwrap_or_default()
}

/// Status, and the reason of a refusal.
async fn ask(client: &mut Client, token: &str) -> (u16, String) {
    let response = client.get_with("/", &[("authorization", &format!("Bearer {token}"))]).await;
    (response.status, reason(&response))
}

/// Every key of the issuer, in place.
fn all_keys(issuer: &Issuer) -> String {
    let pem = |name: &str| serde_json::to_string(issuer.pem(name)).expect("text");
    let jwk = serde_json::to_string(&issuer.jwk("jwk").to_string()).expect("text");
    format!(
        "[{{kid: rsa, pem: {}, algorithm: RS256}}, {{kid: pss, pem: {}, algorithm: PS512}}, {{kid: p384, pem: {}}}, \
         {{kid: ed, pem: {}}}, {{jwk: {jwk}}}, {{kid: shared, secret: {SECRET}}}]",
        pem("rsa"),
        pem("rsa"),
        pem("p384"),
        pem("ed25519"),
    )
}

const KINDS: [(&str, &str); 6] =
    [("RS256", "rsa"), ("PS512", "pss"), ("ES256", "jwk"), ("ES384", "p384"), ("EdDSA", "ed"), ("HS256", "shared")];

#[tokio::test]
async fn tokens_of_every_kind_tell_upstreams_who_asks_in_headers_that_nobody_forges() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let config = format!(
        "{{keys: {}, issuer: home, audience: [orders], groups_claim: realm.roles, scopes: [read], \
         forward: [{{header: X-User-Id, claim: uid}}]}}",
        all_keys(&issuer)
    );
    let gateway = Gateway::builder().manifest(&guarded(&config, &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    for (by, kid) in KINDS {
        let claims = format!(
            r#"{{"iss":"home","aud":["billing","orders"],"exp":{},"sub":"alice","uid":7,"scope":"write read",
                "realm":{{"roles":["users","admins"]}}}}"#,
            now() + 600
        );
        let token = issuer.sign(by, &format!(r#"{{"alg":"{by}","kid":"{kid}"}}"#), &claims);
        let bearer = format!("Bearer {token}");
        let forged = [
            ("authorization", &*bearer),
            ("x-user-id", "1"),
            ("X_User_Id", "1"),
            ("X-USER_ID", "1"),
            ("x-consumer-name", "root"),
            ("X_Consumer_Groups", "root"),
            ("accept", "*/*"),
        ];
        // Again from memory.
        for _ in 0..2 {
            let seen = client.get_with("/", &forged).await;
            assert_eq!(seen.status, 200, "{by}: {}", seen.text());
            let text = seen.text();
            for line in ["X-User-Id: 7", "X-Consumer-Name: alice", "X-Consumer-Groups: users,admins", "accept: */*"] {
                assert!(text.lines().any(|found| found == line), "{by}: {text}");
            }
            let mentions = text.lines().filter(|line| line.to_lowercase().replace('_', "-").starts_with("x-user-id"));
            assert!(mentions.count() == 1 && !text.contains("root") && !text.contains(&token), "{by}: {text}");
        }
        let lower = forged.map(|(name, value)| (name.to_ascii_lowercase(), value));
        let lower: Vec<_> = lower.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let seen = http2.request("GET", "/", &lower, b"").await;
        assert!(
            seen.status == 200 && seen.text().contains("X-User-Id: 7") && !seen.text().contains("root"),
            "{seen:?}"
        );
        // Trailers neither.
        client
            .send(
                format!(
                    "POST / HTTP/1.1\r\nhost: a\r\nauthorization: {bearer}\r\ntransfer-encoding: chunked\r\n\r\n\
                 1\r\nx\r\n0\r\nX-User-Id: 1\r\nx_user_id: 1\r\nx-consumer-name: root\r\nx-sum: 1\r\n\r\n"
                )
                .as_bytes(),
            )
            .await;
        assert_eq!(client.response(false).await.status, 200);
        let seen = String::from_utf8_lossy(&upstream.requests().last().expect("a request").bytes).into_owned();
        let trailers = seen.split_once("\r\n0\r\n").map(|(_, trailers)| trailers.to_owned()).unwrap_or_default();
        assert!(trailers.is_empty() || trailers.trim() == "x-sum: 1", "{seen}");
    }
    gateway.shutdown().await;
}

/// APISIX CVE-2026-39999, and every classic of that kind.
#[tokio::test]
async fn the_algorithm_is_that_of_the_key_whatever_a_token_says() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let manifest = guarded(&format!("{{keys: {}}}", all_keys(&issuer)), &upstream.url());
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let claims = format!(r#"{{"sub":"root","exp":{}}}"#, now() + 600);
    let mut attacks = Vec::new();
    for kid in ["rsa", "pss", "jwk", "p384", "ed", "shared", "nobody"] {
        // The public key as a shared secret, as text and as its bytes.
        for (key, header) in ["rsa", "p384", "ed25519", "p256"].into_iter().zip(["HS256", "HS384", "HS512", "RS256"]) {
            for name in ["HS256", header] {
                let header = format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#);
                attacks.push(signed_with(issuer.pem(key).as_bytes(), &header, &claims));
                attacks.push(signed_with(issuer.pem(key).trim().as_bytes(), &header, &claims));
            }
        }
        for name in ["none", "None", "nOnE", "NONE", "", " none", "ES256 ", "hs256"] {
            let header = format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#);
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims));
            attacks.extend([format!("{message}."), message, signed_with(SECRET.as_bytes(), &header, &claims)]);
        }
        // Each key's signature under each other name, and with each other key's id.
        for (by, own) in KINDS {
            for (name, _) in KINDS {
                if (name, kid) != (by, own) {
                    attacks.push(issuer.sign(by, &format!(r#"{{"alg":"{name}","kid":"{kid}"}}"#), &claims));
                }
            }
        }
        // Keys that the token brings along.
        let jwk = issuer.jwk(kid);
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}x","jwk":{jwk},"jku":"http://127.0.0.1:1/"}}"#);
        attacks.push(issuer.sign("ES256", &header, &claims));
    }
    for attack in &attacks {
        assert_eq!(ask(&mut client, attack).await, (401, "token_invalid".to_owned()), "{attack}");
    }
    assert!(upstream.requests().is_empty());
    for (by, kid) in KINDS {
        assert_eq!(ask(&mut client, &issuer.token(by, kid)).await.0, 200, "{by}");
    }
    gateway.shutdown().await;
}

/// jsonwebtoken CVE-2026-25537: a date that is no number was taken for none.
#[tokio::test]
async fn dates_that_are_no_numbers_or_are_over_let_nobody_in() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let manifest = guarded(&format!("{{keys: {}, leeway: 5s}}", all_keys(&issuer)), &upstream.url());
    let gateway = Gateway::builder().manifest(&manifest).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let past = now() - 60;
    for (claims, reason) in [
        (r#"{"exp":"99999999999"}"#.to_owned(), "token_invalid"),
        (r#"{"exp":null}"#.to_owned(), "token_invalid"),
        (r#"{"exp":1e400}"#.to_owned(), "token_invalid"),
        (r#"{"exp":[]}"#.to_owned(), "token_invalid"),
        (r#"{"exp":{}}"#.to_owned(), "token_invalid"),
        (r#"{"exp":true}"#.to_owned(), "token_invalid"),
        (r#"{"sub":"root"}"#.to_owned(), "token_invalid"),
        (r#"{"exp":-1}"#.to_owned(), "token_expired"),
        (format!(r#"{{"exp":{past}}}"#), "token_expired"),
        (r#"{"exp":99999999999,"nbf":"99999999999"}"#.to_owned(), "token_invalid"),
        (r#"{"exp":99999999999,"nbf":"0"}"#.to_owned(), "token_invalid"),
        (r#"{"exp":99999999999,"nbf":null}"#.to_owned(), "token_invalid"),
        (r#"{"exp":99999999999,"nbf":[]}"#.to_owned(), "token_invalid"),
        (r#"{"exp":99999999999,"nbf":99999999998}"#.to_owned(), "token_invalid"),
        (format!(r#"{{"exp":{past},"exp":99999999999}}"#), "token_invalid"),
    ] {
        for (by, kid) in KINDS {
            let token = issuer.sign(by, &format!(r#"{{"alg":"{by}","kid":"{kid}"}}"#), &claims);
            assert_eq!(ask(&mut client, &token).await, (401, reason.to_owned()), "{by}: {claims}");
        }
    }
    assert!(upstream.requests().is_empty());
    // A token that is good, and remembered, ends when it says.
    let token = |exp: u64| {
        let header = r#"{"alg":"HS256","kid":"shared"}"#;
        signed_with(SECRET.as_bytes(), header, &format!(r#"{{"exp":{exp}}}"#))
    };
    let short = token(now() - 3);
    assert_eq!(ask(&mut client, &short).await.0, 200);
    within("its end", async { while ask(&mut client, &short).await.1 != "token_expired" {} }).await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_key_that_goes_takes_its_tokens_along_and_an_unrelated_push_takes_nothing() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let url = upstream.url();
    let keys = |kids: &[&str]| {
        let pem = serde_json::to_string(issuer.pem("p384")).expect("text");
        let keys: Vec<_> = kids.iter().map(|kid| format!("{{kid: {kid}, pem: {pem}}}")).collect();
        guarded(&format!("{{keys: [{}]}}", keys.join(", ")), &url)
    };
    let mut gateway = Gateway::builder().manifest(&keys(&["old", "new"])).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let (old, new) = (issuer.token("ES384", "old"), issuer.token("ES384", "new"));
    for token in [&old, &new, &old, &new] {
        assert_eq!(ask(&mut client, token).await.0, 200);
    }
    gateway.apply(&format!("routes: [{{name: other, path: /other, backend: \"{url}\"}}]\n")).await;
    assert_eq!(ask(&mut client, &old).await.0, 200);
    gateway.apply(&keys(&["new"])).await;
    let gone = async { while ask(&mut client, &old).await.1 != "token_invalid" {} };
    within("a key that is gone", gone).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut client, &old).await, (401, "token_invalid".to_owned()));
        assert_eq!(ask(&mut client, &new).await.0, 200);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn refusals_are_those_of_rfc_6750_in_http_and_in_grpc() {
    let upstream = Witness::echo().await;
    let issuer = Issuer::new();
    let config = format!(
        "{{keys: {}, scopes: [orders.read], realm: shop, query: token, header: Authorization}}",
        all_keys(&issuer)
    );
    let gateway = Gateway::builder().manifest(&guarded(&config, &upstream.url())).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let none = client.get("/").await;
    assert_eq!((none.status, reason(&none)), (401, "token_missing".to_owned()));
    assert_eq!(none.header("www-authenticate"), Some("Bearer realm=\"shop\""));
    let bearer = format!("Bearer {}", issuer.token("ES256", "jwk"));
    let little = client.get_with("/", &[("authorization", &bearer)]).await;
    assert_eq!((little.status, reason(&little)), (403, "insufficient_scope".to_owned()));
    let said = little.header("www-authenticate").expect("a challenge");
    assert!(said.contains("error=\"insufficient_scope\"") && said.ends_with("scope=\"orders.read\""), "{said}");
    for (path, headers) in [
        ("/", vec![("authorization", &*bearer), ("authorization", &*bearer)]),
        ("/?token=a", vec![("authorization", &*bearer)]),
        ("/?token=a&token=b", vec![]),
    ] {
        let twice = client.get_with(path, &headers).await;
        assert_eq!((twice.status, reason(&twice)), (400, "credentials_repeated".to_owned()), "{path}");
        assert!(twice.header("www-authenticate").is_some_and(|said| said.contains("invalid_request")));
    }
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    let call = http2.request("POST", "/", &[("content-type", "application/grpc"), ("te", "trailers")], b"").await;
    assert_eq!((call.status, call.header("grpc-status")), (200, Some("16")));
    let metrics = gateway.metrics(0).await;
    let line = "rustygate_plugin_answers_total{plugin=\"tokens\",type=\"jwt\",reason=\"token_missing\"} 2";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    assert!(upstream.requests().is_empty());
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_shared_secret_is_read_from_where_it_is_and_shown_to_nobody() {
    let upstream = Witness::echo().await;
    let first = format!("routes: [{{name: first, path: /first, backend: \"{}\"}}]\n", upstream.url());
    let gateway = Gateway::builder().manifest(&first).start().await;
    gateway.write("secret", &format!("{SECRET}\n"));
    let config = "{keys: [{kid: file, secret: {file: secret}}, {kid: env, secret: {env: SECRET}}]}";
    gateway.write("jwt.yaml", &guarded(config, &upstream.url()));
    let other = "another-example-of-a-secret-of-some-length";
    let url = gateway.control_plane_url();
    let args = ["-c", &url, "apply", "--wait", "-f", "jwt.yaml"];
    let mut shown = gatectl_with_env(gateway.folder(), &args, "", &[("SECRET", other)]).await.expect(0);
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let claims = format!(r#"{{"sub":"alice","exp":{}}}"#, now() + 600);
    for (secret, kid, status) in
        [(SECRET, "file", 200), (other, "env", 200), (SECRET, "env", 401), (other, "file", 401)]
    {
        let token = signed_with(secret.as_bytes(), &format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &claims);
        assert_eq!(ask(&mut client, &token).await.0, status, "{kid}");
    }
    for args in [&["get", "plugins"][..], &["get", "-o", "yaml"], &["get", "-o", "json"], &["history"], &["status"]] {
        shown += &gateway.gatectl(args).await.expect(0);
    }
    assert!(!shown.contains(SECRET) && !shown.contains(other), "{shown}");
    assert_eq!(files_with(gateway.folder(), &[SECRET.to_owned(), other.to_owned()]), ["secret"]);
    let short = guarded("{keys: [{secret: hunter2}]}", &upstream.url());
    let refused = gateway.gatectl_with(&["apply", "-f", "-"], &short).await;
    assert!(refused.code == 1 && refused.stderr.contains("32") && !refused.stderr.contains("hunter2"), "{refused:?}");
    gateway.shutdown().await;
}
