//! Who is inside: every permitted exchange until its end, decided anew while it lasts.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::Method;
use ipnet::IpNet;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Now;
use crate::events::{DecisionId, Event};
use crate::net::ClientAddr;
use crate::policy::ban::BanKey;
use crate::policy::bot::BotClass;
use crate::policy::{CanonicalPath, CertFact, Denial, Facts, Identity, LiveApproval, Name, Reason, Route};

use super::inspect::{Claim, Scene};
use super::{Connection, Gateway, Snapshot, Worker};

/// How often every stay is decided anew: what may no longer be is ended within a second, the review's own time included.
const REVIEW_EVERY: Duration = Duration::from_millis(500);
/// Stays decided in one go, before whoever waits for the worker has a turn.
const SLICE: usize = 64;

/// The stays of one worker. Its lock is taken by that worker's thread alone, so nobody ever waits for it.
#[derive(Default)]
pub struct Stays(Mutex<Places>);

/// One permitted exchange until it is over, tunnel included: dropped, it leaves.
pub struct Stay {
    /// `None` once it left.
    stays: Option<Arc<Stays>>,
    place: usize,
}

/// What is known of a stay: what it takes to decide it anew, to tell of it and to end it.
pub struct Guest {
    pub decision: DecisionId,
    pub connection: Arc<Connection>,
    pub client: ClientAddr,
    pub method: Method,
    pub host: Name,
    pub path: CanonicalPath,
    /// By which it was let in: it counts where the live snapshot has none for it.
    pub route: Arc<Route>,
    pub bot: BotClass,
    /// What it was let in with, and what the application was told.
    pub identity: Option<Arc<Identity>>,
    pub approval: Option<Arc<LiveApproval>>,
    /// It is a login attempt that was read whole, whose failure may make the ban that it is to hear of.
    pub attempt: bool,
    pub lives_in: Home,
}

/// The task that a stay ends with. `None` is one that nobody can end: no listener runs it.
pub enum Home {
    /// The stream's own (HTTP/2): others on the connection live on.
    Stream(Option<AbortHandle>),
    /// The connection's, which has no other exchange (HTTP/1).
    Connection(Option<AbortHandle>),
    /// The tunnel's, which has the connection for itself.
    Tunnel(AbortHandle),
}

impl Stays {
    /// From here on the exchange is decided anew at every review, until the stay is dropped.
    #[inline]
    pub fn enter(self: &Arc<Self>, guest: Guest) -> Stay {
        let place = self.held().put(guest);
        Stay { stays: Some(Arc::clone(self)), place }
    }

    /// Decides every stay anew. Whoever comes meanwhile was decided by what is live now, or is met by the next review.
    async fn review(&self, gateway: &Gateway) {
        let mut next = 0;
        loop {
            let ended = {
                let (snapshot, now) = (gateway.snapshot.load(), gateway.clock.now());
                let mut places = self.held();
                let slice = places.all.get_mut(next..).unwrap_or_default().iter_mut().take(SLICE);
                let ended = slice.filter_map(|place| place.guest()?.review(gateway, &snapshot, now)).collect::<Vec<_>>();
                next += SLICE;
                if next >= places.all.len() {
                    places.give_back();
                    next = 0;
                }
                ended
            };
            // Not under the lock: what is told and ended here may want to leave.
            for (event, task) in ended {
                gateway.events.emit(event);
                task.abort();
            }
            if next == 0 {
                return;
            }
            yield_now().await;
        }
    }

