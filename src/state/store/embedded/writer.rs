//! The one thread that writes: it takes everything queued, commits it in one transaction, then tells every waiter. What could
//! not be written is owed to the disk and goes first the next time.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;
use tokio::sync::oneshot;

use super::{Change, Durable, Rows, StoreError, Table, definition, read_rows};
use crate::state::lock;

/// Batches that may wait for the disk; beyond it new ones are refused at once, and their changes
/// owed, so that a stuck disk cannot eat the memory.
const MOST_QUEUED: usize = 65_536;
/// Changes that are owed to the disk; beyond it those of further keys are not.
const MOST_OWED: usize = 65_536;
/// How long after a failure what is owed is tried again, where nobody writes meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// Opens the database, at the start and again after a failed write: redb refuses all work after an I/O error.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    opener: Opener,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// `None` after a failure that could not be mended yet, and once closed.
    database: RwLock<Option<Database>>,
}

#[derive(Default)]
struct Queue {
    round: Round,
    closed: bool,
}

/// What one transaction takes from the queue.
#[derive(Default)]
struct Round {
    jobs: VecDeque<Job>,
    /// Of batches that were refused because the queue was full, and so later than every job.
    late: Owed,
}

struct Job {
    batch: Vec<Change>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Writer {
    pub(super) fn start(opener: Opener) -> Result<Self, StoreError> {
        let database = opener()?;
        let shared =
            Arc::new(Shared { opener, queue: Mutex::default(), wake: Condvar::new(), database: RwLock::new(Some(database)) });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || for_thread.run())
            .map_err(|error| StoreError::Write(format!("its writer thread could not be started: {error}")))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn load(&self, path: &Path, table: Table) -> Result<Rows, StoreError> {
        if lock(&self.shared.queue).closed {
            return Err(StoreError::Closed);
        }
        match self.shared.database().as_ref() {
            Some(database) => read_rows(path, database, table),
            None => Err(StoreError::Read("a write to it failed, and it could not be opened again yet".into())),
        }
    }

    pub(super) fn write(&self, batch: Vec<Change>) -> Durable {
        let (done, answer) = oneshot::channel();
        let queued = {
            let mut queue = lock(&self.shared.queue);
            if queue.closed {
                Err(StoreError::Closed)
            } else if queue.round.jobs.len() >= MOST_QUEUED {
                batch.iter().for_each(|change| queue.round.late.add(change));
                Err(StoreError::Write(format!("{MOST_QUEUED} writes are waiting for the disk already")))
            } else {
                queue.round.jobs.push_back(Job { batch, done });
                Ok(())
            }
        };
        self.shared.wake.notify_one();
        Box::pin(async move {
            queued?;
            answer.await.unwrap_or_else(|_| Err(StoreError::Write("its writer thread ended".into())))
        })
    }

    pub(super) fn close(&self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_one();
        // Held while joining, so that a second closer returns no earlier than the first.
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // A panic of the thread was told to its waiters already.
            let _ = thread.join();
        }
        self.shared.let_go();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        let mut owed = Owed::default();
        while let Some(round) = self.take(!owed.changes.is_empty()) {
            let outcome = self.commit(&owed, &round);
            match &outcome {
                Ok(()) => owed.settle(),
                Err(_) => round.changes().for_each(|change| owed.add(change)),
            }
            for job in round.jobs {
                // Whoever dropped the future did not want to know.
                let _ = job.done.send(outcome.clone());
            }
        }
        if !owed.changes.is_empty() && self.commit(&owed, &Round::default()).is_err() {
            tracing::error!(target: "doorward", "{} changes never reached the store", owed.changes.len());
        }
    }

