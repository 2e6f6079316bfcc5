//! The judgement of a client's certificate chain: webpki builds and verifies the path; what it leaves out is checked beside it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::policy::identity::NameKind;
use crate::policy::{CertCause, Identity};

use super::authority::{CaSet, View};
use super::{CertVerdict, names, sha256, timestamp};

/// Certificates in a presented chain, leaf included; bounds what a stranger can make us verify.
const MAX_CHAIN: usize = 8;
/// Bytes of an identity name.
const MAX_NAME: usize = 512;
/// How far a CA's clock may be ahead of ours when it dates a CRL.
const CRL_CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How long "does not hold" may be kept: time can heal a certificate that is not valid yet.
const REFUSAL_KEPT: Duration = Duration::from_secs(60);

/// The intermediates of a verified path, as [`Identity::path`] holds them.
type Between = Arc<[Vec<u8>]>;

/// The CA sets that may vouch on one site, in the config's order.
pub(super) struct Judge {
    pub sets: Vec<Arc<CaSet>>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    /// Judges a presented chain, leaf first. Fails closed: a certificate holds only if one set vouches for all of it: path,
    /// times, revocation status, client EKU, lifetime and exactly one identity name.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], wall: Timestamp) -> CertVerdict {
        let (result, valid_until) = match self.vouched(chain, wall) {
            Ok((identity, until)) => (Ok(Arc::new(identity)), until),
            Err(cause) => (Err(cause), wall.saturating_add(REFUSAL_KEPT).unwrap_or(Timestamp::MAX)),
        };
        CertVerdict { result, judged_at: wall, valid_until }
    }

    fn vouched(&self, chain: &[CertificateDer<'_>], wall: Timestamp) -> Result<(Identity, Timestamp), CertCause> {
        let (leaf_der, intermediates) = chain.split_first().ok_or(CertCause::Malformed)?;
        if chain.len() > MAX_CHAIN {
            return Err(CertCause::ChainTooLong);
        }
        let leaf = EndEntityCert::try_from(leaf_der).map_err(|error| cause_of(&error))?;
        let mut refusal = CertCause::UnknownIssuer;
        for set in &self.sets {
            for view in &set.views {
                let judged = self
                    .verified(set, view, &leaf, intermediates, wall)
                    .and_then(|(valid_until, path)| Ok((identity(set, leaf_der, path)?, valid_until)));
                match judged {
                    Ok(vouched) => return Ok(vouched),
                    // "not mine" is said by every other set: the set that knows the certificate says what is wrong with it
                    Err(cause) if refusal == CertCause::UnknownIssuer => refusal = cause,
                    Err(_) => {}
                }
            }
        }
        Err(refusal)
    }

    /// The earliest end of anything behind the verified path, and its intermediates. Fails closed.
    fn verified(
        &self,
        set: &CaSet,
        view: &View,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        wall: Timestamp,
    ) -> Result<(Timestamp, Between), CertCause> {
        let in_force = wall.saturating_add(CRL_CLOCK_SKEW).unwrap_or(Timestamp::MAX);
        let crls: Vec<_> =
            view.crls.iter().filter_map(|&index| set.crls.get(index)).filter(|crl| crl.this_update <= in_force).collect();
        let lists: Vec<&CertRevocationList<'_>> = crls.iter().map(|crl| &crl.list).collect();
        let revocation = match RevocationOptionsBuilder::new(&lists) {
            Ok(options) => Some(
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build(),
            ),
            Err(_) if set.checks_revocation => return Err(CertCause::StatusUnknown),
            Err(_) => None,
        };
        // set where a path is sound but for a rule that webpki does not know; it tells more than webpki's next guess
        let own_rule: Cell<Option<CertCause>> = Cell::new(None);
        let end: Cell<Timestamp> = Cell::new(Timestamp::MAX);
        let own_rules = |path: &VerifiedPath<'_>| match path_end(set, view, path, wall) {
            Ok(until) => {
                end.set(until);
                Ok(())
            }
            Err(cause) => {
                own_rule.set(Some(cause));
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let path = leaf
            .verify_for_usage(
                self.algorithms.all,
                &view.anchors,
                intermediates,
                unix_time(wall),
                AnyPurpose,
                revocation,
                Some(&own_rules),
            )
            .map_err(|error| match own_rule.get().unwrap_or_else(|| cause_of(&error)) {
                // webpki verifies nothing under such a key, and calls that a bad signature
                CertCause::BadSignature if intermediates.iter().any(names::has_short_rsa_key) => CertCause::WeakKey,
                cause => cause,
            })?;
        let issuers: Vec<&[u8]> = std::iter::once(path.end_entity().issuer())
            .chain(path.intermediate_certificates().map(|cert| cert.issuer()))
            .collect();
        let lists_end =
            crls.iter().filter(|crl| crl.next_update > wall && issuers.contains(&crl.list.issuer())).map(|crl| crl.next_update);
        // A list that was given ahead of its time may say otherwise once it is in force.
        let ahead = view.crls.iter().filter_map(|&index| set.crls.get(index)).map(|crl| crl.this_update);
        let ahead = ahead.filter(|update| *update > in_force).map(|update| update.saturating_sub(CRL_CLOCK_SKEW).unwrap_or(wall));
        let between = path.intermediate_certificates().map(|cert| cert.der().to_vec()).collect();
        Ok((lists_end.chain(ahead).fold(end.get(), Ord::min), between))
    }
}

/// webpki asks every certificate of a path for the same purpose; here the leaf alone must name it (`identity`), and an issuer
/// that lists purposes must list it or any (`path_end`).
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    /// Fails closed: what is no list of purposes is refused.
    fn validate(&self, mut purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        purposes.try_for_each(|purpose| purpose.map(drop))
    }
}

