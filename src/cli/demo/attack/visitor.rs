//! A visitor from an address of its own: TLS by rustls with or without a certificate, then well-formed requests or raw bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::pki::Error;
use super::super::stage::Stage;

/// No single step of an attack takes longer.
const PATIENCE: Duration = Duration::from_secs(12);
/// Answers are small; the large download is counted, not kept.
const MAX_ANSWER: usize = 1 << 20;

/// One caller: an address, a server name, perhaps a certificate.
#[derive(Clone)]
pub struct Visitor {
    from: Ipv4Addr,
    to: SocketAddr,
    sni: String,
    certs: PathBuf,
    certificate: Option<String>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A kept-open HTTP/1 connection.
pub struct Line {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
}

/// An HTTP/2 connection; its streams run side by side.
#[derive(Clone)]
pub struct Streams {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    host: String,
}

impl Visitor {
    /// From `127.0.x.y`, one address an attack, so that none is punished for another's deeds.
    pub fn new(stage: &Stage, from: [u8; 2]) -> Self {
        Self::to(stage.https(), &stage.pki.folder, from)
    }

    /// The same for a gateway that runs elsewhere; `certs` is the folder of its PKI.
    pub fn to(door: SocketAddr, certs: &Path, from: [u8; 2]) -> Self {
        let [third, fourth] = from;
        Self {
            from: Ipv4Addr::new(127, 0, third, fourth),
            to: door,
            sni: "localhost".to_owned(),
            certs: certs.to_path_buf(),
            certificate: None,
        }
    }

    /// With the certificate `certs/NAME.crt`.
    pub fn with(mut self, certificate: &str) -> Self {
        self.certificate = Some(certificate.to_owned());
        self
    }

    /// Asks the handshake for another name.
    pub fn named(mut self, sni: &str) -> Self {
        sni.clone_into(&mut self.sni);
        self
    }

    /// A bare TCP connection.
    pub async fn tcp(&self, to: SocketAddr) -> Result<TcpStream, Error> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        Ok(tokio::time::timeout(PATIENCE, socket.connect(to)).await??)
    }

    /// A finished handshake, for HTTP/1.
    pub async fn tls(&self) -> Result<TlsStream<TcpStream>, Error> {
        self.handshake(b"http/1.1").await
    }

    async fn handshake(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>, Error> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.certs.join("server-ca.pem"))? {
            roots.add(root?)?;
        }
        let builder = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(self.certs.join(format!("{name}.crt")))?;
                let key = PrivateKeyDer::from_pem_file(self.certs.join(format!("{name}.key")))?;
                builder.with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(self.sni.clone())?;
        let stream = self.tcp(self.to).await?;
        Ok(tokio::time::timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, stream)).await??)
    }

    /// A connection that can be used again.
    pub async fn line(&self) -> Result<Line, Error> {
        let stream = self.tls().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(Line { sender, host: self.sni.clone() })
    }

    /// An HTTP/2 connection.
    pub async fn streams(&self) -> Result<Streams, Error> {
        let stream = TokioIo::new(self.handshake(b"h2").await?);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Streams { sender, host: self.sni.clone() })
    }

    /// How the gateway ends a handshake that it refuses: TLS 1.3 tells it only after the client believes to be done.
    pub async fn refusal(&self) -> Result<(), Error> {
        let mut stream = self.tls().await?;
        let mut byte = [0];
        match tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// One request on a connection of its own. A refusal inside TLS 1.3 shows only when something is read: also an error here.
    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.line().await?.send(request, body).await
    }

    /// `GET` as a browser.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.send(browser("GET", path), Bytes::new()).await
    }

    /// Signs in as a browser would.
    pub async fn sign_in(&self, account: &str, password: &str) -> Result<Answer, Error> {
        self.send(form(), credentials(account, password)).await
    }

    /// Raw bytes over TLS; what comes back until the server closes or pauses.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut stream = self.tls().await?;
        stream.write_all(bytes).await?;
        Ok(read_all(&mut stream).await)
    }
}

impl Streams {
    /// One more request, beside the others.
    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Answer, Error> {
        let mut request: Request<Full<Bytes>> = request.body(Full::new(body.into()))?;
        if request.uri().authority().is_none() {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            *request.uri_mut() = format!("https://{}{target}", self.host).parse()?;
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        answer(tokio::time::timeout(PATIENCE, sender.send_request(request)).await??).await
    }
}

impl Line {
    /// One more request on this connection.
    pub async fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Result<Answer, Error> {
        let mut request: Request<Full<Bytes>> = request.body(Full::new(body.into()))?;
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", self.host.parse()?);
        }
        self.sender.ready().await?;
        answer(tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await??).await
    }
}

async fn answer(response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, http_body_util::Limited::new(body, MAX_ANSWER).collect()).await??.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

impl Answer {
    /// `403 banned`, or the bare status where the application answered.
    pub fn told(&self) -> String {
        let problem: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let reason = problem.as_ref().and_then(|problem| problem.get("type")?.as_str()?.strip_prefix("urn:doorward:"));
        match reason {
            Some(reason) => format!("{} {reason}", self.status.as_u16()),
            None => self.status.as_u16().to_string(),
        }
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A request as a browser sends it.
pub fn browser(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
        .header("accept", "application/json")
}

/// The login form.
pub fn form() -> http::request::Builder {
    browser("POST", "/login").header("content-type", "application/x-www-form-urlencoded")
}

pub fn credentials(account: &str, password: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("username", account).append_pair("password", password).finish()
}

/// Until the peer closes, or nothing comes for a while.
pub async fn read_all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    const PAUSE: Duration = Duration::from_millis(700);
    let (mut all, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    while all.len() < MAX_ANSWER {
        match tokio::time::timeout(PAUSE, stream.read(&mut chunk)).await {
            Ok(Ok(read @ 1..)) => all.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            _ => break,
        }
    }
    all
}
