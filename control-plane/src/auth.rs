//! Who may do what: bearer tokens, and the gate before every service.
//!
//! A token is 256 random bits, so its plain BLAKE3 hash cannot be guessed back, and finding it by that hash tells
//! nothing through time. Tokens in force are held in memory; one made by another process is found in the store when it
//! is first used. Revoking cancels: streams opened with the token end at once.

mod gate;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use rustygate_proto::v1::{self as wire, Role};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::gate::{Access, Gate, access};
use crate::{
    apply::now_ms,
    store::{
        Store, StoreError,
        tokens::{Inserted, TOKENS_MAX, TokenRow},
    },
};

const PREFIX: &str = "rgt_";
const SECRET_BYTES: usize = 32;
const NAME_BYTES_MAX: usize = 128;

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not fit to be shown in logs and lists.
    #[error("a token's name has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    BadName,
    /// Nothing it could do.
    #[error("a token needs a role: proxy, viewer, editor or admin")]
    NoRole,
    /// Names tell tokens apart.
    #[error("a token named {0:?} is in force: revoke it first, or choose another name")]
    NameTaken(String),
    /// Someone makes tokens in a loop.
    #[error("{TOKENS_MAX} tokens are in force, the most there may be: revoke those that are not used")]
    TooMany,
    /// Nothing to revoke.
    #[error("no token named {0:?} is in force")]
    NoSuchToken(String),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A token in force.
#[derive(Debug)]
pub struct Holder {
    /// Its name: the author of what is done with it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Cancelled when the token is revoked, or the process stops.
    pub revoked: CancellationToken,
}

/// Who makes a call; the gate puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Other end of the connection.
    pub peer: Option<SocketAddr>,
    /// Breaks the connection.
    pub cut: CancellationToken,
    /// The token; `None` if none is required.
    pub holder: Option<Arc<Holder>>,
}

impl Caller {
    /// Of a request that came through the gate.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let nobody = || Self { peer: None, cut: CancellationToken::new(), holder: None };
        request.extensions().get::<Self>().cloned().unwrap_or_else(nobody)
    }

    /// The token's name.
    #[must_use]
    pub fn token_name(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| holder.name.as_str())
    }
}

/// The tokens in force.
#[derive(Debug)]
pub struct Tokens {
    store: Arc<Store>,
    in_force: RwLock<HashMap<[u8; 32], Arc<Holder>>>,
    /// Held from reading the store to changing `in_force`, so that no token comes back after it was revoked.
    changing: Mutex<()>,
    stop: CancellationToken,
}

impl Tokens {
    /// Reads those of a store; `stop` ends every stream.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn load(store: Arc<Store>, stop: CancellationToken) -> Result<Self, StoreError> {
        let tokens = Self { store, in_force: RwLock::default(), changing: Mutex::default(), stop };
        for row in tokens.store.tokens().await? {
            if row.token.revoked_unix_ms == 0 {
                tokens.admit(&row);
            }
        }
        Ok(tokens)
    }

    /// The token in force that has this secret.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn find(&self, secret: &str) -> Result<Option<Arc<Holder>>, StoreError> {
        let Some(hash) = hash_of(secret) else { return Ok(None) };
        if let Some(holder) = self.known(&hash) {
            return Ok(Some(holder));
        }
        let _changing = self.changing.lock().await;
        Ok(self.store.token(&hash).await?.map(|row| self.admit(&row)))
    }

    /// Makes a token; the secret is returned and kept nowhere.
    ///
    /// # Errors
    /// [`TokenError`]
    pub async fn create(&self, name: &str, role: Role) -> Result<(String, wire::Token), TokenError> {
        let (secret, row) = new_token(name, role)?;
        let _changing = self.changing.lock().await;
        inserted(self.store.insert_token(&row).await?, name)?;
        self.admit(&row);
        tracing::info!(name, role = role.as_str_name(), "token created");
        Ok((secret, row.token))
    }

    /// Revokes a token; its streams end.
    ///
    /// # Errors
    /// [`TokenError`]
    pub async fn revoke(&self, name: &str) -> Result<wire::Token, TokenError> {
        let _changing = self.changing.lock().await;
        let row = self.store.revoke_token(name, now_ms()).await?;
        let row = row.ok_or_else(|| TokenError::NoSuchToken(name.to_owned()))?;
        let holder = self.in_force.write().unwrap_or_else(PoisonError::into_inner).remove(&row.hash);
        if let Some(holder) = holder {
            holder.revoked.cancel();
        }
        tracing::info!(name, "token revoked");
        Ok(row.token)
    }

    /// Every token, the revoked ones last.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(&self) -> Result<Vec<wire::Token>, StoreError> {
        Ok(self.store.tokens().await?.into_iter().map(|row| row.token).collect())
    }

    fn known(&self, hash: &[u8; 32]) -> Option<Arc<Holder>> {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    fn admit(&self, row: &TokenRow) -> Arc<Holder> {
        let holder = || {
            let revoked = self.stop.child_token();
            Arc::new(Holder { name: row.token.name.clone(), role: row.token.role(), revoked })
        };
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        in_force.entry(row.hash).or_insert_with(holder).clone()
    }
}

/// Makes a token in the file of a control plane that may not be running: how the first one comes to be.
///
/// # Errors
/// [`TokenError`]
pub async fn create_offline(database: &std::path::Path, name: &str, role: Role) -> Result<String, TokenError> {
    let (secret, row) = new_token(name, role)?;
    inserted(Store::insert_token_offline(database, &row).await?, name)?;
    Ok(secret)
}

fn new_token(name: &str, role: Role) -> Result<(String, TokenRow), TokenError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(TokenError::BadName);
    }
    if role == Role::Unspecified {
        return Err(TokenError::NoRole);
    }
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    let secret: String =
        [PREFIX.to_owned()].into_iter().chain(bytes.iter().map(|byte| format!("{byte:02x}"))).collect();
    let hash = *blake3::hash(secret.as_bytes()).as_bytes();
    let token = wire::Token { name: name.to_owned(), role: role.into(), created_unix_ms: now_ms(), revoked_unix_ms: 0 };
    Ok((secret, TokenRow { hash, token }))
}

fn inserted(inserted: Inserted, name: &str) -> Result<(), TokenError> {
    match inserted {
        Inserted::Yes => Ok(()),
        Inserted::NameTaken => Err(TokenError::NameTaken(name.to_owned())),
        Inserted::TooMany => Err(TokenError::TooMany),
    }
}

/// `None` for what cannot be a secret: then nobody need be asked.
fn hash_of(secret: &str) -> Option<[u8; 32]> {
    let hex = secret.strip_prefix(PREFIX)?;
    let well_formed = hex.len() == 2 * SECRET_BYTES && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed.then(|| *blake3::hash(secret.as_bytes()).as_bytes())
}
