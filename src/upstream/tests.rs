//! Real sockets on loopback: well-behaved servers by hyper, the others byte by byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Located, ServerScheme, ServerUrl, Span};

mod caps;
mod h2;
mod servers;

use h2::h2_echo;

const PATIENCE: Duration = Duration::from_secs(10);

fn url(scheme: ServerScheme, address: SocketAddr) -> ServerUrl {
    ServerUrl { scheme, host: address.ip().to_string(), port: address.port() }
}

fn spec(servers: Vec<ServerUrl>) -> UpstreamSpec {
    UpstreamSpec {
        name: "portal".into(),
        servers: servers.into_iter().map(|value| Located { value, span: Span::default() }).collect(),
        ca: None,
        client_certificate: None,
        health: None,
        timeouts: UpstreamTimeouts { connect: PATIENCE, response: PATIENCE, idle: PATIENCE },
        connections: 256,
        queue: PATIENCE,
    }
}

fn prepared(spec: &UpstreamSpec) -> Arc<Upstream> {
    Upstreams::new(Events::sink()).prepare(std::slice::from_ref(spec), &[None]).remove(0)
}

fn plain(addresses: &[SocketAddr]) -> Arc<Upstream> {
    prepared(&spec(addresses.iter().map(|address| url(ServerScheme::Http, *address)).collect()))
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(text: &'static str) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

/// A body of these frames, its length unknown.
fn frames(list: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
    StreamBody::new(futures_util::stream::iter(list)).boxed_unsync()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "portal.example.com").body(empty()).unwrap()
}

/// Reads to the end.
async fn finish(reply: Reply) -> (StatusCode, Bytes, Option<HeaderMap>) {
    let Reply { response, .. } = reply;
    let status = response.status();
    let whole = response.into_body().collect().await.unwrap();
    let trailers = whole.trailers().cloned();
    (status, whole.to_bytes(), trailers)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Reads one request head (and what came with it).
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if stream.read_buf(&mut seen).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8(seen).unwrap())
}

/// A server that answers each request of each connection with the same bytes; counts connections and requests.
struct Raw {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<String>,
}

async fn raw(answer: &'static [u8], then_close: bool) -> Raw {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (tell, requests) = mpsc::unbounded_channel();
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let tell = tell.clone();
            tokio::spawn(async move {
                while let Some(head) = read_head(&mut stream).await {
                    let _ = tell.send(head);
                    stream.write_all(answer).await.unwrap();
                    if then_close {
                        return;
                    }
                }
            });
        }
    });
    Raw { address, connections, requests }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_after_its_response_was_read() {
    let server = raw(OK, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for _ in 0..5 {
        let reply = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(upstream.servers[0].outstanding(), 1);
        assert_eq!(&*reply.server, format!("http://{}", server.address));
        assert_eq!(finish(reply).await.1, "ok");
        assert_eq!(upstream.servers[0].outstanding(), 0);
        until("the connection is back", || pool.idle() == 1).await;
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn trap_a_connection_whose_response_was_not_read_is_never_used_again() {
    let server = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf of it", false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for used in 1..=3 {
        let mut reply = pool.send(&upstream, get("/")).await.unwrap();
        let frame = reply.response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "half of it");
        drop(reply);
        assert_eq!(pool.idle(), 0);
        assert_eq!(server.connections.load(Ordering::SeqCst), used);
    }
}

#[tokio::test]
async fn a_connection_whose_request_has_not_ended_is_closed_with_its_answer() {
    let server = raw(OK, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for used in 1..=3 {
        let half = futures_util::stream::iter([Ok(Frame::data(Bytes::from("half")))]).chain(futures_util::stream::pending());
        let request = Request::post("/").header("host", "a").body(StreamBody::new(half).boxed_unsync()).unwrap();
        assert_eq!(finish(pool.send(&upstream, request).await.unwrap()).await.1, "ok");
        assert_eq!((pool.idle(), upstream.servers[0].capacity.seats()), (0, 0));
        assert_eq!(server.connections.load(Ordering::SeqCst), used);
    }
}

#[tokio::test]
async fn a_switch_before_the_end_of_its_request_leads_nowhere_and_is_not_held_against_the_server() {
    let server = raw(b"HTTP/1.1 101 Go\r\nUpgrade: toy\r\n\r\n", false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for _ in 0..6 {
        let half = futures_util::stream::iter([Ok(Frame::data(Bytes::from("half")))]).chain(futures_util::stream::pending());
        let request = Request::post("/").header("host", "a").body(StreamBody::new(half).boxed_unsync()).unwrap();
        let reply = pool.send(&upstream, request).await.unwrap();
        assert_eq!(reply.response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(reply.response.into_body().into_tunnel().is_none());
        assert_eq!((pool.idle(), upstream.servers[0].capacity.seats()), (0, 0));
    }
    assert!(upstream.servers[0].status(Instant::now()).healthy);
}

#[tokio::test]
async fn a_request_goes_on_behind_an_early_answer_that_nobody_reads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = plain(&[listener.local_addr().unwrap()]);
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nea").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"0\r\n\r\n") {
            stream.read_buf(&mut heard).await.unwrap();
        }
        stream.write_all(b"rly").await.unwrap();
        (heard.len(), stream)
    });
    let pool = Pool::new();
    let (feed, mut chunks) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BodyError>>();
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx))).boxed_unsync();
    let reply = pool.send(&upstream, Request::post("/").body(body).unwrap()).await.unwrap();
    for _ in 0..100 {
        feed.send(Ok(Frame::data(vec![0; 100_000].into()))).unwrap();
    }
    drop(feed);
    let (heard, _stream) = tokio::time::timeout(PATIENCE, heard).await.expect("it goes on").unwrap();
    assert!(heard > 10_000_000);
    assert_eq!(finish(reply).await.1, "early");
    assert_eq!(pool.idle(), 1);
}

