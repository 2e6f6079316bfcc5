//! Exactly one record a request, with the same decision id everywhere, and no secret in any of them.

use std::path::Path;
use std::sync::atomic::Ordering;

use doorward::cli::demo::stage::Stage;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::process::{House, eventually, lines_with, open_house};
use crate::support::upstream::Toy;
use crate::support::{
    ACCOUNT, BASE, Visitor, admin, browser, credentials, doorward, event, form, open, probe, rewrite, run, told,
};

fn state(stage: &Stage) -> std::path::PathBuf {
    stage.folder.path().join("state")
}

/// Waits until the access log has that many lines for a text, and then for what may come too much.
fn records(stage: &mut Stage, text: &str, count: usize) -> Vec<Value> {
    let log = state(stage).join("access.log");
    eventually(&format!("{count} records of {text}"), || (lines_with(&log, &[text]).len() >= count).then_some(()));
    // Whatever else was on its way is before the end in the log.
    stage.close().expect("it ends well");
    let lines = lines_with(&log, &[text]);
    assert_eq!(lines.len(), count, "records of {text}: {lines:#?}");
    lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn one_record_a_request_that_is_answered_refused_redirected_or_a_tunnel() {
    let mut stage = open(&open_house());
    run(async {
        let visitor = Visitor::new(&stage, [11, 1]);
        let mut line = visitor.line().await.expect("a connection");
        for path in ["/public/one", "/public/one", "/nowhere/one"] {
            line.send(browser("GET", path), "").await.expect("an answer");
        }
        let streams = visitor.streams().await.expect("HTTP/2");
        let (a, b) =
            tokio::join!(streams.send(browser("GET", "/public/one"), ""), streams.send(browser("HEAD", "/public/one"), ""),);
        assert!(a.is_ok() && b.is_ok());
        visitor.send(browser("GET", "/one").header("host", "other.localhost"), "").await.expect("an answer");
        visitor.get("/a/..%2fone").await.expect("an answer");
    });
    let all = records(&mut stage, "one\"", 7);
    let statuses: Vec<u64> = all.iter().filter_map(|record| record["status"].as_u64()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    for (status, reason) in [(421, "misdirected"), (400, "bad-request")] {
        let one = all.iter().find(|record| record["status"] == status).expect("a refusal's record");
        assert_eq!(one["reason"], reason);
        assert_eq!(one["cut"], false);
    }
}

#[test]
fn one_record_when_the_client_leaves_before_the_answer_and_in_the_middle_of_it() {
    let mut stage = open(&open_house());
    stage.portal.mood.login_delay.store(60_000, Ordering::SeqCst);
    run(async {
        let visitor = Visitor::new(&stage, [11, 2]);
        let mut before = visitor.tls().await.expect("a connection");
        let body = credentials("alice", "wrong");
        let head = format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nUser-Agent: leaver\r\n\
            Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        before.write_all(head.as_bytes()).await.expect("writable");
        while stage.portal.seen.attempts.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(before);
        event(&mut stage, &["login.attempt", "\"outcome\":\"failed\""]).await;

        let mut middle = visitor.tls().await.expect("a connection");
        middle
            .write_all(b"GET /download?mib=64 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: leaver\r\n\r\n")
            .await
            .expect("writable");
        assert!(middle.read(&mut [0; 4096]).await.expect("it begins") > 0);
        drop(middle);

        let mut upload = visitor.tls().await.expect("a connection");
        upload
            .write_all(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nUser-Agent: leaver\r\nContent-Length: 100000\r\n\r\nhalf")
            .await
            .expect("writable");
        while stage.portal.seen.requests.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
        drop(upload);

        let streams = visitor.streams().await.expect("HTTP/2");
        let attempt = http::Request::post("/login").header("user-agent", "leaver");
        let attempt = attempt.header("content-type", "application/x-www-form-urlencoded");
        let asked = stage.portal.seen.attempts.load(Ordering::SeqCst);
        let sent = tokio::spawn(async move { streams.send(attempt, credentials("alice", "wrong again")).await });
        while stage.portal.seen.attempts.load(Ordering::SeqCst) == asked {
            tokio::task::yield_now().await;
        }
        sent.abort();
    });
    let all = records(&mut stage, "leaver", 4);
    let of = |path: &str| all.iter().filter(|record| record["path"] == path).collect::<Vec<_>>();
    for login in of("/login") {
        assert_eq!((login["status"].as_u64(), login["cut"].as_bool()), (Some(0), Some(true)), "{login}");
    }
    assert_eq!(of("/login").len(), 2);
    let [download] = of("/download")[..] else { panic!("{all:#?}") };
    assert_eq!((download["status"].as_u64(), download["cut"].as_bool()), (Some(200), Some(true)));
    assert!(download["bytes_out"].as_u64().is_some_and(|bytes| bytes > 0 && bytes < 64 << 20), "{download}");
    let [upload] = of("/echo")[..] else { panic!("{all:#?}") };
    // Half a body is the client's fault, told as what it would have been answered.
    assert_eq!((upload["status"].as_u64(), upload["bytes_in"].as_u64()), (Some(400), Some(4)), "{upload}");
}

#[test]
fn an_early_answer_that_its_client_got_whole_is_not_recorded_as_cut() {
    // Answers as soon as a head is there, whatever of the body is still to come, and holds the connection.
    let toy = Toy::start(|mut stream, _| async move {
        let mut heard = Vec::new();
        while !heard.windows(4).any(|four| four == b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut heard).await, Ok(1..)) {
                return;
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        while let Ok(1..) = stream.read(&mut [0; 4096]).await {}
    });
    let mut stage = open(&format!("{BASE}{}", toy.site()));
    run(async {
        let mut client = Visitor::new(&stage, [11, 7]).tls().await.expect("a connection");
        let upload = b"POST /early HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Mozilla/5.0\r\nContent-Length: 100000\r\n\r\nhalf";
        client.write_all(upload).await.expect("writable");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nno") {
            assert!(client.read_buf(&mut answer).await.expect("an answer") > 0, "it ended before its end");
        }
    });
    let all = records(&mut stage, "/early", 1);
    assert_eq!(
        (all[0]["status"].as_u64(), all[0]["bytes_out"].as_u64(), all[0]["cut"].as_bool()),
        (Some(403), Some(2), Some(false))
    );
}

#[test]
fn the_json_record_has_its_keys_in_their_order() {
    let mut stage = open(&open_house());
    let answer = run(async {
        let request = browser("GET", "/public/keys?token=abc").header("referer", "https://localhost/from?secret=1#part");
        Visitor::new(&stage, [11, 3]).send(request, "").await.expect("an answer")
    });
    let log = state(&stage).join("access.log");
    let line = eventually("the record", || lines_with(&log, &["/public/keys"]).pop());
    stage.close().expect("it ends well");
    let of = |key: &str| serde_json::from_str::<Value>(&line).expect("JSON")[key].clone();
    let (time, took) = (of("time").as_str().expect("a time").to_owned(), of("duration_seconds"));
    assert!(time.len() == 24 && time.ends_with('Z'), "milliseconds in UTC: {time}");
    let expected = format!(
        "{{\"time\":\"{time}\",\"event\":\"request\",\"severity\":\"info\",\"clauses\":[],\"decision\":\"{}\",\"generation\":1,\
        \"client\":\"127.0.11.3\",\"peer\":\"127.0.11.3\",\"method\":\"GET\",\"host\":\"localhost\",\"path\":\"/public/keys\",\
        \"protocol\":\"HTTP/1.1\",\"route\":\"localhost/\",\"status\":200,\"bot\":\"unmarked\",\"upstream\":\"http://{}\",\
        \"tls\":\"{}\",\"bytes_in\":0,\"bytes_out\":{},\"duration_seconds\":{took},\"cut\":false,\
        \"user_agent\":\"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\",\
        \"referer\":\"https://localhost/from\"}}",
        answer.header("doorward-decision"),
        stage.portal.address,
        of("tls").as_str().unwrap_or_default(),
        answer.body.len(),
    );
    let (expected, line): (Value, Value) = if expected == line {
        return;
    } else {
        (serde_json::from_str(&expected).expect("JSON"), serde_json::from_str(&line).expect("JSON"))
    };
    assert_eq!(line, expected);
    panic!("the order of the keys changed");
}

#[test]
fn the_combined_record_is_apaches_to_the_byte() {
    let mut stage = open(&open_house().replace("[log]\n", "[log]\nformat = \"combined\"\n"));
    let length = run(async {
        let visitor = Visitor::new(&stage, [11, 4]);
        let request = browser("GET", "/public/combined?token=abc").header("referer", "https://localhost/\"quoted\"?secret=1");
        let answer = visitor.send(request, "").await.expect("an answer");
        let head = visitor.send(browser("HEAD", "/public/combined").header("host", "localhost"), "").await.expect("an answer");
        assert!(head.body.is_empty());
        let streams = visitor.streams().await.expect("HTTP/2");
        streams.send(browser("GET", "/public/combined"), "").await.expect("an answer");
        answer.body.len()
    });
    let log = state(&stage).join("access.log");
    eventually("three records", || (lines_with(&log, &["/public/combined"]).len() == 3).then_some(()));
    stage.close().expect("it ends well");
    let lines = lines_with(&log, &["/public/combined"]);
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    // Each worker has its own page: lines of two that answer within milliseconds may change places.
    for (request, size, referer) in [
        ("GET /public/combined HTTP/1.1", length.to_string(), "https://localhost/\\\"quoted\\\""),
        ("HEAD /public/combined HTTP/1.1", "-".to_owned(), "-"),
        ("GET /public/combined HTTP/2.0", length.to_string(), "-"),
    ] {
        let line = lines.iter().find(|line| line.contains(request)).expect("one of the three");
        // The portal knows no HEAD.
        let status = if request.starts_with("HEAD") { 404 } else { 200 };
        let at = line.split(['[', ']']).nth(1).expect("a time");
        assert_eq!(at.len(), "21/Nov/2026:22:00:00 +0000".len(), "{at}");
        assert!(at.ends_with(" +0000"), "{at}");
        assert_eq!(*line, format!("127.0.11.4 - - [{at}] \"{request}\" {status} {size} \"{referer}\" \"{agent}\""));
    }
}

#[test]
fn one_decision_id_in_the_answer_the_access_log_the_events_and_towards_the_application() {
    let mut stage = open(&open_house());
    let (answer, echoed) = run(async {
        let visitor = Visitor::new(&stage, [11, 5]);
        let attempt = visitor.sign_in("alice", "wrong").await.expect("an answer");
        let id = attempt.header("doorward-decision").to_owned();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        event(&mut stage, &["login.attempt", &id]).await;
        let forged = browser("GET", "/echo").header("doorward-decision", "00000000000000000000000000000000");
        let echo = visitor.send(forged, "").await.expect("an answer");
        let body: Value = serde_json::from_slice(&echo.body).expect("JSON");
        let sent = body["headers"].as_array().expect("headers").iter().filter(|header| header[0] == "doorward-decision");
        let sent: Vec<&str> = sent.filter_map(|header| header[1].as_str()).collect();
        assert_eq!(sent, [echo.header("doorward-decision")], "the application is told the same, once");
        let refused = visitor.send(browser("GET", "/").header("host", "other.localhost"), "").await.expect("an answer");
        let problem: Value = serde_json::from_slice(&refused.body).expect("a problem");
        assert!(problem["instance"].as_str().is_some_and(|at| at.ends_with(refused.header("doorward-decision"))), "{problem}");
        (id, [echo.header("doorward-decision").to_owned(), refused.header("doorward-decision").to_owned()])
    });
    records(&mut stage, &answer, 1);
    let log = state(&stage).join("access.log");
    for id in echoed {
        assert_eq!(lines_with(&log, &[&id]).len(), 1, "{id}");
    }
}

#[test]
fn no_secret_is_in_any_log_metric_store_file_or_admin_answer() {
    let mut stage = open(&open_house());
    const SECRET: &str = "zyzzyva";
    let token = run(async {
        let id = told(
            &stage,
            &[
                "approvals",
                "request",
                "--name",
                "sync",
                "--owner",
                "Acme",
                "--contact",
                "ops@acme.example",
                "--purpose",
                "import",
                "--site",
                "localhost",
                "--method",
                "GET",
                "--path",
                "/orders/**",
                "--until",
                "2099-01-01",
            ],
        );
        let key = stage.pki.folder.join("alice.key").display().to_string();
        told(&stage, &["approvals", "sign", &id, "--signer", "alice", "--key", &key]);
        let token = told(&stage, &["approvals", "activate", &id]);
        let visitor = Visitor::new(&stage, [11, 6]);
        for (path, login) in [("/login", true), ("/orders/1", false), ("/nowhere", false), ("/a/..%2fb", false)] {
            let mut request =
                browser(if login { "POST" } else { "GET" }, &format!("{path}?password={SECRET}-query&token={SECRET}"))
                    .header("cookie", format!("session={SECRET}-cookie"))
                    .header("authorization", format!("Basic {SECRET} {SECRET}-second-word"))
                    .header("x-api-key", format!("{SECRET}-key"))
                    .header("referer", format!("https://localhost/?session={SECRET}-referer#{SECRET}"));
            if login {
                request = request.header("content-type", "application/x-www-form-urlencoded");
            }
            visitor.send(request, if login { credentials("alice", SECRET) } else { String::new() }).await.expect("an answer");
        }
        visitor.sign_in("alice", &format!("{SECRET}-wrong")).await.expect("an answer");
        visitor.sign_in(ACCOUNT.0, ACCOUNT.1).await.expect("an answer");
        for header in ["authorization", "doorward-approval"] {
            let value = if header == "authorization" { format!("Doorward {token}") } else { token.clone() };
            let good = visitor.send(browser("GET", "/orders/1").header(header, &value), "").await.expect("an answer");
            assert_eq!(good.status, 200);
            let bad = visitor.send(browser("GET", "/home").header(header, format!("{value}{SECRET}")), "").await;
            assert_eq!(bad.expect("an answer").status, 403);
            assert_eq!(visitor.send(browser("GET", "/home").header(header, &value), "").await.expect("an answer").status, 403);
        }
        visitor
            .raw(
                format!("GET /?{SECRET} HTTP/1.1\r\nHost: localhost\r\nCookie: {SECRET}\r\nBad header {SECRET}\r\n\r\n")
                    .as_bytes(),
            )
            .await
            .expect("some answer");
        visitor
            .raw(format!("GET http://user:{SECRET}@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await
            .expect("some");
        for attempt in ["{\"username\":\"a\"", "username=a&username=b"] {
            let odd = form().header("x-secret", SECRET);
            visitor.send(odd, format!("{attempt}&password={SECRET}")).await.expect("an answer");
        }
        rewrite(&stage, |text| text);
        token
    });

    let mut places = vec![(
        "metrics".to_owned(),
        run(async { probe(stage.bound.metrics.expect("on"), "/metrics").await }).expect("metrics").1,
    )];
    let ids: Vec<String> = {
        let list: Value =
            serde_json::from_str(&admin(&stage.bound.admin, "GET", "/approvals", "").expect("an answer").1).expect("JSON");
        list.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
    };
    let mut paths = ["/", "/status", "/config", "/bans", "/approvals", "/limits"].map(str::to_owned).to_vec();
    paths.extend(ids.iter().flat_map(|id| [format!("/approvals/{id}"), format!("/approvals/{id}/payload")]));
    for path in paths {
        places.push((path.clone(), admin(&stage.bound.admin, "GET", &path, "").expect("an answer").1));
    }
    for command in [&["config", "show"][..], &["config", "show", "--json"], &["check", "--json"], &["status"]] {
        let output = doorward(&stage, command);
        places.push((command.join(" "), format!("{}{}", text(&output.stdout), text(&output.stderr))));
    }
    stage.close().expect("it ends well");
    while let Ok(line) = stage.events.try_recv() {
        places.push(("an event".to_owned(), line));
    }
    for file in files(&state(&stage)) {
        if !file.ends_with("approvals.key") {
            places.push((file.display().to_string(), text(&std::fs::read(&file).expect("readable"))));
        }
    }
    assert!(places.len() > 14 && places.iter().any(|(place, text)| place.ends_with("access.log") && text.lines().count() > 12));
    let signing = std::fs::read_to_string(stage.pki.folder.join("alice.key")).expect("a key");
    let signing = signing.lines().nth(1).expect("its body").to_owned();
    let approvals = text(&std::fs::read(state(&stage).join("approvals.key")).expect("a key"));
    for secret in
        [SECRET, ACCOUNT.1, "correct+horse", &token, &token[..token.len() - 8], "demo-session", &signing, approvals.trim()]
    {
        for (place, text) in &places {
            assert!(
                !text.contains(secret),
                "{secret:?} is in {place}: {}",
                text.lines().find(|line| line.contains(secret)).unwrap_or_default()
            );
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.is_file()).collect()
}

#[test]
fn usr1_reopens_the_logs_and_no_line_is_lost() {
    let house = House::new(&open_house());
    let gateway = house.start();
    let log = house.state().join("access.log");
    run(async {
        let visitor = gateway.visitor([11, 7]);
        visitor.get("/public/first").await.expect("an answer");
        eventually("the first line", || lines_with(&log, &["/public/first"]).pop());
        for name in ["access.log", "events.log"] {
            std::fs::rename(house.state().join(name), house.state().join(format!("{name}.1"))).expect("rotated");
        }
        visitor.get("/public/between").await.expect("an answer");
        eventually("it still writes to the rotated file", || {
            lines_with(&house.state().join("access.log.1"), &["/public/between"]).pop()
        });
        gateway.signal("USR1");
        eventually("new files", || (log.exists() && house.state().join("events.log").exists()).then_some(()));
        visitor.get("/public/after").await.expect("an answer");
        eventually("the line in the new file", || lines_with(&log, &["/public/after"]).pop());
        assert_eq!(lines_with(&log, &["/public/"]).len(), 1);
        assert_eq!(lines_with(&house.state().join("access.log.1"), &["/public/"]).len(), 2);
    });
}

#[test]
fn what_is_refused_before_there_is_a_request_still_has_its_event_and_its_record() {
    let mut stage = open(&open_house());
    run(async {
        let visitor = Visitor::new(&stage, [11, 8]);
        visitor.raw(b"NONSENSE\r\n\r\n").await.expect("some answer");
        let record = event(&mut stage, &["\"request\"", "127.0.11.8"]).await;
        assert!(record.contains("\"status\":400") && record.contains("\"method\":\"-\""), "{record}");
        event(&mut stage, &["protocol.error", "127.0.11.8"]).await;
        let _ = visitor.clone().named("unknown.example").tls().await;
        event(&mut stage, &["127.0.11.8", "unknown"]).await;
        let mut tcp = visitor.tcp(stage.https()).await.expect("a connection");
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("writable");
        event(&mut stage, &["handshake.failed", "127.0.11.8"]).await;
        let mut plain = visitor.tcp(stage.http()).await.expect("a connection");
        plain.write_all(b"GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("writable");
        event(&mut stage, &["\"request\"", "tls-required", "/plain"]).await;
    });
}
