//! Sites by host, routes by longest canonical prefix of whole segments, or exactly.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Deref;
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use super::login::LoginRule;
use super::{CanonicalPath, Denial, LimitId, Name, Reason, UpstreamId};

/// Index of a site in [`Sites`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SiteId(pub usize);

/// Index of a route over all sites; metrics and limits key by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub usize);

/// Whether a certificate is asked for, and whether one must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CertDemand {
    /// Nobody is asked.
    #[default]
    None,
    /// Asked for; routes decide.
    Optional,
    /// Refused without one that holds.
    Required,
}

/// What a route does with automated traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BotRule {
    /// Automation needs an approval.
    #[default]
    Approved,
    Any,
    /// No automation, approved or not.
    None,
}

/// One entry of `allow`: any match lets an identity pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    Identity(Name),
    Kind(super::AccountKind),
    Role(Name),
    Tenant(Name),
}

/// A host as a site claims it: exact, or `*.rest` for exactly one more label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// A canonical host.
    Exact(String),
    /// The canonical `rest`, without `*.`.
    Wildcard(String),
}

/// Several hosts under one set of certificate rules and routes.
#[derive(Debug)]
pub struct Site {
    pub id: SiteId,
    pub hosts: Vec<HostPattern>,
    /// CA sets that may vouch here (indices into `Config::client_cas`); empty: nobody is asked.
    pub client_ca: Vec<usize>,
    pub client_cert: CertDemand,
    pub routes: RouteTable,
}

/// One route: what may pass here, and where it goes.
#[derive(Debug)]
pub struct Route {
    pub id: RouteId,
    pub site: SiteId,
    /// `host/path`, for logs and metrics: bounded by the config.
    pub label: Name,
    /// Canonical; a prefix is stored without its trailing slash (root is the empty string).
    pub path: String,
    pub exact: bool,
    pub upstream: UpstreamId,
    pub login: Option<Arc<LoginRule>>,
    pub bots: BotRule,
    /// `Required` here demands a certificate that holds.
    pub client_cert: CertDemand,
    /// `None`: everyone whom the other checks let through.
    pub allow: Option<Vec<Allow>>,
    /// Ordered private budgets first: approval, identity, account, client, tenant, route.
    pub limits: Vec<LimitId>,
    /// Bytes of request body.
    pub body: u64,
}

/// Only the config adds to it, so that nobody can make its keys collide: a quick hash is enough.
type Positions = HashMap<Box<str>, usize, foldhash::fast::RandomState>;

/// A site's routes in config order, with the index that finds the longest one by hash, however many there are.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    /// Positions by the decoded path.
    exact: Positions,
    /// The same for prefixes, without trailing slash.
    prefixes: Positions,
    /// Slashes in the deepest prefix: what lies deeper in a request's path is never hashed.
    deepest: usize,
    /// Each once.
    logins: Vec<Arc<LoginRule>>,
}

/// All sites, with their host table.
#[derive(Debug, Default)]
pub struct Sites {
    sites: Vec<Arc<Site>>,
    /// Positions by canonical host.
    exact: Positions,
    /// Positions by what follows the first label.
    wildcard: Positions,
}

/// The TLS side of a connection, for the 421 rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The handshake named a host of this site.
    Site(SiteId),
    /// The handshake named a host that is of no site any more.
    Nobody,
    /// The handshake named no host.
    Absent,
}

/// Longest host name, in bytes (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;

/// Canonical host from an authority: lower case, no port, no trailing dot. `None`: not a host.
///
/// Fails closed: user information, an empty or odd port, an empty label and anything but letters, digits, `-` and `_` are
/// refused. An IPv6 address keeps its brackets and takes the form of RFC 5952.
pub fn canonical_host(authority: &str) -> Option<String> {
    host_of(authority).map(Cow::into_owned)
}

/// [`canonical_host`], borrowed where the authority is canonical but for its port.
pub fn host_of(authority: &str) -> Option<Cow<'_, str>> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() {
            check_port(port.strip_prefix(':')?)?;
        }
        let address: Ipv6Addr = address.parse().ok()?;
        return Some(Cow::Owned(format!("[{address}]")));
    }
    let host = match authority.split_once(':') {
        Some((host, port)) => {
            check_port(port)?;
            host
        }
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.len() > MAX_HOST || !host.split('.').all(is_label) {
        return None;
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(Cow::Owned(host.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(host))
}

/// Whether an authority names a canonical host as it stands, with a port or without: [`host_of`] where the answer is expected.
pub fn names_host(authority: &str, host: &str) -> bool {
    let Some(rest) = authority.strip_prefix(host) else { return false };
    !host.is_empty() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| check_port(port).is_some()))
}

