//! Which client signed in to which account lately: 30 days, in the store, so that a restart locks nobody out. Accounts stand here
//! exactly as they were named and as digests.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::{SignedDuration, Timestamp};

use crate::clock::Now;
use crate::policy::login::ExactAccount;

use super::guesses::Guesser;
use super::store::{Change, Store, StoreError, Table};

/// How long a success speaks for its client.
const RECENT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A pair is written at most this often; a crash forgets no more than this of its age.
const WRITE_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// Pairs held at most; beyond it the oldest sixteenth is forgotten.
const MOST_PAIRS: usize = 1_000_000;
/// Clients held for one account at most, so that an account of one's own cannot push out everybody else's.
const MOST_PER_ACCOUNT: usize = 256;

/// Successful logins by client (or identity) and account. Losing one costs its client no more than the protection
/// against other people's failures on the same account.
pub struct Successes {
    store: Arc<dyn Store>,
    book: RwLock<Book>,
    most_pairs: usize,
}

#[derive(Default)]
struct Book {
    accounts: HashMap<ExactAccount, Vec<Success>>,
    pairs: usize,
}

struct Success {
    who: Box<str>,
    last: Timestamp,
    /// The value of `last` on disk.
    written: Timestamp,
}

impl Successes {
    /// Loads what was remembered. Fails closed: an unreadable row is an error.
    pub fn load(store: Arc<dyn Store>, now: Now) -> Result<Self, StoreError> {
        let (mut book, mut unread) = (Book::default(), Vec::new());
        for (key, value) in store.load(Table::Successes)? {
            let bad = |cause: serde_json::Error| StoreError::bad_row(Table::Successes, &key, cause);
            let (who, account): (Box<str>, Box<str>) = serde_json::from_slice(&key).map_err(bad)?;
            // Rows of 0.1.0 name the account without its host; they forgive nobody.
            let Some(account) = ExactAccount::parse(&account) else {
                unread.push(Change::Delete { table: Table::Successes, key });
                continue;
            };
            let last: Timestamp = serde_json::from_slice(&value).map_err(bad)?;
            book.accounts.entry(account).or_default().push(Success { who, last, written: last });
            book.pairs += 1;
        }
        let successes = Self { store, book: RwLock::new(book), most_pairs: MOST_PAIRS };
        successes.send(unread);
        successes.sweep(now);
        Ok(successes)
    }

    /// Remembers a success; written behind (at most once a day per pair).
    pub fn record(&self, who: &Guesser, account: &ExactAccount, now: Now) {
        let who = text(who);
        let mut batch = Vec::new();
        let mut book = self.write();
        let known = book.accounts.entry(*account).or_default();
        let stale = match known.iter_mut().find(|success| success.who == who) {
            Some(success) => {
                success.last = now.wall;
                let stale = now.wall.duration_since(success.written).abs() >= WRITE_EVERY;
                if stale {
                    success.written = now.wall;
                }
                stale
            }
            None => {
                if known.len() >= MOST_PER_ACCOUNT
                    && let Some(oldest) = (0..known.len()).min_by_key(|at| known.get(*at).map(|success| success.last))
                {
                    batch.extend(delete(account, &known.swap_remove(oldest)));
                    book.pairs -= 1;
                }
                let success = Success { who: who.clone(), last: now.wall, written: now.wall };
                book.accounts.entry(*account).or_default().push(success);
                book.pairs += 1;
                true
            }
        };
        if stale && let Some((key, value)) = row(&who, account).zip(serde_json::to_vec(&now.wall).ok()) {
            batch.push(Change::Put { table: Table::Successes, key, value });
        }
        if book.pairs > self.most_pairs {
            let oldest = book.age_of_oldest_sixteenth();
            batch.extend(book.retain(|success| success.last > oldest));
        }
        self.send(batch);
    }

    /// Whether there was one in the last 30 days.
    pub fn recent(&self, who: &Guesser, account: &ExactAccount, now: Now) -> bool {
        let book = self.read();
        let Some(known) = book.accounts.get(account) else { return false };
        let who = text(who);
        known.iter().any(|success| success.who == who && is_recent(success.last, now))
    }

