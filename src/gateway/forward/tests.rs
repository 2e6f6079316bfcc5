//! A client and an application byte by byte, with a bare front of hyper and `exchange` between them.

use std::net::SocketAddr;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::config::{Located, ServerScheme, ServerUrl, Span, UpstreamSpec, UpstreamTimeouts};
use crate::events::Events;
use crate::upstream::Upstreams;

const PATIENCE: Duration = Duration::from_secs(10);

/// What the front made of a request.
type Outcome = Result<StatusCode, (ForwardErrorKind, bool)>;

struct Front {
    address: SocketAddr,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

struct Limits {
    body: u64,
    stall: Duration,
    gap: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 1 << 20, stall: PATIENCE, gap: PATIENCE }
    }
}

/// Answers an error with 599, so that a test need not guess how `respond` words it.
async fn front(application: SocketAddr, limits: Limits) -> Front {
    let spec = UpstreamSpec {
        name: "portal".into(),
        servers: vec![Located {
            value: ServerUrl { scheme: ServerScheme::Http, host: application.ip().to_string(), port: application.port() },
            span: Span::default(),
        }],
        ca: None,
        client_certificate: None,
        health: None,
        timeouts: UpstreamTimeouts { connect: PATIENCE, response: PATIENCE, idle: limits.gap },
        connections: 256,
        queue: PATIENCE,
    };
    let upstream = Upstreams::new(Events::sink()).prepare(&[spec], &[None]).remove(0);
    let pool = Arc::new(Pool::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, outcomes) = mpsc::unbounded_channel();
    let (body, body_stall) = (limits.body, limits.stall);
    let shared = (pool, upstream);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (pool, upstream) = shared.clone();
            let tell = tell.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let (pool, upstream, tell) = (pool.clone(), upstream.clone(), tell.clone());
                async move {
                    let terms = Terms { body, body_stall, idle: PATIENCE };
                    let asks = headers::upgrade(request.headers(), request.version()).is_some();
                    let upgrade = asks.then(|| hyper::upgrade::on(&mut request));
                    let request = request.map(|body| request_body(body, &terms));
                    let answer = exchange(&pool, &upstream, request.into(), upgrade, &terms).await;
                    let _ = tell.send(match &answer {
                        Ok(Forwarded { response, .. }) => Ok(response.status()),
                        Err(error) => Err((error.kind, error.unsent)),
                    });
                    let forwarded = |Forwarded { response, tunnel, .. }| {
                        tunnel.map(tokio::spawn);
                        response
                    };
                    let response = answer.map(forwarded).unwrap_or_else(|_| {
                        let mut response = Response::new(empty());
                        *response.status_mut() = StatusCode::from_u16(599).unwrap();
                        response
                    });
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    Front { address, outcomes }
}

/// An application that plays `act` on each of its connections.
async fn application<F, A>(act: A) -> SocketAddr
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    address
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") && stream.read_u8().await.map(|byte| seen.push(byte)).is_ok() {}
    String::from_utf8(seen).unwrap()
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut seen)).await.expect("the connection ends");
    String::from_utf8(seen).unwrap()
}

async fn echo(mut stream: TcpStream, answer: &str) {
    read_head(&mut stream).await;
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const ASK: &str = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn an_upgrade_is_tunnelled_after_the_101_both_ways_to_its_end() {
    let front = front(application(|stream| echo(stream, SWITCH)).await, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
    client.write_all(b"hello through the door").await.unwrap();
    let mut back = [0; 22];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello through the door");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_speaks_at_once_after_the_101_is_not_mistaken_for_one_that_spoke_before() {
    let front = front(application(|stream| echo(stream, SWITCH)).await, Limits::default()).await;
    for _ in 0..100 {
        let mut client = TcpStream::connect(front.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(ASK.as_bytes()).await.unwrap();
        read_head(&mut client).await;
        client.write_all(b"quick").await.unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"quick");
    }
}

#[tokio::test]
async fn only_what_was_read_before_counts_as_early_not_what_waits_in_the_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"after the 101").await.unwrap();
    server.readable().await.unwrap();
    assert!(!spoke_early(&mut server).await);
    let mut words = [0; 13];
    server.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"after the 101", "looking takes nothing away");

    let mut ahead = tokio::io::AsyncReadExt::chain(&b"before it"[..], server);
    assert!(spoke_early(&mut ahead).await);
}

