//! What a presented chain is worth: each way to fail, one by one, and the one way to hold.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd};

use super::pki::{Ca, Leaf, Setup, common_name, now, wall};
use crate::clock::Now;
use crate::policy::CertCause::{self, *};
use crate::policy::identity::NameKind;
use crate::policy::route::CertDemand::Optional;
use crate::policy::{AccountKind, SiteId};
use crate::tls::CertVerdict;

const PORTAL: SiteId = SiteId(0);

fn judge_at(setup: &Setup, leaf: &Leaf, at: Now) -> CertVerdict {
    setup.state().judge(PORTAL, &leaf.chain, at)
}

fn cause(setup: &Setup, leaf: &Leaf) -> CertCause {
    judge_at(setup, leaf, now()).result.expect_err("does not hold")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_good_certificate_holds_and_tells_whom_it_names() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[ca.crl(&[9], |_| {})], Optional);
    let leaf = ca.client(|_| {});
    let verdict = judge_at(&setup, &leaf, now());
    let identity = verdict.result.expect("holds");
    assert_eq!((&*identity.set, &*identity.name, &*identity.key), ("acme", "urn:acme:sync", "acme:urn:acme:sync"));
    assert_eq!((identity.tenant.as_deref(), identity.kind), (Some("acme"), AccountKind::Service));
    assert_eq!(identity.cert_sha256, crate::tls::sha256(&leaf.chain[0]));
    assert_eq!(verdict.valid_until, wall("2026-07-01T00:00:00Z"), "the CRL ends first");
}

#[test]
fn a_verdict_is_kept_no_longer_than_the_shortest_certificate() {
    let ca = Ca::root("acme");
    let middle = ca.intermediate("middle", |params| params.not_after = date_time_ymd(2026, 9, 1));
    let setup = Setup::portal(&[&ca], &[], Optional);
    let leaf = middle.client(|_| {}).through(&middle);
    let verdict = judge_at(&setup, &leaf, now());
    assert!(verdict.result.is_ok());
    assert_eq!(verdict.valid_until, wall("2026-09-01T00:00:00Z"));
    assert_eq!(judge_at(&setup, &ca.client(|_| {}), now()).valid_until, wall("2026-12-31T00:00:00Z"));
}

#[test]
fn only_the_verified_path_is_kept_of_what_was_sent() {
    let (ca, stranger) = (Ca::root("acme"), Ca::root("stranger"));
    let upper = ca.intermediate("upper", |_| {});
    let lower = upper.intermediate("lower", |_| {});
    let setup = Setup::portal(&[&ca], &[], Optional);
    let kept = |leaf: &Leaf| judge_at(&setup, leaf, now()).result.expect("holds").path.to_vec();
    let der = |ca: &Ca| ca.0.der().to_vec();
    assert_eq!(kept(&ca.client(|_| {}).through(&stranger)), Vec::<Vec<u8>>::new(), "an unrelated certificate sent along");
    let leaf = lower.client(|_| {}).through(&stranger).through(&upper).through(&lower);
    assert_eq!(kept(&leaf), [der(&lower), der(&upper)], "the leaf's issuer first");
}

#[test]
fn times_are_those_of_the_given_clock() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], Optional);
    let leaf = ca.client(|_| {});
    let at = |text| judge_at(&setup, &leaf, Now { wall: wall(text), ..now() });
    assert_eq!(at("2025-12-31T23:59:59Z").result.unwrap_err(), NotYetValid);
    assert!(at("2026-01-01T00:00:00Z").result.is_ok());
    assert!(at("2026-12-31T00:00:00Z").result.is_ok());
    assert_eq!(at("2026-12-31T00:00:01Z").result.unwrap_err(), Expired);
    assert_eq!(at("2025-12-31T23:59:30Z").valid_until, wall("2026-01-01T00:00:30Z"), "asked again soon");
}

#[test]
fn an_expired_root_vouches_for_nobody_but_its_renewal_does() {
    let old = Ca::root_with("acme", |params| params.not_after = date_time_ymd(2026, 3, 1));
    let leaf = old.client(|_| {});
    assert_eq!(cause(&Setup::portal(&[&old], &[], Optional), &leaf), Expired);
    let renewed = old.renewed("acme", |_| {});
    assert!(judge_at(&Setup::portal(&[&old, &renewed], &[], Optional), &leaf, now()).result.is_ok());
    let next = old.renewed("acme", |params| {
        params.not_before = date_time_ymd(2026, 8, 1);
        params.not_after = date_time_ymd(2046, 1, 1);
    });
    for roots in [[&renewed, &next], [&next, &renewed]] {
        assert!(judge_at(&Setup::portal(&roots, &[], Optional), &leaf, now()).result.is_ok(), "the one in force decides");
    }
    let future = old.renewed("acme", |params| params.not_before = date_time_ymd(2026, 8, 1));
    assert_eq!(cause(&Setup::portal(&[&future], &[], Optional), &leaf), NotYetValid);
}

