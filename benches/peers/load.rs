//! The load that h2load and wrk have no mode for: handshakes (full, resumed, with a client certificate), an open loop at a
//! fixed rate, connections held idle, and connections that are refused. Blocking threads and rustls, loopback only; every
//! mode is bounded in time or count and prints one JSON object a line on stdout. `benches/peers/run.py` drives it.

#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use hdrhistogram::Histogram;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme, StreamOwned,
};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Stream = StreamOwned<ClientConnection, TcpStream>;

#[derive(Parser)]
#[command(about = "Load on one proxy of benches/peers; driven by benches/peers/run.py")]
struct Cli {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// What `cargo bench` passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Mode {
    /// A new connection and one request, again and again
    Handshakes(Handshakes),
    /// Requests at fixed times, whether or not the answers keep up
    OpenLoop(OpenLoop),
    /// Reads counts from stdin; opens that many connections for each and holds them until stdin ends
    Idle(Aim),
    /// Connections that are to be refused; says how
    Refused(Refused),
}

#[derive(Args, Clone)]
struct Aim {
    /// Loopback address of the proxy
    #[arg(long)]
    address: SocketAddr,
    /// Name for SNI and Host
    #[arg(long)]
    host: String,
    #[arg(long, default_value = "/1k")]
    path: String,
    /// PEM of the certificate that the proxy must show
    #[arg(long)]
    shown: PathBuf,
    /// PEM of a client certificate and its key
    #[arg(long, num_args = 2, value_names = ["CHAIN", "KEY"])]
    certificate: Option<Vec<PathBuf>>,
    /// Resume sessions by tickets
    #[arg(long)]
    resume: bool,
    /// Offer X25519MLKEM768 in place of X25519
    #[arg(long)]
    post_quantum: bool,
    /// Local address to come from
    #[arg(long)]
    source: Option<IpAddr>,
}

