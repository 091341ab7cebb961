//! `TokenService`.

use std::sync::Arc;

use rustygate_proto::v1::{self as wire, token_service_server::TokenService};
use tonic::{Request, Response, Status};

use super::{store_status, token_status};
use crate::auth::Tokens;

/// Makes and revokes tokens.
#[derive(Clone, Debug)]
pub struct TokenApi {
    /// Those in force.
    pub tokens: Arc<Tokens>,
}

#[tonic::async_trait]
impl TokenService for TokenApi {
    async fn create(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let created = self.tokens.create(&request.name, request.role()).await;
        let (secret, token) = created.map_err(|error| token_status(&error))?;
        Ok(Response::new(wire::CreateTokenResponse { secret, token: Some(token) }))
    }

    async fn list(
        &self,
        _request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensResponse>, Status> {
        let tokens = self.tokens.list().await.map_err(|error| store_status(&error))?;
        Ok(Response::new(wire::ListTokensResponse { tokens }))
    }

    async fn revoke(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Result<Response<wire::RevokeTokenResponse>, Status> {
        let revoked = self.tokens.revoke(&request.into_inner().name).await;
        let token = revoked.map_err(|error| token_status(&error))?;
        Ok(Response::new(wire::RevokeTokenResponse { token: Some(token) }))
    }
}
