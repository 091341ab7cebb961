//! `apply`, `diff`, `delete` and `rollback`: the commands that make a revision, or show what it would be.

use rustygate_proto::v1 as wire;

use super::{
    change::{self, Made},
    goes_in_the_clear,
};
use crate::{
    cli::{ApplyArgs, Change, DeleteArgs, DiffArgs, Kind, RollbackArgs, TextFormat},
    client::Client,
    diff,
    failure::{Exit, Failure},
    input,
    output::{Screen, faults_json},
};

/// Makes the configuration what the files say.
pub(crate) async fn apply(screen: Screen, client: &Client, args: ApplyArgs) -> Result<Exit, Failure> {
    let documents = input::read(&args.files.paths)?;
    // As from a pipe whose other end failed: it must not remove everything.
    if args.prune && input::is_blank(&documents) {
        return Err(Failure::new("the input is empty, and --prune would remove all that the owner has")
            .with_hint("if that is what you want, write `routes: []`"));
    }
    let contents = input::contents(&documents);
    warn_of_the_clear(screen, client, &contents);
    let request = wire::ApplyRequest {
        contents,
        documents,
        options: Some(options(&args.change)),
        owner: args.owner,
        prune: args.prune,
    };
    let response = client.apply(request).await?;
    change::finish(screen, client, response, &made(&args.change)).await
}

/// Removes resources.
pub(crate) async fn delete(screen: Screen, client: &Client, args: DeleteArgs) -> Result<Exit, Failure> {
    let kind = wire_kind(args.kind);
    let keys = args.names.into_iter().map(|name| wire::ResourceKey { kind: kind.into(), name }).collect();
    let request = wire::DeleteRequest { keys, options: Some(options(&args.change)) };
    let response = client.delete(request).await?;
    change::finish(screen, client, response, &made(&args.change)).await
}

/// Brings back an old revision.
pub(crate) async fn rollback(screen: Screen, client: &Client, args: RollbackArgs) -> Result<Exit, Failure> {
    let request = wire::RollbackRequest { revision: args.revision, options: Some(options(&args.change)) };
    let response = client.rollback(request).await?;
    change::finish(screen, client, response, &made(&args.change)).await
}

/// Shows what an apply would change.
pub(crate) async fn diff(screen: Screen, client: &Client, args: DiffArgs) -> Result<Exit, Failure> {
    let documents = input::read(&args.files.paths)?;
    let contents = input::contents(&documents);
    warn_of_the_clear(screen, client, &contents);
    let request = wire::ApplyRequest {
        contents,
        documents,
        options: Some(wire::ChangeOptions { dry_run: true, ..wire::ChangeOptions::default() }),
        owner: args.owner,
        prune: args.prune,
    };
    let response = client.apply(request).await?;
    if args.output == TextFormat::Json {
        screen.json(&serde_json::json!({
            "revision": response.revision,
            "diff": diff::json(&response.diff),
            "faults": faults_json(&response.faults),
        }))?;
    }
    if !response.faults.is_empty() {
        screen.faults(&response.faults);
        return Err(Failure::Told);
    }
    if args.output == TextFormat::Text {
        screen.data(&diff::render(&response.diff, usize::MAX, screen.paint))?;
        let summary = if response.diff.is_empty() { "nothing differs".to_owned() } else { diff::tally(&response.diff) };
        screen.note(&format!("against revision {}: {summary}", response.revision));
    }
    change::warn_of_ends(screen, &response.diff);
    Ok(if response.diff.is_empty() { Exit::Success } else { Exit::Differs })
}

/// What was read from a file or a variable may be a secret.
fn warn_of_the_clear(screen: Screen, client: &Client, contents: &[wire::Content]) {
    if !contents.is_empty() && goes_in_the_clear(client.url()) {
        screen.warn("what the files refer to travels without TLS; whoever can read the network can read the keys");
    }
}

fn options(change: &Change) -> wire::ChangeOptions {
    wire::ChangeOptions {
        author: change.author.clone(),
        message: change.message.clone(),
        dry_run: change.dry_run,
        if_revision: change.if_revision,
    }
}

fn made(change: &Change) -> Made {
    Made { dry_run: change.dry_run, wait: change.wait, json: change.output == TextFormat::Json }
}

fn wire_kind(kind: Kind) -> wire::Kind {
    match kind {
        Kind::Route => wire::Kind::Route,
        Kind::Backend => wire::Kind::Backend,
        Kind::Plugin => wire::Kind::Plugin,
        Kind::Listener => wire::Kind::Listener,
        Kind::Certificate => wire::Kind::Certificate,
        Kind::Consumer => wire::Kind::Consumer,
        Kind::Defaults => wire::Kind::Defaults,
    }
}
