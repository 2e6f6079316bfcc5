//! Permit + request -> upstream response; upgrades.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{Method, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::policy::Permit;
use crate::upstream::{
    Body, BodyError, ForwardError, ForwardErrorKind, Outbound, Pool, Reply, ReplyBody, Sent, Tunnel, Upstream,
};

use super::inbound::Inbound;
use super::{Worker, headers};

/// A tunnel ends when no byte passed in either direction for so long; an idle chat is no fault.
const TUNNEL_IDLE: Duration = Duration::from_secs(60 * 60);

/// How long the client's side may take to turn its connection into a tunnel after the 101.
const TUNNEL_START: Duration = Duration::from_secs(30);

/// Bytes of a client's body within each of its deadlines, unless it ends: a byte now and then is no progress. An upload over
/// the slowest line brings more.
const LEAST_PROGRESS: u64 = 256;

/// Limits of one forward.
pub struct Terms {
    /// Bytes of request body.
    pub body: u64,
    /// Of waiting without [`LEAST_PROGRESS`].
    pub body_stall: Duration,
    /// Of the client's connection; a tunnel is given an hour at least.
    pub idle: Duration,
}

/// What became of a request that was sent.
pub struct Forwarded {
    pub response: Response<Body>,
    /// Who answered.
    pub server: Arc<str>,
    /// Of a 101: it carries bytes once it is polled, and closes both sides when it is dropped.
    pub tunnel: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Sends a permitted request. `outbound` already carries its upstream headers and canonical target. Request trailers are
/// dropped, response trailers pass but for what a head alone may say. An upgrade is tunnelled only after the upstream's 101.
///
/// Fails closed: a 101 that nobody asked for, or to another protocol than was asked for, is a bad gateway. Without
/// `client_upgrade`, or with a body, the request loses its `Upgrade`. A gap in the response body longer than the upstream's `idle`
/// ends it.
pub async fn send(
    worker: &Arc<Worker>,
    upstream: &Upstream,
    permit: &Permit,
    outbound: Outbound,
    client_upgrade: Option<OnUpgrade>,
    terms: Terms,
) -> Result<Forwarded, ForwardError> {
    // Taken for what it proves: nothing is forwarded without one.
    let _: &Permit = permit;
    exchange(&worker.pool, upstream, outbound, client_upgrade, &terms).await
}

/// The client's body with its cap and its deadline for progress, trailers dropped.
///
/// Fails closed: the byte that is over the cap, and what follows it, is never passed on; what its client broke off, with whatever
/// code, is an error and never the end.
pub fn request_body(body: impl Into<Inbound>, terms: &Terms) -> Body {
    let body = body.into();
    if body.is_end_stream() {
        return empty();
    }
    ClientBody { body, left: terms.body, gap: Gap::new(terms.body_stall, LEAST_PROGRESS), over: false }.boxed_unsync()
}

async fn exchange(
    pool: &Pool,
    upstream: &Upstream,
    mut outbound: Outbound,
    client_upgrade: Option<OnUpgrade>,
    terms: &Terms,
) -> Result<Forwarded, ForwardError> {
    let request = &mut outbound.request;
    if request.body().size_hint().lower() > terms.body {
        let cause = format!("the request announces more than {} bytes of body", terms.body);
        return Err(ForwardError { kind: ForwardErrorKind::BodyTooLarge, unsent: true, cause });
    }
    let sent = request.extensions_mut().remove::<Sent>();
    request.extensions_mut().clear();
    if let Some(sent) = sent {
        request.extensions_mut().insert(sent);
    }
    // A server that switches while the client holds the body back would have its answer refused, which is held against it.
    let may_switch = client_upgrade.is_some() && request.body().is_end_stream();
    let asked = headers::upgrade(request.headers(), Version::HTTP_11).filter(|_| may_switch);
    if asked.is_none() {
        request.headers_mut().remove(UPGRADE);
        request.headers_mut().remove(CONNECTION);
    }

    let to_head = request.method() == Method::HEAD;

    let Reply { mut response, server } = pool.send(upstream, outbound).await?;
    // How the upstream speaks is no matter between the client and this gateway.
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().remove(UPGRADE);
        response.extensions_mut().clear();
        let bodiless = to_head || is_bodiless(response.status());
        if bodiless && !to_head && response.status() != StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        let response = response.map(|body| match body.size_hint().exact() {
            // One of no length may still hold its request, which goes on.
            None | Some(1..) if bodiless => empty(),
            _ => response_body(body, upstream.timeouts.idle),
        });
        return Ok(Forwarded { response, server, tunnel: None });
    }

    let (Some(client), Some(asked)) = (client_upgrade, asked) else {
        return Err(bad_gateway("the upstream switched protocols unasked"));
    };
    if !headers::upgrade_agrees(&asked, response.headers()) {
        return Err(bad_gateway("the upstream switched to a protocol that was not asked for"));
    }
    let (head, body) = response.into_parts();
    let far = body.into_tunnel().ok_or_else(|| bad_gateway("the upstream switched protocols where none can be"))?;
    let tunnel = Box::pin(tunnel(client, far, terms.idle.max(TUNNEL_IDLE)));
    Ok(Forwarded { response: Response::from_parts(head, empty()), server, tunnel: Some(tunnel) })
}

