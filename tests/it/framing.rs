//! Raw bytes at the door, judged by what a recording application received: never two requests from one, never another path.

use tokio::io::AsyncWriteExt;

use crate::support::upstream::{Journal, Toy, full, h2_line, h2_request};
use crate::support::{BASE, Stage, Visitor, event, open, read_all, run};

/// What stands behind every ambiguous request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn trap_cl_and_te_is_one_request_or_none_in_any_order() {
    let (stage, _toy, journal) = stage();
    run(async {
        for framing in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Transfer-Encoding: chunked\r\ncontent-length: 0",
            "Content-Length: 4\r\nTransfer-Encoding: Chunked",
        ] {
            let answers =
                ask(&stage, &format!("POST /one HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n0\r\n\r\n{SMUGGLED}")).await;
            alone(&answers, &journal, framing);
        }
        let before = journal.len();
        for framing in [
            "Content-Length: 4\r\nContent-Length: 5",
            "Content-Length: 4, 5",
            "Content-Length: 4,4x",
            "Content-Length: +4",
            "Content-Length: 0x4",
            "Content-Length: -1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999999",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding:\r\nContent-Length: 4",
            "Transfer-Encoding: identity\r\nContent-Length: 4",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ] {
            let answers =
                ask(&stage, &format!("POST /one HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n0\r\n\r\n{SMUGGLED}")).await;
            assert!(statuses(&answers).iter().all(|status| status == "400"), "{framing}: {answers}");
            assert_eq!(journal.len(), before, "{framing}: {:?}", journal.lines());
        }
    });
}