#[tokio::test]
async fn trap_bytes_after_a_response_are_not_the_next_one() {
    let smuggled = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let server = raw(smuggled, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for used in 1..=3 {
        let reply = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(finish(reply).await.1, "ok");
        assert_eq!(pool.idle(), 0);
        assert_eq!(server.connections.load(Ordering::SeqCst), used);
    }
}

#[tokio::test]
async fn idle_connections_that_the_server_closed_are_not_used() {
    let server = raw(OK, true).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for used in 1..=3 {
        let reply = pool.send(&upstream, get("/")).await.unwrap();
        assert_eq!(finish(reply).await.0, 200);
        until("the end is noticed", || {
            pool.sweep();
            pool.idle() == 0
        })
        .await;
        assert_eq!(server.connections.load(Ordering::SeqCst), used);
    }
}

#[tokio::test]
async fn idle_connections_are_swept_when_their_time_is_over() {
    let server = raw(OK, false).await;
    let mut spec = spec(vec![url(ServerScheme::Http, server.address)]);
    spec.timeouts.idle = Duration::ZERO;
    let (pool, upstream) = (Pool::new(), prepared(&spec));
    finish(pool.send(&upstream, get("/")).await.unwrap()).await;
    until("the connection is back", || pool.idle() == 1).await;
    until("it is swept", || {
        pool.sweep();
        pool.idle() == 0
    })
    .await;
}

#[tokio::test]
async fn a_request_that_may_have_been_sent_is_never_sent_again() {
    let first = raw(b"", true).await;
    let mut second = raw(OK, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[first.address, second.address]));
    let error = pool.send(&upstream, get("/")).await.err().unwrap();
    assert_eq!((error.kind, error.unsent), (ForwardErrorKind::BadGateway, false));
    assert!(second.requests.try_recv().is_err());
    assert_eq!(first.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_unsent_comes_back_whole() {
    let upstream = plain(&[raw(OK, true).await.address]);
    let server = &upstream.servers[0];
    let wire = connect::dial(server, false, PATIENCE, None).await.unwrap();
    let Ok(response) = wire.exchange(server, Box::new(outgoing::wrap(get("/")).0)).await else { panic!("an answer") };
    let connect::Incoming::H1(mut body) = response.into_body() else { panic!("not HTTP/1.1") };
    (&mut body).collect().await.unwrap();
    let mut kept = body.reclaim().unwrap();
    until("the end is noticed", || !kept.is_quiet()).await;
    let (request, _) = outgoing::wrap(Request::post("/x").body(full("intact")).unwrap());
    let Err(connect::Failure::Unsent(back, _)) = connect::Wire::H1(kept).exchange(server, Box::new(request)).await else {
        panic!("it must come back")
    };
    assert_eq!(back.into_body().collect().await.unwrap().to_bytes(), "intact");
}

#[tokio::test]
async fn a_server_that_refuses_connections_is_passed_over() {
    let server = raw(OK, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[nobody().await, server.address]));
    for _ in 0..6 {
        let reply = pool.send(&upstream, Request::post("/").body(full("once")).unwrap()).await.unwrap();
        assert_eq!(finish(reply).await.0, 200);
    }
    assert_eq!(upstream.servers[0].outstanding(), 0);
}

#[tokio::test]
async fn a_server_that_closes_whatever_it_accepts_is_ejected_though_nothing_was_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    // Between connecting and sending nothing moves here, until the other thread has closed.
    let slow = tokio::spawn(async {
        loop {
            std::thread::sleep(Duration::from_millis(3));
            tokio::task::yield_now().await;
        }
    });
    let (pool, upstream) = (Pool::new(), plain(&[closing]));
    let mut unsent = 0;
    for _ in 0..5 {
        unsent += u32::from(pool.send(&upstream, get("/")).await.err().unwrap().unsent);
    }
    slow.abort();
    assert!(unsent > 0, "every close came late");
    let status = upstream.servers[0].status(Instant::now());
    assert!(!status.healthy && status.last_error.is_some(), "{unsent} unsent: {:?}", status.last_error);
}

