//! What the writers of the ban table keep beside it: order of expiry, lengths in use, and the history behind escalation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use super::BY_GUESSES;
use super::ends::{End, FOR_GOOD};
use super::nets::SharedLengths;
use crate::clock::Now;
use crate::policy::ban::{Ban, BanKey};

/// Keys whose past bans are remembered. A flood of new ones cannot flush those that are: it is not remembered itself.
const MOST_REMEMBERED: usize = 1_000_000;
/// Past bans remembered for one key; the length has long reached `max` by then.
const MOST_PAST_BANS: usize = 64;

#[derive(Default)]
pub(super) struct Books {
    /// Every ban with an end, soonest first, so that dropping the expired costs nothing for the others.
    by_expiry: BTreeSet<(End, BanKey)>,
    /// Clients banned for guessing, in order of address: neighbours stand together.
    pub(super) guessed: BTreeSet<IpNet>,
    /// How many bans of each length (and family) there are.
    lengths: BTreeMap<(bool, u8), usize>,
    pub(super) history: History,
    pub(super) history_swept: Duration,
}

/// When each key was banned, in Unix seconds, oldest first.
#[derive(Default)]
pub(super) struct History(HashMap<BanKey, Vec<i64>>);

/// A ban without its key.
#[derive(Clone)]
pub(super) struct Live {
    until: End,
    since: Timestamp,
    count: u32,
    failures: u32,
    /// `None` for a client banned by its failed logins: reason and author follow from that.
    note: Option<Box<Note>>,
}

#[derive(Clone)]
struct Note {
    reason: String,
    by: String,
}

impl Books {
    /// Enters a ban that is put in force.
    pub(super) fn enter(&mut self, key: &BanKey, live: &Live) {
        if live.until != FOR_GOOD {
            self.by_expiry.insert((live.until, key.clone()));
        }
        if let (BanKey::Net(net), true) = (key, live.is_guess()) {
            self.guessed.insert(*net);
        }
    }

    /// Strikes out a ban that is gone.
    pub(super) fn leave(&mut self, key: &BanKey, live: &Live) {
        self.by_expiry.remove(&(live.until, key.clone()));
        if let BanKey::Net(net) = key {
            self.guessed.remove(net);
        }
    }

    pub(super) fn first_expired(&self, wall: Timestamp) -> Option<BanKey> {
        self.by_expiry.first().filter(|(until, _)| !is_before(wall, *until)).map(|(_, key)| key.clone())
    }

    pub(super) fn guessed_within(&self, wide: &IpNet) -> Vec<IpNet> {
        let bounds =
            IpNet::new(wide.network(), 0).and_then(|first| Ok((first, IpNet::new(wide.broadcast(), wide.max_prefix_len())?)));
        bounds.map(|(first, last)| self.guessed.range(first..=last).copied().collect()).unwrap_or_default()
    }

    pub(super) fn add_length(&mut self, net: &IpNet, shared: &SharedLengths) {
        *self.lengths.entry(length_key(net)).or_default() += 1;
        // Before the net itself is there: a lookup that misses the bit would miss the ban.
        shared.set(net);
    }

    pub(super) fn take_length(&mut self, net: &IpNet, shared: &SharedLengths) {
        if let Some(count) = self.lengths.get_mut(&length_key(net)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.lengths.remove(&length_key(net));
                shared.clear(net);
            }
        }
    }
}

impl History {
    pub(super) fn restore(&mut self, key: BanKey, times: Vec<i64>) {
        self.0.insert(key, times);
    }

    /// Bans of the key within `forget` before `wall`.
    pub(super) fn count(&self, key: &BanKey, wall: Timestamp, forget: Duration) -> u32 {
        let within = |times: &Vec<i64>| times.iter().filter(|time| !is_forgotten(**time, wall, forget)).count();
        self.0.get(key).map_or(0, within).try_into().unwrap_or(u32::MAX)
    }

