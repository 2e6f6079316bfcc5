//! When the answer to a login attempt leaves: not by how long the application looked for the account.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::upstream::{Body, BodyError};

/// Bytes of a held answer that are read while it waits, so that the application's connection serves others meanwhile.
const MOST_BYTES: usize = 64 * 1024;

/// Parts in which they may come: each has a price of its own.
const MOST_FRAMES: usize = 64;

/// Fields, in trailers too, by which applications and what stands before them tell when or how fast they answered. A `Date` is
/// set anew when the answer leaves.
const TELLING: [&str; 6] =
    ["date", "server-timing", "x-runtime", "x-response-time", "x-process-time", "x-envoy-upstream-service-time"];

/// The time of one attempt, from the moment in which it was handed to the application.
///
/// Fails closed: an answer that it holds leaves on a multiple of the length, however early or late the application was.
pub struct Pad {
    /// Zero: nothing is held.
    length: Duration,
    since: Instant,
}

impl Pad {
    /// Begins where the attempt is handed on.
    pub fn begin(length: Duration) -> Self {
        Self { length, since: Instant::now() }
    }

    /// Whether the first multiple has passed: an answer that comes now can be told from one that came before.
    pub fn is_over(&self) -> bool {
        !self.length.is_zero() && self.since.elapsed() > self.length
    }

    /// Gives the answer back at the next multiple since the beginning, without what tells its time otherwise. Whoever stops
    /// waiting loses the answer and nothing else.
    pub async fn hold<E>(self, answer: Result<Response<Body>, E>) -> Result<Response<Body>, E> {
        if self.length.is_zero() {
            return answer;
        }
        let due = self.due();
        let answer = answer.map(without_its_time);
        let answer = match answer {
            Ok(response) if !response.body().is_end_stream() => {
                let (head, body) = response.into_parts();
                let mut held = Held::new(body);
                // Whether it was read to its end or not: what is missing is read after what is there.
                let _ = timeout_at(due, held.read_ahead()).await;
                Ok(Response::from_parts(head, held.boxed_unsync()))
            }
            other => other,
        };
        sleep_until(due).await;
        answer
    }

    fn due(&self) -> Instant {
        let multiple = self.since.elapsed().as_nanos().div_ceil(self.length.as_nanos()).max(1);
        self.since + self.length * u32::try_from(multiple).unwrap_or(u32::MAX)
    }
}

/// A body of which the beginning has been read.
struct Held {
    read: VecDeque<Result<Frame<Bytes>, BodyError>>,
    /// `None` once it ended or broke.
    rest: Option<Body>,
    /// What the body said of its size before anything of it was read.
    size: SizeHint,
    /// Bytes passed on.
    passed: u64,
}

impl Held {
    fn new(body: Body) -> Self {
        Self { read: VecDeque::new(), size: body.size_hint(), rest: Some(body), passed: 0 }
    }

    /// May be stopped at any await: nothing that was read is lost.
    async fn read_ahead(&mut self) {
        let mut bytes = 0;
        while bytes < MOST_BYTES && self.read.len() < MOST_FRAMES {
            let Some(rest) = &mut self.rest else { return };
            let frame = rest.frame().await;
            if !matches!(frame, Some(Ok(_))) {
                self.rest = None;
            }
            let Some(frame) = frame else { return };
            bytes += length(&frame);
            self.read.push_back(frame);
        }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut next = match (this.read.pop_front(), &mut this.rest) {
            (Some(frame), _) => Some(frame),
            (None, Some(rest)) => ready!(Pin::new(rest).poll_frame(cx)),
            (None, None) => None,
        };
        if let Some(trailers) = next.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
            forget_time(trailers);
        }
        this.passed += next.as_ref().map_or(0, length) as u64;
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    /// What it was at first, less what passed: a body that broke is not one that was shorter, nor one with trailers whole
    /// before them.
    fn size_hint(&self) -> SizeHint {
        self.size.exact().map_or_else(SizeHint::default, |whole| SizeHint::with_exact(whole.saturating_sub(self.passed)))
    }
}

fn without_its_time(mut response: Response<Body>) -> Response<Body> {
    forget_time(response.headers_mut());
    response
}

fn forget_time(fields: &mut HeaderMap) {
    for name in TELLING {
        fields.remove(name);
    }
}

fn length(frame: &Result<Frame<Bytes>, BodyError>) -> usize {
    frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests;
