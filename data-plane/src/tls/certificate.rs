//! Certificates: from PEM to what a handshake takes, and what is wrong with those that cannot be used.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{digest, provider};
use crate::snapshot::Id;

/// The most bytes of one PEM text.
pub const PEM_BYTES_MAX: usize = 64 << 10;

/// The most certificates of a chain.
pub const CHAIN_MAX: usize = 10;

/// The most authorities of one bundle.
pub const AUTHORITIES_MAX: usize = 1000;

/// The most revocation lists of a listener.
pub const REVOCATION_LISTS_MAX: usize = 100;

/// The most names of one certificate.
pub const NAMES_MAX: usize = 1000;

/// A certificate and its key, as handshakes take them. An unchanged one is the same in every snapshot.
pub struct Certificate {
    /// As listeners and backends name it.
    pub name: Arc<str>,
    /// Of the name: the same over rotations.
    pub id: Id,
    /// Of chain and key: another after a rotation.
    pub content: Id,
    /// What it is for: DNS names in lower case, with `*.` in front where it is a wildcard, and IP addresses.
    pub names: Box<[Box<str>]>,
    /// When it can be used.
    pub validity: Validity,
    pub(super) key: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificate").field("name", &self.name).field("names", &self.names).finish()
    }
}

/// When every certificate of a chain is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

/// What can be told of a chain by reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// As in [`Certificate::names`].
    pub names: Box<[Box<str>]>,
    /// Of the whole chain.
    pub validity: Validity,
}

/// Why a PEM text of certificates cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// [`PEM_BYTES_MAX`]
    #[error("it has {0} bytes; at most {PEM_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Nothing of the kind.
    #[error("there is no certificate in it")]
    Empty,
    /// Too many for its purpose.
    #[error("it has more than {0} certificates")]
    TooMany(usize),
    /// [`NAMES_MAX`]
    #[error("its certificate has more than {NAMES_MAX} names")]
    TooManyNames,
    /// The text is damaged.
    #[error("it is no PEM text: a line between BEGIN and END is damaged, or END is missing")]
    Pem,
    /// It would be shown to whoever reads the configuration.
    #[error("there is a private key in it, and this part is not kept secret")]
    HasKey,
    /// PEM around something else.
    #[error("certificate {0} of it cannot be read")]
    Unreadable(usize),
    /// An authority that nothing can be checked against.
    #[error("certificate {0} of it cannot be used as an authority")]
    Authority(usize),
}

impl ChainError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::HasKey => "keep the key in a file of its own and give it as `key`",
            Self::TooLarge(_) | Self::TooMany(_) | Self::TooManyNames => "leave out what is not needed",
            Self::Empty | Self::Pem | Self::Unreadable(_) | Self::Authority(_) => {
                "a PEM file begins with \"-----BEGIN CERTIFICATE-----\""
            }
        }
    }
}

/// Why a private key cannot be used. Says nothing of what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// [`PEM_BYTES_MAX`]
    #[error("the key has {0} bytes; at most {PEM_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Nothing of the kind.
    #[error("there is no private key in it")]
    Missing,
    /// It needs a passphrase.
    #[error("the private key is encrypted")]
    Encrypted,
    /// An algorithm or a size that is not spoken.
    #[error("the private key cannot be used: it is damaged, or of a kind that is not supported")]
    Unsupported,
    /// Of another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

impl KeyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::Missing => {
                "a PEM file of a key has a line \"-----BEGIN PRIVATE KEY-----\" (or RSA or EC before PRIVATE)"
            }
            Self::Encrypted => "decrypt it: openssl pkey -in KEY -out KEY.plain",
            Self::Unsupported => "keys are RSA (2048 to 8192 bits), ECDSA (P-256, P-384) or Ed25519",
            Self::Mismatch => {
                "the first certificate of the chain must be the server's own, and the key the one it was made for"
            }
        }
    }
}

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Its key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Certificate {
    /// Reads a certificate and its key and checks that they belong together.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn new(name: &str, chain_pem: &str, key_pem: &[u8]) -> Result<Self, CertificateError> {
        let chain = chain(chain_pem)?;
        let Description { names, validity } = inspect(&chain)?;
        let key = private_key(key_pem)?;
        let content = {
            let parts = chain.iter().map(|der| &**der).chain([key.secret_der()]);
            digest("certificate content", parts)
        };
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::Key(KeyError::Mismatch),
            rustls::Error::InvalidCertificate(_) => CertificateError::Chain(ChainError::Unreadable(1)),
            _ => CertificateError::Key(KeyError::Unsupported),
        })?;
        Ok(Self {
            name: name.into(),
            id: Id::of("certificate", name),
            content,
            names,
            validity,
            key: Arc::new(certified),
        })
    }
}

