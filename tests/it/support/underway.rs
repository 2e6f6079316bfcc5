//! Exchanges of every form that nothing ends by itself, and what their clients and the application see of their end.

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

use super::caller::{Caller, until_closed};
use super::upstream::{Toy, ToyBody, full, h2_request};
use super::{BASE, LOGIN, Socket, Stage, open};

/// Whoever is to end has so long, and the machine may be busy; what is told of it is no matter of time.
pub const AT_LAST: Duration = Duration::from_secs(10);
/// In the application's way; the last part of each path is its own.
const FORMS: [&str; 4] = ["/download/", "/upload/", "/wait/", "/socket/"];

/// An open site that asks for certificates, before an application of which nothing ever ends by itself.
pub fn house() -> (Stage, Arc<Portal>) {
    house_of(2)
}

pub fn house_of(workers: usize) -> (Stage, Arc<Portal>) {
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
pub struct Portal {
    seen: Mutex<HashMap<String, Seen>>,
    changed: Notify,
    toy: Mutex<Option<Toy>>,
}

#[derive(Default)]
pub struct Seen {
    /// Bytes of the request, its head apart.
    bytes: usize,
    /// It was asked for.
    here: bool,
    /// Its connection is closed.
    gone: bool,
    /// It may be answered now.
    pub answer: bool,
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

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Seen)) {
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
pub struct Party {
    pub caller: Caller,
    /// More lines of his requests.
    pub lines: String,
    /// Over which his streams go; `None`: a connection for each.
    pub h2: Option<SendRequest<ToyBody>>,
}

/// One exchange under way.
pub struct Exchange {
    id: String,
    form: &'static str,
    client: Client,
}

pub enum Client {
    One(Box<TlsStream<TcpStream>>),
    /// A stream whose answer is coming.
    Answer(Incoming),
    /// One whose answer is awaited, with the end of its request that is sent.
    Waiting(JoinHandle<Result<http::Response<Incoming>, hyper::Error>>, Option<mpsc::UnboundedSender<Chunk>>),
}

pub type Chunk = Result<Frame<Bytes>, std::convert::Infallible>;

impl Party {
    pub fn of(caller: Caller) -> Self {
        Self { caller, lines: String::new(), h2: None }
    }

    /// Every form over HTTP/1, and all but the tunnel over HTTP/2.
    pub async fn all_forms(&self, portal: &Portal, tag: &str) -> Vec<Exchange> {
        let mut all = Vec::new();
        for form in FORMS {
            all.push(self.form(portal, form, false, tag).await);
            if form != "/socket/" {
                all.push(self.form(portal, form, true, tag).await);
            }
        }
        all
    }

    pub async fn form(&self, portal: &Portal, form: &'static str, two: bool, tag: &str) -> Exchange {
        let id = format!("{tag}{:x}", super::random());
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
    pub async fn lives(&mut self, portal: &Portal, at_last: bool) {
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
    pub async fn ends(self) {
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
pub async fn all_end(stage: &mut Stage, portal: &Portal, ending: Vec<Exchange>, reason: &str) -> Vec<Value> {
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

pub async fn all_live(portal: &Portal, staying: &mut [Exchange]) {
    for exchange in staying {
        exchange.lives(portal, false).await;
    }
}

/// The same, and who waits is answered at last.
pub async fn all_live_to_the_end(portal: &Portal, staying: Vec<Exchange>) {
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
pub async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    String::from_utf8_lossy(&until_closed(stream).await).into_owned()
}
