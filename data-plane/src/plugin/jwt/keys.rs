//! Keys that signatures are checked with, and what each may be used for.
//!
//! A key is of one kind, and whoever configured or published it says for which algorithm it is; what a token says of itself
//! only chooses among those. So a public key is never taken for a secret, whatever a token claims (RFC 8725 section 3.1).

mod set;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use ring::{
    hmac,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};
use serde_json::Value;
use x509_parser::{pem::Pem, prelude::FromDer as _, public_key::PublicKey, x509::SubjectPublicKeyInfo};

pub use self::set::{KeySet, Keys, Published, SetError};

/// The most keys of a set.
pub const KEYS_MAX: usize = 100;

/// The most keys that one token is tried with: so many may have the same id, or none.
pub const TRIES_MAX: usize = 4;

/// The fewest bytes that a shared secret has (RFC 7518 section 3.2, for HS256).
pub const SECRET_BYTES_MIN: usize = 32;

/// The most bytes that a shared secret or a PEM text has.
pub const KEY_BYTES_MAX: usize = 16 << 10;

/// The most bytes of a key's id.
const KID_BYTES_MAX: usize = 256;

/// Every algorithm, by the name that tokens have for it (RFC 7518, RFC 8037).
pub const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of that name, which is compared byte by byte.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// Why something is no key for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not what it should be at all.
    #[error("this is no key in PEM: \"-----BEGIN PUBLIC KEY-----\" or a certificate")]
    Pem,
    /// A private key, which has no business here.
    #[error("this is a private key; tokens are checked with the public one")]
    Private,
    /// Not what it should be at all.
    #[error("this is no JWK with what its kind of key needs")]
    Jwk,
    /// Another kind of key.
    #[error("keys of this kind or curve are not supported; RSA, P-256, P-384, Ed25519 and secrets are")]
    Kind,
    /// RSA with a modulus out of bounds, or a senseless exponent.
    #[error("an RSA key has 2,048 to 8,192 bits and an odd exponent of at least 3")]
    RsaSize,
    /// Bytes that are no point's.
    #[error("the length of the coordinates is not that of the curve")]
    Point,
    /// A secret that can be guessed.
    #[error("a secret has {SECRET_BYTES_MIN} to {KEY_BYTES_MAX} bytes")]
    SecretSize,
    /// A public key that would be used as a secret: everybody could sign.
    #[error("this is a PEM text, not a secret")]
    SecretIsPem,
    /// The key is for something else.
    #[error("the key is not for checking signatures")]
    Use,
    /// The algorithm is none that such a key is for.
    #[error("the algorithm is not one for this kind of key")]
    Algorithm,
    /// The id is too long.
    #[error("the key's id has more than {KID_BYTES_MAX} bytes")]
    KeyId,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As tokens name it; a key without one may be for any token.
    pub kid: Option<Box<str>>,
    /// What it is for, if that is said.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Hmac(hmac::Key),
    Rsa(RsaPublicKeyComponents<Box<[u8]>>),
    /// Uncompressed.
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "Hmac",
            Self::Rsa(_) => "Rsa",
            Self::P256(_) => "P256",
            Self::P384(_) => "P384",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

