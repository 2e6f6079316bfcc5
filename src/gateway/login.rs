//! A login attempt on its way: recognised, read whole, reserved, forwarded, settled, and answered in time with its like.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Response, request};
use http_body_util::{BodyExt, Full};

use crate::clock::Now;
use crate::events::{DecisionId, Event, GuessScope};
use crate::net::ClientAddr;
use crate::policy::ban::Ban;
use crate::policy::login::{AccountKey, Attempt, LoginOutcome, LoginRule, MAX_LOGIN_BODY};
use crate::policy::{CanonicalPath, Denial, Reason, Route, Site};
use crate::state::guesses::{GuessPermit, Guesser, RefusedBy, Settled};
use crate::state::store::Durable;
use crate::upstream::{Body, BodyError, ForwardError, ForwardErrorKind, Sent};

use super::inbound::Inbound;
use super::inspect::Target;
use super::pad::Pad;
use super::{Gateway, forward};

/// The rule by which this request is an attempt, whatever its body. Fails closed: the secret of a form in the query is a 400,
/// whatever the method, and an attempt that a page of another site sends goes no further, and is no guess.
pub fn recognise<'r>(
    site: &'r Site,
    route: &'r Route,
    head: &request::Parts,
    path: &CanonicalPath,
) -> Result<Option<&'r Arc<LoginRule>>, Denial> {
    if site.gives_secret_away(route, path) {
        return Err(Denial::new(Reason::BadRequest, "the secret of a login stands in the query"));
    }
    let rule = site.attempts(route, &head.method, path).find(|rule| rule.offered(&head.headers));
    match rule.filter(|rule| rule.is_sent_elsewhere(&head.headers)) {
        Some(rule) => {
            let cause = format!("a page of another site sends it, which `login.{}.origins` does not name", rule.name);
            Err(Denial::new(Reason::NotPermitted, cause))
        }
        None => Ok(rule),
    }
}

/// Reads the attempt's body whole, then its account. Fails closed: an account that cannot be read exactly once is a 400.
/// The body comes back as it was, to be forwarded.
pub async fn read(
    rule: &LoginRule,
    head: &request::Parts,
    target: &Target,
    body: Inbound,
    terms: &forward::Terms,
) -> Result<(Body, Attempt), Denial> {
    let bytes = collect(forward::request_body(body, terms)).await?;
    let attempt = rule.read(&target.host, &head.headers, target.path.query(), &bytes)?;
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    Ok((body, attempt))
}

/// Where attempts of one request are reserved and settled.
pub struct Desk<'a> {
    pub gateway: &'a Arc<Gateway>,
    pub rule: &'a Arc<LoginRule>,
    pub client: &'a ClientAddr,
    pub who: Guesser,
    pub decision: DecisionId,
}

/// A reserved guess. Dropped unsettled (the client cut it off) it counts as a failure, unless nothing of it was sent.
pub struct Guess {
    permit: GuessPermit,
    rule: Arc<LoginRule>,
    told: Told,
    sent: Sent,
    pad: Pad,
}

/// What the events of one guess say.
#[derive(Clone)]
struct Told {
    gateway: Arc<Gateway>,
    client: ClientAddr,
    who: Guesser,
    account: AccountKey,
    decision: DecisionId,
    /// The guess is not counted.
    repeat: bool,
}

impl Desk<'_> {
    /// Fails closed: without a reservation nothing is forwarded. Which counter refused stays private.
    pub fn reserve(self, attempt: Attempt) -> Result<Guess, Denial> {
        let state = &self.gateway.state;
        // Read anew: the body may have taken its time, and the window counts from here.
        let now = self.gateway.clock.now();
        let told = Told {
            gateway: Arc::clone(self.gateway),
            client: *self.client,
            who: self.who,
            account: attempt.account.clone(),
            decision: self.decision,
            repeat: false,
        };
        if let Some(ban) = state.bans.of_account(&attempt.account, now) {
            told.refused(GuessScope::Ban);
            return Err(ban.denial(now, "a banned account"));
        }
        match state.guesses.reserve(told.who.clone(), &attempt, now) {
            Ok(permit) => {
                let (sent, cut_off) = (Sent::default(), Told { repeat: permit.is_repeat(), ..told.clone() });
                let (reached, told) = (sent.clone(), cut_off.clone());
                let permit = permit.on_drop(move || reached.get(), move |settled, outcome| cut_off.cut(settled, outcome));
                Ok(Guess { permit, rule: Arc::clone(self.rule), told, sent, pad: Pad::begin(self.rule.pad) })
            }
            Err(refusal) => {
                told.refused(match refusal.scope {
                    RefusedBy::Guesser => GuessScope::Client,
                    RefusedBy::Account => GuessScope::Account,
                });
                Err(Denial::new(Reason::TooManyAttempts, "the guess budget is spent").retry_after(refusal.retry_after))
            }
        }
    }
}

