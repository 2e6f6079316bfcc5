//! Watches the config and every file it names; says when their contents may have changed.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::aside::aside;

/// Editors and renewal tools write in several steps: wait until they are done.
const SETTLE: Duration = Duration::from_millis(300);
/// Network file systems and symlink swaps tell nobody: look by oneself this often.
const LOOK: Duration = Duration::from_secs(60);

/// Links on the way to one file; the kernel follows no more.
const MOST_LINKS: usize = 40;

/// A watch over a changing set of files.
pub struct Watch {
    files: Arc<[PathBuf]>,
    seen: Vec<Print>,
    /// `None` where the platform cannot watch; looking every minute remains.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    stirred: mpsc::Receiver<()>,
    /// When to look next; kept here, so that a caller who stops waiting loses neither a stir nor the minute.
    look_at: Instant,
    /// And for as long as it takes, which a slow file system decides.
    looking: Option<Pin<Box<Looking>>>,
}

type Looking = dyn Future<Output = io::Result<Vec<Print>>> + Send;

/// What tells one state of a file from another without reading it.
type Print = Option<(u64, u64, i64, i64)>;

/// Files as they were at one moment.
#[derive(Default)]
pub struct Prints(HashMap<PathBuf, Print>);

impl Prints {
    /// To be taken before files are read: what changes while they are read is then found by the next look.
    pub fn of(files: Vec<PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (file.clone(), print(&file))).collect())
    }

    /// Takes in what is not among them yet, as it is now; whether there was any.
    pub fn add(&mut self, files: &[PathBuf]) -> bool {
        let before = self.0.len();
        for file in files {
            self.0.entry(file.clone()).or_insert_with(|| print(file));
        }
        self.0.len() > before
    }
}

impl Watch {
    /// Watches the directories of the files (a replaced file is a new inode, so the file itself will not do).
    pub fn new(files: Vec<PathBuf>, read: &Prints) -> Self {
        let (stir, stirred) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |told: notify::Result<Event>| {
            if !told.is_ok_and(|event| is_reading(event.kind)) {
                // Full means that a look is due already.
                let _ = stir.try_send(());
            }
        });
        let (none, seen, watched) = (Arc::default(), Vec::new(), BTreeSet::new());
        let mut watch =
            Self { files: none, seen, watcher: watcher.ok(), watched, stirred, look_at: Instant::now(), looking: None };
        watch.retarget(files, read);
        watch
    }

    /// From now on these files count: as they were when they were read, or as they are now where that is not known.
    pub fn retarget(&mut self, files: Vec<PathBuf>, read: &Prints) {
        let wanted = directories(&files);
        if let Some(watcher) = &mut self.watcher {
            // All anew: behind the same name there may be another directory by now.
            for path in &self.watched {
                let _ = watcher.unwatch(path);
            }
            for path in &wanted {
                let _ = watcher.watch(path, RecursiveMode::NonRecursive);
            }
        }
        self.watched = wanted;
        self.seen = files.iter().map(|file| read.0.get(file).copied().unwrap_or_else(|| print(file))).collect();
        self.files = files.into();
        self.look_at = Instant::now() + SETTLE;
        self.looking = None;
    }

    /// Resolves when some file is not what it was at the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            if let Some(looking) = &mut self.looking {
                let looked = looking.await;
                self.looking = None;
                // Where there is no thread for it, whoever waits looks.
                let now = looked.unwrap_or_else(|_| prints(&self.files));
                if now != self.seen {
                    self.seen = now;
                    return;
                }
            }
            tokio::select! {
                Some(()) = self.stirred.recv() => self.look_at = self.look_at.min(Instant::now() + SETTLE),
                () = tokio::time::sleep_until(self.look_at) => {
                    self.look_at = Instant::now() + LOOK;
                    let files = Arc::clone(&self.files);
                    self.looking = Some(Box::pin(aside(move || prints(&files))));
                }
            }
        }
    }
}

/// A reload reads every file, which is no reason to look at them all again.
fn is_reading(kind: EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Close(AccessMode::Read)))
}

/// Where changes of the files show: their directories, and those of every link on the way to them and of what it leads to.
fn directories(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    // Certificates by the thousand lie in few of them.
    let own: BTreeSet<PathBuf> = files.iter().map(|file| directory(file)).collect();
    let mut found = own.clone();
    let linked = files.iter().filter(|file| link(file).is_some());
    for path in own.iter().chain(linked) {
        follow(path, &mut found);
    }
    found
}

