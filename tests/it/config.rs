//! The config file keeps its promises: every error at once with its place and its cure, one declaration behind reader, schema
//! and example, and a formatter that keeps what was written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use doorward::config::{self, Config, Diagnostics, Severity};
use serde_json::Value;

const FULL: &str = include_str!("../../config/doorward.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

/// Each bad file is refused with exactly the findings in the `.stderr` beside it; DOORWARD_BLESS=1 rewrites those.
#[test]
fn every_bad_file_is_refused_with_its_expected_findings() {
    let files = toml_files("tests/config/bad");
    assert!(files.len() >= 34, "only {} bad files", files.len());
    let mut differing = String::new();
    for file in files {
        match config::load(&file) {
            Ok(_) => differing.push_str(&format!("{} is accepted\n", file.display())),
            Err(found) => {
                assert!(found.has_errors(), "{}", file.display());
                differing.push_str(&compare(&file, &found));
            }
        }
    }
    assert!(differing.is_empty(), "{differing}\nDOORWARD_BLESS=1 rewrites what is expected");
}

/// Each good file loads; its warnings are those of the `.stderr` beside it, none where there is no such file.
#[test]
fn every_good_file_loads_with_its_expected_warnings() {
    let mut differing = String::new();
    for file in toml_files("tests/config/good") {
        match config::load(&file) {
            Ok((_, found)) => differing.push_str(&compare(&file, &found)),
            Err(found) => differing.push_str(&format!("{} is refused:\n{}\n", file.display(), found.render(false))),
        }
    }
    assert!(differing.is_empty(), "{differing}\nDOORWARD_BLESS=1 rewrites what is expected");
}

#[test]
fn the_shipped_files_load_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("doorward.toml", FULL), ("minimal.toml", MINIMAL)] {
        let (_, found) = load_shipped(folder.path(), name, text);
        assert!(found.list.is_empty(), "{}", found.render(false));
    }
}

/// What the interface promises of keys that are not written.
#[test]
fn the_shortest_file_has_the_documented_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _) = load_shipped(folder.path(), "minimal.toml", MINIMAL);
    let (full, _) = load_shipped(folder.path(), "doorward.toml", FULL);

    assert_eq!(config.state_dir, full.state_dir);
    assert_eq!(config.listen.admin, full.listen.admin);
    assert_eq!(config.approvals_key.value, full.approvals_key.value);
    assert!(config.approvals_key.span.is_default() && !full.approvals_key.span.is_default());
    assert_eq!(config.policy.document.id, full.policy.document.id);
    assert_eq!(config.policy.document.version, full.policy.document.version);
    assert_eq!(config.policy.guesses, full.policy.guesses);
    assert_eq!(format!("{:?}", config.policy.bans), format!("{:?}", full.policy.bans));
    assert_eq!(format!("{:?}", config.caps), format!("{:?}", full.caps));
    assert_eq!(format!("{:?}", config.deadlines), format!("{:?}", full.deadlines));
    assert_eq!(format!("{:?}", config.log), format!("{:?}", full.log));
    assert_eq!(config.upstreams[0].timeouts, full.upstreams[0].timeouts);
    assert_eq!(config.listen.https[0].value, "[::]:8443".parse().unwrap());
    assert_eq!((config.ipv6_prefix, config.tls.min_version), (full.ipv6_prefix, full.tls.min_version));
    assert!(config.listen.http.is_empty() && config.listen.metrics.is_none() && config.listen.proxy_protocol.is_empty());
    assert!(config.client_cas.is_empty() && config.policy.limits.is_empty());
    assert!(config.workers >= 1);

    let route = &config.policy.sites.iter().next().unwrap().routes[0];
    assert_eq!((route.path.as_str(), &*route.label, route.body), ("", "portal.example.com/", 64 << 20));
}

