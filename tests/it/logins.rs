//! Password guessing stops before the application, exactly; and nobody pays for what somebody else did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::caller::Caller;
use crate::support::upstream::{OK, Toy, hear};
use crate::support::{
    ACCOUNT, Answer, BASE, LOGIN, OPEN_SITE, Stage, Visitor, approve, browser, credentials, doorward, event, form, open, run,
    told,
};

const WRONG: &str = "wrong";

#[test]
fn of_a_thousand_parallel_guesses_exactly_the_budget_reaches_a_slow_portal() {
    let stage = open(&site("[caps]\nconnections_per_client = 2000\nhandshakes_per_client = \"5000/s\"\n"));
    stage.portal.mood.login_delay.store(500, Ordering::SeqCst);
    run(async {
        let statuses = storm(&stage, [1, 1]).await;
        assert_eq!(attempts(&stage), 5);
        let refused = statuses.get(&429).unwrap_or(&0) + statuses.get(&403).unwrap_or(&0);
        assert_eq!((refused, statuses.get(&303)), (995, Some(&5)), "{statuses:?}");
        assert_eq!(Visitor::new(&stage, [1, 1]).get("/").await.unwrap().told(), "403 banned");
        assert_eq!(went(&Visitor::new(&stage, [1, 2]).sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap()), "/home");
    });
}

#[test]
fn trap_unbounded_buffering_a_client_has_64_login_bodies_under_way_and_what_is_refused_is_no_failure() {
    let stage = open(&site("[caps]\nhandshakes_per_client = \"5000/s\"\n").replace("body = \"2s\"", "body = \"60s\""));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                    Content-Length: 30\r\nExpect: 100-continue\r\n\r\n";
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut stream = caller.shake().await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut going_on = [0; 25];
            stream.read_exact(&mut going_on).await.unwrap();
            assert_eq!(&going_on, b"HTTP/1.1 100 Continue\r\n\r\n", "its body is being read");
            held.push(stream);
        }
        let visitor = Visitor::new(&stage, [1, 1]);
        for _ in 0..10 {
            let refused = visitor.sign_in(ACCOUNT.0, WRONG).await.unwrap();
            assert_eq!((refused.told().as_str(), refused.header("retry-after")), ("429 too-many-attempts", "1"));
        }
        assert_eq!(went(&Visitor::new(&stage, [1, 2]).sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap()), "/home");
        assert_eq!(attempts(&stage), 1, "nothing of it reached the portal");
        drop(held);
        let free = loop {
            let answer = visitor.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap();
            if answer.status != 429 {
                break answer;
            }
        };
        assert_eq!(went(&free), "/home");
        assert_eq!(told(&stage, &["bans", "list", "--json"]), "[]");
    });
}

/// The head of a login and half of its body; what to send of the rest.
async fn held_login(stage: &Stage, from: [u8; 2]) -> (TlsStream<TcpStream>, &'static [u8]) {
    let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                User-Agent: Mozilla/5.0\r\nContent-Length: 28\r\n\r\nusername=alice&pas";
    let mut stream = Caller::new(stage, from).shake().await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    (stream, b"sword=late")
}

#[test]
fn a_ban_holds_the_logins_whose_bodies_come_after_it() {
    let brief = "[guesses]\nper_client = { failures = 5, within = \"1s\" }\n";
    let stage = open(&site(brief).replace("body = \"2s\"", "body = \"60s\""));
    run(async {
        let (mut early, rest) = held_login(&stage, [1, 1]).await;
        let (mut beside, _) = held_login(&stage, [1, 2]).await;
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..5 {
            assert_eq!(went(&visitor.sign_in("alice", &format!("x{guess}")).await.unwrap()), "/login?error=1");
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
        // Its end may have come already.
        let _ = early.write_all(rest).await;
        let mut told = Vec::new();
        let _ = early.read_to_end(&mut told).await;
        assert!(told.is_empty() || told.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&told));
        assert_eq!(attempts(&stage), 5, "the window is free again, and the ban holds");
        beside.write_all(rest).await.unwrap();
        let mut told = [0; 12];
        beside.read_exact(&mut told).await.unwrap();
        assert_eq!((&told, attempts(&stage)), (b"HTTP/1.1 303", 6), "nobody else's");
    });
}

