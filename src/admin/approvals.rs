//! The register of approvals at the operators' door.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jiff::Timestamp;

use super::api::{Activated, ApprovalPayload, EndApproval, RenewApproval, RequestApproval, SignApproval};
use super::router::{Change, Handled, Refusal, json, said};
use super::{Admin, times};
use crate::config::Config;
use crate::events::Event;
use crate::policy::approval::{Approval, Binding, Terms, bound_set};
use crate::policy::limit::Quota;
use crate::policy::route::{HostPattern, canonical_host};
use crate::state::approvals::RegisterError;
use crate::state::store::Durable;

pub(super) fn show(admin: &Admin, id: &str) -> Handled {
    json(&*find(admin, id)?)
}

pub(super) fn payload(admin: &Admin, id: &str) -> Handled {
    let approval = find(admin, id)?;
    let payload = STANDARD.encode(approval.canonical_bytes());
    json(&ApprovalPayload { approval: Arc::unwrap_or_clone(approval), payload })
}

pub(super) async fn request(admin: &Admin, change: Change) -> Handled {
    let asked: RequestApproval = change.parse()?;
    let now = admin.clock.now();
    let terms = terms(asked, &admin.control.config(), now.wall)?;
    let (approval, durable) = admin.approvals.request(terms, change.by.clone(), now)?;
    told(admin, &approval, "requested", change.by, None, durable).await?;
    json(&*approval)
}

pub(super) async fn sign(admin: &Admin, id: &str, change: Change) -> Handled {
    let asked: SignApproval = change.parse()?;
    let signature = STANDARD.decode(&asked.signature).map_err(|_| Refusal::bad("`signature` is not base64"))?;
    let by = format!("{} ({})", asked.signer, change.by);
    let (approval, durable) = admin.approvals.sign(id, &asked.signer, &signature, by.clone(), admin.clock.now())?;
    told(admin, &approval, "signed", by, None, durable).await?;
    json(&*approval)
}

/// Fails closed: where the register cannot be written the token is not handed out.
pub(super) async fn activate(admin: &Admin, id: &str, change: Change) -> Handled {
    let (approval, token, durable) = admin.approvals.activate(id, change.by.clone(), admin.clock.now())?;
    told(admin, &approval, "activated", change.by, None, durable).await?;
    json(&Activated { id: approval.id.clone(), token, replaced: approval.serial > 1 })
}

pub(super) async fn renew(admin: &Admin, id: &str, change: Change) -> Handled {
    let asked: RenewApproval = change.parse()?;
    let now = admin.clock.now();
    let old = find(admin, id)?;
    let until = end(&asked.until, old.terms.hours.as_deref(), now.wall)?;
    let (approval, durable) = admin.approvals.renew(id, until, change.by.clone(), now)?;
    told(admin, &approval, "renewed", change.by, Some(format!("renews {id}")), durable).await?;
    json(&*approval)
}

pub(super) async fn suspend(admin: &Admin, id: &str, change: Change) -> Handled {
    let reason = said(change.parse::<EndApproval>()?.reason);
    let (approval, durable) = admin.approvals.suspend(id, reason.clone(), change.by.clone(), admin.clock.now())?;
    told(admin, &approval, "suspended", change.by, Some(reason), durable).await?;
    json(&*approval)
}

/// Holds from the next request on, also where the disk fails: then the answer says that it holds in memory only.
pub(super) async fn revoke(admin: &Admin, id: &str, change: Change) -> Handled {
    let reason = said(change.parse::<EndApproval>()?.reason);
    let (approval, durable) = admin.approvals.revoke(id, reason.clone(), change.by.clone(), admin.clock.now())?;
    told(admin, &approval, "revoked", change.by, Some(reason), durable).await?;
    json(&*approval)
}

/// Waits for the disk, tells the change, and answers a failed write as what it is.
async fn told(
    admin: &Admin,
    approval: &Approval,
    action: &'static str,
    by: String,
    reason: Option<String>,
    durable: Durable,
) -> Result<(), Refusal> {
    let written = durable.await;
    admin.events.emit(Event::ApprovalChanged { id: approval.id.clone(), action, by, reason });
    written.map_err(|error| {
        admin.events.emit(Event::StoreFailed { action: "write the register of approvals", error: error.to_string() });
        let told = format!("{} is {action} in memory only, until the store takes it: {error}", approval.id);
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told)
            .help("mend the store; the gateway keeps trying for as long as it runs")
    })
}

fn find(admin: &Admin, id: &str) -> Result<Arc<Approval>, Refusal> {
    admin.approvals.get(id).ok_or_else(|| RegisterError::Unknown(id.to_owned()).into())
}

