//! What a file means, case by case: each case is a valid file with one passage put in place of another.

use std::path::Path;

use proptest::prelude::*;

use super::super::{Config, Diagnostics, Severity, compile_str};

const FILE: &str = r#"
[[tls.certificate]]
chain = "certs/portal.crt"
key = "certs/portal.key"

[client_ca.acme]
roots = ["certs/acme-ca.pem"]
roles = ["integrator"]

[upstream.portal]
servers = ["http://127.0.0.1:9000"]

[login.form]
request = { path = "/login" }
account = { form = "username" }
ok = [{ redirect = "/home" }]

[limit.per-client]
key = "client"
rate = "120/min"

[[site]]
hosts = ["portal.example.com"]
client_ca = ["acme"]

[[site.route]]
path = "/"
upstream = "portal"
login = "form"
limits = ["per-client"]
allow = ["role:integrator"]
"#;

fn compiled(edits: &[(&str, &str)]) -> Result<(Config, Diagnostics), Diagnostics> {
    let mut text = FILE.to_owned();
    for (old, new) in edits {
        assert!(text.contains(old), "{old} is not in the file");
        text = text.replacen(old, new, 1);
    }
    compile_str(Path::new("t.toml"), text)
}

fn messages(found: &Diagnostics, severity: Severity) -> Vec<&str> {
    found.list.iter().filter(|finding| finding.severity == severity).map(|finding| finding.message.as_str()).collect()
}

/// One file, several faults of different kinds and stages: all of them are told, in the file's order, and nothing else.
#[test]
fn several_errors_are_reported_from_one_file_at_once() {
    let unreadable = ("key = \"client\"", "key = \"clientt\"");
    let unknown_key = ("chain =", "chains = 1\nchain =");
    let missing = ("rate = \"120/min\"\n", "");
    let unknown_name = ("upstream = \"portal\"", "upstream = \"portl\"");
    let bad_path = ("path = \"/\"", "path = \"/a/../\"");
    let no_roots = ("roots = [\"certs/acme-ca.pem\"]", "roots = []");
    let wrong_type = ("hosts = [\"portal.example.com\"]", "hosts = 1");
    let never_matches = ("role:integrator", "role:integratr");
    for (edits, expected) in [
        (&[unreadable, unknown_name][..], &["`limit.per-client.key`", "there is no upstream `portl`"][..]),
        (
            &[unknown_key, missing, bad_path],
            &["unknown key `chains`", "`limit.per-client` lacks `rate`", "`site[0].route[0].path`"],
        ),
        (
            &[no_roots, never_matches, unknown_name],
            &["`client_ca.acme.roots` is empty", "there is no upstream", "\"role:integratr\""],
        ),
        (
            &[unreadable, unknown_key, missing, unknown_name, bad_path, no_roots, wrong_type, never_matches],
            &[
                "unknown key `chains`",
                "`client_ca.acme.roots` is empty",
                "`limit.per-client` lacks `rate`",
                "`limit.per-client.key`",
                "`site[0].hosts` must be a list",
                "`site[0].route[0].path`",
                "there is no upstream",
                "\"role:integratr\"",
            ],
        ),
    ] {
        let found = compiled(edits).unwrap_err();
        let errors = messages(&found, Severity::Error);
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{error} is not {expected}");
        }
    }
}

/// A key that cannot be read says so once; what would follow from its absence is not told.
#[test]
fn an_unreadable_key_is_one_error() {
    for edit in [
        ("hosts = [\"portal.example.com\"]", "hosts = [7]"),
        ("client_ca = [\"acme\"]", "client_ca = [7]\nclient_cert = \"required\""),
        ("roots = [\"certs/acme-ca.pem\"]", "roots = [\"\"]"),
        ("roles = [\"integrator\"]", "roles = 7"),
        ("servers = [\"http://127.0.0.1:9000\"]", "servers = [\"127.0.0.1:9000\"]"),
        ("[upstream.portal]\nservers = [\"http://127.0.0.1:9000\"]", "[upstream]\nportal = 7"),
        ("[[tls.certificate]]\nchain = \"certs/portal.crt\"\nkey = \"certs/portal.key\"", "[tls]\ncertificate = 7"),
        ("ok = [{ redirect = \"/home\" }]", "ok = [{ redirect = 7 }]"),
        ("ok = [{ redirect = \"/home\" }]", "ok = [{ redirct = \"/home\" }]"),
        ("request = { path = \"/login\" }", "request = { path = 7 }"),
        ("key = \"client\"", "key = []"),
        ("allow = [\"role:integrator\"]", "allow = [7]"),
        ("login = \"form\"", "login = 7"),
        ("limits = [\"per-client\"]", "limits = 7"),
    ] {
        let found = compiled(&[edit]).unwrap_err();
        assert_eq!(messages(&found, Severity::Error).len(), 1, "{}: {}", edit.1, found.render(false));
    }
}

