//! One writer thread. Requests' lines are made by the workers, on pages that it collects; events come to it by a queue.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Stdout, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Clock;
use crate::config::{Log, LogFormat, LogTarget};

use super::metrics::Metrics;
use super::pages::{Lines, Pages, Put, Turn, Wanted};
use super::{Event, RequestRecord, format};

/// The workers' end.
pub(super) struct Writer {
    pages: Arc<Pages>,
    queue: Sender<Message>,
    lanes: Arc<Lanes>,
    metrics: Arc<Metrics>,
}

/// Queued events a lane. Each lane has its own bound, so that a flood at the door cannot crowd out a ban.
#[derive(Default)]
struct Lanes([AtomicUsize; 2]);

#[derive(Clone, Copy)]
enum Lane {
    /// What strangers can cause at will, before there is a request.
    Door,
    Security,
}

enum Message {
    /// There are lines on a page.
    Lines(Turn),
    Event {
        event: Box<Event>,
        at: Timestamp,
        lane: Lane,
    },
    /// From here on other lines are made; with all from before.
    Change(Vec<Lines>, Change),
    Reopen,
    Flush(mpsc::SyncSender<()>),
}

enum Change {
    Tap(UnboundedSender<String>),
    Switch(Targets),
}

/// Where lines go.
pub(super) struct Targets {
    access: Option<Output>,
    format: LogFormat,
    events: EventTarget,
}

enum EventTarget {
    None,
    /// Both logs in one place: one buffer, so that lines never mix.
    WithAccess,
    Own(Output),
}

struct Output {
    /// `None`: standard output.
    path: Option<PathBuf>,
    to: BufWriter<Inner>,
    /// So that one event tells of a run of failures.
    failing: bool,
    /// A part of a page may stand there without its end: the next one begins a line of its own.
    torn: bool,
}

enum Inner {
    Stdout(Stdout),
    File(File),
}

/// The pause once nothing is queued: under load lines leave in larger writes, and this thread takes the processor from a worker less
/// often. A process that is killed takes the lines of so long along.
const LINGER: Duration = Duration::from_millis(10);
/// Messages between two flushes.
const BATCH: usize = 4096;

impl Writer {
    pub(super) fn start(targets: Targets, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, messages) = mpsc::channel();
        let lanes = Arc::new(Lanes::default());
        let pages = Arc::new(Pages::default());
        let format = targets.access_format();
        pages.seal(|wanted| wanted.access = format, drop);
        let scribe = Scribe {
            pages: Arc::clone(&pages),
            messages,
            lanes: Arc::clone(&lanes),
            told_drops: metrics.dropped_so_far(),
            metrics: Arc::clone(&metrics),
            targets,
            taps: Vec::new(),
            line: Vec::with_capacity(4096),
            clock: Clock::system(),
        };
        thread::Builder::new().name("doorward-log".to_owned()).spawn(move || scribe.run())?;
        Ok(Self { pages, queue, lanes, metrics })
    }

    pub(super) fn request(&self, record: &RequestRecord) {
        match self.pages.put(record) {
            Put::Told => {}
            Put::First(turn) => self.send(Message::Lines(turn)),
            Put::Full => self.metrics.line_dropped(),
        }
    }

    pub(super) fn event(&self, event: Event, at: Timestamp) {
        let lane = match event {
            Event::ConnectionRefused { .. }
            | Event::ProtocolError { .. }
            | Event::HandshakeFailed { .. }
            | Event::LimitShadowed { .. }
            | Event::AdminRefused { .. } => Lane::Door,
            _ => Lane::Security,
        };
        self.offer(lane, Message::Event { event: Box::new(event), at, lane });
    }

    pub(super) fn tap(&self, tap: UnboundedSender<String>) {
        self.change(|wanted| wanted.tapped = true, Change::Tap(tap));
    }

    pub(super) fn switch(&self, targets: Targets) {
        let format = targets.access_format();
        self.change(|wanted| wanted.access = format, Change::Switch(targets));
    }

    pub(super) fn reopen(&self) {
        self.send(Message::Reopen);
    }

    /// Every page that is not empty has called the writer before, so that its lines come first.
    pub(super) fn flush(&self, deadline: Duration) {
        let (done, flushed) = mpsc::sync_channel(1);
        self.send(Message::Flush(done));
        // A writer stuck on a full pipe must not hold the shutdown.
        let _ = flushed.recv_timeout(deadline);
    }

    fn offer(&self, lane: Lane, message: Message) {
        if !self.lanes.enter(lane) {
            self.metrics.line_dropped();
        } else if self.queue.send(message).is_err() {
            self.lanes.leave(lane);
            self.metrics.line_dropped();
        }
    }

    fn change(&self, wanted: impl Fn(&mut Wanted), change: Change) {
        self.pages.seal(wanted, |lines| self.send(Message::Change(lines, change)));
    }

    fn send(&self, message: Message) {
        // The thread only ends when the `Writer` is gone; were it dead all the same, pages would fill and lines be counted.
        let _ = self.queue.send(message);
    }
}

