//! What happened, told once: one [`Event`], one fan-out to access log, event log and metrics.

mod format;
mod log;
pub mod metrics;
mod pages;
mod telling;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::uri::PathAndQuery;
use jiff::Timestamp;

pub use log::LogError;

use crate::clock::Clock;
use crate::config::Log;
use crate::net::ClientAddr;
use crate::policy::ban::{Ban, BanKey};
use crate::policy::login::LoginOutcome;
use crate::policy::{CertCause, Name, Reason, RouteId};

/// A decision's id: 128 bits, time-ordered, printed as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionId(pub u128);

/// How much an operator should care; `as_str` is the line's `severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Ordinary life.
    Info,
    /// A refusal or a change that someone may ask about.
    Notice,
    /// Somebody should look soon.
    Warning,
    /// The gateway is not doing all of its job.
    Error,
}

/// Everything that the gateway tells but for requests, which have their [`RequestRecord`]. One match in the fan-out feeds
/// log and metric together.
#[derive(Debug)]
pub enum Event {
    /// A connection ended before there was a request.
    ConnectionRefused {
        peer: IpAddr,
        client: Option<IpAddr>,
        cause: ConnectionCause,
    },
    /// hyper or h2 refused what came before there was a request.
    ProtocolError {
        client: IpAddr,
        cause: String,
    },
    /// A peer at the operators' socket that may not come in; `None`: its credentials could not be read.
    AdminRefused {
        uid: Option<u32>,
        gid: Option<u32>,
    },
    /// The listener could not accept, and pauses.
    AcceptFailed {
        error: String,
        pause: Duration,
    },
    HandshakeFailed {
        client: IpAddr,
        sni: Option<String>,
        cause: String,
    },
    /// A presented certificate does not hold. Subject and issuer are unverified text, capped and escaped.
    CertificateRefused {
        client: IpAddr,
        site: String,
        subject: String,
        issuer: String,
        cause: CertCause,
        in_handshake: bool,
    },
    /// A guess was settled.
    LoginAttempt {
        decision: DecisionId,
        client: ClientAddr,
        account: Name,
        identity: Option<Name>,
        outcome: LoginOutcome,
        /// Of a guess that had failed already: not counted.
        repeat: bool,
        /// The application took longer than the login's `pad`: its answers can be told from earlier ones.
        late: bool,
    },
    /// A guess was refused before it was forwarded.
    GuessRefused {
        decision: DecisionId,
        client: ClientAddr,
        account: Name,
        scope: GuessScope,
    },
    BanMade {
        ban: Ban,
        durable: bool,
    },
    BanLifted {
        key: BanKey,
        by: String,
        reason: String,
    },
    /// An operator cleared failures that no ban stood for.
    GuessesCleared {
        key: BanKey,
        failures: u32,
        by: String,
        reason: String,
    },
    /// An exchange under way was ended, since its caller's next request would be refused.
    ExchangeEnded {
        decision: DecisionId,
        client: IpAddr,
        identity: Option<Name>,
        approval: Option<Name>,
        route: Name,
        reason: Reason,
        cause: Cow<'static, str>,
        /// It had become a tunnel; its record was told with its 101.
        tunnel: bool,
    },
    /// Limits in shadow that would have refused.
    LimitShadowed {
        limit: Name,
        route: Name,
        client: IpAddr,
    },
    /// A bounded table folded or refused keys since it was last told.
    TableOverflow {
        table: &'static str,
        keys: u64,
        /// What stood in for them.
        into: String,
    },
    ApprovalChanged {
        id: String,
        action: &'static str,
        by: String,
        reason: Option<String>,
    },
    ConfigReloaded {
        generation: u64,
        path: PathBuf,
        /// Rendered, one finding each.
        warnings: Vec<String>,
    },
    ReloadFailed {
        generation: u64,
        errors: Vec<String>,
    },
    CrlExpiring {
        path: PathBuf,
        at: Timestamp,
    },
    /// A certificate that is served, vouches for clients or is shown to an application nears its end, or is past it.
    CertificateExpiring {
        /// `certificate` or `client-ca`.
        kind: &'static str,
        path: PathBuf,
        at: Timestamp,
    },
    UpstreamState {
        upstream: Name,
        server: String,
        healthy: bool,
        cause: String,
    },
    StoreFailed {
        action: &'static str,
        error: String,
    },
    /// A log that cannot be written or opened. Lines wait, or are dropped and counted.
    LogFailed {
        /// `-` is stdout.
        path: String,
        error: String,
    },
    LogDropped {
        lines: u64,
    },
    Started {
        generation: u64,
        version: &'static str,
    },
    Draining {
        deadline: Duration,
    },
    Stopped {
        cut: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuessScope {
    Client,
    Account,
    Ban,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionCause {
    Banned,
    TooManyConnections,
    /// At rest when places ran short, and given up for another connection.
    Shed,
    TooManyFromClient,
    TooManyHandshakes,
    ProxyHeaderMissing,
    ProxyHeaderMalformed,
    ProxyHeaderTimeout,
    HandshakeTimeout,
    UnknownServerName,
    IdleTimeout,
}

/// One request, told once. Only what is listed here can ever be logged.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    pub decision: DecisionId,
    pub at: Timestamp,
    pub generation: u64,
    pub client: IpAddr,
    pub peer: IpAddr,
    pub method: http::Method,
    /// Canonical host; `None` when there was none.
    pub host: Option<Name>,
    /// The canonical target; what was refused as not canonical stands as it came. Lines have its path, never its query.
    pub target: Option<PathAndQuery>,
    pub version: http::Version,
    pub route: Option<(RouteId, Name)>,
    /// 0: the client left before an answer.
    pub status: u16,
    pub reason: Option<Reason>,
    /// Private cause of a refusal.
    pub cause: Option<Cow<'static, str>>,
    pub identity: Option<Name>,
    pub approval: Option<Name>,
    pub bot: Option<&'static str>,
    pub upstream: Option<Arc<str>>,
    pub tls: Option<&'static str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub took: Duration,
    /// The answer was cut before its end.
    pub cut: bool,
    /// As it came.
    pub user_agent: Option<HeaderValue>,
    /// As it came; lines leave out its query.
    pub referer: Option<HeaderValue>,
}

/// The fan-out. Cheap to clone; never waits for a disk.
#[derive(Clone)]
pub struct Events(Arc<FanOut>);

struct FanOut {
    metrics: Arc<metrics::Metrics>,
    /// `None`: nobody reads lines, so none is made.
    writer: Option<log::Writer>,
    clock: Clock,
}

impl Events {
    /// Opens the logs and starts the writer thread. Errors name the file.
    pub fn open(log: &Log) -> io::Result<Self> {
        let metrics = Arc::new(metrics::Metrics::new());
        let writer = log::Writer::start(log::Targets::open(log)?, Arc::clone(&metrics))?;
        Ok(Self::new(metrics, Some(writer)))
    }

    /// For tests and the demo: from now on every event's JSON line (requests too) also goes to the channel, whichever clone
    /// tells it. A [`sink`](Self::sink) gets its writer here, so there only the returned value is heard.
    pub fn with_tap(&self, tap: tokio::sync::mpsc::UnboundedSender<String>) -> Self {
        let tapped = match &self.0.writer {
            Some(_) => self.clone(),
            None => {
                let metrics = Arc::clone(&self.0.metrics);
                let writer = log::Writer::start(log::Targets::none(), Arc::clone(&metrics)).ok();
                Self::new(metrics, writer)
            }
        };
        if let Some(writer) = &tapped.0.writer {
            writer.tap(tap);
        }
        tapped
    }

    /// Discards every line; metrics still count.
    pub fn sink() -> Self {
        Self::new(Arc::new(metrics::Metrics::new()), None)
    }

    /// Tells one request: access log and request metrics. Never waits: its line is dropped and counted when the writer is
    /// behind.
    pub fn request(&self, record: &RequestRecord) {
        self.0.metrics.request(record);
        if let Some(writer) = &self.0.writer {
            writer.request(record);
        }
    }

    /// Tells one event. Never waits: what strangers can cause at will is dropped and counted when the writer is behind,
    /// security events are kept in memory up to a bound and counted when that is reached.
    pub fn emit(&self, event: Event) {
        self.0.metrics.count(&event.telling().count);
        if let Some(writer) = &self.0.writer {
            writer.event(event, self.0.clock.now().wall);
        }
    }

    /// Reopens log files (USR1).
    pub fn reopen(&self) {
        if let Some(writer) = &self.0.writer {
            writer.reopen();
        }
    }

    /// Switches targets and format after a reload; an error leaves the old ones.
    pub fn reconfigure(&self, log: &Log) -> Result<(), LogError> {
        if let Some(writer) = &self.0.writer {
            writer.switch(log::Targets::open(log).inspect_err(|_| self.0.metrics.write_error())?);
        }
        Ok(())
    }

    /// Writes out what is queued; bounded by the deadline.
    pub fn flush(&self, deadline: Duration) {
        if let Some(writer) = &self.0.writer {
            writer.flush(deadline);
        }
    }

    /// The metrics registry.
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.0.metrics
    }

    fn new(metrics: Arc<metrics::Metrics>, writer: Option<log::Writer>) -> Self {
        Self(Arc::new(FanOut { metrics, writer, clock: Clock::system() }))
    }
}

impl RequestRecord {
    /// A record of a request of which nothing is known but when, from where and how it came.
    pub fn begun(
        decision: DecisionId,
        at: Timestamp,
        generation: u64,
        [client, peer]: [IpAddr; 2],
        version: http::Version,
    ) -> Self {
        Self {
            decision,
            at,
            generation,
            client,
            peer,
            method: http::Method::GET,
            host: None,
            target: None,
            version,
            route: None,
            status: 0,
            reason: None,
            cause: None,
            identity: None,
            approval: None,
            bot: None,
            upstream: None,
            tls: None,
            bytes_in: 0,
            bytes_out: 0,
            took: Duration::ZERO,
            cut: false,
            user_agent: None,
            referer: None,
        }
    }
}

/// Whether a log file can be opened; makes it when it is missing. Never waits, also not on a named pipe. Errors name the file.
pub fn probe(path: &std::path::Path) -> Result<(), LogError> {
    log::append(path).map(drop)
}

impl DecisionId {
    /// A fresh id: 48 bits of milliseconds, 48 random bits a thread, a scrambled 32-bit count. Unique and ordered by the
    /// millisecond, not secret: whoever is told two ids does not read off how many lie between. No system call, no lock.
    pub fn fresh(wall: Timestamp) -> Self {
        thread_local! {
            static THREAD: (u64, Scramble) = (getrandom::u64().unwrap_or_default() & 0xffff_ffff_ffff, Scramble::draw());
            static COUNT: Cell<u32> = const { Cell::new(0) };
        }
        let count = COUNT.replace(COUNT.get().wrapping_add(1));
        let (thread, count) = THREAD.with(|(thread, scramble)| (*thread, scramble.apply(count)));
        let millis = u128::from(wall.as_millisecond().max(0).unsigned_abs() & 0xffff_ffff_ffff);
        Self(millis << 80 | u128::from(thread) << 32 | u128::from(count))
    }

