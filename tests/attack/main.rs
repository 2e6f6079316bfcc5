//! `just attack`: what strangers, floods and broken machines do to a gateway, as one table: case, expected, seen, memory.
//!
//! A program rather than a test: it takes minutes, spawns the built binary (`--doorward PATH`; absent: the one that cargo
//! built), and measures memory, which many tests in one process cannot. `attack NAME...` plays only the sections named.
//! Exit status 1 on a difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod harness;
mod process;
mod report;
mod slow;
mod tables;

use std::process::ExitCode;

use report::Report;

/// Sections in the order of the table.
const SECTIONS: &[(&str, fn(&mut Report))] = &[("tables", tables::play), ("slow", slow::play), ("process", process::play)];

fn main() -> ExitCode {
    // The crowd's half of the descriptors lives in processes of their own.
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|first| first == slow::CROWD) {
        slow::crowd(&arguments[1..]);
        return ExitCode::SUCCESS;
    }
    if let [first, table] = &arguments[..]
        && first == tables::TABLE
    {
        tables::alone(table);
        return ExitCode::SUCCESS;
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--doorward") {
        let path = arguments.drain(at..(at + 2).min(arguments.len())).nth(1).expect("--doorward PATH");
        harness::use_binary(path.into());
    }
    let mut report = Report::default();
    for (name, play) in SECTIONS {
        if arguments.is_empty() || arguments.iter().any(|wanted| wanted == name) {
            report.section(name);
            play(&mut report);
        }
    }
    report.end()
}
