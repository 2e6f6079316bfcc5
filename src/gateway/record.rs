//! Exactly one record a request, also when the client leaves: told by a drop guard.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::header::{REFERER, USER_AGENT};
use http::{Method, Request};
use http_body::{Body as _, Frame, SizeHint};

use crate::clock::{Clock, Now};
use crate::events::{DecisionId, Events, RequestRecord};
use crate::policy::Denial;
use crate::upstream::{Body, BodyError};

use super::stays::Stay;
use super::{Connection, Gateway, Snapshot};

/// Tells its record when dropped; the body of the answer holds it until the last byte.
///
/// Fails towards telling: whatever drops it (an answer that ended, a client that left, a task that was aborted) tells the
/// record exactly once. Dropped without [`attach`](Self::attach) there was no answer: status 0, `cut`.
pub struct Recorder<T: Tell = Events> {
    pub record: RequestRecord,
    events: T,
    clock: Clock,
    started: Duration,
    answered: bool,
    /// The request's body, wherever it now is.
    inbound: Option<Arc<Upload>>,
    /// Once it has its permit; a tunnel takes it away.
    pub stay: Option<Stay>,
}

/// What is known of a request's body on its way to the application.
#[derive(Default)]
struct Upload {
    bytes: AtomicU64,
    /// Nothing more of it is to pass.
    ended: AtomicBool,
    reader: AtomicWaker,
}

/// Who is told of a finished request.
pub trait Tell: Send + 'static {
    /// Called once for each request; must not block.
    fn tell(&self, record: &RequestRecord);
}

impl Recorder {
    /// Starts the record of a request, before anything of it was judged: what is not canonical is logged as it came, capped.
    /// It shares the head's bytes and copies none.
    pub fn begin<B>(
        gateway: &Gateway,
        snapshot: &Snapshot,
        from: &Connection,
        request: &Request<B>,
        id: DecisionId,
        now: Now,
    ) -> Self {
        let header = |name| request.headers().get(name).cloned();
        let record = RequestRecord {
            // Until the request's own is read: who refuses it before that can still be found by site.
            host: from.server_name.clone(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            tls: Some(from.tls),
            user_agent: header(USER_AGENT),
            referer: header(REFERER),
            ..RequestRecord::begun(id, now.wall, snapshot.generation, [from.client.ip, from.peer], request.version())
        };
        Self::new(record, gateway.events.clone(), gateway.clock.clone(), now)
    }
}

impl<T: Tell> Recorder<T> {
    /// Notes why the request was refused; the cause stays private.
    pub fn refused(&mut self, denial: Denial) {
        self.record.reason = Some(denial.reason);
        self.record.cause = Some(denial.cause);
        self.record.status = denial.reason.status().as_u16();
    }

    /// `started` is the reading of `clock` at which the request began; `took` is measured from it.
    pub fn new(record: RequestRecord, events: T, clock: Clock, started: Now) -> Self {
        Self { record, events, clock, started: started.instant, answered: false, inbound: None, stay: None }
    }

    /// Wraps the request's body so that `bytes_in` is what was read of it. An empty body is passed as it is.
    pub fn count_in(&mut self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let upload = self.inbound.get_or_insert_with(Arc::default);
        Body::new(CountedBody { body, upload: Arc::clone(upload) })
    }

    /// Wraps an answer's body: counts bytes out, marks `cut` when it ends early, tells the record at its end. `record.status`
    /// must be set. Bytes are counted as they are handed to the connection, which may still fail to deliver the last ones.
    pub fn attach(mut self, body: Body) -> Body {
        self.answered = true;
        let remaining = body.size_hint().exact();
        let ended = self.record.method == Method::HEAD || remaining == Some(0) || body.is_end_stream();
        Body::new(RecordedBody { body, remaining, ended, recorder: Some(self) })
    }
}

impl<T: Tell> Drop for Recorder<T> {
    fn drop(&mut self) {
        if !self.answered {
            self.record.status = 0;
            self.record.cut = true;
        }
        let ended = self.stay.take().and_then(Stay::leave);
        if let Some(inbound) = &self.inbound {
            self.record.bytes_in = inbound.bytes.load(Ordering::Relaxed);
            if ended.is_some() {
                inbound.end();
            }
        }
        if let Some(denial) = ended {
            self.record.cut = true;
            self.record.reason = Some(denial.reason);
            self.record.cause = Some(denial.cause);
        }
        self.record.took = self.clock.instant().saturating_sub(self.started);
        self.events.tell(&self.record);
    }
}

impl Tell for Events {
    fn tell(&self, record: &RequestRecord) {
        self.request(record);
    }
}

/// The answer's body, holding its recorder.
struct RecordedBody<T: Tell> {
    body: Body,
    /// Bytes still to come, where the body says so beforehand.
    remaining: Option<u64>,
    /// Everything there is to send was taken; a HEAD's body never is, and is whole all the same.
    ended: bool,
    recorder: Option<Recorder<T>>,
}

/// The request's body on its way to the application.
struct CountedBody {
    body: Body,
    upload: Arc<Upload>,
}

impl Upload {
    /// An HTTP/2 connection to the application reads the body in a task of its own, which does not end with the exchange.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl<T: Tell> RecordedBody<T> {
    fn finish(&mut self, cut: bool) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.record.cut = cut;
        }
    }
}

// Every field is `Unpin`, and nothing here projects a pin.
impl<T: Tell> Unpin for RecordedBody<T> {}