/// What a chain's own certificate is for, and when the whole chain is valid.
///
/// # Errors
/// [`ChainError`]
pub fn describe(chain_pem: &str) -> Result<Description, ChainError> {
    inspect(&chain(chain_pem)?)
}

/// The authorities of a PEM text, and an id of them all.
///
/// # Errors
/// [`ChainError`]
pub fn authorities(pem: &str) -> Result<(Arc<RootCertStore>, Id), ChainError> {
    let certificates = certificates(pem, AUTHORITIES_MAX)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|_| ChainError::Authority(index + 1))?;
    }
    Ok((Arc::new(roots), digest("authorities", certificates.iter().map(|der| &**der))))
}

/// Why a PEM text of revocation lists cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// [`PEM_BYTES_MAX`]
    #[error("it has {0} bytes; at most {PEM_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// [`REVOCATION_LISTS_MAX`]
    #[error("it has more than {REVOCATION_LISTS_MAX} lists")]
    TooMany,
    /// Nothing of the kind.
    #[error("there is no revocation list in it")]
    Empty,
    /// The text is damaged.
    #[error("it is no PEM text: a line between BEGIN and END is damaged, or END is missing")]
    Pem,
}

/// The revocation lists of a PEM text, not looked into yet, and an id of them all.
///
/// # Errors
/// [`RevocationError`]
pub fn revocation_lists(pem: &str) -> Result<(Vec<CertificateRevocationListDer<'static>>, Id), RevocationError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(RevocationError::TooLarge(pem.len()));
    }
    let mut lists = Vec::new();
    for section in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
        if lists.len() == REVOCATION_LISTS_MAX {
            return Err(RevocationError::TooMany);
        }
        lists.push(section.map_err(|_| RevocationError::Pem)?);
    }
    if lists.is_empty() {
        return Err(RevocationError::Empty);
    }
    let id = digest("revocation lists", lists.iter().map(|list| &**list));
    Ok((lists, id))
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    certificates(pem, CHAIN_MAX)
}

fn certificates(pem: &str, most: usize) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(ChainError::TooLarge(pem.len()));
    }
    if pem.contains("PRIVATE KEY") {
        return Err(ChainError::HasKey);
    }
    let mut certificates = Vec::new();
    for section in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if certificates.len() == most {
            return Err(ChainError::TooMany(most));
        }
        certificates.push(section.map_err(|_| ChainError::Pem)?);
    }
    if certificates.is_empty() { Err(ChainError::Empty) } else { Ok(certificates) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(KeyError::TooLarge(pem.len()));
    }
    let has = |text: &[u8]| memchr::memmem::find(pem, text).is_some();
    if has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Missing)
}

fn inspect(chain: &[CertificateDer<'_>]) -> Result<Description, ChainError> {
    let mut names = Vec::new();
    let mut validity = Validity { not_before: i64::MIN, not_after: i64::MAX };
    for (index, der) in chain.iter().enumerate() {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Err(ChainError::Unreadable(index + 1));
        };
        let own = certificate.validity();
        validity.not_before = validity.not_before.max(own.not_before.timestamp());
        validity.not_after = validity.not_after.min(own.not_after.timestamp());
        if index == 0 {
            names = names_of(&certificate)?;
        }
    }
    Ok(Description { names: names.into(), validity })
}

fn names_of(certificate: &X509Certificate<'_>) -> Result<Vec<Box<str>>, ChainError> {
    let Ok(extension) = certificate.subject_alternative_name() else { return Err(ChainError::Unreadable(1)) };
    let mut names = Vec::new();
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        let name = match name {
            // What no client can ask for is nobody's name.
            GeneralName::DNSName(name) if is_host(name) => name.to_ascii_lowercase(),
            GeneralName::IPAddress(octets) => match ip(octets) {
                Some(address) => address.to_string(),
                None => continue,
            },
            _ => continue,
        };
        if names.len() == NAMES_MAX {
            return Err(ChainError::TooManyNames);
        }
        names.push(name.into());
    }
    Ok(names)
}

/// Whether a DNS name has only what names of hosts have, and a star, if at all, as its first label.
pub(super) fn is_host(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

pub(super) fn ip(octets: &[u8]) -> Option<std::net::IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from)).ok()
}
