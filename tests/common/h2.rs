//! HTTP/2 by hand: frames as bytes, field blocks of literals without indexing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Door, Stream, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection that speaks frames.
pub struct Framed {
    pub stream: Stream,
    bytes: Vec<u8>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Answered(u16),
    Reset(u32),
    GoAway(u32),
    /// With a close_notify.
    Closed,
    /// Without one.
    Broken,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field block: every field a literal without indexing, with its name.
pub fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value);
    }
    block
}

/// The pseudo-fields of a request to `localhost`.
pub fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a [u8])> {
    vec![(":method", method.as_bytes()), (":scheme", b"https"), (":authority", b"localhost"), (":path", path.as_bytes())]
}

/// `GET` without a body, in one frame.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&pseudo("GET", path)))
}

/// `POST` whose body is still to come.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&pseudo("POST", path)))
}

/// SETTINGS of these values.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// RFC 7541 section 5.2, never Huffman.
fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

/// RFC 7541 section 5.1.
pub fn integer(block: &mut Vec<u8>, pattern: u8, bits: u32, mut value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        return block.push(pattern | value as u8);
    }
    block.push(pattern | most as u8);
    value -= most;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}

impl Framed {
    /// After the preface and SETTINGS that switch the server's dynamic table off.
    pub async fn open(door: &Door, from: [u8; 2]) -> std::io::Result<Self> {
        let mut framed = Self::silent(door, from).await?;
        framed.send(&[PREFACE, &settings(&[(1, 0)])].concat()).await?;
        Ok(framed)
    }

    /// Before a byte was said.
    pub async fn silent(door: &Door, from: [u8; 2]) -> std::io::Result<Self> {
        Ok(Self { stream: door.tls(from, "h2").await?, bytes: Vec::new() })
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within(self.stream.write_all(bytes)).await??;
        within(self.stream.flush()).await?
    }

    /// The next frame; `Ok(None)` after a close_notify.
    pub async fn frame(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = parse(&self.bytes) {
                self.bytes.drain(..length);
                return Ok(Some(frame));
            }
            if within(self.stream.read_buf(&mut self.bytes)).await?? == 0 {
                return Ok(None);
            }
        }
    }

    /// How a stream ends, or the connection with it.
    pub async fn ended(&mut self, stream: u32) -> Ended {
        loop {
            match self.frame().await {
                Ok(Some(frame)) if frame.kind == GOAWAY && code(&frame.payload, 4) != 0 => {
                    return Ended::GoAway(code(&frame.payload, 4));
                }
                Ok(Some(frame)) if frame.stream == stream && frame.kind == HEADERS => {
                    return Ended::Answered(status(&frame.payload));
                }
                Ok(Some(frame)) if frame.stream == stream && frame.kind == RST_STREAM => {
                    return Ended::Reset(code(&frame.payload, 0));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ended::Closed,
                Err(_) => return Ended::Broken,
            }
        }
    }

    /// How the connection ends: whether GOAWAY came, and whether it was closed properly.
    pub async fn farewell(&mut self) -> (Option<u32>, Ended) {
        let mut goaway = None;
        loop {
            match self.frame().await {
                Ok(Some(frame)) if frame.kind == GOAWAY => goaway = Some(code(&frame.payload, 4)),
                Ok(Some(_)) => {}
                Ok(None) => return (goaway, Ended::Closed),
                Err(_) => return (goaway, Ended::Broken),
            }
        }
    }
}

/// The first frame of the bytes, and its length.
pub fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes else { return None };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    let payload = rest.get(..length)?.to_vec();
    let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]) & 0x7fff_ffff;
    Some((Frame { kind: *kind, flags: *flags, stream, payload }, 9 + length))
}

/// Four bytes as a number.
pub fn code(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).and_then(|code| code.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes)
}

/// `:status`, which comes first; 0 where it cannot be read.
fn status(block: &[u8]) -> u16 {
    match block {
        // An update of the table's size.
        [0x20..=0x3f, rest @ ..] => status(rest),
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let value = rest.get(..usize::from(length & 0x7f)).unwrap_or_default();
            if length & 0x80 == 0 {
                std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).unwrap_or(0)
            } else {
                digits(value)
            }
        }
        _ => 0,
    }
}

/// Three Huffman-coded digits.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let take =
            |count: usize| bits.get(at..at + count).map(|bits| bits.iter().fold(0_u16, |sum, bit| sum * 2 + u16::from(*bit)));
        let Some(short) = take(5) else { return 0 };
        if short <= 2 {
            (number, at) = (number * 10 + short, at + 5);
        } else {
            let Some(long) = take(6) else { return 0 };
            (number, at) = (number * 10 + long.saturating_sub(0b01_0110), at + 6);
        }
    }
    number
}

#[cfg(test)]
mod tests {
    #[test]
    fn statuses_are_read_in_every_form_that_h2_writes() {
        use super::status;
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(&[0x20, 0x8c]), 400);
        assert_eq!(status(b"\x48\x03421"), 421);
        // 4 = 011010, 0 = 00000, 3 = 011001; 4 = 011010, 2 = 00010, 1 = 00001.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111]), 403);
        assert_eq!(status(&[0x08, 0x82, 0b0110_1000, 0b0100_0001]), 421);
    }
}
