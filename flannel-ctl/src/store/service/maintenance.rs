//! Maintenance and Cluster: enough for clients and etcdctl to find one healthy member.

use tonic::{Request, Response, Status};

use super::Service;
use super::rpc::cluster_server::Cluster;
use super::rpc::maintenance_server::Maintenance;
use crate::store::proto::{
    AlarmRequest, AlarmResponse, Member, MemberListRequest, MemberListResponse, StatusRequest, StatusResponse,
};

/// The etcd version whose behaviour is kept to, and who is really there.
const VERSION: &str = concat!("3.4.0+flannel-ctl.", env!("CARGO_PKG_VERSION"));

#[tonic::async_trait]
impl Maintenance for Service {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let revision = self.engine.durable();
        let header = self.engine.header(revision);
        let size = std::fs::metadata(&self.path)
            .map_err(|error| Status::internal(format!("looking at {}: {error}", self.path.display())))?
            .len();
        let in_use = self.engine.read(|core, _| core.weight());
        Ok(Response::new(StatusResponse {
            header: Some(header),
            version: VERSION.to_owned(),
            db_size: size.cast_signed(),
            leader: header.member_id,
            raft_index: revision.cast_unsigned(),
            raft_term: header.raft_term,
            raft_applied_index: revision.cast_unsigned(),
            db_size_in_use: in_use.min(size).cast_signed(),
        }))
    }

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        if request.into_inner().action != 0 {
            return Err(Status::unimplemented("this embedded single-node store has no alarms to raise or clear"));
        }
        Ok(Response::new(AlarmResponse { header: Some(self.engine.header(self.engine.durable())) }))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_list(&self, _request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let header = self.engine.header(self.engine.durable());
        let member = Member {
            id: header.member_id,
            name: "flannel-ctl-store".to_owned(),
            client_urls: Some(self.client_url.clone()).into_iter().filter(|url| !url.is_empty()).collect(),
            ..Member::default()
        };
        Ok(Response::new(MemberListResponse { header: Some(header), members: vec![member] }))
    }
}
