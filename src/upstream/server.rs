//! One server: where it is, how it does, how much it has to do. Shared by all workers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use crate::config::{ServerScheme, ServerUrl};
use crate::events::{Event, Events};
use crate::policy::Name;

use super::ServerStatus;
use super::capacity::Capacity;
use super::shares::Shares;

/// Connects that must fail in a row before a server is ejected, and requests that must get no answer in a row.
const FAILED_CONNECTS: u32 = 3;
const FAILED_EXCHANGES: u32 = 5;
/// How long an ejected server is avoided before one request tries it again; each failed trial doubles it, up to the most.
const EJECTED_FOR: Duration = Duration::from_secs(10);
const EJECTED_AT_MOST: Duration = Duration::from_secs(160);

/// Names move: an answer of the resolver is believed this long.
const RESOLVED_FOR: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Bytes kept of an error for `status`.
const MAX_ERROR: usize = 256;

pub(super) struct Server {
    pub id: u64,
    pub upstream: Name,
    pub url: ServerUrl,
    /// `scheme://host:port`
    pub label: Arc<str>,
    /// `host:port`, for requests of our own.
    pub authority: String,
    pub tls: Option<Tls>,
    literal: Option<SocketAddr>,
    resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    pub capacity: Arc<Capacity>,
    pub shares: Shares,
    spoken: AtomicU8,
    outstanding: AtomicUsize,
    /// What active checks last decided.
    down: AtomicBool,
    checks: Mutex<Hysteresis>,
    failed_connects: AtomicU32,
    failed_exchanges: AtomicU32,
    ejected: AtomicBool,
    ejection: Mutex<Ejection>,
    last_error: Mutex<Option<String>>,
    events: Events,
}

/// Of a server whose last connects or requests failed.
#[derive(Clone, Copy, Debug, Default)]
struct Ejection {
    /// When one request may try it again.
    trial_at: Option<Instant>,
    /// Trials that failed in a row.
    trials: u32,
    trying: bool,
}

/// How to speak TLS to a server.
pub(super) struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    /// The same, offering only HTTP/1.1: an upgrade cannot travel over HTTP/2.
    pub h1_only: Arc<rustls::ClientConfig>,
    pub name: Option<ServerName<'static>>,
}

/// What a server was last heard to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Spoken {
    Unknown = 0,
    H1 = 1,
    H2 = 2,
}

/// Whether a server is up by its checks: the first decides at once, then 3 failures in a row are down, 2 successes up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hysteresis {
    verdict: Option<bool>,
    /// Results in a row that contradict the verdict.
    against: u32,
}

impl Hysteresis {
    const DOWN_AFTER: u32 = 3;
    const UP_AFTER: u32 = 2;

    /// Takes one result; returns the verdict after it.
    pub fn observe(&mut self, good: bool) -> bool {
        match self.verdict {
            None => self.settle(good),
            Some(verdict) if verdict == good => self.against = 0,
            Some(_) => {
                self.against += 1;
                if self.against >= if good { Self::UP_AFTER } else { Self::DOWN_AFTER } {
                    self.settle(good);
                }
            }
        }
        self.verdict.unwrap_or(true)
    }

    fn settle(&mut self, verdict: bool) {
        *self = Self { verdict: Some(verdict), against: 0 };
    }
}

