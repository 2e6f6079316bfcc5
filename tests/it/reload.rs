//! A reload takes over everything or nothing, and nobody at the door notices.

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use doorward::cli::demo::pki::{LeafSpec, write_private};
use doorward::cli::demo::stage::Stage;
use serde_json::Value;

use crate::support::process::{House, eventually, lines_with, open_house};
use crate::support::{BASE, LOGIN, NAMES, OPEN_SITE, Socket, Visitor, browser, doorward, event, open, rewrite, run, told};

fn stage() -> Stage {
    open(&open_house())
}

fn status(stage: &Stage) -> Value {
    serde_json::from_str(&told(stage, &["status", "--json"])).expect("JSON")
}

fn generation(stage: &Stage) -> u64 {
    status(stage)["generation"].as_u64().expect("a number")
}

fn text(stage: &Stage) -> String {
    std::fs::read_to_string(&stage.config).expect("the config")
}

/// The server certificate that a visitor is shown.
async fn shown(visitor: &Visitor) -> Vec<u8> {
    let stream = visitor.tls().await.expect("a handshake");
    stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
}

#[test]
fn hup_the_file_watch_and_the_command_each_take_over_the_file() {
    let house = House::new(&open_house());
    let gateway = house.start();
    let live = || -> Value { serde_json::from_str(&house.told(&["status", "--json"])).expect("JSON") };
    assert_eq!(live()["generation"], 1);

    gateway.signal("HUP");
    eventually("generation 2 by HUP", || (live()["generation"] == 2).then_some(()));

    let old = std::fs::read_to_string(&house.config).expect("a config");
    std::fs::write(&house.config, format!("{old}\n[policy]\nversion = \"by-watch\"\n")).expect("a config");
    eventually("the watch takes it over", || (live()["policy"]["version"] == "by-watch").then_some(()));
    assert_eq!(live()["generation"], 3);

    let next = house.folder.path().join("next.toml");
    std::fs::write(&next, format!("{old}\n[policy]\nversion = \"by-command\"\n")).expect("a config");
    std::fs::rename(&next, &house.config).expect("an atomic rename");
    let reload = house.doorward(&["reload"]);
    assert_eq!(String::from_utf8_lossy(&reload.stdout), "generation 4\n");
    assert_eq!(live()["policy"]["version"], "by-command");

    std::fs::write(&house.config, old.replace("path = \"/\"", "path = \"no slash\"")).expect("a config");
    gateway.signal("HUP");
    let said = gateway.says("the old configuration lives on");
    assert!(said.contains("no slash") && said.contains("doorward.toml:"), "{said}");
    assert_eq!(live()["generation"], 4, "a refused file is no generation");
    assert_eq!(live()["policy"]["version"], "by-command");
}

#[test]
fn trap_reload_into_a_half_loaded_state_a_bad_file_is_refused_with_every_error_and_the_old_one_lives_on() {
    let mut stage = stage();
    let good = text(&stage);
    let bad = good
        .replace("upstream = \"portal\"", "upstream = \"nowhere\"")
        .replace("path = \"/\"", "path = \"bad\"")
        .replace("hosts = [\"localhost\"]", "hosts = [\"localhost\", \"not a host\"]");
    let refused = rewrite(&stage, |_| format!("{bad}\n[caps]\nunknown = 1\n"));
    assert_eq!(refused.status.code(), Some(78));
    assert!(refused.stdout.is_empty(), "no generation was made");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for part in ["nowhere", "bad", "not a host", "unknown", "doorward.toml:", "^", "the old config lives on"] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    run(async {
        let line = event(&mut stage, &["config.refused", "nowhere", "unknown"]).await;
        assert!(line.contains("\"generation\":1"), "{line}");
        assert!(line.contains("doorward.toml:"), "each error has its place: {line}");
        assert_eq!(Visitor::new(&stage, [9, 1]).get("/public").await.expect("an answer").status, 200);
    });
    assert_eq!(generation(&stage), 1);

    let socket = stage.bound.admin.display().to_string();
    for broken in ["", "this is [ no toml", "\0\u{1}"] {
        std::fs::write(&stage.config, broken).expect("writable");
        let refused = doorward(&stage, &["reload", "--admin", &socket]);
        assert_eq!(refused.status.code(), Some(78), "{broken:?}: {}", String::from_utf8_lossy(&refused.stderr));
    }
    std::fs::remove_file(&stage.config).expect("removable");
    assert_eq!(doorward(&stage, &["reload", "--admin", &socket]).status.code(), Some(78));
    std::fs::write(&stage.config, &good).expect("writable");
    assert!(doorward(&stage, &["reload"]).status.success(), "and a good one is taken over again");
}

