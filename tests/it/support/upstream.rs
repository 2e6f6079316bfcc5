//! Toy upstreams: raw ones that record what they heard and answer as told, and hyper ones for HTTP/2 and TLS.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorward::cli::demo::pki::{Authority, Leaf, LeafSpec};
use doorward::cli::demo::stage::Stage;
use doorward::clock::Clock;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

/// What every toy sends and every streaming client uploads.
pub type ToyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A server on a runtime of its own; it ends when dropped.
pub struct Toy {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

/// One request as a raw toy read it, by the strictest reading.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which connection it came on, from 0.
    pub connection: usize,
    pub head: String,
    pub body: Vec<u8>,
}

/// Everything a raw toy heard, in order.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Heard>>>);

impl Journal {
    pub fn note(&self, heard: Heard) {
        self.0.lock().unwrap().push(heard);
    }

    pub fn all(&self) -> Vec<Heard> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Request lines in order.
    pub fn lines(&self) -> Vec<String> {
        self.all().iter().map(|heard| heard.head.lines().next().unwrap_or_default().to_owned()).collect()
    }
}

impl Heard {
    /// Every value of a header, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub fn value(&self, name: &str) -> &str {
        self.values(name).first().copied().unwrap_or_default()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }
}

impl Toy {
    /// Runs `serve` for each connection, told its number.
    pub fn start<F>(serve: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, number));
                number += 1;
            }
        });
        Self { address, runtime: Some(runtime) }
    }

    /// Records every request and answers each by its head.
    pub fn answering(answer: impl Fn(&Heard) -> Vec<u8> + Send + Sync + 'static) -> (Self, Journal) {
        let journal = Journal::default();
        let (noted, answer) = (journal.clone(), Arc::new(answer));
        let toy = Self::start(move |mut stream, number| {
            let (noted, answer) = (noted.clone(), Arc::clone(&answer));
            async move {
                let mut ahead = Vec::new();
                while let Some(mut heard) = hear(&mut stream, &mut ahead).await {
                    heard.connection = number;
                    noted.note(heard.clone());
                    if stream.write_all(&answer(&heard)).await.is_err() {
                        break;
                    }
                }
            }
        });
        (toy, journal)
    }

    /// Records every request and says ok.
    pub fn recording() -> (Self, Journal) {
        Self::answering(|_| OK.to_vec())
    }

    /// A hyper server: over TLS the protocol is ALPN's, else `h2c` says.
    pub fn hyper<F>(
        h2c: bool,
        tls: Option<Arc<ServerConfig>>,
        service: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<ToyBody>> + Send + 'static,
    {
        Self::start(move |stream, _| {
            let (tls, service) = (tls.clone(), service.clone());
            async move {
                let Some(tls) = tls else { return speak(stream, h2c, service).await };
                if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    speak(stream, h2, service).await;
                }
            }
        })
    }

    /// This toy as the upstream of an open site.
    pub fn site(&self) -> String {
        self.site_with("", "")
    }

    /// The same with more lines in the upstream and in the route.
    pub fn site_with(&self, upstream: &str, route: &str) -> String {
        site_of(&[format!("http://{}", self.address)], upstream, route)
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An open site on `localhost` before these servers.
pub fn site_of(servers: &[String], upstream: &str, route: &str) -> String {
    format!(
        "\n[upstream.toy]\nservers = {servers:?}\n{upstream}\n[[site]]\nhosts = [\"localhost\"]\n  [[site.route]]\n  path = \"/\"\n  \
         upstream = \"toy\"\n  bots = \"any\"\n{route}\n"
    )
}

/// The next request: its head, then the body that its framing announces; what follows stays in `ahead`. `None`: the end.
pub async fn hear(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) -> Option<Heard> {
    let end = loop {
        match ahead.windows(4).position(|four| four == b"\r\n\r\n") {
            Some(at) => break at + 4,
            None => more(stream, ahead).await?,
        }
    };
    let head = String::from_utf8_lossy(&ahead.drain(..end).collect::<Vec<_>>()).into_owned();
    let mut heard = Heard { connection: 0, head, body: Vec::new() };
    if heard.value("transfer-encoding").eq_ignore_ascii_case("chunked") {
        loop {
            let line = take_line(stream, ahead).await?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            heard.body.extend(take(stream, ahead, size).await?);
            if size > 0 {
                take_line(stream, ahead).await?;
                continue;
            }
            loop {
                let trailer = take_line(stream, ahead).await?;
                if trailer.is_empty() {
                    return Some(heard);
                }
                heard.head.push_str(&format!("TRAILER {trailer}\r\n"));
            }
        }
    }
    let length = heard.value("content-length").parse().unwrap_or(0);
    heard.body = take(stream, ahead, length).await?;
    Some(heard)
}

async fn take(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>, length: usize) -> Option<Vec<u8>> {
    while ahead.len() < length {
        more(stream, ahead).await?;
    }
    Some(ahead.drain(..length).collect())
}

async fn take_line(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = ahead.windows(2).position(|two| two == b"\r\n") {
            let line: Vec<u8> = ahead.drain(..at + 2).collect();
            return Some(String::from_utf8_lossy(&line[..at]).into_owned());
        }
        more(stream, ahead).await?;
    }
}

async fn more(stream: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 16 * 1024];
    let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
    ahead.extend_from_slice(&chunk[..read]);
    Some(())
}

async fn speak<S, F>(stream: S, h2: bool, service: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<ToyBody>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // The peer may be gone; a toy has nobody to tell.
    if h2 {
        let _ =
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

/// A CA for upstreams with what it issued, written into a folder.
pub struct Backstage {
    pub authority: Authority,
    pub folder: tempfile::TempDir,
}

impl Backstage {
    pub fn make() -> Self {
        let authority = Authority::root("Upstream CA", Clock::system().now().wall).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &authority.certificate_pem).unwrap();
        Self { authority, folder }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A client certificate for the gateway, as `NAME.crt` and `NAME.key`.
    pub fn client(&self, name: &str) -> Leaf {
        let leaf = self.authority.issue(&LeafSpec::client("urn:gateway", 7).unwrap()).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), &leaf.chain_pem).unwrap();
        doorward::cli::demo::pki::write_private(Path::new(&self.path(&format!("{name}.key"))), &leaf.key_pem).unwrap();
        leaf
    }

    /// A server for `name`, perhaps one that demands a certificate of this CA.
    pub fn server(&self, name: &str, alpn: &[&[u8]], demands: bool) -> Arc<ServerConfig> {
        let leaf = self.authority.issue(&LeafSpec::server(&[name]).unwrap()).unwrap();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let provider = doorward::tls::provider();
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if demands {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(self.authority.certificate_pem.as_bytes()).unwrap()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// An HTTP/2 connection to a stage's public door, from 127.0.x.y.
pub async fn h2_line(stage: &Stage, from: [u8; 2]) -> SendRequest<ToyBody> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, from[0], from[1]), 0))).unwrap();
    let stream = socket.connect(stage.https()).await.unwrap();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(stage.pki.folder.join("server-ca.pem")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request of HTTP/2 as a browser sends it.
pub fn h2_request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("https://localhost{path}")).header("user-agent", "Mozilla/5.0")
}

pub fn full(bytes: impl Into<Bytes>) -> ToyBody {
    Full::new(bytes.into()).boxed_unsync()
}
