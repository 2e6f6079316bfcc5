//! Live bans: looked up by address before TLS, never evicted while they live.
//!
//! A ban lives while the civil clock is before its end, so that it survives a restart. A clock stepped back prolongs it by
//! the step; a clock stepped forward ends it early.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::clock::Now;
use crate::net::{ClientAddr, fold_mapped};
use crate::policy::Name;
use crate::policy::ban::{Ban, BanKey, BanRules};
use crate::policy::decide::BanFact;
use crate::policy::login::AccountKey;

use self::books::{Books, Live, is_before, kept, timestamp};
use self::ends::Ends;
use self::nets::{SharedLengths, truncated, wider};
use super::lock;
use super::store::{Change, Durable, Store, StoreError, Table};

mod books;
mod ends;
mod nets;
#[cfg(test)]
mod tests;

/// Bans from guessing that are held at most; beyond it neighbours are folded into a wider prefix.
const MOST_GUESS_BANS: usize = 1_000_000;
/// Banned clients of one wider prefix (/24, /48) that justify banning all of it when the table is full.
const NEIGHBOURS_TO_FOLD: usize = 8;
/// Rows that a sweep deletes while it holds the writers' lock.
const SWEEP_CHUNK: usize = 1024;
/// How often the history is searched for what is forgotten.
const HISTORY_SWEEP: Duration = Duration::from_secs(3600);
/// `by` of a ban that the gateway made after failed logins.
const BY_GUESSES: &str = "guesses";
/// `by` of a ban of `bans.always`.
const BY_CONFIG: &str = "config";

pub struct BanTable {
    store: Arc<dyn Store>,
    rules: ArcSwap<BanRules>,
    /// Whether any net is banned at all: most gateways answer every lookup from this alone.
    any_net: AtomicBool,
    /// The ends of what `nets` holds.
    ends: Ends,
    nets: DashMap<IpNet, Live>,
    lengths: SharedLengths,
    identities: DashMap<Name, Live>,
    accounts: DashMap<Name, Live>,
    live: AtomicUsize,
    /// What only writers need. Its lock makes every change, and its order in the store, one step.
    books: Mutex<Books>,
    loaded: Timestamp,
    overflow: AtomicU64,
    most_guess_bans: usize,
}

impl BanTable {
    /// Loads the live bans and the history behind escalation. Fails closed: an unreadable row is an error.
    pub fn load(store: Arc<dyn Store>, rules: &BanRules, now: Now) -> Result<Self, StoreError> {
        let mut books = Books::default();
        for (key, value) in store.load(Table::BanHistory)? {
            let bad = |cause: String| StoreError::bad_row(Table::BanHistory, &key, cause);
            let text = std::str::from_utf8(&key).map_err(|error| bad(error.to_string()))?;
            let times: Vec<i64> = serde_json::from_slice(&value).map_err(|error| bad(error.to_string()))?;
            books.history.restore(BanKey::parse(text, 128).map_err(bad)?, times);
        }
        let table = Self {
            rules: ArcSwap::from_pointee(rules.clone()),
            any_net: AtomicBool::new(false),
            ends: Ends::new(),
            nets: DashMap::new(),
            lengths: SharedLengths::default(),
            identities: DashMap::new(),
            accounts: DashMap::new(),
            live: AtomicUsize::new(0),
            books: Mutex::new(books),
            loaded: now.wall,
            overflow: AtomicU64::new(0),
            most_guess_bans: MOST_GUESS_BANS,
            store,
        };
        for (key, value) in table.store.load(Table::Bans)? {
            let ban: Ban = serde_json::from_slice(&value).map_err(|error| StoreError::bad_row(Table::Bans, &key, error))?;
            // Expired ones too: they hold nobody, and the next sweep takes their rows off the disk.
            table.insert(&mut lock(&table.books), ban.key.clone(), Live::from(ban));
        }
        table.note_whether_any(&lock(&table.books));
        Ok(table)
    }

    /// Takes over new rules: `always` is rebuilt, bans of nets now under `never` stop holding, nothing else is lost.
    pub fn reconcile(&self, rules: &BanRules) {
        let books = lock(&self.books);
        self.rules.store(Arc::new(rules.clone()));
        self.note_whether_any(&books);
    }

