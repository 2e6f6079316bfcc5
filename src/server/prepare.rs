//! `prepare`: everything that can fail, done before anything live is touched.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::watch::Prints;
use super::{Roof, expiry};
use crate::config::{self, Config, Diagnostic, Diagnostics, Located};
use crate::gateway::listener::{self, ListenerKind, Sockets};
use crate::tls::{self, TlsState};
use crate::upstream::Upstream;

/// A config made ready: once it is bound, everything that can fail has been done, and nothing live was touched.
pub(super) struct Prepared {
    pub config: Arc<Config>,
    pub tls: Arc<TlsState>,
    pub upstreams: Vec<Arc<Upstream>>,
    pub sockets: Vec<(SocketAddr, Sockets)>,
    pub metrics: Option<(SocketAddr, TcpListener)>,
    /// The config and the files it names, as they were before they were read.
    pub read: Prints,
}

impl Prepared {
    /// Loads and checks everything behind a config, and binds nothing: it may be done twice at once. Fails closed: with any error
    /// nothing comes of it.
    pub fn load(path: &Path, live: Option<&Roof>, wall: Timestamp) -> Result<(Self, Diagnostics), Diagnostics> {
        let mut read = Prints::of(live.map_or_else(|| vec![path.to_path_buf()], Roof::files));
        let (mut config, mut found) = config::load(path)?;
        if read.add(&config.signer_keys) {
            // Keys named anew were read before anybody could look at them.
            (config, found) = config::load(path)?;
        }
        read.add(&tls::files_of(&config));
        let config = Arc::new(config);
        let snapshot = live.map(|roof| roof.gateway.snapshot.load_full());
        if let Some(snapshot) = &snapshot {
            found.list.extend(needs_restart(&snapshot.config, &config));
        }
        let tls = match TlsState::prepare(&config, snapshot.as_ref().map(|snapshot| &*snapshot.tls)) {
            Ok(tls) => {
                found.list.extend(expiry::warnings(&config, tls.expiries(), wall));
                Some(Arc::new(tls))
            }
            Err(errors) => {
                found.list.extend(errors);
                None
            }
        };
        if live.is_some() {
            found.list.extend(probe_logs(&config));
        }
        let (Some(tls), false) = (tls, found.has_errors()) else { return Err(found) };
        let prepared = Self { config, tls, upstreams: Vec::new(), sockets: Vec::new(), metrics: None, read };
        Ok((prepared, found))
    }

