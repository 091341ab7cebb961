//! Secrets: sealed in the database, shown to nobody.
//!
//! In memory and on the way to proxies a secret is in the clear, in its resource. What goes into the database is
//! encrypted with the secrets key (AES-256-GCM, bound to the resource's kind and name), so a copy of the database tells
//! nothing without it. What goes to a user has a fingerprint in its place ([`redact`]).
//!
//! Beside each secret goes a *salt*: a hash of the secret under the secrets key. It is as secret as the secret. The
//! fingerprint is a hash of it, and the hashes of whole resources cover it; so the same secret always makes the same
//! resource (applying it again changes nothing), and yet none of those hashes lets anyone without the key try guesses.

use std::{
    fmt, fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::Engine as _;
use prost::Message as _;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hmac,
};
use rustygate_data_plane::plugin::SECRET;
use rustygate_proto::v1::{self as wire, Kind, resource, secret::Form};

use crate::snapshot::Set;

/// Bytes of the key.
const KEY_BYTES: usize = 32;

/// The most bytes of a file that may be one.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// The first byte of what is sealed: how it was done.
const FORMAT: u8 = 1;

/// There is no secrets key.
const NO_KEY: &str = crate::codes::NO_KEY;

/// Why there is no secrets key, or not the right one.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// A file that is not there, mostly.
    #[error("cannot read the secrets key {}: {source} (check --secrets-key-file)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder that cannot be written to, mostly.
    #[error("cannot make a secrets key in {}: {source} (or give one with --secrets-key-file)", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is there, but it is no key.
    #[error(
        "{0} is not a secrets key: it must be 32 bytes, as 64 hex digits or as base64; `openssl rand -hex 32` makes one"
    )]
    Bad(String),
}

/// A secrets key as it is given, in hex or base64. It does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

impl FromStr for KeyText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyText(hidden)")
    }
}

/// Where a secrets key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The variable.
    Text(KeyText),
    /// A file that must be there.
    File(PathBuf),
    /// A file that is made if it is not there.
    Own(PathBuf),
    /// Nowhere: no secrets are taken.
    None,
}

impl Source {
    /// Whether loading it makes a new key.
    #[must_use]
    pub fn would_be_made(&self) -> bool {
        matches!(self, Self::Own(path) if !path.exists())
    }
}

/// Seals secrets and opens them.
#[derive(Debug, Default)]
pub struct Secrets {
    keys: Option<Keys>,
}

struct Keys {
    sealing: LessSafeKey,
    salting: hmac::Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys(hidden)")
    }
}

/// What was sealed is not what comes back: another key, or damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be opened")]
pub struct CannotOpen;

impl Secrets {
    /// With the key of a source.
    ///
    /// # Errors
    /// [`SecretsError`], which says where it looked and what to do.
    pub fn load(source: &Source) -> Result<Self, SecretsError> {
        let bytes = match source {
            Source::None => return Ok(Self::default()),
            Source::Text(text) => {
                parse(&text.0).ok_or_else(|| SecretsError::Bad("RUSTYGATE_SECRETS_KEY".to_owned()))?
            }
            Source::File(path) => read(path)?,
            Source::Own(path) => {
                if source.would_be_made() {
                    make(path).map_err(|source| SecretsError::Make { path: path.clone(), source })?;
                }
                read(path)?
            }
        };
        Ok(Self::new(&bytes))
    }