    fn held(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Worker {
    /// Reviews its stays for as long as it is polled. What ends a stay is not told by anybody: whatever the cause (a revoked
    /// certificate, an approval, a ban, a reload, an hour), it is found here, and none can be missed.
    pub async fn review(&self) -> Infallible {
        let mut due = interval(REVIEW_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            self.stays.review(&self.gateway).await;
        }
    }
}

impl Stay {
    /// Goes on as a tunnel, which ends with this task and this task with it.
    pub fn go_on(self, tunnel: impl Future<Output = ()> + Send + 'static) {
        let Some(stays) = self.stays.clone() else { return };
        let mut places = stays.held();
        let Some(guest) = places.all.get_mut(self.place).and_then(Place::guest) else { return };
        // Told of its outcome by its 101.
        guest.guest.attempt = false;
        let task = tokio::spawn(async move {
            let _stay = self;
            tunnel.await;
        });
        guest.guest.lives_in = Home::Tunnel(task.abort_handle());
    }

    /// It is a login attempt from here on. Decided anew, since its body may have taken its time, in which others' failures or
    /// its own made a ban. Fails closed.
    pub fn attempts(&self, gateway: &Gateway, now: Now) -> Result<(), Denial> {
        let Some(stays) = &self.stays else { return Ok(()) };
        if let Some(inside) = stays.held().all.get_mut(self.place).and_then(Place::guest) {
            inside.guest.decide(gateway, &gateway.snapshot.load(), now)?;
            inside.guest.attempt = true;
        }
        Ok(())
    }

    /// It is a login attempt no more: a ban that others' failures make holds it like anybody.
    pub fn succeeded(&self) {
        let Some(stays) = &self.stays else { return };
        if let Some(inside) = stays.held().all.get_mut(self.place).and_then(Place::guest) {
            inside.guest.attempt = false;
        }
    }

    /// Leaves; why it had to, where it did not end by itself.
    pub fn leave(mut self) -> Option<Denial> {
        self.vacate().map(|denial| *denial)
    }

    fn vacate(&mut self) -> Option<Box<Denial>> {
        let stays = self.stays.take()?;
        stays.held().take(self.place)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.vacate();
    }
}

/// Places are used again, so that coming and going allocates nothing.
#[derive(Default)]
struct Places {
    all: Vec<Place>,
    /// The first free place, if that is one.
    free: usize,
    inside: usize,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Place {
    /// With the next free one.
    Free(usize),
    Taken(Inside),
}

struct Inside {
    guest: Guest,
    /// It is ended, and will leave as soon as its task has its turn.
    ended: Option<Box<Denial>>,
}

/// Places that are kept while nobody is inside.
const KEPT: usize = 1024;

impl Places {
    #[inline]
    fn put(&mut self, guest: Guest) -> usize {
        let place = self.free;
        self.inside += 1;
        match self.all.get_mut(place) {
            Some(free) => {
                if let Place::Free(next) = free {
                    self.free = *next;
                }
                *free = Place::Taken(Inside { guest, ended: None });
            }
            None => self.grow(guest),
        }
        place
    }

    #[cold]
    fn grow(&mut self, guest: Guest) {
        self.all.push(Place::Taken(Inside { guest, ended: None }));
        self.free = self.all.len();
    }

    /// Frees a place, where it stands: nothing of a guest comes back here when it is dropped. Why he had to go, if he had to.
    fn take(&mut self, place: usize) -> Option<Box<Denial>> {
        let taken = self.all.get_mut(place)?;
        let denial = taken.guest()?.ended.take();
        *taken = Place::Free(self.free);
        self.free = place;
        self.inside -= 1;
        denial
    }

    /// A crowd that left leaves no empty hall.
    fn give_back(&mut self) {
        if self.inside == 0 && self.all.len() > KEPT {
            *self = Self::default();
        }
    }
}

impl Place {
    fn guest(&mut self) -> Option<&mut Inside> {
        match self {
            Self::Taken(inside) => Some(inside),
            Self::Free(_) => None,
        }
    }
}

impl Inside {
    /// Fails closed: what is denied is ended, once.
    fn review(&mut self, gateway: &Gateway, snapshot: &Snapshot, now: Now) -> Option<(Event, AbortHandle)> {
        if self.ended.is_some() {
            return None;
        }
        let denial = self.guest.decide(gateway, snapshot, now).err()?;
        let guest = &self.guest;
        let task = guest.lives_in.task()?.clone();
        if !matches!(guest.lives_in, Home::Stream(_)) {
            // What lies in the kernel for it is not delivered any more.
            guest.connection.ended.store(true, Ordering::Relaxed);
        }
        let event = Event::ExchangeEnded {
            decision: guest.decision,
            client: guest.client.ip,
            identity: guest.identity.as_ref().map(|identity| Arc::clone(&identity.key)),
            approval: guest.approval.as_ref().map(|approval| Arc::clone(&approval.id)),
            route: Arc::clone(&guest.route.label),
            reason: denial.reason,
            cause: denial.cause.clone(),
            tunnel: matches!(guest.lives_in, Home::Tunnel(_)),
        };
        self.ended = Some(Box::new(denial));
        Some((event, task))
    }
}

impl Guest {
    /// As its next request would be decided now, save for limits, which it paid. Fails closed: one that was let in by a
    /// certificate needs it to the end, also where a request without one would pass, since the application knows it by that
    /// name. Where the snapshot has no route for it any more, the one by which it came goes on to hold: a reload that takes
    /// away a route cuts no download.
    fn decide(&self, gateway: &Gateway, snapshot: &Snapshot, now: Now) -> Result<(), Denial> {
        let sites = &snapshot.policy.sites;
        let site = sites.resolve(sites.named(self.connection.server_name.as_deref()), &self.host).ok();
        let route = site.and_then(|site| site.route(&self.path).ok()).unwrap_or(&self.route);
        let mut facts = Scene {
            gateway,
            snapshot,
            connection: &self.connection,
            client: &self.client,
            site: site.map(Arc::as_ref),
            host: &self.host,
            path: &self.path,
            method: &self.method,
            bot: self.bot,
            claim: Claim::Judged(self.approval.as_deref()),
            address_ban: gateway.state.bans.of_client(&self.client, now),
            now,
        }
        .facts();
        if self.attempt {
            self.spare(&mut facts, gateway, now);
        }
        let permit = snapshot.policy.decide(route, &facts, now)?;
        match (&self.identity, permit.identity()) {
            (None, _) => Ok(()),
            (Some(before), Some(now)) if before.key == now.key => Ok(()),
            (Some(_), _) => Err(match facts.cert {
                CertFact::Refused(cause) => cause.denial(),
                CertFact::Held(_) => Denial::new(Reason::ClientCertRefused, "its certificate is another identity's by now"),
                CertFact::Absent => Denial::new(Reason::ClientCertRefused, "nobody vouches here for its certificate any more"),
            }),
        }
    }

    /// A failed login is told so, though its failure, or one beside it, made the ban: that waits for the next request.
    fn spare(&self, facts: &mut Facts, gateway: &Gateway, now: Now) {
        let by_guesses = |key| gateway.state.bans.by_guesses_alone(&key, now);
        if facts.address_ban.is_some() && by_guesses(BanKey::Net(IpNet::from(self.client.ip))) {
            facts.address_ban = None;
        }
        let identity = self.identity.iter().map(|identity| &identity.key);
        let mut proven = identity.chain(self.approval.iter().map(|approval| &approval.id));
        if facts.identity_ban.is_some() && proven.all(|key| by_guesses(BanKey::Identity(Arc::clone(key)))) {
            facts.identity_ban = None;
        }
    }
}

impl Home {
    fn task(&self) -> Option<&AbortHandle> {
        match self {
            Self::Stream(task) | Self::Connection(task) => task.as_ref(),
            Self::Tunnel(task) => Some(task),
        }
    }
}

#[cfg(test)]
mod tests;
