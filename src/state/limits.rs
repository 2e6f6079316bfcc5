//! Rate limits: governor's GCRA over bounded, sharded tables of our own, with time handed in.

use crate::clock::Now;
use crate::net::ClientKey;
use crate::policy::denial::LimitState;
use crate::policy::limit::{LimitSpec, Quota};
use crate::policy::login::AccountKey;
use crate::policy::{Denial, LimitId, Name, RouteId};

/// All limiters; fills survive a reload where name, key and quota are unchanged.
pub struct Limits {}

/// What a request has that limits can key by.
#[derive(Clone, Debug, Default)]
pub struct LimitSubject<'a> {
    pub client: Option<ClientKey>,
    pub identity: Option<&'a str>,
    pub approval: Option<&'a str>,
    /// The approval's own rate, charged before every configured limit.
    pub approval_rate: Option<Quota>,
    pub account: Option<&'a AccountKey>,
    pub tenant: Option<&'a str>,
    pub route: Option<RouteId>,
    /// `host/path`: the route's key, stable across reloads.
    pub route_label: Option<&'a str>,
}

/// What was charged so far in one request; a refusal gives all of it back.
#[derive(Debug, Default)]
pub struct Charges {}

/// One limit as it stands for one subject, for `limits show|explain`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LimitView {
    pub limit: String,
    pub key: String,
    pub mode: String,
    pub rate: String,
    pub burst: u32,
    pub remaining: u32,
    /// Milliseconds until one request would pass; 0 when it would now.
    pub wait_ms: u64,
}

/// What shadow limits would have refused in a charge.
pub type Shadowed = Vec<LimitId>;

impl Limits {
    pub fn new(_specs: &[LimitSpec]) -> Self {
        todo!("limits")
    }

    /// An unchanged limit keeps its fill; a changed one starts anew; a removed one is dropped.
    pub fn reconcile(&self, _specs: &[LimitSpec]) {
        todo!("limits")
    }

    /// Charges the limits named, in order, each once per request (`charges` remembers); one whose key the subject lacks
    /// does not apply yet and can be charged by a later call. Fails closed on a full table (folds into wider keys).
    /// On refusal everything in `charges` is given back and the denial carries `Retry-After` and the limit's state.
    pub fn charge(
        &self,
        _limits: &[LimitId],
        _subject: &LimitSubject<'_>,
        _charges: &mut Charges,
        _now: Now,
    ) -> Result<Shadowed, Denial> {
        todo!("limits")
    }

    /// How the limits stand for a subject; spends nothing.
    pub fn peek(&self, _limits: &[LimitId], _subject: &LimitSubject<'_>, _now: Now) -> Vec<LimitView> {
        todo!("limits")
    }

    /// Most-used keys of every limit, at most `most` each.
    pub fn show(&self, _most: usize, _now: Now) -> Vec<LimitView> {
        todo!("limits")
    }

    /// Frees full (unused) buckets.
    pub fn sweep(&self, _now: Now) {
        todo!("limits")
    }

    /// Keys held over all limits.
    pub fn len(&self) -> usize {
        todo!("limits")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stand-alone keyed limiter for the door (handshakes per client), same arithmetic and bounds.
pub struct KeyedLimiter {}

impl KeyedLimiter {
    pub fn new(_quota: Quota) -> Self {
        todo!("limits")
    }

    pub fn reconcile(&self, _quota: Quota) {
        todo!("limits")
    }

    /// `Err` is the state when refused.
    pub fn check(&self, _client: ClientKey, _now: Now) -> Result<(), LimitState> {
        todo!("limits")
    }

    pub fn sweep(&self, _now: Now) {
        todo!("limits")
    }
}

/// Unused where no name is needed.
pub type LimitName = Name;
