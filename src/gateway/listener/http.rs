//! HTTP/1 or HTTP/2 on a connection that is already known, with every cap; never the auto builder.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{Caps, Deadlines};
use crate::upstream::{Body, BodyError};

use super::super::inbound::{Ambiguous, Inbound, Unread, drink};
use super::super::stays::Home;
use super::super::{Connection, Dropped};
use super::drive::{End, Patience, Protocol, Wish, drive};
use super::frames::{Frames, Refused};
use super::gather::Gathered;
use super::heads::Heads;
use super::nap::Talk;
use super::sift::Sifted;
use super::streams::{PACE, Pace, Piece, Streams};
use super::wire::{InFlight, Watch};

/// Limits of one connection, as its snapshot had them when it began: copied, so that it holds nothing else of that.
pub(super) struct Terms<'a> {
    /// Bytes and lines of a head, and streams (HTTP/2).
    head: usize,
    headers: usize,
    streams: u32,
    /// Of a head, between requests, and without progress.
    within: [Duration; 3],
    stop: &'a CancellationToken,
}

/// Least buffer that hyper takes.
const LEAST_BUFFER: usize = 8192;
/// Header lines that hyper takes when it is told nothing; told any number, it clears that much room for every head.
const OWN_CAP: usize = 100;
/// Of one answer, waiting for the client to take it.
const SEND_BUFFER: usize = 64 * 1024;
/// Uploads in flight: of one stream, and of all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams reset by the client before the gateway took them (rapid reset), and by us for the client's faults, before the
/// connection is ended.
const MAX_RESETS: usize = 20;
const MAX_FAULTS: usize = 128;
/// Of uploads whose answers are over, in all the life of an HTTP/2 connection: read on, so that the answers are seen.
const MOST_THROWN_AWAY: usize = 16 * 1024 * 1024;

/// Serves HTTP/1.1 to its end. `handle` answers one request.
///
/// Where an answer went out before its request was read whole, what still comes is read and thrown away for a moment: else
/// the kernel would send a reset, and the client's would throw our answer away.
pub(super) async fn http1<IO, F>(
    io: IO,
    watch: &Arc<Watch>,
    terms: &Terms<'_>,
    keep_alive: bool,
    handle: impl Fn(Request<Inbound>) -> F,
) -> End<hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        watch.owe(!request.body().is_end_stream());
        let (mut request, unread) = receive(request);
        let in_flight = watch.begin();
        let doubt = watch.doubted(watch.requests());
        if let Some(cause) = doubt {
            request.extensions_mut().insert(Ambiguous(cause));
        }
        answer(in_flight, unread, false, handle(request)).map_ok(move |mut answer| {
            if doubt.is_some() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        })
    });
    let (io, place) = Sifted::new(io, Heads::new(Arc::clone(watch)));
    // hyper gives it back itself.
    drop(place);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Ours tells a head that is slow from a connection that is idle; hyper's does not.
        .header_read_timeout(None)
        .max_buf_size(terms.head.max(LEAST_BUFFER))
        .half_close(false)
        .keep_alive(keep_alive)
        .pipeline_flush(false);
    if terms.headers != OWN_CAP {
        builder.max_headers(terms.headers);
    }
    let mut talk = Talk::new(io, builder, &service, watch);
    let ask = |talk: Pin<&mut Talk<'_, _, _>>, wish| match wish {
        Wish::Leave => talk.get_mut().leave(),
        Wish::Nap => talk.get_mut().nap(),
    };
    let end = drive(Pin::new(&mut talk), watch, terms.patience(Protocol::Http1), terms.stop, ask).await;
    let owed = match &end {
        End::Closed(Ok(())) => watch.owed() || watch.doubted(usize::MAX).is_some(),
        End::Closed(Err(error)) => error.is_parse(),
        _ => false,
    };
    if owed && let Some(stream) = talk.into_stream() {
        linger(stream).await;
    }
    end
}

