//! redb under `state_dir`, one writer thread, group commit.

use std::error::Error as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageError};
use redb::{TableDefinition, TableError};

use self::quiet::quietly;
use self::rehearsal::Rehearsal;
use self::writer::{Opener, Writer};
use super::{Change, Durable, Rows, Store, StoreError, Table};

mod quiet;
mod rehearsal;
#[cfg(test)]
mod tests;
mod writer;

/// The store's file in `state_dir`.
const FILE: &str = "doorward.redb";
/// What this version reads and writes.
const SCHEMA: u32 = 1;
const META: TableDefinition<'static, &str, &str> = TableDefinition::new("doorward");
const SCHEMA_KEY: &str = "schema";
/// redb's own magic number: what does not begin with it was never a store.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// What a panic of redb means.
const CONTRADICTION: &str = "its pages contradict each other";
/// Everything lives in memory anyway: the cache only has to hold the pages of one transaction.
const CACHE_BYTES: usize = 32 << 20;

/// The store of a gateway that stands alone. One process writes, any number may read beside it.
pub struct EmbeddedStore {
    path: PathBuf,
    access: Access,
}

enum Access {
    ReadWrite(Writer),
    ReadOnly(Box<dyn Fn(Table) -> Result<Rows, StoreError> + Send + Sync>),
}

impl EmbeddedStore {
    /// Opens or makes `state_dir/doorward.redb` (directory 0700, file 0600). A damaged or foreign file, a file of a newer
    /// schema, or one that another gateway holds is an error that says so; never a silent fresh start.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        make_dir(state_dir)?;
        let path = state_dir.join(FILE);
        // Only a missing file is a first start. An empty one is damaged: ours are whole from the moment they have the name.
        if !path.try_exists().map_err(|error| refused(&path, &error))? {
            make_file(state_dir, &path)?;
        }
        let at = path.clone();
        Self::with_opener(path, Box::new(move || open_file(&at)))
    }

    /// Opens an existing store beside a live gateway or after a crash, writing nothing, not even a repair; `None` when
    /// there is none. Its writes are refused.
    pub fn open_read_only(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = state_dir.join(FILE);
        if !path.try_exists().map_err(|error| refused(&path, &error))? {
            return Ok(None);
        }
        check_file(&path)?;
        let load: Box<dyn Fn(Table) -> Result<Rows, StoreError> + Send + Sync> = match guarded(|| open_reader(&path)) {
            Err(DatabaseError::RepairAborted) => {
                let copy = guarded(|| Rehearsal::open(&path)).map_err(|error| explain(&path, error))?;
                check_schema(&path, &copy)?;
                let at = path.clone();
                Box::new(move |table| read_rows(&at, &copy, table))
            }
            Err(error) => return Err(explain(&path, error)),
            Ok(database) => {
                check_schema(&path, &database)?;
                let at = path.clone();
                Box::new(move |table| read_rows(&at, &database, table))
            }
        };
        Ok(Some(Self { path, access: Access::ReadOnly(load) }))
    }

    /// Opens nothing for writing: what `check` does beside a live gateway. A missing file is fine where it could be made.
    pub fn check(state_dir: &Path) -> Result<(), StoreError> {
        match fs::metadata(state_dir) {
            Ok(found) if !found.is_dir() => return Err(no_directory(state_dir)),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(refused(state_dir, &error)),
            _ => {}
        }
        let Some(store) = Self::open_read_only(state_dir)? else { return could_make(state_dir) };
        for table in Table::ALL {
            store.load(table)?;
        }
        rehearse(&store.path)
    }

    fn with_opener(path: PathBuf, opener: Opener) -> Result<Self, StoreError> {
        let writer = Writer::start(opener)?;
        Ok(Self { path, access: Access::ReadWrite(writer) })
    }
}

impl Store for EmbeddedStore {
    fn load(&self, table: Table) -> Result<Rows, StoreError> {
        match &self.access {
            Access::ReadWrite(writer) => writer.load(&self.path, table),
            Access::ReadOnly(load) => load(table),
        }
    }

