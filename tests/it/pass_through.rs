//! What passes, passes as it is: WebSocket frames, gRPC streams and trailers, server-sent events, ranges, validators, encodings.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as WsFrame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::support::upstream::{Toy, ToyBody, full, h2_line, h2_request, hear, site_of};
use crate::support::{BASE, OPEN_SITE, Stage, Visitor, browser, open, read_all, run};

const PATIENCE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

/// An application that answers an upgrade and tells each frame that it reads, raw; what is sent to it is written, raw.
struct WsToy {
    toy: Toy,
    read: mpsc::UnboundedReceiver<u8>,
    write: mpsc::UnboundedSender<Vec<u8>>,
}

fn ws_toy() -> WsToy {
    let (tell, read) = mpsc::unbounded_channel();
    let (write, orders) = mpsc::unbounded_channel::<Vec<u8>>();
    let orders = Arc::new(tokio::sync::Mutex::new(orders));
    let toy = Toy::start(move |mut stream, _| {
        let (tell, orders) = (tell.clone(), Arc::clone(&orders));
        async move {
            let mut ahead = Vec::new();
            let heard = hear(&mut stream, &mut ahead).await.unwrap();
            assert_eq!(heard.value("sec-websocket-protocol"), "chat, superchat");
            assert_eq!(heard.value("sec-websocket-extensions"), "permessage-deflate");
            assert_eq!(heard.value("sec-websocket-version"), "13");
            let key = tokio_tungstenite::tungstenite::handshake::derive_accept_key(heard.value("sec-websocket-key").as_bytes());
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {key}\r\n\
                 Sec-WebSocket-Protocol: chat\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut orders = orders.lock().await;
            let mut chunk = vec![0; 64 * 1024];
            loop {
                tokio::select! {
                    read = stream.read(&mut chunk) => match read {
                        Ok(read @ 1..) => chunk[..read].iter().for_each(|byte| { let _ = tell.send(*byte); }),
                        _ => return,
                    },
                    order = orders.recv() => match order {
                        Some(bytes) => stream.write_all(&bytes).await.unwrap(),
                        None => return,
                    },
                }
            }
        }
    });
    WsToy { toy, read, write }
}

/// The bytes of an upgrade's answer are checked, then the stream is raw.
async fn upgraded(stage: &Stage) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = Visitor::new(stage, [1, 1]).tls().await.unwrap();
    let ask =
        b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert!(head.contains("sec-websocket-protocol: chat\r\n"), "{head}");
    stream
}

