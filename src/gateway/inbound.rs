//! The client's body, kept until it is answered.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// For no longer than this is a rest read after its answer.
const WITHIN: Duration = Duration::from_secs(2);

/// A request's body. Dropped before its end, what is left of it goes to its [`Unread`].
///
/// hyper takes the drop of a half-read HTTP/2 body for the end of the stream and resets it with CANCEL, also when the answer
/// (a 403, a 413, the application's early no) is about to be sent; the client would never see it.
pub struct Inbound<B: Body + Unpin = Incoming> {
    /// `None` only in drop.
    body: Option<B>,
    unread: Unread<B>,
    h2: bool,
}

/// An extension of a request whose head or place on its connection has two readings, and why. It is refused.
#[derive(Clone, Copy, Debug)]
pub struct Ambiguous(pub &'static str);

/// Holds what is left of a body until the answer is over; then the stream is reset with NO_ERROR (RFC 9113 section 8.1).
pub struct Unread<B = Incoming>(Option<Arc<Mutex<Option<B>>>>);

impl<B: Body + Unpin> Inbound<B> {
    /// The body of a request of this version, and what the answer must hold to its end.
    pub fn new(body: B, version: Version) -> (Self, Unread<B>) {
        let place = (!body.is_end_stream()).then(Arc::default);
        (Self { body: Some(body), unread: Unread(place.clone()), h2: version == Version::HTTP_2 }, Unread(place))
    }

    /// Whether the end of its frames is not the end of the body: hyper ends a stream that the client reset with NO_ERROR as if
    /// it were whole. Fails closed: nor is it where bytes that were announced are missing.
    pub fn is_cut(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.size_hint().lower() > 0 || self.h2 && !body.is_end_stream())
    }
}

impl From<Incoming> for Inbound {
    fn from(body: Incoming) -> Self {
        Self { body: Some(body), unread: Unread(None), h2: false }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Inbound<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B: Body + Unpin> Drop for Inbound<B> {
    fn drop(&mut self) {
        if let (Some(body), Some(place)) = (self.body.take().filter(|body| !body.is_end_stream()), &self.unread.0) {
            *held(place) = Some(body);
        }
    }
}

impl<B> Unread<B> {
    /// What is left by now, for [`drink`]; `None`: nothing, or it is still being read.
    pub fn take(&self) -> Option<B> {
        self.0.as_ref().and_then(|place| held(place).take())
    }
}

impl<B: Body + Unpin> Unread<B> {
    /// Whether the body was read to its end, or there was none. Fails closed: not where somebody still has it.
    pub fn is_over(&self) -> bool {
        let Some(place) = &self.0 else { return true };
        // A body of chunks does not know by itself that it has ended.
        let ends = |body: &mut B| matches!(Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())), Poll::Ready(None));
        Arc::strong_count(place) == 1 && held(place).as_mut().is_none_or(ends)
    }
}

/// Reads and throws away what still comes after an answer was sent, while `goes_on` of what came, and for a moment only: some
/// clients (curl 7.88 among them) lose the answer of a stream that is reset while they still send, whatever the reset says.
/// What is longer or slower is reset.
pub async fn drink<B: Body<Data = Bytes> + Unpin>(mut body: B, goes_on: impl Fn(usize) -> bool) {
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            if !goes_on(frame.data_ref().map_or(0, Bytes::len)) {
                break;
            }
        }
    };
    // What did not end in time is dropped as it is.
    let _ = tokio::time::timeout(WITHIN, rest).await;
}

fn held<B>(place: &Mutex<Option<B>>) -> MutexGuard<'_, Option<B>> {
    place.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Weak;

    use super::*;

    /// A body of one frame, and whether it still lives.
    struct Toy {
        left: usize,
        _alive: Arc<()>,
    }

    impl Body for Toy {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }
    }

    fn toy(left: usize) -> (Inbound<Toy>, Unread<Toy>, Weak<()>) {
        let alive = Arc::new(());
        let weak = Arc::downgrade(&alive);
        let (body, unread) = Inbound::new(Toy { left, _alive: alive }, Version::HTTP_2);
        (body, unread, weak)
    }

    fn read_one(body: &mut Inbound<Toy>) {
        assert!(Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
    }

    #[test]
    fn what_was_not_read_lives_as_long_as_the_answer() {
        let (mut body, unread, alive) = toy(2);
        read_one(&mut body);
        drop(body);
        assert!(alive.upgrade().is_some());
        drop(unread);
        assert!(alive.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_rest_is_read_while_it_may_be() {
        for (most, reads) in [(usize::MAX, 3), (2, 2)] {
            let (body, unread, alive) = toy(3);
            drop(body);
            let drunk = std::cell::Cell::new(0);
            let goes_on = |length| {
                drunk.set(drunk.get() + length);
                drunk.get() < most
            };
            drink(unread.take().unwrap(), goes_on).await;
            assert_eq!((drunk.get(), alive.upgrade().is_none()), (reads, true));
            assert!(unread.take().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_that_does_not_come_is_given_up() {
        let started = tokio::time::Instant::now();
        let never = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        drink(never, |_| true).await;
        assert_eq!(started.elapsed(), WITHIN);
    }

    #[test]
    fn what_was_read_whole_or_is_empty_is_not_kept() {
        let (mut body, _unread, alive) = toy(1);
        read_one(&mut body);
        drop(body);
        assert!(alive.upgrade().is_none());
        let (empty, unread, _) = toy(0);
        assert!(empty.is_end_stream() && unread.0.is_none());
    }

    #[test]
    fn a_body_is_over_once_it_was_read_to_its_end_and_let_go() {
        let (empty, unread, _) = toy(0);
        assert!(unread.is_over());
        drop(empty);
        for (left, read, over) in [(1, 1, true), (2, 1, false), (1, 0, false)] {
            let (mut body, unread, _) = toy(left);
            (0..read).for_each(|_| read_one(&mut body));
            assert!(!unread.is_over(), "somebody has it");
            drop(body);
            assert_eq!(unread.is_over(), over, "{read} of {left}");
        }
        let place = Arc::new(Mutex::new(Some(http_body_util::Empty::<Bytes>::new())));
        assert!(Unread(Some(place)).is_over(), "nothing is left of what was kept");
    }

    #[test]
    fn an_answer_that_ends_first_keeps_nothing() {
        let (body, unread, alive) = toy(2);
        drop(unread);
        drop(body);
        assert!(alive.upgrade().is_none());
    }
}
