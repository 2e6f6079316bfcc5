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
        let waits = session.wants_read();
        if waits && !this.failed {
            ready!(wire.poll_speaks(cx));
        }
        let before = wire.reads();
        let read = Pin::new(&mut *this.stream).poll_read(cx, buf);
        let (wire, session) = this.stream.get_mut();
        // Of the first bytes that it waited for the stream says by itself that they are bad, of those behind them only later. A
        // session that failed says so again and again; one with nothing new has nothing to do.
        if wire.reads() - before > usize::from(waits) {
            this.failed = session.process_new_packets().is_err();
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
