//! Promise: what a connection at rest costs is bounded by what ARCHITECTURE.md says.
#![cfg(target_os = "linux")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::process::{House, open_house};
use crate::support::run;

const AT_REST: u64 = 16 * 1024;
/// The first ones pay for what all share.
const FIRST: u8 = 100;
const MORE: u8 = 200;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const POST: &[u8] = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc";
const CHUNKED: &[u8] = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

#[test]
fn a_connection_that_had_its_requests_and_rests_holds_no_buffers() {
    let house = House::new(&open_house());
    let gateway = house.start();
    run(async {
        let mut open = Vec::new();
        let mut hold = async |from: u8, count: u8| {
            for number in 0..count {
                let mut connection = gateway.visitor([from, number]).tls().await.expect("a connection");
                for request in [GET, if number % 2 == 0 { POST } else { CHUNKED }] {
                    connection.write_all(request).await.expect("a request");
                    assert!(connection.read(&mut [0; 4096]).await.expect("an answer") > 0);
                }
                open.push(connection);
                if number % 10 == 9 {
                    // Memory is all that is looked at: those that rest give it to those that come.
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
            gateway.memory().0
        };
        let before = hold(8, FIRST).await;
        let after = hold(9, MORE).await;
        let each = after.saturating_sub(before) / u64::from(MORE);
        assert!(each <= AT_REST, "{each} bytes for each connection at rest");
        assert!(each >= 1024, "{each} bytes: nothing was measured");
        for connection in &mut open {
            connection.write_all(GET).await.expect("a request");
            assert!(connection.read(&mut [0; 4096]).await.expect("an answer") > 0, "what rested answers");
        }
    });
}
