//! A client's TLS session, which is troubled only when its socket has something to say.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::wire::Wire;

/// In a box: it is handed on often, and large.
///
/// HTTP asks for more after each request and each answer, long before the client speaks again, and that question would go down to
/// the socket through all that makes records of bytes.
pub(super) struct Session {
    stream: Box<TlsStream<Wire>>,
    /// It failed while it gave out what came before: the stream keeps its error for the next question.
    failed: bool,
}

impl Session {
    pub(super) fn new(stream: Box<TlsStream<Wire>>) -> Self {
        Self { stream, failed: false }
    }
}

impl AsyncRead for Session {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (wire, session) = this.stream.get_mut();
        // One that waits for bytes has nothing left to give out but its failure.
        if session.wants_read() && !this.failed {
            ready!(wire.poll_speaks(cx));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut *this.stream).poll_read(cx, buf);
        // Where there is room the stream has looked for more. A session that failed says so again and again; one with nothing
        // new has nothing to do.
        if buf.filled().len() > before && buf.remaining() > 0 {
            this.failed = this.stream.get_mut().1.process_new_packets().is_err();
        }
        read
    }
}

impl AsyncWrite for Session {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}
