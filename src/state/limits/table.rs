//! The buckets of one limit: bounded, sharded, and never a live one evicted.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use governor::nanos::Nanos;

use super::key::Probe;
use crate::policy::limit::Quota;

/// Keys that have a bucket of their own, for each limit.
pub(super) const CAPACITY: usize = 262_144;
/// Prefixes that stand in for keys without room.
const WIDE_CAPACITY: usize = 16_384;
/// Buckets of last resort, shared by hash.
const LAST: usize = 256;
const SHARDS: usize = 64;
/// A full shard is searched for unused buckets no more often than this, in nanoseconds, so that a flood cannot make every
/// request search.
const SEARCH_EVERY: u64 = 10_000_000;

/// Buckets by key.
///
/// Fails closed when full: only unused buckets (drained to nothing) make room, live ones never do, and a key that finds none
/// shares the bucket of its /24 or /48, or one of the last resort. What was spent there follows it into its own bucket later.
#[derive(Debug)]
pub(super) struct Table {
    own: Vec<Mutex<Shard>>,
    wide: Vec<Mutex<Shard>>,
    last: Vec<Mutex<Bucket>>,
    own_capacity: usize,
    wide_capacity: usize,
    /// No shared bucket is live after this.
    shared_until: AtomicU64,
    folded: AtomicU64,
}

/// What one pass put where; enough to take it back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    slot: Slot,
    at: u64,
    /// The bucket's theoretical arrival time right after.
    arrival: u64,
    /// The bucket's `returned` then.
    returned: u64,
}

impl Spent {
    /// The bucket's theoretical arrival time right after, in nanoseconds.
    pub(super) fn arrival(&self) -> u64 {
        self.arrival
    }
}

/// One bucket as it stands, for people.
pub(super) struct Reading {
    pub text: String,
    pub quota: Quota,
    /// Theoretical arrival time; at or before now: unused.
    pub arrival: u64,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Own(u128),
    Wide(u128),
    Last(usize),
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u128, Bucket, BuildHasherDefault<Hashed>>,
    /// At least every `returned` of a bucket that was forgotten, so that a later bucket of the same key continues its count.
    returned: u64,
    /// When the last search for unused buckets was, and no bucket goes unused before `earliest`.
    searched: u64,
    earliest: u64,
    /// The latest time seen here: a request keeps the time at which it began, and may come back late to take back.
    latest: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    /// GCRA's theoretical arrival time, nanoseconds since the clock's origin.
    arrival: u64,
    /// How often a pass was taken back.
    returned: u64,
    label: Option<Box<Label>>,
}

#[derive(Debug)]
struct Label {
    text: String,
    quota: Quota,
}

