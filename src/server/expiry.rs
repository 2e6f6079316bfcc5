//! Lists of revocations that near their end: told once each.

use std::collections::HashSet;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::tls::FileExpiry;

/// What was told: a file and the end that it had.
#[derive(Debug, Default)]
pub struct Told(HashSet<(PathBuf, Timestamp)>);

impl Told {
    /// The lists past half of their life that were not told yet, each with its end. A file that got a new end, or is gone, is
    /// forgotten.
    pub fn due(&mut self, files: Vec<FileExpiry>, wall: Timestamp) -> Vec<(PathBuf, Timestamp)> {
        let half = |file: &FileExpiry| file.since + (file.until.duration_since(file.since) / 2);
        let expiring = files.into_iter().filter(|file| file.kind == "crl" && wall >= half(file));
        let now: HashSet<_> = expiring.map(|file| (file.path, file.until)).collect();
        let due = now.difference(&self.0).cloned().collect();
        self.0 = now;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_crl_expiry_is_told_past_half_of_its_life_once_for_each_file_and_end() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let file =
            |kind, until: &str| FileExpiry { kind, path: "acme.crl".into(), since: at("2026-06-01T00:00:00Z"), until: at(until) };
        let files = || vec![file("crl", "2026-07-01T00:00:00Z"), file("certificate", "2026-06-02T00:00:00Z")];
        let mut told = Told::default();
        assert_eq!(told.due(files(), at("2026-06-15T23:59:59Z")), []);
        assert_eq!(told.due(files(), at("2026-06-16T00:00:00Z")), [("acme.crl".into(), at("2026-07-01T00:00:00Z"))]);
        assert_eq!(told.due(files(), at("2026-06-20T00:00:00Z")), [], "told already");
        let renewed = || vec![file("crl", "2026-07-31T00:00:00Z")];
        assert_eq!(told.due(renewed(), at("2026-06-20T00:00:00Z")), []);
        assert_eq!(told.due(renewed(), at("2026-07-02T00:00:00Z")).len(), 1);
    }
}