/// Trap: mTLS fails open when a CA file is missing.
#[test]
fn trap_an_empty_root_set_is_fatal() {
    for edit in [
        ("roots = [\"certs/acme-ca.pem\"]\n", "roots = []\n"),
        ("roots = [\"certs/acme-ca.pem\"]\n", ""),
        ("client_ca = [\"acme\"]", "client_ca = []"),
        ("client_ca = [\"acme\"]", "client_ca = [\"other\"]"),
    ] {
        assert!(compiled(&[edit]).is_err(), "{edit:?}");
    }
}

/// Trap: X-Forwarded-For trusted from everywhere.
#[test]
fn trap_nobodys_forwarded_address_is_believed_by_default_and_everybodys_never() {
    let (config, _) = compiled(&[]).unwrap();
    assert!(config.listen.trusted_proxies.is_empty() && config.listen.proxy_protocol.is_empty());
    for everybody in ["0.0.0.0/0", "::/0"] {
        let listen = format!("[listen]\ntrusted_proxies = [\"{everybody}\"]\n[upstream.portal]");
        assert!(compiled(&[("[upstream.portal]", &listen)]).is_err(), "{everybody}");
    }
}

#[test]
fn a_list_that_spares_everybody_is_warned_of() {
    for everybody in ["0.0.0.0/0", "::/0"] {
        let bans = format!("[bans]\nnever = [\"{everybody}\"]\n[upstream.portal]");
        let (_, found) = compiled(&[("[upstream.portal]", &bans)]).unwrap();
        assert!(messages(&found, Severity::Warning)[0].contains("spares everybody"), "{}", found.render(false));
    }
}

/// Trap: a login page that answers 200 to a wrong password counts as success and clears the counter.
#[test]
fn trap_a_login_without_ok_is_warned_of() {
    let (_, found) = compiled(&[("ok = [{ redirect = \"/home\" }]\n", "")]).unwrap();
    assert!(messages(&found, Severity::Warning)[0].starts_with("`login.form` has no `ok`"));
    assert!(compiled(&[]).unwrap().1.list.is_empty());
}

#[test]
fn an_origin_is_written_as_browsers_write_it() {
    let with = |origin: &str| {
        compiled(&[("ok = [{ redirect = \"/home\" }]", &format!("ok = [{{ redirect = \"/home\" }}]\norigins = [\"{origin}\"]"))])
    };
    for good in ["*", "https://www.example.org", "http://127.0.0.1:8080"] {
        assert!(with(good).unwrap().1.list.is_empty(), "{good}");
    }
    for bad in ["https://www.example.org/", "https://WWW.example.org", "www.example.org", "ftp://x.example", "null"] {
        let found = with(bad).unwrap_err();
        assert!(messages(&found, Severity::Error)[0].contains("is not an origin"), "{bad}: {}", found.render(false));
    }
}

/// A route that takes the login's path away from the route with the login would let guesses pass uncounted.
#[test]
fn a_login_that_another_route_answers_is_refused() {
    let elsewhere =
        "allow = [\"role:integrator\"]\n\n[[site.route]]\npath = \"/login\"\nmatch = \"exact\"\nupstream = \"portal\"\n";
    let found = compiled(&[("allow = [\"role:integrator\"]\n", elsewhere)]).unwrap_err();
    assert!(messages(&found, Severity::Error)[0].contains("never tried"), "{}", found.render(false));
    let with_login = format!("{elsewhere}login = \"form\"\n");
    let text = ("allow = [\"role:integrator\"]\n", with_login.as_str());
    let (config, _) = compiled(&[text]).unwrap_or_else(|found| panic!("{}", found.render(false)));
    let routes = &config.policy.sites.iter().next().unwrap().routes;
    assert_eq!((routes[1].path.as_str(), routes[1].exact), ("/login", true));
}

