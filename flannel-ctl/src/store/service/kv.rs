//! KV: range, put, delete, transactions, compaction.

use prost::Message;
use tonic::{Request, Response, Status};

use super::rpc::k_v_server::KV;
use super::{MAX_REQUEST_BYTES, Service, status};
use crate::store::mvcc::Refusal;
use crate::store::proto::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};

#[tonic::async_trait]
impl KV for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        let mut response = self.engine.read(|core, durable| core.range(&request, durable)).map_err(status)?;
        self.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = sized(request.into_inner())?;
        let written = self.engine.write(move |core, effects| core.put(&request, effects)).await;
        let mut response = written.map_err(status)?;
        self.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = sized(request.into_inner())?;
        let written = self.engine.write(move |core, effects| core.delete_range(&request, effects)).await;
        let mut response = written.map_err(status)?;
        self.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = sized(request.into_inner())?;
        let written = self.engine.write(move |core, effects| core.txn(&request, effects)).await;
        let mut response = written.map_err(status)?;
        self.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let CompactionRequest { revision, .. } = request.into_inner();
        let engine = self.engine.clone();
        let compacted = self.engine.write(move |core, effects| core.compact(revision, engine.durable(), effects)).await;
        compacted.map_err(status)?;
        Ok(Response::new(CompactionResponse { header: Some(self.engine.header(self.engine.durable())) }))
    }
}

impl Service {
    /// Completes the outermost header of an answer: the core fills in the revision only.
    fn sign(&self, header: &mut Option<ResponseHeader>) {
        *header = header.map(|header| self.engine.header(header.revision));
    }
}

fn sized<M: Message>(request: M) -> Result<M, Status> {
    if request.encoded_len() > MAX_REQUEST_BYTES { Err(status(Refusal::TooLarge)) } else { Ok(request) }
}
