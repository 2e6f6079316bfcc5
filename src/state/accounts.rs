//! Which client signed in to which account lately: 30 days, in the store, so that a restart locks nobody out.

use std::sync::Arc;

use crate::clock::Now;
use crate::policy::login::AccountKey;

use super::guesses::Guesser;
use super::store::{Store, StoreError};

pub struct Successes {}

impl Successes {
    pub fn load(_store: Arc<dyn Store>, _now: Now) -> Result<Self, StoreError> {
        todo!("state")
    }

    /// Remembers a success; written behind (at most once a day per pair).
    pub fn record(&self, _who: &Guesser, _account: &AccountKey, _now: Now) {
        todo!("state")
    }

    /// Whether there was one in the last 30 days.
    pub fn recent(&self, _who: &Guesser, _account: &AccountKey, _now: Now) -> bool {
        todo!("state")
    }

    pub fn sweep(&self, _now: Now) {
        todo!("state")
    }
}
