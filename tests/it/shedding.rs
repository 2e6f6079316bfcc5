//! Promise: when places run short the idlest give theirs up, and honest clients, operators and probes still get through.

use tokio::io::AsyncReadExt;

use crate::support::{self, BASE, OPEN_SITE, Visitor, event, open, run};

#[test]
fn silent_connections_give_up_their_places_to_honest_clients() {
    let text = format!("{}{OPEN_SITE}", BASE.replace("handshake = \"2s\"", "handshake = \"50s\"") + "[caps]\nconnections = 16\n");
    let mut stage = open(&text);
    run(async {
        let mut silent = Vec::new();
        for number in 0..16 {
            silent.push(Visitor::new(&stage, [40, number]).tcp(stage.https()).await.unwrap());
        }
        // Not before all of them were accepted, by whichever worker: the honest one would find a place that nobody had to give up.
        while !support::told(&stage, &["status", "--json"]).replace(' ', "").contains("\"connections\":16") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // Refused until the silent ones have rested long enough to be shed.
        let honest = Visitor::new(&stage, [41, 1]);
        let answer = loop {
            if let Ok(answer) = honest.get("/public").await {
                break answer;
            }
            // Thousands a second would crowd the event out of its lane of the log.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(answer.status, 200);
        event(&mut stage, &["connection.refused", "\"shed\""]).await;
        // Which one it is depends on the worker that was the quickest to accept.
        let closings = silent.iter_mut().map(|one| Box::pin(async { one.read(&mut [0; 1]).await.unwrap_or(0) }));
        assert_eq!(futures_util::future::select_all(closings).await.0, 0, "one of the silent ones");
        assert!(support::told(&stage, &["status", "--json"]).contains("generation"));
    });
}