#[test]
fn missing_or_mismatched_keys_certificates_and_crls_are_refused_by_a_reload_and_none_of_them_goes_live() {
    let stage = open(&format!(
        "{BASE}{}",
        OPEN_SITE
            .replace("upstream", "client_cert = \"required\"\n  upstream")
            .replace("hosts = [\"localhost\"]", "hosts = [\"localhost\"]\nclient_ca = [\"acme\"]")
    ));
    let certs = &stage.pki.folder;
    let other = stage.pki.server_ca.issue(&LeafSpec::server(NAMES).expect("a spec")).expect("a leaf");
    for (file, content) in [
        ("portal.key", other.key_pem.as_str()),
        ("portal.crt", "no pem"),
        ("acme-ca.pem", ""),
        ("acme-ca.crl", ""),
        ("acme-ca.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
    ] {
        let path = certs.join(file);
        let good = std::fs::read(&path).expect("a file");
        std::fs::write(&path, content).expect("writable");
        let refused = doorward(&stage, &["reload"]);
        assert_eq!(refused.status.code(), Some(78), "{file}: {}", String::from_utf8_lossy(&refused.stderr));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(file), "{file} is named");
        run(async {
            let good = Visitor::new(&stage, [9, 3]).with("good").get("/public").await.expect("the old files serve");
            assert_eq!(good.status, 200, "{file}");
            let lost = Visitor::new(&stage, [9, 3]).with("revoked").get("/public").await.expect("the old CRL holds");
            assert_eq!(lost.told(), "403 revoked", "{file}");
        });
        std::fs::write(&path, good).expect("writable");
    }
    assert!(doorward(&stage, &["reload"]).status.success());
}

#[test]
fn certificates_and_crls_are_watched_through_atomic_renames() {
    let mut stage = open(&format!(
        "{BASE}{}",
        OPEN_SITE
            .replace("upstream", "client_cert = \"required\"\n  upstream")
            .replace("hosts = [\"localhost\"]", "hosts = [\"localhost\"]\nclient_ca = [\"acme\"]")
    ));
    run(async {
        let visitor = Visitor::new(&stage, [9, 4]).with("good");
        let mut open_before = visitor.line().await.expect("a connection");
        assert_eq!(open_before.send(browser("GET", "/public"), "").await.expect("an answer").status, 200);
        stage.pki.write_crl(2, &[66, 10]).expect("a CRL");
        event(&mut stage, &["config.reloaded"]).await;
        let revoked = open_before.send(browser("GET", "/public"), "").await;
        assert!(revoked.map_or(true, |answer| answer.told() == "403 revoked"), "a live connection keeps no revoked access");
        assert_eq!(visitor.get("/public").await.map(|answer| answer.told()).ok().as_deref(), Some("403 revoked"));

        let before = shown(&visitor).await;
        let next = stage.pki.server_ca.issue(&LeafSpec::server(NAMES).expect("a spec")).expect("a leaf");
        for (name, content) in [("portal.crt", &next.chain_pem), ("portal.key", &next.key_pem)] {
            let file = stage.pki.folder.join(format!("{name}.next"));
            write_private(&file, content).expect("writable");
            std::fs::rename(file, stage.pki.folder.join(name)).expect("an atomic rename");
        }
        event(&mut stage, &["config.reloaded"]).await;
        let after = shown(&visitor).await;
        assert!(after != before && after == next.der, "the new certificate is shown");
    });
}

