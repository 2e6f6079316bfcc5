//! Request + connection + state -> Facts. Gathers; never judges.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, request};
use quick_cache::sync::Cache;

use crate::clock::Now;
use crate::config::Caps;
use crate::events::Event;
use crate::net::ClientAddr;
use crate::policy::approval::ApprovalUse;
use crate::policy::bot::{BotClass, BotClassifier};
use crate::policy::decide::BanFact;
use crate::policy::route::{canonical_host, names_host};
use crate::policy::{ApprovalFact, ApprovalFault, CanonicalPath, CertFact, Denial, Facts, LiveApproval, Name, Reason, Site};
use crate::tls;

use super::inbound::Ambiguous;
use super::{Connection, Gateway, Snapshot};

const DOORWARD_APPROVAL: HeaderName = HeaderName::from_static("doorward-approval");

/// Longest User-Agent that is classified whole, in bytes; the rest of a longer one says nothing more.
const MAX_USER_AGENT: usize = 512;

/// What a request asks for, in the only form that is decided on and forwarded.
#[derive(Debug)]
pub struct Target {
    /// As the client sent it.
    pub authority: HeaderValue,
    /// Lower case, without port.
    pub host: Name,
    pub path: CanonicalPath,
}

/// The bot classifier with its verdicts cached by User-Agent.
pub struct Bots {
    classifier: BotClassifier,
    verdicts: Cache<Box<[u8]>, BotClass>,
}

/// Everything that facts are gathered from: of a request that is to be decided, or of a stay that is decided anew.
pub struct Scene<'a> {
    pub gateway: &'a Gateway,
    pub snapshot: &'a Snapshot,
    pub connection: &'a Connection,
    pub client: &'a ClientAddr,
    /// `None`: no site of the snapshot is meant any more, so nobody vouches for a certificate.
    pub site: Option<&'a Site>,
    pub host: &'a Name,
    pub path: &'a CanonicalPath,
    pub method: &'a Method,
    pub bot: BotClass,
    pub claim: Claim<'a>,
    pub address_ban: Option<BanFact>,
    pub now: Now,
}

/// The approval that somebody says to have.
pub enum Claim<'a> {
    /// By the one token of a request, as [`presented_token`] read it.
    Token(Result<Option<&'a [u8]>, ApprovalFault>),
    /// By one that was judged before: the approval as it was then.
    Judged(Option<&'a LiveApproval>),
}

impl Scene<'_> {
    /// Certificate, approval, bot class and bans of one request.
    pub fn facts(&self) -> Facts {
        let cert = self.certificate();
        let approval = self.approval(&cert);
        let ban = |key: &Name| self.gateway.state.bans.of_identity(key, self.now);
        let of_cert = if let CertFact::Held(identity) = &cert { ban(&identity.key) } else { None };
        let of_approval = if let ApprovalFact::Held(approval) = &approval { ban(&approval.id) } else { None };
        // Whoever proves two things is held by a ban of either.
        let identity_ban = of_cert.into_iter().chain(of_approval).max_by_key(|ban| ban.until);
        Facts { cert, bot: self.bot, approval, address_ban: self.address_ban.clone(), identity_ban }
    }

    /// Fails closed: a verdict is kept per connection and generation, and no longer than the first thing behind it expires.
    fn certificate(&self) -> CertFact {
        let Some(site) = self.site.filter(|site| !site.client_ca.is_empty() && !self.connection.chain.is_empty()) else {
            return CertFact::Absent;
        };
        let mut kept = self.connection.verdict.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let verdict = match &*kept {
            Some((generation, verdict)) if *generation == self.snapshot.generation && verdict.stands_at(self.now.wall) => {
                verdict.clone()
            }
            _ => {
                let verdict = self.snapshot.tls.judge(site.id, &self.connection.chain, self.now);
                // Once a connection and cause: a long exchange has it judged again and again.
                if kept.as_ref().is_none_or(|(_, before)| before.result.as_ref().err() != verdict.result.as_ref().err()) {
                    self.tell_refusal(&verdict);
                }
                *kept = Some((self.snapshot.generation, verdict.clone()));
                verdict
            }
        };
        match verdict.result {
            Ok(identity) => CertFact::Held(identity),
            Err(cause) => CertFact::Refused(cause),
        }
    }

    fn tell_refusal(&self, verdict: &tls::CertVerdict) {
        let (Err(cause), Some(leaf)) = (&verdict.result, self.connection.chain.first()) else { return };
        let (subject, issuer) = tls::describe(leaf);
        self.gateway.events.emit(Event::CertificateRefused {
            client: self.client.ip,
            site: self.host.to_string(),
            subject,
            issuer,
            cause: *cause,
            in_handshake: false,
        });
    }

    /// A presented token is judged in full, wherever it is presented.
    fn approval(&self, cert: &CertFact) -> ApprovalFact {
        let approvals = &self.gateway.state.approvals;
        let claimed = match self.claim {
            Claim::Token(Ok(None)) | Claim::Judged(None) => return ApprovalFact::Absent,
            Claim::Token(Ok(Some(token))) => approvals.present(token),
            Claim::Token(Err(fault)) => Err(fault),
            Claim::Judged(Some(before)) => approvals.standing(before),
        };
        let used = ApprovalUse {
            client: self.client,
            host: self.host,
            method: self.method,
            path: self.path,
            identity: match cert {
                CertFact::Held(identity) => Some(identity),
                _ => None,
            },
        };
        match claimed.and_then(|(live, serial)| live.judge(serial, &used, self.now).map(|()| live)) {
            Ok(live) => ApprovalFact::Held(live),
            Err(fault) => ApprovalFact::Refused(fault),
        }
    }
}

