//! Requests with two readings, forged headers, the wrong door.

use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::super::pki::Error;
use super::Scene;
use super::visitor::{Answer, Visitor, browser, read_all};

pub async fn play(scene: &mut Scene<'_>) -> Result<(), Error> {
    let visitor = Visitor::new(scene.stage, [1, 1]);

    let mut plain = visitor.tcp(scene.stage.http()).await?;
    plain.write_all(b"GET /home HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let answer = String::from_utf8_lossy(&read_all(&mut plain).await).into_owned();
    scene.judge("plain HTTP", "403 tls-required", Ok(raw_told(&answer)));

    let mut old = visitor.tcp(scene.stage.https()).await?;
    old.write_all(&tls_1_1_hello()).await?;
    let alert = read_all(&mut old).await;
    scene.judge("TLS 1.1", "refused by an alert", Ok(alert_told(&alert)));
    let mut stray = visitor.tcp(scene.stage.https()).await?;
    stray.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    let answer = read_all(&mut stray).await;
    scene.judge("plain HTTP on the TLS port", "no HTTP answer", Ok(no_http(&answer)));

    let unknown = visitor.clone().named("x.tenants.localhost").tls().await;
    scene.judge("SNI of no site", "alert unrecognized_name", Ok(handshake_told(unknown.map(drop))));
    let crossed = visitor.send(browser("GET", "/").header("host", "partners.localhost"), "").await;
    scene.judge("SNI and Host name different sites", "421 misdirected", crossed.map(|answer| answer.told()));
    let stranger = visitor.send(browser("GET", "/").header("host", "nobody.example"), "").await;
    scene.judge("Host of no site", "421 misdirected", stranger.map(|answer| answer.told()));

    for (attack, path) in [
        ("path /public/..%2fapi/orders", "/public/..%2fapi/orders"),
        ("path /public/%2e%2e/api/orders", "/public/%2e%2e/api/orders"),
        ("path //api/orders", "//api/orders"),
        ("path /public/..;/api/orders", "/public/..;/api/orders"),
        ("path /api%5corders", "/api%5corders"),
        ("path /api/orders%00.html", "/api/orders%00.html"),
    ] {
        let answer = visitor.send(browser("GET", path), "").await;
        scene.judge(attack, "400 bad-request", answer.map(|answer| answer.told()));
    }
    let encoded = visitor.get("/%61pi/orders").await;
    scene.judge("path /%61pi/orders is /api/orders", "403 client-cert-required", encoded.map(|answer| answer.told()));

    let smuggled = smuggle(scene, &visitor).await;
    scene.judge("Content-Length and Transfer-Encoding", "1 request reached the portal", smuggled);

    let forged = browser("GET", "/public/echo-headers")
        .uri("/echo")
        .header("x-forwarded-for", "203.0.113.99")
        .header("X_Forwarded.For", "203.0.113.99")
        .header("doorward-identity", "acme:urn:acme:admin")
        .header("Doorward_Identity", "acme:urn:acme:admin")
        .header("client-cert", ":bm90IGEgY2VydA==:")
        .header("connection", "close, x-forwarded-for, doorward-decision");
    let echoed = visitor.send(forged, "").await;
    scene.judge(
        "forged X-Forwarded-For, identity, Client-Cert",
        "x-forwarded-for 127.0.1.1, nothing forged",
        echoed.map(|answer| forged_told(&answer)),
    );
    Ok(())
}

async fn smuggle(scene: &Scene<'_>, visitor: &Visitor) -> Result<String, Error> {
    let before = scene.stage.portal.seen.requests.load(Ordering::SeqCst);
    let bytes = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 40\r\n\
        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /home HTTP/1.1\r\nHost: localhost\r\n\r\n";
    visitor.raw(bytes).await?;
    let reached = scene.stage.portal.seen.requests.load(Ordering::SeqCst) - before;
    Ok(if reached <= 1 { "1 request reached the portal".to_owned() } else { format!("{reached} requests reached the portal") })
}

fn forged_told(answer: &Answer) -> String {
    let echoed: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let headers: Vec<(&str, &str)> = echoed
        .get("headers")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?))).collect())
        .unwrap_or_default();
    let of = |name: &str| headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value).collect::<Vec<_>>().join(" ");
    let forged =
        headers.iter().any(|(_, value)| value.contains("203.0.113.99") || value.contains("admin") || value.contains("bm90"));
    let decision = if of("doorward-decision").is_empty() { ", no decision id" } else { "" };
    let told = if forged { "something forged" } else { "nothing forged" };
    format!("x-forwarded-for {}, {told}{decision}", of("x-forwarded-for"))
}

/// `403 tls-required` out of a raw answer.
fn raw_told(answer: &str) -> String {
    let status = answer.split(' ').nth(1).unwrap_or("nothing");
    let reason = answer.split("urn:doorward:").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
    format!("{status} {reason}").trim().to_owned()
}

fn no_http(answer: &[u8]) -> String {
    if answer.starts_with(b"HTTP/") { "an HTTP answer" } else { "no HTTP answer" }.to_owned()
}

/// Whether a plaintext TLS record is an alert (RFC 8446 section 6).
fn alert_told(record: &[u8]) -> String {
    match record {
        [0x15, _, _, _, _, 2, ..] => "refused by an alert",
        [] => "closed without an alert",
        _ => "no alert",
    }
    .to_owned()
}

/// What rustls says of a refused handshake, as the alert's name in the RFC.
pub fn handshake_told(outcome: Result<(), Error>) -> String {
    let Err(error) = outcome else { return "accepted".to_owned() };
    let told = error.to_string();
    let alerts = [
        ("UnrecognizedName", "unrecognized_name"),
        ("UnrecognisedName", "unrecognized_name"),
        ("CertificateRevoked", "certificate_revoked"),
        ("CertificateExpired", "certificate_expired"),
        ("CertificateRequired", "certificate_required"),
        ("UnknownCA", "unknown_ca"),
    ];
    match alerts.iter().find(|(name, _)| told.contains(name)) {
        Some((_, alert)) => format!("alert {alert}"),
        None => told,
    }
}

/// A ClientHello that offers TLS 1.1 at most.
fn tls_1_1_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend([0u8; 32]);
    // No session id; TLS_RSA_WITH_AES_128_CBC_SHA and its 256-bit sister; no compression.
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    hello
}
