//! Every command of the manual against a live gateway: what it prints where, and how it ends.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use doorward::cli::demo::stage::Stage;
use serde_json::Value;

use crate::support::process::open_house;
use crate::support::{Visitor, admin, browser, doorward, open, run, run_binary, told};

fn stage() -> Stage {
    let limits = "  [[site.route]]\n  path = \"/reports\"\n  upstream = \"portal\"\n  bots = \"any\"\n  limits = [\"slow\"]\n\
        [[site]]\nhosts = [\"other.localhost\"]\n  [[site.route]]\n  path = \"/\"\n  upstream = \"portal\"\n\
        [limit.slow]\nkey = \"client\"\nrate = \"1/h\"\nburst = 3\n";
    open(&format!("{}{limits}", open_house()))
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn json(stage: &Stage, arguments: &[&str]) -> Value {
    let output = doorward(stage, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    assert_eq!(err(&output), "", "{arguments:?}: messages beside JSON");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", out(&output)))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn status_tells_everything_as_text_and_as_json_with_stable_keys() {
    let stage = stage();
    let status = json(&stage, &["status", "--json"]);
    assert_eq!(
        keys(&status),
        [
            "config",
            "files",
            "generation",
            "listen",
            "policy",
            "sites",
            "started",
            "store",
            "tables",
            "upstreams",
            "uptime_seconds",
            "version",
            "workers"
        ]
    );
    assert_eq!(keys(&status["tables"]), ["approvals", "bans", "connections", "guesses", "limits"]);
    assert_eq!(keys(&status["files"][0]), ["days_left", "kind", "path", "until"]);
    assert!(status["files"][0]["days_left"].as_i64().is_some_and(|days| (88..=90).contains(&days)), "{}", status["files"]);
    assert_eq!(keys(&status["upstreams"][0]), ["healthy", "last_error", "outstanding", "server", "upstream"]);
    assert_eq!(status["listen"]["https"][0], stage.https().to_string());
    let text = told(&stage, &["status"]);
    for part in ["Generation", "Uptime", "Sites", "Upstreams", "Tables", "HEALTHY", "DAYS LEFT", &stage.https().to_string()] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("path="), "a table for people: {text}");
}

#[test]
fn bans_are_added_listed_shown_and_lifted_by_address_prefix_account_and_identity() {
    let stage = stage();
    let nobody = doorward(&stage, &["bans", "list"]);
    assert_eq!((out(&nobody).as_str(), err(&nobody).as_str()), ("", "nobody is banned\n"));
    assert_eq!(json(&stage, &["bans", "list", "--json"]), serde_json::json!([]));
    for (key, extra) in [
        ("203.0.113.7", &["--for", "2h", "--reason", "abuse report 4711"][..]),
        ("198.51.100.0/24", &["--reason", "scanner"]),
        ("2001:db8::/48", &[]),
        ("account:Alice ", &["--for", "1d"]),
        ("identity:acme:urn:acme:orders", &[]),
    ] {
        let added = doorward(&stage, &[&["bans", "add", key][..], extra].concat());
        assert!(added.status.success(), "{key}: {}", err(&added));
        assert!(
            out(&added).starts_with("banned ") && err(&added).is_empty() == extra.contains(&"--reason"),
            "{key}: {}",
            out(&added)
        );
    }
    let bans = json(&stage, &["bans", "list", "--json"]);
    assert_eq!(keys(&bans[0]), ["by", "count", "failures", "key", "reason", "since", "until"]);
    let listed: Vec<&str> = bans.as_array().expect("a list").iter().filter_map(|ban| ban["key"].as_str()).collect();
    for key in ["203.0.113.7", "198.51.100.0/24", "2001:db8::/48", "account:alice", "identity:acme:urn:acme:orders"] {
        assert!(listed.contains(&key), "{key} in {listed:?}");
    }
    let own = bans.as_array().expect("a list").iter().find(|ban| ban["key"] == "203.0.113.7").expect("it is listed");
    assert!(own["by"].as_str().is_some_and(|by| by.starts_with("uid:")) && own["reason"] == "abuse report 4711", "{own}");
    assert!(own["until"].is_string());
    let text = told(&stage, &["bans", "list"]);
    assert!(text.lines().next().is_some_and(|head| head.starts_with("KEY")) && text.contains("until lifted"), "{text}");

    let covered = json(&stage, &["bans", "show", "198.51.100.9", "--json"]);
    assert_eq!(covered[0]["key"], "198.51.100.0/24", "an address is covered by its prefix");
    let free = doorward(&stage, &["bans", "show", "192.0.2.1"]);
    assert_eq!((out(&free).as_str(), free.status.code()), ("", Some(1)));
    assert!(err(&free).contains("192.0.2.1 is not banned"), "{}", err(&free));

    for key in listed {
        assert!(told(&stage, &["bans", "lift", key, "--reason", "customer called"]).starts_with("lifted "), "{key}");
        let again = doorward(&stage, &["bans", "lift", key]);
        assert_eq!((out(&again).as_str(), again.status.code()), ("", Some(1)), "{key} twice");
        assert!(!err(&again).is_empty());
    }
    assert_eq!(json(&stage, &["bans", "list", "--json"]), serde_json::json!([]));
    for (key, status) in [("nonsense", 1), ("10.0.0.0/33", 1), ("account:", 1), ("", 1)] {
        let refused = doorward(&stage, &["bans", "add", key]);
        assert_eq!((refused.status.code(), out(&refused).as_str()), (Some(status), ""), "{key:?}: {}", err(&refused));
    }
}

#[test]
fn an_account_ban_stops_its_logins_and_nothing_else() {
    let stage = stage();
    told(&stage, &["bans", "add", "account:alice", "--reason", "phished"]);
    run(async {
        let visitor = Visitor::new(&stage, [12, 1]);
        let (name, password) = crate::support::ACCOUNT;
        let login = visitor.sign_in(name, password).await.expect("an answer");
        assert!(matches!(login.status.as_u16(), 403 | 429), "{}", login.told());
        assert_eq!(visitor.get("/public").await.expect("an answer").status, 200);
        assert_eq!(visitor.sign_in("bob", "x").await.expect("an answer").status, 303);
        told(&stage, &["bans", "lift", "account:alice"]);
        assert_eq!(visitor.sign_in(name, password).await.expect("an answer").header("location"), "/home");
    });
}

#[test]
fn lifting_a_ban_clears_the_failures_behind_it() {
    let stage = stage();
    run(async {
        let visitor = Visitor::new(&stage, [12, 2]);
        for round in 0..2 {
            for guess in 0..5 {
                assert_eq!(visitor.sign_in("alice", &format!("wrong-{round}-{guess}")).await.expect("an answer").status, 303);
            }
            assert_eq!(visitor.get("/").await.expect("an answer").told(), "403 banned");
            told(&stage, &["bans", "lift", "127.0.12.2", "--reason", "customer called"]);
        }
    });
}

#[test]
fn limits_show_and_explain_spend_nothing() {
    let stage = stage();
    run(async {
        let visitor = Visitor::new(&stage, [12, 3]);
        visitor.get("/reports/1").await.expect("an answer");
        let ask = ["limits", "explain", "--client", "127.0.12.3", "--host", "localhost", "--path", "/reports/1", "--json"];
        for _ in 0..5 {
            let explained = json(&stage, &ask);
            assert_eq!(
                keys(&explained),
                ["bans", "client", "decides", "guesses", "host", "limits", "method", "passes", "path", "route", "verdict"]
            );
            assert_eq!((explained["decides"].as_str(), explained["passes"].as_bool()), (Some("slow"), Some(true)));
            assert_eq!(explained["limits"][0]["remaining"], 2);
            assert_eq!(explained["guesses"]["left"], 5);
        }
        for _ in 0..2 {
            assert_eq!(visitor.get("/reports/1").await.expect("an answer").status, 200);
        }
        assert_eq!(visitor.get("/reports/1").await.expect("an answer").told(), "429 rate-limited");
        assert_eq!(json(&stage, &ask)["passes"], false);
        let text = told(&stage, &ask[..ask.len() - 1]);
        assert!(text.contains("slow"), "{text}");
        let shown = json(&stage, &["limits", "show", "--json"]);
        assert!(shown.to_string().contains("127.0.12.3"), "{shown}");
        assert!(told(&stage, &["limits", "show"]).contains("slow"));
        let nameless = doorward(&stage, &["limits", "explain", "--client", "127.0.12.3", "--path", "/"]);
        assert_eq!(nameless.status.code(), Some(1));
        assert!(err(&nameless).contains("other.localhost"), "several sites: it says which there are: {}", err(&nameless));
    });
}

#[test]
fn approvals_go_their_way_with_ids_and_tokens_alone_on_stdout() {
    let stage = stage();
    let request = [
        "approvals",
        "request",
        "--kind",
        "bot",
        "--name",
        "acme-sync",
        "--owner",
        "Acme Ltd",
        "--contact",
        "ops@acme.example",
        "--purpose",
        "nightly order import",
        "--site",
        "other.localhost",
        "--method",
        "GET",
        "--path",
        "/orders/**",
        "--rate",
        "60/min",
        "--until",
        "2099-06-30",
    ];
    let requested = doorward(&stage, &request);
    let id = out(&requested).trim().to_owned();
    assert!(requested.status.success() && out(&requested) == format!("{id}\n") && !id.contains(char::is_whitespace), "{id:?}");
    let early = doorward(&stage, &["approvals", "activate", &id]);
    assert_eq!((early.status.code(), out(&early).as_str()), (Some(1), ""), "not before it is signed");
    let key = stage.pki.folder.join("alice.key").display().to_string();
    let wrong = stage.pki.folder.join("good.key").display().to_string();
    assert_eq!(doorward(&stage, &["approvals", "sign", &id, "--signer", "alice", "--key", &wrong]).status.code(), Some(1));
    assert_eq!(doorward(&stage, &["approvals", "sign", &id, "--signer", "bob", "--key", &key]).status.code(), Some(1));
    told(&stage, &["approvals", "sign", &id, "--signer", "alice", "--key", &key]);
    let activated = doorward(&stage, &["approvals", "activate", &id]);
    let token = out(&activated).trim().to_owned();
    assert!(activated.status.success() && out(&activated) == format!("{token}\n") && token.len() > 40, "{}", err(&activated));
    run(async {
        let bot = Visitor::new(&stage, [12, 4]).named("other.localhost");
        let get = |path: &str| http::Request::get(path).header("user-agent", "curl/8").header("doorward-approval", &token);
        assert_eq!(bot.send(get("/orders/1"), "").await.expect("an answer").status, 200);
        assert_eq!(bot.send(get("/home"), "").await.expect("an answer").told(), "403 bot-scope");
        told(&stage, &["approvals", "suspend", &id, "--reason", "audit"]);
        assert_eq!(bot.send(get("/orders/1"), "").await.expect("an answer").told(), "403 approval-revoked");
        let shown = json(&stage, &["approvals", "show", &id, "--json"]);
        assert_eq!(shown["status"], "suspended");
        assert!(!shown.to_string().contains(&token));
        let renewed = told(&stage, &["approvals", "renew", &id, "--until", "2099-12-31"]);
        assert_ne!(renewed, id);
        told(&stage, &["approvals", "revoke", &id, "--reason", "contract ended"]);
        assert_eq!(bot.send(get("/orders/1"), "").await.expect("an answer").told(), "403 approval-revoked");
        assert_eq!(doorward(&stage, &["approvals", "activate", &id]).status.code(), Some(1), "revoked is for good");
        let list = json(&stage, &["approvals", "list", "--json"]);
        assert_eq!(list.as_array().map(Vec::len), Some(2));
        // As `limits` writes them.
        for one in [&shown, &list[0], &list[1]] {
            assert_eq!((&one["terms"]["rate"], &one["terms"]["burst"]), (&Value::from("60/min"), &Value::from(60)), "{one}");
        }
        let text = told(&stage, &["approvals", "show", &id]);
        for part in ["acme-sync", "nightly order import", "60/min, burst 60", "alice", "contract ended"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    });
    let none = doorward(&stage, &["approvals", "show", "no-such-id"]);
    assert_eq!((none.status.code(), out(&none).as_str()), (Some(1), ""));
}

/// Paths, kinds, sizes and modes of everything below a folder.
fn inventory(folder: &Path) -> Vec<(PathBuf, u64, u32, i64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = std::fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            found.extend(inventory(&path));
        }
        // The live gateway may write its logs meanwhile.
        if path.extension().is_none_or(|kind| kind != "log") {
            found.push((path, meta.len(), meta.mode(), meta.mtime_nsec()));
        }
    }
    found.sort();
    found
}

