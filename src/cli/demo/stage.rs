//! The stage of the demo and of the tests: a temporary folder, a throwaway PKI, the toy portal, the gateway before it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::thread::JoinHandle;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyUsagePurpose;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::gateway::Snapshot;
use crate::server::{self, Bound, Options, StartError};

use super::pki::{Authority, Error, Leaf, LeafSpec, write_private};
use super::portal::Portal;

/// Serial of the client certificate that the demo's CRL revokes.
const REVOKED_SERIAL: u64 = 66;

/// Files of a throwaway PKI in a folder: `NAME.crt` and `NAME.key` for each leaf, `acme-ca.pem`, `acme-ca.crl`, `server-ca.pem`,
/// `alice.key` and `alice.pub` for signing approvals.
pub struct Pki {
    pub folder: PathBuf,
    pub server_ca: Authority,
    pub acme: Authority,
    pub foreign: Authority,
    /// An intermediate of Acme whose keyUsage lacks keyCertSign.
    pub unfit: Authority,
}

/// The gateway on a thread of its own, with what stands before and behind it.
pub struct Stage {
    pub folder: TempDir,
    pub pki: Pki,
    pub portal: Portal,
    pub bound: Bound,
    pub config: PathBuf,
    stop: CancellationToken,
    gateway: Option<JoinHandle<Result<(), StartError>>>,
    /// Ends the portal when dropped.
    _portal: tokio::runtime::Runtime,
    /// Every event as a JSON line.
    pub events: mpsc::UnboundedReceiver<String>,
    /// Every snapshot that went live.
    pub snapshots: mpsc::UnboundedReceiver<Weak<Snapshot>>,
}

impl Pki {
    /// Makes and writes everything.
    pub fn make(folder: &Path, server_names: &[&str]) -> Result<Self, Error> {
        fs::create_dir_all(folder)?;
        let now = Clock::system().now().wall;
        let acme = Authority::root("Acme client CA", now)?;
        let pki = Self {
            folder: folder.to_path_buf(),
            server_ca: Authority::root("Demo server CA", now)?,
            unfit: acme.intermediate("Unfit issuer", &[KeyUsagePurpose::CrlSign])?,
            acme,
            foreign: Authority::root("Foreign CA", now)?,
        };
        fs::write(folder.join("server-ca.pem"), &pki.server_ca.certificate_pem)?;
        fs::write(folder.join("acme-ca.pem"), &pki.acme.certificate_pem)?;
        pki.write("portal", &pki.server_ca.issue(&LeafSpec::server(server_names)?)?)?;
        pki.write("good", &pki.acme.issue(&LeafSpec::client("urn:acme:orders", 10)?)?)?;
        pki.write("other", &pki.acme.issue(&LeafSpec::client("urn:acme:reports", 11)?)?)?;
        pki.write("revoked", &pki.acme.issue(&LeafSpec::client("urn:acme:lost", REVOKED_SERIAL)?)?)?;
        let expired = LeafSpec { from_days: -30, until_days: -2, ..LeafSpec::client("urn:acme:old", 12)? };
        pki.write("expired", &pki.acme.issue(&expired)?)?;
        pki.write("foreign", &pki.foreign.issue(&LeafSpec::client("urn:acme:orders", 13)?)?)?;
        pki.write("unfit-issuer", &pki.unfit.issue(&LeafSpec::client("urn:acme:orders", 14)?)?)?;
        pki.write_crl(1, &[REVOKED_SERIAL])?;
        pki.write_signer("alice")?;
        Ok(pki)
    }

    /// Replaces `acme-ca.crl`, by rename as renewal tools do.
    pub fn write_crl(&self, number: u64, revoked: &[u64]) -> Result<(), Error> {
        // With a list of the unfit issuer's too, so that nothing but its keyUsage speaks against what it issues.
        let crl = self.acme.crl(number, revoked, 30)? + &self.unfit.crl(number, &[], 30)?;
        let next = self.folder.join("acme-ca.crl.next");
        fs::write(&next, crl)?;
        fs::rename(next, self.folder.join("acme-ca.crl"))?;
        Ok(())
    }

