//! Accept, slots, bans before TLS, PROXY header, handshake, HTTP by ALPN, drain.

mod bind;
mod drive;
mod frames;
mod gather;
mod handshake;
mod heads;
mod http;
mod nap;
mod plain;
mod proxy;
mod seldom;
mod session;
mod sift;
mod slots;
mod streams;
mod tickets;
mod untaken;
mod wire;

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, StatusCode, Version};
use bytes::Bytes;
use mio::net::TcpListener;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::events::{ConnectionCause, DecisionId, Event, RequestRecord};
use crate::net::ClientAddr;
use crate::policy::Reason;
use crate::policy::ban::BanAnswer;

use self::drive::End;
use self::handshake::Secured;
use self::http::HowRefused;
use self::seldom::Seldom;
use self::slots::{ClientSlot, Slot};
use self::wire::{Held, Watch, Wire};
use super::{Connection, Snapshot, Worker};

pub use self::bind::{ListenerKind, Sockets, bind, vacant};
pub(super) use self::http::home;
pub use self::proxy::{Source as ProxySource, read as read_proxy_header};
pub use self::slots::Slots;

/// Accepts until `stop`, then lets what is open finish until `deadlines.drain`, then cuts it. Returns how many were cut.
/// Runs on the worker's own current-thread runtime (`tokio::task::spawn` stays on it).
pub async fn serve(
    worker: Arc<Worker>,
    listener: std::net::TcpListener,
    kind: ListenerKind,
    slots: Arc<Slots>,
    stop: CancellationToken,
) -> usize {
    let door = Arc::new(Door {
        worker,
        kind,
        slots,
        // A child, so that connections of other workers do not share its lock.
        stop: stop.child_token(),
        cut: CancellationToken::new(),
        open: TaskTracker::new(),
    });
    bind::tune(&listener);
    match watched(listener) {
        Ok(listener) => door.accept(listener).await,
        Err(error) => {
            door.worker.gateway.events.emit(Event::AcceptFailed { error: error.to_string(), pause: Duration::ZERO });
            stop.cancelled().await;
        }
    }
    // As it is by now: a reload may have changed it since this door opened.
    let within = door.worker.gateway.snapshot.load().config.deadlines.drain;
    door.drain(within).await
}

/// Speaks HTTP on a connection whose handshake is done, over any stream, to its end: what [`serve`] does once it has a
/// [`Connection`]. It lives without slots, so that a test or a fuzz target can hold it over memory.
pub async fn speak<IO>(worker: &Arc<Worker>, connection: Arc<Connection>, stream: IO, h2: bool, stop: &CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Arc::<Watch>::default();
    let wire = Wire::new(stream, Bytes::new(), Arc::clone(&watch), None);
    let (peer, client) = (connection.peer, connection.client.ip);
    let end = converse(worker, connection, wire, h2, &watch, stop).await;
    tell(worker, end, &watch, version(h2), peer, client);
}

/// Not tokio's listener: it would register each socket for readiness before its peer is known to be welcome.
#[expect(deprecated, reason = "its successor is unsafe to call; this listener owns its descriptor as long as it lives")]
fn watched(listener: std::net::TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    AsyncFd::with_interest(TcpListener::from_std(listener), Interest::READABLE)
}

/// One listener of one worker.
struct Door {
    worker: Arc<Worker>,
    kind: ListenerKind,
    slots: Arc<Slots>,
    /// Ask connections to close.
    stop: CancellationToken,
    /// End them.
    cut: CancellationToken,
    /// Open sockets, tunnels included.
    open: TaskTracker,
}

/// Who is at the door.
enum Guest {
    /// Known by its socket; `None`: a source that is never banned or counted as a client.
    Direct(ClientAddr, Option<ClientSlot>),
    /// A listed source, whose PROXY header will tell.
    Proxied,
}

/// The pause after a failure to accept that will not pass by itself, doubling to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long cut connections may take to let go.
const LETTING_GO: Duration = Duration::from_millis(250);

