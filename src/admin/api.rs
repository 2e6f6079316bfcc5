//! What the admin API says and hears: the types that the server and the command line share.
//!
//! Every body is JSON. Reads are GET, changes are POST; unknown fields are refused, so that a misspelt one is not
//! silently left out. Times are RFC 3339 in UTC.

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::approval::{Approval, ApprovalKind, Binding};
use crate::policy::ban::{Ban, BanKey};
use crate::state::limits::LimitView;

/// Largest request body, in bytes; a larger one is a 413.
pub const MAX_BODY: usize = 64 * 1024;

/// Every endpoint: method, path, what it does. `GET /` answers with this list.
pub const ENDPOINTS: &[(&str, &str, &str)] = &[
    ("GET", "/", "this list"),
    ("GET", "/status", "generation, uptime, sites, upstreams, certificates, table sizes"),
    ("GET", "/config", "the live file and its generation"),
    (
        "POST",
        "/reload",
        "take over the file; 422 with the errors when it is not good, and the old one lives on; 503 while the gateway drains",
    ),
    ("GET", "/bans", "live bans"),
    ("GET", "/bans/show?key=KEY", "live bans that cover a key"),
    ("POST", "/bans/add", "ban a key: {key, for?, reason?}"),
    ("POST", "/bans/lift", "lift a ban and clear the failures of its key, which may be without one: {key, reason?}"),
    ("GET", "/approvals", "the register"),
    ("POST", "/approvals", "request an approval"),
    ("GET", "/approvals/ID", "one record"),
    ("GET", "/approvals/ID/payload", "the record and the bytes that its signers sign"),
    ("POST", "/approvals/ID/sign", "add a signature: {signer, signature}"),
    ("POST", "/approvals/ID/activate", "make it active; answers with a token, once, and voids the one before"),
    ("POST", "/approvals/ID/renew", "request the same terms anew: {until}"),
    ("POST", "/approvals/ID/suspend", "stop it for now: {reason?}"),
    ("POST", "/approvals/ID/revoke", "end it for good: {reason?}"),
    ("GET", "/limits?most=N", "the most-used keys of every limit"),
    ("POST", "/limits/explain", "what a caller has left and which rule decides, spending nothing"),
];

/// One line of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub method: String,
    pub path: String,
    pub does: String,
}

/// Every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    /// The cure, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The live generation.
    pub generation: u64,
    pub path: String,
    /// What `check` would warn of, one rendered finding each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// `GET /config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveConfig {
    pub path: String,
    pub generation: Option<u64>,
}

/// One live ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanView {
    pub key: BanKey,
    pub reason: String,
    /// How many bans of this key lately, this one included.
    pub count: u32,
    /// Failures behind it; 0 for an operator's ban.
    pub failures: u32,
    pub since: Timestamp,
    /// `null`: until it is lifted.
    pub until: Option<Timestamp>,
    pub by: String,
}

/// `POST /bans/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBan {
    /// `ADDRESS`, `PREFIX`, `account:NAME`, `identity:SET:NAME` or `identity:APPROVAL`.
    pub key: String,
    /// `"2h"`; absent: until it is lifted.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub length: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /bans/lift`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiftBan {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `POST /bans/lift` answers: the ban as it was, and with it or alone what was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// Its fields are missing where there was no ban.
    #[serde(flatten)]
    pub ban: Option<BanView>,
    /// Failures of the key that count no more.
    #[serde(default)]
    pub cleared: u32,
}

/// `POST /approvals`: what is asked for. The policy's id and version and the time are the gateway's to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestApproval {
    pub kind: ApprovalKind,
    pub name: String,
    pub owner: String,
    pub contact: String,
    pub purpose: String,
    pub sites: Vec<String>,
    pub methods: Vec<String>,
    pub paths: Vec<String>,
    /// `"60/min"`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// `"22:00-05:00 Europe/Berlin"`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<String>,
    /// A date (from its first moment in UTC) or an RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// A date (that day included) or an RFC 3339 time.
    pub until: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

/// `GET /approvals/ID/payload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalPayload {
    /// The record to read before signing. A signer makes the bytes from it anew and compares.
    pub approval: Approval,
    /// Base64 (standard, padded) of the canonical bytes.
    pub payload: String,
}

