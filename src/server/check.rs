//! `check`: all of what a start would check, binding and creating nothing; fine beside a live gateway.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Diagnostics, LogTarget, Span};
use crate::events;
use crate::policy::Policy;
use crate::state::accounts::Successes;
use crate::state::approvals::{Approvals, TokenKey};
use crate::state::bans::BanTable;
use crate::state::store::embedded::EmbeddedStore;
use crate::state::store::{Store, StoreError};
use crate::tls::TlsState;
use crate::upstream;

use super::expiry;
use super::prepare::cannot_open_admin;

/// All upstream names together have this long to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// Why a start would fail.
#[derive(Debug)]
pub struct Refused {
    /// Every error and the warnings.
    pub found: Diagnostics,
    pub fault: Fault,
}

/// What a start would stumble over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file or what it names. Exit status 78.
    Config,
    /// What the gateway keeps: its store and the key of its tokens. Exit status 1.
    State,
}

/// `Ok` carries warnings.
pub fn check(path: &Path) -> Result<(Arc<Config>, Diagnostics), Refused> {
    let (config, mut found) = config::load(path).map_err(|found| Refused { found, fault: Fault::Config })?;
    found.list.extend(match TlsState::prepare(&config, None) {
        Ok(tls) => expiry::warnings(&config, tls.expiries(), Clock::system().now().wall),
        Err(errors) => errors,
    });
    let good = !found.has_errors();
    found.list.extend(state(&config));
    let fault = if good && found.has_errors() { Fault::State } else { Fault::Config };
    found.list.extend(files_to_make(&config, fault));
    found.list.extend(names(&config));
    if found.has_errors() { Err(Refused { found, fault }) } else { Ok((Arc::new(config), found)) }
}

fn state(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let here = &config.places.state_dir;
    if let Err(error) = EmbeddedStore::check(&config.state_dir) {
        found.push(Diagnostic::error(error.to_string(), here));
        return found;
    }
    let key = &config.approvals_key;
    let loaded = if key.value.exists() {
        TokenKey::load(&key.value, false).map(drop)
    } else {
        room_for(&key.value, config).map_err(|fault| format!("{}: {fault}", key.value.display()))
    };
    if let Err(error) = loaded {
        found.push(Diagnostic::error(error, &key.span));
    }
    match EmbeddedStore::open_read_only(&config.state_dir) {
        Ok(None) => {}
        Ok(Some(store)) => match readable(Arc::new(store), &config.policy) {
            Ok(ids) => found.extend(ids.iter().map(|id| suspends(id, "would be"))),
            Err(error) => found.push(Diagnostic::error(error.to_string(), here)),
        },
        Err(error) => found.push(Diagnostic::error(error.to_string(), here)),
    }
    found
}

/// Of an approval that these signers do not carry.
pub(super) fn suspends(id: &str, is: &str) -> Diagnostic {
    Diagnostic::warning(format!("approval {id} {is} suspended: its signatures no longer suffice"), &Span::default()).help(
        "keep its signers in `approvals.signer`, or have it signed anew; once suspended it comes back by `doorward approvals \
         activate` alone, with a new token",
    )
}

/// Reads every row as a start would; returns the approvals that it would suspend.
fn readable(store: Arc<dyn Store>, policy: &Policy) -> Result<Vec<String>, StoreError> {
    let now = Clock::system().now();
    BanTable::load(Arc::clone(&store), &policy.bans, now)?;
    Successes::load(Arc::clone(&store), now)?;
    Approvals::would_suspend(&*store, &policy.approvals)
}

/// Log files and the admin socket, which a start would open or make. Makes nothing.
fn files_to_make(config: &Config, fault: Fault) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    // Of a state folder that is at fault everything in it is told already.
    let room = |path: &Path| match folder_of(path) {
        Some(folder) if fault == Fault::State && folder == config.state_dir => Ok(()),
        _ => room_for(path, config),
    };
    let (log, places) = (&config.log, &config.places);
    for (key, target, span) in [("log.access", &log.access, &places.log_access), ("log.events", &log.events, &places.log_events)]
    {
        let LogTarget::File(path) = target else { continue };
        let opened = if path.exists() { events::probe(path).map_err(|error| error.to_string()) } else { room(path) };
        if let Err(fault) = opened {
            let help = "create its folder, or make it writable for the gateway";
            found.push(Diagnostic::error(format!("`{key}`: {fault}"), span).help(help));
        }
    }
    let admin = &config.listen.admin;
    let bindable = match std::fs::symlink_metadata(admin) {
        // A live gateway's or a stale one.
        Ok(there) if there.file_type().is_socket() => Ok(()),
        Ok(_) => Err(format!("{}: is there already and is no socket", admin.display())),
        Err(_) => room(admin),
    };
    found.extend(bindable.err().map(|fault| cannot_open_admin(config, fault)));
    found
}

/// Whether a file could be made there. `state_dir` is made by a start, and its own check has looked at it.
fn room_for(path: &Path, config: &Config) -> Result<(), String> {
    let Some(folder) = folder_of(path) else { return Err(format!("{}: is no file", path.display())) };
    if folder == config.state_dir && !folder.exists() {
        return Ok(());
    }
    match std::fs::metadata(folder) {
        Err(error) => Err(format!("{}: {error}", folder.display())),
        Ok(found) if !found.is_dir() => Err(format!("{} is no folder", folder.display())),
        // A file without a name: it is gone before anybody could see it.
        Ok(_) => tempfile::tempfile_in(folder).map(drop).map_err(|error| format!("{}: {error}", folder.display())),
    }
}

fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

fn names(config: &Config) -> Vec<Diagnostic> {
    upstream::resolve_all(&config.upstreams, RESOLVE)
        .into_iter()
        .filter_map(|(upstream, server, error)| {
            let spec = config.upstreams.get(upstream)?;
            let url = spec.servers.get(server)?;
            let message = format!("upstream `{}`: {}: {error}", spec.name, url.value.host);
            Some(
                Diagnostic::warning(message, &url.span)
                    .help("a start would go on, with this server down until the name resolves"),
            )
        })
        .collect()
}
