use std::os::unix::fs::PermissionsExt;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::config::{LogFormat, LogTarget};

pub(super) fn record() -> RequestRecord {
    RequestRecord {
        decision: DecisionId(0xabc),
        at: "2026-03-04T05:06:07.123456Z".parse().unwrap(),
        generation: 3,
        client: [203, 0, 113, 7].into(),
        peer: [10, 0, 0, 1].into(),
        method: http::Method::GET,
        host: Some("portal.example.com".into()),
        target: Some(PathAndQuery::from_static("/orders/17?token=secret")),
        version: http::Version::HTTP_2,
        route: Some((RouteId(1), "portal.example.com/orders".into())),
        status: 403,
        reason: Some(Reason::Banned),
        cause: Some("guesses".into()),
        identity: Some("acme:sync job".into()),
        approval: None,
        bot: None,
        upstream: None,
        tls: Some("TLSv1.3"),
        bytes_in: 5,
        bytes_out: 321,
        took: Duration::from_micros(1500),
        cut: false,
        user_agent: HeaderValue::from_bytes(b"curl/8 \"x\"\xff\t").ok(),
        referer: None,
    }
}

fn json(event: &Event) -> String {
    let mut line = Vec::new();
    format::json_event(event, "2026-03-04T05:06:07Z".parse().unwrap(), &mut line);
    String::from_utf8(line).unwrap()
}

fn json_request(record: &RequestRecord) -> String {
    let mut line = Vec::new();
    format::json_request(record, &mut format::Stamp::default(), &mut line);
    String::from_utf8(line).unwrap()
}

fn combined(record: &RequestRecord) -> String {
    let mut line = Vec::new();
    format::combined(record, &mut line);
    String::from_utf8(line).unwrap()
}

fn to_files(access: &std::path::Path, events: &std::path::Path) -> Log {
    Log { access: LogTarget::File(access.to_owned()), format: LogFormat::Json, events: LogTarget::File(events.to_owned()) }
}

#[test]
fn a_request_line_has_stable_keys_in_a_stable_order() {
    assert_eq!(
        json_request(&record()),
        concat!(
            r#"{"time":"2026-03-04T05:06:07.123Z","event":"request","severity":"notice","clauses":["O11"],"#,
            r#""decision":"00000000000000000000000000000abc","generation":3,"client":"203.0.113.7","peer":"10.0.0.1","#,
            r#""method":"GET","host":"portal.example.com","path":"/orders/17","protocol":"HTTP/2.0","route":"portal.example.com/orders","#,
            r#""status":403,"reason":"banned","cause":"guesses","identity":"acme:sync job","tls":"TLSv1.3","bytes_in":5,"bytes_out":321,"#,
            r#""duration_seconds":0.0015,"cut":false,"user_agent":"curl/8 \"x\""#,
            "\u{fffd}",
            r#"\t"}"#,
            "\n",
        )
    );
}

#[test]
fn a_ban_line_says_who_for_how_long_and_which_clauses() {
    let ban = Ban {
        key: BanKey::Net("203.0.113.7/32".parse::<IpNet>().unwrap()),
        reason: "guesses spent".to_owned(),
        count: 2,
        failures: 5,
        since: "2026-03-04T05:06:07Z".parse().unwrap(),
        until: Timestamp::MAX,
        by: "guesses".to_owned(),
    };
    assert_eq!(
        json(&Event::BanMade { ban, durable: true }),
        concat!(
            r#"{"time":"2026-03-04T05:06:07.000Z","event":"ban.made","severity":"warning","clauses":["O11","O16"],"key":"203.0.113.7","#,
            r#""reason":"guesses spent","count":2,"failures":5,"since":"2026-03-04T05:06:07.000Z","until":"forever","by":"guesses","#,
            "\"durable\":true}\n",
        )
    );
}

#[test]
fn combined_is_apaches_to_the_byte() {
    let mut record = record();
    assert_eq!(
        combined(&record),
        "203.0.113.7 - acme:sync\\x20job [04/Mar/2026:05:06:07 +0000] \"GET /orders/17 HTTP/2.0\" 403 321 \"-\" \
         \"curl/8 \\\"x\\\"\\xef\\xbf\\xbd\\x09\"\n"
    );
    record.identity = None;
    record.status = 0;
    record.bytes_out = 0;
    record.version = http::Version::HTTP_11;
    record.referer = HeaderValue::from_bytes("https://portal.example.com/\u{9b}1m?token=secret".as_bytes()).ok();
    record.user_agent = None;
    assert_eq!(
        combined(&record),
        "203.0.113.7 - - [04/Mar/2026:05:06:07 +0000] \"GET /orders/17 HTTP/1.1\" 499 - \
         \"https://portal.example.com/\\xc2\\x9b1m\" \"-\"\n"
    );
}

