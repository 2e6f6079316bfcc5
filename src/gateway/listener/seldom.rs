//! What hardly ever happens is asked after only when it says so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is polled once, and again only after it woke its task. A connection's task runs for each piece that comes and
/// goes; whether it was cut, stopped or shed meanwhile costs it a look at a flag.
pub(super) struct Seldom<F> {
    future: F,
    bell: Option<(Arc<Bell>, Waker)>,
}

/// What the future wakes in place of its task.
struct Bell {
    rang: AtomicBool,
    task: Waker,
}

impl<F: Future + Unpin> Seldom<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, bell: None }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Another task asks, or the first: the future is to know of it.
        if this.bell.as_ref().is_none_or(|(bell, _)| !bell.task.will_wake(cx.waker())) {
            let bell = Arc::new(Bell { rang: AtomicBool::new(true), task: cx.waker().clone() });
            this.bell = Some((Arc::clone(&bell), Waker::from(bell)));
        }
        let Some((bell, waker)) = &this.bell else { return Poll::Pending };
        // The flag is taken down before the future is asked, so that what happens meanwhile puts it up again.
        if !bell.rang.load(Ordering::Relaxed) || !bell.rang.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_then_when_it_wakes() {
        let (news, mut asked) = (Notify::new(), 0);
        let mut notified = pin!(news.notified());
        let mut seldom = Seldom::new(poll_fn(|cx| {
            asked += 1;
            notified.as_mut().poll(cx)
        }));
        for _ in 0..3 {
            assert!(futures_util::poll!(&mut seldom).is_pending());
        }
        news.notify_one();
        assert!(futures_util::poll!(&mut seldom).is_ready());
        drop(seldom);
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn its_task_is_woken_by_it_also_where_that_changes() {
        let news = Arc::new(Notify::new());
        let theirs = Arc::clone(&news);
        let mut seldom = Box::pin(Seldom::new(Box::pin(async move { theirs.notified().await })));
        assert!(futures_util::poll!(&mut seldom).is_pending());
        let other = tokio::spawn(seldom);
        tokio::task::yield_now().await;
        news.notify_one();
        other.await.unwrap();
    }
}
