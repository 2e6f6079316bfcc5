//! TERM ends a gateway without hurting anybody who behaves, and within its deadline whoever does not.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::process::{House, eventually, lines_with, open_house};
use crate::support::{ACCOUNT, Socket, browser, run};

fn house(drain: &str) -> House {
    House::new(&open_house().replace("drain = \"2s\"", &format!("drain = \"{drain}\"")))
}

/// What the gateway told of its end.
fn cut(house: &House) -> u64 {
    let lines = lines_with(&house.state().join("events.log"), &["\"gateway.stopped\""]);
    let line: serde_json::Value = serde_json::from_str(lines.last().expect("its end was told")).expect("JSON");
    line["cut"].as_u64().expect("a number")
}

#[test]
fn term_falls_from_readiness_first_finishes_what_is_in_flight_closes_the_idle_and_exits_0() {
    let house = house("15s");
    let mut gateway = house.start();
    house.portal.mood.login_delay.store(2500, Ordering::SeqCst);
    run(async {
        let mut idle = gateway.visitor([7, 1]).tls().await.expect("a connection");
        idle.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a request");
        assert!(idle.read(&mut [0; 4096]).await.expect("an answer") > 0);
        let streams = gateway.visitor([7, 2]).streams().await.expect("HTTP/2");
        let slow = gateway.visitor([7, 3]);
        let in_flight =
            tokio::spawn(async move { slow.sign_in(ACCOUNT.0, ACCOUNT.1).await.map(|answer| answer.status.as_u16()) });
        let streamed = tokio::spawn({
            let streams = streams.clone();
            async move {
                let attempt = crate::support::form();
                let body = crate::support::credentials(ACCOUNT.0, ACCOUNT.1);
                streams.send(attempt, body).await.map(|answer| answer.status.as_u16())
            }
        });
        while house.portal.seen.attempts.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gateway.probe("/readyz").await.expect("a probe").0, 200);
        gateway.signal("TERM");
        let said = gateway.says("doorward draining: ");
        assert!(said.contains(" stops accepting, 3 connections open, cut if not closed by 20"), "{said}");

        // Whoever finds the door shut must find readiness fallen already.
        while tokio::net::TcpStream::connect(gateway.https).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let (status, told) = gateway.probe("/readyz?verbose").await.expect("probes are answered while it drains");
        assert_eq!((status, told.contains("draining")), (503, true), "{told}");
        assert_eq!(gateway.probe("/livez").await.expect("a probe").0, 200, "draining is not dead");
        assert!(!in_flight.is_finished(), "the door closed while a request was in flight");

        assert_eq!(idle.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind()).ok(), Some(0), "the idle one closes");
        assert_eq!(in_flight.await.expect("it ran").expect("it was answered"), 303);
        assert_eq!(streamed.await.expect("it ran").expect("it was answered"), 303);
        assert!(streams.send(browser("GET", "/"), "").await.is_err(), "HTTP/2 said goodbye");
    });
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(cut(&house), 0, "nobody was cut");
    gateway.says("doorward stopped: every connection ended by itself");
    assert!(!house.state().join("admin.sock").exists(), "the admin socket is gone");
}

#[test]
fn trap_graceful_shutdown_hangs_on_an_unresponsive_peer_the_deadline_cuts_it_and_a_websocket() {
    let house = house("1s");
    let mut gateway = house.start();
    run(async {
        let mut deaf = gateway.visitor([7, 5]).tls().await.expect("a connection");
        deaf.write_all(b"GET /download?mib=512 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a request");
        assert!(deaf.read(&mut [0; 512]).await.expect("it begins") > 0);
        let mut socket = Socket::open(gateway.visitor([7, 6]).tls().await.expect("a connection")).await;
        socket.echo("before").await.expect("an echo");
        let mut mute = gateway.visitor([7, 7]).tcp(gateway.https).await.expect("a connection");
        mute.write_all(b"\x16\x03\x01").await.expect("half a hello");

        gateway.signal("TERM");
        while gateway.probe("/readyz").await.is_some_and(|(status, _)| status == 200) {}
        // A tunnel lives on until the deadline.
        socket.echo("while draining").await.expect("an echo");
        let mut rest = Vec::new();
        let _ = socket.0.read_to_end(&mut rest).await;
        let _ = mute.read_to_end(&mut rest).await;
        gateway.ended();
        drop(deaf);
    });
    assert_eq!(gateway.ended().code(), Some(0), "a deadline that cut somebody is a good end all the same");
    assert!(cut(&house) >= 2, "those who were cut are told: {}", cut(&house));
    gateway.says(&format!("doorward stopped: {} connections cut at the deadline", cut(&house)));
}

