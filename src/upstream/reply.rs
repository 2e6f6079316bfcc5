//! What an exchange came to: a response whose body holds its connection, and the tunnel that a 101 leads to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::BodyError;
use super::connect::{Incoming, Socket};
use super::h1;
use super::pool::Outstanding;

/// A response whose head arrived.
pub struct Reply {
    pub response: Response<ReplyBody>,
    /// `http://127.0.0.1:9000`, for the record.
    pub server: Arc<str>,
}

/// The body of a response; its request counts as outstanding to its end. Fails closed: dropped before, its connection is
/// closed.
pub struct ReplyBody {
    incoming: Incoming,
    outstanding: Option<Outstanding>,
}

/// A connection after its 101: bytes of another protocol, both ways. Counts as outstanding.
pub struct Tunnel {
    io: h1::Tunnel<Socket>,
    _outstanding: Outstanding,
}

impl ReplyBody {
    pub(super) fn new(incoming: Incoming, outstanding: Outstanding) -> Self {
        let mut body = Self { incoming, outstanding: Some(outstanding) };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    /// What a 101 leads to; `None` after any other response.
    pub fn into_tunnel(self) -> Option<Tunnel> {
        match self.incoming {
            Incoming::H1(body) => Some(Tunnel { io: body.into_tunnel()?, _outstanding: self.outstanding? }),
            Incoming::Early(_) | Incoming::H2(_) => None,
        }
    }

    fn end(&mut self) {
        let kept = match &mut self.incoming {
            Incoming::H1(body) if body.is_switched() => return,
            Incoming::H1(body) => body.reclaim(),
            Incoming::Early(body) => body.reclaim(),
            Incoming::H2(_) => None,
        };
        if let (Some(outstanding), Some(connection)) = (self.outstanding.take(), kept) {
            outstanding.keep(connection);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let ended = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || self.incoming.is_end_stream(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        if ended {
            self.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tunnel {
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
