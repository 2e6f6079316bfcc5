//! Every caller is held to his budget, and to nobody else's.

use std::fmt::Write as _;

use serde_json::Value;
use sfv::{BareItem, List, ListEntry, Parser};

use crate::support::{
    ACCOUNT, Answer, BASE, LOGIN, Stage, Visitor, approve, browser, cert, credentials, doorward, event, form, open, rewrite, run,
    told,
};

/// Slow enough that nothing comes back while a test runs.
fn limit(name: &str, key: &str, burst: u32) -> String {
    format!("[limit.{name}]\nkey = {key}\nrate = \"3/h\"\nburst = {burst}\n")
}

/// Routes of the portal with their limits, behind optional certificates.
fn site(limits: &str, routes: &[(&str, &str)]) -> String {
    let mut text = format!("{BASE}{limits}{LOGIN}\n[[site]]\nhosts = [\"localhost\"]\nclient_ca = [\"acme\"]\n");
    for (path, names) in routes {
        let _ = write!(
            text,
            "[[site.route]]\npath = \"{path}\"\nupstream = \"portal\"\nbots = \"any\"\nlogin = \"form\"\nlimits = [{names}]\n"
        );
    }
    text
}

#[test]
fn after_the_burst_comes_429_with_fields_that_a_parser_of_structured_fields_reads() {
    let stage = open(&site(&limit("per-client", "\"client\"", 4), &[("/", "\"per-client\"")]));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        for _ in 0..4 {
            assert_eq!(visitor.get("/echo").await.unwrap().status, 200);
        }
        let refused = visitor.get("/echo").await.unwrap();
        assert_eq!(refused.told(), "429 rate-limited");
        let wait: u32 = refused.header("retry-after").parse().unwrap();
        assert!((1..=1200).contains(&wait), "{wait}");
        assert_eq!(
            field(&refused, "ratelimit-policy"),
            ("per-client".to_owned(), [("q".to_owned(), 4), ("w".to_owned(), 4800)].into())
        );
        let (name, state) = field(&refused, "ratelimit");
        assert_eq!((name.as_str(), state[0].clone()), ("per-client", ("r".to_owned(), 0)));
        assert_eq!(state[1], ("t".to_owned(), i64::from(wait)));
        assert_eq!(stage.portal.seen.requests.load(std::sync::atomic::Ordering::SeqCst), 4);
        assert_eq!(Visitor::new(&stage, [1, 2]).get("/echo").await.unwrap().status, 200, "another client has his own");
    });
}