/// `live` and `..data` are the ways of renewal tools and of mounted secrets: a link to a directory is swapped.
#[test]
fn a_swapped_link_to_a_directory_and_a_swapped_link_to_a_file_are_seen() {
    let house = |folder: &Path, stage_pki: &doorward::cli::demo::stage::Pki, version: &str| {
        let version = folder.join(version);
        std::fs::create_dir_all(&version).expect("a folder");
        let leaf = stage_pki.server_ca.issue(&LeafSpec::server(NAMES).expect("a spec")).expect("a leaf");
        std::fs::write(version.join("portal.crt"), &leaf.chain_pem).expect("writable");
        write_private(&version.join("portal.key"), &leaf.key_pem).expect("writable");
        leaf.der
    };
    let swap = |target: &Path, link: &Path| {
        let next = link.with_extension("next");
        symlink(target, &next).expect("a link");
        std::fs::rename(next, link).expect("an atomic swap");
    };
    let mut stage = stage();
    let folder = stage.folder.path().to_path_buf();
    let (live, files) = (folder.join("live"), folder.join("files"));
    let first = house(&folder, &stage.pki, "v1");
    swap(&folder.join("v1"), &live);
    let taken = rewrite(&stage, |text| {
        text.replace(&stage.pki.folder.join("portal").display().to_string(), &live.join("portal").display().to_string())
    });
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    run(async {
        let visitor = Visitor::new(&stage, [9, 5]);
        event(&mut stage, &["config.reloaded"]).await;
        assert!(shown(&visitor).await == first);
        for version in ["v2", "v3"] {
            let der = house(&folder, &stage.pki, version);
            swap(&folder.join(version), &live);
            event(&mut stage, &["config.reloaded"]).await;
            assert!(shown(&visitor).await == der, "{version} is shown");
        }
    });
    std::fs::create_dir(&files).expect("a folder");
    for name in ["portal.crt", "portal.key"] {
        swap(&folder.join("v1").join(name), &files.join(name));
    }
    let taken = rewrite(&stage, |text| {
        text.replace(&live.join("portal").display().to_string(), &files.join("portal").display().to_string())
    });
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    run(async {
        let visitor = Visitor::new(&stage, [9, 6]);
        event(&mut stage, &["config.reloaded"]).await;
        let der = house(&folder, &stage.pki, "v4");
        for name in ["portal.crt", "portal.key"] {
            swap(&folder.join("v4").join(name), &files.join(name));
        }
        event(&mut stage, &["config.reloaded"]).await;
        assert!(shown(&visitor).await == der, "v4 is shown");
    });
}

