//! The PROXY header (v1 and v2): required of listed sources, never looked for from others.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::events::ConnectionCause;

/// On whose behalf a listed source connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Client(IpAddr),
    /// The source itself (`LOCAL`, `UNKNOWN`): its health checks.
    Itself,
}

/// Longest v1 line, its CRLF included (PROXY protocol 2.1).
const LONGEST_V1: usize = 107;
/// Longest v2 header taken: its 16 fixed bytes, addresses and TLVs. The format allows 64 KiB, which no balancer needs.
const LONGEST_V2: usize = 16 + 4096;
const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header and returns what came after it. Fails closed: anything but one whole, well-formed header of bounded
/// length is an error; `Err(None)` when the source left without a byte. The caller sets the deadline.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Source, Bytes), Option<ConnectionCause>> {
    let mut seen = BytesMut::new();
    let mut chunk = [0; 512];
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(0) | Err(_) if seen.is_empty() => return Err(None),
            Ok(0) | Err(_) => return Err(Some(ConnectionCause::ProxyHeaderMalformed)),
            Ok(read) => read,
        };
        seen.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some((source, length)) = parse(&seen)? {
            return Ok((source, seen.split_off(length).freeze()));
        }
    }
}

/// `Ok(None)`: not whole yet.
fn parse(seen: &[u8]) -> Result<Option<(Source, usize)>, ConnectionCause> {
    if !begins(seen, SIGNATURE_V1) && !begins(seen, SIGNATURE_V2) {
        return Err(ConnectionCause::ProxyHeaderMissing);
    }
    let malformed = Err(ConnectionCause::ProxyHeaderMalformed);
    let longest = if seen.starts_with(b"P") { LONGEST_V1 } else { LONGEST_V2 };
    // The announced length is refused before its bytes are waited for.
    if let (false, Some(announced)) = (seen.starts_with(b"P"), seen.get(14..16).and_then(|length| length.try_into().ok()))
        && 16 + usize::from(u16::from_be_bytes(announced)) > longest
    {
        return malformed;
    }
    match ProxyHeader::parse(seen, ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true }) {
        Ok((_, length)) if length > longest => malformed,
        Ok((header, length)) => match header.proxied_address() {
            None => Ok(Some((Source::Itself, length))),
            Some(address) if address.protocol == Protocol::Stream => {
                Ok(Some((Source::Client(address.source.ip().to_canonical()), length)))
            }
            Some(_) => malformed,
        },
        Err(Error::BufferTooShort) if seen.len() < longest => Ok(None),
        Err(_) => malformed,
    }
}

/// Whether `seen` begins with the signature, as far as it goes.
fn begins(seen: &[u8], signature: &[u8]) -> bool {
    seen.iter().zip(signature).all(|(seen, expected)| seen == expected)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, Tlv};
    use tokio::io::AsyncWriteExt;

    use super::*;

    const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 443\r\n";

    fn v2(tlv: usize) -> Vec<u8> {
        let address = ProxiedAddress::stream("[2001:db8::7]:52953".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let mut bytes = Vec::new();
        ProxyHeader::with_tlvs(Some(address), [Tlv::Noop(tlv)]).encode_v2(&mut bytes).unwrap();
        bytes
    }

    /// Sends the chunks one by one, each only after the one before was taken.
    fn read_chunks(chunks: &[&[u8]]) -> Result<(Source, Bytes), Option<ConnectionCause>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(1);
            let send = async {
                for chunk in chunks {
                    if theirs.write_all(chunk).await.is_err() {
                        break;
                    }
                }
                drop(theirs);
            };
            let (result, ()) = tokio::join!(
                async {
                    let result = read(&mut ours).await;
                    let mut rest = Vec::new();
                    if result.is_ok() {
                        ours.read_to_end(&mut rest).await.unwrap();
                    }
                    drop(ours);
                    result.map(|(source, ahead)| (source, [&ahead[..], &rest].concat().into()))
                },
                send
            );
            result
        })
    }

    fn read_all(bytes: &[u8]) -> Result<(Source, Bytes), Option<ConnectionCause>> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { read(&mut &bytes[..]).await })
    }

    #[test]
    fn both_versions_are_read_byte_by_byte_and_nothing_after_them_is_lost() {
        for (header, client) in [(V1.to_vec(), "203.0.113.7"), (v2(20), "2001:db8::7")] {
            let bytes = [&header[..], b"\x16\x03\x01 hello"].concat();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let expected = (Source::Client(client.parse().unwrap()), Bytes::from_static(b"\x16\x03\x01 hello"));
            assert_eq!(read_chunks(&single), Ok(expected.clone()));
            assert_eq!(read_all(&bytes), Ok(expected));
        }
    }

    #[test]
    fn local_and_unknown_speak_for_the_source_itself() {
        let mut local = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut local).unwrap();
        local[12] = 0x20;
        for header in [&local[..], b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n"] {
            assert_eq!(read_all(header), Ok((Source::Itself, Bytes::new())));
        }
    }

    #[test]
    fn a_mapped_source_is_its_ipv4_address() {
        let (source, _) = read_all(b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n").unwrap();
        assert_eq!(source, Source::Client("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn a_listed_source_without_a_header_is_refused_at_its_first_wrong_byte() {
        for bytes in [&b"\x16"[..], b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n", b"\r\n\r\n\0\r\nQUIX"] {
            assert_eq!(read_all(bytes), Err(Some(ConnectionCause::ProxyHeaderMissing)), "{bytes:?}");
        }
        assert_eq!(read_all(b""), Err(None));
    }

    #[test]
    fn what_is_not_whole_well_formed_and_short_is_refused() {
        let mut datagram = v2(0);
        datagram[13] = 0x22;
        let long = v2(5000);
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
        for bytes in [
            &V1[..20],
            b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 99999\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n",
            &datagram,
            &long,
            &long[..16],
            &endless,
            &endless[..150],
        ] {
            assert_eq!(read_all(bytes), Err(Some(ConnectionCause::ProxyHeaderMalformed)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_can_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in 0..3) {
            let signature = match version { 0 => SIGNATURE_V1, 1 => SIGNATURE_V2, _ => b"" };
            let bytes = [signature, &bytes].concat();
            if let Ok((_, rest)) = read_all(&bytes) {
                prop_assert!(bytes.ends_with(&rest));
            }
        }

        #[test]
        fn a_cut_header_is_never_taken_for_a_whole_one(cut in 0usize..43) {
            prop_assert!(read_all(&V1[..cut]).is_err());
            prop_assert!(read_all(&v2(3)[..cut]).is_err());
        }
    }
}
