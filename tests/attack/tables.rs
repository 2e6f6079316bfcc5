//! Ten million distinct clients through limits, guesses and bans, in this process, with its memory read from the kernel.

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use doorward::clock::{Clock, ManualClock, Now};
use doorward::net::{ClientAddr, Nets};
use doorward::policy::LimitId;
use doorward::policy::ban::{BanAnswer, BanKey, BanRules, GuessBudget, GuessBudgets};
use doorward::policy::limit::{LimitKey, LimitMode, LimitSpec, Quota};
use doorward::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};
use doorward::state::accounts::Successes;
use doorward::state::bans::BanTable;
use doorward::state::guesses::{GuessLedger, Guesser};
use doorward::state::limits::{Charges, LimitSubject, Limits};
use doorward::state::store::{Change, Durable, Rows, Store, StoreError, Table};

use super::harness::{MIB, memory_of};
use super::report::Report;

const CLIENTS: u64 = 10_000_000;
/// What ARCHITECTURE.md states for each table when it is full.
const LIMITS_MIB: u64 = 64;
const GUESSES_MIB: u64 = 288;
const BANS_MIB: u64 = 512;
const SUCCESSES_MIB: u64 = 512;
const SECOND: Duration = Duration::from_secs(1);

/// The argument by which this program plays one table alone: what one frees would hide what the next takes.
pub const TABLE: &str = "--table";

pub fn play(report: &mut Report) {
    for table in ["limits", "guesses", "bans", "successes"] {
        let program = std::env::current_exe().expect("this program");
        let output = Command::new(program).args([TABLE, table]).output().expect("it runs again");
        String::from_utf8_lossy(&output.stdout).lines().for_each(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            if let [case, expected, seen, held] = columns[..] {
                report.row(case, expected, seen, held == "true");
            }
        });
    }
}

pub fn alone(table: &str) {
    let mut report = Lines;
    match table {
        "limits" => limits(&mut report),
        "guesses" => guesses(&mut report),
        "bans" => bans(&mut report),
        _ => successes(&mut report),
    }
}

/// The rows on their way to the process that prints them.
struct Lines;

impl Lines {
    fn row(&mut self, case: &str, expected: &str, seen: impl std::fmt::Display, held: bool) {
        println!("{case}\t{expected}\t{seen}\t{held}");
    }
}

/// Nothing is kept: what is measured is memory, and a disk would be measured instead.
struct NoDisk;

impl Store for NoDisk {
    fn load(&self, _: Table) -> Result<Rows, StoreError> {
        Ok(Vec::new())
    }

    fn write(&self, _: Vec<Change>) -> Durable {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) {}

    fn describe(&self) -> String {
        "no disk".to_owned()
    }
}

/// Half of the clients stand close together (/48s full of /64s), half are spread over all of 2000::/3.
fn client(number: u64) -> ClientAddr {
    let net = if number.is_multiple_of(2) {
        0x2001_0db8_0000_0000 + number
    } else {
        0x2000_0000_0000_0000 | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3
    };
    ClientAddr::new(IpAddr::V6(Ipv6Addr::from(u128::from(net) << 64 | 1)), 64)
}

/// Apart from every client above.
fn honest(last: u16) -> ClientAddr {
    ClientAddr::new(IpAddr::V6(Ipv6Addr::new(0x4000, 1, 1, last, 0, 0, 0, 1)), 64)
}

fn clock() -> ManualClock {
    ManualClock::at("2026-05-01T12:00:00Z".parse().expect("a time"))
}

fn limits(report: &mut Lines) {
    let quota = Quota { requests: 120, per: 60 * SECOND, burst: 40 };
    let spec = LimitSpec { name: "per-client".into(), key: vec![LimitKey::Client], quota, mode: LimitMode::Enforce };
    let specs = [spec];
    let (limits, clock) = (Limits::new(&specs), clock());
    let charge = |client: ClientAddr, now: Now| {
        let subject = LimitSubject { client: Some(client.key), ..LimitSubject::default() };
        limits.charge(&specs, &[LimitId(0)], &subject, &mut Charges::default(), now).is_ok()
    };
    let before = memory_of("self");
    let (known, spent) = (honest(1), honest(2));
    while charge(spent, clock.now()) {}
    let mut known_refused = 0;
    for number in 0..CLIENTS {
        charge(client(number), clock.now());
        // Two seconds pass over all, as fast as a flood could be.
        if number % (CLIENTS / 20) == 0 {
            clock.advance(SECOND / 10);
            known_refused += usize::from(!charge(known, clock.now()));
        }
    }
    let grown = memory_of("self").saturating_sub(before);
    within(report, "limits: 10,000,000 clients, one limit", grown, LIMITS_MIB);
    let held = limits.len();
    report.row("limits: buckets held", "<= 262,144 + 16,384", held, held <= 262_144 + 16_384);
    report.row("limits: a known honest client on the way", "0 of 20 refused", known_refused, known_refused == 0);
    let passed: usize = (0..8).map(|_| usize::from(charge(spent, clock.now()))).sum();
    report.row("limits: who had spent his budget got back", "4 in two seconds", passed, passed == 4);
    report.row("limits: overflow is counted", "> 0", limits.overflow_count(), limits.overflow_count() > 0);
}

