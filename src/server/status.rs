//! What `doorward status` reports.

use serde_json::{Value, json};

use super::Roof;

/// Generation, uptime, sites, upstream health, certificates and CRLs with days left, table sizes.
pub fn report(roof: &Roof) -> Value {
    let snapshot = roof.gateway.snapshot.load();
    let state = &roof.gateway.state;
    let now = roof.gateway.clock.now();
    let sites: Vec<Value> = snapshot
        .policy
        .sites
        .iter()
        .map(|site| {
            let routes: Vec<&str> = site.routes.iter().map(|route| &*route.label).collect();
            let hosts: Vec<String> = site.hosts.iter().map(ToString::to_string).collect();
            json!({ "hosts": hosts, "routes": routes })
        })
        .collect();
    let files: Vec<Value> = snapshot
        .tls
        .expiries()
        .into_iter()
        .map(|file| {
            let left = file.until.duration_since(now.wall).as_hours() / 24;
            json!({ "kind": file.kind, "path": file.path, "until": file.until, "days_left": left })
        })
        .collect();
    let bound = roof.bound();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": snapshot.generation,
        "uptime_seconds": now.instant.saturating_sub(roof.started.instant).as_secs(),
        "started": roof.started.wall,
        "config": roof.path,
        "policy": snapshot.policy.document,
        "workers": snapshot.config.workers,
        "listen": { "https": bound.https, "http": bound.http, "metrics": bound.metrics, "admin": bound.admin },
        "sites": sites,
        "upstreams": roof.upstreams.status(),
        "files": files,
        "tables": {
            "bans": state.bans.len(),
            "guesses": state.guesses.len(),
            "limits": state.limits.len(),
            "approvals": state.approvals.list().len(),
            "connections": roof.slots.open(),
        },
        "store": roof.store.describe(),
    })
}