    fn write(&self, batch: Vec<Change>) -> Durable {
        match &self.access {
            Access::ReadWrite(writer) => writer.write(batch),
            Access::ReadOnly(_) => {
                Box::pin(async { Err(StoreError::Write("it was opened for reading only; ask the running gateway".into())) })
            }
        }
    }

    fn close(&self) {
        if let Access::ReadWrite(writer) = &self.access {
            writer.close();
        }
    }

    fn describe(&self) -> String {
        format!("embedded: {}", self.path.display())
    }
}

/// The file as a gateway opens it: whole-file integrity check first, since a plain open trusts what it finds.
fn open_file(path: &Path) -> Result<Database, StoreError> {
    check_file(path)?;
    check_schema_unopened(path)?;
    let mode = fs::metadata(path).map_err(|error| refused(path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| refused(path, &error))?;
    }
    let database = guarded(|| {
        redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_concurrency_mode(ConcurrencyMode::SingleWriter)
            .set_check_integrity_on_open(true)
            .open(path)
    })
    .map_err(|error| explain(path, error))?;
    check_schema(path, &database)?;
    Ok(database)
}

/// Before anything is written, since opening writes: a store of another schema stays as it was. What else is wrong with it,
/// the opening will tell.
fn check_schema_unopened(path: &Path) -> Result<(), StoreError> {
    match guarded(|| open_reader(path)) {
        Ok(database) => check_schema(path, &database),
        Err(DatabaseError::RepairAborted) => match guarded(|| Rehearsal::open(path)) {
            Ok(copy) => check_schema(path, &copy),
            Err(_) => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

/// The integrity check of a start, on a copy. What a live gateway wrote meanwhile would look like damage: then the check that
/// it made at its own start stands.
fn rehearse(path: &Path) -> Result<(), StoreError> {
    let stamp = || fs::metadata(path).and_then(|found| Ok((found.modified()?, found.len()))).ok();
    let before = stamp();
    match guarded(|| Rehearsal::open(path)) {
        Err(error) if before == stamp() => Err(explain(path, error)),
        _ => Ok(()),
    }
}

fn open_reader(path: &Path) -> Result<ReadOnlyDatabase, DatabaseError> {
    redb::Builder::new().set_cache_size(CACHE_BYTES).set_concurrency_mode(ConcurrencyMode::SingleWriter).open_read_only(path)
}

/// Makes the store whole under another name first, so that no crash leaves half a file under its own.
fn make_file(state_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let made = tempfile::Builder::new()
        .prefix(".doorward-")
        .suffix(".new")
        .tempfile_in(state_dir)
        .map_err(|error| cannot_make(state_dir, &error))?;
    initialise(made.path()).map_err(|error| open_error(path, format!("cannot be made: {error}")))?;
    match made.persist_noclobber(path) {
        // Another gateway made one meanwhile; opening it says what there is to say.
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(refused(path, &error.error)),
        _ => File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(|error| refused(state_dir, &error)),
    }
}

fn initialise(path: &Path) -> Result<(), redb::Error> {
    let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA.to_string().as_str())?;
    for table in Table::ALL {
        transaction.open_table(definition(table))?;
    }
    transaction.commit()?;
    database.close()?;
    Ok(())
}

fn make_dir(state_dir: &Path) -> Result<(), StoreError> {
    match fs::metadata(state_dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(no_directory(state_dir)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|error| refused(state_dir, &error))
        }
        Err(error) => Err(refused(state_dir, &error)),
    }
}

/// Whether a start could make the directory and a store in it, found with a file without a name: it is gone before anybody
/// could see it.
fn could_make(state_dir: &Path) -> Result<(), StoreError> {
    let nearest = state_dir.ancestors().find(|dir| dir.as_os_str().is_empty() || dir.exists());
    let there = nearest.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(there) {
        Ok(_) => Ok(()),
        Err(error) if there == state_dir => Err(cannot_make(state_dir, &error)),
        Err(error) => Err(refused(state_dir, &error)),
    }
}

fn cannot_make(state_dir: &Path, error: &std::io::Error) -> StoreError {
    open_error(state_dir, format!("a store cannot be made in it: {}{}", bare(error), cure(error)))
}

/// What can be told before redb looks: a file that is empty, or that begins like something else.
fn check_file(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|error| refused(path, &error))?;
    let found = file.metadata().map_err(|error| refused(path, &error))?;
    if !found.is_file() {
        return Err(open_error(path, "is not a file; move it away, or let `state_dir` name another place"));
    }
    if found.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    let mut head = Vec::with_capacity(MAGIC.len());
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(|error| refused(path, &error))?;
    if head != MAGIC {
        return Err(foreign(path));
    }
    Ok(())
}