impl<T: Tell> http_body::Body for RecordedBody<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let length = data.remaining() as u64;
                    if let Some(recorder) = &mut self.recorder {
                        recorder.record.bytes_out += length;
                    }
                    self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(length));
                }
                // A connection may stop polling here, so the end must be seen without another poll.
                self.ended = self.ended || self.remaining == Some(0) || self.body.is_end_stream();
            }
            Some(Err(_)) => self.finish(true),
            None => {
                self.ended = true;
                self.finish(false);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<T: Tell> Drop for RecordedBody<T> {
    fn drop(&mut self) {
        let cut = !self.ended;
        self.finish(cut);
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() {
            self.upload.reader.register(cx.waker());
        }
        if self.upload.is_ended() {
            return Poll::Ready(Some(Err(BodyError::Peer("its exchange was ended".to_owned()))));
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.upload.bytes.fetch_add(data.remaining() as u64, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use http_body_util::{BodyExt, Empty, Full, StreamBody};
    use jiff::Timestamp;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Mutex;

    use super::*;
    use crate::clock::ManualClock;
    use crate::events::DecisionId;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<RequestRecord>>>);

    impl Tell for Told {
        fn tell(&self, record: &RequestRecord) {
            self.0.lock().unwrap().push(record.clone());
        }
    }

    impl Told {
        fn only(&self) -> RequestRecord {
            let told = self.0.lock().unwrap();
            assert_eq!(told.len(), 1, "one record a request");
            told[0].clone()
        }

        fn none_yet(&self) -> bool {
            self.0.lock().unwrap().is_empty()
        }
    }

    fn record(method: Method) -> RequestRecord {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        RequestRecord {
            decision: DecisionId(7),
            at: Timestamp::UNIX_EPOCH,
            generation: 1,
            client: ip,
            peer: ip,
            method,
            host: Some("portal.example.com".into()),
            target: None,
            version: http::Version::HTTP_11,
            route: None,
            status: 200,
            reason: None,
            cause: None,
            identity: None,
            approval: None,
            bot: None,
            upstream: None,
            tls: None,
            bytes_in: 0,
            bytes_out: 0,
            took: Duration::ZERO,
            cut: false,
            user_agent: None,
            referer: None,
        }
    }

    fn recorder(method: Method) -> (Recorder<Told>, Told, ManualClock) {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let told = Told::default();
        (Recorder::new(record(method), told.clone(), clock.clone().into(), clock.now()), told, clock)
    }

    fn full(text: &'static str) -> Body {
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    fn frames(frames: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn poll(body: &mut Body) -> Option<Result<Frame<Bytes>, BodyError>> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(frame) => frame,
            Poll::Pending => panic!("nothing here waits"),
        }
    }

    #[test]
    fn a_client_that_leaves_before_the_answer_is_recorded_with_status_zero() {
        let (recorder, told, clock) = recorder(Method::GET);
        clock.advance(Duration::from_millis(30));
        drop(recorder);
        let record = told.only();
        assert_eq!((record.status, record.cut, record.took), (0, true, Duration::from_millis(30)));
        assert_eq!(record.host.as_deref(), Some("portal.example.com"));
    }

    #[test]
    fn a_whole_answer_is_recorded_once_at_its_end_with_bytes_and_trailers() {
        let (recorder, told, clock) = recorder(Method::GET);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let data = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
        let mut body = recorder.attach(frames(vec![data("abc"), data("de"), Ok(Frame::trailers(trailers))]));
        assert!(poll(&mut body).unwrap().unwrap().is_data());
        assert!(poll(&mut body).unwrap().unwrap().is_data());
        let last = poll(&mut body).unwrap().unwrap();
        assert_eq!(last.trailers_ref().unwrap()["grpc-status"], "0");
        assert!(told.none_yet(), "not before the end");
        clock.advance(Duration::from_secs(2));
        assert!(poll(&mut body).is_none());
        drop(body);
        let record = told.only();
        assert_eq!((record.bytes_out, record.cut, record.took, record.status), (5, false, Duration::from_secs(2), 200));
    }

    #[test]
    fn an_answer_dropped_early_is_cut() {
        let (recorder, told, _) = recorder(Method::GET);
        let mut body = recorder.attach(frames(vec![Ok(Frame::data(Bytes::from_static(b"abc")))]));
        poll(&mut body);
        drop(body);
        let record = told.only();
        assert_eq!((record.bytes_out, record.cut, record.status), (3, true, 200));
    }

    #[test]
    fn a_failing_body_is_cut_and_still_told_once() {
        let (recorder, told, _) = recorder(Method::GET);
        let mut body = recorder.attach(frames(vec![Err(BodyError::Stalled)]));
        assert!(poll(&mut body).unwrap().is_err());
        drop(body);
        assert!(told.only().cut);
    }

    #[test]
    fn a_body_of_known_length_is_whole_without_a_last_poll() {
        let (recorder, told, _) = recorder(Method::GET);
        let mut body = recorder.attach(full("hello"));
        assert_eq!(body.size_hint().exact(), Some(5));
        poll(&mut body);
        assert!(body.is_end_stream());
        drop(body);
        let record = told.only();
        assert_eq!((record.bytes_out, record.cut), (5, false));
    }

    #[test]
    fn an_empty_answer_and_the_unread_body_of_a_head_are_whole() {
        for (method, body) in
            [(Method::GET, Empty::new().map_err(|never| match never {}).boxed_unsync()), (Method::HEAD, full("x"))]
        {
            let (recorder, told, _) = recorder(method);
            drop(recorder.attach(body));
            assert!(!told.only().cut);
        }
    }

    #[test]
    fn bytes_in_are_what_was_read_of_the_request() {
        let (mut recorder, told, _) = recorder(Method::POST);
        let mut request = recorder.count_in(frames(vec![Ok(Frame::data(Bytes::from_static(b"abcd")))]));
        poll(&mut request);
        drop(recorder.attach(full("")));
        assert_eq!(told.only().bytes_in, 4);
    }
}
