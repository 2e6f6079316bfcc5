//! What the file says, and what it means: `load` gives a [`Config`] or every error at once, each with its place.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::net::Nets;
use crate::policy::identity::NameKind;
use crate::policy::limit::Quota;
use crate::policy::{AccountKind, Name, Policy};

use file::File;
use read::{Reader, Value as _};

mod compile;
pub mod diagnostic;
mod file;
pub mod fmt;
mod read;
pub mod schema;
pub mod show;
mod suggest;
mod values;

pub use diagnostic::{Diagnostic, Diagnostics, Located, Severity, Span};

/// What one config file means; every value checked, nothing opened yet.
#[derive(Debug)]
pub struct Config {
    /// The file it came from and its text, for diagnostics of later stages (certificates, store, ...).
    pub source: Arc<Source>,
    pub policy: Arc<Policy>,
    pub state_dir: PathBuf,
    /// Threads, each with its own runtime and listener; at least 1.
    pub workers: usize,
    pub listen: Listen,
    /// `client.ipv6_prefix`
    pub ipv6_prefix: u8,
    pub caps: Caps,
    pub deadlines: Deadlines,
    pub log: Log,
    pub tls: Tls,
    pub client_cas: Vec<ClientCa>,
    pub upstreams: Vec<UpstreamSpec>,
    /// `approvals.key`
    pub approvals_key: Located<PathBuf>,
    /// `approvals.signer.<name>.public_key`; read already, named here for the watch.
    pub signer_keys: Vec<PathBuf>,
    pub places: Places,
}

/// Where the file says what later stages may find fault with; a default is said nowhere.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub state_dir: Span,
    pub workers: Span,
    pub admin: Span,
    pub log_access: Span,
    pub log_events: Span,
}

