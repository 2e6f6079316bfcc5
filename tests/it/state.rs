//! What was acknowledged outlives the process; a store that cannot be trusted is refused and left as it was.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{House, lines_with, open_house};
use crate::support::{admin, browser, random, run};

/// Crashes in the ordinary run.
const ROUNDS: u64 = 24;

const REQUEST: &str = r#"{"kind":"bot","name":"sync","owner":"Acme","contact":"ops@acme.example","purpose":"import",
    "sites":["localhost"],"methods":["GET"],"paths":["/orders/**"],"until":"2099-01-01"}"#;

/// What the gateway has acknowledged.
#[derive(Default)]
struct Acknowledged {
    bans: Vec<String>,
    lifted: Vec<String>,
    /// The last stage of an approval, and its token.
    approvals: HashMap<String, (&'static str, String)>,
}

#[test]
fn everything_acknowledged_is_there_after_kill_9_at_any_instant() {
    let house = House::new(&open_house());
    let told = Arc::new(Mutex::new(Acknowledged::default()));
    for round in 0..ROUNDS {
        let gateway = house.start();
        compare(&house, &told.lock().expect("unpoisoned"));
        let over = Arc::new(AtomicBool::new(false));
        let socket = house.state().join("admin.sock");
        let work = |job: fn(&Path, u64, u64, &Mutex<Acknowledged>) -> std::io::Result<()>| {
            let (socket, told, over) = (socket.clone(), Arc::clone(&told), Arc::clone(&over));
            std::thread::spawn(move || {
                for turn in 0.. {
                    // The socket that breaks is the crash: what it was asked for last was not acknowledged.
                    if over.load(Ordering::SeqCst) || job(&socket, round, turn, &told).is_err() {
                        break;
                    }
                }
            })
        };
        let workers = [work(ban), work(ban_and_lift), work(approve)];
        std::thread::sleep(Duration::from_micros(random() % 120_000));
        gateway.kill();
        over.store(true, Ordering::SeqCst);
        workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    }
    let gateway = house.start();
    let told = told.lock().expect("unpoisoned");
    compare(&house, &told);
    assert!(told.bans.len() as u64 > ROUNDS && !told.lifted.is_empty() && told.approvals.len() > 3, "the rounds did work");
    run(async {
        for (stage, token) in told.approvals.values().filter(|(_, token)| !token.is_empty()) {
            let request = browser("GET", "/orders/1").header("doorward-approval", token);
            let answer = gateway.visitor([8, 1]).send(request, "").await.expect("an answer").told();
            let expected: &[&str] =
                if *stage == "revoked" { &["403 approval-revoked"] } else { &["200", "403 approval-revoked"] };
            assert!(expected.contains(&answer.as_str()), "a token whose approval is {stage}: {answer}");
        }
    });
}

/// Everything acknowledged is there; what was only asked for may be.
fn compare(house: &House, told: &Acknowledged) {
    let socket = house.state().join("admin.sock");
    let bans: Value = serde_json::from_str(&admin(&socket, "GET", "/bans", "").expect("an answer").1).expect("JSON");
    let live: Vec<&str> = bans.as_array().expect("a list").iter().filter_map(|ban| ban["key"].as_str()).collect();
    for key in &told.bans {
        assert!(live.contains(&key.as_str()), "the ban of {key} was acknowledged and is gone");
    }
    for key in &told.lifted {
        assert!(!live.contains(&key.as_str()), "{key} was lifted and is banned again");
    }
    let approvals: Value = serde_json::from_str(&admin(&socket, "GET", "/approvals", "").expect("an answer").1).expect("JSON");
    const STAGES: [&str; 4] = ["requested", "signed", "active", "revoked"];
    let stage = |name: &str| STAGES.iter().position(|stage| *stage == name).unwrap_or_else(|| panic!("what is {name}?"));
    for (id, (acknowledged, _)) in &told.approvals {
        let found = approvals.as_array().expect("a list").iter().find(|approval| approval["id"] == id.as_str());
        let found = found.unwrap_or_else(|| panic!("approval {id} was acknowledged and is gone"));
        let signed = found["signatures"].as_array().is_some_and(|signatures| !signatures.is_empty());
        let status = found["status"].as_str().expect("a status");
        let status = if signed && status == "requested" { "signed" } else { status };
        assert!(stage(status) >= stage(acknowledged), "{id} was acknowledged as {acknowledged} and is {status}");
    }
}

fn ban(socket: &Path, round: u64, turn: u64, told: &Mutex<Acknowledged>) -> std::io::Result<()> {
    let key = format!("10.{round}.{}.{}", turn / 250, turn % 250);
    let (status, answer) = admin(socket, "POST", "/bans/add", &format!("{{\"key\":\"{key}\"}}"))?;
    assert_eq!(status, 200, "{answer}");
    told.lock().expect("unpoisoned").bans.push(key);
    Ok(())
}

fn ban_and_lift(socket: &Path, round: u64, turn: u64, told: &Mutex<Acknowledged>) -> std::io::Result<()> {
    let key = format!("account:mallory-{round}-{turn}");
    let body = format!("{{\"key\":\"{key}\"}}");
    assert_eq!(admin(socket, "POST", "/bans/add", &body)?.0, 200);
    assert_eq!(admin(socket, "POST", "/bans/lift", &body)?.0, 200);
    told.lock().expect("unpoisoned").lifted.push(key);
    Ok(())
}

fn approve(socket: &Path, _round: u64, turn: u64, told: &Mutex<Acknowledged>) -> std::io::Result<()> {
    if turn > 8 {
        return Err(std::io::ErrorKind::Other.into());
    }
    let note = |id: &str, stage, token: &str| {
        told.lock().expect("unpoisoned").approvals.insert(id.to_owned(), (stage, token.to_owned()));
    };
    let (status, answer) = admin(socket, "POST", "/approvals", REQUEST)?;
    assert_eq!(status, 200, "{answer}");
    let id = value(&answer, "id");
    note(&id, "requested", "");
    let payload = value(&admin(socket, "GET", &format!("/approvals/{id}/payload"), "")?.1, "payload");
    let signature = sign(socket, &payload);
    let body = format!("{{\"signer\":\"alice\",\"signature\":\"{signature}\"}}");
    let (status, answer) = admin(socket, "POST", &format!("/approvals/{id}/sign"), &body)?;
    assert_eq!(status, 200, "{answer}");
    note(&id, "signed", "");
    let token = value(&admin(socket, "POST", &format!("/approvals/{id}/activate"), "")?.1, "token");
    note(&id, "active", &token);
    if turn.is_multiple_of(2) {
        assert_eq!(admin(socket, "POST", &format!("/approvals/{id}/revoke"), "")?.0, 200);
        note(&id, "revoked", &token);
    }
    Ok(())
}

fn sign(socket: &Path, payload: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let certs = socket.parent().and_then(Path::parent).expect("the house").join("certs");
    let pem = std::fs::read_to_string(certs.join("alice.key")).expect("a key");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let key = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&STANDARD.decode(body).expect("PEM")).expect("a key");
    STANDARD.encode(key.sign(&STANDARD.decode(payload).expect("base64")))
}

