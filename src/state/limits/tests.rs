//! What limits promise, held against plain models.

use std::collections::HashMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::net::ClientAddr;

fn at(nanos: u64) -> Now {
    Now { instant: Duration::from_nanos(nanos), wall: Timestamp::UNIX_EPOCH }
}

fn client(ip: &str) -> LimitSubject<'static> {
    LimitSubject { client: Some(ClientAddr::new(ip.parse().unwrap(), 64).key), ..LimitSubject::default() }
}

fn nth_client(n: u32) -> LimitSubject<'static> {
    client(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string())
}

fn quota(requests: u32, seconds: u64, burst: u32) -> Quota {
    Quota { requests, per: Duration::from_secs(seconds), burst }
}

fn spec(name: &str, key: &[LimitKey], quota: Quota) -> LimitSpec {
    LimitSpec { name: name.into(), key: key.to_vec(), quota, mode: LimitMode::Enforce }
}

fn shadow(spec: LimitSpec) -> LimitSpec {
    LimitSpec { mode: LimitMode::Shadow, ..spec }
}

const FIRST: &[LimitId] = &[LimitId(0)];
const BOTH: &[LimitId] = &[LimitId(0), LimitId(1)];

/// What a policy with the limits of now would list.
fn specs(limits: &Limits) -> Vec<LimitSpec> {
    limits.set.load().iter().map(|limiter| limiter.spec.clone()).collect()
}

fn charge(
    limits: &Limits,
    ids: &[LimitId],
    subject: &LimitSubject<'_>,
    charges: &mut Charges,
    now: Now,
) -> Result<Shadowed, Denial> {
    limits.charge(&specs(limits), ids, subject, charges, now)
}

fn peek(limits: &Limits, ids: &[LimitId], subject: &LimitSubject<'_>, now: Now) -> Vec<LimitView> {
    limits.peek(&specs(limits), ids, subject, now)
}

fn passes(limits: &Limits, ids: &[LimitId], subject: &LimitSubject<'_>, now: Now) -> bool {
    charge(limits, ids, subject, &mut Charges::default(), now).is_ok()
}

fn remaining(limits: &Limits, ids: &[LimitId], subject: &LimitSubject<'_>, now: Now) -> Vec<u32> {
    peek(limits, ids, subject, now).iter().map(|view| view.remaining).collect()
}

/// A token bucket, counted in the nanoseconds that its tokens weigh.
struct Model {
    level: u64,
    weight: u64,
    size: u64,
    last: u64,
}

impl Model {
    fn new(quota: &Quota) -> Self {
        let weight = quota.interval().as_nanos() as u64;
        Self { level: weight * u64::from(quota.burst), weight, size: weight * u64::from(quota.burst), last: 0 }
    }

    fn take(&mut self, now: u64) -> bool {
        self.level = (self.level + (now - self.last)).min(self.size);
        self.last = now;
        let pass = self.level >= self.weight;
        if pass {
            self.level -= self.weight;
        }
        pass
    }
}

/// No interval saw more than the burst and what its length replenishes.
fn within_budget(passed: &[u64], quota: &Quota) -> bool {
    let weight = quota.interval().as_nanos() as u64;
    passed.iter().enumerate().all(|(first, start)| {
        passed[first..].iter().enumerate().all(|(more, end)| more as u64 <= u64::from(quota.burst) - 1 + (end - start) / weight)
    })
}

/// A small generator with a seed, so that every run of a seed is the same.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[test]
fn a_refusal_tells_the_limit_its_state_and_how_long_to_wait() {
    let limits = Limits::new(&[spec("per-client", &[LimitKey::Client], quota(120, 60, 40))]);
    let subject = client("203.0.113.7");
    for _ in 0..40 {
        assert!(passes(&limits, FIRST, &subject, at(0)));
    }
    let denial = charge(&limits, FIRST, &subject, &mut Charges::default(), at(100_000_000)).unwrap_err();
    assert_eq!(denial.reason, Reason::RateLimited);
    assert_eq!(denial.retry_after, Some(Duration::from_millis(400)));
    let state = denial.limit.unwrap();
    assert_eq!((state.quota, state.window, state.remaining, state.reset), (40, 20, 0, 1));
    assert_eq!(&*state.name, "per-client");
    assert!(passes(&limits, FIRST, &client("203.0.113.8"), at(0)), "a neighbour is not refused");
    assert!(passes(&limits, FIRST, &subject, at(500_000_000)), "after waiting it passes");
}

