//! One admin request: method and path to a handler, a handler's result to JSON.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{self, ENDPOINTS, Endpoint, LiveConfig, Problem, Reloaded};
use super::peer::Peer;
use super::{Admin, TakenOver, approvals, bans, limits};

/// From the head to the whole body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// A handler's result: a JSON value, or what was wrong.
pub(super) type Handled = Result<Vec<u8>, Refusal>;

/// An answer that is not 200.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub problem: Problem,
}

/// One change that an operator asks for.
pub(super) struct Change {
    pub body: Bytes,
    /// Who asks, as the kernel says it.
    pub by: String,
}

/// Answers one request; every error is an answer.
pub(super) async fn answer(admin: Admin, peer: Peer, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let handled = match *request.method() {
        Method::GET | Method::HEAD => read(&admin, request.uri().path(), request.uri().query()),
        Method::POST => change(admin, peer, request).await,
        _ => Err(wrong_method(request.uri().path())),
    };
    Ok(respond(handled))
}

fn read(admin: &Admin, path: &str, query: Option<&str>) -> Handled {
    match &*segments(path) {
        [] => json(&index()),
        ["status"] => json(&admin.control.status()),
        ["config"] => json(&live_config(admin)),
        ["bans"] => bans::list(admin),
        ["bans", "show"] => bans::show(admin, &parameter(query, "key").ok_or_else(|| Refusal::bad("`?key=` is missing"))?),
        ["approvals"] => json(&admin.approvals.list()),
        ["approvals", id] => approvals::show(admin, id),
        ["approvals", id, "payload"] => approvals::payload(admin, id),
        ["limits"] => limits::show(admin, parameter(query, "most").as_deref()),
        _ => Err(wrong_method(path)),
    }
}

async fn change(admin: Admin, peer: Peer, request: Request<Incoming>) -> Handled {
    let path = request.uri().path().to_owned();
    if !is_endpoint("POST", &path) {
        return Err(wrong_method(&path));
    }
    let body = body(request.into_body()).await?;
    // A task of its own: an operator who hangs up takes neither the change's event nor its place on disk with him.
    let done = tokio::spawn(async move { apply(&admin, &path, Change { body, by: peer.name().await }).await });
    done.await.unwrap_or_else(|_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the command failed inside the gateway")))
}

async fn apply(admin: &Admin, path: &str, change: Change) -> Handled {
    match &*segments(path) {
        ["reload"] => reload(admin).await,
        ["bans", "add"] => bans::add(admin, change).await,
        ["bans", "lift"] => bans::lift(admin, change).await,
        ["approvals"] => approvals::request(admin, change).await,
        ["approvals", id, "sign"] => approvals::sign(admin, id, change).await,
        ["approvals", id, "activate"] => approvals::activate(admin, id, change).await,
        ["approvals", id, "renew"] => approvals::renew(admin, id, change).await,
        ["approvals", id, "suspend"] => approvals::suspend(admin, id, change).await,
        ["approvals", id, "revoke"] => approvals::revoke(admin, id, change).await,
        ["limits", "explain"] => limits::explain(admin, &change),
        _ => Err(wrong_method(path)),
    }
}

async fn reload(admin: &Admin) -> Handled {
    match admin.control.reload().await {
        Ok(TakenOver { generation, warnings }) => json(&Reloaded { generation, path: live_config(admin).path, warnings }),
        // The file is not at fault.
        Err(stopping) if admin.control.ready().is_err() => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, stopping)),
        Err(diagnostics) => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, diagnostics).help("the old config lives on")),
    }
}

fn live_config(admin: &Admin) -> LiveConfig {
    let generation = admin.control.status().get("generation").and_then(serde_json::Value::as_u64);
    LiveConfig { path: admin.control.config().source.path.display().to_string(), generation }
}

fn index() -> Vec<Endpoint> {
    let line = |(method, path, does): &(&str, &str, &str)| Endpoint {
        method: (*method).into(),
        path: (*path).into(),
        does: (*does).into(),
    };
    ENDPOINTS.iter().map(line).collect()
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, problem: Problem::new(error) }
    }

    /// What was sent cannot be meant: 400.
    pub fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.problem.help = Some(help.into());
        self
    }
}

impl Change {
    /// The body as JSON; an empty one is `{}`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body is not what this endpoint takes: {error}")))
    }
}

/// The reason as it stands in records and events.
pub(super) fn said(reason: Option<String>) -> String {
    reason.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "not given".to_owned())
}

/// Serialises an answer.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Handled {
    let wrong = |error: serde_json::Error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let mut text = serde_json::to_vec(value).map_err(wrong)?;
    text.push(b'\n');
    Ok(text)
}

async fn body(incoming: Incoming) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(incoming, api::MAX_BODY).collect()).await {
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {} bytes", api::MAX_BODY)))
        }
        Ok(Err(error)) => Err(Refusal::bad(format!("the body could not be read: {error}"))),
    }
}

fn respond(handled: Handled) -> Response<Full<Bytes>> {
    let (status, body) = match handled {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => (refusal.status, json(&refusal.problem).unwrap_or_default()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}

/// 405 for a path that is there under another method, else 404.
fn wrong_method(path: &str) -> Refusal {
    let there = ["GET", "POST"].into_iter().find(|method| is_endpoint(method, path));
    match there {
        Some(method) => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {method}")),
        None => Refusal::new(StatusCode::NOT_FOUND, "there is no such endpoint").help("GET / lists them"),
    }
}

fn is_endpoint(method: &str, path: &str) -> bool {
    let asked = segments(path);
    ENDPOINTS.iter().any(|(its, template, _)| {
        let template = segments(template.split('?').next().unwrap_or_default());
        *its == method
            && template.len() == asked.len()
            && template.iter().zip(&asked).all(|(want, got)| *want == "ID" || want == got)
    })
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_by_get_is_a_405_and_names_what_it_takes() {
        for path in ["/reload", "/bans/add", "/bans/lift", "/approvals/abc/revoke", "/limits/explain"] {
            let refusal = wrong_method(path);
            assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(refusal.problem.error, format!("{path} takes POST"));
        }
        assert_eq!(wrong_method("/nothing").status, StatusCode::NOT_FOUND);
        assert_eq!(wrong_method("/approvals/abc/eat").status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_index_names_every_endpoint_with_its_method() {
        assert!(is_endpoint("GET", "/"));
        assert!(is_endpoint("GET", "/bans/show"));
        assert!(is_endpoint("POST", "/approvals/4711/sign"));
        assert!(!is_endpoint("POST", "/approvals/4711/payload"));
        assert_eq!(index().len(), ENDPOINTS.len());
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(parameter(Some("key=2001%3Adb8%3A%3A%2F64"), "key").as_deref(), Some("2001:db8::/64"));
        assert_eq!(parameter(Some("most=1"), "key"), None);
        assert_eq!(parameter(None, "key"), None);
    }
}
