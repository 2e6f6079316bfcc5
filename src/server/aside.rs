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

/// Runs `work` on a thread of its own behind everybody else: a worker never waits for it, and nothing that a worker waits for may be
/// locked in it. For what nobody waits for.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    told(spawn(Stand::Behind, work)?.await)
}

/// Where reloads are worked on. Of its threads one at most stands behind everybody else, so that a flood cannot pile up any.
#[derive(Default)]
pub(super) struct Backroom {
    /// Held by that one.
    only: Arc<()>,
}

impl Backroom {
    /// Runs `work` [`aside`]; where that is not done within a second, since every processor is wanted, a second thread does it too, one
    /// that only steps back. The first to end is heard.
    pub async fn attempt<T: Send + 'static>(&self, work: impl Fn() -> T + Send + Sync + 'static) -> io::Result<T> {
        let work = Arc::new(work);
        let again = Arc::clone(&work);
        let (stand, held) = self.enter();
        let mut first = spawn(stand, move || (work(), drop(held)).0)?;
        if let Stand::Back = stand {
            return told(first.await);
        }
        tokio::select! {
            done = &mut first => return told(done),
            () = tokio::time::sleep(PATIENCE) => {}
        }
        let second = spawn(Stand::Back, move || again())?;
        tokio::select! {
            done = first => told(done),
            done = second => told(done),
        }
    }

    /// Lets go of something large once nobody else uses it, so that no worker is the one to free it. What is still in use after a
    /// second is freed by who uses it last. Nobody waits for it.
    pub fn retire<T: Send + Sync + 'static>(&self, old: Arc<T>) {
        let (stand, held) = self.enter();
        let free = move || {
            drop(last_of(old, || std::thread::sleep(LOOK)));
            drop(held);
        };
        // A thread that cannot be made leaves it to the others too.
        let _ = spawn(stand, free);
    }

    fn enter(&self) -> (Stand, Option<Arc<()>>) {
        let free = Arc::strong_count(&self.only) == 1;
        if free { (Stand::Behind, Some(Arc::clone(&self.only))) } else { (Stand::Back, None) }
    }
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

    fn stand() -> (Scheduler, i32) {
        (get_scheduler(Pid::current_thread()).unwrap(), rustix::process::getpriority_process(None).unwrap())
    }

    #[tokio::test]
    async fn aside_is_behind_everybody_else_and_a_panic_there_is_an_error() {
        let here = stand();
        assert_eq!(aside(stand).await.unwrap().0, Scheduler::SCHED_IDLE);
        assert_eq!(Backroom::default().attempt(stand).await.unwrap().0, Scheduler::SCHED_IDLE);
        assert_eq!(stand(), here);
        assert!(aside(|| panic!("on purpose")).await.is_err());
        assert!(Backroom::default().attempt(|| panic!("on purpose")).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_lags_behind_is_done_again_by_one_that_only_steps_back_and_no_second_one_lags() {
        let (room, here) = (Backroom::default(), stand());
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
        while Arc::strong_count(&room.only) > 1 {
            std::thread::yield_now();
        }
        assert_eq!(room.attempt(stand).await.unwrap().0, Scheduler::SCHED_IDLE);
    }
}