impl Table {
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY, WIDE_CAPACITY)
    }

    pub fn with_capacity(own: usize, wide: usize) -> Self {
        let shards = || (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            own: shards(),
            wide: shards(),
            last: (0..LAST).map(|_| Mutex::default()).collect(),
            own_capacity: own.div_ceil(SHARDS),
            wide_capacity: wide.div_ceil(SHARDS),
            shared_until: AtomicU64::new(0),
            folded: AtomicU64::new(0),
        }
    }

    /// Puts the arrival time of the probe's bucket (`None`: unused) to the decision, and keeps what it says. One decision at a
    /// time for each key.
    pub fn decide<T, E>(
        &self,
        probe: &Probe<'_>,
        quota: &Quota,
        now: u64,
        decision: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<(T, Spent), E> {
        let mut shard = shard_of(&self.own, probe.own);
        let label = |widened| Some(Box::new(Label { text: probe.text(widened), quota: *quota }));
        if let Some(spent) =
            shard.decide(probe.own, now, self.own_capacity, || self.shared(probe, now), || label(false), &decision)
        {
            return spent
                .map(|(value, arrival, returned)| (value, Spent { slot: Slot::Own(probe.own), at: now, arrival, returned }));
        }

        // The own shard stays locked, so that the key's own bucket cannot appear meanwhile: own before wide before last.
        self.folded.fetch_add(1, Ordering::Relaxed);
        if let Some(wide) = probe.wide()
            && let Some(spent) =
                shard_of(&self.wide, wide).decide(wide, now, self.wide_capacity, || None, || label(true), &decision)
        {
            let (value, arrival, returned) = spent?;
            self.shared_until.fetch_max(arrival, Ordering::Relaxed);
            return Ok((value, Spent { slot: Slot::Wide(wide), at: now, arrival, returned }));
        }
        let index = last_index(probe.own);
        #[expect(clippy::indexing_slicing, reason = "`last_index` is below the number of last buckets")]
        let mut bucket = lock(&self.last[index]);
        let (value, arrival) = decision((bucket.arrival > 0).then(|| Nanos::new(bucket.arrival)))?;
        bucket.arrival = arrival.as_u64();
        if bucket.label.is_none() {
            bucket.label = Some(Box::new(Label { text: format!("overflow {index}"), quota: *quota }));
        }
        self.shared_until.fetch_max(bucket.arrival, Ordering::Relaxed);
        Ok((value, Spent { slot: Slot::Last(index), at: now, arrival: bucket.arrival, returned: bucket.returned }))
    }

    /// Takes one pass back, as far as it has not drained yet: the bucket is then as if it had never been, and never fuller.
    pub fn give_back(&self, spent: &Spent, interval: u64, now: u64) {
        match spent.slot {
            Slot::Own(key) => shard_of(&self.own, key).give_back(key, spent, interval, now),
            Slot::Wide(key) => shard_of(&self.wide, key).give_back(key, spent, interval, now),
            #[expect(clippy::indexing_slicing, reason = "a slot that was handed out")]
            Slot::Last(index) => lock(&self.last[index]).give_back(spent, interval, now),
        }
    }

    /// The arrival time that would decide for the probe, and the text of the bucket; changes nothing.
    pub fn peek(&self, probe: &Probe<'_>, now: u64) -> (String, Option<u64>) {
        let shard = shard_of(&self.own, probe.own);
        if let Some(bucket) = shard.buckets.get(&probe.own) {
            return (probe.text(false), Some(bucket.arrival));
        }
        let full = shard.buckets.len() >= self.own_capacity;
        (probe.text(full && probe.wide().is_some()), self.shared(probe, now))
    }

    /// The most-used live buckets, at most `most`, most used first.
    pub fn most_used(&self, most: usize, now: u64) -> Vec<Reading> {
        let mut readings: Vec<Reading> = Vec::new();
        let mut floor = now;
        let mut keep = |bucket: &Bucket| {
            let Some(label) = &bucket.label else { return };
            if bucket.arrival > floor {
                readings.push(Reading { text: label.text.clone(), quota: label.quota, arrival: bucket.arrival });
                // Pruned now and then, so that a full table does not become a second one here.
                if readings.len() >= most.saturating_mul(2).max(64) {
                    prune(&mut readings, most);
                    floor = readings.last().map_or(floor, |least| least.arrival.max(floor));
                }
            }
        };
        for shard in self.own.iter().chain(&self.wide) {
            lock(shard).buckets.values().for_each(&mut keep);
        }
        for bucket in &self.last {
            keep(&lock(bucket));
        }
        prune(&mut readings, most);
        readings
    }

    /// Forgets unused buckets.
    pub fn sweep(&self, now: u64) {
        for shard in self.own.iter().chain(&self.wide) {
            let mut shard = lock(shard);
            shard.forget_unused(now);
            let roomy = shard.buckets.capacity() > 64 && shard.buckets.len() < shard.buckets.capacity() / 4;
            if roomy {
                shard.buckets.shrink_to_fit();
            }
        }
    }

    /// Buckets held.
    pub fn len(&self) -> usize {
        self.own.iter().chain(&self.wide).map(|shard| lock(shard).buckets.len()).sum()
    }

    /// Passes asked for by keys without a bucket of their own.
    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// What the key has spent in shared buckets: its own bucket starts from there.
    fn shared(&self, probe: &Probe<'_>, now: u64) -> Option<u64> {
        if self.shared_until.load(Ordering::Relaxed) <= now {
            return None;
        }
        let wide = probe.wide().and_then(|wide| shard_of(&self.wide, wide).buckets.get(&wide).map(|bucket| bucket.arrival));
        #[expect(clippy::indexing_slicing, reason = "`last_index` is below the number of last buckets")]
        let last = lock(&self.last[last_index(probe.own)]).arrival;
        wide.max(Some(last)).filter(|arrival| *arrival > now)
    }
}

