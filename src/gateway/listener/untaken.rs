//! How long answers wait that nobody waits with: their streams have no task any more.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Answers that h2 has to their ends and did not write, parted by since when: before the last turn, or after it. Whatever a
/// connection does besides, what was there before one turn and is there at the next was not taken all the time between.
#[derive(Default)]
pub(super) struct Turns {
    turned: AtomicBool,
    even: AtomicUsize,
    odd: AtomicUsize,
}

impl Turns {
    /// One more. To be told where it is let go.
    pub(super) fn enter(&self) -> bool {
        let side = self.turned.load(Ordering::Relaxed);
        self.side(side).fetch_add(1, Ordering::Relaxed);
        side
    }

    pub(super) fn leave(&self, side: bool) {
        self.side(side).fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn any(&self) -> bool {
        [&self.even, &self.odd].iter().any(|side| side.load(Ordering::Relaxed) > 0)
    }

    /// Whether there are any from before the last turn.
    pub(super) fn are_old(&self) -> bool {
        self.side(!self.turned.load(Ordering::Relaxed)).load(Ordering::Relaxed) > 0
    }

    /// Those that came since the last turn are from before it now. Only to be asked for where there are no older ones.
    pub(super) fn turn(&self) {
        self.turned.fetch_xor(true, Ordering::Relaxed);
    }

    fn side(&self, turned: bool) -> &AtomicUsize {
        if turned { &self.odd } else { &self.even }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_at_two_turns_is_old_whatever_came_and_went_between() {
        let turns = Turns::default();
        let first = turns.enter();
        assert!(turns.any() && !turns.are_old());
        turns.turn();
        let second = turns.enter();
        assert!(turns.are_old());
        turns.leave(first);
        assert!(turns.any() && !turns.are_old());
        turns.turn();
        assert!(turns.are_old());
        turns.leave(second);
        assert!(!turns.any() && !turns.are_old());
    }
}