#[test]
fn hostile_text_is_capped_and_stays_on_its_line() {
    let mut record = record();
    record.target = format!("/{}", "ä".repeat(4000)).try_into().ok();
    record.user_agent = HeaderValue::from_bytes("\u{202e}\u{9b}31m {\"event\":\"ban.lifted\"}".as_bytes()).ok();
    record.cause = Some("\u{7f}\r\n{\"event\":\"ban.lifted\"}".into());
    let line = json_request(&record);
    assert_eq!(line.matches('\n').count(), 1);
    assert!(!line.contains(['\u{9b}', '\u{202e}', '\u{7f}']));
    assert!(line.len() < 4096, "{}", line.len());
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["event"], "request");
    assert!(combined(&record).len() < 16 * 1024);
    assert_eq!(combined(&record).matches('\n').count(), 1);
}

#[test]
fn arrays_of_handles_are_indexed_in_order_of_declaration() {
    assert!(Reason::ALL.iter().enumerate().all(|(index, reason)| *reason as usize == index));
    assert!(ConnectionCause::ALL.iter().enumerate().all(|(index, cause)| *cause as usize == index));
    assert!(GuessScope::ALL.iter().enumerate().all(|(index, scope)| *scope as usize == index));
}

#[test]
fn names_that_lines_take_as_they_are_need_no_escapes() {
    let reasons = Reason::ALL.iter().flat_map(|reason| reason.clauses().iter().copied().chain([reason.code()]));
    let bots = crate::policy::bot::BotClass::ALL.map(|class| class.as_str());
    for word in reasons.chain(bots) {
        assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{word}\""));
    }
}

#[test]
fn requests_count_on_their_route_across_generations() {
    let events = Events::sink();
    let metrics = events.metrics();
    let (orders, home): (Name, Name) = ("portal.example.com/orders".into(), "portal.example.com/".into());
    metrics.routes(3, &[home.clone(), orders.clone()]);
    events.request(&record());
    metrics.routes(4, std::slice::from_ref(&orders));
    events.request(&record());
    events.request(&RequestRecord { route: Some((RouteId(0), home)), status: 0, ..record() });
    let text = metrics.render();
    assert!(text.contains("doorward_requests_total{route=\"portal.example.com/orders\",class=\"4xx\"} 2\n"), "{text}");
    assert!(text.contains("doorward_requests_total{route=\"-\",class=\"none\"} 1\n"), "{text}");
    assert!(!text.contains("route=\"portal.example.com/\""), "{text}");
    assert!(text.contains("doorward_denials_total{reason=\"banned\"} 3\n"), "{text}");
    assert!(text.contains("doorward_bytes_out_total 963\n"), "{text}");
    assert!(text.contains("doorward_request_duration_seconds_count{route=\"portal.example.com/orders\"} 2\n"), "{text}");
}