/// 1 to 65535, without sign or leading zero.
fn check_port(port: &str) -> Option<()> {
    let plain = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    (plain && port.parse::<u16>().is_ok()).then_some(())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

impl Sites {
    /// The sites in config order; `hosts` must be disjoint (compile checks it).
    pub fn new(sites: Vec<Site>) -> Self {
        let mut table = Self::default();
        for (position, site) in sites.into_iter().enumerate() {
            for host in &site.hosts {
                match host {
                    HostPattern::Exact(host) => table.exact.entry(host.as_str().into()).or_insert(position),
                    HostPattern::Wildcard(rest) => table.wildcard.entry(rest.as_str().into()).or_insert(position),
                };
            }
            table.sites.push(Arc::new(site));
        }
        table
    }

    pub fn get(&self, id: SiteId) -> Option<&Arc<Site>> {
        self.sites.get(id.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.iter()
    }

    /// The site that claims a canonical host: exact before wildcard.
    pub fn by_host(&self, host: &str) -> Option<&Arc<Site>> {
        let position = match self.exact.get(host) {
            Some(position) => position,
            None => self.wildcard.get(host.split_once('.')?.1)?,
        };
        self.sites.get(*position)
    }

    /// Which site the name of a handshake means now. A connection outlives reloads, on which sites come, go and change their
    /// places: only the name is kept with it.
    pub fn named(&self, server_name: Option<&str>) -> Sni {
        match server_name.map(|name| self.by_host(name)) {
            None => Sni::Absent,
            Some(Some(site)) => Sni::Site(site.id),
            Some(None) => Sni::Nobody,
        }
    }

    /// SNI and Host must name the same site, else 421 `misdirected`, known host or not; 404 only when they agree.
    /// Fails closed: without SNI only sites without `client_ca` can be reached.
    pub fn resolve(&self, sni: Sni, host: &str) -> Result<&Arc<Site>, Denial> {
        // The host's own site, not "a site that covers it": a wildcard of the handshake's site may cover a host that
        // another site claims exactly.
        match (self.by_host(host), sni) {
            (Some(site), Sni::Site(id)) if site.id == id => Ok(site),
            (Some(site), Sni::Absent) if site.client_ca.is_empty() => Ok(site),
            (_, Sni::Nobody) => Err(Denial::new(Reason::Misdirected, "the site that the handshake named is gone")),
            (_, Sni::Site(_)) => Err(Denial::new(Reason::Misdirected, "the host is not of the site that the handshake named")),
            (Some(_), Sni::Absent) => Err(Denial::new(Reason::Misdirected, "a site with client certificates needs SNI")),
            (None, Sni::Absent) => Err(Denial::new(Reason::Misdirected, "no SNI, and the host is of no site")),
        }
    }
}

impl Site {
    /// The longest route that covers the path, or 404.
    pub fn route(&self, path: &CanonicalPath) -> Result<&Arc<Route>, Denial> {
        self.routes.find(path).ok_or_else(|| Denial::new(Reason::NotFound, "no route covers the path"))
    }

    /// The login rules by which this request is an attempt, whichever route takes it; that route's own comes first.
    ///
    /// Fails closed: a spelling that the application may take for the login counts also where it leads to a route without one.
    pub fn attempts<'s>(
        &'s self,
        route: &'s Route,
        method: &Method,
        path: &CanonicalPath,
    ) -> impl Iterator<Item = &'s Arc<LoginRule>> {
        route.login.iter().chain(&self.routes.logins).filter(move |rule| names(rule, method, path))
    }

    /// Whether a query hands the secret of a login to the page at its path. An application may take it there, whatever the method,
    /// and no guess would be counted. Fails closed, as [`LoginRule::is_in_query`] does.
    pub fn gives_secret_away(&self, route: &Route, path: &CanonicalPath) -> bool {
        let Some(query) = path.query() else { return false };
        let mut rules = route.login.iter().chain(&self.routes.logins);
        rules.any(|rule| is_at(rule, path) && rule.is_in_query(query))
    }

    /// Whether one of the site's hosts covers the canonical host.
    pub fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.covers(host))
    }
}