    /// The ban that holds an address: `always`, the client's own, or a prefix over it (the longest-lasting). Expiry is
    /// compared here; no allocation, and no lock but the shared side of one shard for each prefix length that is banned.
    /// Fails closed: whatever covers the address holds it, save where `never` names that very address.
    pub fn of_client(&self, client: &ClientAddr, now: Now) -> Option<BanFact> {
        if !self.any_net.load(Ordering::Acquire) {
            return None;
        }
        let rules = self.rules.load();
        let always = rules.always.contains(client.ip);
        let until = if always { Timestamp::MAX } else { self.longest_over(client.ip, now)? };
        (!rules.exempt(client.ip)).then_some(BanFact { until, always })
    }

    /// The live ban of a proven caller, by its `set:name`. Fails closed.
    pub fn of_identity(&self, key: &str, now: Now) -> Option<BanFact> {
        fact(&*self.identities.get(key)?, now)
    }

    /// Stops logins that name the account only. Fails closed.
    pub fn of_account(&self, account: &AccountKey, now: Now) -> Option<BanFact> {
        fact(&*self.accounts.get(&account.0)?, now)
    }

    /// Bans a key after failures, with escalating length; `None` when `never` covers it. The ban holds in memory from
    /// here on; the future resolves when it is on disk. A ban that already lasts longer is kept, and so is a live ban
    /// from guessing: one incident escalates once.
    ///
    /// When the table is full, a client with at least eight banned neighbours is banned with them by their common prefix;
    /// one without is not banned (`None`, counted by [`Self::overflow_count`]) and stays held by his spent budget.
    pub fn punish(&self, key: BanKey, failures: u32, now: Now) -> Option<(Ban, Durable)> {
        let key = canonical(key);
        let rules = self.rules.load_full();
        if spared(&rules, &key).is_some() {
            return None;
        }
        let mut books = lock(&self.books);
        let count = books.history.count(&key, now.wall, rules.forget).saturating_add(1);
        let until = later(now.wall, rules.length(count));
        let kept = |standing: &Live| standing.holds(now) && (standing.is_guess() || standing.until() >= until);
        if let Some(standing) = self.get(&key).filter(kept) {
            // Written again: its first write may have failed, and this future too must mean that the ban is on disk.
            return Some(self.write(standing.to_ban(key), Vec::new()));
        }
        let mut batch = Vec::with_capacity(3);
        let ban = match &key {
            BanKey::Net(net) if !self.has_room(&mut books, &key, now, &mut batch) => {
                self.overflow.fetch_add(1, Ordering::Relaxed);
                self.fold(&mut books, *net, until, failures, &rules, now, &mut batch)?
            }
            _ => Live::by_guesses(now.wall, until, count, failures).to_ban(key.clone()),
        };
        self.remember(&mut books, &key, &rules, now, &mut batch);
        Some(self.put(&mut books, ban, batch))
    }

    /// An operator's ban; without a length it stands until lifted. `Err` names why not (a `never` net, a trusted proxy,
    /// a longer ban stands).
    pub fn add(
        &self,
        key: BanKey,
        length: Option<Duration>,
        reason: String,
        by: String,
        now: Now,
    ) -> Result<(Ban, Durable), String> {
        let key = canonical(key);
        let rules = self.rules.load_full();
        if let Some(never) = spared(&rules, &key) {
            return Err(format!(
                "{key} may not be banned: it overlaps {never}, which `bans.never` or `trusted_proxies` protects"
            ));
        }
        if length.is_some_and(|length| length.is_zero()) {
            return Err("a ban needs a length above zero".into());
        }
        let until = length.map_or(Timestamp::MAX, |length| later(now.wall, length));
        let mut books = lock(&self.books);
        if let Some(standing) = self.get(&key).filter(|standing| standing.holds(now) && standing.until() >= until) {
            let end =
                if standing.until() == Timestamp::MAX { "for good".into() } else { format!("until {:.0}", standing.until()) };
            return Err(format!("{key} is banned {end} already; lift that ban first"));
        }
        let mut batch = Vec::with_capacity(2);
        let count = self.remember(&mut books, &key, &rules, now, &mut batch);
        let ban = Ban { key, reason, count, failures: 0, since: now.wall, until, by };
        Ok(self.put(&mut books, ban, batch))
    }

