//! What a lookup costs against the number of keys, and what a key takes: `cargo bench --bench scale` prints the table.
//!
//! Keys are asked for at random, so that none is warm by accident: what a large table costs more than a small one is memory
//! that no cache holds, and the last line says what a plain hash map pays for that. Each table is measured in a process of
//! its own; memory is what the resident set grows by for a second copy of it, so that what building one leaves behind is
//! not counted.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use doorward::clock::{Clock, ManualClock, Now};
use doorward::config::{self, Config};
use doorward::net::ClientAddr;
use doorward::policy::approval::{ApprovalKind, ApprovalRules, Terms};
use doorward::policy::ban::BanKey;
use doorward::policy::bot::BotClass;
use doorward::policy::login::{AccountKey, Attempt, ExactAccount, LoginOutcome};
use doorward::policy::{ApprovalFact, CanonicalPath, CertFact, Facts, LimitId};
use doorward::state::accounts::Successes;
use doorward::state::approvals::{Approvals, TokenKey};
use doorward::state::bans::BanTable;
use doorward::state::guesses::{GuessLedger, Guesser};
use doorward::state::limits::{Charges, LimitSubject, Limits};
use doorward::state::store::{Change, Durable, Rows, Store, StoreError, Table};
use doorward::tls::TlsState;
use foldhash::fast::RandomState;
use rustls::server::Acceptor;
use serde::{Deserialize, Serialize};

/// Lookups timed together, and how often; the median of the batches counts.
const BATCH: usize = 1024;
const BATCHES: usize = 61;
const HOST: &str = "portal.example.com";
/// Tokens that are presented: as many as have their verdict remembered, and some room.
const TOKENS: usize = 16_000;

/// One kind of key.
struct Subject {
    name: &'static str,
    sizes: [usize; 3],
    measure: fn(usize) -> Measured,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    costs: Vec<(String, f64)>,
    /// More is not held: beyond it keys share.
    held: usize,
    bytes: f64,
}

const FEW_TO_MANY: [usize; 3] = [10, 10_000, 1_000_000];
const SUBJECTS: [Subject; 7] = [
    Subject { name: "routes", sizes: [1, 1_000, 100_000], measure: routes },
    Subject { name: "bans", sizes: FEW_TO_MANY, measure: bans },
    Subject { name: "limit keys", sizes: FEW_TO_MANY, measure: limits },
    Subject { name: "guesses", sizes: FEW_TO_MANY, measure: guesses },
    Subject { name: "approvals", sizes: FEW_TO_MANY, measure: approvals },
    Subject { name: "certificates", sizes: [1, 100, 10_000], measure: certificates },
    Subject { name: "plain hash map", sizes: FEW_TO_MANY, measure: plain_map },
];

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &asked.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => tables(),
        ["sites", count, directory] => print!("{}", sites(count.parse().expect("a number"), Path::new(directory))),
        [name, size] => {
            let subject = SUBJECTS.iter().find(|subject| subject.name == *name).expect("one of them");
            let measured = (subject.measure)(size.parse().expect("a number"));
            println!("{}", serde_json::to_string(&measured).expect("JSON"));
        }
        _ => panic!("nothing, or `sites COUNT DIRECTORY` for benches/peers/scale.py"),
    }
}

