//! Session tickets: what lets a client come back without a whole handshake.
//!
//! One set of keys lives as long as the process and goes from snapshot to snapshot, so that a push costs no client its
//! session. A ticket is bound to the terms on which certificates of clients are asked for: one from a listener that
//! asks for none, or trusts others, opens nothing at a listener that does. (A resumed session brings its client's
//! identity along without a new proof, so without that bond a client could get round the demand.)

use std::{fmt, sync::Arc};

use rustls::{crypto::ring::Ticketer, server::ProducesTickets};

use crate::snapshot::Id;

/// The keys of tickets. They are random, change every 6 hours, and are good for 12.
#[derive(Clone, Debug)]
pub struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Tickets {
    /// New keys. If the system gives no random numbers there are no tickets, and every handshake is a whole one.
    #[must_use]
    pub fn new() -> Self {
        Self(Ticketer::new().ok())
    }

    /// Tickets that are worth nothing under other terms.
    #[must_use]
    pub(super) fn bound_to(&self, terms: Id) -> Option<Arc<dyn ProducesTickets>> {
        let keys = self.0.clone()?;
        Some(Arc::new(Bound { keys, terms: terms.0.to_le_bytes() }))
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

struct Bound {
    keys: Arc<dyn ProducesTickets>,
    terms: [u8; 8],
}

impl fmt::Debug for Bound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(&[&self.terms, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let mut plain = self.keys.decrypt(cipher)?;
        plain.starts_with(&self.terms).then(|| plain.split_off(self.terms.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_worth_nothing_under_other_terms() {
        let tickets = Tickets::new();
        let bound = |terms| tickets.bound_to(Id(terms)).expect("random numbers");
        let ticket = bound(1).encrypt(b"session").expect("a ticket");
        assert_eq!(bound(1).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(bound(2).decrypt(&ticket), None);
        assert_eq!(Tickets::new().bound_to(Id(1)).expect("random numbers").decrypt(&ticket), None);
        assert_eq!(bound(1).decrypt(b"x"), None);
    }
}