/// A route's limits are charged in the order of their privacy, whatever order the file has them in.
#[test]
fn private_budgets_come_before_shared_ones() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        FULL.replace(r#"limits = ["per-client", "per-identity"]"#, r#"limits = ["per-client", "per-identity"] # shared first"#);
    let (config, _) = load_shipped(folder.path(), "doorward.toml", &text);
    let api = &config.policy.sites.iter().next().unwrap().routes[1];
    let names: Vec<&str> = api.limits.iter().map(|limit| &*config.policy.limits[limit.0].name).collect();
    assert_eq!(names, ["per-identity", "per-client"]);
}

#[test]
fn the_committed_schema_is_the_one_that_the_program_prints() {
    let path = Path::new("config/doorward.schema.json");
    let schema = config::schema::json();
    if blessing() {
        fs::write(path, &schema).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == schema,
        "`doorward config schema` differs from {}; DOORWARD_BLESS=1 rewrites it",
        path.display()
    );
}

/// The keys of the schema, those that the reader takes, and those of the full example are the same keys.
#[test]
fn schema_reader_and_full_example_agree_on_every_key() {
    let schema: Value = serde_json::from_str(&config::schema::json()).unwrap();
    let mut described = BTreeSet::new();
    schema_keys(&schema, "", &mut described);

    let folder = tempfile::tempdir().unwrap();
    let path = shipped(folder.path(), "doorward.toml", FULL);
    let shown = config::show::json(&path).unwrap();
    let read: BTreeSet<String> = shown.as_array().unwrap().iter().map(|line| general(line["key"].as_str().unwrap())).collect();
    assert_eq!(described, read);

    let left_to_defaults: Vec<&Value> = shown.as_array().unwrap().iter().filter(|line| line["origin"] == "default").collect();
    let elsewhere = [
        "upstream.orders.timeouts.",
        "upstream.orders.connections",
        "upstream.orders.queue",
        "limit.per-identity.mode",
        "site[0].route[1].match",
        "site[0].route[0].client_cert",
        "site[0].route[0].body",
    ];
    for line in left_to_defaults {
        let key = line["key"].as_str().unwrap();
        assert!(elsewhere.iter().any(|known| key.starts_with(known)), "the full example does not show {key}");
    }
}

#[test]
fn every_key_of_the_schema_says_what_it_is() {
    fn check(schema: &Value, path: &str) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.ends_with('.') && description.len() > 8, "{path}.{key}: {description:?}");
            for part in [property, &property["items"], &property["additionalProperties"]] {
                check(part, &format!("{path}.{key}"));
            }
        }
    }
    check(&serde_json::from_str(&config::schema::json()).unwrap(), "");
}

#[test]
fn show_names_the_origin_of_every_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = shipped(folder.path(), "minimal.toml", MINIMAL);
    let text = config::show::text(&path).unwrap();
    for line in [
        "state_dir = \"state\"  # default".to_owned(),
        "listen.admin = \"unix:state/admin.sock\"  # default".to_owned(),
        "guesses.per_client.failures = 5  # default".to_owned(),
        "approvals.require.bot = [\"provider\"]  # default".to_owned(),
        format!("site[0].hosts = [\"portal.example.com\"]  # {}:12", path.display()),
        "site[0].route[0].body = \"64MiB\"  # default".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    let refused = config::show::text(Path::new("tests/config/bad/no_site.toml")).unwrap_err();
    assert!(refused.has_errors());
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    for path in ["tests/config/bad/no-such-file.toml", "tests/config"] {
        let found = config::load(Path::new(path)).unwrap_err();
        assert!(found.source.is_none() && found.render(false).contains(path), "{}", found.render(false));
        assert_eq!(found.to_json()[0]["line"], Value::Null);
    }
}