impl Shard {
    /// `None` where there is neither a bucket nor room for one; else the value, the arrival time and the count of returns.
    fn decide<T, E>(
        &mut self,
        key: u128,
        now: u64,
        capacity: usize,
        inherited: impl FnOnce() -> Option<u64>,
        label: impl FnOnce() -> Option<Box<Label>>,
        decision: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Option<Result<(T, u64, u64), E>> {
        self.latest = self.latest.max(now);
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return Some(decision(Some(Nanos::new(bucket.arrival))).map(|(value, arrival)| {
                bucket.arrival = arrival.as_u64();
                (value, bucket.arrival, bucket.returned)
            }));
        }
        if self.buckets.len() >= capacity && !self.make_room(now, capacity) {
            return None;
        }
        Some(decision(inherited().map(Nanos::new)).map(|(value, arrival)| {
            let bucket = Bucket { arrival: arrival.as_u64(), returned: self.returned, label: label() };
            self.earliest = self.earliest.min(bucket.arrival);
            self.buckets.insert(key, bucket);
            (value, arrival.as_u64(), self.returned)
        }))
    }

    fn give_back(&mut self, key: u128, spent: &Spent, interval: u64, now: u64) {
        let now = now.max(self.latest);
        if let Some(bucket) = self.buckets.get_mut(&key) {
            bucket.give_back(spent, interval, now);
            self.earliest = self.earliest.min(bucket.arrival);
        }
    }

    fn make_room(&mut self, now: u64, capacity: usize) -> bool {
        if now >= self.earliest.max(self.searched.saturating_add(SEARCH_EVERY)) {
            self.forget_unused(now);
        }
        self.buckets.len() < capacity
    }

    fn forget_unused(&mut self, now: u64) {
        let (mut returned, mut earliest) = (self.returned, u64::MAX);
        self.buckets.retain(|_, bucket| {
            let live = bucket.arrival > now;
            if live {
                earliest = earliest.min(bucket.arrival);
            } else {
                returned = returned.max(bucket.returned);
            }
            live
        });
        self.returned = returned;
        self.earliest = earliest;
        self.searched = now;
    }
}

impl Bucket {
    /// Two bounds on what has drained of the pass, and the better of them holds: never more than the time that went by, and
    /// never anything while it lies above what has drained. It went on top of what was spent before it; what was taken back
    /// since may have lain below it.
    fn give_back(&mut self, spent: &Spent, interval: u64, now: u64) {
        let by_time = interval.saturating_sub(now.saturating_sub(spent.at));
        let lowered = self.returned.saturating_sub(spent.returned).saturating_mul(interval);
        let by_place = spent.arrival.saturating_sub(lowered).saturating_sub(now).min(interval);
        let back = by_time.max(by_place);
        self.arrival = self.arrival.saturating_sub(back);
        self.returned = self.returned.saturating_add(1);
    }
}

/// The keys are hashes under a secret already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[expect(clippy::indexing_slicing, reason = "the index is taken modulo the number of shards")]
fn shard_of(shards: &[Mutex<Shard>], key: u128) -> MutexGuard<'_, Shard> {
    lock(&shards[(key >> 64) as usize % SHARDS])
}

/// Other bits than the shard's, so that a full shard spreads over all of them.
fn last_index(key: u128) -> usize {
    (key >> 96) as usize % LAST
}

/// A panic under the lock leaves a bucket as it was before or after; both are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn prune(readings: &mut Vec<Reading>, most: usize) {
    readings.sort_unstable_by(|a, b| b.arrival.cmp(&a.arrival).then_with(|| a.text.cmp(&b.text)));
    readings.truncate(most);
}
