//! Floor 4: the public door. [`Worker::handle`] is one request, top to bottom.

pub mod forward;
pub mod headers;
pub mod inbound;
pub mod inspect;
pub mod listener;
pub mod record;
pub mod respond;

mod login;
mod pad;
mod reading;
mod stays;
#[cfg(test)]
mod testing;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, Version, request};
use hyper::upgrade::OnUpgrade;
use rustls::pki_types::CertificateDer;
use tokio::task::AbortHandle;

use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::events::{DecisionId, Event, Events};
use crate::net::ClientAddr;
use crate::policy::ban::BanAnswer;
use crate::policy::bot::BotClass;
use crate::policy::decide::BanFact;
use crate::policy::login::{AccountKey, LoginRule};
use crate::policy::{ApprovalFact, CertFact, Denial, Facts, Name, Permit, Policy, Reason, Route, Site};
use crate::state::accounts::Successes;
use crate::state::approvals::Approvals;
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::{Charges, LimitSubject, Limits};
use crate::tls::{CertVerdict, TlsState};
use crate::upstream::{Body, ForwardError, ForwardErrorKind, Outbound, Pool, Upstream};

use headers::Upward;
use inbound::Inbound;
use inspect::{Bots, Claim, Scene, Target};
use record::Recorder;
use respond::Asked;
use stays::{Guest, Stays};

pub use reading::{Readers, Reading};

/// Everything that one config means, swapped as one.
pub struct Snapshot {
    pub generation: u64,
    pub config: Arc<Config>,
    pub policy: Arc<Policy>,
    pub tls: Arc<TlsState>,
    pub upstreams: Vec<Arc<Upstream>>,
}

/// The state that survives every reload.
#[derive(Clone)]
pub struct State {
    pub bans: Arc<BanTable>,
    pub guesses: Arc<GuessLedger>,
    pub successes: Arc<Successes>,
    pub limits: Arc<Limits>,
    pub approvals: Arc<Approvals>,
}

/// The door, shared by all workers.
pub struct Gateway {
    pub snapshot: ArcSwap<Snapshot>,
    pub state: State,
    pub events: Events,
    pub clock: Clock,
    bots: Bots,
    readers: Arc<Readers>,
}

/// What one worker owns.
pub struct Worker {
    pub id: usize,
    pub gateway: Arc<Gateway>,
    pub pool: Pool,
    stays: Arc<Stays>,
}

/// One accepted connection, after PROXY header and handshake.
pub struct Connection {
    /// The socket's peer.
    pub peer: IpAddr,
    /// The peer, or what its PROXY header said.
    pub client: ClientAddr,
    /// The canonical name of the handshake; `None`: it named none.
    pub server_name: Option<Name>,
    /// The peer's chain, leaf first; empty: none was presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// `TLSv1.3` or `TLSv1.2`.
    pub tls: &'static str,
    /// The last verdict on the chain, with the generation it was made in.
    pub verdict: Mutex<Option<(u64, CertVerdict)>>,
    /// The client proved who it is, by certificate, approval or login: the last to be shed when places run short. It decides
    /// nothing else.
    pub proven: AtomicBool,
    /// What its requests tell the application of where they come from.
    pub origin: OnceLock<headers::Origin>,
    /// Requests that were begun to be answered.
    answers: AtomicUsize,
    /// The task that it lives in, where a listener runs it.
    task: OnceLock<AbortHandle>,
    /// It is ended for what its client may no longer do: its socket is reset when it closes.
    ended: AtomicBool,
}

/// The request is not answered: its connection is closed (HTTP/1) or its stream reset (HTTP/2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a banned client is not answered")]
pub struct Dropped;

impl Gateway {
    /// The door on its first snapshot.
    pub fn new(snapshot: Snapshot, state: State, events: Events, clock: Clock) -> Self {
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self { snapshot, state, events, clock, bots: Bots::new(), readers: Arc::default() }
    }
}

impl Connection {
    /// A connection of which nothing was judged yet.
    pub fn new(
        peer: IpAddr,
        client: ClientAddr,
        server_name: Option<Name>,
        chain: Vec<CertificateDer<'static>>,
        tls: &'static str,
    ) -> Self {
        let (verdict, proven, origin) = (Mutex::new(None), AtomicBool::new(false), OnceLock::new());
        let (answers, task, ended) = (AtomicUsize::new(0), OnceLock::new(), AtomicBool::new(false));
        Self { peer, client, server_name, chain, tls, verdict, proven, origin, answers, task, ended }
    }
}

impl Worker {
    /// One that serves nothing yet.
    pub fn new(id: usize, gateway: Arc<Gateway>) -> Self {
        Self { id, gateway, pool: Pool::new(), stays: Arc::default() }
    }

