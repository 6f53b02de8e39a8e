//! TLS, client certificates, users.

use std::{path::Path, process::Command, time::Duration};

use etcd_client::{Client, Permission, PermissionType, PutOptions, UserAddOptions};
use flannel_ctl::{
    config::{EtcdConfig, LeaseOptions, Secret},
    source::{Event, etcd::Connector},
};
use tempfile::TempDir;
use tokio::time::Instant;
use xtask::lab::Stopwatch;

use crate::{
    lab::{NETWORK, PREFIX, Server, config, openssl_is_there},
    node::{Node, Setup, flannel_value, key},
};

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `ca.crt`, and signed by it `server.crt` and `client.crt` with their keys; `other.crt` is the
/// certificate of a CA that signed nothing.
fn certificates() -> TempDir {
    let dir = TempDir::new().unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for ca in ["ca", "other"] {
        openssl(dir.path(), &format!("req -x509 {key} -keyout {ca}.key -out {ca}.crt -subj /CN={ca} -days 30"));
    }
    std::fs::write(
        dir.path().join("extensions"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    for name in ["server", "client"] {
        openssl(dir.path(), &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions";
        openssl(dir.path(), &format!("x509 -req -in {name}.csr -out {name}.crt {sign}"));
    }
    dir
}

fn with_ca(server: &Server, dir: &TempDir, ca: &str) -> EtcdConfig {
    EtcdConfig { ca_file: Some(dir.path().join(ca)), ..config(&[&server.url]) }
}

/// Serves TLS; `more` asks for client certificates.
async fn tls_server(dir: &TempDir, ready: impl Fn(&Server) -> EtcdConfig, client_auth: bool) -> Option<Server> {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let mut arguments = vec!["--cert-file", cert.as_str(), "--key-file", &key];
    if client_auth {
        arguments.extend(["--client-cert-auth", "--trusted-ca-file", &ca]);
    }
    let server = Server::etcd_tls(&arguments)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Connector::new(ready(&server)).connect().await {
            Ok(session) => {
                assert!(session.put_config(NETWORK.as_bytes(), None).await.unwrap());
                return Some(server);
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn refusal(config: EtcdConfig) -> String {
    Connector::new(config).connect().await.err().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_alone_is_enough_and_the_right_one_is_needed() {
    if !openssl_is_there() {
        return;
    }
    let dir = certificates();
    let Some(server) = tls_server(&dir, |server| with_ca(server, &dir, "ca.crt"), false).await else { return };
    let mut node = Setup::new(with_ca(&server, &dir, "ca.crt"), "a", "192.0.2.1").run().await;
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;

    for config in [with_ca(&server, &dir, "other.crt"), config(&[&server.url])] {
        let text = refusal(config).await;
        assert!(text.contains("UnknownIssuer") && text.contains("the CA file must be the one"), "{text}");
    }
    let text = refusal(with_ca(&server, &dir, "absent.crt")).await;
    assert!(text.contains("read CA file") && text.contains("absent.crt: No such file"), "{text}");
    let text = refusal(with_ca(&server, &dir, "extensions")).await;
    assert!(text.contains("no PEM block"), "{text}");
    let text = refusal(config(&[&server.url.replace("https", "http")])).await;
    assert!(text.contains(&server.url.replace("https", "http")) && text.contains("it speaks TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_where_etcd_wants_one() {
    if !openssl_is_there() {
        return;
    }
    let dir = certificates();
    let full = |server: &Server| EtcdConfig {
        cert_file: Some(dir.path().join("client.crt")),
        key_file: Some(dir.path().join("client.key")),
        ..with_ca(server, &dir, "ca.crt")
    };
    let Some(server) = tls_server(&dir, full, true).await else { return };
    let (_source, lease) = Setup::new(full(&server), "a", "192.0.2.1").acquire().await;
    assert!(lease.key.starts_with("10.5."));
    let text = refusal(with_ca(&server, &dir, "ca.crt")).await;
    assert!(text.contains("etcd wants a client certificate that it trusts: give one, in date"), "{text}");
}

/// A network whose users are `root` and `node`, whose role has rights below the prefix; and root's connection.
async fn with_users(server: &Server) -> Client {
    let mut root = server.with_network(NETWORK).await;
    root.role_add("flannel").await.unwrap();
    grant(&mut root, PermissionType::Readwrite).await;
    for (user, role) in [("root", "root"), ("node", "flannel")] {
        root.user_add(user, "secret", Some(UserAddOptions::new())).await.unwrap();
        if user == "root" {
            root.role_add("root").await.unwrap();
        }
        root.user_grant_role(user, role).await.unwrap();
    }
    root.auth_enable().await.unwrap();
    let as_root = etcd_client::ConnectOptions::new().with_user("root", "secret").with_auto_token_refresh(true);
    Client::connect([&server.url], Some(as_root)).await.unwrap()
}

async fn grant(root: &mut Client, right: PermissionType) {
    let below = Permission::new(right, format!("{PREFIX}/")).with_prefix();
    root.role_grant_permission("flannel", below).await.unwrap();
}

async fn revoke(root: &mut Client) {
    let below = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
    root.role_revoke_permission("flannel", format!("{PREFIX}/"), Some(below)).await.unwrap();
}

fn login(server: &Server, password: &str) -> EtcdConfig {
    EtcdConfig { username: Some("node".into()), password: Some(Secret::new(password)), ..server.config() }
}

fn refusals(node: &Node) -> usize {
    node.count(|event| matches!(event, Event::Disconnected(text) if text.contains("check user, password")))
}

fn connections(node: &Node) -> usize {
    node.count(|event| *event == Event::Connected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_rights_below_the_prefix() {
    // Tokens that expire within the test.
    let Some(server) = Server::etcd(&["--auth-token-ttl", "2"]).await else { return };
    let mut root = with_users(&server).await;
    let mut node = Setup::new(login(&server, "secret"), "a", "192.0.2.1").run().await;
    node.until("connected", |node| node.heard.contains(&Event::Connected)).await;
    let text = refusal(login(&server, "wrong")).await;
    assert!(text.contains("invalid user ID or password") && text.contains("check user, password"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
    let text = refusal(server.config()).await;
    assert!(text.contains("user name is empty"), "{text}");

    // The token is long gone when our key has to be written again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let owns = node.count(|event| matches!(event, Event::Own(_)));
    root.delete(key(&node.acquired.key), None).await.unwrap();
    node.until("our lease is back", |node| node.count(|event| matches!(event, Event::Own(_))) > owns).await;

    // Rights taken away, and given back.
    revoke(&mut root).await;
    root.delete(key(&node.acquired.key), None).await.unwrap();
    node.until("the refusal is told", |node| {
        node.heard.iter().any(|event| matches!(event, Event::Disconnected(text) if text.contains("permission denied")))
    })
    .await;
    root.put(key("10.5.99.0-24"), flannel_value("192.0.2.9"), Some(PutOptions::new())).await.unwrap();
    grant(&mut root, PermissionType::Readwrite).await;
    let start = Stopwatch::start();
    let owns = node.count(|event| matches!(event, Event::Own(_)));
    node.until("all is well again", |node| {
        node.count(|event| matches!(event, Event::Own(_))) > owns && node.leases.contains_key("10.5.99.0-24")
    })
    .await;
    start.assert_within(Duration::from_secs(12));
}

/// A watch that goes on is never asked for its right again, and nothing else has to be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_lost_on_a_quiet_connection_are_missed_soon() {
    let Some(server) = Server::etcd(&[]).await else { return };
    let mut root = with_users(&server).await;
    // The right to write is looked at as often as the lease is renewed.
    let options = LeaseOptions { ttl: Duration::from_secs(30), ..LeaseOptions::default() };
    let setup = Setup { options, ..Setup::new(login(&server, "secret"), "a", "192.0.2.1") };
    let mut node = setup.run().await;
    node.until("connected", |node| connections(node) == 1).await;
    for (n, loss) in ["right", "right to write", "role", "password"].into_iter().enumerate() {
        match loss {
            "right" => revoke(&mut root).await,
            "right to write" => {
                revoke(&mut root).await;
                grant(&mut root, PermissionType::Read).await;
            }
            "role" => drop(root.user_revoke_role("node", "flannel").await.unwrap()),
            _ => drop(root.user_change_password("node", "another").await.unwrap()),
        }
        let lost = Instant::now();
        let before = refusals(&node);
        node.until("the refusal is told", |node| refusals(node) > before).await;
        println!("{loss}: told after {:?}", lost.elapsed());
        match loss {
            "right" | "right to write" => grant(&mut root, PermissionType::Readwrite).await,
            "role" => drop(root.user_grant_role("node", "flannel").await.unwrap()),
            _ => drop(root.user_change_password("node", "secret").await.unwrap()),
        }
        let given = Instant::now();
        node.until("connected again", |node| connections(node) > n + 1).await;
        println!("{loss}: connected {:?} after it was given back", given.elapsed());
    }
    assert!(matches!(&node.own, Some(own) if own.key == node.acquired.key));
}