    /// Lifts a ban: `None` when there is none. History stays, so that escalation does; `config` bans cannot be lifted.
    pub fn lift(&self, key: &BanKey, now: Now) -> Option<(Ban, Durable)> {
        let key = canonical(key.clone());
        let mut books = lock(&self.books);
        let lifted = self.get(&key).filter(|standing| standing.holds(now))?;
        self.remove(&mut books, &key);
        self.note_whether_any(&books);
        let durable = self.store.write(vec![Change::Delete { table: Table::Bans, key: row(&key) }]);
        Some((lifted.to_ban(key), durable))
    }

    /// Live bans, longest-lived last. `config` bans (`always`) included, those under `never` not.
    pub fn list(&self, now: Now) -> Vec<Ban> {
        let rules = self.rules.load_full();
        let nets = self.nets.iter().map(|entry| entry.value().to_ban(BanKey::Net(*entry.key())));
        let identities = self.identities.iter().map(|entry| entry.value().to_ban(BanKey::Identity(entry.key().clone())));
        let accounts = self.accounts.iter().map(|entry| entry.value().to_ban(BanKey::Account(AccountKey(entry.key().clone()))));
        let mut bans: Vec<Ban> = nets.chain(identities).chain(accounts).filter(|ban| now.wall < ban.until).collect();
        bans.extend(rules.always.iter().map(|net| self.by_config(*net)));
        bans.retain(|ban| !lets_go(&rules, &ban.key));
        bans.sort_by(|a, b| (a.until, &a.key).cmp(&(b.until, &b.key)));
        bans
    }

    /// Live bans that cover a key (an address is covered by its prefix's ban too), longest-lived last.
    pub fn show(&self, key: &BanKey, now: Now) -> Vec<Ban> {
        let key = canonical(key.clone());
        let rules = self.rules.load_full();
        let mut bans = Vec::new();
        if let BanKey::Net(net) = &key {
            let over = self.lengths.of(net.addr()).filter(|length| *length <= net.prefix_len());
            bans.extend(over.filter_map(|length| {
                let over = truncated(net.addr(), length)?;
                self.nets.get(&over).map(|live| live.to_ban(BanKey::Net(over)))
            }));
            bans.extend(rules.always.iter().filter(|always| always.contains(net)).map(|always| self.by_config(*always)));
        } else {
            bans.extend(self.get(&key).map(|live| live.to_ban(key.clone())));
        }
        bans.retain(|ban| now.wall < ban.until && !lets_go(&rules, &key));
        bans.sort_by(|a, b| (a.until, &a.key).cmp(&(b.until, &b.key)));
        bans
    }

    /// Whether all that holds the address or key now was made by failed logins, and nothing by an operator or the config.
    pub fn by_guesses_alone(&self, key: &BanKey, now: Now) -> bool {
        self.show(key, now).iter().all(|ban| ban.by == BY_GUESSES)
    }

    /// Drops expired rows from memory and disk; expiry never waits for it.
    pub fn sweep(&self, now: Now) {
        loop {
            let mut books = lock(&self.books);
            let mut batch = Vec::new();
            self.drop_expired(&mut books, now, &mut batch);
            let more = batch.len() >= SWEEP_CHUNK;
            if !more && now.instant >= books.history_swept + HISTORY_SWEEP {
                books.history_swept = now.instant;
                let forget = self.rules.load().forget;
                let forgotten = books.history.forget(now.wall, forget);
                batch.extend(forgotten.iter().map(|key| Change::Delete { table: Table::BanHistory, key: row(key) }));
            }
            self.note_whether_any(&books);
            if !batch.is_empty() {
                drop(self.store.write(batch));
            }
            if !more {
                return;
            }
        }
    }