    /// Forgets what is older than 30 days, in memory and on disk.
    pub fn sweep(&self, now: Now) {
        let mut book = self.write();
        let batch = book.retain(|success| is_recent(success.last, now));
        self.send(batch);
    }

    /// Pairs held.
    pub fn len(&self) -> usize {
        self.read().pairs
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Called with the book locked, so that the disk sees changes in the order in which memory did.
    fn send(&self, batch: Vec<Change>) {
        if !batch.is_empty() {
            // Written behind: nothing waits for it, and a failure costs at most the pair's age.
            drop(self.store.write(batch));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Keeps some; returns the deletes of the others.
    fn retain(&mut self, keep: impl Fn(&Success) -> bool) -> Vec<Change> {
        let mut batch = Vec::new();
        self.accounts.retain(|account, known| {
            for gone in known.extract_if(.., |success| !keep(success)) {
                self.pairs -= 1;
                batch.extend(delete(account, &gone));
            }
            !known.is_empty()
        });
        batch
    }

    fn age_of_oldest_sixteenth(&self) -> Timestamp {
        let mut ages: Vec<Timestamp> = self.accounts.values().flatten().map(|success| success.last).collect();
        let nth = ages.len() / 16;
        if nth < ages.len() { *ages.select_nth_unstable(nth).1 } else { Timestamp::MIN }
    }
}

/// A success in the future (the clock was stepped back since) is recent.
fn is_recent(last: Timestamp, now: Now) -> bool {
    now.wall.duration_since(last) < RECENT
}

fn text(who: &Guesser) -> Box<str> {
    match who {
        Guesser::Client(client) => format!("client:{client}").into(),
        Guesser::Identity(name) => format!("identity:{name}").into(),
    }
}

fn delete(account: &ExactAccount, success: &Success) -> Option<Change> {
    row(&success.who, account).map(|key| Change::Delete { table: Table::Successes, key })
}

/// The pair's key in the store: a JSON array, so that no name can run into the other.
fn row(who: &str, account: &ExactAccount) -> Option<Vec<u8>> {
    serde_json::to_vec(&(who, account.to_text())).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::net::ClientAddr;
    use crate::state::store::conformance::{rows, wait};
    use crate::state::store::embedded::EmbeddedStore;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn client(ip: &str) -> Guesser {
        Guesser::Client(ClientAddr::new(ip.parse().expect("ip"), 64).key)
    }

    fn account(name: &str) -> ExactAccount {
        ExactAccount::new("portal.example.com", "form", name.as_bytes())
    }

    fn setup() -> (tempfile::TempDir, Arc<dyn Store>, ManualClock) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = EmbeddedStore::open(dir.path()).expect("a store");
        (dir, Arc::new(store), ManualClock::at("2026-03-01T00:00:00Z".parse().expect("a time")))
    }

    #[test]
    fn a_success_counts_for_thirty_days_for_its_pair_alone() {
        let (_dir, store, clock) = setup();
        let successes = Successes::load(store, clock.now()).expect("loaded");
        successes.record(&client("192.0.2.1"), &account("ann"), clock.now());
        assert!(successes.recent(&client("192.0.2.1"), &account("ann"), clock.now()));
        assert!(!successes.recent(&client("192.0.2.2"), &account("ann"), clock.now()));
        assert!(!successes.recent(&client("192.0.2.1"), &account("bob"), clock.now()));
        clock.advance(30 * DAY - Duration::from_secs(1));
        assert!(successes.recent(&client("192.0.2.1"), &account("ann"), clock.now()));
        clock.advance(Duration::from_secs(1));
        assert!(!successes.recent(&client("192.0.2.1"), &account("ann"), clock.now()));
        successes.sweep(clock.now());
        assert!(successes.is_empty());
    }

    #[test]
    fn pairs_survive_a_restart_and_are_written_once_a_day() {
        let (dir, store, clock) = setup();
        let successes = Successes::load(Arc::clone(&store), clock.now()).expect("loaded");
        let (who, name) = (Guesser::Identity("acme:a\0b".into()), account("c\0\"d"));
        successes.record(&who, &name, clock.now());
        clock.advance(DAY / 2);
        successes.record(&who, &name, clock.now());
        wait(store.write(Vec::new())).expect("a barrier");
        assert_eq!(rows(&*store, Table::Successes)[0].1, "\"2026-03-01T00:00:00Z\"", "the second within a day stays in memory");
        clock.advance(DAY / 2);
        successes.record(&who, &name, clock.now());
        store.close();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path()).expect("reopened"));
        assert_eq!(rows(&*store, Table::Successes)[0].1, "\"2026-03-02T00:00:00Z\"");
        let again = Successes::load(Arc::clone(&store), clock.now()).expect("loaded");
        assert!(again.recent(&who, &name, clock.now()));
        assert_eq!(again.len(), 1);
        clock.advance(30 * DAY);
        again.sweep(clock.now());
        wait(store.write(Vec::new())).expect("a barrier");
        assert_eq!(rows(&*store, Table::Successes), []);
    }