#[test]
fn limits_count_a_login_when_its_body_is_there() {
    let limit = "[limit.slow]\nkey = \"route\"\nrate = \"1/s\"\nburst = 1\n";
    let text = site("")
        .replace("login = \"form\"", "login = \"form\"\n  limits = [\"slow\"]")
        .replace("body = \"2s\"", "body = \"60s\"");
    let stage = open(&format!("{text}{limit}"));
    run(async {
        let (mut login, rest) = held_login(&stage, [1, 1]).await;
        let visitor = Visitor::new(&stage, [1, 1]);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(visitor.get("/").await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        login.write_all(rest).await.unwrap();
        let mut told = [0; 12];
        login.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 303", "the budget is free at that time");
        assert_eq!(visitor.get("/").await.unwrap().told(), "429 rate-limited", "and it was charged");
    });
}

#[test]
fn trap_an_outage_of_the_application_spends_guesses_and_bans_nobody() {
    let stage = open(&site(""));
    stage.portal.mood.login_status.store(503, Ordering::SeqCst);
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..5 {
            assert_eq!(visitor.sign_in(ACCOUNT.0, &format!("x{guess}")).await.unwrap().status, 503);
        }
        for guess in 0..5 {
            let refused = visitor.sign_in(ACCOUNT.0, &format!("y{guess}")).await.unwrap();
            assert_eq!(refused.told(), "429 too-many-attempts");
            assert_ne!(refused.header("retry-after"), "");
        }
        assert_eq!(attempts(&stage), 5);
        assert_eq!(visitor.get("/").await.unwrap().status, 200, "banned for an outage");
        assert_eq!(told(&stage, &["bans", "list", "--json"]), "[]");
    });
}

#[test]
fn trap_a_page_of_another_site_gets_none_of_its_visitors_banned() {
    let stage = open(&site("").replace("[login.form]\n", "[login.form]\norigins = [\"https://friend.example\"]\n"));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let sent = async |site: &str, origin: &str, secret: &str| {
            let request = form().header("sec-fetch-site", site).header("origin", origin);
            visitor.send(request, credentials(ACCOUNT.0, secret)).await.unwrap()
        };
        for guess in 0..8 {
            let refused = sent("cross-site", "https://evil.example", &format!("x{guess}")).await;
            assert_eq!(refused.told(), "403 not-permitted");
        }
        assert_eq!(sent("Cross-Site", "null", "x").await.told(), "403 not-permitted");
        assert_eq!(attempts(&stage), 0);
        assert_eq!(visitor.get("/").await.unwrap().status, 200, "banned for what a page did");
        for (site, origin) in [
            ("cross-site", "https://friend.example"),
            ("same-site", "https://www.localhost"),
            ("same-origin", "https://localhost"),
        ] {
            assert_eq!(went(&sent(site, origin, ACCOUNT.1).await), "/home", "{site} {origin}");
        }
    });
}

#[test]
fn trap_success_on_ones_own_account_clears_only_the_failures_with_that_account() {
    let stage = open(&site(""));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..2 {
            visitor.sign_in("bob", &format!("b{guess}")).await.unwrap();
            visitor.sign_in(ACCOUNT.0, &format!("a{guess}")).await.unwrap();
        }
        // Four of five are spent; the success gives two of them back.
        assert_eq!(went(&visitor.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap()), "/home");
        for guess in 0..2 {
            assert_eq!(went(&visitor.sign_in("bob", &format!("c{guess}")).await.unwrap()), "/login?error=1", "{guess}");
        }
        assert_eq!(went(&visitor.sign_in("carol", "d").await.unwrap()), "/login?error=1");
        let spent = visitor.sign_in("bob", "e").await.unwrap().told();
        assert!(spent == "403 banned" || spent == "429 too-many-attempts", "{spent}");
    });
}

#[test]
fn a_repeat_of_a_guess_that_failed_is_not_counted_again() {
    let stage = open(&site(""));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for _ in 0..20 {
            assert_eq!(went(&visitor.sign_in(ACCOUNT.0, WRONG).await.unwrap()), "/login?error=1");
        }
        for guess in 0..3 {
            assert_eq!(went(&visitor.sign_in(ACCOUNT.0, &format!("x{guess}")).await.unwrap()), "/login?error=1");
        }
        assert_eq!(visitor.get("/").await.unwrap().status, 200, "four distinct guesses ban nobody");
        assert_eq!(went(&visitor.sign_in("Alice ", "x4").await.unwrap()), "/login?error=1");
        assert_eq!(visitor.get("/").await.unwrap().told(), "403 banned", "the fifth does");
    });
}

