//! The plain port: it never forwards and never reads a body. Every answer is a refusal, or a redirect to the same address
//! behind TLS.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};

use crate::clock::Now;
use crate::config::PlainHttp;
use crate::events::{DecisionId, RequestRecord};
use crate::net::ClientAddr;
use crate::policy::route::canonical_host;
use crate::policy::{CanonicalPath, Denial, Reason};
use crate::upstream::Body;

use super::super::headers;
use super::super::record::Recorder;
use super::super::respond::{self, Asked};
use super::super::{Snapshot, Worker};

/// Answers one request and closes. Fails closed: what cannot be redirected safely is refused.
pub(super) fn answer<B: http_body::Body>(
    worker: &Worker,
    peer: IpAddr,
    client: ClientAddr,
    request: &Request<B>,
) -> Response<Body> {
    let gateway = &worker.gateway;
    let snapshot = gateway.snapshot.load();
    let now = gateway.clock.now();
    let id = DecisionId::fresh(now.wall);
    let decision = headers::decision(id);
    let target = Target::read(request);
    let canonical = target.as_ref().ok();
    let header = |name| request.headers().get(name).cloned();
    let mut record = RequestRecord {
        method: request.method().clone(),
        host: canonical.map(|target| target.host.as_str().into()),
        target: canonical.and_then(|target| target.path.to_target()).or_else(|| request.uri().path_and_query().cloned()),
        user_agent: header(header::USER_AGENT),
        referer: header(header::REFERER),
        ..RequestRecord::begun(id, now.wall, snapshot.generation, [client.ip, peer], request.version())
    };

    let outcome = not_banned(worker, &client, now).and(target).and_then(|target| redirect(&snapshot, request.method(), &target));
    let mut response = match outcome {
        Ok(location) => moved(location, decision),
        Err(denial) => {
            record.reason = Some(denial.reason);
            let response = respond::denial(&denial, decision, &Asked::of(request), &snapshot.policy.document);
            record.cause = Some(denial.cause);
            response
        }
    };
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    record.status = response.status().as_u16();
    let recorder = Recorder::new(record, gateway.events.clone(), gateway.clock.clone(), now);
    response.map(|body| recorder.attach(body))
}

/// Nothing on this port can prove who a client is. Fails closed: a ban of any kind is told, whatever is asked for.
fn not_banned(worker: &Worker, client: &ClientAddr, now: Now) -> Result<(), Denial> {
    let ban = worker.gateway.state.bans.of_client(client, now);
    ban.map_or(Ok(()), |ban| Err(ban.denial(now, "a banned address on the plain port")))
}

/// Where a request wants to go, canonical.
struct Target {
    host: String,
    path: CanonicalPath,
}

impl Target {
    fn read<B>(request: &Request<B>) -> Result<Self, Denial> {
        let refuse = |cause| Denial::new(Reason::BadRequest, cause);
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let authority = match (request.uri().authority(), hosts.next(), hosts.next()) {
            (_, _, Some(_)) => return Err(refuse("several Host fields")),
            // RFC 9112 section 3.2.2: the absolute form's authority stands, whatever Host says.
            (Some(authority), _, _) => authority.as_str(),
            (None, Some(host), None) => host.to_str().map_err(|_| refuse("a Host that is not ASCII"))?,
            (None, None, None) => return Err(refuse("no Host")),
        };
        let host = canonical_host(authority).ok_or_else(|| refuse("a Host that is not a host"))?;
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let path = CanonicalPath::parse(target).map_err(|fault| Denial::new(Reason::BadRequest, fault.to_string()))?;
        Ok(Self { host, path })
    }
}

/// The address behind TLS. Only hosts of known sites are named, so that nobody can make this gateway send people elsewhere.
fn redirect(snapshot: &Snapshot, method: &Method, target: &Target) -> Result<HeaderValue, Denial> {
    let refuse = |cause| Denial::new(Reason::TlsRequired, cause);
    match snapshot.config.listen.plain_http {
        PlainHttp::Redirect if method == Method::GET || method == Method::HEAD => {}
        PlainHttp::Redirect => return Err(refuse("only GET and HEAD are redirected")),
        PlainHttp::Refuse => return Err(refuse("plain HTTP")),
    }
    if snapshot.policy.sites.by_host(&target.host).is_none() {
        return Err(refuse("no site of that host"));
    }
    let port = snapshot.config.listen.https.first().map(|address| address.value.port());
    location(target, port).ok_or_else(|| refuse("an address that cannot stand in Location"))
}

fn location(target: &Target, port: Option<u16>) -> Option<HeaderValue> {
    let port = match port {
        None | Some(0 | 443) => String::new(),
        Some(port) => format!(":{port}"),
    };
    let query = target.path.query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::try_from(format!("https://{}{port}{}{query}", target.host, target.path.as_str())).ok()
}

/// 308 keeps the method; browsers may remember it.
fn moved(location: HeaderValue, decision: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(headers::DOORWARD_DECISION, decision);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(request: http::request::Builder) -> Result<Target, Denial> {
        Target::read(&request.body(()).unwrap())
    }

    #[test]
    fn a_redirect_names_the_canonical_host_and_path_and_the_tls_port() {
        let target = target(Request::get("/orders/%7e17?a=b%20c").header("host", "PORTAL.example.com.:8080")).unwrap();
        let at = |port| location(&target, port).unwrap();
        assert_eq!(at(Some(443)), "https://portal.example.com/orders/~17?a=b%20c");
        assert_eq!(at(Some(8443)), "https://portal.example.com:8443/orders/~17?a=b%20c");
        assert_eq!(at(Some(0)), at(Some(443)));
    }

    #[test]
    fn open_redirect_what_has_two_readings_is_refused() {
        for request in [
            Request::get("//evil.example/"),
            Request::get("/..%2f"),
            Request::get("/a/../b"),
            Request::get("/").header("host", "other.example.com"),
            Request::options("*"),
        ] {
            let refused = target(request.header("host", "portal.example.com"));
            assert_eq!(refused.err().map(|denial| denial.reason), Some(Reason::BadRequest));
        }
        assert!(target(Request::get("/")).is_err());
        assert!(target(Request::get("/").header("host", "portal.example.com@evil")).is_err());
    }
}
