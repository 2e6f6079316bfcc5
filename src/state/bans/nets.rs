//! Which prefix lengths are in use, so that a lookup asks a hash table once for each of them and no more.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;

/// A fixed set of nets whose lookup costs one hash for each prefix length in it, however many nets there are.
#[derive(Default)]
pub(super) struct NetIndex {
    nets: HashSet<IpNet>,
    lengths: Lengths,
}

/// Prefix lengths, one bit each: 0..=32 for IPv4, 0..=128 for IPv6.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Lengths {
    v4: u64,
    v6: [u64; 3],
}

/// [`Lengths`] that readers read while one writer changes them.
#[derive(Default)]
pub(super) struct SharedLengths {
    v4: AtomicU64,
    v6: [AtomicU64; 3],
}

impl NetIndex {
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.lengths.of(ip).any(|length| truncated(ip, length).is_some_and(|net| self.nets.contains(&net)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }
}

impl FromIterator<IpNet> for NetIndex {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut index = Self::default();
        for net in nets {
            index.lengths.set(&net);
            index.nets.insert(net);
        }
        index
    }
}

impl Lengths {
    fn of(self, ip: IpAddr) -> impl Iterator<Item = u8> {
        let words = if ip.is_ipv4() { [self.v4, 0, 0] } else { self.v6 };
        (0u8..).zip(words).flat_map(|(word, bits)| Bits(bits).map(move |bit| word * 64 + bit))
    }

    fn set(&mut self, net: &IpNet) {
        let (word, bit) = (usize::from(net.prefix_len() / 64), 1 << (net.prefix_len() % 64));
        match net {
            IpNet::V4(_) => self.v4 |= bit,
            IpNet::V6(_) => self.v6.iter_mut().skip(word).take(1).for_each(|bits| *bits |= bit),
        }
    }
}

impl SharedLengths {
    /// The lengths in use for an address's family, shortest first.
    pub(super) fn of(&self, ip: IpAddr) -> impl Iterator<Item = u8> + use<> {
        self.load().of(ip)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.load() == Lengths::default()
    }

    pub(super) fn set(&self, net: &IpNet) {
        let (word, bit) = self.word(net);
        word.fetch_or(bit, Ordering::AcqRel);
    }

    pub(super) fn clear(&self, net: &IpNet) {
        let (word, bit) = self.word(net);
        word.fetch_and(!bit, Ordering::AcqRel);
    }

    fn load(&self) -> Lengths {
        Lengths { v4: self.v4.load(Ordering::Acquire), v6: self.v6.each_ref().map(|bits| bits.load(Ordering::Acquire)) }
    }

    fn word(&self, net: &IpNet) -> (&AtomicU64, u64) {
        let [low, middle, high] = &self.v6;
        let word = match (net, net.prefix_len() / 64) {
            (IpNet::V4(_), _) => &self.v4,
            (IpNet::V6(_), 0) => low,
            (IpNet::V6(_), 1) => middle,
            (IpNet::V6(_), _) => high,
        };
        (word, 1 << (net.prefix_len() % 64))
    }
}

struct Bits(u64);

impl Iterator for Bits {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        u8::try_from(bit).ok()
    }
}

/// The net of that length around an address; `None` when the length is too long for its family.
pub(super) fn truncated(ip: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(ip, length).ok().map(|net| net.trunc())
}

/// The net that several clients are folded into: /24 for IPv4, /48 for IPv6; `None` for one as wide already.
pub(super) fn wider(net: &IpNet) -> Option<IpNet> {
    let length = if net.addr().is_ipv4() { 24 } else { 48 };
    (net.prefix_len() > length).then(|| truncated(net.addr(), length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a net")
    }

    #[test]
    fn lengths_are_kept_by_family_and_come_back_shortest_first() {
        let shared = SharedLengths::default();
        assert!(shared.is_empty());
        for text in ["10.0.0.0/8", "0.0.0.0/0", "10.0.0.1/32", "2001:db8::/63", "2001:db8::/64", "2001:db8::1/128", "::/0"] {
            shared.set(&net(text));
        }
        assert_eq!(shared.of("10.0.0.1".parse().expect("ip")).collect::<Vec<_>>(), [0, 8, 32]);
        assert_eq!(shared.of("::1".parse().expect("ip")).collect::<Vec<_>>(), [0, 63, 64, 128]);
        shared.clear(&net("2001:db8::/64"));
        assert_eq!(shared.of("::1".parse().expect("ip")).collect::<Vec<_>>(), [0, 63, 128]);
    }

    #[test]
    fn an_index_covers_what_its_nets_cover() {
        let index: NetIndex = ["10.1.0.0/16", "10.2.3.4/32", "2001:db8:1::/48", "2001:db8::7/128"].map(net).into_iter().collect();
        for (ip, covered) in [
            ("10.1.255.255", true),
            ("10.2.3.4", true),
            ("10.2.3.5", false),
            ("2001:db8:1:ffff::1", true),
            ("2001:db8::7", true),
            ("2001:db8::8", false),
        ] {
            assert_eq!(index.contains(ip.parse().expect("ip")), covered, "{ip}");
        }
        assert!(!NetIndex::default().contains("::".parse().expect("ip")));
    }

    #[test]
    fn clients_widen_and_wide_nets_do_not() {
        assert_eq!(wider(&net("203.0.113.7/32")), Some(net("203.0.113.0/24")));
        assert_eq!(wider(&net("2001:db8:1:2::/64")), Some(net("2001:db8:1::/48")));
        assert_eq!(wider(&net("203.0.113.0/24")), None);
        assert_eq!(wider(&net("2001:db8::/32")), None);
    }
}
