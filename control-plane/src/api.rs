//! Transport only: gRPC calls in, [`crate::apply`], [`crate::store`], [`crate::fleet`] and [`crate::auth`] called,
//! statuses out. What the store says of SQL goes to the log, never to a client.

mod config;
mod explain;
mod fleet;
mod tokens;

use tonic::Status;

pub use self::{config::Config, explain::explain, fleet::FleetApi, tokens::TokenApi};
use crate::{apply::ApplyError, auth::TokenError, store::StoreError};

fn store_status(error: &StoreError) -> Status {
    tracing::error!(%error, "the store failed");
    Status::unavailable("the control plane's database failed; see its log")
}

fn apply_status(error: &ApplyError) -> Status {
    match error {
        ApplyError::Conflict { .. } => Status::aborted(error.to_string()),
        ApplyError::NoSuchRevision(_) => Status::not_found(error.to_string()),
        ApplyError::Invalid(_) => Status::invalid_argument(error.to_string()),
        ApplyError::Store(error) => store_status(error),
        ApplyError::Interrupted(why) => {
            tracing::error!(why, "a change could not be finished");
            Status::internal("the change could not be finished; see the control plane's log")
        }
    }
}

fn token_status(error: &TokenError) -> Status {
    match error {
        TokenError::BadName | TokenError::NoRole => Status::invalid_argument(error.to_string()),
        TokenError::NameTaken(_) => Status::already_exists(error.to_string()),
        TokenError::TooMany => Status::resource_exhausted(error.to_string()),
        TokenError::NoSuchToken(_) => Status::not_found(error.to_string()),
        TokenError::Random(_) => Status::unavailable(error.to_string()),
        TokenError::Store(error) => store_status(error),
    }
}
