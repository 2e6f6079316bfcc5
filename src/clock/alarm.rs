//! A timer for what is hardly ever late.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for one deadline after another. Where it is due too early it is left alone until then: setting it anew for each
/// request or frame would cost more than it saves.
#[derive(Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `due` has come; who asks is woken then, and perhaps once before.
    pub fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }

    /// Resolves once `due` has come.
    pub async fn reaches(&mut self, due: Instant) {
        poll_fn(|cx| self.poll(due, cx)).await;
    }

    /// Nobody waits for it any more: it lets go of who did.
    pub fn rest(&mut self) {
        if let Some(sleep) = &mut self.0 {
            // One that has spent its budget would keep its place.
            let _ = pin!(unconstrained(sleep.as_mut())).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::Duration;

    use tokio::task::coop::{consume_budget, has_budget_remaining};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_last_deadline_that_it_was_given() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let mut alarm = Alarm::default();
        for (due, rings) in [(60, false), (70, false), (5, true), (5, true), (80, false)] {
            let due = began + due * second;
            let rang = tokio::time::timeout(5 * second, alarm.reaches(due)).await.is_ok();
            assert_eq!(rang, rings, "{:?}", due - began);
            assert!(!rang || began.elapsed() >= due - began);
        }
        alarm.reaches(began + 90 * second).await;
        assert_eq!(began.elapsed().as_secs(), 90);
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn at_rest_it_holds_nobody() {
        let (mut alarm, nobody) = (Alarm::default(), Arc::new(Nobody));
        let waker = Waker::from(Arc::clone(&nobody));
        let due = Instant::now() + Duration::from_secs(60);
        assert!(alarm.poll(due, &mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&nobody), 2);
        while has_budget_remaining() {
            let _ = futures_util::poll!(Box::pin(consume_budget()));
        }
        alarm.rest();
        assert_eq!(Arc::strong_count(&nobody), 1);
    }
}
