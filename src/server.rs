//! Roof: `prepare` (may fail, touches nothing live) -> `commit` (cannot fail); signals, file watch, drain.

mod aside;
mod check;
mod expiry;
mod prepare;
mod process;
mod status;
mod watch;
mod workers;

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::OptionFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin, Control, TakenOver};
use crate::clock::{Clock, Now};
use crate::config::{Config, Diagnostics};
use crate::events::{Event, Events, LogError};
use crate::gateway::listener::{ListenerKind, Slots, Sockets};
use crate::gateway::{Gateway, Snapshot, State};
use crate::state::accounts::Successes;
use crate::state::approvals::{Approvals, TokenKey};
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::Limits;
use crate::state::store::Store;
use crate::state::store::embedded::EmbeddedStore;
use crate::tls::TlsState;
use crate::upstream::{Upstream, Upstreams};

use aside::{Backroom, aside};
pub use check::{Fault, Refused, check};
use prepare::{Prepared, admin_is_taken, cannot_open_admin, probe_logs, wanted};
use process::{announce, say_draining, say_on_stderr, say_reloaded, say_stopped, watch_signals};
use watch::{Prints, Watch};
use workers::Crew;

/// Between the fall of readiness and the closing of the listeners, so that a balancer sees it first.
const UNREADY: Duration = Duration::from_millis(500);
/// How often expired rows leave memory.
const SWEEP: Duration = Duration::from_secs(10);
/// What is queued for the logs has this long at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// How `run` is embedded.
#[derive(Default)]
pub struct Options {
    /// Called once when every listener accepts; gets the bound https, http and metrics addresses.
    pub on_ready: Option<Box<dyn FnOnce(Bound) + Send>>,
    /// Stops the gateway as TERM would (the demo and tests use it).
    pub stop: Option<CancellationToken>,
    /// Install signal handlers, raise the file limit, tell the service manager, print the ready line on stderr.
    pub process: bool,
    /// Every event as a JSON line as well.
    pub tap: Option<tokio::sync::mpsc::UnboundedSender<String>>,
    /// Every snapshot that goes live: who listens sees when it is let go.
    pub snapshots: Option<tokio::sync::mpsc::UnboundedSender<Weak<Snapshot>>>,
    /// Absent: the system's.
    pub clock: Option<Clock>,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub struct Bound {
    pub https: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub admin: PathBuf,
}

/// Why a start failed.
#[derive(Debug)]
pub enum StartError {
    /// The file or what it names. Exit status 78.
    Config(Diagnostics),
    /// An address that the machine does not give now: at another time it may. Exit status 1, so that a service manager tries again.
    Address(Diagnostics),
    /// The state, or the machine. Exit status 1.
    Io(String),
}

/// Runs the gateway until it is told to stop. Blocks.
pub fn run(path: &Path, options: Options) -> Result<(), StartError> {
    if options.process {
        say_on_stderr();
        // A refusal leaves the limit as it was; `accept` backs off when it is reached.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error("runtime"))?;
    runtime.block_on(async { Roof::start(path, options)?.live().await })
}

/// The only place that knows everyone.
struct Roof {
    path: PathBuf,
    gateway: Arc<Gateway>,
    upstreams: Arc<Upstreams>,
    slots: Arc<Slots>,
    store: Arc<dyn Store>,
    crew: Crew,
    doors: Mutex<Doors>,
    generation: AtomicU64,
    draining: AtomicBool,
    /// Its end was told.
    stopped: AtomicBool,
    reloading: tokio::sync::Mutex<Backroom>,
    retarget: tokio::sync::Notify,
    /// The files of the live snapshot, as they were before they were read.
    read: Mutex<Arc<Prints>>,
    /// Overflows of each table when they were last told.
    overflows: [AtomicU64; 4],
    expiring: Mutex<expiry::Told>,
    started: Now,
    snapshots: Option<tokio::sync::mpsc::UnboundedSender<Weak<Snapshot>>>,
    /// Whether stderr is ours to write on.
    process: bool,
}

/// Open addresses, each with what stops it.
#[derive(Default)]
struct Doors {
    open: HashMap<(SocketAddr, ListenerKind), OpenDoor>,
    metrics: Option<(SocketAddr, SocketAddr, CancellationToken)>,
}

struct OpenDoor {
    bound: SocketAddr,
    stop: CancellationToken,
}

impl Roof {
    /// Everything up to the first accept.
    fn start(path: &Path, options: Options) -> Result<Live, StartError> {
        let clock = options.clock.clone().unwrap_or_else(Clock::system);
        let now = clock.now();
        let (loaded, found) = Prepared::load(path, None, now.wall).map_err(StartError::Config)?;
        let (mut prepared, warnings) = loaded.bind(found, None).map_err(StartError::Address)?;
        let config = Arc::clone(&prepared.config);
        if options.process && !warnings.list.is_empty() {
            anstream::eprint!("{}", warnings.render(true));
        }
        // First, since it makes `state_dir`, where logs and the admin socket may want to be.
        let (store, state) = open_state(&config, &clock, now)?;
        let refused = |list| StartError::Config(Diagnostics { source: warnings.source.clone(), list });
        let unwritable = probe_logs(&config);
        if !unwritable.is_empty() {
            return Err(refused(unwritable));
        }
        let mut events = Events::open(&config.log).map_err(io_error("log"))?;
        if let Some(tap) = options.tap.clone() {
            events = events.with_tap(tap);
        }
        let admin_socket = admin::bind(&config.listen.admin).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let list = vec![admin_is_taken(&config, &error)];
                StartError::Address(Diagnostics { source: warnings.source.clone(), list })
            }
            _ => refused(vec![cannot_open_admin(&config, &error)]),
        })?;

