//! The application's side: servers, their health, pooled connections.

mod capacity;
mod connect;
mod health;
mod outgoing;
mod pool;
mod reply;
mod server;
mod shares;

pub mod h1;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak, mpsc};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Instant;

use crate::config::{HealthSpec, ServerUrl, UpstreamSpec, UpstreamTimeouts};
use crate::events::Events;
use crate::policy::Name;

pub use outgoing::{Outbound, Preset};
pub use pool::Pool;
pub use reply::{Reply, ReplyBody, Tunnel};
use server::Server;

/// Streams a body in either direction.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the body made no progress in time")]
    Stalled,
    #[error("the peer went away: {0}")]
    Peer(String),
}

/// All upstreams over all generations: servers that a reload leaves unchanged keep their health and connections.
pub struct Upstreams {
    events: Events,
    registry: Mutex<Registry>,
    /// Told by `commit`, heard by `run_health`.
    changed: tokio::sync::Notify,
    next_id: AtomicU64,
}

/// One upstream of a snapshot.
pub struct Upstream {
    pub name: Name,
    pub timeouts: UpstreamTimeouts,
    servers: Vec<Arc<Server>>,
    health: Option<HealthSpec>,
    /// Connections that each server is given.
    connections: usize,
    queue: Duration,
}

/// Put into a request's extensions by who must know, also when it is cut off, whether anything of it can have reached the
/// application. Fails closed: it says so from the moment that a live connection is handed the request.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<AtomicBool>);

impl Sent {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, sent: bool) {
        self.0.store(sent, Ordering::Relaxed);
    }
}

/// Why there is no response. `unsent` is true only where not a byte of the request can have reached the application, or where its
/// server says that it did nothing of it.
#[derive(Debug)]
pub struct ForwardError {
    pub kind: ForwardErrorKind,
    pub unsent: bool,
    /// Private.
    pub cause: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardErrorKind {
    /// No server is up, none could be connected, all are busy, or one refused the request unread: 503.
    Unavailable,
    /// The connection broke or the response was not HTTP: 502.
    BadGateway,
    /// No response head in time: 504.
    Timeout,
    /// The client's body was over its cap: 413.
    BodyTooLarge,
    /// The client's body stalled or broke: the client's side.
    ClientBody,
}

/// For `status`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ServerStatus {
    pub upstream: String,
    pub server: String,
    pub healthy: bool,
    pub outstanding: usize,
    /// Of the last check or failure.
    pub last_error: Option<String>,
}

/// Servers of every snapshot still alive, and those of the committed one.
#[derive(Default)]
struct Registry {
    /// The newest last.
    known: HashMap<(Name, ServerUrl), Vec<Weak<Server>>>,
    live: Vec<Watched>,
}

/// A server of the committed snapshot, and how it is checked.
#[derive(Clone)]
struct Watched {
    server: Arc<Server>,
    health: Option<HealthSpec>,
    timeouts: UpstreamTimeouts,
}

impl Upstreams {
    pub fn new(events: Events) -> Self {
        Self { events, registry: Mutex::default(), changed: tokio::sync::Notify::new(), next_id: AtomicU64::new(0) }
    }

    /// Upstreams of a new snapshot in spec order; touches nothing live. `clients` as `TlsState::upstream_clients`.
    ///
    /// A server is the same as before when its upstream's name, its URL and its TLS configuration (by identity) are. Where
    /// only the TLS configuration was made anew it takes over the health that was known of it, not the connections.
    /// Fails closed: an `https` server without a TLS configuration can never be connected.
    pub fn prepare(&self, specs: &[UpstreamSpec], clients: &[Option<Arc<rustls::ClientConfig>>]) -> Vec<Arc<Upstream>> {
        let mut registry = self.registry();
        registry.known.retain(|_, servers| {
            servers.retain(|server| server.strong_count() > 0);
            !servers.is_empty()
        });
        specs
            .iter()
            .enumerate()
            .map(|(index, spec)| {
                let tls = clients.get(index).and_then(Option::as_ref);
                let servers = spec.servers.iter().map(|url| self.server(&mut registry, spec, &url.value, tls)).collect();
                Arc::new(Upstream {
                    name: spec.name.clone(),
                    timeouts: spec.timeouts.clone(),
                    servers,
                    health: spec.health.clone(),
                    connections: spec.connections,
                    queue: spec.queue,
                })
            })
            .collect()
    }

