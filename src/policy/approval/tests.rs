use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::live::Template;
use super::*;
use crate::clock::Now;
use crate::policy::AccountKind;

const DIGEST: &str = "0101010101010101010101010101010101010101010101010101010101010101";

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
        rate: Some(Quota::parse("60/min").unwrap()),
        hours: None,
        not_before: None,
        until: "2027-07-01T00:00:00Z".parse().unwrap(),
        from: Vec::new(),
        binding: None,
        policy_id: "customer-security-policy".into(),
        policy_version: "2024-10-04".into(),
        requested_at: "2026-11-21T10:00:00Z".parse().unwrap(),
    }
}

fn approval(terms: Terms) -> Approval {
    Approval { id: "ap-1".into(), terms, status: ApprovalStatus::Active, signatures: Vec::new(), serial: 3, history: Vec::new() }
}

/// A use in order: GET /orders/17 at noon. Tests change one thing.
struct Used {
    approval: Approval,
    serial: u32,
    ip: &'static str,
    host: &'static str,
    method: Method,
    path: &'static str,
    identity: Option<Identity>,
    at: &'static str,
}

impl Used {
    fn new(change: impl FnOnce(&mut Terms)) -> Self {
        let mut terms = terms();
        change(&mut terms);
        Self {
            approval: approval(terms),
            serial: 3,
            ip: "192.0.2.7",
            host: "portal.example.com",
            method: Method::GET,
            path: "/orders/17",
            identity: None,
            at: "2026-12-01T12:00:00Z",
        }
    }

    fn judge(&self) -> Result<(), ApprovalFault> {
        let live = LiveApproval::compile(Arc::new(self.approval.clone())).unwrap();
        let used = ApprovalUse {
            client: &ClientAddr::new(self.ip.parse().unwrap(), 64),
            host: self.host,
            method: &self.method,
            path: &CanonicalPath::parse(self.path).unwrap(),
            identity: self.identity.as_ref(),
        };
        live.judge(self.serial, &used, Now { instant: Duration::ZERO, wall: self.at.parse().unwrap() })
    }
}

fn identity(key: &str, digest: u8) -> Identity {
    let (set, name) = key.split_once(':').unwrap();
    Identity {
        set: set.into(),
        name: name.into(),
        key: key.into(),
        kind: AccountKind::Service,
        tenant: None,
        roles: Vec::new(),
        cert_sha256: [digest; 32],
        path: [].into(),
    }
}

#[test]
fn the_canonical_bytes_are_fixed() {
    let mut terms = terms();
    terms.binding = Some(Binding::CertSha256(DIGEST.into()));
    terms.from = vec!["192.0.2.0/24".parse().unwrap()];
    let expected = format!(
        "doorward-approval-v1\n{}{}{}{}",
        r#"{"id":"ap-1","kind":"bot","name":"acme-sync","owner":"Acme Ltd","contact":"ops@acme.example","purpose":"nightly order import","#,
        r#""sites":["portal.example.com"],"methods":["GET"],"paths":["/orders/**"],"rate":{"requests":60,"per":{"secs":60,"nanos":0},"burst":60},"#,
        r#""hours":null,"not_before":null,"until":"2027-07-01T00:00:00Z","from":["192.0.2.0/24"],"binding":{"cert-sha256":"#,
        format_args!(
            r#""{DIGEST}"}},"policy_id":"customer-security-policy","policy_version":"2024-10-04","requested_at":"2026-11-21T10:00:00Z"}}"#
        ),
    );
    assert_eq!(String::from_utf8(approval(terms).canonical_bytes()).unwrap(), expected);
}

#[test]
fn changing_any_term_voids_the_signature() {
    let bytes = approval(terms()).canonical_bytes();
    let changes: [fn(&mut Terms); 10] = [
        |terms| terms.name.push('x'),
        |terms| terms.owner.push('x'),
        |terms| terms.sites.push("b.example".into()),
        |terms| terms.methods.push("POST".into()),
        |terms| terms.paths.push("/x".into()),
        |terms| terms.rate = None,
        |terms| terms.hours = Some("00:00-24:00".into()),
        |terms| terms.until += jiff::SignedDuration::from_secs(1),
        |terms| terms.policy_version.push('x'),
        |terms| terms.binding = Some(Binding::Identity("x".into())),
    ];
    for change in changes {
        let mut terms = terms();
        change(&mut terms);
        assert_ne!(approval(terms).canonical_bytes(), bytes);
    }
    assert_ne!(Approval { id: "ap-2".into(), ..approval(terms()) }.canonical_bytes(), bytes);
}

