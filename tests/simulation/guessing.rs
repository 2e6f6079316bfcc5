//! Guess ledger, ban table and successes together, as the gateway drives them.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::clock::{Clock, ManualClock, Now};
use doorward::net::{ClientAddr, Nets};
use doorward::policy::ban::{BanAnswer, BanKey, BanRules, GuessBudget, GuessBudgets};
use doorward::policy::decide::BanFact;
use doorward::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};
use doorward::state::accounts::Successes;
use doorward::state::bans::BanTable;
use doorward::state::guesses::{GuessLedger, GuessPermit, Guesser, RefusedBy, Settled};
use doorward::state::store::embedded::EmbeddedStore;
use doorward::state::store::{Change, Durable, Store, Table};
use jiff::Timestamp;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::Dice;

const STEPS: usize = 400;
/// One seed in this many restarts from the file that `kill -9` would leave; the others from what the store holds.
const KILLED: u64 = 8;
const PER_CLIENT: Duration = Duration::from_secs(600);
const PER_ACCOUNT: Duration = Duration::from_secs(3600);

/// Two neighbours, two addresses of one IPv6 client, and its neighbour.
const ADDRESSES: [&str; 5] = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"];
const IDENTITIES: [&str; 2] = ["acme:sync", "acme:report"];
/// As they are named: two are counted as one, and forgiven apart.
const ACCOUNTS: [&str; 4] = ["ann", "Ann", "bob", "eve"];
const SECRETS: [Option<&str>; 4] = [None, None, Some("hunter2"), Some("letmein")];
const OUTCOMES: [LoginOutcome; 6] = [
    LoginOutcome::Failed,
    LoginOutcome::Failed,
    LoginOutcome::Failed,
    LoginOutcome::Ok,
    LoginOutcome::Fault,
    LoginOutcome::Unsent,
];

/// A store that serves one seed after the other: making one anew for each would be most of the time.
pub struct Workplace {
    dir: TempDir,
    store: Arc<dyn Store>,
}

impl Workplace {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(&dir);
        Self { dir, store }
    }

    fn clean(&self) {
        let rows = |table| self.store.load(table).expect("rows").into_iter().map(move |(key, _)| Change::Delete { table, key });
        wait(self.store.write(Table::ALL.into_iter().flat_map(rows).collect())).expect("clean");
    }

    /// Goes on with a copy of the file as it is on disk now, the live one never having been closed.
    fn kill(&mut self) {
        let dir = tempfile::tempdir().expect("a directory");
        for file in fs::read_dir(self.dir.path()).expect("a directory") {
            let file = file.expect("a file");
            fs::copy(file.path(), dir.path().join(file.file_name())).expect("copied");
        }
        *self = Self { store: open(&dir), dir };
    }
}

/// Plays one seed to its end.
pub fn play(seed: u64, workplace: &mut Workplace) {
    workplace.clean();
    let mut run = Run::new(seed, workplace);
    for step in 0..STEPS {
        run.step = step;
        match run.dice.below(100) {
            0..40 => run.guess(),
            40..66 => run.answer(),
            66..70 => run.hang_up(),
            70..84 => run.pass_time(),
            84..86 => run.step_wall(),
            86..89 => run.ban_by_hand(),
            89..93 => run.lift(),
            93..96 => run.reload(),
            96..98 => run.sweep(),
            98 => run.restart(workplace),
            _ => run.peek(),
        }
        run.check_bans();
    }
    run.restart(workplace);
    run.check_bans();
    run.check_windows();
}

struct Run {
    seed: u64,
    step: usize,
    dice: Dice,
    clock: ManualClock,
    budgets: GuessBudgets,
    rules: BanRules,
    ledger: Arc<GuessLedger>,
    bans: BanTable,
    successes: Arc<Successes>,
    flying: Vec<(usize, GuessPermit)>,
    model: Model,
}

