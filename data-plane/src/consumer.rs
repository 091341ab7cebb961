//! Consumers: who calls, as far as the gateway knows callers by keys and passwords of its own.
//!
//! A snapshot has them all, found by the hash of a key or by a user name in one look-up, however many there are. Of an API
//! key only its SHA-256 is known. It is not a slow hash, and it has no key or salt of its own: what it is made of must be
//! long and random ([`check_key`]), so there are no guesses to be slowed down, a proxy that has to check keys would
//! have to hold any further secret beside the hashes anyway, and users can make the hash themselves (`sha256sum`) and need
//! never hand the key over. Passwords are another matter: see [`password`].
//!
//! How long a look-up takes tells nothing of keys: what is compared early is a hash, of which whoever asks can choose no part
//! without having the key, and the rest is compared in constant time.

pub mod password;
pub mod verifier;

use std::{fmt, sync::Arc};

use ring::digest;
use subtle::ConstantTimeEq as _;

pub use self::{
    password::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, PasswordHash},
    verifier::{Verdict, Verifier},
};
use crate::snapshot::CowMap;

/// The fewest bytes of an API key.
pub const KEY_BYTES_MIN: usize = 16;

/// The most bytes of an API key; a longer one in a request is not even hashed.
pub const KEY_BYTES_MAX: usize = 256;

/// The fewest different bytes of an API key: fewer are a pattern, not a key.
const KEY_DIFFERENT_MIN: usize = 5;

/// The most API keys of one consumer, and the most user names.
pub const CREDENTIALS_MAX: usize = 64;

/// The most groups of one consumer.
pub const GROUPS_MAX: usize = 64;

/// The most bytes of a user name.
pub const USERNAME_BYTES_MAX: usize = 128;

/// The most consumers of a configuration.
pub const CONSUMERS_MAX: usize = 100_000;

/// SHA-256 of an API key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

/// Not even the hash: it tells keys apart.
impl fmt::Debug for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyHash")
    }
}

impl KeyHash {
    /// Of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, key);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Self(hash)
    }

    /// From 64 hex digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Where it is in the map.
    fn slot(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(bytes)
    }
}

/// Whether this may be an API key: it must be hard to guess, and fit a header field.
///
/// # Errors
/// What is wrong with it, without it.
pub fn check_key(key: &[u8]) -> Result<(), String> {
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
        return Err(format!(
            "an API key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} characters; this one has {}",
            key.len()
        ));
    }
    if !key.iter().all(u8::is_ascii_graphic) {
        return Err("an API key is made of visible ASCII characters, without spaces; this one is not".to_owned());
    }
    let mut seen = [false; 256];
    for byte in key {
        seen[usize::from(*byte)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < KEY_DIFFERENT_MIN {
        return Err("this API key is easily guessed: it is made of a few characters over and over".to_owned());
    }
    Ok(())
}

/// What a consumer belongs to: names with commas between them, as upstreams are told. None has a comma, or is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Arc<str>);

impl Groups {
    /// All of them in one text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').filter(|group| !group.is_empty())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Groups {
    fn from_iter<I: IntoIterator<Item = S>>(groups: I) -> Self {
        let mut text = String::new();
        for group in groups {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(group.as_ref());
        }
        Self(text.into())
    }
}

/// One caller.
#[derive(Debug, PartialEq, Eq)]
pub struct Consumer {
    /// As the manifest names it.
    pub name: Arc<str>,
    /// In the order of the manifest.
    pub groups: Groups,
    pub(crate) keys: Box<[KeyHash]>,
    pub(crate) passwords: Box<[(Arc<str>, Arc<PasswordHash>)]>,
}

/// Keys whose hashes begin alike, and whose they are.
type Alike = Arc<[(KeyHash, Arc<Consumer>)]>;

/// Every consumer. Clones share what did not change.
#[derive(Clone, Debug, Default)]
pub struct Consumers {
    by_name: CowMap<Arc<str>, Arc<Consumer>>,
    /// By the first bytes of the hash; there may be others that begin alike.
    by_key: CowMap<u64, Alike>,
    by_username: CowMap<Arc<str>, (Arc<Consumer>, Arc<PasswordHash>)>,
}

/// A credential that another consumer has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Key { index: usize, by: Arc<str> },
    Username { index: usize, by: Arc<str> },
}

