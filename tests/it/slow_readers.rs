//! Promise: who reads its answer slowly, but reads on, is not cut.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::caller::Caller;
use crate::support::{BASE, OPEN_SITE, open, run};

/// What a slow reader takes at once, how often, and for how long: several times the deadline of [`BASE`] for a body.
const SIP: usize = 32 * 1024;
const EVERY: Duration = Duration::from_millis(100);
const SIPS: usize = 70;

#[test]
fn a_download_that_is_read_slowly_goes_on_although_the_kernel_would_take_megabytes_of_it() {
    let stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        let caller = Caller::new(&stage, [2, 1]);
        // As on a real network: over loopback segments of 64 KiB are announced one by one.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket2::SockRef::from(&socket).set_tcp_mss(1460).expect("a segment size");
        socket.set_recv_buffer_size(64 * 1024).expect("a buffer");
        let stream = socket.connect(stage.https()).await.expect("a listener");
        let mut stream = caller.shake_over(stream, &std::sync::Arc::new(caller.config())).await.expect("a handshake");
        stream.write_all(b"GET /download?mib=64 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a reader");
        let mut sip = vec![0; SIP];
        // At first as fast as it comes, which has the kernel make much room.
        for _ in 0..256 {
            stream.read_exact(&mut sip).await.expect("an answer");
        }
        for sips in 0..SIPS {
            stream.read_exact(&mut sip).await.unwrap_or_else(|error| panic!("cut after {sips} sips: {error}"));
            tokio::time::sleep(EVERY).await;
        }
    });
}
