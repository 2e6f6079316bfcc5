//! An approval in force, judged against one request.

use std::sync::Arc;

use crate::clock::Now;
use crate::net::Nets;
use crate::policy::{CanonicalPath, Identity, Name};

use super::hours::Hours;
use super::{Approval, ApprovalFault, ApprovalStatus, ApprovalUse, Binding, Terms, bound_set};

/// An approval made ready for judging requests: templates, zone and nets parsed once.
#[derive(Clone, Debug)]
pub struct LiveApproval {
    pub id: Name,
    pub record: Arc<Approval>,
    paths: Vec<Template>,
    hours: Option<Hours>,
    /// `None`: from anywhere. An empty set is no such thing.
    from: Option<Nets>,
    /// The digest of a [`Binding::CertSha256`].
    cert_sha256: Option<[u8; 32]>,
}

/// A path template: plain segments, `*` for one, `**` for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// `None`: any one segment.
    pub(super) segments: Vec<Option<Box<str>>>,
    /// Whether anything, nothing too, may follow.
    pub(super) rest: bool,
}

impl LiveApproval {
    /// Fails closed: terms that cannot be parsed make no live approval.
    pub fn compile(record: Arc<Approval>) -> Result<Self, String> {
        let terms = &record.terms;
        let faults = terms.faults();
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let paths = terms.paths.iter().map(|path| Template::parse(path)).collect::<Result<Vec<_>, _>>()?;
        let hours = terms.hours.as_deref().map(Hours::parse).transpose()?;
        let cert_sha256 = match &terms.binding {
            Some(Binding::CertSha256(hex)) => Some(digest(hex).ok_or("binding: not a SHA-256")?),
            _ => None,
        };
        let from = (!terms.from.is_empty()).then(|| terms.from.iter().copied().collect::<Nets>());
        Ok(Self { id: record.id.as_str().into(), paths, hours, from, cert_sha256, record })
    }

    /// Judges a use in full: status, serial, times, binding, source, scope, hours. Fails closed.
    pub fn judge(&self, token_serial: u32, used: &ApprovalUse<'_>, now: Now) -> Result<(), ApprovalFault> {
        let terms = &self.record.terms;
        if self.record.status != ApprovalStatus::Active {
            return Err(ApprovalFault::NotActive);
        }
        if token_serial != self.record.serial {
            return Err(ApprovalFault::Superseded);
        }
        if now.wall >= terms.until {
            return Err(ApprovalFault::Expired);
        }
        if terms.not_before.is_some_and(|start| now.wall < start) {
            return Err(ApprovalFault::NotYet);
        }
        if !self.is_bound_to(used.identity) {
            return Err(ApprovalFault::Binding);
        }
        if self.from.as_ref().is_some_and(|nets| !nets.contains(used.client.ip)) {
            return Err(ApprovalFault::Source);
        }
        if !self.covers(used, terms) {
            return Err(ApprovalFault::Scope);
        }
        if self.hours.as_ref().is_some_and(|hours| !hours.cover(now.wall)) {
            return Err(ApprovalFault::Hours);
        }
        Ok(())
    }

    /// The certificate that it is bound to, by its SHA-256.
    pub fn bound_certificate(&self) -> Option<[u8; 32]> {
        self.cert_sha256
    }

    /// Fails closed: a bound approval without a certificate that holds is somebody else's.
    fn is_bound_to(&self, identity: Option<&Identity>) -> bool {
        match (&self.record.terms.binding, identity) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Binding::CertSha256(_)), Some(identity)) => self.cert_sha256 == Some(identity.cert_sha256),
            // Nobody else's set may vouch for a name that looks like one of this set.
            (Some(Binding::Identity(name)), Some(identity)) if bound_set(name).is_some() => **name == *identity.key,
            (Some(Binding::Identity(name)), Some(identity)) => **name == *identity.name,
        }
    }

    fn covers(&self, used: &ApprovalUse<'_>, terms: &Terms) -> bool {
        terms.sites.iter().any(|site| site == used.host)
            && terms.methods.iter().any(|method| method == used.method.as_str())
            && self.paths.iter().any(|template| template.covers(used.path))
    }
}

impl Template {
    /// Compares segment by segment, as the path is written: a spelling that differs from the template's is not covered.
    pub(super) fn covers(&self, path: &CanonicalPath) -> bool {
        let mut found = path.as_str().split('/').skip(1);
        for expected in &self.segments {
            let covered = match (expected, found.next()) {
                (_, None) => false,
                (None, Some(segment)) => !segment.is_empty(),
                (Some(expected), Some(segment)) => **expected == *segment,
            };
            if !covered {
                return false;
            }
        }
        self.rest || found.next().is_none()
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (position, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(position * 2..position * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}