impl Door {
    async fn accept(self: &Arc<Self>, listener: AsyncFd<TcpListener>) {
        let mut pause = SHORTEST_PAUSE;
        let mut stopped = pin!(self.stop.cancelled());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => break,
                accepted = listener.async_io(Interest::READABLE, TcpListener::accept) => accepted,
            };
            match accepted.and_then(|(stream, peer)| self.greet(stream, peer.ip().to_canonical())) {
                Ok(()) => pause = SHORTEST_PAUSE,
                Err(error) if is_of_one_connection(&error) => {}
                // Out of descriptors or memory: trying again at once would only burn the processor.
                Err(error) => {
                    self.emit(Event::AcceptFailed { error: error.to_string(), pause });
                    tokio::select! {
                        () = &mut stopped => break,
                        () = sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        // What the kernel already accepted for this socket would be reset with it. Bounded, since more come as these go.
        for _ in 0..bind::BACKLOG {
            match listener.get_ref().accept() {
                // Whose socket cannot be served is reset all the same.
                Ok((stream, peer)) => drop(self.greet(stream, peer.ip().to_canonical())),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => break,
            }
        }
    }

    async fn drain(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        self.open.close();
        if timeout_at(deadline, self.open.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.open.len();
        self.cut.cancel();
        // Tunnels end with the worker's runtime.
        let _ = timeout(LETTING_GO, self.open.wait()).await;
        cut
    }

    /// The cheap checks, before a byte is read or a task made.
    fn greet(self: &Arc<Self>, stream: mio::net::TcpStream, peer: IpAddr) -> io::Result<()> {
        let (watch, slot, guest) = match self.admit(peer) {
            Ok(admitted) => admitted,
            Err(cause) => {
                self.turn_away(SockRef::from(&stream), peer, None, cause);
                return Ok(());
            }
        };
        let stream = TcpStream::from_std(stream.into())?;
        let (door, open) = (Arc::clone(self), self.open.token());
        let whose = Arc::clone(&watch);
        let task = tokio::spawn(async move {
            let served = pin!(door.receive(stream, peer, slot, guest, &watch, open));
            let turned_out = pin!(door.turned_out(peer, &watch));
            tokio::select! {
                biased;
                () = served => {}
                () = Seldom::new(turned_out) => {}
            }
            // What lives on is a tunnel.
            watch.never_rest();
        });
        whose.lives_in(task.abort_handle());
        Ok(())
    }

    /// Resolves once a connection is to end where it stands: cut by a drain, or shed while at rest.
    async fn turned_out(&self, peer: IpAddr, watch: &Arc<Watch>) {
        loop {
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return,
                () = watch.shed.notified() => {}
            }
            if watch.at_rest_since().is_some() {
                return self.emit(Event::ConnectionRefused { peer, client: None, cause: ConnectionCause::Shed });
            }
            self.slots.readmit(watch);
        }
    }

    /// A banned or too busy client is turned away before anybody would give up a place for it.
    fn admit(&self, peer: IpAddr) -> Result<(Arc<Watch>, Slot, Guest), ConnectionCause> {
        let snapshot = self.worker.gateway.snapshot.load();
        let (key, guest) = if snapshot.config.listen.proxy_protocol.contains(peer) {
            (None, Guest::Proxied)
        } else {
            let client = ClientAddr::new(peer, snapshot.config.ipv6_prefix);
            (Some(client.key), Guest::Direct(client, self.screen(&snapshot, client)?))
        };
        let watch = Arc::<Watch>::default();
        let slot = self.slots.enter(&watch, key).ok_or(ConnectionCause::TooManyConnections)?;
        Ok((watch, slot, guest))
    }

    /// Ban and connections of one client. Fails closed, save for those who speak for others: trusted proxies and
    /// PROXY sources are never banned nor capped, since that would hold everybody behind them.
    fn screen(&self, snapshot: &Snapshot, client: ClientAddr) -> Result<Option<ClientSlot>, ConnectionCause> {
        let listen = &snapshot.config.listen;
        if listen.trusted_proxies.contains(client.ip) || listen.proxy_protocol.contains(client.ip) {
            return Ok(None);
        }
        let gateway = &self.worker.gateway;
        let now = gateway.clock.now();
        // Under `explain` the request gets its 403, and who proves who he is passes.
        if snapshot.policy.bans.answer == BanAnswer::Drop && gateway.state.bans.of_client(&client, now).is_some() {
            return Err(ConnectionCause::Banned);
        }
        self.slots.enter_client(client.key).ok_or(ConnectionCause::TooManyFromClient).map(Some)
    }

    /// Waits until the client may shake hands, before anything of it costs. Fails closed: `false` when its line is too long.
    async fn wait_turn(&self, client: ClientAddr) -> bool {
        let gateway = &self.worker.gateway;
        let turn = self.slots.handshake_turn(client.key, &gateway.snapshot.load().config, gateway.clock.now());
        match turn {
            Some(Duration::ZERO) => {}
            Some(wait) => tokio::time::sleep(wait).await,
            None => return false,
        }
        true
    }

    /// One connection, from its first byte to its last. `open` was taken before its task began, for a drain to wait for it.
    async fn receive(
        &self,
        mut stream: TcpStream,
        peer: IpAddr,
        slot: Slot,
        guest: Guest,
        watch: &Arc<Watch>,
        open: TaskTrackerToken,
    ) {
        let (client, client_slot, ahead) = match guest {
            Guest::Direct(client, client_slot) => (client, client_slot, Bytes::new()),
            Guest::Proxied => match Box::pin(self.introduce(&mut stream, peer)).await {
                Ok(introduced) => introduced,
                Err(None) => return,
                Err(Some((client, cause))) => return self.turn_away(SockRef::from(&stream), peer, client, cause),
            },
        };
        let limited = self.kind == ListenerKind::Https && client_slot.is_some();
        if limited && !self.wait_turn(client).await {
            return self.turn_away(SockRef::from(&stream), peer, Some(client.ip), ConnectionCause::TooManyHandshakes);
        }
        let held = Held { _slot: slot, _client: client_slot, _open: open };
        let wire = Wire::new(stream, ahead, Arc::clone(watch), Some(held)).resetting();
        let (version, end) = match self.kind {
            // Boxed: an idle connection's task would else be as large as the largest of these, for as long as it lives.
            ListenerKind::PlainHttp => (Version::HTTP_11, Box::pin(self.refuse_plain(wire, watch, peer, client)).await),
            ListenerKind::Https => match Box::pin(handshake::secure(&self.worker, wire, watch, peer, client)).await {
                Some(secured) => {
                    watch.forget();
                    (version(secured.h2), Box::pin(self.speak(secured, watch)).await)
                }
                None => return,
            },
        };
        tell(&self.worker, end, watch, version, peer, client.ip);
    }

    /// Reads a source's PROXY header; the client that it names is checked as if it had come itself.
    async fn introduce(
        &self,
        stream: &mut TcpStream,
        peer: IpAddr,
    ) -> Result<(ClientAddr, Option<ClientSlot>, Bytes), Option<(Option<IpAddr>, ConnectionCause)>> {
        let deadline = self.worker.gateway.snapshot.load().config.deadlines.proxy_header;
        let (source, ahead) = match timeout(deadline, proxy::read(stream)).await {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(cause)) => return Err(cause.map(|cause| (None, cause))),
            Err(_) => return Err(Some((None, ConnectionCause::ProxyHeaderTimeout))),
        };
        let snapshot = self.worker.gateway.snapshot.load();
        let ip = match source {
            proxy::Source::Client(ip) => ip,
            proxy::Source::Itself => peer,
        };
        let client = ClientAddr::new(ip, snapshot.config.ipv6_prefix);
        let slot = self.screen(&snapshot, client).map_err(|cause| Some((Some(client.ip), cause)))?;
        Ok((client, slot, ahead))
    }

    async fn speak(&self, secured: Secured, watch: &Arc<Watch>) -> End<hyper::Error> {
        let Secured { stream, connection, h2 } = secured;
        watch.introduce(&connection, &self.slots);
        converse(&self.worker, connection, stream, h2, watch, &self.stop).await
    }

    async fn refuse_plain(&self, wire: Wire, watch: &Arc<Watch>, peer: IpAddr, client: ClientAddr) -> End<hyper::Error> {
        let terms = terms(&self.worker, &self.stop);
        let handle = |request| std::future::ready(Ok(plain::answer(&self.worker, peer, client, &request)));
        http::http1(wire, watch, &terms, false, handle).await
    }

    /// Closes at once, with a reset: nothing of what the peer sent deserves an answer or a state in the kernel.
    fn turn_away(&self, socket: SockRef<'_>, peer: IpAddr, client: Option<IpAddr>, cause: ConnectionCause) {
        let _ = socket.set_linger(Some(Duration::ZERO));
        self.emit(Event::ConnectionRefused { peer, client, cause });
    }

    fn emit(&self, event: Event) {
        self.worker.gateway.events.emit(event);
    }
}

const SLOW_HEAD: &str = "the head of a request was not whole in time";

async fn converse<IO>(
    worker: &Arc<Worker>,
    connection: Arc<Connection>,
    stream: IO,
    h2: bool,
    watch: &Arc<Watch>,
    stop: &CancellationToken,
) -> End<hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let terms = terms(worker, stop);
    let handle = |request| Arc::clone(worker).handle(Arc::clone(&connection), request);
    if h2 {
        let (peer, client) = (connection.peer, connection.client.ip);
        http::http2(stream, watch, &terms, handle, &|refusal| tell_refusal(worker, refusal, peer, client)).await
    } else {
        http::http1(stream, watch, &terms, true, handle).await
    }
}

