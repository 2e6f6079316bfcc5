//! Automation needs an approval that somebody gave, is held to it, and loses it at once.

use jiff::{ToSpan, tz::TimeZone};
use serde_json::Value;

use crate::support::upstream::Toy;
use crate::support::{
    Answer, BASE, Stage, Visitor, approve, browser, cert, doorward, event, open, request, rewrite, run, sign, told,
};

/// Two sites with routes for approved bots, for any and for none.
const SITES: &str = r#"
[[site]]
hosts = ["localhost", "other.localhost"]
client_ca = ["acme"]
  [[site.route]]
  path = "/"
  upstream = "portal"
  [[site.route]]
  path = "/public/"
  upstream = "portal"
  bots = "any"
  [[site.route]]
  path = "/reports/"
  upstream = "portal"
  bots = "none"
"#;

#[test]
fn an_approval_lives_its_whole_life_on_the_command_line() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    let id = request(&stage, &["--path", "/orders/**"]);
    assert!(!id.is_empty() && !id.contains(char::is_whitespace), "the id and nothing else: {id:?}");
    run(async {
        event(&mut stage, &["approval.changed", &id, "requested"]).await;
        let shown = told(&stage, &["approvals", "show", &id]);
        for text in ["requested", "Acme Ltd", "nightly order import", "/orders/**", "GET"] {
            assert!(shown.contains(text), "{text} in {shown}");
        }
        let early = doorward(&stage, &["approvals", "activate", &id]);
        assert_eq!(early.status.code(), Some(1), "nobody signed yet");
        assert!(early.stdout.is_empty());
        assert!(
            !doorward(&stage, &["approvals", "sign", &id, "--signer", "mallory", "--key", &key(&stage, "alice")])
                .status
                .success()
        );
        assert!(
            !doorward(&stage, &["approvals", "sign", &id, "--signer", "alice", "--key", &key(&stage, "good")]).status.success()
        );
        sign(&stage, &id);
        event(&mut stage, &["approval.changed", &id, "signed", "alice"]).await;
        let first = told(&stage, &["approvals", "activate", &id]);
        assert!(first.starts_with("v4.public.") && first.lines().count() == 1, "the token and nothing else");
        assert_eq!(visit(&stage, &first).await, "200");

        told(&stage, &["approvals", "suspend", &id, "--reason", "asked to"]);
        assert_eq!(visit(&stage, &first).await, "403 approval-revoked");
        let second = told(&stage, &["approvals", "activate", &id]);
        assert_eq!(
            (visit(&stage, &second).await.as_str(), visit(&stage, &first).await.as_str()),
            ("200", "403 approval-revoked")
        );

        let renewed = told(&stage, &["approvals", "renew", &id, "--until", "2101-01-01"]);
        assert!(!doorward(&stage, &["approvals", "activate", &renewed]).status.success(), "new terms are signed anew");
        sign(&stage, &renewed);
        let third = told(&stage, &["approvals", "activate", &renewed]);
        assert_eq!(visit(&stage, &third).await, "200");

        told(&stage, &["approvals", "revoke", &renewed, "--reason", "contract ended"]);
        event(&mut stage, &["approval.changed", &renewed, "revoked", "contract ended"]).await;
        assert_eq!(visit(&stage, &third).await, "403 approval-revoked");
        assert!(!doorward(&stage, &["approvals", "activate", &renewed]).status.success(), "revoked is for good");
        let list: Value = serde_json::from_str(&told(&stage, &["approvals", "list", "--json"])).unwrap();
        assert!(list.as_array().unwrap().iter().any(|one| one["id"] == *renewed && one["status"] == "revoked"), "{list}");
        let everything = format!("{list}{}", told(&stage, &["approvals", "show", &id]));
        assert!(!everything.contains("v4.public."), "no token is ever shown again");
    });
    // What was decided outlives the process.
    let other = approve(&stage, &["--path", "/orders/**"]).1;
    stage.close().unwrap();
    stage.reopen().unwrap();
    run(async {
        assert_eq!(visit(&stage, &other).await, "200");
        let list = told(&stage, &["approvals", "list", "--json"]);
        assert!(list.contains("revoked"), "{list}");
    });
}

