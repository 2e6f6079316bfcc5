//! HTTP/2: floods end the connection with an event and hurt nobody else; what would be two requests in HTTP/1 is refused.

use std::time::Duration;

use crate::common::Door;
use crate::common::floods::{Flooded, ask, cases, floods, play, prefaces};
use crate::common::h2::{
    DATA, END_HEADERS, END_STREAM, Ended, Framed, GOAWAY, HEADERS, PREFACE, RST_STREAM, WINDOW_UPDATE, block, frame, get, pseudo,
    settings,
};
use crate::common::honest::Honest;
use crate::common::recorder::{Arrived, Recorder};
use crate::support::process::lines_with;
use crate::support::upstream::{OK, Toy};
use crate::support::{BASE, OPEN_SITE, Stage, event, open, run};

/// A stage before a recorder, in its own time.
async fn recorded() -> (Stage, Door, Recorder) {
    let recorder = Recorder::start().await.expect("a recorder");
    let text = BASE.replace("{portal}", &recorder.address.to_string());
    let stage = tokio::task::spawn_blocking(move || open(&format!("{text}{OPEN_SITE}"))).await.expect("a stage");
    let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
    (stage, door, recorder)
}

#[test]
fn trap_every_http2_flood_ends_with_an_event_and_honest_clients_beside_it_are_untouched() {
    run(async {
        let (mut stage, door, _recorder) = recorded().await;
        let honest = Honest::start(&door, 8, 40).await.expect("honest clients");
        let mut differ = Vec::new();
        for (place, flood) in (1..).zip(floods()) {
            let started = tokio::time::Instant::now();
            let played = play(&door, &flood, [110, place]).await;
            println!("{}: {played:?} in {:?}", flood.name, started.elapsed());
            match played {
                Ok(Flooded::Ended { .. }) => {
                    event(&mut stage, &["\"event\":\"protocol.error\"", &format!("127.0.110.{place}\"")]).await;
                }
                other => differ.push(format!("{}: {other:?}", flood.name)),
            }
        }
        let fared = honest.fared().await;
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        assert!(fared.well(Duration::from_secs(5)), "{fared:?}");
    });
}

#[test]
fn trap_no_http2_request_smuggles_another_or_breaks_the_rules_of_fields() {
    run(async {
        let (mut stage, door, recorder) = recorded().await;
        let mut differ = Vec::new();
        for (place, case) in (1..).zip(cases()) {
            let ended = ask(&door, &case, [111, place]).await;
            if matches!(ended, Ok(Ended::Reset(1 | 3..) | Ended::GoAway(1..))) {
                event(&mut stage, &["\"event\":\"protocol.error\"", &format!("127.0.111.{place}\"")]).await;
            }
            let arrived = recorder.take().await;
            let whole = case.upstream.clone().map(Arrived::Whole);
            let right = match (&ended, &whole) {
                (Ok(Ended::Answered(200)), Some(sent)) => arrived == [sent.clone()],
                (Ok(Ended::Answered(400 | 421 | 404 | 431) | Ended::Reset(_) | Ended::GoAway(_)), None) => {
                    // What was on its way when its length turned out wrong is cut.
                    arrived.iter().all(|arrived| matches!(arrived, Arrived::Cut(_)))
                }
                _ => false,
            };
            if !right {
                differ.push(format!("{}: {ended:?}, upstream {arrived:?}", case.name));
            }
        }
        let lines = tokio::task::spawn_blocking(move || {
            stage.close().expect("it ends well");
            lines_with(&stage.folder.path().join("state/access.log"), &["127.0.111."])
        });
        let lines = lines.await.expect("closed");
        for (place, case) in (1..).zip(cases()) {
            let client = format!("\"client\":\"127.0.111.{place}\"");
            let records: Vec<&String> = lines.iter().filter(|line| line.contains(&client)).collect();
            if records.len() != 1 || !records[0].contains("HTTP/2") {
                differ.push(format!("{}: records {records:?}", case.name));
            }
        }
        assert!(differ.is_empty(), "{} cases differ:\n{}", differ.len(), differ.join("\n"));
    });
}

