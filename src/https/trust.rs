//! TLS trust and identity: the trusted authorities, and a client certificate with its key, from PEM files that are
//! read anew for each connection, so that a rotated file is used at the next.
//!
//! rustls-native-certs reads the system's authorities, once for a client: from the file `SSL_CERT_FILE` or the
//! folders `SSL_CERT_DIR` if one of them is set, otherwise from where openssl-probe finds them (`/etc/ssl/certs` on
//! Debian). None are compiled in: the distribution maintains them. Revocation lists are not checked, and verification
//! cannot be disabled.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::HttpErrorCause;

/// Our client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// A PEM file with our certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// A PEM file with its key. It may be the same file.
    pub key: PathBuf,
}

/// The configured files, and the system's authorities.
#[derive(Debug)]
pub(super) struct TrustAnchors {
    roots: Option<PathBuf>,
    identity: Option<ClientIdentity>,
    system: OnceLock<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl TrustAnchors {
    pub(super) fn new(roots: Option<PathBuf>, identity: Option<ClientIdentity>) -> Self {
        Self { roots, identity, system: OnceLock::new(), provider: Arc::new(ring::default_provider()) }
    }

    /// The TLS configuration for the next connection.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, HttpErrorCause> {
        let roots = match &self.roots {
            Some(path) => Arc::new(authorities(path)?),
            None => self.system()?,
        };
        let tls = |error: tokio_rustls::rustls::Error| HttpErrorCause::Tls((&error).into());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, self.provider.clone())
            .build()
            .map_err(|_| HttpErrorCause::NoRoots)?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_webpki_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(ClientIdentity { certificate, key }) => {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|error| pem(key, format!("has no private key: {error}")))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| pem(key, format!("is not the key of {}: {error}", certificate.display())))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn system(&self) -> Result<Arc<RootCertStore>, HttpErrorCause> {
        if let Some(store) = self.system.get() {
            return Ok(store.clone());
        }
        let mut store = RootCertStore::empty();
        // One invalid certificate does not make the others invalid.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(HttpErrorCause::NoRoots);
        }
        Ok(self.system.get_or_init(|| Arc::new(store)).clone())
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, HttpErrorCause> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| pem(path, format!("has a certificate of no authority: {error}")))?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpErrorCause> {
    let text = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| pem(path, format!("has no certificates in PEM: {error}")))?;
    if all.is_empty() { Err(pem(path, "has no certificate in PEM".to_owned())) } else { Ok(all) }
}

fn pem(path: &Path, what: String) -> HttpErrorCause {
    HttpErrorCause::Pem { path: path.to_owned(), what }
}

fn read(path: &Path) -> Result<Vec<u8>, HttpErrorCause> {
    fs::read(path).map_err(|source| HttpErrorCause::File { path: path.to_owned(), source })
}
