//! `status`: whatever the gateway tells of itself, in sections.

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::client::Gateway;
use super::{Outcome, output};
use crate::admin::times;

/// What people look for first, in lists too; the rest follows as the gateway sent it.
const FIRST: &[&str] = &[
    "id",
    "version",
    "ready",
    "generation",
    "config",
    "uptime_seconds",
    "started",
    "policy",
    "kind",
    "path",
    "upstream",
    "server",
    "healthy",
    "until",
];

pub(super) fn status(gateway: &Gateway, format: output::Format) -> Outcome {
    let status: Value = gateway.get("/status")?;
    if format.json {
        output::json(&status)?;
    } else {
        output::data(&sections(&status))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plain values first, one a line; then a section for each list or table of values. New things that a gateway tells are
/// shown without the command knowing them.
fn sections(status: &Value) -> String {
    let Value::Object(status) = status else { return text(status) };
    let (plain, nested): (Vec<_>, Vec<_>) =
        ordered(status).into_iter().partition(|(_, value)| !value.is_object() && !is_list(value));
    let mut shown = lines(&plain);
    for (name, value) in nested {
        shown.push_str(&format!("\n{}\n", label(name)));
        let section = match value {
            Value::Array(rows) => rows_of(rows),
            Value::Object(fields) => lines(&ordered(fields)),
            other => text(other),
        };
        shown.extend(section.lines().map(|line| format!("  {line}\n")));
    }
    shown
}

fn ordered(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    fields
}

fn lines(fields: &[(&String, &Value)]) -> String {
    let width = fields.iter().map(|(name, _)| label(name).len()).max().unwrap_or_default();
    fields.iter().map(|(name, value)| format!("{:width$}  {}\n", label(name), shown(name, value))).collect()
}

/// A table of entries that have fields, without fields that are empty in all; a list of plain values is one value a line.
fn rows_of(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "none".to_owned();
    }
    let entries: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
    if entries.len() < rows.len() {
        return rows.iter().map(text).collect::<Vec<_>>().join("\n");
    }
    let mut told = Map::new();
    for entry in &entries {
        told.extend(entry.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())));
    }
    let names: Vec<&String> = ordered(&told).into_iter().map(|(name, _)| name).collect();
    let row =
        |entry: &&Map<String, Value>| names.iter().map(|name| shown(name, entry.get(*name).unwrap_or(&Value::Null))).collect();
    output::columns(names.iter().map(|name| label(name).to_uppercase()).collect(), entries.iter().map(row))
}

fn shown(name: &str, value: &Value) -> String {
    if name.ends_with("_seconds")
        && let Some(seconds) = value.as_u64()
    {
        return times::human(Duration::from_secs(seconds));
    }
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(at) => output::moment(at),
        None => text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => output::printable(text),
        Value::Null => "-".to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn label(name: &str) -> String {
    let words = name.trim_end_matches("_seconds").replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn is_list(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| rows.is_empty() || rows.iter().any(Value::is_object) || rows.len() > 3)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_shown_in_sections() {
        let status = json!({
            "tables": { "bans": 3, "guesses": 0 },
            "generation": 4,
            "uptime_seconds": 90_000,
            "upstreams": [{ "upstream": "portal", "server": "http://127.0.0.1:9000", "healthy": true, "last_error": null }],
            "certificates": [],
            "files": [
                { "days_left": -2, "kind": "crl", "path": "certs/acme-ca.crl", "until": "2026-11-20T00:00:00Z" },
                { "days_left": 89, "kind": "certificate", "path": "certs/portal.crt", "until": "2099-02-20T00:00:00Z" },
            ],
            "names": ["a", "b", "c", "d\u{1b}"],
        });
        let shown = sections(&status);
        assert!(shown.starts_with("Generation  4\nUptime      1d 1h\n"), "{shown}");
        assert!(shown.contains("\nTables\n  Bans     3\n"), "{shown}");
        assert!(shown.contains("\nUpstreams\n  UPSTREAM  SERVER                 HEALTHY\n"), "{shown}");
        assert!(shown.contains("\n  portal    http://127.0.0.1:9000  true\n"), "{shown}");
        let files: Vec<&str> = shown.split("\nFiles\n").nth(1).unwrap().lines().take(3).collect();
        assert_eq!(files[0].split_whitespace().collect::<Vec<_>>(), ["KIND", "PATH", "UNTIL", "DAYS", "LEFT"]);
        for (file, until) in files[1..].iter().zip(["2026-11-20T00:00:00Z (", "2099-02-20T00:00:00Z (in "]) {
            assert_eq!(file.find(until), files[0].find("UNTIL"), "{shown}");
        }
        assert!(files[1].ends_with(" -2") && files[2].ends_with(" 89"), "{shown}");
        assert!(shown.contains("\nNames\n  a\n  b\n  c\n  d\\u{1b}\n"), "{shown}");
        assert!(shown.contains("\nCertificates\n  none\n"), "{shown}");
        assert!(!shown.contains("LAST ERROR"), "empty in all: {shown}");
    }
}
