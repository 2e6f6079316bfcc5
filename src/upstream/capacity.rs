//! How many connections a server is given, over all workers, and who waits for one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::Notify;

use super::pool::Shelves;

/// Requests that may wait for one server, as a multiple of its connections, and at least.
const WAITING_FACTOR: usize = 4;
const WAITING_AT_LEAST: usize = 1024;

/// Of one server. The caps are parameters: a reload may change them.
#[derive(Default)]
pub(super) struct Capacity {
    seats: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
    /// The workers' shelves on which its connections may lie idle.
    shelves: Mutex<Vec<Weak<Shelves>>>,
}

/// One connection's place; given up when the connection is closed.
pub(super) struct Seat(Arc<Capacity>);

/// One request's place in the queue. Who leaves wakes the next, so that what is free is never waited for.
pub(super) struct Waiting<'a> {
    capacity: &'a Capacity,
    /// Nobody was there before.
    pub first: bool,
    /// Who waits beside it for the streams of one worker's connections.
    pub streams: Option<Arc<Notify>>,
}

impl Capacity {
    /// Fails closed: `None` when `cap` connections are open.
    pub fn seat(self: &Arc<Self>, cap: usize) -> Option<Seat> {
        let more = |open: usize| (open < cap).then_some(open + 1);
        self.seats.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Seat(Arc::clone(self)))
    }

    /// Whether somebody waits: who comes now has to stand behind.
    pub fn is_queued(&self) -> bool {
        self.waiting() > 0
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Fails closed: `None` when too many wait already.
    pub fn queue(&self, cap: usize) -> Option<Waiting<'_>> {
        let most = cap.saturating_mul(WAITING_FACTOR).max(WAITING_AT_LEAST);
        let more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        let before = self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Waiting { capacity: self, first: before == 0, streams: None })
    }

    /// Tells the one who waits longest that something may be free: a connection, a place for a new one.
    pub fn free(&self) {
        if self.is_queued() {
            self.freed.notify_one();
        }
    }

    /// Resolves once something may be free. Made before looking, it misses nothing that is freed after.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Remembers a shelf on which connections may come to lie.
    pub fn lies_on(&self, shelves: &Arc<Shelves>) {
        let mut known = self.known();
        if !known.iter().any(|one| std::ptr::eq(one.as_ptr(), Arc::as_ptr(shelves))) {
            known.retain(|one| one.strong_count() > 0);
            known.push(Arc::downgrade(shelves));
        }
    }

    /// Closes one connection that lies idle on any worker's shelf. Its seat is free once it has ended.
    pub fn evict(&self, server: u64) {
        let known: Vec<_> = self.known().iter().filter_map(Weak::upgrade).collect();
        let _ = known.iter().any(|shelves| shelves.evict(server));
    }

    fn known(&self) -> MutexGuard<'_, Vec<Weak<Shelves>>> {
        self.shelves.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Connections open, for tests.
    #[cfg(test)]
    pub fn seats(&self) -> usize {
        self.seats.load(Ordering::SeqCst)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::SeqCst);
        self.0.free();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.capacity.waiting.fetch_sub(1, Ordering::SeqCst);
        self.capacity.free();
        if let Some(streams) = &self.streams {
            streams.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_seats_than_the_cap_and_a_lowered_cap_holds_for_the_next() {
        let capacity = Arc::new(Capacity::default());
        let held: Vec<_> = (0..3).map(|_| capacity.seat(3).unwrap()).collect();
        assert!(capacity.seat(3).is_none() && capacity.seat(2).is_none());
        assert!(capacity.seat(4).is_some());
        drop(held);
        assert_eq!(capacity.seats(), 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let capacity = Capacity::default();
        let held: Vec<_> = (0..WAITING_AT_LEAST).map(|_| capacity.queue(1).unwrap()).collect();
        assert!(held.iter().filter(|waiting| waiting.first).count() == 1);
        assert!(capacity.queue(1).is_none());
        drop(held);
        assert!(!capacity.is_queued());
    }

    #[tokio::test]
    async fn who_leaves_the_queue_wakes_the_next() {
        let capacity = Capacity::default();
        let (one, _other) = (capacity.queue(1).unwrap(), capacity.queue(1).unwrap());
        let freed = capacity.freed();
        drop(one);
        freed.await;
    }
}
