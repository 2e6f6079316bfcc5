//! A request on its way to the wire: its head, then its body as that comes.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::super::BodyError;
use super::super::outgoing::Framing;
use super::{Fault, head};

/// Data up to here is copied behind what is written anyway; more is written from where it lies.
const COPIED: usize = 2 * 1024;

/// Heads of this size and less leave their buffer for the next.
const KEPT: usize = 4 * 1024;

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// What is still to be written of a request.
pub(super) struct Upload<B> {
    /// Head, sizes of chunks and small data, written up to `written`.
    lines: Vec<u8>,
    written: usize,
    /// Then this, and then the end of its chunk.
    data: Bytes,
    tail: &'static [u8],
    /// What is to come of the body; `None` once nothing is.
    body: Option<B>,
    framing: Left,
    begun: bool,
    flushed: bool,
    /// Why nothing more can be written. The response may be there all the same.
    broken: Option<io::Error>,
}

/// How the end of the body is told.
#[derive(Clone, Copy)]
enum Left {
    Exact(u64),
    Chunked,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Upload<B> {
    /// Writes into `lines`, which is empty. The map of the request's fields comes back empty, for those of its response.
    pub fn new(mut lines: Vec<u8>, request: Request<B>) -> (Self, HeaderMap) {
        let framing = Framing::of(&request);
        let (mut head, body) = request.into_parts();
        head::write(&mut lines, &head, framing);
        head.headers.clear();
        let (body, framing) = match framing {
            Framing::None | Framing::Empty => (None, Left::Exact(0)),
            Framing::Exact(length) => (Some(body), Left::Exact(length)),
            Framing::Unknown => (Some(body), Left::Chunked),
        };
        let upload =
            Self { lines, written: 0, data: Bytes::new(), tail: &[], body, framing, begun: false, flushed: false, broken: None };
        (upload, head.headers)
    }

    /// Writes what it can; ready once there is nothing more to write, or no way to. Fails where the body does, or is not as long
    /// as it said: what was written of it is then no whole request.
    pub fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            // More of the body is taken only once all before it is gone, save that the first data travels with the head: what is
            // on its way already is given one turn to arrive.
            let begins = !std::mem::replace(&mut self.begun, true);
            let waits = (begins || self.is_written()) && self.poll_body(cx)?.is_pending();
            if begins && waits {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let sent = match self.poll_write(io, cx) {
                Poll::Ready(Ok(())) => Pin::new(&mut *io).poll_flush(cx),
                other => other,
            };
            if let Err(error) = ready!(sent) {
                self.body = None;
                self.broken = Some(error);
                return Poll::Ready(Ok(()));
            }
            self.flushed = true;
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

    /// Takes the next data of the body, where there is a body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, BodyError> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(Poll::Pending) };
        let data = next.transpose()?.and_then(|frame| frame.into_data().ok());
        let ended = data.is_none() || body.is_end_stream();
        self.queue(data.unwrap_or_default(), ended)?;
        Ok(Poll::Ready(()))
    }

    fn queue(&mut self, data: Bytes, ended: bool) -> Result<(), BodyError> {
        if self.written == self.lines.len() {
            self.lines.clear();
            self.written = 0;
        }
        self.flushed = false;
        let mut tail: &'static [u8] = &[];
        let mut ended = ended;
        match &mut self.framing {
            Left::Exact(left) => {
                let differs = || BodyError::Peer("it is not as long as it said".to_owned());
                *left = left.checked_sub(data.len() as u64).ok_or_else(differs)?;
                if ended && *left > 0 {
                    return Err(differs());
                }
                ended |= *left == 0;
            }
            Left::Chunked => {
                if !data.is_empty() {
                    // A vector takes whatever is written.
                    let _ = write!(self.lines, "{:x}\r\n", data.len());
                }
                tail = match (data.is_empty(), ended) {
                    (false, false) => CHUNK_END,
                    (false, true) => CHUNK_END_AND_LAST,
                    (true, true) => LAST_CHUNK,
                    (true, false) => &[],
                };
            }
        }
        if ended {
            self.body = None;
        }
        if data.len() <= COPIED {
            self.lines.extend_from_slice(&data);
            self.lines.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
        Ok(())
    }

    fn is_written(&self) -> bool {
        self.written == self.lines.len() && self.data.is_empty() && self.tail.is_empty()
    }

    fn poll_write(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_written() {
            let lines = self.lines.get(self.written..).unwrap_or_default();
            let mut written = if self.data.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, lines))?
            } else {
                let slices = [IoSlice::new(lines), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_lines = written.min(lines.len());
            self.written += of_lines;
            written -= of_lines;
            let of_data = written.min(self.data.len());
            self.data.advance(of_data);
            written -= of_data;
            self.tail = self.tail.get(written..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }
}
