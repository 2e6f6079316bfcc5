//! Slots at the door: connections in all and per client, handshakes per client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::Now;
use crate::config::{Caps, Config};
use crate::net::ClientKey;
use crate::state::limits::Pace;

/// Slots shared by all workers: connections in all and per client, handshakes per client.
pub struct Slots {
    caps: Limits,
    open: AtomicUsize,
    clients: [Mutex<HashMap<ClientKey, usize>>; SHARDS],
    hasher: RandomState,
    handshakes: Pace,
}

/// One open connection; the place is free again on drop.
pub(super) struct Slot(Arc<Slots>);

/// One open connection of one client; the place is free again on drop.
pub(super) struct ClientSlot {
    slots: Arc<Slots>,
    client: ClientKey,
}

struct Limits {
    connections: AtomicUsize,
    per_client: AtomicUsize,
}

/// A lock each, so that workers seldom meet.
const SHARDS: usize = 16;

impl Slots {
    /// `patience` is how long a client that shakes hands too fast may be kept waiting for its turn.
    pub fn new(caps: &Caps, patience: Duration) -> Self {
        Self {
            caps: Limits { connections: caps.connections.into(), per_client: caps.connections_per_client.into() },
            open: AtomicUsize::new(0),
            clients: Default::default(),
            hasher: RandomState::new(),
            handshakes: Pace::new(caps.handshakes_per_client, patience),
        }
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

    /// Fails closed: `None` when every place is taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Slot> {
        let cap = self.caps.connections.load(Ordering::Relaxed);
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        // Made before the comparison, so that its drop gives the place back.
        let slot = Slot(Arc::clone(self));
        (taken < cap).then_some(slot)
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

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
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
        let first = slots.enter().unwrap();
        let second = slots.enter().unwrap();
        assert!(slots.enter().is_none());
        assert_eq!(slots.open(), 2);
        drop(first);
        assert!(slots.enter().is_some());
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
        let held: Vec<_> = (0..3).map(|_| slots.enter().unwrap()).collect();
        slots.reconcile(&caps(2, 1), PATIENCE);
        assert!(slots.enter().is_none());
        assert_eq!(slots.open(), 3);
        drop(held);
        assert!(slots.enter().is_some());
        let _one = slots.enter_client(key("192.0.2.1")).unwrap();
        assert!(slots.enter_client(key("192.0.2.1")).is_none());
    }
}