#[test]
fn limits_named_together_are_charged_all_or_not_at_all() {
    let limits = Limits::new(&[
        spec("private", &[LimitKey::Client], quota(10, 10, 10)),
        spec("shared", &[LimitKey::Route], quota(1, 10, 1)),
    ]);
    let subject = LimitSubject { route_label: Some("portal/"), ..client("203.0.113.7") };
    let mut charges = Charges::default();
    assert!(charge(&limits, BOTH, &subject, &mut charges, at(0)).is_ok());
    assert_eq!(remaining(&limits, BOTH, &subject, at(0)), [9, 0]);
    let denial = charge(&limits, BOTH, &subject, &mut Charges::default(), at(0)).unwrap_err();
    assert_eq!(&*denial.limit.unwrap().name, "shared");
    assert_eq!(remaining(&limits, BOTH, &subject, at(0)), [9, 0], "the private budget is whole again");
}

#[test]
fn a_later_refusal_gives_back_what_an_earlier_call_charged() {
    let limits = Limits::new(&[
        spec("private", &[LimitKey::Client], quota(10, 10, 10)),
        spec("shared", &[LimitKey::Route], quota(1, 10, 1)),
    ]);
    let subject = LimitSubject { route_label: Some("portal/"), ..client("203.0.113.7") };
    assert!(passes(&limits, &[LimitId(1)], &subject, at(0)));
    let mut charges = Charges::default();
    charge(&limits, FIRST, &subject, &mut charges, at(0)).unwrap();
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [9]);
    charge(&limits, BOTH, &subject, &mut charges, at(0)).unwrap_err();
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [10]);
}

#[test]
fn each_limit_is_charged_once_a_request_and_when_its_key_is_known() {
    let limits = Limits::new(&[
        spec("client", &[LimitKey::Client], quota(10, 10, 10)),
        spec("identity", &[LimitKey::Identity, LimitKey::Route], quota(10, 10, 10)),
    ]);
    let early = client("203.0.113.7");
    let late = LimitSubject { identity: Some("acme:sync"), route_label: Some("portal/"), ..early.clone() };
    let mut charges = Charges::default();
    charge(&limits, BOTH, &early, &mut charges, at(0)).unwrap();
    charge(&limits, BOTH, &late, &mut charges, at(0)).unwrap();
    charge(&limits, BOTH, &late, &mut charges, at(0)).unwrap();
    assert_eq!(remaining(&limits, BOTH, &late, at(0)), [9, 9]);
    assert_eq!(peek(&limits, BOTH, &late, at(0))[1].key, "acme:sync, portal/");
    assert_eq!(remaining(&limits, BOTH, &early, at(0)), [9], "one whose key is missing does not apply");
}

#[test]
fn more_limits_than_fit_inline_are_given_back_too() {
    let count = INLINE + 3;
    let mut specs: Vec<_> = (0..count).map(|n| spec(&n.to_string(), &[LimitKey::Client], quota(5, 5, 5))).collect();
    specs.push(spec("last", &[LimitKey::Client], quota(1, 5, 1)));
    let limits = Limits::new(&specs);
    let ids: Vec<_> = (0..=count).map(LimitId).collect();
    let subject = client("203.0.113.7");
    assert!(passes(&limits, &ids, &subject, at(0)));
    assert!(!passes(&limits, &ids, &subject, at(0)));
    assert_eq!(remaining(&limits, &ids[..count], &subject, at(0)), vec![4; count]);
}

#[test]
fn a_shadow_counts_and_reports_and_never_refuses() {
    let limits = Limits::new(&[shadow(spec("trial", &[LimitKey::Client], quota(1, 10, 2)))]);
    let subject = client("203.0.113.7");
    let charge = |charges: &mut Charges, now| charge(&limits, FIRST, &subject, charges, at(now)).unwrap();
    assert!(charge(&mut Charges::default(), 0).is_empty());
    assert!(charge(&mut Charges::default(), 0).is_empty());
    let mut charges = Charges::default();
    assert_eq!(charge(&mut charges, 0), [LimitId(0)]);
    assert!(charge(&mut charges, 0).is_empty(), "reported once a request");
    charges.give_back(at(0));
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [0], "what would have been refused was never charged");
    assert!(charge(&mut Charges::default(), 10_000_000_000).is_empty());
}

