//! Puts transactions together from the frames of the stream, within bounds.
//!
//! Each Commit is answered, so what breaks a transaction is remembered and told at its Commit; until then its
//! frames are dropped unread.

use rustygate_proto::{
    frames,
    v1::{self as wire, Begin, Change, Chunk, Commit},
};

use crate::{held::Transaction, snapshot::fault};

/// The most changes that one transaction may have.
pub const CHANGES_MAX: u64 = 2_000_000;

/// The most bytes that the resources of one transaction may have, encoded.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 30;

/// The most bytes that the name of a store may have.
pub const STORE_ID_BYTES_MAX: usize = 256;

/// Why a revision is not served: becomes a Nack.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) revision: u64,
    pub(crate) faults: Vec<wire::Fault>,
    /// Whether to be sent everything anew might help.
    pub(crate) resync: bool,
}

/// Where the stream is.
#[derive(Debug, Default)]
pub(crate) enum Receiver {
    #[default]
    Idle,
    Collecting(Collecting),
    /// The transaction is broken; its Commit is yet to come.
    Broken(Broken),
}

#[derive(Debug)]
pub(crate) struct Collecting {
    begin: Begin,
    changes: Vec<Change>,
    resource_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a transaction begins before the one before it was committed")]
    Nested,
    #[error("a chunk or commit comes without a transaction")]
    OutOfOrder,
    #[error("the transaction has {actual} changes or more, it said {declared}")]
    Count { declared: u64, actual: u64 },
    #[error("the transaction leads to revision {begin}, but revision {commit} is committed")]
    Revision { begin: u64, commit: u64 },
    #[error(transparent)]
    Chunk(#[from] frames::ChunkError),
    #[error("the transaction has {0} changes, at most {CHANGES_MAX} are taken")]
    TooMany(u64),
    #[error("the transaction's resources are larger than {TRANSACTION_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the store's id is longer than {STORE_ID_BYTES_MAX} bytes")]
    StoreId,
}

impl Receiver {
    pub(crate) fn begin(&mut self, begin: Begin) {
        *self = match std::mem::take(self) {
            Self::Idle if begin.changes > CHANGES_MAX => Self::Broken(Broken::TooMany(begin.changes)),
            Self::Idle if begin.store_id.len() > STORE_ID_BYTES_MAX => Self::Broken(Broken::StoreId),
            Self::Idle => Self::Collecting(Collecting { begin, changes: Vec::new(), resource_bytes: 0 }),
            _ => Self::Broken(Broken::Nested),
        };
    }

    pub(crate) fn chunk(&mut self, chunk: &Chunk) {
        *self = match std::mem::take(self) {
            Self::Idle => Self::Broken(Broken::OutOfOrder),
            Self::Collecting(mut collecting) => match collecting.add(chunk) {
                Ok(()) => Self::Collecting(collecting),
                Err(broken) => Self::Broken(broken),
            },
            broken @ Self::Broken(_) => broken,
        };
    }

    /// The whole transaction, or why there is none.
    pub(crate) fn commit(&mut self, commit: Commit) -> Result<Transaction, Refusal> {
        let revision = commit.revision;
        let whole = match std::mem::take(self) {
            Self::Idle => Err(Broken::OutOfOrder),
            Self::Collecting(collecting) => collecting.finish(commit),
            Self::Broken(broken) => Err(broken),
        };
        whole
            .map_err(|broken| Refusal::new(revision, fault::BROKEN_PUSH, &broken.to_string(), broken.resync_may_help()))
    }
}

impl Collecting {
    fn add(&mut self, chunk: &Chunk) -> Result<(), Broken> {
        let changes = frames::unpack(chunk)?;
        self.resource_bytes +=
            changes.iter().filter_map(|change| change.resource.as_ref()).map(bytes::Bytes::len).sum::<usize>();
        if self.resource_bytes > TRANSACTION_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        let actual = (self.changes.len() + changes.len()) as u64;
        if actual > self.begin.changes {
            return Err(Broken::Count { declared: self.begin.changes, actual });
        }
        self.changes.extend(changes);
        Ok(())
    }

