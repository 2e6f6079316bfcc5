//! HTTP/2 by prior knowledge, and TLS.

use std::convert::Infallible;

use http::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// What an HTTP/2 server saw of one request.
pub(super) struct Seen {
    pub(super) request: http::request::Parts,
    pub(super) trailers: Option<HeaderMap>,
}

/// An HTTP/2 server that echoes bodies, with trailers.
pub(super) async fn h2_echo(streams: u32) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(serve_h2(TokioIo::new(stream), streams, tell));
        }
    });
    (address, seen)
}

async fn serve_h2<T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(
    io: T,
    streams: u32,
    tell: mpsc::UnboundedSender<Seen>,
) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let tell = tell.clone();
        async move {
            let (request, body) = request.into_parts();
            let whole = body.collect().await;
            let trailers = whole.as_ref().ok().and_then(|whole| whole.trailers().cloned());
            let echoed = whole.map(|whole| whole.to_bytes()).unwrap_or_default();
            let _ = tell.send(Seen { request, trailers });
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Ok::<_, Infallible>(Response::new(frames(vec![Ok(Frame::data(echoed)), Ok(Frame::trailers(trailers))])))
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.max_concurrent_streams(streams).serve_connection(io, service).await;
}

#[tokio::test]
async fn h2c_shares_one_connection_and_makes_the_absolute_form() {
    let (address, mut seen) = h2_echo(100).await;
    let (pool, upstream) = (Pool::new(), prepared(&spec(vec![url(ServerScheme::H2c, address)])));
    let all = (0..20).map(|_| async {
        let request = Request::post("/pkg.Service/Call?x=1")
            .header("host", "portal.example.com:8443")
            .header("te", "trailers")
            .header("connection", "keep-alive")
            .body(full("hello"))
            .unwrap();
        finish(pool.send(&upstream, request).await.unwrap()).await
    });
    for (status, body, trailers) in futures_util::future::join_all(all).await {
        assert_eq!((status, &body[..]), (StatusCode::OK, &b"hello"[..]));
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }
    assert_eq!(pool.shared(), 1);
    let Seen { request, .. } = seen.recv().await.unwrap();
    assert_eq!(request.uri.to_string(), "http://portal.example.com:8443/pkg.Service/Call?x=1");
    assert_eq!(request.headers["te"], "trailers");
    assert_eq!(request.headers["content-length"], "5");
    assert!(!request.headers.contains_key("host") && !request.headers.contains_key("connection"));
}

#[tokio::test]
async fn more_h2_connections_are_made_when_streams_run_out() {
    let (address, _seen) = h2_echo(2).await;
    let (pool, upstream) = (Pool::new(), prepared(&spec(vec![url(ServerScheme::H2c, address)])));
    // The first exchange tells the client what the server allows.
    finish(pool.send(&upstream, get("/")).await.unwrap()).await;
    finish(pool.send(&upstream, get("/")).await.unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(pool.send(&upstream, get("/")).await.unwrap());
    }
    assert_eq!(pool.shared(), 3);
    drop(held);
    pool.sweep();
    assert_eq!(pool.shared(), 3);
}

#[tokio::test]
async fn trap_answers_that_nobody_takes_hold_up_no_other_on_their_connection() {
    let (address, _seen) = h2_echo(1000).await;
    let (pool, upstream) = (Pool::new(), prepared(&spec(vec![url(ServerScheme::H2c, address)])));
    let long = || {
        let body = Full::from(vec![b'x'; 70 * 1024]).map_err(|never| match never {}).boxed_unsync();
        Request::post("/").header("host", "portal.example.com").body(body).unwrap()
    };
    let mut untaken = Vec::new();
    for _ in 0..99 {
        untaken.push(pool.send(&upstream, long()).await.unwrap());
    }
    let reply = pool.send(&upstream, long()).await.unwrap();
    assert_eq!(pool.shared(), 1);
    let (_, body, _) = tokio::time::timeout(PATIENCE, finish(reply)).await.expect("its own window is enough");
    assert_eq!(body.len(), 70 * 1024);
}

