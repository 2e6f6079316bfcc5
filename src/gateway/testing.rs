//! A gateway for the tests of this floor: one worker, a manual clock, nobody who calls.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Gateway, Snapshot, State, Worker};
use crate::clock::{ManualClock, Now};
use crate::config;
use crate::events::Events;
use crate::policy::approval::ApprovalRules;
use crate::state::accounts::Successes;
use crate::state::approvals::{Approvals, TokenKey};
use crate::state::bans::BanTable;
use crate::state::guesses::GuessLedger;
use crate::state::limits::Limits;
use crate::state::store::Store;
use crate::state::store::embedded::EmbeddedStore;
use crate::tls::TlsState;

const CONFIG: &str = r#"
state_dir = "{folder}"
[[tls.certificate]]
chain = "{folder}/portal.crt"
key = "{folder}/portal.key"
[upstream.portal]
servers = ["http://127.0.0.1:9"]
{certificates}
[[site]]
hosts = ["localhost"]
{demand}
  [[site.route]]
  path = "/"
  upstream = "portal"
"#;

/// One worker of a gateway that nobody calls, under a manual clock.
pub struct Room {
    pub worker: Worker,
    pub clock: ManualClock,
    folder: TempDir,
}

impl Room {
    pub fn open() -> Self {
        Self::lets_in("", "", "")
    }

    /// Whose one site asks for certificates of this CA (PEM): `required` or `optional`.
    pub fn asking(ca: &str, demand: &str) -> Self {
        let certificates = "[client_ca.acme]\nroots = [\"{folder}/acme.pem\"]\nidentity = \"san-uri\"";
        Self::lets_in(ca, certificates, &format!("client_ca = [\"acme\"]\nclient_cert = \"{demand}\""))
    }

    fn lets_in(ca: &str, certificates: &str, demand: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("acme.pem"), ca).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("portal.crt"), made.cert.pem()).unwrap();
        let key = folder.path().join("portal.key");
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let text = CONFIG.replace("{certificates}", certificates).replace("{demand}", demand);
        let text = text.replace("{folder}", &folder.path().display().to_string());
        let (config, _) =
            config::compile_str(Path::new("room.toml"), text).unwrap_or_else(|found| panic!("{}", found.render(false)));
        let config = Arc::new(config);
        let clock = ManualClock::at("2026-06-15T12:00:00Z".parse().unwrap());
        let now = clock.now();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(folder.path()).unwrap());
        let policy = Arc::clone(&config.policy);
        let successes = Arc::new(Successes::load(Arc::clone(&store), now).unwrap());
        let key = TokenKey::load(&folder.path().join("approvals.key"), true).unwrap();
        let state = State {
            bans: Arc::new(BanTable::load(Arc::clone(&store), &policy.bans, now).unwrap()),
            guesses: Arc::new(GuessLedger::new(policy.guesses, Arc::clone(&successes), clock.clone().into())),
            successes,
            limits: Arc::new(Limits::new(&policy.limits)),
            approvals: Arc::new(Approvals::load(store, key, ApprovalRules::default(), now).unwrap()),
        };
        let tls = Arc::new(TlsState::prepare(&config, None).unwrap_or_else(|found| panic!("{found:?}")));
        let snapshot = Snapshot { generation: 1, policy, tls, upstreams: Vec::new(), config };
        let gateway = Gateway::new(snapshot, state, Events::sink(), clock.clone().into());
        Self { worker: Worker::new(0, Arc::new(gateway)), clock, folder }
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// What it shows itself with (PEM).
    pub fn chain(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("portal.crt")).unwrap()
    }

    pub fn bans(&self) -> &BanTable {
        &self.worker.gateway.state.bans
    }
}
