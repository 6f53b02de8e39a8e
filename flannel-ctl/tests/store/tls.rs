//! TLS, with certificates made on the spot.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use flannel_ctl::store::server::TlsFiles;

use crate::Running;
use crate::directory;
use crate::process::installed;

fn openssl(directory: &Path, args: &str) {
    let status = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()
        .expect("runs");
    assert!(status.success(), "openssl {args}");
}

/// A CA, and certificates that it signed for the server and for a client.
fn certificates(directory: &Path) {
    const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {EC} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"));
    for name in ["server", "client"] {
        openssl(
            directory,
            &format!(
                "req -x509 {EC} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name} -CA ca.pem -CAkey ca.key \
                 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
            ),
        );
    }
}

async fn connect(store: &Running, tls: TlsOptions) -> Result<i64, etcd_client::Error> {
    let options = ConnectOptions::new().with_tls(tls);
    let mut client = Client::connect([format!("https://{}", store.handle.address())], Some(options)).await?;
    client.put("a", "1", None).await.map(|put| put.header().expect("a header").revision())
}

#[tokio::test]
async fn tls_serves_who_trusts_the_ca_and_may_demand_a_client_certificate() {
    if !installed("openssl", "openssl") {
        return;
    }
    let directory = directory();
    certificates(directory.path());
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let pem = |name: &str| std::fs::read(path(name)).expect("reads");
    let files = |trusted_ca| Some(TlsFiles { cert: path("server.pem"), key: path("server.key"), trusted_ca });
    let ca = || TlsOptions::new().ca_certificate(Certificate::from_pem(pem("ca.pem")));
    let identity = || Identity::from_pem(pem("client.pem"), pem("client.key"));

    let open = Running::start_with(|options| options.tls = files(None)).await;
    assert_eq!(connect(&open, ca()).await.expect("a CA is enough"), 2);
    assert!(connect(&open, TlsOptions::new()).await.is_err(), "an unknown CA must not be trusted");
    let plain = Client::connect([open.handle.address().to_string()], None).await;
    assert!(match plain {
        Ok(mut client) => client.put("a", "1", None).await.is_err(),
        Err(_) => true,
    });

    let closed = Running::start_with(|options| options.tls = files(Some(path("ca.pem")))).await;
    assert_eq!(connect(&closed, ca().identity(identity())).await.expect("a client certificate opens"), 2);
    assert!(connect(&closed, ca()).await.is_err(), "no client certificate, no service");
}
