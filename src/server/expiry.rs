//! Certificates and lists of revocations that near their end: warned of when they are read, and told once each while they serve.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::admin::times;
use crate::config::{Config, Diagnostic, Span};
use crate::events::Event;
use crate::tls::FileExpiry;

/// A certificate is near its end from here on, or in the last quarter of a life that is shorter than eight weeks.
const NEAR: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What was told: a file and the end that it had.
#[derive(Debug, Default)]
pub struct Told(HashSet<(PathBuf, Timestamp)>);

impl Told {
    /// The files near or past their end that were not told yet. A file that got a new end, or is gone, is forgotten.
    pub fn due(&mut self, files: Vec<FileExpiry>, wall: Timestamp) -> Vec<FileExpiry> {
        let near: HashMap<_, _> =
            files.into_iter().filter(|file| is_near(file, wall)).map(|file| ((file.path.clone(), file.until), file)).collect();
        let before = std::mem::replace(&mut self.0, near.keys().cloned().collect());
        near.into_iter().filter(|(key, _)| !before.contains(key)).map(|(_, file)| file).collect()
    }
}

/// The event of a file that is due.
pub fn event(file: FileExpiry) -> Event {
    let FileExpiry { kind, path, until, .. } = file;
    if kind == "crl" { Event::CrlExpiring { path, at: until } } else { Event::CertificateExpiring { kind, path, at: until } }
}

/// What `check`, a start and a reload warn of: every file past its end, and certificates near it. A list of revocations is often
/// replaced late in its life, so that only its event tells of that.
pub fn warnings(config: &Config, files: Vec<FileExpiry>, wall: Timestamp) -> Vec<Diagnostic> {
    let mut warned = HashSet::new();
    files
        .into_iter()
        .filter(|file| wall >= file.until || (file.kind != "crl" && is_near(file, wall)))
        .filter(|file| warned.insert((file.path.clone(), file.until)))
        .map(|file| {
            let ends = if wall >= file.until { "expired" } else { "expires" };
            let told = format!("{} {ends} on {}", file.path.display(), times::stamp(file.until));
            Diagnostic::warning(told, &place(config, &file.path)).help(match file.kind {
                "crl" => "fetch the next one: until then no certificate of its CA holds",
                "client-ca" => "replace it: once it has expired, no certificate that it vouches for holds",
                _ => "renew it: it is shown all the same, and refused by who looks at its end",
            })
        })
        .collect()
}

fn is_near(file: &FileExpiry, wall: Timestamp) -> bool {
    let life = file.until.duration_since(file.since);
    let before = if file.kind == "crl" { life / 2 } else { NEAR.min(life / 4) };
    file.until.duration_since(wall) <= before
}

/// Where the config names a file.
fn place(config: &Config, path: &Path) -> Span {
    let shown = config.upstreams.iter().filter_map(|upstream| upstream.client_certificate.as_ref());
    let chains = config.tls.certificates.iter().chain(shown).map(|files| &files.chain);
    let sets = config.client_cas.iter().flat_map(|set| set.roots.iter().chain(&set.crls));
    chains.chain(sets).find(|file| file.value == path).map(|file| file.span.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn file(kind: &'static str, until: &str) -> FileExpiry {
        FileExpiry { kind, path: format!("acme.{kind}").into(), since: at("2026-06-01T00:00:00Z"), until: at(until) }
    }

    fn told(files: Vec<FileExpiry>) -> Vec<(String, Timestamp)> {
        files.into_iter().map(|file| (file.path.display().to_string(), file.until)).collect()
    }

    #[test]
    fn trap_crl_expiry_is_told_past_half_of_its_life_once_for_each_file_and_end() {
        let files = || vec![file("crl", "2026-07-01T00:00:00Z"), file("certificate", "2026-12-01T00:00:00Z")];
        let mut due = Told::default();
        assert_eq!(told(due.due(files(), at("2026-06-15T23:59:59Z"))), []);
        let crl = ("acme.crl".to_owned(), at("2026-07-01T00:00:00Z"));
        assert_eq!(told(due.due(files(), at("2026-06-16T00:00:00Z"))), [crl]);
        assert_eq!(told(due.due(files(), at("2026-06-20T00:00:00Z"))), [], "told already");
        let renewed = || vec![file("crl", "2026-07-31T00:00:00Z")];
        assert_eq!(told(due.due(renewed(), at("2026-06-20T00:00:00Z"))), []);
        assert_eq!(told(due.due(renewed(), at("2026-07-02T00:00:00Z"))).len(), 1);
    }

    #[test]
    fn a_certificate_is_told_two_weeks_before_its_end_and_a_short_lived_one_in_its_last_quarter() {
        let (mut due, year) = (Told::default(), || vec![file("certificate", "2027-06-01T00:00:00Z")]);
        assert_eq!(told(due.due(year(), at("2027-05-17T23:59:59Z"))), []);
        assert_eq!(told(due.due(year(), at("2027-05-18T00:00:00Z"))).len(), 1);
        assert_eq!(told(due.due(year(), at("2027-06-02T00:00:00Z"))), [], "told already");
        let week = || vec![file("client-ca", "2026-06-09T00:00:00Z")];
        assert_eq!(told(due.due(week(), at("2026-06-06T23:59:59Z"))), []);
        assert_eq!(told(due.due(week(), at("2026-06-07T00:00:00Z"))).len(), 1);
    }

    #[test]
    fn a_file_that_serves_twice_is_warned_of_once_and_a_list_only_past_its_end() {
        let config = config();
        let files = || vec![file("certificate", "2026-07-01T00:00:00Z"), file("certificate", "2026-07-01T00:00:00Z")];
        let said = |files, wall| warnings(&config, files, at(wall)).into_iter().map(|one| one.message).collect::<Vec<_>>();
        assert_eq!(said(files(), "2026-06-20T00:00:00Z"), [] as [&str; 0]);
        assert_eq!(said(files(), "2026-06-30T00:00:00Z"), ["acme.certificate expires on 2026-07-01T00:00:00Z"]);
        assert_eq!(said(files(), "2026-07-01T00:00:00Z"), ["acme.certificate expired on 2026-07-01T00:00:00Z"]);
        let list = || vec![file("crl", "2026-07-01T00:00:00Z")];
        assert_eq!(said(list(), "2026-06-30T00:00:00Z"), [] as [&str; 0]);
        assert_eq!(said(list(), "2026-07-01T00:00:00Z"), ["acme.crl expired on 2026-07-01T00:00:00Z"]);
    }

    fn config() -> Config {
        let text = "[[tls.certificate]]\nchain = \"a.crt\"\nkey = \"a.key\"\n[upstream.portal]\nservers = [\"http://127.0.0.1:9\"]\n\
            [[site]]\nhosts = [\"localhost\"]\n[[site.route]]\npath = \"/\"\nupstream = \"portal\"\n";
        crate::config::compile_str("test.toml".as_ref(), text.to_owned()).unwrap_or_else(|_| panic!("a good config")).0
    }
}
