use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use http::Method;
use tempfile::TempDir;

use super::*;
use crate::net::ClientAddr;
use crate::policy::CanonicalPath;
use crate::policy::approval::{ApprovalKind, ApprovalUse, Signer};
use crate::state::store::embedded::EmbeddedStore;

fn at(time: &str) -> Now {
    Now { instant: Duration::ZERO, wall: time.parse().unwrap() }
}

fn noon() -> Now {
    at("2026-12-01T12:00:00Z")
}

fn terms() -> Terms {
    Terms {
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
        until: "2027-07-01T00:00:00Z".parse().unwrap(),
        from: Vec::new(),
        binding: None,
        policy_id: "customer-security-policy".into(),
        policy_version: "2024-10-04".into(),
        requested_at: "2026-12-01T12:00:00Z".parse().unwrap(),
    }
}

/// A gateway's state directory and the people who sign.
struct House {
    directory: TempDir,
    alice: Ed25519KeyPair,
    bob: Ed25519KeyPair,
}

impl House {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            alice: Ed25519KeyPair::generate().unwrap(),
            bob: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn signer(&self, name: &str, key: &Ed25519KeyPair, party: Party) -> Signer {
        Signer { name: name.into(), public_key: key.public_key().as_ref().try_into().unwrap(), party }
    }

    /// Alice signs for the provider, Bob for the customer; the provider is required.
    fn rules(&self) -> ApprovalRules {
        ApprovalRules {
            signers: vec![self.signer("alice", &self.alice, Party::Provider), self.signer("bob", &self.bob, Party::Customer)],
            require_bot: vec![Party::Provider],
        }
    }

    fn key(&self) -> TokenKey {
        TokenKey::load(&self.directory.path().join("approvals.key"), true).unwrap()
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(EmbeddedStore::open(self.directory.path()).unwrap())
    }

    fn open(&self) -> Approvals {
        self.open_with(self.store(), self.rules())
    }

    fn open_with(&self, store: Arc<dyn Store>, rules: ApprovalRules) -> Approvals {
        Approvals::load(store, self.key(), rules, noon()).unwrap()
    }

    fn sign(&self, approvals: &Approvals, id: &str) {
        let signature = self.alice.sign(&approvals.get(id).unwrap().canonical_bytes());
        kept(approvals.sign(id, "alice", signature.as_ref(), "alice".into(), noon()).unwrap().1).unwrap();
    }

    /// Requested and signed.
    fn signed(&self, approvals: &Approvals) -> String {
        let (record, durable) = approvals.request(terms(), "op".into(), noon()).unwrap();
        kept(durable).unwrap();
        self.sign(approvals, &record.id);
        record.id.clone()
    }
}

fn kept(durable: Durable) -> Result<(), StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(durable)
}

fn activated(approvals: &Approvals, id: &str) -> String {
    let (_, token, durable) = approvals.activate(id, "op".into(), noon()).unwrap();
    kept(durable).unwrap();
    token
}

/// What becomes of GET /orders/17 with a token.
fn used(approvals: &Approvals, token: &str) -> Result<(), ApprovalFault> {
    let (live, serial) = approvals.present(token.as_bytes())?;
    let used = ApprovalUse {
        client: &ClientAddr::new("192.0.2.7".parse().unwrap(), 64),
        host: "portal.example.com",
        method: &Method::GET,
        path: &CanonicalPath::parse("/orders/17").unwrap(),
        identity: None,
    };
    live.judge(serial, &used, noon())
}

fn why<T>(result: Result<T, RegisterError>) -> String {
    result.err().expect("a refusal").to_string()
}

fn actions(record: &Approval) -> Vec<&str> {
    record.history.iter().map(|change| change.action.as_str()).collect()
}

#[test]
fn a_bot_passes_when_it_was_requested_signed_and_activated_and_no_sooner() {
    let house = House::new();
    let approvals = house.open();
    let (record, durable) = approvals.request(terms(), "op".into(), noon()).unwrap();
    kept(durable).unwrap();
    let id = record.id.as_str();
    assert!(id.len() == 24 && id.strip_prefix("apr-").unwrap().bytes().all(|byte| BASE32.contains(&byte)), "{id}");
    assert!(why(approvals.activate(id, "op".into(), noon())).contains("signature of the provider"));
    house.sign(&approvals, id);
    let token = activated(&approvals, id);
    assert_eq!(used(&approvals, &token), Ok(()));
    assert_eq!(actions(&approvals.get(id).unwrap()), ["requested", "signed", "activated"]);
}

