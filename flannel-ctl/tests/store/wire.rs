//! A bare gRPC client that shows answers as they are on the wire.

use std::net::SocketAddr;

use flannel_ctl::store::proto::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchCreateRequest, WatchRequest, WatchRequestKind, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

#[derive(Clone)]
pub(crate) struct Wire {
    grpc: Grpc<Channel>,
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self { grpc: Grpc::new(endpoint.connect_lazy()) }
    }

    /// Calls a method, such as `KV/Put`.
    pub(crate) async fn call<Q, R>(&self, method: &str, request: Q) -> Result<R, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = format!("/etcdserverpb.{method}").parse().expect("a path");
        Ok(grpc.unary(Request::new(request), path, ProstCodec::<Q, R>::default()).await?.into_inner())
    }

    /// A stream of watches, whose first request is given with it: etcd answers nothing, headers neither, before it.
    pub(crate) async fn watch(
        &self,
        first: WatchCreateRequest,
    ) -> (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>) {
        self.stream("Watch/Watch", Some(create(first))).await
    }

    pub(crate) async fn keep_alive(&self) -> (mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>) {
        self.stream("Lease/LeaseKeepAlive", None).await
    }

    async fn stream<Q, R>(&self, method: &str, first: Option<Q>) -> (mpsc::Sender<Q>, Streaming<R>)
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let (request_tx, request_rx) = mpsc::channel(64);
        if let Some(first) = first {
            request_tx.send(first).await.expect("there is room");
        }
        let mut grpc = self.grpc.clone();
        grpc.ready().await.expect("connects");
        let path = format!("/etcdserverpb.{method}").parse().expect("a path");
        let requests = Request::new(ReceiverStream::new(request_rx));
        let answers = grpc.streaming(requests, path, ProstCodec::<Q, R>::default()).await.expect("opens the stream");
        (request_tx, answers.into_inner())
    }
}

pub(crate) fn create(request: WatchCreateRequest) -> WatchRequest {
    WatchRequest { request: Some(WatchRequestKind::Create(request)) }
}

/// A watch of every key.
pub(crate) fn everything(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}
