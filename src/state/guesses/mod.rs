//! The guess ledger: reserve before the forward, settle on the answer; exact in every window.
//!
//! An entry counts from the moment it is reserved until `within` after it was settled. A guess reaches the application
//! somewhere between the two, so whatever the network does with it, no window that the application can lay over what
//! reaches it holds more than the budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::net::{ClientAddr, ClientKey};
use crate::policy::Name;
use crate::policy::ban::{BanKey, GuessBudgets};
use crate::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};

use self::entries::{Entries, Entry, EntryState};
use self::keyring::{Keyring, Tag};
use self::table::{Key, Table};
use super::accounts::Successes;

mod entries;
mod keyring;
mod table;
#[cfg(test)]
mod tests;

/// Guessers, and as many accounts, that are counted one by one; beyond it clients are counted by a wider prefix
/// (/24, /48) and accounts in groups. Proven identities, and clients on an account where they succeeded lately, always count alone.
const MOST_KEYS: usize = 262_144;

/// Who guesses: a proven caller answers for himself, everybody else for his address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Guesser {
    Client(ClientKey),
    Identity(Name),
}

/// Every guess that counts, by guesser and by account. Accounts and secrets are kept as keyed hashes only.
pub struct GuessLedger {
    budgets: RwLock<GuessBudgets>,
    guessers: Table<Guesser>,
    accounts: Table<Tag>,
    successes: Arc<Successes>,
    keyring: Keyring,
    clock: Clock,
    next_id: AtomicU64,
}

/// One reserved guess. Settling consumes it; dropping it unsettled counts as a failure (the client cut it off).
#[must_use = "an unsettled guess counts as a failure"]
pub struct GuessPermit {
    reservation: Option<Reservation>,
    on_drop: Option<OnDrop>,
}

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

/// What becomes of a permit that is dropped: see [`GuessPermit::on_drop`].
struct OnDrop {
    reached: Box<dyn Fn() -> bool + Send + Sync>,
    heard_by: Box<dyn FnOnce(Settled, LoginOutcome) + Send + Sync>,
}

struct Reservation {
    ledger: Arc<GuessLedger>,
    who: Key<Guesser>,
    account: Key<Tag>,
    /// As the successes know it, and as its entries do.
    exact: (ExactAccount, Tag),
    /// `None` for a repeat, which is not counted.
    id: Option<u64>,
}

impl GuessLedger {
    /// `clock` is read only when a permit is dropped unsettled, where nobody can hand in the time.
    pub fn new(budgets: GuessBudgets, successes: Arc<Successes>, clock: Clock) -> Self {
        Self::with_most_keys(budgets, successes, clock, MOST_KEYS)
    }

    /// New budgets; entries stay.
    pub fn reconcile(&self, budgets: GuessBudgets) {
        *self.budgets.write().unwrap_or_else(PoisonError::into_inner) = budgets;
    }

