//! What a limit costs: one key hot, many keys warm, a refusal, and a request that is charged three limits.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use doorward::clock::Now;
use doorward::net::ClientAddr;
use doorward::policy::LimitId;
use doorward::policy::limit::{LimitKey, LimitMode, LimitSpec, Quota};
use doorward::state::limits::{Charges, LimitSubject, Limits};
use jiff::Timestamp;

fn limits(criterion: &mut Criterion) {
    let wide = Quota { requests: 1_000_000_000, per: Duration::from_secs(1), burst: 1_000_000_000 };
    let narrow = Quota { requests: 1, per: Duration::from_secs(3600), burst: 1 };
    let spec =
        |name: &str, key: &[LimitKey], quota| LimitSpec { name: name.into(), key: key.to_vec(), quota, mode: LimitMode::Enforce };
    let specs = [
        spec("per-client", &[LimitKey::Client], wide),
        spec("per-identity", &[LimitKey::Identity], wide),
        spec("per-route", &[LimitKey::Route, LimitKey::Tenant], wide),
        spec("spent", &[LimitKey::Client], narrow),
    ];
    let limits = Limits::new(&specs);
    let subject = |n: u32| LimitSubject {
        client: Some(ClientAddr::new(std::net::Ipv4Addr::from(n).into(), 64).key),
        identity: Some("acme:order-sync"),
        tenant: Some("acme"),
        route_label: Some("portal.example.com/api"),
        ..LimitSubject::default()
    };
    let now = Now { instant: Duration::from_secs(1), wall: Timestamp::UNIX_EPOCH };
    let charge = |ids: &[LimitId], subject: &LimitSubject<'_>| {
        black_box(limits.charge(&specs, black_box(ids), black_box(subject), &mut Charges::default(), now)).is_ok()
    };

    let one = subject(1);
    criterion.bench_function("limits/one hot key", |bencher| bencher.iter(|| charge(&[LimitId(0)], &one)));

    let many: Vec<_> = (0..100_000).map(subject).collect();
    let mut next = 0;
    criterion.bench_function("limits/100k warm keys", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % many.len();
            charge(&[LimitId(0)], &many[next])
        })
    });
    let three = [LimitId(0), LimitId(1), LimitId(2)];
    criterion.bench_function("limits/three limits", |bencher| bencher.iter(|| charge(&three, &one)));
    charge(&[LimitId(3)], &one);
    criterion.bench_function("limits/refused and given back", |bencher| bencher.iter(|| charge(&[LimitId(0), LimitId(3)], &one)));
}

criterion_group!(benches, limits);
criterion_main!(benches);
