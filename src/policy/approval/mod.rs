//! An approval to run automation: its terms, their canonical bytes, and whether a request is within them.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::net::ClientAddr;

use super::limit::Quota;
use super::{CanonicalPath, Denial, Identity, Reason};

mod hours;
mod live;
mod terms;

pub use live::LiveApproval;

/// Domain separator of signatures and the implicit assertion of tokens.
pub const CONTEXT: &str = "doorward-approval-v1";
/// The set of CAs that the identity of a binding names: what stands before its first colon, save where the whole is a URI, which
/// like any bare name may be vouched for by whichever set.
pub fn bound_set(identity: &str) -> Option<&str> {
    let (set, rest) = identity.split_once(':')?;
    (!rest.starts_with("//") && set != "urn").then_some(set)
}

/// How the id of every approval begins; what follows are lower-case letters and digits.
pub const ID_PREFIX: &str = "apr-";

/// Whether this may be the id of an approval; whether there is one with it the register knows.
pub fn is_id(text: &str) -> bool {
    let random = text.strip_prefix(ID_PREFIX).unwrap_or_default();
    !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// `[approvals]`, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovalRules {
    pub signers: Vec<Signer>,
    /// One signature of each party listed.
    pub require_bot: Vec<Party>,
}

/// `approvals.signer.<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub name: String,
    /// Raw Ed25519 public key.
    pub public_key: [u8; 32],
    pub party: Party,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    Provider,
    Customer,
}

/// The register's record of one approval: what was asked, who signed, where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub id: String,
    pub terms: Terms,
    pub status: ApprovalStatus,
    pub signatures: Vec<ApprovalSignature>,
    /// Which token generation is live; renewing or re-activating makes older tokens void.
    pub serial: u32,
    /// Newest last: every change with its time, actor and reason.
    pub history: Vec<ApprovalChange>,
}

/// What the signers sign: every field, in this order. Changing any of them voids the signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    pub kind: ApprovalKind,
    pub name: String,
    pub owner: String,
    pub contact: String,
    pub purpose: String,
    /// Hosts, canonical.
    pub sites: Vec<String>,
    /// Upper case; empty: none is covered.
    pub methods: Vec<String>,
    /// Path templates: `*` is one segment, `**` the rest.
    pub paths: Vec<String>,
    pub rate: Option<Quota>,
    /// `"22:00-05:00 Europe/Berlin"`; without a zone UTC.
    pub hours: Option<String>,
    pub not_before: Option<Timestamp>,
    /// Exclusive end.
    pub until: Timestamp,
    /// Source nets; empty: from anywhere.
    pub from: Vec<IpNet>,
    pub binding: Option<Binding>,
    pub policy_id: String,
    pub policy_version: String,
    pub requested_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalKind {
    Bot,
}

/// To whom the token belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// Hex SHA-256 of the client certificate's DER, lower case.
    CertSha256(String),
    /// `set:name`, or a bare name of any set.
    Identity(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalStatus {
    Requested,
    Active,
    Suspended,
    Revoked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSignature {
    pub signer: String,
    pub party: Party,
    /// Base64 (standard, padded) Ed25519 over [`Approval::canonical_bytes`].
    pub signature: String,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalChange {
    pub at: Timestamp,
    /// `requested`, `signed`, `activated`, `renewed`, `suspended`, `revoked`.
    pub action: String,
    pub by: String,
    pub reason: Option<String>,
}

/// What a presented token turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ApprovalFault {
    #[error("the token is malformed or not ours")]
    NotOurs,
    #[error("two tokens, or one that cannot be read")]
    Unreadable,
    #[error("the approval is not active")]
    NotActive,
    #[error("the approval has expired")]
    Expired,
    #[error("the approval does not hold yet")]
    NotYet,
    #[error("the token was replaced by a newer one")]
    Superseded,
    #[error("outside the approval's sites, methods or paths")]
    Scope,
    #[error("outside the approval's source nets")]
    Source,
    #[error("outside the approval's hours")]
    Hours,
    #[error("presented by another key")]
    Binding,
}

/// What the judgement of an approval needs to know of a request.
pub struct ApprovalUse<'a> {
    pub client: &'a ClientAddr,
    /// Canonical host.
    pub host: &'a str,
    pub method: &'a Method,
    pub path: &'a CanonicalPath,
    /// The identity of a certificate that holds.
    pub identity: Option<&'a Identity>,
}

impl ApprovalFault {
    /// The public reason.
    pub fn denial(self) -> Denial {
        let reason = match self {
            Self::NotOurs | Self::Unreadable => Reason::BotApprovalRequired,
            Self::NotActive | Self::Expired | Self::Superseded => Reason::ApprovalRevoked,
            Self::Scope | Self::Source => Reason::BotScope,
            Self::NotYet | Self::Hours => Reason::BotHours,
            Self::Binding => Reason::ApprovalBinding,
        };
        Denial::new(reason, self.to_string())
    }
}

impl Approval {
    /// `doorward-approval-v1\n`, then JSON of the id and every field of the terms in declaration order.
    ///
    /// The JSON is compact: `{"id":…,"kind":…, … ,"requested_at":…}`, absent options as `null`.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Signed<'a> {
            id: &'a str,
            #[serde(flatten)]
            terms: &'a Terms,
        }
        let mut bytes = format!("{CONTEXT}\n").into_bytes();
        // Strings, numbers and lists into memory cannot fail; were it otherwise, the bytes would end at the context, which
        // no signer ever signs.
        if serde_json::to_writer(&mut bytes, &Signed { id: &self.id, terms: &self.terms }).is_err() {
            bytes.truncate(CONTEXT.len());
        }
        bytes
    }

    /// Which required parties have signed; fails closed: a signature that does not verify, or whose signer is not in the
    /// config with that party and key, does not count. A party that is required twice needs two signers with two keys.
    pub fn missing_parties(&self, rules: &ApprovalRules) -> Vec<Party> {
        let message = self.canonical_bytes();
        let mut signed: Vec<(Party, [u8; 32])> = Vec::new();
        for entry in &self.signatures {
            let Some(signer) = rules.signers.iter().find(|signer| signer.name == entry.signer && signer.party == entry.party)
            else {
                continue;
            };
            let already = signed.iter().any(|(_, key)| *key == signer.public_key);
            if !already && entry.verifies(&signer.public_key, &message) {
                signed.push((signer.party, signer.public_key));
            }
        }
        let mut missing = rules.require_bot.clone();
        missing.retain(|party| match signed.iter().position(|(of, _)| of == party) {
            Some(position) => {
                signed.swap_remove(position);
                false
            }
            None => true,
        });
        missing
    }
}

impl ApprovalSignature {
    /// Verifies one Ed25519 signature (RFC 8032) over the canonical bytes. Fails closed: a key or signature that is not
    /// well-formed does not verify.
    pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
    }

    fn verifies(&self, public_key: &[u8; 32], message: &[u8]) -> bool {
        STANDARD.decode(&self.signature).is_ok_and(|signature| Self::verify(public_key, message, &signature))
    }
}

#[cfg(test)]
mod tests;
