//! Every refusal tells its reason, in one form for programs and one for people, and nothing else.

use std::collections::BTreeSet;

use http::request::Builder;
use http_body_util::BodyExt;
use jiff::{ToSpan, tz::TimeZone};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::upstream::Toy;
use crate::support::{
    Answer, BASE, LOGIN, Stage, Visitor, approve, browser, credentials, event, form, open, read_all, run, told,
};

/// What a page for people is asked for with.
const BROWSERS_ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// One way to be refused: who asks, what, and what he must hear.
struct Case {
    expected: &'static str,
    visitor: Visitor,
    request: Builder,
    body: String,
}

#[test]
fn every_reason_is_told_as_problem_json_and_as_a_page() {
    let (toy, _) = Toy::answering(|heard| match heard.head.split(' ').nth(1) {
        Some("/babble") => b"nonsense\r\n\r\n".to_vec(),
        _ => Vec::new(),
    });
    let dead = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let text = format!(
        r#"{BASE}
[policy]
contact = "security@portal.example.com"
[bans]
always = ["127.0.66.0/24"]
[guesses]
per_client = {{ failures = 3, within = "10m" }}
per_account = {{ failures = 1, within = "10m" }}
[limit.tight]
key = "client"
rate = "1/h"
burst = 1
[upstream.toy]
servers = ["http://{}"]
timeouts = {{ response = "150ms" }}
[upstream.dead]
servers = ["http://{dead}"]
{LOGIN}
[[site]]
hosts = ["localhost"]
client_ca = ["acme"]
{}
[[site]]
hosts = ["other.localhost"]
  [[site.route]]
  path = "/only"
  match = "exact"
  upstream = "portal"
"#,
        toy.address,
        [
            ("/orders", "portal", ""),
            ("/login", "portal", "login = \"form\""),
            ("/small", "portal", "body = \"1KiB\""),
            ("/proven", "portal", "client_cert = \"required\"\nbots = \"any\""),
            ("/allowed", "portal", "allow = [\"tenant:acme\"]"),
            ("/tight", "portal", "limits = [\"tight\"]"),
            ("/babble", "toy", ""),
            ("/silent", "toy", ""),
            ("/dead", "dead", ""),
        ]
        .map(|(path, upstream, more)| format!("[[site.route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n{more}\n"))
        .concat()
    );
    let mut stage = open(&text);
    let cases = cases(&stage);
    run(async {
        // Spend what must be spent: one guess of an account, one request of a limit.
        Visitor::new(&stage, [1, 2]).send(form(), credentials("alice", "x")).await.unwrap();
        Visitor::new(&stage, [1, 3]).get("/tight").await.unwrap();
        let mut reasons = BTreeSet::new();
        for case in cases {
            let (status, reason) = case.expected.split_once(' ').unwrap();
            for html in [false, true] {
                let mut request = case.request.try_clone();
                if html {
                    request = request.header("accept", BROWSERS_ACCEPT);
                }
                let answer = case.visitor.send(request, case.body.clone()).await.unwrap();
                let record = event(&mut stage, &["\"event\":\"request\"", answer.header("doorward-decision")]).await;
                assert!(record.contains(&format!("\"reason\":\"{reason}\"")), "{record}");
                judge(&answer, status, reason, html);
            }
            reasons.insert(reason);
        }
        for html in [false, true] {
            let accept = if html { BROWSERS_ACCEPT } else { "*/*" };
            let answer = plain(&stage, &format!("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n")).await;
            judge(&answer, "403", "tls-required", html);
        }
        reasons.insert("tls-required");
        let all: BTreeSet<_> = doorward::policy::Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(reasons, all, "every reason was met");
    });
}