fn check_schema(path: &Path, database: &impl ReadableDatabase) -> Result<(), StoreError> {
    let read = || -> Result<Option<String>, redb::Error> {
        let table = match database.begin_read()?.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        Ok(table.get(SCHEMA_KEY)?.map(|row| row.value().to_owned()))
    };
    let schema = quietly(read)
        .map_err(|_| damaged(path, CONTRADICTION))?
        .map_err(|error| damaged(path, error))?
        .ok_or_else(|| foreign(path))?;
    match schema.parse::<u32>() {
        Ok(SCHEMA) => Ok(()),
        Ok(newer) if newer > SCHEMA => Err(open_error(
            path,
            format!(
                "was written by a newer Doorward (schema {newer}; this one reads {SCHEMA}); \
                 start that version again, or restore the backup made before the upgrade"
            ),
        )),
        _ => Err(damaged(path, format!("its schema is {schema:?}"))),
    }
}

fn read_rows(path: &Path, database: &impl ReadableDatabase, table: Table) -> Result<Rows, StoreError> {
    let read = || -> Result<Rows, redb::Error> {
        let table = match database.begin_read()?.open_table(definition(table)) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            other => other?,
        };
        let rows = table.iter()?.map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())));
        Ok(rows.collect::<Result<Rows, _>>()?)
    };
    quietly(read).map_err(|_| damaged(path, CONTRADICTION))?.map_err(|error| match error {
        redb::Error::Io(error) => explain(path, DatabaseError::Storage(StorageError::Io(error))),
        redb::Error::Corrupted(cause) => damaged(path, cause),
        other => damaged(path, other),
    })
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// redb may panic on a file that was altered behind its back; for an operator that is damage like any other.
fn guarded<T>(open: impl FnOnce() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    quietly(open).unwrap_or_else(|_| Err(DatabaseError::Storage(StorageError::Corrupted(CONTRADICTION.into()))))
}

fn explain(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            open_error(path, "another gateway holds it; stop that one first, or give this one its own `state_dir`")
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => damaged(path, error),
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, "it is cut short")
        }
        DatabaseError::Storage(StorageError::Io(error)) => refused(path, &error),
        DatabaseError::Storage(StorageError::Corrupted(cause)) => damaged(path, cause),
        other => damaged(path, other),
    }
}

fn damaged(path: &Path, cause: impl std::fmt::Display) -> StoreError {
    open_error(
        path,
        format!("is damaged ({cause}); restore it from a backup, or move it away to start with no bans, approvals or history"),
    )
}

fn foreign(path: &Path) -> StoreError {
    open_error(path, "is not a Doorward store; move it away, or let `state_dir` name another place")
}

fn no_directory(state_dir: &Path) -> StoreError {
    open_error(state_dir, "is not a directory, but `state_dir` names it")
}

fn refused(path: &Path, error: &std::io::Error) -> StoreError {
    open_error(path, format!("cannot be used: {}{}", bare(error), cure(error)))
}

/// Without the name of a temporary file, which tells nobody anything.
fn bare(error: &std::io::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; it must belong to the user that runs the gateway",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space",
        ErrorKind::ReadOnlyFilesystem => "; mount it writable, or let `state_dir` name another place",
        _ => "",
    }
}

fn open_error(path: &Path, cause: impl Into<String>) -> StoreError {
    StoreError::Open { path: path.display().to_string(), cause: cause.into() }
}