/// What must be true, kept as plainly as it can be.
#[derive(Default)]
struct Model {
    guesses: Vec<Guess>,
    signed_in: Vec<(Guesser, &'static str)>,
    bans: HashMap<BanKey, (Timestamp, bool)>,
    past_bans: HashMap<BanKey, u32>,
    largest: (u32, u32),
}

/// One guess that was let through.
#[derive(Clone)]
struct Guess {
    who: Guesser,
    account: &'static str,
    secret: Option<&'static str>,
    /// `None` under way.
    settled: Option<(LoginOutcome, Duration)>,
    /// When the application saw it: when it was let through or when it was settled, by chance.
    reached: Duration,
    reaches_late: bool,
    counts_for_guesser: bool,
    counts_for_account: bool,
}

impl Run {
    fn new(seed: u64, workplace: &Workplace) -> Self {
        let mut dice = Dice::new(seed);
        let clock = ManualClock::at("2026-05-01T12:00:00Z".parse().expect("a time"));
        let (budgets, rules) = (random_budgets(&mut dice), random_rules(&mut dice));
        let successes = Arc::new(Successes::load(Arc::clone(&workplace.store), clock.now()).expect("loaded"));
        let ledger = Arc::new(GuessLedger::new(budgets, Arc::clone(&successes), Clock::from(clock.clone())));
        let bans = BanTable::load(Arc::clone(&workplace.store), &rules, clock.now()).expect("loaded");
        let mut model = Model::default();
        model.note_budgets(budgets);
        Self { seed, step: 0, dice, clock, budgets, rules, ledger, bans, successes, flying: Vec::new(), model }
    }

    fn guess(&mut self) {
        let now = self.now();
        let who = self.guesser();
        let account = self.dice.pick(&ACCOUNTS);
        let secret = self.dice.pick(&SECRETS);
        // As at the door: a banned guesser gets no further, and what is refused there never reaches the ledger.
        let banned = match &who {
            Guesser::Client(client) => self.bans.of_client(&ClientAddr::new(client.net().addr(), 64), now),
            Guesser::Identity(name) => self.bans.of_identity(name, now),
        };
        if banned.is_some() || self.bans.of_account(&account_key(account), now).is_some() {
            return;
        }
        let attempt = Attempt {
            account: account_key(account),
            exact: ExactAccount::new("portal.example.com", "form", account.as_bytes()),
            secret: secret.map(|secret| Zeroizing::new(secret.as_bytes().to_vec())),
            rest: None,
        };
        let spent = self.model.spent(&who, now) >= self.budgets.per_client.failures;
        let account_spent = self.model.account_spent(account, now) >= self.budgets.per_account.failures;
        let exempt = self.model.signed_in.contains(&(who.clone(), account));
        let repeat = secret.is_some() && self.model.has_failed(&who, account, secret, now);
        match self.ledger.reserve(who.clone(), &attempt, now) {
            Err(refusal) => {
                self.expect(!repeat, "a repeat passes");
                match refusal.scope {
                    RefusedBy::Guesser => self.expect(spent, "refused for one's own guesses only"),
                    RefusedBy::Account => {
                        self.expect(!spent && account_spent && !exempt, "refused for the account only as it says")
                    }
                }
                self.expect(!refusal.retry_after.is_zero() && refusal.retry_after <= PER_ACCOUNT, "a wait that ends");
            }
            Ok(permit) => {
                self.expect(repeat || !spent, "within the guesser's budget");
                self.expect(repeat || exempt || !account_spent, "within the account's budget");
                self.flying.push((self.model.guesses.len(), permit));
                self.model.guesses.push(Guess {
                    who,
                    account,
                    secret,
                    settled: None,
                    reached: now.instant,
                    reaches_late: self.dice.below(2) == 0,
                    counts_for_guesser: !repeat,
                    counts_for_account: !repeat && !exempt,
                });
            }
        }
    }

    fn answer(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let (at, permit) = self.flying.swap_remove(self.dice.below(self.flying.len()));
        let outcome = self.dice.pick(&OUTCOMES);
        let settled = permit.settle(outcome, self.now());
        self.settle(at, outcome, settled);
    }

    fn hang_up(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let (at, permit) = self.flying.swap_remove(self.dice.below(self.flying.len()));
        let heard = Arc::new(Mutex::new(None));
        let hearer = Arc::clone(&heard);
        drop(permit.on_drop(|| true, move |settled, _| *hearer.lock().expect("whole") = Some(settled)));
        let settled = heard.lock().expect("whole").take().expect("heard");
        self.settle(at, LoginOutcome::Failed, settled);
    }

