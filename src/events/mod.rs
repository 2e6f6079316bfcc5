//! What happened, told once: one [`Event`], one fan-out to access log, event log and metrics.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::Log;
use crate::net::ClientAddr;
use crate::policy::ban::{Ban, BanKey};
use crate::policy::login::LoginOutcome;
use crate::policy::{CertCause, Name, Reason, RouteId};

/// A decision's id: 128 bits, time-ordered, printed as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionId(pub u128);

/// Everything that the gateway tells. One match in the fan-out feeds log and metric together.
#[derive(Debug)]
pub enum Event {
    /// One per request: access log and request metrics.
    Request(Box<RequestRecord>),
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
    /// Limits in shadow that would have refused.
    LimitShadowed {
        limit: Name,
        route: Name,
        client: IpAddr,
    },
    /// A bounded table folded or refused a key.
    TableOverflow {
        table: &'static str,
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
    },
    ReloadFailed {
        generation: u64,
        errors: Vec<String>,
    },
    /// A watched file could not be read or parsed; the old one lives on.
    FileKept {
        path: PathBuf,
        error: String,
    },
    CrlExpiring {
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
    TooManyFromClient,
    TooManyHandshakes,
    ProxyHeaderMissing,
    ProxyHeaderMalformed,
    ProxyHeaderForbidden,
    ProxyHeaderTimeout,
    HandshakeTimeout,
    UnknownServerName,
    IdleTimeout,
    Draining,
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
    /// Canonical host; empty when there was none.
    pub host: String,
    /// Canonical path without its query; what was refused as not canonical is logged escaped and capped.
    pub path: String,
    pub version: http::Version,
    pub route: Option<(RouteId, Name)>,
    /// 0: the client left before an answer.
    pub status: u16,
    pub reason: Option<Reason>,
    /// Private cause of a refusal.
    pub cause: Option<String>,
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
    pub user_agent: Option<String>,
    /// Without its query.
    pub referer: Option<String>,
}

/// The fan-out. Cheap to clone; never blocks a worker.
#[derive(Clone)]
pub struct Events {
    // the events helper's to fill
}

impl Events {
    /// Opens the logs and starts the writer thread. Errors name the file.
    pub fn open(_log: &Log) -> std::io::Result<Self> {
        todo!("events")
    }

    /// For tests and the demo: every event also goes to the channel.
    pub fn with_tap(&self, _tap: tokio::sync::mpsc::UnboundedSender<String>) -> Self {
        todo!("events")
    }

    /// Discards everything.
    pub fn sink() -> Self {
        todo!("events")
    }

    /// Tells one event. Never blocks: access lines are dropped and counted when the writer is behind, security events are
    /// kept in memory up to a bound and counted when that is reached.
    pub fn emit(&self, _event: Event) {
        todo!("events")
    }

    /// Reopens log files (USR1).
    pub fn reopen(&self) {
        todo!("events")
    }

    /// Switches targets and format after a reload; an error leaves the old ones.
    pub fn reconfigure(&self, _log: &Log) -> std::io::Result<()> {
        todo!("events")
    }

    /// Writes out what is queued; bounded by the deadline.
    pub fn flush(&self, _deadline: Duration) {
        todo!("events")
    }

    /// The metrics registry.
    pub fn metrics(&self) -> &metrics::Metrics {
        todo!("events")
    }
}

pub mod metrics {
    //! Prometheus handles, resolved once; bounded labels (route, class, reason), never an address, path or user.

    pub struct Metrics {}

    impl Metrics {
        /// Registers the routes of a new snapshot, so that `Request` events find their handles by `RouteId`.
        pub fn routes(&self, _generation: u64, _labels: &[super::Name]) {
            todo!("events")
        }

        /// Sets a gauge family: `kind` is `certificate` or `crl`, label is the file's path, value its expiry (unix seconds).
        pub fn expiry(&self, _kind: &'static str, _file: &str, _unix_seconds: i64) {
            todo!("events")
        }

        /// Sets the size of a bounded table (`bans`, `guesses`, `limits`, `connections`).
        pub fn table(&self, _name: &'static str, _size: usize) {
            todo!("events")
        }

        /// Prometheus text format (OpenMetrics as prometheus-client writes it).
        pub fn render(&self) -> String {
            todo!("events")
        }
    }
}