    /// With these bytes as the key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        // One key for each use, so that neither can be used against the other.
        let main = hmac::Key::new(hmac::HMAC_SHA256, key);
        let derive = |purpose: &str| hmac::sign(&main, purpose.as_bytes());
        let sealing = UnboundKey::new(&AES_256_GCM, derive("rustygate sealing").as_ref());
        let sealing = LessSafeKey::new(sealing.expect("SHA-256 gives as many bytes as AES-256 takes"));
        let salting = hmac::Key::new(hmac::HMAC_SHA256, derive("rustygate salting").as_ref());
        Self { keys: Some(Keys { sealing, salting }) }
    }

    /// Whether there is a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Makes resources that were just read ready to be compared and stored: salts their secrets, and puts the stored
    /// secret in the place of its fingerprint. A fingerprint of nothing stays; the compile step tells.
    ///
    /// # Errors
    /// A fault for each secret, if there is no key.
    pub fn prepare(&self, resources: &mut [wire::Resource], stored: &Set) -> Result<(), Vec<wire::Fault>> {
        let mut faults = Vec::new();
        for resource in resources {
            let Some((kind, name)) = resource.key() else { continue };
            let name = name.to_owned();
            for (field, secret) in secrets_of(resource) {
                match &secret.form {
                    Some(Form::Clear(clear)) => match &self.keys {
                        Some(keys) => secret.salt = salt(keys, clear),
                        None => faults.push(no_key(kind, &name, &field)),
                    },
                    Some(Form::Fingerprint(fingerprint)) => {
                        let before = stored.get(kind, &name).and_then(|stored| stored.resource());
                        // Whichever field it was in: a list may have another order now.
                        let known = before.and_then(|mut before| {
                            let mut secrets = secrets_of(&mut before).into_iter().map(|(_, secret)| secret);
                            secrets.find(|known| fingerprint_of(known) == *fingerprint).cloned()
                        });
                        if let Some(known) = known {
                            *secret = known;
                        }
                    }
                    Some(Form::Sealed(_)) | None => {}
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The body of a resource as the database gets it; `None` if there is nothing to seal in it.
    ///
    /// # Errors
    /// [`CannotOpen`] if there is no key, or no random numbers.
    pub fn seal(&self, kind: Kind, name: &str, body: &[u8]) -> Result<Option<Vec<u8>>, CannotOpen> {
        self.each(kind, body, |keys, secret| {
            let plain = secret.encode_to_vec();
            Ok(wire::Secret { form: Some(Form::Sealed(keys.seal(&bond(kind, name), plain)?)), salt: Vec::new() })
        })
    }

    /// The body of a resource as it was before it was sealed; `None` if there was nothing to seal in it.
    ///
    /// # Errors
    /// [`CannotOpen`]
    pub fn open(&self, kind: Kind, name: &str, body: &[u8]) -> Result<Option<Vec<u8>>, CannotOpen> {
        self.each(kind, body, |keys, secret| match &secret.form {
            Some(Form::Sealed(sealed)) => {
                let plain = keys.open(&bond(kind, name), sealed)?;
                wire::Secret::decode(&*plain).map_err(|_| CannotOpen)
            }
            _ => Err(CannotOpen),
        })
    }

    /// What the database keeps to know the key again.
    ///
    /// # Errors
    /// [`CannotOpen`] if there is no key, or no random numbers.
    pub fn proof(&self) -> Result<Vec<u8>, CannotOpen> {
        self.keys.as_ref().ok_or(CannotOpen)?.seal("proof", Vec::new())
    }

    /// Whether a proof was made with this key.
    #[must_use]
    pub fn made(&self, proof: &[u8]) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.open("proof", proof).is_ok())
    }

    fn each(
        &self,
        kind: Kind,
        body: &[u8],
        change: impl Fn(&Keys, &wire::Secret) -> Result<wire::Secret, CannotOpen>,
    ) -> Result<Option<Vec<u8>>, CannotOpen> {
        // The other kinds have none, and are not even looked at.
        if !matches!(kind, Kind::Certificate | Kind::Plugin) {
            return Ok(None);
        }
        let mut resource = wire::Resource::decode(body).map_err(|_| CannotOpen)?;
        let mut any = false;
        for (_, secret) in secrets_of(&mut resource) {
            *secret = change(self.keys.as_ref().ok_or(CannotOpen)?, secret)?;
            any = true;
        }
        Ok(any.then(|| resource.encode_to_vec()))
    }
}

impl Keys {
    fn seal(&self, bond: &str, mut bytes: Vec<u8>) -> Result<Vec<u8>, CannotOpen> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| CannotOpen)?;
        let aad = Aad::from(bond.as_bytes());
        self.sealing
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
            .map_err(|_| CannotOpen)?;
        Ok([&[FORMAT][..], &nonce, &bytes].concat())
    }

    fn open(&self, bond: &str, sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let sealed = sealed.strip_prefix(&[FORMAT]).ok_or(CannotOpen)?;
        let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CannotOpen)?;
        let mut bytes = bytes.to_vec();
        let aad = Aad::from(bond.as_bytes());
        let plain = self.sealing.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut bytes);
        Ok(plain.map_err(|_| CannotOpen)?.to_vec())
    }
}

/// A resource as a user may see it: a fingerprint for each secret.
#[must_use]
pub fn redact(mut resource: wire::Resource) -> wire::Resource {
    for (_, secret) in secrets_of(&mut resource) {
        *secret = wire::Secret { form: Some(Form::Fingerprint(fingerprint_of(secret))), salt: Vec::new() };
    }
    resource
}