impl Lane {
    /// Most messages queued.
    const fn bound(self) -> usize {
        match self {
            Self::Door => 16_384,
            Self::Security => 131_072,
        }
    }
}

impl Lanes {
    fn enter(&self, lane: Lane) -> bool {
        let depth = self.depth(lane);
        let room = depth.fetch_add(1, Ordering::Relaxed) < lane.bound();
        if !room {
            depth.fetch_sub(1, Ordering::Relaxed);
        }
        room
    }

    fn leave(&self, lane: Lane) {
        self.depth(lane).fetch_sub(1, Ordering::Relaxed);
    }

    fn depth(&self, lane: Lane) -> &AtomicUsize {
        let [door, security] = &self.0;
        match lane {
            Lane::Door => door,
            Lane::Security => security,
        }
    }
}

/// The writer thread.
struct Scribe {
    pages: Arc<Pages>,
    messages: Receiver<Message>,
    lanes: Arc<Lanes>,
    metrics: Arc<Metrics>,
    told_drops: u64,
    targets: Targets,
    taps: Vec<UnboundedSender<String>>,
    line: Vec<u8>,
    clock: Clock,
}

impl Scribe {
    fn run(mut self) {
        while let Ok(first) = self.messages.recv() {
            self.take(first);
            let behind = (1..BATCH).all(|_| self.messages.try_recv().map(|message| self.take(message)).is_ok());
            self.tell_drops();
            self.write_out();
            if !behind {
                thread::sleep(LINGER);
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Lines(turn) => {
                let pages = Arc::clone(&self.pages);
                pages.collect(turn, |lines| self.lines(lines));
            }
            Message::Event { event, at, lane } => {
                self.lanes.leave(lane);
                self.event(&event, at);
            }
            Message::Change(lines, change) => {
                lines.iter().for_each(|lines| self.lines(lines));
                match change {
                    Change::Tap(tap) => self.taps.push(tap),
                    Change::Switch(targets) => {
                        self.write_out();
                        let old = std::mem::replace(&mut self.targets, targets);
                        for failed in self.targets.inherit(old) {
                            self.failed(failed);
                        }
                    }
                }
            }
            Message::Reopen => self.reopen(),
            Message::Flush(done) => {
                self.tell_drops();
                self.write_out();
                // Nobody may be waiting any more.
                let _ = done.try_send(());
            }
        }
    }

    fn lines(&mut self, lines: &Lines) {
        self.hear(&lines.tapped);
        if let Some(Err(failed)) = self.targets.access.as_mut().map(|output| output.write(&lines.access)) {
            self.metrics.lines_dropped(lines.access.iter().filter(|byte| **byte == b'\n').count());
            self.failed(failed);
        }
    }

    fn event(&mut self, event: &Event, at: Timestamp) {
        if matches!(self.targets.events, EventTarget::None) && self.taps.is_empty() {
            return;
        }
        self.line.clear();
        format::json_event(event, at, &mut self.line);
        let line = std::mem::take(&mut self.line);
        self.hear(&line);
        let written = self.targets.events().map(|output| output.write(&line));
        self.line = line;
        if let Some(Err(failed)) = written {
            self.failed(failed);
        }
    }

    /// Passes JSON lines on to those who tap them.
    fn hear(&mut self, lines: &[u8]) {
        for line in String::from_utf8_lossy(lines).lines() {
            self.taps.retain(|tap| tap.send(line.to_owned()).is_ok());
        }
    }

    fn write_out(&mut self) {
        for failed in self.targets.flush() {
            self.failed(failed);
        }
    }

    fn reopen(&mut self) {
        self.write_out();
        for failed in self.targets.reopen() {
            self.failed(failed);
        }
    }

    /// Tells lines that were dropped since it was last told.
    fn tell_drops(&mut self) {
        let dropped = self.metrics.dropped_so_far();
        let lines = dropped.saturating_sub(self.told_drops);
        if lines > 0 {
            self.told_drops = dropped;
            self.event(&Event::LogDropped { lines }, self.clock.now().wall);
        }
    }

    /// Counts a failed write; the first of a run is also told, on whichever target still takes lines, and on stderr.
    fn failed(&mut self, failed: WriteFailed) {
        self.metrics.write_error();
        if failed.first {
            tracing::error!(target: "doorward", "the log {} cannot be written: {}", failed.name, failed.error);
            let event = Event::LogFailed { path: failed.name, error: failed.error.to_string() };
            self.event(&event, self.clock.now().wall);
        }
    }
}

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct LogError {
    pub path: PathBuf,
    pub error: io::Error,
}

impl From<LogError> for io::Error {
    fn from(failed: LogError) -> Self {
        Self::new(failed.error.kind(), failed.to_string())
    }
}

struct WriteFailed {
    name: String,
    error: io::Error,
    /// The first of a run of failures.
    first: bool,
}

impl Targets {
    /// Opens what the config names. Errors name the file.
    pub(super) fn open(log: &Log) -> Result<Self, LogError> {
        let access = Some(Output::open(&log.access)?);
        let events =
            if log.events == log.access { EventTarget::WithAccess } else { EventTarget::Own(Output::open(&log.events)?) };
        Ok(Self { access, format: log.format, events })
    }

