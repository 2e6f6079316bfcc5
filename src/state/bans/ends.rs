//! Until when each banned net is banned, laid out for the lookup that every connection and every request pays for.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use foldhash::quality::RandomState;
use ipnet::IpNet;

use super::nets::is_narrow;

/// When a ban ends: Unix time in seconds; [`FOR_GOOD`]: never.
pub(super) type End = u32;
pub(super) const FOR_GOOD: End = End::MAX;

/// The ends of bans by net. Among a million of them a lookup costs what it reads from memory, and that is one line.
pub(super) struct Ends {
    /// There are few, so that asking for them costs no cold memory.
    wide: Ledger<u64>,
    /// IPv4 addresses and IPv6 prefixes: what most clients are.
    clients: Ledger<u64>,
    /// IPv6 nets longer than /64.
    hosts: Ledger<u128>,
}

/// Open addressing with linear probing, the end beside its key. Keyed by a random seed of its own, so that nobody can choose
/// addresses that meet in one place.
struct Ledger<A> {
    seed: RandomState,
    /// More than cores, so that growing one keeps few lookups waiting, and none for long. The hash's highest byte chooses.
    shards: Vec<RwLock<Shard<A>>>,
}

const SHARDS: usize = 256;
const FEWEST_SLOTS: usize = 8;

#[derive(Default)]
struct Shard<A> {
    /// None, or a power of two, a quarter of them empty at least.
    slots: Vec<Slot<A>>,
    taken: usize,
}

/// Its key and its end, without a gap; the default is empty.
#[derive(Clone, Copy, Default)]
struct Slot<A> {
    address: A,
    length: u16,
    until: End,
}

/// A net as it is compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<A> {
    address: A,
    /// The prefix length and one more, with a bit for the family: never that of an empty slot.
    length: u16,
}

impl Ends {
    pub(super) fn new() -> Self {
        Self { wide: Ledger::new(), clients: Ledger::new(), hosts: Ledger::new() }
    }

    /// The end that was set for exactly that net. No allocation, and no lock but the shared side of one shard.
    pub(super) fn get(&self, net: &IpNet) -> Option<End> {
        match (is_narrow(net), short(net)) {
            (false, Some(key)) => self.wide.get(&key),
            (true, Some(key)) => self.clients.get(&key),
            (_, None) => self.hosts.get(&long(net)),
        }
    }

    pub(super) fn set(&self, net: &IpNet, until: End) {
        match (is_narrow(net), short(net)) {
            (false, Some(key)) => self.wide.set(key, until),
            (true, Some(key)) => self.clients.set(key, until),
            (_, None) => self.hosts.set(long(net), until),
        }
    }

    pub(super) fn remove(&self, net: &IpNet) {
        match (is_narrow(net), short(net)) {
            (false, Some(key)) => self.wide.remove(&key),
            (true, Some(key)) => self.clients.remove(&key),
            (_, None) => self.hosts.remove(&long(net)),
        }
    }
}

impl<A: Copy + Default + Eq + Hash> Ledger<A> {
    fn new() -> Self {
        Self { seed: RandomState::default(), shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn get(&self, key: &Key<A>) -> Option<End> {
        let hash = self.seed.hash_one(key);
        self.shard(hash)?.read().unwrap_or_else(PoisonError::into_inner).get(key, hash)
    }

    fn set(&self, net: Key<A>, until: End) {
        let hash = self.seed.hash_one(net);
        if let Some(shard) = self.shard(hash) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.set(net, until, hash, |net| self.seed.hash_one(net));
        }
    }

    fn remove(&self, net: &Key<A>) {
        let hash = self.seed.hash_one(net);
        if let Some(shard) = self.shard(hash) {
            shard.write().unwrap_or_else(PoisonError::into_inner).remove(net, hash, |net| self.seed.hash_one(net));
        }
    }

    /// There always is one.
    fn shard(&self, hash: u64) -> Option<&RwLock<Shard<A>>> {
        self.shards.get((hash >> (u64::BITS - SHARDS.ilog2())) as usize)
    }
}

impl<A: Copy + Default + Eq> Shard<A> {
    fn get(&self, net: &Key<A>, hash: u64) -> Option<End> {
        let mut place = self.home(hash);
        loop {
            let slot = self.slots.get(place)?;
            if slot.key() == *net {
                return Some(slot.until);
            }
            if slot.is_empty() {
                return None;
            }
            place = self.after(place);
        }
    }

    fn set(&mut self, net: Key<A>, until: End, hash: u64, hash_of: impl Fn(Key<A>) -> u64) {
        if (self.taken + 1) * 4 > self.slots.len() * 3 {
            let grown = vec![Slot::default(); (self.slots.len() * 2).max(FEWEST_SLOTS)];
            for slot in std::mem::replace(&mut self.slots, grown).into_iter().filter(|slot| !slot.is_empty()) {
                self.put(slot, hash_of(slot.key()));
            }
        }
        let slot = Slot { address: net.address, length: net.length, until };
        self.taken += usize::from(self.put(slot, hash));
    }

