//! The body of a response, which holds its connection until it has ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunks::{Chunks, Piece};
use super::framing::{Extent, Framing};
use super::upload::Upload;
use super::{Connection, Fault, Source};

/// The body of a response. While it is read, what is left of its request is written.
///
/// Fails closed: its connection is given back only where response and request have both ended, nothing came behind the end, and
/// neither side said that it would close; in every other case it is closed, also by dropping this before the end.
pub struct Incoming<T, B> {
    /// `None` after the end.
    connection: Option<Box<Connection<T>>>,
    /// `None` once it is whole. In a box: what is handed on with every response should not carry the room for it.
    upload: Option<Box<Upload<B>>>,
    extent: Left,
    keeps: bool,
    /// Fit for another exchange.
    kept: Option<Box<Connection<T>>>,
}

/// A connection after its 101: bytes of another protocol, both ways.
pub struct Tunnel<T> {
    /// Came right behind the 101.
    ahead: Bytes,
    io: T,
}

/// What is left of the body.
enum Left {
    Exact(u64),
    Chunked(Chunks),
    Rest,
    Switched,
}

impl<T, B> Incoming<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Source,
{
    /// Fails closed: a switch to another protocol before the end of the request leads nowhere, and ends the connection. It is no
    /// fault that is held against the server, since the client may have held back the end.
    pub(super) fn new(mut connection: Box<Connection<T>>, upload: Upload<B>, framing: Framing) -> Self {
        let extent = match framing.extent {
            Extent::Exact(length) => Left::Exact(length),
            Extent::Chunked => Left::Chunked(Chunks::new()),
            Extent::Rest => Left::Rest,
            Extent::Switched if upload.is_whole() => Left::Switched,
            Extent::Switched => Left::Exact(0),
        };
        let upload = if upload.is_whole() {
            connection.outbox = upload.into_buffer();
            None
        } else {
            Some(Box::new(upload))
        };
        let mut incoming = Self { connection: Some(connection), upload, extent, keeps: framing.keeps, kept: None };
        if matches!(incoming.extent, Left::Exact(0)) {
            incoming.end();
        }
        incoming
    }

    /// The connection, where it may serve again; once.
    pub fn reclaim(&mut self) -> Option<Box<Connection<T>>> {
        self.kept.take()
    }

    /// Whether this is a 101, which another protocol follows.
    pub fn is_switched(&self) -> bool {
        matches!(self.extent, Left::Switched)
    }

    /// What a 101 leads to; `None` after any other response.
    pub fn into_tunnel(self) -> Option<Tunnel<T>> {
        let switched = self.is_switched();
        let Connection { io, inbox, .. } = *self.connection.filter(|_| switched)?;
        Some(Tunnel { ahead: inbox.bytes.freeze(), io })
    }

    /// Whether nothing more will be written of the request.
    pub fn is_request_over(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_over())
    }

    /// Writes on what is left of the request; ready once that is broken.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_upload(cx) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        if let (Some(connection), Some(upload)) = (&mut self.connection, &mut self.upload)
            && let Poll::Ready(written) = upload.poll(&mut connection.io, cx)
        {
            written.map_err(Fault::Request)?;
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.poll_upload(cx)?;
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        loop {
            let bytes = &mut connection.inbox.bytes;
            let owed = match &mut self.extent {
                Left::Switched => return Poll::Ready(None),
                Left::Exact(left) if !bytes.is_empty() => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let data = bytes.split_to(here).freeze();
                    *left -= here as u64;
                    if *left == 0 {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Left::Exact(left) => Some(*left),
                Left::Rest if !bytes.is_empty() => return Poll::Ready(Some(Ok(Frame::data(bytes.split().freeze())))),
                Left::Rest => None,
                Left::Chunked(chunks) => match chunks.take(bytes)? {
                    Piece::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Piece::End(trailers) => {
                        self.end();
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                    }
                    Piece::Short => chunks.owed(),
                },
            };
            if ready!(connection.inbox.poll_fill(&mut connection.io, cx, owed))? == 0 {
                if matches!(self.extent, Left::Rest) {
                    self.end();
                    return Poll::Ready(None);
                }
                return Poll::Ready(Some(Err(Fault::Incomplete)));
            }
        }
    }

    /// The response has ended.
    fn end(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let whole = self.upload.as_ref().is_none_or(|upload| upload.is_whole());
        if self.keeps && whole && connection.inbox.bytes.is_empty() {
            if let Some(upload) = self.upload.take() {
                connection.outbox = upload.into_buffer();
            }
            connection.inbox.settle();
            self.kept = Some(connection);
        }
    }
}

impl<T, B> Body for Incoming<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Source,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let polled = self.poll(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.connection = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none() || matches!(self.extent, Left::Switched)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.extent {
            Left::Exact(left) => SizeHint::with_exact(*left),
            Left::Switched => SizeHint::with_exact(0),
            Left::Chunked(_) | Left::Rest => SizeHint::default(),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let here = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(here));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
