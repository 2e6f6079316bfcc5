//! What refuses a config, where it is said, and what is told of the files.

use rcgen::{IsCa, KeyUsagePurpose, date_time_ymd};

use super::pki::{Ca, Setup, pem, wall};
use crate::config::{CertificateFiles, Diagnostic, ServerScheme, Span};
use crate::policy::route::{CertDemand, HostPattern};

fn errors(setup: &Setup) -> Vec<Diagnostic> {
    setup.prepare(None).err().expect("refused")
}

/// The one error, which must stand at the span.
fn error_at(setup: &Setup, span: &Span) -> String {
    let errors = errors(setup);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(&errors[0].span, span);
    format!("{} | {}", errors[0].message, errors[0].help.as_deref().unwrap_or_default())
}

#[test]
fn mtls_does_not_fail_open_when_a_ca_file_is_missing() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], CertDemand::Optional);
    let (root, crl) = (setup.sets[0].roots[0].clone(), setup.sets[0].crls[0].clone());
    std::fs::remove_file(&crl.value).unwrap();
    assert!(error_at(&setup, &crl.span).contains("cannot read"));
    std::fs::remove_file(&root.value).unwrap();
    assert_eq!(errors(&setup).len(), 2, "all at once");
    setup.sets[0].roots.clear();
    setup.sets[0].crls.clear();
    assert!(error_at(&setup, &Span::default()).contains("has no root"));
}

#[test]
fn what_is_not_a_root_or_a_crl_refuses_the_config() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
    let mut refused = |text: &str| {
        let file = setup.file(text);
        setup.sets[0].roots = vec![file.clone()];
        error_at(&setup, &file.span)
    };
    assert!(refused(&pem("CERTIFICATE", &ca.client(|_| {}).chain[0])).contains("not a CA"));
    assert!(refused(&Ca::root_with("x", |params| params.is_ca = IsCa::NoCa).pem()).contains("not a CA"));
    assert!(
        refused(&Ca::root_with("x", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).pem()).contains("keyCertSign")
    );
    assert!(refused(&pem("CERTIFICATE", b"junk")).contains("cannot be a root"));
    assert!(refused(&ca.crl(&[], |_| {})).contains("X509 CRL"));
    let plain = setup.file(&Ca::root_with("openssl", |params| params.key_usages.clear()).pem());
    setup.sets[0].roots = vec![plain];
    setup.state();
    let crl = setup.file(&pem("X509 CRL", b"junk"));
    setup.sets[0].crls = vec![crl.clone()];
    assert!(error_at(&setup, &crl.span).contains("CRL that cannot be used"));
}

#[test]
fn an_expired_crl_lets_the_gateway_start_and_is_told() {
    let ca = Ca::root("acme");
    let setup = Setup::portal(
        &[&ca],
        &[ca.crl(&[], |params| {
            params.this_update = date_time_ymd(2020, 1, 1);
            params.next_update = date_time_ymd(2020, 2, 1);
        })],
        CertDemand::Required,
    );
    let expiries = setup.state().expiries();
    let crl = expiries.iter().find(|file| file.kind == "crl").unwrap();
    assert_eq!((crl.since, crl.until), (wall("2020-01-01T00:00:00Z"), wall("2020-02-01T00:00:00Z")));
}

#[test]
fn a_crl_may_be_der() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[ca.crl(&[1], |_| {})], CertDemand::Optional);
    let der = super::super::pem::crls(&setup.sets[0].crls[0].value).unwrap();
    let file = setup.file("");
    std::fs::write(&file.value, &der[0]).unwrap();
    setup.sets[0].crls = vec![file];
    let verdict = setup.state().judge(crate::policy::SiteId(0), &ca.client(|_| {}).chain, super::pki::now());
    assert_eq!(verdict.result.unwrap_err(), crate::policy::CertCause::Revoked);
}

#[test]
fn a_root_in_two_sets_refuses_the_config() {
    let (ca, own) = (Ca::root("acme"), Ca::root("own"));
    let mut setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
    let renewed = ca.renewed("acme", |params| params.not_after = date_time_ymd(2037, 1, 1));
    setup.set("globex", &[&own, &renewed], &[]);
    let span = setup.sets[1].roots[1].span.clone();
    assert!(error_at(&setup, &span).contains("client_ca.globex also stands in client_ca.acme"), "renewed or not, it is one root");
    setup.sets.pop();
    let twice = setup.sets[0].roots[0].clone();
    setup.sets[0].roots.push(twice);
    setup.state();
}

