//! The client's certificate in the handshake: who is asked, who is refused there, and what is said of it.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

use crate::policy::CertCause;
use crate::policy::route::CertDemand;

use super::judge::{Judge, cause_of};
use super::{Examined, RefusedCertificate, names, timestamp};

thread_local! {
    static EXAMINED: RefCell<Option<Examined>> = const { RefCell::new(None) };
}

/// Asks for a certificate of the site's sets. The signature over CertificateVerify is always checked by the provider's
/// functions; the chain is judged here only where one that holds is required, else after the handshake, by request.
pub(super) struct SiteVerifier {
    judge: Arc<Judge>,
    demand: CertDemand,
    hints: Vec<DistinguishedName>,
}

impl SiteVerifier {
    pub(super) fn new(judge: Arc<Judge>, demand: CertDemand) -> Self {
        let roots = judge.sets.iter().flat_map(|set| &set.roots);
        let hints = roots.map(|root| DistinguishedName::in_sequence(root.anchor.subject.as_ref())).collect();
        Self { judge, demand, hints }
    }
}

impl ClientCertVerifier for SiteVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.demand == CertDemand::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// Fails closed where a certificate is required. Where it is optional the handshake goes on: `TlsState::judge` decides.
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.demand != CertDemand::Required {
            return Ok(ClientCertVerified::assertion());
        }
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).map(|der| CertificateDer::from(der.as_ref())).collect();
        let wall = i64::try_from(now.as_secs()).map_or(Timestamp::MAX, timestamp);
        let verdict = self.judge.judge(&chain, wall);
        if let Err(cause) = verdict.result {
            record(leaf, cause);
            return Err(alert_for(cause).into());
        }
        EXAMINED.set(Some(Examined::Holds(verdict)));
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, leaf, signed, &self.judge.algorithms)
            .map_err(|error| unproven(leaf, error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &self.judge.algorithms)
            .map_err(|error| unproven(leaf, error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

impl fmt::Debug for SiteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteVerifier").field("demand", &self.demand).finish_non_exhaustive()
    }
}

/// See [`super::examining`].
pub(super) fn take_examined() -> Option<Examined> {
    EXAMINED.take()
}

fn record(leaf: &CertificateDer<'_>, cause: CertCause) {
    let (subject, issuer) = names::describe(leaf);
    EXAMINED.set(Some(Examined::Refused(RefusedCertificate { subject, issuer, cause })));
}

/// The client did not show that it holds the key, or the key or the certificate is of a kind with which nobody can.
fn unproven(leaf: &CertificateDer<'_>, error: Error) -> Error {
    // rustls has words for few of the ways in which a certificate cannot be read
    if let Err(unreadable) = EndEntityCert::try_from(leaf) {
        let cause = cause_of(&unreadable);
        record(leaf, cause);
        return alert_for(cause).into();
    }
    #[allow(deprecated)]
    let cause = match &error {
        Error::InvalidCertificate(CertificateError::BadSignature) if names::has_short_rsa_key(leaf) => CertCause::WeakKey,
        Error::InvalidCertificate(CertificateError::BadSignature) => CertCause::BadSignature,
        Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => CertCause::WeakKey,
        Error::InvalidCertificate(_) => CertCause::Malformed,
        _ => CertCause::BadSignature,
    };
    record(leaf, cause);
    error
}

/// The error whose alert tells the client's side best what to mend (RFC 8446 section 6.2).
fn alert_for(cause: CertCause) -> CertificateError {
    match cause {
        // unknown_ca
        CertCause::UnknownIssuer => CertificateError::UnknownIssuer,
        CertCause::StatusUnknown => CertificateError::UnknownRevocationStatus,
        CertCause::CrlExpired => CertificateError::ExpiredRevocationList,
        // certificate_expired: "has expired or is not currently valid"
        CertCause::Expired => CertificateError::Expired,
        CertCause::NotYetValid => CertificateError::NotValidYet,
        // certificate_revoked
        CertCause::Revoked => CertificateError::Revoked,
        // unsupported_certificate
        CertCause::MissingClientAuth
        | CertCause::IssuerWithoutKeyCertSign
        | CertCause::WrongKeyUsage
        | CertCause::CaAsLeaf
        | CertCause::WeakKey => CertificateError::InvalidPurpose,
        // decrypt_error
        CertCause::BadSignature => CertificateError::BadSignature,
        // bad_certificate
        CertCause::Malformed | CertCause::ChainTooLong | CertCause::CriticalExtension => CertificateError::BadEncoding,
        // access_denied
        CertCause::LifetimeTooLong | CertCause::NoName | CertCause::SeveralNames | CertCause::NameConstraint => {
            CertificateError::ApplicationVerificationFailure
        }
    }
}
