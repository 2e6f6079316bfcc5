//! A plain proxy made of Pingora, for `benches/peers/run.py --pingora`: TLS 1.3, HTTP/1.1 and HTTP/2, kept connections to one
//! backend, X-Forwarded-For. Its checks are the three that a scenario is about: a client certificate at the second address (S6),
//! one request under `/limited/` (S11a), and an address that is turned away as it connects (S11b).

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::listeners::ConnectionFilter;
use pingora::listeners::tls::TlsSettings;
use pingora::modules::http::HttpModules;
use pingora::prelude::*;
use pingora::proxy::http_proxy_service;
use pingora::server::configuration::ServerConf;
use pingora::tls::{RootCertStore, WebPkiClientVerifier, install_default_crypto_provider, load_ca_file_into_store};
use pingora_limits::rate::Rate;

const USAGE: &str = "usage: pingora-peer LISTEN LISTEN-MTLS BACKEND CHAIN KEY CLIENT-CA BANNED
       pingora-peer --version";
const LOCK: &str = include_str!("../Cargo.lock");
const LIMITED: &[u8] = b"limited";

type Fallible<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == ["--version"] {
        println!("{} with rustls {}", locked("pingora"), locked("rustls"));
        return Ok(());
    }
    let [open, mtls, backend, chain, key, client_ca, banned] = arguments.try_into().map_err(|_| USAGE)?;
    let conf = ServerConf {
        threads: 1,
        // One current_thread runtime, the cheaper one; see README.md of the folder above.
        work_stealing: false,
        upstream_keepalive_pool_size: 512,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let door = Door {
        backend: HttpPeer::new(backend.parse::<SocketAddr>()?, false, String::new()),
        spent: Rate::new(Duration::from_secs(3600)),
    };
    let mut service = http_proxy_service(&server.configuration, door);
    service.set_connection_filter(Arc::new(Banned(banned.parse()?)));
    service.add_tls_with_settings(&open, None, tls(&chain, &key, None)?);
    service.add_tls_with_settings(&mtls, None, tls(&chain, &key, Some(&client_ca))?);
    server.add_service(service);
    server.run_forever()
}

/// By rustls with ring: TLS 1.3 and X25519 first, and of the suites the client's first.
fn tls(chain: &str, key: &str, client_ca: Option<&str>) -> Fallible<TlsSettings> {
    let mut settings = TlsSettings::intermediate(chain, key)?;
    settings.enable_h2();
    if let Some(client_ca) = client_ca {
        install_default_crypto_provider();
        let mut roots = RootCertStore::empty();
        load_ca_file_into_store(client_ca, &mut roots)?;
        settings.set_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build()?);
    }
    Ok(settings)
}

/// The version of a crate that Cargo.lock names.
fn locked(name: &str) -> &'static str {
    let version = LOCK.split_once(&format!("name = \"{name}\"\nversion = \"")).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("?", |(version, _)| version)
}

struct Door {
    backend: HttpPeer,
    spent: Rate,
}

#[async_trait]
impl ProxyHttp for Door {
    type CTX = ();

    fn new_ctx(&self) {}

    /// None: by default a module of compression, turned off, looks at each answer.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> Result<bool> {
        if !session.req_header().uri.path().starts_with("/limited/") || self.spent.observe(&"all", 1) <= 1 {
            return Ok(false);
        }
        let mut answer = ResponseHeader::build(429, Some(2))?;
        answer.insert_header("content-type", "text/plain")?;
        answer.insert_header("content-length", LIMITED.len())?;
        session.write_response_header(Box::new(answer), false).await?;
        session.write_response_body(Some(LIMITED.into()), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.backend.clone()))
    }

    async fn upstream_request_filter(&self, session: &mut Session, request: &mut RequestHeader, _ctx: &mut ()) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("x-forwarded-for", client.ip().to_string())?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Banned(IpAddr);

#[async_trait]
impl ConnectionFilter for Banned {
    async fn should_accept(&self, address: Option<&SocketAddr>) -> bool {
        address.is_none_or(|address| address.ip() != self.0)
    }
}