#[tokio::test]
async fn what_the_application_says_right_after_its_101_is_not_lost() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nfirst words";
    let front = front(application(move |stream| echo(stream, answer)).await, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    let mut words = [0; 11];
    client.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"first words");
}

#[tokio::test]
async fn trap_bytes_pipelined_behind_an_upgrade_are_never_tunnelled() {
    let (tell, mut tunnelled) = mpsc::unbounded_channel();
    let application = application(move |mut stream| {
        let tell = tell.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(SWITCH.as_bytes()).await.unwrap();
            let _ = tell.send(read_all(&mut stream).await);
        }
    })
    .await;
    let front = front(application, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    let smuggled = format!("{ASK}GET /admin HTTP/1.1\r\nhost: a\r\n\r\n");
    client.write_all(smuggled.as_bytes()).await.unwrap();
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 101 "));
    assert_eq!(tunnelled.recv().await.unwrap(), "");
}

#[tokio::test]
async fn trap_an_upgrade_that_is_not_answered_by_101_is_an_ordinary_exchange() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: Upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nok";
    let front = front(application(move |stream| echo(stream, answer)).await, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("upgrade: h2c"), "{head}");
}

#[tokio::test]
async fn a_101_that_was_not_asked_for_is_a_bad_gateway() {
    let other = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: chat\r\n\r\n";
    let bare = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let h2c =
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n";
    for (ask, answer) in [("GET / HTTP/1.1\r\nhost: a\r\n\r\n", SWITCH), (ASK, other), (ASK, bare), (h2c, SWITCH)] {
        let mut front = front(application(move |stream| echo(stream, answer)).await, Limits::default()).await;
        let mut client = TcpStream::connect(front.address).await.unwrap();
        client.write_all(ask.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 599 "));
        assert_eq!(front.outcomes.recv().await.unwrap(), Err((ForwardErrorKind::BadGateway, false)));
    }
}

/// An application that reads until the connection ends and tells what it saw.
async fn sink() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (tell, seen) = mpsc::unbounded_channel();
    let address = application(move |mut stream| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(read_all(&mut stream).await);
        }
    })
    .await;
    (address, seen)
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_unsent() {
    let (application, mut seen) = sink().await;
    let mut front = front(application, Limits { body: 4, ..Limits::default() }).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    assert_eq!(front.outcomes.recv().await.unwrap(), Err((ForwardErrorKind::BodyTooLarge, true)));
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn a_chunked_body_over_its_cap_never_completes_upstream() {
    let (application, mut seen) = sink().await;
    let mut front = front(application, Limits { body: 4, ..Limits::default() }).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhell\r\n1\r\no\r\n0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(front.outcomes.recv().await.unwrap(), Err((ForwardErrorKind::BodyTooLarge, false)));
    let seen = seen.recv().await.unwrap();
    assert!(!seen.contains("\r\no\r\n") && !seen.ends_with("0\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_body_of_exactly_its_cap_passes() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let mut front = front(application(move |stream| echo(stream, answer)).await, Limits { body: 5, ..Limits::default() }).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(front.outcomes.recv().await.unwrap(), Ok(StatusCode::OK));
}

#[tokio::test]
async fn a_client_that_stalls_or_leaves_is_not_the_upstreams_fault() {
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    let (deaf, _seen) = sink().await;
    let mut stalling = front(deaf, Limits { stall: Duration::from_millis(30), ..Limits::default() }).await;
    let mut client = TcpStream::connect(stalling.address).await.unwrap();
    client.write_all(head).await.unwrap();
    assert_eq!(stalling.outcomes.recv().await.unwrap(), Err((ForwardErrorKind::ClientBody, false)));

    let (tell, mut seen) = mpsc::unbounded_channel();
    let hearing = application(move |mut stream| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(read_head(&mut stream).await);
            let _ = tell.send(read_all(&mut stream).await);
        }
    })
    .await;
    let leaving = front(hearing, Limits::default()).await;
    let mut client = TcpStream::connect(leaving.address).await.unwrap();
    client.write_all(head).await.unwrap();
    // One that leaves before anything was written leaves nothing there.
    assert!(seen.recv().await.unwrap().contains("content-length: 9"));
    drop(client);
    let seen = seen.recv().await.unwrap();
    assert!(seen.is_empty() || seen == "half", "what it got is plainly cut short: {seen}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_next_frame_begins_anew_with_each_that_is_progress() {
    let second = Duration::from_secs(1);
    for (least, ends) in [(0, 48 + 30), (1, 48 + 30), (2, 48 + 30), (3, 30)] {
        let mut gap = Gap::new(30 * second, least);
        let started = Instant::now();
        // Four bytes, one every twelve seconds, then nothing.
        let waits = [12, 12, 12, 12, 3600];
        for wait in waits {
            let mut next = Box::pin(tokio::time::sleep(wait * second));
            let framed = poll_fn(|cx| {
                let next = next.as_mut().poll(cx).map(|()| Some(Ok(Frame::data(Bytes::from_static(b"x")))));
                gap.poll(next, cx)
            });
            if matches!(framed.await, Some(Err(BodyError::Stalled))) {
                break;
            }
        }
        assert_eq!(started.elapsed().as_secs(), ends, "where {least} bytes are progress");
    }
}

#[tokio::test]
async fn a_gap_in_the_response_body_ends_it() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    let front = front(
        application(move |stream| echo(stream, answer)).await,
        Limits { gap: Duration::from_millis(30), ..Limits::default() },
    )
    .await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let seen = read_all(&mut client).await;
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.ends_with("half"), "{seen}");
}

