//! Dialling: name -> TCP -> TLS -> HTTP/1.1 or HTTP/2, and one exchange over the result.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::config::ServerScheme;

use super::BodyError;
use super::capacity::Seat;
use super::h1;
use super::outgoing::{self, Outgoing};
use super::server::{Server, Spoken};

/// TCP keep-alive: when it starts, and how often it asks.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// HTTP/2 pings while requests are under way: a dead server is noticed without waiting for the response deadline.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that one HTTP/2 connection is given at most, whatever the server allows.
const MAX_STREAMS: u32 = 100;

/// Of answers over HTTP/2 that wait for their clients: of one, and of a connection. Answers that nobody takes never use up a
/// connection: there is room for all of them, and for one more.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = (MAX_STREAMS + 1) * STREAM_WINDOW;
/// Bytes of an HTTP/2 response head.
const MAX_HEAD: u32 = 64 * 1024;

/// A connection that speaks HTTP.
pub(super) enum Wire {
    H1(Box<h1::Connection<Socket>>),
    H2(http2::SendRequest<Outgoing>, Arc<StreamCap>),
}

/// The body of a response.
pub(super) enum Incoming {
    H1(h1::Incoming<Socket, Outgoing>),
    /// Began before the end of its request.
    Early(h1::Relayed<Socket, Outgoing>),
    H2(hyper::body::Incoming),
}

/// A TCP connection, with TLS or without. A dropped one tells a TLS peer that it ends, if that can be said at once.
pub(super) struct Socket {
    transport: Transport,
    /// Given up after the connection is closed.
    _seat: Option<Seat>,
}

enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How many streams a connection may carry now; the server may change its mind.
pub(super) struct StreamCap(AtomicUsize);

/// Why an exchange gave no response.
pub(super) enum Failure {
    /// Not a byte of it was written; here it is again.
    Unsent(Box<Request<Outgoing>>, String),
    /// Written, and the server says that it did nothing of it.
    Unprocessed(String),
    Sent(String),
}

impl StreamCap {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed).clamp(1, MAX_STREAMS as usize)
    }
}

/// Connects to a server, trying its addresses in turn; all of it is to take no longer than `limit`, which the caller holds
/// it to. `h1_only` offers no HTTP/2 to a TLS server; `seat` is held while the connection is open. Fails closed: TLS without a
/// configuration or a valid name is an error.
pub(super) async fn dial(server: &Server, h1_only: bool, limit: Duration, seat: Option<Seat>) -> Result<Wire, String> {
    let tcp = tcp(server, limit).await?;
    match server.url.scheme {
        ServerScheme::Http => Ok(h1(Transport::Tcp(tcp), seat)),
        ServerScheme::H2c => h2(tcp, seat).await,
        ServerScheme::Https => {
            let tls = server.tls.as_ref().ok_or("there is no TLS configuration for it")?;
            let name = tls.name.clone().ok_or("its host is not a valid TLS server name")?;
            let config = if h1_only { &tls.h1_only } else { &tls.config };
            let stream = tokio_rustls::TlsConnector::from(config.clone())
                .connect(name, tcp)
                .await
                .map_err(|error| format!("TLS handshake: {error}"))?;
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                server.speaks(Spoken::H2);
                return h2(stream, seat).await;
            }
            if !h1_only {
                server.speaks(Spoken::H1);
            }
            Ok(h1(Transport::Tls(Box::new(stream)), seat))
        }
    }
}

impl Wire {
    /// Sends one request and waits for the head of its response. What the server says before it (1xx) is skipped.
    pub async fn exchange(self, server: &Server, mut request: Box<Request<Outgoing>>) -> Result<Response<Incoming>, Failure> {
        let preset = request.body().preset();
        match self {
            Self::H1(connection) => match connection.exchange(request, preset).await {
                Ok(response) => Ok(response.map(|body| {
                    let early = !body.is_end_stream() && !body.is_request_over();
                    if early { Incoming::Early(h1::Relayed::new(body)) } else { Incoming::H1(body) }
                })),
                Err(h1::Failure::Unsent(request, fault)) => Err(Failure::Unsent(request, fault.to_string())),
                Err(h1::Failure::Sent(fault)) => Err(Failure::Sent(fault.to_string())),
            },
            Self::H2(mut sender, _) => {
                let scheme = if server.url.scheme == ServerScheme::Https { Scheme::HTTPS } else { Scheme::HTTP };
                if let Err(error) = outgoing::to_h2(&mut request, &scheme, &server.authority) {
                    return Err(Failure::Unsent(request, format!("no HTTP/2 target: {error}")));
                }
                let response = sender.try_send_request(*request).await.map_err(|mut refused| match refused.take_message() {
                    Some(request) => Failure::Unsent(Box::new(request), explain(refused.error())),
                    None if is_unprocessed(refused.error()) => Failure::Unprocessed(explain(refused.error())),
                    None => Failure::Sent(explain(refused.error())),
                })?;
                Ok(response.map(Incoming::H2))
            }
        }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::H1(body) => Pin::new(body).poll_frame(cx).map_err(|fault| BodyError::Peer(fault.to_string())),
            Self::Early(body) => Pin::new(body).poll_frame(cx).map_err(|fault| BodyError::Peer(fault.to_string())),
            Self::H2(body) => Pin::new(body).poll_frame(cx).map_err(|error| BodyError::Peer(explain(&error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end_stream(),
            Self::Early(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size_hint(),
            Self::Early(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
        }
    }
}

/// Whether the server says that it did nothing of a request (RFC 9113 section 8.7): it refused its stream, or said GOAWAY with a last
/// stream before it, which is the only one of its GOAWAYs that h2 tells a stream. Fails closed: what is not known to say so does not.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let said = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    said.is_some_and(|said| {
        said.is_remote() && (said.is_go_away() || said.is_reset() && said.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// An error with the errors behind it: hyper's own text names only the outermost.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

async fn tcp(server: &Server, limit: Duration) -> Result<TcpStream, String> {
    let addresses = server.addresses().await?;
    // An address that swallows packets may not use up the time of the ones behind it.
    let share = limit / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut last = String::new();
    for address in addresses.iter() {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|error| format!("{address}: {error}"))?;
                let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
                let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                return Ok(stream);
            }
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no connection within {share:?}"),
        }
    }
    Err(last)
}

fn h1(transport: Transport, seat: Option<Seat>) -> Wire {
    Wire::H1(h1::Connection::new(Socket { transport, _seat: seat }))
}

async fn h2<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T, seat: Option<Seat>) -> Result<Wire, String> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD);
    let (sender, mut connection) = builder.handshake(TokioIo::new(io)).await.map_err(|error| explain(&error))?;
    let cap = Arc::new(StreamCap(AtomicUsize::new(MAX_STREAMS as usize)));
    let told = cap.clone();
    tokio::spawn(async move {
        let driven = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            told.0.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "upstream connection ended");
        }
        drop(seat);
    });
    Ok(Wire::H2(sender, cap))
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Transport::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Transport::Tls(tls) = &mut self.transport {
            let _ = Pin::new(tls).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
