//! The PROXY header, in pieces of any size: the same verdict as in one piece, and not a byte after it is lost.
#![no_main]

use doorward::events::ConnectionCause;
use doorward::gateway::listener::{ProxySource, read_proxy_header};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Read = Result<(ProxySource, Vec<u8>), Option<ConnectionCause>>;

// The first byte is the size of the pieces.
fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, usize::from(piece) + 1);
    assert_eq!(whole, pieces, "how the bytes arrive decides nothing");
    if let Ok((_, rest)) = &whole {
        assert!(bytes.ends_with(rest) && rest.len() < bytes.len());
        assert!(bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"), "nothing else is a header");
        assert!(bytes.len() - rest.len() <= 16 + 4096, "a header is short");
    }
});

fn read(bytes: &[u8], piece: usize) -> Read {
    doorward_fuzz::block_on(async {
        let (mut ours, mut theirs) = tokio::io::duplex(piece);
        let send = async {
            for chunk in bytes.chunks(piece) {
                if theirs.write_all(chunk).await.is_err() {
                    break;
                }
            }
            drop(theirs);
        };
        let (read, ()) = tokio::join!(
            async {
                let read = read_proxy_header(&mut ours).await;
                let mut rest = Vec::new();
                if read.is_ok() {
                    let _ = ours.read_to_end(&mut rest).await;
                }
                drop(ours);
                read.map(|(source, ahead)| (source, [&ahead[..], &rest].concat()))
            },
            send
        );
        read
    })
}
