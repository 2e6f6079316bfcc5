//! A second, stricter reading of HTTP/1 framing beside hyper's, which settles by itself what two readers may settle otherwise.

use std::sync::Arc;

use memchr::memchr;

use super::sift::Sift;
use super::wire::Watch;

/// Reads the heads of a connection for what is ambiguous: a bare LF or CR, both Content-Length and Transfer-Encoding, either
/// of them twice, a coding that is not `chunked`, a fragment.
///
/// Fails closed: the request whose head it is in is refused and its connection closed, and so is whatever follows a body whose
/// end this reading did not find. It never makes anything pass that hyper refuses.
pub(super) struct Heads {
    watch: Arc<Watch>,
    state: State,
    /// Heads read so far.
    heads: usize,
    head: Head,
    /// What came of a line whose end did not.
    begun: Begun,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailers,
    /// A fault was found, or there is nothing more to find.
    Over,
}

/// What a head said of its body.
#[derive(Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
}

/// The beginning of a line that comes in pieces; the longest that says anything about framing has room.
struct Begun {
    kept: [u8; MOST],
    length: usize,
    ends_in_cr: bool,
    bare_cr: bool,
    fragment: bool,
}

/// A line without its line feed: what was kept of it, how long it is, and what stands in it.
struct Line<'a> {
    kept: &'a [u8],
    length: usize,
    ends_in_cr: bool,
    bare_cr: bool,
    fragment: bool,
}

const MOST: usize = 96;

impl Heads {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self { watch, state: State::Head, heads: 0, head: Head::default(), begun: Begun::new() }
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Over => return Ok(()),
                State::Body(left) | State::Chunk(left) => {
                    let skip = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= skip as u64;
                    bytes = bytes.get(skip..).unwrap_or_default();
                    if *left == 0 {
                        self.state = if matches!(self.state, State::Body(_)) { State::Head } else { State::ChunkSize };
                    }
                }
                State::Head | State::ChunkSize | State::Trailers => {
                    let end = memchr(b'\n', bytes);
                    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let fragment = !self.head.begun && memchr(b'#', line).is_some();
                    if end.is_none() {
                        self.begun.push(line, fragment);
                        return Ok(());
                    }
                    bytes = rest.get(1..).unwrap_or_default();
                    self.state = if self.begun.length == 0 {
                        self.take(&Line::of(line, fragment))?
                    } else {
                        self.begun.push(line, fragment);
                        let begun = std::mem::replace(&mut self.begun, Begun::new());
                        self.take(&begun.line())?
                    };
                }
            }
        }
        Ok(())
    }

    /// Whether what came last is a part of a request. An empty line before one, or half of it, is none.
    fn is_amid(&self) -> bool {
        self.state != State::Head || self.head.begun || self.begun.length > usize::from(self.begun.ends_in_cr)
    }

    fn take(&mut self, line: &Line<'_>) -> Result<State, &'static str> {
        let text = line.text()?;
        match self.state {
            State::ChunkSize if !line.is_whole() => Err("a chunk extension longer than any that means something"),
            State::ChunkSize => match chunk_size(text)? {
                0 => Ok(State::Trailers),
                size => size.checked_add(2).map(State::Chunk).ok_or("a chunk of no size"),
            },
            State::Trailers if line.is_empty() => Ok(State::Head),
            State::Trailers => Ok(State::Trailers),
            _ if !line.is_empty() => self.field(line, text).map(|()| State::Head),
            // RFC 9112 section 2.2: empty lines before a request are skipped.
            _ if !self.head.begun => Ok(State::Head),
            _ => {
                self.heads += 1;
                let head = std::mem::take(&mut self.head);
                Ok(match (head.chunked, head.length) {
                    (true, _) => State::ChunkSize,
                    (false, Some(1..)) => State::Body(head.length.unwrap_or(0)),
                    (false, _) => State::Head,
                })
            }
        }
    }

    fn field(&mut self, line: &Line<'_>, text: &[u8]) -> Result<(), &'static str> {
        if !std::mem::replace(&mut self.head.begun, true) {
            // hyper would drop it.
            return if line.fragment { Err("a fragment in the target") } else { Ok(()) };
        }
        let Some(colon) = memchr(b':', text) else { return Ok(()) };
        let (name, value) = text.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
        if !is_length && !is_coding {
            return Ok(());
        }
        if !line.is_whole() {
            return Err("a framing field longer than any that means something");
        }
        if self.head.chunked || self.head.length.is_some() {
            return Err("more than one field says where the body ends");
        }
        if is_coding {
            self.head.chunked = value.eq_ignore_ascii_case(b"chunked");
            return if self.head.chunked { Ok(()) } else { Err("a transfer coding that is not chunked") };
        }
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|value| value.parse().ok());
        self.head.length = Some(length.ok_or("a Content-Length that is no number")?);
        Ok(())
    }
}

impl Sift for Heads {
    fn incoming(&mut self, bytes: &[u8]) -> Option<usize> {
        let amid = self.is_amid();
        if let Err(cause) = self.read(bytes) {
            self.state = State::Over;
            self.watch.doubt(self.heads + 1, cause);
        }
        if amid || self.is_amid() {
            self.watch.hear();
        }
        None
    }
}

impl Begun {
    const fn new() -> Self {
        Self { kept: [0; MOST], length: 0, ends_in_cr: false, bare_cr: false, fragment: false }
    }