#[tokio::test]
async fn nobody_to_connect_to_is_unavailable_and_unsent() {
    let (pool, upstream) = (Pool::new(), plain(&[nobody().await, nobody().await]));
    for _ in 0..5 {
        let error = pool.send(&upstream, get("/")).await.err().unwrap();
        assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Unavailable, true));
        assert!(error.cause.contains("http://127.0.0.1:"), "{}", error.cause);
    }
}

#[tokio::test]
async fn broken_answers_are_a_bad_gateway() {
    let answers: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 2000 OK\r\n\r\n",
    ];
    for answer in answers {
        let server = raw(answer, true).await;
        let error = Pool::new().send(&plain(&[server.address]), get("/")).await.err().unwrap();
        assert_eq!((error.kind, error.unsent), (ForwardErrorKind::BadGateway, false), "{}", error.cause);
    }
}

#[tokio::test]
async fn no_response_head_in_time_is_a_timeout_and_counts_as_sent() {
    let server = raw(b"HTTP/1.1 200 OK\r\n", false).await;
    let mut spec = spec(vec![url(ServerScheme::Http, server.address)]);
    spec.timeouts.response = Duration::from_millis(30);
    let (pool, upstream) = (Pool::new(), prepared(&spec));
    let error = pool.send(&upstream, get("/")).await.err().unwrap();
    assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Timeout, false));
    assert_eq!(upstream.servers[0].outstanding(), 0);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test]
async fn the_response_clock_stands_still_while_the_client_owes_its_body() {
    let server = raw(b"", false).await;
    let mut spec = spec(vec![url(ServerScheme::Http, server.address)]);
    spec.timeouts.response = Duration::from_millis(20);
    let (pool, upstream) = (Pool::new(), prepared(&spec));
    // The client's chunk comes long after the response deadline; only then does the upstream owe an answer.
    let (feed, mut chunks) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BodyError>>();
    let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx))).boxed_unsync();
    let sent = pool.send(&upstream, Request::post("/").body(body).unwrap());
    tokio::pin!(sent);
    assert!(tokio::time::timeout(Duration::from_millis(100), sent.as_mut()).await.is_err());
    drop(feed);
    assert_eq!(sent.await.err().unwrap().kind, ForwardErrorKind::Timeout);
}

