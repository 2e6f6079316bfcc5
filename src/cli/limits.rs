//! `limits`: what callers have left, and which rule decides. Spends nothing.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::client::Gateway;
use super::{Outcome, output};
use crate::admin::api::{ExplainLimits, Explained, GuessesLeft};
use crate::admin::times;
use crate::state::limits::LimitView;

pub(super) const EXAMPLES: &str = "Examples:
  doorward limits show
  doorward limits explain --client 203.0.113.7 --path /orders/17
  doorward limits explain --client 203.0.113.7 --path /api/ --method POST \\
      --identity acme:sync

Neither spends anything.";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The most-used keys of every limit
    Show {
        /// How many keys of each limit
        #[arg(long, value_name = "N", default_value_t = 20)]
        most: u32,
        #[command(flatten)]
        format: output::Format,
    },
    /// How a request would fare now: bans, certificate and approval, guesses, every limit in order, and the rule that decides
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    client: IpAddr,
    /// The request's path
    #[arg(long)]
    path: String,
    /// The host; may be left out where there is only one
    #[arg(long)]
    host: Option<String>,
    /// The method; GET where it is left out
    #[arg(long)]
    method: Option<String>,
    /// A proven caller, SET:NAME, or the bare name where one set vouches
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The id of an approval whose token would be presented
    #[arg(long, value_name = "ID")]
    approval: Option<String>,
    /// The account that a login attempt would name
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    format: output::Format,
}

pub(super) fn execute(command: Command, gateway: &Gateway) -> Outcome {
    match command {
        Command::Show { most, format } => {
            let limits: Vec<LimitView> = gateway.get(&format!("/limits?most={most}"))?;
            if format.json {
                output::json(&limits)?;
            } else if limits.is_empty() {
                output::message("no limit has been used");
            } else {
                output::data(&table(&limits))?;
            }
        }
        Command::Explain(args) => {
            let format = args.format;
            let explained: Explained = gateway.post("/limits/explain", &args.question())?;
            if format.json { output::json(&explained)? } else { output::data(&sentences(&explained))? }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ExplainArgs {
    fn question(self) -> ExplainLimits {
        let Self { client, path, host, method, identity, approval, account, format: _ } = self;
        ExplainLimits { client: client.to_string(), path, host, method, identity, approval, account }
    }
}

fn table(limits: &[LimitView]) -> String {
    let row = |limit: &LimitView| {
        [
            limit.limit.clone(),
            limit.key.clone(),
            limit.mode.clone(),
            limit.rate.clone(),
            format!("{}/{}", limit.remaining, limit.burst),
            wait(limit.wait_ms),
        ]
    };
    output::table(["LIMIT", "KEY", "MODE", "RATE", "LEFT", "NEXT"], limits.iter().map(row))
}

fn wait(milliseconds: u64) -> String {
    if milliseconds == 0 {
        "now".to_owned()
    } else {
        format!("in {}", times::human(Duration::from_millis(milliseconds.saturating_add(999))))
    }
}

fn sentences(explained: &Explained) -> String {
    let request = format!("{} https://{}{} from {}", explained.method, explained.host, explained.path, explained.client);
    let mut text = format!("{}\n\n", output::printable(&explained.verdict));
    text.push_str(&format!("request  {}\n", output::printable(&request)));
    text.push_str(&format!("route    {}\n", output::printable(explained.route.as_deref().unwrap_or("none"))));
    for ban in &explained.bans {
        let note = if ban.holds { "" } else { ", does not hold this request" };
        text.push_str(&format!("ban      of the {}, {}{note}\n", ban.of, output::end(ban.until)));
    }
    text.push_str(&format!("guesses  {}\n", left(&explained.guesses)));
    if let Some(account) = &explained.account_guesses {
        text.push_str(&format!("account  {}\n", left(account)));
    }
    if !explained.limits.is_empty() {
        text.push_str(&format!("\n{}\n", table(&explained.limits)));
    }
    text
}

fn left(guesses: &GuessesLeft) -> String {
    let GuessesLeft { failed, reserved, limit, left } = guesses;
    format!("{left} of {limit} left ({failed} failed, {reserved} under way or faulted)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::BanHeld;

    #[test]
    fn the_verdict_comes_first_and_the_limits_in_order() {
        let limit = |name: &str, remaining| LimitView {
            limit: name.into(),
            key: "203.0.113.7".into(),
            mode: "enforce".into(),
            rate: "120/min".into(),
            burst: 40,
            remaining,
            wait_ms: 0,
        };
        let explained = Explained {
            client: "203.0.113.7".into(),
            method: "GET".into(),
            host: "portal.example.com".into(),
            path: "/orders/17".into(),
            route: Some("portal.example.com/".into()),
            decides: Some("per-client".into()),
            passes: true,
            verdict: "no limit refuses it: per-client is nearest, 3 of 40 left".into(),
            bans: vec![BanHeld { of: "client".into(), until: None, holds: false }],
            guesses: GuessesLeft { failed: 2, reserved: 1, limit: 5, left: 2 },
            account_guesses: Some(GuessesLeft { failed: 50, reserved: 0, limit: 50, left: 0 }),
            limits: vec![limit("per-identity", 9), limit("per-client", 3)],
        };
        let text = sentences(&explained);
        assert!(text.starts_with("no limit refuses it: per-client"), "{text}");
        assert!(text.contains("guesses  2 of 5 left (2 failed, 1 under way or faulted)"), "{text}");
        assert!(text.contains("account  0 of 50 left (50 failed, 0 under way or faulted)"), "{text}");
        assert!(text.contains("does not hold this request"), "{text}");
        assert!(text.find("per-identity").unwrap() < text.rfind("per-client").unwrap(), "{text}");
    }

    #[test]
    fn waits_are_never_rounded_to_now() {
        assert_eq!(wait(0), "now");
        assert_eq!(wait(1), "in 1s");
        assert_eq!(wait(1001), "in 2s");
    }
}
