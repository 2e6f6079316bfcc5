//! Applications that misbehave: the client gets the right answer or a clean cut, never a hang, never another client's bytes, and
//! nothing that may change something is delivered twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::faults::{answers, describe, judge};
use crate::support::upstream::{Backstage, Heard, Journal, OK, Toy, full, h2_line, h2_request, hear, site_of};
use crate::support::{BASE, Stage, Visitor, browser, event, open, rewrite, run};
use doorward::cli::demo::pki::LeafSpec;

/// Nothing here may take longer; the gateway's own deadlines are a fraction of it.
const HANG: Duration = Duration::from_secs(5);
/// Short deadlines, so that what stalls is cut while the test looks on.
const BRISK: &str = "timeouts = { connect = \"500ms\", response = \"500ms\", idle = \"500ms\" }";

#[test]
fn every_bad_answer_is_a_right_answer_or_a_clean_cut_and_is_asked_for_once() {
    let answers = Arc::new(answers());
    let table = Arc::clone(&answers);
    let (toy, journal) = faulty(move |heard| {
        let (_, bytes, closes, _) = &table[heard.index()?];
        Some((bytes.clone(), *closes))
    });
    let stage = open(&format!("{BASE}{}", toy.site_with(BRISK, "")));
    let differing = run(async {
        let all = answers.iter().enumerate().map(|(at, (name, _, _, expected))| {
            let stage = &stage;
            async move {
                let mut differing = Vec::new();
                for method in ["GET", "POST"] {
                    let from = [if method == "GET" { 1 } else { 2 }, u8::try_from(at + 1).unwrap()];
                    let seen = ask(stage, from, method, &format!("/{at}")).await;
                    if seen != describe(*expected) {
                        differing.push(format!("{method} {name}: wanted {}, saw {seen}", describe(*expected)));
                    }
                }
                differing
            }
        });
        futures_util::future::join_all(all).await.concat()
    });
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let mut deliveries: BTreeMap<String, usize> = BTreeMap::new();
    journal.lines().into_iter().for_each(|line| *deliveries.entry(line).or_default() += 1);
    assert_eq!(deliveries.len(), answers.len() * 2);
    for (line, count) in deliveries {
        assert_eq!(count, 1, "{line} was delivered {count} times");
    }
    run(async {
        let answer = Visitor::new(&stage, [9, 9]).get("/ok").await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"ok"[..]), "and the gateway is well");
    });
}

#[test]
fn a_reset_at_any_byte_of_an_answer_is_a_refusal_or_a_cut_and_never_a_second_delivery() {
    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let head = WHOLE.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (toy, journal) = resetting(WHOLE);
    let stage = open(&format!("{BASE}{}", toy.site_with(BRISK, "")));
    run(async {
        for offset in 0..=WHOLE.len() {
            let from = [1 + u8::try_from(offset / 200).unwrap(), u8::try_from(offset % 200 + 1).unwrap()];
            let seen = ask(&stage, from, "POST", &format!("/{offset}")).await;
            // A reset can overtake what was sent before it: then less arrived, never more.
            let allowed: &[&str] = if offset < head {
                &["502 upstream-unavailable"]
            } else if offset < WHOLE.len() {
                &["502 upstream-unavailable", "a cut"]
            } else {
                &["502 upstream-unavailable", "a cut", "hello world"]
            };
            assert!(allowed.contains(&&*seen), "a reset after {offset} bytes: {seen}");
        }
    });
    assert_eq!(journal.len(), WHOLE.len() + 1, "each was delivered once");
}

