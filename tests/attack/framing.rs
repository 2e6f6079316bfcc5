//! Every HTTP/1 request form, judged by the answers and by what the upstream received.

use crate::common::forms::{Form, forms};
use crate::common::play::{from, late, play as play_form};
use crate::common::recorder::Recorder;
use crate::peers;
use crate::report::{OPEN, Report};

pub fn play(report: &mut Report) {
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(OPEN, recorder.address);
    let door = gateway.door();
    let mut seen = Vec::new();
    let forms = forms();
    for (place, form) in forms.iter().enumerate() {
        let outcome = report.run(play_form(&door, &recorder, form, from(place)));
        let (told, held) = match &outcome {
            Ok(outcome) => (outcome.differs(form).unwrap_or_else(|| outcome.to_string()), outcome.differs(form).is_none()),
            Err(error) => (error.to_string(), false),
        };
        report.tell(form.name, &expected(form), &told, held, Some(&gateway), None);
        seen.push(outcome.map_or_else(|error| error.to_string(), |outcome| outcome.to_string()));
    }
    for told in report.run(late(&recorder, &forms)) {
        report.tell("what came late", "nothing", &told, false, Some(&gateway), None);
    }
    if report.wanted.peers {
        peers::compare(report, &gateway.pki.folder, &recorder, &seen);
    }
}

fn expected(form: &Form) -> String {
    let cut = if form.cut { ", or cut" } else { "" };
    format!("{:?}, {} upstream{cut}{}", form.answers, form.upstream.len(), if form.closes { ", closed" } else { "" })
}
