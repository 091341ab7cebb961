//! Checks passwords beside the requests: on blocking threads, a few at a time, with a bounded queue before them.
//!
//! A check costs milliseconds of CPU and megabytes of memory, so a worker must not make it, and clients must not be able to
//! make many happen at once. What came out is remembered, right or wrong, under a hash of the password, the user name and the
//! stored hash, keyed with random bytes of this process. So an answer is a pure function of what it is remembered by: it
//! never goes stale, nothing has to be forgotten when a consumer changes (its new hash makes new entries), and who is removed
//! is not found in the snapshot in the first place. Passwords themselves are not kept.
//!
//! Wrong answers have a memory of their own: a client that tries many cannot push the right ones out.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;

use super::PasswordHash;

/// How many right passwords are remembered.
pub const RIGHT_MAX: usize = 65_536;

/// How many wrong ones.
pub const WRONG_MAX: usize = 16_384;

/// How many checks wait for their turn at most.
pub const WAITING_MAX: usize = 1_024;

/// How long one waits at most.
pub const WAIT_MAX: Duration = Duration::from_secs(2);

/// Locks of each memory; each is held for one look-up.
const SHARDS: usize = 16;

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the password.
    Right,
    /// It is not.
    Wrong,
    /// There is too much to check; nothing is known of this one.
    Busy,
}

/// What all workers of a process check passwords with.
pub struct Verifier {
    /// Without random bytes nothing is remembered.
    key: Option<[u8; 32]>,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    right: Memory,
    wrong: Memory,
}

/// Nothing of what it remembers.
impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.load(Ordering::Relaxed);
        formatter.debug_struct("Verifier").field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Verifier {
    /// One that checks so many at once, at least one. Half of the cores is a good number: it leaves the rest to requests.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let mut key = [0; 32];
        let is_random = SystemRandom::new().fill(&mut key).is_ok();
        Self {
            key: is_random.then_some(key),
            slots: Arc::new(Semaphore::new(at_once.max(1))),
            waiting: AtomicUsize::new(0),
            right: Memory::new(RIGHT_MAX),
            wrong: Memory::new(WRONG_MAX),
        }
    }

    /// What is known already. Costs a hash.
    #[must_use]
    pub fn recall(&self, hash: &PasswordHash, username: &str, password: &[u8]) -> Option<bool> {
        self.known(self.entry(hash, username, password)?)
    }

    /// Whether this is the password, checked if it is not known.
    pub async fn check(self: &Arc<Self>, hash: Arc<PasswordHash>, username: &str, password: &[u8]) -> Verdict {
        let entry = self.entry(&hash, username, password);
        if let Some(known) = entry.and_then(|entry| self.known(entry)) {
            return verdict(known);
        }
        let permit = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let Some(_turn) = Turn::take(&self.waiting) else { return Verdict::Busy };
                let turn = tokio::time::timeout(WAIT_MAX, Arc::clone(&self.slots).acquire_owned()).await;
                let Ok(Ok(permit)) = turn else { return Verdict::Busy };
                // Whoever was before may have asked the same.
                if let Some(known) = entry.and_then(|entry| self.known(entry)) {
                    return verdict(known);
                }
                permit
            }
        };
        let (this, password) = (Arc::clone(self), password.to_vec());
        let checked = tokio::task::spawn_blocking(move || {
            let is_right = hash.is_of(&password);
            // Even if whoever asked is gone by now.
            if let Some(entry) = entry {
                (if is_right { &this.right } else { &this.wrong }).insert(entry);
            }
            // Only now, so that no more run than may, even if whoever asked is gone.
            drop(permit);
            is_right
        });
        checked.await.map_or(Verdict::Busy, verdict)
    }

    fn known(&self, entry: Entry) -> Option<bool> {
        if self.right.contains(entry) {
            return Some(true);
        }
        self.wrong.contains(entry).then_some(false)
    }

    fn entry(&self, hash: &PasswordHash, username: &str, password: &[u8]) -> Option<Entry> {
        let mut hasher = blake3::Hasher::new_keyed(self.key.as_ref()?);
        hash.absorb(&mut hasher);
        for part in [username.as_bytes(), password] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let mut entry = [0; 16];
        hasher.finalize_xof().fill(&mut entry);
        Some(entry)
    }
}

fn verdict(is_right: bool) -> Verdict {
    if is_right { Verdict::Right } else { Verdict::Wrong }
}

/// One that waits. Also stops to when its request is dropped.
struct Turn<'v>(&'v AtomicUsize);