/// The same application behind a site that does not count its logins.
#[test]
fn a_login_that_another_site_passes_uncounted_is_warned_of() {
    let other = |route: &str| {
        format!(
            "allow = [\"role:integrator\"]\n\n[[site]]\nhosts = [\"b.example.com\"]\n[[site.route]]\npath = \"/\"\nupstream = \"portal\"\n{route}"
        )
    };
    let warned = |route: &str| {
        let (_, found) = compiled(&[("allow = [\"role:integrator\"]\n", &other(route))]).unwrap();
        messages(&found, Severity::Warning).into_iter().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let said = warned("");
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("POST /login is the login `form` at another site"), "{said:?}");
    let elsewhere =
        "[[site.route]]\npath = \"/login\"\nupstream = \"other\"\n[upstream.other]\nservers = [\"http://127.0.0.1:1\"]\n";
    for counted in ["login = \"form\"\n", elsewhere] {
        assert!(warned(counted).is_empty(), "{counted}: {:?}", warned(counted));
    }
}

/// An identity is (set, name): a bare name is completed where one set alone can vouch; an approved bot needs none.
#[test]
fn allowed_identities_are_of_one_set() {
    use crate::policy::AccountKind;
    use crate::policy::route::Allow;
    for (entry, expected) in [
        ("identity:urn:acme:sync", Allow::Identity("acme:urn:acme:sync".into())),
        ("identity:acme:urn:acme:sync", Allow::Identity("acme:urn:acme:sync".into())),
        ("kind:bot", Allow::Kind(AccountKind::Bot)),
    ] {
        let (config, _) = compiled(&[("role:integrator", entry)]).unwrap();
        assert_eq!(config.policy.sites.iter().next().unwrap().routes[0].allow, Some(vec![expected]), "{entry}");
    }
}

#[test]
fn a_required_certificate_cannot_be_loosened_by_a_route() {
    let site = ("client_ca = [\"acme\"]", "client_ca = \"acme\"\nclient_cert = \"required\"");
    let (config, found) = compiled(&[site, ("login = \"form\"", "login = \"form\"\nclient_cert = \"optional\"")]).unwrap();
    let site = config.policy.sites.iter().next().unwrap();
    assert_eq!(site.routes[0].client_cert, crate::policy::route::CertDemand::Required);
    assert_eq!(messages(&found, Severity::Warning).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever a slip makes of a file, it is compiled or refused with a place and a rendering, never a panic.
    #[test]
    fn mangled_files_never_panic(cuts in prop::collection::vec((0usize..700, 0usize..40, "[\\PC\n]{0,6}"), 1..5)) {
        let mut text = FILE.to_owned();
        for (start, length, insert) in cuts {
            let start = text.floor_char_boundary(start.min(text.len()));
            let end = text.floor_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &insert);
        }
        let _ = crate::config::fmt::format(Path::new("t.toml"), &text);
        if let Err(found) = compile_str(Path::new("t.toml"), text) {
            prop_assert!(found.has_errors());
            found.render(true);
            found.to_json();
        }
    }

    /// Formatting never fails on what can be read, and has nothing left to do the second time.
    #[test]
    fn formatting_is_idempotent(gaps in prop::collection::vec("[ \t\n]{0,4}", 12), comments in prop::collection::vec("( *#[ a-z\"=]{0,5}\n)?", 6)) {
        let g = |at: usize| gaps[at].replace('\n', "");
        let text = format!(
            "{}{}a{}={}[{}1,{}{}2{}]{}\n{}{}[{}t{}]{}\n{}b={{{}x=1{},y=2{}}}\n{}",
            gaps[0], comments[0], g(1), g(2), gaps[3], comments[1], gaps[4], gaps[5], g(6), comments[2], gaps[7], g(8), g(9),
            comments[3].trim_end(), comments[4], g(10), g(11), g(0), comments[5],
        );
        prop_assume!(text.parse::<toml::Table>().is_ok());
        let once = crate::config::fmt::format(Path::new("t.toml"), &text).unwrap();
        let twice = crate::config::fmt::format(Path::new("t.toml"), &once).unwrap();
        prop_assert_eq!(once, twice);
    }
}
