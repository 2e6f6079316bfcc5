//! Raw ClientHellos: what is old or broken gets its alert, half-open handshakes are bounded.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::hello::{Said, refused, said};
use crate::common::honest::Honest;
use crate::common::recorder::Recorder;
use crate::common::rehandshake::try_all;
use crate::common::within;
use crate::report::{OPEN, Report};

/// Half-open handshakes at once.
const HALF_OPEN: u32 = 4000;

pub fn play(report: &mut Report) {
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(OPEN, recorder.address);
    let door = gateway.door();
    for (place, (name, bytes, alerts)) in (1..).zip(refused()) {
        let answer = report.run(async {
            let mut stream = door.tcp([120, place]).await?;
            // The gateway may have closed amid what it refuses.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            while answer.len() < 7 && matches!(within(stream.read_buf(&mut answer)).await?, Ok(1..)) {}
            Ok::<_, std::io::Error>(answer)
        });
        let seen = answer.map(|answer| said(&answer));
        let held = match seen {
            Ok(Said::Alert(alert)) => alerts.contains(&alert),
            Ok(Said::Nothing) => alerts.contains(&10),
            _ => false,
        };
        report.tell(
            &format!("hello: {name}"),
            &format!("one of the alerts {alerts:?}"),
            &format!("{seen:?}"),
            held,
            Some(&gateway),
            None,
        );
    }
    for tried in report.run(try_all(&door, &recorder)) {
        report.judge(tried.name, tried.expected, &tried.seen, Some(&gateway), None);
    }
    let started = Instant::now();
    let (half, fared) = report
        .run(async {
            let honest = Honest::start(&door, 16, 50).await.expect("honest clients");
            let mut half = Vec::new();
            for place in 0..HALF_OPEN {
                let mut stream = door.tcp([130 + (place / 5000) as u8, 1 + (place / 25 % 200) as u8]).await?;
                stream.write_all(&[22, 3, 1]).await?;
                half.push(stream);
            }
            for stream in &mut half {
                // An alert, a reset or the end: in any case it is over.
                let _ = within(stream.read_to_end(&mut Vec::new())).await?;
            }
            Ok::<_, std::io::Error>((half.len(), honest.fared().await))
        })
        .map_or_else(|error| (Err(error), None), |(half, fared)| (Ok(half), Some(fared)));
    let held = half.is_ok() && fared.is_some_and(|fared| fared.well(Duration::from_secs(2)));
    let seen = format!("{half:?} cut after {} ms", started.elapsed().as_millis());
    report.tell("half-open handshakes", "all cut within the deadline of 2 s", &seen, held, Some(&gateway), fared);
}
