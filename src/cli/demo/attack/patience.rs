//! Slow and silent callers, tunnels, and a gateway that is killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::super::pki::Error;
use super::Scene;
use super::visitor::Visitor;

/// The demo's deadlines are 3 s; a caller is let go no later than this.
const LET_GO: Duration = Duration::from_secs(6);

pub async fn play(scene: &mut Scene<'_>) -> Result<(), Error> {
    let visitor = Visitor::new(scene.stage, [5, 1]);
    let echoed = websocket(&visitor).await;
    scene.judge("WebSocket through the gateway", "echoed", echoed);
    let refused = visitor.raw(NOT_A_WEBSOCKET).await.map(|answer| String::from_utf8_lossy(&answer).into_owned());
    let seen = refused.map(|answer| match answer.matches("HTTP/1.1").count() {
        0 => "no answer".to_owned(),
        1 => "one answer, no tunnel".to_owned(),
        _ => "a tunnel".to_owned(),
    });
    scene.judge("upgrade that the portal refuses, with a request behind it", "one answer, no tunnel", seen);

    let silent = visitor.tcp(scene.stage.https()).await?;
    let mut half = visitor.tls().await?;
    half.write_all(b"GET / HTTP/1.1\r\nHost: local").await?;
    let mut starved = visitor.tls().await?;
    starved
        .write_all(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 10\r\n\r\nabc")
        .await?;
    let (silent, half, starved) = tokio::join!(let_go(silent), let_go(half), let_go(starved));
    scene.judge("silent before the handshake", "let go", Ok(silent));
    scene.judge("half a request head", "let go", Ok(half));
    scene.judge("a body that stalls", "let go", Ok(starved));

    let survived = kill(scene).await;
    scene.judge("kill -9 after a ban was acknowledged", "banned after the restart", survived);
    Ok(())
}

async fn websocket(visitor: &Visitor) -> Result<String, Error> {
    let stream = visitor.tls().await?;
    let mut request = tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request("wss://localhost/ws")?;
    request.headers_mut().insert("user-agent", "Mozilla/5.0".parse()?);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    socket.send(Message::text("hello")).await?;
    match socket.next().await {
        Some(Ok(message)) if message.to_text().is_ok_and(|text| text == "hello") => Ok("echoed".to_owned()),
        other => Ok(format!("{other:?}")),
    }
}

/// Asks for an upgrade where the portal has none, and sends the bytes of another request at once.
const NOT_A_WEBSOCKET: &[u8] =
    b"GET /home HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nConnection: upgrade, close\r\n\
Upgrade: websocket\r\n\r\nGET /api/orders HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn let_go(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut rest = Vec::new();
    match tokio::time::timeout(LET_GO, stream.read_to_end(&mut rest)).await {
        Ok(_) => "let go".to_owned(),
        Err(_) => "held".to_owned(),
    }
}

/// A gateway of its own, as a process: banned, killed, started again, asked.
async fn kill(scene: &Scene<'_>) -> Result<String, Error> {
    let stage = scene.stage;
    let state = stage.folder.path().join("state-of-the-killed");
    let file = stage.folder.path().join("killed.toml");
    std::fs::write(&file, super::config(&stage.pki.folder, &state, stage.portal.address))?;
    let doorward = |arguments: &[&str]| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--config").arg(&file).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok::<_, Error>(command)
    };
    let mut first = Gateway(doorward(&["run"])?.spawn()?);
    wait_for(&state.join("admin.sock")).await?;
    let added = doorward(&["bans", "add", "203.0.113.7", "--for", "2h", "--reason", "abuse report 4711"])?.output()?;
    first.0.kill()?;
    first.0.wait()?;
    if !added.status.success() {
        return Err("the ban was not acknowledged".into());
    }
    std::fs::remove_file(state.join("admin.sock"))?;
    let second = Gateway(doorward(&["run"])?.spawn()?);
    wait_for(&state.join("admin.sock")).await?;
    let list = doorward(&["bans", "list", "--json"])?.output()?;
    drop(second);
    let banned = String::from_utf8_lossy(&list.stdout).contains("203.0.113.7");
    Ok(if banned { "banned after the restart" } else { "not banned after the restart" }.to_owned())
}

/// A child that does not outlive the play.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for(socket: &std::path::Path) -> Result<(), Error> {
    for _ in 0..200 {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the gateway did not start".into())
}
