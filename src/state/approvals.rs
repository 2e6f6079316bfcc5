//! The register of approvals, and the tokens that prove them (PASETO v4.public).

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::clock::Now;
use crate::policy::approval::{Approval, ApprovalFault, ApprovalRules, LiveApproval, Terms};

use super::store::{Durable, Store, StoreError};

pub struct Approvals {}

/// The gateway's token key; made on first start, file mode 0600, zeroized on drop.
pub struct TokenKey {}

/// Why a change to the register was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("there is no approval {0}")]
    Unknown(String),
    #[error("{0}")]
    Refused(String),
    #[error("the register could not be written: {0}")]
    Store(String),
}

impl TokenKey {
    /// Loads the key, or makes one when the file is missing and `create` is set. Fails closed on a readable-by-others or damaged file.
    pub fn load(_path: &Path, _create: bool) -> Result<Self, String> {
        todo!("limits")
    }
}

impl Approvals {
    /// Loads the register; every row must parse.
    pub fn load(_store: Arc<dyn Store>, _key: TokenKey, _rules: ApprovalRules, _now: Now) -> Result<Self, StoreError> {
        todo!("limits")
    }

    /// New rules: active approvals whose signatures no longer suffice are suspended. Returns their ids.
    pub fn reconcile(&self, _rules: ApprovalRules, _now: Now) -> Vec<String> {
        todo!("limits")
    }

    /// What `reconcile` would suspend, for `check`.
    pub fn would_suspend(_store: &dyn Store, _rules: &ApprovalRules) -> Result<Vec<String>, StoreError> {
        todo!("limits")
    }

    /// Checks a token's signature and finds its approval. The signature verdict is cached by the token's hash (bounded);
    /// the state is read live, so that a revocation bites on the next request. Fails closed. Returns the token's serial.
    pub fn present(&self, _token: &[u8]) -> Result<(Arc<LiveApproval>, u32), ApprovalFault> {
        todo!("limits")
    }

    pub fn list(&self) -> Vec<Arc<Approval>> {
        todo!("limits")
    }

    pub fn get(&self, _id: &str) -> Option<Arc<Approval>> {
        todo!("limits")
    }

    /// Registers a request; the id is fresh and unguessable. `requested_at` and policy fields of the terms are set here by the caller.
    pub fn request(&self, _terms: Terms, _by: String, _now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        todo!("limits")
    }

    /// Adds a signature that was made outside; verified before it is kept.
    pub fn sign(
        &self,
        _id: &str,
        _signer: &str,
        _signature: &[u8],
        _by: String,
        _now: Now,
    ) -> Result<(Arc<Approval>, Durable), RegisterError> {
        todo!("limits")
    }

    /// Makes it active and issues a token (older ones become void). Refused while a required signature is missing.
    pub fn activate(&self, _id: &str, _by: String, _now: Now) -> Result<(Arc<Approval>, String, Durable), RegisterError> {
        todo!("limits")
    }

    /// A new request with the same terms and a new end; it must be signed anew. Returns the new record.
    pub fn renew(&self, _id: &str, _until: Timestamp, _by: String, _now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        todo!("limits")
    }

    pub fn suspend(&self, _id: &str, _reason: String, _by: String, _now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        todo!("limits")
    }

    /// For good; takes effect in memory before the disk, on the next request.
    pub fn revoke(&self, _id: &str, _reason: String, _by: String, _now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        todo!("limits")
    }
}
