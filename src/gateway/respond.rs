//! `Denial | ForwardError` -> response: the only maker of error answers.

use http::{HeaderMap, Response};

use crate::events::DecisionId;
use crate::policy::{Denial, PolicyDocument};
use crate::upstream::{Body, ForwardError};

/// RFC 9457 problem+json, or a small HTML page where `Accept` prefers HTML. `close` adds `Connection: close` on HTTP/1.
/// Sets `Retry-After`, `RateLimit`, `RateLimit-Policy`, `Cache-Control: no-store`, `Doorward-Decision`,
/// `Link: <mailto:contact>; rel="terms-of-service"` is not for now.
pub fn denial(_denial: &Denial, _id: DecisionId, _request_headers: &HeaderMap, _policy: &PolicyDocument) -> Response<Body> {
    todo!("events")
}

/// A forward error as a denial: public reason and private cause.
pub fn forward_error(_error: ForwardError) -> Denial {
    todo!("events")
}