    pub fn write(&self, name: &str, leaf: &Leaf) -> Result<(), Error> {
        fs::write(self.folder.join(format!("{name}.crt")), &leaf.chain_pem)?;
        write_private(&self.folder.join(format!("{name}.key")), &leaf.key_pem)?;
        Ok(())
    }

    /// An Ed25519 pair as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` make it.
    fn write_signer(&self, name: &str) -> Result<(), Error> {
        let pair = Ed25519KeyPair::generate()?;
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?;
        write_private(&self.folder.join(format!("{name}.key")), &pem("PRIVATE KEY", private.as_ref()))?;
        fs::write(self.folder.join(format!("{name}.pub")), pem("PUBLIC KEY", public.as_ref()))?;
        Ok(())
    }
}

impl Stage {
    /// Makes everything and waits until the gateway accepts. `config` gets the folder of the PKI, the folder for state and
    /// the portal's address, and gives the text of the config file.
    pub fn open(server_names: &[&str], config: impl FnOnce(&Path, &Path, SocketAddr) -> String) -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("doorward-").tempdir()?;
        let pki = Pki::make(&folder.path().join("certs"), server_names)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let portal = runtime.block_on(Portal::start())?;
        let file = folder.path().join("doorward.toml");
        fs::write(&file, config(&pki.folder, &folder.path().join("state"), portal.address))?;
        let (tap, events) = mpsc::unbounded_channel();
        let (watch, snapshots) = mpsc::unbounded_channel();
        let (stop, gateway, bound) = start(&file, tap, watch, None)?;
        Ok(Self { folder, pki, portal, bound, config: file, stop, gateway: Some(gateway), _portal: runtime, events, snapshots })
    }

    /// Stops the gateway as TERM would and waits for it.
    pub fn close(&mut self) -> Result<(), Error> {
        self.stop.cancel();
        match self.gateway.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(start_error(error)),
            Some(Err(_)) => Err("the gateway panicked".into()),
            _ => Ok(()),
        }
    }

    /// Starts the gateway again on the same state; ports may differ.
    pub fn reopen(&mut self) -> Result<(), Error> {
        self.reopen_by(None)
    }

    /// The same by another clock than the system's.
    pub fn reopen_by(&mut self, clock: Option<Clock>) -> Result<(), Error> {
        let (tap, events) = mpsc::unbounded_channel();
        let (watch, snapshots) = mpsc::unbounded_channel();
        let (stop, gateway, bound) = start(&self.config, tap, watch, clock)?;
        (self.stop, self.gateway, self.bound) = (stop, Some(gateway), bound);
        (self.events, self.snapshots) = (events, snapshots);
        Ok(())
    }

    /// Where the public door is.
    pub fn https(&self) -> SocketAddr {
        self.bound.https.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 443)))
    }

    /// Where the plain port is.
    pub fn http(&self) -> SocketAddr {
        self.bound.http.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 80)))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Not waited for: it drains on its own thread, and all it has left is a folder that goes.
        self.stop.cancel();
    }
}

type Started = (CancellationToken, JoinHandle<Result<(), StartError>>, Bound);

fn start(
    config: &Path,
    tap: mpsc::UnboundedSender<String>,
    watch: mpsc::UnboundedSender<Weak<Snapshot>>,
    clock: Option<Clock>,
) -> Result<Started, Error> {
    let (ready, bound) = std::sync::mpsc::channel();
    let stop = CancellationToken::new();
    let options = Options {
        on_ready: Some(Box::new(move |bound| {
            let _ = ready.send(bound);
        })),
        stop: Some(stop.clone()),
        tap: Some(tap),
        snapshots: Some(watch),
        clock,
        ..Options::default()
    };
    let file = config.to_path_buf();
    let gateway = std::thread::Builder::new().name("gateway".to_owned()).spawn(move || server::run(&file, options))?;
    match bound.recv() {
        Ok(bound) => Ok((stop, gateway, bound)),
        Err(_) => match gateway.join() {
            Ok(Err(error)) => Err(start_error(error)),
            _ => Err("the gateway ended before it was ready".into()),
        },
    }
}

fn start_error(error: StartError) -> Error {
    match error {
        StartError::Config(found) | StartError::Address(found) => found.render(false).into(),
        StartError::Io(error) => error.into(),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).filter_map(|at| text.get(at..text.len().min(at + 64))).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