#[test]
fn trap_ten_addresses_lock_nobodys_account_for_those_who_know_it() {
    let budget = "[guesses]\nper_client = { failures = 50, within = \"10m\" }\nper_account = { failures = 6, within = \"1h\" }\n";
    let mut stage = open(&site(budget));
    run(async {
        let owner = Visitor::new(&stage, [2, 1]);
        assert_eq!(went(&owner.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap()), "/home");
        for attacker in 1..=6 {
            let answer = Visitor::new(&stage, [1, attacker]).sign_in(ACCOUNT.0, &format!("x{attacker}")).await.unwrap();
            assert_eq!(went(&answer), "/login?error=1");
        }
        for attacker in 1..=8 {
            let refused = Visitor::new(&stage, [1, attacker]).sign_in(ACCOUNT.0, &format!("y{attacker}")).await.unwrap();
            assert_eq!(refused.told(), "429 too-many-attempts");
        }
        event(&mut stage, &["guess.refused", "\"scope\":\"account\""]).await;
        // Even with the right password, from an address that never had it.
        assert_eq!(Visitor::new(&stage, [1, 9]).sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap().told(), "429 too-many-attempts");
        assert_eq!(went(&owner.sign_in(ACCOUNT.0, "typo").await.unwrap()), "/login?error=1");
        assert_eq!(went(&owner.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap()), "/home");
        assert_eq!(
            went(&Visitor::new(&stage, [1, 1]).sign_in("bob", "x").await.unwrap()),
            "/login?error=1",
            "other accounts go on"
        );
        assert_eq!(told(&stage, &["bans", "list", "--json"]), "[]", "a spent account bans nobody");
        assert_eq!(attempts(&stage), 1 + 6 + 2 + 1);
    });
}

#[test]
fn known_and_unknown_accounts_are_refused_alike() {
    let budget = "[guesses]\nper_client = { failures = 50, within = \"10m\" }\nper_account = { failures = 1, within = \"1h\" }\n";
    let stage = open(&site(budget));
    run(async {
        let mut answers = Vec::new();
        for account in [ACCOUNT.0, "nobody-at-all"] {
            let visitor = Visitor::new(&stage, [1, 1]);
            visitor.sign_in(account, "x").await.unwrap();
            let refused = visitor.sign_in(account, "y").await.unwrap();
            assert_eq!(refused.told(), "429 too-many-attempts");
            let id = refused.header("doorward-decision").to_owned();
            let names: BTreeMap<_, _> = refused
                .headers
                .iter()
                .filter(|(name, _)| !["date", "retry-after", "doorward-decision"].contains(&name.as_str()))
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            let all: BTreeSet<_> = refused.headers.keys().map(ToString::to_string).collect();
            answers.push((names, all, String::from_utf8(refused.body.to_vec()).unwrap().replace(&id, "ID")));
        }
        assert_eq!(answers[0], answers[1]);
        assert!(!answers[0].2.contains("account") && !answers[0].2.contains("client"), "{}", answers[0].2);
    });
}