impl Bots {
    /// Compiles the crawler list once per process.
    pub fn new() -> Self {
        Self { classifier: BotClassifier::new(), verdicts: Cache::new(4096) }
    }

    pub fn classify(&self, headers: &HeaderMap) -> BotClass {
        let Some(agent) = headers.get(USER_AGENT).map(|value| value.as_bytes()) else {
            return BotClass::NoUserAgent;
        };
        let agent = agent.get(..MAX_USER_AGENT).unwrap_or(agent);
        if let Some(class) = self.verdicts.get(agent) {
            return class;
        }
        let class = self.classifier.classify(Some(agent));
        self.verdicts.insert(agent.into(), class);
        class
    }
}

impl Default for Bots {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the one host and the one canonical path of a request head. Fails closed: two hosts, hosts that differ, a
/// target with two readings or ambiguous framing are a 400.
///
/// `server_name` is the handshake's: nearly every request names it, and then has it for its host.
pub fn target(head: &request::Parts, server_name: Option<&Name>) -> Result<Target, Denial> {
    if let Some(Ambiguous(cause)) = head.extensions.get() {
        return Err(Denial::new(Reason::BadRequest, *cause));
    }
    if head.method == Method::CONNECT {
        return Err(Denial::new(Reason::BadRequest, "CONNECT is not served"));
    }
    // RFC 9110 section 9.3.8: it answers with the request, and so with what this gateway told the application alone.
    if head.method == Method::TRACE {
        return Err(Denial::new(Reason::BadRequest, "TRACE is not served"));
    }
    if head.uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS && *scheme != Scheme::HTTP) {
        return Err(Denial::new(Reason::BadRequest, "a target of another scheme"));
    }
    let authority = authority(&head.uri, &head.headers)?;
    let named = authority.to_str().map_err(|_| Denial::new(Reason::BadRequest, "the host is not text"))?;
    let host = match server_name {
        Some(known) if names_host(named, known) => Arc::clone(known),
        _ => canonical_host(named).ok_or_else(|| Denial::new(Reason::BadRequest, "the host is not canonical"))?.into(),
    };
    let path = match head.uri.path_and_query() {
        Some(target) => CanonicalPath::of(target),
        None => CanonicalPath::parse(""),
    };
    let path = path.map_err(|fault| Denial::new(Reason::BadRequest, format!("target: {fault}")))?;
    Ok(Target { authority, host, path })
}

/// Refuses a head over `caps.head` or `caps.headers`. Fails closed. HTTP/1 ends most of them while they are parsed, but fills
/// its buffer beyond the cap in its last read; HTTP/2 caps bytes only.
pub fn head(head: &request::Parts, caps: &Caps) -> Result<(), Denial> {
    // `GET / HTTP/1.1` and `name: value`, each with its line end.
    let target = head.method.as_str().len() + head.uri.path_and_query().map_or(0, |target| target.as_str().len()) + 12;
    let bytes = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    if bytes.fold(target, usize::saturating_add) > caps.head {
        return Err(Denial::new(Reason::HeadTooLarge, "the head is over the cap"));
    }
    if head.headers.len() > caps.headers {
        // A cookie in several lines counts once: HTTP/2 clients split it to compress it (RFC 9113 section 8.2.3).
        let crumbs = head.headers.get_all(COOKIE).iter().count().saturating_sub(1);
        if head.headers.len() - crumbs > caps.headers {
            return Err(Denial::new(Reason::HeadTooLarge, "more header lines than the cap"));
        }
    }
    Ok(())
}

/// Refuses a body that declares itself over the cap, before a byte of it is read.
pub fn declared_body(headers: &HeaderMap, cap: u64) -> Result<(), Denial> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match declared {
        Some(length) if length > cap => Err(Denial::new(Reason::BodyTooLarge, "Content-Length is over the cap")),
        _ => Ok(()),
    }
}

/// Whether the request brings something that could prove who the caller is: only then is a banned address heard further.
pub fn may_prove(connection: &Connection, headers: &HeaderMap) -> bool {
    !connection.chain.is_empty() || !matches!(presented_token(headers), Ok(None))
}

fn authority(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Denial> {
    let refused = |cause: &'static str| Denial::new(Reason::BadRequest, cause);
    let mut lines = headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(refused("two Host lines"));
    }
    match (uri.authority(), line) {
        (None, None) => Err(refused("no host")),
        (None, Some(host)) => Ok(host.clone()),
        (Some(named), Some(host)) if !named.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err(refused("the target and the Host line differ"))
        }
        (Some(named), _) => HeaderValue::from_str(named.as_str()).map_err(|_| refused("the host is not text")),
    }
}