    /// The id as everybody is told it: 32 hex digits.
    pub fn hex(self) -> [u8; 32] {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        let mut text = [0; 32];
        for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(self.0.to_be_bytes()) {
            *pair = [digit(byte >> 4), digit(byte & 15)];
        }
        text
    }
}

/// A keyed one-to-one map of counts: different counts stay different, and neighbours land far apart. Hides the traffic from
/// the curious, not from a cryptanalyst.
struct Scramble {
    keys: [u32; 2],
    factors: [u32; 2],
}

impl Scramble {
    fn draw() -> Self {
        let [keys, factors] = [(); 2].map(|()| {
            let drawn = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15);
            [(drawn >> 32) as u32, drawn as u32]
        });
        // Odd factors have an inverse.
        Self { keys, factors: factors.map(|factor| factor | 1) }
    }

    /// Twice xor, odd factor and rotation: each step alone is one-to-one.
    fn apply(&self, count: u32) -> u32 {
        self.keys.iter().zip(&self.factors).fold(count, |word, (key, factor)| (word ^ key).wrapping_mul(*factor).rotate_left(16))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl GuessScope {
    pub const ALL: [Self; 3] = [Self::Client, Self::Account, Self::Ban];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Account => "account",
            Self::Ban => "ban",
        }
    }
}