fn value(json: &str, key: &str) -> String {
    let answer: Value = serde_json::from_str(json).expect("JSON");
    answer[key].as_str().unwrap_or_else(|| panic!("no {key} in {json}")).to_owned()
}

#[test]
fn a_ban_by_guessing_is_there_after_kill_9() {
    let house = House::new(&open_house());
    let gateway = house.start();
    run(async {
        let guesser = gateway.visitor([8, 2]);
        for guess in 0..5 {
            guesser.sign_in("alice", &format!("wrong-{guess}")).await.expect("an answer");
        }
        assert_eq!(guesser.get("/").await.expect("an answer").told(), "403 banned");
    });
    // The event says that the ban is on disk.
    crate::support::process::eventually("the ban's event", || {
        lines_with(&house.state().join("events.log"), &["ban.made", "127.0.8.2", "\"durable\":true"]).pop()
    });
    gateway.kill();
    let gateway = house.start();
    run(async { assert_eq!(gateway.visitor([8, 2]).get("/").await.expect("an answer").told(), "403 banned") });
}

#[test]
fn a_second_gateway_on_the_same_state_is_refused_and_the_first_notices_nothing() {
    let house = House::new(&open_house());
    let first = house.start();
    let text = std::fs::read_to_string(&house.config).expect("a config");
    // The same addresses too: a unit file started twice.
    let fixed = text.replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"{}\"]", first.https));
    let others = text
        .replace("state\"\nworkers", "elsewhere\"\nworkers")
        .replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"{}\"]", first.https));
    run(async {
        let mut line = first.visitor([8, 3]).line().await.expect("a connection");
        for (config, status, told) in
            [(&text, 1, "another gateway holds it"), (&fixed, 1, "cannot listen on"), (&others, 1, "cannot listen on")]
        {
            // A file of its own: the first one watches its own.
            let file = house.folder.path().join("second.toml");
            std::fs::write(&file, config).expect("a config");
            let flood = tokio::spawn({
                let visitor = first.visitor([8, 4]);
                async move {
                    for _ in 0..40 {
                        assert_eq!(visitor.get("/public").await.expect("the first answers").status, 200);
                    }
                }
            });
            let (ended, said) = tokio::task::block_in_place(|| house.spawn_with(&file).map(drop).expect_err("it must not start"));
            assert_eq!(ended.code(), Some(status), "{said}");
            assert!(said.contains(told), "{said}");
            flood.await.expect("no connection went astray");
            assert_eq!(line.send(browser("GET", "/public"), "").await.expect("the old connection lives").status, 200);
        }
    });
    assert!(house.state().join("admin.sock").exists(), "the first one's socket was left alone");
    assert_eq!(admin(&house.state().join("admin.sock"), "GET", "/status", "").expect("an answer").0, 200);
}

