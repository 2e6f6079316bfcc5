//! Client certificates of every bad and odd kind: each has its exact cause in the event and its exact alert, over TLS 1.2 and
//! 1.3, where a certificate is required and where it is optional. Lists too large or malformed never replace a good one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::SupportedProtocolVersion;
use serde_json::Value;

use crate::common::Door;
use crate::common::certs::forge::*;
use crate::common::certs::{Case, Holds, table, talk, told, wanted};
use crate::support::{BASE, OPEN_SITE, Stage, Visitor, doorward, event, open, run};

/// No handshake and no event takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn every_client_certificate_has_its_exact_cause_and_alert() {
    let (worlds, cases, key) = table();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let base = BASE.to_owned();
    let mut stage = Stage::open(crate::support::NAMES, |certs, state, portal| {
        let worlds: String = worlds.iter().map(|world| world.write(certs)).collect();
        base.replace("{certs}", &certs.display().to_string())
            .replace("{state}", &state.display().to_string())
            .replace("{portal}", &portal.to_string())
            + &worlds
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let differing = run(async {
        let mut differing = Vec::new();
        for (at, case) in cases.iter().enumerate() {
            for (version, combination) in [(&rustls::version::TLS12, 0), (&rustls::version::TLS13, 1)] {
                for (prefix, required) in [("r", true), ("o", false)] {
                    let source = Ipv4Addr::new(127, 2 + combination, u8::from(required), u8::try_from(at).unwrap());
                    let host = format!("{prefix}-{}.tenants.localhost", case.world);
                    let seen = visit(&mut stage, source, &host, version, case, &key, required).await;
                    let wanted = wanted(case.expected, required);
                    if seen != wanted {
                        differing.push(format!(
                            "{} / {} ({prefix}, {version:?}):\n  wanted {wanted}\n  saw    {seen}",
                            case.world, case.name
                        ));
                    }
                }
            }
        }
        differing
    });
    assert!(differing.is_empty(), "{} of {} differ\n{}", differing.len(), cases.len() * 4, differing.join("\n"));
}

/// What one client saw, and the cause that the event of it names.
async fn visit(
    stage: &mut Stage,
    source: Ipv4Addr,
    host: &str,
    version: &'static SupportedProtocolVersion,
    case: &Case,
    key: &KeyPair,
    required: bool,
) -> String {
    let door = Door { https: stage.https(), roots: stage.pki.folder.join("server-ca.pem") };
    let speak = !required || matches!(case.expected, Holds);
    let outcome = tokio::time::timeout(PATIENCE, talk(&door, source, host, version, case, key, speak)).await;
    let mut seen = match outcome {
        Err(_) => "nothing".to_owned(),
        Ok(Ok(answer)) => told(&answer),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
            _ => format!("{error:?}"),
        },
    };
    // Let in, so nothing is told of it.
    if seen == "200" || seen == "nothing" {
        return seen;
    }
    match refusal(stage, source).await {
        None => seen.push_str(", no event"),
        Some(event) => {
            let place = if event["in_handshake"] == true { " in the handshake" } else { "" };
            let _ = write!(seen, ", {}{place}", event["cause"].as_str().unwrap_or("?"));
        }
    }
    seen
}

/// The event of this client's refused certificate.
async fn refusal(stage: &mut Stage, source: Ipv4Addr) -> Option<Value> {
    let source = source.to_string();
    loop {
        let line = tokio::time::timeout(PATIENCE, stage.events.recv()).await.ok()??;
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "certificate.refused" && event["client"] == source.as_str() {
            return Some(event);
        }
    }
}