    /// Everything queued, as soon as there is something, or nothing when what is owed is due; `None` when closed and drained.
    fn take(&self, owing: bool) -> Option<Round> {
        let idle = |queue: &mut Queue| queue.round.jobs.is_empty() && !queue.closed;
        let queue = lock(&self.queue);
        let mut queue = if owing {
            self.wake.wait_timeout_while(queue, AGAIN, idle).unwrap_or_else(PoisonError::into_inner).0
        } else {
            self.wake.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner)
        };
        let round = std::mem::take(&mut queue.round);
        (!round.jobs.is_empty() || !queue.closed).then_some(round)
    }

    /// All or nothing. After a failure the database is opened anew, so that the next write gets its chance.
    fn commit(&self, owed: &Owed, round: &Round) -> Result<(), StoreError> {
        if self.database().is_none() {
            self.reopen().map_err(|error| StoreError::Write(format!("a write failed before, and {error}")))?;
        }
        let changes = || owed.changes.values().chain(round.changes());
        let outcome = match self.database().as_ref() {
            Some(database) => catch_unwind(AssertUnwindSafe(|| apply(database, changes)))
                .map_err(|_| "its pages contradict each other; restore it from a backup".to_owned())
                .and_then(|applied| applied.map_err(|error| describe(&error))),
            None => Err("it could not be opened again after a failed write".to_owned()),
        };
        outcome.map_err(|cause| {
            self.let_go();
            match self.reopen() {
                Ok(()) => StoreError::Write(cause),
                Err(error) => StoreError::Write(format!("{cause}; {error}")),
            }
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let database = (self.opener)()?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }

    fn let_go(&self) {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // Closing flushes, which may fail once more; what matters was told to the waiters.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    /// In the order in which they were made, as far as it matters: that of each row.
    fn changes(&self) -> impl Iterator<Item = &Change> {
        self.jobs.iter().flat_map(|job| &job.batch).chain(self.late.changes.values())
    }
}

/// What memory holds and the disk does not: the last change of each row.
#[derive(Default)]
struct Owed {
    changes: HashMap<(Table, Vec<u8>), Change>,
    overflowed: bool,
}

impl Owed {
    fn add(&mut self, change: &Change) {
        let (Change::Put { table, key, .. } | Change::Delete { table, key }) = change;
        let place = (*table, key.clone());
        if self.changes.len() < MOST_OWED || self.changes.contains_key(&place) {
            self.changes.insert(place, change.clone());
        } else if !std::mem::replace(&mut self.overflowed, true) {
            tracing::error!(target: "doorward", "the store owes {MOST_OWED} changes; further ones hold in memory only");
        }
    }

    fn settle(&mut self) {
        if !self.changes.is_empty() {
            tracing::info!(target: "doorward", "the store takes writes again: {} changes were owed", self.changes.len());
            *self = Self::default();
        }
    }
}

/// One transaction. Table by table: the order of changes matters only within a table, and nobody sees the middle.
fn apply<'a, I>(database: &Database, changes: impl Fn() -> I) -> Result<(), redb::Error>
where
    I: Iterator<Item = &'a Change>,
{
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        let mut changes = changes().filter(|change| change.table() == table).peekable();
        if changes.peek().is_none() {
            continue;
        }
        let mut open = transaction.open_table(definition(table))?;
        for change in changes {
            match change {
                Change::Put { key, value, .. } => drop(open.insert(key.as_slice(), value.as_slice())?),
                Change::Delete { key, .. } => drop(open.remove(key.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn describe(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            format!("the disk is full ({error}); free some space, later writes are tried again")
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::conformance::{put, wait};

    #[test]
    fn what_a_full_queue_refuses_is_owed_to_the_disk_after_what_waits() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("store");
        let opener: Opener = Box::new(move || Database::create(&path).map_err(|error| StoreError::Read(error.to_string())));
        let writer = Writer::start(opener).expect("started");
        let stuck = writer.shared.database.write().expect("whole");
        let first = writer.write(vec![put(Table::Bans, "row", "first")]);
        while !lock(&writer.shared.queue).round.jobs.is_empty() {
            std::thread::yield_now();
        }
        let queued: Vec<_> = (0..MOST_QUEUED).map(|_| writer.write(vec![put(Table::Bans, "row", "queued")])).collect();
        let told = wait(writer.write(vec![put(Table::Bans, "row", "refused")])).expect_err("full").to_string();
        assert!(told.contains("waiting for the disk"), "{told}");
        drop(stuck);
        for waiter in [first].into_iter().chain(queued) {
            wait(waiter).expect("written");
        }
        let rows = writer.load(Path::new("bans.redb"), Table::Bans).expect("read");
        assert!(rows.contains(&(b"row".to_vec(), b"refused".to_vec())), "{} rows", rows.len());
    }
}