#[test]
fn an_admin_socket_that_another_gateway_holds_is_a_failed_start_and_no_bad_config() {
    let house = House::new(&open_house());
    let _first = house.start();
    let text = std::fs::read_to_string(&house.config).expect("a config");
    let socket = house.state().join("admin.sock");
    let other = text
        .replace("state\"\nworkers", "elsewhere\"\nworkers")
        .replace("[listen]\n", &format!("[listen]\nadmin = \"unix:{}\"\n", socket.display()));
    let file = house.folder.path().join("second.toml");
    std::fs::write(&file, other).expect("a config");
    let (ended, said) = house.spawn_with(&file).map(drop).expect_err("it must not start");
    assert_eq!(ended.code(), Some(1), "a service manager tries again: {said}");
    assert!(said.contains("`listen.admin`") && said.contains("second.toml:"), "{said}");
    assert!(said.contains("another gateway") && !said.contains("writable"), "{said}");
    assert_eq!(admin(&socket, "GET", "/status", "").expect("the first one answers").0, 200);
}

#[test]
fn a_stale_socket_and_a_killed_gateways_lock_are_no_hindrance() {
    let house = House::new(&open_house());
    house.start().kill();
    assert!(house.state().join("admin.sock").exists(), "kill -9 leaves it");
    house.start();
}

#[test]
fn a_damaged_or_foreign_store_is_refused_clearly_and_left_as_it_was() {
    let house = House::new(&open_house());
    let mut gateway = house.start();
    house.told(&["bans", "add", "192.0.2.1", "--reason", "kept"]);
    gateway.signal("TERM");
    gateway.ended();
    let file = house.state().join("doorward.redb");
    let good = std::fs::read(&file).expect("a store");
    let row = good.windows(9).position(|window| window == b"192.0.2.1").expect("the ban is in it");
    let mut flipped = good.clone();
    flipped[row] ^= 1;
    let mut head = good.clone();
    head[20] ^= 0xff;
    let mut lengths = good.clone();
    // The end of the first key of the row's page, behind the four bytes that say what page it is.
    lengths[row / 4096 * 4096 + 5] ^= 0xff;
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("empty", Vec::new(), "it is empty"),
        ("cut short", good[..good.len() / 2].to_vec(), "is damaged"),
        ("a bit flipped in a row", flipped, "is damaged"),
        ("the lengths of rows altered", lengths, "is damaged"),
        ("another program's file", b"SQLite format 3\0 and more of it".repeat(200), "is not a Doorward store"),
        ("its header overwritten", head, "doorward.redb"),
    ];
    for (what, bytes, told) in cases {
        std::fs::write(&file, &bytes).expect("writable");
        match house.spawn() {
            Ok(_) if what.starts_with("its header") => continue,
            Ok(_) => panic!("{what}: it started"),
            Err((status, said)) => {
                assert_eq!(status.code(), Some(1), "{what}: {said}");
                assert!(said.contains(told) && said.contains("doorward.redb"), "{what}: {said}");
                assert!(!said.contains("panicked"), "{what}: {said}");
            }
        }
        assert!(std::fs::read(&file).expect("still there") == bytes, "{what}: the file was changed");
        let check = house.doorward(&["check"]);
        assert_eq!(check.status.code(), Some(1), "{what}: {}", String::from_utf8_lossy(&check.stderr));
        let checked = String::from_utf8_lossy(&check.stderr);
        assert!(checked.contains(told) && checked.contains("doorward.redb"), "{what}: check says the same: {checked}");
        assert!(!checked.contains("panicked"), "{what}: {checked}");
        assert!(std::fs::read(&file).expect("still there") == bytes, "{what}: check changed the file");
    }
    std::fs::write(&file, &good).expect("writable");
    let _gateway = house.start();
    assert!(house.told(&["bans", "list"]).contains("192.0.2.1"), "the backup serves");
}

#[test]
fn a_store_of_a_newer_doorward_is_refused_and_left_as_it_was() {
    let house = House::new(&open_house());
    let mut gateway = house.start();
    gateway.signal("TERM");
    gateway.ended();
    let file = house.state().join("doorward.redb");
    let database = redb::Database::open(&file).expect("a store");
    let change = database.begin_write().expect("a transaction");
    change
        .open_table(redb::TableDefinition::<&str, &str>::new("doorward"))
        .expect("the schema's table")
        .insert("schema", "2")
        .expect("a row");
    change.commit().expect("written");
    drop(database);
    let before = std::fs::read(&file).expect("a store");
    let (status, said) = house.spawn().map(drop).expect_err("it must not start");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("newer Doorward") && said.contains("schema 2"), "{said}");
    assert!(std::fs::read(&file).expect("a store") == before, "the file was changed");
    assert_eq!(house.doorward(&["check"]).status.code(), Some(1));
}

