//! Hop-by-hop removal, the forwarded chain, identity headers: strip first, then set.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
    FORWARDED, HOST, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::events::DecisionId;
use crate::policy::{AccountKind, Denial, Identity, Permit, Reason};
use crate::upstream::Preset;

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
    /// Made by [`decision`].
    pub decision: &'a HeaderValue,
    pub permit: &'a Permit,
    /// The chain behind a `CertFact::Held`; `Client-Cert` is set only from it.
    pub held_chain: bool,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const DOORWARD_IDENTITY: HeaderName = HeaderName::from_static("doorward-identity");
const DOORWARD_KIND: HeaderName = HeaderName::from_static("doorward-kind");
const DOORWARD_TENANT: HeaderName = HeaderName::from_static("doorward-tenant");
const DOORWARD_APPROVAL_ID: HeaderName = HeaderName::from_static("doorward-approval-id");
pub(super) const DOORWARD_DECISION: HeaderName = HeaderName::from_static("doorward-decision");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Hops that a forwarded chain may have; a longer one is no chain that anybody built in earnest.
const MAX_HOPS: usize = 64;

/// Answers for one that names its decision anew.
const NAMED_EVERY: usize = 64;

/// Names that applications and frameworks take as said by their proxy; a prefix stands for all names that start so.
/// Every byte of a name but letters and digits counts as `-`, as CGI and its heirs fold them.
const PROTECTED_PREFIXES: [&str; 26] = [
    "x-forwarded",
    "doorward-",
    "client-cert",
    "x-client-cert",
    "x-original-",
    "x-rewrite-url",
    "x-ssl-client",
    "ssl-client",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "x-originating-ip",
    "x-host",
    "x-url-scheme",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "remote-user",
    "x-remote-",
    "x-auth-request-",
    // What is decided on is the method of the request line.
    "x-http-method",
    "x-method-override",
    "x-override-method",
];

/// Client address from the peer and X-Forwarded-For: trusted hops right to left. Fails closed: a trusted proxy's request
/// without a usable X-Forwarded-For is a 400. Returns the client and the believed addresses (left to right).
///
/// What stands left of the client was written by nobody that is trusted, and is not even parsed.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &crate::net::Nets) -> Result<(IpAddr, Vec<IpAddr>), Denial> {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return Ok((peer, Vec::new()));
    }
    let mut believed = Vec::new();
    // The lines of a list header are one list, in their order (RFC 9110 section 5.3).
    'lines: for line in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        let line = line.to_str().map_err(|_| unusable("X-Forwarded-For of a trusted proxy is not text"))?;
        for hop in line.rsplit(',') {
            let ip = parse_hop(hop).ok_or_else(|| unusable("X-Forwarded-For of a trusted proxy is not a list of addresses"))?;
            if believed.len() == MAX_HOPS {
                return Err(unusable("X-Forwarded-For of a trusted proxy has too many hops"));
            }
            believed.push(ip);
            if !trusted.contains(ip) {
                break 'lines;
            }
        }
    }
    believed.reverse();
    let client = *believed.first().ok_or_else(|| unusable("a trusted proxy sent no X-Forwarded-For"))?;
    Ok((client, believed))
}

/// Whether the request asks for an upgrade (HTTP/1.1 `Connection: upgrade` with `Upgrade`), and to which protocol.
///
/// Fails closed: an upgrade to another version of HTTP or to TLS is none, for what came through that tunnel would be
/// requests that nobody decides on.
pub fn upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    if version != Version::HTTP_11 {
        return None;
    }
    requested_upgrade(headers).cloned()
}