#[tokio::test]
async fn exchanges_follow_each_other_over_the_same_two_connections() {
    let (tell, mut connections) = mpsc::unbounded_channel();
    let application = application(move |mut stream| {
        let _ = tell.send(());
        async move {
            while read_head(&mut stream).await.ends_with("\r\n\r\n") {
                let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let mut front = front(application, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    for _ in 0..5 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
        let mut body = [0; 12];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"2\r\nok\r\n0\r\n\r\n");
        assert_eq!(front.outcomes.recv().await.unwrap(), Ok(StatusCode::OK));
    }
    connections.recv().await.unwrap();
    assert!(connections.try_recv().is_err(), "one connection served all five");
}

#[tokio::test]
async fn a_response_to_head_has_no_body_and_keeps_its_length() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n";
    let front = front(application(move |stream| echo(stream, answer)).await, Limits::default()).await;
    let mut client = TcpStream::connect(front.address).await.unwrap();
    client.write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let seen = read_all(&mut client).await;
    assert!(seen.contains("content-length: 1234") && seen.ends_with("\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn a_silent_tunnel_ends_and_a_byte_puts_its_end_off() {
    let activity = Activity { started: Instant::now(), last: AtomicU64::new(0) };
    let idle = Duration::from_secs(1);
    assert_eq!(activity.due(idle), activity.started + idle);
    activity.last.store(5000, Ordering::Relaxed);
    assert_eq!(activity.due(idle), activity.started + 6 * idle);
    assert!(futures_util::FutureExt::now_or_never(activity.silent_for(idle)).is_none());
    activity.touch();
    futures_util::FutureExt::now_or_never(activity.silent_for(Duration::ZERO)).unwrap();

    let (far, _near) = tokio::io::duplex(64);
    let activity = Arc::new(Activity { started: Instant::now(), last: AtomicU64::new(u64::MAX) });
    let mut watched = Watched { io: far, activity: activity.clone() };
    watched.write_all(b"x").await.unwrap();
    assert_ne!(activity.last.load(Ordering::Relaxed), u64::MAX, "a byte written is activity");
}
