//! Promise: a client certificate proves who somebody is only while everything behind it holds, and what it proves reaches the
//! application unforged.

use std::fs;

use doorward::cli::demo::pki::{Authority, Leaf, LeafSpec};
use doorward::clock::Clock;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use crate::support::caller::{Caller, TLS12, TLS13, open_with, seen};
use crate::support::{BASE, Stage, browser, event, open, rewrite, run, told};

/// One site where routes decide, one that requires, one where two sets may vouch, one where only the other set may.
const SITES: &str = r#"
[[site]]
hosts = ["localhost"]
client_ca = ["acme"]
client_cert = "optional"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
  [[site.route]]
  path = "/api/"
  upstream = "portal"
  bots = "any"
  client_cert = "required"
[[site]]
hosts = ["partners.localhost"]
client_ca = "acme"
client_cert = "required"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

/// Every way in which a certificate may fail.
struct Bad {
    what: &'static str,
    chain: String,
    key: String,
    cause: &'static str,
    alert: &'static str,
}

#[test]
fn where_routes_decide_a_bad_certificate_counts_as_none_and_where_one_is_required_it_is_refused_with_its_event() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    let all = bad(&stage);
    run(async {
        for bad in &all {
            for versions in [TLS12, TLS13] {
                let caller = Caller::new(&stage, [1, 1]).versions(versions).showing(&bad.chain, &bad.key);
                let mut channel = caller.h1().await;
                let open_page = channel.get("/echo").await;
                assert_eq!(open_page.told(), "200", "{} on an open route", bad.what);
                for name in ["client-cert", "client-cert-chain", "doorward-identity", "doorward-kind", "doorward-tenant"] {
                    assert_eq!(seen(&open_page, name), [""; 0], "{}: {name}", bad.what);
                }
                let line = event(&mut stage, &[r#""event":"certificate.refused""#]).await;
                told_of(bad, &line, false);
                let expected = if bad.cause == "revoked" { "403 revoked" } else { "403 client-cert-refused" };
                assert_eq!(channel.get("/api/echo").await.told(), expected, "{}", bad.what);
                let request = event(&mut stage, &[r#""path":"/api/echo""#]).await;
                assert!(request.contains(&format!(r#""cause":"{}""#, bad.cause)), "{}: {request}", bad.what);
            }
        }
    });
}

#[test]
fn where_a_certificate_is_required_a_bad_one_ends_the_handshake_with_its_alert_and_event() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    let all = bad(&stage);
    run(async {
        for bad in &all {
            for versions in [TLS12, TLS13] {
                let caller = Caller::new(&stage, [1, 1]).named("partners.localhost").versions(versions);
                let caller = caller.showing(&bad.chain, &bad.key);
                assert_eq!(caller.refusal().await, bad.alert, "{}", bad.what);
                let line = event(&mut stage, &[r#""event":"certificate.refused""#]).await;
                told_of(bad, &line, true);
                assert!(line.contains(r#""site":"partners.localhost""#), "{line}");
            }
        }
        for (versions, alert) in [(TLS12, "HandshakeFailure"), (TLS13, "CertificateRequired")] {
            let none = Caller::new(&stage, [1, 1]).named("partners.localhost").versions(versions);
            let refused = none.refusal().await;
            assert!(refused == alert || refused == "CertificateRequired", "without a certificate: {refused}");
        }
        assert_eq!(stage.portal.seen.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
    });
}

#[test]
fn a_signature_that_does_not_prove_the_key_ends_the_handshake_everywhere() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let good = fs::read_to_string(crate::support::cert(&stage, "good.crt")).expect("a chain");
        let other = fs::read_to_string(crate::support::cert(&stage, "other.key")).expect("a key");
        for site in ["localhost", "partners.localhost"] {
            for versions in [TLS12, TLS13] {
                let thief = Caller::new(&stage, [1, 1]).named(site).versions(versions).showing(&good, &other);
                assert_eq!(thief.refusal().await, "DecryptError", "{site}");
                let line = event(&mut stage, &[r#""event":"certificate.refused""#]).await;
                for text in [r#""cause":"bad-signature""#, r#""in_handshake":true"#, "CN=urn:acme:orders"] {
                    assert!(line.contains(text), "{text} in {line}");
                }
            }
        }
    });
}

#[test]
fn a_route_that_requires_a_certificate_refuses_callers_without_one() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for versions in [TLS12, TLS13] {
            let caller = Caller::new(&stage, [1, 1]).versions(versions);
            assert_eq!(caller.get("/api/orders").await.told(), "403 client-cert-required");
            assert_eq!(caller.get("/api").await.told(), "403 client-cert-required", "the prefix covers its own name");
            assert_eq!(caller.h2().await.get("/api/orders").await.told(), "403 client-cert-required");
            assert_eq!(caller.get("/apis").await.told(), "404", "whole segments only");
            assert_eq!(caller.clone().with("good").get("/api/orders").await.told(), "200");
            assert_eq!(caller.with("good").named("partners.localhost").get("/").await.told(), "200");
        }
    });
}

#[test]
fn trap_the_application_sees_the_proven_identity_and_nothing_forged() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).with("good");
        let forged = || {
            browser("GET", "/echo")
                .header("Doorward-Identity", "acme:urn:acme:admin")
                .header("doorward_identity", "acme:urn:acme:admin")
                .header("Doorward.Kind", "human")
                .header("doorward-tenant", "evil")
                .header("doorward-approval-id", "evil")
                .header("client-cert", ":ZXZpbA==:")
                .header("Client_Cert", ":ZXZpbA==:")
                .header("client-cert-chain", ":ZXZpbA==:")
                .header("x-client-cert", "evil")
                .header("ssl-client-verify", "SUCCESS")
        };
        let der = pem_body(&fs::read_to_string(crate::support::cert(&stage, "good.crt")).expect("a chain"));
        for answer in [
            caller.send(forged(), "").await,
            caller.send(forged().header("connection", "doorward-identity, client-cert, doorward-decision"), "").await,
            caller.h2().await.send(forged(), "").await.expect("an answer"),
        ] {
            assert_eq!(seen(&answer, "doorward-identity"), ["acme:urn:acme:orders"]);
            assert_eq!(seen(&answer, "doorward-kind"), ["service"]);
            assert_eq!(seen(&answer, "doorward-tenant"), ["acme"]);
            assert_eq!(seen(&answer, "client-cert"), [format!(":{der}:")]);
            assert_eq!(seen(&answer, "client-cert-chain"), [""; 0], "a leaf under a root has no chain");
            assert_eq!(seen(&answer, "doorward-approval-id"), [""; 0]);
            assert_eq!(seen(&answer, "doorward-decision"), [answer.header("doorward-decision")]);
            let body = String::from_utf8_lossy(&answer.body);
            for word in ["evil", "admin", "SUCCESS", "ZXZpbA"] {
                assert!(!body.contains(word), "{word} reached the application: {body}");
            }
        }
        let nobody = Caller::new(&stage, [1, 2]).send(forged(), "").await;
        for name in ["doorward-identity", "doorward-kind", "doorward-tenant", "client-cert", "doorward-approval-id"] {
            assert_eq!(seen(&nobody, name), [""; 0], "{name}");
        }
    });
}

#[test]
fn an_identity_outside_visible_ascii_reaches_the_application_percent_encoded() {
    let stage = open(&format!("{}{SITES}", BASE.replace("tenant = \"acme\"", "identity = \"subject-cn\"\ntenant = \"acme\"")));
    run(async {
        let spec = LeafSpec { common_name: "Jörg\u{202e} Müller%".to_owned(), ..client("urn:x", 70) };
        let caller = Caller::new(&stage, [1, 1]).leaf(&stage.pki.acme.issue(&spec).expect("a leaf"));
        let answer = caller.get("/api/echo").await;
        assert_eq!(seen(&answer, "doorward-identity"), ["acme:J%C3%B6rg%E2%80%AE%20M%C3%BCller%25"]);
    });
}

#[test]
fn trap_a_crl_reloaded_under_a_live_connection_bites_on_its_next_request() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).with("other");
        let (mut h1, mut h2) = (caller.h1().await, caller.h2().await);
        let mut partner = caller.clone().named("partners.localhost").h2().await;
        let mut silent = caller.clone().named("partners.localhost").h1().await;
        let mut bystander = Caller::new(&stage, [1, 2]).with("good").h2().await;
        for channel in [&mut h1, &mut h2, &mut bystander] {
            assert_eq!(channel.get("/api/orders").await.told(), "200");
        }
        assert_eq!(partner.get("/").await.told(), "200");

        stage.pki.write_crl(2, &[66, 11]).expect("a CRL");
        told(&stage, &["reload"]);
        for channel in [&mut h1, &mut h2] {
            assert_eq!(channel.get("/api/orders").await.told(), "403 revoked");
            let line = event(&mut stage, &[r#""event":"certificate.refused""#]).await;
            assert!(line.contains(r#""cause":"revoked""#) && line.contains("CN=urn:acme:reports"), "{line}");
            assert_eq!(channel.get("/").await.told(), "200", "where none is needed it counts as none");
        }
        for (channel, what) in [(&mut partner, "judged by its requests"), (&mut silent, "judged by its handshake alone")] {
            assert_eq!(channel.get("/").await.told(), "403 revoked", "{what}");
        }
        assert_eq!(bystander.get("/api/orders").await.told(), "200");
        assert_eq!(caller.clone().named("partners.localhost").refusal().await, "CertificateRevoked");

        stage.pki.write_crl(3, &[66]).expect("a CRL");
        told(&stage, &["reload"]);
        assert_eq!(h2.get("/api/orders").await.told(), "200", "and back");
    });
}

#[test]
fn a_resumed_session_of_a_certificate_revoked_since_proves_nothing() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        for (versions, number) in [(TLS13, 2), (TLS12, 4)] {
            let caller = Caller::new(&stage, [1, 1]).with("other").versions(versions);
            let config = std::sync::Arc::new(caller.config());
            let over = |stream| crate::support::caller::Channel::over_h1(stream, "localhost".to_owned());
            let mut first = over(caller.shake_with(&config).await.expect("a handshake")).await;
            assert_eq!(first.get("/api/orders").await.told(), "200");
            stage.pki.write_crl(number, &[66, 11]).expect("a CRL");
            told(&stage, &["reload"]);
            let mut second = over(caller.shake_with(&config).await.expect("a handshake")).await;
            assert_eq!(second.get("/api/orders").await.told(), "403 revoked");
            stage.pki.write_crl(number + 1, &[66]).expect("a CRL");
            told(&stage, &["reload"]);
        }
    });
}

