//! TLS: what is old or broken is refused with an alert, and what is slow, large or many is bounded.

use std::io::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::Door;
use crate::common::hello::{Hello, Said, handshake, record, refused, said};
use crate::common::recorder::Recorder;
use crate::common::rehandshake::try_all;
use crate::support::{BASE, OPEN_SITE, Stage, open, run};

async fn stage() -> (Stage, Door) {
    let stage = tokio::task::spawn_blocking(|| open(&format!("{BASE}{OPEN_SITE}"))).await.expect("a stage");
    let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
    (stage, door)
}

/// What a gateway answers to bytes, until it pauses after its hello or closes.
async fn answer(door: &Door, from: [u8; 2], bytes: &[u8]) -> Vec<u8> {
    let mut stream = door.tcp(from).await.expect("a connection");
    // The gateway may have closed amid what it refuses.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let whole = |answer: &[u8]| {
        answer.get(3..5).is_some_and(|size| answer.len() >= 5 + usize::from(size[0]) * 256 + usize::from(size[1]))
    };
    while !whole(&answer) {
        match crate::common::within(stream.read_buf(&mut answer)).await.expect("in time") {
            Ok(1..) => {}
            _ => break,
        }
    }
    answer
}

#[test]
fn old_versions_suites_and_compression_are_refused_with_an_alert() {
    run(async {
        let (stage, door) = stage().await;
        let mut differ = Vec::new();
        for (place, (name, bytes, alerts)) in (1..).zip(refused()) {
            let answer = answer(&door, [120, place], &bytes).await;
            // Some things are not worth an alert.
            let right = match said(&answer) {
                Said::Alert(alert) => alerts.contains(&alert),
                Said::Nothing => alerts.contains(&10),
                _ => false,
            };
            if !right {
                differ.push(format!("{name}: {:?}, expected alerts {alerts:?}", said(&answer)));
            }
        }
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn a_hello_in_any_pieces_is_one_hello_and_compression_is_never_chosen() {
    run(async {
        let (stage, door) = stage().await;
        let hello = Hello::default();
        assert_eq!(said(&answer(&door, [121, 1], &hello.records(16_384)).await), Said::Hello);
        for (place, size) in (2..).zip([1, 7, 100]) {
            let pieces = answer(&door, [121, place], &hello.records(size)).await;
            assert!(matches!(said(&pieces), Said::Hello | Said::Alert(_)), "records of {size}: {:?}", said(&pieces));
        }
        let mut stream = door.tcp([121, 9]).await.expect("a connection");
        for byte in hello.records(16_384) {
            stream.write_all(&[byte]).await.expect("sent");
        }
        let mut first = [0; 6];
        stream.read_exact(&mut first).await.expect("an answer");
        assert_eq!(said(&first), Said::Hello, "a segment a byte");
        let compressed = Hello { versions: &[], compressions: &[1, 0], ..Hello::default() };
        let answered = answer(&door, [121, 10], &compressed.records(16_384)).await;
        if said(&answered) == Said::Hello {
            let session = usize::from(answered[43]);
            assert_eq!(answered[43 + 1 + session + 2], 0, "no compression");
        }
        let padded = Hello { padding: 12_000, ..Hello::default() };
        assert!(matches!(said(&answer(&door, [121, 11], &padded.records(4_000)).await), Said::Hello | Said::Alert(_)));
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn trap_early_data_renegotiation_and_floods_around_the_handshake_are_refused_and_small_records_are_not() {
    run(async {
        let recorder = Recorder::start().await.expect("a recorder");
        let text = BASE.replace("{portal}", &recorder.address.to_string());
        let stage = tokio::task::spawn_blocking(move || open(&format!("{text}{OPEN_SITE}"))).await.expect("a stage");
        let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
        let tried = try_all(&door, &recorder).await;
        let differ: Vec<_> = tried.iter().filter(|tried| tried.seen != tried.expected).collect();
        let differ: Vec<_> =
            differ.iter().map(|tried| format!("{}: {}, expected {}", tried.name, tried.seen, tried.expected)).collect();
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn slowloris_a_slow_or_endless_hello_is_cut_within_the_handshake_deadline() {
    run(async {
        let (stage, door) = stage().await;
        let started = tokio::time::Instant::now();
        let mut slow = door.tcp([122, 1]).await.expect("a connection");
        let hello = Hello::default().records(16_384);
        let (half, _) = hello.split_at(hello.len() / 2);
        slow.write_all(half).await.expect("sent");
        let mut endless = door.tcp([122, 2]).await.expect("a connection");
        endless.write_all(&record(22, &handshake(1, 60_000, &[0; 100]))).await.expect("sent");
        let drip = async {
            while endless.write_all(&record(22, &[0])).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let silent = async {
            let mut rest = Vec::new();
            let _ = slow.read_to_end(&mut rest).await;
        };
        tokio::join!(drip, silent);
        // The stage's handshake deadline is 2 s.
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn thousands_of_half_open_handshakes_are_bounded_and_hold_nobody_else() {
    run(async {
        let (stage, door) = stage().await;
        let mut half = Vec::new();
        for place in 0..1500_u32 {
            let mut stream = door.tcp([123, 1 + (place / 25) as u8]).await.expect("a connection");
            stream.write_all(&[22, 3, 1]).await.expect("sent");
            half.push(stream);
        }
        let honest = door.tls([124, 1], "h2").await;
        assert!(honest.is_ok(), "an honest client beside them: {:?}", honest.err());
        for mut stream in half {
            let mut rest = Vec::new();
            // An alert, a reset or the end: in any case it is over.
            let _ = crate::common::within(stream.read_to_end(&mut rest)).await.expect("cut");
        }
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

/// Read with what came before it, the failure must not wait until the client speaks again.
#[test]
fn a_broken_record_right_behind_a_good_one_ends_the_connection_at_once() {
    run(async {
        let (stage, door) = stage().await;
        // More than is read at first, so that what is good is handed on before the rest comes.
        let broken = record(23, &[0x5a; 5000]);
        let head = b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let ping = b"\0\0\x08\x06\0\0\0\0\0pingping";
        for (place, alpn, first, good) in [(1, "http/1.1", &head[..], &head[..]), (2, "h2", settings, ping)] {
            let mut stream = door.tls([125, place], alpn).await.expect("a session");
            // Until it was answered it has tickets to send, and looks for more by itself.
            stream.write_all(first).await.expect("sent");
            crate::common::within(stream.read_u8()).await.expect("in time").expect("an answer");
            let (socket, session) = stream.get_mut();
            let mut segment = Vec::new();
            session.writer().write_all(good).expect("room");
            session.write_tls(&mut segment).expect("a record");
            segment.extend_from_slice(&broken);
            socket.write_all(&segment).await.expect("sent");
            let mut rest = Vec::new();
            // The end or a reset; at rest it would be kept for longer than this waits.
            let _ = crate::common::within(socket.read_to_end(&mut rest)).await.expect("closed");
        }
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}
