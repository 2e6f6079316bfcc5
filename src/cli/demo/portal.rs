//! A toy customer portal: a login page, a session, a page behind it, a JSON API, a WebSocket echo, a large download.
//! The demo and the tests put the gateway in front of it, and ask it afterwards what it has seen.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The one account of the portal.
pub const ACCOUNT: (&str, &str) = ("alice", "correct horse battery staple");
/// Largest form that is read, in bytes.
const MAX_FORM: usize = 1 << 20;
/// Paths that answer with a small JSON list.
const LISTS: &[&str] = &["/orders", "/api/orders", "/reports", "/public"];
const CHUNK: usize = 64 * 1024;
const SESSION: &str = "session=demo-session";

type PortalBody = UnsyncBoxBody<Bytes, Infallible>;

/// A running portal; it ends with the process or the runtime it was started on.
#[derive(Clone)]
pub struct Portal {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    pub mood: Arc<Mood>,
}

/// What reached the portal; health checks are not counted.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: AtomicU64,
    /// `POST /login` with a readable form.
    pub attempts: AtomicU64,
}

/// How the portal behaves.
#[derive(Debug, Default)]
pub struct Mood {
    /// Milliseconds before a login is answered.
    pub login_delay: AtomicU64,
    /// Milliseconds more for the account that exists: its password is hashed, nobody else's is.
    pub hash_delay: AtomicU64,
    /// 0: as it should; else every login gets this status.
    pub login_status: AtomicU16,
}

impl Portal {
    /// Listens on a free loopback port and serves on the current runtime.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let portal = Self { address: listener.local_addr()?, seen: Arc::default(), mood: Arc::default() };
        tokio::spawn(portal.clone().accept(listener));
        Ok(portal)
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let portal = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| portal.clone().answer(request));
                // The peer may be gone; a toy has nobody to tell.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
            });
        }
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<PortalBody>, Infallible> {
        let path = request.uri().path().to_owned();
        if path != "/healthz" {
            self.seen.requests.fetch_add(1, Ordering::SeqCst);
        }
        let response = match (request.method(), path.as_str()) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "ok"),
            (&Method::GET, "/") => page("Portal", "<p><a href=\"/login\">Sign in</a></p>"),
            (&Method::GET, "/login") => page("Sign in", LOGIN_FORM),
            (&Method::POST, "/login") => self.login(request).await,
            (&Method::GET, "/home") if signed_in(&request) => page("Home", "<p>Welcome back.</p>"),
            (&Method::GET, "/home") => redirect("/login", None),
            (&Method::GET, "/ws") => websocket(&mut request),
            (&Method::GET, "/download") => download(request.uri().query()),
            (_, "/echo") | (_, "/api/echo") => echo(request).await,
            (&Method::GET, orders) if LISTS.iter().any(|list| orders.starts_with(list)) => {
                json_answer(&json!({ "path": orders, "orders": [{ "id": 17, "item": "lamp" }, { "id": 18, "item": "chair" }] }))
            }
            _ => text(StatusCode::NOT_FOUND, "no such page"),
        };
        Ok(response)
    }

    async fn login(self, request: Request<Incoming>) -> Response<PortalBody> {
        let Ok(body) = Limited::new(request.into_body(), MAX_FORM).collect().await else {
            return text(StatusCode::BAD_REQUEST, "unreadable form");
        };
        self.seen.attempts.fetch_add(1, Ordering::SeqCst);
        let form = body.to_bytes();
        let field = |name: &str| form_urlencoded::parse(&form).find(|(key, _)| key == name).map(|(_, value)| value);
        let known = field("username").as_deref() == Some(ACCOUNT.0);
        let hashing = if known { self.mood.hash_delay.load(Ordering::SeqCst) } else { 0 };
        let delay = self.mood.login_delay.load(Ordering::SeqCst) + hashing;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if let Ok(status) = StatusCode::from_u16(self.mood.login_status.load(Ordering::SeqCst)) {
            return text(status, "the portal is out of order");
        }
        if known && field("password").as_deref() == Some(ACCOUNT.1) {
            redirect("/home", Some(SESSION))
        } else {
            redirect("/login?error=1", None)
        }
    }
}

const LOGIN_FORM: &str = "<form method=\"post\" action=\"/login\">\
<p><label>User <input name=\"username\" autocomplete=\"username\"></label></p>\
<p><label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\"></label></p>\
<p><button>Sign in</button></p></form>";

fn signed_in(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get_all(COOKIE)
        .iter()
        .any(|line| line.to_str().is_ok_and(|line| line.split(';').any(|pair| pair.trim() == SESSION)))
}

fn websocket(request: &mut Request<Incoming>) -> Response<PortalBody> {
    let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
        return text(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket");
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A close is answered by reading on.
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert("sec-websocket-accept", accept);
    }
    response
}

/// `?mib=N` zero bytes, streamed; 64 MiB without.
fn download(query: Option<&str>) -> Response<PortalBody> {
    let mib: usize = query.and_then(|query| query.strip_prefix("mib=")?.parse().ok()).unwrap_or(64).min(1024);
    let chunk = Bytes::from(vec![0u8; CHUNK]);
    let chunks = stream::iter((0..mib * (1 << 20) / CHUNK).map(move |_| Ok(Frame::data(chunk.clone()))));
    Response::new(StreamBody::new(chunks).boxed_unsync())
}

/// Method, path and headers as the application got them, and how much body.
async fn echo(request: Request<Incoming>) -> Response<PortalBody> {
    let (head, body) = request.into_parts();
    let headers: Vec<_> =
        head.headers.iter().map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])).collect();
    let mut length = 0usize;
    let mut body = body;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    json_answer(&json!({
        "method": head.method.as_str(), "target": head.uri.to_string(), "version": format!("{:?}", head.version),
        "headers": headers, "body_bytes": length,
    }))
}

fn json_answer(value: &serde_json::Value) -> Response<PortalBody> {
    answer_with(StatusCode::OK, "application/json", value.to_string())
}

fn page(title: &str, body: &str) -> Response<PortalBody> {
    let html = format!("<!doctype html><html lang=\"en\"><title>{title}</title><h1>{title}</h1>{body}</html>\n");
    answer_with(StatusCode::OK, "text/html; charset=utf-8", html)
}

fn text(status: StatusCode, body: &str) -> Response<PortalBody> {
    answer_with(status, "text/plain; charset=utf-8", body.to_owned())
}

fn redirect(to: &'static str, cookie: Option<&'static str>) -> Response<PortalBody> {
    let mut response = text(StatusCode::SEE_OTHER, "");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    if let Some(cookie) = cookie {
        response.headers_mut().insert(SET_COOKIE, HeaderValue::from_static(cookie));
    }
    response
}

fn answer_with(status: StatusCode, kind: &'static str, body: String) -> Response<PortalBody> {
    let mut response = Response::new(Full::from(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