#[test]
fn websocket_frames_pass_byte_for_byte_whatever_they_are() {
    let mut ws = ws_toy();
    let stage = open(&format!("{BASE}{}", ws.toy.site()));
    run(async {
        let mut client = upgraded(&stage).await;
        let mask = [1, 2, 3, 4];
        let frame = |first: u8, body: &[u8], masked: bool| {
            let mut out = vec![first];
            let bit = if masked { 0x80 } else { 0 };
            match body.len() {
                length @ 0..=125 => out.push(bit | length as u8),
                length @ 126..=0xffff => out.extend([&[bit | 126][..], &(length as u16).to_be_bytes()].concat()),
                length => out.extend([&[bit | 127][..], &(length as u64).to_be_bytes()].concat()),
            }
            if masked {
                out.extend(mask);
                out.extend(body.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
            } else {
                out.extend(body);
            }
            out
        };
        let big = vec![7; 3 << 20];
        let frames: Vec<(&str, u8, &[u8])> = vec![
            ("a text in one frame", 0x81, b"hello"),
            ("an empty text", 0x81, b""),
            ("a fragment", 0x01, "hal".as_bytes()),
            ("a ping between fragments", 0x89, b"are you there"),
            ("the rest of a character that was split", 0x80, &[0xc3, 0xa9][1..]),
            ("text that is no UTF-8: the application's matter", 0x81, &[0xff, 0xfe]),
            ("a compressed frame", 0xc1, b"\xf2\x48\xcd\xc9\xc9\x07\x00"),
            ("a reserved opcode", 0x83, b"?"),
            ("a reserved bit", 0xa2, b"?"),
            ("a pong that nobody asked for", 0x8a, b""),
            ("a large frame", 0x82, &big),
            ("a close with a code of its own", 0x88, b"\x0f\xa7bye for now"),
        ];
        for (name, first, body) in frames {
            let up = frame(first, body, true);
            client.write_all(&up).await.unwrap();
            client.flush().await.unwrap();
            for (at, expected) in up.iter().enumerate() {
                let got = tokio::time::timeout(PATIENCE, ws.read.recv()).await.expect("no hang").unwrap();
                assert_eq!(got, *expected, "{name}: byte {at} upwards");
            }
            let down = frame(first, body, false);
            ws.write.send(down.clone()).unwrap();
            let mut got = vec![0; down.len()];
            tokio::time::timeout(PATIENCE, client.read_exact(&mut got)).await.expect("no hang").unwrap();
            assert!(got == down, "{name}: downwards");
        }
    });
}

#[test]
fn a_websocket_keeps_order_close_codes_and_ends_for_both() {
    let stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        // Many small messages, written while others come back, in both fragmentations.
        let (mut sink, mut source) = socket(&stage).await.split();
        let sender = tokio::spawn(async move {
            for at in 0..5000 {
                sink.feed(Message::text(format!("message {at}"))).await.unwrap();
            }
            sink.flush().await.unwrap();
            sink
        });
        for at in 0..5000 {
            let message = tokio::time::timeout(PATIENCE, source.next()).await.expect("no hang").unwrap().unwrap();
            assert_eq!(message.to_text().unwrap(), format!("message {at}"));
        }
        let mut socket = sender.await.unwrap().reunite(source).unwrap();
        for (first, last) in [("hel", "lo"), ("", "all at the end"), ("żó", "łć")] {
            let start = WsFrame::message(first.to_owned(), OpCode::Data(Data::Text), false);
            let rest = WsFrame::message(last.to_owned(), OpCode::Data(Data::Continue), true);
            socket.send(Message::Frame(start)).await.unwrap();
            socket.send(Message::Ping(Bytes::from_static(b"between"))).await.unwrap();
            socket.send(Message::Frame(rest)).await.unwrap();
            let mut whole = None;
            let mut pong = false;
            while whole.is_none() || !pong {
                match tokio::time::timeout(PATIENCE, socket.next()).await.expect("no hang").unwrap().unwrap() {
                    Message::Pong(body) => pong = body == "between",
                    message => whole = Some(message.into_text().unwrap().to_string()),
                }
            }
            assert_eq!(whole.unwrap(), format!("{first}{last}"));
        }
        let large = Message::binary(vec![42; 12 << 20]);
        socket.send(large.clone()).await.unwrap();
        let back = tokio::time::timeout(PATIENCE, socket.next()).await.expect("no hang").unwrap().unwrap();
        assert!(back == large, "12 MiB come back whole");

        for code in [1000, 1001, 1008, 1011, 3000, 4999] {
            let mut socket = self::socket(&stage).await;
            let close = CloseFrame { code: CloseCode::from(code), reason: "enough".into() };
            socket.send(Message::Close(Some(close.clone()))).await.unwrap();
            let answer = tokio::time::timeout(PATIENCE, socket.next()).await.expect("no hang").unwrap().unwrap();
            assert_eq!(answer, Message::Close(Some(close)));
            let end = tokio::time::timeout(PATIENCE, socket.next()).await.expect("no hang");
            assert!(matches!(end, None | Some(Err(WsError::ConnectionClosed))), "{code}: {end:?}");
        }
    });
}

#[test]
fn a_client_that_speaks_the_moment_it_is_answered_is_never_taken_for_one_that_spoke_early() {
    let stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        for round in 0..40 {
            let eager = (0..8u8).map(|at| {
                let stage = &stage;
                async move {
                    let mut socket = socket_from(stage, [10 + at, round]).await;
                    socket.send(Message::text(format!("{at}"))).await.unwrap();
                    let back = tokio::time::timeout(PATIENCE, socket.next()).await.expect("no hang");
                    assert_eq!(back.expect("cut off").unwrap(), Message::text(format!("{at}")));
                }
            });
            futures_util::future::join_all(eager).await;
        }
    });
}

async fn socket(stage: &Stage) -> Socket {
    socket_from(stage, [1, 1]).await
}

