//! What a client may try around its handshake: early data with a real ticket, renegotiation, floods of key updates and of
//! warnings, everything in the smallest records.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, HandshakeKind, NamedGroup, SupportedProtocolVersion,
};

use super::Door;
use super::hello::Hello;
use super::recorder::{Arrived, Recorder, Sent};

/// One thing tried, and what came of it.
pub struct Tried {
    pub name: &'static str,
    pub expected: &'static str,
    pub seen: String,
}

/// Units of a flood that must not all be taken.
const MOST: u32 = 2_000;
const NO_RENEGOTIATION: &[u8] = &[1, 100];
const UNEXPECTED_MESSAGE: &[u8] = &[2, 10];
const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n";
const EARLY: &[u8] = b"GET /early HTTP/1.1\r\nHost: localhost\r\n\r\n";

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Everything, one after another. The gateway's application is the recorder.
pub async fn try_all(door: &Door, recorder: &Recorder) -> Vec<Tried> {
    let mut all = Vec::new();
    let mut add = |name, expected, seen: io::Result<String>| {
        all.push(Tried { name, expected, seen: seen.unwrap_or_else(|error| error.to_string()) });
    };
    recorder.take().await;
    let seen = alone(door, early_data).await;
    let sent = recorder.take().await;
    let canary = Arrived::Whole(Sent::new("GET /canary"));
    let seen = seen.map(|seen| format!("{seen}; upstream: {}", if sent == [canary.clone(), canary] { "not it" } else { "IT" }));
    add("0-RTT with a ticket that says it may", "offered and not accepted, the rest answered 200; upstream: not it", seen);
    add("renegotiation, TLS 1.2", "refused by a warning, then 200; again: closed", alone(door, renegotiation).await);
    add("a HelloRequest from the client, TLS 1.2", "refused by an alert, closed", alone(door, hello_request).await);
    add("a second ClientHello, TLS 1.3", "refused by an alert, closed", alone(door, second_hello).await);
    add("a flood of key updates, TLS 1.3", "ended", alone(door, key_updates).await);
    add("a flood of warnings, TLS 1.2", "ended", alone(door, warnings).await);
    add("a handshake and a request in records of 27 bytes", "200 and 200", alone(door, small_records).await);
    all
}

/// On a thread of its own: these clients block.
async fn alone(door: &Door, tried: fn(&Door) -> io::Result<String>) -> io::Result<String> {
    let door = door.clone();
    tokio::task::spawn_blocking(move || tried(&door)).await.map_err(io::Error::other)?
}

fn early_data(door: &Door) -> io::Result<String> {
    let mut config = config(door, &[&rustls::version::TLS13])?;
    config.enable_early_data = true;
    config.resumption = Resumption::store(Arc::new(Eager(ClientSessionMemoryCache::new(8))));
    let config = Arc::new(config);
    let mut first = Client::new(door, 1, Arc::clone(&config))?;
    first.ask(CANARY)?;
    drop(first);
    let mut second = Client::new(door, 1, config)?;
    second.tls.early_data().ok_or_else(|| io::Error::other("no ticket came"))?.write_all(EARLY)?;
    let status = second.ask(CANARY)?;
    let resumed = second.tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let accepted = if second.tls.is_early_data_accepted() { "accepted" } else { "not accepted" };
    Ok(format!("{} and {accepted}, the rest answered {status}", if resumed { "offered" } else { "offered without resuming" }))
}

fn renegotiation(door: &Door) -> io::Result<String> {
    let mut sealed = Sealed::new(door, 2, &rustls::version::TLS12)?;
    sealed.send(HANDSHAKE, &renegotiating().message())?;
    let first = sealed.read()?;
    sealed.send(DATA, CANARY)?;
    let answer = sealed.read()?;
    let answered = answer.is_some_and(|(kind, bytes)| kind == DATA && bytes.starts_with(b"HTTP/1.1 200 "));
    sealed.send(HANDSHAKE, &renegotiating().message())?;
    let closed = sealed.closed()?;
    Ok(format!(
        "{}, then {}; again: {}",
        if first == Some((ALERT, NO_RENEGOTIATION.to_vec())) { "refused by a warning".to_owned() } else { format!("{first:?}") },
        if answered { "200" } else { "nothing" },
        if closed { "closed" } else { "open" },
    ))
}