    /// From now on these are health-checked; servers in no live snapshot are forgotten when their last request ends.
    pub fn commit(&self, upstreams: &[Arc<Upstream>]) {
        let live: Vec<Watched> = upstreams
            .iter()
            .flat_map(|upstream| {
                upstream.servers.iter().map(|server| Watched {
                    server: server.clone(),
                    health: upstream.health.clone(),
                    timeouts: upstream.timeouts.clone(),
                })
            })
            .collect();
        for watched in live.iter().filter(|watched| watched.health.is_none()) {
            watched.server.forget_checks();
        }
        self.registry().live = live;
        self.changed.notify_one();
    }

    /// Active checks with hysteresis (3 failures down, 2 successes up) until cancelled.
    pub async fn run_health(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        health::run(&self, stop).await;
    }

    pub fn status(&self) -> Vec<ServerStatus> {
        let now = Instant::now();
        self.registry().live.iter().map(|watched| watched.server.status(now)).collect()
    }

    fn server(
        &self,
        registry: &mut Registry,
        spec: &UpstreamSpec,
        url: &ServerUrl,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Arc<Server> {
        let known = registry.known.entry((spec.name.clone(), url.clone())).or_default();
        let namesakes: Vec<Arc<Server>> = known.iter().filter_map(Weak::upgrade).collect();
        if let Some(same) = namesakes.iter().find(|server| server.uses_tls(tls)) {
            return same.clone();
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let server = Arc::new(Server::new(id, spec.name.clone(), url.clone(), tls.cloned(), self.events.clone()));
        if let Some(older) = namesakes.last() {
            server.inherit_health(older);
        }
        known.push(Arc::downgrade(&server));
        server
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Upstream {
    /// The server to try next: up, not yet tried, least outstanding; ties go round by `turn`. One that is ejected for its last
    /// failures is taken only when there is no better. Fails closed: `None` when active checks say that all are down.
    fn choose(&self, turn: usize, tried: &[usize]) -> Option<(usize, &Arc<Server>)> {
        let count = self.servers.len();
        // Read only where a server is ejected.
        let reading = std::cell::OnceCell::new();
        let now = || *reading.get_or_init(Instant::now);
        let (index, server) = (0..count)
            .map(|step| turn.wrapping_add(step) % count)
            .filter(|index| !tried.contains(index))
            .filter_map(|index| self.servers.get(index).map(|server| (index, server)))
            .filter(|(_, server)| !server.is_down())
            .min_by_key(|(_, server)| (server.is_avoided(now), server.outstanding()))?;
        server.claim_trial(now);
        Some((index, server))
    }
}

impl ForwardError {
    fn new(kind: ForwardErrorKind, unsent: bool, cause: impl Into<String>) -> Self {
        Self { kind, unsent, cause: cause.into() }
    }
}

/// Names that do not resolve and similar, for `check`: (upstream index, server index, error). Blocks for at most `within`.
pub fn resolve_all(specs: &[UpstreamSpec], within: Duration) -> Vec<(usize, usize, String)> {
    let names: BTreeSet<(String, u16)> = specs
        .iter()
        .flat_map(|spec| &spec.servers)
        .map(|server| (server.value.host.clone(), server.value.port))
        .filter(|(host, _)| host.parse::<IpAddr>().is_err())
        .collect();
    let (answers, inbox) = mpsc::channel();
    for name in names.clone() {
        let answers = answers.clone();
        // A resolver cannot be interrupted: a thread that outlives `within` ends with its own lookup.
        std::thread::spawn(move || {
            let outcome = match name.to_socket_addrs() {
                Ok(mut addresses) => addresses.next().map(|_| ()).ok_or_else(|| "it has no address".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let _ = answers.send((name, outcome));
        });
    }
    drop(answers);

    let deadline = Instant::now() + within;
    let mut outcomes = std::collections::BTreeMap::new();
    while outcomes.len() < names.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((name, outcome)) = inbox.recv_timeout(left) else { break };
        outcomes.insert(name, outcome);
    }

    let mut faults = Vec::new();
    for (upstream, spec) in specs.iter().enumerate() {
        for (server, url) in spec.servers.iter().enumerate() {
            let name = (url.value.host.clone(), url.value.port);
            if !names.contains(&name) {
                continue;
            }
            match outcomes.get(&name) {
                Some(Ok(())) => {}
                Some(Err(error)) => faults.push((upstream, server, format!("{} does not resolve: {error}", name.0))),
                None => faults.push((upstream, server, format!("{} did not resolve within {within:?}", name.0))),
            }
        }
    }
    faults
}
