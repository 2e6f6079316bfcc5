//! Promise: a PROXY header is demanded of listed sources and of nobody else, and whom it names is the client everywhere.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::support::caller::{Caller, Channel, seen, until_closed};
use crate::support::{Answer, BASE, OPEN_SITE, Stage, browser, doorward, event, open, rewrite, run, told};

/// A balancer's address; its net is listed.
const BALANCER: [u8; 2] = [7, 1];
const V1: &str = "PROXY TCP4 203.0.113.7 10.0.0.1 52953 443\r\n";

fn balanced() -> Stage {
    open(&config())
}

fn config() -> String {
    let listed = BASE.replace("[deadlines]", "proxy_protocol = [\"127.0.7.0/24\"]\n[deadlines]\nproxy_header = \"1s\"");
    format!("{listed}[bans]\nanswer = \"explain\"\n[caps]\nconnections_per_client = 2\n{OPEN_SITE}")
}

#[test]
fn the_client_is_whom_a_listed_source_names_in_either_version_however_the_bytes_arrive() {
    let mut stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        for (header, client) in [
            (V1.as_bytes().to_vec(), "203.0.113.7"),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 52953 443\r\n".to_vec(), "2001:db8::7"),
            (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 52953 443\r\n".to_vec(), "203.0.113.7"),
            (v2(0x21, [203, 0, 113, 8], b""), "203.0.113.8"),
            // A type-length-value of a balancer's own.
            (v2(0x21, [203, 0, 113, 9], b"\x04\x00\x03abc"), "203.0.113.9"),
        ] {
            for split in [Split::Whole, Split::Bytes, Split::WithTheHello] {
                let answer = introduced(&balancer, &header, split).await;
                assert_eq!(answer.told(), "200", "{client} {split:?}");
                assert_eq!(seen(&answer, "x-forwarded-for"), [client], "{split:?}");
                let record = event(&mut stage, &[r#""event":"request""#]).await;
                assert!(record.contains(&format!(r#""client":"{client}","peer":"127.0.7.1""#)), "{record}");
            }
        }
    });
}

#[test]
fn a_trusted_proxy_behind_a_balancer_is_believed_by_the_address_that_the_header_names() {
    let stage = open(&config().replace("proxy_protocol", "trusted_proxies = [\"203.0.113.0/30\"]\nproxy_protocol"));
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        let echo = || browser("GET", "/echo").header("x-forwarded-for", "6.6.6.6, 198.51.100.1");
        let mut trusted = channel(&balancer, &v2(0x21, [203, 0, 113, 2], b""), Split::Whole).await.expect("a handshake");
        let answer = trusted.send(echo(), "").await.expect("an answer");
        assert_eq!(seen(&answer, "x-forwarded-for"), ["198.51.100.1, 203.0.113.2"]);
        let mut other = channel(&balancer, &v2(0x21, [203, 0, 113, 7], b""), Split::Whole).await.expect("a handshake");
        let answer = other.send(echo(), "").await.expect("an answer");
        assert_eq!(seen(&answer, "x-forwarded-for"), ["203.0.113.7"], "the balancer's word makes nobody a trusted proxy");
    });
}

#[test]
fn a_source_that_speaks_for_itself_is_its_own_client() {
    let stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, [203, 0, 113, 8], b"")] {
            let answer = introduced(&balancer, &header, Split::Whole).await;
            assert_eq!(seen(&answer, "x-forwarded-for"), ["127.0.7.1"]);
        }
    });
}

