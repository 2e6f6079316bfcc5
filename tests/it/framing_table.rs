//! HTTP/1 framing: every request form gets its verdict, and the upstream receives what it should, byte for byte.

use crate::common::Door;
use crate::common::forms::forms;
use crate::common::play::{from, late, play};
use crate::common::recorder::Recorder;
use crate::support::{BASE, OPEN_SITE, open, run};

#[test]
fn trap_no_request_form_is_read_as_two_requests_or_leaves_a_byte_of_a_refused_one_upstream() {
    run(async {
        let recorder = Recorder::start().await.expect("a recorder");
        let text = BASE.replace("{portal}", &recorder.address.to_string());
        let stage = tokio::task::spawn_blocking(move || open(&format!("{text}{OPEN_SITE}"))).await.expect("a stage");
        let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
        let mut differ = Vec::new();
        let forms = forms();
        for (place, form) in forms.iter().enumerate() {
            let outcome = play(&door, &recorder, form, from(place)).await;
            let told = match &outcome {
                Ok(outcome) => outcome.differs(form),
                Err(error) => Some(error.to_string()),
            };
            differ.extend(told.map(|told| format!("{}: {told}", form.name)));
        }
        differ.extend(late(&recorder, &forms).await);
        tokio::task::spawn_blocking(move || drop(stage)).await.expect("closed");
        assert!(differ.is_empty(), "{} forms differ:\n{}", differ.len(), differ.join("\n"));
    });
}