    /// Fails closed: reserves for guesser and account together, or neither. Never more than the budget in any window,
    /// reservations included. A repeat of a guess that this guesser already failed with exactly this account and secret is let
    /// through uncounted: always when everything else in it is the same too, and a few times when it is not (a form's
    /// one-time token), for what differs may be a second secret that is being guessed. A guesser with a recent success on
    /// exactly this account is neither held by nor counted in its budget.
    pub fn reserve(self: &Arc<Self>, who: Guesser, attempt: &Attempt, now: Now) -> Result<GuessPermit, GuessRefusal> {
        let budgets = self.budgets();
        let exempt = self.successes.recent(&who, &attempt.exact, now);
        // Of those there are no more than remembered successes, so the table stays bounded.
        let who = self.guesser_key(who).trusted(exempt);
        let account = self.account_key(&attempt.account);
        let exact = self.keyring.exact(&attempt.exact);
        let secret = attempt.secret.as_ref().map(|secret| self.keyring.secret(who.tag, exact, secret));
        let rest = attempt.rest.as_ref().map(|rest| self.keyring.secret(who.tag, exact, &**rest));
        let permit = |id| {
            let (who, account) = (who.clone(), account.clone());
            let reservation = Reservation { ledger: Arc::clone(self), who, account, exact: (attempt.exact, exact), id };
            GuessPermit { reservation: Some(reservation), on_drop: None }
        };

        // Always the guesser's shard first and the account's second: that order is what keeps two guesses from deadlock.
        let mut guesser_shard = self.guessers.lock(&who);
        let mut account_shard = (!exempt).then(|| self.accounts.lock(&account));
        // Under both locks, so that a reading of the clock taken earlier by a slower thread cannot reopen a window.
        let at = account_shard.as_mut().map_or(now.instant, |shard| shard.advance(now.instant));
        let at = guesser_shard.advance(at);

        // Looked at first, so that what left the window is no failure any more.
        let _ = self.guessers.entries(&mut guesser_shard, &who, at, budgets.per_client.within);
        if let Some(secret) = secret {
            let mut repeat = false;
            let look = |entries: &mut Entries| repeat = entries.repeats(secret, rest);
            self.guessers.change(&mut guesser_shard, &who, look);
            if repeat {
                return Ok(permit(None));
            }
        }
        let by_guesser = self.guessers.entries(&mut guesser_shard, &who, at, budgets.per_client.within);
        by_guesser.room(budgets.per_client, at).map_err(|retry_after| GuessRefusal { scope: RefusedBy::Guesser, retry_after })?;
        if let Some(shard) = &mut account_shard {
            let by_account = self.accounts.entries(shard, &account, at, budgets.per_account.within);
            by_account
                .room(budgets.per_account, at)
                // No longer than a guesser's own could be: the wait must not tell which counter is spent.
                .map_err(|wait| GuessRefusal { scope: RefusedBy::Account, retry_after: wait.min(budgets.per_client.within) })?;
        }

        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let entry =
            Entry { id, at, state: EntryState::Reserved, who: who.tag, account: account.tag, exact, secret, rest, variants: 0 };
        self.guessers.enter(&mut guesser_shard, &who, entry);
        if let Some(shard) = &mut account_shard {
            self.accounts.enter(shard, &account, Entry { secret: None, ..entry });
        }
        drop(account_shard);
        drop(guesser_shard);
        Ok(permit(Some(id)))
    }

    /// Clears the failures of a key, with a ban or without: a net's clients', an identity's, or an account's; returns how many
    /// settled guesses that were. Guesses still under way stay reserved, and so do the account budgets that a client's failures
    /// were counted in as well.
    pub fn clear(&self, key: &BanKey) -> u32 {
        let mut cleared = 0;
        match key {
            BanKey::Net(net) => {
                let within = |who: &Guesser| matches!(who, Guesser::Client(client) if net.contains(&client.net()));
                self.guessers.for_each(|who, entries| {
                    if within(who) {
                        cleared += entries.forgive(|_| true);
                    }
                });
                // Of a client counted with its neighbours, what is its own.
                let client = ClientAddr::new(net.addr(), net.prefix_len()).key;
                if client.net() == *net {
                    cleared += self.forgive(Guesser::Client(client));
                }
            }
            BanKey::Identity(name) => cleared += self.forgive(Guesser::Identity(name.clone())),
            BanKey::Account(account) => {
                let key = self.account_key(account);
                let forgive = |entries: &mut Entries| cleared += entries.forgive(|entry| entry.account == key.tag);
                self.accounts.change(&mut self.accounts.lock(&key), &key, forgive);
            }
        }
        cleared
    }

    /// (spent by real failures, reserved or faulted, limit) of a guesser now; spends nothing.
    pub fn peek(&self, who: &Guesser, now: Now) -> (u32, u32, u32) {
        let budget = self.budgets().per_client;
        let key = self.guesser_key(who.clone());
        let mut shard = self.guessers.lock(&key);
        let at = shard.advance(now.instant);
        let entries = self.guessers.entries(&mut shard, &key, at, budget.within);
        let failed = entries.failed_by(key.tag);
        (failed, entries.len().saturating_sub(failed), budget.failures)
    }

    /// The same of an account, whoever guessed at it. `None`: the guesser had a recent success on it as it would be named, and
    /// is not held by its budget.
    pub fn peek_account(&self, who: &Guesser, account: &AccountKey, exact: &ExactAccount, now: Now) -> Option<(u32, u32, u32)> {
        if self.successes.recent(who, exact, now) {
            return None;
        }
        let budget = self.budgets().per_account;
        let key = self.account_key(account);
        let mut shard = self.accounts.lock(&key);
        let at = shard.advance(now.instant);
        let entries = self.accounts.entries(&mut shard, &key, at, budget.within);
        let failed = entries.failed_on(key.tag);
        Some((failed, entries.len().saturating_sub(failed), budget.failures))
    }

