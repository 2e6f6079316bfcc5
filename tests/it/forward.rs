//! What is permitted reaches the application whole, once, and streamed; and what goes wrong there stays there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::upstream::{Backstage, Journal, OK, Toy, ToyBody, full, h2_line, h2_request, hear, site_of};
use crate::support::{BASE, OPEN_SITE, Visitor, browser, event, open, read_all, run, told};

/// More than all socket buffers between two loopback peers hold, and what is streamed.
const BUFFERS: usize = 40 << 20;
const STREAMED: usize = 60 << 20;
/// A peer that moves nothing for so long has stalled.
const STALLED: Duration = Duration::from_millis(400);

#[test]
fn http1_and_http2_come_in_and_the_portal_answers_both() {
    let stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        let h1 = Visitor::new(&stage, [1, 1]).send(browser("POST", "/echo?a=b%2F"), "hello").await.unwrap();
        let echoed: serde_json::Value = serde_json::from_slice(&h1.body).unwrap();
        assert_eq!((&echoed["method"], &echoed["target"]), (&"POST".into(), &"/echo?a=b%2F".into()));
        assert_eq!(echoed["body_bytes"], 5);

        let mut line = h2_line(&stage, [1, 2]).await;
        let answers = futures_util::future::join_all((0..20).map(|_| {
            let sent = line.send_request(h2_request("POST", "/echo?a=b%2F").body(full("hello")).unwrap());
            async move {
                let response = sent.await.unwrap();
                assert_eq!(response.status(), 200);
                assert_eq!(response.headers()["doorward-decision"].len(), 32);
                response.into_body().collect().await.unwrap().to_bytes()
            }
        }))
        .await;
        for answer in answers {
            let echoed: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!((&echoed["target"], &echoed["body_bytes"]), (&"/echo?a=b%2F".into(), &5.into()));
            let hosts: Vec<_> = echoed["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == "host").collect();
            assert_eq!(hosts.len(), 1, "HTTP/2's authority became the one Host");
            assert_eq!(hosts[0][1], "localhost");
        }
    });
}

#[test]
fn a_grpc_like_exchange_passes_to_h2c_with_the_answers_trailers_and_without_the_requests() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::<(HeaderMap, bool)>::new()));
    let noted = Arc::clone(&seen);
    let toy = Toy::hyper(true, None, move |request: Request<hyper::body::Incoming>| {
        let noted = Arc::clone(&noted);
        async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            let headers = request.headers().clone();
            let body = request.into_body().collect().await.unwrap();
            noted.lock().unwrap().push((headers, body.trailers().is_some()));
            let data = body.to_bytes();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers.insert("grpc-message", HeaderValue::from_static("fine"));
            let frames = [Ok(Frame::data(data)), Ok(Frame::trailers(trailers))];
            let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        }
    });
    let stage = open(&format!("{BASE}{}", site_of(&[format!("h2c://{}", toy.address)], "", "")));
    run(async {
        let mut line = h2_line(&stage, [1, 1]).await;
        let mut smuggled = HeaderMap::new();
        smuggled.insert("doorward-identity", HeaderValue::from_static("acme:admin"));
        let frames = [Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi"))), Ok(Frame::trailers(smuggled))];
        let body: ToyBody = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let request = h2_request("POST", "/pkg.Service/Call").header("te", "trailers").header("content-type", "application/grpc");
        let response = line.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let answer = response.into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(answer.trailers().unwrap()["grpc-message"], "fine");
        assert_eq!(&answer.to_bytes()[..], b"\0\0\0\0\x02hi");
        let seen = seen.lock().unwrap();
        let (headers, had_trailers) = &seen[0];
        assert_eq!(headers["te"], "trailers");
        assert!(!had_trailers, "request trailers end at the door");
        assert!(!headers.contains_key("doorward-identity"), "trailers are never merged");
    });
}