    /// Bans held, `always` not counted; expired ones until they are swept.
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a ban from guessing met a full table, since the start.
    pub fn overflow_count(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    /// For tests.
    pub fn until(&self, key: &BanKey, now: Now) -> Option<Timestamp> {
        self.get(&canonical(key.clone())).filter(|live| live.holds(now)).map(|live| live.until())
    }

    fn longest_over(&self, ip: IpAddr, now: Now) -> Option<Timestamp> {
        let over = self.lengths.of(ip).filter_map(|length| {
            let net = truncated(ip, length)?;
            self.ends.get(&net)
        });
        over.max().filter(|until| is_before(now.wall, *until)).map(timestamp)
    }

    fn get(&self, key: &BanKey) -> Option<Live> {
        match key {
            BanKey::Net(net) => self.nets.get(net).map(|live| live.clone()),
            BanKey::Identity(name) => self.identities.get(name).map(|live| live.clone()),
            BanKey::Account(account) => self.accounts.get(&account.0).map(|live| live.clone()),
        }
    }

    /// Puts a ban in force and on its way to the disk, with what else belongs to that step.
    fn put(&self, books: &mut Books, ban: Ban, batch: Vec<Change>) -> (Ban, Durable) {
        self.insert(books, ban.key.clone(), Live::from(ban.clone()));
        self.note_whether_any(books);
        self.write(ban, batch)
    }

    /// Called with the books locked, so that the disk sees changes in the order in which memory did.
    fn write(&self, ban: Ban, mut batch: Vec<Change>) -> (Ban, Durable) {
        match serde_json::to_vec(&ban) {
            Ok(value) => batch.push(Change::Put { table: Table::Bans, key: row(&ban.key), value }),
            // A ban always has a JSON form; were it otherwise, it would still hold in memory.
            Err(error) => return (ban, Box::pin(async move { Err(StoreError::Write(error.to_string())) })),
        }
        (ban, self.store.write(batch))
    }

    /// Counts this ban in the key's history. Returns the count, this one included.
    fn remember(&self, books: &mut Books, key: &BanKey, rules: &BanRules, now: Now, batch: &mut Vec<Change>) -> u32 {
        let (count, times) = books.history.add(key, now.wall, rules.forget);
        if let Some(value) = times.and_then(|times| serde_json::to_vec(times).ok()) {
            batch.push(Change::Put { table: Table::BanHistory, key: row(key), value });
        }
        count
    }

    fn insert(&self, books: &mut Books, key: BanKey, live: Live) {
        match (self.get(&key), &key) {
            (Some(replaced), _) => books.leave(&key, &replaced),
            (None, key) => {
                self.live.fetch_add(1, Ordering::Relaxed);
                if let BanKey::Net(net) = key {
                    books.add_length(net, &self.lengths);
                }
            }
        }
        books.enter(&key, &live);
        match key {
            BanKey::Net(net) => {
                self.ends.set(&net, live.end());
                self.nets.insert(net, live)
            }
            BanKey::Identity(name) => self.identities.insert(name, live),
            BanKey::Account(account) => self.accounts.insert(account.0, live),
        };
    }

    fn remove(&self, books: &mut Books, key: &BanKey) -> Option<Live> {
        let removed = match key {
            BanKey::Net(net) => {
                self.ends.remove(net);
                self.nets.remove(net).map(|(_, live)| live)
            }
            BanKey::Identity(name) => self.identities.remove(name).map(|(_, live)| live),
            BanKey::Account(account) => self.accounts.remove(&account.0).map(|(_, live)| live),
        }?;
        if let BanKey::Net(net) = key {
            books.take_length(net, &self.lengths);
        }
        books.leave(key, &removed);
        self.live.fetch_sub(1, Ordering::Relaxed);
        Some(removed)
    }

    fn drop_expired(&self, books: &mut Books, now: Now, batch: &mut Vec<Change>) {
        while batch.len() < SWEEP_CHUNK
            && let Some(key) = books.first_expired(now.wall)
        {
            self.remove(books, &key);
            batch.push(Change::Delete { table: Table::Bans, key: row(&key) });
        }
    }

    fn has_room(&self, books: &mut Books, key: &BanKey, now: Now, batch: &mut Vec<Change>) -> bool {
        if books.guessed.len() >= self.most_guess_bans && self.get(key).is_none() {
            self.drop_expired(books, now, batch);
        }
        books.guessed.len() < self.most_guess_bans || self.get(key).is_some()
    }

    /// Bans a client together with its banned neighbours, whose own bans it replaces; never a prefix over a `never` net.
    #[allow(clippy::too_many_arguments)]
    fn fold(
        &self,
        books: &mut Books,
        net: IpNet,
        until: Timestamp,
        failures: u32,
        rules: &BanRules,
        now: Now,
        batch: &mut Vec<Change>,
    ) -> Option<Ban> {
        let wide = wider(&net)?;
        let key = BanKey::Net(wide);
        let standing = self.get(&key).filter(|standing| standing.holds(now));
        let neighbours = books.guessed_within(&wide);
        if spared(rules, &key).is_some() || (standing.is_none() && neighbours.len() < NEIGHBOURS_TO_FOLD) {
            return None;
        }
        if let Some(standing) = standing.filter(|standing| standing.until() >= until) {
            return Some(standing.to_ban(key));
        }
        let neighbours: Vec<BanKey> = neighbours.into_iter().map(BanKey::Net).collect();
        let until = neighbours.iter().filter_map(|key| self.get(key)).fold(until, |until, folded| until.max(folded.until()));
        let reason = "the ban table is full, and several clients of this net are banned".to_owned();
        let ban = Ban { key: key.clone(), reason, count: 1, failures, since: now.wall, until, by: BY_GUESSES.into() };
        // In force before those that it replaces go: nobody is free for a moment.
        self.insert(books, key, Live::from(ban.clone()));
        for neighbour in &neighbours {
            self.remove(books, neighbour);
            batch.push(Change::Delete { table: Table::Bans, key: row(neighbour) });
        }
        Some(ban)
    }

    fn note_whether_any(&self, _books: &Books) {
        self.any_net.store(!self.lengths.is_empty() || !self.rules.load().always.is_empty(), Ordering::Release);
    }

    fn by_config(&self, net: IpNet) -> Ban {
        Ban {
            key: BanKey::Net(net),
            reason: "on the block list (`bans.always`)".into(),
            count: 0,
            failures: 0,
            since: self.loaded,
            until: Timestamp::MAX,
            by: BY_CONFIG.into(),
        }
    }
}

/// The longest ban from now on that still has an end; a longer one would be for good.
pub fn longest(now: Timestamp) -> Duration {
    let left = (i64::from(ends::FOR_GOOD) - 2).saturating_sub(now.as_second());
    Duration::from_secs(u64::try_from(left).unwrap_or(0))
}

/// The `never` net that a new ban of this key would touch, from inside or from around.
fn spared(rules: &BanRules, key: &BanKey) -> Option<IpNet> {
    let BanKey::Net(net) = key else { return None };
    rules.never.iter().map(|never| fold_mapped(*never)).find(|never| never.contains(net) || net.contains(never)).or_else(|| {
        // `::/0` and its like cover IPv4 too, which comparing nets does not show.
        rules.exempt(net.network()).then_some(*net)
    })
}

/// Whether a ban that stands holds nobody any more, because `never` covers all of it now.
fn lets_go(rules: &BanRules, key: &BanKey) -> bool {
    let BanKey::Net(net) = key else { return false };
    rules.never.iter().any(|never| fold_mapped(*never).contains(net))
}

fn fact(live: &Live, now: Now) -> Option<BanFact> {
    live.holds(now).then_some(BanFact { until: live.until(), always: false })
}

fn later(wall: Timestamp, by: Duration) -> Timestamp {
    kept(wall.checked_add(by).unwrap_or(Timestamp::MAX))
}

/// The key's row in the store.
fn row(key: &BanKey) -> Vec<u8> {
    key.to_string().into_bytes()
}

/// Clients are looked up with IPv4-mapped addresses folded to IPv4, so nets are kept that way too.
fn canonical(key: BanKey) -> BanKey {
    match key {
        BanKey::Net(net) => BanKey::Net(fold_mapped(net)),
        other => other,
    }
}
