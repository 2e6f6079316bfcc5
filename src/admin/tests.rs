//! What stands on the wire, byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::MAX_BODY;
use super::testing::{Door, runtime};
use crate::state::store::{Change, Durable, Store, StoreError, Table};

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ask(door: &Door, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    exchange(UnixStream::connect(&door.socket).unwrap(), &request)
}

#[test]
fn a_change_by_get_is_refused_with_405() {
    let door = Door::open();
    for path in ["/reload", "/bans/add", "/bans/lift", "/limits/explain", "/approvals/x/revoke"] {
        let answer = ask(&door, "GET", path, "");
        assert!(answer.starts_with("HTTP/1.1 405"), "{path}: {answer}");
    }
    assert!(ask(&door, "DELETE", "/bans", "").starts_with("HTTP/1.1 405"));
    assert!(ask(&door, "POST", "/status", "").starts_with("HTTP/1.1 405"));
    assert!(ask(&door, "GET", "/nothing", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn the_index_lists_the_endpoints() {
    let door = Door::open();
    let answer = ask(&door, "GET", "/", "");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"/bans/add\""), "{answer}");
    assert!(answer.contains("content-type: application/json"), "{answer}");
}

#[test]
fn bodies_are_capped_and_must_be_what_the_endpoint_takes() {
    let door = Door::open();
    assert!(ask(&door, "POST", "/bans/add", &"x".repeat(MAX_BODY + 1)).starts_with("HTTP/1.1 413"));
    for body in ["", "{}", "[]", "{\"key\":1}", "{\"key\":\"203.0.113.7\",\"fro\":\"2h\"}"] {
        assert!(ask(&door, "POST", "/bans/add", body).starts_with("HTTP/1.1 400"), "{body}");
    }
    assert!(door.admin.bans.is_empty() || door.admin.bans.list(door.clock.now()).iter().all(|ban| ban.by == "config"));
}

#[test]
fn a_change_whose_operator_hangs_up_is_still_told() {
    let (began, begun) = std::sync::mpsc::channel();
    let disk = Arc::new(SlowDisk { began, done: Arc::new(Notify::new()) });
    let mut door = Door::over(tempfile::tempdir().unwrap(), Arc::clone(&disk) as Arc<dyn Store>);
    let body = r#"{"key":"203.0.113.7","for":"2h"}"#;
    let request = format!("POST /bans/add HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = UnixStream::connect(&door.socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    begun.recv().unwrap();
    drop(stream);
    // One more turn of the door, so that it has seen the operator go.
    assert!(ask(&door, "GET", "/status", "").starts_with("HTTP/1.1 200"));
    disk.done.notify_one();
    let line = door.hear("203.0.113.7");
    assert!(line.contains("ban.made"), "{line}");
}

/// Says when a write begins, and ends it when told.
struct SlowDisk {
    began: std::sync::mpsc::Sender<()>,
    done: Arc<Notify>,
}

impl Store for SlowDisk {
    fn load(&self, _table: Table) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        Ok(Vec::new())
    }

    fn write(&self, _batch: Vec<Change>) -> Durable {
        let (began, done) = (self.began.clone(), Arc::clone(&self.done));
        Box::pin(async move {
            began.send(()).unwrap();
            done.notified().await;
            Ok(())
        })
    }

    fn close(&self) {}

    fn describe(&self) -> String {
        "a slow disk".to_owned()
    }
}

#[test]
fn the_socket_file_goes_when_the_door_closes() {
    let mut door = Door::open();
    assert!(door.socket.exists());
    door.close();
    assert!(!door.socket.exists());
}

#[test]
fn probes_answer_get_and_head_only() {
    let door = Door::open();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = std::thread::spawn({
        let (admin, stop) = (door.admin.clone(), stop.clone());
        move || runtime().block_on(super::serve_metrics(admin, listener, stop))
    });
    let get = |path: &str| probe(address, "GET", path);
    assert!(get("/livez").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    *door.control.ready.lock().unwrap() = Err("draining".to_owned());
    assert!(get("/readyz").starts_with("HTTP/1.1 503"));
    assert!(!get("/readyz").contains("draining"), "the cause is told only where it is asked for");
    assert!(get("/readyz?verbose").contains("draining"));
    assert!(get("/livez").starts_with("HTTP/1.1 200"), "a draining process lives");
    let metrics = get("/metrics");
    assert!(metrics.contains("openmetrics-text") && metrics.contains("doorward_"), "{metrics}");
    assert!(probe(address, "POST", "/metrics").starts_with("HTTP/1.1 405"));
    assert!(get("/bans").starts_with("HTTP/1.1 404"));
    stop.cancel();
    served.join().unwrap();
}

fn probe(address: SocketAddr, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(TcpStream::connect(address).unwrap(), &request)
}
