//! One connection against its deadlines: head, idle, stalled writes, answers that are not taken, drain.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Alarm;

use super::seldom::Seldom;
use super::wire::Watch;

/// How long each phase may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From a request's first byte to the end of its head, which empty lines and what TLS says for itself are not; of a new
    /// connection, from its first moment.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Without progress, while the client owes us a read.
    pub stall: Duration,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// How a connection ended.
#[derive(Debug, PartialEq)]
pub(super) enum End<E> {
    /// By itself, or when asked to.
    Closed(Result<(), E>),
    /// Nothing of a request in the time for a head.
    Silent,
    /// A head began and was not whole in time.
    HeadTimeout,
    /// Asked to close after `idle`, and did not.
    Idle,
    /// The client took nothing of an answer in time.
    Stalled,
    /// Condemned, and not closed in time.
    Condemned,
}

/// What a connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To close after what is in flight.
    Leave,
    /// To give up what memory it can until its client speaks again.
    Nap,
}

/// How long a connection rests before it naps: those in use are left alone.
const RESTED: Duration = Duration::from_millis(200);
/// How long a connection may take to say goodbye, and one that is condemned or whose client takes nothing.
const GOODBYE: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Streams that may stall before a connection at rest has only so long to ask for something else; each that does not stall makes
/// up for one. One paused download is no attack, nor are several on a connection that is in use.
const MOST_STALLS: usize = 3;
const SECOND_CHANCE: Duration = Duration::from_secs(1);

/// Runs a connection to its end. `stop` and `idle` ask it to close after what is in flight; the other deadlines drop it.
/// Fails closed: every phase but an answer in the making has a deadline, and those have the application's.
pub(super) async fn drive<C, E>(
    mut connection: Pin<&mut C>,
    watch: &Watch,
    patience: Patience,
    stop: &CancellationToken,
    ask: impl Fn(Pin<&mut C>, Wish),
) -> End<E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut course = Course::new(patience);
    let stopped = pin!(stop.cancelled());
    let mut stopped = Seldom::new(stopped);
    let mut stopping = false;
    let mut alarm = Alarm::default();
    poll_fn(move |cx| {
        if !stopping && Pin::new(&mut stopped).poll(cx).is_ready() {
            stopping = true;
            ask(connection.as_mut(), Wish::Leave);
        }
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(if course.stalled { End::Stalled } else { End::Closed(result) });
            }
            course.observe(watch);
            let Some(deadline) = course.deadline() else { return Poll::Pending };
            ready!(alarm.poll(deadline, cx));
            match course.expire(watch) {
                Err(end) => return Poll::Ready(end),
                Ok(wish) => wish.into_iter().for_each(|wish| ask(connection.as_mut(), wish)),
            }
        }
    })
    .await
}

/// Where a connection is, and until when.
struct Course {
    patience: Patience,
    phase: Phase,
    /// Requests seen so far.
    requests: usize,
    /// Something of a head came.
    begun: bool,
    /// Until when a blocked socket may stay so, and the writes it had taken.
    blocked: Option<(Instant, usize)>,
    /// When the ends of answers are looked at that h2 holds for a client which grants no window for them.
    untaken: Option<Instant>,
    /// When it is to nap, should it rest until then; `None`: it was asked to.
    nap: Option<Instant>,
    leaving: bool,
    /// That is since its client takes nothing of its answers.
    stalled: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Head(Instant),
    InFlight,
    Idle(Instant),
    Goodbye(Instant),
    Condemned(Instant),
}

impl Course {
    fn new(patience: Patience) -> Self {
        let phase = Phase::Head(Instant::now() + patience.head);
        Self {
            patience,
            phase,
            requests: 0,
            begun: false,
            blocked: None,
            untaken: None,
            nap: None,
            leaving: false,
            stalled: false,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.blocked, self.phase) {
            (_, Phase::Condemned(until)) => Some(until),
            (Some((until, _)), _) => Some(self.untaken.map_or(until, |look| look.min(until))),
            (None, Phase::Idle(until)) => Some(self.nap.map_or(until, |nap| nap.min(until))),
            (None, Phase::Head(until) | Phase::Goodbye(until)) => Some(until),
            (None, Phase::InFlight) => self.untaken,
        }
    }

