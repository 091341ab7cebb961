//! The store: one SQLite file, and the only SQL there is.
//!
//! One connection writes, always in `begin immediate`; a few read. The journal is a WAL with `synchronous=full`, so
//! a change that was acknowledged survives the process and the machine. The file is locked for as long as the store
//! is open, since two control planes on it would publish different things under the same revision.

pub mod history;
pub mod tokens;

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustygate_proto::{
    checksum::{Checksum, ContentHash},
    v1::{self as wire, Kind},
};
use sqlx::{
    Connection as _, QueryBuilder, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

use crate::{
    secrets::Secrets,
    snapshot::{Set, Stored},
};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

const READERS: u32 = 4;
/// What a big import leaves of the journal.
const JOURNAL_BYTES_MAX: &str = "67108864";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows per statement: far below SQLite's bound on parameters, enough to make the cost of a statement vanish.
const ROWS_PER_STATEMENT: usize = 500;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another control plane has the file.
    #[error(
        "another control plane is running on {}: stop it, or give this one its own file with --database",
        .0.display()
    )]
    Locked(PathBuf),
    /// Made by a later version of this program.
    #[error(
        "{} was written by a newer version of RustyGate (schema {schema}): run that version, or restore a backup",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The first migration that this program does not know.
        schema: i64,
    },
    /// What is read is not what was written.
    #[error("the database is damaged: {0}; restore a backup")]
    Damaged(String),
    /// The file or its lock cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tables could not be brought up to date.
    #[error("cannot bring the database's tables up to date: {0}")]
    Migrate(MigrateError),
    /// The process is stopping.
    #[error("the database is closed: the control plane is stopping")]
    Closed,
    /// There is no key, or the system gives no random numbers.
    #[error("the secret of {kind} {name:?} cannot be sealed")]
    Seal {
        /// Of the resource.
        kind: &'static str,
        /// Of the resource.
        name: String,
    },
    /// There are secrets in it, and no key to them.
    #[error(
        "{} has secrets in it, and there is no key to them: give the one they were stored with, by --secrets-key-file or \
         RUSTYGATE_SECRETS_KEY (a key that was made without asking is in {}.key)",
        .0.display(), .0.display()
    )]
    NoSecretsKey(PathBuf),
    /// There are secrets in it, and this is not the key to them.
    #[error(
        "the secrets key is not the one that the secrets in {} were stored with: give that one, by --secrets-key-file or \
         RUSTYGATE_SECRETS_KEY",
        .0.display()
    )]
    WrongSecretsKey(PathBuf),
    /// SQLite said no.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// Which store this is.
    pub id: Arc<str>,
    path: PathBuf,
    /// `None` once the store is closed.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    lock: File,
    secrets: Secrets,
}

/// What a store holds at its head.
#[derive(Debug)]
pub struct Loaded {
    /// The newest revision; number 0 if there is none.
    pub revision: wire::Revision,
    /// The live resources.
    pub set: Set,
    /// The highest id of a resource row.
    pub last_row: i64,
}

/// One transaction.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The new revision.
    pub revision: &'a wire::Revision,
    /// Of the whole set at it.
    pub checksum: Checksum,
    /// Rows that are no longer live.
    pub closed: Vec<i64>,
    /// Rows that are new.
    pub added: &'a [Arc<Stored>],
}