impl From<RegisterError> for Refusal {
    fn from(error: RegisterError) -> Self {
        let status = match &error {
            RegisterError::Unknown(_) => StatusCode::NOT_FOUND,
            RegisterError::Refused(_) => StatusCode::CONFLICT,
            RegisterError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Terms as they are asked for. Fails closed: everything that could not be judged later is refused here, all at once.
fn terms(asked: RequestApproval, config: &Config, now: Timestamp) -> Result<Terms, Refusal> {
    let mut faults = Vec::new();
    let mut or_fault = |result: Result<Timestamp, String>| result.map_err(|fault| faults.push(fault)).ok();
    let until = or_fault(end(&asked.until, asked.hours.as_deref(), now).map_err(|refusal| refusal.problem.error));
    let not_before = asked.not_before.as_deref().and_then(|text| or_fault(times::not_before(text)));
    let rate =
        asked.rate.as_deref().and_then(|text| Quota::parse(text).map_err(|fault| faults.push(format!("rate: {fault}"))).ok());
    let sites: Vec<String> =
        asked.sites.iter().filter_map(|site| known_host(site, config).map_err(|fault| faults.push(fault)).ok()).collect();
    if let Some(Binding::Identity(name)) = &asked.binding
        && let Err(fault) = bound_to_known(name, config)
    {
        faults.push(fault);
    }
    let terms = Terms {
        kind: asked.kind,
        name: asked.name,
        owner: asked.owner,
        contact: asked.contact,
        purpose: asked.purpose,
        sites,
        methods: asked.methods.iter().map(|method| method.to_ascii_uppercase()).collect(),
        paths: asked.paths,
        rate,
        hours: asked.hours,
        not_before,
        until: until.unwrap_or(Timestamp::MAX),
        from: asked.from.iter().map(ipnet::IpNet::trunc).collect(),
        binding: asked.binding,
        policy_id: config.policy.document.id.clone(),
        policy_version: config.policy.document.version.clone(),
        requested_at: now,
    };
    // Sites that are not known were named already: do not name them a second time as "no site".
    if faults.is_empty() {
        faults = terms.faults();
    }
    if faults.is_empty() { Ok(terms) } else { Err(Refusal::bad(faults.join("\n"))) }
}

fn end(text: &str, hours: Option<&str>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let until = times::until(text, hours).map_err(Refusal::bad)?;
    if until > now { Ok(until) } else { Err(Refusal::bad(format!("until: {text} is over"))) }
}

fn bound_to_known(name: &str, config: &Config) -> Result<(), String> {
    bound_set(name).map_or(Ok(()), |set| known_set(set, config))
}

/// Whether the config has a CA set of this name; the error names those that it has.
pub(super) fn known_set(set: &str, config: &Config) -> Result<(), String> {
    let known: Vec<String> = config.client_cas.iter().map(|known| known.name.to_string()).collect();
    if known.iter().any(|name| name == set) {
        return Ok(());
    }
    Err(match nearest(set, &known) {
        Some(meant) => format!("identity: there is no set {set}; did you mean {meant}?"),
        None if known.is_empty() => format!("identity: there is no set {set}; the config has no `client_ca`"),
        None => format!("identity: there is no set {set}; there are {}", known.join(", ")),
    })
}

/// The canonical host, where a site of the config covers it.
fn known_host(host: &str, config: &Config) -> Result<String, String> {
    let canonical = canonical_host(host).ok_or_else(|| format!("site: {host:?} is not a host name"))?;
    if config.policy.sites.by_host(&canonical).is_some() {
        return Ok(canonical);
    }
    let known: Vec<String> = config.policy.sites.iter().flat_map(|site| &site.hosts).map(written).collect();
    Err(match nearest(&canonical, &known) {
        Some(meant) => format!("site: no site has the host {canonical}; did you mean {meant}?"),
        None => format!("site: no site has the host {canonical}; there are {}", known.join(", ")),
    })
}

fn written(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Wildcard(rest) => format!("*.{rest}"),
    }
}

/// The known name at most a third of the letters away.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let distances = known.iter().map(|other| (distance(name, other), other));
    distances
        .filter(|(distance, other)| distance * 3 <= other.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Levenshtein's distance; both names are hosts, so at most 253 bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.bytes().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.bytes()) {
            let best = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        for (one, other, expected) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("portal", "portal", 0), ("ab", "ba", 2)]
        {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_misspelt_host_finds_the_one_that_was_meant() {
        let known = ["portal.example.com".to_owned(), "api.example.org".to_owned()];
        assert_eq!(nearest("protal.example.com", &known), known.first());
        assert_eq!(nearest("something.else.entirely", &known), None);
    }

    #[test]
    fn register_errors_keep_their_kind() {
        assert_eq!(Refusal::from(RegisterError::Unknown("x".into())).status, StatusCode::NOT_FOUND);
        assert_eq!(Refusal::from(RegisterError::Refused("x".into())).status, StatusCode::CONFLICT);
        assert_eq!(Refusal::from(RegisterError::Store("x".into())).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
