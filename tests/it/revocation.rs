//! Promise: whose right ends is out within a second, with all that he has under way, and nobody else is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::support::caller::{Caller, until_closed};
use crate::support::upstream::{Toy, ToyBody, full, h2_request};
use crate::support::{BASE, LOGIN, Socket, Stage, approve, credentials, event, form, open, rewrite, run, told};

/// Whoever is to end has so long, and the machine may be busy; what is told of it is no matter of time.
const AT_LAST: Duration = Duration::from_secs(10);
/// In the application's way; the last part of each path is its own.
const FORMS: [&str; 4] = ["/download/", "/upload/", "/wait/", "/socket/"];

#[test]
fn trap_a_connection_stays_after_revocation_a_revoked_certificate_ends_all_that_it_has_under_way() {
    let (mut stage, portal) = house();
    run(async {
        let partner = Party::of(Caller::new(&stage, [1, 1]).with("other"));
        let bystander = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let ending = partner.all_forms(&portal, "").await;
        let staying = bystander.all_forms(&portal, "").await;
        stage.pki.write_crl(2, &[66, 11]).expect("a CRL");
        told(&stage, &["reload"]);
        let events = all_end(&mut stage, &portal, ending, "revoked").await;
        for event in events {
            assert_eq!((&event["identity"], &event["cause"]), (&"acme:urn:acme:reports".into(), &"revoked".into()), "{event}");
        }
        all_live_to_the_end(&portal, staying).await;
    });
}

#[test]
fn an_approval_that_is_suspended_or_revoked_ends_its_streams_and_no_other_on_the_same_connection() {
    let (mut stage, portal) = house();
    let terms = ["--path", "/**", "--method", "GET", "--method", "POST"];
    let ((first, first_token), (second, second_token)) = (approve(&stage, &terms), approve(&stage, &terms));
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let shared = h2(&caller).await;
        let of = |token: &str| Party {
            lines: format!("Doorward-Approval: {token}\r\n"),
            h2: Some(shared.clone()),
            ..Party::of(caller.clone())
        };
        let ours = of(&first_token).all_forms(&portal, "").await;
        let mut theirs = of(&second_token).all_forms(&portal, "").await;
        let anonymous = Party { h2: Some(shared.clone()), ..Party::of(caller.clone()) }.all_forms(&portal, "").await;

        told(&stage, &["approvals", "suspend", &first, "--reason", "a question"]);
        let events = all_end(&mut stage, &portal, ours, "approval-revoked").await;
        assert!(events.iter().all(|event| event["approval"] == *first), "{events:?}");
        all_live(&portal, &mut theirs).await;
        told(&stage, &["approvals", "revoke", &second, "--reason", "contract ended"]);
        let events = all_end(&mut stage, &portal, theirs, "approval-revoked").await;
        assert!(events.iter().all(|event| event["approval"] == *second), "{events:?}");
        all_live_to_the_end(&portal, anonymous).await;
    });
}

#[test]
fn a_ban_of_an_address_or_an_identity_ends_exactly_what_is_theirs() {
    let (mut stage, portal) = house();
    run(async {
        let stranger = Party::of(Caller::new(&stage, [1, 1]));
        let proven = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let elsewhere = Party::of(Caller::new(&stage, [1, 2]));
        let strangers = stranger.all_forms(&portal, "").await;
        let mut provens = proven.all_forms(&portal, "").await;
        let mut elsewheres = elsewhere.all_forms(&portal, "").await;

        told(&stage, &["bans", "add", "127.0.1.1", "--reason", "abuse"]);
        all_end(&mut stage, &portal, strangers, "banned").await;
        all_live(&portal, &mut elsewheres).await;
        // Who proves who he is, is not held by an address ban, and comes in under it.
        all_live(&portal, &mut provens).await;
        let mut later = proven.all_forms(&portal, "later").await;

        told(&stage, &["bans", "add", "identity:acme:urn:acme:orders", "--reason", "abuse"]);
        provens.append(&mut later);
        all_end(&mut stage, &portal, provens, "banned").await;
        all_live_to_the_end(&portal, elsewheres).await;
    });
}

