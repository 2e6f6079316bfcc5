//! What the targets share: one runtime, and the gateway before an application that judges what reaches it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward::cli::demo::stage::Pki;
use doorward::clock::Clock;
use doorward::config::{self, Config};
use doorward::events::Events;
use doorward::gateway::{Connection, Gateway, Snapshot, State, Worker, listener};
use doorward::net::ClientAddr;
use doorward::policy::CanonicalPath;
use doorward::state::accounts::Successes;
use doorward::state::approvals::{Approvals, TokenKey};
use doorward::state::bans::BanTable;
use doorward::state::guesses::GuessLedger;
use doorward::state::limits::Limits;
use doorward::state::store::Store;
use doorward::state::store::embedded::EmbeddedStore;
use doorward::tls::TlsState;
use doorward::upstream::Upstreams;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"
state_dir = "{state}"
[listen]
https = ["127.0.0.1:0"]
[caps]
head = "16KiB"
body = "64KiB"
streams = 16
[[tls.certificate]]
chain = "{certs}/portal.crt"
key = "{certs}/portal.key"
[upstream.portal]
servers = ["http://{portal}"]
[login.form]
request = { method = "POST", path = "/login" }
account = { form = "username" }
secret = { form = "password" }
failed = [{ status = [401] }]
ok = [{ redirect = "/home" }]
[guesses]
per_client = { failures = 1000000, within = "1s" }
per_account = { failures = 1000000, within = "1s" }
[[site]]
hosts = ["localhost"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
  login = "form"
"#;

/// Turns without news after which nothing more is to come: everything is on one thread.
const QUIET: usize = 64;

/// Runs to the end on a runtime that looks at its sockets between any two tasks.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Rc<Runtime> =
            Rc::new(Builder::new_current_thread().enable_all().event_interval(1).build().expect("a runtime"));
    }
    RUNTIME.with(Rc::clone).block_on(future)
}

/// The gateway on this thread.
pub struct Stage {
    worker: Arc<Worker>,
    _folder: TempDir,
}

impl Stage {
    /// The one of this thread.
    pub fn get() -> Rc<Self> {
        thread_local! {
            static STAGE: RefCell<Option<Rc<Stage>>> = const { RefCell::new(None) };
        }
        STAGE.with(|stage| Rc::clone(stage.borrow_mut().get_or_insert_with(|| Rc::new(block_on(Self::open())))))
    }

    /// Sends the bytes as one client on one connection and returns the answer's bytes.
    pub fn visit(&self, bytes: &[u8], h2: bool) -> Vec<u8> {
        block_on(async {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let served = tokio::spawn(serve(Arc::clone(&self.worker), theirs, h2));
            let answer = converse(ours, bytes).await;
            let ended = tokio::time::timeout(Duration::from_secs(5), served).await;
            ended.expect("the connection ends when its client has left").expect("no panic");
            answer
        })
    }

    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (certs, state) = (folder.path().join("certs"), folder.path().join("state"));
        Pki::make(&certs, &["localhost"]).expect("certificates");
        let portal = application().await;
        let text = CONFIG
            .replace("{certs}", &certs.display().to_string())
            .replace("{state}", &state.display().to_string())
            .replace("{portal}", &portal.to_string());
        let (config, _) =
            config::compile_str(Path::new("fuzz.toml"), text).unwrap_or_else(|found| panic!("{}", found.render(false)));
        Self { worker: worker(Arc::new(config)), _folder: folder }
    }
}

fn worker(config: Arc<Config>) -> Arc<Worker> {
    let (clock, events) = (Clock::system(), Events::sink());
    let now = clock.now();
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&config.state_dir).expect("a store"));
    let key = TokenKey::load(&config.approvals_key.value, true).expect("a key");
    let successes = Arc::new(Successes::load(Arc::clone(&store), now).expect("successes"));
    let policy = Arc::clone(&config.policy);
    let state = State {
        bans: Arc::new(BanTable::load(Arc::clone(&store), &policy.bans, now).expect("bans")),
        guesses: Arc::new(GuessLedger::new(policy.guesses, Arc::clone(&successes), clock.clone())),
        successes,
        limits: Arc::new(Limits::new(&policy.limits)),
        approvals: Arc::new(Approvals::load(store, key, policy.approvals.clone(), now).expect("approvals")),
    };
    let tls = match TlsState::prepare(&config, None) {
        Ok(tls) => Arc::new(tls),
        Err(found) => panic!("{} errors of TLS", found.len()),
    };
    let upstreams = Upstreams::new(events.clone()).prepare(&config.upstreams, tls.upstream_clients());
    let gateway = Arc::new(Gateway::new(Snapshot { generation: 1, policy, tls, upstreams, config }, state, events, clock));
    Arc::new(Worker::new(0, gateway))
}

async fn serve(worker: Arc<Worker>, stream: DuplexStream, h2: bool) {
    let client = ClientAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 64);
    let connection = Arc::new(Connection::new(client.ip, client, Some("localhost".into()), Vec::new(), "TLSv1.3"));
    listener::speak(&worker, connection, stream, h2, &CancellationToken::new()).await;
}

