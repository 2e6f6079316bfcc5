//! A caller that chooses everything of its handshake: version, name, groups, protocols, certificate, session store; then
//! HTTP/1, HTTP/2 or bare bytes.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use doorward::cli::demo::pki::Leaf;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Answer, Stage};

pub const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A name that the handshake is told where the caller sends none.
const NAMELESS: &str = "localhost";

/// Who calls, from where, and how it shakes hands.
#[derive(Clone)]
pub struct Caller {
    from: Ipv4Addr,
    to: SocketAddr,
    certs: PathBuf,
    sni: Option<String>,
    versions: &'static [&'static SupportedProtocolVersion],
    provider: Arc<CryptoProvider>,
    shown: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
}

/// An open HTTP connection.
pub struct Channel {
    sender: Sender,
    host: String,
    /// Ends when the gateway closes the connection.
    pub end: JoinHandle<Result<(), hyper::Error>>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// Opens a stage on a config text after more files were put beside the PKI's; a `server-ca.pem` may be added to.
pub fn open_with(text: &str, prepare: impl FnOnce(&Path)) -> Stage {
    let text = text.to_owned();
    Stage::open(super::NAMES, move |certs, state, portal| {
        prepare(certs);
        text.replace("{certs}", &certs.display().to_string())
            .replace("{state}", &state.display().to_string())
            .replace("{portal}", &portal.to_string())
    })
    .unwrap_or_else(|error| panic!("the stage could not be opened:\n{error}"))
}

impl Caller {
    /// From `127.0.x.y`, to `localhost`, any version, speaking HTTP/1.1 and showing nothing.
    pub fn new(stage: &Stage, from: [u8; 2]) -> Self {
        Self {
            from: Ipv4Addr::new(127, 0, from[0], from[1]),
            to: stage.https(),
            certs: stage.pki.folder.clone(),
            sni: Some("localhost".to_owned()),
            versions: BOTH,
            provider: doorward::tls::provider(),
            shown: None,
            alpn: vec![b"http/1.1".to_vec()],
        }
    }

    pub fn named(self, sni: &str) -> Self {
        Self { sni: Some(sni.to_owned()), ..self }
    }

    /// Sends no SNI.
    pub fn nameless(self) -> Self {
        Self { sni: None, ..self }
    }

    pub fn versions(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    pub fn provider(self, provider: CryptoProvider) -> Self {
        Self { provider: Arc::new(provider), ..self }
    }

    pub fn alpn(self, protocols: &[&str]) -> Self {
        Self { alpn: protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(), ..self }
    }

    /// Shows `certs/NAME.crt`, whatever issuers the gateway names.
    pub fn with(self, name: &str) -> Self {
        let chain = std::fs::read_to_string(self.certs.join(format!("{name}.crt"))).expect("a certificate");
        let key = std::fs::read_to_string(self.certs.join(format!("{name}.key"))).expect("a key");
        self.showing(&chain, &key)
    }

    pub fn leaf(self, leaf: &Leaf) -> Self {
        self.showing(&leaf.chain_pem, &leaf.key_pem)
    }

    /// Shows a chain and signs with a key, which may be that of another certificate.
    pub fn showing(mut self, chain: &str, key: &str) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let key = self.provider.key_provider.load_private_key(key).expect("a usable key");
        self.shown = Some(Arc::new(CertifiedKey::new(chain, key)));
        self
    }