async fn socket_from(stage: &Stage, from: [u8; 2]) -> Socket {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let stream = Visitor::new(stage, from).tls().await.unwrap();
    let mut request = "wss://localhost/ws".into_client_request().unwrap();
    request.headers_mut().insert("user-agent", "Mozilla/5.0".parse().unwrap());
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let stream = socket.into_inner();
    let config = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
    WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await
}

/// What a gRPC-like application noticed.
#[derive(Default)]
struct Noticed {
    cancelled: AtomicUsize,
    metadata: Mutex<Vec<HeaderMap>>,
}

/// Tells when the exchange that it belongs to is dropped.
struct Drops(Arc<Noticed>);

impl Drop for Drops {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

/// `/echo` answers each message as it comes, with trailers at the end; `/fail` has only a head; `/hang` never ends.
fn grpc(noticed: &Arc<Noticed>) -> Toy {
    let noticed = Arc::clone(noticed);
    Toy::hyper(true, None, move |request: Request<Incoming>| {
        let noticed = Arc::clone(&noticed);
        async move {
            let (head, mut body) = request.into_parts();
            noticed.metadata.lock().unwrap().push(head.headers.clone());
            let (send, frames) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
            let mut response = Response::new(ToyBody::new(StreamBody::new(stream::unfold(frames, |mut frames| async move {
                frames.recv().await.map(|frame| (frame, frames))
            }))));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
            response.headers_mut().insert("initial-bin", HeaderValue::from_static("AAECA//+"));
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("grpc-message", HeaderValue::from_static("%E2%9C%93 done"));
            trailers.append("detail-bin", HeaderValue::from_static("CAUSAQ"));
            trailers.append("detail-bin", HeaderValue::from_static("CAUSAg"));
            match head.uri.path() {
                "/fail" => {
                    response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
                    return response.map(|_| ToyBody::new(http_body_util::Empty::new()));
                }
                "/hang" => {
                    let drops = Drops(noticed);
                    tokio::spawn(async move {
                        let _drops = drops;
                        let _ = send.send(Ok(Frame::data(Bytes::from_static(b"begun")))).await;
                        send.closed().await;
                    });
                }
                _ => {
                    tokio::spawn(async move {
                        while let Some(Ok(frame)) = body.frame().await {
                            let Ok(data) = frame.into_data() else { continue };
                            if send.send(Ok(Frame::data(data))).await.is_err() {
                                return;
                            }
                        }
                        let _ = send.send(Ok(Frame::trailers(trailers))).await;
                    });
                }
            }
            response
        }
    })
}

fn grpc_request(path: &str) -> http::request::Builder {
    h2_request("POST", path)
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
}

/// A body that is fed from outside.
fn fed() -> (mpsc::Sender<Bytes>, ToyBody) {
    let (feed, frames) = mpsc::channel::<Bytes>(1);
    let frames =
        stream::unfold(frames, |mut frames| async move { frames.recv().await.map(|data| (Ok(Frame::data(data)), frames)) });
    (feed, ToyBody::new(StreamBody::new(frames)))
}

#[test]
fn grpc_streams_both_ways_at_once_with_metadata_and_trailers_untouched() {
    let noticed = Arc::new(Noticed::default());
    let toy = grpc(&noticed);
    let stage = open(&format!("{BASE}{}", site_of(&[format!("h2c://{}", toy.address)], "", "")));
    run(async {
        let mut line = h2_line(&stage, [1, 1]).await;
        let (feed, body) = fed();
        let request = grpc_request("/echo")
            .header("auth-bin", "AAECAwQFBgcICQoLDA0ODw==")
            .header("many-bin", "AQ,Ag")
            .header("many-bin", "Aw")
            .header("grpc-accept-encoding", "identity,gzip")
            .body(body)
            .unwrap();
        // The head of the answer comes before the request has ended, and each message before the next is sent.
        let response = tokio::time::timeout(PATIENCE, line.send_request(request)).await.expect("no hang").unwrap();
        assert_eq!(response.headers()["initial-bin"], "AAECA//+");
        assert_eq!(response.headers()["content-type"], "application/grpc+proto");
        let mut answers = response.into_body();
        for at in 0..50u8 {
            let message = Bytes::from(vec![at; 100]);
            feed.send(message.clone()).await.unwrap();
            let frame = tokio::time::timeout(PATIENCE, answers.frame()).await.expect("no hang").unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), message);
        }
        drop(feed);
        let frame = tokio::time::timeout(PATIENCE, answers.frame()).await.expect("no hang").unwrap().unwrap();
        let trailers = frame.into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"0".parse().unwrap(), &"%E2%9C%93 done".parse().unwrap())
        );
        assert_eq!(trailers.get_all("detail-bin").iter().collect::<Vec<_>>(), ["CAUSAQ", "CAUSAg"]);

        let failed = line.send_request(grpc_request("/fail").body(full("")).unwrap()).await.unwrap();
        assert_eq!((failed.status(), &failed.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("5")));
        assert!(failed.into_body().collect().await.unwrap().to_bytes().is_empty());
    });
    let metadata = noticed.metadata.lock().unwrap();
    let seen = &metadata[0];
    assert_eq!(seen["auth-bin"], "AAECAwQFBgcICQoLDA0ODw==");
    assert_eq!(seen.get_all("many-bin").iter().collect::<Vec<_>>(), ["AQ,Ag", "Aw"]);
    assert_eq!(
        (&seen["te"], &seen["grpc-timeout"], &seen["grpc-accept-encoding"]),
        (&"trailers".parse().unwrap(), &"5S".parse().unwrap(), &"identity,gzip".parse().unwrap())
    );
}

