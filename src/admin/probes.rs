//! Metrics and probes on TCP: `/metrics`, `/livez`, `/readyz`. Reads only; tells nothing of clients or sites.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Admin;

/// Scrapers and probes open at once.
const MOST_CONNECTIONS: usize = 64;
/// From accept, or from the last answer, to a whole request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A scraper that does not read its answer is cut off after this long, whatever it does.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

pub(super) async fn serve(admin: Admin, socket: std::net::TcpListener, stop: CancellationToken) {
    let listener = match socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket)) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics cannot be served"),
    };
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let connections = TaskTracker::new();
    while let Some(Ok(slot)) = stop.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await {
        match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
            Some(Ok((stream, _))) => {
                let connection = serve_one(admin.clone(), stream);
                let stop = stop.clone();
                connections.spawn(async move {
                    stop.run_until_cancelled(connection).await;
                    drop(slot);
                });
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_one(admin: Admin, stream: tokio::net::TcpStream) {
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer(&admin, request.method(), request.uri());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
}

fn answer(admin: &Admin, method: &Method, uri: &http::Uri) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET or HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let verbose = uri.query().is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    match uri.path() {
        "/metrics" => text(StatusCode::OK, OPENMETRICS, admin.events.metrics().render()),
        // Never looks at upstreams: restarting the gateway does not mend them.
        "/livez" => text(StatusCode::OK, PLAIN, if verbose { "[+]process ok\nlivez check passed\n" } else { "ok\n" }.to_owned()),
        "/readyz" => ready(admin.control.ready(), verbose),
        _ => text(StatusCode::NOT_FOUND, PLAIN, "/metrics /livez /readyz\n".to_owned()),
    }
}

/// Fails closed: not ready until the gateway says that it is. The cause is told only where it is asked for.
fn ready(state: Result<(), String>, verbose: bool) -> Response<Full<Bytes>> {
    let (status, told) = match (state, verbose) {
        (Ok(()), false) => (StatusCode::OK, "ok\n".to_owned()),
        (Ok(()), true) => (StatusCode::OK, "[+]accepting ok\nreadyz check passed\n".to_owned()),
        (Err(_), false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        (Err(cause), true) => (StatusCode::SERVICE_UNAVAILABLE, format!("[-]accepting failed: {cause}\nreadyz check failed\n")),
    };
    text(status, PLAIN, told)
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_503_with_its_cause_only_where_asked() {
        assert_eq!(ready(Ok(()), false).status(), StatusCode::OK);
        let draining = ready(Err("draining".to_owned()), true);
        assert_eq!(draining.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ready(Err("draining".to_owned()), false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
