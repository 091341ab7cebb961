//! A token: read, and proven against keys and rules.
//!
//! Nothing of a token is believed before its signature is checked, but for the two words that choose the key: its
//! algorithm, which only the key or the configuration can admit, and the key's id. After that the claims are read by our
//! own hand: a date that is no number is refused, not overlooked; so is a name that comes twice.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::keys::{self, Keys, TRIES_MAX};
use crate::{consumer::Groups, fields::is_field_value, plugin::request::Claims as Kept};

/// The most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// The most claims of a token, and of an object in it that is looked into.
const CLAIMS_MAX: usize = 100;

/// The most bytes that a claim may have to become a header.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// Why a token is refused. The words go to the client (RFC 6750 section 3): they say what the client can see for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is no token.
    Malformed,
    /// It must be understood, and is not (`crit`).
    Critical,
    /// The type is another than is asked for (`typ`).
    Type,
    /// No key is for this algorithm, or the configuration excludes it.
    Algorithm,
    /// No key has its id: ask for the keys anew.
    UnknownKey,
    /// Not signed by any of the keys.
    Signature,
    /// `exp` is absent or no number, or `nbf` is no number.
    Dates,
    /// `exp` is over.
    Expired,
    /// `nbf` is yet to come.
    NotYet,
    /// `iss` is another.
    Issuer,
    /// `aud` has none of those wanted.
    Audience,
    /// A claim that is wanted is absent, has another value, or cannot be forwarded.
    Claim,
    /// It does not have all scopes.
    Scope,
}

impl Denied {
    /// For `error_description`: printable ASCII without quotes.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Malformed => "the token is malformed",
            Self::Critical => "the token has an extension that is not understood",
            Self::Type => "the token is of another type",
            Self::Algorithm => "the token's algorithm is not accepted",
            Self::UnknownKey => "the token's key is not known",
            Self::Signature => "the token's signature is wrong",
            Self::Dates => "the token's dates are missing or malformed",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token's issuer is not accepted",
            Self::Audience => "the token is for another audience",
            Self::Claim => "a claim of the token is missing or not accepted",
            Self::Scope => "the token's scope does not suffice",
        }
    }
}

/// What a token must be.
#[derive(Debug, Default)]
pub struct Rules {
    /// The algorithms that are taken; whatever the keys are for, if empty.
    pub algorithms: Box<[Algorithm]>,
    /// Good values of `iss`; any if empty.
    pub issuers: Box<[Box<str>]>,
    /// Values of which `aud` has one; any if empty.
    pub audiences: Box<[Box<str>]>,
    /// Seconds by which clocks may differ.
    pub leeway: f64,
    /// What `typ` is, without case and without "application/".
    pub kind: Option<Box<str>>,
    /// Claims that must be there, with their good values; any but null if there are none.
    pub claims: Box<[WantedClaim]>,
    /// Words that `scope` or `scp` must have, all of them.
    pub scopes: Box<[Box<str>]>,
    /// Header and the claim that goes there.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// The claim with the groups; none if "".
    pub groups: Box<str>,
}

/// A claim's name, and its good values.
pub type WantedClaim = (Box<str>, Box<[Box<str>]>);

/// A token that is good for a while.
#[derive(Debug)]
pub struct Verified {
    /// Seconds since 1970: not before.
    pub from: f64,
    /// Not at this moment or after it.
    pub until: f64,
    /// The values of [`Rules::headers`], in their order; `None` for a claim that is not there.
    pub headers: Box<[Option<Box<[u8]>>]>,
    /// `sub`; "" if it is not there.
    pub subject: Arc<str>,
    /// Those of the claim [`Rules::groups`].
    pub groups: Groups,
    /// All claims.
    pub claims: Rc<Kept>,
}

/// A token's parts, with its header read.
#[derive(Debug)]
pub struct Token<'t> {
    header: Rc<Header>,
    message: &'t [u8],
    claims: &'t [u8],
    signature: &'t [u8],
}

/// What a token says of itself.
#[derive(Debug)]
struct Header {
    /// What it is signed with; `None` for what nobody here knows, "none" in any case among it.
    algorithm: Option<Algorithm>,
    kid: Option<Box<str>>,
    kind: Option<Box<str>>,
}

/// The header that was read last, with how it was written: all tokens of an issuer begin alike.
#[derive(Debug, Default)]
pub struct LastHeader(Option<(Box<[u8]>, Rc<Header>)>);

impl LastHeader {
    fn or_read(&mut self, encoded: &[u8]) -> Result<Rc<Header>, Denied> {
        if let Some((known, header)) = &self.0
            && **known == *encoded
        {
            return Ok(Rc::clone(header));
        }
        let header = Rc::new(Header::read(encoded)?);
        self.0 = Some((encoded.into(), Rc::clone(&header)));
        Ok(header)
    }
}