/// The one token of a request: `Authorization: Doorward <token>` or `Doorward-Approval: <token>`. Two are unreadable.
pub fn presented_token(headers: &HeaderMap) -> Result<Option<&[u8]>, ApprovalFault> {
    const SCHEME: &[u8] = b"doorward";
    let mut found = None;
    let dedicated = headers.get_all(DOORWARD_APPROVAL).iter().map(|value| value.as_bytes());
    let authorized = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(SCHEME.len())?;
        let names_us = scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(|byte| *byte == b' ');
        names_us.then(|| rest.trim_ascii())
    });
    for token in dedicated.chain(authorized) {
        if found.replace(token.trim_ascii()).is_some() {
            return Err(ApprovalFault::Unreadable);
        }
    }
    Ok(found)
}

/// Who answers for a guess: the proven caller, else his address.
pub fn guesser(client: &ClientAddr, permit: &crate::policy::Permit) -> crate::state::guesses::Guesser {
    use crate::state::guesses::Guesser;
    match (permit.identity(), permit.approval()) {
        (Some(identity), _) => Guesser::Identity(Arc::clone(&identity.key)),
        (None, Some(approval)) => Guesser::Identity(Arc::clone(&approval.id)),
        (None, None) => Guesser::Client(client.key),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::limit::Quota;

    fn parts(request: http::request::Builder) -> request::Parts {
        request.body(()).expect("a well-formed request").into_parts().0
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                    http::HeaderValue::from_str(value).expect("a value"),
                )
            })
            .collect()
    }

    #[test]
    fn methods_that_are_not_for_the_application_are_refused() {
        for method in [Method::TRACE, Method::CONNECT] {
            let refused = target(&parts(http::Request::builder().method(&method).uri("/x").header(HOST, "a.example")), None);
            assert_eq!(refused.expect_err("not served").reason, Reason::BadRequest, "{method}");
        }
    }

    #[test]
    fn a_request_names_exactly_one_host() {
        let two = parts(http::Request::get("/").header(HOST, "a.example").header(HOST, "a.example"));
        assert_eq!(target(&two, None).expect_err("two hosts").reason, Reason::BadRequest);
        let none = parts(http::Request::get("/"));
        assert_eq!(target(&none, None).expect_err("no host").reason, Reason::BadRequest);
        let differing = parts(http::Request::get("https://a.example/").header(HOST, "b.example"));
        assert_eq!(target(&differing, None).expect_err("two readings").reason, Reason::BadRequest);
        let one = parts(http::Request::get("https://A.example:8443/x?y=1"));
        let target = target(&one, None).expect("one host");
        assert_eq!((&*target.host, target.path.as_str(), target.path.query()), ("a.example", "/x", Some("y=1")));
    }

    #[test]
    fn trap_unbounded_head_is_capped_by_lines_and_bytes_and_cookie_crumbs_count_once() {
        let caps = |headers, head| Caps {
            headers,
            head,
            connections: 1,
            connections_per_client: 1,
            handshakes_per_client: Quota { requests: 1, per: Duration::from_secs(1), burst: 1 },
            streams: 1,
        };
        let of = |lines: &[(&str, &str)]| {
            let mut parts = self::parts(http::Request::get("/"));
            parts.headers = headers(lines);
            parts
        };
        let three = of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert!(super::head(&three, &caps(3, 1024)).is_ok());
        assert_eq!(super::head(&three, &caps(2, 1024)).expect_err("one too many").reason, Reason::HeadTooLarge);
        assert_eq!(super::head(&three, &caps(3, 33)).expect_err("a byte too many").reason, Reason::HeadTooLarge);
        assert!(super::head(&three, &caps(3, 34)).is_ok());
        let crumbs = of(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("d", "4")]);
        assert!(super::head(&crumbs, &caps(2, 1024)).is_ok());
        assert!(super::head(&crumbs, &caps(1, 1024)).is_err());
    }

    #[test]
    fn a_token_is_read_from_either_header_but_only_once() {
        assert_eq!(presented_token(&headers(&[])), Ok(None));
        assert_eq!(presented_token(&headers(&[("authorization", "Bearer x")])), Ok(None));
        assert_eq!(presented_token(&headers(&[("authorization", "Doorwards x")])), Ok(None));
        assert_eq!(presented_token(&headers(&[("authorization", "dOORWARD  x ")])), Ok(Some(&b"x"[..])));
        assert_eq!(presented_token(&headers(&[("doorward-approval", "x")])), Ok(Some(&b"x"[..])));
        let both = headers(&[("authorization", "Doorward x"), ("doorward-approval", "x")]);
        assert_eq!(presented_token(&both), Err(ApprovalFault::Unreadable));
        let bare = headers(&[("authorization", "Doorward")]);
        assert_eq!(presented_token(&bare), Ok(Some(&b""[..])));
    }
}
