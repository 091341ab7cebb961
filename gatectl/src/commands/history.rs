//! `history` and `watch`: the revisions, from the newest back or as they come.

use rustygate_proto::v1 as wire;

use crate::{
    cli::{HistoryArgs, TableFormat, TextFormat, WatchArgs},
    client::Client,
    failure::{Exit, Failure},
    output::{Paint, Screen, Table, ago, escape, unix_ms_now},
};

/// Shows the revisions.
pub(crate) async fn history(screen: Screen, client: &Client, args: &HistoryArgs) -> Result<Exit, Failure> {
    let request = wire::HistoryRequest { limit: args.limit, before: args.before.unwrap_or_default() };
    let revisions = client.history(request).await?.revisions;
    match args.output {
        TableFormat::Table if revisions.is_empty() => screen.note("no revision yet"),
        TableFormat::Table => screen.data(&table(&revisions, unix_ms_now(), screen.paint))?,
        TableFormat::Json => screen.json(&revisions.iter().map(json).collect())?,
    }
    Ok(Exit::Success)
}

/// Follows the revisions until it is interrupted.
pub(crate) async fn watch(screen: Screen, client: &Client, args: &WatchArgs) -> Result<Exit, Failure> {
    let mut revisions = client.watch().await?;
    loop {
        match revisions.message().await {
            Ok(Some(revision)) => match args.output {
                TextFormat::Text => screen.data(&line(&revision))?,
                TextFormat::Json => screen.data(&format!("{}\n", json(&revision)))?,
            },
            Ok(None) => {
                return Err(Failure::new("the control plane ended the stream").with_hint("it may be shutting down"));
            }
            Err(status) => return Err(client.failure(&status)),
        }
    }
}

fn table(revisions: &[wire::Revision], now_ms: u64, paint: Paint) -> String {
    let mut table = Table::new(&["REVISION", "WHEN", "AUTHOR", "OWNER", "CHANGES", "MESSAGE"]);
    for revision in revisions {
        table.row([
            revision.revision.to_string(),
            ago(now_ms, revision.created_unix_ms),
            revision.author.clone(),
            revision.owner.clone(),
            changes(revision),
            message(revision),
        ]);
    }
    table.render(paint)
}

fn line(revision: &wire::Revision) -> String {
    let author = escape(&revision.author).into_owned();
    let text =
        format!("revision {}  {}  by {author}  {}", revision.revision, changes(revision), escape(&message(revision)));
    format!("{}\n", text.trim_end())
}

fn changes(revision: &wire::Revision) -> String {
    format!("+{} ~{} -{}", revision.created, revision.updated, revision.deleted)
}

fn message(revision: &wire::Revision) -> String {
    match (revision.rollback_of, revision.message.as_str()) {
        (0, message) => message.to_owned(),
        (old, "") => format!("rollback to {old}"),
        (old, message) => format!("rollback to {old}: {message}"),
    }
}

fn json(revision: &wire::Revision) -> serde_json::Value {
    serde_json::json!({
        "revision": revision.revision,
        "created_unix_ms": revision.created_unix_ms,
        "author": revision.author,
        "owner": revision.owner,
        "message": revision.message,
        "created": revision.created,
        "updated": revision.updated,
        "deleted": revision.deleted,
        "rollback_of": (revision.rollback_of > 0).then_some(revision.rollback_of),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revisions() -> Vec<wire::Revision> {
        let plain = wire::Revision {
            revision: 7,
            created_unix_ms: 1_000,
            author: "ann".to_owned(),
            owner: "default".to_owned(),
            message: "more\nusers".to_owned(),
            created: 2,
            ..wire::Revision::default()
        };
        vec![
            wire::Revision {
                revision: 8,
                rollback_of: 5,
                created: 0,
                deleted: 2,
                message: String::new(),
                ..plain.clone()
            },
            plain,
        ]
    }

    #[test]
    fn a_rollback_says_to_what() {
        insta::assert_snapshot!(table(&revisions(), 181_000, Paint { on: false }), @r"
        REVISION  WHEN    AUTHOR  OWNER    CHANGES   MESSAGE
        8         3m ago  ann     default  +0 ~0 -2  rollback to 5
        7         3m ago  ann     default  +2 ~0 -0  more\nusers
        ");
    }

    #[test]
    fn a_watched_revision_is_one_line() {
        let lines: String = revisions().iter().map(line).collect();
        insta::assert_snapshot!(lines, @r"
        revision 8  +0 ~0 -2  by ann  rollback to 5
        revision 7  +2 ~0 -0  by ann  more\nusers
        ");
    }
}