#[test]
fn no_request_stream_websocket_ban_limit_or_guess_is_lost_under_reloads_with_load() {
    let limits = "[limit.slow]\nkey = \"client\"\nrate = \"1/h\"\nburst = 100\n";
    let routes = "  [[site.route]]\n  path = \"/reports\"\n  upstream = \"portal\"\n  bots = \"any\"\n  limits = [\"slow\"]\n";
    let stage = open(&format!("{}{routes}{limits}", open_house()));
    run(async {
        let guesser = Visitor::new(&stage, [9, 10]);
        for guess in 0..4 {
            assert_eq!(guesser.sign_in("alice", &format!("wrong-{guess}")).await.expect("an answer").status, 303);
        }
        let limited = Visitor::new(&stage, [9, 11]);
        let mut line = limited.line().await.expect("a connection");
        for _ in 0..60 {
            assert_eq!(line.send(browser("GET", "/reports/1"), "").await.expect("an answer").status, 200);
        }
        told(&stage, &["bans", "add", "127.0.9.12", "--reason", "test"]);

        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut load = tokio::task::JoinSet::new();
        for from in 0..3 {
            let (over, answered) = (Arc::clone(&over), Arc::clone(&answered));
            let visitor = Visitor::new(&stage, [9, 20 + from]);
            load.spawn(async move {
                let mut line = visitor.line().await.expect("a connection");
                let streams = visitor.streams().await.expect("HTTP/2");
                let mut socket = Socket::open(visitor.tls().await.expect("a connection")).await;
                let mut turn = 0u64;
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(line.send(browser("GET", "/public"), "").await.expect("HTTP/1 kept").status, 200);
                    assert_eq!(streams.send(browser("GET", "/public"), "").await.expect("HTTP/2 kept").status, 200);
                    socket.echo(&format!("turn {turn}")).await.expect("a WebSocket kept");
                    if turn.is_multiple_of(8) {
                        assert_eq!(visitor.get("/public").await.expect("a new connection").status, 200);
                    }
                    turn += 1;
                    answered.fetch_add(3, Ordering::SeqCst);
                }
            });
        }
        let good = text(&stage);
        for round in 0..16 {
            let before = answered.load(Ordering::SeqCst);
            let reload = tokio::task::block_in_place(|| {
                rewrite(&stage, |_| match round % 4 {
                    0 => good.replace("[limit.slow]", "[limit.first]\nkey = \"client\"\nrate = \"9/min\"\n[limit.slow]"),
                    1 => format!("{good}\n[caps]\nheaders = 90\n"),
                    2 => good.replace("path = \"/\"\n", "path = \"/\"\n  client_cert = \"nonsense\"\n"),
                    _ => good.clone(),
                })
            });
            assert_eq!(reload.status.code(), Some(if round % 4 == 2 { 78 } else { 0 }), "{:?}", reload);
            while answered.load(Ordering::SeqCst) < before + 9 {
                assert!(load.try_join_next().is_none(), "a visitor was disturbed");
                tokio::task::yield_now().await;
            }
        }
        over.store(true, Ordering::SeqCst);
        load.join_all().await;

        let mut passed = 0;
        while line.send(browser("GET", "/reports/1"), "").await.expect("the old connection lives").status == 200 {
            passed += 1;
            assert!(passed <= 40, "the limit's fill was forgotten");
        }
        assert_eq!(Visitor::new(&stage, [9, 12]).get("/").await.expect("an answer").told(), "403 banned");
        guesser.sign_in("alice", "wrong-5").await.expect("an answer");
        assert_eq!(guesser.get("/").await.expect("an answer").told(), "403 banned", "four guesses were remembered");
    });
}

#[test]
fn addresses_come_and_go_by_reload_and_the_others_keep_their_connections() {
    let stage = stage();
    run(async {
        let visitor = Visitor::new(&stage, [9, 30]);
        let mut kept = visitor.line().await.expect("a connection");
        assert_eq!(kept.send(browser("GET", "/public"), "").await.expect("an answer").status, 200);
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let added = tokio::task::block_in_place(|| {
            rewrite(&stage, |text| {
                text.replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"127.0.0.1:0\", \"{free}\"]"))
                    .replace("http = [\"127.0.0.1:0\"]\n", "")
            })
        });
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let second = Visitor::to(free, &stage.pki.folder, [9, 30]);
        let mut there = second.line().await.expect("the new address serves");
        assert_eq!(there.send(browser("GET", "/public"), "").await.expect("an answer").status, 200);
        while tokio::net::TcpStream::connect(stage.http()).await.is_ok() {}
        assert_eq!(kept.send(browser("GET", "/public"), "").await.expect("kept").status, 200);

        stage.portal.mood.login_delay.store(1000, Ordering::SeqCst);
        let attempts = stage.portal.seen.attempts.load(Ordering::SeqCst);
        let in_flight = tokio::spawn(async move { second.sign_in("bob", "wrong").await.map(|answer| answer.status.as_u16()) });
        while stage.portal.seen.attempts.load(Ordering::SeqCst) == attempts {
            tokio::task::yield_now().await;
        }
        let removed = tokio::task::block_in_place(|| rewrite(&stage, |text| text.replace(&format!(", \"{free}\""), "")));
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        assert_eq!(in_flight.await.expect("it ran").expect("in flight is finished"), 303);
        while tokio::net::TcpStream::connect(free).await.is_ok() {}
        assert!(there.send(browser("GET", "/public"), "").await.is_err(), "what was idle there is closed");
        assert_eq!(kept.send(browser("GET", "/public"), "").await.expect("kept").status, 200);

        // And back again at once: the port is ours to take.
        let again = tokio::task::block_in_place(|| {
            rewrite(&stage, |text| text.replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"127.0.0.1:0\", \"{free}\"]")))
        });
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(Visitor::to(free, &stage.pki.folder, [9, 30]).get("/public").await.expect("an answer").status, 200);
    });
}

