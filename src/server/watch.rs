//! Watches the config and every file it names; says when their contents may have changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Editors and renewal tools write in several steps: wait until they are done.
const SETTLE: Duration = Duration::from_millis(300);
/// Network file systems and symlink swaps tell nobody: look by oneself this often.
const LOOK: Duration = Duration::from_secs(60);

/// A watch over a changing set of files.
pub struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Print>,
    /// `None` where the platform cannot watch; looking every minute remains.
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
    stirred: mpsc::Receiver<()>,
}

/// What tells one state of a file from another without reading it.
type Print = Option<(u64, u64, i64, i64)>;

impl Watch {
    /// Watches the directories of the files (a replaced file is a new inode, so the file itself will not do).
    pub fn new(files: Vec<PathBuf>) -> Self {
        let (stir, stirred) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_event| {
            // Full means that a look is due already.
            let _ = stir.try_send(());
        });
        let mut watch = Self { files: Vec::new(), seen: Vec::new(), watcher: watcher.ok(), watched: Vec::new(), stirred };
        watch.retarget(files);
        watch
    }

    /// From now on these files count, as they are now.
    pub fn retarget(&mut self, files: Vec<PathBuf>) {
        let mut wanted: Vec<PathBuf> = files.iter().map(|file| directory(file)).collect();
        wanted.sort();
        wanted.dedup();
        if let Some(watcher) = &mut self.watcher {
            for gone in self.watched.iter().filter(|path| !wanted.contains(path)) {
                let _ = watcher.unwatch(gone);
            }
            for new in wanted.iter().filter(|path| !self.watched.contains(path)) {
                let _ = watcher.watch(new, RecursiveMode::NonRecursive);
            }
        }
        self.watched = wanted;
        self.seen = files.iter().map(|file| print(file)).collect();
        self.files = files;
    }

    /// Resolves when some file is not what it was at the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                _ = self.stirred.recv() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now: Vec<Print> = self.files.iter().map(|file| print(file)).collect();
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn print(file: &Path) -> Print {
    let found = std::fs::metadata(file).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
