use std::sync::Mutex;

use zeroize::Zeroizing;

use super::*;
use crate::clock::ManualClock;
use crate::policy::ban::GuessBudget;
use crate::state::store::embedded::EmbeddedStore;

const MINUTE: Duration = Duration::from_secs(60);

struct Bench {
    _dir: tempfile::TempDir,
    clock: ManualClock,
    ledger: Arc<GuessLedger>,
}

fn budgets(per_client: u32, per_account: u32) -> GuessBudgets {
    GuessBudgets {
        per_client: GuessBudget { failures: per_client, within: 10 * MINUTE },
        per_account: GuessBudget { failures: per_account, within: 60 * MINUTE },
    }
}

fn bench_with(budgets: GuessBudgets, most_keys: usize) -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::at("2026-05-01T12:00:00Z".parse().expect("a time"));
    let store = Arc::new(EmbeddedStore::open(dir.path()).expect("a store"));
    let successes = Arc::new(Successes::load(store, clock.now()).expect("loaded"));
    let ledger = Arc::new(GuessLedger::with_most_keys(budgets, successes, Clock::from(clock.clone()), most_keys));
    Bench { _dir: dir, clock, ledger }
}

fn bench() -> Bench {
    bench_with(budgets(5, 50), MOST_KEYS)
}

fn client(ip: &str) -> Guesser {
    Guesser::Client(ClientAddr::new(ip.parse().expect("an address"), 64).key)
}

fn attempt(account: &str, secret: Option<&str>) -> Attempt {
    let secret = secret.map(|secret| Zeroizing::new(secret.as_bytes().to_vec()));
    let exact = ExactAccount::new("portal.example.com", "form", account.as_bytes());
    Attempt { account: AccountKey(account.into()), exact, secret, rest: Some(Zeroizing::new([0; 32])) }
}

impl Bench {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn reserve(&self, who: &Guesser, account: &str) -> Result<GuessPermit, GuessRefusal> {
        self.ledger.reserve(who.clone(), &attempt(account, None), self.now())
    }

    fn guess(&self, who: &Guesser, account: &str, outcome: LoginOutcome) -> Option<(BanKey, u32)> {
        self.reserve(who, account).expect("room").settle(outcome, self.now()).ban
    }

    fn refused(&self, who: &Guesser, account: &str) -> Option<GuessRefusal> {
        self.ledger
            .clone()
            .reserve(who.clone(), &attempt(account, None), self.now())
            .map(|permit| permit.settle(LoginOutcome::Unsent, self.now()))
            .err()
    }
}

#[test]
fn check_then_count_race_parallel_guesses_reserve_before_they_are_forwarded() {
    let bench = bench();
    let passed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bench, passed) = (&bench, &passed);
            scope.spawn(move || {
                for turn in 0..25 {
                    if let Ok(permit) = bench.reserve(&client("192.0.2.1"), &format!("user{thread}-{turn}")) {
                        passed.lock().expect("whole").push(permit);
                    }
                }
            });
        }
    });
    let passed = passed.into_inner().expect("whole");
    assert_eq!(passed.len(), 5, "with not one of them settled yet");
    let bans: Vec<_> = passed.into_iter().filter_map(|permit| permit.settle(LoginOutcome::Failed, bench.now()).ban).collect();
    assert_eq!(bans, [(BanKey::Net("192.0.2.1/32".parse().expect("a net")), 5)], "the settle that spends the budget bans");
}

#[test]
fn the_window_is_half_open_and_slides() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..5 {
        bench.guess(&who, "ann", LoginOutcome::Failed);
        bench.clock.advance(MINUTE);
    }
    let refusal = bench.refused(&who, "ann").expect("spent");
    assert_eq!(refusal, GuessRefusal { scope: RefusedBy::Guesser, retry_after: 5 * MINUTE });
    bench.clock.advance(5 * MINUTE - Duration::from_nanos(1));
    assert!(bench.refused(&who, "ann").is_some());
    bench.clock.advance(Duration::from_nanos(1));
    bench.guess(&who, "ann", LoginOutcome::Failed);
    assert!(bench.refused(&who, "ann").is_some(), "one left, one came");
}

