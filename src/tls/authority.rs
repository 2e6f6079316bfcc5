//! `[client_ca.<name>]`, loaded: a set of roots that may vouch for clients, and its CRLs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::config::{ClientCa, Diagnostic, Span};
use crate::policy::identity::NameKind;
use crate::policy::{AccountKind, Name};

use super::crl::{self, Crl};
use super::pem::{self, FileError};
use super::{FileExpiry, Fingerprint, diagnose, sha256, timestamp};

/// One set, ready to judge by.
pub(super) struct CaSet {
    pub name: Name,
    pub roots: Vec<Root>,
    pub crls: Vec<Crl>,
    /// Roots with the lists that may speak of what they issued; nearly always one.
    pub views: Vec<View>,
    /// CRLs are named, so a certificate of unknown status does not hold.
    pub checks_revocation: bool,
    pub max_lifetime: Duration,
    pub identity: NameKind,
    pub tenant: Option<Name>,
    pub kind: AccountKind,
    pub roles: Vec<Name>,
    pub expiries: Vec<FileExpiry>,
}

/// A root and what webpki's anchor does not keep of it.
pub(super) struct Root {
    pub anchor: TrustAnchor<'static>,
    /// SHA-256 of the DER.
    pub digest: [u8; 32],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Intermediates that may stand below it; `None`: any number.
    pub path_length: Option<u32>,
    subject_key: Option<Vec<u8>>,
    /// RFC 5280 section 6.3.3 (f): its key usage lets it sign lists, or says nothing.
    signs_crls: bool,
    /// Where the config names its file.
    span: Span,
}

/// After a re-key two roots bear one name, and their CRLs one issuer; webpki picks a list by name alone. So each root sees
/// only the lists that are not marked as another key's.
pub(super) struct View {
    pub anchors: Vec<TrustAnchor<'static>>,
    /// Indices into [`CaSet::roots`], parallel to `anchors`.
    pub roots: Vec<usize>,
    /// Indices into [`CaSet::crls`], newest first: webpki consults the first that is authoritative.
    pub crls: Vec<usize>,
}

impl CaSet {
    /// Fails closed: a missing or unusable file, a root that may not issue, or no root at all refuses the config.
    pub(super) fn load(spec: &ClientCa, diagnostics: &mut Vec<Diagnostic>) -> Option<Self> {
        let before = diagnostics.len();
        let mut expiries = Vec::new();
        let mut roots: Vec<Root> = Vec::new();
        for file in &spec.roots {
            let loaded = pem::certificates(&file.value).and_then(|ders| {
                ders.iter()
                    .map(|der| Root::parse(der, &file.span).map_err(|error| error.in_file(&file.value)))
                    .collect::<Result<Vec<_>, _>>()
            });
            match loaded {
                Ok(loaded) => {
                    expiries.extend(span("client-ca", &file.value, loaded.iter().map(|root| (root.not_before, root.not_after))));
                    let known: Vec<_> = roots.iter().map(|root| root.digest).collect();
                    roots.extend(loaded.into_iter().filter(|root| !known.contains(&root.digest)));
                }
                Err(error) => diagnostics.push(diagnose(error, &file.span)),
            }
        }
        let mut crls: Vec<Crl> = Vec::new();
        for file in &spec.crls {
            match crl::load(&file.value) {
                Ok(loaded) => {
                    expiries.extend(span("crl", &file.value, loaded.iter().map(|crl| (crl.this_update, crl.next_update))));
                    crls.extend(loaded);
                }
                Err(error) => diagnostics.push(diagnose(error, &file.span)),
            }
        }
        if roots.is_empty() && diagnostics.len() == before {
            let message = format!("client_ca.{} has no root, so it could vouch for nobody", spec.name);
            diagnostics.push(Diagnostic::error(message, &Span::default()));
        }
        (diagnostics.len() == before).then(|| Self {
            name: spec.name.clone(),
            views: views(&roots, &crls),
            roots,
            crls,
            checks_revocation: !spec.crls.is_empty(),
            max_lifetime: spec.max_lifetime,
            identity: spec.identity,
            tenant: spec.tenant.clone(),
            kind: spec.kind,
            roles: spec.roles.clone(),
            expiries,
        })
    }

    /// Everything that decides whether a certificate holds, for telling whether tickets may live on.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = Fingerprint::default();
        fingerprint.part(self.name.as_bytes());
        self.roots.iter().for_each(|root| fingerprint.part(&root.digest));
        fingerprint.part(b"end of roots");
        self.crls.iter().for_each(|crl| fingerprint.part(&crl.digest));
        fingerprint.part(&[u8::from(self.checks_revocation)]);
        fingerprint.part(&self.max_lifetime.as_nanos().to_be_bytes());
        fingerprint.part(format!("{:?}", self.identity).as_bytes());
        fingerprint.finish()
    }
}