impl Guess {
    /// Goes with the request, and learns whether it was sent.
    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }

    /// Goes on if its account's limits let it. Else it is given back: nothing of it was sent, and there is no attempt to tell of.
    pub fn if_charged(self, charge: impl FnOnce(&AccountKey) -> Result<(), Denial>) -> Result<Self, Denial> {
        let Err(denial) = charge(&self.told.account) else { return Ok(self) };
        self.permit.settle(LoginOutcome::Unsent, self.told.gateway.clock.now());
        Err(denial)
    }

    /// Settles by the answer; a ban that follows is on disk before the answer leaves. A success is told to `succeeded`.
    ///
    /// Fails closed: only the answer is held, never the verdict, so that nobody gains a guess by it. A success is not held, for
    /// it says more than its time; nor is what never reached the application, which cannot know of it and takes no budget.
    pub async fn settle(
        self,
        sent: Result<Response<Body>, ForwardError>,
        succeeded: impl FnOnce(),
    ) -> Result<Response<Body>, ForwardError> {
        let outcome = match &sent {
            Ok(response) => self.rule.outcome(response.status(), response.headers()),
            Err(error) if error.unsent => LoginOutcome::Unsent,
            Err(error) => match error.kind {
                ForwardErrorKind::ClientBody | ForwardErrorKind::BodyTooLarge => LoginOutcome::Failed,
                _ => LoginOutcome::Fault,
            },
        };
        if outcome == LoginOutcome::Ok {
            succeeded();
        }
        let now = self.told.gateway.clock.now();
        let settled = self.permit.settle(outcome, now);
        self.told.outcome(outcome, self.pad.is_over());
        if let Some(ban) = self.told.ban(settled, now) {
            let told = self.told.clone();
            // A task of its own: who hangs up meanwhile is banned, and it is told.
            let _ = tokio::spawn(async move { told.written(ban).await }).await;
        }
        match outcome {
            LoginOutcome::Ok | LoginOutcome::Unsent => sent,
            LoginOutcome::Failed | LoginOutcome::Fault => self.pad.hold(sent).await,
        }
    }
}

impl Told {
    /// The ban holds in memory from here on; the future ends when it is on disk.
    fn ban(&self, settled: Settled, now: Now) -> Option<(Ban, Durable)> {
        let (key, failures) = settled.ban?;
        self.gateway.state.bans.punish(key, failures, now)
    }

    /// Waits for the disk; when it refuses, an event says so and the ban still holds in memory.
    async fn written(&self, (ban, durable): (Ban, Durable)) {
        let written = durable.await;
        if let Err(error) = &written {
            self.gateway.events.emit(Event::StoreFailed { action: "ban", error: error.to_string() });
        }
        self.gateway.events.emit(Event::BanMade { ban, durable: written.is_ok() });
    }

    /// The client hung up: there is nobody left to answer, so the disk is not waited for.
    fn cut(self, settled: Settled, outcome: LoginOutcome) {
        self.outcome(outcome, false);
        let Some(ban) = self.ban(settled, self.gateway.clock.now()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { self.written(ban).await });
        }
    }

    fn outcome(&self, outcome: LoginOutcome, late: bool) {
        self.gateway.events.emit(Event::LoginAttempt {
            decision: self.decision,
            client: self.client,
            account: Arc::clone(&self.account.0),
            identity: match &self.who {
                Guesser::Identity(key) => Some(Arc::clone(key)),
                Guesser::Client(_) => None,
            },
            outcome,
            repeat: self.repeat,
            late,
        });
    }

    fn refused(&self, scope: GuessScope) {
        self.gateway.events.emit(Event::GuessRefused {
            decision: self.decision,
            client: self.client,
            account: Arc::clone(&self.account.0),
            scope,
        });
    }
}

async fn collect(mut body: Body) -> Result<Bytes, Denial> {
    let refused = |cause: &'static str| Denial::new(Reason::BadRequest, cause);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error {
            BodyError::TooLarge => Denial::new(Reason::BodyTooLarge, "the login body is over the route's cap"),
            BodyError::Stalled => refused("the login body stalled"),
            BodyError::Peer(_) => refused("the login body broke off"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_LOGIN_BODY {
            return Err(refused("the login body is over 64 KiB"));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::gateway::testing::Room;
    use crate::policy::login::{AccountSource, ExactAccount};

    #[tokio::test]
    async fn a_ban_is_told_also_where_its_client_hangs_up_while_it_is_written() {
        let room = Room::open();
        let failed =
            vec![crate::policy::login::OutcomeRule { status: vec![http::StatusCode::UNAUTHORIZED], ..Default::default() }];
        let rule = Arc::new(LoginRule {
            name: "form".into(),
            method: http::Method::POST,
            path: "/login".into(),
            account: AccountSource::Basic,
            secret: None,
            failed,
            ok: Vec::new(),
            origins: Vec::new(),
            pad: Duration::ZERO,
        });
        let client = ClientAddr::new("192.0.2.7".parse().unwrap(), 64);
        let told = || room.worker.gateway.events.metrics().render().contains("doorward_bans_made_total 1\n");
        while room.bans().of_client(&client, room.now()).is_none() {
            let who = Guesser::Client(client.key);
            let desk = Desk { gateway: &room.worker.gateway, rule: &rule, client: &client, who, decision: DecisionId(7) };
            let exact = ExactAccount::new("localhost", "form", b"alice");
            let attempt = Attempt { account: AccountKey::new("alice").unwrap(), exact, secret: None, rest: None };
            let guess = desk.reserve(attempt).unwrap();
            let mut answer = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
            *answer.status_mut() = http::StatusCode::UNAUTHORIZED;
            let settling = guess.settle(Ok(answer), || panic!("it failed"));
            // The first look reserves, settles and bans; then the client is gone.
            let _ = pin!(settling).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        let soon = async {
            while !told() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), soon).await.expect("a ban that nobody was told of");
    }
}