#[test]
fn each_key_counts_what_it_names_and_nothing_else() {
    let limits = [
        limit("client", "\"client\"", 2),
        limit("identity", "\"identity\"", 2),
        limit("tenant", "\"tenant\"", 2),
        limit("route", "\"route\"", 2),
        limit("account", "\"account\"", 2),
        limit("approval", "\"approval\"", 2),
        limit("both", "[\"client\", \"route\"]", 2),
        limit("three", "[\"identity\", \"route\", \"client\"]", 2),
    ]
    .concat();
    let routes = [
        ("/public/client", "\"client\""),
        ("/public/identity", "\"identity\""),
        ("/public/tenant", "\"tenant\""),
        ("/public/route", "\"route\""),
        ("/login", "\"account\""),
        ("/orders/approval", "\"approval\""),
        ("/public/both/1", "\"both\""),
        ("/public/both/2", "\"both\""),
        ("/public/three", "\"three\""),
    ];
    let stage = open(&site(&limits, &routes));
    let (_, one) = approve(&stage, &["--path", "/orders/**"]);
    let (_, two) = approve(&stage, &["--path", "/orders/**"]);
    run(async {
        let from = |last| Visitor::new(&stage, [1, last]);
        spend(&from(1), "/public/client", 2).await;
        assert_eq!(from(1).with("good").get("/public/client").await.unwrap().status, 429, "the client, whoever he proves to be");
        assert_eq!(from(2).get("/public/client").await.unwrap().status, 200);

        for _ in 0..4 {
            assert_eq!(from(1).get("/public/identity").await.unwrap().status, 200, "without the key it does not apply");
        }
        spend(&from(1).with("good"), "/public/identity", 2).await;
        assert_eq!(from(2).with("good").get("/public/identity").await.unwrap().status, 429, "from wherever it comes");
        assert_eq!(from(1).with("other").get("/public/identity").await.unwrap().status, 200);

        spend(&from(1).with("good"), "/public/tenant", 2).await;
        assert_eq!(from(2).with("other").get("/public/tenant").await.unwrap().status, 429, "one tenant, two identities");

        spend(&from(1), "/public/route", 2).await;
        assert_eq!(from(9).get("/public/route").await.unwrap().status, 429, "everybody's");

        for account in ["carol", "Carol "] {
            assert_eq!(from(3).send(form(), credentials(account, "x")).await.unwrap().status, 303);
        }
        assert_eq!(from(4).send(form(), credentials("carol", "y")).await.unwrap().told(), "429 rate-limited");
        assert_eq!(from(4).send(form(), credentials("dave", "y")).await.unwrap().status, 303);
        for _ in 0..4 {
            assert_eq!(from(4).get("/login").await.unwrap().status, 200, "no attempt names no account");
        }

        let with = |token: &str| browser("GET", "/orders/approval").header("doorward-approval", token);
        for _ in 0..2 {
            assert_eq!(from(1).send(with(&one), "").await.unwrap().status, 200);
        }
        assert_eq!(from(2).send(with(&one), "").await.unwrap().told(), "429 rate-limited");
        assert_eq!(from(2).send(with(&two), "").await.unwrap().status, 200);

        spend(&from(1), "/public/both/1", 2).await;
        assert_eq!(from(1).get("/public/both/2").await.unwrap().status, 200, "another route");
        assert_eq!(from(2).get("/public/both/1").await.unwrap().status, 200, "another client");

        spend(&from(1).with("good"), "/public/three", 2).await;
        assert_eq!(from(2).with("good").get("/public/three").await.unwrap().status, 200);
        assert_eq!(from(1).with("other").get("/public/three").await.unwrap().status, 200);
        assert_eq!(from(1).get("/public/three").await.unwrap().status, 200);
    });
}

#[test]
fn a_request_refused_by_one_limit_is_given_back_to_the_others() {
    let limits =
        [limit("client", "\"client\"", 50), limit("identity", "\"identity\"", 50), limit("route", "\"route\"", 3)].concat();
    let stage = open(&site(&limits, &[("/", "\"route\", \"client\", \"identity\"")]));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]).with("good");
        spend(&visitor, "/echo", 3).await;
        for _ in 0..10 {
            let refused = visitor.get("/echo").await.unwrap();
            assert_eq!(field(&refused, "ratelimit").0, "route");
        }
        let left = left(&stage, &["--identity", "acme:urn:acme:orders"]);
        assert_eq!(
            left,
            [("identity".to_owned(), 47), ("client".to_owned(), 47), ("route".to_owned(), 0)],
            "private before shared"
        );
    });
}

#[test]
fn explaining_spends_nothing_and_names_the_rule_that_decides() {
    let stage = open(&site(&limit("client", "\"client\"", 2), &[("/", "\"client\"")]));
    run(async {
        for _ in 0..10 {
            assert_eq!(left(&stage, &[]), [("client".to_owned(), 2)]);
        }
        spend(&Visitor::new(&stage, [1, 1]), "/echo", 2).await;
        let explained: Value =
            serde_json::from_str(&told(&stage, &["limits", "explain", "--client", "127.0.1.1", "--path", "/echo", "--json"]))
                .unwrap();
        assert_eq!((&explained["passes"], &explained["decides"]), (&false.into(), &"client".into()), "{explained}");
        let shown = told(&stage, &["limits", "show"]);
        assert!(shown.contains("127.0.1.1") && shown.contains("0/2"), "{shown}");
        assert_eq!(doorward(&stage, &["limits", "explain", "--client", "nobody", "--path", "/"]).status.code(), Some(2));
    });
}

#[test]
fn a_limit_in_shadow_lets_pass_and_tells() {
    let shadow = format!("{}mode = \"shadow\"\n", limit("trial", "\"client\"", 1));
    let limits = format!("{shadow}{}", limit("client", "\"client\"", 4));
    let mut stage = open(&site(&limits, &[("/", "\"trial\", \"client\"")]));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        spend(&visitor, "/echo", 4).await;
        let told = event(&mut stage, &["limit.shadowed", "\"trial\"", "127.0.1.1"]).await;
        assert!(told.contains("localhost/"), "{told}");
    });
}

