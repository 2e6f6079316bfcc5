//! Memory: made once, reconciled on reload, never replaced.
//!
//! Every table here is bounded, and no flood of strangers can flush what is live in it: overflow folds into wider keys.
//! Expiry is compared where an entry is read; sweeping only frees memory. What must outlive a restart is written through
//! [`store::Store`]; what need not (guesses in flight, limits) is not.

pub mod accounts;
pub mod approvals;
pub mod bans;
pub mod guesses;
pub mod limits;
pub mod store;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic elsewhere: the tables here are left consistent by every path that can unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
