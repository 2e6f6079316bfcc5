//! Plays one request form and says what came of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::forms::Form;
use super::recorder::{Arrived, Recorder, Sent};
use super::{Door, Stream, within};

/// What a form led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Statuses of the answers to the form.
    pub answers: Vec<u16>,
    /// What the upstream received, the canary not counted.
    pub upstream: Vec<Arrived>,
    /// The request sent afterwards on the same connection was answered.
    pub kept: bool,
}

/// Sent behind every form: whoever is out of step with its connection takes it for something else.
const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Plays a form on a connection of its own. Sends its bytes, reads as many answers as are expected, then sends what follows.
pub async fn play(door: &Door, recorder: &Recorder, form: &Form, from: [u8; 2]) -> std::io::Result<Outcome> {
    let mut stream = door.tls(from, "http/1.1").await?;
    // The peer may have closed already: then the answer tells.
    let _ = stream.write_all(&form.bytes).await;
    let _ = stream.flush().await;
    if form.ends {
        let _ = stream.shutdown().await;
    }
    let mut reader = Reader::default();
    let mut answers = Vec::new();
    let mut open = true;
    while open && answers.len() < form.answers.len().max(1) {
        match within(reader.answer(&mut stream, form.heads)).await? {
            Some(answer) => {
                open = !answer.close;
                answers.push(answer.status);
            }
            None => open = false,
        }
    }
    let _ = stream.write_all(form.then.unwrap_or(CANARY)).await;
    let _ = stream.flush().await;
    let mut kept = false;
    if open && form.then.is_none() {
        kept = within(reader.answer(&mut stream, false)).await?.is_some_and(|answer| answer.status == 200);
    }
    let _ = stream.shutdown().await;
    // What else is said belongs to nobody.
    while let Ok(Ok(Some(answer))) = tokio::time::timeout(super::PATIENCE, reader.try_answer(&mut stream)).await {
        if form.then.is_none() {
            answers.push(answer.status);
        }
    }
    let mut upstream = recorder.take_of(client_address(from)).await;
    let canary = Arrived::Whole(Sent::new("GET /canary"));
    if kept && upstream.last() == Some(&canary) {
        upstream.pop();
    }
    Ok(Outcome { answers, upstream, kept })
}

/// The last two numbers of the client of the form in that place: each has one of its own.
pub fn from(place: usize) -> [u8; 2] {
    [100 + (place / 200) as u8, 1 + (place % 200) as u8]
}

/// What reached the upstream of a form after the form was judged, where that was not its right.
pub async fn late(recorder: &Recorder, forms: &[Form]) -> Vec<String> {
    recorder.take().await;
    let told = |client: String| {
        let is_its = |place| client == client_address(from(place)).to_string();
        let form = forms.iter().enumerate().find(|(place, _)| is_its(*place)).map(|(_, form)| form);
        let name = form.map_or(&*client, |form| form.name);
        (!form.is_some_and(|form| form.cut)).then(|| format!("{name}: the upstream received a part of it, late"))
    };
    recorder.late().into_iter().filter_map(told).collect()
}

fn client_address([third, fourth]: [u8; 2]) -> IpAddr {
    Ipv4Addr::new(127, 0, third, fourth).into()
}

struct Answer {
    status: u16,
    close: bool,
}

/// Reads answers off a connection.
#[derive(Default)]
struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// `None`: the connection ended before there was one.
    async fn answer(&mut self, stream: &mut Stream, bodiless: bool) -> Option<Answer> {
        loop {
            if let Some((answer, length)) = parse(&self.bytes, bodiless) {
                self.bytes.drain(..length);
                match answer.status {
                    100..200 => continue,
                    _ => return Some(answer),
                }
            }
            if !matches!(stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    async fn try_answer(&mut self, stream: &mut Stream) -> std::io::Result<Option<Answer>> {
        Ok(self.answer(stream, false).await)
    }
}

fn parse(bytes: &[u8], bodiless: bool) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..end)?).to_ascii_lowercase();
    let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mut length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if bodiless || status < 200 || status == 304 {
        length = 0;
    }
    (bytes.len() >= end + length).then(|| (Answer { status, close: field("connection") == Some("close") }, end + length))
}

impl Outcome {
    /// What is wrong with it; `None`: nothing.
    pub fn differs(&self, form: &Form) -> Option<String> {
        let mut told = Vec::new();
        let fits = self.answers.len() == form.answers.len()
            && self.answers.iter().zip(&form.answers).all(|(seen, expected)| expected.contains(seen));
        if !fits {
            told.push(format!("answers {:?}, expected {:?}", self.answers, form.answers));
        }
        let mut expected = form.upstream.iter();
        let mut seen = self.upstream.iter();
        loop {
            match (seen.next(), expected.next()) {
                (None, None) => break,
                (Some(Arrived::Whole(seen)), Some(expected)) if seen == expected => {}
                (Some(Arrived::Cut(_)), _) if form.cut => {}
                (seen, expected) => told.push(format!("the upstream received {seen:?}, expected {expected:?}")),
            }
        }
        if self.kept && form.closes {
            told.push("the connection was kept".to_owned());
        }
        (!told.is_empty()).then(|| told.join("; "))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.upstream.iter().filter(|arrived| matches!(arrived, Arrived::Whole(_))).count();
        let cut = self.upstream.iter().filter(|arrived| matches!(arrived, Arrived::Cut(_))).count();
        let garbage = self.upstream.len() - whole - cut;
        write!(f, "{:?}, {whole} upstream", self.answers)?;
        if cut > 0 {
            write!(f, ", {cut} cut")?;
        }
        if garbage > 0 {
            write!(f, ", {garbage} garbage")?;
        }
        write!(f, ", {}", if self.kept { "kept" } else { "closed" })
    }
}