#[test]
fn trap_account_hidden_from_the_counter_is_400_and_never_reaches_the_portal() {
    let stage = open(&site(""));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for body in [
            "password=x",
            "",
            "username=&password=x",
            "username=%20%20&password=x",
            "username=alice&username=bob&password=x",
            "username=alice&Username=bob&password=x",
            "username=alice&user%6Eame=bob&password=x",
            "username[]=alice&password=x",
            "username=alice&username%5B%5D=bob&password=x",
            "username=al%00ice&password=x",
            "username=al%ffice&password=x",
            "username=alice;username=bob&password=x",
            "username=alice&password=x&password=y",
            "username=alice&username]=bob&password=x",
            "username=alice&[username=bob&password=x",
            "username=alice&user[name=bob&password=x",
            "username=alice&username[x]y=bob&password=x",
            "username=alice&%u0075sername=bob&password=x",
            "{\"username\":\"alice\"}",
        ] {
            assert_eq!(visitor.send(form(), body).await.unwrap().told(), "400 bad-request", "{body}");
        }
        for headers in [
            [("content-type", "text/plain")].as_slice(),
            &[("content-type", "multipart/form-data; boundary=x")],
            &[("content-type", "application/json")],
            &[("content-type", "application/x-www-form-urlencoded; charset=utf-16")],
            &[("content-type", "application/x-www-form-urlencoded; xcharset=ibm037")],
            &[],
            &[("content-type", "application/x-www-form-urlencoded"), ("content-encoding", "gzip")],
            &[("content-type", "application/x-www-form-urlencoded"), ("content-type", "text/plain")],
        ] {
            let request = headers.iter().fold(browser("POST", "/login"), |request, (name, value)| request.header(*name, *value));
            let answer = Visitor::new(&stage, [1, 2]).send(request, credentials("alice", "x")).await.unwrap();
            assert_eq!(answer.told(), "400 bad-request", "{headers:?}");
        }
        for target in ["/login?username=bob", "/login?USERNAME=bob", "/login?user%6eame=bob"] {
            let request = browser("POST", target).header("content-type", "application/x-www-form-urlencoded");
            assert_eq!(
                Visitor::new(&stage, [1, 2]).send(request, credentials("alice", "x")).await.unwrap().told(),
                "400 bad-request",
                "{target}"
            );
        }
        // An application may take the credentials from the query of any method.
        for (method, target) in [
            ("GET", "/login?username=alice&password=x"),
            ("GET", "/Login/?PASSWORD=x"),
            ("PUT", "/login?password[]=x"),
            ("GET", "/login?%u0070assword=x"),
        ] {
            let refused = Visitor::new(&stage, [1, 2]).send(browser(method, target), "").await.unwrap();
            assert_eq!(refused.told(), "400 bad-request", "{method} {target}");
        }
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/login?username=alice&next=/").await.unwrap().status, 200);
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/?password=x").await.unwrap().status, 200, "no page of a login");
        let large = format!("username=alice&password={}", "x".repeat(70_000));
        assert_eq!(Visitor::new(&stage, [1, 2]).send(form(), large).await.unwrap().told(), "400 bad-request");
        // The same place by another spelling is the same attempt.
        for target in ["/%6cogin", "/log%69n?next=/"] {
            let request = browser("POST", target).header("content-type", "application/x-www-form-urlencoded");
            assert_eq!(
                Visitor::new(&stage, [1, 2]).send(request, "password=x").await.unwrap().told(),
                "400 bad-request",
                "{target}"
            );
        }
        assert_eq!(attempts(&stage), 0);
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/").await.unwrap().status, 200, "a refusal of ours is no failure");
        assert_eq!(told(&stage, &["bans", "list", "--json"]), "[]");
    });
}

#[test]
fn trap_another_spelling_of_a_login_counts_also_where_a_route_without_it_takes_the_request() {
    let basic = "[login.basic]\nrequest = { method = \"GET\", path = \"/private\" }\naccount = \"basic\"\n\
                 failed = [{ status = 401 }]\nok = [{ status = 200 }]\npad = \"0s\"\n";
    let route = |path: &str, login: &str| {
        format!(
            "  [[site.route]]\n  path = \"{path}\"\n  match = \"exact\"\n  upstream = \"portal\"\n  bots = \"any\"\n  login = \"{login}\"\n"
        )
    };
    let stage = open(&format!("{BASE}{LOGIN}{basic}{OPEN_SITE}{}{}", route("/login", "form"), route("/private", "basic")));
    run(async {
        let posts = [("POST", "/Login"), ("POST", "/login/"), ("POST", "/LOGIN%20"), ("post", "/login"), ("Post", "/logiN")];
        for (client, (method, path)) in (1..).zip(posts) {
            let visitor = Visitor::new(&stage, [1, client]);
            let guess = async |number: u32| {
                let request = browser(method, path).header("content-type", "application/x-www-form-urlencoded");
                visitor.send(request, credentials("alice", &format!("x{client}{number}"))).await.unwrap().told()
            };
            for number in 0..5 {
                let told = guess(number).await;
                assert!(!told.starts_with("429") && !told.starts_with("403"), "{method} {path}: {told}");
            }
            let told = guess(5).await;
            assert!(told == "429 too-many-attempts" || told == "403 banned", "{method} {path}: {told}");
        }
        for (client, method) in (11..).zip(["HEAD", "get", "GET"]) {
            let visitor = Visitor::new(&stage, [1, client]);
            let guess = async |number: u32| {
                let line = format!("Basic {}", STANDARD.encode(format!("alice:x{client}{number}")));
                visitor.send(browser(method, "/Private/").header("authorization", line), "").await.unwrap().status.as_u16()
            };
            for number in 0..5 {
                assert!(![429, 403].contains(&guess(number).await), "{method}");
            }
            let told = guess(5).await;
            assert!([429, 403].contains(&told), "{method}: {told}");
        }
    });
}

