//! Outbound TLS: one rustls config per `https` upstream.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Diagnostic, ServerScheme, UpstreamSpec};

use super::pem::{self, FileError};
use super::{FileExpiry, Fingerprint, diagnose, server};

/// The config of one upstream, with what tells whether a reload changed it.
pub(super) struct UpstreamClient {
    pub fingerprint: [u8; 32],
    pub config: Arc<ClientConfig>,
    pub expiry: Option<FileExpiry>,
}

/// `None` for a plain upstream and where a diagnostic says why not. Fails closed: the application's certificate is always
/// verified, by webpki-roots or by `ca` alone.
pub(super) fn load(
    spec: &UpstreamSpec,
    provider: &Arc<CryptoProvider>,
    previous: &[Option<UpstreamClient>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<UpstreamClient> {
    if !spec.servers.iter().any(|server| server.value.scheme == ServerScheme::Https) {
        return None;
    }
    let before = diagnostics.len();
    let mut fingerprint = Fingerprint::default();
    fingerprint.part(spec.name.as_bytes());
    let mut roots = RootCertStore::empty();
    match &spec.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => match pem::certificates(&file.value) {
            Ok(certificates) => {
                for certificate in certificates {
                    fingerprint.part(&certificate);
                    if let Err(error) = roots.add(certificate) {
                        let error = FileError::bare(format!("holds a certificate that cannot be a root: {error}"));
                        diagnostics.push(diagnose(error.in_file(&file.value), &file.span));
                    }
                }
            }
            Err(error) => diagnostics.push(diagnose(error, &file.span)),
        },
    }
    fingerprint.part(b"client certificate");
    let mut identity = None;
    let mut expiry = None;
    if let Some(files) = &spec.client_certificate {
        let (key, until) = server::certified_key(files, provider, diagnostics)?;
        key.cert.iter().for_each(|certificate| fingerprint.part(certificate));
        expiry = until;
        identity = Some(key);
    }
    if diagnostics.len() > before {
        return None;
    }
    let fingerprint = fingerprint.finish();
    // the same value for the same thing: connections and sessions of an unchanged upstream live on
    if let Some(previous) = previous.iter().flatten().find(|previous| previous.fingerprint == fingerprint) {
        return Some(UpstreamClient { fingerprint, config: previous.config.clone(), expiry });
    }
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = match builder {
        Ok(builder) => builder.with_root_certificates(roots),
        Err(error) => {
            diagnostics.push(Diagnostic::error(format!("upstream.{}: {error}", spec.name), &crate::config::Span::default()));
            return None;
        }
    };
    let mut config = match identity {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = super::alpn();
    Some(UpstreamClient { fingerprint, config: Arc::new(config), expiry })
}
