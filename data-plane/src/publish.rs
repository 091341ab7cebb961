//! Makes a compiled snapshot the one that serves: binds what it adds, swaps, unbinds what it dropped.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustygate_proto::v1 as wire;
use tokio::sync::Mutex;

use crate::{
    listener,
    resolve::Resolver,
    snapshot::{DEFAULT_LISTENER, Snapshot, SnapshotCell, fault},
    threads::{Terms, Threads},
};

/// Publishes snapshots to the workers.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<SnapshotCell>,
    default_listen: SocketAddr,
    threads: Arc<Threads>,
    resolver: Arc<Resolver>,
    /// By the address as configured. Locked for the whole of a publication: they come one after another.
    bound: Mutex<BTreeMap<SocketAddr, Bound>>,
    /// Set under the lock of `bound`, for good: there are no listeners any more, and there will be none.
    draining: AtomicBool,
    /// What [`Publisher::listeners`] tells.
    addresses: RwLock<Vec<(String, SocketAddr)>>,
}

/// A listener that the workers accept on.
#[derive(Clone, Debug)]
struct Bound {
    key: u64,
    terms: Terms,
    /// As it is: the configured port may be 0.
    address: SocketAddr,
}

impl Publisher {
    /// Publishes into `cell`, for these workers; listens on `default_listen` while a snapshot has no listeners. The
    /// `resolver` learns of new names before their snapshot is served.
    #[must_use]
    pub fn new(
        cell: Arc<SnapshotCell>,
        default_listen: SocketAddr,
        threads: Arc<Threads>,
        resolver: Arc<Resolver>,
    ) -> Self {
        Self {
            cell,
            default_listen,
            threads,
            resolver,
            bound: Mutex::default(),
            draining: AtomicBool::new(false),
            addresses: RwLock::default(),
        }
    }

    /// Publishes for no workers.
    #[cfg(test)]
    pub fn for_cell(cell: Arc<SnapshotCell>) -> Self {
        Self::new(cell, SocketAddr::from(([127, 0, 0, 1], 0)), Arc::new(Threads::none()), Resolver::for_test())
    }

    /// Where the present snapshot is.
    #[must_use]
    pub fn cell(&self) -> &Arc<SnapshotCell> {
        &self.cell
    }

    /// What is listened on now, by name.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when every worker accepts on the snapshot's listeners and new requests are matched against it.
    ///
    /// # Errors
    /// A fault for each listener that cannot be bound; the old snapshot keeps serving, on its listeners.
    pub async fn publish(&self, snapshot: Snapshot) -> Result<(), Vec<wire::Fault>> {
        let mut bound = self.bound.lock().await;
        let wanted = self.wanted(&snapshot);
        let mut next = BTreeMap::new();
        let mut added = Vec::new();
        let mut faults = Vec::new();
        let mut key = bound.values().map(|bound| bound.key + 1).max().unwrap_or(0);
        for terms in wanted {
            let configured = terms.address;
            if let Some(known) = bound.get(&configured) {
                next.insert(configured, Bound { terms, ..known.clone() });
                continue;
            }
            // Of another address of the same port we may be the one who has it.
            let ours = bound.values().any(|bound| bound.address.port() == configured.port());
            match listener::bind(configured, self.threads.len(), ours) {
                Ok((address, sockets)) => {
                    let new = Bound { key, terms, address };
                    next.insert(configured, new.clone());
                    added.push((new, sockets));
                    key += 1;
                }
                Err(error) => faults.push(cannot_bind(&terms.name, configured, &error)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        self.resolver.prepare(snapshot.new_names()).await;
        let old = self.cell.swap(Arc::new(snapshot));
        for kept in next.values() {
            // The socket stays, and so do its connections: those to come find what is new.
            if bound.values().any(|before| before.key == kept.key && before.terms != kept.terms) {
                self.threads.change(kept.key, &kept.terms).await;
            }
        }
        for (new, sockets) in added {
            self.threads.listen(new.key, &new.terms, sockets).await;
        }
        for (configured, dropped) in bound.iter() {
            if !next.contains_key(configured) {
                self.threads.unlisten(dropped.key).await;
            }
        }
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) =
            next.values().map(|bound| (bound.terms.name.to_string(), bound.address)).collect();
        *bound = next;
        // Freeing a large snapshot takes a while; the request threads have no part in it.
        tokio::task::spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Accepts no more, whatever is published from now on, and lets connections end.
    pub async fn drain(&self) {
        let mut bound = self.bound.lock().await;
        self.draining.store(true, Relaxed);
        bound.clear();
        self.threads.drain();
    }

    fn wanted(&self, snapshot: &Snapshot) -> Vec<Terms> {
        if self.draining.load(Relaxed) {
            return Vec::new();
        }
        if snapshot.listeners.is_empty() {
            return vec![Terms {
                name: DEFAULT_LISTENER.into(),
                address: self.default_listen,
                tls: None,
                guarded: false,
            }];
        }
        let listeners = snapshot.listeners.iter();
        let wanted = listeners.map(|listener| Terms {
            name: Arc::clone(&listener.name),
            address: listener.address,
            tls: listener.tls.clone(),
            guarded: !listener.plugins.is_empty(),
        });
        wanted.collect()
    }
}

fn cannot_bind(name: &str, address: SocketAddr, error: &std::io::Error) -> wire::Fault {
    wire::Fault {
        code: fault::CANNOT_BIND.into(),
        kind: wire::Kind::Listener.into(),
        name: name.into(),
        field: "address".into(),
        message: format!("cannot listen on {address}: {error}"),
        hint: "is the port taken by another process, or reserved for root?".into(),
        location: None,
    }
}

#[cfg(test)]
mod tests;
