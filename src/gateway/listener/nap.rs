//! HTTP/1 on one connection, which gives up its buffers while it naps.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Dropped;
use super::heads::Heads;
use super::http::Answer;
use super::sift::Sifted;
use super::wire::Watch;

/// A connection that speaks HTTP/1. Asked to nap, it keeps the stream alone; with the first byte that comes, or when it is to
/// leave, hyper has it again as if nothing had been. Nothing that was read is lost, and all deadlines are those of
/// [`drive`](super::drive).
pub(super) struct Talk<'a, IO, S: Answers> {
    state: State<'a, IO, S>,
    builder: Builder,
    service: &'a S,
    watch: &'a Watch,
}

/// What answers one request.
pub(super) trait Answers: Service<Request<Incoming>, Response = Response<Answer>, Error = Dropped> {}

impl<S: Service<Request<Incoming>, Response = Response<Answer>, Error = Dropped>> Answers for S {}

type Stream<IO> = Sifted<IO, Heads>;
type Connection<'a, IO, S> = UpgradeableConnection<TokioIo<Stream<IO>>, &'a S>;

#[expect(clippy::large_enum_variant, reason = "in a box a nap would need memory to give memory up")]
enum State<'a, IO, S: Answers> {
    /// In a box, so that what naps is small.
    Awake(Box<Connection<'a, IO, S>>),
    Napping(Stream<IO>),
    /// It is a tunnel's.
    Gone,
}

impl<'a, IO, S> Talk<'a, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    pub(super) fn new(stream: Stream<IO>, builder: Builder, service: &'a S, watch: &'a Watch) -> Self {
        let mut talk = Self { state: State::Gone, builder, service, watch };
        talk.wake(stream);
        talk
    }

    /// Closes after what is in flight.
    pub(super) fn leave(&mut self) {
        match mem::replace(&mut self.state, State::Gone) {
            State::Napping(stream) => self.wake(stream),
            state => self.state = state,
        }
        if let State::Awake(connection) = &mut self.state {
            Pin::new(&mut **connection).graceful_shutdown();
        }
    }

    /// Gives up hyper's buffers. Only to be asked for at rest, with nothing left to write. Where a body may not have been read
    /// to its end, or what came is in doubt, hyper is not done yet.
    pub(super) fn nap(&mut self) {
        if self.watch.owed() || self.watch.doubted(usize::MAX).is_some() {
            return;
        }
        self.state = match mem::replace(&mut self.state, State::Gone) {
            State::Awake(connection) => connection.into_parts().map_or(State::Gone, |parts| {
                let mut stream = parts.io.into_inner();
                stream.unread(&parts.read_buf);
                State::Napping(stream)
            }),
            state => state,
        };
    }

    /// What is left when it ended; nothing of a tunnel.
    pub(super) fn into_stream(self) -> Option<Stream<IO>> {
        match self.state {
            State::Awake(connection) => connection.into_parts().map(|parts| parts.io.into_inner()),
            State::Napping(stream) => Some(stream),
            State::Gone => None,
        }
    }

    fn wake(&mut self, stream: Stream<IO>) {
        let connection = self.builder.serve_connection(TokioIo::new(stream), self.service).with_upgrades();
        self.state = State::Awake(Box::new(connection));
    }

    /// Waits for anything at all: a byte, the end, an error. hyper meets each of them again.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Napping(stream) = &mut self.state else { return Poll::Ready(()) };
        let mut first = [0];
        let mut first = ReadBuf::new(&mut first);
        // An error of a socket or a session shows itself to the next read as well, as its end or as what it was.
        let _ = ready!(Pin::new(&mut *stream).poll_read(cx, &mut first));
        stream.unread(first.filled());
        if let State::Napping(stream) = mem::replace(&mut self.state, State::Gone) {
            self.wake(stream);
        }
        Poll::Ready(())
    }
}

