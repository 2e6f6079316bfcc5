//! governor's GCRA, with time and the table handed in.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use super::key::Probe;
use super::table::{Spent, Table};
use crate::clock::Now;
use crate::policy::Name;
use crate::policy::denial::LimitState;
use crate::policy::limit::Quota;

/// Nanoseconds between now and the farthest arrival time that is ever reckoned with (146 years): keeps sums from overflowing.
const HORIZON: u64 = u64::MAX / 4;

/// Lets one request pass, or says how long until one would. governor's limiter is three words of arithmetic, built for each
/// call, so that time is a parameter and the table stays ours.
pub(super) fn pass(table: &Table, quota: &Quota, probe: &Probe<'_>, now: Now) -> Result<Spent, Duration> {
    let now = nanos(now);
    let seat = Seat { table, quota, probe, now, spent: Cell::new(None) };
    let limiter = RateLimiter::<_, _, _, NoOpMiddleware<Nanos>>::new(governor_quota(quota), seat, Handed::at(now));
    let verdict = limiter.check().map_err(|until| until.wait_time_from(Nanos::new(now)));
    let spent = limiter.into_state_store().spent.get();
    // governor lets nothing pass without asking the store, so there is always something spent.
    verdict.and_then(|()| spent.ok_or(Duration::from_nanos(interval(quota))))
}

/// (requests left, wait until one would pass) at an arrival time.
pub(super) fn standing(quota: &Quota, arrival: Option<u64>, now: Now) -> (u32, Duration) {
    let now = nanos(now);
    let (interval, burst) = (interval(quota), burst(quota));
    let level = arrival.unwrap_or(now).saturating_sub(now);
    let used = level.div_ceil(interval);
    let remaining = u64::from(burst).saturating_sub(used);
    let tolerance = interval.saturating_mul(u64::from(burst) - 1);
    (u32::try_from(remaining).unwrap_or(u32::MAX), Duration::from_nanos(level.saturating_sub(tolerance)))
}

/// How long after now a request comes to its turn whose arrival is this, where `quota.burst` come at once.
pub(super) fn ahead(arrival: u64, quota: &Quota, now: Now) -> Duration {
    let at_once = interval(quota).saturating_mul(u64::from(burst(quota)));
    Duration::from_nanos(arrival.saturating_sub(nanos(now)).saturating_sub(at_once))
}

/// What the `RateLimit` fields say of a refusal.
pub(super) fn refusal(name: &Name, quota: &Quota, wait: Duration) -> LimitState {
    let whole = u128::from(quota.burst) * quota.per.as_nanos();
    let window = whole.div_ceil(u128::from(quota.requests.max(1)) * 1_000_000_000);
    let reset = wait.as_nanos().div_ceil(1_000_000_000);
    let seconds = |value: u128| u32::try_from(value).unwrap_or(u32::MAX).max(1);
    LimitState { name: name.clone(), quota: quota.burst, window: seconds(window), remaining: 0, reset: seconds(reset) }
}

/// The weight of one request, in nanoseconds.
pub(super) fn interval(quota: &Quota) -> u64 {
    u64::try_from(quota.interval().as_nanos()).unwrap_or(HORIZON).clamp(1, HORIZON)
}

pub(super) fn nanos(now: Now) -> u64 {
    u64::try_from(now.instant.as_nanos()).unwrap_or(HORIZON).min(HORIZON)
}

/// A burst so large that its span has no meaning is held to the horizon.
fn burst(quota: &Quota) -> u32 {
    let most = u32::try_from(HORIZON / interval(quota)).unwrap_or(u32::MAX);
    quota.burst.clamp(1, most.max(1))
}

fn governor_quota(quota: &Quota) -> governor::Quota {
    let burst = NonZeroU32::new(burst(quota)).unwrap_or(NonZeroU32::MIN);
    governor::Quota::with_period(Duration::from_nanos(interval(quota)))
        .unwrap_or(governor::Quota::per_hour(NonZeroU32::MIN))
        .allow_burst(burst)
}

/// One call's place at the table.
struct Seat<'a> {
    table: &'a Table,
    quota: &'a Quota,
    probe: &'a Probe<'a>,
    now: u64,
    spent: Cell<Option<Spent>>,
}

impl StateStore for Seat<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decision: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (value, spent) = self.table.decide(self.probe, self.quota, self.now, decision)?;
        self.spent.set(Some(spent));
        Ok(value)
    }
}

/// A clock for one call: the limiter reads its origin first, then the time of the request.
struct Handed {
    origin_read: Cell<bool>,
    now: Nanos,
}

impl Handed {
    fn at(now: u64) -> Self {
        Self { origin_read: Cell::new(false), now: Nanos::new(now) }
    }
}

impl Clock for Handed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        if self.origin_read.replace(true) { self.now } else { Nanos::new(0) }
    }
}