#[test]
fn terms_that_cannot_be_judged_or_are_over_are_not_registered() {
    let house = House::new();
    let approvals = house.open();
    for (change, named) in [
        (Box::new(|terms: &mut Terms| terms.paths = vec!["orders".into()]) as Box<dyn Fn(&mut Terms)>, "paths"),
        (Box::new(|terms| terms.hours = Some("noon".into())), "hours"),
        (Box::new(|terms| terms.until = "2026-12-01T12:00:00Z".parse().unwrap()), "end"),
    ] {
        let mut terms = terms();
        change(&mut terms);
        assert!(why(approvals.request(terms, "op".into(), noon())).contains(named));
    }
    assert!(approvals.list().is_empty());
}

#[test]
fn only_a_known_signers_signature_over_this_very_record_is_kept() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let (other, _) = approvals.request(Terms { name: "other".into(), ..terms() }, "op".into(), noon()).unwrap();
    let bytes = approvals.get(&id).unwrap().canonical_bytes();
    let sign = |signer: &str, signature: &[u8]| approvals.sign(&id, signer, signature, "x".into(), noon());

    assert!(why(sign("mallory", house.alice.sign(&bytes).as_ref())).contains("no signer `mallory`"));
    assert!(why(sign("alice", house.bob.sign(&bytes).as_ref())).contains("not `alice`'s"));
    assert!(why(sign("bob", house.bob.sign(&other.canonical_bytes()).as_ref())).contains("not `bob`'s"));
    assert!(why(sign("alice", b"")).contains("not `alice`'s"));
    assert!(sign("bob", house.bob.sign(&bytes).as_ref()).is_ok());
    house.sign(&approvals, &id);
    let record = approvals.get(&id).unwrap();
    let signers: Vec<_> = record.signatures.iter().map(|signature| signature.signer.as_str()).collect();
    assert_eq!(signers, ["bob", "alice"], "a later signature replaces the signer's earlier one");
    assert_eq!(why(approvals.sign("apr-none", "alice", b"", "x".into(), noon())), "there is no approval apr-none");
}

#[test]
fn a_signature_of_the_wrong_party_activates_nothing() {
    let house = House::new();
    let approvals = house.open();
    let (record, _) = approvals.request(terms(), "op".into(), noon()).unwrap();
    let signature = house.bob.sign(&record.canonical_bytes());
    kept(approvals.sign(&record.id, "bob", signature.as_ref(), "bob".into(), noon()).unwrap().1).unwrap();
    assert!(why(approvals.activate(&record.id, "op".into(), noon())).contains("the provider"));
}

#[test]
fn what_is_over_can_be_neither_signed_nor_activated() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let late = at("2027-07-01T00:00:00Z");
    assert!(why(approvals.activate(&id, "op".into(), late)).contains("past"));
    let signature = house.alice.sign(&approvals.get(&id).unwrap().canonical_bytes());
    assert!(why(approvals.sign(&id, "alice", signature.as_ref(), "op".into(), late)).contains("past"));
}

#[test]
fn a_revocation_bites_on_the_next_request_though_the_signature_is_remembered() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    assert_eq!(used(&approvals, &token), Ok(()));
    assert_eq!(approvals.verdicts.len(), 1);
    let revoked = approvals.revoke(&id, "contract ended".into(), "op".into(), noon()).unwrap();
    assert_eq!(used(&approvals, &token), Err(ApprovalFault::NotActive), "before the disk has it");
    kept(revoked.1).unwrap();
    assert_eq!(revoked.0.history.last().unwrap().reason.as_deref(), Some("contract ended"));
}

#[test]
fn a_suspended_approval_comes_back_with_a_new_token_only() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let old = activated(&approvals, &id);
    kept(approvals.suspend(&id, "abuse".into(), "op".into(), noon()).unwrap().1).unwrap();
    assert_eq!(used(&approvals, &old), Err(ApprovalFault::NotActive));
    assert!(why(approvals.suspend(&id, "again".into(), "op".into(), noon())).contains("not active"));
    let new = activated(&approvals, &id);
    assert_eq!(used(&approvals, &old), Err(ApprovalFault::Superseded));
    assert_eq!(used(&approvals, &new), Ok(()));
    assert_eq!(approvals.get(&id).unwrap().serial, 2);
}