#[test]
fn an_approval_is_held_to_its_own_rate_first() {
    let limits = Limits::new(&[spec("client", &[LimitKey::Client], quota(10, 10, 10))]);
    let one = LimitSubject { approval: Some("apr-a"), approval_rate: Some(quota(1, 60, 2)), ..client("203.0.113.7") };
    let other = LimitSubject { approval: Some("apr-b"), ..one.clone() };
    assert!(passes(&limits, FIRST, &one, at(0)));
    assert!(passes(&limits, FIRST, &one, at(0)));
    let denial = charge(&limits, FIRST, &one, &mut Charges::default(), at(0)).unwrap_err();
    assert_eq!(&*denial.limit.as_ref().unwrap().name, "approval");
    assert_eq!((denial.limit.as_ref().unwrap().quota, denial.limit.unwrap().window), (2, 120));
    assert_eq!(remaining(&limits, FIRST, &one, at(0)), [0, 8]);
    assert!(passes(&limits, FIRST, &other, at(0)), "nobody pays for another approval");
}

#[test]
fn an_unchanged_limit_keeps_its_fill_over_a_reload() {
    let kept = spec("kept", &[LimitKey::Client], quota(2, 10, 2));
    let limits = Limits::new(std::slice::from_ref(&kept));
    let subject = client("203.0.113.7");
    assert!(passes(&limits, FIRST, &subject, at(0)));

    let other = spec("other", &[LimitKey::Client], quota(5, 10, 5));
    limits.reconcile(&[other.clone(), shadow(kept.clone())]);
    assert_eq!(remaining(&limits, BOTH, &subject, at(0)), [5, 1], "also when it moved and went into shadow");
    limits.reconcile(&[other, spec("kept", &[LimitKey::Client], quota(2, 10, 3))]);
    assert_eq!(remaining(&limits, BOTH, &subject, at(0)), [5, 3], "a changed quota starts anew");
    limits.reconcile(&[]);
    assert!(passes(&limits, BOTH, &subject, at(0)), "an id of an older generation names no limit");
    assert!(limits.is_empty());
}

#[test]
fn a_charge_over_a_reload_is_given_back_and_not_doubled() {
    let specs = [spec("kept", &[LimitKey::Client], quota(2, 10, 2))];
    let limits = Limits::new(&specs);
    let subject = client("203.0.113.7");
    let mut charges = Charges::default();
    charge(&limits, FIRST, &subject, &mut charges, at(0)).unwrap();
    limits.reconcile(&specs);
    charge(&limits, FIRST, &subject, &mut charges, at(0)).unwrap();
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [1]);
    charges.give_back(at(0));
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [2]);
}

/// What comes back is never more than what of the charge has not drained, whoever else got back theirs meanwhile.
#[test]
fn a_late_return_takes_nothing_from_what_others_spent() {
    const SECOND: u64 = 1_000_000_000;
    for (again, forgotten, left_at) in [(SECOND * 9 / 10, false, SECOND), (SECOND, true, SECOND)] {
        let limits = Limits::new(&[spec("x", &[LimitKey::Client], quota(1, 1, 3))]);
        let subject = client("203.0.113.7");
        let (mut one, mut other) = (Charges::default(), Charges::default());
        charge(&limits, FIRST, &subject, &mut one, at(0)).unwrap();
        charge(&limits, FIRST, &subject, &mut other, at(0)).unwrap();
        one.give_back(at(0));
        if forgotten {
            limits.sweep(at(again));
            assert!(limits.is_empty());
        }
        assert!(passes(&limits, FIRST, &subject, at(again)));
        other.give_back(at(again));
        assert_eq!(remaining(&limits, FIRST, &subject, at(left_at)), [2], "the third one's charge stands");
        other.give_back(at(again));
        assert_eq!(remaining(&limits, FIRST, &subject, at(left_at)), [2], "given back once");
    }
}