#[test]
fn the_key_must_be_the_certificates() {
    let mut setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    let other = setup.file(&rcgen::KeyPair::generate().unwrap().serialize_pem());
    setup.certificates[0].key = other.clone();
    assert!(error_at(&setup, &other.span).contains("is not the key of"));
    let chain = setup.certificates[0].chain.clone();
    setup.certificates[0].key = chain.clone();
    assert!(error_at(&setup, &chain.span).contains("CERTIFICATE block"));
    let junk = setup.file(&pem("PRIVATE KEY", b"junk"));
    setup.certificates[0].key = junk.clone();
    assert!(error_at(&setup, &junk.span).contains("cannot be used"));
}

#[cfg(unix)]
#[test]
fn a_key_that_everybody_can_read_refuses_the_config() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    let key = &setup.certificates[0].key;
    std::fs::set_permissions(&key.value, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = error_at(&setup, &key.span);
    assert!(error.contains("read by everybody") && error.contains("chmod 0600"), "{error}");
}

#[test]
fn a_host_that_no_certificate_covers_refuses_the_config() {
    let mut setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    let span = setup.certificates[0].chain.span.clone();
    for (host, covered) in [
        ("portal.example.com", true),
        ("127.0.0.1", true),
        ("[::1]", true),
        ("example.com", false),
        ("a.b.example.com", false),
        ("localhost", false),
    ] {
        setup.sites[0].hosts = vec![HostPattern::Exact(host.to_owned())];
        if covered {
            setup.state();
        } else {
            assert!(error_at(&setup, &span).contains(&format!("covers the host {host} ")));
        }
    }
    setup.sites[0].hosts = vec![HostPattern::Wildcard("example.org".to_owned())];
    assert!(error_at(&setup, &span).contains("*.example.org"));
    setup.sites[0].hosts = vec![HostPattern::Wildcard("example.com".to_owned())];
    setup.state();
}

#[test]
fn required_without_a_set_is_refused() {
    let mut setup = Setup::new();
    setup.site("portal.example.com", &[], CertDemand::Required);
    assert!(error_at(&setup, &Span::default()).contains("no client_ca may vouch"));
    setup.sites[0].client_ca = vec![3];
    assert!(error_at(&setup, &Span::default()).contains("does not exist"));
}

#[test]
fn every_file_is_told_once_with_its_end() {
    let ca = Ca::root("acme");
    let mut setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], CertDemand::Optional);
    let shown = setup.certificates[0].clone();
    setup.upstream(ServerScheme::Https).client_certificate = Some(shown);
    setup.upstreams[0].ca = Some(setup.file(&setup.server_ca.pem()));
    let state = setup.state();
    assert_eq!(state.files().len(), 5, "chain, key, root, list, upstream CA");
    let mut kinds: Vec<_> = state.expiries().iter().map(|file| file.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["certificate", "certificate", "client-ca", "crl"]);
}

#[test]
fn upstream_configs_follow_their_specs_and_live_on_unchanged() {
    let mut setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    setup.upstream(ServerScheme::Http);
    setup.upstream(ServerScheme::Https);
    setup.upstream(ServerScheme::Https).ca = None;
    let first = setup.state();
    let clients = first.upstream_clients();
    assert!(clients[0].is_none());
    let web = clients[1].as_ref().unwrap();
    assert_eq!(web.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    setup.upstreams[2].ca = Some(setup.file(&setup.server_ca.pem()));
    setup.upstreams.remove(0);
    let second = setup.prepare(Some(&first)).unwrap();
    assert!(std::sync::Arc::ptr_eq(web, second.upstream_clients()[0].as_ref().unwrap()));
    assert!(!std::sync::Arc::ptr_eq(clients[2].as_ref().unwrap(), second.upstream_clients()[1].as_ref().unwrap()));
    let junk = setup.file("no PEM here\n");
    setup.upstreams[0].ca = Some(junk.clone());
    assert!(error_at(&setup, &junk.span).contains("no certificate"));
    setup.upstreams[0].ca = None;
    let (chain, key) = (setup.certificates[0].chain.clone(), setup.file(&rcgen::KeyPair::generate().unwrap().serialize_pem()));
    setup.upstreams[0].client_certificate = Some(CertificateFiles { chain, key: key.clone() });
    assert!(error_at(&setup, &key.span).contains("is not the key of"));
}