    /// What rustls makes of it; it keeps sessions, so that a caller who holds on to it resumes.
    pub fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.certs.join("server-ca.pem")).expect("roots") {
            roots.add(root.expect("a root")).expect("a root");
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.versions)
            .expect("versions that the provider has")
            .with_root_certificates(roots);
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(shown) => builder.with_client_cert_resolver(Arc::new(Shown(Arc::clone(shown)))),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sni.is_some();
        config
    }

    pub async fn tcp(&self) -> TcpStream {
        self.tcp_to(self.to).await.expect("a listener")
    }

    /// An error also where the gateway resets the connection at once.
    pub async fn tcp_to(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        socket.connect(to).await
    }

    /// Whether the gateway closes the connection at once, without a byte.
    pub async fn turned_away(&self, to: SocketAddr) -> bool {
        match self.tcp_to(to).await {
            Ok(mut stream) => until_closed(&mut stream).await.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// A handshake of its own.
    pub async fn shake(&self) -> io::Result<TlsStream<TcpStream>> {
        self.shake_with(&Arc::new(self.config())).await
    }

    pub async fn shake_with(&self, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        self.shake_over(self.tcp_to(self.to).await?, config).await
    }

    pub async fn shake_over(&self, stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let name = self.sni.clone().unwrap_or_else(|| NAMELESS.to_owned());
        let name = ServerName::try_from(name).expect("a name");
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }

    /// The alert with which the handshake is refused; `closed` where there is none. With TLS 1.3 a client is done before its
    /// certificate is judged, so it is read on.
    pub async fn refusal(&self) -> String {
        match self.shake().await {
            Err(error) => alert(&error),
            Ok(mut stream) => match stream.read(&mut [0]).await {
                Err(error) => alert(&error),
                Ok(_) => "closed".to_owned(),
            },
        }
    }

    /// HTTP/1.1 on a connection of its own.
    pub async fn h1(&self) -> Channel {
        Channel::over_h1(self.shake().await.expect("a handshake"), self.host()).await
    }

    /// HTTP/2 on a connection of its own.
    pub async fn h2(&self) -> Channel {
        let stream = self.clone().alpn(&["h2"]).shake().await.expect("a handshake");
        Channel::over_h2(stream, self.host()).await
    }

    /// Bare bytes over HTTP/2's ALPN, for frames made by hand.
    pub async fn h2_wire(&self) -> TlsStream<TcpStream> {
        self.clone().alpn(&["h2"]).shake().await.expect("a handshake")
    }

    /// One request on a connection of its own.
    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        self.h1().await.send(request, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(super::browser("GET", path), Bytes::new()).await
    }

    /// Raw bytes, and everything that comes back until the gateway closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.shake().await.expect("a handshake");
        stream.write_all(bytes).await.expect("a reader");
        String::from_utf8_lossy(&until_closed(&mut stream).await).into_owned()
    }

    fn host(&self) -> String {
        self.sni.clone().unwrap_or_else(|| NAMELESS.to_owned())
    }
}

impl Channel {
    pub async fn over_h1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: String) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1");
        Self { sender: Sender::One(sender), host, end: tokio::spawn(connection) }
    }

    pub async fn over_h2(stream: TlsStream<TcpStream>, host: String) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        Self { sender: Sender::Two(sender), host, end: tokio::spawn(connection) }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(super::browser("GET", path), Bytes::new()).await.expect("an answer")
    }

    /// `GET /` of another host.
    pub async fn get_of(&mut self, host: &str) -> Answer {
        self.send(super::browser("GET", "/").header("host", host), Bytes::new()).await.expect("an answer")
    }

    /// One more request. With HTTP/2 a `Host` becomes the authority.
    pub async fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Answer, hyper::Error> {
        let mut request = request.body(Full::new(body.into())).expect("a request");
        let response = match &mut self.sender {
            Sender::One(sender) => {
                if !request.headers().contains_key("host") {
                    request.headers_mut().insert("host", self.host.parse().expect("a host"));
                }
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Two(sender) => {
                to_h2(&mut request, &self.host);
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, 1 << 20).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Err(*error.downcast::<hyper::Error>().expect("a small answer")),
        };
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// The sender, to have many requests under way.
    pub fn h2_sender(&self) -> http2::SendRequest<Full<Bytes>> {
        match &self.sender {
            Sender::Two(sender) => sender.clone(),
            Sender::One(_) => panic!("not HTTP/2"),
        }
    }
}

/// Names the host in the target, as HTTP/2 has it.
pub fn to_h2<B>(request: &mut Request<B>, host: &str) {
    let named = request.headers_mut().remove("host");
    let host = named.as_ref().map_or(host, |value| value.to_str().expect("text"));
    let uri = format!("https://{host}{}", request.uri());
    *request.uri_mut() = uri.parse::<Uri>().expect("a URI");
}

/// Until the gateway closes, however it does.
pub async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        all.extend_from_slice(&chunk[..read]);
    }
    all
}

/// The name of an alert, or what else went wrong.
pub fn alert(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(description)) => format!("{description:?}"),
        _ => error.to_string(),
    }
}

/// What the application saw of a request to `/echo`: every value of a header, in order.
pub fn seen(answer: &Answer, name: &str) -> Vec<String> {
    let echoed: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no echo: {answer:?}"));
    let headers = echoed["headers"].as_array().expect("headers");
    headers.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().expect("text").to_owned()).collect()
}

struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes)?;
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}
