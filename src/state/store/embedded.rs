//! redb under `state_dir`, one writer thread, group commit.

use std::path::Path;

use super::{Change, Durable, Store, StoreError, Table};

pub struct EmbeddedStore {}

impl EmbeddedStore {
    /// Opens or makes `state_dir/doorward.redb` (directory 0700, file 0600). A damaged or foreign file, a file of a newer
    /// schema, or one that another gateway holds is an error that says so; never a silent fresh start.
    pub fn open(_state_dir: &Path) -> Result<Self, StoreError> {
        todo!("state")
    }

    /// Opens nothing for writing: what `check` does beside a live gateway. A missing file is fine.
    pub fn check(_state_dir: &Path) -> Result<(), StoreError> {
        todo!("state")
    }
}

impl Store for EmbeddedStore {
    fn load(&self, _table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        todo!("state")
    }
    fn write(&self, _batch: Vec<Change>) -> Durable {
        todo!("state")
    }
    fn close(&self) {
        todo!("state")
    }
    fn describe(&self) -> String {
        todo!("state")
    }
}
