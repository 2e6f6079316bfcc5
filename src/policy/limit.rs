//! What a limit is; the arithmetic (GCRA) is governor's, the tables are `state::limits`.

use std::time::Duration;

use super::Name;

/// `limit.<name>`, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    pub name: Name,
    /// All of these together are the key; never empty.
    pub key: Vec<LimitKey>,
    pub quota: Quota,
    pub mode: LimitMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitKey {
    Approval,
    Identity,
    Account,
    Client,
    Tenant,
    Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LimitMode {
    #[default]
    Enforce,
    /// Counts and reports, and lets pass.
    Shadow,
}

/// `rate` and `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Quota {
    /// Requests per `per`; at least 1.
    pub requests: u32,
    pub per: Duration,
    /// At least 1.
    pub burst: u32,
}

impl LimitSpec {
    /// Smaller is more private: charged first.
    pub fn privacy(&self) -> LimitKey {
        self.key.iter().copied().min().unwrap_or(LimitKey::Route)
    }
}

impl Quota {
    /// `"120/min"`, `"50/s"`, `"3000/h"`, `"10/day"`; burst defaults to the request count.
    pub fn parse(_text: &str) -> Result<Self, String> {
        todo!("policy")
    }

    /// Time between two requests at the sustained rate.
    pub fn interval(&self) -> Duration {
        self.per / self.requests.max(1)
    }
}
