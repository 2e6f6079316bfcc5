//! Work that may take a processor for long, and must not take it from the workers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

/// How far a thread steps back: it has a tenth of what a worker has where both want the same processor, and all of one that is free.
const NICENESS: i32 = 10;
/// How often it is looked whether something is still in use, and for how long.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: usize = 200;

/// Runs `work` on a thread of its own that steps back behind the workers.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name("doorward-aside".to_owned()).spawn(move || {
        // Of this thread alone, on Linux. Where it is refused the work is done all the same.
        let _ = rustix::process::nice(NICENESS);
        // Whoever asked may be gone.
        let _ = tell.send(work());
    })?;
    told.await.map_err(|_| io::Error::other("it panicked"))
}

/// Lets go of something large once nobody else uses it, so that no worker is the one to free it. What is still in use after a
/// second is freed by who uses it last.
pub(super) async fn retire<T: Send + Sync + 'static>(old: Arc<T>) {
    // A thread that cannot be made leaves it to the others too.
    let _ = aside(move || drop(last_of(old, || std::thread::sleep(LOOK)))).await;
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
    use super::*;

    /// Tells on which thread it was dropped.
    struct Large(std::sync::mpsc::Sender<Option<String>>);

    impl Drop for Large {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[tokio::test]
    async fn what_is_retired_is_freed_aside() {
        let (tell, told) = std::sync::mpsc::channel();
        retire(Arc::new(Large(tell))).await;
        assert_eq!(told.try_recv().unwrap().as_deref(), Some("doorward-aside"));
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

    #[tokio::test]
    async fn aside_steps_back_and_a_panic_there_is_an_error() {
        let here = rustix::process::getpriority_process(None).unwrap();
        let there = aside(|| rustix::process::getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(there, (here + NICENESS).min(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), here);
        assert!(aside(|| panic!("on purpose")).await.is_err());
    }
}
