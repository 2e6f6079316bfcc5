//! Permit + request -> upstream response; upgrades.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};

use crate::policy::Permit;
use crate::upstream::{Body, ForwardError, Upstream};

use super::Worker;

/// Limits of one forward.
pub struct Terms {
    /// Bytes of request body.
    pub body: u64,
    /// Without progress.
    pub body_stall: Duration,
    pub idle: Duration,
}

/// Sends a permitted request. `request` already carries its upstream headers and canonical target. Request trailers are
/// dropped, response trailers pass. An upgrade is tunnelled only after the upstream's 101.
pub async fn send(
    _worker: &Arc<Worker>,
    _upstream: &Upstream,
    _permit: &Permit,
    _request: Request<Body>,
    _client_upgrade: Option<hyper::upgrade::OnUpgrade>,
    _terms: Terms,
) -> Result<(Response<Body>, Arc<str>), ForwardError> {
    todo!("forward")
}

/// The client's body with its cap and its stall deadline, trailers dropped.
pub fn request_body(_body: hyper::body::Incoming, _terms: &Terms) -> Body {
    todo!("forward")
}