/// Nothing of the snapshot stays with the connection.
fn terms<'a>(worker: &Worker, stop: &'a CancellationToken) -> http::Terms<'a> {
    let snapshot = worker.gateway.snapshot.load();
    http::Terms::new(&snapshot.config.caps, &snapshot.config.deadlines, stop)
}

fn version(h2: bool) -> Version {
    if h2 { Version::HTTP_2 } else { Version::HTTP_11 }
}

/// Who merely left, or was idle between requests, is no event.
fn tell(worker: &Worker, end: End<hyper::Error>, watch: &Watch, version: Version, peer: IpAddr, client: IpAddr) {
    let breach = |cause: &str| Event::ProtocolError { client, cause: cause.to_owned() };
    if let Some(cause) = watch.condemned() {
        return worker.gateway.events.emit(breach(cause));
    }
    let event = match end {
        // What condemned it was told above.
        End::Closed(Ok(())) | End::Idle | End::Condemned => return,
        End::Closed(Err(error)) => match http::breach(&error) {
            Some(cause) => {
                record(worker, version, http::bare_status(&error), &cause, peer, client);
                breach(&cause)
            }
            None => return,
        },
        End::Silent => Event::ConnectionRefused { peer, client: Some(client), cause: ConnectionCause::IdleTimeout },
        End::HeadTimeout => {
            record(worker, version, None, SLOW_HEAD, peer, client);
            breach(SLOW_HEAD)
        }
        End::Stalled => breach("the client did not take its answer in time"),
    };
    worker.gateway.events.emit(event);
}