/// What webpki leaves out, on a path that it has verified: the root's own times and path length, keyCertSign and purposes of
/// every intermediate. Gives the earliest end of a certificate in the path. Fails closed: an intermediate without key usage
/// may not issue.
fn path_end(set: &CaSet, view: &View, path: &VerifiedPath<'_>, wall: Timestamp) -> Result<Timestamp, CertCause> {
    // a root renewed under its old key and name stands here twice: the one that is good decides
    let same = view.anchors.iter().zip(&view.roots).filter(|(anchor, _)| *anchor == path.anchor());
    let roots = same.filter_map(|(_, &index)| set.roots.get(index));
    let root = roots.max_by_key(|root| (root.not_before <= wall, root.not_after)).ok_or(CertCause::UnknownIssuer)?;
    if wall < root.not_before {
        return Err(CertCause::NotYetValid);
    }
    if wall > root.not_after {
        return Err(CertCause::Expired);
    }
    // RFC 5280 section 4.2.1.9: self-issued ones are not counted
    let issuers = path.intermediate_certificates().filter(|issuer| issuer.subject() != issuer.issuer()).count();
    if root.path_length.is_some_and(|length| u32::try_from(issuers).map_or(true, |issuers| issuers > length)) {
        return Err(CertCause::ChainTooLong);
    }
    let mut end = root.not_after;
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let (_, issuer) = X509Certificate::from_der(&der).map_err(|_| CertCause::Malformed)?;
        let usage = issuer.key_usage().map_err(|_| CertCause::Malformed)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(CertCause::IssuerWithoutKeyCertSign);
        }
        let purposes = issuer.extended_key_usage().map_err(|_| CertCause::Malformed)?;
        if purposes.is_some_and(|purposes| !purposes.value.client_auth && !purposes.value.any) {
            return Err(CertCause::MissingClientAuth);
        }
        end = end.min(timestamp(issuer.validity().not_after.timestamp()));
    }
    let der = path.end_entity().der();
    let (_, leaf) = X509Certificate::from_der(&der).map_err(|_| CertCause::Malformed)?;
    Ok(end.min(timestamp(leaf.validity().not_after.timestamp())))
}

