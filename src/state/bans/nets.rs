//! Which prefix lengths are in use, so that a lookup asks a hash table once for each of them and no more.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;

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

impl Lengths {
    fn of(self, ip: IpAddr) -> impl Iterator<Item = u8> {
        let words = if ip.is_ipv4() { [self.v4, 0, 0] } else { self.v6 };
        (0u8..).zip(words).flat_map(|(word, bits)| Bits(bits).map(move |bit| word * 64 + bit))
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

/// Whether a net is narrow enough to be a client, or part of one: such nets may be many.
pub(super) fn is_narrow(net: &IpNet) -> bool {
    net.prefix_len() > wide_length(net)
}

/// The net that several clients are folded into: /24 for IPv4, /48 for IPv6; `None` for one as wide already.
pub(super) fn wider(net: &IpNet) -> Option<IpNet> {
    is_narrow(net).then(|| truncated(net.addr(), wide_length(net))).flatten()
}

fn wide_length(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 24 } else { 48 }
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
    fn clients_widen_and_wide_nets_do_not() {
        assert_eq!(wider(&net("203.0.113.7/32")), Some(net("203.0.113.0/24")));
        assert_eq!(wider(&net("2001:db8:1:2::/64")), Some(net("2001:db8:1::/48")));
        assert_eq!(wider(&net("203.0.113.0/24")), None);
        assert_eq!(wider(&net("2001:db8::/32")), None);
    }
}