#[tokio::test]
async fn faults_of_the_clients_body_are_not_the_upstreams() {
    for (error, kind) in [
        (BodyError::TooLarge, ForwardErrorKind::BodyTooLarge),
        (BodyError::Stalled, ForwardErrorKind::ClientBody),
        (BodyError::Peer("gone".into()), ForwardErrorKind::ClientBody),
    ] {
        for scheme in [ServerScheme::Http, ServerScheme::H2c] {
            let address = if scheme == ServerScheme::Http { raw(b"", false).await.address } else { h2_echo(100).await.0 };
            let upstream = prepared(&spec(vec![url(scheme, address)]));
            let body = frames(vec![
                Ok(Frame::data("some".into())),
                Err(match error {
                    BodyError::TooLarge => BodyError::TooLarge,
                    BodyError::Stalled => BodyError::Stalled,
                    BodyError::Peer(_) => BodyError::Peer("gone".into()),
                }),
            ]);
            let request = Request::post("/").header("host", "a").body(body).unwrap();
            let failed = Pool::new().send(&upstream, request).await.err().unwrap();
            assert_eq!((failed.kind, failed.unsent), (kind, false), "{scheme:?}: {}", failed.cause);
            assert_eq!(upstream.servers[0].status(Instant::now()).last_error, None);
        }
    }
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let server = raw(answer, false).await;
    let reply = Pool::new().send(&plain(&[server.address]), get("/")).await.unwrap();
    let (status, body, _) = finish(reply).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"ok"[..]));
}

#[tokio::test]
async fn servers_of_http_1_0_and_those_that_close_work() {
    let answers: [&[u8]; 3] = [
        b"HTTP/1.0 200 OK\r\n\r\nto the end",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nto the end",
    ];
    for answer in answers {
        let server = raw(answer, true).await;
        let (pool, upstream) = (Pool::new(), plain(&[server.address]));
        for _ in 0..2 {
            let reply = pool.send(&upstream, get("/")).await.unwrap();
            assert_eq!(finish(reply).await.1, "to the end");
        }
        assert_eq!(pool.idle(), 0);
    }
}

#[tokio::test]
async fn trailers_of_responses_pass() {
    let answer =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
    let server = raw(answer, false).await;
    let (pool, upstream) = (Pool::new(), plain(&[server.address]));
    for _ in 0..2 {
        let (_, body, trailers) = finish(pool.send(&upstream, get("/")).await.unwrap()).await;
        assert_eq!(body, "ok");
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
        until("the connection is back", || pool.idle() == 1).await;
    }
}

#[tokio::test]
async fn trap_trailers_of_requests_are_dropped() {
    let mut server = raw(OK, false).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("doorward-identity", HeaderValue::from_static("spoofed"));
    let body = frames(vec![Ok(Frame::data("some".into())), Ok(Frame::trailers(trailers.clone()))]);
    let request = Request::post("/").header("trailer", "doorward-identity").body(body).unwrap();
    let reply = Pool::new().send(&plain(&[server.address]), request).await.unwrap();
    finish(reply).await;
    assert!(!server.requests.recv().await.unwrap().contains("spoofed"));

    let (address, mut seen) = h2_echo(100).await;
    let body = frames(vec![Ok(Frame::data("some".into())), Ok(Frame::trailers(trailers))]);
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    finish(Pool::new().send(&prepared(&spec(vec![url(ServerScheme::H2c, address)])), request).await.unwrap()).await;
    assert_eq!(seen.recv().await.unwrap().trailers, None);
}

