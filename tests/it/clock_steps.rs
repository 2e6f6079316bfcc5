//! A civil clock that jumps: what lives by it ends or begins with the step and nothing else notices; set right again, all is as
//! it was.

use std::time::Duration;

use doorward::clock::{Clock, ManualClock};
use jiff::ToSpan;

use crate::support::{ACCOUNT, BASE, LOGIN, OPEN_SITE, Stage, Visitor, approve, browser, open, run};

/// A stage that lives by a clock of ours, which reads the system's time at first.
fn stage() -> (Stage, ManualClock) {
    let mut stage = open(&format!(
        "{BASE}{LOGIN}{}  [[site.route]]\n  path = \"/api/\"\n  upstream = \"portal\"\n  client_cert = \"required\"\n  bots = \"any\"\n",
        OPEN_SITE
            .replace("bots = \"any\"", "bots = \"any\"\n  login = \"form\"")
            .replace("hosts = [\"localhost\"]", "hosts = [\"localhost\"]\nclient_ca = [\"acme\"]")
    ));
    stage.close().expect("closed");
    let clock = ManualClock::at(Clock::system().now().wall);
    stage.reopen_by(Some(Clock::from(clock.clone()))).expect("open again");
    (stage, clock)
}

#[test]
fn certificates_and_approvals_follow_the_civil_clock_on_live_connections_and_come_back_with_it() {
    let (stage, clock) = stage();
    let start = clock.now().wall;
    let until = (start + 30.minutes()).to_string();
    let (_, token) = approve(&stage, &["--until", &until]);
    run(async {
        let mut line = Visitor::new(&stage, [1, 1]).with("good").line().await.expect("a connection");
        for (wall, certificate, approval) in [
            (start, "200", "200"),
            // The approval is of half an hour, the leaf is 90 days long and one day old, the CRL ends after 30.
            (start + 1.hour(), "200", "403 approval-revoked"),
            (start, "200", "200"),
            (start - 1.hour(), "200", "200"),
            (start + (24 * 31).hours(), "403 client-cert-refused", "403 approval-revoked"),
            (start + (24 * 91).hours(), "403 client-cert-refused", "403 approval-revoked"),
            (start - (24 * 2).hours(), "403 client-cert-refused", "200"),
            (start, "200", "200"),
        ] {
            clock.step_wall(wall);
            // What is remembered of a chain is remembered by the gateway's own time, which goes on.
            clock.advance(Duration::from_secs(61));
            let seen = line.send(browser("GET", "/api/orders"), "").await.expect("an answer").told();
            assert_eq!(seen, certificate, "the certificate at {wall}");
            let seen =
                line.send(browser("GET", "/echo").header("doorward-approval", &token), "").await.expect("an answer").told();
            assert_eq!(seen, approval, "the approval at {wall}");
        }
    });
}

#[test]
fn a_step_of_the_civil_clock_gives_no_guess_back_and_lifts_no_guess_budget() {
    let (stage, clock) = stage();
    let start = clock.now().wall;
    run(async {
        let guesser = Visitor::new(&stage, [1, 2]);
        for (turn, wall) in [start, start + 1.hour(), start - 1.hour(), start + 48.hours(), start].into_iter().enumerate() {
            clock.step_wall(wall);
            let guess = guesser.sign_in(ACCOUNT.0, &format!("wrong {turn}")).await.expect("an answer");
            assert_eq!(guess.status, 303, "guess {turn} reaches the application");
        }
        assert_eq!(guesser.get("/public").await.expect("an answer").told(), "403 banned", "five in whatever civil time");
        clock.step_wall(start - 1.hour());
        assert_eq!(guesser.get("/public").await.expect("an answer").told(), "403 banned", "longer by the step");
        clock.step_wall(start + 1.hour());
        assert_eq!(guesser.get("/public").await.expect("an answer").told(), "200", "a ban of a quarter of an hour is over");
    });
}
