//! The time of an answer tells nobody which accounts exist: what is no success waits, and nothing else waits with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::upstream::{Heard, OK, Toy, hear};
use crate::support::{ACCOUNT, BASE, LOGIN, OPEN_SITE, Stage, Visitor, credentials, event, open, run, told};

/// Longer than any of these tests: whoever has his answer did not wait for it.
const LONG: &str = "pad = \"10s\"";

/// An application that tells its own time, too.
const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Runtime: 0.080123\r\n\
    Server-Timing: db;dur=80\r\nContent-Length: 2\r\n\r\nno";

#[test]
fn trap_timing_leak_of_user_existence_no_failing_answer_leaves_before_its_time() {
    // A password is hashed only for an account that exists.
    let toy = slow_for(|heard| if heard.body.starts_with(b"username=alice&") { 80 } else { 0 });
    let mut stage = open(&format!("{BASE}{}{}", padded("pad = \"400ms\""), toy.site_with("", "login = \"form\"")));
    run(async {
        for account in [ACCOUNT.0, "nobody-at-all"] {
            let began = Instant::now();
            let refused = Visitor::new(&stage, [1, 1]).sign_in(account, "wrong").await.unwrap();
            assert_eq!((refused.status.as_u16(), &*refused.body), (401, &b"no"[..]));
            assert_eq!(refused.headers.get_all("date").iter().count(), 1);
            assert!(!refused.header("date").contains("1994"), "it is dated when it leaves");
            assert!(!refused.headers.contains_key("x-runtime") && !refused.headers.contains_key("server-timing"));
            assert!(began.elapsed() >= Duration::from_millis(400), "{account}: {:?}", began.elapsed());
            event(&mut stage, &["login.attempt", account, "\"outcome\":\"failed\"", "\"late\":"]).await;
        }
    });
}

#[test]
fn an_answer_that_was_not_in_time_is_told_as_late() {
    let toy = slow_for(|_| 30);
    let mut stage = open(&format!("{BASE}{}{}", padded("pad = \"1ms\""), toy.site_with("", "login = \"form\"")));
    run(async {
        assert_eq!(Visitor::new(&stage, [1, 1]).sign_in("alice", "wrong").await.unwrap().status, 401);
        event(&mut stage, &["login.attempt", "\"outcome\":\"failed\"", "\"late\":true"]).await;
    });
}

#[test]
fn only_the_failing_answer_is_held_its_ban_is_live_and_on_disk_meanwhile_and_nobody_else_waits() {
    let never = "[bans]\nnever = [\"127.0.2.0/24\"]\n";
    let mut stage = open(&site(&BASE.replace("drain = \"2s\"", "drain = \"200ms\""), &format!("{never}{}", padded(LONG))));
    run(async {
        let mut held = guesses(&stage, [1, 1], 5);
        event(&mut stage, &["ban.made", "127.0.1.1", "\"failures\":5", "\"durable\":true"]).await;
        assert_eq!(Visitor::new(&stage, [1, 1]).get("/").await.unwrap().told(), "403 banned");

        let mut spent = guesses(&stage, [2, 1], 5);
        for _ in 0..5 {
            event(&mut stage, &["login.attempt", "127.0.2.1", "\"outcome\":\"failed\"", "\"late\":false"]).await;
        }
        let refused = Visitor::new(&stage, [2, 1]).sign_in(ACCOUNT.0, "one more").await.unwrap();
        assert_eq!(refused.told(), "429 too-many-attempts", "a refusal of the gateway's own is not held");
        let owner = Visitor::new(&stage, [3, 1]).sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap();
        assert_eq!(owner.header("location"), "/home", "a success is not held");
        assert!(held.try_join_next().is_none() && spent.try_join_next().is_none(), "failing answers leave early");

        // A stop waits for its deadline and not for the pad.
        stage.close().unwrap();
        for answer in held.join_all().await.into_iter().chain(spent.join_all().await) {
            assert!(!answer, "a held answer outlived the drain");
        }
    });
}

