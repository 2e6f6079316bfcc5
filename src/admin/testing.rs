//! The operators' door for tests: a real socket, real state behind it, time by hand.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::{Admin, Control, TakenOver};
use crate::clock::{Clock, ManualClock};
use crate::config::{self, Config};
use crate::events::Events;
use crate::state::accounts::Successes;
use crate::state::approvals::{Approvals, TokenKey};
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::Limits;
use crate::state::store::embedded::EmbeddedStore;
use crate::state::store::{Change, Durable, Store, StoreError, Table};

/// The key pair of RFC 8410, as openssl writes it.
pub(crate) const ALICE_KEY: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const ALICE_PUB: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

const CONFIG: &str = r#"
[policy]
id = "customer-security-policy"
version = "2024-10-04"
[listen]
trusted_proxies = ["198.51.100.0/24"]
[[tls.certificate]]
chain = "certs/portal.crt"
key = "certs/portal.key"
[client_ca.acme]
roots = ["certs/acme-ca.pem"]
tenant = "acme"
kind = "service"
[upstream.portal]
servers = ["http://127.0.0.1:9000"]
[login.form]
request = { method = "POST", path = "/login" }
account = { form = "username" }
failed = [{ status = [401] }]
ok = [{ redirect = "/home" }]
[bans]
always = ["192.0.2.0/24"]
[limit.per-client]
key = "client"
rate = "60/min"
burst = 2
[limit.per-identity]
key = "identity"
rate = "600/min"
burst = 100
[[site]]
hosts = ["portal.example.com"]
client_ca = ["acme"]
client_cert = "optional"
[[site.route]]
path = "/"
upstream = "portal"
login = "form"
limits = ["per-client", "per-identity"]
[approvals.signer.alice]
public_key = "ALICE"
party = "provider"
[approvals.require]
bot = ["provider"]
"#;

/// A door that is served until it is dropped.
pub(crate) struct Door {
    pub folder: TempDir,
    pub socket: PathBuf,
    pub admin: Admin,
    pub clock: ManualClock,
    pub control: Arc<TestControl>,
    /// Every event, as its JSON line.
    pub told: UnboundedReceiver<String>,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
}

pub(crate) struct TestControl {
    config: Arc<Config>,
    /// What the next reload answers.
    pub reload: Mutex<Result<TakenOver, String>>,
    pub ready: Mutex<Result<(), String>>,
}

/// Loads nothing and cannot be written.
pub(crate) struct FullDisk;

impl Door {
    pub fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("state")).unwrap();
        Self::over(folder, Arc::new(store))
    }

    pub fn over(folder: TempDir, store: Arc<dyn Store>) -> Self {
        let public_key = folder.path().join("alice.pub");
        std::fs::write(&public_key, ALICE_PUB).unwrap();
        let text = CONFIG.replace("ALICE", public_key.to_str().unwrap());
        let (config, _) =
            config::compile_str("test.toml".as_ref(), text).unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let clock = ManualClock::at("2026-11-21T12:00:00Z".parse().unwrap());
        let now = clock.now();
        let successes = Arc::new(Successes::load(Arc::clone(&store), now).unwrap());
        let key = TokenKey::load(&folder.path().join("approvals.key"), true).unwrap();
        let (tap, told) = unbounded_channel();
        let control = TestControl {
            config: Arc::new(config),
            reload: Mutex::new(Ok(TakenOver { generation: 2, warnings: vec!["warning: w".to_owned()] })),
            ready: Mutex::new(Ok(())),
        };
        let control = Arc::new(control);
        let policy = Arc::clone(&control.config.policy);
        let admin = Admin {
            bans: Arc::new(BanTable::load(Arc::clone(&store), &policy.bans, now).unwrap()),
            guesses: Arc::new(GuessLedger::new(policy.guesses, successes, clock.clone().into())),
            limits: Arc::new(Limits::new(&policy.limits)),
            approvals: Arc::new(Approvals::load(store, key, policy.approvals.clone(), now).unwrap()),
            events: Events::sink().with_tap(tap),
            clock: Clock::from(clock.clone()),
            control: Arc::clone(&control) as Arc<dyn Control>,
        };
        let socket = folder.path().join("admin.sock");
        let stop = CancellationToken::new();
        let bound = super::bind(&socket).unwrap();
        let served = std::thread::spawn({
            let (admin, stop) = (admin.clone(), stop.clone());
            move || runtime().block_on(super::serve(admin, bound, stop))
        });
        Self { folder, socket, admin, clock, control, told, stop, served: Some(served) }
    }

    /// Stops serving; a second call has no effect.
    pub fn close(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            let _ = served.join();
        }
    }

    /// Waits for the next event whose line has this part.
    pub fn hear(&mut self, part: &str) -> String {
        let heard = async {
            loop {
                let line = self.told.recv().await.unwrap();
                if line.contains(part) {
                    return line;
                }
            }
        };
        let deadline = std::time::Duration::from_secs(10);
        runtime().block_on(async { tokio::time::timeout(deadline, heard).await }).expect("no such event")
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Control for TestControl {
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<TakenOver, String>> + Send + '_>> {
        Box::pin(std::future::ready(self.reload.lock().unwrap().clone()))
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "generation": 1, "uptime_seconds": 90 })
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
}

impl Store for FullDisk {
    fn load(&self, _table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        Ok(Vec::new())
    }

    fn write(&self, _batch: Vec<Change>) -> Durable {
        Box::pin(std::future::ready(Err(StoreError::Write("no space left on device".to_owned()))))
    }

    fn close(&self) {}

    fn describe(&self) -> String {
        "a full disk".to_owned()
    }
}