fn signer(name: &str, party: Party) -> (Signer, Ed25519KeyPair) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let public_key = pair.public_key().as_ref().try_into().unwrap();
    (Signer { name: name.into(), public_key, party }, pair)
}

fn signature(approval: &Approval, signer: &str, party: Party, pair: &Ed25519KeyPair) -> ApprovalSignature {
    let signature = STANDARD.encode(pair.sign(&approval.canonical_bytes()));
    ApprovalSignature { signer: signer.into(), party, signature, at: Timestamp::UNIX_EPOCH }
}

#[test]
fn only_a_signature_of_a_configured_signer_with_its_key_and_party_counts() {
    let (alice, alice_key) = signer("alice", Party::Provider);
    let (bob, bob_key) = signer("bob", Party::Customer);
    let rules = ApprovalRules { signers: vec![alice, bob], require_bot: vec![Party::Provider, Party::Customer] };
    let unsigned = approval(terms());
    let missing = |signatures: Vec<ApprovalSignature>| Approval { signatures, ..unsigned.clone() }.missing_parties(&rules);

    let by_alice = signature(&unsigned, "alice", Party::Provider, &alice_key);
    let by_bob = signature(&unsigned, "bob", Party::Customer, &bob_key);
    assert_eq!(missing(vec![]), [Party::Provider, Party::Customer]);
    assert_eq!(missing(vec![by_alice.clone()]), [Party::Customer]);
    assert_eq!(missing(vec![by_bob.clone(), by_alice.clone()]), []);

    let other_party = ApprovalSignature { party: Party::Customer, ..by_alice.clone() };
    let other_name = ApprovalSignature { signer: "carol".into(), ..by_bob.clone() };
    let other_key = signature(&unsigned, "bob", Party::Customer, &alice_key);
    let other_terms = signature(&Approval { id: "ap-2".into(), ..unsigned.clone() }, "bob", Party::Customer, &bob_key);
    let garbled = ApprovalSignature { signature: "!".into(), ..by_bob };
    for bad in [other_party, other_name, other_key, other_terms, garbled] {
        assert_eq!(missing(vec![by_alice.clone(), bad]), [Party::Customer]);
    }
}

#[test]
fn a_party_required_twice_needs_two_signers() {
    let (alice, alice_key) = signer("alice", Party::Provider);
    let (carol, carol_key) = signer("carol", Party::Provider);
    let twin = Signer { name: "alice2".into(), ..alice.clone() };
    let rules = ApprovalRules { signers: vec![alice, carol, twin], require_bot: vec![Party::Provider, Party::Provider] };
    let mut signed = approval(terms());
    signed.signatures = ["alice", "alice", "alice2"].map(|name| signature(&signed, name, Party::Provider, &alice_key)).to_vec();
    assert_eq!(signed.missing_parties(&rules), [Party::Provider]);
    signed.signatures.push(signature(&signed, "carol", Party::Provider, &carol_key));
    assert_eq!(signed.missing_parties(&rules), []);
}

#[test]
fn a_malformed_signature_does_not_verify() {
    let (alice, key) = signer("alice", Party::Provider);
    let good = key.sign(b"m");
    assert!(ApprovalSignature::verify(&alice.public_key, b"m", good.as_ref()));
    assert!(!ApprovalSignature::verify(&alice.public_key, b"n", good.as_ref()));
    assert!(!ApprovalSignature::verify(&alice.public_key, b"m", &[]));
    assert!(!ApprovalSignature::verify(&[0xff; 32], b"m", good.as_ref()));
}

#[test]
fn a_use_within_every_term_is_let_pass() {
    let everything = Used {
        identity: Some(identity("acme:sync", 1)),
        ..Used::new(|terms| {
            terms.hours = Some("12:00-13:00".into());
            terms.not_before = Some("2026-12-01T12:00:00Z".parse().unwrap());
            terms.from = vec!["192.0.2.0/24".parse().unwrap()];
            terms.binding = Some(Binding::CertSha256(DIGEST.into()));
        })
    };
    assert_eq!(everything.judge(), Ok(()));
    assert_eq!(Used::new(|_| ()).judge(), Ok(()));
}