#[test]
fn what_goes_up_has_exactly_one_framing() {
    let (stage, _toy, journal) = stage();
    run(async {
        for (request, body) in [
            (
                "POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                "hello",
            ),
            (
                "POST /b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
                "hello",
            ),
            ("GET /c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", ""),
            ("GET /d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", "hi"),
            (
                "POST /e HTTP/1.1\r\nHost: localhost\r\nConnection: close, content-length, transfer-encoding\r\nContent-Length: 2\r\n\r\nhi",
                "hi",
            ),
        ] {
            let before = journal.len();
            let answers = ask(&stage, request).await;
            if answers.starts_with("HTTP/1.1 400") && request.contains("/a ") {
                continue;
            }
            assert!(answers.starts_with("HTTP/1.1 200"), "{request:?}: {answers}");
            let heard = journal.all().pop().unwrap();
            assert_eq!(journal.len(), before + 1);
            assert_eq!(heard.body, body.as_bytes(), "{request:?}");
            let framings = heard.values("content-length").len() + heard.values("transfer-encoding").len();
            assert!(framings <= 1 && (framings == 1 || body.is_empty()), "{}", heard.head);
        }
        let mut line = h2_line(&stage, [1, 9]).await;
        let response = line.send_request(h2_request("POST", "/h2").body(full("hello")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let heard = journal.all().pop().unwrap();
        assert_eq!(
            (&heard.body[..], heard.values("content-length").len() + heard.values("transfer-encoding").len()),
            (&b"hello"[..], 1)
        );
    });
}

#[test]
fn trap_bad_chunks_end_the_request_and_nothing_behind_them_is_read() {
    let (stage, _toy, journal) = stage();
    run(async {
        for chunks in [
            "x\r\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "5\nhello\n0\n\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n 0\r\n\r\n",
            "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
            "\r\n5\r\nhello\r\n0\r\n\r\n",
        ] {
            let before = journal.len();
            let request =
                format!("POST /one HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}");
            let answers = ask(&stage, &request).await;
            let heard: Vec<_> = journal.lines().split_off(before);
            // Lenient readings that every server shares may pass the one request, and then what follows is its own.
            if heard.first().is_some_and(|line| line.starts_with("POST /one")) {
                assert_eq!(journal.all()[before].body, b"hello", "{chunks:?}");
            } else {
                assert_eq!(heard, Vec::<String>::new(), "{chunks:?}: {answers}");
                assert!(!answers.contains("200 OK"), "{chunks:?}: {answers}");
            }
        }
    });
}

#[test]
fn trap_odd_heads_are_refused_without_a_word_to_the_application() {
    let (mut stage, _toy, journal) = stage();
    run(async {
        for head in [
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Odd : 1",
            "GET /x HTTP/1.1\r\nHost: localhost\r\n X-Folded: 1",
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Odd: a\r\n b",
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Odd: a\0b",
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-O\0dd: a",
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Odd: a\rb",
            "GET /x HTTP/1.1\r\nHost: localhost\r\n: nameless",
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX(Odd): a",
            "GET /x\0 HTTP/1.1\r\nHost: localhost",
            "GET /x HTTP/1.2\r\nHost: localhost",
            "GET /x HTTP/2.0\r\nHost: localhost",
            "GET /x http/1.1\r\nHost: localhost",
            "GET  /x HTTP/1.1\r\nHost: localhost",
            "GET /x HTTP/1.1 \r\nHost: localhost",
            "G@T /x HTTP/1.1\r\nHost: localhost",
            "GET /x y HTTP/1.1\r\nHost: localhost",
            "GET /x\r\nHost: localhost",
            "nonsense",
        ] {
            let answers = ask(&stage, &format!("{head}\r\n\r\n{SMUGGLED}")).await;
            assert!(statuses(&answers).iter().all(|status| status == "400" || status == "505"), "{head:?}: {answers}");
            assert!(statuses(&answers).len() <= 1, "{head:?}: {answers}");
            assert_eq!(journal.len(), 0, "{head:?}: {:?}", journal.lines());
        }
        event(&mut stage, &["protocol.error"]).await;
    });
}

#[test]
fn trap_bare_lf_is_never_a_second_request() {
    let (stage, _toy, journal) = stage();
    run(async {
        for request in [
            format!("GET /one HTTP/1.1\nHost: localhost\nX-A: b\n\n{SMUGGLED}"),
            format!("GET /one HTTP/1.1\r\nHost: localhost\r\nX-A: b\n\r\n{SMUGGLED}"),
            format!("POST /one HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\nX-A: b\r\n\r\nabc{SMUGGLED}"),
            format!("POST /one HTTP/1.1\r\nHost: localhost\r\nX-A: b\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        ] {
            let before = journal.len();
            ask(&stage, &request).await;
            let heard = journal.all().split_off(before);
            // RFC 9112 section 2.2 lets a lone LF end a line: then what follows is a request in its own right, decided on by itself.
            for request in &heard {
                assert!(!request.head.replace("\r\n", "").contains(['\r', '\n']), "{:?}", request.head);
                assert!(
                    request.head.starts_with("GET /one")
                        || request.head.starts_with("POST /one")
                        || request.head.starts_with("GET /smuggled")
                );
                let hidden = String::from_utf8_lossy(&request.body).contains("/smuggled");
                assert!(!hidden || heard.len() == 1, "read both as a body and as a request");
            }
        }
    });
}

#[test]
fn hosts_absolute_forms_and_other_targets_have_one_reading() {
    let (stage, _toy, journal) = stage();
    run(async {
        for (request, expected) in [
            ("GET /x HTTP/1.1\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: \r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost, evil.example\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost/evil\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: local host\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: localhost:99999\r\n\r\n", "400"),
            ("GET http://localhost/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "400"),
            ("GET http://evil.example/x HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            ("GET http://user@localhost/x HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            ("GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
            ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
            ("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", "400"),
            ("GET x HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
        ] {
            let answers = ask(&stage, &request.replacen("\r\n", "\r\nConnection: close\r\n", 1)).await;
            assert_eq!(statuses(&answers), [expected], "{request:?}: {answers}");
            assert_eq!(journal.len(), 0, "{request:?}: {:?}", journal.lines());
        }
        let answers = ask(&stage, "GET https://localhost/abs?q HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        assert_eq!(statuses(&answers), ["200"], "{answers}");
        assert_eq!(journal.lines(), ["GET /abs?q HTTP/1.1"], "upstream gets the origin form");
    });
}

#[test]
fn trap_paths_are_forwarded_in_the_one_form_that_was_decided_on() {
    let (toy, journal) = Toy::recording();
    let secret = "  [[site.route]]\n  path = \"/admin/\"\n  upstream = \"toy\"\n  bots = \"any\"\n  client_cert = \"required\"\n";
    let text = format!("{BASE}{}{secret}", toy.site()).replace("[[site]]", "[[site]]\nclient_ca = [\"acme\"]");
    let stage = open(&text);
    run(async {
        for path in [
            "/a//admin/x",
            "//admin/x",
            "/a/../admin/x",
            "/./admin/x",
            "/a/%2e%2e/admin/x",
            "/%2e/admin/x",
            "/a/..%2fadmin/x",
            "/a%2fadmin/x",
            "/a\\admin",
            "/a%5c..%5cadmin",
            "/..;/admin/x",
            "/a/..;x/admin",
            "/a;/../admin",
            "/admin%00",
            "/a%252fadmin",
            "/%2561dmin%252f",
            "/%2561dmin",
            "/a%",
            "/a%zz",
            "/admin#x",
            "/%c0%aeadmin",
            "/a%0d%0aX:%20y",
        ] {
            let answers = ask(&stage, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
            let refused = statuses(&answers);
            // A fragment is cut off by hyper before anybody decides; what is left is the path of the guarded route.
            let expected = if path.contains('#') { ["400", "403"].as_slice() } else { ["400"].as_slice() };
            assert!(refused.len() == 1 && expected.contains(&refused[0].as_str()), "{path}: {answers}");
            assert_eq!(journal.len(), 0, "{path}: {:?}", journal.lines());
        }
        for path in ["/admin", "/admin/", "/admin/x", "/%61dmin/x", "/admin?x", "/a%64min"] {
            let answers = ask(&stage, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
            assert!(answers.starts_with("HTTP/1.1 403") && answers.contains("client-cert-required"), "{path}: {answers}");
        }
        let _ =
            ask(&stage, "GET /%61pp%7e/caf%c3%a9?x=/../%2F&path=/admin HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await;
        assert_eq!(journal.lines(), ["GET /app~/caf%C3%A9?x=/../%2F&path=/admin HTTP/1.1"]);
        let forwarded = "GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Forwarded-Uri: /admin\r\nX-Original-URL: /admin\r\n\r\n";
        let _ = ask(&stage, forwarded).await;
        let heard = journal.all().pop().unwrap();
        assert!(heard.head.starts_with("GET /open ") && !heard.head.contains("/admin"), "{}", heard.head);
    });
}

#[test]
fn http_1_0_is_served_and_closed() {
    let (stage, _toy, journal) = stage();
    run(async {
        let answers = ask(&stage, "GET /x HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
        assert!(answers.contains(" 200 OK") && answers.ends_with("ok"), "{answers}");
        assert_eq!(journal.lines(), ["GET /x HTTP/1.1"]);
        let hostless = ask(&stage, "GET /x HTTP/1.0\r\n\r\n").await;
        assert_eq!(statuses(&hostless), ["400"], "{hostless}");
        let chunked =
            ask(&stage, &format!("POST /x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"))
                .await;
        assert!(journal.lines().iter().all(|line| !line.contains("smuggled")), "{chunked} {:?}", journal.lines());
        let upgrade =
            ask(&stage, "GET /x HTTP/1.0\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert!(!upgrade.contains(" 101 "), "{upgrade}");
        assert!(!journal.all().pop().unwrap().has("upgrade"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_and_each_is_decided_on() {
    let (stage, _toy, journal) = stage();
    run(async {
        let requests = "GET /1 HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc\
            GET /a//b HTTP/1.1\r\nHost: localhost\r\n\r\nGET /3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n\
            GET /4 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answers = ask(&stage, requests).await;
        assert_eq!(statuses(&answers), ["200", "200", "400", "200"], "{answers}");
        let mut lines = journal.lines();
        assert_eq!(lines.len(), 3);
        lines.sort();
        assert_eq!(lines, ["GET /1 HTTP/1.1", "GET /3 HTTP/1.1", "POST /2 HTTP/1.1"]);
        assert_eq!(journal.all().iter().find(|heard| heard.head.starts_with("POST")).unwrap().body, b"abc");
    });
}

#[test]
fn heads_over_their_caps_are_refused() {
    let (stage, _toy, journal) = stage();
    run(async {
        let long = format!("GET /x HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(40_000));
        let answers = ask(&stage, &long).await;
        assert_eq!(statuses(&answers), ["431"], "{answers}");
        let many = format!("GET /x HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-Many: 1\r\n".repeat(150));
        let answers = ask(&stage, &many).await;
        assert_eq!(statuses(&answers), ["431"], "{answers}");
        assert_eq!(journal.len(), 0);
    });
}

fn stage() -> (Stage, Toy, Journal) {
    let (toy, journal) = Toy::recording();
    (open(&format!("{BASE}{}", toy.site())), toy, journal)
}

/// Sends bytes and reads what comes until the door closes or pauses.
async fn ask(stage: &Stage, bytes: &str) -> String {
    let mut stream = Visitor::new(stage, [1, 1]).tls().await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    String::from_utf8_lossy(&read_all(&mut stream).await).into_owned()
}

/// The status of every answer.
fn statuses(answers: &str) -> Vec<String> {
    answers.match_indices("HTTP/1.").filter_map(|(at, _)| answers[at..].split(' ').nth(1).map(str::to_owned)).collect()
}

/// At most the one request went up, and with one framing; what stood behind it did not.
fn alone(answers: &str, journal: &Journal, what: &str) {
    for heard in journal.all() {
        assert!(heard.head.starts_with("POST /one "), "{what}: {} {answers}", heard.head);
        assert!(heard.values("content-length").len() + heard.values("transfer-encoding").len() <= 1, "{what}: {}", heard.head);
        assert!(heard.body.is_empty(), "{what}: {:?}", heard.body);
    }
    assert!(statuses(answers).len() <= 1, "{what}: {answers}");
}
