//! Answers of a misbehaving application, byte by byte, and what its client is to see of each.

/// What the client is to see of one bad answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// The gateway's own refusal.
    Told(&'static str),
    /// This body, whole.
    Whole(&'static str),
    /// A status of 200, then less than the whole: the connection ends without the end of the body.
    Cut,
}

use Seen::{Cut, Told, Whole};

/// Bytes of an answer, whether the connection is then closed, and what the client sees.
pub fn answers() -> Vec<(&'static str, Vec<u8>, bool, Seen)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let bad = Told("502 upstream-unavailable");
    let slow = Told("504 upstream-timeout");
    let storm = |count: usize| "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(count);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    vec![
        ("nothing, then the end", text(""), true, bad),
        ("nothing, for ever", text(""), false, slow),
        ("half a status line", text("HTTP/1.1 20"), true, bad),
        ("half a head, for ever", text("HTTP/1.1 200 OK\r\nContent-Le"), false, slow),
        ("garbage", text("\x01\x02\x03\x7f\r\n\r\nxyz"), true, bad),
        ("another protocol", text("SSH-2.0-OpenSSH_9.6\r\n"), true, bad),
        ("a TLS alert", b"\x15\x03\x01\x00\x02\x02\x46".to_vec(), true, bad),
        ("an HTTP/2 preface", text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), true, bad),
        ("a status of four digits", text("HTTP/1.1 2000 OK\r\n\r\n"), true, bad),
        ("a status of 099", text("HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n"), true, bad),
        ("HTTP/3.7", text("HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("a NUL in a header", text("HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("a header without a colon", text("HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("a blank before the colon", text("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"), true, bad),
        ("an oversized head", text(&format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20))), true, bad),
        ("a thousand headers", text(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000))), true, bad),
        ("a head that never ends", text(&format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(50))), false, slow),
        ("two lengths that differ", text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), true, bad),
        ("a list of lengths that differ", text("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok"), true, bad),
        ("a length with a sign", text("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"), true, bad),
        ("a length below zero", text("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"), true, bad),
        ("a length beyond counting", text("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok"), true, bad),
        ("a length that promises too much", text("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it"), true, Cut),
        ("a body that stalls", text("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it"), false, Cut),
        (
            "a length that promises too little",
            text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
            false,
            Whole("ok"),
        ),
        ("a chunk that is cut", text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), true, Cut),
        ("chunks without their end", text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), true, Cut),
        ("chunks that stall", text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), false, Cut),
        (
            "a chunk size that is none",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
            true,
            Cut,
        ),
        (
            "a chunk size beyond counting",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nok"),
            true,
            Cut,
        ),
        (
            "a chunk longer than its size",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n"),
            true,
            Cut,
        ),
        (
            "trailers that never end",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n"),
            true,
            Cut,
        ),
        (
            "a length beside chunks",
            text("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            true,
            bad,
        ),
        ("an unknown coding", text("HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\nbx"), true, bad),
        ("a coding before the chunks", text("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), true, bad),
        ("a coding in HTTP/1.0", text("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), true, bad),
        ("two lengths that agree", text("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("a list of lengths that agree", text("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"), true, bad),
        ("a folded line", text("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("line feeds alone", text("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), false, bad),
        ("a carriage return in a field", text("HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok"), true, bad),
        ("an empty line before the status", text(&format!("\r\n{ok}")), false, bad),
        (
            "a chunk size with a sign",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n"),
            true,
            Cut,
        ),
        (
            "a chunk line that ends in a line feed",
            text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n"),
            true,
            Cut,
        ),
        (
            "chunk extensions for ever",
            text(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;{}", "x".repeat(1 << 20))),
            false,
            Cut,
        ),
        ("a body up to the end", text("HTTP/1.1 200 OK\r\n\r\nok"), true, Whole("ok")),
        ("HTTP/1.0", text("HTTP/1.0 200 OK\r\n\r\nok"), true, Whole("ok")),
        (
            "a second answer behind the first",
            text(&format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")),
            false,
            Whole("ok"),
        ),
        ("one early hint", text(&format!("{}{ok}", storm(1))), false, Whole("ok")),
        ("a hundred early hints", text(&format!("{}{ok}", storm(100))), false, Whole("ok")),
        ("early hints for ever", text(&storm(2000)), false, bad),
        ("an unasked 100", text(&format!("HTTP/1.1 100 Continue\r\n\r\n{ok}")), false, Whole("ok")),
        ("an unasked 101", text("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), false, bad),
        ("a 204 with a body", text("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil"), false, Whole("")),
    ]
}

/// Reads an answer as strictly as its own framing says. `clean` is whether TLS was closed properly.
pub fn judge(answer: &[u8], clean: bool) -> String {
    let text = String::from_utf8_lossy(answer).into_owned();
    if text.is_empty() {
        return "no answer at all".to_owned();
    }
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return format!("no answer: {text:?}") };
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = if lower.contains("transfer-encoding: chunked") {
        dechunked(body)
    } else if let Some(length) = length {
        (body.len().to_string() == length).then(|| body.to_owned())
    } else {
        // Without either the end of the connection is the end of the body: only a proper close says so (RFC 9112 section 9.8).
        clean.then(|| body.to_owned())
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    match (status, whole) {
        ("200" | "204", Some(body)) => body,
        ("200", None) => "a cut".to_owned(),
        (status, Some(body)) => {
            let reason = body.split("urn:doorward:").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("?");
            format!("{status} {reason}")
        }
        (status, None) => format!("{status}, cut"),
    }
}

/// `None`: the last chunk is missing.
fn dechunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

pub fn describe(seen: Seen) -> String {
    match seen {
        Told(told) => told.to_owned(),
        Whole(body) => body.to_owned(),
        Cut => "a cut".to_owned(),
    }
}