impl Store {
    /// Opens the file, or makes it, and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError`]; says what to do.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let mut writer = SqliteConnection::connect_with(&options(path).create_if_missing(true)).await?;
        migrate(path, &mut writer).await?;
        sqlx::query("insert or ignore into store_meta (id, store_id) values (1, ?)")
            .bind(random_id().map_err(|source| StoreError::Open { path: path.to_owned(), source })?)
            .execute(&mut writer)
            .await?;
        let id: String = sqlx::query_scalar("select store_id from store_meta").fetch_one(&mut writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options(path).read_only(true)).await?;
        let (path, writer, secrets) = (path.to_owned(), Mutex::new(Some(writer)), Secrets::default());
        Ok(Self { id: id.into(), path, writer, readers, lock, secrets })
    }

    /// The store with the key to its secrets; without, it neither takes nor gives any.
    ///
    /// # Errors
    /// [`StoreError::NoSecretsKey`] or [`StoreError::WrongSecretsKey`] if there are secrets that it cannot open.
    pub async fn with_secrets(self, secrets: Secrets) -> Result<Self, StoreError> {
        let proof: Option<Vec<u8>> =
            sqlx::query_scalar("select secrets_proof from store_meta").fetch_one(&self.readers).await?;
        match proof {
            Some(_) if !secrets.has_key() => Err(StoreError::NoSecretsKey(self.path)),
            Some(proof) if !secrets.made(&proof) => Err(StoreError::WrongSecretsKey(self.path)),
            _ => Ok(Self { secrets, ..self }),
        }
    }

    /// Whether a secret was ever stored.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn has_secrets(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("select secrets_proof is not null from store_meta").fetch_one(&self.readers).await?)
    }

    /// Seals what is stored.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything that is live, checked against its hashes and the head's checksum.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was written.
    pub async fn load(&self) -> Result<Loaded, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let head = history::head(&mut transaction).await?;
        let rows: Vec<ResourceRow> = sqlx::query_as(history::LIVE_RESOURCES).fetch_all(&mut *transaction).await?;
        let last_row: Option<i64> =
            sqlx::query_scalar("select max(id) from resource").fetch_one(&mut *transaction).await?;
        transaction.rollback().await?;
        let set = rows.into_iter().map(|row| stored(row, &self.secrets)).collect::<Result<Set, _>>()?;
        let (revision, checksum) = head.unwrap_or_default();
        if set.checksum().to_bytes().as_slice() != checksum && revision.revision > 0 {
            return Err(StoreError::Damaged(format!("the content of revision {} is not whole", revision.revision)));
        }
        Ok(Loaded { revision, set, last_row: last_row.unwrap_or_default() })
    }

    /// Writes one revision, whole or not at all.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was written.
    pub async fn commit(&self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let writer = writer.as_mut().ok_or(StoreError::Closed)?;
        match write(writer, commit, &self.secrets).await {
            Ok(()) => Ok(()),
            // Whether a failed commit took place is only known by looking.
            Err(error) => match history::head(writer).await? {
                Some((revision, checksum))
                    if revision == *commit.revision && checksum == commit.checksum.to_bytes() =>
                {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Writes what is in the journal into the file, closes it, and lets another control plane have it.
    pub async fn close(&self) {
        self.readers.close().await;
        if let Some(writer) = self.writer.lock().await.take()
            && let Err(error) = writer.close().await
        {
            tracing::warn!(%error, "the database was not closed cleanly; nothing is lost");
        }
        // The lock also goes with the process.
        let _ = self.lock.unlock();
    }
}

async fn write(writer: &mut SqliteConnection, commit: &Commit<'_>, secrets: &Secrets) -> Result<(), StoreError> {
    let mut transaction = writer.begin_with("begin immediate").await?;
    let revision = commit.revision;
    sqlx::query(
        "insert into revision (revision, created_ms, author, owner, message, created, updated, deleted, rollback_of, \
         checksum) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(revision.revision.cast_signed())
    .bind(revision.created_unix_ms.cast_signed())
    .bind(&revision.author)
    .bind(&revision.owner)
    .bind(&revision.message)
    .bind(revision.created.cast_signed())
    .bind(revision.updated.cast_signed())
    .bind(revision.deleted.cast_signed())
    .bind(revision.rollback_of.cast_signed())
    .bind(commit.checksum.to_bytes().to_vec())
    .execute(&mut *transaction)
    .await?;
    for rows in commit.closed.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::new("update resource set to_revision = ");
        query.push_bind(revision.revision.cast_signed()).push(" where to_revision is null and id in (");
        let mut ids = query.separated(", ");
        for row in rows {
            ids.push_bind(row);
        }
        query.push(")");
        let closed = query.build().execute(&mut *transaction).await?.rows_affected();
        if closed != rows.len() as u64 {
            return Err(StoreError::Damaged(format!("{} live resources are gone", rows.len() as u64 - closed)));
        }
    }
    let mut sealed = std::collections::HashMap::new();
    for stored in commit.added {
        let cannot = |_| StoreError::Seal { kind: stored.kind.noun(), name: stored.name.to_string() };
        if let Some(body) = secrets.seal(stored.kind, &stored.name, &stored.body).map_err(cannot)? {
            sealed.insert(stored.row, body);
        }
    }
    if !sealed.is_empty() {
        let proof = secrets.proof().map_err(|_| StoreError::Damaged("a secret without a key".to_owned()))?;
        sqlx::query("update store_meta set secrets_proof = ? where secrets_proof is null")
            .bind(proof)
            .execute(&mut *transaction)
            .await?;
    }
    for rows in commit.added.chunks(ROWS_PER_STATEMENT) {
        let mut query =
            QueryBuilder::new("insert into resource (id, kind, name, owner, from_revision, content_hash, body) ");
        query.push_values(rows, |mut values, stored| {
            values
                .push_bind(stored.row)
                .push_bind(stored.kind as i32)
                .push_bind(stored.name.as_ref())
                .push_bind(stored.owner.as_ref())
                .push_bind(stored.revision.cast_signed())
                .push_bind(stored.hash.as_bytes().as_slice())
                .push_bind(sealed.get(&stored.row).map_or(stored.body.as_ref(), Vec::as_slice));
        });
        query.build().execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Holds the lock while the file is open. It is its own file, since SQLite's locks on the database are not for the
/// life of a process.
fn lock(path: &Path) -> Result<File, StoreError> {
    let open_error = |source| StoreError::Open { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(name).map_err(open_error)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(open_error(source)),
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("journal_size_limit", JOURNAL_BYTES_MAX)
}

async fn migrate(path: &Path, writer: &mut SqliteConnection) -> Result<(), StoreError> {
    MIGRATIONS.run(writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(schema) => StoreError::Newer { path: path.to_owned(), schema },
        other => StoreError::Migrate(other),
    })
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Id, kind, name, owner, revision, hash, body.
type ResourceRow = (i64, i32, String, String, i64, Vec<u8>, Vec<u8>);

fn stored(
    (row, kind, name, owner, revision, hash, body): ResourceRow,
    secrets: &Secrets,
) -> Result<Stored, StoreError> {
    let kind = Kind::try_from(kind).map_err(|_| StoreError::Damaged(format!("resource {row} has kind {kind}")))?;
    let opened = secrets.open(kind, &name, &body);
    let opened =
        opened.map_err(|error| StoreError::Damaged(format!("the secret of {} {name:?}: {error}", kind.noun())))?;
    let body = opened.unwrap_or(body);
    let computed = ContentHash::of(kind, &name, &body);
    if computed.as_bytes().as_slice() != hash {
        return Err(StoreError::Damaged(format!("{} {name:?} is not what was stored", kind.noun())));
    }
    Ok(Stored {
        row,
        kind,
        name: name.into(),
        owner: owner.into(),
        revision: revision.cast_unsigned(),
        hash: computed,
        body: body.into(),
    })
}

#[cfg(test)]
mod tests;