/// Request headers towards the application. Removes hop-by-hop (all lines of `Connection`), every alias of protected
/// names, credentials of ours; then sets what is known. Keeps `TE: trailers`, `traceparent`, `Host`.
///
/// `Upgrade` and `Connection: upgrade` stay where [`upgrade`] finds them; `forward::send` drops them where the exchange may
/// not be upgraded. Where the request came from is the answer, and goes with them.
///
/// Fails closed: nothing is set before everything that could pose as it is gone.
pub fn towards_upstream(headers: &mut HeaderMap, up: &Upward<'_>) -> Arc<Preset> {
    strip_request(headers);
    let through_proxy = (!up.believed.is_empty()).then_some(up.connection.client.ip);
    let hops = Hops { believed: up.believed, peer: through_proxy, client: up.client };
    let origin = origin(headers, &hops, up.host, &up.connection.origin);
    headers.insert(DOORWARD_DECISION, up.decision.clone());
    set_caller(headers, up.permit.identity().map(Arc::as_ref), up.permit.approval().map(|approval| &*approval.id));
    if let (true, Some(identity), Some(leaf)) = (up.held_chain, up.permit.identity(), up.connection.chain.first()) {
        set_chain(headers, leaf, &identity.path);
    }
    origin
}

/// Response headers towards the client: hop-by-hop removed, `Doorward-Decision` and HSTS set.
///
/// `Upgrade` with `Connection: upgrade` stays: `forward::send` leaves the two only on a 101.
pub fn towards_client(headers: &mut HeaderMap, decision: HeaderValue, host: Option<&str>) {
    if headers.keys().any(ends_here) {
        let upgrade = requested_upgrade(headers).cloned();
        remove_connection_named(headers);
        while let Some(name) = headers.keys().find(|name| ends_here(name)).cloned() {
            headers.remove(name);
        }
        if let Some(upgrade) = upgrade {
            headers.insert(UPGRADE, upgrade);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    headers.insert(DOORWARD_DECISION, decision);
    demand_tls(headers, host);
}

/// Trailers towards the client, from which everything goes that is another hop's, the gateway's or a head's to say: HTTP/2 resets a
/// stream for some of it, and clients may merge them with the head (RFC 9110 section 6.5).
///
/// Fails closed: a name is removed if any reading of it is the gateway's.
pub fn trail_towards_client(trailers: &mut HeaderMap) {
    let unwanted: Vec<HeaderName> = trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
    for name in unwanted {
        trailers.remove(name);
    }
}

/// RFC 6797 on every answer of a named host, the gateway's own refusals included; the application's own line stands.
pub fn demand_tls(headers: &mut HeaderMap, host: Option<&str>) {
    static A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");
    if host.is_some_and(is_named_host) && !headers.contains_key(STRICT_TRANSPORT_SECURITY) {
        headers.insert(STRICT_TRANSPORT_SECURITY, A_YEAR.clone());
    }
}

/// A decision's id as application and client are told it.
pub fn decision(id: DecisionId) -> HeaderValue {
    let mut value = HeaderValue::from_bytes(&id.hex()).unwrap_or_else(|_| HeaderValue::from_static(""));
    // No two are alike: HTTP/2 leaves a sensitive one out of its table, where each would crowd out what comes again.
    value.set_sensitive(true);
    value
}

/// The same as the `nth` answer of a connection tells it: now and then one goes into the table for its name, which else would be
/// spelt out each time.
pub fn told(mut decision: HeaderValue, nth: usize) -> HeaderValue {
    decision.set_sensitive(!nth.is_multiple_of(NAMED_EVERY));
    decision
}

/// Whether an upstream's `Upgrade` names a protocol that was asked for.
pub(super) fn upgrade_agrees(asked: &HeaderValue, answered: &HeaderMap) -> bool {
    let Some(answered) = requested_upgrade(answered).and_then(|value| value.to_str().ok()) else { return false };
    asked.to_str().is_ok_and(|asked| tokens(asked).any(|token| token.eq_ignore_ascii_case(answered.trim())))
}

/// Removes what ends at this hop or could pose as ours. Fails closed: a name is removed if any reading of it is protected.
fn strip_request(headers: &mut HeaderMap) {
    // Few heads have any of it, and one look tells.
    let (mut unwanted, mut credentials, mut cookies) = (false, false, false);
    for name in headers.keys() {
        unwanted |= is_unwanted(name);
        credentials |= *name == AUTHORIZATION;
        cookies |= *name == COOKIE;
    }
    if unwanted {
        remove_unwanted(headers);
    }
    if credentials {
        remove_own_authorization(headers);
    }
    if cookies {
        join_cookies(headers);
    }
}

fn remove_unwanted(headers: &mut HeaderMap) {
    let upgrade = requested_upgrade(headers).cloned();
    let trailers = headers.get_all(TE).iter().any(|line| line.to_str().is_ok_and(|line| tokens(line).any(is_trailers)));
    remove_connection_named(headers);
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whom a request came through.
struct Hops<'a> {
    /// Left to right, the client first.
    believed: &'a [IpAddr],
    /// The trusted proxy that vouched for them.
    peer: Option<IpAddr>,
    client: IpAddr,
}

/// What the application is told of where requests come from.
pub struct Origin {
    /// As the client sent it.
    host: Box<str>,
    told_host: HeaderValue,
    preset: Arc<Preset>,
}

impl Origin {
    fn new(hops: &Hops<'_>, host: &str) -> Self {
        let told_host = plain(host);
        let preset = Preset::new(vec![
            (X_FORWARDED_FOR, ascii(&forwarded_for(hops))),
            (X_FORWARDED_PROTO, HeaderValue::from_static("https")),
            (X_FORWARDED_HOST, told_host.clone()),
            (FORWARDED, ascii(&forwarded(hops, host))),
        ]);
        Self { host: host.into(), told_host, preset: Arc::new(preset) }
    }

    /// A request over HTTP/2 has its host in its target.
    fn tell(&self, headers: &mut HeaderMap) -> Arc<Preset> {
        if !headers.contains_key(HOST) {
            headers.insert(HOST, self.told_host.clone());
        }
        Arc::clone(&self.preset)
    }
}

/// `known` is the connection's: its requests have one origin while they name one host and no trusted proxy stands between.
fn origin(headers: &mut HeaderMap, hops: &Hops<'_>, host: &str, known: &OnceLock<Origin>) -> Arc<Preset> {
    if hops.peer.is_none() {
        let known = known.get_or_init(|| Origin::new(hops, host));
        if *known.host == *host {
            return known.tell(headers);
        }
    }
    Origin::new(hops, host).tell(headers)
}

fn set_caller(headers: &mut HeaderMap, identity: Option<&Identity>, approval: Option<&str>) {
    if let Some(identity) = identity {
        headers.insert(DOORWARD_IDENTITY, plain(&identity.key));
        headers.insert(DOORWARD_KIND, HeaderValue::from_static(identity.kind.as_str()));
        if let Some(tenant) = &identity.tenant {
            headers.insert(DOORWARD_TENANT, plain(tenant));
        }
    }
    if let Some(approval) = approval {
        headers.insert(DOORWARD_APPROVAL_ID, plain(approval));
        headers.entry(DOORWARD_KIND).or_insert(HeaderValue::from_static(AccountKind::Bot.as_str()));
    }
}

/// Fails closed: of the chain only what was verified is told, never a certificate that was merely sent along.
fn set_chain(headers: &mut HeaderMap, leaf: &[u8], path: &[Vec<u8>]) {
    headers.insert(CLIENT_CERT, byte_sequences(&[leaf]));
    if !path.is_empty() {
        headers.insert(CLIENT_CERT_CHAIN, byte_sequences(path));
    }
}

/// Whether a response header ends at this hop.
fn ends_here(name: &HeaderName) -> bool {
    match name.as_str().as_bytes().first() {
        Some(b'c') => *name == CONNECTION,
        Some(b'k') => *name == KEEP_ALIVE,
        Some(b'p') => *name == PROXY_CONNECTION || *name == PROXY_AUTHENTICATE,
        Some(b't') => *name == TRANSFER_ENCODING || *name == TE,
        Some(b'u') => *name == UPGRADE,
        _ => false,
    }
}

fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 4] = [CONTENT_LENGTH, TRAILER, SET_COOKIE, STRICT_TRANSPORT_SECURITY];
    !ends_here(name) && !NEVER.contains(name) && !starts_with_folded(name.as_str(), "doorward-")
}

