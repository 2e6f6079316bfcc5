//! Who the caller proved to be.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Name;

/// A proven caller: (set, name), with what the vouching set says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The CA set that vouched (`client_ca.<set>`).
    pub set: Name,
    /// The one name of the configured kind in the certificate.
    pub name: Name,
    /// `set:name`, the key for guesses, limits and bans.
    pub key: Name,
    pub kind: AccountKind,
    pub tenant: Option<Name>,
    pub roles: Vec<Name>,
    /// SHA-256 of the leaf's DER.
    pub cert_sha256: [u8; 32],
    /// DER of the verified intermediates, the leaf's issuer first; what else was sent along vouches for nothing.
    pub path: Arc<[Vec<u8>]>,
}

/// What kind of account a credential belongs to; every credential has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    Human,
    Service,
    Bot,
}

/// Which name of the leaf identifies its holder; exactly one of that kind must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameKind {
    SanUri,
    SanDns,
    SanEmail,
    SubjectCn,
}

/// Why a presented certificate does not hold. `as_str` is the event's `cause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertCause {
    UnknownIssuer,
    Expired,
    NotYetValid,
    Revoked,
    StatusUnknown,
    CrlExpired,
    MissingClientAuth,
    IssuerWithoutKeyCertSign,
    LifetimeTooLong,
    NoName,
    SeveralNames,
    ChainTooLong,
    BadSignature,
    NameConstraint,
    WeakKey,
    /// The leaf's key usage does not let it sign a handshake.
    WrongKeyUsage,
    /// A CA certificate, shown as a leaf.
    CaAsLeaf,
    CriticalExtension,
    Malformed,
}

impl AccountKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Service => "service",
            Self::Bot => "bot",
        }
    }
}

impl CertCause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownIssuer => "unknown-issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Revoked => "revoked",
            Self::StatusUnknown => "revocation-status-unknown",
            Self::CrlExpired => "crl-expired",
            Self::MissingClientAuth => "no-client-auth-eku",
            Self::IssuerWithoutKeyCertSign => "issuer-without-key-cert-sign",
            Self::LifetimeTooLong => "lifetime-too-long",
            Self::NoName => "no-identity-name",
            Self::SeveralNames => "several-identity-names",
            Self::ChainTooLong => "chain-too-long",
            Self::BadSignature => "bad-signature",
            Self::NameConstraint => "name-constraint",
            Self::WeakKey => "weak-key",
            Self::WrongKeyUsage => "wrong-key-usage",
            Self::CaAsLeaf => "ca-as-leaf",
            Self::CriticalExtension => "unknown-critical-extension",
            Self::Malformed => "malformed",
        }
    }
}
