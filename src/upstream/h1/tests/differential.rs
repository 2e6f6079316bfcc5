//! The same bytes through hyper's client: where both accept, they agree; every difference is listed with its reason.

use http::header::CONNECTION;
use hyper_util::rt::TokioIo;

use super::*;

/// Why this client refuses, or cuts, what hyper's takes.
const STRICTER: &[(&str, &str)] = &[
    ("it has a length and a coding", "RFC 9112 section 6.3: ought to be handled as an error; hyper believes the coding"),
    ("it has two lengths", "section 6.3 lets equal lengths pass; two fields have been read in two ways"),
    ("it has two codings", "hyper reads two fields as one list; one that ends in chunked is chunked"),
    ("its coding is not chunked", "hyper reads to the end where the last coding is not chunked, and chunks below another coding"),
    ("its length is no number", "hyper looks at no length beside a coding or without a body"),
    ("a line feed stands alone", "hyper takes a line feed for the end of a line"),
    ("it does not begin like one", "hyper skips empty lines before a status line"),
    ("too many interim responses", "hyper skips them for ever"),
    ("the line of a chunk", "hyper looks at no byte of a chunk extension but the end of its line"),
];

const SEEDS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\nSet-Cookie: c\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n06 \r\n world\r\n0\r\nGrpc-Status: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nto the end",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: x\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n",
];

/// What a changed byte becomes.
const BYTES: &[u8] = b"\0\t\n\r +,-.:;09aAfghx\x7f\xff";

async fn of_hyper(peer: Peer) -> Outcome {
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(peer)).await else {
        return Outcome::Refused;
    };
    let exchange = async move {
        match sender.send_request(request("GET")).await {
            Ok(mut response) => read(&mut response).await.0,
            Err(_) => Outcome::Refused,
        }
    };
    let (outcome, _) = tokio::join!(exchange, connection);
    outcome
}

/// Fails where the two differ and no reason is listed; the reason where one is needed.
fn compare(bytes: &[u8]) -> Option<&'static str> {
    let (mut ours, cause) = block_on(explained(Peer::once(bytes), "GET"));
    let mut theirs = block_on(of_hyper(Peer::once(bytes)));
    if let Outcome::Whole { headers, .. } = &mut theirs {
        without_keep_alive(headers);
    }
    if let Outcome::Whole { kept, .. } = &mut ours {
        *kept = false;
        assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(bytes));
        return None;
    }
    if !matches!(theirs, Outcome::Whole { .. }) {
        return None;
    }
    let reason = STRICTER.iter().find(|(listed, _)| cause.contains(listed));
    let shown = String::from_utf8_lossy(bytes);
    Some(reason.unwrap_or_else(|| panic!("{cause}: not listed, for {shown:?}, which hyper reads as {theirs:?}")).0)
}

/// The one field that is taken out where it says what holds anyway.
fn without_keep_alive(headers: &mut HeaderMap) {
    let others: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
        .cloned()
        .collect();
    headers.remove(CONNECTION);
    for value in others {
        headers.append(CONNECTION, value);
    }
}

#[test]
fn a_response_with_any_byte_changed_dropped_or_doubled_means_the_same_to_hyper() {
    let mut reasons = std::collections::BTreeSet::new();
    for seed in SEEDS {
        let mut compare = |parts: &[&[u8]]| reasons.extend(compare(&parts.concat()));
        compare(&[seed.as_bytes()]);
        for at in 0..seed.len() {
            let (before, after) = seed.as_bytes().split_at(at);
            compare(&[before]);
            compare(&[before, &after[1..]]);
            compare(&[before, &after[..1], after]);
            for byte in BYTES {
                compare(&[before, &[*byte], &after[1..]]);
            }
        }
    }
    let storm = "HTTP/1.1 103 Early\r\n\r\n".repeat(MAX_INTERIM + 1) + "HTTP/1.1 204 No\r\n\r\n";
    reasons.extend(compare(storm.as_bytes()));
    let listed: std::collections::BTreeSet<_> = STRICTER.iter().map(|(cause, _)| *cause).collect();
    assert_eq!(reasons, listed, "every reason listed is one that was met");
}
