//! The register of approvals, and the tokens that prove them (PASETO v4.public).

#[cfg(test)]
mod tests;
mod token;

use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dashmap::DashMap;
use jiff::Timestamp;
use quick_cache::sync::Cache;

use crate::clock::Now;
use crate::policy::Name;
use crate::policy::approval::{
    Approval, ApprovalChange, ApprovalFault, ApprovalRules, ApprovalSignature, ApprovalStatus, ID_PREFIX, LiveApproval, Party,
    Terms,
};

use super::store::{Change, Durable, Store, StoreError, Table};
use token::Claims;
pub use token::TokenKey;

/// Tokens whose signature is remembered. Only what verified is kept, so that strangers cannot push others' out.
const VERDICTS: usize = 16_384;
/// Random characters of an id, five bits each.
const ID_LENGTH: usize = 20;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Who suspends what the config no longer carries.
const CONFIG: &str = "config";

/// Every approval ever asked for, and where it stands.
///
/// Fails closed: a change takes effect in memory before it is on disk, and `Durable` tells whether it got there. Suspending and
/// revoking bite at once, whatever the disk does. Activating voids older tokens at once too, and the caller must not hand out
/// the new token before it is durable: a token that was given out is never forgotten by a crash.
pub struct Approvals {
    store: Arc<dyn Store>,
    key: TokenKey,
    live: DashMap<Name, Arc<LiveApproval>>,
    verdicts: Cache<[u8; 32], Verdict>,
    /// Held over every change: one at a time, queued for the disk in the order in which they took effect.
    rules: Mutex<ApprovalRules>,
}

/// What a token's valid signature says; nothing here can change.
#[derive(Clone)]
struct Verdict {
    id: Name,
    serial: u32,
}

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

impl Approvals {
    /// Loads the register; every row must parse. Approvals whose signatures no longer suffice under these rules are suspended,
    /// as [`reconcile`](Self::reconcile) would: the config may have changed while the gateway was down.
    pub fn load(store: Arc<dyn Store>, key: TokenKey, rules: ApprovalRules, now: Now) -> Result<Self, StoreError> {
        let register = DashMap::new();
        for record in rows(store.as_ref())? {
            let id = record.id.clone();
            let live = LiveApproval::compile(Arc::new(record))
                .map_err(|cause| StoreError::bad_row(Table::Approvals, id.as_bytes(), cause))?;
            register.insert(id.into(), Arc::new(live));
        }
        let approvals =
            Self { store, key, live: register, verdicts: Cache::new(VERDICTS), rules: Mutex::new(ApprovalRules::default()) };
        approvals.reconcile(rules, now);
        Ok(approvals)
    }

    /// New rules: active approvals whose signatures no longer suffice are suspended. Returns their ids.
    /// Fails closed: they stop at once, also if the store cannot keep it; the next start would find the same again.
    pub fn reconcile(&self, rules: ApprovalRules, now: Now) -> Vec<String> {
        let mut held = self.hold();
        if *held == rules {
            // Whatever is active was found supported by them, when it was activated or when they came.
            return Vec::new();
        }
        *held = rules;
        let mut suspended = Vec::new();
        for record in self.list() {
            let missing = unsupported(&record, &held);
            if !missing.is_empty() {
                let mut record = Approval::clone(&record);
                record.status = ApprovalStatus::Suspended;
                let reason = format!("no signature of {} that the config accepts", parties(&missing));
                note(&mut record, now, "suspended", CONFIG.to_owned(), Some(reason));
                suspended.push(record);
            }
        }
        let ids = suspended.iter().map(|record| record.id.clone()).collect();
        // Nobody waits for this write. Records that were compiled before compile again.
        let _ = self.put(&held, suspended);
        ids
    }

    /// What `reconcile` would suspend, for `check`.
    pub fn would_suspend(store: &dyn Store, rules: &ApprovalRules) -> Result<Vec<String>, StoreError> {
        let rows = rows(store)?.into_iter();
        Ok(rows.filter(|record| !unsupported(record, rules).is_empty()).map(|record| record.id).collect())
    }

    /// Checks a token's signature and finds its approval. The signature verdict is cached by the token's hash (bounded);
    /// the state is read live, so that a revocation bites on the next request. Fails closed. Returns the token's serial.
    pub fn present(&self, token: &[u8]) -> Result<(Arc<LiveApproval>, u32), ApprovalFault> {
        let verdict = self.verdict(token).ok_or(ApprovalFault::NotOurs)?;
        let live = self.live.get(&verdict.id).map(|live| Arc::clone(&live)).ok_or(ApprovalFault::NotOurs)?;
        Ok((live, verdict.serial))
    }

    /// An approval that was judged before, as it stands now, with the serial that its token had then. Fails closed.
    pub fn standing(&self, before: &LiveApproval) -> Result<(Arc<LiveApproval>, u32), ApprovalFault> {
        let live = self.live.get(&before.id).map(|live| Arc::clone(&live)).ok_or(ApprovalFault::NotOurs)?;
        // What was judged holds: its token had the serial of its record.
        Ok((live, before.record.serial))
    }

