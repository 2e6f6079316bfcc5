//! Bytes without HTTP, for `benches/peers/run.py --floor`: the least that a proxy on tokio and rustls costs. TLS 1.3 is ended as
//! Doorward ends it, and what comes is copied to a connection to the backend and back; nothing is parsed. Its checks are the three
//! that a scenario is about: a client certificate at the second address (S6), one answer to all under `/limited` (S11a), and an
//! address that is turned away as it connects (S11b).

#![forbid(unsafe_code)]

mod buffer;
mod records;
mod relay;

use std::env;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use mio::net::TcpListener;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

use relay::Backend;

const USAGE: &str = "usage: floor-peer LISTEN LISTEN-MTLS BACKEND CHAIN KEY CLIENT-CA BANNED
       floor-peer --version";
const LOCK: &str = include_str!("../Cargo.lock");
const BACKLOG: u32 = 4096;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == ["--version"] {
        println!("of rustls {} with aws-lc-rs {} and tokio {}", locked("rustls"), locked("aws-lc-rs"), locked("tokio"));
        return Ok(());
    }
    let [open, mtls, backend, chain, key, client_ca, banned] = arguments.try_into().map_err(|_| USAGE)?;
    let (open, mtls) = (open.parse()?, mtls.parse()?);
    let backend = Rc::new(Backend::new(backend.parse()?));
    let banned = banned.parse()?;
    let (config, strict) = (tls(&chain, &key, None)?, tls(&chain, &key, Some(&client_ca))?);
    Builder::new_current_thread().enable_io().build_local(LocalOptions::default())?.block_on(async {
        let first = accept(listen(open)?, config, Rc::clone(&backend), banned);
        let second = accept(listen(mtls)?, strict, backend, banned);
        // As tasks: else every connection that wakes either would poll both.
        tokio::select! {
            ended = spawn_local(first) => ended?,
            ended = spawn_local(second) => ended?,
        }
    })
}

/// As Doorward's, but for what no scenario asks for.
fn tls(chain: &str, key: &str, client_ca: Option<&str>) -> Fallible<Arc<ServerConfig>> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    });
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_file_iter(client_ca)? {
                roots.add(root?)?;
            }
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?)
        }
    };
    let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 1;
    config.ticketer = Ticketer::new()?;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// Connections have what is set here without asking for it themselves. Not tokio's listener, which would enter into epoll
/// who is banned.
#[expect(deprecated, reason = "its successor is unsafe to call; this listener owns its descriptor as long as it lives")]
fn listen(address: SocketAddr) -> io::Result<AsyncFd<TcpListener>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    AsyncFd::with_interest(TcpListener::from_std(socket.listen(BACKLOG)?.into_std()?), Interest::READABLE)
}

/// Who fails is dropped without a word.
async fn accept(listener: AsyncFd<TcpListener>, config: Arc<ServerConfig>, backend: Rc<Backend>, banned: IpAddr) -> Fallible<()> {
    loop {
        let (client, address) = listener.async_io(Interest::READABLE, TcpListener::accept).await?;
        if address.ip() != banned {
            let client = TcpStream::from_std(client.into())?;
            let (config, backend) = (Arc::clone(&config), Rc::clone(&backend));
            spawn_local(async move { relay::serve(client, config, &backend).await.ok() });
        }
    }
}

/// The version of a crate that Cargo.lock names.
fn locked(name: &str) -> &'static str {
    let version = LOCK.split_once(&format!("name = \"{name}\"\nversion = \"")).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("?", |(version, _)| version)
}