/// `POST /approvals/ID/sign`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignApproval {
    pub signer: String,
    /// Base64 (standard, padded) Ed25519 over the payload.
    pub signature: String,
}

/// `POST /approvals/ID/activate`: the only answer that ever holds a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Activated {
    pub id: String,
    pub token: String,
    /// Whether a token was given before: that one is void now.
    #[serde(default)]
    pub replaced: bool,
}

/// `POST /approvals/ID/renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewApproval {
    /// A date (that day included) or an RFC 3339 time.
    pub until: String,
}

/// `POST /approvals/ID/suspend` and `.../revoke`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndApproval {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /limits/explain`: a request that might come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainLimits {
    /// The client's address.
    pub client: String,
    pub path: String,
    /// Absent: the only host there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Absent: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `SET:NAME`, or the bare name where one set vouches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// An approval's id; it counts where it would hold for this request now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// The account that a login attempt would name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// How that request would fare now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// What counts as this client: the address, or its IPv6 prefix.
    pub client: String,
    pub method: String,
    pub host: String,
    pub path: String,
    /// `host/path` of the route; `null` where there is none.
    pub route: Option<String>,
    /// The rule that decides: `ban`, `route`, a reason of refusals (`bot-scope`, `client-cert-required`), `guesses` or a limit's
    /// name; `null`: nothing refuses and nothing runs down.
    pub decides: Option<String>,
    /// Whether bans, the route's demands on its callers, guesses and limits would let it pass now.
    pub passes: bool,
    /// One sentence for people.
    pub verdict: String,
    /// Live bans of the client, the identity and the account.
    pub bans: Vec<BanHeld>,
    pub guesses: GuessesLeft,
    /// Of the account, whoever guessed; absent where none is named, or where this caller succeeded there lately and is not held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_guesses: Option<GuessesLeft>,
    /// In the order in which they are charged.
    pub limits: Vec<LimitView>,
}

/// A ban that bears on the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanHeld {
    /// `client`, `identity` or `account`.
    pub of: String,
    /// `null`: for good.
    pub until: Option<Timestamp>,
    /// False where a proven caller passes an address ban, or the request is no login of a banned account.
    pub holds: bool,
}

/// The guess budget of the caller, or of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuessesLeft {
    /// Failures within the window.
    pub failed: u32,
    /// Spent for now without being failures: under way, or answered by a fault.
    pub reserved: u32,
    pub limit: u32,
    pub left: u32,
}

impl GuessesLeft {
    /// (failed, reserved, limit), as the ledger tells them.
    pub(super) fn of((failed, reserved, limit): (u32, u32, u32)) -> Self {
        Self { failed, reserved, limit, left: limit.saturating_sub(failed).saturating_sub(reserved) }
    }
}

impl Problem {
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), help: None }
    }
}

impl From<Ban> for BanView {
    fn from(ban: Ban) -> Self {
        let Ban { key, reason, count, failures, since, until, by } = ban;
        Self { key, reason, count, failures, since, until: ends(until), by }
    }
}

/// `None` where a ban has no end.
pub fn ends(until: Timestamp) -> Option<Timestamp> {
    (until < Timestamp::MAX).then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_for_good_has_no_end_in_json() {
        assert_eq!(ends(Timestamp::MAX), None);
        assert_eq!(ends(Timestamp::UNIX_EPOCH), Some(Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn misspelt_fields_are_refused() {
        assert!(serde_json::from_str::<AddBan>(r#"{"key":"192.0.2.1","fro":"2h"}"#).is_err());
        let good: AddBan = serde_json::from_str(r#"{"key":"192.0.2.1","for":"2h"}"#).unwrap();
        assert_eq!(good.length.as_deref(), Some("2h"));
    }

    #[test]
    fn every_change_is_a_post() {
        for (method, path, _) in ENDPOINTS {
            let changes = ["add", "lift", "sign", "activate", "renew", "suspend", "revoke", "reload"];
            if changes.iter().any(|verb| path.ends_with(verb)) {
                assert_eq!(*method, "POST", "{path}");
            }
        }
    }
}