    fn observe(&mut self, watch: &Watch) {
        match (watch.condemned(), self.phase) {
            (None, _) => {}
            (Some(_), Phase::Condemned(_)) => return,
            (Some(_), _) => return self.phase = Phase::Condemned(Instant::now() + LAST_WORDS),
        }
        let heard = watch.take_heard();
        self.begun |= heard;
        let requests = watch.requests();
        if requests != self.requests {
            self.requests = requests;
            self.phase = Phase::InFlight;
        }
        match (self.phase, self.patience.protocol) {
            (Phase::InFlight, _) if watch.in_flight() == 0 => self.rest(watch),
            // HTTP/2 shows no head in the making; its preface is all that a new connection owes.
            (Phase::Head(_), Protocol::Http2) if watch.spoke() => self.rest(watch),
            (Phase::Idle(_), Protocol::Http1) if heard => self.phase = Phase::Head(Instant::now() + self.patience.head),
            _ => {}
        }
        match (watch.blocked(), self.blocked) {
            (None, None) => {}
            (None, Some(_)) => {
                self.blocked = None;
                // The wait for a slow reader was no idleness.
                if matches!(self.phase, Phase::Idle(_)) {
                    self.rest(watch);
                }
            }
            // Who still sends its request may read an early answer after it; the upload has bounds of its own.
            (Some(written), Some((_, before))) if written == before && !(heard && watch.owed()) => {}
            (Some(written), _) => self.blocked = Some((Instant::now() + self.patience.stall, written)),
        }
        match (watch.untaken.any(), self.untaken) {
            (false, None) | (true, Some(_)) => {}
            (false, Some(_)) => self.untaken = None,
            (true, None) => self.turn(watch),
        }
    }

    /// Looks again after a while at the ends of answers, for those that are there by now.
    fn turn(&mut self, watch: &Watch) {
        if !watch.untaken.are_old() {
            watch.untaken.turn();
        }
        self.untaken = Some(Instant::now() + self.patience.stall);
    }

    fn rest(&mut self, watch: &Watch) {
        let now = Instant::now();
        watch.rest(now);
        self.nap = Some(now + RESTED);
        let idle = if watch.stalls() < MOST_STALLS { self.patience.idle } else { self.patience.idle.min(SECOND_CHANCE) };
        let goodbye = if self.stalled { LAST_WORDS } else { GOODBYE };
        self.phase = if self.leaving { Phase::Goodbye(now + goodbye) } else { Phase::Idle(now + idle) };
    }

    /// The deadline passed: what to ask for, or how it ends.
    fn expire<E>(&mut self, watch: &Watch) -> Result<Option<Wish>, End<E>> {
        match self.phase {
            Phase::Condemned(_) => Err(End::Condemned),
            _ if self.untaken.is_some() && self.untaken == self.deadline() => self.look(watch),
            _ if self.blocked.is_some() => {
                watch.give_up();
                Err(End::Stalled)
            }
            Phase::Head(_) if self.begun => Err(End::HeadTimeout),
            Phase::Head(_) => Err(End::Silent),
            Phase::Goodbye(_) if self.stalled => {
                watch.give_up();
                Err(End::Stalled)
            }
            Phase::Goodbye(_) => Err(End::Idle),
            Phase::Idle(until) if self.nap.take().is_some_and(|nap| nap < until) => Ok(Some(Wish::Nap)),
            Phase::Idle(_) | Phase::InFlight => {
                self.leaving = true;
                self.stalled |= watch.stalls() >= MOST_STALLS;
                self.rest(watch);
                Ok(Some(Wish::Leave))
            }
        }
    }

    /// What was to be taken a `stall` ago and is still there keeps the connection from further requests, and a `stall` later
    /// ends it: the streams that wait have no task any more, and cannot be reset one by one.
    fn look<E>(&mut self, watch: &Watch) -> Result<Option<Wish>, End<E>> {
        let old = watch.untaken.are_old();
        if old && self.leaving {
            watch.give_up();
            return Err(End::Stalled);
        }
        self.turn(watch);
        self.leaving |= old;
        Ok(old.then_some(Wish::Leave))
    }
}

#[cfg(test)]
mod tests;
