//! The guess ledger: reserve before the forward, settle on the answer; exact in every window.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::net::ClientKey;
use crate::policy::Name;
use crate::policy::ban::{BanKey, GuessBudgets};
use crate::policy::login::{Attempt, LoginOutcome};

use super::accounts::Successes;

/// Who guesses: a proven caller answers for himself, everybody else for his address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Guesser {
    Client(ClientKey),
    Identity(Name),
}

pub struct GuessLedger {}

/// One reserved guess. Settling consumes it; dropping it unsettled counts as a failure (the client cut it off).
#[must_use = "an unsettled guess counts as a failure"]
pub struct GuessPermit {}

/// The budget is spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuessRefusal {
    pub scope: RefusedBy,
    /// When the oldest entry leaves the window.
    pub retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    Guesser,
    Account,
}

/// What settling led to.
#[derive(Debug, Default)]
pub struct Settled {
    /// The guesser's real failures (never faults) reached the budget: ban this key, with that many failures.
    pub ban: Option<(BanKey, u32)>,
}

impl GuessLedger {
    pub fn new(_budgets: GuessBudgets, _successes: Arc<Successes>) -> Self {
        todo!("state")
    }

    /// New budgets; entries stay.
    pub fn reconcile(&self, _budgets: GuessBudgets) {
        todo!("state")
    }

    /// Fails closed: reserves for guesser and account together, or neither. Never more than the budget in any window,
    /// reservations included. A repeat of a guess that this guesser already failed with this account and secret is let
    /// through uncounted. A guesser with a recent success on the account is neither held by nor counted in its budget.
    pub fn reserve(self: &Arc<Self>, _who: Guesser, _attempt: &Attempt, _now: Now) -> Result<GuessPermit, GuessRefusal> {
        todo!("state")
    }

    /// Clears the failures behind a lifted ban.
    pub fn clear(&self, _key: &BanKey) {
        todo!("state")
    }

    /// (spent by real failures, reserved or faulted, limit) of a guesser now; spends nothing.
    pub fn peek(&self, _who: &Guesser, _now: Now) -> (u32, u32, u32) {
        todo!("state")
    }

    /// Frees memory of entries that left their window.
    pub fn sweep(&self, _now: Now) {
        todo!("state")
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        todo!("state")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl GuessPermit {
    /// Settles once.
    pub fn settle(self, _outcome: LoginOutcome, _now: Now) -> Settled {
        todo!("state")
    }
}
