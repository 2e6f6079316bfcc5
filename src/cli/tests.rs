//! The commands' round trip: the client, a real socket, the API, real state.

use std::sync::Arc;

use serde_json::{Value, json};

use super::client::Gateway;
use super::{Failure, sign};
use crate::admin::api::{
    Activated, AddBan, ApprovalPayload, BanView, ExplainLimits, Explained, LiftBan, Reloaded, RequestApproval,
};
use crate::admin::testing::{ALICE_KEY, Door, FullDisk};
use crate::policy::approval::{Approval, ApprovalKind, ApprovalStatus, Binding};
use crate::state::limits::LimitView;

fn gateway(door: &Door) -> Gateway {
    Gateway { config: "unused".into(), socket: Some(door.socket.clone()) }
}

fn add(door: &Door, key: &str, length: Option<&str>) -> Result<BanView, Failure> {
    let asked = AddBan { key: key.to_owned(), length: length.map(str::to_owned), reason: Some("abuse report 4711".to_owned()) };
    gateway(door).post("/bans/add", &asked)
}

fn explain(door: &Door, asked: Value) -> Explained {
    let asked: ExplainLimits = serde_json::from_value(asked).unwrap();
    gateway(door).post("/limits/explain", &asked).unwrap()
}

fn failed<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result.unwrap_err() {
        Failure::Failed(told) => told,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ban_is_added_listed_shown_and_lifted_with_its_operator_and_events() {
    let mut door = Door::open();
    let ban = add(&door, "203.0.113.7", Some("2h")).unwrap();
    assert!(ban.by.starts_with("uid:"), "{}", ban.by);
    assert_eq!(ban.until, Some("2026-11-21T14:00:00Z".parse().unwrap()));
    let told = door.hear("203.0.113.7");
    assert!(told.contains("abuse report 4711") && told.contains(&ban.by), "{told}");

    let listed: Vec<BanView> = gateway(&door).get("/bans").unwrap();
    assert!(listed.contains(&ban));
    let shown: Vec<BanView> = gateway(&door).get("/bans/show?key=203.0.113.7").unwrap();
    assert_eq!(shown, [ban]);

    let lift = LiftBan { key: "203.0.113.7".to_owned(), reason: Some("customer called".to_owned()) };
    gateway(&door).post::<BanView>("/bans/lift", &lift).unwrap();
    let told = door.hear("customer called");
    assert!(told.contains("203.0.113.7"), "{told}");
    assert!(failed(gateway(&door).post::<BanView>("/bans/lift", &lift)).contains("no live ban"));
}

#[test]
fn a_ban_without_a_length_stays_until_it_is_lifted() {
    let door = Door::open();
    assert_eq!(add(&door, "account:Alice", None).unwrap().until, None);
    assert_eq!(add(&door, "2001:db8::1", None).unwrap().key.to_string(), "2001:db8::/64");
    assert!(failed(add(&door, "nobody", None)).contains("identity:SET:NAME"));
    assert!(failed(add(&door, "203.0.113.9", Some("soon"))).contains("length of time"));
}

#[test]
fn a_trusted_proxy_is_never_banned() {
    let door = Door::open();
    for key in ["198.51.100.7", "198.51.100.0/25", "198.51.0.0/16"] {
        assert!(failed(add(&door, key, None)).contains("trusted_proxies"), "{key}");
    }
    assert!(add(&door, "198.51.101.1", None).is_ok());
}

#[test]
fn what_holds_an_address_is_named_when_there_is_nothing_to_lift() {
    let door = Door::open();
    let lift = |key: &str| gateway(&door).post::<BanView>("/bans/lift", &LiftBan { key: key.to_owned(), reason: None });
    assert!(failed(lift("192.0.2.9")).contains("bans.always"));
    add(&door, "203.0.113.0/24", None).unwrap();
    assert!(failed(lift("203.0.113.9")).contains("203.0.113.0/24"));
}

#[test]
fn a_ban_that_cannot_be_written_holds_in_memory_and_says_so() {
    let mut door = Door::over(tempfile::tempdir().unwrap(), Arc::new(FullDisk));
    let told = failed(add(&door, "203.0.113.7", Some("2h")));
    assert!(told.contains("in memory only") && told.contains("no space left"), "{told}");
    assert_eq!(gateway(&door).get::<Vec<BanView>>("/bans/show?key=203.0.113.7").unwrap().len(), 1);
    assert!(door.hear("203.0.113.7").contains("false"), "the event says that it is not durable");
}

#[test]
fn explain_names_the_rule_that_decides_and_spends_nothing() {
    let door = Door::open();
    let asked = json!({ "client": "203.0.113.7", "path": "/orders/17" });
    let before = explain(&door, asked.clone());
    assert!(before.passes);
    assert_eq!(before.decides.as_deref(), Some("per-client"));
    assert!(before.verdict.starts_with("no limit refuses it"), "{}", before.verdict);
    assert_eq!(before.limits.iter().map(|limit| limit.remaining).collect::<Vec<_>>(), [2]);
    assert_eq!(explain(&door, asked).limits.first().unwrap().remaining, 2, "asking spends nothing");
    assert!(gateway(&door).get::<Vec<LimitView>>("/limits").unwrap().is_empty());

    let known = explain(&door, json!({ "client": "203.0.113.7", "path": "/", "identity": "sync" }));
    assert_eq!(known.limits.iter().map(|limit| &*limit.limit).collect::<Vec<_>>(), ["per-identity", "per-client"]);
}

#[test]
fn who_proves_who_he_is_is_not_held_by_an_address_ban() {
    let door = Door::open();
    add(&door, "203.0.113.7", Some("2h")).unwrap();
    let stranger = explain(&door, json!({ "client": "203.0.113.7", "path": "/" }));
    assert!(!stranger.passes);
    assert_eq!(stranger.decides.as_deref(), Some("ban"));
    let known = explain(&door, json!({ "client": "203.0.113.7", "path": "/", "identity": "acme:sync" }));
    assert!(known.passes, "{}", known.verdict);
    let listed = explain(&door, json!({ "client": "192.0.2.1", "path": "/", "identity": "acme:sync" }));
    assert!(!listed.passes, "the block list holds everybody");
}

#[test]
fn a_banned_account_is_held_at_its_login_only() {
    let door = Door::open();
    add(&door, "account:alice", None).unwrap();
    let asked = |path: &str, method: &str| json!({ "client": "203.0.113.7", "path": path, "method": method, "account": "Alice" });
    assert!(!explain(&door, asked("/login", "POST")).passes);
    assert!(explain(&door, asked("/orders", "GET")).passes);
}

#[test]
fn a_set_that_does_not_exist_is_refused_with_those_that_do() {
    let door = Door::open();
    let told = failed(add(&door, "identity:nope:foo", None));
    assert!(told.contains("no set nope") && told.contains("acme"), "{told}");
    add(&door, "identity:acme:foo", None).unwrap();
    let bound_to = |name: &str| {
        let asked = RequestApproval { binding: Some(Binding::Identity(name.to_owned())), ..wanted() };
        gateway(&door).post::<Approval>("/approvals", &asked)
    };
    let told = failed(bound_to("nope:x"));
    assert!(told.contains("no set nope") && told.contains("acme"), "{told}");
    for good in ["acme:x", "sync", "spiffe://acme/sync", "urn:acme:sync"] {
        bound_to(good).unwrap_or_else(|_| panic!("{good}"));
    }
}

#[test]
fn a_ban_of_a_part_of_the_world_or_without_an_end_by_accident_is_refused() {
    let door = Door::open();
    for (key, shortest) in
        [("0.0.0.0/0", "/8"), ("10.0.0.0/7", "/8"), ("::ffff:0:0/96", "/8"), ("::/0", "/16"), ("2000::/15", "/16")]
    {
        let told = failed(add(&door, key, None));
        assert!(
            told.contains("too wide") && told.ends_with(shortest) || told.contains(&format!("{shortest}\n")),
            "{key}: {told}"
        );
    }
    add(&door, "10.0.0.0/8", None).unwrap();
    add(&door, "3fff::/16", None).unwrap();
    assert!(failed(add(&door, "203.0.113.7", Some("99999d"))).contains("longest that fits"));
}

#[test]
fn a_reload_prints_the_live_generation_or_is_78() {
    let door = Door::open();
    let reload = || gateway(&door).post::<Reloaded>("/reload", &json!({}));
    let reloaded = reload().unwrap();
    assert_eq!((reloaded.generation, reloaded.warnings), (2, vec!["warning: w".to_owned()]));
    *door.control.reload.lock().unwrap() = Err("test.toml:1:1: no such key".to_owned());
    let failure = reload().unwrap_err();
    assert_eq!(failure.status(), 78);
    assert!(matches!(failure, Failure::Config(told) if told.contains("test.toml:1:1") && told.contains("lives on")));
}

fn wanted() -> RequestApproval {
    RequestApproval {
        kind: ApprovalKind::Bot,
        name: "acme-sync".into(),
        owner: "Acme Ltd".into(),
        contact: "ops@acme.example".into(),
        purpose: "nightly order import".into(),
        sites: vec!["portal.example.com".into()],
        methods: vec!["get".into()],
        paths: vec!["/orders/**".into()],
        rate: Some("60/min".into()),
        hours: Some("22:00-05:00 Europe/Berlin".into()),
        not_before: None,
        until: "2027-06-30".into(),
        from: vec![],
        binding: None,
    }
}

fn post(door: &Door, id: &str, verb: &str, body: &Value) -> Result<Approval, Failure> {
    gateway(door).post(&format!("/approvals/{id}/{verb}"), body)
}

#[test]
fn an_approval_is_requested_signed_activated_and_revoked() {
    let mut door = Door::open();
    let requested: Approval = gateway(&door).post("/approvals", &wanted()).unwrap();
    let id = requested.id;
    assert_eq!(requested.terms.methods, ["GET"]);
    assert_eq!(requested.terms.policy_version, "2024-10-04");
    assert_eq!(requested.terms.until, "2027-07-01T00:00:00Z".parse().unwrap());

    let activate = || gateway(&door).post::<Activated>(&format!("/approvals/{id}/activate"), &json!({}));
    assert!(activate().is_err(), "without a signature there is no token");
    let key = door.folder.path().join("alice.key");
    std::fs::write(&key, ALICE_KEY).unwrap();
    assert!(sign::sign(&gateway(&door), &id, "mallory", &key).is_err(), "no such signer");
    sign::sign(&gateway(&door), &id, "alice", &key).unwrap();
    let first = activate().unwrap();
    assert!(!first.replaced);
    let second = activate().unwrap();
    assert!(second.replaced, "the operator is told that the first is void");
    let token = second.token;
    assert!(token.starts_with("v4.public."), "{token}");
    assert!(door.admin.approvals.present(token.as_bytes()).is_ok());

    let suspended = post(&door, &id, "suspend", &json!({ "reason": "audit" })).unwrap();
    assert_eq!(suspended.status, ApprovalStatus::Suspended);
    let revoked = post(&door, &id, "revoke", &json!({ "reason": "contract ended" })).unwrap();
    assert_eq!(revoked.status, ApprovalStatus::Revoked);
    let told = door.hear("contract ended");
    assert!(told.contains(&id), "{told}");
    let listed: Vec<Approval> = gateway(&door).get("/approvals").unwrap();
    assert_eq!(listed, [revoked]);
}

#[test]
fn an_approval_of_a_certificate_is_explained_for_its_holder_and_for_nobody_else() {
    let door = Door::open();
    let bound = RequestApproval { hours: None, binding: Some(Binding::CertSha256("ab".repeat(32))), ..wanted() };
    let id = gateway(&door).post::<Approval>("/approvals", &bound).unwrap().id;
    let key = door.folder.path().join("alice.key");
    std::fs::write(&key, ALICE_KEY).unwrap();
    sign::sign(&gateway(&door), &id, "alice", &key).unwrap();
    gateway(&door).post::<Activated>(&format!("/approvals/{id}/activate"), &json!({})).unwrap();
    let asked = json!({ "client": "203.0.113.7", "path": "/orders/1", "approval": id });
    let stranger = explain(&door, asked.clone());
    assert_eq!((stranger.passes, stranger.decides.as_deref()), (false, Some("approval-binding")), "{}", stranger.verdict);
    let mut of_holder = asked;
    of_holder["identity"] = json!("sync");
    let holder = explain(&door, of_holder);
    assert!(holder.passes, "{}", holder.verdict);
    assert_eq!(holder.limits.first().unwrap().rate, "60/min", "the approval's own rate is charged");
}

#[test]
fn a_signature_of_another_key_is_refused() {
    let door = Door::open();
    let requested: Approval = gateway(&door).post("/approvals", &wanted()).unwrap();
    let key = door.folder.path().join("mallory.key");
    let made = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(&key, made.serialize_pem()).unwrap();
    assert!(sign::sign(&gateway(&door), &requested.id, "alice", &key).is_err());
    let shown: Approval = gateway(&door).get(&format!("/approvals/{}", requested.id)).unwrap();
    assert!(shown.signatures.is_empty());
}

#[test]
fn bytes_that_are_not_those_of_the_shown_record_are_never_signed() {
    let door = Door::open();
    let requested: Approval = gateway(&door).post("/approvals", &wanted()).unwrap();
    let id = &requested.id;
    let offered: ApprovalPayload = gateway(&door).get(&format!("/approvals/{id}/payload")).unwrap();
    assert_eq!(sign::agreed(id, &offered).unwrap(), requested.canonical_bytes());
    let mut shown_otherwise = offered.clone();
    shown_otherwise.approval.terms.paths = vec!["/harmless".into()];
    assert!(failed(sign::agreed(id, &shown_otherwise)).contains("not those of the record"));
    let mut no_base64 = offered.clone();
    no_base64.payload.insert(0, '!');
    assert!(failed(sign::agreed(id, &no_base64)).contains("not base64"));
    assert!(failed(sign::agreed("another", &offered)).contains("another record"));
}

#[test]
fn terms_that_could_not_be_judged_are_refused_all_at_once() {
    let door = Door::open();
    let refused = |change: fn(&mut RequestApproval)| {
        let mut asked = wanted();
        change(&mut asked);
        failed(gateway(&door).post::<Approval>("/approvals", &asked))
    };
    assert!(refused(|asked| asked.sites = vec!["protal.example.com".into()]).contains("did you mean portal.example.com?"));
    let told = refused(|asked| {
        asked.until = "2020-01-01".into();
        asked.rate = Some("often".into());
    });
    assert!(told.contains("is over") && told.contains("rate"), "{told}");
    assert!(!refused(|asked| asked.paths = vec![]).is_empty());
    assert!(gateway(&door).get::<Vec<Approval>>("/approvals").unwrap().is_empty());
}

#[test]
fn unknown_ids_are_named() {
    let door = Door::open();
    assert!(failed(gateway(&door).get::<Approval>("/approvals/4711")).contains("4711"));
    assert!(failed(post(&door, "4711", "revoke", &json!({}))).contains("4711"));
}