#[test]
fn foreign_and_forged_certificates() {
    let (ca, foreign, namesake) = (Ca::root("acme"), Ca::root("foreign"), Ca::root("acme"));
    let setup = Setup::portal(&[&ca], &[], Optional);
    assert_eq!(cause(&setup, &foreign.client(|_| {})), UnknownIssuer);
    assert_eq!(cause(&setup, &namesake.client(|_| {})), BadSignature);
}

#[test]
fn junk_and_an_empty_chain_are_malformed() {
    let ca = Ca::root("acme");
    let state = Setup::portal(&[&ca], &[], Optional).state();
    assert_eq!(state.judge(PORTAL, &[], now()).result.unwrap_err(), Malformed);
    assert_eq!(state.judge(PORTAL, &[b"\x30\x03\x02\x01\x01"[..].into()], now()).result.unwrap_err(), Malformed);
    assert_eq!(state.judge(SiteId(7), &ca.client(|_| {}).chain, now()).result.unwrap_err(), UnknownIssuer);
}

#[test]
fn a_long_chain_costs_nothing() {
    let ca = Ca::root("acme");
    let mut leaf = ca.client(|_| {});
    leaf.chain.resize(9, leaf.chain[0].clone());
    assert_eq!(cause(&Setup::portal(&[&ca], &[], Optional), &leaf), ChainTooLong);
}

#[test]
fn revoked_leaf_and_revoked_intermediate() {
    let ca = Ca::root("acme");
    let middle = ca.intermediate("middle", |_| {});
    let setup = Setup::portal(&[&ca], &[ca.crl(&[1], |_| {})], Optional);
    assert_eq!(cause(&setup, &ca.client(|_| {})), Revoked);
    let lists = [ca.crl(&[77], |_| {}), middle.crl(&[], |_| {})];
    assert_eq!(cause(&Setup::portal(&[&ca], &lists, Optional), &middle.client(|_| {}).through(&middle)), Revoked);
}

#[test]
fn unknown_status_is_denied() {
    let ca = Ca::root("acme");
    let middle = ca.intermediate("middle", |_| {});
    let leaf = middle.client(|_| {}).through(&middle);
    let setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], Optional);
    assert_eq!(cause(&setup, &leaf), StatusUnknown);
    let both = Setup::portal(&[&ca], &[ca.crl(&[], |_| {}) + &middle.crl(&[], |_| {})], Optional);
    assert!(judge_at(&both, &leaf, now()).result.is_ok(), "a bundle of lists in one file");
}

#[test]
fn an_expired_crl_fails_closed() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], Optional);
    let late = Now { wall: wall("2026-07-01T00:00:00Z"), ..now() };
    assert_eq!(judge_at(&setup, &ca.client(|_| {}), late).result.unwrap_err(), CrlExpired);
}

#[test]
fn a_crl_of_another_key_fails_closed() {
    let (ca, namesake) = (Ca::root("acme"), Ca::root("acme"));
    let setup = Setup::portal(&[&ca], &[namesake.crl(&[], |_| {})], Optional);
    assert_eq!(cause(&setup, &ca.client(|_| {})), StatusUnknown);
    let unmarked = namesake.crl(&[], |params| {
        // names our key but is signed by another
        params.key_identifier_method =
            rcgen::KeyIdMethod::PreSpecified(rcgen::CertificateParams::default().key_identifier(ca.0.key()));
    });
    assert_eq!(cause(&Setup::portal(&[&ca], &[unmarked], Optional), &ca.client(|_| {})), StatusUnknown);
}

#[test]
fn after_a_re_key_each_root_is_spoken_of_by_its_own_crl() {
    let (old, new) = (Ca::root("acme"), Ca::root("acme"));
    let lists = [old.crl(&[1], |_| {}), new.crl(&[2], |params| params.this_update = date_time_ymd(2026, 6, 10))];
    let setup = Setup::portal(&[&old, &new], &lists, Optional);
    assert_eq!(cause(&setup, &old.client(|_| {})), Revoked);
    assert!(judge_at(&setup, &new.client(|_| {}), now()).result.is_ok());
}

