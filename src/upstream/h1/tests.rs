//! A peer that plays given bytes in given pieces, and what an exchange with it comes to.

use std::collections::VecDeque;
use std::future::Future;
use std::io;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};

use super::super::Body;
use super::*;

mod differential;
mod properties;

/// What is read after the last piece.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    End,
    Silence,
}

/// Says nothing until something was written, then a piece a read, with a pause between any two.
struct Peer {
    pieces: VecDeque<Bytes>,
    then: Then,
    heard: Vec<u8>,
    paused: bool,
    listener: Option<Waker>,
    /// Bytes that it takes in one write.
    takes: usize,
}

/// What came of an exchange. Pieces of a body are joined: how bytes were split is no part of it.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Whole {
        status: StatusCode,
        headers: HeaderMap,
        body: Vec<u8>,
        trailers: Option<HeaderMap>,
        kept: bool,
    },
    /// The head came, and the body broke.
    Cut {
        status: StatusCode,
        headers: HeaderMap,
        body: Vec<u8>,
    },
    Refused,
}

impl Peer {
    fn new(pieces: impl IntoIterator<Item = Bytes>, then: Then) -> Self {
        Self { pieces: pieces.into_iter().collect(), then, heard: Vec::new(), paused: false, listener: None, takes: usize::MAX }
    }

    fn once(bytes: &[u8]) -> Self {
        Self::new([Bytes::copy_from_slice(bytes)], Then::End)
    }
}

impl AsyncRead for Peer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.heard.is_empty() {
            self.listener = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else {
            return if self.then == Then::End { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let here = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece.split_to(here));
        if !piece.is_empty() {
            self.pieces.push_front(piece);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.takes);
        self.heard.extend_from_slice(&bytes[..taken]);
        if let Some(listener) = self.listener.take() {
            listener.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn request(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/").header("host", "a").body(empty()).unwrap()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn frames(list: Vec<Result<Frame<Bytes>, BodyError>>) -> Body {
    StreamBody::new(futures_util::stream::iter(list)).boxed_unsync()
}

/// One exchange, its body read to the end.
async fn outcome_of(peer: Peer, method: &str) -> Outcome {
    explained(peer, method).await.0
}

/// The same, with the cause of what is not whole.
async fn explained(peer: Peer, method: &str) -> (Outcome, String) {
    let mut response = match Connection::new(peer).exchange(Box::new(request(method)), None).await {
        Ok(response) => response,
        Err(Failure::Unsent(_, fault) | Failure::Sent(fault)) => return (Outcome::Refused, fault.to_string()),
    };
    let (mut outcome, cause) = read(&mut response).await;
    if let Outcome::Whole { kept, .. } = &mut outcome {
        *kept = response.body_mut().reclaim().is_some_and(|connection| connection.io.pieces.is_empty());
    }
    (outcome, cause)
}

/// A response to its end, as nobody keeps its connection, and why it broke.
async fn read<B>(response: &mut Response<B>) -> (Outcome, String)
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let (status, headers) = (response.status(), response.headers().clone());
    let (mut body, mut trailers) = (Vec::new(), None);
    while let Some(frame) = response.body_mut().frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => body.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return (Outcome::Cut { status, headers, body }, error.to_string()),
        }
    }
    (Outcome::Whole { status, headers, body, trailers, kept: false }, String::new())
}

fn play(bytes: &[u8]) -> Outcome {
    block_on(outcome_of(Peer::once(bytes), "GET"))
}

fn body_of(outcome: &Outcome) -> Option<(&[u8], bool)> {
    match outcome {
        Outcome::Whole { body, kept, .. } => Some((body, *kept)),
        _ => None,
    }
}

/// What an exchange with a peer that says no more than OK wrote.
fn written(request: Request<Body>, takes: usize) -> String {
    let peer = Peer { takes, ..Peer::new([Bytes::from("HTTP/1.1 204 No\r\n\r\n")], Then::Silence) };
    let mut incoming = block_on(Connection::new(peer).exchange(Box::new(request), None)).ok().unwrap().into_body();
    String::from_utf8(std::mem::take(&mut incoming.reclaim().unwrap().io.heard)).unwrap()
}

#[test]
fn heads_and_bodies_are_written_whole_whatever_the_socket_takes() {
    let large = "x".repeat(10_000);
    for takes in [1, 7, 100_000] {
        let data = |text: &str| Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())));
        let chunked = Request::post("/p?q=1")
            .header("host", "a")
            .header("content-length", "77")
            .header("connection", "close, x")
            .body(frames(vec![data("hello"), data(""), data(&large), data("bye")]))
            .unwrap();
        let head = "POST /p?q=1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = format!("5\r\nhello\r\n2710\r\n{large}\r\n3\r\nbye\r\n0\r\n\r\n");
        assert_eq!(written(chunked, takes), format!("{head}{body}"));

        let whole = http_body_util::Full::from(large.clone()).map_err(|never| match never {}).boxed_unsync();
        let exact = Request::put("http://elsewhere:8080").header("te", "trailers").header("upgrade", "toy").body(whole).unwrap();
        let head = "PUT / HTTP/1.1\r\nte: trailers\r\nupgrade: toy\r\nhost: elsewhere:8080\r\nconnection: upgrade, te\r\n";
        assert_eq!(written(exact, takes), format!("{head}content-length: 10000\r\n\r\n{large}"));
    }
}