fn cases(stage: &Stage) -> Vec<Case> {
    let now = doorward::clock::Clock::system().now().wall;
    let hour = |ahead: i64| (now + ahead.hours()).to_zoned(TimeZone::UTC).strftime("%H:00").to_string();
    let token = |terms: &[&str]| approve(stage, &[&["--path", "/orders/*"], terms].concat());
    let scoped = token(&[]).1;
    let asleep = token(&["--hours", &format!("{}-{}", hour(5), hour(6))]).1;
    let bound = token(&["--identity", "acme:urn:acme:orders"]).1;
    let (id, ended) = token(&[]);
    told(stage, &["approvals", "revoke", &id, "--reason", "ended"]);

    let visitor = Visitor::new(stage, [1, 1]);
    let ask = |path: &str| agent(http::Request::get(path));
    let with = |path: &str, token: &str| ask(path).header("authorization", format!("Doorward {token}"));
    let case = |expected, request: Builder| Case { expected, visitor: visitor.clone(), request, body: String::new() };
    let login = |expected, visitor: Visitor, body: String| Case {
        expected,
        visitor,
        request: agent(http::Request::post("/login")).header("content-type", "application/x-www-form-urlencoded"),
        body,
    };
    vec![
        case("421 misdirected", ask("/orders/1").header("host", "other.localhost")),
        case("400 bad-request", ask("/orders//1")),
        Case { body: "x".repeat(2000), ..case("413 too-large", agent(http::Request::post("/small"))) },
        case("431 too-large", ask("/orders/1").header("x-long", "x".repeat(33 << 10))),
        case("404 not-found", ask("/nowhere")),
        case("403 client-cert-required", ask("/proven")),
        Case { visitor: visitor.clone().with("expired"), ..case("403 client-cert-refused", ask("/proven")) },
        Case { visitor: visitor.clone().with("foreign"), ..case("403 client-cert-refused", ask("/proven")) },
        Case { visitor: visitor.clone().with("revoked"), ..case("403 revoked", ask("/proven")) },
        case("403 not-permitted", ask("/allowed")),
        login("429 too-many-attempts", visitor.clone(), credentials("alice", "y")),
        Case { visitor: Visitor::new(stage, [66, 1]), ..case("403 banned", ask("/orders/1")) },
        Case { visitor: Visitor::new(stage, [1, 3]), ..case("429 rate-limited", ask("/tight")) },
        case("403 bot-approval-required", http::Request::get("/orders/1").header("user-agent", "curl/8")),
        case("403 bot-scope", with("/babble", &scoped)),
        case("403 bot-hours", with("/orders/1", &asleep)),
        case("403 approval-revoked", with("/orders/1", &ended)),
        case("403 approval-binding", with("/orders/1", &bound)),
        case("502 upstream-unavailable", ask("/babble")),
        case("503 upstream-unavailable", ask("/dead")),
        case("504 upstream-timeout", ask("/silent")),
    ]
}

