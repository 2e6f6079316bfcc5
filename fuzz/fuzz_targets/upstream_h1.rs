//! The answer of an application, byte by byte: one reading however it is split and whatever was answered before, never two answers,
//! and no byte behind the end of one left for the next.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use doorward::upstream::Body;
use doorward::upstream::h1::Connection;
use doorward_fuzz::block_on;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a connection has read before.
const BEFORE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: a\r\ndate: b\r\nX-One: c\r\ncontent-length: 0\r\n\r\n";

// Two bytes of how it is split, then the answer.
fuzz_target!(|input: &[u8]| {
    let Some(([to_head, stride], answer)) = input.split_first_chunk::<2>() else { return };
    let method = if to_head % 8 == 0 { "HEAD" } else { "GET" };
    let stride = usize::from(*stride) % 32 + 1;
    let (whole, _) = block_on(exchange(Connection::new(Peer::new(answer, answer.len().max(1))), method));
    let (split, behind) = block_on(exchange(Connection::new(Peer::new(answer, stride)), method));
    assert_eq!(whole, split, "two readings of {:?}", String::from_utf8_lossy(answer));
    let (later, _) = block_on(async { exchange(used(answer, stride).await, method).await });
    assert_eq!(whole, later, "another reading on a used connection of {:?}", String::from_utf8_lossy(answer));
    assert!(behind, "what lay behind the end was not noticed: {:?}", String::from_utf8_lossy(answer));
});

/// What came of an exchange; of a body that broke, only that.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused,
    Cut(StatusCode, HeaderMap),
    Whole(StatusCode, HeaderMap, Vec<u8>, Option<HeaderMap>),
}

/// The outcome, and whether a kept connection noticed what is still to be read on it.
async fn exchange(connection: Box<Connection<Peer>>, method: &str) -> (Outcome, bool) {
    let Ok(response) = connection.exchange(Box::new(request(method)), None).await else { return (Outcome::Refused, true) };
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = incoming.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => body.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(_) => return (Outcome::Cut(head.status, head.headers), true),
        }
    }
    // The toy's end counts as something to be noticed.
    let behind = incoming.reclaim().is_none_or(|mut connection| !connection.is_quiet());
    (Outcome::Whole(head.status, head.headers, body, trailers), behind)
}

/// A kept connection that has read an answer, and gets this one next.
async fn used(answer: &[u8], stride: usize) -> Box<Connection<Peer>> {
    let mut peer = Peer::new(BEFORE, BEFORE.len());
    peer.next = Some((Bytes::copy_from_slice(answer), stride));
    let before = Connection::new(peer).exchange(Box::new(request("GET")), None).await;
    let Ok(response) = before else { panic!("an answer") };
    response.into_body().reclaim().expect("a kept connection")
}

fn request(method: &str) -> Request<Body> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::builder().method(method).uri("/").header("host", "a").body(body).expect("a request")
}

/// Answers once it has heard something, and once more.
struct Peer {
    left: Bytes,
    stride: usize,
    heard: bool,
    next: Option<(Bytes, usize)>,
}

impl Peer {
    fn new(answer: &[u8], stride: usize) -> Self {
        Self { left: Bytes::copy_from_slice(answer), stride, heard: false, next: None }
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.heard || self.left.is_empty() && self.next.is_some() {
            return Poll::Pending;
        }
        let here = self.stride.min(self.left.len()).min(buffer.remaining());
        buffer.put_slice(&self.left.split_to(here));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.left.is_empty()
            && let Some(next) = self.next.take()
        {
            (self.left, self.stride) = next;
        }
        self.heard = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
