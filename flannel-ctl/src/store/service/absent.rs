//! What the store does not have.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tonic::{Code, Status};

/// Puts words to the bare "unimplemented" with which tonic answers a method or service that is not served.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let bare = Status::from_header_map(response.headers())
        .is_some_and(|status| status.code() == Code::Unimplemented && status.message().is_empty());
    if bare { refusal(&path).into_http() } else { response }
}

fn refusal(path: &str) -> Status {
    // With this text etcd's own clients go on without a password.
    if path == "/etcdserverpb.Auth/Authenticate" {
        return Status::failed_precondition("etcdserver: authentication is not enabled");
    }
    Status::unimplemented(format!(
        "{path} is not part of this embedded single-node store, which has neither authentication nor clustering; run \
         etcd where that is needed"
    ))
}
