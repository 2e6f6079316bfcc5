//! One worker's connections: idle ones on a shelf a server, newest first; HTTP/2 ones shared.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Method, Request, Response};
use hyper::client::conn::http2;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Alarm;
use crate::config::ServerScheme;
use crate::net::ClientKey;

use super::connect::{Failure, Incoming, Socket, StreamCap, Wire, dial};
use super::h1;
use super::outgoing::{self, Outbound, Outgoing, Sending};
use super::server::{Server, Spoken};
use super::shares::{self, Share, Standing};
use super::{ForwardError, ForwardErrorKind, Reply, ReplyBody, Sent, Upstream};

/// Idle HTTP/1 connections kept per server and worker.
const MAX_IDLE: usize = 512;

/// HTTP/2 connections per server and worker; beyond that requests wait in the server's queue for a stream.
const MAX_SHARED: usize = 8;

/// Kept connections that may turn out stale before a request gets a fresh one.
const MAX_STALE: usize = 2;

/// One worker's idle connections; never shared between workers.
pub struct Pool {
    shelves: Arc<Shelves>,
    turn: AtomicUsize,
}

/// One request outstanding at a server; released on drop.
pub(super) struct Outstanding {
    server: Arc<Server>,
    shelves: Arc<Shelves>,
    keep: Duration,
    /// Of a shared connection.
    stream: Option<Stream>,
    /// Where the server is busy.
    share: Option<Share>,
    alarm: Alarm,
}

/// By `Server::id`. Never locked across an await.
#[derive(Default)]
pub(super) struct Shelves(Mutex<HashMap<u64, Shelf>>);

struct Shelf {
    server: Weak<Server>,
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// A stream of the shared ones became free: it is of no use to other workers, who would keep the news to themselves.
    freed: Arc<Notify>,
    /// Held while connecting to what may speak HTTP/2, so that a burst makes one connection and not one each.
    gate: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    connection: Box<h1::Connection<Socket>>,
    alarm: Alarm,
    since: Instant,
    keep: Duration,
}

struct Shared {
    sender: http2::SendRequest<Outgoing>,
    cap: Arc<StreamCap>,
    streams: Arc<Streams>,
    keep: Duration,
}

/// Streams under way on a shared connection, and when the last one ended.
struct Streams {
    count: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// A connection in use by one request.
struct Lease {
    wire: Wire,
    stream: Option<Stream>,
    /// What its requests waited by, where it was kept.
    alarm: Alarm,
    since: Instant,
}

/// One stream of a shared connection.
struct Stream(Arc<Streams>);

/// Why there is no connection.
enum NoLease {
    /// All that the server is given are in use.
    Full,
    Failed(String),
}

/// What a request brings to the queue of a server.
struct Terms<'a> {
    upstream: &'a Upstream,
    h1_only: bool,
    /// When it has waited long enough, over all servers; set once it waits.
    until: &'a mut Option<Instant>,
}

/// Why one server gave no response.
enum Attempt {
    Unsent(Box<Request<Outgoing>>, String),
    Failed(ForwardError),
}

impl Pool {
    pub fn new() -> Self {
        Self { shelves: Arc::default(), turn: AtomicUsize::new(0) }
    }

    /// Sends to the healthy server with the least outstanding; the head of the response within `timeouts.response`.
    /// Only what is provably unsent is tried again (another connection, then another server). `request` has an
    /// origin-form target and its `Host`; for h2 the pool makes the absolute form. An upgrade request (h1) keeps its
    /// `Connection: upgrade`; a 101 is a reply whose body can become a [`Tunnel`](super::Tunnel).
    ///
    /// The response deadline runs from sending; while the request body flows it starts anew with every chunk, and stands
    /// still while the client owes the next one. What is wrong with the client's body is told as the client's fault.
    pub async fn send(&self, upstream: &Upstream, outbound: impl Into<Outbound>) -> Result<Reply, ForwardError> {
        let outbound = outbound.into();
        if outbound.request.method() == Method::CONNECT {
            return Err(ForwardError::new(ForwardErrorKind::BadGateway, true, "CONNECT is never forwarded"));
        }
        let client = outbound.client;
        let (request, sending) = outgoing::wrap(outbound);
        // Boxed: it passes through many hands, each of which would hold the room for it.
        let mut request = Box::new(request);
        let mut tried = Vec::new();
        let mut until = None;
        let mut cause = String::new();
        while let Some((index, server)) = upstream.choose(self.turn.fetch_add(1, Ordering::Relaxed), &tried) {
            let mut guard = Outstanding::begin(server.clone(), self.shelves.clone(), upstream.timeouts.idle);
            match self.attempt(&mut guard, upstream, client, &mut until, request, sending.as_deref()).await {
                Ok(response) => {
                    server.answered();
                    let response = response.map(|incoming| ReplyBody::new(incoming, guard));
                    return Ok(Reply { response, server: server.label.clone() });
                }
                Err(Attempt::Failed(error)) => {
                    if !error.unsent && !matches!(error.kind, ForwardErrorKind::BodyTooLarge | ForwardErrorKind::ClientBody) {
                        server.exchange_failed(&error.cause);
                    }
                    return Err(error);
                }
                Err(Attempt::Unsent(back, why)) => {
                    request = back;
                    cause = format!("{}: {why}", server.label);
                    tried.push(index);
                }
            }
        }
        if cause.is_empty() {
            cause = format!("every server of {} is down", upstream.name);
        }
        Err(ForwardError::new(ForwardErrorKind::Unavailable, true, cause))
    }

