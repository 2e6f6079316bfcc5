//! TLS: server configs per SNI, judgement of client certificates, CRLs; client configs for upstreams.
//!
//! `prepare` reads every file and fails as a whole; afterwards nothing here reads a file or a clock. A connection's SNI
//! picks a site's config (`server`), the site's verifier asks for a certificate and refuses it in the handshake where one
//! is required (`verify`), and `judge` says what a presented chain is worth, on every request of a connection that lives on.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use crate::clock::Now;
use crate::config::{Config, Diagnostic, Located, Span};
use crate::policy::route::{CertDemand, HostPattern, Sni};
use crate::policy::{CertCause, Identity, Policy, Site, SiteId};

mod authority;
mod client;
mod crl;
mod judge;
mod names;
mod pem;
mod server;
#[cfg(test)]
mod tests;
mod verify;

use authority::CaSet;
use client::UpstreamClient;
use judge::Judge;
use server::{Resumption, ServerCertificates};

/// Everything TLS of one snapshot: loaded whole or not at all.
pub struct TlsState {
    policy: Arc<Policy>,
    /// By `SiteId`.
    sites: Vec<SiteTls>,
    /// Without SNI: the first certificate, and nobody is asked for one.
    nameless: Arc<rustls::ServerConfig>,
    /// Ticket keys and session caches by what they hang on.
    resumptions: HashMap<[u8; 32], Resumption>,
    upstreams: Vec<Option<UpstreamClient>>,
    upstream_configs: Vec<Option<Arc<rustls::ClientConfig>>>,
    expiries: Vec<FileExpiry>,
    files: Vec<PathBuf>,
}

struct SiteTls {
    config: Arc<rustls::ServerConfig>,
    /// `None`: nobody may vouch here.
    judge: Option<Arc<Judge>>,
}

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
    /// When it was judged; a clock that reads less was set back, and the verdict says nothing of that time.
    pub judged_at: Timestamp,
    /// The earliest end of any certificate in the path or CRL behind it; judge again from here on.
    pub valid_until: Timestamp,
}

impl CertVerdict {
    /// Whether it may be kept. Fails closed: only for the time between its judgement and its end, whichever way the clock steps.
    pub fn stands_at(&self, wall: Timestamp) -> bool {
        self.judged_at <= wall && wall < self.valid_until
    }
}

/// A certificate refused in a handshake or judged not to hold, for the event. Text is unverified, capped, escaped.
#[derive(Clone, Debug)]
pub struct RefusedCertificate {
    pub subject: String,
    pub issuer: String,
    pub cause: CertCause,
}

/// What a handshake that demands a certificate found of the one it was shown.
#[derive(Clone, Debug)]
pub enum Examined {
    /// For the site whose config the handshake had; the first request need not have it judged again.
    Holds(CertVerdict),
    Refused(RefusedCertificate),
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
    pub fn prepare(config: &Config, previous: Option<&TlsState>) -> Result<Self, Vec<Diagnostic>> {
        let provider = provider();
        let mut diagnostics = Vec::new();
        let certificates = ServerCertificates::load(&config.tls.certificates, &provider, &mut diagnostics);
        let sets: Vec<Option<CaSet>> = config.client_cas.iter().map(|spec| CaSet::load(spec, &mut diagnostics)).collect();
        diagnostics.extend(authority::shared_roots(&sets));
        let before = previous.map_or(&[][..], |state| &state.upstreams);
        let upstreams: Vec<_> =
            config.upstreams.iter().map(|spec| client::load(spec, &provider, before, &mut diagnostics)).collect();
        if diagnostics.is_empty() {
            diagnostics.extend(uncovered_hosts(config, &certificates));
        }
        let Some(sets) =
            sets.into_iter().map(|set| set.map(Arc::new)).collect::<Option<Vec<_>>>().filter(|_| diagnostics.is_empty())
        else {
            return Err(diagnostics);
        };
        let expiries = certificates
            .expiries
            .iter()
            .chain(sets.iter().flat_map(|set| &set.expiries))
            .chain(upstreams.iter().flatten().filter_map(|upstream| upstream.expiry.as_ref()))
            .cloned()
            .collect();
        let mut builder =
            Builder { config, provider, certificates: Arc::new(certificates), sets, previous, resumptions: HashMap::new() };
        let fatal = |message: String| vec![Diagnostic::error(message, &Span::default())];
        let sites = config.policy.sites.iter().map(|site| builder.site(site)).collect::<Result<Vec<_>, _>>().map_err(fatal)?;
        let nameless = builder.nameless().map_err(fatal)?;
        Ok(Self {
            policy: config.policy.clone(),
            sites,
            nameless,
            resumptions: builder.resumptions,
            upstream_configs: upstreams.iter().map(|client| client.as_ref().map(|client| client.config.clone())).collect(),
            upstreams,
            expiries,
            files: files_of(config),
        })
    }