        let upstreams = Arc::new(Upstreams::new(events.clone()));
        prepared.upstreams = upstreams.prepare(&config.upstreams, prepared.tls.upstream_clients());
        let slots = Slots::new(&config.caps, config.deadlines.handshake);
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
        let slots = Arc::new(slots.within_descriptors(descriptors));
        let snapshot = Snapshot {
            generation: 0,
            policy: Arc::clone(&config.policy),
            tls: Arc::clone(&prepared.tls),
            upstreams: prepared.upstreams.clone(),
            config: Arc::clone(&config),
        };
        let gateway = Arc::new(Gateway::new(snapshot, state, events, clock));
        let crew = Crew::start(config.workers, &gateway, &slots).map_err(io_error("worker"))?;
        let roof = Arc::new(Self {
            path: path.to_path_buf(),
            gateway,
            upstreams,
            slots,
            store,
            crew,
            doors: Mutex::default(),
            generation: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            reloading: tokio::sync::Mutex::default(),
            retarget: tokio::sync::Notify::new(),
            read: Mutex::default(),
            overflows: Default::default(),
            expiring: Mutex::default(),
            started: now,
            snapshots: options.snapshots.clone(),
            process: options.process,
        });
        Ok(Live { roof, prepared, admin_socket, options })
    }

    /// Swaps, reconciles, opens and closes doors. Cannot fail; returns the live generation, and the approvals that it suspended.
    fn commit(self: &Arc<Self>, prepared: Prepared) -> (u64, Vec<String>) {
        let Prepared { config, tls, upstreams, sockets, metrics, read } = prepared;
        let (gateway, policy) = (&self.gateway, &config.policy);
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        self.tell_files(generation, &config, &tls);
        gateway.state.bans.reconcile(&policy.bans);
        gateway.state.guesses.reconcile(policy.guesses);
        gateway.state.limits.reconcile(&policy.limits);
        self.slots.reconcile(&config.caps, config.deadlines.handshake);
        let suspended = gateway.state.approvals.reconcile(policy.approvals.clone(), gateway.clock.now());
        for id in &suspended {
            let (id, reason) = (id.clone(), Some("its signatures no longer suffice".to_owned()));
            gateway.events.emit(Event::ApprovalChanged { id, action: "suspended", by: "config".to_owned(), reason });
        }
        if let Err(LogError { path, error }) = gateway.events.reconfigure(&config.log) {
            gateway.events.emit(Event::LogFailed { path: path.display().to_string(), error: error.to_string() });
        }
        self.take_over_upstreams(&upstreams);
        let policy = Arc::clone(policy);
        let snapshot = Arc::new(Snapshot { generation, policy, tls, upstreams, config: Arc::clone(&config) });
        if let Some(watching) = &self.snapshots {
            let _ = watching.send(Arc::downgrade(&snapshot));
        }
        gateway.snapshot.store(snapshot);
        self.open_doors(&config, sockets, metrics);
        *self.read() = Arc::new(read);
        self.retarget.notify_one();
        (generation, suspended)
    }

    fn tell_files(&self, generation: u64, config: &Config, tls: &TlsState) {
        let metrics = self.gateway.events.metrics();
        let labels: Vec<_> =
            config.policy.sites.iter().flat_map(|site| site.routes.iter()).map(|route| Arc::clone(&route.label)).collect();
        metrics.routes(generation, &labels);
        metrics.forget_files();
        for file in tls.expiries() {
            metrics.expiry(file.kind, &file.path.to_string_lossy(), file.until.as_second());
        }
        self.tell_expiring(tls);
    }

    fn tell_expiring(&self, tls: &TlsState) {
        let wall = self.gateway.clock.now().wall;
        let due = self.expiring.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).due(tls.expiries(), wall);
        for file in due {
            self.gateway.events.emit(expiry::event(file));
        }
    }

    /// The gauges too: a server that never changed its state is up, and one that is gone is neither.
    fn take_over_upstreams(&self, upstreams: &[Arc<Upstream>]) {
        let metrics = self.gateway.events.metrics();
        for gone in self.upstreams.status() {
            metrics.forget_server(&gone.upstream, &gone.server);
        }
        self.upstreams.commit(upstreams);
        for server in self.upstreams.status() {
            metrics.server_up(&server.upstream, &server.server, server.healthy);
        }
    }

    fn open_doors(
        self: &Arc<Self>,
        config: &Config,
        sockets: Vec<(SocketAddr, Sockets)>,
        metrics: Option<(SocketAddr, TcpListener)>,
    ) {
        let mut doors = self.doors();
        for (asked, sockets) in sockets {
            let (bound, stop) = (sockets.address, CancellationToken::new());
            let key = (asked, sockets.kind);
            self.crew.serve(sockets, &stop);
            doors.open.insert(key, OpenDoor { bound, stop });
        }
        let wanted: Vec<_> = wanted(config).map(|(at, kind)| (at.value, kind)).collect();
        doors.open.retain(|key, door| {
            let keep = wanted.contains(key);
            if !keep {
                door.stop.cancel();
            }
            keep
        });
        let asked = config.listen.metrics.as_ref().map(|at| at.value);
        if let Some((open, _, stop)) = &doors.metrics
            && asked != Some(*open)
        {
            stop.cancel();
            doors.metrics = None;
        }
        if let Some((asked, socket)) = metrics {
            let stop = CancellationToken::new();
            let bound = socket.local_addr().unwrap_or(asked);
            tokio::spawn(admin::serve_metrics(self.admin(), socket, stop.clone()));
            doors.metrics = Some((asked, bound, stop));
        }
    }

    /// A reload that nobody waits for; a process tells its outcome on stderr.
    async fn reload_unasked(self: &Arc<Self>) {
        let outcome = self.reload().await;
        if self.process {
            say_reloaded(outcome);
        }
    }

    /// The one way to a new snapshot, for HUP, the file watch and `doorward reload`.
    async fn reload(self: &Arc<Self>) -> Result<TakenOver, String> {
        let room = self.reloading.lock().await;
        let roof = Arc::clone(self);
        let loaded = room
            .attempt(move || Prepared::load(&roof.path, Some(&roof), roof.gateway.clock.now().wall))
            .await
            .map_err(|error| format!("the configuration could not be read: {error}\n"))?;
        if self.draining.load(Ordering::SeqCst) {
            // Doors that it opened now would never close.
            return Err("the gateway is stopping\n".to_owned());
        }
        match loaded.and_then(|(loaded, found)| loaded.bind(found, Some(self))) {
            Ok((mut prepared, mut found)) => {
                prepared.upstreams = self.upstreams.prepare(&prepared.config.upstreams, prepared.tls.upstream_clients());
                let old = self.gateway.snapshot.load_full();
                let (generation, suspended) = self.commit(prepared);
                room.retire(old);
                found.list.extend(suspended.iter().map(|id| check::suspends(id, "is")));
                let warnings = found.warnings();
                let told = Event::ConfigReloaded { generation, path: self.path.clone(), warnings: warnings.clone() };
                self.gateway.events.emit(told);
                Ok(TakenOver { generation, warnings })
            }
            Err(found) => {
                let generation = self.generation.load(Ordering::SeqCst);
                self.gateway.events.emit(Event::ReloadFailed { generation, errors: found.errors() });
                Err(found.render(false))
            }
        }
    }

    fn admin(self: &Arc<Self>) -> Admin {
        let state = self.gateway.state.clone();
        Admin {
            bans: state.bans,
            guesses: state.guesses,
            limits: state.limits,
            approvals: state.approvals,
            events: self.gateway.events.clone(),
            clock: self.gateway.clock.clone(),
            control: Arc::new(Lent(Arc::clone(self))),
        }
    }

    fn read(&self) -> MutexGuard<'_, Arc<Prints>> {
        self.read.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn bound(&self) -> Bound {
        let doors = self.doors();
        let config = self.gateway.snapshot.load();
        let of = |kind: ListenerKind| {
            wanted(&config.config)
                .filter(|(_, of)| *of == kind)
                .filter_map(|(at, kind)| doors.open.get(&(at.value, kind)).map(|door| door.bound))
                .collect()
        };
        Bound {
            https: of(ListenerKind::Https),
            http: of(ListenerKind::PlainHttp),
            metrics: doors.metrics.as_ref().map(|(_, bound, _)| *bound),
            admin: config.config.listen.admin.clone(),
        }
    }

    fn sweep(&self) {
        let (state, now) = (&self.gateway.state, self.gateway.clock.now());
        state.bans.sweep(now);
        state.guesses.sweep(now);
        state.successes.sweep(now);
        state.limits.sweep(now);
        self.slots.sweep(now);
        let metrics = self.gateway.events.metrics();
        metrics.table("bans", state.bans.len());
        metrics.table("guesses", state.guesses.len());
        metrics.table("limits", state.limits.len());
        metrics.table("connections", self.slots.open());
        self.tell_overflows();
        self.tell_expiring(&self.gateway.snapshot.load().tls);
    }

    /// Tells each table that folded or refused keys since the last time.
    fn tell_overflows(&self) {
        let state = &self.gateway.state;
        let now = [
            ("bans", state.bans.overflow_count(), "the ban of the /24 or /48, or the guess budget alone"),
            ("guesses", state.guesses.overflow_count(), "one budget for a /24 or /48, or for a group of accounts"),
            ("limits", state.limits.overflow_count(), "one bucket for a /24 or /48, or a shared one of last resort"),
            ("handshakes", self.slots.overflow_count(), "one pace for a /24 or /48, or a shared one of last resort"),
        ];
        for ((table, count, into), told) in now.into_iter().zip(&self.overflows) {
            // A reload may replace a limit, and its count with it.
            let keys = count.saturating_sub(told.swap(count, Ordering::Relaxed));
            if keys > 0 {
                self.gateway.events.emit(Event::TableOverflow { table, keys, into: into.to_owned() });
            }
        }
    }
}

