//! Lines: JSON with stable keys, and Apache's `combined` to the byte. Only what an [`Event`] carries can get here.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::telling::{Field, Telling};
use super::{Event, RequestRecord};

/// Longest text that a line takes over from one field, in bytes.
const MOST_TEXT: usize = 1024;

/// Appends one request as a JSON line.
pub(super) fn json_request(record: &RequestRecord, stamp: &mut Stamp, line: &mut Vec<u8>) {
    // One a request: its keys are written as they stand, and only text that wants escaping goes through the serializer.
    let mut object = Object(line);
    object.time("{\"time\":", record.at, stamp);
    object.plain(",\"event\":\"request\",\"severity\":\"");
    object.plain(record.severity().as_str());
    object.words("\",\"clauses\":", record.reason.map_or(&[][..], |reason| reason.clauses()));
    object.plain(",\"decision\":\"");
    object.0.extend_from_slice(&record.decision.hex());
    object.plain("\"");
    object.number(",\"generation\":", record.generation);
    let client = object.address(",\"client\":", record.client);
    object.plain(",\"peer\":");
    // Nearly always they are one.
    if record.peer == record.client {
        object.0.extend_from_within(client);
    } else {
        object.address("", record.peer);
    }
    object.text(",\"method\":", Some(record.method.as_str()));
    object.text(",\"host\":", Some(record.host.as_deref().unwrap_or_default()));
    object.text(",\"path\":", Some(path(record)));
    object.word(",\"protocol\":", Some(protocol(record.version)));
    object.text(",\"route\":", record.route.as_ref().map(|(_, label)| &**label));
    object.number(",\"status\":", u64::from(record.status));
    object.word(",\"reason\":", record.reason.map(|reason| reason.code()));
    object.text(",\"cause\":", record.cause.as_deref());
    object.text(",\"identity\":", record.identity.as_deref());
    object.text(",\"approval\":", record.approval.as_deref());
    object.word(",\"bot\":", record.bot);
    object.text(",\"upstream\":", record.upstream.as_deref());
    object.word(",\"tls\":", record.tls);
    object.number(",\"bytes_in\":", record.bytes_in);
    object.number(",\"bytes_out\":", record.bytes_out);
    object.duration(",\"duration_seconds\":", record.took);
    object.plain(if record.cut { ",\"cut\":true" } else { ",\"cut\":false" });
    object.text(",\"user_agent\":", record.user_agent.as_ref());
    object.text(",\"referer\":", referer(record));
    object.plain("}\n");
}

/// Appends one event as a JSON line.
pub(super) fn json_event(event: &Event, at: Timestamp, line: &mut Vec<u8>) {
    let start = line.len();
    match serde_json::to_writer(&mut *line, &EventLine(event.telling(), at)) {
        Ok(()) => line.push(b'\n'),
        // Maps with text keys and plain values always serialize; half a line would break its readers.
        Err(_) => line.truncate(start),
    }
}

/// Appends one request as Apache's `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"`. The user is the identity; the
/// request line has no query, since a query may hold a secret. A client that left before its answer is 499, as nginx has it.
pub(super) fn combined(record: &RequestRecord, line: &mut Vec<u8>) {
    let status = if record.status == 0 { 499 } else { record.status };
    let at = record.at.to_zoned(TimeZone::UTC);
    // Writing to a `Vec` cannot fail.
    let _ = write!(line, "{} - ", record.client);
    match &record.identity {
        Some(identity) => escaped(identity, true, line),
        None => line.push(b'-'),
    }
    let _ = write!(line, " [{}] \"", at.strftime("%d/%b/%Y:%H:%M:%S %z"));
    escaped(record.method.as_str(), false, line);
    line.push(b' ');
    escaped(path(record), false, line);
    let _ = write!(line, " {:?}\" {status} ", record.version);
    match record.bytes_out {
        0 => line.push(b'-'),
        bytes => drop(write!(line, "{bytes}")),
    }
    for field in [referer(record), record.user_agent.as_ref().map(AsRef::as_ref)] {
        line.extend_from_slice(b" \"");
        escaped(&field.map_or(Cow::Borrowed("-"), lossy), false, line);
        line.push(b'"');
    }
    line.push(b'\n');
}

