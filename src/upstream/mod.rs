//! The application's side: servers, their health, pooled connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

use crate::config::{UpstreamSpec, UpstreamTimeouts};
use crate::events::Events;
use crate::policy::Name;

/// Streams a body in either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the body made no progress in time")]
    Stalled,
    #[error("the peer went away: {0}")]
    Peer(String),
}

/// All upstreams over all generations: servers that a reload leaves unchanged keep their health and connections.
pub struct Upstreams {}

/// One upstream of a snapshot.
pub struct Upstream {
    pub name: Name,
    pub timeouts: UpstreamTimeouts,
    // servers: the upstream helper's to fill
}

/// One worker's idle connections; never shared between workers.
pub struct Pool {}

/// Why there is no response. `unsent` is true only where not a byte of the request can have reached the application.
#[derive(Debug)]
pub struct ForwardError {
    pub kind: ForwardErrorKind,
    pub unsent: bool,
    /// Private.
    pub cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardErrorKind {
    /// No server is up, or none could be connected: 503.
    Unavailable,
    /// The connection broke or the response was not HTTP: 502.
    BadGateway,
    /// No response head in time: 504.
    Timeout,
    /// The client's body was over its cap: 413.
    BodyTooLarge,
    /// The client's body stalled or broke: the client's side.
    ClientBody,
}

/// A response whose head arrived.
pub struct Reply {
    pub response: Response<hyper::body::Incoming>,
    /// `http://127.0.0.1:9000`, for the record.
    pub server: Arc<str>,
    /// Held until the response body has ended: counts as outstanding.
    pub guard: Outstanding,
}

/// One request outstanding at a server; released on drop.
pub struct Outstanding {}

/// For `status`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ServerStatus {
    pub upstream: String,
    pub server: String,
    pub healthy: bool,
    pub outstanding: usize,
    /// Of the last check or failure.
    pub last_error: Option<String>,
}

impl Upstreams {
    pub fn new(_events: Events) -> Self {
        todo!("upstream")
    }

    /// Upstreams of a new snapshot in spec order; touches nothing live. `clients` as `TlsState::upstream_clients`.
    pub fn prepare(&self, _specs: &[UpstreamSpec], _clients: &[Option<Arc<rustls::ClientConfig>>]) -> Vec<Arc<Upstream>> {
        todo!("upstream")
    }

    /// From now on these are health-checked; servers in no live snapshot are forgotten when their last request ends.
    pub fn commit(&self, _upstreams: &[Arc<Upstream>]) {
        todo!("upstream")
    }

    /// Active checks with hysteresis (3 failures down, 2 successes up) until cancelled.
    pub async fn run_health(self: Arc<Self>, _stop: tokio_util::sync::CancellationToken) {
        todo!("upstream")
    }

    pub fn status(&self) -> Vec<ServerStatus> {
        todo!("upstream")
    }
}

/// Names that do not resolve and similar, for `check`: (upstream index, server index, error).
pub fn resolve_all(_specs: &[UpstreamSpec], _within: Duration) -> Vec<(usize, usize, String)> {
    todo!("upstream")
}

impl Pool {
    pub fn new() -> Self {
        todo!("upstream")
    }

    /// Sends to the healthy server with the least outstanding; the head of the response within `timeouts.response`.
    /// Only what is provably unsent is tried again (another connection, then another server). `request` has an
    /// origin-form target and its `Host`; for h2 the pool makes the absolute form. An upgrade request (h1) keeps its
    /// `Connection: upgrade`, and `hyper::upgrade::on(&mut response)` works on the reply.
    pub async fn send(&self, _upstream: &Upstream, _request: Request<Body>) -> Result<Reply, ForwardError> {
        todo!("upstream")
    }

    /// Drops connections idle longer than their upstream allows.
    pub fn sweep(&self) {
        todo!("upstream")
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}