#[test]
fn an_end_at_any_byte_of_a_counted_answer_is_never_taken_for_the_whole() {
    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world";
    let head = WHOLE.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let (toy, journal) = faulty(|heard| Some((WHOLE[..heard.index()?].to_vec(), true)));
    let stage = open(&format!("{BASE}{}", toy.site_with(BRISK, "")));
    run(async {
        let mut h2 = h2_line(&stage, [8, 8]).await;
        for offset in 0..WHOLE.len() {
            let seen = ask(&stage, [1, u8::try_from(offset + 1).unwrap()], "GET", &format!("/{offset}")).await;
            assert_eq!(seen, if offset < head { "502 upstream-unavailable" } else { "a cut" }, "an end after {offset} bytes");

            let request = h2_request("GET", &format!("/{offset}")).body(full("")).unwrap();
            let whole = async { Some(h2.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes()) };
            let whole = tokio::time::timeout(HANG, whole).await.expect("no hang");
            assert_eq!(whole.is_some(), offset < head, "over HTTP/2 a cut is a reset: {offset}");
        }
    });
    assert_eq!(journal.len(), WHOLE.len() * 2);
}

#[test]
fn trap_response_splitting_bytes_behind_an_answer_never_reach_anybody_else() {
    let evil = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nSet-Cookie: session=evil\r\nContent-Length: 4\r\n\r\nevil";
    let (toy, journal) =
        faulty(move |heard| Some(if heard.head.contains("/bad") { (evil.to_vec(), false) } else { (OK.to_vec(), false) }));
    let stage =
        open(&format!("{BASE}{}", toy.site_with(BRISK, "").replace("\n[upstream.toy]", "\n[upstream.toy]\nconnections = 1")));
    run(async {
        for round in 1..20 {
            let bad = Visitor::new(&stage, [1, round]).get("/bad").await.unwrap();
            assert_eq!(&bad.body[..], b"ok");
            let next = Visitor::new(&stage, [2, round]).get("/good").await.unwrap();
            assert_eq!((next.status.as_u16(), &next.body[..], next.header("set-cookie")), (200, &b"ok"[..], ""));
        }
        // What a response says in its fields cannot end its head either.
        let split = Visitor::new(&stage, [3, 1]).get("/good?x=%0d%0aSet-Cookie:%20a=b").await;
        assert_eq!(split.unwrap().header("set-cookie"), "");
    });
    let all = journal.all();
    for (at, bad) in all.iter().enumerate().filter(|(_, heard)| heard.head.contains("/bad")) {
        assert!(!all[at + 1..].iter().any(|later| later.connection == bad.connection), "a spoilt connection was used again");
    }
}