#[test]
fn no_metric_ever_carries_an_address_a_path_or_a_user() {
    let events = Events::sink();
    events.metrics().routes(3, &["a/".into(), "b/".into()]);
    events.request(&record());
    let client = ClientAddr::new([203, 0, 113, 7].into(), 64);
    events.emit(Event::LoginAttempt {
        decision: DecisionId(1),
        client,
        account: "alice".into(),
        identity: None,
        outcome: LoginOutcome::Failed,
        repeat: false,
        late: false,
    });
    events.emit(Event::GuessRefused { decision: DecisionId(1), client, account: "alice".into(), scope: GuessScope::Account });
    events.emit(Event::ConnectionRefused { peer: client.ip, client: None, cause: ConnectionCause::Banned });
    events.emit(Event::CertificateRefused {
        client: client.ip,
        site: "portal.example.com".to_owned(),
        subject: "CN=alice".to_owned(),
        issuer: "CN=nobody".to_owned(),
        cause: CertCause::Expired,
        in_handshake: true,
    });
    let text = events.metrics().render();
    for secret in ["203.0.113", "10.0.0.1", "alice", "/orders/17", "curl", "acme"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("doorward_guesses_total{outcome=\"failed\"} 1\n"), "{text}");
    assert!(text.contains("doorward_guesses_refused_total{scope=\"account\"} 1\n"), "{text}");
    assert!(text.contains("doorward_connections_refused_total{cause=\"banned\"} 1\n"), "{text}");
    assert!(text.contains("doorward_build_info{version="), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn gauges_follow_what_they_are_told() {
    let events = Events::sink();
    let metrics = events.metrics();
    metrics.table("bans", 12);
    metrics.expiry("crl", "certs/acme.crl", 1_800_000_000);
    metrics.expiry("certificate", "certs/old.crt", 1);
    metrics.forget_files();
    metrics.expiry("certificate", "certs/portal.crt", 1_900_000_000);
    events.emit(Event::Started { generation: 1, version: "0.1.0" });
    events.emit(Event::UpstreamState {
        upstream: "portal".into(),
        server: "http://a:1".into(),
        healthy: true,
        cause: String::new(),
    });
    events.emit(Event::UpstreamState {
        upstream: "portal".into(),
        server: "http://b:1".into(),
        healthy: true,
        cause: String::new(),
    });
    metrics.forget_server("portal", "http://b:1");
    let text = metrics.render();
    for line in [
        "doorward_bans_live 12",
        "doorward_table_entries{table=\"bans\"} 12",
        "doorward_certificate_expiry_timestamp_seconds{file=\"certs/portal.crt\"} 1900000000",
        "doorward_config_generation 1",
        "doorward_upstream_up{upstream=\"portal\",server=\"http://a:1\"} 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} not in {text}");
    }
    assert!(!text.contains("old.crt") && !text.contains("acme.crl") && !text.contains("http://b:1"), "{text}");
}

#[test]
fn a_tap_hears_requests_and_events_of_every_clone() {
    let (tap, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let events = Events::sink().with_tap(tap);
    events.clone().request(&record());
    events.emit(Event::Stopped { cut: 2 });
    events.flush(Duration::from_secs(10));
    assert!(lines.try_recv().unwrap().contains("\"event\":\"request\""));
    assert!(lines.try_recv().unwrap().contains("\"event\":\"gateway.stopped\""));
}

#[test]
fn logs_are_files_that_others_cannot_read_and_survive_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let (access, security) = (folder.path().join("access.log"), folder.path().join("events.log"));
    let events = Events::open(&to_files(&access, &security)).unwrap();
    let deadline = Duration::from_secs(10);
    events.request(&record());
    events.emit(Event::Stopped { cut: 0 });
    events.flush(deadline);
    assert_eq!(std::fs::read_to_string(&access).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_to_string(&security).unwrap().lines().count(), 1);
    assert_eq!(std::fs::metadata(&access).unwrap().permissions().mode() & 0o137, 0);

    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&access, &rotated).unwrap();
    events.reopen();
    events.request(&record());
    events.flush(deadline);
    assert_eq!(std::fs::read_to_string(&access).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_to_string(&rotated).unwrap().lines().count(), 1);
}

#[test]
fn a_log_that_cannot_be_opened_is_named_and_the_old_one_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let (access, other) = (folder.path().join("access.log"), folder.path().join("other.log"));
    let events = Events::open(&to_files(&access, &access)).unwrap();
    let missing = folder.path().join("missing/access.log");
    let error = events.reconfigure(&to_files(&missing, &access)).unwrap_err();
    assert!(events.metrics().render().contains("doorward_log_write_errors_total 1\n"));
    assert!(error.to_string().contains("missing/access.log"), "{error}");
    events.emit(Event::Stopped { cut: 0 });
    events.reconfigure(&Log { format: LogFormat::Combined, ..to_files(&other, &other) }).unwrap();
    events.request(&record());
    events.flush(Duration::from_secs(10));
    assert_eq!(std::fs::read_to_string(&access).unwrap().lines().count(), 1);
    assert!(std::fs::read_to_string(&other).unwrap().starts_with("203.0.113.7 - "));
}

#[test]
fn decision_ids_are_unique_and_in_order_of_time() {
    let at = |seconds| DecisionId::fresh(Timestamp::from_second(seconds).unwrap());
    let ids = [at(100), at(100), at(200), at(300)];
    assert_ne!(ids[0], ids[1], "of one millisecond: in no order, and two");
    assert!(ids[1..].iter().zip(&ids[2..]).all(|(earlier, later)| earlier.0 < later.0));
    assert_eq!(ids[0].to_string().len(), 32);
}