#[test]
fn trap_request_trailers_of_http1_are_dropped_and_response_trailers_pass() {
    let (toy, journal) = Toy::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-check\r\n\r\n2\r\nok\r\n0\r\nx-check: sum\r\n\r\n".to_vec()
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let request = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
            Trailer: doorward-identity\r\nConnection: close, te\r\n\r\n5\r\nhello\r\n0\r\ndoorward-identity: acme:admin\r\n\r\n";
        let answer = String::from_utf8(visitor.raw(request).await.unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("x-check: sum"), "{answer}");
        let heard = &journal.all()[0];
        assert_eq!(heard.body, b"hello");
        assert!(!heard.head.to_ascii_lowercase().contains("acme:admin"), "{}", heard.head);
        assert!(!heard.has("trailer"), "{}", heard.head);
    });
}

#[test]
fn trap_trailers_of_an_answer_carry_nothing_past_the_checks_and_break_no_stream() {
    let (toy, _) = Toy::answering(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nConnection: close\r\nTE: x\r\nKeep-Alive: x\r\n\
            Transfer-Encoding: chunked\r\nUpgrade: x\r\nProxy-Connection: x\r\nContent-Length: 9\r\nTrailer: x\r\n\
            Doorward-Decision: forged\r\nDoorward_Identity: acme\r\nSet-Cookie: a=b\r\n\
            Strict-Transport-Security: max-age=0\r\ngrpc-status: 0\r\nx-check: sum\r\n\r\n"
            .to_vec()
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let mut h2 = h2_line(&stage, [1, 1]).await;
        let answer = h2.send_request(h2_request("GET", "/x").body(full("")).unwrap()).await.unwrap();
        let whole = answer.into_body().collect().await.expect("no reset");
        let trailers = whole.trailers().unwrap().clone();
        assert_eq!(whole.to_bytes(), "ok");
        let mut names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["grpc-status", "x-check"]);
    });
}

#[test]
fn trap_an_answer_that_has_no_body_is_given_none_whatever_comes_of_an_http2_application() {
    let toy = Toy::hyper(true, None, |request: Request<hyper::body::Incoming>| {
        let status: u16 = request.uri().path().trim_start_matches('/').parse().unwrap();
        async move { Response::builder().status(status).body(full("EVIL")).unwrap() }
    });
    let h2c = site_of(&[format!("h2c://{}", toy.address)], "", "");
    let stage = open(&format!("{BASE}{h2c}"));
    run(async {
        let mut h2 = h2_line(&stage, [1, 1]).await;
        for (method, status) in [("GET", 204), ("GET", 205), ("GET", 304), ("POST", 204), ("HEAD", 200), ("GET", 200)] {
            let path = format!("/{status}");
            let request = h2_request(method, &path).body(full("")).unwrap();
            let answer = h2.send_request(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
            let expected = if (method, status) == ("GET", 200) { "EVIL" } else { "" };
            let body = answer.into_body().collect().await.expect("no reset").to_bytes();
            assert_eq!(body, expected, "{method} {status}");

            let answer = Visitor::new(&stage, [1, 2]).send(browser(method, &path), "").await.unwrap();
            assert_eq!((answer.status.as_u16(), &*answer.body), (status, expected.as_bytes()), "{method} {status}");
        }
    });
}

#[test]
fn https_upstreams_speak_what_they_offer_and_see_the_gateways_certificate() {
    let backstage = Backstage::make();
    backstage.client("gateway");
    let versions = Arc::new(std::sync::Mutex::new(Vec::new()));
    let service = |versions: &Arc<std::sync::Mutex<Vec<String>>>| {
        let versions = Arc::clone(versions);
        move |request: Request<hyper::body::Incoming>| {
            versions.lock().unwrap().push(format!("{:?} {}", request.version(), request.uri().path()));
            async move { Response::new(full("secured")) }
        }
    };
    let h2 = Toy::hyper(false, Some(backstage.server("localhost", &[b"h2", b"http/1.1"], true)), service(&versions));
    let h1 = Toy::hyper(false, Some(backstage.server("localhost", &[], false)), service(&versions));
    let misnamed = Toy::hyper(false, Some(backstage.server("elsewhere.example", &[], false)), service(&versions));
    let foreign = Toy::hyper(false, Some(Backstage::make().server("localhost", &[], false)), service(&versions));
    let ca = backstage.path("ca.pem");
    let identity = format!(
        "client_certificate = {{ chain = {:?}, key = {:?} }}",
        backstage.path("gateway.crt"),
        backstage.path("gateway.key")
    );
    let mut text = BASE.to_owned();
    for (name, toy, identity) in [
        ("h2", &h2, identity.as_str()),
        ("h1", &h1, ""),
        ("misnamed", &misnamed, ""),
        ("foreign", &foreign, ""),
        ("certless", &h2, ""),
    ] {
        let at = toy.address.port();
        text += &format!("\n[upstream.{name}]\nservers = [\"https://localhost:{at}\"]\nca = {ca:?}\n{identity}\n");
    }
    text += "\n[[site]]\nhosts = [\"localhost\"]\n";
    for name in ["h2", "h1", "misnamed", "foreign", "certless"] {
        text += &format!("[[site.route]]\npath = \"/{name}/\"\nupstream = \"{name}\"\nbots = \"any\"\n");
    }
    let stage = open(&text);
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for path in ["/h2/x", "/h1/x"] {
            assert_eq!(visitor.get(path).await.unwrap().body, "secured");
        }
        for path in ["/misnamed/x", "/foreign/x", "/certless/x"] {
            let refused = visitor.get(path).await.unwrap();
            // TLS 1.3 refuses a missing certificate only after the gateway's side of the handshake is done.
            let expected: &[&str] = if path == "/certless/x" { &["502", "503"] } else { &["503"] };
            assert!(expected.contains(&refused.status.as_str()), "{path}: {}", refused.told());
            assert!(refused.told().ends_with("upstream-unavailable"), "{path}: {}", refused.told());
            discreet(&refused, &["elsewhere", "certificate", "tls"]);
        }
        assert_eq!(*versions.lock().unwrap(), ["HTTP/2.0 /h2/x", "HTTP/1.1 /h1/x"]);
    });
}