#[test]
fn automation_without_an_approval_is_refused_where_one_is_needed() {
    let stage = open(&format!("{BASE}{SITES}"));
    let (_, token) = approve(&stage, &["--path", "/**"]);
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        let agents = ["curl/8.14.1", "python-requests/2.32", "Mozilla/5.0 (compatible; Googlebot/2.1)", "Go-http-client/2.0", ""];
        for agent in agents {
            for (path, expected) in
                [("/orders/1", "403 bot-approval-required"), ("/public/1", "200"), ("/reports/1", "403 not-permitted")]
            {
                let answer = visitor.send(http::Request::get(path).header("user-agent", agent), "").await.unwrap();
                assert_eq!(answer.told(), expected, "{agent} {path}");
            }
        }
        let nameless = visitor.send(http::Request::get("/orders/1"), "").await.unwrap();
        assert_eq!(nameless.told(), "403 bot-approval-required");
        let certified =
            visitor.clone().with("good").send(http::Request::get("/orders/1").header("user-agent", "curl/8"), "").await.unwrap();
        assert_eq!(certified.told(), "403 bot-approval-required", "a certificate is no approval");
        assert_eq!(visitor.get("/orders/1").await.unwrap().told(), "200", "people pass");
        let approved = visitor.send(bearing(browser("GET", "/reports/1"), &token), "").await.unwrap();
        assert_eq!(approved.told(), "403 not-permitted", "no automation, approved or not, even with a browser's name");
    });
}

#[test]
fn each_way_to_miss_an_approval_has_its_reason() {
    let stage = open(&format!("{BASE}{SITES}"));
    let now = doorward::clock::Clock::system().now().wall;
    let hour = |ahead: i64| (now + ahead.hours()).to_zoned(TimeZone::UTC).strftime("%H:00").to_string();
    let sleeping = format!("{}-{}", hour(5), hour(6));
    let tomorrow = (now + 30.hours()).to_string();
    let hash = {
        let leaf = std::fs::read_to_string(cert(&stage, "good.crt")).unwrap();
        let der: String = leaf.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, der).unwrap();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let token = |terms: &[&str]| approve(&stage, terms).1;
    let plain = token(&["--path", "/orders/*"]);
    let deep = token(&["--path", "/orders/**"]);
    let asleep = token(&["--path", "/orders/*", "--hours", &sleeping]);
    let early = token(&["--path", "/orders/*", "--not-before", &tomorrow]);
    let near = token(&["--path", "/orders/*", "--from", "127.0.7.0/24"]);
    let named = token(&["--path", "/orders/*", "--identity", "acme:urn:acme:orders"]);
    let keyed = token(&["--path", "/orders/*", "--cert-sha256", &hash]);
    let elsewhere = token(&["--path", "/orders/*", "--site", "other.localhost"]);
    run(async {
        let bot = Visitor::new(&stage, [1, 1]);
        let told = async |visitor: &Visitor, method: &str, path: &str, token: &str| {
            visitor.send(bearing(browser(method, path), token), "").await.unwrap().told()
        };
        for (token, path, expected) in [
            (plain.as_str(), "/orders/17", "200"),
            (&plain, "/orders/17/items", "403 bot-scope"),
            (&plain, "/orders", "403 bot-scope"),
            (&plain, "/orders/", "403 bot-scope"),
            (&plain, "/orders/17/", "403 bot-scope"),
            (&plain, "/home", "403 bot-scope"),
            (&plain, "/public/1", "403 bot-scope"),
            (&deep, "/orders/17/items", "200"),
            (&asleep, "/orders/17", "403 bot-hours"),
            (&early, "/orders/17", "403 bot-hours"),
            (&near, "/orders/17", "403 bot-scope"),
            (&named, "/orders/17", "403 approval-binding"),
            (&keyed, "/orders/17", "403 approval-binding"),
            (&elsewhere, "/orders/17", "403 bot-scope"),
            ("", "/orders/17", "403 bot-approval-required"),
            ("v4.public.Zm9yZ2Vk", "/orders/17", "403 bot-approval-required"),
            ("v4.public.Zm9yZ2Vk", "/public/1", "403 bot-approval-required"),
            (&plain[..plain.len() - 4], "/orders/17", "403 bot-approval-required"),
            (&format!("{plain}AAAA"), "/orders/17", "403 bot-approval-required"),
            (&plain.replace("v4.public", "v2.public"), "/orders/17", "403 bot-approval-required"),
        ] {
            assert_eq!(told(&bot, "GET", path, token).await, expected, "{path} {token:.20}");
        }
        assert_eq!(told(&bot, "POST", "/orders/17", &plain).await, "403 bot-scope");
        assert_eq!(told(&bot, "HEAD", "/orders/17", &plain).await, "403", "no body for HEAD");
        assert_eq!(told(&Visitor::new(&stage, [7, 9]), "GET", "/orders/17", &near).await, "200");
        let (good, other) = (bot.clone().with("good"), bot.clone().with("other"));
        for bound in [&named, &keyed] {
            assert_eq!(told(&good, "GET", "/orders/17", bound).await, "200");
            assert_eq!(told(&other, "GET", "/orders/17", bound).await, "403 approval-binding");
            assert_eq!(told(&bot.clone().with("foreign"), "GET", "/orders/17", bound).await, "403 approval-binding");
        }
        assert_eq!(told(&bot.clone().named("other.localhost"), "GET", "/orders/17", &elsewhere).await, "200");
        let twice =
            browser("GET", "/orders/17").header("doorward-approval", &plain).header("authorization", format!("Doorward {plain}"));
        assert_eq!(bot.send(twice, "").await.unwrap().told(), "403 bot-approval-required");
        let dedicated = browser("GET", "/orders/17").header("authorization", "Bearer app").header("doorward-approval", &plain);
        assert_eq!(bot.send(dedicated, "").await.unwrap().told(), "200");
    });
}