#[test]
fn a_table_that_overflows_says_by_how_many_keys() {
    let events = Events::sink();
    for keys in [5, 2] {
        events.emit(Event::TableOverflow { table: "limits", keys, into: "one bucket for a /24 or /48".to_owned() });
    }
    let text = events.metrics().render();
    assert!(text.contains("doorward_table_overflow_total{table=\"limits\"} 7"), "{text}");
}

/// What nobody would leave out of a test, and anything else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,40}", "[\\x00-\\x1f\"\\\\\\x7f-\\x{a0}\\x{2028}-\\x{202e}a]{0,20}", "\\PC{0,60}", "(aé\u{ffff}){0,300}"]
}

/// As serde_json writes it, after what hides on a terminal is replaced.
fn as_serde_writes(text: &str) -> String {
    let capped = &text[..text.floor_char_boundary(1024)];
    let hidden = |c: char| c >= '\u{7f}' && c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    serde_json::to_string(&capped.replace(hidden, "\u{fffd}")).unwrap()
}

proptest! {
    #[test]
    fn a_request_line_is_what_a_serializer_would_write(
        (texts, bytes) in (prop::array::uniform3(text()), prop::collection::vec(0u8..=255, 0..1100)),
        (millis, numbers, micros) in (-100_000_000_000i64..4_000_000_000_000, any::<[u64; 3]>(), 0u64..1 << 40),
        addresses in any::<[IpAddr; 2]>(),
        cut in any::<bool>(),
    ) {
        let [route, cause, identity] = texts;
        let record = RequestRecord {
            at: Timestamp::from_millisecond(millis).unwrap(),
            decision: DecisionId(u128::from(numbers[0]) << 64 | u128::from(numbers[1])),
            generation: numbers[0],
            client: addresses[0],
            peer: addresses[1],
            route: Some((RouteId(0), route.as_str().into())),
            cause: Some(cause.clone().into()),
            identity: Some(identity.as_str().into()),
            bytes_in: numbers[1],
            bytes_out: numbers[2],
            took: Duration::from_micros(micros),
            cut,
            user_agent: HeaderValue::from_bytes(&bytes).ok(),
            ..record()
        };
        let line = json_request(&record);
        let (mut stamp, mut after) = (format::Stamp::default(), Vec::new());
        format::json_request(&self::record(), &mut stamp, &mut after);
        after.clear();
        format::json_request(&record, &mut stamp, &mut after);
        prop_assert_eq!(&after, line.as_bytes());
        let mut expected = vec![
            format!("\"time\":\"{:.3}\"", record.at),
            format!("\"decision\":\"{:032x}\",\"generation\":{}", record.decision.0, numbers[0]),
            format!("\"client\":\"{}\",\"peer\":\"{}\"", addresses[0], addresses[1]),
            format!("\"route\":{},\"status\"", as_serde_writes(&route)),
            format!("\"cause\":{},\"identity\":{},\"tls\"", as_serde_writes(&cause), as_serde_writes(&identity)),
            format!("\"bytes_in\":{},\"bytes_out\":{},", numbers[1], numbers[2]),
            format!("\"cut\":{cut}"),
        ];
        if record.user_agent.is_some() {
            expected.push(format!("\"user_agent\":{}}}", as_serde_writes(&String::from_utf8_lossy(&bytes[..bytes.len().min(1028)]))));
        }
        for part in expected {
            prop_assert!(line.contains(&part), "{} in {}", part, line);
        }
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value["duration_seconds"].as_f64(), Some(micros as f64 / 1e6));
        prop_assert_eq!(line.matches('\n').count(), 1);
    }
}

#[test]
fn ids_are_unique_and_do_not_count_the_traffic_aloud() {
    let ids: Vec<u128> = (0..20_000).map(|_| DecisionId::fresh(Timestamp::UNIX_EPOCH).0).collect();
    let unique: std::collections::HashSet<u128> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len());
    let neighbours = ids.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count();
    assert!(neighbours <= 2, "{neighbours} of {} ids stand beside the one before", ids.len());
    assert!(ids.iter().all(|id| id >> 80 == 0), "the milliseconds keep their place");
}
