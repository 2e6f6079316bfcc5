//! Ban keys, records and their escalating length.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::net::Nets;

use super::login::AccountKey;

/// What a ban holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanKey {
    /// A client (an address or its IPv6 prefix) or a wider net.
    Net(IpNet),
    /// Logins that name this account; `account:NAME` on the command line.
    Account(AccountKey),
    /// A proven caller, `set:name`; `identity:SET:NAME` on the command line.
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
    pub fn length(&self, _count: u32) -> Duration {
        todo!("policy")
    }

    /// Whether the address may not be banned.
    pub fn exempt(&self, ip: IpAddr) -> bool {
        self.never.contains(ip)
    }
}

impl BanKey {
    /// Reads `ADDRESS`, `PREFIX`, `account:NAME` or `identity:SET:NAME`; an IPv6 address is widened to `ipv6_prefix`.
    pub fn parse(_text: &str, _ipv6_prefix: u8) -> Result<Self, String> {
        todo!("policy")
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