/// Roots that stand in two sets, so that nobody could say who vouched: each is an error at its second place.
pub(super) fn shared_roots(sets: &[Option<CaSet>]) -> Vec<Diagnostic> {
    let mut seen: BTreeMap<(&[u8], &[u8]), &CaSet> = BTreeMap::new();
    let mut diagnostics = Vec::new();
    for set in sets.iter().flatten() {
        for root in &set.roots {
            let key = (root.anchor.subject.as_ref(), root.anchor.subject_public_key_info.as_ref());
            match seen.get(&key) {
                Some(other) if other.name != set.name => {
                    diagnostics.push(
                        Diagnostic::error(
                            format!("a root of client_ca.{} also stands in client_ca.{}", set.name, other.name),
                            &root.span,
                        )
                        .help("a root belongs to one set: the set that vouches says whose customer it is"),
                    );
                }
                Some(_) => {}
                None => {
                    seen.insert(key, set);
                }
            }
        }
    }
    diagnostics
}

impl Root {
    /// Fails closed: what is not a CA, or may not sign certificates, is no root.
    fn parse(der: &CertificateDer<'_>, span: &Span) -> Result<Self, FileError> {
        let unusable = |why: &str| FileError::bare(format!("holds a certificate that cannot be a root: {why}"));
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| unusable(&format!("{error:?}")))?.to_owned();
        let (_, fields) = X509Certificate::from_der(der).map_err(|_| unusable("it cannot be read"))?;
        if !fields.is_ca() {
            return Err(FileError::new(
                format!("holds a certificate that is not a CA: {}", super::names::describe(der).0),
                "roots lists the CAs that may vouch for clients, not the clients' own certificates",
            ));
        }
        // RFC 5280 section 6.1.4 (n): asked only where it is present; for a root the operator's word stands in for it
        let usage = fields.key_usage().map_err(|_| unusable("its key usage cannot be read"))?.map(|usage| usage.value);
        if usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(unusable("its key usage lacks keyCertSign"));
        }
        if super::names::has_short_rsa_key(der) {
            return Err(unusable("its RSA key has less than 2048 bits, and what it signs is never verified"));
        }
        let constraints = fields.basic_constraints().map_err(|_| unusable("its basic constraints cannot be read"))?;
        let subject_key = fields.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            anchor,
            digest: sha256(der),
            not_before: timestamp(fields.validity().not_before.timestamp()),
            not_after: timestamp(fields.validity().not_after.timestamp()),
            path_length: constraints.and_then(|constraints| constraints.value.path_len_constraint),
            subject_key,
            signs_crls: usage.is_none_or(|usage| usage.crl_sign()),
            span: span.clone(),
        })
    }

    /// Fails closed: a list of its own that it may not sign is no list, so the status of what it issued stays unknown.
    fn may_be_spoken_of_by(&self, crl: &Crl) -> bool {
        if !self.signs_crls && crl.list.issuer() == self.anchor.subject.as_ref() {
            return false;
        }
        match (&self.subject_key, &crl.authority_key) {
            (Some(ours), Some(theirs)) => ours == theirs || crl.list.issuer() != self.anchor.subject.as_ref(),
            _ => true,
        }
    }
}

fn views(roots: &[Root], crls: &[Crl]) -> Vec<View> {
    let mut newest_first: Vec<usize> = (0..crls.len()).collect();
    newest_first.sort_by_key(|&index| std::cmp::Reverse(crls.get(index).map(|crl| crl.this_update)));
    let mut views: Vec<View> = Vec::new();
    for (index, root) in roots.iter().enumerate() {
        let seen: Vec<usize> =
            newest_first.iter().copied().filter(|&crl| crls.get(crl).is_some_and(|crl| root.may_be_spoken_of_by(crl))).collect();
        match views.iter_mut().find(|view| view.crls == seen) {
            Some(view) => {
                view.anchors.push(root.anchor.clone());
                view.roots.push(index);
            }
            None => views.push(View { anchors: vec![root.anchor.clone()], roots: vec![index], crls: seen }),
        }
    }
    views
}

/// The span in which all of a file's parts are good.
pub(super) fn span(
    kind: &'static str,
    path: &std::path::Path,
    parts: impl Iterator<Item = (Timestamp, Timestamp)>,
) -> Option<FileExpiry> {
    let (since, until) = parts.reduce(|(since, until), part| (since.max(part.0), until.min(part.1)))?;
    Some(FileExpiry { kind, path: PathBuf::from(path), since, until })
}
