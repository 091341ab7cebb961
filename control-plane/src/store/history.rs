//! Reads of the past: revisions, the set at one of them, the difference of two; and forgetting.

use rustygate_proto::v1::{self as wire, Kind};
use sqlx::SqliteConnection;

use super::{ResourceRow, Store, StoreError, stored};
use crate::snapshot::{Stored, removal};

pub(super) const LIVE_RESOURCES: &str = "select id, kind, name, owner, from_revision, content_hash, body from resource \
     where to_revision is null order by kind, name";

const REVISION_AT: &str = "select revision, created_ms, author, owner, message, created, updated, deleted, \
     rollback_of, checksum from revision where revision = ?";

const NEWEST_REVISIONS: &str = "select revision, created_ms, author, owner, message, created, updated, deleted, \
     rollback_of, checksum from revision where revision < ? order by revision desc limit ?";

/// How many rows one transaction forgets: an apply waits for no more than that.
const PRUNE_ROWS: i64 = 5_000;

/// Of one revision.
pub type ChecksumBytes = Vec<u8>;

type RevisionRow = (i64, i64, String, String, String, i64, i64, i64, i64, Vec<u8>);

fn revision(row: RevisionRow) -> (wire::Revision, ChecksumBytes) {
    let (revision, created_ms, author, owner, message, created, updated, deleted, rollback_of, checksum) = row;
    let revision = wire::Revision {
        revision: revision.cast_unsigned(),
        created_unix_ms: created_ms.cast_unsigned(),
        author,
        owner,
        message,
        created: created.cast_unsigned(),
        updated: updated.cast_unsigned(),
        deleted: deleted.cast_unsigned(),
        rollback_of: rollback_of.cast_unsigned(),
    };
    (revision, checksum)
}

pub(super) async fn head(
    connection: &mut SqliteConnection,
) -> Result<Option<(wire::Revision, ChecksumBytes)>, StoreError> {
    let row: Option<RevisionRow> =
        sqlx::query_as(NEWEST_REVISIONS).bind(i64::MAX).bind(1).fetch_optional(connection).await?;
    Ok(row.map(revision))
}

async fn at(
    connection: &mut SqliteConnection,
    number: u64,
) -> Result<Option<(wire::Revision, ChecksumBytes)>, StoreError> {
    let row: Option<RevisionRow> =
        sqlx::query_as(REVISION_AT).bind(number.cast_signed()).fetch_optional(connection).await?;
    Ok(row.map(revision))
}

impl Store {
    /// A revision and its checksum, if it is kept.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn revision(&self, number: u64) -> Result<Option<(wire::Revision, ChecksumBytes)>, StoreError> {
        let mut reader = self.readers.acquire().await?;
        at(&mut reader, number).await
    }

    /// Revisions below one, newest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn history(&self, limit: u32, before: u64) -> Result<Vec<wire::Revision>, StoreError> {
        let rows: Vec<RevisionRow> = sqlx::query_as(NEWEST_REVISIONS)
            .bind(i64::try_from(before).unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.into_iter().map(|row| revision(row).0).collect())
    }

    /// The resources that were live at a revision, by kind, then by name; `None` if it is not kept.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn resources_at(&self, number: u64) -> Result<Option<Vec<Stored>>, StoreError> {
        let mut transaction = self.readers.begin().await?;
        if at(&mut transaction, number).await?.is_none() {
            return Ok(None);
        }
        let rows: Vec<ResourceRow> = sqlx::query_as(
            "select id, kind, name, owner, from_revision, content_hash, body from resource \
             where from_revision <= ?1 and (to_revision is null or to_revision > ?1) order by kind, name",
        )
        .bind(number.cast_signed())
        .fetch_all(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        rows.into_iter().map(|row| stored(row, self.secrets())).collect::<Result<_, _>>().map(Some)
    }

    /// What leads from one revision to a later one; `None` if either is not kept.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn changes_between(&self, from: u64, to: u64) -> Result<Option<Vec<wire::Change>>, StoreError> {
        let mut transaction = self.readers.begin().await?;
        if at(&mut transaction, from).await?.is_none() || at(&mut transaction, to).await?.is_none() {
            return Ok(None);
        }
        let gone: Vec<(i32, String)> = sqlx::query_as(
            "select kind, name from resource as old \
             where from_revision <= ?1 and to_revision > ?1 and to_revision <= ?2 and not exists (\
                select 1 from resource as new where new.kind = old.kind and new.name = old.name \
                and new.from_revision > ?1 and new.from_revision <= ?2 \
                and (new.to_revision is null or new.to_revision > ?2))",
        )
        .bind(from.cast_signed())
        .bind(to.cast_signed())
        .fetch_all(&mut *transaction)
        .await?;
        let come: Vec<ResourceRow> = sqlx::query_as(
            "select id, kind, name, owner, from_revision, content_hash, body from resource \
             where from_revision > ?1 and from_revision <= ?2 and (to_revision is null or to_revision > ?2) \
             order by kind, name",
        )
        .bind(from.cast_signed())
        .bind(to.cast_signed())
        .fetch_all(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        let mut changes = Vec::with_capacity(gone.len() + come.len());
        for (kind, name) in gone {
            changes.push(removal(Kind::try_from(kind).unwrap_or_default(), &name));
        }
        for row in come {
            changes.push(stored(row, self.secrets())?.change());
        }
        Ok(Some(changes))
    }

    /// Forgets what no revision from `oldest` on needs, a batch at a time; says whether there may be more.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn prune(&self, oldest: u64) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let writer = writer.as_mut().ok_or(StoreError::Closed)?;
        // First the revisions, so that none is there whose content is not.
        let revisions = sqlx::query(
            "delete from revision where revision in (select revision from revision where revision < ? limit ?)",
        )
        .bind(oldest.cast_signed())
        .bind(PRUNE_ROWS)
        .execute(&mut *writer)
        .await?
        .rows_affected();
        if revisions == PRUNE_ROWS.cast_unsigned() {
            return Ok(true);
        }
        let resources =
            sqlx::query("delete from resource where id in (select id from resource where to_revision <= ? limit ?)")
                .bind(oldest.cast_signed())
                .bind(PRUNE_ROWS)
                .execute(&mut *writer)
                .await?
                .rows_affected();
        Ok(resources == PRUNE_ROWS.cast_unsigned())
    }

    /// How many revisions are kept.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn history_len(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("select count(*) from revision").fetch_one(&self.readers).await?;
        Ok(count.cast_unsigned())
    }
}
