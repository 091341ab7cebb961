//! Whoever signs tokens: really, with a key of each kind.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::PublicKeyData as _;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
    },
};

/// Of a key that was made for these tests and secures nothing: ring makes no RSA keys.
const RSA: &str = include_str!("rsa.pem");

/// A shared secret.
pub const SECRET: &str = "an-example-of-a-secret-of-some-length";

/// One key of each kind.
pub struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
    pems: Vec<(&'static str, String)>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// A length and what has it, in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[tag, 0x82][..], &length, &content].concat()
}

impl Issuer {
    pub fn new() -> Self {
        let text: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let rsa = RsaKeyPair::from_pkcs8(&STANDARD.decode(text).expect("base64")).expect("a key");
        let pair = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let (one, two, three) =
            (pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ECDSA_P384_SHA384), pair(&rcgen::PKCS_ED25519));
        let random = SystemRandom::new();
        let ec = |algorithm, pair: &rcgen::KeyPair| EcdsaKeyPair::from_pkcs8(algorithm, &pair.serialize_der(), &random);
        // rsaEncryption, and the key as a bit string.
        let id = [0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
        let info = der(0x30, &[&id, &der(3, &[&[0], rsa.public_key().as_ref()])]);
        let pems = vec![
            ("rsa", pem(&info)),
            ("p256", pem(&one.subject_public_key_info())),
            ("p384", pem(&two.subject_public_key_info())),
            ("ed25519", pem(&three.subject_public_key_info())),
        ];
        Self {
            rsa,
            p256: ec(&ECDSA_P256_SHA256_FIXED_SIGNING, &one).expect("a key"),
            p384: ec(&ECDSA_P384_SHA384_FIXED_SIGNING, &two).expect("a key"),
            ed25519: Ed25519KeyPair::from_pkcs8(&three.serialize_der()).expect("a key"),
            pems,
        }
    }

    /// The public half of that key, in PEM.
    pub fn pem(&self, key: &str) -> &str {
        &self.pems.iter().find(|(name, _)| *name == key).expect("a key").1
    }

    /// The public half of the P-256 key as a JWK of that id.
    pub fn jwk(&self, kid: &str) -> serde_json::Value {
        let point = self.p256.public_key().as_ref();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        serde_json::json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256",
            "x": text(&point[1..33]), "y": text(&point[33..])})
    }

    /// A token that says `header` and `claims` and is signed by this algorithm.
    pub fn sign(&self, by: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let random = SystemRandom::new();
        let bytes = message.as_bytes();
        let rsa = |padding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(padding, &random, bytes, &mut signature).expect("signs");
            signature
        };
        let signature = match by {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => self.p256.sign(&random, bytes).expect("signs").as_ref().to_vec(),
            "ES384" => self.p384.sign(&random, bytes).expect("signs").as_ref().to_vec(),
            "EdDSA" => self.ed25519.sign(bytes).as_ref().to_vec(),
            "HS256" => return signed_with(SECRET.as_bytes(), header, claims),
            other => panic!("{other}"),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of alice that is good for an hour, with that key's id.
    pub fn token(&self, by: &str, kid: &str) -> String {
        let header = format!(r#"{{"alg":"{by}","typ":"JWT","kid":"{kid}"}}"#);
        self.sign(by, &header, &format!(r#"{{"sub":"alice","exp":{}}}"#, now() + 3600))
    }
}

/// Signed with that as a secret, whatever the header says.
pub fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}