    /// Holds what the ledger said against the model, and bans as the gateway does.
    fn settle(&mut self, at: usize, outcome: LoginOutcome, settled: Settled) {
        let now = self.now();
        self.model.settle(at, outcome, now);
        let guess = self.model.guesses[at].clone();
        let failures = self.model.failures(&guess.who, now);
        let deserved =
            outcome == LoginOutcome::Failed && guess.counts_for_guesser && failures >= self.budgets.per_client.failures;
        let key = ban_key(&guess.who);
        self.expect(settled.ban == deserved.then(|| (key.clone(), failures)), "a ban for the whole budget in real failures only");
        if let Some((key, failures)) = settled.ban {
            self.punish(key, failures);
        }
    }

    fn punish(&mut self, key: BanKey, failures: u32) {
        let now = self.now();
        let spared = matches!(&key, BanKey::Net(net) if self.rules.never.iter().any(|never| never.contains(net)));
        let count = self.model.past_bans.get(&key).map_or(1, |past| past + 1);
        let until = now.wall + self.rules.length(count);
        let standing = self.model.live(&key, now).filter(|(end, guessed)| *guessed || *end >= until);
        let punished = self.bans.punish(key.clone(), failures, now);
        self.expect(punished.is_none() == spared, "everybody but `never` is banned");
        let Some((ban, _)) = punished else { return };
        self.expect(ban.key == key && ban.until == standing.map_or(until, |(end, _)| end), "the ban lasts as long as it must");
        if standing.is_none() {
            self.model.past_bans.insert(key.clone(), count);
            self.model.bans.insert(key, (until, true));
        }
    }

    fn pass_time(&mut self) {
        // Multiples of the same half minute, so that windows are often met at their very end.
        let halves = [1, 1, 2, 4, 10, 20, 40];
        self.clock.advance(Duration::from_secs(30) * self.dice.pick(&halves));
    }

    fn step_wall(&mut self) {
        let seconds = self.dice.pick(&[-3600, -60, 60, 3600]);
        self.clock.step_wall(self.now().wall + jiff::SignedDuration::from_secs(seconds));
    }

    fn ban_by_hand(&mut self) {
        let now = self.now();
        let key = self.any_key();
        let length = self.dice.pick(&[None, Some(Duration::from_secs(120)), Some(Duration::from_secs(7200))]);
        let until = length.map_or(Timestamp::MAX, |length| now.wall + length);
        let never = |net: &ipnet::IpNet| self.rules.never.iter().any(|never| never.contains(net) || net.contains(never));
        let spared = matches!(&key, BanKey::Net(net) if never(net));
        let outlasted = self.model.live(&key, now).is_some_and(|(end, _)| end >= until);
        let added = self.bans.add(key.clone(), length, "abuse".into(), "alice".into(), now);
        self.expect(added.is_err() == (spared || outlasted), "an operator is refused for a reason only");
        if added.is_ok() {
            *self.model.past_bans.entry(key.clone()).or_default() += 1;
            self.model.bans.insert(key, (until, false));
        }
    }

    fn lift(&mut self) {
        let now = self.now();
        let key = self.any_key();
        let expected = self.model.live(&key, now);
        let lifted = self.bans.lift(&key, now);
        self.expect(lifted.map(|(ban, _)| ban.until) == expected.map(|(until, _)| until), "what stands can be lifted");
        if expected.is_some() {
            self.model.bans.remove(&key);
            self.ledger.clear(&key);
            self.model.clear(&key);
        }
    }

    fn reload(&mut self) {
        self.budgets = random_budgets(&mut self.dice);
        self.rules = random_rules(&mut self.dice);
        self.model.note_budgets(self.budgets);
        self.ledger.reconcile(self.budgets);
        self.bans.reconcile(&self.rules);
    }

    fn sweep(&mut self) {
        let now = self.now();
        self.ledger.sweep(now);
        self.bans.sweep(now);
        self.successes.sweep(now);
        // What expired is gone for good, also when the clock is stepped back afterwards.
        self.model.bans.retain(|_, (until, _)| now.wall < *until);
    }

    fn restart(&mut self, workplace: &mut Workplace) {
        // Bans that were acknowledged: everything written so far. What was under way is cut off with the process.
        wait(workplace.store.write(Vec::new())).expect("on disk");
        self.flying.clear();
        self.model.forget_guesses(self.budgets);
        if self.seed.is_multiple_of(KILLED) {
            workplace.kill();
        }
        let now = self.now();
        self.successes = Arc::new(Successes::load(Arc::clone(&workplace.store), now).expect("loaded"));
        self.ledger = Arc::new(GuessLedger::new(self.budgets, Arc::clone(&self.successes), Clock::from(self.clock.clone())));
        self.bans = BanTable::load(Arc::clone(&workplace.store), &self.rules, now).expect("loaded");
    }

