//! With the client that the lease source uses.

use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, Txn, TxnOp, TxnOpResponse,
};
use flannel_ctl::store::server::{Options, spawn};
use tonic::Code;
use xtask::lab::Stopwatch;

use crate::Running;

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> (Code, String) {
    match answer.expect_err("refused") {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

fn owned(text: &str) -> String {
    text.to_owned()
}

#[tokio::test]
async fn puts_gets_and_deletes_carry_revisions_and_versions() {
    let store = Running::start().await;
    let mut client = store.client().await;
    for (index, value) in ["1", "2"].iter().enumerate() {
        let put = client.put("a", *value, Some(PutOptions::new().with_prev_key())).await.expect("puts");
        assert_eq!(put.header().map(etcd_client::ResponseHeader::revision), Some(2 + i64::try_from(index).unwrap()));
        assert_eq!(put.prev_key().map(|kv| kv.value().to_vec()), (index == 1).then(|| b"1".to_vec()));
    }
    let got = client.get("a", None).await.expect("gets");
    let kv = &got.kvs()[0];
    assert_eq!((kv.value(), kv.create_revision(), kv.mod_revision(), kv.version()), (&b"2"[..], 2, 3, 2));
    let old = client.get("a", Some(GetOptions::new().with_revision(2))).await.expect("gets");
    assert_eq!(old.kvs()[0].value(), b"1");
    let deleted = client.delete("a", Some(DeleteOptions::new().with_prefix())).await.expect("deletes");
    assert_eq!((deleted.deleted(), deleted.header().unwrap().revision()), (1, 4));
    assert_eq!(client.get("a", None).await.expect("gets").count(), 0);
}

#[tokio::test]
async fn a_key_is_created_once_however_many_try() {
    let store = Running::start().await;
    let mut tries = tokio::task::JoinSet::new();
    for id in 0..20 {
        let mut client = store.client().await;
        tries.spawn(async move {
            let txn = Txn::new()
                .when([Compare::create_revision("subnet", CompareOp::Equal, 0)])
                .and_then([TxnOp::put("subnet", id.to_string(), None)])
                .or_else([TxnOp::get("subnet", None)]);
            let answer = client.txn(txn).await.expect("answers");
            match answer.op_responses().remove(0) {
                TxnOpResponse::Put(_) => id.to_string(),
                TxnOpResponse::Get(got) => String::from_utf8(got.kvs()[0].value().to_vec()).expect("text"),
                other => panic!("{other:?}"),
            }
        });
    }
    let owners: std::collections::BTreeSet<String> = tries.join_all().await.into_iter().collect();
    assert_eq!(owners.len(), 1, "everybody saw the same winner");
    assert_eq!(store.client().await.get("subnet", None).await.expect("gets").kvs()[0].version(), 1);
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_alive_takes_its_keys_with_it() {
    let store = Running::start().await;
    let mut client = store.client().await;
    let start = Instant::now();
    let doomed = client.lease_grant(2, None).await.expect("grants").id();
    let kept = client.lease_grant(2, None).await.expect("grants").id();
    for (key, lease) in [("doomed", doomed), ("kept", kept)] {
        client.put(key, "", Some(PutOptions::new().with_lease(lease))).await.expect("puts");
    }
    let (mut keeper, mut alive) = client.lease_keep_alive(kept).await.expect("opens");
    while !client.get("doomed", None).await.expect("gets").kvs().is_empty() {
        keeper.keep_alive().await.expect("asks");
        assert_eq!(alive.message().await.expect("answers").expect("an answer").ttl(), 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(start.elapsed() < Duration::from_secs(20), "the lease never ended");
    }
    assert!(start.elapsed() >= Duration::from_millis(1500), "the lease ended early: {:?}", start.elapsed());
    assert_eq!(client.get("kept", None).await.expect("gets").count(), 1);
    let gone = client.lease_time_to_live(doomed, None).await.expect("answers");
    assert_eq!((gone.ttl(), gone.granted_ttl()), (-1, 0));
}

#[tokio::test]
async fn a_revoked_lease_is_gone_at_once_and_its_id_is_free_again() {
    let store = Running::start().await;
    let mut client = store.client().await;
    let with_id = || Some(LeaseGrantOptions::new().with_id(77));
    assert_eq!(client.lease_grant(60, with_id()).await.expect("grants").id(), 77);
    let exists = (Code::FailedPrecondition, owned("etcdserver: lease already exists"));
    assert_eq!(refusal(client.lease_grant(60, with_id()).await), exists);
    client.put("a", "", Some(PutOptions::new().with_lease(77))).await.expect("puts");
    let left = client.lease_time_to_live(77, Some(LeaseTimeToLiveOptions::new().with_keys())).await.expect("answers");
    assert_eq!((left.granted_ttl(), left.keys()), (60, &[b"a".to_vec()][..]));
    client.lease_revoke(77).await.expect("revokes");
    assert_eq!(client.get("a", None).await.expect("gets").count(), 0);
    let missing = (Code::NotFound, owned("etcdserver: requested lease not found"));
    assert_eq!(refusal(client.lease_revoke(77).await), missing);
    assert_eq!(refusal(client.put("a", "", Some(PutOptions::new().with_lease(77))).await), missing);
    client.lease_grant(60, with_id()).await.expect("grants again");
}

#[tokio::test]
async fn data_history_and_leases_survive_a_restart_and_lives_begin_anew() {
    let store = Running::start().await;
    let mut client = store.client().await;
    let lease = client.lease_grant(1000, None).await.expect("grants").id();
    client.put("a", "1", Some(PutOptions::new().with_lease(lease))).await.expect("puts");
    client.put("a", "2", Some(PutOptions::new().with_ignore_lease())).await.expect("puts");
    client.put("b", "1", None).await.expect("puts");
    client.delete("b", None).await.expect("deletes");
    let members = client.member_list().await.expect("lists").header().map(etcd_client::ResponseHeader::cluster_id);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(client.lease_time_to_live(lease, None).await.expect("answers").ttl() < 999);

    let store = store.restart().await;
    let mut client = store.client().await;
    let got = client.get("a", None).await.expect("gets");
    assert_eq!((got.kvs()[0].value(), got.kvs()[0].version(), got.kvs()[0].lease()), (&b"2"[..], 2, lease));
    assert_eq!(got.header().unwrap().revision(), 5);
    assert_eq!(client.get("b", Some(GetOptions::new().with_revision(4))).await.expect("gets").count(), 1);
    assert!(client.lease_time_to_live(lease, None).await.expect("answers").ttl() >= 999);
    let after = client.member_list().await.expect("lists").header().map(etcd_client::ResponseHeader::cluster_id);
    assert_eq!(after, members);
    client.lease_revoke(lease).await.expect("revokes");
    assert_eq!(client.get("a", None).await.expect("gets").count(), 0);
}

#[tokio::test]
async fn what_the_store_does_not_have_is_refused_with_words() {
    let store = Running::start().await;
    let mut client = store.client().await;
    for (code, text) in [
        refusal(client.auth_enable().await),
        refusal(client.defragment().await),
        refusal(client.member_promote(1).await),
        refusal(client.lock("a", None).await),
    ] {
        assert_eq!(code, Code::Unimplemented);
        assert!(text.contains("is not part of this embedded single-node store"), "{text}");
    }
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let store = Running::start().await;
    let mut client = store.client().await;
    let too_large = (Code::InvalidArgument, owned("etcdserver: request is too large"));
    assert_eq!(refusal(client.put("a", vec![0; 1_572_864], None).await), too_large);
    client.put("a", vec![0; 1_572_800], None).await.expect("puts");
    assert!(client.put("a", vec![0; 8 << 20], None).await.is_err());
    assert_eq!(client.get("a", None).await.expect("gets").kvs()[0].version(), 1);
}

#[tokio::test]
async fn reading_what_was_compacted_or_is_yet_to_come_is_refused() {
    let store = Running::start().await;
    let mut client = store.client().await;
    for value in ["1", "2", "3"] {
        client.put("a", value, None).await.expect("puts");
    }
    client.compact(3, None).await.expect("compacts");
    let compacted = (Code::OutOfRange, owned("etcdserver: mvcc: required revision has been compacted"));
    let future = (Code::OutOfRange, owned("etcdserver: mvcc: required revision is a future revision"));
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(refusal(client.get("a", at(2)).await), compacted);
    assert_eq!(client.get("a", at(3)).await.expect("gets").kvs()[0].value(), b"2");
    assert_eq!(refusal(client.get("a", at(5)).await), future);
    assert_eq!(refusal(client.compact(3, None).await), compacted);
    assert_eq!(refusal(client.compact(9, None).await), future);
}

#[tokio::test]
async fn history_is_bounded_without_anybody_compacting() {
    let store = Running::start_with(|options| options.limits.keep_revisions = 50).await;
    let mut client = store.client().await;
    for value in 0..200 {
        client.put("a", value.to_string(), None).await.expect("puts");
    }
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(refusal(client.get("a", at(100)).await).0, Code::OutOfRange);
    assert_eq!(client.get("a", at(152)).await.expect("still readable").kvs()[0].value(), b"150");
}

#[tokio::test]
async fn a_stop_is_quick_and_told_to_those_who_listen() {
    let store = Running::start().await;
    let mut client: Client = store.client().await;
    let mut watch = client.watch("a", None).await.expect("watches");
    let lease = client.lease_grant(60, None).await.expect("grants").id();
    let (mut keeper, mut alive) = client.lease_keep_alive(lease).await.expect("opens");
    keeper.keep_alive().await.expect("asks");
    alive.message().await.expect("answers");
    watch.message().await.expect("answers");
    let start = Stopwatch::start();
    store.handle.shutdown().await.expect("stops");
    start.assert_within(Duration::from_secs(5));
    let stopped = (Code::Unavailable, owned("etcdserver: server stopped"));
    assert_eq!(refusal(watch.message().await), stopped);
    assert_eq!(refusal(alive.message().await), stopped);
}

#[tokio::test]
async fn a_port_that_is_taken_and_an_address_that_is_elsewhere_are_told_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (taken, _listener) = taken.expect("listens");
    for (address, said) in [
        (taken, "Address already in use (os error 98); another store or etcd may have the port"),
        (
            "203.0.113.1:2379".parse().expect("an address"),
            "Cannot assign requested address (os error 99); no interface of this machine has the address",
        ),
    ] {
        let options = Options::new(address, dir.path().join("store.redb"));
        let error = spawn(options).await.expect_err("it cannot listen there");
        assert_eq!(error.to_string(), format!("listening on {address}: {said}"));
    }
}