#[test]
fn an_unchanged_limit_keeps_its_fill_across_a_reload_and_a_changed_one_starts_anew() {
    let limits = format!("{}{}", limit("kept", "\"client\"", 2), limit("changed", "\"client\"", 2));
    let stage = open(&site(&limits, &[("/", ""), ("/public", "\"kept\""), ("/orders", "\"changed\"")]));
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        spend(&visitor, "/public", 2).await;
        spend(&visitor, "/orders", 2).await;
        let reloaded = rewrite(&stage, |text| {
            let (before, after) = text.split_once("[limit.changed]").unwrap();
            format!("{before}[limit.changed]{}", after.replacen("burst = 2", "burst = 5", 1))
        });
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        assert_eq!(visitor.get("/public").await.unwrap().status, 429, "a push must not refill every bucket");
        spend(&visitor, "/orders", 5).await;
        let refused = rewrite(&stage, |text| text.replace("rate = \"3/h\"", "rate = \"0/h\""));
        assert_eq!(refused.status.code(), Some(78));
        assert_eq!(visitor.get("/orders").await.unwrap().status, 429, "what could not be taken over changed nothing");
    });
}

#[test]
fn what_the_guess_budget_refuses_uses_up_nobodys_limit_on_the_account() {
    let budgets =
        "[guesses]\nper_client = { failures = 50, within = \"10m\" }\nper_account = { failures = 2, within = \"1h\" }\n";
    let stage = open(&site(&format!("{budgets}{}", limit("account", "\"account\"", 4)), &[("/", "\"account\"")]));
    run(async {
        let owner = Visitor::new(&stage, [1, 1]);
        let (name, secret) = ACCOUNT;
        assert_eq!(owner.send(form(), credentials(name, secret)).await.unwrap().header("location"), "/home");
        for attacker in 2..=3 {
            assert_eq!(Visitor::new(&stage, [1, attacker]).send(form(), credentials(name, "x")).await.unwrap().status, 303);
        }
        for attacker in 2..=9 {
            let refused = Visitor::new(&stage, [1, attacker]).send(form(), credentials(name, "y")).await.unwrap();
            assert_eq!(refused.told(), "429 too-many-attempts");
        }
        assert_eq!(
            owner.send(form(), credentials(name, secret)).await.unwrap().header("location"),
            "/home",
            "the fourth of four"
        );
        assert_eq!(owner.send(form(), credentials(name, "z")).await.unwrap().told(), "429 rate-limited");
        let explained = told(&stage, &["limits", "explain", "--client", "127.0.1.1", "--path", "/login", "--json"]);
        let explained: Value = serde_json::from_str(&explained).unwrap();
        assert_eq!(explained["guesses"]["left"], 50, "and what the limit refuses is no guess");
    });
}

#[test]
fn limits_hold_over_one_connection_many_and_in_parallel() {
    let stage = open(&site(&limit("client", "\"client\"", 10), &[("/", "\"client\"")]));
    run(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let visitor = Visitor::new(&stage, [1, 1]);
            tasks.spawn(async move {
                let mut line = visitor.line().await.unwrap();
                let mut passed = 0;
                for _ in 0..5 {
                    passed += u32::from(line.send(browser("GET", "/echo"), "").await.unwrap().status == 200);
                }
                passed
            });
        }
        let passed: u32 = tasks.join_all().await.into_iter().sum();
        assert_eq!(passed, 10);
        assert_eq!(stage.portal.seen.requests.load(std::sync::atomic::Ordering::SeqCst), 10);
    });
}

#[test]
fn a_limit_comes_before_any_certificate_or_token_work() {
    let stage = open(&site(&limit("client", "\"client\"", 1), &[("/", "\"client\"")]));
    assert!(cert(&stage, "good.crt").exists());
    run(async {
        let visitor = Visitor::new(&stage, [1, 1]);
        spend(&visitor, "/echo", 1).await;
        let forged = browser("GET", "/echo").header("authorization", "Doorward v4.public.Zm9yZ2Vk");
        assert_eq!(visitor.send(forged, "").await.unwrap().told(), "429 rate-limited");
    });
}

