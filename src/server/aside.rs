//! Work that may take a processor for long, and must not take it from the workers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
use tokio::sync::oneshot;

/// How far a thread steps back: it has a tenth of what a worker has where both want the same processor, and all of one that is free.
const NICENESS: i32 = 10;
/// How long what is waited for may stand behind everybody else.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether something is still in use, and for how long.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 200;

/// Where a thread stands when a worker wants its processor. Both last: without privileges nobody comes back from either.
#[derive(Clone, Copy)]
enum Stand {
    /// It runs where nobody else wants to, and gives way at once; under a flood it has some 0.3 % of a processor.
    Behind,
    /// It has its share by [`NICENESS`], and may keep a worker waiting for a slice, some milliseconds.
    Back,
}

impl Stand {
    /// Of the calling thread alone, on Linux. Where it is refused the work is done all the same.
    fn take(self) {
        let _ = rustix::process::nice(NICENESS);
        if let Self::Behind = self {
            let _ = set_scheduler(Pid::current_thread(), Scheduler::SCHED_IDLE, SchedulerParams { priority: 0 });
        }
    }
}

/// Runs `work` on a thread of its own behind everybody else. Under a flood it takes long; no lock of ours that a worker takes may be
/// taken in it, since who stands behind may hold it for as long.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    told(spawn(Stand::Behind, work)?.await)
}

/// Where reloads are worked on, and what they replaced is let go of: each by one thread at most that stands behind everybody else, so
/// that a flood cannot pile up any.
pub(super) struct Backroom {
    patience: Duration,
    /// Held by those threads.
    loading: Arc<()>,
    retiring: Arc<()>,
}

impl Default for Backroom {
    fn default() -> Self {
        Self { patience: PATIENCE, loading: Arc::default(), retiring: Arc::default() }
    }
}

impl Backroom {
    /// Runs `work` [`aside`]; where that is not done within a second a second thread does it too, one that only steps back. The first
    /// to end is heard; while the other lags, what comes next is done by the second kind alone.
    pub async fn attempt<T: Send + 'static>(&self, work: impl Fn() -> T + Send + Sync + 'static) -> io::Result<T> {
        let work = Arc::new(work);
        let again = Arc::clone(&work);
        let Some(held) = take(&self.loading) else { return told(spawn(Stand::Back, move || again())?.await) };
        let mut first = spawn(Stand::Behind, move || (work(), drop(held)).0)?;
        tokio::select! {
            done = &mut first => return told(done),
            () = tokio::time::sleep(self.patience) => {}
        }
        let Ok(second) = spawn(Stand::Back, move || again()) else { return told(first.await) };
        tokio::select! {
            done = first => told(done),
            done = second => told(done),
        }
    }

    /// Lets go of something large once nobody else uses it, so that no worker is the one to free it; nobody waits for that. What is
    /// still in use after a second, or comes while something else is let go of, is freed by who uses it last.
    pub fn retire<T: Send + Sync + 'static>(&self, old: Arc<T>) {
        let Some(held) = take(&self.retiring) else { return };
        let free = move || {
            drop(last_of(old, || std::thread::sleep(LOOK)));
            drop(held);
        };
        // A thread that cannot be made leaves it to the others too.
        let _ = spawn(Stand::Behind, free);
    }
}

/// `None` where somebody holds the place.
fn take(place: &Arc<()>) -> Option<Arc<()>> {
    (Arc::strong_count(place) == 1).then(|| Arc::clone(place))
}

fn spawn<T: Send + 'static>(stand: Stand, work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("doorward-aside".to_owned()).spawn(move || {
        stand.take();
        // Whoever asked may be gone.
        let _ = tell.send(work());
    })?;
    Ok(told)
}

fn told<T>(done: Result<T, oneshot::error::RecvError>) -> io::Result<T> {
    done.map_err(|_| io::Error::other("it panicked"))
}

/// What nobody else uses any more; `None` where somebody still does after as many looks as there are.
fn last_of<T>(mut shared: Arc<T>, mut pause: impl FnMut()) -> Option<T> {
    for _ in 0..LOOKS {
        match Arc::try_unwrap(shared) {
            Ok(last) => return Some(last),
            Err(still) => shared = still,
        }
        pause();
    }
    None
}

#[cfg(test)]
mod tests {
    use preempt_rt::sched::get_scheduler;

    use super::*;

    /// Tells on which thread it was dropped.
    struct Large(std::sync::mpsc::Sender<Option<String>>);

    impl Drop for Large {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[test]
    fn what_is_retired_is_freed_aside() {
        let (tell, told) = std::sync::mpsc::channel();
        Backroom::default().retire(Arc::new(Large(tell)));
        assert_eq!(told.recv().unwrap().as_deref(), Some("doorward-aside"));
    }

    #[test]
    fn the_last_user_is_waited_for_and_not_for_ever() {
        let large = Arc::new(7);
        let mut users = vec![Arc::clone(&large); 3];
        assert_eq!(last_of(large, || drop(users.pop())), Some(7));
        assert!(users.is_empty());
        let (large, mut looks) = (Arc::new(7), 0);
        let user = Arc::clone(&large);
        assert_eq!(last_of(large, || looks += 1), None);
        assert_eq!((looks, Arc::strong_count(&user)), (LOOKS, 1));
    }

    #[test]
    fn what_comes_while_something_is_let_go_of_is_freed_by_who_uses_it_last() {
        let (room, user) = (Backroom::default(), Arc::new(7));
        room.retire(Arc::clone(&user));
        let (tell, told) = std::sync::mpsc::channel();
        room.retire(Arc::new(Large(tell)));
        assert_ne!(told.recv().unwrap().as_deref(), Some("doorward-aside"));
    }

    fn stand() -> (Scheduler, i32) {
        (get_scheduler(Pid::current_thread()).unwrap(), rustix::process::getpriority_process(None).unwrap())
    }

    fn room(patience: Duration) -> Backroom {
        Backroom { patience, ..Backroom::default() }
    }

    #[tokio::test]
    async fn aside_is_behind_everybody_else_and_a_panic_there_is_an_error() {
        let (here, room) = (stand(), room(Duration::MAX));
        assert_eq!(aside(stand).await.unwrap().0, Scheduler::SCHED_IDLE);
        assert_eq!(room.attempt(stand).await.unwrap().0, Scheduler::SCHED_IDLE);
        assert_eq!(stand(), here);
        assert!(aside(|| panic!("on purpose")).await.is_err());
        assert!(room.attempt(|| panic!("on purpose")).await.is_err());
        assert!(take(&room.loading).is_some(), "a panic leaves the place");
    }

    #[tokio::test]
    async fn what_lags_behind_is_done_again_by_one_that_only_steps_back_and_no_second_one_lags() {
        let (room, here) = (room(Duration::ZERO), stand());
        let stepped_back = (here.0, (here.1 + NICENESS).min(19));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let done = room.attempt(move || {
            if stand().0 == Scheduler::SCHED_IDLE {
                // As under a flood, and for ever.
                let _ = held.lock().unwrap().recv();
            }
            stand()
        });
        assert_eq!(done.await.unwrap(), stepped_back);
        assert_eq!(room.attempt(stand).await.unwrap(), stepped_back, "the first one lags still");
        drop(release);
        while take(&room.loading).is_none() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