#[test]
fn check_beside_a_live_gateway_is_fine_and_creates_nothing_anywhere() {
    let mut stage = stage();
    told(&stage, &["bans", "add", "203.0.113.7"]);
    let before = inventory(stage.folder.path());
    for _ in 0..3 {
        let checked = doorward(&stage, &["check"]);
        assert_eq!(checked.status.code(), Some(0), "{}", err(&checked));
        assert!(out(&checked).contains("is good: 2 sites, 3 routes, 1 upstream, 1 certificate"), "{}", out(&checked));
        assert!(err(&checked).contains("warning"), "warnings are messages: {}", err(&checked));
    }
    let checked = json(&stage, &["check", "--json"]);
    assert_eq!(keys(&checked), ["diagnostics", "file", "ok"]);
    assert_eq!(checked["ok"], true);
    assert!(inventory(stage.folder.path()) == before, "check changed something beside the gateway");
    let lifted = doorward(&stage, &["bans", "lift", "203.0.113.7"]);
    assert!(lifted.status.success() && err(&lifted).contains("--reason"), "a lift without a reason is warned of: {lifted:?}");
    let shown = doorward(&stage, &["bans", "show", "203.0.113.7"]);
    assert_eq!((shown.status.code(), out(&shown).as_str()), (Some(1), ""));
    assert!(err(&shown).contains("is not banned"), "{}", err(&shown));

    stage.close().expect("it ends well");
    std::fs::remove_dir_all(stage.folder.path().join("state")).expect("removable");
    let before = inventory(stage.folder.path());
    assert_eq!(doorward(&stage, &["check"]).status.code(), Some(0));
    assert!(inventory(stage.folder.path()) == before, "check made what only a start may make");

    let text = std::fs::read_to_string(&stage.config).expect("a config");
    std::fs::write(&stage.config, text.replace("portal.key", "missing.key").replace("burst = 3", "burst = \"many\""))
        .expect("writable");
    let bad = doorward(&stage, &["check", "--json"]);
    assert_eq!(bad.status.code(), Some(78));
    let told: Value = serde_json::from_slice(&bad.stdout).expect("JSON also where it is bad");
    assert_eq!(told["ok"], false);
    let bad = doorward(&stage, &["check"]);
    assert_eq!((bad.status.code(), out(&bad).as_str()), (Some(78), ""), "errors are messages");
    assert!(err(&bad).contains("burst") && err(&bad).contains("doorward.toml:"), "{}", err(&bad));
}

