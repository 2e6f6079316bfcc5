//! A connection whose bytes are looked at on their way to hyper.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Looks at what comes and goes, and may end what comes.
pub(super) trait Sift {
    /// What hyper reads after what was passed on of a stream that is ended.
    const LAST: &'static [u8] = &[];

    /// Of these bytes, how many are passed on where the stream ends here.
    fn incoming(&mut self, bytes: &[u8]) -> Option<usize>;

    /// These bytes were taken by the socket.
    fn outgoing(&mut self, _bytes: &[u8]) {}
}

/// A sifted connection. Dropped, it is given back to who keeps its [`Place`], since hyper does not: else a broken HTTP/2
/// connection could not be closed as TLS demands, with a close_notify.
pub(super) struct Sifted<IO, S> {
    /// `None` only in drop.
    io: Option<IO>,
    sift: S,
    /// Looked at, and to be passed on before anything else.
    due: Bytes,
    /// Nothing comes after that.
    ended: bool,
    place: Place<IO>,
}

/// Where a connection is found after hyper has dropped it.
pub(super) struct Place<IO>(Arc<Mutex<Option<IO>>>);

impl<IO, S: Sift> Sifted<IO, S> {
    pub(super) fn new(io: IO, sift: S) -> (Self, Place<IO>) {
        let place = Arc::<Mutex<Option<IO>>>::default();
        (Self { io: Some(io), sift, due: Bytes::new(), ended: false, place: Place(Arc::clone(&place)) }, Place(place))
    }
}

impl<IO, S> Sifted<IO, S> {
    /// Passes on once more, and first, what was read but not used. A copy: the bytes may be few of a large buffer.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.due = [bytes, &self.due].concat().into();
        }
    }
}

impl<IO> Place<IO> {
    /// `None` while hyper has it, or somebody whom hyper gave it to.
    pub(super) fn take(&self) -> Option<IO> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl<IO, S> Drop for Sifted<IO, S> {
    fn drop(&mut self) {
        // Nobody keeps the place of a tunnel: it closes here.
        if Arc::strong_count(&self.place.0) > 1 {
            *self.place.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = self.io.take();
        }
    }
}

impl<IO: AsyncRead + Unpin, S: Sift + Unpin> AsyncRead for Sifted<IO, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended || !this.due.is_empty() {
            let now = this.due.split_to(this.due.len().min(buf.remaining()));
            buf.put_slice(&now);
            return Poll::Ready(Ok(()));
        }
        let Some(io) = &mut this.io else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        let polled = Pin::new(io).poll_read(cx, buf);
        let came = buf.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return polled;
        }
        if let Some(passed) = this.sift.incoming(came) {
            buf.set_filled(before + passed.min(came.len()));
            (this.due, this.ended) = (Bytes::from_static(S::LAST), true);
            // A read of nothing would be taken for the end.
            return if passed == 0 { self.poll_read(cx, buf) } else { polled };
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin, S: Sift + Unpin> AsyncWrite for Sifted<IO, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(io) = &mut this.io else { return Poll::Ready(Err(gone())) };
        let polled = Pin::new(io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(taken)) = &polled {
            this.sift.outgoing(bytes.get(..*taken).unwrap_or(bytes));
        }
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(io) = &mut this.io else { return Poll::Ready(Err(gone())) };
        let polled = Pin::new(io).poll_write_vectored(cx, bytes);
        if let Poll::Ready(Ok(taken)) = &polled {
            let mut left = *taken;
            for piece in bytes {
                let gone = piece.get(..left).unwrap_or(piece);
                this.sift.outgoing(gone);
                left -= gone.len();
            }
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or(Poll::Ready(Ok(())), |io| Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().map_or(Poll::Ready(Ok(())), |io| Pin::new(io).poll_shutdown(cx))
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Ends the stream before the first `!`.
    struct Until(usize);

    impl Sift for Until {
        const LAST: &'static [u8] = b"the end";

        fn incoming(&mut self, bytes: &[u8]) -> Option<usize> {
            bytes.iter().position(|byte| *byte == b'!')
        }

        fn outgoing(&mut self, bytes: &[u8]) {
            self.0 += bytes.len();
        }
    }

    /// Keeps what went out.
    struct Said(Vec<u8>);

    impl Sift for Said {
        fn incoming(&mut self, _: &[u8]) -> Option<usize> {
            None
        }

        fn outgoing(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    #[tokio::test]
    async fn an_ended_stream_has_its_last_words_and_no_byte_more() {
        for came in [&b"some words!and more"[..], b"!", b"!!"] {
            let (mut sifted, _place) = Sifted::new(came, Until(0));
            let mut read = String::new();
            sifted.read_to_string(&mut read).await.unwrap();
            let passed = String::from_utf8_lossy(came.split(|byte| *byte == b'!').next().unwrap());
            assert_eq!(read, format!("{passed}the end"));
        }
    }

    #[tokio::test]
    async fn what_the_socket_takes_of_several_pieces_is_seen_and_no_more() {
        let (ours, _theirs) = tokio::io::duplex(7);
        let (mut sifted, _place) = Sifted::new(ours, Said(Vec::new()));
        let pieces = [IoSlice::new(b"some"), IoSlice::new(b""), IoSlice::new(b"words"), IoSlice::new(b"more")];
        let taken = sifted.write_vectored(&pieces).await.unwrap();
        assert_eq!(sifted.sift.0, b"somewordsmore"[..taken]);
    }

    #[tokio::test]
    async fn what_was_not_used_comes_again_and_first_and_is_looked_at_once() {
        let (mut sifted, _place) = Sifted::new(&b"one two! three"[..], Until(0));
        let mut read = [0; 4];
        sifted.read_exact(&mut read).await.unwrap();
        sifted.unread(&read[2..]);
        sifted.unread(&read[..2]);
        sifted.unread(b"");
        let mut all = String::new();
        sifted.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one twothe end");
    }

    #[tokio::test]
    async fn what_hyper_drops_is_given_back_and_a_tunnel_closes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut sifted, place) = Sifted::new(ours, Until(0));
        sifted.write_all(b"hello").await.unwrap();
        assert_eq!(sifted.sift.0, 5);
        assert!(place.take().is_none());
        drop(sifted);
        let (sifted, nobody) = Sifted::new(place.take().unwrap(), Until(0));
        drop((nobody, sifted));
        let mut said = String::new();
        theirs.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }
}