/// Each secret of a resource, with its field.
fn secrets_of(resource: &mut wire::Resource) -> Vec<(String, &mut wire::Secret)> {
    match &mut resource.kind {
        Some(resource::Kind::Certificate(certificate)) => {
            certificate.key.as_mut().map(|key| ("key".to_owned(), key)).into_iter().collect()
        }
        Some(resource::Kind::Plugin(plugin)) if !plugin.secrets.is_empty() => {
            let mut fields = vec!["config".to_owned(); plugin.secrets.len()];
            if let Ok(config) = serde_json::from_str(&plugin.config_json) {
                name_secrets(&config, "config", &mut fields);
            }
            fields.into_iter().zip(&mut plugin.secrets).collect()
        }
        Some(
            resource::Kind::Listener(_)
            | resource::Kind::Backend(_)
            | resource::Kind::Plugin(_)
            | resource::Kind::Route(_)
            | resource::Kind::Defaults(_)
            // What they have is hashed, and the hashes may be seen.
            | resource::Kind::Consumer(_),
        )
        | None => Vec::new(),
    }
}

/// Where in a configuration each of its secrets stands. The parser of JSON bounds how deep this recurses.
fn name_secrets(value: &serde_json::Value, path: &str, fields: &mut [String]) {
    match value {
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                name_secrets(item, &format!("{path}[{index}]"), fields);
            }
        }
        serde_json::Value::Object(entries) => {
            let index = entries.get(SECRET).and_then(serde_json::Value::as_u64);
            let index = index.and_then(|index| usize::try_from(index).ok());
            if let Some(field) = index.and_then(|index| fields.get_mut(index)) {
                path.clone_into(field);
                return;
            }
            for (key, value) in entries {
                name_secrets(value, &format!("{path}.{key}"), fields);
            }
        }
        _ => {}
    }
}

fn salt(keys: &Keys, clear: &[u8]) -> Vec<u8> {
    hmac::sign(&keys.salting, clear).as_ref().to_vec()
}

/// "sha256:" and the first half of it in hex. Of the salt, which nobody can make who has not both secret and key.
fn fingerprint_of(secret: &wire::Secret) -> String {
    let hash = digest::digest(&digest::SHA256, &secret.salt);
    let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn bond(kind: Kind, name: &str) -> String {
    format!("{} {name}", kind.noun())
}

fn no_key(kind: Kind, name: &str, field: &str) -> wire::Fault {
    wire::Fault {
        code: NO_KEY.into(),
        kind: kind.into(),
        name: name.into(),
        field: field.into(),
        message: "the control plane has no secrets key, so it keeps no secrets".into(),
        hint: "start it with --secrets-key-file or RUSTYGATE_SECRETS_KEY; `openssl rand -hex 32` makes a key".into(),
        location: None,
    }
}

fn read(path: &Path) -> Result<[u8; KEY_BYTES], SecretsError> {
    let bytes = read_some(path).map_err(|source| SecretsError::Read { path: path.to_owned(), source })?;
    let whole: Option<[u8; KEY_BYTES]> = bytes.as_slice().try_into().ok();
    let text = || std::str::from_utf8(&bytes).ok().and_then(parse);
    text().or(whole).ok_or_else(|| SecretsError::Bad(path.display().to_string()))
}

fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let file = fs::File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "the secrets key can be read by other users: chmod 600");
    }
    let mut bytes = Vec::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whole or not at all: written beside, then given its name.
