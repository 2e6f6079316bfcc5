//! Reads a chunked body (RFC 9112 section 7.1).

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::Fault;
use super::head::{Lines, trailers};

/// Bytes of all the chunk extensions of a body, and of its trailers: nobody needs any.
const MAX_EXTENSIONS: usize = 16 * 1024;
pub(super) const MAX_TRAILERS: usize = 16 * 1024;

/// Where in a chunked body the next byte stands.
pub(super) struct Chunks {
    at: At,
    /// The size of the chunk whose line is read, and then what is left of it.
    size: u64,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Of the trailers.
    lines: Lines,
}

/// What the bytes at hand came to.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Data(Bytes),
    /// The end, and what trailed.
    End(Option<HeaderMap>),
    /// More bytes are needed.
    Short,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// No digit yet.
    Size,
    Digits,
    /// Blanks behind the digits.
    Blank,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    Trailers,
    End,
}

impl Chunks {
    pub fn new() -> Self {
        Self { at: At::Size, size: 0, extensions: 0, lines: Lines::default() }
    }

    /// What of the body is known to be to come.
    pub fn owed(&self) -> Option<u64> {
        (self.at == At::Data).then_some(self.size)
    }

    /// Takes from `bytes` the next piece. Fails closed: a size that is none or beyond counting, a line that does not end in CR LF,
    /// a chunk longer than its size, and extensions or trailers beyond their bounds are refused.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Piece, Fault> {
        loop {
            match self.at {
                At::End => return Ok(Piece::End(None)),
                At::Trailers => return self.take_trailers(bytes),
                _ if bytes.is_empty() => return Ok(Piece::Short),
                At::Data => {
                    let here = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len());
                    self.size -= here as u64;
                    if self.size == 0 {
                        self.at = At::DataReturn;
                    }
                    return Ok(Piece::Data(bytes.split_to(here).freeze()));
                }
                _ => self.at = self.after(bytes.get_u8())?,
            }
        }
    }

    /// Where the body stands after a byte that is not data.
    fn after(&mut self, byte: u8) -> Result<At, Fault> {
        match (self.at, byte) {
            (At::Size | At::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                let more = self.size.checked_mul(16).and_then(|size| size.checked_add(digit));
                self.size = more.ok_or(Fault::Malformed("the size of a chunk is beyond counting"))?;
                Ok(At::Digits)
            }
            (At::Digits | At::Blank, b' ' | b'\t') => self.extended(At::Blank),
            (At::Digits | At::Blank, b';') => self.extended(At::Extension),
            (At::Digits | At::Blank | At::Extension, b'\r') => Ok(At::SizeFeed),
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extended(At::Extension),
            (At::SizeFeed, b'\n') if self.size == 0 => Ok(At::Trailers),
            (At::SizeFeed, b'\n') => Ok(At::Data),
            (At::DataReturn, b'\r') => Ok(At::DataFeed),
            (At::DataFeed, b'\n') => Ok(At::Size),
            (At::Size, _) => Err(Fault::Malformed("the size of a chunk is no number")),
            (At::DataReturn | At::DataFeed, _) => Err(Fault::Malformed("a chunk is longer than its size")),
            _ => Err(Fault::Malformed("the line of a chunk")),
        }
    }

    fn extended(&mut self, at: At) -> Result<At, Fault> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS { Err(Fault::Malformed("it has too many chunk extensions")) } else { Ok(at) }
    }

    fn take_trailers(&mut self, bytes: &mut BytesMut) -> Result<Piece, Fault> {
        let end = self.lines.end(bytes)?;
        // However they arrive: where the end is not here yet, it comes behind all that is.
        if end.unwrap_or(bytes.len() + 1) > MAX_TRAILERS {
            return Err(Fault::Malformed("its trailers are too large"));
        }
        let Some(end) = end else { return Ok(Piece::Short) };
        let block = bytes.split_to(end).freeze();
        self.at = At::End;
        if block.len() == b"\r\n".len() { Ok(Piece::End(None)) } else { trailers(&block).map(|fields| Piece::End(Some(fields))) }
    }
}
