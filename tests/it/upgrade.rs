//! Upgrades: a tunnel only after the application's 101, both ways, and nothing that came before it.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::upstream::{OK, Toy, hear};
use crate::support::{BASE, OPEN_SITE, Stage, Visitor, event, open, read_all, rewrite, run, told};

const ASK: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: toy\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: toy\r\n\r\n";

#[test]
fn a_websocket_carries_messages_both_ways_and_survives_a_reload() {
    let mut stage = open(&format!("{BASE}{OPEN_SITE}"));
    run(async {
        let (mut socket, decision) = websocket(&stage).await;
        for size in [1, 125, 70_000, 1 << 20] {
            let sent = Message::binary(vec![7u8; size]);
            socket.send(sent.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), sent, "{size} bytes");
        }
        let reloaded = rewrite(&stage, |text| text.replace("path = \"/\"", "path = \"/elsewhere\""));
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        let now_refused = Visitor::new(&stage, [1, 2]).get("/ws").await.unwrap();
        assert_eq!(now_refused.told(), "404 not-found", "the new config is live");
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
        socket.close(None).await.unwrap();
        event(&mut stage, &["\"event\":\"request\"", "\"status\":101", &decision]).await;
    });
}

#[test]
fn an_upgrade_is_authorised_like_any_request() {
    let site = OPEN_SITE.replace(
        "[[site]]",
        "[[site]]
client_ca = [\"acme\"]",
    );
    let stage = open(&format!(
        "{BASE}{}",
        site.replace(
            "bots = \"any\"",
            "bots = \"any\"
  allow = [\"role:integrator\"]"
        )
    ));
    run(async {
        let answer = text(Visitor::new(&stage, [1, 1]).raw(ASK).await.unwrap());
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not-permitted"), "{answer}");
        assert_eq!(stage.portal.seen.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
    });
}

#[test]
fn trap_upgrade_tunnelled_before_101_the_upstream_hears_nothing_until_it_agreed() {
    let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let agree = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let waits = std::sync::Arc::clone(&agree);
    let toy = Toy::start(move |mut stream, _| {
        let (asked, waits) = (asked.clone(), std::sync::Arc::clone(&waits));
        async move {
            let mut ahead = Vec::new();
            let heard = hear(&mut stream, &mut ahead).await.unwrap();
            asked.send(heard.head).unwrap();
            waits.acquire().await.unwrap().forget();
            let early = stream.try_read_buf(&mut ahead).unwrap_or(0);
            assert_eq!((early, ahead.len()), (0, 0));
            stream.write_all(SWITCHED).await.unwrap();
            let mut after = Vec::new();
            stream.read_to_end(&mut after).await.unwrap();
            asked.send(text(after)).unwrap();
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        // Honest: speaks only once it was answered.
        let mut client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
        client.write_all(ASK).await.unwrap();
        let head = requests.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.contains("upgrade: toy") && head.contains("connection: upgrade\r\n"), "{head}");
        agree.add_permits(1);
        let answer = head_of(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 101") && answer.to_ascii_lowercase().contains("doorward-decision"), "{answer}");
        client.write_all(b"after the switch").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(requests.recv().await.unwrap(), "after the switch");

        // Eager: what it sends before the 101 never gets anywhere.
        let mut eager = Visitor::new(&stage, [1, 2]).tls().await.unwrap();
        let mut bytes = ASK.to_vec();
        bytes.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n");
        eager.write_all(&bytes).await.unwrap();
        requests.recv().await.unwrap();
        agree.add_permits(1);
        drop(read_all(&mut eager).await);
        assert_eq!(requests.recv().await.unwrap(), "", "pipelined bytes went through the tunnel");
    });
}

#[test]
fn trap_half_an_upgrade_is_never_held_against_the_application_one_with_a_body_is_an_ordinary_request() {
    let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let toy = Toy::start(move |mut stream, _| {
        let asked = asked.clone();
        async move {
            let head = head_of(&mut stream).await.to_ascii_lowercase();
            let answer = if head.contains("upgrade: toy") { SWITCHED } else { OK };
            asked.send(head).unwrap();
            stream.write_all(answer).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        }
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let half = text(ASK.to_vec()).replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n");
        for from in 1..=6 {
            let mut client = Visitor::new(&stage, [1, from]).tls().await.unwrap();
            client.write_all(half.as_bytes()).await.unwrap();
            let answer = head_of(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let head = requests.recv().await.unwrap();
            assert!(head.contains("content-length: 5") && !head.contains("upgrade"), "{head}");
        }
    });
}

#[test]
fn trap_a_refused_upgrade_is_an_ordinary_answer_and_what_follows_is_a_request_of_its_own() {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&heard);
    let toy = Toy::start(move |mut stream, _| {
        let noted = std::sync::Arc::clone(&noted);
        async move {
            let mut ahead = Vec::new();
            while let Some(request) = hear(&mut stream, &mut ahead).await {
                noted.lock().unwrap().push(request.head);
                let answer = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nContent-Length: 2\r\n\r\nno";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    let stage = open(&format!(
        "{BASE}{}",
        toy.site_with("", "allow = [\"role:integrator\"]").replace("hosts", "client_ca = \"acme\"\nhosts")
    ));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]).with("good");
        let mut bytes = ASK.to_vec();
        bytes.extend_from_slice(
            b"GET /next HTTP/1.1\r\nHost: localhost\r\nDoorward-Identity: acme:admin\r\nConnection: close\r\n\r\n",
        );
        let answers = text(visitor.raw(&bytes).await.unwrap());
        assert_eq!(answers.matches("HTTP/1.1 426").count(), answers.matches("HTTP/1.1 ").count(), "{answers}");
        assert!(!answers.to_ascii_lowercase().contains("upgrade: other"), "hop-by-hop: {answers}");
        // Whatever was pipelined was decided on like any other request: its forged header is gone.
        for head in heard.lock().unwrap().iter() {
            assert!(!head.contains("acme:admin"), "{head}");
        }
        assert_eq!(heard.lock().unwrap().len(), answers.matches("HTTP/1.1 426").count());
    });
}

#[test]
fn an_upgrade_to_another_http_is_not_passed_on() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for protocol in ["h2c", "HTTP/2.0", "TLS/1.2", "websocket, h2c"] {
            let request = format!(
                "GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
                 HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
            );
            let answer = text(visitor.raw(request.as_bytes()).await.unwrap());
            assert!(answer.starts_with("HTTP/1.1 200"), "{protocol}: {answer}");
        }
        for heard in journal.all() {
            assert!(!heard.has("upgrade") && !heard.has("http2-settings") && !heard.has("connection"), "{}", heard.head);
        }
    });
}

#[test]
fn a_tunnel_ends_when_either_side_ends() {
    let toy = Toy::start(|mut stream, _| async move {
        hear(&mut stream, &mut Vec::new()).await;
        stream.write_all(SWITCHED).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye too");
    });
    let stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let mut client = Visitor::new(&stage, [1, 1]).tls().await.unwrap();
        client.write_all(ASK).await.unwrap();
        let mut rest = Vec::new();
        assert!(head_of(&mut client).await.starts_with("HTTP/1.1 101"));
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
        client.write_all(b"bye too").await.unwrap();
        client.shutdown().await.unwrap();
        let status = told(&stage, &["status", "--json"]);
        assert!(!status.is_empty());
    });
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn websocket(stage: &Stage) -> (Socket, String) {
    let stream = Visitor::new(stage, [1, 1]).tls().await.unwrap();
    let mut request = "wss://localhost/ws".into_client_request().unwrap();
    request.headers_mut().insert("user-agent", "Mozilla/5.0".parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let decision = response.headers()["doorward-decision"].to_str().unwrap().to_owned();
    (socket, decision)
}

/// Exactly the head of an answer.
async fn head_of(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    text(head)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