    fn finish(self, commit: Commit) -> Result<Transaction, Broken> {
        let Self { begin, changes, .. } = self;
        if commit.revision != begin.to_revision {
            return Err(Broken::Revision { begin: begin.to_revision, commit: commit.revision });
        }
        if changes.len() as u64 != begin.changes {
            return Err(Broken::Count { declared: begin.changes, actual: changes.len() as u64 });
        }
        Ok(Transaction {
            store_id: begin.store_id,
            from_revision: begin.from_revision,
            to_revision: begin.to_revision,
            changes,
            checksum: commit.checksum,
        })
    }
}

impl Broken {
    /// What is too large is so the next time as well.
    fn resync_may_help(&self) -> bool {
        !matches!(self, Self::TooMany(_) | Self::TooLarge | Self::StoreId)
    }
}

impl Refusal {
    /// With one fault that is of the transaction, not of a resource.
    pub(crate) fn new(revision: u64, code: &str, message: &str, resync: bool) -> Self {
        let fault = wire::Fault { code: code.to_owned(), message: message.to_owned(), ..wire::Fault::default() };
        Self { revision, faults: vec![fault], resync }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::tests::route;

    fn begin(changes: u64) -> Begin {
        Begin { store_id: "store".to_owned(), from_revision: 4, to_revision: 5, changes }
    }

    fn commit() -> Commit {
        Commit { revision: 5, checksum: vec![1] }
    }

    fn chunk(names: &[&str]) -> Chunk {
        let changes: Vec<_> = names.iter().map(|name| route(name, 1)).collect();
        frames::pack(&changes).expect("packs").remove(0)
    }

    /// What the commit says after these steps, and that the receiver is ready for the next transaction after it.
    fn refusal(steps: impl FnOnce(&mut Receiver)) -> Refusal {
        let mut receiver = Receiver::default();
        steps(&mut receiver);
        let refusal = receiver.commit(commit()).expect_err("must be refused");
        receiver.begin(begin(0));
        receiver.commit(commit()).expect("the next one is whole");
        refusal
    }

    #[test]
    fn a_transaction_comes_out_as_it_was_sent() {
        let mut receiver = Receiver::default();
        receiver.begin(begin(3));
        receiver.chunk(&chunk(&["a", "b"]));
        receiver.chunk(&chunk(&["c"]));
        let transaction = receiver.commit(commit()).expect("is whole");
        assert_eq!((transaction.from_revision, transaction.to_revision), (4, 5));
        assert_eq!(transaction.changes, [route("a", 1), route("b", 1), route("c", 1)]);
        assert_eq!(transaction.checksum, [1]);
    }

    #[test]
    fn frames_out_of_order_ask_for_everything_anew() {
        assert!(refusal(|_| ()).resync, "commit alone");
        assert!(refusal(|receiver| receiver.chunk(&chunk(&["a"]))).resync, "chunk alone");
        let nested = refusal(|receiver| {
            receiver.begin(begin(1));
            receiver.begin(begin(1));
            receiver.chunk(&chunk(&["a"]));
        });
        assert!(nested.resync && nested.revision == 5);
        let other = refusal(|receiver| receiver.begin(Begin { to_revision: 6, ..begin(0) }));
        assert!(other.resync && other.faults[0].message.contains("revision 6"), "{other:?}");
    }

    #[test]
    fn more_or_fewer_changes_than_declared_are_refused() {
        let fewer = refusal(|receiver| {
            receiver.begin(begin(2));
            receiver.chunk(&chunk(&["a"]));
        });
        assert!(fewer.resync && fewer.faults[0].message.contains("it said 2"), "{fewer:?}");
        let more = refusal(|receiver| {
            receiver.begin(begin(1));
            receiver.chunk(&chunk(&["a", "b"]));
            assert!(matches!(receiver, Receiver::Broken(_)), "nothing is kept of a broken transaction");
            receiver.chunk(&chunk(&["c"]));
        });
        assert!(more.resync);
    }

    #[test]
    fn what_is_beyond_the_bounds_is_refused_without_being_asked_for_again() {
        let many = refusal(|receiver| receiver.begin(begin(CHANGES_MAX + 1)));
        assert!(!many.resync && many.faults[0].code == fault::BROKEN_PUSH, "{many:?}");
        let id = refusal(|receiver| receiver.begin(Begin { store_id: "x".repeat(257), ..begin(0) }));
        assert!(!id.resync);
    }

    #[test]
    fn garbage_in_a_chunk_is_refused() {
        let garbage = refusal(|receiver| {
            receiver.begin(begin(1));
            receiver.chunk(&Chunk { zstd: bytes::Bytes::from_static(b"garbage") });
        });
        assert!(garbage.resync && garbage.faults[0].message.contains("decompress"), "{garbage:?}");
    }
}
