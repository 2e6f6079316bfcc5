//! An upstream that reads HTTP/1.1 by the letter and forgives nothing. What it cannot read as exactly one request after
//! another is kept as the bytes that came.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A running recorder; it ends with the runtime it was started on.
#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    moved: Arc<Notify>,
}

#[derive(Default)]
struct Seen {
    arrived: Vec<Arrived>,
    /// Who asked for what was cut, and was told later than it was asked for.
    late: Vec<String>,
    /// Bytes of a request that is not whole, by connection.
    partial: HashMap<SocketAddr, Vec<u8>>,
}

/// What came in, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrived {
    Whole(Sent),
    /// The connection ended amid a request.
    Cut(Vec<u8>),
    /// Bytes that are no request.
    Garbage(String, Vec<u8>),
}

/// One request as it came, but for what every request gets on its way (address, id).
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub line: String,
    /// `name: value`, sorted, with the framing field.
    pub fields: Vec<String>,
    pub body: Vec<u8>,
}

/// Set anew by the gateway on every request.
const VOLATILE: [&str; 6] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "doorward-decision", "user-agent"];

impl Sent {
    /// To `localhost`, without a body.
    pub fn new(line: &str) -> Self {
        Self { line: format!("{line} HTTP/1.1"), fields: vec!["host: localhost".to_owned()], body: Vec::new() }
    }

    pub fn field(mut self, field: &str) -> Self {
        self.fields.push(field.to_owned());
        self.fields.sort();
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.fields.retain(|field| !field.starts_with("host:"));
        self.field(&format!("host: {host}"))
    }

    /// Of known length.
    pub fn sized(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        let length = body.len();
        self.field(&format!("content-length: {length}"))
    }

    pub fn chunked(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.field("transfer-encoding: chunked")
    }
}

