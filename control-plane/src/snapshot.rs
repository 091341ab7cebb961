//! The set of resources at one revision, and how it travels. Pure: no I/O, no clock, no async.
//!
//! A [`Set`] keeps its checksum up to date as resources come and go, so that one changed route among a hundred
//! thousand costs one addition and one subtraction. A transaction is encoded once ([`Encoded`]) and the same
//! bytes go to every proxy.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use rustygate_proto::{
    checksum::{Checksum, ContentHash},
    frames::{self, ChunkError},
    v1::{self as wire, Kind, stream_response::Message},
};

/// The kinds that a set holds, in the order in which they are listed.
pub const KINDS: [Kind; 7] =
    [Kind::Listener, Kind::Backend, Kind::Plugin, Kind::Route, Kind::Certificate, Kind::Defaults, Kind::Consumer];

/// One content of one resource, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// Id of its row.
    pub row: i64,
    /// What it is.
    pub kind: Kind,
    /// Unique by kind.
    pub name: Arc<str>,
    /// Who applied it.
    pub owner: Arc<str>,
    /// The revision that brought this content.
    pub revision: u64,
    /// Of kind, name and body.
    pub hash: ContentHash,
    /// The encoded resource.
    pub body: Bytes,
}

/// Without the body: there may be a secret in it.
impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Stored");
        shown.field("row", &self.row).field("kind", &self.kind).field("name", &self.name);
        shown.field("revision", &self.revision).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl Stored {
    /// The message; `None` only if the bytes were damaged.
    #[must_use]
    pub fn resource(&self) -> Option<wire::Resource> {
        wire::Resource::decode(self.body.clone()).ok()
    }

    /// As it is sent to a proxy that does not have it.
    #[must_use]
    pub fn change(&self) -> wire::Change {
        wire::Change { kind: self.kind.into(), name: self.name.to_string(), resource: Some(self.body.clone()) }
    }
}

/// The change that removes a resource.
#[must_use]
pub fn removal(kind: Kind, name: &str) -> wire::Change {
    wire::Change { kind: kind.into(), name: name.to_owned(), resource: None }
}

/// Every live resource by kind and name.
#[derive(Debug, Default)]
pub struct Set {
    kinds: [BTreeMap<Arc<str>, Arc<Stored>>; KINDS.len()],
    checksum: Checksum,
}

impl Set {
    /// The live content of a resource.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Stored>> {
        self.kinds.get(slot(kind)?)?.get(name)
    }

    /// Puts a resource in the place of what had its name. A resource of no kind is not taken.
    pub fn insert(&mut self, stored: Arc<Stored>) {
        let Some(kind) = slot(stored.kind).and_then(|slot| self.kinds.get_mut(slot)) else { return };
        self.checksum.add(&stored.hash);
        if let Some(before) = kind.insert(stored.name.clone(), stored) {
            self.checksum.subtract(&before.hash);
        }
    }

    /// Takes a resource out.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        let Some(kind) = slot(kind).and_then(|slot| self.kinds.get_mut(slot)) else { return };
        if let Some(before) = kind.remove(name) {
            self.checksum.subtract(&before.hash);
        }
    }

    /// All of them, by kind, then by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.kinds.iter().flat_map(BTreeMap::values)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.iter().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of all of them.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }
}

impl FromIterator<Stored> for Set {
    fn from_iter<I: IntoIterator<Item = Stored>>(resources: I) -> Self {
        let mut set = Self::default();
        for stored in resources {
            set.insert(Arc::new(stored));
        }
        set
    }
}

fn slot(kind: Kind) -> Option<usize> {
    KINDS.iter().position(|candidate| *candidate == kind)
}

/// One transaction, ready to be sent to any number of proxies.
#[derive(Debug)]
pub struct Encoded {
    /// The revision it starts from; 0 for a full snapshot.
    pub from: u64,
    /// The revision it leads to.
    pub to: u64,
    /// `Begin Chunk* Commit`.
    pub frames: Vec<wire::StreamResponse>,
    /// Size of the frames on the wire.
    pub bytes: usize,
}

impl Encoded {
    /// Encodes and compresses changes.
    ///
    /// # Errors
    /// [`ChunkError`] if one change does not fit a chunk; sizes are checked when resources are applied, so this is
    /// a fault of the program.
    pub fn pack(
        store_id: &str,
        from: u64,
        to: u64,
        checksum: Checksum,
        changes: &[wire::Change],
    ) -> Result<Self, ChunkError> {
        let begin = wire::Begin {
            store_id: store_id.to_owned(),
            from_revision: from,
            to_revision: to,
            changes: changes.len() as u64,
        };
        let commit = wire::Commit { revision: to, checksum: checksum.to_bytes().to_vec() };
        let mut frames = vec![frame(Message::Begin(begin))];
        frames.extend(frames::pack(changes)?.into_iter().map(|chunk| frame(Message::Chunk(chunk))));
        frames.push(frame(Message::Commit(commit)));
        let bytes = frames.iter().map(prost::Message::encoded_len).sum();
        Ok(Self { from, to, frames, bytes })
    }
}

fn frame(message: Message) -> wire::StreamResponse {
    wire::StreamResponse { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str, body: &'static [u8]) -> Stored {
        Stored {
            row: 1,
            kind: Kind::Route,
            name: name.into(),
            owner: "default".into(),
            revision: 1,
            hash: ContentHash::of(Kind::Route, name, body),
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn the_checksum_follows_what_comes_changes_and_goes() {
        let mut set: Set = [stored("a", b"1"), stored("b", b"1")].into_iter().collect();
        let before = set.checksum();
        set.insert(Arc::new(stored("a", b"2")));
        assert_ne!(set.checksum(), before);
        set.insert(Arc::new(stored("c", b"1")));
        set.insert(Arc::new(stored("a", b"1")));
        set.remove(Kind::Route, "c");
        set.remove(Kind::Route, "never there");
        assert_eq!(set.checksum(), before);
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn a_transaction_begins_with_its_revisions_and_ends_with_the_checksum() {
        let set: Set = [stored("a", b"1")].into_iter().collect();
        let changes: Vec<_> = set.iter().map(|stored| stored.change()).collect();
        let encoded = Encoded::pack("s", 0, 7, set.checksum(), &changes).expect("packs");
        let messages: Vec<_> = encoded.frames.iter().filter_map(|frame| frame.message.clone()).collect();
        let [Message::Begin(begin), Message::Chunk(chunk), Message::Commit(commit)] = messages.as_slice() else {
            panic!("{messages:?}");
        };
        assert_eq!((begin.from_revision, begin.to_revision, begin.changes), (0, 7, 1));
        assert_eq!(frames::unpack(chunk).expect("unpacks"), changes);
        assert_eq!(commit.checksum, set.checksum().to_bytes());
    }
}