impl Consumers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whose key this is.
    #[must_use]
    pub fn by_key(&self, key: &[u8]) -> Option<&Arc<Consumer>> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            return None;
        }
        self.by_hash(&KeyHash::of(key))
    }

    fn by_hash(&self, hash: &KeyHash) -> Option<&Arc<Consumer>> {
        let alike = self.by_key.get(&hash.slot())?;
        alike.iter().find(|(known, _)| bool::from(known.0.ct_eq(&hash.0))).map(|(_, consumer)| consumer)
    }

    /// Whose user name this is, and the password that goes with it.
    #[must_use]
    pub fn by_username(&self, username: &str) -> Option<(&Arc<Consumer>, &Arc<PasswordHash>)> {
        self.by_username.get(username).map(|(consumer, password)| (consumer, password))
    }

    /// Takes one out, with all that finds it.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<Consumer>> {
        let consumer = self.by_name.remove(name)?;
        for hash in &consumer.keys {
            let Some(alike) = self.by_key.get(&hash.slot()) else { continue };
            let rest: Arc<[_]> = alike.iter().filter(|(known, _)| known != hash).cloned().collect();
            if rest.is_empty() {
                self.by_key.remove(&hash.slot());
            } else {
                self.by_key.insert(hash.slot(), rest);
            }
        }
        for (username, _) in &consumer.passwords {
            self.by_username.remove(username);
        }
        Some(consumer)
    }

    /// Takes one in, whose name is free. What of it others have stays theirs, and is told.
    pub(crate) fn insert(&mut self, consumer: &Arc<Consumer>) -> Vec<Taken> {
        let mut taken = Vec::new();
        for (index, hash) in consumer.keys.iter().enumerate() {
            if let Some(other) = self.by_hash(hash) {
                taken.push(Taken::Key { index, by: Arc::clone(&other.name) });
                continue;
            }
            let alike = self.by_key.get(&hash.slot()).map_or(&[][..], |alike| alike);
            let more = alike.iter().cloned().chain([(*hash, Arc::clone(consumer))]).collect();
            self.by_key.insert(hash.slot(), more);
        }
        for (index, (username, password)) in consumer.passwords.iter().enumerate() {
            match self.by_username.get(username) {
                Some((other, _)) => taken.push(Taken::Username { index, by: Arc::clone(&other.name) }),
                None => {
                    let found = (Arc::clone(consumer), Arc::clone(password));
                    self.by_username.insert(Arc::clone(username), found);
                }
            }
        }
        self.by_name.insert(Arc::clone(&consumer.name), Arc::clone(consumer));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaA";

    fn consumer(name: &str, keys: &[&str], usernames: &[&str]) -> Arc<Consumer> {
        let password = Arc::new(PasswordHash::parse(HASH).expect("a hash"));
        Arc::new(Consumer {
            name: name.into(),
            groups: Groups::default(),
            keys: keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect(),
            passwords: usernames.iter().map(|username| ((*username).into(), Arc::clone(&password))).collect(),
        })
    }

    const ONE: &str = "key-one-0123456789";
    const TWO: &str = "key-two-0123456789";

    #[test]
    fn a_consumer_is_found_by_each_key_and_user_name_until_it_goes() {
        let mut all = Consumers::default();
        assert_eq!(all.insert(&consumer("a", &[ONE, TWO], &["ann"])), []);
        assert_eq!(all.insert(&consumer("b", &[], &["bob"])), []);
        for key in [ONE, TWO] {
            assert_eq!(&*all.by_key(key.as_bytes()).expect("a's").name, "a");
        }
        assert_eq!(&*all.by_username("bob").expect("b's").0.name, "b");
        for key in ["", "key-one", "key-one-012345678", "key-one-01234567890", &"k".repeat(257)] {
            assert!(all.by_key(key.as_bytes()).is_none(), "{key}");
        }
        assert!(all.by_username("Ann").is_none() && all.by_username("").is_none());
        let before = all.clone();
        all.remove("a").expect("it was there");
        assert!(all.by_key(ONE.as_bytes()).is_none() && all.by_username("ann").is_none() && all.len() == 1);
        assert!(before.by_key(ONE.as_bytes()).is_some(), "a clone keeps what it had");
        assert!(all.remove("a").is_none());
    }

    #[test]
    fn what_another_consumer_has_stays_its_own() {
        let mut all = Consumers::default();
        all.insert(&consumer("a", &[ONE], &["ann"]));
        let taken = all.insert(&consumer("b", &[TWO, ONE], &["bob", "ann"]));
        assert_eq!(taken, [Taken::Key { index: 1, by: "a".into() }, Taken::Username { index: 1, by: "a".into() }]);
        assert_eq!(&*all.by_key(ONE.as_bytes()).expect("a's").name, "a");
        assert_eq!(&*all.by_username("ann").expect("a's").0.name, "a");
    }

    #[test]
    fn hashes_that_begin_alike_are_told_apart() {
        let alike = |last: u8| {
            let mut hash = [7; 32];
            hash[31] = last;
            KeyHash(hash)
        };
        let with = |name: &str, last| {
            Arc::new(Consumer {
                name: name.into(),
                groups: Groups::default(),
                keys: [alike(last)].into(),
                passwords: Box::default(),
            })
        };
        let mut all = Consumers::default();
        assert!(all.insert(&with("a", 1)).is_empty() && all.insert(&with("b", 2)).is_empty());
        assert_eq!(&*all.by_hash(&alike(1)).expect("a's").name, "a");
        assert_eq!(&*all.by_hash(&alike(2)).expect("b's").name, "b");
        assert!(all.by_hash(&alike(3)).is_none());
        all.remove("a");
        assert!(all.by_hash(&alike(1)).is_none());
        assert_eq!(&*all.by_hash(&alike(2)).expect("b's").name, "b");
    }

    #[test]
    fn a_key_is_long_visible_and_no_pattern() {
        for good in [ONE, "0123456789abcdef", &"0123456789abcdef".repeat(16)] {
            assert_eq!(check_key(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdé",
            "aaaaaaaabbbbbbbb",
            &"0123456789abcdef0".repeat(16),
        ] {
            let problem = check_key(bad.as_bytes()).expect_err(bad);
            assert!(bad.is_empty() || !problem.contains(bad), "{problem}");
        }
    }

    #[test]
    fn a_hash_is_what_sha256sum_prints() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::from_hex(hex), Some(KeyHash::of(b"abc")));
        assert_eq!(KeyHash::from_hex(&hex.to_uppercase()), Some(KeyHash::of(b"abc")));
        for bad in ["", &hex[1..], &format!("{hex}0"), &format!("+{}", &hex[1..]), &"é".repeat(32)] {
            assert_eq!(KeyHash::from_hex(bad), None, "{bad}");
        }
    }
}