#[test]
fn trap_a_large_download_waits_for_a_stalled_client_and_then_arrives_whole() {
    let written = Arc::new(AtomicUsize::new(0));
    let (stalled, mut stalls) = tokio::sync::mpsc::unbounded_channel();
    let counted = Arc::clone(&written);
    let toy = Toy::start(move |mut stream, _| {
        let (written, stalled) = (Arc::clone(&counted), stalled.clone());
        async move {
            hear(&mut stream, &mut Vec::new()).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {STREAMED}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            pour(&mut stream, &written, || stalled.send(()).unwrap()).await;
        }
    });
    let stage = open(&format!("{}{}", patient(), toy.site()));
    run(async {
        let mut client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
        client.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        stalls.recv().await.unwrap();
        assert!(written.load(Ordering::SeqCst) < BUFFERS, "{} bytes were buffered", written.load(Ordering::SeqCst));
        assert_eq!(drain_answer(&mut client).await, STREAMED);

        // The same where flow control, not the socket, holds the client's end.
        written.store(0, Ordering::SeqCst);
        while stalls.try_recv().is_ok() {}
        let mut line = h2_line(&stage, [1, 2]).await;
        let response = line.send_request(h2_request("GET", "/x").body(full("")).unwrap()).await.unwrap();
        stalls.recv().await.unwrap();
        assert!(written.load(Ordering::SeqCst) < BUFFERS, "{} bytes were buffered", written.load(Ordering::SeqCst));
        let mut body = response.into_body();
        let mut got = 0;
        while let Some(frame) = body.frame().await {
            got += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(got, STREAMED);
    });
}

#[test]
fn trap_a_large_upload_waits_for_a_stalled_upstream_and_then_arrives_whole() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = Arc::clone(&go);
    let toy = Toy::start(move |mut stream, _| {
        let waits = Arc::clone(&waits);
        async move {
            let mut head = vec![0; 1024];
            let first = stream.read(&mut head).await.unwrap();
            let head_end = head[..first].windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            waits.acquire().await.unwrap().forget();
            let mut got = first - head_end;
            let mut chunk = vec![0; 256 * 1024];
            while got < STREAMED {
                match stream.read(&mut chunk).await {
                    Ok(read @ 1..) => got += read,
                    _ => break,
                }
            }
            let body = got.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let stage = open(&format!("{}{}", patient(), toy.site()));
    run(async {
        let client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let head = format!("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {STREAMED}\r\nConnection: close\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let (opener, counted) = (Arc::clone(&go), Arc::clone(&written));
        pour(&mut writer, &written, move || {
            assert!(counted.load(Ordering::SeqCst) < BUFFERS, "{} bytes were buffered", counted.load(Ordering::SeqCst));
            opener.add_permits(1);
        })
        .await;
        let mut answer = String::new();
        reader.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&STREAMED.to_string()), "{answer}");
    });
}

#[test]
fn head_204_and_304_have_no_body_and_their_connection_serves_on_where_none_was_announced() {
    let (toy, journal) = Toy::answering(|heard| match heard.head.split(' ').nth(1) {
        Some("/head") => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec(),
        Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        Some("/304") => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec(),
        _ => OK.to_vec(),
    });
    let stage = open(&format!("{}{}", single(), toy.site()));
    run(async {
        let mut line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
        let head = line.send(browser("HEAD", "/head"), "").await.unwrap();
        assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, "10", 0));
        let none = line.send(browser("GET", "/204"), "").await.unwrap();
        assert_eq!((none.status.as_u16(), none.body.len(), none.header("content-length")), (204, 0, ""));
        let unmodified = line.send(browser("GET", "/304"), "").await.unwrap();
        assert_eq!((unmodified.status.as_u16(), unmodified.header("etag"), unmodified.body.len()), (304, "\"x\"", 0));
        let after = line.send(browser("GET", "/after"), "").await.unwrap();
        assert_eq!((after.status.as_u16(), &after.body[..]), (200, &b"ok"[..]));
        let connections: Vec<usize> = journal.all().iter().map(|heard| heard.connection).collect();
        assert_eq!(connections, [0, 1, 1, 1], "what the HEAD announced may still come on its connection");
    });
}

