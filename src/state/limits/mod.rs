//! Rate limits: governor's GCRA over bounded, sharded tables of our own, with time handed in.

mod gcra;
mod key;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::net::ClientKey;
use crate::policy::denial::LimitState;
use crate::policy::limit::{LimitKey, LimitMode, LimitSpec, Quota};
use crate::policy::login::AccountKey;
use crate::policy::{Denial, LimitId, Reason, RouteId};

use key::{KeyHasher, Probe};
use table::{Spent, Table};

/// The name under which an approval's own rate is told.
const APPROVAL: &str = "approval";
/// The name under which the door's handshake limit is told.
const HANDSHAKES: &str = "handshakes";
/// Charges that a request holds without allocating; routes name fewer limits than this.
const INLINE: usize = 6;

/// All limiters; fills survive a reload where name, key and quota are unchanged.
///
/// `LimitId`s index the specs that were handed in last. A request that began before a reload carries older ids; one that is
/// out of range now names no limit and does not apply.
#[derive(Debug)]
pub struct Limits {
    set: ArcSwap<Vec<Arc<Limiter>>>,
    approval: Limiter,
    hasher: KeyHasher,
}

/// What a request has that limits can key by.
#[derive(Clone, Debug, Default)]
pub struct LimitSubject<'a> {
    pub client: Option<ClientKey>,
    /// `set:name`.
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
pub struct Charges {
    inline: [Option<Charge>; INLINE],
    more: Vec<Charge>,
}

/// One limit as it stands for one subject, for `limits show|explain`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LimitView {
    pub limit: String,
    pub key: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// `120/min`.
    pub rate: String,
    pub burst: u32,
    pub remaining: u32,
    /// Milliseconds until one request would pass; 0 when it would now.
    pub wait_ms: u64,
}

/// What shadow limits would have refused in a charge.
pub type Shadowed = Vec<LimitId>;

impl Limits {
    pub fn new(specs: &[LimitSpec]) -> Self {
        let limits = Self {
            set: ArcSwap::default(),
            approval: Limiter::new(LimitSpec {
                name: APPROVAL.into(),
                key: vec![LimitKey::Approval],
                // Each approval brings its own.
                quota: Quota { requests: 1, per: Duration::from_secs(1), burst: 1 },
                mode: LimitMode::Enforce,
            }),
            hasher: KeyHasher::default(),
        };
        limits.reconcile(specs);
        limits
    }

    /// An unchanged limit keeps its fill, also when only its mode changed; a changed one starts anew; a removed one is dropped.
    pub fn reconcile(&self, specs: &[LimitSpec]) {
        let old = self.set.load();
        let set = specs.iter().map(|spec| {
            let kept = old.iter().find(|limiter| limiter.keeps_its_fill_as(spec));
            Arc::new(match kept {
                Some(limiter) => Limiter { spec: spec.clone(), table: Arc::clone(&limiter.table) },
                None => Limiter::new(spec.clone()),
            })
        });
        self.set.store(Arc::new(set.collect()));
    }

    /// Charges the limits of these that are named, in order, each once per request (`charges` remembers); one whose key the subject
    /// lacks does not apply yet and can be charged by a later call. Fails closed on a full table (folds into wider keys).
    /// On refusal everything in `charges` is given back and the denial carries `Retry-After` and the limit's state.
    /// A limit in shadow is charged while it has room; beyond that it charges nothing, never refuses, and is returned.
    pub fn charge(
        &self,
        specs: &[LimitSpec],
        limits: &[LimitId],
        subject: &LimitSubject<'_>,
        charges: &mut Charges,
        now: Now,
    ) -> Result<Shadowed, Denial> {
        let mut shadowed = Shadowed::new();
        if let Some(rate) = &subject.approval_rate
            && let Err(wait) = self.approval.charge(rate, &self.hasher, subject, charges, now)
        {
            return Err(self.approval.refuse(rate, wait, charges, now));
        }
        let set = self.set.load();
        for &id in limits {
            let Some(limiter) = find(&set, specs, id) else { continue };
            if let Err(wait) = limiter.charge(&limiter.spec.quota, &self.hasher, subject, charges, now) {
                match limiter.spec.mode {
                    LimitMode::Enforce => return Err(limiter.refuse(&limiter.spec.quota, wait, charges, now)),
                    LimitMode::Shadow => {
                        charges.keep(Charge { table: Arc::clone(&limiter.table), interval: 0, spent: None });
                        shadowed.push(id);
                    }
                }
            }
        }
        Ok(shadowed)
    }

