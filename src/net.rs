//! Addresses: what counts as one client, and which address a request came from.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
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

/// A fixed set of nets; membership ignores whether an IPv4 address came mapped.
#[derive(Clone, Debug, Default)]
pub struct Nets(Vec<IpNet>);

impl Nets {
    /// Whether any of the nets covers the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The nets, as written.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        Self(nets.into_iter().map(|net| net.trunc()).collect())
    }
}
