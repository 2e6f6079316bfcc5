//! Where the body of a response ends, by its head alone (RFC 9112 section 6.3).

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};

use super::Fault;
use super::head::Head;

/// How a response ends, and whether another may follow on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub extent: Extent,
    pub keeps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Exact(u64),
    Chunked,
    /// Up to the end of the connection.
    Rest,
    /// What follows is another protocol.
    Switched,
}

impl Framing {
    /// Of a response, `to_head` where HEAD was asked. Fails closed: two framings, two lengths and a coding other than `chunked` are
    /// refused; where a response without a body announces one (a 204, a 304, any to HEAD), nothing may follow it.
    pub fn of(head: &Head, to_head: bool) -> Result<Self, Fault> {
        let Said { length, chunked, closes } = Said::by(&head.headers)?;
        if chunked && length.is_some() {
            return Err(Fault::Malformed("it has a length and a coding"));
        }
        if chunked && head.version != Version::HTTP_11 {
            return Err(Fault::Malformed("a coding in HTTP/1.0"));
        }
        let keeps = head.version == Version::HTTP_11 && !closes;
        // What is announced may come after all, and would be read as the next client's response.
        let keeps_empty = keeps && !chunked && length.unwrap_or(0) == 0;
        let framing = |extent, keeps| Ok(Self { extent, keeps });
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => framing(Extent::Switched, false),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => framing(Extent::Exact(0), keeps_empty),
            _ if to_head => framing(Extent::Exact(0), keeps_empty),
            _ if chunked => framing(Extent::Chunked, keeps),
            _ => match length {
                Some(length) => framing(Extent::Exact(length), keeps),
                None => framing(Extent::Rest, false),
            },
        }
    }
}

/// What fields say of framing.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    closes: bool,
}

impl Said {
    /// Of two fields that say the same the second is refused too: such have been read in two ways.
    fn by(headers: &HeaderMap) -> Result<Self, Fault> {
        let mut said = Self::default();
        for (name, value) in headers {
            if *name == CONTENT_LENGTH {
                if said.length.replace(length(value.as_bytes())?).is_some() {
                    return Err(Fault::Malformed("it has two lengths"));
                }
            } else if *name == TRANSFER_ENCODING {
                if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Malformed("its coding is not chunked"));
                }
                if std::mem::replace(&mut said.chunked, true) {
                    return Err(Fault::Malformed("it has two codings"));
                }
            } else if *name == CONNECTION {
                let mut tokens = value.as_bytes().split(|byte| *byte == b',');
                said.closes |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        Ok(said)
    }
}

/// Digits alone: `+2` and `2, 2` have been read in two ways.
fn length(digits: &[u8]) -> Result<u64, Fault> {
    let number = digits.iter().try_fold(0u64, |sum, digit| decimal(sum, *digit)).filter(|_| !digits.is_empty());
    number.ok_or(Fault::Malformed("its length is no number"))
}

fn decimal(sum: u64, digit: u8) -> Option<u64> {
    let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
    sum.checked_mul(10)?.checked_add(digit)
}