    /// How the limits stand for a subject; spends nothing. One whose key the subject lacks is left out.
    pub fn peek(&self, specs: &[LimitSpec], limits: &[LimitId], subject: &LimitSubject<'_>, now: Now) -> Vec<LimitView> {
        let set = self.set.load();
        let approval = subject.approval_rate.as_ref().and_then(|rate| self.approval.peek(rate, &self.hasher, subject, now));
        let configured = limits.iter().filter_map(|id| {
            let limiter = find(&set, specs, *id)?;
            limiter.peek(&limiter.spec.quota, &self.hasher, subject, now)
        });
        approval.into_iter().chain(configured).collect()
    }

    /// Most-used keys of every limit, at most `most` each.
    pub fn show(&self, most: usize, now: Now) -> Vec<LimitView> {
        let set = self.set.load();
        let limiters = std::iter::once(&self.approval).chain(set.iter().map(AsRef::as_ref));
        limiters.flat_map(|limiter| limiter.show(most, now)).collect()
    }

    /// Frees full (unused) buckets.
    pub fn sweep(&self, now: Now) {
        self.approval.table.sweep(gcra::nanos(now));
        self.set.load().iter().for_each(|limiter| limiter.table.sweep(gcra::nanos(now)));
    }

    /// Keys held over all limits.
    pub fn len(&self) -> usize {
        self.approval.table.len() + self.set.load().iter().map(|limiter| limiter.table.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a key found its limit's table full of live buckets and shared a wider one, over the limits that live now.
    pub fn overflow_count(&self) -> u64 {
        self.approval.table.folded() + self.set.load().iter().map(|limiter| limiter.table.folded()).sum::<u64>()
    }
}

/// The live limiter of a limit, by its name where its place has changed: a request that was decided before a reload is charged
/// what it was to be charged, under the rate of now; what the reload took away charges nobody.
fn find<'s>(set: &'s [Arc<Limiter>], specs: &[LimitSpec], id: LimitId) -> Option<&'s Limiter> {
    let name = &specs.get(id.0)?.name;
    let named = |limiter: &&Arc<Limiter>| Arc::ptr_eq(&limiter.spec.name, name) || limiter.spec.name == *name;
    set.get(id.0).filter(named).or_else(|| set.iter().find(named)).map(AsRef::as_ref)
}

impl Charges {
    /// Takes everything back, as far as it has not drained since: for a request that was refused further on.
    pub fn give_back(&mut self, now: Now) {
        let inline = self.inline.iter_mut().filter_map(Option::take);
        for charge in inline.chain(self.more.drain(..)) {
            if let Some(spent) = &charge.spent {
                charge.table.give_back(spent, charge.interval, gcra::nanos(now));
            }
        }
    }

    fn holds(&self, table: &Arc<Table>) -> bool {
        self.inline.iter().flatten().chain(&self.more).any(|charge| Arc::ptr_eq(&charge.table, table))
    }

    fn keep(&mut self, charge: Charge) {
        match self.inline.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(charge),
            None => self.more.push(charge),
        }
    }
}

/// A stand-alone limiter for the door (handshakes per client), same arithmetic and bounds: it paces a client that comes too
/// fast, and refuses one that would have to wait too long.
#[derive(Debug)]
pub struct Pace {
    limiter: ArcSwap<Limiter>,
    hasher: KeyHasher,
}

impl Pace {
    /// `quota` passes at once; beyond it each waits its turn, but no longer than `patience`.
    pub fn new(quota: Quota, patience: Duration) -> Self {
        Self { limiter: ArcSwap::from_pointee(Self::limiter(quota, patience)), hasher: KeyHasher::default() }
    }

    /// A changed quota starts anew.
    pub fn reconcile(&self, quota: Quota, patience: Duration) {
        let limiter = Self::limiter(quota, patience);
        if self.limiter.load().spec.quota != limiter.spec.quota {
            self.limiter.store(Arc::new(limiter));
        }
    }

    /// How long this client's next turn is away; `Err` when that is beyond patience. Fails closed on a full table, as every
    /// limit does.
    pub fn turn(&self, client: ClientKey, quota: &Quota, now: Now) -> Result<Duration, LimitState> {
        let subject = LimitSubject { client: Some(client), ..LimitSubject::default() };
        let limiter = self.limiter.load();
        let Some(probe) = Probe::new(&limiter.spec.key, &subject, &self.hasher) else { return Ok(Duration::ZERO) };
        match gcra::pass(&limiter.table, &limiter.spec.quota, &probe, now) {
            Ok(spent) => Ok(gcra::ahead(spent.arrival(), quota, now)),
            Err(wait) => Err(gcra::refusal(&limiter.spec.name, quota, wait)),
        }
    }

