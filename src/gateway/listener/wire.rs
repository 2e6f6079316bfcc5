//! The client's socket under a watch: what was read ahead, what moves, and the slots it holds until it closes.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::super::Connection;
use super::slots::{ClientSlot, Slot, Slots};
use super::tickets::Tickets;
use super::untaken::Turns;

/// A client's socket. It carries its slots, so that they are held as long as it is open, tunnels included.
pub(super) struct Wire<S = TcpStream> {
    stream: S,
    /// Read, and not taken yet: what came with the PROXY header, and more than was asked for while much comes.
    ahead: Bytes,
    /// The last read was filled: more waits.
    much: bool,
    /// Reads that gave bytes.
    reads: usize,
    /// Until there is more to write.
    tickets: Tickets,
    /// What is written next goes on with what was written: the client has not spoken since.
    goes_on: bool,
    watch: Arc<Watch>,
    _held: Option<Held>,
    /// Has it closed without what it still holds.
    reset: fn(&S),
}

/// What is read at once while much comes, and the least that says so.
const PIECE: usize = 32 * 1024;
const LEAST_MUCH: usize = 4 * 1024;

/// What is given back when the socket closes.
pub(super) struct Held {
    pub _slot: Slot,
    pub _client: Option<ClientSlot>,
    pub _open: TaskTrackerToken,
}

/// What a connection does, as flags and counts: no clock is read where bytes move. Deadlines are made of it in
/// [`drive`](super::drive).
pub(super) struct Watch {
    begun: Instant,
    /// Milliseconds from `begun` to when it came to rest, plus one; 0: it does something.
    rests: AtomicU64,
    /// Its place is given to somebody else.
    pub(super) shed: Notify,
    /// Once the handshake is done.
    guest: OnceLock<(Arc<Connection>, Arc<Slots>)>,
    /// The task of the connection.
    task: OnceLock<AbortHandle>,
    /// The slots know that this client has proven who it is.
    known: AtomicBool,
    /// Requests begun.
    requests: AtomicUsize,
    /// Requests whose answer is not over; over HTTP/2, not written.
    in_flight: AtomicUsize,
    /// Those of them whose answer hyper has whole.
    pub(super) untaken: Turns,
    /// Something of a request came (HTTP/1) since this was last taken.
    heard: AtomicBool,
    /// Bytes came at all, whatever they are.
    spoke: AtomicBool,
    /// The handshake is under way.
    shakes: AtomicBool,
    /// The socket took no more of what is to be sent.
    blocked: AtomicBool,
    /// Writes that the socket took.
    written: AtomicUsize,
    /// The last request has a body, which may not have been read.
    owes: AtomicBool,
    /// Streams cut because their client took nothing of them, less those that ended otherwise since.
    stalls: AtomicUsize,
    /// Bytes of requests that were read after their answers.
    thrown_away: AtomicUsize,
    /// The head from which on requests are ambiguous, and why.
    doubt: OnceLock<(usize, &'static str)>,
    /// Why the connection is to be ended.
    condemned: OnceLock<&'static str>,
    /// The client takes nothing any more: the socket is reset when it closes.
    given_up: AtomicBool,
}

/// One request until its answer is over.
pub(super) struct InFlight(Arc<Watch>);

impl<S> Wire<S> {
    pub(super) fn new(stream: S, ahead: Bytes, watch: Arc<Watch>, held: Option<Held>) -> Self {
        if !ahead.is_empty() {
            watch.note_speech();
        }
        let tickets = Tickets::default();
        Self { stream, ahead, much: false, reads: 0, tickets, goes_on: false, watch, _held: held, reset: |_| {} }
    }
}

impl<S> Wire<S> {
    /// How often it gave bytes.
    pub(super) fn reads(&self) -> usize {
        self.reads
    }

    fn note_read(&mut self) {
        self.reads += 1;
        self.goes_on = false;
        self.watch.note_speech();
    }

    /// Only what answers the client's last flight: the rest of the server's own, where the socket took half of it, is encrypted
    /// as tickets are, and kept it would have the handshake wait for itself.
    fn keep_tickets(&mut self, records: &[IoSlice<'_>]) -> Option<usize> {
        if self.watch.shakes() && !self.goes_on { self.tickets.keep(records) } else { None }
    }

    fn note_write<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.goes_on = true;
        self.watch.note_write(result)
    }
}

impl Wire {
    /// One that is reset where its client is given up.
    pub(super) fn resetting(mut self) -> Self {
        // One that is closed already has nothing to reset.
        self.reset = |stream| drop(stream.set_zero_linger());
        self
    }