#[derive(Args)]
struct Handshakes {
    #[command(flatten)]
    aim: Aim,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections of each thread, where time does not end it first
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Args)]
struct OpenLoop {
    #[command(flatten)]
    aim: Aim,
    /// Requests a second, over all connections
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Left out of the figures
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

#[derive(Args)]
struct Refused {
    #[command(flatten)]
    aim: Aim,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// Longest that anything here runs or waits, in seconds.
const LONGEST: f64 = 120.0;
/// Longest that one read may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a browser says: an agent that names a tool would be taken for automation.
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

fn main() -> Fallible<()> {
    let answer = match Cli::parse().mode {
        None => {
            eprintln!("nothing to do without a mode; benches/peers/run.py drives this, `--help` lists the modes");
            return Ok(());
        }
        Some(Mode::Handshakes(args)) => handshakes(&args)?,
        Some(Mode::OpenLoop(args)) => open_loop(&args)?,
        Some(Mode::Idle(aim)) => return idle(&aim),
        Some(Mode::Refused(args)) => refused(&args)?,
    };
    println!("{answer}");
    Ok(())
}

fn handshakes(args: &Handshakes) -> Fallible<Value> {
    let length = bounded(args.seconds)?;
    let most = args.count.unwrap_or(u64::MAX);
    let started = Instant::now();
    let threads: Vec<_> = (0..args.threads)
        .map(|_| {
            // Of its own: a shared store of tickets would be a lock.
            let target = Target::new(&args.aim)?;
            Ok(thread::spawn(move || shake_until(&target, started + length, most)))
        })
        .collect::<Fallible<_>>()?;
    let mut total = Shaken::default();
    for thread in threads {
        let one = thread.join().map_err(|_| "a thread panicked")?;
        total.requests += one.requests;
        total.resumed += one.resumed;
        total.errors += one.errors;
        total.error = total.error.or(one.error);
    }
    Ok(json!({
        "requests": total.requests,
        "resumed": total.resumed,
        "errors": total.errors,
        "error": total.error,
        "seconds": started.elapsed().as_secs_f64(),
    }))
}

#[derive(Default)]
struct Shaken {
    requests: u64,
    resumed: u64,
    errors: u64,
    error: Option<String>,
}

fn shake_until(target: &Target, end: Instant, most: u64) -> Shaken {
    let mut shaken = Shaken::default();
    while shaken.requests + shaken.errors < most && Instant::now() < end {
        match shake_once(target) {
            Ok(kind) => {
                shaken.requests += 1;
                shaken.resumed += u64::from(kind == Some(HandshakeKind::Resumed));
            }
            Err(error) => {
                shaken.errors += 1;
                shaken.error.get_or_insert_with(|| error.to_string());
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    shaken
}

fn shake_once(target: &Target) -> Fallible<Option<HandshakeKind>> {
    let mut stream = target.connect()?;
    let status = target.ask(&mut stream)?;
    if status != 200 {
        return Err(format!("status {status}").into());
    }
    let kind = stream.conn.handshake_kind();
    leave(stream);
    Ok(kind)
}

/// Latency counts from the moment at which a request was due where its connection was still busy then (so that a stall
/// counts for all whom it delays), and from its sending where the connection waited and this process woke late.
fn open_loop(args: &OpenLoop) -> Fallible<Value> {
    let length = bounded(args.warm_up + args.seconds)?;
    let connections = u32::from(args.connections);
    let period = Duration::from_secs_f64(f64::from(connections) / f64::from(args.rate.max(1)));
    let target = Arc::new(Target::new(&args.aim)?);
    let streams: Vec<_> = (0..connections)
        .map(|_| {
            let mut stream = target.connect()?;
            expect_ok(target.ask(&mut stream)?)?;
            Ok(stream)
        })
        .collect::<Fallible<_>>()?;
    let started = Instant::now() + Duration::from_millis(20);
    let (measured, end) = (started + Duration::from_secs_f64(args.warm_up), started + length);
    let threads: Vec<_> = (0..connections)
        .zip(streams)
        .map(|(number, mut stream)| {
            let target = Arc::clone(&target);
            thread::spawn(move || -> Fallible<Histogram<u64>> {
                let mut latencies = histogram()?;
                let mut due = started + period * number / connections;
                let mut free = started;
                while due < end {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let from = if free > due { due } else { Instant::now() };
                    expect_ok(target.ask(&mut stream)?)?;
                    free = Instant::now();
                    if due >= measured {
                        latencies.saturating_record(u64::try_from((free - from).as_nanos())?);
                    }
                    due += period;
                }
                Ok(latencies)
            })
        })
        .collect();
    let mut all = histogram()?;
    for thread in threads {
        all.add(thread.join().map_err(|_| "a thread panicked")??)?;
    }
    let micros = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    Ok(json!({
        "requests": all.len(),
        "seconds": args.seconds,
        "late": started.elapsed().saturating_sub(length).as_secs_f64(),
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "max_us": all.max() as f64 / 1e3,
    }))
}

fn idle(aim: &Aim) -> Fallible<()> {
    const MOST: usize = 20_000;
    let target = Target::new(aim)?;
    let mut held = Vec::new();
    for line in io::stdin().lock().lines() {
        let more: usize = line?.trim().parse()?;
        for _ in 0..more.min(MOST.saturating_sub(held.len())) {
            let mut stream = target.connect()?;
            expect_ok(target.ask(&mut stream)?)?;
            held.push(stream);
        }
        println!("{}", json!({ "open": held.len() }));
    }
    held.into_iter().for_each(leave);
    Ok(())
}

fn refused(args: &Refused) -> Fallible<Value> {
    let length = bounded(args.seconds)?;
    let target = Target::new(&args.aim)?;
    let started = Instant::now();
    let (mut closed, mut answered, mut passed) = (0u64, 0u64, 0u64);
    let mut error = None;
    while started.elapsed() < length {
        let attempt = target.connect().and_then(|mut stream| {
            let status = target.ask(&mut stream)?;
            leave(stream);
            Ok(status)
        });
        match attempt {
            Ok(200..=399) => passed += 1,
            Ok(_) => answered += 1,
            Err(why) => {
                closed += 1;
                error.get_or_insert_with(|| why.to_string());
            }
        }
    }
    Ok(json!({
        "requests": closed + answered,
        "closed": closed,
        "answered": answered,
        "passed": passed,
        "error": error,
        "seconds": started.elapsed().as_secs_f64(),
    }))
}

/// Whom to ask, and what.
struct Target {
    address: SocketAddr,
    source: Option<IpAddr>,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    request: Vec<u8>,
}

impl Target {
    fn new(aim: &Aim) -> Fallible<Self> {
        if !aim.address.ip().is_loopback() {
            return Err("loopback addresses only".into());
        }
        let mut provider = default_provider();
        provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![if aim.post_quantum { kx_group::X25519MLKEM768 } else { kx_group::X25519 }];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(CertificateDer::from_pem_file(&aim.shown)?)));
        let mut config = match aim.certificate.as_deref() {
            Some([chain, key]) => {
                let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<_, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !aim.resume {
            config.resumption = Resumption::disabled();
        }
        Ok(Self {
            address: aim.address,
            source: aim.source,
            name: ServerName::try_from(aim.host.clone())?,
            config: Arc::new(config),
            request: format!(
                "GET {} HTTP/1.1\r\nhost: {}:{}\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\n\r\n",
                aim.path,
                aim.host,
                aim.address.port()
            )
            .into_bytes(),
        })
    }

    fn connect(&self) -> Fallible<Stream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&self.address.into())?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), self.name.clone())?, socket.into()))
    }

    /// One request on a connection that is kept; returns the status. Answers must say their length.
    fn ask(&self, stream: &mut Stream) -> Fallible<u16> {
        stream.write_all(&self.request)?;
        let mut buffer = [0; 16 * 1024];
        let mut filled = 0;
        let head = loop {
            let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
            if read == 0 {
                return Err("the connection closed, or the head is too long".into());
            }
            filled += read;
            let seen = buffer.get(..filled).unwrap_or_default();
            if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let text = std::str::from_utf8(buffer.get(..head).unwrap_or_default())?;
        let status = text.split(' ').nth(1).ok_or("no status")?.parse()?;
        let length: usize = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .ok_or("no content-length")?
            .1
            .trim()
            .parse()?;
        let mut left = length.checked_sub(filled - head).ok_or("more than the answer")?;
        while left > 0 {
            let most = left.min(buffer.len());
            match stream.read(buffer.get_mut(..most).unwrap_or_default())? {
                0 => return Err("cut short".into()),
                read => left -= read,
            }
        }
        Ok(status)
    }
}

/// Knows the proxy by its certificate, and verifies no signature, as h2load does not: that takes as long as a proxy takes to
/// make one, and what is to be measured would wait for it.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *shown == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Says goodbye, then resets: a client that waits out TIME_WAIT runs out of ports within seconds.
fn leave(mut stream: Stream) {
    stream.conn.send_close_notify();
    // A proxy may have gone first.
    let _ = stream.flush();
    let _ = SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO));
}

fn expect_ok(status: u16) -> Fallible<()> {
    if status == 200 { Ok(()) } else { Err(format!("status {status}").into()) }
}

fn histogram() -> Fallible<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

fn bounded(seconds: f64) -> Fallible<Duration> {
    if (0.0..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("0 to {LONGEST} seconds").into())
    }
}