/// Sends everything, takes every answer, and leaves once nothing more comes.
async fn converse(stream: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let mut quiet = 0;
    let mut rest = bytes;
    let mut chunk = vec![0; 16 * 1024];
    while quiet < QUIET {
        quiet += 1;
        tokio::select! {
            biased;
            read = from.read(&mut chunk) => match read {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    answer.extend_from_slice(&chunk[..read]);
                    quiet = 0;
                }
            },
            written = to.write(rest), if !rest.is_empty() => match written {
                Ok(written) => {
                    rest = &rest[written..];
                    quiet = 0;
                }
                Err(_) => rest = &[],
            },
            () = tokio::task::yield_now() => {}
        }
    }
    answer
}

/// Listens with an application that ends the run at the first request which could be taken in two ways.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback");
    let address = listener.local_addr().expect("an address");
    let decisions = Arc::<Mutex<HashSet<Vec<u8>>>>::default();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer_all(socket, Arc::clone(&decisions)));
        }
    });
    address
}

async fn answer_all(mut socket: TcpStream, decisions: Arc<Mutex<HashSet<Vec<u8>>>>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !more(&mut socket, &mut buffer).await {
                return;
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let framing = judge(&head, &decisions);
        if !body(&mut socket, &mut buffer, framing).await {
            return;
        }
        let answer: &[u8] = if head.starts_with(b"HEAD ") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        };
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

/// One request line in its canonical form, every line well-formed, one framing, one decision that nobody had before.
fn judge(head: &[u8], decisions: &Mutex<HashSet<Vec<u8>>>) -> Framing {
    let text = String::from_utf8_lossy(head);
    let lines: Vec<&[u8]> = head[..head.len() - 4].split(|byte| *byte == b'\n').collect();
    assert!(!head.contains(&0) && lines.iter().rev().skip(1).all(|line| line.ends_with(b"\r")), "{text}");
    let lines: Vec<&[u8]> = lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    assert!(lines.iter().all(|line| !line.contains(&b'\r')), "a bare CR: {text}");

    let request: Vec<&[u8]> = lines[0].split(|byte| *byte == b' ').collect();
    assert!(request.len() == 3 && request[2] == b"HTTP/1.1", "{text}");
    let target = std::str::from_utf8(request[1]).expect("an ASCII target");
    assert_eq!(CanonicalPath::parse(target).map(|path| path.to_string()).as_deref(), Ok(target), "not canonical: {text}");

    let (mut lengths, mut codings, mut hosts, mut decision) = (Vec::new(), Vec::new(), 0, Vec::new());
    for line in &lines[1..] {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or_else(|| panic!("no colon: {text}"));
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic()), "{text}");
        match &*name {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value),
            b"host" => hosts += 1,
            b"doorward-decision" => decision.push(value),
            b"x-forwarded-for" => assert_eq!(value, b"203.0.113.7", "{text}"),
            b"doorward-identity" | b"doorward-approval" | b"client-cert" => panic!("nobody said so: {text}"),
            _ => {}
        }
    }
    assert_eq!((hosts, decision.len()), (1, 1), "{text}");
    let fresh = decisions.lock().expect("no panic").insert(decision[0].to_vec());
    assert!(fresh, "one request was delivered twice, or read as two: {text}");
    assert!(lengths.len() + codings.len() <= 1, "two framings: {text}");
    match (lengths.first(), codings.first()) {
        (Some(length), _) => {
            assert!(length.iter().all(u8::is_ascii_digit), "{text}");
            Framing::Length(std::str::from_utf8(length).expect("digits").parse().expect("a length"))
        }
        (_, Some(coding)) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"), "{text}");
            Framing::Chunked
        }
        _ => Framing::Length(0),
    }
}

/// Reads one body off the connection; `false`: it was cut.
async fn body(socket: &mut TcpStream, buffer: &mut Vec<u8>, framing: Framing) -> bool {
    let mut left = match framing {
        Framing::Length(length) => length,
        Framing::Chunked => usize::MAX,
    };
    while let Framing::Chunked = framing {
        let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") else {
            if !more(socket, buffer).await {
                return false;
            }
            continue;
        };
        let size = std::str::from_utf8(&buffer[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let whole = end + 2 + size.expect("a bare chunk size") + 2;
        while buffer.len() < whole {
            if !more(socket, buffer).await {
                return false;
            }
        }
        assert_eq!(&buffer[whole - 2..whole], b"\r\n", "a chunk is as long as it says, and no trailer passes");
        buffer.drain(..whole);
        if size == Some(0) {
            left = 0;
            break;
        }
    }
    while left > 0 {
        if buffer.is_empty() && !more(socket, buffer).await {
            return false;
        }
        let taken = left.min(buffer.len());
        buffer.drain(..taken);
        left -= taken;
    }
    true
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    matches!(socket.read_buf(buffer).await, Ok(1..))
}
