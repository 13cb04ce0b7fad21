//! Which certificates are believed when the feed is fetched.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::FetchError;
use super::fetch_error::Kind;

/// TLS 1.2 and 1.3, trusting Mozilla's roots as they are in the binary, or the certificates of
/// `ca_file` in their place. There is no way to trust everybody.
pub(super) fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let roots = match ca_file {
        Some(path) => roots_of(path)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    // Named, not the process's default: that one is whatever some dependency chose.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::new(Kind::Tls, "the HTTPS client", error))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn roots_of(path: &Path) -> Result<RootCertStore, FetchError> {
    let refuse = |cause: String| {
        FetchError::new(Kind::Tls, format_args!("feed.ca-file {}", path.display()), cause)
    };
    let pem = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(format!("is no PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| refuse(format!("has a bad certificate: {error}")))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no certificate".to_owned()));
    }
    Ok(roots)
}