#[test]
fn a_client_that_expects_100_gets_it_before_its_body_and_not_before_a_refusal() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let mut client = visitor.tls().await.unwrap();
        client
            .write_all(b"POST /x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .await
            .unwrap();
        let mut interim = [0; 25];
        client.read_exact(&mut interim).await.unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"hello").await.unwrap();
        let answer = String::from_utf8(read_all(&mut client).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let heard = &journal.all()[0];
        assert_eq!((&heard.body[..], heard.has("expect")), (&b"hello"[..], false));

        let refused = b"POST /..%2fx HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        let answer = String::from_utf8(visitor.raw(refused).await.unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let lower = answer.to_ascii_lowercase();
        assert!(lower.contains("connection: close") && !lower.contains("100 continue"), "{answer}");
    });
}

#[test]
fn trap_body_left_unread_its_connections_are_never_used_for_another_request() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::<Vec<u8>>::new()));
    let noted = Arc::clone(&seen);
    // Answers as soon as a head is there, whatever of the body is still to come.
    let toy = Toy::start(move |mut stream, number| {
        let noted = Arc::clone(&noted);
        async move {
            noted.lock().unwrap().push(Vec::new());
            let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
            let mut answered = false;
            while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                all.extend_from_slice(&chunk[..read]);
                noted.lock().unwrap()[number].extend_from_slice(&chunk[..read]);
                if !answered && all.windows(4).any(|four| four == b"\r\n\r\n") {
                    answered = true;
                    if stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let stage = open(&format!("{}{}", single(), toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let mut first = visitor.tls().await.unwrap();
        first.write_all(b"POST /first HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nhalf of it").await.unwrap();
        let mut answer = [0; 12];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        let second = Visitor::new(&stage, [1, 2]).get("/second").await.unwrap();
        assert_eq!(second.status, 413);
        // What the first client still sends is its body, and never a request.
        let _ = first
            .write_all(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\nGET /third HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        drop(read_all(&mut first).await);
        for bytes in seen.lock().unwrap().iter() {
            let text = String::from_utf8_lossy(bytes);
            let (head, rest) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("POST /first") || head.starts_with("GET /second") || head.starts_with("GET /third"),
                "{head}"
            );
            assert!(!rest.contains("GET /second"), "a second request followed half a body: {text}");
        }
    });
}

#[test]
fn a_refused_request_with_an_unread_body_ends_its_connection() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let bytes = b"POST /a//b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n\
            GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = String::from_utf8(visitor.raw(bytes).await.unwrap()).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert_eq!(journal.len(), 0);
    });
}

