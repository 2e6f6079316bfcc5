//! A sharded, bounded table of [`Entries`]: full, it counts new keys in groups rather than forget anybody's guesses.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::entries::{Entries, Entry};
use super::keyring::Tag;
use crate::state::lock;

/// A power of two.
const SHARDS: usize = 64;
/// Groups in a shard: memory beyond the bound is this many keys at most, whatever strangers do.
const GROUPS: u128 = 1024;

pub(super) struct Table<K> {
    shards: Vec<Mutex<Shard<K>>>,
    keys: AtomicUsize,
    most_keys: usize,
    overflow: AtomicU64,
}

pub(super) struct Shard<K> {
    exact: HashMap<K, Entries>,
    /// Keys that came while the table was full, together with their neighbours.
    groups: HashMap<u16, Entries>,
    /// The latest time seen here: it never runs backwards, whichever thread comes first.
    latest: Duration,
}

/// Where a key's entries are, or would be.
#[derive(Clone)]
pub(super) struct Key<K> {
    pub(super) exact: K,
    pub(super) tag: Tag,
    shard: usize,
    /// `None`: counted alone whatever happens.
    group: Option<u16>,
    /// Counted alone also in a full table, unless it stands in its group already.
    trusted: bool,
}

impl<K: Clone> Key<K> {
    /// `neighbours` is a keyed hash that those share who may be counted together.
    pub(super) fn new(exact: K, tag: Tag, neighbours: Option<Tag>) -> Self {
        // Key and group live in one shard, so that both are seen under one lock.
        let spread = neighbours.unwrap_or(tag);
        let shard = (spread % SHARDS as u128) as usize;
        let group = neighbours.map(|neighbours| (neighbours / SHARDS as u128 % GROUPS) as u16);
        Self { exact, tag, shard, group, trusted: false }
    }

    pub(super) fn trusted(mut self, trusted: bool) -> Self {
        self.trusted = trusted;
        self
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    pub(super) fn new(most_keys: usize) -> Self {
        let shard = || Shard { exact: HashMap::new(), groups: HashMap::new(), latest: Duration::ZERO };
        Self {
            shards: std::iter::repeat_with(|| Mutex::new(shard())).take(SHARDS).collect(),
            keys: AtomicUsize::new(0),
            most_keys,
            overflow: AtomicU64::new(0),
        }
    }

    /// The shard that holds a key. `Key::new` made the number, so it is one of them.
    #[allow(clippy::indexing_slicing)]
    pub(super) fn lock(&self, key: &Key<K>) -> MutexGuard<'_, Shard<K>> {
        lock(&self.shards[key.shard])
    }

    /// What counts for a key at a time.
    pub(super) fn entries<'s>(&self, shard: &'s mut Shard<K>, key: &Key<K>, at: Duration, within: Duration) -> &'s Entries {
        static NONE: Entries = Entries::new();
        shard.find(key, self.is_full()).map_or(&NONE, |entries| {
            entries.expire(at, within);
            entries
        })
    }

    /// Adds an entry where the key's entries are.
    pub(super) fn enter(&self, shard: &mut Shard<K>, key: &Key<K>, entry: Entry) {
        let full = self.is_full();
        if let Some(entries) = shard.find(key, full) {
            entries.push(entry);
            return;
        }
        match key.group {
            Some(group) if full && !key.trusted => {
                self.overflow.fetch_add(1, Ordering::Relaxed);
                shard.groups.entry(group).or_default().push(entry);
            }
            _ => {
                self.keys.fetch_add(1, Ordering::Relaxed);
                shard.exact.entry(key.exact.clone()).or_default().push(entry);
            }
        }
    }

    /// Changes a key's entries, and gives the key's place back when none are left.
    pub(super) fn change(&self, shard: &mut Shard<K>, key: &Key<K>, mut change: impl FnMut(&mut Entries)) {
        if let Some(entries) = shard.exact.get_mut(&key.exact) {
            change(entries);
            if entries.is_empty() {
                shard.exact.remove(&key.exact);
                self.keys.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Some(group) = key.group
            && let Some(entries) = shard.groups.get_mut(&group)
        {
            change(entries);
            if entries.is_empty() {
                shard.groups.remove(&group);
            }
        }
    }

    /// Visits every key that is counted alone.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&K, &mut Entries)) {
        for shard in &self.shards {
            self.retain(&mut lock(shard), |key, entries| visit(key, entries));
        }
    }

    pub(super) fn sweep(&self, now: Duration, within: Duration) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let at = shard.advance(now);
            self.retain(&mut shard, |_, entries| entries.expire(at, within));
            shard.groups.retain(|_, entries| {
                entries.expire(at, within);
                !entries.is_empty()
            });
            if shard.exact.capacity() > 4 * shard.exact.len().max(64) {
                shard.exact.shrink_to_fit();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed) + self.shards.iter().map(|shard| lock(shard).groups.len()).sum::<usize>()
    }

    pub(super) fn overflow_count(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.keys.load(Ordering::Relaxed) >= self.most_keys
    }

    fn retain(&self, shard: &mut Shard<K>, mut visit: impl FnMut(&K, &mut Entries)) {
        let before = shard.exact.len();
        shard.exact.retain(|key, entries| {
            visit(key, entries);
            !entries.is_empty()
        });
        self.keys.fetch_sub(before - shard.exact.len(), Ordering::Relaxed);
    }
}

impl<K: Hash + Eq> Shard<K> {
    /// The time to count by: the given one, or the latest seen here where that is later.
    pub(super) fn advance(&mut self, now: Duration) -> Duration {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn find(&mut self, key: &Key<K>, full: bool) -> Option<&mut Entries> {
        match self.place(key, full) {
            Place::Exact => self.exact.get_mut(&key.exact),
            Place::Group(group) => self.groups.get_mut(&group),
            Place::None => None,
        }
    }

    /// A key with entries of its own is counted where they are, alone or in its group; one without is counted with its
    /// group only while the table is full. So no key ever has entries in two places.
    fn place(&self, key: &Key<K>, full: bool) -> Place {
        if self.exact.contains_key(&key.exact) {
            return Place::Exact;
        }
        match key.group.and_then(|group| Some((group, self.groups.get(&group)?))) {
            Some((group, entries)) if (full && !key.trusted) || entries.any_of(key.tag) => Place::Group(group),
            _ => Place::None,
        }
    }
}

enum Place {
    Exact,
    Group(u16),
    None,
}
