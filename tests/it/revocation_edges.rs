//! Promise: wherever a request waits when its right ends, it is ended; and nothing is told twice of whom it does not concern.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::caller::{Caller, until_closed};
use crate::support::underway::head;
use crate::support::upstream::Toy;
use crate::support::{BASE, LOGIN, Socket, Stage, event, open, rewrite, run, told};

/// An application that answers nothing at all, with one place for requests.
fn mute() -> (Stage, Toy) {
    let toy = Toy::start(|mut stream, _| async move { while head(&mut stream).await.is_some() {} });
    let site = toy.site_with("connections = 1\nqueue = \"50s\"\ntimeouts = { response = \"50s\" }", "login = \"form\"");
    (open(&format!("{}{LOGIN}{site}", patient())), toy)
}

#[test]
fn a_request_that_waits_for_its_body_its_turn_or_its_answer_is_ended_like_any_other() {
    let (mut stage, _toy) = mute();
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 40\r\n";
    run(async {
        // Each of another client, so that the end of one proves nothing of the next; the first takes the only place.
        let waits = [
            ("HEAD / HTTP/1.1\r\n", "", ""),
            ("GET /queued HTTP/1.1\r\n", "", ""),
            ("POST /login HTTP/1.1\r\n", form, "username=al"),
            ("POST /upload HTTP/1.1\r\n", "Expect: 100-continue\r\nContent-Length: 5\r\n", ""),
            ("POST /upload HTTP/1.1\r\n", "Transfer-Encoding: chunked\r\n", "4\r\nsome\r\n"),
        ];
        for (place, (line, more, body)) in (1..).zip(waits) {
            let mut client = Caller::new(&stage, [1, place]).shake().await.expect("a handshake");
            let ask = format!("{line}Host: localhost\r\nUser-Agent: Mozilla/5.0\r\n{more}\r\n{body}");
            client.write_all(ask.as_bytes()).await.expect("a reader");
            // A slow caller: it was decided long ago.
            tokio::time::sleep(Duration::from_millis(250)).await;
            told(&stage, &["bans", "add", &format!("127.0.1.{place}"), "--reason", "abuse"]);
            let ended = event(&mut stage, &[r#""event":"exchange.ended""#]).await;
            assert!(ended.contains(&format!(r#""client":"127.0.1.{place}""#)), "{line}: {ended}");
            let record = event(&mut stage, &[r#""event":"request""#, r#""cut":true"#]).await;
            assert!(record.contains(r#""reason":"banned""#), "{line}: {record}");
            let rest = until_closed(&mut client).await;
            assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 4"), "{line}");
        }
        // No attempt had been made: nothing of it was read whole.
        told(&stage, &["bans", "add", "127.0.1.9", "--reason", "the last"]);
        let next = event(&mut stage, &["\"event\":"]).await;
        assert!(!next.contains("login.attempt"), "{next}");
    });
}

#[test]
fn a_certificate_that_never_held_ends_nothing_and_is_told_once_however_often_it_is_judged() {
    let mut stage =
        open(&format!("{}{}", patient(), crate::support::OPEN_SITE.replace("hosts", "client_ca = [\"acme\"]\nhosts")));
    run(async {
        let stranger = Caller::new(&stage, [1, 1]).with("revoked").shake().await.expect("a handshake");
        let mut socket = Socket::open(stranger).await;
        event(&mut stage, &[r#""event":"certificate.refused""#, r#""in_handshake":false"#]).await;
        for round in 1..3 {
            assert!(rewrite(&stage, |text| text).status.success());
            // Once who came after it is out, it was judged anew: each worker reviews all of its own.
            let mut probes = Vec::new();
            for _ in 0..8 {
                probes.push(Socket::open(Caller::new(&stage, [1, 1 + round]).shake().await.expect("a handshake")).await);
            }
            told(&stage, &["bans", "add", &format!("127.0.1.{}", 1 + round), "--reason", "test"]);
            for mut probe in probes {
                until_closed(&mut probe.0).await;
            }
            socket.echo("still here").await.expect("an echo");
        }
        while let Ok(line) = stage.events.try_recv() {
            assert!(!line.contains("certificate.refused"), "told again: {line}");
        }
    });
}

fn patient() -> String {
    BASE.replace("body = \"2s\"", "body = \"60s\"")
}