#[test]
fn a_slow_answer_keeps_its_place_until_the_window_after_it() {
    let bench = bench();
    let who = client("192.0.2.1");
    let slow: Vec<_> = (0..5).map(|_| bench.reserve(&who, "ann").expect("room")).collect();
    bench.clock.advance(11 * MINUTE);
    assert!(bench.refused(&who, "ann").is_some(), "all five may reach the application only now");
    slow.into_iter().for_each(|permit| drop(permit.settle(LoginOutcome::Failed, bench.now())));
    bench.clock.advance(10 * MINUTE - Duration::from_nanos(1));
    assert!(bench.refused(&who, "ann").is_some());
    bench.clock.advance(Duration::from_nanos(1));
    assert!(bench.refused(&who, "ann").is_none());
}

#[test]
fn a_thread_with_an_older_reading_of_the_clock_cannot_reopen_a_window() {
    let bench = bench_with(budgets(1, 50), MOST_KEYS);
    let who = client("192.0.2.1");
    let older = bench.now();
    bench.clock.advance(9 * MINUTE);
    bench.guess(&who, "ann", LoginOutcome::Failed);
    assert!(bench.ledger.reserve(who.clone(), &attempt("ann", None), older).is_err());
    bench.clock.advance(10 * MINUTE);
    let permit = bench.ledger.reserve(who.clone(), &attempt("ann", None), bench.now()).expect("the window is over");
    permit.settle(LoginOutcome::Failed, older);
    bench.clock.advance(5 * MINUTE);
    assert!(bench.refused(&who, "ann").is_some(), "settled with an older reading, it still counts from its reservation");
}

#[test]
fn ban_answers_feed_the_ban_own_refusals_never_count() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..5 {
        bench.guess(&who, "ann", LoginOutcome::Failed);
    }
    for _ in 0..100 {
        bench.clock.advance(MINUTE / 20);
        assert!(bench.refused(&who, "ann").is_some());
    }
    bench.clock.advance(5 * MINUTE);
    assert_eq!(bench.ledger.peek(&who, bench.now()), (0, 0, 5));
}

#[test]
fn success_on_the_attackers_own_account_clears_only_that_account() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..3 {
        bench.guess(&who, "victim", LoginOutcome::Failed);
    }
    bench.guess(&who, "mallory", LoginOutcome::Failed);
    assert_eq!(bench.guess(&who, "mallory", LoginOutcome::Ok), None);
    assert_eq!(bench.ledger.peek(&who, bench.now()), (3, 0, 5));
    bench.guess(&who, "victim", LoginOutcome::Failed);
    assert!(bench.guess(&who, "victim", LoginOutcome::Failed).is_some());
}

