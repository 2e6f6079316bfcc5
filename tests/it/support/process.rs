//! The built binary as a process of its own before the demo's portal: for signals, crashes and exit statuses.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use doorward::cli::demo::portal::Portal;
use doorward::cli::demo::stage::Pki;

use tokio::time::Instant;

use super::{BASE, LOGIN, NAMES, OPEN_SITE, Visitor};

/// Nothing that a process is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where gateways run one after the other on the same files.
pub struct House {
    pub folder: tempfile::TempDir,
    pub pki: Pki,
    pub portal: Portal,
    pub config: PathBuf,
    _portal: tokio::runtime::Runtime,
}

/// A running `doorward run`; killed when dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it said before its ready line.
    pub before: String,
    pub https: SocketAddr,
    pub metrics: SocketAddr,
    certs: PathBuf,
}

/// The config of a house unless it asks for another.
pub fn open_house() -> String {
    format!("{BASE}{LOGIN}{}", OPEN_SITE.replace("bots = \"any\"", "bots = \"any\"\n  login = \"form\""))
}

impl House {
    /// With the placeholders of [`BASE`].
    pub fn new(text: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("doorward-").tempdir().expect("a folder");
        let pki = Pki::make(&folder.path().join("certs"), NAMES).expect("a PKI");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let portal = runtime.block_on(Portal::start()).expect("a portal");
        let config = folder.path().join("doorward.toml");
        let house = Self { folder, pki, portal, config, _portal: runtime };
        std::fs::write(&house.config, house.fill(text)).expect("a config");
        house
    }

    pub fn fill(&self, text: &str) -> String {
        text.replace("{certs}", &self.pki.folder.display().to_string())
            .replace("{state}", &self.state().display().to_string())
            .replace("{portal}", &self.portal.address.to_string())
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts a gateway and waits for its ready line.
    pub fn start(&self) -> Process {
        self.spawn().unwrap_or_else(|(status, told)| panic!("the gateway ended with {status} before it was ready:\n{told}"))
    }

    /// The same, or how it ended instead and what it said.
    pub fn spawn(&self) -> Result<Process, (ExitStatus, String)> {
        self.spawn_with(&self.config)
    }

    /// The same with another config file.
    pub fn spawn_with(&self, config: &Path) -> Result<Process, (ExitStatus, String)> {
        self.spawn_by(config, Command::new(env!("CARGO_BIN_EXE_doorward")))
    }

    /// A gateway that outlives files that may not grow ([`Process::disk_is_full`]).
    pub fn start_on_a_small_disk(&self) -> Process {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ\nexec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_doorward")]);
        self.spawn_by(&self.config, shell).unwrap_or_else(|(_, told)| panic!("the gateway did not start:\n{told}"))
    }

    fn spawn_by(&self, config: &Path, mut command: Command) -> Result<Process, (ExitStatus, String)> {
        let mut child = command
            .arg("--config")
            .arg(config)
            .arg("run")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut told = String::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("doorward ready") => {
                    let after = |word: &str| {
                        let rest = line.split(word).nth(1).unwrap_or_default().trim_start();
                        rest.split([' ', ',']).next().unwrap_or_default().parse().expect("an address")
                    };
                    let (https, metrics) = (after("https"), after("metrics"));
                    return Ok(Process { child, lines, before: told, https, metrics, certs: self.pki.folder.clone() });
                }
                Ok(line) => told.push_str(&format!("{line}\n")),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err((child.wait().expect("a child"), told)),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the gateway hangs before it is ready:\n{told}"),
            }
        }
    }

    /// A command against the house's config.
    pub fn doorward(&self, arguments: &[&str]) -> Output {
        super::run_binary(&self.config, arguments)
    }

    /// The same for its stdout; anything but success fails the test.
    pub fn told(&self, arguments: &[&str]) -> String {
        let output = self.doorward(arguments);
        assert!(output.status.success(), "doorward {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.state().join(name)).unwrap_or_default()
    }
}

impl Process {
    pub fn visitor(&self, from: [u8; 2]) -> Visitor {
        Visitor::to(self.https, &self.certs, from)
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill(1) runs").success(), "the gateway is there to get {name}");
    }

    /// From now on no file takes another byte of it, or all do again.
    pub fn disk_is_full(&self, full: bool) {
        let pid = i32::try_from(self.child.id()).expect("a process");
        let most = if full { 0 } else { rlimit::INFINITY };
        rlimit::prlimit(pid, rlimit::Resource::FSIZE, Some((most, rlimit::INFINITY)), None).expect("a limit");
    }

    /// Resident memory in bytes: now, and at most so far.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// As `kill -9`, and the end of it.
    pub fn kill(mut self) {
        self.child.kill().expect("it lives");
        self.child.wait().expect("it ends");
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "the gateway does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a line on stderr.
    pub fn says(&self, text: &str) -> String {
        let mut told = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            told.push_str(&format!("{line}\n"));
            if line.contains(text) {
                return told;
            }
        }
        panic!("the gateway did not say {text:?}, but:\n{told}")
    }

    /// `GET` on the metrics port: status and body.
    pub async fn probe(&self, path: &str) -> Option<(u16, String)> {
        super::probe(self.metrics, path).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until something holds; for what tells nobody that it happened (files, counters of another process).
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The lines of a file that hold every one of the texts.
pub fn lines_with(file: &Path, texts: &[&str]) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned).collect()
}