/// Serves HTTP/2 to its end; what h2 refuses by itself is told.
pub(super) async fn http2<IO, F>(
    io: IO,
    watch: &Arc<Watch>,
    terms: &Terms<'_>,
    handle: impl Fn(Request<Inbound>) -> F,
    tell: &(dyn Fn(Refusal) + Sync),
) -> End<hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>> + Send + 'static,
{
    let service = service_fn(|request| {
        let (request, unread) = receive(request);
        // Boxed before it is wrapped: each layer moves what it holds, and this holds a whole request.
        answer(watch.begin(), unread, true, Box::pin(handle(request)))
    });
    let frames = Frames::new(Arc::clone(watch));
    let refused = frames.refused();
    let io = Gathered::new(io);
    let sender = io.clone();
    let (io, place) = Sifted::new(io, frames);
    // No PING asks whether anybody is still there: its answer comes behind all that a slow client has not read yet, and whoever
    // vanished is the kernel's to find.
    let connection = http2::Builder::new(Streams::new(Arc::clone(watch), terms.patience(Protocol::Http2).stall))
        .timer(TokioTimer::new())
        .max_concurrent_streams(terms.streams)
        .max_header_list_size(u32::try_from(terms.head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_FAULTS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    // In a box, to be dropped before what it held is closed.
    let connection = Box::pin(Prompt { connection, sender });
    let mut judged = Judged { connection, watch, refused, told: 0, tell };
    let ask = |judged: Pin<&mut Judged<'_, Prompt<http2::Connection<_, _, _>, _>>>, wish| {
        // Its buffers stay: hyper does not give them back.
        if wish == Wish::Leave {
            Pin::new(&mut judged.get_mut().connection.connection).graceful_shutdown();
        }
    };
    let end = drive(Pin::new(&mut judged), watch, terms.patience(Protocol::Http2), terms.stop, ask).await;
    drop(judged);
    if let Some(io) = place.take() {
        part(io).await;
    }
    end
}

/// A stream that h2 refused by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub how: HowRefused,
    /// It was a request by then, with a record of its own.
    pub begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HowRefused {
    /// With this code.
    Reset(&'static str),
    /// By a 431.
    TooLarge,
    /// By the end of the connection: hyper takes no CONNECT with a body, and nothing that came with the end of its client.
    Ended,
}

/// An HTTP/2 connection, and what it refused since it was last looked at.
struct Judged<'a, C> {
    connection: Pin<Box<C>>,
    watch: &'a Watch,
    refused: Arc<Refused>,
    /// Heads told as refused.
    told: usize,
    tell: &'a (dyn Fn(Refusal) + Sync),
}

impl<C: Future> Future for Judged<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = self.connection.as_mut().poll(cx);
        // While the socket takes nothing h2 may not have read what came, nor said what it thinks of it.
        if self.watch.blocked().is_none() {
            self.settle(polled.is_ready());
        }
        polled
    }
}

impl<C> Judged<'_, C> {
    /// By now every head that came whole is a request or was refused; `over`: with the connection itself.
    fn settle(&mut self, over: bool) {
        let unbegun = self.refused.heads().map_or(0, |heads| heads.saturating_sub(self.watch.requests() + self.told));
        let (resets, code) = self.refused.take_resets();
        for place in 0..unbegun.max(resets) {
            let how = match over {
                _ if place < resets => HowRefused::Reset(code),
                false => HowRefused::TooLarge,
                true => HowRefused::Ended,
            };
            (self.tell)(Refusal { how, begun: place >= unbegun });
        }
        self.told += unbegun;
    }
}

