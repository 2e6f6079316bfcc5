//! A request on its way to the wire: its head, then its body as that comes.

use std::array;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::super::BodyError;
use super::super::outgoing::Framing;
use super::{Fault, Source, head};

/// Data up to here is copied behind what is written anyway; more is written from where it lies.
const COPIED: usize = 2 * 1024;

/// What is written at once: data that comes in turn after turn waits for each other up to here, in bytes and in pieces.
const GATHERED: usize = 64 * 1024;
const MOST_PIECES: usize = 24;
/// An end that is no longer than one TLS record goes along, rather than alone: a body of 64 KiB with its head is more than is
/// gathered.
const TAIL: u64 = 16 * 1024;

/// Heads of this size and less leave their buffer for the next.
const KEPT: usize = 4 * 1024;

/// A chunk's size in hexadecimal and its line end, at the longest.
const CHUNK_SIZE: usize = 18;
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// What is still to be written of a request.
pub(super) struct Upload<B> {
    /// The head and small data, written up to `written`.
    lines: Vec<u8>,
    written: usize,
    /// Then these, and how long they are.
    pieces: VecDeque<Bytes>,
    length: usize,
    /// What is to come of the body; `None` once nothing is.
    body: Option<B>,
    framing: Left,
    stage: Stage,
    flushed: bool,
    /// Why nothing more can be written. The response may be there all the same.
    broken: Option<io::Error>,
}

/// More of the body is taken only once all before it is gone: a server that takes nothing is sent no more than is gathered.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Gather,
    /// What is on its way already was given one turn to arrive.
    Turned,
    Write,
}

/// How the end of the body is told.
#[derive(Clone, Copy)]
enum Left {
    Exact(u64),
    Chunked,
}

impl<B: Source> Upload<B> {
    /// Writes into `lines`, which is empty. The map of the request's fields comes back empty, for those of its response.
    pub fn new(mut lines: Vec<u8>, request: Request<B>, preset: &[u8]) -> (Self, HeaderMap) {
        let framing = Framing::of(&request);
        let (mut head, body) = request.into_parts();
        head::write(&mut lines, &head, framing, preset);
        head.headers.clear();
        let (body, framing) = match framing {
            Framing::None | Framing::Empty => (None, Left::Exact(0)),
            Framing::Exact(length) => (Some(body), Left::Exact(length)),
            Framing::Unknown => (Some(body), Left::Chunked),
        };
        let upload = Self {
            lines,
            written: 0,
            pieces: VecDeque::new(),
            length: 0,
            body,
            framing,
            stage: Stage::Gather,
            flushed: false,
            broken: None,
        };
        (upload, head.headers)
    }

