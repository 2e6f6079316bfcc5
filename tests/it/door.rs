//! Promise: whoever is silent, slow, greedy or broken at the door is let go in time, is told of, and holds up nobody else.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::caller::{Caller, Channel, alert, to_h2, until_closed};
use crate::support::{BASE, OPEN_SITE, Stage, browser, doorward, event, open, run, told};

/// One of the stage's deadlines with generous room for a busy machine.
const LET_GO: Duration = Duration::from_secs(12);
/// How often a slow caller gives a sign of life; well within every deadline.
const PACE: Duration = Duration::from_millis(150);

/// Every deadline one second, so that tests need not wait long for theirs.
fn hasty() -> String {
    let deadlines = r#"proxy_header = "1s"
handshake = "1s"
head = "1s"
body = "1s"
idle = "1s"
drain = "2s"
"#;
    let start = BASE.find("handshake = ").expect("deadlines");
    let end = BASE.find("[log]").expect("the log");
    format!("{}{deadlines}{}{OPEN_SITE}", &BASE[..start], &BASE[end..])
}

fn capped(caps: &str) -> String {
    format!("{BASE}[caps]\n{caps}\n{OPEN_SITE}")
}

#[test]
fn trap_a_silent_client_is_let_go_before_and_after_its_handshake() {
    let mut stage = open(&hasty());
    run(async {
        let unsecured = async {
            let mut silent = Caller::new(&stage, [2, 1]).tcp().await;
            assert_eq!(let_go(&mut silent).await, b"");
        };
        let secured = async |last: u8, protocol: &str| {
            let caller = Caller::new(&stage, [2, last]).alpn(&[protocol]);
            let told = let_go(&mut caller.shake().await.expect("a handshake")).await;
            assert!(!told.starts_with(b"HTTP/"), "{protocol}: {}", String::from_utf8_lossy(&told));
        };
        tokio::join!(unsecured, secured(2, "http/1.1"), secured(3, "h2"));
        all_told(
            &mut stage,
            &[
                &["connection.refused", "handshake-timeout", "127.0.2.1"],
                &["connection.refused", "idle-timeout", "127.0.2.2"],
                &["connection.refused", "idle-timeout", "127.0.2.3"],
            ],
        )
        .await;
    });
}

#[test]
fn trap_slowloris_byte_by_byte_is_measured_against_the_whole_hello_and_the_whole_head() {
    let mut stage = open(&hasty());
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "a".repeat(500));
    run(async {
        let caller = |last| Caller::new(&stage, [2, last]);
        let hello = async {
            // A record that announces 512 bytes of ClientHello and never gets there.
            let bytes = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0; 500]].concat();
            drip(&mut caller(1).tcp().await, &bytes).await;
        };
        let half = async {
            let mut half = caller(2).shake().await.expect("a handshake");
            half.write_all(b"GET / HTTP/1.1\r\nHost: local").await.expect("a reader");
            let_go(&mut half).await;
        };
        let head = async { drip(&mut caller(3).shake().await.expect("a handshake"), endless.as_bytes()).await };
        let second_head = async {
            let mut used = caller(4).shake().await.expect("a handshake");
            used.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a reader");
            used.read_exact(&mut [0; 12]).await.expect("an answer");
            drip(&mut used, endless.as_bytes()).await;
        };
        tokio::join!(hello, half, head, second_head);
        all_told(
            &mut stage,
            &[
                &["handshake-timeout", "127.0.2.1"],
                &["protocol.error", "head", "127.0.2.2"],
                &["protocol.error", "head", "127.0.2.3"],
                &["protocol.error", "head", "127.0.2.4"],
            ],
        )
        .await;
    });
}

