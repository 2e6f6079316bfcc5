//! From a request's subject to the key of a bucket: hashed without allocation, spelt out only for people.

use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use foldhash::quality::RandomState;
use ipnet::IpNet;

use super::LimitSubject;
use crate::net::display_net;
use crate::policy::limit::LimitKey;

/// How far a client's address is widened when its own bucket finds no room.
const WIDE_IPV4: u8 = 24;
const WIDE_IPV6: u8 = 48;
/// A key's text is for people; a longer one is cut here, in bytes.
const MAX_TEXT: usize = 160;

/// Hashes keys to 128 bits under two secrets of this process, so that nobody outside can aim at a bucket or a shard.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(RandomState, RandomState);

/// One limit's view of one request.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub key: &'a [LimitKey],
    pub subject: &'a LimitSubject<'a>,
    pub hasher: &'a KeyHasher,
    pub own: u128,
}

/// One part of a key.
enum Part<'a> {
    Net(IpNet),
    Text(&'a str),
    Index(usize),
}

impl<'a> Probe<'a> {
    /// `None` where the subject lacks a part of the key: the limit does not apply.
    pub fn new(key: &'a [LimitKey], subject: &'a LimitSubject<'a>, hasher: &'a KeyHasher) -> Option<Self> {
        let own = hasher.hash(key, subject, false)?;
        Some(Self { key, subject, hasher, own })
    }

    /// The key with its client widened to a /24 or /48; `None` where no client is in the key.
    pub fn wide(&self) -> Option<u128> {
        if self.key.contains(&LimitKey::Client) { self.hasher.hash(self.key, self.subject, true) } else { None }
    }

    /// The key for people.
    pub fn text(&self, widened: bool) -> String {
        let mut text = String::new();
        for (index, &kind) in self.key.iter().enumerate() {
            let Some(part) = part(kind, self.subject, widened) else { continue };
            let separator = if index == 0 { "" } else { ", " };
            // Writing into a string cannot fail.
            let _ = write!(text, "{separator}{part}");
        }
        if text.len() > MAX_TEXT {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            text.push('…');
        }
        text
    }
}

impl KeyHasher {
    fn hash(&self, key: &[LimitKey], subject: &LimitSubject<'_>, widened: bool) -> Option<u128> {
        let mut high = self.0.build_hasher();
        let mut low = self.1.build_hasher();
        for &kind in key {
            let part = part(kind, subject, widened)?;
            part.feed(kind, &mut high);
            part.feed(kind, &mut low);
        }
        Some(u128::from(high.finish()) << 64 | u128::from(low.finish()))
    }
}

impl Part<'_> {
    /// Each part is preceded by its kind and ended by its length, so that no two keys run into the same bytes.
    fn feed(&self, kind: LimitKey, hasher: &mut impl Hasher) {
        hasher.write_u8(kind as u8);
        match self {
            Self::Net(net) => {
                match net.addr() {
                    IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
                    IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
                }
                hasher.write_u8(net.prefix_len());
                hasher.write_u8(net.max_prefix_len());
            }
            Self::Text(text) => {
                hasher.write(text.as_bytes());
                hasher.write_usize(text.len());
            }
            Self::Index(index) => hasher.write_usize(*index),
        }
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => display_net(net, f),
            Self::Text(text) => f.write_str(text),
            Self::Index(index) => write!(f, "route {index}"),
        }
    }
}

fn part<'a>(kind: LimitKey, subject: &LimitSubject<'a>, widened: bool) -> Option<Part<'a>> {
    match kind {
        LimitKey::Approval => subject.approval.map(Part::Text),
        LimitKey::Identity => subject.identity.map(Part::Text),
        LimitKey::Account => subject.account.map(|account| Part::Text(&account.0)),
        LimitKey::Tenant => subject.tenant.map(Part::Text),
        LimitKey::Route => subject.route_label.map(Part::Text).or_else(|| subject.route.map(|route| Part::Index(route.0))),
        LimitKey::Client => {
            let net = subject.client?.net();
            Some(Part::Net(if widened { widen(net) } else { net }))
        }
    }
}

fn widen(net: IpNet) -> IpNet {
    let length = if net.addr().is_ipv4() { WIDE_IPV4 } else { WIDE_IPV6 };
    IpNet::new(net.addr(), length.min(net.prefix_len())).map_or(net, |wide| wide.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ClientAddr;
    use crate::policy::login::AccountKey;

    fn client(ip: &str) -> LimitSubject<'static> {
        LimitSubject { client: Some(ClientAddr::new(ip.parse().unwrap(), 64).key), ..LimitSubject::default() }
    }

    #[test]
    fn a_key_that_lacks_a_part_does_not_apply() {
        let hasher = KeyHasher::default();
        let subject = client("203.0.113.7");
        assert!(Probe::new(&[LimitKey::Client], &subject, &hasher).is_some());
        assert!(Probe::new(&[LimitKey::Client, LimitKey::Identity], &subject, &hasher).is_none());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let hasher = KeyHasher::default();
        let key = [LimitKey::Identity, LimitKey::Tenant];
        let of = |identity, tenant| {
            let subject = LimitSubject { identity: Some(identity), tenant: Some(tenant), ..LimitSubject::default() };
            Probe::new(&key, &subject, &hasher).unwrap().own
        };
        assert_eq!(of("ab", "c"), of("ab", "c"));
        assert_ne!(of("ab", "c"), of("a", "bc"));
        let named = LimitSubject { identity: Some("x"), approval: Some("x"), ..LimitSubject::default() };
        assert_ne!(
            Probe::new(&[LimitKey::Identity], &named, &hasher).unwrap().own,
            Probe::new(&[LimitKey::Approval], &named, &hasher).unwrap().own
        );
    }

    #[test]
    fn neighbours_share_the_wide_key_and_only_it() {
        let hasher = KeyHasher::default();
        for (one, other, far, text) in [
            ("203.0.113.7", "203.0.113.8", "203.0.114.7", "203.0.113.0/24"),
            ("2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:2:1::1", "2001:db8:1::/48"),
        ] {
            let (one, other, far) = (client(one), client(other), client(far));
            let of = |subject| Probe::new(&[LimitKey::Client], subject, &hasher).unwrap();
            assert_ne!(of(&one).own, of(&other).own);
            assert_eq!(of(&one).wide(), of(&other).wide());
            assert_ne!(of(&one).wide(), of(&far).wide());
            assert_eq!(of(&one).text(true), text);
        }
        let identity = LimitSubject { identity: Some("acme:x"), ..LimitSubject::default() };
        assert_eq!(Probe::new(&[LimitKey::Identity], &identity, &hasher).unwrap().wide(), None);
    }

    #[test]
    fn texts_are_cut_on_a_character() {
        let hasher = KeyHasher::default();
        let account = AccountKey("ü".repeat(200).into());
        let subject = LimitSubject { account: Some(&account), ..client("203.0.113.7") };
        let text = Probe::new(&[LimitKey::Client, LimitKey::Account], &subject, &hasher).unwrap().text(false);
        assert!(text.starts_with("203.0.113.7, ü") && text.ends_with("ü…") && text.len() <= MAX_TEXT + 3);
    }
}
