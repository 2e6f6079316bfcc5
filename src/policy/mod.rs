//! The decision core: pure functions over values. No I/O, no lock, no clock; `now` is a parameter.

pub mod approval;
pub mod ban;
pub mod bot;
pub mod decide;
pub mod denial;
pub mod identity;
pub mod limit;
pub mod login;
pub mod path;
pub mod route;

pub use approval::{Approval, ApprovalFault, LiveApproval};
pub use decide::{ApprovalFact, CertFact, Facts, Permit};
pub use denial::{Denial, Reason};
pub use identity::{AccountKind, CertCause, Identity};
pub use path::CanonicalPath;
pub use route::{Route, RouteId, Site, SiteId};

use std::sync::Arc;

/// The written policy this gateway enforces; its id and version stand in `status` and on every approval.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PolicyDocument {
    pub id: String,
    pub version: String,
    pub contact: Option<String>,
}

/// Everything the decision needs to know, compiled from one config.
#[derive(Debug)]
pub struct Policy {
    pub document: PolicyDocument,
    /// Hosts and their sites; `SiteId` indexes [`route::Sites`].
    pub sites: route::Sites,
    /// `LimitId` indexes this.
    pub limits: Vec<limit::LimitSpec>,
    pub guesses: ban::GuessBudgets,
    pub bans: ban::BanRules,
    pub approvals: approval::ApprovalRules,
}

/// Index into `Config::upstreams`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Index into [`Policy::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimitId(pub usize);

/// A short shared string: names of routes, sets, tenants, accounts.
pub type Name = Arc<str>;