impl Key {
    /// A shared secret for HS256, HS384 or HS512.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_secret(secret: &[u8], algorithm: Algorithm) -> Result<Self, KeyError> {
        if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(KeyError::SecretIsPem);
        }
        if !(SECRET_BYTES_MIN..=KEY_BYTES_MAX).contains(&secret.len()) {
            return Err(KeyError::SecretSize);
        }
        let digest = match algorithm {
            Algorithm::HS256 => hmac::HMAC_SHA256,
            Algorithm::HS384 => hmac::HMAC_SHA384,
            Algorithm::HS512 => hmac::HMAC_SHA512,
            _ => return Err(KeyError::Algorithm),
        };
        let material = Material::Hmac(hmac::Key::new(digest, secret));
        Ok(Self { kid: None, algorithm: Some(algorithm), material })
    }

    /// A public key, or the one of a certificate.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::Pem);
        }
        let pem = Pem::iter_from_buffer(text).next().and_then(Result::ok).ok_or(KeyError::Pem)?;
        let material = match pem.label.as_str() {
            "PUBLIC KEY" => {
                let (_, info) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| KeyError::Pem)?;
                Material::from_info(&info)?
            }
            "RSA PUBLIC KEY" => {
                let read = x509_parser::public_key::RSAPublicKey::from_der(&pem.contents);
                let (_, key) = read.map_err(|_| KeyError::Pem)?;
                Material::rsa(key.modulus, key.exponent)?
            }
            "CERTIFICATE" => {
                let (_, certificate) =
                    x509_parser::certificate::X509Certificate::from_der(&pem.contents).map_err(|_| KeyError::Pem)?;
                Material::from_info(certificate.public_key())?
            }
            label if label.ends_with("PRIVATE KEY") => return Err(KeyError::Private),
            _ => return Err(KeyError::Pem),
        };
        Ok(Self { kid: None, algorithm: None, material })
    }

    /// A public key in JSON (RFC 7517), as text.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_json(text: &str) -> Result<Self, KeyError> {
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::Jwk);
        }
        serde_json::from_str(text).map_err(|_| KeyError::Jwk).and_then(|value| Self::from_jwk(&value, false))
    }

    /// The same once it is read. Of a set that somebody publishes (`secrets` is false) secrets are none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_jwk(value: &Value, secrets: bool) -> Result<Self, KeyError> {
        // The kind is looked at first: whoever reads it all at once says nothing of what is wrong.
        let kind = value.get("kty").and_then(Value::as_str).ok_or(KeyError::Jwk)?;
        let curve = value.get("crv").and_then(Value::as_str).unwrap_or_default();
        let known = match kind {
            "RSA" | "oct" => true,
            "EC" => matches!(curve, "P-256" | "P-384"),
            "OKP" => curve == "Ed25519",
            _ => false,
        };
        if !known {
            return Err(KeyError::Kind);
        }
        let jwk = <Jwk as serde::Deserialize>::deserialize(value).map_err(|_| KeyError::Jwk)?;
        let common = &jwk.common;
        let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
        if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature)
            || !common.key_operations.as_ref().is_none_or(verifies)
        {
            return Err(KeyError::Use);
        }
        if common.key_id.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(KeyError::KeyId);
        }
        let stated = match common.key_algorithm {
            None => None,
            Some(stated) => Some(of_key(stated).ok_or(KeyError::Algorithm)?),
        };
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| KeyError::Jwk);
        let mut key = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => Self::public(Material::rsa(&bytes(&rsa.n)?, &bytes(&rsa.e)?)?),
            AlgorithmParameters::EllipticCurve(point) => {
                let (x, y) = (bytes(&point.x)?, bytes(&point.y)?);
                let coordinate = if point.curve == EllipticCurve::P256 { 32 } else { 48 };
                if x.len() != coordinate || y.len() != coordinate {
                    return Err(KeyError::Point);
                }
                Self::public(Material::point(&[&[4], &x[..], &y].concat())?)
            }
            AlgorithmParameters::OctetKeyPair(pair) => Self::public(Material::ed25519(&bytes(&pair.x)?)?),
            AlgorithmParameters::OctetKey(_) if !secrets => return Err(KeyError::Kind),
            AlgorithmParameters::OctetKey(secret) => {
                Self::from_secret(&bytes(&secret.value)?, stated.unwrap_or(Algorithm::HS256))?
            }
            _ => return Err(KeyError::Kind),
        };
        if let Some(algorithm) = stated {
            key = key.fixed_to(algorithm)?;
        }
        key.kid = common.key_id.as_deref().map(Into::into);
        Ok(key)
    }

    fn public(material: Material) -> Self {
        Self { kid: None, algorithm: None, material }
    }

    /// The same, for that algorithm alone.
    ///
    /// # Errors
    /// If it is not one for such keys.
    pub fn fixed_to(mut self, algorithm: Algorithm) -> Result<Self, KeyError> {
        let own = match self.material {
            Material::Hmac(_) => self.algorithm == Some(algorithm),
            _ => self.material.can(algorithm),
        };
        self.algorithm = Some(algorithm);
        if own { Ok(self) } else { Err(KeyError::Algorithm) }
    }

    /// Whether tokens of one of these algorithms may be signed with it.
    #[must_use]
    pub fn is_for_any(&self, configured: &[Algorithm]) -> bool {
        configured.is_empty() || configured.iter().any(|algorithm| self.admits(*algorithm, configured))
    }

    /// Whether a token that says it is signed so may be tried with this key. `configured` is what the plugin has; if that
    /// is empty and the key says nothing, it is for what most keys of its kind are for.
    #[must_use]
    pub fn admits(&self, algorithm: Algorithm, configured: &[Algorithm]) -> bool {
        if !self.material.can(algorithm) || !(configured.is_empty() || configured.contains(&algorithm)) {
            return false;
        }
        match self.algorithm {
            Some(own) => own == algorithm,
            None => {
                !configured.is_empty() || algorithm.family() != AlgorithmFamily::Rsa || algorithm == Algorithm::RS256
            }
        }
    }

    /// Checks a signature. The caller has asked [`Self::admits`].
    #[must_use]
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let point = |curve: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(curve, key).verify(message, signature).is_ok()
        };
        match &self.material {
            Material::Hmac(key) => self.algorithm == Some(algorithm) && hmac::verify(key, message, signature).is_ok(),
            Material::Rsa(key) => {
                let scheme = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                key.verify(scheme, message, signature).is_ok()
            }
            Material::P256(key) => algorithm == Algorithm::ES256 && point(&signature::ECDSA_P256_SHA256_FIXED, key),
            Material::P384(key) => algorithm == Algorithm::ES384 && point(&signature::ECDSA_P384_SHA384_FIXED, key),
            Material::Ed25519(key) => algorithm == Algorithm::EdDSA && point(&signature::ED25519, key),
        }
    }

    /// What tells it from other keys.
    fn digest(&self, hasher: &mut blake3::Hasher) {
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        part(self.kid.as_deref().map_or(&[][..], str::as_bytes));
        part(&[u8::from(self.kid.is_some()), self.algorithm.map_or(u8::MAX, |algorithm| algorithm as u8)]);
        match &self.material {
            // Sets that are compared have no secrets; those of a configuration have its id.
            Material::Hmac(_) => part(b"secret"),
            Material::Rsa(key) => {
                part(&key.n);
                part(&key.e);
            }
            Material::P256(key) | Material::P384(key) | Material::Ed25519(key) => part(key),
        }
    }
}