#[test]
fn a_return_gives_all_back_whatever_came_between_and_however_late_while_nothing_of_it_drained() {
    let limits = Limits::new(&[spec("x", &[LimitKey::Client], quota(1, 1, 3))]);
    let subject = client("203.0.113.7");
    let charge = || {
        let mut charges = Charges::default();
        charge(&limits, FIRST, &subject, &mut charges, at(0)).unwrap();
        charges
    };
    let (mut one, mut other) = (charge(), charge());
    other.give_back(at(0));
    one.give_back(at(0));
    assert_eq!(remaining(&limits, FIRST, &subject, at(0)), [3]);

    let (_, _, mut third) = (charge(), charge(), charge());
    third.give_back(at(500_000_000));
    assert_eq!(remaining(&limits, FIRST, &subject, at(1_000_000_000)), [2]);
}

#[test]
fn show_lists_the_most_used_first_and_sweep_forgets_the_unused() {
    let limits = Limits::new(&[spec("client", &[LimitKey::Client], quota(1, 1, 10))]);
    for n in 0..300 {
        for _ in 0..=(n % 10) {
            assert!(passes(&limits, FIRST, &nth_client(n), at(0)));
        }
    }
    let views = limits.show(3, at(0));
    assert_eq!(views.iter().map(|view| (view.remaining, view.wait_ms)).collect::<Vec<_>>(), [(0, 1000); 3]);
    assert_eq!((views[0].rate.as_str(), views[0].mode.as_str(), views[0].burst), ("1/s", "enforce", 10));
    assert_eq!(limits.len(), 300);
    limits.sweep(at(9_500_000_000));
    assert_eq!(limits.len(), 30, "only what has not drained is held");
    limits.sweep(at(10_000_000_000));
    assert!(limits.is_empty() && limits.show(3, at(10_000_000_000)).is_empty());
}

#[test]
fn rates_read_as_the_config_writes_them() {
    for (per, text) in [(1, "7/s"), (60, "7/min"), (3600, "7/h"), (86_400, "7/day"), (90, "7/90s")] {
        assert_eq!(rate(&quota(7, per, 1)), text);
    }
}

#[test]
fn absurd_quotas_neither_overflow_nor_open_the_door() {
    for extreme in [
        Quota { requests: 1, per: Duration::MAX, burst: u32::MAX },
        Quota { requests: u32::MAX, per: Duration::from_nanos(1), burst: 1 },
        Quota { requests: 0, per: Duration::ZERO, burst: 0 },
    ] {
        let limits = Limits::new(&[spec("x", &[LimitKey::Client], extreme)]);
        let subject = client("203.0.113.7");
        assert!(passes(&limits, FIRST, &subject, at(u64::MAX)));
        passes(&limits, FIRST, &subject, at(u64::MAX));
        peek(&limits, FIRST, &subject, at(u64::MAX));
        if extreme.burst <= 1 {
            assert!(!passes(&limits, FIRST, &subject, at(u64::MAX)));
        }
    }
}

