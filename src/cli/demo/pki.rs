//! A throwaway PKI for the demo and the tests: authorities, leaves, CRLs, all made in memory by rcgen.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

/// rcgen wants the type of another calendar crate, which cannot be named here; only its epoch is.
macro_rules! days {
    ($now:expr, $days:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + days_from($now, $days)
    };
}

/// What rcgen could not make.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A certificate authority that can issue leaves, intermediates and CRLs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, then those of its issuers up to, and without, the root.
    chain: Vec<String>,
    pub certificate_pem: String,
    now: Timestamp,
}

/// A certificate with its key; the chain holds the leaf and the intermediates.
pub struct Leaf {
    pub chain_pem: String,
    pub key_pem: String,
    pub der: Vec<u8>,
    pub serial: u64,
}

/// What a leaf is to be.
pub struct LeafSpec {
    pub common_name: String,
    pub names: Vec<SanType>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub serial: u64,
    /// Days from now; negative is in the past.
    pub from_days: i64,
    pub until_days: i64,
}

impl LeafSpec {
    /// A server certificate for DNS names (or `*.` wildcards) and addresses.
    pub fn server(names: &[&str]) -> Result<Self, Error> {
        let san = |name: &&str| match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName((*name).try_into()?)),
        };
        let names = names.iter().map(san).collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { names, usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Self::blank("server", 1) })
    }

    /// A client certificate with one URI name.
    pub fn client(uri: &str, serial: u64) -> Result<Self, Error> {
        let names = vec![SanType::URI(uri.try_into()?)];
        Ok(Self { names, usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Self::blank(uri, serial) })
    }

    fn blank(common_name: &str, serial: u64) -> Self {
        Self { common_name: common_name.to_owned(), names: Vec::new(), usages: Vec::new(), serial, from_days: -1, until_days: 90 }
    }
}

impl Authority {
    /// A self-signed root. `now` is the wall clock's reading.
    pub fn root(name: &str, now: Timestamp) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let params = ca_params(name, now, &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]);
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), chain: Vec::new(), certificate_pem, now })
    }

    /// An intermediate under this authority, with the key usages given (`keyCertSign` left out makes a bad one).
    pub fn intermediate(&self, name: &str, usages: &[KeyUsagePurpose]) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let params = ca_params(name, self.now, usages);
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        let mut chain = vec![certificate_pem.clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Self { issuer: Issuer::new(params, key), chain, certificate_pem, now: self.now })
    }

    /// Issues a leaf.
    pub fn issue(&self, spec: &LeafSpec) -> Result<Leaf, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&spec.common_name);
        params.subject_alt_names.clone_from(&spec.names);
        params.extended_key_usages.clone_from(&spec.usages);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(spec.serial));
        params.use_authority_key_identifier_extension = true;
        params.not_before = days!(self.now, spec.from_days);
        params.not_after = days!(self.now, spec.until_days);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain_pem = certificate.pem();
        self.chain.iter().for_each(|link| chain_pem.push_str(link));
        Ok(Leaf { chain_pem, key_pem: key.serialize_pem(), der: certificate.der().to_vec(), serial: spec.serial })
    }

    /// A CRL that names the serials; `until_days` is its nextUpdate.
    pub fn crl(&self, number: u64, revoked: &[u64], until_days: i64) -> Result<String, Error> {
        let params = CertificateRevocationListParams {
            this_update: days!(self.now, until_days.min(0) - 1),
            next_update: days!(self.now, until_days),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None::<rcgen::CrlIssuingDistributionPoint>,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: days!(self.now, -1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<PathBuf> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(path.to_path_buf())
}

fn ca_params(name: &str, now: Timestamp, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = usages.to_vec();
    params.not_before = days!(now, -1);
    params.not_after = days!(now, 3650);
    params.crl_distribution_points = Vec::<CrlDistributionPoint>::new();
    params
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Doorward demo");
    name.push(DnType::CommonName, common_name);
    name
}

/// From the epoch to some days from now.
fn days_from(now: Timestamp, days: i64) -> Duration {
    let at = now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now);
    Duration::from_secs(at.as_second().unsigned_abs())
}