    #[test]
    fn an_account_of_ones_own_cannot_flush_the_others() {
        let (_dir, store, clock) = setup();
        let successes = Successes::load(store, clock.now()).expect("loaded");
        successes.record(&client("192.0.2.1"), &account("ann"), clock.now());
        for last in 0..=255_u8 {
            for third in 0..4_u8 {
                clock.advance(Duration::from_secs(1));
                successes.record(&client(&format!("198.51.{third}.{last}")), &account("mallory"), clock.now());
            }
        }
        assert_eq!(successes.len(), 1 + MOST_PER_ACCOUNT);
        assert!(successes.recent(&client("192.0.2.1"), &account("ann"), clock.now()));
        assert!(successes.recent(&client("198.51.3.255"), &account("mallory"), clock.now()));
        assert!(!successes.recent(&client("198.51.0.0"), &account("mallory"), clock.now()), "the oldest went");
    }

    #[test]
    fn a_full_book_forgets_the_oldest() {
        let (_dir, store, clock) = setup();
        let mut successes = Successes::load(store, clock.now()).expect("loaded");
        successes.most_pairs = 32;
        for turn in 0..33 {
            clock.advance(Duration::from_secs(1));
            successes.record(&client("192.0.2.1"), &account(&format!("user{turn}")), clock.now());
        }
        assert!(successes.len() <= 32);
        assert!(!successes.recent(&client("192.0.2.1"), &account("user0"), clock.now()));
        assert!(successes.recent(&client("192.0.2.1"), &account("user32"), clock.now()));
    }

    #[test]
    fn a_success_is_of_one_host_one_rule_and_one_spelling() {
        let (_dir, store, clock) = setup();
        let successes = Successes::load(store, clock.now()).expect("loaded");
        let who = client("192.0.2.1");
        successes.record(&who, &account("ann"), clock.now());
        for (host, rule, name) in [
            ("other.example.com", "form", "ann"),
            ("portal.example.com", "staff", "ann"),
            ("portal.example.com", "form", "Ann"),
            ("portal.example.comf", "orm", "ann"),
        ] {
            assert!(
                !successes.recent(&who, &ExactAccount::new(host, rule, name.as_bytes()), clock.now()),
                "{host} {rule} {name}"
            );
        }
    }

    #[test]
    fn a_row_without_a_host_forgives_nobody_and_goes() {
        let (_dir, store, clock) = setup();
        let key = br#"["client:192.0.2.1","ann"]"#.to_vec();
        let value = br#""2026-03-01T00:00:00Z""#.to_vec();
        wait(store.write(vec![Change::Put { table: Table::Successes, key, value }])).expect("written");
        let successes = Successes::load(Arc::clone(&store), clock.now()).expect("loaded");
        assert!(successes.is_empty() && !successes.recent(&client("192.0.2.1"), &account("ann"), clock.now()));
        wait(store.write(Vec::new())).expect("a barrier");
        assert_eq!(rows(&*store, Table::Successes), []);
    }

    #[test]
    fn an_unreadable_row_refuses_the_start() {
        let (_dir, store, clock) = setup();
        wait(store.write(vec![Change::Put { table: Table::Successes, key: b"client".to_vec(), value: b"1".to_vec() }]))
            .expect("written");
        let error = Successes::load(store, Clock::from(clock).now()).err().expect("refused").to_string();
        assert!(error.contains("successes") && error.contains("backup"), "{error}");
    }
}
