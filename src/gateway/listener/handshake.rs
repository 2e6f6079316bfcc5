//! TLS: ClientHello -> SNI -> the site's config of the current snapshot -> a [`Connection`].

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, LazyConfigAcceptor};

use crate::events::{ConnectionCause, Event};
use crate::net::ClientAddr;
use crate::policy::route::canonical_host;
use crate::tls::{self, RefusedCertificate, ServerChoice, UnknownServerName};

use super::super::{Connection, Worker};
use super::wire::{Watch, Wire};

/// A connection whose handshake is done.
pub(super) struct Secured {
    /// In a box: it is handed on often, and large.
    pub stream: Box<TlsStream<Wire>>,
    pub connection: Arc<Connection>,
    /// By ALPN; without it the client speaks HTTP/1.
    pub h2: bool,
}

/// A fatal `unrecognized_name` alert (RFC 6066 section 3), before there is a session that could send it.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// Shakes hands within `deadlines.handshake`, ClientHello included. Fails closed: whatever goes wrong ends the connection,
/// with an event unless the client left without a byte.
pub(super) async fn secure(worker: &Worker, wire: Wire, watch: &Watch, peer: IpAddr, client: ClientAddr) -> Option<Secured> {
    let deadline = worker.gateway.snapshot.load().config.deadlines.handshake;
    watch.shake();
    let refused = |cause| Event::ConnectionRefused { peer, client: Some(client.ip), cause };
    let event = match tokio::time::timeout(deadline, negotiate(worker, wire, peer, client)).await {
        Ok(Ok(secured)) => return Some(secured),
        Ok(Err(_)) if !watch.spoke() => return None,
        Ok(Err(Failure::UnknownServerName)) => refused(ConnectionCause::UnknownServerName),
        Ok(Err(Failure::Certificate { site, refused })) => Event::CertificateRefused {
            client: client.ip,
            site: site.unwrap_or_default(),
            subject: refused.subject,
            issuer: refused.issuer,
            cause: refused.cause,
            in_handshake: true,
        },
        Ok(Err(Failure::Tls { sni, error })) => Event::HandshakeFailed { client: client.ip, sni, cause: error.to_string() },
        Err(_) => refused(ConnectionCause::HandshakeTimeout),
    };
    worker.gateway.events.emit(event);
    None
}

enum Failure {
    UnknownServerName,
    Certificate { site: Option<String>, refused: RefusedCertificate },
    Tls { sni: Option<String>, error: io::Error },
}

async fn negotiate(worker: &Worker, wire: Wire, peer: IpAddr, client: ClientAddr) -> Result<Secured, Failure> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), wire).await.map_err(|error| Failure::Tls { sni: None, error })?;
    let name = hello.client_hello().server_name().map(str::to_owned);
    let server_name = name.as_deref().map(canonical_host);
    let choice = match &server_name {
        // A name that is no host is the name of no site.
        Some(None) => Err(UnknownServerName),
        Some(Some(host)) => worker.gateway.snapshot.load().tls.server(Some(host)),
        None => worker.gateway.snapshot.load().tls.server(None),
    };
    let Ok(ServerChoice { config, .. }) = choice else {
        let mut wire = hello.io;
        // The refusal stands whether or not the client hears of it.
        let _ = wire.write_all(&UNRECOGNIZED_NAME).await;
        let _ = wire.shutdown().await;
        return Err(Failure::UnknownServerName);
    };

    let (result, refused) = accept(hello.into_stream(config)).await;
    let stream = result.map_err(|error| match refused {
        Some(refused) => Failure::Certificate { site: name.clone(), refused },
        None => Failure::Tls { sni: name.clone(), error },
    })?;
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default().iter().cloned().map(CertificateDer::into_owned).collect();
    let tls = if session.protocol_version() == Some(ProtocolVersion::TLSv1_2) { "TLSv1.2" } else { "TLSv1.3" };
    let h2 = session.alpn_protocol() == Some(b"h2");
    let server_name = server_name.flatten().map(Into::into);
    let connection = Arc::new(Connection::new(peer, client, server_name, chain, tls));
    Ok(Secured { stream: Box::new(stream), connection, h2 })
}

/// Finishes a handshake, with what its verifier refused. The verifier leaves that on the thread, so it is taken before any
/// other handshake can run there.
async fn accept(accept: Accept<Wire>) -> (io::Result<TlsStream<Wire>>, Option<RefusedCertificate>) {
    let mut accept = pin!(accept);
    let mut refused = None;
    let result = poll_fn(|cx| {
        let poll = accept.as_mut().poll(cx);
        refused = tls::take_refusal().or(refused.take());
        poll
    })
    .await;
    (result, refused)
}
