//! What the application is told, and by whom: nobody but the gateway says who the caller is.

use std::collections::HashSet;

use base64::Engine as _;
use doorward::cli::demo::pki::LeafSpec;

use crate::support::upstream::{Heard, Toy, full, h2_line, h2_request};
use crate::support::{BASE, OPEN_SITE, Visitor, browser, event, open, run};

const CLIENTS: &str = r#"
client_ca = ["acme"]
"#;

#[test]
fn trap_spoofed_identity_headers_are_removed_in_every_spelling() {
    let (toy, journal) = Toy::recording();
    let stage = open(&with_clients(&format!("{BASE}{}", toy.site())));
    run(async {
        let forged = [
            "X-Forwarded-For",
            "x_forwarded_for",
            "X.Forwarded.For",
            "X-Forwarded_For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Client-Cert",
            "X-Forwarded-User",
            "Forwarded",
            "Doorward-Identity",
            "Doorward_Identity",
            "doorward.identity",
            "DOORWARD-KIND",
            "Doorward-Tenant",
            "Doorward-Approval-Id",
            "Doorward-Decision",
            "Doorward-Anything",
            "Client-Cert",
            "client_cert",
            "Client.Cert.Chain",
            "Client-Cert-Chain",
            "X-Client-Cert",
            "X-SSL-Client-S-DN",
            "SSL_CLIENT_VERIFY",
            "X-Real-IP",
            "x_real_ip",
            "X-Original-URL",
            "X-Rewrite-URL",
        ];
        let mut request = "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".to_owned();
        for name in forged {
            request += &format!("{name}: FORGED\r\n{name}: FORGED-TOO\r\n");
        }
        request += "\r\n";
        Visitor::new(&stage, [1, 1]).raw(request.as_bytes()).await.unwrap();
        let anonymous = journal.all().remove(0);
        assert!(!anonymous.head.contains("FORGED"), "{}", anonymous.head);
        assert_eq!(anonymous.values("x-forwarded-for"), ["127.0.1.1"]);
        assert_eq!(anonymous.values("x-forwarded-proto"), ["https"]);
        assert_eq!(anonymous.values("x-forwarded-host"), ["localhost"]);
        assert_eq!(anonymous.values("forwarded"), ["for=127.0.1.1;proto=https;host=localhost"]);
        assert_eq!(anonymous.values("doorward-decision").len(), 1);
        for absent in
            ["doorward-identity", "doorward-kind", "doorward-tenant", "doorward-approval-id", "client-cert", "client-cert-chain"]
        {
            assert!(!anonymous.has(absent), "{absent} in {}", anonymous.head);
        }

        Visitor::new(&stage, [1, 2]).with("good").raw(request.as_bytes()).await.unwrap();
        let proven = journal.all().remove(1);
        assert!(!proven.head.contains("FORGED"), "{}", proven.head);
        assert_eq!(proven.values("doorward-identity"), ["acme:urn:acme:orders"]);
        assert_eq!(proven.values("doorward-kind"), ["service"]);
        assert_eq!(proven.values("doorward-tenant"), ["acme"]);
        let leaf = std::fs::read_to_string(stage.pki.folder.join("good.crt")).unwrap();
        let der: String = leaf.lines().filter(|line| !line.starts_with("-----")).collect();
        assert_eq!(proven.values("client-cert"), [format!(":{der}:")], "RFC 9440: a byte sequence of the leaf");
        assert!(base64::engine::general_purpose::STANDARD.decode(der).is_ok());
    });
}

#[test]
fn trap_path_taken_from_a_forwarded_header_is_neither_decided_on_nor_forwarded() {
    let (toy, journal) = Toy::recording();
    let closed = "  [[site.route]]\n  path = \"/closed/\"\n  upstream = \"toy\"\n  client_cert = \"required\"";
    let stage = open(&with_clients(&format!("{BASE}{}", toy.site_with("", closed))));
    let names =
        ["x-original-url", "x-original-uri", "x-rewrite-url", "x-forwarded-uri", "x-forwarded-path", "x-forwarded-prefix"];
    let naming = |path: &str, told: &str| {
        names.iter().fold(browser("GET", path), |request, name| request.header(*name, told)).header("x-forwarded-method", "POST")
    };
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let refused = visitor.send(naming("/closed/1", "/open"), "").await.unwrap();
        assert_eq!(refused.told(), "403 client-cert-required", "an open path in a header opens nothing");
        assert_eq!(journal.len(), 0);
        assert_eq!(visitor.send(naming("/open", "/closed/1"), "").await.unwrap().status, 200);
        let heard = journal.all().remove(0);
        assert!(heard.head.starts_with("GET /open HTTP/1.1\r\n") && !heard.head.contains("/closed"), "{}", heard.head);
    });
}

