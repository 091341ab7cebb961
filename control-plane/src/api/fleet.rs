//! `FleetService`.

use std::{sync::Arc, time::Duration};

use rustygate_proto::v1::{self as wire, fleet_service_server::FleetService};
use tonic::{Request, Response, Status};

use crate::{fleet::Fleet, publish::Publisher};

const WAIT_DEFAULT_MS: u64 = 10_000;
const WAIT_MAX_MS: u64 = 300_000;

/// Who runs what.
#[derive(Clone, Debug)]
pub struct FleetApi {
    /// Who is connected.
    pub fleet: Arc<Fleet>,
    /// What they should serve.
    pub publisher: Arc<Publisher>,
}

#[tonic::async_trait]
impl FleetService for FleetApi {
    async fn list(
        &self,
        _request: Request<wire::ListProxiesRequest>,
    ) -> Result<Response<wire::ListProxiesResponse>, Status> {
        let head_revision = self.publisher.revision();
        Ok(Response::new(wire::ListProxiesResponse { head_revision, proxies: self.fleet.list() }))
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Result<Response<wire::WaitResponse>, Status> {
        let request = request.into_inner();
        let head = self.publisher.revision();
        if request.revision > head {
            return Err(Status::invalid_argument(format!(
                "revision {} does not exist yet; the head is {head}",
                request.revision
            )));
        }
        let time_ms = if request.timeout_ms == 0 { WAIT_DEFAULT_MS } else { request.timeout_ms.min(WAIT_MAX_MS) };
        Ok(Response::new(self.fleet.wait(request.revision, Duration::from_millis(time_ms)).await))
    }
}