#[test]
fn an_address_that_is_not_to_be_had_now_is_a_failed_start_and_no_bad_config() {
    let mut stage = stage();
    let good = std::fs::read_to_string(&stage.config).expect("a config");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").to_string();
    stage.close().expect("it ends well");
    for (key, address, cure) in [
        ("https = [\"127.0.0.1:0\"]", port.clone(), "another program listens there"),
        ("metrics = \"127.0.0.1:0\"", port.clone(), "another program listens there"),
        ("http = [\"127.0.0.1:0\"]", "192.0.2.1:80".to_owned(), "no interface of this host has that address"),
    ] {
        assert!(good.contains(key), "{good}");
        std::fs::write(&stage.config, good.replace(key, &key.replace("127.0.0.1:0", &address))).expect("writable");
        // What a service manager starts again: see `RestartPreventExitStatus` of the unit.
        let failed = doorward(&stage, &["run"]);
        assert_eq!((failed.status.code(), out(&failed).as_str()), (Some(1), ""), "{}", err(&failed));
        for part in [&*address, "doorward.toml:", cure] {
            assert!(err(&failed).contains(part), "{part}: {}", err(&failed));
        }
    }
}

#[test]
fn check_looks_where_logs_and_the_admin_socket_would_be_and_makes_neither() {
    let stage = stage();
    let good = std::fs::read_to_string(&stage.config).expect("a config");
    let folder = stage.folder.path().display().to_string();
    std::fs::write(stage.folder.path().join("plain"), "no folder").expect("writable");
    let events = good.lines().find(|line| line.starts_with("events = ")).expect("a log").to_owned();
    let checked = |table: &str, line: &str| {
        let text = match table {
            "log" => good.replace(&events, line),
            _ => good.replace("[listen]\n", &format!("[listen]\n{line}\n")),
        };
        let trial = stage.folder.path().join("trial.toml");
        std::fs::write(&trial, text).expect("writable");
        let trial = trial.display().to_string();
        doorward(&stage, &["check", "--config", &trial])
    };
    for (table, key, path) in [
        ("log", "events", format!("{folder}/nowhere/events.log")),
        ("log", "events", format!("{folder}/plain/events.log")),
        ("log", "events", folder.clone()),
        ("listen", "admin", format!("unix:{folder}/nowhere/admin.sock")),
    ] {
        let refused = checked(table, &format!("{key} = \"{path}\""));
        assert_eq!(refused.status.code(), Some(78), "{path}: {}", err(&refused));
        assert!(
            err(&refused).contains(&format!("`{table}.{key}`")) && err(&refused).contains("trial.toml:"),
            "{}",
            err(&refused)
        );
    }
    let fine = checked("log", &format!("events = \"{folder}/new.log\""));
    assert_eq!(fine.status.code(), Some(0), "{}", err(&fine));
    assert!(!stage.folder.path().join("new.log").exists());
}