    /// Whether a read would find anything: bytes, the end, an error. Where tickets wait for a question it is to be asked.
    pub(super) fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ahead.is_empty() || !self.tickets.is_empty() {
            return Poll::Ready(());
        }
        self.stream.poll_read_ready(cx).map(drop)
    }
}

impl<S> Drop for Wire<S> {
    /// A client that takes nothing would not take the end either: megabytes of its answer would stay with the kernel, and the
    /// connection would look open to it, for as long as it likes. And one that was ended is to get nothing more.
    fn drop(&mut self) {
        if self.watch.is_forsaken() {
            (self.reset)(&self.stream);
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            rests: AtomicU64::new(1),
            shed: Notify::new(),
            guest: OnceLock::new(),
            task: OnceLock::new(),
            known: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            untaken: Turns::default(),
            heard: AtomicBool::new(false),
            spoke: AtomicBool::new(false),
            shakes: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            owes: AtomicBool::new(false),
            stalls: AtomicUsize::new(0),
            thrown_away: AtomicUsize::new(0),
            doubt: OnceLock::new(),
            condemned: OnceLock::new(),
            given_up: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// Whose connection it is, and who is to know when the client has proven who it is.
    pub(super) fn introduce(&self, connection: &Arc<Connection>, slots: &Arc<Slots>) {
        if let Some(task) = self.task.get() {
            let _ = connection.task.set(task.clone());
        }
        // A connection shakes hands once.
        let _ = self.guest.set((Arc::clone(connection), Arc::clone(slots)));
    }

    pub(super) fn lives_in(&self, task: AbortHandle) {
        // A connection has one.
        let _ = self.task.set(task);
    }

    /// Whether nothing of what it was still to be sent is to arrive.
    fn is_forsaken(&self) -> bool {
        let ended = |(connection, _): &(Arc<Connection>, _)| connection.ended.load(Ordering::Relaxed);
        self.given_up.load(Ordering::Relaxed) || self.guest.get().is_some_and(ended)
    }

    /// Whether the client proved who it is, on this connection.
    pub(super) fn is_proven(&self) -> bool {
        self.guest.get().is_some_and(|(connection, _)| connection.proven.load(Ordering::Relaxed))
    }

    pub(super) fn rest(&self, now: Instant) {
        let since = u64::try_from(now.duration_since(self.begun).as_millis()).unwrap_or(u64::MAX - 1);
        self.rests.store(since + 1, Ordering::Relaxed);
    }

    /// From here on it is never at rest: a tunnel.
    pub(super) fn never_rest(&self) {
        self.rests.store(0, Ordering::Relaxed);
    }

    /// Since when it waits for its client; `None` while a request is under way.
    pub(super) fn at_rest_since(&self) -> Option<Instant> {
        let since = self.rests.load(Ordering::Relaxed).checked_sub(1)?;
        self.begun.checked_add(std::time::Duration::from_millis(since))
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.rests.store(0, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether the client sent anything at all.
    pub(super) fn spoke(&self) -> bool {
        self.spoke.load(Ordering::Relaxed)
    }

    /// What comes and goes from here on is the handshake.
    pub(super) fn shake(&self) {
        self.shakes.store(true, Ordering::Relaxed);
    }

    /// What came so far was the handshake: from here on the client has not said anything yet.
    pub(super) fn forget(&self) {
        self.shakes.store(false, Ordering::Relaxed);
        self.spoke.store(false, Ordering::Relaxed);
    }

    /// While the socket takes no more: how many writes it took before.
    pub(super) fn blocked(&self) -> Option<usize> {
        self.blocked.load(Ordering::Relaxed).then(|| self.written.load(Ordering::Relaxed))
    }

    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn owe(&self, body: bool) {
        self.owes.store(body, Ordering::Relaxed);
    }

    pub(super) fn owed(&self) -> bool {
        self.owes.load(Ordering::Relaxed)
    }

    pub(super) fn stall(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream ended otherwise.
    pub(super) fn complete(&self) {
        // Hardly ever is there anything to take off, and then by one thread alone.
        if self.stalls() > 0 {
            self.stalls.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stalls(&self) -> usize {
        self.stalls.load(Ordering::Relaxed)
    }

    /// Counts what was read for nothing; returns all of it so far.
    pub(super) fn throw_away(&self, bytes: usize) -> usize {
        self.thrown_away.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }

    /// From this head on, counted from one, no request is to be trusted.
    pub(super) fn doubt(&self, head: usize, cause: &'static str) {
        // The first doubt covers all that follow.
        let _ = self.doubt.set((head, cause));
    }

    pub(super) fn doubted(&self, head: usize) -> Option<&'static str> {
        self.doubt.get().filter(|(from, _)| *from <= head).map(|(_, cause)| *cause)
    }

    pub(super) fn condemn(&self, cause: &'static str) {
        // The first cause stands.
        let _ = self.condemned.set(cause);
    }

    pub(super) fn condemned(&self) -> Option<&'static str> {
        self.condemned.get().copied()
    }

    fn shakes(&self) -> bool {
        self.shakes.load(Ordering::Relaxed)
    }

    fn note_speech(&self) {
        self.spoke.store(true, Ordering::Relaxed);
    }

    fn note_write<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
        self.blocked.store(result.is_pending(), Ordering::Relaxed);
        result
    }
}

impl InFlight {
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some((connection, slots)) = self.0.guest.get()
            && connection.proven.load(Ordering::Relaxed)
            && !self.0.known.swap(true, Ordering::Relaxed)
        {
            slots.know(connection.client.key);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    /// rustls asks for 4 KiB at a time. Where an upload fills that, a larger piece is read at once and kept for its next
    /// questions; once the socket is empty nothing is kept.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.much && this.ahead.is_empty() {
            let mut piece = BytesMut::with_capacity(PIECE);
            let read = pin!(this.stream.read_buf(&mut piece)).poll(cx);
            this.much = matches!(read, Poll::Ready(Ok(PIECE..)));
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.ahead = piece.freeze();
        }
        if !this.ahead.is_empty() {
            this.note_read();
            let length = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        // Nothing is on its way to the client that they could go with.
        if result.is_pending() && !this.tickets.is_empty() && this.watch.in_flight() == 0 && !this.watch.shakes() {
            this.tickets.poll_late(&mut this.stream, cx);
        }
        let came = buf.filled().len() - before;
        if came > 0 {
            this.note_read();
            this.much = came == room && came >= LEAST_MUCH;
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(kept) = this.keep_tickets(&[IoSlice::new(bytes)]) {
            return Poll::Ready(Ok(kept));
        }
        let result = this.tickets.poll_send_with(&mut this.stream, cx, bytes);
        this.note_write(result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(kept) = this.keep_tickets(bytes) {
            return Poll::Ready(Ok(kept));
        }
        let result = match bytes.iter().find(|piece| !piece.is_empty()) {
            // One piece needs no list of pieces, which costs the kernel more.
            Some(first) if bytes.len() == 1 || !this.tickets.is_empty() => {
                this.tickets.poll_send_with(&mut this.stream, cx, first)
            }
            _ => Pin::new(&mut this.stream).poll_write_vectored(cx, bytes),
        };
        this.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Tickets wait on: they go with what is written next, or once the client is waited for.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // They are of use to a client that reads; one that does not is not waited for.
        let _ = this.tickets.poll_send(&mut this.stream, cx);
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, join, sink};

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_in_pieces_of_any_size() {
        let watch = Arc::<Watch>::default();
        let socket = join(&b" world"[..], sink());
        let mut wire = Wire::new(socket, Bytes::from_static(b"hello"), Arc::clone(&watch), None);
        assert!(watch.spoke());
        let mut two = [0; 2];
        wire.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"he");
        let mut rest = String::new();
        wire.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "llo world");
    }

    /// Counts the reads of a socket.
    struct Socket<'a>(&'a [u8], Arc<AtomicUsize>);

    impl AsyncRead for Socket<'_> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn much_is_read_in_large_pieces_and_arrives_whole_and_in_order() {
        let sent: Vec<u8> = (0..200_000_u32).map(|byte| byte as u8 ^ (byte >> 8) as u8).collect();
        for asked in [1, 100, 4096, 5000, 40_000] {
            let reads = Arc::<AtomicUsize>::default();
            let socket = join(Socket(&sent, Arc::clone(&reads)), sink());
            let mut wire = Wire::new(socket, Bytes::new(), Arc::default(), None);
            let (mut came, mut piece) = (Vec::new(), vec![0; asked]);
            loop {
                match wire.read(&mut piece).await.unwrap() {
                    0 => break,
                    read => came.extend_from_slice(&piece[..read]),
                }
            }
            assert!(came == sent, "{asked} at a time");
            let most = if asked < LEAST_MUCH { sent.len() / asked + 1 } else { sent.len() / PIECE + 4 };
            let reads = reads.load(Ordering::Relaxed);
            assert!(reads <= most, "{reads} reads, {asked} at a time");
            assert!(wire.ahead.is_empty() && !wire.much, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_is_seen_and_its_progress_too() {
        let watch = Arc::<Watch>::default();
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut wire = Wire::new(ours, Bytes::new(), Arc::clone(&watch), None);
        let mut write = poll_write(&mut wire, b"123456");
        assert_eq!(write, Poll::Ready(4));
        assert_eq!(watch.blocked(), None);
        write = poll_write(&mut wire, b"56");
        assert_eq!(write, Poll::Pending);
        let before = watch.blocked().unwrap();
        theirs.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(poll_write(&mut wire, b"567"), Poll::Ready(2));
        assert_eq!(poll_write(&mut wire, b"7"), Poll::Pending);
        assert!(watch.blocked().unwrap() > before);
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        wire.write_all(b"7").await.unwrap();
        assert_eq!(watch.blocked(), None);
    }

    #[tokio::test]
    async fn what_is_left_of_a_flight_that_the_socket_took_half_of_is_no_ticket() {
        let (hello, rest) = ([&[22, 3, 3, 0, 90][..], &[0; 90]].concat(), [&[23, 3, 3, 0, 98][..], &[0; 98]].concat());
        let watch = Arc::<Watch>::default();
        let (ours, mut theirs) = tokio::io::duplex(hello.len());
        let mut wire = Wire::new(ours, Bytes::from_static(b"ClientHello"), Arc::clone(&watch), None);
        watch.shake();
        assert_eq!(wire.read(&mut [0; 64]).await.unwrap(), 11);
        assert_eq!(wire.write_vectored(&[IoSlice::new(&hello), IoSlice::new(&rest)]).await.unwrap(), hello.len());
        assert_eq!(poll_write(&mut wire, &rest), Poll::Pending);
        theirs.read_exact(&mut vec![0; hello.len()]).await.unwrap();
        assert_eq!(poll_write(&mut wire, &rest), Poll::Ready(hello.len()));
        assert_eq!(theirs.read(&mut [0; 128]).await.unwrap(), hello.len());
    }

    #[tokio::test]
    async fn tickets_go_with_the_first_answer_and_alone_only_where_there_is_none() {
        let ticket = [&[23, 3, 3, 0, 98][..], &[0; 98]].concat();
        for asks in [true, false] {
            let watch = Arc::<Watch>::default();
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let mut wire = Wire::new(ours, Bytes::new(), Arc::clone(&watch), None);
            let mut came = [0; 1024];
            watch.shake();
            wire.write_all(b"the server's flight").await.unwrap();
            assert_eq!(theirs.read(&mut came).await.unwrap(), 19);
            theirs.write_all(b"Finished").await.unwrap();
            assert_eq!(poll_read(&mut wire), Poll::Ready(()));
            wire.write_all(&ticket).await.unwrap();
            assert_eq!(poll_read(&mut wire), Poll::Pending);
            watch.forget();
            wire.flush().await.unwrap();
            // hyper reads on after a request before it begins it.
            assert_eq!(poll_read(&mut wire), Poll::Pending);
            let request = asks.then(|| watch.begin());
            assert_eq!(poll_read(&mut wire), Poll::Pending);
            let alone = tokio::select! {
                biased;
                read = theirs.read(&mut came) => read.unwrap(),
                () = std::future::ready(()) => 0,
            };
            assert_eq!(alone, if asks { 0 } else { ticket.len() });
            wire.write_all(b"answer").await.unwrap();
            let read = theirs.read(&mut came).await.unwrap();
            assert!(came[..read] == [&ticket[..if asks { ticket.len() } else { 0 }], b"answer"].concat());
            drop(request);
        }
    }

    fn poll_read(wire: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(wire).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 16])).map(Result::unwrap)
    }

    fn poll_write(wire: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Poll<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(wire).poll_write(&mut cx, bytes).map(Result::unwrap)
    }
}