    /// By SNI (canonical, lower case); `None`: no SNI, so the first certificate and no client certificate asked.
    /// Fails closed: a name of no site is refused.
    pub fn server(&self, sni: Option<&str>) -> Result<ServerChoice, UnknownServerName> {
        let Some(host) = sni else { return Ok(ServerChoice { config: self.nameless.clone(), sni: Sni::Absent }) };
        let site = self.policy.sites.by_host(host).ok_or(UnknownServerName)?;
        let tls = self.sites.get(site.id.0).ok_or(UnknownServerName)?;
        Ok(ServerChoice { config: tls.config.clone(), sni: Sni::Site(site.id) })
    }

    /// Judges a presented chain (leaf first) for a site. Fails closed: unknown status, expired CRL, missing EKU, ... do not hold.
    pub fn judge(&self, site: SiteId, chain: &[CertificateDer<'_>], now: Now) -> CertVerdict {
        match self.sites.get(site.0).and_then(|site| site.judge.as_ref()) {
            Some(judge) => judge.judge(chain, now.wall),
            None => {
                let result = Err(CertCause::UnknownIssuer);
                CertVerdict { result, judged_at: now.wall, valid_until: Timestamp::MAX }
            }
        }
    }

    /// Outbound config per upstream (`Config::upstreams` order); `None` for plain ones.
    pub fn upstream_clients(&self) -> &[Option<Arc<rustls::ClientConfig>>] {
        &self.upstream_configs
    }

    /// Server certificates, CRLs, roots of client CAs and the certificates shown to upstreams: each file with its earliest end.
    pub fn expiries(&self) -> Vec<FileExpiry> {
        self.expiries.clone()
    }

    /// Every file that was read, for the watch.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

/// How many certificates the text of a PEM file holds; the `Err` says what is wrong with it. Fails closed: any other or
/// damaged block refuses the whole text.
pub fn count_certificates(text: &[u8]) -> Result<usize, String> {
    pem::certificates_in(text).map(|found| found.len()).map_err(|error| error.message)
}

/// How many usable revocation lists the bytes of a PEM or DER file hold; the `Err` says what is wrong with them. Fails closed:
/// one list that cannot be parsed refuses them all.
pub fn count_crls(bytes: &[u8]) -> Result<usize, String> {
    crl::count(bytes).map_err(|error| error.message)
}

/// Names of an unverified leaf, for events.
pub fn describe(leaf: &CertificateDer<'_>) -> (String, String) {
    names::describe(leaf)
}

/// Polls a handshake, and gives what its verifier found if it was asked. Rustls calls the verifier and goes on, or returns its
/// error, within one poll on this thread; what another's poll left there when it panicked is dropped first. Who fails nevertheless
/// has shown nothing, whatever was found.
pub fn examining<T>(poll: impl FnOnce() -> T) -> (T, Option<Examined>) {
    verify::take_examined();
    let polled = poll();
    (polled, verify::take_examined())
}

/// aws-lc-rs with X25519MLKEM768 first, TLS 1.2 ECDHE with AEAD and TLS 1.3 only. Passed explicitly everywhere.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// Makes the configs of one state, once every file is loaded.
struct Builder<'a> {
    config: &'a Config,
    provider: Arc<CryptoProvider>,
    certificates: Arc<ServerCertificates>,
    sets: Vec<Arc<CaSet>>,
    previous: Option<&'a TlsState>,
    resumptions: HashMap<[u8; 32], Resumption>,
}

impl Builder<'_> {
    /// Fails closed: a set that is not there is an error, not a set that asks for less.
    fn site(&mut self, site: &Site) -> Result<SiteTls, String> {
        let sets: Option<Vec<_>> = site.client_ca.iter().map(|&index| self.sets.get(index).cloned()).collect();
        let sets = sets.ok_or("a site names a client_ca that does not exist")?;
        if sets.is_empty() && site.client_cert == CertDemand::Required {
            return Err("a site requires a client certificate, but no client_ca may vouch there".to_owned());
        }
        let mut fingerprint = self.fingerprint(&site.hosts);
        fingerprint.part(&[u8::from(site.client_cert == CertDemand::Required)]);
        sets.iter().for_each(|set| fingerprint.part(&set.fingerprint()));
        let judge =
            (!sets.is_empty()).then(|| Arc::new(Judge { sets, algorithms: self.provider.signature_verification_algorithms }));
        let verifier = judge
            .as_ref()
            .map(|judge| Arc::new(verify::SiteVerifier::new(judge.clone(), site.client_cert)) as Arc<dyn ClientCertVerifier>);
        Ok(SiteTls { config: self.server_config(verifier, fingerprint)?, judge })
    }

