//! HTTP/2 frames counted as they come in: the floods that hyper and h2 answer for as long as they last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::sift::Sift;
use super::wire::Watch;

/// Reads frame headers off the client's bytes and counts what is not requests or their bodies.
///
/// Fails closed: over a budget the connection is ended at the next frame boundary, by the one frame that h2 must answer with
/// GOAWAY. Nothing is allocated, and the clock is read only where a budget is spent.
pub(super) struct Frames {
    watch: Arc<Watch>,
    tally: Tally,
    reader: Reader,
    refused: Arc<Refused>,
    /// The head of a request that is coming in, until its last frame is whole.
    head: Option<Header>,
    /// The highest stream opened.
    highest: u32,
    out: Reader,
    /// The code of a reset that is going out, as far as it is written.
    reset: Option<(u8, u32)>,
    /// Over a budget: what comes after this frame is not passed on.
    flood: Option<Flood>,
}

/// What one connection sent too much of, or did not send first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Settings,
    Ping,
    Priority,
    WindowUpdate,
    EmptyData,
    Continuation,
    Reset,
    Other,
    Total,
    /// h2 takes a preface without SETTINGS, which RFC 9113 section 3.4 forbids.
    Unsettled,
}

/// What h2 refuses by itself, before there is a request or amid one, read off the frames of its connection.
#[derive(Default)]
pub(super) struct Refused {
    /// Heads that were whole before we said goodbye.
    heads: AtomicUsize,
    /// Resets for the client's faults, and why the last one.
    resets: AtomicUsize,
    code: AtomicU32,
    leaving: AtomicBool,
}

/// Budgets are of so long.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
const PREFACE: u8 = 24;
const HEADER: usize = 9;
/// An answer earns the client one control frame for so many bytes: who takes much, grants windows and measures the way often.
const EARNS: u64 = 64;