#[test]
fn a_grpc_call_that_is_cancelled_is_cancelled_at_the_application() {
    let noticed = Arc::new(Noticed::default());
    let toy = grpc(&noticed);
    let stage = open(&format!("{BASE}{}", site_of(&[format!("h2c://{}", toy.address)], "", "")));
    run(async {
        let mut line = h2_line(&stage, [1, 1]).await;
        for count in 1..=10 {
            let response = line.send_request(grpc_request("/hang").body(full("")).unwrap()).await.unwrap();
            let mut body = response.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "begun");
            drop(body);
            let told = async {
                while noticed.cancelled.load(Ordering::SeqCst) < count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, told).await.expect("the application hears of it");
        }
        // Its neighbours on both connections live on.
        let answer = line.send_request(grpc_request("/echo").body(full("alive")).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "alive");
    });
}

#[test]
fn messages_of_32_mib_pass_both_ways_over_http2() {
    let noticed = Arc::new(Noticed::default());
    let toy = grpc(&noticed);
    let stage = open(&format!("{BASE}{}", site_of(&[format!("h2c://{}", toy.address)], "", "")));
    run(async {
        let mut line = h2_line(&stage, [1, 1]).await;
        let message: Bytes = (0..32u32 << 20).map(|at| (at % 251) as u8).collect();
        let response = line.send_request(grpc_request("/echo").body(full(message.clone())).unwrap()).await.unwrap();
        let whole = tokio::time::timeout(PATIENCE * 4, response.into_body().collect()).await.expect("no hang").unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert!(whole.to_bytes() == message, "32 MiB come back whole");
    });
}