#[test]
fn trap_an_expired_crl_fails_closed() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).with("good");
        let mut live = caller.h2().await;
        assert_eq!(live.get("/api/orders").await.told(), "200");
        let expired = stage.pki.acme.crl(2, &[66], -1).expect("a CRL");
        fs::write(crate::support::cert(&stage, "acme-ca.crl"), expired).expect("a folder");
        told(&stage, &["reload"]);
        assert_eq!(live.get("/api/orders").await.told(), "403 client-cert-refused");
        event(&mut stage, &[r#""event":"certificate.refused""#, r#""cause":"crl-expired""#]).await;
        assert_eq!(live.get("/").await.told(), "200");
        let partner = caller.named("partners.localhost");
        for versions in [TLS12, TLS13] {
            assert_ne!(partner.clone().versions(versions).refusal().await, "closed");
            event(&mut stage, &[r#""cause":"crl-expired""#, r#""in_handshake":true"#]).await;
        }
    });
}

#[test]
fn trap_a_crl_that_cannot_be_used_is_refused_and_the_old_one_lives_on() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let caller = Caller::new(&stage, [1, 1]).with("revoked");
        let foreign = stage.pki.foreign.crl(9, &[], 30).expect("a CRL");
        let path = crate::support::cert(&stage, "acme-ca.crl");
        for broken in [String::new(), "no CRL at all".to_owned()] {
            fs::write(&path, broken).expect("a folder");
            let reload = crate::support::doorward(&stage, &["reload"]);
            assert_eq!(reload.status.code(), Some(78));
            assert_eq!(caller.get("/api/orders").await.told(), "403 revoked");
        }
        fs::write(&path, &foreign).expect("a folder");
        let reload = crate::support::doorward(&stage, &["reload"]);
        let told = caller.get("/api/orders").await.told();
        // Refused with the config or taken as knowing nothing: never as knowing nothing bad.
        assert!(told.starts_with("403 "), "{told} after a foreign CRL ({:?})", reload.status);
        let good = Caller::new(&stage, [1, 1]).with("good").get("/api/orders").await.told();
        let expected = if reload.status.success() { "403 client-cert-refused" } else { "200" };
        assert_eq!(good, expected);
        fs::remove_file(&path).expect("a file");
        assert_eq!(crate::support::doorward(&stage, &["reload"]).status.code(), Some(78), "a missing CRL refuses the config");
    });
}

