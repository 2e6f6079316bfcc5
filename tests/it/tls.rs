//! Promise: only good TLS comes in, each name gets its own certificate and its own site, and nothing learned on one site opens
//! another.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use doorward::cli::demo::pki::{Authority, LeafSpec, write_private};
use doorward::clock::Clock;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs::kx_group};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use crate::support::caller::{BOTH, Caller, Channel, TLS12, TLS13, alert, open_with, until_closed};
use crate::support::{BASE, browser, doorward, event, open, rewrite, run, told};

/// Open sites, one with client certificates, one under a wildcard.
const SITES: &str = r#"
[[site]]
hosts = ["localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
[[site]]
hosts = ["other.localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
[[site]]
hosts = ["*.tenants.localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
[[site]]
hosts = ["partners.localhost"]
client_ca = ["acme"]
client_cert = "optional"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

#[test]
fn tls_1_2_and_1_3_are_spoken_with_aead_and_forward_secrecy_and_nothing_older_or_weaker() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        for (versions, version) in [(TLS12, ProtocolVersion::TLSv1_2), (TLS13, ProtocolVersion::TLSv1_3)] {
            let stream = caller.clone().versions(versions).shake().await.expect("a handshake");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        }
        for suite in &doorward::tls::provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(!name.contains("CBC") && (name.starts_with("TLS13_") || name.contains("ECDHE")), "{name}");
        }
        for (what, hello, expected) in [
            ("TLS 1.1", hello([3, 2], &[0xc0, 0x13, 0x00, 0x2f]), 70),
            ("TLS 1.0", hello([3, 1], &[0xc0, 0x13, 0x00, 0x2f]), 70),
            ("no suite in common: RSA key exchange", hello([3, 3], &[0x00, 0x9c, 0x00, 0x2f, 0x00, 0x35]), 40),
            ("no suite in common: ECDHE with CBC", hello([3, 3], &[0xc0, 0x09, 0xc0, 0x13, 0xc0, 0x14]), 40),
        ] {
            let mut stream = caller.tcp().await;
            stream.write_all(&hello).await.expect("a reader");
            let answer = until_closed(&mut stream).await;
            assert_eq!(answer.first(), Some(&0x15), "{what} is answered by an alert: {answer:?}");
            assert_eq!(answer.get(6), Some(&expected), "{what}: {answer:?}");
            event(&mut stage, &[r#""event":"handshake.failed""#, r#""client":"127.0.1.1""#]).await;
        }
    });
}

#[test]
fn min_version_1_3_refuses_1_2() {
    let stage = open(&format!("{}{SITES}", BASE.replace("[tls]\n", "[tls]\nmin_version = \"1.3\"\n")));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        assert_eq!(caller.clone().versions(TLS12).refusal().await, "ProtocolVersion");
        assert_eq!(caller.versions(TLS13).get("/").await.told(), "200");
    });
}

#[test]
fn the_hybrid_key_exchange_comes_first_and_classic_ones_still_work() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let only = |group: &'static dyn SupportedKxGroup| {
            Caller::new(&stage, [1, 1])
                .provider(CryptoProvider { kx_groups: vec![group], ..(*doorward::tls::provider()).clone() })
                .versions(TLS13)
        };
        let modern = Caller::new(&stage, [1, 1]);
        assert_eq!(group(&modern.shake().await.expect("a handshake")), Some(NamedGroup::X25519MLKEM768));
        let offered: Vec<_> = doorward::tls::provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(offered.first(), Some(&NamedGroup::X25519MLKEM768));
        for group_of in [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1] {
            let stream = only(group_of).shake().await.expect("a handshake");
            assert_eq!(group(&stream), Some(group_of.name()));
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    });
}

