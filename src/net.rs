//! Addresses: what counts as one client, and which address a request came from.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// A client's address and the key under which everything counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr {
    /// The address, IPv4-mapped IPv6 already folded to IPv4.
    pub ip: IpAddr,
    /// What counts as one client: the address for IPv4, its prefix for IPv6.
    pub key: ClientKey,
}

/// What counts as one client, everywhere: guesses, bans, limits, caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientKey(IpNet);

impl ClientAddr {
    /// `ipv6_prefix` is `client.ipv6_prefix`, 1..=128.
    pub fn new(ip: IpAddr, ipv6_prefix: u8) -> Self {
        let ip = ip.to_canonical();
        let length = if ip.is_ipv4() { 32 } else { ipv6_prefix.min(128) };
        let net = IpNet::new(ip, length).unwrap_or_else(|_| IpNet::from(ip));
        Self { ip, key: ClientKey(net.trunc()) }
    }
}

impl ClientKey {
    /// The addresses that this key covers.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_net(&self.0, f)
    }
}

/// Writes a single address without its prefix length, a wider net with it.
pub fn display_net(net: &IpNet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if net.prefix_len() == net.max_prefix_len() { write!(f, "{}", net.addr()) } else { write!(f, "{net}") }
}

/// The net without host bits, IPv4 where it lies within the IPv4-mapped range `::ffff:0:0/96`.
pub fn fold_mapped(net: IpNet) -> IpNet {
    let net = net.trunc();
    if let IpNet::V6(wide) = net
        && let (Some(address), Some(length)) = (wide.addr().to_ipv4_mapped(), wide.prefix_len().checked_sub(96))
        && let Ok(folded) = Ipv4Net::new(address, length)
    {
        return IpNet::V4(folded);
    }
    net
}

/// A fixed set of nets; membership ignores whether an IPv4 address came mapped.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    written: Vec<IpNet>,
    /// First and last address of each run of covered addresses, ascending, none touching another.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Nets {
    /// Whether any of the nets covers the address: a binary search, however long the list.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => covered(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => covered(&self.v6, u128::from(ip)),
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// The nets, as written but for their host bits.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.written.iter()
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut set = Self::default();
        for net in nets {
            match fold_mapped(net) {
                IpNet::V4(net) => set.v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => {
                    let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
                    // `::/0` and its like cover the mapped addresses too, which arrive here as IPv4.
                    if first <= MAPPED.0 && last >= MAPPED.1 {
                        set.v4.push((0, u32::MAX));
                    }
                    set.v6.push((first, last));
                }
            }
            set.written.push(net.trunc());
        }
        set.v4 = merged(set.v4);
        set.v6 = merged(set.v6);
        set
    }
}

/// First and last of the IPv4-mapped addresses, `::ffff:0:0/96`.
const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// Sorts ranges and joins those that overlap.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, previous| {
        let joined = next.0 <= previous.1;
        if joined {
            previous.1 = previous.1.max(next.1);
        }
        joined
    });
    ranges
}

/// Whether a range of a merged list covers the address: only the last one that begins at or before it can.
fn covered<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after.checked_sub(1).and_then(|position| ranges.get(position)).is_some_and(|range| address <= range.1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(nets: &[&str]) -> Nets {
        nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_an_ipv6_prefix() {
        for (address, key) in
            [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64")]
        {
            assert_eq!(ClientAddr::new(ip(address), 64).key.to_string(), key);
        }
        assert_eq!(ClientAddr::new(ip("2001:db8::1"), 128).key.to_string(), "2001:db8::1");
        assert_eq!(ClientAddr::new(ip("2001:db8::1"), 200).key.to_string(), "2001:db8::1");
    }

    #[test]
    fn a_set_covers_what_its_nets_cover() {
        let set = nets(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "::ffff:198.51.100.0/120"]);
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8:ffff::1", "198.51.100.9"] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::1", "198.51.101.0"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(!set.is_empty() && !Nets::default().contains(ip("::")));
        assert!(nets(&["::/0"]).contains(ip("192.0.2.1")));
        assert_eq!(nets(&["10.1.2.3/8"]).iter().next().unwrap().to_string(), "10.0.0.0/8");
    }

    /// Nets and addresses close together, so that they meet often.
    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u32..64, 24u8..=32)
                .prop_map(|(low, length)| IpNet::new(IpAddr::V4((0x0a00_0000 | low << 3).into()), length).unwrap()),
            (0u128..64, 118u8..=128)
                .prop_map(|(low, length)| IpNet::new(IpAddr::V6((0x2001 << 112 | low << 3).into()), length).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_a_scan(nets in prop::collection::vec(net(), 0..12), low in 0u32..600) {
            let set: Nets = nets.iter().copied().collect();
            for ip in [IpAddr::V4((0x0a00_0000 | low).into()), IpAddr::V6((0x2001 << 112 | u128::from(low)).into())] {
                prop_assert_eq!(set.contains(ip), nets.iter().any(|net| net.contains(&ip)), "{}", ip);
            }
        }
    }
}