fn make(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key)?;
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(format!("{hex}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    let text = text.trim();
    if text.len() == 2 * KEY_BYTES && text.is_ascii() {
        let mut key = [0; KEY_BYTES];
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    let text = text.trim_end_matches('=');
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Stored;

    fn certificate(key: wire::Secret) -> wire::Resource {
        let certificate = wire::Certificate { name: "web".into(), chain: "c".into(), key: Some(key) };
        wire::Resource { kind: Some(resource::Kind::Certificate(certificate)) }
    }

    fn clear(key: &str) -> wire::Resource {
        certificate(wire::Secret { form: Some(Form::Clear(key.into())), salt: Vec::new() })
    }

    fn prepared(secrets: &Secrets, key: &str) -> wire::Resource {
        let mut resources = [clear(key)];
        secrets.prepare(&mut resources, &Set::default()).expect("a key");
        let [resource] = resources;
        resource
    }

    fn contains(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn set(resource: &wire::Resource) -> Set {
        let body: bytes::Bytes = resource.encode_to_vec().into();
        let hash = rustygate_proto::checksum::ContentHash::of(Kind::Certificate, "web", &body);
        let stored = Stored {
            row: 1,
            kind: Kind::Certificate,
            name: "web".into(),
            owner: "default".into(),
            revision: 1,
            hash,
            body,
        };
        [stored].into_iter().collect()
    }

    #[test]
    fn what_is_sealed_comes_back_with_the_same_key_and_name_alone() {
        let secrets = Secrets::new(&[1; 32]);
        let body = prepared(&secrets, "hunter2 hunter2").encode_to_vec();
        let sealed = secrets.seal(Kind::Certificate, "web", &body).expect("a key").expect("a secret");
        assert!(contains(&body, "hunter2") && !contains(&sealed, "hunter2"));
        assert_eq!(secrets.open(Kind::Certificate, "web", &sealed).expect("opens").as_deref(), Some(&body[..]));
        assert_eq!(secrets.open(Kind::Certificate, "other", &sealed), Err(CannotOpen));
        assert_eq!(Secrets::new(&[2; 32]).open(Kind::Certificate, "web", &sealed), Err(CannotOpen));
        assert_eq!(Secrets::default().open(Kind::Certificate, "web", &sealed), Err(CannotOpen));
        assert_eq!(Secrets::default().seal(Kind::Certificate, "web", &body), Err(CannotOpen));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            // Some bytes are of the chain and the name beside it.
            assert!(secrets.open(Kind::Certificate, "web", &damaged).is_err() || at < 20, "byte {at}");
        }
        assert_eq!(secrets.seal(Kind::Route, "r", b"anything"), Ok(None));
    }

    #[test]
    fn a_fingerprint_tells_whether_two_are_the_same_and_no_more() {
        let secrets = Secrets::new(&[1; 32]);
        let shown = |secrets: &Secrets, key: &str| redact(prepared(secrets, key));
        assert_eq!(shown(&secrets, "a"), shown(&secrets, "a"));
        assert_ne!(shown(&secrets, "a"), shown(&secrets, "b"));
        assert_ne!(shown(&secrets, "a"), shown(&Secrets::new(&[2; 32]), "a"), "nobody without the key can try guesses");
        assert!(!contains(&shown(&secrets, "hunter2").encode_to_vec(), "hunter2"));
    }

    #[test]
    fn a_known_fingerprint_stands_for_its_secret_and_an_unknown_one_for_nothing() {
        let secrets = Secrets::new(&[1; 32]);
        let whole = prepared(&secrets, "a");
        let stored = set(&whole);
        let mut same = [redact(whole.clone())];
        secrets.prepare(&mut same, &stored).expect("a key");
        assert_eq!(same[0], whole);
        let unknown = redact(prepared(&secrets, "b"));
        let mut given = [unknown.clone()];
        secrets.prepare(&mut given, &stored).expect("a key");
        assert_eq!(given[0], unknown);
    }

    #[test]
    fn without_a_key_no_secret_is_taken() {
        let faults = Secrets::default().prepare(&mut [clear("a")], &Set::default()).expect_err("no key");
        assert_eq!((faults[0].code.as_str(), faults[0].field.as_str()), (NO_KEY, "key"));
        Secrets::default().prepare(&mut [], &Set::default()).expect("nothing to seal");
    }

    #[test]
    fn a_key_is_known_again() {
        let proof = Secrets::new(&[1; 32]).proof().expect("a key");
        assert!(Secrets::new(&[1; 32]).made(&proof));
        assert!(!Secrets::new(&[2; 32]).made(&proof) && !Secrets::default().made(&proof));
    }

    #[test]
    fn keys_are_hex_or_base64_or_raw_bytes() {
        let hex = "00".repeat(31) + "0f";
        let key = parse(&hex).expect("hex");
        assert_eq!(key[31], 15);
        assert_eq!(parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8=\n"), Some(key));
        assert_eq!(parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8"), Some(key));
        for bad in ["", "0f", "zz", &hex[1..], "AAAA"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        fs::write(&file, [7; 32]).expect("writes");
        assert_eq!(read(&file).expect("raw bytes"), [7; 32]);
        fs::write(&file, "short").expect("writes");
        assert!(matches!(read(&file), Err(SecretsError::Bad(_))));
        assert!(matches!(Secrets::load(&Source::File("/nowhere".into())), Err(SecretsError::Read { .. })));
    }

    #[test]
    fn an_own_key_is_made_once_and_for_its_user_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.db.key");
        let proof = Secrets::load(&Source::Own(path.clone())).expect("made").proof().expect("a key");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        assert!(Secrets::load(&Source::Own(path.clone())).expect("read").made(&proof));
        assert!(Secrets::load(&Source::File(path)).expect("read").made(&proof));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let text: KeyText = "hunter2".parse().expect("any text");
        let shown = format!("{:?} {:?} {:?}", Source::Text(text), Secrets::new(&[104; 32]), Secrets::default());
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