#[test]
fn threads_in_parallel_never_pass_more_than_the_burst() {
    let limits = Limits::new(&[
        spec("client", &[LimitKey::Client], quota(1, 3600, 50)),
        spec("route", &[LimitKey::Route], quota(1, 3600, 60)),
    ]);
    let subjects = ["203.0.113.7", "203.0.113.8"].map(|ip| LimitSubject { route_label: Some("portal/"), ..client(ip) });
    let passed: Vec<usize> = std::thread::scope(|scope| {
        let limits = &limits;
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let subject = &subjects[n % 2];
                scope.spawn(move || (0..200).filter(|_| passes(limits, BOTH, subject, at(0))).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(passed.iter().sum::<usize>(), 60, "the shared budget to the last one");
    for first in 0..2 {
        assert!(passed.iter().skip(first).step_by(2).sum::<usize>() <= 50);
    }
    let left: u32 = subjects.iter().map(|subject| remaining(&limits, FIRST, subject, at(0))[0]).sum();
    assert_eq!(left, 40, "every refused charge was given back exactly");
}

/// Trap: limit table exhaustion. Fixed memory, aggregation, and nothing live evicted.
#[test]
fn a_flood_of_keys_folds_into_wider_buckets_and_evicts_nobody() {
    let table = Table::with_capacity(64, 64);
    let hasher = KeyHasher::default();
    let key = [LimitKey::Client];
    let held = quota(1, 100, 3);
    let pass = |subject: &LimitSubject<'_>, now| gcra::pass(&table, &held, &Probe::new(&key, subject, &hasher).unwrap(), at(now));
    let victim = client("198.51.100.1");
    for _ in 0..3 {
        pass(&victim, 0).unwrap();
    }
    let passed = (0..20_000).filter(|n| pass(&nth_client(*n), 0).is_ok()).count();
    assert!(table.len() <= 128, "{}", table.len());
    assert!(table.folded() > 0);
    assert!(pass(&victim, 0).is_err(), "a live bucket was evicted");
    // 64 own buckets took one each, 64 shared prefixes and 256 of the last resort three.
    assert!(passed <= 64 + 3 * (64 + 256), "{passed}");

    // When everything has drained there is room again, for buckets of their own.
    let later = 400_000_000_000;
    let folded = table.folded();
    pass(&client("192.0.2.1"), later).unwrap();
    assert_eq!(table.folded(), folded);
    table.sweep(later);
    assert_eq!(table.len(), 1);
}

/// A key that moves from a shared bucket to its own does not get a second burst.
#[test]
fn what_was_spent_in_a_shared_bucket_follows_into_the_own_one() {
    let key = [LimitKey::Client];
    let (brief, long) = (quota(1, 1, 1), quota(1, 100, 2));
    let (first, second) = (nth_client(1), nth_client(2));
    // Every shard has room for one: whoever comes second to a shard shares.
    for _ in 0..10_000 {
        let table = Table::with_capacity(1, 64);
        let hasher = KeyHasher::default();
        let pass = |subject: &LimitSubject<'_>, quota, now| {
            gcra::pass(&table, &quota, &Probe::new(&key, subject, &hasher).unwrap(), at(now)).is_ok()
        };
        assert!(pass(&first, brief, 0) && pass(&second, long, 0) && pass(&second, long, 0));
        if table.folded() == 0 {
            continue;
        }
        let later = 2_000_000_000;
        assert!(!pass(&second, long, later), "two seconds replenish nothing at 1/100s");
        assert_eq!(table.folded(), 2, "this time there was room");
        assert!(pass(&second, long, 100_000_000_000));
        return;
    }
    panic!("no shard was shared");
}

#[test]
fn the_door_paces_handshakes_by_client_and_refuses_beyond_patience() {
    let quota = quota(50, 1, 2);
    let door = Pace::new(quota, Duration::from_millis(100));
    let one = ClientAddr::new("2001:db8::1".parse().unwrap(), 64).key;
    let same = ClientAddr::new("2001:db8::2".parse().unwrap(), 64).key;
    let other = ClientAddr::new("2001:db8:0:1::1".parse().unwrap(), 64).key;
    let turn = |client, millis: u64| door.turn(client, &quota, at(millis * 1_000_000));
    assert_eq!(turn(one, 0), Ok(Duration::ZERO));
    assert_eq!(turn(same, 0), Ok(Duration::ZERO));
    for place in 1..=5 {
        assert_eq!(turn(one, 0), Ok(Duration::from_millis(20 * place)), "each waits its own turn");
    }
    assert_eq!(&*turn(one, 0).unwrap_err().name, "handshakes");
    assert_eq!(turn(other, 0), Ok(Duration::ZERO), "nobody waits for another client");
    assert_eq!(turn(one, 20), Ok(Duration::from_millis(100)), "one turn has passed, and the line is as long as before");
    door.reconcile(quota, Duration::from_millis(100));
    assert!(turn(one, 20).is_err(), "unchanged keeps its fill");
    door.reconcile(Quota { burst: 3, ..quota }, Duration::from_millis(100));
    assert!(turn(one, 20).is_ok());
    door.sweep(at(u64::MAX));
}

/// Invariants, for 256 seeds of callers, times, refusals and late returns: no interval passes more than burst + rate * length
/// (what was taken back not counted), and a caller alone under its budget is never refused for what another did.
#[test]
fn simulated_callers_never_exceed_and_never_suffer_for_each_other() {
    for seed in 0..256 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut dice = Dice(seed);
    let held = Quota {
        requests: 1 + dice.roll(20) as u32,
        per: Duration::from_millis(100 + dice.roll(5000)),
        burst: 1 + dice.roll(8) as u32,
    };
    let limits = Limits::new(&[
        spec("client", &[LimitKey::Client], held),
        spec("identity", &[LimitKey::Identity], quota(1, 3600, u32::MAX)),
    ]);
    let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
    let callers: Vec<_> = (0..4).map(|n| LimitSubject { identity: Some("acme:sync"), ..nth_client(n) }).collect();
    let weight = held.interval().as_nanos() as u64;
    let mut passed: HashMap<usize, Vec<u64>> = HashMap::new();
    // When each caller would be replenished if nothing were ever given back.
    let mut arrivals = [0; 4];
    let mut open: Vec<(usize, u64, Charges)> = Vec::new();
    for _ in 0..400 {
        clock.advance(Duration::from_nanos(dice.roll(weight)));
        let now = clock.now();
        let time = now.instant.as_nanos() as u64;
        let who = dice.roll(4) as usize;
        match dice.roll(10) {
            0 if !open.is_empty() => {
                let index = dice.roll(open.len() as u64) as usize;
                let (who, since, mut charges) = open.swap_remove(index);
                charges.give_back(now);
                let times = passed.entry(who).or_default();
                let index = times.iter().position(|time| *time == since).unwrap();
                times.remove(index);
            }
            1 => limits.sweep(now),
            _ => {
                let mut charges = Charges::default();
                let pass = charge(&limits, BOTH, &callers[who], &mut charges, now).is_ok();
                let spent = arrivals[who].max(time) - time;
                assert!(
                    pass || spent > weight * u64::from(held.burst - 1),
                    "seed {seed}: refused at {time} within its own budget"
                );
                if pass {
                    arrivals[who] = time + spent + weight;
                    passed.entry(who).or_default().push(time);
                    open.push((who, time, charges));
                }
            }
        }
    }
    for times in passed.values() {
        assert!(within_budget(times, &held), "seed {seed}: more passed than burst and rate allow");
    }
}

proptest! {
    #[test]
    fn every_decision_is_the_token_bucket_s(
        requests in 1u32..50, per_ms in 1u64..10_000, burst in 1u32..12, steps in prop::collection::vec((0u64..3_000_000_000, any::<bool>()), 1..80),
    ) {
        let held = Quota { requests, per: Duration::from_millis(per_ms), burst };
        let limits = Limits::new(&[spec("x", &[LimitKey::Client], held)]);
        let subject = client("203.0.113.7");
        let mut model = Model::new(&held);
        let mut time = 0;
        for (step, taken_back) in steps {
            time += step;
            let before = peek(&limits, FIRST, &subject, at(time));
            let mut charges = Charges::default();
            let verdict = charge(&limits, FIRST, &subject, &mut charges, at(time));
            prop_assert_eq!(verdict.is_ok(), model.take(time));
            prop_assert_eq!(before[0].remaining > 0, verdict.is_ok());
            prop_assert_eq!(before[0].wait_ms == 0, verdict.is_ok());
            if let Err(denial) = verdict {
                let wait = denial.retry_after.unwrap().as_nanos() as u64;
                prop_assert!(!passes(&limits, FIRST, &subject, at(time + wait - 1)));
            } else if taken_back {
                charges.give_back(at(time));
                model.level += model.weight;
                prop_assert_eq!(&peek(&limits, FIRST, &subject, at(time))[0].remaining, &before[0].remaining);
            }
        }
    }
}

#[test]
fn who_was_decided_before_a_reload_is_charged_what_he_was_to_be_charged() {
    let (wide, tight) = (spec("wide", &[LimitKey::Client], quota(1, 60, 9)), spec("tight", &[LimitKey::Client], quota(1, 60, 2)));
    let new = spec("new", &[LimitKey::Client], quota(1, 60, 1));
    let subject = client("203.0.113.7");
    for (after, passing) in [
        (vec![new.clone(), wide.clone(), tight.clone()], 2),
        (vec![tight.clone()], 2),
        (vec![wide.clone(), LimitSpec { quota: quota(1, 60, 4), ..tight.clone() }], 4),
        (vec![new], 20),
    ] {
        let before = [wide.clone(), tight.clone()];
        let limits = Limits::new(&before);
        limits.reconcile(&after);
        let passed = (0..20).filter(|_| limits.charge(&before, &[LimitId(1)], &subject, &mut Charges::default(), at(0)).is_ok());
        assert_eq!(passed.count(), passing, "{after:?}");
    }
}