#[test]
fn trap_an_upload_whose_stream_is_reset_is_cut_upstream_whatever_the_code() {
    run(async {
        let (stage, door, recorder) = recorded().await;
        for (place, code) in (1..).zip([0_u32, 8, 2]) {
            for length in [None, Some(&b"100"[..])] {
                let fields = length.map(|length| ("content-length", length));
                let fields: Vec<_> = pseudo("POST", "/f").into_iter().chain(fields).collect();
                let mut framed = Framed::open(&door, [114, place]).await.expect("a handshake");
                let half = [frame(HEADERS, END_HEADERS, 1, &block(&fields)), frame(DATA, 0, 1, b"half of it")].concat();
                framed.send(&half).await.expect("sent");
                recorder.begun().await.expect("it is on its way");
                framed.send(&frame(RST_STREAM, 0, 1, &code.to_be_bytes())).await.expect("sent");
                let arrived = recorder.take().await;
                assert!(matches!(arrived[..], [Arrived::Cut(_)]), "code {code}, length {length:?}: {arrived:?}");
            }
        }
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn a_broken_preface_ends_with_close_notify() {
    run(async {
        let (stage, door, recorder) = recorded().await;
        for (place, (name, bytes)) in (1..).zip(prefaces()) {
            let mut framed = Framed::silent(&door, [112, place]).await.expect("a handshake");
            framed.send(&bytes).await.expect("sent");
            let (_, ended) = framed.farewell().await;
            assert_eq!(ended, Ended::Closed, "{name}");
        }
        assert_eq!(recorder.take().await, [], "nothing went up");
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn a_client_that_grants_no_window_is_cut_within_the_body_deadline() {
    run(async {
        let (mut stage, door, _recorder) = recorded().await;
        let mut framed = Framed::silent(&door, [113, 1]).await.expect("a handshake");
        let requests: Vec<u8> = (0..20).flat_map(|at| get(at * 2 + 1, "/f")).collect();
        framed.send(&[PREFACE, &settings(&[(1, 0), (4, 0)]), &requests].concat()).await.expect("sent");
        let mut heads = 0;
        while let Ok(Some(frame)) = framed.frame().await {
            heads += usize::from(frame.kind == HEADERS);
            assert!(frame.kind != DATA || frame.payload.is_empty(), "a body went out against the window");
        }
        assert_eq!(heads, 20);
        event(&mut stage, &["\"event\":\"protocol.error\"", "127.0.113.1\"", "did not take its answer"]).await;
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
    });
}

#[test]
fn trap_slowloris_answers_that_h2_holds_whole_do_not_outlast_their_deadline_beside_requests_that_are_answered() {
    let (toy, _) = Toy::answering(|heard| {
        let path = heard.head.split(' ').nth(1).unwrap_or_default();
        let chunked =
            |end| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{end}\r\n").into_bytes();
        match path {
            "/chunks" => chunked(""),
            "/trailers" => chunked("x-trailer: 1\r\n"),
            _ => OK.to_vec(),
        }
    });
    let mut stage = open(&format!("{BASE}{}", toy.site()));
    let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
    let leaves_answers = async |place: u8, path: &str| {
        let mut framed = Framed::silent(&door, [115, place]).await.expect("a handshake");
        framed.send(&[PREFACE, &settings(&[(1, 0), (4, 1)])].concat()).await.expect("sent");
        framed.send(&[get(1, path), get(3, path), get(5, path)].concat()).await.expect("sent");
        let mut answered = 0;
        let leaves = async {
            for stream in (7..).step_by(2) {
                let window = frame(WINDOW_UPDATE, 0, stream, &60_000_u32.to_be_bytes());
                framed.send(&[get(stream, "/"), window].concat()).await.expect("sent");
                loop {
                    let came = framed.frame().await.expect("it is ended with a GOAWAY").expect("it is ended with a GOAWAY");
                    if came.kind == GOAWAY {
                        return;
                    }
                    if came.stream == stream && came.kind == DATA && came.flags & END_STREAM != 0 {
                        break;
                    }
                }
                answered += 1;
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), leaves)
            .await
            .unwrap_or_else(|_| panic!("{path}: nobody asked it to leave"));
        assert!(answered > 5, "{path}: {answered}");
        let ended = framed.farewell().await.1;
        assert!(matches!(ended, Ended::Closed | Ended::Broken), "{path}: {ended:?}");
    };
    run(async {
        tokio::join!(leaves_answers(1, "/"), leaves_answers(2, "/chunks"), leaves_answers(3, "/trailers"));
        for _ in 1..=3 {
            event(&mut stage, &["\"event\":\"protocol.error\"", "did not take its answer", "127.0.115."]).await;
        }
    });
}

#[test]
fn a_connect_with_a_body_is_told_as_not_taken_and_not_as_a_head_that_is_too_large() {
    run(async {
        let (mut stage, door, recorder) = recorded().await;
        let mut framed = Framed::open(&door, [116, 1]).await.expect("a handshake");
        let fields: [(&str, &[u8]); 3] = [(":method", b"CONNECT"), (":authority", b"localhost"), ("content-length", b"5")];
        framed.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await.expect("sent");
        assert_eq!(framed.farewell().await, (None, Ended::Closed));
        event(&mut stage, &["\"event\":\"protocol.error\"", "127.0.116.1\"", "not taken"]).await;
        assert_eq!(recorder.take().await, [], "nothing went up");
        let lines = tokio::task::spawn_blocking(move || {
            stage.close().expect("it ends well");
            lines_with(&stage.folder.path().join("state/access.log"), &["127.0.116.1"])
        });
        let lines = lines.await.expect("closed");
        assert!(lines.len() == 1 && lines[0].contains("\"status\":0") && lines[0].contains("not taken"), "{lines:?}");
    });
}