/// A roof about to open.
struct Live {
    roof: Arc<Roof>,
    prepared: Prepared,
    admin_socket: std::os::unix::net::UnixListener,
    options: Options,
}

impl Live {
    /// From the first accept to the last.
    async fn live(self) -> Result<(), StartError> {
        let Self { roof, prepared, admin_socket, options } = self;
        let (generation, _) = roof.commit(prepared);
        // So that the gauges of tables are there from the first scrape on.
        roof.sweep();
        let backstage = CancellationToken::new();
        tokio::spawn(Arc::clone(&roof.upstreams).run_health(backstage.clone()));
        let admin = tokio::spawn(admin::serve(roof.admin(), admin_socket, backstage.clone()));
        roof.gateway.events.emit(Event::Started { generation, version: env!("CARGO_PKG_VERSION") });
        let bound = roof.bound();
        let stop = options.stop.unwrap_or_default();
        if options.process {
            // Before the ready line: whoever waits for it may signal at once.
            watch_signals(&roof, &stop).map_err(io_error("signals"))?;
            announce(&bound, generation);
        }
        if let Some(ready) = options.on_ready {
            ready(bound.clone());
        }

        roof.tend(&stop).await;
        let cut = roof.drain().await;

        backstage.cancel();
        let _ = admin.await;
        roof.tell_stopped(cut);
        let (store, events) = (Arc::clone(&roof.store), roof.gateway.events.clone());
        let written = tokio::task::spawn_blocking(move || {
            store.close();
            events.flush(FLUSH);
        });
        // A second signal is heard meanwhile.
        let _ = written.await;
        if roof.process {
            say_stopped(cut);
        }
        Ok(())
    }
}

