//! What only a process has: signals, the ready line, the service manager.

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Bound, Roof};
use crate::admin::{TakenOver, times};

/// A line for stderr is waited for no longer.
const SAYING: Duration = Duration::from_millis(500);
/// And after a second signal each of its parts no longer: workers that let go, logs that are written, the last line.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Says on stderr and to the service manager that every listener accepts.
pub(super) fn announce(bound: &Bound, generation: u64) {
    let list = |all: &[SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let metrics = bound.metrics.map(|at| format!(", metrics {at}")).unwrap_or_default();
    let http = if bound.http.is_empty() { String::new() } else { format!(", http {}", list(&bound.http)) };
    let ready = format!(
        "doorward ready: https {}{http}{metrics}, admin {}, generation {generation}\n",
        list(&bound.https),
        bound.admin.display()
    );
    say(ready);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Says that a stop has begun, how many connections are open by then, and when those that are left will be cut.
pub(super) fn say_draining(open: usize, until: Timestamp) {
    say(draining(open, until));
}

/// The last line: everything is closed and written.
pub(super) fn say_stopped(cut: usize) {
    say(stopped(cut));
}

/// What a reload that nobody waits for has to tell: its warnings and what is live now, or why nothing changed. The last line always
/// says which of the two.
pub(super) fn say_reloaded(outcome: Result<TakenOver, String>) {
    say(reloaded(outcome));
}

/// In one piece: logs may go the same way. A reader that is stuck holds up nothing, and who closed stderr does not wait for it.
fn say(line: String) {
    say_within(line, SAYING);
}

fn say_within(line: String, patience: Duration) {
    let (done, written) = mpsc::channel();
    let writing = std::thread::Builder::new().spawn(move || {
        let _ = anstream::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    });
    if writing.is_ok() {
        let _ = written.recv_timeout(patience);
    }
}

fn draining(open: usize, until: Timestamp) -> String {
    let wait = if open == 0 { String::new() } else { format!(", cut if not closed by {}", times::stamp(until)) };
    format!("doorward draining: stops accepting, {} open{wait}\n", connections(open))
}

fn reloaded(outcome: Result<TakenOver, String>) -> String {
    match outcome {
        Ok(TakenOver { generation, warnings }) => {
            let warnings: String = warnings.iter().map(|warning| format!("{}\n\n", warning.trim_end())).collect();
            format!("{warnings}doorward: generation {generation} is live\n")
        }
        Err(errors) => format!("{errors}doorward: the old configuration lives on\n"),
    }
}

fn stopped(cut: usize) -> String {
    match cut {
        0 => "doorward stopped: every connection ended by itself\n".to_owned(),
        cut => format!("doorward stopped: {} cut at the deadline\n", connections(cut)),
    }
}

fn connections(number: usize) -> String {
    format!("{number} connection{}", if number == 1 { "" } else { "s" })
}

/// Has what no event tells said on stderr; `RUST_LOG` chooses otherwise.
pub(super) fn say_on_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,doorward=info"));
    let ansi = std::io::stderr().is_terminal();
    let said = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
    // A program that holds the gateway may listen already.
    let _ = said.try_init();
}

/// TERM, INT and QUIT drain, a second one ends at once; HUP reloads; USR1 reopens logs.
pub(super) fn watch_signals(roof: &Arc<Roof>, stop: &CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()] {
        let (mut signals, stop, roof) = (signal(kind)?, stop.clone(), Arc::clone(roof));
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if stop.is_cancelled() {
                    end_at_once(&roof);
                }
                stop.cancel();
            }
        });
    }
    let (mut reloads, reloading) = (signal(SignalKind::hangup())?, Arc::clone(roof));
    tokio::spawn(async move {
        while reloads.recv().await.is_some() {
            reloading.reload_unasked().await;
        }
    });
    let (mut reopens, events) = (signal(SignalKind::user_defined1())?, roof.gateway.events.clone());
    tokio::spawn(async move {
        while reopens.recv().await.is_some() {
            events.reopen();
        }
    });
    Ok(())
}

/// Whoever holds it up, and however: what was under way and the end itself are told as far as that goes in no time.
fn end_at_once(roof: &Roof) -> ! {
    let cut = roof.slots.open();
    roof.crew.abandon(AT_ONCE);
    roof.tell_stopped(cut);
    roof.gateway.events.flush(AT_ONCE);
    say_within(format!("doorward stopped: by a second signal, {} cut\n", connections(cut)), AT_ONCE);
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_says_last_what_is_live() {
        let taken = |warnings: &[&str]| {
            let warnings = warnings.iter().map(|&warning| warning.to_owned()).collect();
            reloaded(Ok(TakenOver { generation: 4, warnings }))
        };
        assert_eq!(taken(&[]), "doorward: generation 4 is live\n");
        assert_eq!(taken(&["warning: a", "warning: b\n"]), "warning: a\n\nwarning: b\n\ndoorward: generation 4 is live\n");
        let refused = reloaded(Err("error: c\n".to_owned()));
        assert_eq!(refused, "error: c\ndoorward: the old configuration lives on\n");
    }

    #[test]
    fn a_stop_says_whom_it_waits_for_and_who_was_cut() {
        let until = "2026-11-21T10:00:30.7Z".parse().unwrap();
        assert_eq!(
            draining(2, until),
            "doorward draining: stops accepting, 2 connections open, cut if not closed by 2026-11-21T10:00:30Z\n"
        );
        assert_eq!(draining(0, until), "doorward draining: stops accepting, 0 connections open\n", "nobody is waited for");
        assert_eq!(stopped(0), "doorward stopped: every connection ended by itself\n");
        assert_eq!(stopped(1), "doorward stopped: 1 connection cut at the deadline\n");
    }
}
