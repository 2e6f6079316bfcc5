//! HTTP/2 streams as tasks, and what of their answers h2 holds when those are done.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::{InFlight, Watch};

/// Runs each HTTP/2 stream as a task that ends when its client takes nothing of the answer for too long: flow control lets a
/// client hold an answer for ever while its connection looks alive. Dropping the stream resets it.
#[derive(Clone)]
pub(super) struct Streams {
    stall: Duration,
    watch: Arc<Watch>,
}

impl Streams {
    pub(super) fn new(watch: Arc<Watch>, stall: Duration) -> Self {
        Self { stall, watch }
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let stall = self.stall;
        let pace = Arc::new(Pace::new(Arc::clone(&self.watch)));
        let own = Arc::clone(&pace);
        let task = tokio::spawn(PACE.scope(Arc::clone(&pace), async move {
            match paced(stream, &own, stall).await {
                Paced::Over => own.finish(),
                Paced::Stalled => own.watch.stall(),
            }
        }));
        // A stream is spawned once, and does not run before this thread is done here.
        let _ = pace.task.set(task.abort_handle());
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq)]
enum Paced {
    Over,
    Stalled,
}

async fn paced(stream: impl Future, pace: &Pace, stall: Duration) -> Paced {
    let mut stream = pin!(stream);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut armed_for = 0;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Paced::Over);
        }
        if !pace.waits.load(Ordering::Relaxed) {
            armed_for = 0;
            return Poll::Pending;
        }
        let frames = pace.frames.load(Ordering::Relaxed);
        let until = (std::mem::replace(&mut armed_for, frames) != frames).then(|| Instant::now() + stall);
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until.unwrap_or_else(Instant::now))));
        if let Some(until) = until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx).map(|()| Paced::Stalled)
    })
    .await
}

/// Whether a stream waits for its client: it does from a frame handed out until the next one is asked for. It lives until its task
/// is over and all of its answer is written, or let go.
pub(super) struct Pace {
    waits: AtomicBool,
    frames: AtomicUsize,
    task: OnceLock<AbortHandle>,
    /// Of its connection.
    watch: Arc<Watch>,
    request: OnceLock<InFlight>,
    /// Its task is over: since before which turn.
    over: OnceLock<bool>,
}

tokio::task_local! {
    /// Of the stream whose task this is.
    pub(super) static PACE: Arc<Pace>;
}

/// Bytes of an answer as hyper holds them. h2 keeps them until its client grants a window for them, long after the task of the
/// stream is over where they are the last.
pub(super) struct Piece {
    bytes: Bytes,
    _stream: Option<Arc<Pace>>,
}

impl Pace {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        let (waits, frames) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { waits, frames, task: OnceLock::new(), watch, request: OnceLock::new(), over: OnceLock::new() }
    }

    /// Keeps a stream's request in flight as long as this lives; gives it back where there is one already.
    pub(super) fn keep(&self, request: InFlight) -> Option<InFlight> {
        self.request.set(request).err()
    }

    pub(super) fn note(&self, handed_out: bool) {
        self.waits.store(handed_out, Ordering::Relaxed);
        if handed_out {
            self.frames.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn task(&self) -> Option<AbortHandle> {
        self.task.get().cloned()
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The task is over. What h2 still has of the answer ages from here on.
    pub(super) fn finish(&self) {
        self.watch.complete();
        self.over.get_or_init(|| self.watch.untaken.enter());
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(side) = self.over.get() {
            self.watch.untaken.leave(*side);
        }
    }
}

impl Piece {
    pub(super) fn new(bytes: Bytes, stream: Option<Arc<Pace>>) -> Self {
        Self { bytes, _stream: stream }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, pieces: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(pieces)
    }

    fn advance(&mut self, by: usize) {
        self.bytes.advance(by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_all_of_its_answer_is_let_go_and_ages_once_its_task_is_over() {
        let watch = Arc::<Watch>::default();
        let pace = Arc::new(Pace::new(Arc::clone(&watch)));
        assert!(pace.keep(watch.begin()).is_none());
        let piece = Piece::new(Bytes::from_static(b"an answer"), Some(Arc::clone(&pace)));
        assert!(!watch.untaken.any());
        pace.finish();
        drop(pace);
        assert!(watch.untaken.any() && watch.in_flight() == 1);
        drop(piece);
        assert!(!watch.untaken.any() && watch.in_flight() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_takes_nothing_ends_and_one_that_waits_for_the_application_does_not() {
        let stall = Duration::from_secs(30);
        let pace = Pace::new(Arc::default());
        let started = Instant::now();
        let never = poll_fn(|_| Poll::<()>::Pending);
        pace.waits.store(true, Ordering::Relaxed);
        pace.frames.store(1, Ordering::Relaxed);
        assert_eq!(paced(never, &pace, stall).await, Paced::Stalled);
        assert_eq!(started.elapsed(), stall);

        pace.waits.store(false, Ordering::Relaxed);
        let hour = tokio::time::sleep(Duration::from_secs(3600));
        assert_eq!(paced(hour, &pace, stall).await, Paced::Over);
        assert_eq!(started.elapsed(), stall + Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn each_frame_taken_starts_the_wait_anew() {
        let stall = Duration::from_secs(30);
        let pace = Pace::new(Arc::default());
        let started = Instant::now();
        let stream = async {
            for _ in 0..4 {
                pace.frames.fetch_add(1, Ordering::Relaxed);
                pace.waits.store(true, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(29)).await;
            }
            pace.frames.fetch_add(1, Ordering::Relaxed);
            poll_fn(|_| Poll::<()>::Pending).await;
        };
        assert_eq!(paced(stream, &pace, stall).await, Paced::Stalled);
        assert_eq!(started.elapsed().as_secs(), 4 * 29 + 30);
    }
}