#[test]
fn trap_the_protocol_is_the_one_that_alpn_chose_and_is_never_guessed() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1", "h2"], "h2"), (&["http/1.1"], "http/1.1")] {
            let stream = caller.clone().alpn(offered).shake().await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()), "{offered:?}");
        }
        assert_eq!(caller.clone().alpn(&["spdy/3"]).refusal().await, "NoApplicationProtocol");
        event(&mut stage, &[r#""event":"handshake.failed""#]).await;

        let silent = caller.clone().alpn(&[]);
        assert_eq!(silent.get("/").await.told(), "200", "without ALPN it is HTTP/1");
        let answer = silent.raw(PREFACE).await;
        assert!(!answer.contains("200 OK") && !answer.starts_with('\0'), "an HTTP/2 preface on HTTP/1: {answer:?}");
        let answer = caller.alpn(&["h2"]).raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(!answer.contains("HTTP/1.1"), "HTTP/1 where h2 was chosen: {answer:?}");
        event(&mut stage, &[r#""event":"protocol.error""#]).await;
    });
}

/// A second and a wildcard certificate, of an authority of their own.
const MORE_CERTIFICATES: &str = r#"
[[tls.certificate]]
chain = "{certs}/second.crt"
key = "{certs}/second.key"
[[tls.certificate]]
chain = "{certs}/wild.crt"
key = "{certs}/wild.key"
[[site]]
hosts = ["second.localhost", "*.wild.localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

#[test]
fn each_name_gets_the_certificate_that_bears_it_and_a_name_of_no_site_an_alert() {
    let mut stage = open_with(&format!("{BASE}{SITES}{MORE_CERTIFICATES}"), more_certificates);
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        for versions in [TLS12, TLS13] {
            let caller = caller.clone().versions(versions);
            for (name, file) in [
                ("localhost", "portal"),
                ("a.tenants.localhost", "portal"),
                ("second.localhost", "second"),
                ("SECOND.localhost", "second"),
                ("a.wild.localhost", "wild"),
                ("exact.wild.localhost", "second"),
            ] {
                let stream = caller.clone().named(name).shake().await.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(shown(&stream), leaf(&stage.pki.folder, file), "{name}");
            }
            let nameless = caller.clone().nameless().shake().await.expect("a handshake");
            assert_eq!(shown(&nameless), leaf(&stage.pki.folder, "portal"), "without SNI the first one");
            for stranger in ["nobody.localhost", "wild.localhost", "a.b.wild.localhost", "tenants.localhost"] {
                assert_eq!(caller.clone().named(stranger).refusal().await, "UnrecognisedName", "{stranger}");
                event(&mut stage, &[r#""event":"connection.refused""#, r#""cause":"unknown-server-name""#]).await;
            }
        }
    });
}

#[test]
fn trap_sni_and_host_must_name_the_same_site_over_h1() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        for (sni, host, expected) in CROSSINGS {
            let caller = caller.clone().named(sni);
            let mut channel = caller.h1().await;
            let answer = channel.get_of(host).await;
            assert_eq!(answer.told(), *expected, "{sni} then {host}");
            if answer.status == 421 {
                assert_eq!(answer.header("connection"), "close", "{sni} then {host}");
                channel.end.await.expect("a task").expect("closed in order");
            } else {
                assert_eq!(answer.header("connection"), "", "{sni} then {host}");
            }
        }
    });
}

#[test]
fn trap_coalesced_h2_requests_reach_only_the_site_of_the_handshake() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        for sni in ["localhost", "other.localhost", "partners.localhost", "a.tenants.localhost"] {
            let mut channel = caller.clone().named(sni).h2().await;
            for (_, host, expected) in CROSSINGS.iter().filter(|(named, ..)| *named == sni) {
                let answer = channel.get_of(host).await;
                assert_eq!(answer.told(), *expected, "{sni} then {host}");
                assert_eq!(answer.header("connection"), "");
            }
            assert_eq!(channel.get("/").await.told(), "200", "the connection lives on for its own site");
        }
    });
}

/// SNI, Host, answer.
const CROSSINGS: &[(&str, &str, &str)] = &[
    ("localhost", "other.localhost", "421 misdirected"),
    ("localhost", "partners.localhost", "421 misdirected"),
    ("localhost", "nobody.example", "421 misdirected"),
    ("localhost", "a.tenants.localhost", "421 misdirected"),
    ("localhost", "127.0.0.1", "421 misdirected"),
    ("localhost", "localhost", "200"),
    ("localhost", "LOCALHOST:8443", "200"),
    ("localhost", "localhost.", "200"),
    ("other.localhost", "localhost", "421 misdirected"),
    ("partners.localhost", "localhost", "421 misdirected"),
    ("a.tenants.localhost", "b.tenants.localhost", "200"),
    ("a.tenants.localhost", "a.b.tenants.localhost", "421 misdirected"),
    ("a.tenants.localhost", "tenants.localhost", "421 misdirected"),
    ("a.tenants.localhost", "other.localhost", "421 misdirected"),
];

