use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::*;
use crate::state::store::conformance::{self, delete, put, rows, wait};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn refusal(dir: &Path) -> String {
    let opened = EmbeddedStore::open(dir).map(drop).expect_err("open refuses").to_string();
    let checked = EmbeddedStore::check(dir).expect_err("check refuses").to_string();
    assert_eq!(opened, checked, "check says what a start would say");
    opened
}

/// A closed store with one row.
fn with_a_row(dir: &Path) {
    let store = EmbeddedStore::open(dir).expect("opened");
    wait(store.write(vec![put(Table::Bans, "key", "value")])).expect("written");
}

/// A store as `kill -9` leaves it: a copy of the file while it is open.
fn killed(dir: &Path) {
    let live = super::tests::dir();
    let store = EmbeddedStore::open(live.path()).expect("opened");
    wait(store.write(vec![put(Table::Bans, "key", "value")])).expect("written");
    fs::copy(live.path().join(FILE), dir.join(FILE)).expect("copied");
}

#[test]
fn conforms() {
    let dir = dir();
    conformance::all(|| EmbeddedStore::open(dir.path()).expect("opened"));
}

#[test]
fn modes_are_private_and_are_made_so() {
    let dir = dir();
    let state = dir.path().join("deep/state");
    drop(EmbeddedStore::open(&state).expect("made"));
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join(FILE)), 0o600);
    assert_eq!(fs::read_dir(&state).expect("a directory").count(), 1, "nothing else is left behind");
    fs::set_permissions(state.join(FILE), Permissions::from_mode(0o644)).expect("changed");
    drop(EmbeddedStore::open(&state).expect("opened"));
    assert_eq!(mode(&state.join(FILE)), 0o600);
}

#[test]
fn a_damaged_or_foreign_file_is_an_error_and_stays_as_it_is() {
    let dir = dir();
    let path = dir.path().join(FILE);
    for (content, told) in [
        (Vec::new(), "damaged (it is empty)"),
        (b"SQLite format 3\0and so on".to_vec(), "is not a Doorward store"),
        ([MAGIC.as_slice(), &[0; 100]].concat(), "damaged"),
        ([MAGIC.as_slice(), &[0xff; 70_000]].concat(), "damaged"),
    ] {
        fs::write(&path, &content).expect("written");
        let text = refusal(dir.path());
        assert!(text.contains(told) && text.contains("move it away"), "{text}");
        assert_eq!(fs::read(&path).expect("read"), content);
    }
    fs::remove_file(&path).expect("removed");
    redb::Database::create(&path).expect("somebody else's redb file");
    assert!(refusal(dir.path()).contains("is not a Doorward store"));
}

#[test]
fn damage_anywhere_in_the_file_is_told_or_harmless() {
    let dir = dir();
    with_a_row(dir.path());
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).expect("read");
    let mut refused = 0;
    for at in (0..whole.len() as u64).step_by(997) {
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.write_all_at(&[0x5a; 16], at).expect("damaged");
        drop(file);
        match EmbeddedStore::open(dir.path()) {
            Ok(store) => assert_eq!(rows(&store, Table::Bans), [("key".into(), "value".into())], "at {at}"),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("move it away"), "at {at}: {error}");
            }
        }
        fs::write(&path, &whole).expect("restored");
    }
    assert!(refused > 0);
}

#[test]
fn a_file_cut_short_is_damaged() {
    let dir = dir();
    with_a_row(dir.path());
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).expect("read");
    fs::write(&path, &whole[..whole.len() / 3]).expect("cut");
    let text = EmbeddedStore::open(dir.path()).err().expect("refused").to_string();
    assert!(text.contains("is damaged"), "{text}");
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let dir = dir();
    with_a_row(dir.path());
    let database = Database::open(dir.path().join(FILE)).expect("opened");
    let transaction = database.begin_write().expect("begun");
    transaction.open_table(META).expect("a table").insert(SCHEMA_KEY, "7").expect("inserted");
    transaction.commit().expect("committed");
    drop(database);
    let text = refusal(dir.path());
    assert!(text.contains("newer Doorward (schema 7; this one reads 1)"), "{text}");
}

#[test]
fn a_second_gateway_is_told_and_readers_are_not_disturbed() {
    let dir = dir();
    let live = EmbeddedStore::open(dir.path()).expect("opened");
    wait(live.write(vec![put(Table::Bans, "a", "1")])).expect("written");
    let text = EmbeddedStore::open(dir.path()).err().expect("refused").to_string();
    assert!(text.contains("another gateway holds it"), "{text}");
    EmbeddedStore::check(dir.path()).expect("fine beside a live gateway");
    let reader = EmbeddedStore::open_read_only(dir.path()).expect("opened").expect("there");
    assert_eq!(rows(&reader, Table::Bans).len(), 1);
    wait(live.write(vec![put(Table::Bans, "b", "2")])).expect("written");
    assert_eq!(rows(&reader, Table::Bans).len(), 2, "it follows the live file");
    assert!(matches!(wait(reader.write(vec![])), Err(StoreError::Write(_))));
}

