//! Heads: the request's as it is written, the response's as it is read.

use std::io::Write as _;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, request};

use super::super::outgoing::{Framing, field};
use super::Fault;

/// Fields of a head, or of trailers.
const MAX_FIELDS: usize = 100;

/// With what every response begins.
const PREFIX: &[u8] = b"HTTP/1.";

/// The head of a response.
pub(super) struct Head {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
}

/// Looks for the empty line that ends a block of lines, each byte once however they arrive.
#[derive(Default)]
pub(super) struct Lines {
    looked_at: usize,
    /// Where the line begins that has not ended yet.
    line: usize,
}

/// The names of a head's fields in their order, each beside how it was written: a server sends the same ones again and again, and
/// comparing one costs less than making it of its bytes. No more of them than [`MAX_FIELDS`].
#[derive(Default)]
pub(super) struct Names(Vec<(Box<str>, HeaderName)>);

/// Writes a request in HTTP/1.1: origin-form target, `Host`, the one framing that is given. What the head says of
/// framing and connection is not asked (RFC 9112 section 6.3). `preset` are whole lines.
pub(super) fn write(out: &mut Vec<u8>, head: &request::Parts, framing: Framing, preset: &[u8]) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let (mut host, mut te, mut upgrade) = (false, false, false);
    for (name, value) in &head.headers {
        if *name == CONNECTION || *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING {
            continue;
        }
        host |= *name == HOST;
        te |= *name == TE;
        upgrade |= *name == UPGRADE;
        field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(preset);
    if let Some(authority) = head.uri.authority().filter(|_| !host) {
        field(out, "host", authority.as_str().as_bytes());
    }
    // RFC 9110 section 10.1.4: who sends TE names it in Connection.
    match (te, upgrade) {
        (true, true) => field(out, "connection", b"upgrade, te"),
        (true, false) => field(out, "connection", b"te"),
        (false, true) => field(out, "connection", b"upgrade"),
        (false, false) => {}
    }
    match framing {
        Framing::None => {}
        Framing::Empty => field(out, "content-length", b"0"),
        Framing::Exact(length) => {
            // A vector takes whatever is written.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Unknown => field(out, "transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

impl Head {
    /// Reads a whole head, up to and with its empty line, into `fields`, which is empty. Fails closed: what is not strictly RFC 9112
    /// is refused. `names` are those of the head before.
    pub fn parse(block: Bytes, mut fields: HeaderMap, names: &mut Names) -> Result<Self, Fault> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, &block, &mut slots)
            .map_err(unread)?;
        if parsed != httparse::Status::Complete(block.len()) {
            return Err(Fault::Malformed("its head has two ends"));
        }
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
        collect(&mut fields, &block, response.headers, names)?;
        Ok(Self {
            status: status.ok_or(Fault::Malformed("its status is none"))?,
            version: if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 },
            headers: fields,
        })
    }

    /// Whether another response follows before the end of the exchange.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Reads trailers, up to and with their empty line.
pub(super) fn trailers(block: &Bytes) -> Result<HeaderMap, Fault> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(block, &mut slots).map_err(unread)? {
        httparse::Status::Complete((end, read)) if end == block.len() => {
            let mut fields = HeaderMap::new();
            collect(&mut fields, block, read, &mut Names::default())?;
            Ok(fields)
        }
        _ => Err(Fault::Malformed("its trailers have two ends")),
    }
}

impl Names {
    /// The name at this place: that of the head before, or a new one, which takes its place.
    fn at(&mut self, place: usize, name: &str) -> Result<HeaderName, Fault> {
        let known = self.0.get_mut(place);
        if let Some((written, known)) = &known
            && **written == *name
        {
            return Ok(known.clone());
        }
        let made = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Fault::Malformed("a field has no name"))?;
        let new = (name.into(), made.clone());
        match known {
            Some(known) => *known = new,
            None => self.0.push(new),
        }
        Ok(made)
    }
}

impl Lines {
    /// As [`Lines::end`]; what cannot become the head of a response is refused before its end.
    pub fn end_of_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        if self.looked_at < PREFIX.len() && !bytes.iter().zip(PREFIX).all(|(is, should)| is == should) {
            return Err(Fault::Malformed("it does not begin like one"));
        }
        self.end(bytes)
    }

    /// Where the block ends, once it does. Fails closed: a line feed alone ends no line, and is refused.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(at) = bytes.get(self.looked_at..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let feed = self.looked_at + at;
            let line = bytes.get(self.line..feed).and_then(|line| line.strip_suffix(b"\r"));
            let Some(line) = line else { return Err(Fault::Malformed("a line feed stands alone")) };
            self.looked_at = feed + 1;
            self.line = feed + 1;
            if line.is_empty() {
                return Ok(Some(feed + 1));
            }
        }
        self.looked_at = bytes.len();
        Ok(None)
    }
}

/// Names and values that lie in `block`; the values share it.
fn collect(fields: &mut HeaderMap, block: &Bytes, read: &[httparse::Header<'_>], names: &mut Names) -> Result<(), Fault> {
    fields.reserve(read.len());
    for (place, httparse::Header { name, value }) in read.iter().filter(|field| !is_usual(field)).enumerate() {
        let name = names.at(place, name)?;
        let value =
            HeaderValue::from_maybe_shared(block.slice_ref(value)).map_err(|_| Fault::Malformed("a field has no value"))?;
        fields.append(name, value);
    }
    Ok(())
}

/// A connection is kept unless it says otherwise (RFC 9112 section 9.3); servers say so all the same. What ends here anyway need not
/// be taken out again.
fn is_usual(field: &httparse::Header<'_>) -> bool {
    field.value.eq_ignore_ascii_case(b"keep-alive") && field.name.eq_ignore_ascii_case("connection")
}

fn unread(error: httparse::Error) -> Fault {
    Fault::Malformed(match error {
        httparse::Error::TooManyHeaders => "it has too many fields",
        httparse::Error::HeaderName => "the name of a field",
        httparse::Error::HeaderValue => "the value of a field",
        httparse::Error::Status => "its status line",
        httparse::Error::Version => "its version",
        httparse::Error::NewLine => "the end of a line",
        httparse::Error::Token => "a token",
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_reads_the_same_whatever_heads_came_before_it(
            heads in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![
                        "[A-Za-z-]{1,3}",
                        prop::sample::select(vec!["Date", "date", "ETag", "X-One", "x-one", "X-Two"]).prop_map(str::to_owned),
                    ],
                    0..6,
                ),
                1..8,
            ),
        ) {
            let mut names = Names::default();
            for fields in heads {
                let lines: String = fields.iter().map(|name| format!("{name}: {name}\r\n")).collect();
                let block = Bytes::from(format!("HTTP/1.1 200 OK\r\n{lines}\r\n"));
                let read = Head::parse(block, HeaderMap::new(), &mut names).unwrap().headers;
                let mut expected = HeaderMap::new();
                for name in &fields {
                    expected.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(name).unwrap());
                }
                prop_assert_eq!(read, expected);
            }
        }
    }
}
