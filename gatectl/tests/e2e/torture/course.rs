//! What was applied, what is served, what clients saw, and what was wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{sync::watch, time::Instant};

use super::rig::Rig;
use crate::harness::Response;

/// Faults beyond these are only counted.
const FAULTS_SHOWN: usize = 10;

/// What every run does.
const EVERYTHING: [&str; 9] = [
    "GETs",
    "POSTs",
    "answers by a plugin",
    "pipelined requests",
    "new connections",
    "downloads",
    "uploads",
    "WebSockets",
    "messages on WebSockets",
];

/// Shared by everyone who takes part.
#[derive(Debug)]
pub struct Course {
    end: Instant,
    /// The newest configuration that may be served: its apply has begun.
    sent: AtomicU64,
    /// The oldest that may be: every proxy has acknowledged it.
    served: AtomicU64,
    /// The newest that the control plane has acknowledged, with its revision.
    pub applied: watch::Sender<(u64, u64)>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    counts: BTreeMap<&'static str, u64>,
    seen: BTreeSet<u64>,
    faults: Vec<String>,
    fault_count: u64,
}

impl Course {
    /// Configuration 1 is served.
    pub fn new(end: Instant) -> Self {
        Self {
            end,
            sent: AtomicU64::new(1),
            served: AtomicU64::new(1),
            applied: watch::Sender::new((1, 1)),
            notes: Mutex::default(),
        }
    }

    /// Whether clients are to finish what they are at, and end.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    pub fn sending(&self, number: u64) {
        self.sent.store(number, SeqCst);
    }

    pub fn serving(&self, number: u64) {
        self.served.fetch_max(number, SeqCst);
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    pub fn served(&self) -> u64 {
        self.served.load(SeqCst)
    }

    pub fn count(&self, what: &'static str) {
        *self.notes().counts.entry(what).or_default() += 1;
    }

    pub fn fault(&self, fault: String) {
        let mut notes = self.notes();
        notes.fault_count += 1;
        if notes.faults.len() < FAULTS_SHOWN {
            notes.faults.push(fault);
        }
    }

    /// Notes a number that was seen; a fault if it is older than what was acknowledged before the request (`floor`), or
    /// newer than anything that was sent.
    pub fn saw(&self, what: &str, number: u64, floor: u64) {
        let possible: RangeInclusive<u64> = floor..=self.sent();
        if !possible.contains(&number) {
            self.fault(format!("{what}: answered by configuration {number}, not one of {possible:?}"));
        }
        self.notes().seen.insert(number);
    }

    /// Judges an answer. `body` makes what it should be of the number in its header. Returns the number.
    pub fn judge(
        &self,
        what: &'static str,
        answer: Option<&Response>,
        floor: u64,
        body: impl Fn(u64) -> String,
    ) -> Option<u64> {
        self.count(what);
        let Some(answer) = answer else {
            self.fault(format!("{what}: the connection ended before the answer"));
            return None;
        };
        let number = answer.header("x-answered-by").and_then(|number| number.parse().ok());
        let (200, Some(number)) = (answer.status, number) else {
            self.fault(format!("{what}: {answer:?} {:?}", answer.text()));
            return None;
        };
        if answer.text() != body(number) {
            self.fault(format!("{what}: {:?} instead of {:?}", answer.text(), body(number)));
        }
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.fault(format!("{what}: the connection closes: {answer:?}"));
        }
        self.saw(what, number, floor);
        Some(number)
    }

    /// Panics if anything was wrong, or if too little was done to tell; `more` is what this run does beyond what all do.
    pub fn check(&self, more: &[&str]) {
        let notes = self.notes();
        assert_eq!(notes.fault_count, 0, "{} faults, of them: {:#?}", notes.fault_count, notes.faults);
        assert!(notes.seen.len() > 10, "only {} configurations were seen", notes.seen.len());
        for what in EVERYTHING.iter().chain(more) {
            assert!(notes.counts.get(what).is_some_and(|count| *count > 1), "too few {what}: {:?}", notes.counts);
        }
    }

    /// Says what was done.
    pub fn report(&self, rig: &Rig, warm: &[u64], late: &[u64]) {
        let notes = self.notes();
        println!("applied {} configurations, {} of them were seen", self.sent(), notes.seen.len());
        for (what, count) in &notes.counts {
            println!("{count:>9} {what}");
        }
        for ((name, warm), late) in rig.names().iter().zip(warm).zip(late) {
            println!("{name}: {warm} KiB after the warm-up, {late} KiB at the end");
        }
        println!("{} faults", notes.fault_count);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
