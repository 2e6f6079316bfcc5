//! `/metrics`: parses, is told of everything, names nobody.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use doorward::cli::demo::stage::Stage;

use crate::support::process::open_house;
use crate::support::{Visitor, browser, doorward, open, probe, rewrite, run, told};

/// Every family and its kind; dashboards hold on to them.
const FAMILIES: &[(&str, &str)] = &[
    ("doorward_accept_failures", "counter"),
    ("doorward_bans_lifted", "counter"),
    ("doorward_bans_live", "gauge"),
    ("doorward_bans_made", "counter"),
    ("doorward_build", "info"),
    ("doorward_bytes_in", "counter"),
    ("doorward_bytes_out", "counter"),
    ("doorward_certificate_expiry_timestamp_seconds", "gauge"),
    ("doorward_certificates_refused", "counter"),
    ("doorward_config_generation", "gauge"),
    ("doorward_connections_refused", "counter"),
    ("doorward_crl_expiry_timestamp_seconds", "gauge"),
    ("doorward_denials", "counter"),
    ("doorward_exchanges_ended", "counter"),
    ("doorward_guesses", "counter"),
    ("doorward_guesses_refused", "counter"),
    ("doorward_handshake_failures", "counter"),
    ("doorward_limit_shadowed", "counter"),
    ("doorward_log_lines_dropped", "counter"),
    ("doorward_log_write_errors", "counter"),
    ("doorward_protocol_errors", "counter"),
    ("doorward_reload_failures", "counter"),
    ("doorward_request_duration_seconds", "histogram"),
    ("doorward_requests", "counter"),
    ("doorward_store_failures", "counter"),
    ("doorward_table_entries", "gauge"),
    ("doorward_table_overflow", "counter"),
    ("doorward_upstream_up", "gauge"),
];

/// Series with their values, parsed as strictly as a scraper does; every sample belongs to the family before it.
fn parse(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
    let mut family = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none() && text.ends_with("# EOF\n"), "nothing follows the end");
            return (kinds, samples);
        }
        if let Some(rest) = line.strip_prefix("# ") {
            let parts: Vec<&str> = rest.splitn(3, ' ').collect();
            let [what, name, rest] = parts[..] else { panic!("{line}") };
            match what {
                "HELP" => assert!(!rest.is_empty() && rest.ends_with('.'), "{line}"),
                "TYPE" => {
                    family = name.to_owned();
                    assert!(kinds.insert(name.to_owned(), rest.to_owned()).is_none(), "{name} twice");
                }
                "UNIT" => {}
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        let name = series.split('{').next().unwrap_or_default();
        assert!(name.starts_with(&family), "{line} outside of {family}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        }
        assert!(samples.insert(series.to_owned(), value.parse().expect("a number")).is_none(), "{series} twice");
    }
    panic!("it does not end with # EOF")
}

async fn metrics(stage: &Stage) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
    parse(&probe(at(stage), "/metrics").await.expect("metrics").1)
}

fn at(stage: &Stage) -> SocketAddr {
    stage.bound.metrics.expect("metrics are on")
}

fn sum(samples: &BTreeMap<String, f64>, name: &str, label: &str) -> f64 {
    samples.iter().filter(|(series, _)| series.starts_with(name) && series.contains(label)).map(|(_, value)| value).sum()
}

