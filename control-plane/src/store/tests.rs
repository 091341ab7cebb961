use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;

use super::{tokens::Inserted, *};

fn stored(row: i64, name: &str, revision: u64, body: &str) -> Arc<Stored> {
    Arc::new(Stored {
        row,
        kind: Kind::Route,
        name: name.into(),
        owner: "default".into(),
        revision,
        hash: ContentHash::of(Kind::Route, name, body.as_bytes()),
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

/// Commits revisions one after the other; each step is (name, new content or none).
struct Writer {
    store: Store,
    live: BTreeMap<String, Arc<Stored>>,
    checksum: Checksum,
    revision: u64,
    row: i64,
}

impl Writer {
    async fn open(folder: &TempDir) -> Self {
        let store = Store::open(&folder.path().join("test.db")).await.expect("opens");
        Self { store, live: BTreeMap::new(), checksum: Checksum::default(), revision: 0, row: 0 }
    }

    async fn commit(&mut self, steps: &[(&str, Option<&str>)]) {
        self.revision += 1;
        let mut closed = Vec::new();
        let mut added = Vec::new();
        for (name, body) in steps {
            if let Some(before) = self.live.remove(*name) {
                self.checksum.subtract(&before.hash);
                closed.push(before.row);
            }
            if let Some(body) = body {
                self.row += 1;
                let stored = stored(self.row, name, self.revision, body);
                self.checksum.add(&stored.hash);
                self.live.insert((*name).to_owned(), stored.clone());
                added.push(stored);
            }
        }
        let revision = wire::Revision { revision: self.revision, author: "me".into(), ..Default::default() };
        let commit = Commit { revision: &revision, checksum: self.checksum, closed, added: &added };
        self.store.commit(&commit).await.expect("commits");
    }
}

/// Names and contents.
fn contents(changes: Option<Vec<wire::Change>>) -> Vec<(String, Option<String>)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    changes.expect("kept").into_iter().map(|change| (change.name, change.resource.map(text))).collect()
}

#[tokio::test]
async fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = Writer::open(&folder).await;
    writer.commit(&[("a", Some("1")), ("'); drop table resource; --", Some("2"))]).await;
    writer.commit(&[("a", None), ("b", Some("3"))]).await;
    let id = writer.store.id.clone();
    let checksum = writer.checksum;
    writer.store.close().await;
    drop(writer);
    let store = Store::open(&folder.path().join("test.db")).await.expect("opens again");
    assert_eq!(store.id, id);
    let loaded = store.load().await.expect("loads");
    assert_eq!((loaded.revision.revision, loaded.revision.author.as_str()), (2, "me"));
    assert_eq!(loaded.set.checksum(), checksum);
    let names: Vec<_> = loaded.set.iter().map(|stored| stored.name.to_string()).collect();
    assert_eq!(names, ["'); drop table resource; --", "b"]);
    assert_eq!(loaded.last_row, 3);
}

#[tokio::test]
async fn the_difference_of_two_revisions_is_what_leads_from_one_to_the_other() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = Writer::open(&folder).await;
    writer.commit(&[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))]).await;
    writer.commit(&[("a", Some("2"))]).await;
    writer.commit(&[("b", None), ("d", Some("1"))]).await;
    writer.commit(&[("d", None), ("a", Some("3"))]).await;
    writer.commit(&[("b", Some("9"))]).await;
    let between = async |from, to| contents(writer.store.changes_between(from, to).await.expect("reads"));
    let some = |name: &str, body: &str| (name.to_owned(), Some(body.to_owned()));
    let none = |name: &str| (name.to_owned(), None);
    assert_eq!(between(1, 2).await, [some("a", "2")]);
    assert_eq!(between(1, 3).await, [none("b"), some("a", "2"), some("d", "1")]);
    // What came and went in between is not mentioned.
    assert_eq!(between(1, 4).await, [none("b"), some("a", "3")]);
    assert_eq!(between(1, 5).await, [some("a", "3"), some("b", "9")]);
    assert_eq!(between(3, 4).await, [none("d"), some("a", "3")]);
    assert!(writer.store.changes_between(0, 5).await.expect("reads").is_none());
    assert!(writer.store.changes_between(5, 6).await.expect("reads").is_none());
}

