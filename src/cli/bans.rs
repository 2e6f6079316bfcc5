//! `bans`: who is banned, why and until when.

use std::process::ExitCode;

use super::client::Gateway;
use super::{Outcome, output};
use crate::admin::api::{AddBan, BanView, LiftBan, Lifted};
use crate::admin::times;
use crate::clock::Clock;

pub(super) const EXAMPLES: &str = "Examples:
  doorward bans list
  doorward bans show 203.0.113.7
  doorward bans add 203.0.113.7 --for 2h --reason \"abuse report 4711\"
  doorward bans add account:alice --reason \"phished\"
  doorward bans lift 203.0.113.7 --reason \"customer called\"
  doorward bans lift account:carol --reason \"she called: guessed at by others\"

A key is ADDRESS, PREFIX, account:NAME (stops its logins only), identity:SET:NAME or identity:APPROVAL.";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All live bans
    List(output::Format),
    /// The live bans that cover a key: an address is covered by its prefix's ban too; exits with 1 where there is none
    Show {
        /// ADDRESS, PREFIX, account:NAME, identity:SET:NAME or identity:APPROVAL
        key: String,
        #[command(flatten)]
        format: output::Format,
    },
    /// Ban a key; on disk before the command returns
    Add {
        /// ADDRESS, PREFIX, account:NAME, identity:SET:NAME or identity:APPROVAL
        key: String,
        /// How long, as 90s, 15m, 2h, 7d; without it the ban stays until it is lifted
        #[arg(long = "for", value_name = "LENGTH", value_parser = length)]
        length: Option<String>,
        /// Why; it stands in the list and in the events
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lift a ban and clear the failures behind it, or those of a key without a ban (a spent budget of an account bans nobody)
    Lift {
        /// The key as the list shows it, or one whose failures are to count no more
        key: String,
        /// Why; it stands in the events
        #[arg(long)]
        reason: Option<String>,
    },
}

pub(super) fn execute(command: Command, gateway: &Gateway) -> Outcome {
    match command {
        Command::List(format) => {
            let bans: Vec<BanView> = gateway.get("/bans")?;
            if bans.is_empty() && !format.json {
                output::message("nobody is banned");
            }
            show(&bans, format)?;
        }
        Command::Show { key, format } => {
            let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("key", &key).finish();
            let bans: Vec<BanView> = gateway.get(&format!("/bans/show?{query}"))?;
            if bans.is_empty() {
                output::message(&format!("{} is not banned", output::printable(&key)));
            }
            show(&bans, format)?;
            if bans.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Add { key, length, reason } => {
            remind(reason.as_deref());
            let ban: BanView = gateway.post("/bans/add", &AddBan { key, length, reason })?;
            output::data(&format!("banned {} {}", printable_key(&ban), until(&ban)))?;
        }
        Command::Lift { key, reason } => {
            remind(reason.as_deref());
            let lifted: Lifted = gateway.post("/bans/lift", &LiftBan { key: key.clone(), reason })?;
            output::data(&told(&key, &lifted))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(key: &str, lifted: &Lifted) -> String {
    let cleared = match lifted.cleared {
        1 => "1 failure cleared".to_owned(),
        many => format!("{many} failures cleared"),
    };
    match &lifted.ban {
        Some(ban) if lifted.cleared == 0 => format!("lifted {}", printable_key(ban)),
        Some(ban) => format!("lifted {}, {cleared}", printable_key(ban)),
        None => format!("no ban of {}; {cleared}", output::printable(key)),
    }
}

/// The change is urgent, its record is read later.
fn remind(reason: Option<&str>) {
    if reason.is_none_or(|reason| reason.trim().is_empty()) {
        output::message("no --reason: nobody will know later why this was done");
    }
}

fn show(bans: &[BanView], format: output::Format) -> Result<(), super::Failure> {
    if format.json {
        return output::json(bans);
    }
    if bans.is_empty() {
        return Ok(());
    }
    output::data(&table(bans))
}

fn table(bans: &[BanView]) -> String {
    let row = |ban: &BanView| {
        [
            ban.key.to_string(),
            ban.reason.clone(),
            ban.count.to_string(),
            ban.failures.to_string(),
            times::stamp(ban.since),
            output::end(ban.until),
            ban.by.clone(),
        ]
    };
    output::table(["KEY", "REASON", "COUNT", "FAILURES", "SINCE", "UNTIL", "BY"], bans.iter().map(row))
}

fn until(ban: &BanView) -> String {
    ban.until.map_or("until it is lifted".to_owned(), |until| format!("until {}", output::moment(until)))
}

fn printable_key(ban: &BanView) -> String {
    output::printable(&ban.key.to_string())
}

fn length(text: &str) -> Result<String, String> {
    times::ban_length(text, Clock::system().now().wall).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy::ban::BanKey;

    fn ban(until: Option<Timestamp>) -> BanView {
        let key = BanKey::Net("203.0.113.7/32".parse().unwrap());
        let since = "2026-01-02T03:04:05Z".parse().unwrap();
        BanView { key, reason: "abuse \u{1b}[31m".into(), count: 2, failures: 0, since, until, by: "uid:alice".into() }
    }

    #[test]
    fn the_list_shows_every_field_and_obeys_no_escape() {
        let text = table(&[ban(None)]);
        for part in ["203.0.113.7", "abuse \\u{1b}[31m", "2026-01-02T03:04:05Z", "until lifted", "uid:alice"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_length_that_has_no_end_is_a_usage_error() {
        assert!(length("99999d").is_err_and(|told| told.contains("longest that fits")));
        assert_eq!(length("7d"), Ok("7d".to_owned()));
    }

    #[test]
    fn json_has_the_stable_keys() {
        let json = serde_json::to_value(ban(Some(Timestamp::UNIX_EPOCH))).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        let mut expected = ["key", "reason", "count", "failures", "since", "until", "by"];
        expected.sort_unstable();
        let mut keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(json["key"], "203.0.113.7");
    }
}
