//! Where the body of a response ends, by its head alone (RFC 9112 section 6.3).

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

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
    /// refused; where a response without a body announces one, nothing may follow it.
    pub fn of(head: &Head, to_head: bool) -> Result<Self, Fault> {
        let length = length(&head.headers)?;
        let chunked = is_chunked(&head.headers)?;
        if chunked && length.is_some() {
            return Err(Fault::Malformed("it has a length and a coding"));
        }
        if chunked && head.version != Version::HTTP_11 {
            return Err(Fault::Malformed("a coding in HTTP/1.0"));
        }
        let keeps = head.version == Version::HTTP_11 && !closes(&head.headers);
        let framing = |extent, keeps| Ok(Self { extent, keeps });
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => framing(Extent::Switched, false),
            StatusCode::NO_CONTENT => framing(Extent::Exact(0), keeps && !chunked && length.unwrap_or(0) == 0),
            StatusCode::NOT_MODIFIED => framing(Extent::Exact(0), keeps),
            _ if to_head => framing(Extent::Exact(0), keeps),
            _ if chunked => framing(Extent::Chunked, keeps),
            _ => match length {
                Some(length) => framing(Extent::Exact(length), keeps),
                None => framing(Extent::Rest, false),
            },
        }
    }
}

/// Digits alone, once: `+2`, `2, 2` and a second field have all been read in two ways.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let Some(value) = only(headers, CONTENT_LENGTH, "it has two lengths")? else { return Ok(None) };
    let digits = value.as_bytes();
    let length = if digits.is_empty() { None } else { digits.iter().try_fold(0u64, |sum, digit| decimal(sum, *digit)) };
    length.map(Some).ok_or(Fault::Malformed("its length is no number"))
}

fn decimal(sum: u64, digit: u8) -> Option<u64> {
    let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
    sum.checked_mul(10)?.checked_add(digit)
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, Fault> {
    match only(headers, TRANSFER_ENCODING, "it has two codings")? {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        Some(_) => Err(Fault::Malformed("its coding is not chunked")),
    }
}

fn closes(headers: &HeaderMap) -> bool {
    let mut tokens = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn only<'a>(headers: &'a HeaderMap, name: http::HeaderName, two: &'static str) -> Result<Option<&'a HeaderValue>, Fault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { Err(Fault::Malformed(two)) } else { Ok(value) }
}