impl ConnectionCause {
    /// Every cause, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Banned,
        Self::TooManyConnections,
        Self::Shed,
        Self::TooManyFromClient,
        Self::TooManyHandshakes,
        Self::ProxyHeaderMissing,
        Self::ProxyHeaderMalformed,
        Self::ProxyHeaderTimeout,
        Self::HandshakeTimeout,
        Self::UnknownServerName,
        Self::IdleTimeout,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::TooManyConnections => "too-many-connections",
            Self::Shed => "shed",
            Self::TooManyFromClient => "too-many-from-client",
            Self::TooManyHandshakes => "too-many-handshakes",
            Self::ProxyHeaderMissing => "proxy-header-missing",
            Self::ProxyHeaderMalformed => "proxy-header-malformed",
            Self::ProxyHeaderTimeout => "proxy-header-timeout",
            Self::HandshakeTimeout => "handshake-timeout",
            Self::UnknownServerName => "unknown-server-name",
            Self::IdleTimeout => "idle-timeout",
        }
    }

    /// The clauses that refusing such a connection bears on.
    pub const fn clauses(self) -> &'static [&'static str] {
        match self {
            Self::Banned => &["O11", "O16"],
            Self::HandshakeTimeout | Self::UnknownServerName => &["C2"],
            Self::IdleTimeout => &[],
            _ => &["O16"],
        }
    }
}

#[cfg(test)]
mod tests;