#[test]
fn trap_a_listed_source_must_send_the_header_and_is_never_sniffed() {
    let mut stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        assert!(balancer.shake().await.is_err());
        let line = event(&mut stage, &[r#""event":"connection.refused""#, r#""cause":"proxy-header-missing""#]).await;
        assert!(line.contains(r#""peer":"127.0.7.1""#), "{line}");
        let mut plain = balancer.tcp_to(stage.http()).await.expect("a listener");
        plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a reader");
        assert_eq!(until_closed(&mut plain).await, b"", "on the plain port too");
        event(&mut stage, &[r#""cause":"proxy-header-missing""#]).await;
        let mut plain = balancer.tcp_to(stage.http()).await.expect("a listener");
        plain.write_all(format!("{V1}GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.expect("a reader");
        assert!(until_closed(&mut plain).await.starts_with(b"HTTP/1.1 403 "));
        let record = event(&mut stage, &[r#""event":"request""#]).await;
        assert!(record.contains(r#""client":"203.0.113.7""#), "{record}");
    });
}

#[test]
fn trap_a_source_that_is_not_listed_may_not_send_one() {
    let mut stage = balanced();
    run(async {
        let stranger = Caller::new(&stage, [2, 1]);
        for header in [V1.as_bytes().to_vec(), v2(0x21, [203, 0, 113, 8], b"")] {
            let mut stream = stranger.tcp().await;
            stream.write_all(&header).await.expect("a reader");
            let outcome = stranger.shake_over(stream, &Arc::new(stranger.config())).await;
            assert!(outcome.is_err());
            let line = event(&mut stage, &[r#""event":"handshake.failed""#]).await;
            assert!(line.contains(r#""client":"127.0.2.1""#), "its own address: {line}");
        }
        assert_eq!(stranger.get("/").await.told(), "200");
        assert_eq!(stage.portal.seen.requests.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_header_that_is_not_whole_and_well_formed_ends_the_connection() {
    let mut stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        let mut long = v2(0x21, [203, 0, 113, 8], b"");
        long[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
        for bad in [
            b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 99999\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 443\n\n".to_vec(),
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(),
            [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
            v2(0x31, [203, 0, 113, 8], b""),
            v2(0x2f, [203, 0, 113, 8], b""),
            long,
        ] {
            let mut stream = balancer.tcp().await;
            stream.write_all(&bad).await.expect("a reader");
            stream.shutdown().await.expect("an open socket");
            assert_eq!(until_closed(&mut stream).await, b"", "{bad:?}");
            event(&mut stage, &[r#""event":"connection.refused""#, r#""cause":"proxy-header-malformed""#]).await;
        }
        let mut half = balancer.tcp().await;
        half.write_all(&V1.as_bytes()[..20]).await.expect("a reader");
        drop(half);
        event(&mut stage, &[r#""cause":"proxy-header-malformed""#]).await;
    });
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection_in_spite_of_every_sign_of_life() {
    let mut stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        let silent = async { assert_eq!(until_closed(&mut balancer.tcp().await).await, b"") };
        let slow = async {
            let mut slow = balancer.tcp().await;
            for byte in V1.as_bytes() {
                if slow.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("the whole header was taken");
        };
        tokio::join!(silent, slow);
        for _ in 0..2 {
            event(&mut stage, &[r#""cause":"proxy-header-timeout""#]).await;
        }
    });
}

#[test]
fn bans_and_caps_hold_whom_the_header_names_and_never_the_balancer() {
    let mut stage = balanced();
    run(async {
        let balancer = Caller::new(&stage, BALANCER);
        let header = |last: u8| v2(0x21, [203, 0, 113, last], b"");
        told(&stage, &["bans", "add", "203.0.113.7", "--for", "2h", "--reason", "abuse"]);
        assert_eq!(introduced(&balancer, V1.as_bytes(), Split::Whole).await.told(), "403 banned");
        assert_eq!(introduced(&balancer, &header(8), Split::Whole).await.told(), "200");
        let refused = doorward(&stage, &["bans", "add", "127.0.7.1", "--reason", "abuse"]);
        let after = introduced(&balancer, &header(8), Split::Whole).await.told();
        assert_eq!(after, "200", "{}", String::from_utf8_lossy(&refused.stderr));

        // Two connections a client, however many its balancer has.
        let mut held = Vec::new();
        for last in [10, 10, 11, 11, 12] {
            held.push(channel(&balancer, &header(last), Split::Whole).await.expect("a place"));
        }
        for open in &mut held {
            assert_eq!(open.get("/").await.told(), "200");
        }
        assert!(channel(&balancer, &header(10), Split::Whole).await.is_err());
        event(&mut stage, &[r#""cause":"too-many-from-client""#, r#""client":"203.0.113.10""#]).await;
        assert!(channel(&balancer, &header(13), Split::Whole).await.is_ok());

        assert!(rewrite(&stage, |text| text.replace("\"explain\"", "\"drop\"")).status.success());
        assert!(channel(&balancer, V1.as_bytes(), Split::Whole).await.is_err());
        let line = event(&mut stage, &[r#""cause":"banned""#]).await;
        assert!(line.contains(r#""client":"203.0.113.7""#) && line.contains(r#""peer":"127.0.7.1""#), "{line}");
        assert_eq!(introduced(&balancer, &header(8), Split::Whole).await.told(), "200");
    });
}

/// How the header's bytes reach the gateway.
#[derive(Clone, Copy, Debug)]
enum Split {
    Whole,
    Bytes,
    WithTheHello,
}

/// `GET /echo` for the client of the header.
async fn introduced(balancer: &Caller, header: &[u8], split: Split) -> Answer {
    let mut channel = channel(balancer, header, split).await.expect("a handshake");
    channel.send(browser("GET", "/echo").header("connection", "close"), "").await.expect("an answer")
}

async fn channel(balancer: &Caller, header: &[u8], split: Split) -> io::Result<Channel> {
    let mut stream = balancer.tcp().await;
    let mut first = Vec::new();
    match split {
        Split::Whole => stream.write_all(header).await?,
        Split::Bytes => {
            stream.set_nodelay(true)?;
            for byte in header {
                stream.write_all(&[*byte]).await?;
                tokio::task::yield_now().await;
            }
        }
        Split::WithTheHello => first = header.to_vec(),
    }
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(balancer.config()));
    let stream = connector.connect(name, Prefixed { stream, first }).await?;
    Ok(Channel::over_h1(stream, "localhost".to_owned()).await)
}

/// Sends something in one segment with the first bytes that are written.
struct Prefixed {
    stream: TcpStream,
    first: Vec<u8>,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        let all = [&self.first, bytes].concat();
        let written = Pin::new(&mut self.stream).poll_write(cx, &all);
        if let Poll::Ready(Ok(length)) = written {
            assert_eq!(length, all.len(), "an empty socket takes a hello");
            self.first.clear();
            return Poll::Ready(Ok(bytes.len()));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Version 2 over TCP and IPv4, with extensions.
fn v2(command: u8, source: [u8; 4], extensions: &[u8]) -> Vec<u8> {
    let length = (12 + extensions.len() as u16).to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[command, 0x11], &length, &source, &[10, 0, 0, 1], &52953_u16.to_be_bytes(), &[1, 187], extensions].concat()
}