#[test]
fn of_several_servers_the_least_busy_is_asked() {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let holder = |release: &Arc<tokio::sync::Semaphore>| {
        let release = Arc::clone(release);
        let journal = Journal::default();
        let noted = journal.clone();
        let toy = Toy::start(move |mut stream, number| {
            let (release, noted) = (Arc::clone(&release), noted.clone());
            async move {
                let mut ahead = Vec::new();
                while let Some(mut heard) = hear(&mut stream, &mut ahead).await {
                    heard.connection = number;
                    let held = heard.head.starts_with("GET /held");
                    noted.note(heard);
                    if held {
                        release.acquire().await.unwrap().forget();
                    }
                    if stream.write_all(OK).await.is_err() {
                        return;
                    }
                }
            }
        });
        (toy, journal)
    };
    let ((one, one_heard), (two, two_heard)) = (holder(&release), holder(&release));
    let servers = [&one, &two].map(|toy| format!("http://{}", toy.address));
    let stage = open(&format!("{BASE}{}", site_of(&servers, "", "")));
    run(async {
        let held = tokio::spawn({
            let visitor = Visitor::new(&stage, [1, 1]);
            async move { visitor.get("/held").await.map(|answer| answer.status.as_u16()).unwrap_or(0) }
        });
        while one_heard.len() + two_heard.len() == 0 {
            tokio::task::yield_now().await;
        }
        let visitor = Visitor::new(&stage, [1, 2]);
        for _ in 0..8 {
            assert_eq!(visitor.get("/quick").await.unwrap().status, 200);
        }
        let (busy, free) = if one_heard.lines().iter().any(|line| line.contains("/held")) {
            (&one_heard, &two_heard)
        } else {
            (&two_heard, &one_heard)
        };
        assert_eq!((busy.len(), free.len()), (1, 8));
        release.add_permits(1);
        assert_eq!(held.await.unwrap(), 200);
    });
}

#[test]
fn a_dead_server_is_passed_over_and_all_dead_is_503() {
    let (alive, journal) = Toy::recording();
    let dead = format!("http://127.0.0.1:{}", closed_port());
    let servers = [dead.clone(), format!("http://{}", alive.address)];
    let stage = open(&format!("{BASE}{}", site_of(&servers, "", "")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for _ in 0..6 {
            assert_eq!(visitor.send(browser("POST", "/x"), "once").await.unwrap().status, 200);
        }
        assert_eq!(journal.len(), 6);
        assert!(journal.all().iter().all(|heard| heard.body == b"once"));
    });
    let stage = open(&format!("{BASE}{}", site_of(std::slice::from_ref(&dead), "", "")));
    run(async {
        let refused = Visitor::new(&stage, [1, 1]).get("/x").await.unwrap();
        assert_eq!(refused.told(), "503 upstream-unavailable");
        assert_ne!(refused.header("retry-after"), "");
        discreet(&refused, &["127.0.0.1", "refused", "toy", &dead]);
    });
}

#[test]
fn a_server_that_fails_its_checks_gets_nothing_until_it_is_well_again() {
    let well = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&well);
    let (toy, journal) = Toy::answering(move |heard| {
        if heard.head.starts_with("GET /healthz") && !says.load(Ordering::SeqCst) {
            b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()
        } else {
            OK.to_vec()
        }
    });
    let mut stage = open(&format!("{BASE}{}", toy.site_with("health = { path = \"/healthz\", every = \"100ms\" }", "")));
    run(async {
        event(&mut stage, &["upstream.state", "\"healthy\":false"]).await;
        let visitor = Visitor::new(&stage, [1, 1]);
        assert_eq!(visitor.get("/x").await.unwrap().told(), "503 upstream-unavailable");
        well.store(true, Ordering::SeqCst);
        event(&mut stage, &["upstream.state", "\"healthy\":true"]).await;
        assert_eq!(visitor.get("/x").await.unwrap().status, 200);
        assert_eq!(journal.lines().iter().filter(|line| !line.contains("/healthz")).count(), 1);
    });
}

