//! Durable state behind one trait; `embedded` is redb with one writer thread and group commit.

use std::future::Future;
use std::pin::Pin;

#[cfg(test)]
pub mod conformance;
pub mod embedded;

/// The tables. Keys and values are bytes (JSON values, text keys).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Bans,
    BanHistory,
    Approvals,
    Successes,
}

/// One change; a batch is applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put { table: Table, key: Vec<u8>, value: Vec<u8> },
    Delete { table: Table, key: Vec<u8> },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {cause}")]
    Open { path: String, cause: String },
    #[error("the store could not be written: {0}")]
    Write(String),
    #[error("the store could not be read: {0}")]
    Read(String),
    #[error("the store is closed")]
    Closed,
}

/// Resolves when the batch is on disk.
pub type Durable = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Keys and values, in key order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Four methods; `conformance` in this module holds every implementation to the same behaviour.
pub trait Store: Send + Sync + 'static {
    /// Every row of a table, in key order.
    fn load(&self, table: Table) -> Result<Rows, StoreError>;
    /// Queues a batch at once (order of calls is order of application); the future resolves when it is durable, and need
    /// not be polled for that. An empty batch resolves when everything queued before it is durable.
    /// Fails closed: an error means that nothing of the batch may be relied upon after a restart. It is tried again with
    /// later writes and on its own, in order, so that the disk comes to hold what memory holds.
    fn write(&self, batch: Vec<Change>) -> Durable;
    /// Waits for queued batches and releases the file.
    fn close(&self);
    /// For `status`: what it is and where.
    fn describe(&self) -> String;
}

impl Table {
    /// Every table, in the order in which a transaction visits them.
    pub const ALL: [Self; 4] = [Self::Bans, Self::BanHistory, Self::Approvals, Self::Successes];

    /// Its name in the store; part of the schema.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bans => "bans",
            Self::BanHistory => "ban-history",
            Self::Approvals => "approvals",
            Self::Successes => "successes",
        }
    }
}

impl Change {
    /// The table it changes.
    pub fn table(&self) -> Table {
        match self {
            Self::Put { table, .. } | Self::Delete { table, .. } => *table,
        }
    }
}

impl StoreError {
    /// A row that this version cannot read. Says what an operator can do about it.
    pub fn bad_row(table: Table, key: &[u8], cause: impl std::fmt::Display) -> Self {
        Self::Read(format!(
            "row {:?} of table `{}` makes no sense: {cause}; restore the store from a backup",
            String::from_utf8_lossy(key),
            table.name()
        ))
    }
}
