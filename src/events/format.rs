//! Lines: JSON with stable keys, and Apache's `combined` to the byte. Only what an [`Event`] carries can get here.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::telling::{Field, Telling};
use super::{Event, RequestRecord};

/// Longest text that a line takes over from one field, in bytes.
const MOST_TEXT: usize = 1024;

/// Appends one request as a JSON line.
pub(super) fn json_request(record: &RequestRecord, line: &mut Vec<u8>) {
    // One a request: its keys are written as they stand, and only text that wants escaping goes through the serializer.
    let mut object = Object(line);
    object.value("{\"time\":", &Rfc3339(record.at));
    object.plain(",\"event\":\"request\",\"severity\":\"");
    object.plain(record.severity().as_str());
    object.value("\",\"clauses\":", record.reason.map_or(&[][..], |reason| reason.clauses()));
    object.shown(",\"decision\":", &record.decision);
    object.value(",\"generation\":", &record.generation);
    object.shown(",\"client\":", &record.client);
    object.shown(",\"peer\":", &record.peer);
    object.text(",\"method\":", Some(record.method.as_str()));
    object.text(",\"host\":", Some(&record.host));
    object.text(",\"path\":", Some(&record.path));
    object.text(",\"protocol\":", Some(protocol(record.version)));
    object.text(",\"route\":", record.route.as_ref().map(|(_, label)| &**label));
    object.value(",\"status\":", &record.status);
    object.text(",\"reason\":", record.reason.map(|reason| reason.code()));
    object.text(",\"cause\":", record.cause.as_deref());
    object.text(",\"identity\":", record.identity.as_deref());
    object.text(",\"approval\":", record.approval.as_deref());
    object.text(",\"bot\":", record.bot);
    object.text(",\"upstream\":", record.upstream.as_deref());
    object.text(",\"tls\":", record.tls);
    object.value(",\"bytes_in\":", &record.bytes_in);
    object.value(",\"bytes_out\":", &record.bytes_out);
    object.value(",\"duration_seconds\":", &seconds(record.took));
    object.value(",\"cut\":", &record.cut);
    object.text(",\"user_agent\":", record.user_agent.as_deref());
    object.text(",\"referer\":", record.referer.as_deref());
    object.plain("}\n");
}

/// Appends one event as a JSON line; a request's own time stands in place of `at`.
pub(super) fn json_event(event: &Event, at: Timestamp, line: &mut Vec<u8>) {
    match event {
        Event::Request(record) => json_request(record, line),
        event => json(&EventLine(event.telling(), at), line),
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
    escaped(&record.path, false, line);
    let _ = write!(line, " {:?}\" {status} ", record.version);
    match record.bytes_out {
        0 => line.push(b'-'),
        bytes => drop(write!(line, "{bytes}")),
    }
    for field in [&record.referer, &record.user_agent] {
        line.extend_from_slice(b" \"");
        escaped(field.as_deref().unwrap_or("-"), false, line);
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

fn json(value: &impl Serialize, line: &mut Vec<u8>) {
    let start = line.len();
    match serde_json::to_writer(&mut *line, value) {
        Ok(()) => line.push(b'\n'),
        // Maps with text keys and plain values always serialize; half a line would break its readers.
        Err(_) => line.truncate(start),
    }
}

/// A JSON object in the making; each key comes with its comma and colon. Writing to a `Vec` cannot fail.
struct Object<'l>(&'l mut Vec<u8>);

impl Object<'_> {
    fn plain(&mut self, text: &'static str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, key: &'static str, value: &(impl Serialize + ?Sized)) {
        self.plain(key);
        let _ = serde_json::to_writer(&mut *self.0, value);
    }

    fn text(&mut self, key: &'static str, text: Option<&str>) {
        let Some(text) = text else { return };
        let needs_no_care = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if text.len() > MOST_TEXT || !text.bytes().all(needs_no_care) {
            return self.value(key, &Text(text));
        }
        self.plain(key);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    /// Of what prints in letters, digits, dots, colons and dashes alone: addresses and ids.
    fn shown(&mut self, key: &'static str, value: &dyn Display) {
        self.plain(key);
        let _ = write!(self.0, "\"{value}\"");
    }
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
fn seconds(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}