    /// Adds one. Returns how many there are now, and the row to store; no row when too many keys are remembered.
    pub(super) fn add(&mut self, key: &BanKey, wall: Timestamp, forget: Duration) -> (u32, Option<&Vec<i64>>) {
        if !self.0.contains_key(key) {
            if self.0.len() >= MOST_REMEMBERED {
                return (1, None);
            }
            self.0.insert(key.clone(), Vec::with_capacity(1));
        }
        let Some(times) = self.0.get_mut(key) else { return (1, None) };
        times.retain(|time| !is_forgotten(*time, wall, forget));
        if times.len() >= MOST_PAST_BANS {
            times.remove(0);
        }
        times.push(wall.as_second());
        (times.len().try_into().unwrap_or(u32::MAX), Some(times))
    }

    /// Drops keys whose bans are all forgotten, and returns them.
    pub(super) fn forget(&mut self, wall: Timestamp, forget: Duration) -> Vec<BanKey> {
        let gone = |times: &[i64]| times.iter().all(|time| is_forgotten(*time, wall, forget));
        self.0.extract_if(|_, times| gone(times)).map(|(key, _)| key).collect()
    }
}

impl Live {
    /// A client's ban for its own failed logins.
    pub(super) fn by_guesses(since: Timestamp, until: Timestamp, count: u32, failures: u32) -> Self {
        Self { until: end(until), since, count, failures, note: None }
    }

    /// Live while `now.wall < until`.
    pub(super) fn holds(&self, now: Now) -> bool {
        is_before(now.wall, self.until)
    }

    pub(super) fn end(&self) -> End {
        self.until
    }

    pub(super) fn until(&self) -> Timestamp {
        timestamp(self.until)
    }

    /// Made by the gateway for this key's own failed logins.
    pub(super) fn is_guess(&self) -> bool {
        self.note.is_none()
    }

    pub(super) fn to_ban(&self, key: BanKey) -> Ban {
        let (reason, by) = match &self.note {
            Some(note) => (note.reason.clone(), note.by.clone()),
            None => (guess_reason(self.failures), BY_GUESSES.into()),
        };
        Ban { key, reason, count: self.count, failures: self.failures, since: self.since, until: self.until(), by }
    }
}

impl From<Ban> for Live {
    fn from(ban: Ban) -> Self {
        let plain = ban.by == BY_GUESSES && ban.reason == guess_reason(ban.failures);
        let note = (!plain).then(|| Box::new(Note { reason: ban.reason, by: ban.by }));
        Self { until: end(ban.until), since: ban.since, count: ban.count, failures: ban.failures, note }
    }
}

/// The end of a ban as it is kept: to the second, rounded up.
pub(super) fn kept(until: Timestamp) -> Timestamp {
    timestamp(end(until))
}

pub(super) fn is_before(wall: Timestamp, end: End) -> bool {
    end == FOR_GOOD || wall.as_second() < i64::from(end)
}

fn end(until: Timestamp) -> End {
    let seconds = until.as_second() + i64::from(until.subsec_nanosecond() > 0);
    End::try_from(seconds.max(0)).unwrap_or(FOR_GOOD)
}

/// [`Timestamp::MAX`] for good.
pub(super) fn timestamp(end: End) -> Timestamp {
    if end == FOR_GOOD { Timestamp::MAX } else { Timestamp::from_second(end.into()).unwrap_or(Timestamp::MAX) }
}

fn guess_reason(failures: u32) -> String {
    format!("{failures} failed logins")
}

fn length_key(net: &IpNet) -> (bool, u8) {
    (net.addr().is_ipv4(), net.prefix_len())
}

/// A time in the future (the clock was stepped back since) is not forgotten.
fn is_forgotten(time: i64, wall: Timestamp, forget: Duration) -> bool {
    wall.as_second().saturating_sub(time) >= i64::try_from(forget.as_secs()).unwrap_or(i64::MAX)
}
