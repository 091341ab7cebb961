//! `version`: this program's, and what the control plane serves if it can be reached.

use rustygate_proto::v1 as wire;

use crate::{
    client::Client,
    failure::{Exit, Failure},
    output::{Screen, escape},
};

/// Shows the version. That the control plane is away is worth a message, not an error.
pub(crate) async fn run(
    screen: Screen,
    url: &str,
    connect: impl Future<Output = Result<Client, Failure>>,
) -> Result<Exit, Failure> {
    screen.data(&format!("gatectl {}\n", env!("CARGO_PKG_VERSION")))?;
    match revision(connect).await {
        Ok(revision) => screen.data(&format!("control plane {}: revision {revision}\n", escape(url)))?,
        Err(Failure::Error { message, .. }) => screen.note(&message),
        Err(failure) => return Err(failure),
    }
    Ok(Exit::Success)
}

async fn revision(connect: impl Future<Output = Result<Client, Failure>>) -> Result<u64, Failure> {
    let newest = connect.await?.history(wire::HistoryRequest { limit: 1, before: 0 }).await?;
    Ok(newest.revisions.first().map_or(0, |revision| revision.revision))
}