#[test]
fn every_family_is_there_with_its_kind_and_parses() {
    let stage = open(&open_house());
    run(async {
        let (kinds, samples) = metrics(&stage).await;
        let kinds: Vec<(&str, &str)> = kinds.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
        // A family whose labels are not known beforehand is not told until there is something to tell.
        let later =
            ["doorward_certificates_refused", "doorward_exchanges_ended", "doorward_limit_shadowed", "doorward_table_overflow"];
        let at_once: Vec<(&str, &str)> = FAMILIES.iter().copied().filter(|(name, _)| !later.contains(name)).collect();
        assert_eq!(kinds, at_once);
        assert_eq!(sum(&samples, "doorward_upstream_up", &stage.portal.address.to_string()), 1.0);
        let version = format!("doorward_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        assert_eq!(samples.get(&version), Some(&1.0));
        assert_eq!(samples.get("doorward_config_generation"), Some(&1.0));
        let until = sum(&samples, "doorward_certificate_expiry_timestamp_seconds", "portal.crt");
        let days = 86_400.0 * 90.0;
        let issued = std::fs::metadata(stage.pki.folder.join("portal.crt")).expect("a file").modified().expect("a time");
        let issued = issued.duration_since(std::time::UNIX_EPOCH).expect("later").as_secs_f64();
        assert!((until - issued - days).abs() < 3600.0, "{until} is 90 days after {issued}");
        assert!(sum(&samples, "doorward_crl_expiry_timestamp_seconds", "acme-ca.crl") > issued);
    });
}

#[test]
fn counters_move_with_what_happens() {
    let limited = "  [[site.route]]\n  path = \"/reports\"\n  upstream = \"portal\"\n  bots = \"any\"\n  limits = [\"slow\"]\n\
        [limit.slow]\nkey = \"client\"\nrate = \"1/h\"\nburst = 2\n[limit.dark]\nkey = \"client\"\nrate = \"1/h\"\nburst = 1\n\
        mode = \"shadow\"\n";
    let stage = open(&format!("{}{limited}", open_house()).replace("limits = [\"slow\"]", "limits = [\"slow\", \"dark\"]"));
    run(async {
        let visitor = Visitor::new(&stage, [10, 1]);
        for _ in 0..4 {
            visitor.get("/reports/1").await.expect("an answer");
        }
        visitor.send(browser("POST", "/echo"), vec![b'x'; 5000]).await.expect("an answer");
        for guess in 0..7 {
            visitor.sign_in("alice", &format!("wrong-{guess}")).await.expect("an answer");
        }
        told(&stage, &["bans", "lift", "127.0.10.1"]);
        let mut tcp = visitor.tcp(stage.https()).await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET / HTTP/1.1\r\n\r\n").await.expect("writable");
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut Vec::new()).await;
        visitor.raw(b"NONSENSE\r\n\r\n").await.expect("some answer");
        rewrite(&stage, |text| text.replace("path = \"/reports\"", "path = \"reports\""));
        rewrite(&stage, |text| text.replace("path = \"reports\"", "path = \"/reports\""));

        let (_, samples) = metrics(&stage).await;
        for (name, label, least) in [
            ("doorward_requests_total", "route=\"localhost/reports\",class=\"2xx\"", 2.0),
            ("doorward_requests_total", "route=\"localhost/reports\",class=\"4xx\"", 2.0),
            ("doorward_requests_total", "route=\"localhost/\",class=\"3xx\"", 5.0),
            ("doorward_request_duration_seconds_count", "route=\"localhost/reports\"", 4.0),
            ("doorward_request_duration_seconds_bucket", "le=\"+Inf\",route=\"localhost/reports\"", 4.0),
            ("doorward_denials_total", "rate-limited", 2.0),
            ("doorward_denials_total", "banned", 1.0),
            ("doorward_bytes_in_total", "", 5000.0),
            ("doorward_bytes_out_total", "", 1000.0),
            ("doorward_guesses_total", "outcome=\"failed\"", 5.0),
            ("doorward_bans_made_total", "", 1.0),
            ("doorward_bans_lifted_total", "", 1.0),
            ("doorward_limit_shadowed_total", "limit=\"dark\"", 1.0),
            ("doorward_handshake_failures_total", "", 1.0),
            ("doorward_protocol_errors_total", "", 1.0),
            ("doorward_reload_failures_total", "", 1.0),
            ("doorward_config_generation", "", 2.0),
        ] {
            let value = sum(&samples, name, label);
            assert!(value >= least, "{name}{{{label}}} is {value}, not {least} or more");
        }
        assert_eq!(sum(&samples, "doorward_requests_total", "route=\"localhost/reports\",class=\"2xx\""), 2.0, "and not more");
    });
}

