//! Certificates, good and expired, and what of them must never be printed.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;
use xtask::lab::{EtcdOptions, certificates, run};

const CA: &str = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nnew_certs_dir = .\ndefault_md = sha256\n\
                  policy = p\nrand_serial = yes\nunique_subject = no\n[p]\ncommonName = supplied\n";

/// `ca.pem`, `server.*` and `client.*`; `expired-server.pem` and `expired-client.pem` for the same keys;
/// `other/` is another CA with all of its own. What is in use lies in `use/`, to be exchanged.
pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let pki = Self { dir: TempDir::new().unwrap() };
        certificates(pki.dir.path()).unwrap();
        certificates(&pki.path("other")).unwrap();
        fs::write(pki.path("ca.conf"), CA).unwrap();
        fs::write(pki.path("index.txt"), "").unwrap();
        let gateway = xtask::lab::GATEWAY_V4;
        fs::write(pki.path("ext"), format!("subjectAltName=IP:{gateway}\nextendedKeyUsage=serverAuth,clientAuth\n"))
            .unwrap();
        for name in ["server", "client"] {
            let line = format!(
                "ca -config ca.conf -batch -notext -in {name}.csr -out expired-{name}.pem -cert ca.pem \
                 -keyfile ca.key -startdate 20200101000000Z -enddate 20210101000000Z -extfile ext"
            );
            run(Command::new("openssl").current_dir(pki.dir.path()).args(line.split(' '))).unwrap();
        }
        fs::create_dir(pki.path("use")).unwrap();
        for file in ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"] {
            pki.put_in_use(file, file);
        }
        pki
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file that etcd or a daemon was told of.
    pub(crate) fn used(&self, name: &str) -> PathBuf {
        self.path("use").join(name)
    }

    /// Replaces a file in use, as whoever renews certificates does: in one step.
    pub(crate) fn put_in_use(&self, file: &str, from: &str) {
        let new = self.path("use").join("new");
        fs::copy(self.path(from), &new).unwrap();
        fs::rename(new, self.used(file)).unwrap();
    }

    /// etcd on the server certificate in use; with `client_auth` it wants client certificates too.
    pub(crate) fn etcd(&self, client_auth: bool) -> EtcdOptions {
        let path = |name: &str| self.path(name).display().to_string();
        let mut options = EtcdOptions {
            args: Vec::new(),
            tls: Some((self.used("server.pem"), self.used("server.key"))),
            // It has to work when etcd's certificate is the one that has expired.
            client: vec!["--insecure-transport=false".into(), "--insecure-skip-tls-verify".into()],
        };
        if client_auth {
            options.args = vec!["--client-cert-auth".into(), "--trusted-ca-file".into(), path("ca.pem")];
            options.client.extend(["--cert".into(), path("client.pem"), "--key".into(), path("client.key")]);
        }
        options
    }

    /// The daemons' arguments.
    pub(crate) fn arguments(&self, client_auth: bool) -> Vec<String> {
        let argument = |option: &str, file: &str| format!("--{option}={}", self.used(file).display());
        let mut arguments = vec![argument("etcd-cafile", "ca.pem")];
        if client_auth {
            arguments.extend([argument("etcd-certfile", "client.pem"), argument("etcd-keyfile", "client.key")]);
        }
        arguments
    }

    /// The client key in every form in which a log could have it: lines of the file, its bytes as `Debug` writes them.
    pub(crate) fn key_material(&self) -> Vec<String> {
        let pem = fs::read_to_string(self.path("client.key")).unwrap();
        let lines: Vec<_> = pem.lines().filter(|line| !line.contains("-----")).map(str::to_owned).collect();
        let der = run(Command::new("openssl")
            .args(["pkey", "-outform", "DER", "-in"])
            .arg(self.path("client.key"))
            .args(["-out"])
            .arg(self.path("client.der")));
        der.unwrap();
        let der = fs::read(self.path("client.der")).unwrap();
        // The secret number stands in the middle; a dozen of its bytes are enough to recognise it.
        let middle = &der[40..52];
        let listed = format!("{middle:?}").trim_matches(['[', ']']).to_owned();
        let hex: String = middle
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        lines.into_iter().chain([listed, hex]).collect()
    }
}