#[test]
fn the_newest_crl_counts_wherever_it_stands() {
    let ca = Ca::root("acme");
    let old = ca.crl(&[], |_| {});
    let new = ca.crl(&[1], |params| params.this_update = date_time_ymd(2026, 6, 10));
    let future = ca.crl(&[], |params| params.this_update = date_time_ymd(2026, 6, 20));
    for lists in [[old.clone(), new.clone(), future.clone()], [future.clone(), new, old]] {
        assert_eq!(cause(&Setup::portal(&[&ca], &lists, Optional), &ca.client(|_| {})), Revoked);
    }
    assert_eq!(cause(&Setup::portal(&[&ca], &[future], Optional), &ca.client(|_| {})), StatusUnknown, "none is in force");
}

#[test]
fn a_verdict_is_kept_no_longer_than_until_another_crl_is_in_force() {
    let ca = Ca::root("acme");
    let lists = [ca.crl(&[], |_| {}), ca.crl(&[1], |params| params.this_update = date_time_ymd(2026, 6, 20))];
    let setup = Setup::portal(&[&ca], &lists, Optional);
    let leaf = ca.client(|_| {});
    let verdict = judge_at(&setup, &leaf, now());
    assert!(verdict.result.is_ok());
    let later = Now { wall: wall("2026-06-20T00:00:00Z"), ..now() };
    assert_eq!(judge_at(&setup, &leaf, later).result.unwrap_err(), Revoked);
    assert!(!verdict.stands_at(later.wall), "it is kept until {}", verdict.valid_until);
}

#[test]
fn a_leaf_without_client_auth_eku_does_not_hold() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], Optional);
    assert_eq!(cause(&setup, &ca.client(|params| params.extended_key_usages.clear())), MissingClientAuth);
    let server = ca.client(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(cause(&setup, &server), MissingClientAuth);
    let any = ca.client(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
    assert_eq!(cause(&setup, &any), MissingClientAuth);
    let both = ca.client(|params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth));
    assert!(judge_at(&setup, &both, now()).result.is_ok());
}

#[test]
fn every_issuer_needs_key_cert_sign_and_to_be_a_ca() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], Optional);
    for usages in [vec![], vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature]] {
        let middle = ca.intermediate("middle", |params| params.key_usages = usages);
        assert_eq!(cause(&setup, &middle.client(|_| {}).through(&middle)), IssuerWithoutKeyCertSign);
    }
    let leaf_as_ca = ca.intermediate("middle", |params| params.is_ca = rcgen::IsCa::NoCa);
    assert_eq!(cause(&setup, &leaf_as_ca.client(|_| {}).through(&leaf_as_ca)), IssuerWithoutKeyCertSign);
    let good = ca.intermediate("middle", |_| {});
    assert!(judge_at(&setup, &good.client(|_| {}).through(&good), now()).result.is_ok(), "an intermediate needs no EKU");
}

#[test]
fn name_constraints_of_an_issuer_bind() {
    let ca = Ca::root("acme");
    let middle = ca.intermediate("middle", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("acme.example".to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let mut setup = Setup::portal(&[&ca], &[], Optional);
    setup.sets[0].identity = NameKind::SanDns;
    let named = |name: &str| {
        let name = SanType::DnsName(name.try_into().unwrap());
        middle.client(|params| params.subject_alt_names = vec![name]).through(&middle)
    };
    assert_eq!(cause(&setup, &named("evil.example")), NameConstraint);
    assert!(judge_at(&setup, &named("bot.acme.example"), now()).result.is_ok());
}

#[test]
fn a_leaf_that_lives_too_long_does_not_hold() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[], Optional);
    assert_eq!(cause(&setup, &ca.client(|params| params.not_before = date_time_ymd(2025, 1, 1))), LifetimeTooLong);
    setup.sets[0].max_lifetime = Duration::from_secs(364 * 86_400);
    assert!(judge_at(&setup, &ca.client(|_| {}), now()).result.is_ok(), "exactly as long as allowed");
    setup.sets[0].max_lifetime -= Duration::from_secs(1);
    assert_eq!(cause(&setup, &ca.client(|_| {})), LifetimeTooLong);
}