#[test]
fn labels_are_bounded_no_address_path_host_account_or_token_ever_appears() {
    let stage = open(&open_house());
    run(async {
        let before = metrics(&stage).await.1;
        let visitor = Visitor::new(&stage, [10, 2]);
        for odd in 0..30 {
            visitor.get(&format!("/zebra-{odd}?secret=zebra")).await.expect("an answer");
            visitor.send(browser("GET", "/").header("host", format!("zebra{odd}.example")), "").await.expect("an answer");
            visitor.send(browser(&format!("ZEBRA{odd}"), "/"), "").await.expect("an answer");
            Visitor::new(&stage, [10, 100 + odd]).sign_in(&format!("zebra-{odd}"), "zebra").await.expect("an answer");
        }
        let bot = browser("GET", "/").header("doorward-approval", "zebra").header("user-agent", "zebra/1");
        visitor.send(bot, "").await.expect("an answer");
        visitor.get("/%7Ezebra/..%2f").await.expect("an answer");
        let _ = visitor.clone().named("zebra.example").tls().await;
        let _ = visitor.clone().with("foreign").get("/").await;
        told(&stage, &["bans", "add", "account:zebra"]);
        told(&stage, &["bans", "add", "203.0.113.0/24", "--reason", "zebra"]);
        let text = probe(at(&stage), "/metrics").await.expect("metrics").1;
        for word in ["zebra", "127.0.10", "203.0.113", "secret", "ZEBRA"] {
            assert!(!text.contains(word), "{word} in the metrics");
        }
        let after = parse(&text).1;
        // Causes and outcomes are closed sets; the rest is as it was.
        assert!(after.len() <= before.len() + 24, "{} series became {}", before.len(), after.len());
    });
}

#[test]
fn series_of_routes_and_files_that_are_gone_go_with_the_reload() {
    let more = "  [[site.route]]\n  path = \"/reports\"\n  upstream = \"portal\"\n  bots = \"any\"\n";
    let stage = open(&format!("{}{more}", open_house()));
    run(async {
        Visitor::new(&stage, [10, 3]).get("/reports/1").await.expect("an answer");
        for name in ["portal.crt", "portal.key"] {
            std::fs::copy(stage.pki.folder.join(name), stage.folder.path().join(name)).expect("a copy");
        }
        let reload = rewrite(&stage, |text| {
            let (old, new) = (stage.pki.folder.join("portal"), stage.folder.path().join("portal"));
            text.replace(more, "").replace(&old.display().to_string(), &new.display().to_string())
        });
        assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
        let text = probe(at(&stage), "/metrics").await.expect("metrics").1;
        assert!(!text.contains("localhost/reports"), "the route is gone");
        assert!(!text.contains("certs/portal.crt"), "the file is gone");
        assert!(text.contains(&stage.folder.path().join("portal.crt").display().to_string()), "the new one is there");
    });
}

#[test]
fn probes_say_what_they_should_and_take_no_orders() {
    let stage = open(&open_house());
    run(async {
        for (path, status, body) in [
            ("/livez", 200, "ok\n"),
            ("/readyz", 200, "ok\n"),
            ("/livez?verbose", 200, "[+]process ok\nlivez check passed\n"),
            ("/readyz?verbose", 200, "[+]accepting ok\nreadyz check passed\n"),
            ("/bans", 404, "/metrics /livez /readyz\n"),
            ("/status", 404, "/metrics /livez /readyz\n"),
        ] {
            assert_eq!(probe(at(&stage), path).await, Some((status, body.to_owned())), "{path}");
        }
        for method in ["POST", "PUT", "DELETE"] {
            let mut stream = tokio::net::TcpStream::connect(at(&stage)).await.expect("a connection");
            let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("writable");
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{method}: {answer}");
        }
        let public = Visitor::new(&stage, [10, 4]).get("/metrics").await.expect("an answer");
        assert!(!String::from_utf8_lossy(&public.body).contains("doorward_"), "not at the public door");
    });
    assert!(doorward(&stage, &["status"]).status.success());
}