fn judge(answer: &Answer, status: &str, reason: &str, html: bool) {
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(answer.status.as_str(), status, "{reason}: {body}");
    let id = answer.header("doorward-decision");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{reason}: {id}");
    assert_eq!(answer.header("cache-control"), "no-store", "{reason}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{reason}");
    let waits = ["too-many-attempts", "rate-limited"].contains(&reason) || status == "503";
    assert_eq!(!answer.header("retry-after").is_empty(), waits, "{reason}: Retry-After where waiting helps");
    for name in ["ratelimit", "ratelimit-policy"] {
        assert_eq!(!answer.header(name).is_empty(), reason == "rate-limited", "{reason}: {name}");
    }
    if reason == "misdirected" {
        assert_eq!(answer.header("connection"), "close", "a 421 is not tried again on this connection");
    }
    assert_eq!(answer.header("server"), "", "nobody needs to know");
    if html {
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{reason}");
        assert!(answer.header("content-security-policy").contains("default-src 'none'"), "{reason}");
        assert!(body.starts_with("<!doctype html>") && body.contains(id) && body.contains(status), "{reason}: {body}");
        assert!(body.contains("security@portal.example.com"), "{reason}: {body}");
        assert!(!body.contains("<script") && !body.contains("http://") && !body.contains("https://"), "{reason}: {body}");
    } else {
        assert!(answer.header("content-type").starts_with("application/problem+json"), "{reason}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["type"], format!("urn:doorward:{reason}"));
        assert_eq!(problem["status"], status.parse::<u16>().unwrap());
        assert_eq!(problem["instance"], id, "{reason}");
        assert!(!problem["title"].as_str().unwrap().is_empty());
        let keys: BTreeSet<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: &[&str] = if reason == "too-large" {
            &["instance", "limit", "status", "title", "type"]
        } else {
            &["instance", "status", "title", "type"]
        };
        assert_eq!(keys, expected.iter().copied().collect(), "{reason}");
    }
}

#[test]
fn refusals_echo_nothing_of_what_a_stranger_sent() {
    let stage = open(&format!("{BASE}{}", crate::support::OPEN_SITE.replace("path = \"/\"", "path = \"/there\"")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for accept in ["application/json", BROWSERS_ACCEPT] {
            let request = http::Request::get("/MARK-path?MARK-query")
                .header("user-agent", "MARK-agent")
                .header("referer", "MARK-referer")
                .header("x-mark", "MARK-header")
                .header("accept", accept);
            let refused = visitor.send(request, "").await.unwrap();
            assert_eq!(refused.status, 404);
            assert!(
                !String::from_utf8_lossy(&refused.body).contains("MARK") && !format!("{:?}", refused.headers).contains("MARK")
            );
        }
    });
}

#[test]
fn a_refused_head_has_the_fields_and_no_body_and_the_connection_goes_on() {
    let stage = open(&format!("{BASE}{}", crate::support::OPEN_SITE.replace("path = \"/\"", "path = \"/echo\"")));
    run(async {
        let mut line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
        let refused = line.send(browser("HEAD", "/nowhere"), "").await.unwrap();
        assert_eq!((refused.status.as_u16(), refused.body.len()), (404, 0));
        assert_ne!(refused.header("doorward-decision"), "");
        assert_eq!(line.send(browser("GET", "/echo"), "").await.unwrap().status, 200);
        let mut h2 = crate::support::upstream::h2_line(&stage, [1, 2]).await;
        let refused = h2.send_request(
            crate::support::upstream::h2_request("HEAD", "/nowhere").body(crate::support::upstream::full("")).unwrap(),
        );
        let refused = refused.await.unwrap();
        assert_eq!(refused.status(), 404);
        assert_ne!(refused.headers().get("content-length").unwrap(), "0", "the length that a GET would get");
        assert!(!refused.headers().contains_key("connection"), "no hop-by-hop field over HTTP/2");
        // h2 takes any byte of a body here for a broken stream.
        assert_eq!(refused.into_body().collect().await.unwrap().to_bytes().len(), 0);
    });
}

#[test]
fn a_refusal_over_http2_does_not_wait_for_a_long_upload_and_lets_it_end() {
    const PIECES: usize = 128;
    let stage = open(&format!("{BASE}{}", crate::support::OPEN_SITE.replace("path = \"/\"", "path = \"/echo\"")));
    run(async {
        let mut line = crate::support::upstream::h2_line(&stage, [1, 3]).await;
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (end, ended) = tokio::sync::oneshot::channel();
        let mut state = (0, Some(gone), Some(end));
        // Its second half waits for the answer.
        let body = futures_util::stream::poll_fn(move |cx| {
            let (sent, gone, end) = &mut state;
            if *sent == PIECES / 2
                && let Some(wait) = gone
            {
                std::task::ready!(std::pin::Pin::new(wait).poll(cx)).unwrap();
                *gone = None;
            }
            if *sent == PIECES {
                if let Some(end) = end.take() {
                    let _ = end.send(());
                }
                return std::task::Poll::Ready(None);
            }
            *sent += 1;
            let piece = http_body::Frame::data(bytes::Bytes::from_static(&[b'x'; 16 * 1024]));
            std::task::Poll::Ready(Some(Ok(piece)))
        });
        let request = crate::support::upstream::h2_request("POST", "/nowhere")
            .body(http_body_util::StreamBody::new(body).boxed_unsync())
            .unwrap();
        let refused = line.send_request(request).await.unwrap();
        assert_eq!(refused.status(), 404);
        assert_ne!(refused.into_body().collect().await.unwrap().to_bytes().len(), 0, "the whole answer before the request's end");
        go.send(()).expect("the upload goes on");
        tokio::time::timeout(std::time::Duration::from_secs(2), ended).await.expect("in time").expect("the upload is not reset");
    });
}

#[test]
fn where_bans_are_dropped_nothing_is_answered() {
    let text = format!("{BASE}[bans]\nanswer = \"drop\"\nalways = [\"127.0.66.0/24\"]\n{}", crate::support::OPEN_SITE);
    let mut stage = open(&text);
    run(async {
        let banned = Visitor::new(&stage, [66, 1]);
        let read = match banned.tcp(stage.https()).await {
            Ok(mut stream) => {
                let mut bytes = Vec::new();
                let _ = stream.write_all(b"\x16\x03\x01\0\x05hello").await;
                let _ = stream.read_to_end(&mut bytes).await;
                bytes
            }
            Err(_) => Vec::new(),
        };
        assert!(read.is_empty(), "{read:?}");
        event(&mut stage, &["connection.refused", "banned", "127.0.66.1"]).await;
        // A ban that begins under a live connection ends it at its next request, unanswered.
        let mut line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
        assert_eq!(line.send(browser("GET", "/echo"), "").await.unwrap().status, 200);
        told(&stage, &["bans", "add", "127.0.1.1", "--for", "1h", "--reason", "test"]);
        assert!(line.send(browser("GET", "/echo"), "").await.is_err());
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/echo").await.unwrap().status, 200);
    });
}

#[test]
fn the_plain_port_never_forwards_and_redirects_only_what_may_be() {
    let stage = open(&format!("{BASE}{}", crate::support::OPEN_SITE));
    let redirecting =
        open(&format!("{BASE}{}", crate::support::OPEN_SITE).replace("[deadlines]", "plain_http = \"redirect\"\n[deadlines]"));
    run(async {
        for request in ["GET /echo", "POST /login", "HEAD /", "GET http://localhost/echo"] {
            let answer = plain(&stage, &format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            assert_eq!(answer.status, 403, "{request}");
        }
        let unread = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nGET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(plain(&stage, unread).await.told(), "403 tls-required");
        let moved = plain(&redirecting, "GET /echo?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(moved.status.is_redirection(), "{moved:?}");
        let location = moved.header("location");
        assert!(location.starts_with("https://localhost") && location.ends_with("/echo?a=b"), "{location}");
        for request in [
            "POST /echo HTTP/1.1\r\nHost: localhost",
            "GET / HTTP/1.1\r\nHost: evil.example",
            "GET //evil.example/ HTTP/1.1\r\nHost: localhost",
        ] {
            let answer = plain(&redirecting, &format!("{request}\r\n\r\n")).await;
            assert!(answer.header("location").is_empty() || !answer.header("location").contains("evil"), "{request}: {answer:?}");
            assert!(answer.status.is_client_error(), "{request}: {answer:?}");
        }
        for stage in [&stage, &redirecting] {
            assert_eq!(stage.portal.seen.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
        }
    });
}

/// A person's browser, without what it accepts.
fn agent(request: Builder) -> Builder {
    request.header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
}

/// One raw exchange with the plain port.
async fn plain(stage: &Stage, request: &str) -> Answer {
    let mut stream = Visitor::new(stage, [1, 8]).tcp(stage.http()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let text = String::from_utf8(read_all(&mut stream).await).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.trim().parse::<http::HeaderValue>().unwrap()))
        .collect();
    Answer { status, headers, body: body.to_owned().into() }
}

/// A builder can be asked for its parts only once it is whole.
trait TryClone {
    fn try_clone(&self) -> Builder;
}

impl TryClone for Builder {
    fn try_clone(&self) -> Builder {
        let mut copy = http::Request::builder().method(self.method_ref().unwrap().clone()).uri(self.uri_ref().unwrap().clone());
        for (name, value) in self.headers_ref().unwrap() {
            copy = copy.header(name, value);
        }
        copy
    }
}