#[test]
fn check_makes_nothing() {
    let dir = dir();
    EmbeddedStore::check(dir.path()).expect("a missing file is fine");
    EmbeddedStore::check(&dir.path().join("missing")).expect("a missing directory is fine");
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    assert!(EmbeddedStore::open_read_only(dir.path()).expect("fine").is_none());
    fs::write(dir.path().join("file"), "").expect("written");
    assert!(refusal(&dir.path().join("file")).contains("is not a directory"));
    assert!(refusal(&dir.path().join("file/below")).contains("cannot be used: Not a directory"));
    let nowhere = EmbeddedStore::check(Path::new("/proc/doorward/below")).expect_err("nobody can make that").to_string();
    assert!(nowhere.contains("/proc/doorward/below: cannot be used"), "{nowhere}");
}

#[test]
fn after_a_kill_rows_are_there_and_check_repairs_nothing() {
    let dir = dir();
    killed(dir.path());
    let before = fs::read(dir.path().join(FILE)).expect("read");
    EmbeddedStore::check(dir.path()).expect("a start would repair it");
    let reader = EmbeddedStore::open_read_only(dir.path()).expect("opened").expect("there");
    assert_eq!(rows(&reader, Table::Bans), [("key".into(), "value".into())]);
    drop(reader);
    assert!(fs::read(dir.path().join(FILE)).expect("read") == before, "not a byte was written");
    let store = EmbeddedStore::open(dir.path()).expect("repaired");
    assert_eq!(rows(&store, Table::Bans), [("key".into(), "value".into())]);
}

#[test]
fn after_a_kill_check_sees_damage_too() {
    let dir = dir();
    killed(dir.path());
    let path = dir.path().join(FILE);
    let content = fs::read(&path).expect("read");
    let mut file = OpenOptions::new().write(true).truncate(true).open(&path).expect("opened");
    let at = content.windows(8).rposition(|window| window == b"keyvalue").expect("the row");
    file.write_all(&content).expect("written");
    file.write_all_at(b"KEYVALUE", at as u64).expect("damaged");
    assert!(refusal(dir.path()).contains("is damaged"));
}

/// A disk that is full while told to be.
#[derive(Debug)]
struct SmallDisk(FileBackend, Arc<AtomicBool>);

impl StorageBackend for SmallDisk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, _: std::ops::Bound<u64>, _: std::ops::Bound<u64>) -> Result<bool, BackendError> {
        Err(BackendError::Unsupported)
    }
}

fn small(dir: &Path, full: &Arc<AtomicBool>) -> EmbeddedStore {
    let path = dir.join(FILE);
    let (at, flag) = (path.clone(), Arc::clone(full));
    let opener: Opener = Box::new(move || {
        let file = OpenOptions::new().read(true).write(true).open(&at).expect("a file");
        let backend = SmallDisk(FileBackend::new(file).expect("a backend"), Arc::clone(&flag));
        redb::Builder::new().create_with_backend(backend).map_err(|error| explain(&at, error))
    });
    EmbeddedStore::with_opener(path, opener).expect("opened")
}

#[test]
fn a_full_disk_is_told_to_every_waiter_and_what_it_owes_is_written_before_anything_later() {
    let dir = dir();
    with_a_row(dir.path());
    let full = Arc::new(AtomicBool::new(false));
    let store = small(dir.path(), &full);
    full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let waiters: Vec<_> = (0..5).map(|turn| store.write(vec![put(Table::Bans, &turn.to_string(), "owed")])).collect();
        for waiter in waiters {
            let text = wait(waiter).expect_err("no room").to_string();
            assert!(text.contains("could not be written") && text.contains("free some space"), "{text}");
        }
    }
    wait(store.write(vec![delete(Table::Bans, "0"), put(Table::Bans, "1", "newer")])).expect_err("no room");
    full.store(false, Ordering::SeqCst);
    wait(store.write(vec![put(Table::Bans, "2", "kept"), delete(Table::Bans, "3")])).expect("there is room again");
    let expected = [("1", "newer"), ("2", "kept"), ("4", "owed"), ("key", "value")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(rows(&store, Table::Bans), expected);
    store.close();
    drop(store);
    let store = EmbeddedStore::open(dir.path()).expect("whole");
    assert_eq!(rows(&store, Table::Bans), expected);
}

#[test]
fn what_is_owed_is_written_at_the_close_where_there_is_room_again() {
    let dir = dir();
    with_a_row(dir.path());
    let full = Arc::new(AtomicBool::new(false));
    let store = small(dir.path(), &full);
    full.store(true, Ordering::SeqCst);
    wait(store.write(vec![put(Table::Approvals, "revoked", "for good")])).expect_err("no room");
    full.store(false, Ordering::SeqCst);
    store.close();
    drop(store);
    let store = EmbeddedStore::open(dir.path()).expect("whole");
    assert_eq!(rows(&store, Table::Approvals), [("revoked".to_owned(), "for good".to_owned())]);
}
