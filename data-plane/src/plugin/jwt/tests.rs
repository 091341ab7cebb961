use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair as _},
};

use super::{keys::Published, *};
use crate::plugin::{
    Flow, Refusal,
    rig::{Rig, message},
    tests::{fields_at_fault, lines},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const KEYS: &str = r#""keys": [{"secret": "0123456789abcdef0123456789abcdef"}]"#;

fn sign(claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// With that among the claims of somebody whose token is good for an hour.
fn token(more: &str) -> String {
    sign(&format!(r#"{{"exp":{},"sub":"alice"{more}}}"#, now() + 3600.0))
}

fn rig(config: &str) -> Rig {
    Rig::new("jwt", &format!("{{{KEYS}{config}}}"))
}

async fn refused(rig: &mut Rig) -> Box<Refusal> {
    match rig.ask().await {
        Some(Flow::Refuse(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_says_who_asks_and_nobody_else_does() {
    let mut rig =
        rig(r#", "forward": [{"header": "X-User", "claim": "email"}, {"header": "X-Team-Id", "claim": "team.id"},
        {"header": "X-None", "claim": "none"}]"#);
    let token = token(r#","email":"a@b.example","team":{"id":7},"groups":["users","admins"]"#);
    rig.field("Authorization", &format!("bearer {token}"));
    for forged in [
        "X-Consumer-Name",
        "x_consumer_groups",
        "X-User",
        "x_user",
        "X.User",
        "X-Team_Id",
        "X_Team_Id",
        "x-none",
        "X_None",
    ] {
        rig.field(forged, "root");
    }
    rig.field("Accept", "*/*");
    let told = [
        "Accept: */*",
        "X-User: a@b.example",
        "X-Team-Id: 7",
        "X-Consumer-Name: alice",
        "X-Consumer-Groups: users,admins",
    ];
    assert_eq!(rig.refusal().await, "");
    assert_eq!(lines(&rig.fields), told);
    let consumer = rig.facts.consumer.as_ref().expect("a consumer");
    assert_eq!((&*consumer.name, consumer.groups.as_str(), consumer.by), ("alice", "users,admins", "jwt"));
    let claims = consumer.claims.as_ref().expect("claims");
    assert_eq!(claims.get("email"), Some(&serde_json::json!("a@b.example")));
    // Nor behind the body.
    let mut trailers = Fields::new();
    for name in ["x-user", "X_User", "X-Consumer-Name", "x-checksum", "X_Team-Id"] {
        trailers.append(name, b"root");
    }
    rig.rule.backends[0].chain.on_request_trailers(&mut trailers);
    assert_eq!(lines(&trailers), ["x-checksum: root"]);
}

#[tokio::test]
async fn refusals_tell_what_rfc_6750_asks_for() {
    let challenge = "WWW-Authenticate: Bearer realm=\"shop\"";
    let invalid = |text: &str| format!("{challenge}, error=\"invalid_token\", error_description=\"{text}\"");
    let expired = sign(r#"{"exp":1000}"#);
    let scope = format!(
        "{challenge}, error=\"insufficient_scope\", error_description=\"the token's scope does not suffice\", \
         scope=\"read write\""
    );
    for (value, status, reason, said) in [
        (None, 401, "token_missing", challenge.to_owned()),
        (Some("Basic YTpi".to_owned()), 401, "token_missing", challenge.to_owned()),
        (Some("Bearer".to_owned()), 401, "token_invalid", invalid("the token is malformed")),
        (Some("Bearer a.b.c".to_owned()), 401, "token_invalid", invalid("the token is malformed")),
        (Some(format!("Bearer {expired}")), 401, "token_expired", invalid("the token has expired")),
        (Some(format!("Bearer {}x", token(""))), 401, "token_invalid", invalid("the token's signature is wrong")),
        (Some(format!("Bearer {}", token(r#","scope":"read""#))), 403, "insufficient_scope", scope),
    ] {
        let mut rig = rig(r#", "realm": "shop", "scopes": ["read", "write"]"#);
        if let Some(value) = &value {
            rig.field("Authorization", value);
        }
        let refusal = refused(&mut rig).await;
        // A changed signature may be no base64 any more.
        if reason != "token_invalid" || lines(&refusal.fields) != [invalid("the token is malformed")] {
            assert_eq!(lines(&refusal.fields), [said], "{value:?}");
        }
        assert_eq!((refusal.status, refusal.reason.name), (status, reason), "{value:?}");
    }
}

#[tokio::test]
async fn a_token_is_where_the_configuration_says_once() {
    let token = token("");
    for (config, place, found) in [
        (r#", "query": "token""#, "query", true),
        (r#", "cookie": "session""#, "cookie", true),
        (r#", "cookie": "session""#, "header", false),
        (r#", "header": "X-Token", "query": "token""#, "x-token", true),
        (r#", "header": "X-Token", "query": "token""#, "query", true),
        (r#", "header": "X-Token", "query": "token""#, "header", false),
        ("", "query", false),
        ("", "cookie", false),
    ] {
        let mut rig = rig(config);
        match place {
            "query" => rig.at("a.example", &format!("/api?a=1&token={token}")),
            "cookie" => drop(rig.field("Cookie", &format!("a=1; session={token}"))),
            "header" => drop(rig.field("Authorization", &format!("Bearer {token}"))),
            name => drop(rig.field(name, &token).field("X_Token", "other")),
        }
        assert_eq!(rig.refusal().await, if found { "" } else { "token_missing" }, "{config} {place}");
        let hidden = !lines(&rig.fields).iter().any(|line| line.contains(&token) || line.contains("other"));
        assert!(hidden || !found, "{config} {place}: {:?}", lines(&rig.fields));
        if place == "query" {
            assert_eq!(rig.query().is_some_and(|query| query.contains(&token)), !found, "{config}");
            assert!(rig.query().is_some_and(|query| query.starts_with("a=1")), "{config}");
        }
    }
    let mut twice = rig(r#", "header": "X-Token", "query": "token""#);
    twice.at("a.example", &format!("/api?token={token}"));
    twice.field("X-Token", &token);
    let refusal = refused(&mut twice).await;
    assert_eq!((refusal.reason.name, refusal.status), ("credentials_repeated", 400));
    assert!(lines(&refusal.fields)[0].contains("error=\"invalid_request\""));
    let mut kept = rig(r#", "hide": false"#);
    kept.field("Authorization", &format!("Bearer {token}"));
    assert_eq!(kept.refusal().await, "");
    assert_eq!(lines(&kept.fields).len(), 2);
    let mut known = rig(r#", "cookie": "session", "query": "token""#);
    known.facts.consumer = Some(Consumer { name: "carol".into(), ..Default::default() });
    known.at("a.example", &format!("/api?token={token}"));
    known.field("Cookie", &format!("a=1; session={token}"));
    assert_eq!(
        (known.refusal().await, lines(&known.fields), known.query()),
        ("", vec!["Cookie: a=1".to_owned()], None)
    );
    let mut nobody = rig(r#", "optional": true, "forward": [{"header": "X-User", "claim": "sub"}]"#);
    nobody.field("X-Consumer-Name", "root").field("X_User", "root");
    assert_eq!(nobody.refusal().await, "");
    assert_eq!(lines(&nobody.fields), [""; 0]);
}

#[tokio::test]
async fn what_another_plugin_says_of_the_consumer_stays_and_what_the_client_says_goes() {
    let config = |headers: &[&str]| {
        let forward = headers.iter().map(|name| format!(r#"{{"header": "{name}", "claim": "sub"}}"#));
        let forward = forward.collect::<Vec<_>>().join(",");
        format!(r#"{{{KEYS}, "optional": true, "forward": [{forward}]}}"#)
    };
    let named = |name: &str, headers: &[&str]| crate::plugin::wire::Plugin {
        name: name.to_owned(),
        ..message("jwt", &config(headers))
    };
    let mut rig = Rig::with(vec![named("one", &["X-A"]), named("two", &["X-A", "X-B"])]);
    rig.field("X-B", "root").field("x_a", "root").field("Authorization", &format!("Bearer {}", token("")));
    assert_eq!(rig.refusal().await, "");
    assert_eq!(lines(&rig.fields), ["X-A: alice", "X-Consumer-Name: alice"]);
}

#[tokio::test]
async fn a_remembered_token_is_forgotten_with_its_key_and_its_time() {
    let mut first = rig("");
    let good = format!("Bearer {}", token(""));
    for _ in 0..2 {
        assert_eq!(first.field("Authorization", &good).refusal().await, "");
        first.facts = Default::default();
        first.fields = Default::default();
    }
    // The same plugin with another key.
    let other = r#"{"keys": [{"secret": "another-another-another-another-"}]}"#;
    let mut changed = Rig::new("jwt", other);
    changed.worker = Rc::clone(&first.worker);
    assert_eq!(changed.field("Authorization", &good).refusal().await, "token_invalid");
    let short = format!("Bearer {}", sign(&format!(r#"{{"exp":{}}}"#, now() + 1.0)));
    let mut strict = rig(r#", "leeway": "0s""#);
    assert_eq!(strict.field("Authorization", &short).refusal().await, "");
    until(async || {
        strict.facts = Default::default();
        strict.fields = Default::default();
        strict.field("Authorization", &short).refusal().await == "token_expired"
    })
    .await;
}

/// Asks again and again, for a while.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    let tries = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), tries).await.expect("it comes");
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (config, place) in [
        ("{}", "config"),
        (r#"{"keys": []}"#, "config.keys"),
        (r#"{"keys": [{}]}"#, "config.keys[0]"),
        (r#"{"keys": [{"secret": "short"}]}"#, "config.keys[0].secret"),
        (r#"{"keys": [{"secret": "-----BEGIN PUBLIC KEY-----aaaaaaaaaaaaaaaaaaaaaa"}]}"#, "config.keys[0].secret"),
        (r#"{"keys": [{"pem": "x"}]}"#, "config.keys[0].pem"),
        (r#"{"keys": [{"pem": "x", "jwk": "{}"}]}"#, "config.keys[0]"),
        (r#"{"keys": [{"jwk": "{\"kty\":\"oct\",\"k\":\"AAAA\"}"}]}"#, "config.keys[0].jwk"),
        (
            r#"{"keys": [{"secret": "0123456789abcdef0123456789abcdef", "algorithm": "RS256"}]}"#,
            "config.keys[0].secret",
        ),
        (r#"{"keys": [{"secret": "0123456789abcdef0123456789abcdef"}], "algorithms": ["RS256"]}"#, "config.keys[0]"),
    ] {
        assert_eq!(fields_at_fault("jwt", config), [place], "{config}");
    }
    for (more, place) in [
        (r#""algorithms": ["none"]"#, "config.algorithms[0]"),
        (r#""realm": "a\"b""#, "config.realm"),
        (r#""scopes": ["a b"]"#, "config.scopes"),
        (r#""claims": {"a": []}"#, "config.claims"),
        (r#""forward": [{"header": "Host", "claim": "a"}]"#, "config.forward[0].header"),
        (r#""forward": [{"header": "X_Consumer-Name", "claim": "a"}]"#, "config.forward[0].header"),
        (
            r#""forward": [{"header": "X-A", "claim": "a"}, {"header": "x_a", "claim": "b"}]"#,
            "config.forward[1].header",
        ),
        (r#""leeway": "6m""#, "config.leeway"),
    ] {
        assert_eq!(fields_at_fault("jwt", &format!("{{{KEYS}, {more}}}")), [place], "{more}");
    }
}

/// Whoever signs tokens, and publishes the key under any ids.
struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        Self { key: Ed25519KeyPair::from_pkcs8(&pair.serialize_der()).expect("a key") }
    }

    fn set(&self, kids: &[&str]) -> Published {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        let key = |kid: &&str| serde_json::json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
        let keys: Vec<_> = kids.iter().map(key).collect();
        KeySet::from_json(serde_json::json!({"keys": keys}).to_string().as_bytes()).expect("keys")
    }

    fn sign(&self, kid: &str) -> String {
        let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#);
        let claims = format!(r#"{{"exp":{},"sub":"alice"}}"#, now() + 1e6);
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(message.as_bytes())))
    }
}

/// A plugin with published keys, and what its process knows of them.
fn published(config: &str) -> (Rig, Arc<Remote>) {
    let rig = Rig::new("jwt", &format!(r#"{{"jwks_url": "https://login.example.com/keys"{config}}}"#));
    let source = rig.rule.plugins[0].key_source().expect("a source");
    let remote = rig.worker.shared.states.get_or(source.id, Remote::default);
    (rig, remote)
}

async fn asked(rig: &mut Rig, token: &str) -> (&'static str, Duration) {
    rig.fields = Fields::new();
    rig.facts = crate::plugin::Facts::default();
    rig.field("Authorization", &format!("Bearer {token}"));
    let begun = tokio::time::Instant::now();
    (rig.refusal().await, begun.elapsed())
}

const AT_ONCE: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn a_token_is_remembered_no_longer_than_its_key_is_published_and_keys_no_longer_than_a_day() {
    let ((mut rig, remote), signer) = (published(""), Signer::new());
    let (one, other) = (signer.sign("one"), signer.sign("other"));
    remote.learn("test", signer.set(&["one", "other"]), false);
    for _ in 0..2 {
        assert_eq!(asked(&mut rig, &one).await.0, "");
        assert_eq!(asked(&mut rig, &other).await.0, "");
    }
    remote.learn("test", signer.set(&["other"]), false);
    assert_eq!(asked(&mut rig, &other).await, ("", AT_ONCE));
    assert_eq!(asked(&mut rig, &one).await.0, "token_invalid");
    let second = Duration::from_secs(1);
    tokio::time::advance(remote::KEPT_MAX - 20 * second).await;
    assert_eq!(asked(&mut rig, &other).await, ("", AT_ONCE));
    tokio::time::advance(20 * second).await;
    assert_eq!(asked(&mut rig, &other).await.0, "jwks_unavailable");
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_request_waits_a_second_and_is_then_told_to_come_again() {
    let ((mut rig, remote), signer) = (published(""), Signer::new());
    let token = signer.sign("one");
    assert_eq!(asked(&mut rig, &token).await, ("jwks_unavailable", FIRST_KEYS_MAX));
    let refusal = refused(&mut rig).await;
    assert_eq!((refusal.status, lines(&refusal.fields)), (503, vec!["Retry-After: 10".to_owned()]));
    // What can be none of any published key is told so at once, and nobody is asked for it.
    let with = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256","kid":"a"}"#, r#"{"alg":"ES256","crit":["b"]}"#, "{}", "x"] {
        assert_eq!(asked(&mut rig, &with(header)).await, ("token_invalid", AT_ONCE), "{header}");
    }
    // The fetch comes while it waits.
    let learnt = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let keeping = remote.keep("test", Duration::from_secs(60), async || Ok(signer.set(&["one"])));
        timeout(Duration::from_millis(1), keeping).await
    };
    let (answer, _) = tokio::join!(asked(&mut rig, &token), learnt);
    assert_eq!(answer, ("", Duration::from_millis(200)));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_an_unknown_key_waits_for_one_fetch_and_others_after_it_for_none() {
    let ((mut rig, remote), signer) = (published(r#", "algorithms": ["EdDSA"]"#), Signer::new());
    let fetch = async || {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(signer.set(&["one"]))
    };
    let requests = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let unknown = signer.sign("unknown");
        assert_eq!(asked(&mut rig, &unknown).await, ("token_invalid", Duration::from_secs(2)));
        for _ in 0..100 {
            assert_eq!(asked(&mut rig, &unknown).await, ("token_invalid", AT_ONCE));
        }
        assert_eq!(asked(&mut rig, &signer.sign("one")).await, ("", AT_ONCE));
        tokio::time::sleep(Duration::from_secs(20)).await;
        // A known key, another key's signature; a key that is unknown, an algorithm that is not taken.
        let forged = Signer::new().sign("one");
        assert_eq!(asked(&mut rig, &forged).await, ("token_invalid", AT_ONCE));
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"unknown"}"#);
        assert_eq!(asked(&mut rig, &format!("{header}.e30.AAAA")).await, ("token_invalid", AT_ONCE));
    };
    tokio::select! {
        () = remote.keep("test", Duration::from_secs(3600), fetch) => {}
        () = requests => {}
    }
    assert_eq!(remote.fetches(), [2, 0]);
}

#[tokio::test(start_paused = true)]
async fn keys_of_the_configuration_are_good_beside_published_ones_and_without_them() {
    let (mut rig, remote) = published(&format!(", {KEYS}"));
    let signer = Signer::new();
    assert_eq!(asked(&mut rig, &token("")).await, ("", AT_ONCE));
    assert_eq!(asked(&mut rig, &signer.sign("one")).await.0, "jwks_unavailable");
    remote.learn("test", signer.set(&["one"]), false);
    for token in [token(""), signer.sign("one")] {
        assert_eq!(asked(&mut rig, &token).await, ("", AT_ONCE));
    }
}
