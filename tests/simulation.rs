//! The decision core under a manual clock, with seeds: random interleavings of everything that can happen to it, each
//! step compared with a model that is too simple to be wrong in the same way.
//!
//! A failure names its seed; `DOORWARD_SEED=17 cargo test --test simulation` plays that one alone.
//!
//! What must hold in every run:
//! 1. **The budget is never exceeded in any window.** The model logs every guess that was let through, by the time at
//!    which it reached the application; no window of the budget's length holds more of them than the budget, those
//!    aside that a success or an operator cleared, that were given back, or that repeated a guess which had failed.
//! 2. **No acknowledged ban is lost**, over reloads, sweeps, steps of the clock, restarts and `kill -9`.
//! 3. **Nobody is refused for what another identity did**: a refusal is either for one's own guesses, or for the named
//!    account's budget, and that only without a recent success of one's own on it.
//! 4. **The gateway's own refusals never count.**
//! 5. **A success clears only that guesser's failures with that account**, and never a ban.
//! 6. **Faults never ban**: a ban needs the whole budget in real failures of the banned.
//!
//! Each part of the core has its own file under `simulation/`, with its own model; the runner and the dice are here.

#[path = "simulation/guessing.rs"]
mod guessing;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Runs of every simulation in an ordinary `cargo test`.
const SEEDS: u64 = 256;

#[test]
fn guesses_and_bans_keep_their_promises() {
    for_each_seed(guessing::Workplace::new, guessing::play);
}

/// Plays every seed, several at a time; each worker keeps one `workplace` for all that it plays.
fn for_each_seed<W>(workplace: impl Fn() -> W + Sync, play: impl Fn(u64, &mut W) + Sync) {
    if let Some(seed) = std::env::var("DOORWARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return play(seed, &mut workplace());
    }
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut workplace = workplace();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    play(seed, &mut workplace);
                }
            });
        }
    });
}

/// splitmix64: all the chance a simulation needs, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, sides: usize) -> usize {
        (self.roll() % sides as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}