    /// Drops connections idle longer than their upstream allows or no longer fit; what lies until now holds no buffers.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.shelves.lock().retain(|_, shelf| {
            shelf.idle.retain_mut(|idle| idle.is_wanted(now));
            shelf.idle.iter_mut().for_each(|idle| idle.connection.rest());
            shelf.shared.retain(|shared| shared.is_wanted(now));
            shelf.server.strong_count() > 0
        });
    }

    /// One server: a kept connection, then, if that turns out stale before a byte was written, a fresh one. One
    /// that takes nothing on a fresh connection has failed, though nothing was sent.
    async fn attempt(
        &self,
        guard: &mut Outstanding,
        upstream: &Upstream,
        client: Option<ClientKey>,
        until: &mut Option<Instant>,
        mut request: Box<Request<Outgoing>>,
        sending: Option<&Sending>,
    ) -> Result<Response<Incoming>, Attempt> {
        let server = guard.server.clone();
        let h1_only = request.headers().contains_key(UPGRADE) && server.url.scheme != ServerScheme::H2c;
        let mut terms = Terms { upstream, h1_only, until };
        if let Some(client) = client.filter(|_| shares::count(&server, upstream.connections)) {
            // Boxed: a request to a server that is not busy should not carry the room for it.
            match Box::pin(share(&server, client, &mut terms)).await {
                Ok(share) => guard.share = Some(share),
                Err(cause) => return Err(Attempt::Unsent(request, cause)),
            }
        }
        let mut stale = 0;
        loop {
            let (lease, kept) = match self.lease(&server, &mut terms, stale < MAX_STALE).await {
                Ok(leased) => leased,
                Err(cause) => return Err(Attempt::Unsent(request, cause)),
            };
            match guard.exchange(lease, upstream.timeouts.response, request, sending).await {
                Err(Attempt::Unsent(back, _)) if kept => request = back,
                Err(Attempt::Unsent(back, why)) => {
                    server.exchange_failed(&why);
                    return Err(Attempt::Unsent(back, why));
                }
                done => return done,
            }
            stale += 1;
        }
    }

    /// A connection, and whether it was kept from before. While all are in use the request waits in the server's queue, first
    /// come first served. Fails closed: no more connections than the upstream gives, and no wait longer than its `queue`.
    async fn lease(&self, server: &Arc<Server>, terms: &mut Terms<'_>, kept: bool) -> Result<(Lease, bool), String> {
        let capacity = &server.capacity;
        if !capacity.is_queued() {
            match self.lease_now(server, terms, kept).await {
                Err(NoLease::Full) => {}
                Err(NoLease::Failed(cause)) => return Err(cause),
                Ok(leased) => return Ok(leased),
            }
        }
        let limit = terms.upstream.queue;
        let busy = format!("all of its {} connections were busy for {limit:?}", terms.upstream.connections);
        let mut waiting = capacity.queue(terms.upstream.connections).ok_or("too many wait for its connections")?;
        let until = *terms.until.get_or_insert_with(|| Instant::now() + limit);
        let mut turn = waiting.first;
        let streams = self.shelves.freed(server);
        waiting.streams = (!terms.h1_only).then(|| streams.clone());
        loop {
            let (freed, stream) = (capacity.freed(), streams.notified());
            tokio::pin!(freed, stream);
            freed.as_mut().enable();
            if !terms.h1_only {
                stream.as_mut().enable();
            }
            if turn {
                match self.lease_now(server, terms, kept).await {
                    // what lies idle on another worker's shelf makes room
                    Err(NoLease::Full) => capacity.evict(server.id),
                    Err(NoLease::Failed(cause)) => return Err(cause),
                    Ok(leased) => return Ok(leased),
                }
            }
            tokio::select! {
                () = freed => {}
                () = stream, if !terms.h1_only => {}
                () = tokio::time::sleep_until(until) => return Err(busy),
            }
            turn = true;
        }
    }

    async fn lease_now(&self, server: &Arc<Server>, terms: &Terms<'_>, kept: bool) -> Result<(Lease, bool), NoLease> {
        if kept && let Some(lease) = self.shelves.take(server, terms.h1_only) {
            return Ok((lease, true));
        }
        let limit = terms.upstream.timeouts.connect;
        // Boxed: a request whose connection is kept should not carry the room for a handshake.
        let connected = match tokio::time::timeout(limit, Box::pin(self.shelves.connect(server, terms))).await {
            Ok(connected) => connected,
            Err(_) => Err(NoLease::Failed(format!("no connection within {limit:?}"))),
        };
        if let Err(NoLease::Failed(cause)) = &connected {
            server.connect_failed(cause);
        }
        connected.map(|lease| (lease, false))
    }

    /// Connections lying idle, for tests.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.shelves.lock().values().map(|shelf| shelf.idle.len()).sum()
    }

    /// Shared connections, for tests.
    #[cfg(test)]
    pub(super) fn shared(&self) -> usize {
        self.shelves.lock().values().map(|shelf| shelf.shared.len()).sum()
    }
}