    /// Whether the net is new. There is an empty slot.
    fn put(&mut self, slot: Slot<A>, hash: u64) -> bool {
        let mut place = self.home(hash);
        loop {
            let next = self.after(place);
            let Some(there) = self.slots.get_mut(place) else { return false };
            if there.is_empty() || there.key() == slot.key() {
                let new = there.is_empty();
                *there = slot;
                return new;
            }
            place = next;
        }
    }

    /// Those behind it that would not be found any more move up.
    fn remove(&mut self, net: &Key<A>, hash: u64, hash_of: impl Fn(Key<A>) -> u64) {
        if self.get(net, hash).is_none() {
            return;
        }
        let mut gap = self.home(hash);
        while self.slots.get(gap).is_some_and(|slot| slot.key() != *net) {
            gap = self.after(gap);
        }
        self.taken -= 1;
        let mut place = self.after(gap);
        while let Some(slot) = self.slots.get(place).copied().filter(|slot| !slot.is_empty()) {
            let home = self.home(hash_of(slot.key()));
            if self.way(home, place) >= self.way(gap, place) {
                self.write(gap, slot);
                gap = place;
            }
            place = self.after(place);
        }
        self.write(gap, Slot::default());
    }

    fn write(&mut self, place: usize, slot: Slot<A>) {
        if let Some(there) = self.slots.get_mut(place) {
            *there = slot;
        }
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask()
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.mask()
    }

    /// Steps from one place to another.
    fn way(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.slots.len().wrapping_sub(1)
    }
}

impl<A: Copy> Slot<A> {
    fn key(&self) -> Key<A> {
        Key { address: self.address, length: self.length }
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// `None` where its address needs more.
fn short(net: &IpNet) -> Option<Key<u64>> {
    let length = u16::from(net.prefix_len()) + 1;
    match net.addr() {
        IpAddr::V4(ip) => Some(Key { address: u32::from(ip).into(), length: length | 1 << 15 }),
        IpAddr::V6(ip) => (net.prefix_len() <= 64).then_some(Key { address: (u128::from(ip) >> 64) as u64, length }),
    }
}

fn long(net: &IpNet) -> Key<u128> {
    let address = match net.addr() {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => u128::from(ip),
    };
    Key { address, length: u16::from(net.prefix_len()) + 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, End),
        Remove(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (any::<u8>(), any::<End>()).prop_map(|(net, until)| Step::Set(net, until)),
            2 => any::<u8>().prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..600)
    }

    fn key(number: u8) -> Key<u64> {
        Key { address: number.into(), length: 65 }
    }

    proptest! {
        /// Against the standard map, with hashes that meet in few places and wrap round the end.
        #[test]
        fn a_shard_is_a_map_however_its_keys_collide(steps in steps(), homes in 1_u64..40, shift in any::<u64>()) {
            let hash = |key: Key<u64>| (key.address % homes).wrapping_add(shift);
            let (mut shard, mut model) = (Shard::default(), HashMap::new());
            for step in steps {
                match step {
                    Step::Set(number, until) => {
                        shard.set(key(number), until, hash(key(number)), hash);
                        model.insert(number, until);
                    }
                    Step::Remove(number) => {
                        shard.remove(&key(number), hash(key(number)), hash);
                        model.remove(&number);
                    }
                }
                prop_assert_eq!(shard.taken, model.len());
            }
            for number in 0..=u8::MAX {
                prop_assert_eq!(shard.get(&key(number), hash(key(number))), model.get(&number).copied());
            }
        }
    }

    #[test]
    fn nets_differ_by_address_length_and_family() {
        let ends = Ends::new();
        let texts = [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/32",
            "::/32",
            "::/64",
            "10.0.0.0/25",
            "10.0.0.0/26",
            "10.0.0.128/25",
            "::/128",
            "::1/128",
            "2001:db8:1:2::/64",
            "2001:db8:1:2::/65",
            "2001:db8:1:2:8000::/65",
        ];
        let nets: Vec<IpNet> = texts.iter().map(|text| text.parse().expect("a net")).collect();
        for (until, net) in (0..).zip(&nets) {
            assert_eq!(ends.get(net), None, "{net}");
            ends.set(net, until);
        }
        for (until, net) in (0..).zip(&nets) {
            assert_eq!(ends.get(net), Some(until), "{net}");
            ends.remove(net);
            assert_eq!(ends.get(net), None, "{net}");
        }
    }

    #[test]
    fn four_clients_share_a_line() {
        assert_eq!(size_of::<Slot<u64>>(), 16);
    }
}