    fn nameless(&mut self) -> Result<Arc<rustls::ServerConfig>, String> {
        let mut fingerprint = self.fingerprint(&[]);
        let first = self.certificates.first().ok_or("there is no certificate to serve")?.clone();
        first.cert.iter().for_each(|certificate| fingerprint.part(certificate));
        self.server_config(None, fingerprint)
    }

    /// The hosts are part of it: they tell sites apart, so that no two ever share a ticket key.
    fn fingerprint(&self, hosts: &[HostPattern]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.part(format!("{:?}", self.config.tls.min_version).as_bytes());
        for host in hosts {
            fingerprint.part(host.to_string().as_bytes());
            for key in self.certificates.behind(host) {
                key.cert.iter().for_each(|certificate| fingerprint.part(certificate));
            }
        }
        fingerprint.part(b"end of hosts");
        fingerprint
    }

    fn server_config(
        &mut self,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
        fingerprint: Fingerprint,
    ) -> Result<Arc<rustls::ServerConfig>, String> {
        let fingerprint = fingerprint.finish();
        let kept = self.previous.and_then(|state| state.resumptions.get(&fingerprint)).cloned();
        let resumption = kept.map_or_else(Resumption::new, Ok).map_err(|error| format!("no ticket key: {error}"))?;
        let config =
            server::config(&self.provider, self.config.tls.min_version, self.certificates.clone(), verifier, &resumption)
                .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        self.resumptions.insert(fingerprint, resumption);
        Ok(Arc::new(config))
    }
}

/// Hosts of sites that no certificate covers: their handshakes could only fail.
fn uncovered_hosts(config: &Config, certificates: &ServerCertificates) -> Vec<Diagnostic> {
    let span = config.tls.certificates.first().map(|files| files.chain.span.clone()).unwrap_or_default();
    let hosts = config.policy.sites.iter().flat_map(|site| &site.hosts).filter(|host| !certificates.cover(host));
    hosts
        .map(|host| {
            Diagnostic::error(format!("no certificate covers the host {host} of a site"), &span)
                .help("the name must be among the DNS names (subjectAltName) of one [[tls.certificate]]")
        })
        .collect()
}

/// Every file that [`TlsState::prepare`] reads for a config.
pub fn files_of(config: &Config) -> Vec<PathBuf> {
    let upstream_keys = config.upstreams.iter().filter_map(|upstream| upstream.client_certificate.as_ref());
    let pairs = config.tls.certificates.iter().chain(upstream_keys).flat_map(|files| [&files.chain, &files.key]);
    let sets = config.client_cas.iter().flat_map(|set| set.roots.iter().chain(&set.crls));
    let upstream_cas = config.upstreams.iter().filter_map(|upstream| upstream.ca.as_ref());
    let files: BTreeSet<&Path> =
        pairs.chain(sets).chain(upstream_cas).map(|file: &Located<PathBuf>| file.value.as_path()).collect();
    files.into_iter().map(Path::to_path_buf).collect()
}

/// SHA-256 over parts that cannot run into each other.
#[derive(Default)]
struct Fingerprint(Vec<u8>);

impl Fingerprint {
    fn part(&mut self, part: &[u8]) {
        self.0.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.extend(part);
    }

    fn finish(self) -> [u8; 32] {
        sha256(&self.0)
    }
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn diagnose(error: pem::FileError, span: &Span) -> Diagnostic {
    Diagnostic { help: error.help, ..Diagnostic::error(error.message, span) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

/// Seconds since 1970, held within what a timestamp can say.
fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
