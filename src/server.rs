//! Roof: prepare (may fail) -> commit (cannot fail); signals, file watch, workers, drain.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Diagnostics};

/// Runs the gateway until it is told to stop. Blocks. `ready` is called once with the bound addresses.
pub fn run(_config: &Path, _options: Options) -> Result<(), StartError> {
    todo!("server")
}

/// How `run` is embedded.
#[derive(Default)]
pub struct Options {
    /// Called once when every listener accepts; gets the bound https, http and metrics addresses.
    pub on_ready: Option<Box<dyn FnOnce(Bound) + Send>>,
    /// Stops the gateway as TERM would (the demo and tests use it); a second `cancel` has no effect.
    pub stop: Option<tokio_util::sync::CancellationToken>,
    /// Install signal handlers, sd_notify and the ready line on stderr.
    pub process: bool,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub struct Bound {
    pub https: Vec<std::net::SocketAddr>,
    pub http: Vec<std::net::SocketAddr>,
    pub metrics: Option<std::net::SocketAddr>,
    pub admin: std::path::PathBuf,
}

/// Why a start failed.
#[derive(Debug)]
pub enum StartError {
    /// Exit status 78.
    Config(Diagnostics),
    /// Exit status 1.
    Io(String),
}

/// All of what a start would check, binding and creating nothing; fine beside a live gateway.
pub fn check(_config: &Path) -> Result<(Arc<Config>, Diagnostics), Diagnostics> {
    todo!("server")
}
