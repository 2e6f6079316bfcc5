//! The only place that reads the system's clocks. Decisions take a [`Now`]; deadlines of sockets run on timers.

mod alarm;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub use alarm::Alarm;

/// One reading of both clocks, taken once per decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since the clock was made. Windows, limits and deadlines use this.
    pub instant: Duration,
    /// Civil time (UTC). Bans, approvals, certificates and log lines use this.
    pub wall: Timestamp,
}

/// Where [`Now`] comes from: the system, or a test's hand.
#[derive(Clone, Debug)]
pub enum Clock {
    System { origin: Instant },
    Manual(ManualClock),
}

/// A clock that moves only when told; clones share the same hands.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Now>>);

impl Clock {
    /// The system's monotonic and civil clocks.
    #[allow(clippy::disallowed_methods)]
    pub fn system() -> Self {
        Self::System { origin: Instant::now() }
    }

    /// Reads both clocks once.
    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> Now {
        match self {
            Self::System { origin } => Now { instant: origin.elapsed(), wall: Timestamp::now() },
            Self::Manual(clock) => clock.now(),
        }
    }

    /// Reads the monotonic clock alone.
    #[allow(clippy::disallowed_methods)]
    pub fn instant(&self) -> Duration {
        match self {
            Self::System { origin } => origin.elapsed(),
            Self::Manual(clock) => clock.now().instant,
        }
    }
}

impl ManualClock {
    /// Starts at monotonic zero and the given civil time.
    pub fn at(wall: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Now { instant: Duration::ZERO, wall })))
    }

    /// The present reading.
    pub fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Moves both hands forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        now.instant += by;
        now.wall = now.wall.saturating_add(by).unwrap_or(Timestamp::MAX);
    }

    /// Sets civil time alone, as a clock step would.
    pub fn step_wall(&self, wall: Timestamp) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).wall = wall;
    }
}

impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Self {
        Self::Manual(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_share_their_hands() {
        let clock = ManualClock::at(Timestamp::UNIX_EPOCH);
        let reader = Clock::from(clock.clone());
        clock.advance(Duration::from_secs(90));
        assert_eq!(reader.now().instant, Duration::from_secs(90));
        assert_eq!(reader.now().wall.as_second(), 90);
        clock.step_wall(Timestamp::UNIX_EPOCH);
        assert_eq!(reader.now().instant, Duration::from_secs(90));
    }
}