#[tokio::test]
async fn trap_what_goes_upstream_has_one_framing() {
    let unknown = || frames(vec![Ok(Frame::data("abc".into()))]);
    for (method, claimed, body, length, chunked) in [
        (Method::GET, None, empty(), None, false),
        (Method::GET, Some("5"), empty(), None, false),
        (Method::POST, None, empty(), Some("0"), false),
        (Method::POST, Some("7"), full("abc"), Some("3"), false),
        (Method::POST, Some("7"), unknown(), None, true),
        (Method::GET, None, unknown(), None, true),
        (Method::DELETE, None, full("abc"), Some("3"), false),
    ] {
        let mut server = raw(OK, true).await;
        let mut request = Request::builder().method(method.clone()).uri("/").header("transfer-encoding", "gzip, chunked");
        if let Some(claimed) = claimed {
            request = request.header("content-length", claimed).header("content-length", "9");
        }
        let upstream = plain(&[server.address]);
        let _ = Pool::new().send(&upstream, request.body(body).unwrap()).await;
        let head = server.requests.recv().await.unwrap();
        let field = |name: &str| -> Vec<String> {
            let lines = head.split("\r\n").take_while(|line| !line.is_empty());
            lines.filter_map(|line| line.strip_prefix(name)).map(|value| value.trim_start_matches(": ").to_owned()).collect()
        };
        assert_eq!(field("content-length"), Vec::from_iter(length.map(str::to_owned)), "{head}");
        assert_eq!(field("transfer-encoding"), if chunked { vec!["chunked"] } else { vec![] }, "{head}");
    }
}

#[tokio::test]
async fn the_target_and_host_of_http_1_stay_and_te_is_named_in_connection() {
    let mut server = raw(OK, false).await;
    let request =
        Request::get("/a%2520b?c=d").header("host", "Portal.example.com:8443").header("te", "trailers").body(empty()).unwrap();
    finish(Pool::new().send(&plain(&[server.address]), request).await.unwrap()).await;
    let head = server.requests.recv().await.unwrap();
    assert!(head.starts_with("GET /a%2520b?c=d HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: Portal.example.com:8443\r\n"), "{head}");
    assert!(head.contains("\r\nte: trailers\r\n") && head.contains("\r\nconnection: te\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_added_to_a_request_goes_along_once_over_either_http() {
    let preset = Preset::new(vec![(HeaderName::from_static("x-told"), HeaderValue::from_static("by the gateway"))]);
    let preset = Arc::new(preset);
    let told = || Outbound { request: get("/"), preset: Some(Arc::clone(&preset)), client: None };
    let mut server = raw(OK, false).await;
    finish(Pool::new().send(&plain(&[server.address]), told()).await.unwrap()).await;
    let head = server.requests.recv().await.unwrap();
    assert_eq!(head.matches("\r\nx-told: by the gateway\r\n").count(), 1, "{head}");
    assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1, "{head}");

    let (address, mut seen) = h2_echo(100).await;
    finish(Pool::new().send(&prepared(&spec(vec![url(ServerScheme::H2c, address)])), told()).await.unwrap()).await;
    assert_eq!(seen.recv().await.unwrap().request.headers["x-told"], "by the gateway");

    // Handed back unsent over HTTP/2, it may go on over HTTP/1.1.
    let (mut request, _) = outgoing::wrap(told());
    outgoing::to_h2(&mut request, &http::uri::Scheme::HTTP, "a").unwrap();
    assert!(request.body().preset().is_none() && request.headers().contains_key("x-told"));
}

#[tokio::test]
async fn connect_is_never_forwarded() {
    let server = raw(OK, false).await;
    let request = Request::builder().method(Method::CONNECT).uri("internal:22").body(empty()).unwrap();
    let error = Pool::new().send(&plain(&[server.address]), request).await.err().unwrap();
    assert!(error.unsent);
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_server_with_the_least_outstanding_is_chosen_and_ties_go_round() {
    let servers = [raw(OK, false).await, raw(OK, false).await, raw(OK, false).await];
    let (pool, upstream) = (Pool::new(), plain(&servers.each_ref().map(|server| server.address)));
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(pool.send(&upstream, get("/")).await.unwrap());
    }
    assert_eq!(upstream.servers.iter().map(|server| server.outstanding()).collect::<Vec<_>>(), [2, 2, 2]);
    let busy = held.pop().unwrap();
    drop(held);
    for _ in 0..4 {
        assert_ne!(pool.send(&upstream, get("/")).await.unwrap().server, busy.server);
    }
}
