//! Build-time code: the gRPC glue of the embedded store.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    etcd_service();
}

/// Generates the server traits for the part of etcd's API that the store speaks. The messages are written by hand in
/// `src/store/proto.rs`, so no protobuf compiler is needed.
fn etcd_service() {
    use tonic_build::manual::{Builder, Method, Service, ServiceBuilder};

    let method = |rust: &str, route: &str, message: &str| {
        Method::builder()
            .name(rust)
            .route_name(route)
            .input_type(format!("crate::store::proto::{message}Request"))
            .output_type(format!("crate::store::proto::{message}Response"))
            .codec_path("tonic_prost::ProstCodec")
    };
    let unary = |rust: &str, route: &str, message: &str| method(rust, route, message).build();
    let stream = |rust: &str, route: &str, message: &str| {
        method(rust, route, message).client_streaming().server_streaming().build()
    };
    let service = |name: &str, methods: Vec<Method>| {
        methods.into_iter().fold(Service::builder().name(name).package("etcdserverpb"), ServiceBuilder::method).build()
    };
    Builder::new().build_client(false).compile(&[
        service(
            "KV",
            vec![
                unary("range", "Range", "Range"),
                unary("put", "Put", "Put"),
                unary("delete_range", "DeleteRange", "DeleteRange"),
                unary("txn", "Txn", "Txn"),
                unary("compact", "Compact", "Compaction"),
            ],
        ),
        service("Watch", vec![stream("watch", "Watch", "Watch")]),
        service(
            "Lease",
            vec![
                unary("lease_grant", "LeaseGrant", "LeaseGrant"),
                unary("lease_revoke", "LeaseRevoke", "LeaseRevoke"),
                stream("lease_keep_alive", "LeaseKeepAlive", "LeaseKeepAlive"),
                unary("lease_time_to_live", "LeaseTimeToLive", "LeaseTimeToLive"),
                unary("lease_leases", "LeaseLeases", "LeaseLeases"),
            ],
        ),
        service("Maintenance", vec![unary("status", "Status", "Status"), unary("alarm", "Alarm", "Alarm")]),
        service("Cluster", vec![unary("member_list", "MemberList", "MemberList")]),
    ]);
}
