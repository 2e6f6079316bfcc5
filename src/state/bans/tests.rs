use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::net::Nets;
use crate::policy::ban::BanAnswer;
use crate::state::store::conformance::{rows, wait};
use crate::state::store::embedded::EmbeddedStore;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Bench {
    dir: tempfile::TempDir,
    clock: ManualClock,
    rules: BanRules,
    table: BanTable,
}

fn nets(texts: &[&str]) -> Nets {
    texts.iter().map(|text| net(text)).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a net")
}

fn key(text: &str) -> BanKey {
    BanKey::parse(text, 64).expect("a key")
}

fn client(ip: &str) -> ClientAddr {
    ClientAddr::new(ip.parse().expect("an address"), 64)
}

fn bench(never: &[&str], always: &[&str]) -> Bench {
    let rules = BanRules {
        first: 15 * MINUTE,
        factor: 4,
        max: 7 * DAY,
        forget: 30 * DAY,
        never: nets(never),
        always: nets(always),
        answer: BanAnswer::Explain,
    };
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::at("2026-05-01T12:00:00Z".parse().expect("a time"));
    let table = open(dir.path(), &rules, &clock);
    Bench { dir, clock, rules, table }
}

fn open(dir: &std::path::Path, rules: &BanRules, clock: &ManualClock) -> BanTable {
    BanTable::load(Arc::new(EmbeddedStore::open(dir).expect("a store")), rules, clock.now()).expect("loaded")
}

impl Bench {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn banned(&self, ip: &str) -> bool {
        self.table.of_client(&client(ip), self.now()).is_some()
    }

    fn punish(&self, text: &str) -> Ban {
        let (ban, durable) = self.table.punish(key(text), 5, self.now()).expect("banned");
        wait(durable).expect("on disk");
        ban
    }

    fn add(&self, text: &str, length: Option<Duration>) -> Result<Ban, String> {
        let (ban, durable) = self.table.add(key(text), length, "abuse".into(), "alice".into(), self.now())?;
        wait(durable).expect("on disk");
        Ok(ban)
    }

    fn length(&self, ban: &Ban) -> Duration {
        ban.until.duration_since(ban.since).unsigned_abs()
    }

    /// Closes the store and loads the table anew.
    fn restart(self) -> Self {
        let Self { dir, clock, rules, table } = self;
        table.store.close();
        drop(table);
        let table = open(dir.path(), &rules, &clock);
        Self { dir, clock, rules, table }
    }
}

#[test]
fn a_ban_holds_its_client_and_nobody_else_until_its_end() {
    let bench = bench(&[], &[]);
    assert!(!bench.banned("203.0.113.7"));
    let ban = bench.punish("203.0.113.7");
    assert_eq!((ban.count, ban.failures, ban.by.as_str(), ban.reason.as_str()), (1, 5, "guesses", "5 failed logins"));
    assert_eq!(bench.length(&ban), 15 * MINUTE);
    assert!(bench.banned("203.0.113.7") && bench.banned("::ffff:203.0.113.7") && !bench.banned("203.0.113.8"));
    bench.clock.advance(15 * MINUTE - Duration::from_nanos(1));
    assert!(bench.banned("203.0.113.7"));
    bench.clock.advance(Duration::from_nanos(1));
    assert!(!bench.banned("203.0.113.7"), "expiry is compared on reading, whether or not anybody swept");
    assert_eq!(bench.table.len(), 1);
    bench.table.sweep(bench.now());
    assert_eq!(bench.table.len(), 0);
}

#[test]
fn an_ipv6_client_is_banned_by_its_prefix() {
    let bench = bench(&[], &[]);
    bench.punish("2001:db8:1:2::77");
    assert!(bench.banned("2001:db8:1:2:ffff::1") && !bench.banned("2001:db8:1:3::77"));
}

#[test]
fn bans_escalate_within_forget_and_start_anew_after_it() {
    let bench = bench(&[], &[]);
    for (count, length) in
        [(1, 15 * MINUTE), (2, HOUR), (3, 4 * HOUR), (4, 16 * HOUR), (5, 64 * HOUR), (6, 7 * DAY), (7, 7 * DAY)]
    {
        let ban = bench.punish("203.0.113.7");
        assert_eq!((ban.count, bench.length(&ban)), (count, length));
        bench.clock.advance(length);
    }
    bench.clock.advance(30 * DAY);
    assert_eq!(bench.punish("203.0.113.7").count, 1);
}