impl Recorder {
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let recorder = Self { address: listener.local_addr()?, seen: Arc::default(), moved: Arc::default() };
        let accepting = recorder.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(stream, peer));
            }
        });
        Ok(recorder)
    }

    /// What came since this was last asked, once no request is half there.
    pub async fn take(&self) -> Vec<Arrived> {
        let settled = async {
            loop {
                let moved = self.moved.notified();
                if self.seen().partial.is_empty() {
                    return;
                }
                moved.await;
            }
        };
        let settled = super::within(settled).await.is_ok();
        let mut seen = self.seen();
        let mut arrived = std::mem::take(&mut seen.arrived);
        if !settled {
            arrived.extend(seen.partial.drain().map(|(_, bytes)| Arrived::Garbage("half there for ever".to_owned(), bytes)));
        }
        arrived
    }

    /// Waits until a part of a request is there.
    pub async fn begun(&self) -> std::io::Result<()> {
        let begun = async {
            loop {
                let moved = self.moved.notified();
                if !self.seen().partial.is_empty() {
                    return;
                }
                moved.await;
            }
        };
        super::within(begun).await
    }

    /// What [`Self::take`] gives, but for the cut requests of other clients: their connections may end after their answers. Who
    /// they were is kept for [`Self::late`].
    pub async fn take_of(&self, client: IpAddr) -> Vec<Arrived> {
        let mut arrived = self.take().await;
        let own = client.to_string();
        arrived.retain(|arrived| match arrived {
            Arrived::Cut(bytes) => match asked_by(bytes).filter(|by| *by != own) {
                Some(another) => {
                    self.seen().late.push(another);
                    false
                }
                None => true,
            },
            _ => true,
        });
        arrived
    }

    /// Clients whose requests were cut after others were asked for.
    pub fn late(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().late)
    }

    async fn serve(self, mut stream: TcpStream, peer: SocketAddr) {
        let mut bytes = Vec::new();
        loop {
            let early = early(&bytes);
            match parse(&bytes) {
                Ok(None) => {}
                Ok(Some((sent, length))) => {
                    let head = sent.line.starts_with("HEAD ");
                    bytes.drain(..length);
                    self.note(peer, Some(Arrived::Whole(sent)), &bytes);
                    let answer = if head { &ANSWER[..ANSWER.len() - 2] } else { ANSWER };
                    if !early && stream.write_all(answer).await.is_err() {
                        return self.note(peer, None, &[]);
                    }
                    continue;
                }
                Err(why) => return self.note(peer, Some(Arrived::Garbage(why, bytes)), &[]),
            }
            let before = bytes.len();
            let read = stream.read_buf(&mut bytes).await;
            if !matches!(read, Ok(1..)) {
                let cut = (!bytes.is_empty()).then_some(Arrived::Cut(bytes));
                return self.note(peer, cut, &[]);
            }
            self.note(peer, None, &bytes);
            if !self::early(&bytes[..before]) && self::early(&bytes) && stream.write_all(ANSWER).await.is_err() {
                return self.note(peer, None, &[]);
            }
        }
    }

    fn note(&self, peer: SocketAddr, arrived: Option<Arrived>, rest: &[u8]) {
        let mut seen = self.seen();
        seen.arrived.extend(arrived);
        if rest.is_empty() {
            seen.partial.remove(&peer);
        } else {
            seen.partial.insert(peer, rest.to_vec());
        }
        drop(seen);
        self.moved.notify_waiters();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The client that a request's head names, where a gateway said so.
fn asked_by(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(bytes);
    let client = head.split("\r\n").find_map(|line| line.strip_prefix("x-forwarded-for: "))?;
    Some(client.to_owned())
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A whole head of a request for `/early`: answered before its body is read.
fn early(bytes: &[u8]) -> bool {
    bytes.starts_with(b"POST /early ") && find(bytes, b"\r\n\r\n").is_some()
}

/// The first request of the bytes and its length; `None`: more must come.
fn parse(bytes: &[u8]) -> Result<Option<(Sent, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > 256 * 1024 { Err("an endless head".to_owned()) } else { Ok(None) };
    };
    let head = &bytes[..end + 2];
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\n' if at == 0 || head[at - 1] != b'\r' => return Err("a bare LF".to_owned()),
            b'\r' if head.get(at + 1) != Some(&b'\n') => return Err("a bare CR".to_owned()),
            0 => return Err("a NUL".to_owned()),
            _ => {}
        }
    }
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let line = lines.next().ok_or("no request line")?.to_owned();
    let parts: Vec<&str> = line.split(' ').collect();
    if parts.len() != 3 || parts[2] != "HTTP/1.1" || parts[1].is_empty() {
        return Err(format!("the request line {line:?}"));
    }
    let (mut fields, mut hosts, mut length, mut chunked) = (Vec::new(), 0, None, false);
    for field in lines {
        let (name, value) = field.split_once(':').ok_or_else(|| format!("the line {field:?}"))?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
            return Err(format!("the name {name:?}"));
        }
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_some() || chunked => return Err("two framings".to_owned()),
            "content-length" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                length = Some(value.parse::<usize>().map_err(|error| error.to_string())?);
            }
            "transfer-encoding" if length.is_none() && !chunked && value == "chunked" => chunked = true,
            "content-length" | "transfer-encoding" => return Err(format!("the framing {field:?}")),
            "content_length" | "transfer_encoding" => return Err(format!("an alias of framing: {field:?}")),
            _ => {}
        }
        if !VOLATILE.contains(&name.as_str()) {
            fields.push(format!("{name}: {value}"));
        }
    }
    if hosts != 1 {
        return Err(format!("{hosts} Host lines"));
    }
    fields.sort();
    let rest = &bytes[end + 4..];
    let (body, taken) = if chunked {
        match dechunk(rest)? {
            Some(done) => done,
            None => return Ok(None),
        }
    } else {
        let length = length.unwrap_or(0);
        match rest.get(..length) {
            Some(body) => (body.to_vec(), length),
            None => return Ok(None),
        }
    };
    Ok(Some((Sent { line, fields, body }, end + 4 + taken)))
}

fn dechunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        let size = std::str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size =
            size.and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or_else(|| format!("the chunk line {line:?}"))?;
        at += end + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err(if size == 0 { "trailers" } else { "a chunk without its end" }.to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
