//! What the machine does to the gateway: kills, full and broken disks, a clock that jumps, no descriptors, a log that blocks.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::clock::ManualClock;
use doorward::net::ClientAddr;
use doorward::policy::ban::BanKey;
use doorward::state::bans::BanTable;
use doorward::state::store::embedded::EmbeddedStore;

use tokio::time::Instant;

use super::harness::{self, Gateway, House};
use super::report::Report;
use super::slow::{self, CONFIG, honest, plain_get};

/// `DOORWARD_KILLS` makes a shorter run.
const KILLS: u32 = 200;

pub fn play(report: &mut Report) {
    harness::use_binary(report.binary());
    killed(report);
    disk_full(report);
    unwritable(report);
    damaged(report);
    clock_steps(report);
    descriptors(report);
    blocked_log(report);
}

/// What the gateway acknowledged.
#[derive(Default)]
struct Promises {
    bans: BTreeSet<String>,
    revoked: BTreeSet<String>,
    /// Changes being made when the process was killed: they may hold or not.
    broken: u32,
}

/// Killed at random instants while bans and revocations are made and clients ask.
fn killed(report: &mut Report) {
    let house = Arc::new(House::new(CONFIG));
    let kills = std::env::var("DOORWARD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let promises = Arc::new(Mutex::new(Promises::default()));
    let number = Arc::new(AtomicU32::new(0));
    let (mut lost, mut failed_starts, mut slowest) = (0, 0, Duration::ZERO);
    let mut instant = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..=kills {
        let began = Instant::now();
        let gateway = match house.start() {
            Ok(gateway) => gateway,
            Err(said) => {
                failed_starts += 1;
                report.row("kill -9: a start afterwards", "ready", said, false);
                break;
            }
        };
        slowest = slowest.max(began.elapsed());
        lost += missing(&house, &promises.lock().expect("no panic"));
        if round == kills {
            break;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let operator = std::thread::spawn({
            let (house, promises, number, stop) = (house.clone(), promises.clone(), number.clone(), stop.clone());
            move || operate(&house, &promises, &number, &stop)
        });
        let load = house.runtime.spawn({
            let (house, to) = (house.clone(), gateway.https);
            async move { honest(&house, to, 1000).await }
        });
        instant ^= instant << 13;
        instant ^= instant >> 7;
        instant ^= instant << 17;
        std::thread::sleep(Duration::from_millis(20 + instant % 180));
        gateway.kill();
        stop.store(true, Ordering::SeqCst);
        load.abort();
        let _ = operator.join();
    }
    let promises = promises.lock().expect("no panic");
    let made = promises.bans.len() + promises.revoked.len();
    report.row(
        &format!("kill -9: {kills} times under load"),
        "0 acknowledged changes lost",
        format!("{lost} lost of {made} ({} were under way); slowest start {slowest:.1?}", promises.broken),
        lost == 0 && failed_starts == 0 && made > 0,
    );
}

/// Makes bans and revocations one after another, and keeps what was acknowledged.
fn operate(house: &House, promises: &Mutex<Promises>, number: &AtomicU32, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let next = number.fetch_add(1, Ordering::SeqCst);
        let kept = if next.is_multiple_of(4) { revoke(house, next) } else { ban(house, next) };
        let mut promises = promises.lock().expect("no panic");
        match kept {
            Some((true, id)) => drop(promises.revoked.insert(id)),
            Some((false, key)) => drop(promises.bans.insert(key)),
            None => promises.broken += 1,
        }
    }
}

fn ban(house: &House, number: u32) -> Option<(bool, String)> {
    let key = format!("198.{}.{}.{}", 18 + (number >> 16 & 1), number >> 8 & 255, number & 255);
    house.told(&["bans", "add", &key, "--reason", "attack"])?;
    Some((false, key))
}

fn revoke(house: &House, number: u32) -> Option<(bool, String)> {
    let name = format!("bot-{number}");
    #[rustfmt::skip]
    let id = house.told(&[
        "approvals", "request", "--kind", "bot", "--name", &name, "--owner", "Acme", "--contact", "ops@acme.example",
        "--purpose", "attack", "--site", "localhost", "--method", "GET", "--path", "/**", "--until", "2099-01-01",
    ])?;
    house.told(&["approvals", "revoke", &id, "--reason", "attack"])?;
    Some((true, id))
}

fn missing(house: &House, promises: &Promises) -> usize {
    let bans = house.told(&["bans", "list", "--json"]).unwrap_or_default();
    let approvals: serde_json::Value =
        house.told(&["approvals", "list", "--json"]).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let revoked: BTreeSet<&str> = approvals
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["status"] == "revoked")
        .filter_map(|one| one["id"].as_str())
        .collect();
    let bans_lost = promises.bans.iter().filter(|key| !bans.contains(&format!("\"{key}\""))).count();
    bans_lost + promises.revoked.iter().filter(|id| !revoked.contains(id.as_str())).count()
}

