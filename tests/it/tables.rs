//! Promise: no flood of strangers flushes what is live in a bounded table, and whoever was known before is still let in.
//! The ten million of `just attack tables` in small.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use doorward::clock::{Clock, ManualClock};
use doorward::net::ClientAddr;
use doorward::policy::LimitId;
use doorward::policy::ban::{GuessBudget, GuessBudgets};
use doorward::policy::limit::{LimitKey, LimitMode, LimitSpec, Quota};
use doorward::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};
use doorward::state::accounts::Successes;
use doorward::state::guesses::{GuessLedger, Guesser};
use doorward::state::limits::{Charges, LimitSubject, Limits};
use doorward::state::store::embedded::EmbeddedStore;

/// More than either table has keys for.
const STRANGERS: u64 = 280_000;

fn client(number: u64) -> ClientAddr {
    let net = 0x2000_0000_0000_0000 | (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3);
    ClientAddr::new(IpAddr::V6(Ipv6Addr::from(u128::from(net) << 64 | 1)), 64)
}

fn clock() -> ManualClock {
    ManualClock::at("2026-05-01T12:00:00Z".parse().unwrap())
}

#[test]
fn trap_limit_table_exhaustion_holds_the_spent_and_admits_the_known() {
    let quota = Quota { requests: 60, per: Duration::from_secs(60), burst: 3 };
    let spec = LimitSpec { name: "per-client".into(), key: vec![LimitKey::Client], quota, mode: LimitMode::Enforce };
    let specs = [spec];
    let (limits, now) = (Limits::new(&specs), clock().now());
    let charge = |client: ClientAddr| {
        let subject = LimitSubject { client: Some(client.key), ..LimitSubject::default() };
        limits.charge(&specs, &[LimitId(0)], &subject, &mut Charges::default(), now).is_ok()
    };
    let (known, spent) = (client(STRANGERS + 1), client(STRANGERS + 2));
    assert!(charge(known));
    while charge(spent) {}
    for number in 0..STRANGERS {
        charge(client(number));
    }
    assert!(limits.overflow_count() > 0 && limits.len() <= 262_144 + 16_384);
    assert!(charge(known) && !charge(spent));
}

#[test]
fn trap_guess_table_exhaustion_holds_the_spent_and_admits_the_known() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let budget = |failures| GuessBudget { failures, within: Duration::from_secs(600) };
    let store = Arc::new(EmbeddedStore::open(folder.path()).unwrap());
    let successes = Arc::new(Successes::load(store, clock.now()).unwrap());
    let budgets = GuessBudgets { per_client: budget(2), per_account: budget(50) };
    let ledger = Arc::new(GuessLedger::new(budgets, successes, Clock::from(clock.clone())));
    let guess = |who: ClientAddr, account: &str, outcome| {
        let exact = ExactAccount::new("localhost", "form", account.as_bytes());
        let attempt = Attempt { account: AccountKey::new(account).unwrap(), exact, secret: None, rest: None };
        ledger.reserve(Guesser::Client(who.key), &attempt, clock.now()).map(|permit| permit.settle(outcome, clock.now())).is_ok()
    };
    let (known, spent) = (client(STRANGERS + 1), client(STRANGERS + 2));
    assert!(guess(known, "anna", LoginOutcome::Ok));
    while guess(spent, "bert", LoginOutcome::Failed) {}
    for number in 0..STRANGERS {
        guess(client(number), &format!("user-{number}"), LoginOutcome::Failed);
    }
    assert!(ledger.overflow_count() > 0 && ledger.len() <= 2 * (262_144 + 65_536));
    assert!(guess(known, "anna", LoginOutcome::Ok) && !guess(spent, "bert", LoginOutcome::Failed));
}