/// Adds the directory of each link on the way to a path, and the directory at its end.
fn follow(path: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        // The first on the way: those behind it may look otherwise from where it leads.
        let ways: Vec<&Path> = path.ancestors().collect();
        let Some((at, to)) = ways.iter().rev().find_map(|way| Some((*way, link(way)?))) else { break };
        let holder = directory(at);
        let behind = path.strip_prefix(at).unwrap_or(Path::new(""));
        // Joined to nothing it would end with a slash.
        let led = if behind.as_os_str().is_empty() { holder.join(to) } else { holder.join(to).join(behind) };
        found.insert(holder);
        path = led;
    }
    if let Ok(real) = fs::canonicalize(&path) {
        found.insert(if real.is_dir() { real } else { directory(&real) });
    }
}

fn link(path: &Path) -> Option<PathBuf> {
    fs::read_link(path).ok()
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    files.iter().map(|file| print(file)).collect()
}

fn print(file: &Path) -> Print {
    let found = fs::metadata(file).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_changes_after_it_was_read_and_before_it_is_watched_is_seen_and_so_again_after_each_retarget() {
        let folder = tempfile::tempdir().expect("a folder");
        let [old, new] = ["old.pem", "new.pem"].map(|name| folder.path().join(name));
        std::fs::write(&old, "1").expect("writable");
        std::fs::write(&new, "1").expect("writable");
        let mut read = Prints::of(vec![old.clone()]);
        assert!(read.add(std::slice::from_ref(&new)), "a file named anew");
        assert!(!read.add(&[old.clone(), new.clone()]));
        std::fs::write(&new, "22").expect("writable");
        assert!(!read.add(std::slice::from_ref(&new)), "what was read stays what it was");

        let mut watch = Watch::new(vec![old.clone(), new.clone()], &read);
        // As at a start, which retargets at once.
        watch.retarget(vec![old.clone(), new.clone()], &read);
        watch.changed().await;
        watch.retarget(vec![old, new], &read);
        watch.changed().await;
    }

    #[tokio::test]
    async fn a_look_goes_on_however_often_nobody_waits_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key.pem");
        let mut watch = Watch::new(vec![file.clone()], &Prints::of(vec![file.clone()]));
        // Nobody tells, so that only the look finds it.
        watch.stirred = mpsc::channel(1).1;
        fs::write(&file, "1").expect("writable");
        tokio::time::sleep_until(watch.look_at).await;
        let mut given_up = 0;
        while futures_util::poll!(Box::pin(watch.changed())).is_pending() {
            given_up += 1;
            assert!(watch.look_at > Instant::now() && given_up < 10_000, "one look, which ends");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_link_swapped_anywhere_on_the_way_to_a_file_is_told_and_not_only_looked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("it is there");
        for place in ["etc", "links", "rel1", "rel2"] {
            fs::create_dir(root.join(place)).expect("writable");
        }
        for release in ["rel1", "rel2"] {
            fs::write(root.join(release).join("good.toml"), release).expect("writable");
        }
        let link = |target: &str, at: &str| std::os::unix::fs::symlink(target, root.join(at)).expect("a link");
        link("../links/current/good.toml", "etc/dw.toml");
        link("../rel1", "links/current");
        let file = root.join("etc/dw.toml");
        let mut watch = Watch::new(vec![file.clone()], &Prints::of(vec![file.clone()]));
        // Nobody looks unasked.
        watch.look_at = Instant::now() + LOOK;
        link("../rel2", "links/next");
        fs::rename(root.join("links/next"), root.join("links/current")).expect("an atomic swap");
        tokio::time::timeout(LOOK / 4, watch.changed()).await.expect("it was told");
    }

    #[test]
    fn links_in_a_ring_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(&two, &one).expect("a link");
        std::os::unix::fs::symlink(&one, &two).expect("a link");
        let watched = directories(&[one.join("key.pem"), one]);
        assert!(watched.contains(folder.path()), "{watched:?}");
    }

    #[test]
    fn changes_show_where_files_lie_where_links_to_them_lie_and_where_those_lead() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("it is there");
        let [real, live, far] = ["2026/certs", "live", "far"].map(|name| root.join(name));
        fs::create_dir_all(&real).expect("writable");
        fs::create_dir_all(&far).expect("writable");
        std::os::unix::fs::symlink(root.join("2026"), &live).expect("a link to a folder");
        fs::write(far.join("key.pem"), "1").expect("writable");
        std::os::unix::fs::symlink(far.join("key.pem"), real.join("key.pem")).expect("a link to a file");
        let through = live.join("certs");
        let files = ["a.pem", "b.pem", "key.pem", "not-there.pem"].map(|name| through.join(name));
        assert_eq!(directories(&files), BTreeSet::from([root, through, real, far]));
    }
}