#[test]
fn exit_statuses_are_0_1_2_69_and_78() {
    let mut stage = stage();
    let code = |output: &Output| output.status.code();
    for usage in
        [&[][..], &["eat"], &["bans"], &["bans", "add"], &["status", "--jsno"], &["bans", "add", "192.0.2.1", "--for", "soon"]]
            .into_iter()
            .chain([&["approvals", "revoke", "x"][..], &["approvals", "suspend", "x", "--reason", " "]])
    {
        let output = doorward(&stage, usage);
        assert_eq!((code(&output), out(&output).as_str()), (Some(2), ""), "{usage:?}");
        assert!(!err(&output).is_empty());
    }
    for help in [&["--help"][..], &["--version"], &["bans", "--help"]] {
        let output = doorward(&stage, help);
        assert_eq!((code(&output), err(&output).as_str()), (Some(0), ""), "{help:?}");
        assert!(!out(&output).is_empty());
    }
    stage.close().expect("it ends well");
    for alone in [
        &["status"][..],
        &["reload"],
        &["bans", "list"],
        &["bans", "add", "192.0.2.1"],
        &["approvals", "list"],
        &["limits", "show"],
    ] {
        let output = doorward(&stage, alone);
        assert_eq!((code(&output), out(&output).as_str()), (Some(69), ""), "{alone:?}: {}", err(&output));
        assert!(err(&output).contains("admin.sock") && err(&output).contains("doorward run"), "{alone:?}: {}", err(&output));
    }
    let nowhere = Path::new("/does/not/exist.toml");
    for command in [&["status"][..], &["check"], &["run"], &["config", "show"], &["config", "fmt"]] {
        let output = run_binary(nowhere, command);
        assert_eq!((code(&output), out(&output).as_str()), (Some(78), ""), "{command:?}");
        assert!(err(&output).contains("/does/not/exist.toml"), "{command:?}: {}", err(&output));
    }
}

