//! Clients that are slow, idle or too many, from thousands of addresses; and what honest ones beside them see.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{self, Gateway, House, MIB};
use super::report::Report;

/// The argument by which this program becomes a crowd: ADDRESS COUNT FIRST.
pub const CROWD: &str = "--crowd";
/// Addresses that the crowds come from.
const ADDRESSES: u32 = 4096;
const IDLE: usize = 20_000;
/// What ARCHITECTURE.md states, in bytes.
const BASE: u64 = 64 * MIB;
const PER_SILENT: u64 = 14 * 1024;
const PER_TLS: u64 = 80 * 1024;
/// Beyond a deadline, on a machine that does other things too.
const SLACK: Duration = Duration::from_secs(2);

pub const CONFIG: &str = r#"
state_dir = "{state}"
workers = 2
[listen]
https = ["127.0.0.1:0"]
metrics = "127.0.0.1:0"
[deadlines]
handshake = "2s"
head = "2s"
body = "2s"
idle = "3s"
drain = "1s"
[log]
access = "{state}/access.log"
events = "{state}/events.log"
[[tls.certificate]]
chain = "{certs}/portal.crt"
key = "{certs}/portal.key"
[client_ca.acme]
roots = ["{certs}/acme-ca.pem"]
tenant = "acme"
[upstream.portal]
servers = ["http://{portal}"]
[[site]]
hosts = ["localhost"]
client_ca = "acme"
  [[site.route]]
  path = "/"
  upstream = "portal"
  bots = "any"
"#;

pub fn play(report: &mut Report) {
    harness::use_binary(report.binary());
    slowloris(report);
    idle(report);
    flood(report);
}