#[test]
fn who_was_accepted_but_not_introduced_when_it_stopped_has_its_time() {
    let text = open_house().replace("drain = \"2s\"", "drain = \"10s\"\nproxy_header = \"10s\"");
    let house = House::new(&text.replace("[deadlines]", "proxy_protocol = [\"127.0.7.0/24\"]\n[deadlines]"));
    let mut gateway = house.start();
    run(async {
        let mut stream = gateway.visitor([7, 1]).tcp(gateway.https).await.expect("a connection");
        gateway.signal("TERM");
        while tokio::net::TcpStream::connect(gateway.https).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        stream.write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 443\r\n\x16\x03\x01").await.expect("it is open");
        let closed = tokio::time::timeout(std::time::Duration::from_millis(500), stream.read(&mut [0; 16])).await;
        assert!(closed.is_err(), "it has the time of a handshake: {closed:?}");
    });
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let house = house("10m");
    let mut gateway = house.start();
    run(async {
        let mut socket = Socket::open(gateway.visitor([7, 8]).tls().await.expect("a connection")).await;
        socket.echo("open").await.expect("an echo");
        gateway.signal("TERM");
        while gateway.probe("/readyz").await.is_some_and(|(status, _)| status == 200) {}
        socket.echo("the deadline is far").await.expect("an echo");
        gateway.signal("INT");
        assert_eq!(gateway.ended().code(), Some(1), "it did not end as it should have");
        gateway.says("doorward stopped: by a second signal, 1 connection cut");
    });
}

#[test]
fn a_second_signal_tells_the_end_and_every_request_under_way() {
    let house = house("10m");
    let mut gateway = house.start();
    house.portal.mood.login_delay.store(600_000, Ordering::SeqCst);
    run(async {
        let slow = gateway.visitor([7, 3]);
        let _in_flight = tokio::spawn(async move { slow.sign_in(ACCOUNT.0, ACCOUNT.1).await.map(drop) });
        let mut deaf = gateway.visitor([7, 5]).tls().await.expect("a connection");
        deaf.write_all(b"GET /download?mib=512 HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a request");
        assert!(deaf.read(&mut [0; 512]).await.expect("it begins") > 0);
        while house.portal.seen.attempts.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        gateway.signal("TERM");
        gateway.says("doorward draining: ");
        gateway.signal("TERM");
        let second = tokio::time::Instant::now();
        assert_eq!(gateway.ended().code(), Some(1));
        assert!(second.elapsed() < std::time::Duration::from_secs(2), "at once: {:?}", second.elapsed());
    });
    gateway.says("doorward stopped: by a second signal, 2 connections cut");
    assert_eq!(cut(&house), 2);
    let access = house.state().join("access.log");
    assert_eq!(lines_with(&access, &["\"/login\"", "127.0.7.3"]).len(), 1, "{}", house.log("access.log"));
    assert_eq!(lines_with(&access, &["\"/download\"", "\"cut\":true"]).len(), 1, "{}", house.log("access.log"));
}

#[test]
fn a_second_signal_waits_for_no_log_that_takes_nothing() {
    let text = open_house().replace("drain = \"2s\"", "drain = \"10m\"");
    let house = House::new(&text.replace("access = \"{state}/access.log\"", "access = \"{state}/../pipe\""));
    assert!(Command::new("mkfifo").arg(house.folder.path().join("pipe")).status().expect("mkfifo runs").success());
    let mut gateway = house.start();
    run(async {
        let mut socket = Socket::open(gateway.visitor([7, 8]).tls().await.expect("a connection")).await;
        socket.echo("open").await.expect("an echo");
        let mut line = gateway.visitor([7, 1]).line().await.expect("a connection");
        // More than a pipe holds, so that the writer of the logs hangs.
        for _ in 0..400 {
            assert_eq!(line.send(browser("GET", "/public"), "").await.expect("an answer").status, 200);
        }
        gateway.signal("TERM");
        gateway.says("doorward draining: ");
        gateway.signal("INT");
        let second = tokio::time::Instant::now();
        assert_eq!(gateway.ended().code(), Some(1));
        assert!(second.elapsed() < std::time::Duration::from_secs(2), "at once: {:?}", second.elapsed());
    });
}

