//! `decide`: facts in, a permit or a denial out. The only maker of permits.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::approval::{ApprovalFault, LiveApproval};
use super::ban::BanAnswer;
use super::bot::BotClass;
use super::route::{Allow, BotRule, CertDemand};
use super::{AccountKind, CertCause, Denial, Identity, Policy, Reason, Route};
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
    ///
    /// 1. An address on the `always` list is refused whatever it proves. Any other ban of the address holds those who
    ///    prove nothing: a certificate or an approval that holds passes it, under `answer = "explain"`.
    /// 2. A ban of the proven identity.
    /// 3. The certificate, where the route demands one. Elsewhere one that does not hold counts as none.
    /// 4. The approval: a presented token is judged on every route.
    /// 5. Automation, by the request's own words or by its token, against the route's `bots`. A certificate makes nobody an
    ///    approved bot.
    /// 6. `allow`, where the route has it; an empty list lets nobody pass.
    pub fn decide(&self, route: &Route, facts: &Facts, now: Now) -> Result<Permit, Denial> {
        let identity = match &facts.cert {
            CertFact::Held(identity) => Some(identity),
            CertFact::Absent | CertFact::Refused(_) => None,
        };
        let approval = match &facts.approval {
            ApprovalFact::Held(approval) => Some(approval),
            ApprovalFact::Absent | ApprovalFact::Refused(_) => None,
        };
        let proven = identity.is_some() || approval.is_some();

        if let Some(ban) = &facts.address_ban {
            let passes = proven && !ban.always && self.bans.answer == BanAnswer::Explain;
            if !passes {
                return Err(ban.denial(now, "the client's address is banned"));
            }
        }
        if let Some(ban) = &facts.identity_ban {
            return Err(ban.denial(now, "the caller's identity is banned"));
        }
        check_certificate(route, &facts.cert)?;
        if let ApprovalFact::Refused(fault) = facts.approval {
            return Err(fault.denial());
        }
        check_automation(route, facts.bot, approval.is_some())?;
        check_allow(route, identity.map(Arc::as_ref), approval.is_some())?;
        Ok(Permit { identity: identity.cloned(), approval: approval.cloned(), _sealed: () })
    }
}

impl BanFact {
    /// Says how long to wait, but for bans without end.
    pub fn denial(&self, now: Now, cause: &'static str) -> Denial {
        let denial = Denial::new(Reason::Banned, cause);
        if self.always || self.until == Timestamp::MAX {
            return denial;
        }
        let left = Duration::try_from(self.until.duration_since(now.wall)).unwrap_or_default();
        denial.retry_after(left.max(Duration::from_secs(1)))
    }
}

impl CertCause {
    /// The refusal of who needs a certificate and has one that does not hold.
    pub fn denial(self) -> Denial {
        let reason = if self == Self::Revoked { Reason::Revoked } else { Reason::ClientCertRefused };
        Denial::new(reason, self.as_str())
    }
}

/// Fails closed: where one is demanded, only a certificate that holds passes.
fn check_certificate(route: &Route, cert: &CertFact) -> Result<(), Denial> {
    match (route.client_cert, cert) {
        (CertDemand::None | CertDemand::Optional, _) | (CertDemand::Required, CertFact::Held(_)) => Ok(()),
        (CertDemand::Required, CertFact::Absent) => Err(Denial::new(Reason::ClientCertRequired, "no client certificate")),
        (CertDemand::Required, CertFact::Refused(cause)) => Err(cause.denial()),
    }
}

/// Fails closed: what calls itself automation, or presents an approval, is automation.
fn check_automation(route: &Route, bot: BotClass, approved: bool) -> Result<(), Denial> {
    let automation = bot.is_automation() || approved;
    match route.bots {
        BotRule::Any => Ok(()),
        BotRule::Approved if approved || !automation => Ok(()),
        BotRule::Approved => Err(Denial::new(Reason::BotApprovalRequired, bot.as_str())),
        BotRule::None if !automation => Ok(()),
        BotRule::None => Err(Denial::new(Reason::NotPermitted, "automation, where none may pass")),
    }
}

/// Fails closed: where the route names who may pass, a caller without identity passes only as an approved bot, and only
/// where bots are named.
fn check_allow(route: &Route, identity: Option<&Identity>, approved: bool) -> Result<(), Denial> {
    let Some(allow) = &route.allow else { return Ok(()) };
    let allowed = allow.iter().any(|entry| {
        identity.is_some_and(|identity| entry.matches(identity)) || (approved && *entry == Allow::Kind(AccountKind::Bot))
    });
    if allowed { Ok(()) } else { Err(Denial::new(Reason::NotPermitted, "not on the route's allow list")) }
}

impl Allow {
    /// `identity:` means one name of one set: `set:name`. A bare name would let every other set of the site issue it.
    fn matches(&self, identity: &Identity) -> bool {
        match self {
            Self::Identity(key) => *key == identity.key,
            Self::Kind(kind) => *kind == identity.kind,
            Self::Role(role) => identity.roles.contains(role),
            Self::Tenant(tenant) => identity.tenant.as_ref() == Some(tenant),
        }
    }
}

#[cfg(test)]
mod tests;
