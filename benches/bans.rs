//! The lookup that every connection and every request pays for: is this address banned?

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use doorward::clock::ManualClock;
use doorward::net::{ClientAddr, Nets};
use doorward::policy::ban::{BanAnswer, BanKey, BanRules};
use doorward::state::bans::BanTable;
use doorward::state::store::embedded::EmbeddedStore;
use doorward::state::store::{Change, Store, Table};
use jiff::Timestamp;

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bans");
    for bans in [0, 10, 10_000, 1_000_000] {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let table = table(dir.path(), bans, &clock);
        let now = clock.now();
        // A different address each time, so that no cache line is warm by accident.
        let mut turn = 0_u32;
        let mut asked = move || {
            turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            turn % bans.max(1)
        };
        group.bench_function(BenchmarkId::new("banned", bans), |bencher| {
            bencher.iter(|| table.of_client(black_box(&ClientAddr::new(banned(asked()), 64)), now));
        });
        group.bench_function(BenchmarkId::new("free-v4", bans), |bencher| {
            bencher.iter(|| table.of_client(black_box(&ClientAddr::new(Ipv4Addr::from(0xC000_0000 + asked()).into(), 64)), now));
        });
        group.bench_function(BenchmarkId::new("free-v6", bans), |bencher| {
            let address = |number: u32| Ipv6Addr::from((0x2001_0db8_u128 << 96) | (u128::from(number) << 64));
            bencher.iter(|| table.of_client(black_box(&ClientAddr::new(address(asked()).into(), 64)), now));
        });
    }
}

/// Half of them IPv4 clients, half IPv6 prefixes.
fn banned(number: u32) -> IpAddr {
    if number.is_multiple_of(2) {
        Ipv4Addr::from(0x0A00_0000 + number / 2).into()
    } else {
        Ipv6Addr::from((0x2001_0db9_u128 << 96) | (u128::from(number) << 64)).into()
    }
}

/// A table with that many clients banned, and two prefixes, as on a gateway that has seen some years.
fn table(dir: &std::path::Path, bans: u32, clock: &ManualClock) -> BanTable {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir).expect("a store"));
    let until = Timestamp::UNIX_EPOCH + Duration::from_secs(3600);
    let wide =
        ["198.51.100.0/24", "2001:dba::/32"].into_iter().filter(|_| bans > 0).map(|net| BanKey::Net(net.parse().expect("a net")));
    let clients = (0..bans).map(|number| BanKey::Net(ClientAddr::new(banned(number), 64).key.net()));
    let keys: Vec<BanKey> = clients.chain(wide).collect();
    let row = |key: &BanKey| {
        Change::Put {
        table: Table::Bans,
        key: key.to_string().into_bytes(),
        value: format!(
            r#"{{"key":"{key}","reason":"5 failed logins","count":1,"failures":5,"since":"{}","until":"{until}","by":"guesses"}}"#,
            Timestamp::UNIX_EPOCH
        )
        .into_bytes(),
    }
    };
    for rows in keys.chunks(50_000) {
        futures_util::FutureExt::now_or_never(store.write(rows.iter().map(row).collect()));
    }
    // Waits for what is queued.
    store.close();
    drop(store);
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir).expect("a store"));
    let rules = BanRules {
        first: Duration::from_secs(900),
        factor: 4,
        max: Duration::from_secs(604_800),
        forget: Duration::from_secs(2_592_000),
        never: Nets::default(),
        always: Nets::default(),
        answer: BanAnswer::Explain,
    };
    let table = BanTable::load(store, &rules, clock.now()).expect("loaded");
    assert_eq!(table.len(), keys.len());
    table
}

criterion_group!(benches, lookups);
criterion_main!(benches);
