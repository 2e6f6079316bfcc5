//! Hop-by-hop removal, the forwarded chain, identity headers: strip first, then set.

use std::net::IpAddr;

use http::{HeaderMap, Version};

use crate::events::DecisionId;
use crate::policy::{Denial, Permit};

use super::Connection;

/// What the application is told of a request.
pub struct Upward<'a> {
    pub connection: &'a Connection,
    /// After the trusted hops.
    pub client: IpAddr,
    /// Forwarded chain to keep in front, when the peer is a trusted proxy: the X-Forwarded-For addresses already believed.
    pub believed: &'a [IpAddr],
    /// `Host` as the client sent it.
    pub host: &'a str,
    pub decision: DecisionId,
    pub permit: &'a Permit,
    /// The chain behind a `CertFact::Held`; `Client-Cert` is set only from it.
    pub held_chain: bool,
}

/// Client address from the peer and X-Forwarded-For: trusted hops right to left. Fails closed: a trusted proxy's request
/// without a usable X-Forwarded-For is a 400. Returns the client and the believed addresses (left to right).
pub fn client_ip(_peer: IpAddr, _headers: &HeaderMap, _trusted: &crate::net::Nets) -> Result<(IpAddr, Vec<IpAddr>), Denial> {
    todo!("forward")
}

/// Whether the request asks for an upgrade (HTTP/1.1 `Connection: upgrade` with `Upgrade`), and to which protocol.
pub fn upgrade(_headers: &HeaderMap, _version: Version) -> Option<http::HeaderValue> {
    todo!("forward")
}

/// Request headers towards the application. Removes hop-by-hop (all lines of `Connection`), every alias of protected
/// names, credentials of ours; then sets what is known. Keeps `TE: trailers`, `traceparent`, `Host`.
pub fn towards_upstream(_headers: &mut HeaderMap, _up: &Upward<'_>) {
    todo!("forward")
}

/// Response headers towards the client: hop-by-hop removed, `Doorward-Decision` and HSTS set.
pub fn towards_client(_headers: &mut HeaderMap, _decision: DecisionId, _host: &str) {
    todo!("forward")
}