#[test]
fn one_incident_escalates_once() {
    let bench = bench(&[], &[]);
    let first = bench.punish("203.0.113.7");
    bench.clock.advance(MINUTE);
    assert_eq!(bench.punish("203.0.113.7"), first);
}

#[test]
fn an_acknowledged_ban_survives_a_restart_with_its_history() {
    let bench = bench(&[], &[]);
    let first = bench.punish("203.0.113.7");
    let manual = bench.add("account:bob", None).expect("added");
    let identity = bench.punish("identity:acme:sync");
    let bench = bench.restart();
    assert_eq!(bench.table.list(bench.now()), [first, identity, manual]);
    bench.clock.advance(15 * MINUTE);
    assert_eq!(bench.punish("203.0.113.7").count, 2);
    let bench = bench.restart();
    bench.clock.advance(HOUR);
    bench.table.sweep(bench.now());
    let bench = bench.restart();
    assert_eq!(bench.table.len(), 1, "swept rows are gone from the disk too");
    bench.clock.advance(31 * DAY);
    bench.table.sweep(bench.now());
    wait(bench.table.store.write(Vec::new())).expect("a barrier");
    assert_eq!(rows(&*bench.table.store, Table::BanHistory), [], "what is forgotten leaves the disk");
}

#[test]
fn a_clock_stepped_back_keeps_live_bans_also_over_a_restart() {
    let bench = bench(&[], &[]);
    let ban = bench.punish("203.0.113.7");
    bench.clock.step_wall(ban.since - HOUR);
    assert!(bench.banned("203.0.113.7"));
    bench.table.sweep(bench.now());
    let bench = bench.restart();
    assert!(bench.banned("203.0.113.7"));
    bench.clock.step_wall(ban.until);
    assert!(!bench.banned("203.0.113.7"));
}

#[test]
fn never_nets_cannot_be_banned_from_inside_or_around() {
    let bench = bench(&["198.51.100.0/24", "2001:db8:5:5::1/128"], &[]);
    assert!(bench.table.punish(key("198.51.100.9"), 5, bench.now()).is_none());
    assert!(bench.table.punish(key("2001:db8:5:5::2"), 5, bench.now()).is_none(), "its prefix holds a never address");
    assert!(bench.table.is_empty());
    for text in ["198.51.100.9", "198.51.0.0/16", "0.0.0.0/0", "::ffff:198.51.100.9", "2001:db8:5:5::/64"] {
        let refusal = bench.add(text, Some(HOUR)).expect_err("refused");
        assert!(refusal.contains("bans.never"), "{refusal}");
    }
}

#[test]
fn a_reload_lets_go_of_never_nets_and_loses_nothing_else() {
    let bench = bench(&[], &["192.0.2.0/24"]);
    bench.punish("203.0.113.7");
    bench.punish("203.0.113.8");
    let mut rules = bench.rules.clone();
    rules.never = nets(&["203.0.113.7/32"]);
    rules.always = nets(&["198.51.100.0/25"]);
    bench.table.reconcile(&rules);
    assert!(!bench.banned("203.0.113.7") && bench.banned("203.0.113.8"));
    assert!(!bench.banned("192.0.2.1") && bench.banned("198.51.100.1") && !bench.banned("198.51.100.200"));
    assert_eq!(bench.table.list(bench.now()).len(), 2);
    bench.table.reconcile(&bench.rules);
    assert!(bench.banned("203.0.113.7"), "it was never lifted");
}

#[test]
fn always_is_for_good_and_cannot_be_lifted() {
    let bench = bench(&["192.0.2.9/32"], &["192.0.2.0/24", "2001:db8::1/128"]);
    let fact = bench.table.of_client(&client("192.0.2.1"), bench.now());
    assert_eq!(fact, Some(BanFact { until: Timestamp::MAX, always: true }));
    assert!(bench.banned("2001:db8::1") && !bench.banned("2001:db8::2"), "narrower than a client");
    assert!(!bench.banned("192.0.2.9"), "never is the exception");
    assert!(bench.table.lift(&key("192.0.2.0/24"), bench.now()).is_none());
    let shown = bench.table.show(&key("192.0.2.1"), bench.now());
    assert_eq!((shown.len(), shown[0].by.as_str()), (1, "config"));
}