    pub(super) fn none() -> Self {
        Self { access: None, format: LogFormat::Json, events: EventTarget::None }
    }

    /// `None`: access lines go nowhere.
    fn access_format(&self) -> Option<LogFormat> {
        self.access.as_ref().map(|_| self.format)
    }

    fn events(&mut self) -> Option<&mut Output> {
        match &mut self.events {
            EventTarget::None => None,
            EventTarget::WithAccess => self.access.as_mut(),
            EventTarget::Own(output) => Some(output),
        }
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        let own = match &mut self.events {
            EventTarget::Own(output) => Some(output),
            _ => None,
        };
        self.access.iter_mut().chain(own)
    }

    /// What others before could not write.
    fn inherit(&mut self, old: Self) -> Vec<WriteFailed> {
        let events = if let EventTarget::Own(output) = old.events { output.rest() } else { Vec::new() };
        let access = old.access.map(Output::rest).unwrap_or_default();
        let access = self.access.as_mut().and_then(|output| output.go_on_with(&access).err());
        let events = self.events().and_then(|output| output.go_on_with(&events).err());
        access.into_iter().chain(events).collect()
    }

    fn flush(&mut self) -> Vec<WriteFailed> {
        self.outputs().filter_map(|output| output.flush().err()).collect()
    }

    fn reopen(&mut self) -> Vec<WriteFailed> {
        self.outputs().filter_map(|output| output.reopen().err()).collect()
    }
}

impl Output {
    fn open(target: &LogTarget) -> Result<Self, LogError> {
        let (path, inner) = match target {
            LogTarget::Stdout => (None, Inner::Stdout(io::stdout())),
            LogTarget::File(path) => (Some(path.clone()), Inner::File(append(path)?)),
        };
        Ok(Self { path, to: BufWriter::with_capacity(64 * 1024, inner), failing: false, torn: false })
    }

    fn write(&mut self, line: &[u8]) -> Result<(), WriteFailed> {
        let whole = if self.torn { self.to.write_all(b"\n") } else { Ok(()) };
        let result = whole.and_then(|()| {
            let written = self.to.write_all(line);
            // What is larger than the buffer goes past it, once the buffer is out.
            self.torn = written.is_err() && self.to.buffer().is_empty();
            written
        });
        self.note(result)
    }

    fn flush(&mut self) -> Result<(), WriteFailed> {
        let result = self.to.flush();
        if result.is_ok() {
            self.failing = false;
        }
        self.note(result)
    }

    fn rest(self) -> Vec<u8> {
        self.to.into_parts().1.unwrap_or_default()
    }

    fn go_on_with(&mut self, rest: &[u8]) -> Result<(), WriteFailed> {
        if rest.is_empty() { Ok(()) } else { self.write(rest) }
    }

    /// The old file stays open when the new one cannot be had; what it did not take, on a full disk, goes to the new one.
    fn reopen(&mut self) -> Result<(), WriteFailed> {
        let Some(path) = &self.path else { return Ok(()) };
        match append(path) {
            Ok(file) => {
                let fresh = BufWriter::with_capacity(64 * 1024, Inner::File(file));
                let (_, rest) = std::mem::replace(&mut self.to, fresh).into_parts();
                self.torn = false;
                self.go_on_with(&rest.unwrap_or_default())
            }
            Err(LogError { error, .. }) => Err(WriteFailed { name: self.name(), error, first: true }),
        }
    }

    fn note(&mut self, result: io::Result<()>) -> Result<(), WriteFailed> {
        result.map_err(|error| {
            let first = !std::mem::replace(&mut self.failing, true);
            WriteFailed { name: self.name(), error, first }
        })
    }

    fn name(&self) -> String {
        self.path.as_deref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())
    }
}

impl Write for Inner {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

pub(super) fn append(path: &Path) -> Result<File, LogError> {
    let mut options = OpenOptions::new();
    // A named pipe without a reader would hold whoever opens it for writing alone: a start, a reload.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        options.read(true).write(true)
    } else {
        options.append(true).create(true).mode(0o640)
    };
    options.open(path).map_err(|error| LogError { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests;