impl Server {
    pub fn new(id: u64, upstream: Name, url: ServerUrl, tls: Option<Arc<rustls::ClientConfig>>, events: Events) -> Self {
        let authority =
            if url.host.contains(':') { format!("[{}]:{}", url.host, url.port) } else { format!("{}:{}", url.host, url.port) };
        let scheme = match url.scheme {
            ServerScheme::Http => "http",
            ServerScheme::H2c => "h2c",
            ServerScheme::Https => "https",
        };
        let tls = tls.filter(|_| url.scheme == ServerScheme::Https).map(|config| Tls::new(config, &url.host));
        Self {
            id,
            upstream,
            label: format!("{scheme}://{authority}").into(),
            authority,
            tls,
            literal: url.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, url.port)),
            resolved: Mutex::default(),
            capacity: Arc::default(),
            shares: Shares::default(),
            spoken: AtomicU8::new(Spoken::Unknown as u8),
            outstanding: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            checks: Mutex::default(),
            failed_connects: AtomicU32::new(0),
            failed_exchanges: AtomicU32::new(0),
            ejected: AtomicBool::new(false),
            ejection: Mutex::default(),
            last_error: Mutex::default(),
            events,
            url,
        }
    }

    /// Whether it is reached with this very TLS configuration, by identity.
    pub fn uses_tls(&self, tls: Option<&Arc<rustls::ClientConfig>>) -> bool {
        match (&self.tls, tls.filter(|_| self.url.scheme == ServerScheme::Https)) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(&mine.config, theirs),
            _ => false,
        }
    }

    pub fn inherit_health(&self, older: &Self) {
        *lock(&self.checks) = *lock(&older.checks);
        self.down.store(older.is_down(), Ordering::Relaxed);
        self.failed_connects.store(older.failed_connects.load(Ordering::Relaxed), Ordering::Relaxed);
        self.failed_exchanges.store(older.failed_exchanges.load(Ordering::Relaxed), Ordering::Relaxed);
        *lock(&self.ejection) = *lock(&older.ejection);
        self.ejected.store(older.ejected.load(Ordering::Relaxed), Ordering::Relaxed);
        lock(&self.last_error).clone_from(&lock(&older.last_error));
    }

    /// Requests sent whose response has not ended, over all workers.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::SeqCst)
    }

    pub fn begin(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.outstanding.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn spoken(&self) -> Spoken {
        match (self.url.scheme, self.spoken.load(Ordering::Relaxed)) {
            (ServerScheme::Http, _) => Spoken::H1,
            (ServerScheme::H2c, _) => Spoken::H2,
            (ServerScheme::Https, 1) => Spoken::H1,
            (ServerScheme::Https, 2) => Spoken::H2,
            (ServerScheme::Https, _) => Spoken::Unknown,
        }
    }

    pub fn speaks(&self, spoken: Spoken) {
        self.spoken.store(spoken as u8, Ordering::Relaxed);
    }

    /// Whether active checks say that it is down; before the first check it counts as up.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Takes the result of one active check; a change of verdict is an event.
    pub fn checked(&self, outcome: Result<(), String>) {
        let up = lock(&self.checks).observe(outcome.is_ok());
        let cause = outcome.err().unwrap_or_default();
        if !cause.is_empty() {
            self.note(&cause);
        }
        if self.down.swap(!up, Ordering::Relaxed) == up {
            self.tell(up, if up { "the health check succeeds again".to_owned() } else { cause });
        }
    }

    /// Without active checks nothing says that it is down.
    pub fn forget_checks(&self) {
        *lock(&self.checks) = Hysteresis::default();
        self.down.store(false, Ordering::Relaxed);
    }

    /// Whether it is ejected and the time for another trial has not come. An ejected server is avoided, not refused: where
    /// all are ejected, all are tried, so nobody can take the last one out.
    pub fn is_avoided(&self, now: impl Fn() -> Instant) -> bool {
        self.ejected.load(Ordering::Relaxed) && lock(&self.ejection).trial_at.is_some_and(|at| now() < at)
    }

    /// Half open: the one that tries an ejected server again keeps others away until it knows.
    pub fn claim_trial(&self, now: impl Fn() -> Instant) {
        if self.ejected.load(Ordering::Relaxed) {
            let mut ejection = lock(&self.ejection);
            let now = now();
            if ejection.trial_at.is_some_and(|at| at <= now) {
                ejection.trying = true;
                ejection.trial_at = Some(now + ejection.span());
            }
        }
    }

    /// It accepts connections; whether it answers is another matter.
    pub fn connected(&self) {
        if self.failed_connects.load(Ordering::Relaxed) != 0 {
            self.failed_connects.store(0, Ordering::Relaxed);
            self.readmit("it accepts connections again");
        }
    }

    pub fn connect_failed(&self, cause: &str) {
        // The next connect asks the resolver again: a name may have moved.
        *lock(&self.resolved) = None;
        self.note(cause);
        self.failed(&self.failed_connects, FAILED_CONNECTS, cause);
    }

    /// The head of a response came.
    pub fn answered(&self) {
        if self.failed_exchanges.load(Ordering::Relaxed) != 0 {
            self.failed_exchanges.store(0, Ordering::Relaxed);
            self.readmit("it answers again");
        }
    }

    /// A request got no answer, or none that can be read, on a connection that was made, for a reason that is not the client's.
    pub fn exchange_failed(&self, cause: &str) {
        self.note(cause);
        self.failed(&self.failed_exchanges, FAILED_EXCHANGES, cause);
    }

    fn failed(&self, count: &AtomicU32, enough: u32, cause: &str) {
        if count.fetch_add(1, Ordering::Relaxed).saturating_add(1) < enough {
            return;
        }
        {
            let mut ejection = lock(&self.ejection);
            let now = Instant::now();
            match ejection.trial_at {
                Some(at) if ejection.trying || at <= now => {
                    ejection.trials = ejection.trials.saturating_add(1);
                    ejection.trying = false;
                }
                // the others that were on their way when it broke say nothing new
                Some(_) => return,
                None => {}
            }
            ejection.trial_at = Some(now + ejection.span());
        }
        if !self.ejected.swap(true, Ordering::Relaxed) && !self.is_down() {
            self.tell(false, cause.to_owned());
        }
    }

    fn readmit(&self, cause: &str) {
        let still_failing = self.failed_connects.load(Ordering::Relaxed) >= FAILED_CONNECTS
            || self.failed_exchanges.load(Ordering::Relaxed) >= FAILED_EXCHANGES;
        if !still_failing && self.ejected.swap(false, Ordering::Relaxed) {
            *lock(&self.ejection) = Ejection::default();
            if !self.is_down() {
                self.tell(true, cause.to_owned());
            }
        }
    }

    /// Keeps an error for `status`.
    pub fn note(&self, cause: &str) {
        let mut end = cause.len().min(MAX_ERROR);
        while !cause.is_char_boundary(end) {
            end -= 1;
        }
        *lock(&self.last_error) = cause.get(..end).map(str::to_owned);
    }

    pub fn status(&self, now: Instant) -> ServerStatus {
        ServerStatus {
            upstream: self.upstream.to_string(),
            server: self.label.to_string(),
            healthy: !self.is_down() && !self.is_avoided(|| now),
            outstanding: self.outstanding(),
            last_error: lock(&self.last_error).clone(),
        }
    }

    /// Where to connect, most wanted first.
    pub async fn addresses(&self) -> Result<Arc<[SocketAddr]>, String> {
        if let Some(address) = self.literal {
            return Ok(Arc::new([address]));
        }
        if let Some((at, addresses)) = &*lock(&self.resolved)
            && at.elapsed() < RESOLVED_FOR
        {
            return Ok(addresses.clone());
        }
        let addresses: Arc<[SocketAddr]> = tokio::net::lookup_host((self.url.host.as_str(), self.url.port))
            .await
            .map_err(|error| format!("{} does not resolve: {error}", self.url.host))?
            .take(MAX_ADDRESSES)
            .collect();
        if addresses.is_empty() {
            return Err(format!("{} has no address", self.url.host));
        }
        *lock(&self.resolved) = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }

    fn tell(&self, healthy: bool, cause: String) {
        self.events.emit(Event::UpstreamState {
            upstream: self.upstream.clone(),
            server: self.label.to_string(),
            healthy,
            cause,
        });
    }
}

