//! Client certificates of every bad and odd kind, over both versions, demanded and optional.

use std::net::Ipv4Addr;

use crate::common::certs::{Holds, table, talk, told, wanted};
use crate::common::recorder::Recorder;
use crate::common::within;
use crate::report::{OPEN, Report};

pub fn play(report: &mut Report) {
    let (worlds, cases, key) = table();
    let folder = tempfile::tempdir().expect("a folder");
    let text: String = worlds.iter().map(|world| world.write(folder.path())).collect();
    let recorder = report.run(Recorder::start()).expect("a recorder");
    let gateway = report.open(&format!("{OPEN}{text}"), recorder.address);
    let door = gateway.door();
    for (at, case) in (0u8..).zip(&cases) {
        for (version, name) in [(&rustls::version::TLS12, "TLS 1.2"), (&rustls::version::TLS13, "TLS 1.3")] {
            for (prefix, required) in [("r", true), ("o", false)] {
                let source = Ipv4Addr::new(127, if name == "TLS 1.2" { 2 } else { 3 }, u8::from(required), at);
                let host = format!("{prefix}-{}.tenants.localhost", case.world);
                let speak = !required || matches!(case.expected, Holds);
                let outcome = report.run(async { within(talk(&door, source, &host, version, case, &key, speak)).await });
                let seen = match outcome.and_then(|talked| talked) {
                    Ok(answer) => told(&answer),
                    Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                        Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
                        _ => format!("{error:?}"),
                    },
                };
                // The cause is in the event; the wire shows what stands before it.
                let expected = wanted(case.expected, required);
                let expected = expected.split(',').next().unwrap_or_default();
                let demand = if required { "required" } else { "optional" };
                let title = format!("{}: {} ({name}, {demand})", case.world, case.name);
                report.judge(&title, expected, &seen, Some(&gateway), None);
            }
        }
    }
}
