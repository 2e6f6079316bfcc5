//! Password guessing: in parallel, in a list, behind an outage, by hanging up; and who must not suffer for it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::super::pki::Error;
use super::super::portal::ACCOUNT;
use super::Scene;
use super::visitor::{Visitor, browser, credentials, form};

/// Distinct wrong passwords at once.
const PARALLEL: usize = 1000;
/// Connections that carry them, each its share as streams side by side.
const CONNECTIONS: usize = 20;
/// The default of `pad`.
const PAD: Duration = Duration::from_millis(250);

pub async fn play(scene: &mut Scene<'_>) -> Result<(), Error> {
    let portal = scene.stage.portal.clone();

    portal.mood.login_delay.store(500, Ordering::SeqCst);
    let seen = storm(scene, [4, 1]).await;
    scene.judge("1,000 wrong passwords at once, answers take 500 ms", "5 reached the portal, 995 answered 429 or 403", seen);
    let banned = Visitor::new(scene.stage, [4, 1]);
    scene.judge("the same address afterwards", "403 banned", banned.get("/").await.map(|answer| answer.told()));
    let proven = banned.clone().with("good").get("/api/orders").await;
    scene.judge("with a good certificate, from the banned address", "200", proven.map(|answer| answer.told()));
    portal.mood.login_delay.store(0, Ordering::SeqCst);
    let neighbour = Visitor::new(scene.stage, [4, 2]).sign_in(ACCOUNT.0, ACCOUNT.1).await;
    scene.judge("the honest owner, from another address", "303 to /home", neighbour.map(|answer| went(&answer)));

    portal.mood.login_status.store(503, Ordering::SeqCst);
    portal.mood.login_delay.store(500, Ordering::SeqCst);
    let seen = storm(scene, [4, 3]).await;
    scene.judge("the same while the portal answers 503", "5 reached the portal, 995 answered 429 or 403", seen);
    portal.mood.login_status.store(0, Ordering::SeqCst);
    portal.mood.login_delay.store(0, Ordering::SeqCst);
    let spared = Visitor::new(scene.stage, [4, 3]).get("/").await;
    scene.judge("nobody is banned for an outage", "200", spared.map(|answer| answer.told()));

    let mut found = "not found";
    let lister = Visitor::new(scene.stage, [4, 4]);
    for place in 1..=50 {
        let password = if place == 41 { ACCOUNT.1.to_owned() } else { format!("guess-{place}") };
        if lister.sign_in(ACCOUNT.0, &password).await.is_ok_and(|answer| went(&answer) == "303 to /home") {
            found = "found";
        }
    }
    scene.judge("the right password at place 41 of a list", "not found", Ok(found.to_owned()));

    let quitter = Visitor::new(scene.stage, [4, 5]);
    portal.mood.login_delay.store(400, Ordering::SeqCst);
    for guess in 0..5 {
        hang_up(&quitter, guess).await?;
    }
    portal.mood.login_delay.store(0, Ordering::SeqCst);
    let counted = quitter.get("/").await;
    scene.judge("five guesses, each hung up before its answer", "403 banned", counted.map(|answer| answer.told()));

    portal.mood.hash_delay.store(80, Ordering::SeqCst);
    let timed = answered_early(scene).await;
    scene.judge("a name that exists takes the portal 80 ms, others none", "no wrong password answered before 250 ms", timed);
    portal.mood.hash_delay.store(0, Ordering::SeqCst);

    let hider = Visitor::new(scene.stage, [4, 6]);
    let twice = hider.send(form(), "username=alice&username=bob&password=x").await;
    scene.judge("two account names", "400 bad-request", twice.map(|answer| answer.told()));
    let encoded = hider.send(form().header("content-encoding", "gzip"), credentials("alice", "x")).await;
    scene.judge("an encoded login body", "400 bad-request", encoded.map(|answer| answer.told()));
    let large = hider.send(form(), format!("username=alice&password={}", "x".repeat(70_000))).await;
    scene.judge("a login body over 64 KiB", "400 bad-request", large.map(|answer| answer.told()));
    let queried = browser("POST", "/login?username=bob").header("content-type", "application/x-www-form-urlencoded");
    let queried = hider.send(queried, credentials("alice", "x")).await;
    scene.judge("the account in the query as well", "400 bad-request", queried.map(|answer| answer.told()));

    scene.doorward(&["bans", "lift", "127.0.4.1", "--reason", "customer called"]).await?;
    scene.judge("after the ban is lifted", "200", banned.get("/").await.map(|answer| answer.told()));
    Ok(())
}

/// Sends all guesses at the same time, as streams of a few HTTP/2 connections, and counts what became of them.
async fn storm(scene: &Scene<'_>, from: [u8; 2]) -> Result<String, Error> {
    let attempts = &scene.stage.portal.seen.attempts;
    let before = attempts.load(Ordering::SeqCst);
    let visitor = Visitor::new(scene.stage, from);
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let streams = visitor.streams().await?;
        for guess in 0..PARALLEL / CONNECTIONS {
            let streams = streams.clone();
            guesses.spawn(async move { streams.send(form(), credentials(ACCOUNT.0, &format!("wrong-{number}-{guess}"))).await });
        }
    }
    let mut statuses = BTreeMap::new();
    while let Some(answer) = guesses.join_next().await {
        *statuses.entry(answer??.status.as_u16()).or_insert(0usize) += 1;
    }
    let refused = statuses.get(&429).unwrap_or(&0) + statuses.get(&403).unwrap_or(&0);
    Ok(format!("{} reached the portal, {refused} answered 429 or 403", attempts.load(Ordering::SeqCst) - before))
}

/// Whether the time of a failing answer says which of two accounts exists.
async fn answered_early(scene: &Scene<'_>) -> Result<String, Error> {
    let prober = Visitor::new(scene.stage, [4, 7]);
    for account in [ACCOUNT.0, "nobody"] {
        let asked = Instant::now();
        prober.sign_in(account, "wrong").await?;
        let took = asked.elapsed();
        if took < PAD {
            return Ok(format!("{account} answered after {} ms", took.as_millis()));
        }
    }
    Ok(format!("no wrong password answered before {} ms", PAD.as_millis()))
}

/// Sends an attempt and leaves while the portal still thinks.
async fn hang_up(visitor: &Visitor, guess: usize) -> Result<(), Error> {
    let body = credentials(ACCOUNT.0, &format!("cut-{guess}"));
    let mut stream = visitor.tls().await?;
    let request = format!(
        "POST /login HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    tokio::time::sleep(Duration::from_millis(150)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

fn went(answer: &super::visitor::Answer) -> String {
    match answer.header("location") {
        "" => answer.told(),
        location => format!("{} to {location}", answer.status.as_u16()),
    }
}