fn guesses(report: &mut Lines) {
    let budgets = GuessBudgets {
        per_client: GuessBudget { failures: 5, within: 600 * SECOND },
        per_account: GuessBudget { failures: 50, within: 3600 * SECOND },
    };
    let clock = clock();
    let before = memory_of("self");
    let successes = Arc::new(Successes::load(Arc::new(NoDisk), clock.now()).expect("an empty book"));
    let ledger = Arc::new(GuessLedger::new(budgets, successes, Clock::from(clock.clone())));
    let guess = |who: ClientAddr, account: &str, outcome| {
        let exact = ExactAccount::new("localhost", "form", account.as_bytes());
        let attempt = Attempt { account: AccountKey::new(account).expect("a name"), exact, secret: None, rest: None };
        ledger.reserve(Guesser::Client(who.key), &attempt, clock.now()).map(|permit| permit.settle(outcome, clock.now())).is_ok()
    };
    let (known, spent) = (honest(1), honest(2));
    guess(known, "anna", LoginOutcome::Ok);
    while guess(spent, "bert", LoginOutcome::Failed) {}
    for number in 0..CLIENTS {
        guess(client(number), &format!("user-{number}"), LoginOutcome::Failed);
    }
    let grown = memory_of("self").saturating_sub(before);
    within(report, "guesses: 10,000,000 clients, as many accounts", grown, GUESSES_MIB);
    let held = ledger.len();
    let most = 2 * (262_144 + 65_536) + 2;
    report.row("guesses: keys held", "<= 655,362", held, held <= most);
    let still = guess(spent, "bert", LoginOutcome::Failed);
    report.row("guesses: who had spent his budget", "refused", if still { "let in" } else { "refused" }, !still);
    let admitted = guess(known, "anna", LoginOutcome::Ok);
    report.row("guesses: a known honest client", "admitted", if admitted { "admitted" } else { "refused" }, admitted);
    report.row("guesses: overflow is counted", "> 0", ledger.overflow_count(), ledger.overflow_count() > 0);
}

fn bans(report: &mut Lines) {
    let hour = 3600 * SECOND;
    let rules = ban_rules(hour);
    let clock = clock();
    let before = memory_of("self");
    let bans = BanTable::load(Arc::new(NoDisk), &rules, clock.now()).expect("an empty table");
    let early: Vec<ClientAddr> = (100..200).map(honest).collect();
    for client in &early {
        bans.punish(BanKey::Net(client.key.net()), 5, clock.now());
    }
    let mut made = 0_u64;
    for number in 0..CLIENTS {
        made += u64::from(bans.punish(BanKey::Net(client(number).key.net()), 5, clock.now()).is_some());
    }
    let grown = memory_of("self").saturating_sub(before);
    within(report, "bans: 10,000,000 clients", grown, BANS_MIB);
    let held = bans.len();
    report.row("bans: held, of all that were made", "<= 1,200,000", format!("{held} of {made}"), held <= 1_200_000);
    let live = early.iter().filter(|client| bans.of_client(client, clock.now()).is_some()).count();
    report.row("bans: those that lived before", "100 of 100 hold", live, live == 100);
    let known = bans.of_client(&honest(1), clock.now()).is_none();
    report.row("bans: a client that nobody banned", "admitted", if known { "admitted" } else { "banned" }, known);
    report.row("bans: overflow is counted", "> 0", bans.overflow_count(), bans.overflow_count() > 0);
}

/// Only who can sign in gets in here, so three times what fits will do.
fn successes(report: &mut Lines) {
    let clock = clock();
    let before = memory_of("self");
    let successes = Successes::load(Arc::new(NoDisk), clock.now()).expect("an empty book");
    for number in 0..3_000_000 {
        let account = ExactAccount::new("portal.example.com", "form", format!("user-{number}").as_bytes());
        if number % 1000 == 0 {
            clock.advance(SECOND);
        }
        successes.record(&Guesser::Client(client(number).key), &account, clock.now());
    }
    let grown = memory_of("self").saturating_sub(before);
    within(report, "successes: 3,000,000 pairs of client and account", grown, SUCCESSES_MIB);
    let held = successes.len();
    report.row("successes: pairs held", "<= 1,000,000", held, held <= 1_000_000);
}

pub fn ban_rules(first: Duration) -> BanRules {
    let day = 24 * 3600 * SECOND;
    let answer = BanAnswer::default();
    BanRules { first, factor: 4, max: 7 * day, forget: 30 * day, never: Nets::default(), always: Nets::default(), answer }
}

fn within(report: &mut Lines, case: &str, grown: u64, most: u64) {
    let grown = grown / MIB;
    report.row(case, &format!("<= {most} MiB"), format!("{grown} MiB"), grown <= most);
}