/// A share of a busy server for this client. While it holds all that it may the request waits in the client's line. Fails closed:
/// no wait longer than the upstream's `queue`.
async fn share(server: &Arc<Server>, client: ClientKey, terms: &mut Terms<'_>) -> Result<Share, String> {
    let standing = Standing::new(server, client, terms.upstream.connections).ok_or("too many of its client wait")?;
    let limit = terms.upstream.queue;
    let mut turn = standing.first;
    loop {
        let freed = standing.freed();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if turn && let Some(share) = standing.take() {
            return Ok(share);
        }
        let until = *terms.until.get_or_insert_with(|| Instant::now() + limit);
        tokio::select! {
            () = freed => {}
            () = tokio::time::sleep_until(until) => return Err(format!("its client held all that it may for {limit:?}")),
        }
        turn = true;
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Outstanding {
    /// Its connection may serve again.
    pub fn keep(mut self, connection: Box<h1::Connection<Socket>>) {
        self.shelves.put(&self.server, connection, std::mem::take(&mut self.alarm), self.keep);
    }

    fn begin(server: Arc<Server>, shelves: Arc<Shelves>, keep: Duration) -> Self {
        server.begin();
        Self { server, shelves, keep, stream: None, share: None, alarm: Alarm::default() }
    }

    /// A stream makes room for one who waits; a connection does when it is closed, or kept.
    fn release(&mut self) {
        if self.stream.take().is_some() {
            self.shelves.streams_are_free(&self.server);
        }
    }

    async fn exchange(
        &mut self,
        lease: Lease,
        limit: Duration,
        request: Box<Request<Outgoing>>,
        sending: Option<&Sending>,
    ) -> Result<Response<Incoming>, Attempt> {
        (self.stream, self.alarm) = (lease.stream, lease.alarm);
        let sent = request.extensions().get::<Sent>().cloned();
        if let Some(sent) = &sent {
            sent.set(true);
        }
        let outcome = tokio::select! {
            biased;
            outcome = lease.wire.exchange(&self.server, request) => outcome,
            () = outgoing::overdue(&mut self.alarm, sending, lease.since, limit) => {
                self.release();
                let cause = format!("no response head within {limit:?}");
                return Err(Attempt::Failed(ForwardError::new(ForwardErrorKind::Timeout, false, cause)));
            }
        };
        outcome.map_err(|failure| {
            self.release();
            match failure {
                Failure::Unsent(request, cause) => {
                    if let Some(sent) = &sent {
                        sent.set(false);
                    }
                    Attempt::Unsent(request, cause)
                }
                Failure::Unprocessed(cause) => {
                    if let Some(sent) = &sent {
                        sent.set(false);
                    }
                    Attempt::Failed(ForwardError::new(ForwardErrorKind::Unavailable, true, cause))
                }
                Failure::Sent(cause) => {
                    let kind = sending.and_then(Sending::fault).unwrap_or(ForwardErrorKind::BadGateway);
                    Attempt::Failed(ForwardError::new(kind, false, cause))
                }
            }
        })
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.server.end();
        self.release();
        self.server.shares.offer(&self.server);
    }
}

impl Shelves {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Shelf>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A connection that is free now.
    fn take(&self, server: &Server, h1_only: bool) -> Option<Lease> {
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(&server.id)?;
        if !h1_only && let Some(lease) = shelf.share() {
            return Some(lease);
        }
        if shelf.idle.is_empty() {
            return None;
        }
        let now = Instant::now();
        while let Some(idle) = shelf.idle.pop() {
            if idle.is_young(now) {
                return Some(Lease { wire: Wire::H1(idle.connection), stream: None, alarm: idle.alarm, since: now });
            }
        }
        None
    }

    fn put(&self, server: &Arc<Server>, connection: Box<h1::Connection<Socket>>, mut alarm: Alarm, keep: Duration) {
        alarm.rest();
        {
            let mut shelves = self.lock();
            let shelf = Shelf::of(&mut shelves, server);
            if shelf.idle.len() < MAX_IDLE {
                shelf.idle.push(Idle { connection, alarm, since: Instant::now(), keep });
            }
        }
        server.capacity.free();
    }

    /// A fresh connection, or a share of one that somebody else just made.
    async fn connect(self: &Arc<Self>, server: &Arc<Server>, terms: &Terms<'_>) -> Result<Lease, NoLease> {
        let Terms { upstream, h1_only, .. } = *terms;
        let mut turn = None;
        if !h1_only && server.spoken() != Spoken::H1 {
            let gate = Shelf::of(&mut self.lock(), server).gate.clone();
            let held = gate.lock_owned().await;
            if let Some(shelf) = self.lock().get_mut(&server.id) {
                if let Some(lease) = shelf.share() {
                    return Ok(lease);
                }
                if shelf.shared.len() >= MAX_SHARED {
                    return Err(NoLease::Full);
                }
            }
            // Whoever held the gate may have learned that there is nothing to share.
            turn = (server.spoken() != Spoken::H1).then_some(held);
        }
        let seat = server.capacity.seat(upstream.connections).ok_or(NoLease::Full)?;
        server.capacity.lies_on(self);
        let wire = dial(server, h1_only, upstream.timeouts.connect, Some(seat)).await.map_err(NoLease::Failed)?;
        server.connected();
        let lease = match wire {
            Wire::H2(sender, cap) => {
                let shared = Shared { sender, cap, streams: Arc::new(Streams::new()), keep: upstream.timeouts.idle };
                let lease = shared.lease();
                Shelf::of(&mut self.lock(), server).shared.push(shared);
                // the rest of its streams
                self.streams_are_free(server);
                lease
            }
            h1 @ Wire::H1(_) => Lease::fresh(h1, None),
        };
        drop(turn);
        Ok(lease)
    }

    /// Resolves for one who waits, each time, once a stream may be free.
    fn freed(&self, server: &Arc<Server>) -> Arc<Notify> {
        Shelf::of(&mut self.lock(), server).freed.clone()
    }

    fn streams_are_free(&self, server: &Arc<Server>) {
        if server.capacity.is_queued() {
            self.freed(server).notify_one();
            // Its connection may be in nobody's use: another worker may close it for its place.
            server.capacity.free();
        }
    }

    /// Closes the connection to a server that has lain idle longest here; whether there was one.
    pub(super) fn evict(&self, server: u64) -> bool {
        let mut shelves = self.lock();
        let Some(shelf) = shelves.get_mut(&server) else { return false };
        if !shelf.idle.is_empty() {
            drop(shelf.idle.remove(0));
            return true;
        }
        let unused = shelf.shared.iter().position(|shared| shared.streams.count() == 0);
        unused.map(|at| shelf.shared.remove(at)).is_some()
    }
}

impl Shelf {
    fn of<'a>(shelves: &'a mut HashMap<u64, Self>, server: &Arc<Server>) -> &'a mut Self {
        shelves.entry(server.id).or_insert_with(|| Self {
            server: Arc::downgrade(server),
            idle: Vec::new(),
            shared: Vec::new(),
            freed: Arc::default(),
            gate: Arc::default(),
        })
    }

    /// A stream on the least busy shared connection; `None` when one more connection would serve better.
    fn share(&mut self) -> Option<Lease> {
        if self.shared.is_empty() {
            return None;
        }
        self.shared.retain(|shared| !shared.sender.is_closed());
        let best = self.shared.iter().min_by_key(|shared| shared.streams.count())?;
        (best.streams.count() < best.cap.get()).then(|| best.lease())
    }
}

impl Lease {
    fn fresh(wire: Wire, stream: Option<Stream>) -> Self {
        Self { wire, stream, alarm: Alarm::default(), since: Instant::now() }
    }
}

impl Idle {
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < self.keep
    }

    fn is_wanted(&mut self, now: Instant) -> bool {
        self.is_young(now) && self.connection.is_quiet()
    }
}

impl Shared {
    fn lease(&self) -> Lease {
        self.streams.count.fetch_add(1, Ordering::Relaxed);
        Lease::fresh(Wire::H2(self.sender.clone(), self.cap.clone()), Some(Stream(self.streams.clone())))
    }

    fn is_wanted(&self, now: Instant) -> bool {
        !self.sender.is_closed()
            && (self.streams.count() > 0 || now.saturating_duration_since(self.streams.idle_since()) < self.keep)
    }
}

impl Streams {
    fn new() -> Self {
        Self { count: AtomicUsize::new(0), idle_since: Mutex::new(Instant::now()) }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn idle_since(&self) -> Instant {
        *self.idle_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
        }
    }
}
