//! Exactly one record a request, also when the client leaves: told by a drop guard.

use crate::events::{Events, RequestRecord};

/// Tells its record when dropped; the body of the answer holds it until the last byte.
pub struct Recorder {
    pub record: RequestRecord,
    events: Events,
    clock: crate::clock::Clock,
    started: crate::clock::Now,
}

impl Recorder {
    pub fn new(record: RequestRecord, events: Events, clock: crate::clock::Clock, started: crate::clock::Now) -> Self {
        Self { record, events, clock, started }
    }

    /// Wraps an answer's body: counts bytes out, marks `cut` when it ends early, tells the record at its end.
    pub fn attach(self, _body: crate::upstream::Body) -> crate::upstream::Body {
        todo!("events")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = (&self.events, &self.clock, self.started);
        todo!("events")
    }
}
