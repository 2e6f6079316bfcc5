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
use crate::tls::{self, Examined, RefusedCertificate, ServerChoice, UnknownServerName};

use super::super::{Connection, Worker};
use super::session::Session;
use super::wire::{Watch, Wire};

/// A connection whose handshake is done.
pub(super) struct Secured {
    pub stream: Session,
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
    let (generation, choice) = {
        let snapshot = worker.gateway.snapshot.load();
        let choice = match &server_name {
            // A name that is no host is the name of no site.
            Some(None) => Err(UnknownServerName),
            Some(Some(host)) => snapshot.tls.server(Some(host)),
            None => snapshot.tls.server(None),
        };
        (snapshot.generation, choice)
    };
    let Ok(ServerChoice { config, .. }) = choice else {
        let mut wire = hello.io;
        // The refusal stands whether or not the client hears of it.
        let _ = wire.write_all(&UNRECOGNIZED_NAME).await;
        let _ = wire.shutdown().await;
        return Err(Failure::UnknownServerName);
    };

    let (result, examined) = accept(hello.into_stream(config)).await;
    let (stream, verdict) = match (result, examined) {
        (Ok(stream), Some(Examined::Holds(verdict))) => (stream, Some(verdict)),
        (Ok(stream), _) => (stream, None),
        (Err(_), Some(Examined::Refused(refused))) => return Err(Failure::Certificate { site: name, refused }),
        (Err(error), _) => return Err(Failure::Tls { sni: name, error }),
    };
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default().iter().cloned().map(CertificateDer::into_owned).collect();
    let tls = if session.protocol_version() == Some(ProtocolVersion::TLSv1_2) { "TLSv1.2" } else { "TLSv1.3" };
    let h2 = session.alpn_protocol() == Some(b"h2");
    let server_name = server_name.flatten().map(Into::into);
    let mut connection = Connection::new(peer, client, server_name, chain, tls);
    connection.verdict = verdict.map(|verdict| (generation, verdict)).into();
    Ok(Secured { stream: Session::new(Box::new(stream)), connection: Arc::new(connection), h2 })
}

/// Finishes a handshake, with what its verifier found.
async fn accept(accept: Accept<Wire>) -> (io::Result<TlsStream<Wire>>, Option<Examined>) {
    let mut accept = pin!(accept);
    let mut examined = None;
    let result = poll_fn(|cx| {
        let (poll, found) = tls::examining(|| accept.as_mut().poll(cx));
        examined = found.or(examined.take());
        poll
    })
    .await;
    (result, examined)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;

    use crate::gateway::testing::Room;

    use super::*;

    const MONTH: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

    /// Verifying it again would be most of what its handshake costs.
    #[tokio::test]
    #[allow(clippy::disallowed_methods)]
    async fn the_verdict_on_a_certificate_that_the_handshake_demanded_stands_for_the_first_request() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("urn:acme:sync".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = std::time::SystemTime::now().into();
        params.not_after = params.not_before + MONTH;
        let leaf = params.signed_by(&key, &ca).unwrap();

        for (demand, kept) in [("required", true), ("optional", false)] {
            let room = Room::asking(&ca.pem(), demand);
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&room.chain()).map(Result::unwrap));
            let chain = vec![leaf.der().clone()];
            let config = rustls::ClientConfig::builder_with_provider(tls::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
                .unwrap();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, peer) = listener.accept().await.unwrap();
            let watch = Arc::<Watch>::default();
            let wire = Wire::new(accepted, Bytes::new(), Arc::clone(&watch), None);
            let client = ClientAddr::new(peer.ip(), 64);
            let (shown, secured) = tokio::join!(
                TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket),
                secure(&room.worker, wire, &watch, peer.ip(), client),
            );
            shown.unwrap();
            let connection = secured.expect("let in").connection;
            let verdict = connection.verdict.lock().unwrap();
            let stands = verdict.as_ref().map(|(generation, verdict)| (*generation, verdict.result.is_ok()));
            assert_eq!(stands, kept.then_some((1, true)), "{demand}");
        }
    }
}