impl Frames {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            tally: Tally::new(Instant::now()),
            reader: Reader::default(),
            refused: Arc::default(),
            head: None,
            highest: 0,
            out: Reader { preface: 0, ..Reader::default() },
            reset: None,
            flood: None,
        }
    }

    pub(super) fn refused(&self) -> Arc<Refused> {
        Arc::clone(&self.refused)
    }

    /// A head counts once all of it is there: only then h2 can have judged it.
    fn follow(&mut self, header: Option<Header>) {
        match header {
            Some(header) if header.kind == HEADERS && header.stream > self.highest => {
                self.highest = header.stream;
                self.head = Some(header);
            }
            Some(header) if header.kind == CONTINUATION && self.head.is_some() => self.head = Some(header),
            _ => {}
        }
        if self.reader.between() && self.head.take_if(|head| head.flags & END_HEADERS != 0).is_some() {
            self.refused.heads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Refused {
    /// Heads that came whole, by now; `None` once new streams may be ignored because the connection is closing.
    pub(super) fn heads(&self) -> Option<usize> {
        (!self.leaving.load(Ordering::Relaxed)).then(|| self.heads.load(Ordering::Relaxed))
    }

    /// Resets since this was last taken, and the name of the last one's code.
    pub(super) fn take_resets(&self) -> (usize, &'static str) {
        (self.resets.swap(0, Ordering::Relaxed), code_name(self.code.load(Ordering::Relaxed)))
    }

    fn note(&self, code: u32) {
        // What the gateway itself ends or the upstream breaks off is told elsewhere.
        if !matches!(code, NO_ERROR | INTERNAL_ERROR | CANCEL) {
            self.code.store(code, Ordering::Relaxed);
            self.resets.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sift for Frames {
    /// DATA on stream 0: whatever h2 waits for, this is a connection error (RFC 9113 section 6.1).
    const LAST: &'static [u8] = &[0; HEADER];

    fn incoming(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.flood.is_some() && self.reader.between() {
                return Some(at);
            }
            let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let (taken, header) = self.reader.read(rest);
            at += taken;
            self.follow(header);
            if let (Some(header), None) = (header, self.flood)
                && let Some(flood) = self.tally.count(header, Instant::now)
            {
                self.flood = Some(flood);
                self.watch.condemn(flood.as_str());
            }
        }
    }

    fn outgoing(&mut self, bytes: &[u8]) {
        self.tally.sent = self.tally.sent.saturating_add(bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, header) = self.out.read(rest);
            let (piece, after) = rest.split_at(taken);
            rest = after;
            match header {
                Some(header) if header.kind == RST_STREAM => self.reset = Some((0, 0)),
                Some(header) if header.kind == GOAWAY => self.refused.leaving.store(true, Ordering::Relaxed),
                Some(_) => {}
                None => {
                    let Some((have, code)) = self.reset else { continue };
                    let (have, code) =
                        piece.iter().fold((have, code), |(have, code), byte| (have + 1, code << 8 | u32::from(*byte)));
                    self.reset = (have < 4).then_some((have, code));
                    if have == 4 {
                        self.refused.note(code);
                    }
                }
            }
        }
    }
}

/// Splits a byte stream into frame headers, whatever pieces it comes in.
struct Reader {
    preface: u8,
    header: [u8; HEADER],
    have: usize,
    payload: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { preface: PREFACE, header: [0; HEADER], have: 0, payload: 0 }
    }
}

impl Reader {
    /// Between two frames.
    fn between(&self) -> bool {
        self.preface == 0 && self.have == 0 && self.payload == 0
    }

    /// Takes some of the bytes, at least one; a header as soon as it is whole.
    fn read(&mut self, bytes: &[u8]) -> (usize, Option<Header>) {
        if self.preface > 0 {
            let skip = usize::from(self.preface).min(bytes.len());
            self.preface -= u8::try_from(skip).unwrap_or(self.preface);
            return (skip, None);
        }
        if self.payload > 0 {
            let skip = self.payload.min(bytes.len());
            self.payload -= skip;
            return (skip, None);
        }
        let mut taken = 0;
        for (place, byte) in self.header.iter_mut().skip(self.have).zip(bytes) {
            *place = *byte;
            taken += 1;
        }
        self.have += taken;
        if self.have < HEADER {
            return (taken, None);
        }
        self.have = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        (taken, Some(Header { length: self.payload, kind, flags, stream: u32::from_be_bytes(stream) & !RESERVED }))
    }
}

/// What came within the window.
struct Tally {
    /// The first frame has come.
    settled: bool,
    since: Instant,
    counts: [u32; Flood::ALL.len()],
    /// Streams opened.
    streams: u32,
    /// Bytes of answers.
    sent: u64,
}

impl Tally {
    fn new(since: Instant) -> Self {
        Self { settled: false, since, counts: [0; Flood::ALL.len()], streams: 0, sent: 0 }
    }

    /// The budget that this frame is over. A window begins when one is spent after it ended, so that a flood passes no more
    /// than twice its budget, and an honest client costs no look at the clock.
    fn count(&mut self, header: Header, now: impl Fn() -> Instant) -> Option<Flood> {
        if !std::mem::replace(&mut self.settled, true) && header.kind != SETTINGS {
            return Some(Flood::Unsettled);
        }
        let Some(kind) = Flood::of(header) else {
            self.streams = self.streams.saturating_add(u32::from(header.kind == HEADERS));
            return None;
        };
        let over = self.add(kind)?;
        let now = now();
        if now.duration_since(self.since) < WINDOW {
            return Some(over);
        }
        *self = Self { settled: true, ..Self::new(now) };
        self.add(kind)
    }

    fn add(&mut self, kind: Flood) -> Option<Flood> {
        [kind, Flood::Total].into_iter().find(|kind| {
            let budget = self.budget(*kind);
            let Some(count) = self.counts.get_mut(*kind as usize) else { return true };
            *count = count.saturating_add(1);
            u64::from(*count) > budget
        })
    }

    /// How many frames of a kind one window allows.
    fn budget(&self, kind: Flood) -> u64 {
        let streams = u64::from(self.streams);
        let earned = self.sent / EARNS;
        match kind {
            Flood::Settings => 50,
            Flood::Ping => 500 + earned,
            Flood::Priority => 500 + streams,
            Flood::WindowUpdate => 1000 + earned + 2 * streams,
            // The last frame of a body may be empty, and is not counted.
            Flood::EmptyData => 100,
            Flood::Continuation => 200 + streams,
            Flood::Reset => 200 + streams / 2,
            Flood::Other => 200 + streams,
            Flood::Total => 2000 + earned + 3 * streams,
            Flood::Unsettled => 0,
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const RESERVED: u32 = 1 << 31;
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;

/// RFC 9113 section 7.
fn code_name(code: u32) -> &'static str {
    match code {
        1 => "PROTOCOL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        5 => "STREAM_CLOSED",
        6 => "FRAME_SIZE_ERROR",
        7 => "REFUSED_STREAM",
        9 => "COMPRESSION_ERROR",
        11 => "ENHANCE_YOUR_CALM",
        _ => "an error",
    }
}

impl Flood {
    const ALL: [Self; 10] = [
        Self::Settings,
        Self::Ping,
        Self::Priority,
        Self::WindowUpdate,
        Self::EmptyData,
        Self::Continuation,
        Self::Reset,
        Self::Other,
        Self::Total,
        Self::Unsettled,
    ];

    /// What a frame counts as; `None`: a request or a part of its body.
    fn of(header: Header) -> Option<Self> {
        Some(match header.kind {
            DATA if header.length > 0 || header.flags & END_STREAM != 0 => return None,
            DATA => Self::EmptyData,
            HEADERS => return None,
            2 => Self::Priority,
            RST_STREAM => Self::Reset,
            SETTINGS => Self::Settings,
            6 => Self::Ping,
            8 => Self::WindowUpdate,
            CONTINUATION => Self::Continuation,
            _ => Self::Other,
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "a flood of SETTINGS frames",
            Self::Ping => "a flood of PING frames",
            Self::Priority => "a flood of PRIORITY frames",
            Self::WindowUpdate => "a flood of WINDOW_UPDATE frames",
            Self::EmptyData => "a flood of empty DATA frames",
            Self::Continuation => "a flood of CONTINUATION frames",
            Self::Reset => "a flood of RST_STREAM frames",
            Self::Other => "a flood of frames of unknown kinds",
            Self::Total => "a flood of control frames",
            Self::Unsettled => "the first frame is not SETTINGS",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn frames() -> (Frames, Arc<Watch>) {
        let watch = Arc::<Watch>::default();
        let mut frames = Frames::new(Arc::clone(&watch));
        assert_eq!(frames.incoming(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None);
        assert_eq!(frames.incoming(&frame(4, 0, b"")), None);
        (frames, watch)
    }

    /// How many frames pass before the connection is condemned.
    fn passes(frame: &[u8]) -> usize {
        let (mut frames, _) = frames();
        (0..100_000).find(|_| frames.incoming(frame).is_some()).unwrap_or(usize::MAX)
    }

    #[tokio::test(start_paused = true)]
    async fn trap_floods_that_h2_does_not_count_are_cut_at_their_budget() {
        for (kind, payload, budget) in
            [(4, 0, 49), (6, 8, 500), (2, 5, 500), (8, 4, 1000), (0, 0, 100), (9, 3, 200), (3, 4, 200), (0xfa, 1, 200)]
        {
            assert_eq!(passes(&frame(kind, 0, &vec![0; payload])), budget, "frames of kind {kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_frame_is_settings() {
        let watch = Arc::<Watch>::default();
        let mut frames = Frames::new(Arc::clone(&watch));
        let headers = frame(1, 5, b"head");
        assert_eq!(frames.incoming(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &headers].concat()), Some(24 + headers.len()));
        assert_eq!(watch.condemned(), Some("the first frame is not SETTINGS"));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_bodies_are_not_counted_and_earn_control_frames() {
        assert_eq!(passes(&frame(1, 5, b"head")), usize::MAX);
        assert_eq!(passes(&frame(0, 0, b"body")), usize::MAX);
        assert_eq!(passes(&frame(0, 1, b"")), usize::MAX, "the empty end of a body");
        let exchange = [frame(1, 5, b"head"), frame(8, 0, &[0; 4]), frame(8, 0, &[0; 4])].concat();
        assert_eq!(passes(&exchange), usize::MAX);
        let half_reset = [frame(1, 5, b"head"), frame(1, 5, b"head"), frame(3, 0, &[0; 4])].concat();
        assert_eq!(passes(&half_reset), usize::MAX);
        let reset = [frame(1, 5, b"head"), frame(3, 0, &[0; 4])].concat();
        assert!(passes(&reset) < 401, "rapid reset");
    }

    #[tokio::test(start_paused = true)]
    async fn who_downloads_may_grant_windows_and_measure_the_way() {
        let (mut frames, watch) = frames();
        let answer = frame(0, 0, &[0; 16 * 1024]);
        for _ in 0..100_000 {
            frames.outgoing(&answer);
            for _ in 0..2 {
                assert_eq!(frames.incoming(&frame(8, 0, &[0; 4])), None);
            }
            assert_eq!(frames.incoming(&frame(6, 0, &[0; 8])), None);
        }
        assert_eq!(watch.condemned(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn heads_count_when_they_are_whole_and_resets_for_faults_alone() {
        let stream = |mut frame: Vec<u8>, id: u8| {
            frame[8] = id;
            frame
        };
        let came = [
            stream(frame(1, 4, b"head"), 1),
            stream(frame(0, 1, b"body"), 1),
            stream(frame(1, 5, b"head"), 3),
            stream(frame(1, 5, b"trailers"), 1),
            stream(frame(1, 1, b"begun"), 5),
            stream(frame(9, 0, b"and on"), 5),
            stream(frame(9, 4, b"and whole"), 5),
        ];
        let went = [
            frame(1, 4, b"head"),
            frame(3, 0, &[0, 0, 0, 1]),
            frame(0, 1, &[0, 0, 0, 7]),
            frame(3, 0, &[0, 0, 0, 0]),
            frame(3, 0, &[0, 0, 0, 8]),
            frame(3, 0, &[0, 0, 0, 7]),
        ];
        for piece in [1, 3, 4, 1000] {
            let (mut frames, _) = frames();
            let refused = frames.refused();
            let mut heads = Vec::new();
            for frame in &came {
                frame.chunks(piece).for_each(|piece| assert_eq!(frames.incoming(piece), None));
                heads.extend(refused.heads());
            }
            assert_eq!(heads, [1, 1, 2, 2, 2, 2, 3]);
            went.concat().chunks(piece).for_each(|piece| frames.outgoing(piece));
            assert_eq!(refused.take_resets(), (2, "REFUSED_STREAM"));
            assert_eq!(refused.take_resets().0, 0);
            frames.outgoing(&frame(7, 0, &[0; 8]));
            assert_eq!(refused.heads(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_of_its_window() {
        let (mut frames, watch) = frames();
        for _ in 0..100 {
            for _ in 0..49 {
                assert_eq!(frames.incoming(&frame(4, 0, b"")), None);
            }
            tokio::time::advance(WINDOW).await;
        }
        assert_eq!(watch.condemned(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cut_is_at_the_end_of_the_frame_that_was_one_too_many() {
        let (mut frames, watch) = frames();
        let ping = frame(6, 0, &[7; 8]);
        let flood = ping.repeat(600);
        assert_eq!(frames.incoming(&flood), Some(501 * ping.len()));
        assert_eq!(watch.condemned(), Some("a flood of PING frames"));
        assert_eq!(frames.incoming(&flood), Some(0), "and nothing passes any more");
    }

    proptest! {
        #[test]
        fn headers_are_found_whatever_pieces_they_come_in(
            sizes in proptest::collection::vec((0_usize..40, 0_u8..12), 1..20),
            cuts in proptest::collection::vec(1_usize..30, 1..60),
        ) {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(sizes.iter().flat_map(|(length, kind)| frame(*kind, 0, &vec![0xff; *length])));
            let (mut reader, mut found, mut rest, mut cuts) = (Reader::default(), Vec::new(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (mut piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                while !piece.is_empty() {
                    let (taken, header) = reader.read(piece);
                    prop_assert!(taken > 0);
                    found.extend(header.map(|header| (header.length, header.kind)));
                    piece = &piece[taken..];
                }
                rest = after;
            }
            prop_assert!(reader.between());
            prop_assert_eq!(found, sizes);
        }

        #[test]
        fn no_bytes_at_all_can_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut reader = Reader::default();
            let mut tally = Tally::new(Instant::now());
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (taken, header) = reader.read(rest);
                if let Some(header) = header {
                    let _ = tally.count(header, Instant::now);
                }
                rest = &rest[taken..];
            }
        }
    }
}
