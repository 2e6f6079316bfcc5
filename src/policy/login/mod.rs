//! How a login looks, whom it names, how its outcome looks.

use http::{HeaderMap, HeaderName, Method, StatusCode};
use zeroize::Zeroizing;

use super::{Denial, Name};

/// Largest login body that is read, in bytes; a larger one is a 400.
pub const MAX_LOGIN_BODY: usize = 64 * 1024;

/// `login.<name>`, compiled.
#[derive(Debug)]
pub struct LoginRule {
    pub name: Name,
    pub method: Method,
    /// Canonical, exact.
    pub path: String,
    pub account: AccountSource,
    /// Where the secret stands; `None`: repeats of a failed guess are counted again.
    pub secret: Option<FieldSource>,
    pub failed: Vec<OutcomeRule>,
    pub ok: Vec<OutcomeRule>,
}

/// Where the account's name stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountSource {
    Field(FieldSource),
    Basic,
}

/// A field of the request body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldSource {
    /// A field of an `application/x-www-form-urlencoded` body.
    Form(String),
    /// An RFC 6901 pointer into an `application/json` body.
    Json(String),
}

/// One outcome rule: every part that is set must match.
#[derive(Clone, Debug, Default)]
pub struct OutcomeRule {
    pub status: Vec<StatusCode>,
    /// `Location` of a 3xx, `*` matches any run of characters.
    pub redirect: Option<String>,
    pub header: Option<(HeaderName, String)>,
}

/// A recognised attempt, its account read exactly once.
pub struct Attempt {
    pub account: AccountKey,
    /// For the keyed hash only; wiped on drop, never formatted.
    pub secret: Option<Zeroizing<Vec<u8>>>,
}

/// An account as the ledger counts it: trimmed, NFKC, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct AccountKey(pub Name);

/// What the application said of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// Clears this client's failures with this account.
    Ok,
    /// Counts.
    Failed,
    /// 5xx or timeout: stays spent for the window, never leads to a ban.
    Fault,
    /// Provably never reached the application: given back.
    Unsent,
}

impl AccountKey {
    /// Trims, NFKC-normalises and lower-cases; `None` when nothing is left or it is over 512 bytes.
    pub fn new(_raw: &str) -> Option<Self> {
        todo!("policy")
    }
}

impl LoginRule {
    /// Fails closed: an account that cannot be read exactly once is a 400 `bad-request`.
    /// `query` is the canonical query: the account field there too is a 400.
    pub fn read(&self, _headers: &HeaderMap, _query: Option<&str>, _body: &[u8]) -> Result<Attempt, Denial> {
        todo!("policy")
    }

    /// Whether this attempt's account stands in the head alone (Basic), so that no body need be read.
    pub fn needs_body(&self) -> bool {
        matches!(self.account, AccountSource::Field(_))
    }

    /// What an answer means. A 5xx is a `Fault` whatever the rules say; with `ok` rules what matches none is `Failed`;
    /// without `ok` any other answer below 500 is `Ok`.
    pub fn outcome(&self, _status: StatusCode, _headers: &HeaderMap) -> LoginOutcome {
        todo!("policy")
    }
}