#[test]
fn server_sent_events_arrive_while_the_stream_stays_open() {
    let (write, orders) = mpsc::unbounded_channel::<&'static str>();
    let orders = Arc::new(tokio::sync::Mutex::new(orders));
    let toy = Toy::start(move |mut stream, _| {
        let orders = Arc::clone(&orders);
        async move {
            hear(&mut stream, &mut Vec::new()).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut orders = orders.lock().await;
            while let Some(event) = orders.recv().await {
                if event.is_empty() {
                    let _ = stream.write_all(b"0\r\n\r\n").await;
                    return;
                }
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
            }
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        const EVENTS: [&str; 3] = ["data: first\n\n", "id: 2\ndata: second\n\n", ": keep-alive\n\n"];
        for h2 in [false, true] {
            if h2 {
                let mut line = h2_line(&stage, [1, 2]).await;
                // The head alone comes before any event.
                let request = h2_request("GET", "/events").header("accept", "text/event-stream").body(full("")).unwrap();
                let response = tokio::time::timeout(PATIENCE, line.send_request(request)).await.expect("no hang").unwrap();
                assert_eq!(response.headers()["content-type"], "text/event-stream");
                let mut body = response.into_body();
                for event in EVENTS {
                    write.send(event).unwrap();
                    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("without delay").unwrap().unwrap();
                    assert_eq!(frame.into_data().unwrap(), event);
                }
                write.send("").unwrap();
                let rest = tokio::time::timeout(PATIENCE, body.collect()).await.expect("no hang").unwrap();
                assert!(rest.to_bytes().is_empty());
            } else {
                let mut client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
                let ask =
                    b"GET /events HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/event-stream\r\n\r\n";
                client.write_all(ask).await.unwrap();
                until(&mut client, "\r\n\r\n").await;
                for event in EVENTS {
                    write.send(event).unwrap();
                    until(&mut client, event).await;
                }
                write.send("").unwrap();
                until(&mut client, "0\r\n\r\n").await;
            }
        }
    });
}

/// Reads until the text ends with this.
async fn until(client: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains(end) {
            seen.push(client.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("never came: {end:?}"));
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn ranges_validators_and_encodings_are_the_applications_alone() {
    // name, what is asked with, the answer's head and body, what must reach the client as it is
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static [u8]);
    const ROWS: &[Row] = &[
        (
            "a range",
            &[("range", "bytes=2-4"), ("if-range", "\"v1\"")],
            "206 Partial Content\r\nContent-Range: bytes 2-4/10\r\nAccept-Ranges: bytes\r\nETag: \"v1\"\r\nContent-Length: 3",
            b"cde",
        ),
        (
            "several ranges",
            &[("range", "bytes=0-0,-1")],
            "206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=THIS\r\nContent-Length: 21",
            b"--THIS\r\n\r\na\r\n--THIS--",
        ),
        (
            "no such range",
            &[("range", "bytes=99-")],
            "416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0",
            b"",
        ),
        (
            "not modified",
            &[("if-none-match", "W/\"v1\", \"v2\""), ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
            "304 Not Modified\r\nETag: W/\"v1\"\r\nLast-Modified: Sat, 29 Oct 1994 19:43:31 GMT\r\nVary: Accept-Encoding\r\nCache-Control: max-age=60",
            b"",
        ),
        ("a precondition", &[("if-match", "\"old\"")], "412 Precondition Failed\r\nETag: \"new\"\r\nContent-Length: 0", b""),
        (
            "gzip as it is",
            &[("accept-encoding", "gzip, br;q=0.5, *;q=0")],
            "200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nETag: \"v1-gzip\"\r\nContent-Length: 4",
            b"\x1f\x8b\x08\x00",
        ),
        (
            "an encoding that nobody knows",
            &[("accept-encoding", "zstd")],
            "200 OK\r\nContent-Encoding: x-mine\r\nContent-Length: 2",
            b"\x00\xff",
        ),
        (
            "cookies of several lines",
            &[("cookie", "a=1; b=\"2\"")],
            "200 OK\r\nSet-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=2; SameSite=Lax\r\nContent-Length: 2",
            b"ok",
        ),
        ("a far status", &[], "299 Odd\r\nX-Odd: a, b , c\r\nContent-Length: 2", b"ok"),
        (
            "a redirect elsewhere",
            &[],
            "307 Temporary Redirect\r\nLocation: https://elsewhere.example/a?b=c%2F#d\r\nContent-Length: 0",
            b"",
        ),
        (
            "a digest and a link",
            &[],
            "200 OK\r\nContent-Digest: sha-256=:abc=:\r\nLink: </a>; rel=preload\r\nContent-Length: 2",
            b"ok",
        ),
        (
            "a date of its own",
            &[],
            "200 OK\r\nDate: Sat, 29 Oct 1994 19:43:31 GMT\r\nServer: app/1.0\r\nContent-Length: 2",
            b"ok",
        ),
    ];
    let (toy, journal) = Toy::answering(|heard| {
        let at: usize = heard.head.split(' ').nth(1).unwrap()[1..].parse().unwrap();
        let (_, _, head, body) = ROWS[at];
        [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        for (at, (name, asked, head, body)) in ROWS.iter().enumerate() {
            let mut request = browser("GET", &format!("/{at}"));
            for (key, value) in *asked {
                request = request.header(*key, *value);
            }
            let answer = Visitor::new(&stage, [1, 1]).send(request, "").await.unwrap();
            let mut lines = head.split("\r\n");
            assert!(lines.next().unwrap().starts_with(answer.status.as_str()), "{name}");
            assert_eq!(&answer.body[..], *body, "{name}");
            for line in lines {
                let (key, value) = line.split_once(": ").unwrap();
                assert!(
                    answer.headers.get_all(key).iter().any(|seen| seen == value),
                    "{name}: {line} became {:?}",
                    answer.headers.get_all(key)
                );
            }
            if !head.contains("Content-Encoding") {
                assert!(!answer.headers.contains_key("content-encoding"), "{name}");
            }
            let heard = journal.all().pop().unwrap();
            for (key, value) in *asked {
                assert_eq!(heard.values(key), [*value], "{name}: {key} upwards");
            }
        }
    });
}

#[test]
fn head_has_the_length_and_no_body_and_expect_is_answered_once() {
    let (toy, journal) = Toy::answering(|heard| {
        if heard.head.starts_with("HEAD") {
            b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"v1\"\r\nContent-Encoding: br\r\n\r\n".to_vec()
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", heard.body.len())
                .into_bytes()
                .into_iter()
                .chain(heard.body.clone())
                .collect()
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let head =
            Visitor::new(&stage, [1, 1]).raw(b"HEAD /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(
            head.contains("content-length: 12345") && head.contains("etag: \"v1\"") && head.contains("content-encoding: br"),
            "{head}"
        );
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let mut h2 = h2_line(&stage, [1, 2]).await;
        let response = h2.send_request(h2_request("HEAD", "/a").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-length"], "12345");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());

        let mut client = Visitor::new(&stage, [1, 3]).tls().await.unwrap();
        let ask =
            b"POST /upload HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
        client.write_all(ask).await.unwrap();
        let interim = until(&mut client, "\r\n\r\n").await;
        assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
        client.write_all(b"hello").await.unwrap();
        let answer = String::from_utf8(read_all(&mut client).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello"), "{answer}");
        assert!(!answer.contains(" 100 "), "once: {answer}");

        // What a body is not waited for needs no 100, and an expectation that nobody knows is no reason to hang.
        let odd =
            b"POST /odd HTTP/1.1\r\nHost: localhost\r\nExpect: a-miracle\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let answer = String::from_utf8(Visitor::new(&stage, [1, 4]).raw(odd).await.unwrap()).unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["200", "417"].contains(&status), "{answer}");
    });
    assert!(journal.all().iter().any(|heard| heard.body == b"hello"));
}

#[test]
fn interim_answers_never_mix_with_the_real_one() {
    let (toy, _) = Toy::answering(|_| {
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nSet-Cookie: early=1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            .to_vec()
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let answer =
            Visitor::new(&stage, [1, 1]).raw(b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let last = answer.rsplit("HTTP/1.1 ").next().unwrap();
        assert!(last.starts_with("200") && last.ends_with("\r\n\r\nok"), "{answer}");
        assert!(!last.to_ascii_lowercase().contains("early=1"), "an early field is no field of the answer: {answer}");
        let mut h2 = h2_line(&stage, [1, 2]).await;
        let response = h2.send_request(h2_request("GET", "/a").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("set-cookie"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    });
}

#[test]
fn every_method_passes_with_its_body_and_none_is_changed() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "M-SEARCH", "purge"] {
            let request =
                browser(method, "/thing").header("x-empty", "").header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
            let answer = Visitor::new(&stage, [1, 1]).send(request, "body").await.unwrap();
            assert_eq!(answer.status, 200, "{method}");
            let heard = journal.all().pop().unwrap();
            assert!(heard.head.starts_with(&format!("{method} /thing HTTP/1.1\r\n")), "{}", heard.head);
            assert_eq!(heard.body, b"body", "{method}");
            assert_eq!(heard.values("x-empty"), [""]);
            assert!(heard.value("x-latin").starts_with("caf"), "{}", heard.head);
        }
    });
    assert!(Method::from_bytes(b"purge").is_ok());
}
