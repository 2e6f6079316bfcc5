//! Memory: made once, reconciled on reload, never replaced.

pub mod accounts;
pub mod approvals;
pub mod bans;
pub mod guesses;
pub mod limits;
pub mod store;