/// The text that was loaded.
#[derive(Debug)]
pub struct Source {
    /// As given on the command line.
    pub path: PathBuf,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Listen {
    pub https: Vec<Located<SocketAddr>>,
    pub http: Vec<Located<SocketAddr>>,
    pub plain_http: PlainHttp,
    /// The admin socket's path.
    pub admin: PathBuf,
    pub metrics: Option<Located<SocketAddr>>,
    pub trusted_proxies: Nets,
    pub proxy_protocol: Nets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PlainHttp {
    #[default]
    Refuse,
    Redirect,
}

#[derive(Clone, Debug)]
pub struct Caps {
    pub connections: usize,
    pub connections_per_client: usize,
    pub handshakes_per_client: Quota,
    pub streams: u32,
    pub headers: usize,
    /// Bytes.
    pub head: usize,
}

#[derive(Clone, Debug)]
pub struct Deadlines {
    pub proxy_header: Duration,
    pub handshake: Duration,
    pub head: Duration,
    pub body: Duration,
    pub idle: Duration,
    pub drain: Duration,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub access: LogTarget,
    pub format: LogFormat,
    pub events: LogTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Json,
    Combined,
}

#[derive(Clone, Debug)]
pub struct Tls {
    pub min_version: TlsVersion,
    pub certificates: Vec<CertificateFiles>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

#[derive(Clone, Debug)]
pub struct CertificateFiles {
    pub chain: Located<PathBuf>,
    pub key: Located<PathBuf>,
}

/// `client_ca.<name>`
#[derive(Clone, Debug)]
pub struct ClientCa {
    pub name: Name,
    pub roots: Vec<Located<PathBuf>>,
    /// Empty: no revocation check for this set.
    pub crls: Vec<Located<PathBuf>>,
    pub max_lifetime: Duration,
    pub identity: NameKind,
    pub tenant: Option<Name>,
    pub kind: AccountKind,
    pub roles: Vec<Name>,
}

/// `upstream.<name>`
#[derive(Clone, Debug)]
pub struct UpstreamSpec {
    pub name: Name,
    pub servers: Vec<Located<ServerUrl>>,
    /// CA file in place of webpki-roots; `https` only.
    pub ca: Option<Located<PathBuf>>,
    /// Client certificate towards the application; `https` only.
    pub client_certificate: Option<CertificateFiles>,
    pub health: Option<HealthSpec>,
    pub timeouts: UpstreamTimeouts,
    /// Of each server, over all workers.
    pub connections: usize,
    /// How long a request waits for one of them.
    pub queue: Duration,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    pub scheme: ServerScheme,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerScheme {
    Http,
    /// HTTP/2 by prior knowledge.
    H2c,
    /// h2 where offered by ALPN, else HTTP/1.1.
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    pub path: String,
    pub every: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    pub response: Duration,
    pub idle: Duration,
}

/// Reads and compiles a file. `Ok` carries warnings; `Err` carries every error (and the warnings).
pub fn load(path: &Path) -> Result<(Config, Diagnostics), Diagnostics> {
    compile_str(path, read_text(path)?)
}

/// The same for a text that is already read; `path` is only for messages.
///
/// Fails closed: with any error there is no config.
pub fn compile_str(path: &Path, text: String) -> Result<(Config, Diagnostics), Diagnostics> {
    let source = Arc::new(Source::new(path, text));
    let compiled = understand(&source);
    let diagnostics = Diagnostics { source: Some(source), list: compiled.found };
    match compiled.config {
        Some(config) => Ok((config, diagnostics)),
        None => Err(diagnostics),
    }
}

/// The lines of `config show`, and the text they come from.
fn effective(path: &Path) -> Result<(Arc<Source>, Vec<read::Shown>), Diagnostics> {
    let source = Arc::new(Source::new(path, read_text(path)?));
    let compiled = understand(&source);
    if compiled.config.is_none() {
        return Err(Diagnostics { source: Some(source), list: compiled.found });
    }
    Ok((source, compiled.shown))
}

fn understand(source: &Arc<Source>) -> compile::Compiled {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        // What a broken text means is guesswork: its syntax comes first.
        return compile::Compiled { config: None, found: syntax(&source.text, &errors), shown: Vec::new() };
    }
    let span = table.span();
    let table = Spanned::new(span, DeValue::Table(table.into_inner()));
    let mut reader = Reader::default();
    match File::read(&table, &mut reader) {
        Some(file) => compile::compile(source, file, reader),
        None => compile::Compiled { config: None, found: reader.found, shown: reader.shown },
    }
}

/// The first error, and each later one that is not merely its consequence: an open bracket makes every line below it
/// unreadable, so of those only lines count that cannot be read by themselves either.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let mut last_line = None;
    for error in errors {
        let Span(span) = within_text(text, error.span().unwrap_or_default());
        let start = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let own = error.message().starts_with("duplicate key") || DeTable::parse(line).is_err();
        if last_line != Some(start) && (found.is_empty() || own) {
            last_line = Some(start);
            found.push(Diagnostic::error(format!("not TOML: {}", error.message()), &Span(span)));
        }
    }
    found
}

/// What is missed at the end of a text is shown at its last character, not on the empty line behind it.
fn within_text(text: &str, span: std::ops::Range<usize>) -> Span {
    let end = text.trim_end().len();
    match text[..end].char_indices().next_back() {
        Some((last, _)) if span.start >= end => Span(last..end),
        _ => Span(span),
    }
}

fn read_text(path: &Path) -> Result<String, Diagnostics> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        let help = unread(error.kind());
        Diagnostics { source: None, list: vec![Diagnostic::error(message, &Span::default()).help(help)] }
    })
}

/// The cure for a config file that cannot be read.
fn unread(why: ErrorKind) -> &'static str {
    match why {
        ErrorKind::PermissionDenied => "let the user that the gateway runs as read it, and enter its folder",
        ErrorKind::InvalidData => "write it in UTF-8",
        _ => "name the file with --config FILE",
    }
}

/// The syntax errors of a text, rendered without colour.
fn syntax_errors(path: &Path, text: &str) -> String {
    let (_, errors) = DeTable::parse_recoverable(text);
    let source = Arc::new(Source::new(path, text.to_owned()));
    Diagnostics { source: Some(source), list: syntax(text, &errors) }.render(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_names_its_own_cure() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("d.toml");
        std::fs::write(&file, b"state_dir = \"\xff\"").unwrap();
        for (path, cure) in [(file, "in UTF-8"), (folder.path().join("missing.toml"), "--config FILE")] {
            let told = load(&path).unwrap_err().render(false);
            assert!(told.contains(cure), "{told}");
        }
        assert!(unread(ErrorKind::PermissionDenied).contains("the user that the gateway runs as"));
    }
}
