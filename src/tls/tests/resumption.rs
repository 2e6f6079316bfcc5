//! Tickets live exactly as long as what they hang on: CVE-2025-23419 and its kin, played over memory.

use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind};

use super::handshake::{BOTH, client, connect};
use super::pki::{Ca, Setup, now};
use crate::policy::route::CertDemand;
use crate::policy::{CertCause, SiteId};
use crate::tls::TlsState;

const PORTAL: &str = "portal.example.com";

fn kind(state: &TlsState, client: &Arc<ClientConfig>, host: &str) -> HandshakeKind {
    let outcome = connect(state, client, host);
    let server = outcome.server.expect("handshake");
    assert_eq!(outcome.client.expect("handshake").handshake_kind(), server.handshake_kind());
    server.handshake_kind().expect("over")
}

#[test]
fn unchanged_state_keeps_its_tickets_across_a_reload() {
    let ca = Ca::root("acme");
    let leaf = ca.client(|_| {});
    for version in BOTH {
        let mut setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], CertDemand::Required);
        let first = setup.state();
        let client = client(&setup, version, Some(&leaf));
        assert_eq!(kind(&first, &client, PORTAL), HandshakeKind::Full);
        assert_eq!(kind(&first, &client, PORTAL), HandshakeKind::Resumed);
        // what does not touch this site leaves it alone: another site, another certificate, another tenant
        setup.site("other.example.com", &[0], CertDemand::Optional);
        setup.certificate(&["b.example.org"]);
        setup.sets[0].tenant = Some("renamed".into());
        let second = setup.prepare(Some(&first)).unwrap();
        let outcome = connect(&second, &client, PORTAL);
        let server = outcome.server.expect("handshake");
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        let identity = second.judge(SiteId(0), server.peer_certificates().expect("kept in the session"), now()).result.unwrap();
        assert_eq!(identity.tenant.as_deref(), Some("renamed"), "judged by the new state");
    }
}

#[test]
fn tls_resumption_never_outlives_a_change_of_client_verification() {
    let ca = Ca::root("acme");
    let leaf = ca.client(|_| {});
    type Change = (&'static str, fn(&mut Setup, &Ca));
    let changes: [Change; 5] = [
        ("crl", |setup, ca| setup.sets[0].crls = vec![setup.file(&ca.crl(&[5], |_| {}))]),
        ("root", |setup, _| {
            let other = setup.file(&Ca::root("other").pem());
            setup.sets[0].roots.push(other);
        }),
        ("lifetime", |setup, _| setup.sets[0].max_lifetime += std::time::Duration::from_secs(1)),
        ("demand", |setup, _| setup.sites[0].client_cert = CertDemand::Required),
        ("certificate", |setup, _| setup.certificate(&[PORTAL])),
    ];
    for version in BOTH {
        for (what, change) in &changes {
            let mut setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], CertDemand::Optional);
            let first = setup.state();
            let client = client(&setup, version, Some(&leaf));
            kind(&first, &client, PORTAL);
            assert_eq!(kind(&first, &client, PORTAL), HandshakeKind::Resumed);
            change(&mut setup, &ca);
            let second = setup.prepare(Some(&first)).unwrap();
            assert_eq!(kind(&second, &client, PORTAL), HandshakeKind::Full, "{what}");
        }
    }
}

#[test]
fn a_resumed_session_is_judged_anew() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], CertDemand::Required);
    let state = setup.state();
    let client = client(&setup, BOTH[1], Some(&ca.client(|_| {})));
    kind(&state, &client, PORTAL);
    let server = connect(&state, &client, PORTAL).server.unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    let late = crate::clock::Now { wall: super::pki::wall("2027-01-01T00:00:00Z"), ..now() };
    let verdict = state.judge(SiteId(0), server.peer_certificates().unwrap(), late);
    assert_eq!(verdict.result.unwrap_err(), CertCause::Expired);
}

#[test]
fn a_ticket_of_one_site_never_resumes_on_another() {
    let ca = Ca::root("acme");
    for version in BOTH {
        // the same set, the same demand: alike in all but the host
        let mut setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
        setup.site("other.example.com", &[0], CertDemand::Optional);
        let state = setup.state();
        let (ours, theirs) =
            (state.server(Some(PORTAL)).unwrap().config, state.server(Some("other.example.com")).unwrap().config);
        let ticket = ours.ticketer.encrypt(b"session").expect("a ticket");
        assert_eq!(ours.ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(theirs.ticketer.decrypt(&ticket), None);
        assert!(!Arc::ptr_eq(&ours.session_storage, &theirs.session_storage));
        assert_eq!(state.server(None).unwrap().config.ticketer.decrypt(&ticket), None);

        let reloaded = setup.prepare(Some(&state)).unwrap();
        assert!(reloaded.server(Some(PORTAL)).unwrap().config.ticketer.decrypt(&ticket).is_some());
        assert_eq!(reloaded.server(Some("other.example.com")).unwrap().config.ticketer.decrypt(&ticket), None);

        // and the host that a ticket was made for, moved to another site
        let client = client(&setup, version, None);
        kind(&state, &client, PORTAL);
        let hosts = setup.sites[0].hosts.clone();
        setup.sites[0].hosts = setup.sites[1].hosts.clone();
        setup.sites[1].hosts = hosts;
        setup.sites[1].client_ca = Vec::new();
        let swapped = setup.prepare(Some(&state)).unwrap();
        assert_eq!(kind(&swapped, &client, PORTAL), HandshakeKind::Full);
    }
}

#[test]
fn a_restart_knows_no_ticket() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
    let client = client(&setup, BOTH[1], None);
    kind(&setup.state(), &client, PORTAL);
    assert_eq!(kind(&setup.state(), &client, PORTAL), HandshakeKind::Full);
}
