//! Sets of keys: those of a configuration, those that somebody publishes, and both together.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{KEYS_MAX, Key, KeyError};

/// The keys that a token may be signed with.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// The same for the same published keys, and another for others.
    pub generation: u64,
}

/// A set as somebody publishes it.
#[derive(Debug, Default)]
pub struct Published {
    /// What of it can be used, one key at least.
    pub keys: KeySet,
    /// How many keys of it cannot.
    pub unusable: usize,
    /// Why the first of those cannot.
    pub reason: Option<KeyError>,
}

/// The list of a set, each key as it came.
#[derive(Deserialize)]
struct List<'l> {
    #[serde(borrow)]
    keys: Vec<&'l RawValue>,
}

/// Why something is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// Something else, or damaged.
    #[error("this is no set of keys in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// More than anybody has.
    #[error("there are {0} keys; at most {KEYS_MAX} are taken")]
    TooMany(usize),
    /// Nothing to check a token with.
    #[error("there is no key")]
    Empty,
    /// Likewise; and why, of the first.
    #[error("none of the keys can be used; the first because {0}")]
    Unusable(KeyError),
}

impl KeySet {
    /// These keys.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        let mut hasher = blake3::Hasher::new();
        keys.iter().for_each(|key| key.digest(&mut hasher));
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        Self { keys, generation: u64::from_le_bytes(bytes) }
    }

    /// A set as it is published (RFC 7517 section 5). Keys that are for something else, or of a kind that is not
    /// supported, are left out, and so are secrets.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn from_json(text: &[u8]) -> Result<Published, SetError> {
        let list = serde_json::from_slice::<List<'_>>(text)?.keys;
        if list.len() > KEYS_MAX {
            return Err(SetError::TooMany(list.len()));
        }
        let (mut keys, mut unusable, mut reason) = (Vec::new(), 0, None);
        for key in list.iter().map(|text| Key::from_json(text.get())) {
            match key {
                Ok(key) => keys.push(key),
                Err(error) => {
                    unusable += 1;
                    reason.get_or_insert(error);
                }
            }
        }
        match reason {
            None if keys.is_empty() => Err(SetError::Empty),
            Some(reason) if keys.is_empty() => Err(SetError::Unusable(reason)),
            _ => Ok(Published { keys: Self::new(keys), unusable, reason }),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a token of that id may have been signed with one of them.
    #[must_use]
    pub fn has(&self, kid: Option<&str>) -> bool {
        self.of(kid).next().is_some()
    }

    /// The keys themselves.
    #[must_use]
    pub fn into_keys(self) -> Vec<Key> {
        self.keys
    }

    /// The keys that a token of that id may have been signed with: those of the id and those without one; without an id,
    /// all.
    pub fn of<'k>(&'k self, kid: Option<&'k str>) -> impl Iterator<Item = &'k Key> {
        self.keys.iter().filter(move |key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
    }
}

/// All keys that a plugin takes tokens of.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'k> {
    /// Those of its configuration.
    pub own: &'k KeySet,
    /// Those that somebody publishes, if any are known.
    pub published: Option<&'k KeySet>,
}

impl<'k> From<&'k KeySet> for Keys<'k> {
    fn from(own: &'k KeySet) -> Self {
        Self { own, published: None }
    }
}

impl<'k> Keys<'k> {
    /// The same for the same keys, and another for others.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let published = self.published.map_or(0, |keys| keys.generation.rotate_left(1));
        self.own.generation ^ published
    }

    /// See [`KeySet::of`].
    pub fn of(self, kid: Option<&'k str>) -> impl Iterator<Item = &'k Key> {
        self.own.of(kid).chain(self.published.into_iter().flat_map(move |keys| keys.of(kid)))
    }
}
