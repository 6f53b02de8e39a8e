//! Who is who in a cluster: keys, certificates, kubeconfigs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use xtask::lab::{certificates, run};

/// The CA and the server's certificate; a certificate of an administrator; the keys of service account tokens.
pub(crate) fn make(dir: &Path) -> Result<()> {
    certificates(dir)?;
    certificate(dir, "admin", "/O=system:masters/CN=admin")?;
    openssl(dir, "genrsa -out sa.key 2048")?;
    openssl(dir, "rsa -in sa.key -pubout -out sa.pub")
}

/// A client certificate: `CN` is the user, `O` the group.
pub(crate) fn certificate(dir: &Path, name: &str, subject: &str) -> Result<()> {
    fs::write(dir.join("ext"), "extendedKeyUsage=clientAuth\n")?;
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj {subject}"
        ),
    )?;
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ),
    )
}

/// A kubeconfig for who has this certificate.
pub(crate) fn kubeconfig(path: &Path, server: &str, dir: &Path, name: &str) -> Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\ncontexts:\n- name: lab\n  context: {{cluster: lab, user: \
         lab}}\nclusters:\n- name: lab\n  cluster: {{server: '{server}', certificate-authority: {}}}\nusers:\n- name: \
         lab\n  user: {{client-certificate: {}, client-key: {}}}\n",
        file("ca.pem"),
        file(&format!("{name}.pem")),
        file(&format!("{name}.key")),
    );
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn openssl(dir: &Path, line: &str) -> Result<()> {
    run(Command::new("openssl").current_dir(dir).args(line.split(' '))).map(drop)
}