/// A server that answers the first stream of each connection with the same frames, and closes it then where told to.
async fn h2_raw(frames: &'static [u8], closes: bool) -> SocketAddr {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(&SETTINGS).await.unwrap();
            stream.read_exact(&mut [0; PREFACE]).await.unwrap();
            let mut head = [0; 9];
            while head[3] != HEADERS {
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            }
            stream.write_all(frames).await.unwrap();
            if !closes {
                tokio::spawn(async move { while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {} });
            }
        }
    });
    address
}

#[tokio::test]
async fn what_a_server_says_that_it_did_not_process_was_not_sent_and_is_no_failure_of_the_server() {
    for (name, frames, closes, unprocessed) in [
        ("REFUSED_STREAM", &b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07"[..], false, true),
        ("GOAWAY NO_ERROR before the stream", b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0", false, true),
        ("GOAWAY ENHANCE_YOUR_CALM before the stream", b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b", false, true),
        ("GOAWAY behind the stream, and an end", b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0", true, false),
        ("CANCEL", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08", false, false),
        ("INTERNAL_ERROR", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02", false, false),
        ("an end", b"", true, false),
    ] {
        let upstream = prepared(&spec(vec![url(ServerScheme::H2c, h2_raw(frames, closes).await)]));
        for at in 0..6 {
            let sent = Sent::default();
            let mut request = Request::post("/login").header("host", "portal.example.com").body(full("guess")).unwrap();
            request.extensions_mut().insert(sent.clone());
            let error = Pool::new().send(&upstream, request).await.err().unwrap();
            let kind = if unprocessed { ForwardErrorKind::Unavailable } else { ForwardErrorKind::BadGateway };
            assert_eq!((error.kind, error.unsent, sent.get()), (kind, unprocessed, !unprocessed), "{name} {at}: {}", error.cause);
        }
        assert_eq!(upstream.servers[0].status(Instant::now()).healthy, unprocessed, "{name}");
    }
}

pub(super) struct TlsServer {
    pub(super) address: SocketAddr,
    pub(super) client: Arc<rustls::ClientConfig>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

/// A TLS server that offers HTTP/2 or only HTTP/1.1, and a client config that trusts it.
pub(super) async fn tls_server(h2: bool) -> TlsServer {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    server.alpn_protocols = if h2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![] };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return serve_h2(TokioIo::new(stream), 100, tell).await;
                }
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {
                    stream.write_all(OK).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    TlsServer { address, client: Arc::new(client), seen }
}

#[tokio::test]
async fn https_speaks_h2_where_it_is_offered_and_http_1_to_the_rest() {
    for h2 in [true, false] {
        let mut server = tls_server(h2).await;
        let upstreams = Upstreams::new(Events::sink());
        let specs = [spec(vec![url(ServerScheme::Https, server.address)])];
        let upstream = upstreams.prepare(&specs, &[Some(server.client.clone())]).remove(0);
        let pool = Pool::new();
        let all = (0..8).map(|_| async { finish(pool.send(&upstream, get("/")).await.unwrap()).await });
        for (status, ..) in futures_util::future::join_all(all).await {
            assert_eq!(status, 200);
        }
        assert_eq!(pool.shared(), usize::from(h2));
        if h2 {
            assert_eq!(server.seen.recv().await.unwrap().request.uri.scheme_str(), Some("https"));
            // An upgrade cannot travel over HTTP/2: it gets an HTTP/1.1 connection of its own.
            let upgrade = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket").body(empty()).unwrap();
            assert_eq!(pool.send(&upstream, upgrade).await.unwrap().response.version(), http::Version::HTTP_11);
        }
    }
}

#[tokio::test]
async fn https_that_cannot_be_verified_is_unavailable() {
    let (server, other) = (tls_server(true).await, tls_server(true).await);
    let upstreams = Upstreams::new(Events::sink());
    let specs = [spec(vec![url(ServerScheme::Https, server.address)])];
    for client in [Some(other.client.clone()), None] {
        let upstream = upstreams.prepare(&specs, std::slice::from_ref(&client)).remove(0);
        let error = Pool::new().send(&upstream, get("/")).await.err().unwrap();
        assert_eq!((error.kind, error.unsent), (ForwardErrorKind::Unavailable, true), "{}", error.cause);
        assert!(error.cause.contains("TLS"), "{}", error.cause);
    }
}