/// Files can grow no more, as on a full disk.
fn disk_full(report: &mut Report) {
    let house = House::new(&CONFIG.replace("{state}/access.log", "/dev/null").replace("{state}/events.log", "/dev/null"));
    drop(house.start().expect("a first start"));
    let size = fs::metadata(house.state().join("doorward.redb")).map_or(0, |found| found.len());
    let mut gateway = house.start_under(&format!("trap '' XFSZ\nulimit -f {}", size / 512)).expect("a gateway");
    let mut refused = None;
    for number in 0..2000 {
        let key = format!("198.18.{}.{}", number >> 8, number & 255);
        let output = house.command(&["bans", "add", &key, "--reason", &"x".repeat(200)]);
        if !output.status.success() {
            refused = Some((key, String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            break;
        }
    }
    let (key, said) = refused.unwrap_or_default();
    report.row("disk full: an operator's ban", "exit 1, says it is not on disk", &said, !key.is_empty());
    let holds = house.told(&["bans", "show", &key]).is_some_and(|text| text.contains(&key));
    report.row("disk full: that ban in memory", "holds", if holds { "holds" } else { "does not" }, holds);
    serves(report, "disk full: honest clients", &house, &mut gateway);
    let metric = house.runtime.block_on(plain_get(gateway.metrics, "/metrics"));
    let told = metric.lines().find(|line| line.starts_with("doorward_store_fail")).unwrap_or("no metric").to_owned();
    report.row("disk full: told by a metric", "> 0", &told, !told.ends_with(" 0") && told.starts_with("doorward"));
    drop(gateway);
    let again = house.start();
    report.row(
        "disk full: a start with room again",
        "ready",
        again.as_ref().map_or_else(|said| said.clone(), |_| "ready".into()),
        again.is_ok(),
    );
}

fn unwritable(report: &mut Report) {
    let house = House::new(&CONFIG.replace("state_dir = \"{state}\"", "state_dir = \"/proc/doorward\""));
    refuses(report, "store: a folder that cannot be written", &house, "/proc/doorward");
}

/// One page of the store turned over.
fn damaged(report: &mut Report) {
    let house = House::new(CONFIG);
    let gateway = house.start().expect("a gateway");
    for last in 0..200 {
        house.told(&["bans", "add", &format!("198.18.0.{last}"), "--reason", "attack"]);
    }
    stop(gateway);
    let path = house.state().join("doorward.redb");
    let whole = fs::read(&path).expect("a store");
    let at = find(&whole, b"198.18.0.1").expect("a row");
    let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a store");
    let mut page = [0; 64];
    file.seek(SeekFrom::Start(at as u64)).expect("a place");
    file.read_exact(&mut page).expect("bytes");
    file.seek(SeekFrom::Start(at as u64)).expect("a place");
    file.write_all(&page.map(|byte| !byte)).expect("written");
    drop(file);
    refuses(report, "store: a damaged page", &house, "damaged");
    fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    refuses(report, "store: cut in half", &house, "damaged");
    fs::write(&path, &whole).expect("written");
    let again = house.start();
    report.row("store: restored from a backup", "ready", if again.is_ok() { "ready" } else { "not ready" }, again.is_ok());
}

/// Civil time jumps by an hour; what is counted in windows does not follow it.
fn clock_steps(report: &mut Report) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(EmbeddedStore::open(folder.path()).expect("a store"));
    let clock = ManualClock::at("2026-05-01T12:00:00Z".parse().expect("a time"));
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let rules = super::tables::ban_rules(minutes(15));
    let bans = BanTable::load(store, &rules, clock.now()).expect("a table");
    let client = ClientAddr::new([203, 0, 113, 7].into(), 64);
    drop(bans.punish(BanKey::Net(client.key.net()), 5, clock.now()));
    let hour = Duration::from_secs(3600);
    let noon = clock.now().wall;
    clock.step_wall(noon - hour);
    let back = bans.of_client(&client, clock.now()).is_some();
    report.row("clock: an hour back", "the ban holds, an hour longer", if back { "holds" } else { "gone" }, back);
    clock.step_wall(noon);
    clock.advance(minutes(1));
    let returned = bans.of_client(&client, clock.now()).is_some();
    report.row("clock: set right again", "the ban holds to its end", if returned { "holds" } else { "gone" }, returned);
    clock.step_wall(noon + hour);
    let forth = bans.of_client(&client, clock.now()).is_none();
    report.row("clock: an hour forth", "a ban of 15 min is over", if forth { "over" } else { "holds" }, forth);
}

/// Fewer descriptors than connections that want one.
fn descriptors(report: &mut Report) {
    let house = House::new(&CONFIG.replace("handshake = \"2s\"", "handshake = \"60s\""));
    let mut gateway = house.start_under("ulimit -n 128").expect("a gateway");
    let crowd = house.runtime.block_on(async {
        let mut crowd = Vec::new();
        for number in 0..400 {
            crowd.extend(slow::tcp(gateway.https, 4096 + number).await.ok());
        }
        crowd
    });
    std::thread::sleep(Duration::from_millis(1200));
    let ready = house.runtime.block_on(plain_get(gateway.metrics, "/readyz"));
    report.row("descriptors: 400 silent clients for 128, /readyz", "200", &ready, ready.contains(" 200 "));
    let status = house.told(&["status"]).is_some();
    report.row("descriptors: the operators' door", "answers", if status { "answers" } else { "does not" }, status);
    serves(report, "descriptors: honest clients", &house, &mut gateway);
    let banned = house.told(&["bans", "add", "198.18.0.1"]).is_some();
    report.row("descriptors: a ban is kept", "on disk", if banned { "on disk" } else { "refused" }, banned);
    drop(crowd);
}

/// Both logs go into a pipe that nobody reads.
fn blocked_log(report: &mut Report) {
    let house = House::new(&CONFIG.replace("{state}/access.log", "{certs}/pipe").replace("{state}/events.log", "{certs}/pipe"));
    let pipe = house.pki.folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success());
    assert!(made, "mkfifo");
    let mut gateway = match house.start() {
        Ok(gateway) => gateway,
        Err(said) => return report.row("log blocks: a start", "ready", said, false),
    };
    let answered = house.runtime.block_on(async {
        let mut stream = slow::tls(&house, gateway.https, 50, None, b"http/1.1").await.expect("a handshake");
        let mut answered = 0;
        for _ in 0..2000 {
            answered += u32::from(slow::request(&mut stream).await.is_some());
        }
        answered
    });
    report.row("log blocks: 2,000 requests", "all answered", answered, answered == 2000);
    serves(report, "log blocks: honest newcomers", &house, &mut gateway);
    let reloaded = house.told(&["reload"]).is_some();
    report.row("log blocks: a reload", "taken over", if reloaded { "taken over" } else { "failed" }, reloaded);
    let began = Instant::now();
    let ended = stop(gateway);
    let took = began.elapsed();
    report.row(
        "log blocks: TERM",
        "ends within 10 s",
        format!("{ended} after {took:.1?}"),
        ended && took < Duration::from_secs(10),
    );
}

fn serves(report: &mut Report, case: &str, house: &House, gateway: &mut Gateway) {
    let (good, worst) = house.runtime.block_on(honest(house, gateway.https, 20));
    let alive = gateway.is_alive();
    report.row(
        case,
        "20 of 20 answered",
        format!("{good}, worst {worst:.0?}, {}", if alive { "alive" } else { "dead" }),
        good == 20 && alive,
    );
}

fn refuses(report: &mut Report, case: &str, house: &House, with: &str) {
    match house.start() {
        Ok(_) => report.row(case, "no start, and why", "it started", false),
        Err(said) => {
            let line = said.lines().find(|line| line.contains(with)).unwrap_or(&said).to_owned();
            report.row(case, "no start, and why", &line, line.contains(with));
        }
    }
}

/// `SIGTERM`; whether it ended by itself.
fn stop(mut gateway: Gateway) -> bool {
    let _ = Command::new("kill").arg(gateway.child.id().to_string()).status();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(15) {
        if !gateway.is_alive() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
