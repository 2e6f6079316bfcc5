//! The decision for a plain GET on warm state, whole and in its parts. Rooms above floor 0 add their benches beside it.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use doorward::clock::Now;
use doorward::net::Nets;
use doorward::policy::approval::ApprovalRules;
use doorward::policy::ban::{BanAnswer, BanRules, GuessBudget, GuessBudgets};
use doorward::policy::bot::{BotClass, BotClassifier};
use doorward::policy::limit::LimitSpec;
use doorward::policy::route::{BotRule, CertDemand, HostPattern, Sites, host_of};
use doorward::policy::{
    ApprovalFact, CanonicalPath, CertFact, Denial, Facts, Permit, Policy, PolicyDocument, Reason, Route, RouteId, Site, SiteId,
    UpstreamId,
};
use http::Method;
use jiff::Timestamp;

const AUTHORITY: &str = "portal.example.com:8443";
const SERVER_NAME: &str = "portal.example.com";
const TARGET: &str = "/orders/2026/17?view=full";
const BROWSER: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";

/// A policy of one site with `count` routes below its root.
fn policy(count: usize) -> Policy {
    let route = |number: usize, path: String| {
        Arc::new(Route {
            id: RouteId(number),
            site: SiteId(0),
            label: format!("portal.example.com{path}").into(),
            path,
            exact: false,
            upstream: UpstreamId(0),
            login: None,
            bots: BotRule::Approved,
            client_cert: CertDemand::Optional,
            allow: None,
            limits: Vec::new(),
            body: 64 << 20,
        })
    };
    let paths =
        (0..count).map(|number| format!("/area{}/part{number}", number % 100)).chain([String::new(), "/orders".to_owned()]);
    let site = Site {
        id: SiteId(0),
        hosts: vec![HostPattern::Exact("portal.example.com".into()), HostPattern::Wildcard("portal.example.com".into())],
        client_ca: Vec::new(),
        client_cert: CertDemand::None,
        routes: paths.enumerate().map(|(number, path)| route(number, path)).collect(),
    };
    let budget = GuessBudget { failures: 5, within: Duration::from_secs(600) };
    Policy {
        document: PolicyDocument { id: "bench".into(), version: "1".into(), contact: None },
        sites: Sites::new(vec![site]),
        limits: Vec::<LimitSpec>::new(),
        guesses: GuessBudgets { per_client: budget, per_account: budget },
        bans: BanRules {
            first: Duration::from_secs(900),
            factor: 4,
            max: Duration::from_secs(604_800),
            forget: Duration::from_secs(2_592_000),
            never: Nets::default(),
            always: Nets::default(),
            answer: BanAnswer::Explain,
        },
        approvals: ApprovalRules::default(),
    }
}

fn now() -> Now {
    Now { instant: Duration::from_secs(60), wall: Timestamp::UNIX_EPOCH }
}

/// All that floor 0 does for one request: host, path, route, attempt, class, decision.
fn decide_plain_get(policy: &Policy, classes: &HashMap<Box<[u8]>, BotClass>, now: Now) -> Result<Permit, Denial> {
    let bad_request = |cause: &'static str| Denial::new(Reason::BadRequest, cause);
    let host = host_of(black_box(AUTHORITY)).ok_or_else(|| bad_request("host"))?;
    let site = policy.sites.resolve(policy.sites.named(Some(SERVER_NAME)), &host)?;
    let path = CanonicalPath::parse(black_box(TARGET)).map_err(|_| bad_request("path"))?;
    let route = site.route(&path)?;
    if site.attempts(route, &Method::GET, &path).next().is_some() {
        return Err(bad_request("a plain GET is no attempt"));
    }
    let bot = classes.get(black_box(BROWSER)).copied().unwrap_or(BotClass::NoUserAgent);
    let facts = Facts { cert: CertFact::Absent, bot, approval: ApprovalFact::Absent, address_ban: None, identity_ban: None };
    policy.decide(route, &facts, now)
}

fn bench_decision(c: &mut Criterion) {
    let classes = HashMap::from([(BROWSER.into(), BotClassifier::new().classify(Some(BROWSER)))]);
    for routes in [10, 100_000] {
        let policy = policy(routes);
        assert!(decide_plain_get(&policy, &classes, now()).is_ok());
        c.bench_function(&format!("decide/plain-get/{routes}-routes"), |b| b.iter(|| decide_plain_get(&policy, &classes, now())));
    }
}

fn bench_parts(c: &mut Criterion) {
    let policy = policy(1_000);
    c.bench_function("path/canonical", |b| b.iter(|| CanonicalPath::parse(black_box(TARGET))));
    c.bench_function("path/escaped", |b| b.iter(|| CanonicalPath::parse(black_box("/caf%c3%a9/%7Ealice?x=1"))));
    c.bench_function("host/resolve", |b| {
        b.iter(|| {
            host_of(black_box(AUTHORITY)).map(|host| policy.sites.resolve(policy.sites.named(Some(SERVER_NAME)), &host).is_ok())
        })
    });
    let nets: Nets = (0..100_000u32).map(|n| ipnet::Ipv4Net::new_assert((n << 12).into(), 24).into()).collect();
    c.bench_function("nets/contains-100k", |b| b.iter(|| nets.contains(black_box([192, 0, 2, 7].into()))));
}

fn bench_bots(c: &mut Criterion) {
    let classifier = BotClassifier::new();
    c.bench_function("bot/new", |b| b.iter(BotClassifier::new));
    c.bench_function("bot/classify-uncached", |b| b.iter(|| classifier.classify(black_box(Some(BROWSER)))));
}

criterion_group!(benches, bench_decision, bench_parts, bench_bots);
criterion_main!(benches);