    /// One request: every refusal becomes its answer, and exactly one record is told, also when the client leaves.
    /// Fails closed: the only way to no answer is a banned client where bans are dropped.
    pub async fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Inbound>,
    ) -> Result<Response<Body>, Dropped> {
        let gateway = &self.gateway;
        let now = gateway.clock.now();
        let id = DecisionId::fresh(now.wall);
        let decision = headers::decision(id);
        let asked = Asked::of(&request);
        let snapshot = gateway.snapshot.load();
        let policy = Arc::clone(&snapshot.policy);
        let mut recorder = Recorder::begin(gateway, &snapshot, &connection, &request, id, now);

        let (worker, connection) = (&self, &connection);
        let mut passage = Passage { worker, policy: &policy, connection, now, decision: &decision, recorder: &mut recorder };
        let judged = passage.judge(request, &snapshot);
        // An upload of hours would keep its keys and revocation lists in memory.
        drop(snapshot);
        let answer = match judged {
            // In a box: a refusal should not carry the room for it.
            Ok(admitted) => Box::pin(passage.proceed(admitted)).await,
            Err(denial) => Err(denial),
        };
        let decision = headers::told(decision, connection.answers.fetch_add(1, Ordering::Relaxed));
        let response = match answer {
            Ok(mut response) => {
                headers::towards_client(response.headers_mut(), decision, recorder.record.host.as_deref());
                response
            }
            Err(denial) if denial.reason == Reason::Banned && policy.bans.answer == BanAnswer::Drop => {
                recorder.refused(denial);
                return Err(Dropped);
            }
            Err(denial) => {
                let mut response = respond::denial(&denial, decision, &asked, &policy.document);
                headers::demand_tls(response.headers_mut(), recorder.record.host.as_deref());
                recorder.refused(denial);
                response
            }
        };
        recorder.record.status = response.status().as_u16();
        Ok(response.map(|body| recorder.attach(body)))
    }
}

/// One request on its way through the checks.
struct Passage<'a> {
    worker: &'a Arc<Worker>,
    policy: &'a Arc<Policy>,
    connection: &'a Arc<Connection>,
    now: Now,
    decision: &'a HeaderValue,
    recorder: &'a mut Recorder,
}

/// A request that holds its permit, and what is still to be charged before it is sent.
struct Admitted<'a> {
    head: request::Parts,
    body: Inbound,
    caller: Caller,
    target: Target,
    route: &'a Arc<Route>,
    upstream: Option<Arc<Upstream>>,
    terms: forward::Terms,
    permit: Permit,
    /// A login attempt: its account is a key of limits too, and stands in its body.
    login: Option<(&'a Arc<LoginRule>, Box<Charges>)>,
}

impl<'a> Passage<'a> {
    /// The story of one request up to its permit, top to bottom: cheap checks first, then what costs. Nothing here waits.
    fn judge(&mut self, request: Request<Inbound>, snapshot: &Snapshot) -> Result<Admitted<'a>, Denial> {
        let (head, body) = request.into_parts();
        let policy = self.policy;
        let caller = self.caller(&head, &snapshot.config)?;
        let address_ban = self.banned(&caller.client, &head)?;

        inspect::head(&head, &snapshot.config.caps)?;
        let target = inspect::target(&head, self.connection.server_name.as_ref())?;
        self.note_target(&target);
        let sni = policy.sites.named(self.connection.server_name.as_deref());
        let site = policy.sites.resolve(sni, &target.host)?;
        let route = site.route(&target.path)?;
        self.recorder.record.route = Some((route.id, Arc::clone(&route.label)));

        let mut charges = Charges::default();
        self.charge(route, LimitSubject { client: Some(caller.client.key), ..Default::default() }, &mut charges)?;
        let facts = self.scene(snapshot, &head, &caller, site, &target, address_ban).facts();
        self.note_facts(&facts);
        let permit = policy.decide(route, &facts, self.now)?;
        inspect::declared_body(&head.headers, route.body)?;

