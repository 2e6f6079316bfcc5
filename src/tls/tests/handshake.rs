//! Real handshakes over memory: who is let in, which alert the others get, and what is told of them.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::Acceptor;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, NamedGroup, ProtocolVersion, RootCertStore, ServerConnection,
};

use super::pki::{Ca, Leaf, Setup, common_name, now};
use crate::config::TlsVersion;
use crate::policy::route::{CertDemand, Sni};
use crate::policy::{CertCause, SiteId};
use crate::tls::verify::take_examined;
use crate::tls::{Examined, RefusedCertificate, TlsState, UnknownServerName, examining, provider};

pub const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// Stands still at the tests' moment, on both sides.
#[derive(Debug)]
pub struct Still;

impl rustls::time_provider::TimeProvider for Still {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now().wall.as_second().unsigned_abs())))
    }
}

/// A client that trusts the setup's servers and shows this certificate; keeps sessions for resumption.
pub fn client(setup: &Setup, version: &'static rustls::SupportedProtocolVersion, leaf: Option<&Leaf>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(setup.server_ca.0.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Still)).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match leaf {
        Some(leaf) => builder.with_client_auth_cert(leaf.chain.clone(), leaf.key_der()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Both ends after a handshake, or the error each end saw.
pub struct Outcome {
    pub client: Result<ClientConnection, Error>,
    pub server: Result<ServerConnection, Error>,
    pub sni: Sni,
}

/// Plays one connection to its end, a byte of data each way included, so that tickets and late alerts arrive.
pub fn connect(state: &TlsState, client: &Arc<ClientConfig>, host: &str) -> Outcome {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut acceptor = Acceptor::default();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    acceptor.read_tls(&mut &wire[..]).unwrap();
    let accepted = acceptor.accept().map_err(|(error, _)| error).unwrap().expect("a whole ClientHello");
    let choice = state.server(accepted.client_hello().server_name()).expect("a site's name");
    let mut config = (*choice.config).clone();
    config.time_provider = Arc::new(Still);
    let mut server = match accepted.into_connection(Arc::new(config)) {
        Ok(server) => server,
        Err((error, _)) => return Outcome { client: Ok(client), server: Err(error), sni: choice.sni },
    };
    let (mut client_error, mut server_error) = (None, None);
    client.writer().write_all(b"?").unwrap();
    server.writer().write_all(b"!").unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() && client_error.is_none() {
            client.read_tls(&mut wire).unwrap();
            client_error = client.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() && server_error.is_none() {
            server.read_tls(&mut wire).unwrap();
            server_error = server.process_new_packets().err();
        }
    }
    if client_error.is_none() && server_error.is_none() {
        let mut byte = [0];
        client.reader().read_exact(&mut byte).unwrap();
        server.reader().read_exact(&mut byte).unwrap();
    }
    Outcome { client: client_error.map_or(Ok(client), Err), server: server_error.map_or(Ok(server), Err), sni: choice.sni }
}

fn take_refusal() -> Option<RefusedCertificate> {
    match take_examined() {
        Some(Examined::Refused(refused)) => Some(refused),
        _ => None,
    }
}

impl Outcome {
    fn alert(&self) -> AlertDescription {
        match &self.client {
            Err(Error::AlertReceived(alert)) => *alert,
            other => panic!("no alert but {:?}", other.as_ref().err()),
        }
    }
}

#[test]
fn a_good_certificate_is_let_in_and_handed_on() {
    let ca = Ca::root("acme");
    let leaf = ca.client(|_| {});
    for version in BOTH {
        for demand in [CertDemand::Required, CertDemand::Optional] {
            let setup = Setup::portal(&[&ca], &[ca.crl(&[], |_| {})], demand);
            let outcome = connect(&setup.state(), &client(&setup, version, Some(&leaf)), "portal.example.com");
            let server = outcome.server.expect("handshake");
            assert_eq!(server.peer_certificates(), Some(&leaf.chain[..]));
            assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(outcome.sni, Sni::Site(SiteId(0)));
            match (demand, take_examined()) {
                (CertDemand::Required, Some(Examined::Holds(verdict))) => {
                    assert!(verdict.result.is_ok() && verdict.stands_at(now().wall));
                }
                (CertDemand::Optional, None) => {}
                (_, examined) => panic!("{demand:?}: {examined:?}"),
            }
        }
    }
}

#[test]
fn where_required_each_cause_has_its_alert_and_its_record() {
    let (ca, foreign) = (Ca::root("acme"), Ca::root("foreign"));
    let leaves = [
        (foreign.client(|_| {}), CertCause::UnknownIssuer, AlertDescription::UnknownCA),
        (
            ca.client(|params| params.not_after = rcgen::date_time_ymd(2026, 6, 1)),
            CertCause::Expired,
            AlertDescription::CertificateExpired,
        ),
        (ca.client(|params| params.serial_number = Some(9_u64.into())), CertCause::Revoked, AlertDescription::CertificateRevoked),
        (
            ca.client(|params| params.extended_key_usages.clear()),
            CertCause::MissingClientAuth,
            AlertDescription::UnsupportedCertificate,
        ),
        (ca.client(|params| params.subject_alt_names.clear()), CertCause::NoName, AlertDescription::AccessDenied),
    ];
    let setup = Setup::portal(&[&ca], &[ca.crl(&[9], |_| {})], CertDemand::Required);
    let state = setup.state();
    for version in BOTH {
        for (leaf, cause, alert) in &leaves {
            let outcome = connect(&state, &client(&setup, version, Some(leaf)), "portal.example.com");
            assert_eq!(outcome.alert(), *alert, "{cause:?}");
            let refusal = take_refusal().expect("recorded");
            assert_eq!((refusal.cause, &*refusal.subject), (*cause, "CN=sync"));
            assert!(take_refusal().is_none(), "told once");
        }
    }
}

#[test]
fn an_expired_crl_refuses_where_required() {
    let ca = Ca::root("acme");
    let crl = ca.crl(&[], |params| params.next_update = rcgen::date_time_ymd(2026, 6, 10));
    let setup = Setup::portal(&[&ca], &[crl], CertDemand::Required);
    let outcome = connect(&setup.state(), &client(&setup, BOTH[1], Some(&ca.client(|_| {}))), "portal.example.com");
    assert_eq!(outcome.alert(), AlertDescription::UnknownCA);
    assert_eq!(take_refusal().map(|refusal| refusal.cause), Some(CertCause::CrlExpired));
}

#[test]
fn without_a_certificate_required_refuses_and_optional_goes_on() {
    let ca = Ca::root("acme");
    for version in BOTH {
        let setup = Setup::portal(&[&ca], &[], CertDemand::Required);
        let outcome = connect(&setup.state(), &client(&setup, version, None), "portal.example.com");
        assert!(matches!(outcome.server, Err(Error::NoCertificatesPresented)));
        assert!(take_refusal().is_none(), "nobody was refused: nobody came");
        let setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
        let outcome = connect(&setup.state(), &client(&setup, version, None), "portal.example.com");
        assert!(outcome.server.expect("handshake").peer_certificates().is_none());
    }
}

#[test]
fn where_optional_a_bad_certificate_goes_on_to_be_judged() {
    let (ca, foreign) = (Ca::root("acme"), Ca::root("foreign"));
    let setup = Setup::portal(&[&ca], &[], CertDemand::Optional);
    let state = setup.state();
    for version in BOTH {
        let outcome = connect(&state, &client(&setup, version, Some(&foreign.client(|_| {}))), "portal.example.com");
        let server = outcome.server.expect("handshake");
        let verdict = state.judge(SiteId(0), server.peer_certificates().expect("shown"), now());
        assert_eq!(verdict.result.unwrap_err(), CertCause::UnknownIssuer);
    }
}

#[test]
fn a_certificate_without_its_key_never_passes() {
    let ca = Ca::root("acme");
    let stolen = ca.client(|_| {});
    let thief = Leaf { chain: stolen.chain, key: rcgen::KeyPair::generate().unwrap() };
    for version in BOTH {
        for demand in [CertDemand::Required, CertDemand::Optional] {
            let setup = Setup::portal(&[&ca], &[], demand);
            let mut config = (*client(&setup, version, None)).clone();
            let key = provider().key_provider.load_private_key(thief.key_der()).unwrap();
            let shown = rustls::sign::CertifiedKey::new(thief.chain.clone(), key);
            config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
            let outcome = connect(&setup.state(), &Arc::new(config), "portal.example.com");
            assert_eq!(outcome.alert(), AlertDescription::DecryptError);
            assert_eq!(take_refusal().map(|refusal| refusal.cause), Some(CertCause::BadSignature));
        }
    }
}

#[test]
fn a_key_or_form_that_proves_nothing_ends_the_handshake_with_its_cause() {
    const RSA_1024: usize = 128;
    let mut modulus = vec![0x02, 0x81, 0x81, 0x00];
    modulus.extend([0xc5; RSA_1024]);
    let cases = [
        (rcgen_weak_rsa(&modulus), CertCause::WeakKey, AlertDescription::DecryptError),
        (b"\x30\x03\x02\x01\x01"[..].into(), CertCause::Malformed, AlertDescription::BadCertificate),
    ];
    for version in BOTH {
        let setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
        for (leaf, cause, alert) in &cases {
            let mut config = (*client(&setup, version, None)).clone();
            let shown = rustls::sign::CertifiedKey::new(vec![leaf.clone()], Arc::new(Scribbler));
            config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
            let outcome = connect(&setup.state(), &Arc::new(config), "portal.example.com");
            assert_eq!(outcome.alert(), *alert, "{cause:?}");
            assert_eq!(take_refusal().map(|refusal| refusal.cause), Some(*cause));
        }
    }
    assert!(!crate::tls::names::has_short_rsa_key(&Ca::root("acme").client(|_| {}).chain[0]));
}

/// Signs whatever it is asked to, with nothing.
#[derive(Debug)]
struct Scribbler;

impl rustls::sign::SigningKey for Scribbler {
    fn choose_scheme(&self, _: &[rustls::SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::RSA
    }
}

impl rustls::sign::Signer for Scribbler {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![0; 128])
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        rustls::SignatureScheme::RSA_PSS_SHA256
    }
}

/// A certificate over a made-up RSA key: nothing here verifies it.
fn rcgen_weak_rsa(modulus: &[u8]) -> rustls::pki_types::CertificateDer<'static> {
    let wrap = |tag: u8, value: &[u8]| [&[tag, 0x81, u8::try_from(value.len()).unwrap()], value].concat();
    let key = wrap(0x30, &[modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat());
    let algorithm = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let spki = wrap(0x30, &[&algorithm[..], &wrap(0x03, &[&[0], &key[..]].concat())].concat());
    let public = rcgen::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let ca = Ca::root("acme");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = common_name("weak");
    params.signed_by(&public, &ca.0).unwrap().der().clone()
}

#[test]
fn the_key_exchange_is_post_quantum_first() {
    let setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    let outcome = connect(&setup.state(), &client(&setup, BOTH[1], None), "portal.example.com");
    let group = outcome.server.unwrap().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    let suites = provider().cipher_suites.clone();
    assert!(suites.iter().all(|suite| {
        let name = format!("{:?}", suite.suite());
        name.starts_with("TLS13_") || (name.starts_with("TLS_ECDHE_") && (name.contains("GCM") || name.contains("POLY1305")))
    }));
}

#[test]
fn min_version_1_3_refuses_older_clients() {
    let mut setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    setup.min_version = TlsVersion::V1_3;
    let state = setup.state();
    assert!(connect(&state, &client(&setup, BOTH[0], None), "portal.example.com").server.is_err());
    let server = connect(&state, &client(&setup, BOTH[1], None), "portal.example.com").server.unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn zero_rtt_replay_of_a_login_is_off() {
    let setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Optional);
    for sni in [None, Some("portal.example.com")] {
        assert_eq!(setup.state().server(sni).unwrap().config.max_early_data_size, 0);
    }
}

#[test]
fn sni_of_no_site_is_refused_and_no_sni_asks_nobody() {
    let setup = Setup::portal(&[&Ca::root("acme")], &[], CertDemand::Required);
    let state = setup.state();
    assert_eq!(state.server(Some("other.example.com")).err(), Some(UnknownServerName));
    let choice = state.server(None).unwrap();
    assert_eq!(choice.sni, Sni::Absent);
    let mut config = (*client(&setup, BOTH[1], None)).clone();
    config.enable_sni = false;
    let outcome = connect(&state, &Arc::new(config), "any.example.com");
    assert!(outcome.server.expect("the first certificate").peer_certificates().is_none());
}

#[test]
fn certificates_are_chosen_by_sni_exact_before_wildcard() {
    let mut setup = Setup::new();
    setup.certificate(&["portal.example.com", "b.example.org"]);
    setup.site("*.example.com", &[], CertDemand::None);
    setup.site("portal.example.com", &[], CertDemand::None);
    setup.site("b.example.org", &[], CertDemand::None);
    let state = setup.state();
    let chain = |index: usize| super::super::pem::certificates(&setup.certificates[index].chain.value).unwrap();
    for (host, index) in [("portal.example.com", 1), ("other.example.com", 0), ("b.example.org", 1)] {
        let outcome = connect(&state, &client(&setup, BOTH[1], None), host);
        assert_eq!(outcome.client.expect("handshake").peer_certificates(), Some(&chain(index)[..]), "{host}");
    }
}

#[test]
fn a_stale_refusal_is_not_told_of_the_next_handshake() {
    let (ca, foreign) = (Ca::root("acme"), Ca::root("foreign"));
    let setup = Setup::portal(&[&ca], &[], CertDemand::Required);
    let state = setup.state();
    connect(&state, &client(&setup, BOTH[1], Some(&foreign.client(|_| {}))), "portal.example.com");
    let (_, examined) = examining(|| connect(&state, &client(&setup, BOTH[1], None), "portal.example.com"));
    assert!(examined.is_none());
    assert!(take_refusal().is_none());
}

/// The contract of `examining`: the verifier's word and the failed accept come in one poll of the listener's task.
#[tokio::test]
async fn the_listener_finds_the_refusal_right_after_the_failed_accept() {
    let (ca, foreign) = (Ca::root("acme"), Ca::root("foreign"));
    let setup = Setup::portal(&[&ca], &[], CertDemand::Required);
    let state = setup.state();
    let shown = client(&setup, BOTH[1], Some(&foreign.client(|_| {})));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("portal.example.com").unwrap();
    let peer = tokio::spawn(tokio_rustls::TlsConnector::from(shown).connect(name, near));
    let start = tokio_rustls::LazyConfigAcceptor::new(Acceptor::default(), far).await.unwrap();
    let mut config = (*state.server(start.client_hello().server_name()).expect("a site's name").config).clone();
    config.time_provider = Arc::new(Still);
    assert!(start.into_stream(Arc::new(config)).await.is_err());
    let refusal = take_refusal().expect("recorded on this thread");
    assert_eq!((refusal.cause, &*refusal.issuer), (CertCause::UnknownIssuer, "CN=foreign"));
    drop(peer.await);
}
