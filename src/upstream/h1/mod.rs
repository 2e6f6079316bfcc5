//! HTTP/1.1 towards an application: one exchange at a time, driven by the task of the request itself.
//!
//! There is no task and no channel here. [`Connection::exchange`] writes the request and reads the head of its response; the
//! [`Incoming`] body reads on, writes meanwhile what is left of the request, and gives the connection back once both have ended.
//! Only where a response begins before the end of its request the rest may be [`Relayed`].
//!
//! Fails closed: what has two readings (two framings, two lengths, a bare line feed, a folded line) is a [`Fault`], never a
//! guess, and a connection about whose next byte there is any doubt is closed.

mod chunks;
mod framing;
mod head;
mod incoming;
mod relay;
mod upload;

#[cfg(test)]
mod tests;

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::BodyError;
use super::outgoing::Preset;
use framing::Framing;
use head::{Head, Lines, Names};
use upload::Upload;

pub use incoming::{Incoming, Tunnel};
pub use relay::Relayed;

/// Bytes of the head of a response.
const MAX_HEAD: usize = 64 * 1024;
const TOO_LARGE: Fault = Fault::Malformed("its head is too large");
/// Responses before the response (1xx).
const MAX_INTERIM: usize = 128;

/// What is read at first, and at most, in one go.
const FIRST_READ: usize = 8 * 1024;
const MOST_READ: usize = 96 * 1024;
/// Room behind what is expected: a read that does not fill its buffer has emptied the socket, and need not be repeated to know.
const SLACK: usize = 64;

/// An open connection on which no exchange is under way.
pub struct Connection<T> {
    io: T,
    inbox: Inbox,
    /// In which heads of requests are written.
    outbox: Vec<u8>,
    /// Of the last response.
    names: Names,
}

/// What the peer sent and nobody took yet.
struct Inbox {
    bytes: BytesMut,
    /// Of the next read: more after one that was filled, less after one that was not.
    stride: usize,
}

/// Why an exchange gave no response.
pub enum Failure<B> {
    /// Not a byte of it was written; here it is again.
    Unsent(Box<Request<B>>, Fault),
    Sent(Fault),
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the server closed the connection")]
    Closed,
    #[error("the server closed the connection before the end of its response")]
    Incomplete,
    #[error("the server spoke before it was asked")]
    Unasked,
    #[error("not an HTTP/1.1 response: {0}")]
    Malformed(&'static str),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the request's body: {0}")]
    Request(BodyError),
}

/// The body of a request, told what becomes of it.
pub trait Source: http_body::Body<Data = bytes::Bytes, Error = BodyError> + Unpin {
    /// The peer does not take what was taken of this, which is not asked for more meanwhile.
    fn waits_for_peer(&self) {}
}

impl Source for super::Body {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub fn new(io: T) -> Box<Self> {
        Box::new(Self {
            io,
            inbox: Inbox { bytes: BytesMut::new(), stride: FIRST_READ },
            outbox: Vec::new(),
            names: Names::default(),
        })
    }

    /// Sends one request, `preset` behind its own fields, and waits for the head of its response; interim responses (1xx) are
    /// skipped. A 101 is a response like others, whose body ends at once and can become a [`Tunnel`].
    ///
    /// Fails closed: where anything came or ended before the request, nothing of it is sent, and dropped half way the
    /// connection is closed.
    pub async fn exchange<B>(
        mut self: Box<Self>,
        request: Box<Request<B>>,
        preset: Option<Arc<Preset>>,
    ) -> Result<Response<Incoming<T, B>>, Failure<B>>
    where
        B: Source,
    {
        if let Err(fault) = self.listen() {
            return Err(Failure::Unsent(request, fault));
        }
        let to_head = request.method() == Method::HEAD;
        let (mut upload, mut fields) =
            Upload::new(std::mem::take(&mut self.outbox), *request, preset.as_deref().map_or(&[], Preset::lines));
        drop(preset);
        let mut lines = Lines::default();
        let mut interim = 0;
        let answered = poll_fn(|cx| self.poll_answer(cx, &mut upload, &mut fields, &mut lines, &mut interim));
        let head = answered.await.map_err(Failure::Sent)?;
        let framing = Framing::of(&head, to_head).map_err(Failure::Sent)?;
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        let incoming = Incoming::new(self, upload, framing);
        Ok(response.map(|()| incoming))
    }

