//! The gateway's own certificates by SNI, and one rustls config per site with tickets of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ServerConfig};
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::{CertificateFiles, Diagnostic, TlsVersion};
use crate::policy::route::HostPattern;

use super::authority::span;
use super::pem::{self, FileError};
use super::{FileExpiry, diagnose, timestamp};

/// Sessions kept per site for TLS 1.2 clients that cannot hold a ticket.
const SESSIONS: usize = 256;

/// All `[[tls.certificate]]`, by the DNS names they bear.
#[derive(Default)]
pub(super) struct ServerCertificates {
    /// Where there is no SNI.
    first: Option<Arc<CertifiedKey>>,
    exact: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows `*.`.
    wildcard: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    pub expiries: Vec<FileExpiry>,
}

/// What resumption of one site hangs on. Never shared between sites: rustls checks no client certificate on resumption.
#[derive(Clone)]
pub(super) struct Resumption {
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl ServerCertificates {
    /// Fails closed: a file that cannot be used, or a key that is not the certificate's, refuses the config. An expired
    /// certificate is served (its end is among the expiries): refusing to start would help nobody.
    pub(super) fn load(files: &[CertificateFiles], provider: &CryptoProvider, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut certificates = Self::default();
        for file in files {
            let Some((key, expiry)) = certified_key(file, provider, diagnostics) else { continue };
            let key = Arc::new(key);
            certificates.expiries.extend(expiry);
            certificates.first.get_or_insert_with(|| key.clone());
            for name in dns_names(&key) {
                match name.strip_prefix("*.") {
                    Some(rest) => certificates.wildcard.entry(rest.to_owned()).or_default().push(key.clone()),
                    None => certificates.exact.entry(name).or_default().push(key.clone()),
                }
            }
        }
        certificates
    }

    /// Whether every name that the pattern stands for would find a certificate. An address never comes as SNI and needs none.
    pub(super) fn cover(&self, host: &HostPattern) -> bool {
        match host {
            HostPattern::Exact(host) => is_address(host) || !self.by_name(host).is_empty(),
            HostPattern::Wildcard(host) => self.wildcard.contains_key(host),
        }
    }

    /// Every certificate that may be chosen for a name under the pattern, in a fixed order.
    pub(super) fn behind(&self, host: &HostPattern) -> Vec<&Arc<CertifiedKey>> {
        match host {
            HostPattern::Exact(host) => self.by_name(host).iter().collect(),
            HostPattern::Wildcard(rest) => {
                let exact = self.exact.iter().filter(|(name, _)| name.split_once('.').is_some_and(|(_, parent)| parent == rest));
                exact.map(|(_, keys)| keys).chain(self.wildcard.get(rest)).flatten().collect()
            }
        }
    }

    /// The one that is served without SNI.
    pub(super) fn first(&self) -> Option<&Arc<CertifiedKey>> {
        self.first.as_ref()
    }

    /// Exact before wildcard (one label).
    fn by_name(&self, host: &str) -> &[Arc<CertifiedKey>] {
        let wildcard = || host.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(host).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ServerCertificates {
    /// The first certificate of the name that the client can verify, so that an RSA and an ECDSA one may stand side by side.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else { return self.first.clone() };
        let keys = self.by_name(&name.to_ascii_lowercase());
        let usable = keys.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(keys.first()).cloned()
    }
}

impl fmt::Debug for ServerCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.exact.keys().chain(self.wildcard.keys()).collect();
        f.debug_struct("ServerCertificates").field("names", &names).finish_non_exhaustive()
    }
}

impl Resumption {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { tickets: rustls::crypto::aws_lc_rs::Ticketer::new()?, sessions: ServerSessionMemoryCache::new(SESSIONS) })
    }
}

/// The config of one site, or of connections without SNI (`verifier` is `None`: nobody is asked).
pub(super) fn config(
    provider: &Arc<CryptoProvider>,
    min_version: TlsVersion,
    certificates: Arc<ServerCertificates>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resumption: &Resumption,
) -> Result<ServerConfig, Error> {
    let versions: &[_] = match min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    // without it a session of TLS 1.2 is not bound to its handshake, and a certificate could be relayed (RFC 7627)
    let require_ems = verifier.is_some();
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(certificates);
    config.alpn_protocols = super::alpn();
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 1;
    config.require_ems = require_ems;
    config.ticketer = resumption.tickets.clone();
    config.session_storage = resumption.sessions.clone();
    Ok(config)
}

/// A chain with the key that belongs to its leaf, for serving or for showing to an upstream.
pub(super) fn certified_key(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(CertifiedKey, Option<FileExpiry>)> {
    let chain = pem::certificates(&files.chain.value).map_err(|error| diagnostics.push(diagnose(error, &files.chain.span))).ok();
    let key = pem::private_key(&files.key.value)
        .and_then(|key| {
            provider.key_provider.load_private_key(key.clone_key()).map_err(|error| {
                FileError::new(
                    format!("holds a private key that cannot be used: {error}"),
                    "RSA (2,048 bits and more), P-256, P-384, P-521 and Ed25519 can",
                )
                .in_file(&files.key.value)
            })
        })
        .map_err(|error| diagnostics.push(diagnose(error, &files.key.span)))
        .ok();
    let (chain, key) = (chain?, key?);
    let expiry = validity(&chain).and_then(|parts| span("certificate", &files.chain.value, parts.into_iter()));
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) if expiry.is_some() => Some((certified, expiry)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let error = FileError::new(
                format!("is not the key of the first certificate in {}", files.chain.value.display()),
                "the chain file begins with the certificate of this key, its issuers follow",
            );
            diagnostics.push(diagnose(error.in_file(&files.key.value), &files.key.span));
            None
        }
        Ok(()) | Err(_) => {
            let error = FileError::bare("holds a certificate that cannot be read").in_file(&files.chain.value);
            diagnostics.push(diagnose(error, &files.chain.span));
            None
        }
    }
}

fn validity(chain: &[rustls::pki_types::CertificateDer<'_>]) -> Option<Vec<(jiff::Timestamp, jiff::Timestamp)>> {
    let dates = chain.iter().map(|der| {
        let (_, fields) = X509Certificate::from_der(der).ok()?;
        let validity = fields.validity();
        Some((timestamp(validity.not_before.timestamp()), timestamp(validity.not_after.timestamp())))
    });
    dates.collect()
}

fn dns_names(key: &CertifiedKey) -> Vec<String> {
    let names = key.cert.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok()).map(|leaf| {
        let mut names: Vec<_> = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    names.unwrap_or_default()
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok()
}