#[tokio::test]
async fn an_old_revision_can_be_read_whole_until_it_is_forgotten() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = Writer::open(&folder).await;
    writer.commit(&[("old", Some("1")), ("a", Some("1"))]).await;
    for content in 2..20 {
        writer.commit(&[("a", Some(&content.to_string()))]).await;
    }
    let at = async |revision| {
        let resources = writer.store.resources_at(revision).await.expect("reads");
        resources.map(|all| all.iter().map(|stored| stored.body.clone()).collect::<Vec<_>>())
    };
    assert_eq!(at(5).await.expect("kept"), ["5", "1"]);
    assert!(!writer.store.prune(10).await.expect("prunes"));
    assert_eq!(at(5).await, None);
    assert_eq!(at(10).await.expect("kept"), ["10", "1"]);
    assert_eq!(at(19).await.expect("kept"), ["19", "1"]);
    assert_eq!(writer.store.history_len().await.expect("counts"), 10);
    assert_eq!(writer.store.history(2, u64::MAX).await.expect("reads").len(), 2);
    assert!(writer.store.changes_between(9, 19).await.expect("reads").is_none());
    assert_eq!(contents(writer.store.changes_between(10, 19).await.expect("reads")).len(), 1);
    let loaded = writer.store.load().await.expect("what is live is whole");
    assert_eq!(loaded.set.len(), 2);
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_file() {
    let folder = TempDir::new().expect("a folder");
    let first = Writer::open(&folder).await;
    let error = Store::open(&folder.path().join("test.db")).await.expect_err("locked");
    assert!(matches!(&error, StoreError::Locked(_)), "{error}");
    assert!(error.to_string().contains("another control plane"), "{error}");
    first.store.close().await;
    Store::open(&folder.path().join("test.db")).await.expect("free again");
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let writer = Writer::open(&folder).await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (9999, 'later', 1, x'00', 0)",
    )
    .execute(writer.store.writer.lock().await.as_mut().expect("open"))
    .await
    .expect("inserts");
    writer.store.close().await;
    let error = Store::open(&folder.path().join("test.db")).await.expect_err("newer");
    assert!(matches!(&error, StoreError::Newer { schema: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_changed_byte_is_noticed_when_the_file_is_loaded() {
    for damage in ["update resource set body = x'00' where name = 'b'", "delete from resource where name = 'b'"] {
        let folder = TempDir::new().expect("a folder");
        let mut writer = Writer::open(&folder).await;
        writer.commit(&[("a", Some("1")), ("b", Some("1"))]).await;
        let mut connection = writer.store.writer.lock().await;
        sqlx::query(damage).execute(connection.as_mut().expect("open")).await.expect("damages");
        drop(connection);
        let error = writer.store.load().await.expect_err("damaged");
        assert!(matches!(&error, StoreError::Damaged(_)), "{error}");
    }
}

#[tokio::test]
async fn a_commit_that_fails_writes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = Writer::open(&folder).await;
    writer.commit(&[("a", Some("1"))]).await;
    let revision = wire::Revision { revision: 2, ..Default::default() };
    // Row 77 does not exist, so the set would not be what the checksum says.
    let bad = Commit {
        revision: &revision,
        checksum: Checksum::default(),
        closed: vec![77],
        added: &[stored(2, "b", 2, "1")],
    };
    assert!(writer.store.commit(&bad).await.is_err());
    assert_eq!(writer.store.load().await.expect("loads").revision.revision, 1);
    writer.commit(&[("b", Some("1"))]).await;
    assert_eq!(writer.store.load().await.expect("loads").set.len(), 2);
}

#[tokio::test]
async fn many_rows_go_in_and_out_in_one_commit() {
    let folder = TempDir::new().expect("a folder");
    let mut writer = Writer::open(&folder).await;
    let names: Vec<String> = (0..1_700).map(|i| format!("n{i}")).collect();
    let steps: Vec<_> = names.iter().map(|name| (name.as_str(), Some("1"))).collect();
    writer.commit(&steps).await;
    assert_eq!(writer.store.load().await.expect("loads").set.len(), 1_700);
    let steps: Vec<_> = names.iter().map(|name| (name.as_str(), None)).collect();
    writer.commit(&steps).await;
    assert!(writer.store.load().await.expect("loads").set.is_empty());
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_until_it_is_revoked() {
    let folder = TempDir::new().expect("a folder");
    let store = Writer::open(&folder).await.store;
    let row = |hash: u8| tokens::TokenRow {
        hash: [hash; 32],
        token: wire::Token { name: "ci".into(), role: wire::Role::Editor.into(), ..Default::default() },
    };
    assert_eq!(store.insert_token(&row(1)).await.expect("inserts"), Inserted::Yes);
    assert_eq!(store.insert_token(&row(2)).await.expect("inserts"), Inserted::NameTaken);
    assert_eq!(store.token(&[1; 32]).await.expect("reads").expect("in force").token.name, "ci");
    assert!(store.token(&[2; 32]).await.expect("reads").is_none());
    assert!(store.revoke_token("ci", 5).await.expect("revokes").is_some());
    assert!(store.revoke_token("ci", 6).await.expect("revokes").is_none());
    assert!(store.token(&[1; 32]).await.expect("reads").is_none());
    assert_eq!(store.insert_token(&row(2)).await.expect("inserts"), Inserted::Yes);
    let revoked: Vec<_> = store.tokens().await.expect("lists").iter().map(|row| row.token.revoked_unix_ms).collect();
    assert_eq!(revoked, [0, 5]);
    // A token made beside a running control plane.
    let beside =
        tokens::TokenRow { hash: [3; 32], token: wire::Token { name: "x".into(), role: 1, ..Default::default() } };
    assert_eq!(Store::insert_token_offline(store.path(), &beside).await.expect("inserts"), Inserted::Yes);
    assert!(store.token(&[3; 32]).await.expect("reads").is_some());
}