/// What a connection did that is not HTTP, where that is why it ended; `None` for those who only left.
pub(super) fn breach(error: &hyper::Error) -> Option<String> {
    if error.is_parse() {
        return Some(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
    }
    // h2's error cannot be named here. It says `detected` of what its own end refused; what the peer `received` from us or
    // sent to end the connection, and broken sockets, are no breach.
    let source = error.source().filter(|source| !source.is::<io::Error>())?.to_string();
    source.contains("error detected").then_some(source)
}

/// The bare status with which hyper answers what it cannot parse; `None` where it only ends the connection (HTTP/2).
pub(super) fn bare_status(error: &hyper::Error) -> Option<StatusCode> {
    if error.is_parse_too_large() {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        error.is_parse().then_some(StatusCode::BAD_REQUEST)
    }
}

impl<'a> Terms<'a> {
    pub(super) fn new(caps: &Caps, deadlines: &Deadlines, stop: &'a CancellationToken) -> Self {
        let Caps { head, headers, streams, .. } = *caps;
        Self { head, headers, streams, within: [deadlines.head, deadlines.idle, deadlines.body], stop }
    }

    fn patience(&self, protocol: Protocol) -> Patience {
        let [head, idle, stall] = self.within;
        Patience { head, idle, stall, protocol }
    }
}

/// A request as the gateway takes it, and what is to be kept until its answer is over.
fn receive(request: Request<Incoming>) -> (Request<Inbound>, Unread) {
    let (head, body) = request.into_parts();
    let (body, unread) = Inbound::new(body, head.version);
    (Request::from_parts(head, body), unread)
}

/// No `async fn` here and above: that would hold the future of the whole request twice, as its argument and as what it awaits.
fn answer(
    in_flight: InFlight,
    unread: Unread,
    h2: bool,
    response: impl Future<Output = Result<Response<Body>, Dropped>>,
) -> impl Future<Output = Result<Response<Answer>, Dropped>> {
    response.map_ok(move |response| {
        let pace = PACE.try_with(Arc::clone).ok();
        let in_flight = match &pace {
            Some(pace) => pace.keep(in_flight),
            None => Some(in_flight),
        };
        response.map(|body| Answer { body, pace, h2, over: false, unread, in_flight })
    })
}

/// What an exchange ends with, asked from within: the task of its stream (HTTP/2), else that of its connection.
pub(in crate::gateway) fn home(connection: &Connection, version: Version) -> Home {
    if version == Version::HTTP_2 {
        return Home::Stream(PACE.try_with(|pace| pace.task()).ok().flatten());
    }
    Home::Connection(connection.task.get().cloned())
}

/// An answer's body: the request is in flight until it ends (over HTTP/2, until its last bytes are written), and what was not
/// read of it is kept.
pub(super) struct Answer {
    body: Body,
    pace: Option<Arc<Pace>>,
    h2: bool,
    /// It was handed out to its end.
    over: bool,
    unread: Unread,
    /// Over HTTP/2 it goes with the stream.
    in_flight: Option<InFlight>,
}

impl http_body::Body for Answer {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let poll = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(pace) = &self.pace {
            pace.note(matches!(poll, Poll::Ready(Some(Ok(_)))));
        }
        self.over |= matches!(poll, Poll::Ready(None));
        poll.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, self.pace.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    /// Over HTTP/2 the end of the answer does not wait for the end of the request, and whoever still sends is heard out within
    /// bounds, so that it is the answer that it sees. Only then is the stream reset.
    fn drop(&mut self) {
        if !self.h2
            && let Some(request) = &self.in_flight
            && request.watch().owed()
            && self.unread.is_over()
        {
            request.watch().owe(false);
        }
        if self.h2
            && (self.over || self.body.is_end_stream())
            && let Some(rest) = self.unread.take()
            && let Some(pace) = &self.pace
            && let Ok(runtime) = Handle::try_current()
        {
            // It ends with its connection, whose streams all fail then.
            let watch = Arc::clone(pace.watch());
            runtime.spawn(async move { drink(rest, |read| watch.throw_away(read) < MOST_THROWN_AWAY).await });
        }
    }
}

/// A connection that sends what it wrote once it has written all it can.
struct Prompt<C, IO> {
    connection: C,
    sender: Gathered<IO>,
}

impl<C: Future + Unpin, IO: AsyncWrite + Unpin> Future for Prompt<C, IO> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        // Until it is sent the socket wakes this again; that it broke, hyper learns from its next read.
        let _ = self.sender.poll_send(cx);
        polled
    }
}

/// Says goodbye, as TLS demands and whatever broke (close_notify), and reads on for a moment, so that it is heard.
async fn part(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    const WITHIN: Duration = Duration::from_secs(1);
    const MOST: u64 = 1024 * 1024;
    let farewell = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(MOST), &mut tokio::io::sink()).await
    };
    // Whoever does not listen is cut.
    let _ = timeout(WITHIN, farewell).await;
}

/// Reads on until the client has closed too, for a bounded time and size.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    const WITHIN: Duration = Duration::from_secs(2);
    const MOST: usize = 16 * 1024 * 1024;
    let discard = async {
        let mut left = MOST;
        // Not in the future itself, which every connection has.
        let mut chunk = vec![0; 8192];
        while let Ok(read @ 1..) = io.read(&mut chunk).await {
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    // Whoever still sends after this is reset; who takes nothing could hold a farewell for ever.
    let _ = timeout(WITHIN, discard).await;
    let _ = timeout(WITHIN, io.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};

    use super::*;
    use crate::policy::limit::Quota;

    /// Its PONG may stand behind all that it has not read yet, here or on its way.
    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_cut_for_what_it_does_not_say_while_its_answer_is_in_the_making() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let quota = Quota { requests: 1, per: second, burst: 1 };
        let caps =
            Caps { connections: 1, connections_per_client: 1, handshakes_per_client: quota, streams: 9, headers: 9, head: 8192 };
        let deadlines =
            Deadlines { proxy_header: second, handshake: second, head: second, body: second, idle: second, drain: second };
        let stop = CancellationToken::new();
        let terms = Terms::new(&caps, &deadlines, &stop);
        let (watch, (ours, mut theirs)) = (Arc::<Watch>::default(), tokio::io::duplex(64 * 1024));
        let handle = |_| async move {
            tokio::time::sleep(hour).await;
            Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync()))
        };
        let served = http2(ours, &watch, &terms, handle, &|_| {});
        let client = async {
            theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            theirs.write_all(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a").await.unwrap();
            tokio::time::sleep(hour + second / 2).await;
            let mut said = vec![0; 4096];
            let read = theirs.read(&mut said).await.unwrap();
            let head = b"\x01\x05\0\0\0\x01\x88";
            assert!(said[..read].windows(head.len()).any(|bytes| bytes == head), "{:?}", &said[..read]);
        };
        tokio::join!(served, client);
    }
}