#[test]
fn the_longest_lasting_of_several_holds() {
    let bench = bench(&[], &[]);
    let own = bench.punish("203.0.113.7");
    bench.add("203.0.113.0/24", Some(MINUTE)).expect("added");
    let fact = |ip: &str| bench.table.of_client(&client(ip), bench.now());
    assert_eq!(fact("203.0.113.7").map(|fact| fact.until), Some(own.until));
    assert!(fact("203.0.113.8").is_some());
    let wide = bench.add("203.0.0.0/16", Some(DAY)).expect("added");
    assert_eq!(fact("203.0.113.7"), Some(BanFact { until: wide.until, always: false }));
    assert_eq!(bench.table.show(&key("203.0.113.7"), bench.now()).len(), 3);
    assert_eq!(bench.table.show(&key("203.0.113.0/24"), bench.now()).len(), 2);
}

#[test]
fn a_longer_ban_of_an_operator_is_kept_and_a_shorter_one_is_outlasted() {
    let bench = bench(&[], &[]);
    let manual = bench.add("203.0.113.7", Some(DAY)).expect("added");
    assert_eq!(bench.punish("203.0.113.7"), manual);
    assert!(bench.add("203.0.113.7", Some(HOUR)).expect_err("refused").contains("lift that ban first"));
    let longer = bench.add("203.0.113.7", None).expect("added");
    assert_eq!(longer.until, Timestamp::MAX);
    assert!(bench.add("203.0.113.7", None).expect_err("refused").contains("for good already"));
    bench.add("203.0.113.8", Some(MINUTE)).expect("added");
    assert_eq!(bench.punish("203.0.113.8").by, "guesses");
    assert!(bench.add("203.0.113.9", Some(Duration::ZERO)).is_err());
}

#[test]
fn lifting_is_durable_and_keeps_the_history() {
    let bench = bench(&[], &[]);
    assert!(bench.table.lift(&key("203.0.113.7"), bench.now()).is_none());
    let ban = bench.punish("203.0.113.7");
    let (lifted, durable) = bench.table.lift(&key("203.0.113.7"), bench.now()).expect("lifted");
    wait(durable).expect("on disk");
    assert_eq!(lifted, ban);
    assert!(!bench.banned("203.0.113.7"));
    assert!(!bench.table.any_net.load(Ordering::Acquire), "the last one gone, lookups are free again");
    let bench = bench.restart();
    assert!(!bench.banned("203.0.113.7"));
    assert_eq!(bench.punish("203.0.113.7").count, 2);
}

#[test]
fn accounts_and_identities_are_held_apart_from_addresses() {
    let bench = bench(&[], &[]);
    bench.add("account:bob", Some(HOUR)).expect("added");
    bench.punish("identity:acme:sync");
    let account = |name: &str| bench.table.of_account(&AccountKey(name.into()), bench.now()).is_some();
    assert!(account("bob") && !account("ann"));
    assert!(bench.table.of_identity("acme:sync", bench.now()).is_some());
    assert!(bench.table.of_identity("acme:other", bench.now()).is_none());
    bench.clock.advance(HOUR);
    assert!(!account("bob") && bench.table.of_identity("acme:sync", bench.now()).is_none());
}

#[test]
fn the_ban_holds_in_memory_when_the_disk_does_not() {
    let bench = bench(&[], &[]);
    bench.table.store.close();
    let (_, durable) = bench.table.punish(key("203.0.113.7"), 5, bench.now()).expect("banned");
    assert!(bench.banned("203.0.113.7"));
    assert!(wait(durable).is_err());
}

#[test]
fn an_unreadable_row_refuses_the_start() {
    let bench = bench(&[], &[]);
    let Bench { dir, rules, clock, table } = bench;
    for broken in [Table::Bans, Table::BanHistory] {
        let put = Change::Put { table: broken, key: b"203.0.113.7".to_vec(), value: b"{}".to_vec() };
        wait(table.store.write(vec![put])).expect("written");
        let error = BanTable::load(Arc::clone(&table.store), &rules, clock.now()).err().expect("refused").to_string();
        assert!(error.contains(broken.name()) && error.contains("backup"), "{error}");
    }
    drop(dir);
}

