//! What the controls of one request cost that have no bench of their own: guesses, an approval's token, a client's chain, headers,
//! the refusal and the record.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use criterion::{Criterion, criterion_group, criterion_main};
use doorward::cli::demo::stage::Pki;
use doorward::clock::{Clock, ManualClock, Now};
use doorward::config::{self, Log, LogFormat, LogTarget};
use doorward::events::{DecisionId, Events, RequestRecord};
use doorward::gateway::Connection;
use doorward::gateway::headers::{self, Upward};
use doorward::gateway::respond::{self, Asked};
use doorward::net::{ClientAddr, Nets};
use doorward::policy::approval::{ApprovalKind, ApprovalRules, Party, Signer, Terms};
use doorward::policy::ban::{BanAnswer, BanRules, GuessBudget, GuessBudgets};
use doorward::policy::bot::BotClass;
use doorward::policy::denial::LimitState;
use doorward::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};
use doorward::policy::route::{BotRule, CertDemand, Sites};
use doorward::policy::{
    ApprovalFact, CertFact, Denial, Facts, Permit, Policy, PolicyDocument, Reason, Route, RouteId, SiteId, UpstreamId,
};
use doorward::state::accounts::Successes;
use doorward::state::approvals::{Approvals, TokenKey};
use doorward::state::guesses::{GuessLedger, Guesser};
use doorward::state::store::embedded::EmbeddedStore;
use doorward::tls::TlsState;
use http::{HeaderMap, HeaderValue, Version};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";
const BUDGETS: GuessBudgets = GuessBudgets {
    per_client: GuessBudget { failures: 5, within: Duration::from_secs(600) },
    per_account: GuessBudget { failures: 50, within: Duration::from_secs(3600) },
};

fn client() -> ClientAddr {
    ClientAddr::new(Ipv4Addr::new(203, 0, 113, 7).into(), 64)
}

fn noon() -> Now {
    Now { instant: Duration::from_secs(60), wall: "2026-12-01T12:00:00Z".parse().expect("a time") }
}

fn store(directory: &tempfile::TempDir) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(directory.path()).expect("a store"))
}

fn guesses(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let now = noon();
    let successes = Arc::new(Successes::load(store(&directory), now).expect("loaded"));
    let clock = Clock::from(ManualClock::at(now.wall));
    let ledger = Arc::new(GuessLedger::new(BUDGETS, successes, clock));
    let exact = ExactAccount::new("portal.example.com", "form", b"alice");
    let attempt = Attempt { account: AccountKey("alice".into()), exact, secret: None, rest: None };
    let who = Guesser::Client(client().key);
    criterion.bench_function("guesses/reserved and settled as fine", |bencher| {
        bencher.iter(|| {
            let permit = ledger.reserve(black_box(who.clone()), black_box(&attempt), now).ok()?;
            Some(permit.settle(LoginOutcome::Unsent, now).ban.is_some())
        })
    });
    while ledger.reserve(who.clone(), &attempt, now).map(|permit| permit.settle(LoginOutcome::Failed, now)).is_ok() {}
    criterion.bench_function("guesses/refused", |bencher| {
        bencher.iter(|| ledger.reserve(black_box(who.clone()), black_box(&attempt), now).is_err())
    });
}

fn approvals(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let signer = Ed25519KeyPair::generate().expect("a key");
    let public_key = signer.public_key().as_ref().try_into().expect("32 bytes");
    let rules = ApprovalRules {
        signers: vec![Signer { name: "alice".into(), public_key, party: Party::Provider }],
        require_bot: vec![Party::Provider],
    };
    let key = TokenKey::load(&directory.path().join("approvals.key"), true).expect("a key");
    let approvals = Approvals::load(store(&directory), key, rules, noon()).expect("loaded");
    let terms = Terms {
        kind: ApprovalKind::Bot,
        name: "acme-sync".into(),
        owner: "Acme Ltd".into(),
        contact: "ops@acme.example".into(),
        purpose: "nightly order import".into(),
        sites: vec!["portal.example.com".into()],
        methods: vec!["GET".into()],
        paths: vec!["/orders/**".into()],
        rate: None,
        hours: None,
        not_before: None,
        until: "2027-07-01T00:00:00Z".parse().expect("a time"),
        from: Vec::new(),
        binding: None,
        policy_id: "bench".into(),
        policy_version: "1".into(),
        requested_at: noon().wall,
    };
    let id = approvals.request(terms, "op".into(), noon()).expect("requested").0.id.clone();
    let signature = signer.sign(&approvals.get(&id).expect("it").canonical_bytes());
    drop(approvals.sign(&id, "alice", signature.as_ref(), "alice".into(), noon()).expect("signed"));
    let token = approvals.activate(&id, "op".into(), noon()).expect("active").1;
    assert!(approvals.present(token.as_bytes()).is_ok());
    criterion
        .bench_function("approvals/token", |bencher| bencher.iter(|| approvals.present(black_box(token.as_bytes())).is_ok()));
    let mut forged = token.into_bytes();
    if let Some(byte) = forged.get_mut(80) {
        *byte ^= 1;
    }
    criterion.bench_function("approvals/forged token", |bencher| bencher.iter(|| approvals.present(black_box(&forged)).is_err()));
}