        let login = match login::recognise(site, route, &head, &target.path)? {
            None => {
                self.charge(route, subject(&caller, route, &permit, None), &mut charges)?;
                None
            }
            Some(rule) => Some((rule, Box::new(charges))),
        };
        let (upstream, terms) = (snapshot.upstreams.get(route.upstream.0).cloned(), terms(&snapshot.config, route));
        let admitted = Admitted { head, body, caller, target, route, upstream, terms, permit, login };
        self.enter(&admitted, facts.bot);
        Ok(admitted)
    }

    /// And from there: a login attempt is read and reserves its guess, the application answers, the guess is settled, and its
    /// answer waits for its time.
    async fn proceed(&mut self, admitted: Admitted<'a>) -> Result<Response<Body>, Denial> {
        let Admitted { mut head, body, caller, target, route, upstream, terms, permit, login } = admitted;
        let (body, guess) = match login {
            None => (self.recorder.count_in(forward::request_body(body, &terms)), None),
            Some((rule, mut charges)) => {
                let reading = self.worker.gateway.readers.enter(caller.client.key)?;
                let (body, attempt) = Box::pin(login::read(rule, &head, &target, body, &terms)).await?;
                drop(reading);
                self.now = self.worker.gateway.clock.now();
                self.attempts()?;
                let guess = self.login_desk(rule, &caller.client, &permit).reserve(attempt)?;
                // Only now: what the guess budget refuses must not use up others' share of a limit, an account's above all.
                let charge = |account: &_| self.charge(route, subject(&caller, route, &permit, Some(account)), &mut charges);
                let guess = guess.if_charged(charge)?;
                head.extensions.insert(guess.sent());
                (body, Some(guess))
            }
        };

        let sent = self.forward(upstream, &permit, head, body, &target, &caller, terms).await;
        let sent = match guess {
            None => sent,
            Some(guess) => guess.settle(sent, || self.succeeded()).await,
        };
        sent.map_err(respond::forward_error)
    }

    /// Who is at the other end, trusted hops walked.
    fn caller(&mut self, head: &request::Parts, config: &Config) -> Result<Caller, Denial> {
        if config.listen.trusted_proxies.is_empty() {
            return Ok(Caller { client: self.connection.client, believed: Vec::new() });
        }
        let (ip, believed) = headers::client_ip(self.connection.client.ip, &head.headers, &config.listen.trusted_proxies)?;
        self.recorder.record.client = ip;
        Ok(Caller { client: ClientAddr::new(ip, config.ipv6_prefix), believed })
    }

    /// Fails closed: a banned address is heard further only where bans are explained and it brings something that could
    /// prove who it is; the decision then judges that proof.
    fn banned(&self, client: &ClientAddr, head: &request::Parts) -> Result<Option<BanFact>, Denial> {
        let Some(ban) = self.worker.gateway.state.bans.of_client(client, self.now) else { return Ok(None) };
        let heard =
            !ban.always && self.policy.bans.answer == BanAnswer::Explain && inspect::may_prove(self.connection, &head.headers);
        if heard { Ok(Some(ban)) } else { Err(ban.denial(self.now, "a banned address without proof")) }
    }

    /// From here to its end, whichever that is, the exchange is decided anew at every review.
    fn enter(&mut self, admitted: &Admitted<'_>, bot: BotClass) {
        let Admitted { head, caller, target, route, permit, .. } = admitted;
        let guest = Guest {
            decision: self.recorder.record.decision,
            connection: Arc::clone(self.connection),
            client: caller.client,
            method: head.method.clone(),
            host: Arc::clone(&target.host),
            path: target.path.clone(),
            route: Arc::clone(route),
            bot,
            identity: permit.identity().cloned(),
            approval: permit.approval().cloned(),
            attempt: false,
            lives_in: listener::home(self.connection, head.version),
        };
        self.recorder.stay = Some(self.worker.stays.enter(guest));
    }

    /// Charges what the subject has; a refusal gives back everything that this request was charged.
    fn charge(&self, route: &Route, subject: LimitSubject<'_>, charges: &mut Charges) -> Result<(), Denial> {
        let gateway = &self.worker.gateway;
        for shadowed in gateway.state.limits.charge(&self.policy.limits, &route.limits, &subject, charges, self.now)? {
            let Some(limit) = self.policy.limits.get(shadowed.0) else { continue };
            gateway.events.emit(Event::LimitShadowed {
                limit: Arc::clone(&limit.name),
                route: Arc::clone(&route.label),
                client: self.recorder.record.client,
            });
        }
        Ok(())
    }

    fn scene<'s>(
        &'s self,
        snapshot: &'s Snapshot,
        head: &'s request::Parts,
        caller: &'s Caller,
        site: &'s Site,
        target: &'s Target,
        address_ban: Option<BanFact>,
    ) -> Scene<'s> {
        Scene {
            gateway: &self.worker.gateway,
            snapshot,
            connection: self.connection,
            client: &caller.client,
            site: Some(site),
            host: &target.host,
            path: &target.path,
            method: &head.method,
            bot: self.worker.gateway.bots.classify(&head.headers),
            claim: Claim::Token(inspect::presented_token(&head.headers)),
            address_ban,
            now: self.now,
        }
    }

    fn login_desk<'s>(&'s self, rule: &'s Arc<LoginRule>, client: &'s ClientAddr, permit: &Permit) -> login::Desk<'s> {
        let gateway = &self.worker.gateway;
        login::Desk { gateway, rule, client, who: inspect::guesser(client, permit), decision: self.recorder.record.decision }
    }

    /// Only a permit gets here; the request leaves in its canonical form.
    async fn forward(
        &mut self,
        upstream: Option<Arc<Upstream>>,
        permit: &Permit,
        mut head: request::Parts,
        body: Body,
        target: &Target,
        caller: &Caller,
        terms: forward::Terms,
    ) -> Result<Response<Body>, ForwardError> {
        let upstream = upstream.ok_or_else(|| unsent("the route's upstream is not there"))?;
        let upgrade = headers::upgrade(&head.headers, head.version).and_then(|_| head.extensions.remove::<OnUpgrade>());
        let origin = headers::towards_upstream(
            &mut head.headers,
            &Upward {
                connection: self.connection,
                client: caller.client.ip,
                believed: &caller.believed,
                host: target.authority.to_str().unwrap_or_default(),
                decision: self.decision,
                permit,
                held_chain: permit.identity().is_some(),
            },
        );
        head.uri = target.path.to_target().ok_or_else(|| unsent("the canonical target is not a URI"))?.into();
        // How the client speaks is no matter between this gateway and the application.
        head.version = Version::HTTP_11;
        let client = Some(caller.client.key);
        let request = Outbound { request: Request::from_parts(head, body), preset: Some(origin), client };
        let forward::Forwarded { response, server, tunnel } =
            forward::send(self.worker, &upstream, permit, request, upgrade, terms).await?;
        self.recorder.record.upstream = Some(server);
        if let Some(tunnel) = tunnel
            && let Some(stay) = self.recorder.stay.take()
        {
            stay.go_on(tunnel);
        }
        Ok(response)
    }

    /// Its login is read whole, and is an attempt unless it may not be here any more.
    fn attempts(&self) -> Result<(), Denial> {
        self.recorder.stay.as_ref().map_or(Ok(()), |stay| stay.attempts(&self.worker.gateway, self.now))
    }

    /// Its login succeeded: it proves the connection's client, and has no failure to hear of any more.
    fn succeeded(&self) {
        self.connection.proven.store(true, Ordering::Relaxed);
        if let Some(stay) = &self.recorder.stay {
            stay.succeeded();
        }
    }

    fn note_target(&mut self, target: &Target) {
        self.recorder.record.host = Some(Arc::clone(&target.host));
        if let Some(target) = target.path.to_target() {
            self.recorder.record.target = Some(target);
        }
    }

    /// Who it was is told of refusals too, and counts where places run short.
    fn note_facts(&mut self, facts: &Facts) {
        let record = &mut self.recorder.record;
        record.bot = Some(facts.bot.as_str());
        if let CertFact::Held(identity) = &facts.cert {
            record.identity = Some(Arc::clone(&identity.key));
        }
        if let ApprovalFact::Held(approval) = &facts.approval {
            record.approval = Some(Arc::clone(&approval.id));
        }
        if record.identity.is_some() || record.approval.is_some() {
            self.connection.proven.store(true, Ordering::Relaxed);
        }
    }
}

/// The client, and the hops in front of it that were believed.
struct Caller {
    client: ClientAddr,
    believed: Vec<IpAddr>,
}

fn terms(config: &Config, route: &Route) -> forward::Terms {
    forward::Terms { body: route.body, body_stall: config.deadlines.body, idle: config.deadlines.idle }
}

fn subject<'a>(caller: &Caller, route: &'a Route, permit: &'a Permit, account: Option<&'a AccountKey>) -> LimitSubject<'a> {
    let identity = permit.identity();
    let approval = permit.approval();
    LimitSubject {
        client: Some(caller.client.key),
        identity: identity.map(|identity| &*identity.key),
        approval: approval.map(|approval| &*approval.id),
        approval_rate: approval.and_then(|approval| approval.record.terms.rate),
        account,
        tenant: identity.and_then(|identity| identity.tenant.as_deref()),
        route: Some(route.id),
        route_label: Some(&route.label),
    }
}

fn unsent(cause: &str) -> ForwardError {
    ForwardError { kind: ForwardErrorKind::Unavailable, unsent: true, cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_of<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved when a request begins, and lies in the connection while one is under way: rare ways are boxed.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let bytes = future_of(Worker::handle);
        assert!(bytes <= 2048, "{bytes} bytes");
    }
}