impl RouteTable {
    /// The exact route of the path, else the longest prefix of whole segments. Time grows with the deepest prefix, not
    /// with the number of routes.
    pub fn find(&self, path: &CanonicalPath) -> Option<&Arc<Route>> {
        let reading = path.reading();
        if let Some(position) = self.exact.get(reading) {
            return self.routes.get(*position);
        }
        // Cut to the depth of the deepest prefix first: else a path of thousands of segments costs the square of its length.
        let end = reading.match_indices('/').nth(self.deepest).map_or(reading.len(), |(slash, _)| slash);
        let mut prefix = reading.get(..end)?;
        loop {
            if let Some(position) = self.prefixes.get(prefix) {
                return self.routes.get(*position);
            }
            prefix = prefix.rsplit_once('/')?.0;
        }
    }
}

impl From<Vec<Arc<Route>>> for RouteTable {
    /// Of two routes with one path the first stands (compile refuses them).
    fn from(routes: Vec<Arc<Route>>) -> Self {
        let mut table = Self::default();
        let mut known = HashSet::new();
        for (position, route) in routes.iter().enumerate() {
            if let Some(login) = route.login.as_ref().filter(|login| known.insert(Arc::as_ptr(login))) {
                table.logins.push(Arc::clone(login));
            }
            let path = decoded(&route.path);
            if route.exact {
                table.exact.entry(path.into()).or_insert(position);
            } else {
                let path = path.strip_suffix('/').unwrap_or(&path);
                table.deepest = table.deepest.max(path.matches('/').count());
                table.prefixes.entry(path.into()).or_insert(position);
            }
        }
        Self { routes, ..table }
    }
}

impl FromIterator<Arc<Route>> for RouteTable {
    fn from_iter<I: IntoIterator<Item = Arc<Route>>>(routes: I) -> Self {
        Self::from(routes.into_iter().collect::<Vec<_>>())
    }
}

impl Deref for RouteTable {
    type Target = [Arc<Route>];

    fn deref(&self) -> &Self::Target {
        &self.routes
    }
}

impl HostPattern {
    /// Reads a host as the config writes it: a host without port, or `*.` before one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, wildcard) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if rest.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
            return Err(format!("`{text}`: a host is written without its port"));
        }
        match canonical_host(rest) {
            Some(host) if wildcard && host.starts_with('[') => Err(format!("`{text}`: an address has no wildcard")),
            Some(host) if wildcard => Ok(Self::Wildcard(host)),
            Some(host) => Ok(Self::Exact(host)),
            None => Err(format!("`{text}` is not a host name, an address or `*.` before a host name")),
        }
    }

    /// Whether the pattern covers a canonical host.
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Wildcard(rest) => host.split_once('.').is_some_and(|(_, tail)| tail == rest),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(rest) => write!(f, "*.{rest}"),
        }
    }
}

/// Whether a request may be an attempt by method and path (`request`).
///
/// Fails closed: letter case, a trailing slash and trailing blanks do not take an attempt out of the count, as many applications
/// answer `/Login/` where `/login` is meant; nor does `post`, which some take for POST, or HEAD, which many take for GET.
fn names(rule: &LoginRule, method: &Method, path: &CanonicalPath) -> bool {
    let is = |expected: &Method| method.as_str().eq_ignore_ascii_case(expected.as_str());
    (is(&rule.method) || rule.method == Method::GET && is(&Method::HEAD)) && is_at(rule, path)
}

fn is_at(rule: &LoginRule, path: &CanonicalPath) -> bool {
    let (asked, expected) = (path.reading(), decoded(&rule.path));
    let asked = asked.trim_ascii_end();
    let asked = asked.strip_suffix('/').unwrap_or(asked).trim_ascii_end();
    asked.eq_ignore_ascii_case(expected.strip_suffix('/').unwrap_or(&expected))
}

/// A canonical path as [`CanonicalPath::reading`] would give it.
fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8().unwrap_or(Cow::Borrowed(path))
}

#[cfg(test)]
mod tests;
