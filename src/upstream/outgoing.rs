//! A request on its way out: one framing, no trailers, what is added to it, and a note of whose turn it is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::net::ClientKey;

use super::{Body, BodyError, ForwardErrorKind, h1};

/// A request, and what the gateway adds to it.
pub struct Outbound {
    pub request: Request<Body>,
    pub preset: Option<Arc<Preset>>,
    /// For whom it is counted; nobody's is never held back for its client.
    pub client: Option<ClientKey>,
}

/// Fields that many requests carry beside their own, put into words once.
///
/// Fails closed: what HTTP/1.1 is sent are values of the map that HTTP/2 is given, so that no line of it ends early.
#[derive(Debug, Default)]
pub struct Preset {
    fields: Vec<(HeaderName, HeaderValue)>,
    lines: Vec<u8>,
}

/// The request body as a connection pulls it. Request trailers end here: they would carry fields past every check.
pub(super) struct Outgoing {
    body: Body,
    sending: Option<Arc<Sending>>,
    preset: Option<Arc<Preset>>,
}

/// What the puller of a request body leaves for the one who waits for the response.
pub(super) struct Sending {
    started: Instant,
    /// Microseconds from `started` to the last chunk.
    progress: AtomicU64,
    turn: AtomicU8,
    fault: AtomicU8,
}

/// Whom the exchange waits for.
const UPSTREAM: u8 = 0;
const CLIENT: u8 = 1;

const NO_FAULT: u8 = 0;
const TOO_LARGE: u8 = 1;
const BROKEN: u8 = 2;

/// Wraps a request's body; one without a body has nothing to watch.
pub(super) fn wrap(outbound: impl Into<Outbound>) -> (Request<Outgoing>, Option<Arc<Sending>>) {
    let Outbound { request, preset, .. } = outbound.into();
    let sending = (!request.body().is_end_stream()).then(|| Arc::new(Sending::new()));
    let watched = sending.clone();
    (request.map(|body| Outgoing { body, sending: watched, preset }), sending)
}

/// Writes one line of HTTP/1.1.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Resolves once the upstream, asked at `asked`, has owed the response head for `limit`. The clock starts anew with every chunk of
/// the request body, and stands still while the client owes the next one (its own stall deadline bounds that).
pub(super) async fn overdue(alarm: &mut Alarm, sending: Option<&Sending>, asked: Instant, limit: Duration) {
    let mut due = asked + limit;
    loop {
        alarm.reaches(due).await;
        let Some(sending) = sending else { return };
        let now = Instant::now();
        due = sending.due(now, limit);
        if due <= now {
            return;
        }
    }
}

/// The form of an HTTP/2 request (RFC 9113 section 8.3.1): absolute target from `Host`, which goes; no connection fields.
pub(super) fn to_h2(request: &mut Request<Outgoing>, scheme: &Scheme, fallback: &str) -> Result<(), http::Error> {
    let authority = match request.headers().get(HOST) {
        Some(host) => Authority::try_from(host.as_bytes())?,
        None => match request.uri().authority() {
            Some(authority) => authority.clone(),
            None => Authority::try_from(fallback)?,
        },
    };
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::builder().scheme(scheme.clone()).authority(authority).path_and_query(path).build()?;
    *request.version_mut() = Version::HTTP_2;
    let framing = Framing::of(request);
    // From here on they are its own, also where it goes on over HTTP/1.1.
    let preset = request.body_mut().preset.take();
    let headers = request.headers_mut();
    framing.set(headers);
    for (name, value) in preset.iter().flat_map(|preset| preset.fields()) {
        headers.insert(name.clone(), value.clone());
    }
    for name in [HOST, CONNECTION, UPGRADE, TRAILER, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    Ok(())
}

/// How the body's end is known. What the client claimed is not asked: the body itself is (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    /// No body, by a method whose requests have one: the length 0 is said.
    Empty,
    Exact(u64),
    Unknown,
}

impl Framing {
    pub fn of<B: http_body::Body>(request: &Request<B>) -> Self {
        let body = request.body();
        if body.is_end_stream() {
            let says_so = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
            return if says_so { Self::Empty } else { Self::None };
        }
        body.size_hint().exact().map_or(Self::Unknown, Self::Exact)
    }

    fn set(self, headers: &mut HeaderMap) {
        headers.remove(TRANSFER_ENCODING);
        match self {
            Self::None | Self::Unknown => headers.remove(CONTENT_LENGTH),
            Self::Empty => headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0")),
            Self::Exact(length) => headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
        };
    }
}

impl From<Request<Body>> for Outbound {
    fn from(request: Request<Body>) -> Self {
        Self { request, preset: None, client: None }
    }
}

impl Preset {
    pub fn new(fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        let length = |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
        let mut lines = Vec::with_capacity(fields.iter().map(length).sum());
        for (name, value) in &fields {
            field(&mut lines, name.as_str(), value.as_bytes());
        }
        Self { fields, lines }
    }

    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// The same as lines of HTTP/1.1.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }
}

impl Outgoing {
    pub fn preset(&self) -> Option<Arc<Preset>> {
        self.preset.clone()
    }
}

impl Sending {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            progress: AtomicU64::new(0),
            turn: AtomicU8::new(UPSTREAM),
            fault: AtomicU8::new(NO_FAULT),
        }
    }

    /// What went wrong on the client's side, if anything did.
    pub fn fault(&self) -> Option<ForwardErrorKind> {
        match self.fault.load(Ordering::Acquire) {
            TOO_LARGE => Some(ForwardErrorKind::BodyTooLarge),
            BROKEN => Some(ForwardErrorKind::ClientBody),
            _ => None,
        }
    }

    fn due(&self, now: Instant, limit: Duration) -> Instant {
        if self.turn.load(Ordering::Acquire) == CLIENT {
            return now + limit;
        }
        self.started + Duration::from_micros(self.progress.load(Ordering::Acquire)) + limit
    }

    fn progressed(&self) {
        let since = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.progress.store(since, Ordering::Release);
        self.turn.store(UPSTREAM, Ordering::Release);
    }

    fn broke(&self, error: &BodyError) {
        let fault = match error {
            BodyError::TooLarge => TOO_LARGE,
            BodyError::Stalled | BodyError::Peer(_) => BROKEN,
        };
        self.fault.store(fault, Ordering::Release);
    }
}

impl h1::Source for Outgoing {
    fn waits_for_peer(&self) {
        if let Some(sending) = &self.sending {
            sending.turn.store(UPSTREAM, Ordering::Release);
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(sending) = &self.sending {
            match &polled {
                Poll::Pending => sending.turn.store(CLIENT, Ordering::Release),
                Poll::Ready(Some(Err(error))) => sending.broke(error),
                Poll::Ready(_) => sending.progressed(),
            }
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) if !frame.is_data() => Poll::Ready(None),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
