//! The operators' door: the API on the admin socket, probes and metrics. Knows nothing of the public door.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::events::Events;
use crate::state::approvals::Approvals;
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::Limits;

pub mod api;
mod approvals;
mod bans;
mod limits;
mod peer;
mod probes;
mod router;
mod socket;
pub mod times;

pub use socket::bind;

/// What the roof lends to the operators' door.
pub trait Control: Send + Sync + 'static {
    /// Takes over the file. `Err` is the rendered diagnostics, the old one lives on.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<TakenOver, String>> + Send + '_>>;
    /// Everything `status` prints, as JSON (uptime, generation, sites, upstreams, certificates, tables).
    fn status(&self) -> serde_json::Value;
    /// The live config.
    fn config(&self) -> Arc<Config>;
    /// False while draining or before the first commit.
    fn ready(&self) -> Result<(), String>;
}

/// A file that is live now.
#[derive(Clone, Debug)]
pub struct TakenOver {
    pub generation: u64,
    /// Rendered, one finding each.
    pub warnings: Vec<String>,
}

/// The operators' door.
#[derive(Clone)]
pub struct Admin {
    pub bans: Arc<BanTable>,
    pub guesses: Arc<GuessLedger>,
    pub limits: Arc<Limits>,
    pub approvals: Arc<Approvals>,
    pub events: Events,
    pub clock: Clock,
    pub control: Arc<dyn Control>,
}

/// Serves the API until `stop`; peers must have the gateway's uid, its gid, or be root. Fails closed: a peer whose
/// credentials cannot be read is turned away.
pub async fn serve(admin: Admin, socket: std::os::unix::net::UnixListener, stop: tokio_util::sync::CancellationToken) {
    socket::serve(admin, socket, stop).await;
}

/// `/metrics`, `/livez`, `/readyz` (with `?verbose`).
pub async fn serve_metrics(admin: Admin, socket: std::net::TcpListener, stop: tokio_util::sync::CancellationToken) {
    probes::serve(admin, socket, stop).await;
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
