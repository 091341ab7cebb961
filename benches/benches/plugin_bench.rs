//! What plugins cost beside what they cannot do without: the check of a token's signature alone, all that is done for a token
//! that is new, and for one that was found good a moment ago.

use std::{hint::black_box, rc::Rc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use rustygate_benches::tokens::{self, AUDIENCE, ISSUER, Signed};
use rustygate_data_plane::plugin::jwt::{
    cache::Cache,
    keys::{self, Key, KeySet},
    token::{Rules, Token},
};

/// Seconds since 1970: in 2026.
const NOW: f64 = 1.78e9;

fn jwt(criterion: &mut Criterion) {
    for signed in tokens::ALL {
        let mut group = criterion.benchmark_group(format!("jwt_{}", signed.algorithm.to_lowercase()));
        let key = key(&signed);
        let (message, signature) = signed.token.rsplit_once('.').expect("a signature");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let algorithm = keys::algorithm(signed.algorithm).expect("an algorithm");
        group.bench_function("signature", |bencher| {
            bencher.iter(|| assert!(key.verify(algorithm, black_box(message.as_bytes()), &signature)));
        });
        let keys = KeySet::new(vec![key]);
        let rules = Rules { issuers: [ISSUER.into()].into(), audiences: [AUDIENCE.into()].into(), ..Rules::default() };
        let mut cache = Cache::default();
        let mut verify = || {
            let token = Token::read(black_box(signed.token.as_bytes()), &mut cache.last_header);
            token.and_then(|token| rules.verify(&token, &keys, NOW))
        };
        group.bench_function("token", |bencher| bencher.iter(|| verify().expect("a good one")));
        let verified = verify();
        assert!(cache.get(signed.token.as_bytes(), keys.generation, NOW).is_none());
        cache.insert(signed.token.as_bytes(), keys.generation, Rc::new(verified.expect("a good one")));
        group.bench_function("token_again", |bencher| {
            bencher.iter(|| cache.get(black_box(signed.token.as_bytes()), keys.generation, NOW).expect("it is known"));
        });
        group.finish();
    }
}

fn key(signed: &Signed) -> Key {
    let algorithm = keys::algorithm(signed.algorithm).expect("an algorithm");
    if signed.algorithm == "HS256" {
        return Key::from_secret(signed.key.as_bytes(), algorithm).expect("a secret");
    }
    let jwk = serde_json::from_str(signed.key).expect("JSON");
    Key::from_jwk(&jwk, false).expect("a public key")
}

criterion_group!(benches, jwt);
criterion_main!(benches);
