//! A disk that fills up under a running gateway: what is decided holds in memory, is told, and is on disk as soon as there is
//! room again; what cannot be promised is not handed out.

use crate::support::process::{House, Process, eventually, open_house};
use crate::support::{ACCOUNT, browser, run};

fn house() -> House {
    // The events go where no limit on files holds.
    House::new(&open_house().replace("events = \"{state}/events.log\"", "events = \"/dev/stderr\""))
}

/// Requests and signs an approval: its id.
fn approval(house: &House) -> String {
    let words = "approvals request --kind bot --name sync --owner Acme --contact ops@acme.example --purpose import --site localhost \
        --method GET --path /orders/** --until 2100-12-31";
    let id = house.told(&words.split(' ').collect::<Vec<_>>());
    let key = house.pki.folder.join("alice.key").display().to_string();
    house.told(&["approvals", "sign", &id, "--signer", "alice", "--key", &key]);
    id
}

fn used(gateway: &Process, token: &str, from: [u8; 2]) -> String {
    run(async {
        let request = browser("GET", "/orders/1").header("doorward-approval", token);
        gateway.visitor(from).send(request, "").await.expect("an answer").told()
    })
}

fn got(gateway: &Process, from: [u8; 2]) -> String {
    run(async { gateway.visitor(from).get("/public").await.expect("an answer").told() })
}

fn metric(gateway: &Process, name: &str) -> u64 {
    let text = run(async { gateway.probe("/metrics").await.expect("an answer").1 });
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or_default();
    line.parse().unwrap_or_else(|_| panic!("no {name} in\n{text}"))
}

#[test]
fn on_a_full_disk_decisions_hold_in_memory_no_token_is_handed_out_and_all_is_written_when_there_is_room() {
    let house = house();
    let gateway = house.start_on_a_small_disk();
    let [kept, waiting] = [(); 2].map(|()| approval(&house));
    let token = house.told(&["approvals", "activate", &kept]);
    assert_eq!(used(&gateway, &token, [8, 1]), "200");

    gateway.disk_is_full(true);
    let refused = |arguments: &[&str]| {
        let output = house.doorward(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("in memory only") && said.contains("keeps trying"), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "nothing is handed out");
    };
    refused(&["bans", "add", "127.0.8.2", "--reason", "attack"]);
    assert_eq!(got(&gateway, [8, 2]), "403 banned");
    gateway.says("store.failed");
    refused(&["approvals", "revoke", &kept, "--reason", "contract ended"]);
    assert_eq!(used(&gateway, &token, [8, 1]), "403 approval-revoked");
    refused(&["approvals", "activate", &waiting]);
    run(async {
        let guesser = gateway.visitor([8, 3]);
        let mut answers = Vec::new();
        for guess in 0..8 {
            answers.push(guesser.sign_in(ACCOUNT.0, &format!("wrong {guess}")).await.expect("an answer").told());
        }
        assert_eq!(answers.iter().filter(|told| *told == "303").count(), 5, "the exact budget: {answers:?}");
        assert_eq!(guesser.get("/public").await.expect("an answer").told(), "403 banned");
    });
    gateway.says("store.failed");
    assert!(metric(&gateway, "doorward_store_failures_total") >= 4);
    assert_eq!(got(&gateway, [8, 4]), "200", "everybody else is served");

    gateway.disk_is_full(false);
    gateway.says("the store takes writes again");
    let again = house.told(&["approvals", "activate", &waiting]);
    assert_eq!(used(&gateway, &again, [8, 1]), "200");
    gateway.kill();
    let gateway = house.start();
    for banned in [[8, 2], [8, 3]] {
        assert_eq!(got(&gateway, banned), "403 banned", "{banned:?} after a restart");
    }
    assert_eq!(used(&gateway, &token, [8, 1]), "403 approval-revoked", "what was revoked stays revoked");
    assert_eq!(used(&gateway, &again, [8, 1]), "200");
}

#[test]
fn an_access_log_that_cannot_be_written_is_told_once_and_goes_on_when_it_can() {
    let house = house();
    let gateway = house.start_on_a_small_disk();
    gateway.disk_is_full(true);
    let failures = "doorward_log_write_errors_total";
    for turn in 1..4 {
        assert_eq!(got(&gateway, [8, turn]), "200");
        let before = metric(&gateway, failures);
        eventually("failed writes are counted", || {
            assert_eq!(got(&gateway, [8, turn]), "200");
            (metric(&gateway, failures) > before).then_some(())
        });
    }
    let told = gateway.says("access.log cannot be written");
    // The event is the only one, before or behind that line.
    let told = format!("{told}{}", if told.contains("log.failed") { String::new() } else { gateway.says("log.failed") });
    assert_eq!(told.matches("cannot be written").count() + told.matches("log.failed").count(), 2, "told once: {told}");
    let line = told.lines().find(|line| line.contains("log.failed")).expect("an event");
    let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert!(event["path"].as_str().is_some_and(|path| path.ends_with("/access.log")), "{event}");
    assert!(event["error"].as_str().is_some_and(|error| error.contains("large")), "{event}");
    assert_eq!(metric(&gateway, "doorward_store_failures_total"), 0, "the store is healthy");

    gateway.disk_is_full(false);
    assert_eq!(got(&gateway, [9, 9]), "200");
    eventually("lines are written again", || house.log("access.log").contains("127.0.9.9").then_some(()));
    assert!(house.log("access.log").lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "whole lines");
    gateway.disk_is_full(true);
    assert_eq!(got(&gateway, [9, 8]), "200");
    gateway.says("access.log cannot be written");
}
