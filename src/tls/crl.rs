//! Certificate revocation lists, read and parsed off the hot path.

use std::panic::catch_unwind;
use std::path::Path;

use jiff::Timestamp;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::pem::{self, FileError};
use super::{sha256, timestamp};

/// One parsed list. Its signature is verified by webpki whenever it is consulted, under the key of the certificate's issuer.
pub(super) struct Crl {
    pub list: CertRevocationList<'static>,
    pub this_update: Timestamp,
    /// From here on the list fails closed: nothing it speaks of holds.
    pub next_update: Timestamp,
    /// Which of several keys of one issuer name signed it, where the list says so.
    pub authority_key: Option<Vec<u8>>,
    /// SHA-256 of the DER.
    pub digest: [u8; 32],
}

/// All lists of a file. Fails closed: one that cannot be parsed refuses the file. An expired one is kept, so that a restart
/// on its account is possible; what it speaks of is then refused as `crl-expired`.
pub(super) fn load(path: &Path) -> Result<Vec<Crl>, FileError> {
    pem::crls(path)?.iter().map(|der| parse(der).map_err(|error| error.in_file(path))).collect()
}

/// How many lists a file's bytes hold. Fails closed, as [`load`] does.
pub(super) fn count(bytes: &[u8]) -> Result<usize, FileError> {
    pem::crls_in(bytes)?.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>().map(|lists| lists.len())
}

/// A list comes from outside and a parser has panicked on one before (RUSTSEC-2026-0104): that too is only an error here.
fn parse(der: &[u8]) -> Result<Crl, FileError> {
    catch_unwind(|| parse_unguarded(der)).unwrap_or_else(|_| Err(FileError::bare("holds a CRL on which the parser gave up")))
}

fn parse_unguarded(der: &[u8]) -> Result<Crl, FileError> {
    let list = OwnedCertRevocationList::from_der(der)
        .map_err(|error| FileError::bare(format!("holds a CRL that cannot be used: {}", reason(&error))))?;
    let unreadable = || FileError::bare("holds a CRL whose dates cannot be read");
    let (_, fields) = CertificateRevocationList::from_der(der).map_err(|_| unreadable())?;
    let authority_key = fields.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    });
    Ok(Crl {
        list: list.into(),
        this_update: timestamp(fields.last_update().timestamp()),
        next_update: timestamp(fields.next_update().ok_or_else(unreadable)?.timestamp()),
        authority_key,
        digest: sha256(der),
    })
}

fn reason(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedDeltaCrl => "it is a delta list; give the complete one".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => "it is an indirect list; give the issuer's own".to_owned(),
        webpki::Error::UnsupportedCrlIssuingDistributionPoint => {
            "its scope (issuingDistributionPoint) names no distribution point by full name".to_owned()
        }
        webpki::Error::UnsupportedCrlVersion => "it is not of version 2".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_crl_is_an_error_and_not_a_crash() {
        for der in [&b""[..], b"\x30", b"\x30\x80\x00\x00", b"\x30\x84\xff\xff\xff\xff", &[0x30; 4096]] {
            assert!(parse(der).is_err());
        }
    }
}