impl Roof {
    /// Until it is told to stop: files that change, tables that want sweeping.
    async fn tend(self: &Arc<Self>, stop: &CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        // Turned to other files it may take its time, and holds up nothing.
        let (mut watch, mut turning) = (None, Some(Box::pin(self.watching(None))));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(turned) = OptionFuture::from(turning.as_mut()) => (watch, turning) = (Some(turned), None),
                () = self.retarget.notified(), if turning.is_none() => turning = Some(Box::pin(self.watching(watch.take()))),
                Some(()) = OptionFuture::from(watch.as_mut().map(Watch::changed)) => tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.reload_unasked() => {}
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    /// Watches the files of the live config. Aside, for they may be thousands; the watcher's own thread, which is told of each that
    /// a reload opens, stands where who made it stood.
    async fn watching(self: &Arc<Self>, yet: Option<Watch>) -> Watch {
        let (files, read) = (self.files(), Arc::clone(&self.read()));
        let watching = aside(move || match yet {
            Some(mut watch) => {
                watch.retarget(files, &read);
                watch
            }
            None => Watch::new(files, &read),
        });
        watching.await.unwrap_or_else(|_| Watch::new(self.files(), &self.read()))
    }

    /// Readiness falls first, then the doors close; what is open has until the deadline. Returns how many were cut.
    async fn drain(self: &Arc<Self>) -> usize {
        let deadline = self.gateway.snapshot.load().config.deadlines.drain;
        self.draining.store(true, Ordering::SeqCst);
        self.gateway.events.emit(Event::Draining { deadline });
        let unready = UNREADY.min(deadline / 10);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if self.process {
            let until = self.gateway.clock.now().wall.saturating_add(deadline.saturating_add(unready));
            say_draining(self.slots.open(), until.unwrap_or(Timestamp::MAX));
        }
        tokio::time::sleep(unready).await;
        for door in self.doors().open.values() {
            door.stop.cancel();
        }
        let roof = Arc::clone(self);
        let cut = tokio::task::spawn_blocking(move || roof.crew.finish()).await.unwrap_or(0);
        if let Some((_, _, stop)) = self.doors().metrics.take() {
            stop.cancel();
        }
        cut
    }

    /// Once, whichever end comes first.
    fn tell_stopped(&self, cut: usize) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.gateway.events.emit(Event::Stopped { cut });
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let snapshot = self.gateway.snapshot.load();
        let mut files = snapshot.tls.files();
        files.extend(snapshot.config.signer_keys.iter().cloned());
        files.push(self.path.clone());
        files
    }
}

