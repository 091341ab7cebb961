//! `jwt`: who asks is proven by a signed token (RFC 7519, with the advice of RFC 8725).
//!
//! [`keys`] are what signatures are checked with; [`source`] says where somebody publishes them, [`keeper`] fetches them from
//! there, and [`remote`] is what requests see of that. [`token`] reads a token and proves it, [`cache`] keeps what was proven
//! a moment ago. A token chooses nothing but one of the keys that are there; whatever is wrong with it, it is told in the words
//! of RFC 6750 and no further.

pub mod cache;
mod configured;
pub mod keeper;
pub mod keys;
pub mod remote;
pub mod source;
pub mod token;

use std::{
    cell::RefCell,
    fmt::Write as _,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::Algorithm;
use tokio::{sync::watch, time::timeout};

use self::{
    cache::Cache,
    keys::{KEYS_MAX, KeySet, Keys},
    remote::{ASK_PAUSE, Remote},
    source::{Source, URL_BYTES_MAX},
    token::{Denied, Rules, TOKEN_BYTES_MAX, Token, Verified},
};
use super::{
    Consumer, Flow, PluginRequest, Reason, Refusal, Spec,
    caller::{self, Places},
    config::Config,
    spec::{Key, Kind},
};
use crate::{
    fields::Fields,
    forward::alias_is,
    live::States,
    snapshot::{Id, fault::Faults},
};

const NAME: Kind = Kind::Text { max: 256 };

/// A value that a claim may have, or a scope.
const WORD: Kind = Kind::Text { max: 512 };

const WORDS: Kind = Kind::Either(&[Kind::List(&WORD, 32), WORD]);

const ALGORITHM: Kind = Kind::Word(&[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
]);

const HEADER: &str = "Authorization";

/// How long a request waits for the first keys.
const FIRST_KEYS_MAX: Duration = Duration::from_secs(1);

pub(super) static MISSING: Reason = Reason {
    name: "token_missing",
    status: 401,
    detail: "a token is required",
    when: "There is no token where one is looked for",
};

pub(super) static INVALID: Reason = Reason {
    name: "token_invalid",
    status: 401,
    detail: "the token is not valid",
    when: "The token is none, or signed by nobody known, or not valid yet, or its claims are not what is asked for",
};

pub(super) static UNAVAILABLE: Reason = Reason {
    name: "jwks_unavailable",
    status: 503,
    detail: "tokens cannot be checked at the moment",
    when: "No key of `jwks_url` is known, since it could not be fetched yet or for a day, and no other is the token's",
};

pub(super) static EXPIRED: Reason = Reason {
    name: "token_expired",
    status: 401,
    detail: "the token has expired",
    when: "The token's signature is good, and its `exp` is over",
};

pub(super) static SCOPE: Reason = Reason {
    name: "insufficient_scope",
    status: 403,
    detail: "the token's scope does not suffice",
    when: "The token is good, and does not have all of `scopes`",
};

pub(super) static SPEC: Spec = Spec {
    name: "jwt",
    summary: "Lets requests through by a signed token (JWT, RFC 7519).",
    details: "A key is for the algorithm that it says, or the configuration; one that says nothing is for the algorithm of its kind: \
RS256 for RSA, ES256 and ES384 for the curves, EdDSA for Ed25519, HS256 for secrets. What a token says of its algorithm \
chooses nothing: `none` is never taken, nor a public key for a secret.\n\n\
`exp` must be there, and `exp` and `nbf` must be numbers. A claim that is in an object is named with dots: `realm_access.roles`. \
Upstreams are told who asks in `X-Consumer-Name` (the claim `sub`) and `X-Consumer-Groups`, and what `forward` says, in which \
clients can say nothing themselves, in no spelling of the names and in no trailer. The token does not go on to them unless \
`hide` is false. Prefer a header to a query: queries are in everyone's logs. A token whose subject, \
groups or forwarded claims cannot be in a header is refused.\n\n\
Keys of a `jwks_url` are fetched when the configuration comes, in the background, and again every `jwks_refresh`; the plugins that \
name the same URL share them, and a push does not touch them. A token with a `kid` that none of them has makes for a fetch at once, \
but not within 10 s of the last one; the requests with such tokens wait for it, at most for `jwks_timeout`. A fetch is good if it \
gets 200 to 299 and a set of at most 1 MiB and 100 keys of which one can be used; redirects are not followed. Of a good set, keys that \
are for something else or of another kind are left out, and so are secrets. While fetches fail, and whatever else they bring, they \
are tried again after 1 s, then after twice as long each time up to `jwks_refresh`, and the last good keys are used for 24 h. Without \
any, a request waits for the first ones for up to 1 s, and is then refused with 503.\n\n\
A token that was found good is remembered, by each worker, at most until it expires, and never longer than the keys \
are the same.\n\n\
Of several plugins that find out who asks, the first that knows settles it: with `optional` on all but the last, a request needs \
one credential of any of them. A wrong one is refused even then. Once it is known who asks, tokens are not looked at any more, and \
do not go on all the same.",
    keys: &[
        Key::new(
            "keys",
            Kind::List(
                &Kind::Object(&[
                    Key::new("kid", NAME, "that of the JWK; else any", "The id that tokens have for it"),
                    Key::new("algorithm", ALGORITHM, "what such keys are for", "The one algorithm that it is for"),
                    Key::new("pem", Kind::Outside, "", "A public key, or a certificate, in PEM"),
                    Key::new("jwk", Kind::Outside, "", "A public key in JSON (RFC 7517)"),
                    Key::new(
                        "secret",
                        Kind::Secret,
                        "",
                        "A shared secret of at least 32 bytes; a new line at its end is none of it",
                    ),
                ]),
                KEYS_MAX,
            ),
            "",
            "What tokens are signed with: each key has one of `pem`, `jwk` and `secret`",
        ),
        Key::new("jwks", Kind::Outside, "", "A whole set of public keys in JSON (RFC 7517), as from a file"),
        Key::new(
            "jwks_url",
            Kind::Text { max: URL_BYTES_MAX },
            "",
            "Where such a set is published, by https or http; one of `keys`, `jwks` and `jwks_url` must be there",
        ),
        Key::new(
            "jwks_ca",
            Kind::Outside,
            "the public authorities",
            "Who vouches for that server: certificates in PEM",
        ),
        Key::new(
            "jwks_refresh",
            Kind::Duration { min: 10_000, max: 24 * 3_600_000 },
            "5m",
            "How often the set is fetched; less up to a tenth, by chance",
        ),
        Key::new("jwks_timeout", Kind::Duration { min: 100, max: 60_000 }, "5s", "How long a fetch may take"),
        Key::new("algorithms", Kind::List(&ALGORITHM, 12), "what the keys are for", "The algorithms that are taken"),
        Key::new("issuer", WORDS, "any", "Good values of `iss`"),
        Key::new("audience", WORDS, "any", "Values of which `aud` must have one"),
        Key::new("leeway", Kind::Duration { min: 0, max: 300_000 }, "30s", "By how much clocks may differ"),
        Key::new("type", NAME, "any", "What `typ` must be, as in `at+jwt`"),
        Key::new("required", Kind::List(&NAME, 32), "", "Claims that must be there, whatever they are"),
        Key::new(
            "claims",
            Kind::Map(&WORDS, 32),
            "",
            "Claims with their good values; of a list of values, one must be good",
        ),
        Key::new("scopes", Kind::List(&WORD, 32), "", "Words that `scope` or `scp` must have, all of them"),
        Key::new(
            "header",
            Kind::AnyFieldName,
            "Authorization, if neither `query` nor `cookie` is there",
            "The header that has the token, after `Bearer`, which others than `Authorization` may leave out",
        ),
        Key::new("query", NAME, "", "The parameter of the query that has it"),
        Key::new("cookie", NAME, "", "The cookie that has it"),
        Key::new("groups_claim", NAME, "groups", "The claim with the groups: a list of texts, or a text for one"),
        Key::new(
            "forward",
            Kind::List(
                &Kind::Object(&[
                    Key::required("header", Kind::FieldName, "What upstreams find it in"),
                    Key::required("claim", NAME, "A text goes there as it is, anything else as JSON"),
                ]),
                32,
            ),
            "",
            "Claims that upstreams are told in headers",
        ),
        Key::new("realm", Kind::Text { max: 128 }, "api", "Told in `WWW-Authenticate`"),
        Key::new("optional", Kind::Bool, "false", "Whether requests without a token go on, as nobody's"),
        Key::new("hide", Kind::Bool, "true", "Whether tokens are removed from the request, wherever one is looked for"),
    ],
    example: "keys:\n  - algorithm: ES256\n    jwk: '{\"kty\": \"EC\", \"crv\": \"P-256\", \"kid\": \"main\", \
\"x\": \"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\", \"y\": \"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}'\n\
issuer: https://login.example.com\n\
audience: [orders]\nscopes: [read]\nforward:\n  - {header: X-User-Email, claim: email}",
    reasons: &[&MISSING, &INVALID, &EXPIRED, &SCOPE, &UNAVAILABLE, &caller::REPEATED],
};

#[derive(Debug)]
pub(super) struct Jwt {
    /// Those of the configuration.
    keys: KeySet,
    /// Where there are more.
    pub source: Option<Arc<Source>>,
    rules: Rules,
    /// Names of the headers of `forward`.
    told: Arc<[Box<str>]>,
    places: Places,
    /// Beginning of the challenge, which has the realm.
    challenge: Box<str>,
    /// All of `scopes`, for the challenge.
    scope: Box<str>,
    optional: bool,
    hide: bool,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Jwt {
    let boxed = |texts: Vec<&str>| texts.into_iter().map(Box::from).collect::<Box<[Box<str>]>>();
    let realm = config.word("realm");
    check_quotable(config, "realm", realm, faults);
    let scopes = config.texts("scopes");
    for scope in &scopes {
        check_quotable(config, "scopes", scope, faults);
        if scope.is_empty() || scope.contains(' ') {
            config.fault("scopes", "a scope is one word", "put each in an item of the list of its own", faults);
        }
    }
    let mut claims = config.texts("required").into_iter().map(|name| (name.into(), Box::default())).collect::<Vec<_>>();
    for (name, values) in config.text_lists("claims") {
        if values.is_empty() {
            config.fault("claims", "there are no good values", "name the claim in `required` for any value", faults);
        }
        claims.push((name.into(), boxed(values)));
    }
    let mut headers = Vec::<(Box<str>, Box<str>)>::new();
    for (_, told) in config.children("forward") {
        let (Some(header), Some(claim)) = (told.text("header"), told.text("claim")) else { continue };
        if headers.iter().any(|(other, _)| alias_is(other, header)) || caller::is_own(header) {
            told.fault("header", "the header is taken", "give each claim a header of its own", faults);
        }
        headers.push((header.into(), claim.into()));
    }
    let algorithms = config.texts("algorithms").into_iter().filter_map(keys::algorithm).collect::<Box<[Algorithm]>>();
    Jwt {
        keys: configured::keys(config, &algorithms, faults),
        source: source::compile(config, faults),
        told: headers.iter().map(|(header, _)| header.clone()).collect(),
        places: Places::read(config, HEADER),
        challenge: format!("Bearer realm=\"{realm}\"").into(),
        scope: scopes.join(" ").into(),
        optional: config.bool("optional"),
        hide: config.bool("hide"),
        rules: Rules {
            algorithms,
            issuers: boxed(config.texts("issuer")),
            audiences: boxed(config.texts("audience")),
            leeway: config.duration("leeway").unwrap_or_default().as_secs_f64(),
            kind: config.text("type").map(|kind| token::bare_type(kind).into()),
            claims: claims.into(),
            scopes: boxed(scopes),
            headers: headers.into(),
            groups: config.word("groups_claim").into(),
        },
    }
}

fn check_quotable(config: &Config<'_>, key: &str, text: &str, faults: &mut Faults) {
    if !caller::is_quotable(text) {
        config.fault(key, "this is plain ASCII text without quotes and backslashes", "shorten it", faults);
    }
}

/// Seconds since 1970, as tokens count.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A fetch that may bring the key of a request's token.
#[derive(Debug)]
pub(super) struct Fetch {
    ended: watch::Receiver<()>,
    /// How long the request waits for it.
    patience: Duration,
}

impl Jwt {
    /// `config` is the identity of the plugin with its whole configuration, keys included: with others, nothing that was
    /// proven before holds. Where `may_wait` is true, the answer may be a fetch that has to end before the request is shown
    /// again.
    pub fn on_request(&self, config: Id, request: &mut PluginRequest<'_>, may_wait: bool) -> Result<Flow, Fetch> {
        if request.facts.consumer.is_some() {
            self.forget_but(request.facts.told.clone().as_deref(), request.fields);
            self.hide(request);
            return Ok(Flow::Continue);
        }
        caller::forget(request.fields);
        self.forget_but(None, request.fields);
        let token = match self.places.find(request, TOKEN_BYTES_MAX, bearer) {
            Ok(Some(token)) => token,
            Ok(None) if self.optional => return Ok(Flow::Continue),
            Ok(None) => {
                let refusal = Refusal::new(&MISSING).field("WWW-Authenticate", self.challenge.as_bytes());
                return Ok(refusal.into());
            }
            Err(repeated) => {
                let challenge = self.error("invalid_request", "several tokens");
                return Ok(repeated.field("WWW-Authenticate", &challenge).into());
            }
        };
        let remote = self.source.as_ref().map(|source| {
            let make = |states: &States| states.get_or(source.id, Remote::default);
            (source, request.worker.states.own(source.id, request.now, make))
        });
        let known = remote.as_ref().map(|(_, remote)| remote.known());
        let known = known.as_ref().and_then(|known| known.as_ref()).filter(|known| known.is_good(request.now));
        let keys = Keys { own: &self.keys, published: known.map(|known| &known.keys) };
        let cache = request.worker.states.own(config, request.now, |_| RefCell::<Cache>::default());
        let cache = &mut *cache.borrow_mut();
        let now = now();
        let proven = cache.get(&token, keys.generation(), now);
        let denied = match proven.map_or_else(|| self.prove(&token, keys, now, cache), Ok) {
            Ok(verified) => {
                self.let_through(&verified, request);
                return Ok(Flow::Continue);
            }
            Err(denied) => denied,
        };
        if let Some((source, remote)) = &remote
            && self.lacks_key(&token, denied, keys.published, cache)
        {
            let patience = if known.is_some() { source.terms.timeout } else { FIRST_KEYS_MAX };
            if may_wait && let Some(ended) = remote.flight(request.now) {
                return Err(Fetch { ended, patience });
            }
            if known.is_none() {
                return Ok(unavailable());
            }
        }
        Ok(self.refused(denied))
    }

    /// The answer once a fetch is over, or has taken too long.
    pub async fn after(&self, mut fetch: Fetch, config: Id, request: &mut PluginRequest<'_>) -> Flow {
        let _ = timeout(fetch.patience, fetch.ended.changed()).await;
        self.on_request(config, request, false).unwrap_or_else(|_| unavailable())
    }

    fn prove(&self, token: &[u8], keys: Keys<'_>, now: f64, cache: &mut Cache) -> Result<Rc<Verified>, Denied> {
        let read = Token::read(token, &mut cache.last_header)?;
        let verified = Rc::new(self.rules.verify(&read, keys, now)?);
        cache.insert(token, keys.generation(), Rc::clone(&verified));
        Ok(verified)
    }

    /// Whether a token is refused only because no key of its own is known, and one might be published.
    fn lacks_key(&self, token: &[u8], denied: Denied, published: Option<&KeySet>, cache: &mut Cache) -> bool {
        matches!(denied, Denied::UnknownKey | Denied::Algorithm | Denied::Signature)
            && Token::read(token, &mut cache.last_header).is_ok_and(|token| {
                self.rules.may_be_published(&token) && !published.is_some_and(|keys| keys.has(token.kid()))
            })
    }

    /// No upstream gets to see a token, be it one that was looked at or not.
    fn hide(&self, request: &mut PluginRequest<'_>) {
        if self.hide {
            self.places.hide(request.fields, bearer);
            self.places.hide_in_query(request);
        }
    }

    fn let_through(&self, verified: &Rc<Verified>, request: &mut PluginRequest<'_>) {
        self.hide(request);
        for (name, value) in self.told.iter().zip(&verified.headers) {
            if let Some(value) = value {
                request.fields.append(name, value);
            }
        }
        let consumer = Consumer {
            name: Arc::clone(&verified.subject),
            groups: verified.groups.clone(),
            claims: Some(Rc::clone(&verified.claims)),
            by: SPEC.name,
        };
        caller::is_known(consumer, request.fields, request.facts);
        request.facts.told = Some(Arc::clone(&self.told));
    }

    /// Clients do not say themselves what claims are told in, in no spelling; what another plugin tells there stays.
    fn forget_but(&self, kept: Option<&[Box<str>]>, fields: &mut Fields) {
        let is = |names: &[Box<str>], name: &str| names.iter().any(|own| own.eq_ignore_ascii_case(name));
        if !self.told.is_empty() {
            fields.retain(|name, _| {
                kept.is_some_and(|kept| is(kept, name)) || !self.told.iter().any(|own| alias_is(name, own))
            });
        }
    }

    /// Nor in trailers.
    pub fn on_trailers(&self, trailers: &mut Fields) {
        caller::forget(trailers);
        self.forget_but(None, trailers);
    }

    fn refused(&self, denied: Denied) -> Flow {
        let (reason, error) = match denied {
            Denied::Expired => (&EXPIRED, "invalid_token"),
            Denied::Scope => (&SCOPE, "insufficient_scope"),
            _ => (&INVALID, "invalid_token"),
        };
        let challenge = self.error(error, denied.description());
        Refusal::new(reason).detail(denied.description()).field("WWW-Authenticate", &challenge).into()
    }

    /// The challenge of RFC 6750 section 3.
    fn error(&self, error: &str, description: &str) -> Vec<u8> {
        let mut challenge = format!("{}, error=\"{error}\", error_description=\"{description}\"", self.challenge);
        if error == "insufficient_scope" {
            let _ = write!(challenge, ", scope=\"{}\"", self.scope);
        }
        challenge.into_bytes()
    }
}

/// Whoever asks again then makes for another fetch.
fn unavailable() -> Flow {
    let pause = ASK_PAUSE.as_secs().to_string();
    Refusal::new(&UNAVAILABLE).field("Retry-After", pause.as_bytes()).into()
}

/// The token in the value of that header; `None` of another scheme, or if there is no scheme and there must be one.
fn bearer<'v>(header: &str, value: &'v [u8]) -> Option<&'v [u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => Some(token.trim_ascii()),
        // Without anything behind it.
        _ if value.eq_ignore_ascii_case(b"Bearer") => Some(b""),
        _ => (!header.eq_ignore_ascii_case(HEADER)).then_some(value),
    }
}

#[cfg(test)]
mod tests;