/// Whether a response never has a body (RFC 9110 section 6.4.1; 205 by section 15.3.6). Over HTTP/2 one may come all the same, and
/// clients of HTTP/2 would be handed it.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The upstream's body with its gap deadline, its trailers cleaned.
fn response_body(body: ReplyBody, gap: Duration) -> Body {
    if body.is_end_stream() {
        return empty();
    }
    ServerBody { left: Left::Frames(body), gap: Gap::new(gap, 0) }.boxed_unsync()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn bad_gateway(cause: &str) -> ForwardError {
    ForwardError { kind: ForwardErrorKind::BadGateway, unsent: false, cause: cause.to_owned() }
}

struct ClientBody {
    body: Inbound,
    left: u64,
    gap: Gap,
    over: bool,
}

struct ServerBody {
    left: Left,
    gap: Gap,
}

/// What is still to come of an upstream's body.
enum Left {
    Frames(ReplyBody),
    /// It broke: its connection is closed, whoever still holds this. Told a turn later: what came before it, a head perhaps,
    /// is written only while nothing comes, and a client that hears nothing at all does not know that it was answered.
    Fault(BodyError),
    Nothing,
}

/// A deadline for progress; it runs only while somebody waits for a frame.
struct Gap {
    limit: Duration,
    /// Bytes that count as progress; fewer leave the deadline where it was.
    least: u64,
    /// What is left of the deadline, and what came within it.
    left: Duration,
    came: u64,
    alarm: Alarm,
    /// While somebody waits.
    due: Option<Instant>,
}

impl Gap {
    fn new(limit: Duration, least: u64) -> Self {
        Self { limit, least, left: limit, came: 0, alarm: Alarm::default(), due: None }
    }

    fn poll(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, BodyError>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = polled {
            if let Some(Ok(frame)) = &frame {
                self.came += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            self.waited();
            return Poll::Ready(frame);
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + self.left);
        self.alarm.poll(due, cx).map(|()| Some(Err(BodyError::Stalled)))
    }

    fn waited(&mut self) {
        let due = self.due.take();
        if self.came >= self.least {
            self.left = self.limit;
            self.came = 0;
        } else if let Some(due) = due {
            self.left = due.saturating_duration_since(Instant::now());
        }
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx).map_err(|error| BodyError::Peer(error.to_string()));
        let frame = match ready!(this.gap.poll(polled, cx)) {
            Some(Ok(frame)) => frame,
            None if this.body.is_cut() => {
                this.over = true;
                return Poll::Ready(Some(Err(BodyError::Peer("its stream was reset before its end".to_owned()))));
            }
            end => {
                this.over = true;
                return Poll::Ready(end);
            }
        };
        let Ok(data) = frame.into_data() else {
            this.over = true;
            return Poll::Ready(None);
        };
        match this.left.checked_sub(data.len() as u64) {
            Some(left) => this.left = left,
            None => {
                this.over = true;
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            }
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for ServerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Left::Frames(body) = &mut this.left else {
            let fault = std::mem::replace(&mut this.left, Left::Nothing);
            return Poll::Ready(if let Left::Fault(fault) = fault { Some(Err(fault)) } else { None });
        };
        let polled = Pin::new(body).poll_frame(cx);
        match ready!(this.gap.poll(polled, cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::trail_towards_client(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => {
                this.left = Left::Fault(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.left {
            Left::Frames(body) => body.is_end_stream(),
            Left::Fault(_) => false,
            Left::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        if let Left::Frames(body) = &self.left { body.size_hint() } else { SizeHint::default() }
    }
}

/// Carries bytes both ways until both sides have ended or nothing passed for `idle`. Fails closed: a client that spoke before
/// it had its answer is cut off, and nothing of that reaches the application.
async fn tunnel(client: OnUpgrade, far: Tunnel, idle: Duration) {
    let client = match tokio::time::timeout(TUNNEL_START, client).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return tracing::debug!(%error, "an upgrade was not completed"),
        Err(_) => return tracing::debug!("an upgrade was not completed in time"),
    };
    let mut client = TokioIo::new(client);
    if spoke_early(&mut client).await {
        return tracing::debug!("the client spoke before its upgrade was answered");
    }
    let activity = Arc::new(Activity { started: Instant::now(), last: AtomicU64::new(0) });
    let mut client = Watched { io: client, activity: activity.clone() };
    let mut far = Watched { io: far, activity: activity.clone() };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut far) => {}
        () = activity.silent_for(idle) => {}
    }
}

/// Whether bytes of the client lay waiting before its 101 was written: they were meant for something else than the new
/// protocol. A task that has spent its budget gets nothing from a socket, so what it still gets was read before, whatever
/// kinds of stream are stacked here; a client that rightly speaks first after the 101 is never mistaken.
async fn spoke_early(client: &mut (impl AsyncRead + Unpin)) -> bool {
    poll_fn(|cx| {
        while coop::has_budget_remaining() {
            let Poll::Ready(spent) = coop::poll_proceed(cx) else { break };
            spent.made_progress();
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let _ = Pin::new(&mut *client).poll_read(cx, &mut buffer);
        Poll::Ready(!buffer.filled().is_empty())
    })
    .await
}

/// When a byte last passed.
struct Activity {
    started: Instant,
    /// Milliseconds from `started`.
    last: AtomicU64,
}

impl Activity {
    fn touch(&self) {
        self.last.store(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn due(&self, idle: Duration) -> Instant {
        self.started + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle
    }

    async fn silent_for(&self, idle: Duration) {
        loop {
            let due = self.due(idle);
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

struct Watched<T> {
    io: T,
    activity: Arc<Activity>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.touch();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if polled.is_ready() {
            self.activity.touch();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