/// What the roof lends to the operators' door.
struct Lent(Arc<Roof>);

impl Control for Lent {
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<TakenOver, String>> + Send + '_>> {
        Box::pin(self.0.reload())
    }

    fn status(&self) -> serde_json::Value {
        status::report(&self.0)
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.gateway.snapshot.load().config)
    }

    fn ready(&self) -> Result<(), String> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err("draining".to_owned());
        }
        Ok(())
    }
}

fn open_state(config: &Config, clock: &Clock, now: Now) -> Result<(Arc<dyn Store>, State), StartError> {
    let failed = |error: crate::state::store::StoreError| StartError::Io(error.to_string());
    let policy = &config.policy;
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&config.state_dir).map_err(failed)?);
    let key = TokenKey::load(&config.approvals_key.value, true).map_err(StartError::Io)?;
    let successes = Arc::new(Successes::load(Arc::clone(&store), now).map_err(failed)?);
    let state = State {
        bans: Arc::new(BanTable::load(Arc::clone(&store), &policy.bans, now).map_err(failed)?),
        guesses: Arc::new(GuessLedger::new(policy.guesses, Arc::clone(&successes), clock.clone())),
        successes,
        limits: Arc::new(Limits::new(&policy.limits)),
        approvals: Arc::new(Approvals::load(Arc::clone(&store), key, policy.approvals.clone(), now).map_err(failed)?),
    };
    Ok((store, state))
}

fn io_error(what: &str) -> impl Fn(std::io::Error) -> StartError + use<> {
    let what = what.to_owned();
    move |error| StartError::Io(format!("{what}: {error}"))
}
