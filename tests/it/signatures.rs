//! A signature by RFC 9421 admits nobody yet, and no address that a request names is ever asked.

use std::io::ErrorKind;
use std::net::TcpListener;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::request::Builder;

use crate::support::upstream::Toy;
use crate::support::{Answer, BASE, LOGIN, Visitor, approve, browser, credentials, form, open, run};

const ROUTES: &str = r#"
  [[site.route]]
  path = "/orders/"
  upstream = "toy"
  [[site.route]]
  path = "/reports/"
  upstream = "toy"
  bots = "none"
"#;

/// A crawler with a key of its own and a directory at an address that it names.
struct Agent {
    key: Ed25519KeyPair,
    directory: TcpListener,
}

#[test]
fn trap_a_signed_bot_request_replayed_gains_nothing_for_signatures_admit_nobody() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{LOGIN}{}{ROUTES}", toy.site_with("", "login = \"form\"")));
    let (_, token) = approve(&stage, &["--path", "/orders/**"]);
    let agent = Agent::new();
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let curl = |path: &str| http::Request::get(path).header("user-agent", "curl/8.14.1");
        let signed = agent.sign(curl("/orders/17"));
        let plain = visitor.send(curl("/orders/17"), "").await.unwrap();
        assert_eq!(plain.told(), "403 bot-approval-required");
        for _ in 0..2 {
            let replayed = visitor.send(agent.again(&signed, "/orders/17"), "").await.unwrap();
            assert_eq!(bare(&replayed), bare(&plain), "the same answer as without a signature");
        }
        assert_eq!(journal.len(), 0);

        for (path, expected) in [("/reports/1", "403 not-permitted"), ("/public/1", "200")] {
            for request in [curl(path), agent.sign(curl(path))] {
                assert_eq!(visitor.send(request, "").await.unwrap().told(), expected, "{path}");
            }
        }
        let approved = agent.sign(curl("/orders/17")).header("doorward-approval", &token);
        assert_eq!(visitor.send(approved, "").await.unwrap().told(), "200", "nor does it keep anybody out");

        // Nor does it spare a guesser his budget, or let a banned one in.
        for guess in 0..5 {
            visitor.send(agent.sign(form()), credentials("alice", &format!("x{guess}"))).await.unwrap();
        }
        assert_eq!(visitor.send(agent.sign(browser("GET", "/public/1")), "").await.unwrap().told(), "403 banned");
    });
    agent.was_never_asked();
}

#[test]
fn trap_a_key_attributed_to_the_wrong_agent_nothing_is_fetched_from_where_a_request_says() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}{ROUTES}", toy.site()));
    let agent = Agent::new();
    let place = agent.directory.local_addr().unwrap();
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for named in [
            format!("\"http://{place}\""),
            format!("\"https://{place}\""),
            format!("\"http://{place}/.well-known/http-message-signatures-directory\""),
            format!("sig1=\"http://{place}\""),
            format!("\"http://localhost:{}\"", place.port()),
            format!("http://{place}"),
        ] {
            for path in ["/orders/17", "/public/1"] {
                let request = http::Request::get(path).header("user-agent", "curl/8.14.1");
                let expected = if path == "/orders/17" { "403 bot-approval-required" } else { "200" };
                assert_eq!(visitor.send(agent.sign_as(request, &named), "").await.unwrap().told(), expected, "{named}");
            }
            // The application may verify for itself: it gets what was sent.
            let heard = journal.all().pop().unwrap();
            assert_eq!(heard.values("signature-agent"), [named.as_str()]);
            assert!(heard.value("signature").starts_with("sig1=:") && heard.value("signature-input").contains("web-bot-auth"));
        }
    });
    agent.was_never_asked();
}

impl Agent {
    fn new() -> Self {
        let directory = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        directory.set_nonblocking(true).unwrap();
        Self { key: Ed25519KeyPair::generate().unwrap(), directory }
    }

    fn sign(&self, request: Builder) -> Builder {
        self.sign_as(request, &format!("\"http://{}\"", self.directory.local_addr().unwrap()))
    }

    /// As draft-meunier-web-bot-auth-architecture has it: authority and agent, by a key named by its thumbprint (RFC 7638).
    fn sign_as(&self, request: Builder, agent: &str) -> Builder {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        let jwk = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{x}\"}}");
        let keyid = URL_SAFE_NO_PAD.encode(digest(&SHA256, jwk.as_bytes()).as_ref());
        let parameters = format!(
            "(\"@authority\" \"signature-agent\");created=1700000000;expires=4102444800;keyid=\"{keyid}\";alg=\"ed25519\";\
             nonce=\"c2luZ2xlIHVzZQ==\";tag=\"web-bot-auth\""
        );
        let base = format!("\"@authority\": localhost\n\"signature-agent\": {agent}\n\"@signature-params\": {parameters}");
        let signature = STANDARD.encode(self.key.sign(base.as_bytes()).as_ref());
        request
            .header("signature-agent", agent)
            .header("signature-input", format!("sig1={parameters}"))
            .header("signature", format!("sig1=:{signature}:"))
    }

    /// The very same request once more.
    fn again(&self, signed: &Builder, path: &str) -> Builder {
        let headers = signed.headers_ref().unwrap();
        headers.iter().fold(http::Request::get(path), |request, (name, value)| request.header(name, value))
    }

    fn was_never_asked(&self) {
        assert_eq!(self.directory.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody asked the directory");
    }
}

/// An answer without what differs from one to the next.
fn bare(answer: &Answer) -> (String, Vec<(String, String)>, String) {
    let id = answer.header("doorward-decision");
    let headers = answer.headers.iter().filter(|(name, _)| !["date", "doorward-decision"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (answer.told(), headers, String::from_utf8_lossy(&answer.body).replace(id, "ID"))
}
