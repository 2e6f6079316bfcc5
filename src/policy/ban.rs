//! Ban keys, records and their escalating length.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::net::{ClientAddr, Nets};

use super::approval;
use super::login::AccountKey;

/// What a ban holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanKey {
    /// A client (an address or its IPv6 prefix) or a wider net.
    Net(IpNet),
    /// Logins that name this account; `account:NAME` on the command line.
    Account(AccountKey),
    /// A proven caller, `set:name` or the id of his approval; `identity:SET:NAME` and `identity:APPROVAL` on the command line.
    Identity(super::Name),
}

/// One ban, live while `now.wall < until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    pub key: BanKey,
    pub reason: String,
    /// How many bans of this key within `forget`, this one included.
    pub count: u32,
    /// Failures behind it (0 for a manual ban).
    pub failures: u32,
    pub since: Timestamp,
    /// `Timestamp::MAX` for good.
    pub until: Timestamp,
    /// `guesses`, `config` or the operator's name.
    pub by: String,
}

/// `[bans]`, compiled.
#[derive(Clone, Debug)]
pub struct BanRules {
    pub first: Duration,
    pub factor: u32,
    pub max: Duration,
    pub forget: Duration,
    pub never: Nets,
    pub always: Nets,
    pub answer: BanAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BanAnswer {
    /// 403 `banned` with `Retry-After`.
    #[default]
    Explain,
    /// Closed before TLS.
    Drop,
}

/// `[guesses]`, compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessBudgets {
    pub per_client: GuessBudget,
    pub per_account: GuessBudget,
}

/// No more than `failures` reach the application in any window of `within`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessBudget {
    pub failures: u32,
    pub within: Duration,
}

impl BanRules {
    /// Length of the `count`-th ban within `forget` (`count` from 1): first * factor^(count-1), capped at `max`.
    ///
    /// Fails closed: a factor of 0 counts as 1, and what is too long to count is `max`.
    pub fn length(&self, count: u32) -> Duration {
        let mut length = self.first;
        // Ends at the first step that changes nothing, so that a count of billions costs as little as one of ten.
        for _ in 1..count {
            let longer = length.saturating_mul(self.factor.max(1));
            if longer == length || length >= self.max {
                break;
            }
            length = longer;
        }
        length.min(self.max)
    }

    /// Whether the address may not be banned.
    pub fn exempt(&self, ip: IpAddr) -> bool {
        self.never.contains(ip)
    }
}

impl BanKey {
    /// Reads `ADDRESS`, `PREFIX`, `account:NAME`, `identity:SET:NAME` or `identity:APPROVAL`; an IPv6 address is widened to
    /// `ipv6_prefix`. A written prefix stays as it is; an IPv4-mapped address or prefix becomes IPv4.
    ///
    /// Fails closed: what is none of these is an error that says what was expected.
    pub fn parse(text: &str, ipv6_prefix: u8) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("account:") {
            return AccountKey::new(name).map(Self::Account).ok_or_else(|| format!("`{name}` cannot be the name of an account"));
        }
        if let Some(key) = text.strip_prefix("identity:") {
            let names_a_caller = match key.split_once(':') {
                Some((set, name)) => !set.is_empty() && !name.is_empty(),
                None => approval::is_id(key),
            };
            return names_a_caller.then(|| Self::Identity(key.into())).ok_or_else(|| {
                format!(
                    "`{text}`: write identity:SET:NAME, the set of CAs that vouches and the name in the certificate, or \
                     identity:APPROVAL, the id of an approval"
                )
            });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Net(ClientAddr::new(ip, ipv6_prefix).key.net()));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Ok(Self::Net(crate::net::fold_mapped(net))),
            Err(_) => Err(format!("`{text}` is not an address, a prefix, account:NAME, identity:SET:NAME or identity:APPROVAL")),
        }
    }
}

impl Ban {
    /// Whether the ban holds at this civil time.
    pub fn is_live(&self, at: Timestamp) -> bool {
        at < self.until
    }
}