#[test]
fn trap_a_connection_stays_with_the_name_of_its_handshake_when_sites_move_or_go_on_a_reload() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let mut live = caller.h2().await;
        let mut tenant = caller.clone().named("a.tenants.localhost").h1().await;
        assert_eq!(live.get("/").await.told(), "200");
        let start = |text: &str| text.find("\n[[site]]").expect("sites");
        let sites = |text: &str| text[start(text)..].split("\n[[site]]").skip(1).map(str::to_owned).collect::<Vec<_>>();
        let write = |text: &str, sites: &[String]| {
            let sites = sites.iter().map(|site| format!("\n[[site]]{site}")).collect::<String>();
            format!("{}{sites}", &text[..start(text)])
        };
        let reversed = |text: String| write(&text, &sites(&text).into_iter().rev().collect::<Vec<_>>());
        assert!(rewrite(&stage, reversed).status.success());
        for host in ["other.localhost", "a.tenants.localhost", "partners.localhost", "nobody.example"] {
            assert_eq!(live.get_of(host).await.told(), "421 misdirected", "{host}");
        }
        assert_eq!(live.get("/").await.told(), "200", "its own site still answers");
        assert_eq!(tenant.get("/").await.told(), "200", "its own site still answers");

        let without = |text: String| {
            let left: Vec<_> = sites(&text).into_iter().filter(|site| !site.contains("[\"localhost\"]")).collect();
            write(&text, &left)
        };
        assert!(rewrite(&stage, without).status.success());
        for host in ["localhost", "other.localhost", "a.tenants.localhost", "partners.localhost"] {
            assert_eq!(live.get_of(host).await.told(), "421 misdirected", "{host}, after the site is gone");
        }
        assert_eq!(tenant.get("/").await.told(), "200");
    });
}

#[test]
fn without_sni_the_host_picks_among_sites_that_ask_for_no_certificate() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).nameless().with("good");
        let mut h2 = caller.h2().await;
        for (host, expected) in [
            ("localhost", "200"),
            ("other.localhost", "200"),
            ("b.tenants.localhost", "200"),
            ("partners.localhost", "421 misdirected"),
            ("nobody.example", "421 misdirected"),
        ] {
            assert_eq!(h2.get_of(host).await.told(), expected, "{host} over h2");
            assert_eq!(caller.h1().await.get_of(host).await.told(), expected, "{host} over h1");
        }
        let answer = caller.send(browser("GET", "/echo").header("host", "localhost"), "").await;
        assert_eq!(crate::support::caller::seen(&answer, "client-cert"), [""; 0], "nobody was asked");
    });
}

#[test]
fn a_request_with_two_hosts_is_refused_over_h1_and_h2() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other.localhost\r\nConnection: close\r\n\r\n";
        assert!(caller.raw(twice).await.starts_with("HTTP/1.1 400 "));
        let absolute = b"GET https://other.localhost/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(caller.raw(absolute).await.starts_with("HTTP/1.1 400 "));
        let none = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert!(caller.raw(none).await.starts_with("HTTP/1.1 400 "));
        let channel = caller.h2().await;
        let request = http::Request::get("https://localhost/").header("host", "other.localhost");
        let request = request.body(http_body_util::Full::default()).expect("a request");
        let answer = channel.h2_sender().send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 400);
    });
}

#[test]
fn a_client_that_only_shakes_hands_and_listens_gets_its_tickets_and_resumes_with_them_over_h1_and_h2() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for (alpn, from) in [("http/1.1", 1), ("h2", 2)] {
            let caller = Caller::new(&stage, [1, from]).versions(TLS13).alpn(&[alpn]);
            let config = Arc::new(caller.config());
            for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
                let mut stream = caller.shake_with(&config).await.expect("a handshake");
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{alpn}");
                let (socket, session) = stream.get_mut();
                let mut came = [0; 1024];
                while session.tls13_tickets_received() == 0 {
                    socket.readable().await.expect("a socket");
                    let Ok(read) = socket.try_read(&mut came) else { continue };
                    assert!(read > 0, "{alpn}: closed before a ticket came");
                    session.read_tls(&mut &came[..read]).expect("room");
                    session.process_new_packets().expect("good records");
                }
            }
        }
    });
}