fn slowloris(report: &mut Report) {
    let house = House::new(CONFIG);
    let gateway = house.start().expect("a gateway");
    let to = gateway.https;
    let case = |report: &mut Report, name: &str, most: u64, took: Option<Duration>| {
        let most = Duration::from_secs(most);
        let seen = took.map_or("still open".to_owned(), |took| format!("closed after {:.1} s", took.as_secs_f32()));
        report.row(name, &format!("closed within {} s", most.as_secs()), seen, took.is_some_and(|took| took <= most + SLACK));
    };
    house.runtime.block_on(async {
        let silent = tcp(to, 1).await.expect("a connection");
        case(report, "slowloris: not a byte", 2, dribble(silent, b"", b"").await);
        let hello = tcp(to, 2).await.expect("a connection");
        case(
            report,
            "slowloris: a ClientHello byte by byte",
            2,
            dribble(hello, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0").await,
        );
        let head = tls(&house, to, 3, None, b"http/1.1").await.expect("a handshake");
        case(report, "slowloris: a head byte by byte", 2, dribble(head, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x").await);
        let body = tls(&house, to, 4, None, b"http/1.1").await.expect("a handshake");
        let post = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 100\r\n\r\nx";
        case(report, "slowloris: a body that stops", 5, dribble(body, post, b"").await);
        let h2 = tls(&house, to, 5, None, b"h2").await.expect("a handshake");
        let ping = b"\0\0\x08\x06\0\0\0\0\x0012345678";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        case(report, "slowloris: h2 pings and no request", 8, dribble(h2, preface, ping).await);
        let reader = tls(&house, to, 6, None, b"http/1.1").await.expect("a handshake");
        case(report, "slowloris: an answer that nobody reads", 4, unread(reader, &gateway, &house).await);
    });
    drop(gateway);
    house.write(&CONFIG.replace("[listen]", "[listen]\nproxy_protocol = [\"127.0.0.0/8\"]"));
    let gateway = house.start().expect("a gateway");
    house.runtime.block_on(async {
        let proxied = tcp(gateway.https, 7).await.expect("a connection");
        case(report, "slowloris: a PROXY header byte by byte", 2, dribble(proxied, b"PROXY TCP4 ", b"1").await);
    });
}

/// Twenty thousand connections that say nothing, more than there are places.
fn idle(report: &mut Report) {
    let patient = CONFIG.replace("handshake = \"2s\"", "handshake = \"60s\"").replace("idle = \"3s\"", "idle = \"60s\"");
    let house = House::new(&patient);
    let gateway = house.start().expect("a gateway");
    let known = 9;
    let mut beside = house.runtime.block_on(async {
        let mut stream = tls(&house, gateway.https, known, Some("good"), b"http/1.1").await.expect("a handshake");
        request(&mut stream).await.expect("an answer");
        stream
    });
    let crowds: Vec<Crowd> = (0..4).map(|part| Crowd::new(gateway.https, IDLE / 4, part * 1024)).collect();
    let opened: usize = crowds.iter().map(|crowd| crowd.opened).sum();
    report.row("idle: 20,000 connections that say nothing", "most get in", opened, opened > IDLE * 3 / 4);
    std::thread::sleep(Duration::from_secs(1));
    let held = connections(&house);
    report.row(
        "idle: places taken",
        "<= 16,384",
        held.map_or("?".into(), |held| held.to_string()),
        held.is_some_and(|held| held <= 16_384 && held > 10_000),
    );

    let (good, worst) = house.runtime.block_on(honest(&house, gateway.https, 40));
    report.row("idle: honest newcomers", "40 of 40 answered", format!("{good}, worst {worst:.0?}"), good == 40);
    let again = house.runtime.block_on(request(&mut beside));
    report.row("idle: a connection that proved itself before", "still open, answered", format!("{again:?}"), again.is_some());
    let fresh = house.runtime.block_on(async {
        let mut stream = tls(&house, gateway.https, known, Some("good"), b"http/1.1").await.ok()?;
        request(&mut stream).await
    });
    report.row("idle: a new one of the same client", "answered", format!("{fresh:?}"), fresh.is_some());
    let ready = house.runtime.block_on(plain_get(gateway.metrics, "/readyz"));
    report.row("idle: /readyz", "200", &ready, ready.contains(" 200 "));
    let status = house.told(&["status"]).is_some();
    report.row("idle: the operators' door", "answers", if status { "answers" } else { "does not" }, status);
    let most = BASE + 16_384 * PER_SILENT;
    memory(report, "idle: memory high-water", &gateway, most);
    drop(crowds);

    drop(gateway);
    let gateway = house.start().expect("a gateway");
    let lines = 1000_u64;
    house.runtime.block_on(honest(&house, gateway.https, 20));
    let before = gateway.memory();
    let open = house.runtime.block_on(async {
        let mut open = Vec::new();
        for number in 0..lines as u32 {
            let mut stream = tls(&house, gateway.https, 2000 + number, None, b"http/1.1").await.expect("a handshake");
            request(&mut stream).await.expect("an answer");
            open.push(stream);
        }
        open
    });
    let each = gateway.memory().saturating_sub(before) / lines;
    report.row(
        "idle: memory of a TLS connection between requests",
        &format!("<= {} KiB", PER_TLS / 1024),
        format!("{} KiB", each / 1024),
        each <= PER_TLS,
    );
    drop(open);
}

/// Thousands of addresses that come and go as fast as they can, while honest clients ask.
fn flood(report: &mut Report) {
    let house = House::new(CONFIG);
    let gateway = house.start().expect("a gateway");
    let quiet = house.runtime.block_on(honest(&house, gateway.https, 100));
    let floods: Vec<Child> = (0..2).map(|part| spawn(gateway.https, 0, part * 2048)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let (good, worst) = house.runtime.block_on(honest(&house, gateway.https, 100));
    report.row(
        "flood: 4,096 addresses, honest newcomers beside",
        "100 of 100 answered",
        format!("{good}, worst {worst:.0?} (quiet: {:.0?})", quiet.1),
        good == 100,
    );
    let came: u64 = floods.into_iter().map(end).sum();
    report.row("flood: connections made meanwhile", "> 1,000", came, came > 1000);
    memory(report, "flood: memory high-water", &gateway, BASE + 4096 * PER_TLS);
}

fn memory(report: &mut Report, case: &str, gateway: &Gateway, most: u64) {
    let peak = gateway.peak();
    report.row(case, &format!("<= {} MiB", most / MIB), format!("{} MiB", peak / MIB), peak <= most);
}

fn connections(house: &House) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(&house.told(&["status", "--json"])?).ok()?;
    status["tables"]["connections"].as_u64()
}

/// A process that holds connections, half of this one's descriptors being too few.
struct Crowd {
    child: Child,
    opened: usize,
}

impl Crowd {
    fn new(to: SocketAddr, count: usize, first: u32) -> Self {
        let mut child = spawn(to, count, first);
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
        Self { child, opened: line.trim().parse().unwrap_or(0) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(to: SocketAddr, count: usize, first: u32) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args([CROWD, &to.to_string(), &count.to_string(), &first.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a crowd")
}

/// Ends a flood and reads what it counted.
fn end(mut child: Child) -> u64 {
    drop(child.stdin.take());
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
    let _ = child.wait();
    line.trim().parse().unwrap_or(0)
}

/// The other side of [`spawn`]: holds `count` silent connections; with 0, connects and leaves until its stdin closes.
pub fn crowd(arguments: &[String]) {
    let to: SocketAddr = arguments[0].parse().expect("an address");
    let (count, first): (usize, u32) = (arguments[1].parse().expect("a count"), arguments[2].parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    runtime.block_on(async {
        if count == 0 {
            let mut came = 0_u64;
            let (stop, mut stopped) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _ = std::io::stdin().read_line(&mut String::new());
                let _ = stop.send(());
            });
            while stopped.try_recv().is_err() {
                let number = first + u32::try_from(came % 2048).unwrap_or(0);
                if let Ok(mut stream) = tcp(to, 4096 + number).await {
                    let _ = stream.write_all(b"\x16\x03\x01\x00\x05hello").await;
                    came += 1;
                }
            }
            println!("{came}");
            return;
        }
        let mut held = Vec::with_capacity(count);
        for number in 0..count as u32 {
            if let Ok(stream) = tcp(to, 4096 + (first + number) % ADDRESSES).await {
                held.push(stream);
            }
        }
        println!("{}", held.len());
        let _ = std::io::stdout().flush();
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
    });
}

/// From 127.64.0.0 on, one address for each number.
pub async fn tcp(to: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::from(0x7f40_0000 + number * 2 + 1), 0)))?;
    timeout(Duration::from_secs(10), socket.connect(to)).await?
}

pub async fn tls(
    house: &House,
    to: SocketAddr,
    number: u32,
    certificate: Option<&str>,
    alpn: &[u8],
) -> Result<TlsStream<TcpStream>, String> {
    let folder = &house.pki.folder;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(folder.join("server-ca.pem")).expect("a file") {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.crt"))).expect("a file");
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).expect("a key");
            builder.with_client_auth_cert(chain.collect::<Result<_, _>>().expect("PEM"), key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tcp(to, number).await.map_err(|error| error.to_string())?;
    let shaken = timeout(Duration::from_secs(10), TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    shaken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// One request on a connection that is kept; the status line.
pub async fn request(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let ask = async {
        stream.write_all(b"GET /public HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\n\r\n").await.ok()?;
        let mut seen = Vec::new();
        loop {
            stream.read_buf(&mut seen).await.ok().filter(|read| *read > 0)?;
            let text = String::from_utf8_lossy(&seen).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase().split("content-length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
                if body.len() >= length {
                    return head.lines().next().map(str::to_owned);
                }
            }
        }
    };
    timeout(Duration::from_secs(10), ask).await.ok()?
}

/// Newcomers one after another: how many were answered, and the longest that one took.
pub async fn honest(house: &House, to: SocketAddr, count: u32) -> (u32, Duration) {
    let (mut good, mut worst) = (0, Duration::ZERO);
    for number in 0..count {
        let began = Instant::now();
        if let Ok(mut stream) = tls(house, to, 100 + number, None, b"http/1.1").await
            && request(&mut stream).await.is_some_and(|status| status.contains("200"))
        {
            good += 1;
        }
        worst = worst.max(began.elapsed());
    }
    (good, worst)
}

pub async fn plain_get(to: SocketAddr, path: &str) -> String {
    let ask = async {
        let mut stream = TcpStream::connect(to).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    let text = timeout(Duration::from_secs(10), ask).await.ok().flatten().unwrap_or_default();
    if path == "/metrics" { text } else { text.lines().next().unwrap_or("no answer").to_owned() }
}

/// Sends `first`, then `drip` ten times a second; how long until the other side closed.
async fn dribble(stream: impl AsyncRead + AsyncWrite + Unpin, first: &[u8], drip: &[u8]) -> Option<Duration> {
    let (mut from, mut to) = tokio::io::split(stream);
    let began = Instant::now();
    to.write_all(first).await.ok()?;
    to.flush().await.ok()?;
    let drips = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !drip.is_empty() && (to.write_all(drip).await.is_err() || to.flush().await.is_err()) {
                return;
            }
        }
    };
    let closed = async {
        let mut chunk = [0; 4096];
        while matches!(from.read(&mut chunk).await, Ok(1..)) {}
    };
    timeout(Duration::from_secs(20), async {
        tokio::select! { () = drips => {}, () = closed => {} }
    })
    .await
    .ok()?;
    Some(began.elapsed())
}

/// Asks for much and reads nothing; how long until the gateway has no connection left.
async fn unread(mut stream: TlsStream<TcpStream>, _gateway: &Gateway, house: &House) -> Option<Duration> {
    stream.write_all(b"GET /download?mib=200 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\n\r\n").await.ok()?;
    stream.flush().await.ok()?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if connections(house) == Some(0) {
            return Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}