/// Lists that cannot be used, on a live gateway: each reload is refused with the file's name, and the old list stays in force.
#[test]
fn trap_hostile_crl_on_reload_leaves_the_old_one_in_force_and_says_so() {
    let site = OPEN_SITE.replace("hosts", "client_ca = \"acme\"\nhosts").replace("bots", "client_cert = \"required\"\n  bots");
    let mut stage = open(&format!("{BASE}{site}"));
    let path = crate::support::cert(&stage, "acme-ca.crl");
    let good = std::fs::read(&path).unwrap();
    let key = KeyPair::generate().unwrap();
    let list = |edit: fn(List) -> List| edit(List::of("Acme client CA", &[])).signed(&key);
    let text = |der: Vec<u8>| pem("X509 CRL", &der).into_bytes();
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    let unknown = extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, &[5, 0]);
    let bad: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("an empty file", Vec::new()),
        ("no list at all", b"hello\n".to_vec()),
        ("a web page", b"<!doctype html><title>504</title>".to_vec()),
        ("cut in the middle", cut),
        ("a good list and half of the next", [&good[..], &good[..good.len() / 2]].concat()),
        ("a certificate", std::fs::read(crate::support::cert(&stage, "acme-ca.pem")).unwrap()),
        ("DER that ends early", b"\x30\x84\x7f\xff\xff\xff".to_vec()),
        ("DER of no definite length", text(b"\x30\x80\x00\x00".to_vec())),
        ("nothing but nesting", text([0x30, 0x82, 0x7f, 0xff].repeat(8192))),
        ("version 1", text(list(|list| list.with(|list| list.version = None)))),
        ("no nextUpdate", text(list(|list| list.with(|list| list.until = None)))),
        ("a delta list", text(list(|list| list.extended(extension(&[2, 5, 29, 27], true, &tlv(2, &[1])))))),
        ("an indirect list", text(list(|list| list.extended(scope(&[0x84, 1, 0xff]))))),
        ("some reasons only", text(list(|list| list.extended(scope(&[0x83, 2, 6, 0x40]))))),
        ("an unknown critical extension", {
            let signed = List::of("Acme client CA", &[]).extended(unknown.clone());
            text(signed.signed(&key))
        }),
        ("an unknown critical extension in an entry", {
            text(List::of("Acme client CA", &[]).with(|list| list.revoked = vec![(66, unknown)]).signed(&key))
        }),
    ]);
    run(async {
        for (what, bytes) in &bad {
            replace(&path, |file| std::io::Write::write_all(file, bytes).unwrap());
            refused_reload(&mut stage, what).await;
        }
        // A file of holes: nobody writes 65 MiB for a test.
        replace(&path, |file| file.set_len(65 << 20).unwrap());
        let told = refused_reload(&mut stage, "65 MiB").await;
        assert!(told.contains("larger than 64 MiB"), "{told}");
        std::fs::remove_file(&path).unwrap();
        refused_reload(&mut stage, "no file").await;

        // Large, but a list: 40,000 entries take over, and time is not lost.
        let serials: Vec<u64> = (1000..41_000).chain([10]).collect();
        let list = stage.pki.acme.crl(9, &serials, 30).unwrap();
        replace(&path, |file| std::io::Write::write_all(file, list.as_bytes()).unwrap());
        assert!(doorward(&stage, &["reload"]).status.success());
        let answer = Visitor::new(&stage, [9, 9]).with("good").get("/").await.unwrap();
        assert_eq!(answer.told(), "403 revoked", "the new list is in force");
    });
}

/// By rename, as renewal tools do.
fn replace(path: &std::path::Path, write: impl FnOnce(&mut std::fs::File)) {
    let next = path.with_extension("next");
    write(&mut std::fs::File::create(&next).unwrap());
    std::fs::rename(next, path).unwrap();
}

/// What the reload said, once the event told it and the old list is shown to hold.
async fn refused_reload(stage: &mut Stage, what: &str) -> String {
    let reloaded = doorward(stage, &["reload"]);
    assert_eq!(reloaded.status.code(), Some(78), "{what}");
    let told = String::from_utf8_lossy(&reloaded.stderr).into_owned();
    assert!(told.contains("acme-ca.crl"), "{what}: {told}");
    let event = event(stage, &["config.refused", "acme-ca.crl"]).await;
    assert!(event.contains("\"errors\""), "{what}: {event}");
    for (certificate, expected) in [("good", "200"), ("revoked", "403 revoked")] {
        let answer = Visitor::new(stage, [1, 1]).with(certificate).get("/").await.unwrap();
        assert_eq!(answer.told(), expected, "{what}: {certificate}");
    }
    told
}