#[test]
fn trap_response_splitting_a_body_that_comes_late_after_head_or_304_is_nobodys_answer() {
    const HEADS: [&[u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 58\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 58\r\n\r\n",
    ];
    // The body that was announced comes when the connection is used again.
    let owing = Mutex::new(Vec::new());
    let (toy, _) = faulty(move |heard| {
        let mut owing = owing.lock().unwrap();
        if owing.contains(&heard.connection) {
            return Some((b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\nevil".to_vec(), false));
        }
        let head = HEADS.get(heard.index()?)?;
        owing.push(heard.connection);
        Some((head.to_vec(), false))
    });
    let stage =
        open(&format!("{BASE}{}", toy.site_with(BRISK, "").replace("\n[upstream.toy]", "\n[upstream.toy]\nconnections = 1")));
    run(async {
        for (path, method) in (0..).zip(["HEAD", "HEAD", "GET"]) {
            let bad = Visitor::new(&stage, [1, path + 1]).send(browser(method, &format!("/{path}")), "").await.unwrap();
            assert_eq!(bad.body.len(), 0);
            let next = Visitor::new(&stage, [2, path + 1]).get("/good").await.unwrap();
            assert_eq!((next.status.as_u16(), &next.body[..], next.header("set-cookie")), (200, &b"ok"[..], ""), "{path}");
        }
    });
}

#[test]
fn trap_clients_that_leave_never_leave_their_answer_to_the_next() {
    // Each answer names its request; half of the clients hang up in the middle of theirs.
    let (toy, _) = faulty(|heard| {
        let name = heard.head.split(' ').nth(1)?.to_owned();
        let body = name.repeat(20_000);
        Some((format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(), false))
    });
    let stage = open(&format!("{BASE}{}", toy.site_with("connections = 2\nqueue = \"5s\"", "")));
    run(async {
        let clients = (1..60u8).map(|at| {
            let stage = &stage;
            async move {
                let path = format!("/c{at:03}");
                if at % 2 == 0 {
                    let mut leaver = Visitor::new(stage, [1, at]).tls().await.unwrap();
                    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    leaver.write_all(request.as_bytes()).await.unwrap();
                    let mut first = [0; 512];
                    let _ = tokio::io::AsyncReadExt::read(&mut leaver, &mut first).await;
                    return;
                }
                let answer = Visitor::new(stage, [2, at]).get(&path).await.unwrap();
                assert_eq!(answer.status, 200, "{path}");
                assert!(answer.body.chunks(5).all(|chunk| chunk == path.as_bytes()), "{path} got another's bytes");
                assert_eq!(answer.body.len(), path.len() * 20_000);
            }
        });
        futures_util::future::join_all(clients).await;
    });
}

#[test]
fn a_connection_closed_between_requests_costs_nothing_and_delivers_nothing_twice() {
    // Answers, keeps the connection as if for more, and closes it a moment later.
    let (toy, journal) = faulty(|_| Some((OK.to_vec(), true)));
    let stage = open(&format!("{BASE}{}", toy.site_with(BRISK, "")));
    run(async {
        let mut line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
        let (mut whole, mut broken) = (0, 0);
        for at in 0..100 {
            let answer = line.send(browser("POST", &format!("/{at}")), "x").await.unwrap();
            match answer.status.as_u16() {
                200 => whole += 1,
                502 => {
                    broken += 1;
                    // its body may lie unread: the client's connection ends with the refusal
                    line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
                }
                other => panic!("{other}"),
            }
        }
        // One that was written into a closing connection may be lost; it is told so, and it is not sent again.
        assert!(whole >= 90, "{whole} whole, {broken} broken");
    });
    let mut lines = journal.lines();
    let all = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), all, "nothing was delivered twice");
}

#[test]
fn refused_and_all_down_are_503_at_once_and_well_again_when_the_application_is() {
    let (toy, journal) = Toy::recording();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut stage = open(&format!("{BASE}{}", site_of(&[format!("http://{closed}")], BRISK, "")));
    run(async {
        for at in 1..20 {
            let visitor = Visitor::new(&stage, [1, at]);
            let answer = tokio::time::timeout(HANG, visitor.send(browser("POST", "/"), "x")).await.expect("no hang").unwrap();
            assert_eq!(answer.told(), "503 upstream-unavailable");
            assert!(!answer.header("retry-after").is_empty());
        }
        event(&mut stage, &["upstream.state", "\"healthy\":false"]).await;
        let reloaded = rewrite(&stage, |text| text.replace(&closed.to_string(), &toy.address.to_string()));
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        assert_eq!(Visitor::new(&stage, [2, 1]).get("/").await.unwrap().status, 200);
    });
    assert_eq!(journal.len(), 1);
}

#[test]
fn a_server_that_stops_answering_is_ejected_and_half_open_until_it_answers() {
    let well = Arc::new(AtomicBool::new(false));
    let (answers, asked) = (Arc::clone(&well), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let (sick, _) = faulty(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        answers.load(Ordering::SeqCst).then(|| (OK.to_vec(), false)).or(Some((Vec::new(), true)))
    });
    let (good, journal) = Toy::recording();
    let servers = [format!("http://{}", sick.address), format!("http://{}", good.address)];
    let mut stage = open(&format!("{BASE}{}", site_of(&servers, BRISK, "")));
    run(async {
        let mut failed = 0;
        for at in 1..100 {
            let answer = Visitor::new(&stage, [1, at]).send(browser("POST", "/"), "x").await.unwrap();
            failed += usize::from(answer.status != 200);
        }
        assert_eq!((failed, asked.load(Ordering::SeqCst)), (5, 5), "five, and then it is left alone");
        assert_eq!(journal.len(), 94);
        let told = event(&mut stage, &["upstream.state", "\"healthy\":false"]).await;
        assert!(told.contains(&sick.address.to_string()), "{told}");
    });
}

#[test]
fn the_cap_on_connections_holds_over_all_workers_and_who_waits_too_long_is_503() {
    let (open_now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (Arc::clone(&open_now), Arc::clone(&most));
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let waits = Arc::clone(&go);
    let toy = Toy::start(move |mut stream, _| {
        let (inside, peak, waits) = (Arc::clone(&inside), Arc::clone(&peak), Arc::clone(&waits));
        async move {
            let mut ahead = Vec::new();
            while hear(&mut stream, &mut ahead).await.is_some() {
                peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                waits.acquire().await.unwrap().forget();
                inside.fetch_sub(1, Ordering::SeqCst);
                if stream.write_all(OK).await.is_err() {
                    break;
                }
            }
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site_with("connections = 4\nqueue = \"300ms\"", "")));
    run(async {
        let statuses = Mutex::new(Vec::new());
        let clients = (1..41u8).map(|at| {
            let (stage, statuses, go) = (&stage, &statuses, &go);
            async move {
                let answer = Visitor::new(stage, [1, at]).send(browser("POST", "/"), "x").await.unwrap();
                let mut statuses = statuses.lock().unwrap();
                statuses.push(answer.told());
                // The four that got in are let go once all the others were told.
                if statuses.len() == 36 {
                    go.add_permits(4);
                }
            }
        });
        futures_util::future::join_all(clients).await;
        let statuses = statuses.into_inner().unwrap();
        assert_eq!(statuses.iter().filter(|told| *told == "200").count(), 4, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|told| *told == "503 upstream-unavailable").count(), 36, "{statuses:?}");
        assert_eq!(most.load(Ordering::SeqCst), 4);
    });
}

#[test]
fn trap_one_client_that_holds_connections_to_the_application_leaves_some_to_everybody_else() {
    let held = Arc::new(AtomicUsize::new(0));
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let (holds, waits) = (Arc::clone(&held), Arc::clone(&go));
    let toy = Toy::start(move |mut stream, _| {
        let (holds, waits) = (Arc::clone(&holds), Arc::clone(&waits));
        async move {
            let mut ahead = Vec::new();
            while let Some(heard) = hear(&mut stream, &mut ahead).await {
                if heard.head.contains("/held") {
                    holds.fetch_add(1, Ordering::SeqCst);
                    waits.acquire().await.unwrap().forget();
                }
                if stream.write_all(OK).await.is_err() {
                    break;
                }
            }
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site_with("connections = 8\nqueue = \"3s\"", "")));
    let ask = |last: u8, path: &'static str| {
        let stage = &stage;
        async move { Visitor::new(stage, [1, last]).send(browser("POST", path), "x").await.unwrap().told() }
    };
    run(async {
        let greedy = futures_util::future::join_all((0..12).map(|_| ask(1, "/held")));
        let others = async {
            while held.load(Ordering::SeqCst) < 6 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for last in 2..10 {
                assert_eq!(ask(last, "/").await, "200");
            }
            assert_eq!(held.load(Ordering::SeqCst), 6, "three quarters are one client's");
            go.add_permits(12);
        };
        let (greedy, ()) = futures_util::future::join(greedy, others).await;
        assert!(greedy.iter().all(|told| told == "200"), "who waits for his own share has it in turn: {greedy:?}");
    });
}

#[test]
fn tls_upstreams_that_are_expired_wrongly_named_or_of_another_ca_are_503_and_hear_nothing() {
    let (backstage, other) = (Backstage::make(), Backstage::make());
    let expired = LeafSpec { from_days: -30, until_days: -2, ..LeafSpec::server(&["127.0.0.1"]).unwrap() };
    let early = LeafSpec { from_days: 2, ..LeafSpec::server(&["127.0.0.1"]).unwrap() };
    let client = LeafSpec { names: LeafSpec::server(&["127.0.0.1"]).unwrap().names, ..LeafSpec::client("urn:x", 5).unwrap() };
    let good = LeafSpec::server(&["127.0.0.1"]).unwrap();
    let wrong = LeafSpec::server(&["elsewhere.example"]).unwrap();
    let cases = [
        ("good", &backstage, &good, "200"),
        ("expired", &backstage, &expired, "503 upstream-unavailable"),
        ("not valid yet", &backstage, &early, "503 upstream-unavailable"),
        ("wrong name", &backstage, &wrong, "503 upstream-unavailable"),
        ("another CA", &other, &good, "503 upstream-unavailable"),
        ("a client's certificate", &backstage, &client, "503 upstream-unavailable"),
    ];
    for (name, issuer, spec, expected) in cases {
        let heard = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&heard);
        let toy = Toy::hyper(false, Some(tls(&issuer.authority.issue(spec).unwrap())), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { http::Response::new(full("ok")) }
        });
        let upstream = format!("ca = {:?}\n{BRISK}", backstage.path("ca.pem"));
        let stage = open(&format!("{BASE}{}", site_of(&[format!("https://{}", toy.address)], &upstream, "")));
        run(async {
            let answer = Visitor::new(&stage, [1, 1]).send(browser("POST", "/"), "secret").await.unwrap();
            assert_eq!(answer.told(), expected, "{name}");
            let text = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
            assert!(!text.contains("certificate") && !text.contains("127.0.0.1"), "{name}: private: {text}");
        });
        assert_eq!(heard.load(Ordering::SeqCst), usize::from(expected == "200"), "{name}");
    }
}

