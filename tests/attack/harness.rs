//! A gateway of its own process before the toy portal, and what the kernel says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use doorward::cli::demo::portal::Portal;
use doorward::cli::demo::stage::Pki;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub const MIB: u64 = 1 << 20;

static BINARY: OnceLock<PathBuf> = OnceLock::new();

pub fn use_binary(path: &Path) {
    BINARY.get_or_init(|| path.to_path_buf());
}

pub fn binary() -> &'static Path {
    BINARY.get_or_init(|| env!("CARGO_BIN_EXE_doorward").into())
}

/// Resident memory in bytes, now.
pub fn memory_of(process: &str) -> u64 {
    of_status(process, "VmRSS:")
}

/// The most that it ever was.
pub fn peak_of(process: &str) -> u64 {
    of_status(process, "VmHWM:")
}

fn of_status(process: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// A folder with certificates and a config, and a portal.
pub struct House {
    pub folder: TempDir,
    pub pki: Pki,
    pub portal: Portal,
    pub config: PathBuf,
    pub runtime: Runtime,
}

/// One run of the built binary.
pub struct Gateway {
    pub child: Child,
    pub https: SocketAddr,
    pub metrics: SocketAddr,
}

impl House {
    pub fn new(text: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("doorward-attack-").tempdir().expect("a folder");
        let pki = Pki::make(&folder.path().join("certs"), &["localhost"]).expect("certificates");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let portal = runtime.block_on(Portal::start()).expect("a portal");
        let config = folder.path().join("doorward.toml");
        let house = Self { folder, pki, portal, config, runtime };
        house.write(text);
        house
    }

    /// The config, its placeholders filled in.
    pub fn write(&self, text: &str) {
        let text = text
            .replace("{certs}", &self.pki.folder.display().to_string())
            .replace("{state}", &self.state().display().to_string())
            .replace("{portal}", &self.portal.address.to_string());
        fs::write(&self.config, text).expect("a config");
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// `Err` is what it said when it did not start.
    pub fn start(&self) -> Result<Gateway, String> {
        self.start_under("")
    }

    /// Behind a line of shell, `ulimit -n 64` for instance.
    pub fn start_under(&self, shell: &str) -> Result<Gateway, String> {
        let line = format!("{shell}\nexec \"$0\" \"$@\"");
        let child = Command::new("sh")
            .args(["-c", &line])
            .arg(binary())
            .arg("--config")
            .arg(&self.config)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Gateway::ready(child.map_err(|error| error.to_string())?)
    }

    /// A command to the running gateway.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(binary()).arg("--config").arg(&self.config).args(arguments).output().expect("the binary runs")
    }

    /// Its stdout; `None` where it failed.
    pub fn told(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(arguments);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Gateway {
    fn ready(mut child: Child) -> Result<Self, String> {
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (ready, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut said = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if line.starts_with("doorward ready") {
                    let _ = ready.send(Ok(line));
                    said.clear();
                } else if said.len() < 10_000 {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
            let _ = ready.send(Err(said));
        });
        let line = match told.recv_timeout(Duration::from_secs(20)) {
            Ok(Ok(line)) => line,
            Ok(Err(said)) => {
                let _ = child.wait();
                return Err(said);
            }
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("not ready within 20 s".to_owned());
            }
        };
        let address = |name: &str| {
            let after = line.split(name).nth(1).unwrap_or_default().trim_start();
            after.split([',', ' ']).next().and_then(|text| text.parse().ok()).ok_or_else(|| line.clone())
        };
        Ok(Self { https: address("https")?, metrics: address("metrics")?, child })
    }

    pub fn peak(&self) -> u64 {
        peak_of(&self.child.id().to_string())
    }

    pub fn memory(&self) -> u64 {
        memory_of(&self.child.id().to_string())
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `SIGKILL`.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
