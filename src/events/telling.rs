//! The one match over [`Event`]: its name, weight and clauses, what it counts, what its line says.

use std::fmt::Display;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::{CertCause, Reason};

use super::{ConnectionCause, Event, GuessScope, LoginOutcome, RequestRecord, Severity};

/// How one event is told. Log and metrics both read it, so that neither can know an event the other does not.
pub(super) struct Telling<'a> {
    pub name: &'static str,
    pub severity: Severity,
    pub clauses: &'static [&'static str],
    pub count: Count<'a>,
    fields: [Option<(&'static str, Field<'a>)>; MOST_FIELDS],
}

/// What an event adds to the metrics.
pub(super) enum Count<'a> {
    Nothing,
    ConnectionRefused(ConnectionCause),
    ProtocolError,
    AcceptFailed,
    HandshakeFailed,
    CertificateRefused(CertCause),
    Guess(LoginOutcome),
    GuessRefused(GuessScope),
    BanMade,
    BanLifted,
    ExchangeEnded(Reason),
    LimitShadowed(&'a str),
    TableOverflow { table: &'static str, keys: u64 },
    ReloadFailed,
    Generation(u64),
    UpstreamUp { upstream: &'a str, server: &'a str, up: bool },
    StoreFailed,
}

/// One value of a line. Values are written only if the line is.
pub(super) enum Field<'a> {
    Text(&'a str),
    Shown(&'a dyn Display),
    Number(u64),
    Flag(bool),
    Time(Timestamp),
    Seconds(Duration),
    Texts(&'a [String]),
}

const MOST_FIELDS: usize = 9;

impl Event {
    /// Dotted and stable: scripts and alerts hold on to it.
    pub fn name(&self) -> &'static str {
        self.telling().name
    }

    pub fn severity(&self) -> Severity {
        self.telling().severity
    }

    /// Ids of the written policies' clauses that this event bears on.
    pub fn clauses(&self) -> &'static [&'static str] {
        self.telling().clauses
    }

    pub(super) fn telling(&self) -> Telling<'_> {
        use Severity::{Error, Info, Notice, Warning};
        match self {
            Self::ConnectionRefused { peer, client, cause } => {
                Telling::new("connection.refused", Notice, Count::ConnectionRefused(*cause))
                    .clauses(cause.clauses())
                    .shown("peer", peer)
                    .maybe_shown("client", client.as_ref())
                    .text("cause", cause.as_str())
            }
            Self::ProtocolError { client, cause } => Telling::new("protocol.error", Notice, Count::ProtocolError)
                .clauses(&["C9", "O5"])
                .shown("client", client)
                .text("cause", cause),
            Self::AdminRefused { uid, gid } => Telling::new("admin.refused", Warning, Count::Nothing)
                .clauses(&["O5"])
                .maybe_number("uid", uid.map(u64::from))
                .maybe_number("gid", gid.map(u64::from)),
            Self::AcceptFailed { error, pause } => Telling::new("accept.failed", Error, Count::AcceptFailed)
                .clauses(&["O16"])
                .text("error", error)
                .seconds("pause_seconds", *pause),
            Self::HandshakeFailed { client, sni, cause } => Telling::new("handshake.failed", Notice, Count::HandshakeFailed)
                .clauses(&["C2"])
                .shown("client", client)
                .maybe_text("sni", sni.as_deref())
                .text("cause", cause),
            Self::CertificateRefused { client, site, subject, issuer, cause, in_handshake } => {
                Telling::new("certificate.refused", Warning, Count::CertificateRefused(*cause))
                    .clauses(certificate_clauses(*cause))
                    .shown("client", client)
                    .text("site", site)
                    .text("subject", subject)
                    .text("issuer", issuer)
                    .text("cause", cause.as_str())
                    .flag("in_handshake", *in_handshake)
            }
            Self::LoginAttempt { decision, client, account, identity, outcome, repeat, late } => {
                Telling::new("login.attempt", if *outcome == LoginOutcome::Ok { Info } else { Notice }, Count::Guess(*outcome))
                    .clauses(&["O3", "O11"])
                    .shown("decision", decision)
                    .shown("client", &client.ip)
                    .shown("client_key", &client.key)
                    .text("account", account)
                    .maybe_text("identity", identity.as_deref())
                    .text("outcome", outcome_code(*outcome))
                    .flag("repeat", *repeat)
                    .flag("late", *late)
            }
            Self::GuessRefused { decision, client, account, scope } => {
                Telling::new("guess.refused", Notice, Count::GuessRefused(*scope))
                    .clauses(&["O11"])
                    .shown("decision", decision)
                    .shown("client", &client.ip)
                    .shown("client_key", &client.key)
                    .text("account", account)
                    .text("scope", scope.as_str())
            }
            Self::BanMade { ban, durable } => Telling::new("ban.made", if *durable { Warning } else { Error }, Count::BanMade)
                .clauses(&["O11", "O16"])
                .shown("key", &ban.key)
                .text("reason", &ban.reason)
                .number("count", u64::from(ban.count))
                .number("failures", u64::from(ban.failures))
                .time("since", ban.since)
                .time("until", ban.until)
                .text("by", &ban.by)
                .flag("durable", *durable),
            Self::BanLifted { key, by, reason } => Telling::new("ban.lifted", Notice, Count::BanLifted)
                .clauses(&["O11"])
                .shown("key", key)
                .text("by", by)
                .text("reason", reason),
            Self::GuessesCleared { key, failures, by, reason } => Telling::new("guesses.cleared", Notice, Count::Nothing)
                .clauses(&["O11"])
                .shown("key", key)
                .number("failures", u64::from(*failures))
                .text("by", by)
                .text("reason", reason),
            Self::ExchangeEnded { decision, client, identity, approval, route, reason, cause, tunnel } => {
                Telling::new("exchange.ended", Notice, Count::ExchangeEnded(*reason))
                    .clauses(&["C0a", "C7"])
                    .shown("decision", decision)
                    .shown("client", client)
                    .maybe_text("identity", identity.as_deref())
                    .maybe_text("approval", approval.as_deref())
                    .text("route", route)
                    .text("reason", reason.code())
                    .text("cause", cause)
                    .flag("tunnel", *tunnel)
            }
            Self::LimitShadowed { limit, route, client } => Telling::new("limit.shadowed", Info, Count::LimitShadowed(limit))
                .clauses(&["O1"])
                .text("limit", limit)
                .text("route", route)
                .shown("client", client),
            Self::TableOverflow { table, keys, into } => {
                Telling::new("table.overflow", Warning, Count::TableOverflow { table, keys: *keys })
                    .clauses(&["O16"])
                    .text("table", table)
                    .number("keys", *keys)
                    .text("into", into)
            }
            Self::ApprovalChanged { id, action, by, reason } => Telling::new("approval.changed", Notice, Count::Nothing)
                .clauses(if matches!(*action, "revoked" | "suspended") { &["C13", "C7"] } else { &["C13"] })
                .text("id", id)
                .text("action", action)
                .text("by", by)
                .maybe_text("reason", reason.as_deref()),
            Self::ConfigReloaded { generation, path, warnings } => {
                Telling::new("config.reloaded", Notice, Count::Generation(*generation))
                    .clauses(&["O14"])
                    .number("generation", *generation)
                    .path("path", path)
                    .texts("warnings", warnings)
            }
            Self::ReloadFailed { generation, errors } => Telling::new("config.refused", Error, Count::ReloadFailed)
                .clauses(&["O14"])
                .number("generation", *generation)
                .texts("errors", errors),
            Self::CrlExpiring { path, at } => {
                Telling::new("crl.expiring", Warning, Count::Nothing).clauses(&["C7"]).path("path", path).time("at", *at)
            }
            Self::CertificateExpiring { kind, path, at } => Telling::new("certificate.expiring", Warning, Count::Nothing)
                .clauses(if *kind == "client-ca" { &["C3ii"] } else { &["C2"] })
                .text("kind", kind)
                .path("path", path)
                .time("at", *at),
            Self::UpstreamState { upstream, server, healthy, cause } => {
                let count = Count::UpstreamUp { upstream, server, up: *healthy };
                Telling::new("upstream.state", if *healthy { Notice } else { Error }, count)
                    .text("upstream", upstream)
                    .text("server", server)
                    .flag("healthy", *healthy)
                    .text("cause", cause)
            }
            Self::StoreFailed { action, error } => Telling::new("store.failed", Error, Count::StoreFailed)
                .clauses(&["O11", "C13"])
                .text("action", action)
                .text("error", error),
            // The writer counts each failed write; this event tells the first of a run.
            Self::LogFailed { path, error } => {
                Telling::new("log.failed", Error, Count::Nothing).clauses(&["O17"]).text("path", path).text("error", error)
            }
            // The writer counts each line as it drops it; this event only says so.
            Self::LogDropped { lines } => {
                Telling::new("log.dropped", Error, Count::Nothing).clauses(&["O17"]).number("lines", *lines)
            }
            Self::Started { generation, version } => Telling::new("gateway.started", Notice, Count::Generation(*generation))
                .clauses(&["O14"])
                .number("generation", *generation)
                .text("version", version),
            Self::Draining { deadline } => {
                Telling::new("gateway.draining", Notice, Count::Nothing).seconds("deadline_seconds", *deadline)
            }
            Self::Stopped { cut } => Telling::new("gateway.stopped", Notice, Count::Nothing).number("cut", *cut as u64),
        }
    }
}