/// Whether a request header never passes: hop-by-hop, or an alias of a protected name.
fn is_unwanted(name: &HeaderName) -> bool {
    let text = name.as_str();
    // Nearly every header that browsers send is let through by its first letter.
    match text.as_bytes().first() {
        Some(b'c') => *name == CONNECTION || is_protected(text) || is_alias(name, &CONTENT_LENGTH),
        Some(b'd' | b'f' | b'r' | b's' | b'w' | b'x') => is_protected(text),
        Some(b'e') => *name == EXPECT,
        Some(b'h') => text == "http2-settings",
        Some(b'k') => *name == KEEP_ALIVE,
        // `Proxy` alone becomes HTTP_PROXY in CGI's environment.
        Some(b'p') => {
            let ends = *name == PROXY_AUTHORIZATION || *name == PROXY_CONNECTION || *name == PROXY_AUTHENTICATE;
            ends || text == "proxy" || is_protected(text)
        }
        Some(b't') => *name == TE || *name == TRAILER || is_folded(name, &TRANSFER_ENCODING) || is_protected(text),
        Some(b'u') => *name == UPGRADE,
        _ => false,
    }
}

/// Whether a name, or an alias of it, is one that only the gateway may set. `name` is lower case.
fn is_protected(name: &str) -> bool {
    starts_with_folded(name, "forwarded") && name.len() == "forwarded".len()
        || PROTECTED_PREFIXES.iter().any(|prefix| starts_with_folded(name, prefix))
}