#[test]
fn a_port_that_accepts_and_says_nothing_is_given_up_in_time_where_tls_is_spoken() {
    let toy = Toy::start(|stream, _| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    });
    let stage = open(&format!("{BASE}{}", site_of(&[format!("https://{}", toy.address)], BRISK, "")));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let answer = tokio::time::timeout(HANG, visitor.get("/")).await.expect("no hang").unwrap();
        assert_eq!(answer.told(), "503 upstream-unavailable");
    });
}

/// A toy whose answers are looked up by request; `None` is a plain ok. Closes after an answer where told to.
fn faulty(answer: impl Fn(&Heard) -> Option<(Vec<u8>, bool)> + Send + Sync + 'static) -> (Toy, Journal) {
    let journal = Journal::default();
    let (noted, answer) = (journal.clone(), Arc::new(answer));
    let toy = Toy::start(move |mut stream, number| {
        let (noted, answer) = (noted.clone(), Arc::clone(&answer));
        async move {
            let mut ahead = Vec::new();
            while let Some(mut heard) = hear(&mut stream, &mut ahead).await {
                heard.connection = number;
                noted.note(heard.clone());
                let (bytes, closes) = answer(&heard).unwrap_or_else(|| (OK.to_vec(), false));
                if stream.write_all(&bytes).await.is_err() || closes {
                    let _ = stream.shutdown().await;
                    return;
                }
            }
        }
    });
    (toy, journal)
}

