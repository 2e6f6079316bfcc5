//! Promise: nothing of an old configuration outlives the reload that took its place, whatever streams began under it.

use std::sync::Weak;

use bytes::Bytes;
use doorward::config::Config;
use doorward::gateway::Snapshot;
use doorward::tls::TlsState;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedSender;

use crate::support::caller::Caller;
use crate::support::process::House;
use crate::support::underway::{Chunk, h2, until, uploading};
use crate::support::upstream::{Toy, full, h2_request};
use crate::support::{BASE, Socket, Stage, run, told};

const RELOADS: u64 = 100;
/// Certificates on each list: more than half a megabyte in memory.
const REVOKED: u64 = 10_000;
/// In bytes, over the second half of the reloads: a half of what its lists take.
const GROWTH: u64 = RELOADS / 2 * 256 * 1024;

/// What one reload put in force.
struct Generation {
    snapshot: Weak<Snapshot>,
    tls: Weak<TlsState>,
    server: Weak<ServerConfig>,
    config: Weak<Config>,
}

#[test]
fn trap_a_crl_reload_leaks_memory_under_long_streams_every_old_generation_is_let_go_while_they_flow() {
    let toy = endless();
    let site = toy.site().replace("hosts", "client_ca = [\"acme\"]\nhosts");
    let mut stage = crate::support::open(&format!("{}{site}", BASE.replace("body = \"2s\"", "body = \"60s\"")));
    run(async {
        let mut old = vec![generation(&mut stage).await];
        let mut flowing = Vec::new();
        for number in 0..RELOADS {
            if number % 10 == 0 {
                flowing.push(Flow::begin(&Caller::new(&stage, [1, 1]).with("good")).await);
            }
            stage.pki.write_crl(number + 2, &[66, 1000 + number]).expect("a CRL");
            told(&stage, &["reload"]);
            old.push(generation(&mut stage).await);
        }
        let live = old.pop().expect("one is live");
        for flow in &mut flowing {
            flow.flows().await;
        }
        let held = || {
            let held = old.iter().enumerate().filter_map(|(number, old)| Some((number, old.held()?)));
            held.collect::<Vec<_>>()
        };
        // A worker may be in the middle of something.
        let mut patience = 1000;
        while !held().is_empty() {
            assert!(patience > 0, "held while streams flow: {:?}", held());
            patience -= 1;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(live.held(), Some("the snapshot"), "what is live is seen to be held");
        for flow in &mut flowing {
            flow.flows().await;
        }
    });
}

#[test]
fn memory_does_not_grow_with_the_number_of_lists_that_were_loaded_under_a_stream() {
    let toy = endless();
    let site = toy.site().replace("hosts", "client_ca = [\"acme\"]\nhosts");
    let house = House::new(&format!("{}{site}", BASE.replace("body = \"2s\"", "body = \"60s\"")));
    let gateway = house.start();
    run(async {
        let caller = gateway.visitor([1, 1]).with("good");
        let mut socket = Socket::open(caller.tls().await.expect("a connection")).await;
        let mut before = 0;
        for number in 0..RELOADS {
            let revoked: Vec<u64> = (1000 * number..1000 * number + REVOKED).collect();
            tokio::task::block_in_place(|| {
                house.pki.write_crl(number + 2, &revoked).expect("a CRL");
                house.told(&["reload"]);
            });
            if number == RELOADS / 2 {
                before = gateway.memory().0;
            }
        }
        let grown = gateway.memory().0.saturating_sub(before);
        assert!(grown < GROWTH, "{grown} bytes over {} reloads", RELOADS / 2);
        socket.echo("still here").await.expect("an echo");
    });
}

/// Streams of every form that lasts, begun under one generation.
struct Flow {
    download: Incoming,
    upload: UnboundedSender<Chunk>,
    socket: Socket<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>,
    h1: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
}

impl Flow {
    async fn begin(caller: &Caller) -> Self {
        let mut sender = h2(caller).await;
        let download = sender.send_request(h2_request("GET", "/").body(full("")).expect("a request")).await.expect("an answer");
        let (upload, body) = uploading();
        // Its answer never comes.
        let asked = sender.send_request(h2_request("POST", "/upload").body(body).expect("a request"));
        tokio::spawn(async move { asked.await.map(|_| sender) });
        let mut h1 = caller.shake().await.expect("a handshake");
        h1.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\n\r\n").await.expect("a reader");
        let socket = Socket::open(caller.shake().await.expect("a handshake")).await;
        let mut flow = Self { download: download.into_body(), upload, socket, h1 };
        flow.flows().await;
        flow
    }

    async fn flows(&mut self) {
        assert!(self.download.frame().await.expect("a frame").is_ok());
        self.upload.send(Ok(Frame::data(Bytes::from_static(b"more")))).expect("an upload");
        self.socket.echo("still here").await.expect("an echo");
        until(&mut self.h1, "chunk").await;
    }
}

impl Generation {
    /// What of it is still held, if anything is.
    fn held(&self) -> Option<&'static str> {
        let alive = [
            (self.snapshot.strong_count(), "the snapshot"),
            (self.tls.strong_count(), "the TLS state, with its lists"),
            (self.server.strong_count(), "the server config, with its verifier"),
            (self.config.strong_count(), "the config"),
        ];
        alive.into_iter().find(|(count, _)| *count > 0).map(|(_, what)| what)
    }
}

/// The one that went live last.
async fn generation(stage: &mut Stage) -> Generation {
    let snapshot = stage.snapshots.recv().await.expect("the gateway lives");
    let live = snapshot.upgrade().expect("it is live");
    Generation {
        tls: std::sync::Arc::downgrade(&live.tls),
        server: std::sync::Arc::downgrade(&live.tls.server(Some("localhost")).expect("a site").config),
        config: std::sync::Arc::downgrade(&live.config),
        snapshot,
    }
}

/// An application whose answers never end, whose sockets echo, and that takes uploads without a word.
fn endless() -> Toy {
    Toy::start(|mut stream, _| async move {
        let Some(head) = crate::support::underway::head(&mut stream).await else { return };
        let (mut read, mut write) = stream.split();
        if head.starts_with("POST") {
            let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        } else if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = write.write_all(answer).await;
            let mut frame = [0; 128];
            while let Ok(length @ 7..) = read.read(&mut frame).await {
                let text = &frame[6..length];
                let _ = write.write_all(&[&[0x81, u8::try_from(text.len()).expect("short")], text].concat()).await;
            }
        } else {
            let _ = write.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while write.write_all(b"5\r\nchunk\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    })
}
