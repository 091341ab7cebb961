//! Tokens: only their hashes.

use std::path::Path;

use rustygate_proto::v1::{self as wire, Role};
use sqlx::{Connection as _, SqliteConnection};

use super::{Store, StoreError, lock, migrate, options};

/// The most tokens that may be in force at once.
pub const TOKENS_MAX: i64 = 10_000;

/// How many revoked tokens are still listed.
const REVOKED_KEPT: i64 = 1_000;

/// A token as it is stored.
#[derive(Clone, Debug)]
pub struct TokenRow {
    /// BLAKE3 of the secret.
    pub hash: [u8; 32],
    /// What is shown of it.
    pub token: wire::Token,
}

/// What became of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in force.
    Yes,
    /// One of that name is in force.
    NameTaken,
    /// [`TOKENS_MAX`] are in force.
    TooMany,
}

type Row = (String, Vec<u8>, i32, i64, Option<i64>);

fn token_row((name, hash, role, created_ms, revoked_ms): Row) -> Result<TokenRow, StoreError> {
    let damaged = || StoreError::Damaged(format!("token {name:?} is not what was stored"));
    let hash = hash.try_into().map_err(|_| damaged())?;
    let role = Role::try_from(role).map_err(|_| damaged())?;
    let token = wire::Token {
        name,
        role: role.into(),
        created_unix_ms: created_ms.cast_unsigned(),
        revoked_unix_ms: revoked_ms.unwrap_or_default().cast_unsigned(),
    };
    Ok(TokenRow { hash, token })
}

async fn insert(connection: &mut SqliteConnection, row: &TokenRow) -> Result<Inserted, StoreError> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let in_force: i64 =
        sqlx::query_scalar("select count(*) from token where revoked_ms is null").fetch_one(&mut *transaction).await?;
    if in_force >= TOKENS_MAX {
        return Ok(Inserted::TooMany);
    }
    let taken: i64 = sqlx::query_scalar("select count(*) from token where name = ? and revoked_ms is null")
        .bind(&row.token.name)
        .fetch_one(&mut *transaction)
        .await?;
    if taken > 0 {
        return Ok(Inserted::NameTaken);
    }
    sqlx::query("insert into token (name, hash, role, created_ms) values (?, ?, ?, ?)")
        .bind(&row.token.name)
        .bind(row.hash.as_slice())
        .bind(row.token.role)
        .bind(row.token.created_unix_ms.cast_signed())
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "delete from token where revoked_ms is not null and id not in \
         (select id from token where revoked_ms is not null order by revoked_ms desc limit ?)",
    )
    .bind(REVOKED_KEPT)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Inserted::Yes)
}

impl Store {
    /// Adds a token.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn insert_token(&self, row: &TokenRow) -> Result<Inserted, StoreError> {
        insert(self.writer.lock().await.as_mut().ok_or(StoreError::Closed)?, row).await
    }

    /// Adds a token to the file of a control plane that may be running or may never have run.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn insert_token_offline(path: &Path, row: &TokenRow) -> Result<Inserted, StoreError> {
        // Whoever holds the lock has brought the tables up to date.
        let lock = match lock(path) {
            Ok(lock) => Some(lock),
            Err(StoreError::Locked(_)) => None,
            Err(error) => return Err(error),
        };
        let mut writer = SqliteConnection::connect_with(&options(path).create_if_missing(true)).await?;
        if lock.is_some() {
            migrate(path, &mut writer).await?;
        }
        let inserted = insert(&mut writer, row).await?;
        writer.close().await?;
        Ok(inserted)
    }

    /// Revokes the token in force that has this name; `None` if none has.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn revoke_token(&self, name: &str, now_ms: u64) -> Result<Option<TokenRow>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "update token set revoked_ms = ? where name = ? and revoked_ms is null \
             returning name, hash, role, created_ms, revoked_ms",
        )
        .bind(now_ms.cast_signed())
        .bind(name)
        .fetch_optional(self.writer.lock().await.as_mut().ok_or(StoreError::Closed)?)
        .await?;
        row.map(token_row).transpose()
    }

    /// The token in force that has this hash.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "select name, hash, role, created_ms, revoked_ms from token where hash = ? and revoked_ms is null",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.readers)
        .await?;
        row.map(token_row).transpose()
    }

    /// Every token, those in force first, by name.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "select name, hash, role, created_ms, revoked_ms from token order by revoked_ms is not null, name, id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(token_row).collect()
    }
}
