//! One request to the running gateway over its admin socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use toml::de::DeTable;

use super::{Failure, output};
use crate::admin::api::Problem;

/// From connect to the whole answer; a reload may wait for slow name servers.
const DEADLINE: Duration = Duration::from_secs(120);

/// Where the running gateway is found.
pub(super) struct Gateway {
    pub config: PathBuf,
    /// `--admin`
    pub socket: Option<PathBuf>,
}

impl Gateway {
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, Bytes::new())
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
        self.ask(Method::POST, path, body.into())
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, Failure> {
        let socket = self.socket()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
        let exchange = async { tokio::time::timeout(DEADLINE, exchange(&socket, method, path, body)).await };
        let (status, answer) = runtime
            .block_on(exchange)
            .unwrap_or_else(|_| Err(Failure::Unreachable(format!("{}: the gateway did not answer in time", socket.display()))))?;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|error| Failure::Failed(format!("the gateway's answer is not understood (another version?): {error}")));
        }
        Err(refusal(status, &answer))
    }

    /// `--admin`, or what the config says. The config is read leniently: one that is being edited, and is broken for now,
    /// must not keep an operator from lifting a ban.
    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(strip_scheme(&socket.to_string_lossy()));
        }
        let text = std::fs::read_to_string(&self.config).map_err(|error| {
            let file = self.config.display();
            Failure::Config(format!(
                "{file}: {error}\n  name the file with --config FILE, or the gateway's socket with --admin SOCKET"
            ))
        })?;
        Ok(socket_of(&text))
    }
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let broken = |error: hyper::Error| {
        let told =
            format!("{}: the gateway broke off ({error})\n  it lets in its own user, its group and root", socket.display());
        Failure::Unreachable(told)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "doorward")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    driver.abort();
    Ok((status, body))
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    let cure = match error.kind() {
        ErrorKind::NotFound => {
            "no gateway runs with this config here; start it with `doorward run`\n  \
             if `state_dir` or `listen.admin` was edited since its start, name its old socket with --admin SOCKET"
        }
        ErrorKind::ConnectionRefused => "the gateway that made this socket has ended; start it with `doorward run`",
        ErrorKind::PermissionDenied => "be the gateway's user, of its group, or root",
        _ => "is a gateway running?",
    };
    Failure::Unreachable(format!("no gateway answers on {}: {error}\n  {cure}", socket.display()))
}

/// What the gateway refused, in its own words; 422 is a config that it does not take.
fn refusal(status: StatusCode, answer: &[u8]) -> Failure {
    let problem = serde_json::from_slice(answer).unwrap_or_else(|_| Problem::new(format!("the gateway answered {status}")));
    let help = problem.help.map(|help| format!("\n  {help}")).unwrap_or_default();
    let told = format!("{}{help}", problem.error.trim_end());
    if status == StatusCode::UNPROCESSABLE_ENTITY { Failure::Config(told) } else { Failure::Failed(lines(&told)) }
}

/// Each line made printable; diagnostics keep their own layout.
fn lines(text: &str) -> String {
    text.lines().map(output::printable).collect::<Vec<_>>().join("\n")
}

/// `listen.admin`, or `admin.sock` in `state_dir`, from as much of the text as is TOML.
fn socket_of(text: &str) -> PathBuf {
    // Sites by the thousand stand in arrays of tables, and none of those adds to a table that stands before them.
    let head = text.split("\n[[").next().unwrap_or(text);
    let (mut table, errors) = DeTable::parse_recoverable(head);
    if !errors.is_empty() || !table.get_ref().contains_key("listen") {
        (table, _) = DeTable::parse_recoverable(text);
    }
    let table = table.get_ref();
    let listen = table.get("listen").and_then(|listen| listen.get_ref().get("admin")).and_then(|admin| admin.get_ref().as_str());
    match listen {
        Some(admin) => strip_scheme(admin),
        None => {
            let state_dir = table.get("state_dir").and_then(|dir| dir.get_ref().as_str()).unwrap_or("state");
            Path::new(state_dir).join("admin.sock")
        }
    }
}

fn strip_scheme(socket: &str) -> PathBuf {
    PathBuf::from(socket.strip_prefix("unix:").unwrap_or(socket))
}

/// One segment of a path, percent-encoded, so that an id cannot name another endpoint.
pub(super) fn segment(text: &str) -> String {
    const OUTSIDE_IDS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
    utf8_percent_encode(text, OUTSIDE_IDS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_where_the_config_says() {
        assert_eq!(socket_of(""), PathBuf::from("state/admin.sock"));
        assert_eq!(socket_of("state_dir = \"/var/lib/doorward\""), PathBuf::from("/var/lib/doorward/admin.sock"));
        assert_eq!(socket_of("[listen]\nadmin = \"unix:/run/doorward/admin.sock\""), PathBuf::from("/run/doorward/admin.sock"));
        assert_eq!(socket_of("listen.admin = \"run/a.sock\"\nstate_dir = \"x\""), PathBuf::from("run/a.sock"));
        let behind = "state_dir = \"x\"\n[[site]]\nhosts = []\n[listen]\nadmin = \"run/a.sock\"";
        assert_eq!(socket_of(behind), PathBuf::from("run/a.sock"), "behind the sites");
        let quoted = "note = \"\"\"\n[[site]]\n\"\"\"\nlisten.admin = \"run/a.sock\"";
        assert_eq!(socket_of(quoted), PathBuf::from("run/a.sock"), "behind what only looks like one");
        let cut = "[listen]\nnote = \"\"\"\n[[site]]\n\"\"\"\nadmin = \"run/a.sock\"";
        assert_eq!(socket_of(cut), PathBuf::from("run/a.sock"), "in a table that only seems to end there");
    }

    #[test]
    fn the_socket_is_found_in_a_config_that_is_broken_elsewhere() {
        let text = "state_dir = \"elsewhere\"\nworkers = = 3\n[listen]\nadmin = \"unix:/run/d.sock\"\n[[site]\nunknown";
        assert_eq!(socket_of(text), PathBuf::from("/run/d.sock"));
    }

    #[test]
    fn nobody_on_the_socket_is_69_and_names_socket_and_cure() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let gateway = Gateway { config: "unused".into(), socket: Some(socket.clone()) };
        let failure = gateway.get::<serde_json::Value>("/status").unwrap_err();
        assert_eq!(failure.status(), 69);
        let Failure::Unreachable(told) = failure else { panic!("{failure:?}") };
        assert!(told.contains(socket.to_str().unwrap()) && told.contains("doorward run"), "{told}");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_eq!(gateway.get::<serde_json::Value>("/status").unwrap_err().status(), 69, "a stale socket");
    }

    #[test]
    fn a_missing_config_is_78() {
        let gateway = Gateway { config: "does/not/exist.toml".into(), socket: None };
        assert_eq!(gateway.get::<serde_json::Value>("/status").unwrap_err().status(), 78);
    }

    #[test]
    fn refusals_keep_the_gateways_words() {
        let answer = br#"{"error":"there is no approval x","help":"list them"}"#;
        assert_eq!(refusal(StatusCode::NOT_FOUND, answer), Failure::Failed("there is no approval x\n  list them".to_owned()));
        assert_eq!(refusal(StatusCode::UNPROCESSABLE_ENTITY, answer).status(), 78);
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>").status(), 1);
    }

    #[test]
    fn an_id_cannot_name_another_endpoint() {
        assert_eq!(segment("../bans/lift?x"), "%2E%2E%2Fbans%2Flift%3Fx");
        assert_eq!(segment("0a1b-c_d"), "0a1b-c_d");
    }
}
