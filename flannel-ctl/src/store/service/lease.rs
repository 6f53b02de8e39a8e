//! Lease: grant, revoke, keep-alive, time to live, list.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::rpc::lease_server::Lease;
use super::{Service, status};
use crate::store::engine::Engine;
use crate::store::mvcc::Refusal;
use crate::store::proto::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id: wanted } = request.into_inner();
        loop {
            let id = if wanted == 0 { random_id() } else { wanted };
            match self.engine.write(move |core, effects| core.grant(id, ttl, effects)).await {
                Err(Refusal::LeaseExists) if wanted == 0 => {}
                Err(refusal) => return Err(status(refusal)),
                Ok(ttl) => {
                    let header = Some(self.engine.header(self.engine.durable()));
                    return Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }));
                }
            }
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let revision = self.engine.write(move |core, effects| core.revoke(id, effects)).await.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.engine.header(revision)) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let alive = KeptAlive {
            engine: self.engine.clone(),
            requests: request.into_inner(),
            stopped: Box::pin(self.stopped()),
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(alive), async |alive| alive?.next().await))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let engine = self.engine.clone();
        let asked = self.engine.write(move |core, _| {
            let remaining = engine.remaining(id);
            Ok((remaining, if keys { core.lease_keys(id) } else { Vec::new() }))
        });
        let (remaining, keys) = asked.await.map_err(status)?;
        let header = Some(self.engine.header(self.engine.durable()));
        Ok(Response::new(match remaining {
            Some((ttl, granted_ttl)) => LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys },
            None => LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() },
        }))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let leases = self.engine.lease_ids().into_iter().map(|id| LeaseStatus { id }).collect();
        let header = Some(self.engine.header(self.engine.durable()));
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}

/// One client's stream of keep-alives. A request is answered when the client is ready to read, so none piles up.
struct KeptAlive {
    engine: Engine,
    requests: Streaming<LeaseKeepAliveRequest>,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl KeptAlive {
    /// The next answer, and the stream if more may follow.
    async fn next(mut self) -> Option<(Result<LeaseKeepAliveResponse, Status>, Option<Self>)> {
        let request = tokio::select! {
            request = self.requests.next() => request?,
            () = &mut self.stopped => Err(status(Refusal::Stopped)),
        };
        match request {
            Ok(LeaseKeepAliveRequest { id }) => {
                // Before the renewal, so that the revision is never newer than the life that it speaks of.
                let header = Some(self.engine.header(self.engine.durable()));
                let ttl = self.engine.renew(id).unwrap_or(0);
                Some((Ok(LeaseKeepAliveResponse { header, id, ttl }), Some(self)))
            }
            Err(status) => Some((Err(status), None)),
        }
    }
}

/// Positive, as etcd's are.
fn random_id() -> i64 {
    rand::random_range(1..=i64::MAX)
}