#[test]
fn behind_a_trusted_proxy_a_ban_of_one_client_ends_only_what_is_his() {
    let (mut stage, portal) = house();
    run(async {
        let proxy = Caller::new(&stage, [8, 1]);
        let shared = h2(&proxy).await;
        let client = |address: &str| Party {
            lines: format!("X-Forwarded-For: {address}\r\n"),
            h2: Some(shared.clone()),
            ..Party::of(proxy.clone())
        };
        let banned = client("203.0.113.7").all_forms(&portal, "").await;
        let beside = client("203.0.113.8").all_forms(&portal, "").await;
        told(&stage, &["bans", "add", "203.0.113.7", "--reason", "abuse"]);
        let events = all_end(&mut stage, &portal, banned, "banned").await;
        assert!(events.iter().all(|event| event["client"] == "203.0.113.7"), "{events:?}");
        all_live_to_the_end(&portal, beside).await;
    });
}

#[test]
fn a_reload_ends_whom_it_no_longer_lets_in_and_cuts_nobody_else() {
    let (mut stage, portal) = house_of(1);
    run(async {
        let partner = Party::of(Caller::new(&stage, [1, 1]).with("good"));
        let stranger = Party::of(Caller::new(&stage, [1, 2]));
        let mut partners = partner.all_forms(&portal, "").await;
        let mut strangers = stranger.all_forms(&portal, "").await;
        let changes: [fn(String) -> String; 3] = [
            |text| text,
            |text| text.replace("body = \"60s\"", "body = \"50s\""),
            // Its route is gone: what came by it goes on.
            |text| text.replace("path = \"/\"", "path = \"/login\""),
        ];
        for (number, change) in (0..).zip(changes) {
            let last = Party::of(Caller::new(&stage, [9, number])).form(&portal, "/download/", false, "last").await;
            let reloaded = rewrite(&stage, change);
            assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
            // Once who came last is out, everybody was decided anew by the new snapshot: there is one worker.
            told(&stage, &["bans", "add", &format!("127.0.9.{number}"), "--reason", "test"]);
            all_end(&mut stage, &portal, vec![last], "banned").await;
            all_live(&portal, &mut partners).await;
            all_live(&portal, &mut strangers).await;
        }
        let demanding =
            rewrite(&stage, |text| text.replace("path = \"/login\"\n ", "path = \"/\"\n  allow = [\"role:integrator\"]\n "));
        assert!(demanding.status.success(), "{}", String::from_utf8_lossy(&demanding.stderr));
        all_end(&mut stage, &portal, strangers, "not-permitted").await;
        all_live(&portal, &mut partners).await;
        // Nobody vouches any more for whom the application still takes for Acme.
        let open =
            rewrite(&stage, |text| text.replace("client_ca = [\"acme\"]\n", "").replace("  allow = [\"role:integrator\"]\n", ""));
        assert!(open.status.success(), "{}", String::from_utf8_lossy(&open.stderr));
        all_end(&mut stage, &portal, partners, "client-cert-refused").await;
    });
}