impl Material {
    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        const ED25519: &str = "1.3.101.112";
        match info.parsed().map_err(|_| KeyError::Pem)? {
            PublicKey::RSA(key) => Self::rsa(key.modulus, key.exponent),
            PublicKey::EC(point) => {
                // A curve of the same size is another curve.
                let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
                let curve = curve.map(|oid| oid.to_id_string());
                if !matches!(curve.as_deref(), Some("1.2.840.10045.3.1.7" | "1.3.132.0.34")) {
                    return Err(KeyError::Kind);
                }
                Self::point(point.data())
            }
            _ if info.algorithm.algorithm.to_id_string() == ED25519 => Self::ed25519(&info.subject_public_key.data),
            _ => Err(KeyError::Kind),
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let strip = |bytes: &[u8]| -> Box<[u8]> { bytes.iter().copied().skip_while(|byte| *byte == 0).collect() };
        let (n, e) = (strip(modulus), strip(exponent));
        let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |byte| byte.leading_zeros() as usize));
        let odd = e.last().is_some_and(|byte| byte % 2 == 1);
        if !(2048..=8192).contains(&bits) || e.len() > 4 || !odd || *e == [1] {
            return Err(KeyError::RsaSize);
        }
        Ok(Self::Rsa(RsaPublicKeyComponents { n, e }))
    }

    fn point(bytes: &[u8]) -> Result<Self, KeyError> {
        match (bytes.len(), bytes.first()) {
            (65, Some(4)) => Ok(Self::P256(bytes.into())),
            (97, Some(4)) => Ok(Self::P384(bytes.into())),
            _ => Err(KeyError::Point),
        }
    }

    fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() == 32 { Ok(Self::Ed25519(bytes.into())) } else { Err(KeyError::Point) }
    }

    fn can(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Hmac(_) => algorithm.family() == AlgorithmFamily::Hmac,
            Self::Rsa(_) => algorithm.family() == AlgorithmFamily::Rsa,
            Self::P256(_) => algorithm == Algorithm::ES256,
            Self::P384(_) => algorithm == Algorithm::ES384,
            Self::Ed25519(_) => algorithm == Algorithm::EdDSA,
        }
    }
}

/// What a JWK's "alg" is for tokens.
fn of_key(algorithm: KeyAlgorithm) -> Option<Algorithm> {
    Some(match algorithm {
        KeyAlgorithm::HS256 => Algorithm::HS256,
        KeyAlgorithm::HS384 => Algorithm::HS384,
        KeyAlgorithm::HS512 => Algorithm::HS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::PS256 => Algorithm::PS256,
        KeyAlgorithm::PS384 => Algorithm::PS384,
        KeyAlgorithm::PS512 => Algorithm::PS512,
        KeyAlgorithm::EdDSA => Algorithm::EdDSA,
        _ => return None,
    })
}