    /// Every approval, oldest request first.
    pub fn list(&self) -> Vec<Arc<Approval>> {
        let mut list: Vec<_> = self.live.iter().map(|live| Arc::clone(&live.record)).collect();
        list.sort_by(|a, b| (a.terms.requested_at, &a.id).cmp(&(b.terms.requested_at, &b.id)));
        list
    }

    pub fn get(&self, id: &str) -> Option<Arc<Approval>> {
        self.live.get(id).map(|live| Arc::clone(&live.record))
    }

    /// Registers a request; the id is fresh and unguessable. `requested_at` and policy fields of the terms are set here by the caller.
    pub fn request(&self, terms: Terms, by: String, now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let rules = self.hold();
        let record = self.fresh(terms, by, None, now)?;
        self.put(&rules, vec![record])
    }

    /// Adds a signature that was made outside; verified before it is kept. A signer's later signature replaces his earlier one.
    pub fn sign(
        &self,
        id: &str,
        signer: &str,
        signature: &[u8],
        by: String,
        now: Now,
    ) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let rules = self.hold();
        let mut record = self.changeable(id)?;
        if record.status == ApprovalStatus::Active {
            return refused(format!("{id} is active already; suspend it first to sign it anew"));
        }
        still_to_come(&record, now)?;
        let Some(known) = rules.signers.iter().find(|known| known.name == signer) else {
            return refused(format!("the config names no signer `{signer}`"));
        };
        if !ApprovalSignature::verify(&known.public_key, &record.canonical_bytes(), signature) {
            return refused(format!("the signature is not `{signer}`'s over {id} as it stands"));
        }
        record.signatures.retain(|kept| kept.signer != signer);
        record.signatures.push(ApprovalSignature {
            signer: signer.to_owned(),
            party: known.party,
            signature: STANDARD.encode(signature),
            at: now.wall,
        });
        note(&mut record, now, "signed", by, Some(format!("signature of {signer}")));
        self.put(&rules, vec![record])
    }

    /// Makes it active and issues a token (older ones become void). Refused while a required signature is missing.
    /// Fails closed: hand the token out only when `Durable` has resolved; if it fails, nobody knows the token, and an older
    /// one comes back no earlier than with the next start.
    pub fn activate(&self, id: &str, by: String, now: Now) -> Result<(Arc<Approval>, String, Durable), RegisterError> {
        let rules = self.hold();
        let mut record = self.changeable(id)?;
        still_to_come(&record, now)?;
        let missing = record.missing_parties(&rules);
        if !missing.is_empty() {
            return refused(format!("{id} lacks the signature of {}", parties(&missing)));
        }
        let Some(serial) = record.serial.checked_add(1) else {
            return refused(format!("{id} was activated too often; renew it"));
        };
        let claims = Claims { id: id.to_owned(), serial, iat: now.wall };
        let token = self.key.issue(&claims).map_err(|error| RegisterError::Refused(format!("no token: {error}")))?;
        record.serial = serial;
        record.status = ApprovalStatus::Active;
        note(&mut record, now, "activated", by, None);
        let (record, durable) = self.put(&rules, vec![record])?;
        Ok((record, token, durable))
    }

    /// A new request with the same terms and a new end; it must be signed anew. Returns the new record. The old one lives on
    /// to its own end. Refused where it was revoked: that is asked for anew.
    pub fn renew(&self, id: &str, until: Timestamp, by: String, now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let rules = self.hold();
        let mut old = self.changeable(id)?;
        let terms = Terms { until, requested_at: now.wall, ..old.terms.clone() };
        let new = self.fresh(terms, by.clone(), Some(format!("renews {id}")), now)?;
        note(&mut old, now, "renewed", by, Some(format!("as {}", new.id)));
        self.put(&rules, vec![old, new])
    }

    /// Stops an active approval until it is activated again, with a new token. Takes effect in memory before the disk.
    pub fn suspend(&self, id: &str, reason: String, by: String, now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let rules = self.hold();
        let mut record = self.changeable(id)?;
        if record.status != ApprovalStatus::Active {
            return refused(format!("{id} is not active"));
        }
        record.status = ApprovalStatus::Suspended;
        note(&mut record, now, "suspended", by, Some(reason));
        self.put(&rules, vec![record])
    }

    /// For good; takes effect in memory before the disk, on the next request.
    pub fn revoke(&self, id: &str, reason: String, by: String, now: Now) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let rules = self.hold();
        let mut record = self.changeable(id)?;
        record.status = ApprovalStatus::Revoked;
        note(&mut record, now, "revoked", by, Some(reason));
        self.put(&rules, vec![record])
    }

    fn verdict(&self, token: &[u8]) -> Option<Verdict> {
        let hash = fingerprint(token)?;
        if let Some(verdict) = self.verdicts.get(&hash) {
            return Some(verdict);
        }
        let claims = self.key.verify(token)?;
        let verdict = Verdict { id: claims.id.into(), serial: claims.serial };
        self.verdicts.insert(hash, verdict.clone());
        Some(verdict)
    }

    /// A record as asked for. The caller holds the rules.
    fn fresh(&self, terms: Terms, by: String, reason: Option<String>, now: Now) -> Result<Approval, RegisterError> {
        let mut record = Approval {
            id: fresh_id()?,
            terms,
            status: ApprovalStatus::Requested,
            signatures: Vec::new(),
            serial: 0,
            history: Vec::new(),
        };
        still_to_come(&record, now)?;
        note(&mut record, now, "requested", by, reason);
        Ok(record)
    }

    /// A copy to be changed, under the lock. Fails closed: nothing leads out of `Revoked`.
    fn changeable(&self, id: &str) -> Result<Approval, RegisterError> {
        let record = self.get(id).ok_or_else(|| RegisterError::Unknown(id.to_owned()))?;
        if record.status == ApprovalStatus::Revoked {
            return refused(format!("{id} was revoked, for good"));
        }
        Ok(Approval::clone(&record))
    }

    /// Makes records count from the next request on, all or none, and queues them for the disk. Returns the last one.
    fn put(
        &self,
        _held: &MutexGuard<'_, ApprovalRules>,
        records: Vec<Approval>,
    ) -> Result<(Arc<Approval>, Durable), RegisterError> {
        let mut batch = Vec::with_capacity(records.len());
        let mut compiled = Vec::with_capacity(records.len());
        for record in records {
            let value = serde_json::to_vec(&record).map_err(|error| RegisterError::Store(error.to_string()))?;
            batch.push(Change::Put { table: Table::Approvals, key: record.id.clone().into_bytes(), value });
            compiled.push(Arc::new(LiveApproval::compile(Arc::new(record)).map_err(RegisterError::Refused)?));
        }
        let last = compiled.last().map(|live| Arc::clone(&live.record));
        let Some(last) = last else { return refused("nothing to change".to_owned()) };
        for live in compiled {
            self.live.insert(Arc::clone(&live.id), live);
        }
        Ok((last, self.store.write(batch)))
    }

    /// A panic under the lock leaves the rules whole: they are only ever replaced.
    fn hold(&self) -> MutexGuard<'_, ApprovalRules> {
        self.rules.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Every row, which must be what its key says.