#[test]
fn check_ends_as_run_does_with_1_for_the_state_and_78_for_the_config() {
    let house = House::new(&open_house());
    let mut gateway = house.start();
    gateway.signal("TERM");
    gateway.ended();
    let good = std::fs::read_to_string(&house.config).expect("a config");
    let state = house.state().display().to_string();
    std::fs::write(house.folder.path().join("plain"), "no folder").expect("writable");
    std::fs::write(house.folder.path().join("damaged.key"), "no key").expect("writable");
    std::fs::set_permissions(house.folder.path().join("damaged.key"), PermissionsExt::from_mode(0o600)).expect("a mode");
    let folder = house.folder.path().display().to_string();
    let events = format!("events = \"{state}/events.log\"");
    let kept = format!("state_dir = \"{state}\"");
    let nowhere = format!("events = \"{folder}/nowhere/events.log\"");
    let admin = |place: &str| ("[listen]\n".to_owned(), format!("[listen]\nadmin = \"unix:{folder}/{place}\"\n"));
    let elsewhere = |place: &str| (kept.clone(), format!("state_dir = \"{place}\""));
    let key =
        |place: &str| ("[upstream.portal]".to_owned(), format!("[approvals]\nkey = \"{folder}/{place}\"\n[upstream.portal]"));
    for (status, told, changes) in [
        (1, "is not a directory", vec![elsewhere(&format!("{folder}/plain"))]),
        (1, "/proc/doorward", vec![elsewhere("/proc/doorward")]),
        (1, "holds no `PRIVATE KEY`", vec![key("damaged.key")]),
        (1, "nowhere", vec![key("nowhere/approvals.key")]),
        (78, "`log.events`", vec![(events.clone(), nowhere.clone())]),
        (78, "`listen.admin`", vec![admin("nowhere/admin.sock")]),
        (78, "is no socket", vec![admin("plain")]),
        (1, "is not a directory", vec![elsewhere(&format!("{folder}/plain")), (events, nowhere)]),
        (78, "missing.key", vec![elsewhere("/proc/doorward"), ("portal.key".to_owned(), "missing.key".to_owned())]),
    ] {
        let text = changes.iter().fold(good.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        std::fs::write(&house.config, text).expect("writable");
        let check = house.doorward(&["check"]);
        let said = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.code(), Some(status), "{told}: {said}");
        assert!(said.contains(told) && said.contains("doorward.toml"), "{told}: {said}");
        let (ended, said) = house.spawn().map(drop).expect_err("it must not start");
        assert_eq!(ended.code(), Some(status), "{told}: {said}");
        assert!(said.contains(told), "{told}: {said}");
        assert_eq!(said.contains("error: "), status == 78, "the config's faults are told with their line: {said}");
    }
}

#[test]
fn a_state_dir_that_cannot_be_written_is_refused_with_its_name() {
    let house = House::new(&open_house().replace("state_dir = \"{state}\"", "state_dir = \"/proc/doorward\""));
    let (status, said) = house.spawn().map(drop).expect_err("it must not start");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("/proc/doorward"), "{said}");

    let house = House::new(&open_house());
    std::fs::write(house.state(), "a file").expect("writable");
    let (status, said) = house.spawn().map(drop).expect_err("it must not start");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("is not a directory"), "{said}");
    std::fs::remove_file(house.state()).expect("removable");

    std::fs::create_dir(house.state()).expect("a folder");
    std::fs::set_permissions(house.state(), PermissionsExt::from_mode(0o500)).expect("a mode");
    match house.spawn() {
        Ok(_) => eprintln!("skipped: this user (root?) writes into read-only folders"),
        Err((status, said)) => {
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("state") && said.contains("must belong to the user"), "{said}");
            assert_eq!(house.doorward(&["check"]).status.code(), Some(1));
        }
    }
    std::fs::set_permissions(house.state(), PermissionsExt::from_mode(0o700)).expect("a mode");
}

#[test]
fn what_is_kept_is_for_its_owner_alone() {
    let house = House::new(&open_house());
    let _gateway = house.start();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&house.state()), 0o700);
    assert_eq!(mode(&house.state().join("doorward.redb")), 0o600);
    assert_eq!(mode(&house.state().join("approvals.key")), 0o600);
    assert_eq!(mode(&house.state().join("admin.sock")), 0o660);
    for log in ["access.log", "events.log"] {
        assert_eq!(mode(&house.state().join(log)) & 0o007, 0, "{log} is nobody else's");
    }
}
