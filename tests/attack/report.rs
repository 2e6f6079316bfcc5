//! The table, and the gateways that its sections play with.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use doorward::cli::demo::stage::Pki;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::common::Door;
use crate::common::honest::Fared;

/// What the command line asks for.
pub struct Wanted {
    doorward: PathBuf,
    sections: Vec<String>,
    differences: bool,
    pub peers: bool,
}

/// A section's name and what plays it.
pub type Section = (&'static str, fn(&mut Report));

/// The rows so far.
pub struct Report {
    pub wanted: Wanted,
    section: String,
    rows: Vec<Row>,
    runtime: Runtime,
}

struct Row {
    section: String,
    case: String,
    expected: String,
    seen: String,
    memory: String,
    honest: String,
    held: bool,
}

/// A gateway in a process of its own; it is killed when dropped.
pub struct Gateway {
    child: Child,
    pub https: SocketAddr,
    pub folder: TempDir,
    pub pki: Pki,
}

/// A config with one open site; `{state}`, `{certs}` and `{upstream}` are filled in. Deadlines are short.
pub const OPEN: &str = r#"
state_dir = "{state}"
workers = 2
[listen]
https = ["127.0.0.1:0"]
[deadlines]
handshake = "2s"
head = "2s"
body = "2s"
drain = "1s"
[log]
access = "{state}/access.log"
events = "{state}/events.log"
[tls]
[[tls.certificate]]
chain = "{certs}/portal.crt"
key = "{certs}/portal.key"
[upstream.portal]
servers = ["http://{upstream}"]
[[site]]
hosts = ["localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

const USAGE: &str = "usage: attack [--doorward PATH] [--peers] [--differences] [SECTION]...";

impl Wanted {
    pub fn read(arguments: impl Iterator<Item = String>, known: &[Section]) -> Result<Self, String> {
        let mut wanted = Self {
            doorward: PathBuf::from(env!("CARGO_BIN_EXE_doorward")),
            sections: Vec::new(),
            differences: false,
            peers: false,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--doorward" => wanted.doorward = arguments.next().ok_or(USAGE)?.into(),
                "--peers" => wanted.peers = true,
                "--differences" => wanted.differences = true,
                section if known.iter().any(|(name, _)| *name == section) => wanted.sections.push(argument),
                _ => {
                    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                    return Err(format!("{USAGE}\nsections: {}", names.join(", ")));
                }
            }
        }
        Ok(wanted)
    }
}

impl Report {
    pub fn new(wanted: Wanted) -> Self {
        // The clients' sockets are all here.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        Self { wanted, section: String::new(), rows: Vec::new(), runtime }
    }

    /// Whether a section is wanted.
    pub fn begin(&mut self, section: &str) -> bool {
        let wanted = self.wanted.sections.is_empty() || self.wanted.sections.iter().any(|name| name == section);
        if wanted {
            section.clone_into(&mut self.section);
            eprintln!("{section} ...");
        }
        wanted
    }

    /// Runs the clients' side.
    pub fn run<T>(&self, play: impl Future<Output = T>) -> T {
        self.runtime.block_on(play)
    }

    /// Starts the built binary on a config text such as [`OPEN`] and waits until it is ready.
    pub fn open(&self, config: &str, upstream: SocketAddr) -> Gateway {
        Gateway::start(&self.wanted.doorward, config, upstream).unwrap_or_else(|error| panic!("no gateway: {error}"))
    }

    /// One case. It held where what was seen is what was expected.
    pub fn judge(&mut self, case: &str, expected: &str, seen: &str, gateway: Option<&Gateway>, honest: Option<Fared>) {
        let held = expected == seen;
        self.tell(case, expected, seen, held, gateway, honest);
    }

    /// One case whose verdict is not a comparison of texts.
    pub fn tell(&mut self, case: &str, expected: &str, seen: &str, held: bool, gateway: Option<&Gateway>, honest: Option<Fared>) {
        let honest = honest.map_or_else(String::new, |fared| {
            format!("{}/{} at {:.0}/s, worst {} ms", fared.answered, fared.asked, fared.per_second, fared.worst.as_millis())
        });
        self.rows.push(Row {
            section: self.section.clone(),
            case: case.to_owned(),
            expected: expected.to_owned(),
            seen: seen.to_owned(),
            memory: gateway.map_or_else(String::new, |gateway| format!("{} MiB", gateway.high_water() / 1024)),
            honest,
            held,
        });
    }

    /// The same without a gateway to measure.
    pub fn row(&mut self, case: &str, expected: &str, seen: impl std::fmt::Display, held: bool) {
        self.tell(case, expected, &seen.to_string(), held, None, None);
    }

    /// What is attacked.
    pub fn binary(&self) -> &Path {
        &self.wanted.doorward
    }

    /// Prints the table and the totals; true when everything held.
    pub fn print(&self) -> bool {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header(["section", "case", "expected", "seen", "memory", "honest clients", "verdict"]);
        for row in self.rows.iter().filter(|row| !row.held || !self.wanted.differences) {
            let verdict = if row.held { "held" } else { "DIFFERS" };
            table.add_row([&*row.section, &row.case, &row.expected, &row.seen, &row.memory, &row.honest, verdict]);
        }
        let differ = self.rows.iter().filter(|row| !row.held).count();
        println!("{table}\n{} cases, {differ} differ from what was expected", self.rows.len());
        differ == 0
    }
}

impl Gateway {
    fn start(doorward: &Path, config: &str, upstream: SocketAddr) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::Builder::new().prefix("doorward-attack-").tempdir()?;
        let pki =
            Pki::make(&folder.path().join("certs"), &["localhost", "*.tenants.localhost"]).map_err(|error| error.to_string())?;
        let text = config
            .replace("{state}", &folder.path().join("state").display().to_string())
            .replace("{certs}", &pki.folder.display().to_string())
            .replace("{upstream}", &upstream.to_string());
        let file = folder.path().join("doorward.toml");
        std::fs::write(&file, text)?;
        let mut child =
            Command::new(doorward).arg("--config").arg(&file).arg("run").stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut told = String::new();
        let mut lines = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let https = loop {
            let Some(line) = lines.next().transpose()? else {
                // It has told why.
                let _ = child.wait();
                return Err(told.into());
            };
            if let Some(ready) = line.split("ready: https ").nth(1) {
                let address: String = ready.chars().take_while(|letter| !matches!(letter, ',' | ' ')).collect();
                break address.parse()?;
            }
            told.push_str(&line);
            told.push('\n');
        };
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, https, folder, pki })
    }

    /// As its clients see it.
    pub fn door(&self) -> Door {
        Door { https: self.https, roots: self.pki.folder.join("server-ca.pem") }
    }

    /// Its process, for those who want to hurt it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had resident, in KiB.
    pub fn high_water(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// Its events so far, as JSON lines.
    pub fn events(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/events.log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
