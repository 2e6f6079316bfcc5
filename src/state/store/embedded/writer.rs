//! The one thread that writes: it takes everything queued, commits it in one transaction, then tells every waiter.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::oneshot;

use super::{Change, Durable, Rows, StoreError, Table, definition, read_rows};
use crate::state::lock;

/// Batches that may wait for the disk; beyond it new ones are refused at once, so that a stuck disk cannot eat the memory.
const MOST_QUEUED: usize = 65_536;

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
    jobs: VecDeque<Job>,
    closed: bool,
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

    pub(super) fn load(&self, table: Table) -> Result<Rows, StoreError> {
        if lock(&self.shared.queue).closed {
            return Err(StoreError::Closed);
        }
        match self.shared.database().as_ref() {
            Some(database) => read_rows(database, table),
            None => Err(StoreError::Read("a write to it failed, and it could not be opened again yet".into())),
        }
    }

    pub(super) fn write(&self, batch: Vec<Change>) -> Durable {
        let (done, answer) = oneshot::channel();
        let queued = {
            let mut queue = lock(&self.shared.queue);
            if queue.closed {
                Err(StoreError::Closed)
            } else if queue.jobs.len() >= MOST_QUEUED {
                Err(StoreError::Write(format!("{MOST_QUEUED} writes are waiting for the disk already")))
            } else {
                queue.jobs.push_back(Job { batch, done });
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
        while let Some(jobs) = self.take() {
            let outcome = self.commit(&jobs);
            for job in jobs {
                // Whoever dropped the future did not want to know.
                let _ = job.done.send(outcome.clone());
            }
        }
    }

    /// Everything queued, as soon as there is something; `None` when closed and drained.
    fn take(&self) -> Option<VecDeque<Job>> {
        let idle = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let mut queue = self.wake.wait_while(lock(&self.queue), idle).unwrap_or_else(PoisonError::into_inner);
        let jobs = std::mem::take(&mut queue.jobs);
        (!jobs.is_empty()).then_some(jobs)
    }

    /// All or nothing. After a failure the database is opened anew, so that the next write gets its chance.
    fn commit(&self, jobs: &VecDeque<Job>) -> Result<(), StoreError> {
        if self.database().is_none() {
            self.reopen().map_err(|error| StoreError::Write(format!("a write failed before, and {error}")))?;
        }
        let outcome = match self.database().as_ref() {
            Some(database) => catch_unwind(AssertUnwindSafe(|| apply(database, jobs)))
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

/// One transaction. Table by table: the order of changes matters only within a table, and nobody sees the middle.
fn apply(database: &Database, jobs: &VecDeque<Job>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        let mut changes = jobs.iter().flat_map(|job| &job.batch).filter(|change| change.table() == table).peekable();
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