#[test]
fn trap_hanging_up_before_the_answer_counts_as_a_failure() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let toy = Toy::start(move |mut stream, _| {
        let arrived = arrived.clone();
        async move {
            let mut ahead = Vec::new();
            while let Some(heard) = hear(&mut stream, &mut ahead).await {
                if heard.head.starts_with("POST") {
                    arrived.send(()).unwrap();
                    std::future::pending::<()>().await;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    });
    let mut stage = open(&format!("{BASE}{LOGIN}{}", toy.site_with("", "login = \"form\"")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..5 {
            let body = credentials("alice", &format!("x{guess}"));
            let request = format!(
                "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut client = visitor.tls().await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            arrivals.recv().await.unwrap();
            drop(client);
            event(&mut stage, &["login.attempt", "\"outcome\":\"failed\""]).await;
        }
        event(&mut stage, &["ban.made", "127.0.1.1", "\"failures\":5"]).await;
        assert_eq!(visitor.get("/").await.unwrap().told(), "403 banned");
    });
}

#[test]
fn a_guess_that_never_reached_the_application_is_given_back() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let site = crate::support::upstream::site_of(&[format!("http://127.0.0.1:{port}")], "", "login = \"form\"");
    let stage = open(&format!("{BASE}{LOGIN}{site}"));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..12 {
            assert_eq!(visitor.sign_in("alice", &format!("x{guess}")).await.unwrap().told(), "503 upstream-unavailable");
        }
        let left =
            told(&stage, &["limits", "explain", "--client", "127.0.1.1", "--path", "/login", "--method", "POST", "--json"]);
        let left: serde_json::Value = serde_json::from_str(&left).unwrap();
        assert_eq!(left["guesses"]["left"], 5, "{left}");
    });
}

#[test]
fn an_answer_that_comes_too_late_or_breaks_off_spends_the_guess_and_bans_nobody() {
    let hangs = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&hangs);
    let toy = Toy::start(move |mut stream, _| {
        let mood = Arc::clone(&mood);
        async move {
            let mut ahead = Vec::new();
            while let Some(heard) = hear(&mut stream, &mut ahead).await {
                if heard.head.starts_with("POST") {
                    if mood.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                stream.write_all(OK).await.unwrap();
            }
        }
    });
    let site = toy.site_with("timeouts = { response = \"150ms\" }", "login = \"form\"");
    let stage = open(&format!("{BASE}{LOGIN}{site}"));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..3 {
            assert_eq!(visitor.sign_in("alice", &format!("x{guess}")).await.unwrap().told(), "504 upstream-timeout");
        }
        hangs.store(false, Ordering::SeqCst);
        for guess in 3..5 {
            assert_eq!(visitor.sign_in("alice", &format!("x{guess}")).await.unwrap().told(), "502 upstream-unavailable");
        }
        assert_eq!(visitor.sign_in("alice", "x5").await.unwrap().told(), "429 too-many-attempts");
        assert_eq!(visitor.get("/").await.unwrap().status, 200, "no ban");
    });
}

