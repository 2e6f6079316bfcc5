//! What the abuse tables need, whether against a gateway in this process (`tests/it`) or a built binary (`tests/attack`): raw
//! bytes over real handshakes, an upstream that records every byte, HTTP/2 frames by hand.

pub mod certs;
pub mod faults;
pub mod floods;
pub mod forms;
pub mod h2;
pub mod hello;
pub mod honest;
pub mod play;
pub mod recorder;
pub mod rehandshake;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No single step takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway, as its clients see it.
#[derive(Clone)]
pub struct Door {
    pub https: SocketAddr,
    /// PEM of the CA of its certificate.
    pub roots: PathBuf,
}

pub type Stream = TlsStream<TcpStream>;

impl Door {
    /// A TCP connection from `127.0.x.y`: one address, one client.
    pub async fn tcp(&self, from: [u8; 2]) -> std::io::Result<TcpStream> {
        let [third, fourth] = from;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, third, fourth), 0)))?;
        let stream = within(socket.connect(self.https)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A finished handshake as `localhost`, with this protocol.
    pub async fn tls(&self, from: [u8; 2], alpn: &str) -> std::io::Result<Stream> {
        let stream = self.tcp(from).await?;
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        within(TlsConnector::from(self.client(alpn)?).connect(name, stream)).await?
    }

    fn client(&self, alpn: &str) -> std::io::Result<Arc<ClientConfig>> {
        self.client_of(alpn, doorward::tls::provider(), rustls::DEFAULT_VERSIONS).map(Arc::new)
    }

    /// Trusts the gateway's CA.
    pub fn client_of(
        &self,
        alpn: &str,
        provider: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.roots).map_err(std::io::Error::other)? {
            roots.add(root.map_err(std::io::Error::other)?).map_err(std::io::Error::other)?;
        }
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(config)
    }
}

/// Bounds one step.
pub async fn within<T>(step: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::time::timeout(PATIENCE, step).await.map_err(|_| std::io::ErrorKind::TimedOut.into())
}