#[test]
fn the_metrics_address_moves_by_reload() {
    let stage = stage();
    let before = stage.bound.metrics.expect("metrics");
    let moved = rewrite(&stage, |text| text.replace("metrics = \"127.0.0.1:0\"", "metrics = \"127.0.0.2:0\""));
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    let now = status(&stage)["listen"]["metrics"].as_str().expect("an address").parse().expect("an address");
    run(async {
        assert_eq!(crate::support::probe(now, "/livez").await.expect("the new one answers").0, 200);
        while crate::support::probe(before, "/livez").await.is_some() {}
    });
}

#[test]
fn what_needs_a_restart_is_refused_and_named() {
    let stage = stage();
    let good = text(&stage);
    for (key, changed) in [
        ("workers", good.replace("workers = 2", "workers = 3")),
        ("state_dir", good.replace("/state\"\nworkers", "/state2\"\nworkers")),
        ("listen.admin", good.replace("[listen]\n", "[listen]\nadmin = \"unix:/tmp/doorward-elsewhere.sock\"\n")),
        ("approvals.key", format!("{good}\n[approvals]\nkey = \"{}\"\n", stage.folder.path().join("k").display())),
    ] {
        std::fs::write(&stage.config, &changed).expect("writable");
        let socket = format!("unix:{}", stage.bound.admin.display());
        let refused = doorward(&stage, &["reload", "--admin", &socket]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(78), "{key}: {said}");
        assert!(said.contains(&format!("`{key}`")) && said.contains("restart"), "{key}: {said}");
        assert!(said.contains("doorward.toml:") && said.contains('^'), "{key} has a place: {said}");
        assert_eq!(said.matches("cannot change while").count(), 1, "{key}: what follows from it is not told: {said}");
        assert!(!stage.folder.path().join("state2").exists(), "nothing was made for it");
    }
    std::fs::write(&stage.config, good).expect("writable");
    assert_eq!(generation(&stage), 1);
}

#[test]
fn a_reload_that_cannot_bind_touches_nothing() {
    let stage = stage();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_at = taken.local_addr().expect("an address");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let neighbour = House::new(&format!("{BASE}{LOGIN}{OPEN_SITE}"));
    let neighbour = neighbour.start();
    for blocked in [taken_at, neighbour.https] {
        let refused = rewrite(&stage, |text| {
            text.replace("https = [\"127.0.0.1:0\"]", &format!("https = [\"{free}\", \"{blocked}\"]"))
                + "\n[policy]\nversion = \"half\"\n"
        });
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("cannot listen on {blocked}")) && said.contains("doorward.toml:"), "{said}");
        run(async {
            assert!(tokio::net::TcpStream::connect(free).await.is_err(), "the address before it was not opened");
            assert_eq!(Visitor::new(&stage, [9, 40]).get("/public").await.expect("the old doors").status, 200);
        });
        let live = status(&stage);
        assert_eq!(live["generation"], 1);
        assert_ne!(live["policy"]["version"], "half");
        let restored = text(&stage)
            .replace(&format!("https = [\"{free}\", \"{blocked}\"]"), "https = [\"127.0.0.1:0\"]")
            .replace("\n[policy]\nversion = \"half\"\n", "");
        std::fs::write(&stage.config, restored).expect("writable");
    }
}

#[test]
fn reloads_at_the_same_time_stand_in_line_and_each_prints_its_own_generation() {
    let stage = stage();
    let printed: Vec<u64> = std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..6).map(|_| scope.spawn(|| told(&stage, &["reload"]))).collect();
        let number = |line: String| line.strip_prefix("generation ").expect("a generation").parse().expect("a number");
        reloads.into_iter().map(|reload| number(reload.join().expect("a reload"))).collect()
    });
    let mut sorted = printed;
    sorted.sort_unstable();
    assert_eq!(sorted, [2, 3, 4, 5, 6, 7]);
    assert_eq!(generation(&stage), 7);
}

