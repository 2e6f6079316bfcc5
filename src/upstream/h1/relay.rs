//! The rest of an exchange whose response began before the end of its request, on a task of its own.
//!
//! A body moves only while somebody reads it. A client that takes nothing of the response before it has sent its whole request
//! would wait for itself: here the request goes on whoever reads.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{Fault, Incoming, Source};

/// The body of such a response. Fails closed: dropped before the end, its connection is closed.
pub struct Relayed<T, B> {
    items: mpsc::Receiver<Item<T, B>>,
    /// Comes back once its request is whole, or it has ended.
    direct: Option<Incoming<T, B>>,
    /// Bytes still to come before that, where the response says so.
    left: Option<u64>,
}

enum Item<T, B> {
    Frame(Frame<Bytes>),
    Rest(Incoming<T, B>),
    Fault(Fault),
}

impl<T, B> Relayed<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Source + Send + 'static,
{
    pub fn new(incoming: Incoming<T, B>) -> Self {
        let (tell, items) = mpsc::channel(1);
        let left = incoming.size_hint().exact();
        tokio::spawn(relay(incoming, tell));
        Self { items, direct: None, left }
    }

    /// As [`Incoming::reclaim`].
    pub fn reclaim(&mut self) -> Option<Box<super::Connection<T>>> {
        self.direct.as_mut().and_then(Incoming::reclaim)
    }
}

async fn relay<T, B>(mut incoming: Incoming<T, B>, items: mpsc::Sender<Item<T, B>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Source,
{
    loop {
        // No room: nobody reads. Without a reader, or with a request that broke, this ends, and the connection with it.
        let room = tokio::select! {
            room = items.reserve() => room,
            () = poll_fn(|cx| incoming.poll_broken(cx)) => return,
        };
        let Ok(room) = room else { return };
        if incoming.is_request_over() {
            return room.send(Item::Rest(incoming));
        }
        let next = tokio::select! {
            next = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)) => next,
            () = items.closed() => return,
        };
        match next {
            Some(Ok(frame)) => room.send(Item::Frame(frame)),
            Some(Err(fault)) => return room.send(Item::Fault(fault)),
            None => return room.send(Item::Rest(incoming)),
        }
    }
}

impl<T, B> Body for Relayed<T, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: Source,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            if let Some(direct) = &mut self.direct {
                return Pin::new(direct).poll_frame(cx);
            }
            match ready!(self.items.poll_recv(cx)) {
                Some(Item::Frame(frame)) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.left = self.left.map(|left| left.saturating_sub(length));
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Item::Rest(incoming)) => self.direct = Some(incoming),
                Some(Item::Fault(fault)) => return Poll::Ready(Some(Err(fault))),
                None => return Poll::Ready(Some(Err(Fault::Incomplete))),
            }
        }
    }

    /// Not where no byte is left alone: whoever stops there drops what the request still sends.
    fn is_end_stream(&self) -> bool {
        self.direct.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.direct {
            Some(direct) => direct.size_hint(),
            None => self.left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}
