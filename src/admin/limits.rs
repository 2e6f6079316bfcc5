//! Limits at the operators' door: what is used most, and how a request would fare. Nothing here spends.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, StatusCode};
use jiff::Timestamp;

use super::api::{BanHeld, ExplainLimits, Explained, GuessesLeft, ends};
use super::router::{Change, Handled, Refusal, json};
use super::{Admin, times};
use crate::clock::Now;
use crate::config::{ClientCa, Config};
use crate::net::ClientAddr;
use crate::policy::approval::{Approval, ApprovalUse};
use crate::policy::ban::BanAnswer;
use crate::policy::bot::BotClass;
use crate::policy::decide::BanFact;
use crate::policy::login::{AccountKey, ExactAccount, LoginRule};
use crate::policy::route::{HostPattern, canonical_host};
use crate::policy::{ApprovalFact, ApprovalFault, CanonicalPath, CertFact, Denial, Facts, Identity, LiveApproval, Route, Site};
use crate::state::guesses::Guesser;
use crate::state::limits::{LimitSubject, LimitView};

/// Keys of every limit, where the question names no number.
const MOST: usize = 20;
/// Keys of every limit that one answer may hold.
const MOST_EVER: usize = 10_000;

pub(super) fn show(admin: &Admin, most: Option<&str>) -> Handled {
    let most = match most {
        None => MOST,
        Some(text) => text.parse::<usize>().map_err(|_| Refusal::bad("`most` is not a number"))?.min(MOST_EVER),
    };
    json(&admin.limits.show(most, admin.clock.now()))
}

pub(super) fn explain(admin: &Admin, change: &Change) -> Handled {
    let asked: ExplainLimits = change.parse()?;
    let config = admin.control.config();
    let now = admin.clock.now();
    let question = Question::read(admin, &config, &asked, now)?;
    json(&question.answer(admin, &config, now))
}

/// A request that might come, every part of it found.
struct Question<'a> {
    client: ClientAddr,
    method: Method,
    host: String,
    path: CanonicalPath,
    site: &'a Site,
    route: Option<&'a Route>,
    caller: Option<Arc<Identity>>,
    /// As the gateway would judge the approval's token.
    approval: ApprovalFact,
    account: Option<AccountKey>,
    /// The account as an attempt would name it; where the request is none, as no attempt does.
    exact: Option<ExactAccount>,
}