#[test]
fn the_token_never_reaches_the_application_and_its_id_does() {
    let (toy, journal) = Toy::recording();
    let stage = open(&format!("{BASE}{}", toy.site()));
    let (id, token) = approve(&stage, &["--path", "/**"]);
    run(async {
        let bot = Visitor::new(&stage, [1, 1]);
        for request in [
            browser("GET", "/a").header("authorization", format!("Doorward {token}")),
            browser("GET", "/b").header("authorization", format!("dOORWARD  {token}")).header("authorization", "Bearer app"),
            browser("GET", "/c").header("doorward-approval", &token).header("authorization", "Basic eDp5"),
            browser("GET", "/d")
                .header("doorward-approval", &token)
                .header("doorward_approval", "alias")
                .header("doorward-approval-id", "forged"),
        ] {
            assert_eq!(bot.send(request, "").await.unwrap().status, 200);
        }
        for heard in journal.all() {
            assert!(!heard.head.contains(&token[10..40]) && !heard.has("doorward-approval"), "{}", heard.head);
            assert_eq!((heard.values("doorward-approval-id"), heard.values("doorward-kind")), (vec![id.as_str()], vec!["bot"]));
        }
        let kept: Vec<_> = journal.all().iter().map(|heard| heard.value("authorization").to_owned()).collect();
        assert_eq!(kept, ["", "Bearer app", "Basic eDp5", ""], "the application keeps its own credentials");
    });
    let logged = std::fs::read_to_string(stage.folder.path().join("state/access.log")).unwrap_or_default();
    assert!(!logged.contains(&token[10..40]));
}

#[test]
fn a_revocation_bites_on_the_next_request_of_a_live_connection() {
    let stage = open(&format!("{BASE}{SITES}"));
    let (id, token) = approve(&stage, &["--path", "/orders/**"]);
    run(async {
        let mut line = Visitor::new(&stage, [1, 1]).line().await.unwrap();
        for _ in 0..3 {
            assert_eq!(line.send(bearing(browser("GET", "/orders/1"), &token), "").await.unwrap().status, 200);
        }
        told(&stage, &["approvals", "revoke", &id, "--reason", "contract ended"]);
        let refused = line.send(bearing(browser("GET", "/orders/1"), &token), "").await.unwrap();
        assert_eq!(refused.told(), "403 approval-revoked");
        assert_eq!(
            line.send(browser("GET", "/orders/1"), "").await.unwrap().status,
            200,
            "the connection itself did nothing wrong"
        );
    });
}