/// A leaf that its root issued, and the list of revoked ones that the root signed: two signatures.
fn certificates(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().display();
    Pki::make(directory.path(), &["portal.test"]).expect("certificates");
    let text = format!(
        r#"
[listen]
https = ["127.0.0.1:8443"]
[tls]
[[tls.certificate]]
chain = "{folder}/portal.crt"
key = "{folder}/portal.key"
[client_ca.acme]
roots = ["{folder}/acme-ca.pem"]
crls = ["{folder}/acme-ca.crl"]
tenant = "acme"
roles = []
[upstream.portal]
servers = ["http://127.0.0.1:9000"]
[[site]]
hosts = ["portal.test"]
client_ca = ["acme"]
  [[site.route]]
  path = "/"
  upstream = "portal"
"#
    );
    let config =
        config::compile_str(Path::new("doorward.toml"), text).unwrap_or_else(|found| panic!("{}", found.render(false))).0;
    let state = TlsState::prepare(&config, None).expect("loaded");
    let chain = CertificateDer::pem_file_iter(directory.path().join("good.crt")).expect("a chain");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a chain");
    let now = Clock::system().now();
    assert!(state.judge(SiteId(0), &chain, now).result.is_ok());
    criterion.bench_function("certificates/a leaf and its list", |bencher| {
        bencher.iter(|| state.judge(SiteId(0), black_box(&chain), now));
    });
}

fn permit() -> Permit {
    let route = Route {
        id: RouteId(0),
        site: SiteId(0),
        label: "portal.example.com/".into(),
        path: String::new(),
        exact: false,
        upstream: UpstreamId(0),
        login: None,
        bots: BotRule::Any,
        client_cert: CertDemand::None,
        allow: None,
        limits: Vec::new(),
        body: 1 << 20,
    };
    let policy = Policy {
        document: PolicyDocument { id: "bench".into(), version: "1".into(), contact: None },
        sites: Sites::default(),
        limits: Vec::new(),
        guesses: BUDGETS,
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
    };
    let facts = Facts {
        cert: CertFact::Absent,
        bot: BotClass::Unmarked,
        approval: ApprovalFact::Absent,
        address_ban: None,
        identity_ban: None,
    };
    policy.decide(&route, &facts, noon()).expect("nothing is asked for")
}

fn head() -> HeaderMap {
    let lines = [
        ("host", "portal.example.com"),
        ("user-agent", BROWSER),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en,de;q=0.5"),
        ("accept-encoding", "gzip, deflate, br"),
        ("referer", "https://portal.example.com/orders"),
        ("cookie", "session=0123456789abcdef"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
    ];
    lines.into_iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn exchanged_headers(criterion: &mut Criterion) {
    let permit = permit();
    let connection = Connection::new(client().ip, client(), Some("portal.example.com".into()), Vec::new(), "TLSv1.3");
    let decision = headers::decision(DecisionId(7));
    let up = Upward {
        connection: &connection,
        client: client().ip,
        believed: &[],
        host: "portal.example.com",
        decision: &decision,
        permit: &permit,
        held_chain: false,
    };
    let browser = head();
    criterion.bench_function("headers/copy of a browser's head", |bencher| bencher.iter(|| black_box(&browser).clone()));
    criterion.bench_function("headers/copy and towards the application", |bencher| {
        bencher.iter(|| {
            let mut headers = black_box(&browser).clone();
            headers::towards_upstream(&mut headers, &up);
            headers
        })
    });
    let answer: HeaderMap =
        [("server", "app"), ("content-type", "text/html"), ("content-length", "1024"), ("connection", "keep-alive")]
            .into_iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
    criterion.bench_function("headers/copy and towards the client", |bencher| {
        bencher.iter(|| {
            let mut headers = black_box(&answer).clone();
            headers::towards_client(&mut headers, headers::decision(DecisionId(7)), Some("portal.example.com"));
            headers
        })
    });
}

fn refusals_and_records(criterion: &mut Criterion) {
    let document = PolicyDocument { id: "bench".into(), version: "1".into(), contact: None };
    let mut denial = Denial::new(Reason::RateLimited, "limit per-client").retry_after(Duration::from_secs(5));
    denial.limit = Some(LimitState { name: "per-client".into(), quota: 40, window: 20, remaining: 0, reset: 5 });
    criterion.bench_function("respond/refused by a limit", |bencher| {
        bencher.iter(|| respond::denial(black_box(&denial), headers::decision(DecisionId(7)), &Asked::default(), &document))
    });

    let nowhere = LogTarget::File("/dev/null".into());
    let log = Log { access: nowhere.clone(), format: LogFormat::Json, events: nowhere };
    let events = Events::open(&log).expect("a log");
    let addresses: [IpAddr; 2] = [client().ip, client().ip];
    let record = RequestRecord {
        host: Some("portal.example.com".into()),
        target: Some(http::uri::PathAndQuery::from_static("/orders/2026/17?view=full")),
        route: Some((RouteId(0), "portal.example.com/orders".into())),
        status: 200,
        bot: Some(BotClass::Unmarked.as_str()),
        upstream: Some("http://127.0.0.1:8080".into()),
        tls: Some("TLSv1.3"),
        bytes_out: 1024,
        took: Duration::from_micros(731),
        user_agent: Some(HeaderValue::from_static(BROWSER)),
        ..RequestRecord::begun(DecisionId(7), Timestamp::UNIX_EPOCH, 1, addresses, Version::HTTP_11)
    };
    criterion.bench_function("record/told, line and metrics", |bencher| bencher.iter(|| events.request(black_box(&record))));
}

criterion_group!(benches, guesses, approvals, certificates, exchanged_headers, refusals_and_records);
criterion_main!(benches);
