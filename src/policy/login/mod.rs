//! How a login looks, whom it names, how its outcome looks.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderName, Method, StatusCode};
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::Name;

mod outcome;
mod read;

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
    /// Other sites whose pages may send it, as browsers write them in `Origin`; `*` is any.
    pub origins: Vec<String>,
    /// An answer that is no success leaves on multiples of this alone; zero: at once.
    pub pad: Duration,
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
    pub exact: ExactAccount,
    /// For the keyed hash only; wiped on drop, never formatted.
    pub secret: Option<Zeroizing<Vec<u8>>>,
    /// SHA-256 of everything else that the attempt may carry a secret in: body, query, and headers beyond those in which no
    /// application looks for one. `None` as for `secret`.
    pub rest: Option<Zeroizing<[u8; 32]>>,
}

/// An account as the ledger counts it: without what nobody sees, trimmed, NFKC, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct AccountKey(pub Name);

/// An account exactly as it was named: the host, the login rule, and the name byte for byte. Applications differ in which names
/// are one account, and two hosts may have one each of the same name. What counts asks for the [`AccountKey`]; what is forgiven
/// (a failure by a success, a repeat, a spent account to those who signed in lately) asks for this, so that nobody is forgiven
/// for an account of his own that is only like the one he guesses at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExactAccount([u8; 32]);

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
    /// Longest name of an account, in bytes.
    pub const MAX: usize = 512;

    /// Leaves out what nobody sees, trims, NFKC-normalises and lower-cases; `None` when nothing is left or it is over 512 bytes.
    ///
    /// Fails closed: a name with a control character is none, as applications differ in where such a name ends, and many
    /// databases take a name with a zero-width space for the one without. The key of a key is the key itself, so that what a
    /// ban list prints can be typed back.
    pub fn new(raw: &str) -> Option<Self> {
        // Before the work, not only after it: normalising may make a text many times longer.
        let raw = raw.trim();
        if raw.is_empty() || raw.len() > Self::MAX || raw.chars().any(char::is_control) {
            return None;
        }
        if raw.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
            return Some(Self(raw.into()));
        }
        // Lower-casing may leave what is not NFKC, and NFKC what is not lower case or not trimmed; two rounds settle all of it.
        let mut name = raw.to_owned();
        for _ in 0..4 {
            let seen = name.chars().filter(|c| !is_ignorable(*c));
            let folded: String = seen.nfkc().collect::<String>().to_lowercase().nfkc().collect();
            let folded = folded.trim();
            if folded == name {
                return (!name.is_empty() && name.len() <= Self::MAX).then(|| Self(name.into()));
            }
            name = folded.to_owned();
        }
        None
    }
}

impl ExactAccount {
    /// `host` is canonical, `rule` the login's name in the config, `name` what the attempt holds.
    pub fn new(host: &str, rule: &str, name: &[u8]) -> Self {
        let mut digest = Context::new(&SHA256);
        for part in [host.as_bytes(), rule.as_bytes(), name] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut whole = [0; 32];
        whole.copy_from_slice(digest.finish().as_ref());
        Self(whole)
    }

    /// What [`to_text`](Self::to_text) wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Base64 of its SHA-256: 43 characters.
    pub fn to_text(&self) -> String {
        STANDARD_NO_PAD.encode(self.0)
    }

    /// Its SHA-256.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt): what has no shape of its own.
const fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(raw: &str) -> Option<String> {
        AccountKey::new(raw).map(|key| key.0.to_string())
    }

    #[test]
    fn trap_spellings_of_one_account_have_one_key() {
        for raw in ["alice", " alice", "alice \t", "ALICE", "Alice\u{a0}", "\u{ff21}lice", "\u{3000}alice\n"] {
            assert_eq!(key(raw).as_deref(), Some("alice"), "{raw:?}");
        }
        for raw in ["alice\u{ad}", "al\u{200b}ice", "\u{feff}Alice", "alice \u{200e}", "a\u{ffa0}\u{e0041}lice\u{fe0f}"] {
            assert_eq!(key(raw).as_deref(), Some("alice"), "{raw:?}");
        }
        assert_eq!(key("Jos\u{e9}"), key("JOSE\u{301}"));
        assert_eq!(key("\u{212a}elvin").as_deref(), Some("kelvin"));
    }

    #[test]
    fn what_is_no_name_has_no_key() {
        let long = "a".repeat(AccountKey::MAX);
        assert!(key(&long).is_some());
        for raw in [
            "",
            "  ",
            "\u{3000}",
            "\u{200b}",
            " \u{ad} ",
            "a\0b",
            "a\nb",
            "a\u{85}b",
            &format!("{long}a"),
            &"\u{fdfa}".repeat(170),
        ] {
            assert_eq!(key(raw), None, "{raw:?}");
        }
    }

    proptest! {
        #[test]
        fn the_key_of_a_key_is_itself(raw in "\\PC{0,20}") {
            if let Some(key) = AccountKey::new(&raw) {
                prop_assert_eq!(AccountKey::new(&key.0), Some(key));
            }
        }
    }
}
