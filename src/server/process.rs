//! What only a process has: signals, the ready line, the service manager.

use std::io::{IsTerminal, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Bound, Roof};

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
    // In one piece: logs may go the same way. Who closed stderr does not wait for it.
    let _ = std::io::stderr().write_all(ready.as_bytes());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
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
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if stop.is_cancelled() {
                    std::process::exit(1);
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
