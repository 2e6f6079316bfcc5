//! The crew: one thread a worker, each with its own current-thread runtime and its own listeners.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::gateway::listener::{self, ListenerKind, Slots, Sockets};
use crate::gateway::{Gateway, Worker};

/// How often a worker closes upstream connections that were idle too long.
const SWEEP: Duration = Duration::from_secs(5);

/// Sooner than any timer of a connection. A timer that becomes the next one has tokio wake its own thread, by a system call and
/// an empty turn; with this one in the wheel none ever does.
const BEAT: Duration = Duration::from_millis(100);

/// All workers.
pub struct Crew {
    desks: Mutex<Vec<mpsc::UnboundedSender<Door>>>,
    threads: Mutex<Vec<JoinHandle<usize>>>,
    /// Has every worker drop what it holds.
    let_go: CancellationToken,
    /// Hears nothing, and hangs up with the last worker.
    at_work: Mutex<std::sync::mpsc::Receiver<Infallible>>,
}

/// One socket for one worker to serve.
struct Door {
    socket: std::net::TcpListener,
    kind: ListenerKind,
    stop: CancellationToken,
}

impl Crew {
    /// Starts the threads; they serve nothing yet.
    pub fn start(count: usize, gateway: &Arc<Gateway>, slots: &Arc<Slots>) -> io::Result<Self> {
        let (mut desks, mut threads) = (Vec::new(), Vec::new());
        let (present, at_work) = std::sync::mpsc::channel();
        let let_go = CancellationToken::new();
        for id in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (desk, doors) = mpsc::unbounded_channel();
            let worker = Arc::new(Worker::new(id, Arc::clone(gateway)));
            let (slots, let_go, present) = (Arc::clone(slots), let_go.clone(), present.clone());
            let thread = std::thread::Builder::new().name(format!("doorward-{id}")).spawn(move || {
                let cut = runtime.block_on(work(worker, slots, doors, let_go));
                // Connections go with it, and tell what they have to tell.
                drop(runtime);
                drop(present);
                cut
            })?;
            desks.push(desk);
            threads.push(thread);
        }
        Ok(Self { desks: Mutex::new(desks), threads: Mutex::new(threads), let_go, at_work: Mutex::new(at_work) })
    }

    /// Hands each worker its socket of one address.
    pub fn serve(&self, sockets: Sockets, stop: &CancellationToken) {
        for (desk, socket) in held(&self.desks).iter().zip(sockets.per_worker) {
            // A worker that is gone has panicked; the others go on serving the address.
            let _ = desk.send(Door { socket, kind: sockets.kind, stop: stop.clone() });
        }
    }

    /// Waits for the threads to end, once their doors are stopped. Blocks; returns how many connections were cut.
    pub fn finish(&self) -> usize {
        held(&self.desks).clear();
        let threads = std::mem::take(&mut *held(&self.threads));
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    }

    /// Has the threads drop everything that is under way, each exchange with its record, and end. Waits so long at most.
    pub fn abandon(&self, within: Duration) {
        self.let_go.cancel();
        // One that is stuck is left where it is.
        let _ = held(&self.at_work).recv_timeout(within);
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Serves and reviews: a review that panics takes the worker with it, rather than let anybody stay unseen.
async fn work(worker: Arc<Worker>, slots: Arc<Slots>, doors: mpsc::UnboundedReceiver<Door>, let_go: CancellationToken) -> usize {
    tokio::select! {
        () = let_go.cancelled() => 0,
        cut = serve(&worker, slots, doors) => cut,
        never = worker.review() => match never {},
    }
}

async fn serve(worker: &Arc<Worker>, slots: Arc<Slots>, mut doors: mpsc::UnboundedReceiver<Door>) -> usize {
    let mut open = JoinSet::new();
    let mut cut = 0;
    let mut sweep = tokio::time::interval(SWEEP);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            door = doors.recv() => match door {
                Some(Door { socket, kind, stop }) => {
                    open.spawn(listener::serve(Arc::clone(worker), socket, kind, Arc::clone(&slots), stop));
                }
                None => break,
            },
            Some(closed) = open.join_next() => cut += closed.unwrap_or(0),
            _ = sweep.tick() => worker.pool.sweep(),
            _ = beat.tick() => {}
        }
    }
    while let Some(closed) = open.join_next().await {
        cut += closed.unwrap_or(0);
    }
    cut
}