impl<'a> Question<'a> {
    fn read(admin: &Admin, config: &'a Config, asked: &ExplainLimits, now: Now) -> Result<Self, Refusal> {
        let ip: IpAddr =
            asked.client.trim().parse().map_err(|_| Refusal::bad(format!("client: {:?} is not an address", asked.client)))?;
        let method = asked.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::bad(format!("method: {method:?} is no method")))?;
        let path = CanonicalPath::parse(&asked.path).map_err(|fault| {
            Refusal::bad(format!("path: {:?} has no canonical form: {fault}", asked.path))
                .help("the gateway answers it with 400 bad-request")
        })?;
        let host = host(config, asked.host.as_deref())?;
        let site =
            config.policy.sites.by_host(&host).ok_or_else(|| Refusal::bad(format!("host: no site has the host {host}")))?;
        let account =
            asked.account.as_deref().map(|name| AccountKey::new(name).ok_or_else(|| Refusal::bad("account: no name is left")));
        let approval = asked.approval.as_deref().map(|id| {
            let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("there is no approval {id}"));
            admin.approvals.get(id).ok_or_else(missing)
        });
        let (approval, account) = (approval.transpose()?, account.transpose()?);
        let mut question = Self {
            client: ClientAddr::new(ip, config.ipv6_prefix),
            method,
            route: site.route(&path).ok().map(AsRef::as_ref),
            host,
            path,
            caller: asked.identity.as_deref().map(|name| caller(name, site, config).map(Arc::new)).transpose()?,
            site,
            approval: ApprovalFact::Absent,
            account,
            exact: None,
        };
        question.exact = asked.account.as_deref().map(|name| {
            let rule = question.login().map_or("", |rule| &*rule.name);
            ExactAccount::new(&question.host, rule, name.as_bytes())
        });
        if let Some(record) = approval {
            question.approval = question.judged(record, now);
        }
        Ok(question)
    }

    /// Fails closed, as for a request: an approval counts only where it holds now, for this request.
    fn judged(&self, record: Arc<Approval>, now: Now) -> ApprovalFact {
        // A request would bring the latest token.
        let serial = record.serial;
        let Ok(live) = LiveApproval::compile(record) else { return ApprovalFact::Refused(ApprovalFault::NotActive) };
        // Who asks names nobody's certificate: it is taken to be the one that the approval is bound to.
        let caller = self.caller.as_deref().map(|identity| match live.bound_certificate() {
            Some(cert_sha256) => Identity { cert_sha256, ..identity.clone() },
            None => identity.clone(),
        });
        let (client, method, path) = (&self.client, &self.method, &self.path);
        let used = ApprovalUse { client, host: &self.host, method, path, identity: caller.as_ref() };
        match live.judge(serial, &used, now) {
            Ok(()) => ApprovalFact::Held(Arc::new(live)),
            Err(fault) => ApprovalFact::Refused(fault),
        }
    }

    fn answer(&self, admin: &Admin, config: &Config, now: Now) -> Explained {
        let bans = self.bans(admin, config, now);
        let guesses = self.guesses(admin, now);
        let account_guesses = self.account_guesses(admin, now);
        let peek =
            |route: &Route, subject: &LimitSubject<'_>| admin.limits.peek(&config.policy.limits, &route.limits, subject, now);
        let limits = self.route.map(|route| peek(route, &self.subject(route))).unwrap_or_default();
        let by_client = LimitSubject { client: Some(self.client.key), ..Default::default() };
        let checks = Checks {
            bans: &bans,
            by_client: &self.route.map(|route| peek(route, &by_client)).unwrap_or_default(),
            denial: self.route.and_then(|route| config.policy.decide(route, &self.facts(), now).err()),
            limits: &limits,
            guesses: &guesses,
            account_guesses: account_guesses.as_ref(),
        };
        let (passes, decides, verdict) = self.verdict(checks, now.wall);
        Explained {
            client: self.client.key.to_string(),
            method: self.method.to_string(),
            host: self.host.clone(),
            path: self.path.as_str().to_owned(),
            route: self.route.map(|route| route.label.to_string()),
            decides,
            passes,
            verdict,
            bans,
            guesses,
            account_guesses,
            limits,
        }
    }

    fn subject<'s>(&'s self, route: &'s Route) -> LimitSubject<'s> {
        LimitSubject {
            client: Some(self.client.key),
            identity: self.caller.as_deref().map(|caller| &*caller.key),
            approval: self.held().map(|approval| &*approval.id),
            approval_rate: self.held().and_then(|approval| approval.record.terms.rate),
            account: self.account.as_ref(),
            tenant: self.caller.as_deref().and_then(|caller| caller.tenant.as_deref()),
            route: Some(route.id),
            route_label: Some(&route.label),
        }
    }

    /// What `decide` judges, bans aside. Nobody says how the request would look: without an approval it is taken for a browser's.
    fn facts(&self) -> Facts {
        Facts {
            cert: self.caller.clone().map_or(CertFact::Absent, CertFact::Held),
            bot: BotClass::Unmarked,
            approval: self.approval.clone(),
            address_ban: None,
            identity_ban: None,
        }
    }

    /// Bans of the client, the identity and the account, and whether each holds this request.
    fn bans(&self, admin: &Admin, config: &Config, now: Now) -> Vec<BanHeld> {
        let explains = config.policy.bans.answer == BanAnswer::Explain;
        let proven = self.proven().is_some();
        let held = |of: &str, ban: BanFact, holds: bool| BanHeld { of: of.to_owned(), until: ends(ban.until), holds };
        let client = admin.bans.of_client(&self.client, now).map(|ban| {
            let holds = ban.always || !(explains && proven);
            held("client", ban, holds)
        });
        let keys = [self.caller.as_deref().map(|caller| &caller.key), self.held().map(|approval| &approval.id)];
        let identity = keys.into_iter().flatten().filter_map(|key| admin.bans.of_identity(key, now)).max_by_key(|ban| ban.until);
        let identity = identity.map(|ban| held("identity", ban, true));
        let account = self.account.as_ref().and_then(|account| admin.bans.of_account(account, now));
        let account = account.map(|ban| held("account", ban, self.is_login()));
        [client, identity, account].into_iter().flatten().collect()
    }

    fn guesses(&self, admin: &Admin, now: Now) -> GuessesLeft {
        GuessesLeft::of(admin.guesses.peek(&self.guesser(), now))
    }

    /// `None` where no account is named, or its budget does not hold this caller.
    fn account_guesses(&self, admin: &Admin, now: Now) -> Option<GuessesLeft> {
        let (account, exact) = self.account.as_ref().zip(self.exact.as_ref())?;
        admin.guesses.peek_account(&self.guesser(), account, exact, now).map(GuessesLeft::of)
    }

    fn guesser(&self) -> Guesser {
        self.proven().map_or(Guesser::Client(self.client.key), |key| Guesser::Identity(key.into()))
    }

    /// Who answers for what is done, where somebody proved who he is.
    fn proven(&self) -> Option<&str> {
        let approval = || self.held().map(|approval| &*approval.id);
        self.caller.as_deref().map(|caller| &*caller.key).or_else(approval)
    }

    fn held(&self) -> Option<&LiveApproval> {
        match &self.approval {
            ApprovalFact::Held(approval) => Some(approval),
            ApprovalFact::Absent | ApprovalFact::Refused(_) => None,
        }
    }

    fn is_login(&self) -> bool {
        self.login().is_some()
    }

    fn login(&self) -> Option<&LoginRule> {
        self.site.attempts(self.route?, &self.method, &self.path).next().map(|rule| &**rule)
    }

    /// Whether it passes, the rule that decides, and the sentence; in the order in which the gateway checks.
    fn verdict(&self, checks: Checks<'_>, now: Timestamp) -> (bool, Option<String>, String) {
        let Checks { bans, by_client, denial, limits, guesses, account_guesses } = checks;
        let spent = |limit: &LimitView| {
            let wait = times::human(std::time::Duration::from_millis(limit.wait_ms.saturating_add(999)));
            let told = format!("refused: {} ({}) is spent, one more in {wait}", limit.limit, limit.rate);
            (false, Some(limit.limit.clone()), told)
        };
        let refuses = |limit: &&LimitView| enforced(limit) && limit.wait_ms > 0;
        if let Some(ban) = bans.iter().find(|ban| ban.holds) {
            let end = ban.until.map_or("until it is lifted".to_owned(), |until| format!("ends {}", times::relative(until, now)));
            return (false, Some("ban".to_owned()), format!("refused: the {} is banned ({end})", ban.of));
        }
        if self.route.is_none() {
            return (
                false,
                Some("route".to_owned()),
                format!("refused: {} has no route for {}", site_name(self.site), self.path.as_str()),
            );
        }
        if let Some(limit) = by_client.iter().find(refuses) {
            return spent(limit);
        }
        if let Some(Denial { reason, cause, .. }) = denial {
            return (false, Some(reason.code().to_owned()), format!("refused: {} ({cause})", reason.code()));
        }
        if self.is_login() {
            let guesses_decide = |told: String| (false, Some("guesses".to_owned()), told);
            if guesses.left == 0 {
                return guesses_decide(format!("refused: the guess budget of {} is spent", guesses.limit));
            }
            if let Some(spent) = account_guesses.filter(|guesses| guesses.left == 0) {
                return guesses_decide(format!("refused: the account's guess budget of {} is spent", spent.limit));
            }
        }
        if let Some(limit) = limits.iter().find(refuses) {
            return spent(limit);
        }
        match limits.iter().filter(|limit| enforced(limit)).min_by_key(|limit| limit.remaining) {
            Some(limit) => (
                true,
                Some(limit.limit.clone()),
                format!("no limit refuses it: {} is nearest, {} of {} left", limit.limit, limit.remaining, limit.burst),
            ),
            None => (true, None, "no limit refuses it: none applies".to_owned()),
        }
    }
}