#[test]
fn certificates_and_crls_past_their_end_or_near_it_are_told_by_check_start_reload_and_event() {
    let text = open_house().replace("hosts = [\"localhost\"]", "hosts = [\"localhost\"]\nclient_ca = [\"acme\"]");
    let house = House::new(&text);
    let certs = house.pki.folder.clone();
    let serve = |from_days, until_days| {
        let spec = LeafSpec { from_days, until_days, ..LeafSpec::server(NAMES).expect("a spec") };
        house.pki.write("portal", &house.pki.server_ca.issue(&spec).expect("a leaf")).expect("writable");
    };
    let lists = |until_days| {
        let list = |ca: &doorward::cli::demo::pki::Authority| ca.crl(7, &[66], until_days).expect("a CRL");
        std::fs::write(certs.join("acme-ca.crl"), list(&house.pki.acme) + &list(&house.pki.unfit)).expect("writable");
    };
    let checked = || {
        let check = house.doorward(&["check"]);
        assert_eq!(check.status.code(), Some(0), "no error: what is expired is served");
        String::from_utf8_lossy(&check.stderr).into_owned()
    };
    assert!(!checked().contains("expire"), "{}", checked());

    serve(-30, -2);
    lists(-2);
    let expired = |said: &str| {
        let certificate = format!("{} expired on ", certs.join("portal.crt").display());
        let list = format!("{} expired on ", certs.join("acme-ca.crl").display());
        assert!(said.contains(&certificate) && said.contains(&list) && said.contains("doorward.toml:"), "{said}");
    };
    expired(&checked());
    let json: Value = serde_json::from_slice(&house.doorward(&["check", "--json"]).stdout).expect("JSON");
    assert_eq!(json["ok"], true);
    assert!(json["diagnostics"].to_string().contains("portal.crt expired on"), "{json}");
    let gateway = house.start();
    expired(&gateway.before);
    let events = house.state().join("events.log");
    let told = |event: &str, file: &str| eventually(event, || lines_with(&events, &[event, file]).pop());
    assert!(told("certificate.expiring", "portal.crt").contains("\"kind\":\"certificate\""));
    told("crl.expiring", "acme-ca.crl");

    serve(-80, 10);
    lists(30);
    let reload = house.doorward(&["reload"]);
    let said = String::from_utf8_lossy(&reload.stderr);
    assert!(reload.status.success() && said.contains("portal.crt expires on ") && !said.contains("acme-ca.crl"), "{said}");
    eventually("the new end", || (lines_with(&events, &["certificate.expiring", "portal.crt"]).len() == 2).then_some(()));
    serve(-1, 90);
    assert!(!checked().contains("expire"), "{}", checked());
}

#[test]
fn a_door_that_becomes_metrics_or_metrics_a_door_says_that_it_is_our_own() {
    let stage = stage();
    let (https, metrics) = (stage.https(), stage.bound.metrics.expect("metrics"));
    for (from, to, own) in [
        ("https = [\"127.0.0.1:0\"]", format!("https = [\"127.0.0.1:0\", \"{metrics}\"]"), "as metrics"),
        ("metrics = \"127.0.0.1:0\"", format!("metrics = \"{https}\""), "as https"),
    ] {
        let good = text(&stage);
        let refused = rewrite(&stage, |text| text.replace(from, &to));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("this gateway listens there itself ({own})")), "{said}");
        assert!(said.contains("two reloads") && !said.contains("another program"), "{said}");
        std::fs::write(&stage.config, good).expect("writable");
    }
}

#[test]
fn a_good_reload_that_nobody_waits_for_says_so_after_a_bad_one() {
    let house = House::new(&open_house());
    let gateway = house.start();
    let good = std::fs::read_to_string(&house.config).expect("a config");
    std::fs::write(&house.config, good.replace("path = \"/\"", "path = \"no slash\"")).expect("writable");
    gateway.signal("HUP");
    gateway.says("the old configuration lives on");
    std::fs::write(&house.config, good).expect("writable");
    gateway.signal("HUP");
    gateway.says("doorward: generation 2 is live");
}
