//! `[[site]]` and its routes: every name resolved, every rule that could never hold refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::diagnostic::{Located, Span};
use crate::config::file::{ClientCaTable, File, RouteTable, SiteTable};
use crate::config::values::{RouteMatch, show_size};
use crate::policy::limit::LimitKey;
use crate::policy::login::LoginRule;
use crate::policy::route::{BotRule, CertDemand, HostPattern, Site};
use crate::policy::{CanonicalPath, LimitId, Route, RouteId, SiteId, UpstreamId};

use super::Compiler;
use super::policy::key_name;

/// What sites and routes are compiled against, and which of it they use.
struct Surroundings<'f> {
    file: &'f File,
    logins: &'f [Option<Arc<LoginRule>>],
    hosts: HashMap<HostPattern, String>,
    used_cas: HashSet<usize>,
    used_upstreams: HashSet<usize>,
    used_logins: HashSet<usize>,
    used_limits: HashSet<usize>,
    /// Routes over all sites so far.
    routes: usize,
}

/// A set of CAs that may vouch at a site.
pub(super) struct Vouching<'f> {
    pub(super) name: &'f str,
    pub(super) set: &'f ClientCaTable,
}

/// What a route needs to know of its site.
pub(super) struct SiteRules<'f> {
    id: SiteId,
    /// The table's key, as `config show` names it.
    key: String,
    host: Option<String>,
    /// Whether the site asks for certificates, be the sets it names known or not.
    pub(super) asks: bool,
    /// The sets that may vouch; `None` where one of them is unknown or unreadable, so that nothing is said of them.
    pub(super) vouching: Option<Vec<Vouching<'f>>>,
    client_cert: CertDemand,
}