#[test]
fn nothing_whose_bytes_were_sent_is_sent_again() {
    // Reads the whole request, then hangs up.
    let quitter = || {
        let journal = Journal::default();
        let noted = journal.clone();
        let toy = Toy::start(move |mut stream, _| {
            let noted = noted.clone();
            async move {
                if let Some(heard) = hear(&mut stream, &mut Vec::new()).await {
                    noted.note(heard);
                }
            }
        });
        (toy, journal)
    };
    let ((one, first), (two, second)) = (quitter(), quitter());
    let servers = [&one, &two].map(|toy| format!("http://{}", toy.address));
    let stage = open(&format!("{BASE}{}", site_of(&servers, "", "")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let posted = visitor.send(browser("POST", "/pay"), "100").await.unwrap();
        assert_eq!(posted.told(), "502 upstream-unavailable");
        assert_eq!(first.len() + second.len(), 1, "a POST was sent twice");
        assert_eq!(visitor.get("/read").await.unwrap().told(), "502 upstream-unavailable");
        assert_eq!(first.len() + second.len(), 2, "a GET was sent twice");
    });
}

#[test]
fn a_stale_kept_connection_costs_nothing_unless_the_request_was_on_it() {
    // Answers once, then closes at once (`/close`), or reads one more request and closes (`/trap`).
    let journal = Journal::default();
    let noted = journal.clone();
    let (gone, mut goings) = tokio::sync::mpsc::unbounded_channel();
    let toy = Toy::start(move |mut stream, number| {
        let (noted, gone) = (noted.clone(), gone.clone());
        async move {
            let mut ahead = Vec::new();
            let mut trapped = false;
            while let Some(mut heard) = hear(&mut stream, &mut ahead).await {
                heard.connection = number;
                let line = heard.head.clone();
                noted.note(heard);
                if trapped {
                    return;
                }
                stream.write_all(OK).await.unwrap();
                trapped = line.starts_with("GET /trap");
                if line.starts_with("GET /close") {
                    stream.shutdown().await.unwrap();
                    drop(stream);
                    let _ = gone.send(());
                    return;
                }
            }
        }
    });
    let stage = open(&format!("{}{}", single(), toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for _ in 0..5 {
            assert_eq!(visitor.get("/close").await.unwrap().status, 200);
            goings.recv().await.unwrap();
            assert_eq!(visitor.send(browser("POST", "/after"), "x").await.unwrap().status, 200);
            assert_eq!(journal.lines().last().unwrap(), "POST /after HTTP/1.1");
        }
        let posts = journal.lines().iter().filter(|line| line.starts_with("POST")).count();
        assert_eq!(posts, 5, "no POST twice");

        assert_eq!(visitor.get("/trap").await.unwrap().status, 200);
        let before = journal.len();
        assert_eq!(visitor.get("/lost").await.unwrap().told(), "502 upstream-unavailable");
        assert_eq!(journal.len(), before + 1, "what was sent is not sent again");
    });
}

