//! `run`, `check`, `reload`: the gateway itself and its file.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::client::Gateway;
use super::{Failure, Outcome, output};
use crate::admin::api::Reloaded;
use crate::config::{Config, Diagnostics};
use crate::server::{self, Fault, Options, StartError};

#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    format: output::Format,
}

pub(super) fn run(config: &Path) -> Outcome {
    match server::run(config, Options { process: true, ..Options::default() }) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(StartError::Config(diagnostics)) => Err(Failure::Config(diagnostics.render(output::colour()))),
        Err(StartError::Address(diagnostics)) => Err(Failure::Failed(diagnostics.render(output::colour()))),
        Err(StartError::Io(error)) => Err(Failure::Failed(error)),
    }
}

pub(super) fn check(path: &Path, args: &CheckArgs) -> Outcome {
    let checked = server::check(path);
    let (good, diagnostics) = match &checked {
        Ok((_, warnings)) => (true, warnings),
        Err(refused) => (false, &refused.found),
    };
    if args.format.json {
        output::json(&json!({ "ok": good, "file": path.display().to_string(), "diagnostics": diagnostics.to_json() }))?;
    } else if !diagnostics.list.is_empty() {
        output::message(&diagnostics.render(output::colour()));
    }
    match &checked {
        Ok((config, warnings)) if !args.format.json => output::data(&summary(path, config, warnings))?,
        Ok(_) => {}
        // The diagnostics are the message: nothing is left to be said.
        Err(refused) => return Ok(failure(refused.fault).exit()),
    }
    Ok(ExitCode::SUCCESS)
}

/// So that `check` ends as `run` would.
fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Config => Failure::Config(String::new()),
        Fault::State => Failure::Failed(String::new()),
    }
}

pub(super) fn reload(gateway: &Gateway) -> Outcome {
    let reloaded: Reloaded = gateway.post("/reload", &json!({}))?;
    if !reloaded.warnings.is_empty() {
        output::message(&printable_lines(&reloaded.warnings.join("\n\n")));
    }
    output::data(&format!("generation {}", reloaded.generation))?;
    output::message(&format!("{} is live", output::printable(&reloaded.path)));
    Ok(ExitCode::SUCCESS)
}

/// Line by line, for a finding is shown with its place below it.
fn printable_lines(text: &str) -> String {
    text.lines().map(output::printable).collect::<Vec<_>>().join("\n")
}

fn summary(path: &Path, config: &Config, warnings: &Diagnostics) -> String {
    let sites = config.policy.sites.iter().count();
    let routes = config.policy.sites.iter().map(|site| site.routes.len()).sum();
    let parts = [
        count(sites, "site"),
        count(routes, "route"),
        count(config.upstreams.len(), "upstream"),
        count(config.tls.certificates.len(), "certificate"),
        count(config.client_cas.len(), "client CA set"),
        count(config.policy.limits.len(), "limit"),
        count(warnings.list.len(), "warning"),
    ];
    format!("{} is good: {}", path.display(), parts.join(", "))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grammatical() {
        assert_eq!(count(1, "site"), "1 site");
        assert_eq!(count(0, "warning"), "0 warnings");
    }
}