#[test]
fn basic_and_json_logins_are_counted_like_forms() {
    let (toy, journal) = Toy::answering(|heard| {
        let right =
            heard.value("authorization") == "Basic YWxpY2U6cmlnaHQ=" || heard.body.windows(7).any(|seven| seven == b"\"right\"");
        let status = if right { "200 OK" } else { "401 Unauthorized" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let rules = r#"
[login.json]
request = { method = "POST", path = "/session" }
account = { json = "/user/name" }
secret = { json = "/user/password" }
failed = [{ status = [401] }]
ok = [{ status = 200 }]
pad = "0s"
[login.basic]
request = { method = "GET", path = "/guarded" }
account = "basic"
failed = [{ status = [401] }]
ok = [{ status = 200 }]
pad = "0s"
"#;
    let guarded = "login = \"json\"\n  [[site.route]]\n  path = \"/guarded\"\n  match = \"exact\"\n  upstream = \"toy\"\n  bots = \"any\"\n  login = \"basic\"";
    let stage = open(&format!("{BASE}{rules}{}", toy.site_with("", guarded)));
    run(async {
        let json = |body: &str| (browser("POST", "/session").header("content-type", "application/json"), body.to_owned());
        let one = Visitor::new(&stage, [1, 1]);
        for body in [
            r#"{"user":{"password":"x"}}"#,
            r#"{"user":{"name":"alice","name":"bob","password":"x"}}"#,
            r#"{"user":{"name":"alice"},"user":{"name":"bob"}}"#,
            r#"{"user":{"name":["alice"],"password":"x"}}"#,
            r#"{"user":{"name":null}}"#,
            r#"{"user":{"name":"alice"}} trailing"#,
            r#"{"user":{"name":"alice"}"#,
            "username=alice",
        ] {
            let (request, body) = json(body);
            assert_eq!(one.send(request, body.clone()).await.unwrap().told(), "400 bad-request", "{body}");
        }
        assert_eq!(journal.len(), 0);
        for guess in 0..5 {
            let (request, body) = json(&format!(r#"{{"user":{{"name":"alice","password":"x{guess}"}}}}"#));
            assert_eq!(one.send(request, body).await.unwrap().status, 401);
        }
        assert_eq!(one.get("/").await.unwrap().told(), "403 banned");

        let two = Visitor::new(&stage, [1, 2]);
        let basic = |pair: &str| {
            use base64::Engine as _;
            browser("GET", "/guarded")
                .header("authorization", format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        };
        for _ in 0..8 {
            assert_eq!(two.get("/guarded").await.unwrap().status, 401, "the browser's first look guesses nothing");
        }
        for guess in 0..4 {
            assert_eq!(two.send(basic(&format!("alice:x{guess}")), "").await.unwrap().status, 401);
        }
        assert_eq!(two.send(basic("alice:right"), "").await.unwrap().status, 200);
        for guess in 0..5 {
            assert_eq!(
                two.send(basic(&format!("alice:y{guess}")), "").await.unwrap().status,
                401,
                "the success cleared what was before"
            );
        }
        assert_eq!(two.get("/").await.unwrap().told(), "403 banned");
        let three = Visitor::new(&stage, [1, 3]);
        for line in ["Bearer x", "Basic", "Basic !!!", "Basic YWxpY2U="] {
            let request = browser("GET", "/guarded").header("authorization", line);
            assert_eq!(three.send(request, "").await.unwrap().told(), "400 bad-request", "{line}");
        }
    });
}

#[test]
fn an_identitys_guesses_count_against_the_identity_and_a_ban_of_its_address_does_not_hold_it() {
    let text = site("").replace("[[site]]", "[[site]]\nclient_ca = [\"acme\"]");
    let mut stage = open(&text);
    run(async {
        let proven = Visitor::new(&stage, [1, 1]).with("good");
        for guess in 0..5 {
            assert_eq!(went(&proven.sign_in("alice", &format!("x{guess}")).await.unwrap()), "/login?error=1");
        }
        event(&mut stage, &["ban.made", "identity:acme:urn:acme:orders"]).await;
        assert_eq!(proven.get("/").await.unwrap().told(), "403 banned");
        // Its address pays nothing, nor does another identity there; and the banned one is banned from everywhere.
        let neighbour = Visitor::new(&stage, [1, 1]);
        assert_eq!(neighbour.get("/").await.unwrap().status, 200);
        assert_eq!(neighbour.clone().with("other").get("/").await.unwrap().status, 200);
        assert_eq!(Visitor::new(&stage, [1, 2]).with("good").get("/").await.unwrap().told(), "403 banned");
        for guess in 0..5 {
            assert_eq!(went(&neighbour.sign_in("alice", &format!("y{guess}")).await.unwrap()), "/login?error=1");
        }
        assert_eq!(neighbour.get("/").await.unwrap().told(), "403 banned");
        assert_eq!(
            neighbour.clone().with("other").get("/").await.unwrap().status,
            200,
            "who proves who he is passes an address ban"
        );
        assert_eq!(
            neighbour.with("revoked").get("/").await.unwrap().told(),
            "403 banned",
            "a certificate that does not hold proves nothing"
        );
    });
}

#[test]
fn an_approved_callers_guesses_ban_the_approval_also_after_a_restart_until_it_is_lifted() {
    let mut stage = open(&site(""));
    let (id, token) = approve(&stage, &["--method", "POST", "--path", "/login"]);
    let key = format!("identity:{id}");
    let guess = async |stage: &Stage, number: u32| {
        let request = form().header("doorward-approval", &token);
        let answer = Visitor::new(stage, [1, 1]).send(request, credentials("alice", &format!("x{number}"))).await.unwrap();
        went(&answer)
    };
    run(async {
        for number in 0..5 {
            assert_eq!(guess(&stage, number).await, "/login?error=1");
        }
        event(&mut stage, &["ban.made", &key]).await;
        assert_eq!(guess(&stage, 5).await, "403 banned");
        assert_eq!(Visitor::new(&stage, [1, 1]).get("/").await.unwrap().status, 200, "its address pays nothing");
    });
    let explained = ["limits", "explain", "--client", "127.1.1.1", "--approval", &id, "--host", "localhost", "--method", "POST"];
    let explained = told(&stage, &[&explained[..], &["--path", "/login"]].concat());
    assert!(explained.contains("identity") && explained.contains("5 failed"), "{explained}");
    stage.close().expect("it ends well");
    assert_eq!(doorward(&stage, &["check"]).status.code(), Some(0));
    stage.reopen().expect("what was written is read");
    assert!(told(&stage, &["bans", "list"]).contains(&key));
    run(async { assert_eq!(guess(&stage, 6).await, "403 banned") });
    told(&stage, &["bans", "lift", &key]);
    run(async { assert_eq!(guess(&stage, 7).await, "/login?error=1") });
    told(&stage, &["bans", "add", &key, "--for", "1h"]);
    run(async { assert_eq!(guess(&stage, 8).await, "403 banned") });
    let unknown = doorward(&stage, &["bans", "add", "identity:apr-unknown"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no approval apr-unknown"), "{unknown:?}");
}

#[test]
fn an_account_ban_stops_its_logins_only_and_lifting_gives_the_budget_back() {
    let stage = open(&site(""));
    run(async {
        told(&stage, &["bans", "add", "account:Alice", "--for", "2h", "--reason", "leaked"]);
        let visitor = Visitor::new(&stage, [1, 1]);
        let refused = visitor.sign_in("alice ", ACCOUNT.1).await.unwrap();
        assert_eq!(refused.told(), "403 banned");
        assert_ne!(refused.header("retry-after"), "");
        assert_eq!(visitor.get("/").await.unwrap().status, 200);
        assert_eq!(went(&visitor.sign_in("bob", "x").await.unwrap()), "/login?error=1");
        told(&stage, &["bans", "lift", "account:alice", "--reason", "changed"]);
        assert_eq!(went(&visitor.sign_in("alice", ACCOUNT.1).await.unwrap()), "/home");

        let other = Visitor::new(&stage, [1, 2]);
        for round in 0..2 {
            for guess in 0..5 {
                assert_eq!(went(&other.sign_in("bob", &format!("x{round}-{guess}")).await.unwrap()), "/login?error=1");
            }
            assert_eq!(other.get("/").await.unwrap().told(), "403 banned");
            told(&stage, &["bans", "lift", "127.0.1.2", "--reason", "customer called"]);
        }
        assert_eq!(other.get("/").await.unwrap().status, 200);
    });
}

#[test]
fn each_further_ban_is_longer() {
    let mut stage = open(&site("[bans]\nfirst = \"15m\"\nfactor = 4\nmax = \"2h\"\n"));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for (round, minutes) in [(1, 15), (2, 60), (3, 120)] {
            for guess in 0..5 {
                visitor.sign_in("bob", &format!("x{round}-{guess}")).await.unwrap();
            }
            let made: serde_json::Value = serde_json::from_str(&event(&mut stage, &["ban.made", "127.0.1.1"]).await).unwrap();
            let time = |name: &str| made[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            assert_eq!(
                (made["count"].as_u64().unwrap(), time("until").duration_since(time("since")).as_mins()),
                (round, minutes)
            );
            assert_eq!(made["durable"], true);
            let refused = visitor.get("/").await.unwrap();
            let wait: i64 = refused.header("retry-after").parse().unwrap();
            // A ban ends on a whole second, not before its time.
            assert!((minutes * 60 - 30..=minutes * 60 + 1).contains(&wait), "{wait}");
            told(&stage, &["bans", "lift", "127.0.1.1", "--reason", "next round"]);
        }
    });
}

#[test]
fn never_and_always_hold_what_they_say() {
    let mut stage = open(
        &site("[bans]\nnever = [\"127.0.2.0/24\"]\nalways = [\"127.0.3.0/24\"]\n")
            .replace("[[site]]", "[[site]]\nclient_ca = [\"acme\"]"),
    );
    run(async {
        let spared = Visitor::new(&stage, [2, 7]);
        for guess in 0..5 {
            assert_eq!(went(&spared.sign_in("alice", &format!("x{guess}")).await.unwrap()), "/login?error=1");
        }
        for guess in 0..3 {
            assert_eq!(
                spared.sign_in("alice", &format!("y{guess}")).await.unwrap().told(),
                "429 too-many-attempts",
                "it keeps its budget"
            );
        }
        assert_eq!(spared.get("/").await.unwrap().status, 200, "and is never banned");
        let blocked = Visitor::new(&stage, [3, 7]);
        let refused = blocked.get("/").await.unwrap();
        assert_eq!(
            (refused.told().as_str(), refused.header("retry-after")),
            ("403 banned", ""),
            "for good: waiting does not help"
        );
        assert_eq!(blocked.with("good").get("/").await.unwrap().told(), "403 banned", "no proof passes it");
        event(&mut stage, &["guess.refused"]).await;
        assert_eq!(attempts(&stage), 5);
    });
}

#[test]
fn a_ban_is_on_disk_before_the_failing_answer() {
    let mut stage = open(&site(""));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for guess in 0..5 {
            visitor.sign_in("alice", &format!("x{guess}")).await.unwrap();
        }
    });
    // What is on disk at this moment is all that a `kill -9` would leave.
    let copy = stage.folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(stage.folder.path().join("state")).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    stage.close().unwrap();
    let state = stage.folder.path().join("state");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&copy, &state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    stage.reopen().unwrap();
    let bans = told(&stage, &["bans", "list", "--json"]);
    assert!(bans.contains("127.0.1.1"), "{bans}");
    run(async {
        assert_eq!(Visitor::new(&stage, [1, 1]).get("/").await.unwrap().told(), "403 banned");
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/").await.unwrap().status, 200);
    });
}

#[test]
fn no_secret_is_written_anywhere() {
    let mut stage = open(&site(""));
    let secret = "hunter2-very-secret";
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        visitor.sign_in("alice", secret).await.unwrap();
        visitor
            .send(
                browser("GET", &format!("/home?token={secret}")).header("referer", format!("https://localhost/?t={secret}")),
                "",
            )
            .await
            .unwrap();
        let request = browser("GET", "/home").header("authorization", format!("Bearer {secret}")).header("cookie", secret);
        visitor.send(request, "").await.unwrap();
        let show = doorward(&stage, &["config", "show"]);
        assert!(!String::from_utf8_lossy(&show.stdout).contains(secret));
    });
    stage.close().unwrap();
    for file in std::fs::read_dir(stage.folder.path().join("state")).unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "the secret stands in {:?}", file.file_name());
    }
}

/// The portal with its login page, and more lines.
fn site(more: &str) -> String {
    format!("{BASE}{more}{LOGIN}{}", OPEN_SITE.replace("bots = \"any\"", "bots = \"any\"\n  login = \"form\""))
}

fn attempts(stage: &Stage) -> u64 {
    stage.portal.seen.attempts.load(Ordering::SeqCst)
}

fn went(answer: &Answer) -> String {
    match answer.header("location") {
        "" => answer.told(),
        location => location.to_owned(),
    }
}

/// A thousand distinct wrong passwords over many connections at once; how many of each status came back.
async fn storm(stage: &Stage, from: [u8; 2]) -> BTreeMap<u16, usize> {
    let mut lines = tokio::task::JoinSet::new();
    for number in 0..100 {
        let visitor = Visitor::new(stage, from);
        lines.spawn(async move {
            let mut line = visitor.line().await.unwrap();
            let mut statuses = Vec::new();
            for guess in 0..10 {
                let answer = line.send(form(), credentials(ACCOUNT.0, &format!("wrong-{number}-{guess}"))).await.unwrap();
                statuses.push(answer.status.as_u16());
                if answer.header("connection") == "close" {
                    line = visitor.line().await.unwrap();
                }
            }
            statuses
        });
    }
    let mut statuses = BTreeMap::new();
    while let Some(line) = tokio::time::timeout(Duration::from_secs(50), lines.join_next()).await.unwrap() {
        for status in line.unwrap() {
            *statuses.entry(status).or_insert(0) += 1;
        }
    }
    statuses
}