fn renegotiating() -> Hello {
    Hello { versions: &[], ..Hello::default() }
}

fn hello_request(door: &Door) -> io::Result<String> {
    let mut sealed = Sealed::new(door, 3, &rustls::version::TLS12)?;
    sealed.send(HANDSHAKE, &[0, 0, 0, 0])?;
    sealed.refused()
}

fn second_hello(door: &Door) -> io::Result<String> {
    let mut sealed = Sealed::new(door, 4, &rustls::version::TLS13)?;
    sealed.send(HANDSHAKE, &Hello::default().message())?;
    sealed.refused()
}

fn key_updates(door: &Door) -> io::Result<String> {
    let mut client = Client::new(door, 5, Arc::new(config(door, &[&rustls::version::TLS13])?))?;
    client.ask(CANARY)?;
    for _ in 0..MOST {
        client.tls.refresh_traffic_keys().map_err(io::Error::other)?;
        if client.tls.write_tls(&mut client.socket).is_err() {
            return Ok("ended".to_owned());
        }
    }
    Ok(if drained(&mut client.socket) { "ended".to_owned() } else { format!("{MOST} taken") })
}

fn warnings(door: &Door) -> io::Result<String> {
    let mut sealed = Sealed::new(door, 6, &rustls::version::TLS12)?;
    for _ in 0..MOST {
        // no_certificate, which nobody sends any more.
        if sealed.send(ALERT, &[1, 41]).is_err() {
            return Ok("ended".to_owned());
        }
    }
    Ok(if drained(&mut sealed.socket) { "ended".to_owned() } else { format!("{MOST} taken") })
}

fn small_records(door: &Door) -> io::Result<String> {
    let mut statuses = Vec::new();
    for (place, version) in (7..).zip([&rustls::version::TLS12, &rustls::version::TLS13]) {
        let mut config = config(door, &[version])?;
        config.max_fragment_size = Some(32);
        let mut client = Client::new(door, place, Arc::new(config))?;
        statuses.push(client.ask(CANARY)?);
    }
    Ok(statuses.join(" and "))
}

/// Whether the other side ends what it says.
fn drained(socket: &mut TcpStream) -> bool {
    match io::copy(socket, &mut io::sink()) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}

fn config(door: &Door, versions: &[&'static SupportedProtocolVersion]) -> io::Result<ClientConfig> {
    door.client_of("http/1.1", doorward::tls::provider(), versions)
}

/// A client that blocks.
struct Client {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Client {
    fn new(door: &Door, place: u8, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self { tls, socket: socket(door, place)? })
    }

    /// The status of the answer, whose body is read too.
    fn ask(&mut self, request: &[u8]) -> io::Result<String> {
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.socket);
        stream.write_all(request)?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"\r\n\r\nok") {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&chunk[..read]);
        }
        Ok(String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned())
    }
}

fn socket(door: &Door, place: u8) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 125, place], 0)).into())?;
    socket.connect(&door.https.into())?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// After a real handshake: the records are ours.
struct Sealed {
    socket: TcpStream,
    old: bool,
    write: Side,
    read: Side,
}

struct Side {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealed {
    /// Speaks AES-128-GCM.
    fn new(door: &Door, place: u8, version: &'static SupportedProtocolVersion) -> io::Result<Self> {
        let mut provider = CryptoProvider::clone(&doorward::tls::provider());
        provider.cipher_suites.retain(|suite| {
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ]
            .contains(&suite.suite())
        });
        let mut config = door.client_of("http/1.1", Arc::new(provider), &[version])?;
        config.enable_secret_extraction = true;
        let Client { mut tls, mut socket } = Client::new(door, place, Arc::new(config))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        let secrets = tls.dangerous_extract_secrets().map_err(io::Error::other)?;
        let old = version == &rustls::version::TLS12;
        Ok(Self { socket, old, write: Side::new(secrets.tx)?, read: Side::new(secrets.rx)? })
    }