#[test]
fn what_never_reached_the_application_is_not_held() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let nowhere = crate::support::upstream::site_of(&[format!("http://127.0.0.1:{port}")], "", "login = \"form\"");
    let toy = slow_for(|_| 0);
    let held = toy.site_with("", "login = \"form\"").replace("upstream.toy", "upstream.up");
    let held = held.replace("\"toy\"", "\"up\"").replace("[\"localhost\"]", "[\"other.localhost\"]");
    let mut stage = open(&format!("{BASE}{}{nowhere}{held}", padded(LONG)));
    run(async {
        let mut waits = JoinSet::new();
        let other = Visitor::new(&stage, [1, 1]).named("other.localhost");
        waits.spawn(async move { other.sign_in("alice", "x").await.is_ok() });
        event(&mut stage, &["login.attempt", "\"outcome\":\"failed\""]).await;
        let unsent = Visitor::new(&stage, [1, 2]).sign_in("alice", "x").await.unwrap();
        assert_eq!(unsent.told(), "503 upstream-unavailable");
        assert!(waits.try_join_next().is_none(), "the failing answer left early");
    });
}

#[test]
fn trap_hanging_up_on_a_held_answer_changes_nothing_the_guess_was_settled_before() {
    let mut stage = open(&site(BASE, &padded(LONG)));
    run(async {
        for round in 0..2 {
            let body = credentials("alice", &format!("x{round}"));
            let request = format!(
                "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            let settled = event(&mut stage, &["login.attempt"]).await;
            assert!(settled.contains("\"outcome\":\"failed\"") && settled.contains("127.0.1.1"), "{settled}");
            drop(client);
        }
        // Two attempts, told once each; the next event of a login is another client's.
        let mut held = guesses(&stage, [1, 2], 1);
        let next = event(&mut stage, &["login.attempt"]).await;
        assert!(next.contains("127.0.1.2") && held.try_join_next().is_none(), "{next}");
        let explain = ["limits", "explain", "--client", "127.0.1.1", "--path", "/login", "--method", "POST", "--json"];
        let left: serde_json::Value = serde_json::from_str(&told(&stage, &explain)).unwrap();
        assert_eq!(left["guesses"]["left"], 3, "{left}");
    });
}

#[test]
fn a_held_answer_keeps_no_connection_of_the_application_busy() {
    let toy = slow_for(|_| 0);
    let upstream = "connections = 1\nqueue = \"5s\"";
    let mut stage = open(&format!("{BASE}{}{}", padded(LONG), toy.site_with(upstream, "login = \"form\"")));
    run(async {
        let mut held = JoinSet::new();
        for place in 1..=3 {
            let visitor = Visitor::new(&stage, [1, place]);
            held.spawn(async move { visitor.sign_in("alice", "x").await.is_ok() });
            event(&mut stage, &["login.attempt", &format!("127.0.1.{place}"), "\"outcome\":\"failed\""]).await;
        }
        assert_eq!(Visitor::new(&stage, [1, 9]).get("/").await.unwrap().status, 200);
        assert!(held.try_join_next().is_none(), "they were not held");
    });
}

/// The login rule with another pad.
fn padded(pad: &str) -> String {
    assert!(LOGIN.contains("pad = \"0s\""));
    LOGIN.replace("pad = \"0s\"", pad)
}

fn site(base: &str, more: &str) -> String {
    format!("{base}{more}{}", OPEN_SITE.replace("bots = \"any\"", "bots = \"any\"\n  login = \"form\""))
}

/// Distinct wrong passwords side by side; each says whether it was answered.
fn guesses(stage: &Stage, from: [u8; 2], count: u8) -> JoinSet<bool> {
    let visitor = Visitor::new(stage, from);
    let mut guesses = JoinSet::new();
    for guess in 0..count {
        let visitor = visitor.clone();
        guesses.spawn(async move { visitor.sign_in(ACCOUNT.0, &format!("wrong-{guess}")).await.is_ok() });
    }
    guesses
}

/// Answers 401 to every POST, after as many milliseconds as it is told.
fn slow_for(delay: impl Fn(&Heard) -> u64 + Send + Sync + 'static) -> Toy {
    let delay = Arc::new(delay);
    Toy::start(move |mut stream, _| {
        let delay = Arc::clone(&delay);
        async move {
            let mut ahead = Vec::new();
            while let Some(heard) = hear(&mut stream, &mut ahead).await {
                let posted = heard.head.starts_with("POST");
                tokio::time::sleep(Duration::from_millis(if posted { delay(&heard) } else { 0 })).await;
                let answer: &[u8] = if posted { REFUSAL } else { OK };
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
        }
    })
}
