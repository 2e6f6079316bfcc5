//! `check`: all of what a start would check, binding and creating nothing; fine beside a live gateway.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, Diagnostic, Diagnostics, LogTarget, Span};
use crate::events;
use crate::state::approvals::{Approvals, TokenKey};
use crate::state::store::embedded::EmbeddedStore;
use crate::tls::TlsState;
use crate::upstream;

/// All upstream names together have this long to resolve.
const RESOLVE: Duration = Duration::from_secs(5);

/// `Ok` carries warnings; `Err` carries every error and the warnings.
pub fn check(path: &Path) -> Result<(Arc<Config>, Diagnostics), Diagnostics> {
    let (config, mut found) = config::load(path)?;
    if let Err(errors) = TlsState::prepare(&config, None) {
        found.list.extend(errors);
    }
    found.list.extend(state(&config));
    found.list.extend(files_to_make(&config));
    found.list.extend(names(&config));
    if found.has_errors() { Err(found) } else { Ok((Arc::new(config), found)) }
}

fn state(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let here = &config.places.state_dir;
    if let Err(error) = EmbeddedStore::check(&config.state_dir) {
        found.push(Diagnostic::error(error.to_string(), here));
        return found;
    }
    let key = &config.approvals_key;
    if key.value.exists()
        && let Err(error) = TokenKey::load(&key.value, false)
    {
        found.push(Diagnostic::error(error, &key.span));
    }
    match EmbeddedStore::open_read_only(&config.state_dir) {
        Ok(None) => {}
        Ok(Some(store)) => match Approvals::would_suspend(&store, &config.policy.approvals) {
            Ok(ids) => found.extend(ids.into_iter().map(|id| {
                Diagnostic::warning(
                    format!("approval {id} would be suspended: its signatures no longer suffice"),
                    &Span::default(),
                )
                .help("keep its signers in `approvals.signer`, or have it signed anew")
            })),
            Err(error) => found.push(Diagnostic::error(error.to_string(), here)),
        },
        Err(error) => found.push(Diagnostic::error(error.to_string(), here)),
    }
    found
}

/// Log files and the admin socket, which a start would open or make. Makes nothing.
fn files_to_make(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let (log, places) = (&config.log, &config.places);
    for (key, target, span) in [("log.access", &log.access, &places.log_access), ("log.events", &log.events, &places.log_events)]
    {
        let LogTarget::File(path) = target else { continue };
        let opened = if path.exists() { events::probe(path).map_err(|error| error.to_string()) } else { room_for(path, config) };
        if let Err(fault) = opened {
            let help = "make its folder writable for the gateway";
            found.push(Diagnostic::error(format!("`{key}`: {fault}"), span).help(help));
        }
    }
    let admin = &config.listen.admin;
    if !admin.exists()
        && let Err(fault) = room_for(admin, config)
    {
        found.push(Diagnostic::error(format!("`listen.admin`: {fault}"), &places.admin).help("name a folder that is there"));
    }
    found
}

/// Whether a file could be made there. `state_dir` is made by a start, and its own check has looked at it.
fn room_for(path: &Path, config: &Config) -> Result<(), String> {
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Err(format!("{}: is no file", path.display())),
    };
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
