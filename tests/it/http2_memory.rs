//! What HTTP/2 connections and their streams can make the gateway hold stays under the formula of ARCHITECTURE.md, whatever the
//! client does: every stream taken, heads as large as they may be, bodies half sent, answers never read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::Door;
use crate::common::h2::{
    DATA, END_HEADERS, END_STREAM, Framed, HEADERS, PREFACE, WINDOW_UPDATE, block, code, frame, get, post, pseudo, settings,
};
use crate::support::process::{House, Process};
use crate::support::{BASE, OPEN_SITE, run};

const KIB: u64 = 1024;
/// What ARCHITECTURE.md states.
const PER_CONNECTION: u64 = 80 * KIB;
const PER_UPLOADING: u64 = 1024 * KIB;
const PER_STREAM: u64 = 256 * KIB;
/// `caps.head`.
const HEAD: u64 = 32 * KIB;
/// `caps.streams`.
const STREAMS: u32 = 100;
/// Connections before the first look, and between the first and the second; four times as many where they hold little.
const BEFORE: u8 = 4;
const BETWEEN: u8 = 8;

/// What one client does on one connection.
struct Hostile {
    name: &'static str,
    settings: Vec<u8>,
    /// Of each stream: what opens it.
    opens: fn(u32) -> Vec<u8>,
    streams: u32,
    /// Whether bodies are then sent as far as the windows allow.
    uploads: bool,
    most: u64,
}

fn hostile() -> Vec<Hostile> {
    let streams = u64::from(STREAMS) * PER_STREAM;
    vec![
        Hostile {
            name: "nothing but its settings",
            settings: settings(&[(1, 0xffff_ffff), (3, 0xffff_ffff), (4, 0x7fff_ffff), (5, 0xff_ffff), (6, 0xffff_ffff)]),
            opens: |_| Vec::new(),
            streams: 0,
            uploads: false,
            most: PER_CONNECTION,
        },
        Hostile {
            name: "every stream waits for the application",
            settings: settings(&[(1, 0)]),
            opens: |stream| get(stream, "/silent"),
            streams: STREAMS,
            uploads: false,
            most: PER_CONNECTION + streams,
        },
        Hostile {
            name: "every stream with the largest head",
            settings: settings(&[(1, 0)]),
            opens: fat,
            streams: STREAMS,
            uploads: false,
            most: PER_CONNECTION + streams + u64::from(STREAMS) * HEAD,
        },
        Hostile {
            name: "every stream with a body half sent",
            settings: settings(&[(1, 0)]),
            opens: |stream| post(stream, "/silent"),
            streams: STREAMS,
            uploads: true,
            most: PER_CONNECTION + streams + PER_UPLOADING,
        },
        Hostile {
            name: "every stream with an answer that nobody takes",
            settings: settings(&[(1, 0), (4, 0)]),
            opens: |stream| get(stream, "/big"),
            streams: STREAMS,
            uploads: false,
            most: PER_CONNECTION + streams,
        },
        Hostile {
            name: "one stream with an answer that nobody takes, windows wide open",
            settings: [settings(&[(1, 0), (4, 0x7fff_ffff)]), frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())]
                .concat(),
            opens: |stream| get(stream, "/big"),
            streams: 1,
            uploads: false,
            most: PER_CONNECTION + PER_STREAM,
        },
        Hostile {
            name: "every stream with an answer that nobody takes, windows wide open",
            settings: [settings(&[(1, 0), (4, 0x7fff_ffff)]), frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())]
                .concat(),
            opens: |stream| get(stream, "/big"),
            streams: STREAMS,
            uploads: false,
            most: PER_CONNECTION + streams,
        },
    ]
}

/// A request of 90 fields that count for 32 KiB, in as many frames as it takes.
fn fat(stream: u32) -> Vec<u8> {
    let names: Vec<String> = (0..90).map(|at| format!("x-{at}")).collect();
    let value = [b'v'; 280];
    let mut fields = pseudo("GET", "/silent");
    fields.extend(names.iter().map(|name| (name.as_str(), &value[..])));
    let fields = block(&fields);
    let (first, rest) = fields.split_at(16_000);
    [frame(HEADERS, END_STREAM, stream, first), frame(9, END_HEADERS, stream, rest)].concat()
}

