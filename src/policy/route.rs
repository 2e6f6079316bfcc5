//! Sites by host, routes by longest canonical prefix of whole segments, or exactly.

use std::sync::Arc;

use http::Method;

use super::login::LoginRule;
use super::{CanonicalPath, Denial, LimitId, Name, UpstreamId};

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
    Exact(String),
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
    pub routes: Vec<Arc<Route>>,
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

/// All sites, with their host table.
#[derive(Debug, Default)]
pub struct Sites {
    sites: Vec<Arc<Site>>,
    // host table: the policy helper's to fill
}

/// The TLS side of a connection, for the 421 rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The handshake named a host of this site.
    Site(SiteId),
    /// The handshake named no host.
    Absent,
}

/// Canonical host from an authority: lower case, no port, no trailing dot. `None`: not a host.
pub fn canonical_host(_authority: &str) -> Option<String> {
    todo!("policy")
}

impl Sites {
    /// The sites in config order; `hosts` must be disjoint (compile checks it).
    pub fn new(_sites: Vec<Site>) -> Self {
        todo!("policy")
    }

    pub fn get(&self, id: SiteId) -> Option<&Arc<Site>> {
        self.sites.get(id.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.iter()
    }

    /// The site that claims a canonical host: exact before wildcard.
    pub fn by_host(&self, _host: &str) -> Option<&Arc<Site>> {
        todo!("policy")
    }

    /// SNI and Host must name the same site, else 421 `misdirected`, known host or not; 404 only when they agree.
    /// Fails closed: without SNI only sites without `client_ca` can be reached.
    pub fn resolve(&self, _sni: Sni, _host: &str) -> Result<&Arc<Site>, Denial> {
        todo!("policy")
    }
}

impl Site {
    /// The longest route that covers the path, or 404.
    pub fn route(&self, _path: &CanonicalPath) -> Result<&Arc<Route>, Denial> {
        todo!("policy")
    }

    /// Whether one of the site's hosts covers the canonical host.
    pub fn covers(&self, _host: &str) -> bool {
        todo!("policy")
    }
}

impl Route {
    /// The login rule, where this request is an attempt by method and path (`request`).
    pub fn attempt(&self, _method: &Method, _path: &CanonicalPath) -> Option<&Arc<LoginRule>> {
        todo!("policy")
    }
}
