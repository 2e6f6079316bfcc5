//! Plays the abuse tables against a built gateway in a process of its own, and prints one table: case, expected, seen, memory
//! high-water, and how honest clients beside it fared. Exit status 1 on a difference.
//!
//! ```text
//! just attack                                       everything, against the release binary
//! just attack framing                               one section
//! cargo test --test attack -- --doorward PATH       against another binary
//! just attack framing --peers                       the framing table against nginx and HAProxy too; differences are printed, not judged
//! just attack --differences                         only the rows that differ, and the totals
//! ```
//!
//! A section is a file here and a line in [`SECTIONS`]: a function that opens gateways ([`Report::open`]) and judges cases
//! ([`Report::judge`]).
#![allow(clippy::disallowed_methods, reason = "it times what others do to a process; nothing is decided by it")]

mod certificates;
#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod faults;
mod framing;
mod harness;
mod http2;
mod peers;
mod process;
mod report;
mod slow;
mod tables;
mod tls;

use std::process::ExitCode;

use report::{Report, Section, Wanted};

/// A section's name, and what plays it.
const SECTIONS: &[Section] = &[
    ("framing", framing::play),
    ("http2", http2::play),
    ("tls", tls::play),
    ("certificates", certificates::play),
    ("faults", faults::play),
    ("tables", tables::play),
    ("slow", slow::play),
    ("process", process::play),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        // Parts of sections that need a process of their own.
        Some((first, rest)) if first == slow::CROWD => {
            slow::crowd(rest);
            return ExitCode::SUCCESS;
        }
        Some((first, rest)) if first == tables::TABLE => {
            tables::alone(&rest.concat());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let wanted = match Wanted::read(std::env::args().skip(1), SECTIONS) {
        Ok(wanted) => wanted,
        Err(told) => {
            eprintln!("{told}");
            return ExitCode::from(2);
        }
    };
    let mut report = Report::new(wanted);
    for (name, play) in SECTIONS {
        if report.begin(name) {
            play(&mut report);
        }
    }
    if report.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
