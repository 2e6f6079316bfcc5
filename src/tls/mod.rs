//! TLS: server configs per SNI, judgement of client certificates, CRLs; client configs for upstreams.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use crate::clock::Now;
use crate::config::{Config, Diagnostic};
use crate::policy::route::Sni;
use crate::policy::{CertCause, Identity, SiteId};

/// Everything TLS of one snapshot: loaded whole or not at all.
pub struct TlsState {}

/// How to answer one ClientHello.
pub struct ServerChoice {
    pub config: Arc<rustls::ServerConfig>,
    pub sni: Sni,
}

/// The SNI names no site: the handshake is refused with `unrecognized_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownServerName;

/// What a certificate chain is worth on a site, and how long that verdict may be kept.
#[derive(Clone, Debug)]
pub struct CertVerdict {
    pub result: Result<Arc<Identity>, CertCause>,
    /// The earliest end of any certificate in the path or CRL behind it; judge again from here on.
    pub valid_until: Timestamp,
}

/// A certificate refused in a handshake or judged not to hold, for the event. Text is unverified, capped, escaped.
#[derive(Clone, Debug)]
pub struct RefusedCertificate {
    pub subject: String,
    pub issuer: String,
    pub cause: CertCause,
}

/// A certificate or CRL file and its end, for `status`, metrics and warnings.
#[derive(Clone, Debug)]
pub struct FileExpiry {
    /// `certificate`, `crl` or `client-ca`.
    pub kind: &'static str,
    pub path: PathBuf,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl TlsState {
    /// Loads keys, chains, CA sets and CRLs. Fails closed: any file that cannot be used is an error with its place in the
    /// config. Unchanged sites (same certificates, same client-verification state) keep `previous`'s ticket keys and
    /// session cache; changed ones never do.
    pub fn prepare(_config: &Config, _previous: Option<&TlsState>) -> Result<Self, Vec<Diagnostic>> {
        todo!("tls")
    }

    /// By SNI (canonical, lower case); `None`: no SNI, so the first certificate and no client certificate asked.
    pub fn server(&self, _sni: Option<&str>) -> Result<ServerChoice, UnknownServerName> {
        todo!("tls")
    }

    /// Judges a presented chain (leaf first) for a site. Fails closed: unknown status, expired CRL, missing EKU, ... do not hold.
    pub fn judge(&self, _site: SiteId, _chain: &[CertificateDer<'_>], _now: Now) -> CertVerdict {
        todo!("tls")
    }

    /// Outbound config per upstream (`Config::upstreams` order); `None` for plain ones.
    pub fn upstream_clients(&self) -> &[Option<Arc<rustls::ClientConfig>>] {
        todo!("tls")
    }

    pub fn expiries(&self) -> Vec<FileExpiry> {
        todo!("tls")
    }

    /// Every file that was read, for the watch.
    pub fn files(&self) -> Vec<PathBuf> {
        todo!("tls")
    }
}

/// Names of an unverified leaf, for events.
pub fn describe(_leaf: &CertificateDer<'_>) -> (String, String) {
    todo!("tls")
}

/// What the verifier refused in the handshake that just failed on this thread, if it did.
pub fn take_refusal() -> Option<RefusedCertificate> {
    todo!("tls")
}

/// aws-lc-rs with X25519MLKEM768 first, TLS 1.2 ECDHE with AEAD and TLS 1.3 only. Passed explicitly everywhere.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    todo!("tls")
}