impl fmt::Display for BanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => crate::net::display_net(net, f),
            Self::Account(account) => write!(f, "account:{}", account.0),
            Self::Identity(key) => write!(f, "identity:{key}"),
        }
    }
}

impl Serialize for BanKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BanKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, 128).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(first: u64, factor: u32, max: u64) -> BanRules {
        BanRules {
            first: Duration::from_secs(first),
            factor,
            max: Duration::from_secs(max),
            forget: Duration::from_secs(1),
            never: ["10.0.0.0/8".parse().unwrap()].into_iter().collect(),
            always: Nets::default(),
            answer: BanAnswer::Explain,
        }
    }

    #[test]
    fn each_further_ban_is_longer_up_to_the_longest() {
        let rules = rules(900, 4, 604_800);
        let lengths: Vec<_> = (0..8).map(|count| rules.length(count).as_secs()).collect();
        assert_eq!(lengths, [900, 900, 3600, 14_400, 57_600, 230_400, 604_800, 604_800]);
        assert_eq!(rules.length(u32::MAX).as_secs(), 604_800);
    }

    #[test]
    fn odd_factors_neither_shorten_a_ban_nor_loop() {
        assert_eq!(rules(900, 0, 3600).length(u32::MAX).as_secs(), 900);
        assert_eq!(rules(900, 1, 3600).length(u32::MAX).as_secs(), 900);
        assert_eq!(rules(900, u32::MAX, u64::MAX).length(u32::MAX), Duration::from_secs(u64::MAX));
        assert_eq!(rules(900, 4, 60).length(1).as_secs(), 60);
    }

    #[test]
    fn exempt_nets_hold_for_mapped_addresses_too() {
        let rules = rules(1, 1, 1);
        assert!(rules.exempt("10.1.2.3".parse().unwrap()) && rules.exempt("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!rules.exempt("11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn keys_are_read_as_operators_write_them() {
        for (text, canonical) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("203.0.113.7/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3::4/48", "2001:db8:1::/48"),
            ("account: Alice ", "account:alice"),
            ("account:identity:x", "account:identity:x"),
            ("identity:acme:spiffe://acme/Sync", "identity:acme:spiffe://acme/Sync"),
            ("identity:apr-abc234", "identity:apr-abc234"),
        ] {
            assert_eq!(BanKey::parse(text, 64).unwrap().to_string(), canonical, "{text}");
        }
        for text in [
            "",
            "alice",
            "203.0.113",
            "1.2.3.4/33",
            "account:",
            "account:  ",
            "identity:acme",
            "identity::x",
            "identity:x:",
            "identity:apr-",
            "identity:apr-a b",
        ] {
            assert!(BanKey::parse(text, 64).is_err(), "{text}");
        }
    }

    #[test]
    fn a_ban_holds_until_its_end_exclusive() {
        let until = Timestamp::from_second(100).unwrap();
        let key = BanKey::parse("192.0.2.1", 64).unwrap();
        let ban =
            Ban { key, reason: "r".into(), count: 1, failures: 5, since: Timestamp::UNIX_EPOCH, until, by: "guesses".into() };
        assert!(ban.is_live(Timestamp::from_second(99).unwrap()) && !ban.is_live(until));
        let text = serde_json::to_string(&ban).unwrap();
        assert_eq!(serde_json::from_str::<Ban>(&text).unwrap(), ban);
    }

    proptest! {
        #[test]
        fn a_written_key_is_read_back_as_itself(text in "account:\\PC{1,20}|identity:[a-z]{1,3}:\\PC{1,9}|[0-9.]{7,15}|[0-9a-f:]{2,24}(/[0-9]{1,3})?") {
            if let Ok(key) = BanKey::parse(&text, 64) {
                prop_assert_eq!(BanKey::parse(&key.to_string(), 128), Ok(key));
            }
        }
    }
}