    fn peek(&mut self) {
        let now = self.now();
        let who = self.guesser();
        let (failed, other, limit) = self.ledger.peek(&who, now);
        self.expect(failed == self.model.failures(&who, now), "failures as counted");
        self.expect(failed + other == self.model.spent(&who, now), "spent as counted");
        self.expect(limit == self.budgets.per_client.failures, "the live budget");
    }

    fn check_bans(&mut self) {
        let now = self.now();
        for address in ADDRESSES {
            let client = client(address);
            let always = self.rules.always.contains(client.ip);
            let over = self.model.bans.iter().filter(|(key, _)| matches!(key, BanKey::Net(net) if net.contains(&client.ip)));
            let longest = over.map(|(_, (until, _))| *until).filter(|until| now.wall < *until).max();
            let expected = if always { Some(Timestamp::MAX) } else { longest };
            let expected = expected.filter(|_| !self.rules.never.contains(client.ip)).map(|until| BanFact { until, always });
            self.expect(self.bans.of_client(&client, now) == expected, "no ban lost, none made up");
        }
        for name in IDENTITIES {
            let expected = self.model.live(&BanKey::Identity(name.into()), now).map(|(until, _)| until);
            self.expect(
                self.bans.of_identity(name, now).map(|fact| fact.until) == expected,
                "no identity's ban lost, none made up",
            );
        }
    }

    /// Invariant 1, by the time at which each guess reached the application.
    fn check_windows(&self) {
        let by_guesser = |guess: &Guess| guess.counts_for_guesser.then(|| ban_key(&guess.who));
        self.check_window(by_guesser, PER_CLIENT, self.model.largest.0, "guesser");
        let by_account = |guess: &Guess| guess.counts_for_account.then(|| BanKey::Account(account_key(guess.account)));
        self.check_window(by_account, PER_ACCOUNT, self.model.largest.1, "account");
    }

    fn check_window(&self, key: impl Fn(&Guess) -> Option<BanKey>, within: Duration, budget: u32, whose: &str) {
        let mut reached: HashMap<BanKey, Vec<Duration>> = HashMap::new();
        for guess in &self.model.guesses {
            if let Some(key) = key(guess) {
                reached.entry(key).or_default().push(guess.reached);
            }
        }
        for times in reached.values_mut() {
            times.sort_unstable();
            for window in times.windows(budget as usize + 1) {
                self.expect(
                    window[budget as usize] - window[0] >= within,
                    &format!("the budget of a {whose} holds in every window"),
                );
            }
        }
    }

    fn guesser(&mut self) -> Guesser {
        match self.dice.below(ADDRESSES.len() + IDENTITIES.len()) {
            address if address < ADDRESSES.len() => Guesser::Client(client(ADDRESSES[address]).key),
            identity => Guesser::Identity(IDENTITIES[identity - ADDRESSES.len()].into()),
        }
    }

    fn any_key(&mut self) -> BanKey {
        match self.dice.below(10) {
            0 => BanKey::Account(account_key(self.dice.pick(&ACCOUNTS))),
            1 => BanKey::Net("192.0.2.0/24".parse().expect("a net")),
            2 => BanKey::Net("2001:db8::/48".parse().expect("a net")),
            _ => ban_key(&self.guesser()),
        }
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    #[track_caller]
    fn expect(&self, holds: bool, what: &str) {
        assert!(holds, "seed {}, step {}: {what}", self.seed, self.step);
    }
}

impl Model {
    fn spent(&self, who: &Guesser, now: Now) -> u32 {
        self.count(|guess| guess.counts_for_guesser && guess.who == *who && guess.holds(now, PER_CLIENT))
    }

    fn account_spent(&self, account: &str, now: Now) -> u32 {
        let counted = |guess: &Guess| guess.counts_for_account && account_key(guess.account) == account_key(account);
        self.count(|guess| counted(guess) && guess.holds(now, PER_ACCOUNT))
    }

    fn failures(&self, who: &Guesser, now: Now) -> u32 {
        self.count(|guess| guess.counts_for_guesser && guess.who == *who && guess.failed() && guess.holds(now, PER_CLIENT))
    }

