//! Who may come, and what is told when not.

use xtask::lab::certificates;

use super::*;
use crate::lab::openssl_is_there;

fn with_tls(client_certificates: bool) -> Lab {
    let pki = TempDir::new().unwrap();
    certificates(pki.path()).unwrap();
    let lab = Lab::with(&KubeApiOptions { tls: Some(pki.path().into()), client_certificates });
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(pki.path().join(name), lab.path(name)).unwrap();
    }
    lab
}

/// What a start that does not succeed complains of.
async fn complaint(lab: &Lab) -> String {
    let (told, hears) = std::sync::mpsc::channel();
    let mut source = lab.source().telling(move |text| drop(told.send(text.to_owned())));
    tokio::select! {
        _ = source.network() => panic!("it starts"),
        text = async {
            loop {
                if let Ok(text) = hears.try_recv() {
                    return text;
                }
                sleep(Duration::from_millis(5)).await;
            }
        } => text,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_by_the_clusters_own_ca_and_none_other() {
    if !openssl_is_there() {
        return;
    }
    let lab = with_tls(false);
    let ca = format!("certificate-authority: {}", lab.path("ca.pem").display());
    lab.api.kubeconfig_with(&lab.path("kubeconfig"), &ca, "token: the-secret").unwrap();
    lab.api.accept(&["the-secret"]);
    let mut node = lab.run().await;
    node.until_listed().await;
    lab.api.add_peer("n2", "10.5.2.0/24", "192.0.2.2", MAC);
    node.until("a peer", |node| node.leases.contains_key("10.5.2.0-24")).await;
    node.stop().await;

    let other = TempDir::new().unwrap();
    certificates(other.path()).unwrap();
    let wrong = format!("certificate-authority: {}", other.path().join("ca.pem").display());
    lab.api.kubeconfig_with(&lab.path("kubeconfig"), &wrong, "token: the-secret").unwrap();
    let text = complaint(&lab).await;
    assert!(text.contains(&lab.api.url()) && text.contains("certificate") && text.contains("the CA must be"), "{text}");
    lab.api.kubeconfig_with(&lab.path("kubeconfig"), "insecure-skip-tls-verify: true", "token: the-secret").unwrap();
    let node = lab.run().await;
    node.stop().await;
    lab.api.kubeconfig_with(&lab.path("kubeconfig"), &ca, "token: not-the-secret").unwrap();
    let text = complaint(&lab).await;
    assert!(text.contains("401") && text.contains("expired") && !text.contains("not-the-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_as_good_as_a_token() {
    if !openssl_is_there() {
        return;
    }
    let lab = with_tls(true);
    let ca = format!("certificate-authority: {}", lab.path("ca.pem").display());
    // Relative paths start at the kubeconfig.
    let user = "{client-certificate: client.pem, client-key: client.key}";
    lab.api.kubeconfig_with(&lab.path("kubeconfig"), &ca, user).unwrap();
    let mut node = lab.run().await;
    node.until_listed().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_kubeconfig_is_not_quoted() {
    let lab = Lab::new();
    let text = "apiVersion: v1\nkind: Config\nusers:\n- name: lab\n  user: {token: [the-secret\n";
    fs::write(lab.path("kubeconfig"), text).unwrap();
    let said = complaint(&lab).await;
    assert!(said.contains("not a kubeconfig") && !said.contains("the-secret"), "{said}");
    fs::remove_file(lab.path("kubeconfig")).unwrap();
    let said = complaint(&lab).await;
    assert!(said.contains("No such file or directory"), "{said}");
    fs::write(lab.path("token"), "ends-in-a-line-break\n").unwrap();
    lab.api.kubeconfig(&lab.path("kubeconfig"), "tokenFile: token").unwrap();
    let said = complaint(&lab).await;
    assert!(said.contains("line break") && !said.contains("ends-in"), "{said}");
}