#[test]
fn an_intermediate_of_unknown_status_vouches_for_nobody_until_its_own_list_is_there() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        let usages = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let middle = stage.pki.acme.intermediate("Acme middle", &usages).expect("an issuer");
        let leaf = middle.issue(&client("urn:acme:middle", 80)).expect("a leaf");
        let caller = Caller::new(&stage, [1, 1]).leaf(&leaf);
        assert_eq!(caller.get("/api/echo").await.told(), "403 client-cert-refused");

        fs::write(crate::support::cert(&stage, "middle.crl"), middle.crl(1, &[81], 30).expect("a CRL")).expect("a folder");
        let both = |text: String| {
            let own = format!("{}/acme-ca.crl\"", stage.pki.folder.display());
            text.replace(&own, &format!("{own}, \"{}/middle.crl\"", stage.pki.folder.display()))
        };
        let reload = rewrite(&stage, both);
        assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
        let answer = caller.get("/api/echo").await;
        assert_eq!(answer.told(), "200");
        assert_eq!(seen(&answer, "doorward-identity"), ["acme:urn:acme:middle"]);
        assert_eq!(seen(&answer, "client-cert-chain"), [format!(":{}:", pem_body(&middle.certificate_pem))]);
        let other = stage.pki.acme.intermediate("Acme other", &usages).expect("an issuer");
        let padded = format!("{}{}", leaf.chain_pem, other.certificate_pem);
        let answer = Caller::new(&stage, [1, 1]).showing(&padded, &leaf.key_pem).get("/api/echo").await;
        assert_eq!(seen(&answer, "client-cert-chain"), [format!(":{}:", pem_body(&middle.certificate_pem))], "the path alone");
        let revoked = middle.issue(&client("urn:acme:middle", 81)).expect("a leaf");
        assert_eq!(Caller::new(&stage, [1, 1]).leaf(&revoked).get("/api/echo").await.told(), "403 revoked");
    });
}

