//! `decide`: facts in, a permit or a denial out. The only maker of permits.

use std::sync::Arc;

use jiff::Timestamp;

use super::approval::{ApprovalFault, LiveApproval};
use super::bot::BotClass;
use super::{CertCause, Denial, Identity, Policy, Route};
use crate::clock::Now;

/// What is known of a request when it is decided. Gathered by `gateway::inspect`, which never judges.
#[derive(Debug)]
pub struct Facts {
    pub cert: CertFact,
    pub bot: BotClass,
    pub approval: ApprovalFact,
    /// A live ban of the client's address: when it ends. `None` when not banned.
    pub address_ban: Option<BanFact>,
    /// A live ban of the proven identity.
    pub identity_ban: Option<BanFact>,
}

/// A live ban, as a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanFact {
    pub until: Timestamp,
    /// On the `always` list: proof does not pass it.
    pub always: bool,
}

/// What the certificate side showed.
#[derive(Clone, Debug)]
pub enum CertFact {
    /// None was presented (or none was asked for).
    Absent,
    /// One that holds now.
    Held(Arc<Identity>),
    /// One that does not hold: counts as none where none is needed.
    Refused(CertCause),
}

/// What the approval side showed.
#[derive(Clone, Debug)]
pub enum ApprovalFact {
    Absent,
    /// Judged in full and in force for this request.
    Held(Arc<LiveApproval>),
    Refused(ApprovalFault),
}

/// Leave to forward one request. Only [`Policy::decide`] makes one.
#[derive(Debug)]
pub struct Permit {
    identity: Option<Arc<Identity>>,
    approval: Option<Arc<LiveApproval>>,
    _sealed: (),
}

impl Permit {
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    pub fn approval(&self) -> Option<&Arc<LiveApproval>> {
        self.approval.as_ref()
    }
}

impl Policy {
    /// Fails closed: every check must pass, in this order: bans, certificate, approval, automation, allow.
    pub fn decide(&self, _route: &Route, _facts: &Facts, _now: Now) -> Result<Permit, Denial> {
        todo!("policy")
    }
}