#[test]
fn exactly_one_name_of_the_wanted_kind() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(&[&ca], &[], Optional);
    let with = |names: Vec<SanType>| ca.client(|params| params.subject_alt_names = names);
    assert_eq!(cause(&setup, &with(vec![])), NoName);
    assert_eq!(cause(&setup, &with(vec![SanType::DnsName("a.example".try_into().unwrap())])), NoName);
    assert_eq!(cause(&setup, &with(vec![uri("urn:a"), uri("urn:b")])), SeveralNames);
    assert_eq!(cause(&setup, &with(vec![uri("urn:a"), uri("urn:a")])), SeveralNames);
    assert_eq!(cause(&setup, &with(vec![uri(" ")])), NoName);
    assert_eq!(cause(&setup, &with(vec![uri("urn:a\nX: y")])), Malformed);
    assert_eq!(cause(&setup, &with(vec![uri(&format!("urn:{}", "a".repeat(600)))])), Malformed);
}

#[test]
fn each_kind_of_name() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[], Optional);
    let leaf = ca.client(|params| {
        params.subject_alt_names = vec![
            SanType::DnsName("Bot.Example".try_into().unwrap()),
            SanType::Rfc822Name("Ann@acme.example".try_into().unwrap()),
            uri("urn:x"),
        ];
    });
    for (kind, name) in [
        (NameKind::SanDns, "bot.example"),
        (NameKind::SanEmail, "Ann@acme.example"),
        (NameKind::SanUri, "urn:x"),
        (NameKind::SubjectCn, "sync"),
    ] {
        setup.sets[0].identity = kind;
        assert_eq!(&*judge_at(&setup, &leaf, now()).result.expect("holds").name, name);
    }
    assert_eq!(cause(&setup, &ca.client(|params| params.distinguished_name = rcgen::DistinguishedName::new())), NoName);
    assert_eq!(cause(&setup, &ca.client(|params| params.distinguished_name = common_name("a\u{7f}"))), Malformed);
}

#[test]
fn the_set_that_vouches_gives_tenant_kind_and_roles() {
    let (acme, globex) = (Ca::root("acme"), Ca::root("globex"));
    let mut setup = Setup::portal(&[&acme], &[acme.crl(&[], |_| {})], Optional);
    setup.set("globex", &[&globex], &[]).kind = AccountKind::Bot;
    setup.sites[0].client_ca.push(1);
    setup.site("other.example.com", &[1], Optional);
    let state = setup.state();
    let identity = state.judge(PORTAL, &globex.client(|_| {}).chain, now()).result.expect("holds");
    assert_eq!((identity.tenant.as_deref(), identity.kind), (Some("globex"), AccountKind::Bot));
    assert_eq!(&*identity.key, "globex:urn:acme:sync", "one name in two sets is two identities");
    assert!(state.judge(PORTAL, &acme.client(|_| {}).chain, now()).result.is_ok());
    let elsewhere = state.judge(SiteId(1), &acme.client(|_| {}).chain, now()).result;
    assert_eq!(elsewhere.unwrap_err(), UnknownIssuer, "a set vouches only where the site names it");
    let revoked = ca_refusal(&acme, &mut setup);
    assert_eq!(revoked, Revoked, "the set that knows the certificate says why");
}

fn ca_refusal(ca: &Ca, setup: &mut Setup) -> CertCause {
    setup.sets[0].crls = vec![setup.file(&ca.crl(&[1], |_| {}))];
    cause(setup, &ca.client(|_| {}))
}

#[test]
fn no_damaged_certificate_holds_or_harms() {
    let ca = Ca::root("acme");
    let middle = ca.intermediate("middle", |_| {});
    let leaf = middle.client(|_| {}).through(&middle);
    let state = Setup::portal(&[&ca], &[ca.crl(&[], |_| {}) + &middle.crl(&[], |_| {})], Optional).state();
    assert!(state.judge(PORTAL, &leaf.chain, now()).result.is_ok());
    let damage = (0_usize..2, any::<prop::sample::Index>(), 1_u8..);
    let mut runner = proptest::test_runner::TestRunner::default();
    let run = runner.run(&damage, |(which, at, flip)| {
        let mut chain: Vec<Vec<u8>> = leaf.chain.iter().map(|der| der.to_vec()).collect();
        let at = at.index(chain[which].len());
        chain[which][at] ^= flip;
        let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
        prop_assert!(state.judge(PORTAL, &chain, now()).result.is_err());
        let (subject, issuer) = crate::tls::describe(&chain[0]);
        prop_assert!(!subject.chars().chain(issuer.chars()).any(char::is_control));
        Ok(())
    });
    run.unwrap();
}
