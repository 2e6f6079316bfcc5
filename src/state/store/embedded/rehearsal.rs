//! A store that was not closed is repaired on opening. This plays the repair over a copy in memory of the pages it
//! touches, so that `check` after a crash sees what a start would see and leaves the file alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use redb::{Database, DatabaseError, StorageBackend};

use super::CACHE_BYTES;
use crate::state::lock;

const BLOCK: u64 = 4096;

#[derive(Debug)]
pub(super) struct Rehearsal {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// What of the file is still to be seen; beyond it a longer `len` reads as zeros.
    seen: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Rehearsal {
    /// Repairs and checks the store at `path`, in memory.
    pub(super) fn open(path: &Path) -> Result<Database, DatabaseError> {
        let file = File::open(path).map_err(DatabaseError::from)?;
        let len = file.metadata().map_err(DatabaseError::from)?.len();
        let written = Mutex::new(Written { len, seen: len, blocks: BTreeMap::new() });
        redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(Self { file, written })
    }

    fn block(&self, written: &Written, number: u64) -> io::Result<Vec<u8>> {
        if let Some(block) = written.blocks.get(&number) {
            return Ok(block.clone());
        }
        let start = number * BLOCK;
        let mut block = vec![0; BLOCK as usize];
        let there = written.seen.saturating_sub(start).min(BLOCK) as usize;
        if let Some(there) = block.get_mut(..there) {
            self.file.read_exact_at(there, start)?;
        }
        Ok(block)
    }

    /// Calls `each` with every block that the range touches: its number, the range within it, the range within the buffer.
    fn blocks(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % BLOCK) as usize;
            let here = (BLOCK as usize - within).min(len - done);
            each(at / BLOCK, within..within + here, done..done + here)?;
            done += here;
        }
        Ok(())
    }
}

impl StorageBackend for Rehearsal {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.written).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = lock(&self.written);
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::blocks(offset, out.len(), |number, within, part| {
            let block = self.block(&written, number)?;
            if let (Some(to), Some(from)) = (out.get_mut(part), block.get(within)) {
                to.copy_from_slice(from);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = lock(&self.written);
        written.len = len;
        written.seen = written.seen.min(len);
        written.blocks.retain(|number, _| number * BLOCK < len);
        if let Some(cut) = written.blocks.get_mut(&(len / BLOCK)).and_then(|block| block.get_mut((len % BLOCK) as usize..)) {
            cut.fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        Self::blocks(offset, data.len(), |number, within, part| {
            let mut block = self.block(&written, number)?;
            if let (Some(to), Some(from)) = (block.get_mut(within), data.get(part)) {
                to.copy_from_slice(from);
            }
            written.blocks.insert(number, block);
            Ok(())
        })
    }
}