#[test]
fn the_config_commands_need_no_gateway() {
    let mut stage = stage();
    stage.close().expect("it ends well");
    let schema = json(&stage, &["config", "schema"]);
    assert!(schema["$schema"].is_string() && schema["properties"]["listen"].is_object());
    let shown = json(&stage, &["config", "show", "--json"]);
    assert!(shown.to_string().contains("per_client"), "defaults are shown too");
    let text = told(&stage, &["config", "show"]);
    assert!(text.contains("default") && text.contains("doorward.toml:"), "each value says where it comes from");
    let messy = std::fs::read_to_string(&stage.config).expect("a config").replace("workers = 2", "workers    =   2   # two");
    std::fs::write(&stage.config, &messy).expect("writable");
    let check = doorward(&stage, &["config", "fmt", "--check"]);
    assert_eq!((check.status.code(), out(&check).as_str()), (Some(1), ""));
    assert_eq!(std::fs::read_to_string(&stage.config).expect("a config"), messy, "--check changes nothing");
    assert!(doorward(&stage, &["config", "fmt"]).status.success());
    assert!(std::fs::read_to_string(&stage.config).expect("a config").contains("workers = 2 # two"));
    assert_eq!(doorward(&stage, &["config", "fmt", "--check"]).status.code(), Some(0));
    stage.reopen().expect("and it still means the same");
}