#[test]
fn every_term_is_judged() {
    let in_order = || Used::new(|_| ());
    for (what, used, expected) in [
        ("a lower serial", Used { serial: 2, ..in_order() }, ApprovalFault::Superseded),
        ("a higher serial", Used { serial: 4, ..in_order() }, ApprovalFault::Superseded),
        ("the end", Used { at: "2027-07-01T00:00:00Z", ..in_order() }, ApprovalFault::Expired),
        ("another host", Used { host: "b.example.com", ..in_order() }, ApprovalFault::Scope),
        ("another method", Used { method: Method::POST, ..in_order() }, ApprovalFault::Scope),
        ("HEAD for GET", Used { method: Method::HEAD, ..in_order() }, ApprovalFault::Scope),
        ("another path", Used { path: "/ordersx", ..in_order() }, ApprovalFault::Scope),
        ("another net", Used::new(|terms| terms.from = vec!["198.51.100.0/24".parse().unwrap()]), ApprovalFault::Source),
        ("another hour", Used::new(|terms| terms.hours = Some("13:00-12:00".into())), ApprovalFault::Hours),
        ("too early", Used::new(|terms| terms.not_before = Some("2026-12-01T12:00:01Z".parse().unwrap())), ApprovalFault::NotYet),
        ("no certificate", Used::new(|terms| terms.binding = Some(Binding::Identity("sync".into()))), ApprovalFault::Binding),
    ] {
        assert_eq!(used.judge(), Err(expected), "{what}");
    }
    for status in [ApprovalStatus::Requested, ApprovalStatus::Suspended, ApprovalStatus::Revoked] {
        let mut used = in_order();
        used.approval.status = status;
        assert_eq!(used.judge(), Err(ApprovalFault::NotActive));
    }
    assert_eq!(Used { at: "2027-06-30T23:59:59.999Z", ..in_order() }.judge(), Ok(()));
}

#[test]
fn a_binding_names_a_certificate_an_identity_or_a_name_of_any_set() {
    let judge = |binding: Binding, by: &Identity| {
        Used { identity: Some(by.clone()), ..Used::new(|terms| terms.binding = Some(binding)) }.judge()
    };
    let (sync, other) = (identity("acme:sync", 1), identity("acme:other", 2));
    for binding in [Binding::CertSha256(DIGEST.into()), Binding::Identity("acme:sync".into()), Binding::Identity("sync".into())] {
        assert_eq!(judge(binding.clone(), &sync), Ok(()));
        assert_eq!(judge(binding, &other), Err(ApprovalFault::Binding));
    }
    assert_eq!(judge(Binding::Identity("globex:sync".into()), &sync), Err(ApprovalFault::Binding));
    // Another customer's CA may write any name into its own certificates.
    for (bound, forged, own) in [
        ("acme:sync", "globex:acme:sync", "acme:sync"),
        ("acme:urn:acme:sync", "globex:acme:urn:acme:sync", "acme:urn:acme:sync"),
    ] {
        assert_eq!(judge(Binding::Identity(bound.into()), &identity(forged, 3)), Err(ApprovalFault::Binding), "{forged}");
        assert_eq!(judge(Binding::Identity(bound.into()), &identity(own, 3)), Ok(()), "{own}");
    }
    for uri in ["urn:acme:sync", "spiffe://acme/sync"] {
        assert_eq!(judge(Binding::Identity(uri.into()), &identity(&format!("acme:{uri}"), 3)), Ok(()), "{uri}");
    }
}