#[test]
fn a_body_that_stalls_is_cut_and_one_that_is_only_slow_is_not() {
    let stage = open(&hasty());
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let stalled = async {
            let mut stream = caller.shake().await.expect("a handshake");
            let head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc";
            stream.write_all(head).await.expect("a reader");
            let answer = String::from_utf8_lossy(&let_go(&mut stream).await).into_owned();
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        };
        let slow = async {
            let mut stream = caller.shake().await.expect("a handshake");
            let head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2560\r\n\r\n";
            stream.write_all(head).await.expect("a reader");
            // Ten pieces: longer than the deadline in all, within it each.
            for letter in b'a'..=b'j' {
                tokio::time::sleep(PACE).await;
                stream.write_all(&[letter; 256]).await.expect("a reader");
            }
            let answer = String::from_utf8_lossy(&let_go(&mut stream).await).into_owned();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""body_bytes":2560"#), "{answer}");
        };
        let trickling = async {
            let mut stream = caller.shake().await.expect("a handshake");
            let head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2560\r\n\r\n";
            stream.write_all(head).await.expect("a reader");
            // The gateway may have hung up already.
            for _ in 0..10 {
                tokio::time::sleep(PACE).await;
                let _ = stream.write_all(b"a").await;
            }
            let answer = String::from_utf8_lossy(&let_go(&mut stream).await).into_owned();
            assert!(!answer.starts_with("HTTP/1.1 2"), "ten bytes are no progress: {answer}");
        };
        tokio::join!(stalled, slow, trickling);
    });
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_over_h1_and_its_one_stream_over_h2() {
    let mut stage = open(&hasty());
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let mut greedy = caller.shake().await.expect("a handshake");
        greedy.write_all(b"GET /download?mib=512 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a reader");
        event(&mut stage, &[r#""event":"protocol.error""#, "did not take its answer"]).await;
        let (mut socket, _) = greedy.into_inner();
        let told = tokio::time::timeout(LET_GO, tokio::io::copy(&mut socket, &mut tokio::io::sink())).await.expect("closed");
        let told = told.expect_err("not an end behind megabytes that the kernel would keep").kind();
        assert_eq!(told, std::io::ErrorKind::ConnectionReset);

        let mut channel = caller.h2().await;
        let mut request: Request<Full<Bytes>> = browser("GET", "/download?mib=512").body(Full::default()).expect("a request");
        to_h2(&mut request, "localhost");
        let held = channel.h2_sender().send_request(request).await.expect("an answer");
        assert_eq!(held.status(), 200);
        // Nothing of it is read: the window fills and stays full. The record says that it was cut.
        let line = event(&mut stage, &[r#""event":"request""#, r#""path":"/download""#, r#""protocol":"HTTP/2.0""#]).await;
        assert!(line.contains(r#""cut":true"#), "{line}");
        let mut body = held.into_body();
        let error = loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error.to_string(),
                None => panic!("the answer looks whole"),
            }
        };
        assert!(!error.is_empty());
        assert_eq!(channel.get("/").await.told(), "200", "the connection lives on");
    });
}

#[test]
fn an_idle_connection_is_closed_in_order_at_idle() {
    let mut stage = open(&hasty());
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let idle = async |mut channel: Channel| {
            assert_eq!(channel.get("/").await.told(), "200");
            let ended = tokio::time::timeout(LET_GO, channel.end).await.expect("let go").expect("a task");
            assert!(ended.is_ok(), "{ended:?}");
        };
        let used = async |mut channel: Channel| {
            for _ in 0..10 {
                assert_eq!(channel.get("/").await.told(), "200", "a connection in use is not idle");
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::join!(idle(caller.h1().await), idle(caller.h2().await), used(caller.h1().await), used(caller.h2().await));
        // Idleness is no event: the next one is that of the caller who comes after.
        let _ = caller.named("nobody.localhost").refusal().await;
        event(&mut stage, &["gateway.started"]).await;
        let told = event(&mut stage, &[r#""severity":"notice""#]).await;
        assert!(told.contains("unknown-server-name"), "{told}");
    });
}

#[test]
fn trap_an_h2_connection_is_not_kept_by_pings_nor_by_a_head_without_end() {
    let stage = open(&hasty());
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let (mut pinging, mut half) = (caller.h2_wire().await, caller.h2_wire().await);
        pinging.write_all(&preface()).await.expect("a reader");
        half.write_all(&[preface(), frame(HEADERS, END_STREAM, 1, &get_root())].concat()).await.expect("a reader");
        let (ping, more) = (frame(PING, 0, 0, &[7; 8]), frame(CONTINUATION, 0, 1, b""));
        tokio::join!(drip_frames(&mut pinging, &ping), drip_frames(&mut half, &more));
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn an_h2_body_that_stalls_ends_its_stream_and_no_other() {
    let stage = open(&hasty());
    run(async {
        let mut wire = Caller::new(&stage, [2, 1]).h2_wire().await;
        let stalled = frame(HEADERS, END_HEADERS, 1, &post_echo());
        let whole = frame(HEADERS, END_HEADERS | END_STREAM, 3, &get_root());
        wire.write_all(&[preface(), stalled, whole].concat()).await.expect("a reader");
        let ends = |frames: &[Frame], stream| {
            frames.iter().any(|frame| frame.stream == stream && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0))
        };
        let frames = frames_until(&mut wire, |frames| ends(frames, 1) && ends(frames, 3)).await;
        assert!(frames.iter().all(|frame| frame.kind != GOAWAY), "{frames:?}");
        let reset =
            |stream| frames.iter().any(|frame| frame.stream == stream && frame.kind == RST_STREAM && frame.payload != [0; 4]);
        assert!(!reset(3), "{frames:?}");
    });
}

#[test]
fn a_flood_of_pings_whose_answers_nobody_takes_is_cut() {
    let mut stage = open(&hasty());
    run(async {
        let mut wire = Caller::new(&stage, [2, 1]).h2_wire().await;
        wire.write_all(&preface()).await.expect("a reader");
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
        let flood = async { while wire.write_all(&pings).await.is_ok() {} };
        tokio::time::timeout(LET_GO, flood).await.expect("let go");
        event(&mut stage, &[r#""event":"protocol.error""#, r#""client":"127.0.2.1""#]).await;
        assert_eq!(Caller::new(&stage, [2, 2]).get("/").await.told(), "200");
    });
}

#[test]
fn one_client_holds_no_more_connections_than_its_cap_and_hurts_no_other() {
    let mut stage = open(&capped("connections_per_client = 4"));
    run(async {
        let (caller, other) = (Caller::new(&stage, [2, 1]), Caller::new(&stage, [2, 2]));
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut channel = caller.h1().await;
            assert_eq!(channel.get("/").await.told(), "200");
            held.push(channel);
        }
        for _ in 0..3 {
            assert!(caller.shake().await.is_err());
            event(&mut stage, &[r#""cause":"too-many-from-client""#, r#""peer":"127.0.2.1""#]).await;
        }
        assert!(caller.turned_away(stage.http()).await, "the plain port counts too");
        assert_eq!(other.get("/").await.told(), "200");
        for channel in &mut held {
            assert_eq!(channel.get("/").await.told(), "200", "what is open stays open");
        }
        drop(held.pop());
        freed(&caller).await;
    });
}

#[test]
fn all_clients_together_hold_no_more_connections_than_the_cap_and_accepting_goes_on_after_a_flood() {
    let mut stage = open(&capped("connections = 20\nconnections_per_client = 10"));
    run(async {
        let callers: Vec<_> = (1..=4).map(|last| Caller::new(&stage, [2, last])).collect();
        let mut held = Vec::new();
        for caller in &callers[..2] {
            for _ in 0..10 {
                held.push(caller.h1().await);
            }
        }
        for _ in 0..40 {
            for caller in &callers[2..] {
                assert!(caller.turned_away(stage.https()).await);
            }
        }
        event(&mut stage, &[r#""cause":"too-many-connections""#, "127.0.2.3"]).await;
        assert_eq!(held[0].get("/").await.told(), "200");
        drop(held);
        for caller in &callers {
            freed(caller).await;
        }
    });
}

#[test]
fn a_client_begins_no_more_handshakes_than_its_rate() {
    let mut stage = open(&capped("handshakes_per_client = \"5/min\""));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        for _ in 0..5 {
            caller.shake().await.expect("a handshake");
        }
        let error = caller.shake().await.expect_err("one too many");
        assert!(!alert(&error).contains("Alert"), "closed before any cryptography: {error}");
        event(&mut stage, &[r#""cause":"too-many-handshakes""#, r#""peer":"127.0.2.1""#]).await;
        assert_eq!(Caller::new(&stage, [2, 2]).get("/").await.told(), "200");
    });
}

#[test]
fn an_h2_connection_has_no_more_streams_at_a_time_than_its_cap() {
    let stage = open(&capped("streams = 5"));
    run(async {
        let mut wire = Caller::new(&stage, [2, 1]).h2_wire().await;
        // Streams that stay open: their bodies never end.
        let mut bytes = preface();
        for stream in (1..).step_by(2).take(8) {
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &post_echo()));
        }
        wire.write_all(&bytes).await.expect("a reader");
        let frames = frames_until(&mut wire, |frames| {
            frames.iter().filter(|frame| frame.kind == RST_STREAM).count() == 3 || frames.iter().any(|frame| frame.kind == GOAWAY)
        })
        .await;
        let advertised = frames.iter().find(|frame| frame.kind == SETTINGS && frame.flags == 0).expect("settings");
        let advertised = advertised.payload.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("the cap is told");
        assert_eq!(advertised[2..], 5u32.to_be_bytes());
        let refused: Vec<_> = frames.iter().filter(|frame| frame.kind == RST_STREAM).map(|frame| frame.stream).collect();
        assert!(refused == [11, 13, 15] || frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
    });
}

#[test]
fn more_headers_or_a_larger_head_than_the_cap_is_431_over_h1_and_h2() {
    let mut stage = open(&capped("headers = 20\nhead = \"16KiB\""));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        // `browser` and the client add three or four of their own.
        let many = |count: usize| (0..count).fold(browser("GET", "/"), |request, n| request.header(format!("x-{n}"), "1"));
        let large = |bytes: usize| browser("GET", "/").header("x-large", "a".repeat(bytes));
        let mut channels = [caller.h1().await, caller.h2().await];
        for channel in &mut channels {
            assert_eq!(channel.send(many(12), "").await.expect("an answer").status, 200);
            assert_eq!(channel.send(large(8_000), "").await.expect("an answer").status, 200);
        }
        for (what, request) in [("many", many(40)), ("large", large(20_000))] {
            let answer = caller.h1().await.send(request, "").await.expect("an answer");
            assert_eq!(answer.status, 431, "{what} over h1");
            event(&mut stage, &[r#""event":"protocol.error""#]).await;
        }
        for (what, request) in [("many", many(40)), ("large", large(20_000))] {
            let answer = channels[1].send(request, "").await.expect("an answer");
            assert_eq!(answer.status, 431, "{what} over h2");
        }
        assert_eq!(channels[1].get("/").await.told(), "200", "the connection lives on");
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 5);
    });
}

#[test]
fn a_body_over_the_cap_is_413_whether_it_says_so_or_not() {
    let stage = open(&capped("body = \"64KiB\""));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let body = |bytes: usize| "a".repeat(bytes);
        for h2 in [false, true] {
            let mut channel = if h2 { caller.h2().await } else { caller.h1().await };
            let exact = channel.send(browser("POST", "/echo"), body(64 << 10)).await.expect("an answer");
            assert_eq!(exact.told(), "200", "h2 {h2}");
            let seen = stage.portal.seen.requests.load(Ordering::SeqCst);
            let mut channel = if h2 { caller.h2().await } else { caller.h1().await };
            let over = channel.send(browser("POST", "/echo"), body((64 << 10) + 1)).await.expect("an answer");
            assert_eq!(over.told(), "413 too-large", "h2 {h2}");
            assert!(String::from_utf8_lossy(&over.body).contains(r#""limit":"body""#));
            assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), seen, "what says so is not forwarded");
        }
        let mut chunked = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..17 {
            chunked.extend(b"1000\r\n");
            chunked.extend([b'a'; 0x1000]);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        chunked.extend(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = caller.raw(&chunked).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "the connection is not used again: {answer}");
    });
}

#[test]
fn a_ban_is_explained_or_drops_the_connection_before_tls() {
    let mut stage = open(&format!("{BASE}[bans]\nanswer = \"explain\"\n{OPEN_SITE}"));
    run(async {
        let (caller, other) = (Caller::new(&stage, [2, 1]), Caller::new(&stage, [2, 2]));
        let mut open_before = caller.h2().await;
        assert_eq!(open_before.get("/").await.told(), "200");
        told(&stage, &["bans", "add", "127.0.2.1", "--for", "2h", "--reason", "abuse"]);
        for answer in [open_before.get("/").await, caller.get("/").await, caller.h2().await.get("/").await] {
            assert_eq!(answer.told(), "403 banned");
            let wait: u64 = answer.header("retry-after").parse().expect("seconds");
            // A ban ends on a whole second, not before its time.
            assert!((7100..=7201).contains(&wait), "{wait}");
        }
        assert_eq!(other.get("/").await.told(), "200");

        let reload = crate::support::rewrite(&stage, |text| text.replace("\"explain\"", "\"drop\""));
        assert!(reload.status.success());
        assert!(caller.turned_away(stage.https()).await, "before a byte is read");
        assert!(caller.shake().await.is_err());
        event(&mut stage, &[r#""event":"connection.refused""#, r#""cause":"banned""#, r#""peer":"127.0.2.1""#]).await;
        assert!(open_before.send(browser("GET", "/"), "").await.is_err(), "an open connection is not answered either");
        assert!(caller.turned_away(stage.http()).await, "nor is the plain port");
        assert_eq!(other.get("/").await.told(), "200");
        told(&stage, &["bans", "lift", "127.0.2.1", "--reason", "called"]);
        assert_eq!(caller.get("/").await.told(), "200");
    });
}

#[test]
fn an_always_banned_net_is_refused_and_a_never_banned_one_cannot_be_banned() {
    let stage = open(&format!("{BASE}[bans]\nalways = [\"127.0.2.0/30\"]\nnever = [\"127.0.3.0/24\"]\n{OPEN_SITE}"));
    run(async {
        assert_eq!(Caller::new(&stage, [2, 1]).get("/").await.told(), "403 banned");
        assert_eq!(Caller::new(&stage, [2, 5]).get("/").await.told(), "200");
        let refused = doorward(&stage, &["bans", "add", "127.0.3.1", "--reason", "abuse"]);
        let answer = Caller::new(&stage, [3, 1]).get("/").await.told();
        assert_eq!(answer, "200", "{}", String::from_utf8_lossy(&refused.stderr));
    });
}

#[test]
fn trap_rapid_reset_ends_the_connection() {
    let mut stage = open(&capped("streams = 100"));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        let mut wire = caller.h2_wire().await;
        let mut bytes = preface();
        for stream in (1..).step_by(2).take(400) {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_root()));
            bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        wire.write_all(&bytes).await.expect("a reader");
        let ended = ended(&mut wire).await;
        assert_eq!(ended, Some(ENHANCE_YOUR_CALM));
        event(&mut stage, &[r#""event":"protocol.error""#, r#""client":"127.0.2.1""#]).await;
        assert!(stage.portal.seen.requests.load(Ordering::SeqCst) < 100);
        assert_eq!(caller.get("/").await.told(), "200");
    });
}

#[test]
fn trap_resets_that_the_client_provokes_end_the_connection() {
    let mut stage = open(&capped("streams = 100"));
    run(async {
        let mut wire = Caller::new(&stage, [2, 1]).h2_wire().await;
        let mut bytes = preface();
        for stream in (1..).step_by(2).take(400) {
            // A window update of nothing is the stream's error, which the gateway must answer with a reset (MadeYouReset).
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &post_echo()));
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()));
        }
        wire.write_all(&bytes).await.expect("a reader");
        assert!(ended(&mut wire).await.is_some_and(|code| code != 0));
        event(&mut stage, &[r#""event":"protocol.error""#]).await;
        assert!(stage.portal.seen.requests.load(Ordering::SeqCst) <= 200);
    });
}

#[test]
fn trap_continuation_flood_ends_the_connection() {
    let mut stage = open(&capped("streams = 100"));
    run(async {
        let wire = Caller::new(&stage, [2, 1]).h2_wire().await;
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_STREAM, 1, &get_root()));
        // Literal fields that are never indexed, one a frame, without end.
        let field = [&[0x10, 5][..], b"x-fil", &[100], &[b'a'; 100]].concat();
        for _ in 0..5_000 {
            bytes.extend(frame(CONTINUATION, 0, 1, &field));
        }
        let (mut from, mut to) = tokio::io::split(wire);
        let writing = tokio::spawn(async move { to.write_all(&bytes).await });
        let code = ended(&mut from).await;
        assert!(code.is_none_or(|code| code != 0), "{code:?}");
        drop(from);
        let _ = writing.await;
        event(&mut stage, &[r#""event":"protocol.error""#]).await;
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_broken_h2_preface_ends_the_connection_with_an_event() {
    let mut stage = open(&capped("streams = 100"));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        for garbage in [&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[0xff; 64]] {
            let mut wire = caller.h2_wire().await;
            wire.write_all(garbage).await.expect("a reader");
            let told = tokio::time::timeout(LET_GO, until_closed(&mut wire)).await.expect("let go");
            assert!(!told.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&told));
            event(&mut stage, &[r#""event":"protocol.error""#, r#""client":"127.0.2.1""#]).await;
        }
        // A frame larger than was agreed, a frame on stream 0 that has no place there.
        for bad in [frame(HEADERS, END_HEADERS, 1, &vec![0; 20_000]), frame(HEADERS, END_HEADERS, 0, &get_root())] {
            let mut wire = caller.h2_wire().await;
            wire.write_all(&[preface(), bad].concat()).await.expect("a reader");
            assert!(ended(&mut wire).await.is_some_and(|code| code != 0));
            event(&mut stage, &[r#""event":"protocol.error""#]).await;
        }
        assert_eq!(caller.get("/").await.told(), "200");
    });
}

#[test]
fn what_is_not_http_1_gets_a_bare_400_and_an_event() {
    let mut stage = open(&capped("streams = 100"));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        for (what, bytes) in [
            ("garbage", &b"\x00\x01\x02\x03\r\n\r\n"[..]),
            ("a header without a colon", b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n"),
            ("a blank before the colon", b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n"),
            ("a folded header", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n c\r\n\r\n"),
            ("two lengths", b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            (
                "an odd transfer coding",
                b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
            ),
            ("a NUL in a value", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\x00c\r\n\r\n"),
            ("a version of the future", b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n"),
        ] {
            let answer = caller.raw(bytes).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{what}: {answer}");
            let line = event(&mut stage, &[r#""severity":"notice""#, "127.0.2.1"]).await;
            assert!(line.contains("protocol.error") || line.contains("bad-request"), "{what}: {line}");
        }
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 0);
    });
}

/// Waits until each list of texts was found in an event's line, in whatever order they come.
async fn all_told(stage: &mut Stage, wanted: &[&[&str]]) {
    let mut left = wanted.to_vec();
    while !left.is_empty() {
        let line = event(stage, &[]).await;
        left.retain(|texts| !texts.iter().all(|text| line.contains(text)));
    }
}

/// Sends a byte at a time until the gateway lets go, in spite of every sign of life.
async fn drip(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    let (mut from, mut to) = tokio::io::split(stream);
    let sent = async {
        for byte in bytes {
            if to.write_all(&[*byte]).await.is_err() || to.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
        panic!("the whole head was taken");
    };
    tokio::select! {
        () = sent => {}
        let_go = tokio::time::timeout(LET_GO, until_closed(&mut from)) => drop(let_go.expect("let go")),
    }
}

/// Sends a frame over and over until the gateway lets go, in spite of every sign of life.
async fn drip_frames(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), frame: &[u8]) {
    let (mut from, mut to) = tokio::io::split(stream);
    let sent = async {
        while to.write_all(frame).await.is_ok() && to.flush().await.is_ok() {
            tokio::time::sleep(PACE).await;
        }
    };
    let (_, told) = tokio::join!(sent, tokio::time::timeout(LET_GO, until_closed(&mut from)));
    told.expect("let go");
}

async fn let_go(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    tokio::time::timeout(LET_GO, until_closed(stream)).await.expect("let go")
}

/// The gateway hears of a closed connection a moment later than its client.
async fn freed(caller: &Caller) {
    for _ in 0..200 {
        if let Ok(stream) = caller.shake().await {
            let answer = Channel::over_h1(stream, "localhost".to_owned()).await.get("/").await;
            assert_eq!(answer.status, StatusCode::OK);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no place became free");
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One HTTP/2 frame as it came.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn preface() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, b"")].concat()
}

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https://localhost/`, by HPACK's static table.
fn get_root() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x01, 9][..], b"localhost"].concat()
}

/// `POST https://localhost/echo`.
fn post_echo() -> Vec<u8> {
    [&[0x83, 0x87, 0x04, 5][..], b"/echo", &[0x01, 9], b"localhost"].concat()
}

async fn next_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream_id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream_id), payload })
}

async fn frames_until(stream: &mut (impl AsyncRead + Unpin), enough: impl Fn(&[Frame]) -> bool) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !enough(&frames) {
        let next = tokio::time::timeout(LET_GO, next_frame(stream)).await.unwrap_or_else(|_| panic!("only {frames:?}"));
        frames.push(next.unwrap_or_else(|| panic!("closed after {frames:?}")));
    }
    frames
}

/// The last error code of a GOAWAY before the end.
async fn ended(stream: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut code = None;
    while let Some(frame) = tokio::time::timeout(LET_GO, next_frame(stream)).await.expect("let go") {
        if frame.kind == GOAWAY {
            code = frame.payload.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
        }
    }
    code
}