#[test]
fn a_second_signal_is_heard_while_the_first_one_waits_for_a_log() {
    let text = open_house().replace("access = \"{state}/access.log\"", "access = \"{state}/../pipe\"");
    let house = House::new(&text);
    assert!(Command::new("mkfifo").arg(house.folder.path().join("pipe")).status().expect("mkfifo runs").success());
    let mut gateway = house.start();
    run(async {
        let mut line = gateway.visitor([7, 1]).line().await.expect("a connection");
        for _ in 0..400 {
            assert_eq!(line.send(browser("GET", "/public"), "").await.expect("an answer").status, 200);
        }
        drop(line);
        gateway.signal("TERM");
        // The last door to close; what is left are the logs.
        while gateway.probe("/livez").await.is_some() {}
        gateway.signal("TERM");
        let second = tokio::time::Instant::now();
        assert_eq!(gateway.ended().code(), Some(1));
        assert!(second.elapsed() < std::time::Duration::from_secs(2), "at once: {:?}", second.elapsed());
    });
    gateway.says("doorward stopped: by a second signal, 0 connections cut");
}

#[test]
fn int_and_quit_drain_as_term_does() {
    let house = house("2s");
    for name in ["INT", "QUIT"] {
        let mut gateway = house.start();
        gateway.signal(name);
        assert_eq!(gateway.ended().code(), Some(0), "{name}");
        gateway.says("doorward draining: stops accepting, 0 connections open");
        gateway.says("doorward stopped: ");
    }
}

/// A process of whose stderr nobody reads; killed when dropped.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn neither_a_reload_nor_a_stop_waits_for_whoever_does_not_read_stderr() {
    let house = house("1s");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    let command = command.arg("--config").arg(&house.config).arg("run").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut gateway = Unread(command.spawn().expect("it runs"));
    eventually("a gateway that answers", || house.doorward(&["status"]).status.success().then_some(()));
    let pid = gateway.0.id().to_string();
    let full = format!("dd if=/dev/zero of=/proc/{pid}/fd/2 bs=4096 oflag=nonblock 2>&1");
    let filled = Command::new("sh").args(["-c", &full]).output().expect("sh runs");
    assert!(String::from_utf8_lossy(&filled.stdout).contains("unavailable"), "the pipe takes no more: {filled:?}");
    let signal = |name| assert!(Command::new("kill").args([name, &*pid]).status().expect("kill(1) runs").success());
    let good = std::fs::read_to_string(&house.config).expect("a config");
    std::fs::write(&house.config, "no config").expect("writable");
    signal("-HUP");
    let events = house.state().join("events.log");
    eventually("a reload that is refused", || lines_with(&events, &["\"config.refused\""]).pop());
    std::fs::write(&house.config, good).expect("writable");
    assert!(house.doorward(&["reload"]).status.success(), "it goes on");
    signal("-TERM");
    let status = eventually("its end", || gateway.0.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_drain_deadline_is_the_one_of_the_last_reload() {
    let house = house("10m");
    let mut gateway = house.start();
    let text = std::fs::read_to_string(&house.config).expect("a config").replace("drain = \"10m\"", "drain = \"500ms\"");
    std::fs::write(&house.config, text).expect("a config");
    house.told(&["reload"]);
    run(async {
        let mut socket = Socket::open(gateway.visitor([7, 9]).tls().await.expect("a connection")).await;
        socket.echo("open").await.expect("an echo");
        gateway.signal("TERM");
        let _ = socket.0.read_to_end(&mut Vec::new()).await;
    });
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_gateway_that_drains_takes_no_new_config() {
    let house = house("10m");
    let mut gateway = house.start();
    run(async {
        let mut socket = Socket::open(gateway.visitor([7, 9]).tls().await.expect("a connection")).await;
        socket.echo("open").await.expect("an echo");
        gateway.signal("TERM");
        gateway.says("doorward draining: ");
        let refused = house.doorward(&["reload"]);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "the file is not at fault: {told}");
        assert!(told.contains("the gateway is stopping"), "{told}");
    });
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn what_was_told_before_the_end_is_in_the_logs() {
    let house = house("2s");
    let mut gateway = house.start();
    run(async {
        for _ in 0..50 {
            assert_eq!(gateway.visitor([7, 10]).get("/public").await.expect("an answer").status, 200);
        }
    });
    gateway.signal("TERM");
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(lines_with(&house.state().join("access.log"), &["\"/public\""]).len(), 50);
    eventually("the end in the log", || (!lines_with(&house.state().join("events.log"), &["stopped"]).is_empty()).then_some(()));
}