    pub fn sweep(&self, now: Now) {
        self.limiter.load().table.sweep(gcra::nanos(now));
    }

    /// How often a client found the table full and shared a wider place in line.
    pub fn overflow_count(&self) -> u64 {
        self.limiter.load().table.folded()
    }

    fn limiter(quota: Quota, patience: Duration) -> Limiter {
        let waiting = patience.as_nanos() / u128::from(gcra::interval(&quota));
        let burst = quota.burst.saturating_add(u32::try_from(waiting).unwrap_or(u32::MAX));
        let quota = Quota { burst, ..quota };
        Limiter::new(LimitSpec { name: HANDSHAKES.into(), key: vec![LimitKey::Client], quota, mode: LimitMode::Enforce })
    }
}

/// One limit and its buckets. The buckets outlive a reload that changes the mode alone.
#[derive(Debug)]
struct Limiter {
    spec: LimitSpec,
    table: Arc<Table>,
}

/// One limit's part of what a request was charged.
struct Charge {
    table: Arc<Table>,
    interval: u64,
    /// `None`: a shadow that would have refused.
    spent: Option<Spent>,
}

impl Limiter {
    fn new(spec: LimitSpec) -> Self {
        Self { spec, table: Arc::new(Table::new()) }
    }

    fn keeps_its_fill_as(&self, spec: &LimitSpec) -> bool {
        self.spec.name == spec.name && self.spec.key == spec.key && self.spec.quota == spec.quota
    }

    /// `Err` is how long until one would pass.
    fn charge(
        &self,
        quota: &Quota,
        hasher: &KeyHasher,
        subject: &LimitSubject<'_>,
        charges: &mut Charges,
        now: Now,
    ) -> Result<(), Duration> {
        if charges.holds(&self.table) {
            return Ok(());
        }
        let Some(probe) = Probe::new(&self.spec.key, subject, hasher) else { return Ok(()) };
        let spent = gcra::pass(&self.table, quota, &probe, now)?;
        charges.keep(Charge { table: Arc::clone(&self.table), interval: gcra::interval(quota), spent: Some(spent) });
        Ok(())
    }

    fn refuse(&self, quota: &Quota, wait: Duration, charges: &mut Charges, now: Now) -> Denial {
        charges.give_back(now);
        let mut denial = Denial::new(Reason::RateLimited, ["limit ", &*self.spec.name].concat()).retry_after(wait);
        denial.limit = Some(gcra::refusal(&self.spec.name, quota, wait));
        denial
    }

    fn peek(&self, quota: &Quota, hasher: &KeyHasher, subject: &LimitSubject<'_>, now: Now) -> Option<LimitView> {
        let probe = Probe::new(&self.spec.key, subject, hasher)?;
        let (text, arrival) = self.table.peek(&probe, gcra::nanos(now));
        Some(self.view(text, quota, arrival, now))
    }

    fn show(&self, most: usize, now: Now) -> Vec<LimitView> {
        let readings = self.table.most_used(most, gcra::nanos(now));
        readings.into_iter().map(|reading| self.view(reading.text, &reading.quota, Some(reading.arrival), now)).collect()
    }

    fn view(&self, key: String, quota: &Quota, arrival: Option<u64>, now: Now) -> LimitView {
        let (remaining, wait) = gcra::standing(quota, arrival, now);
        let mode = match self.spec.mode {
            LimitMode::Enforce => "enforce",
            LimitMode::Shadow => "shadow",
        };
        LimitView {
            limit: self.spec.name.to_string(),
            key,
            mode: mode.to_owned(),
            rate: rate(quota),
            burst: quota.burst,
            remaining,
            wait_ms: u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("spent", &self.spent).finish_non_exhaustive()
    }
}

/// As the config writes it.
fn rate(quota: &Quota) -> String {
    let per = match quota.per.as_secs() {
        _ if quota.per.subsec_nanos() > 0 => format!("{:?}", quota.per),
        1 => "s".to_owned(),
        60 => "min".to_owned(),
        3600 => "h".to_owned(),
        86_400 => "day".to_owned(),
        seconds => format!("{seconds}s"),
    };
    format!("{}/{per}", quota.requests)
}