#[test]
fn trap_a_ticket_outlives_a_reload_that_changes_nothing_and_dies_with_the_client_verification_state() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for (versions, from) in [(TLS13, 1), (TLS12, 2)] {
            let caller = Caller::new(&stage, [1, from]).versions(versions);
            let partner = caller.clone().named("partners.localhost").with("good");
            let mut config = caller.config();
            config.enable_early_data = true;
            let (open_site, closed_site) = (Arc::new(config), Arc::new(partner.config()));
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Full);
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Resumed);
            assert_eq!(kind(&partner, &closed_site).await, HandshakeKind::Full);
            assert_eq!(kind(&partner, &closed_site).await, HandshakeKind::Resumed);

            assert!(doorward(&stage, &["reload"]).status.success());
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Resumed, "nothing changed");
            assert_eq!(kind(&partner, &closed_site).await, HandshakeKind::Resumed, "nothing changed");

            stage.pki.write_crl(u64::from(from) + 1, &[66, 1000 + u64::from(from)]).expect("a CRL");
            told(&stage, &["reload"]);
            assert_eq!(kind(&partner, &closed_site).await, HandshakeKind::Full, "another CRL, another state");
            assert_eq!(kind(&partner, &closed_site).await, HandshakeKind::Resumed);
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Resumed, "another site's CRL is no matter here");
        }
    });
}

#[test]
fn trap_a_ticket_from_before_a_site_asked_for_certificates_opens_nothing_after() {
    for (versions, refusal) in [(TLS13, "CertificateRequired"), (TLS12, "CertificateRequired")] {
        let stage = open(&format!("{BASE}{SITES}"));
        run(async {
            let caller = Caller::new(&stage, [1, 1]).versions(versions);
            let optional = caller.clone().named("partners.localhost");
            let (open_site, asked) = (Arc::new(caller.config()), Arc::new(optional.config()));
            let mut live = caller.h1().await;
            assert_eq!(live.get("/").await.told(), "200");
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Full);
            assert_eq!(kind(&caller, &open_site).await, HandshakeKind::Resumed);
            assert_eq!(kind(&optional, &asked).await, HandshakeKind::Full);
            assert_eq!(kind(&optional, &asked).await, HandshakeKind::Resumed);
            let required = |text: String| {
                text.replace("\"optional\"", "\"required\"").replace(
                    "hosts = [\"localhost\"]",
                    "hosts = [\"localhost\"]\nclient_ca = [\"acme\"]\nclient_cert = \"required\"",
                )
            };
            assert!(rewrite(&stage, required).status.success());
            for (caller, config) in [(&caller, &open_site), (&optional, &asked)] {
                let refused = match caller.shake_with(config).await {
                    Err(error) => alert(&error),
                    Ok(mut stream) => {
                        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
                        alert(&stream.read(&mut [0]).await.expect_err("no session without a certificate"))
                    }
                };
                assert!([refusal, "HandshakeFailure"].contains(&refused.as_str()), "{refused}");
            }
            assert_eq!(live.get("/").await.told(), "403 client-cert-required", "a connection from before");
        });
    }
}

#[test]
fn trap_a_resumed_session_keeps_its_certificate_and_gets_no_early_data() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for versions in [TLS13, TLS12] {
            let caller = Caller::new(&stage, [1, 1]).versions(versions).named("partners.localhost").with("good");
            let mut config = caller.config();
            config.enable_early_data = true;
            let config = Arc::new(config);
            assert_eq!(kind(&caller, &config).await, HandshakeKind::Full);
            let name = ServerName::try_from("partners.localhost").expect("a name");
            let mut offer = rustls::ClientConnection::new(Arc::clone(&config), name).expect("a client");
            assert!(offer.early_data().is_none(), "the ticket allows none");
            assert_ne!(kind(&caller, &config).await, HandshakeKind::FullWithHelloRetryRequest);
            let stream = caller.shake_with(&config).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            let mut channel = Channel::over_h1(stream, "partners.localhost".to_owned()).await;
            let answer = channel.get("/echo").await;
            assert_eq!(crate::support::caller::seen(&answer, "doorward-identity"), ["acme:urn:acme:orders"]);
        }
    });
}

