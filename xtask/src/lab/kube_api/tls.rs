//! TLS for the fake API server.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

/// With the certificates of [`super::super::certificates`]. `clients`: only who has a certificate of that CA may come.
pub(super) fn config(dir: &Path, clients: bool) -> Result<Arc<ServerConfig>> {
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
        let path = dir.join(name);
        let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
        read.with_context(|| format!("reading {}", path.display()))
    };
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).context("reading server.key")?;
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("ca.pem")?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        builder
            .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
    } else {
        builder.with_no_client_auth()
    };
    Ok(Arc::new(builder.with_single_cert(certificates("server.pem")?, key)?))
}