/// Formatting changes no value, loses no comment, and has nothing left to do the second time.
#[test]
fn formatting_keeps_what_is_written() {
    let mut files = toml_files("tests/config/good");
    files.extend(toml_files("tests/config/bad"));
    files.extend(toml_files("config"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let Ok(before) = text.parse::<toml::Table>() else {
            assert!(config::fmt::format(&file, &text).unwrap_err().contains("error: not TOML"), "{}", file.display());
            continue;
        };
        let formatted = config::fmt::format(&file, &text).unwrap();
        assert_eq!(before, formatted.parse::<toml::Table>().unwrap(), "{}", file.display());
        assert_eq!(formatted, config::fmt::format(&file, &formatted).unwrap(), "{}", file.display());
        assert_eq!(text.matches('#').count(), formatted.matches('#').count(), "{}", file.display());
    }
}

#[test]
fn the_shipped_files_are_formatted() {
    for (name, text) in [("config/doorward.toml", FULL), ("config/minimal.toml", MINIMAL)] {
        let formatted = config::fmt::format(Path::new(name), text).unwrap();
        assert!(formatted == text, "{name} is not formatted:\n{}", diff(text, &formatted));
    }
}

/// A shipped file with the public key that it names made for this run.
fn shipped(folder: &Path, name: &str, text: &str) -> PathBuf {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public_key = folder.join("alice.pub");
    fs::write(&public_key, key.public_key_pem()).unwrap();
    let path = folder.join(name);
    fs::write(&path, text.replace("certs/alice.pub", public_key.to_str().unwrap())).unwrap();
    path
}

fn load_shipped(folder: &Path, name: &str, text: &str) -> (Config, Diagnostics) {
    config::load(&shipped(folder, name, text)).unwrap_or_else(|found| panic!("{}", found.render(false)))
}

fn compare(file: &Path, found: &Diagnostics) -> String {
    let expected_file = file.with_extension("stderr");
    let rendered = found.render(false);
    let sorted = found.list.windows(2).all(|pair| pair[0].span.0.start <= pair[1].span.0.start);
    let helped = found.list.iter().all(|finding| {
        finding.severity == Severity::Warning || finding.help.is_some() || finding.message.starts_with("not TOML")
    });
    assert!(sorted && helped, "{}: findings in disorder or without help:\n{rendered}", file.display());
    if blessing() {
        if rendered.is_empty() {
            let _ = fs::remove_file(&expected_file);
        } else {
            fs::write(&expected_file, &rendered).unwrap();
        }
    }
    let expected = fs::read_to_string(&expected_file).unwrap_or_default();
    if expected == rendered { String::new() } else { format!("{}\n{}\n", file.display(), diff(&expected, &rendered)) }
}

fn blessing() -> bool {
    std::env::var_os("DOORWARD_BLESS").is_some_and(|value| value == "1")
}

/// The lines that only one side has, between what begins and ends alike.
fn diff(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let tail = expected[same..].iter().rev().zip(found[same..].iter().rev()).take_while(|(a, b)| a == b).count();
    let lines = |sign: char, lines: &[&str]| {
        lines[same..lines.len() - tail].iter().map(|line| format!("{sign}{line}\n")).collect::<String>()
    };
    lines('-', &expected) + &lines('+', &found)
}

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    files
}

/// The leaves of the schema as `config show` would name them, `*` for a name and `[]` for a place in a list.
fn schema_keys(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    let dotted = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    if let Some(properties) = schema["properties"].as_object() {
        for (key, property) in properties {
            schema_keys(property, &dotted(key), keys);
        }
    } else if schema["additionalProperties"].is_object() {
        schema_keys(&schema["additionalProperties"], &dotted("*"), keys);
    } else if schema["items"]["properties"].is_object() {
        schema_keys(&schema["items"], &format!("{path}[]"), keys);
    } else {
        keys.insert(general(path));
    }
}

/// A key of `config show` with names and places left open.
fn general(key: &str) -> String {
    let mut parts: Vec<String> = key.split('.').map(str::to_owned).collect();
    let named = match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client_ca" | "upstream" | "login" | "limit", ..] => Some(1),
        ["approvals", "signer", ..] => Some(2),
        _ => None,
    };
    if let Some(name) = named {
        parts[name] = "*".to_owned();
    }
    let places = parts.iter().map(|part| part.split_once('[').map_or(part.clone(), |(name, _)| format!("{name}[]")));
    // Success and failure are told by the same kind of rule, of which no example shows every part twice.
    places.collect::<Vec<_>>().join(".").replace("login.*.ok[]", "login.*.failed[]")
}
