//! The stage of every promise: the real gateway on real sockets before the demo's portal, and visitors with real handshakes.
#![allow(dead_code, unused_imports, reason = "each promise takes what it needs")]

pub mod caller;

pub mod upstream;

pub mod process;

pub mod underway;

use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

pub use doorward::cli::demo::attack::visitor::{Answer, Line, Visitor, browser, credentials, form, read_all};
pub use doorward::cli::demo::portal::ACCOUNT;
pub use doorward::cli::demo::stage::Stage;

/// No test takes longer; one that does has hung.
const HANGS: Duration = Duration::from_secs(60);

/// Names on the server certificate of every stage.
pub const NAMES: &[&str] = &["localhost", "partners.localhost", "other.localhost", "*.tenants.localhost"];

/// Everything but sites, limits and logins. `{certs}`, `{state}` and `{portal}` are filled in by [`open`].
pub const BASE: &str = r#"
state_dir = "{state}"
workers = 2
[listen]
https = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
metrics = "127.0.0.1:0"
[deadlines]
handshake = "2s"
head = "2s"
body = "2s"
drain = "2s"
[log]
access = "{state}/access.log"
events = "{state}/events.log"
[tls]
[[tls.certificate]]
chain = "{certs}/portal.crt"
key = "{certs}/portal.key"
[client_ca.acme]
roots = ["{certs}/acme-ca.pem"]
crls = ["{certs}/acme-ca.crl"]
tenant = "acme"
roles = ["integrator"]
[upstream.portal]
servers = ["http://{portal}"]
[approvals.signer.alice]
public_key = "{certs}/alice.pub"
party = "provider"
"#;

/// One open site on `localhost` with one route to the portal; automation is let in.
pub const OPEN_SITE: &str = r#"
[[site]]
hosts = ["localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

/// The demo's login page as a rule; its answers leave at once, save where a test is about that.
pub const LOGIN: &str = r#"
[login.form]
request = { method = "POST", path = "/login" }
account = { form = "username" }
secret = { form = "password" }
failed = [{ redirect = "/login?error=*" }, { status = [401, 403] }]
ok = [{ redirect = "/home" }]
pad = "0s"
"#;

/// Opens a stage on a config text with its placeholders.
pub fn open(text: &str) -> Stage {
    let text = text.to_owned();
    Stage::open(NAMES, move |certs, state, portal| {
        text.replace("{certs}", &certs.display().to_string())
            .replace("{state}", &state.display().to_string())
            .replace("{portal}", &portal.to_string())
    })
    .unwrap_or_else(|error| panic!("the stage could not be opened:\n{error}"))
}

/// Runs the visitors' side of a test, bounded.
pub fn run<T>(visit: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let out = runtime.block_on(async { tokio::time::timeout(HANGS, visit).await.expect("the test hung") });
    runtime.shutdown_background();
    out
}

/// Runs the built binary against a stage's gateway.
pub fn doorward(stage: &Stage, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_doorward"))
        .arg("--config")
        .arg(&stage.config)
        .args(arguments)
        .output()
        .expect("the built binary runs")
}

/// The same, for its stdout; anything but success fails the test.
pub fn told(stage: &Stage, arguments: &[&str]) -> String {
    let output = doorward(stage, arguments);
    assert!(output.status.success(), "doorward {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Requests, signs and activates an approval on the command line: its id and its token. `localhost` and GET where the terms
/// name no other.
pub fn approve(stage: &Stage, terms: &[&str]) -> (String, String) {
    let id = request(stage, terms);
    sign(stage, &id);
    let token = told(stage, &["approvals", "activate", &id]);
    (id, token)
}

/// Only the request.
pub fn request(stage: &Stage, terms: &[&str]) -> String {
    let mut arguments = vec!["approvals", "request", "--kind", "bot", "--name", "acme-sync", "--owner", "Acme Ltd"];
    arguments.extend(["--contact", "ops@acme.example", "--purpose", "nightly order import"]);
    for (option, usual) in [("--site", "localhost"), ("--method", "GET"), ("--until", "2100-12-31"), ("--path", "/echo")] {
        if !terms.contains(&option) {
            arguments.extend([option, usual]);
        }
    }
    arguments.extend(terms);
    told(stage, &arguments)
}

/// Alice signs.
pub fn sign(stage: &Stage, id: &str) {
    let key = cert(stage, "alice.key").display().to_string();
    told(stage, &["approvals", "sign", id, "--signer", "alice", "--key", &key]);
}

/// Waits for an event whose JSON line holds every one of the texts.
pub async fn event(stage: &mut Stage, texts: &[&str]) -> String {
    loop {
        let line = tokio::time::timeout(Duration::from_secs(10), stage.events.recv())
            .await
            .unwrap_or_else(|_| panic!("no event with {texts:?} came"))
            .expect("the gateway lives");
        if texts.iter().all(|text| line.contains(text)) {
            return line;
        }
    }
}

/// Rewrites the stage's config and has it taken over.
pub fn rewrite(stage: &Stage, change: impl FnOnce(String) -> String) -> Output {
    let text = std::fs::read_to_string(&stage.config).expect("the config");
    std::fs::write(&stage.config, change(text)).expect("a writable config");
    doorward(stage, &["reload"])
}

/// A file of the stage's PKI.
pub fn cert(stage: &Stage, name: &str) -> PathBuf {
    stage.pki.folder.join(name)
}

/// The built binary on a config, with nothing of this process's terminal settings.
pub fn run_binary(config: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.arg("--config").arg(config).args(arguments).env_remove("CLICOLOR_FORCE").output().expect("the built binary runs")
}

/// `GET` on a metrics port: status and body; `None` where nobody listens any more.
pub async fn probe(metrics: std::net::SocketAddr, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(metrics).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// One request on an admin socket: status and body.
pub fn admin(socket: &std::path::Path, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: doorward\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if length != Some(body.len()) {
        return Err(broken());
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok((status, body.to_owned()))
}

/// A WebSocket to the portal's echo, as bare frames.
pub struct Socket<S>(pub S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Socket<S> {
    /// Upgrades a fresh connection.
    pub async fn open(mut stream: S) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("a writable connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer to the upgrade"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self(stream)
    }

    /// Sends a text under 126 bytes and waits for it to come back.
    pub async fn echo(&mut self, text: &str) -> std::io::Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let length = u8::try_from(text.len()).expect("a short text");
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.0.write_all(&frame).await?;
        let mut back = vec![0; 2 + text.len()];
        self.0.read_exact(&mut back).await?;
        assert_eq!(back.get(2..), Some(text.as_bytes()), "the echo");
        Ok(())
    }
}

/// A number that differs from run to run.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