#[test]
fn a_spent_budget_of_an_account_is_explained_and_cleared() {
    let budget = "[guesses]\nper_account = { failures = 5, within = \"1h\" }\n";
    let mut stage = open(&site(budget, &[("/", "")]));
    let explain = |stage: &Stage| -> Value {
        let mut arguments = vec!["limits", "explain", "--client", "127.0.1.9", "--path", "/login", "--method", "POST"];
        arguments.extend(["--account", ACCOUNT.0, "--json"]);
        serde_json::from_str(&told(stage, &arguments)).unwrap()
    };
    let lift = |stage: &Stage| doorward(stage, &["bans", "lift", &format!("account:{}", ACCOUNT.0), "--reason", "she called"]);
    run(async {
        let owner = Visitor::new(&stage, [1, 9]);
        assert_eq!(explain(&stage)["account_guesses"]["left"], 5);
        for last in 1..6 {
            let guess = Visitor::new(&stage, [1, last]).sign_in(ACCOUNT.0, &format!("x{last}")).await.unwrap();
            assert_eq!(guess.header("location"), "/login?error=1");
        }
        assert_eq!(owner.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap().told(), "429 too-many-attempts");
        let explained = explain(&stage);
        assert_eq!((&explained["passes"], &explained["decides"]), (&false.into(), &"guesses".into()), "{explained}");
        assert_eq!(explained["verdict"], "refused: the account's guess budget of 5 is spent");
        assert_eq!((&explained["account_guesses"]["failed"], &explained["guesses"]["left"]), (&5.into(), &5.into()));

        let lifted = lift(&stage);
        assert!(lifted.status.success(), "{}", String::from_utf8_lossy(&lifted.stderr));
        assert_eq!(String::from_utf8_lossy(&lifted.stdout), format!("no ban of account:{}; 5 failures cleared\n", ACCOUNT.0));
        let line = event(&mut stage, &["guesses.cleared", "she called"]).await;
        assert!(line.contains("\"failures\":5") && line.contains(&format!("account:{}", ACCOUNT.0)), "{line}");
        assert_eq!(explain(&stage)["passes"], true);
        let nothing = lift(&stage);
        assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(1), 0), "{nothing:?}");

        assert_eq!(owner.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap().header("location"), "/home");
        for last in 1..6 {
            Visitor::new(&stage, [2, last]).sign_in(ACCOUNT.0, &format!("y{last}")).await.unwrap();
        }
        let explained = explain(&stage);
        assert_eq!((&explained["passes"], &explained["account_guesses"]), (&true.into(), &Value::Null), "{explained}");
        assert_eq!(owner.sign_in(ACCOUNT.0, ACCOUNT.1).await.unwrap().header("location"), "/home", "who succeeded is not held");
    });
}

/// So many pass, and the next one does not.
async fn spend(visitor: &Visitor, path: &str, count: u32) {
    for number in 0..count {
        assert_eq!(visitor.get(path).await.unwrap().status, 200, "{path}: {number}");
    }
    assert_eq!(visitor.get(path).await.unwrap().told(), "429 rate-limited", "{path}");
}

/// What `/echo` from 127.0.1.1 has left, in the order of charging.
fn left(stage: &Stage, more: &[&str]) -> Vec<(String, u64)> {
    let mut arguments = vec!["limits", "explain", "--client", "127.0.1.1", "--path", "/echo", "--json"];
    arguments.extend(more);
    let explained: Value = serde_json::from_str(&told(stage, &arguments)).unwrap();
    let limits = explained["limits"].as_array().unwrap();
    limits.iter().map(|limit| (limit["limit"].as_str().unwrap().to_owned(), limit["remaining"].as_u64().unwrap())).collect()
}

/// The one item of a list field: its name and its parameters.
fn field(answer: &Answer, name: &str) -> (String, Vec<(String, i64)>) {
    let list: List = Parser::new(answer.header(name)).parse().unwrap();
    let [ListEntry::Item(item)] = &list[..] else { panic!("{name}: {list:?}") };
    let BareItem::String(limit) = &item.bare_item else { panic!("{name}: {item:?}") };
    let parameters = item.params.iter().map(|(key, value)| match value {
        BareItem::Integer(number) => (key.as_str().to_owned(), i64::from(*number)),
        other => panic!("{name}: {other:?}"),
    });
    (limit.as_str().to_owned(), parameters.collect())
}