#[test]
fn trap_unbounded_buffering_no_http2_client_holds_more_than_the_stated_memory() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut differ = Vec::new();
    for hostile in hostile() {
        let application = application().expect("a port");
        let address = application.local_addr().expect("an address");
        let more = format!("{address}\"]\nconnections = 4000\ntimeouts = {{ response = \"60s\", idle = \"60s\" }}");
        let text = format!("{BASE}{OPEN_SITE}").replace("= \"2s\"", "= \"60s\"").replace("{portal}\"]", &more);
        let house = House::new(&text);
        let gateway = house.start();
        let times = if hostile.streams > 1 { 1 } else { 4 };
        let (before, between) = (BEFORE * times, BETWEEN * times);
        let door = Door { https: gateway.https, roots: house.pki.folder.join("server-ca.pem") };
        let each = run(async {
            let asked = Arc::new(AtomicU32::new(0));
            let application = TcpListener::from_std(application).expect("a listener");
            tokio::spawn(serve(application, Arc::clone(&asked)));
            let mut held = Vec::new();
            for place in 0..before {
                held.push(open(&door, &hostile, place).await);
            }
            let first = settled(&gateway).await;
            for place in before..before + between {
                held.push(open(&door, &hostile, place).await);
            }
            let second = settled(&gateway).await;
            let all = hostile.streams * u32::from(before + between);
            assert_eq!(asked.load(Ordering::SeqCst), all, "{}: every request is in flight", hostile.name);
            for framed in &mut held {
                assert!(alive(framed).await, "{}: the connection is still there", hostile.name);
            }
            second.saturating_sub(first) / u64::from(between)
        });
        println!("{}: {} KiB each, {} allowed", hostile.name, each / KIB, hostile.most / KIB);
        if each > hostile.most {
            differ.push(format!("{}: {} KiB each, {} stated", hostile.name, each / KIB, hostile.most / KIB));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// Opens a connection and does what it does.
async fn open(door: &Door, hostile: &Hostile, place: u8) -> Framed {
    let mut framed = Framed::silent(door, [126, place + 1]).await.expect("a connection");
    framed.send(&[PREFACE, &hostile.settings].concat()).await.expect("sent");
    for at in 0..hostile.streams {
        framed.send(&(hostile.opens)(at * 2 + 1)).await.expect("sent");
    }
    if hostile.uploads {
        upload(&mut framed, hostile.streams).await;
    }
    framed
}

/// Sends on all streams in turn for as long as the connection's window is opened again.
async fn upload(framed: &mut Framed, streams: u32) {
    const PIECE: usize = 8 * 1024;
    /// Of a stream: what the gateway grants at first.
    const STREAM: usize = 256 * 1024;
    let mut window = 65_535;
    let mut turn = 0;
    loop {
        while window >= PIECE && turn < streams as usize * (STREAM / PIECE) {
            let stream = (turn % streams as usize) as u32 * 2 + 1;
            framed.send(&frame(DATA, 0, stream, &[b'u'; PIECE])).await.expect("sent");
            window -= PIECE;
            turn += 1;
        }
        match tokio::time::timeout(Duration::from_millis(300), framed.frame()).await {
            Ok(Ok(Some(frame))) if frame.kind == WINDOW_UPDATE && frame.stream == 0 => window += code(&frame.payload, 0) as usize,
            Ok(Ok(Some(_))) => {}
            Ok(_) => panic!("the connection ended amid the uploads"),
            Err(_) => return,
        }
    }
}

/// Whether it answers a PING.
async fn alive(framed: &mut Framed) -> bool {
    framed.send(&frame(6, 0, 0, b"are you?")).await.expect("sent");
    while let Ok(Some(frame)) = framed.frame().await {
        if frame.kind == 6 && frame.payload == b"are you?" {
            return true;
        }
    }
    false
}

/// Resident memory once it rests.
async fn settled(gateway: &Process) -> u64 {
    let (mut last, mut calm) = (0, 0);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = gateway.memory().0;
        calm = if now.abs_diff(last) < 256 * KIB { calm + 1 } else { 0 };
        last = now;
        if calm == 4 {
            break;
        }
    }
    last
}

/// Takes no more than it must, so that what waits for it waits in the gateway.
fn application() -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    // Those that it accepts have them too.
    socket.set_recv_buffer_size(4096)?;
    socket.set_send_buffer_size(4096)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(listener: TcpListener, asked: Arc<AtomicU32>) {
    while let Ok((stream, _)) = listener.accept().await {
        asked.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(answer(stream));
    }
}

/// More for `/big` than all buffers on the way; everybody else waits for ever.
async fn answer(mut stream: TcpStream) {
    let mut start = [0; 8];
    while let Ok(read @ 1..8) = stream.peek(&mut start).await {
        let _ = read;
        tokio::task::yield_now().await;
    }
    if start == *b"GET /big" {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        static PIECE: [u8; 64 * 1024] = [b'a'; 64 * 1024];
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECE.len() * 1024).as_bytes()).await;
        // Until the gateway has had enough.
        while stream.write_all(&PIECE).await.is_ok() {}
    }
    std::future::pending::<()>().await;
}