#[test]
fn a_silent_upstream_is_504_and_a_babbling_one_502_and_neither_is_told_of() {
    let (toy, _) = Toy::answering(|heard| match heard.head.split(' ').nth(1) {
        Some("/garbage") => b"SECRET-DETAIL nonsense\r\n\r\n".to_vec(),
        Some("/half") => b"HTTP/1.1 200 OK\r\nX-Secret-Detail: ye".to_vec(),
        Some("/two-lengths") => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok".to_vec(),
        Some("/101") => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: secret-detail\r\n\r\n".to_vec(),
        _ => Vec::new(),
    });
    let stage = open(&format!("{BASE}{}", toy.site_with("timeouts = { response = \"300ms\" }", "")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for (path, expected) in [
            ("/silent", "504 upstream-timeout"),
            ("/half", "504 upstream-timeout"),
            ("/garbage", "502 upstream-unavailable"),
            ("/two-lengths", "502 upstream-unavailable"),
            ("/101", "502 upstream-unavailable"),
        ] {
            let refused = visitor.get(path).await.unwrap();
            assert_eq!(refused.told(), expected, "{path}");
            discreet(&refused, &["secret-detail", "127.0.0.1", &toy.address.port().to_string(), "toy"]);
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_broken_for_the_client_too_and_noted() {
    let toy = Toy::start(|mut stream, _| async move {
        hear(&mut stream, &mut Vec::new()).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this").await.unwrap();
    });
    let mut stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let broken = Visitor::new(&stage, [1, 1]).get("/x").await;
        assert!(broken.is_err(), "a cut body must not look whole");
        event(&mut stage, &["\"event\":\"request\"", "\"cut\":true", "\"status\":200"]).await;
    });
}

#[test]
fn a_body_over_its_cap_is_413_and_declared_ones_never_reach_the_application() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site_with("", "body = \"1KiB\"")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        assert_eq!(visitor.send(browser("POST", "/x"), vec![b'x'; 1024]).await.unwrap().status, 200);
        let declared = visitor.send(browser("POST", "/x"), vec![b'x'; 1025]).await.unwrap();
        assert_eq!(declared.told(), "413 too-large");
        assert_eq!(journal.len(), 1);
        let mut line = h2_line(&stage, [1, 2]).await;
        let frames = (0..8).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 512]))));
        let body: ToyBody = StreamBody::new(stream::iter(frames)).boxed_unsync();
        let response = line.send_request(h2_request("POST", "/x").body(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(journal.len(), 1, "a streamed body that broke its cap is no whole request");
    });
}

#[test]
fn status_names_the_servers_and_how_they_do() {
    let (toy, _) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    let status = told(&stage, &["status", "--json"]);
    assert!(status.contains(&format!("http://{}", toy.address)), "{status}");
}

/// Writes all that is to be streamed, counting; calls `stalled` once when the peer takes nothing for a while.
async fn pour(stream: &mut (impl tokio::io::AsyncWrite + Unpin), written: &AtomicUsize, stalled: impl FnOnce()) {
    let chunk = vec![0; 64 * 1024];
    let mut stalled = Some(stalled);
    let mut left = STREAMED;
    while left > 0 {
        let piece = &chunk[..left.min(chunk.len())];
        let wrote = match tokio::time::timeout(STALLED, stream.write(piece)).await {
            Ok(wrote) => wrote,
            Err(_) => {
                if let Some(stalled) = stalled.take() {
                    stalled();
                }
                stream.write(piece).await
            }
        };
        let wrote = wrote.unwrap();
        written.fetch_add(wrote, Ordering::SeqCst);
        left -= wrote;
    }
    stream.flush().await.unwrap();
    assert!(stalled.is_none(), "the peer never stalled: everything was buffered");
}

/// Reads an answer to the end of its connection; the bytes of its body.
async fn drain_answer(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> usize {
    let (mut head, mut got, mut in_body) = (Vec::new(), 0, false);
    let mut chunk = vec![0; 256 * 1024];
    while let Ok(read @ 1..) = client.read(&mut chunk).await {
        if in_body {
            got += read;
            continue;
        }
        head.extend_from_slice(&chunk[..read]);
        if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            in_body = true;
            got = head.len() - at - 4;
        }
    }
    got
}

/// The base with deadlines that a deliberate stall does not reach.
fn patient() -> String {
    BASE.replace("body = \"2s\"", "body = \"30s\"")
}

/// The base with one worker, so that there is one pool of connections.
fn single() -> String {
    BASE.replace("workers = 2", "workers = 1")
}

/// The client hears nothing of what is behind the door.
fn discreet(answer: &crate::support::Answer, secrets: &[&str]) {
    let text = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)).to_ascii_lowercase();
    for secret in secrets {
        assert!(!text.contains(&secret.to_ascii_lowercase()), "{secret} in {text}");
    }
}

fn closed_port() -> u16 {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}