/// Apache's escapes: quotes and backslashes by a backslash, all that is not printable ASCII as `\xHH`.
fn escaped(text: &str, blanks: bool, line: &mut Vec<u8>) {
    for &byte in capped(text).as_bytes() {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b' ' if !blanks => line.push(byte),
            0x21..=0x7e => line.push(byte),
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

/// The second that was told last, as lines write it: a busy worker tells thousands of requests in one.
#[derive(Default)]
pub(super) struct Stamp {
    second: i64,
    /// `2026-03-04T05:06:07.`; empty before the first.
    text: String,
}

impl Stamp {
    /// RFC 3339 up to the milliseconds; `None` before 1970.
    fn upto_millis(&mut self, at: Timestamp) -> Option<&str> {
        let second = at.as_second();
        if second < 0 {
            return None;
        }
        if self.second != second || self.text.is_empty() {
            let whole = Timestamp::from_second(second).ok()?.to_string();
            self.text = format!("{}.", whole.strip_suffix('Z')?);
            self.second = second;
        }
        Some(&self.text)
    }
}

/// A JSON object in the making; each key comes with its comma and colon. Writing to a `Vec` cannot fail.
struct Object<'l>(&'l mut Vec<u8>);

impl Object<'_> {
    fn plain(&mut self, text: &'static str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A name that the source gives, and that needs no escapes.
    fn word(&mut self, key: &'static str, word: Option<&'static str>) {
        let Some(word) = word else { return };
        self.plain(key);
        self.plain("\"");
        self.plain(word);
        self.plain("\"");
    }

    fn words(&mut self, key: &'static str, words: &[&'static str]) {
        self.plain(key);
        let mut before = "[";
        for word in words {
            self.word(before, Some(word));
            before = ",";
        }
        self.plain(if words.is_empty() { "[]" } else { "]" });
    }

    /// What is no UTF-8 shows as U+FFFD.
    fn text(&mut self, key: &'static str, text: Option<impl AsRef<[u8]>>) {
        let Some(text) = text else { return };
        let text = text.as_ref();
        self.plain(key);
        if text.len() <= MOST_TEXT && is_plain(text) {
            self.0.push(b'"');
            self.0.extend_from_slice(text);
            self.0.push(b'"');
        } else {
            let _ = serde_json::to_writer(&mut *self.0, &Text(&lossy(text)));
        }
    }

    fn time(&mut self, key: &'static str, at: Timestamp, stamp: &mut Stamp) {
        self.plain(key);
        let Some(upto_millis) = stamp.upto_millis(at) else {
            let _ = serde_json::to_writer(&mut *self.0, &Rfc3339(at));
            return;
        };
        self.0.push(b'"');
        self.0.extend_from_slice(upto_millis.as_bytes());
        push_fraction(at.subsec_millisecond().unsigned_abs(), 3, self.0);
        self.0.extend_from_slice(b"Z\"");
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.plain(key);
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Returns where the value stands.
    fn address(&mut self, key: &'static str, address: IpAddr) -> Range<usize> {
        self.plain(key);
        let start = self.0.len();
        self.0.push(b'"');
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.0.push(b'.');
                    }
                    self.0.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
        self.0.push(b'"');
        start..self.0.len()
    }

    /// In seconds. Whole microseconds: finer digits would only be noise.
    fn duration(&mut self, key: &'static str, duration: Duration) {
        self.number(key, duration.as_secs());
        self.0.push(b'.');
        push_fraction(duration.subsec_micros(), 6, self.0);
        let zeros = self.0.iter().rev().take(5).take_while(|digit| **digit == b'0').count();
        self.0.truncate(self.0.len() - zeros);
    }
}

/// Whether a text stands in JSON as it is. It never ends early, so that many bytes are compared at a time.
fn is_plain(text: &[u8]) -> bool {
    let needs_care = |byte: u8| !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\');
    !text.iter().fold(false, |any, &byte| any | needs_care(byte))
}

/// A fraction of so many decimal places.
fn push_fraction(number: u32, places: usize, line: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(number);
    line.extend(std::iter::repeat_n(b'0', places.saturating_sub(digits.len())));
    line.extend_from_slice(digits.as_bytes());
}

/// Of a stranger's bytes no more than a line would take over.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // A few more than are kept, so that the cut falls on a character.
    String::from_utf8_lossy(bytes.get(..MOST_TEXT + 4).unwrap_or(bytes))
}

fn path(record: &RequestRecord) -> &str {
    record.target.as_ref().map_or("", |target| target.path())
}

/// A query may hold a secret.
fn referer(record: &RequestRecord) -> Option<&[u8]> {
    record.referer.as_ref()?.as_bytes().split(|byte| matches!(byte, b'?' | b'#')).next()
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

struct EventLine<'a>(Telling<'a>, Timestamp);

impl Serialize for EventLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(telling, at) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &Rfc3339(*at))?;
        map.serialize_entry("event", telling.name)?;
        map.serialize_entry("severity", telling.severity.as_str())?;
        map.serialize_entry("clauses", telling.clauses)?;
        for (key, field) in telling.fields() {
            match field {
                Field::Text(text) => map.serialize_entry(key, &Text(text))?,
                Field::Shown(value) => map.serialize_entry(key, &Shown(value))?,
                Field::Number(number) => map.serialize_entry(key, number)?,
                Field::Flag(flag) => map.serialize_entry(key, flag)?,
                Field::Time(time) if *time == Timestamp::MAX => map.serialize_entry(key, "forever")?,
                Field::Time(time) => map.serialize_entry(key, &Rfc3339(*time))?,
                Field::Seconds(duration) => map.serialize_entry(key, &seconds(*duration))?,
                Field::Texts(texts) => {
                    map.serialize_entry(key, &texts.iter().take(MOST_TEXTS).map(|text| Text(text)).collect::<Vec<_>>())?
                }
            }
        }
        map.end()
    }
}

/// Most texts of a list that a line takes over.
const MOST_TEXTS: usize = 64;

/// RFC 3339 in UTC with milliseconds.
struct Rfc3339(Timestamp);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.3}", self.0))
    }
}

struct Shown<'a>(&'a dyn Display);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_string();
        Text(&text).serialize(serializer)
    }
}

/// A capped text whose control characters cannot reach a terminal: JSON escapes those below 0x20, this the others.
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = capped(self.0);
        let hidden = |c: char| c >= '\u{7f}' && c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let text = if text.is_ascii() && !text.contains('\u{7f}') || !text.contains(hidden) {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(text.replace(hidden, "\u{fffd}"))
        };
        serializer.serialize_str(&text)
    }
}

fn capped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MOST_TEXT)).unwrap_or_default()
}

/// Whole microseconds: finer digits would only be noise.
fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}
