//! The guesses of one key that count now; never more than its budget, so a scan is all the index they need.

use std::time::Duration;

use crate::policy::ban::GuessBudget;
use crate::policy::login::LoginOutcome;

use super::keyring::Tag;

/// The shortest wait that is ever told, also for a budget of zero.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// A form with a one-time token differs each time; a second factor that is guessed differs each time as well.
const MOST_VARIANTS: u8 = 3;

#[derive(Default, Debug)]
pub(super) struct Entries(Vec<Entry>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// Monotonic: when it was reserved, then when it was settled.
    pub(super) at: Duration,
    pub(super) state: EntryState,
    pub(super) who: Tag,
    pub(super) account: Tag,
    /// Of the account exactly as it was named.
    pub(super) exact: Tag,
    /// Of guesser, exact account and secret together; kept on the guesser's side only.
    pub(super) secret: Option<Tag>,
    /// Of guesser, exact account and all the rest of the attempt.
    pub(super) rest: Option<Tag>,
    /// Uncounted repeats of the secret with another rest.
    pub(super) variants: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    /// On its way: counts until it is settled.
    Reserved,
    Failed,
    /// Spent without an answer: counts, never leads to a ban.
    Fault,
}

impl Entries {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        // Most keys hold one entry, and a full table holds many keys.
        if self.0.capacity() == 0 {
            self.0.reserve_exact(1);
        }
        self.0.push(entry);
    }

    pub(super) fn len(&self) -> u32 {
        self.0.len().try_into().unwrap_or(u32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any is of this guesser or this account.
    pub(super) fn any_of(&self, tag: Tag) -> bool {
        self.0.iter().any(|entry| entry.who == tag || entry.account == tag)
    }

    /// Drops what left the window: settled at `t`, an entry counts while `at < t + within`.
    pub(super) fn expire(&mut self, at: Duration, within: Duration) {
        self.0.retain(|entry| entry.state == EntryState::Reserved || at.saturating_sub(entry.at) < within);
    }

    /// Real failures of one guesser.
    pub(super) fn failed_by(&self, who: Tag) -> u32 {
        let failed = self.0.iter().filter(|entry| entry.state == EntryState::Failed && entry.who == who).count();
        failed.try_into().unwrap_or(u32::MAX)
    }

    /// Real failures on one account, whoever failed.
    pub(super) fn failed_on(&self, account: Tag) -> u32 {
        let failed = self.0.iter().filter(|entry| entry.state == EntryState::Failed && entry.account == account).count();
        failed.try_into().unwrap_or(u32::MAX)
    }

    /// Whether this guess failed before and may pass again uncounted: the very same always, the same secret with another rest
    /// [`MOST_VARIANTS`] times. Fails closed: beyond that it is a new guess, of something else than the secret.
    pub(super) fn repeats(&mut self, secret: Tag, rest: Option<Tag>) -> bool {
        let same = |entry: &&mut Entry| entry.state == EntryState::Failed && entry.secret == Some(secret);
        let mut spare = None;
        for entry in self.0.iter_mut().filter(same) {
            if entry.rest == rest {
                return true;
            }
            if entry.variants < MOST_VARIANTS {
                spare = Some(entry);
            }
        }
        if let Some(entry) = spare {
            entry.variants += 1;
            return true;
        }
        false
    }

    /// `Err` is how long until there is room for one more within the budget.
    pub(super) fn room(&self, budget: GuessBudget, at: Duration) -> Result<(), Duration> {
        if self.len() < budget.failures { Ok(()) } else { Err(self.wait_for_room(budget, at)) }
    }

    /// How long until enough entries have left for one more to fit; one under way is taken to be answered now.
    fn wait_for_room(&self, budget: GuessBudget, at: Duration) -> Duration {
        let mut ends: Vec<Duration> = self
            .0
            .iter()
            .map(|entry| if entry.state == EntryState::Reserved { at } else { entry.at })
            .map(|since| since.saturating_add(budget.within).saturating_sub(at))
            .collect();
        ends.sort_unstable();
        let leaving = ends.len().saturating_sub(budget.failures as usize);
        ends.get(leaving).copied().unwrap_or(budget.within).max(SHORTEST_WAIT)
    }

    /// What an answer does to the guess that it answers, and a success to the failures of that guesser with exactly that account.
    pub(super) fn settle(&mut self, id: Option<u64>, outcome: LoginOutcome, who: Tag, exact: Tag, at: Duration) {
        let is_it = |entry: &Entry| Some(entry.id) == id;
        match outcome {
            LoginOutcome::Failed => self.mark(is_it, EntryState::Failed, at),
            LoginOutcome::Fault => self.mark(is_it, EntryState::Fault, at),
            LoginOutcome::Unsent => self.0.retain(|entry| !is_it(entry)),
            LoginOutcome::Ok => {
                let cleared = |entry: &Entry| entry.state == EntryState::Failed && entry.who == who && entry.exact == exact;
                self.0.retain(|entry| !is_it(entry) && !cleared(entry));
            }
        }
    }

    /// Drops settled entries and says how many; those under way are still on their way to the application.
    pub(super) fn forgive(&mut self, whose: impl Fn(&Entry) -> bool) -> u32 {
        let before = self.len();
        self.0.retain(|entry| entry.state == EntryState::Reserved || !whose(entry));
        before.saturating_sub(self.len())
    }

    fn mark(&mut self, is_it: impl Fn(&Entry) -> bool, state: EntryState, at: Duration) {
        if let Some(entry) = self.0.iter_mut().find(|entry| is_it(entry)) {
            entry.state = state;
            entry.at = at;
        }
    }
}
