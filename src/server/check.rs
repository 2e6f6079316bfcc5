//! `check`: all of what a start would check, binding and creating nothing; fine beside a live gateway.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config, Diagnostic, Diagnostics, Span};
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
    found.list.extend(names(&config));
    if found.has_errors() { Err(found) } else { Ok((Arc::new(config), found)) }
}

fn state(config: &Config) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let here = Span::default();
    if let Err(error) = EmbeddedStore::check(&config.state_dir) {
        found.push(Diagnostic::error(error.to_string(), &here));
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
                Diagnostic::warning(format!("approval {id} would be suspended: its signatures no longer suffice"), &here)
                    .help("keep its signers in `approvals.signer`, or have it signed anew")
            })),
            Err(error) => found.push(Diagnostic::error(error.to_string(), &here)),
        },
        Err(error) => found.push(Diagnostic::error(error.to_string(), &here)),
    }
    found
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
