//! Slots at the door: connections in all and per client, handshakes per client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::clock::Now;
use crate::config::{Caps, Config};
use crate::net::ClientKey;
use crate::state::limits::Pace;

use super::wire::Watch;

/// Slots shared by all workers: connections in all and per client, handshakes per client.
pub struct Slots {
    caps: Limits,
    open: AtomicUsize,
    clients: [Mutex<HashMap<ClientKey, usize>>; SHARDS],
    hasher: RandomState,
    handshakes: Pace,
    /// Every connection that holds a place, by its watch's address.
    floor: [Mutex<HashMap<usize, Arc<Watch>>>; SHARDS],
    /// Connections at rest, next to give up their places last.
    idlest: Mutex<Idlest>,
    /// Clients that proved who they are; for them a part of all places is reserved.
    known: Cache<ClientKey, ()>,
}

/// One open connection; the place is free again on drop.
pub(super) struct Slot {
    slots: Arc<Slots>,
    watch: Arc<Watch>,
}

#[derive(Default)]
struct Idlest {
    /// With the moment since when each rested.
    connections: Vec<(Arc<Watch>, Instant)>,
    searched: Option<Instant>,
}

/// One open connection of one client; the place is free again on drop.
pub(super) struct ClientSlot {
    slots: Arc<Slots>,
    client: ClientKey,
}

struct Limits {
    /// What the process has descriptors for.
    most: usize,
    connections: AtomicUsize,
    per_client: AtomicUsize,
}

/// A lock each, so that workers seldom meet.
const SHARDS: usize = 16;
/// Of all places, one in so many is kept for clients that proved who they are before.
const RESERVE: usize = 32;
/// Such clients that are remembered; the least recent ones are forgotten.
const MOST_KNOWN: usize = 16_384;
/// A connection that rests for less is not shed: an honest client may be that slow.
const LEAST_REST: Duration = Duration::from_secs(1);
/// How often all connections are searched for the idlest, and how many are remembered of one search.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
const SEARCH_FOR: usize = 512;

impl Slots {
    /// `patience` is how long a client that shakes hands too fast may be kept waiting for its turn.
    pub fn new(caps: &Caps, patience: Duration) -> Self {
        Self {
            caps: Limits {
                most: usize::MAX,
                connections: caps.connections.into(),
                per_client: caps.connections_per_client.into(),
            },
            open: AtomicUsize::new(0),
            clients: Default::default(),
            hasher: RandomState::new(),
            handshakes: Pace::new(caps.handshakes_per_client, patience),
            floor: Default::default(),
            idlest: Mutex::default(),
            known: Cache::new(MOST_KNOWN),
        }
    }