#[test]
fn a_success_clears_that_clients_failures_in_the_accounts_budget_and_nobody_elses() {
    let bench = bench_with(budgets(5, 4), MOST_KEYS);
    bench.guess(&client("192.0.2.2"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.2"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.1"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.1"), "ann", LoginOutcome::Ok);
    bench.guess(&client("192.0.2.3"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.3"), "ann", LoginOutcome::Failed);
    let refusal = bench.refused(&client("192.0.2.3"), "ann").expect("spent");
    assert_eq!(refusal.scope, RefusedBy::Account);
}

#[test]
fn an_outage_of_the_application_keeps_guesses_spent_and_bans_nobody() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..5 {
        assert_eq!(bench.guess(&who, "ann", LoginOutcome::Fault), None);
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (0, 5, 5));
    assert!(bench.refused(&who, "ann").is_some());
    bench.clock.advance(10 * MINUTE);
    for _ in 0..4 {
        assert_eq!(bench.guess(&who, "ann", LoginOutcome::Failed), None);
    }
    assert_eq!(bench.guess(&who, "ann", LoginOutcome::Fault), None, "four failures and an outage are no ban");
}

#[test]
fn a_guess_that_never_reached_the_application_is_given_back() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..20 {
        bench.guess(&who, "ann", LoginOutcome::Unsent);
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (0, 0, 5));
    assert!(bench.ledger.is_empty(), "nothing is kept of it");
}

#[test]
fn attacker_hangs_up_before_the_answer_and_it_counts_and_bans() {
    let bench = bench();
    let who = client("192.0.2.1");
    let heard = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..5 {
        let heard = Arc::clone(&heard);
        let permit = bench.reserve(&who, "ann").expect("room");
        drop(permit.on_drop(|| true, move |settled, _| heard.lock().expect("whole").push(settled.ban)));
    }
    let ban = Some((BanKey::Net("192.0.2.1/32".parse().expect("a net")), 5));
    assert_eq!(*heard.lock().expect("whole"), [None, None, None, None, ban]);
    let heard = Arc::new(Mutex::new(0));
    let again = Arc::clone(&heard);
    let permit = bench
        .reserve(&client("192.0.2.2"), "ann")
        .expect("room")
        .on_drop(|| true, move |_, _| *again.lock().expect("whole") += 1);
    permit.settle(LoginOutcome::Failed, bench.now());
    assert_eq!(*heard.lock().expect("whole"), 0, "a settled permit is not dropped");
}

#[test]
fn an_attempt_cut_off_before_it_was_sent_is_given_back() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..6 {
        let permit = bench.reserve(&who, "ann").expect("room");
        drop(permit.on_drop(
            || false,
            |settled, outcome| {
                assert_eq!((settled.ban, outcome), (None, LoginOutcome::Unsent));
            },
        ));
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (0, 0, 5));
}

/// One account by its key; what an application tells apart.
fn alike() -> [ExactAccount; 3] {
    [("a.example.com", "form", "ann"), ("b.example.com", "form", "ann"), ("a.example.com", "staff", "ann")]
        .map(|(host, rule, name)| ExactAccount::new(host, rule, name.as_bytes()))
}

#[test]
fn trap_a_success_on_an_account_that_is_only_alike_forgives_nothing() {
    let bench = bench_with(budgets(50, 4), MOST_KEYS);
    let who = client("192.0.2.1");
    let [guessed, rest @ ..] = alike();
    let try_at = |exact: ExactAccount, outcome| {
        let permit = bench.ledger.reserve(who.clone(), &Attempt { exact, ..attempt("ann", None) }, bench.now())?;
        Ok::<_, GuessRefusal>(permit.settle(outcome, bench.now()))
    };
    for exact in rest {
        try_at(guessed, LoginOutcome::Failed).expect("room");
        try_at(exact, LoginOutcome::Ok).expect("room");
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (2, 0, 50));
    for _ in 0..2 {
        try_at(guessed, LoginOutcome::Failed).expect("room");
    }
    assert!(try_at(guessed, LoginOutcome::Ok).is_err(), "all count for one account, and he never signed in to this one");
    try_at(rest[0], LoginOutcome::Ok).expect("he signed in to that one");
}

#[test]
fn trap_one_password_is_a_guess_at_each_account_that_is_only_alike() {
    let bench = bench();
    let who = client("192.0.2.1");
    for exact in alike() {
        let guess = Attempt { exact, ..attempt("ann", Some("spring")) };
        bench.ledger.reserve(who.clone(), &guess, bench.now()).expect("room").settle(LoginOutcome::Failed, bench.now());
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (3, 0, 5));
}

#[test]
fn trap_second_factor_behind_a_known_password_is_counted() {
    let bench = bench();
    let who = client("192.0.2.1");
    let mut passed = 0;
    for code in 0..100u8 {
        let guess = Attempt { rest: Some(Zeroizing::new([code; 32])), ..attempt("ann", Some("stolen")) };
        let Ok(permit) = bench.ledger.reserve(who.clone(), &guess, bench.now()) else { break };
        passed += 1;
        if permit.settle(LoginOutcome::Failed, bench.now()).ban.is_some() {
            break;
        }
    }
    assert_eq!(passed, 5 + 4 * 3, "five guesses, and three variants of each but the last");
}

#[test]
fn a_repeat_of_a_failed_guess_passes_uncounted() {
    let bench = bench();
    let who = client("192.0.2.1");
    let guess = |account: &str, secret: &str, outcome| {
        let permit = bench.ledger.reserve(who.clone(), &attempt(account, Some(secret)), bench.now())?;
        Ok::<_, GuessRefusal>(permit.settle(outcome, bench.now()).ban)
    };
    assert_eq!(guess("ann", "old", LoginOutcome::Failed), Ok(None));
    for _ in 0..20 {
        assert_eq!(guess("ann", "old", LoginOutcome::Failed), Ok(None), "a mail client with last month's password");
    }
    assert_eq!(bench.ledger.peek(&who, bench.now()), (1, 0, 5));
    guess("bob", "old", LoginOutcome::Failed).expect("another account is another guess");
    guess("ann", "b", LoginOutcome::Failed).expect("room");
    guess("ann", "c", LoginOutcome::Fault).expect("room");
    assert_eq!(bench.ledger.peek(&who, bench.now()), (3, 1, 5));
    guess("ann", "c", LoginOutcome::Failed).expect("a fault taught nobody anything: counted");
    assert!(guess("ann", "d", LoginOutcome::Failed).is_err());
    assert_eq!(guess("ann", "old", LoginOutcome::Failed), Ok(None), "nothing new is learnt from it, spent or not");
    guess("ann", "old", LoginOutcome::Ok).expect("the password was changed meanwhile");
    assert_eq!(bench.ledger.peek(&who, bench.now()), (1, 1, 5), "and that clears as any success does");
    let other = bench.ledger.reserve(client("192.0.2.2"), &attempt("bob", Some("old")), bench.now()).expect("room");
    other.settle(LoginOutcome::Failed, bench.now());
    assert_eq!(bench.ledger.peek(&client("192.0.2.2"), bench.now()), (1, 0, 5), "somebody else's repeat is a guess");
}

#[test]
fn a_repeat_in_flight_is_counted() {
    let bench = bench();
    let who = client("192.0.2.1");
    let reserve = || bench.ledger.reserve(who.clone(), &attempt("ann", Some("same")), bench.now());
    let flying: Vec<_> = (0..5).map(|_| reserve().expect("room")).collect();
    assert!(reserve().is_err(), "not one of them failed yet");
    flying.into_iter().for_each(|permit| drop(permit.settle(LoginOutcome::Failed, bench.now())));
    assert!(reserve().is_ok());
}

#[test]
fn ten_addresses_lock_nobody_out_of_an_account_he_signed_in_to() {
    let bench = bench_with(budgets(5, 10), MOST_KEYS);
    let ann = client("192.0.2.1");
    bench.guess(&ann, "ann", LoginOutcome::Ok);
    for last in 0..10 {
        assert_eq!(bench.guess(&client(&format!("198.51.100.{last}")), "ann", LoginOutcome::Failed), None, "bans nobody");
    }
    let refusal = bench.refused(&client("198.51.100.77"), "ann").expect("spent");
    assert_eq!(refusal, GuessRefusal { scope: RefusedBy::Account, retry_after: 10 * MINUTE }, "no longer than one's own");
    assert!(bench.refused(&client("198.51.100.77"), "bob").is_none(), "for that account only");
    for _ in 0..4 {
        assert_eq!(bench.guess(&ann, "ann", LoginOutcome::Failed), None);
    }
    assert!(bench.guess(&ann, "ann", LoginOutcome::Failed).is_some(), "her own budget holds her still");
    bench.clock.advance(50 * MINUTE);
    assert!(bench.refused(&client("198.51.100.77"), "ann").is_some());
    bench.clock.advance(10 * MINUTE);
    assert!(bench.refused(&client("198.51.100.77"), "ann").is_none(), "her failures were not counted in it");
}

#[test]
fn reservations_are_for_both_or_for_neither() {
    let bench = bench_with(budgets(5, 1), MOST_KEYS);
    bench.guess(&client("192.0.2.2"), "ann", LoginOutcome::Failed);
    for _ in 0..20 {
        assert!(bench.refused(&client("192.0.2.1"), "ann").is_some());
    }
    assert_eq!(bench.ledger.peek(&client("192.0.2.1"), bench.now()), (0, 0, 5));
}

#[test]
fn identities_answer_for_themselves() {
    let bench = bench();
    let identity = Guesser::Identity("acme:sync".into());
    for _ in 0..4 {
        bench.guess(&identity, "ann", LoginOutcome::Failed);
    }
    assert_eq!(bench.guess(&identity, "ann", LoginOutcome::Failed), Some((BanKey::Identity("acme:sync".into()), 5)));
    assert!(bench.refused(&Guesser::Identity("acme:other".into()), "ann").is_none());
    assert!(bench.refused(&client("192.0.2.1"), "ann").is_none());
}

#[test]
fn clearing_forgives_what_was_settled_and_keeps_what_is_under_way() {
    let bench = bench();
    let (ann, bob, identity) = (client("192.0.2.1"), client("192.0.3.1"), Guesser::Identity("acme:sync".into()));
    for who in [&ann, &bob, &identity] {
        bench.guess(who, "shared", LoginOutcome::Failed);
        bench.guess(who, "shared", LoginOutcome::Fault);
    }
    let flying = bench.reserve(&ann, "shared").expect("room");
    assert_eq!(bench.ledger.clear(&BanKey::Net("192.0.2.0/24".parse().expect("a net"))), 2);
    assert_eq!(bench.ledger.peek(&ann, bench.now()), (0, 1, 5));
    assert_eq!(bench.ledger.peek(&bob, bench.now()), (1, 1, 5));
    assert_eq!(bench.ledger.clear(&BanKey::Identity("acme:sync".into())), 2);
    assert_eq!(bench.ledger.peek(&identity, bench.now()), (0, 0, 5));
    flying.settle(LoginOutcome::Failed, bench.now());
    assert_eq!(bench.ledger.peek(&ann, bench.now()), (1, 0, 5));
}

#[test]
fn clearing_an_account_frees_its_budget() {
    let bench = bench_with(budgets(5, 2), MOST_KEYS);
    bench.guess(&client("192.0.2.1"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.2"), "ann", LoginOutcome::Failed);
    assert!(bench.refused(&client("192.0.2.3"), "ann").is_some());
    assert_eq!(bench.ledger.clear(&BanKey::Account(AccountKey("ann".into()))), 2);
    assert!(bench.refused(&client("192.0.2.3"), "ann").is_none());
    assert_eq!(bench.ledger.clear(&BanKey::Account(AccountKey("ann".into()))), 0);
}

#[test]
fn what_an_account_has_left_is_told_to_whom_its_budget_holds() {
    let bench = bench_with(budgets(5, 3), MOST_KEYS);
    let (owner, ann) = (client("192.0.2.9"), AccountKey("ann".into()));
    bench.guess(&owner, "ann", LoginOutcome::Ok);
    bench.guess(&client("192.0.2.1"), "ann", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.2"), "ann", LoginOutcome::Fault);
    bench.guess(&client("192.0.2.2"), "bob", LoginOutcome::Failed);
    let flying = bench.reserve(&client("192.0.2.3"), "ann").expect("room");
    let stranger = client("192.0.2.4");
    assert_eq!(bench.ledger.peek_account(&stranger, &ann, &attempt("ann", None).exact, bench.now()), Some((1, 2, 3)));
    assert!(bench.refused(&stranger, "ann").is_some());
    assert_eq!(bench.ledger.peek_account(&owner, &ann, &attempt("ann", None).exact, bench.now()), None);
    assert!(bench.refused(&owner, "ann").is_none());
    flying.settle(LoginOutcome::Unsent, bench.now());
    bench.clock.advance(61 * MINUTE);
    assert_eq!(bench.ledger.peek_account(&stranger, &ann, &attempt("ann", None).exact, bench.now()), Some((0, 0, 3)));
}

#[test]
fn a_reload_changes_the_budget_and_keeps_the_entries() {
    let bench = bench();
    let who = client("192.0.2.1");
    for _ in 0..3 {
        bench.guess(&who, "ann", LoginOutcome::Failed);
    }
    bench.ledger.reconcile(budgets(3, 50));
    assert_eq!(bench.refused(&who, "ann").map(|refusal| refusal.retry_after), Some(10 * MINUTE));
    bench.ledger.reconcile(budgets(0, 50));
    assert!(bench.refused(&client("192.0.2.9"), "ann").is_some(), "a budget of none lets none pass");
    bench.ledger.reconcile(budgets(4, 50));
    assert!(bench.guess(&who, "ann", LoginOutcome::Failed).is_some());
}

#[test]
fn an_ipv6_prefix_is_one_guesser() {
    let bench = bench();
    for last in 0..5 {
        bench.guess(&client(&format!("2001:db8::{last}")), "ann", LoginOutcome::Failed);
    }
    assert!(bench.refused(&client("2001:db8::ffff"), "ann").is_some());
    assert!(bench.refused(&client("2001:db8:0:1::1"), "ann").is_none());
}

#[test]
fn sweeping_frees_what_left_its_window() {
    let bench = bench();
    bench.guess(&client("192.0.2.1"), "ann", LoginOutcome::Failed);
    assert_eq!(bench.ledger.len(), 2);
    bench.clock.advance(10 * MINUTE);
    bench.ledger.sweep(bench.now());
    assert_eq!(bench.ledger.len(), 1, "the account's window is longer");
    bench.clock.advance(50 * MINUTE);
    bench.ledger.sweep(bench.now());
    assert!(bench.ledger.is_empty());
}

#[test]
fn a_full_ledger_counts_neighbours_together_and_forgets_nobody() {
    let bench = bench_with(budgets(5, 1000), 2);
    let first = client("192.0.2.1");
    bench.guess(&first, "a", LoginOutcome::Failed);
    bench.guess(&client("192.0.2.2"), "b", LoginOutcome::Failed);
    // Full: neighbours share from here on, but a ban needs failures of one's own.
    let folded = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"].map(client);
    for who in &folded {
        assert_eq!(bench.guess(who, "c", LoginOutcome::Failed), None);
    }
    assert!(bench.ledger.overflow_count() > 0);
    assert!(bench.refused(&client("198.51.100.200"), "d").is_some(), "fails closed for the neighbourhood");
    assert!(bench.refused(&Guesser::Identity("acme:sync".into()), "d").is_none(), "a proven caller counts alone");
    assert_eq!(bench.ledger.peek(&first, bench.now()).0, 1, "who was there before is counted as before");
    // Room again: a newcomer has his own budget, who was folded keeps his count until it expires.
    bench.ledger.clear(&BanKey::Net("192.0.2.0/24".parse().expect("a net")));
    assert!(bench.refused(&client("198.51.100.200"), "d").is_none());
    assert!(bench.refused(&folded[0], "d").is_some());
    bench.ledger.clear(&BanKey::Net("198.51.100.1/32".parse().expect("a net")));
    assert_eq!(bench.ledger.peek(&folded[0], bench.now()), (0, 0, 5));
    bench.clock.advance(60 * MINUTE);
    bench.ledger.sweep(bench.now());
    assert!(bench.ledger.is_empty());
}

#[test]
fn memory_is_bounded_whatever_strangers_do() {
    let bench = bench_with(budgets(5, 1000), 100);
    for third in 0..100_u8 {
        for last in 0..20_u8 {
            if let Ok(permit) = bench.reserve(&client(&format!("10.{last}.{third}.1")), &format!("user{third}-{last}")) {
                permit.settle(LoginOutcome::Failed, bench.now());
            }
        }
    }
    assert!(bench.ledger.guessers.len() <= 100 + 2000 && bench.ledger.overflow_count() > 0);
}

#[test]
fn a_client_known_on_an_account_is_counted_alone_even_when_strangers_filled_the_table() {
    let bench = bench_with(budgets(2, 50), 4);
    let (known, neighbour) = (client("192.0.2.1"), client("192.0.2.2"));
    bench.guess(&known, "anna", LoginOutcome::Ok);
    for at in 1..=4 {
        bench.guess(&client(&format!("198.51.{at}.1")), "x", LoginOutcome::Failed);
    }
    for _ in 0..2 {
        bench.guess(&neighbour, "anna", LoginOutcome::Failed);
    }
    assert!(bench.refused(&client("192.0.2.3"), "anna").is_some(), "strangers share what their neighbours spent");
    assert!(bench.refused(&known, "anna").is_none());
    for _ in 0..2 {
        bench.guess(&known, "anna", LoginOutcome::Failed);
    }
    assert!(bench.refused(&known, "anna").is_some(), "and has no more than everybody");
    assert!(bench.refused(&known, "bert").is_some(), "on no account");
}