#[test]
fn ban_limit_table_exhaustion_folds_neighbours_and_evicts_no_live_ban() {
    let mut bench = bench(&["198.51.100.200/32"], &[]);
    bench.table.most_guess_bans = 16;
    for last in 0..8 {
        bench.punish(&format!("203.0.113.{last}"));
        bench.punish(&format!("198.51.100.{last}"));
    }
    assert_eq!(bench.table.overflow_count(), 0);
    // A stranger without banned neighbours, and one beside a `never` address: neither costs anybody his ban.
    assert!(bench.table.punish(key("192.0.2.1"), 5, bench.now()).is_none());
    assert!(bench.table.punish(key("198.51.100.99"), 5, bench.now()).is_none());
    assert_eq!((bench.table.len(), bench.table.overflow_count()), (16, 2));
    let folded = bench.punish("203.0.113.99");
    assert_eq!((folded.key.clone(), folded.by.as_str()), (key("203.0.113.0/24"), "guesses"));
    assert_eq!(bench.table.len(), 9);
    let manual = bench.add("198.51.0.0/16", None).expect_err("over a `never` address");
    assert!(manual.contains("198.51.100.200"), "{manual}");
    let bench = bench.restart();
    for last in 0..8 {
        assert!(bench.banned(&format!("203.0.113.{last}")) && bench.banned(&format!("198.51.100.{last}")));
    }
    assert!(!bench.banned("198.51.100.200"));
}

#[test]
fn folding_keeps_an_operators_longer_ban_of_the_prefix_as_he_made_it() {
    let mut bench = bench(&[], &[]);
    bench.table.most_guess_bans = 1;
    let manual = bench.add("203.0.113.0/24", None).expect("added");
    bench.punish("192.0.2.1");
    assert_eq!(bench.punish("203.0.113.7"), manual);
    assert_eq!(bench.table.list(bench.now()).len(), 2);
}

#[test]
fn a_ban_whose_write_failed_is_written_by_the_next_punishment() {
    let bench = bench(&[], &[]);
    let first = bench.punish("203.0.113.7");
    wait(bench.table.store.write(vec![Change::Delete { table: Table::Bans, key: row(&first.key) }]))
        .expect("as if never written");
    assert_eq!(bench.punish("203.0.113.7"), first);
    let bench = bench.restart();
    assert!(bench.banned("203.0.113.7"));
}

#[test]
fn a_full_table_takes_the_place_of_what_expired() {
    let mut bench = bench(&[], &[]);
    bench.table.most_guess_bans = 1;
    bench.punish("203.0.113.7");
    bench.clock.advance(15 * MINUTE);
    bench.punish("192.0.2.1");
    assert_eq!((bench.table.len(), bench.table.overflow_count()), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Against a list of nets that is searched one by one.
    #[test]
    fn lookups_agree_with_a_plain_list(
        bans in prop::collection::vec((any::<[u8; 2]>(), 0_u8..=32, any::<bool>(), 1_u64..100), 1..20),
        lifts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        wait_for in 0_u64..100,
        asked in prop::collection::vec(any::<[u8; 2]>(), 1..30),
    ) {
        let bench = bench(&[], &[]);
        let mut plain: Vec<(IpNet, Timestamp)> = Vec::new();
        for ([a, b], length, v6, minutes) in bans {
            let ip: IpAddr = if v6 { format!("2001:{a}:{b}::").parse().expect("ip") } else { [a, 0, 0, b].into() };
            let net = IpNet::new(ip, if v6 { length + 32 } else { length }).expect("a net").trunc();
            if let Ok(ban) = bench.table.add(BanKey::Net(net), Some(u32::try_from(minutes).expect("few") * MINUTE), String::new(), "alice".into(), bench.now()) {
                plain.retain(|(other, _)| *other != net);
                plain.push((net, ban.0.until));
            }
        }
        for lift in lifts {
            if !plain.is_empty() {
                let (net, _) = plain.swap_remove(lift.index(plain.len()));
                prop_assert!(bench.table.lift(&BanKey::Net(net), bench.now()).is_some());
            }
        }
        bench.clock.advance(u32::try_from(wait_for).expect("few") * MINUTE);
        if wait_for % 2 == 0 {
            bench.table.sweep(bench.now());
        }
        for [a, b] in asked {
            for ip in [IpAddr::from([a, 0, 0, b]), format!("2001:{a}:{b}::").parse().expect("ip")] {
                let over = plain.iter().filter(|(net, until)| net.contains(&ip) && bench.now().wall < *until);
                let found = bench.table.of_client(&ClientAddr::new(ip, 64), bench.now()).map(|fact| fact.until);
                prop_assert_eq!(found, over.map(|(_, until)| *until).max());
            }
        }
    }
}