    /// Never more connections than three quarters of the descriptors that the process may have: the rest is for upstreams,
    /// the operators' doors, the store and the logs.
    pub fn within_descriptors(mut self, descriptors: u64) -> Self {
        self.caps.most = usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX);
        self
    }

    /// Takes over new caps; what is open stays open, also where there are now too many.
    pub fn reconcile(&self, caps: &Caps, patience: Duration) {
        self.caps.connections.store(caps.connections, Ordering::Relaxed);
        self.caps.per_client.store(caps.connections_per_client, Ordering::Relaxed);
        self.handshakes.reconcile(caps.handshakes_per_client, patience);
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Frees memory of clients that have not shaken hands lately.
    pub fn sweep(&self, now: Now) {
        self.handshakes.sweep(now);
    }

    /// How often a client shared a wider place in the line for handshakes because the table was full.
    pub fn overflow_count(&self) -> u64 {
        self.handshakes.overflow_count()
    }

    /// A place for a connection. When all are taken, the connection that has rested longest gives its place up: first those
    /// that never made a request, then strangers between two requests, at last those that proved who they are; never one with
    /// a request under way. Fails closed: `None` when nobody can.
    pub(super) fn enter(self: &Arc<Self>, watch: &Arc<Watch>, client: Option<ClientKey>) -> Option<Slot> {
        let cap = self.caps.connections.load(Ordering::Relaxed).min(self.caps.most);
        let is_known = client.is_some_and(|client| self.known.get(&client).is_some());
        let cap = if is_known { cap } else { cap - cap / RESERVE };
        if self.open.fetch_add(1, Ordering::Relaxed) >= cap {
            self.open.fetch_sub(1, Ordering::Relaxed);
            if !self.shed() {
                return None;
            }
        }
        self.floor(watch).insert(place(watch), Arc::clone(watch));
        Some(Slot { slots: Arc::clone(self), watch: Arc::clone(watch) })
    }

    /// Gives a place back to a connection that began a request just when it was to be shed.
    pub(super) fn readmit(&self, watch: &Arc<Watch>) {
        if self.floor(watch).insert(place(watch), Arc::clone(watch)).is_none() {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The client proved who it is: from now on it may use the reserve.
    pub(super) fn know(&self, client: ClientKey) {
        self.known.insert(client, ());
    }

    /// Takes the place of the connection that has rested longest; whoever calls has it now.
    fn shed(&self) -> bool {
        let mut idlest = self.idlest.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let Some((watch, since)) = idlest.connections.pop() else {
                let now = Instant::now();
                if idlest.searched.is_some_and(|searched| now.duration_since(searched) < SEARCH_EVERY) {
                    return false;
                }
                idlest.searched = Some(now);
                idlest.connections = self.search(now);
                if idlest.connections.is_empty() {
                    return false;
                }
                continue;
            };
            if watch.at_rest_since() == Some(since) && self.floor(&watch).remove(&place(&watch)).is_some() {
                watch.shed.notify_one();
                return true;
            }
        }
    }

    /// Connections at rest, those to be shed first at the end.
    fn search(&self, now: Instant) -> Vec<(Arc<Watch>, Instant)> {
        let mut found = Vec::new();
        for shard in &self.floor {
            let shard = shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let resting = shard.values().filter_map(|watch| Some((Arc::clone(watch), watch.at_rest_since()?)));
            found.extend(resting.filter(|(_, since)| now.saturating_duration_since(*since) >= LEAST_REST));
        }
        let worth = |(watch, since): &(Arc<Watch>, Instant)| (watch.is_proven(), watch.requests() > 0, *since);
        if found.len() > SEARCH_FOR {
            found.select_nth_unstable_by_key(SEARCH_FOR, worth);
            found.truncate(SEARCH_FOR);
        }
        found.sort_unstable_by_key(|one| std::cmp::Reverse(worth(one)));
        found
    }

    fn floor(&self, watch: &Arc<Watch>) -> MutexGuard<'_, HashMap<usize, Arc<Watch>>> {
        let [first, ..] = &self.floor;
        // Watches lie at least this far apart in memory.
        let shard = (place(watch) / size_of::<Watch>()) % SHARDS;
        self.floor.get(shard).unwrap_or(first).lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Fails closed: `None` when the client has as many connections as one client may. The table holds only clients with an
    /// open connection, so the cap on all connections bounds it.
    pub(super) fn enter_client(self: &Arc<Self>, client: ClientKey) -> Option<ClientSlot> {
        let cap = self.caps.per_client.load(Ordering::Relaxed);
        let mut shard = self.shard(client);
        let taken = shard.get(&client).copied().unwrap_or(0);
        if taken >= cap {
            return None;
        }
        shard.insert(client, taken + 1);
        drop(shard);
        Some(ClientSlot { slots: Arc::clone(self), client })
    }

    /// How long the client must wait before one more TLS handshake; `None` when that is longer than a handshake may take. A
    /// flood of one client thus waits in its own line, and an honest burst is served late rather than cut. Fails closed, as the
    /// limiter does on a full table.
    pub(super) fn handshake_turn(&self, client: ClientKey, config: &Config, now: Now) -> Option<Duration> {
        self.handshakes.turn(client, &config.caps.handshakes_per_client, now).ok()
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, HashMap<ClientKey, usize>> {
        let [first, ..] = &self.clients;
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        self.clients.get(shard).unwrap_or(first).lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn place(watch: &Arc<Watch>) -> usize {
    Arc::as_ptr(watch).addr()
}

impl Drop for Slot {
    fn drop(&mut self) {
        // One that was shed has given its place away.
        if self.slots.floor(&self.watch).remove(&place(&self.watch)).is_some() {
            self.slots.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut shard = self.slots.shard(self.client);
        match shard.get_mut(&self.client) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(shard.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ClientAddr;
    use crate::policy::limit::Quota;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn caps(connections: usize, per_client: usize) -> Caps {
        let handshakes_per_client = Quota { requests: 50, per: Duration::from_secs(1), burst: 2 };
        Caps { connections, connections_per_client: per_client, handshakes_per_client, streams: 1, headers: 1, head: 1 }
    }

    fn key(text: &str) -> ClientKey {
        ClientAddr::new(text.parse().unwrap(), 64).key
    }

    #[test]
    fn a_slot_is_free_again_when_its_guard_drops() {
        let slots = Arc::new(Slots::new(&caps(2, 9), PATIENCE));
        let first = enter(&slots).unwrap();
        let second = enter(&slots).unwrap();
        assert!(enter(&slots).is_none());
        assert_eq!(slots.open(), 2);
        drop(first);
        assert!(enter(&slots).is_some());
        drop(second);
        assert_eq!(slots.open(), 0);
    }

    #[test]
    fn a_client_is_its_prefix_and_hurts_no_other() {
        let slots = Arc::new(Slots::new(&caps(9, 2), PATIENCE));
        let held: Vec<_> = ["2001:db8::1", "2001:db8::2"].into_iter().map(|ip| slots.enter_client(key(ip)).unwrap()).collect();
        assert!(slots.enter_client(key("2001:db8::3")).is_none());
        assert!(slots.enter_client(key("2001:db8:0:1::3")).is_some());
        drop(held);
        assert!(slots.enter_client(key("2001:db8::3")).is_some());
        assert!(slots.clients.iter().all(|shard| shard.lock().unwrap().is_empty()), "no client without a connection is kept");
    }

    #[test]
    fn new_caps_hold_for_the_next_and_cut_nobody() {
        let slots = Arc::new(Slots::new(&caps(4, 4), PATIENCE));
        let held: Vec<_> = (0..3).map(|_| enter(&slots).unwrap()).collect();
        slots.reconcile(&caps(2, 1), PATIENCE);
        assert!(enter(&slots).is_none());
        assert_eq!(slots.open(), 3);
        drop(held);
        assert!(enter(&slots).is_some());
        let _one = slots.enter_client(key("192.0.2.1")).unwrap();
        assert!(slots.enter_client(key("192.0.2.1")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_idlest_give_up_their_places_strangers_before_guests_and_nobody_at_work() {
        let slots = Arc::new(Slots::new(&caps(4, 9), PATIENCE));
        let stranger = Arc::<Watch>::default();
        let old = Arc::<Watch>::default();
        let working = Arc::<Watch>::default();
        let _held: Vec<_> = [&old, &working, &stranger].map(|watch| slots.enter(watch, None).unwrap()).into();
        drop(old.begin());
        old.rest(Instant::now());
        let _request = working.begin();
        tokio::time::advance(LEAST_REST / 2).await;
        let young = Arc::<Watch>::default();
        let _young = slots.enter(&young, None).unwrap();
        assert!(enter(&slots).is_none(), "nobody has rested long enough");
        tokio::time::advance(LEAST_REST / 2).await;

        let taken = enter(&slots).expect("a place");
        assert_eq!((slots.open(), is_shed(&stranger)), (4, true), "one that never asked for anything goes first");
        assert!(!is_shed(&old) && !is_shed(&working));
        let also_taken = enter(&slots).expect("a place");
        assert!(is_shed(&old) && !is_shed(&working) && !is_shed(&young));
        drop((taken, also_taken));
        assert_eq!(slots.open(), 2, "who was shed has no place to give back");

        slots.readmit(&old);
        assert_eq!(slots.open(), 3);
        slots.readmit(&old);
        assert_eq!(slots.open(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_all_places_is_for_clients_that_proved_who_they_are() {
        let slots = Arc::new(Slots::new(&caps(RESERVE, 99), PATIENCE));
        let held: Vec<_> = std::iter::from_fn(|| enter(&slots)).collect();
        assert_eq!(held.len(), RESERVE - 1);
        let (known, other) = (key("192.0.2.1"), key("192.0.2.2"));
        slots.know(known);
        assert!(slots.enter(&Arc::default(), Some(other)).is_none());
        assert!(slots.enter(&Arc::default(), Some(known)).is_some());
    }

    /// A connection with a request under way, which nobody sheds.
    fn enter(slots: &Arc<Slots>) -> Option<Slot> {
        let watch = Arc::<Watch>::default();
        watch.never_rest();
        slots.enter(&watch, None)
    }

    fn is_shed(watch: &Watch) -> bool {
        use std::future::Future;
        let mut shed = std::pin::pin!(watch.shed.notified());
        shed.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }
}