#[test]
fn templates_cover_whole_segments() {
    for (template, covered, not_covered) in [
        (
            "/orders/**",
            &["/orders", "/orders/", "/orders/17", "/orders/17/lines/"][..],
            &["/", "/ordersx", "/order", "/x/orders"][..],
        ),
        ("/orders/*", &["/orders/17", "/orders/a%20b"], &["/orders", "/orders/", "/orders/17/", "/orders/17/x"]),
        ("/orders/*/lines", &["/orders/17/lines"], &["/orders/lines", "/orders/17/18/lines", "/orders/17/lines/"]),
        ("/orders/*/**", &["/orders/17", "/orders/17/x/y"], &["/orders", "/orders/"]),
        ("/orders", &["/orders"], &["/orders/", "/Orders"]),
        ("/orders/", &["/orders/"], &["/orders", "/orders/1"]),
        ("/", &["/"], &["/x"]),
        ("/**", &["/", "/x", "/x/y"], &[]),
        ("/*", &["/x"], &["/", "/x/y"]),
    ] {
        let template = Template::parse(template).unwrap();
        let covers = |path: &str| template.covers(&CanonicalPath::parse(path).unwrap());
        for path in covered {
            assert!(covers(path), "{template:?} {path}");
        }
        for path in not_covered {
            assert!(!covers(path), "{template:?} {path}");
        }
    }
    for text in ["", "orders", "/orders/**/x", "/or*", "/***", "/orders//x", "/../x", "/a?b", "/%61", "/a%2f"] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_fault_of_the_terms_is_named_by_its_field() {
    type Change = fn(&mut Terms);
    assert_eq!(terms().faults(), Vec::<String>::new());
    let changes: [(&str, Change); 24] = [
        ("name", |terms| terms.name = "a b".into()),
        ("name", |terms| terms.name = "x".repeat(65)),
        ("owner", |terms| terms.owner = " ".into()),
        ("contact", |terms| terms.contact = "a\nb".into()),
        ("purpose", |terms| terms.purpose = "x".repeat(1025)),
        ("policy_id", |terms| terms.policy_id.clear()),
        ("policy_version", |terms| terms.policy_version.clear()),
        ("sites", |terms| terms.sites.clear()),
        ("sites", |terms| terms.sites = vec!["Portal.example.com".into()]),
        ("sites", |terms| terms.sites = vec!["*.example.com".into()]),
        ("sites", |terms| terms.sites = vec!["a".into(); 257]),
        ("methods", |terms| terms.methods.clear()),
        ("methods", |terms| terms.methods = vec!["get".into()]),
        ("paths", |terms| terms.paths.clear()),
        ("paths", |terms| terms.paths = vec!["/**/x".into()]),
        ("rate", |terms| terms.rate = terms.rate.map(|rate| Quota { requests: 0, ..rate })),
        ("hours", |terms| terms.hours = Some("noon".into())),
        ("hours", |terms| terms.hours = Some("09:00-17:00 Mars/Olympus".into())),
        ("until", |terms| terms.until = terms.requested_at),
        ("until", |terms| terms.not_before = Some(terms.until)),
        ("from", |terms| terms.from = vec!["192.0.2.0/24".parse().unwrap(); 257]),
        ("binding", |terms| terms.binding = Some(Binding::CertSha256(DIGEST.to_uppercase().replace('0', "A")))),
        ("binding", |terms| terms.binding = Some(Binding::CertSha256("01".into()))),
        ("binding", |terms| terms.binding = Some(Binding::Identity(String::new()))),
    ];
    for (field, change) in changes {
        let mut terms = terms();
        change(&mut terms);
        let faults = terms.faults();
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("{field}: ")), "{field}: {faults:?}");
        assert!(LiveApproval::compile(Arc::new(approval(terms))).is_err(), "{field}");
    }
}

#[test]
fn every_fault_has_its_public_reason() {
    for (fault, reason) in [
        (ApprovalFault::NotOurs, Reason::BotApprovalRequired),
        (ApprovalFault::Unreadable, Reason::BotApprovalRequired),
        (ApprovalFault::NotActive, Reason::ApprovalRevoked),
        (ApprovalFault::Expired, Reason::ApprovalRevoked),
        (ApprovalFault::Superseded, Reason::ApprovalRevoked),
        (ApprovalFault::Scope, Reason::BotScope),
        (ApprovalFault::Source, Reason::BotScope),
        (ApprovalFault::Hours, Reason::BotHours),
        (ApprovalFault::NotYet, Reason::BotHours),
        (ApprovalFault::Binding, Reason::ApprovalBinding),
    ] {
        assert_eq!(fault.denial().reason, reason);
        assert_eq!(fault.denial().cause, fault.to_string());
    }
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let mut record = approval(terms());
    record.terms.binding = Some(Binding::Identity("acme:sync".into()));
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Approval>(&text).unwrap(), record);
}
