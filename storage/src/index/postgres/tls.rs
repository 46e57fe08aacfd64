//! TLS to the server: trusted authorities, and the connector.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresOptions;
use crate::types::{Error, ErrorKind, Result};

/// Returns a connector that verifies the certificate and the name of the server.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the file of the options has no certificate.
pub(super) fn connector(options: &PostgresOptions) -> Result<MakeRustlsConnect> {
    let roots = match &options.root_certificates {
        Some(file) => {
            let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
                let message = "the file of root certificates can't be read";
                Error::new(ErrorKind::Invalid, "open", message).with_source(error)
            };
            let certificates = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| invalid(error.into()))?;
            trusted(certificates).ok_or_else(|| invalid("it has no valid certificate".into()))?
        }
        // A machine without authorities can still connect without TLS.
        None => trusted(rustls_native_certs::load_native_certs().certs)
            .unwrap_or_else(RootCertStore::empty),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::new(ErrorKind::Invalid, "open", "TLS is not possible").with_source(error)
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Returns the authorities of these certificates, or `None` if none is valid.
fn trusted(certificates: Vec<CertificateDer<'static>>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (valid, _) = roots.add_parsable_certificates(certificates);
    (valid > 0).then_some(roots)
}