#[test]
fn a_failed_login_is_told_so_though_it_made_the_ban_and_an_operators_ban_ends_it() {
    let (mut stage, portal) = house();
    run(async {
        let caller = Caller::new(&stage, [1, 1]);
        let download = Party::of(caller.clone()).form(&portal, "/download/", false, "theirs").await;
        // Three failures ban; the answer to the last is still coming when the ban has long been reviewed.
        for number in 0..2 {
            assert_eq!(caller.send(form(), credentials("alice", &format!("guess {number}"))).await.status, 401);
        }
        let mut last = caller.shake().await.expect("a handshake");
        let body = credentials("alice", "guess slow");
        let ask = format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Type: \
             application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        last.write_all(ask.as_bytes()).await.expect("a reader");
        assert!(until(&mut last, "half of it").await.starts_with("HTTP/1.1 401"));
        event(&mut stage, &[r#""event":"ban.made""#, "127.0.1.1"]).await;
        all_end(&mut stage, &portal, vec![download], "banned").await;
        portal.change("login", |seen| seen.answer = true);
        until(&mut last, "and the rest").await;

        // Whom an operator bans while he waits for the outcome does not hear it.
        let other = Caller::new(&stage, [1, 3]);
        let mut waiting = other.shake().await.expect("a handshake");
        portal.change("login", |seen| seen.answer = false);
        waiting.write_all(ask.as_bytes()).await.expect("a reader");
        until(&mut waiting, "half of it").await;
        told(&stage, &["bans", "add", "127.0.1.3", "--reason", "abuse"]);
        event(&mut stage, &[r#""event":"exchange.ended""#, r#""client":"127.0.1.3""#]).await;
        assert!(!rest(&mut waiting).await.contains("and the rest"));
    });
}

#[test]
fn an_upload_over_http2_to_an_application_that_speaks_it_too_ends_on_both_sides() {
    let (tell, mut heard) = mpsc::unbounded_channel();
    let toy = Toy::hyper(true, None, move |request: http::Request<Incoming>| {
        let tell = tell.clone();
        async move {
            // The answer is there, and the request goes on.
            let mut body = request.into_body();
            tokio::spawn(async move {
                while let Some(frame) = body.frame().await {
                    let whole = frame.map(|frame| frame.into_data().expect("data").len()).map_err(|_| ());
                    let broken = whole.is_err();
                    let _ = tell.send(whole);
                    if broken {
                        break;
                    }
                }
            });
            http::Response::new(StreamBody::new(futures_util::stream::pending()).boxed_unsync())
        }
    });
    let mut stage =
        open(&format!("{}{}", BASE.replace("body = \"2s\"", "body = \"60s\""), toy.site().replace("http://", "h2c://")));
    run(async {
        let mut sender = h2(&Caller::new(&stage, [1, 1])).await;
        let (chunks, body) = uploading();
        let answer = sender.send_request(h2_request("POST", "/").body(body).expect("a request")).await.expect("an answer");
        chunks.send(Ok(Frame::data(Bytes::from_static(b"some")))).expect("an upload");
        assert_eq!(heard.recv().await, Some(Ok(4)));
        told(&stage, &["bans", "add", "127.0.1.1", "--reason", "abuse"]);
        event(&mut stage, &[r#""event":"exchange.ended""#, r#""reason":"banned""#]).await;
        // Not a byte more comes from the client: nothing but the end of the exchange can end the upload.
        assert_eq!(tokio::time::timeout(AT_LAST, heard.recv()).await.expect("the application is told"), Some(Err(())));
        assert!(answer.into_body().collect().await.is_err());
        let _ = chunks.send(Ok(Frame::data(Bytes::from_static(b"more"))));
        tokio::time::timeout(AT_LAST, chunks.closed()).await.expect("the stream is reset");
    });
}

/// An open site that asks for certificates, before an application of which nothing ever ends by itself.
fn house() -> (Stage, Arc<Portal>) {
    house_of(2)
}

fn house_of(workers: usize) -> (Stage, Arc<Portal>) {
    let portal = Arc::<Portal>::default();
    let shared = Arc::clone(&portal);
    let toy = Toy::start(move |stream, _| {
        let portal = Arc::clone(&shared);
        async move { portal.serve(stream).await }
    });
    let site = toy.site_with("", "login = \"form\"").replace("hosts", "client_ca = [\"acme\"]\nhosts");
    let trusting = BASE
        .replace("[deadlines]", "trusted_proxies = [\"127.0.8.0/24\"]\n[deadlines]")
        .replace("body = \"2s\"", "body = \"60s\"")
        .replace("workers = 2", &format!("workers = {workers}"));
    let guesses = "[guesses]\nper_client = { failures = 3, within = \"10m\" }\n";
    let stage = open(&format!("{trusting}{guesses}{LOGIN}{site}"));
    *portal.toy.lock().unwrap() = Some(toy);
    (stage, portal)
}

/// The application: what it knows of each exchange, by the last part of its path.
#[derive(Default)]
struct Portal {
    seen: Mutex<HashMap<String, Seen>>,
    changed: Notify,
    toy: Mutex<Option<Toy>>,
}

#[derive(Default)]
struct Seen {
    /// Bytes of the request, its head apart.
    bytes: usize,
    /// It was asked for.
    here: bool,
    /// Its connection is closed.
    gone: bool,
    /// It may be answered now.
    answer: bool,
}

impl Portal {
    async fn serve(&self, mut stream: TcpStream) {
        while let Some(head) = head(&mut stream).await {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (form, id) = path.rsplit_once('/').unwrap_or_default();
            self.change(id, |seen| seen.here = true);
            let over = match form {
                "/download" => self.download(&mut stream).await,
                "/upload" => self.upload(&mut stream, id).await,
                "/wait" => self.wait(&mut stream, id).await,
                "/socket" => self.socket(&mut stream).await,
                _ => self.login(&mut stream, &head).await,
            };
            if over.is_err() {
                return self.change(id, |seen| seen.gone = true);
            }
        }
    }

    async fn download(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        let mut byte = [0];
        loop {
            stream.write_all(b"5\r\nchunk\r\n").await?;
            // A slow sender, that sees at once when nobody listens any more.
            if let Ok(read) = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut byte)).await {
                return read.and(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn upload(&self, stream: &mut TcpStream, id: &str) -> std::io::Result<()> {
        let mut chunk = [0; 1024];
        loop {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.change(id, |seen| seen.bytes += read);
        }
    }

    async fn wait(&self, stream: &mut TcpStream, id: &str) -> std::io::Result<()> {
        let mut byte = [0];
        tokio::select! {
            read = stream.read(&mut byte) => read.and(Err(std::io::ErrorKind::UnexpectedEof.into())),
            () = self.until(id, |seen| seen.answer) => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nat last").await,
        }
    }

    async fn socket(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(head).await?;
        let mut frame = [0; 128];
        loop {
            let read = stream.read(&mut frame).await?;
            // A short masked frame under a key of zeros.
            let text = frame.get(6..read).ok_or(std::io::ErrorKind::UnexpectedEof)?;
            stream.write_all(&[&[0x81, u8::try_from(text.len()).unwrap()], text].concat()).await?;
        }
    }

    async fn login(&self, stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        if !String::from_utf8_lossy(&body).contains("slow") {
            return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
        }
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 22\r\n\r\nhalf of it").await?;
        self.until("login", |seen| seen.answer).await;
        stream.write_all(b"and the rest").await
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Seen)) {
        change(self.seen.lock().unwrap().entry(id.to_owned()).or_default());
        self.changed.notify_waiters();
    }

    async fn until(&self, id: &str, holds: impl Fn(&Seen) -> bool) {
        loop {
            let changed = self.changed.notified();
            if self.seen.lock().unwrap().get(id).is_some_and(&holds) {
                return;
            }
            changed.await;
        }
    }

    async fn soon(&self, id: &str, what: &str, holds: impl Fn(&Seen) -> bool) {
        let came = tokio::time::timeout(AT_LAST, self.until(id, holds)).await;
        assert!(came.is_ok(), "the application never saw that {id} {what}");
    }
}

/// Somebody who has exchanges under way.
struct Party {
    caller: Caller,
    /// More lines of his requests.
    lines: String,
    /// Over which his streams go; `None`: a connection for each.
    h2: Option<SendRequest<ToyBody>>,
}

/// One exchange under way.
struct Exchange {
    id: String,
    form: &'static str,
    client: Client,
}

enum Client {
    One(Box<TlsStream<TcpStream>>),
    /// A stream whose answer is coming.
    Answer(Incoming),
    /// One whose answer is awaited, with the end of its request that is sent.
    Waiting(JoinHandle<Result<http::Response<Incoming>, hyper::Error>>, Option<mpsc::UnboundedSender<Chunk>>),
}

pub type Chunk = Result<Frame<Bytes>, std::convert::Infallible>;

impl Party {
    fn of(caller: Caller) -> Self {
        Self { caller, lines: String::new(), h2: None }
    }

    /// Every form over HTTP/1, and all but the tunnel over HTTP/2.
    async fn all_forms(&self, portal: &Portal, tag: &str) -> Vec<Exchange> {
        let mut all = Vec::new();
        for form in FORMS {
            all.push(self.form(portal, form, false, tag).await);
            if form != "/socket/" {
                all.push(self.form(portal, form, true, tag).await);
            }
        }
        all
    }

    async fn form(&self, portal: &Portal, form: &'static str, two: bool, tag: &str) -> Exchange {
        let id = format!("{tag}{:x}", crate::support::random());
        let path = format!("{form}{id}");
        let client = if two { self.over_h2(form, &path).await } else { self.over_h1(form, &path).await };
        portal.soon(&id, "began", |seen| seen.here).await;
        let mut exchange = Exchange { id, form, client };
        exchange.lives(portal, false).await;
        exchange
    }

    async fn over_h1(&self, form: &str, path: &str) -> Client {
        let mut stream = self.caller.shake().await.expect("a handshake");
        let (method, more) = match form {
            "/upload/" => ("POST", "Transfer-Encoding: chunked\r\n"),
            "/socket/" => ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
            _ => ("GET", ""),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\n{more}{}\r\n", self.lines);
        stream.write_all(head.as_bytes()).await.expect("a reader");
        if form == "/socket/" {
            let answer = self::head(&mut stream).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        }
        Client::One(Box::new(stream))
    }

    async fn over_h2(&self, form: &str, path: &str) -> Client {
        let mut sender = match &self.h2 {
            Some(sender) => sender.clone(),
            None => h2(&self.caller).await,
        };
        let mut request = h2_request(if form == "/upload/" { "POST" } else { "GET" }, path);
        for (name, value) in self.lines.lines().filter_map(|line| line.split_once(": ")) {
            request = request.header(name, value);
        }
        if form == "/upload/" {
            let (chunks, body) = uploading();
            let answer = sender.send_request(request.body(body).expect("a request"));
            return Client::Waiting(tokio::spawn(answer), Some(chunks));
        }
        let answer = tokio::spawn(sender.send_request(request.body(full("")).expect("a request")));
        match form {
            "/download/" => Client::Answer(answer.await.expect("no panic").expect("an answer").into_body()),
            _ => Client::Waiting(answer, None),
        }
    }
}

impl Exchange {
    /// Bytes still move; `at_last` has who waits be answered, which is the end of his waiting.
    async fn lives(&mut self, portal: &Portal, at_last: bool) {
        let id = self.id.clone();
        let moved = async {
            match (self.form, &mut self.client) {
                ("/download/", Client::One(stream)) => {
                    until(stream, "chunk").await;
                    until(stream, "chunk").await;
                }
                ("/download/", Client::Answer(body)) => {
                    body.frame().await.expect("a frame").expect("no end");
                }
                ("/upload/", client) => {
                    let before = portal.seen.lock().unwrap()[&id].bytes;
                    match client {
                        Client::One(stream) => stream.write_all(b"4\r\nmore\r\n").await.expect("a reader"),
                        Client::Waiting(_, Some(chunks)) => {
                            chunks.send(Ok(Frame::data(Bytes::from_static(b"more")))).expect("sent")
                        }
                        _ => panic!("no upload"),
                    }
                    portal.until(&id, |seen| seen.bytes > before).await;
                }
                ("/wait/", client) if at_last => {
                    portal.change(&id, |seen| seen.answer = true);
                    match client {
                        Client::One(stream) => drop(until(stream, "at last").await),
                        Client::Waiting(answer, _) => {
                            assert_eq!(answer.await.expect("no panic").expect("an answer").status(), 200)
                        }
                        Client::Answer(_) => panic!("it waits"),
                    }
                }
                ("/wait/", _) => {}
                (_, Client::One(stream)) => Socket(stream).echo("still here").await.expect("an echo"),
                (form, _) => panic!("no {form} over HTTP/2"),
            }
        };
        tokio::time::timeout(AT_LAST, moved).await.unwrap_or_else(|_| panic!("{}{id} does not move", self.form));
    }

    /// It is ended for its client, and not as if it were whole.
    async fn ends(self) {
        let (form, id) = (self.form, self.id.clone());
        let ended = async {
            match self.client {
                Client::One(mut stream) => {
                    let told = rest(&mut stream).await;
                    assert!(!told.ends_with("0\r\n\r\n") && !told.contains("HTTP/1.1 403"), "{told}");
                }
                Client::Answer(mut body) => while body.frame().await.expect("no clean end").is_ok() {},
                Client::Waiting(answer, _) => drop(answer.await.expect("no panic").expect_err("an end")),
            }
        };
        tokio::time::timeout(AT_LAST, ended).await.unwrap_or_else(|_| panic!("{form}{id} goes on"));
    }
}

/// All of them end, towards their client and the application, each with an event and a record that say why; nobody else does.
async fn all_end(stage: &mut Stage, portal: &Portal, ending: Vec<Exchange>, reason: &str) -> Vec<Value> {
    let (mut records, mut events) = (Vec::new(), Vec::new());
    let tunnels = ending.iter().filter(|exchange| exchange.form == "/socket/").count();
    while events.len() < ending.len() || records.len() < ending.len() - tunnels {
        let line = tokio::time::timeout(AT_LAST, stage.events.recv()).await;
        let line = line.unwrap_or_else(|_| panic!("only {events:?} and {records:?}")).expect("the gateway lives");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        match told["event"].as_str() {
            Some("exchange.ended") => events.push(told),
            Some("request") if told["cut"] == true => records.push(told),
            _ => {}
        }
    }
    for told in events.iter().chain(&records) {
        assert_eq!(told["reason"], reason, "{told}");
    }
    for record in &records {
        let path = record["path"].as_str().expect("a path");
        assert!(ending.iter().any(|exchange| path.ends_with(&exchange.id)), "{record}");
        assert!(events.iter().any(|event| event["decision"] == record["decision"]), "{record} without its event");
    }
    assert_eq!(events.iter().filter(|event| event["tunnel"] == true).count(), tunnels);
    for exchange in ending {
        let id = exchange.id.clone();
        exchange.ends().await;
        portal.soon(&id, "ended", |seen| seen.gone).await;
    }
    events
}

async fn all_live(portal: &Portal, staying: &mut [Exchange]) {
    for exchange in staying {
        exchange.lives(portal, false).await;
    }
}

/// The same, and who waits is answered at last.
async fn all_live_to_the_end(portal: &Portal, staying: Vec<Exchange>) {
    for mut exchange in staying {
        exchange.lives(portal, true).await;
    }
}

pub async fn h2(caller: &Caller) -> SendRequest<ToyBody> {
    let stream = TokioIo::new(caller.h2_wire().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// The body of a request, and what is sent of it.
pub fn uploading() -> (mpsc::UnboundedSender<Chunk>, ToyBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let chunks = futures_util::stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    (sender, StreamBody::new(chunks).boxed_unsync())
}

/// A head without what follows it; `None` where the connection ends first.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// What comes up to a text.
pub async fn until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let (mut all, mut chunk) = (String::new(), [0; 4096]);
    while !all.contains(text) {
        let read = stream.read(&mut chunk).await.expect("no end");
        assert!(read > 0, "it ended after {all}");
        all.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    all
}

/// What comes up to the end, whichever that is.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    String::from_utf8_lossy(&until_closed(stream).await).into_owned()
}