    fn push(&mut self, bytes: &[u8], fragment: bool) {
        self.fragment |= fragment;
        let Some((last, rest)) = bytes.split_last() else { return };
        self.bare_cr |= self.ends_in_cr || memchr(b'\r', rest).is_some();
        self.ends_in_cr = *last == b'\r';
        for (place, byte) in self.kept.iter_mut().skip(self.length).zip(bytes) {
            *place = *byte;
        }
        self.length = self.length.saturating_add(bytes.len());
    }

    fn line(&self) -> Line<'_> {
        let Self { length, ends_in_cr, bare_cr, fragment, .. } = *self;
        Line { kept: &self.kept, length, ends_in_cr, bare_cr, fragment }
    }
}

impl<'a> Line<'a> {
    /// One that came whole.
    fn of(kept: &'a [u8], fragment: bool) -> Self {
        let bare_cr = kept.split_last().is_some_and(|(_, rest)| memchr(b'\r', rest).is_some());
        Self { kept, length: kept.len(), ends_in_cr: kept.ends_with(b"\r"), bare_cr, fragment }
    }

    /// What was kept of it, without its end.
    fn text(&self) -> Result<&'a [u8], &'static str> {
        if !self.ends_in_cr {
            return Err("a line that ends in a bare LF");
        }
        if self.bare_cr {
            return Err("a bare CR in a line");
        }
        Ok(self.kept.get(..self.length - 1).unwrap_or(self.kept))
    }

    fn is_empty(&self) -> bool {
        self.length == 1
    }

    fn is_whole(&self) -> bool {
        self.length <= MOST
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err("a chunk size that is no number");
    }
    std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or("a chunk size that is no number")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The head that is in doubt, fed in pieces.
    fn doubt(bytes: &[u8], piece: usize) -> Option<(usize, &'static str)> {
        let watch = Arc::<Watch>::default();
        let mut heads = Heads::new(Arc::clone(&watch));
        bytes.chunks(piece).for_each(|piece| assert_eq!(heads.incoming(piece), None));
        (1..9).find_map(|head| watch.doubted(head).map(|cause| (head, cause)))
    }

    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

    #[test]
    fn trap_cl_te_and_bare_lf_are_seen_in_whatever_pieces_they_come() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "content-length:3\r\ncontent-length:3\r\n\r\n",
            "Content-Length: +3\r\n\r\n",
            "Content-Length: 3, 3\r\n\r\n",
            "Content-Length: 99999999999999999999\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            "Transfer-Encoding: identity\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "X: y\n\r\n",
            "X: y\r\n\n",
            "X: y\rZ: 1\r\n\r\n",
            "X: y\r\r\n\r\n",
            &format!("Content-Length: {}3\r\n\r\n", " ".repeat(100)),
            "\r\nGET /#f HTTP/1.1\r\n\r\n",
        ] {
            let bytes = format!("{POST}{fields}");
            for piece in [1, 2, 7, 1000] {
                let head = if fields.starts_with("\r\n") { 2 } else { 1 };
                assert_eq!(doubt(bytes.as_bytes(), piece).map(|(head, _)| head), Some(head), "{bytes:?} by {piece}");
            }
        }
    }

    #[test]
    fn one_framing_is_no_doubt_and_bodies_are_not_read_as_heads() {
        let long = "x".repeat(5000);
        for request in [
            format!("{POST}\r\n"),
            format!("\r\n\r\n{POST}X-Long: {long}\r\n\r\n"),
            format!("{POST}Content-Length: 5\r\n\r\na\nb\nc"),
            format!("{POST}Content-Length: 0\r\n\r\n"),
            format!("{POST}transfer-encoding:  CHUNKED \r\n\r\n5;x=y\r\na\nb\nc\r\n0\r\nX: y\r\n\r\n"),
            format!("{POST}Transfer-Encoding: chunked\r\n\r\n1388  \r\n{long}\r\n000\r\n\r\n"),
        ] {
            for piece in [1, 3, 64, 10_000] {
                let three = request.repeat(3);
                assert_eq!(doubt(three.as_bytes(), piece), None, "{request:?} by {piece}");
                let then = format!("{three}GET / HTTP/1.1\n");
                assert_eq!(doubt(then.as_bytes(), piece).map(|(head, _)| head), Some(4), "{request:?} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_heard_is_parts_of_requests_and_no_empty_lines() {
        let watch = Arc::<Watch>::default();
        let mut heads = Heads::new(Arc::clone(&watch));
        for (bytes, heard) in [
            ("\r\n", false),
            ("\r", false),
            ("\n", false),
            ("\r\nP", true),
            ("OST / HTTP/1.1\r\n", true),
            ("content-length: 3\r\n", true),
            ("\r\n", true),
            ("ab", true),
            ("c", true),
            ("\r\n", false),
            ("\r\r", true),
        ] {
            assert_eq!(heads.incoming(bytes.as_bytes()), None);
            assert_eq!(watch.take_heard(), heard, "{bytes:?}");
        }
    }

    #[test]
    fn what_follows_a_body_whose_end_is_unclear_is_in_doubt() {
        for body in ["5\nhello\r\n0\r\n\r\n", "x\r\n\r\n", "\r\n", "5;a\rb\r\nhello", "11111111111111111\r\n", "0\r\nX: y\n\r\n"]
        {
            let bytes = format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(doubt(bytes.as_bytes(), 5).map(|(head, _)| head), Some(2), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_can_break_it_and_pieces_change_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b'0'), any::<u8>()], 0..300),
            piece in 1_usize..20,
        ) {
            let bytes = [POST.as_bytes(), b"Transfer-Encoding: chunked\r\n", &bytes].concat();
            prop_assert_eq!(doubt(&bytes, piece), doubt(&bytes, 1000));
        }
    }
}