#[test]
fn a_body_that_is_not_as_long_as_it_said_fails_the_exchange() {
    struct Liar(u64, Option<Bytes>);
    impl http_body::Body for Liar {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.1.take().map(|data| Ok(Frame::data(data))))
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0)
        }
    }
    impl Source for Liar {}
    for said in [2, 4] {
        let request = Request::post("/").body(Liar(said, Some("abc".into()))).unwrap();
        let outcome = block_on(Connection::new(Peer::once(b"HTTP/1.1 200 OK\r\n\r\n")).exchange(Box::new(request), None));
        assert!(matches!(outcome, Err(Failure::Sent(Fault::Request(_)))), "{said}");
    }
}

#[test]
fn responses_end_where_their_framing_says() {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(body_of(&play(ok)), Some((&b"ok"[..], true)));
    for (head, body, kept) in [
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\n", "ok", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\no\r\n01 ;a=\"b\"\r\nk\r\n000\r\n\r\n", "ok", true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n", "ok", false),
        ("HTTP/1.1 204 No\r\n\r\n", "", true),
        ("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", "", false),
        ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", "", false),
        ("HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\n", "", false),
        ("HTTP/1.1 304 Same\r\nETag: \"x\"\r\n\r\n", "", true),
        ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", "", true),
    ] {
        let bytes = if head.contains("Content-Length: 2") && body == "ok" { format!("{head}ok") } else { head.to_owned() };
        assert_eq!(body_of(&play(bytes.as_bytes())), Some((body.as_bytes(), kept)), "{head}");
    }
    for (announced, kept) in [("Content-Length: 2\r\n", false), ("Transfer-Encoding: chunked\r\n", false), ("", true)] {
        let to_head = Peer::once(format!("HTTP/1.1 200 OK\r\n{announced}\r\n").as_bytes());
        assert_eq!(body_of(&block_on(outcome_of(to_head, "HEAD"))), Some((&b""[..], kept)), "{announced}");
    }
    let rest = block_on(outcome_of(Peer::once(b"HTTP/1.1 200 OK\r\n\r\nto the end"), "GET"));
    assert_eq!(body_of(&rest), Some((&b"to the end"[..], false)));
}

#[test]
fn trap_response_splitting_a_connection_with_bytes_behind_the_end_is_not_kept() {
    for pieces in [
        vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nevil"],
        vec!["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n\r\nevil"],
        vec!["HTTP/1.1 304 Same\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nevil"],
    ] {
        let peer = Peer::new(pieces.iter().map(|piece| Bytes::from(piece.to_string())), Then::Silence);
        let outcome = block_on(async {
            let mut incoming = Connection::new(peer).exchange(Box::new(request("GET")), None).await.ok().unwrap().into_body();
            while incoming.frame().await.is_some() {}
            let mut kept = incoming.reclaim()?;
            // The toy pauses before each piece.
            let _ = kept.is_quiet();
            kept.exchange(Box::new(request("GET")), None).await.err()
        });
        assert!(matches!(outcome, None | Some(Failure::Unsent(_, Fault::Unasked))), "{pieces:?}");
    }
}

