//! Requests' lines on their way to the writer thread: made by the worker that answered, on a page of its own, and collected
//! many at a time. Nothing is allocated for a line and nothing but the page changes hands.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::config::LogFormat;

use super::{RequestRecord, format};

/// Workers beyond these share pages.
const PAGES: usize = 16;
/// Bytes that wait on one page; beyond them lines are dropped.
const MOST_WAITING: usize = 16 * 1024 * 1024;
/// A page that had to be larger is not kept.
const MOST_KEPT: usize = 1024 * 1024;

/// The pages of one writer. A lock is held for one line, or for the exchange of a page, and never while something is written
/// out: workers do not wait for a disk.
#[derive(Default)]
pub(super) struct Pages([Mutex<Page>; PAGES]);

/// Which lines are made of a request.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    pub access: Option<LogFormat>,
    /// JSON, for those who tap the writer.
    pub tapped: bool,
}

/// What became of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Put {
    /// The page will be collected.
    Told,
    /// So it will be once the writer is given this.
    First(Turn),
    /// Dropped: the writer is behind.
    Full,
}

/// One filling of one page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Turn {
    place: usize,
    count: u64,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Lines {
    pub access: Vec<u8>,
    pub tapped: Vec<u8>,
}

#[derive(Default)]
struct Page {
    wanted: Wanted,
    lines: Lines,
    /// How often the page was taken.
    turns: u64,
    /// An empty one, to go on with while the other is written out.
    spare: Lines,
    stamp: format::Stamp,
}

impl Pages {
    /// Makes a request's lines.
    pub fn put(&self, record: &RequestRecord) -> Put {
        let place = own_place();
        let Some(page) = self.0.get(place) else { return Put::Full };
        let mut page = lock(page);
        let Page { wanted, lines, turns, stamp, .. } = &mut *page;
        if lines.len() >= MOST_WAITING {
            return Put::Full;
        }
        let first = lines.len() == 0;
        match wanted.access {
            Some(LogFormat::Json) => format::json_request(record, stamp, &mut lines.access),
            Some(LogFormat::Combined) => format::combined(record, &mut lines.access),
            None => {}
        }
        if wanted.tapped {
            format::json_request(record, stamp, &mut lines.tapped);
        }
        if first && lines.len() > 0 { Put::First(Turn { place, count: *turns }) } else { Put::Told }
    }

    /// Hands out what a page holds, unless that was taken since.
    pub fn collect(&self, turn: Turn, take: impl FnOnce(&Lines)) {
        let Some(page) = self.0.get(turn.place) else { return };
        let taken = {
            let mut page = lock(page);
            if page.turns == turn.count { page.turn() } else { None }
        };
        let Some(mut lines) = taken else { return };
        take(&lines);
        for buffer in [&mut lines.access, &mut lines.tapped] {
            buffer.clear();
            if buffer.capacity() > MOST_KEPT {
                *buffer = Vec::new();
            }
        }
        lock(page).spare = lines;
    }

    /// Takes all that was made so far, and changes what is made from here on. Until `pass_on` is done no line is made, so
    /// that what it sends to the writer comes before every later one.
    pub fn seal(&self, change: impl Fn(&mut Wanted), pass_on: impl FnOnce(Vec<Lines>)) {
        let mut pages: Vec<_> = self.0.iter().map(lock).collect();
        let lines = pages.iter_mut().filter_map(|page| page.turn()).collect();
        pages.iter_mut().for_each(|page| change(&mut page.wanted));
        pass_on(lines);
    }
}

impl Page {
    fn turn(&mut self) -> Option<Lines> {
        if self.lines.len() == 0 {
            return None;
        }
        self.turns += 1;
        let spare = std::mem::take(&mut self.spare);
        Some(std::mem::replace(&mut self.lines, spare))
    }
}

impl Lines {
    fn len(&self) -> usize {
        self.access.len() + self.tapped.len()
    }
}

/// Each thread has its own, as far as they suffice.
fn own_place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % PAGES);
    }
    PLACE.get()
}

/// A panic while a line is made leaves half of it at most, which its readers skip.
fn lock(page: &Mutex<Page>) -> MutexGuard<'_, Page> {
    page.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::record;

    fn pages(access: Option<LogFormat>, tapped: bool) -> Pages {
        let pages = Pages::default();
        pages.seal(|wanted| *wanted = Wanted { access, tapped }, |lines| assert!(lines.is_empty()));
        pages
    }

    fn first(put: Put) -> Turn {
        match put {
            Put::First(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn collected(pages: &Pages, turn: Turn) -> (String, String) {
        let mut taken = Lines::default();
        pages.collect(turn, |lines| {
            taken = Lines { access: lines.access.clone(), tapped: lines.tapped.clone() };
        });
        (String::from_utf8(taken.access).unwrap(), String::from_utf8(taken.tapped).unwrap())
    }

    #[test]
    fn what_is_put_is_collected_once_and_only_the_first_line_calls_the_writer() {
        let pages = pages(Some(LogFormat::Combined), true);
        let turn = first(pages.put(&record()));
        assert_eq!(pages.put(&record()), Put::Told);
        let (access, tapped) = collected(&pages, turn);
        assert_eq!((access.lines().count(), tapped.lines().count()), (2, 2));
        assert!(access.starts_with("203.0.113.7 - ") && tapped.starts_with("{\"time\":"));
        let next = first(pages.put(&record()));
        assert_eq!(collected(&pages, turn), (String::new(), String::new()), "its turn is over");
        assert_eq!(collected(&pages, next).0.lines().count(), 1);
    }

    #[test]
    fn a_line_that_nobody_reads_is_not_made() {
        assert_eq!(pages(None, false).put(&record()), Put::Told);
    }

    #[test]
    fn a_seal_parts_the_old_lines_from_the_new_ones() {
        let pages = pages(Some(LogFormat::Json), false);
        let old = first(pages.put(&record()));
        let mut sealed = Vec::new();
        pages.seal(|wanted| wanted.access = Some(LogFormat::Combined), |lines| sealed = lines);
        assert!(sealed.len() == 1 && sealed[0].access.starts_with(b"{"));
        let new = first(pages.put(&record()));
        assert_eq!(collected(&pages, old), (String::new(), String::new()), "a call from before brings nothing early");
        assert!(collected(&pages, new).0.starts_with("203.0.113.7 - "));
    }

    #[test]
    fn a_page_that_nobody_collects_stops_growing_and_goes_on_once_it_was() {
        let pages = pages(Some(LogFormat::Json), false);
        let turn = first(pages.put(&record()));
        while pages.put(&record()) != Put::Full {}
        let (access, _) = collected(&pages, turn);
        assert!((MOST_WAITING..MOST_WAITING + 8192).contains(&access.len()));
        assert!(access.ends_with("}\n"), "no line is cut");
        first(pages.put(&record()));
    }
}