    /// Writes what it can; ready once there is nothing more to write, or no way to. Fails where the body does, or is not as long
    /// as it said: what was written of it is then no whole request.
    pub fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            let waits = self.stage != Stage::Write && self.gather(cx)?.is_pending();
            if waits && self.is_written() && self.flushed {
                return Poll::Pending;
            }
            if waits && self.stage == Stage::Gather {
                self.stage = Stage::Turned;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.stage = Stage::Write;
            let sent = match self.poll_write(io, cx) {
                Poll::Ready(Ok(())) => Pin::new(&mut *io).poll_flush(cx),
                other => other,
            };
            if let (Poll::Pending, Some(body)) = (&sent, &self.body) {
                body.waits_for_peer();
            }
            if let Err(error) = ready!(sent) {
                self.body = None;
                self.broken = Some(error);
                return Poll::Ready(Ok(()));
            }
            self.flushed = true;
            self.stage = Stage::Gather;
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Whether all of it was written.
    pub fn is_whole(&self) -> bool {
        self.body.is_none() && self.flushed && self.broken.is_none()
    }

    /// Whether nothing more will be.
    pub fn is_over(&self) -> bool {
        self.broken.is_some() || self.is_whole()
    }

    /// Why nothing more could be written, once.
    pub fn fault(&mut self) -> Option<Fault> {
        self.broken.take().map(Fault::Broken)
    }

    /// The buffer for the next request.
    pub fn into_buffer(mut self) -> Vec<u8> {
        if self.lines.capacity() > KEPT {
            return Vec::new();
        }
        self.lines.clear();
        self.lines
    }

    /// Takes what there is of the body, as much as is written at once; pending where more is to come.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        while self.has_room()
            && let Some(body) = &mut self.body
        {
            let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(Poll::Pending) };
            let data = next.transpose()?.and_then(|frame| frame.into_data().ok());
            let ended = data.is_none() || body.is_end_stream();
            self.queue(data.unwrap_or_default(), ended)?;
            self.stage = Stage::Gather;
        }
        Ok(Poll::Ready(()))
    }

    fn has_room(&self) -> bool {
        let ends = matches!(self.framing, Left::Exact(left) if left <= TAIL);
        self.pieces.len() < MOST_PIECES && (ends || self.lines.len() - self.written + self.length < GATHERED)
    }

    fn queue(&mut self, data: Bytes, mut ended: bool) -> Result<(), BodyError> {
        if self.is_written() {
            self.lines.clear();
            self.written = 0;
        }
        self.flushed = false;
        match &mut self.framing {
            Left::Exact(left) => {
                let differs = || BodyError::Peer("it is not as long as it said".to_owned());
                *left = left.checked_sub(data.len() as u64).ok_or_else(differs)?;
                if ended && *left > 0 {
                    return Err(differs());
                }
                ended |= *left == 0;
                self.put(data);
            }
            Left::Chunked => {
                if !data.is_empty() {
                    let mut size = [0; CHUNK_SIZE];
                    let mut rest = size.as_mut_slice();
                    // Sixteen digits and a line end: there is room.
                    let _ = write!(rest, "{:x}\r\n", data.len());
                    let left = rest.len();
                    self.put_copy(size.get(..CHUNK_SIZE - left).unwrap_or_default());
                }
                let tail = match (data.is_empty(), ended) {
                    (false, false) => CHUNK_END,
                    (false, true) => CHUNK_END_AND_LAST,
                    (true, true) => LAST_CHUNK,
                    (true, false) => &[],
                };
                self.put(data);
                self.put_copy(tail);
            }
        }
        if ended {
            self.body = None;
        }
        Ok(())
    }

    fn put(&mut self, data: Bytes) {
        if data.len() <= COPIED {
            return self.put_copy(&data);
        }
        self.length += data.len();
        self.pieces.push_back(data);
    }

    /// Behind the lines, as long as nothing else is; else it is a piece.
    fn put_copy(&mut self, data: &[u8]) {
        if self.pieces.is_empty() {
            self.lines.extend_from_slice(data);
        } else if !data.is_empty() {
            self.length += data.len();
            self.pieces.push_back(Bytes::copy_from_slice(data));
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.lines.len() && self.pieces.is_empty()
    }

    fn poll_write(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let lines = self.lines.get(self.written..).unwrap_or_default();
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, lines))?
            } else {
                let mut all =
                    [lines].into_iter().filter(|lines| !lines.is_empty()).chain(self.pieces.iter().map(|piece| &**piece));
                let slices: [_; MOST_PIECES] = array::from_fn(|_| IoSlice::new(all.next().unwrap_or_default()));
                let count = self.pieces.len() + usize::from(!lines.is_empty());
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, slices.get(..count).unwrap_or(&slices)))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let of_lines = written.min(self.lines.len() - self.written);
        self.written += of_lines;
        written -= of_lines;
        self.length = self.length.saturating_sub(written);
        while let Some(piece) = self.pieces.front_mut()
            && piece.len() <= written
        {
            written -= piece.len();
            self.pieces.pop_front();
        }
        if let Some(piece) = self.pieces.front_mut() {
            piece.advance(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::{StreamExt as _, stream};
    use http_body::{Frame, SizeHint};
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::super::super::outgoing;
    use super::*;
    use crate::clock::Alarm;

    /// Gives a piece, and the next one a turn later; before the piece of each pause it waits longer.
    struct Turns {
        pieces: VecDeque<Bytes>,
        /// Of known length.
        exact: bool,
        /// Turns until there is something.
        waits: usize,
        /// Pieces until the next pause.
        until_pause: usize,
    }

    impl Body for Turns {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            if self.waits > 0 {
                self.waits -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.until_pause = self.until_pause.checked_sub(1).unwrap_or(usize::MAX);
            self.waits = if self.until_pause == 0 { 5 } else { 1 };
            Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            let length = self.pieces.iter().map(|piece| piece.len() as u64).sum();
            if self.exact { SizeHint::with_exact(length) } else { SizeHint::default() }
        }
    }

    impl Source for Turns {}

    /// Keeps what it is given, so much of it at once.
    struct Socket {
        heard: Vec<u8>,
        writes: usize,
        takes: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.takes == 0 {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.takes);
            self.heard.extend_from_slice(&bytes[..taken]);
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, all: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            if self.takes == 0 {
                return Poll::Pending;
            }
            let bytes = all.iter().flat_map(|slice| slice.iter().copied()).take(self.takes).collect::<Vec<_>>();
            self.heard.extend_from_slice(&bytes);
            self.writes += 1;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What was written after the head, and in how many writes.
    fn written(pieces: &[Vec<u8>], exact: bool, pause: usize, takes: usize) -> (Vec<u8>, usize) {
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        let body = Turns { pieces, exact, waits: 1, until_pause: pause };
        let request = Request::post("/").body(body).unwrap();
        let mut socket = Socket { heard: Vec::new(), writes: 0, takes };
        let (mut upload, _) = Upload::new(Vec::new(), request, b"");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(poll_fn(|cx| upload.poll(&mut socket, cx))).unwrap();
        assert!(upload.is_whole());
        let head = socket.heard.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        (socket.heard.split_off(head), socket.writes)
    }

    fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let line = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
            whole.extend_from_slice(&bytes[line + 2..line + 2 + size]);
            assert_eq!(&bytes[line + 2 + size..][..2], b"\r\n");
            bytes = &bytes[line + 4 + size..];
            if size == 0 {
                assert!(bytes.is_empty());
                return whole;
            }
        }
    }

    #[test]
    fn what_comes_turn_after_turn_is_written_at_once_up_to_a_bound_and_a_pause_is_not_waited_out() {
        let kib = |count: usize, size: usize| vec![vec![b'x'; size * 1024]; count];
        for exact in [true, false] {
            for (pieces, pause, writes) in [
                (kib(4, 15), usize::MAX, 1),
                (kib(40, 1), usize::MAX, 1),
                (kib(8, 16), usize::MAX, 2),
                (kib(4, 8), 2, 2),
                (kib(1, 300), usize::MAX, 1),
                (kib(5, 16), usize::MAX, if exact { 1 } else { 2 }),
            ] {
                let (_, took) = written(&pieces, exact, pause, usize::MAX);
                // The end of a body of unknown length comes by itself.
                assert!(took >= writes && took <= writes + usize::from(!exact), "{} pieces in {took} writes", pieces.len());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_nothing_is_overdue_also_where_the_client_would_send_more_and_one_that_does_is_not() {
        const LIMIT: Duration = Duration::from_secs(3);
        for (takes, overdue) in [(0, true), (usize::MAX, false)] {
            let more = StreamBody::new(stream::iter([Ok(Frame::data(Bytes::from("some")))]).chain(stream::pending()));
            let (request, sending) = outgoing::wrap(Request::post("/").body(more.boxed_unsync()).unwrap());
            let mut socket = Socket { heard: Vec::new(), writes: 0, takes };
            let (mut upload, _) = Upload::new(Vec::new(), request, b"");
            let (mut alarm, asked) = (Alarm::default(), Instant::now());
            tokio::select! {
                _ = poll_fn(|cx| upload.poll(&mut socket, cx)) => panic!("more is to come"),
                () = outgoing::overdue(&mut alarm, sending.as_deref(), asked, LIMIT) => assert!(overdue),
                () = tokio::time::sleep(LIMIT * 10) => assert!(!overdue),
            }
            assert!(!overdue || asked.elapsed() <= LIMIT * 2);
        }
    }

    proptest! {
        #[test]
        fn however_it_comes_and_whatever_is_taken_the_body_arrives_whole_and_in_order(
            pieces in proptest::collection::vec(
                (0..5_usize, any::<u8>()).prop_map(|(kind, seed)| {
                    let length = [0, 1, 700, 2049, 30_000][kind];
                    (0..length).map(|at| seed.wrapping_add(at as u8)).collect::<Vec<u8>>()
                }), 0..12),
            pause in 1..12_usize,
            takes in prop_oneof![Just(usize::MAX), 1000..40_000_usize],
            exact in any::<bool>(),
        ) {
            let (heard, _) = written(&pieces, exact, pause, takes);
            let whole = if exact { heard } else { unchunked(&heard) };
            prop_assert!(whole == pieces.concat());
        }
    }
}