impl RequestRecord {
    pub(super) fn severity(&self) -> Severity {
        match (self.reason, self.status) {
            (_, 500..) => Severity::Warning,
            (Some(_), _) => Severity::Notice,
            (None, _) => Severity::Info,
        }
    }
}

impl<'a> Telling<'a> {
    fn new(name: &'static str, severity: Severity, count: Count<'a>) -> Self {
        Self { name, severity, clauses: &[], count, fields: [const { None }; MOST_FIELDS] }
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &Field<'a>)> {
        self.fields.iter().flatten().map(|(key, field)| (*key, field))
    }

    fn clauses(mut self, clauses: &'static [&'static str]) -> Self {
        self.clauses = clauses;
        self
    }

    fn field(mut self, key: &'static str, field: Field<'a>) -> Self {
        let free = self.fields.iter_mut().find(|slot| slot.is_none());
        debug_assert!(free.is_some(), "{} has more fields than MOST_FIELDS", self.name);
        if let Some(slot) = free {
            *slot = Some((key, field));
        }
        self
    }

    fn text(self, key: &'static str, value: &'a str) -> Self {
        self.field(key, Field::Text(value))
    }

    fn maybe_text(self, key: &'static str, value: Option<&'a str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    fn maybe_number(self, key: &'static str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(key, value),
            None => self,
        }
    }

    fn texts(self, key: &'static str, value: &'a [String]) -> Self {
        self.field(key, Field::Texts(value))
    }

    fn path(self, key: &'static str, value: &'a std::path::Path) -> Self {
        match value.to_str() {
            Some(value) => self.text(key, value),
            None => self.text(key, "(not UTF-8)"),
        }
    }

    fn shown(self, key: &'static str, value: &'a dyn Display) -> Self {
        self.field(key, Field::Shown(value))
    }

    fn maybe_shown<T: Display>(self, key: &'static str, value: Option<&'a T>) -> Self {
        match value {
            Some(value) => self.shown(key, value),
            None => self,
        }
    }

    fn number(self, key: &'static str, value: u64) -> Self {
        self.field(key, Field::Number(value))
    }

    fn flag(self, key: &'static str, value: bool) -> Self {
        self.field(key, Field::Flag(value))
    }

    fn time(self, key: &'static str, value: Timestamp) -> Self {
        self.field(key, Field::Time(value))
    }

    fn seconds(self, key: &'static str, value: Duration) -> Self {
        self.field(key, Field::Seconds(value))
    }
}

/// The outcome's name in lines and metrics.
pub(super) const fn outcome_code(outcome: LoginOutcome) -> &'static str {
    match outcome {
        LoginOutcome::Ok => "ok",
        LoginOutcome::Failed => "failed",
        LoginOutcome::Fault => "fault",
        LoginOutcome::Unsent => "unsent",
    }
}

const fn certificate_clauses(cause: CertCause) -> &'static [&'static str] {
    match cause {
        CertCause::Revoked | CertCause::StatusUnknown | CertCause::CrlExpired => &["C3ii", "C7"],
        _ => &["C3ii"],
    }
}