#[test]
fn a_renewal_is_a_request_of_its_own_to_be_signed_anew() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    let until = "2028-07-01T00:00:00Z".parse().unwrap();
    let (new, durable) = approvals.renew(&id, until, "op".into(), noon()).unwrap();
    kept(durable).unwrap();
    assert_ne!(new.id, id);
    assert_eq!((new.status, new.terms.until, new.signatures.len(), new.serial), (ApprovalStatus::Requested, until, 0, 0));
    assert!(why(approvals.activate(&new.id, "op".into(), noon())).contains("signature"));
    let earlier = approvals.get(&id).unwrap();
    let signature = STANDARD.decode(&earlier.signatures[0].signature).unwrap();
    assert!(why(approvals.sign(&new.id, "alice", &signature, "op".into(), noon())).contains("not `alice`'s"));
    assert_eq!(used(&approvals, &token), Ok(()), "the old one lives on to its end");
    assert_eq!(actions(&earlier), ["requested", "signed", "activated", "renewed"]);
    assert!(why(approvals.renew(&id, noon().wall, "op".into(), noon())).contains("past"));
}

/// Trap: revoked key repopulated into cache by a racing fill.
#[test]
fn nothing_leads_out_of_revoked_however_many_race_for_it() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    let signature = house.alice.sign(&approvals.get(&id).unwrap().canonical_bytes());
    let revoked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (approvals, id, token, signature, revoked) = (&approvals, id.as_str(), token.as_str(), &signature, &revoked);
        for worker in 0..4 {
            scope.spawn(move || {
                for _ in 0..40 {
                    let after = revoked.load(Ordering::SeqCst);
                    let changed = match worker {
                        0 => approvals.activate(id, "op".into(), noon()).is_ok(),
                        1 => approvals.suspend(id, "x".into(), "op".into(), noon()).is_ok(),
                        2 => approvals.sign(id, "alice", signature.as_ref(), "op".into(), noon()).is_ok(),
                        _ => used(approvals, token).is_ok(),
                    };
                    assert!(!(after && changed), "worker {worker} changed or passed a revoked approval");
                }
            });
        }
        scope.spawn(move || {
            let (_, durable) = approvals.revoke(id, "x".into(), "op".into(), noon()).unwrap();
            revoked.store(true, Ordering::SeqCst);
            kept(durable).unwrap();
        });
    });
    assert_eq!(approvals.get(&id).unwrap().status, ApprovalStatus::Revoked);
    for refusal in [
        why(approvals.activate(&id, "op".into(), noon())),
        why(approvals.suspend(&id, "x".into(), "op".into(), noon())),
        why(approvals.sign(&id, "alice", signature.as_ref(), "op".into(), noon())),
        why(approvals.renew(&id, "2029-01-01T00:00:00Z".parse().unwrap(), "op".into(), noon())),
        why(approvals.revoke(&id, "x".into(), "op".into(), noon())),
    ] {
        assert!(refusal.contains("for good"), "{refusal}");
    }
    approvals.reconcile(house.rules(), noon());
    approvals.store.close();
    drop(approvals);
    assert_eq!(used(&house.open(), &token), Err(ApprovalFault::NotActive), "also after a restart");
}

