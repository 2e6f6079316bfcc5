//! Many small writes as one: h2 flushes after each DATA frame, which would be a TLS record and a system call for each answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream whose writes wait until whoever drives the connection has polled it and calls [`poll_send`](Self::poll_send).
/// Flushes from within the connection are promises that this keeps; a shutdown sends first. Clones are the same stream.
pub(super) struct Gathered<IO>(Arc<Mutex<Gather<IO>>>);

struct Gather<IO> {
    io: IO,
    /// Not longer than [`MOST`]; without an allocation while there is nothing to send.
    waiting: BytesMut,
}

/// One TLS record; what does not fit goes out first, and what is larger by itself is not gathered.
const MOST: usize = 16 * 1024;

impl<IO> Gathered<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self(Arc::new(Mutex::new(Gather { io, waiting: BytesMut::new() })))
    }

    fn held(&self) -> MutexGuard<'_, Gather<IO>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<IO> Clone for Gathered<IO> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<IO: AsyncWrite + Unpin> Gathered<IO> {
    /// Sends what was gathered.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held().poll_send(cx)
    }
}

impl<IO: AsyncWrite + Unpin> Gather<IO> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
        }
        self.waiting = BytesMut::new();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes room for so many bytes; `false`: there is none for them at all.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        if self.waiting.len() + bytes > MOST {
            ready!(self.poll_send(cx))?;
        }
        if self.waiting.capacity() == 0 && bytes <= MOST {
            self.waiting.reserve(MOST);
        }
        Poll::Ready(Ok(bytes <= MOST))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.held().io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut gather = self.held();
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if !ready!(gather.poll_room(cx, bytes))? {
            return Pin::new(&mut gather.io).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| gather.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.held();
        ready!(gather.poll_send(cx))?;
        Pin::new(&mut gather.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_small_waits_to_be_sent_and_nothing_is_lost_or_overtaken() {
        let (ours, mut theirs) = tokio::io::duplex(3000);
        let mut gathered = Gathered::new(ours);
        let sender = gathered.clone();
        let mut sent = Vec::new();
        let write = async {
            for (number, size) in [10, 1000, MOST, 7, 3 * MOST, 1, MOST - 1, 2, 0, 5].into_iter().enumerate() {
                let bytes = vec![u8::try_from(number).unwrap(); size];
                gathered.write_all(&bytes).await.unwrap();
                gathered.flush().await.unwrap();
                assert!(sender.held().waiting.len() <= MOST);
                sent.extend(bytes);
            }
            std::future::poll_fn(|cx| sender.poll_send(cx)).await.unwrap();
            assert_eq!(sender.held().waiting.capacity(), 0);
            gathered.write_all(b"last").await.unwrap();
            sent.extend(b"last");
            gathered.shutdown().await.unwrap();
        };
        let mut read = Vec::new();
        let ((), done) = tokio::join!(write, theirs.read_to_end(&mut read));
        done.unwrap();
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn nothing_goes_out_by_itself() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut gathered = Gathered::new(ours);
        gathered.write_all(b"one").await.unwrap();
        gathered.flush().await.unwrap();
        let mut byte = [0];
        assert!(tokio::time::timeout(std::time::Duration::ZERO, theirs.read(&mut byte)).await.is_err());
        std::future::poll_fn(|cx| gathered.poll_send(cx)).await.unwrap();
        assert_eq!(theirs.read(&mut byte).await.unwrap(), 1);
    }
}
