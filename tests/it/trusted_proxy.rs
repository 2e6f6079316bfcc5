//! Promise: behind a trusted proxy the client is whom the nearest untrusted hop names, and only that client is punished.

use crate::support::caller::{Caller, seen};
use crate::support::{
    Answer, BASE, LOGIN, OPEN_SITE, Stage, browser, credentials, doorward, event, form, open, rewrite, run, told,
};

/// A trusted proxy, and a client that comes by itself.
const PROXY: [u8; 2] = [8, 1];
const DIRECT: [u8; 2] = [2, 1];

fn trusting(more: &str) -> Stage {
    let trusted = "trusted_proxies = [\"127.0.8.0/24\", \"10.0.0.0/8\", \"2001:db8:ffff::/48\"]\n[deadlines]";
    let login = OPEN_SITE.replace("bots = \"any\"", "bots = \"any\"\n  login = \"form\"");
    open(&format!("{}{more}{LOGIN}{login}", BASE.replace("[deadlines]", trusted)))
}

fn echo(forwarded: &str) -> http::request::Builder {
    browser("GET", "/echo").header("x-forwarded-for", forwarded)
}

#[test]
fn trap_x_forwarded_for_is_walked_right_to_left_as_far_as_it_is_trusted() {
    let mut stage = trusting("");
    run(async {
        let caller = Caller::new(&stage, PROXY);
        let (mut h1, mut h2) = (caller.h1().await, caller.h2().await);
        for (line, client, upward) in [
            ("203.0.113.7", "203.0.113.7", "203.0.113.7, 127.0.8.1"),
            ("6.6.6.6, 203.0.113.7", "203.0.113.7", "203.0.113.7, 127.0.8.1"),
            ("6.6.6.6, 203.0.113.7,10.1.2.3", "203.0.113.7", "203.0.113.7, 10.1.2.3, 127.0.8.1"),
            ("not an address at all, 203.0.113.7 , 10.1.2.3", "203.0.113.7", "203.0.113.7, 10.1.2.3, 127.0.8.1"),
            ("10.9.9.9, 10.1.2.3", "10.9.9.9", "10.9.9.9, 10.1.2.3, 127.0.8.1"),
            ("203.0.113.7:4711", "203.0.113.7", "203.0.113.7, 127.0.8.1"),
            ("[2001:db8::7]:4711, 2001:db8:ffff::1", "2001:db8::7", "2001:db8::7, 2001:db8:ffff::1, 127.0.8.1"),
            ("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.7, 127.0.8.1"),
        ] {
            for channel in [&mut h1, &mut h2] {
                let answer = channel.send(echo(line), "").await.expect("an answer");
                assert_eq!(answer.told(), "200", "{line}");
                assert_eq!(seen(&answer, "x-forwarded-for"), [upward], "{line}");
                let forwarded = seen(&answer, "forwarded").concat();
                assert!(!forwarded.contains("6.6.6.6") && forwarded.contains(client), "{forwarded}");
                let record = event(&mut stage, &[r#""event":"request""#]).await;
                assert!(record.contains(&format!(r#""client":"{client}","peer":"127.0.8.1""#)), "{record}");
            }
        }
        let lines = browser("GET", "/echo")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-for", "203.0.113.7, 10.0.0.1")
            .header("x-forwarded-for", "10.0.0.2");
        let answer = h2.send(lines, "").await.expect("an answer");
        assert_eq!(seen(&answer, "x-forwarded-for"), ["203.0.113.7, 10.0.0.1, 10.0.0.2, 127.0.8.1"], "all lines are one list");
    });
}

#[test]
fn trap_x_forwarded_for_of_anybody_else_is_not_believed() {
    let mut stage = trusting("");
    run(async {
        let caller = Caller::new(&stage, DIRECT);
        for mut channel in [caller.h1().await, caller.h2().await] {
            for line in ["203.0.113.7", "10.0.0.1", "127.0.8.1", "garbage"] {
                let answer = channel.send(echo(line).header("forwarded", "for=6.6.6.6"), "").await.expect("an answer");
                assert_eq!(seen(&answer, "x-forwarded-for"), ["127.0.2.1"], "{line}");
                assert!(!seen(&answer, "forwarded").concat().contains("6.6.6.6"));
                let record = event(&mut stage, &[r#""event":"request""#]).await;
                assert!(record.contains(r#""client":"127.0.2.1""#), "{record}");
            }
            assert_eq!(channel.get("/").await.told(), "200", "and it needs none");
        }
    });
}

#[test]
fn a_trusted_proxys_request_without_a_usable_list_is_a_400() {
    let stage = trusting("");
    run(async {
        let caller = Caller::new(&stage, PROXY);
        for mut channel in [caller.h1().await, caller.h2().await] {
            let missing = channel.get("/").await;
            assert_eq!(missing.told(), "400 bad-request");
            for line in ["", " ", "unknown", "203.0.113.7,", "203.0.113.7, unknown", "203.0.113.256", "0.0.0.0", "_hidden", "a b"]
            {
                let answer = channel.send(echo(line), "").await.expect("an answer");
                assert_eq!(answer.told(), "400 bad-request", "{line:?}");
            }
            let endless = vec!["10.0.0.1"; 500].join(",");
            assert_eq!(channel.send(echo(&endless), "").await.expect("an answer").told(), "400 bad-request");
            let other = browser("GET", "/").header("forwarded", "for=203.0.113.7").header("x-real-ip", "203.0.113.7");
            assert_eq!(channel.send(other, "").await.expect("an answer").told(), "400 bad-request", "no other header will do");
            assert_eq!(channel.send(echo("203.0.113.7"), "").await.expect("an answer").told(), "200", "the connection lives on");
        }
    });
}

#[test]
fn guesses_and_bans_hold_the_real_client_and_never_the_proxy() {
    let mut stage = trusting("[guesses]\nper_client = { failures = 2, within = \"10m\" }\n");
    run(async {
        let proxy = Caller::new(&stage, PROXY);
        let mut channel = proxy.h2().await;
        let guess = |client: &str| form().header("x-forwarded-for", client.to_owned());
        for password in ["guess 1", "guess 2"] {
            let answer = channel.send(guess("203.0.113.7"), credentials("alice", password)).await.expect("an answer");
            assert_eq!(answer.status, 303);
        }
        let spent = channel.send(guess("203.0.113.7"), credentials("alice", "guess 3")).await.expect("an answer");
        assert!(["429 too-many-attempts", "403 banned"].contains(&spent.told().as_str()), "{}", spent.told());
        event(&mut stage, &[r#""event":"ban.made""#, "203.0.113.7"]).await;
        assert_eq!(of(&mut channel, "203.0.113.7").await.told(), "403 banned");
        assert_eq!(of(&mut channel, "203.0.113.8").await.told(), "200", "a neighbour behind the same proxy");
        let neighbour = channel.send(guess("203.0.113.8"), credentials("alice", "wrong")).await.expect("an answer");
        assert_eq!(neighbour.status, 303, "with a budget of his own");
        let list = told(&stage, &["bans", "list", "--json"]);
        assert!(list.contains("203.0.113.7") && !list.contains("127.0.8.1"), "{list}");
        assert_eq!(Caller::new(&stage, [8, 2]).send(echo("203.0.113.9"), "").await.told(), "200");

        let refused = doorward(&stage, &["bans", "add", "127.0.8.1", "--reason", "abuse"]);
        let after = of(&mut channel, "203.0.113.8").await.told();
        assert_eq!(after, "200", "{}", String::from_utf8_lossy(&refused.stderr));
    });
}

#[test]
fn trap_an_attacker_cannot_ban_a_victim_by_naming_him() {
    let mut stage = trusting("[guesses]\nper_client = { failures = 2, within = \"10m\" }\n");
    run(async {
        let attacker = Caller::new(&stage, DIRECT);
        let proxy = Caller::new(&stage, PROXY);
        for guess in 0..4 {
            let request = form().header("x-forwarded-for", "203.0.113.50");
            attacker.send(request, credentials("alice", &format!("wrong {guess}"))).await;
            // Through the proxy the attacker's own line stands left of what the proxy saw.
            let request = form().header("x-forwarded-for", "203.0.113.50, 203.0.113.66");
            proxy.send(request, credentials("alice", &format!("wrong {guess}"))).await;
        }
        event(&mut stage, &[r#""event":"ban.made""#, "203.0.113.66"]).await;
        assert_eq!(proxy.send(echo("203.0.113.50"), "").await.told(), "200", "the victim");
        assert_eq!(proxy.send(echo("203.0.113.66"), "").await.told(), "403 banned");
        assert_eq!(attacker.get("/").await.told(), "403 banned");
    });
}

#[test]
fn an_ipv6_client_is_its_prefix() {
    let stage = trusting("");
    run(async {
        let mut channel = Caller::new(&stage, PROXY).h2().await;
        told(&stage, &["bans", "add", "2001:db8:1:2::/64", "--for", "1h", "--reason", "abuse"]);
        assert_eq!(of(&mut channel, "2001:db8:1:2::1").await.told(), "403 banned");
        assert_eq!(of(&mut channel, "2001:db8:1:2:ffff::").await.told(), "403 banned");
        assert_eq!(of(&mut channel, "2001:db8:1:3::1").await.told(), "200");
    });
}

#[test]
fn drop_ends_the_one_request_and_leaves_the_proxys_connection_to_the_others() {
    let mut stage = trusting("[bans]\nanswer = \"explain\"\n");
    run(async {
        told(&stage, &["bans", "add", "203.0.113.7", "--for", "1h", "--reason", "abuse"]);
        assert!(rewrite(&stage, |text| text.replace("\"explain\"", "\"drop\"")).status.success());
        let proxy = Caller::new(&stage, PROXY);
        let mut h2 = proxy.h2().await;
        assert_eq!(of(&mut h2, "203.0.113.8").await.told(), "200");
        for _ in 0..30 {
            let dropped = h2.send(echo("203.0.113.7"), "").await.expect_err("no answer");
            assert!(!dropped.is_closed(), "the stream is reset, not the connection: {dropped}");
            assert_eq!(of(&mut h2, "203.0.113.8").await.told(), "200");
        }
        let record = event(&mut stage, &[r#""event":"request""#, r#""client":"203.0.113.7""#]).await;
        assert!(record.contains(r#""reason":"banned""#), "{record}");

        let mut h1 = proxy.h1().await;
        assert_eq!(of(&mut h1, "203.0.113.8").await.told(), "200");
        assert!(h1.send(echo("203.0.113.7"), "").await.is_err(), "over HTTP/1 only the connection can be closed");
        assert_eq!(proxy.send(echo("203.0.113.8"), "").await.told(), "200", "and the proxy may come again");
    });
}

/// `/echo` for a client behind the proxy.
async fn of(channel: &mut crate::support::caller::Channel, client: &str) -> Answer {
    channel.send(echo(client), "").await.expect("an answer")
}
