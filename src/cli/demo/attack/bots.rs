//! Automation without an approval, and beyond it; a limit.

use http::Request;

use super::super::pki::Error;
use super::Scene;
use super::visitor::{Answer, Visitor, browser};

pub async fn play(scene: &mut Scene<'_>) -> Result<(), Error> {
    let bot = Visitor::new(scene.stage, [3, 1]);
    let unapproved = bot.send(curl("/orders/17"), "").await;
    scene.judge("bot without an approval", "403 bot-approval-required", told(unapproved));
    let nameless = bot.send(Request::get("/orders/17"), "").await;
    scene.judge("caller without a User-Agent", "403 bot-approval-required", told(nameless));
    let labelled = Request::get("/orders/17").header("user-agent", "Googlebot/2.1 (+http://www.google.com/bot.html)");
    scene.judge("a crawler's label", "403 bot-approval-required", told(bot.send(labelled, "").await));
    let forged = bot.send(with_token("/orders/17", "v4.public.Zm9yZ2Vk"), "").await;
    scene.judge("forged token", "403 bot-approval-required", told(forged));

    let (id, token) = approve(scene, &["--path", "/orders/**"]).await?;
    scene.judge("bot with its approval", "200", told(bot.send(with_token("/orders/17", &token), "").await));
    scene.judge("outside its scope", "403 bot-scope", told(bot.send(with_token("/home", &token), "").await));
    let twice = with_token("/orders/17", &token).header("doorward-approval", token.as_str());
    scene.judge("two tokens", "403 bot-approval-required", told(bot.send(twice, "").await));
    let seen = bot.send(with_token("/echo", &approve(scene, &["--path", "/echo"]).await?.1), "").await?;
    let leaked = String::from_utf8_lossy(&seen.body).to_ascii_lowercase().contains("v4.public");
    scene.judge(
        "the token stays at the door",
        "not seen by the portal",
        Ok(word(leaked, "seen by the portal", "not seen by the portal")),
    );
    scene.doorward(&["approvals", "revoke", &id, "--reason", "contract ended"]).await?;
    let revoked = bot.send(with_token("/orders/17", &token), "").await;
    scene.judge("revoked approval, next request", "403 approval-revoked", told(revoked));

    let (_, bound) = approve(scene, &["--path", "/orders/**", "--identity", "acme:urn:acme:orders"]).await?;
    let stolen = bot.send(with_token("/orders/17", &bound), "").await;
    scene.judge("token stolen from its certificate", "403 approval-binding", told(stolen));
    let owner = bot.clone().with("good").send(with_token("/orders/17", &bound), "").await;
    scene.judge("the same with its certificate", "200", told(owner));
    let hour = crate::clock::Clock::system().now().wall.as_second() / 3600 % 24;
    let elsewhen = format!("{:02}:00-{:02}:00", (hour + 6) % 24, (hour + 7) % 24);
    let (_, sleeping) = approve(scene, &["--path", "/orders/**", "--hours", &elsewhen]).await?;
    scene.judge("at the wrong hour", "403 bot-hours", told(bot.send(with_token("/orders/17", &sleeping), "").await));

    let greedy = Visitor::new(scene.stage, [3, 9]);
    let mut line = greedy.line().await?;
    let (mut passed, mut last) = (0, None);
    for _ in 0..7 {
        let answer = line.send(browser("GET", "/reports/1"), "").await?;
        passed += u32::from(answer.status.is_success());
        last = Some(answer);
    }
    let seen = last.map(|answer| {
        let fields = ["retry-after", "ratelimit", "ratelimit-policy"].iter().all(|name| !answer.header(name).is_empty());
        format!("{passed} pass, then {}{}", answer.told(), word(fields, "", " without its fields"))
    });
    scene.judge("a limit of 5", "5 pass, then 429 rate-limited", seen.ok_or_else(|| "nothing was sent".into()));
    Ok(())
}

/// Requests, signs and activates an approval on the command line. Returns its id and token.
async fn approve(scene: &Scene<'_>, terms: &[&str]) -> Result<(String, String), Error> {
    let mut request = vec!["approvals", "request", "--kind", "bot", "--name", "acme-sync", "--owner", "Acme Ltd"];
    request.extend(["--contact", "ops@acme.example", "--purpose", "nightly order import", "--site", "localhost"]);
    request.extend(["--method", "GET", "--until", "2100-12-31"]);
    request.extend(terms);
    let id = scene.doorward(&request).await?;
    let key = scene.stage.pki.folder.join("alice.key").display().to_string();
    scene.doorward(&["approvals", "sign", &id, "--signer", "alice", "--key", &key]).await?;
    let token = scene.doorward(&["approvals", "activate", &id]).await?;
    Ok((id, token))
}

fn curl(path: &str) -> http::request::Builder {
    Request::get(path).header("user-agent", "curl/8.14.1")
}

fn with_token(path: &str, token: &str) -> http::request::Builder {
    curl(path).header("authorization", format!("Doorward {token}"))
}

fn told(answer: Result<Answer, Error>) -> Result<String, Error> {
    answer.map(|answer| answer.told())
}

fn word(is: bool, yes: &str, no: &str) -> String {
    if is { yes } else { no }.to_owned()
}
