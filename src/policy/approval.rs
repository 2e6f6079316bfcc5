//! An approval to run automation: its terms, their canonical bytes, and whether a request is within them.

use std::sync::Arc;

use http::Method;
use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::net::ClientAddr;

use super::limit::Quota;
use super::{CanonicalPath, Denial, Identity, Name, Site};

/// Domain separator of signatures and the implicit assertion of tokens.
pub const CONTEXT: &str = "doorward-approval-v1";

/// `[approvals]`, compiled.
#[derive(Clone, Debug, Default)]
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

/// An approval made ready for judging requests: templates, zone and nets parsed once.
#[derive(Clone, Debug)]
pub struct LiveApproval {
    pub id: Name,
    pub record: Arc<Approval>,
    // parsed templates and hours: the policy helper's to fill
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
    pub site: &'a Site,
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
        todo!("policy")
    }
}

impl Approval {
    /// `doorward-approval-v1\n`, then JSON of the id and every field of the terms in declaration order.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        todo!("policy")
    }

    /// Which required parties have signed; fails closed: a signature that does not verify, or whose signer is not in the
    /// config with that party and key, does not count.
    pub fn missing_parties(&self, _rules: &ApprovalRules) -> Vec<Party> {
        todo!("policy")
    }
}

impl ApprovalSignature {
    /// Verifies one Ed25519 signature over the canonical bytes.
    pub fn verify(_public_key: &[u8; 32], _message: &[u8], _signature: &[u8]) -> bool {
        todo!("policy")
    }
}

impl Terms {
    /// Everything wrong with the terms, each as one sentence naming the field; empty when they can be judged.
    pub fn faults(&self) -> Vec<String> {
        todo!("policy")
    }
}

impl LiveApproval {
    /// Fails closed: terms that cannot be parsed make no live approval.
    pub fn compile(_record: Arc<Approval>) -> Result<Self, String> {
        todo!("policy")
    }

    /// Judges a use in full: status, serial, times, binding, source, scope, hours. Fails closed.
    pub fn judge(&self, _token_serial: u32, _used: &ApprovalUse<'_>, _now: Now) -> Result<(), ApprovalFault> {
        todo!("policy")
    }
}