fn tables() {
    println!("| keys | cost of | few | many | most | most over few | bytes a key |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    SUBJECTS.iter().for_each(table);
}

/// The lines of one subject, each size from a process of its own.
fn table(subject: &Subject) {
    let [few, many, most] = subject.sizes.map(|size| {
        let this = std::env::current_exe().expect("a path");
        let output = Command::new(this).args([subject.name, &size.to_string()]).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Measured>(&output.stdout).expect("JSON")
    });
    let held = if most.held < subject.sizes[2] { format!(", {} of them held", grouped(most.held)) } else { String::new() };
    let mut keys = format!("{} {}{held}", subject.sizes.map(grouped).join("; "), subject.name);
    let mut bytes = grouped(most.bytes.round() as usize);
    for (((cost, least), (_, middle)), (_, largest)) in few.costs.iter().zip(&many.costs).zip(&most.costs) {
        let growth = largest / least;
        println!("| {keys} | {cost} | {} | {} | {} | {growth:.1} | {bytes} |", time(*least), time(*middle), time(*largest));
        keys.clear();
        bytes.clear();
    }
}

/// A site whose routes lie under a hundred areas; what every request for a page is asked before it is forwarded.
fn routes(count: usize) -> Measured {
    let path = |number: usize| format!("/area{}/part{number}", number % 100);
    let listed: String = (0..count)
        .map(|number| format!("[[site.route]]\npath = \"{}\"\nupstream = \"application\"\nbots = \"any\"\n", path(number)))
        .collect();
    let text = format!("{COMMON}[[site]]\nhosts = [\"{HOST}\"]\n{listed}");
    let (config, bytes) = grown(|| config(&text));
    let (policy, now) = (&config.policy, noon());
    let facts = Facts {
        cert: CertFact::Absent,
        bot: BotClass::Unmarked,
        approval: ApprovalFact::Absent,
        address_ban: None,
        identity_ban: None,
    };
    let decide = |target: &String| {
        let site = policy.sites.resolve(policy.sites.named(Some(HOST)), HOST).ok()?;
        let path = CanonicalPath::parse(target).ok()?;
        policy.decide(site.route(&path).ok()?, &facts, now).ok()
    };
    assert!(decide(&path(count - 1)).is_some());
    let decision = median(|random| format!("{}/2026/17?view=full", path(random.below(count))), decide);
    measured(&[("path, route and decision", decision)], count, bytes)
}

/// Clients banned after failed logins, and two wide nets, so that two lengths are looked up.
fn bans(count: usize) -> Measured {
    let now = noon();
    let rules = &config(COMMON).policy.bans;
    let (table, bytes) = grown(|| {
        let table = BanTable::load(Shelf::new(), rules, now).expect("loaded");
        for net in ["198.51.100.0/24", "2001:dba::/32"] {
            let key = BanKey::Net(net.parse().expect("a net"));
            drop(table.add(key, None, "bench".into(), "bench".into(), now).expect("banned"));
        }
        for number in 0..count {
            drop(table.punish(BanKey::Net(client(number).key.net()), 5, now).expect("banned"));
        }
        table
    });
    let banned = median(|random| client(random.below(count)), |client| table.of_client(client, now));
    let free = median(|random| client(count + random.below(count)), |client| table.of_client(client, now));
    measured(&[("a banned client", banned), ("a free client", free)], table.len(), bytes)
}

/// Buckets of one limit by client.
fn limits(count: usize) -> Measured {
    let now = noon();
    let specs = &config(COMMON).policy.limits;
    let charge = |limits: &Limits, client: &ClientAddr| {
        let subject = LimitSubject { client: Some(client.key), ..LimitSubject::default() };
        limits.charge(specs, &[LimitId(0)], &subject, &mut Charges::default(), now).is_ok()
    };
    let (limits, bytes) = grown(|| {
        let limits = Limits::new(specs);
        (0..count).for_each(|number| assert!(charge(&limits, &client(number))));
        limits
    });
    let charged = median(|random| client(random.below(count)), |client| charge(&limits, client));
    measured(&[("a charge", charged)], limits.len(), bytes)
}

/// Clients that failed once, each with an account of its own: two keys a guess.
fn guesses(count: usize) -> Measured {
    let now = noon();
    let budgets = config(COMMON).policy.guesses;
    let guess = |number: usize| {
        let name = format!("user{number}");
        let exact = ExactAccount::new("portal.example.com", "form", name.as_bytes());
        (Guesser::Client(client(number).key), Attempt { account: AccountKey(name.into()), exact, secret: None, rest: None })
    };
    let settle = |ledger: &Arc<GuessLedger>, (who, attempt): &(Guesser, Attempt), outcome| {
        ledger.reserve(who.clone(), attempt, now).map(|permit| permit.settle(outcome, now)).is_ok()
    };
    let (ledger, bytes) = grown(|| {
        let successes = Arc::new(Successes::load(Shelf::new(), now).expect("loaded"));
        let ledger = Arc::new(GuessLedger::new(budgets, successes, Clock::from(ManualClock::at(now.wall))));
        for number in 0..count {
            // Beyond the bound a group's budget may be spent.
            let _ = settle(&ledger, &guess(number), LoginOutcome::Failed);
        }
        ledger
    });
    let reserved = median(|random| guess(random.below(count)), |guess| settle(&ledger, guess, LoginOutcome::Unsent));
    measured(&[("reserved, and given back or refused", reserved)], ledger.len() / 2, bytes)
}

/// Active approvals; tokens of no more than [`TOKENS`] are shown.
fn approvals(count: usize) -> Measured {
    const TOGETHER: usize = 250;
    let now = noon();
    let directory = tempfile::tempdir().expect("a directory");
    let load = |shelf| {
        let key = TokenKey::load(&directory.path().join("approvals.key"), true).expect("a key");
        Approvals::load(shelf, key, ApprovalRules::default(), now).expect("loaded")
    };
    // Made some at a time, and put together on one shelf.
    let mut tokens = Vec::new();
    let mut rows = Rows::new();
    while tokens.len() < count.min(TOKENS) {
        let shelf = Shelf::new();
        let some = load(shelf.clone());
        for _ in 0..TOGETHER.min(count - tokens.len()) {
            let id = some.request(terms(now), "op".into(), now).expect("requested").0.id.clone();
            tokens.push((id.clone(), some.activate(&id, "op".into(), now).expect("active").1));
        }
        rows.extend(shelf.take());
    }
    let ids = tokens.len();
    for number in ids..count {
        let ((key, value), id) = (&rows[number % ids], format!("{number:a>20}"));
        let model = String::from_utf8_lossy(value);
        let row = model.replace(&*String::from_utf8_lossy(key), &id).into_bytes();
        rows.push((id.into_bytes(), row));
    }
    let shelf = Arc::new(Shelf(Mutex::new(rows.into_iter().collect())));
    let (approvals, bytes) = grown(|| load(shelf.clone()));
    let present = |(_, token): &(String, String)| approvals.present(token.as_bytes()).is_ok();
    let first = middle(tokens.iter().map(|token| once(|| assert!(present(token)))).collect());
    let known = median(|random| random.below(ids), |at| present(&tokens[*at]));
    let change = |(id, _): &(String, String)| drop(approvals.suspend(id, "bench".into(), "op".into(), now).expect("suspended"));
    let change = middle(tokens.iter().take(99).map(|token| once(|| change(token))).collect());
    measured(&[("a token's first time", first), ("a known token", known), ("a change to one", change)], count, bytes)
}

/// Sites with a certificate each, asked for by SNI.
fn certificates(count: usize) -> Measured {
    let directory = tempfile::tempdir().expect("a directory");
    let sites = sites(count, directory.path());
    let config = config(&format!("[listen]\nhttps = [\"127.0.0.1:8443\"]\n{APPLICATION}{sites}"));
    let (state, bytes) = grown(|| TlsState::prepare(&config, None).expect("loaded"));
    let found = median(|random| site_name(random.below(count)), |name| state.server(Some(name)).is_ok());
    let answered = median(
        |random| hello(site_name(random.below(count))),
        |hello| {
            let mut acceptor = Acceptor::default();
            acceptor.read_tls(&mut hello.as_slice()).expect("read");
            let accepted = acceptor.accept().ok().flatten().expect("a ClientHello");
            let choice = state.server(accepted.client_hello().server_name()).expect("a site");
            accepted.into_connection(choice.config).expect("answered")
        },
    );
    measured(&[("a site's TLS by SNI", found), ("a ClientHello answered", answered)], count, bytes)
}

/// What the standard map with a quick hash pays for memory that no cache holds.
fn plain_map(count: usize) -> Measured {
    let (map, bytes) = grown(|| (0..count).map(|number| (scattered(number), 0)).collect::<HashMap<_, u64, RandomState>>());
    // Each waits for the one before, as a request waits for its own; the processor cannot know that they find nothing but 0.
    let before = Cell::new(0);
    let found = median(
        |random| scattered(random.below(count)),
        |key| before.set(map.get(&(key ^ before.get())).copied().unwrap_or_default()),
    );
    measured(&[("a lookup", found)], count, bytes)
}

const APPLICATION: &str = "[upstream.application]\nservers = [\"http://127.0.0.1:8080\"]\n";
const COMMON: &str = r#"
[listen]
https = ["127.0.0.1:8443"]
[tls]
certificate = [{ chain = "chain.pem", key = "key.pem" }]
[limit.per-client]
key = "client"
rate = "1000000/s"
[upstream.application]
servers = ["http://127.0.0.1:8080"]
"#;

fn config(text: &str) -> Config {
    // One without a site serves nothing, which it says.
    let text = if text.contains("[[site]]") { text.to_owned() } else { format!("{text}{}", a_site("\"a.example\"")) };
    config::compile_str(Path::new("doorward.toml"), text).unwrap_or_else(|found| panic!("{}", found.render(false))).0
}

fn a_site(hosts: &str) -> String {
    format!("[[site]]\nhosts = [{hosts}]\n[[site.route]]\npath = \"/\"\nupstream = \"application\"\nlimits = [\"per-client\"]\n")
}

/// The part of a config with that many sites, each with a self-signed certificate of its own, which is written there.
fn sites(count: usize, directory: &Path) -> String {
    let site = |number| {
        let name = site_name(number);
        let made = rcgen::generate_simple_self_signed([name.clone()]).expect("a certificate");
        let (chain, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&chain, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        // A key that others may read is refused.
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("made private");
        format!(
            "[[tls.certificate]]\nchain = {chain:?}\nkey = {key:?}\n\
             [[site]]\nhosts = [{name:?}]\n[[site.route]]\npath = \"/\"\nupstream = \"application\"\nbots = \"any\"\n"
        )
    };
    (0..count).map(site).collect()
}

fn site_name(number: usize) -> String {
    format!("site{number}.example.com")
}

/// The first bytes of a client that offers X25519.
fn hello(name: String) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.try_into().expect("a name");
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).expect("a client").write_tls(&mut bytes).expect("in memory");
    bytes
}