#[test]
fn whoever_proves_two_things_is_held_by_a_ban_of_either() {
    let stage = open(&format!("{BASE}{SITES}"));
    let (id, token) = approve(&stage, &["--path", "/orders/**"]);
    run(async {
        let both = Visitor::new(&stage, [1, 1]).with("good");
        let told_now = async || both.send(bearing(browser("GET", "/orders/1"), &token), "").await.unwrap().told();
        for key in [format!("identity:{id}"), "identity:acme:urn:acme:orders".to_owned()] {
            assert_eq!(told_now().await, "200");
            told(&stage, &["bans", "add", &key, "--for", "1h"]);
            assert_eq!(told_now().await, "403 banned", "{key}");
            told(&stage, &["bans", "lift", &key]);
        }
        assert_eq!(told_now().await, "200");
    });
}

#[test]
fn an_approvals_rate_is_its_own() {
    let stage = open(&format!("{BASE}{SITES}"));
    let (id, token) = approve(&stage, &["--path", "/orders/**", "--rate", "3/h"]);
    run(async {
        for place in 1..=3 {
            let visitor = Visitor::new(&stage, [1, place]);
            assert_eq!(visitor.send(bearing(browser("GET", "/orders/1"), &token), "").await.unwrap().status, 200);
        }
        let refused: Answer = Visitor::new(&stage, [1, 9]).send(bearing(browser("GET", "/orders/1"), &token), "").await.unwrap();
        assert_eq!(refused.told(), "429 rate-limited");
        for name in ["retry-after", "ratelimit", "ratelimit-policy"] {
            assert_ne!(refused.header(name), "", "{name}");
        }
        assert_eq!(Visitor::new(&stage, [1, 1]).get("/orders/1").await.unwrap().status, 200);
        let explained = told(
            &stage,
            &[
                "limits",
                "explain",
                "--client",
                "127.0.1.1",
                "--host",
                "localhost",
                "--path",
                "/orders/1",
                "--approval",
                &id,
                "--json",
            ],
        );
        let explained: Value = serde_json::from_str(&explained).unwrap();
        assert_eq!((&explained["passes"], &explained["limits"][0]["remaining"]), (&false.into(), &0.into()), "{explained}");
    });
}

#[test]
fn an_approval_whose_signer_left_is_suspended_and_check_says_so_beforehand() {
    let mut stage = open(&format!("{BASE}{SITES}"));
    let (id, token) = approve(&stage, &["--path", "/orders/**"]);
    let lost = "[approvals.signer.alice]\npublic_key = ";
    let text = std::fs::read_to_string(&stage.config).unwrap();
    assert!(text.contains(lost));
    // A new key under the same name is another signer.
    let other = cert(&stage, "bob.pub");
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
        aws_lc_rs::signature::KeyPair::public_key(&pair),
    )
    .unwrap();
    let pem = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der.as_ref());
    std::fs::write(&other, format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")).unwrap();
    let changed = text.replace("alice.pub", "bob.pub");
    let trial = stage.folder.path().join("trial.toml");
    std::fs::write(&trial, &changed).unwrap();
    let checked =
        std::process::Command::new(env!("CARGO_BIN_EXE_doorward")).arg("--config").arg(&trial).arg("check").output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}");
    assert!(said.contains(&id) && said.contains("suspended"), "{said}");
    run(async {
        assert_eq!(visit(&stage, &token).await, "200", "check changes nothing");
        let reloaded = rewrite(&stage, |_| changed);
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        let warned = String::from_utf8_lossy(&reloaded.stderr).into_owned();
        assert!(warned.contains(&format!("approval {id} is suspended")) && warned.contains("approvals activate"), "{warned}");
        event(&mut stage, &["approval.changed", &id, "suspended"]).await;
        assert_eq!(visit(&stage, &token).await, "403 approval-revoked");
        rewrite(&stage, |text| text.replace("bob.pub", "alice.pub"));
        assert_eq!(visit(&stage, &token).await, "403 approval-revoked", "somebody must bring it back");
        let again = told(&stage, &["approvals", "activate", &id]);
        assert_eq!(visit(&stage, &again).await, "200");
        std::fs::copy(&other, cert(&stage, "alice.pub")).unwrap();
        event(&mut stage, &["approval.changed", &id, "suspended"]).await;
        assert_eq!(visit(&stage, &again).await, "403 approval-revoked", "the key's file is watched");
    });
}

