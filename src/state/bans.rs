//! Live bans: looked up by address before TLS, never evicted while they live.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Now;
use crate::net::ClientAddr;
use crate::policy::ban::{Ban, BanKey, BanRules};
use crate::policy::decide::BanFact;
use crate::policy::login::AccountKey;

use super::store::{Durable, Store, StoreError};

pub struct BanTable {}

impl BanTable {
    /// Loads the live bans and the history behind escalation. Fails closed: an unreadable row is an error.
    pub fn load(_store: Arc<dyn Store>, _rules: &BanRules, _now: Now) -> Result<Self, StoreError> {
        todo!("state")
    }

    /// Takes over new rules: `always` is rebuilt, bans of nets now under `never` stop holding, nothing else is lost.
    pub fn reconcile(&self, _rules: &BanRules) {
        todo!("state")
    }

    /// The ban that holds an address: `always`, the client's own, or a prefix over it (the longest-lasting). Expiry is
    /// compared here; no lock on the read path beyond an `ArcSwap` load; no allocation.
    pub fn of_client(&self, _client: &ClientAddr, _now: Now) -> Option<BanFact> {
        todo!("state")
    }

    pub fn of_identity(&self, _key: &str, _now: Now) -> Option<BanFact> {
        todo!("state")
    }

    /// Stops logins that name the account only.
    pub fn of_account(&self, _account: &AccountKey, _now: Now) -> Option<BanFact> {
        todo!("state")
    }

    /// Bans a key after failures, with escalating length; `None` when `never` covers it. The ban holds in memory from
    /// here on; the future resolves when it is on disk. A ban that already lasts longer is kept.
    pub fn punish(&self, _key: BanKey, _failures: u32, _now: Now) -> Option<(Ban, Durable)> {
        todo!("state")
    }

    /// An operator's ban. `Err` names why not (a `never` net, a trusted proxy, a longer ban stands).
    pub fn add(
        &self,
        _key: BanKey,
        _length: Option<Duration>,
        _reason: String,
        _by: String,
        _now: Now,
    ) -> Result<(Ban, Durable), String> {
        todo!("state")
    }

    /// Lifts a ban: `None` when there is none. History stays, so that escalation does; `config` bans cannot be lifted.
    pub fn lift(&self, _key: &BanKey, _now: Now) -> Option<(Ban, Durable)> {
        todo!("state")
    }

    /// Live bans, longest-lived last. `config` bans (`always`) included.
    pub fn list(&self, _now: Now) -> Vec<Ban> {
        todo!("state")
    }

    /// Live bans that cover a key (an address is covered by its prefix's ban too).
    pub fn show(&self, _key: &BanKey, _now: Now) -> Vec<Ban> {
        todo!("state")
    }

    /// Drops expired rows from memory and disk; expiry never waits for it.
    pub fn sweep(&self, _now: Now) {
        todo!("state")
    }

    pub fn len(&self) -> usize {
        todo!("state")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For tests.
    pub fn until(&self, _key: &BanKey, _now: Now) -> Option<Timestamp> {
        todo!("state")
    }
}