    /// Frees memory of entries that left their window.
    pub fn sweep(&self, now: Now) {
        let budgets = self.budgets();
        self.guessers.sweep(now.instant, budgets.per_client.within);
        self.accounts.sweep(now.instant, budgets.per_account.within);
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.guessers.len() + self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a guess was counted with its neighbours' because the tables were full, since the start.
    pub fn overflow_count(&self) -> u64 {
        self.guessers.overflow_count() + self.accounts.overflow_count()
    }

    fn with_most_keys(budgets: GuessBudgets, successes: Arc<Successes>, clock: Clock, most_keys: usize) -> Self {
        Self {
            budgets: RwLock::new(budgets),
            guessers: Table::new(most_keys),
            accounts: Table::new(most_keys),
            successes,
            keyring: Keyring::new(),
            clock,
            next_id: AtomicU64::new(0),
        }
    }

    fn budgets(&self) -> GuessBudgets {
        *self.budgets.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn guesser_key(&self, who: Guesser) -> Key<Guesser> {
        let (tag, group) = match &who {
            Guesser::Client(client) => (self.keyring.client(client.net()), Some(self.keyring.neighbours(client.net()))),
            Guesser::Identity(name) => (self.keyring.identity(name), None),
        };
        Key::new(who, tag, group)
    }

    fn account_key(&self, account: &AccountKey) -> Key<Tag> {
        let tag = self.keyring.account(account);
        Key::new(tag, tag, Some(tag))
    }

    fn forgive(&self, who: Guesser) -> u32 {
        let (key, mut forgiven) = (self.guesser_key(who), 0);
        let forgive = |entries: &mut Entries| forgiven += entries.forgive(|entry| entry.who == key.tag);
        self.guessers.change(&mut self.guessers.lock(&key), &key, forgive);
        forgiven
    }
}

impl GuessPermit {
    /// Settles once.
    pub fn settle(mut self, outcome: LoginOutcome, now: Now) -> Settled {
        self.on_drop = None;
        self.reservation.take().map(|reservation| reservation.settle(outcome, now)).unwrap_or_default()
    }

    /// Whether this repeats a guess that failed already, and is not counted.
    pub fn is_repeat(&self) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| reservation.id.is_none())
    }

    /// `reached` says at a drop whether anything of the attempt can have reached the application: if not, it is given back.
    /// `heard_by` hears of the outcome and of the ban that a drop leads to: a client that hangs up on his last guess is
    /// banned for it too. Called at most once, from `drop`; never after [`Self::settle`].
    pub fn on_drop(
        mut self,
        reached: impl Fn() -> bool + Send + Sync + 'static,
        heard_by: impl FnOnce(Settled, LoginOutcome) + Send + Sync + 'static,
    ) -> Self {
        self.on_drop = Some(OnDrop { reached: Box::new(reached), heard_by: Box::new(heard_by) });
        self
    }
}

impl Drop for GuessPermit {
    /// Fails closed: an attempt that was cut off counts as a failure, unless it is known that nothing of it was sent.
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        let on_drop = self.on_drop.take();
        let unsent = on_drop.as_ref().is_some_and(|on_drop| !(on_drop.reached)());
        let outcome = if unsent { LoginOutcome::Unsent } else { LoginOutcome::Failed };
        let now = reservation.ledger.clock.now();
        let settled = reservation.settle(outcome, now);
        if let Some(OnDrop { heard_by, .. }) = on_drop {
            heard_by(settled, outcome);
        }
    }
}

impl Reservation {
    fn settle(self, outcome: LoginOutcome, now: Now) -> Settled {
        let ledger = &self.ledger;
        if outcome == LoginOutcome::Ok {
            ledger.successes.record(&self.who.exact, &self.exact.0, now);
        }
        let budget = ledger.budgets().per_client;
        // The same order as in `reserve`.
        let mut guesser_shard = ledger.guessers.lock(&self.who);
        let mut account_shard = ledger.accounts.lock(&self.account);
        let at = guesser_shard.advance(account_shard.advance(now.instant));
        let settle = |entries: &mut Entries| entries.settle(self.id, outcome, self.who.tag, self.exact.1, at);
        ledger.guessers.change(&mut guesser_shard, &self.who, settle);
        ledger.accounts.change(&mut account_shard, &self.account, settle);
        if outcome != LoginOutcome::Failed || self.id.is_none() {
            return Settled::default();
        }
        let failures = ledger.guessers.entries(&mut guesser_shard, &self.who, at, budget.within).failed_by(self.who.tag);
        Settled { ban: (failures >= budget.failures).then(|| (self.who.exact.ban_key(), failures)) }
    }
}

impl Guesser {
    fn ban_key(&self) -> BanKey {
        match self {
            Self::Client(client) => BanKey::Net(client.net()),
            Self::Identity(name) => BanKey::Identity(name.clone()),
        }
    }
}