#[test]
fn a_certificate_that_does_not_hold_is_not_passed_on() {
    let (toy, journal) = Toy::recording();
    let stage = open(&with_clients(&format!("{BASE}{}", toy.site())));
    run(async {
        for name in ["revoked", "expired", "foreign"] {
            assert_eq!(Visitor::new(&stage, [1, 1]).with(name).get("/x").await.unwrap().status, 200, "{name}");
        }
        assert_eq!(journal.len(), 3);
        for heard in journal.all() {
            assert!(
                !heard.head.to_ascii_lowercase().contains("client-cert") && !heard.has("doorward-identity"),
                "{}",
                heard.head
            );
        }
    });
}

#[test]
fn identities_are_percent_encoded_so_that_no_two_look_alike() {
    let (toy, journal) = Toy::recording();
    let text = with_clients(&format!("{BASE}{}", toy.site()));
    let stage = open(&text.replace("tenant = \"acme\"", "tenant = \"acme\"\nidentity = \"subject-cn\""));
    let mut spec = LeafSpec::client("urn:x", 77).unwrap();
    spec.common_name = "bot, \"n° 1\" %41".to_owned();
    stage.pki.write("odd", &stage.pki.acme.issue(&spec).unwrap()).unwrap();
    run(async {
        assert_eq!(Visitor::new(&stage, [1, 1]).with("odd").get("/x").await.unwrap().status, 200);
        assert_eq!(journal.all()[0].values("doorward-identity"), ["acme:bot,%20\"n%C2%B0%201\"%20%2541"]);
    });
}

#[test]
fn trap_hop_by_hop_headers_end_at_the_door_whichever_connection_line_names_them() {
    let (toy, journal) = Toy::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-hop\r\nConnection: keep-alive, x-hop-too\r\nX-Hop: 1\r\nX-Hop-Too: 1\r\n\
        Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-End: 1\r\n\r\nok".to_vec()
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let request = b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: x-first\r\nX-First: 1\r\nX-Second: 1\r\nX-End: 1\r\n\
            Connection: close, X-Second , Cookie, Host, Doorward-Decision, X-Forwarded-For, Authorization, Traceparent\r\n\
            Keep-Alive: 300\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nProxy: http://evil\r\nTE: gzip\r\n\
            Cookie: session=1\r\nAuthorization: Bearer x\r\n\
            traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n\r\n";
        let answer = String::from_utf8(Visitor::new(&stage, [1, 1]).raw(request).await.unwrap()).unwrap().to_ascii_lowercase();
        let heard = journal.all().remove(0);
        for gone in [
            "x-first",
            "x-second",
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy",
            "te",
            "upgrade",
        ] {
            assert!(!heard.has(gone), "{gone} in {}", heard.head);
        }
        for (kept, value) in [
            ("x-end", "1"),
            ("host", "localhost"),
            ("cookie", "session=1"),
            ("authorization", "Bearer x"),
            ("x-forwarded-for", "127.0.1.1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
        ] {
            assert_eq!(heard.values(kept), [value], "{}", heard.head);
        }
        assert_eq!(heard.values("doorward-decision").len(), 1, "nobody names our headers away");
        for gone in ["x-hop", "keep-alive:", "proxy-authenticate"] {
            assert!(!answer.contains(gone), "{gone} in {answer}");
        }
        assert!(answer.contains("x-end: 1") && answer.contains("doorward-decision: "), "{answer}");
    });
}

#[test]
fn te_trailers_is_kept_and_nothing_else_of_te() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let request =
            b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close, te\r\nTE: gzip;q=0.5\r\nTE: trailers, deflate\r\n\r\n";
        Visitor::new(&stage, [1, 1]).raw(request).await.unwrap();
        let heard = journal.all().remove(0);
        assert_eq!(heard.values("te"), ["trailers"]);
        assert!(heard.value("connection").eq_ignore_ascii_case("te"), "{}", heard.head);
    });
}

#[test]
fn host_goes_up_as_the_client_sent_it() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        for host in ["LocalHost", "localhost:8443", "localhost."] {
            let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = Visitor::new(&stage, [1, 1]).raw(request.as_bytes()).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).into_owned();
            if answer.starts_with("HTTP/1.1 200") {
                let heard: Heard = journal.all().pop().unwrap();
                assert_eq!(heard.values("host"), [host]);
                assert_eq!(heard.values("x-forwarded-host"), [host]);
            } else {
                assert!(host.ends_with('.'), "{host}: {answer}");
            }
        }
        let mut line = h2_line(&stage, [1, 2]).await;
        let response = line.send_request(h2_request("GET", "/h2").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(journal.all().pop().unwrap().values("host"), ["localhost"]);
    });
}