#[test]
fn completions_and_the_manual_are_whole() {
    let stage = stage();
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef doorward"), ("fish", "complete -c doorward")] {
        let script = told(&stage, &["completions", shell]);
        assert!(script.contains(part) && script.contains("approvals"), "{shell}");
    }
    assert_eq!(doorward(&stage, &["completions", "tcsh"]).status.code(), Some(2));
    let page = told(&stage, &["man"]);
    assert!(page.contains(".TH ") && page.contains(".SS \"doorward bans add\"") && page.contains(".B 78"), "{page}");
}

#[test]
fn colours_only_where_asked_for_and_never_under_no_color() {
    let stage = stage();
    let bad = stage.folder.path().join("bad.toml");
    std::fs::write(&bad, "workers = \"many\"\n").expect("writable");
    let check = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env(name, value);
        err(&command.arg("--config").arg(&bad).arg("check").output().expect("it runs"))
    };
    assert!(!check("UNRELATED", "1").contains('\u{1b}'), "not into a pipe");
    assert!(check("CLICOLOR_FORCE", "1").contains('\u{1b}'), "where it is forced");
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.env("NO_COLOR", "1").env_remove("CLICOLOR_FORCE").arg("--config").arg(&bad).arg("check");
    assert!(!err(&command.output().expect("it runs")).contains('\u{1b}'), "NO_COLOR");
}

#[test]
fn text_of_strangers_cannot_steer_the_terminal() {
    let stage = stage();
    told(&stage, &["bans", "add", "203.0.113.9", "--reason", "\u{1b}[2J\u{202e}evil\u{7}"]);
    for command in [&["bans", "list"][..], &["bans", "show", "203.0.113.9"]] {
        let text = told(&stage, command);
        assert!(text.contains("evil") && !text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
    }
}

#[test]
fn the_admin_socket_is_0660_and_changes_nothing_by_get() {
    let stage = stage();
    let socket = &stage.bound.admin;
    assert_eq!(std::fs::metadata(socket).expect("a socket").permissions().mode() & 0o777, 0o660);
    told(&stage, &["bans", "add", "203.0.113.7"]);
    let before = json(&stage, &["bans", "list", "--json"]);
    let id = told(
        &stage,
        &[
            "approvals",
            "request",
            "--name",
            "n",
            "--owner",
            "o",
            "--contact",
            "c",
            "--purpose",
            "p",
            "--site",
            "localhost",
            "--method",
            "GET",
            "--path",
            "/",
            "--until",
            "2099-01-01",
        ],
    );
    let changing = ["/reload", "/bans/add?key=192.0.2.1", "/bans/lift?key=203.0.113.7", "/limits/explain"].map(str::to_owned);
    let of_one = ["sign", "activate", "renew", "suspend", "revoke"].map(|verb| format!("/approvals/{id}/{verb}"));
    for path in changing.iter().chain(&of_one) {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let answer = admin(socket, method, path, "{\"key\":\"203.0.113.7\"}");
            // A HEAD has no body to measure.
            if let Ok((status, body)) = answer {
                assert_eq!(status, 405, "{method} {path}: {body}");
            } else {
                assert_eq!(method, "HEAD", "{path}");
            }
        }
    }
    for (path, body, status) in [
        ("/bans/add", "{\"key\":\"192.0.2.1\",\"fro\":\"2h\"}", 400),
        ("/bans/add", "not json", 400),
        ("/bans/add", "{}", 400),
        ("/nowhere", "{}", 404),
        ("/status", "{}", 405),
        ("/bans/add/more", "{}", 404),
    ] {
        assert_eq!(admin(socket, "POST", path, body).expect("an answer").0, status, "{path} {body}");
    }
    let large = format!("{{\"key\":\"192.0.2.1\",\"reason\":\"{}\"}}", "x".repeat(70_000));
    // It may be refused before it was read whole.
    assert!(admin(socket, "POST", "/bans/add", &large).map_or(true, |(status, _)| status == 413));
    assert_eq!(json(&stage, &["bans", "list", "--json"]), before, "nothing changed");
    assert_eq!(json(&stage, &["approvals", "show", &id, "--json"])["status"], "requested");
    assert_eq!(json(&stage, &["status", "--json"])["generation"], 1);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let stage = stage();
    let line = format!("'{}' man | head -n 1", env!("CARGO_BIN_EXE_doorward"));
    let output = Command::new("sh").arg("-c").arg(&line).output().expect("sh runs");
    assert!(output.status.success() && err(&output).is_empty(), "{}", err(&output));
    run(async {
        assert_eq!(Visitor::new(&stage, [12, 9]).send(browser("GET", "/public"), "").await.expect("it lives").status, 200)
    });
}

