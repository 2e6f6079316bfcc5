//! HTTP/2 floods beside 64 honest clients at 200 requests a second, and requests that would be two in HTTP/1.

use std::time::{Duration, Instant};

use crate::common::floods::{Flooded, ask, cases, floods, play as flood, prefaces};
use crate::common::h2::{Ended, Framed, PREFACE, get, settings};
use crate::common::honest::Honest;
use crate::common::recorder::{Arrived, Recorder};
use crate::report::{OPEN, Report};

/// The honest clients: how many, how often in all, and what their worst answer may take while somebody floods.
const CLIENTS: u8 = 64;
const PER_SECOND: u32 = 200;
const WORST: Duration = Duration::from_millis(1500);

pub fn play(report: &mut Report) {
    rules(report);
    goodbyes(report);
    for (place, one) in (1..).zip(floods()) {
        let recorder = report.run(Recorder::start()).expect("a recorder");
        let gateway = report.open(OPEN, recorder.address);
        let door = gateway.door();
        let started = Instant::now();
        let (played, fared) = report.run(async {
            let honest = Honest::start(&door, CLIENTS, PER_SECOND).await.expect("honest clients");
            let played = flood(&door, &one, [110, place]).await;
            // A second of it at least.
            tokio::time::sleep(Duration::from_secs(1)).await;
            (played, honest.fared().await)
        });
        let told = gateway
            .events()
            .lines()
            .any(|line| line.contains("protocol.error") && line.contains(&format!("127.0.110.{place}\"")));
        let (seen, ended) = match played {
            Ok(Flooded::Ended { after, goaway, how }) => {
                let goaway = goaway.map_or_else(String::new, |code| format!(" GOAWAY {code},"));
                (format!("ended within {after} units,{goaway} {how:?}, {} ms", started.elapsed().as_millis()), true)
            }
            Ok(Flooded::Survived) => ("survived".to_owned(), false),
            Err(error) => (error.to_string(), false),
        };
        let seen = if told { seen } else { format!("{seen}, no event") };
        let held = ended && told && fared.well(WORST);
        report.tell(&format!("flood: {}", one.name), "ended, with an event", &seen, held, Some(&gateway), Some(fared));
    }
    stalls(report);
}

fn rules(report: &mut Report) {
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(OPEN, recorder.address);
    for (place, case) in (1..).zip(cases()) {
        let (ended, arrived) = report.run(async { (ask(&gateway.door(), &case, [111, place]).await, recorder.take().await) });
        let held = match (&ended, &case.upstream) {
            (Ok(Ended::Answered(200)), Some(sent)) => arrived == [Arrived::Whole(sent.clone())],
            (Ok(Ended::Answered(400..500) | Ended::Reset(_) | Ended::GoAway(_)), None) => {
                arrived.iter().all(|arrived| matches!(arrived, Arrived::Cut(_)))
            }
            _ => false,
        };
        let expected = if case.upstream.is_some() { "passed on as one request" } else { "refused, nothing upstream" };
        let seen = ended.map_or_else(|error| error.to_string(), |ended| format!("{ended:?}, {} upstream", arrived.len()));
        report.tell(&format!("rule: {}", case.name), expected, &seen, held, Some(&gateway), None);
    }
}

fn goodbyes(report: &mut Report) {
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(OPEN, recorder.address);
    for (place, (name, bytes)) in (1..).zip(prefaces()) {
        let seen = report.run(async {
            let mut framed = Framed::silent(&gateway.door(), [112, place]).await?;
            framed.send(&bytes).await?;
            Ok::<_, std::io::Error>(framed.farewell().await.1)
        });
        let seen = match seen {
            Ok(Ended::Closed) => "close_notify".to_owned(),
            other => format!("{other:?}"),
        };
        report.judge(&format!("preface: {name}"), "close_notify", &seen, Some(&gateway), None);
    }
}

fn stalls(report: &mut Report) {
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(OPEN, recorder.address);
    let started = Instant::now();
    let ended = report.run(async {
        let mut framed = Framed::silent(&gateway.door(), [113, 1]).await?;
        let requests: Vec<u8> = (0..100).flat_map(|at| get(at * 2 + 1, "/f")).collect();
        framed.send(&[PREFACE, &settings(&[(1, 0), (4, 0)]), &requests].concat()).await?;
        Ok::<_, std::io::Error>(framed.farewell().await.1)
    });
    let took = started.elapsed();
    let held = matches!(ended, Ok(Ended::Closed | Ended::Broken)) && took < Duration::from_secs(6);
    report.tell(
        "a client without a window",
        "ended within its body deadline of 2 s",
        &format!("{ended:?} after {} ms", took.as_millis()),
        held,
        Some(&gateway),
        None,
    );
}
