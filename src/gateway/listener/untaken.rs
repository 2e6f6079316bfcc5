//! Answers that hyper has whole and the client has not: h2 keeps the end of one until its client grants a window for it, long
//! after the task of its stream is done.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Buf, Bytes};

use super::wire::InFlight;

/// Bytes of an answer, as hyper holds them until they are written or their stream is over. The last ones of an HTTP/2 answer keep
/// its request in flight.
pub(super) struct Piece {
    bytes: Bytes,
    _last: Option<Last>,
}

/// The end of an answer.
struct Last {
    request: InFlight,
    after: bool,
}

/// The ends of answers that were handed out and are not written, parted by when: before the last turn, or after it. Whatever a
/// connection does besides, what was there before one turn and is there at the next was not taken all the time between.
#[derive(Default)]
pub(super) struct Turns {
    turned: AtomicBool,
    even: AtomicUsize,
    odd: AtomicUsize,
}

impl Piece {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, _last: None }
    }

    pub(super) fn last(bytes: Bytes, request: InFlight) -> Self {
        let turns = &request.watch().untaken;
        let after = turns.turned.load(Ordering::Relaxed);
        turns.side(after).fetch_add(1, Ordering::Relaxed);
        Self { bytes, _last: Some(Last { request, after }) }
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.request.watch().untaken.side(self.after).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
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
    use std::sync::Arc;

    use super::super::wire::Watch;
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_the_end_of_its_answer_is_let_go_and_ages_by_turns() {
        let watch = Arc::<Watch>::default();
        let turns = &watch.untaken;
        let last = || Piece::last(Bytes::from_static(b"end"), watch.begin());
        let first = last();
        assert!(turns.any() && !turns.are_old());
        turns.turn();
        let second = last();
        assert!(turns.are_old());
        drop(first);
        assert!(turns.any() && !turns.are_old());
        assert_eq!(watch.in_flight(), 1);
        turns.turn();
        assert!(turns.are_old());
        drop(second);
        assert!(!turns.any() && watch.in_flight() == 0);
    }
}