/// Sends as many bytes of an answer as the path says, then resets.
fn resetting(whole: &'static [u8]) -> (Toy, Journal) {
    let journal = Journal::default();
    let noted = journal.clone();
    let toy = Toy::start(move |mut stream: TcpStream, _| {
        let noted = noted.clone();
        async move {
            if let Some(heard) = hear(&mut stream, &mut Vec::new()).await {
                let offset = heard.index().unwrap_or(0);
                noted.note(heard);
                let _ = stream.write_all(&whole[..offset]).await;
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    });
    (toy, journal)
}

impl Heard {
    /// The number that its path is.
    fn index(&self) -> Option<usize> {
        self.head.split(' ').nth(1)?.strip_prefix('/')?.parse().ok()
    }
}

/// One request on a connection of its own, and what came of it.
async fn ask(stage: &Stage, from: [u8; 2], method: &str, path: &str) -> String {
    let body = if method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\n{body}");
    let asked = async {
        let mut client = Visitor::new(stage, from).tls().await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        // Many ask in one task: a socket may put a write off when the task has had its share, and TLS keeps it until the flush.
        client.flush().await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut answer).await;
        (answer, ended.is_ok())
    };
    let Ok((answer, clean)) = tokio::time::timeout(HANG, asked).await else { return "a hang".to_owned() };
    judge(&answer, clean)
}

fn tls(leaf: &doorward::cli::demo::pki::Leaf) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(leaf.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(doorward::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}