impl Compiler<'_> {
    pub(super) fn sites(&mut self, file: &File, logins: &[Option<Arc<LoginRule>>]) -> Option<Vec<Site>> {
        if file.site.is_empty() {
            self.missing("site", "there is no site", "add [[site]] with `hosts`, and [[site.route]] below it");
        }
        let mut around = Surroundings {
            file,
            logins,
            hosts: HashMap::new(),
            used_cas: HashSet::new(),
            used_upstreams: HashSet::new(),
            used_logins: HashSet::new(),
            used_limits: HashSet::new(),
            routes: 0,
        };
        let mut sites = Vec::new();
        for (at, slot) in file.site.iter().enumerate() {
            sites.push(slot.value.as_ref().and_then(|table| self.site(SiteId(at), table, &slot.span, &mut around)));
        }
        self.unused("client_ca", "site", file.client_ca.0.iter().map(|entry| &entry.name), &around.used_cas);
        self.unused("upstream", "route", file.upstream.0.iter().map(|entry| &entry.name), &around.used_upstreams);
        self.unused("login", "route", file.login.0.iter().map(|entry| &entry.name), &around.used_logins);
        self.unused("limit", "route", file.limit.0.iter().map(|entry| &entry.name), &around.used_limits);
        let sites = sites.into_iter().collect::<Option<Vec<_>>>()?;
        self.logins_of_others(file, &sites);
        Some(sites)
    }

    fn site<'f>(&mut self, id: SiteId, table: &SiteTable, span: &Span, around: &mut Surroundings<'f>) -> Option<Site> {
        let key = format!("site[{}]", id.0);
        let hosts = table.hosts.as_ref().map(|hosts| self.hosts(&key, hosts, around));
        let client_ca = table.client_ca.as_ref().map(|sets| self.client_ca_sets(&key, sets, around));
        let unreadable = self.broken.within(&format!("{key}.client_ca"));
        let asks = client_ca.is_some() || unreadable;
        let indices = client_ca.unwrap_or_else(|| Some(Vec::new())).filter(|_| !unreadable);
        let client_cert = match (asks, &table.client_cert) {
            (true, demand) => demand.value,
            (false, demand) if demand.span.is_default() => CertDemand::None,
            (false, demand) => {
                let message = format!("`{key}.client_cert` without `client_ca`: no certificate is asked for");
                self.error(
                    message,
                    &demand.span,
                    "name the sets that may vouch, such as client_ca = [\"acme\"], or leave it out",
                );
                CertDemand::None
            }
        };
        let file = around.file;
        let sets_read = !self.broken.within("client_ca");
        let vouching = indices.as_ref().filter(|_| sets_read).and_then(|indices| {
            let sets = indices.iter().map(|at| {
                let entry = file.client_ca.0.get(*at)?;
                Some(Vouching { name: &entry.name.value, set: entry.table.as_ref()? })
            });
            sets.collect::<Option<Vec<_>>>()
        });
        let host = hosts.as_ref().and_then(|hosts| hosts.first()).map(ToString::to_string);
        let rules = SiteRules { id, key, host, asks, vouching, client_cert };
        if table.route.is_empty() && !self.broken.within(&format!("{}.route", rules.key)) {
            let message = format!("`{}` has no route: it could only answer 404", rules.key);
            self.error(message, span, "add [[site.route]] with `path` and `upstream`");
        }
        let routes = self.routes(table, &rules, around);
        Some(Site { id, hosts: hosts?, client_ca: indices?, client_cert, routes: routes?.into_iter().collect() })
    }

    fn hosts(&mut self, key: &str, hosts: &Located<Vec<Located<String>>>, around: &mut Surroundings<'_>) -> Vec<HostPattern> {
        self.not_empty(&format!("{key}.hosts"), hosts, "nobody could reach the site", "such as [\"portal.example.com\"]");
        let mut patterns = Vec::new();
        for host in &hosts.value {
            match HostPattern::parse(&host.value) {
                Err(fault) => {
                    let help = "such as \"portal.example.com\" or \"*.example.com\"; other scripts in their xn-- form";
                    self.error(fault, &host.span, help);
                }
                Ok(pattern) => {
                    if let Some(other) = around.hosts.insert(pattern.clone(), key.to_owned()) {
                        let message = format!("the host \"{pattern}\" stands in `{other}` already");
                        self.error(message, &host.span, "a host belongs to one site: put its routes together");
                    }
                    patterns.push(pattern);
                }
            }
        }
        patterns
    }

    /// Fails closed: a set that is not known refuses the config; an empty list never means "no certificate needed".
    fn client_ca_sets(
        &mut self,
        key: &str,
        sets: &Located<Vec<Located<String>>>,
        around: &mut Surroundings<'_>,
    ) -> Option<Vec<usize>> {
        let help = "name the sets that may vouch, or leave it out to ask for no certificate";
        self.not_empty(&format!("{key}.client_ca"), sets, "nobody could vouch for a client", help);
        self.no_twins(&sets.value, |set| format!("the set `{set}`"));
        let found: Vec<_> =
            sets.value.iter().map(|set| self.resolve("CA set", "client_ca", set, &around.file.client_ca)).collect();
        around.used_cas.extend(found.iter().flatten());
        found.into_iter().collect()
    }

    fn routes(&mut self, table: &SiteTable, rules: &SiteRules<'_>, around: &mut Surroundings<'_>) -> Option<Vec<Arc<Route>>> {
        let mut routes = Vec::new();
        let mut taken: HashMap<(String, bool), usize> = HashMap::new();
        for (at, slot) in table.route.iter().enumerate() {
            let route = slot.value.as_ref();
            let path = route.and_then(|route| route.path.as_ref());
            if let (Some(route), Some(path)) = (route, path)
                && let Ok(canonical) = CanonicalPath::parse(&path.value)
            {
                let exact = route.r#match == RouteMatch::Exact;
                let reading = canonical.reading();
                let covered = if exact { reading } else { reading.trim_end_matches('/') };
                if let Some(other) = taken.insert((covered.to_owned(), exact), at) {
                    let message = format!("this route is never reached: `{}.route[{other}]` has the same path", rules.key);
                    let help = if exact {
                        "put the two routes together"
                    } else {
                        "\"/api\" and \"/api/\" are one prefix: put the two routes together"
                    };
                    self.error(message, &path.span, help);
                }
            }
            routes.push(route.and_then(|route| self.route(at, route, rules, around)));
        }
        let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
        self.logins_are_reached(table, &routes);
        Some(routes)
    }

    fn route(
        &mut self,
        at: usize,
        table: &RouteTable,
        rules: &SiteRules<'_>,
        around: &mut Surroundings<'_>,
    ) -> Option<Arc<Route>> {
        let key = format!("{}.route[{at}]", rules.key);
        let file = around.file;
        let id = RouteId(around.routes);
        around.routes += 1;

        let exact = table.r#match == RouteMatch::Exact;
        let path = table.path.as_ref().and_then(|path| self.canonical_path(&format!("`{key}.path`"), path));
        let upstream = table.upstream.as_ref().and_then(|name| self.resolve("upstream", "upstream", name, &file.upstream));
        around.used_upstreams.extend(upstream);
        let login = table.login.as_ref().map(|name| self.resolve("login", "login", name, &file.login));
        around.used_logins.extend(login.flatten());
        let client_cert = self.client_cert(&key, table, rules);
        let allow = table.allow.as_ref().map(|allow| self.allow(&key, allow, table.bots, rules));
        let limits = self.route_limits(table, rules, around);
        let body = table.body.map_or_else(
            || {
                self.show_default(&key, "body", show_size(file.caps.body.0).into());
                file.caps.body.0
            },
            |body| body.0,
        );
        let path = path?;
        let label = format!("{}{path}", rules.host.as_deref()?);
        Some(Arc::new(Route {
            id,
            site: rules.id,
            label: label.into(),
            path: if exact { path } else { path.trim_end_matches('/').to_owned() },
            exact,
            upstream: UpstreamId(upstream?),
            login: match login {
                None => None,
                Some(at) => Some(Arc::clone(around.logins.get(at?)?.as_ref()?)),
            },
            bots: table.bots,
            client_cert,
            allow: match allow {
                None => None,
                Some(allow) => Some(allow?),
            },
            limits: limits?,
            body,
        }))
    }

    fn client_cert(&mut self, key: &str, table: &RouteTable, rules: &SiteRules<'_>) -> CertDemand {
        let Some(demand) = &table.client_cert else {
            if rules.client_cert != CertDemand::None {
                let word = if rules.client_cert == CertDemand::Required { "required" } else { "optional" };
                self.show_default(key, "client_cert", word.into());
            }
            return rules.client_cert;
        };
        if !rules.asks {
            let message = format!("`{key}.client_cert`: the site has no `client_ca`, so no client can show a certificate");
            self.error(message, &demand.span, "name the sets that may vouch in the site, or leave it out");
        }
        if rules.client_cert == CertDemand::Required && demand.value == CertDemand::Optional {
            let message = format!("`{key}.client_cert` = \"optional\" does not loosen the site's \"required\"");
            self.warn(message, &demand.span, "say \"optional\" in the site and \"required\" in the other routes");
            return CertDemand::Required;
        }
        demand.value
    }

    /// Private budgets first, in the file's order where two are as private.
    fn route_limits(&mut self, table: &RouteTable, rules: &SiteRules<'_>, around: &mut Surroundings<'_>) -> Option<Vec<LimitId>> {
        self.no_twins(&table.limits, |limit| format!("the limit `{limit}`"));
        let found: Vec<_> = table.limits.iter().map(|name| self.resolve("limit", "limit", name, &around.file.limit)).collect();
        around.used_limits.extend(found.iter().flatten());
        let keys = |at: usize| {
            let limit = around.file.limit.0.get(at).and_then(|entry| entry.table.as_ref());
            limit.and_then(|limit| limit.key.as_ref()).map_or(&[][..], |key| &key.value)
        };
        for (name, at) in table.limits.iter().zip(&found) {
            for key in at.map_or(&[][..], keys) {
                if let Some(why) = never_has(key.value, table, rules) {
                    let message = format!(
                        "the limit `{}` never applies here: no request has the key `{}`",
                        name.value,
                        key_name(key.value)
                    );
                    self.warn(message, &name.span, why);
                }
            }
        }
        let mut found = found.into_iter().collect::<Option<Vec<_>>>()?;
        found.sort_by_key(|at| keys(*at).iter().map(|key| key.value).min());
        Some(found.into_iter().map(LimitId).collect())
    }

    /// Fails closed: a login whose requests another route takes would count no guess at all, and refuses the config.
    fn logins_are_reached(&mut self, table: &SiteTable, routes: &[Arc<Route>]) {
        let index: crate::policy::route::RouteTable = routes.iter().cloned().collect();
        for (route, slot) in routes.iter().zip(&table.route) {
            let (Some(login), Some(name)) = (&route.login, slot.value.as_ref().and_then(|table| table.login.as_ref())) else {
                continue;
            };
            let Ok(path) = CanonicalPath::parse(&login.path) else { continue };
            let takes = index.find(&path);
            if takes.is_some_and(|takes| takes.login.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, login))) {
                continue;
            }
            let message = format!("the login `{}` is never tried here: this route does not answer {}", name.value, login.path);
            let help = match takes {
                Some(takes) => format!("the route {} answers it: name the login there", takes.label),
                None => "name the login in the route that answers it".to_owned(),
            };
            self.error(message, &name.span, help);
        }
    }

    /// A login that one site counts and another passes to the same application is guessed at through the other.
    fn logins_of_others(&mut self, file: &File, sites: &[Site]) {
        let mut known: Vec<(UpstreamId, &Arc<LoginRule>)> = Vec::new();
        for route in sites.iter().flat_map(|site| site.routes.iter()) {
            if let Some(login) = &route.login
                && !known.iter().any(|(upstream, other)| *upstream == route.upstream && Arc::ptr_eq(other, login))
            {
                known.push((route.upstream, login));
            }
        }
        for (site, slot) in sites.iter().zip(&file.site) {
            for &(upstream, login) in &known {
                let Ok(path) = CanonicalPath::parse(&login.path) else { continue };
                let Ok(takes) = site.route(&path) else { continue };
                if takes.upstream != upstream || site.attempts(takes, &login.method, &path).next().is_some() {
                    continue;
                }
                let at = site.routes.iter().position(|route| Arc::ptr_eq(route, takes));
                let table = at.and_then(|at| slot.value.as_ref()?.route.get(at)?.value.as_ref());
                let Some(name) = table.and_then(|table| table.upstream.as_ref()) else { continue };
                let message = format!(
                    "{} {} is the login `{}` at another site, and no guess is counted here",
                    login.method, login.path, login.name
                );
                let help = format!("the application is the same: add login = \"{}\" to this route", login.name);
                self.warn(message, &name.span, help);
            }
        }
    }

    fn unused<'n>(&mut self, table: &str, by: &str, names: impl Iterator<Item = &'n Located<String>>, used: &HashSet<usize>) {
        for (_, name) in names.enumerate().filter(|(at, _)| !used.contains(at)) {
            self.warn(format!("`{table}.{}` is not used by any {by}", name.value), &name.span, "name it there, or take it out");
        }
    }
}

/// Why no request of the route has the key.
fn never_has(key: LimitKey, route: &RouteTable, site: &SiteRules<'_>) -> Option<&'static str> {
    match key {
        LimitKey::Account if route.login.is_none() => {
            Some("an account is what a login attempt names, and the route has no `login`")
        }
        LimitKey::Identity if !site.asks => Some("an identity is what a certificate proves, and the site has no `client_ca`"),
        LimitKey::Tenant if !site.asks => Some("a tenant is what a certificate proves, and the site has no `client_ca`"),
        LimitKey::Tenant
            if site.vouching.as_ref().is_some_and(|sets| sets.iter().all(|vouching| vouching.set.tenant.is_none())) =>
        {
            Some("no CA set of the site gives a `tenant`")
        }
        LimitKey::Approval if route.bots == BotRule::None => Some("the route takes no automation, approved or not"),
        _ => None,
    }
}