/// Only root can give a file away.
#[test]
fn formatting_leaves_a_file_to_its_owner_and_group_or_leaves_it_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("doorward.toml");
    std::fs::write(&file, "workers   =   2\n").expect("writable");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("a mode");
    let whose = || {
        let found = std::fs::metadata(&file).expect("it is there");
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    if std::os::unix::fs::chown(&file, Some(0), Some(65534)).is_err() {
        return eprintln!("skipped: this user gives no file away");
    }
    let formatted = run_binary(&file, &["config", "fmt"]);
    assert!(formatted.status.success(), "{}", err(&formatted));
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "workers = 2\n");
    assert_eq!(whose(), (0, 65534, 0o640));

    std::fs::write(&file, "workers   =   2\n").expect("writable");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("a mode");
    let binary = folder.path().join("doorward");
    // Where anybody may run it. No copy where a link will do: a program that was just written may be busy.
    let built = env!("CARGO_BIN_EXE_doorward");
    std::fs::hard_link(built, &binary).or_else(|_| std::fs::copy(built, &binary).map(drop)).expect("the built binary");
    let by_nobody = Command::new(&binary).arg("--config").arg(&file).args(["config", "fmt"]).uid(65534).gid(65534).output();
    let refused = by_nobody.expect("it runs");
    assert_eq!((refused.status.code(), out(&refused).as_str()), (Some(1), ""), "{}", err(&refused));
    assert!(err(&refused).contains("doorward.toml") && err(&refused).contains("owner"), "{}", err(&refused));
    assert_eq!((std::fs::read_to_string(&file).expect("a file").as_str(), whose()), ("workers   =   2\n", (0, 65534, 0o640)));
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 2, "nothing is left beside it");
}

#[test]
fn a_state_dir_edited_since_the_start_is_named_where_nobody_answers() {
    let stage = stage();
    let good = std::fs::read_to_string(&stage.config).expect("a config");
    std::fs::write(&stage.config, good.replace("/state\"\nworkers", "/state2\"\nworkers")).expect("writable");
    for command in [&["status"][..], &["reload"], &["bans", "list"]] {
        let output = doorward(&stage, command);
        let said = err(&output);
        assert_eq!(output.status.code(), Some(69), "{command:?}: {said}");
        for part in ["`state_dir`", "`listen.admin`", "--admin", "doorward run"] {
            assert!(said.contains(part), "{command:?}: {part} in {said}");
        }
    }
}