/// A second set, of people named by their common name, without lists.
const BETA: &str = r#"
[client_ca.beta]
roots = ["{certs}/beta-ca.pem"]
identity = "subject-cn"
kind = "human"
tenant = "beta"
roles = ["reader"]
[[site]]
hosts = ["other.localhost"]
client_ca = ["acme", "beta"]
client_cert = "optional"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
  [[site.route]]
  path = "/public/services"
  upstream = "portal"
  bots = "any"
  allow = ["kind:service"]
  [[site.route]]
  path = "/public/readers"
  upstream = "portal"
  bots = "any"
  allow = ["role:reader", "identity:beta:Nobody"]
  [[site.route]]
  path = "/public/acme"
  upstream = "portal"
  bots = "any"
  allow = ["tenant:acme"]
  [[site.route]]
  path = "/public/orders"
  upstream = "portal"
  bots = "any"
  allow = ["identity:acme:urn:acme:orders"]
[[site]]
hosts = ["*.tenants.localhost"]
client_ca = ["beta"]
client_cert = "required"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

#[test]
fn the_set_that_vouches_gives_tenant_kind_and_roles_and_no_set_speaks_on_anothers_site() {
    let beta = Authority::root("Beta client CA", Clock::system().now().wall).expect("an authority");
    let mut stage = open_with(&format!("{BASE}{SITES}{BETA}"), |certs| {
        fs::write(certs.join("beta-ca.pem"), &beta.certificate_pem).expect("a folder");
    });
    run(async {
        let person = beta.issue(&LeafSpec { common_name: "Bea".to_owned(), ..client("urn:beta:bea", 5) }).expect("a leaf");
        // The other set's CA may not name somebody of this one.
        let poser = beta.issue(&LeafSpec { common_name: "urn:acme:orders".to_owned(), ..client("urn:acme:orders", 6) });
        let caller = Caller::new(&stage, [1, 1]).named("other.localhost");
        let service = caller.clone().with("good");
        let reports = caller.clone().with("other");
        let human = caller.clone().leaf(&person);
        let poser = caller.clone().leaf(&poser.expect("a leaf"));

        let echoed = human.get("/echo").await;
        assert_eq!(seen(&echoed, "doorward-identity"), ["beta:Bea"]);
        assert_eq!(seen(&echoed, "doorward-kind"), ["human"]);
        assert_eq!(seen(&echoed, "doorward-tenant"), ["beta"]);
        assert_eq!(seen(&poser.get("/echo").await, "doorward-identity"), ["beta:urn:acme:orders"]);
        for (path, passes) in [
            ("/public/services", [true, true, false, false, false]),
            ("/public/readers", [false, false, true, true, false]),
            ("/public/acme", [true, true, false, false, false]),
            ("/public/orders", [true, false, false, false, false]),
            ("/public/else", [true, true, true, true, true]),
        ] {
            for (who, passes) in [&service, &reports, &human, &poser, &caller].into_iter().zip(passes) {
                let expected = if passes { "200" } else { "403 not-permitted" };
                assert_eq!(who.get(path).await.told(), expected, "{path}");
                assert_eq!(who.h2().await.get(path).await.told(), expected, "{path} over h2");
            }
        }

        let tenant = Caller::new(&stage, [1, 1]).named("a.tenants.localhost");
        assert_eq!(tenant.clone().leaf(&person).get("/").await.told(), "200");
        assert_eq!(tenant.clone().with("good").refusal().await, "UnknownCA", "acme may not vouch there");
        let unfit = beta.intermediate("Beta lists", &[KeyUsagePurpose::CrlSign]).expect("an issuer");
        let unfit = tenant.leaf(&unfit.issue(&client("urn:beta:bea", 7)).expect("a leaf"));
        assert_eq!(unfit.refusal().await, "UnsupportedCertificate", "its issuer may sign lists only");
        event(&mut stage, &[r#""cause":"issuer-without-key-cert-sign""#, "CN=Beta lists"]).await;
        let localhost = Caller::new(&stage, [1, 1]).leaf(&person);
        assert_eq!(localhost.get("/api/echo").await.told(), "403 client-cert-refused", "beta may not vouch here");
    });
}

#[test]
fn an_address_ban_does_not_hold_who_proves_who_he_is_and_holds_who_does_not() {
    let stage = open(&format!("{BASE}{SITES}"));
    run(async {
        told(&stage, &["bans", "add", "127.0.1.1", "--for", "1h", "--reason", "abuse"]);
        let caller = Caller::new(&stage, [1, 1]);
        for (certificate, expected) in
            [("good", "200"), ("revoked", "403 banned"), ("expired", "403 banned"), ("foreign", "403 banned")]
        {
            let caller = caller.clone().with(certificate);
            assert_eq!(caller.get("/").await.told(), expected, "{certificate}");
            assert_eq!(caller.h2().await.get("/api/orders").await.told(), expected, "{certificate} over h2");
        }
        assert_eq!(caller.get("/").await.told(), "403 banned");
        let mut live = caller.with("good").h2().await;
        assert_eq!(live.get("/").await.told(), "200");
        stage.pki.write_crl(2, &[66, 10]).expect("a CRL");
        told(&stage, &["reload"]);
        assert_eq!(live.get("/").await.told(), "403 banned", "what proves nothing any more, passes nothing");
    });
}

#[test]
fn a_root_in_two_sets_refuses_the_config() {
    let stage = open(&format!("{BASE}{SITES}"));
    let reload = rewrite(&stage, |text| {
        let root = format!("{}/acme-ca.pem", stage.pki.folder.display());
        format!("{text}\n[client_ca.twin]\nroots = [\"{root}\"]\n")
    });
    assert_eq!(reload.status.code(), Some(78), "{}", String::from_utf8_lossy(&reload.stderr));
    run(async {
        assert_eq!(Caller::new(&stage, [1, 1]).with("good").get("/api/orders").await.told(), "200", "the old one lives on");
    });
}

fn told_of(bad: &Bad, line: &str, in_handshake: bool) {
    let issuer = match bad.what {
        "a foreign CA's" => "CN=Foreign CA",
        "an issuer without keyCertSign" => "CN=Unfit issuer",
        "an intermediate of unknown status" | "a chain that lacks its intermediate" => "CN=Middle",
        "a chain too long" => "CN=Link 8",
        _ => "CN=Acme client CA",
    };
    for text in [
        format!(r#""cause":"{}""#, bad.cause),
        format!(r#""in_handshake":{in_handshake}"#),
        r#""client":"127.0.1.1""#.to_owned(),
        r#""subject":"#.to_owned(),
        "CN=urn:acme:".to_owned(),
        issuer.to_owned(),
    ] {
        assert!(line.contains(&text), "{}: no {text} in {line}", bad.what);
    }
}

fn bad(stage: &Stage) -> Vec<Bad> {
    let pki = &stage.pki;
    let from_file = |name: &str| {
        let text = |kind: &str| fs::read_to_string(pki.folder.join(format!("{name}.{kind}"))).expect("a file");
        (text("crt"), text("key"))
    };
    let issued = |spec: LeafSpec| parts(pki.acme.issue(&spec).expect("a leaf"));
    let uri = |name: &str| SanType::URI(name.try_into().expect("ASCII"));
    let usages = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let middle = pki.acme.intermediate("Middle", &usages).expect("an issuer");
    let (of_middle, middle_key) = parts(middle.issue(&client("urn:acme:a", 33)).expect("a leaf"));
    let mut link = pki.acme.intermediate("Link 1", &usages).expect("an issuer");
    for number in 2..=8 {
        link = link.intermediate(&format!("Link {number}"), &usages).expect("an issuer");
    }
    let alone = of_middle.split_inclusive("-----END CERTIFICATE-----").next().expect("a leaf").to_owned();
    let kinds = [
        ("a revoked one", from_file("revoked"), "revoked", "CertificateRevoked"),
        ("an expired one", from_file("expired"), "expired", "CertificateExpired"),
        (
            "one that is not valid yet",
            issued(LeafSpec { from_days: 2, ..client("urn:acme:a", 20) }),
            "not-yet-valid",
            "CertificateExpired",
        ),
        ("a foreign CA's", from_file("foreign"), "unknown-issuer", "UnknownCA"),
        ("an issuer without keyCertSign", from_file("unfit-issuer"), "issuer-without-key-cert-sign", "UnsupportedCertificate"),
        (
            "trap_leaf_without_eku",
            issued(LeafSpec { usages: vec![], ..client("urn:acme:a", 21) }),
            "no-client-auth-eku",
            "UnsupportedCertificate",
        ),
        (
            "a server's",
            issued(LeafSpec { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..client("urn:acme:a", 22) }),
            "no-client-auth-eku",
            "UnsupportedCertificate",
        ),
        (
            "one that lives too long",
            issued(LeafSpec { until_days: 500, ..client("urn:acme:a", 23) }),
            "lifetime-too-long",
            "AccessDenied",
        ),
        (
            "one without a name",
            issued(LeafSpec { names: vec![], ..client("urn:acme:a", 24) }),
            "no-identity-name",
            "AccessDenied",
        ),
        (
            "one with a name of another kind",
            issued(LeafSpec {
                names: vec![SanType::DnsName("a.example".try_into().expect("ASCII"))],
                ..client("urn:acme:a", 25)
            }),
            "no-identity-name",
            "AccessDenied",
        ),
        (
            "one with two names",
            issued(LeafSpec { names: vec![uri("urn:acme:a"), uri("urn:acme:b")], ..client("urn:acme:a", 26) }),
            "several-identity-names",
            "AccessDenied",
        ),
        ("an intermediate of unknown status", (of_middle, middle_key.clone()), "revocation-status-unknown", "UnknownCA"),
        ("a chain that lacks its intermediate", (alone, middle_key), "unknown-issuer", "UnknownCA"),
        ("a chain too long", parts(link.issue(&client("urn:acme:a", 34)).expect("a leaf")), "chain-too-long", "BadCertificate"),
    ];
    kinds.into_iter().map(|(what, (chain, key), cause, alert)| Bad { what, chain, key, cause, alert }).collect()
}

fn parts(leaf: Leaf) -> (String, String) {
    (leaf.chain_pem, leaf.key_pem)
}

fn client(uri: &str, serial: u64) -> LeafSpec {
    LeafSpec::client(uri, serial).expect("a URI")
}

/// The base64 of the first block, on one line.
fn pem_body(pem: &str) -> String {
    pem.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect()
}
