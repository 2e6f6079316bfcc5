//! However bytes are split and whatever they are: one reading, and no panic.

use proptest::prelude::*;

use super::*;

/// Parts of responses, good and bad, from which more are made.
const PARTS: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 103 Early Hints\r\n\r\n",
    "HTTP/1.0 200 OK\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "X-Custom: a value\r\n",
    "Set-Cookie: a=b\r\n",
    "\r\n",
    "hello",
    "5\r\nhello\r\n",
    "a;x=y\r\n0123456789\r\n",
    "0\r\n\r\n",
    "0\r\nGrpc-Status: 0\r\n\r\n",
    "\n",
    "\r",
    "\0",
    " ",
];

/// Streams that are often nearly a response.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let parts = proptest::collection::vec(proptest::sample::select(PARTS), 0..12);
    (parts, any::<bool>(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(
        |(parts, begins, changes)| {
            let mut bytes: Vec<u8> = if begins { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
            bytes.extend(parts.concat().bytes());
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        },
    )
}

fn split(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let pieces = cuts.windows(2).map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]));
    pieces.filter(|piece| !piece.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_split_of_the_bytes_reads_the_same(
        bytes in stream(),
        at in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        to_head in any::<bool>(),
    ) {
        let method = if to_head { "HEAD" } else { "GET" };
        let of = |pieces: Vec<Bytes>| {
            let outcome = block_on(outcome_of(Peer::new(pieces, Then::End), method));
            // Bytes behind the end are noticed at once or at the next request, and how much of a body came before it broke is chance.
            match outcome {
                Outcome::Whole { status, headers, body, trailers, .. } => Outcome::Whole { status, headers, body, trailers, kept: false },
                Outcome::Cut { status, headers, .. } => Outcome::Cut { status, headers, body: Vec::new() },
                Outcome::Refused => Outcome::Refused,
            }
        };
        let whole = of(split(&bytes, &[]));
        prop_assert_eq!(&of(split(&bytes, &at)), &whole);
        let single = bytes.iter().map(|byte| Bytes::copy_from_slice(&[*byte])).collect();
        prop_assert_eq!(&of(single), &whole);
    }

    #[test]
    fn trap_no_stream_is_read_as_two_responses(
        bytes in stream(),
        at in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let unasked = block_on(async {
            let response = Connection::new(Peer::new(split(&bytes, &at), Then::End)).exchange(Box::new(request("GET")), None).await.ok()?;
            let mut incoming = response.into_body();
            while incoming.frame().await.is_some() {}
            let mut kept = incoming.reclaim().filter(|kept| !kept.io.pieces.is_empty())?;
            kept.io.paused = true;
            kept.exchange(Box::new(request("GET")), None).await.err()
        });
        prop_assert!(matches!(unasked, None | Some(Failure::Unsent(_, Fault::Unasked))), "what lay behind the end was not noticed");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), chunked in any::<bool>()) {
        let mut whole = if chunked { b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec() } else { Vec::new() };
        whole.extend_from_slice(&bytes);
        block_on(outcome_of(Peer::once(&whole), "GET"));
    }
}
