//! Answers of a misbehaving application: a right answer or a clean cut, and one delivery each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::faults::{answers, describe, judge};
use crate::common::within;
use crate::report::{OPEN, Report};

pub fn play(report: &mut Report) {
    let deliveries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&deliveries);
    let address = report.run(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    // The two bytes of body may come with the head or behind it; what is left is read on.
                    while let Ok(1..) = stream.read_buf(&mut head).await {
                        let text = String::from_utf8_lossy(&head).into_owned();
                        if !text.contains("\r\n\r\nhi") {
                            continue;
                        }
                        head.clear();
                        counted.fetch_add(1, Ordering::SeqCst);
                        let at = text.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse::<usize>().ok());
                        let Some((_, bytes, closes, _)) = at.and_then(|at| answers().into_iter().nth(at)) else { return };
                        // The gateway may have had enough of it.
                        if stream.write_all(&bytes).await.is_err() || closes {
                            return;
                        }
                    }
                });
            }
        });
        address
    });
    let brisk = "timeouts = { connect = \"500ms\", response = \"500ms\", idle = \"500ms\" }\n[[site]]\nhosts = [\"localhost\"]";
    let gateway = report.open(&OPEN.replacen("[[site]]\nhosts = [\"localhost\"]", brisk, 1), address);
    let door = gateway.door();
    for (at, (name, _, _, expected)) in (0u8..).zip(answers()) {
        let before = deliveries.load(Ordering::SeqCst);
        let request = format!(
            "POST /{at} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
        );
        let outcome = report.run(async {
            let mut client = door.tls([150, at + 1], "http/1.1").await?;
            client.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let ended = within(client.read_to_end(&mut answer)).await?;
            Ok::<_, std::io::Error>(judge(&answer, ended.is_ok()))
        });
        let delivered = deliveries.load(Ordering::SeqCst) - before;
        let seen = format!("{}, {delivered} delivery", outcome.unwrap_or_else(|error| error.to_string()));
        report.judge(name, &format!("{}, 1 delivery", describe(expected)), &seen, Some(&gateway), None);
    }
}