#[test]
fn an_approval_whose_signer_leaves_the_config_is_suspended_and_check_names_it_beforehand() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    let untouched = house.signed(&approvals);
    assert!(approvals.reconcile(house.rules(), noon()).is_empty(), "unchanged rules suspend nothing");

    let without = ApprovalRules { signers: vec![house.signer("bob", &house.bob, Party::Customer)], ..house.rules() };
    let other_key = ApprovalRules { signers: vec![house.signer("alice", &house.bob, Party::Provider)], ..house.rules() };
    let other_party = ApprovalRules { signers: vec![house.signer("alice", &house.alice, Party::Customer)], ..house.rules() };
    let more = ApprovalRules { require_bot: vec![Party::Provider, Party::Customer], ..house.rules() };
    for rules in [&without, &other_key, &other_party, &more] {
        assert_eq!(Approvals::would_suspend(approvals.store.as_ref(), rules).unwrap(), std::slice::from_ref(&id));
    }
    assert_eq!(used(&approvals, &token), Ok(()), "asking changes nothing");
    assert_eq!(approvals.reconcile(without.clone(), noon()), std::slice::from_ref(&id));
    assert_eq!(used(&approvals, &token), Err(ApprovalFault::NotActive));
    let record = approvals.get(&id).unwrap();
    let last = record.history.last().unwrap();
    assert_eq!((last.action.as_str(), last.by.as_str()), ("suspended", "config"));
    assert_eq!(approvals.get(&untouched).unwrap().status, ApprovalStatus::Requested);
    assert!(approvals.reconcile(without, noon()).is_empty(), "told once");
    assert!(approvals.reconcile(house.rules(), noon()).is_empty());
    assert_eq!(approvals.get(&id).unwrap().status, ApprovalStatus::Suspended, "it does not come back by itself");
}

#[test]
fn a_config_that_changed_while_the_gateway_was_down_suspends_at_the_start() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    let before = approvals.list();
    approvals.store.close();
    drop(approvals);

    let again = house.open();
    assert_eq!(again.list(), before, "everything survives a restart");
    assert_eq!(used(&again, &token), Ok(()));
    again.store.close();
    drop(again);

    let nobody = ApprovalRules { signers: Vec::new(), ..house.rules() };
    assert_eq!(used(&house.open_with(house.store(), nobody), &token), Err(ApprovalFault::NotActive));
}

#[test]
fn what_is_not_a_token_of_this_register_is_not_ours_and_is_not_remembered() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    let elsewhere = Claims { id: "apr-elsewhere".into(), serial: 1, iat: noon().wall };
    let foreign = TokenKey::load(&house.directory.path().join("foreign"), true).unwrap();
    let same_claims = Claims { id, serial: 1, iat: noon().wall };
    for bad in [
        String::new(),
        "v4.public.".to_owned(),
        token[..token.len() - 1].to_owned(),
        "x".repeat(1 << 20),
        foreign.issue(&same_claims).unwrap(),
    ] {
        assert_eq!(used(&approvals, &bad), Err(ApprovalFault::NotOurs));
    }
    assert_eq!(approvals.verdicts.len(), 0, "strangers fill no cache");
    assert_eq!(used(&approvals, &house.key().issue(&elsewhere).unwrap()), Err(ApprovalFault::NotOurs));
    assert_eq!(used(&approvals, &token), Ok(()));
}

#[test]
fn a_revocation_that_the_disk_refuses_holds_in_memory_and_is_told() {
    let house = House::new();
    let approvals = house.open();
    let id = house.signed(&approvals);
    let token = activated(&approvals, &id);
    approvals.store.close();
    drop(approvals);

    let read_only = EmbeddedStore::open_read_only(house.directory.path()).unwrap().unwrap();
    let approvals = house.open_with(Arc::new(read_only), house.rules());
    assert_eq!(used(&approvals, &token), Ok(()));
    let (_, durable) = approvals.revoke(&id, "x".into(), "op".into(), noon()).unwrap();
    assert!(kept(durable).is_err());
    assert_eq!(used(&approvals, &token), Err(ApprovalFault::NotActive));
}

#[test]
fn a_row_that_makes_no_sense_refuses_the_start() {
    for damage in ["none", "not JSON", "another's row", "terms that cannot be judged"] {
        let house = House::new();
        let approvals = house.open();
        let id = house.signed(&approvals);
        let mut record = Approval::clone(&approvals.get(&id).unwrap());
        if damage == "terms that cannot be judged" {
            record.terms.paths = vec!["orders".into()];
        }
        let key = if damage == "another's row" { "apr-another" } else { &id }.as_bytes().to_vec();
        let value = if damage == "not JSON" { b"{".to_vec() } else { serde_json::to_vec(&record).unwrap() };
        let store = Arc::clone(&approvals.store);
        kept(store.write(vec![Change::Put { table: Table::Approvals, key, value }])).unwrap();
        match Approvals::load(store, house.key(), house.rules(), noon()) {
            Ok(_) => assert_eq!(damage, "none"),
            Err(error) => assert!(damage != "none" && matches!(error, StoreError::Read(_)), "{damage}: {error}"),
        }
    }
}
