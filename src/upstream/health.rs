//! Active checks: one task a server that has a `health`, over a connection of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::{HealthSpec, UpstreamTimeouts};

use super::connect::{Failure, dial};
use super::server::Server;
use super::{Upstreams, Watched, outgoing};

/// Keeps one task for each committed server that is to be checked, until cancelled.
pub(super) async fn run(upstreams: &Upstreams, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<u64, (HealthSpec, UpstreamTimeouts, AbortHandle)> = HashMap::new();
    loop {
        let live: Vec<Watched> = upstreams.registry().live.clone();
        running.retain(|id, (spec, timeouts, task)| {
            let keeps = live.iter().any(|watched| {
                watched.server.id == *id && watched.health.as_ref() == Some(spec) && watched.timeouts == *timeouts
            });
            if !keeps {
                task.abort();
            }
            keeps
        });
        for Watched { server, health, timeouts } in live {
            let Some(spec) = health else { continue };
            running.entry(server.id).or_insert_with(|| {
                let task = tasks.spawn(watch(server.clone(), spec.clone(), timeouts.clone()));
                (spec, timeouts, task)
            });
        }
        // Reaps what was aborted; a set without tasks would answer at once, for ever.
        tokio::select! {
            () = stop.cancelled() => return,
            () = upstreams.changed.notified() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn watch(server: Arc<Server>, spec: HealthSpec, timeouts: UpstreamTimeouts) {
    let limit = spec.every.min(timeouts.connect.saturating_add(timeouts.response));
    // An interval of nothing panics; the config refuses it, this only keeps the promise.
    let mut ticks = tokio::time::interval(spec.every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = match tokio::time::timeout(limit, check(&server, &spec.path, timeouts.connect.min(limit))).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer to the health check within {limit:?}")),
        };
        server.checked(outcome);
    }
}

/// One check: `GET path` is answered by 2xx or 3xx.
async fn check(server: &Server, path: &str, connect: Duration) -> Result<(), String> {
    let wire = dial(server, false, connect, None).await?;
    let request = Request::get(path)
        .header(HOST, &server.authority)
        .header(USER_AGENT, HeaderValue::from_static("doorward-health"))
        .header(ACCEPT, HeaderValue::from_static("*/*"))
        .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
        .map_err(|error| format!("the health check's path: {error}"))?;
    let (request, _) = outgoing::wrap(request);
    match wire.exchange(server, Box::new(request)).await {
        Ok(response) if response.status().is_success() || response.status().is_redirection() => Ok(()),
        Ok(response) => Err(format!("the health check was answered {}", response.status())),
        Err(Failure::Unsent(_, cause) | Failure::Unprocessed(cause) | Failure::Sent(cause)) => Err(cause),
    }
}