fn tell_refusal(worker: &Worker, refusal: http::Refusal, peer: IpAddr, client: IpAddr) {
    let cause = match refusal.how {
        HowRefused::Reset(code) => format!("an HTTP/2 stream was reset with {code}"),
        HowRefused::TooLarge => "the head of an HTTP/2 request is larger than caps.head".to_owned(),
        HowRefused::Ended => "the connection ended with an HTTP/2 request that was not taken".to_owned(),
    };
    if !refusal.begun {
        let status = (refusal.how == HowRefused::TooLarge).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        record(worker, Version::HTTP_2, status, &cause, peer, client);
    }
    worker.gateway.events.emit(Event::ProtocolError { client, cause });
}

/// The record of what was refused before there was a request: its line is not known, so neither is its method.
fn record(worker: &Worker, version: Version, status: Option<StatusCode>, cause: &str, peer: IpAddr, client: IpAddr) {
    let gateway = &worker.gateway;
    let (now, generation) = (gateway.clock.now(), gateway.snapshot.load().generation);
    let record = RequestRecord {
        method: Method::from_bytes(b"-").unwrap_or_default(),
        status: status.map_or(0, |status| status.as_u16()),
        reason: status.map(|status| match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Reason::HeadTooLarge,
            _ => Reason::BadRequest,
        }),
        cause: Some(cause.to_owned().into()),
        cut: status.is_none(),
        ..RequestRecord::begun(DecisionId::fresh(now.wall), now.wall, generation, [client, peer], version)
    };
    gateway.events.request(&record);
}

/// Errors that concern the one connection which was just to be accepted; the next may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, PermissionDenied,
        TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | Interrupted
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_are_sorted_by_whom_they_concern() {
        assert!(is_of_one_connection(&io::ErrorKind::ConnectionAborted.into()));
        // EMFILE and ENFILE have no kind of their own; whatever is unknown makes the loop pause.
        for code in [24, 23] {
            assert!(!is_of_one_connection(&io::Error::from_raw_os_error(code)));
        }
    }
}