/// Whether an application that folds names as CGI does would take one for the other, which it is not.
fn is_alias(name: &HeaderName, of: &HeaderName) -> bool {
    name != of && is_folded(name, of)
}

fn is_folded(name: &HeaderName, of: &HeaderName) -> bool {
    name.as_str().len() == of.as_str().len() && starts_with_folded(name.as_str(), of.as_str())
}

fn starts_with_folded(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(a, b)| fold(a) == b)
}

const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Removes the headers that any line of `Connection` names, but for those whose loss would change what the request or the
/// response is: nobody may name these away.
fn remove_connection_named(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(CONNECTION) {
        for token in line.as_bytes().split(|&byte| byte == b',') {
            let token = token.trim_ascii();
            if token.is_empty() || [&b"keep-alive"[..], b"close", b"upgrade", b"te"].iter().any(|t| token.eq_ignore_ascii_case(t))
            {
                continue;
            }
            match HeaderName::from_bytes(token) {
                Ok(name) if !is_essential(&name) => named.push(name),
                _ => {}
            }
        }
    }
    for name in named {
        headers.remove(name);
    }
}

fn is_essential(name: &HeaderName) -> bool {
    const ESSENTIAL: [HeaderName; 9] = [
        HOST,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        CONTENT_ENCODING,
        AUTHORIZATION,
        COOKIE,
        SET_COOKIE,
        ORIGIN,
        ACCESS_CONTROL_REQUEST_HEADERS,
    ];
    ESSENTIAL.contains(name) || *name == TRANSFER_ENCODING || name.as_str() == "traceparent"
}

/// `Authorization: Doorward …` is ours, on whichever line; every other scheme is the application's.
fn remove_own_authorization(headers: &mut HeaderMap) {
    if !headers.get_all(AUTHORIZATION).iter().any(is_own_credential) {
        return;
    }
    let others: Vec<HeaderValue> =
        headers.get_all(AUTHORIZATION).iter().filter(|value| !is_own_credential(value)).cloned().collect();
    headers.remove(AUTHORIZATION);
    for value in others {
        headers.append(AUTHORIZATION, value);
    }
}

/// HTTP/2 clients may send a cookie in several lines; over HTTP/1.1 it is one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines = headers.get_all(COOKIE);
    if lines.iter().nth(1).is_none() {
        return;
    }
    let joined = lines.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

fn is_own_credential(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii_start();
    let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-').unwrap_or(value.len());
    value.get(..end).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"doorward"))
}

