//! Promise: the plain port forwards nothing, reads no body, and sends nobody anywhere but to the same address behind TLS.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;

use crate::support::caller::{Caller, until_closed};
use crate::support::{BASE, OPEN_SITE, Stage, event, open, run};

const WILDCARD_SITE: &str = r#"
[[site]]
hosts = ["*.tenants.localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
"#;

fn redirecting(port: &str) -> Stage {
    let listen = format!("plain_http = \"redirect\"\nhttps = [\"127.0.0.1:{port}\"]");
    open(&format!("{}{OPEN_SITE}{WILDCARD_SITE}", BASE.replace("https = [\"127.0.0.1:0\"]", &listen)))
}

#[test]
fn everything_is_refused_and_nothing_forwarded() {
    let mut stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        for head in [
            "GET /home HTTP/1.1\r\nHost: localhost\r\n",
            "HEAD /home HTTP/1.1\r\nHost: localhost\r\n",
            "GET /home HTTP/1.0\r\nHost: localhost\r\n",
            "DELETE /echo HTTP/1.1\r\nHost: localhost\r\n",
            "GET http://localhost/home HTTP/1.1\r\nHost: localhost\r\n",
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            "GET / HTTP/1.1\r\nHost: nobody.example\r\n",
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n",
        ] {
            let answer = asked(&stage, &format!("{head}\r\n")).await;
            let told = answer.to_ascii_lowercase();
            assert!(answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.0 403 "), "{head}: {answer}");
            for line in ["connection: close", "cache-control: no-store", "doorward-decision: "] {
                assert!(told.contains(line), "{line} of {head}: {answer}");
            }
            assert_eq!(answer.contains("urn:doorward:tls-required"), !head.starts_with("HEAD"), "{head}: {answer}");
            let record = event(&mut stage, &[r#""event":"request""#]).await;
            for text in [r#""status":403"#, r#""reason":"tls-required""#, r#""client":"127.0.5.1""#] {
                assert!(record.contains(text), "{text} in {record}");
            }
            assert!(!record.contains(r#""tls":"#), "{record}");
        }
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_body_is_not_read_and_the_answer_arrives_all_the_same() {
    let stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        let refused = |answer: String| {
            assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("tls-required"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        };
        refused(asked(&stage, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n").await);
        let waiting = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        refused(asked(&stage, waiting).await);
        let body = "a".repeat(200_000);
        let sent = format!("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        refused(asked(&stage, &sent).await);
        let behind =
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nabGET /home HTTP/1.1\r\nHost: localhost\r\n\r\n";
        refused(asked(&stage, behind).await);
        let pipelined = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /home HTTP/1.1\r\nHost: localhost\r\n\r\n";
        refused(asked(&stage, pipelined).await);
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_banned_address_is_told_its_ban_whatever_it_asks_for() {
    for bans in ["always = [\"127.0.5.0/24\"]\n", ""] {
        let stage = open(
            &format!("{BASE}[bans]\nanswer = \"explain\"\n{bans}{OPEN_SITE}")
                .replace("https = [\"127.0.0.1:0\"]", "plain_http = \"redirect\"\nhttps = [\"127.0.0.1:0\"]"),
        );
        if bans.is_empty() {
            crate::support::told(&stage, &["bans", "add", "127.0.5.1", "--for", "2h", "--reason", "abuse"]);
        }
        run(async {
            for target in ["/home", "/a/../b"] {
                let answer = asked(&stage, &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
                assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("urn:doorward:banned"), "{answer}");
            }
        });
    }
}

#[test]
fn get_and_head_are_redirected_to_the_same_address_behind_tls() {
    let stage = redirecting("0");
    run(async {
        for (request, location) in [
            ("GET / HTTP/1.1\r\nHost: localhost", "https://localhost/"),
            ("HEAD /a/b?c=d&e=%20 HTTP/1.1\r\nHost: localhost", "https://localhost/a/b?c=d&e=%20"),
            ("GET /x HTTP/1.1\r\nHost: LOCALHOST:8080", "https://localhost/x"),
            ("GET /x HTTP/1.1\r\nHost: a.tenants.localhost", "https://a.tenants.localhost/x"),
            ("GET http://localhost/y?z HTTP/1.1\r\nHost: localhost", "https://localhost/y?z"),
        ] {
            let answer = asked(&stage, &format!("{request}\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 308 "), "{request}: {answer}");
            assert!(answer.contains(&format!("location: {location}\r\n")), "{request}: {answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn trap_a_redirect_leads_to_known_sites_only_and_takes_no_other_method() {
    let stage = redirecting("0");
    run(async {
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: evil.example", "403"),
            ("GET / HTTP/1.1\r\nHost: a.b.tenants.localhost", "403"),
            ("GET http://evil.example/ HTTP/1.1\r\nHost: localhost", "403"),
            ("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0", "403"),
            ("OPTIONS * HTTP/1.1\r\nHost: localhost", "403"),
            ("PUT / HTTP/1.1\r\nHost: localhost", "403"),
            ("GET //evil.example/ HTTP/1.1\r\nHost: localhost", "400"),
            ("GET /%2f%2fevil.example HTTP/1.1\r\nHost: localhost", "400"),
            ("GET /a/../b HTTP/1.1\r\nHost: localhost", "400"),
            ("GET / HTTP/1.1\r\nHost: localhost@evil.example", "400"),
            ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost", "400"),
            ("GET / HTTP/1.1\r\nX-Host: localhost", "400"),
        ] {
            let answer = asked(&stage, &format!("{request}\r\n\r\n")).await;
            // A target that is refused for two reasons may be told either.
            let told = answer.split(' ').nth(1).unwrap_or_default();
            assert!(told == status || (request.starts_with("OPTIONS") && told == "400"), "{request}: {answer}");
            assert!(!answer.to_ascii_lowercase().contains("location:"), "{request}: {answer}");
            assert!(!answer.contains("evil"), "nothing that a stranger sent is echoed: {answer}");
        }
    });
}

#[test]
fn other_protocols_are_not_spoken_and_a_silent_caller_is_let_go() {
    let mut stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        let spoken = async |last: u8, bytes: &[u8]| {
            let mut stream = Caller::new(&stage, [5, last]).tcp_to(stage.http()).await.expect("a listener");
            stream.write_all(bytes).await.expect("a reader");
            until_closed(&mut stream).await
        };
        let (hello, preface, silence) = tokio::join!(
            spoken(1, b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03"),
            spoken(2, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
            spoken(3, b""),
        );
        for answer in [hello, preface] {
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
        }
        assert_eq!(silence, b"");
        let mut causes = Vec::new();
        while causes.len() < 3 {
            let line = event(&mut stage, &[r#""client":"127.0.5."#]).await;
            // What hyper refuses has its record as well.
            if line.contains(r#""event":"request""#) {
                continue;
            }
            causes.push(["protocol.error", "idle-timeout"].map(|name| line.contains(name)));
        }
        causes.sort_unstable();
        assert_eq!(causes, [[false, true], [true, false], [true, false]]);
    });
}

/// What comes back for raw bytes until the gateway closes.
async fn asked(stage: &Stage, bytes: &str) -> String {
    let mut stream = Caller::new(stage, [5, 1]).tcp_to(stage.http()).await.expect("a listener");
    stream.write_all(bytes.as_bytes()).await.expect("a reader");
    String::from_utf8_lossy(&until_closed(&mut stream).await).into_owned()
}
