//! `ConfigService`.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _};
use rustygate_proto::v1::{self as wire, Kind, config_service_server::ConfigService};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{apply_status, explain::explain, store_status};
use crate::{
    apply::{Applier, ApplyError, Options},
    auth::Caller,
    secrets::redact,
    snapshot::Stored,
    store::Store,
    telemetry::{ApplyOutcome, Metrics},
};

const HISTORY_DEFAULT: u32 = 20;
const HISTORY_MAX: u32 = 1_000;

/// Changes and reads the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The past.
    pub store: Arc<Store>,
    /// Makes changes, and knows the present.
    pub applier: Arc<Applier>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Config {
    /// Runs a change to its end even if the caller hangs up: what is committed must be published.
    async fn change<F>(&self, change: impl FnOnce(Arc<Applier>) -> F) -> Result<Response<wire::ApplyResponse>, Status>
    where
        F: Future<Output = Result<wire::ApplyResponse, ApplyError>> + Send + 'static,
    {
        let started = tokio::time::Instant::now();
        let done = tokio::spawn(change(self.applier.clone())).await;
        self.metrics.apply_seconds.observe(started.elapsed().as_secs_f64());
        match done.unwrap_or_else(|error| Err(ApplyError::Interrupted(error.to_string()))) {
            Ok(response) => Ok(Response::new(response)),
            Err(error) => {
                if matches!(error, ApplyError::Store(_) | ApplyError::Interrupted(_)) {
                    self.metrics.applied(ApplyOutcome::Failed);
                }
                Err(apply_status(&error))
            }
        }
    }

    /// The resources at a revision (0: at the head), and its number.
    async fn resources(&self, revision: u64) -> Result<(u64, Vec<Arc<Stored>>), Status> {
        {
            let head = self.applier.publisher().head();
            if revision == 0 || revision == head.revision.revision {
                return Ok((head.revision.revision, head.set.iter().cloned().collect()));
            }
        }
        let resources = self.store.resources_at(revision).await.map_err(|error| store_status(&error))?;
        let resources = resources.ok_or_else(|| apply_status(&ApplyError::NoSuchRevision(revision)))?;
        Ok((revision, resources.into_iter().map(Arc::new).collect()))
    }
}

#[tonic::async_trait]
impl ConfigService for Config {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::Revision, Status>> + Send>>;

    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Result<Response<wire::ApplyResponse>, Status> {
        let caller = Caller::of(&request);
        let mut request = request.into_inner();
        let options = Options::new(request.options.take(), caller.token_name());
        self.change(async move |applier: Arc<Applier>| applier.apply(request, options).await).await
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::ApplyResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let options = Options::new(request.options, caller.token_name());
        self.change(async move |applier: Arc<Applier>| applier.delete(request.keys, options).await).await
    }

    async fn rollback(&self, request: Request<wire::RollbackRequest>) -> Result<Response<wire::ApplyResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let options = Options::new(request.options, caller.token_name());
        self.change(async move |applier: Arc<Applier>| applier.rollback(request.revision, options).await).await
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::GetResponse>, Status> {
        let request = request.into_inner();
        let kinds: BTreeSet<Kind> = request.kinds().collect();
        let names: BTreeSet<&str> = request.names.iter().map(String::as_str).collect();
        let (revision, resources) = self.resources(request.revision).await?;
        let wanted = |stored: &&Arc<Stored>| {
            (kinds.is_empty() || kinds.contains(&stored.kind)) && (names.is_empty() || names.contains(&*stored.name))
        };
        let resources = resources.iter().filter(wanted).map(|stored| wire::StoredResource {
            resource: stored.resource().map(redact),
            owner: stored.owner.to_string(),
            revision: stored.revision,
        });
        Ok(Response::new(wire::GetResponse { revision, resources: resources.collect() }))
    }

    async fn history(&self, request: Request<wire::HistoryRequest>) -> Result<Response<wire::HistoryResponse>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 { HISTORY_DEFAULT } else { request.limit.min(HISTORY_MAX) };
        let before = if request.before == 0 { u64::MAX } else { request.before };
        let revisions = self.store.history(limit, before).await.map_err(|error| store_status(&error))?;
        Ok(Response::new(wire::HistoryResponse { revisions }))
    }

    async fn watch(&self, _request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let heads = WatchStream::new(self.applier.publisher().subscribe());
        Ok(Response::new(Box::pin(heads.map(|announcement| Ok(announcement.revision.clone())))))
    }

    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Result<Response<wire::ExplainResponse>, Status> {
        let request = request.into_inner();
        let compiled = {
            let head = self.applier.publisher().head();
            let at_head = request.revision == 0 || request.revision == head.revision.revision;
            head.snapshot.clone().filter(|_| at_head)
        };
        let Some(snapshot) = compiled else {
            let (revision, resources) = self.resources(request.revision).await?;
            return in_background(move || {
                let changes: Vec<_> = resources.iter().map(|stored| stored.change()).collect();
                let empty = rustygate_data_plane::snapshot::Snapshot::default();
                let snapshot = empty.compile(revision, &changes).map_err(|faults| {
                    let first = faults.into_iter().next().map(|fault| fault.message).unwrap_or_default();
                    Status::failed_precondition(format!("revision {revision} does not compile: {first}"))
                })?;
                explain(&snapshot, &request)
            })
            .await;
        };
        in_background(move || explain(&snapshot, &request)).await
    }
}

/// Keeps what may take long off the threads that serve streams.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<Response<T>, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a call could not be finished");
        Status::internal("the call could not be finished; see the control plane's log")
    })?;
    done.map(Response::new)
}