impl Ejection {
    fn span(self) -> Duration {
        EJECTED_FOR.saturating_mul(1 << self.trials.min(8)).min(EJECTED_AT_MOST)
    }
}

impl Tls {
    fn new(config: Arc<rustls::ClientConfig>, host: &str) -> Self {
        let mut h1_only = (*config).clone();
        h1_only.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config, h1_only: Arc::new(h1_only), name: ServerName::try_from(host.to_owned()).ok() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_decides_then_three_failures_are_down_and_two_successes_up() {
        let mut checks = Hysteresis::default();
        assert!(!checks.observe(false));
        assert!(!checks.observe(true));
        assert!(checks.observe(true));
        assert!(checks.observe(false));
        assert!(checks.observe(false));
        assert!(checks.observe(true), "a success between failures starts the count again");
        assert!(checks.observe(false));
        assert!(checks.observe(false));
        assert!(!checks.observe(false));
    }

    #[test]
    fn an_address_of_six_is_bracketed_in_the_authority() {
        let url = ServerUrl { scheme: ServerScheme::H2c, host: "::1".into(), port: 9 };
        let server = Server::new(0, "portal".into(), url, None, Events::sink());
        assert_eq!(&*server.label, "h2c://[::1]:9");
        assert_eq!(server.authority, "[::1]:9");
    }

    #[test]
    fn a_server_that_fails_three_connects_is_avoided_and_tried_again_by_one() {
        let url = ServerUrl { scheme: ServerScheme::Http, host: "127.0.0.1".into(), port: 9 };
        let server = Server::new(0, "portal".into(), url, None, Events::sink());
        server.connect_failed("refused");
        server.connect_failed("refused");
        assert!(!server.is_avoided(Instant::now));
        server.connect_failed("refused");
        assert!(server.is_avoided(Instant::now));
        assert!(!server.status(Instant::now()).healthy);

        let later = Instant::now() + EJECTED_FOR;
        assert!(!server.is_avoided(|| later));
        server.claim_trial(|| later);
        assert!(server.is_avoided(|| later), "half open: one trial at a time");
        server.connected();
        assert!(!server.is_avoided(Instant::now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moved_is_asked_for_again_at_once_when_a_connect_fails_and_soon_otherwise() {
        let url = ServerUrl { scheme: ServerScheme::Http, host: "localhost".into(), port: 9 };
        let server = Server::new(0, "portal".into(), url, None, Events::sink());
        let old: Arc<[SocketAddr]> = Arc::new([SocketAddr::from(([127, 9, 9, 9], 9))]);
        let remember = |at| *lock(&server.resolved) = Some((at, old.clone()));
        remember(Instant::now());
        assert_eq!(server.addresses().await.unwrap(), old);
        server.connect_failed("refused");
        assert_ne!(server.addresses().await.unwrap(), old);
        remember(Instant::now());
        tokio::time::advance(RESOLVED_FOR).await;
        assert_ne!(server.addresses().await.unwrap(), old);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_ejected_ever_longer_until_it_answers() {
        let url = ServerUrl { scheme: ServerScheme::Http, host: "127.0.0.1".into(), port: 9 };
        let server = Server::new(0, "portal".into(), url, None, Events::sink());
        for _ in 0..4 {
            server.exchange_failed("reset");
        }
        server.answered();
        for _ in 0..4 {
            server.exchange_failed("reset");
        }
        assert!(!server.is_avoided(Instant::now), "not in a row");
        // as many as were on their way
        for _ in 0..50 {
            server.exchange_failed("reset");
        }
        server.connected();
        for span in [10, 20, 40, 80, 160, 160, 160] {
            tokio::time::advance(Duration::from_millis(span * 1000 - 1)).await;
            assert!(server.is_avoided(Instant::now), "{span}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!server.is_avoided(Instant::now), "{span}");
            server.claim_trial(Instant::now);
            assert!(server.is_avoided(Instant::now), "one trial at a time");
            server.exchange_failed("reset");
        }
        assert!(!server.status(Instant::now()).healthy);
        server.answered();
        assert!(!server.is_avoided(Instant::now));
    }
}