impl<IO, S> Future for Talk<'_, IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        ready!(self.poll_wake(cx));
        match &mut self.state {
            State::Awake(connection) => Pin::new(&mut **connection).poll(cx),
            State::Napping(_) | State::Gone => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::time::{Instant, sleep};
    use tokio_util::sync::CancellationToken;

    use super::super::super::inbound::{Ambiguous, Inbound};
    use super::super::drive::End;
    use super::super::http::{Terms, http1};
    use super::super::wire::Wire;
    use super::*;
    use crate::config::{Caps, Deadlines};
    use crate::policy::limit::Quota;

    const NIGHT: Duration = Duration::from_secs(9);
    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    /// Serves `client` over memory, each request answered by its body (`x-early`: before it), and `!` where it was ambiguous. How
    /// it ended, after how long, and how many requests there were.
    async fn play<F: Future<Output = ()>>(
        stop: &CancellationToken,
        client: impl FnOnce(DuplexStream) -> F,
    ) -> (End<hyper::Error>, Duration, usize) {
        let second = Duration::from_secs(1);
        let quota = Quota { requests: 1, per: second, burst: 1 };
        let caps =
            Caps { connections: 1, connections_per_client: 1, handshakes_per_client: quota, streams: 1, headers: 9, head: 8192 };
        let deadlines =
            Deadlines { proxy_header: second, handshake: second, head: NIGHT, body: NIGHT, idle: 9 * NIGHT, drain: second };
        let watch = Arc::<Watch>::default();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let wire = Wire::new(ours, Bytes::new(), Arc::clone(&watch), None);
        let heard = Rc::new(Cell::new(0));
        let handle = |request: Request<Inbound>| {
            heard.set(heard.get() + 1);
            async move {
                let doubt = request.extensions().get::<Ambiguous>().map_or("", |_| "!");
                let early = request.headers().contains_key("x-early");
                let body = if early { None } else { request.into_body().collect().await.ok() };
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                let answer = Full::from([doubt.as_bytes(), &body].concat());
                Ok(Response::new(answer.map_err(|never| match never {}).boxed_unsync()))
            }
        };
        let terms = Terms::new(&caps, &deadlines, stop);
        let started = Instant::now();
        let served = async { (http1(wire, &watch, &terms, true, handle).await, started.elapsed()) };
        let ((end, took), ()) = tokio::join!(served, client(theirs));
        (end, took, heard.get())
    }

    async fn ask(theirs: &mut DuplexStream, request: &str) -> String {
        theirs.write_all(request.as_bytes()).await.unwrap();
        heard(theirs).await
    }

    async fn heard(theirs: &mut DuplexStream) -> String {
        let mut answer = [0; 4096];
        let read = theirs.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_napped_goes_on_as_if_it_had_not() {
        let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        let (end, _, requests) = play(&CancellationToken::new(), async |mut theirs| {
            for request in [GET, post, GET, post, GET] {
                assert!(ask(&mut theirs, request).await.starts_with("HTTP/1.1 200"));
                sleep(NIGHT).await;
            }
            for byte in post.as_bytes() {
                theirs.write_all(&[*byte]).await.unwrap();
                sleep(NIGHT / 100).await;
            }
            assert!(heard(&mut theirs).await.ends_with("\r\n\r\nabc"));
            let two = ask(&mut theirs, &format!("{GET}{post}")).await;
            assert_eq!(two.matches("HTTP/1.1 200").count(), 2);
        })
        .await;
        assert!(matches!(end, End::Closed(Ok(()))), "{end:?}");
        assert_eq!(requests, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_of_a_request_before_the_nap_is_not_lost() {
        for cut in 1..GET.len() {
            let (now, later) = GET.split_at(cut);
            let (end, _, requests) = play(&CancellationToken::new(), async |mut theirs| {
                assert!(ask(&mut theirs, &format!("{GET}{now}")).await.starts_with("HTTP/1.1 200"));
                sleep(NIGHT / 2).await;
                assert!(ask(&mut theirs, later).await.starts_with("HTTP/1.1 200"));
            })
            .await;
            assert!(matches!(end, End::Closed(Ok(()))), "{end:?}");
            assert_eq!(requests, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_count_through_a_nap() {
        let (end, took, _) = play(&CancellationToken::new(), async |mut theirs| {
            ask(&mut theirs, GET).await;
            sleep(NIGHT).await;
            theirs.write_all(b"G").await.unwrap();
            assert_eq!(heard(&mut theirs).await, "");
        })
        .await;
        assert!(matches!(end, End::HeadTimeout), "{end:?}");
        assert_eq!(took, 2 * NIGHT);
        let (end, took, _) = play(&CancellationToken::new(), async |mut theirs| {
            ask(&mut theirs, GET).await;
            assert_eq!(heard(&mut theirs).await, "");
        })
        .await;
        assert!(matches!(end, End::Closed(Ok(()))), "{end:?}");
        assert_eq!(took, 9 * NIGHT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_line_is_no_head_and_does_not_keep_a_connection_open() {
        // hyper, which has an empty line, does not leave when it is asked to.
        for (first, lasts) in [(GET, 9 * NIGHT + Duration::from_secs(5)), ("\r\n", NIGHT)] {
            let (end, took, _) = play(&CancellationToken::new(), async |mut theirs| {
                theirs.write_all(first.as_bytes()).await.unwrap();
                if first == GET {
                    assert!(heard(&mut theirs).await.starts_with("HTTP/1.1 200"));
                }
                for _ in 0..3 {
                    sleep(NIGHT / 4).await;
                    theirs.write_all(b"\r\n").await.unwrap();
                }
                assert_eq!(heard(&mut theirs).await, "");
            })
            .await;
            assert!(matches!(end, End::Idle | End::Silent), "{end:?}");
            assert_eq!(took, lasts);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_and_a_client_that_leaves_end_a_nap_at_once() {
        let stop = CancellationToken::new();
        for leaves in [true, false] {
            let (end, took, _) = play(&stop, async |mut theirs| {
                ask(&mut theirs, GET).await;
                sleep(NIGHT).await;
                if leaves {
                    return;
                }
                stop.cancel();
                assert_eq!(heard(&mut theirs).await, "");
            })
            .await;
            assert!(matches!(end, End::Closed(Ok(()))), "{end:?}");
            assert_eq!(took, NIGHT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_sent_its_request_whole_is_let_go_at_once_and_who_did_not_is_heard_out() {
        let post = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
        let linger = Duration::from_secs(2);
        for (framing, body, takes) in [
            ("content-length: 3", "abc", Duration::ZERO),
            ("transfer-encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", Duration::ZERO),
            ("content-length: 3\r\nx-early: 1", "ab", linger),
            ("transfer-encoding: chunked\r\nx-early: 1", "3\r\nabc\r\n", linger),
        ] {
            let (_, took, _) = play(&CancellationToken::new(), async |mut theirs| {
                let answer = ask(&mut theirs, &format!("{post}{framing}\r\n\r\n{body}")).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert_eq!(heard(&mut theirs).await, "");
                // It does not close by itself.
                sleep(NIGHT).await;
            })
            .await;
            assert_eq!(took, takes, "{framing}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn framing_is_doubted_after_a_nap_too() {
        let both = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let (end, _, requests) = play(&CancellationToken::new(), async |mut theirs| {
            ask(&mut theirs, GET).await;
            sleep(NIGHT).await;
            let answer = ask(&mut theirs, both).await;
            assert!(answer.contains("connection: close") && answer.ends_with('!'), "{answer}");
        })
        .await;
        assert!(matches!(end, End::Closed(Ok(()))), "{end:?}");
        assert_eq!(requests, 2);
    }
}