    /// One record.
    fn send(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let mut sealed = payload.to_vec();
        if !self.old {
            sealed.push(kind);
        }
        let nonce = self.write.nonce(self.old, None);
        let aad = self.write.aad(self.old, kind, sealed.len());
        let tagged = self.write.key.seal_in_place_append_tag(nonce, Aad::from(&aad), &mut sealed);
        tagged.map_err(|_| io::Error::other("not sealed"))?;
        let mut body = if self.old { self.write.sequence.to_be_bytes().to_vec() } else { Vec::new() };
        body.extend(sealed);
        self.write.sequence += 1;
        let length = u16::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes();
        self.socket.write_all(&[&[if self.old { kind } else { DATA }, 3, 3][..], &length, &body].concat())
    }

    /// The next record that is no ticket; `None`: the end.
    fn read(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            let mut head = [0; 5];
            match self.socket.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            self.socket.read_exact(&mut body)?;
            let (explicit, rest) = body.split_at_mut(if self.old { 8 } else { 0 });
            let nonce = self.read.nonce(self.old, Some(explicit));
            let length = rest.len() - 16;
            let aad = self.read.aad(self.old, head[0], length);
            let plain = self.read.key.open_in_place(nonce, Aad::from(&aad), rest).map_err(|_| io::Error::other("not opened"))?;
            self.read.sequence += 1;
            let (kind, plain) = if self.old {
                (head[0], &*plain)
            } else {
                let (kind, plain) = plain.split_last().ok_or(io::ErrorKind::InvalidData)?;
                (*kind, plain)
            };
            if kind != HANDSHAKE {
                return Ok(Some((kind, plain.to_vec())));
            }
        }
    }

    fn closed(&mut self) -> io::Result<bool> {
        while let Some((kind, _)) = self.read()? {
            if kind == DATA {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn refused(&mut self) -> io::Result<String> {
        let first = self.read()?;
        let alert = first == Some((ALERT, UNEXPECTED_MESSAGE.to_vec()));
        let closed = if self.closed()? { "closed" } else { "open" };
        Ok(if alert { format!("refused by an alert, {closed}") } else { format!("{first:?}, {closed}") })
    }
}

impl Side {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { return Err(io::Error::other("another suite")) };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(io::Error::other)?;
        let iv = iv.as_ref().try_into().map_err(io::Error::other)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// RFC 5288 section 3, RFC 8446 section 5.3.
    fn nonce(&self, old: bool, explicit: Option<&[u8]>) -> Nonce {
        let mut nonce = self.iv;
        let sequence = self.sequence.to_be_bytes();
        if old {
            nonce[4..].copy_from_slice(explicit.unwrap_or(&sequence));
        } else {
            nonce[4..].iter_mut().zip(sequence).for_each(|(byte, with)| *byte ^= with);
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// `length`: of what is sealed, without its tag.
    fn aad(&self, old: bool, kind: u8, length: usize) -> Vec<u8> {
        let length = u16::try_from(if old { length } else { length + 16 }).unwrap_or(u16::MAX).to_be_bytes();
        if old {
            [&self.sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat()
        } else {
            [&[DATA, 3, 3][..], &length].concat()
        }
    }
}

/// A memory of sessions that takes every ticket for one that allows early data.
#[derive(Debug)]
struct Eager(ClientSessionMemoryCache);

impl ClientSessionStore for Eager {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.0.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, mut value: Tls13ClientSessionValue) {
        value._private_set_max_early_data_size(16_384);
        self.0.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(name)
    }
}