#[test]
fn hsts_is_added_for_named_hosts_only_and_never_over_the_applications_own() {
    let (toy, _) = Toy::answering(|heard| {
        if heard.head.starts_with("GET /own") {
            b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
        }
    });
    let text =
        format!("{BASE}{}", toy.site()).replace("hosts = [\"localhost\"]", "hosts = [\"localhost\", \"portal.example.com\"]");
    let text = text.replace("{certs}/portal.crt", "{certs}/named.crt").replace("{certs}/portal.key", "{certs}/named.key");
    // The stage's own certificate has no such name: a second stage is opened on files of a first.
    let named = doorward::cli::demo::pki::Authority::root("Named", doorward::clock::Clock::system().now().wall).unwrap();
    let leaf = named.issue(&LeafSpec::server(&["localhost", "portal.example.com"]).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("named.crt"), &leaf.chain_pem).unwrap();
    doorward::cli::demo::pki::write_private(std::path::Path::new(&path("named.key")), &leaf.key_pem).unwrap();
    let text = text.replace("{certs}/named.crt", &path("named.crt")).replace("{certs}/named.key", &path("named.key"));
    let stage = open(&text);
    std::fs::write(stage.pki.folder.join("server-ca.pem"), &named.certificate_pem).unwrap();
    run(async {
        let local = Visitor::new(&stage, [1, 1]).get("/x").await.unwrap();
        assert_eq!(local.header("strict-transport-security"), "");
        let visitor = Visitor::new(&stage, [1, 1]).named("portal.example.com");
        assert_eq!(visitor.get("/x").await.unwrap().header("strict-transport-security"), "max-age=31536000");
        assert_eq!(visitor.get("/own").await.unwrap().header("strict-transport-security"), "max-age=1");
        // A refusal too: it is an answer of that host.
        let refused = visitor.send(browser("GET", "/a//b"), "").await.unwrap();
        assert_eq!(refused.status, 400);
    });
}

#[test]
fn every_answer_carries_the_id_of_its_record() {
    let mut stage = open(&format!("{BASE}{OPEN_SITE}").replace("path = \"/\"", "path = \"/echo\""));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let mut line = visitor.line().await.unwrap();
        let mut ids = HashSet::new();
        for (path, status) in [("/echo", 200), ("/nothing", 404), ("/a//b", 400), ("/echo", 200)] {
            let answer = line.send(browser("GET", path), "").await.unwrap();
            assert_eq!(answer.status.as_u16(), status);
            let id = answer.header("doorward-decision").to_owned();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            let record = event(&mut stage, &["\"event\":\"request\"", &format!("\"decision\":\"{id}\"")]).await;
            assert!(record.contains(&format!("\"status\":{status}")), "{record}");
            if status == 200 {
                let echoed = String::from_utf8(answer.body.to_vec()).unwrap();
                assert!(echoed.contains(&id), "the application is told the same id: {echoed}");
            }
            assert!(ids.insert(id), "each decision has an id of its own");
        }
        let plain = {
            let mut stream = visitor.tcp(stage.http()).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            String::from_utf8(crate::support::read_all(&mut stream).await).unwrap()
        };
        assert!(plain.starts_with("HTTP/1.1 403") && plain.to_ascii_lowercase().contains("doorward-decision: "), "{plain}");
    });
}

#[test]
fn trap_x_forwarded_for_is_believed_of_listed_proxies_only_and_right_to_left() {
    let (toy, journal) = Toy::recording();
    let text = format!("{BASE}{}", toy.site())
        .replace("metrics = \"127.0.0.1:0\"", "metrics = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.9.0/24\", \"10.0.0.0/8\"]");
    let stage = open(&text);
    run(async {
        let forwarded = |line: &str| browser("GET", "/x").header("x-forwarded-for", line);
        let stranger = Visitor::new(&stage, [1, 1]);
        assert_eq!(stranger.send(forwarded("203.0.113.7"), "").await.unwrap().status, 200);
        assert_eq!(journal.all().pop().unwrap().values("x-forwarded-for"), ["127.0.1.1"]);

        let proxy = Visitor::new(&stage, [9, 1]);
        let chain = forwarded("198.51.100.66, 203.0.113.7").header("x-forwarded-for", "10.1.2.3");
        assert_eq!(proxy.send(chain, "").await.unwrap().status, 200);
        let heard = journal.all().pop().unwrap();
        assert_eq!(heard.values("x-forwarded-for"), ["203.0.113.7, 10.1.2.3, 127.0.9.1"], "what the stranger wrote is gone");
        for unusable in ["", "nonsense", "203.0.113.7, unknown"] {
            let answer = proxy.send(forwarded(unusable), "").await.unwrap();
            assert_eq!(answer.told(), "400 bad-request", "{unusable}");
        }
        assert_eq!(proxy.get("/x").await.unwrap().told(), "400 bad-request", "none at all");
    });
}

/// The one site asks for certificates, as an option.
fn with_clients(text: &str) -> String {
    text.replace("[[site]]\n", &format!("[[site]]{CLIENTS}"))
}