fn rows(store: &dyn Store) -> Result<Vec<Approval>, StoreError> {
    let rows = store.load(Table::Approvals)?.into_iter();
    rows.map(|(key, value)| {
        let record: Approval =
            serde_json::from_slice(&value).map_err(|cause| StoreError::bad_row(Table::Approvals, &key, cause))?;
        if record.id.as_bytes() == key {
            Ok(record)
        } else {
            Err(StoreError::bad_row(Table::Approvals, &key, "it holds another approval"))
        }
    })
    .collect()
}

/// The parties without whose signature an active approval may not go on; empty for any other.
fn unsupported(record: &Approval, rules: &ApprovalRules) -> Vec<Party> {
    if record.status == ApprovalStatus::Active { record.missing_parties(rules) } else { Vec::new() }
}

fn still_to_come(record: &Approval, now: Now) -> Result<(), RegisterError> {
    if now.wall < record.terms.until {
        Ok(())
    } else {
        refused(format!("its end {} is past; renew it or ask anew", record.terms.until))
    }
}

fn note(record: &mut Approval, now: Now, action: &str, by: String, reason: Option<String>) {
    record.history.push(ApprovalChange { at: now.wall, action: action.to_owned(), by, reason });
}

fn parties(parties: &[Party]) -> String {
    let names = parties.iter().map(|party| match party {
        Party::Provider => "the provider",
        Party::Customer => "the customer",
    });
    names.collect::<Vec<_>>().join(" and ")
}

fn refused<T>(why: String) -> Result<T, RegisterError> {
    Err(RegisterError::Refused(why))
}

/// A hundred random bits.
fn fresh_id() -> Result<String, RegisterError> {
    let mut random = [0; ID_LENGTH];
    getrandom::fill(&mut random).map_err(|error| RegisterError::Refused(format!("no randomness: {error}")))?;
    #[expect(clippy::indexing_slicing, reason = "five bits index 32 characters")]
    let characters = random.iter().map(|byte| char::from(BASE32[usize::from(byte & 31)]));
    Ok(ID_PREFIX.chars().chain(characters).collect())
}

/// The cache holds no tokens, only their hashes. `None` for what is too long to be one.
fn fingerprint(token: &[u8]) -> Option<[u8; 32]> {
    (token.len() <= token::MAX_TOKEN).then(|| digest(&SHA256, token).as_ref().try_into().ok()).flatten()
}
