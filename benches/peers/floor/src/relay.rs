//! One client: a handshake by rustls, then bytes to and from a connection to the backend.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Fallible;
use crate::buffer::Buffer;
use crate::records::{Opener, Sealer};

/// Nothing of HTTP is understood but these first bytes, which are S11a's.
const LIMITED: &[u8] = b"GET /limited";
const REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain\r\ncontent-length: 7\r\n\r\nlimited";

/// The backend, and connections to it that wait for a client.
pub struct Backend {
    address: SocketAddr,
    idle: RefCell<Vec<TcpStream>>,
}

impl Backend {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, idle: RefCell::default() }
    }

    /// One that has something to say while it is idle has closed, or is behind with an answer to another.
    async fn connection(&self) -> io::Result<TcpStream> {
        loop {
            let Some(idle) = self.idle.borrow_mut().pop() else { break };
            if poll_fn(|cx| Poll::Ready(idle.poll_read_ready(cx).is_pending())).await {
                return Ok(idle);
            }
        }
        let new = TcpStream::connect(self.address).await?;
        new.set_nodelay(true)?;
        Ok(new)
    }
}

/// Until either side leaves. Of a client's clean leave the connection to the backend is kept, where every question had the
/// beginning of an answer; that it had the end as well is not known without HTTP, and is so in all that is measured.
pub async fn serve(mut client: TcpStream, config: Arc<ServerConfig>, backend: &Backend) -> Fallible<()> {
    let Shaken { mut came, left: sealed, opener, mut sealer } = shake(&mut client, config).await?;
    let (mut from_client, mut to_client) = client.split();
    let mut ear = Ear { stream: &mut from_client, came: &mut came, opener };
    let mut plain = Buffer::default();
    if !ear.hear(&mut plain).await? {
        return Ok(());
    }
    if plain.filled().starts_with(LIMITED) {
        return refuse(ear, plain, &mut to_client, sealed, &mut sealer).await;
    }
    let mut upstream = backend.connection().await?;
    let (mut from_backend, mut to_backend) = upstream.split();
    let answered = Cell::new(true);
    tokio::select! {
        biased;
        left = up(ear, plain, &mut to_backend, &answered) => left?,
        broken = down(&mut from_backend, &mut to_client, sealed, sealer, &answered) => broken?,
    }
    if answered.get() {
        backend.idle.borrow_mut().push(upstream);
    }
    Ok(())
}

/// Until the client leaves.
async fn up(
    mut client: Ear<'_, impl AsyncRead + Unpin>,
    mut plain: Buffer,
    backend: &mut (impl AsyncWrite + Unpin),
    answered: &Cell<bool>,
) -> io::Result<()> {
    loop {
        answered.set(false);
        backend.write_all(plain.filled()).await?;
        plain.clear();
        if !client.hear(&mut plain).await? {
            return Ok(());
        }
    }
}

/// Until the backend leaves, which is an error. Tickets go with the first answer.
async fn down(
    backend: &mut (impl AsyncRead + Unpin),
    client: &mut (impl AsyncWrite + Unpin),
    mut sealed: Buffer,
    mut sealer: Sealer,
    answered: &Cell<bool>,
) -> io::Result<()> {
    loop {
        let mut plain = Buffer::default();
        if plain.receive(backend).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sealer.seal(plain.filled(), &mut sealed)?;
        drop(plain);
        client.write_all(sealed.filled()).await?;
        sealed.clear();
        answered.set(true);
    }
}

/// The same answer to whatever comes.
async fn refuse(
    mut ear: Ear<'_, impl AsyncRead + Unpin>,
    mut plain: Buffer,
    client: &mut (impl AsyncWrite + Unpin),
    mut sealed: Buffer,
    sealer: &mut Sealer,
) -> Fallible<()> {
    loop {
        plain.clear();
        sealer.seal(REFUSAL, &mut sealed)?;
        client.write_all(sealed.filled()).await?;
        sealed.clear();
        if !ear.hear(&mut plain).await? {
            return Ok(());
        }
    }
}

/// What a client says.
struct Ear<'a, R> {
    stream: &'a mut R,
    came: &'a mut Buffer,
    opener: Opener,
}

impl<R: AsyncRead + Unpin> Ear<'_, R> {
    /// Whether anything more was said before the client left.
    async fn hear(&mut self, plain: &mut Buffer) -> io::Result<bool> {
        loop {
            self.opener.open(self.came, plain)?;
            if !plain.is_empty() {
                return Ok(true);
            }
            if self.opener.closed || self.came.receive(self.stream).await? == 0 {
                return Ok(false);
            }
        }
    }
}

struct Shaken {
    /// After the handshake, and not opened.
    came: Buffer,
    /// To be sent: tickets.
    left: Buffer,
    opener: Opener,
    sealer: Sealer,
}

async fn shake(client: &mut TcpStream, config: Arc<ServerConfig>) -> Fallible<Shaken> {
    let mut tls = UnbufferedServerConnection::new(config)?;
    let (mut came, mut left) = (Buffer::default(), Buffer::default());
    loop {
        let UnbufferedStatus { discard, state } = tls.process_tls_records(came.filled_mut());
        let waits = match state? {
            ConnectionState::EncodeTlsData(mut data) => left.put(|free| data.encode(free)).map(|()| false)?,
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                false
            }
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => true,
            other => return Err(format!("{other:?} within a handshake").into()),
        };
        came.drop_front(discard);
        if !tls.is_handshaking() {
            break;
        }
        if waits {
            client.write_all(left.filled()).await?;
            left.clear();
            if came.receive(client).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
    let (secrets, _) = tls.dangerous_into_kernel_connection()?;
    Ok(Shaken { came, left, opener: Opener::new(secrets.rx)?, sealer: Sealer::new(secrets.tx)? })
}