    /// Whether nothing came and nothing ended while nobody asked for anything.
    pub fn is_quiet(&mut self) -> bool {
        self.listen().is_ok()
    }

    /// Gives up what it need not hold while it lies idle for long.
    pub fn rest(&mut self) {
        self.inbox.bytes = BytesMut::new();
        self.outbox = Vec::new();
        self.names = Names::default();
    }

    fn listen(&mut self) -> Result<(), Fault> {
        if !self.inbox.bytes.is_empty() {
            return Err(Fault::Unasked);
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // A task that has spent its budget gets nothing from a socket, which must not pass for silence.
        let look = unconstrained(poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buffer)));
        match pin!(look).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(Fault::Broken(error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(Fault::Closed),
            Poll::Ready(Ok(())) => Err(Fault::Unasked),
        }
    }

    /// Writes and reads at the same time: an answer may come before the end of its request.
    fn poll_answer<B>(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload<B>,
        fields: &mut HeaderMap,
        lines: &mut Lines,
        interim: &mut usize,
    ) -> Poll<Result<Head, Fault>>
    where
        B: Source,
    {
        if let Poll::Ready(Err(error)) = upload.poll(&mut self.io, cx) {
            return Poll::Ready(Err(Fault::Request(error)));
        }
        loop {
            let head = match ready!(self.poll_head(cx, fields, lines)) {
                Ok(head) => head,
                // An end that follows a write that failed has the same cause.
                Err(Fault::Closed) => return Poll::Ready(Err(upload.fault().unwrap_or(Fault::Closed))),
                Err(fault) => return Poll::Ready(Err(fault)),
            };
            if !head.is_interim() {
                return Poll::Ready(Ok(head));
            }
            *interim += 1;
            if *interim > MAX_INTERIM {
                return Poll::Ready(Err(Fault::Malformed("too many interim responses")));
            }
        }
    }

    /// The head of a response, its fields in `fields`, which was empty.
    fn poll_head(&mut self, cx: &mut Context<'_>, fields: &mut HeaderMap, lines: &mut Lines) -> Poll<Result<Head, Fault>> {
        loop {
            if let Some(end) = lines.end_of_head(&self.inbox.bytes)? {
                *lines = Lines::default();
                if end > MAX_HEAD {
                    return Poll::Ready(Err(TOO_LARGE));
                }
                return Poll::Ready(Head::parse(
                    self.inbox.bytes.split_to(end).freeze(),
                    std::mem::take(fields),
                    &mut self.names,
                ));
            }
            if self.inbox.bytes.len() >= MAX_HEAD {
                return Poll::Ready(Err(TOO_LARGE));
            }
            let read = ready!(self.inbox.poll_fill(&mut self.io, cx, None))?;
            if read == 0 {
                let fault = if self.inbox.bytes.is_empty() { Fault::Closed } else { Fault::Incomplete };
                return Poll::Ready(Err(fault));
            }
        }
    }
}

impl Inbox {
    /// After an exchange: a large buffer is not kept for one that may be small.
    fn settle(&mut self) {
        if self.stride > FIRST_READ {
            self.bytes = BytesMut::new();
        }
    }

    /// Reads once; 0 is the end. `owed` is how much is still to come, where that is known.
    fn poll_fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        owed: Option<u64>,
    ) -> Poll<io::Result<usize>> {
        let owed = owed.and_then(|owed| usize::try_from(owed).ok()).unwrap_or(usize::MAX);
        let room = owed.saturating_add(SLACK).min(self.stride);
        if self.bytes.capacity() - self.bytes.len() <= room / 4 {
            self.bytes.reserve(room);
        }
        let read = ready!(pin!(io.read_buf(&mut self.bytes)).poll(cx))?;
        if self.bytes.len() == self.bytes.capacity() {
            self.stride = (self.stride * 2).min(MOST_READ);
        } else if read < self.stride / 4 {
            self.stride = (self.stride / 2).max(FIRST_READ);
        }
        Poll::Ready(Ok(read))
    }
}