#[test]
fn trap_ambiguous_framing_is_refused_or_cut_and_never_guessed() {
    let head = "HTTP/1.1 200 OK\r\n";
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n",
        "X: a\r\n b\r\n",
        "X : a\r\n",
        " X: a\r\n",
        "X: a\0\r\n",
        "X: a\rb\r\n",
        "X: a\n",
        ": a\r\n",
        "X\r\n",
    ] {
        assert_eq!(play(format!("{head}{fields}\r\nok").as_bytes()), Outcome::Refused, "{fields:?}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD));
    for bytes in [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 No\r\n\r\n",
        "HTTX",
        &many,
        &large,
    ] {
        assert_eq!(play(bytes.as_bytes()), Outcome::Refused, "{:?}", &bytes[..bytes.len().min(40)]);
    }
    let storm = "HTTP/1.1 103 Early\r\n\r\n".repeat(MAX_INTERIM + 1);
    assert_eq!(play(format!("{storm}HTTP/1.1 204 No\r\n\r\n").as_bytes()), Outcome::Refused);

    let long = format!("2;{}", "x".repeat(20_000));
    let trailers = format!("0\r\nX: {}", "y".repeat(20_000));
    for chunks in [
        "2\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n",
        "-2\r\nok\r\n",
        "0x2\r\nok\r\n",
        "\r\nok\r\n",
        ";x\r\nok",
        "2\r\nokay\r\n",
        "2\r\nok\n0\r\n\r\n",
        "11111111111111111\r\nok",
        "2;a\rb\r\nok\r\n",
        "2;\x01\r\nok\r\n",
        "2 2\r\nok\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX: a\n\r\n",
        &long,
        &trailers,
    ] {
        let bytes = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        assert!(matches!(play(bytes.as_bytes()), Outcome::Cut { .. }), "{:?}", &chunks[..chunks.len().min(40)]);
    }
}

#[test]
fn a_bound_on_size_holds_however_the_bytes_are_split() {
    let padded = |start: &str, end: &str, size: usize| format!("{start}{}{end}", "y".repeat(size - start.len() - end.len()));
    let head = |size| padded("HTTP/1.1 204 No\r\nX: ", "\r\n\r\n", size);
    let trailers =
        |size| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}", padded("X: ", "\r\n\r\n", size));
    for (bytes, whole) in [
        (head(MAX_HEAD), true),
        (head(MAX_HEAD + 1), false),
        (trailers(chunks::MAX_TRAILERS), true),
        (trailers(chunks::MAX_TRAILERS + 1), false),
    ] {
        // What was read before lets the first read take all of it.
        for split in [1, 1000, bytes.len() - 1, bytes.len()] {
            let mut connection =
                Connection::new(Peer::new(bytes.as_bytes().chunks(split).map(Bytes::copy_from_slice), Then::End));
            connection.inbox.stride = MOST_READ;
            let outcome = block_on(async {
                let mut response = connection.exchange(Box::new(request("GET")), None).await.ok()?;
                Some(read(&mut response).await.0)
            });
            assert_eq!(matches!(outcome, Some(Outcome::Whole { .. })), whole, "{} in pieces of {split}", bytes.len());
        }
    }
}

#[test]
fn a_101_becomes_a_tunnel_with_what_was_read_behind_it() {
    let peer = Peer::once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: toy\r\n\r\nhello");
    let said = block_on(async {
        let response = Connection::new(peer).exchange(Box::new(request("GET")), None).await.ok().unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(http_body::Body::is_end_stream(response.body()));
        let mut said = Vec::new();
        response.into_body().into_tunnel().unwrap().read_to_end(&mut said).await.unwrap();
        said
    });
    assert_eq!(said, b"hello");

    let ordinary = block_on(Connection::new(Peer::once(b"HTTP/1.1 200 OK\r\n\r\n")).exchange(Box::new(request("GET")), None));
    assert!(ordinary.ok().unwrap().into_body().into_tunnel().is_none());
    let half = futures_util::StreamExt::chain(
        futures_util::stream::iter([Ok(Frame::data(Bytes::from("half")))]),
        futures_util::stream::pending(),
    );
    let request = Request::post("/").body(StreamBody::new(half).boxed_unsync()).unwrap();
    let early = block_on(Connection::new(Peer::once(b"HTTP/1.1 101 Go\r\n\r\n")).exchange(Box::new(request), None));
    let mut early = early.ok().unwrap().into_body();
    assert!(early.reclaim().is_none() && early.into_tunnel().is_none(), "before the end of the request it leads nowhere");
}

#[test]
fn what_ended_or_spoke_before_it_was_asked_is_sent_nothing() {
    for (peer, unasked) in [(Peer::once(b""), false), (Peer::once(b"HTTP/1.1 200 OK\r\n\r\n"), true)] {
        // As if an exchange had been before; the toy pauses once.
        let mut connection = Connection::new(Peer { heard: b"x".to_vec(), paused: true, ..peer });
        if !unasked {
            connection.io.pieces.clear();
        }
        let Err(Failure::Unsent(_, fault)) = block_on(connection.exchange(Box::new(request("GET")), None)) else {
            panic!("sent")
        };
        assert_eq!(matches!(fault, Fault::Unasked), unasked);
        assert_eq!(matches!(fault, Fault::Closed), !unasked);
    }
}

#[test]
fn reads_grow_where_much_comes_and_rest_gives_the_buffer_back() {
    let body = vec![7; 4 << 20];
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    let (frames, mut kept) = block_on(async {
        let peer = Peer::new([Bytes::from(bytes)], Then::Silence);
        let mut incoming = Connection::new(peer).exchange(Box::new(request("GET")), None).await.ok().unwrap().into_body();
        let mut frames = 0;
        let mut came = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            frames += 1;
            came += frame.into_data().unwrap().len();
        }
        assert_eq!(came, body.len());
        (frames, incoming.reclaim().unwrap())
    });
    assert!(frames < body.len() / MOST_READ + 16, "{frames}");
    kept.rest();
    assert_eq!(kept.inbox.bytes.capacity(), 0);
}