/// The members that are looked at.
#[derive(Deserialize)]
struct HeaderMembers<'h> {
    #[serde(borrow)]
    alg: Cow<'h, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'h, str>>,
    #[serde(borrow, default)]
    typ: Option<Cow<'h, str>>,
    #[serde(default)]
    crit: Present,
}

/// Whether a member is there, whatever it is, null included.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl Header {
    fn read(encoded: &[u8]) -> Result<Self, Denied> {
        let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Denied::Malformed)?;
        let members: HeaderMembers<'_> = serde_json::from_slice(&decoded).map_err(|_| Denied::Malformed)?;
        if members.crit.0 {
            return Err(Denied::Critical);
        }
        Ok(Self {
            algorithm: keys::algorithm(&members.alg),
            kid: members.kid.map(|kid| kid.into()),
            kind: members.typ.map(|kind| kind.into()),
        })
    }
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Denied::Malformed`], [`Denied::Critical`].
    pub fn read(token: &'t [u8], last: &mut LastHeader) -> Result<Self, Denied> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Malformed);
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Denied::Malformed);
        };
        Ok(Self {
            header: last.or_read(&token[..first])?,
            message: &token[..second],
            claims: &token[first + 1..second],
            signature: &token[second + 1..],
        })
    }

    /// Which key it says it is signed with.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }
}

impl Rules {
    /// Proves a token, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn verify<'k>(&self, token: &'k Token<'_>, keys: impl Into<Keys<'k>>, now: f64) -> Result<Verified, Denied> {
        let keys = keys.into();
        if let Some(wanted) = &self.kind {
            let kind = token.header.kind.as_deref().ok_or(Denied::Type)?;
            if !bare_type(kind).eq_ignore_ascii_case(wanted) {
                return Err(Denied::Type);
            }
        }
        let algorithm = token.header.algorithm.ok_or(Denied::Algorithm)?;
        if keys.of(token.kid()).next().is_none() {
            return Err(Denied::UnknownKey);
        }
        let mut signature = [0; 1024];
        let length = URL_SAFE_NO_PAD.decode_slice(token.signature, &mut signature).map_err(|_| Denied::Malformed)?;
        let signature = &signature[..length];
        let mut tried = keys.of(token.kid()).filter(|key| key.admits(algorithm, &self.algorithms)).peekable();
        if tried.peek().is_none() {
            return Err(Denied::Algorithm);
        }
        if !tried.take(TRIES_MAX).any(|key| key.verify(algorithm, token.message, signature)) {
            return Err(Denied::Signature);
        }
        let claims = URL_SAFE_NO_PAD.decode(token.claims).map_err(|_| Denied::Malformed)?;
        let claims = String::from_utf8(claims).map_err(|_| Denied::Malformed)?;
        self.check(claims, now)
    }

    /// Whether a key that is published could be what this token is signed with: none of those is a secret.
    #[must_use]
    pub fn may_be_published(&self, token: &Token<'_>) -> bool {
        token.header.algorithm.is_some_and(|algorithm| {
            algorithm.family() != AlgorithmFamily::Hmac
                && (self.algorithms.is_empty() || self.algorithms.contains(&algorithm))
        })
    }

    /// Checks claims that somebody signed.
    fn check(&self, text: String, now: f64) -> Result<Verified, Denied> {
        let claims: Claims<'_> = serde_json::from_str(&text).map_err(|_| Denied::Malformed)?;
        let until = claims.number("exp")?.ok_or(Denied::Dates)? + self.leeway;
        let from = claims.number("nbf")?.map_or(f64::MIN, |from| from - self.leeway);
        if now >= until {
            return Err(Denied::Expired);
        }
        if now < from {
            return Err(Denied::NotYet);
        }
        if !self.issuers.is_empty() {
            let issuer = claims.get("iss").and_then(text_of).ok_or(Denied::Issuer)?;
            if !self.issuers.iter().any(|good| **good == *issuer) {
                return Err(Denied::Issuer);
            }
        }
        if !self.audiences.is_empty() {
            let is_for = |audience: &str| self.audiences.iter().any(|good| **good == *audience);
            if !claims.get("aud").is_some_and(|audience| any_text(audience, is_for)) {
                return Err(Denied::Audience);
            }
        }
        for (name, good) in &self.claims {
            let claim = claims.find(name).filter(|claim| claim.get() != "null").ok_or(Denied::Claim)?;
            let is_good = |text: &str| good.iter().any(|good| **good == *text);
            if !good.is_empty() && !any_text(claim, is_good) && !is_good(claim.get()) {
                return Err(Denied::Claim);
            }
        }
        if !self.scopes.is_empty() {
            let wanted = |wanted: &str| {
                let has = |words: &str| words.split(' ').any(|word| word == wanted);
                ["scope", "scp"].into_iter().any(|name| claims.get(name).is_some_and(|claim| any_text(claim, has)))
            };
            if !self.scopes.iter().all(|scope| wanted(scope)) {
                return Err(Denied::Scope);
            }
        }
        let values = self.headers.iter().map(|(_, name)| claims.find(name).map_or(Ok(None), header_value));
        let headers = values.collect::<Result<_, _>>()?;
        let subject =
            claims.get("sub").map_or(Ok(Cow::Borrowed("")), |subject| text_of(subject).ok_or(Denied::Claim))?;
        if subject.len() > HEADER_BYTES_MAX || !is_field_value(subject.as_bytes()) {
            return Err(Denied::Claim);
        }
        let (subject, groups) = (subject.into(), claims.find(&self.groups).map_or(Ok(Groups::default()), groups)?);
        drop(claims);
        Ok(Verified { from, until, headers, subject, groups, claims: Rc::new(Kept::new(text)) })
    }
}

/// "at+jwt" of "application/at+jwt" (RFC 7515 section 4.1.9).
#[must_use]
pub fn bare_type(kind: &str) -> &str {
    const PREFIX: &str = "application/";
    match kind.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &kind[PREFIX.len()..],
        _ => kind,
    }
}

/// An object's members, each name once.
struct Claims<'c>(Vec<(Cow<'c, str>, &'c RawValue)>);

impl<'de: 'c, 'c> Deserialize<'de> for Claims<'c> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(12);
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() == CLAIMS_MAX || members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom("too many members, or one twice"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Claims(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A name, copied only if it has escapes.
#[derive(Deserialize)]
struct Name<'n>(#[serde(borrow)] Cow<'n, str>);

impl<'c> Claims<'c> {
    fn get(&self, name: &str) -> Option<&'c RawValue> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }

    /// The claim of that name, or of a path with dots: `realm_access.roles`.
    fn find(&self, name: &str) -> Option<&'c RawValue> {
        self.get(name).or_else(|| {
            let (object, rest) = name.split_once('.')?;
            serde_json::from_str::<Claims<'c>>(self.get(object)?.get()).ok()?.find(rest)
        })
    }

    /// A date: a number if it is there at all.
    fn number(&self, name: &str) -> Result<Option<f64>, Denied> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number: f64 = value.get().parse().map_err(|_| Denied::Dates)?;
        if number.is_finite() { Ok(Some(number)) } else { Err(Denied::Dates) }
    }
}

fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return Some(text.into());
    }
    serde_json::from_str::<Name<'_>>(value.get()).ok().map(|text| text.0)
}

/// Whether a text, or one of a list of texts, is good.
fn any_text(value: &RawValue, good: impl Fn(&str) -> bool) -> bool {
    match text_of(value) {
        Some(text) => good(&text),
        None => serde_json::from_str::<Vec<&RawValue>>(value.get())
            .is_ok_and(|list| list.iter().any(|entry| text_of(entry).is_some_and(|text| good(&text)))),
    }
}

/// A list of texts, or one. They go on in one header with commas between them, so they have none.
fn groups(value: &RawValue) -> Result<Groups, Denied> {
    if value.get() == "null" {
        return Ok(Groups::default());
    }
    let groups = match text_of(value) {
        Some(text) => vec![Name(text)],
        None => serde_json::from_str::<Vec<Name<'_>>>(value.get()).map_err(|_| Denied::Claim)?,
    };
    let good = |group: &str| !group.is_empty() && !group.contains(',') && is_field_value(group.as_bytes());
    if groups.len() > CLAIMS_MAX || !groups.iter().all(|group| good(&group.0)) {
        return Err(Denied::Claim);
    }
    let groups: Groups = groups.iter().map(|group| &group.0).collect();
    if groups.as_str().len() > HEADER_BYTES_MAX { Err(Denied::Claim) } else { Ok(groups) }
}

/// A claim as a header: a text as it is, anything else as JSON.
fn header_value(value: &RawValue) -> Result<Option<Box<[u8]>>, Denied> {
    if value.get() == "null" {
        return Ok(None);
    }
    let bytes: Vec<u8> = match text_of(value) {
        Some(text) => text.as_bytes().to_vec(),
        // Once more, without the white space that the signer may have put in.
        None => serde_json::from_str::<serde_json::Value>(value.get())
            .and_then(|value| serde_json::to_vec(&value))
            .map_err(|_| Denied::Claim)?,
    };
    if bytes.len() > HEADER_BYTES_MAX || !is_field_value(&bytes) {
        return Err(Denied::Claim);
    }
    Ok(Some(bytes.into()))
}

#[cfg(test)]
mod tests;