impl<'v> Turn<'v> {
    fn take(waiting: &'v AtomicUsize) -> Option<Self> {
        let turn = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Entry = [u8; 16];

/// A set that forgets what was not asked for in a while: when a generation is full, the one before it goes.
struct Memory {
    shards: [Mutex<Generations>; SHARDS],
    /// Entries of one generation of one shard.
    most: usize,
}

#[derive(Default)]
struct Generations {
    new: HashSet<Entry>,
    old: HashSet<Entry>,
}

impl Memory {
    fn new(most: usize) -> Self {
        Self { shards: Default::default(), most: (most / SHARDS / 2).max(1) }
    }

    fn shard(&self, entry: Entry) -> std::sync::MutexGuard<'_, Generations> {
        let shard = &self.shards[usize::from(entry[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, entry: Entry) -> bool {
        let mut shard = self.shard(entry);
        if shard.new.contains(&entry) {
            return true;
        }
        let is_old = shard.old.contains(&entry);
        if is_old {
            shard.insert(entry, self.most);
        }
        is_old
    }

    fn insert(&self, entry: Entry) {
        self.shard(entry).insert(entry, self.most);
    }
}

impl Generations {
    fn insert(&mut self, entry: Entry, most: usize) {
        if self.new.len() >= most {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Costs microseconds.
    fn cheap(password: &[u8]) -> Arc<PasswordHash> {
        let blank = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA";
        Arc::new(PasswordHash::parse(blank).expect("a hash").with_output_of(password))
    }

    fn entry(number: u32) -> Entry {
        let mut entry = [0; 16];
        entry[..4].copy_from_slice(&number.to_le_bytes());
        entry
    }

    #[tokio::test]
    async fn an_answer_is_remembered_for_exactly_what_was_asked() {
        let verifier = Arc::new(Verifier::new(1));
        let hash = cheap(b"open sesame");
        assert_eq!(verifier.recall(&hash, "ann", b"open sesame"), None);
        assert_eq!(verifier.check(Arc::clone(&hash), "ann", b"open sesame").await, Verdict::Right);
        assert_eq!(verifier.check(Arc::clone(&hash), "ann", b"open barley").await, Verdict::Wrong);
        assert_eq!(verifier.recall(&hash, "ann", b"open sesame"), Some(true));
        assert_eq!(verifier.recall(&hash, "ann", b"open barley"), Some(false));
        assert_eq!(verifier.recall(&hash, "anno", b"pen sesame"), None, "where one ends counts");
        assert_eq!(
            verifier.recall(&cheap(b"open barley"), "ann", b"open sesame"),
            None,
            "another hash, another question"
        );
        let other = Verifier::new(1);
        assert_ne!(other.entry(&hash, "ann", b"x"), verifier.entry(&hash, "ann", b"x"), "each process has its key");
    }

    #[tokio::test]
    async fn no_more_are_checked_at_once_and_no_more_wait_than_may() {
        let verifier = Arc::new(Verifier::new(1));
        let hash = cheap(b"open sesame");
        let running = Arc::clone(&verifier.slots).acquire_owned().await.expect("a slot");
        verifier.waiting.store(WAITING_MAX, Ordering::Relaxed);
        assert_eq!(verifier.check(Arc::clone(&hash), "ann", b"open sesame").await, Verdict::Busy);
        assert_eq!(verifier.waiting.load(Ordering::Relaxed), WAITING_MAX, "who was turned away does not count");
        verifier.waiting.store(0, Ordering::Relaxed);
        let asked = tokio::spawn({
            let (verifier, hash) = (Arc::clone(&verifier), Arc::clone(&hash));
            async move { verifier.check(hash, "ann", b"open sesame").await }
        });
        while verifier.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        drop(running);
        assert_eq!(asked.await.expect("no panic"), Verdict::Right);
        assert_eq!(verifier.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_who_leaves_gives_up_the_turn() {
        let verifier = Arc::new(Verifier::new(1));
        let hash = cheap(b"open sesame");
        let _running = Arc::clone(&verifier.slots).acquire_owned().await.expect("a slot");
        assert_eq!(verifier.check(Arc::clone(&hash), "ann", b"open sesame").await, Verdict::Busy);
        let leaving = tokio::time::timeout(WAIT_MAX / 2, verifier.check(hash, "ann", b"open sesame")).await;
        assert!(leaving.is_err());
        assert_eq!(verifier.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_memory_is_bounded_and_keeps_what_is_asked_for() {
        let memory = Memory::new(SHARDS * 2 * 100);
        let kept = entry(0);
        memory.insert(kept);
        for number in 1..100_000 {
            memory.insert(entry(number));
            assert!(number % 50 > 0 || memory.contains(kept), "{number}");
        }
        let sizes = memory.shards.iter().map(|shard| {
            let shard = shard.lock().expect("no panic");
            shard.new.len() + shard.old.len()
        });
        assert!(sizes.sum::<usize>() <= SHARDS * 2 * 100);
        assert!(!memory.contains(entry(1)));
    }
}