fn key(stage: &Stage, name: &str) -> String {
    cert(stage, &format!("{name}.key")).display().to_string()
}

fn bearing(request: http::request::Builder, token: &str) -> http::request::Builder {
    request.header("authorization", format!("Doorward {token}"))
}

async fn visit(stage: &Stage, token: &str) -> String {
    Visitor::new(stage, [1, 1]).send(bearing(browser("GET", "/orders/17"), token), "").await.unwrap().told()
}

/// What `limits explain` says of a caller with this approval, and what the gateway answers him.
async fn explained_and_answered(stage: &Stage, (id, token): (&str, &str), host: &str, path: &str) -> [String; 2] {
    let ask = ["limits", "explain", "--client", "127.0.1.1", "--host", host, "--path", path, "--approval", id, "--json"];
    let explained: Value = serde_json::from_str(&told(stage, &ask)).unwrap();
    let verdict = explained["verdict"].as_str().unwrap();
    assert_eq!(explained["passes"], verdict.starts_with("no limit refuses it"), "{explained}");
    let request = browser("GET", path).header("doorward-approval", token);
    let answer = Visitor::new(stage, [1, 1]).named(host).send(request, "").await.unwrap();
    [verdict.to_owned(), answer.told()]
}

#[test]
fn an_approval_is_explained_as_it_is_judged() {
    let stage = open(&format!("{BASE}{SITES}"));
    let (id, token) = approve(&stage, &["--path", "/orders/**"]);
    let (elsewhere, elsewhere_token) = approve(&stage, &["--path", "/**", "--from", "192.0.2.0/24"]);
    let (bound, bound_token) = approve(&stage, &["--path", "/**", "--identity", "acme:urn:acme:orders"]);
    let (anywhere, anywhere_token) = approve(&stage, &["--path", "/**"]);
    run(async {
        let ask = async |approval, host, path, verdict: &str, answer: &str| {
            let [explained, answered] = explained_and_answered(&stage, approval, host, path).await;
            assert!(explained.starts_with(verdict), "{host}{path}: {explained}");
            assert_eq!(answered, answer, "{host}{path}");
        };
        let own = (&*id, &*token);
        ask(own, "localhost", "/orders/1", "no limit refuses it", "200").await;
        ask(own, "localhost", "/home", "refused: bot-scope (outside", "403 bot-scope").await;
        ask(own, "other.localhost", "/orders/1", "refused: bot-scope", "403 bot-scope").await;
        ask(
            (&elsewhere, &elsewhere_token),
            "localhost",
            "/echo",
            "refused: bot-scope (outside the approval's source",
            "403 bot-scope",
        )
        .await;
        ask((&bound, &bound_token), "localhost", "/echo", "refused: approval-binding", "403 approval-binding").await;
        ask((&anywhere, &anywhere_token), "localhost", "/reports/1", "refused: not-permitted", "403 not-permitted").await;

        told(&stage, &["bans", "add", "127.0.1.1", "--reason", "abuse"]);
        ask(own, "localhost", "/orders/1", "no limit refuses it", "200").await;
        ask(own, "localhost", "/home", "refused: the client is banned", "403 banned").await;
        told(&stage, &["approvals", "suspend", &id, "--reason", "audit"]);
        ask(own, "localhost", "/orders/1", "refused: the client is banned", "403 banned").await;
        told(&stage, &["bans", "lift", "127.0.1.1", "--reason", "over"]);
        ask(own, "localhost", "/orders/1", "refused: approval-revoked (the approval is not active", "403 approval-revoked").await;
        told(&stage, &["approvals", "revoke", &id, "--reason", "contract ended"]);
        ask(own, "localhost", "/orders/1", "refused: approval-revoked", "403 approval-revoked").await;
    });
}
