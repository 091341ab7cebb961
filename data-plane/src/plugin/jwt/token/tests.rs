use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use super::*;
use crate::plugin::jwt::keys::{Key, KeyError, KeySet, SetError};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

const NOW: f64 = 1_000_000.0;

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signed by HMAC, whatever the header says.
fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn signed(claims: &str) -> String {
    signed_with(SECRET, r#"{"alg":"HS256"}"#, claims)
}

fn secret_keys() -> KeySet {
    KeySet::new(vec![Key::from_secret(SECRET, Algorithm::HS256).unwrap()])
}

fn prove(rules: &Rules, keys: &KeySet, token: &str) -> Result<Verified, Denied> {
    rules.verify(&Token::read(token.as_bytes(), &mut LastHeader::default())?, keys, NOW)
}

fn claims(claims: &str) -> Result<Verified, Denied> {
    prove(&Rules { leeway: 60.0, ..Rules::default() }, &secret_keys(), &signed(claims))
}

/// A P-256 key and its public half in PEM.
fn ec() -> (EcdsaKeyPair, String) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let own = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &SystemRandom::new());
    let pem = STANDARD.encode(pair.subject_public_key_info());
    (own.unwrap(), format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n"))
}

#[test]
fn dates_are_numbers_or_the_token_is_refused() {
    assert!(claims(r#"{"exp":1000000.5}"#).is_ok());
    for bad in [
        r#"{"exp":"99999999999"}"#,
        r#"{"exp":null}"#,
        r#"{"exp":[]}"#,
        r#"{"exp":{}}"#,
        r#"{"exp":true}"#,
        r#"{"exp":1e400}"#,
        r#"{"exp":9e9,"nbf":"99999999999"}"#,
        r#"{"exp":9e9,"nbf":null}"#,
        r#"{"exp":9e9,"nbf":[0]}"#,
        r#"{"exp":9e9,"nbf":-1e400}"#,
        "{}",
    ] {
        let denied = claims(bad).expect_err(bad);
        assert!(matches!(denied, Denied::Dates | Denied::Malformed), "{bad}: {denied:?}");
    }
    assert_eq!(claims(r#"{"exp":-5}"#).unwrap_err(), Denied::Expired);
    assert_eq!(claims(r#"{"exp":999940}"#).unwrap_err(), Denied::Expired);
    assert!(claims(r#"{"exp":999941}"#).is_ok(), "within the leeway");
    assert_eq!(claims(r#"{"exp":9e9,"nbf":1000061}"#).unwrap_err(), Denied::NotYet);
    assert!(claims(r#"{"exp":9e9,"nbf":1000060}"#).is_ok(), "within the leeway");
    assert_eq!(claims(r#"{"exp":1,"exp":9e9}"#).unwrap_err(), Denied::Malformed, "a name twice");
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let (own, pem) = ec();
    let keys = KeySet::new(vec![Key::from_pem(pem.as_bytes()).unwrap()]);
    let rules = Rules::default();
    let message = format!("{}.{}", encode(r#"{"alg":"ES256"}"#), encode(r#"{"exp":9e9}"#));
    let signature = own.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let good = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert!(prove(&rules, &keys, &good).is_ok());
    // The public key as a secret, in PEM and as it is.
    for secret in [pem.as_bytes(), pem.trim().as_bytes()] {
        let token = signed_with(secret, r#"{"alg":"HS256"}"#, r#"{"exp":9e9}"#);
        assert_eq!(prove(&rules, &keys, &token).unwrap_err(), Denied::Algorithm);
    }
    for name in ["none", "None", "nOnE", "NONE", "", "RS256", "es256", "ES384", "EdDSA"] {
        let header = format!(r#"{{"alg":"{name}"}}"#);
        for token in [
            format!("{}.{}.", encode(&header), encode(r#"{"exp":9e9}"#)),
            signed_with(SECRET, &header, r#"{"exp":9e9}"#),
        ] {
            assert_eq!(prove(&rules, &keys, &token).unwrap_err(), Denied::Algorithm, "{name:?}");
        }
    }
    let only = Rules { algorithms: [Algorithm::RS256].into(), ..Rules::default() };
    assert_eq!(prove(&only, &keys, &good).unwrap_err(), Denied::Algorithm);
    assert!(matches!(Key::from_secret(pem.as_bytes(), Algorithm::HS256), Err(KeyError::SecretIsPem)));
}

#[test]
fn what_is_changed_or_no_token_is_refused() {
    let token = signed(r#"{"exp":9e9}"#);
    let keys = secret_keys();
    assert!(prove(&Rules::default(), &keys, &token).is_ok());
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(prove(&Rules::default(), &keys, &changed).is_err(), "{changed}");
    }
    for bad in ["", ".", "..", "a.b", "a.b.c.d", &format!("{token}="), &format!("{token}."), &"a".repeat(9000)] {
        assert!(prove(&Rules::default(), &keys, bad).is_err(), "{bad}");
    }
    for critical in [r#"{"alg":"HS256","crit":["exp"]}"#, r#"{"alg":"HS256","crit":null}"#] {
        let token = signed_with(SECRET, critical, r#"{"exp":9e9}"#);
        assert_eq!(prove(&Rules::default(), &keys, &token).unwrap_err(), Denied::Critical);
    }
    let twice = signed_with(SECRET, r#"{"alg":"none","alg":"HS256"}"#, r#"{"exp":9e9}"#);
    assert_eq!(prove(&Rules::default(), &keys, &twice).unwrap_err(), Denied::Malformed);
}

#[test]
fn claims_are_what_the_rules_want() {
    let list = |words: &[&str]| words.iter().map(|&word| word.into()).collect::<Box<[Box<str>]>>();
    let rules = Rules {
        issuers: list(&["one", "two"]),
        audiences: list(&["users"]),
        claims: [("team".into(), list(&["red"])), ("sub".into(), list(&[]))].into(),
        scopes: list(&["read", "write"]),
        headers: [
            ("x-sub".into(), "sub".into()),
            ("x-role".into(), "realm.roles".into()),
            ("x-no".into(), "no".into()),
        ]
        .into(),
        groups: "team".into(),
        ..Rules::default()
    };
    let prove = |claims: &str| prove(&rules, &secret_keys(), &signed(claims));
    let good = r#"{"exp":9e9,"iss":"two","aud":["a","users"],"team":["red","blue"],"sub":"me","scp":["write","read"],
        "realm":{"roles":["a", "b"]}}"#;
    let verified = prove(good).unwrap();
    assert_eq!((&*verified.subject, verified.groups.as_str()), ("me", "red,blue"));
    assert_eq!(verified.claims.get("iss"), Some(&serde_json::json!("two")));
    let headers: Vec<_> = verified.headers.iter().map(Option::as_deref).collect();
    assert_eq!(headers, [Some(&b"me"[..]), Some(br#"["a","b"]"#), None]);
    assert!(prove(&good.replace(r#""scp":["write","read"]"#, r#""scope":"read write""#)).is_ok());
    for (from, to, denied) in [
        (r#""two""#, r#""three""#, Denied::Issuer),
        (r#""two""#, r#"["two"]"#, Denied::Issuer),
        (r#"["a","users"]"#, r#""user""#, Denied::Audience),
        (r#"["a","users"]"#, "null", Denied::Audience),
        (r#""team""#, r#""tame""#, Denied::Claim),
        (r#"["red","blue"]"#, r#""blue""#, Denied::Claim),
        (r#""me""#, "null", Denied::Claim),
        (r#""me""#, r#""me\r\nx-role: admin""#, Denied::Claim),
        (r#""me""#, "7", Denied::Claim),
        (r#""blue""#, r#""blue,admin""#, Denied::Claim),
        (r#""blue""#, r#""blue\nadmin""#, Denied::Claim),
        (r#""blue""#, "7", Denied::Claim),
        (r#"["write","read"]"#, r#"["readwrite"]"#, Denied::Scope),
    ] {
        assert_eq!(prove(&good.replace(from, to)).unwrap_err(), denied, "{from} -> {to}");
    }
}

#[test]
fn a_token_of_an_unknown_key_asks_for_the_keys_anew() {
    let jwk = serde_json::json!({"kty": "oct", "kid": "a", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let keys = KeySet::new(vec![Key::from_jwk(&jwk, true).unwrap()]);
    let with = |kid: &str| signed_with(SECRET, &format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), r#"{"exp":9e9}"#);
    assert!(prove(&Rules::default(), &keys, &with("a")).is_ok());
    assert_eq!(prove(&Rules::default(), &keys, &with("b")).unwrap_err(), Denied::UnknownKey);
    assert!(matches!(Key::from_jwk(&jwk, false), Err(KeyError::Kind)), "nobody publishes secrets");
}

#[test]
fn a_published_set_is_bounded_and_keeps_what_can_be_used() {
    let (_, pem) = ec();
    assert!(KeySet::from_json(b"garbage").is_err());
    assert!(KeySet::from_json(b"{}").is_err());
    let unusable = KeySet::from_json(br#"{"keys":[{"kty":"EC"},{"kty":"RSA","n":"AQAB","e":"AQAB"},7]}"#);
    assert!(matches!(unusable, Err(SetError::Unusable(KeyError::Kind))), "{unusable:?}");
    let many = serde_json::json!({"keys": vec![serde_json::json!({}); 1000]}).to_string();
    assert!(KeySet::from_json(many.as_bytes()).is_err());
    assert!(matches!(Key::from_pem(pem.replace("PUBLIC", "PRIVATE").as_bytes()), Err(KeyError::Private)));
}