/// Everything that decides, in the order in which the gateway checks.
struct Checks<'a> {
    bans: &'a [BanHeld],
    /// Limits of which the client alone is the key.
    by_client: &'a [LimitView],
    denial: Option<Denial>,
    limits: &'a [LimitView],
    guesses: &'a GuessesLeft,
    account_guesses: Option<&'a GuessesLeft>,
}

/// A proven caller: `SET:NAME` of any set of the site, or a bare name where exactly one set vouches there.
fn caller(name: &str, site: &Site, config: &Config) -> Result<Identity, Refusal> {
    let sets: Vec<&ClientCa> = site.client_ca.iter().filter_map(|index| config.client_cas.get(*index)).collect();
    let of = |set: &ClientCa, name: &str| Identity {
        set: Arc::clone(&set.name),
        name: name.into(),
        key: format!("{}:{name}", set.name).into(),
        kind: set.kind,
        tenant: set.tenant.clone(),
        roles: set.roles.clone(),
        cert_sha256: [0; 32],
        path: Arc::default(),
    };
    let named = |set: &ClientCa| Some(of(set, name.strip_prefix(&*set.name)?.strip_prefix(':')?));
    if let Some(caller) = sets.iter().find_map(|set| named(set)) {
        return Ok(caller);
    }
    match *sets {
        [set] => Ok(of(set, name)),
        [] => Err(Refusal::bad(format!("identity: nobody vouches at {}", site_name(site))).help("the site has no `client_ca`")),
        _ => {
            let choices: Vec<String> = sets.iter().map(|set| format!("{}:{name}", set.name)).collect();
            Err(Refusal::bad("identity: several sets vouch here").help(format!("say which: {}", choices.join(" or "))))
        }
    }
}

fn enforced(limit: &LimitView) -> bool {
    limit.mode != "shadow"
}

/// The host that was asked for, or the only one there is.
fn host(config: &Config, asked: Option<&str>) -> Result<String, Refusal> {
    if let Some(host) = asked {
        return canonical_host(host).ok_or_else(|| Refusal::bad(format!("host: {host:?} is not a host name")));
    }
    let exact = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(host) => Some(host.clone()),
        HostPattern::Wildcard(_) => None,
    };
    let hosts: Vec<String> = config.policy.sites.iter().filter_map(|site| site.hosts.iter().find_map(exact)).collect();
    match <[String; 1]>::try_from(hosts) {
        Ok([only]) if config.policy.sites.iter().count() == 1 => Ok(only),
        Ok(several) => Err(name_host(&several)),
        Err(several) => Err(name_host(&several)),
    }
}

fn name_host(several: &[String]) -> Refusal {
    Refusal::bad("host: say which site (--host)").help(several.join(", "))
}

fn site_name(site: &Site) -> String {
    match site.hosts.first() {
        Some(HostPattern::Exact(host)) => host.clone(),
        Some(HostPattern::Wildcard(rest)) => format!("*.{rest}"),
        None => "the site".to_owned(),
    }
}