    /// Binds what is not open yet; `found` so far is handed on. With any error nothing stays bound.
    pub fn bind(mut self, mut found: Diagnostics, live: Option<&Roof>) -> Result<(Self, Diagnostics), Diagnostics> {
        let doors = live.map(|roof| roof.doors());
        let mut errors = Vec::new();
        for (at, kind) in wanted(&self.config) {
            if doors.as_ref().is_some_and(|doors| doors.open.contains_key(&(at.value, kind))) {
                continue;
            }
            // A port that is ours already may move between addresses and kinds.
            let port = at.value.port();
            let ours = doors.as_ref().is_some_and(|doors| doors.open.values().any(|door| door.bound.port() == port));
            let vacant = if ours { Ok(()) } else { listener::vacant(at.value) };
            match vacant.and_then(|()| listener::bind(at.value, kind, self.config.workers)) {
                Ok(sockets) => self.sockets.push((at.value, sockets)),
                Err(error) => {
                    let metrics = doors.as_ref().and_then(|doors| doors.metrics.as_ref()).map(|(_, bound, _)| *bound);
                    let own = metrics.filter(|bound| overlap(*bound, at.value)).map(|_| "metrics");
                    errors.push(cannot_bind(at, &error, own));
                }
            }
        }
        if let Some(at) = &self.config.listen.metrics {
            let open = doors.as_ref().and_then(|doors| doors.metrics.as_ref()).map(|(asked, ..)| *asked);
            if open != Some(at.value) {
                match TcpListener::bind(at.value).and_then(|socket| socket.set_nonblocking(true).map(|()| socket)) {
                    Ok(socket) => self.metrics = Some((at.value, socket)),
                    Err(error) => {
                        let mut open = doors.iter().flat_map(|doors| &doors.open);
                        let own = open.find(|(_, door)| overlap(door.bound, at.value)).map(|((_, kind), _)| match kind {
                            ListenerKind::Https => "https",
                            ListenerKind::PlainHttp => "http",
                        });
                        errors.push(cannot_bind(at, &error, own));
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok((self, found));
        }
        found.list.extend(errors);
        Err(found)
    }
}

/// Every address of the config with what is served there.
pub(super) fn wanted(config: &Config) -> impl Iterator<Item = (&Located<SocketAddr>, ListenerKind)> {
    let https = config.listen.https.iter().map(|at| (at, ListenerKind::Https));
    https.chain(config.listen.http.iter().map(|at| (at, ListenerKind::PlainHttp)))
}

/// What a running gateway cannot take over.
fn needs_restart(live: &Config, new: &Config) -> Vec<Diagnostic> {
    // A default of the state folder moves with it, which is told once.
    let moved = |span: &crate::config::Span| span.is_default() && live.state_dir != new.state_dir;
    let changed = [
        ("workers", live.workers != new.workers, &new.places.workers),
        ("state_dir", live.state_dir != new.state_dir, &new.places.state_dir),
        ("listen.admin", live.listen.admin != new.listen.admin, &new.places.admin),
        ("approvals.key", live.approvals_key.value != new.approvals_key.value, &new.approvals_key.span),
    ];
    changed
        .into_iter()
        .filter(|(key, differs, span)| *differs && (*key == "state_dir" || !moved(span)))
        .map(|(key, _, span)| {
            Diagnostic::error(format!("`{key}` cannot change while the gateway runs"), span)
                .help("restart the gateway to take it over, or set it back")
        })
        .collect()
}

/// Log files that could not be opened, found before anything is swapped.
pub(super) fn probe_logs(config: &Config) -> Vec<Diagnostic> {
    let (log, places) = (&config.log, &config.places);
    let targets = [("log.access", &log.access, &places.log_access), ("log.events", &log.events, &places.log_events)];
    targets
        .into_iter()
        .filter_map(|(key, target, span)| {
            let config::LogTarget::File(path) = target else { return None };
            let error = crate::events::probe(path).err()?;
            let message = format!("`{key}`: {error}");
            Some(Diagnostic::error(message, span).help("create its folder, or make it writable for the gateway"))
        })
        .collect()
}

pub(super) fn cannot_open_admin(config: &Config, fault: impl std::fmt::Display) -> Diagnostic {
    let help = "name a folder that is there and writable for the gateway";
    Diagnostic::error(format!("`listen.admin`: {fault}"), &config.places.admin).help(help)
}

/// By a gateway that answers there: its message has the cure.
pub(super) fn admin_is_taken(config: &Config, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(format!("`listen.admin`: {error}"), &config.places.admin)
}

/// Whether who listens on the one may be in the way of the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let anywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (anywhere || one.ip() == other.ip())
}

/// `own`: as what this gateway listens there itself. It gives the address up only once the new config is live.
fn cannot_bind(at: &Located<SocketAddr>, error: &std::io::Error, own: Option<&str>) -> Diagnostic {
    let help = match (error.kind(), own) {
        (std::io::ErrorKind::AddrInUse, Some(own)) => {
            format!("this gateway listens there itself (as {own}): change it in two reloads, the first without it, or restart")
        }
        (std::io::ErrorKind::AddrInUse, None) => "another program listens there: stop it or choose another port".to_owned(),
        (std::io::ErrorKind::PermissionDenied, _) => "ports under 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        (std::io::ErrorKind::AddrNotAvailable, _) => "no interface of this host has that address".to_owned(),
        _ => "choose another address".to_owned(),
    };
    Diagnostic::error(format!("cannot listen on {}: {error}", at.value), &at.span).help(help)
}