    fn has_failed(&self, who: &Guesser, account: &str, secret: Option<&str>, now: Now) -> bool {
        let same = |guess: &Guess| guess.who == *who && guess.account == account && guess.secret == secret;
        self.count(|guess| guess.counts_for_guesser && same(guess) && guess.failed() && guess.holds(now, PER_CLIENT)) > 0
    }

    fn count(&self, which: impl Fn(&Guess) -> bool) -> u32 {
        self.guesses.iter().filter(|guess| which(guess)).count() as u32
    }

    fn settle(&mut self, at: usize, outcome: LoginOutcome, now: Now) {
        let guess = &mut self.guesses[at];
        guess.settled = Some((outcome, now.instant));
        if guess.reaches_late {
            guess.reached = now.instant;
        }
        if matches!(outcome, LoginOutcome::Unsent | LoginOutcome::Ok) {
            guess.discount();
        }
        if outcome == LoginOutcome::Ok {
            let (who, account) = (guess.who.clone(), guess.account);
            let cleared = |guess: &&mut Guess| guess.who == who && guess.account == account && guess.failed();
            self.guesses.iter_mut().filter(cleared).for_each(Guess::discount);
            self.signed_in.push((who, account));
        }
    }

    /// What lifting a ban clears: settled guesses, on the side that the ban was on.
    fn clear(&mut self, key: &BanKey) {
        for guess in self.guesses.iter_mut().filter(|guess| guess.settled.is_some()) {
            match (key, &guess.who) {
                (BanKey::Net(net), Guesser::Client(client)) if net.contains(&client.net()) => guess.counts_for_guesser = false,
                (BanKey::Identity(name), Guesser::Identity(who)) if name == who => guess.counts_for_guesser = false,
                (BanKey::Account(account), _) if *account == account_key(guess.account) => guess.counts_for_account = false,
                _ => {}
            }
        }
    }

    fn live(&self, key: &BanKey, now: Now) -> Option<(Timestamp, bool)> {
        self.bans.get(key).copied().filter(|(until, _)| now.wall < *until)
    }

    fn note_budgets(&mut self, budgets: GuessBudgets) {
        self.largest.0 = self.largest.0.max(budgets.per_client.failures);
        self.largest.1 = self.largest.1.max(budgets.per_account.failures);
    }

    /// The ledger is not on disk: a restart begins every window anew.
    fn forget_guesses(&mut self, budgets: GuessBudgets) {
        self.guesses.clear();
        self.largest = (0, 0);
        self.note_budgets(budgets);
    }
}

impl Guess {
    fn failed(&self) -> bool {
        matches!(self.settled, Some((LoginOutcome::Failed, _)))
    }

    fn holds(&self, now: Now, within: Duration) -> bool {
        self.settled.is_none_or(|(_, at)| now.instant - at < within)
    }

    fn discount(&mut self) {
        self.counts_for_guesser = false;
        self.counts_for_account = false;
    }
}

fn random_budgets(dice: &mut Dice) -> GuessBudgets {
    GuessBudgets {
        per_client: GuessBudget { failures: dice.pick(&[1, 2, 3, 5]), within: PER_CLIENT },
        per_account: GuessBudget { failures: dice.pick(&[3, 5, 8]), within: PER_ACCOUNT },
    }
}

fn random_rules(dice: &mut Dice) -> BanRules {
    let nets = |text: &str| -> Nets { text.split_whitespace().map(|net| net.parse().expect("a net")).collect() };
    BanRules {
        first: Duration::from_secs(300),
        factor: 2,
        max: Duration::from_secs(3000),
        forget: Duration::from_secs(30 * 24 * 3600),
        never: nets(dice.pick(&["", "", "192.0.2.2/32", "2001:db8:0:1::/64"])),
        always: nets(dice.pick(&["", "", "", "2001:db8::2/128"])),
        answer: BanAnswer::Explain,
    }
}

fn ban_key(who: &Guesser) -> BanKey {
    match who {
        Guesser::Client(client) => BanKey::Net(client.net()),
        Guesser::Identity(name) => BanKey::Identity(name.clone()),
    }
}

fn account_key(named: &str) -> AccountKey {
    AccountKey::new(named).expect("a name")
}

fn client(address: &str) -> ClientAddr {
    ClientAddr::new(address.parse::<IpAddr>().expect("an address"), 64)
}

fn open(dir: &TempDir) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(dir.path()).expect("a store"))
}

fn wait(durable: Durable) -> Result<(), doorward::state::store::StoreError> {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(durable)
}