/// Whom a verified leaf names, by the rules of the set that vouches for it. Fails closed.
fn identity(set: &CaSet, leaf_der: &CertificateDer<'_>, path: Between) -> Result<Identity, CertCause> {
    let (_, leaf) = X509Certificate::from_der(leaf_der).map_err(|_| CertCause::Malformed)?;
    // webpki asks for it only where the extension is present
    let usage = leaf.extended_key_usage().map_err(|_| CertCause::Malformed)?;
    if !usage.is_some_and(|usage| usage.value.client_auth) {
        return Err(CertCause::MissingClientAuth);
    }
    // RFC 8446 section 4.4.2.2: where it is present it must let the key sign
    let usage = leaf.key_usage().map_err(|_| CertCause::Malformed)?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(CertCause::WrongKeyUsage);
    }
    let validity = leaf.validity();
    let lifetime = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
    if u64::try_from(lifetime).map_or(true, |lifetime| lifetime > set.max_lifetime.as_secs()) {
        return Err(CertCause::LifetimeTooLong);
    }
    let name = identity_name(set.identity, &leaf)?;
    Ok(Identity {
        set: set.name.clone(),
        key: format!("{}:{name}", set.name).into(),
        name: name.into(),
        kind: set.kind,
        tenant: set.tenant.clone(),
        roles: set.roles.clone(),
        cert_sha256: sha256(leaf_der),
        path,
    })
}

/// Exactly one name of the configured kind. Fails closed: none, two (alike ones too), a blank one or one with control
/// characters names nobody.
fn identity_name(kind: NameKind, leaf: &X509Certificate<'_>) -> Result<String, CertCause> {
    let mut names: Vec<&str> = Vec::new();
    match kind {
        NameKind::SubjectCn => {
            for name in leaf.subject().iter_common_name() {
                names.push(name.as_str().map_err(|_| CertCause::Malformed)?);
            }
        }
        NameKind::SanUri | NameKind::SanDns | NameKind::SanEmail => {
            let alternatives = leaf.subject_alternative_name().map_err(|_| CertCause::Malformed)?;
            for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
                match (kind, name) {
                    (NameKind::SanUri, GeneralName::URI(name))
                    | (NameKind::SanDns, GeneralName::DNSName(name))
                    | (NameKind::SanEmail, GeneralName::RFC822Name(name)) => names.push(name),
                    (_, GeneralName::Invalid(..)) => return Err(CertCause::Malformed),
                    _ => {}
                }
            }
        }
    }
    match names[..] {
        [] => Err(CertCause::NoName),
        [name] if name.trim().is_empty() => Err(CertCause::NoName),
        [name] if name.len() > MAX_NAME || name.chars().any(char::is_control) => Err(CertCause::Malformed),
        // two spellings of one host name are one identity
        [name] if kind == NameKind::SanDns => Ok(name.to_ascii_lowercase()),
        [name] => Ok(name.to_owned()),
        _ => Err(CertCause::SeveralNames),
    }
}

fn unix_time(wall: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(wall.as_second()).unwrap_or(0)))
}

/// Which cause an error of webpki is.
pub(super) fn cause_of(error: &webpki::Error) -> CertCause {
    use webpki::Error as E;
    #[allow(deprecated)]
    match error {
        E::UnknownIssuer => CertCause::UnknownIssuer,
        E::CertExpired { .. } => CertCause::Expired,
        E::CertNotValidYet { .. } => CertCause::NotYetValid,
        E::CertRevoked | E::CertDistrusted => CertCause::Revoked,
        E::CrlExpired { .. } => CertCause::CrlExpired,
        // a list that is not what it should be tells nothing
        E::UnknownRevocationStatus
        | E::InvalidCrlNumber
        | E::InvalidCrlSignatureForPublicKey
        | E::IssuerNotCrlSigner
        | E::UnsupportedCrlIssuingDistributionPoint
        | E::UnsupportedCrlSignatureAlgorithm
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKey
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
        | E::UnsupportedCrlVersion
        | E::UnsupportedDeltaCrl
        | E::UnsupportedIndirectCrl
        | E::UnsupportedRevocationReason
        | E::UnsupportedRevocationReasonsPartitioning => CertCause::StatusUnknown,
        E::EmptyEkuExtension | E::RequiredEkuNotFound | E::RequiredEkuNotFoundContext(_) => CertCause::MissingClientAuth,
        E::EndEntityUsedAsCa => CertCause::IssuerWithoutKeyCertSign,
        E::CaUsedAsEndEntity => CertCause::CaAsLeaf,
        E::UnsupportedCriticalExtension => CertCause::CriticalExtension,
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => CertCause::BadSignature,
        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKey
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => CertCause::WeakKey,
        E::NameConstraintViolation | E::MalformedNameConstraint | E::InvalidNetworkMaskConstraint => CertCause::NameConstraint,
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded
        | E::PathLenConstraintViolated => CertCause::ChainTooLong,
        _ => CertCause::Malformed,
    }
}