/// The `Upgrade` that all lines of `Connection` stand for, if it may be followed at all.
fn requested_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(UPGRADE).iter();
    let (Some(value), None) = (lines.next(), lines.next()) else { return None };
    let named = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    if !named.flat_map(tokens).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let protocols = value.to_str().ok()?;
    let mut any = false;
    for protocol in tokens(protocols) {
        let name = protocol.split('/').next().unwrap_or(protocol);
        if ["h2", "h2c", "h3", "http", "https", "tls"].iter().any(|version| name.eq_ignore_ascii_case(version)) {
            return None;
        }
        any = true;
    }
    any.then_some(value)
}

fn tokens(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim).filter(|token| !token.is_empty())
}

fn is_trailers(coding: &str) -> bool {
    coding.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers"))
}

fn unusable(cause: &'static str) -> Denial {
    Denial::new(Reason::BadRequest, cause)
}

/// One address of X-Forwarded-For: bare, with a port, or bracketed.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches([' ', '\t']);
    let ip = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))?
        .to_canonical();
    (!ip.is_unspecified()).then_some(ip)
}

fn forwarded_for(hops: &Hops<'_>) -> String {
    let Some(peer) = hops.peer else { return hops.client.to_string() };
    let mut line = String::with_capacity(16 * (hops.believed.len() + 1));
    for hop in hops.believed {
        let _ = write!(line, "{hop}, ");
    }
    let _ = write!(line, "{peer}");
    line
}

/// RFC 7239: one element a hop; the last is what this gateway saw itself.
fn forwarded(hops: &Hops<'_>, host: &str) -> String {
    let mut line = String::with_capacity(64 + host.len());
    let write_for = |line: &mut String, ip: IpAddr| {
        let _ = match ip {
            IpAddr::V4(ip) => write!(line, "for={ip}"),
            IpAddr::V6(ip) => write!(line, "for=\"[{ip}]\""),
        };
    };
    if hops.peer.is_some() {
        for hop in hops.believed {
            write_for(&mut line, *hop);
            line.push_str(", ");
        }
    }
    write_for(&mut line, hops.peer.unwrap_or(hops.client));
    line.push_str(";proto=https;host=");
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    if !host.is_empty() && host.bytes().all(is_token) {
        line.push_str(host);
        return line;
    }
    line.push('"');
    for byte in host.bytes() {
        match byte {
            b'"' | b'\\' => line.extend(['\\', char::from(byte)]),
            _ => push_encoded(&mut line, byte),
        }
    }
    line.push('"');
    line
}

/// Plain text: everything outside visible ASCII is percent-encoded, and `%` itself, so that two names never look alike.
fn plain(text: &str) -> HeaderValue {
    if text.bytes().all(is_plain) {
        return HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        push_encoded(&mut encoded, byte);
    }
    ascii(&encoded)
}

fn push_encoded(line: &mut String, byte: u8) {
    if is_plain(byte) {
        line.push(char::from(byte));
    } else {
        let _ = write!(line, "%{byte:02X}");
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

/// A value made here of visible ASCII and spaces alone.
pub(super) fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// RFC 9440: certificates as structured-field byte sequences.
fn byte_sequences<D: AsRef<[u8]>>(chain: &[D]) -> HeaderValue {
    let mut line = String::with_capacity(chain.iter().map(|der| der.as_ref().len() / 3 * 4 + 8).sum());
    for (place, der) in chain.iter().enumerate() {
        line.push_str(if place == 0 { ":" } else { ", :" });
        STANDARD.encode_string(der.as_ref(), &mut line);
        line.push(':');
    }
    ascii(&line)
}

/// Whether HSTS means anything: a name that is not this machine's own.
fn is_named_host(host: &str) -> bool {
    let name = match host.as_bytes().iter().rposition(|byte| *byte == b':').and_then(|colon| host.split_at_checked(colon)) {
        Some((name, port)) if port.bytes().skip(1).all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_end_matches('.');
    let last = name.as_bytes().rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    // An address ends in a number, or has colons.
    let may_be_address = last.first().is_some_and(u8::is_ascii_digit) || last.contains(&b':');
    let is_address = name.starts_with('[') || (may_be_address && name.parse::<IpAddr>().is_ok());
    !name.is_empty() && !is_address && !last.eq_ignore_ascii_case(b"localhost")
}

#[cfg(test)]
mod tests;