#[test]
fn trap_a_ticket_of_one_site_is_not_taken_on_another() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for versions in [TLS13, TLS12] {
            let caller = Caller::new(&stage, [1, 1]).versions(versions).with("good");
            let mut config = caller.config();
            // Offers whatever session it has, wherever it goes.
            config.resumption = Resumption::store(Arc::new(OneForAll(ClientSessionMemoryCache::new(8))));
            let config = Arc::new(config);
            assert_eq!(kind(&caller, &config).await, HandshakeKind::Full);
            assert_eq!(kind(&caller, &config).await, HandshakeKind::Resumed, "it does offer them");
            for site in ["partners.localhost", "other.localhost", "a.tenants.localhost", "partners.localhost", "localhost"] {
                assert_eq!(kind(&caller.clone().named(site), &config).await, HandshakeKind::Full, "{site}");
            }
            assert_eq!(kind(&caller, &config).await, HandshakeKind::Resumed);
            assert_eq!(
                kind(&caller.clone().nameless(), &Arc::new(caller.clone().nameless().config())).await,
                HandshakeKind::Full
            );
        }
    });
}

#[test]
fn a_certificate_renewed_under_the_same_config_is_served_after_the_reload() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).versions(BOTH);
        let before = leaf(&stage.pki.folder, "portal");
        let mut channel = caller.h2().await;
        let renewed = stage.pki.server_ca.issue(&LeafSpec::server(crate::support::NAMES).expect("names")).expect("a leaf");
        stage.pki.write("portal", &renewed).expect("a folder");
        told(&stage, &["reload"]);
        let stream = caller.shake().await.expect("a handshake");
        assert_ne!(shown(&stream), before);
        assert_eq!(shown(&stream), renewed.der);
        assert_eq!(channel.get("/").await.told(), "200", "an open connection lives on");
    });
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A store that knows one server.
#[derive(Debug)]
struct OneForAll(ClientSessionMemoryCache);

impl ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(the_one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&the_one())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(the_one(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&the_one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&the_one());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(the_one(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&the_one())
    }
}

fn the_one() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// One request, so that the ticket arrives; how the handshake went.
async fn kind(caller: &Caller, config: &Arc<rustls::ClientConfig>) -> HandshakeKind {
    let mut stream = caller.shake_with(config).await.expect("a handshake");
    let kind = stream.get_ref().1.handshake_kind().expect("a finished handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("a reader");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 "));
    kind
}

fn more_certificates(certs: &Path) {
    let authority = Authority::root("Second server CA", Clock::system().now().wall).expect("an authority");
    for (file, names) in [("second", &["second.localhost", "exact.wild.localhost"][..]), ("wild", &["*.wild.localhost"])] {
        let leaf = authority.issue(&LeafSpec::server(names).expect("names")).expect("a leaf");
        fs::write(certs.join(format!("{file}.crt")), leaf.chain_pem).expect("a folder");
        write_private(&certs.join(format!("{file}.key")), &leaf.key_pem).expect("a folder");
    }
    let roots = fs::read_to_string(certs.join("server-ca.pem")).expect("roots") + &authority.certificate_pem;
    fs::write(certs.join("server-ca.pem"), roots).expect("a folder");
}

fn shown(stream: &TlsStream<tokio::net::TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
}

fn leaf(certs: &Path, name: &str) -> Vec<u8> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_file(certs.join(format!("{name}.crt"))).expect("a certificate").to_vec()
}

fn group(stream: &TlsStream<tokio::net::TcpStream>) -> Option<NamedGroup> {
    stream.get_ref().1.negotiated_key_exchange_group().map(|group| group.name())
}

/// A ClientHello of one version at most, with the suites given and what TLS 1.2 servers ask for.
fn hello(version: [u8; 2], suites: &[u8]) -> Vec<u8> {
    let name = b"localhost";
    let mut extensions = vec![0, 0, 0, name.len() as u8 + 5, 0, name.len() as u8 + 3, 0, 0, name.len() as u8];
    extensions.extend(name);
    // supported_groups: x25519, secp256r1; ec_point_formats; signature_algorithms; extended_master_secret
    extensions.extend([0, 10, 0, 6, 0, 4, 0, 29, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 8, 0, 6, 4, 3, 4, 1, 8, 4, 0, 23, 0, 0]);
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend((suites.len() as u16).to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![0x16, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}