fn terms(now: Now) -> Terms {
    Terms {
        kind: ApprovalKind::Bot,
        name: "acme-sync".into(),
        owner: "Acme Ltd".into(),
        contact: "ops@acme.example".into(),
        purpose: "nightly order import".into(),
        sites: vec![HOST.into()],
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
        requested_at: now.wall,
    }
}

/// Half of them IPv4 addresses, half IPv6 prefixes, none beside another.
fn client(number: usize) -> ClientAddr {
    let scattered = (number / 2) as u32;
    let scattered = scattered.wrapping_mul(2_654_435_761);
    let ip: IpAddr = match number % 2 {
        0 => Ipv4Addr::from(scattered).into(),
        _ => Ipv6Addr::from((0x2001_0db8_u128 << 96) | (u128::from(scattered) << 64)).into(),
    };
    ClientAddr::new(ip, 64)
}

fn scattered(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn noon() -> Now {
    Now { instant: std::time::Duration::from_secs(60), wall: "2026-12-01T12:00:00Z".parse().expect("a time") }
}

/// Keeps approvals in memory until they are asked for; the rest of what is written is nobody's here.
struct Shelf(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Shelf {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn take(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        std::mem::take(&mut *self.0.lock().expect("whole"))
    }
}

impl Store for Shelf {
    fn load(&self, table: Table) -> Result<Rows, StoreError> {
        let kept = self.0.lock().expect("whole");
        Ok(if table == Table::Approvals { kept.clone().into_iter().collect() } else { Rows::new() })
    }

    fn write(&self, batch: Vec<Change>) -> Durable {
        for change in batch {
            if let Change::Put { table: Table::Approvals, key, value } = change {
                self.0.lock().expect("whole").insert(key, value);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self) {}

    fn describe(&self) -> String {
        "a shelf".to_owned()
    }
}

/// The second copy of it, and what that took.
fn grown<T>(make: impl Fn() -> T) -> (T, f64) {
    let first = make();
    let before = resident();
    let second = make();
    let bytes = resident() - before;
    drop(first);
    (second, bytes)
}

/// Bytes in memory, to a page.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
}

/// Nanoseconds of one act: its keys are made before the time runs, its results are dropped within it.
fn median<K, R>(mut key: impl FnMut(&mut Random) -> K, mut act: impl FnMut(&K) -> R) -> f64 {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let batches = (0..BATCHES).map(|_| {
        let keys: Vec<K> = (0..BATCH).map(|_| key(&mut random)).collect();
        let started = Instant::now();
        for key in &keys {
            black_box(act(black_box(key)));
        }
        started.elapsed().as_nanos() as f64 / BATCH as f64
    });
    middle(batches.collect())
}

/// What cannot be done twice.
fn once<R>(act: impl FnOnce() -> R) -> f64 {
    let started = Instant::now();
    black_box(act());
    started.elapsed().as_nanos() as f64
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Marsaglia's xorshift: the same keys in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn measured(costs: &[(&str, f64)], held: usize, bytes: f64) -> Measured {
    let costs = costs.iter().map(|(name, nanos)| ((*name).to_owned(), *nanos)).collect();
    Measured { costs, held, bytes: bytes / held as f64 }
}

fn time(nanos: f64) -> String {
    match nanos {
        ..1e4 => format!("{nanos:.0} ns"),
        ..1e7 => format!("{:.1} µs", nanos / 1e3),
        _ => format!("{:.0} ms", nanos / 1e6),
    }
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
